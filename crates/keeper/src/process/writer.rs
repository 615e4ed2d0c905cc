//! The process that writes a container's log file.
//!
//! An append can wait for a disk, for ever if that hangs, and no kernel interface refuses to wait
//! on every file system. So a child of the keeper does it: made when the first line comes, ended
//! when none has come for a while, one for each container, sharing the keeper's pages.
//!
//! ```text
//!   keeper -- packets of whole lines ------------> writer -- write(2) --> file
//!          <- lines dropped, errno --------------
//!          -- end of file: write the rest, exit ->
//! ```
//!
//! The socket's buffer is bounded: where the disk is slow, the keeper cannot send, stops reading
//! that container's output, and the container waits. Lines that the file refuses are dropped and
//! counted. A file never ends in half a line: what a full disk cut is cut back.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{SeekFrom, ftruncate, seek};
use rustix::io::{self, Errno};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, recv, send, shutdown,
    socketpair,
};
use rustix::process::{WaitId, WaitIdOptions, waitid};
use rustix::thread::ThreadNameSpaceType;
use sys::fork::{Child, fork};

use crate::process::line::LINE_MAX;

/// The longest packet: at least one line.
pub(crate) const PACKET: usize = 2 * LINE_MAX;

/// Lines that could not be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dropped {
    pub(crate) lines: u64,
    pub(crate) errno: i32,
}

impl Dropped {
    fn to_bytes(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&self.lines.to_ne_bytes());
        bytes[8..].copy_from_slice(&self.errno.to_ne_bytes());
        bytes
    }

    fn of(bytes: &[u8; 12]) -> Self {
        let (mut lines, mut errno) = ([0; 8], [0; 4]);
        lines.copy_from_slice(&bytes[..8]);
        errno.copy_from_slice(&bytes[8..]);
        Self { lines: u64::from_ne_bytes(lines), errno: i32::from_ne_bytes(errno) }
    }
}

/// A writer process, seen from the keeper.
#[derive(Debug)]
pub(crate) struct Writer {
    socket: OwnedFd,
    child: Child,
}

impl Writer {
    /// Makes a process that appends to `file`.
    pub(crate) fn start(file: BorrowedFd<'_>) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let (socket, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        io::ioctl_fionbio(&socket, true)?;
        let child = fork(ThreadNameSpaceType::empty(), || {
            let _ = rustix::thread::set_name(c"minke-log");
            sys::fork::close_all_but(&[theirs.as_fd(), file]);
            append(theirs.as_fd(), file);
            0
        })?;
        Ok(Self { socket, child })
    }

    /// Hands over whole lines.
    ///
    /// # Errors
    /// `EAGAIN` where the writer is behind, `EPIPE` where it is gone.
    pub(crate) fn send(&self, lines: &[u8]) -> io::Result<()> {
        send(&self.socket, lines, SendFlags::NOSIGNAL).map(drop)
    }

    /// What it has told since this was last asked, added up, and whether it can tell more.
    pub(crate) fn reports(&self) -> (Option<Dropped>, bool) {
        let mut sum: Option<Dropped> = None;
        loop {
            let mut bytes = [0; 12];
            match recv(&self.socket, &mut bytes[..], RecvFlags::empty()) {
                Ok((_, 12)) => {
                    let Dropped { lines, errno } = Dropped::of(&bytes);
                    let before = sum.map_or(0, |sum| sum.lines);
                    sum = Some(Dropped { lines: before + lines, errno });
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return (sum, true),
                _ => return (sum, false),
            }
        }
    }

    /// Lets it write what it was given and end.
    pub(crate) fn finish(&self) {
        // The one way to fail is that the writer is gone already.
        let _ = shutdown(&self.socket, Shutdown::Write);
    }

    /// Takes the ended process off the kernel's list.
    pub(crate) fn reap(&self) {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let _ = waitid(WaitId::PidFd(self.child.pidfd.as_fd()), options);
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.child.pidfd.as_fd()
    }
}

/// The life of the writer process.
fn append(socket: BorrowedFd<'_>, file: BorrowedFd<'_>) {
    let mut buffer = vec![0; PACKET];
    let mut dropped = Dropped { lines: 0, errno: 0 };
    loop {
        let length = match recv(socket, &mut buffer[..], RecvFlags::empty()) {
            Ok((_, length)) if length > 0 => length,
            Err(Errno::INTR) => continue,
            _ => break,
        };
        if let Err((lines, errno)) = write_lines(file, &buffer[..length]) {
            dropped.lines += lines;
            dropped.errno = errno.raw_os_error();
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        if dropped.lines > 0 && send(socket, &dropped.to_bytes(), flags).is_ok() {
            dropped.lines = 0;
        }
    }
    if dropped.lines > 0 {
        let _ = send(socket, &dropped.to_bytes(), SendFlags::NOSIGNAL);
    }
}

/// Appends lines, all or as many whole ones as there is room for; else gives the number of those
/// that were left out, and why.
fn write_lines(file: BorrowedFd<'_>, lines: &[u8]) -> Result<(), (u64, Errno)> {
    let mut written = 0;
    let errno = loop {
        match io::write(file, &lines[written..]) {
            Ok(0) => break Errno::IO,
            Ok(count) => written += count,
            Err(Errno::INTR) => {}
            Err(errno) => break errno,
        }
        if written == lines.len() {
            return Ok(());
        }
    };
    let whole = lines[..written].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let torn = (written - whole) as u64;
    if torn > 0 {
        // The file is open for appending, so that its position is behind what was just written.
        // What cannot be cut back (a pipe, a file that somebody removed the room from) stays.
        let _ = seek(file, SeekFrom::Current(0)).and_then(|end| ftruncate(file, end - torn));
    }
    Err((lines[whole..].iter().filter(|byte| **byte == b'\n').count() as u64, errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_line_is_counted() {
        let full = rustix::fs::open(
            "/dev/full",
            rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )
        .unwrap();
        assert_eq!(write_lines(full.as_fd(), b"a\nb\nc\n"), Err((3, Errno::NOSPC)));
    }

    #[test]
    fn a_report_is_read_as_it_was_written() {
        let dropped = Dropped { lines: u64::MAX - 7, errno: 28 };
        assert_eq!(Dropped::of(&dropped.to_bytes()), dropped);
    }
}
