//! Requests to the kernel over netlink(7): several in one send, answered within it.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use sys::feature::{Feature, Missing};
use sys::netlink::Family;

pub(crate) const NLM_F_REQUEST: u16 = 0x1;
pub(crate) const NLM_F_ACK: u16 = 0x4;
pub(crate) const NLM_F_DUMP: u16 = 0x300;
pub(crate) const NLM_F_EXCL: u16 = 0x200;
pub(crate) const NLM_F_CREATE: u16 = 0x400;
pub(crate) const NLM_F_APPEND: u16 = 0x800;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;
const HEADER: usize = 16;

/// A dump is repeated when the kernel says that what it listed changed meanwhile, but not for ever.
const DUMP_ATTEMPTS: usize = 8;

/// How the kernel refuses a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    errno: i32,
    text: Option<String>,
}

impl Refusal {
    pub(crate) fn is(&self, errno: Errno) -> bool {
        self.errno == errno.raw_os_error()
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", io::Error::from_raw_os_error(self.errno))?;
        self.text.as_ref().map_or(Ok(()), |text| write!(f, ": {text}"))
    }
}

impl std::error::Error for Refusal {}

/// Why a request to the kernel brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The kernel said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The kernel is built without what was asked of it, or its module is not loaded.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// The socket failed.
    #[error("netlink socket failed")]
    Socket(#[from] io::Error),
    /// The kernel's answer was incomplete or not understood.
    #[error("the kernel's answer was not understood: {0}")]
    Answer(String),
}

impl NetlinkError {
    /// Whether the kernel refused with this error number.
    pub(crate) fn is(&self, errno: Errno) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.is(errno))
    }

    /// The same, or the lack of what was asked for where that is what it says.
    pub(crate) fn of(self, feature: &'static Feature) -> Self {
        let errno = match &self {
            Self::Refused(refusal) => Some(Errno::from_raw_os_error(refusal.errno)),
            Self::Socket(error) => Errno::from_io_error(error),
            Self::Missing(_) | Self::Answer(_) => None,
        };
        errno.and_then(|errno| feature.missing(errno)).map_or(self, Self::Missing)
    }
}

/// A message of an answer: its type and what follows the netlink header.
pub(crate) type Message = (u16, Vec<u8>);

/// What one request of a batch brought: the messages of its answer, none for a plain change.
pub(crate) type Reply = Result<Vec<Message>, NetlinkError>;

/// Requests that travel in one send. The kernel works on them in order, and on all of them even if
/// one fails, nftables' transactions excepted.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    count: u32,
}

impl Batch {
    /// Appends a request about links, addresses or routes.
    pub(crate) fn route(&mut self, request: RouteNetlinkMessage, flags: u16) -> &mut Self {
        let mut message = NetlinkMessage::from(request);
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.raw(message.header.message_type, flags | NLM_F_ACK, &bytes[HEADER..])
    }

    /// Appends a request of the given type; only with `NLM_F_ACK` or as a dump is it answered.
    pub(crate) fn raw(&mut self, kind: u16, flags: u16, body: &[u8]) -> &mut Self {
        let len = (HEADER + body.len()) as u32;
        self.bytes.extend(len.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((flags | NLM_F_REQUEST).to_ne_bytes());
        self.bytes.extend(self.count.to_ne_bytes());
        self.bytes.extend([0; 4]);
        self.bytes.extend(body);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self.count += 1;
        self
    }

    /// How many requests it has.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.count as usize
    }
}

/// A socket that requests go out of. What a request does happens in the network namespace in which
/// the socket was opened, whichever thread uses it.
#[derive(Debug)]
pub(crate) struct Socket {
    /// Or why there is none.
    socket: Result<OwnedFd, Errno>,
    buffer: Vec<u8>,
}

impl Socket {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self { socket: Ok(socket), buffer: Vec::new() }
    }

    /// Opens a socket here. A kernel that cannot is heard of with the first request: what only some
    /// requests need, others can do without.
    pub(crate) fn open(family: Family) -> Self {
        let socket = sys::netlink::open(family, 0);
        let socket = socket.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO));
        Self { socket, buffer: Vec::new() }
    }

    /// Sends the requests and collects a reply to each, in their order. A request that asked for
    /// no answer has an empty one. The kernel does the work and queues the answers before the send
    /// returns, so nothing here waits for anything but the kernel's own locks.
    pub(crate) fn exchange(&mut self, batch: &Batch) -> Result<Vec<Reply>, NetlinkError> {
        if batch.count == 0 {
            return Ok(Vec::new());
        }
        while self.receive()?.is_some() {}
        rustix::net::send(self.fd()?, &batch.bytes, SendFlags::empty()).map_err(io::Error::from)?;
        let mut replies: Vec<Reply> = (0..batch.count).map(|_| Ok(Vec::new())).collect();
        let mut open: Vec<bool> = awaited(&batch.bytes).collect();
        while open.contains(&true) {
            let Some(len) = self.receive()? else { break };
            for (header, body) in messages(&self.buffer[..len]) {
                let index = header.sequence as usize;
                let Some(reply) = replies.get_mut(index) else { continue };
                match header.kind {
                    NLMSG_ERROR | NLMSG_DONE => {
                        open[index] = false;
                        if let Some(refusal) = refusal(&header, body) {
                            *reply = Err(refusal.into());
                        }
                    }
                    _ if header.flags & NLM_F_DUMP_INTR != 0 => *reply = Err(interrupted()),
                    kind => {
                        if let Ok(answer) = reply {
                            answer.push((kind, body.to_vec()));
                        }
                    }
                }
            }
        }
        for (reply, open) in replies.iter_mut().zip(open) {
            if open && reply.is_ok() {
                *reply = Err(NetlinkError::Answer("it has no end".to_owned()));
            }
        }
        Ok(replies)
    }

    /// Sends one request; see [`Socket::exchange`].
    pub(crate) fn request(&mut self, batch: &Batch) -> Reply {
        let mut replies = self.exchange(batch)?;
        replies.pop().unwrap_or(Ok(Vec::new()))
    }

    /// Sends requests that all have to succeed.
    pub(crate) fn all(&mut self, batch: &Batch) -> Result<(), NetlinkError> {
        self.exchange(batch)?.into_iter().try_for_each(|reply| reply.map(drop))
    }

    /// Sends a dump request, again if what it lists changed meanwhile.
    pub(crate) fn dump(&mut self, batch: &Batch) -> Reply {
        let mut reply = self.request(batch);
        for _ in 1..DUMP_ATTEMPTS {
            match &reply {
                Err(error) if error.is(Errno::INTR) => reply = self.request(batch),
                _ => break,
            }
        }
        reply
    }

    /// Sends a request about routes and friends, and reads the messages of its answer. A message
    /// that is not understood is left out: other people's links come in any shape.
    pub(crate) fn query(
        &mut self,
        request: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        let mut batch = Batch::default();
        batch.route(request, flags);
        Ok(self.dump(&batch)?.iter().filter_map(parse).collect())
    }

    fn fd(&self) -> io::Result<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd).map_err(|errno| io::Error::from(*errno))
    }

    /// Reads one datagram into the buffer, if there is one.
    fn receive(&mut self) -> Result<Option<usize>, NetlinkError> {
        // The kernel sizes the messages of a dump after the reader's buffer, up to 32 KiB.
        self.buffer.resize(32 << 10, 0);
        loop {
            let flags = RecvFlags::DONTWAIT;
            let socket = self.socket.as_ref().map_err(|errno| io::Error::from(*errno))?;
            match rustix::net::recv(socket, &mut self.buffer[..], flags) {
                Ok((len, _)) => return Ok(Some(len)),
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(io::Error::from(errno).into()),
            }
        }
    }
}

/// Reads a message about links, addresses or routes.
pub(crate) fn parse((kind, body): &Message) -> Option<RouteNetlinkMessage> {
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.extend(((HEADER + body.len()) as u32).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend([0; 10]);
    bytes.extend(body);
    match NetlinkMessage::<RouteNetlinkMessage>::deserialize(&bytes).ok()?.payload {
        NetlinkPayload::InnerMessage(message) => Some(message),
        _ => None,
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Header {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
}

/// The messages of a datagram; it ends at the first that is not whole.
pub(crate) fn messages(datagram: &[u8]) -> impl Iterator<Item = (Header, &[u8])> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let len = u32_at(rest, 0)? as usize;
        let body = rest.get(HEADER..len)?;
        let kind_and_flags = u32_at(rest, 4)?.to_ne_bytes();
        let header = Header {
            kind: u16::from_ne_bytes([kind_and_flags[0], kind_and_flags[1]]),
            flags: u16::from_ne_bytes([kind_and_flags[2], kind_and_flags[3]]),
            sequence: u32_at(rest, 8)?,
        };
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some((header, body))
    })
}

/// The attributes of a message, type without its flag bits and value; it ends at the first that is
/// not whole.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let len = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?);
        let value = rest.get(4..len)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind & 0x3fff, value))
    })
}

/// For each request whether it is answered.
fn awaited(bytes: &[u8]) -> impl Iterator<Item = bool> {
    messages(bytes)
        .map(|(header, _)| header.flags & NLM_F_ACK != 0 || header.flags & NLM_F_DUMP == NLM_F_DUMP)
}

/// The error that ends an answer; none if it ends well.
fn refusal(header: &Header, body: &[u8]) -> Option<Refusal> {
    let errno = match u32_at(body, 0) {
        Some(code) => -(code as i32),
        None => 0,
    };
    if errno == 0 {
        return None;
    }
    let mut text = None;
    if header.kind == NLMSG_ERROR && header.flags & NLM_F_ACK_TLVS != 0 {
        let request = if header.flags & NLM_F_CAPPED != 0 {
            HEADER
        } else {
            u32_at(body, 4).map_or(HEADER, |len| (len as usize).next_multiple_of(4))
        };
        text = attributes(body.get(4 + request..).unwrap_or(&[]))
            .find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG)
            .map(|(_, value)| String::from_utf8_lossy(value).trim_end_matches('\0').to_owned());
    }
    Some(Refusal { errno, text })
}

fn interrupted() -> NetlinkError {
    Refusal { errno: Errno::INTR.raw_os_error(), text: None }.into()
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_aligned_numbered_and_read_back() {
        let mut batch = Batch::default();
        batch.raw(18, NLM_F_ACK, b"abcde").raw(19, NLM_F_DUMP, b"");
        batch.raw(20, 0, b"");
        let read: Vec<_> = messages(&batch.bytes)
            .map(|(header, body)| (header.kind, header.sequence, body.len()))
            .collect();
        assert_eq!(read, [(18, 0, 5), (19, 1, 0), (20, 2, 0)]);
        assert_eq!(awaited(&batch.bytes).collect::<Vec<_>>(), [true, true, false]);
    }

    #[test]
    fn torn_input_ends_the_iteration() {
        let mut batch = Batch::default();
        batch.raw(18, 0, b"abcd").raw(19, 0, b"efgh");
        for len in 0..batch.bytes.len() {
            let whole = messages(&batch.bytes[..len]).count();
            assert_eq!(whole, len / 20, "{len}");
        }
        assert_eq!(messages(&[0; 64]).count(), 0);
        assert_eq!(attributes(&[3, 0, 1, 0, 9]).count(), 0);
    }

    #[test]
    fn the_kernels_words_are_part_of_the_refusal() {
        let mut body = (-17i32).to_ne_bytes().to_vec();
        body.extend([0; HEADER]);
        body.extend([9, 0, 1, 0]);
        body.extend(b"busy\0\0\0\0");
        let header =
            Header { kind: NLMSG_ERROR, flags: NLM_F_CAPPED | NLM_F_ACK_TLVS, sequence: 0 };
        let refusal = refusal(&header, &body).unwrap();
        assert!(refusal.is(Errno::EXIST));
        assert!(refusal.to_string().ends_with(": busy"), "{refusal}");
    }
}
