//! Removing what is left of a container, whatever became of the command that made it.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::cli;
use crate::container::{Container, Status};
use crate::create::Desk;
use crate::failure::Failure;
use crate::hooks::{Hooks, ends_by};
use crate::record::{Identity, Place};

/// How long a killed process may take to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// SIGKILL.
const KILL: i32 = 9;

/// The command.
pub(crate) fn delete(desk: Desk<'_>, flags: &cli::Delete) -> Result<(), Failure> {
    let place = match desk.store.lock(&flags.id) {
        Err(Failure::Unknown { .. }) if flags.force => return Ok(()),
        other => other?,
    };
    let Some(record) = desk.store.find(&flags.id)? else {
        // Its maker was killed before there was anything else.
        return place.remove();
    };
    let container = Container::of(record)?;
    if !flags.force {
        let cure = "`minke-oci kill` it first, or delete it with --force";
        let wanted = [Status::Stopped, Status::Created, Status::Creating];
        container.expect(container.status(desk.store)?, &wanted, cure)?;
    }
    destroy(desk, &container, place)
}

/// Kills what lives of a container, removes its cgroup, runs its last hooks and forgets it. Mounts go
/// with its mount namespace, which goes with its last process.
pub(crate) fn destroy(desk: Desk<'_>, container: &Container, place: Place) -> Result<(), Failure> {
    let Container { record, cgroup } = container;
    let id = &record.id;
    let failed = |action| Failure::cgroup(id, action);
    let living = record.living()?.map(|init| open_process(id, init)).transpose()?.flatten();
    if let Some(process) = &living {
        // First of all: the others of its PID namespace go with it. ESRCH is what is wanted.
        let _ = sys::pidfd::send_signal(process, KILL);
    }
    if cgroup.exists() && !cgroup.is_empty().map_err(failed("read"))? {
        cgroup.kill().map_err(failed("killed"))?;
    }
    if let (Some(process), Some(init)) = (&living, record.init)
        && !ends_by(process, Instant::now() + PATIENCE)?
    {
        return Err(Failure::Stuck { id: id.clone(), pid: init.pid });
    }
    // Even where it does not exist: of a maker that was killed there may be some of v1's trees.
    cgroup.remove(PATIENCE).map_err(failed("removed"))?;
    desk.log.debug("nothing of it is left");
    let state = container.state(Status::Stopped, 0);
    for failure in Hooks::of(&record.spec).poststop(record, &state) {
        desk.log.warn(&failure.line());
    }
    place.remove()
}

/// A descriptor that means the process and never a later one of the same number; none where it has
/// ended.
pub(crate) fn open_process(id: &str, process: Identity) -> Result<Option<OwnedFd>, Failure> {
    let number = Pid::from_raw(process.pid).ok_or(Errno::SRCH);
    match number.and_then(|number| pidfd_open(number, PidfdFlags::empty())) {
        // The number may have got to another before it was opened.
        Ok(opened) if process.is_alive() => Ok(Some(opened)),
        Ok(_) | Err(Errno::SRCH) => Ok(None),
        Err(source) => Err(Failure::Launch {
            id: id.to_owned(),
            what: "a look at its first process",
            source: executor::Failure::of(executor::Step::Handle, "init", source),
        }),
    }
}
