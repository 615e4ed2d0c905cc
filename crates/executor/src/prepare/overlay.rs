//! Overlay mounts as descriptors.
//!
//! What the kernel takes grew over the years, so three ways lead to the same mount, and [`probe`]
//! finds the best one by making a real overlay when the daemon starts:
//!
//! | way | layers are named by | id-mapped layers | kernel |
//! |---|---|---|---|
//! | `Descriptors` | descriptors, detached mounts among them | yes | 6.15 |
//! | `Paths` | `lowerdir+` strings of at most 255 bytes | through `Attached` | 6.7 |
//! | `Attached` | names of a letter or two in a scratch directory | yes | 6.1 |
//!
//! `Attached` stands in a file of its own. `index` and `metacopy` are off, as container engines
//! have them. Ids are mapped in the layers alone: overlay writes to the upper directory as the one who
//! mounted it, who has no id on a mapped mount. What the container writes bears the host's numbers,
//! and goes with the container. Redirects are not followed: only a layer forged with `trusted.overlay.redirect` would
//! hold one. The upper directory is volatile: after a crash it is worthless anyway, and without the
//! option an unmount waits for the dirty pages of everybody.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags};
use sys::mount::{MountChange, mount_setattr};

use super::{Error, attached};

/// The longest string that fsconfig(2) takes whole.
const STRING_MAX: usize = 255;

/// How this kernel is told about an overlay's layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverlayWay {
    /// By descriptors.
    Descriptors,
    /// By paths.
    Paths,
    /// By names in a mount namespace made for the purpose.
    Attached,
}

/// An overlay to be mounted.
#[derive(Debug, Clone, Copy)]
pub struct Overlay<'a> {
    /// The layer directories, lowest first, as absolute paths: at least one, and at least two
    /// without `writable`.
    pub layers: &'a [PathBuf],
    /// The directory that holds, or will hold, `upper` and `work`; none gives a read-only overlay.
    pub writable: Option<&'a Path>,
    /// Maps the ids of every layer into this user namespace, and gives the root to its root.
    pub id_map: Option<BorrowedFd<'a>>,
    /// The part of the overlay that is wanted, looked up inside it.
    pub subdir: Option<&'a str>,
}

impl Overlay<'_> {
    /// Mounts it; the descriptor is the only reference, attach it with move_mount(2).
    ///
    /// # Errors
    /// A layer that is not there, and whatever the kernel has against the combination.
    pub fn mount(&self, way: OverlayWay) -> Result<OwnedFd, Error> {
        let layers = self.layers.len();
        if layers < 1 + usize::from(self.writable.is_none()) {
            return Err(Error::spec("root", format!("{layers} layers do not make an overlay")));
        }
        if let Some(relative) = self.paths().find(|path| !path.is_absolute()) {
            return Err(Error::spec("root", format!("{relative:?} is not an absolute path")));
        }
        let mut trees = Trees { id_map: self.id_map, cloned: Vec::new() };
        if let Some(directory) = self.writable {
            self.make_writable(directory, &mut trees)?;
        }
        match way {
            OverlayWay::Descriptors => self.by_descriptors(trees),
            OverlayWay::Paths if self.plain() => self.by_paths(),
            OverlayWay::Paths | OverlayWay::Attached => attached::mount(self),
        }
    }

    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.layers.iter().map(PathBuf::as_path).chain(self.writable)
    }

    /// Makes `upper` and `work`. The upper directory is the root that the container sees: it takes
    /// owner and permissions from the root of the image's topmost layer.
    fn make_writable(&self, directory: &Path, trees: &mut Trees<'_>) -> Result<(), Error> {
        let Some(top) = self.layers.last() else { return Ok(()) };
        let top_stat = rustix::fs::fstat(trees.open(top)?).map_err(Error::path("look at", top))?;
        let upper = directory.join("upper");
        for path in [&upper, &directory.join("work")] {
            match rustix::fs::mkdir(path, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(Error::path("make the directory", path)(errno)),
            }
        }
        let owner = Some(Uid::from_raw(top_stat.st_uid));
        let group = Some(Gid::from_raw(top_stat.st_gid));
        rustix::fs::chownat(CWD, &upper, owner, group, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(Error::path("give its owner to", &upper))?;
        rustix::fs::chmod(&upper, Mode::from_raw_mode(top_stat.st_mode & 0o7777))
            .map_err(Error::path("give its permissions to", &upper))
    }

    /// Nothing about it needs more than path strings.
    fn plain(&self) -> bool {
        let whole = |path: &Path| {
            let bytes = path.as_os_str().as_bytes();
            // `upper` and `work` are appended, and a backslash would be read as an escape.
            bytes.len() + "/upper".len() <= STRING_MAX && !bytes.contains(&b'\\')
        };
        self.id_map.is_none() && self.subdir.is_none() && self.paths().all(whole)
    }

    fn by_descriptors(&self, mut trees: Trees<'_>) -> Result<OwnedFd, Error> {
        let context = self.context()?;
        for layer in self.layers.iter().rev() {
            self.set_fd(&context, "lowerdir+", &trees.open(layer)?)?;
        }
        if let Some(directory) = self.writable {
            let directory = open_directory(directory)?;
            self.set_fd(&context, "upperdir", &beneath(&directory, "upper")?)?;
            self.set_fd(&context, "workdir", &beneath(&directory, "work")?)?;
        }
        let overlay = self.create(&context)?;
        match self.subdir {
            Some(subdir) => clone_beneath(overlay.as_fd(), subdir),
            None => Ok(overlay),
        }
    }

    fn by_paths(&self) -> Result<OwnedFd, Error> {
        let context = self.context()?;
        for layer in self.layers.iter().rev() {
            self.set_string(&context, "lowerdir+", layer)?;
        }
        if let Some(directory) = self.writable {
            self.set_string(&context, "upperdir", &directory.join("upper"))?;
            self.set_string(&context, "workdir", &directory.join("work"))?;
        }
        self.create(&context)
    }

    fn context(&self) -> Result<OwnedFd, Error> {
        let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)
            .map_err(Error::kernel("open an overlay context"))?;
        rustix::mount::fsconfig_set_string(&context, "source", "overlay")
            .map_err(|errno| self.refused(&context, errno))?;
        Ok(context)
    }

    fn set_fd(&self, context: &OwnedFd, key: &str, value: &OwnedFd) -> Result<(), Error> {
        rustix::mount::fsconfig_set_fd(context, key, value)
            .map_err(|errno| self.refused(context, errno))
    }

    fn set_string(&self, context: &OwnedFd, key: &str, value: &Path) -> Result<(), Error> {
        rustix::mount::fsconfig_set_string(context, key, value)
            .map_err(|errno| self.refused(context, errno))
    }

    fn create(&self, context: &OwnedFd) -> Result<OwnedFd, Error> {
        let refused = |errno| self.refused(context, errno);
        for option in self.options() {
            match option.split_once('=') {
                Some((key, value)) => rustix::mount::fsconfig_set_string(context, key, value),
                None => rustix::mount::fsconfig_set_flag(context, *option),
            }
            .map_err(refused)?;
        }
        rustix::mount::fsconfig_create(context).map_err(refused)?;
        let attributes = match self.writable {
            Some(_) => MountAttrFlags::empty(),
            None => MountAttrFlags::MOUNT_ATTR_RDONLY,
        };
        rustix::mount::fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(refused)
    }

    /// Options beside the layers.
    pub(super) fn options(&self) -> &'static [&'static str] {
        const OPTIONS: [&str; 4] =
            ["index=off", "metacopy=off", "redirect_dir=nofollow", "volatile"];
        let fixed = OPTIONS.len() - usize::from(self.writable.is_none());
        &OPTIONS[..fixed]
    }

    /// What the kernel has written about the failure waits in the context, a line a read.
    fn refused(&self, context: &OwnedFd, source: Errno) -> Error {
        let mut lines = Vec::new();
        let mut line = [0_u8; 512];
        while let Ok(length) = rustix::io::read(context, &mut line)
            && length > 0
            && lines.len() < 16
        {
            let text = String::from_utf8_lossy(&line[..length]);
            lines.push(text.trim_end().trim_start_matches(['e', 'w', 'i', ' ']).to_owned());
        }
        self.error(lines.join("; "), source)
    }

    /// The kernel keeps one reason to its log: a volatile overlay was there before.
    pub(super) fn error(&self, mut message: String, source: Errno) -> Error {
        let used = self.writable.map(|directory| directory.join("work/work/incompat/volatile"));
        if message.is_empty() && used.is_some_and(|used| used.exists()) {
            message.push_str("its writable layer was mounted before");
        }
        Error::Overlay { layers: self.layers.len(), message, source }
    }
}

/// Opens directories as overlay's layers. With an id map, the directory in which a layer lies is
/// cloned and mapped once for all its siblings.
struct Trees<'a> {
    id_map: Option<BorrowedFd<'a>>,
    /// The clones stay until the overlay holds on to them.
    cloned: Vec<(PathBuf, OwnedFd)>,
}

impl Trees<'_> {
    fn open(&mut self, path: &Path) -> Result<OwnedFd, Error> {
        let Some(user_namespace) = self.id_map else {
            return open_directory(path);
        };
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Error::spec("root", "the root of the file system cannot be a layer"));
        };
        let known = self.cloned.iter().position(|(cloned, _)| cloned == parent);
        let known = match known {
            Some(known) => known,
            None => {
                let tree = clone_mapped(parent, user_namespace)?;
                self.cloned.push((parent.to_owned(), tree));
                self.cloned.len() - 1
            }
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.cloned[known].1, name, flags, Mode::empty())
            .map_err(Error::path("open the layer", path))
    }
}

/// A detached clone of the mount at `path`, ids mapped.
pub(super) fn clone_mapped(path: &Path, user_namespace: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = rustix::mount::open_tree(CWD, path, flags)
        .map_err(Error::path("clone the mount of", path))?;
    let change = MountChange { id_map: Some(user_namespace), ..MountChange::default() };
    mount_setattr(&tree, false, &change)
        .map_err(|source| Error::IdMap { path: path.to_owned(), source })?;
    Ok(tree)
}

/// A detached clone of what `subdir` names inside the mount at `root`, links resolved inside it.
pub(super) fn clone_beneath(root: BorrowedFd<'_>, subdir: &str) -> Result<OwnedFd, Error> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let found = rustix::fs::openat2(root, subdir, flags, Mode::empty(), resolve)
        .map_err(Error::path("find in the image the path", subdir))?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    rustix::mount::open_tree(&found, "", flags).map_err(Error::path("clone the mount of", subdir))
}

fn open_directory(path: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(Error::path("open the layer", path))
}

fn beneath(directory: &OwnedFd, name: &'static str) -> Result<OwnedFd, Error> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::empty())
        .map_err(Error::path("open the writable layer's", name))
}

/// Finds the best way by mounting an overlay of two layers for each until one does, in `scratch`,
/// which must exist, should lie where containers' files will, and is left as it was.
///
/// # Errors
/// Where no way works, what the oldest one failed with.
pub fn probe(scratch: &Path) -> Result<OverlayWay, Error> {
    let mut last = Error::Thread;
    for way in [OverlayWay::Descriptors, OverlayWay::Paths, OverlayWay::Attached] {
        let directory = scratch.join(format!("probe-{}-{way:?}", std::process::id()));
        let tried = try_way(&directory, way);
        // Nobody else's name begins like this; what stays behind is the caller's to sweep.
        let _ = std::fs::remove_dir_all(&directory);
        match tried {
            Ok(()) => return Ok(way),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn try_way(directory: &Path, way: OverlayWay) -> Result<(), Error> {
    let layers = [directory.join("a"), directory.join("b")];
    for path in [directory, &layers[0], &layers[1]] {
        rustix::fs::mkdir(path, Mode::RWXU).map_err(Error::path("make the directory", path))?;
    }
    let overlay =
        Overlay { layers: &layers, writable: Some(directory), id_map: None, subdir: None };
    if way != OverlayWay::Descriptors {
        return overlay.mount(way).map(drop);
    }
    // The newest thing asked of descriptors: layers on a detached mount. An id map would ask for a
    // user namespace that nobody has yet.
    overlay.make_writable(directory, &mut Trees { id_map: None, cloned: Vec::new() })?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = rustix::mount::open_tree(CWD, directory, flags)
        .map_err(Error::path("clone the mount of", directory))?;
    let context = overlay.context()?;
    for (key, name) in
        [("lowerdir+", "b"), ("lowerdir+", "a"), ("upperdir", "upper"), ("workdir", "work")]
    {
        overlay.set_fd(&context, key, &beneath(&tree, name)?)?;
    }
    let mounted = overlay.create(&context)?;
    clone_beneath(mounted.as_fd(), ".").map(drop)
}
