use std::path::PathBuf;

use model::{IdMapping, IpcMode, NetworkMode};
use oci_spec::runtime::{
    LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespace, LinuxNamespaceType,
};

use crate::{Error, Request};

const OPTIONS: &str = "linux.security_context.namespace_options";

/// The namespaces that a container joins, as paths that stay valid while the pod lives (bind mounts,
/// or `/proc/<keeper>/ns/...`). None leaves the host's: an OCI spec without the entry inherits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// Network.
    pub network: Option<PathBuf>,
    /// System V IPC and POSIX message queues.
    pub ipc: Option<PathBuf>,
    /// Host name.
    pub uts: Option<PathBuf>,
    /// Users; some exactly where the pod has a user namespace.
    pub user: Option<PathBuf>,
    /// Processes.
    pub pid: PidNamespace,
}

/// Where the container's processes are seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum PidNamespace {
    /// In a namespace of the container's own.
    #[default]
    New,
    /// In the host's.
    Host,
    /// In that of the pod or of another container.
    Path(PathBuf),
}

/// The spec's namespace list: a new mount namespace always; a new cgroup namespace on v2 unless the
/// container is privileged, as the field has it: on v1 it would hide the hierarchy's mounts.
pub(crate) fn namespaces(request: &Request<'_>) -> Result<Vec<LinuxNamespace>, Error> {
    check_shared(request)?;
    check_user_namespace(request)?;
    let joined = request.namespaces;
    let pid = match &joined.pid {
        PidNamespace::New => Some(entry(LinuxNamespaceType::Pid, None)),
        PidNamespace::Path(path) => Some(entry(LinuxNamespaceType::Pid, Some(path.clone()))),
        PidNamespace::Host => None,
    };
    let path = |typ, path: &Option<PathBuf>| path.clone().map(|path| entry(typ, Some(path)));
    let cgroup = request.node.cgroup_v2 && !request.container.security.privileged;
    let list = [
        pid,
        path(LinuxNamespaceType::Ipc, &joined.ipc),
        path(LinuxNamespaceType::Uts, &joined.uts),
        Some(entry(LinuxNamespaceType::Mount, None)),
        path(LinuxNamespaceType::Network, &joined.network),
        cgroup.then(|| entry(LinuxNamespaceType::Cgroup, None)),
        path(LinuxNamespaceType::User, &joined.user),
    ];
    Ok(list.into_iter().flatten().collect())
}

pub(crate) fn id_mappings(ranges: &[IdMapping]) -> Vec<LinuxIdMapping> {
    let mapping = |range: &IdMapping| {
        let mapping = LinuxIdMappingBuilder::default()
            .host_id(range.host_id)
            .container_id(range.container_id)
            .size(range.length);
        // Every field has a default, so the builder has nothing to refuse.
        mapping.build().unwrap_or_default()
    };
    ranges.iter().map(mapping).collect()
}

fn entry(typ: LinuxNamespaceType, path: Option<PathBuf>) -> LinuxNamespace {
    let mut entry = LinuxNamespace::default();
    entry.set_typ(typ).set_path(path);
    entry
}

/// Network and IPC are the pod's: a container cannot have the host's where the pod has its own. The
/// other way round says nothing, POD is what the wire has where nothing was said.
fn check_shared(request: &Request<'_>) -> Result<(), Error> {
    let own = &request.container.security.namespaces;
    let pod = &request.pod.security.namespaces;
    let host_network = own.network == NetworkMode::Node && pod.network != NetworkMode::Node;
    let host_ipc = own.ipc == IpcMode::Node && pod.ipc != IpcMode::Node;
    for (name, refused) in [("network", host_network), ("ipc", host_ipc)] {
        if refused {
            let reason = "NODE is possible only where the pod has it, too";
            return Err(Error::invalid(format!("{OPTIONS}.{name}"), reason));
        }
    }
    Ok(())
}

fn check_user_namespace(request: &Request<'_>) -> Result<(), Error> {
    let pod = &request.pod.security.namespaces.user;
    if request.container.security.namespaces.user != *pod {
        return Err(Error::invalid(format!("{OPTIONS}.userns_options"), "differs from the pod's"));
    }
    let Some(user) = pod else { return Ok(()) };
    for (what, field, id, ranges) in [
        ("user", "linux.security_context.run_as_user", request.user.uid, &user.uids),
        ("group", "linux.security_context.run_as_group", request.user.gid, &user.gids),
    ] {
        if !maps(ranges, id) {
            let reason = format!("{what} {id} is not mapped in the pod's user namespace");
            return Err(Error::invalid(field, reason));
        }
    }
    if let Some(group) = request.user.groups.iter().find(|group| !maps(&user.gids, **group)) {
        let reason = format!("group {group} is not mapped in the pod's user namespace");
        return Err(Error::invalid("linux.security_context.supplemental_groups", reason));
    }
    Ok(())
}

fn maps(ranges: &[IdMapping], id: u32) -> bool {
    ranges
        .iter()
        .any(|range| id.checked_sub(range.container_id).is_some_and(|offset| offset < range.length))
}
