//! CreateContainer and StartContainer.
//!
//! ```text
//!   name reserved -> Draft: recipe, directories, cgroup, init waiting before execve -> Container
//!                      |  undone in reverse, whatever it had got to
//!                      +--- failure: no record, no cgroup, no directory, no lease
//! ```

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cgroup::{Attachment, Cgroup};
use executor::prepare::{self, Inputs, Prepared, RootSource, StdioSource};
use model::{ContainerId, ContainerSpec, ContainerState, PidMode, PodId, Timestamp};
use oci_spec::runtime::Spec;
use tokio::task::JoinHandle;

use crate::container::{Container, Live};
use crate::ends::End;
use crate::error::Error;
use crate::names::Reservation;
use crate::pod::Pod;
use crate::recipe::{Places, Recipe};
use crate::record::{self, ContainerRecord, ProcessIdentity};
use crate::runtime::{Runtime, Shared};
use crate::scope::Scopes;
use crate::stats::blocking;
use crate::stop::run_to_end;
use crate::view::EventKind;

impl Runtime {
    /// Makes a container whose init waits before execve. A retry with an equal request joins the
    /// running operation or gets its id; one whose caller has gone away runs to its end.
    ///
    /// # Errors
    /// [`Error::PodNotFound`], [`Error::WrongState`] of a pod that is not READY,
    /// [`Error::NameTaken`], [`Error::ImageNotFound`], and what is wrong with the request.
    pub async fn create_container(
        &self,
        pod: &str,
        spec: ContainerSpec,
    ) -> Result<ContainerId, Error> {
        let pod = self.0.index.pod(pod)?;
        let spec = Arc::new(spec);
        let id = ContainerId::from_random(random_bytes()?);
        let name = (pod.id.clone(), spec.metadata.clone());
        let waits = |id: &ContainerId| {
            let container = self.0.index.container(id.as_str());
            container.is_ok_and(|container| container.state() == ContainerState::Created)
        };
        let joined = match self.0.container_names.reserve(&name, &spec, &id, waits)? {
            Reservation::Settled(id) => return Ok(id),
            Reservation::Join(joined) => joined,
            Reservation::New(running) => {
                let joined = running.join();
                let shared = Arc::clone(&self.0);
                tokio::spawn(async move {
                    let created = shared.create(&pod, &spec, &id).await;
                    match &created {
                        Ok(()) => shared.container_names.settle(&name),
                        Err(_) => shared.container_names.free(&name, &id),
                    }
                    running.finish(created.map(|()| id).map_err(Arc::new));
                });
                joined
            }
        };
        joined.outcome().await
    }

    /// Lets a created container's program begin; returns when execve has succeeded or failed.
    ///
    /// # Errors
    /// [`Error::ContainerNotFound`], [`Error::Ambiguous`], [`Error::WrongState`]; why execve failed,
    /// in which case the container stays, EXITED with 128 and `StartError`.
    pub async fn start_container(&self, id: &str) -> Result<(), Error> {
        let container = self.0.index.container(id)?;
        let shared = Arc::clone(&self.0);
        run_to_end(async move { shared.start(&container).await }).await
    }
}

/// 32 bytes for an id.
pub(crate) fn random_bytes() -> Result<[u8; 32], Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|_| Error::Internal("the kernel gives no random bytes"))?;
    Ok(bytes)
}

impl Shared {
    async fn create(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        spec: &Arc<ContainerSpec>,
        id: &ContainerId,
    ) -> Result<(), Error> {
        // Held to the end: a pod that is being stopped waits for us, or turns us away.
        let _gate = pod.enter().await;
        let keeper = pod.keeper()?;
        // A task of its own, since a volume on a dead mount can keep it for ever.
        let mut assembling = tokio::spawn({
            let (shared, pod, keeper) = (Arc::clone(self), Arc::clone(pod), Arc::clone(&keeper));
            let (spec, id) = (Arc::clone(spec), id.clone());
            async move { shared.assemble(&pod, &keeper, &spec, &id).await }
        });
        let created = match pod.under_way(&mut assembling).await {
            Some(Ok(Ok(assembled))) => self.enlist(pod, spec, id, assembled).await,
            Some(Ok(Err(error))) => Err(error),
            Some(Err(_)) => Err(Error::Internal("a creation was stopped by a defect of its own")),
            None => {
                self.undo(pod, id).await;
                self.undo_later(pod, id, assembling);
                return Err(pod.ended());
            }
        };
        if created.is_err() {
            // Where the keeper had got as far as an init, its end is the cgroup's.
            let _ = keeper.forget(id).await;
            self.undo(pod, id).await;
        }
        created
    }

    /// Takes back what a creation that was broken off has made behind our back, once it comes to its
    /// end. The pod has gone on to its own by then.
    fn undo_later(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        id: &ContainerId,
        assembling: JoinHandle<Result<Assembled, Error>>,
    ) {
        let (shared, pod, id) = (Arc::clone(self), Arc::clone(pod), id.clone());
        let above = pod.cell().cgroups_made();
        tokio::spawn(async move {
            drop(assembling.await);
            shared.undo(&pod, &id).await;
            let cgroups = shared.cgroups.clone();
            let pruned = blocking(move || {
                let path = above.first().map(|path| path.display().to_string());
                cgroups.prune(&above).map_err(|source| Error::Cgroup {
                    path: path.unwrap_or_default(),
                    action: "removed",
                    source,
                })
            });
            if let Err(error) = pruned.await {
                let id = id.as_str();
                tracing::warn!(
                    container = id,
                    error = &error as &dyn std::error::Error,
                    "leftovers"
                );
            }
        });
    }

    /// Makes everything that a container has, in order.
    async fn assemble(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        keeper: &keeper::Keeper,
        spec: &Arc<ContainerSpec>,
        id: &ContainerId,
    ) -> Result<Assembled, Error> {
        let places = self.places(pod, spec, keeper).await?;
        let user_namespace = pod.cell().user_namespace.clone();
        let draft = {
            let (shared, pod) = (Arc::clone(self), Arc::clone(pod));
            let (spec, id) = (Arc::clone(spec), id.clone());
            blocking(move || shared.prepare(&pod, &spec, &id, &places, user_namespace)).await?
        };
        let stdio = keeper::Stdio {
            stdin: spec.stdin,
            stdin_once: spec.stdin_once,
            log: draft.log.is_some(),
        };
        let Draft { recipe, cgroup, log, prepared: Prepared { launch, descriptors } } = draft;
        let log = log.map(OwnedFd::from);
        let assembled = async {
            let created = keeper.create(id, launch, descriptors, stdio, log).await;
            created.map_err(|source| Error::Keeper {
                pod: pod.id.clone(),
                action: "create the container",
                source,
            })
        };
        // The record that will name both is written when both are there.
        let (recipe, created) = tokio::try_join!(self.keep_spec(pod, id, recipe), assembled)?;
        Ok(Assembled { recipe, cgroup, created })
    }

    /// Makes what was assembled a container of its pod.
    async fn enlist(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        spec: &Arc<ContainerSpec>,
        id: &ContainerId,
        Assembled { recipe, cgroup, created }: Assembled,
    ) -> Result<(), Error> {
        let record = ContainerRecord {
            id: id.clone(),
            spec: Arc::clone(spec),
            created_at: Timestamp::now(),
            state: ContainerState::Created,
            facts: Arc::new(recipe.facts),
            resources: spec.resources.clone(),
            init: ProcessIdentity::of(created.pid),
        };
        let container = Arc::new(Container::new(record, pod.id.clone()));
        container.cell().live = Some(Arc::new(Live {
            pidfd: created.pidfd,
            cgroup,
            spec: Arc::new(recipe.spec),
            filter: recipe.filter,
            scopes: Scopes::default(),
        }));
        self.publish(pod, id.as_str(), EventKind::Created, || {
            pod.cell().containers.push(Arc::clone(&container));
            self.index.insert_container(Arc::clone(&container));
            true
        });
        let saved = self.journal.save(pod).await;
        if saved.is_err() {
            // The next daemon would not know it: it is not to be.
            self.publish(pod, id.as_str(), EventKind::Deleted, || {
                pod.forget_container(id);
                self.index.remove_container(id);
                true
            });
        }
        saved
    }

    /// Where the container's PID namespace comes from.
    async fn places(
        &self,
        pod: &Pod,
        spec: &ContainerSpec,
        keeper: &keeper::Keeper,
    ) -> Result<Places, Error> {
        let keeper_pid = keeper.pid();
        let pid = match &spec.security.namespaces.pid {
            PidMode::Container | PidMode::Node => None,
            PidMode::Pod => {
                let shared = keeper.shared_pid().await;
                let shared = shared.map_err(|source| Error::Keeper {
                    pod: pod.id.clone(),
                    action: "make the shared PID namespace",
                    source,
                })?;
                Some(shared.pid)
            }
            PidMode::Target(id) => {
                let field = "linux.security_context.namespace_options.target_id";
                let invalid = |reason: String| Error::Invalid { field: field.to_owned(), reason };
                let target = self.index.container(id).map_err(|e| invalid(e.to_string()))?;
                if target.pod != pod.id {
                    return Err(invalid(format!("container {id} is in another pod")));
                }
                target.running().map_err(|error| invalid(error.to_string()))?;
                target.cell().init.map(|init| init.pid)
            }
        };
        Ok(Places { keeper_pid, pid })
    }

    /// The part of creation that blocks: files, cgroup, mounts.
    fn prepare(
        &self,
        pod: &Pod,
        spec: &ContainerSpec,
        id: &ContainerId,
        places: &Places,
        user_namespace: Option<Arc<OwnedFd>>,
    ) -> Result<Draft, Error> {
        make_sources(spec)?;
        let recipe = self.recipe(pod, id, spec, places)?;
        let writable = self.container_dir(id);
        record::make_private_dir(&writable)?;
        let (cgroup, attachment) = self.limited(pod, id, &recipe)?;
        let log = match &recipe.facts.log_path {
            Some(path) => Some(crate::update::open_log(path)?),
            None => None,
        };
        let stdio = match spec.tty {
            true => StdioSource::Terminal(executor::plan::Window::default()),
            false => StdioSource::Keeper,
        };
        let keeper_namespaces: Vec<&Path> =
            recipe.keeper_namespaces.iter().map(PathBuf::as_path).collect();
        let inputs = Inputs {
            volumes: &recipe.volumes,
            root: RootSource::Overlay { layers: &recipe.layers, writable: &writable },
            overlay: self.overlay,
            cgroup_view: &self.cgroup_view,
            keeper_namespaces: &keeper_namespaces,
            user_namespace: user_namespace.as_deref().map(std::os::fd::AsFd::as_fd),
            pod_shm: recipe.pod_shm.as_deref(),
            cgroup: Some(attachment),
            stdio,
            seccomp: recipe.filter.as_ref().map(|filter| filter.borrow()),
        };
        let prepared = prepare::prepare(&recipe.spec, inputs)
            .map_err(|source| not_prepared(spec, id, source))?;
        Ok(Draft { recipe, cgroup, log, prepared })
    }

    /// Makes the container's cgroup and sets its limits.
    fn limited(
        &self,
        pod: &Pod,
        id: &ContainerId,
        recipe: &Recipe,
    ) -> Result<(Cgroup, Attachment), Error> {
        let path = &recipe.facts.cgroup;
        let failed = |action| {
            let path = path.clone();
            move |source| Error::Cgroup { path, action, source }
        };
        let path = cgroup::CgroupPath::new(path).map_err(failed("named"))?;
        let created = self.cgroups.create(&path).map_err(failed("created"))?;
        // The pod's own can have gone with another pod that had made it.
        let above = created.made.into_iter().filter(|made| !made.ends_with(id.as_str()));
        let mut above: Vec<PathBuf> = above.collect();
        if !above.is_empty() {
            let mut cell = pod.cell();
            above.append(&mut cell.cgroups_made());
            cell.cgroups = self.claims.claim(above);
        }
        let linux = recipe.spec.linux().as_ref();
        if let Some(resources) = linux.and_then(|linux| linux.resources().as_ref()) {
            created.cgroup.apply(resources).map_err(failed("limited"))?;
        }
        let attachment = created.cgroup.attachment().map_err(failed("opened"))?;
        Ok((created.cgroup, attachment))
    }

    /// Writes the specification where the next daemon finds it.
    async fn keep_spec(
        &self,
        pod: &Pod,
        id: &ContainerId,
        mut recipe: Recipe,
    ) -> Result<Recipe, Error> {
        let path = self.spec_path(&pod.id, id);
        blocking(move || {
            let profile = recipe.filter.as_ref().map(|filter| filter.profile.clone());
            let set = |spec: &mut Spec, profile| {
                if let Some(linux) = spec.linux_mut() {
                    linux.set_seccomp(profile);
                }
            };
            set(&mut recipe.spec, profile);
            let bytes = serde_json::to_vec(&recipe.spec);
            set(&mut recipe.spec, None);
            let bytes = bytes.map_err(|_| Error::Internal("a specification has no JSON form"))?;
            record::replace(&path, &bytes, record::Durability::Process)?;
            Ok(recipe)
        })
        .await
    }

    /// Where a container's runtime specification is kept.
    pub(crate) fn spec_path(&self, pod: &PodId, id: &ContainerId) -> PathBuf {
        self.journal.pod_dir(pod).join(format!("{id}.config.json"))
    }

    /// Takes back whatever creation of `id` had made; what is not there is passed over.
    async fn undo(&self, pod: &Pod, id: &ContainerId) {
        let path = self.pod_cgroup(&pod.id, &pod.spec()).ok();
        if let Some(Ok(path)) = path.map(|path| path.join(id.as_str())) {
            let cgroup = self.cgroups.open(&path);
            let removed = blocking(move || {
                crate::ends::remove_by_force(&cgroup);
                Ok(())
            });
            let _ = removed.await;
        }
        if let Err(error) = self.discard(pod, id).await {
            let id = id.as_str();
            tracing::warn!(container = id, error = &error as &dyn std::error::Error, "leftovers");
        }
    }

    /// Removes an ended container's files and lets its images go.
    pub(crate) async fn discard(&self, pod: &Pod, id: &ContainerId) -> Result<(), Error> {
        let (dir, spec) = (self.container_dir(id), self.spec_path(&pod.id, id));
        blocking(move || {
            for removed in [fs::remove_dir_all(&dir), fs::remove_file(&spec)] {
                match removed {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(record::file(&dir, "removed")(error));
                    }
                    _ => {}
                }
            }
            Ok(())
        })
        .await?;
        self.images.release(id.as_str()).await.map_err(Error::Images)
    }

    async fn start(self: &Arc<Self>, container: &Arc<Container>) -> Result<(), Error> {
        let _operation = container.operation.lock().await;
        let state = container.state();
        let pod = self.index.pod(container.pod.as_str())?;
        let _gate = pod.enter().await;
        if state != ContainerState::Created {
            return Err(container.wrong_state(&state, "only a created container can be started"));
        }
        let keeper = pod.keeper()?;
        let _starting = container.starting.lock().await;
        // Where it is broken off, the stop that does so tells of the container's end.
        let started = pod.under_way(keeper.start(&container.id)).await;
        match started.ok_or_else(|| pod.ended())? {
            Ok(at) => {
                let id = container.id.as_str();
                self.publish(&pod, id, EventKind::Started, || container.started(at));
                self.journal.note(&pod).await;
                Ok(())
            }
            Err(source) => {
                let action = "start the container";
                let error = Error::Keeper { pod: pod.id.clone(), action, source };
                let message = chain(&error);
                self.container_ended(&pod, container, End::NotStarted { message }).await;
                // A stop kills an init on its way, too: that is no failure of the keeper's.
                if container.stop_deadline.borrow().is_some() {
                    let reason = "it was stopped before it had started";
                    return Err(container.wrong_state(&container.state(), reason));
                }
                Err(error)
            }
        }
    }
}

/// An error and its causes in one line, for a container's status.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// A container whose init waits, and which nobody knows yet.
#[derive(Debug)]
struct Assembled {
    recipe: Recipe,
    cgroup: Cgroup,
    created: keeper::Created,
}

/// What the blocking part of creation made.
#[derive(Debug)]
struct Draft {
    recipe: Recipe,
    cgroup: Cgroup,
    log: Option<fs::File>,
    prepared: Prepared<executor::plan::Launch>,
}

/// Propagation that a volume's source does not have is a wrong request; the rest is this node's.
fn not_prepared(spec: &ContainerSpec, id: &ContainerId, source: prepare::Error) -> Error {
    let prepare::Error::Propagation { path, .. } = &source else {
        return Error::Prepare { container: id.clone(), source };
    };
    let volume = spec.mounts.iter().position(|mount| Path::new(&mount.host_path) == path);
    let field = match volume {
        Some(i) => format!("mounts[{i}].propagation"),
        None => "mounts".to_owned(),
    };
    Error::Invalid { field, reason: source.to_string() }
}

/// Makes the host directories of volumes that are not there, as the field does.
fn make_sources(spec: &ContainerSpec) -> Result<(), Error> {
    for mount in spec.mounts.iter().filter(|mount| mount.image.is_none()) {
        let path = Path::new(&mount.host_path);
        match fs::metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                fs::create_dir_all(path).map_err(record::file(path, "created"))?;
            }
            Err(error) => return Err(record::file(path, "looked at")(error)),
            Ok(_) => {}
        }
    }
    Ok(())
}
