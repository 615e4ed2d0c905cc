//! A byte stream over WebSocket: messages are cut anywhere and mean nothing by themselves.
//!
//! It carries SPDY for clients that can open only WebSocket connections (`crictl port-forward
//! --transport websocket`, and kubectl towards the API server).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::broken;

/// The stream of bytes inside a WebSocket connection.
#[derive(Debug)]
pub(crate) struct Tunnel<S> {
    messages: WebSocketStream<S>,
    /// What is left of the last message.
    rest: Bytes,
}

impl<S> Tunnel<S> {
    pub(crate) fn new(messages: WebSocketStream<S>) -> Self {
        Self { messages, rest: Bytes::new() }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Tunnel<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.rest.has_remaining() {
            match ready!(Pin::new(&mut self.messages).poll_next(cx)).transpose().map_err(broken)? {
                Some(Message::Binary(data)) => self.rest = data,
                Some(Message::Text(_)) => {
                    return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                }
                None => return Poll::Ready(Ok(())),
                // Pings and closes are answered by the library, as it looks for the next message.
                Some(_) => {}
            }
        }
        let take = self.rest.len().min(buf.remaining());
        buf.put_slice(&self.rest.split_to(take));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Tunnel<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.messages).poll_ready(cx)).map_err(broken)?;
        let message = Message::Binary(Bytes::copy_from_slice(data));
        Pin::new(&mut self.messages).start_send(message).map_err(broken)?;
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.messages).poll_flush(cx).map_err(broken)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.messages).poll_close(cx).map_err(broken)
    }
}
