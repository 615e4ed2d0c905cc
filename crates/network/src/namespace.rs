//! A pod's network namespace: bound to a path, and reached through a socket opened inside.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::thread;

use rustix::io::Errno;
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use sys::netlink::Family;

use crate::error::{Error, Result};

/// The thread below needs next to nothing.
const STACK: usize = 128 << 10;

/// Makes a namespace reachable at a path, and keeps it alive until `unbind`.
pub(crate) fn bind(netns: BorrowedFd<'_>, path: &Path) -> Result<()> {
    let failed = |action| move |source| Error::File { action, path: path.to_owned(), source };
    let create = || OpenOptions::new().write(true).create_new(true).open(path);
    let made: io::Result<File> = match create() {
        // Left by an attempt that was cut off: the path is this pod's alone.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            unbind(path)?;
            create()
        }
        made => made,
    };
    drop(made.map_err(failed("create"))?);
    let source = format!("/proc/self/fd/{}", netns.as_raw_fd());
    mount_bind(source, path).map_err(|errno| failed("bind a network namespace to")(errno.into()))
}

/// Takes the namespace from its path, whose file goes too; there may be nothing. Copies of the
/// mount in other mount namespaces go with the file.
pub(crate) fn unbind(path: &Path) -> Result<()> {
    let failed = |action, source| Error::File { action, path: path.to_owned(), source };
    match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        // EINVAL: it is no mount point.
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
        Err(errno) => return Err(failed("unmount", errno.into())),
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", error)),
        _ => Ok(()),
    }
}

/// Opens a socket for requests inside the namespace. A thread goes there and ends, so that no
/// thread that does other work is ever left in a pod. While there it also tells interfaces to come
/// that other pods' router advertisements are not to be believed.
pub(crate) fn socket(netns: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let inside = || {
        move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
        match fs::write("/proc/sys/net/ipv6/conf/default/accept_ra", "0") {
            // A kernel without IPv6.
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        sys::netlink::open(Family::Route, 0)
    };
    thread::scope(|scope| {
        let entered = thread::Builder::new().stack_size(STACK).spawn_scoped(scope, inside)?;
        entered.join().unwrap_or_else(|_| Err(io::Error::other("the thread inside panicked")))
    })
}
