//! Speaks the distribution API: resolve, authenticate, mirrors, stream blobs.
//!
//! ```text
//! Registry ── repository(reference, auth) ─▶ Repository ── resolve ─▶ digest of a tag
//!    │          reads certs.d at each call       │      ── manifest ▶ verified bytes
//!    │                                           │      ── blob ────▶ Blob: a stream that resumes
//!    ├─ one HTTP client per TLS setting          ▼
//!    ├─ tokens until they expire           endpoints in order: mirrors as listed, then the server;
//!    └─ hosts that failed lately           one that failed lately is tried last
//! ```
//!
//! One request goes through three layers, from the outside in: [`Repository`] walks the endpoints
//! and takes the next one on any failure; `request` repeats what is worth repeating on one endpoint
//! (429 with Retry-After, 408, 5xx, a connection that broke) and answers its authentication
//! challenge; `request` also follows redirects itself, because credentials and configured headers
//! must not travel to another host.
//!
//! Manifests are verified here. A blob is handed on in pieces and is verified by whoever hashes it.
//!
//! Followed: OCI distribution-spec 1.1, the token flow that Docker's registry documents, and the
//! `hosts.toml` format of containerd.

mod auth;
mod blob;
mod breaker;
mod challenge;
mod client;
mod error;
mod hosts;
mod repository;
mod request;
mod token;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use model::ImageRef;

pub use auth::Auth;
pub use blob::Blob;
pub use error::{Attempt, Error, Failure, Kind};
pub use repository::{Manifest, Repository, Resolved};

/// How registries are reached; settings hold it whole.
#[derive(Debug, Clone)]
pub struct Config {
    /// Directories that hold `<host>/hosts.toml`, the first that knows a host wins. They are read
    /// at every pull, so that a change needs no restart.
    pub certs_dirs: Vec<PathBuf>,
    /// A Docker `config.json`, read at every pull that brings no credentials of its own.
    pub docker_config: Option<PathBuf>,
    /// A connection attempt may take this long, unless `hosts.toml` says otherwise.
    pub connect_timeout: Duration,
    /// A server may stay silent for this long, before its answer and within it.
    pub stall_timeout: Duration,
    /// What is sent as `User-Agent`.
    pub user_agent: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            certs_dirs: vec!["/etc/minke/certs.d".into(), "/etc/containerd/certs.d".into()],
            docker_config: None,
            connect_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(30),
            user_agent: concat!("minke/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// The way to all registries: connections, tokens and the memory of dead mirrors. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Registry {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) clients: client::Clients,
    pub(crate) tokens: token::Tokens,
    pub(crate) breaker: breaker::Breaker,
}

impl Registry {
    /// Sets nothing in motion: files are read and connections made when a repository is used.
    pub fn new(config: Config) -> Self {
        let shared = Shared {
            config,
            clients: client::Clients::default(),
            tokens: token::Tokens::default(),
            breaker: breaker::Breaker::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The repository that `reference` names, as `hosts.toml` says to reach it now. `auth` is what
    /// the caller of the pull brought; without it the Docker configuration is looked at.
    ///
    /// # Errors
    /// [`Kind::Config`] when a file under `certs.d` or the Docker configuration cannot be used.
    pub async fn repository(
        &self,
        reference: &ImageRef,
        auth: Option<Auth>,
    ) -> Result<Repository, Error> {
        let shared = Arc::clone(&self.shared);
        let reference = reference.clone();
        let name = reference.name();
        let task = tokio::task::spawn_blocking(move || Repository::open(shared, &reference, auth));
        // Only the end of the whole runtime cancels a blocking task.
        task.await.unwrap_or_else(|_| Err(Error::new(name, Vec::new())))
    }
}
