//! Stopping every process of a cgroup at once, for a while or for good.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::group::{each_directory, processes_of};
use crate::hierarchy::Layout;
use crate::{Cgroup, Controller, Error, file};

/// How long [`Cgroup::kill`] waits on v1 for all tasks to stop. Those that stand in an uninterruptible
/// sleep do not; they are signalled all the same.
const FREEZE_BEFORE_KILL: Duration = Duration::from_millis(200);

/// Between two looks at v1's `freezer.state`, which no event announces.
const PAUSE: Duration = Duration::from_millis(1);

impl Cgroup {
    /// Stops every process in it and in its children, and waits until they stand.
    ///
    /// # Errors
    /// [`Error::TimedOut`] after `within`: a process in an uninterruptible sleep holds it up. On v1 all are then
    /// let go again; on v2 the request stands until [`Cgroup::thaw`].
    pub fn freeze(&self, within: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + within;
        match self.hierarchy().layout() {
            Layout::Unified(_) => self.set_frozen(true, deadline),
            Layout::Legacy(_) => {
                let state = self.freezer_state()?;
                let result = legacy_freeze(&state, deadline);
                if result.is_err() {
                    // The time-out is the error to tell.
                    let _ = file::write(&state, "THAWED");
                }
                result
            }
        }
    }

    /// Lets its processes go on, and waits until they do.
    ///
    /// # Errors
    /// [`Error::TimedOut`] after `within`, as under a frozen ancestor.
    pub fn thaw(&self, within: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + within;
        match self.hierarchy().layout() {
            Layout::Unified(_) => self.set_frozen(false, deadline),
            Layout::Legacy(_) => {
                let state = self.freezer_state()?;
                file::write(&state, "THAWED")?;
                match file::read(&state)?.trim() {
                    "THAWED" => Ok(()),
                    _ => Err(timed_out(&state, "thawed")),
                }
            }
        }
    }

    /// Whether all of its processes stand by [`Cgroup::freeze`], or are about to. Where nothing can
    /// freeze, nothing is frozen.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub fn is_frozen(&self) -> Result<bool, Error> {
        match self.hierarchy().layout() {
            Layout::Unified(_) => {
                let request = self.census()?.join("cgroup.freeze");
                Ok(file::read_if_there(&request)?.is_some_and(|text| text.trim() == "1"))
            }
            Layout::Legacy(_) => match self.freezer_state() {
                Ok(state) => {
                    Ok(file::read_if_there(&state)?.is_some_and(|text| text.trim() != "THAWED"))
                }
                Err(_) => Ok(false),
            },
        }
    }

    /// Sends SIGKILL to every process in it and in its children; none that they fork escapes. Does
    /// not wait for their end. A cgroup that is gone has none.
    ///
    /// On v2 the kernel does it in one step, children that are being cloned into it included. On v1
    /// all are frozen first, so that none forks and no number is used anew.
    ///
    /// # Errors
    /// [`Error::Write`], [`Error::Read`], [`Error::Kill`].
    pub fn kill(&self) -> Result<(), Error> {
        let result = match self.hierarchy().layout() {
            Layout::Unified(root) => {
                file::write(&root.join(self.path().relative()).join("cgroup.kill"), "1")
            }
            Layout::Legacy(_) => self.legacy_kill(),
        };
        match result {
            Err(error) if error.is_gone() => Ok(()),
            other => other,
        }
    }

    fn legacy_kill(&self) -> Result<(), Error> {
        let top = self.census()?;
        let Ok(state) = self.freezer_state() else {
            return each_directory(&top, &mut |directory| kill_processes(directory));
        };
        // Without standstill the signals still go out, and the thaw is due in any case.
        let frozen = legacy_freeze(&state, Instant::now() + FREEZE_BEFORE_KILL);
        let killed = each_directory(&top, &mut |directory| kill_processes(directory));
        let thawed = file::write(&state, "THAWED");
        killed.and(thawed)?;
        match frozen {
            // What ran on may have forked between the list and the signal.
            Err(_) => each_directory(&top, &mut |directory| kill_processes(directory)),
            Ok(()) => Ok(()),
        }
    }

    fn freezer_state(&self) -> Result<PathBuf, Error> {
        let directory = self.directory(Controller::Freezer).ok_or_else(|| Error::NoController {
            controller: Controller::Freezer,
            file: "freezer.state".to_owned(),
            path: self.path().relative().to_owned(),
        })?;
        Ok(directory.join("freezer.state"))
    }

    fn set_frozen(&self, frozen: bool, deadline: Instant) -> Result<(), Error> {
        let directory = self.census()?;
        file::write(&directory.join("cgroup.freeze"), if frozen { "1" } else { "0" })?;
        let awaited = if frozen { "frozen" } else { "thawed" };
        await_event(&directory, "frozen", u64::from(frozen), deadline, awaited)
    }
}

/// Waits until `cgroup.events` says `key value`. The kernel wakes the poll at each change.
pub(crate) fn await_event(
    directory: &Path,
    key: &str,
    value: u64,
    deadline: Instant,
    awaited: &'static str,
) -> Result<(), Error> {
    let path = directory.join("cgroup.events");
    let events = file::open(&path, OFlags::RDONLY).map_err(|errno| Error::read(&path, errno))?;
    loop {
        // A change after this read, before the poll, is seen by the poll.
        let text = file::text(&events).map_err(|errno| Error::read(&path, errno))?;
        if file::keyed(&text, key) == Some(value) {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(timed_out(directory, awaited));
        }
        let timeout =
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::read(&path, errno)),
        }
    }
}

/// Asks again while the state is `FREEZING`: a task that was forked or moved in meanwhile is caught by
/// the next write.
fn legacy_freeze(state: &Path, deadline: Instant) -> Result<(), Error> {
    loop {
        file::write(state, "FROZEN")?;
        if file::read(state)?.trim() == "FROZEN" {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(timed_out(state, "frozen"));
        }
        std::thread::sleep(PAUSE);
    }
}

fn kill_processes(directory: &Path) -> Result<(), Error> {
    for pid in processes_of(directory)? {
        let sent = pidfd_open(pid, PidfdFlags::empty())
            .and_then(|process| pidfd_send_signal(process, Signal::KILL));
        match sent {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(source) => {
                let (path, pid) = (directory.to_owned(), pid.as_raw_nonzero().get());
                return Err(Error::Kill { path, pid, source });
            }
        }
    }
    Ok(())
}

pub(crate) fn timed_out(path: &Path, awaited: &'static str) -> Error {
    Error::TimedOut { path: path.to_owned(), awaited }
}
