//! Carries out a launch: makes the process of a container, or one more process in it.
//!
//! ```text
//!   spawn ──> clone3 ──> the child assembles the root, drops privileges ──> waits ──> execve
//!     │                     │ Terminal, Born                                │ Waiting   │ end of file
//!     v                     v                                               v           v
//!   Spawning ── poll its descriptor, call advance() ──> Pending ... Waiting ──release()──> Executed
//! ```
//!
//! [`spawn`] returns right after clone3: whatever the child then waits for (a hung mount, a slow
//! disk) it waits alone, and the caller's event loop goes on. The container's process is the
//! caller's own child in every case; where others help it into the world ([`child`] says when), the
//! [`Spawning`] reaps those.
//!
//! The caller is a process of one thread, or is refused with `EINVAL`: the child goes on with a copy
//! of its heap, and would wait for ever for what another thread had locked.

mod child;
mod contents;
mod descriptors;
mod enter;
mod entry;
mod hidden;
mod identity;
mod limits;
mod memory;
mod node;
mod path;
mod processes;
mod report;
mod terminal;
mod tree;
mod user;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};
use rustix::thread::ThreadNameSpaceType;
use sys::clone::{Birth, Signals, clone, has_one_thread};
use sys::fork::Child;
use sys::scheduling::is_as_begun;

use self::report::Report;
use crate::failure::{During, Failure, Step};
use crate::plan::{ExecLaunch, Launch, Limits, Namespace, Placement};

/// A process on its way. Dropping it kills what has not been handed out, without waiting for its
/// end: [`Spawning::kill`] and further calls of [`Spawning::advance`] do it properly.
#[derive(Debug)]
pub struct Spawning {
    report: OwnedFd,
    /// The process that was cloned: the container's own, or the one that makes it.
    first: Child,
    /// The container's process, where the first only makes it.
    born: Option<Child>,
    terminal: Option<OwnedFd>,
    limits: Limits,
    release: Release,
    stage: Stage,
    /// What is still to be reaped here.
    remains: Vec<OwnedFd>,
}

/// When a process goes on to execve(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Release {
    /// When [`Spawning::release`] is called.
    WhenAsked,
    /// As soon as it waits and has its limits.
    AtOnce,
    /// It has set its limits itself, and does not wait.
    NotNeeded,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It assembles.
    Assembling,
    /// It waits, or is on its way into execve(2); the caller has its pidfd.
    HandedOut,
    /// It executes its program, or has failed.
    Over,
}

/// What has become of a process on its way.
#[derive(Debug)]
pub enum Progress {
    /// Nothing new: poll again.
    Pending,
    /// All is assembled, and it has halted as its launch asks, until [`Spawning::release`].
    Assembled,
    /// All is done but execve(2). From now on the process is the caller's to reap, whatever
    /// becomes of it.
    Waiting(Waiting),
    /// It executes its program.
    Executed,
    /// It does not, and this is why. All of its processes end.
    Failed(Failure),
    /// Nothing more will come, and nothing is left to reap here.
    Done,
}

/// A process that stands before execve(2).
#[derive(Debug)]
pub struct Waiting {
    /// Its id in the caller's PID namespace.
    pub pid: Pid,
    /// It, and never a later one of the same id.
    pub pidfd: OwnedFd,
    /// The other end of its terminal, where it has one.
    pub terminal: Option<OwnedFd>,
    /// Limits that the kernel refused and that were left as near to it as it allows.
    pub refused: Vec<Failure>,
}

/// What a process behind a [`Gate`](crate::plan::Gate) has written to its word; none where that is
/// no failure.
#[must_use]
pub fn read_word(word: &[u8]) -> Option<Failure> {
    report::read_word(word)
}

/// Starts making a container's first process. It stops before execve(2) until
/// [`Spawning::release`].
///
/// # Errors
/// Whatever is known at once: a missing descriptor, clone3(2) itself. The rest comes from
/// [`Spawning::advance`].
pub fn spawn(launch: &Launch, table: Vec<OwnedFd>) -> Result<Spawning, Failure> {
    let mut namespaces = ThreadNameSpaceType::MOUNT;
    let spaces = &launch.namespaces;
    let kinds = [
        (spaces.net, ThreadNameSpaceType::NETWORK),
        (spaces.ipc, ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION),
        (spaces.uts, ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME),
    ];
    for (_, kind) in kinds.iter().filter(|(space, _)| *space == Namespace::New) {
        namespaces |= *kind;
    }
    // In a user namespace the PID namespace has to be made inside it, or /proc cannot be mounted.
    if spaces.pid == Namespace::New && launch.user.is_none() {
        namespaces |= ThreadNameSpaceType::PROCESS_ID;
    }
    start(namespaces, &launch.cgroup, launch.limits.clone(), Release::WhenAsked, &table, |report| {
        child::run(launch, &table, report)
    })
}

/// Whether a process that enters a container could be looked into by those that are there, before it
/// executes its program: see [`Launch::onlooker`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Onlookers {
    /// No process of its PID namespace can.
    None,
    /// One may.
    Possible,
}

/// Starts making a process in a running container. It goes on to execve(2) by itself:
/// [`Progress::Waiting`] comes as the word that it is about to, or that it was.
///
/// # Errors
/// As for [`spawn`].
pub fn spawn_exec(
    launch: &ExecLaunch,
    table: Vec<OwnedFd>,
    onlookers: Onlookers,
) -> Result<Spawning, Failure> {
    let prepared = enter::Prepared::of(launch, &table, onlookers)?;
    let (release, limits) = match prepared.sets_limits {
        true => (Release::NotNeeded, Limits::default()),
        false => (Release::AtOnce, launch.limits.clone()),
    };
    let _elsewhere = match onlookers {
        Onlookers::None => Some(enter::born_in_container(launch, &table)?),
        Onlookers::Possible => None,
    };
    let none = ThreadNameSpaceType::empty();
    start(none, &launch.cgroup, limits, release, &table, |report| {
        enter::run(launch, &prepared, &table, report)
    })
}

fn start(
    namespaces: ThreadNameSpaceType,
    placement: &Placement,
    limits: Limits,
    release: Release,
    table: &[OwnedFd],
    run: impl FnOnce(&OwnedFd) -> Result<(), Failure>,
) -> Result<Spawning, Failure> {
    let cgroup = match placement {
        Placement::V2(handle) => Some(handle.of(table).during_of(Step::Handle, "the cgroup")?),
        Placement::V1(_) | Placement::Inherit => None,
    };
    if !has_one_thread() {
        return Err(Failure::new(Step::Clone, Errno::INVAL));
    }
    let (ours, theirs) = report::pair(release != Release::NotNeeded).during(Step::Clone)?;
    let birth = Birth { namespaces, cgroup, sibling: false };
    // Asked here, and not where it would be the container's files that answer.
    let (changed, _known) = (Signals::changed(), is_as_begun());
    let body = || {
        child::quiet(changed);
        match run(&theirs) {
            Ok(()) => 0,
            Err(failure) => {
                let target = failure.target.unwrap_or_default();
                report::failed(theirs.as_fd(), failure.step, target.as_bytes(), failure.errno);
                1
            }
        }
    };
    // SAFETY: the process has one thread, as was just asked.
    #[expect(unsafe_code, reason = "the child goes on with a copy of the heap")]
    let first = unsafe { clone(birth, body) }.during(Step::Clone)?;
    Ok(Spawning {
        report: ours,
        first,
        born: None,
        terminal: None,
        limits,
        release,
        stage: Stage::Assembling,
        remains: Vec::new(),
    })
}

impl AsFd for Spawning {
    /// What to poll for readability before [`Spawning::advance`]. It can be another one after each
    /// call of that.
    fn as_fd(&self) -> BorrowedFd<'_> {
        match (self.stage, self.remains.first()) {
            (Stage::Over, Some(pidfd)) => pidfd.as_fd(),
            _ => self.report.as_fd(),
        }
    }
}

impl Spawning {
    /// Whether all that it says can be heard when its descriptor has been closed at the other end: it
    /// waits for no answer.
    #[must_use]
    pub fn waits_for_nobody(&self) -> bool {
        self.release == Release::NotNeeded && self.stage != Stage::Over
    }

    /// The process that was cloned: before [`Progress::Waiting`] the one to blame for load and
    /// memory.
    #[must_use]
    pub fn first(&self) -> Pid {
        self.first.pid
    }

    /// The container's process, as far as it is known; before it is born, the one that makes it.
    #[must_use]
    pub fn init(&self) -> &Child {
        self.born.as_ref().unwrap_or(&self.first)
    }

    /// The process that was cloned, which is in the container's mount namespace from the beginning.
    #[must_use]
    pub fn maker(&self) -> &Child {
        &self.first
    }

    /// Takes what has happened since, without waiting. Call it whenever the descriptor is readable,
    /// until [`Progress::Done`]. A process that was handed out may be seen to end before its
    /// [`Progress::Failed`] is read: drain this first.
    pub fn advance(&mut self) -> Progress {
        if self.stage == Stage::Over {
            return self.reap();
        }
        loop {
            match report::read(self.report.as_fd(), self.first.pid) {
                Ok(Report::Born(pid)) => match pidfd_open(pid, PidfdFlags::empty()) {
                    Ok(pidfd) => self.born = Some(Child { pid, pidfd }),
                    Err(errno) => return self.fail(Failure::new(Step::Report, errno)),
                },
                Ok(Report::Terminal(master)) => self.terminal = Some(master),
                Ok(Report::Assembled) => return Progress::Assembled,
                Ok(Report::Waiting) if self.stage == Stage::Assembling => {
                    return self.hand_out().unwrap_or_else(|failure| self.fail(failure));
                }
                Ok(Report::Waiting) => {}
                Ok(Report::Failed(failure)) => return self.fail(failure),
                Ok(Report::End) if self.stage == Stage::HandedOut => {
                    self.finish();
                    return Progress::Executed;
                }
                Ok(Report::End) => return self.fail(Failure::new(Step::Report, Errno::PIPE)),
                Err(Errno::AGAIN) => return Progress::Pending,
                Err(errno) => return self.fail(Failure::new(Step::Report, errno)),
            }
        }
    }

    /// Lets a process go on that has halted, or waits before execve(2).
    ///
    /// # Errors
    /// `EPIPE` where it has ended meanwhile.
    pub fn release(&self) -> Result<(), Failure> {
        report::release(self.report.as_fd()).during(Step::Report)
    }

    /// Ends all of its processes. [`Spawning::advance`] goes on to say what becomes of them.
    pub fn kill(&self) {
        for child in self.born.iter().chain([&self.first]) {
            let _ended = pidfd_send_signal(&child.pidfd, Signal::KILL);
        }
    }

    fn hand_out(&mut self) -> Result<Progress, Failure> {
        let child = self.born.as_ref().unwrap_or(&self.first);
        let refused = limits::apply(&self.limits, child.pid);
        let pidfd = child.pidfd.try_clone();
        let pidfd = pidfd.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::MFILE));
        let waiting = Waiting {
            pid: child.pid,
            pidfd: pidfd.during(Step::Report)?,
            terminal: self.terminal.take(),
            refused,
        };
        if self.release == Release::AtOnce {
            // Where it has ended, the end of file says so.
            let _ended = report::release(self.report.as_fd());
        }
        self.stage = Stage::HandedOut;
        Ok(Progress::Waiting(waiting))
    }

    fn fail(&mut self, failure: Failure) -> Progress {
        self.kill();
        self.finish();
        Progress::Failed(failure)
    }

    /// Sets aside what is to be reaped here: all that the caller has not been given.
    fn finish(&mut self) {
        let handed_out = self.stage == Stage::HandedOut;
        let helper_only = handed_out && self.born.is_some();
        let everything = !handed_out;
        if helper_only || everything {
            self.remains.extend(self.first.pidfd.try_clone());
        }
        if everything {
            self.remains.extend(
                self.born.as_ref().map(|born| born.pidfd.try_clone()).into_iter().flatten(),
            );
        }
        self.stage = Stage::Over;
    }

    fn reap(&mut self) -> Progress {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        self.remains.retain(|pidfd| {
            matches!(waitid(WaitId::PidFd(pidfd.as_fd()), options), Ok(None) | Err(Errno::INTR))
        });
        if self.remains.is_empty() { Progress::Done } else { Progress::Pending }
    }
}

impl Drop for Spawning {
    fn drop(&mut self) {
        if self.stage == Stage::Assembling {
            self.kill();
        }
    }
}
