//! Exec and attach: five streams and a status at the end.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, DuplexStream, ReadBuf};
use tokio::sync::{mpsc, oneshot, watch};

use crate::channel::{Channel, Outlet};
use crate::negotiate::Table;
use crate::session::{
    AttachRequest, ExecRequest, Resizes, Sessions, StreamSet, Streams, TerminalSize, Writer,
};
use crate::socket::Socket;
use crate::spdy::{self, Headers, Incoming};
use crate::status::Outcome;
use crate::websocket::{self, Codec};

/// How a command session travels.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wire {
    Spdy(Version),
    WebSocket(Codec, Version),
}

/// The version of the streams' protocol. v2 differs from v1 in what clients get wrong; v5 from v4
/// in the close signal of the WebSocket codec.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    V1,
    V2,
    /// Has a resize stream.
    V3,
    /// Ends with a status object.
    V4,
    V5,
}

impl Version {
    /// What the error stream says at the end.
    fn status(self, outcome: &Outcome) -> Vec<u8> {
        if self >= Self::V4 { outcome.json() } else { outcome.text().into_bytes() }
    }
}

pub(crate) const SPDY: &Table<Wire> = &[
    ("v4.channel.k8s.io", Wire::Spdy(Version::V4)),
    ("v3.channel.k8s.io", Wire::Spdy(Version::V3)),
    ("v2.channel.k8s.io", Wire::Spdy(Version::V2)),
    ("channel.k8s.io", Wire::Spdy(Version::V1)),
];

pub(crate) const WEBSOCKET: &Table<Wire> = &[
    ("v5.channel.k8s.io", Wire::WebSocket(Codec::BinaryWithClose, Version::V5)),
    ("v4.channel.k8s.io", Wire::WebSocket(Codec::Binary, Version::V4)),
    ("v4.base64.channel.k8s.io", Wire::WebSocket(Codec::Base64, Version::V4)),
    ("channel.k8s.io", Wire::WebSocket(Codec::Binary, Version::V1)),
    ("base64.channel.k8s.io", Wire::WebSocket(Codec::Base64, Version::V1)),
    ("", Wire::WebSocket(Codec::Binary, Version::V1)),
];

/// Stdin, stdout, stderr, error and resize, by their channel numbers in WebSocket.
const CHANNELS: u8 = 5;

/// Announced terminal sizes are a few dozen bytes of JSON.
const MAX_SIZE_JSON: usize = 1024;

/// What is to be run.
#[derive(Debug)]
pub(crate) enum Command {
    Exec(ExecRequest),
    Attach(AttachRequest),
}

impl Command {
    fn streams(&self) -> StreamSet {
        match self {
            Self::Exec(request) => request.streams,
            Self::Attach(request) => request.streams,
        }
    }

    async fn run(self, sessions: &impl Sessions, streams: Streams) -> Outcome {
        match self {
            Self::Exec(request) => match sessions.exec(request, streams).await {
                Ok(0) => Outcome::Success,
                Ok(code) => Outcome::ExitCode(code),
                Err(error) => Outcome::failure("cannot execute the command", &*error),
            },
            Self::Attach(request) => match sessions.attach(request, streams).await {
                Ok(()) => Outcome::Success,
                Err(error) => Outcome::failure("cannot attach to the container", &*error),
            },
        }
    }
}

/// Serves a command session on an upgraded connection.
pub(crate) async fn serve(
    socket: Socket,
    wire: Wire,
    command: Command,
    sessions: &impl Sessions,
    idle: Duration,
    creation: Duration,
) -> io::Result<()> {
    match wire {
        Wire::Spdy(version) => {
            let line = socket.line();
            let session = |incoming| async move {
                let wanted = command.streams();
                match collect(incoming, wanted, version, creation).await {
                    Ok(channels) => channels.run(command, sessions, version).await,
                    Err(Some(error)) => {
                        let missing = "not all streams were created in time";
                        let outcome = Outcome::Failure(missing.into());
                        error.finish(&version.status(&outcome)).await;
                    }
                    Err(None) => {}
                }
            };
            spdy::serve(socket, &line, idle, is_command_stream, session).await
        }
        Wire::WebSocket(codec, version) => {
            let wanted = command.streams();
            let session = |channels: Vec<Channel>| async move {
                let Ok([stdin, stdout, stderr, error, resize]) =
                    <[Channel; CHANNELS as usize]>::try_from(channels)
                else {
                    return;
                };
                let channels = Channels {
                    stdin: wanted.stdin.then_some(stdin),
                    stdout: wanted.stdout.then(|| stdout.into_outlet()),
                    stderr: wanted.stderr.then(|| stderr.into_outlet()),
                    error: error.into_outlet(),
                    resize: Some(resize),
                };
                channels.run(command, sessions, version).await;
            };
            // An empty message tells the client that the session has begun.
            let first = match wanted {
                StreamSet { stdout: true, .. } => 1,
                StreamSet { stderr: true, .. } => 2,
                _ => 3,
            };
            let opening = vec![(first, Bytes::new())];
            websocket::serve(socket, idle, codec, CHANNELS, opening, session).await
        }
    }
}

fn is_command_stream(headers: &Headers) -> bool {
    matches!(headers.get("streamtype"), Some("stdin" | "stdout" | "stderr" | "error" | "resize"))
}

/// Waits until a SPDY client has created all streams of the request. When it does not, gives its
/// error stream, if at least that is there.
async fn collect(
    mut incoming: mpsc::Receiver<Incoming>,
    wanted: StreamSet,
    version: Version,
    creation: Duration,
) -> Result<Channels, Option<Outlet>> {
    let resize = wanted.tty && version >= Version::V3;
    let expected = [
        ("error", true),
        ("stdin", wanted.stdin),
        ("stdout", wanted.stdout),
        ("stderr", wanted.stderr),
        ("resize", resize),
    ];
    let mut found = HashMap::new();
    let all = async {
        while expected.iter().any(|(name, wanted)| *wanted && !found.contains_key(*name)) {
            let Some(stream) = incoming.recv().await else { return false };
            if let Some(name) = stream.headers.get("streamtype") {
                found.entry(name.to_owned()).or_insert(stream.channel);
            }
        }
        true
    };
    let complete = tokio::time::timeout(creation, all).await.unwrap_or(false);
    let mut take = |name, wanted: bool| found.remove(name).filter(|_| wanted);
    match take("error", true).map(Channel::into_outlet) {
        Some(error) if complete => Ok(Channels {
            stdin: take("stdin", wanted.stdin),
            stdout: take("stdout", wanted.stdout).map(Channel::into_outlet),
            stderr: take("stderr", wanted.stderr).map(Channel::into_outlet),
            error,
            resize: take("resize", resize),
        }),
        error => Err(error),
    }
}

/// The streams of a session, whatever carries them.
struct Channels {
    stdin: Option<Channel>,
    stdout: Option<Outlet>,
    stderr: Option<Outlet>,
    error: Outlet,
    resize: Option<Channel>,
}

impl Channels {
    /// Runs the command; when it is done and its output on its way, tells how it ended.
    async fn run(self, command: Command, sessions: &impl Sessions, version: Version) {
        let (stdout, stdout_done) = self.stdout.map(writer).unzip();
        let (stderr, stderr_done) = self.stderr.map(writer).unzip();
        let (sizes, resizes) = Resizes::channel();
        let streams = Streams {
            stdin: self.stdin.map(|channel| Box::new(Input::new(channel)) as _),
            stdout,
            stderr,
            resizes,
        };
        let resizing = async {
            match self.resize {
                Some(channel) => resize(channel.input, sizes).await,
                None => drop(sizes),
            }
            std::future::pending().await
        };
        let outcome = tokio::select! {
            outcome = command.run(sessions, streams) => outcome,
            never = resizing => never,
        };
        // An error means that the client does not want the rest: no reason to wait for it.
        for done in [stdout_done, stderr_done].into_iter().flatten() {
            let _ = done.await;
        }
        self.error.finish(&version.status(&outcome)).await;
    }
}

fn writer(outlet: Outlet) -> (Writer, oneshot::Receiver<()>) {
    (Box::new(outlet.output), outlet.done)
}

/// Standard input. The way back is held open with it: SPDY clients take its end as a sign that
/// the process reads no more, and close their side.
struct Input {
    input: DuplexStream,
    _back: DuplexStream,
}

impl Input {
    fn new(channel: Channel) -> Self {
        Self { input: channel.input, _back: channel.output }
    }
}

impl AsyncRead for Input {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.input).poll_read(cx, buf)
    }
}

/// Publishes the sizes that arrive, one JSON object after the other. What is not a size ends the
/// stream; a size without columns or rows is what clients without a terminal announce.
async fn resize(mut input: DuplexStream, sizes: watch::Sender<TerminalSize>) {
    let mut pending = Vec::new();
    while pending.len() < MAX_SIZE_JSON {
        match input.read_buf(&mut pending).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let mut objects = serde_json::Deserializer::from_slice(&pending).into_iter();
        let mut newest = None;
        loop {
            match objects.next() {
                Some(Ok(TerminalSize { width: 0, .. } | TerminalSize { height: 0, .. })) => {}
                Some(Ok(size)) => newest = Some(size),
                Some(Err(error)) if !error.is_eof() => return,
                _ => break,
            }
        }
        let parsed = objects.byte_offset();
        pending.drain(..parsed);
        if let Some(size) = newest {
            sizes.send_replace(size);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn sizes_arrive_in_any_pieces() {
        let (mut client, input) = tokio::io::duplex(64);
        let (sizes, mut resizes) = Resizes::channel();
        let reading = tokio::spawn(resize(input, sizes));
        client.write_all(br#"{"Width":0,"Height":0}"#).await.unwrap();
        client.write_all(b"\n{\"Width\":80,\"Hei").await.unwrap();
        tokio::task::yield_now().await;
        client.write_all(b"ght\":24}\n").await.unwrap();
        assert_eq!(resizes.next().await, Some(TerminalSize { width: 80, height: 24 }));
        let several = br#"{"Width":1,"Height":2}{"Width":3,"Height":4}{"Width":0,"Height":5}"#;
        client.write_all(several).await.unwrap();
        assert_eq!(resizes.next().await, Some(TerminalSize { width: 3, height: 4 }));
        drop(client);
        assert_eq!(resizes.next().await, None);
        reading.await.unwrap();
    }

    #[tokio::test]
    async fn what_is_no_size_ends_the_stream() {
        for garbage in [&b"[1,2,3,4]"[..], b"{\"Width\":70000}", &[b' '; 2000], b"{{"] {
            let (mut client, input) = tokio::io::duplex(4096);
            let (sizes, mut resizes) = Resizes::channel();
            let writing = async move {
                let _ = client.write_all(garbage).await;
            };
            tokio::join!(writing, resize(input, sizes));
            assert_eq!(resizes.next().await, None);
        }
    }
}
