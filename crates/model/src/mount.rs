use serde::{Deserialize, Serialize};

use crate::security::IdMapping;

/// How mounts made later on one side appear on the other (mount_namespaces(7)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Propagation {
    /// On neither side (`rprivate`).
    #[default]
    Private,
    /// The host's appear in the container (`rslave`).
    HostToContainer,
    /// Each side's appear on the other (`rshared`).
    Bidirectional,
}

/// A volume of a container (CRI `Mount`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// The absolute path in the container.
    pub container_path: String,
    /// The host's path; empty for an image volume.
    #[serde(default)]
    pub host_path: String,
    /// Refuses writes.
    #[serde(default)]
    pub readonly: bool,
    /// Refuses writes on every mount below it too; needs `readonly` and private propagation.
    #[serde(default)]
    pub recursive_read_only: bool,
    /// Asks for an SELinux relabel of the source.
    #[serde(default)]
    pub selinux_relabel: bool,
    /// How mounts made later propagate.
    #[serde(default)]
    pub propagation: Propagation,
    /// Maps user ids of the volume's files; both maps or neither.
    #[serde(default)]
    pub uid_mappings: Vec<IdMapping>,
    /// Maps group ids of the volume's files.
    #[serde(default)]
    pub gid_mappings: Vec<IdMapping>,
    /// The image whose files are the volume.
    #[serde(default)]
    pub image: Option<ImageVolume>,
    /// Further options of mount(8) that only change flags: `noexec`, `nosuid`, `nodev`, `noatime` …
    #[serde(default)]
    pub options: Vec<String>,
}

/// An image mounted as a volume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageVolume {
    /// An image id, a tag or a digest reference.
    pub image: String,
    /// The directory or file inside the image; empty is its root.
    #[serde(default)]
    pub sub_path: String,
}
