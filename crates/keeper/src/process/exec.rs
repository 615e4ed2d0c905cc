//! One more process in a container, seen from the keeper. Its streams are the daemon's own.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use executor::launch::{Onlookers, Progress, Spawning, spawn_exec};
use executor::plan::ExecLaunch;
use executor::{Failure, Step};
use model::ContainerId;
use rustix::io::retry_on_intr;
use rustix::process::{WaitId, WaitIdOptions, waitid};

use crate::process::connection::Asker;
use crate::process::container::{Due, reap};
use crate::process::poller::{Kind, Poller, Token};
use crate::process::streams::duplicate;
use crate::protocol::{ExecStatus, ExitStatus, Refusal, Reply};

/// How long a brief command may take before its start is told, and its output read: twice what one of a
/// probe takes where processors are slow, and no longer than a writer can be kept waiting.
const BRIEF: Duration = Duration::from_millis(20);

/// An exec.
#[derive(Debug)]
pub(crate) struct Exec {
    serial: u32,
    container: ContainerId,
    spawning: Option<Spawning>,
    asker: Option<Asker>,
    pid: u32,
    pidfd: Option<OwnedFd>,
    terminal: Option<OwnedFd>,
    /// When it is looked at though nothing was heard of it: until then its end alone is waited for, and
    /// what it says on its way can be read with that.
    brief: Option<Instant>,
    /// It was made where the container's processes could see it, because none of them can look into it.
    inside: bool,
    /// execve(2) has succeeded or failed, as far as is known here. A process can end before: the
    /// last word comes only when those that helped it into the world have ended too.
    settled: bool,
    /// execve(2) has failed.
    failed: bool,
    /// The daemon was told that it runs, and must be told that it does not any more.
    executed: bool,
}

impl Exec {
    /// Begins to make the process.
    pub(crate) fn start(
        serial: u32,
        container: ContainerId,
        (launch, table): (&ExecLaunch, Vec<OwnedFd>),
        onlookers: Onlookers,
        brief: bool,
        (asker, poller): (Asker, &Poller),
    ) -> Result<Self, Refusal> {
        let spawning = spawn_exec(launch, table, onlookers).map_err(Refusal::Launch)?;
        let brief = brief && spawning.waits_for_nobody();
        let watched = match brief {
            true => poller.end(&spawning.maker().pidfd, Token::new(Kind::ExecEnd, serial)),
            false => watch(&spawning, serial, poller),
        };
        if let Err(errno) = watched {
            // It has hardly begun, and its end is not long in coming.
            spawning.kill();
            let ended = WaitId::PidFd(spawning.maker().pidfd.as_fd());
            let _reaped = retry_on_intr(|| waitid(ended.clone(), WaitIdOptions::EXITED));
            return Err(Refusal::Launch(Failure::new(Step::Clone, errno)));
        }
        let pid = if brief { spawning.first().as_raw_nonzero().get().unsigned_abs() } else { 0 };
        Ok(Self {
            serial,
            container,
            spawning: Some(spawning),
            asker: Some(asker),
            pid,
            pidfd: None,
            terminal: None,
            brief: brief.then(|| Instant::now() + BRIEF),
            inside: onlookers == Onlookers::None,
            settled: false,
            failed: false,
            executed: false,
        })
    }

    /// When its start is told, however soon its end may come.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.brief
    }

    /// The child says how far it is, or has ended, or takes longer than a moment. Gives the answer that is
    /// due, and how the process ended if the daemon thinks that it runs.
    pub(crate) fn advance(
        &mut self,
        ended: bool,
        poller: &Poller,
    ) -> (Option<Due>, Option<ExitStatus>) {
        let was_brief = self.brief.take().is_some();
        if let Some(spawning) = &self.spawning {
            match was_brief {
                true => poller.ignore(&spawning.maker().pidfd),
                false => poller.ignore(spawning.as_fd()),
            }
        }
        let over = was_brief && ended;
        let mut due = self.advance_launch(over, poller);
        let Some(pidfd) = self.pidfd.take() else { return (due, None) };
        let exit = if self.settled { reap(pidfd.as_fd()) } else { None };
        match exit {
            Some(_) => poller.ignore(&pidfd),
            None => self.pidfd = Some(pidfd),
        }
        if over && self.settled {
            let answer = match exit {
                Some(exit) => self.answer(Ok(Reply::Executed { exit })),
                // Somebody traces it.
                None => self.answer_executing(),
            };
            due = answer.or(due);
        }
        (due, exit.filter(|_| self.executed))
    }

    /// Where the process is `over` its end is the answer, and not its start.
    fn advance_launch(&mut self, over: bool, poller: &Poller) -> Option<Due> {
        let mut due = None;
        let mut spawning = self.spawning.take()?;
        loop {
            match spawning.advance() {
                Progress::Pending => {
                    if watch(&spawning, self.serial, poller).is_err() {
                        spawning.kill();
                        // Nothing else will tell of its end.
                        self.brief = Some(Instant::now() + BRIEF);
                    }
                    self.spawning = Some(spawning);
                    return due;
                }
                // None of ours halts.
                Progress::Assembled => {}
                Progress::Waiting(waiting) => {
                    self.pid = waiting.pid.as_raw_nonzero().get().unsigned_abs();
                    let token = Token::new(Kind::ExecEnd, self.serial);
                    if poller.end(&waiting.pidfd, token).is_err() {
                        spawning.kill();
                    }
                    self.pidfd = Some(waiting.pidfd);
                    self.terminal = waiting.terminal;
                }
                Progress::Executed => {
                    self.settled = true;
                    if !over {
                        due = self.answer_executing().or(due);
                    }
                }
                Progress::Failed(failure) => {
                    (self.settled, self.failed) = (true, true);
                    due = self.answer(Err(Refusal::Launch(failure))).or(due)
                }
                Progress::Done => return due,
            }
        }
    }

    fn answer_executing(&mut self) -> Option<Due> {
        let copy = self.pidfd.as_ref().and_then(|pidfd| duplicate(pidfd).ok());
        let Some(copy) = copy else {
            let refused = Refusal::kernel("hand over the process")(rustix::io::Errno::MFILE);
            return self.answer(Err(refused));
        };
        let fds = std::iter::once(copy).chain(self.terminal.take()).collect();
        let asker = self.asker.take()?;
        self.executed = true;
        Some((asker, Ok(Reply::Executing { exec: self.serial, pid: self.pid }), fds))
    }

    fn answer(&mut self, result: Result<Reply, Refusal>) -> Option<Due> {
        self.terminal = None;
        self.asker.take().map(|asker| (asker, result, Vec::new()))
    }

    /// Whether a container that can look into others must not start yet: there is, or may be, a process
    /// on its way to its program, or out again, with more than that will have.
    pub(crate) fn has_to_hide(&self) -> bool {
        self.inside && (self.spawning.is_some() || self.failed && self.pidfd.is_some())
    }

    /// Ends a process that is on its way.
    pub(crate) fn break_off(&self) {
        if let Some(spawning) = &self.spawning {
            spawning.kill();
        }
    }

    /// Whether its process lives, or may; those that helped it into the world can take longer.
    pub(crate) fn is_alive(&self) -> bool {
        self.pidfd.is_some() || self.asker.is_some()
    }

    /// Whether nothing is left to do for it.
    pub(crate) fn is_over(&self) -> bool {
        self.spawning.is_none() && self.pidfd.is_none()
    }

    pub(crate) fn status(&self) -> ExecStatus {
        ExecStatus { exec: self.serial, container: self.container.clone(), pid: self.pid }
    }
}

/// Watches a process on its way, no closer than need be.
fn watch(spawning: &Spawning, serial: u32, poller: &Poller) -> rustix::io::Result<()> {
    let token = Token::new(Kind::ExecLaunch, serial);
    if spawning.waits_for_nobody() {
        poller.closing(spawning.as_fd(), token)
    } else {
        poller.readable(spawning.as_fd(), token)
    }
}
