//! Cgroups for commands that may have to be killed apart from their container.
//!
//! A container that is probed has one command after the other in the same one, `exec-0`: making and
//! removing one each time would cost more than many a probe. Commands beside each other have more, by
//! number, which go with them. One in which a command has left something stays until that has ended:
//! it is taken again, or goes when the next command has ended, even where another daemon made it. So
//! there are never more than commands and remains are there, and all go with the container.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cgroup::{Attachment, Cgroup, Error};

use crate::container::Live;

/// How many stay for the commands to come.
const KEPT: usize = 1;
/// What their names begin with.
const PREFIX: &str = "exec-";
/// More than this many are not looked for.
const FOUND: usize = 4096;
/// How long the kernel may take to be rid of what was killed.
pub(crate) const DYING: Duration = Duration::from_secs(2);

/// A container's, by number.
#[derive(Debug, Default)]
pub(crate) struct Scopes(Mutex<Vec<State>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The kernel has none of this number.
    Absent,
    /// No command has it; processes that one has left may be in it.
    Idle,
    Taken,
}

impl Scopes {
    /// Those that an earlier daemon has left in a container's cgroup.
    pub(crate) fn found(container: &Cgroup) -> Self {
        let mut states = Vec::new();
        let numbers = container.scopes().into_iter();
        for number in numbers.filter_map(|name| name.strip_prefix(PREFIX)?.parse::<usize>().ok()) {
            // Whoever may make cgroups in the container can name one as high as they like.
            if number < FOUND {
                states.resize(states.len().max(number + 1), State::Absent);
                states[number] = State::Idle;
            }
        }
        Self(Mutex::new(states))
    }

    fn states(&self) -> MutexGuard<'_, Vec<State>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A command's own; dropping it lets the next command have it.
#[derive(Debug)]
pub(crate) struct Scope {
    container: Arc<Live>,
    cgroup: Cgroup,
    number: usize,
    /// What becomes of its number.
    then: State,
}

impl Scope {
    /// One in which nothing is.
    ///
    /// # Errors
    /// Those of [`Cgroup::scope`] and [`Cgroup::is_empty`].
    pub(crate) fn take(container: &Arc<Live>) -> Result<Self, Error> {
        let mut states = container.scopes.states();
        let mut number = 0;
        loop {
            if number == states.len() {
                states.push(State::Absent);
            }
            if states[number] != State::Taken {
                let scope = Self::open(container, number)?;
                states[number] = State::Idle;
                if scope.is_empty()? {
                    states[number] = State::Taken;
                    return Ok(Self::taken(container, scope, number));
                }
            }
            number += 1;
        }
    }

    fn open(container: &Live, number: usize) -> Result<Cgroup, Error> {
        container.cgroup.scope(&format!("{PREFIX}{number}"))
    }

    fn taken(container: &Arc<Live>, cgroup: Cgroup, number: usize) -> Self {
        Self { container: Arc::clone(container), cgroup, number, then: State::Idle }
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
        self.remove(DYING);
    }

    /// Its command has ended, or never began: it stays for the next one, or goes, behind our back. What
    /// a command has left behind lives on in it.
    pub(crate) fn leave(self) {
        let container = Arc::clone(&self.container);
        let own = (self.number >= KEPT).then_some(self);
        let beside = container.scopes.states().iter().skip(KEPT).any(|one| *one == State::Idle);
        if own.is_none() && !beside {
            return;
        }
        tokio::task::spawn_blocking(move || {
            // The kernel may be taking its last process apart, still.
            own.into_iter().for_each(|scope| scope.clear(DYING));
            // What had something in it once, or was left by a killed daemon, may be empty now.
            let mut from = KEPT;
            while let Some(scope) = Self::idle(&container, from) {
                from = scope.number + 1;
                scope.clear(Duration::ZERO);
            }
        });
    }

    /// The first from this number on that no command has.
    fn idle(container: &Arc<Live>, from: usize) -> Option<Self> {
        let mut states = container.scopes.states();
        let number = from + states.iter().skip(from).position(|state| *state == State::Idle)?;
        let cgroup = Self::open(container, number).ok()?;
        states[number] = State::Taken;
        Some(Self::taken(container, cgroup, number))
    }

    /// Removes it if no process is in it: one that is may have made cgroups of its own there.
    fn clear(self, within: Duration) {
        if matches!(self.cgroup.is_empty(), Ok(true)) {
            self.remove(within);
        }
    }

    fn remove(mut self, within: Duration) {
        if self.cgroup.remove(within).is_ok() {
            self.then = State::Absent;
        }
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        self.container.scopes.states()[self.number] = self.then;
    }
}
