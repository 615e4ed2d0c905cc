//! Messages to netfilter: the attribute encoding that nftables and connection tracking share.
//!
//! Numbers go over the wire in network order, names with a trailing NUL, nests with their own flag
//! (linux/netfilter/nfnetlink.h, nf_tables.h).

use rustix::io::Errno;

use crate::netlink::{Batch, NLM_F_ACK, NLM_F_DUMP, NetlinkError, Reply, Socket};

pub(crate) const SUBSYSTEM_CONNTRACK: u8 = 1;
pub(crate) const SUBSYSTEM_NFTABLES: u8 = 10;

/// Address families of nftables' tables.
pub(crate) const NFPROTO_UNSPEC: u8 = 0;
pub(crate) const NFPROTO_INET: u8 = 1;
pub(crate) const NFPROTO_IPV4: u8 = 2;
pub(crate) const NFPROTO_IPV6: u8 = 10;

const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NLA_F_NESTED: u16 = 0x8000;

/// A transaction is repeated when someone else's came between.
const TRANSACTION_ATTEMPTS: usize = 8;

/// Attributes of a message, in the order in which they are added.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Attributes(Vec<u8>);

impl Attributes {
    pub(crate) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let len = (4 + value.len()) as u16;
        self.0.extend(len.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub(crate) fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub(crate) fn name(self, kind: u16, name: &str) -> Self {
        let mut value = name.as_bytes().to_vec();
        value.push(0);
        self.bytes(kind, &value)
    }

    pub(crate) fn nest(self, kind: u16, inner: Self) -> Self {
        self.nested(kind, &inner.0)
    }

    /// A nest whose content is encoded already.
    pub(crate) fn nested(self, kind: u16, content: &[u8]) -> Self {
        self.bytes(kind | NLA_F_NESTED, content)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// Appends a request to a batch.
pub(crate) fn push(
    batch: &mut Batch,
    (subsystem, message, family): (u8, u8, u8),
    flags: u16,
    attributes: &Attributes,
) {
    let mut body = vec![family, 0, 0, 0];
    body.extend(&attributes.0);
    batch.raw(u16::from_be_bytes([subsystem, message]), flags, &body);
}

/// Lists objects of nftables; the bodies still begin with the 4 bytes of their own header.
pub(crate) fn list(socket: &mut Socket, message: u8, family: u8, filter: &Attributes) -> Reply {
    let mut batch = Batch::default();
    push(&mut batch, (SUBSYSTEM_NFTABLES, message, family), NLM_F_DUMP, filter);
    socket.dump(&batch)
}

/// Changes to nftables, of which either all take effect at once or none.
#[derive(Debug, Default)]
pub(crate) struct Transaction(Vec<(u8, u8, u16, Attributes)>);

impl Transaction {
    pub(crate) fn push(&mut self, message: u8, family: u8, flags: u16, attributes: Attributes) {
        self.0.push((message, family, flags, attributes));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn commit(&self, socket: &mut Socket) -> Result<(), NetlinkError> {
        let batch = self.batch();
        let mut result = socket.all(&batch);
        for _ in 1..TRANSACTION_ATTEMPTS {
            match &result {
                Err(error) if error.is(Errno::INTR) || error.is(Errno::AGAIN) => {
                    result = socket.all(&batch);
                }
                _ => break,
            }
        }
        result
    }

    fn batch(&self) -> Batch {
        let frame = [NFPROTO_UNSPEC, 0, 0, SUBSYSTEM_NFTABLES];
        let mut batch = Batch::default();
        batch.raw(NFNL_MSG_BATCH_BEGIN, 0, &frame);
        for (message, family, flags, attributes) in &self.0 {
            let request = (SUBSYSTEM_NFTABLES, *message, *family);
            push(&mut batch, request, flags | NLM_F_ACK, attributes);
        }
        batch.raw(NFNL_MSG_BATCH_END, 0, &frame);
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::attributes;

    #[test]
    fn attributes_are_padded_and_nest() {
        let inner = Attributes::default().name(1, "abcd").number(2, 7);
        let outer = Attributes::default().nest(3, inner).bytes(4, &[9]);
        assert_eq!(outer.len() % 4, 0);
        let read: Vec<_> = attributes(&outer.0).collect();
        assert_eq!(read.len(), 2);
        assert_eq!((read[0].0, read[1]), (3, (4, &[9][..])));
        let inner: Vec<_> = attributes(read[0].1).collect();
        assert_eq!(inner, [(1, &b"abcd\0"[..]), (2, &[0, 0, 0, 7][..])]);
    }

    #[test]
    fn a_transaction_is_framed() {
        let mut transaction = Transaction::default();
        transaction.push(0, NFPROTO_INET, 0, Attributes::default());
        assert_eq!(transaction.batch().len(), 3);
    }
}
