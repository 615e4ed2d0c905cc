//! Signals to a container.

use model::Signal;

use crate::cli;
use crate::container::{Container, Status};
use crate::create::Desk;
use crate::delete::open_process;
use crate::failure::Failure;

/// The command kill.
pub(crate) fn kill(desk: Desk<'_>, flags: &cli::Kill) -> Result<(), Failure> {
    let container = Container::load(desk.store, &flags.id)?;
    let status = container.status(desk.store)?;
    let everybody = flags.all || (is_kill(flags.signal) && !has_own_processes(&container));
    if everybody {
        return kill_all(&container, flags.signal);
    }
    let cure = "there is no process to send a signal to";
    let wanted = [Status::Created, Status::Running, Status::Paused];
    container.expect(status, &wanted, cure)?;
    let init = container.init()?;
    if let Some(process) = open_process(&flags.id, init)? {
        // ESRCH: it has just ended.
        let _ = sys::pidfd::send_signal(&process, flags.signal.number());
    }
    if is_kill(flags.signal) && status == Status::Paused {
        // On v1 a process that stands still does not even die.
        let resumed = container.cgroup.thaw(super::control::PATIENCE);
        resumed.map_err(Failure::cgroup(&flags.id, "resumed"))?;
    }
    Ok(())
}

fn kill_all(container: &Container, signal: Signal) -> Result<(), Failure> {
    let Container { record, cgroup } = container;
    if is_kill(signal) {
        return cgroup.kill().map_err(Failure::cgroup(&record.id, "killed"));
    }
    for pid in cgroup.processes().map_err(Failure::cgroup(&record.id, "read"))? {
        let process = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty());
        if let Ok(process) = process {
            // ESRCH: it has just ended.
            let _ = sys::pidfd::send_signal(&process, signal.number());
        }
    }
    Ok(())
}

fn is_kill(signal: Signal) -> bool {
    signal == Signal::KILL
}

/// Whether all of a container's processes end with its first.
fn has_own_processes(container: &Container) -> bool {
    let linux = container.record.spec.linux().as_ref();
    let list = linux.and_then(|linux| linux.namespaces().as_ref());
    list.into_iter().flatten().any(|entry| {
        entry.typ() == oci_spec::runtime::LinuxNamespaceType::Pid && entry.path().is_none()
    })
}
