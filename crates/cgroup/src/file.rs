//! Reading and writing the small files of cgroupfs.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::Error;

/// Most files fit one such read.
const CHUNK: usize = 4096;

pub(crate) fn open(path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    retry(|| rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()))
}

/// The whole text of a file.
pub(crate) fn read(path: &Path) -> Result<String, Error> {
    open(path, OFlags::RDONLY).and_then(|fd| text(&fd)).map_err(|errno| Error::read(path, errno))
}

/// The whole text of a file; none where it does not exist.
pub(crate) fn read_if_there(path: &Path) -> Result<Option<String>, Error> {
    match read(path) {
        Err(error) if error.errno() == Some(Errno::NOENT) => Ok(None),
        other => other.map(Some),
    }
}

/// The whole text of an open file, from its beginning, wherever its offset stands.
pub(crate) fn text(fd: &impl AsFd) -> Result<String, Errno> {
    let mut bytes = Vec::with_capacity(CHUNK);
    loop {
        let length = bytes.len();
        bytes.reserve(CHUNK);
        let read = retry(|| {
            rustix::io::pread(fd, rustix::buffer::spare_capacity(&mut bytes), length as u64)
        })?;
        if read == 0 {
            break;
        }
    }
    // cgroupfs writes ASCII.
    String::from_utf8(bytes).map_err(|_| Errno::ILSEQ)
}

/// Writes a value in one call, as cgroupfs wants it.
pub(crate) fn write(path: &Path, value: &str) -> Result<(), Error> {
    open(path, OFlags::WRONLY)
        .and_then(|fd| retry(|| rustix::io::write(&fd, value.as_bytes())))
        .map(drop)
        .map_err(|errno| Error::write(path, value, errno))
}

pub(crate) fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// The value of `key` in lines of `key value`.
pub(crate) fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok())
}
