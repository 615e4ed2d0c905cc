//! A container's file tree: its root and what is mounted in it, attached by descriptor.
//!
//! ```text
//!   the keeper's root (a copy, private)
//!     └─ "/" covered by a scratch tmpfs: /null, /empty, what masked paths are covered with
//!          └─ covered by the container's root ── its mounts ── pivot_root ── old root detached
//! ```

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Uid, chownat, fstat, openat};
use rustix::io::{self, Errno};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
    move_mount, open_tree,
};
use sys::mount::{MountChange, mount_setattr};

use super::hidden::{Covers, make_read_only};
use super::path::{Below, Owner, change_root, own_root};
use super::processes::procfs_of;
use crate::failure::{During, Failure, Step};
use crate::plan::{
    Attributes, Create, Filesystem, Mount, Plan, Propagation, PropagationKind, Root, Source,
};

/// Where new file systems that show a PID namespace take it from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Processes<'fd> {
    /// The calling process lives in it.
    Own,
    /// It is that of a namespace file, or of a pidfd.
    Of(BorrowedFd<'fd>),
}

/// A file tree being assembled.
#[derive(Debug)]
pub(super) struct Tree<'a> {
    root: BorrowedFd<'a>,
    table: &'a [OwnedFd],
    owner: Owner,
    covers: Option<Covers>,
    /// Mounts that become read-only when all else is done.
    late: Vec<(OwnedFd, &'a str)>,
}

impl<'a> Tree<'a> {
    /// Takes the mount namespace, a copy of the keeper's, and attaches the container's root there.
    /// `stage` is where, if not over everything.
    pub(super) fn begin(
        plan: &Plan,
        stage: Option<&str>,
        table: &'a [OwnedFd],
        owner: Owner,
    ) -> Result<Self, Failure> {
        let private = MountChange {
            propagation: Some(MountPropagationFlags::PRIVATE),
            ..MountChange::default()
        };
        let old = own_root().during(Step::Root)?;
        mount_setattr(&old, true, &private).during_of(Step::Propagation, "/")?;
        let place = match stage {
            None => old,
            Some(path) => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                openat(CWD, path, flags, Mode::empty()).during_of(Step::Root, path)?
            }
        };
        let covers = if plan.masked_paths.is_empty() {
            None
        } else {
            Some(Covers::attach(place.as_fd(), owner).during_of(Step::Mask, "/")?)
        };
        let root = plan.root.mount.of(table).during_of(Step::Handle, "the root")?;
        attach_to(root, place.as_fd()).during(Step::Root)?;
        Ok(Self { root, table, owner, covers, late: Vec::new() })
    }

    /// Resolves paths below the root.
    pub(super) fn below(&self) -> Below<'a> {
        Below::new(self.root, self.owner)
    }

    /// Makes a directory of the root where it is missing, and has it stay writable where the root does
    /// not: as a mount of its own. Whatever way a path takes to the root itself, that is nobody's
    /// volume.
    pub(super) fn keep_writable(&self, path: &str, root: &Root) -> Result<(), Failure> {
        let directory = self.below().find_or_make(path, Create::Directory);
        let directory = directory.during_of(Step::Target, path)?;
        let is_root = || Ok(identity(directory.as_fd())? == identity(self.root)?);
        if root.read_only && !is_root().during_of(Step::Target, path)? {
            let clone = clone_of(directory.as_fd(), false).during_of(Step::CloneMount, path)?;
            attach_to(clone.as_fd(), directory.as_fd()).during_of(Step::Attach, path)?;
        }
        Ok(())
    }

    /// Mounts one mount.
    pub(super) fn mount(
        &mut self,
        mount: &'a Mount,
        processes: Processes<'_>,
    ) -> Result<(), Failure> {
        let target = self.below().find_or_make(&mount.target, mount.create);
        let target = target.during_of(Step::Target, &mount.target)?;
        let made;
        let (source, new) = match &mount.source {
            Source::Tree(handle) => {
                (handle.of(self.table).during_of(Step::Handle, &mount.target)?, false)
            }
            Source::New(filesystem) => {
                made = make(filesystem, processes, &mount.target)?;
                self.give(&made, filesystem).during_of(Step::Filesystem, &mount.target)?;
                (made.as_fd(), filesystem.kind == "tmpfs")
            }
            Source::PodShm => {
                let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
                made = open_tree(CWD, c"/dev/shm", flags)
                    .during_of(Step::CloneMount, &mount.target)?;
                (made.as_fd(), false)
            }
        };
        let read_only = u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits());
        let mut own = mount.attributes;
        if new && (own.set | mount.recursive_attributes.set) & read_only != 0 {
            own.set &= !read_only;
            let late = source.try_clone_to_owned();
            let late = late.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::MFILE));
            self.late.push((late.during_of(Step::Attributes, &mount.target)?, &mount.target));
        }
        change(source, own, false).during_of(Step::Attributes, &mount.target)?;
        if !new {
            let all = mount.recursive_attributes;
            change(source, all, true).during_of(Step::Attributes, &mount.target)?;
        }
        attach_to(source, target.as_fd()).during_of(Step::Attach, &mount.target)?;
        for propagation in &mount.propagation {
            propagate(source, *propagation).during_of(Step::Propagation, &mount.target)?;
        }
        Ok(())
    }

    /// Gives the root of a new file system to the container's root; a tmpfs is told by parameters.
    fn give(&self, mount: &OwnedFd, filesystem: &Filesystem) -> io::Result<()> {
        let Owner { uid, gid } = self.owner;
        if !["devpts", "mqueue"].contains(&filesystem.kind.as_str()) || (uid == 0 && gid == 0) {
            return Ok(());
        }
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        chownat(mount, c"", uid, gid, AtFlags::EMPTY_PATH)
    }

    /// Covers what is to be hidden, and makes read-only what is to be.
    pub(super) fn hide(&self, plan: &Plan) -> Result<(), Failure> {
        for path in &plan.read_only_paths {
            make_read_only(&self.below(), path).during_of(Step::ReadOnly, path)?;
        }
        for path in &plan.masked_paths {
            let Some(covers) = &self.covers else { break };
            covers.mask(&self.below(), path).during_of(Step::Mask, path)?;
        }
        Ok(())
    }

    /// Makes what is to be read-only so, now that everything is in its place.
    pub(super) fn close(&mut self, root: &Root) -> Result<(), Failure> {
        for (mount, target) in self.late.drain(..) {
            read_only(mount.as_fd(), false).during_of(Step::Attributes, target)?;
        }
        if root.read_only {
            read_only(self.root, false).during_of(Step::Attributes, "/")?;
        }
        Ok(())
    }

    /// Makes the tree the root of every process in the mount namespace, and leaves nothing of the
    /// one before.
    ///
    /// Its own propagation comes after that: pivot_root(2) refuses a shared root.
    pub(super) fn enter(&self, root: &Root) -> Result<(), Failure> {
        change_root(self.root).during(Step::Pivot)?;
        match root.propagation {
            None => Ok(()),
            Some(change) => propagate(self.root, change).during_of(Step::Propagation, "/"),
        }
    }
}

/// Makes a file system, detached.
pub(super) fn make(
    filesystem: &Filesystem,
    processes: Processes<'_>,
    target: &str,
) -> Result<OwnedFd, Failure> {
    let kind = filesystem.kind.as_str();
    let context = match (processes, kind) {
        (Processes::Of(namespace), "proc") => procfs_of(namespace),
        _ => fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC),
    };
    let context = context.during_of(Step::Filesystem, target)?;
    if let Some(source) = &filesystem.source {
        let set = fsconfig_set_string(&context, "source", source.as_str());
        set.during_of(Step::Parameter, format_args!("source={source}"))?;
    }
    for (key, value) in &filesystem.parameters {
        match value {
            Some(value) => fsconfig_set_string(&context, key.as_str(), value.as_str())
                .during_of(Step::Parameter, format_args!("{key}={value}"))?,
            None => fsconfig_set_flag(&context, key.as_str()).during_of(Step::Parameter, key)?,
        }
    }
    fsconfig_create(&context).during_of(Step::Filesystem, target)?;
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    fsmount(&context, flags, MountAttrFlags::empty()).during_of(Step::Filesystem, target)
}

/// What tells a file from all others of its file system, and that from all others.
fn identity(file: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    let stat = fstat(file)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Attaches a detached mount over whatever lies at `target`.
pub(super) fn attach_to(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, c"", target, c"", flags)
}

/// A detached clone of the mount that `file` is on, from there on.
pub(super) fn clone_of(file: BorrowedFd<'_>, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(file, c"", flags)
}

/// Makes a mount read-only.
pub(super) fn read_only(mount: BorrowedFd<'_>, recursive: bool) -> io::Result<()> {
    let set = u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits());
    change(mount, Attributes { set, clear: 0 }, recursive)
}

fn change(mount: BorrowedFd<'_>, attributes: Attributes, recursive: bool) -> io::Result<()> {
    if attributes.is_empty() {
        return Ok(());
    }
    let flags = |bits: u64| {
        u32::try_from(bits).map(MountAttrFlags::from_bits_retain).map_err(|_| Errno::INVAL)
    };
    let change = MountChange {
        set: Some(flags(attributes.set)?),
        clear: Some(flags(attributes.clear)?),
        ..MountChange::default()
    };
    mount_setattr(mount, recursive, &change)
}

fn propagate(mount: BorrowedFd<'_>, propagation: Propagation) -> io::Result<()> {
    let flag = match propagation.kind {
        PropagationKind::Private => MountPropagationFlags::PRIVATE,
        PropagationKind::Slave => MountPropagationFlags::DOWNSTREAM,
        PropagationKind::Shared => MountPropagationFlags::SHARED,
        PropagationKind::Unbindable => MountPropagationFlags::UNBINDABLE,
    };
    let change = MountChange { propagation: Some(flag), ..MountChange::default() };
    mount_setattr(mount, propagation.recursive, &change)
}
