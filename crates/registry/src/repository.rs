use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method};
use model::{Digest, ImageRef};
use sha2::{Digest as _, Sha256};

use crate::auth::{self, Auth, Credential};
use crate::blob::Blob;
use crate::error::{Attempt, Error, Failure, Kind};
use crate::hosts::{self, Endpoint};
use crate::request::{Ask, Channel, read_limited};
use crate::{Shared, client};

/// The largest manifest that is taken; registries refuse larger ones than 4 MiB.
const LARGEST_MANIFEST: u64 = 8 << 20;

const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// A manifest or index whose bytes match its digest.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// Of `bytes`.
    pub digest: Digest,
    /// What the server calls it, empty if it does not say.
    pub media_type: String,
    /// The text, at most 8 MiB.
    pub bytes: Bytes,
}

/// What a tag stands for now.
#[derive(Debug, Clone)]
pub enum Resolved {
    /// The registry told the digest alone.
    Digest(Digest),
    /// It had to be fetched to learn its digest.
    Manifest(Manifest),
}

impl Resolved {
    /// The digest that the tag stands for.
    pub fn digest(&self) -> &Digest {
        match self {
            Self::Digest(digest) => digest,
            Self::Manifest(manifest) => &manifest.digest,
        }
    }
}

/// One repository, by all ways that lead to it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Repository {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) shared: Arc<Shared>,
    pub(crate) name: String,
    channels: Vec<Channel>,
    /// Origins that gave wrong content.
    distrusted: Mutex<Vec<String>>,
}

impl Repository {
    /// Reads the files under `certs.d` and the Docker configuration; blocks.
    pub(crate) fn open(
        shared: Arc<Shared>,
        reference: &ImageRef,
        auth: Option<Auth>,
    ) -> Result<Self, Error> {
        let what = || reference.name();
        let endpoints = hosts::endpoints(&shared.config.certs_dirs, reference.host())
            .map_err(|bad| Error::config(what(), bad.path, bad.reason))?;
        let offers = match (auth, &shared.config.docker_config) {
            (Some(auth), _) => vec![auth],
            (None, Some(path)) => auth::docker_config(path)
                .map_err(|reason| Error::config(what(), path.clone(), reason))?,
            (None, None) => Vec::new(),
        };
        let mut channels = Vec::with_capacity(endpoints.len());
        for endpoint in endpoints {
            let client = open_client(&shared, &endpoint)
                .map_err(|reason| Error::config(what(), endpoint.origin().into(), reason))?;
            let authority = endpoint.authority();
            let credential = offers
                .iter()
                .map(|offer| offer.credential(&authority))
                .find(|credential| *credential != Credential::Anonymous)
                .unwrap_or_default();
            channels.push(Channel::new(endpoint, client, reference.repository(), credential));
        }
        let distrusted = Mutex::default();
        Ok(Self { inner: Arc::new(Inner { shared, name: reference.name(), channels, distrusted }) })
    }

    /// What `tag` stands for. Asks with HEAD, which public registries do not count as a pull, and
    /// with GET where that is refused or gives no digest.
    pub async fn resolve(&self, tag: &str) -> Result<Resolved, Error> {
        let mut attempts = self.inner.attempts(format!("resolve {}:{tag}", self.inner.name));
        for (index, channel) in self.inner.order(|endpoint| endpoint.resolve) {
            match self.resolve_at(channel, tag).await {
                Ok(resolved) => {
                    self.inner.answered(channel);
                    return Ok(resolved);
                }
                Err(failure) => attempts.add(index, channel, failure),
            }
        }
        Err(attempts.into_error())
    }

    async fn resolve_at(&self, channel: &Channel, tag: &str) -> Result<Resolved, Failure> {
        let mut ask = Ask {
            method: Method::HEAD,
            path: format!("manifests/{tag}"),
            accept: Some(MANIFESTS),
            from: 0,
        };
        match channel.send(&self.inner.shared, &ask).await {
            Ok(response) => {
                if let Some(digest) = content_digest(response.headers()) {
                    return Ok(Resolved::Digest(digest));
                }
            }
            Err(failure) => match failure.kind() {
                Kind::Unavailable | Kind::NotFound => return Err(failure),
                _ => {}
            },
        }
        ask.method = Method::GET;
        self.fetch(channel, &ask).await.map(Resolved::Manifest)
    }

    /// The manifest or index with this digest.
    pub async fn manifest(&self, digest: &Digest) -> Result<Manifest, Error> {
        let what = format!("manifest {}@{digest}", self.inner.name);
        let mut attempts = self.inner.attempts(what);
        let ask = Ask {
            method: Method::GET,
            path: format!("manifests/{digest}"),
            accept: Some(MANIFESTS),
            from: 0,
        };
        for (index, channel) in self.inner.order(|endpoint| endpoint.pull) {
            let failure = match self.fetch(channel, &ask).await {
                Ok(manifest) if manifest.digest == *digest => {
                    self.inner.answered(channel);
                    return Ok(manifest);
                }
                Ok(manifest) => Failure::Digest { expected: digest.clone(), got: manifest.digest },
                Err(failure) => failure,
            };
            attempts.add(index, channel, failure);
        }
        Err(attempts.into_error())
    }

    async fn fetch(&self, channel: &Channel, ask: &Ask) -> Result<Manifest, Failure> {
        let response = channel.send(&self.inner.shared, ask).await?;
        let media_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media_type = media_type.and_then(|value| value.split(';').next()).unwrap_or_default();
        let media_type = media_type.trim().to_owned();
        let stall = self.inner.shared.config.stall_timeout;
        let bytes = read_limited(response, LARGEST_MANIFEST, stall).await?;
        let digest = Digest::from_sha256(Sha256::digest(&bytes).into());
        Ok(Manifest { digest, media_type, bytes })
    }

    /// The bytes of a blob from `from` on, up to `size`. Nothing is sent before the first
    /// [`Blob::chunk`].
    pub fn blob(&self, digest: &Digest, size: u64, from: u64) -> Blob {
        Blob::new(self.clone(), digest.clone(), size, from)
    }

    /// Leaves out the host `origin` (see [`Blob::origin`]) from here on, because what it gave was
    /// wrong; says whether another is left.
    pub fn distrust(&self, origin: &str) -> bool {
        let mut distrusted = self.inner.lock_distrusted();
        if !distrusted.iter().any(|known| known == origin) {
            distrusted.push(origin.to_owned());
        }
        let trusted = |channel: &Channel| !distrusted.contains(&channel.endpoint.origin());
        self.inner.channels.iter().any(|channel| channel.endpoint.pull && trusted(channel))
    }
}

impl Inner {
    fn lock_distrusted(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.distrusted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The channels that can do it, in the configuration's order, those that failed lately last.
    pub(crate) fn order(&self, able: impl Fn(&Endpoint) -> bool) -> Vec<(usize, &Channel)> {
        let distrusted = self.lock_distrusted();
        let now = Instant::now();
        let mut order: Vec<_> = self
            .channels
            .iter()
            .enumerate()
            .filter(|(_, channel)| able(&channel.endpoint))
            .filter(|(_, channel)| !distrusted.contains(&channel.endpoint.origin()))
            .collect();
        order.sort_by_key(|(_, channel)| {
            self.shared.breaker.is_open(&channel.endpoint.origin(), now)
        });
        order
    }

    pub(crate) fn channel(&self, index: usize) -> Option<&Channel> {
        self.channels.get(index)
    }

    pub(crate) fn answered(&self, channel: &Channel) {
        self.shared.breaker.answered(&channel.endpoint.origin());
    }

    /// Remembers a host that could not do its work; one that merely lacks something is fine.
    pub(crate) fn failed(&self, channel: &Channel, failure: &Failure) {
        if failure.kind() == Kind::Unavailable {
            self.shared.breaker.failed(&channel.endpoint.origin(), Instant::now());
        }
    }

    pub(crate) fn attempts(&self, what: String) -> Attempts<'_> {
        Attempts { inner: self, what, failed: Vec::new() }
    }
}

/// The hosts that failed so far, for the error that names them all.
#[derive(Debug)]
pub(crate) struct Attempts<'a> {
    inner: &'a Inner,
    what: String,
    failed: Vec<(usize, Attempt)>,
}

impl Attempts<'_> {
    pub(crate) fn add(&mut self, index: usize, channel: &Channel, failure: Failure) {
        let host = channel.endpoint.origin();
        self.inner.failed(channel, &failure);
        self.failed.push((index, Attempt { host, failure }));
    }

    pub(crate) fn into_error(mut self) -> Error {
        self.failed.sort_by_key(|(index, _)| *index);
        Error::new(self.what, self.failed.into_iter().map(|(_, attempt)| attempt).collect())
    }
}

fn open_client(shared: &Shared, endpoint: &Endpoint) -> Result<reqwest::Client, String> {
    let key: &client::ClientKey = &endpoint.client;
    shared.clients.client(key, &shared.config)
}

/// The digest that a registry announces.
fn content_digest(headers: &HeaderMap) -> Option<Digest> {
    headers.get("docker-content-digest")?.to_str().ok()?.parse().ok()
}
