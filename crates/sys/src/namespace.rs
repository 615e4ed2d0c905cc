//! Namespaces by descriptor: entering several at once, making some, finding one (setns(2)).

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io;
use rustix::thread::{ThreadNameSpaceType, UnshareFlags};

use crate::clone::check;

/// Moves the calling thread into namespaces of the kinds given: those of the process that a pidfd
/// means, or the one that a namespace file is.
///
/// # Errors
/// What setns(2) says.
#[expect(unsafe_code, reason = "rustix's setns takes links and pidfds by different names")]
pub fn enter(namespace: BorrowedFd<'_>, kinds: ThreadNameSpaceType) -> io::Result<()> {
    // SAFETY: the call takes two integers, one of them a borrowed descriptor.
    check(unsafe { libc::syscall(libc::SYS_setns, namespace.as_raw_fd(), kinds.bits()) })
}

/// Moves the calling thread into new namespaces of the kinds given.
///
/// # Errors
/// What unshare(2) says.
#[expect(unsafe_code, reason = "unshare(2) can split threads that share descriptors")]
pub fn unshare(kinds: ThreadNameSpaceType) -> io::Result<()> {
    // SAFETY: the bits are namespace bits, which leave descriptors and memory alone.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::from_bits_retain(kinds.bits())) }
}

/// The PID namespace of a pidfd's process, as a namespace file (Linux 6.11).
///
/// # Errors
/// `ENOTTY` where the descriptor is no pidfd, or the kernel is older.
#[expect(unsafe_code, reason = "rustix does not know the ioctl")]
pub fn pid_namespace(pidfd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const PIDFD_GET_PID_NAMESPACE: libc::c_ulong = 0xff05;
    // SAFETY: the ioctl takes no argument.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_PID_NAMESPACE as _, 0) };
    check(result.into())?;
    // SAFETY: the kernel has just returned this number as a new descriptor of ours.
    Ok(unsafe { OwnedFd::from_raw_fd(result) })
}

/// The user namespace that owns a namespace (ioctl_ns(2)).
///
/// # Errors
/// `EPERM` where it lies outside of the caller's own; `ENOTTY` for what is no namespace.
#[expect(unsafe_code, reason = "rustix does not know the ioctl")]
pub fn owner(namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const NS_GET_USERNS: libc::c_ulong = 0xb701;
    // SAFETY: the ioctl takes no argument.
    let result = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_USERNS as _, 0) };
    check(result.into())?;
    // SAFETY: the kernel has just returned this number as a new descriptor of ours.
    Ok(unsafe { OwnedFd::from_raw_fd(result) })
}
