//! Making a container, up to its first process, which waits.
//!
//! ```text
//!   name and lock ─ record ─ cgroup, limits ─ prepare ─ spawn ─ hooks ─ record its process ─ let go
//! ```
//!
//! Killed at any point, the maker leaves a process that ends by itself: until its number is in the
//! record it waits at a socket that the maker holds. A failure undoes all of it.

use std::os::fd::{AsFd, OwnedFd};

use cgroup::Attachment;
use executor::launch::{Progress, Spawning, Waiting, spawn};
use executor::plan::{Gate, Launch};
use executor::prepare::{
    CgroupView, Filter, Inputs, OverlayWay, Prepared, RootSource, prepare, sealed,
};
use rustix::event::{PollFd, PollFlags, poll};

use crate::bundle::{Bundle, add_home};
use crate::cli;
use crate::container::{Container, Status};
use crate::delete::destroy;
use crate::failure::Failure;
use crate::gate;
use crate::hooks::{Hooks, Inside};
use crate::log::Log;
use crate::namespaces::{self, Namespaces};
use crate::record::{Identity, Place, Record, Store};
use crate::streams::{self, Console, Preserved};

/// Where and how a command works.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Desk<'a> {
    /// The records.
    pub(crate) store: &'a Store,
    /// What is told.
    pub(crate) log: &'a Log,
}

/// A container whose first process waits for its maker, or for the gate.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) container: Container,
    pub(crate) place: Place,
    pub(crate) spawning: Spawning,
    /// The first process.
    pub(crate) process: OwnedFd,
    /// The other end of its terminal, where it is to be relayed.
    pub(crate) terminal: Option<OwnedFd>,
}

/// What is asked for beside the bundle.
#[derive(Debug)]
pub(crate) struct Wish<'a> {
    pub(crate) flags: &'a cli::Create,
    pub(crate) preserved: Preserved,
    /// Whether another process lets it go on.
    pub(crate) gated: bool,
    /// Whether the maker stays with it.
    pub(crate) stays: bool,
}

/// Makes a container.
pub(crate) fn make(desk: Desk<'_>, wish: Wish<'_>) -> Result<Made, Failure> {
    let flags = wish.flags;
    if flags.no_pivot {
        return Err(Failure::Flag {
            flag: "--no-pivot",
            reason: "without pivot_root(2) the old root stays in reach; run from a root that can be \
                     pivoted",
        });
    }
    let mut bundle = Bundle::load(&flags.bundle)?;
    let cgroup = bundle.complete(&flags.id)?;
    let Bundle { path, rootfs, spec } = bundle;
    let terminal = spec.process().as_ref().and_then(|it| it.terminal()).unwrap_or_default();
    let console = streams::console(terminal, wish.stays, flags.console_socket.as_deref())?;
    let record = Record::new(&flags.id, path, rootfs, &cgroup, spec)?;
    let container = Container::of(record)?;
    let place = desk.store.reserve(&flags.id)?;
    let mut maker = Maker { desk, place: &place, container, console, wish };
    match maker.make() {
        Ok((spawning, process, terminal)) => {
            let container = maker.container;
            Ok(Made { container, place, spawning, process, terminal })
        }
        Err(failure) => {
            let container = maker.container;
            Err(undo(desk, failure, &container, place))
        }
    }
}

/// Removes what there is of a container that could not be made or started. The first failure is the
/// one to tell.
pub(crate) fn undo(
    desk: Desk<'_>,
    failure: Failure,
    container: &Container,
    place: Place,
) -> Failure {
    if let Err(second) = destroy(desk, container, place) {
        desk.log.warn(&second.line());
    }
    failure
}

struct Maker<'a> {
    desk: Desk<'a>,
    place: &'a Place,
    container: Container,
    console: Console,
    wish: Wish<'a>,
}

impl Maker<'_> {
    fn make(&mut self) -> Result<(Spawning, OwnedFd, Option<OwnedFd>), Failure> {
        self.place.write(&self.container.record)?;
        let attachment = self.make_cgroup()?;
        self.desk.log.debug("the cgroup is made");
        let mut spec = self.container.record.spec.clone();
        if let Some(process) = spec.process_mut() {
            add_home(process, &self.container.record.rootfs)?;
            self.wish.preserved.announce(process);
        }
        let namespaces = Namespaces::of(spec)?;
        let prepared = self.prepare(attachment, &namespaces)?;
        let spawned = namespaces.within(|| spawn(&prepared.launch, prepared.descriptors))?;
        let spawning = spawned.map_err(|source| self.failed(source))?;
        self.desk.log.debug("the first process is on its way");
        if namespaces.has_new_network() {
            let maker = spawning.maker().pidfd.as_fd();
            namespaces::in_network_of(maker, sys::loopback::bring_up)?
                .map_err(Failure::kernel("bring up the loopback link"))?;
        }
        let (spawning, waiting) = self.await_first(spawning)?;
        for refused in &waiting.refused {
            let id = &self.container.record.id;
            let cause = refused.errno;
            self.desk
                .log
                .warn(&format!("container {id:?}: {refused}: {cause}; as near as allowed"));
        }
        let pid = waiting.pid.as_raw_nonzero().get();
        self.container.record.init = Identity::of(pid);
        self.place.write(&self.container.record)?;
        let mut terminal = waiting.terminal;
        if let (Console::Socket(socket), Some(other_end)) = (&self.console, &terminal) {
            streams::send(socket, other_end.as_fd())?;
            terminal = None;
        }
        streams::write_pid(self.wish.flags.pid_file.as_ref(), pid)?;
        Ok((spawning, waiting.pidfd, terminal))
    }

    fn make_cgroup(&self) -> Result<Attachment, Failure> {
        let Container { record, cgroup } = &self.container;
        let id = &record.id;
        // Whatever is in it would be limited, frozen and killed with the container.
        if cgroup.exists() && !cgroup.is_empty().map_err(Failure::cgroup(id, "read"))? {
            return Err(Failure::CgroupTaken { id: id.clone(), path: record.cgroup.clone() });
        }
        cgroup.hierarchy().create(cgroup.path()).map_err(Failure::cgroup(id, "made"))?;
        if let Some(resources) = record.spec.linux().as_ref().and_then(|it| it.resources().as_ref())
        {
            cgroup.apply(resources).map_err(Failure::cgroup(id, "limited"))?;
        }
        cgroup.attachment().map_err(Failure::cgroup(id, "opened"))
    }

    fn prepare(
        &mut self,
        cgroup: Attachment,
        namespaces: &Namespaces,
    ) -> Result<Prepared<Launch>, Failure> {
        let record = &self.container.record;
        let unprepared = |source| Failure::Prepare { id: record.id.clone(), source };
        let program = filter(record)?;
        let seccomp = program
            .as_ref()
            .map(|(program, flags)| Filter { program: program.as_fd(), flags: *flags });
        let process = record.spec.process().clone().unwrap_or_default();
        let inputs = Inputs {
            volumes: &[],
            root: RootSource::Directory(&record.rootfs),
            overlay: OverlayWay::Attached,
            cgroup_view: &CgroupView::detect().map_err(unprepared)?,
            keeper_namespaces: &namespaces.own_paths(),
            user_namespace: namespaces.user(),
            pod_shm: None,
            cgroup: Some(cgroup),
            stdio: streams::stdio(&process, &self.console)?,
            seccomp,
        };
        let mut prepared = prepare(namespaces.spec(), inputs).map_err(unprepared)?;
        if self.wish.gated {
            let [go, word] = gate::make(self.place.path())?;
            let gate = Gate { go: prepared.add(go), word: prepared.add(word) };
            prepared.launch.alone.gate = Some(gate);
        }
        if Hooks::of(&record.spec).want_halt() {
            prepared.launch.alone.halts = true;
            prepared.launch.alone.stage = Some(record.rootfs.to_string_lossy().into_owned());
        }
        for file in std::mem::take(&mut self.wish.preserved.files) {
            let handle = prepared.add(file);
            prepared.launch.alone.preserved.push(handle);
        }
        prepared.launch.alone.keep_keyring = self.wish.flags.no_new_keyring;
        Ok(prepared)
    }

    /// Waits until all is done but the program, with the hooks of its creation on the way.
    fn await_first(&self, mut spawning: Spawning) -> Result<(Spawning, Waiting), Failure> {
        loop {
            match next(&mut spawning)? {
                Progress::Waiting(waiting) => return Ok((spawning, waiting)),
                Progress::Assembled => {
                    if let Err(failure) = self.run_hooks(&spawning) {
                        spawning.kill();
                        drain(&mut spawning)?;
                        return Err(failure);
                    }
                    // Where it has ended meanwhile, that is told next.
                    let _ended = spawning.release();
                }
                Progress::Failed(source) => {
                    drain(&mut spawning)?;
                    return Err(self.failed(source));
                }
                Progress::Pending | Progress::Executed | Progress::Done => {}
            }
        }
    }

    fn run_hooks(&self, spawning: &Spawning) -> Result<(), Failure> {
        let hooks = Hooks::of(&self.container.record.spec);
        let pid = spawning.init().pid.as_raw_nonzero().get();
        let state = self.container.state(Status::Creating, pid);
        let (maker, init) = (spawning.maker().pidfd.as_fd(), spawning.init().pidfd.as_fd());
        let pid = number_inside(pid);
        hooks.of_creation(&self.container.record, &state, Inside { maker, init, pid })
    }

    fn failed(&self, source: executor::Failure) -> Failure {
        let id = self.container.record.id.clone();
        Failure::Launch { id, what: "its first process", source }
    }
}

/// The number of a process in its own PID namespace; the one here, where it has ended.
pub(crate) fn number_inside(pid: i32) -> i32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    line.and_then(|line| line.split_whitespace().last()?.parse().ok()).unwrap_or(pid)
}

/// A container's system call filter as a sealed file, and its flags.
pub(crate) fn filter(record: &Record) -> Result<Option<(OwnedFd, u32)>, Failure> {
    let id = || record.id.clone();
    let profile = record.spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let Some(profile) = profile else { return Ok(None) };
    let program =
        seccomp::compile(profile).map_err(|source| Failure::Seccomp { id: id(), source })?;
    let file = sealed("seccomp", program.as_bytes())
        .map_err(|source| Failure::Prepare { id: id(), source })?;
    Ok(Some((file, program.flags())))
}

/// Waits for what becomes of a process on its way.
pub(crate) fn next(spawning: &mut Spawning) -> Result<Progress, Failure> {
    loop {
        match spawning.advance() {
            Progress::Pending => {}
            other => return Ok(other),
        }
        let mut polled = [PollFd::new(spawning, PollFlags::IN)];
        rustix::io::retry_on_intr(|| poll(&mut polled, None))
            .map_err(Failure::kernel("wait for the process"))?;
    }
}

/// Waits until nothing is left of one that failed.
pub(crate) fn drain(spawning: &mut Spawning) -> Result<(), Failure> {
    while !matches!(next(spawning)?, Progress::Done) {}
    Ok(())
}
