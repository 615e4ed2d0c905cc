//! Forgets UDP flows that began before a host port led elsewhere.
//!
//! Translation is decided with a flow's first packet, and a UDP client that keeps sending keeps its
//! flow alive: without this it would go on talking to a pod that is gone, or to nobody.

use std::net::IpAddr;

use model::Protocol;
use rustix::io::Errno;

use crate::netlink::{Batch, Message, NLM_F_ACK, NLM_F_DUMP, NetlinkError, Socket, attributes};
use crate::nfnetlink::{self, Attributes, NFPROTO_IPV4, NFPROTO_IPV6, SUBSYSTEM_CONNTRACK};
use crate::ports::Mapping;

const IPCTNL_MSG_CT_GET: u8 = 1;
const IPCTNL_MSG_CT_DELETE: u8 = 2;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;
const IPPROTO_UDP: u8 = 17;

/// The kernel compares the protocol (bit 3) and the destination port (bit 5) of flows it lists.
const BY_PROTOCOL_AND_PORT: u32 = 1 << 3 | 1 << 5;

/// Forgets the UDP flows to mapped ports that go to the pod or to an address of the host. Flows
/// that only pass, to the same port somewhere else, stay.
pub(crate) fn forget_udp(
    socket: &mut Socket,
    mappings: &[Mapping],
    host: &[IpAddr],
) -> Result<(), NetlinkError> {
    for mapping in mappings.iter().filter(|mapping| mapping.protocol == Protocol::Udp) {
        let ours = |flow: &Flow| {
            flow.answered_by == mapping.pod_ip
                || flow.sent_to.is_loopback()
                || host.contains(&flow.sent_to)
        };
        let family = if mapping.pod_ip.is_ipv6() { NFPROTO_IPV6 } else { NFPROTO_IPV4 };
        let flows = list(socket, family, mapping.host_port)?;
        let mut batch = Batch::default();
        for flow in flows.iter().filter_map(Flow::read).filter(ours) {
            let request = (SUBSYSTEM_CONNTRACK, IPCTNL_MSG_CT_DELETE, family);
            nfnetlink::push(&mut batch, request, NLM_F_ACK, &flow.identity);
        }
        for reply in socket.exchange(&batch)? {
            match reply {
                // It ended by itself meanwhile.
                Err(error) if error.is(Errno::NOENT) => {}
                reply => drop(reply?),
            }
        }
    }
    Ok(())
}

fn list(socket: &mut Socket, family: u8, port: u16) -> Result<Vec<Message>, NetlinkError> {
    let protocol = Attributes::default()
        .bytes(CTA_PROTO_NUM, &[IPPROTO_UDP])
        .bytes(CTA_PROTO_DST_PORT, &port.to_be_bytes());
    let filter = Attributes::default()
        .nest(CTA_TUPLE_ORIG, Attributes::default().nest(CTA_TUPLE_PROTO, protocol))
        .nest(
            CTA_FILTER,
            // The one number here that is in the machine's own order.
            Attributes::default().bytes(CTA_FILTER_ORIG_FLAGS, &BY_PROTOCOL_AND_PORT.to_ne_bytes()),
        );
    let mut batch = Batch::default();
    let request = (SUBSYSTEM_CONNTRACK, IPCTNL_MSG_CT_GET, family);
    nfnetlink::push(&mut batch, request, NLM_F_DUMP, &filter);
    socket.dump(&batch)
}

#[derive(Debug)]
struct Flow {
    sent_to: IpAddr,
    answered_by: IpAddr,
    /// What names exactly this flow when it is deleted.
    identity: Attributes,
}

impl Flow {
    fn read((_, body): &Message) -> Option<Self> {
        let mut identity = Attributes::default();
        let (mut sent_to, mut answered_by) = (None, None);
        for (kind, value) in attributes(body.get(4..)?) {
            match kind {
                CTA_TUPLE_ORIG => {
                    sent_to = addresses(value).nth(1);
                    identity = identity.nested(kind, value);
                }
                CTA_TUPLE_REPLY => answered_by = addresses(value).next(),
                CTA_ID | CTA_ZONE => identity = identity.bytes(kind, value),
                _ => {}
            }
        }
        Some(Self { sent_to: sent_to?, answered_by: answered_by?, identity })
    }
}

/// Source and destination of a tuple.
fn addresses(tuple: &[u8]) -> impl Iterator<Item = IpAddr> {
    attributes(tuple)
        .filter(|(kind, _)| *kind == CTA_TUPLE_IP)
        .flat_map(|(_, ip)| attributes(ip))
        .filter_map(|(_, ip)| match ip.len() {
            4 => <[u8; 4]>::try_from(ip).ok().map(IpAddr::from),
            _ => <[u8; 16]>::try_from(ip).ok().map(IpAddr::from),
        })
}
