//! Content, unpacked layers, references, garbage collection and pull de-duplication.
//!
//! ```text
//! pull ─▶ flight: one task for all who ask for the same; ends when the last of them goes
//!           │ resolve, manifest, configuration          (registry)
//!           ├─▶ layer: download ─▶ inflate ─▶ unpack    (stream, tar, unpack; several at a time)
//!           └─▶ commit: record written, names moved     (store)
//! list, find, usage ─▶ memory                           (store)
//! remove, release ──▶ record away, then what nothing else uses   (remove)
//! ```
//!
//! An image is its configuration's digest. It is listed as long as it has a name; an image in use
//! that loses its last name is hidden, and goes with its last user. Users say so by a lease under
//! their own id, and say so again after a restart: until [`Store::adopted`] nothing is deleted.
//!
//! Layers are unpacked each into a directory of its own, by diff id, shared by every image that has
//! them: overlayfs stacks them, so no order of unpacking binds them. Layers are kept as they came,
//! too, unless [`Config::discard_layers`]: an export then gives back the very image, and a layer that
//! a crash damaged is made anew without a network.
//!
//! What lies where, and what a crash leaves, is said in `disk`.

mod archive;
mod disk;
mod document;
mod error;
mod flight;
mod image;
mod layer;
mod look;
mod pattern;
mod pull;
mod remove;
mod store;
mod stream;
mod tar;
mod tree;
mod unpack;

use std::path::PathBuf;

pub use document::{DocumentError, ImageConfig};
pub use error::{Error, Kind};
pub use flight::{Progress, Pull};
pub use image::Image;
pub use store::Store;
pub use tar::TarError;
pub use tree::Usage;
pub use unpack::UnpackError;

/// How images are kept; settings hold it whole.
#[derive(Debug, Clone)]
pub struct Config {
    /// The directory of the store: `/var/lib/minke/images`. Made with mode 0700.
    pub root: PathBuf,
    /// Layers of one pull that are transferred at the same time, at least 1.
    pub max_concurrent_downloads: usize,
    /// Deletes a layer's compressed form once it is unpacked. Such images cannot be exported.
    pub discard_layers: bool,
    /// Images that the kubelet must not collect: patterns of tags and digests as they are listed,
    /// where `*` stands for any text. A name without a pattern is completed as references are.
    pub pinned: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            root: "/var/lib/minke/images".into(),
            max_concurrent_downloads: 3,
            discard_layers: false,
            pinned: Vec::new(),
        }
    }
}
