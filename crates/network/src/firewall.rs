//! Gets pods' packets past a firewall that drops what the host forwards.
//!
//! A packet is forwarded only if every table lets it pass, so a rule of ours elsewhere helps
//! nothing: it has to be in the chain that drops. In the chains that iptables keeps (Docker's and
//! ufw's among them) rules of others are customary, and ours carry a comment by which they are
//! found again. Other tables belong to their owner; they are named in the status.

use std::path::Path;

use crate::netlink::{Message, NLM_F_CREATE, NetlinkError, Socket, attributes, u32_at};
use crate::nfnetlink::{
    self, Attributes, NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6, NFPROTO_UNSPEC, Transaction,
};
use crate::rule::Rule;

const NFT_MSG_GETCHAIN: u8 = 4;
const NFT_MSG_NEWRULE: u8 = 6;
const NFT_MSG_GETRULE: u8 = 7;
const NFT_MSG_DELRULE: u8 = 8;
const HOOK_FORWARD: u32 = 2;
const POLICY_DROP: u32 = 0;
const COMMENT: u8 = 0;

/// A chain of nftables.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Chain {
    family: u8,
    table: String,
    name: String,
    drops_forwarded: bool,
}

impl Chain {
    fn read((_, body): &Message) -> Option<Self> {
        let (mut table, mut name, mut hook, mut policy) = (None, None, None, None);
        for (kind, value) in attributes(body.get(4..)?) {
            match kind {
                1 => table = Some(text(value)),
                3 => name = Some(text(value)),
                4 => hook = attributes(value).find(|(kind, _)| *kind == 1).map(|(_, v)| number(v)),
                5 => policy = Some(number(value)),
                _ => {}
            }
        }
        Some(Self {
            family: *body.first()?,
            table: table?,
            name: name?,
            drops_forwarded: hook == Some(HOOK_FORWARD) && policy == Some(POLICY_DROP),
        })
    }

    fn attributes(&self) -> Attributes {
        Attributes::default().name(1, &self.table).name(2, &self.name)
    }

    fn is_iptables(&self) -> bool {
        [NFPROTO_IPV4, NFPROTO_IPV6].contains(&self.family) && self.table == "filter"
    }
}

/// Lets through what comes from the bridge and goes to it, where that is refused by a chain that
/// iptables keeps. Gives back a note for each thing done or found in the way.
pub(crate) fn open(socket: &mut Socket, bridge: &str) -> Result<Vec<String>, NetlinkError> {
    let chains = chains(socket)?;
    let mut notes = Vec::new();
    for closed in chains.iter().filter(|chain| chain.drops_forwarded) {
        if !closed.is_iptables() {
            if [NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6].contains(&closed.family) {
                notes.push(format!(
                    "nftables chain {} of table {} drops forwarded packets: let those of {bridge} pass",
                    closed.name, closed.table
                ));
            }
            continue;
        }
        // Docker rewrites FORWARD and leaves this one, which comes first, to others.
        let ours =
            Chain { name: "DOCKER-USER".to_owned(), drops_forwarded: false, ..closed.clone() };
        let place = if chains.contains(&ours) { &ours } else { closed };
        if rules(socket, place, bridge)?.is_empty() {
            let mut transaction = Transaction::default();
            for rule in [Rule::default().iifname(bridge), Rule::default().oifname(bridge)] {
                let rule = place
                    .attributes()
                    .nest(4, rule.counter().accept().expressions())
                    .bytes(7, &comment(bridge));
                // Without NLM_F_APPEND a rule goes to the head of its chain.
                transaction.push(NFT_MSG_NEWRULE, place.family, NLM_F_CREATE, rule);
            }
            transaction.commit(socket)?;
        }
        let program = if closed.family == NFPROTO_IPV6 { "ip6tables" } else { "iptables" };
        notes.push(format!(
            "{program} drops forwarded packets: rules in chain {} let those of {bridge} pass",
            place.name
        ));
    }
    if chains.iter().any(|chain| chain.table == "firewalld" && chain.name == "filter_FORWARD") {
        notes.push(format!(
            "firewalld may refuse forwarded packets: put {bridge} in a trusted zone"
        ));
    }
    if legacy_filter() {
        notes.push(
            "iptables-legacy filters packets, which cannot be looked into: \
             its FORWARD chain must let pods' packets pass"
                .to_owned(),
        );
    }
    Ok(notes)
}

/// Removes the rules that `open` made.
pub(crate) fn close(socket: &mut Socket, bridge: &str) -> Result<(), NetlinkError> {
    let mut transaction = Transaction::default();
    for chain in chains(socket)?.iter().filter(|chain| chain.is_iptables()) {
        for handle in rules(socket, chain, bridge)? {
            let rule = chain.attributes().bytes(3, &handle);
            transaction.push(NFT_MSG_DELRULE, chain.family, 0, rule);
        }
    }
    if transaction.is_empty() { Ok(()) } else { transaction.commit(socket) }
}

fn chains(socket: &mut Socket) -> Result<Vec<Chain>, NetlinkError> {
    let all = Attributes::default();
    let listed = nfnetlink::list(socket, NFT_MSG_GETCHAIN, NFPROTO_UNSPEC, &all)?;
    Ok(listed.iter().filter_map(Chain::read).collect())
}

/// The handles of our rules in a chain.
fn rules(socket: &mut Socket, chain: &Chain, bridge: &str) -> Result<Vec<Vec<u8>>, NetlinkError> {
    let listed = nfnetlink::list(socket, NFT_MSG_GETRULE, chain.family, &chain.attributes())?;
    let comment = comment(bridge);
    let ours = listed.iter().filter_map(|(_, body)| {
        let (mut handle, mut ours) = (None, false);
        for (kind, value) in attributes(body.get(4..)?) {
            match kind {
                3 => handle = Some(value.to_vec()),
                7 => ours = value == comment,
                _ => {}
            }
        }
        handle.filter(|_| ours)
    });
    Ok(ours.collect())
}

/// A rule's comment, the way nft and iptables keep and show it.
fn comment(bridge: &str) -> Vec<u8> {
    let text = format!("pods of {bridge}\0");
    let mut bytes = vec![COMMENT, text.len() as u8];
    bytes.extend(text.bytes());
    bytes
}

/// Whether the older iptables has a filter table, which netlink does not show.
fn legacy_filter() -> bool {
    ["/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"].iter().any(|path| {
        std::fs::read_to_string(Path::new(path))
            .is_ok_and(|names| names.lines().any(|name| name == "filter"))
    })
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()
}

fn number(value: &[u8]) -> u32 {
    u32_at(value, 0).map_or(u32::MAX, u32::from_be)
}
