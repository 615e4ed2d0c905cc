use std::path::{Path, PathBuf};

use model::{ContainerSpec, PodSpec};
use oci_spec::image::Config;
use oci_spec::runtime::{Capabilities, LinuxDeviceType, LinuxSeccomp};

use crate::{Namespaces, ResolvedUser};

/// Everything that one container's spec follows from.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// The pod as its creator asked for it.
    pub pod: &'a PodSpec,
    /// The pod's id.
    pub pod_id: &'a str,
    /// The container as its creator asked for it.
    pub container: &'a ContainerSpec,
    /// The full name of the image, for the annotation.
    pub image_name: &'a str,
    /// The image's execution defaults.
    pub image: &'a Config,
    /// Who the process runs as, from [`crate::resolve_user`].
    pub user: &'a ResolvedUser,
    /// What this machine can do.
    pub node: &'a NodeFacts,
    /// The files that the runtime keeps for the pod.
    pub files: &'a PodFiles,
    /// The roots of the container's image volumes: one for each of its mounts that names an image,
    /// in the order of the mounts.
    pub image_volumes: &'a [ImageRoot],
    /// What the container's device requests came to on this host, directories walked.
    pub devices: &'a [GrantedDevice],
    /// The container's cgroup as an absolute path in the hierarchy.
    pub cgroup: &'a Path,
    /// The namespaces that the container joins.
    pub namespaces: &'a Namespaces,
    /// The system call filter; a privileged container gets none whatever stands here.
    pub seccomp: Option<&'a LinuxSeccomp>,
    /// The AppArmor profile by name, already decided and known to be loaded.
    pub apparmor: Option<&'a str>,
    /// The SELinux label of the process; a privileged container gets none.
    pub process_label: Option<&'a str>,
    /// The SELinux label of the container's files.
    pub mount_label: Option<&'a str>,
}

/// What the machine offers; read once when the daemon starts.
#[derive(Debug, Clone, Default)]
pub struct NodeFacts {
    /// The host's name, given to containers of pods that have none of their own.
    pub hostname: String,
    /// The unified cgroup hierarchy (v2) is in use.
    pub cgroup_v2: bool,
    /// Those of `nsdelegate` and `memory_recursiveprot` that the host's /sys/fs/cgroup is mounted
    /// with: a container that shares the host's cgroup namespace must repeat them, or its mount
    /// takes them off the host's.
    pub cgroup_mount_options: Vec<String>,
    /// The capabilities that this process may hand on: what a privileged container gets, and what
    /// `ALL` means.
    pub capabilities: Capabilities,
    /// The hugetlb cgroup controller is there.
    pub hugetlb: bool,
    /// Swap can be limited.
    pub swap: bool,
    /// Mounts can be made read-only with all below them (mount_setattr(2)).
    pub recursive_read_only: bool,
    /// The `/sys/devices/system/cpu/cpuN/thermal_throttle` directories that exist; they are masked,
    /// because their counters tell a container what its neighbours do.
    pub thermal_throttle: Vec<PathBuf>,
    /// The device nodes under the host's /dev, for privileged containers; without pts, shm, mqueue,
    /// fd and console.
    pub devices: Vec<DeviceNode>,
}

/// Files that the runtime keeps for a pod; absent ones are not mounted.
#[derive(Debug, Clone, Default)]
pub struct PodFiles {
    /// For /etc/hostname.
    pub hostname: Option<PathBuf>,
    /// For /etc/hosts.
    pub hosts: Option<PathBuf>,
    /// For /etc/resolv.conf.
    pub resolv_conf: Option<PathBuf>,
    /// For /dev/shm: the pod's, or the host's where IPC is the host's.
    pub shm: Option<PathBuf>,
}

/// An image's unpacked layers, for an image volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRoot {
    /// The layer directories, lowest first; at least one.
    pub layers: Vec<PathBuf>,
}

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceNode {
    /// Its path in the container.
    pub path: PathBuf,
    /// Block or character.
    pub kind: LinuxDeviceType,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// A device that the container's creator asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantedDevice {
    /// The node.
    pub node: DeviceNode,
    /// What the device cgroup allows: some of `r`, `w`, `m`.
    pub permissions: String,
}
