//! Rules of nftables, put together from the expressions that the kernel runs in a row.
//!
//! Each method adds what one word or two of nft(8)'s language stand for, and says which.

use std::net::IpAddr;

use crate::nfnetlink::{Attributes, NFPROTO_IPV4, NFPROTO_IPV6};
use crate::subnet::Subnet;

const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
pub(crate) const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFTA_VERDICT_CHAIN: u16 = 2;

const NFT_META_IIFNAME: u32 = 6;
const NFT_META_OIFNAME: u32 = 7;
const NFT_META_NFPROTO: u32 = 15;
const NFT_META_L4PROTO: u32 = 16;
const NFT_CT_STATUS: u32 = 2;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const NFT_FIB_RESULT_ADDRTYPE: u32 = 3;
const NFTA_FIB_F_DADDR: u32 = 2;
const RTN_LOCAL: u32 = 2;
const NFT_NAT_DNAT: u32 = 1;
const IPS_DST_NAT: u32 = 1 << 5;
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;

const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;
const NFT_JUMP: u32 = -3i32 as u32;

/// The first of the sixteen 4-byte registers. Values that are looked up together lie side by side.
const FIRST: u32 = 8;
const VERDICT: u32 = 0;

/// The width of a field in a key of several fields.
const FIELD: usize = 4;

#[derive(Debug, Clone, Default)]
pub(crate) struct Rule(Attributes);

impl Rule {
    /// The expressions as the rule's attribute.
    pub(crate) fn expressions(self) -> Attributes {
        self.0
    }

    /// `iifname NAME`
    pub(crate) fn iifname(self, name: &str) -> Self {
        self.meta(NFT_META_IIFNAME, FIRST).compare(EQUAL, &link_name(name))
    }

    /// `oifname NAME`
    pub(crate) fn oifname(self, name: &str) -> Self {
        self.meta(NFT_META_OIFNAME, FIRST).compare(EQUAL, &link_name(name))
    }

    /// `oifname != NAME`
    pub(crate) fn oifname_is_not(self, name: &str) -> Self {
        self.meta(NFT_META_OIFNAME, FIRST).compare(NOT_EQUAL, &link_name(name))
    }

    /// `ip saddr SUBNET`, `ip6 saddr SUBNET`
    pub(crate) fn saddr(self, subnet: Subnet) -> Self {
        self.in_subnet(subnet, Field::Source)
    }

    /// `ip daddr SUBNET`, `ip6 daddr SUBNET`
    pub(crate) fn daddr(self, subnet: Subnet) -> Self {
        self.in_subnet(subnet, Field::Destination)
    }

    /// `fib daddr type local`
    pub(crate) fn daddr_is_local(self) -> Self {
        let fib = Attributes::default()
            .number(1, FIRST)
            .number(2, NFT_FIB_RESULT_ADDRTYPE)
            .number(3, NFTA_FIB_F_DADDR);
        self.expression("fib", fib).compare(EQUAL, &RTN_LOCAL.to_ne_bytes())
    }

    /// `ct status dnat`
    pub(crate) fn destination_translated(self) -> Self {
        let status = Attributes::default().number(1, FIRST).number(2, NFT_CT_STATUS);
        self.expression("ct", status)
            .mask(&IPS_DST_NAT.to_ne_bytes())
            .compare(NOT_EQUAL, &[0; FIELD])
    }

    /// `ip daddr . meta l4proto . th dport @SET`
    pub(crate) fn destination_in(self, ipv6: bool, set: &str) -> Self {
        let (rule, next) = self.version(ipv6).address(ipv6, Field::Destination);
        rule.protocol_and_port(next).lookup(set, None)
    }

    /// `dnat to ip daddr . meta l4proto . th dport map @MAP`
    pub(crate) fn translate_by_address_and_port(self, ipv6: bool, map: &str) -> Self {
        let (rule, next) = self.version(ipv6).address(ipv6, Field::Destination);
        rule.protocol_and_port(next).lookup(map, Some(FIRST)).translate(ipv6)
    }

    /// `dnat to meta l4proto . th dport map @MAP`
    pub(crate) fn translate_by_port(self, ipv6: bool, map: &str) -> Self {
        self.version(ipv6).protocol_and_port(FIRST).lookup(map, Some(FIRST)).translate(ipv6)
    }

    /// `counter`
    pub(crate) fn counter(self) -> Self {
        let zero = 0u64.to_be_bytes();
        self.expression("counter", Attributes::default().bytes(1, &zero).bytes(2, &zero))
    }

    /// `masquerade`
    pub(crate) fn masquerade(self) -> Self {
        self.expression("masq", Attributes::default())
    }

    /// `accept`
    pub(crate) fn accept(self) -> Self {
        self.verdict(NF_ACCEPT, None)
    }

    /// `drop`
    pub(crate) fn drop(self) -> Self {
        self.verdict(NF_DROP, None)
    }

    /// `jump CHAIN`
    pub(crate) fn jump(self, chain: &str) -> Self {
        self.verdict(NFT_JUMP, Some(chain))
    }

    fn in_subnet(self, subnet: Subnet, field: Field) -> Self {
        let ones = subnet.prefix();
        let len = if subnet.is_ipv6() { 16 } else { 4 };
        let mask: Vec<u8> = (0..len)
            .map(|i| u8::MAX.checked_shl(8 - u32::from(ones.saturating_sub(8 * i).min(8))))
            .map(Option::unwrap_or_default)
            .collect();
        let (rule, _) = self.version(subnet.is_ipv6()).address(subnet.is_ipv6(), field);
        rule.mask(&mask).compare(EQUAL, &octets(subnet.network()))
    }

    /// Only packets of this IP version.
    fn version(self, ipv6: bool) -> Self {
        let version = if ipv6 { NFPROTO_IPV6 } else { NFPROTO_IPV4 };
        self.meta(NFT_META_NFPROTO, FIRST).compare(EQUAL, &[version])
    }

    /// Loads an address of the IP header; the register behind it comes back.
    fn address(self, ipv6: bool, field: Field) -> (Self, u32) {
        let (offset, len) = match (ipv6, field) {
            (false, Field::Source) => (12, 4),
            (false, Field::Destination) => (16, 4),
            (true, Field::Source) => (8, 16),
            (true, Field::Destination) => (24, 16),
        };
        (self.payload(FIRST, NETWORK_HEADER, offset, len), FIRST + len / FIELD as u32)
    }

    fn protocol_and_port(self, register: u32) -> Self {
        self.meta(NFT_META_L4PROTO, register).payload(register + 1, TRANSPORT_HEADER, 2, 2)
    }

    /// Goes to the address and port that a lookup left in the registers.
    fn translate(self, ipv6: bool) -> Self {
        let (family, port) =
            if ipv6 { (NFPROTO_IPV6, FIRST + 4) } else { (NFPROTO_IPV4, FIRST + 1) };
        let nat = Attributes::default()
            .number(1, NFT_NAT_DNAT)
            .number(2, family.into())
            .number(3, FIRST)
            .number(5, port);
        self.expression("nat", nat)
    }

    fn lookup(self, set: &str, into: Option<u32>) -> Self {
        let lookup = Attributes::default().name(1, set).number(2, FIRST);
        let lookup = match into {
            Some(register) => lookup.number(3, register),
            None => lookup,
        };
        self.expression("lookup", lookup)
    }

    fn meta(self, key: u32, register: u32) -> Self {
        self.expression("meta", Attributes::default().number(1, register).number(2, key))
    }

    fn payload(self, register: u32, base: u32, offset: u32, len: u32) -> Self {
        let payload = Attributes::default()
            .number(1, register)
            .number(2, base)
            .number(3, offset)
            .number(4, len);
        self.expression("payload", payload)
    }

    fn mask(self, mask: &[u8]) -> Self {
        let none = vec![0; mask.len()];
        let bitwise = Attributes::default()
            .number(1, FIRST)
            .number(2, FIRST)
            .number(3, mask.len() as u32)
            .nest(4, value(mask))
            .nest(5, value(&none));
        self.expression("bitwise", bitwise)
    }

    fn compare(self, how: u32, with: &[u8]) -> Self {
        let cmp = Attributes::default().number(1, FIRST).number(2, how).nest(3, value(with));
        self.expression("cmp", cmp)
    }

    fn verdict(self, code: u32, chain: Option<&str>) -> Self {
        let verdict = Attributes::default().number(NFTA_VERDICT_CODE, code);
        let verdict = match chain {
            Some(chain) => verdict.name(NFTA_VERDICT_CHAIN, chain),
            None => verdict,
        };
        let data = Attributes::default().nest(NFTA_DATA_VERDICT, verdict);
        self.expression("immediate", Attributes::default().number(1, VERDICT).nest(2, data))
    }

    fn expression(self, name: &str, data: Attributes) -> Self {
        let expression =
            Attributes::default().name(NFTA_EXPR_NAME, name).nest(NFTA_EXPR_DATA, data);
        Self(self.0.nest(NFTA_LIST_ELEM, expression))
    }
}

#[derive(Debug, Clone, Copy)]
enum Field {
    Source,
    Destination,
}

/// A value as nftables wraps it.
pub(crate) fn value(bytes: &[u8]) -> Attributes {
    Attributes::default().bytes(NFTA_DATA_VALUE, bytes)
}

/// The parts of a key or of data, each padded to whole registers.
pub(crate) fn concatenated(fields: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::new();
    for field in fields {
        key.extend(*field);
        key.resize(key.len().next_multiple_of(FIELD), 0);
    }
    key
}

pub(crate) fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// A link's name, whole: with the NUL that ends it, as iptables-nft writes and expects it.
fn link_name(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    bytes
}
