//! What is asked for a pod, and what it got.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use model::{PodId, PortMapping};
use serde::{Deserialize, Serialize};

use crate::subnet::Subnet;

/// Asks for a pod's network.
#[derive(Debug)]
pub struct Request {
    /// The pod.
    pub pod: PodId,
    /// Its namespace and name, for messages and comments: `default/web`.
    pub label: String,
    /// Its network namespace, fresh; closed when acquire is done.
    pub netns: OwnedFd,
    /// Its ports; those whose host port is 0 are ignored.
    pub ports: Vec<PortMapping>,
}

/// A pod's network: all that is needed to describe and to release it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The interface inside the pod.
    pub interface: String,
    /// Its MAC address, written as `0a:58:0a:a0:00:02`.
    pub mac: String,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Its addresses, the pod's primary one first.
    pub addresses: Vec<Assigned>,
    /// The veth's host end.
    pub host_link: String,
    /// The host end's interface index; 0 is unknown.
    pub host_index: u32,
    /// Where the namespace is bound.
    pub netns: PathBuf,
    /// Mapped ports; none has host port 0.
    #[serde(default)]
    pub ports: Vec<PortMapping>,
}

impl Attachment {
    /// The pod's addresses, the primary one first.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.iter().map(|address| address.ip)
    }
}

/// An address of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assigned {
    /// The address.
    pub ip: IpAddr,
    /// The subnet it was taken from, which is on-link.
    pub subnet: Subnet,
    /// The default route's next hop: the bridge.
    pub gateway: IpAddr,
}

/// Counters of a pod's interface, as the pod sees them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InterfaceStats {
    /// The interface inside the pod.
    pub name: String,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Receive errors.
    pub rx_errors: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Packets that came and were dropped.
    pub rx_dropped: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Transmit errors.
    pub tx_errors: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Packets that were to be sent and were dropped.
    pub tx_dropped: u64,
}
