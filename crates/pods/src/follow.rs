//! Listening to a pod's keeper, from its birth or adoption to its end.
//!
//! ```text
//!   events --> containers end, lost log lines are told
//!   end of the connection --> keeper ended:         the pod ends with it
//!                             keeper lives:         connected to again, asked what was missed
//!                             it does not answer:   killed, and the pod with it
//! ```

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use model::ContainerId;

use crate::ends::End;
use crate::pod::Pod;
use crate::runtime::Shared;

/// How long a keeper that lives may take to answer who connects to it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// How long a keeper whose connection has ended may take to end itself.
const ENDING: Duration = Duration::from_millis(200);

/// A keeper that answers, with what it knows and what it will tell.
pub(crate) type Reached = (keeper::Keeper, keeper::Status, keeper::Events);

impl Shared {
    /// Listens to a keeper until it goes.
    pub(crate) fn follow(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        mut keeper: Arc<keeper::Keeper>,
        mut events: keeper::Events,
    ) {
        let (shared, pod) = (Arc::clone(self), Arc::clone(pod));
        tokio::spawn(async move {
            loop {
                while let Some(event) = events.next().await {
                    shared.on_event(&pod, event).await;
                }
                let Some(again) = shared.rejoin(&pod, &keeper).await else { break };
                (keeper, events) = again;
            }
            keeper.lost().await;
            // A pod that was stopped has let its keeper go before.
            if let Err(error) = shared.keeper_lost(&pod).await {
                let pod = pod.id.as_str();
                tracing::error!(pod, error = &error as &dyn std::error::Error, "clean-up failed");
            }
        });
    }

    /// Goes on with a keeper whose connection has ended though it lives: somebody else had connected,
    /// or the daemon had not read for long. None where it ends; one that does not answer is killed.
    async fn rejoin(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        keeper: &keeper::Keeper,
    ) -> Option<(Arc<keeper::Keeper>, keeper::Events)> {
        if tokio::time::timeout(ENDING, keeper.lost()).await.is_ok() {
            return None;
        }
        // One that was let go ends, and whoever let it go sees to that.
        pod.cell().keeper.as_ref()?;
        let Some((again, status, events)) = self.reach(pod).await else {
            keeper.kill();
            return None;
        };
        let again = Arc::new(again);
        self.catch_up(pod, &again, &status).await;
        if let Some(current) = &mut pod.cell().keeper {
            *current = Arc::clone(&again);
        }
        tracing::warn!(pod = pod.id.as_str(), "the keeper was connected to again");
        Some((again, events))
    }

    /// Speaks to the keeper that listens in the pod's directory; none where it does not answer.
    pub(crate) async fn reach(&self, pod: &Pod) -> Option<Reached> {
        let socket = self.journal.pod_dir(&pod.id).join("keeper.sock");
        let connected = tokio::time::timeout(PATIENCE, async {
            let (keeper, events) = keeper::Keeper::connect(&socket).await?;
            let status = keeper.status().await?;
            Ok::<_, keeper::Error>((keeper, status, events))
        });
        let pod = pod.id.as_str();
        match connected.await {
            Ok(Ok(reached)) => return Some(reached),
            Ok(Err(error)) => {
                tracing::error!(pod, error = &error as &dyn std::error::Error, "keeper is lost");
            }
            Err(_) => tracing::error!(pod, "keeper is lost: it does not answer"),
        }
        None
    }

    /// Ends containers that ended while nobody listened, and has the keeper forget those that the
    /// daemon does not know.
    pub(crate) async fn catch_up(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        keeper: &keeper::Keeper,
        status: &keeper::Status,
    ) {
        let phases = phases(status);
        for container in pod.containers() {
            let end = match phases.get(&container.id) {
                Some(keeper::ContainerPhase::Exited { exit, .. }) => {
                    Some(End::Seen { code: exit.code, at: exit.at })
                }
                Some(_) => None,
                None => Some(End::Unknown),
            };
            if let Some(end) = end {
                self.container_ended(pod, &container, end).await;
            }
        }
        for unknown in status.containers.iter().filter(|it| !listed(pod, &it.id)) {
            // Created, and its creator does not know any more: the caller tries again.
            if let Some(pidfd) = crate::recover::pidfd(unknown.pid) {
                let _ = sys::pidfd::send_signal(&pidfd, model::Signal::KILL.number());
            }
            let _ = keeper.forget(&unknown.id).await;
        }
    }

    async fn on_event(self: &Arc<Self>, pod: &Arc<Pod>, event: keeper::Event) {
        match event {
            keeper::Event::ContainerExited { container, exit } => {
                let Ok(container) = self.index.container(container.as_str()) else {
                    // What a daemon had begun that died: nobody else will ever ask for it.
                    if let Ok(keeper) = pod.keeper() {
                        let _ = keeper.forget(&container).await;
                    }
                    return;
                };
                drop(container.starting.lock().await);
                let end = End::Seen { code: exit.code, at: exit.at };
                self.container_ended(pod, &container, end).await;
            }
            keeper::Event::LogDropped { container, lines, errno } => {
                let error = std::io::Error::from_raw_os_error(errno);
                let id = container.as_str();
                tracing::warn!(container = id, lines, %error, "log lines were dropped");
            }
            _ => {}
        }
    }
}

/// Where the keeper's containers are in their lives.
pub(crate) fn phases(status: &keeper::Status) -> HashMap<ContainerId, keeper::ContainerPhase> {
    status.containers.iter().map(|c| (c.id.clone(), c.state.clone())).collect()
}

fn listed(pod: &Pod, id: &ContainerId) -> bool {
    pod.cell().containers.iter().any(|container| container.id == *id)
}
