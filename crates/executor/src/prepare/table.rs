//! The descriptors that travel beside a launch, and the sealed files among them.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;

use super::Error;
use crate::plan::Handle;

/// Descriptors in the order of their handles.
#[derive(Debug, Default)]
pub(super) struct Table(Vec<OwnedFd>);

impl From<Vec<OwnedFd>> for Table {
    fn from(descriptors: Vec<OwnedFd>) -> Self {
        Self(descriptors)
    }
}

impl Table {
    pub(super) fn add(&mut self, descriptor: OwnedFd) -> Handle {
        self.0.push(descriptor);
        // A process cannot have four thousand million descriptors.
        Handle(u32::try_from(self.0.len() - 1).unwrap_or(u32::MAX))
    }

    /// Adds a descriptor that stays the caller's.
    pub(super) fn add_copy(&mut self, descriptor: impl AsFd) -> Result<Handle, Error> {
        let copy = rustix::io::fcntl_dupfd_cloexec(descriptor, 3)
            .map_err(Error::kernel("copy a descriptor"))?;
        Ok(self.add(copy))
    }

    /// A copy of one of its descriptors, for use here.
    pub(super) fn copy(&self, handle: Handle) -> Result<OwnedFd, Error> {
        let descriptor = handle.of(&self.0).map_err(Error::kernel("find a descriptor"))?;
        rustix::io::fcntl_dupfd_cloexec(descriptor, 3).map_err(Error::kernel("copy a descriptor"))
    }

    pub(super) fn into_descriptors(self) -> Vec<OwnedFd> {
        self.0
    }
}

/// A file in memory with these contents, that nobody can change any more: what is checked is what is
/// read. `name` is what /proc/PID/fd shows.
///
/// # Errors
/// Those of memfd_create(2), write(2) and fcntl(2).
pub fn sealed(name: &str, contents: &[u8]) -> Result<OwnedFd, Error> {
    let base = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Where vm.memfd_noexec is 2 the flag is a duty; before 6.3 it is unknown.
    let file = match rustix::fs::memfd_create(name, base | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => rustix::fs::memfd_create(name, base),
        other => other,
    };
    let file = file.map_err(Error::kernel("make a file in memory"))?;
    let mut rest = contents;
    while !rest.is_empty() {
        let written =
            rustix::io::write(&file, rest).map_err(Error::kernel("fill a file in memory"))?;
        rest = &rest[written..];
    }
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0))
        .map_err(Error::kernel("rewind a file in memory"))?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals).map_err(Error::kernel("seal a file in memory"))?;
    Ok(file)
}
