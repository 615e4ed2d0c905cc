use std::io;
use std::path::PathBuf;

use model::Digest;

use crate::document::DocumentError;
use crate::unpack::UnpackError;

/// What a failure means to the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The registry cannot be reached, or says "later".
    Unavailable,
    /// The registry wants other credentials.
    Unauthorized,
    /// There is no such image.
    NotFound,
    /// The name means several images.
    Ambiguous,
    /// The image itself is broken, hostile or for another machine.
    BadImage,
    /// The registry's configuration on this node.
    Config,
    /// This node's disk.
    Disk,
}

/// Why an operation on images failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The registry, or the way to it.
    #[error(transparent)]
    Registry(#[from] registry::Error),
    /// No image goes by this name.
    #[error("no image {name:?}")]
    NotFound {
        /// What was looked for.
        name: String,
    },
    /// The beginning of several ids.
    #[error("{name:?} is the beginning of several image ids")]
    Ambiguous {
        /// What was looked for.
        name: String,
    },
    /// A manifest, an index or a configuration.
    #[error("document {digest} is unusable")]
    Document {
        /// Its digest.
        digest: Digest,
        /// What is wrong.
        #[source]
        source: DocumentError,
    },
    /// An index without an entry for this machine.
    #[error("index {digest} has no image for this platform")]
    NoPlatform {
        /// The index.
        digest: Digest,
    },
    /// Indexes within indexes.
    #[error("index {digest} leads to another index")]
    Nested {
        /// The outer index.
        digest: Digest,
    },
    /// Manifest and configuration disagree.
    #[error("manifest {digest} has {layers} layers, its configuration names {diff_ids}")]
    LayerCount {
        /// The manifest.
        digest: Digest,
        /// In the manifest.
        layers: usize,
        /// In the configuration.
        diff_ids: usize,
    },
    /// Content that is not what was asked for.
    #[error("blob {expected} has other content: its digest is {got}")]
    Digest {
        /// From the descriptor.
        expected: Digest,
        /// Of what came.
        got: Digest,
    },
    /// An unpacked layer that is not the one that the configuration names.
    #[error("layer {blob} unpacks to {got}, not to {expected}")]
    DiffId {
        /// The compressed layer.
        blob: Digest,
        /// From the configuration.
        expected: Digest,
        /// Of what came.
        got: Digest,
    },
    /// A configuration of unreasonable size.
    #[error("blob {digest} is said to have {size} bytes, which is too much for its purpose")]
    TooLarge {
        /// The blob.
        digest: Digest,
        /// What its descriptor says.
        size: u64,
    },
    /// A layer whose compression is broken.
    #[error("layer {digest} cannot be decompressed")]
    Inflate {
        /// The compressed layer.
        digest: Digest,
        /// What is wrong.
        #[source]
        source: io::Error,
    },
    /// A layer that cannot be unpacked.
    #[error("layer {digest} cannot be unpacked")]
    Unpack {
        /// The compressed layer.
        digest: Digest,
        /// What is wrong.
        #[source]
        source: UnpackError,
    },
    /// A layer that is needed whole and was discarded after it was unpacked.
    #[error("layer {digest} is not kept in its compressed form")]
    NotKept {
        /// The compressed layer.
        digest: Digest,
    },
    /// An archive without images, or without a part that it names.
    #[error("the archive is unusable: {reason}")]
    Archive {
        /// What is wrong.
        reason: String,
    },
    /// An archive that is not one.
    #[error("the archive cannot be unpacked")]
    BadArchive(#[source] UnpackError),
    /// A file that is larger than the caller bears.
    #[error("file {path:?} of the image is longer than {limit} bytes")]
    FileTooLarge {
        /// The path within the image.
        path: String,
        /// The caller's limit.
        limit: u64,
    },
    /// Another process works in the same directory.
    #[error("{} is in use by another process", root.display())]
    InUse {
        /// The store's root.
        root: PathBuf,
    },
    /// The disk.
    #[error("{action} {}", path.display())]
    Disk {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The operation was given up because the runtime ends.
    #[error("the daemon is shutting down")]
    ShutDown,
}

impl Error {
    pub(crate) fn disk(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Disk { action, path, source }
    }

    /// Whether it is for want of space.
    pub(crate) fn is_disk_full(&self) -> bool {
        let cause = match self {
            Self::Inflate { source, .. } | Self::Disk { source, .. } => source,
            Self::Unpack { source: UnpackError::Write { source, .. }, .. } => source,
            _ => return false,
        };
        matches!(cause.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }

    /// What it means.
    pub fn kind(&self) -> Kind {
        match self {
            full if full.is_disk_full() => Kind::Disk,
            Self::Registry(error) => match error.kind() {
                registry::Kind::Config => Kind::Config,
                registry::Kind::Unavailable => Kind::Unavailable,
                registry::Kind::Unauthorized => Kind::Unauthorized,
                registry::Kind::NotFound => Kind::NotFound,
                registry::Kind::Digest | registry::Kind::Manifest => Kind::BadImage,
                registry::Kind::Refused => Kind::Unavailable,
            },
            Self::NotFound { .. } => Kind::NotFound,
            Self::Ambiguous { .. } => Kind::Ambiguous,
            Self::Document { .. }
            | Self::NoPlatform { .. }
            | Self::Nested { .. }
            | Self::LayerCount { .. }
            | Self::Digest { .. }
            | Self::DiffId { .. }
            | Self::TooLarge { .. }
            | Self::Inflate { .. }
            | Self::Archive { .. }
            | Self::FileTooLarge { .. } => Kind::BadImage,
            Self::Unpack { source, .. } | Self::BadArchive(source) => match source {
                UnpackError::Write { .. } => Kind::Disk,
                _ => Kind::BadImage,
            },
            Self::NotKept { .. } | Self::InUse { .. } | Self::Disk { .. } | Self::ShutDown => {
                Kind::Disk
            }
        }
    }
}
