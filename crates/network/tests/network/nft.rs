//! Reads and writes nftables over netlink, on its own: what the tests ask does not go through what
//! they test, and no nft program is needed.

use std::os::fd::OwnedFd;

use rustix::net::{RecvFlags, SendFlags};
use sys::netlink::Family;

const SUBSYSTEM: u16 = 10 << 8;
pub(crate) const INET: u8 = 1;
pub(crate) const IPV4: u8 = 2;

/// A message: type, flags, address family, attributes.
type Request<'a> = (u16, u16, u8, &'a [u8]);

pub(crate) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn name(kind: u16, name: &str) -> Vec<u8> {
    attribute(kind, format!("{name}\0").as_bytes())
}

fn send(requests: &[Request<'_>]) -> OwnedFd {
    let socket = sys::netlink::open(Family::Netfilter, 0).unwrap();
    let mut bytes = Vec::new();
    for (kind, flags, family, attributes) in requests {
        bytes.extend((20 + attributes.len() as u32).to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((flags | 1).to_ne_bytes());
        bytes.extend([0; 8]);
        // The frame of a transaction names the subsystem.
        bytes.extend([*family, 0, 0, if *kind < 256 { 10 } else { 0 }]);
        bytes.extend(*attributes);
    }
    rustix::net::send(&socket, &bytes, SendFlags::empty()).unwrap();
    socket
}

/// The bodies of a dump, without their headers.
fn dump(message: u16, family: u8, filter: &[u8]) -> Vec<Vec<u8>> {
    let socket = send(&[(SUBSYSTEM | message, 0x300, family, filter)]);
    let mut bodies = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let (len, _) = rustix::net::recv(&socket, &mut buffer[..], RecvFlags::DONTWAIT).unwrap();
        let mut rest = &buffer[..len];
        while rest.len() >= 16 {
            let size = u32::from_ne_bytes(rest[..4].try_into().unwrap()) as usize;
            match u16::from_ne_bytes(rest[4..6].try_into().unwrap()) {
                2 | 3 => return bodies,
                _ => bodies.push(rest[20..size].to_vec()),
            }
            rest = &rest[size.next_multiple_of(4)..];
        }
    }
}

/// How many bytes of attributes the objects of a family have, and how many objects there are: a
/// print of the ruleset that changes with every rule, set and element.
pub(crate) fn print(table: &str) -> Vec<(u16, usize, usize)> {
    let mut print = Vec::new();
    for message in [4, 7, 10] {
        let bodies = dump(message, INET, &name(1, table));
        print.push((message, bodies.len(), bodies.iter().map(Vec::len).sum()));
    }
    for set in ["ports4", "any4", "pods4", "ports6", "any6", "pods6"] {
        let filter = [name(1, table), name(2, set)].concat();
        let bodies = dump(13, INET, &filter);
        print.push((13, bodies.len(), bodies.iter().map(Vec::len).sum()));
    }
    print
}

/// Whether a set or map has an element in which `bytes` are.
pub(crate) fn holds(table: &str, set: &str, bytes: &[u8]) -> bool {
    let bodies = dump(13, INET, &[name(1, table), name(2, set)].concat());
    bodies.iter().any(|body| body.windows(bytes.len()).any(|window| window == bytes))
}

/// Whether any object of nftables mentions the words.
pub(crate) fn mentions(family: u8, words: &[u8]) -> bool {
    let found = |message| dump(message, family, &[]).into_iter();
    found(1).chain(found(4)).chain(found(7)).any(|b| b.windows(words.len()).any(|w| w == words))
}

/// Makes changes in one transaction.
fn change(requests: &[Request<'_>]) {
    let frame: [Request<'_>; 2] = [(0x10, 0, 0, &[]), (0x11, 0, 0, &[])];
    send(&[&frame[..1], requests, &frame[1..]].concat());
}

/// Removes a table, as `nft flush ruleset` would.
pub(crate) fn delete_table(family: u8, table: &str) {
    change(&[(SUBSYSTEM | 2, 0, family, &name(1, table))]);
}

/// Makes a table with a chain that drops forwarded packets, as a firewall does.
pub(crate) fn drop_forwarded(family: u8, table: &str, chain: &str) {
    let number = |kind, number: u32| attribute(kind, &number.to_be_bytes());
    let hook = attribute(4 | 0x8000, &[number(1, 2), number(2, 0)].concat());
    let attributes = [name(1, table), name(3, chain), hook, number(5, 0), name(7, "filter")];
    change(&[
        (SUBSYSTEM, 0x400, family, &name(1, table)),
        (SUBSYSTEM | 3, 0x400, family, &attributes.concat()),
    ]);
    assert!(mentions(family, chain.as_bytes()));
}
