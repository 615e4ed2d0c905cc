//! Files in memory that nobody can change any more.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};
use rustix::io::{self, Errno};

const UNCHANGEABLE: SealFlags = SealFlags::WRITE.union(SealFlags::GROW).union(SealFlags::SHRINK);

/// An empty file, to be filled and sealed, that can be executed.
pub(crate) fn executable(name: &str) -> io::Result<OwnedFd> {
    create(name, MemfdFlags::EXEC)
}

/// A sealed file with these bytes, that cannot be executed.
pub(crate) fn sealed(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(create(name, MemfdFlags::NOEXEC_SEAL)?);
    file.write_all(bytes).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    seal(&file)?;
    Ok(file.into())
}

fn create(name: &str, kind: MemfdFlags) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match memfd_create(name, flags | kind) {
        // Before 6.3 there was one kind, which could be executed.
        Err(Errno::INVAL) => memfd_create(name, flags),
        made => made,
    }
}

/// Makes contents, length and seals final.
pub(crate) fn seal(file: impl AsFd) -> io::Result<()> {
    fcntl_add_seals(file, UNCHANGEABLE | SealFlags::SEAL)
}

/// Whether contents and length are final.
pub(crate) fn is_sealed(file: impl AsFd) -> bool {
    fcntl_get_seals(file).is_ok_and(|seals| seals.contains(UNCHANGEABLE))
}
