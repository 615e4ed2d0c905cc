//! The HTTP side: URLs out, connections in.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::{OnUpgrade, Parts};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::debug;

use crate::command::{self, Command};
use crate::negotiate::{self, Refusal};
use crate::port_forward;
use crate::session::{AttachRequest, ExecRequest, PortForwardRequest, RequestError, Sessions};
use crate::socket::Socket;
use crate::tokens::Tokens;

/// How long a connection may take to send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Pause after an accept that failed, most likely for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Limits of the server.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// A session in which no byte moves for this long is ended. 4 hours unless set.
    pub idle_timeout: Duration,
    /// How long a SPDY client may take to create the streams of a session, or the second of the
    /// two streams of a forwarded connection. 30 seconds unless set.
    pub stream_creation_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_secs(4 * 60 * 60),
            stream_creation_timeout: Duration::from_secs(30),
        }
    }
}

/// Gives out session URLs and serves those who come with them. Clones are handles to one server.
pub struct Server<S> {
    shared: Arc<Shared<S>>,
}

struct Shared<S> {
    base: String,
    config: Config,
    sessions: Arc<S>,
    tokens: Mutex<Tokens<Wanted>>,
}

/// What a token stands for.
#[derive(Debug)]
enum Wanted {
    Command(Command),
    PortForward(PortForwardRequest),
}

/// What an upgraded connection is for.
#[derive(Debug)]
enum Agreed {
    Command(command::Wire, Command),
    PortForward(port_forward::Wire, PortForwardRequest),
}

impl<S> Clone for Server<S> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<S> fmt::Debug for Server<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("base", &self.shared.base).finish_non_exhaustive()
    }
}

impl<S: Sessions> Server<S> {
    /// A server whose URLs lead to `address`, where [`Server::serve`] will listen.
    pub fn new(address: SocketAddr, config: Config, sessions: Arc<S>) -> Self {
        let base = format!("http://{address}");
        let shared = Shared { base, config, sessions, tokens: Mutex::new(Tokens::new()) };
        Self { shared: Arc::new(shared) }
    }

    /// The URL at which a client can start this exec session, once, within a minute.
    pub fn exec_url(&self, request: ExecRequest) -> Result<String, RequestError> {
        named("container_id", &request.container)?;
        request.streams.check()?;
        self.url(Wanted::Command(Command::Exec(request)))
    }

    /// The URL at which a client can start this attach session, once, within a minute.
    pub fn attach_url(&self, request: AttachRequest) -> Result<String, RequestError> {
        named("container_id", &request.container)?;
        request.streams.check()?;
        self.url(Wanted::Command(Command::Attach(request)))
    }

    /// The URL at which a client can start this port-forward session, once, within a minute.
    pub fn port_forward_url(&self, request: PortForwardRequest) -> Result<String, RequestError> {
        named("pod_sandbox_id", &request.pod)?;
        if request.ports.len() > port_forward::MAX_PORTS {
            return Err(RequestError::TooManyPorts(port_forward::MAX_PORTS));
        }
        self.url(Wanted::PortForward(request))
    }

    fn url(&self, wanted: Wanted) -> Result<String, RequestError> {
        let kind = wanted.kind();
        let mut tokens = self.shared.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let token = tokens.insert(wanted, Instant::now())?;
        Ok(format!("{}/{kind}/{token}", self.shared.base))
    }

    /// Serves connections until `shutdown` is ready, and returns when the last session has been
    /// dropped after that.
    pub async fn serve(&self, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        let mut connections = JoinSet::new();
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                () = &mut shutdown => break,
                Some(_) = connections.join_next() => continue,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((tcp, _)) => {
                    connections.spawn(Arc::clone(&self.shared).connection(tcp));
                }
                Err(error) => {
                    debug!(%error, "cannot accept a streaming connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        connections.shutdown().await;
    }
}

fn named(field: &'static str, id: &str) -> Result<(), RequestError> {
    if id.is_empty() { Err(RequestError::MissingId(field)) } else { Ok(()) }
}

impl<S: Sessions> Shared<S> {
    /// One connection: HTTP until the upgrade, then the session.
    async fn connection(self: Arc<Self>, tcp: TcpStream) {
        // A keystroke must not wait for the next one.
        let _ = tcp.set_nodelay(true);
        let upgrade = Mutex::new(None);
        let service = service_fn(|request| {
            let answer = self.answer(request, &upgrade);
            std::future::ready(Ok::<_, Infallible>(answer))
        });
        let http = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(REQUEST_TIMEOUT)
            .serve_connection(TokioIo::new(tcp), service)
            .with_upgrades()
            .await;
        if let Err(error) = http {
            debug!(%error, "streaming connection ended before its session");
            return;
        }
        let upgrade = upgrade.into_inner().unwrap_or_else(PoisonError::into_inner);
        let Some((agreed, upgrade)) = upgrade else { return };
        let Some(socket) = upgraded(upgrade).await else { return };
        if let Err(error) = self.session(agreed, socket).await {
            debug!(%error, "streaming session broke off");
        }
    }

    async fn session(self: &Arc<Self>, agreed: Agreed, socket: Socket) -> std::io::Result<()> {
        let Config { idle_timeout: idle, stream_creation_timeout: creation } = self.config;
        match agreed {
            Agreed::Command(wire, command) => {
                command::serve(socket, wire, command, &*self.sessions, idle, creation).await
            }
            Agreed::PortForward(wire, request) => {
                let sessions = Arc::clone(&self.sessions);
                port_forward::serve(socket, wire, request, sessions, idle, creation).await
            }
        }
    }

    /// Answers a request; when that is an upgrade, leaves what follows in `upgrade`.
    fn answer(
        &self,
        mut request: Request<Incoming>,
        upgrade: &Mutex<Option<(Agreed, OnUpgrade)>>,
    ) -> Response<Full<Bytes>> {
        match self.agree(&request) {
            Ok((agreed, headers)) => {
                let next = (agreed, hyper::upgrade::on(&mut request));
                *upgrade.lock().unwrap_or_else(PoisonError::into_inner) = Some(next);
                let mut response = Response::new(Full::default());
                *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                *response.headers_mut() = headers;
                response
            }
            Err(refusal) => refused(refusal),
        }
    }

    /// Takes the token and chooses the protocol. A token is spent even if its client then turns
    /// out to speak nothing that is known.
    fn agree(&self, request: &Request<Incoming>) -> Result<(Agreed, HeaderMap), Refusal> {
        if !matches!(*request.method(), Method::GET | Method::POST) {
            let message = "sessions are opened by GET or POST";
            return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, message));
        }
        let wanted = request.uri().path().strip_prefix('/').and_then(|path| path.split_once('/'));
        let wanted = wanted.and_then(|(kind, token)| {
            let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
            tokens.take(token, Instant::now()).filter(|wanted| wanted.kind() == kind)
        });
        let headers = request.headers();
        match wanted {
            Some(Wanted::Command(command)) => {
                negotiate::negotiate(headers, command::SPDY, command::WEBSOCKET)
                    .map(|(wire, answer)| (Agreed::Command(wire, command), answer))
            }
            Some(Wanted::PortForward(request)) => {
                negotiate::negotiate(headers, port_forward::SPDY, port_forward::WEBSOCKET)
                    .map(|(wire, answer)| (Agreed::PortForward(wire, request), answer))
            }
            None => Err(Refusal::new(StatusCode::NOT_FOUND, "no such session, or no longer")),
        }
    }
}

impl Wanted {
    /// The first part of the URL's path.
    fn kind(&self) -> &'static str {
        match self {
            Self::Command(Command::Exec(_)) => "exec",
            Self::Command(Command::Attach(_)) => "attach",
            Self::PortForward(_) => "portforward",
        }
    }
}

async fn upgraded(upgrade: OnUpgrade) -> Option<Socket> {
    let Parts { io, read_buf, .. } = upgrade.await.ok()?.downcast::<TokioIo<TcpStream>>().ok()?;
    Some(Socket::new(io.into_inner(), read_buf))
}

fn refused(refusal: Refusal) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(refusal.message));
    *response.status_mut() = refusal.status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    for (name, value) in refusal.headers {
        headers.append(name, value);
    }
    response
}
