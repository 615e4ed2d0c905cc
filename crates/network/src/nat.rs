//! Address translation: what leaves the node, and host ports. One nftables table, ours alone.
//!
//! ```text
//! table inet minke0 {
//!   map ports4  { ip daddr . l4proto . dport : pod's address . port }   one host address
//!   map any4    {            l4proto . dport : pod's address . port }   every host address
//!   set pods4   { pod's address . l4proto . port }                      where they lead
//!   ... the same three for IPv6 ...
//!   chain guard        raw      iifname minke0 ip daddr 127.0.0.0/8 drop
//!   chain prerouting   dstnat   fib daddr type local jump hostports
//!   chain output       dstnat   fib daddr type local jump hostports
//!   chain hostports             dnat by ports4, any4, ports6, any6
//!   chain postrouting  srcnat   ip saddr <subnet> oifname != minke0 masquerade
//!                               ip saddr <subnet> oifname minke0 ct status dnat @pods4 masquerade
//!                               ip saddr 127.0.0.0/8 oifname minke0 masquerade
//! }
//! ```
//!
//! The rules are made at start and when the pod subnets change, in one transaction; a pod with host
//! ports adds and removes elements, a pod without costs nothing. The second rule of `postrouting`
//! makes answers come back through the host when a pod reaches itself, or its neighbour, by a host
//! port. The third, with `route_localnet` on the bridge, makes 127.0.0.1 answer; `guard` keeps pods
//! from using that to reach what the host listens to on its own loopback. The kernel has no such
//! way for IPv6: a host port does not answer on ::1.
//!
//! What should be in the table is known here, so whoever flushes the ruleset only makes the next
//! change write it whole.

use std::collections::HashSet;

use model::Protocol;
use rustix::io::Errno;
use sys::feature;

use crate::netlink::{Batch, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NetlinkError, Socket};
use crate::nfnetlink::{self, Attributes, NFPROTO_INET, SUBSYSTEM_NFTABLES, Transaction};
use crate::ports::Mapping;
use crate::rule::{Rule, concatenated, octets, value};
use crate::subnet::Subnet;

const NFT_MSG_NEWTABLE: u8 = 0;
const NFT_MSG_GETTABLE: u8 = 1;
const NFT_MSG_DELTABLE: u8 = 2;
const NFT_MSG_NEWCHAIN: u8 = 3;
const NFT_MSG_NEWRULE: u8 = 6;
const NFT_MSG_NEWSET: u8 = 9;
const NFT_MSG_NEWSETELEM: u8 = 12;
const NFT_MSG_DELSETELEM: u8 = 14;

const NFT_SET_MAP: u32 = 8;

/// How nft(8) is told what a key is made of, 6 bits for each part; the kernel only keeps it.
const TYPE_IPV4: u32 = 7;
const TYPE_IPV6: u32 = 8;
const TYPE_PROTOCOL: u32 = 12;
const TYPE_PORT: u32 = 13;

const HOOK_PREROUTING: u32 = 0;
const HOOK_OUTPUT: u32 = 3;
const HOOK_POSTROUTING: u32 = 4;
const PRIORITY_RAW: i32 = -300;
const PRIORITY_DSTNAT: i32 = -100;
const PRIORITY_SRCNAT: i32 = 100;

/// Elements travel in nests, whose length is 16 bits.
const ELEMENTS_BYTES: usize = 32 << 10;

/// The table, and all that should be in it.
#[derive(Debug)]
pub(crate) struct Nat {
    socket: Socket,
    /// Whether the table was written, so that it should be there.
    written: bool,
    /// The table's name, which is the bridge's.
    bridge: String,
    subnets: Vec<Subnet>,
    mappings: Vec<Mapping>,
}

impl Nat {
    /// Knows what `restore` will make.
    pub(crate) fn new(socket: Socket, bridge: String) -> Self {
        Self { socket, written: false, bridge, subnets: Vec::new(), mappings: Vec::new() }
    }

    /// Sets the subnets whose traffic is masqueraded; takes effect with `restore`.
    pub(crate) fn set_subnets(&mut self, subnets: Vec<Subnet>) {
        self.subnets = subnets;
        self.written = false;
    }

    /// Adds mappings to those that `restore` makes.
    pub(crate) fn expect(&mut self, mappings: Vec<Mapping>) {
        self.mappings.extend(mappings);
    }

    /// Makes mappings answer.
    pub(crate) fn map(&mut self, mappings: &[Mapping]) -> Result<(), NetlinkError> {
        self.mappings.extend(mappings.iter().cloned());
        let result = self.change(NFT_MSG_NEWSETELEM, NLM_F_CREATE, mappings);
        if result.is_err() {
            self.mappings.retain(|mapping| !mappings.contains(mapping));
        }
        result
    }

    /// Takes mappings back; false if none of them was there.
    pub(crate) fn unmap(&mut self, mappings: &[Mapping]) -> Result<bool, NetlinkError> {
        let before = self.mappings.len();
        self.mappings.retain(|mapping| !mappings.contains(mapping));
        if self.mappings.len() == before {
            return Ok(false);
        }
        self.change(NFT_MSG_DELSETELEM, 0, mappings).map(|()| true)
    }

    /// Whether there should be a table.
    pub(crate) fn is_written(&self) -> bool {
        self.written
    }

    /// Writes the table if it is out of date, or if somebody removed it.
    pub(crate) fn restore(&mut self) -> Result<(), NetlinkError> {
        if !self.written {
            return self.write();
        }
        let mut batch = Batch::default();
        let get = (SUBSYSTEM_NFTABLES, NFT_MSG_GETTABLE, NFPROTO_INET);
        nfnetlink::push(&mut batch, get, NLM_F_ACK, &self.table());
        match self.socket.request(&batch) {
            Err(error) if error.is(Errno::NOENT) => self.write(),
            reply => reply.map(drop),
        }
    }

    /// Removes the table.
    pub(crate) fn remove(&mut self) -> Result<(), NetlinkError> {
        let mut transaction = Transaction::default();
        self.empty(&mut transaction);
        transaction.push(NFT_MSG_DELTABLE, NFPROTO_INET, 0, self.table());
        transaction.commit(&mut self.socket)?;
        self.written = false;
        Ok(())
    }

    fn change(
        &mut self,
        message: u8,
        flags: u16,
        mappings: &[Mapping],
    ) -> Result<(), NetlinkError> {
        let mut transaction = Transaction::default();
        self.elements(&mut transaction, message, flags, mappings);
        match transaction.commit(&mut self.socket) {
            // The table is not as we left it.
            Err(NetlinkError::Refused(_)) => self.write(),
            result => result.map_err(|error| error.of(&feature::NFTABLES)),
        }
    }

    /// Replaces the table, whatever is there, in one step.
    fn write(&mut self) -> Result<(), NetlinkError> {
        let mut transaction = Transaction::default();
        self.empty(&mut transaction);
        for ipv6 in [false, true] {
            self.sets(&mut transaction, ipv6);
        }
        self.chains(&mut transaction);
        self.rules(&mut transaction);
        self.elements(&mut transaction, NFT_MSG_NEWSETELEM, NLM_F_CREATE, &self.mappings);
        let result = transaction.commit(&mut self.socket);
        self.written = result.is_ok();
        // All that the transaction names is made in it: what is not found is a part of the kernel.
        result.map_err(|error| error.of(&feature::NFTABLES).of(&feature::NAT))
    }

    fn table(&self) -> Attributes {
        Attributes::default().name(1, &self.bridge)
    }

    /// Leaves an empty table, whether there was one or not.
    fn empty(&self, transaction: &mut Transaction) {
        transaction.push(NFT_MSG_NEWTABLE, NFPROTO_INET, NLM_F_CREATE, self.table());
        transaction.push(NFT_MSG_DELTABLE, NFPROTO_INET, 0, self.table());
        transaction.push(NFT_MSG_NEWTABLE, NFPROTO_INET, NLM_F_CREATE, self.table());
    }

    fn sets(&self, transaction: &mut Transaction, ipv6: bool) {
        let (address, width) = if ipv6 { (TYPE_IPV6, 16) } else { (TYPE_IPV4, 4) };
        let port = TYPE_PROTOCOL << 6 | TYPE_PORT;
        let target = (address << 6 | TYPE_PORT, width + 4);
        for (i, (set, key, len, data)) in [
            ("ports", address << 12 | port, width + 8, Some(target)),
            ("any", port, 8, Some(target)),
            ("pods", address << 12 | port, width + 8, None),
        ]
        .into_iter()
        .enumerate()
        {
            let mut attributes = self
                .table()
                .name(2, &named(set, ipv6))
                .number(3, if data.is_some() { NFT_SET_MAP } else { 0 })
                .number(4, key)
                .number(5, len);
            if let Some((kind, len)) = data {
                attributes = attributes.number(6, kind).number(7, len);
            }
            // A number for the set within the transaction.
            attributes = attributes.number(10, 1 + i as u32 + 3 * u32::from(ipv6));
            transaction.push(NFT_MSG_NEWSET, NFPROTO_INET, NLM_F_CREATE, attributes);
        }
    }

    fn chains(&self, transaction: &mut Transaction) {
        for (name, kind, hook, priority) in [
            ("guard", "filter", HOOK_PREROUTING, PRIORITY_RAW),
            ("prerouting", "nat", HOOK_PREROUTING, PRIORITY_DSTNAT),
            ("output", "nat", HOOK_OUTPUT, PRIORITY_DSTNAT),
            ("postrouting", "nat", HOOK_POSTROUTING, PRIORITY_SRCNAT),
        ] {
            let hook = Attributes::default().number(1, hook).number(2, priority as u32);
            let chain = self.table().name(3, name).nest(4, hook).name(7, kind);
            transaction.push(NFT_MSG_NEWCHAIN, NFPROTO_INET, NLM_F_CREATE, chain);
        }
        let chain = self.table().name(3, "hostports");
        transaction.push(NFT_MSG_NEWCHAIN, NFPROTO_INET, NLM_F_CREATE, chain);
    }

    fn rules(&self, transaction: &mut Transaction) {
        let bridge = &self.bridge;
        let mut push = |chain: &str, rule: Rule| {
            let rule = self.table().name(2, chain).nest(4, rule.expressions());
            transaction.push(NFT_MSG_NEWRULE, NFPROTO_INET, NLM_F_CREATE | NLM_F_APPEND, rule);
        };
        push("guard", Rule::default().iifname(bridge).daddr(Subnet::LOOPBACK).drop());
        push("prerouting", Rule::default().daddr_is_local().jump("hostports"));
        push("output", Rule::default().daddr_is_local().jump("hostports"));
        for ipv6 in [false, true] {
            let one = Rule::default().translate_by_address_and_port(ipv6, &named("ports", ipv6));
            push("hostports", one);
            push("hostports", Rule::default().translate_by_port(ipv6, &named("any", ipv6)));
        }
        for subnet in &self.subnets {
            let ours = || Rule::default().saddr(*subnet);
            push("postrouting", ours().oifname_is_not(bridge).masquerade());
            let by_host_port = ours()
                .oifname(bridge)
                .destination_translated()
                .destination_in(subnet.is_ipv6(), &named("pods", subnet.is_ipv6()));
            push("postrouting", by_host_port.masquerade());
        }
        let loopback = Rule::default().saddr(Subnet::LOOPBACK).oifname(bridge);
        push("postrouting", loopback.masquerade());
    }

    fn elements(
        &self,
        transaction: &mut Transaction,
        message: u8,
        flags: u16,
        mappings: &[Mapping],
    ) {
        for (set, ipv6) in ["ports", "any", "pods"].iter().flat_map(|s| [(*s, false), (*s, true)]) {
            // Two host ports may lead to one port of the pod.
            let distinct: HashSet<Attributes> = mappings
                .iter()
                .filter(|mapping| mapping.pod_ip.is_ipv6() == ipv6)
                .filter_map(|mapping| element(set, mapping, message == NFT_MSG_NEWSETELEM))
                .collect();
            let mut flush = |list: Attributes| {
                let attributes = self.table().name(2, &named(set, ipv6)).nest(3, list);
                transaction.push(message, NFPROTO_INET, flags, attributes);
            };
            let mut list = Attributes::default();
            for element in distinct {
                list = list.nest(1, element);
                if list.len() > ELEMENTS_BYTES {
                    flush(std::mem::take(&mut list));
                }
            }
            if list.len() > 0 {
                flush(list);
            }
        }
    }
}

/// The element that a mapping has in a set; a map's element has data when it is added.
fn element(set: &str, mapping: &Mapping, add: bool) -> Option<Attributes> {
    let protocol = [match mapping.protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }];
    let (pod, pod_port) = (octets(mapping.pod_ip), mapping.pod_port.to_be_bytes());
    let host_port = mapping.host_port.to_be_bytes();
    let (key, is_map) = match (set, mapping.host_ip) {
        ("ports", Some(host)) => (concatenated(&[&octets(host), &protocol, &host_port]), true),
        ("any", None) => (concatenated(&[&protocol, &host_port]), true),
        ("pods", _) => (concatenated(&[&pod, &protocol, &pod_port]), false),
        _ => return None,
    };
    let element = Attributes::default().nest(1, value(&key));
    let target = value(&concatenated(&[&pod, &pod_port]));
    Some(if is_map && add { element.nest(2, target) } else { element })
}

fn named(set: &str, ipv6: bool) -> String {
    format!("{set}{}", if ipv6 { 6 } else { 4 })
}
