//! A container in memory: what was asked for, what was found out, its state, and what it holds.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::{
    ContainerId, ContainerSpec, ContainerState, Exit, PodId, PodSpec, Resources, Timestamp,
};
use oci_spec::runtime::Spec;
use tokio::sync::watch;

use crate::error::Error;
use crate::filter::Filter;
use crate::record::{ContainerFacts, ContainerRecord, ProcessIdentity};
use crate::scope::Scopes;
use crate::stats::Gauge;
use crate::usage::Usage;
use crate::view::{ContainerFilter, ContainerPhase, ContainerView};

/// A container.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: ContainerId,
    pub(crate) pod: PodId,
    pub(crate) spec: Arc<ContainerSpec>,
    pub(crate) created_at: Timestamp,
    pub(crate) facts: Arc<ContainerFacts>,
    /// One start, update or removal at a time; Stop does not take it, it must always get through.
    pub(crate) operation: tokio::sync::Mutex<()>,
    /// Held while a start is under way: the end of the init is told after what the start came to, or
    /// a program that is not there would look like one that failed.
    pub(crate) starting: tokio::sync::Mutex<()>,
    /// When a stop that is under way kills; later stops may only bring it forward.
    pub(crate) stop_deadline: watch::Sender<Option<tokio::time::Instant>>,
    /// Counters of its cgroup, open once somebody has asked.
    pub(crate) gauge: Gauge,
    /// What it has written.
    pub(crate) usage: Arc<Usage>,
    ended: watch::Sender<bool>,
    cell: Mutex<Cell>,
}

/// What changes; locked for moments, never across an await.
#[derive(Debug)]
pub(crate) struct Cell {
    pub(crate) state: ContainerState,
    pub(crate) resources: Resources,
    pub(crate) init: Option<ProcessIdentity>,
    pub(crate) live: Option<Arc<Live>>,
}

/// What a container holds until its end.
#[derive(Debug)]
pub(crate) struct Live {
    /// Its init: signals go to this process or to none.
    pub(crate) pidfd: OwnedFd,
    pub(crate) cgroup: cgroup::Cgroup,
    /// The runtime specification, for exec; its seccomp part is in `filter`.
    pub(crate) spec: Arc<Spec>,
    /// The compiled filter, shared by all containers with the same one.
    pub(crate) filter: Option<Arc<Filter>>,
    /// The parts of its cgroup that commands have for themselves.
    pub(crate) scopes: Scopes,
}

impl Container {
    pub(crate) fn new(record: ContainerRecord, pod: PodId) -> Self {
        let ended = matches!(record.state, ContainerState::Exited { .. });
        Self {
            id: record.id,
            pod,
            spec: record.spec,
            created_at: record.created_at,
            facts: record.facts,
            operation: tokio::sync::Mutex::default(),
            starting: tokio::sync::Mutex::default(),
            stop_deadline: watch::Sender::new(None),
            gauge: Gauge::default(),
            usage: Arc::default(),
            ended: watch::Sender::new(ended),
            cell: Mutex::new(Cell {
                state: record.state,
                resources: record.resources,
                init: record.init,
                live: None,
            }),
        }
    }

    pub(crate) fn cell(&self) -> MutexGuard<'_, Cell> {
        self.cell.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn state(&self) -> ContainerState {
        self.cell().state.clone()
    }

    pub(crate) fn phase(&self) -> ContainerPhase {
        phase(&self.cell().state)
    }

    /// What it holds, where it has not ended.
    pub(crate) fn live(&self) -> Option<Arc<Live>> {
        self.cell().live.clone()
    }

    /// What a running container holds, or the error for one that does not run.
    pub(crate) fn running(&self) -> Result<Arc<Live>, Error> {
        let cell = self.cell();
        match (&cell.state, &cell.live) {
            (ContainerState::Running { .. }, Some(live)) => Ok(Arc::clone(live)),
            (state, _) => Err(self.wrong_state(state, "it must be running")),
        }
    }

    pub(crate) fn wrong_state(&self, state: &ContainerState, reason: &'static str) -> Error {
        let state = match phase(state) {
            ContainerPhase::Created => "created",
            ContainerPhase::Running => "running",
            ContainerPhase::Exited => "exited",
        };
        Error::WrongState { what: "container", id: self.id.to_string(), state, reason }
    }

    /// Created becomes running; false if it has ended meanwhile.
    pub(crate) fn started(&self, at: Timestamp) -> bool {
        let mut cell = self.cell();
        let created = matches!(cell.state, ContainerState::Created);
        if created {
            cell.state = ContainerState::Running { started_at: at };
        }
        created
    }

    /// Whatever it was becomes exited, once; gives what it held, and none if it had ended before.
    pub(crate) fn exited(&self, exit: Exit) -> Option<Option<Arc<Live>>> {
        let mut cell = self.cell();
        let started_at = match cell.state {
            ContainerState::Created => Timestamp::default(),
            ContainerState::Running { started_at } => started_at,
            ContainerState::Exited { .. } => return None,
        };
        cell.state = ContainerState::Exited { started_at, exit };
        cell.init = None;
        Some(cell.live.take())
    }

    /// Tells those who wait for the end; called once the end is published.
    pub(crate) fn announce_end(&self) {
        self.ended.send_replace(true);
    }

    /// Returns when the end has been published.
    pub(crate) async fn end(&self) {
        // The sender is a part of self, so the channel cannot close under the wait.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    pub(crate) fn record(&self) -> ContainerRecord {
        let cell = self.cell();
        ContainerRecord {
            id: self.id.clone(),
            spec: Arc::clone(&self.spec),
            created_at: self.created_at,
            state: cell.state.clone(),
            facts: Arc::clone(&self.facts),
            resources: cell.resources.clone(),
            init: cell.init,
        }
    }

    /// What the outside sees.
    pub(crate) fn view(&self, pod_spec: Arc<PodSpec>) -> ContainerView {
        let cell = self.cell();
        let log_path = self.facts.log_path.as_ref();
        ContainerView {
            id: self.id.clone(),
            pod: self.pod.clone(),
            pod_spec,
            spec: Arc::clone(&self.spec),
            state: cell.state.clone(),
            created_at: self.created_at,
            image_id: self.facts.image_id.clone(),
            image_ref: self.facts.image_ref.clone(),
            resources: cell.resources.clone(),
            user: self.facts.user.clone(),
            stop_signal: self.facts.stop_signal,
            log_path: log_path.map(|path| path.display().to_string()).unwrap_or_default(),
            pid: cell.init.map(|init| init.pid),
            image_volumes: self.facts.image_volumes.clone(),
            cgroup: self.facts.cgroup.clone(),
        }
    }

    /// Whether the filter's phase and labels admit it; ids were looked up before.
    pub(crate) fn matches(&self, filter: &ContainerFilter) -> bool {
        let labels: &BTreeMap<_, _> = &self.spec.labels;
        filter.phase.is_none_or(|phase| phase == self.phase())
            && filter.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
    }
}

fn phase(state: &ContainerState) -> ContainerPhase {
    match state {
        ContainerState::Created => ContainerPhase::Created,
        ContainerState::Running { .. } => ContainerPhase::Running,
        ContainerState::Exited { .. } => ContainerPhase::Exited,
    }
}
