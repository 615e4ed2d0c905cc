use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::Controller;

/// Why something could not be done to a cgroup. Each names the file or directory it concerns.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither cgroup2 at the root nor any v1 controller is mounted.
    #[error("no cgroup hierarchy is mounted on {0}")]
    NotMounted(PathBuf),
    /// A name that is no cgroup's.
    #[error("invalid cgroup path {path:?}: {reason}")]
    InvalidPath {
        /// As it was given.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A value that no cgroup can take.
    #[error("invalid {field} {value:?}: {reason}")]
    InvalidValue {
        /// The field of the OCI resources.
        field: &'static str,
        /// As it was given.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A file could not be opened or read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// A value was refused.
    #[error("cannot write {value:?} to {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The value.
        value: String,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// A directory could not be made.
    #[error("cannot make the cgroup {path}")]
    Create {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// A directory could not be removed.
    #[error("cannot remove the cgroup {path}")]
    Remove {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// A process could not be signalled.
    #[error("cannot kill process {pid} of the cgroup {path}")]
    Kill {
        /// The cgroup.
        path: PathBuf,
        /// The process.
        pid: i32,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// The kernel did not get there in the time given.
    #[error("the cgroup {path} was not {awaited} in time")]
    TimedOut {
        /// The directory.
        path: PathBuf,
        /// The state waited for: `empty`, `frozen`, `thawed`.
        awaited: &'static str,
    },
    /// A file does not read as documented.
    #[error("{path} does not read as expected: {text:?}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What it said.
        text: String,
    },
    /// A limit was asked for that nothing on this node enforces.
    #[error(
        "{file} cannot be set: the {controller} controller is not available in {path}: it takes a \
         kernel with {}, booted without cgroup_disable={controller}", .controller.option()
    )]
    NoController {
        /// The missing controller.
        controller: Controller,
        /// The file that would have been written.
        file: String,
        /// The cgroup.
        path: PathBuf,
    },
    /// A request that this version of cgroups, or this crate, has no means for.
    #[error("{field} is not supported on {on}")]
    Unsupported {
        /// The field of the OCI resources.
        field: String,
        /// Where: `cgroup v1`, `cgroup v2`.
        on: &'static str,
    },
    /// A memory limit below what is in use; the kernel would kill to reach it.
    #[error("memory limit {limit} is below the {usage} bytes in use in {path}")]
    BelowUsage {
        /// The cgroup.
        path: PathBuf,
        /// Bytes asked for.
        limit: u64,
        /// Bytes in use that cannot be dropped.
        usage: u64,
    },
    /// The device program could not be put in place.
    #[error("cannot {step} the device program of {path}{}", verifier(.log))]
    Devices {
        /// The cgroup.
        path: PathBuf,
        /// `load`, `list`, `attach` or `detach`.
        step: &'static str,
        /// The verifier's words, if it spoke.
        log: String,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
}

fn verifier(log: &str) -> String {
    if log.is_empty() { String::new() } else { format!(" (verifier: {})", log.trim()) }
}

impl Error {
    /// Whether the cgroup is simply no longer there, as when its container ended meanwhile.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(
            self.errno(),
            // An open file of a removed cgroup answers ENODEV.
            Some(Errno::NOENT | Errno::NODEV)
        )
    }

    /// What the kernel said, where the kernel said something.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Read { source, .. }
            | Self::Write { source, .. }
            | Self::Create { source, .. }
            | Self::Remove { source, .. }
            | Self::Kill { source, .. }
            | Self::Devices { source, .. } => Some(*source),
            _ => None,
        }
    }

    pub(crate) fn read(path: &Path, source: Errno) -> Self {
        Self::Read { path: path.to_owned(), source }
    }

    pub(crate) fn write(path: &Path, value: &str, source: Errno) -> Self {
        Self::Write { path: path.to_owned(), value: value.to_owned(), source }
    }
}
