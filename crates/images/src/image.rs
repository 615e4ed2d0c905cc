use std::path::PathBuf;
use std::sync::Arc;

use model::{Digest, ImageRef};
use serde::{Deserialize, Serialize};

use crate::document::ImageConfig;
use crate::error::Error;
use crate::look;

/// An image as it was when it was asked for; cheap to clone. Later changes of its names do not show.
#[derive(Debug, Clone)]
pub struct Image {
    pub(crate) core: Arc<Core>,
    pub(crate) names: Arc<[ImageRef]>,
    pub(crate) pinned: bool,
}

/// What never changes about an image.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) id: Digest,
    pub(crate) config: ImageConfig,
    pub(crate) config_text: String,
    pub(crate) layers: Vec<PathBuf>,
    pub(crate) size: u64,
}

/// An image's record on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Of this format.
    pub(crate) version: u32,
    /// The digest of the configuration, which is the image's id.
    pub(crate) id: Digest,
    /// The manifest that it was last pulled by.
    pub(crate) manifest: Digest,
    /// Everything under `blobs` that belongs to it: indexes, manifests, configuration, and layers
    /// as far as they are kept.
    pub(crate) blobs: Vec<Digest>,
    /// Diff ids, the lowest first.
    pub(crate) layers: Vec<Digest>,
    /// Tags and repo digests.
    pub(crate) names: Vec<ImageRef>,
    /// Nanoseconds since 1970 of the last change: of two records that claim a tag, the newer has it.
    pub(crate) updated: u64,
}

impl Record {
    pub(crate) const VERSION: u32 = 1;

    pub(crate) fn now() -> u64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }
}

impl Image {
    /// The digest of its configuration, by which CRI knows it.
    pub fn id(&self) -> &Digest {
        &self.core.id
    }

    /// `docker.io/library/busybox:latest`, sorted.
    pub fn repo_tags(&self) -> Vec<String> {
        self.names.iter().filter(|name| name.tag().is_some()).map(ToString::to_string).collect()
    }

    /// `docker.io/library/busybox@sha256:…`, sorted.
    pub fn repo_digests(&self) -> Vec<String> {
        self.names.iter().filter(|name| name.tag().is_none()).map(ToString::to_string).collect()
    }

    /// Bytes on disk of its layers and blobs, those included that other images share.
    pub fn size(&self) -> u64 {
        self.core.size
    }

    /// Whether the configuration keeps it from garbage collection.
    pub fn pinned(&self) -> bool {
        self.pinned
    }

    /// How it wants to be run.
    pub fn config(&self) -> &ImageConfig {
        &self.core.config
    }

    /// The text of the configuration, as it was published.
    pub fn config_text(&self) -> &str {
        &self.core.config_text
    }

    /// The directories of its layers, the lowest first and the topmost last. (Overlayfs wants its
    /// `lowerdir`s the other way round.) They are to be mounted read-only and never written to; they
    /// stay as long as the image is listed or leased.
    pub fn layers(&self) -> Vec<PathBuf> {
        self.core.layers.clone()
    }

    /// The content of a regular file as a container would see it at `path`: through all layers,
    /// whiteouts, opaque directories and symbolic links, without a mount. None if it is not there.
    /// Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::FileTooLarge`] beyond `limit` bytes, [`Error::Disk`] otherwise.
    pub fn read_file(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, Error> {
        look::read_file(&self.core.layers, path, limit)
    }
}
