use std::error::Error as _;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use model::Digest;

/// What a failure means to the caller of a pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A local file of the registry configuration cannot be used.
    Config,
    /// No connection, no answer, or an answer that says "later".
    Unavailable,
    /// Credentials are missing, wrong or not enough.
    Unauthorized,
    /// The registry does not have it.
    NotFound,
    /// The content is not what its digest or size says.
    Digest,
    /// A manifest that cannot be read.
    Manifest,
    /// Anything else that a server answered.
    Refused,
}

/// Why something could not be had from a registry: one attempt for each host that was tried.
#[derive(Debug)]
pub struct Error {
    what: String,
    attempts: Vec<Attempt>,
}

/// One host and how it failed.
#[derive(Debug)]
pub struct Attempt {
    /// `https://mirror.example:5000`.
    pub host: String,
    /// What went wrong there.
    pub failure: Failure,
}

/// How one host failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// A file under `certs.d`, or the Docker configuration.
    #[error("{}: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the line where one is known.
        reason: String,
    },
    /// No connection was made: refused, no such host, TLS, or timed out.
    #[error("no connection")]
    Connect(#[source] reqwest::Error),
    /// A connection broke.
    #[error("the connection broke")]
    Broken(#[source] reqwest::Error),
    /// Nothing came for so long.
    #[error("nothing came for {} s", .0.as_secs_f32())]
    Stalled(Duration),
    /// The body ended early, again and again.
    #[error("the body ended after {got} of {expected} bytes")]
    Truncated {
        /// Bytes that came.
        got: u64,
        /// Bytes that the descriptor promises.
        expected: u64,
    },
    /// More came than the descriptor promises, or than a manifest may have.
    #[error("the body is longer than {limit} bytes")]
    TooLong {
        /// The limit.
        limit: u64,
    },
    /// An answer outside of what the protocol foresees here.
    #[error("status {status}{}", detail(.message))]
    Status {
        /// The status code.
        status: u16,
        /// The registry's own words, if it gave any.
        message: String,
    },
    /// 401 or 403 in spite of what we could offer.
    #[error("not authorized{}", detail(.message))]
    Unauthorized {
        /// The registry's own words, if it gave any.
        message: String,
    },
    /// 404.
    #[error("not found{}", detail(.message))]
    NotFound {
        /// The registry's own words, if it gave any.
        message: String,
    },
    /// The token service's answer is unusable.
    #[error("the token service gave no usable token: {0}")]
    Token(String),
    /// Content that does not match.
    #[error("content has digest {got}, not {expected}")]
    Digest {
        /// What was asked for.
        expected: Digest,
        /// What came.
        got: Digest,
    },
    /// A redirect that leads nowhere.
    #[error("bad redirect: {0}")]
    Redirect(&'static str),
}

fn detail(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(" ({message})") }
}

impl Failure {
    /// What this failure means.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Config { .. } => Kind::Config,
            Self::Connect(_) | Self::Broken(_) | Self::Stalled(_) | Self::Truncated { .. } => {
                Kind::Unavailable
            }
            Self::Status { status: 408 | 429 | 500..=599, .. } => Kind::Unavailable,
            Self::Status { .. } | Self::Redirect(_) => Kind::Refused,
            Self::TooLong { .. } | Self::Digest { .. } => Kind::Digest,
            Self::Unauthorized { .. } | Self::Token(_) => Kind::Unauthorized,
            Self::NotFound { .. } => Kind::NotFound,
        }
    }
}

impl Error {
    pub(crate) fn new(what: String, attempts: Vec<Attempt>) -> Self {
        Self { what, attempts }
    }

    pub(crate) fn config(what: String, path: PathBuf, reason: String) -> Self {
        let failure = Failure::Config { path, reason };
        Self { what, attempts: vec![Attempt { host: "configuration".to_owned(), failure }] }
    }

    /// The hosts that were tried, in the order of the configuration: mirrors, then the server.
    pub fn attempts(&self) -> &[Attempt] {
        &self.attempts
    }

    /// The verdict of the last host in the configuration's order, which is the registry itself:
    /// a mirror that lacks an image, or is down, says nothing about the image.
    pub fn kind(&self) -> Kind {
        self.attempts.last().map_or(Kind::Unavailable, |attempt| attempt.failure.kind())
    }
}

impl fmt::Display for Error {
    /// Every attempt with its own causes, because several cannot share one `source`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.what)?;
        if self.attempts.is_empty() {
            return f.write_str(": no registry host is configured for this");
        }
        for (index, Attempt { host, failure }) in self.attempts.iter().enumerate() {
            write!(f, "{} {host}: {failure}", if index == 0 { ":" } else { ";" })?;
            let mut cause = failure.source();
            while let Some(error) = cause {
                write!(f, ": {error}")?;
                cause = error.source();
            }
        }
        Ok(())
    }
}

impl std::error::Error for Error {}
