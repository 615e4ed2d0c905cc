//! The built-in provider: a bridge, a veth for each pod, addresses from our own bookkeeping.
//!
//! ```text
//!   reserve   in memory: addresses, host ports, a link name
//!   record    on disk, before the kernel hears of any of it
//!   bind      the namespace at its path
//!   veth      peer born inside; one send
//!   inside    lo and eth0 up, addresses, routes; one send
//!   map       host ports, if there are any
//!   join      the host end becomes a port of the bridge; until packets pass
//! ```
//!
//! Release goes the other way. When nothing holds the namespace any more the kernel takes it down
//! and the veth with it, but late: closed sockets hold it for a grace period of RCU, and namespaces
//! go one batch after the other; 1 ms at best, often 40. So the link is deleted by request. The
//! request, too, takes 20 ms, but the message that the link is gone comes long before its end, and
//! with that the address is free. Only a pod that has TCP connections with something left to send
//! gets time to do so before its link is taken. All calls here block for as long as the kernel works.

mod setup;

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::{PodId, Protocol};
use sys::netlink::Family;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::attachment::{Assigned, Attachment, InterfaceStats, Request};
use crate::error::{Error, Result};
use crate::ipam::Ipam;
use crate::link::{Link, Links, Veth};
use crate::nat::Nat;
use crate::netlink::{NetlinkError, Socket};
use crate::ports::{self, Mapping, Ports};
use crate::record::{Node, Pod, Records};
use crate::subnet::Subnet;
use crate::watch::{Change, Seen, Watch};
use crate::{Config, Status, conntrack, firewall, namespace};

const INTERFACE: &str = "eth0";

/// What Ethernet has had from the start, for hosts without a default route.
const MTU: u32 = 1500;

/// How long the kernel gets to notice what becomes of a link, and connections of a dead pod to send
/// what they still have. The one takes a millisecond on a healthy machine, the other 50.
pub(crate) const PATIENCE: Duration = Duration::from_millis(100);

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
    visitor: namespace::Visitor,
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
    /// Whether all of it was removed, not to come back.
    retired: bool,
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
    pod: PodId,
    pub(crate) attachment: Attachment,
    pub(crate) index: u32,
    /// Whether connections of it are still sending.
    pub(crate) sending: bool,
    pub(crate) gone: oneshot::Receiver<Seen>,
}

impl Bridge {
    /// Gives a pod its network, or leaves nothing behind.
    pub(crate) fn acquire(&self, request: &Request, watch: &Watch) -> Result<Attachment> {
        let mtu = self.mtu()?;
        let (mut pod, mappings) = self.reserve(request, mtu)?;
        match self.connect(request, &pod, &mappings, watch) {
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
    fn connect(
        &self,
        request: &Request,
        pod: &Pod,
        mappings: &[Mapping],
        watch: &Watch,
    ) -> Result<Link> {
        let attachment = &pod.attachment;
        let unreachable = |source| Error::Unreachable { pod: request.pod.clone(), source };
        self.records.write_pod(&request.pod, pod)?;
        namespace::bind(request.netns.as_fd(), &attachment.netns)?;
        let ipv6 = attachment.addresses.iter().any(|address| address.ip.is_ipv6());
        let inside =
            namespace::sockets(&self.visitor, request.netns.as_fd(), ipv6).map_err(unreachable)?;
        let link = {
            let veth = Veth {
                host: &attachment.host_link,
                interface: &attachment.interface,
                mac: mac_of(&attachment.addresses),
                mtu: attachment.mtu,
                netns: request.netns.as_fd(),
            };
            let made = self.host().links.make_veth(&veth);
            made.map_err(kernel("make veth", &attachment.host_link))?
        };
        let mut links = Links::new(Socket::new(inside.requests));
        let configured = links.configure_pod(link.peer, &attachment.addresses);
        configured.map_err(kernel("set up eth0 of pod", &request.label))?;
        if !mappings.is_empty() {
            let mut filter = self.filter();
            filter.nat.map(mappings).map_err(|source| Error::HostPorts { source })?;
            self.forget_udp(&mut filter, mappings);
        }
        self.join(&link, watch)?;
        if let Some(addresses) = inside.addresses {
            addresses.wait_for(link.peer, PATIENCE).map_err(unreachable)?;
        }
        Ok(link)
    }

    /// Puts a link on the bridge and waits until packets pass both. Kernels that need to be waited for
    /// tell when.
    fn join(&self, link: &Link, watch: &Watch) -> Result<()> {
        let (ups, passes) = {
            let mut host = self.host();
            let bridge = host.bridge;
            let ups = [link.index, bridge].map(|index| watch.wait(Change::Up, index));
            let joined = host.links.join_bridge(link.index, bridge);
            (ups, joined.map_err(kernel("put on the bridge", &link.name))?)
        };
        for (up, _) in ups.into_iter().zip(passes).filter(|(_, passes)| !passes) {
            // In vain only if the bridge was turned off, and then it is not for us to turn it on.
            let waited = Handle::current().block_on(timeout(PATIENCE, up));
            tracing::debug!(link = link.name, seen = waited.is_ok(), "waited for the link");
        }
        Ok(())
    }

    /// Takes back whatever of a failed acquire was made.
    fn undo(&self, pod: &PodId, attachment: &Attachment) -> Result<()> {
        self.unmap(attachment)?;
        namespace::unbind(&attachment.netns)?;
        let name = &attachment.host_link;
        let link = self.host().links.find(name).map_err(kernel("find veth", name))?;
        if let Some(link) = link {
            delete(&link.name, link.index)?;
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
        let name = &attachment.host_link;
        let link = self.host().links.find(name).map_err(kernel("find veth", name))?;
        // Listen first: once unbound, the namespace may be gone before we do.
        let link = link.map(|link| (watch.wait(Change::Gone, link.index), link));
        let sending = link.is_some() && namespace::is_sending(&self.visitor, &attachment.netns);
        namespace::unbind(&attachment.netns)?;
        let Some((gone, link)) = link else { return self.forget(pod).map(|()| None) };
        let (pod, attachment) = (pod.clone(), attachment.clone());
        Ok(Some(Leaving { pod, attachment, index: link.index, sending, gone }))
    }

    /// Ends what `leave` began, when the link was seen to go, or was waited for in vain: then it is
    /// deleted, whoever holds the namespace.
    pub(crate) fn left(&self, leaving: &Leaving, seen: Option<Seen>) -> Result<()> {
        if seen != Some(Seen::Happened) {
            let name = &leaving.attachment.host_link;
            let link = self.host().links.find(name).map_err(kernel("find veth", name))?;
            if link.is_some_and(|link| link.index == leaving.index) {
                delete(name, leaving.index)?;
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
        if filter.nat.unmap(&mappings).map_err(|source| Error::HostPorts { source })? {
            self.forget_udp(&mut filter, &mappings);
        }
        Ok(())
    }

    /// Forgets flows of UDP host ports. Not worth to fail for: what stays goes by itself when its
    /// client pauses.
    fn forget_udp(&self, filter: &mut Filter, mappings: &[Mapping]) {
        if mappings.iter().all(|mapping| mapping.protocol != Protocol::Udp) {
            return;
        }
        let host = self.host().links.all_addresses();
        let forgotten =
            host.and_then(|host| conntrack::forget_udp(&mut filter.socket, mappings, &host));
        if let Err(error) = forgotten {
            tracing::warn!(%error, "UDP flows to host ports could not be forgotten");
        }
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
            host.links.ports(bridge).map_err(kernel("list ports of", &self.name))?
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

/// Deletes a link, over a socket that nobody else waits for; returns long after it is seen to go.
pub(crate) fn delete(name: &str, index: u32) -> Result<()> {
    let mut links = Links::new(Socket::open(Family::Route));
    links.delete(index).map_err(kernel("delete veth", name))
}

/// The counters the pod would read: what the host end sends, it receives.
fn stats_of(link: &Link) -> Option<InterfaceStats> {
    let host = link.stats?;
    Some(InterfaceStats {
        name: INTERFACE.to_owned(),
        rx_bytes: host.tx_bytes,
        rx_errors: host.tx_errors,
        rx_packets: host.tx_packets,
        rx_dropped: host.tx_dropped,
        tx_bytes: host.rx_bytes,
        tx_errors: host.rx_errors,
        tx_packets: host.rx_packets,
        tx_dropped: host.rx_dropped,
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
