//! Hears the kernel say that links are gone, so that nobody has to ask.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;
use sys::netlink::Family;
use tokio::net::UnixDatagram;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::netlink;

const RTMGRP_LINK: u32 = 1;
const RTM_DELLINK: u16 = 17;
const AF_UNSPEC: u8 = 0;

/// Bursts of messages (each link makes several) find room here; what does not is noticed as such.
const RECEIVE_BUFFER: usize = 1 << 20;

/// What a waiter learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// The link is gone.
    Gone,
    /// Messages were lost: the link may be gone or not.
    Lost,
}

type Waiters = Arc<Mutex<HashMap<u32, Vec<oneshot::Sender<Seen>>>>>;

/// A task that reads the kernel's messages about links; ends with this.
#[derive(Debug)]
pub(crate) struct Watch {
    waiters: Waiters,
    task: JoinHandle<()>,
}

impl Watch {
    /// Starts the task, for the calling thread's network namespace.
    pub(crate) fn start() -> io::Result<Self> {
        let socket = sys::netlink::open(Family::Route, RTMGRP_LINK)?;
        // Without the privilege for more the default size has to do.
        if rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER).is_err()
        {
            rustix::net::sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER)?;
        }
        // tokio has no type for netlink sockets, and recv(2) does not care what a socket is called.
        let socket = UnixDatagram::from_std(socket.into())?;
        let waiters = Waiters::default();
        let task = tokio::spawn(listen(socket, Arc::clone(&waiters)));
        Ok(Self { waiters, task })
    }

    /// Waits for a link to go. To be called before whatever makes it go.
    pub(crate) fn gone(&self, index: u32) -> oneshot::Receiver<Seen> {
        let (tell, told) = oneshot::channel();
        let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        // Waiters that gave up leave with the next one who comes.
        waiters.retain(|_, senders| {
            senders.retain(|sender| !sender.is_closed());
            !senders.is_empty()
        });
        waiters.entry(index).or_default().push(tell);
        told
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listen(socket: UnixDatagram, waiters: Waiters) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let received = socket.recv(&mut buffer).await;
        let mut waiters = waiters.lock().unwrap_or_else(PoisonError::into_inner);
        match received {
            Ok(len) => {
                for index in gone_links(&buffer[..len]) {
                    tell(waiters.remove(&index).unwrap_or_default(), Seen::Gone);
                }
            }
            // Messages were lost, or something worse happened: whoever waits has to look.
            Err(error) => {
                tell(waiters.drain().flat_map(|(_, senders)| senders), Seen::Lost);
                if Errno::from_io_error(&error) != Some(Errno::NOBUFS) {
                    return;
                }
            }
        }
    }
}

/// The indexes of deleted links. A bridge that loses a port says so in a message of the same type,
/// but of its own address family.
fn gone_links(datagram: &[u8]) -> impl Iterator<Item = u32> {
    netlink::messages(datagram).filter_map(|(header, body)| {
        let deleted = header.kind == RTM_DELLINK && body.first() == Some(&AF_UNSPEC);
        if deleted { netlink::u32_at(body, 4) } else { None }
    })
}

fn tell(senders: impl IntoIterator<Item = oneshot::Sender<Seen>>, seen: Seen) {
    for sender in senders {
        // The waiter may have given up.
        let _ = sender.send(seen);
    }
}
