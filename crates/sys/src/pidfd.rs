//! Signals by process descriptor, real-time ones included.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Sends signal `number` to the process behind `pidfd` (pidfd_send_signal(2)).
///
/// # Errors
/// The errno of the call: `ESRCH` where the process has ended.
pub fn send_signal(pidfd: impl AsFd, number: i32) -> io::Result<()> {
    let pidfd = pidfd.as_fd();
    // SAFETY: the descriptor is open through the borrow; the third argument may be null, and the
    // kernel then fills the signal's information itself.
    #[expect(unsafe_code, reason = "rustix takes the named signals alone")]
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            number,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
