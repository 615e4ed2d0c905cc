//! Volume sources: a path of the host becomes a detached clone of its mount tree.
//!
//! The clone is taken before anything about it is changed. It is then a peer of the host's mount
//! wherever that one is shared, which is what makes `rshared` and `rslave` mean in the container
//! what they mean on the host.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountPropagationFlags, OpenTreeFlags};
use sys::mount::{MountChange, mount_setattr};

use super::Error;
use super::options::{Flags, MountOptions};

/// A volume's source, ready to be attached.
#[derive(Debug)]
pub struct Source {
    /// The detached tree.
    pub tree: OwnedFd,
    /// Whether its mount point has to be a directory.
    pub directory: bool,
}

impl Source {
    /// Clones what lies at `path`, links resolved as the host sees them, and gives the clone the
    /// propagation, flags and id map that `options`, those of an OCI bind mount, ask for. A file
    /// system that does not answer holds up this thread and no other.
    ///
    /// # Errors
    /// A source that is not there, propagation that its mount does not have, a file system that
    /// cannot map ids.
    pub fn take(
        path: &Path,
        options: &[String],
        id_map: Option<BorrowedFd<'_>>,
    ) -> Result<Self, Error> {
        clone_source(path, &MountOptions::parse(options), id_map)
    }
}

pub(crate) fn clone_source(
    path: &Path,
    options: &MountOptions,
    id_map: Option<BorrowedFd<'_>>,
) -> Result<Source, Error> {
    let found = find(path, options.subdir.as_deref())?;
    let stat =
        rustix::fs::statx(&found, "", AtFlags::EMPTY_PATH, StatxFlags::TYPE | StatxFlags::MNT_ID)
            .map_err(Error::path("look at", path))?;
    let propagation = options.propagation.unwrap_or((MountPropagationFlags::PRIVATE, true));
    check_propagation(path, propagation.0, stat.stx_mnt_id)?;

    let recursive = options.bind != Some(false);
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let tree = rustix::mount::open_tree(&found, "", flags)
        .map_err(Error::path("clone the mount of", path))?;
    change(path, &tree, options, propagation, id_map)?;
    let directory = FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory;
    Ok(Source { tree, directory })
}

fn find(path: &Path, subdir: Option<&str>) -> Result<OwnedFd, Error> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let found = rustix::fs::open(path, flags, Mode::empty())
        .map_err(Error::path("open the volume's source", path))?;
    let Some(subdir) = subdir else { return Ok(found) };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(&found, subdir, flags, Mode::empty(), resolve)
        .map_err(Error::path("find in the image", path.join(subdir)))
}

fn change(
    path: &Path,
    tree: &OwnedFd,
    options: &MountOptions,
    (propagation, everywhere): (MountPropagationFlags, bool),
    id_map: Option<BorrowedFd<'_>>,
) -> Result<(), Error> {
    let fail = || Error::path("change the flags of", path);
    // A shared clone is a peer already; asking again would start a peer group of its own.
    if propagation != MountPropagationFlags::SHARED {
        let change = MountChange { propagation: Some(propagation), ..MountChange::default() };
        mount_setattr(tree, everywhere, &change).map_err(fail())?;
    }
    if let Some(user_namespace) = id_map {
        let change = MountChange { id_map: Some(user_namespace), ..MountChange::default() };
        mount_setattr(tree, options.id_map == Some(true), &change)
            .map_err(|source| Error::IdMap { path: path.to_owned(), source })?;
    }
    for (flags, recursive) in [(options.recursive, true), (options.top, false)] {
        set_flags(tree, flags, recursive).map_err(fail())?;
    }
    Ok(())
}

pub(super) fn set_flags(mount: impl AsFd, flags: Flags, recursive: bool) -> Result<(), Errno> {
    if flags.is_empty() {
        return Ok(());
    }
    let some = |flags: MountAttrFlags| (!flags.is_empty()).then_some(flags);
    let change =
        MountChange { set: some(flags.set), clear: some(flags.clear), ..MountChange::default() };
    mount_setattr(mount, recursive, &change)
}

/// A volume that promises propagation must lie on a mount that has it: silently private would lose
/// what a CSI driver or a person mounts later.
fn check_propagation(path: &Path, wanted: MountPropagationFlags, id: u64) -> Result<(), Error> {
    let (marks, wanted): (&[&str], _) = if wanted == MountPropagationFlags::SHARED {
        (&["shared:"], "shared")
    } else if wanted == MountPropagationFlags::DOWNSTREAM {
        (&["shared:", "master:"], "shared or a slave")
    } else {
        return Ok(());
    };
    const MOUNTS: &str = "/proc/thread-self/mountinfo";
    let fail = |error: std::io::Error| Error::Path {
        action: "read",
        path: PathBuf::from(MOUNTS),
        source: Errno::from_io_error(&error).unwrap_or(Errno::IO),
    };
    for line in BufReader::new(File::open(MOUNTS).map_err(fail)?).split(b'\n') {
        let line = line.map_err(fail)?;
        let line = String::from_utf8_lossy(&line);
        let mut fields = line.split(' ');
        if fields.next().and_then(|field| field.parse().ok()) != Some(id) {
            continue;
        }
        let mount = PathBuf::from(unescape(fields.nth(3).unwrap_or_default()));
        let mut optional = fields.skip(1).take_while(|field| *field != "-");
        if optional.any(|field| marks.iter().any(|mark| field.starts_with(mark))) {
            return Ok(());
        }
        return Err(Error::Propagation { path: path.to_owned(), mount, wanted });
    }
    // The mount went away in between, or lies outside this process' root.
    Err(Error::Propagation { path: path.to_owned(), mount: PathBuf::from("?"), wanted })
}

/// mountinfo writes blanks and backslashes as octal.
pub(super) fn unescape(field: &str) -> std::ffi::OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        let octal = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match (first, octal) {
            (b'\\', Some(byte)) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    std::ffi::OsString::from_vec(bytes)
}

/// A directory of the host as a root: with all that is mounted below, and cut off from the host's
/// mount, which may be shared.
pub(super) fn clone_root(path: &Path) -> Result<OwnedFd, Error> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    let tree = rustix::mount::open_tree(CWD, path, flags)
        .map_err(Error::path("clone the mount of", path))?;
    let private = MountPropagationFlags::PRIVATE;
    let change = MountChange { propagation: Some(private), ..MountChange::default() };
    mount_setattr(&tree, true, &change).map_err(Error::path("cut off from the host", path))?;
    Ok(tree)
}

/// The device of the host at `path`, or a tree of the runtime's own, as it is.
pub(super) fn clone_plain(path: &Path) -> Result<OwnedFd, Error> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    rustix::mount::open_tree(CWD, path, flags).map_err(Error::path("clone the mount of", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_unescaped() {
        assert_eq!(unescape(r"/a\040b\134c\0"), r"/a b\c\0");
    }
}
