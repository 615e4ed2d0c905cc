//! A SPDY client as small as it can be, written without the server's codec.

use std::collections::HashMap;

use flate2::{Compress, Compression, FlushCompress};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// Sends a request for an upgrade and returns the answer's status line and headers.
pub(crate) async fn request(url: &str, headers: &str) -> (TcpStream, String) {
    let (host, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut io = TcpStream::connect(host).await.unwrap();
    let request = format!("POST /{path} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n");
    io.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    while !answer.ends_with("\r\n\r\n") {
        answer.push(char::from(io.read_u8().await.unwrap()));
    }
    (io, answer)
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    Reply(u32),
    Data(u32, Vec<u8>, bool),
    Reset(u32),
    Ping(u32),
}

pub(crate) struct Client<I> {
    io: I,
    compress: Compress,
    last: u32,
}

impl Client<TcpStream> {
    pub(crate) async fn connect(url: &str, protocol: &str) -> Self {
        let headers = format!(
            "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
             X-Stream-Protocol-Version: unknown\r\nX-Stream-Protocol-Version: {protocol}\r\n\
             Content-Length: 0\r\n"
        );
        let (io, answer) = request(url, &headers).await;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        let chosen = format!("x-stream-protocol-version: {protocol}\r\n");
        assert!(answer.to_lowercase().contains(&chosen), "{answer}");
        Self::new(io)
    }

    pub(crate) async fn is_closed(&mut self) -> bool {
        matches!(self.io.read(&mut [0; 1]).await, Ok(0) | Err(_))
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> Client<I> {
    pub(crate) fn new(io: I) -> Self {
        Self { io, compress: Compress::new(Compression::best(), true), last: 0 }
    }

    /// Asks for a stream and gives its number, without waiting for the reply.
    pub(crate) async fn ask(&mut self, headers: &[(&str, &str)]) -> u32 {
        self.last = if self.last == 0 { 1 } else { self.last + 2 };
        let mut plain = (headers.len() as u32).to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend((text.len() as u32).to_be_bytes());
            plain.extend(text.as_bytes());
        }
        let mut block = Vec::with_capacity(1024);
        self.compress.compress_vec(&plain, &mut block, FlushCompress::Sync).unwrap();
        let mut frame = vec![0x80, 3, 0, 1];
        frame.extend((10 + block.len() as u32).to_be_bytes());
        frame.extend(self.last.to_be_bytes());
        frame.extend([0; 6]);
        frame.extend(block);
        self.raw(&frame).await;
        self.last
    }

    /// Opens a stream and waits for the reply.
    pub(crate) async fn open(&mut self, headers: &[(&str, &str)]) -> u32 {
        let stream = self.ask(headers).await;
        assert_eq!(self.frame().await, Some(Frame::Reply(stream)));
        stream
    }

    pub(crate) async fn data(&mut self, stream: u32, data: &[u8], fin: bool) {
        let mut frame = stream.to_be_bytes().to_vec();
        frame.extend((data.len() as u32 | u32::from(fin) << 24).to_be_bytes());
        frame.extend(data);
        self.raw(&frame).await;
    }

    pub(crate) async fn reset(&mut self, stream: u32) {
        let mut frame = vec![0x80, 3, 0, 3, 0, 0, 0, 8];
        frame.extend(stream.to_be_bytes());
        frame.extend(5_u32.to_be_bytes());
        self.raw(&frame).await;
    }

    pub(crate) async fn raw(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).await.unwrap();
        self.io.flush().await.unwrap();
    }

    /// The next frame; `None` when the server has closed the connection.
    pub(crate) async fn frame(&mut self) -> Option<Frame> {
        let first = self.io.read_u32().await.ok()?;
        let second = self.io.read_u32().await.unwrap();
        let mut payload = vec![0; (second & 0xff_ffff) as usize];
        self.io.read_exact(&mut payload).await.unwrap();
        if first & 1 << 31 == 0 {
            return Some(Frame::Data(first, payload, second >> 24 == 1));
        }
        assert_eq!(first >> 16, 0x8003, "version 3");
        let word = u32::from_be_bytes(payload[..4].try_into().unwrap());
        Some(match first & 0xffff {
            2 => Frame::Reply(word),
            3 => Frame::Reset(word),
            6 => Frame::Ping(word),
            other => panic!("frame of type {other}"),
        })
    }

    /// What comes on each of `streams` until all of them have ended.
    pub(crate) async fn collect(&mut self, streams: &[u32]) -> Vec<String> {
        let mut open: Vec<u32> = streams.to_vec();
        let mut texts: HashMap<u32, Vec<u8>> = HashMap::new();
        while !open.is_empty() {
            let Some(Frame::Data(stream, data, fin)) = self.frame().await else {
                panic!("streams {open:?} have no end");
            };
            texts.entry(stream).or_default().extend(data);
            open.retain(|open| !(fin && *open == stream));
        }
        let text = |stream| String::from_utf8(texts.remove(stream).unwrap_or_default()).unwrap();
        streams.iter().map(text).collect()
    }
}
