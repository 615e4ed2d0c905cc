//! The contents of the files that come beside a launch: its plan, a filter.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::buffer::spare_capacity;
use rustix::fs::fstat;
use rustix::io::{self, Errno};
use serde::de::DeserializeOwned;

use crate::failure::{During, Failure, Step};
use crate::plan::Handle;

/// What a plan's file holds.
pub(super) fn read_plan<T: DeserializeOwned>(
    plan: Handle,
    table: &[OwnedFd],
) -> Result<T, Failure> {
    let file = plan.of(table).during(Step::Plan)?;
    let bytes = read_all(file).during(Step::Plan)?;
    serde_json::from_slice(&bytes).map_err(|_| Failure::new(Step::Plan, Errno::BADMSG))
}

/// Reads a file that does not change, from its beginning. Nobody's position is moved: other processes read
/// the same open file at the same time, as they do a filter that is shared.
pub(super) fn read_all(file: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let size = usize::try_from(fstat(file)?.st_size).map_err(|_| Errno::FBIG)?;
    let mut bytes = Vec::with_capacity(size);
    while bytes.len() < size {
        let at = bytes.len() as u64;
        let read = io::retry_on_intr(|| io::pread(file, spare_capacity(&mut bytes), at))?;
        if read == 0 {
            return Err(Errno::IO);
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::fs::{MemfdFlags, memfd_create};

    use super::*;

    #[test]
    fn many_read_one_open_file_at_the_same_time() {
        let file = memfd_create("shared", MemfdFlags::CLOEXEC).unwrap();
        let text: Vec<u8> = (0..100_000_u32).flat_map(u32::to_ne_bytes).collect();
        let mut rest = text.as_slice();
        while !rest.is_empty() {
            rest = &rest[io::write(&file, rest).unwrap()..];
        }
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        assert!(read_all(file.as_fd()).unwrap() == text);
                    }
                });
            }
        });
    }
}
