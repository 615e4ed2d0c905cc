use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::resources::Resources;
use crate::security::SecurityContext;

/// What identifies a pod to its creator; a retry repeats all four.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PodMetadata {
    /// The pod's name.
    pub name: String,
    /// Its Kubernetes UID.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Counts the sandboxes made for one pod.
    pub attempt: u32,
}

/// Everything that a caller asks of a pod sandbox (CRI `PodSandboxConfig`), validated.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PodSpec {
    /// Name, UID, namespace, attempt.
    pub metadata: PodMetadata,
    /// The host name of the pod's UTS namespace; empty on the host's network.
    #[serde(default)]
    pub hostname: String,
    /// The absolute directory under which container log paths lie; none where nothing is logged.
    #[serde(default)]
    pub log_directory: Option<String>,
    /// The resolver's configuration; none copies the host's.
    #[serde(default)]
    pub dns: Option<DnsConfig>,
    /// Ports of the pod, some of them mapped to the host.
    #[serde(default)]
    pub ports: Vec<PortMapping>,
    /// Labels, for filters.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Annotations, kept and returned.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// The cgroup that holds the pod, an absolute path in the hierarchy.
    #[serde(default)]
    pub cgroup_parent: Option<String>,
    /// Namespaces, user, privileges.
    #[serde(default)]
    pub security: SecurityContext,
    /// Namespaced kernel parameters by dotted name.
    #[serde(default)]
    pub sysctls: BTreeMap<String, String>,
    /// What the pod needs beside its containers; kept and returned.
    #[serde(default)]
    pub overhead: Option<Resources>,
    /// The sum over its containers; kept and returned.
    #[serde(default)]
    pub resources: Option<Resources>,
    /// The runtime handler; empty is the default one.
    #[serde(default)]
    pub runtime_handler: String,
}

/// What goes into the pod's resolv.conf.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsConfig {
    /// `nameserver` lines.
    pub servers: Vec<String>,
    /// The words of the `search` line.
    pub searches: Vec<String>,
    /// The words of the `options` line.
    pub options: Vec<String>,
}

/// A transport protocol that has ports.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// A port of the pod; mapped where `host_port` is not 0.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PortMapping {
    /// The transport protocol.
    pub protocol: Protocol,
    /// The port inside the pod.
    pub container_port: u16,
    /// The port on the host; 0 maps nothing.
    pub host_port: u16,
    /// The host address that answers; none is every address.
    pub host_ip: Option<IpAddr>,
}
