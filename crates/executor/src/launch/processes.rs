//! A procfs of a PID namespace that its maker does not live in.
//!
//! Since Linux 6.17 the kernel takes the namespace as a parameter. Before, a procfs shows the
//! namespace that fsopen(2) was called in, and there may live a hostile container with
//! CAP_SYS_PTRACE, to whom any process is an open book: one with the privilege to mount would lend
//! it to him. So the one that goes there has none:
//!
//! ```text
//!   caller     host's user ns               asks, and later makes the mount of what it gets
//!   envoy      host's user ns               closes everything, moves into an empty root, enters the
//!                                           PID namespace for its child
//!   exile      user and mount ns of its     calls fsopen, hands the context over, ends: with an
//!              own, the PID namespace       empty root, one socket and no memory
//! ```
//!
//! The context remembers the PID namespace; whether it may be mounted is asked of whoever completes
//! it, which is the caller.

use std::ffi::{c_int, c_void};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};

use rustix::fs::CWD;
use rustix::io::{self, Errno};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    fsconfig_create, fsconfig_set_fd, fsmount, fsopen, move_mount,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{WaitId, WaitIdOptions, waitid};
use rustix::thread::ThreadNameSpaceType;
use sys::clone::{Birth, Kin, clone, clone_onto};
use sys::fork::close_all_but;
use sys::memory::{Region, Spans};
use sys::mount::{MountChange, mount_setattr};
use sys::namespace::{enter, pid_namespace, unshare};

use super::descriptors::{FIRST, Kept, numbered};
use super::memory::withhold;
use super::path::{change_root, own_root};
use super::report;

/// Enough for the calls below [`exile`], in unoptimised builds too.
const STACK: usize = 64 * 1024;

/// A context of a procfs that shows `namespace`, which is a namespace file or a pidfd.
///
/// # Errors
/// What the calls say; `EPIPE` where an older kernel does not let the exile have one.
pub(super) fn procfs_of(namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let context = fsopen(c"proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let set = match pid_namespace(namespace) {
        Ok(of_pidfd) => fsconfig_set_fd(&context, c"pidns", &of_pidfd),
        Err(_) => fsconfig_set_fd(&context, c"pidns", namespace),
    };
    match set {
        Ok(()) => Ok(context),
        // The kernel does not know the parameter, or not what a pidfd has to do with it.
        Err(Errno::INVAL) => from_within(namespace),
        Err(errno) => Err(errno),
    }
}

fn from_within(namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let body = || u8::from(envoy(namespace, &theirs).is_err());
    // SAFETY: the process that was cloned from the keeper has one thread, as the keeper has.
    #[expect(unsafe_code, reason = "the child goes on with a copy of the heap")]
    let envoy = unsafe { clone(Birth::default(), body) }?;
    drop(theirs);
    let received = report::receive_file(ours.as_fd());
    let pidfd = WaitId::PidFd(envoy.pidfd.as_fd());
    io::retry_on_intr(|| waitid(pidfd.clone(), WaitIdOptions::EXITED))?;
    received?.1.ok_or(Errno::BADF)
}

fn envoy(namespace: BorrowedFd<'_>, socket: &OwnedFd) -> io::Result<()> {
    unshare(ThreadNameSpaceType::MOUNT)?;
    enter(namespace, ThreadNameSpaceType::PROCESS_ID)?;
    let stack = Region::new(STACK)?;
    withhold(&Spans::all_but(&stack))?;
    enter_empty_root()?;
    let sent = send_exile(&stack, socket);
    // Not to return: descriptors have been closed under their owners.
    sys::clone::exit(u8::from(sent.is_err()))
}

fn send_exile(stack: &Region, socket: &OwnedFd) -> io::Result<()> {
    close_all_but(&[socket.as_fd()]);
    Kept::only(socket.as_fd()).close_others()?;
    let top = stack.start().as_ptr().wrapping_byte_add(stack.length());
    let top = NonNull::new(top).ok_or(Errno::NOMEM)?;
    // SAFETY: the mapping is used for nothing but this stack, and `exile` takes no argument.
    #[expect(unsafe_code, reason = "the process runs on a stack of its own")]
    let exile = unsafe { clone_onto(Kin::Exile, top, exile, ptr::null_mut(), 0) }?;
    waitid(WaitId::Pid(exile), WaitIdOptions::EXITED).map(drop)
}

/// Uses no heap.
extern "C" fn exile(_: *mut c_void) -> c_int {
    let sent = fsopen(c"proc", FsOpenFlags::FSOPEN_CLOEXEC)
        .and_then(|context| report::send_file(numbered(FIRST), b'P', context.as_fd()));
    c_int::from(sent.is_err())
}

fn enter_empty_root() -> io::Result<()> {
    let private = MountPropagationFlags::PRIVATE;
    let private = MountChange { propagation: Some(private), ..MountChange::default() };
    let old = own_root()?;
    mount_setattr(&old, true, &private)?;
    let context = fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let read_only = MountAttrFlags::MOUNT_ATTR_RDONLY;
    let empty = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, read_only)?;
    move_mount(&empty, c"", CWD, c"/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    change_root(empty.as_fd())
}
