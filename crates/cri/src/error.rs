use std::path::PathBuf;
use std::sync::Arc;

use crate::parse::Invalid;

/// Why a call failed; [`crate::status`] says what that is on the wire.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The request cannot be honoured as it stands.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// A name that is no image reference.
    #[error("image.image")]
    Reference(#[from] model::ReferenceError),
    /// Pods and containers.
    #[error(transparent)]
    Pods(#[from] pods::Error),
    /// Images.
    #[error(transparent)]
    Images(#[from] images::Error),
    /// A pull, whose error is shared by all who waited for it.
    #[error("image {image} cannot be pulled")]
    Pull {
        /// As the caller wrote it.
        image: String,
        /// What went wrong.
        #[source]
        source: Arc<images::Error>,
    },
    /// No URL for a session.
    #[error(transparent)]
    Session(#[from] streaming::RequestError),
    /// An archive of images.
    #[error("{path:?} cannot be opened")]
    File {
        /// The archive.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Checkpoints.
    #[error("criu is not configured")]
    Criu,
}
