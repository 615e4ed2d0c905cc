//! Namespaces that a user namespace is to own.
//!
//! A container in a new user namespace is the root of its links, message queues and host name only
//! where these were made inside it. So the maker goes there itself for the moment of the first clone:
//! to the executor they are then the maker's own, which the container inherits.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use executor::namespaces::{enter_new_namespaces, new_user_namespace};
use executor::plan::IdRange;
use oci_spec::runtime::{LinuxIdMapping, LinuxNamespace, LinuxNamespaceType as Kind, Spec};
use rustix::fs::{Mode, OFlags, open};
use rustix::system::{setdomainname, sethostname};
use rustix::thread::ThreadNameSpaceType as Type;
use sys::namespace::enter;

use crate::failure::Failure;

/// What a user namespace is to own, and the files of the caller's own.
const OWNED: [(Kind, Type, &str); 3] = [
    (Kind::Network, Type::NETWORK, "/proc/self/ns/net"),
    (Kind::Ipc, Type::INTER_PROCESS_COMMUNICATION, "/proc/self/ns/ipc"),
    (Kind::Uts, Type::HOST_NAME_AND_NIS_DOMAIN_NAME, "/proc/self/ns/uts"),
];

/// A container's namespaces, as far as they are made before it.
#[derive(Debug)]
pub(crate) struct Namespaces {
    user: Option<OwnedFd>,
    /// Those to go to.
    owned: Vec<(Type, &'static str)>,
    /// The spec, with these by path.
    spec: Spec,
}

impl Namespaces {
    /// Makes the user namespace, where the spec wants a new one.
    pub(crate) fn of(spec: Spec) -> Result<Self, Failure> {
        let mut all = Self { user: None, owned: Vec::new(), spec };
        let Some(linux) = all.spec.linux_mut() else { return Ok(all) };
        let ranges = |mappings: &Option<Vec<LinuxIdMapping>>| -> Vec<IdRange> {
            let range = |mapping: &LinuxIdMapping| IdRange {
                inside: mapping.container_id(),
                outside: mapping.host_id(),
                count: mapping.size(),
            };
            mappings.iter().flatten().map(range).collect()
        };
        let (uids, gids) = (ranges(linux.uid_mappings()), ranges(linux.gid_mappings()));
        let Some(list) = linux.namespaces_mut() else { return Ok(all) };
        let user = list.iter().find(|entry| entry.typ() == Kind::User);
        match user.map(|entry| entry.path().clone()) {
            None => return Ok(all),
            Some(None) => {
                let made = new_user_namespace(&uids, &gids);
                all.user = Some(made.map_err(|failure| Failure::Kernel {
                    action: "make the user namespace of linux.uidMappings and linux.gidMappings",
                    source: failure.errno,
                })?);
            }
            Some(Some(path)) => {
                let flags = OFlags::RDONLY | OFlags::CLOEXEC;
                let opened = open(&path, flags, Mode::empty());
                all.user = Some(opened.map_err(Failure::file("open the user namespace", path))?);
            }
        }
        for (kind, space, path) in OWNED {
            for entry in list.iter_mut() {
                if entry.typ() == kind && entry.path().is_none() {
                    entry.set_path(Some(PathBuf::from(path)));
                    all.owned.push((space, path));
                }
            }
        }
        Ok(all)
    }

    /// The spec that goes with them.
    pub(crate) fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Whether the container has links of its own, of which there is but a loopback that is down.
    pub(crate) fn has_new_network(&self) -> bool {
        let linux = self.spec.linux().as_ref();
        let list = linux.and_then(|linux| linux.namespaces().as_ref());
        let owned = self.owned.iter().any(|(kind, _)| *kind == Type::NETWORK);
        let fresh = |entry: &LinuxNamespace| entry.typ() == Kind::Network && entry.path().is_none();
        owned || list.into_iter().flatten().any(fresh)
    }

    /// The user namespace.
    pub(crate) fn user(&self) -> Option<BorrowedFd<'_>> {
        self.user.as_ref().map(AsFd::as_fd)
    }

    /// The paths by which the spec means what [`Namespaces::within`] makes.
    pub(crate) fn own_paths(&self) -> Vec<&'static Path> {
        self.owned.iter().map(|(_, path)| Path::new(*path)).collect()
    }

    /// Does something inside of them.
    pub(crate) fn within<T>(&self, action: impl FnOnce() -> T) -> Result<T, Failure> {
        if self.owned.is_empty() {
            return Ok(action());
        }
        let mut ways_back = Vec::new();
        let mut kinds = Type::empty();
        for (kind, path) in &self.owned {
            let own = open(*path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
            ways_back.push((*kind, own.map_err(Failure::file("open", *path))?));
            kinds |= *kind;
        }
        enter_new_namespaces(kinds, self.user()).map_err(|failure| Failure::Kernel {
            action: "make namespaces inside the user namespace",
            source: failure.errno,
        })?;
        if kinds.contains(Type::HOST_NAME_AND_NIS_DOMAIN_NAME) {
            let name = |name: &Option<String>| name.clone().unwrap_or_default().into_bytes();
            sethostname(&name(self.spec.hostname()))
                .and_then(|()| setdomainname(&name(self.spec.domainname())))
                .map_err(Failure::kernel("set the host name"))?;
        }
        let result = action();
        for (kind, own) in ways_back {
            enter(own.as_fd(), kind).map_err(Failure::kernel("return to the own namespaces"))?;
        }
        Ok(result)
    }
}

/// Does something in the network namespace of a process.
pub(crate) fn in_network_of<T>(
    process: BorrowedFd<'_>,
    action: impl FnOnce() -> T,
) -> Result<T, Failure> {
    const OWN: &str = "/proc/self/ns/net";
    let own = open(OWN, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(Failure::file("open", OWN))?;
    enter(process, Type::NETWORK)
        .map_err(Failure::kernel("enter the container's network namespace"))?;
    let result = action();
    enter(own.as_fd(), Type::NETWORK).map_err(Failure::kernel("return to the own namespaces"))?;
    Ok(result)
}
