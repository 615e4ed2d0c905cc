//! What a new daemon does with what an earlier one left.
//!
//! ```text
//!   record of this boot, keeper alive ----> adopted: states and ends from the keeper
//!                        keeper gone  ----> NOTREADY, what is left is killed, network released
//!   record of an earlier boot -----------> NOTREADY, what ran has EXITED 255 Unknown
//!   record that cannot be read ----------> its copy, or set aside, by name, and what lives is ended
//!   no record ---------------------------> removed: the daemon died before there was one, or after
//!   then: what no pod owns is removed (networks, writable layers, cgroups, leases)
//! ```

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use model::{ContainerId, PodState, Timestamp};
use oci_spec::runtime::Spec;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::claims::Claims;
use crate::container::{Container, Live};
use crate::ends::{self, End};
use crate::error::Error;
use crate::events::Events;
use crate::filter::Filters;
use crate::follow::{PATIENCE, phases};
use crate::index::Index;
use crate::journal::{Journal, Loaded};
use crate::names::Names;
use crate::node::Node;
use crate::pod::Pod;
use crate::recipe::own_cgroup;
use crate::record::{self, ContainerRecord, PodRecord};
use crate::runtime::{Config, Parts, Runtime, Shared};
use crate::scope::Scopes;
use crate::stats::blocking;
use crate::stop::run_to_end;
use crate::view::ContainerPhase;

impl Runtime {
    /// Takes over what the last daemon left and removes what belongs to no pod.
    ///
    /// # Errors
    /// Directories that cannot be made, a node that lacks what pods need. A pod that cannot be taken
    /// over is no error: it is listed NOTREADY, or set aside.
    pub async fn open(config: Config, parts: Parts) -> Result<Self, Error> {
        let journal = Arc::new(Journal::open(&config.state, &config.root)?);
        let containers = config.root.join("containers");
        record::make_private_dir(&containers)?;
        let overlay = executor::prepare::probe(&containers).map_err(Error::Node)?;
        let cgroup_view = executor::prepare::CgroupView::detect().map_err(Error::Node)?;
        let node = Node::discover(&parts.cgroups);
        let runtime = Self(Arc::new(Shared {
            config,
            images: parts.images,
            network: parts.network,
            cgroups: parts.cgroups,
            seed: parts.seed,
            node,
            overlay,
            cgroup_view,
            boot_id: record::boot_id()?.into(),
            index: Index::default(),
            claims: Claims::default(),
            journal: Arc::clone(&journal),
            events: Events::default(),
            filters: Filters::default(),
            pod_names: Names::new("pod sandbox", |pod| {
                format!("{}/{} (uid {}, attempt {})", pod.namespace, pod.name, pod.uid, pod.attempt)
            }),
            container_names: Names::new("container", |(pod, container)| {
                format!("{} (attempt {}) of pod {pod}", container.name, container.attempt)
            }),
        }));
        runtime.0.recover().await?;
        tokio::spawn(journal.copy_changes());
        Ok(runtime)
    }

    /// Writes down all that is not yet durable; to be called before the daemon ends.
    ///
    /// # Errors
    /// A record that cannot be written.
    pub async fn flush(&self) -> Result<(), Error> {
        let journal = Arc::clone(&self.0.journal);
        blocking(move || journal.flush()).await
    }

    /// Stops and removes every pod.
    ///
    /// # Errors
    /// The first that could not be removed; the others are removed all the same.
    pub async fn remove_all(&self) -> Result<(), Error> {
        let pods = self.0.index.pods(None);
        let removals = pods.iter().map(|pod| self.remove_pod(pod.id.as_str()));
        futures_util::future::join_all(removals).await.into_iter().collect()
    }
}

impl Shared {
    async fn recover(self: &Arc<Self>) -> Result<(), Error> {
        let Loaded { records, restored, lost } = {
            let journal = Arc::clone(&self.journal);
            blocking(move || Ok(journal.load())).await?
        };
        for bad in restored {
            let (record, error) = (bad.path.display(), &bad.error as &dyn std::error::Error);
            tracing::error!(%record, error, "this record is bad and its copy is used");
        }
        for bad in lost {
            let (record, error) = (bad.path.display(), &bad.error as &dyn std::error::Error);
            tracing::error!(%record, error, "this record is set aside, and its pod ends");
            self.end_unlisted(&bad.path).await;
            self.journal.set_aside(&bad.path);
        }
        let pods = records.into_iter().map(|record| {
            let shared = Arc::clone(self);
            run_to_end(async move { shared.recover_pod(record).await })
        });
        for recovered in futures_util::future::join_all(pods).await {
            if let Err(error) = recovered {
                tracing::error!(error = &error as &dyn std::error::Error, "a pod is not recovered");
            }
        }
        self.sweep().await
    }

    async fn recover_pod(self: &Arc<Self>, record: PodRecord) -> Result<(), Error> {
        let this_boot = record.boot_id == *self.boot_id;
        let containers = record.containers.clone();
        let pod = Arc::new(Pod::recorded_as(record, &self.claims));
        self.index.insert_pod(Arc::clone(&pod));
        // A reboot has emptied the state directory; what becomes of the pod is written there too.
        record::make_private_dir(&self.journal.pod_dir(&pod.id))?;
        let spec = pod.spec();
        let mut keeper = match this_boot.then(|| pod.cell().keeper_identity).flatten() {
            Some(identity) if identity.is_alive() => self.reach(&pod).await,
            _ => None,
        };
        let known = match &keeper {
            Some((_, status, _)) => phases(status),
            None => HashMap::new(),
        };
        let mut whole = Ok(());
        for record in containers {
            let recovered = self.recover_container(&pod, record, this_boot, &known);
            whole = whole.and(recovered);
        }
        if let Err(error) = whole {
            let pod = pod.id.as_str();
            tracing::error!(pod, error = &error as &dyn std::error::Error, "its pod ends");
            if let Some((keeper, ..)) = keeper.take() {
                keeper.kill();
                keeper.lost().await;
            }
        }
        match keeper {
            Some((keeper, status, events)) => {
                self.adopt(&pod, Arc::new(keeper), status, events).await;
                self.pod_names.adopt(spec.metadata.clone(), spec, pod.id.clone());
            }
            None => {
                // A daemon that died while it made the pod knew its keeper, its record does not.
                self.dismiss(&self.journal.pod_dir(&pod.id)).await;
                self.bury(&pod, this_boot).await?;
            }
        }
        self.journal.note(&pod).await;
        Ok(())
    }

    /// Kills the keeper that listens in a pod's directory, if there is one.
    async fn dismiss(&self, dir: &Path) {
        let socket = dir.join("keeper.sock");
        let connected = keeper::Keeper::connect(&socket);
        if let Ok(Ok((keeper, _))) = tokio::time::timeout(PATIENCE, connected).await {
            keeper.kill();
            keeper.lost().await;
        }
    }

    /// Ends what lives of a pod that nobody can list: it would be started a second time.
    async fn end_unlisted(self: &Arc<Self>, dir: &Path) {
        let specs: Vec<_> = fs::read_dir(dir).into_iter().flatten().flatten().collect();
        let cgroups = specs.iter().filter_map(|entry| {
            let spec: Spec = serde_json::from_slice(&fs::read(entry.path()).ok()?).ok()?;
            let path = spec.linux().as_ref()?.cgroups_path().as_ref()?;
            cgroup::CgroupPath::new(path.to_str()?).ok()
        });
        let cgroups: Vec<_> = cgroups.map(|path| self.cgroups.open(&path)).collect();
        // The pod's own is known only where nobody asked for another; the kubelet removes its own.
        let id = dir.file_stem().and_then(|name| name.to_str()?.parse().ok());
        let own = id.and_then(|id| own_cgroup(&id).ok()).map(|path| self.cgroups.ancestry(&path));
        self.dismiss(dir).await;
        let hierarchy = self.cgroups.clone();
        let _ended = blocking(move || {
            cgroups.iter().for_each(ends::remove_by_force);
            // One that is still in use is somebody else's business.
            let _ = hierarchy.prune(&own.unwrap_or_default());
            Ok(())
        })
        .await;
    }

    fn recover_container(
        &self,
        pod: &Arc<Pod>,
        mut record: ContainerRecord,
        this_boot: bool,
        known: &HashMap<ContainerId, keeper::ContainerPhase>,
    ) -> Result<(), Error> {
        let init = record.init;
        if !this_boot {
            record.state = ends::after_reboot(record.state);
            record.init = None;
        } else if let Some(keeper::ContainerPhase::Running { started_at }) = known.get(&record.id)
            && record.state == model::ContainerState::Created
        {
            // Started, and the daemon died before it could write that down.
            record.state = model::ContainerState::Running { started_at: *started_at };
        }
        let name = (pod.id.clone(), record.spec.metadata.clone());
        self.container_names.adopt(name, Arc::clone(&record.spec), record.id.clone());
        let images = std::iter::once(&record.facts.image_id);
        for image in images.chain(record.facts.image_volumes.values()) {
            let Ok(image) = image.parse() else { continue };
            // An image that was removed by hand is missed at the next create, not now.
            let _ = self.images.lease(&image, record.id.as_str());
        }
        let container = Arc::new(Container::new(record, pod.id.clone()));
        pod.cell().containers.push(Arc::clone(&container));
        self.index.insert_container(Arc::clone(&container));
        if this_boot && container.phase() != ContainerPhase::Exited {
            let pidfd = init.filter(|init| init.is_alive()).and_then(|init| pidfd(init.pid));
            container.cell().live = self.relive(pod, &container, pidfd)?.map(Arc::new);
        }
        Ok(())
    }

    /// What a living container holds, from the files that its creation left. One whose process has
    /// ended holds nothing but its cgroup, which its end clears by its name.
    fn relive(
        &self,
        pod: &Pod,
        container: &Container,
        pidfd: Option<OwnedFd>,
    ) -> Result<Option<Live>, Error> {
        let Some(pidfd) = pidfd else { return Ok(None) };
        let path = self.spec_path(&pod.id, &container.id);
        let bytes = fs::read(&path).map_err(record::file(&path, "read"))?;
        let mut spec: Spec = serde_json::from_slice(&bytes)
            .map_err(|error| record::file(&path, "understood")(std::io::Error::other(error)))?;
        let profile = spec.linux_mut().as_mut().and_then(|linux| {
            let profile = linux.seccomp().clone();
            linux.set_seccomp(None);
            profile
        });
        let filter =
            profile.map(|profile| self.filters.known(profile, &container.id)).transpose()?;
        let cgroup = cgroup::CgroupPath::new(&container.facts.cgroup).map_err(|source| {
            Error::Cgroup { path: container.facts.cgroup.clone(), action: "named", source }
        })?;
        let cgroup = self.cgroups.open(&cgroup);
        let scopes = Scopes::found(&cgroup);
        Ok(Some(Live { pidfd, cgroup, spec: Arc::new(spec), filter, scopes }))
    }

    /// Goes on with a pod whose keeper lives.
    async fn adopt(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        keeper: Arc<keeper::Keeper>,
        status: keeper::Status,
        events: keeper::Events,
    ) {
        {
            let mut cell = pod.cell();
            cell.keeper = Some(Arc::clone(&keeper));
            cell.netns = cell.network.as_ref().map(|network| network.netns.clone());
            if cell.spec.security.namespaces.user.is_some() {
                cell.user_namespace = owner_of(keeper.pid()).map(Arc::new);
            }
        }
        self.catch_up(pod, &keeper, &status).await;
        tracing::info!(pod = pod.id.as_str(), protocol = keeper.version(), "pod adopted");
        self.follow(pod, keeper, events);
    }

    /// Ends a pod that has no keeper any more.
    async fn bury(self: &Arc<Self>, pod: &Arc<Pod>, this_boot: bool) -> Result<(), Error> {
        let was_ready = std::mem::replace(&mut pod.cell().state, PodState::NotReady);
        let identity = pod.cell().keeper_identity.take();
        if this_boot && let Some(identity) = identity.filter(|identity| identity.is_alive()) {
            // It lives and does not answer.
            if let Some(pidfd) = pidfd(identity.pid) {
                let _ = sys::pidfd::send_signal(&pidfd, model::Signal::KILL.number());
            }
        }
        for container in pod.containers() {
            if let Some(live) = container.live() {
                ends::kill(&live);
            }
            let end = if this_boot { End::KeeperLost } else { End::Unknown };
            self.container_ended(pod, &container, end).await;
        }
        if was_ready == PodState::Ready {
            tracing::warn!(pod = pod.id.as_str(), at = ?Timestamp::now(), "pod is not ready any more");
        }
        self.release(pod).await
    }

    /// Removes what belongs to no pod: networks, writable layers, image leases.
    async fn sweep(self: &Arc<Self>) -> Result<(), Error> {
        let pods = self.index.pods(None);
        let live =
            pods.iter().filter_map(|pod| Some((pod.id.clone(), pod.cell().network.clone()?)));
        let adopted = self.network.adopt(live.collect()).await;
        if let Err(error) = adopted {
            tracing::warn!(error = &error as &dyn std::error::Error, "networks are not swept");
        }
        let containers: HashSet<String> = self
            .index
            .containers(None)
            .iter()
            .map(|container| container.id.as_str().to_owned())
            .collect();
        let dir = self.config.root.join("containers");
        let pods: Vec<_> =
            pods.iter().filter_map(|pod| self.pod_cgroup(&pod.id, &pod.spec()).ok()).collect();
        let hierarchy = self.cgroups.clone();
        let swept = blocking(move || {
            for entry in fs::read_dir(&dir).map_err(record::file(&dir, "read"))?.flatten() {
                let name = entry.file_name();
                if !name.to_str().is_some_and(|name| containers.contains(name)) {
                    // A daemon died while it made this one: it has a cgroup in one of the pods'.
                    let cgroups = pods.iter().filter_map(|pod| pod.join(name.to_str()?).ok());
                    cgroups.for_each(|path| ends::remove_by_force(&hierarchy.open(&path)));
                    fs::remove_dir_all(entry.path())
                        .map_err(record::file(&entry.path(), "removed"))?;
                }
            }
            Ok(())
        });
        if let Err(error) = swept.await {
            tracing::warn!(error = &error as &dyn std::error::Error, "leftovers are not swept");
        }
        self.images.adopted().await.map_err(Error::Images)
    }
}

pub(crate) fn pidfd(pid: u32) -> Option<OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

/// The user namespace that owns a process' IPC namespace (ioctl_ns(2)).
fn owner_of(pid: u32) -> Option<OwnedFd> {
    let namespaces = ["net", "ipc", "uts"].into_iter();
    let files = namespaces.filter_map(|kind| fs::File::open(format!("/proc/{pid}/ns/{kind}")).ok());
    files.filter_map(|file| sys::namespace::owner(file.as_fd()).ok()).find(|owner| !is_own(owner))
}

/// Whether a user namespace is this process' own.
fn is_own(namespace: &OwnedFd) -> bool {
    let own = fs::File::open("/proc/self/ns/user").ok();
    let number =
        |fd: std::os::fd::BorrowedFd<'_>| rustix::fs::fstat(fd).ok().map(|stat| stat.st_ino);
    own.is_some_and(|own| number(own.as_fd()) == number(namespace.as_fd()))
}
