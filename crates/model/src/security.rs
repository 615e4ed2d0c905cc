use serde::{Deserialize, Serialize};

/// Where the processes of a container are seen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PidMode {
    /// One PID namespace for all containers of the pod.
    Pod,
    /// A PID namespace of its own.
    #[default]
    Container,
    /// The host's.
    Node,
    /// That of another container of the same pod, by id.
    Target(String),
}

/// Whose network a pod uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum NetworkMode {
    /// The pod's own.
    #[default]
    Pod,
    /// The host's.
    Node,
}

/// Whose System V and POSIX message objects, and whose /dev/shm, a pod uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum IpcMode {
    /// The pod's own.
    #[default]
    Pod,
    /// The host's.
    Node,
}

/// One range of ids (user_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IdMapping {
    /// The first id inside.
    pub container_id: u32,
    /// The first id on the host.
    pub host_id: u32,
    /// How many ids.
    pub length: u32,
}

/// A pod's user namespace; absent where the pod uses the host's.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct UserNamespace {
    /// Exactly one range, id 0 included.
    pub uids: Vec<IdMapping>,
    /// Exactly one range, id 0 included.
    pub gids: Vec<IdMapping>,
}

/// Which namespaces are shared with whom (CRI `NamespaceOption`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct NamespaceModes {
    /// Network.
    pub network: NetworkMode,
    /// Processes.
    pub pid: PidMode,
    /// System V and POSIX objects.
    pub ipc: IpcMode,
    /// Users.
    pub user: Option<UserNamespace>,
}

/// Who the first process runs as.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum User {
    /// What the image says.
    #[default]
    Image,
    /// A number, with or without a group.
    Id {
        /// The user id.
        uid: u32,
        /// The primary group; none looks the user up in the image's passwd, else 0.
        gid: Option<u32>,
    },
    /// A name, looked up in the image's passwd.
    Name {
        /// The user's name.
        name: String,
        /// Replaces the primary group.
        gid: Option<u32>,
    },
}

/// How supplemental groups are found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SupplementalGroupsPolicy {
    /// Those asked for and those that the image's group file gives the user.
    #[default]
    Merge,
    /// Those asked for alone.
    Strict,
}

/// Supplemental groups.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Groups {
    /// The groups asked for.
    pub ids: Vec<u32>,
    /// Whether the image's are added.
    pub policy: SupplementalGroupsPolicy,
}

/// Changes to the default capability set; names without `CAP_`, upper case, or `ALL`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    /// Added.
    pub add: Vec<String>,
    /// Dropped.
    pub drop: Vec<String>,
    /// Added to the ambient set too.
    pub add_ambient: Vec<String>,
}

/// Which seccomp or AppArmor profile holds a process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Profile {
    /// None asked for: the runtime's choice.
    #[default]
    Unset,
    /// The runtime's default.
    RuntimeDefault,
    /// None.
    Unconfined,
    /// A file of the host (seccomp) or a profile's name (AppArmor).
    Localhost(String),
}

/// An SELinux label's parts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct SeLinux {
    /// User.
    pub user: String,
    /// Role.
    pub role: String,
    /// Type.
    pub type_: String,
    /// Level.
    pub level: String,
}

/// User, privileges and namespaces of a pod or of a container (CRI `LinuxContainerSecurityContext`,
/// `LinuxSandboxSecurityContext`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SecurityContext {
    /// Namespaces.
    pub namespaces: NamespaceModes,
    /// Who the first process runs as.
    pub user: User,
    /// Supplemental groups.
    pub groups: Groups,
    /// All capabilities and devices, nothing masked.
    pub privileged: bool,
    /// A root file system that refuses writes.
    pub readonly_rootfs: bool,
    /// Changes to the default capability set.
    pub capabilities: Capabilities,
    /// execve gives no privileges.
    pub no_new_privs: bool,
    /// Paths hidden from the process; none is the default list.
    pub masked_paths: Option<Vec<String>>,
    /// Paths made read-only; none is the default list.
    pub readonly_paths: Option<Vec<String>>,
    /// System call filter.
    pub seccomp: Profile,
    /// AppArmor profile.
    pub apparmor: Profile,
    /// SELinux label.
    pub selinux: Option<SeLinux>,
}
