//! Channels over WebSocket: the first byte of each message is the number of a channel, the rest
//! is its data. In the base64 variants number and data are text.
//!
//! A channel cannot be closed on its own, except by a client that speaks v5 and sends 255 and the
//! channel's number; the server ends everything at once with a close frame.

mod codec;
mod tunnel;

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::channel::{self, Channel, Inlet, Outgoing, Queue};
use crate::socket::{Line, Socket};

pub(crate) use codec::Codec;
use codec::Received;
pub(crate) use tunnel::Tunnel;

/// The largest message taken. There are clients that send a whole file in one, through an API
/// server that passes it on as it is.
const MAX_MESSAGE: usize = 32 << 20;

/// Bytes read from the socket at a time, held for the life of the connection.
const READ: usize = 16 * 1024;

/// Written messages are gathered up to this many bytes.
const GATHER: usize = 32 * 1024;

/// The server's side of a connection whose handshake is done.
pub(crate) async fn accept(socket: Socket) -> WebSocketStream<Socket> {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ)
        .write_buffer_size(GATHER)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    WebSocketStream::from_raw_socket(socket, Role::Server, Some(config)).await
}

/// Serves one connection with `channels` channels, on which the messages in `opening` come first.
/// Returns when the session is over or the client is gone.
pub(crate) async fn serve<F: Future<Output = ()>>(
    socket: Socket,
    idle: Duration,
    codec: Codec,
    channels: u8,
    opening: Vec<(u8, Bytes)>,
    session: impl FnOnce(Vec<Channel>) -> F,
) -> io::Result<()> {
    let line = socket.line();
    let (sink, messages) = accept(socket).await.split();
    let (queue, outgoing) = channel::queue();
    let mut pumps = JoinSet::new();
    let (session_ends, inlets) = (0..u32::from(channels))
        .map(|number| channel::open(number, &queue, &mut pumps))
        .unzip::<_, _, Vec<_>, Vec<_>>();
    let reading = read(messages, codec, inlets, queue.clone(), &line);
    let writing = write(sink, codec, outgoing);
    let openings = queue.clone();
    let session = async move {
        for (number, data) in opening {
            let _ = openings.send(Outgoing::Data { stream: number.into(), data }).await;
        }
        session(session_ends).await;
    };
    channel::run(&line, idle, queue, reading, writing, session).await
}

async fn read(
    mut messages: SplitStream<WebSocketStream<impl AsyncRead + AsyncWrite + Unpin>>,
    codec: Codec,
    mut inlets: Vec<Inlet>,
    queue: Queue,
    line: &Line,
) -> io::Result<()> {
    while let Some(message) = messages.next().await {
        let received = match message.map_err(broken)? {
            Message::Binary(data) => codec.decode(data),
            Message::Text(text) => codec.decode(text.into()),
            // Pings and closes are answered by the library, as it looks for the next message.
            _ => continue,
        };
        match received.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))? {
            Received::Data(number, data) => {
                if let Some(inlet) = inlets.get_mut(usize::from(number)) {
                    inlet.deliver(number.into(), &data, &queue, line).await?;
                }
            }
            Received::Close(number) => {
                if let Some(inlet) = inlets.get_mut(usize::from(number)) {
                    inlet.finish();
                }
            }
            Received::Nothing => {}
        }
    }
    Ok(())
}

async fn write(
    mut sink: SplitSink<WebSocketStream<impl AsyncRead + AsyncWrite + Unpin>, Message>,
    codec: Codec,
    mut outgoing: mpsc::Receiver<Outgoing>,
) -> io::Result<()> {
    while let Some(frame) = outgoing.recv().await {
        match frame {
            Outgoing::Data { stream, data } => {
                // Channel numbers are counted from a u8.
                let message = codec.encode(u8::try_from(stream).unwrap_or(u8::MAX), &data);
                sink.feed(message).await.map_err(broken)?;
            }
            // Clients do not know a close of one channel, not even those that send it.
            Outgoing::Fin { .. } => {}
            Outgoing::Control(never) => match never {},
            Outgoing::Goodbye => break,
        }
        if outgoing.is_empty() {
            sink.flush().await.map_err(broken)?;
        }
    }
    let close = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    match sink.send(Message::Close(Some(close))).await {
        // The client was faster.
        Ok(()) | Err(Error::ConnectionClosed | Error::Protocol(_)) => Ok(()),
        Err(error) => Err(broken(error)),
    }
}

fn broken(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        Error::ConnectionClosed | Error::AlreadyClosed => io::ErrorKind::ConnectionAborted.into(),
        error => io::Error::new(io::ErrorKind::InvalidData, error),
    }
}
