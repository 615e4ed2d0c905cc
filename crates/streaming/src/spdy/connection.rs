//! The streams of one SPDY connection.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::frame::{self, Control, HEAD_LEN, Head};
use super::headers::{Decoder, Encoder, Headers};
use crate::channel::{self, Channel, Inlet, Outgoing, Queue};
use crate::socket::Line;

/// Streams that may be open at a time; more are refused until one ends.
const MAX_STREAMS: usize = 1024;

/// Opened streams that wait for the session to look at them.
const BACKLOG: usize = 16;

/// Bytes taken from the socket at a time.
const READ: usize = 16 * 1024;

/// Frames are gathered up to this many bytes before they are written.
const GATHER: usize = 32 * 1024;

/// A stream that the client has opened.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) id: u32,
    pub(crate) headers: Headers,
    pub(crate) channel: Channel,
}

/// Frames that answer the client's.
#[derive(Debug)]
enum Answer {
    Reply(u32),
    Reset { stream: u32, status: u32 },
    Pong(u32),
}

/// Serves one connection: `session` gets the streams that the client opens, of those that `admit`
/// lets in. Returns when the session is over or the client is gone.
pub(crate) async fn serve<F: Future<Output = ()>>(
    io: impl AsyncRead + AsyncWrite,
    line: &Line,
    idle: Duration,
    admit: fn(&Headers) -> bool,
    session: impl FnOnce(mpsc::Receiver<Incoming>) -> F,
) -> io::Result<()> {
    let (queue, outgoing) = channel::queue();
    let (opened, incoming) = mpsc::channel(BACKLOG);
    let (io_reader, io_writer) = tokio::io::split(io);
    let mut reader = Reader {
        io: io_reader,
        line,
        buffer: BytesMut::new(),
        decoder: Decoder::new(),
        queue: queue.clone(),
        pong: None,
        last: 0,
        streams: HashMap::new(),
        pumps: JoinSet::new(),
        admit,
        opened,
    };
    let reading = async {
        while reader.frame().await? {}
        Ok(())
    };
    channel::run(line, idle, queue, reading, write(io_writer, outgoing), session(incoming)).await
}

/// Writes frames until the goodbye, as many at a time as are there.
async fn write(
    mut io: impl AsyncWrite + Unpin,
    mut outgoing: mpsc::Receiver<Outgoing<Answer>>,
) -> io::Result<()> {
    let mut encoder = Encoder::new();
    let mut buffer = BytesMut::new();
    let mut goodbye = false;
    while !goodbye {
        let mut next = outgoing.recv().await;
        goodbye = next.is_none();
        while let Some(frame) = next.take() {
            match frame {
                Outgoing::Data { stream, data } => {
                    frame::put_data(&mut buffer, stream, false, data.len());
                    buffer.extend_from_slice(&data);
                }
                Outgoing::Fin { stream } => frame::put_data(&mut buffer, stream, true, 0),
                Outgoing::Control(Answer::Reply(stream)) => {
                    frame::put_reply(&mut buffer, stream, &mut encoder);
                }
                Outgoing::Control(Answer::Reset { stream, status }) => {
                    frame::put_reset(&mut buffer, stream, status);
                }
                Outgoing::Control(Answer::Pong(id)) => frame::put_ping(&mut buffer, id),
                Outgoing::Goodbye => goodbye = true,
            }
            if buffer.len() < GATHER && !goodbye {
                next = outgoing.try_recv().ok();
            }
        }
        io.write_all_buf(&mut buffer).await?;
        io.flush().await?;
    }
    Ok(())
}

struct Reader<'a, I> {
    io: ReadHalf<I>,
    line: &'a Line,
    buffer: BytesMut,
    decoder: Decoder,
    queue: Queue<Answer>,
    /// A ping that waits for room in the queue. A client sends the next one only after the answer.
    pong: Option<u32>,
    /// The highest stream number so far: the client counts up.
    last: u32,
    streams: HashMap<u32, Inlet>,
    pumps: JoinSet<u32>,
    admit: fn(&Headers) -> bool,
    opened: mpsc::Sender<Incoming>,
}

impl<I: AsyncRead + AsyncWrite> Reader<'_, I> {
    /// Reads one frame and does what it says. False at the end of the connection, which for a
    /// client that leaves may be anywhere.
    async fn frame(&mut self) -> io::Result<bool> {
        if !self.fill(HEAD_LEN).await? {
            return Ok(false);
        }
        let mut head = [0; HEAD_LEN];
        self.buffer.copy_to_slice(&mut head);
        match Head::parse(head).map_err(invalid)? {
            Head::Data { stream, fin, len } => self.data(stream, fin, len).await,
            Head::Control { kind, fin, len } => {
                if !self.fill(len).await? {
                    return Ok(false);
                }
                let payload = self.buffer.split_to(len);
                let control = Control::parse(kind, fin, &payload, &mut self.decoder);
                self.control(control.map_err(invalid)?).await?;
                Ok(true)
            }
        }
    }

    /// Reads until `len` bytes are buffered; false when the connection ends before.
    async fn fill(&mut self, len: usize) -> io::Result<bool> {
        while self.buffer.len() < len {
            self.buffer.reserve(READ);
            tokio::select! {
                read = self.io.read_buf(&mut self.buffer) => if read? == 0 {
                    return Ok(false);
                },
                Ok(room) = self.queue.reserve(), if self.pong.is_some() => {
                    if let Some(id) = self.pong.take() {
                        room.send(Outgoing::Control(Answer::Pong(id)));
                    }
                }
            }
        }
        Ok(true)
    }

    /// Passes a data frame on piece by piece: it may be larger than anyone wants to hold.
    async fn data(&mut self, stream: u32, fin: bool, mut len: usize) -> io::Result<bool> {
        while len > 0 {
            if !self.fill(1).await? {
                return Ok(false);
            }
            let piece = self.buffer.split_to(len.min(self.buffer.len()));
            len -= piece.len();
            if let Some(inlet) = self.streams.get_mut(&stream) {
                inlet.deliver(stream, &piece, &self.queue, self.line).await?;
            }
        }
        if fin {
            self.finish(stream);
        }
        Ok(true)
    }

    async fn control(&mut self, control: Control) -> io::Result<()> {
        match control {
            Control::Open { stream, fin, headers } => self.open(stream, fin, headers).await,
            Control::Reset { stream } => {
                if let Some(inlet) = self.streams.remove(&stream) {
                    inlet.reset();
                }
                Ok(())
            }
            Control::Headers { stream, fin } => {
                if fin {
                    self.finish(stream);
                }
                Ok(())
            }
            // Odd numbers are the client's own pings; even ones answer ours, and we send none.
            Control::Ping { id } => {
                if id % 2 == 1 {
                    self.pong = Some(id);
                }
                Ok(())
            }
            // The client closes the connection when its streams are done.
            Control::GoAway | Control::Other => Ok(()),
        }
    }

    async fn open(&mut self, stream: u32, fin: bool, headers: Headers) -> io::Result<()> {
        self.reap();
        if stream.is_multiple_of(2) || stream <= self.last {
            return self.answer(Answer::Reset { stream, status: frame::PROTOCOL_ERROR }).await;
        }
        self.last = stream;
        if self.streams.len() >= MAX_STREAMS || self.opened.is_closed() || !(self.admit)(&headers) {
            return self.answer(Answer::Reset { stream, status: frame::REFUSED_STREAM }).await;
        }
        self.answer(Answer::Reply(stream)).await?;
        let (channel, mut inlet) = channel::open(stream, &self.queue, &mut self.pumps);
        if fin {
            inlet.finish();
        }
        self.streams.insert(stream, inlet);
        // A session that has all the streams it wants drops this one, which ends it.
        let _ = self.opened.send(Incoming { id: stream, headers, channel }).await;
        Ok(())
    }

    async fn answer(&self, answer: Answer) -> io::Result<()> {
        let sent = self.queue.send(Outgoing::Control(answer)).await;
        sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn finish(&mut self, stream: u32) {
        if let Some(inlet) = self.streams.get_mut(&stream) {
            inlet.finish();
            if inlet.is_over() {
                self.streams.remove(&stream);
            }
        }
    }

    /// Forgets streams whose output has ended since the last look, and whose input had before.
    fn reap(&mut self) {
        while let Some(ended) = self.pumps.try_join_next() {
            let Ok(stream) = ended else { continue };
            if self.streams.get(&stream).is_some_and(Inlet::is_over) {
                self.streams.remove(&stream);
            }
        }
    }
}

fn invalid(error: frame::FrameError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
