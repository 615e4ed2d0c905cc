//! The built-in provider: a bridge, a veth for each pod, addresses from our own bookkeeping.
//!
//! ```text
//!   reserve   in memory: addresses, host ports, a link name
//!   record    on disk, before the kernel hears of any of it
//!   bind      the namespace at its path
//!   veth      peer born inside, host end on the bridge; one send
//!   inside    lo and eth0 up, addresses, routes; one send
//!   map       host ports, if there are any
//! ```
//!
//! Release goes the other way. Its last reference gone, the kernel takes the namespace down and the
//! veth with it, which is far cheaper than to delete a link by request; only the sight of that makes
//! the address free. All calls here block for as long as the kernel works.

mod setup;

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use model::PodId;
use tokio::sync::oneshot;

use crate::attachment::{Assigned, Attachment, InterfaceStats, Request};
use crate::error::{Error, Result};
use crate::ipam::Ipam;
use crate::link::{Link, Links, Veth};
use crate::nat::Nat;
use crate::netlink::{NetlinkError, Socket};
use crate::ports::{self, Mapping, Ports};
use crate::record::{Node, Pod, Records};
use crate::subnet::Subnet;
use crate::watch::{Seen, Watch};
use crate::{Config, Status, conntrack, firewall, namespace};

const INTERFACE: &str = "eth0";

/// What Ethernet has had from the start, for hosts without a default route.
const MTU: u32 = 1500;

/// A link's name has at most this many bytes (IFNAMSIZ, less the NUL).
const LINK_NAME: usize = 15;

/// The bridge and all that hangs on it.
#[derive(Debug)]
pub(crate) struct Bridge {
    config: Config,
    records: Records,
    /// The bridge's name, which every other kernel object of ours carries.
    name: String,
    /// Held while the kernel works on a request; it does one at a time anyway.
    host: Mutex<Host>,
    /// Held while tables are changed.
    filter: Mutex<Filter>,
    /// Never held while the kernel is asked for anything.
    state: Mutex<State>,
}

/// The host's links, and which of them is the bridge.
#[derive(Debug)]
struct Host {
    links: Links,
    bridge: u32,
}

/// netfilter: the table of ours, and a socket for everything else there.
#[derive(Debug)]
struct Filter {
    nat: Nat,
    socket: Socket,
}

/// What is known about pods and addresses; the records say the same.
#[derive(Debug, Default)]
struct State {
    node: Node,
    subnets: Vec<Subnet>,
    ipam: Ipam,
    ports: Ports,
    pods: HashMap<PodId, Pod>,
    serial: u64,
    /// Pods whose records could not be read, until they are adopted or let go.
    lost: Vec<PodId>,
    /// What was changed on the host or was found amiss at start.
    notes: Vec<String>,
    /// What is amiss with netfilter now.
    filter_notes: Vec<String>,
}

/// A pod whose network is on its way out.
#[derive(Debug)]
pub(crate) struct Leaving {
    pub(crate) pod: PodId,
    attachment: Attachment,
    index: u32,
    pub(crate) gone: oneshot::Receiver<Seen>,
}

impl Bridge {
    /// Gives a pod its network, or leaves nothing behind.
    pub(crate) fn acquire(&self, request: &Request) -> Result<Attachment> {
        let mtu = self.mtu()?;
        let (mut pod, mappings) = self.reserve(request, mtu)?;
        let made = self.connect(request, &pod, &mappings);
        match made {
            Ok(link) => {
                pod.attachment.host_index = link.index;
                if let Some(known) = self.state().pods.get_mut(&request.pod) {
                    known.attachment.host_index = link.index;
                }
                Ok(pod.attachment)
            }
            Err(error) => {
                if let Err(undo) = self.undo(&request.pod, &pod.attachment) {
                    // The caller hears why it failed; this is what release has to repeat.
                    tracing::warn!(pod = %request.pod, error = %undo, "network is left half made");
                }
                Err(error)
            }
        }
    }

    /// Takes what the pod will have, in memory.
    fn reserve(&self, request: &Request, mtu: u32) -> Result<(Pod, Vec<Mapping>)> {
        let ports: Vec<_> =
            request.ports.iter().filter(|port| port.host_port != 0).cloned().collect();
        let mut state = self.state();
        let state = &mut *state;
        if state.pods.contains_key(&request.pod) {
            return Err(Error::Attached { pod: request.pod.clone() });
        }
        if let Some(reason) = self.unready(state) {
            return Err(Error::NotReady { reason });
        }
        state.ports.take(&request.pod, &request.label, &ports)?;
        let taken = state.ipam.take().map_err(|subnet| Error::Exhausted { subnet });
        let addresses: Vec<_> = match taken {
            Ok(taken) => taken
                .into_iter()
                .map(|(ip, subnet)| Assigned { ip, subnet, gateway: subnet.gateway() })
                .collect(),
            Err(error) => {
                state.ports.give_back(&request.pod, &ports);
                return Err(error);
            }
        };
        let mappings = match ports::mappings(&addresses, &ports) {
            Ok(mappings) => mappings,
            Err(error) => {
                state.ports.give_back(&request.pod, &ports);
                addresses.iter().for_each(|address| state.ipam.give_back(address.ip));
                return Err(error);
            }
        };
        let attachment = Attachment {
            interface: INTERFACE.to_owned(),
            mac: text_of(mac_of(&addresses)),
            mtu,
            host_link: self.link_name(state, &request.pod),
            host_index: 0,
            netns: self.config.netns_dir.join(format!("minke-{}", request.pod)),
            addresses,
            ports,
        };
        state.serial += 1;
        let pod = Pod { serial: state.serial, label: request.label.clone(), attachment };
        state.pods.insert(request.pod.clone(), pod.clone());
        Ok((pod, mappings))
    }

    /// Makes in the kernel what was reserved.
    fn connect(&self, request: &Request, pod: &Pod, mappings: &[Mapping]) -> Result<Link> {
        let attachment = &pod.attachment;
        self.records.write_pod(&request.pod, pod)?;
        namespace::bind(request.netns.as_fd(), &attachment.netns)?;
        let inside = namespace::socket(request.netns.as_fd())
            .map_err(|source| Error::Unreachable { pod: request.pod.clone(), source })?;
        let link = {
            let mut host = self.host();
            let veth = Veth {
                host: &attachment.host_link,
                bridge: host.bridge,
                interface: &attachment.interface,
                mac: mac_of(&attachment.addresses),
                mtu: attachment.mtu,
                netns: request.netns.as_fd(),
            };
            host.links.make_veth(&veth).map_err(kernel("make veth", &attachment.host_link))?
        };
        Links::new(Socket::new(inside))
            .configure_pod(link.peer, &attachment.addresses)
            .map_err(kernel("set up eth0 of pod", &request.label))?;
        if !mappings.is_empty() {
            let mut filter = self.filter();
            filter.nat.map(mappings).map_err(|source| Error::HostPorts { source })?;
            self.forget_udp(&mut filter, mappings)?;
        }
        Ok(link)
    }

    /// Takes back whatever of a failed acquire was made.
    fn undo(&self, pod: &PodId, attachment: &Attachment) -> Result<()> {
        self.unmap(attachment)?;
        namespace::unbind(&attachment.netns)?;
        {
            let mut host = self.host();
            let failed = || kernel("delete veth", &attachment.host_link);
            if let Some(link) = host.links.find(&attachment.host_link).map_err(failed())? {
                host.links.delete(link.index).map_err(failed())?;
            }
        }
        self.forget(pod)
    }

    /// Lets go of everything but the address: host ports and our reference to the namespace.
    /// Nothing comes back if the link is gone already and the address with it.
    pub(crate) fn leave(
        &self,
        pod: &PodId,
        attachment: &Attachment,
        watch: &Watch,
    ) -> Result<Option<Leaving>> {
        self.unmap(attachment)?;
        let failed = || kernel("find veth", &attachment.host_link);
        let link = self.host().links.find(&attachment.host_link).map_err(failed())?;
        // Listen first: once unbound, the namespace may be gone before we do.
        let gone = link.map(|link| (link.index, watch.gone(link.index)));
        namespace::unbind(&attachment.netns)?;
        match gone {
            Some((index, gone)) => {
                Ok(Some(Leaving { pod: pod.clone(), attachment: attachment.clone(), index, gone }))
            }
            None => self.forget(pod).map(|()| None),
        }
    }

    /// Ends what `leave` began, when the link was seen to go, or was waited for in vain: something
    /// still holds the namespace, and the link is taken from it.
    pub(crate) fn left(&self, leaving: &Leaving, seen: Option<Seen>) -> Result<()> {
        if seen != Some(Seen::Gone) {
            let mut host = self.host();
            let failed = || kernel("delete veth", &leaving.attachment.host_link);
            let link = host.links.find(&leaving.attachment.host_link).map_err(failed())?;
            if link.is_some_and(|link| link.index == leaving.index) {
                host.links.delete(leaving.index).map_err(failed())?;
            }
        }
        self.forget(&leaving.pod)
    }

    /// The pod has nothing any more: its addresses and ports are free.
    fn forget(&self, pod: &PodId) -> Result<()> {
        self.records.remove_pod(pod)?;
        let mut state = self.state();
        state.lost.retain(|lost| lost != pod);
        if let Some(known) = state.pods.remove(pod) {
            known.attachment.ips().for_each(|ip| state.ipam.give_back(ip));
            state.ports.give_back(pod, &known.attachment.ports);
        }
        Ok(())
    }

    fn unmap(&self, attachment: &Attachment) -> Result<()> {
        // What the mappings were made from was checked then.
        let Ok(mappings) = ports::mappings(&attachment.addresses, &attachment.ports) else {
            return Ok(());
        };
        if mappings.is_empty() {
            return Ok(());
        }
        let mut filter = self.filter();
        filter.nat.unmap(&mappings).map_err(|source| Error::HostPorts { source })?;
        self.forget_udp(&mut filter, &mappings)
    }

    fn forget_udp(&self, filter: &mut Filter, mappings: &[Mapping]) -> Result<()> {
        if mappings.iter().all(|mapping| mapping.protocol != model::Protocol::Udp) {
            return Ok(());
        }
        let listed = self.host().links.all_addresses();
        let host = listed.map_err(kernel("list addresses of", "the host"))?;
        conntrack::forget_udp(&mut filter.socket, mappings, &host)
            .map_err(kernel("forget UDP flows of", &self.name))
    }

    /// What a pod has, as far as we know.
    pub(crate) fn known(&self, pod: &PodId) -> Option<Attachment> {
        Some(self.state().pods.get(pod)?.attachment.clone())
    }

    /// All pods that have a network.
    pub(crate) fn pods(&self) -> Vec<(PodId, Attachment)> {
        let state = self.state();
        state.pods.iter().map(|(id, pod)| (id.clone(), pod.attachment.clone())).collect()
    }

    /// A pod's counters; none if it has no network, or its link is gone.
    pub(crate) fn stats(&self, pod: &PodId) -> Result<Option<InterfaceStats>> {
        let Some(attachment) = self.known(pod) else { return Ok(None) };
        let failed = kernel("read counters of", &attachment.host_link);
        let link = self.host().links.at(attachment.host_index).map_err(failed)?;
        Ok(link.and_then(|link| stats_of(&link)))
    }

    /// The counters of all pods, in one request.
    pub(crate) fn all_stats(&self) -> Result<HashMap<PodId, InterfaceStats>> {
        let ports = {
            let mut host = self.host();
            let bridge = host.bridge;
            host.links.ports(bridge, true).map_err(kernel("list ports of", &self.name))?
        };
        let state = self.state();
        let owners: HashMap<&str, &PodId> =
            state.pods.iter().map(|(id, pod)| (pod.attachment.host_link.as_str(), id)).collect();
        let stats = ports
            .iter()
            .filter_map(|link| Some(((*owners.get(link.name.as_str())?).clone(), stats_of(link)?)));
        Ok(stats.collect())
    }

    pub(crate) fn status(&self) -> Status {
        let state = self.state();
        let reason = self.unready(&state);
        let notes = state.notes.iter().chain(&state.filter_notes).cloned().collect();
        Status { ready: reason.is_none(), reason, notes }
    }

    fn unready(&self, state: &State) -> Option<String> {
        state.subnets.is_empty().then(|| "no pod CIDR was given yet".to_owned())
    }

    /// The MTU a pod gets now.
    fn mtu(&self) -> Result<u32> {
        match self.config.mtu {
            Some(mtu) => Ok(mtu),
            None => {
                let found = self.host().links.default_mtu();
                Ok(found.map_err(kernel("find", "the default route"))?.unwrap_or(MTU))
            }
        }
    }

    /// A name for a pod's host end: the bridge's and as much of the id as fits. Where another pod
    /// has that, a part further on.
    fn link_name(&self, state: &State, pod: &PodId) -> String {
        let digits = LINK_NAME - self.name.len() - 1;
        let names = (0..pod.as_str().len() - digits)
            .map(|from| format!("{}-{}", self.name, &pod.as_str()[from..from + digits]));
        let used =
            |name: &String| state.pods.values().any(|known| known.attachment.host_link == *name);
        // With this many tries the last is not taken either; if it were, the kernel would say so.
        let mut last = String::new();
        for name in names {
            last = name;
            if !used(&last) {
                break;
            }
        }
        last
    }

    fn host(&self) -> MutexGuard<'_, Host> {
        self.host.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn filter(&self) -> MutexGuard<'_, Filter> {
        self.filter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The counters the pod would read: what the host end sends, it receives.
fn stats_of(link: &Link) -> Option<InterfaceStats> {
    let host = link.stats?;
    Some(InterfaceStats {
        name: INTERFACE.to_owned(),
        rx_bytes: host.tx_bytes,
        rx_errors: host.tx_errors,
        rx_packets: host.tx_packets,
        tx_bytes: host.rx_bytes,
        tx_errors: host.rx_errors,
        tx_packets: host.rx_packets,
    })
}

/// A MAC address made from the pod's first address: who gets an address again gets its MAC address
/// too, so neighbours that remember the pair are right.
fn mac_of(addresses: &[Assigned]) -> [u8; 6] {
    match addresses.first().map(|address| address.ip) {
        Some(IpAddr::V4(ip)) => {
            let [a, b, c, d] = ip.octets();
            [0x0a, 0x58, a, b, c, d]
        }
        Some(IpAddr::V6(ip)) => {
            let [.., a, b, c, d] = ip.octets();
            [0x0a, 0x59, a, b, c, d]
        }
        None => [0x0a, 0x57, 0, 0, 0, 0],
    }
}

fn text_of(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn kernel(action: &'static str, object: &str) -> impl FnOnce(NetlinkError) -> Error {
    let object = object.to_owned();
    move |source| Error::Kernel { action, object, source }
}
