//! Signals as a descriptor that can be polled (signalfd(2)), for a process of one thread.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::{self, Errno};

use crate::clone::check;

/// Signals that are kept from having their effect and are read here instead. They stay blocked when
/// it is dropped: it is meant to live as long as the process.
#[derive(Debug)]
pub struct Signals(OwnedFd);

impl Signals {
    /// Takes every signal but those of faults, SIGKILL, SIGSTOP, and what tells of background work
    /// on a terminal. What is ignored (SIGPIPE in a Rust program) stays ignored.
    ///
    /// # Errors
    /// What signalfd4(2) says.
    #[expect(unsafe_code, reason = "signal sets are filled in by the C library")]
    pub fn take() -> io::Result<Self> {
        let left = [
            libc::SIGBUS,
            libc::SIGFPE,
            libc::SIGILL,
            libc::SIGSEGV,
            libc::SIGTRAP,
            libc::SIGSYS,
            libc::SIGTTIN,
            libc::SIGTTOU,
            libc::SIGTSTP,
        ];
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: the call fills the whole set in.
        unsafe { libc::sigfillset(set.as_mut_ptr()) };
        // SAFETY: it was just filled in.
        let mut set = unsafe { set.assume_init() };
        for number in left {
            // SAFETY: `set` is a signal set, and the number a signal's.
            unsafe { libc::sigdelset(&raw mut set, number) };
        }
        // SAFETY: `set` is a signal set that lives over the call; the old mask is not asked for.
        unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
        // SAFETY: as above; -1 asks for a new descriptor.
        let fd =
            unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        check(fd.into())?;
        // SAFETY: the kernel has just returned this number as a new descriptor of ours.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The number of the next signal that has come; none where none has.
    ///
    /// # Errors
    /// What read(2) says.
    pub fn next(&self) -> io::Result<Option<i32>> {
        // struct signalfd_siginfo begins with the number.
        let mut bytes = [0; size_of::<libc::signalfd_siginfo>()];
        match io::retry_on_intr(|| io::read(&self.0, &mut bytes)) {
            Ok(_) => {
                let number = [bytes[0], bytes[1], bytes[2], bytes[3]];
                Ok(Some(i32::from_ne_bytes(number)))
            }
            Err(Errno::AGAIN) => Ok(None),
            Err(errno) => Err(errno),
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
