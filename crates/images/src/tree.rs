//! A directory tree that no path leads out of.
//!
//! Every path is resolved by openat2(2) with the tree as its root: `..` stays in it, absolute
//! symbolic links start at it, magic links are refused. Names are then used relative to the
//! directory that was found, without following them.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, mkdirat, openat, openat2,
    readlinkat, renameat, statat, unlinkat,
};
use rustix::io::Errno;

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const IN_TREE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);
/// As many symbolic links as the kernel follows in one path.
pub(crate) const MOST_LINKS: usize = 40;
/// The kernel gives EAGAIN when anything on the machine was renamed or mounted while it resolved a
/// `..` (openat2(2)), so on a busy node several times.
const MOST_RACES: usize = 128;
/// Directories are removed by recursion down to here; deeper ones are moved up first, so that
/// neither stack nor descriptors run out.
const DEEPEST: usize = 64;

/// The root of a tree.
#[derive(Debug)]
pub(crate) struct Tree {
    root: OwnedFd,
}

/// Whether a directory was there before.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) fd: OwnedFd,
    /// How many directories had to be made.
    pub(crate) count: u64,
}

impl Tree {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { root: openat(CWD, path, DIRECTORY, Mode::empty())? })
    }

    /// The directory at `path`, which may lead through symbolic links.
    pub(crate) fn directory(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        self.open_at(path, DIRECTORY)
    }

    /// The file at `path`, its last component not followed if `flags` say so.
    pub(crate) fn open_at(&self, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let path = if path.is_empty() { b"." } else { path };
        let flags = flags | OFlags::CLOEXEC;
        for _ in 0..MOST_RACES {
            match openat2(&self.root, path, flags, Mode::empty(), IN_TREE) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                opened => return opened,
            }
        }
        openat2(&self.root, path, flags, Mode::empty(), IN_TREE)
    }

    /// The directory at `path`; what is missing of it is made, owned by root, mode 0755. A whiteout
    /// in its place gives way to an opaque directory, for it hides what lies below.
    pub(crate) fn make_directories(&self, path: &[u8]) -> io::Result<Made> {
        self.make(path, MOST_LINKS)
    }

    fn make(&self, path: &[u8], links: usize) -> io::Result<Made> {
        match self.directory(path) {
            Ok(fd) => return Ok(Made { fd, count: 0 }),
            Err(Errno::NOENT | Errno::NOTDIR) if !path.is_empty() => {}
            Err(error) => return Err(error.into()),
        }
        let (parent, name) = split(path);
        let above = self.make(parent, links)?;
        let name = CString::new(name)?;
        match mkdirat(&above.fd, &name, Mode::from_raw_mode(0o755)) {
            Ok(()) => {
                // The process's umask may have taken bits away.
                let fd = open_child(&above.fd, &name, OFlags::RDONLY | OFlags::DIRECTORY)?;
                rustix::fs::fchmod(&fd, Mode::from_raw_mode(0o755))?;
                return Ok(Made { fd, count: above.count + 1 });
            }
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let stat = statat(&above.fd, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        if is_whiteout(&stat) {
            unlinkat(&above.fd, &name, AtFlags::empty())?;
            mkdirat(&above.fd, &name, Mode::from_raw_mode(0o755))?;
            let fd = open_child(&above.fd, &name, OFlags::RDONLY | OFlags::DIRECTORY)?;
            set_opaque(&fd)?;
            return Ok(Made { fd, count: above.count + 1 });
        }
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            return Err(Errno::NOTDIR.into());
        }
        if links == 0 {
            return Err(Errno::LOOP.into());
        }
        // A link whose target is not there yet: make the target.
        let target = readlinkat(&above.fd, &name, Vec::new())?.into_bytes();
        let target = if target.starts_with(b"/") { target } else { [parent, &target].join(&b'/') };
        let made = self.make(&normalize(&target), links - 1)?;
        Ok(Made { count: above.count + made.count, ..made })
    }
}

/// Opens `name` in `directory` without following it.
pub(crate) fn open_child(
    directory: impl AsFd,
    name: &CStr,
    flags: OFlags,
) -> rustix::io::Result<OwnedFd> {
    openat(directory, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Overlayfs hides what lies below by a character device 0/0 (kernel documentation, "whiteouts").
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Overlayfs shows nothing from below in a directory that has this attribute.
pub(crate) const OPAQUE: &str = "trusted.overlay.opaque";

pub(crate) fn set_opaque(directory: impl AsFd) -> rustix::io::Result<()> {
    rustix::fs::fsetxattr(directory, OPAQUE, b"y", rustix::fs::XattrFlags::empty())
}

/// A path without empty parts, `.` and `..`, as a rooted walk would take them; links are not
/// looked at.
pub(crate) fn normalize(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}

/// The directory part and the last name.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// Removes `name` in `directory`, with all that is in it; nothing there is fine too. Needs no space
/// on the disk and no more descriptors than a handful, however deep the tree is.
pub(crate) fn remove_all(directory: impl AsFd, name: &CStr) -> io::Result<()> {
    let directory = directory.as_fd();
    match unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let top = match open_child(directory, name, OFlags::RDONLY | OFlags::DIRECTORY) {
        Err(Errno::NOENT) => return Ok(()),
        top => top?,
    };
    // What is too deep is moved up, and removed in the next round.
    let mut moved = 0;
    loop {
        let before = moved;
        empty(top.as_fd(), top.as_fd(), 0, &mut moved)?;
        if moved == before {
            break;
        }
    }
    match unlinkat(directory, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn empty(
    top: BorrowedFd<'_>,
    directory: BorrowedFd<'_>,
    depth: usize,
    moved: &mut u64,
) -> io::Result<()> {
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        if entry.file_type() != FileType::Directory {
            match unlinkat(directory, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => continue,
                // A file system that does not tell types.
                Err(Errno::ISDIR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if depth >= DEEPEST {
            *moved += 1;
            renameat(directory, name, top, format!(".deep-{moved}"))?;
            continue;
        }
        let child = open_child(directory, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
        empty(top, child.as_fd(), depth + 1, moved)?;
        match unlinkat(directory, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// What a tree takes on its file system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Usage {
    /// Allocated bytes.
    pub bytes: u64,
    /// Files, directories and everything else.
    pub inodes: u64,
}

impl Usage {
    /// The sum of both.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { bytes: self.bytes + other.bytes, inodes: self.inodes + other.inodes }
    }
}

/// Walks a tree and adds up what it takes; files with several names count once.
pub(crate) fn measure(path: &Path) -> io::Result<Usage> {
    let mut usage = Usage::default();
    let mut linked = std::collections::HashSet::new();
    let mut open = vec![path.to_owned()];
    while let Some(directory) = open.pop() {
        use std::os::unix::fs::MetadataExt;
        let own = std::fs::symlink_metadata(&directory)?;
        usage = usage.plus(Usage { bytes: own.blocks() * 512, inodes: 1 });
        for entry in std::fs::read_dir(&directory)? {
            let entry = entry?;
            let stat = entry.metadata()?;
            if stat.is_dir() {
                open.push(entry.path());
            } else if stat.nlink() == 1 || linked.insert(stat.ino()) {
                usage = usage.plus(Usage { bytes: stat.blocks() * 512, inodes: 1 });
            }
        }
    }
    Ok(usage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_normalized_within_their_root() {
        for (path, normal) in
            [("/", ""), ("./a//b/", "a/b"), ("../../a/../b", "b"), ("a/./b/../../..", "")]
        {
            assert_eq!(normalize(path.as_bytes()), normal.as_bytes(), "{path}");
        }
        assert_eq!(split(b"a/b/c"), (&b"a/b"[..], &b"c"[..]));
        assert_eq!(split(b"c"), (&b""[..], &b"c"[..]));
    }

    #[test]
    fn a_tree_deeper_than_any_path_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::open(dir.path()).unwrap();
        let mut at = tree.make_directories(b"top").unwrap().fd;
        for _ in 0..3000 {
            mkdirat(&at, c"d", Mode::from_raw_mode(0o700)).unwrap();
            std::fs::write(format!("/proc/self/fd/{}/f", std::os::fd::AsRawFd::as_raw_fd(&at)), "")
                .unwrap();
            at = open_child(&at, c"d", DIRECTORY).unwrap();
        }
        drop(at);
        remove_all(&tree.root, c"top").unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        remove_all(&tree.root, c"top").unwrap();
    }

    #[test]
    fn links_never_lead_out_of_the_tree() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let tree = Tree::open(dir.path()).unwrap();
        std::os::unix::fs::symlink(outside.path(), dir.path().join("abs")).unwrap();
        std::os::unix::fs::symlink("../../../../../..", dir.path().join("up")).unwrap();
        std::os::unix::fs::symlink("/proc/self/root", dir.path().join("magic")).unwrap();
        std::os::unix::fs::symlink("loop", dir.path().join("loop")).unwrap();
        // An absolute target is made below the root.
        tree.make_directories(b"abs/x").unwrap();
        assert!(!outside.path().join("x").exists());
        let inside = outside.path().strip_prefix("/").unwrap().join("x");
        assert!(dir.path().join(inside).is_dir());
        tree.make_directories(b"up/etc").unwrap();
        assert!(dir.path().join("etc").is_dir());
        assert!(tree.make_directories(b"loop/x").is_err());
        tree.make_directories(b"magic/y").unwrap();
        assert!(dir.path().join("proc/self/root/y").is_dir());
    }
}
