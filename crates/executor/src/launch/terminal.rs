//! A terminal of the container's own devpts.
//!
//! Everything goes by descriptor: `/dev/pts/ptmx` counts only where it is on a devpts, and the
//! container's end comes from its other end (TIOCGPTPEER), never from a name.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, fstatfs, openat};
use rustix::io::{self, Errno};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::path::Below;
use super::tree::{attach_to, clone_of};
use crate::plan::{Create, Window};

const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;

/// Both ends of a terminal.
#[derive(Debug)]
pub(super) struct Terminal {
    /// The keeper's end.
    pub(super) master: OwnedFd,
    /// The container's end.
    pub(super) slave: OwnedFd,
}

impl Terminal {
    /// Opens one in the devpts below the root. `procfs` is the keeper's.
    ///
    /// # Errors
    /// `ENOTTY` where `/dev/pts/ptmx` is not on a devpts; otherwise what the calls say.
    pub(super) fn open(
        below: &Below<'_>,
        procfs: BorrowedFd<'_>,
        window: Window,
    ) -> io::Result<Self> {
        let found = below.find("/dev/pts/ptmx")?;
        if fstatfs(&found)?.f_type != DEVPTS_SUPER_MAGIC {
            return Err(Errno::NOTTY);
        }
        // What was looked at is what is opened: by the link that means this descriptor.
        let name = format!("self/fd/{}", found.as_raw_fd());
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let master = openat(procfs, name, flags, Mode::empty())?;
        unlockpt(&master)?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave = ioctl_tiocgptpeer(&master, flags)?;
        let size =
            Winsize { ws_row: window.rows, ws_col: window.columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&master, size)?;
        Ok(Self { master, slave })
    }

    /// Makes the container's end its `/dev/console`.
    ///
    /// # Errors
    /// What attaching it there meets.
    pub(super) fn become_console(&self, below: &Below<'_>) -> io::Result<()> {
        let target = below.find_or_make("/dev/console", Create::File)?;
        let console = clone_of(self.slave.as_fd(), false)?;
        attach_to(console.as_fd(), target.as_fd())
    }
}
