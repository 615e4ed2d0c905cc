//! What the server needs of the world, and what it gives to it.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

/// Why a session could not be run, or broke off. The client is shown the whole chain of causes.
pub type SessionError = Box<dyn Error + Send + Sync>;

/// Bytes from the client. End of file: the client has closed its half of the stream, or is gone.
pub type Reader = Box<dyn AsyncRead + Send + Unpin>;

/// Bytes to the client. Dropping (or shutting down) ends the stream after what was written has
/// been sent; writing fails with `BrokenPipe` when the client no longer listens.
pub type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// Runs the sessions that clients open.
///
/// Each call is one session. Its future is dropped when the client goes away, when nothing has
/// moved for [`Config::idle_timeout`](crate::Config::idle_timeout), or when the server shuts down:
/// whatever must happen then belongs into the drop of what the future holds.
pub trait Sessions: Send + Sync + 'static {
    /// A connection to a port inside a pod. A half-close towards the client is an end of file on
    /// reading, one from the client is a `shutdown`.
    type Connection: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// Runs a command in a container and returns its exit code, 0 to 255 (128 + n when signal n
    /// ended it).
    ///
    /// The session lasts until the future is ready *and* the writers in `streams` are dropped.
    fn exec(
        &self,
        request: ExecRequest,
        streams: Streams,
    ) -> impl Future<Output = Result<i32, SessionError>> + Send;

    /// Connects the streams to the container's main process; ready when that has ended, or when
    /// the container has nothing left to say.
    fn attach(
        &self,
        request: AttachRequest,
        streams: Streams,
    ) -> impl Future<Output = Result<(), SessionError>> + Send;

    /// Opens a connection to `port` on the pod's own localhost. Called once for each connection
    /// that the client forwards.
    fn port_forward(
        &self,
        pod: &str,
        port: u16,
    ) -> impl Future<Output = Result<Self::Connection, SessionError>> + Send;
}

/// Which streams a client asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamSet {
    /// The client sends input.
    pub stdin: bool,
    /// The client wants standard output (with a terminal: everything the terminal shows).
    pub stdout: bool,
    /// The client wants standard error; excludes `tty`, where there is only one output.
    pub stderr: bool,
    /// The streams belong to a terminal, whose size the client announces.
    pub tty: bool,
}

impl StreamSet {
    /// CRI's rules: at least one stream, and no separate standard error on a terminal.
    pub(crate) fn check(self) -> Result<(), RequestError> {
        if self.tty && self.stderr {
            return Err(RequestError::TtyWithStderr);
        }
        if !self.stdin && !self.stdout && !self.stderr {
            return Err(RequestError::NoStreams);
        }
        Ok(())
    }
}

/// CRI `Exec`: run a command in a running container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecRequest {
    /// Id of the container.
    pub container: String,
    /// The command and its arguments.
    pub command: Vec<String>,
    /// The streams to connect.
    pub streams: StreamSet,
}

/// CRI `Attach`: connect to the main process of a running container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachRequest {
    /// Id of the container.
    pub container: String,
    /// The streams to connect; `tty` as the container was created.
    pub streams: StreamSet,
}

/// CRI `PortForward`: reach ports on a pod's localhost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortForwardRequest {
    /// Id of the pod sandbox.
    pub pod: String,
    /// The ports that channels are opened for when the client speaks plain WebSocket. SPDY clients
    /// name the port with each stream, and usually leave this empty.
    pub ports: Vec<u16>,
}

/// Why no URL was given out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The request names no container or pod. InvalidArgument.
    #[error("{0} must be set")]
    MissingId(&'static str),
    /// InvalidArgument.
    #[error("tty and stderr cannot both be set")]
    TtyWithStderr,
    /// InvalidArgument.
    #[error("one of stdin, stdout and stderr must be set")]
    NoStreams,
    /// As many URLs as the server keeps have been given out and not used. ResourceExhausted; in
    /// HTTP terms 429 with this `Retry-After`.
    #[error("too many sessions are waiting for their client")]
    Full {
        /// After this long all of them have expired.
        retry_after: Duration,
    },
    /// More ports than plain WebSocket has channels for. InvalidArgument.
    #[error("more than {0} ports")]
    TooManyPorts(usize),
    /// The kernel gave no random bytes for the token.
    #[error("cannot make a session token")]
    Random(#[source] getrandom::Error),
}

/// The streams of one exec or attach session. `None` where the client did not ask for one.
pub struct Streams {
    /// From the client to the process.
    pub stdin: Option<Reader>,
    /// From the process to the client.
    pub stdout: Option<Writer>,
    /// From the process to the client; always `None` on a terminal.
    pub stderr: Option<Writer>,
    /// The client's terminal.
    pub resizes: Resizes,
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streams")
            .field("stdin", &self.stdin.is_some())
            .field("stdout", &self.stdout.is_some())
            .field("stderr", &self.stderr.is_some())
            .field("resizes", &self.resizes)
            .finish()
    }
}

/// Size of a terminal in character cells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// The sizes that the client's terminal takes. Only the newest counts: sizes that nobody has
/// looked at are overwritten.
#[derive(Debug)]
pub struct Resizes(watch::Receiver<TerminalSize>);

impl Resizes {
    /// A pair of ends; what is sent into the first comes out of the second.
    pub fn channel() -> (watch::Sender<TerminalSize>, Self) {
        let (sender, receiver) = watch::channel(TerminalSize::default());
        (sender, Self(receiver))
    }

    /// Waits for a size not seen before; `None` when no more will come. Cancel safe.
    pub async fn next(&mut self) -> Option<TerminalSize> {
        self.0.changed().await.ok()?;
        Some(*self.0.borrow_and_update())
    }
}
