//! How the bridge comes to be, gets its subnets, is taken over by the next daemon, and goes.

use std::collections::HashSet;
use std::error::Error as _;
use std::net::IpAddr;

use model::PodId;
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};
use sys::netlink::Family;

use super::{Attachment, Bridge, Filter, Host, LINK_NAME, State, firewall, kernel};
use crate::Config;
use crate::error::{Error, Result};
use crate::link::{Link, Links};
use crate::nat::Nat;
use crate::netlink::Socket;
use crate::ports;
use crate::record::{Loaded, Node, Pod, Records};
use crate::subnet::Subnet;
use crate::{namespace, sysctl};

/// As many bridges of one prefix as a host may have; far more than daemons.
const NUMBERS: u32 = 100;

/// Link names keep at least this many digits of a pod's id.
const DIGITS: usize = 6;

/// How often the choice of a default subnet may collide with another daemon's at the same moment.
const CHOICES: usize = 32;

impl Bridge {
    /// Finds or makes the bridge, reads what the last daemon left, and sets subnets and rules.
    pub(crate) fn open(config: Config) -> Result<Self> {
        check(&config)?;
        let records = Records::open(&config.state_dir)?;
        make_dir(&config.netns_dir)?;
        let mut state = State::default();
        let (node, note) = records.node()?;
        state.node = node;
        state.notes.extend(note);
        let mut host = Host { links: Links::new(Socket::open(Family::Route)), bridge: 0 };
        let fresh = find_or_make(&config, &records, &mut state.node, &mut host)?;
        let name = state.node.bridge.clone();
        sysctl::distrust_routers(&name)?;
        let nat = Nat::new(Socket::open(Family::Netfilter), name.clone());
        let filter = Filter { nat, socket: Socket::open(Family::Netfilter), retired: false };
        let bridge = Self {
            config,
            records,
            name,
            host: host.into(),
            filter: filter.into(),
            state: state.into(),
            visitor: namespace::Visitor::default(),
        };
        bridge.load()?;
        let subnets = bridge.subnets(fresh)?;
        bridge.set_subnets(subnets)?;
        Ok(bridge)
    }

    /// Takes what the records say into memory, and puts links back that lost the bridge.
    fn load(&self) -> Result<()> {
        let Loaded { mut pods, lost } = self.records.load_pods()?;
        pods.sort_by_key(|(_, pod)| pod.serial);
        let mut host = self.host();
        let bridge = host.bridge;
        let listed = host.links.all().map_err(kernel("list links beside", &self.name))?;
        for (_, pod) in &mut pods {
            let name = &pod.attachment.host_link;
            let mut link = listed.iter().find(|link| link.name == *name);
            if let Some(found) = link.filter(|link| link.bridge != bridge) {
                match host.links.join_bridge(found.index, bridge) {
                    // It has gone meanwhile.
                    Err(error) if error.is(Errno::NODEV) => link = None,
                    joined => drop(joined.map_err(kernel("put on the bridge", name))?),
                }
            }
            pod.attachment.host_index = link.map_or(0, |link| link.index);
        }
        drop(host);
        let mut mappings = Vec::new();
        let mut state = self.state();
        for (id, note) in lost {
            state.lost.push(id);
            state.notes.push(note);
        }
        for (id, pod) in pods {
            let Attachment { addresses, ports, .. } = &pod.attachment;
            mappings.extend(ports::mappings(addresses, ports).unwrap_or_default());
            state.hold(id, pod);
        }
        drop(state);
        self.filter().nat.expect(mappings);
        Ok(())
    }

    /// The subnets for new pods; none to wait for a pod CIDR.
    fn subnets(&self, fresh: bool) -> Result<Vec<Subnet>> {
        let mut node = self.state().node.clone();
        if !self.config.subnets.is_empty() {
            return Ok(self.config.subnets.clone());
        }
        if !node.pod_cidr.is_empty() || self.config.wait_for_pod_cidr {
            return Ok(node.pod_cidr);
        }
        let mut host = self.host();
        // After a reboot somebody else may have come first.
        let taken = match node.chosen.first() {
            Some(chosen) if fresh => overlapped(&mut host, *chosen)?,
            Some(_) => false,
            None => true,
        };
        if taken {
            node.chosen = vec![choose(&mut host, &self.name)?];
            self.records.write_node(&node)?;
            self.state().node = node.clone();
        }
        Ok(node.chosen)
    }

    /// Takes a pod CIDR, as UpdateRuntimeConfig brings it, for pods to come.
    pub(crate) fn set_pod_cidr(&self, text: &str) -> Result<()> {
        let subnets = Subnet::parse_list(text)?;
        let mut node = self.state().node.clone();
        if subnets.is_empty() || node.pod_cidr == subnets {
            return Ok(());
        }
        node.pod_cidr.clone_from(&subnets);
        self.records.write_node(&node)?;
        self.state().node = node;
        if self.config.subnets.is_empty() { self.set_subnets(subnets) } else { Ok(()) }
    }

    /// Makes the bridge the gateway of subnets, from which pods get addresses from now on. Pods
    /// that have addresses of others keep them, and the bridge stays their gateway.
    fn set_subnets(&self, subnets: Vec<Subnet>) -> Result<()> {
        for subnet in &subnets {
            let mut host = self.host();
            let bridge = host.bridge;
            host.links
                .add_address(bridge, subnet.gateway(), subnet.prefix())
                .map_err(kernel("give its address to", &self.name))?;
        }
        for ipv6 in [false, true] {
            if subnets.iter().any(|subnet| subnet.is_ipv6() == ipv6) && sysctl::forward(ipv6)? {
                let version = if ipv6 { "IPv6" } else { "IPv4" };
                tracing::info!("{version} forwarding was off and is now on");
                self.state().notes.push(format!("{version} forwarding was off and was turned on"));
            }
        }
        let in_use = {
            let mut state = self.state();
            let newest = state.pods.values().max_by_key(|pod| pod.serial);
            let after: Vec<IpAddr> =
                newest.map(|p| p.attachment.ips().collect()).unwrap_or_default();
            state.ipam.set_subnets(&subnets, &after);
            state.subnets = subnets;
            state.subnets_in_use()
        };
        self.filter().nat.set_subnets(in_use);
        self.refresh();
        Ok(())
    }

    /// Writes our table if it is not there as it should be, and looks whether a firewall is in the
    /// way. What is amiss is said in the status: pods can do without.
    pub(crate) fn refresh(&self) {
        let mut filter = self.filter();
        if filter.retired {
            return;
        }
        let ready = filter.nat.restore().map_err(kernel("write nftables table", &self.name));
        let ready = ready.and_then(|()| sysctl::route_localnet(&self.name));
        let opened = firewall::open(&mut filter.socket, &self.name);
        drop(filter);
        let mut notes = opened.unwrap_or_default();
        if let Err(error) = ready {
            notes.insert(
                0,
                format!(
                    "no masquerade and no host ports: {error}{}",
                    error.source().map(|cause| format!(": {cause}")).unwrap_or_default()
                ),
            );
        }
        self.state().filter_notes = notes;
    }

    /// Settles what the last daemon left: live pods are known from now on, whatever the records
    /// say; links on the bridge that nobody owns go, and so do addresses of the bridge that no pod
    /// needs. The pods that have records but do not live come back, to be released.
    pub(crate) fn adopt(&self, live: Vec<(PodId, Attachment)>) -> Result<Vec<(PodId, Attachment)>> {
        let ids: HashSet<PodId> = live.iter().map(|(id, _)| id.clone()).collect();
        for (id, attachment) in live {
            self.keep(id, attachment)?;
        }
        let mut dead = self.pods();
        dead.retain(|(id, _)| !ids.contains(id));
        let lost = std::mem::take(&mut self.state().lost);
        for id in lost.iter().filter(|id| !ids.contains(*id)) {
            namespace::unbind(&self.config.netns_dir.join(format!("minke-{id}")))?;
        }
        let owned: HashSet<String> =
            self.pods().into_iter().map(|(_, attachment)| attachment.host_link).collect();
        let gateways: HashSet<IpAddr> =
            self.state().subnets_in_use().iter().map(Subnet::gateway).collect();
        let mut host = self.host();
        let bridge = host.bridge;
        let listed = host.links.all().map_err(kernel("list links beside", &self.name))?;
        // Someone else's link may be on our bridge, but not under a name of ours. One of ours that is
        // on none was made and did not get any further.
        let prefix = format!("{}-", self.name);
        let ours = |link: &&Link| {
            link.name.starts_with(&prefix) && (link.bridge == bridge || link.bridge == 0)
        };
        for link in listed.iter().filter(ours).filter(|link| !owned.contains(&link.name)) {
            super::delete(&link.name, link.index)?;
        }
        let addresses = host.links.addresses(bridge);
        for (ip, prefix) in addresses.map_err(kernel("list addresses of", &self.name))? {
            if !gateways.contains(&ip) {
                let deleted = host.links.delete_address(bridge, ip, prefix);
                deleted.map_err(kernel("take an address from", &self.name))?;
            }
        }
        Ok(dead)
    }

    /// Knows a live pod, although its record is missing.
    fn keep(&self, id: PodId, attachment: Attachment) -> Result<()> {
        if self.known(&id).is_some() {
            return Ok(());
        }
        let mappings =
            ports::mappings(&attachment.addresses, &attachment.ports).unwrap_or_default();
        let pod = Pod { serial: 0, label: id.short().to_owned(), attachment };
        self.records.write_pod(&id, &pod)?;
        self.state().hold(id, pod);
        if mappings.is_empty() {
            return Ok(());
        }
        self.filter().nat.map(&mappings).map_err(|source| Error::HostPorts { source })
    }

    /// Removes the bridge, the table, our rules elsewhere and all records. Settings of the host,
    /// forwarding above all, stay: others may have come to rely on them.
    pub(crate) fn destroy(&self) -> Result<()> {
        let bridge = self.host().bridge;
        super::delete(&self.name, bridge)?;
        let mut filter = self.filter();
        filter.retired = true;
        let Filter { nat, socket, .. } = &mut *filter;
        firewall::close(socket, &self.name)
            .and_then(|()| nat.remove())
            .or_else(|error| if nat.is_written() { Err(error) } else { Ok(()) })
            .map_err(kernel("remove nftables rules of", &self.name))?;
        drop(filter);
        self.records.destroy()
    }
}

impl State {
    /// Takes a pod's addresses and ports as its own, whoever gave them out.
    fn hold(&mut self, id: PodId, pod: Pod) {
        for ip in pod.attachment.ips() {
            if !self.ipam.hold(ip) {
                self.notes.push(format!("{ip} belongs to pod {} and to another", id.short()));
            }
        }
        if let Err(error) = self.ports.take(&id, &pod.label, &pod.attachment.ports) {
            self.notes.push(format!("pod {}: {error}", id.short()));
        }
        self.serial = self.serial.max(pod.serial);
        self.lost.retain(|lost| *lost != id);
        self.pods.insert(id, pod);
    }

    /// The subnets of new pods and of those there are.
    fn subnets_in_use(&self) -> Vec<Subnet> {
        let of_pods = self.pods.values().flat_map(|pod| &pod.attachment.addresses);
        let mut subnets: Vec<_> =
            self.subnets.iter().copied().chain(of_pods.map(|address| address.subnet)).collect();
        subnets.sort();
        subnets.dedup();
        subnets
    }
}

fn check(config: &Config) -> Result<()> {
    let prefix = &config.bridge_prefix;
    let longest = LINK_NAME - 1 - DIGITS - (NUMBERS - 1).to_string().len();
    if prefix.is_empty()
        || prefix.len() > longest
        || !prefix.bytes().all(|byte| byte.is_ascii_alphanumeric())
    {
        return Err(Error::BridgePrefix { prefix: prefix.clone() });
    }
    Ok(Subnet::check_list(&config.subnets)?)
}

fn make_dir(path: &std::path::Path) -> Result<()> {
    let made = std::fs::create_dir_all(path);
    made.map_err(|source| Error::File { action: "create", path: path.to_owned(), source })
}

/// The bridge of the record if it is still ours, else a new one of a free name, which is recorded
/// before it is made. True if it is new.
fn find_or_make(
    config: &Config,
    records: &Records,
    node: &mut Node,
    host: &mut Host,
) -> Result<bool> {
    let recorded = std::mem::take(&mut node.bridge);
    let of_prefix = recorded.strip_prefix(&config.bridge_prefix).is_some_and(|number| {
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    });
    let first = of_prefix.then_some(recorded.clone());
    let numbered = (0..NUMBERS).map(|number| format!("{}{number}", config.bridge_prefix));
    for name in first.into_iter().chain(numbered) {
        let failed = || kernel("make bridge", &name);
        let existing = host.links.find(&name).map_err(failed())?;
        if let Some(link) = existing {
            if name == recorded && link.mac == node.mac {
                host.links.turn_on(link.index).map_err(kernel("turn on bridge", &name))?;
                node.bridge = name;
                host.bridge = link.index;
                return Ok(false);
            }
            continue;
        }
        node.mac = random_mac()?;
        node.bridge.clone_from(&name);
        records.write_node(node)?;
        match host.links.make_bridge(&name, node.mac) {
            Err(error) if error.is(Errno::EXIST) => continue,
            made => made.map_err(failed())?,
        }
        let made = host.links.find(&name).map_err(failed())?;
        host.bridge = made.map(|link| link.index).ok_or(Error::NotReady {
            reason: format!("bridge {name} disappeared as soon as it was made"),
        })?;
        return Ok(true);
    }
    Err(Error::NotReady {
        reason: format!(
            "all bridge names from {0}0 to {0}{1} are taken",
            config.bridge_prefix,
            NUMBERS - 1
        ),
    })
}

/// A MAC address of the range that everyone may use.
fn random_mac() -> Result<[u8; 6]> {
    let mut mac = [0; 6];
    getrandom(&mut mac, GetRandomFlags::empty()).map_err(|errno| Error::File {
        action: "read",
        path: "/dev/urandom".into(),
        source: errno.into(),
    })?;
    mac[0] = mac[0] & 0xfc | 0x02;
    Ok(mac)
}

/// Chooses a subnet that no route overlaps, and makes the bridge its gateway, which makes a route.
/// Another daemon may choose the same at the same moment: whoever then sees the other's route
/// gives way.
fn choose(host: &mut Host, name: &str) -> Result<Subnet> {
    let bridge = host.bridge;
    let mut refused = HashSet::new();
    for _ in 0..CHOICES {
        let routes = host.links.routes().map_err(kernel("list routes for", name))?;
        let free = |subnet: &Subnet| {
            !refused.contains(subnet)
                && !routes.iter().any(|(ip, prefix, _)| subnet.overlaps(*ip, *prefix))
        };
        let mut candidates = Subnet::candidates().filter(free);
        // Two who give way to each other should not go on side by side.
        let skipped = if refused.is_empty() { 0 } else { usize::from(random_mac()?[5] % 8) };
        let Some(subnet) = candidates.nth(skipped) else { break };
        host.links
            .add_address(bridge, subnet.gateway(), subnet.prefix())
            .map_err(kernel("give its address to", name))?;
        if !overlapped(host, subnet)? {
            return Ok(subnet);
        }
        host.links
            .delete_address(bridge, subnet.gateway(), subnet.prefix())
            .map_err(kernel("take an address from", name))?;
        refused.insert(subnet);
    }
    Err(Error::NotReady {
        reason: "routes of the host overlap every default subnet: configure one".to_owned(),
    })
}

/// Whether a route that does not lead to the bridge overlaps the subnet.
fn overlapped(host: &mut Host, subnet: Subnet) -> Result<bool> {
    let bridge = host.bridge;
    let routes = host.links.routes().map_err(kernel("list routes of", "the host"))?;
    Ok(routes.iter().any(|(ip, prefix, link)| *link != bridge && subnet.overlaps(*ip, *prefix)))
}
