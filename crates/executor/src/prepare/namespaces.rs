//! The namespaces of a spec: new ones, open ones, and those that the keeper lives in.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType as Kind};
use rustix::fs::{Mode, OFlags};

use super::table::Table;
use super::{Error, Inputs};
use crate::plan::{IdRange, Namespace, Namespaces, UserNamespace};

/// Every namespace but the mount namespace, which a container always has of its own, and the user
/// namespace.
pub(super) fn namespaces(
    linux: &Linux,
    inputs: &Inputs<'_>,
    table: &mut Table,
) -> Result<Namespaces, Error> {
    let mut namespaces = Namespaces::default();
    let mut own_mounts = false;
    for entry in linux.namespaces().iter().flatten() {
        let path = entry.path().as_deref();
        let place = match entry.typ() {
            Kind::Pid => &mut namespaces.pid,
            Kind::Network => &mut namespaces.net,
            Kind::Ipc => &mut namespaces.ipc,
            Kind::Uts => &mut namespaces.uts,
            Kind::Cgroup => &mut namespaces.cgroup,
            Kind::User => continue,
            Kind::Mount if path.is_none() => {
                own_mounts = true;
                continue;
            }
            kind @ (Kind::Mount | Kind::Time) => {
                let reason =
                    format!("a {kind} namespace that is joined or shifted is not supported");
                return Err(Error::spec("linux.namespaces", reason));
            }
        };
        *place = match path {
            None => Namespace::New,
            Some(path) if inputs.keeper_namespaces.contains(&path) => Namespace::Inherit,
            Some(path) => Namespace::Join(table.add(open(path)?)),
        };
    }
    if !own_mounts {
        let reason = "a container cannot do without a mount namespace of its own";
        return Err(Error::spec("linux.namespaces", reason));
    }
    Ok(namespaces)
}

/// The user namespace, where the spec has one: the one that is open, else the one at its path.
pub(super) fn user_namespace(
    linux: &Linux,
    open_already: Option<BorrowedFd<'_>>,
    table: &mut Table,
) -> Result<Option<UserNamespace>, Error> {
    let mut entries = linux.namespaces().iter().flatten();
    let Some(entry) = entries.find(|entry| entry.typ() == Kind::User) else {
        return Ok(None);
    };
    let namespace = match (open_already, entry.path()) {
        (Some(namespace), _) => table.add_copy(namespace)?,
        (None, Some(path)) => table.add(open(path)?),
        (None, None) => {
            let reason = "the user namespace has neither a path nor a descriptor";
            return Err(Error::spec("linux.namespaces", reason));
        }
    };
    let uids = ranges(linux.uid_mappings());
    let gids = ranges(linux.gid_mappings());
    if uids.is_empty() || gids.is_empty() {
        let reason = "a user namespace needs mappings of users and of groups";
        return Err(Error::spec("linux.uidMappings", reason));
    }
    Ok(Some(UserNamespace { namespace, uids, gids }))
}

pub(super) fn ranges(mappings: &Option<Vec<LinuxIdMapping>>) -> Vec<IdRange> {
    let range = |mapping: &LinuxIdMapping| IdRange {
        inside: mapping.container_id(),
        outside: mapping.host_id(),
        count: mapping.size(),
    };
    mappings.iter().flatten().map(range).collect()
}

fn open(path: &Path) -> Result<OwnedFd, Error> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(Error::path("open the namespace", path))
}
