//! What `prepare` hands to `launch`: JSON, beside a table of open descriptors.
//!
//! ```text
//!   daemon (host's mount namespace)                      keeper                 its child
//!   prepare(spec) -> Launch, sealed memfd(Plan), fds --> spawn(Launch, fds) --> reads the Plan
//! ```
//!
//! [`Launch`] is what the keeper itself must know, and holds nothing of the container's own.
//! [`Plan`] is everything else; only the child that becomes the container parses it. An [`ExecPlan`]
//! the keeper parses itself: a child would do that with pages that it has to copy first, some 20 page
//! faults of 54. So what a command was given lies in the keeper's memory for a while, which no program
//! of a pod is started with and none may look at.
//!
//! An older keeper is driven by a newer daemon: a field added later has a serde default that means
//! "as before", and unknown fields are skipped. A field never changes its meaning.
//!
//! Numbers of files (owners, modes, `uid=` and `gid=` options) are the host's, as the kernel takes
//! them from a process in the host's user namespace; numbers of the process ([`Process::uid`]) are
//! the container's own. [`UserNamespace`] translates between them.

mod process;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

pub use self::process::{Capabilities, Process, Scheduler, Seccomp};

/// A descriptor, by its place in the table that travels beside the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Handle(pub u32);

impl Handle {
    /// The descriptor in `table`.
    ///
    /// # Errors
    /// `EBADF` where the table has no such place.
    pub fn of(self, table: &[OwnedFd]) -> Result<BorrowedFd<'_>, Errno> {
        table.get(self.0 as usize).map(AsFd::as_fd).ok_or(Errno::BADF)
    }
}

/// A container to start: what the keeper must know to make its first process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Launch {
    /// A file holding the [`Plan`] as JSON (a sealed memfd), read by the child alone.
    pub plan: Handle,
    /// Where its processes live.
    #[serde(default)]
    pub namespaces: Namespaces,
    /// Its user namespace; without one it lives in the keeper's, which is the host's.
    #[serde(default)]
    pub user: Option<UserNamespace>,
    /// Its cgroup.
    #[serde(default)]
    pub cgroup: Placement,
    /// What becomes descriptors 0, 1 and 2.
    pub stdio: Stdio,
    /// What the keeper sets from outside before it lets the process go.
    #[serde(default)]
    pub limits: Limits,
    /// What no keeper asks for.
    #[serde(default)]
    pub alone: Alone,
    /// Whether its processes may be able to look into others of their PID namespace that are not
    /// dumpable (ptrace(2)): they can have a capability that is not one of [`Capabilities::BLIND`].
    #[serde(default = "yes")]
    pub onlooker: bool,
}

/// As before there was the field.
fn yes() -> bool {
    true
}

/// A process to start in a running container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExecLaunch {
    /// A file holding the [`ExecPlan`] as JSON (a sealed memfd).
    pub plan: Handle,
    /// A pidfd of the container's init: its mount, network, IPC, UTS, cgroup and PID namespaces are
    /// joined, all of them, whichever of them are the keeper's own.
    pub init: Handle,
    /// The container's user namespace, as it stood in its [`Launch`].
    #[serde(default)]
    pub user: Option<UserNamespace>,
    /// The cgroup.
    #[serde(default)]
    pub cgroup: Placement,
    /// What becomes descriptors 0, 1 and 2.
    pub stdio: Stdio,
    /// What is set before it executes its program.
    #[serde(default)]
    pub limits: Limits,
    /// What no keeper asks for; a gate and a halt have no meaning here.
    #[serde(default)]
    pub alone: Alone,
}

/// What a container asks for that has no keeper: its maker goes away, shares descriptors with it,
/// and runs programs of others while it is made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Alone {
    /// Where it waits once its maker has let it go, so that another process can let it go on.
    pub gate: Option<Gate>,
    /// Whether it stops when all is assembled, before its root changes, until it is released.
    pub halts: bool,
    /// Where its root is attached before it becomes the root, by a path of the maker's own mount
    /// namespace: programs that run at the halt know it by that name. None is over `/`.
    pub stage: Option<String>,
    /// Files that it gets as descriptors 3, 4 and so on.
    pub preserved: Vec<Handle>,
    /// Whether it stays in its maker's session keyring.
    pub keep_keyring: bool,
}

/// A gate that outlives the maker: two named pipes, each open for reading and writing. A process
/// with any system call filter may read and write what it has open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gate {
    /// It goes on when it reads [`Gate::GO`] here.
    pub go: Handle,
    /// It writes here why it could not execute its program; execve(2) closes it.
    pub word: Handle,
}

impl Gate {
    /// What the process waits to read.
    pub const GO: u8 = b'G';
}

/// The namespaces of a container. A mount namespace of its own it has always.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Namespaces {
    /// Process ids: `New` for a container of its own, `Join` for a pod's shared or a target's
    /// namespace, `Inherit` for the host's.
    pub pid: Namespace,
    /// Links and addresses.
    pub net: Namespace,
    /// System V IPC and POSIX message queues.
    pub ipc: Namespace,
    /// Host and domain name.
    pub uts: Namespace,
    /// The view of the cgroup tree. `New` is rooted at the container's own cgroup.
    pub cgroup: Namespace,
}

/// Where one of a container's namespaces comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Namespace {
    /// The keeper's: the pod's own for NET, IPC and UTS, the host's for PID.
    #[default]
    Inherit,
    /// A new one.
    New,
    /// That of a descriptor: a namespace file or a pidfd.
    Join(Handle),
}

/// A user namespace, open, and what it maps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserNamespace {
    /// The namespace file, or a pidfd of a process in it.
    pub namespace: Handle,
    /// User ids.
    pub uids: Vec<IdRange>,
    /// Group ids.
    pub gids: Vec<IdRange>,
}

/// A range of ids of a user namespace (user_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// The first id inside.
    pub inside: u32,
    /// The first id outside, in the host's user namespace.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

impl IdRange {
    /// The outer id of `id`, or none where `ranges` do not map it.
    #[must_use]
    pub fn outside_of(ranges: &[IdRange], id: u32) -> Option<u32> {
        ranges.iter().find_map(|range| {
            let offset = id.checked_sub(range.inside)?;
            (offset < range.count).then(|| range.outside.checked_add(offset)).flatten()
        })
    }
}

/// How a process comes into its cgroup, before any instruction of the container runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Placement {
    /// It stays in the keeper's.
    #[default]
    Inherit,
    /// A cgroup v2 directory: the process is born in it (CLONE_INTO_CGROUP).
    V2(Handle),
    /// One file per v1 hierarchy, open for writing; the process writes itself there. The cheap file
    /// is `tasks`: the process has one thread, and the kernel moves a thread that moves itself
    /// without the lock that costs `cgroup.procs` an RCU grace period.
    V1(Vec<Handle>),
}

/// What becomes descriptors 0, 1 and 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stdio {
    /// Three descriptors: standard input, output, error. Pipes and terminals are given to the
    /// process's user, so that it can open `/dev/stdout` again.
    Files([Handle; 3]),
    /// A new terminal of the container's own devpts; the keeper gets its other end.
    Terminal(Window),
}

/// The size of a terminal in characters; zeroes where it is not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Window {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// What is set from outside, because a process that sets it itself could take it back, or may not
/// set it at all from within a user namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// The OOM killer's adjustment, -1000 to 1000.
    pub oom_score_adj: Option<i32>,
    /// Resource limits.
    pub rlimits: Vec<Rlimit>,
}

/// A resource limit (getrlimit(2)). What only CAP_SYS_RESOURCE could do is clamped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// The kernel's number: `RLIMIT_NOFILE` is 7.
    pub resource: u32,
    /// The soft limit; `u64::MAX` is none.
    pub soft: u64,
    /// The hard limit.
    pub hard: u64,
}

/// The inside of a container to start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The root file system.
    pub root: Root,
    /// What is mounted, in this order.
    #[serde(default)]
    pub mounts: Vec<Mount>,
    /// Device nodes, made after the mounts.
    #[serde(default)]
    pub devices: Vec<Device>,
    /// Symbolic links (`/dev/fd`, `/dev/ptmx`), made after the devices where nothing stands.
    #[serde(default)]
    pub links: Vec<Link>,
    /// Paths that are covered: a file by `/dev/null`, a directory by an empty one. A missing path is
    /// well hidden already.
    #[serde(default)]
    pub masked_paths: Vec<String>,
    /// Paths that become read-only with all below them. A missing path is skipped.
    #[serde(default)]
    pub read_only_paths: Vec<String>,
    /// Kernel parameters of the container's namespaces: a path below `/proc/sys`
    /// (`net/ipv4/ip_forward`) and the value.
    #[serde(default)]
    pub sysctls: Vec<(String, String)>,
    /// Set where the container has a UTS namespace of its own.
    #[serde(default)]
    pub hostname: Option<String>,
    /// Likewise.
    #[serde(default)]
    pub domainname: Option<String>,
    /// The process.
    pub process: Process,
}

/// The inside of a process to start in a running container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExecPlan {
    /// The process.
    pub process: Process,
}

/// A container's root file system.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Root {
    /// A detached mount (fsmount(2), or open_tree(2) with OPEN_TREE_CLONE).
    pub mount: Handle,
    /// Whether it ends read-only. Mount points are made before.
    #[serde(default)]
    pub read_only: bool,
    /// Directories in it that are made where they are missing, and stay writable where it is not.
    #[serde(default)]
    pub volumes: Vec<String>,
    /// Propagation of the whole tree at the end; none leaves it private.
    #[serde(default)]
    pub propagation: Option<Propagation>,
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Mount {
    /// Where, inside the container; symbolic links on the way are followed inside its root.
    pub target: String,
    /// What.
    pub source: Source,
    /// What is made at a target that does not exist; missing parents become directories (0755).
    #[serde(default)]
    pub create: Create,
    /// Attributes of the mount itself. Read-only on a new tmpfs comes last of all, so that mount
    /// points and device nodes can be made in it.
    #[serde(default)]
    pub attributes: Attributes,
    /// Attributes of the mount and of all that came with it.
    #[serde(default)]
    pub recursive_attributes: Attributes,
    /// Changes of propagation, in this order, after it was attached.
    #[serde(default)]
    pub propagation: Vec<Propagation>,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A detached mount, with all that is mounted below it.
    Tree(Handle),
    /// A file system that is made anew, in the container's namespaces.
    New(Filesystem),
    /// The pod's `/dev/shm`, which stands in the keeper's mount namespace.
    PodShm,
}

/// A file system to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filesystem {
    /// `proc`, `sysfs`, `tmpfs`, `devpts`, `mqueue`, `cgroup2`, or `cgroup` for one v1 hierarchy.
    pub kind: String,
    /// What `/proc/self/mountinfo` shows as its source.
    #[serde(default)]
    pub source: Option<String>,
    /// Parameters of fsconfig(2): a key, and a value where it takes one.
    #[serde(default)]
    pub parameters: Vec<(String, Option<String>)>,
}

/// What is made at a target that does not exist.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Create {
    /// A directory, 0755.
    #[default]
    Directory,
    /// An empty file, 0644.
    File,
    /// Nothing: a missing target is an error.
    Nothing,
}

/// A change of mount attributes: the kernel's `MOUNT_ATTR_*` bits (mount_setattr(2)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attributes {
    /// Bits to set.
    pub set: u64,
    /// Bits to clear first. Any of the access-time bits asks for the whole field
    /// `MOUNT_ATTR__ATIME` to be cleared.
    pub clear: u64,
}

impl Attributes {
    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.set == 0 && self.clear == 0
    }
}

/// A change of propagation (mount_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Propagation {
    /// To what.
    pub kind: PropagationKind,
    /// Whether all mounts below change too (`rslave`).
    #[serde(default)]
    pub recursive: bool,
}

/// What a mount shares with its peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PropagationKind {
    /// Nothing.
    Private,
    /// It receives, and does not send.
    Slave,
    /// It receives and sends.
    Shared,
    /// Nothing, and it cannot be bound elsewhere.
    Unbindable,
}

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Where, inside the container.
    pub path: String,
    /// How it comes there.
    pub node: Node,
}

/// How a device node comes into a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Node {
    /// It is made (mknod(2)); a node of the same kind and number that is already there is kept.
    Make {
        /// Character, block or pipe.
        kind: NodeKind,
        /// Major number.
        #[serde(default)]
        major: u32,
        /// Minor number.
        #[serde(default)]
        minor: u32,
        /// Permission bits.
        mode: u32,
        /// Owner, in the host's numbers.
        #[serde(default)]
        uid: u32,
        /// Group, in the host's numbers.
        #[serde(default)]
        gid: u32,
    },
    /// A detached mount of an existing node is attached.
    Bind(Handle),
}

/// What a device node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeKind {
    /// A character device.
    Character,
    /// A block device.
    Block,
    /// A named pipe.
    Pipe,
}

/// A symbolic link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Where, inside the container.
    pub path: String,
    /// What it says.
    pub target: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_translated_inside_their_range_only() {
        let ranges = [
            IdRange { inside: 0, outside: 100_000, count: 1000 },
            IdRange { inside: 5000, outside: 300_000, count: 1 },
            IdRange { inside: 9000, outside: u32::MAX, count: 2 },
        ];
        assert_eq!(IdRange::outside_of(&ranges, 0), Some(100_000));
        assert_eq!(IdRange::outside_of(&ranges, 999), Some(100_999));
        assert_eq!(IdRange::outside_of(&ranges, 1000), None);
        assert_eq!(IdRange::outside_of(&ranges, 5000), Some(300_000));
        assert_eq!(IdRange::outside_of(&ranges, 9001), None);
    }

    #[test]
    fn a_newer_daemons_fields_are_skipped_and_an_older_ones_defaulted() {
        let text = r#"{"plan":0,"stdio":{"files":[1,2,3]},"colour":"blue"}"#;
        let launch: Launch = serde_json::from_str(text).unwrap();
        assert_eq!(launch.namespaces, Namespaces::default());
        assert_eq!(launch.cgroup, Placement::Inherit);
        assert_eq!(launch.stdio, Stdio::Files([Handle(1), Handle(2), Handle(3)]));
    }

    #[test]
    fn a_plan_survives_its_journey() {
        let mount = Mount {
            target: "/proc".to_owned(),
            source: Source::New(Filesystem {
                kind: "proc".to_owned(),
                source: None,
                parameters: vec![("hidepid".to_owned(), Some("2".to_owned()))],
            }),
            create: Create::Directory,
            attributes: Attributes { set: 14, clear: 0 },
            recursive_attributes: Attributes::default(),
            propagation: vec![Propagation { kind: PropagationKind::Slave, recursive: true }],
        };
        let plan = Plan {
            root: Root {
                mount: Handle(4),
                read_only: true,
                volumes: Vec::new(),
                propagation: None,
            },
            mounts: vec![mount],
            devices: Vec::new(),
            links: Vec::new(),
            masked_paths: vec!["/proc/kcore".to_owned()],
            read_only_paths: Vec::new(),
            sysctls: Vec::new(),
            hostname: None,
            domainname: None,
            process: Process { args: vec!["/bin/true".to_owned()], ..Process::default() },
        };
        let text = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
    }

    #[test]
    fn who_does_not_say_may_look() {
        let launch = r#"{"plan": 0, "stdio": {"files": [0, 0, 0]}}"#;
        assert!(serde_json::from_str::<Launch>(launch).unwrap().onlooker);
    }
}
