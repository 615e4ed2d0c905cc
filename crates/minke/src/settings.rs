//! What can be configured: defaults, then the file, then drop-ins in the order of their names, then
//! flags; a later one wins key by key.
//!
//! One table ([`keys`]) holds each key's name, documentation and place in [`Settings`]. Reading a
//! file, printing the default one and dumping the effective settings all walk that table, so a key
//! cannot be undocumented, and the documented default cannot differ from the real one.

mod keys;
mod print;
mod read;
mod value;

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use network::Subnet;
use telemetry::{Format, Level};

pub(crate) use print::{default_file, effective_file};
pub(crate) use read::{Mistakes, Sources, load};

/// Where the configuration is looked for unless a flag says otherwise. Drop-ins are the `*.toml`
/// files of the directory `config.d` beside it.
pub(crate) const DEFAULT_FILE: &str = "/etc/minke/config.toml";

/// Everything that can be configured, checked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Settings {
    /// What survives a reboot: images, writable layers.
    pub(crate) root: PathBuf,
    /// What does not: records, sockets, pipes.
    pub(crate) state: PathBuf,
    /// Where CRI is served.
    pub(crate) socket: PathBuf,
    pub(crate) log: Log,
    pub(crate) streaming: Streaming,
    pub(crate) network: Network,
    pub(crate) images: Images,
    pub(crate) runtime: Runtime,
}

/// What is told, and how.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Log {
    pub(crate) level: Level,
    pub(crate) format: Format,
}

/// The server for exec, attach and port-forward.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Streaming {
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    pub(crate) idle_timeout: Duration,
}

/// The pods' network.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Network {
    pub(crate) subnets: Vec<Subnet>,
    pub(crate) wait_for_pod_cidr: bool,
    pub(crate) mtu: Option<u32>,
    pub(crate) bridge_prefix: String,
    pub(crate) netns_dir: PathBuf,
}

/// Pulling and keeping images.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Images {
    pub(crate) max_concurrent_downloads: u16,
    pub(crate) discard_layers: bool,
    pub(crate) pinned_images: Vec<String>,
    pub(crate) certs_dirs: Vec<PathBuf>,
    pub(crate) docker_config: Option<PathBuf>,
    pub(crate) connect_timeout: Duration,
    pub(crate) stall_timeout: Duration,
}

/// Pods and containers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Runtime {
    pub(crate) handlers: Vec<String>,
    pub(crate) unset_seccomp_profile: SeccompDefault,
    pub(crate) drain_exec_io: Duration,
    pub(crate) unprivileged_ports: bool,
    pub(crate) unprivileged_icmp: bool,
}

/// What holds a container that asks for no seccomp profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SeccompDefault {
    /// Nothing, as in the field.
    Unconfined,
    /// The runtime's default profile.
    RuntimeDefault,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            root: "/var/lib/minke".into(),
            state: "/run/minke".into(),
            socket: "/run/minke/minke.sock".into(),
            log: Log { level: Level::default(), format: Format::default() },
            streaming: Streaming {
                address: Ipv4Addr::LOCALHOST.into(),
                port: 0,
                idle_timeout: Duration::from_secs(4 * 3600),
            },
            network: Network {
                subnets: Vec::new(),
                wait_for_pod_cidr: false,
                mtu: None,
                bridge_prefix: "minke".into(),
                netns_dir: "/run/netns".into(),
            },
            images: Images {
                max_concurrent_downloads: 3,
                discard_layers: false,
                pinned_images: Vec::new(),
                certs_dirs: vec!["/etc/minke/certs.d".into(), "/etc/containerd/certs.d".into()],
                docker_config: None,
                connect_timeout: Duration::from_secs(30),
                stall_timeout: Duration::from_secs(30),
            },
            runtime: Runtime {
                handlers: vec!["minke".into()],
                unset_seccomp_profile: SeccompDefault::Unconfined,
                drain_exec_io: Duration::from_secs(2),
                unprivileged_ports: true,
                unprivileged_icmp: true,
            },
        }
    }
}
