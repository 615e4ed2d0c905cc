//! A container in its keeper: its process on the way, alive, ended; its streams.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use executor::launch::{Progress, Spawning, spawn};
use executor::plan::{self, Handle, Launch};
use executor::{Failure, Step};
use model::{ContainerId, Timestamp};
use rustix::process::{WaitId, WaitIdOptions, WaitIdStatus, waitid};

use crate::process::connection::Asker;
use crate::process::log::Log;
use crate::process::poller::{Kind, Poller, Token};
use crate::process::streams::{Streams, duplicate};
use crate::process::writer::Dropped;
use crate::protocol::{ContainerPhase, ContainerStatus, ExitStatus, Refusal, Reply, Stdio};

/// How often the daemon is told of dropped log lines at most.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// What a container that could not execute its program exits with.
const START_FAILED: i32 = 128;

/// A container.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: ContainerId,
    pub(crate) serial: u32,
    pub(crate) phase: ContainerPhase,
    pub(crate) streams: Streams,
    /// Whether its processes could look into others of their PID namespace.
    pub(crate) onlooker: bool,
    stdio: Stdio,
    pid: u32,
    pidfd: Option<OwnedFd>,
    spawning: Option<Spawning>,
    /// Who waits for the creation or the start.
    asker: Option<Asker>,
    /// The start was asked for: what the child says from now on is about execve(2).
    starting: bool,
    start_failed: bool,
    /// execve(2) has succeeded or failed, as far as is known here. The init can end before: the
    /// last word comes only when those that helped it into the world have ended too.
    settled: bool,
    /// The init has ended; its last words are collected.
    exit: Option<ExitStatus>,
    /// The daemon wants to hear no more of it.
    forgotten: bool,
    /// Who waits for a writer to end.
    reopening: Vec<(u32, Asker)>,
    dropped_told: Option<Instant>,
}

/// An answer that became due.
pub(crate) type Due = (Asker, Result<Reply, Refusal>, Vec<OwnedFd>);

impl Container {
    /// Begins to make it.
    pub(crate) fn create(
        id: ContainerId,
        serial: u32,
        mut launch: Launch,
        mut table: Vec<OwnedFd>,
        stdio: Stdio,
        hands: (Asker, &OwnedFd, &Poller),
    ) -> Result<Self, Refusal> {
        let (asker, null, poller) = hands;
        let log = if stdio.log { table.pop() } else { None };
        let mut streams = Streams::new(serial, log, stdio.stdin_once);
        if let plan::Stdio::Files(_) = launch.stdio {
            let ends = streams
                .open_pipes(stdio.stdin, null, poller)
                .map_err(Refusal::kernel("make the container's pipes"))?;
            let first = table.len() as u32;
            table.extend([ends.stdin, ends.stdout, ends.stderr]);
            launch.stdio = plan::Stdio::Files([0, 1, 2].map(|n| Handle(first + n)));
        }
        let started = spawn(&launch, table).and_then(|spawning| {
            match poller.readable(spawning.as_fd(), Token::new(Kind::Launch, serial)) {
                Ok(()) => Ok(spawning),
                Err(errno) => Err(Failure::new(Step::Clone, errno)),
            }
        });
        let spawning = match started {
            Ok(spawning) => spawning,
            Err(failure) => {
                streams.close(poller);
                return Err(Refusal::Launch(failure));
            }
        };
        Ok(Self {
            id,
            serial,
            phase: ContainerPhase::Creating,
            streams,
            onlooker: launch.onlooker,
            stdio,
            pid: 0,
            pidfd: None,
            spawning: Some(spawning),
            asker: Some(asker),
            starting: false,
            start_failed: false,
            settled: false,
            exit: None,
            forgotten: false,
            reopening: Vec::new(),
            dropped_told: None,
        })
    }

    /// Its process, if that waits to be started.
    pub(crate) fn check_waiting(&self) -> Result<&Spawning, Refusal> {
        let waits = self.phase == ContainerPhase::Created && self.exit.is_none() && !self.starting;
        let spawning = self.spawning.as_ref().filter(|_| waits);
        spawning.ok_or_else(|| Refusal::state(&self.id, "is not waiting to be started"))
    }

    /// Lets the init go on into execve(2); answered when that has succeeded or failed.
    pub(crate) fn start(&mut self, asker: Asker) -> Result<(), Refusal> {
        self.check_waiting()?.release().map_err(Refusal::Launch)?;
        self.starting = true;
        self.asker = Some(asker);
        Ok(())
    }

    /// The child says how far it is, or the init has ended.
    pub(crate) fn advance(&mut self, poller: &Poller) -> Vec<Due> {
        // What it said before it ended comes first.
        let due = self.advance_launch(poller);
        let Some(pidfd) = self.pidfd.take() else { return due };
        let may_end = self.settled || !self.starting;
        let exit = if may_end { reap(pidfd.as_fd()) } else { None };
        let Some(mut exit) = exit else {
            self.pidfd = Some(pidfd);
            return due;
        };
        poller.ignore(&pidfd);
        if self.start_failed {
            (exit.code, exit.signal) = (START_FAILED, None);
        }
        self.exit = Some(exit);
        self.streams.start_drain();
        due
    }

    fn advance_launch(&mut self, poller: &Poller) -> Vec<Due> {
        let mut due = Vec::new();
        let Some(mut spawning) = self.spawning.take() else { return due };
        // Another descriptor can be the one to watch after each step.
        poller.ignore(spawning.as_fd());
        loop {
            match spawning.advance() {
                Progress::Pending => {
                    let token = Token::new(Kind::Launch, self.serial);
                    if poller.readable(spawning.as_fd(), token).is_err() {
                        spawning.kill();
                    }
                    self.spawning = Some(spawning);
                    return due;
                }
                // None of ours halts.
                Progress::Assembled => {}
                Progress::Waiting(waiting) => match self.take_init(waiting, poller) {
                    Ok(fds) => due.extend(self.answer(Ok(Reply::Created { pid: self.pid }), fds)),
                    Err(errno) => {
                        spawning.kill();
                        let failure = Refusal::kernel("take over the container's process")(errno);
                        due.extend(self.answer(Err(failure), Vec::new()));
                        self.forgotten = true;
                    }
                },
                // The end of a process that still waited looks like this, too.
                Progress::Executed if !self.starting => {}
                Progress::Executed => {
                    self.settled = true;
                    let at = Timestamp::now();
                    self.phase = ContainerPhase::Running { started_at: at };
                    due.extend(self.answer(Ok(Reply::Started { at }), Vec::new()));
                }
                Progress::Failed(failure) => {
                    if self.pidfd.is_none() {
                        self.forgotten = true;
                        self.streams.close(poller);
                    }
                    self.settled = true;
                    self.start_failed = self.starting;
                    due.extend(self.answer(Err(Refusal::Launch(failure)), Vec::new()));
                }
                Progress::Done => return due,
            }
        }
    }

    fn take_init(
        &mut self,
        waiting: executor::launch::Waiting,
        poller: &Poller,
    ) -> rustix::io::Result<Vec<OwnedFd>> {
        self.pid = waiting.pid.as_raw_nonzero().get().unsigned_abs();
        poller.end(&waiting.pidfd, Token::new(Kind::Init, self.serial))?;
        let copy = duplicate(&waiting.pidfd)?;
        self.pidfd = Some(waiting.pidfd);
        if let Some(terminal) = waiting.terminal {
            self.streams.set_terminal(terminal, self.stdio.stdin, poller)?;
        }
        self.phase = ContainerPhase::Created;
        Ok(vec![copy])
    }

    fn answer(&mut self, result: Result<Reply, Refusal>, fds: Vec<OwnedFd>) -> Option<Due> {
        self.asker.take().map(|asker| (asker, result, fds))
    }

    /// How it ended, once: when its last words are written or will not come.
    pub(crate) fn take_end(&mut self, now: Instant) -> Option<ExitStatus> {
        let started_at = match self.phase {
            ContainerPhase::Exited { .. } => return None,
            ContainerPhase::Running { started_at } => started_at,
            ContainerPhase::Creating | ContainerPhase::Created => Timestamp::default(),
        };
        let exit = self.exit?;
        if !self.streams.is_drained(now) {
            return None;
        }
        self.streams.end_drain();
        self.phase = ContainerPhase::Exited { started_at, exit };
        (!self.forgotten).then_some(exit)
    }

    /// From now on its log goes to another file. Answered when the old one is complete.
    pub(crate) fn reopen_log(
        &mut self,
        file: OwnedFd,
        asker: Asker,
        poller: &Poller,
    ) -> Result<Option<Due>, Refusal> {
        let Some(log) = &mut self.streams.log else {
            return Err(Refusal::state(&self.id, "has no log"));
        };
        match log.reopen(file, poller) {
            Some(writer) => {
                self.reopening.push((writer, asker));
                Ok(None)
            }
            None => Ok(Some((asker, Ok(Reply::Done {}), Vec::new()))),
        }
    }

    /// A log writer has ended.
    pub(crate) fn on_writer_end(&mut self, number: u32, poller: &Poller) -> Vec<Due> {
        self.streams.on_writer_end(number, poller);
        let (done, waiting) = std::mem::take(&mut self.reopening)
            .into_iter()
            .partition::<Vec<_>, _>(|(writer, _)| *writer == number);
        self.reopening = waiting;
        done.into_iter().map(|(_, asker)| (asker, Ok(Reply::Done {}), Vec::new())).collect()
    }

    /// Lines dropped since the daemon was last told, not too often.
    pub(crate) fn take_dropped(&mut self, now: Instant) -> Option<Dropped> {
        if self.dropped_told.is_some_and(|told| now < told + TELL_EVERY) {
            return None;
        }
        let dropped = self.streams.log.as_mut()?.take_dropped()?;
        self.dropped_told = Some(now);
        Some(dropped)
    }

    /// Closes what is left of it. An init that was never started ends: it has nobody any more.
    pub(crate) fn forget(&mut self, poller: &Poller) -> Result<(), Refusal> {
        match self.phase {
            ContainerPhase::Running { .. } if self.exit.is_none() && !self.has_ended() => {
                return Err(Refusal::state(&self.id, "runs"));
            }
            ContainerPhase::Creating | ContainerPhase::Created => {
                self.spawning.iter().for_each(Spawning::kill);
            }
            ContainerPhase::Running { .. } | ContainerPhase::Exited { .. } => {}
        }
        self.forgotten = true;
        self.streams.close(poller);
        Ok(())
    }

    /// Whether its init has ended, though that was not noticed yet.
    fn has_ended(&self) -> bool {
        let ended =
            |pidfd: &OwnedFd| matches!(wait(pidfd.as_fd(), WaitIdOptions::NOWAIT), Ok(Some(_)));
        self.pidfd.as_ref().is_some_and(ended)
    }

    /// Whether the daemon still hears of it.
    pub(crate) fn is_known(&self) -> bool {
        !self.forgotten
    }

    /// Whether nothing is left to do for it.
    pub(crate) fn is_over(&self) -> bool {
        self.forgotten
            && self.spawning.is_none()
            && (self.pidfd.is_none() || self.exit.is_some())
            && self.streams.is_complete()
    }

    /// Whether a process of it lives, or may.
    pub(crate) fn is_alive(&self) -> bool {
        self.exit.is_none() && (self.pidfd.is_some() || self.spawning.is_some())
    }

    /// What the keeper knows of it. A pidfd of its init, if that lives, is added to `fds`.
    pub(crate) fn status(&self, with_log: bool, fds: &mut Vec<OwnedFd>) -> ContainerStatus {
        let copy = self.pidfd.as_ref().and_then(|pidfd| duplicate(pidfd).ok());
        let place = copy.is_some().then_some(fds.len() as u32);
        fds.extend(copy);
        ContainerStatus {
            id: self.id.clone(),
            pid: self.pid,
            pidfd: place,
            state: self.phase.clone(),
            log: self.streams.log.as_ref().filter(|_| with_log).map(Log::stats),
        }
    }

    /// When to look at it again though nothing happens.
    pub(crate) fn deadline(&self, telling: bool) -> Option<Instant> {
        let untold = self.streams.log.as_ref().is_some_and(Log::has_dropped);
        let tell = self.dropped_told.filter(|_| telling && untold).map(|told| told + TELL_EVERY);
        [self.streams.deadline(), tell].into_iter().flatten().min()
    }
}

/// Whether a child has ended, and how. One that has asked to be traced (PTRACE_TRACEME) is told to its
/// parent whenever it stops, too, whatever is asked for.
fn wait(pidfd: BorrowedFd<'_>, more: WaitIdOptions) -> rustix::io::Result<Option<WaitIdStatus>> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | more;
    let status = rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(pidfd), options))?;
    Ok(status.filter(|status| status.exited() || status.killed() || status.dumped()))
}

/// How a child has ended; none if it has not, or another process traces it.
pub(crate) fn reap(pidfd: BorrowedFd<'_>) -> Option<ExitStatus> {
    let at = Timestamp::now();
    let status = match wait(pidfd, WaitIdOptions::empty()) {
        Ok(status) => status?,
        // Nobody else waits for it. If it happened, this would be an end that nobody saw.
        Err(_) => return Some(ExitStatus { code: 255, signal: None, at }),
    };
    let signal = status.terminating_signal();
    let code = match (status.exit_status(), signal) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 255,
    };
    Some(ExitStatus { code, signal, at })
}
