//! What a process is to be when it executes its program.

use serde::{Deserialize, Serialize};

use super::Handle;

/// A process of a container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Process {
    /// The arguments; the first is also the program, looked for in the container's own PATH unless
    /// it has a slash.
    pub args: Vec<String>,
    /// A program that is executed instead of one found by name: an open file.
    pub executable: Option<Handle>,
    /// The environment, `NAME=value`.
    pub env: Vec<String>,
    /// The working directory; made in a container that is being started, where it is missing.
    pub cwd: String,
    /// User, in the container's numbers.
    pub uid: u32,
    /// Group, in the container's numbers.
    pub gid: u32,
    /// Supplementary groups, in the container's numbers.
    pub groups: Vec<u32>,
    /// File mode creation mask; 0022 where none is given.
    pub umask: Option<u32>,
    /// Capabilities; none at all where none are given.
    pub capabilities: Capabilities,
    /// Whether execve(2) may never gain privileges again.
    pub no_new_privileges: bool,
    /// System call filter.
    pub seccomp: Option<Seccomp>,
    /// AppArmor profile to change to.
    pub apparmor: Option<String>,
    /// SELinux label to change to.
    pub selinux: Option<String>,
    /// I/O priority as ioprio_set(2) takes it; none where none is given.
    pub io_priority: Option<u16>,
    /// Scheduling policy; SCHED_OTHER with nice value 0 where none is given.
    pub scheduler: Option<Scheduler>,
    /// The processors it may run on; all that its cgroup has where none are given.
    pub affinity: Vec<u32>,
}

/// Capability sets as bit masks: bit `n` is capability number `n` (capabilities(7)). What the
/// kernel or the keeper does not have is left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    /// The most that any later execve(2) can give.
    pub bounding: u64,
    /// In force.
    pub effective: u64,
    /// The most that can be put in force.
    pub permitted: u64,
    /// Kept over execve(2) by programs that ask for them.
    pub inheritable: u64,
    /// Kept over execve(2) by ordinary programs.
    pub ambient: u64,
}

impl Capabilities {
    /// Capabilities that give no sight of another process's memory or files: CAP_CHOWN,
    /// CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID, CAP_KILL, CAP_SETGID, CAP_SETUID, CAP_SETPCAP,
    /// CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_CHROOT, CAP_MKNOD, CAP_AUDIT_WRITE
    /// and CAP_SETFCAP, by number (capabilities(7)).
    pub const BLIND: u64 = {
        let numbers = [0, 1, 3, 4, 5, 6, 7, 8, 10, 12, 13, 18, 27, 29, 31];
        let mut set = 0;
        let mut at = 0;
        while at < numbers.len() {
            set |= 1 << numbers[at];
            at += 1;
        }
        set
    };

    /// Whether a process with these, or one that it makes or becomes, may have others than those.
    #[must_use]
    pub fn may_look(&self) -> bool {
        let all = self.bounding | self.effective | self.permitted | self.inheritable | self.ambient;
        all & !Self::BLIND != 0
    }
}

/// A system call filter (seccomp(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seccomp {
    /// A file holding the instructions, `struct sock_filter` after `struct sock_filter`.
    pub program: Handle,
    /// `SECCOMP_FILTER_FLAG_*`.
    #[serde(default)]
    pub flags: u32,
}

/// Scheduling parameters, as sched_setattr(2) takes them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Scheduler {
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// Nice value, for SCHED_OTHER and SCHED_BATCH.
    pub nice: i32,
    /// Priority, for SCHED_FIFO and SCHED_RR.
    pub priority: u32,
    /// For SCHED_DEADLINE, nanoseconds.
    pub runtime: u64,
    /// For SCHED_DEADLINE, nanoseconds.
    pub deadline: u64,
    /// For SCHED_DEADLINE, nanoseconds.
    pub period: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_capabilities_give_sight_of_others() {
        let bounding = |bounding| Capabilities { bounding, ..Capabilities::default() };
        // What Kubernetes gives by default (CAP_CHOWN to CAP_SETFCAP).
        assert!(!bounding(0xa804_25fb).may_look());
        assert!(!Capabilities::default().may_look());
        // DAC_READ_SEARCH, SYS_MODULE, SYS_RAWIO, SYS_PTRACE, SYS_ADMIN, PERFMON, BPF,
        // CHECKPOINT_RESTORE, and what a later kernel has.
        for number in [2, 16, 17, 19, 21, 38, 39, 40, 41] {
            assert!(bounding(0xa804_25fb | 1 << number).may_look(), "{number}");
            assert!(Capabilities { inheritable: 1 << number, ..bounding(0) }.may_look());
        }
    }
}
