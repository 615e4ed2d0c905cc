//! RunPodSandbox, as phases of which each can undo itself.
//!
//! ```text
//!   Reserved    name, directory, record                     fail: nothing more to undo
//!   Launched    keeper in the pod's namespaces; beside it   fail: the keeper is killed
//!               the pod's files and cgroup
//!   Networked   links, addresses, host ports                fail: the network is released
//!   READY
//! ```
//!
//! The keeper comes before the network because the namespace is born with it. After a failure the
//! pod stays listed NOTREADY until it is removed; it holds no address, mount or name, so a retry
//! starts afresh under another id.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use keeper::Sandbox;
use model::{IpcMode, NetworkMode, PodId, PodSpec, PodState};

use crate::claims::Claim;
use crate::create::random_bytes;
use crate::error::Error;
use crate::files;
use crate::names::Reservation;
use crate::pod::Pod;
use crate::record::{self, ProcessIdentity};
use crate::runtime::{Runtime, Shared};
use crate::stats::blocking;
use crate::view::EventKind;

/// The size of a pod's /dev/shm, as the field has it.
const SHM_SIZE: u64 = 64 << 20;

impl Runtime {
    /// Makes a pod sandbox; returns when it is READY. A retry with an equal request joins the
    /// running operation or gets its id; one whose caller has gone away runs to its end.
    ///
    /// # Errors
    /// [`Error::NameTaken`], what is wrong with the request, what could not be made.
    pub async fn run_pod(&self, spec: PodSpec) -> Result<PodId, Error> {
        self.0.check(&spec)?;
        let spec = Arc::new(spec);
        let id = PodId::from_random(random_bytes()?);
        let ready = |id: &PodId| {
            let pod = self.0.index.pod(id.as_str());
            pod.is_ok_and(|pod| pod.cell().state == PodState::Ready)
        };
        let joined = match self.0.pod_names.reserve(&spec.metadata, &spec, &id, ready)? {
            Reservation::Settled(id) => return Ok(id),
            Reservation::Join(joined) => joined,
            Reservation::New(running) => {
                let joined = running.join();
                let shared = Arc::clone(&self.0);
                tokio::spawn(async move {
                    let ran = shared.launch(&spec, &id).await;
                    match &ran {
                        Ok(()) => shared.pod_names.settle(&spec.metadata),
                        Err(_) => shared.pod_names.free(&spec.metadata, &id),
                    }
                    running.finish(ran.map(|()| id).map_err(Arc::new));
                });
                joined
            }
        };
        joined.outcome().await
    }
}

/// A pod that is listed and recorded and has nothing else.
struct Reserved {
    shared: Arc<Shared>,
    pod: Arc<Pod>,
}

/// A pod whose keeper lives in its namespaces.
struct Launched {
    reserved: Reserved,
    keeper: Arc<keeper::Keeper>,
    events: keeper::Events,
    netns: OwnedFd,
}

impl Shared {
    /// Refuses what no pod can be made from.
    fn check(&self, spec: &PodSpec) -> Result<(), Error> {
        let invalid =
            |field: &str, reason: String| Err(Error::Invalid { field: field.to_owned(), reason });
        if !spec.runtime_handler.is_empty() && !self.config.handlers.contains(&spec.runtime_handler)
        {
            let known = self.config.handlers.join(", ");
            let reason = format!(
                "there is no handler {:?}: runtime.handlers in minke's configuration lists {known}; \
                 add it there, or name one of these in the RuntimeClass",
                spec.runtime_handler
            );
            return invalid("runtime_handler", reason);
        }
        if spec.metadata.name.is_empty() {
            return invalid("metadata.name", "must not be empty".into());
        }
        if let Some(directory) = &spec.log_directory
            && !directory.is_empty()
            && !directory.starts_with('/')
        {
            return invalid("log_directory", format!("{directory:?} is not an absolute path"));
        }
        spec::pod_sysctls(spec).map_err(Error::Spec)?;
        self.pod_cgroup(&PodId::from_random([0; 32]), spec)?;
        Ok(())
    }

    async fn launch(self: &Arc<Self>, spec: &Arc<PodSpec>, id: &PodId) -> Result<(), Error> {
        let pod = Pod::reserved(id.clone(), Arc::clone(spec), Arc::clone(&self.boot_id));
        let pod = Arc::new(pod);
        // Held to the end: the pod is listed from now on, and who stops or removes it waits for us.
        let _gate = pod.make().await;
        let reserved = Reserved::new(self, &pod).await?;
        let launched = reserved.launch().await?;
        launched.network().await
    }
}

impl Reserved {
    /// Lists the pod NOTREADY, and records that it is on its way.
    async fn new(shared: &Arc<Shared>, pod: &Arc<Pod>) -> Result<Self, Error> {
        let (id, spec) = (&pod.id, pod.spec());
        // Written down before they are made: a daemon that dies in between leaves nothing unknown.
        let path = shared.pod_cgroup(id, &spec)?;
        let claim = shared.claim(&path, |dir| !dir.exists());
        pod.cell().cgroups = claim;
        let (journal, reserved) = (Arc::clone(&shared.journal), Arc::clone(pod));
        let written = blocking(move || {
            record::make_private_dir(&journal.pod_dir(&reserved.id))?;
            journal.write(&reserved)
        });
        if let Err(error) = written.await {
            told(pod, shared.journal.erase(pod).await);
            return Err(error);
        }
        shared.index.insert_pod(Arc::clone(pod));
        Ok(Self { shared: Arc::clone(shared), pod: Arc::clone(pod) })
    }

    /// Makes the keeper and, meanwhile, what needs none.
    async fn launch(self) -> Result<Launched, Error> {
        let spec = self.pod.spec();
        let modes = &spec.security.namespaces;
        let own_network = modes.network == NetworkMode::Pod;
        let sandbox = Sandbox {
            network: own_network,
            ipc: modes.ipc == IpcMode::Pod,
            uts: own_network,
            user: modes.user.clone(),
            hostname: Some(spec.hostname.clone()).filter(|name| !name.is_empty()),
            shm_size: (modes.ipc == IpcMode::Pod).then_some(SHM_SIZE),
            sysctls: spec::pod_sysctls(&spec).map_err(Error::Spec)?,
            max_version: self.shared.config.keeper_protocol,
        };
        let socket = self.shared.journal.pod_dir(&self.pod.id).join("keeper.sock");
        let making = self.shared.seed.make(&sandbox, &socket);
        let (made, furnished) = tokio::join!(making, self.shared.furnish(&self.pod));
        let made = match made {
            Ok(made) => made,
            Err(source) => {
                // The network is not there yet: this takes back the cgroup.
                told(&self.pod, self.shared.release(&self.pod).await);
                return Err(Error::Keeper { pod: self.pod.id.clone(), action: "be made", source });
            }
        };
        let keeper = Arc::new(made.keeper);
        {
            let mut cell = self.pod.cell();
            cell.keeper_identity = ProcessIdentity::of(keeper.pid());
            cell.keeper = Some(Arc::clone(&keeper));
            cell.user_namespace = made.user.map(Arc::new);
        }
        match furnished {
            Ok(()) => Ok(Launched { reserved: self, keeper, events: made.events, netns: made.net }),
            Err(error) => Err(self.shared.take_back(&self.pod, &keeper, error).await),
        }
    }
}

impl Launched {
    /// Makes the network, where the pod has one of its own, and the pod READY.
    async fn network(self) -> Result<(), Error> {
        let Self { reserved: Reserved { shared, pod }, keeper, events, netns } = self;
        if let Err(error) = shared.acquire(&pod, netns).await {
            return Err(shared.take_back(&pod, &keeper, error).await);
        }
        shared.publish(&pod, pod.id.as_str(), EventKind::Created, || true);
        shared.publish(&pod, pod.id.as_str(), EventKind::Started, || {
            pod.cell().state = PodState::Ready;
            true
        });
        shared.follow(&pod, keeper, events);
        let saved = shared.journal.save(&pod).await;
        if saved.is_err() {
            // The next daemon would not know what it has: it is not to be.
            told(&pod, shared.stop_pod(&pod).await);
        }
        saved
    }
}

/// The first error is the caller's; one of the undoing is for the log.
fn told(pod: &Pod, undone: Result<(), Error>) {
    if let Err(error) = undone {
        let pod = pod.id.as_str();
        tracing::warn!(pod, error = &error as &dyn std::error::Error, "undo is incomplete");
    }
}

impl Shared {
    /// Gives a pod with a network namespace of its own its addresses and ports.
    async fn acquire(&self, pod: &Pod, netns: OwnedFd) -> Result<(), Error> {
        let spec = pod.spec();
        if spec.security.namespaces.network == NetworkMode::Node {
            return Ok(());
        }
        let request = network::Request {
            pod: pod.id.clone(),
            label: format!("{}/{}", spec.metadata.namespace, spec.metadata.name),
            netns,
            ports: spec.ports.clone(),
        };
        let acquired = self.network.acquire(request).await.map_err(|source| Error::Network {
            pod: pod.id.clone(),
            action: "set up",
            source,
        })?;
        let mut cell = pod.cell();
        cell.netns = Some(acquired.netns.clone());
        cell.network = Some(acquired);
        Ok(())
    }

    /// Takes back everything of a pod whose keeper is there, after a failure, which it gives back.
    async fn take_back(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        keeper: &keeper::Keeper,
        error: Error,
    ) -> Error {
        pod.cell().keeper = None;
        keeper.kill();
        keeper.lost().await;
        pod.cell().keeper_identity = None;
        // What the network could not take back is in its own records, and goes at the next start.
        told(pod, self.release(pod).await);
        self.journal.note(pod).await;
        error
    }

    /// Writes the pod's files, makes the cgroup that will hold the containers' and remembers whether
    /// it was there.
    async fn furnish(self: &Arc<Self>, pod: &Arc<Pod>) -> Result<(), Error> {
        let path = self.pod_cgroup(&pod.id, &pod.spec())?;
        let (shared, pod) = (Arc::clone(self), Arc::clone(pod));
        blocking(move || {
            files::write(&shared.journal.pod_dir(&pod.id), &pod.spec())?;
            let created = shared.cgroups.create(&path).map_err(|source| Error::Cgroup {
                path: path.as_str().to_owned(),
                action: "created",
                source,
            })?;
            let claim = shared.claim(&path, |dir| created.made.iter().any(|it| it == dir));
            pod.cell().cgroups = claim;
            Ok(())
        })
        .await
    }

    /// Claims the directories of a pod's cgroup that are to go with it: those that `are_new`, and those
    /// that were made for another pod, which may go before.
    fn claim(&self, path: &cgroup::CgroupPath, are_new: impl Fn(&Path) -> bool) -> Option<Claim> {
        let mut directories = self.cgroups.ancestry(path);
        directories.retain(|dir| are_new(dir) || self.claims.include(dir));
        self.claims.claim(directories)
    }
}
