//! Why the network could not do what was asked.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use model::{PodId, Protocol};

use crate::netlink::NetlinkError;
use crate::subnet::{Subnet, SubnetError};

/// Why the network could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The pod already has a network.
    #[error("pod {pod} already has a network")]
    Attached {
        /// The pod.
        pod: PodId,
    },
    /// The bridge's prefix does not leave room for numbers and link names, or is no link name.
    #[error("{prefix:?} cannot begin a bridge's name: 1 to 6 letters and digits are expected")]
    BridgePrefix {
        /// The configured prefix.
        prefix: String,
    },
    /// All addresses of a subnet are in use.
    #[error("no address is free in {subnet}")]
    Exhausted {
        /// The subnet.
        subnet: Subnet,
    },
    /// A file or directory of ours could not be worked with.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A host port was asked for on an address of a family that the pod has no address of.
    #[error("host port {port}/{protocol} on {host_ip}: the pod has no address of that IP version")]
    HostAddress {
        /// The host port.
        port: u16,
        /// Its protocol.
        protocol: Protocol,
        /// The host's address.
        host_ip: IpAddr,
    },
    /// nftables refused the rules or elements of host ports.
    #[error("cannot map host ports: nftables refused")]
    HostPorts {
        /// The kernel's answer.
        #[source]
        source: NetlinkError,
    },
    /// The kernel refused a request about links, addresses or routes.
    #[error("cannot {action} {object}")]
    Kernel {
        /// What was being done.
        action: &'static str,
        /// To what.
        object: String,
        /// The kernel's answer.
        #[source]
        source: NetlinkError,
    },
    /// No subnet is known yet, or the bridge could not be made.
    #[error("the pod network is not ready: {reason}")]
    NotReady {
        /// The reason, as the status gives it.
        reason: String,
    },
    /// A host port belongs to another pod.
    #[error("host port {port}/{protocol} is taken by pod {owner} ({pod})")]
    PortTaken {
        /// The host port.
        port: u16,
        /// Its protocol.
        protocol: Protocol,
        /// Namespace and name of the pod that has it.
        owner: String,
        /// The id of that pod.
        pod: PodId,
    },
    /// Subnets do not go together.
    #[error(transparent)]
    Subnet(#[from] SubnetError),
    /// A thread that talked to the kernel ended early: a defect of ours.
    #[error("network thread ended unexpectedly")]
    Thread,
    /// A pod's namespace could not be entered.
    #[error("cannot open a socket in the network namespace of pod {pod}")]
    Unreachable {
        /// The pod.
        pod: PodId,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;
