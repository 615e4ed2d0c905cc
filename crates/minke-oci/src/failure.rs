use std::error::Error;
use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

/// Why a command fails. The text names the thing and, where there is one, the cure; the cause is the
/// source.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Who runs it.
    #[error("containers are made by root; run it as root")]
    NotRoot,
    /// A flag that cannot be followed.
    #[error("{flag} is not supported: {reason}")]
    Flag {
        /// The flag.
        flag: &'static str,
        /// Why not, and what to do.
        reason: &'static str,
    },
    /// A name that is none.
    #[error("{id:?} is no container id: use 1 to 255 letters, digits, `_`, `+`, `-` and `.`")]
    Id {
        /// As given.
        id: String,
    },
    /// Nobody of that name.
    #[error("container {id:?} does not exist: `minke-oci list` shows those below {}", root.display())]
    Unknown {
        /// The name.
        id: String,
        /// Where it was looked for.
        root: PathBuf,
    },
    /// The name is taken.
    #[error("container {id:?} exists: choose another id, or `minke-oci delete` it first")]
    Exists {
        /// The name.
        id: String,
    },
    /// A command that does not fit the container's state.
    #[error("container {id:?} is {status}: {wanted}")]
    State {
        /// The container.
        id: String,
        /// Its status.
        status: crate::container::Status,
        /// What would be needed.
        wanted: &'static str,
    },
    /// A part of config.json that cannot be followed.
    #[error("{file}: {field}: {reason}", file = file.display())]
    Config {
        /// The file.
        file: PathBuf,
        /// The field.
        field: String,
        /// Why not.
        reason: String,
    },
    /// A file of JSON that does not parse.
    #[error("{} is not what is expected there", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// A file.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was to be done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A system call on no path.
    #[error("cannot {action}")]
    Kernel {
        /// What was to be done.
        action: &'static str,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// Before there is anything of the container.
    #[error("container {id:?} cannot be prepared")]
    Prepare {
        /// The container.
        id: String,
        /// Why.
        #[source]
        source: executor::prepare::Error,
    },
    /// A process.
    #[error("container {id:?}: {what} cannot be started")]
    Launch {
        /// The container.
        id: String,
        /// Which of its processes.
        what: &'static str,
        /// Why.
        #[source]
        source: executor::Failure,
    },
    /// A system call filter.
    #[error("linux.seccomp of container {id:?} cannot be compiled")]
    Seccomp {
        /// The container.
        id: String,
        /// Why.
        #[source]
        source: seccomp::Error,
    },
    /// A cgroup.
    #[error("the cgroup of container {id:?} cannot be {action}")]
    Cgroup {
        /// The container.
        id: String,
        /// What was to be done, as a participle.
        action: &'static str,
        /// Why.
        #[source]
        source: cgroup::Error,
    },
    /// A cgroup that others are in.
    #[error(
        "the cgroup {path} has processes already: give container {id:?} one of its own in \
         linux.cgroupsPath"
    )]
    CgroupTaken {
        /// The container.
        id: String,
        /// The cgroup.
        path: String,
    },
    /// A hook.
    #[error("the {kind} hook {} of container {id:?} {what}", path.display())]
    Hook {
        /// Its kind, as in config.json.
        kind: &'static str,
        /// The program.
        path: PathBuf,
        /// The container.
        id: String,
        /// What it did.
        what: String,
    },
    /// A program of the host's.
    #[error("cannot run {program}")]
    Program {
        /// Its name.
        program: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Descriptors that are not there.
    #[error("descriptor {number} is not open, and --preserve-fds asks for it")]
    NotOpen {
        /// The number.
        number: i32,
    },
    /// A flag's value.
    #[error("{flag} {value:?}: {reason}")]
    Value {
        /// The flag.
        flag: &'static str,
        /// As given.
        value: String,
        /// Why not.
        reason: String,
    },
    /// A process that was killed and does not end.
    #[error("container {id:?}: process {pid} was killed and has not ended: is it stuck in I/O?")]
    Stuck {
        /// The container.
        id: String,
        /// The process.
        pid: i32,
    },
}

impl Failure {
    /// For `map_err` after something was done to a file.
    pub(crate) fn file<E: Into<io::Error>>(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(E) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source: source.into() }
    }

    /// For `map_err` after a system call.
    pub(crate) fn kernel(action: &'static str) -> impl FnOnce(Errno) -> Self {
        move |source| Self::Kernel { action, source }
    }

    /// For `map_err` after something was done to a container's cgroup.
    pub(crate) fn cgroup(
        id: &str,
        action: &'static str,
    ) -> impl FnOnce(cgroup::Error) -> Self + use<> {
        let id = id.to_owned();
        move |source| Self::Cgroup { id, action, source }
    }

    /// The failure and its causes in one line.
    pub(crate) fn line(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            let _infallible = write!(text, ": {error}");
            cause = error.source();
        }
        text
    }
}
