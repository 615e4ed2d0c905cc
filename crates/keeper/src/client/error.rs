use std::path::PathBuf;

use crate::protocol::Refusal;

/// Why a keeper did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The keeper refused; where a process could not be made, the cause says at which step.
    #[error(transparent)]
    Refused(Refusal),
    /// The connection has ended: the keeper is gone, or another daemon drives it.
    #[error("the connection to {peer} has ended")]
    Lost {
        /// `the keeper` or `the seed`.
        peer: &'static str,
    },
    /// Its socket cannot be reached.
    #[error("cannot {action} {}", path.display())]
    Socket {
        /// What was to be done.
        action: &'static str,
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// The process of keepers' births cannot be started.
    #[error("cannot start the seed: {action}")]
    Seed {
        /// What failed.
        action: &'static str,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// The request cannot be sent.
    #[error("cannot send a request to the keeper")]
    Send(#[source] std::io::Error),
    /// It answered something else than was asked.
    #[error("{peer} gave an unexpected answer")]
    Unexpected {
        /// `the keeper` or `the seed`.
        peer: &'static str,
    },
}
