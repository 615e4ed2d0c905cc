//! The gRPC edge: parse, call, render, map errors, one instrumentation layer.
//!
//! ```text
//! request ─▶ layer ─▶ parse ─▶ pods / images / streaming ─▶ render ─▶ answer
//!            told     model types                │
//!                                              error ─▶ status ─▶ code and text
//! ```
//!
//! Messages of the wire stop here: nothing below knows them. A handler has the name of its call, and
//! does nothing but these three steps; what a call means is decided below.

mod archives;
mod error;
mod image;
mod layer;
mod node;
mod parse;
mod render;
mod runtime;
mod status;

pub use node::Node;

use std::future::Future;
use std::sync::Arc;

use cri_proto::minke::v1::archives_server::ArchivesServer;
use cri_proto::runtime::v1::image_service_server::ImageServiceServer;
use cri_proto::runtime::v1::runtime_service_server::RuntimeServiceServer;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

/// The largest message in either direction: what the kubelet's client takes.
const MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// What answers the calls.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Pods and containers.
    pub pods: pods::Runtime,
    /// Images.
    pub images: Arc<images::Store>,
    /// URLs for exec, attach and port-forward.
    pub streaming: streaming::Server<pods::Runtime>,
    /// What this node offers.
    pub node: Node,
}

/// All services on the socket.
#[derive(Debug, Clone)]
struct Edge {
    parts: Arc<Parts>,
    /// Becomes true when the server ends: streams without an end of their own end then.
    ending: watch::Receiver<bool>,
}

/// Serves the Container Runtime Interface until `shutdown` is ready and the calls under way have
/// been answered. Streams of events end at once.
///
/// # Errors
/// The listener failed.
pub async fn serve(
    parts: Parts,
    listener: UnixListener,
    shutdown: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let (end, ending) = watch::channel(false);
    let edge = Edge { parts: Arc::new(parts), ending };
    let runtime = RuntimeServiceServer::new(edge.clone())
        .max_decoding_message_size(MESSAGE_BYTES)
        .max_encoding_message_size(MESSAGE_BYTES);
    let archives = ArchivesServer::new(edge.clone());
    let image = ImageServiceServer::new(edge)
        .max_decoding_message_size(MESSAGE_BYTES)
        .max_encoding_message_size(MESSAGE_BYTES);
    let shutdown = async move {
        shutdown.await;
        end.send_replace(true);
    };
    let tell = layer::Tell::default();
    let rest = tell.rest();
    let served = Server::builder()
        .layer(tell)
        .add_service(runtime)
        .add_service(image)
        .add_service(archives)
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), shutdown);
    tokio::select! {
        served = served => served,
        never = rest => match never {},
    }
}
