//! Connecting to a port inside the pod.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::{self, Errno};
use rustix::net::sockopt::socket_error;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};

use crate::process::connection::Asker;
use crate::process::poller::{Kind, Poller, Token};

/// How long a connect(2) to one address may take: nothing is nearer than the loopback.
const PATIENCE: Duration = Duration::from_secs(5);

/// A connection that is being made: to 127.0.0.1, and if that fails to ::1.
#[derive(Debug)]
pub(crate) struct Dial {
    /// Whom to answer.
    pub(crate) asker: Asker,
    serial: u32,
    socket: OwnedFd,
    /// What is tried if this fails.
    next: Option<SocketAddr>,
    /// What IPv4 said. People look for that: an IPv6 that is off says other things.
    failed: Option<Errno>,
    deadline: Instant,
}

/// How far a connection is.
pub(crate) enum Progress {
    Connected(OwnedFd),
    Waiting(Dial),
    Failed(Errno),
}

impl Dial {
    /// Begins to connect; the poller tells when there is more to say.
    pub(crate) fn start(asker: Asker, serial: u32, port: u16, poller: &Poller) -> Progress {
        let first = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let second = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
        match attempt(first, serial, poller) {
            Ok((socket, true)) => Progress::Connected(socket),
            Ok((socket, false)) => {
                let deadline = Instant::now() + PATIENCE;
                let next = Some(second);
                Progress::Waiting(Self { asker, serial, socket, next, failed: None, deadline })
            }
            Err(errno) => go_on(asker, serial, second, errno, poller),
        }
    }

    /// The kernel has an answer.
    pub(crate) fn on_ready(self, poller: &Poller) -> Progress {
        poller.ignore(&self.socket);
        match socket_error(&self.socket) {
            Ok(Ok(())) => Progress::Connected(self.socket),
            Ok(Err(errno)) | Err(errno) => self.fail(errno, poller),
        }
    }

    /// The kernel has no answer, for too long.
    pub(crate) fn on_timeout(self, poller: &Poller) -> Progress {
        poller.ignore(&self.socket);
        self.fail(Errno::TIMEDOUT, poller)
    }

    fn fail(self, errno: Errno, poller: &Poller) -> Progress {
        match self.next {
            Some(next) => go_on(self.asker, self.serial, next, errno, poller),
            None => Progress::Failed(self.failed.unwrap_or(errno)),
        }
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Gives it up.
    pub(crate) fn abandon(self, poller: &Poller) {
        poller.ignore(&self.socket);
    }
}

/// Tries the second address after the first has failed.
fn go_on(
    asker: Asker,
    serial: u32,
    address: SocketAddr,
    failed: Errno,
    poller: &Poller,
) -> Progress {
    match attempt(address, serial, poller) {
        Ok((socket, true)) => Progress::Connected(socket),
        Ok((socket, false)) => {
            let deadline = Instant::now() + PATIENCE;
            let (next, failed) = (None, Some(failed));
            Progress::Waiting(Dial { asker, serial, socket, next, failed, deadline })
        }
        Err(_) => Progress::Failed(failed),
    }
}

/// Begins to connect; true where that is done at once.
fn attempt(address: SocketAddr, serial: u32, poller: &Poller) -> io::Result<(OwnedFd, bool)> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    match connect(&socket, &address) {
        Ok(()) => Ok((socket, true)),
        Err(Errno::INPROGRESS) => {
            poller.writable(&socket, Token::new(Kind::Dial, serial))?;
            Ok((socket, false))
        }
        Err(errno) => Err(errno),
    }
}
