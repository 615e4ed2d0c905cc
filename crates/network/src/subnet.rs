//! A pod subnet, and the choice of a default one.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text or a list is not usable as pod subnets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubnetError {
    /// Bits below the prefix are set.
    #[error("{text:?} has bits set below its prefix: {network} was probably meant")]
    HostBits {
        /// The text.
        text: String,
        /// The network that contains it.
        network: Subnet,
    },
    /// Two subnets of one IP version.
    #[error("{first} and {second} are of one IP version: a pod has one address of each")]
    SameFamily {
        /// The first one.
        first: Subnet,
        /// The other.
        second: Subnet,
    },
    /// Not an address, a slash and a prefix length.
    #[error("{text:?} is not a subnet: an address and a prefix length, as in 10.1.0.0/24")]
    Syntax {
        /// The text.
        text: String,
    },
    /// Too few addresses, or too many.
    #[error("{text:?} has an unusable prefix length: /8 to /30, or /32 to /126 for IPv6")]
    Size {
        /// The text.
        text: String,
    },
}

/// An IP network from which pods get addresses. Its first address is the bridge's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    network: IpAddr,
    prefix: u8,
}

impl Subnet {
    /// 127.0.0.0/8
    pub(crate) const LOOPBACK: Self =
        Self { network: IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), prefix: 8 };

    /// The network's address.
    pub fn network(&self) -> IpAddr {
        self.network
    }

    /// The prefix length.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The first address, which is the bridge's.
    pub fn gateway(&self) -> IpAddr {
        self.nth(1)
    }

    /// Whether it is an IPv6 subnet.
    pub fn is_ipv6(&self) -> bool {
        self.network.is_ipv6()
    }

    /// Whether the address lies in it.
    pub fn contains(&self, ip: IpAddr) -> bool {
        ip.is_ipv6() == self.is_ipv6() && masked(ip, self.prefix) == self.network
    }

    /// Whether the two have addresses in common.
    pub fn overlaps(&self, network: IpAddr, prefix: u8) -> bool {
        network.is_ipv6() == self.is_ipv6()
            && masked(network, self.prefix.min(prefix))
                == masked(self.network, self.prefix.min(prefix))
    }

    /// The address at an offset from the network's.
    pub(crate) fn nth(&self, offset: u32) -> IpAddr {
        match self.network {
            IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() | offset).into(),
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() | u128::from(offset)).into(),
        }
    }

    /// The offset of an address that lies in the subnet.
    pub(crate) fn offset(&self, ip: IpAddr) -> u32 {
        let bits = bits(ip) ^ bits(self.network);
        u32::try_from(bits).unwrap_or(u32::MAX)
    }

    /// The offset of the last address a pod may have; the first one's is 2. IPv6 subnets are used
    /// up to 65535, so that what is remembered about free addresses stays small.
    pub(crate) fn last_offset(&self) -> u32 {
        match self.network {
            IpAddr::V4(_) => (1 << (32 - self.prefix)) - 2,
            IpAddr::V6(_) => (1u32 << (128 - self.prefix).min(16)) - 1,
        }
    }

    /// Reads a list separated by commas: at most one subnet of each IP version.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, SubnetError> {
        let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
        let subnets = words.map(str::parse).collect::<Result<Vec<Self>, _>>()?;
        Self::check_list(&subnets)?;
        Ok(subnets)
    }

    /// Checks that there is at most one subnet of each IP version.
    pub(crate) fn check_list(subnets: &[Self]) -> Result<(), SubnetError> {
        for (i, second) in subnets.iter().enumerate() {
            if let Some(first) = subnets[..i].iter().find(|s| s.is_ipv6() == second.is_ipv6()) {
                return Err(SubnetError::SameFamily { first: *first, second: *second });
            }
        }
        Ok(())
    }

    /// Subnets to choose a default from, in order of preference: a /20 holds 4000 pods. Ranges that
    /// service networks and other runtimes take by default are left out, for a route shows only
    /// some of them.
    pub(crate) fn candidates() -> impl Iterator<Item = Self> {
        let blocks = [(10, 160..=239), (172, 22..=31), (192, 168..=168), (10, 112..=159)];
        blocks.into_iter().flat_map(|(a, range)| {
            range.flat_map(move |b| {
                (0..=240)
                    .step_by(16)
                    .map(move |c| Self { network: Ipv4Addr::new(a, b, c, 0).into(), prefix: 20 })
            })
        })
    }
}

impl FromStr for Subnet {
    type Err = SubnetError;

    fn from_str(text: &str) -> Result<Self, SubnetError> {
        let syntax = || SubnetError::Syntax { text: text.to_owned() };
        let (ip, prefix) = text.split_once('/').ok_or_else(syntax)?;
        let ip: IpAddr = ip.parse().map_err(|_| syntax())?;
        let prefix: u8 = prefix.parse().map_err(|_| syntax())?;
        let sizes = if ip.is_ipv4() { 8..=30 } else { 32..=126 };
        if !sizes.contains(&prefix) {
            return Err(SubnetError::Size { text: text.to_owned() });
        }
        let network = Self { network: masked(ip, prefix), prefix };
        if network.network != ip {
            return Err(SubnetError::HostBits { text: text.to_owned(), network });
        }
        Ok(network)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl TryFrom<String> for Subnet {
    type Error = SubnetError;

    fn try_from(text: String) -> Result<Self, SubnetError> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

fn masked(ip: IpAddr, prefix: u8) -> IpAddr {
    let prefix = u32::from(prefix);
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - prefix.min(32)).unwrap_or(0);
            Ipv4Addr::from_bits(ip.to_bits() & mask).into()
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - prefix.min(128)).unwrap_or(0);
            Ipv6Addr::from_bits(ip.to_bits() & mask).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn text_is_read_back_and_mistakes_are_named() {
        assert_eq!(subnet("10.1.2.0/24").to_string(), "10.1.2.0/24");
        assert_eq!(subnet("fd00:1::/64").gateway().to_string(), "fd00:1::1");
        for (text, expected) in [
            ("10.1.2.3/24", "10.1.2.0/24 was probably meant"),
            ("10.1.2.0", "is not a subnet"),
            ("10.1.2.0/x", "is not a subnet"),
            ("10.1.2.0/31", "prefix length"),
            ("0.0.0.0/0", "prefix length"),
            ("fd00::/127", "prefix length"),
        ] {
            let error = text.parse::<Subnet>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn a_list_has_one_subnet_of_each_version() {
        let both = Subnet::parse_list("10.1.0.0/24, fd00::/64").unwrap();
        assert_eq!(both, [subnet("10.1.0.0/24"), subnet("fd00::/64")]);
        assert_eq!(Subnet::parse_list("").unwrap(), []);
        assert!(Subnet::parse_list("10.1.0.0/24,10.2.0.0/24").is_err());
    }

    #[test]
    fn overlap_is_symmetric_and_keeps_versions_apart() {
        let net = subnet("10.1.16.0/20");
        let overlaps = |ip: &str, prefix| net.overlaps(ip.parse().unwrap(), prefix);
        assert!(overlaps("10.1.0.0", 16));
        assert!(overlaps("10.1.20.1", 32));
        assert!(overlaps("0.0.0.0", 0));
        assert!(!overlaps("10.1.32.0", 20));
        assert!(!overlaps("::", 0));
    }

    #[test]
    fn offsets_leave_out_network_gateway_and_broadcast() {
        let net = subnet("10.1.2.0/30");
        assert_eq!(net.last_offset(), 2);
        assert_eq!(net.nth(2).to_string(), "10.1.2.2");
        assert_eq!(net.offset(net.nth(2)), 2);
        assert_eq!(subnet("fd00::/64").last_offset(), 65535);
        assert_eq!(subnet("fd00::/126").last_offset(), 3);
    }

    #[test]
    fn candidates_are_networks_that_parse() {
        assert!(Subnet::candidates().all(|c| c.to_string().parse() == Ok(c)));
    }
}
