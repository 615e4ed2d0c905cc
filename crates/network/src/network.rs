//! The network as the rest of minke calls it: waits without blocking, works on threads of its own.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future;
use model::PodId;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::attachment::{Attachment, InterfaceStats, Request};
use crate::bridge::{self, Bridge, PATIENCE};
use crate::error::{Error, Result};
use crate::watch::Watch;
use crate::{Config, Status};

/// The pod network of one daemon. Clones are the same network.
#[derive(Debug, Clone)]
pub struct Network {
    bridge: Arc<Bridge>,
    watch: Arc<Watch>,
}

impl Network {
    /// Finds or makes the bridge in the calling thread's network namespace, reads what the last
    /// daemon left in `state_dir`, and sets rules and subnets. Until [`Network::adopt`] all
    /// addresses that were in use stay so. Needs a tokio runtime.
    pub async fn open(config: Config) -> Result<Self> {
        // Before anything else, so that no message is missed.
        let mut watch = Watch::start().map_err(|source| Error::Kernel {
            action: "listen to",
            object: "messages about links".to_owned(),
            source: source.into(),
        })?;
        let bridge = Arc::new(blocking(move || Bridge::open(config)).await?);
        // A firewall may start after us, or flush what is ours.
        let ours = Arc::clone(&bridge);
        watch.follow_ruleset(move || ours.refresh());
        Ok(Self { bridge, watch: Arc::new(watch) })
    }

    /// Gives a pod its network. On an error nothing is left; where even that failed, the address
    /// stays taken until [`Network::release_unknown`]. Runs to its end if the caller goes away.
    pub async fn acquire(&self, request: Request) -> Result<Attachment> {
        let (bridge, watch) = (Arc::clone(&self.bridge), Arc::clone(&self.watch));
        blocking(move || bridge.acquire(&request, &watch)).await
    }

    /// Takes a pod's network back. To be called when the pod's processes are dead. When this returns,
    /// host ports are unmapped, the link is gone, the address is free, and the namespace goes as soon
    /// as nobody holds it. TCP connections that the dead left behind get 100 ms to send what they
    /// have. Doing it again is no error.
    pub async fn release(&self, pod: &PodId, attachment: &Attachment) -> Result<()> {
        let (bridge, watch) = (Arc::clone(&self.bridge), Arc::clone(&self.watch));
        let (pod, attachment) = (pod.clone(), attachment.clone());
        let left = blocking(move || bridge.leave(&pod, &attachment, &watch)).await?;
        let Some(mut leaving) = left else { return Ok(()) };
        if !leaving.sending {
            let (name, index) = (leaving.attachment.host_link.clone(), leaving.index);
            // Not awaited, for it returns late. Whether it worked is seen.
            drop(spawn_blocking(move || bridge::delete(&name, index)));
        }
        let seen = timeout(PATIENCE, &mut leaving.gone).await;
        let seen = seen.ok().and_then(|told| told.ok());
        let bridge = Arc::clone(&self.bridge);
        blocking(move || bridge.left(&leaving, seen)).await
    }

    /// Takes back what a pod may have, when its attachment is not known; it may have nothing.
    pub async fn release_unknown(&self, pod: &PodId) -> Result<()> {
        match self.bridge.known(pod) {
            Some(attachment) => self.release(pod, &attachment).await,
            None => Ok(()),
        }
    }

    /// Tells which pods live, once after [`Network::open`]. Theirs is kept; whatever else an earlier
    /// daemon with this `state_dir` left is taken back: links, bound namespaces, host ports,
    /// addresses. Gives back the pods that were released.
    pub async fn adopt(&self, live: Vec<(PodId, Attachment)>) -> Result<Vec<PodId>> {
        let bridge = Arc::clone(&self.bridge);
        let dead = blocking(move || bridge.adopt(live)).await?;
        let releases = dead.iter().map(|(pod, attachment)| self.release(pod, attachment));
        future::join_all(releases).await.into_iter().collect::<Result<()>>()?;
        Ok(dead.into_iter().map(|(pod, _)| pod).collect())
    }

    /// Takes a pod CIDR, or one of each IP version with a comma between, for pods to come; kept
    /// over restarts. Configured subnets go before it. An empty text changes nothing.
    pub async fn set_pod_cidr(&self, cidr: &str) -> Result<()> {
        let (bridge, cidr) = (Arc::clone(&self.bridge), cidr.to_owned());
        blocking(move || bridge.set_pod_cidr(&cidr)).await
    }

    /// Whether pods can be networked; from memory.
    pub fn status(&self) -> Status {
        self.bridge.status()
    }

    /// The counters of a pod's interfaces, empty if it has none (any more).
    pub async fn interface_stats(&self, pod: &PodId) -> Result<Vec<InterfaceStats>> {
        let (bridge, pod) = (Arc::clone(&self.bridge), pod.clone());
        Ok(blocking(move || bridge.stats(&pod)).await?.into_iter().collect())
    }

    /// The counters of all pods' interfaces, at the cost of one request to the kernel.
    pub async fn all_interface_stats(&self) -> Result<HashMap<PodId, Vec<InterfaceStats>>> {
        let bridge = Arc::clone(&self.bridge);
        let stats = blocking(move || bridge.all_stats()).await?;
        Ok(stats.into_iter().map(|(pod, stats)| (pod, vec![stats])).collect())
    }

    /// Releases every pod and removes the bridge, the rules and the records: a demo's end. A daemon
    /// that only stops just drops the network, and its pods keep theirs.
    pub async fn destroy(self) -> Result<()> {
        self.adopt(Vec::new()).await?;
        let bridge = Arc::clone(&self.bridge);
        blocking(move || bridge.destroy()).await
    }
}

/// Runs what blocks on a thread that may.
async fn blocking<T, F>(work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T> + Send + 'static,
{
    spawn_blocking(work).await.unwrap_or(Err(Error::Thread))
}
