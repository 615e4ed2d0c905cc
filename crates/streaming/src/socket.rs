//! The accepted connection, and the two questions that are asked of it while others read and
//! write: is the peer still there, and does anything move?

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// A TCP connection of which the first bytes may have been read already.
#[derive(Debug)]
pub(crate) struct Socket {
    line: Arc<Line>,
    /// What the HTTP parser had read beyond the request.
    early: Bytes,
}

/// What is known of a connection without reading or writing.
#[derive(Debug)]
pub(crate) struct Line {
    tcp: TcpStream,
    opened: Instant,
    /// Milliseconds from `opened` to the last byte in either direction.
    moved: AtomicU64,
}

impl Socket {
    pub(crate) fn new(tcp: TcpStream, early: Bytes) -> Self {
        let line = Line { tcp, opened: Instant::now(), moved: AtomicU64::new(0) };
        Self { line: Arc::new(line), early }
    }

    pub(crate) fn line(&self) -> Arc<Line> {
        Arc::clone(&self.line)
    }
}

impl Line {
    /// Ready when the peer has closed its side, even if bytes that it sent before are unread.
    pub(crate) async fn hangup(&self) {
        // READ_CLOSED is part of every interest but WRITABLE; PRIORITY is the one that does not
        // fire for ordinary data. Urgent data has no meaning in our protocols: a peer that sends
        // some is treated as gone.
        let _ = self.tcp.ready(Interest::PRIORITY).await;
    }

    /// Ready when no byte has moved for `limit`.
    pub(crate) async fn idle(&self, limit: Duration) {
        loop {
            let moved = self.opened + Duration::from_millis(self.moved.load(Ordering::Relaxed));
            let Some(left) = limit.checked_sub(moved.elapsed()).filter(|left| !left.is_zero())
            else {
                return;
            };
            tokio::time::sleep(left).await;
        }
    }

    fn touch(&self) {
        let since = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved.store(since, Ordering::Relaxed);
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.early.has_remaining() {
            let take = self.early.len().min(buf.remaining());
            buf.put_slice(&self.early.split_to(take));
            return Poll::Ready(Ok(()));
        }
        loop {
            ready!(self.line.tcp.poll_read_ready(cx))?;
            match self.line.tcp.try_read_buf(buf) {
                Ok(_) => {
                    self.line.touch();
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.line.tcp.poll_write_ready(cx))?;
            match self.line.tcp.try_write(data) {
                Ok(written) => {
                    self.line.touch();
                    return Poll::Ready(Ok(written));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The kernel sends the rest and the end of stream when the connection is dropped; a
        // half-closed TCP connection has no meaning in our protocols.
        Poll::Ready(Ok(()))
    }
}
