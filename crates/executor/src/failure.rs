//! Why a process did not come to be: what was being done, to what, and what the kernel said.

use std::error::Error;
use std::fmt;

use rustix::io::Errno;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What was being done to what when the kernel refused. The text names step and target; the cause
/// is the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What was being done.
    pub step: Step,
    /// To what: a path inside the container, a name, a setting.
    #[serde(default)]
    pub target: Option<String>,
    /// What the kernel said.
    #[serde(serialize_with = "number", deserialize_with = "errno")]
    pub errno: Errno,
}

impl Failure {
    /// A failure of `step` that needs no further name.
    #[must_use]
    pub fn new(step: Step, errno: Errno) -> Self {
        Self { step, target: None, errno }
    }

    /// A failure of `step`, done to `target`.
    #[must_use]
    pub fn of(step: Step, target: impl Into<String>, errno: Errno) -> Self {
        Self { step, target: Some(target.into()), errno }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.step.sentence())?;
        match &self.target {
            Some(target) => write!(out, " {target:?}"),
            None => Ok(()),
        }
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.errno)
    }
}

fn number<S: Serializer>(errno: &Errno, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_i32(errno.raw_os_error())
}

fn errno<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Errno, D::Error> {
    i32::deserialize(deserializer).map(errno_of)
}

/// The error of a number that somebody else wrote; EIO where it is none.
pub(crate) fn errno_of(number: i32) -> Errno {
    if (1..4096).contains(&number) { Errno::from_raw_os_error(number) } else { Errno::IO }
}

/// Defines [`Step`] with the sentence that each step fails with.
macro_rules! steps {
    ($($(#[$attribute:meta])* $name:ident => $sentence:literal,)+) => {
        /// What is being done to make a process.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[non_exhaustive]
        pub enum Step {
            $($(#[$attribute])* $name,)+
            /// A step of a newer minke.
            #[serde(other)]
            Unknown,
        }

        impl Step {
            const ALL: &[Step] = &[$(Step::$name,)+];

            /// What a failure of the step says before it names its target.
            fn sentence(self) -> &'static str {
                match self {
                    $(Step::$name => $sentence,)+
                    Step::Unknown => "cannot start the process",
                }
            }
        }
    };
}

steps! {
    /// Making a process.
    Clone => "cannot make a process",
    /// Entering a cgroup.
    Placement => "cannot enter the cgroup",
    /// Making a namespace.
    NewNamespace => "cannot make a namespace",
    /// Entering a namespace.
    JoinNamespace => "cannot enter the namespace",
    /// Mapping the ids of a user namespace.
    MapIds => "cannot map the ids of the user namespace",
    /// Reading the plan.
    Plan => "cannot read the plan of the container",
    /// A descriptor that the plan names and nobody passed.
    Handle => "a descriptor is missing for",
    /// Opening the keeper's procfs.
    Procfs => "cannot open the process file system",
    /// Attaching the root file system.
    Root => "cannot attach the root file system",
    /// Finding or making the place of a mount, a device, a link.
    Target => "cannot make the mount point",
    /// Making a file system.
    Filesystem => "cannot make a file system for",
    /// Setting one of its parameters.
    Parameter => "cannot set the file system parameter",
    /// Cloning a mount.
    CloneMount => "cannot clone the mount for",
    /// Attaching a mount.
    Attach => "cannot attach the mount at",
    /// Setting attributes of a mount.
    Attributes => "cannot set the mount attributes of",
    /// Setting propagation of a mount.
    Propagation => "cannot set the mount propagation of",
    /// Making a device node.
    Device => "cannot make the device",
    /// Making a symbolic link.
    Link => "cannot make the symbolic link",
    /// Covering a path.
    Mask => "cannot mask",
    /// Making a path read-only.
    ReadOnly => "cannot make read-only",
    /// Writing a kernel parameter.
    Sysctl => "cannot set the kernel parameter",
    /// Setting host or domain name.
    Hostname => "cannot set the host name",
    /// Making the working directory.
    MakeWorkingDirectory => "cannot make the working directory",
    /// Changing the root.
    Pivot => "cannot change to the root file system",
    /// Making a terminal.
    Terminal => "cannot make the terminal",
    /// Installing standard input, output and error.
    Stdio => "cannot install the standard streams",
    /// Starting a session.
    Session => "cannot start a session",
    /// Making a session keyring.
    Keyring => "cannot make the session keyring",
    /// Setting scheduling, I/O priority or affinity.
    Scheduling => "cannot set the scheduling",
    /// Setting the OOM killer's adjustment.
    OomScoreAdj => "cannot set the OOM score adjustment",
    /// Setting a resource limit.
    Rlimit => "cannot set the resource limit",
    /// Setting a security label.
    Label => "cannot set the security label",
    /// Setting capabilities.
    Capabilities => "cannot set the capabilities",
    /// Setting supplementary groups.
    Groups => "cannot set the supplementary groups",
    /// Setting user and group.
    User => "cannot change to the user",
    /// Entering the working directory.
    WorkingDirectory => "cannot enter the working directory",
    /// Forbidding new privileges.
    NoNewPrivileges => "cannot forbid new privileges",
    /// Loading the system call filter.
    Seccomp => "cannot load the seccomp filter",
    /// Laying out the process's memory.
    Memory => "cannot lay out the memory of the process",
    /// Looking for the program in the container's PATH.
    FindProgram => "executable file not found in $PATH:",
    /// Executing the program.
    Execute => "cannot execute",
    /// Hearing of the process: it ended without a word.
    Report => "the process ended before it could start",
}

impl Step {
    /// The step as one byte of a report.
    pub(crate) fn to_byte(self) -> u8 {
        u8::try_from(self as usize).unwrap_or(u8::MAX)
    }

    /// The step that `byte` stands for.
    pub(crate) fn from_byte(byte: u8) -> Self {
        Self::ALL.get(usize::from(byte)).copied().unwrap_or(Step::Unknown)
    }
}

/// Names the step that an error of the kernel stopped.
pub(crate) trait During<T> {
    /// The failure is one of `step`.
    fn during(self, step: Step) -> Result<T, Failure>;
    /// The failure is one of `step`, done to `target`, which is put into words only then.
    fn during_of(self, step: Step, target: impl ToString) -> Result<T, Failure>;
}

impl<T> During<T> for Result<T, Errno> {
    fn during(self, step: Step) -> Result<T, Failure> {
        self.map_err(|errno| Failure::new(step, errno))
    }

    fn during_of(self, step: Step, target: impl ToString) -> Result<T, Failure> {
        self.map_err(|errno| Failure::of(step, target.to_string(), errno))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_survive_their_byte() {
        for step in Step::ALL {
            assert_eq!(Step::from_byte(step.to_byte()), *step);
        }
        assert_eq!(Step::from_byte(u8::MAX), Step::Unknown);
    }

    #[test]
    fn a_failure_says_what_was_done_to_what_and_leaves_the_cause_to_its_source() {
        let failure = Failure::of(Step::Attach, "/data", Errno::ACCESS);
        assert_eq!(failure.to_string(), "cannot attach the mount at \"/data\"");
        assert_eq!(failure.source().unwrap().to_string(), "Permission denied (os error 13)");
    }

    #[test]
    fn a_newer_step_and_a_strange_errno_are_read() {
        let text = r#"{"step":"levitate","target":null,"errno":-7}"#;
        let failure: Failure = serde_json::from_str(text).unwrap();
        assert_eq!(failure, Failure::new(Step::Unknown, Errno::IO));
    }
}
