//! What the outside sees of pods and containers: plain values, copied out of memory.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use model::{
    ContainerId, ContainerSpec, ContainerState, PodId, PodSpec, PodState, Resources, Timestamp,
};

/// A pod as List and Status show it.
#[derive(Debug, Clone)]
pub struct PodView {
    /// Its id.
    pub id: PodId,
    /// What was asked for.
    pub spec: Arc<PodSpec>,
    /// READY or NOTREADY.
    pub state: PodState,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// Its addresses, the first one first; empty on the host's network and once stopped.
    pub ips: Vec<IpAddr>,
    /// The keeper's process id while it lives, for tools that enter the pod.
    pub pid: Option<u32>,
    /// Where the network namespace can be entered.
    pub netns: Option<String>,
}

/// A container as List and Status show it.
#[derive(Debug, Clone)]
pub struct ContainerView {
    /// Its id.
    pub id: ContainerId,
    /// Its pod.
    pub pod: PodId,
    /// The pod's request, for labels such as namespace and name.
    pub pod_spec: Arc<PodSpec>,
    /// What was asked for.
    pub spec: Arc<ContainerSpec>,
    /// Its state, with times and exit.
    pub state: ContainerState,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// The image's id, the digest of its configuration.
    pub image_id: String,
    /// `name@digest` where the image was pulled by one, else its id.
    pub image_ref: String,
    /// The limits in force.
    pub resources: Resources,
    /// Who its first process runs as.
    pub user: UserView,
    /// The signal that asks it to stop.
    pub stop_signal: model::Signal,
    /// The absolute log path; empty where nothing is logged.
    pub log_path: String,
    /// The process id of its init while it lives.
    pub pid: Option<u32>,
    /// Digests of the images mounted as volumes, by path in the container.
    pub image_volumes: BTreeMap<String, String>,
    /// Its cgroup, a path in the hierarchy.
    pub cgroup: String,
}

/// Numeric identity of a container's first process.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct UserView {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplemental groups.
    pub groups: Vec<u32>,
}

/// Which pods to list; absent parts match all, present ones must all match.
#[derive(Debug, Clone, Default)]
pub struct PodFilter {
    /// A pod's id or the beginning of it.
    pub id: Option<String>,
    /// A state.
    pub state: Option<PodState>,
    /// Labels that must all be there with these values.
    pub labels: BTreeMap<String, String>,
}

/// The state of a container without what it owns, for filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerPhase {
    /// Waits before execve.
    Created,
    /// Runs.
    Running,
    /// Ended.
    Exited,
}

/// Which containers to list; absent parts match all, present ones must all match.
#[derive(Debug, Clone, Default)]
pub struct ContainerFilter {
    /// A container's id or the beginning of it.
    pub id: Option<String>,
    /// A pod's id or the beginning of it.
    pub pod: Option<String>,
    /// A state.
    pub phase: Option<ContainerPhase>,
    /// Labels that must all be there with these values.
    pub labels: BTreeMap<String, String>,
}

/// What ExecSync gives.
#[derive(Debug, Clone)]
pub struct ExecOutput {
    /// Standard output, cut at the cap.
    pub stdout: Vec<u8>,
    /// Standard error, cut at the cap.
    pub stderr: Vec<u8>,
    /// The exit code: 128 + signal for a signal's death.
    pub exit_code: i32,
}

/// What one change of a container or pod was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// It was made.
    Created,
    /// It was started.
    Started,
    /// It ended.
    Stopped,
    /// It was removed.
    Deleted,
}

/// A change, with what was so right after it (CRI `ContainerEventResponse`).
#[derive(Debug, Clone)]
pub struct Event {
    /// The container's id, or the pod's for a change of the pod itself.
    pub id: String,
    /// What happened.
    pub kind: EventKind,
    /// When.
    pub at: Timestamp,
    /// The pod.
    pub pod: PodView,
    /// All its containers; shared by all who hear of it.
    pub containers: Arc<[ContainerView]>,
}

/// What a container used, at one moment.
#[derive(Debug, Clone)]
pub struct ContainerStats {
    /// The container.
    pub container: ContainerView,
    /// When the counters were read.
    pub at: Timestamp,
    /// Counters of its cgroup; none once it has ended.
    pub cgroup: Option<cgroup::Stats>,
    /// CPU use in billionths of one CPU, over the time since an earlier reading; none at first.
    pub nano_cores: Option<u64>,
    /// What it has written to its root file system; none until the first walk has ended.
    pub writable_layer: Option<DiskUsage>,
    /// Processes in the cgroup.
    pub processes: u64,
    /// Threads in the cgroup.
    pub threads: u64,
    /// What its processes hold, where that was asked for: it costs a look at each of them.
    pub holdings: Option<Holdings>,
    /// The file system that its writable layer lies on.
    pub filesystem: Option<FileSystem>,
}

/// What the processes of a container hold, and what befell them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Open file descriptors.
    pub descriptors: u64,
    /// How many of them are sockets.
    pub sockets: u64,
    /// How many descriptors its first process may open; none once that has ended.
    pub descriptors_max: Option<u64>,
    /// How often the kernel killed one of them for want of memory.
    pub oom_kills: u64,
}

/// The size of a file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSystem {
    /// Its device as `major:minor`.
    pub device: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its inodes, used or not.
    pub inodes: u64,
    /// Its unused inodes.
    pub inodes_free: u64,
}

/// Bytes and inodes below a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskUsage {
    /// When the walk ended.
    pub at: Timestamp,
    /// The directory's mount point or path.
    pub mountpoint: String,
    /// Bytes allocated.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

/// What a pod used, at one moment.
#[derive(Debug, Clone)]
pub struct PodStats {
    /// The pod.
    pub pod: PodView,
    /// When the counters were read.
    pub at: Timestamp,
    /// Counters of the pod's cgroup, the sum of its containers.
    pub cgroup: Option<cgroup::Stats>,
    /// CPU use in billionths of one CPU; none at first.
    pub nano_cores: Option<u64>,
    /// Interfaces but the loopback one.
    pub interfaces: Vec<network::InterfaceStats>,
    /// Processes in all its cgroups.
    pub processes: u64,
    /// Its running containers.
    pub containers: Vec<ContainerStats>,
}
