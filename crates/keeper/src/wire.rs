//! Packets: how one message with any number of descriptors crosses a SOCK_SEQPACKET socket.
//!
//! ```text
//!   message          one byte of kind, then JSON          at most 64 KiB, 253 descriptors
//!   ----------------------------------------------------------------------------------------
//!   Inline           the JSON follows
//!   Sealed           the JSON (at most 4 MiB) is a sealed memfd: the packet's last descriptor
//!   Descriptors      253 descriptors that belong to the message that follows
//! ```
//!
//! The kernel takes 253 descriptors a packet (SCM_MAX_FD). A memfd counts only where it is sealed
//! against writing and resizing, so that what was checked stays what is read.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::cmsg_space;
use rustix::io::{self, Errno};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use crate::memfd;

/// The longest packet.
pub(crate) const PACKET_MAX: usize = 64 * 1024;
/// The longest JSON of one message.
const BODY_MAX: u64 = 4 * 1024 * 1024;
/// The most descriptors of one message.
const DESCRIPTORS_MAX: usize = 4 * BATCH;
/// The most descriptors of one packet.
const BATCH: usize = 253;

const INLINE: u8 = 0;
const SEALED: u8 = 1;
const DESCRIPTORS: u8 = 2;

/// What one send gives to the kernel.
#[derive(Debug)]
pub(crate) struct Packet {
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
}

/// A whole message.
#[derive(Debug)]
pub(crate) struct Message {
    /// JSON.
    pub(crate) body: Vec<u8>,
    /// Its descriptors, in the sender's order.
    pub(crate) fds: Vec<OwnedFd>,
}

/// Why a packet is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("the packet is longer than 64 KiB")]
    Long,
    #[error("descriptors were lost: the receiver is at its limit of open files")]
    DescriptorsLost,
    #[error("the packet's kind is unknown")]
    Kind,
    #[error("the message has too many descriptors")]
    TooManyDescriptors,
    #[error("the message's memory file is missing, unsealed, unreadable or too long")]
    Sealed,
}

/// Cuts a message into packets, to be sent in order with nothing between.
///
/// # Errors
/// What memfd_create(2) and the writes to it say; `E2BIG` for a message that no peer would take.
pub(crate) fn packets(body: &[u8], mut fds: Vec<OwnedFd>) -> io::Result<VecDeque<Packet>> {
    if fds.len() > DESCRIPTORS_MAX || body.len() as u64 > BODY_MAX {
        return Err(Errno::TOOBIG);
    }
    let mut bytes = Vec::with_capacity(1 + body.len().min(PACKET_MAX));
    if body.len() < PACKET_MAX {
        bytes.push(INLINE);
        bytes.extend_from_slice(body);
    } else {
        bytes.push(SEALED);
        fds.push(memfd::sealed("message", body)?);
    }
    let mut packets = VecDeque::new();
    while fds.len() > BATCH {
        let rest = fds.split_off(BATCH);
        packets.push_back(Packet { bytes: vec![DESCRIPTORS], fds });
        fds = rest;
    }
    packets.push_back(Packet { bytes, fds });
    Ok(packets)
}

/// Sends one packet, whole or not at all.
///
/// # Errors
/// `EAGAIN` where a non-blocking socket's peer does not read; otherwise what sendmsg(2) says.
pub(crate) fn send(socket: BorrowedFd<'_>, packet: &Packet) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(BATCH))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<BorrowedFd<'_>> = packet.fds.iter().map(AsFd::as_fd).collect();
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(Errno::TOOBIG);
    }
    let slice = [IoSlice::new(&packet.bytes)];
    io::retry_on_intr(|| sendmsg(socket, &slice, &mut control, SendFlags::NOSIGNAL)).map(drop)
}

/// Receives packets and puts messages together; one for each connection.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    /// Descriptors of a message whose own packet has not come yet.
    early: Vec<OwnedFd>,
}

/// What one receive gave.
#[derive(Debug)]
pub(crate) enum Received {
    /// A whole message.
    Message(Message),
    /// A part: receive again.
    Part,
    /// Something that is no message; the connection goes on.
    Malformed(Malformed),
    /// The peer has closed.
    End,
}

impl Assembler {
    /// Receives one packet through `buffer`, which must hold it: it has [`PACKET_MAX`] bytes at most.
    ///
    /// # Errors
    /// `EAGAIN` where a non-blocking socket has nothing; otherwise what recvmsg(2) says.
    pub(crate) fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
        buffer: &mut [u8],
    ) -> io::Result<Received> {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(BATCH))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = io::retry_on_intr(|| {
            let mut slice = [IoSliceMut::new(buffer)];
            recvmsg(socket, &mut slice, &mut control, RecvFlags::CMSG_CLOEXEC)
        })?;
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        // A message has at least its kind, so that nothing at all means the end.
        if received.bytes == 0 && fds.is_empty() {
            return Ok(Received::End);
        }
        let lost = if received.flags.contains(ReturnFlags::TRUNC) {
            Some(Malformed::Long)
        } else if received.flags.contains(ReturnFlags::CTRUNC) {
            Some(Malformed::DescriptorsLost)
        } else {
            None
        };
        if let Some(lost) = lost {
            self.early.clear();
            return Ok(Received::Malformed(lost));
        }
        Ok(self.take(&buffer[..received.bytes.min(buffer.len())], fds))
    }

    /// Adds one packet.
    pub(crate) fn take(&mut self, bytes: &[u8], fds: Vec<OwnedFd>) -> Received {
        self.early.extend(fds);
        let done = match bytes.split_first() {
            // One more than a message may have: the memory file.
            _ if self.early.len() > DESCRIPTORS_MAX + 1 => Err(Malformed::TooManyDescriptors),
            Some((&DESCRIPTORS, [])) => return Received::Part,
            Some((&INLINE, body)) => Ok(body.to_vec()),
            Some((&SEALED, [])) => self.early.pop().and_then(unseal).ok_or(Malformed::Sealed),
            _ => Err(Malformed::Kind),
        };
        let fds = std::mem::take(&mut self.early);
        match done {
            Ok(body) => Received::Message(Message { body, fds }),
            Err(malformed) => Received::Malformed(malformed),
        }
    }
}

/// What a sealed memfd holds; none where it is no such thing.
fn unseal(fd: OwnedFd) -> Option<Vec<u8>> {
    if !memfd::is_sealed(&fd) {
        return None;
    }
    // The sender has written through the same open file: its position is at the end.
    rustix::fs::seek(&fd, rustix::fs::SeekFrom::Start(0)).ok()?;
    let file = File::from(fd);
    let length = file.metadata().ok()?.len();
    if length > BODY_MAX {
        return None;
    }
    let mut body = Vec::with_capacity(usize::try_from(length).ok()?);
    file.take(BODY_MAX).read_to_end(&mut body).ok()?;
    Some(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, memfd_create};
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn pair() -> (OwnedFd, OwnedFd) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap()
    }

    fn through(body: &[u8], count: usize) -> Message {
        let (left, right) = pair();
        let null = File::open("/dev/null").unwrap();
        let fds = (0..count).map(|_| null.as_fd().try_clone_to_owned().unwrap()).collect();
        let mut buffer = vec![0; PACKET_MAX];
        let mut assembler = Assembler::default();
        for packet in packets(body, fds).unwrap() {
            send(left.as_fd(), &packet).unwrap();
            match assembler.receive(right.as_fd(), &mut buffer).unwrap() {
                Received::Message(message) => return message,
                Received::Part => {}
                other => panic!("{other:?}"),
            }
        }
        panic!("no message came")
    }

    #[test]
    fn messages_of_every_size_arrive_whole_with_their_descriptors() {
        let sizes = [0, 1, PACKET_MAX - 1, PACKET_MAX, 1_000_000];
        for (size, count) in sizes.into_iter().zip([0, 1, 253, 254, 600]) {
            let body: Vec<u8> = (0..size).map(|n| n as u8).collect();
            let message = through(&body, count);
            assert!(message.body == body, "{size} bytes");
            assert_eq!(message.fds.len(), count);
        }
    }

    #[test]
    fn an_unsealed_memory_file_is_refused() {
        let memfd = memfd_create("m", MemfdFlags::ALLOW_SEALING).unwrap();
        let received = Assembler::default().take(&[SEALED], vec![memfd]);
        assert!(matches!(received, Received::Malformed(Malformed::Sealed)), "{received:?}");
        let received = Assembler::default().take(&[SEALED], Vec::new());
        assert!(matches!(received, Received::Malformed(Malformed::Sealed)), "{received:?}");
    }

    #[test]
    fn a_packet_beyond_the_cap_is_malformed_and_the_next_is_read() {
        let (left, right) = pair();
        let long = Packet { bytes: vec![INLINE; PACKET_MAX + 1], fds: Vec::new() };
        send(left.as_fd(), &long).unwrap();
        send(left.as_fd(), &packets(b"{}", Vec::new()).unwrap()[0]).unwrap();
        let (mut assembler, mut buffer) = (Assembler::default(), vec![0; PACKET_MAX]);
        let first = assembler.receive(right.as_fd(), &mut buffer).unwrap();
        assert!(matches!(first, Received::Malformed(Malformed::Long)), "{first:?}");
        let second = assembler.receive(right.as_fd(), &mut buffer).unwrap();
        assert!(matches!(second, Received::Message(message) if message.body == b"{}"));
        drop(left);
        let end = assembler.receive(right.as_fd(), &mut buffer).unwrap();
        assert!(matches!(end, Received::End), "{end:?}");
    }

    #[test]
    fn any_sequence_of_packets_is_taken() {
        bolero::check!().with_type::<Vec<(Vec<u8>, u8)>>().for_each(|packets| {
            let null = File::open("/dev/null").unwrap();
            let mut assembler = Assembler::default();
            for (bytes, count) in packets {
                let fds = (0..count % 4).map(|_| null.try_clone().unwrap().into()).collect();
                let received = assembler.take(bytes, fds);
                let part = matches!(received, Received::Part);
                assert_eq!(part, *bytes == [DESCRIPTORS], "{received:?}");
                // Only a part leaves descriptors behind.
                assert!(part || assembler.early.is_empty());
            }
        });
    }
}
