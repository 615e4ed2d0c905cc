//! Hears the kernel say what changed, so that nobody has to ask: links that are up or gone, and
//! firewalls that come, go, or are written anew.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use sys::netlink::Family;
use tokio::net::UnixDatagram;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::netlink;
use crate::nfnetlink::SUBSYSTEM_NFTABLES;

const RTMGRP_LINK: u32 = 1;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const LINK_HEADER: usize = 16;
const IFLA_OPERSTATE: u16 = 16;
const IF_OPER_UP: u8 = 6;
const AF_UNSPEC: u8 = 0;

/// The multicast group of nftables, the seventh.
const NFTABLES_GROUP: u32 = 1 << 6;
const NFT_MSG_NEWTABLE: u8 = 0;
const NFT_MSG_DELTABLE: u8 = 2;
const NFT_MSG_NEWCHAIN: u8 = 3;
const NFT_MSG_DELRULE: u8 = 8;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_CHAIN_HOOK: u16 = 4;

/// Who writes a ruleset writes much of it: what follows within this time is looked at together.
const SETTLE: Duration = Duration::from_millis(200);

/// Bursts of messages (each link makes several) find room here; what does not is noticed as such.
const RECEIVE_BUFFER: usize = 1 << 20;

/// What may become of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Change {
    /// It is gone.
    Gone,
    /// Packets pass.
    Up,
}

/// What a waiter learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// It happened.
    Happened,
    /// Messages were lost: it may have happened or not.
    Lost,
}

type Waiters = Arc<Mutex<HashMap<(Change, u32), Vec<oneshot::Sender<Seen>>>>>;

/// Tasks that read the kernel's messages; they end with this.
#[derive(Debug)]
pub(crate) struct Watch {
    waiters: Waiters,
    links: JoinHandle<()>,
    ruleset: Option<JoinHandle<()>>,
}

impl Watch {
    /// Starts to listen to what becomes of links, in the calling thread's network namespace.
    pub(crate) fn start() -> io::Result<Self> {
        let socket = listener(Family::Route, RTMGRP_LINK)?;
        let waiters = Waiters::default();
        let links = tokio::spawn(listen(socket, Arc::clone(&waiters)));
        Ok(Self { waiters, links, ruleset: None })
    }

    /// Calls `changed`, on a thread that may block, whenever somebody changed what could matter to
    /// us in nftables: tables, chains that packets pass through, rules that iptables keeps and that
    /// may have been ours. A kernel without nftables has no changes to follow.
    pub(crate) fn follow_ruleset(&mut self, changed: impl Fn() + Clone + Send + 'static) {
        if let Ok(socket) = listener(Family::Netfilter, NFTABLES_GROUP) {
            self.ruleset = Some(tokio::spawn(follow(socket, changed)));
        }
    }

    /// Waits for something to become of a link. To be called before whatever brings it about.
    pub(crate) fn wait(&self, change: Change, index: u32) -> oneshot::Receiver<Seen> {
        let (tell, told) = oneshot::channel();
        let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        // Waiters that gave up leave with the next one who comes.
        waiters.retain(|_, senders| {
            senders.retain(|sender| !sender.is_closed());
            !senders.is_empty()
        });
        waiters.entry((change, index)).or_default().push(tell);
        told
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.links.abort();
        if let Some(ruleset) = &self.ruleset {
            ruleset.abort();
        }
    }
}

async fn follow(socket: UnixDatagram, changed: impl Fn() + Clone + Send + 'static) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        match socket.recv(&mut buffer).await {
            Ok(len) if !matters(&buffer[..len]) => continue,
            Ok(_) => {}
            Err(error) if lost(&error) => {}
            Err(_) => return,
        }
        tokio::time::sleep(SETTLE).await;
        loop {
            match socket.try_recv(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if !lost(&error) => return,
                _ => {}
            }
        }
        if spawn_blocking(changed.clone()).await.is_err() {
            return;
        }
    }
}

fn listener(family: Family, groups: u32) -> io::Result<UnixDatagram> {
    let socket = sys::netlink::open(family, groups)?;
    // Without the privilege for more the default size has to do.
    if rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER).is_err() {
        rustix::net::sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER)?;
    }
    // tokio has no type for netlink sockets, and recv(2) does not care what a socket is called.
    UnixDatagram::from_std(socket.into())
}

/// Whether the error only says that messages were lost.
fn lost(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::NOBUFS)
}

fn matters(datagram: &[u8]) -> bool {
    netlink::messages(datagram).any(|(header, body)| {
        let [subsystem, message] = header.kind.to_be_bytes();
        let mut attributes = netlink::attributes(body.get(4..).unwrap_or_default());
        subsystem == SUBSYSTEM_NFTABLES
            && match message {
                NFT_MSG_NEWTABLE | NFT_MSG_DELTABLE => true,
                NFT_MSG_NEWCHAIN => attributes.any(|(kind, _)| kind == NFTA_CHAIN_HOOK),
                NFT_MSG_DELRULE => {
                    attributes.any(|(kind, name)| kind == NFTA_RULE_TABLE && name == b"filter\0")
                }
                _ => false,
            }
    })
}

async fn listen(socket: UnixDatagram, waiters: Waiters) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let received = socket.recv(&mut buffer).await;
        let mut waiters = waiters.lock().unwrap_or_else(PoisonError::into_inner);
        match received {
            Ok(len) => {
                for change in changes(&buffer[..len]) {
                    tell(waiters.remove(&change).unwrap_or_default(), Seen::Happened);
                }
            }
            // Messages were lost, or something worse happened: whoever waits has to look.
            Err(error) => {
                tell(waiters.drain().flat_map(|(_, senders)| senders), Seen::Lost);
                if !lost(&error) {
                    return;
                }
            }
        }
    }
}

/// What became of which links. A bridge that loses a port says so in a message of the same type as
/// for a link that is gone, but of its own address family.
fn changes(datagram: &[u8]) -> impl Iterator<Item = (Change, u32)> {
    netlink::messages(datagram).filter_map(|(header, body)| {
        let up = || {
            let mut attributes = netlink::attributes(body.get(LINK_HEADER..).unwrap_or_default());
            attributes.any(|attribute| attribute == (IFLA_OPERSTATE, &[IF_OPER_UP]))
        };
        let change = match header.kind {
            RTM_DELLINK => Change::Gone,
            RTM_NEWLINK if up() => Change::Up,
            _ => return None,
        };
        let index = netlink::u32_at(body, 4)?;
        (body.first() == Some(&AF_UNSPEC)).then_some((change, index))
    })
}

fn tell(senders: impl IntoIterator<Item = oneshot::Sender<Seen>>, seen: Seen) {
    for sender in senders {
        // The waiter may have given up.
        let _ = sender.send(seen);
    }
}
