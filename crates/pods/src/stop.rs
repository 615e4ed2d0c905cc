//! Stopping and removing, of containers and of pods.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use model::{PodState, Signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
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
/// How long a keeper may take to tell of ended processes, and to let go of a pod that has none left.
const LETTING_GO: Duration = Duration::from_secs(5);

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
            let _gate = pod.gate.write().await;
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
            let container = Arc::clone(container);
            tokio::spawn(async move { end(&container, &live, timeout).await });
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

    /// The body of StopPodSandbox; the caller has the pod's gate to itself.
    pub(crate) async fn stop_pod(self: &Arc<Self>, pod: &Arc<Pod>) -> Result<(), Error> {
        let containers = pod.containers();
        let stops = containers.iter().map(|container| self.stop(container, Duration::ZERO));
        tokio::select! {
            _ = futures_util::future::join_all(stops) => {}
            () = silence(pod, &containers) => {
                if let Some(keeper) = &pod.cell().keeper {
                    keeper.kill();
                }
                self.lose_containers(pod).await;
            }
        }
        let keeper = pod.cell().keeper.take();
        if let Some(keeper) = keeper {
            self.let_go(pod, &keeper).await;
        }
        self.publish(pod, pod.id.as_str(), EventKind::Stopped, || {
            std::mem::replace(&mut pod.cell().state, PodState::NotReady) == PodState::Ready
        });
        let released = self.release(pod).await;
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
        let _gate = pod.gate.write().await;
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

/// Returns where nobody will tell of the containers' ends: the keeper is gone, or it says nothing of
/// processes that are gone. Stopping must not depend on it.
async fn silence(pod: &Pod, containers: &[Arc<Container>]) {
    let keeper = pod.cell().keeper.clone();
    let dead = async {
        for live in containers.iter().filter_map(|container| container.live()) {
            #[expect(deprecated, reason = "the new way is unsafe; the borrow holds the descriptor")]
            let process = AsyncFd::with_interest(live.pidfd.as_fd(), Interest::READABLE);
            if let Ok(process) = process {
                // A pidfd is readable from the end of the process on.
                let _ = process.readable().await;
            }
        }
        tokio::time::sleep(LETTING_GO).await;
    };
    match keeper {
        Some(keeper) => tokio::select! { () = keeper.lost() => {}, () = dead => {} },
        None => dead.await,
    }
}

/// The one stop loop of a container: its signal, then SIGKILL at the deadline, however often that was
/// brought forward, again and again until it has ended.
async fn end(container: &Container, live: &Live, timeout: Duration) {
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
    let mut pause = FIRST_PAUSE;
    loop {
        ends::kill(live);
        tokio::select! {
            () = container.end() => return,
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(LAST_PAUSE),
        }
        let id = container.id.as_str();
        if pause >= Duration::from_secs(1) {
            tracing::warn!(container = id, "it was killed and has not ended: is it stuck in I/O?");
        }
    }
}

fn signal(live: &Live, signal: Signal) {
    // ESRCH is what was wanted.
    let _ = sys::pidfd::send_signal(&live.pidfd, signal.number());
}
