//! Device nodes and symbolic links of a container.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, Uid, chmodat, chownat, makedev, mknodat, statat, symlinkat,
};
use rustix::io::{self, Errno};

use super::path::{Below, Place};
use super::tree::attach_to;
use crate::failure::{During, Failure, Step};
use crate::plan::{Create, Device, Link, Node, NodeKind};

/// Brings one device node into the container.
pub(super) fn device(below: &Below<'_>, device: &Device, table: &[OwnedFd]) -> Result<(), Failure> {
    let made = match &device.node {
        Node::Bind(handle) => {
            let mount = handle.of(table).during_of(Step::Handle, &device.path)?;
            bind(below, &device.path, mount)
        }
        node @ Node::Make { .. } => make(below, &device.path, node),
    };
    made.during_of(Step::Device, &device.path)
}

fn bind(below: &Below<'_>, path: &str, mount: BorrowedFd<'_>) -> io::Result<()> {
    let target = below.find_or_make(path, Create::File)?;
    attach_to(mount, target.as_fd())
}

fn make(below: &Below<'_>, path: &str, node: &Node) -> io::Result<()> {
    let Node::Make { kind, major, minor, mode, uid, gid } = *node else { return Ok(()) };
    let Place { parent, name } = below.place(path)?.ok_or(Errno::INVAL)?;
    let name = OsStr::from_bytes(&name);
    let file_type = match kind {
        NodeKind::Character => FileType::CharacterDevice,
        NodeKind::Block => FileType::BlockDevice,
        NodeKind::Pipe => FileType::Fifo,
    };
    let number = if kind == NodeKind::Pipe { 0 } else { makedev(major, minor) };
    let mode = Mode::from_raw_mode(mode & 0o7777);
    match mknodat(&parent, name, file_type, mode, number) {
        // The creation mask of the assembling process is empty: the mode is exact.
        Ok(()) => {}
        Err(Errno::EXIST) => {
            let stat = statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
            let same = FileType::from_raw_mode(stat.st_mode) == file_type;
            if !same || (kind != NodeKind::Pipe && stat.st_rdev != number) {
                return Err(Errno::EXIST);
            }
            chmodat(&parent, name, mode, AtFlags::empty())?;
        }
        Err(errno) => return Err(errno),
    }
    if uid == 0 && gid == 0 {
        return Ok(());
    }
    let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    chownat(&parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
}

/// Makes a symbolic link where nothing stands.
pub(super) fn link(below: &Below<'_>, link: &Link) -> Result<(), Failure> {
    let make = || {
        let Place { parent, name } = below.place(&link.path)?.ok_or(Errno::EXIST)?;
        let name = OsStr::from_bytes(&name);
        symlinkat(link.target.as_str(), &parent, name)?;
        below.give(parent.as_fd(), name)
    };
    match make() {
        Err(Errno::EXIST) => Ok(()),
        other => other.during_of(Step::Link, &link.path),
    }
}
