use std::path::PathBuf;

use rustix::io::Errno;

/// Why a container cannot be prepared. The text says what was being done to what; the kernel's
/// answer is the source.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A part of the spec that this executor cannot follow, or that contradicts another.
    #[error("{field}: {reason}")]
    Spec {
        /// The spec's field, dotted, list entries by index or destination.
        field: String,
        /// Why not.
        reason: String,
    },
    /// A system call that failed on a path.
    #[error("cannot {action} {}", path.display())]
    Path {
        /// What was to be done, in words: `open`, `clone the mount of` …
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// A system call that failed on no path.
    #[error("cannot {action}")]
    Kernel {
        /// What was to be done.
        action: &'static str,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// The kernel's overlay refused the layers.
    #[error("cannot make an overlay of {layers} layers{}", said(message))]
    Overlay {
        /// How many.
        layers: usize,
        /// What the kernel wrote about it; empty if nothing.
        message: String,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// A volume that asks for propagation from a mount that has none.
    #[error("{} is on the mount {}, which is not {wanted}", path.display(), mount.display())]
    Propagation {
        /// The volume's source.
        path: PathBuf,
        /// The mount point it lies on.
        mount: PathBuf,
        /// `shared`, or `shared or a slave`.
        wanted: &'static str,
    },
    /// A volume whose ids should be mapped, on a file system that cannot.
    #[error("the file system of {} cannot map ids", path.display())]
    IdMap {
        /// The volume's source, or the layer.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// The plan could not be written down.
    #[error("the plan cannot be encoded")]
    Encode(#[source] serde_json::Error),
    /// A thread of the daemon's own ended without an answer.
    #[error("the thread that mounts the overlay ended early")]
    Thread,
}

fn said(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(" ({message})") }
}

impl Error {
    pub(crate) fn spec(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Spec { field: field.into(), reason: reason.into() }
    }

    /// For `map_err` after a call on a path.
    pub(crate) fn path(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(Errno) -> Self {
        let path = path.into();
        move |source| Self::Path { action, path, source }
    }

    /// For `map_err` after a call on no path.
    pub(crate) fn kernel(action: &'static str) -> impl FnOnce(Errno) -> Self {
        move |source| Self::Kernel { action, source }
    }
}
