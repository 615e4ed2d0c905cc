//! A connection on which many requests are under way at once.
//!
//! One task reads, and wakes who waits for an answer; requests are sent by whoever makes them, in
//! the order in which they take the lock.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

use crate::client::error::Error;
use crate::protocol::{Answer, Call, Event, ExitStatus, Refusal, Reply};
use crate::wire::{self, Assembler, Message, PACKET_MAX, Packet, Received};

/// A reply with its descriptors.
type Outcome<R> = Result<(R, Vec<OwnedFd>), Refusal>;

/// What a kind of replies needs beside being read.
pub(super) trait Replies: DeserializeOwned + Send + 'static {
    /// Who sends them.
    const PEER: &'static str;

    /// The exec that this reply announces, whose end an event will tell.
    fn exec(&self) -> Option<u32> {
        None
    }
}

impl Replies for Reply {
    const PEER: &'static str = "the keeper";

    fn exec(&self) -> Option<u32> {
        match self {
            Self::Executing { exec, .. } => Some(*exec),
            _ => None,
        }
    }
}

/// A connection. It closes with its last clone.
#[derive(Debug)]
pub(super) struct Link<R> {
    inner: Arc<Inner<R>>,
    reader: Option<Arc<Abort>>,
}

/// Ends the reading task with the last handle of the connection.
#[derive(Debug)]
struct Abort(tokio::task::JoinHandle<()>);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Debug)]
struct Inner<R> {
    socket: AsyncFd<OwnedFd>,
    next: AtomicU64,
    /// The packets of one message go out with nothing between.
    sending: tokio::sync::Mutex<()>,
    waiting: Mutex<Waiting<R>>,
}

/// Who waits for what; locked for moments.
#[derive(Debug)]
struct Waiting<R> {
    /// None once the connection has ended.
    replies: Option<HashMap<u64, oneshot::Sender<Outcome<R>>>>,
    /// Ends of execs, sorted to who asks for them: an end can come before its asker has got as far.
    execs: HashMap<u32, oneshot::Sender<ExitStatus>>,
    /// Receivers of ends for the askers, made when the reply is read.
    announced: HashMap<u32, oneshot::Receiver<ExitStatus>>,
}

impl<R> Inner<R> {
    fn waiting(&self) -> MutexGuard<'_, Waiting<R>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<R: Replies> Link<R> {
    /// Takes a connected socket. Events go to `events`, which closes with the connection.
    pub(super) fn new(
        socket: OwnedFd,
        events: mpsc::UnboundedSender<Event>,
    ) -> std::io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        let waiting = Waiting {
            replies: Some(HashMap::new()),
            execs: HashMap::new(),
            announced: HashMap::new(),
        };
        let inner = Arc::new(Inner {
            // Not for writing: the peer would wake us with each packet that it takes.
            socket: watch(socket, Interest::READABLE)?,
            next: AtomicU64::new(1),
            sending: tokio::sync::Mutex::new(()),
            waiting: Mutex::new(waiting),
        });
        let reader = tokio::spawn(read(Arc::clone(&inner), events));
        Ok(Self { inner, reader: Some(Arc::new(Abort(reader))) })
    }

    /// Whether the connection has ended.
    pub(super) fn is_lost(&self) -> bool {
        self.inner.waiting().replies.is_none()
    }

    /// Asks, and waits for the answer.
    pub(super) async fn call<Q: Serialize>(
        &self,
        request: Q,
        fds: Vec<OwnedFd>,
    ) -> Result<(R, Vec<OwnedFd>), Error> {
        let lost = || Error::Lost { peer: R::PEER };
        let id = self.inner.next.fetch_add(1, Ordering::Relaxed);
        let body = serde_json::to_vec(&Call { id, request }).map_err(|e| Error::Send(e.into()))?;
        let packets = wire::packets(&body, fds).map_err(|errno| Error::Send(errno.into()))?;
        let (sender, receiver) = oneshot::channel();
        self.inner.waiting().replies.as_mut().ok_or_else(lost)?.insert(id, sender);
        if let Err(errno) = self.transmit(packets).await {
            if let Some(replies) = self.inner.waiting().replies.as_mut() {
                replies.remove(&id);
            }
            return match errno {
                Errno::PIPE | Errno::CONNRESET => Err(lost()),
                errno => Err(Error::Send(errno.into())),
            };
        }
        receiver.await.map_err(|_| lost())?.map_err(Error::Refused)
    }

    /// Sends a message, whole or not at all, even where the asker goes away meanwhile.
    async fn transmit(&self, mut packets: VecDeque<Packet>) -> Result<(), Errno> {
        if let (Ok(_turn), [packet]) = (self.inner.sending.try_lock(), packets.make_contiguous()) {
            // The kernel takes a packet whole or not at all, and almost always at once.
            match wire::send(self.inner.socket.get_ref().as_fd(), packet) {
                Err(Errno::AGAIN) => {}
                sent => return sent,
            }
        }
        // A task of its own, because an asker that goes away would leave half a message behind.
        let inner = Arc::clone(&self.inner);
        let sent = tokio::spawn(async move { send(&inner, packets).await }).await;
        sent.unwrap_or(Err(Errno::PIPE))
    }

    /// The end of an exec that a reply has announced; asked for once.
    pub(super) fn exec_end(&self, exec: u32) -> Option<oneshot::Receiver<ExitStatus>> {
        self.inner.waiting().announced.remove(&exec)
    }
}

impl<R> Clone for Link<R> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), reader: self.reader.clone() }
    }
}

/// Puts a descriptor under the runtime's watch.
pub(super) fn watch(fd: OwnedFd, interest: Interest) -> std::io::Result<AsyncFd<OwnedFd>> {
    #[expect(deprecated, reason = "the new way is unsafe; what it asks for is that fd is owned")]
    AsyncFd::with_interest(fd, interest)
}

async fn send<R>(inner: &Inner<R>, packets: VecDeque<Packet>) -> Result<(), Errno> {
    let _turn = inner.sending.lock().await;
    let errno = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let socket = inner.socket.get_ref();
    // Only a peer that does not keep up is waited for.
    let mut full = None;
    for packet in packets {
        while let Err(error) = wire::send(socket.as_fd(), &packet) {
            if error != Errno::AGAIN {
                return Err(error);
            }
            let room = match full.take() {
                Some(room) => room,
                None => {
                    watch(socket.try_clone().map_err(errno)?, Interest::WRITABLE).map_err(errno)?
                }
            };
            room.writable().await.map_err(errno)?.clear_ready();
            full = Some(room);
        }
    }
    Ok(())
}

/// Reads until the connection ends.
async fn read<R: Replies>(inner: Arc<Inner<R>>, events: mpsc::UnboundedSender<Event>) {
    let mut assembler = Assembler::default();
    let mut buffer = Vec::new();
    while let Ok(mut ready) = inner.socket.readable().await {
        // Given back while nothing comes: there is one connection for each pod of the node.
        buffer.resize(PACKET_MAX, 0);
        let received = ready.try_io(|socket| {
            assembler.receive(socket.get_ref().as_fd(), &mut buffer).map_err(Into::into)
        });
        match received {
            Ok(Ok(Received::Message(message))) => deliver(&inner, message, &events),
            Ok(Ok(Received::Part)) => {}
            Ok(Ok(Received::Malformed(malformed))) => {
                tracing::warn!(%malformed, "{} sent something unreadable", R::PEER);
            }
            Ok(Ok(Received::End) | Err(_)) => break,
            Err(_) => buffer = Vec::new(),
        }
    }
    let mut waiting = inner.waiting();
    // Who waits learns that nothing comes any more.
    waiting.replies = None;
    waiting.execs.clear();
}

fn deliver<R: Replies>(inner: &Inner<R>, message: Message, events: &mpsc::UnboundedSender<Event>) {
    let answer = match serde_json::from_slice::<Answer<R>>(&message.body) {
        Ok(answer) => answer,
        Err(error) => {
            // An event of a newer keeper; or a newer reply, whose asker is told.
            tracing::debug!(%error, "{} says what is not known here", R::PEER);
            if let Ok(Answer::Reply { id, .. }) =
                serde_json::from_slice::<Answer<serde::de::IgnoredAny>>(&message.body)
            {
                drop(inner.waiting().replies.as_mut().and_then(|replies| replies.remove(&id)));
            }
            return;
        }
    };
    match answer {
        Answer::Reply { id, result } => {
            let mut waiting = inner.waiting();
            let asker = waiting.replies.as_mut().and_then(|replies| replies.remove(&id));
            if let Some(exec) = result.as_ref().ok().and_then(R::exec)
                && asker.as_ref().is_some_and(|asker| !asker.is_closed())
            {
                let (sender, receiver) = oneshot::channel();
                waiting.execs.insert(exec, sender);
                waiting.announced.insert(exec, receiver);
            }
            drop(waiting);
            if let Some(asker) = asker {
                // Who has gone away lets go of the reply's descriptors with it.
                let _ = asker.send(result.map(|reply| (reply, message.fds)));
            }
        }
        Answer::Event(Event::ExecExited { exec, exit }) => {
            if let Some(asker) = inner.waiting().execs.remove(&exec) {
                let _ = asker.send(exit);
            }
        }
        Answer::Event(event) => {
            // A daemon that does not listen does not want to know.
            let _ = events.send(event);
        }
    }
}
