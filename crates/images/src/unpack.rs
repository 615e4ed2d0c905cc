//! Turns the tar stream of one layer into a directory that overlayfs takes as a lower layer.
//!
//! | in the archive | on disk |
//! |---|---|
//! | `.wh.NAME` | `NAME`, a character device 0/0, unless this layer has a `NAME` of its own |
//! | `.wh..wh..opq` | `trusted.overlay.opaque=y` on its directory |
//! | extended attributes | `user.*`, `security.capability` and POSIX ACLs; all others are left out, above all `trusted.overlay.*`, by which a layer could lead overlayfs to other files |
//! | `..` in a name or the target of a hard link | the layer is refused |
//!
//! (OCI image-spec, `layer.md`; kernel documentation, `overlayfs.rst`.) A later entry replaces an
//! earlier one of the same name; a directory stays and takes the new attributes. Directories get
//! their times last, when nothing more is made in them.
//!
//! An archive of images is unpacked by the same rules, except that it holds documents and layers, not
//! a file system: what is no file, directory or link is refused there before it is made, so that
//! whoever reads it opens no device.

use std::collections::HashMap;
use std::ffi::CString;
use std::io::{self, BufRead};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, chmodat, chownat,
    fchmod, fchown, fsetxattr, ftruncate, futimens, linkat, makedev, mkdirat, mknodat, openat,
    statat, symlinkat, utimensat,
};
use rustix::io::Errno;

use crate::tar::{Archive, Entry, Kind, TarError};
use crate::tree::{self, OPAQUE, Tree, Usage};

const BLOCK: u64 = 4096;
/// Symbolic links shorter than this live in their inode on the usual file systems.
const INLINE_LINK: usize = 60;

/// Why a layer cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The archive.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// An entry that no honest layer has.
    #[error("entry {path:?} is refused: {reason}")]
    Hostile {
        /// The entry's name, lossily.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The disk.
    #[error("entry {path:?} cannot be written")]
    Write {
        /// The entry's name, lossily.
        path: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// What an archive is of, and so what may be in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// A layer of a file system: everything that one can have, and whiteouts.
    Layer,
    /// Images: files, directories, and links among them.
    Images,
}

/// Unpacks `reader` into the empty directory `path`, to the end of the archive. Gives back what the
/// directory takes, and the reader.
pub(crate) fn unpack<R: BufRead>(
    reader: R,
    path: &Path,
    content: Content,
) -> Result<(Usage, R), UnpackError> {
    let whole = |source| UnpackError::Write { path: "/".to_owned(), source };
    let tree = Tree::open(path).map_err(whole)?;
    let mut archive = Archive::new(reader);
    let mut unpacker = Unpacker {
        tree: &tree,
        content,
        parent: None,
        times: HashMap::new(),
        usage: Usage { bytes: BLOCK, inodes: 1 },
        replaced: false,
    };
    while let Some(entry) = archive.entry()? {
        let shown = || String::from_utf8_lossy(&entry.path[..entry.path.len().min(300)]).into();
        unpacker.entry(&entry, &mut archive).map_err(|problem| match problem {
            Problem::Hostile(reason) => UnpackError::Hostile { path: shown(), reason },
            Problem::Write(source) => UnpackError::Write { path: shown(), source },
            Problem::Tar(error) => UnpackError::Tar(error),
        })?;
    }
    unpacker.set_times();
    let usage = match unpacker.replaced {
        true => tree::measure(path).map_err(whole)?,
        false => unpacker.usage,
    };
    Ok((usage, archive.into_inner()))
}

enum Problem {
    Hostile(&'static str),
    Write(io::Error),
    Tar(TarError),
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Self::Write(error)
    }
}

impl From<Errno> for Problem {
    fn from(error: Errno) -> Self {
        Self::Write(error.into())
    }
}

struct Unpacker<'a> {
    tree: &'a Tree,
    content: Content,
    /// The directory that the last entry was made in: the next one is most often made there too.
    parent: Option<(Vec<u8>, OwnedFd)>,
    times: HashMap<Vec<u8>, (i64, u32)>,
    usage: Usage,
    /// Something that was counted is gone again.
    replaced: bool,
}

impl Unpacker<'_> {
    fn entry<R: BufRead>(
        &mut self,
        entry: &Entry,
        archive: &mut Archive<R>,
    ) -> Result<(), Problem> {
        let path = clean(&entry.path)?;
        let (parent, name) = tree::split(&path);
        if path.is_empty() {
            return match entry.kind {
                Kind::Directory => self.attributes(&path, &self.tree.directory(b"")?, entry),
                _ => Err(Problem::Hostile("only a directory can be the root")),
            };
        }
        let whiteout = name.strip_prefix(b".wh.");
        let node = matches!(entry.kind, Kind::CharDevice | Kind::BlockDevice | Kind::Fifo);
        if self.content == Content::Images && (node || whiteout.is_some()) {
            return Err(Problem::Hostile("images are kept in files and directories"));
        }
        if let Some(hidden) = whiteout {
            return self.whiteout(parent, hidden);
        }
        self.enter(parent)?;
        let name = CString::new(name).map_err(|_| Problem::Hostile("its name has a zero byte"))?;
        match entry.kind {
            Kind::Directory => self.directory(&path, &name, entry),
            Kind::File => self.file(&name, entry, archive),
            Kind::HardLink => self.hard_link(&path, &name, entry),
            Kind::Symlink => self.symlink(&name, entry),
            Kind::CharDevice => self.node(&name, entry, FileType::CharacterDevice),
            Kind::BlockDevice => self.node(&name, entry, FileType::BlockDevice),
            Kind::Fifo => self.node(&name, entry, FileType::Fifo),
        }
    }

    /// Makes `parent` the current directory.
    fn enter(&mut self, parent: &[u8]) -> Result<(), Problem> {
        if self.parent.as_ref().is_none_or(|(path, _)| path != parent) {
            let made = self.tree.make_directories(parent)?;
            self.count(made.count, made.count * BLOCK);
            self.parent = Some((parent.to_vec(), made.fd));
        }
        Ok(())
    }

    fn current(&self) -> Result<&OwnedFd, Problem> {
        // `enter` has always run before.
        self.parent.as_ref().map(|(_, fd)| fd).ok_or_else(|| Errno::BADF.into())
    }

    fn count(&mut self, inodes: u64, bytes: u64) {
        self.usage = self.usage.plus(Usage { bytes, inodes });
    }

    /// Runs `make`, and once more after what stood in its way is removed.
    fn in_place<T>(
        &mut self,
        name: &CString,
        make: impl Fn(&OwnedFd) -> rustix::io::Result<T>,
    ) -> Result<T, Problem> {
        match make(self.current()?) {
            Err(Errno::EXIST) => {}
            made => return Ok(made?),
        }
        tree::remove_all(self.current()?, name)?;
        self.replaced = true;
        let made = make(self.current()?)?;
        // The open directory may have been reached through what is gone now.
        if let Some((path, _)) = self.parent.take() {
            self.enter(&path)?;
        }
        Ok(made)
    }

    fn directory(&mut self, path: &[u8], name: &CString, entry: &Entry) -> Result<(), Problem> {
        let mode = Mode::from_raw_mode(0o700);
        match mkdirat(self.current()?, name, mode) {
            Ok(()) => self.count(1, BLOCK),
            Err(Errno::EXIST) => {
                let stat = statat(self.current()?, name, AtFlags::SYMLINK_NOFOLLOW)?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                    self.in_place(name, |parent| mkdirat(parent, name, mode))?;
                    if tree::is_whiteout(&stat) {
                        tree::set_opaque(self.open_directory(name)?)?;
                    }
                }
            }
            Err(error) => return Err(error.into()),
        }
        let made = self.open_directory(name)?;
        self.attributes(path, &made, entry)
    }

    fn open_directory(&self, name: &CString) -> Result<OwnedFd, Problem> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        Ok(tree::open_child(self.current()?, name, flags)?)
    }

    /// A directory's owner, mode and attributes now, its times at the end.
    fn attributes(
        &mut self,
        path: &[u8],
        directory: &OwnedFd,
        entry: &Entry,
    ) -> Result<(), Problem> {
        // A descriptor that only names the directory cannot change it.
        let directory = openat(directory, c".", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        fchown(&directory, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))?;
        fchmod(&directory, Mode::from_raw_mode(entry.mode))?;
        set_xattrs(&directory, entry)?;
        self.times.insert(path.to_vec(), entry.mtime);
        Ok(())
    }

    fn file<R: BufRead>(
        &mut self,
        name: &CString,
        entry: &Entry,
        archive: &mut Archive<R>,
    ) -> Result<(), Problem> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = self.in_place(name, |parent| {
            openat(parent, name, flags | OFlags::NOFOLLOW, Mode::from_raw_mode(0o600))
        })?;
        let mut stored = 0;
        for segment in &entry.segments {
            let end = segment.offset + segment.length;
            let mut at = segment.offset;
            while at < end {
                let content = archive.fill().map_err(Problem::Tar)?;
                let length = usize::try_from(end - at).unwrap_or(usize::MAX).min(content.len());
                if length == 0 {
                    return Err(Problem::Hostile("its content is shorter than its sparse map"));
                }
                let written = rustix::io::retry_on_intr(|| {
                    rustix::io::pwrite(&file, &content[..length], at)
                })?;
                archive.consume(written);
                at += written as u64;
            }
            stored += segment.length;
        }
        if entry.segments.last().is_none_or(|last| last.offset + last.length < entry.size) {
            ftruncate(&file, entry.size)?;
        }
        self.count(1, stored.next_multiple_of(BLOCK));
        if (entry.uid, entry.gid) != (0, 0) {
            fchown(&file, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))?;
        }
        // After the owner, whose change takes set-id bits and capabilities away.
        fchmod(&file, Mode::from_raw_mode(entry.mode))?;
        set_xattrs(&file, entry)?;
        futimens(&file, &times(entry.mtime))?;
        Ok(())
    }

    fn hard_link(&mut self, path: &[u8], name: &CString, entry: &Entry) -> Result<(), Problem> {
        let target = clean(&entry.link)?;
        if target == path {
            return Ok(());
        }
        let (parent, target_name) = tree::split(&target);
        let missing = Problem::Hostile("it is a hard link to what this layer does not have");
        let from = match self.tree.directory(parent) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Err(missing),
            from => from?,
        };
        let target_name = CString::new(target_name)
            .map_err(|_| Problem::Hostile("its target has a zero byte"))?;
        match statat(&from, &target_name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Err(missing),
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                return Err(Problem::Hostile("it is a hard link to a directory"));
            }
            stat => drop(stat?),
        }
        self.in_place(name, |to| linkat(&from, &target_name, to, name, AtFlags::empty()))
    }

    fn symlink(&mut self, name: &CString, entry: &Entry) -> Result<(), Problem> {
        let target = CString::new(entry.link.as_slice())
            .map_err(|_| Problem::Hostile("its target has a zero byte"))?;
        self.in_place(name, |parent| symlinkat(&target, parent, name))?;
        self.count(1, if entry.link.len() < INLINE_LINK { 0 } else { BLOCK });
        let parent = self.current()?;
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        utimensat(parent, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }

    fn node(&mut self, name: &CString, entry: &Entry, kind: FileType) -> Result<(), Problem> {
        let device = makedev(entry.device.0, entry.device.1);
        let mode = Mode::from_raw_mode(entry.mode);
        self.in_place(name, |parent| mknodat(parent, name, kind, mode, device))?;
        self.count(1, 0);
        let parent = self.current()?;
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        chmodat(parent, name, mode, AtFlags::empty())?;
        utimensat(parent, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }

    fn whiteout(&mut self, parent: &[u8], hidden: &[u8]) -> Result<(), Problem> {
        self.enter(parent)?;
        if hidden == b".wh..opq" {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let parent = openat(self.current()?, c".", flags, Mode::empty())?;
            return Ok(tree::set_opaque(parent)?);
        }
        // Other names of this kind belong to the inner life of AUFS.
        if hidden.starts_with(b".wh.") {
            return Ok(());
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(Problem::Hostile("it hides nothing that can have a name"));
        }
        let name =
            CString::new(hidden).map_err(|_| Problem::Hostile("its name has a zero byte"))?;
        match mknodat(self.current()?, &name, FileType::CharacterDevice, Mode::empty(), 0) {
            Ok(()) => self.count(1, 0),
            // This layer brings the name again: only what is below is hidden, which a file does
            // by being there and a directory by being opaque.
            Err(Errno::EXIST) => {
                let stat = statat(self.current()?, &name, AtFlags::SYMLINK_NOFOLLOW)?;
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    tree::set_opaque(self.open_directory(&name)?)?;
                }
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Gives the directories their times.
    fn set_times(&self) {
        for (path, mtime) in &self.times {
            // A directory that a later entry replaced by something else needs none.
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            if let Ok(directory) = self.tree.open_at(path, flags) {
                let _ = futimens(&directory, &times(*mtime));
            }
        }
    }
}

/// The path below the root that an entry's name means. A leading slash means the root, as it does
/// for every tar program; `..` means mischief.
fn clean(name: &[u8]) -> Result<Vec<u8>, Problem> {
    if name.contains(&0) {
        return Err(Problem::Hostile("its name has a zero byte"));
    }
    if name.split(|byte| *byte == b'/').any(|part| part == b"..") {
        return Err(Problem::Hostile("its name leads upwards"));
    }
    Ok(tree::normalize(name))
}

fn times((seconds, nanos): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}

fn set_xattrs(file: impl AsFd, entry: &Entry) -> Result<(), Problem> {
    for (name, value) in &entry.xattrs {
        if !is_welcome(name) {
            continue;
        }
        let name = CString::new(name.as_slice())
            .map_err(|_| Problem::Hostile("an attribute has no name"))?;
        match fsetxattr(file.as_fd(), &name, value, XattrFlags::empty()) {
            // A file system without attributes of this kind; the image works without most of them.
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// `trusted.*` and the rest of `security.*` speak to the host's kernel, not to the image.
fn is_welcome(name: &[u8]) -> bool {
    debug_assert!(OPAQUE.starts_with("trusted."));
    (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
        || name == b"security.capability"
        || name == b"system.posix_acl_access"
        || name == b"system.posix_acl_default"
}
