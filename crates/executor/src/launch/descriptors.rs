//! The descriptors that a process keeps on its last stretch, and their numbers.
//!
//! ```text
//!   0 1 2    standard streams
//!   3 ...    what the container is to have          stay open in its program
//!   then     report, program, gate's go and word    closed by execve(2)
//! ```

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::io::{self, Errno, fcntl_dupfd_cloexec};
use sys::clone::{close_from, close_span, renumber};

use crate::failure::{During, Failure, Step};
use crate::plan::{Alone, Process};

/// The first number after the standard streams.
pub(super) const FIRST: u32 = 3;

/// The numbers of what a process needs to get into its program.
#[derive(Debug, Clone, Copy)]
pub(super) struct Numbers {
    /// The descriptor by which it reports, and is let go by its maker.
    pub(super) report: u32,
    /// A program that is executed without a name.
    pub(super) executable: u32,
    /// The gate's.
    pub(super) go: u32,
    /// The gate's.
    pub(super) word: u32,
}

impl Numbers {
    pub(super) fn of(alone: &Alone) -> Self {
        Self::after(alone.preserved.len())
    }

    fn after(preserved: usize) -> Self {
        let report = u32::try_from(preserved).unwrap_or(u32::MAX / 2) + FIRST;
        Self { report, executable: report + 1, go: report + 2, word: report + 3 }
    }
}

/// What is kept.
#[derive(Debug)]
pub(super) struct Kept<'a> {
    preserved: Vec<BorrowedFd<'a>>,
    numbers: Numbers,
    report: BorrowedFd<'a>,
    executable: Option<BorrowedFd<'a>>,
    gate: Option<[BorrowedFd<'a>; 2]>,
}

impl<'a> Kept<'a> {
    pub(super) fn of(
        process: &Process,
        alone: &Alone,
        report: &'a OwnedFd,
        table: &'a [OwnedFd],
    ) -> Result<Self, Failure> {
        let find = |handle: crate::plan::Handle, what: &str| {
            handle.of(table).during_of(Step::Handle, what)
        };
        let preserved = alone.preserved.iter().map(|handle| find(*handle, "a preserved file"));
        let gate = match alone.gate {
            Some(gate) => Some([find(gate.go, "the gate")?, find(gate.word, "the gate")?]),
            None => None,
        };
        Ok(Self {
            preserved: preserved.collect::<Result<_, _>>()?,
            numbers: Numbers::of(alone),
            report: report.as_fd(),
            executable: process.executable.map(|handle| find(handle, "the program")).transpose()?,
            gate,
        })
    }

    /// The report alone, which gets the number [`FIRST`].
    pub(super) fn only(report: BorrowedFd<'a>) -> Self {
        let numbers = Numbers::after(0);
        Self { preserved: Vec::new(), numbers, report, executable: None, gate: None }
    }

    /// Gives each its number and closes every other descriptor. Whatever owned one must not be used
    /// or dropped after this.
    pub(super) fn close_others(&self) -> io::Result<()> {
        let Numbers { report, executable, go, word } = self.numbers;
        if report == FIRST && self.executable.is_none() && self.gate.is_none() {
            return self.close_all_but_report();
        }
        let preserved = self.preserved.iter().zip(FIRST..);
        let mut moves: Vec<_> = preserved.map(|(file, number)| (*file, number, true)).collect();
        moves.push((self.report, report, false));
        moves.extend(self.executable.map(|file| (file, executable, false)));
        if let Some([into_go, into_word]) = self.gate {
            moves.extend([(into_go, go, false), (into_word, word, false)]);
        }
        // Out of the way of what is about to get a number first.
        let above = RawFd::try_from(word + 1).map_err(|_| Errno::MFILE)?;
        let copies: io::Result<Vec<OwnedFd>> =
            moves.iter().map(|(file, ..)| fcntl_dupfd_cloexec(file, above)).collect();
        let copies = copies?;
        let mut next = FIRST;
        for (copy, (_, number, inherited)) in copies.iter().zip(&moves) {
            close_between(next, *number)?;
            // SAFETY: nothing returns from here but into the last stretch, which knows descriptors
            // by their numbers and ends the process without running a destructor.
            #[expect(unsafe_code, reason = "descriptors have owners")]
            unsafe {
                renumber(copy.as_fd(), *number, *inherited)?;
            }
            next = number + 1;
        }
        std::mem::forget(copies);
        // SAFETY: as above.
        #[expect(unsafe_code, reason = "descriptors have owners")]
        unsafe {
            close_from(next)
        }
    }

    /// [`Kept::close_others`] where the report alone is kept, and nothing can be in its way.
    fn close_all_but_report(&self) -> io::Result<()> {
        let number = self.numbers.report;
        if self.report.as_raw_fd().unsigned_abs() != number {
            // SAFETY: as there.
            #[expect(unsafe_code, reason = "descriptors have owners")]
            unsafe {
                renumber(self.report, number, false)?;
            }
        }
        // SAFETY: as there.
        #[expect(unsafe_code, reason = "descriptors have owners")]
        unsafe {
            close_from(number + 1)
        }
    }
}

/// Closes what has a number that nothing is given.
fn close_between(from: u32, to: u32) -> io::Result<()> {
    if from >= to {
        return Ok(());
    }
    // SAFETY: as in `close_others`, the only caller.
    #[expect(unsafe_code, reason = "descriptors have owners")]
    unsafe {
        close_span(from, to - 1)
    }
}

/// The descriptor of this number, after [`Kept::close_others`].
pub(super) fn numbered(number: u32) -> BorrowedFd<'static> {
    // SAFETY: after `close_others` the number means its file until the process ends.
    #[expect(unsafe_code, reason = "the descriptor is known by its number")]
    unsafe {
        BorrowedFd::borrow_raw(number as RawFd)
    }
}
