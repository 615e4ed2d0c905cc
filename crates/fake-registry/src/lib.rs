//! A small registry that behaves, and misbehaves, as the public ones do: for tests alone.
//!
//! It panics where a test has set it up wrongly.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use base64::Engine;
use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use model::Digest;
use sha2::Digest as _;
use tokio::net::TcpListener;

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Who may pull.
#[derive(Debug, Clone, Default)]
pub enum Access {
    /// Anyone, without a word.
    #[default]
    Anyone,
    /// A user with a password (RFC 7617).
    Basic(&'static str, &'static str),
    /// Tokens for exactly the scope of the repository; with a password for those who have one, or
    /// for anyone.
    Token {
        /// User and password; none is anyone.
        password: Option<(&'static str, &'static str)>,
        /// How long one is good for.
        seconds: u64,
    },
    /// A token that the caller already has.
    Fixed(&'static str),
}

/// What it does otherwise than well.
#[derive(Debug, Clone, Default)]
pub struct Behaviour {
    /// Who may pull.
    pub access: Access,
    /// HEAD is answered with 405.
    pub head_refused: bool,
    /// Answers say no Docker-Content-Digest.
    pub no_digest_header: bool,
    /// The next so many requests get 429 and `Retry-After: 1`.
    pub too_many: u32,
    /// The next so many requests get 503; `u32::MAX` means for ever.
    pub unavailable: u32,
    /// Who asks for a part of a blob gets all of it.
    pub ranges_ignored: bool,
    /// Blobs come without their length.
    pub no_length: bool,
    /// The next so many blobs end after half of what is left.
    pub cuts: u32,
    /// The next so many blobs stop coming after half of what is left.
    pub stalls: u32,
    /// Blobs lie on another host: its base address.
    pub blobs_at: Option<String>,
    /// As object stores do that sign their addresses.
    pub refuse_authorization: bool,
    /// Blobs come with one byte changed.
    pub corrupt: bool,
    /// Pieces of bodies that are sent in pieces.
    pub pause_per_piece: Option<Duration>,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Seen {
    /// GET, HEAD, or POST for tokens.
    pub method: Method,
    /// From the slash on.
    pub path: String,
    /// Without the question mark; empty where there is none.
    pub query: String,
    /// The header of this name.
    pub authorization: Option<String>,
    /// The header of this name.
    pub range: Option<String>,
    /// All headers.
    pub headers: hyper::HeaderMap,
}

/// What a registry has and has seen.
#[derive(Debug, Default)]
pub struct State {
    /// How it behaves from now on.
    pub behaviour: Behaviour,
    /// By `repository/reference`.
    manifests: HashMap<String, (String, Bytes)>,
    blobs: HashMap<String, Bytes>,
    /// The requests so far.
    pub seen: Vec<Seen>,
    tokens: HashMap<String, (String, Instant)>,
    issued: u32,
}

/// A registry on a loopback port; gone when dropped.
#[derive(Debug)]
pub struct Fake {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    task: tokio::task::JoinHandle<()>,
}

/// What the registry calls these bytes.
pub fn digest(bytes: &[u8]) -> Digest {
    Digest::from_sha256(sha2::Sha256::digest(bytes).into())
}

impl Fake {
    /// Starts one that has nothing. Needs a tokio runtime.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&shared);
                connections.spawn(async move {
                    let service =
                        service_fn(move |request| answer(Arc::clone(&shared), address, request));
                    let http = hyper::server::conn::http1::Builder::new();
                    // A client that goes away is no failure of the registry.
                    let _ = http.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, state, task }
    }

    /// All of it, for as long as the guard lives.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Changes how it behaves.
    pub fn behave(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.state().behaviour);
    }

    /// `http://127.0.0.1:PORT`
    pub fn base(&self) -> String {
        format!("http://{}", self.address)
    }

    /// `127.0.0.1:PORT/repository`
    pub fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }

    /// Serves these bytes under their digest.
    pub fn put_blob(&self, bytes: impl Into<Bytes>) -> Digest {
        let bytes = bytes.into();
        let digest = digest(&bytes);
        self.state().blobs.insert(digest.to_string(), bytes);
        digest
    }

    /// Serves other bytes under a digest.
    pub fn forge_blob(&self, digest: &Digest, bytes: impl Into<Bytes>) {
        self.state().blobs.insert(digest.to_string(), bytes.into());
    }

    /// Serves a manifest under a tag and its digest, which it gives.
    pub fn put_manifest(
        &self,
        repository: &str,
        tag: &str,
        media_type: &str,
        text: &str,
    ) -> Digest {
        let bytes = Bytes::from(text.to_owned());
        let digest = digest(&bytes);
        let mut state = self.state();
        for reference in [tag, digest.as_str()] {
            let key = format!("{repository}/{reference}");
            state.manifests.insert(key, (media_type.to_owned(), bytes.clone()));
        }
        digest
    }

    /// Requests since the last call.
    pub fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.state().seen)
    }

    /// Forgets the tokens that were given out, as a restart would.
    pub fn revoke_tokens(&self) {
        self.state().tokens.clear();
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn full(status: u16, body: impl Into<Bytes>) -> Response<Body> {
    let body = Full::new(body.into()).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

fn with(mut response: Response<Body>, name: &'static str, value: &str) -> Response<Body> {
    response.headers_mut().insert(name, value.parse().unwrap());
    response
}

fn refusal(status: u16, code: &str) -> Response<Body> {
    full(status, format!(r#"{{"errors":[{{"code":"{code}","message":"no"}}]}}"#))
}

async fn answer(
    shared: Arc<Mutex<State>>,
    address: SocketAddr,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let header =
        |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let seen = Seen {
        method: request.method().clone(),
        path: request.uri().path().to_owned(),
        query: request.uri().query().unwrap_or_default().to_owned(),
        authorization: header("authorization"),
        range: header("range"),
        headers: request.headers().clone(),
    };
    let form = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let mut state = shared.lock().unwrap();
    state.seen.push(seen.clone());
    if seen.path == "/token" {
        return Ok(token(&mut state, &seen, &form));
    }
    if state.behaviour.unavailable > 0 {
        if state.behaviour.unavailable < u32::MAX {
            state.behaviour.unavailable -= 1;
        }
        return Ok(refusal(503, "UNAVAILABLE"));
    }
    if state.behaviour.too_many > 0 {
        state.behaviour.too_many -= 1;
        return Ok(with(refusal(429, "TOOMANYREQUESTS"), "retry-after", "1"));
    }
    if state.behaviour.refuse_authorization && seen.authorization.is_some() {
        return Ok(full(400, "<Error>Only one auth mechanism allowed</Error>"));
    }
    let Some((repository, kind, reference)) = split(&seen.path) else {
        return Ok(refusal(404, "NAME_UNKNOWN"));
    };
    if let Some(refused) = refuse(&state, address, &repository, &seen) {
        return Ok(refused);
    }
    Ok(match kind {
        "manifests" => manifest(&state, &seen, &format!("{repository}/{reference}")),
        _ => blob(&mut state, &seen, reference),
    })
}

fn split(path: &str) -> Option<(String, &'static str, &str)> {
    let rest = path.strip_prefix("/v2/")?;
    for kind in ["manifests", "blobs"] {
        if let Some((repository, reference)) = rest.rsplit_once(&format!("/{kind}/")) {
            return Some((repository.to_owned(), kind, reference));
        }
    }
    None
}

fn refuse(
    state: &State,
    address: SocketAddr,
    repository: &str,
    seen: &Seen,
) -> Option<Response<Body>> {
    let given = seen.authorization.as_deref().unwrap_or_default();
    let scope = format!("repository:{repository}:pull");
    let challenge = match &state.behaviour.access {
        Access::Anyone => return None,
        Access::Basic(user, password) => {
            if given == basic(user, password) {
                return None;
            }
            "Basic realm=\"fake\"".to_owned()
        }
        Access::Fixed(token) => {
            if given == format!("Bearer {token}") {
                return None;
            }
            "Basic realm=\"fake\"".to_owned()
        }
        Access::Token { .. } => {
            let known = given.strip_prefix("Bearer ").and_then(|token| state.tokens.get(token));
            if known.is_some_and(|(of, until)| *of == scope && Instant::now() < *until) {
                return None;
            }
            format!("Bearer realm=\"http://{address}/token\",service=\"fake\",scope=\"{scope}\"")
        }
    };
    Some(with(refusal(401, "UNAUTHORIZED"), "www-authenticate", &challenge))
}

/// The header in which a user and a password travel (RFC 7617).
pub fn basic(user: &str, password: &str) -> String {
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    format!("Basic {encoded}")
}

fn token(state: &mut State, seen: &Seen, form: &[u8]) -> Response<Body> {
    let Access::Token { password, seconds } = state.behaviour.access.clone() else {
        return full(404, "");
    };
    let query = if seen.method == Method::POST {
        String::from_utf8_lossy(form).into_owned()
    } else {
        seen.query.clone()
    };
    let url = reqwest::Url::parse(&format!("http://x/?{query}")).unwrap();
    let get = |name: &str| {
        url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    };
    if get("service").as_deref() != Some("fake") {
        return full(400, "");
    }
    if let Some((user, password)) = password {
        let by_password = seen.authorization.as_deref() == Some(&basic(user, password));
        let by_refresh = get("refresh_token").as_deref() == Some(password)
            && get("grant_type").as_deref() == Some("refresh_token");
        if !by_password && !by_refresh {
            return full(401, "");
        }
    }
    state.issued += 1;
    let token = format!("token-{}", state.issued);
    let until = Instant::now() + Duration::from_secs(seconds);
    state.tokens.insert(token.clone(), (get("scope").unwrap_or_default(), until));
    let key = if seen.method == Method::POST { "access_token" } else { "token" };
    full(200, format!(r#"{{"{key}":"{token}","expires_in":{}}}"#, seconds))
}

fn manifest(state: &State, seen: &Seen, key: &str) -> Response<Body> {
    if seen.method == Method::HEAD && state.behaviour.head_refused {
        return full(405, "");
    }
    let Some((media_type, bytes)) = state.manifests.get(key) else {
        return refusal(404, "MANIFEST_UNKNOWN");
    };
    let body = if seen.method == Method::HEAD { Bytes::new() } else { bytes.clone() };
    let response = with(full(200, body), "content-type", media_type);
    if state.behaviour.no_digest_header {
        return response;
    }
    with(response, "docker-content-digest", digest(bytes).as_str())
}

fn blob(state: &mut State, seen: &Seen, reference: &str) -> Response<Body> {
    if let Some(base) = &state.behaviour.blobs_at {
        let to = format!("{base}/v2/elsewhere/blobs/{reference}?signature=secret");
        return with(full(307, ""), "location", &to);
    }
    let Some(mut bytes) = state.blobs.get(reference).cloned() else {
        return refusal(404, "BLOB_UNKNOWN");
    };
    if state.behaviour.corrupt {
        let mut changed = bytes.to_vec();
        let middle = changed.len() / 2;
        changed[middle] ^= 1;
        bytes = changed.into();
    }
    let total = bytes.len();
    let range = seen.range.as_deref().filter(|_| !state.behaviour.ranges_ignored);
    let from =
        range.map(|range| range["bytes=".len()..].trim_end_matches('-').parse::<usize>().unwrap());
    let rest = bytes.slice(from.unwrap_or(0)..);
    let status = if from.is_some() { 206 } else { 200 };
    // Configurations come whole; it is layers that break.
    let is_layer = rest.len() > 4096;
    let (cut, stall) =
        (is_layer && state.behaviour.cuts > 0, is_layer && state.behaviour.stalls > 0);
    state.behaviour.cuts -= u32::from(cut);
    state.behaviour.stalls -= u32::from(stall);
    let response =
        if cut || stall || state.behaviour.no_length || state.behaviour.pause_per_piece.is_some() {
            let sent = if cut || stall { rest.len() / 2 } else { rest.len() };
            let pieces = pieces(rest.slice(..sent), cut, stall, state.behaviour.pause_per_piece);
            let mut response = Response::new(pieces);
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            if state.behaviour.no_length {
                response
            } else {
                with(response, "content-length", &rest.len().to_string())
            }
        } else {
            full(status, rest)
        };
    match from {
        Some(from) => {
            with(response, "content-range", &format!("bytes {from}-{}/{total}", total - 1))
        }
        None => response,
    }
}

/// A body in pieces that may break off, or fall silent.
fn pieces(bytes: Bytes, cut: bool, stall: bool, pause: Option<Duration>) -> Body {
    let body = stream::unfold((bytes, false), move |(mut bytes, over)| async move {
        if over {
            return None;
        }
        if bytes.is_empty() {
            if stall {
                tokio::time::sleep(Duration::from_secs(60)).await;
            }
            let error = io::Error::from(io::ErrorKind::ConnectionReset);
            return cut.then_some((Err(error), (bytes, true)));
        }
        if let Some(pause) = pause {
            tokio::time::sleep(pause).await;
        }
        let piece = bytes.split_to(bytes.len().min(16 << 10));
        Some((Ok(Frame::data(piece)), (bytes, false)))
    });
    StreamBody::new(body).boxed_unsync()
}
