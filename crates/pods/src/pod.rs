//! A pod in memory: what was asked for, its state, and what it holds while it lives.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::{ContainerId, PodId, PodSpec, PodState, Timestamp};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard, watch};

use crate::claims::{Claim, Claims};
use crate::container::Container;
use crate::error::Error;
use crate::record::{self, PodRecord, ProcessIdentity};
use crate::stats::Gauge;
use crate::view::{PodFilter, PodView};

/// How long a stop waits for what is under way in its pod before it is broken off.
const MAKING_ROOM: Duration = Duration::from_secs(2);

/// A pod sandbox.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) id: PodId,
    pub(crate) created_at: Timestamp,
    /// Containers are created and started under a shared hold, the pod is made, stopped and removed
    /// under the only one: nothing slips into a pod that is being stopped.
    gate: RwLock<()>,
    closing: watch::Sender<Closing>,
    /// Counters of its cgroup, open once somebody has asked.
    pub(crate) gauge: Gauge,
    cell: Mutex<Cell>,
    /// Lets one record be written at a time, so that an older one never replaces a newer, and none
    /// once it was erased.
    writing: Mutex<Record>,
}

/// What changes; locked for moments, never across an await.
#[derive(Debug)]
pub(crate) struct Cell {
    pub(crate) spec: Arc<PodSpec>,
    pub(crate) state: PodState,
    pub(crate) boot_id: Arc<str>,
    /// The connection to its keeper while that lives.
    pub(crate) keeper: Option<Arc<keeper::Keeper>>,
    /// The keeper as the record names it.
    pub(crate) keeper_identity: Option<ProcessIdentity>,
    pub(crate) network: Option<network::Attachment>,
    pub(crate) netns: Option<PathBuf>,
    pub(crate) cgroups: Option<Claim>,
    /// The namespace that owns the pod's others, where it has one.
    pub(crate) user_namespace: Option<Arc<OwnedFd>>,
    pub(crate) containers: Vec<Arc<Container>>,
}

/// Whether somebody wants to stop the pod. What was asked for once stays asked for.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Closing {
    #[default]
    No,
    /// Since what was under way has time to end by itself.
    Asked,
    /// It did not: it is broken off.
    Overdue,
}

/// Whether a pod is still to be found by the next daemon.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Record {
    #[default]
    Kept,
    Erased,
}

impl Cell {
    /// The cgroup directories that minke has made and that go with the pod, deepest first.
    pub(crate) fn cgroups_made(&self) -> Vec<PathBuf> {
        self.cgroups.as_ref().map(Claim::to_vec).unwrap_or_default()
    }
}

impl Pod {
    /// A pod that has nothing yet but its name.
    pub(crate) fn reserved(id: PodId, spec: Arc<PodSpec>, boot_id: Arc<str>) -> Self {
        let cell = Cell {
            spec,
            state: PodState::NotReady,
            boot_id,
            keeper: None,
            keeper_identity: None,
            network: None,
            netns: None,
            cgroups: None,
            user_namespace: None,
            containers: Vec::new(),
        };
        Self {
            id,
            created_at: Timestamp::now(),
            gate: RwLock::default(),
            closing: watch::Sender::default(),
            gauge: Gauge::default(),
            cell: Mutex::new(cell),
            writing: Mutex::default(),
        }
    }

    /// A pod as its record tells, without its keeper.
    pub(crate) fn recorded_as(record: PodRecord, claims: &Claims) -> Self {
        let cell = Cell {
            spec: record.spec,
            state: record.state,
            boot_id: record.boot_id.into(),
            keeper: None,
            keeper_identity: record.keeper,
            network: record.network,
            netns: None,
            cgroups: claims.claim(record.cgroups_made),
            user_namespace: None,
            containers: Vec::new(),
        };
        Self {
            id: record.id,
            created_at: record.created_at,
            gate: RwLock::default(),
            closing: watch::Sender::default(),
            gauge: Gauge::default(),
            cell: Mutex::new(cell),
            writing: Mutex::default(),
        }
    }

    /// Holds the pod open for something new in it; waits for who stops it.
    pub(crate) async fn enter(&self) -> RwLockReadGuard<'_, ()> {
        self.gate.read().await
    }

    /// Has a new pod to oneself until it is made.
    pub(crate) async fn make(&self) -> RwLockWriteGuard<'_, ()> {
        self.gate.write().await
    }

    /// Has the pod to oneself, to end it. What is under way in it has a moment to end by itself: a
    /// call that hangs for a dead mount must not keep a pod alive.
    pub(crate) async fn close(&self) -> RwLockWriteGuard<'_, ()> {
        self.ask(Closing::Asked);
        let mut gate = std::pin::pin!(self.gate.write());
        if let Ok(gate) = tokio::time::timeout(MAKING_ROOM, &mut gate).await {
            return gate;
        }
        self.ask(Closing::Overdue);
        gate.await
    }

    fn ask(&self, wanted: Closing) {
        self.closing.send_if_modified(|closing| {
            let further = *closing < wanted;
            *closing = (*closing).max(wanted);
            further
        });
    }

    /// Whether somebody wants to end it, or has.
    pub(crate) fn is_closing(&self) -> bool {
        *self.closing.borrow() != Closing::No
    }

    /// Waits for something that is under way in the pod; none if it is to be broken off.
    pub(crate) async fn under_way<T>(&self, operation: impl Future<Output = T>) -> Option<T> {
        let mut closing = self.closing.subscribe();
        tokio::select! {
            biased;
            result = operation => Some(result),
            // The sender is a part of self, so that there is always an answer.
            _ = closing.wait_for(|closing| *closing == Closing::Overdue) => None,
        }
    }

    /// Its changing part.
    pub(crate) fn cell(&self) -> MutexGuard<'_, Cell> {
        self.cell.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was asked for.
    pub(crate) fn spec(&self) -> Arc<PodSpec> {
        Arc::clone(&self.cell().spec)
    }

    /// Its containers, oldest first.
    pub(crate) fn containers(&self) -> Vec<Arc<Container>> {
        self.cell().containers.clone()
    }

    /// Its keeper, where it is READY.
    pub(crate) fn keeper(&self) -> Result<Arc<keeper::Keeper>, Error> {
        let cell = self.cell();
        match (&cell.keeper, cell.state) {
            (Some(keeper), PodState::Ready) => Ok(Arc::clone(keeper)),
            _ => Err(self.ended()),
        }
    }

    /// The error for what is asked of it too late.
    pub(crate) fn ended(&self) -> Error {
        Error::WrongState {
            what: "pod sandbox",
            id: self.id.to_string(),
            state: "not ready",
            reason: "it has been stopped or lost",
        }
    }

    /// Whether it has been stopped and nothing is left to give back.
    pub(crate) fn has_nothing(&self) -> bool {
        let cell = self.cell();
        cell.state == PodState::NotReady
            && cell.keeper.is_none()
            && cell.keeper_identity.is_none()
            && cell.network.is_none()
            && cell.cgroups.is_none()
    }

    pub(crate) fn forget_container(&self, id: &ContainerId) {
        self.cell().containers.retain(|container| container.id != *id);
    }

    /// Has its record removed by `erase`, for good: whoever comes late writes no other.
    pub(crate) fn erased<T>(&self, erase: impl FnOnce() -> T) -> T {
        let mut turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        *turn = Record::Erased;
        erase()
    }

    /// Hands a record of the present to `write`, one caller at a time; none once it was erased.
    pub(crate) fn recorded<T>(&self, write: impl FnOnce(&PodRecord) -> T) -> Option<T> {
        let turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if *turn == Record::Erased {
            return None;
        }
        let record = {
            let cell = self.cell();
            PodRecord {
                version: record::VERSION,
                boot_id: cell.boot_id.to_string(),
                id: self.id.clone(),
                spec: Arc::clone(&cell.spec),
                created_at: self.created_at,
                state: cell.state,
                keeper: cell.keeper_identity,
                network: cell.network.clone(),
                cgroups_made: cell.cgroups_made(),
                containers: cell.containers.iter().map(|container| container.record()).collect(),
            }
        };
        Some(write(&record))
    }

    /// What the outside sees.
    pub(crate) fn view(&self) -> PodView {
        let cell = self.cell();
        let ready = cell.state == PodState::Ready;
        PodView {
            id: self.id.clone(),
            spec: Arc::clone(&cell.spec),
            state: cell.state,
            created_at: self.created_at,
            ips: match &cell.network {
                Some(network) if ready => network.ips().collect(),
                _ => Vec::new(),
            },
            pid: cell.keeper_identity.filter(|_| ready).map(|keeper| keeper.pid),
            netns: cell.netns.as_ref().filter(|_| ready).map(|path| path.display().to_string()),
        }
    }

    /// Whether the filter's state and labels admit it; the id was looked up before.
    pub(crate) fn matches(&self, filter: &PodFilter) -> bool {
        let cell = self.cell();
        filter.state.is_none_or(|state| state == cell.state)
            && filter.labels.iter().all(|(key, value)| cell.spec.labels.get(key) == Some(value))
    }
}
