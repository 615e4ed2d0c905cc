//! The gate that a created container waits at: two named pipes beside its record.
//!
//! The process that made it has gone; whoever opens the gate needs no process to ask and no power
//! over the one that waits. That holds both pipes open for reading and writing, so that neither of
//! its own calls can fail for want of another end, and loses them by execve(2) or by its death: the
//! one has no reader then, and the other an end of file.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use executor::launch::read_word;
use executor::plan::Gate;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open};

use crate::failure::Failure;

const GO: &str = "go";
const WORD: &str = "word";

/// Makes the gate in a container's directory. Gives the ends for its first process.
pub(crate) fn make(place: &Path) -> Result<[OwnedFd; 2], Failure> {
    let pipe = |name| {
        let path = place.join(name);
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
            .map_err(Failure::file("make", &path))?;
        open(&path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(Failure::file("open", &path))
    };
    Ok([pipe(GO)?, pipe(WORD)?])
}

/// Whether somebody waits there.
pub(crate) fn is_waited_at(place: &Path) -> bool {
    go(place).is_ok()
}

/// Lets the process go on. Returns when it executes its program; the outer error is about the gate,
/// the inner one says why it could not.
pub(crate) fn open_for(place: &Path) -> Result<Result<(), executor::Failure>, Failure> {
    let path = place.join(WORD);
    let mut word = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(&path)
        .map_err(Failure::file("open", &path))?;
    let failed = || Failure::file("open the gate", place.join(GO));
    go(place).and_then(|mut go| go.write_all(&[Gate::GO])).map_err(failed())?;
    let mut said = Vec::new();
    loop {
        let mut bytes = [0; 512];
        match word.read(&mut bytes) {
            Ok(0) => break,
            Ok(length) => said.extend_from_slice(&bytes[..length]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                let mut polled = [PollFd::new(&word, PollFlags::IN)];
                rustix::io::retry_on_intr(|| poll(&mut polled, None))
                    .map_err(Failure::kernel("wait for the start"))?;
            }
            Err(error) => return Err(Failure::file("read", path)(error)),
        }
    }
    Ok(read_word(&said).map_or(Ok(()), Err))
}

/// The end for writing; an error where nobody reads.
fn go(place: &Path) -> std::io::Result<File> {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    OpenOptions::new().write(true).custom_flags(flags).open(place.join(GO))
}
