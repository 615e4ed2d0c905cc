//! What daemon and keeper say to each other.
//!
//! ```text
//!   daemon                                             keeper
//!     | -- Hello{min, max} ------------------------------> |   version = min(max, its own newest)
//!     | <-------------------------- Hello{version, pid} -- |   + pidfd of the keeper
//!     |                                                    |
//!     | -- Create{container, launch, stdio} -------------> |   + the launch's files, the log
//!     | <------------------------------- Created{pid} ---- |   + pidfd; the init waits
//!     | -- Start{container} -----------------------------> |
//!     | <------------------------------- Started{at} ----- |   execve has succeeded
//!     | -- Exec{container, launch} ----------------------> |   + the launch's files
//!     | <----------------------- Executing{exec, pid} ---- |   + pidfd, terminal
//!     | <----------------------- event ExecExited -------- |   or, of a brief one, both as Executed
//!     | <----------------------- event ContainerExited --- |   its output is in the log
//!     | -- Forget{container} ----------------------------> |
//!     | -- Shutdown -------------------------------------> |   refused while anything lives
//! ```
//!
//! Every request carries a number and gets one answer with it: the reply or a [`Refusal`]. Answers
//! come in the order in which things end, not in that of the requests; events come unasked, and
//! none before Hello. A connection replaces the one before it.
//!
//! Fields are only ever added, with a default; both sides skip what they do not know. A request
//! that the keeper cannot read is refused as [`Refusal::Malformed`]. A keeper that skips `brief` tells the
//! start of a command, as it does of one that takes long.
//!
//! | version | adds |
//! |---|---|
//! | 1 | all but what follows |
//! | 2 | [`ContainerStatus::log`] and [`Event::LogDropped`]: what became of the log lines |

use model::{ContainerId, Timestamp};
use serde::{Deserialize, Serialize};

/// The oldest version that today's daemon and keeper speak.
pub const OLDEST: u32 = 1;
/// The newest.
pub const NEWEST: u32 = 2;
/// The version from which on a keeper tells what became of the log lines.
pub(crate) const LOG_STATS: u32 = 2;

/// A request with its number.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Call<R> {
    /// Chosen by the daemon, different from that of every other request in flight.
    pub(crate) id: u64,
    pub(crate) request: R,
}

/// The one field that is asked of a request that cannot be read.
#[derive(Debug, Deserialize)]
pub(crate) struct CallId {
    pub(crate) id: u64,
}

/// What comes back.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer<R> {
    Reply { id: u64, result: Result<R, Refusal> },
    Event(Event),
}

/// What the daemon asks of a keeper.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    Hello {
        min: u32,
        max: u32,
    },
    /// Everything that the keeper knows.
    Status {},
    /// Descriptors: those of the launch, then the log file where there is one.
    Create {
        container: ContainerId,
        launch: Box<executor::plan::Launch>,
        stdio: Stdio,
    },
    Start {
        container: ContainerId,
    },
    /// Descriptors: those of the launch.
    Exec {
        container: ContainerId,
        launch: Box<executor::plan::ExecLaunch>,
        /// Whether its start need not be told where its end comes soon.
        #[serde(default)]
        brief: bool,
    },
    /// Descriptors: the pipes' ends, in this order.
    Attach {
        container: ContainerId,
        stdin: bool,
        stdout: bool,
        stderr: bool,
    },
    ResizeTerminal {
        container: ContainerId,
        size: TerminalSize,
    },
    CloseStdin {
        container: ContainerId,
    },
    /// Descriptor: the new log file.
    ReopenLog {
        container: ContainerId,
    },
    Dial {
        port: u16,
    },
    /// Makes the PID namespace that the pod's containers share, or gives the one that is there.
    SharedPid {},
    Forget {
        container: ContainerId,
    },
    Shutdown {},
}

/// A keeper's reply.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reply {
    /// Descriptor: a pidfd of the keeper.
    Hello {
        version: u32,
        pid: u32,
    },
    /// Descriptors: pidfds, as the containers name them.
    Status(Status),
    /// Descriptor: a pidfd of the init.
    Created {
        pid: u32,
    },
    Started {
        at: Timestamp,
    },
    /// Descriptors: a pidfd, then the terminal where there is one.
    Executing {
        exec: u32,
        pid: u32,
    },
    /// It ran, and has ended; only where that was asked for.
    Executed {
        exit: ExitStatus,
    },
    /// Descriptor: a connected socket.
    Dialed {},
    /// Descriptors: a pidfd of the namespace's PID 1, the namespace.
    SharedPid {
        pid: u32,
    },
    /// Nothing more to say.
    Done {},
}

/// What a keeper tells unasked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// A container's init has ended and its output has been written, as far as that was possible.
    ContainerExited {
        /// Which.
        container: ContainerId,
        /// How.
        exit: ExitStatus,
    },
    /// An exec'ed process has ended.
    ExecExited {
        /// The keeper's number for it.
        exec: u32,
        /// How.
        exit: ExitStatus,
    },
    /// Lines of a container's log could not be written.
    LogDropped {
        /// Whose.
        container: ContainerId,
        /// How many since the last such event.
        lines: u64,
        /// What the kernel said last, `ENOSPC` most of the time.
        errno: i32,
    },
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitStatus {
    /// Its exit code; 128 + signal where a signal ended it.
    pub code: i32,
    /// The signal that ended it.
    #[serde(default)]
    pub signal: Option<i32>,
    /// When the keeper saw it.
    pub at: Timestamp,
}

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Characters in a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

/// What becomes of a container's standard streams. With a terminal there is one output, which
/// counts as stdout.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stdio {
    /// The process reads what attached clients send; without it, it reads /dev/null.
    #[serde(default)]
    pub stdin: bool,
    /// Standard input ends when the first client that sends ends.
    #[serde(default)]
    pub stdin_once: bool,
    /// A log file comes with the request.
    #[serde(default)]
    pub log: bool,
}

/// Everything that a keeper knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Every container that was created and not forgotten.
    pub containers: Vec<ContainerStatus>,
    /// Processes of execs that live.
    #[serde(default)]
    pub execs: Vec<ExecStatus>,
    /// PID 1 of the shared PID namespace, where there is one.
    #[serde(default)]
    pub shared_pid: Option<u32>,
}

/// What a keeper knows of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStatus {
    /// Which.
    pub id: ContainerId,
    /// Its init; 0 before there is one.
    pub pid: u32,
    /// The place of a pidfd of its init among the reply's descriptors; none once it has ended.
    #[serde(default)]
    pub pidfd: Option<u32>,
    /// Where it is in its life.
    pub state: ContainerPhase,
    /// What became of its log; none from a keeper of version 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<LogStats>,
}

/// Where a container is in its life, as its keeper sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContainerPhase {
    /// Being assembled.
    Creating,
    /// Its init waits before execve.
    Created,
    /// Its program runs.
    Running {
        /// When execve succeeded.
        started_at: Timestamp,
    },
    /// It has ended.
    Exited {
        /// When execve succeeded; 0 if it never did.
        started_at: Timestamp,
        /// How it ended.
        exit: ExitStatus,
    },
}

/// What became of a container's log lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogStats {
    /// Lines handed to the log, those that were dropped included.
    pub lines: u64,
    /// Lines that could not be written.
    pub dropped: u64,
}

/// A process of an exec that lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecStatus {
    /// The keeper's number for it.
    pub exec: u32,
    /// In which container.
    pub container: ContainerId,
    /// Its process.
    pub pid: u32,
}

/// Why a keeper, or the seed, did not do what was asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Refusal {
    /// The two have no version in common.
    #[error("the keeper speaks versions {min} to {max} of the protocol")]
    Version {
        /// Its oldest.
        min: u32,
        /// Its newest.
        max: u32,
    },
    /// The request cannot be read, or came before Hello.
    #[error("the keeper does not understand the request: {reason}")]
    Malformed {
        /// Why not.
        reason: String,
    },
    /// It keeps no such container.
    #[error("the keeper has no container {container}")]
    NoContainer {
        /// Which.
        container: ContainerId,
    },
    /// It keeps such a container already.
    #[error("the keeper has container {container} already")]
    Exists {
        /// Which.
        container: ContainerId,
    },
    /// The request does not fit what the container is or has.
    #[error("container {container} {reason}")]
    State {
        /// Which.
        container: ContainerId,
        /// What it is or lacks.
        reason: String,
    },
    /// It cannot go yet.
    #[error("the keeper has {alive} living processes")]
    Busy {
        /// How many.
        alive: u32,
    },
    /// The process could not be made.
    #[error("the process could not be made")]
    Launch(#[source] executor::Failure),
    /// A system call failed.
    #[error("the keeper cannot {action}")]
    Kernel {
        /// What it was to do.
        action: String,
        /// What the kernel said.
        #[source]
        errno: Errno,
    },
}

/// An error number of the kernel, printed in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{}", std::io::Error::from_raw_os_error(*.0))]
#[serde(transparent)]
pub struct Errno(pub i32);

impl From<rustix::io::Errno> for Errno {
    fn from(errno: rustix::io::Errno) -> Self {
        Self(errno.raw_os_error())
    }
}

impl Refusal {
    /// For `map_err` after a system call.
    pub(crate) fn kernel(action: impl Into<String>) -> impl FnOnce(rustix::io::Errno) -> Self {
        move |errno| Self::Kernel { action: action.into(), errno: errno.into() }
    }

    /// For a request that does not fit the container.
    pub(crate) fn state(container: &ContainerId, reason: impl Into<String>) -> Self {
        Self::State { container: container.clone(), reason: reason.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes from the wire is read or refused, and never more.
    #[test]
    fn any_bytes_are_read_or_refused() {
        bolero::check!().for_each(|bytes: &[u8]| {
            if let Ok(call) = serde_json::from_slice::<Call<Request>>(bytes) {
                // What is read can be said again, and means the same.
                let again = serde_json::to_vec(&call).unwrap();
                let CallId { id } = serde_json::from_slice(&again).unwrap();
                assert_eq!(id, call.id);
                assert!(serde_json::from_slice::<Call<Request>>(&again).is_ok());
            }
            let _ = serde_json::from_slice::<CallId>(bytes);
            let _ = serde_json::from_slice::<Answer<Reply>>(bytes);
        });
    }

    #[test]
    fn what_is_not_known_is_skipped() {
        let text = br#"{"id":3,"priority":9,"request":{"dial":{"port":80,"family":"inet"}}}"#;
        let call: Call<Request> = serde_json::from_slice(text).unwrap();
        assert!(matches!(call, Call { id: 3, request: Request::Dial { port: 80 } }));
        // A status of version 1 has no log.
        let id = "ab".repeat(32);
        let text = format!(r#"{{"id":"{id}","pid":7,"state":"created"}}"#);
        let status: ContainerStatus = serde_json::from_str(&text).unwrap();
        assert_eq!((status.log, status.pidfd), (None, None));
        let said = serde_json::to_string(&status).unwrap();
        assert!(!said.contains("log"), "{said}");
    }

    #[test]
    fn a_refusal_keeps_its_cause() {
        use std::error::Error;
        let refusal = Refusal::kernel("open it")(rustix::io::Errno::NOENT);
        let text = serde_json::to_string(&refusal).unwrap();
        let read: Refusal = serde_json::from_str(&text).unwrap();
        assert_eq!(read.to_string(), "the keeper cannot open it");
        let cause = read.source().unwrap().to_string();
        assert_eq!(cause, "No such file or directory (os error 2)");
    }
}
