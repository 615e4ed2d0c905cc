//! Taking a cgroup away once its processes have ended.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, pidfd_open};

use crate::freeze::{await_event, timed_out};
use crate::group::{children, processes_of};
use crate::hierarchy::Layout;
use crate::{Cgroup, Error, file};

/// Between two attempts where the kernel says busy and names no process: it is still taking the last
/// one apart.
const PAUSE: Duration = Duration::from_millis(1);

impl Cgroup {
    /// Removes it with all its children, on v1 in every tree. Processes that are ending are waited
    /// for; kill them before. What is gone already is no error. With nothing in the way this is one
    /// rmdir(2) for each tree.
    ///
    /// # Errors
    /// [`Error::TimedOut`] where processes are still there after `within`; [`Error::Remove`].
    pub fn remove(&self, within: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + within;
        let unified = matches!(self.hierarchy().layout(), Layout::Unified(_));
        self.directories().iter().try_for_each(|top| remove_tree(top, unified, deadline))
    }
}

fn remove_tree(directory: &Path, unified: bool, deadline: Instant) -> Result<(), Error> {
    let mut attempts = 0;
    loop {
        match file::retry(|| rustix::fs::rmdir(directory)) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::BUSY | Errno::NOTEMPTY) => {}
            // Said of a read-only tree before it is looked whether anything is there.
            Err(Errno::ROFS) if !directory.exists() => return Ok(()),
            Err(source) => return Err(Error::Remove { path: directory.to_owned(), source }),
        }
        let mut childless = true;
        for child in children(directory) {
            childless = false;
            remove_tree(&child, unified, deadline)?;
        }
        if childless {
            match await_empty(directory, unified, deadline) {
                Err(error) if error.is_gone() => return Ok(()),
                other => other?,
            }
        }
        if Instant::now() >= deadline {
            return Err(timed_out(directory, "empty"));
        }
        if attempts > 0 {
            std::thread::sleep(PAUSE);
        }
        attempts += 1;
    }
}

/// Waits for the processes of one directory to end.
fn await_empty(directory: &Path, unified: bool, deadline: Instant) -> Result<(), Error> {
    if unified {
        return await_event(directory, "populated", 0, deadline, "empty");
    }
    for pid in processes_of(directory)? {
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout =
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let mut waits = [PollFd::new(&process, PollFlags::IN)];
        if file::retry(|| poll(&mut waits, Some(&timeout))) == Ok(0) {
            return Err(timed_out(directory, "empty"));
        }
    }
    Ok(())
}
