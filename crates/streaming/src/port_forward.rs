//! Port-forward: any number of connections to ports of a pod, each with a data stream and an
//! error stream.
//!
//! One connection's end is never the session's: it ends its own two streams. The error stream says
//! why a connection could not be opened, and nothing else, since clients take any message there
//! for the end of everything.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, DuplexStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::channel::{Channel, Outlet};
use crate::negotiate::Table;
use crate::session::{PortForwardRequest, Sessions};
use crate::socket::Socket;
use crate::spdy::{self, Headers, Incoming};
use crate::status;
use crate::websocket::{self, Codec, Tunnel};

/// How a port-forward session travels.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wire {
    Spdy,
    /// SPDY inside WebSocket.
    Tunnel,
    WebSocket(Codec),
}

pub(crate) const SPDY: &Table<Wire> = &[("portforward.k8s.io", Wire::Spdy)];

pub(crate) const WEBSOCKET: &Table<Wire> = &[
    ("SPDY/3.1+portforward.k8s.io", Wire::Tunnel),
    ("v4.channel.k8s.io", Wire::WebSocket(Codec::Binary)),
    ("v4.base64.channel.k8s.io", Wire::WebSocket(Codec::Base64)),
    ("", Wire::WebSocket(Codec::Binary)),
];

/// Two channels for each port, and no more than the number of a channel can count.
pub(crate) const MAX_PORTS: usize = 127;

/// Bytes copied at a time.
const COPY: usize = 32 * 1024;

/// Serves a port-forward session on an upgraded connection.
pub(crate) async fn serve<S: Sessions>(
    socket: Socket,
    wire: Wire,
    request: PortForwardRequest,
    sessions: Arc<S>,
    idle: Duration,
    creation: Duration,
) -> io::Result<()> {
    let line = socket.line();
    let pod = request.pod;
    let streams =
        |incoming| forward_streams(incoming, pod.clone(), Arc::clone(&sessions), creation);
    match wire {
        Wire::Spdy => spdy::serve(socket, &line, idle, is_forward_stream, streams).await,
        Wire::Tunnel => {
            let tunnel = Tunnel::new(websocket::accept(socket).await);
            spdy::serve(tunnel, &line, idle, is_forward_stream, streams).await
        }
        Wire::WebSocket(codec) => {
            let ports = request.ports;
            // Not more than `MAX_PORTS`, which was checked when the URL was given out.
            let count = ports.len() as u8 * 2;
            // Each channel begins with its port, little-endian.
            let opening = (0..count)
                .map(|number| (number, ports[usize::from(number / 2)]))
                .map(|(number, port)| (number, Bytes::copy_from_slice(&port.to_le_bytes())))
                .collect();
            let session = |channels| forward_channels(channels, &pod, ports, &*sessions);
            websocket::serve(socket, idle, codec, count, opening, session).await
        }
    }
}

/// A stream's purpose, if it has one.
fn is_forward_stream(headers: &Headers) -> bool {
    matches!(headers.get("streamtype"), Some("data" | "error")) && port(headers).is_some()
}

fn port(headers: &Headers) -> Option<u16> {
    headers.get("port")?.parse().ok().filter(|port| *port != 0)
}

/// The streams of one connection to a port, as far as they have come.
#[derive(Debug)]
struct Pair {
    port: u16,
    data: Option<Channel>,
    error: Option<Outlet>,
    /// When the other stream must be there.
    until: Instant,
}

/// Opens a connection to the pod for each pair of SPDY streams, for as long as the client lives.
async fn forward_streams<S: Sessions>(
    mut incoming: mpsc::Receiver<Incoming>,
    pod: String,
    sessions: Arc<S>,
    creation: Duration,
) {
    let mut pairs = HashMap::new();
    let mut forwards = JoinSet::new();
    loop {
        let overdue = pairs.values().map(|pair: &Pair| pair.until).min();
        let expired = async {
            match overdue {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        let stream = tokio::select! {
            Some(stream) = incoming.recv() => stream,
            Some(_) = forwards.join_next() => continue,
            () = expired => {
                for (_, pair) in pairs.extract_if(|_, pair| pair.until <= Instant::now()) {
                    if let Some(error) = pair.error {
                        let text = b"not both streams of the connection were created in time";
                        forwards.spawn(error.finish(text));
                    }
                }
                continue;
            }
            else => return,
        };
        if let Some((port, data, error)) = complete(&mut pairs, stream, creation) {
            let (pod, sessions) = (pod.clone(), Arc::clone(&sessions));
            forwards.spawn(async move { forward(&pod, port, data, error, &*sessions, true).await });
        }
    }
}

/// Files a stream with its pair, and gives the pair out when both are there.
fn complete(
    pairs: &mut HashMap<String, Pair>,
    stream: Incoming,
    creation: Duration,
) -> Option<(u16, Channel, Outlet)> {
    let Incoming { id, headers, channel } = stream;
    let port = port(&headers)?;
    let is_data = headers.get("streamtype") == Some("data");
    // Old clients number nothing, and create first the error and then the data stream.
    let request = match headers.get("requestid") {
        Some(request) if !request.is_empty() => request.to_owned(),
        _ if is_data => id.saturating_sub(2).to_string(),
        _ => id.to_string(),
    };
    let pair = pairs.entry(request.clone()).or_insert_with(|| Pair {
        port,
        data: None,
        error: None,
        until: Instant::now() + creation,
    });
    // A second stream of one kind is dropped, which ends it.
    if is_data {
        pair.port = port;
        pair.data.get_or_insert(channel);
    } else {
        pair.error.get_or_insert_with(|| channel.into_outlet());
    }
    if pair.data.is_none() || pair.error.is_none() {
        return None;
    }
    let pair = pairs.remove(&request)?;
    Some((pair.port, pair.data?, pair.error?))
}

/// Opens one connection to each port; WebSocket channels cannot be used twice.
async fn forward_channels<S: Sessions>(
    channels: Vec<Channel>,
    pod: &str,
    ports: Vec<u16>,
    sessions: &S,
) {
    let mut channels = channels.into_iter();
    let forwards = ports.into_iter().filter_map(|port| {
        let (data, error) = (channels.next()?, channels.next()?.into_outlet());
        Some(async move { forward(pod, port, data, error, sessions, false).await })
    });
    futures_util::future::join_all(forwards).await;
}

/// One connection, from opening to its end. `half_close`: the client can be told that the pod has
/// finished while it goes on sending itself.
async fn forward<S: Sessions>(
    pod: &str,
    port: u16,
    data: Channel,
    error: Outlet,
    sessions: &S,
    half_close: bool,
) {
    let Channel { input, output, done } = data;
    let forwarded = async {
        let connection = sessions.port_forward(pod, port).await.map_err(|cause| {
            format!("cannot reach port {port} of the pod: {}", status::chain(&*cause))
        })?;
        relay(input, output, connection, half_close).await;
        Ok(())
    };
    let ended: Result<(), String> = tokio::select! {
        ended = forwarded => ended,
        // The client has reset the stream.
        true = async { done.await.is_err() } => Ok(()),
    };
    error.finish(ended.err().unwrap_or_default().as_bytes()).await;
}

/// Copies both ways until the pod has finished, and with `half_close` the client too. What the pod
/// no longer takes is no reason to lose what it still has to say.
async fn relay(
    mut input: DuplexStream,
    mut output: DuplexStream,
    connection: impl AsyncRead + AsyncWrite,
    half_close: bool,
) {
    let (from_pod, mut to_pod) = tokio::io::split(connection);
    let mut from_pod = BufReader::with_capacity(COPY, from_pod);
    let outward = async move {
        let copied = tokio::io::copy_buf(&mut from_pod, &mut output).await;
        if half_close && copied.is_ok() { Ok(()) } else { Err(()) }
    };
    let inward = async move {
        if tokio::io::copy(&mut input, &mut to_pod).await.is_ok() {
            let _ = to_pod.shutdown().await;
        }
        Ok(())
    };
    let _ = tokio::try_join!(outward, inward);
}
