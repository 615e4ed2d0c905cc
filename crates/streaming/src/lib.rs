//! Serves exec, attach and port-forward sessions over SPDY/3.1 and WebSocket against a Session trait; knows no pods.
//!
//! CRI splits a session in two. The gRPC call (`Exec`, `Attach`, `PortForward`) returns a URL;
//! the client then connects to that URL and upgrades the HTTP connection:
//!
//! ```text
//! gRPC Exec ──► Server::exec_url ──► http://127.0.0.1:41873/exec/<token>
//!
//! client ── HTTP upgrade ──► server        token taken, protocol negotiated, 101
//!                              │
//!              SPDY/3.1 ◄──────┴──────► WebSocket        one task drives the connection;
//!              streams by header        channels by number   a stream becomes a Channel
//!                              │
//!                    command / port_forward              stdin, stdout, stderr, error,
//!                              │                         resize; or pairs of data and error
//!                        trait Sessions                  the implementor sees byte streams
//! ```
//!
//! One task owns a connection, and everything that belongs to it ends with that task: when the
//! client goes away, the connection is idle for too long or the server shuts down, the future of
//! the running session is dropped. A session that ends first has its output delivered to the last
//! byte, however slow the client reads, before the exit status follows and the connection closes.
//!
//! Memory is bounded: a stream has a pipe of 64 KiB in either direction, a connection a short queue
//! of frames towards the socket, and everything behind that is held back by TCP.

mod channel;
mod command;
mod negotiate;
mod port_forward;
mod server;
mod session;
mod socket;
mod spdy;
mod status;
mod tokens;
mod websocket;

pub use server::{Config, Server};
pub use session::{
    AttachRequest, ExecRequest, PortForwardRequest, Reader, RequestError, Resizes, SessionError,
    Sessions, StreamSet, Streams, TerminalSize, Writer,
};
