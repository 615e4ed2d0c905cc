//! One stream of a connection, as pipes between the task that drives the connection and the
//! session.
//!
//! ```text
//!   connection                                    session
//!   Inlet::deliver ────────── input pipe ───────► Channel::input
//!   queue ◄── pump ◄───────── output pipe ─────── Channel::output
//!     └─► socket      └────── done ─────────────► Channel::done
//! ```
//!
//! A full input pipe stops the connection's reader, and with it all streams of that connection:
//! the protocols have no flow control that their clients honour, so TCP's is what there is.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};

use crate::socket::Line;

/// Bytes that wait in one direction of one stream.
const PIPE: usize = 64 * 1024;

/// Frames that wait for the socket. Each holds at most a full pipe.
const QUEUE: usize = 8;

/// How long the client may take to close the connection after it has been told everything. Its
/// close must come first: ours could overtake, and destroy, what is still on its way.
const LINGER: Duration = Duration::from_secs(5);

/// How long a session may go on when the client has closed the connection: what it sent before is
/// still in the pipes.
const FAREWELL: Duration = Duration::from_secs(1);

/// How often a client is made to show that it is still there while nothing is read from it.
const NUDGE: Duration = Duration::from_secs(5);

/// The session's end of a stream.
#[derive(Debug)]
pub(crate) struct Channel {
    /// What the client sends; when dropped, the rest is discarded.
    pub(crate) input: DuplexStream,
    /// What the client gets; when dropped or shut down, the stream is ended towards the client.
    pub(crate) output: DuplexStream,
    /// Resolves when all output, its end included, is on its way; to an error when the client
    /// will not get it, because it has reset the stream.
    pub(crate) done: oneshot::Receiver<()>,
}

impl Channel {
    /// For streams that lead to the client only: what it sends is discarded.
    pub(crate) fn into_outlet(self) -> Outlet {
        Outlet { output: self.output, done: self.done }
    }
}

/// The session's end of a stream that leads to the client.
#[derive(Debug)]
pub(crate) struct Outlet {
    pub(crate) output: DuplexStream,
    pub(crate) done: oneshot::Receiver<()>,
}

impl Outlet {
    /// Writes `text`, ends the stream, and waits until both are on their way.
    pub(crate) async fn finish(mut self, text: &[u8]) {
        if self.output.write_all(text).await.is_ok() {
            drop(self.output);
            let _ = self.done.await;
        }
    }
}

/// The connection's end of a stream, client to session.
#[derive(Debug)]
pub(crate) struct Inlet {
    /// `None` when the client has ended its half, or the session does not listen.
    input: Option<DuplexStream>,
    pump: AbortHandle,
}

/// What waits for the socket. `C` are the control frames of the protocol.
#[derive(Debug)]
pub(crate) enum Outgoing<C = Infallible> {
    Data {
        stream: u32,
        data: Bytes,
    },
    /// No more data on this stream.
    Fin {
        stream: u32,
    },
    Control(C),
    /// No more frames at all.
    Goodbye,
}

/// The sending side of a connection's queue.
pub(crate) type Queue<C = Infallible> = mpsc::Sender<Outgoing<C>>;

/// The queue of one connection.
pub(crate) fn queue<C>() -> (Queue<C>, mpsc::Receiver<Outgoing<C>>) {
    mpsc::channel(QUEUE)
}

/// Opens a stream: its two ends, and a pump among `pumps` that returns the stream's number when
/// all output has been queued.
pub(crate) fn open<C: Send + 'static>(
    stream: u32,
    queue: &Queue<C>,
    pumps: &mut JoinSet<u32>,
) -> (Channel, Inlet) {
    let (input, to_session) = tokio::io::duplex(PIPE);
    let (output, from_session) = tokio::io::duplex(PIPE);
    let (finished, done) = oneshot::channel();
    let pump = pumps.spawn(pump(stream, from_session, queue.clone(), finished));
    (Channel { input, output, done }, Inlet { input: Some(to_session), pump })
}

async fn pump<C>(
    stream: u32,
    mut output: DuplexStream,
    queue: Queue<C>,
    finished: oneshot::Sender<()>,
) -> u32 {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(PIPE / 4);
        let frame = match output.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => Outgoing::Fin { stream },
            Ok(_) => Outgoing::Data { stream, data: buffer.split().freeze() },
        };
        let last = matches!(frame, Outgoing::Fin { .. });
        if queue.send(frame).await.is_err() {
            return stream;
        }
        if last {
            let _ = finished.send(());
            return stream;
        }
    }
}

impl Inlet {
    /// Hands data to the session, waiting while its pipe is full. Data that the session does not
    /// want is dropped. Fails when the client hangs up meanwhile.
    pub(crate) async fn deliver<C>(
        &mut self,
        stream: u32,
        data: &[u8],
        queue: &Queue<C>,
        line: &Line,
    ) -> io::Result<()> {
        let Some(input) = &mut self.input else { return Ok(()) };
        // A client that goes away has the end of its bytes behind all those that we do not read.
        // But its kernel answers to ours with a reset: so send some that say nothing.
        let nudges = async {
            loop {
                tokio::time::sleep(NUDGE).await;
                let _ = queue.try_send(Outgoing::Data { stream, data: Bytes::new() });
            }
        };
        let written = tokio::select! {
            biased;
            written = input.write_all(data) => written,
            () = line.hangup() => return Err(io::ErrorKind::ConnectionAborted.into()),
            () = nudges => Ok(()),
        };
        if written.is_err() {
            self.input = None;
        }
        Ok(())
    }

    /// The client will send no more: end of file for the session, behind what it has not read.
    pub(crate) fn finish(&mut self) {
        self.input = None;
    }

    /// True when neither side can send any more.
    pub(crate) fn is_over(&self) -> bool {
        self.input.is_none() && self.pump.is_finished()
    }

    /// The client wants no more of this stream, in either direction.
    pub(crate) fn reset(self) {
        self.pump.abort();
    }
}

/// Runs a session over a connection whose two directions are `reading` and `writing`.
///
/// Returns when the client is gone and the session has had time for its last words, at an error, at
/// `idle` without a byte moved, or when the session is over and the client has everything. What is
/// unfinished by then is dropped.
pub(crate) async fn run<C>(
    line: &Line,
    idle: Duration,
    queue: Queue<C>,
    reading: impl Future<Output = io::Result<()>>,
    writing: impl Future<Output = io::Result<()>>,
    session: impl Future<Output = ()>,
) -> io::Result<()> {
    let mut reading = std::pin::pin!(reading);
    let mut writing = std::pin::pin!(writing);
    let mut session = std::pin::pin!(async {
        session.await;
        let _ = queue.send(Outgoing::Goodbye).await;
    });
    let mut over = false;
    loop {
        tokio::select! {
            read = &mut reading => {
                if !over {
                    let _ = tokio::time::timeout(FAREWELL, session).await;
                }
                return read;
            }
            written = &mut writing => {
                written?;
                break;
            }
            () = line.idle(idle) => return Err(io::ErrorKind::TimedOut.into()),
            () = &mut session, if !over => over = true,
        }
    }
    match tokio::time::timeout(LINGER, reading).await {
        Ok(read) => read,
        Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::Socket;
    use tokio::net::{TcpListener, TcpStream};

    async fn socket() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Socket::new(listener.accept().await.unwrap().0, Bytes::new()), client)
    }

    #[tokio::test]
    async fn a_full_pipe_waits_for_the_session_or_the_hangup() {
        let (socket, mut client) = socket().await;
        let line = socket.line();
        let (queue, _outgoing) = queue::<Infallible>();
        let mut pumps = JoinSet::new();
        let (mut channel, mut inlet) = open(1, &queue, &mut pumps);

        inlet.deliver(1, &[7; PIPE], &queue, &line).await.unwrap();
        let more = inlet.deliver(1, &[8], &queue, &line);
        tokio::time::timeout(Duration::from_millis(50), more).await.unwrap_err();
        let mut got = vec![0; PIPE];
        channel.input.read_exact(&mut got).await.unwrap();
        inlet.deliver(1, &[9; PIPE], &queue, &line).await.unwrap();

        // Unread bytes in the socket do not hide that the client is gone.
        client.write_all(b"unread").await.unwrap();
        drop(client);
        let gone = inlet.deliver(1, &[9], &queue, &line).await.unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::ConnectionAborted);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_is_nudged_while_nothing_is_read_from_it() {
        let (socket, _client) = socket().await;
        let line = socket.line();
        let (queue, mut outgoing) = queue::<Infallible>();
        let mut pumps = JoinSet::new();
        let (_channel, mut inlet) = open(1, &queue, &mut pumps);
        let full = inlet.deliver(1, &[7; 2 * PIPE], &queue, &line);
        tokio::time::timeout(3 * NUDGE, full).await.unwrap_err();
        for _ in 0..2 {
            let nudge = outgoing.try_recv().unwrap();
            assert!(matches!(nudge, Outgoing::Data { stream: 1, data } if data.is_empty()));
        }
    }

    #[tokio::test]
    async fn dropped_input_discards_and_dropped_output_ends() {
        let (socket, _client) = socket().await;
        let line = socket.line();
        let (queue, mut outgoing) = queue::<Infallible>();
        let mut pumps = JoinSet::new();
        let (channel, mut inlet) = open(3, &queue, &mut pumps);
        drop(channel.input);
        for _ in 0..3 {
            inlet.deliver(3, &[0; PIPE], &queue, &line).await.unwrap();
        }
        let mut output = channel.output;
        output.write_all(b"bye").await.unwrap();
        drop(output);
        let first = outgoing.recv().await.unwrap();
        assert!(matches!(first, Outgoing::Data { stream: 3, data } if data[..] == *b"bye"));
        assert!(matches!(outgoing.recv().await.unwrap(), Outgoing::Fin { stream: 3 }));
        channel.done.await.unwrap();
        assert_eq!(pumps.join_next().await.unwrap().unwrap(), 3);
    }

    #[tokio::test]
    async fn a_reset_is_seen_on_all_ends() {
        let (queue, _outgoing) = queue::<Infallible>();
        let mut pumps = JoinSet::new();
        let (mut channel, inlet) = open(5, &queue, &mut pumps);
        inlet.reset();
        channel.done.await.unwrap_err();
        assert_eq!(channel.input.read(&mut [0; 1]).await.unwrap(), 0);
        channel.output.write_all(b"x").await.unwrap_err();
    }

    #[tokio::test(start_paused = true)]
    async fn last_words_are_heard_and_a_deaf_session_is_not_waited_for() {
        let (socket, _client) = socket().await;
        let line = socket.line();
        let (queue, _outgoing) = queue::<Infallible>();
        let mut pumps = JoinSet::new();
        let (mut channel, mut inlet) = open(1, &queue, &mut pumps);
        let reading = async {
            inlet.deliver(1, b"words", &queue, &line).await?;
            drop(inlet);
            Ok(())
        };
        let mut heard = Vec::new();
        let session = async {
            // As long as it takes to reach the container.
            tokio::time::sleep(Duration::from_millis(100)).await;
            channel.input.read_to_end(&mut heard).await.unwrap();
        };
        let (forever, idle) = (std::future::pending, Duration::from_secs(60));
        run(&line, idle, queue.clone(), reading, forever(), session).await.unwrap();
        assert_eq!(heard, b"words");
        let gone = std::future::ready(Ok(()));
        run(&line, idle, queue, gone, forever(), std::future::pending()).await.unwrap();
    }

    #[tokio::test]
    async fn an_idle_line_ends_the_session() {
        let (socket, _client) = socket().await;
        let line = socket.line();
        let (queue, _outgoing) = queue::<Infallible>();
        let idle = Duration::from_millis(50);
        let forever = std::future::pending;
        let ended = run(&line, idle, queue, forever(), forever(), std::future::pending()).await;
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
