//! A pod's network namespace: bound to a path, and reached through sockets opened inside.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::net::RecvFlags;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use sys::netlink::Family;
use sys::sysctl::Parameters;

use crate::error::{Error, Result};
use crate::netlink;

/// The thread below needs next to nothing.
const STACK: usize = 128 << 10;

const RTMGRP_IPV6_IFADDR: u32 = 0x100;
const RTM_NEWADDR: u16 = 20;
const RT_SCOPE_UNIVERSE: u8 = 0;

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

/// Sockets inside a namespace.
#[derive(Debug)]
pub(crate) struct Sockets {
    /// Takes requests.
    pub(crate) requests: OwnedFd,
    /// Hears of the pod's IPv6 address, if it gets one.
    pub(crate) addresses: Option<Addresses>,
}

/// A socket that hears of new IPv6 addresses.
#[derive(Debug)]
pub(crate) struct Addresses(OwnedFd);

/// Opens sockets inside the namespace, those that IPv6 wants too if the pod is to have it. While
/// there, interfaces to come are told that other pods' router advertisements are not to be believed.
pub(crate) fn sockets(visitor: &Visitor, netns: BorrowedFd<'_>, ipv6: bool) -> io::Result<Sockets> {
    visitor.inside(netns, move |parameters| {
        match parameters.write("net/ipv6/conf/default/accept_ra", "0") {
            // A kernel without IPv6.
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
        let listen = || sys::netlink::open(Family::Route, RTMGRP_IPV6_IFADDR);
        Ok(Sockets {
            requests: sys::netlink::open(Family::Route, 0)?,
            addresses: ipv6.then(listen).transpose()?.map(Addresses),
        })
    })
}

impl Addresses {
    /// Waits until the interface answers to its IPv6 address. The kernel joins the group in which
    /// neighbours look for it in the background; who asks before has to ask again, a second later.
    pub(crate) fn wait_for(&self, interface: u32, patience: Duration) -> io::Result<()> {
        let deadline = Instant::now() + patience;
        let mut buffer = [0; 4096];
        loop {
            match rustix::net::recv(&self.0, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((len, _)) if is_announced(&buffer[..len], interface) => return Ok(()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
                    let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
                    if left.is_zero() || poll(&mut fds, Some(&timeout))? == 0 {
                        return Ok(());
                    }
                }
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// Whether the kernel says that an address of global scope is in use on an interface.
fn is_announced(datagram: &[u8], interface: u32) -> bool {
    netlink::messages(datagram).any(|(header, body)| {
        header.kind == RTM_NEWADDR
            && body.get(3) == Some(&RT_SCOPE_UNIVERSE)
            && netlink::u32_at(body, 4) == Some(interface)
    })
}

/// Whether TCP connections of the namespace bound to this path are still in use. Those of dead
/// processes are until the other side has all that was sent. When in doubt they are.
pub(crate) fn is_sending(visitor: &Visitor, path: &Path) -> bool {
    let counted = File::open(path).and_then(|netns| {
        visitor.inside(netns.as_fd(), |_| {
            let counters = ["/proc/thread-self/net/sockstat", "/proc/thread-self/net/sockstat6"];
            Ok(counters.iter().any(|path| {
                // There is no second one without IPv6.
                fs::read_to_string(path).is_ok_and(|text| has_tcp(&text))
            }))
        })
    });
    match counted {
        Err(error) => error.kind() != io::ErrorKind::NotFound,
        Ok(sending) => sending,
    }
}

/// Reads `TCP: inuse 3 orphan 1 ...`, `TCP6: inuse 3`.
fn has_tcp(counters: &str) -> bool {
    counters.lines().any(|line| {
        let mut words = line.split_whitespace();
        matches!(words.next(), Some("TCP:" | "TCP6:"))
            && words.next() == Some("inuse")
            && words.next() != Some("0")
    })
}

type Visit = Box<dyn FnOnce(&Parameters) + Send>;

/// The one thread that goes into pods' namespaces: no thread that does other work is ever left
/// there. It stays for the next time, because a new one would have to wait for its turn on a busy
/// machine; where it could not come home it ends, and the next visit starts another.
#[derive(Debug, Default)]
pub(crate) struct Visitor(Mutex<Option<mpsc::Sender<Visit>>>);

impl Visitor {
    /// Does something inside the namespace.
    fn inside<T: Send + 'static>(
        &self,
        netns: BorrowedFd<'_>,
        work: impl FnOnce(&Parameters) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let netns = netns.try_clone_to_owned()?;
        let (tell, told) = mpsc::sync_channel(1);
        self.send(Box::new(move |parameters| {
            let kind = Some(LinkNameSpaceType::Network);
            let entered = move_into_link_name_space(netns.as_fd(), kind);
            let done = entered.map_err(io::Error::from).and_then(|()| work(parameters));
            // Nobody waits any more where telling fails.
            let _ = tell.send(done);
        }))?;
        told.recv().unwrap_or_else(|_| Err(io::Error::other("the thread inside panicked")))
    }

    fn send(&self, visit: Visit) -> io::Result<()> {
        let mut sender = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let visit = match &*sender {
            None => visit,
            Some(sender) => match sender.send(visit) {
                Ok(()) => return Ok(()),
                Err(mpsc::SendError(visit)) => visit,
            },
        };
        let started = start()?;
        // It has just been started, and waits.
        let _ = started.send(visit);
        *sender = Some(started);
        Ok(())
    }
}

/// Starts a thread whose home is the caller's namespace. It ends with the sender.
fn start() -> io::Result<mpsc::Sender<Visit>> {
    let home = File::open("/proc/thread-self/ns/net")?;
    let mut parameters = Parameters::open()?;
    let (sender, receiver) = mpsc::channel::<Visit>();
    thread::Builder::new().name("namespaces".to_owned()).stack_size(STACK).spawn(move || {
        while let Ok(visit) = receiver.recv() {
            visit(&parameters);
            if move_into_link_name_space(home.as_fd(), Some(LinkNameSpaceType::Network)).is_err() {
                return;
            }
            parameters.renew();
        }
    })?;
    Ok(sender)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcp_connections_are_read_from_the_counters() {
        assert!(has_tcp("sockets: used 9\nTCP: inuse 2 orphan 0 tw 0 alloc 2 mem 1\n"));
        assert!(!has_tcp("TCP: inuse 0 orphan 7 tw 3 alloc 9 mem 1\nUDP: inuse 4 mem 0\n"));
        assert!(has_tcp("TCP6: inuse 1\nUDP6: inuse 0\n"));
    }
}
