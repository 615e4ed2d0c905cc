//! Paths below a container's root: found, or made, by descriptor.
//!
//! An image, and a neighbour that shares a volume, may put symbolic links anywhere and swap them at
//! any moment. What exists is found by openat2(2), which never leaves the root. What does not is
//! made by a walk that holds every directory on its way open, follows each link itself, and answers
//! `..` from what it holds.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{
    AtFlags, CWD, Dev, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, chownat, fstat, mkdirat,
    mknodat, openat, openat2, readlinkat,
};
use rustix::io::{self, Errno};

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{chdir, fchdir, pivot_root};

use crate::plan::Create;

/// The most symbolic links on one way, as in the kernel.
const LINKS_MAX: usize = 40;
/// How often a way is tried that is being changed under our feet.
const TRIES: usize = 64;

const O_PATH: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

/// The user and group that own what is made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner {
    /// In the numbers of the calling process's user namespace.
    pub(super) uid: u32,
    /// Likewise.
    pub(super) gid: u32,
}

/// A directory that paths are resolved below.
#[derive(Debug)]
pub(super) struct Below<'fd> {
    root: BorrowedFd<'fd>,
    owner: Owner,
}

/// The place of a name: the directory that holds it, and the name.
#[derive(Debug)]
pub(super) struct Place {
    /// The directory.
    pub(super) parent: OwnedFd,
    /// The last part of the path; never empty, `.`, `..` or with a slash.
    pub(super) name: Vec<u8>,
}

impl<'fd> Below<'fd> {
    /// Below `root`, with what is made there given to `owner`.
    pub(super) fn new(root: BorrowedFd<'fd>, owner: Owner) -> Self {
        Self { root, owner }
    }

    /// Finds `path` (O_PATH).
    ///
    /// # Errors
    /// What openat2(2) says: `ENOENT`; `ELOOP` for a way through a link of procfs.
    pub(super) fn find(&self, path: &str) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let mut last = Errno::AGAIN;
        for _ in 0..TRIES {
            match openat2(self.root, path, O_PATH, Mode::empty(), resolve) {
                Err(errno @ (Errno::AGAIN | Errno::INTR)) => last = errno,
                other => return other,
            }
        }
        Err(last)
    }

    /// Finds `path`, or makes it: missing parents as directories, the last part as `create` says.
    ///
    /// # Errors
    /// `ENOENT` where nothing is to be made, `ELOOP`, and what making it meets.
    pub(super) fn find_or_make(&self, path: &str, create: Create) -> io::Result<OwnedFd> {
        match self.find(path) {
            Err(Errno::NOENT) if create != Create::Nothing => {}
            other => return other,
        }
        let mut walk = Walk::new(self);
        let name = walk.descend(path, true)?;
        match name {
            Some(name) => walk.step(&name, create),
            None => walk.here(),
        }
    }

    /// Finds the directory that `path` is in, making what is missing, and the last name, which is
    /// not followed. None where the path has no name of its own (`/`).
    ///
    /// # Errors
    /// As for [`Below::find_or_make`].
    pub(super) fn place(&self, path: &str) -> io::Result<Option<Place>> {
        let mut walk = Walk::new(self);
        let Some(name) = walk.descend(path, false)? else { return Ok(None) };
        Ok(Some(Place { parent: walk.here()?, name }))
    }
}

impl Below<'_> {
    /// Gives what was made to the owner of all that is.
    pub(super) fn give(&self, directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
        chown(directory, name, self.owner)
    }
}

/// A way from the root downwards.
struct Walk<'a, 'fd> {
    below: &'a Below<'fd>,
    /// The directories passed, the root left out.
    passed: Vec<OwnedFd>,
    links: usize,
}

impl<'a, 'fd> Walk<'a, 'fd> {
    fn new(below: &'a Below<'fd>) -> Self {
        Self { below, passed: Vec::new(), links: 0 }
    }

    fn directory(&self) -> BorrowedFd<'_> {
        self.passed.last().map_or(self.below.root, AsFd::as_fd)
    }

    fn here(&self) -> io::Result<OwnedFd> {
        openat(self.directory(), c".", O_PATH | OFlags::DIRECTORY, Mode::empty())
    }

    /// Walks to the directory of the last name and gives that name. Links on the way are followed;
    /// a link that bears the last name too, if `follow`.
    fn descend(&mut self, path: &str, follow: bool) -> io::Result<Option<Vec<u8>>> {
        let mut ahead = reversed(path.as_bytes());
        while let Some(name) = ahead.pop() {
            if name == b".." {
                self.passed.pop();
                continue;
            }
            let last = ahead.is_empty();
            if last && !follow {
                return Ok(Some(name));
            }
            match self.link(&name)? {
                Some(target) => {
                    self.links += 1;
                    if self.links > LINKS_MAX {
                        return Err(Errno::LOOP);
                    }
                    if target.starts_with(b"/") {
                        self.passed.clear();
                    }
                    ahead.extend(reversed(&target));
                }
                None if last => return Ok(Some(name)),
                None => {
                    let next = self.step(&name, Create::Directory)?;
                    self.passed.push(next);
                }
            }
        }
        Ok(None)
    }

    /// What the symbolic link `name` says, where it is one.
    fn link(&self, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
        match readlinkat(self.directory(), OsStr::from_bytes(name), Vec::new()) {
            Ok(target) => Ok(Some(target.into_bytes())),
            Err(Errno::INVAL | Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Opens `name`, which is not followed, making it where it is missing.
    fn step(&self, name: &[u8], create: Create) -> io::Result<OwnedFd> {
        let (directory, name) = (self.directory(), OsStr::from_bytes(name));
        let open = || openat(directory, name, O_PATH | OFlags::NOFOLLOW, Mode::empty());
        let opened = match open() {
            Err(Errno::NOENT) => {
                let made = match create {
                    Create::Directory => mkdirat(directory, name, Mode::from_raw_mode(0o755)),
                    Create::File => {
                        let mode = Mode::from_raw_mode(0o644);
                        mknodat(directory, name, FileType::RegularFile, mode, Dev::default())
                    }
                    Create::Nothing => Err(Errno::NOENT),
                };
                match made {
                    Ok(()) => chown(directory, name, self.below.owner)?,
                    // Somebody was faster.
                    Err(Errno::EXIST) => {}
                    Err(errno) => return Err(errno),
                }
                open()?
            }
            other => other?,
        };
        match FileType::from_raw_mode(fstat(&opened)?.st_mode) {
            // It was none a moment ago: somebody plays with it.
            FileType::Symlink => Err(Errno::LOOP),
            _ => Ok(opened),
        }
    }
}

/// Gives `name` to `owner`, where that is not root, who made it.
fn chown(directory: BorrowedFd<'_>, name: &OsStr, owner: Owner) -> io::Result<()> {
    if owner.uid == 0 && owner.gid == 0 {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    chownat(directory, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
}

/// The parts of a path, the last first.
fn reversed(path: &[u8]) -> Vec<Vec<u8>> {
    path.rsplit(|byte| *byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .map(<[u8]>::to_vec)
        .collect()
}

/// Opens the root of the calling process.
pub(super) fn own_root() -> io::Result<OwnedFd> {
    openat(CWD, c"/", O_PATH | OFlags::DIRECTORY, Mode::empty())
}

/// Makes `new`, a mount that lies over the root, the root of every process in the mount namespace,
/// and takes away the one before with all that was in it. Ends up at the new root.
///
/// # Errors
/// What pivot_root(2) and umount(2) say.
pub(super) fn change_root(new: BorrowedFd<'_>) -> io::Result<()> {
    let old = own_root()?;
    fchdir(new)?;
    // Onto itself: the old root comes to lie over the new one.
    pivot_root(c".", c".")?;
    fchdir(&old)?;
    // From where it is taken off: first what lies over it, one by one, as that is what its name
    // means; at last itself, when it belongs to no namespace any more and its name means nothing.
    loop {
        match unmount(c".", UnmountFlags::DETACH) {
            Ok(()) => {}
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(errno),
        }
    }
    chdir(c"/")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn inside<T>(run: impl FnOnce(&std::path::Path, &Below<'_>) -> T) -> T {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        fs::create_dir(&root).unwrap();
        let fd = openat(CWD, &root, O_PATH, Mode::empty()).unwrap();
        run(&root, &Below::new(fd.as_fd(), Owner { uid: 0, gid: 0 }))
    }

    #[test]
    fn missing_parts_are_made_inside_the_root_only() {
        inside(|root, below| {
            below.find_or_make("/../../a/./b/../c/file", Create::File).unwrap();
            assert!(root.join("a/c/file").is_file());
            assert!(root.join("a/b").is_dir());
            below.find_or_make("x//y/", Create::Directory).unwrap();
            assert!(root.join("x/y").is_dir());
            assert_eq!(fs::read_dir(root.parent().unwrap()).unwrap().count(), 1);
        });
    }

    #[test]
    fn links_are_followed_as_the_container_sees_them() {
        inside(|root, below| {
            fs::create_dir(root.join("var")).unwrap();
            symlink("/run", root.join("var/run")).unwrap();
            symlink("../../../../outside", root.join("escape")).unwrap();
            below.find_or_make("/var/run/secrets", Create::Directory).unwrap();
            assert!(root.join("run/secrets").is_dir());
            below.find_or_make("/escape/file", Create::File).unwrap();
            assert!(root.join("outside/file").is_file());
            symlink("file-to-be", root.join("dangling")).unwrap();
            below.find_or_make("/dangling", Create::File).unwrap();
            assert!(root.join("file-to-be").is_file());
            assert_eq!(fs::read_dir(root.parent().unwrap()).unwrap().count(), 1);
        });
    }

    #[test]
    fn loops_and_files_in_the_way_are_errors() {
        inside(|root, below| {
            symlink("b", root.join("a")).unwrap();
            symlink("a", root.join("b")).unwrap();
            assert_eq!(below.find_or_make("/a/c", Create::File).unwrap_err(), Errno::LOOP);
            fs::write(root.join("file"), "").unwrap();
            assert_eq!(below.find_or_make("/file/c", Create::File).unwrap_err(), Errno::NOTDIR);
            assert_eq!(below.find_or_make("/none", Create::Nothing).unwrap_err(), Errno::NOENT);
        });
    }

    #[test]
    fn a_place_is_a_directory_and_a_name_that_is_not_followed() {
        inside(|root, below| {
            symlink("/elsewhere", root.join("link")).unwrap();
            let place = below.place("/dev/null").unwrap().unwrap();
            assert_eq!(place.name, b"null");
            assert!(root.join("dev").is_dir());
            assert_eq!(below.place("/link").unwrap().unwrap().name, b"link");
            assert!(below.place("/..").unwrap().is_none());
        });
    }
}
