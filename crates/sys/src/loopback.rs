//! The loopback link of a network namespace (netdevice(7)).

use std::os::fd::AsRawFd;

use rustix::io;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::clone::check;

/// Brings `lo` up in the calling thread's network namespace.
///
/// # Errors
/// What socket(2) and the ioctl say: `EPERM` without power over the namespace.
#[expect(unsafe_code, reason = "rustix does not know the ioctl")]
pub fn bring_up() -> io::Result<()> {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
    // SAFETY: the struct has integers and a union of such, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the ioctl reads a struct ifreq, which lives over the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    check(result.into())
}
