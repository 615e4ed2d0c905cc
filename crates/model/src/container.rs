use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::mount::Mount;
use crate::resources::Resources;
use crate::security::SecurityContext;
use crate::state::Signal;

/// What identifies a container within its pod; a retry repeats both.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ContainerMetadata {
    /// The container's name.
    pub name: String,
    /// Counts the instances of one container.
    pub attempt: u32,
}

/// The image that a container starts from, as the caller names it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageSpec {
    /// An image id, a tag or a digest reference.
    pub image: String,
    /// What the user wrote in the pod, kept and returned.
    #[serde(default)]
    pub user_specified_image: String,
    /// Annotations, kept and returned.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// The runtime handler that the image was pulled for; kept and returned.
    #[serde(default)]
    pub runtime_handler: String,
}

/// A device of the host that the container may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its path in the container.
    pub container_path: String,
    /// Its path on the host: a device node, or a directory of them.
    pub host_path: String,
    /// What the device cgroup allows: some of `r`, `w`, `m`.
    pub permissions: String,
}

/// Everything that a caller asks of a container (CRI `ContainerConfig`), validated.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Name and attempt.
    pub metadata: ContainerMetadata,
    /// The image.
    pub image: ImageSpec,
    /// Replaces the image's entry point, and with it the image's arguments.
    #[serde(default)]
    pub command: Vec<String>,
    /// Replaces the image's arguments.
    #[serde(default)]
    pub args: Vec<String>,
    /// Replaces the image's working directory.
    #[serde(default)]
    pub working_dir: String,
    /// Environment in order; a later name wins, over the image's too.
    #[serde(default)]
    pub envs: Vec<(String, String)>,
    /// Volumes.
    #[serde(default)]
    pub mounts: Vec<Mount>,
    /// Devices of the host.
    #[serde(default)]
    pub devices: Vec<Device>,
    /// Labels, for filters.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Annotations, kept and returned.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// The log file relative to the pod's log directory; none discards the output.
    #[serde(default)]
    pub log_path: Option<String>,
    /// Keeps standard input open for attach.
    #[serde(default)]
    pub stdin: bool,
    /// Closes standard input after the first attach that wrote to it has ended.
    #[serde(default)]
    pub stdin_once: bool,
    /// Gives the process a terminal.
    #[serde(default)]
    pub tty: bool,
    /// Limits.
    #[serde(default)]
    pub resources: Resources,
    /// User, privileges, namespaces.
    #[serde(default)]
    pub security: SecurityContext,
    /// Replaces the image's stop signal.
    #[serde(default)]
    pub stop_signal: Option<Signal>,
}
