//! One epoll instance, and names for what it watches.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::{self, Errno};
use rustix::time::Timespec;

/// What is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Somebody connects.
    Listener,
    /// The daemon's connection.
    Connection,
    /// A container's child tells how far it is.
    Launch,
    /// A container's init has ended.
    Init,
    /// A container's output; sub is the channel.
    Output,
    /// A container's standard input can be written.
    Input,
    /// An attached client's pipe can be written; sub is client and channel.
    ClientOutput,
    /// An attached client has sent; sub is the client.
    ClientInput,
    /// A log writer tells of lines it dropped.
    WriterReport,
    /// A log writer has ended; sub is the writer.
    WriterEnd,
    /// An exec's child tells how far it is.
    ExecLaunch,
    /// An exec's process has ended.
    ExecEnd,
    /// A connect(2) has come to an end.
    Dial,
    /// PID 1 of the shared PID namespace has ended.
    PidOne,
}

const KINDS: [Kind; 14] = [
    Kind::Listener,
    Kind::Connection,
    Kind::Launch,
    Kind::Init,
    Kind::Output,
    Kind::Input,
    Kind::ClientOutput,
    Kind::ClientInput,
    Kind::WriterReport,
    Kind::WriterEnd,
    Kind::ExecLaunch,
    Kind::ExecEnd,
    Kind::Dial,
    Kind::PidOne,
];

/// The name of something watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    /// Which part of the owner, below 2^24.
    pub(crate) sub: u32,
    /// The owner's serial number; never used twice, so that a late event finds nobody.
    pub(crate) owner: u32,
}

impl Token {
    pub(crate) fn new(kind: Kind, owner: u32) -> Self {
        Self { kind, sub: 0, owner }
    }

    pub(crate) fn part(kind: Kind, owner: u32, sub: u32) -> Self {
        Self { kind, sub: sub & 0xff_ffff, owner }
    }

    fn data(self) -> EventData {
        let (kind, sub) = (u64::from(self.kind as u8), u64::from(self.sub));
        EventData::new_u64(kind << 56 | sub << 32 | u64::from(self.owner))
    }

    fn of(data: u64) -> Option<Self> {
        let kind = *KINDS.get(usize::from((data >> 56) as u8))?;
        Some(Self { kind, sub: (data >> 32) as u32 & 0xff_ffff, owner: data as u32 })
    }
}

/// An epoll instance.
#[derive(Debug)]
pub(crate) struct Poller {
    epoll: OwnedFd,
}

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(CreateFlags::CLOEXEC)? })
    }

    /// Watches until something can be read, or the other end closes.
    pub(crate) fn readable(&self, fd: impl AsFd, token: Token) -> io::Result<()> {
        self.watch(fd, token, EventFlags::IN)
    }

    /// Watches a pidfd until its process ends; told once, and again when who traces it lets go of it: until
    /// then its end can be seen, and not be taken.
    pub(crate) fn end(&self, pidfd: impl AsFd, token: Token) -> io::Result<()> {
        self.watch(pidfd, token, EventFlags::IN | EventFlags::ET)
    }

    /// Watches until something can be written, or the other end closes.
    pub(crate) fn writable(&self, fd: impl AsFd, token: Token) -> io::Result<()> {
        self.watch(fd, token, EventFlags::OUT)
    }

    /// Watches for reading and writing.
    pub(crate) fn both(&self, fd: impl AsFd, token: Token) -> io::Result<()> {
        self.watch(fd, token, EventFlags::IN | EventFlags::OUT)
    }

    /// Watches until the other end closes.
    pub(crate) fn closing(&self, fd: impl AsFd, token: Token) -> io::Result<()> {
        self.watch(fd, token, EventFlags::empty())
    }

    fn watch(&self, fd: impl AsFd, token: Token, flags: EventFlags) -> io::Result<()> {
        match epoll::add(&self.epoll, &fd, token.data(), flags) {
            Err(Errno::EXIST) => epoll::modify(&self.epoll, &fd, token.data(), flags),
            done => done,
        }
    }

    /// Stops watching, the other end's closing included. Nothing happens where it was not watched.
    pub(crate) fn ignore(&self, fd: impl AsFd) {
        // The one way to fail is that it is not watched.
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// Waits until something is ready or the time is over, and gives what is ready.
    pub(crate) fn wait(&self, ready: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<()> {
        ready.clear();
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        match epoll::wait(&self.epoll, spare_capacity(ready), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno),
        }
    }
}

/// The name behind an event.
pub(crate) fn token(event: &Event) -> Option<Token> {
    let data = event.data;
    Token::of(data.u64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_kernel() {
        for (index, kind) in KINDS.into_iter().enumerate() {
            assert_eq!(kind as usize, index);
            for (owner, sub) in [(0, 0), (u32::MAX, 0xff_ffff), (7, 3)] {
                let token = Token::part(kind, owner, sub);
                assert_eq!(Token::of(token.data().u64()), Some(token));
            }
        }
        assert_eq!(Token::of(u64::MAX), None);
    }
}
