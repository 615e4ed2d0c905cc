//! How containers and pods end, whoever ended them: the one place that decides reasons and order.
//!
//! ```text
//!   keeper's event, or its loss --> what is left in the cgroup is killed --> reason from the OOM
//!   counter --> state and event in one turn --> record --> those who wait are told
//! ```

use std::sync::Arc;
use std::time::Duration;

use cgroup::Cgroup;
use model::{ContainerState, Exit, PodState, Signal, Timestamp};

use crate::container::{Container, Live};
use crate::error::Error;
use crate::pod::Pod;
use crate::runtime::Shared;
use crate::view::{ContainerPhase, EventKind};

/// How long the kernel may take to empty a cgroup whose processes were killed.
const EMPTYING: Duration = Duration::from_secs(2);

/// What was seen of a container's end.
#[derive(Debug, Clone)]
pub(crate) enum End {
    /// Its keeper saw the process end.
    Seen { code: i32, at: Timestamp },
    /// It never got as far as its program.
    NotStarted { message: String },
    /// Its keeper died and took it along.
    KeeperLost,
    /// It was gone when the daemon or the machine came back, and nobody knows how it ended.
    Unknown,
}

impl Shared {
    /// A container has ended: kills what is left of it, publishes, records. Does nothing the second
    /// time.
    pub(crate) async fn container_ended(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        container: &Arc<Container>,
        end: End,
    ) {
        if container.phase() == ContainerPhase::Exited {
            return;
        }
        // By its name: a container that ended while no daemon was there has nothing else.
        let killed_by_oom = match cgroup::CgroupPath::new(&container.facts.cgroup) {
            Ok(path) => {
                let cgroup = self.cgroups.open(&path);
                let cleared = tokio::task::spawn_blocking(move || clear(&cgroup)).await;
                cleared.unwrap_or(false)
            }
            Err(_) => false,
        };
        let exit = exit_of(end, killed_by_oom);
        let id = container.id.as_str();
        let ended = self.publish(pod, id, EventKind::Stopped, || container.exited(exit).is_some());
        if ended {
            tracing::info!(container = id, state = ?container.state(), "container ended");
            self.journal.note(pod).await;
            container.announce_end();
        }
    }

    /// The pod's keeper is gone: nothing of the pod can go on.
    pub(crate) async fn keeper_lost(self: &Arc<Self>, pod: &Arc<Pod>) -> Result<(), Error> {
        // Before the gate: a stop that holds it waits for these ends, which nobody else can tell.
        self.lose_containers(pod).await;
        let _gate = pod.close().await;
        if pod.cell().keeper.take().is_none() {
            return Ok(());
        }
        tracing::error!(pod = pod.id.as_str(), "the keeper is gone: its pod ends with it");
        self.lose_containers(pod).await;
        self.publish(pod, pod.id.as_str(), EventKind::Stopped, || {
            std::mem::replace(&mut pod.cell().state, PodState::NotReady) == PodState::Ready
        });
        let released = self.release(pod).await;
        self.journal.note(pod).await;
        released
    }

    /// Ends what a keeper that is gone can tell nothing of.
    pub(crate) async fn lose_containers(self: &Arc<Self>, pod: &Arc<Pod>) {
        for container in pod.containers() {
            if let Some(live) = container.live() {
                kill(&live);
            }
            self.container_ended(pod, &container, End::KeeperLost).await;
        }
    }

    /// Gives back the pod's network and the cgroup that minke made for it; what is given back
    /// already is passed over.
    pub(crate) async fn release(&self, pod: &Arc<Pod>) -> Result<(), Error> {
        let (attachment, made) = {
            let cell = pod.cell();
            (cell.network.clone(), cell.cgroups_made())
        };
        if let Some(attachment) = attachment {
            let released = self.network.release(&pod.id, &attachment).await;
            released.map_err(|source| Error::Network {
                pod: pod.id.clone(),
                action: "torn down",
                source,
            })?;
            pod.cell().network = None;
        }
        pod.gauge.close();
        if let Some(path) = made.first() {
            let (cgroups, name) = (self.cgroups.clone(), path.display().to_string());
            let pruned = tokio::task::spawn_blocking(move || cgroups.prune(&made)).await;
            let pruned =
                pruned.map_err(|_| Error::Internal("the pruning of cgroups was stopped"))?;
            pruned.map_err(|source| Error::Cgroup { path: name, action: "removed", source })?;
            pod.cell().cgroups = None;
        }
        Ok(())
    }
}

/// Kills the init and, where others outlive it, all that its cgroup holds.
pub(crate) fn kill(live: &Live) {
    // ESRCH is what was wanted.
    let _ = sys::pidfd::send_signal(&live.pidfd, Signal::KILL.number());
    if let Err(error) = live.cgroup.kill()
        && !error.is_gone()
    {
        let cgroup = live.cgroup.path().as_str();
        tracing::warn!(cgroup, error = &error as &dyn std::error::Error, "cgroup is not killed");
    }
}

/// Kills what a cgroup still holds, and removes it, if it is there.
pub(crate) fn remove_by_force(cgroup: &Cgroup) {
    let kill = match cgroup.is_empty() {
        Ok(true) => Ok(()),
        _ => cgroup.kill(),
    };
    let removed = kill.and_then(|()| cgroup.remove(EMPTYING));
    if let Err(error) = removed
        && !error.is_gone()
    {
        let path = cgroup.path().as_str();
        tracing::warn!(cgroup = path, error = &error as &dyn std::error::Error, "cgroup stays");
    }
}

/// Empties and removes an ended container's cgroup, which was its own from the start; tells whether
/// the kernel killed something in it for want of memory.
fn clear(cgroup: &Cgroup) -> bool {
    let kills = cgroup.oom_kills().unwrap_or_default();
    remove_by_force(cgroup);
    kills > 0
}

fn exit_of(end: End, killed_by_oom: bool) -> Exit {
    let now = Timestamp::now();
    let exit = |finished_at, code, reason: &str, message| Exit {
        finished_at,
        code,
        reason: reason.to_owned(),
        message,
    };
    match end {
        End::Seen { code: 137, at } if killed_by_oom => exit(at, 137, "OOMKilled", String::new()),
        End::Seen { code: 0, at } => exit(at, 0, "Completed", String::new()),
        End::Seen { code, at } => exit(at, code, "Error", String::new()),
        End::NotStarted { message } => exit(now, 128, "StartError", message),
        End::KeeperLost => {
            exit(now, 137, "KeeperLost", "the pod's keeper died and the pod with it".into())
        }
        End::Unknown => exit(now, 255, "Unknown", "it ended while nobody could see how".into()),
    }
}

/// What a record from before a reboot says of a container now.
pub(crate) fn after_reboot(state: ContainerState) -> ContainerState {
    match state {
        ContainerState::Exited { .. } => state,
        ContainerState::Created => {
            ContainerState::Exited { started_at: Timestamp(0), exit: exit_of(End::Unknown, false) }
        }
        ContainerState::Running { started_at } => {
            ContainerState::Exited { started_at, exit: exit_of(End::Unknown, false) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_follow_from_what_was_seen() {
        let at = Timestamp(7);
        let reason = |end, oom| exit_of(end, oom).reason;
        assert_eq!(reason(End::Seen { code: 0, at }, false), "Completed");
        assert_eq!(reason(End::Seen { code: 3, at }, false), "Error");
        assert_eq!(reason(End::Seen { code: 137, at }, true), "OOMKilled");
        assert_eq!(reason(End::Seen { code: 137, at }, false), "Error");
        // A child of a container that goes on to succeed may have been killed for memory.
        assert_eq!(reason(End::Seen { code: 0, at }, true), "Completed");
        assert_eq!(exit_of(End::NotStarted { message: "m".into() }, false).code, 128);
        assert_eq!(exit_of(End::KeeperLost, false).code, 137);
        assert_eq!(exit_of(End::Unknown, false).code, 255);
    }

    #[test]
    fn a_reboot_ends_what_ran_and_leaves_what_had_ended() {
        let ran = ContainerState::Running { started_at: Timestamp(5) };
        let ContainerState::Exited { started_at, exit } = after_reboot(ran) else {
            panic!("it must have ended");
        };
        assert_eq!((started_at, exit.code, exit.reason.as_str()), (Timestamp(5), 255, "Unknown"));
        let exit = Exit { code: 3, ..exit };
        let ended = ContainerState::Exited { started_at, exit };
        assert_eq!(after_reboot(ended.clone()), ended);
    }
}
