//! The way of a container's first process, from clone3 to the last stretch.
//!
//! ```text
//!   PID namespace  user namespace
//!   new, keeper's  -      one process: assembles, becomes, departs
//!   new            yes    several: see `user`
//!   keeper's       yes    one process: assembles, enters the user namespace, becomes, departs
//!   joined         any    a maker outside the PID namespace assembles, enters all else, becomes,
//!                         and sends a sibling with empty hands into it: see `entry`
//! ```

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, FileType, Mode, OFlags, Uid, fchown, fstat, openat};
use rustix::io::{self, Errno, fcntl_dupfd_cloexec};
use rustix::process::{DumpableBehavior, set_dumpable_behavior, umask};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use rustix::system::{setdomainname, sethostname};
use rustix::termios::isatty;
use rustix::thread::{Gid, ThreadNameSpaceType};
use sys::clone::{Signals, start_session};
use sys::memory::Spans;
use sys::namespace::{enter, unshare};

use super::contents::read_plan;
use super::descriptors::Kept;
use super::entry::{Entry, Layout, prologue};
use super::identity::{Lock, assume, assume_root, write};
use super::memory::withhold;
use super::path::Owner;
use super::terminal::Terminal;
use super::tree::{Processes, Tree};
use super::{node, report, user};
use crate::failure::{During, Failure, Step};
use crate::plan::{
    Alone, Create, Handle, IdRange, Launch, Namespace, Placement, Plan, Process, Stdio,
    UserNamespace,
};

/// What every process of a launch works with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) launch: &'a Launch,
    pub(super) plan: &'a Plan,
    pub(super) table: &'a [OwnedFd],
    pub(super) report: &'a OwnedFd,
    /// The keeper's procfs: the host's processes, and a `self` that no container can swap.
    pub(super) procfs: BorrowedFd<'a>,
}

/// Where standard input, output and error come from.
#[derive(Debug)]
pub(super) enum Streams<'a> {
    /// Three files.
    Files([BorrowedFd<'a>; 3]),
    /// The container's end of a terminal.
    Terminal(OwnedFd),
}

/// Leaves behind what the keeper has set for itself, the effect of `changed` signals among it.
pub(super) fn quiet(changed: Signals) {
    // Files below /proc/PID belong to root then, and no core is written.
    let _cannot_fail = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    sys::clone::reset_signals(changed);
}

/// Runs the process that was cloned for `launch`. Returns only on failure, or where it has made
/// others that go on.
pub(super) fn run(launch: &Launch, table: &[OwnedFd], report: &OwnedFd) -> Result<(), Failure> {
    sys::clone::unblock_signals();
    // What is made here has the mode that is asked for.
    umask(Mode::empty());
    place(&launch.cgroup, table)?;
    let procfs = open_procfs()?;
    let plan: Plan = read_plan(launch.plan, table)?;
    let context = Context { launch, plan: &plan, table, report, procfs: procfs.as_fd() };
    join_namespaces(&context)?;
    match (&launch.user, launch.namespaces.pid) {
        (Some(user), Namespace::New) => user::run(&context, user),
        (user, pid) => {
            if launch.namespaces.cgroup == Namespace::New {
                unshare(ThreadNameSpaceType::CONTROL_GROUP)
                    .during_of(Step::NewNamespace, "cgroup")?;
            }
            let processes = match pid {
                Namespace::Join(handle) => {
                    Processes::Of(handle.of(table).during_of(Step::Handle, "pid")?)
                }
                Namespace::New | Namespace::Inherit => Processes::Own,
            };
            let streams = assemble(&context, processes)?;
            if let Processes::Of(namespace) = processes {
                // The next child becomes a member, and not the caller.
                enter(namespace, ThreadNameSpaceType::PROCESS_ID)
                    .during_of(Step::JoinNamespace, "pid")?;
            }
            if let Some(user) = user {
                lock_in(user, table)?;
            }
            match pid {
                Namespace::Join(_) => send(&plan.process, &streams, &context),
                Namespace::New | Namespace::Inherit => depart(&plan.process, &streams, &context),
            }
        }
    }
}

/// Moves the calling process into its v1 cgroups.
pub(super) fn place(placement: &Placement, table: &[OwnedFd]) -> Result<(), Failure> {
    let Placement::V1(files) = placement else { return Ok(()) };
    for (index, handle) in files.iter().enumerate() {
        let file = handle.of(table).during(Step::Placement)?;
        // Zero is whoever writes.
        io::retry_on_intr(|| io::write(file, b"0"))
            .during_of(Step::Placement, format_args!("hierarchy {index}"))?;
    }
    Ok(())
}

pub(super) fn open_procfs() -> Result<OwnedFd, Failure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, c"/proc", flags, Mode::empty()).during(Step::Procfs)
}

fn join_namespaces(context: &Context<'_>) -> Result<(), Failure> {
    let spaces = &context.launch.namespaces;
    let kinds = [
        (spaces.net, ThreadNameSpaceType::NETWORK, "net"),
        (spaces.ipc, ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION, "ipc"),
        (spaces.uts, ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME, "uts"),
        (spaces.cgroup, ThreadNameSpaceType::CONTROL_GROUP, "cgroup"),
    ];
    for (space, kind, name) in kinds {
        if let Namespace::Join(handle) = space {
            let namespace = handle.of(context.table).during_of(Step::Handle, name)?;
            enter(namespace, kind).during_of(Step::JoinNamespace, name)?;
        }
    }
    Ok(())
}

/// Makes the container's tree and everything in it, and makes it the root. The caller is in the
/// host's user namespace and in a mount namespace of its own.
pub(super) fn assemble<'a>(
    context: &Context<'a>,
    processes: Processes<'_>,
) -> Result<Streams<'a>, Failure> {
    let &Context { launch, plan, table, procfs, .. } = context;
    let owner = outside(launch.user.as_ref(), 0, 0)?;
    let mut tree = Tree::begin(plan, launch.alone.stage.as_deref(), table, owner)?;
    let below = tree.below();
    for volume in &plan.root.volumes {
        tree.keep_writable(volume, &plan.root)?;
    }
    for mount in &plan.mounts {
        tree.mount(mount, processes)?;
    }
    for device in &plan.devices {
        node::device(&below, device, table)?;
    }
    for link in &plan.links {
        node::link(&below, link)?;
    }
    for (name, value) in &plan.sysctls {
        write(procfs, &format!("sys/{name}"), value.as_bytes()).during_of(Step::Sysctl, name)?;
    }
    name_host(plan)?;
    let user = outside(launch.user.as_ref(), plan.process.uid, 0)?.uid;
    let streams = match launch.stdio {
        Stdio::Files(handles) => Streams::Files(files(handles, table, user)?),
        Stdio::Terminal(window) => {
            let terminal = Terminal::open(&below, procfs, window).during(Step::Terminal)?;
            terminal.become_console(&below).during_of(Step::Terminal, "/dev/console")?;
            give(terminal.slave.as_fd(), user);
            report::terminal(context.report.as_fd(), terminal.master.as_fd())
                .during(Step::Report)?;
            Streams::Terminal(terminal.slave)
        }
    };
    let cwd = &plan.process.cwd;
    below.find_or_make(cwd, Create::Directory).during_of(Step::MakeWorkingDirectory, cwd)?;
    tree.hide(plan)?;
    if launch.alone.halts {
        halt(context.report.as_fd()).during(Step::Report)?;
    }
    tree.close(&plan.root)?;
    tree.enter(&plan.root)?;
    Ok(streams)
}

/// Waits while the maker runs others' programs.
fn halt(report: BorrowedFd<'_>) -> io::Result<()> {
    report::assembled(report)?;
    if report::wait(report) { Ok(()) } else { Err(Errno::PIPE) }
}

fn name_host(plan: &Plan) -> Result<(), Failure> {
    if let Some(name) = &plan.hostname {
        sethostname(name.as_bytes()).during_of(Step::Hostname, name)?;
    }
    if let Some(name) = &plan.domainname {
        setdomainname(name.as_bytes()).during_of(Step::Hostname, name)?;
    }
    Ok(())
}

/// The container's `uid` and `gid` in the host's numbers.
fn outside(user: Option<&UserNamespace>, uid: u32, gid: u32) -> Result<Owner, Failure> {
    let Some(user) = user else { return Ok(Owner { uid, gid }) };
    let unmapped = |id: u32| Failure::of(Step::MapIds, id.to_string(), Errno::OVERFLOW);
    Ok(Owner {
        uid: IdRange::outside_of(&user.uids, uid).ok_or_else(|| unmapped(uid))?,
        gid: IdRange::outside_of(&user.gids, gid).ok_or_else(|| unmapped(gid))?,
    })
}

/// The container's `uid` in the host's numbers, for what is done before the namespace is entered.
pub(super) fn outside_uid(user: Option<&UserNamespace>, uid: u32) -> Result<u32, Failure> {
    Ok(outside(user, uid, 0)?.uid)
}

/// The files that become the standard streams, given to `user`.
pub(super) fn files<'a>(
    handles: [Handle; 3],
    table: &'a [OwnedFd],
    user: u32,
) -> Result<[BorrowedFd<'a>; 3], Failure> {
    let file = |handle: Handle| handle.of(table).during_of(Step::Handle, "the standard streams");
    let files = [file(handles[0])?, file(handles[1])?, file(handles[2])?];
    for file in files {
        give(file, user);
    }
    Ok(files)
}

/// Gives a pipe, a socket or a terminal to `user`, so that it can be opened again by its name in
/// /proc/self/fd. Where that is not ours to do it stays as it is.
pub(super) fn give(file: BorrowedFd<'_>, user: u32) {
    let Ok(stat) = fstat(file) else { return };
    if stat.st_uid == user {
        return;
    }
    let ours = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Fifo | FileType::Socket => true,
        FileType::CharacterDevice => isatty(file),
        _ => false,
    };
    if ours {
        let _not_ours = fchown(file, Some(Uid::from_raw(user)), None);
    }
}

/// Enters the user namespace, and a copy of the mount namespace that it owns: what was mounted from
/// outside is locked in that.
pub(super) fn lock_in(user: &UserNamespace, table: &[OwnedFd]) -> Result<(), Failure> {
    let namespace = user.namespace.of(table).during_of(Step::Handle, "user")?;
    enter(namespace, ThreadNameSpaceType::USER).during_of(Step::JoinNamespace, "user")?;
    assume_root();
    unshare(ThreadNameSpaceType::MOUNT).during_of(Step::NewNamespace, "mnt")
}

/// Who goes the last stretch.
#[derive(Debug)]
enum Traveller {
    /// The calling process, which may have to wait until it is let go.
    Itself { waits: bool },
    /// A sibling with empty hands, into the PID namespace that was joined for children; born without
    /// these.
    Sibling(Spans),
}

/// The last stretch, as far as it can be prepared before anything is known of where it goes.
#[derive(Debug)]
pub(super) struct Departure {
    lock: Lock,
    groups: Vec<Gid>,
    entry: Layout,
    traveller: Traveller,
}

impl Departure {
    /// For the calling process, which `waits` until it is let go.
    pub(super) fn of_itself(
        process: &Process,
        alone: &Alone,
        terminal: bool,
        table: &[OwnedFd],
        waits: bool,
    ) -> Result<Self, Failure> {
        let lock = Lock::of(process, table, &[])?;
        let entry = Entry::lay_out(process, alone, terminal, 0)?;
        let groups = groups_of(process);
        Ok(Self { lock, groups, entry, traveller: Traveller::Itself { waits } })
    }

    /// For a sibling.
    pub(super) fn of_sibling(
        process: &Process,
        alone: &Alone,
        terminal: bool,
        table: &[OwnedFd],
    ) -> Result<Self, Failure> {
        let mark = random().during(Step::Memory)?;
        let lock = Lock::of(process, table, &prologue(mark))?;
        let entry = Entry::lay_out(process, alone, terminal, mark)?;
        let traveller = Traveller::Sibling(Spans::all_but(entry.region()));
        Ok(Self { lock, groups: groups_of(process), entry, traveller })
    }

    /// Goes it. Returns only on failure.
    pub(super) fn go(
        &self,
        process: &Process,
        alone: &Alone,
        streams: &Streams<'_>,
        table: &[OwnedFd],
        report: &OwnedFd,
        procfs: BorrowedFd<'_>,
    ) -> Result<(), Failure> {
        install(streams).during(Step::Stdio)?;
        if let Traveller::Itself { .. } = self.traveller {
            start_session(is_terminal(streams), 0).during(Step::Session)?;
        }
        assume(process, &self.groups, alone.keep_keyring, procfs)?;
        match &self.traveller {
            Traveller::Itself { .. } => sys::clone::unblock_signals(),
            Traveller::Sibling(withheld) => withhold(withheld).during(Step::Memory)?,
        }
        let kept = Kept::of(process, alone, report, table)?;
        kept.close_others().during(Step::Stdio)?;
        match self.traveller {
            Traveller::Itself { waits } => self.entry.depart(&self.lock, waits),
            Traveller::Sibling(_) => self.entry.send(&self.lock),
        }
    }
}

fn groups_of(process: &Process) -> Vec<Gid> {
    process.groups.iter().copied().map(Gid::from_raw).collect()
}

/// Goes the last stretch as the first process of a container.
pub(super) fn depart(
    process: &Process,
    streams: &Streams<'_>,
    context: &Context<'_>,
) -> Result<(), Failure> {
    let Context { launch: Launch { alone, .. }, table, report, procfs, .. } = *context;
    let departure = Departure::of_itself(process, alone, is_terminal(streams), table, true)?;
    departure.go(process, alone, streams, table, report, procfs)
}

/// Sends the first process of a container the last stretch, into another's PID namespace.
fn send(process: &Process, streams: &Streams<'_>, context: &Context<'_>) -> Result<(), Failure> {
    let Context { launch: Launch { alone, .. }, table, report, procfs, .. } = *context;
    let departure = Departure::of_sibling(process, alone, is_terminal(streams), table)?;
    departure.go(process, alone, streams, table, report, procfs)
}

fn is_terminal(streams: &Streams<'_>) -> bool {
    matches!(streams, Streams::Terminal(_))
}

fn install(streams: &Streams<'_>) -> io::Result<()> {
    let sources = match streams {
        Streams::Files(files) => *files,
        Streams::Terminal(slave) => [slave.as_fd(); 3],
    };
    if sources.iter().all(|file| file.as_raw_fd() > 2) {
        return replace(sources);
    }
    // Above what they are about to replace.
    let above = |file: BorrowedFd<'_>| fcntl_dupfd_cloexec(file, 3);
    let copies = [above(sources[0])?, above(sources[1])?, above(sources[2])?];
    replace(copies.each_ref().map(AsFd::as_fd))
}

/// Makes files that are none of them the standard streams.
fn replace([input, output, error]: [BorrowedFd<'_>; 3]) -> io::Result<()> {
    dup2_stdin(input)?;
    dup2_stdout(output)?;
    dup2_stderr(error)
}

fn random() -> io::Result<usize> {
    let mut bytes = [0_u8; size_of::<usize>()];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(usize::from_ne_bytes(bytes))
}
