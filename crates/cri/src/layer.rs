//! The one place that tells of requests: what was asked, for how long, with what result.
//!
//! Each request gets a number. Its span carries the number, the method and, once a handler has found
//! them, the pod's and the container's id, so that every line that is logged on its behalf names
//! them. What changes nothing is told at `debug`, everything else at `info`, a failure at `warn`.
//!
//! A request whose caller has no more time is answered here, with the code that gRPC has for that:
//! the library would call it cancelled, and whoever learns of it from us before his own clock tells
//! him would take it for something else.
//!
//! ```text
//!   request ─▶ number, span ─▶ handler ─▶ told ─┬─▶ answer
//!                                               └─▶ if it may have changed something: rest, later
//! ```

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::{HeaderMap, Request, Response};
use tokio::sync::Notify;
use tokio::time::timeout;
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::{Instrument, Span, debug, field, info, info_span, warn};

/// How much earlier than the library, whose clock was started before ours.
const AHEAD: Duration = Duration::from_millis(2);
/// How long after a change the memory that it left free is given back: late enough that a burst of
/// changes keeps what the next one needs, and a change each second seldom meets it.
const REST: Duration = Duration::from_secs(10);

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
    changed: Arc<Notify>,
}

impl Tell {
    /// Gives memory back some time after what changed something; runs until it is dropped. Without
    /// it, the daemon keeps what its busiest moment has needed.
    pub(crate) fn rest(&self) -> impl Future<Output = Infallible> + use<> {
        let changed = Arc::clone(&self.changed);
        async move {
            loop {
                changed.notified().await;
                tokio::time::sleep(REST).await;
                // It can only fail where the process ends.
                let _ = tokio::task::spawn_blocking(sys::heap::give_back_free).await;
            }
        }
    }
}

impl<S> Layer<S> for Tell {
    type Service = Told<S>;

    fn layer(&self, inner: S) -> Told<S> {
        Told { inner, tell: self.clone() }
    }
}

/// A service whose requests are told of.
#[derive(Debug, Clone)]
pub(crate) struct Told<S> {
    inner: S,
    tell: Tell,
}

impl<S, B, R> Service<Request<B>> for Told<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
    R: Default,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let number = self.tell.last.fetch_add(1, Ordering::Relaxed) + 1;
        let path = request.uri().path();
        let method = path.rsplit('/').next().unwrap_or(path).to_owned();
        let span = info_span!("rpc", number, method, pod = field::Empty, container = field::Empty,);
        let limit = limit(request.headers());
        let change = (!is_question(&method)).then(|| Change(Arc::clone(&self.tell.changed)));
        let answer = self.inner.call(request);
        let told = async move {
            let _change = change;
            let started = Instant::now();
            let result = match limit {
                None => answer.await,
                Some(limit) => match timeout(limit.saturating_sub(AHEAD), answer).await {
                    Ok(result) => result,
                    Err(_) => {
                        let words = format!("{method} took longer than its caller gave it");
                        let late = Status::deadline_exceeded(words);
                        tell(&method, started, Some(&late));
                        return Ok(late.into_http());
                    }
                },
            };
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

/// A request that may change something; it tells when it is over, also where its caller went away.
struct Change(Arc<Notify>);

impl Drop for Change {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

/// How much time a caller gives (`grpc-timeout`: up to eight digits and a unit).
fn limit(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let count: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
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
    fn callers_give_time_in_any_unit() {
        let limit = |text: &'static str| {
            limit(&HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-timeout"),
                http::HeaderValue::from_static(text),
            )]))
        };
        let seconds = |count| Some(Duration::from_secs(count));
        assert_eq!(
            (limit("2H"), limit("3M"), limit("4S")),
            (seconds(7200), seconds(180), seconds(4))
        );
        assert_eq!(limit("99999999m"), Some(Duration::from_millis(99_999_999)));
        assert_eq!(limit("999u"), Some(Duration::from_micros(999)));
        assert_eq!(limit("1n"), Some(Duration::from_nanos(1)));
        for bad in ["", "S", "-1S", "1", "1s", "123456789m"] {
            assert_eq!(limit(bad), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn what_may_change_something_is_rested_from_however_it_ends() {
        let hangs = tower::service_fn(|_: Request<()>| {
            std::future::pending::<Result<Response<tonic::body::Body>, Infallible>>()
        });
        let tell = Tell::default();
        let mut service = tell.layer(hangs);
        let mut goes_away = async |method: &str| {
            let request = Request::builder().uri(format!("/x/{method}")).body(()).unwrap();
            assert!(timeout(Duration::from_millis(1), service.call(request)).await.is_err());
            timeout(Duration::ZERO, tell.changed.notified()).await.is_ok()
        };
        assert!(!goes_away("ListPodSandbox").await);
        assert!(goes_away("RunPodSandbox").await);
    }

    #[tokio::test]
    async fn who_has_no_more_time_is_told_so() {
        let slow = tower::service_fn(|_: Request<()>| async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            Ok::<_, Infallible>(Response::new(tonic::body::Body::default()))
        });
        let request = Request::builder().header("grpc-timeout", "20m").body(()).unwrap();
        let answer = Tell::default().layer(slow).call(request).await.unwrap();
        let status = Status::from_header_map(answer.headers()).unwrap();
        assert_eq!(status.code(), Code::DeadlineExceeded);
    }

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
