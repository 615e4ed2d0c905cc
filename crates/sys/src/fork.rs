//! A process of one thread makes another: what is safe about [`crate::clone`] then, and what such a
//! child does next.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::{self, Errno};
use rustix::process::{Pid, Signal};
use rustix::thread::ThreadNameSpaceType;

use crate::clone::{self, Birth};

/// A process that has just been made.
#[derive(Debug)]
pub struct Child {
    /// Its id in the caller's PID namespace.
    pub pid: Pid,
    /// Means this process and never a later one of the same number.
    pub pidfd: OwnedFd,
}

/// Makes a child in new namespaces of the kinds given, which runs `body` and exits with the code
/// that it returns (101 where it panics). The child has copies of everything; what `body` owns, the
/// caller drops. Its end is announced by SIGCHLD.
///
/// # Errors
/// `EINVAL` where the caller has more than one thread: the heap and every lock of the child would
/// be in the state in which another thread held them. Otherwise what clone3(2) says.
pub fn fork(namespaces: ThreadNameSpaceType, body: impl FnOnce() -> u8) -> io::Result<Child> {
    start(Birth { namespaces, ..Birth::default() }, body)
}

/// Like [`fork`], but the new process is a child of the caller's parent, which hears of its end as
/// it would hear of the caller's.
///
/// # Errors
/// Those of [`fork`].
pub fn fork_sibling(
    namespaces: ThreadNameSpaceType,
    body: impl FnOnce() -> u8,
) -> io::Result<Child> {
    start(Birth { namespaces, sibling: true, ..Birth::default() }, body)
}

fn start(birth: Birth<'_>, body: impl FnOnce() -> u8) -> io::Result<Child> {
    require_one_thread()?;
    // SAFETY: the process has one thread, as was just asked.
    #[expect(unsafe_code, reason = "the child goes on with a copy of the heap")]
    unsafe {
        clone::clone(birth, body)
    }
}

fn require_one_thread() -> io::Result<()> {
    // SAFETY: in a process of one thread unsharing the thread group changes nothing, and in any
    // other the kernel refuses it, which is what is asked here.
    #[expect(unsafe_code, reason = "rustix does not know the flag")]
    let result = unsafe { libc::unshare(libc::CLONE_THREAD) };
    clone::check(result.into())
}

/// Closes every descriptor of this process but those given, whoever else in it believes to own them:
/// for a child of [`fork`] that does one thing until it exits. Those given keep their numbers.
pub fn close_all_but(kept: &[BorrowedFd<'_>]) {
    let mut kept: Vec<u32> = kept.iter().map(|fd| fd.as_raw_fd().unsigned_abs()).collect();
    kept.sort_unstable();
    let mut first = 0;
    for fd in kept {
        if fd > first {
            close_range(first, fd - 1);
        }
        first = fd + 1;
    }
    close_range(first, u32::MAX);
}

fn close_range(first: u32, last: u32) {
    // SAFETY: the caller ends by _exit(2) or execve(2), so that no destructor closes a number
    // again that means something else by then. The range is not empty, which is the one error.
    #[expect(unsafe_code, reason = "it closes descriptors that have owners")]
    unsafe {
        libc::syscall(libc::SYS_close_range, first, last, 0);
    }
}

/// A copy, close-on-exec, of a descriptor that this process was started with and that is known by
/// its number alone.
///
/// # Errors
/// `EBADF` where there is none of that number.
pub fn inherited(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes integers, and copies whatever the number means.
    #[expect(unsafe_code, reason = "the descriptor is known by its number")]
    let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    clone::check(copy.into())?;
    // SAFETY: the kernel has just returned this number as a new descriptor of ours.
    #[expect(unsafe_code, reason = "a new descriptor gets its owner")]
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Ignores a signal. An ignored SIGCHLD lets the kernel reap children by itself.
pub fn ignore_signal(signal: Signal) {
    set_disposition(signal, libc::SIG_IGN);
}

/// Gives a signal back its default effect.
pub fn default_signal(signal: Signal) {
    set_disposition(signal, libc::SIG_DFL);
}

fn set_disposition(signal: Signal, disposition: libc::sighandler_t) {
    // SAFETY: neither disposition runs code of ours. It fails only for signals that cannot have
    // one, where there is nothing to do.
    #[expect(unsafe_code, reason = "rustix leaves dispositions to the C library")]
    unsafe {
        libc::signal(signal.as_raw(), disposition);
    }
}

/// Replaces the calling process by an open executable, with `name` as its one argument and an empty
/// environment. Returns only on failure.
pub fn execute_alone(file: BorrowedFd<'_>, name: &CStr) -> Errno {
    let arguments = [name.as_ptr(), std::ptr::null()];
    let environment = [std::ptr::null()];
    // SAFETY: both arrays end with a null pointer, and `name` with a zero byte; all live on.
    #[expect(unsafe_code, reason = "execve(2) takes arrays of pointers")]
    unsafe {
        clone::execute_file(file, arguments.as_ptr(), environment.as_ptr())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_several_threads_is_not_forked() {
        // The test harness runs every test in a thread beside the main one.
        let refused = fork(ThreadNameSpaceType::empty(), || 0);
        assert_eq!(refused.unwrap_err(), Errno::INVAL);
    }
}
