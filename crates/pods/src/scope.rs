//! Cgroups for commands that may have to be killed apart from their container.
//!
//! A container that is probed has one command after the other in the same one, `exec-0`: making and
//! removing one each time would cost more than many a probe. Commands beside each other have more, by
//! number, which go with them; one in which a command has left something stays, and is taken again
//! once that has ended, by a later daemon too. So there are never more than commands and remains were
//! there at one time, and all go with the container.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cgroup::{Attachment, Cgroup, Error};

use crate::container::Live;

/// How many stay for the commands to come.
const KEPT: usize = 1;
/// How long the kernel may take to be rid of what was killed.
pub(crate) const DYING: Duration = Duration::from_secs(2);

/// Which of a container's are taken, by number.
#[derive(Debug, Default)]
pub(crate) struct Scopes(Mutex<Vec<bool>>);

/// A command's own; dropping it lets the next command have it.
#[derive(Debug)]
pub(crate) struct Scope {
    container: Arc<Live>,
    cgroup: Cgroup,
    number: usize,
}

impl Scope {
    /// One in which nothing is.
    ///
    /// # Errors
    /// Those of [`Cgroup::scope`] and [`Cgroup::is_empty`].
    pub(crate) fn take(container: &Arc<Live>) -> Result<Self, Error> {
        let mut taken = container.scopes.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut number = 0;
        loop {
            if number == taken.len() {
                taken.push(false);
            }
            if !taken[number] {
                let cgroup = container.cgroup.scope(&format!("exec-{number}"))?;
                if cgroup.is_empty()? {
                    taken[number] = true;
                    return Ok(Self { container: Arc::clone(container), cgroup, number });
                }
            }
            number += 1;
        }
    }

    /// What a new process needs to be born in it.
    ///
    /// # Errors
    /// Those of [`Cgroup::attachment`].
    pub(crate) fn attachment(&self) -> Result<Attachment, Error> {
        self.cgroup.attachment()
    }

    /// Kills all that is in it. Blocks.
    pub(crate) fn kill(&self) {
        // What is gone was to go.
        let _ = self.cgroup.kill();
    }

    /// Kills all that is in it, and removes it. Blocks.
    pub(crate) fn end(self) {
        self.kill();
        let _ = self.cgroup.remove(DYING);
    }

    /// Its command has ended, or never began: it stays for the next one, or goes, behind our back. What
    /// a command has left behind lives on in it.
    pub(crate) fn leave(self) {
        if self.number < KEPT {
            return;
        }
        tokio::task::spawn_blocking(move || {
            // The kernel may be taking its last process apart, still.
            let empty = matches!(self.cgroup.is_empty(), Ok(true));
            let _ = self.cgroup.remove(if empty { DYING } else { Duration::ZERO });
        });
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        let mut taken = self.container.scopes.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken[self.number] = false;
    }
}
