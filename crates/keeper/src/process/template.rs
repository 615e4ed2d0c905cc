//! The mount namespace that every keeper, and through it every container, gets a copy of.
//!
//! ```text
//!   /          tmpfs, empty, read-only
//!   /proc      the host's processes; sysctls of whichever namespaces the reader lives in
//!   /sys       there because a user-namespaced child may mount a sysfs only where it sees one
//!   /dev/shm   a mount point; each keeper mounts its pod's own
//! ```
//!
//! Nothing of the host's tree is left in it: no path to leak, nothing pinned, and the cost of a
//! copy does not grow with what is mounted on the node.

use std::os::fd::OwnedFd;

use rustix::fs::{CWD, Mode, mkdirat};
use rustix::io;
use rustix::mount::{
    MountAttrFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags, mount_change, move_mount,
    unmount,
};
use rustix::process::{fchdir, pivot_root};
use sys::mount::{MountChange, mount_setattr, unshare_mounts};

use crate::protocol::Refusal;

/// Moves the calling process into a new mount namespace that holds the template alone.
pub(crate) fn enter() -> Result<(), Refusal> {
    unshare_mounts().map_err(Refusal::kernel("unshare its mount namespace"))?;
    // Before anything is mounted: the host must not see it.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(Refusal::kernel("make its mounts private"))?;
    let root = filesystem("tmpfs", &[("mode", "0755"), ("size", "64k"), ("nr_inodes", "8")])?;
    for directory in ["proc", "sys", "dev", "dev/shm"] {
        mkdirat(&root, directory, Mode::from_raw_mode(0o755))
            .map_err(Refusal::kernel(format!("make /{directory}")))?;
    }
    become_root(&root).map_err(Refusal::kernel("pivot into an empty root"))?;
    for (kind, place) in [("proc", "/proc"), ("sysfs", "/sys")] {
        attach(&filesystem(kind, &[])?, place)
            .map_err(Refusal::kernel(format!("mount {place}")))?;
    }
    let read_only =
        MountChange { set: Some(MountAttrFlags::MOUNT_ATTR_RDONLY), ..MountChange::default() };
    mount_setattr(&root, false, &read_only).map_err(Refusal::kernel("make its root read-only"))
}

/// A new file system, not attached yet.
pub(crate) fn filesystem(kind: &str, options: &[(&str, &str)]) -> Result<OwnedFd, Refusal> {
    sys::mount::filesystem(kind, options).map_err(Refusal::kernel(format!("make a {kind}")))
}

/// Attaches a new file system.
pub(crate) fn attach(mount: &OwnedFd, place: &str) -> io::Result<()> {
    move_mount(mount, "", CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// Makes a mount that is not attached yet the root, and lets go of the old one.
pub(crate) fn become_root(root: &OwnedFd) -> io::Result<()> {
    attach(root, "/")?;
    fchdir(root)?;
    // The old root ends up on top of the new one, where it is taken off.
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")
}
