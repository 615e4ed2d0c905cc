//! The one object behind the gRPC edge: what all operations share, and the questions that are
//! answered from memory.

use std::cmp::Reverse;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use model::{
    ContainerId, ContainerMetadata, ContainerSpec, ContainerState, PodId, PodMetadata, PodSpec,
    Timestamp,
};

use crate::claims::Claims;
use crate::container::Container;
use crate::error::Error;
use crate::events::Events;
use crate::index::Index;
use crate::journal::Journal;
use crate::names::Names;
use crate::pod::Pod;
use crate::view::{ContainerFilter, ContainerView, Event, EventKind, PodFilter, PodView};

/// Settings of this crate.
#[derive(Debug, Clone)]
pub struct Config {
    /// What may be lost at a reboot: records, sockets, pods' files. `/run/minke` by custom.
    pub state: PathBuf,
    /// What must survive one: copies of records, writable layers. `/var/lib/minke` by custom.
    pub root: PathBuf,
    /// The profile of containers that ask for none: true filters them, false leaves them alone.
    pub seccomp_by_default: bool,
    /// The runtime handlers that pods may name, beside the empty one.
    pub handlers: Vec<String>,
    /// How long an exec's output is still read after its process has ended.
    pub drain: Duration,
    /// A pod's processes may bind ports below 1024 without a capability.
    pub unprivileged_ports: bool,
    /// A pod's processes may send ICMP echo requests without a capability.
    pub unprivileged_icmp: bool,
    /// The newest version of the protocol that new keepers admit to speak; none is all they know.
    pub keeper_protocol: Option<u32>,
}

/// The crates below, made by the composition root.
#[derive(Debug)]
pub struct Parts {
    /// Images and their layers.
    pub images: Arc<images::Store>,
    /// Pod networks.
    pub network: Arc<network::Network>,
    /// The cgroup hierarchy.
    pub cgroups: cgroup::Hierarchy,
    /// The process that makes keepers.
    pub seed: keeper::Seed,
}

/// Pods and containers of this node; cheap to clone.
#[derive(Debug, Clone)]
pub struct Runtime(pub(crate) Arc<Shared>);

/// What all operations share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) images: Arc<images::Store>,
    pub(crate) network: Arc<network::Network>,
    pub(crate) cgroups: cgroup::Hierarchy,
    pub(crate) seed: keeper::Seed,
    pub(crate) node: crate::node::Node,
    pub(crate) boot_id: Arc<str>,
    pub(crate) overlay: executor::prepare::OverlayWay,
    pub(crate) cgroup_view: executor::prepare::CgroupView,
    pub(crate) filters: crate::filter::Filters,
    pub(crate) index: Index,
    pub(crate) claims: Claims,
    pub(crate) journal: Arc<Journal>,
    pub(crate) events: Events,
    pub(crate) pod_names: Names<PodMetadata, PodSpec, PodId>,
    pub(crate) container_names: Names<(PodId, ContainerMetadata), ContainerSpec, ContainerId>,
}

impl Shared {
    /// A container's view with its pod's labels; a container whose pod has just been removed shows
    /// with none.
    pub(crate) fn container_view(&self, container: &Container) -> ContainerView {
        let pod = self.index.pod(container.pod.as_str());
        container.view(pod.map(|pod| pod.spec()).unwrap_or_default())
    }

    /// Makes one change and tells of it: `change` says whether there was anything to change. All
    /// changes of state that events tell of go through here, so events come in the order of changes.
    pub(crate) fn publish(
        &self,
        pod: &Pod,
        id: &str,
        kind: EventKind,
        change: impl FnOnce() -> bool,
    ) -> bool {
        let mut turn = self.events.turn();
        if !change() {
            return false;
        }
        if turn.heard() {
            turn.send(&event(pod, views(pod), id, kind));
        }
        true
    }

    /// The present, as the events that would have led to it.
    fn present(&self) -> Vec<Event> {
        let mut events = Vec::new();
        for pod in self.index.pods(None) {
            let containers = views(&pod);
            let mut push =
                |id: &str, kind| events.push(event(&pod, Arc::clone(&containers), id, kind));
            let started = pod.view().state == model::PodState::Ready;
            push(pod.id.as_str(), EventKind::Created);
            push(pod.id.as_str(), if started { EventKind::Started } else { EventKind::Stopped });
            for container in containers.iter().rev() {
                let id = container.id.as_str();
                push(id, EventKind::Created);
                match container.state {
                    ContainerState::Created => {}
                    ContainerState::Running { .. } => push(id, EventKind::Started),
                    ContainerState::Exited { .. } => push(id, EventKind::Stopped),
                }
            }
        }
        events
    }
}

/// The containers of a pod as they are now, newest first.
fn views(pod: &Pod) -> Arc<[ContainerView]> {
    let spec = pod.spec();
    pod.containers().iter().rev().map(|container| container.view(Arc::clone(&spec))).collect()
}

fn event(pod: &Pod, containers: Arc<[ContainerView]>, id: &str, kind: EventKind) -> Event {
    Event { id: id.to_owned(), kind, at: Timestamp::now(), pod: pod.view(), containers }
}

impl Runtime {
    /// The pod whose id is `id` or begins with it.
    ///
    /// # Errors
    /// [`Error::PodNotFound`], [`Error::Ambiguous`].
    pub fn pod(&self, id: &str) -> Result<PodView, Error> {
        Ok(self.0.index.pod(id)?.view())
    }

    /// The pods that the filter admits, newest first; an unknown id admits none.
    pub fn pods(&self, filter: &PodFilter) -> Vec<PodView> {
        let mut pods = self.0.index.pods(filter.id.as_deref());
        pods.sort_by_key(|pod| Reverse(pod.created_at));
        pods.iter().filter(|pod| pod.matches(filter)).map(|pod| pod.view()).collect()
    }

    /// The container whose id is `id` or begins with it.
    ///
    /// # Errors
    /// [`Error::ContainerNotFound`], [`Error::Ambiguous`].
    pub fn container(&self, id: &str) -> Result<ContainerView, Error> {
        Ok(self.0.container_view(&*self.0.index.container(id)?))
    }

    /// The containers that the filter admits, newest first: of the attempts at one name, the kubelet
    /// takes the first in a pod's status for the present one. An unknown id admits none.
    pub fn containers(&self, filter: &ContainerFilter) -> Vec<ContainerView> {
        let containers = self.0.filtered(filter);
        containers.iter().map(|container| self.0.container_view(container)).collect()
    }

    /// Changes of pods and containers from now on, after the present as events of its own. The
    /// stream ends if its reader falls too far behind.
    pub fn events(&self) -> tokio::sync::mpsc::Receiver<Event> {
        let mut turn = self.0.events.turn();
        let present = self.0.present();
        turn.subscribe(present)
    }

    /// The container, if it runs; to be asked before a streaming URL is given out.
    ///
    /// # Errors
    /// [`Error::ContainerNotFound`], [`Error::Ambiguous`], [`Error::WrongState`].
    pub fn check_running(&self, id: &str) -> Result<ContainerView, Error> {
        let container = self.0.index.container(id)?;
        container.running()?;
        Ok(self.0.container_view(&container))
    }

    /// Whether pods can be networked.
    pub fn network_status(&self) -> network::Status {
        self.0.network.status()
    }

    /// The pod subnet that the cluster assigned, one or two CIDRs with a comma between.
    ///
    /// # Errors
    /// [`Error::PodCidr`] for what is none.
    pub async fn set_pod_cidr(&self, cidr: &str) -> Result<(), Error> {
        let set = self.0.network.set_pod_cidr(cidr).await;
        set.map_err(|source| Error::PodCidr { cidr: cidr.to_owned(), source })
    }
}

impl Shared {
    /// The containers that a filter admits, newest first.
    pub(crate) fn filtered(&self, filter: &ContainerFilter) -> Vec<Arc<Container>> {
        let pod = match filter.pod.as_deref().map(|id| self.index.pod(id)) {
            None => None,
            Some(Ok(pod)) => Some(pod),
            Some(Err(_)) => return Vec::new(),
        };
        let mut containers = match (&filter.id, &pod) {
            // What is asked of one pod costs as much however many there are.
            (None, Some(pod)) => pod.containers(),
            (id, _) => self.index.containers(id.as_deref()),
        };
        containers.retain(|container| {
            pod.as_ref().is_none_or(|pod| pod.id == container.pod) && container.matches(filter)
        });
        containers.sort_by_key(|container| Reverse(container.created_at));
        containers
    }
}
