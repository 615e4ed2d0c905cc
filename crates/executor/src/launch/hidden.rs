//! Paths that a container may not see or not change.
//!
//! What covers them is made here and reached by descriptor: a `/dev/null` found by name inside the
//! container could be anything by then.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Uid, chownat, fstat, makedev, mkdirat, mknodat, openat,
};
use rustix::io::{self, Errno};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};

use super::path::{Below, Owner};
use super::tree::{attach_to, clone_of, read_only};

/// What masked paths are covered with. It stands in the old root, since only an attached mount can
/// be cloned on every kernel, and goes away with that; the clones stay.
#[derive(Debug)]
pub(super) struct Covers {
    null: OwnedFd,
    empty: OwnedFd,
}

impl Covers {
    /// Makes them in a file system of their own, attached over `place`.
    ///
    /// # Errors
    /// What making the file system, the node and the directory meets.
    pub(super) fn attach(place: BorrowedFd<'_>, owner: Owner) -> io::Result<Self> {
        let context = fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&context, c"mode", c"0755")?;
        fsconfig_create(&context)?;
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
        let device = makedev(1, 3);
        mknodat(&mount, c"null", FileType::CharacterDevice, Mode::from_raw_mode(0o666), device)?;
        mkdirat(&mount, c"empty", Mode::from_raw_mode(0o755))?;
        let (uid, gid) = (Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)));
        for name in [c"null", c"empty"] {
            chownat(&mount, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        attach_to(mount.as_fd(), place)?;
        let open = |name| openat(&mount, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        Ok(Self { null: open(c"null")?, empty: open(c"empty")? })
    }

    /// Covers `path`, where it exists.
    ///
    /// # Errors
    /// What finding and covering it meets.
    pub(super) fn mask(&self, below: &Below<'_>, path: &str) -> io::Result<()> {
        let Some(target) = existing(below, path)? else { return Ok(()) };
        let directory = FileType::from_raw_mode(fstat(&target)?.st_mode).is_dir();
        let cover =
            clone_of(if directory { self.empty.as_fd() } else { self.null.as_fd() }, false)?;
        if directory {
            read_only(cover.as_fd(), false)?;
        }
        attach_to(cover.as_fd(), target.as_fd())
    }
}

/// Makes `path` read-only with all below it, where it exists.
///
/// # Errors
/// What finding and covering it meets.
pub(super) fn make_read_only(below: &Below<'_>, path: &str) -> io::Result<()> {
    let Some(target) = existing(below, path)? else { return Ok(()) };
    let cover = clone_of(target.as_fd(), true)?;
    read_only(cover.as_fd(), true)?;
    attach_to(cover.as_fd(), target.as_fd())
}

fn existing(below: &Below<'_>, path: &str) -> io::Result<Option<OwnedFd>> {
    match below.find(path) {
        Ok(target) => Ok(Some(target)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(errno),
    }
}
