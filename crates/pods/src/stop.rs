//! Stopping and removing, of containers and of pods.

use std::sync::Arc;
use std::time::Duration;

use model::{PodState, Signal};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::sync::RwLockWriteGuard;
use tokio::time::Instant;

use crate::container::{Container, Live};
use crate::ends;
use crate::error::Error;
use crate::pod::Pod;
use crate::runtime::{Runtime, Shared};
use crate::view::{ContainerPhase, EventKind};

/// After SIGKILL: how soon it is tried again, and the longest pause between tries.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(30);
/// How long a keeper may take to let go of a pod that is being stopped.
const LETTING_GO: Duration = Duration::from_secs(5);
/// How long a keeper may take to tell of an ended process while its pod is to live on: on a machine
/// that starves it, it must not cost the pod that one of its containers was stopped.
const TELLING: Duration = Duration::from_secs(30);

impl Runtime {
    /// Asks a container to stop and kills it after `timeout`; returns when it has ended. An unknown
    /// or ended container is a success. A second call may only bring the end forward.
    ///
    /// # Errors
    /// [`Error::Ambiguous`].
    pub async fn stop_container(&self, id: &str, timeout: Duration) -> Result<(), Error> {
        match self.0.index.container(id) {
            Ok(container) => {
                self.0.stop(&container, timeout).await;
                Ok(())
            }
            Err(Error::ContainerNotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Removes a container, killing it first where it runs. An unknown one is a success.
    ///
    /// # Errors
    /// [`Error::Ambiguous`]; a file that could not be removed.
    pub async fn remove_container(&self, id: &str) -> Result<(), Error> {
        let container = match self.0.index.container(id) {
            Ok(container) => container,
            Err(Error::ContainerNotFound { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        let shared = Arc::clone(&self.0);
        run_to_end(async move { shared.remove(&container).await }).await
    }

    /// Kills a pod's containers, ends its keeper, releases its network; returns when all that is
    /// done. An unknown or stopped pod is a success.
    ///
    /// # Errors
    /// [`Error::Ambiguous`]; what could not be released.
    pub async fn stop_pod(&self, id: &str) -> Result<(), Error> {
        let pod = match self.0.index.pod(id) {
            Ok(pod) => pod,
            Err(Error::PodNotFound { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        let shared = Arc::clone(&self.0);
        run_to_end(async move {
            let _gate = shared.close(&pod).await;
            shared.stop_pod(&pod).await
        })
        .await
    }

    /// Stops a pod where it is not, removes its containers and then itself. An unknown pod is a
    /// success.
    ///
    /// # Errors
    /// [`Error::Ambiguous`]; what could not be released or removed.
    pub async fn remove_pod(&self, id: &str) -> Result<(), Error> {
        let pod = match self.0.index.pod(id) {
            Ok(pod) => pod,
            Err(Error::PodNotFound { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        let shared = Arc::clone(&self.0);
        run_to_end(async move { shared.remove_pod(&pod).await }).await
    }
}

/// Runs an operation to its end even where its caller goes away.
pub(crate) async fn run_to_end<T: Send + 'static>(
    operation: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    let ran = tokio::spawn(operation).await;
    ran.unwrap_or(Err(Error::Internal("an operation was stopped by a defect of its own")))
}

impl Shared {
    /// Asks, waits, kills; returns at the end of the container.
    pub(crate) async fn stop(self: &Arc<Self>, container: &Arc<Container>, timeout: Duration) {
        if container.phase() == ContainerPhase::Exited {
            container.end().await;
            return;
        }
        let wanted = Instant::now() + timeout;
        let mut first = false;
        container.stop_deadline.send_if_modified(|deadline| {
            first = deadline.is_none();
            let sooner = deadline.is_none_or(|deadline| wanted < deadline);
            if sooner {
                *deadline = Some(wanted);
            }
            sooner
        });
        if first && let Some(live) = container.live() {
            let (shared, container) = (Arc::clone(self), Arc::clone(container));
            tokio::spawn(async move {
                end(&container, &live, timeout, |since| shared.untold(&container, since)).await;
            });
        }
        container.end().await;
    }

    async fn remove(self: &Arc<Self>, container: &Arc<Container>) -> Result<(), Error> {
        let _operation = container.operation.lock().await;
        let Ok(pod) = self.index.pod(container.pod.as_str()) else { return Ok(()) };
        if self.index.container(container.id.as_str()).is_err() {
            return Ok(());
        }
        self.stop(container, Duration::ZERO).await;
        self.discard(&pod, &container.id).await?;
        self.publish(&pod, container.id.as_str(), EventKind::Deleted, || {
            pod.forget_container(&container.id);
            self.index.remove_container(&container.id);
            true
        });
        let name = (pod.id.clone(), container.spec.metadata.clone());
        self.container_names.free(&name, &container.id);
        if let Ok(keeper) = pod.keeper() {
            // A keeper that has gone has forgotten everything.
            let _ = keeper.forget(&container.id).await;
        }
        self.journal.note(&pod).await;
        Ok(())
    }

    /// The keeper of a container has not told of its end for a while. Where that is too long it is
    /// killed, and its pod ends with it.
    fn untold(&self, container: &Container, since: Instant) {
        let Ok(pod) = self.index.pod(container.pod.as_str()) else { return };
        let patience = if pod.is_closing() { LETTING_GO } else { TELLING };
        let keeper = pod.cell().keeper.clone();
        if let Some(keeper) = keeper.filter(|_| since.elapsed() >= patience) {
            let (container, keeper_pid) = (container.id.as_str(), keeper.pid());
            tracing::error!(container, keeper_pid, "an end was not told: the keeper is killed");
            keeper.kill();
        }
    }

    /// Has a pod to oneself, to end it. Its containers are killed before: one of them may be what
    /// has to be waited for.
    async fn close<'a>(self: &Arc<Self>, pod: &'a Arc<Pod>) -> RwLockWriteGuard<'a, ()> {
        tokio::join!(pod.close(), self.stop_all(pod)).0
    }

    async fn stop_all(self: &Arc<Self>, pod: &Pod) {
        let containers = pod.containers();
        let stops = containers.iter().map(|container| self.stop(container, Duration::ZERO));
        futures_util::future::join_all(stops).await;
    }

    /// The body of StopPodSandbox; the caller has the pod to itself.
    pub(crate) async fn stop_pod(self: &Arc<Self>, pod: &Arc<Pod>) -> Result<(), Error> {
        if pod.has_nothing() {
            return Ok(());
        }
        self.stop_all(pod).await;
        self.publish(pod, pod.id.as_str(), EventKind::Stopped, || {
            std::mem::replace(&mut pod.cell().state, PodState::NotReady) == PodState::Ready
        });
        let keeper = pod.cell().keeper.take();
        let leaving = async {
            if let Some(keeper) = keeper {
                self.let_go(pod, &keeper).await;
            }
        };
        // The keeper has no connections of its own: the network need not wait for it. Where the
        // daemon dies in between, the pod is stopped once more.
        let ((), released) = tokio::join!(leaving, self.release(pod));
        pod.cell().keeper_identity = None;
        self.journal.note(pod).await;
        released
    }

    /// Ends a keeper that has no container left; one that does not go is killed.
    async fn let_go(&self, pod: &Pod, keeper: &keeper::Keeper) {
        let gone = async {
            if let Err(error) = keeper.shutdown().await {
                let pod = pod.id.as_str();
                tracing::debug!(pod, error = &error as &dyn std::error::Error, "keeper is killed");
                keeper.kill();
            }
            keeper.lost().await;
        };
        if tokio::time::timeout(LETTING_GO, gone).await.is_err() {
            tracing::warn!(pod = pod.id.as_str(), "the keeper did not go in time and is killed");
            keeper.kill();
            keeper.lost().await;
        }
    }

    pub(crate) async fn remove_pod(self: &Arc<Self>, pod: &Arc<Pod>) -> Result<(), Error> {
        let _gate = self.close(pod).await;
        if self.index.pod(pod.id.as_str()).is_err() {
            return Ok(());
        }
        self.stop_pod(pod).await?;
        for container in pod.containers() {
            self.remove(&container).await?;
        }
        self.journal.erase(pod).await?;
        self.publish(pod, pod.id.as_str(), EventKind::Deleted, || {
            self.index.remove_pod(&pod.id);
            true
        });
        self.pod_names.free(&pod.spec().metadata, &pod.id);
        Ok(())
    }
}

/// The one stop loop of a container: its signal, then SIGKILL at the deadline, however often that was
/// brought forward, again and again until it has ended.
async fn end(container: &Container, live: &Live, timeout: Duration, untold: impl Fn(Instant)) {
    if !timeout.is_zero() {
        signal(live, container.facts.stop_signal);
        let mut deadline = container.stop_deadline.subscribe();
        loop {
            let at = deadline.borrow_and_update().unwrap_or_else(Instant::now);
            tokio::select! {
                () = container.end() => return,
                () = tokio::time::sleep_until(at) => break,
                changed = deadline.changed() => if changed.is_err() { break },
            }
        }
    }
    // The end of an init takes its PID namespace along, and what a shared one leaves is killed when
    // the end is known. Only where that is not enough is the whole cgroup looked at, which on v1
    // means to freeze it.
    signal(live, Signal::KILL);
    let mut pause = FIRST_PAUSE;
    let mut gone = None;
    loop {
        tokio::select! {
            () = container.end() => return,
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(LAST_PAUSE),
        }
        if has_ended(live) {
            // Stopping must not depend on the keeper, which only tells of it.
            pause = FIRST_PAUSE * 10;
            untold(*gone.get_or_insert_with(Instant::now));
            continue;
        }
        ends::kill(live);
        let id = container.id.as_str();
        if pause >= Duration::from_secs(1) {
            tracing::warn!(container = id, "it was killed and has not ended: is it stuck in I/O?");
        }
    }
}

/// Whether its init is gone, whoever was told of it.
fn has_ended(live: &Live) -> bool {
    let mut ended = [PollFd::new(&live.pidfd, PollFlags::IN)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut ended, Some(&at_once)), Ok(1))
}

fn signal(live: &Live, signal: Signal) {
    // ESRCH is what was wanted.
    let _ = sys::pidfd::send_signal(&live.pidfd, signal.number());
}
