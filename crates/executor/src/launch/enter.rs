//! The way of one more process into a running container.
//!
//! The container is hostile, and may have CAP_SYS_PTRACE. So the maker joins all of its namespaces
//! but the PID namespace, where it could be seen, does there all that is to be done, and sends a
//! sibling with empty hands into that: see [`super::entry`].

use std::os::fd::{AsFd, OwnedFd};

use rustix::thread::ThreadNameSpaceType;
use sys::namespace::enter;

use super::child::{Streams, dispatch, files, give, open_procfs, outside_uid, place, read_plan};
use super::identity::assume_root;
use super::path::{Below, Owner, own_root};
use super::report;
use super::terminal::Terminal;
use crate::failure::{During, Failure, Step};
use crate::plan::{ExecLaunch, ExecPlan, Stdio};

/// Runs the process that was cloned for `launch`. Returns only on failure.
pub(super) fn run(launch: &ExecLaunch, table: &[OwnedFd], report: &OwnedFd) -> Result<(), Failure> {
    place(&launch.cgroup, table)?;
    let procfs = open_procfs()?;
    let ExecPlan { process } = read_plan(launch.plan, table)?;
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
        | ThreadNameSpaceType::CONTROL_GROUP
        // Of this one, children become members, and not the caller.
        | ThreadNameSpaceType::PROCESS_ID;
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
    dispatch(&process, &launch.alone, &streams, table, report, procfs.as_fd())
}
