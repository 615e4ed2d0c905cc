//! A pod's network as acquire and release: bridge, veth, addresses, host ports.
//!
//! ```text
//!   pod's namespace                         host's namespace
//!  +---------------------+                 +---------------------------------------------+
//!  | lo   127.0.0.1 ::1  |                 |  minke0  bridge, the pods' gateway          |
//!  | eth0 10.160.0.2/20 ========= veth ======== minke0-1f3a9c02  (port of the bridge)    |
//!  |      default via .1 |                 |                                             |
//!  +---------------------+                 |  nftables table inet minke0                 |
//!    bound at                              |    masquerade of what leaves the node       |
//!    /run/netns/minke-<pod id>             |    host ports: four maps, an element a port |
//!                                          +---------------------------------------------+
//! ```
//!
//! [`Network`] is what the rest of minke sees; behind it stands one provider, today the built-in
//! `bridge`. Whatever a provider does in the kernel blocks for a moment, so `Network` runs it on
//! threads made for that and leaves only waiting to the event loop. CNI plugins become a second
//! provider with the same calls: acquire, release, adopt.
//!
//! Kernel objects carry the bridge's name: the links, the nftables table, rules in other people's
//! chains. The name is free when it is chosen and the bridge's MAC address, recorded before the
//! bridge is made, tells later whether a bridge of that name is still ours; so two daemons, or a
//! daemon and a demo, never touch each other's.
//!
//! Everything is asked of the kernel through netlink, several requests to a message where they
//! belong together, and no program is run. Requests go over sockets of our own (`netlink`) because
//! the kernel answers within the send; a connection task between caller and socket, as the
//! `rtnetlink` crate has it, would double the cost and sends one request at a time.
//!
//! An address is spoken for from the moment a record of it is on disk, before the kernel hears of
//! it, until the link that bore it has been seen to go. A daemon that dies in between finds the
//! record and [`Network::adopt`] settles it.

mod attachment;
mod bridge;
mod conntrack;
mod error;
mod firewall;
mod ipam;
mod link;
mod namespace;
mod nat;
mod netlink;
mod network;
mod nfnetlink;
mod ports;
mod record;
mod rule;
mod subnet;
mod sysctl;
mod watch;

use std::path::PathBuf;

pub use attachment::{Assigned, Attachment, InterfaceStats, Request};
pub use error::Error;
pub use netlink::{NetlinkError, Refusal};
pub use network::Network;
pub use subnet::{Subnet, SubnetError};

/// What the network is made from; settled before [`Network::open`].
#[derive(Debug, Clone)]
pub struct Config {
    /// The bridge is this with a number: the first free of `minke0`, `minke1` and so on. At most
    /// 4 characters are left for the number and what links add, so at most 6.
    pub bridge_prefix: String,
    /// Pod subnets, at most one of each IP version. Empty: the last pod CIDR that
    /// [`Network::set_pod_cidr`] was given, else a default that overlaps no route of the host.
    pub subnets: Vec<Subnet>,
    /// MTU of pod interfaces; none takes that of the default route's interface.
    pub mtu: Option<u32>,
    /// Without `subnets`: be not ready until a pod CIDR comes, instead of choosing a default.
    pub wait_for_pod_cidr: bool,
    /// Directory of our records, private to this daemon.
    pub state_dir: PathBuf,
    /// Directory in which pods' namespaces are bound, `/run/netns` by custom.
    pub netns_dir: PathBuf,
}

/// Whether pods can be networked, kept in memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// Whether [`Network::acquire`] can succeed.
    pub ready: bool,
    /// Why not, when it cannot.
    pub reason: Option<String>,
    /// What an operator should know besides: settings that were changed, what is missing, what
    /// stands in the way.
    pub notes: Vec<String>,
}
