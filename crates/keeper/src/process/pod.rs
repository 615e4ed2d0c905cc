//! The keeper's event loop: one thread, nothing that waits but epoll.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use executor::launch::Onlookers;
use model::ContainerId;
use rustix::event::epoll::Event as Ready;
use rustix::io;
use rustix::net::{SocketFlags, accept_with};

use crate::process::connection::{Asker, Connection};
use crate::process::container::{Container, Due};
use crate::process::dial::{self, Dial};
use crate::process::exec::Exec;
use crate::process::line::Channel;
use crate::process::pid_one::{PidOne, PodUser};
use crate::process::poller::{Kind, Poller, Token, token};
use crate::protocol::{Event, LOG_STATS, NEWEST, Refusal, Reply};
use crate::wire::PACKET_MAX;

/// How long the big buffer is kept after it was needed.
const BUFFER_KEPT: Duration = Duration::from_secs(1);

/// What a keeper is born with.
#[derive(Debug)]
pub(crate) struct Birthright {
    /// Where daemons connect.
    pub(crate) listener: OwnedFd,
    /// The connection of the daemon that made it.
    pub(crate) connection: OwnedFd,
    /// /dev/null, open for reading and writing.
    pub(crate) null: OwnedFd,
    /// The pod's user namespace.
    pub(crate) user: Option<PodUser>,
    /// The newest version that it speaks, if not all that it knows.
    pub(crate) max_version: Option<u32>,
}

/// The container of this id, if the daemon still hears of it.
pub(super) fn find<'a>(
    containers: &'a mut BTreeMap<u32, Container>,
    id: &ContainerId,
) -> Result<&'a mut Container, Refusal> {
    containers
        .values_mut()
        .find(|container| container.is_known() && container.id == *id)
        .ok_or_else(|| Refusal::NoContainer { container: id.clone() })
}

/// The life of a keeper. Gives its exit code.
pub(crate) fn run(birthright: Birthright) -> u8 {
    let Ok(mut pod) = Pod::new(birthright) else { return 1 };
    while !pod.has_left() {
        if pod.turn().is_err() {
            // Only a broken epoll: nothing can be kept without it.
            return 1;
        }
    }
    0
}

/// A start that waits for commands on their way.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) asker: Asker,
    pub(super) container: ContainerId,
    /// When what it waits for is ended.
    pub(super) until: Instant,
}

/// Everything that a keeper keeps.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(super) poller: Poller,
    listener: OwnedFd,
    pub(super) null: OwnedFd,
    pub(super) user: Option<PodUser>,
    pub(super) newest: u32,
    serial: u32,
    pub(super) connection: Option<Connection>,
    pub(super) containers: BTreeMap<u32, Container>,
    pub(super) execs: BTreeMap<u32, Exec>,
    pub(super) dials: BTreeMap<u32, Dial>,
    pub(super) pid_one: Option<PidOne>,
    /// Whether a process of the pod could look into others: once one could it stays so.
    pub(super) onlookers: Onlookers,
    pub(super) held: Vec<Held>,
    /// Where everything is read into; given back while nothing happens.
    buffer: Vec<u8>,
    buffer_used: Option<Instant>,
    pub(super) leaving: bool,
}

impl Pod {
    fn new(birthright: Birthright) -> io::Result<Self> {
        let Birthright { listener, connection, null, user, max_version } = birthright;
        let poller = Poller::new()?;
        io::ioctl_fionbio(&listener, true)?;
        poller.readable(&listener, Token::new(Kind::Listener, 0))?;
        let connection = Connection::new(connection, 1, &poller)?;
        Ok(Self {
            poller,
            listener,
            null,
            user,
            newest: max_version.map_or(NEWEST, |max| max.min(NEWEST)),
            serial: 1,
            connection: Some(connection),
            containers: BTreeMap::new(),
            execs: BTreeMap::new(),
            dials: BTreeMap::new(),
            pid_one: None,
            onlookers: Onlookers::None,
            held: Vec::new(),
            buffer: Vec::new(),
            buffer_used: None,
            leaving: false,
        })
    }

    /// Asked to go, and nobody waits for an answer any more.
    fn has_left(&self) -> bool {
        self.leaving && self.connection.as_ref().is_none_or(Connection::is_quiet)
    }

    /// Waits once, and does what there is to do.
    fn turn(&mut self) -> io::Result<()> {
        let now = Instant::now();
        let timeout = self.deadline().map(|deadline| deadline.saturating_duration_since(now));
        let mut ready = Vec::with_capacity(32);
        self.poller.wait(&mut ready, timeout)?;
        for event in &ready {
            self.on_event(event);
        }
        self.settle(Instant::now());
        Ok(())
    }

    pub(super) fn next_serial(&mut self) -> u32 {
        self.serial += 1;
        self.serial
    }

    fn on_event(&mut self, event: &Ready) {
        let Some(Token { kind, sub, owner }) = token(event) else { return };
        match kind {
            Kind::Listener => self.accept(),
            Kind::Connection => self.on_connection(owner),
            Kind::ExecLaunch => self.on_exec(owner, false),
            Kind::ExecEnd => self.on_exec(owner, true),
            Kind::Dial => {
                if let Some(dial) = self.dials.remove(&owner) {
                    let asker = dial.asker;
                    let progress = dial.on_ready(&self.poller);
                    self.on_dial(owner, asker, progress);
                }
            }
            Kind::PidOne => {
                if let Some(pid_one) = self.pid_one.take() {
                    self.poller.ignore(&pid_one.pidfd);
                    pid_one.end();
                }
            }
            _ => self.on_container(kind, owner, sub),
        }
    }

    /// Something of a container's is ready.
    fn on_container(&mut self, kind: Kind, owner: u32, sub: u32) {
        let Some(container) = self.containers.get_mut(&owner) else { return };
        let (streams, poller) = (&mut container.streams, &self.poller);
        let due = match kind {
            Kind::Launch | Kind::Init => container.advance(poller),
            Kind::WriterEnd => container.on_writer_end(sub, poller),
            Kind::Output | Kind::ClientInput => {
                if self.buffer.is_empty() {
                    self.buffer = vec![0; PACKET_MAX];
                }
                self.buffer_used = Some(Instant::now());
                if kind == Kind::Output {
                    streams.on_output(Channel::of(sub), &mut self.buffer, poller);
                } else {
                    streams.on_client_input(sub, &mut self.buffer, poller);
                }
                return;
            }
            Kind::Input => return streams.on_input(poller),
            Kind::ClientOutput => return streams.on_client_output(sub, poller),
            Kind::WriterReport => return streams.on_writer(sub, poller),
            _ => return,
        };
        self.answer(due);
    }

    fn accept(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // Who gave up before it was accepted, and who is not root, is nobody.
        let Ok(socket) = accept_with(&self.listener, flags) else { return };
        let serial = self.next_serial();
        if let Ok(connection) = Connection::new(socket, serial, &self.poller) {
            self.disconnect();
            self.connection = Some(connection);
        }
    }

    fn disconnect(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.close(&self.poller);
        }
        for dial in std::mem::take(&mut self.dials).into_values() {
            dial.abandon(&self.poller);
        }
    }

    fn on_connection(&mut self, owner: u32) {
        let Some(connection) = self.connection.as_mut().filter(|it| it.serial() == owner) else {
            return;
        };
        connection.flush(&self.poller);
        // One at a time: where there are more the poller says so, and everything else gets its turn.
        if let Some(received) = connection.receive() {
            self.on_received(owner, received);
        }
    }

    fn on_exec(&mut self, owner: u32, ended: bool) {
        let Some(exec) = self.execs.get_mut(&owner) else { return };
        let (due, exit) = exec.advance(ended, &self.poller);
        self.answer(due);
        if let Some(exit) = exit {
            self.tell(Event::ExecExited { exec: owner, exit });
        }
    }

    pub(super) fn on_dial(&mut self, serial: u32, asker: Asker, progress: dial::Progress) {
        match progress {
            dial::Progress::Waiting(dial) => drop(self.dials.insert(serial, dial)),
            dial::Progress::Connected(socket) => {
                self.answer([(asker, Ok(Reply::Dialed {}), vec![socket])]);
            }
            dial::Progress::Failed(errno) => {
                let refusal = Refusal::kernel("connect to the port")(errno);
                self.answer([(asker, Err(refusal), Vec::new())]);
            }
        }
    }

    /// Sends answers to those who still wait for them.
    pub(super) fn answer(&mut self, due: impl IntoIterator<Item = Due>) {
        for (asker, result, fds) in due {
            if let Some(connection) = &mut self.connection
                && connection.serial() == asker.connection
            {
                connection.reply(asker.request, result, fds, &self.poller);
            }
        }
    }

    fn tell(&mut self, event: Event) {
        if let Some(connection) = &mut self.connection {
            connection.tell(event, &self.poller);
        }
    }

    /// Whether the daemon that is connected wants to hear of the log.
    fn tells_of_log(&self) -> bool {
        let version = self.connection.as_ref().and_then(Connection::version);
        version.is_some_and(|version| version >= LOG_STATS)
    }

    fn deadline(&self) -> Option<Instant> {
        let telling = self.tells_of_log();
        let containers = self.containers.values().filter_map(|it| it.deadline(telling));
        let dials = self.dials.values().map(Dial::deadline);
        let buffer = self.buffer_used.map(|used| used + BUFFER_KEPT);
        let held = self.held.iter().map(|held| held.until);
        let execs = self.execs.values().filter_map(Exec::deadline);
        containers.chain(dials).chain(buffer).chain(held).chain(execs).min()
    }

    /// What is due after every turn.
    fn settle(&mut self, now: Instant) {
        let telling = self.tells_of_log();
        let mut events = Vec::new();
        for container in self.containers.values_mut() {
            container.streams.expire(now, &self.poller);
            let end = container.take_end(now);
            let dropped = if telling { container.take_dropped(now) } else { None };
            let id = &container.id;
            events.extend(dropped.map(|dropped| Event::LogDropped {
                container: id.clone(),
                lines: dropped.lines,
                errno: dropped.errno,
            }));
            events.extend(end.map(|exit| Event::ContainerExited { container: id.clone(), exit }));
        }
        events.into_iter().for_each(|event| self.tell(event));
        self.containers.retain(|_, container| !container.is_over());
        let is_late = |exec: &Exec| exec.deadline().is_some_and(|deadline| deadline <= now);
        let late = self.execs.iter().filter(|(_, exec)| is_late(exec)).map(|(serial, _)| *serial);
        for serial in late.collect::<Vec<_>>() {
            self.on_exec(serial, false);
        }
        self.execs.retain(|_, exec| !exec.is_over());
        self.start_held(now);
        let late: Vec<u32> =
            self.dials.iter().filter(|(_, dial)| dial.deadline() <= now).map(|(n, _)| *n).collect();
        for serial in late {
            if let Some(dial) = self.dials.remove(&serial) {
                let asker = dial.asker;
                let progress = dial.on_timeout(&self.poller);
                self.on_dial(serial, asker, progress);
            }
        }
        if self.connection.as_ref().is_some_and(Connection::is_broken) {
            self.disconnect();
        }
        if self.buffer_used.is_some_and(|used| used + BUFFER_KEPT <= now) {
            (self.buffer, self.buffer_used) = (Vec::new(), None);
        }
    }
}
