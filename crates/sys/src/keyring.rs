//! The session keyring (keyctl(2)).

use rustix::io;

use crate::clone::check;

const JOIN_SESSION_KEYRING: libc::c_int = 1;

/// Gives the process a new session keyring, in place of the one that its parent shares with others.
///
/// # Errors
/// `ENOSYS` on a kernel without keys, `EDQUOT` where the user has too many.
#[expect(unsafe_code, reason = "rustix has no keyctl(2)")]
pub fn join_new_session() -> io::Result<()> {
    // SAFETY: a null name asks for a keyring without one; no memory is touched.
    check(unsafe {
        libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>())
    })
}
