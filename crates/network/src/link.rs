//! Links, addresses and routes, as rtnetlink(7) knows them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage,
};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoBridge, InfoBridgePort, InfoData, InfoKind,
    InfoPortData, InfoPortKind, InfoVeth, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo,
    LinkMessage, State, Stats64,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
    RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;
use sys::feature;

use crate::attachment::Assigned;
use crate::netlink::{self, Batch, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NetlinkError, Socket};

type Result<T> = std::result::Result<T, NetlinkError>;

/// What we want to know about a link.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mac: Vec<u8>,
    pub(crate) mtu: u32,
    /// For a veth, the index of the other end in its namespace.
    pub(crate) peer: u32,
    /// The index of the bridge that it is a port of; 0 is none.
    pub(crate) bridge: u32,
    /// Whether packets pass, as far as the kernel has noticed.
    pub(crate) up: bool,
    pub(crate) stats: Option<Stats64>,
}

/// A veth to be made: one end on the host, the other in a pod.
#[derive(Debug)]
pub(crate) struct Veth<'a> {
    pub(crate) host: &'a str,
    pub(crate) interface: &'a str,
    pub(crate) mac: [u8; 6],
    pub(crate) mtu: u32,
    pub(crate) netns: BorrowedFd<'a>,
}

/// The links, addresses and routes of one network namespace.
#[derive(Debug)]
pub(crate) struct Links(Socket);

impl Links {
    pub(crate) fn new(socket: Socket) -> Self {
        Self(socket)
    }

    /// Makes a bridge with this MAC address, which then does not change with its ports, and turns
    /// it on. Fails with `EEXIST` if the name is taken.
    ///
    /// It does not listen to who wants which multicasts: without a querier among its pods it could not
    /// tell, and would only set two timers of each port whenever any port goes up or down. Who has a
    /// querier can turn that on, and it stays on.
    pub(crate) fn make_bridge(&mut self, name: &str, mac: [u8; 6]) -> Result<()> {
        let mut link = LinkMessage::default();
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        link.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Address(mac.to_vec()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Bridge),
                LinkInfo::Data(InfoData::Bridge(vec![InfoBridge::MulticastSnooping(false)])),
            ]),
        ];
        let mut batch = Batch::default();
        batch.route(RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL);
        self.0.all(&batch).map_err(|error| error.of(&feature::BRIDGE))
    }

    /// Turns a link on.
    pub(crate) fn turn_on(&mut self, index: u32) -> Result<()> {
        let mut batch = Batch::default();
        batch.route(up(index), 0);
        self.0.all(&batch)
    }

    /// Makes a veth, of which the peer is born inside the pod. The host end is up, but nothing passes
    /// while the peer is down. One send.
    pub(crate) fn make_veth(&mut self, veth: &Veth<'_>) -> Result<Link> {
        let mut peer = LinkMessage::default();
        peer.attributes = vec![
            LinkAttribute::IfName(veth.interface.to_owned()),
            LinkAttribute::Address(veth.mac.to_vec()),
            LinkAttribute::Mtu(veth.mtu),
            LinkAttribute::NetNsFd(veth.netns.as_raw_fd()),
        ];
        let mut link = LinkMessage::default();
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        link.attributes = vec![
            LinkAttribute::IfName(veth.host.to_owned()),
            LinkAttribute::Mtu(veth.mtu),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
            ]),
        ];
        let mut quiet = LinkMessage::default();
        quiet.attributes = vec![LinkAttribute::IfName(veth.host.to_owned())];
        let mut batch = Batch::default();
        batch
            .route(RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL)
            .route(without_link_local(quiet), 0)
            .route(get_by_name(veth.host), 0);
        let unanswered = || NetlinkError::Answer(format!("{} is not described", veth.host));
        let replies = self.0.exchange(&batch)?;
        let [made, quiet, found] = replies.try_into().map_err(|_| unanswered())?;
        made.map_err(|error| error.of(&feature::VETH))?;
        where_ipv6_is(quiet)?;
        links(&found?).next().ok_or_else(unanswered)
    }

    /// Makes a link a port of the bridge, in hairpin mode, so that bridge-netfilter can turn a pod's
    /// packet back to itself. Says whether packets pass the port, and the bridge: that a veth has
    /// both ends up is worked off in the background, and until then the first packet is lost, which
    /// costs its sender a second. Newer kernels do it at once for links that are asked about: the
    /// port first, then the bridge, which is up with its first port.
    ///
    /// A bridge goes through all its ports when one of them goes up or down, which a veth that has
    /// its peer up does only once.
    pub(crate) fn join_bridge(&mut self, port: u32, bridge: u32) -> Result<[bool; 2]> {
        let mut hairpin = LinkMessage::default();
        hairpin.header.index = port;
        hairpin.attributes = vec![LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(true)])),
        ])];
        let mut batch = Batch::default();
        batch
            .route(enslave(port, bridge), 0)
            .route(RouteNetlinkMessage::NewLink(hairpin), 0)
            .route(without_counters(get_by_index(port)), 0)
            .route(without_counters(get_by_index(bridge)), 0);
        let replies = self.0.exchange(&batch)?.into_iter().collect::<Result<Vec<_>>>()?;
        let found: Vec<Link> = replies.iter().flat_map(|reply| links(reply)).collect();
        Ok([port, bridge].map(|index| found.iter().any(|link| link.index == index && link.up)))
    }

    /// The link of a name, if there is one.
    pub(crate) fn find(&mut self, name: &str) -> Result<Option<Link>> {
        self.one(get_by_name(name))
    }

    /// The link of an index, with its counters, if there is one.
    pub(crate) fn at(&mut self, index: u32) -> Result<Option<Link>> {
        self.one(RouteNetlinkMessage::GetLink(get_by_index(index)))
    }

    fn one(&mut self, request: RouteNetlinkMessage) -> Result<Option<Link>> {
        let mut batch = Batch::default();
        batch.route(request, 0);
        match self.0.request(&batch) {
            Ok(found) => Ok(links(&found).next()),
            Err(error) if error.is(Errno::NODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The ports of a bridge with their counters.
    pub(crate) fn ports(&mut self, bridge: u32) -> Result<Vec<Link>> {
        let mut link = LinkMessage::default();
        link.attributes = vec![LinkAttribute::Controller(bridge)];
        self.list(RouteNetlinkMessage::GetLink(link))
    }

    /// All links, without counters.
    pub(crate) fn all(&mut self) -> Result<Vec<Link>> {
        self.list(without_counters(LinkMessage::default()))
    }

    fn list(&mut self, request: RouteNetlinkMessage) -> Result<Vec<Link>> {
        let mut batch = Batch::default();
        batch.route(request, NLM_F_DUMP);
        Ok(links(&self.0.dump(&batch)?).collect())
    }

    /// Deletes a link, which is gone when this returns; it may have been gone already. The kernel
    /// says early that it is gone and then waits long, some 20 ms, for everyone who may still be
    /// looking at it: not to be done on a socket that others need.
    pub(crate) fn delete(&mut self, index: u32) -> Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        let mut batch = Batch::default();
        batch.route(RouteNetlinkMessage::DelLink(link), 0);
        match self.0.all(&batch) {
            Err(error) if error.is(Errno::NODEV) => Ok(()),
            result => result,
        }
    }

    /// Inside a pod: turns lo and the interface on, gives it its addresses and default routes. One
    /// send. The loopback interface has index 1 in every namespace.
    ///
    /// An interface without an IPv6 address has no link-local one either: all pods of the bridge would
    /// be told of it, several times, whenever one starts.
    pub(crate) fn configure_pod(&mut self, index: u32, addresses: &[Assigned]) -> Result<()> {
        let mut batch = Batch::default();
        let without_ipv6 = addresses.iter().all(|address| address.ip.is_ipv4());
        if without_ipv6 {
            let mut quiet = LinkMessage::default();
            quiet.header.index = index;
            batch.route(without_link_local(quiet), 0);
        }
        batch.route(up(1), 0).route(up(index), 0);
        for address in addresses {
            let on_link = address_of(index, address.ip, address.subnet.prefix());
            batch.route(RouteNetlinkMessage::NewAddress(on_link), NLM_F_CREATE | NLM_F_EXCL);
        }
        for address in addresses {
            let route = default_route(index, address.gateway);
            batch.route(RouteNetlinkMessage::NewRoute(route), NLM_F_CREATE | NLM_F_EXCL);
        }
        let mut replies = self.0.exchange(&batch)?.into_iter();
        if without_ipv6 {
            replies.next().map_or(Ok(()), where_ipv6_is)?;
        }
        replies.try_for_each(|reply| reply.map(drop))
    }

    /// Gives a link an address; it may have it already.
    pub(crate) fn add_address(&mut self, index: u32, ip: IpAddr, prefix: u8) -> Result<()> {
        let message = RouteNetlinkMessage::NewAddress(address_of(index, ip, prefix));
        let mut batch = Batch::default();
        batch.route(message, NLM_F_CREATE | NLM_F_EXCL);
        match self.0.all(&batch) {
            Err(error) if error.is(Errno::EXIST) => Ok(()),
            result => result,
        }
    }

    /// Takes an address from a link.
    pub(crate) fn delete_address(&mut self, index: u32, ip: IpAddr, prefix: u8) -> Result<()> {
        let message = RouteNetlinkMessage::DelAddress(address_of(index, ip, prefix));
        let mut batch = Batch::default();
        batch.route(message, 0);
        match self.0.all(&batch) {
            Err(error) if error.is(Errno::ADDRNOTAVAIL) => Ok(()),
            result => result,
        }
    }

    /// The addresses of a link with their prefix lengths; IPv6 link-local ones are left out.
    pub(crate) fn addresses(&mut self, index: u32) -> Result<Vec<(IpAddr, u8)>> {
        let mut query = AddressMessage::default();
        query.header.index = index;
        let answer = self.0.query(RouteNetlinkMessage::GetAddress(query), NLM_F_DUMP)?;
        let on_link = answer.iter().filter_map(address).filter(|(_, _, link)| *link == index);
        let local = |ip: &IpAddr| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
        Ok(on_link.map(|(ip, prefix, _)| (ip, prefix)).filter(|(ip, _)| !local(ip)).collect())
    }

    /// The addresses of all links.
    pub(crate) fn all_addresses(&mut self) -> Result<Vec<IpAddr>> {
        let query = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let answer = self.0.query(query, NLM_F_DUMP)?;
        Ok(answer.iter().filter_map(address).map(|(ip, _, _)| ip).collect())
    }

    /// The destinations of all IPv4 routes in all tables, each with the link it leads to. Routes
    /// that only say where everything else goes are left out.
    pub(crate) fn routes(&mut self) -> Result<Vec<(IpAddr, u8, u32)>> {
        let mut query = RouteMessage::default();
        query.header.address_family = AddressFamily::Inet;
        let answer = self.0.query(RouteNetlinkMessage::GetRoute(query), NLM_F_DUMP)?;
        let found = answer.into_iter().filter_map(|message| {
            let RouteNetlinkMessage::NewRoute(message) = message else { return None };
            let ip = message.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
                _ => None,
            })?;
            // Half the world and more (0.0.0.0/1, as VPNs have it) is a default route by any name.
            let prefix = message.header.destination_prefix_length;
            (prefix > 4).then_some((ip, prefix, oif(&message).unwrap_or(0)))
        });
        Ok(found.collect())
    }

    /// The MTU of the link that the default route leads to. Asked by looking up an address of the
    /// ranges kept for documentation, which no more specific route leads to; nothing is sent there.
    pub(crate) fn default_mtu(&mut self) -> Result<Option<u32>> {
        let anywhere: [IpAddr; 2] = [
            Ipv4Addr::new(192, 0, 2, 1).into(),
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
        ];
        for ip in anywhere {
            let mut route = RouteMessage::default();
            route.header.address_family = family(ip);
            route.header.destination_prefix_length = if ip.is_ipv4() { 32 } else { 128 };
            route.attributes = vec![RouteAttribute::Destination(ip.into())];
            let mut batch = Batch::default();
            batch.route(RouteNetlinkMessage::GetRoute(route), 0);
            let Ok(answer) = self.0.request(&batch) else { continue };
            let index = answer.iter().find_map(|message| match netlink::parse(message)? {
                RouteNetlinkMessage::NewRoute(route) if route.header.kind == RouteType::Unicast => {
                    oif(&route)
                }
                _ => None,
            });
            if let Some(index) = index {
                return Ok(self.at(index)?.map(|link| link.mtu));
            }
        }
        Ok(None)
    }
}

fn get_by_name(name: &str) -> RouteNetlinkMessage {
    let mut link = LinkMessage::default();
    link.attributes = vec![LinkAttribute::IfName(name.to_owned())];
    without_counters(link)
}

fn get_by_index(index: u32) -> LinkMessage {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link
}

/// Asks for links as the message names them.
fn without_counters(mut link: LinkMessage) -> RouteNetlinkMessage {
    link.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    RouteNetlinkMessage::GetLink(link)
}

fn up(index: u32) -> RouteNetlinkMessage {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    RouteNetlinkMessage::SetLink(link)
}

fn enslave(index: u32, bridge: u32) -> RouteNetlinkMessage {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.attributes = vec![LinkAttribute::Controller(bridge)];
    RouteNetlinkMessage::SetLink(link)
}

/// Has the kernel give no link-local address to the link that the message names: it announces each
/// one and what it listens to, and looks through those of all links whenever one goes up or down.
fn without_link_local(mut link: LinkMessage) -> RouteNetlinkMessage {
    let none = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
    link.attributes.push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![none])]));
    RouteNetlinkMessage::SetLink(link)
}

/// What [`without_link_local`] has brought. A kernel without IPv6, or a link that is too small for it,
/// has no such addresses anyway.
fn where_ipv6_is(reply: netlink::Reply) -> Result<()> {
    match reply {
        Err(error) if error.is(Errno::AFNOSUPPORT) => Ok(()),
        reply => reply.map(drop),
    }
}

/// An address for a link. IPv6 would otherwise spend a second on looking for a duplicate, which
/// bookkeeping rules out.
fn address_of(index: u32, ip: IpAddr, prefix: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(ip);
    message.header.prefix_len = prefix;
    message.header.index = index;
    message.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
    if ip.is_ipv6() {
        message.header.flags = AddressHeaderFlags::Nodad;
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    message
}

/// The address that a message tells of, its prefix length and its link.
fn address(message: &RouteNetlinkMessage) -> Option<(IpAddr, u8, u32)> {
    let RouteNetlinkMessage::NewAddress(message) = message else { return None };
    let of = |local: bool| {
        message.attributes.iter().find_map(move |attribute| match attribute {
            AddressAttribute::Local(ip) if local => Some(*ip),
            AddressAttribute::Address(ip) if !local => Some(*ip),
            _ => None,
        })
    };
    // On point-to-point links the other one is the peer's.
    let ip = of(true).or_else(|| of(false))?;
    Some((ip, message.header.prefix_len, message.header.index))
}

fn default_route(index: u32, gateway: IpAddr) -> RouteMessage {
    let mut route = RouteMessage::default();
    route.header.address_family = family(gateway);
    route.header.table = RouteHeader::RT_TABLE_MAIN;
    route.header.protocol = RouteProtocol::Boot;
    route.header.scope = RouteScope::Universe;
    route.header.kind = RouteType::Unicast;
    route.header.flags = RouteFlags::Onlink;
    route.attributes = vec![RouteAttribute::Gateway(gateway.into()), RouteAttribute::Oif(index)];
    route
}

fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn oif(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

fn links(answer: &[netlink::Message]) -> impl Iterator<Item = Link> {
    answer.iter().filter_map(|message| {
        let RouteNetlinkMessage::NewLink(message) = netlink::parse(message)? else { return None };
        let mut link = Link {
            index: message.header.index,
            name: String::new(),
            mac: Vec::new(),
            mtu: 0,
            peer: 0,
            bridge: 0,
            up: false,
            stats: None,
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Address(mac) => link.mac = mac,
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Link(peer) => link.peer = peer,
                LinkAttribute::Controller(bridge) => link.bridge = bridge,
                LinkAttribute::OperState(state) => link.up = state == State::Up,
                LinkAttribute::Stats64(stats) => link.stats = Some(stats),
                _ => {}
            }
        }
        Some(link)
    })
}

#[cfg(test)]
mod tests {
    use sys::netlink::Family;

    use super::*;

    #[test]
    fn a_kind_of_link_that_the_kernel_does_not_have_is_missing() {
        let make = |kind: &str| {
            let mut link = LinkMessage::default();
            link.attributes = vec![
                LinkAttribute::IfName("minke-none".to_owned()),
                LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Other(kind.to_owned()))]),
            ];
            let mut batch = Batch::default();
            batch.route(RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL);
            Socket::open(Family::Route).all(&batch).unwrap_err()
        };
        let error = make("minke-none").of(&feature::BRIDGE);
        assert!(matches!(error, NetlinkError::Missing(_)), "{error}");
        assert!(error.to_string().contains("modprobe bridge"), "{error}");
        // A name that is too long is refused for what it is.
        let mut links = Links::new(Socket::open(Family::Route));
        let error = links.make_bridge("minke-whose-name-is-too-long", [2; 6]).unwrap_err();
        assert!(matches!(error, NetlinkError::Refused(_)), "{error}");
    }
}
