//! From a request to a specification: looks up what the request names, builds nothing yet.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::{
    ContainerId, ContainerSpec, IpcMode, NetworkMode, PidMode, PodId, PodSpec, Profile, Signal,
};
use oci_spec::image::{Config as ImageDefaults, ConfigBuilder};
use oci_spec::runtime::Spec;

use crate::error::Error;
use crate::filter::Filter;
use crate::node;
use crate::pod::Pod;
use crate::record::ContainerFacts;
use crate::runtime::Shared;
use crate::view::UserView;

/// /etc/passwd and /etc/group beyond this are not an image's account files.
const ACCOUNTS_MAX: u64 = 16 << 20;

/// All that is needed to make one container.
#[derive(Debug)]
pub(crate) struct Recipe {
    pub(crate) spec: Spec,
    pub(crate) facts: ContainerFacts,
    pub(crate) layers: Vec<PathBuf>,
    pub(crate) filter: Option<Arc<Filter>>,
    /// The paths by which the specification names the keeper's namespaces.
    pub(crate) keeper_namespaces: Vec<PathBuf>,
    /// The path that stands for the pod's /dev/shm.
    pub(crate) pod_shm: Option<PathBuf>,
    /// The image's volumes.
    pub(crate) volumes: Vec<String>,
}

/// Where a container's namespaces come from.
#[derive(Debug)]
pub(crate) struct Places {
    pub(crate) keeper_pid: u32,
    /// The PID namespace to join: that of a shared one's PID 1, or of the target's init.
    pub(crate) pid: Option<u32>,
}

/// The cgroup of a pod for which nobody asks for another.
pub(crate) fn own_cgroup(pod: &PodId) -> Result<cgroup::CgroupPath, cgroup::Error> {
    cgroup::CgroupPath::new(&format!("/minke/{pod}"))
}

impl Shared {
    /// The cgroup that holds a pod's containers.
    pub(crate) fn pod_cgroup(
        &self,
        id: &PodId,
        spec: &PodSpec,
    ) -> Result<cgroup::CgroupPath, Error> {
        let path = match spec.cgroup_parent.as_deref() {
            None | Some("") => own_cgroup(id),
            Some(parent) => cgroup::CgroupPath::new(parent),
        };
        path.map_err(|source| Error::Invalid {
            field: "linux.cgroup_parent".into(),
            reason: source.to_string(),
        })
    }

    /// Looks up what the request names and builds the specification. Blocks on the disk.
    pub(crate) fn recipe(
        &self,
        pod: &Pod,
        id: &ContainerId,
        container: &ContainerSpec,
        places: &Places,
    ) -> Result<Recipe, Error> {
        let pod_spec = pod.spec();
        let image = self.leased(&container.image.image, id)?;
        let config = image.config();
        let read = |path| image.read_file(path, ACCOUNTS_MAX).map_err(Error::Images);
        let passwd = read("etc/passwd")?.unwrap_or_default();
        let group = read("etc/group")?.unwrap_or_default();
        let security = &container.security;
        let user =
            spec::resolve_user(&security.user, &security.groups, &config.user, &passwd, &group)
                .map_err(Error::Spec)?;
        let (image_roots, image_volumes) = self.image_volumes(container, id)?;
        let cgroup = self.pod_cgroup(&pod.id, &pod_spec)?.join(id.as_str());
        let cgroup = cgroup.map_err(|_| Error::Internal("an id is no name of a cgroup"))?;

        let dir = self.journal.pod_dir(&pod.id);
        let own_ipc = pod_spec.security.namespaces.ipc == IpcMode::Pod;
        let pod_shm = own_ipc.then(|| dir.join("shm"));
        let mut files = crate::files::existing(&dir);
        files.shm = Some(pod_shm.clone().unwrap_or_else(|| "/dev/shm".into()));
        let (namespaces, keeper_namespaces) = namespaces(&pod_spec, container, places);
        let defaults = image_defaults(config)?;
        let devices = node::grant(&container.devices)?;
        let request = spec::Request {
            pod: &pod_spec,
            pod_id: pod.id.as_str(),
            container,
            image_name: &container.image.image,
            image: &defaults,
            user: &user,
            node: &self.node.facts,
            files: &files,
            image_volumes: &image_roots,
            devices: &devices,
            cgroup: Path::new(cgroup.as_str()),
            namespaces: &namespaces,
            seccomp: None,
            apparmor: None,
            process_label: None,
            mount_label: None,
        };
        let spec = spec::build(&request).map_err(Error::Spec)?;
        let facts = ContainerFacts {
            image_id: image.id().to_string(),
            image_ref: image
                .repo_digests()
                .first()
                .cloned()
                .unwrap_or_else(|| image.id().to_string()),
            user: UserView { uid: user.uid, gid: user.gid, groups: user.groups.clone() },
            stop_signal: stop_signal(container, &config.stop_signal)?,
            log_path: log_path(&pod_spec, container),
            cgroup: cgroup.as_str().to_owned(),
            image_volumes,
        };
        let filter = self.filter(container, &spec, id)?;
        let volumes = own_volumes(&config.volumes, container);
        let layers = image.layers();
        Ok(Recipe { spec, facts, layers, filter, keeper_namespaces, pod_shm, volumes })
    }

    /// The image by any of its names, kept for this container.
    fn leased(&self, name: &str, holder: &ContainerId) -> Result<images::Image, Error> {
        let found = self.images.find(name);
        let leased = found.and_then(|image| self.images.lease(image.id(), holder.as_str()));
        leased.map_err(|error| match error {
            images::Error::NotFound { .. } => Error::ImageNotFound { image: name.to_owned() },
            error => Error::Images(error),
        })
    }

    fn image_volumes(
        &self,
        container: &ContainerSpec,
        holder: &ContainerId,
    ) -> Result<(Vec<spec::ImageRoot>, BTreeMap<String, String>), Error> {
        let (mut roots, mut ids) = (Vec::new(), BTreeMap::new());
        for mount in &container.mounts {
            let Some(volume) = &mount.image else { continue };
            let image = self
                .leased(&volume.image, holder)
                .map_err(|error| Error::ImageVolume { reason: error.to_string() })?;
            ids.insert(mount.container_path.clone(), image.id().to_string());
            roots.push(spec::ImageRoot { layers: image.layers() });
        }
        Ok((roots, ids))
    }

    fn filter(
        &self,
        container: &ContainerSpec,
        spec: &Spec,
        id: &ContainerId,
    ) -> Result<Option<Arc<Filter>>, Error> {
        if container.security.privileged {
            return Ok(None);
        }
        let profile = match &container.security.seccomp {
            Profile::Unset if self.config.seccomp_by_default => &Profile::RuntimeDefault,
            profile => profile,
        };
        let capabilities =
            spec.process().as_ref().and_then(|process| process.capabilities().as_ref());
        let bounding = capabilities.and_then(|sets| sets.bounding().clone()).unwrap_or_default();
        self.filters.of(profile, &bounding, id)
    }
}

/// The namespaces as paths, and which of the paths are the keeper's own.
fn namespaces(
    pod: &PodSpec,
    container: &ContainerSpec,
    places: &Places,
) -> (spec::Namespaces, Vec<PathBuf>) {
    let modes = &pod.security.namespaces;
    let path = |name: &str| PathBuf::from(format!("/proc/{}/ns/{name}", places.keeper_pid));
    let own_network = modes.network == NetworkMode::Pod;
    let mut keeper = Vec::new();
    let mut of_keeper = |name: &str, own: bool| {
        own.then(|| {
            keeper.push(path(name));
            path(name)
        })
    };
    let namespaces = spec::Namespaces {
        network: of_keeper("net", own_network),
        ipc: of_keeper("ipc", modes.ipc == IpcMode::Pod),
        uts: of_keeper("uts", own_network),
        // Opened from the pod's other namespaces, which it owns; the path only says that it is there.
        user: modes.user.as_ref().map(|_| path("user")),
        pid: match (&container.security.namespaces.pid, places.pid) {
            (PidMode::Node, _) => spec::PidNamespace::Host,
            (PidMode::Pod | PidMode::Target(_), Some(pid)) => {
                spec::PidNamespace::Path(format!("/proc/{pid}/ns/pid").into())
            }
            _ => spec::PidNamespace::New,
        },
    };
    (namespaces, keeper)
}

/// The image's defaults in the specification's words.
fn image_defaults(config: &images::ImageConfig) -> Result<ImageDefaults, Error> {
    let built = ConfigBuilder::default()
        .env(config.env.clone())
        .entrypoint(config.entrypoint.clone())
        .cmd(config.cmd.clone())
        .working_dir(config.working_dir.clone())
        .user(config.user.clone())
        .volumes(config.volumes.clone())
        .build();
    built.map_err(|_| Error::Internal("an image's configuration cannot be rendered"))
}

/// The directories that an image wants to be volumes, as far as the container has nothing else there.
/// They lie in the container's writable layer and go with it, as volumes do that nobody has named.
fn own_volumes(wanted: &[String], container: &ContainerSpec) -> Vec<String> {
    let path = |text: &str| Path::new("/").join(text).components().collect::<PathBuf>();
    let taken: Vec<_> = container.mounts.iter().map(|it| path(&it.container_path)).collect();
    let own = wanted.iter().map(|text| path(text)).filter(|path| !taken.contains(path));
    own.map(|path| path.to_string_lossy().into_owned()).collect()
}

fn stop_signal(container: &ContainerSpec, image: &str) -> Result<Signal, Error> {
    match (container.stop_signal, image) {
        (Some(signal), _) => Ok(signal),
        (None, "") => Ok(Signal::TERM),
        (None, text) => text.parse().map_err(|error: model::SignalError| Error::Invalid {
            field: "image stop signal".into(),
            reason: error.to_string(),
        }),
    }
}

fn log_path(pod: &PodSpec, container: &ContainerSpec) -> Option<PathBuf> {
    let directory = pod.log_directory.as_ref().filter(|directory| !directory.is_empty())?;
    let path = container.log_path.as_ref().filter(|path| !path.is_empty())?;
    Some(Path::new(directory).join(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_images_volumes_give_way_to_the_containers_mounts() {
        let mount = |path: &str| model::Mount { container_path: path.into(), ..Default::default() };
        let container =
            ContainerSpec { mounts: vec![mount("/data/"), mount("/x/y")], ..Default::default() };
        let wanted = ["/data", "x", "/x/y", "/x/y//z/"].map(String::from);
        assert_eq!(own_volumes(&wanted, &container), ["/x", "/x/y/z"]);
    }

    #[test]
    fn the_containers_stop_signal_outweighs_the_images() {
        let mut container = ContainerSpec::default();
        assert_eq!(stop_signal(&container, "").unwrap(), Signal::TERM);
        assert_eq!(stop_signal(&container, "SIGQUIT").unwrap().number(), 3);
        assert!(stop_signal(&container, "SIGNONE").is_err());
        container.stop_signal = Some(Signal::KILL);
        assert_eq!(stop_signal(&container, "SIGQUIT").unwrap(), Signal::KILL);
    }

    #[test]
    fn only_what_is_the_pods_own_is_inherited_from_the_keeper() {
        let places = Places { keeper_pid: 7, pid: None };
        let container = ContainerSpec::default();
        let mut pod = PodSpec::default();
        let (own, keeper) = namespaces(&pod, &container, &places);
        assert_eq!(own.network, Some("/proc/7/ns/net".into()));
        assert_eq!(keeper.len(), 3);
        pod.security.namespaces.network = NetworkMode::Node;
        let (host, keeper) = namespaces(&pod, &container, &places);
        assert_eq!((host.network, host.uts), (None, None));
        assert_eq!(keeper, [PathBuf::from("/proc/7/ns/ipc")]);
    }
}
