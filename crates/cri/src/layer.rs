//! The one place that tells of requests: what was asked, for how long, with what result.
//!
//! Each request gets a number. Its span carries the number, the method and, once a handler has found
//! them, the pod's and the container's id, so that every line that is logged on its behalf names
//! them. What changes nothing is told at `debug`, everything else at `info`, a failure at `warn`.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use http::{Request, Response};
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::{Instrument, Span, debug, field, info, info_span, warn};

/// Records the pod that the present request is about.
pub(crate) fn about_pod(id: &str) {
    Span::current().record("pod", id);
}

/// Records the container that the present request is about.
pub(crate) fn about_container(id: &str) {
    Span::current().record("container", id);
}

/// Tells of every request that passes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tell {
    last: Arc<AtomicU64>,
}

impl<S> Layer<S> for Tell {
    type Service = Told<S>;

    fn layer(&self, inner: S) -> Told<S> {
        Told { inner, last: Arc::clone(&self.last) }
    }
}

/// A service whose requests are told of.
#[derive(Debug, Clone)]
pub(crate) struct Told<S> {
    inner: S,
    last: Arc<AtomicU64>,
}

impl<S, B, R> Service<Request<B>> for Told<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let path = request.uri().path();
        let method = path.rsplit('/').next().unwrap_or(path).to_owned();
        let span = info_span!("rpc", number, method, pod = field::Empty, container = field::Empty,);
        let answer = self.inner.call(request);
        let told = async move {
            let started = Instant::now();
            let result = answer.await;
            if let Ok(response) = &result {
                // A failure is told in the header; a success, only behind the body.
                let failure = response.extensions().get::<Status>();
                tell(&method, started, failure);
            }
            result
        };
        Box::pin(told.instrument(span))
    }
}

fn tell(method: &str, started: Instant, failure: Option<&Status>) {
    let ms = format!("{:.1}", started.elapsed().as_secs_f64() * 1000.0);
    match failure {
        Some(status) if is_routine(method, status.code()) => {
            debug!(ms, code = ?status.code(), error = status.message(), "failed");
        }
        Some(status) => warn!(ms, code = ?status.code(), error = status.message(), "failed"),
        None if is_question(method) => debug!(ms, "answered"),
        None => info!(ms, "done"),
    }
}

/// Whether a method changes nothing: the kubelet asks these all the time.
fn is_question(method: &str) -> bool {
    let beginnings = ["List", "Stream", "Version", "ImageFsInfo", "RuntimeConfig", "GetContainer"];
    beginnings.iter().any(|beginning| method.starts_with(beginning))
        || method.ends_with("Status")
        || method.ends_with("Stats")
}

/// Whether a failure is part of ordinary life: something was gone when it was asked for.
fn is_routine(method: &str, code: Code) -> bool {
    is_question(method) && code == Code::NotFound
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_known_by_their_names() {
        for method in
            ["ListContainers", "PodSandboxStatus", "ImageStatus", "Status", "ContainerStats"]
        {
            assert!(is_question(method), "{method}");
        }
        for method in ["RunPodSandbox", "ExecSync", "UpdateRuntimeConfig", "RemoveImage"] {
            assert!(!is_question(method), "{method}");
        }
    }
}
