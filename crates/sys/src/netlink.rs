//! Netlink sockets, opened the way all of minke's requests want them (netlink(7)).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, bind, socket_with};

/// Which part of the kernel a netlink socket talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Links, addresses, routes (rtnetlink(7)).
    Route,
    /// nftables and connection tracking (nfnetlink).
    Netfilter,
}

/// Opens a netlink socket in the calling thread's network namespace, where it stays.
///
/// Errors come back with the kernel's own words and without a copy of the request, dumps honour the
/// filter of their header, and reads do not block. `groups` is the mask of multicast groups to
/// join; a socket of requests joins none.
pub fn open(family: Family, groups: u32) -> io::Result<OwnedFd> {
    let protocol: Option<Protocol> = match family {
        Family::Route => None,
        Family::Netfilter => Some(netlink::NETFILTER),
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
    bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK, libc::NETLINK_GET_STRICT_CHK] {
        enable(socket.as_fd(), option)?;
    }
    Ok(socket)
}

/// Turns on one of the options of level `SOL_NETLINK`, which all take an int.
#[expect(unsafe_code, reason = "rustix has no options of level SOL_NETLINK")]
fn enable(socket: BorrowedFd<'_>, option: libc::c_int) -> io::Result<()> {
    let one: libc::c_int = 1;
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel reads `len` bytes from `one`, which lives on this frame and has that size.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_NETLINK,
            option,
            (&raw const one).cast::<libc::c_void>(),
            len,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
