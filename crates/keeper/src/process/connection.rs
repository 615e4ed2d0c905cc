//! The daemon's connection, seen from the keeper.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::{self, Errno};
use rustix::net::sockopt::socket_peercred;
use rustix::net::{RecvFlags, recv};

use crate::process::poller::{Kind, Poller, Token};
use crate::protocol::{Answer, Event, Refusal, Reply};
use crate::wire::{self, Assembler, PACKET_MAX, Packet, Received};

/// How many packets wait for a daemon that does not read before it is given up.
const QUEUE_MAX: usize = 4096;

/// Who waits for an answer: a request, and the connection on which it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asker {
    pub(crate) connection: u32,
    pub(crate) request: u64,
}

/// One daemon's connection.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: OwnedFd,
    token: Token,
    assembler: Assembler,
    outgoing: VecDeque<Packet>,
    /// The poller tells when the socket takes more.
    stuck: bool,
    /// Agreed on by Hello; none before.
    version: Option<u32>,
    broken: bool,
}

impl Connection {
    /// Takes a connected socket, if root is at its other end.
    pub(crate) fn new(socket: OwnedFd, serial: u32, poller: &Poller) -> io::Result<Self> {
        if !socket_peercred(&socket)?.uid.is_root() {
            return Err(Errno::ACCESS);
        }
        io::ioctl_fionbio(&socket, true)?;
        let token = Token::new(Kind::Connection, serial);
        poller.readable(&socket, token)?;
        let (assembler, outgoing) = (Assembler::default(), VecDeque::new());
        Ok(Self { socket, token, assembler, outgoing, stuck: false, version: None, broken: false })
    }

    pub(crate) fn serial(&self) -> u32 {
        self.token.owner
    }

    pub(crate) fn version(&self) -> Option<u32> {
        self.version
    }

    pub(crate) fn agree(&mut self, version: u32) {
        self.version = Some(version);
    }

    /// Whether nothing can come or go any more.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Whether nothing waits to be sent.
    pub(crate) fn is_quiet(&self) -> bool {
        self.broken || self.outgoing.is_empty()
    }

    /// The next message; none where there is none now.
    pub(crate) fn receive(&mut self) -> Option<Received> {
        let received = self.waiting().and_then(|length| {
            let mut buffer = vec![0; length.min(PACKET_MAX)];
            self.assembler.receive(self.socket.as_fd(), &mut buffer)
        });
        match received {
            Err(Errno::AGAIN) => None,
            Ok(Received::End) | Err(_) => {
                self.broken = true;
                None
            }
            Ok(received) => Some(received),
        }
    }

    /// The length of all messages that wait: most are short, and a buffer for the longest that may
    /// come would cost a mapping for each.
    fn waiting(&self) -> io::Result<usize> {
        loop {
            let length = io::ioctl_fionread(&self.socket)?;
            if length > 0 {
                return Ok(length as usize);
            }
            // Nothing, or the end, or something by now.
            let (_, length) = recv(&self.socket, &mut [0_u8; 1], RecvFlags::PEEK)?;
            if length == 0 {
                return Err(Errno::PIPE);
            }
        }
    }

    pub(crate) fn reply(
        &mut self,
        id: u64,
        result: Result<Reply, Refusal>,
        fds: Vec<OwnedFd>,
        poller: &Poller,
    ) {
        self.answer(&Answer::Reply { id, result }, fds, poller);
    }

    /// Tells something unasked, once Hello has been said.
    pub(crate) fn tell(&mut self, event: Event, poller: &Poller) {
        if self.version.is_some() {
            self.answer(&Answer::Event(event), Vec::new(), poller);
        }
    }

    fn answer(&mut self, answer: &Answer<Reply>, fds: Vec<OwnedFd>, poller: &Poller) {
        let packets = serde_json::to_vec(answer)
            .map_err(|_| Errno::INVAL)
            .and_then(|body| wire::packets(&body, fds));
        match packets {
            Ok(packets) if self.outgoing.len() + packets.len() <= QUEUE_MAX => {
                self.outgoing.extend(packets);
                self.flush(poller);
            }
            // The daemon would wait for ever: let it connect again and ask what happened.
            _ => self.broken = true,
        }
    }

    /// Sends what the socket takes.
    pub(crate) fn flush(&mut self, poller: &Poller) {
        while let Some(packet) = self.outgoing.front() {
            match wire::send(self.socket.as_fd(), packet) {
                Ok(()) => drop(self.outgoing.pop_front()),
                Err(Errno::AGAIN) => break,
                Err(_) => {
                    self.broken = true;
                    return;
                }
            }
        }
        if self.stuck == self.outgoing.is_empty() {
            self.stuck = !self.stuck;
            let watched = match self.stuck {
                true => poller.both(&self.socket, self.token),
                false => poller.readable(&self.socket, self.token),
            };
            self.broken |= watched.is_err();
        }
    }

    /// Takes it out of the poller.
    pub(crate) fn close(self, poller: &Poller) {
        poller.ignore(&self.socket);
    }
}
