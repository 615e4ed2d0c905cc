//! The way of one more process into a running container.
//!
//! ```text
//!   onlookers   born in             joins all else, becomes, loads the filter, and
//!   none        the PID namespace   executes
//!   possible    the keeper's        sends a sibling with empty hands into the PID namespace: see `entry`
//! ```
//!
//! The container is hostile. While the process becomes what it is to be, it has a copy of the keeper's
//! memory and all privileges. It is not dumpable, and no signal but SIGKILL and SIGSTOP reaches it, so
//! that only those in its PID namespace can look into it whom capabilities allow that
//! ([`Launch::onlooker`](crate::plan::Launch::onlooker)); where there are such, it stays out of their
//! sight until its hands are empty. That takes two processes, and a fifth of the time of an exec.
//! What anyone there can do is stop it: it then keeps copies of the pod's descriptors open until it is
//! killed, as it is when its time is up or its container ends.

use std::os::fd::{AsFd, OwnedFd};

use rustix::thread::ThreadNameSpaceType;
use sys::clone::BornElsewhere;
use sys::namespace::enter;

use super::Onlookers;
use super::child::{Departure, Streams, files, give, open_procfs, outside_uid, place};
use super::contents::read_plan;
use super::identity::assume_root;
use super::limits;
use super::path::{Below, Owner, own_root};
use super::report;
use super::terminal::Terminal;
use crate::failure::{During, Failure, Step};
use crate::plan::{ExecLaunch, ExecPlan, Process, Stdio};

/// What is done before the process is cloned: it would do that with code and memory that it has to
/// get first, page by page.
#[derive(Debug)]
pub(super) struct Prepared {
    process: Process,
    departure: Departure,
    onlookers: Onlookers,
    /// What it writes into its oom_score_adj.
    oom_score_adj: Option<String>,
    /// Whether the process sets itself what else would be set from outside while it waits: it can where
    /// it has not given up anything yet, and is not held to it.
    pub(super) sets_limits: bool,
}

impl Prepared {
    pub(super) fn of(
        launch: &ExecLaunch,
        table: &[OwnedFd],
        onlookers: Onlookers,
    ) -> Result<Self, Failure> {
        let ExecPlan { mut process } = read_plan(launch.plan, table)?;
        let (alone, terminal) = (&launch.alone, matches!(launch.stdio, Stdio::Terminal(_)));
        let sets_limits = onlookers == Onlookers::None && launch.limits.rlimits.is_empty();
        let departure = match onlookers {
            Onlookers::None => {
                Departure::of_itself(&process, alone, terminal, table, !sets_limits)?
            }
            Onlookers::Possible => Departure::of_sibling(&process, alone, terminal, table)?,
        };
        // They are laid out. Whatever is freed when there is another process costs both of them a page.
        (process.args, process.env) = Default::default();
        let adjustment = launch.limits.oom_score_adj.filter(|_| sets_limits);
        let oom_score_adj = adjustment.map(|adjustment| adjustment.to_string());
        Ok(Self { process, departure, onlookers, oom_score_adj, sets_limits })
    }
}

/// While it lives, a process that is cloned is born in the container's PID namespace.
pub(super) fn born_in_container(
    launch: &ExecLaunch,
    table: &[OwnedFd],
) -> Result<BornElsewhere, Failure> {
    let init = launch.init.of(table).during_of(Step::Handle, "init")?;
    BornElsewhere::beside(init).during_of(Step::JoinNamespace, "of the container")
}

/// Runs the process that was cloned for `launch`. Returns only on failure.
pub(super) fn run(
    launch: &ExecLaunch,
    prepared: &Prepared,
    table: &[OwnedFd],
    report: &OwnedFd,
) -> Result<(), Failure> {
    let Prepared { process, departure, onlookers, oom_score_adj, .. } = prepared;
    match onlookers {
        Onlookers::None => sys::clone::block_signals(),
        Onlookers::Possible => sys::clone::unblock_signals(),
    }
    place(&launch.cgroup, table)?;
    let procfs = open_procfs()?;
    if let Some(adjustment) = oom_score_adj {
        limits::adjust_own_oom_score(adjustment, procfs.as_fd());
    }
    let given = match launch.stdio {
        Stdio::Files(handles) => {
            let user = outside_uid(launch.user.as_ref(), process.uid)?;
            Some(files(handles, table, user)?)
        }
        Stdio::Terminal(_) => None,
    };
    let init = launch.init.of(table).during_of(Step::Handle, "init")?;
    let mut kinds = ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::NETWORK
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
        | ThreadNameSpaceType::CONTROL_GROUP;
    if *onlookers == Onlookers::Possible {
        // Of this one, children become members, and not the caller.
        kinds |= ThreadNameSpaceType::PROCESS_ID;
    }
    if launch.user.is_some() {
        kinds |= ThreadNameSpaceType::USER;
    }
    enter(init, kinds).during_of(Step::JoinNamespace, "of the container")?;
    if launch.user.is_some() {
        assume_root();
    }
    let streams = match (launch.stdio, given) {
        (Stdio::Terminal(window), _) => {
            let root = own_root().during(Step::Terminal)?;
            let below = Below::new(root.as_fd(), Owner { uid: 0, gid: 0 });
            let terminal = Terminal::open(&below, procfs.as_fd(), window).during(Step::Terminal)?;
            give(terminal.slave.as_fd(), process.uid);
            report::terminal(report.as_fd(), terminal.master.as_fd()).during(Step::Report)?;
            Streams::Terminal(terminal.slave)
        }
        (Stdio::Files(_), Some(files)) => Streams::Files(files),
        (Stdio::Files(_), None) => return Err(Failure::new(Step::Stdio, rustix::io::Errno::BADF)),
    };
    departure.go(process, &launch.alone, &streams, table, report, procfs.as_fd())
}
