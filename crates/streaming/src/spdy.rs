//! The part of SPDY/3.1 that Kubernetes clients speak, server side.
//!
//! Streams are opened by the client only, and a stream's purpose is in its headers. The windows of
//! SPDY's flow control are not used: the one client implementation that exists (behind kubectl,
//! crictl and the API server) neither counts them nor grants them, so whoever waited for a grant
//! would wait for ever. TCP holds both sides back instead.
//!
//! - [`frame`]: bytes to frames and back;
//! - [`headers`]: the compressed header blocks;
//! - [`connection`]: the streams of one connection.

mod connection;
mod frame;
mod headers;

pub(crate) use connection::{Incoming, serve};
pub(crate) use headers::Headers;
