//! What a process on its way says to the keeper, and the one thing that it waits to hear.
//!
//! Both ends are the same program, so the form is free to change: one SOCK_SEQPACKET message is a
//! byte of kind and what belongs to it. The end of file says that execve(2) has closed the last
//! copy of the other end. Where there are several processes the kernel adds the sender's pid: a hostile
//! neighbour in a shared PID namespace could take over the last one and speak for it. Only the first is
//! believed about pids, and no container ever sees that one.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::cmsg_space;
use rustix::io::{self, Errno};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
    sockopt,
};
use rustix::process::Pid;

use crate::failure::{Failure, Step, errno_of};
use crate::plan::Gate;

const BORN: u8 = b'B';
const WAITING: u8 = b'W';
const TERMINAL: u8 = b'T';
const ASSEMBLED: u8 = b'A';
const FAILED: u8 = b'F';
const GO: u8 = Gate::GO;

/// The longest message; a longer target is cut.
pub(super) const MESSAGE_MAX: usize = 512;

/// A message as the keeper reads it.
#[derive(Debug)]
pub(super) enum Report {
    /// The container's process is this one, and not the first.
    Born(Pid),
    /// All is assembled, and it waits to change its root.
    Assembled,
    /// All is done but execve(2).
    Waiting,
    /// The other end of the terminal.
    Terminal(OwnedFd),
    /// It ends here.
    Failed(Failure),
    /// Every copy of the other end is closed.
    End,
}

/// The keeper's end and the process's end. The kernel need not `tell` who speaks where there is only one.
pub(super) fn pair(tell: bool) -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    if tell {
        sockopt::set_socket_passcred(&ours, true)?;
    }
    Ok((ours, theirs))
}

/// Reads one message. Pids are believed from `first` alone; what nobody of ours sends is skipped.
///
/// # Errors
/// `EAGAIN` where there is none yet.
pub(super) fn read(socket: BorrowedFd<'_>, first: Pid) -> io::Result<Report> {
    loop {
        let mut bytes = [0; MESSAGE_MAX];
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1), ScmCredentials(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let message = io::retry_on_intr(|| {
            let mut slices = [IoSliceMut::new(&mut bytes)];
            recvmsg(socket, &mut slices, &mut control, flags)
        })?;
        let (mut sender, mut file) = (None, None);
        for item in control.drain() {
            match item {
                RecvAncillaryMessage::ScmCredentials(credentials) => sender = Some(credentials.pid),
                RecvAncillaryMessage::ScmRights(files) => file = files.last(),
                _ => {}
            }
        }
        let report = match bytes[..message.bytes].split_first() {
            None => Some(Report::End),
            Some((&BORN, rest)) if sender == Some(first) => pid(rest).map(Report::Born),
            Some((&ASSEMBLED, _)) => Some(Report::Assembled),
            Some((&WAITING, _)) => Some(Report::Waiting),
            Some((&TERMINAL, _)) => file.map(Report::Terminal),
            Some((&FAILED, rest)) => failure(rest).map(Report::Failed),
            Some(_) => None,
        };
        if let Some(report) = report {
            return Ok(report);
        }
    }
}

/// Reads what a process has written to its gate's word (see [`failed`]); none where it is no failure.
pub(super) fn read_word(bytes: &[u8]) -> Option<Failure> {
    match bytes.split_first() {
        Some((&FAILED, rest)) => failure(rest),
        _ => None,
    }
}

fn pid(bytes: &[u8]) -> Option<Pid> {
    Pid::from_raw(i32::from_ne_bytes(bytes.try_into().ok()?))
}

fn failure(bytes: &[u8]) -> Option<Failure> {
    let (step, rest) = bytes.split_first()?;
    let (number, target) = rest.split_first_chunk::<4>()?;
    let target = (!target.is_empty()).then(|| String::from_utf8_lossy(target).into_owned());
    let errno = errno_of(i32::from_ne_bytes(*number));
    Some(Failure { step: Step::from_byte(*step), target, errno })
}

/// Lets the process go.
pub(super) fn release(socket: BorrowedFd<'_>) -> io::Result<()> {
    io::retry_on_intr(|| rustix::net::send(socket, &[GO], SendFlags::NOSIGNAL)).map(drop)
}

/// Waits to be let go. False where the keeper is gone.
pub(super) fn wait(socket: BorrowedFd<'_>) -> bool {
    let mut byte = [0];
    io::retry_on_intr(|| io::read(socket, &mut byte)) == Ok(1) && byte[0] == GO
}

/// Says that the container's process is this one.
pub(super) fn born(socket: BorrowedFd<'_>, pid: Pid) -> io::Result<()> {
    let mut message = [BORN; 5];
    message[1..].copy_from_slice(&pid.as_raw_nonzero().get().to_ne_bytes());
    write(socket, &message)
}

/// Says that all is assembled.
pub(super) fn assembled(socket: BorrowedFd<'_>) -> io::Result<()> {
    write(socket, &[ASSEMBLED])
}

/// Says that all is done but execve(2).
pub(super) fn waiting(socket: BorrowedFd<'_>) -> io::Result<()> {
    write(socket, &[WAITING])
}

/// Hands over the other end of the terminal.
pub(super) fn terminal(socket: BorrowedFd<'_>, master: BorrowedFd<'_>) -> io::Result<()> {
    send_file(socket, TERMINAL, master)
}

/// Says what went wrong, without the heap. Nobody is left to hear it if that fails.
pub(super) fn failed(socket: BorrowedFd<'_>, step: Step, target: &[u8], errno: Errno) {
    let mut message = [FAILED; MESSAGE_MAX];
    message[1] = step.to_byte();
    message[2..6].copy_from_slice(&errno.raw_os_error().to_ne_bytes());
    let length = target.len().min(MESSAGE_MAX - 6);
    message[6..6 + length].copy_from_slice(&target[..length]);
    let _gone = write(socket, &message[..6 + length]);
}

/// Sends one descriptor between two processes of one launch.
pub(super) fn send_file(socket: BorrowedFd<'_>, kind: u8, file: BorrowedFd<'_>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let files = [file];
    if !control.push(SendAncillaryMessage::ScmRights(&files)) {
        return Err(Errno::TOOBIG);
    }
    let bytes = [kind];
    let slices = [IoSlice::new(&bytes)];
    io::retry_on_intr(|| sendmsg(socket, &slices, &mut control, SendFlags::NOSIGNAL)).map(drop)
}

/// Receives what [`send_file`] or [`write`] sent: the kind, and a descriptor where one came.
/// `EPIPE` where the sender is gone.
pub(super) fn receive_file(socket: BorrowedFd<'_>) -> io::Result<(u8, Option<OwnedFd>)> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = io::retry_on_intr(|| {
        recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    if message.bytes == 0 {
        return Err(Errno::PIPE);
    }
    let mut file = None;
    for item in control.drain() {
        if let RecvAncillaryMessage::ScmRights(files) = item {
            file = files.last();
        }
    }
    Ok((byte[0], file))
}

/// write(2) and not send(2): of all ways the one that system call filters allow.
pub(super) fn write(socket: BorrowedFd<'_>, message: &[u8]) -> io::Result<()> {
    io::retry_on_intr(|| io::write(socket.as_fd(), message)).map(drop)
}
