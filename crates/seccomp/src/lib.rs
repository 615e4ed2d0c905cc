//! Compiles an OCI seccomp profile to the BPF program that the kernel loads.
//!
//! ```text
//! default_profile(bounding, kernel) ─┐
//!                                    ├─> LinuxSeccomp ── compile() ──> Program ── bytes, flags ──> seccomp(2)
//! Profile::read(path) ── resolve() ──┘
//! ```
//!
//! A profile says the same here as through runc and libseccomp:
//!
//! - A name that an ABI does not have is passed over there. On 32-bit x86 a rule for a socket or System V
//!   IPC call also holds for `socketcall` and `ipc`.
//! - A rule without conditions outweighs those with, wherever it stands. Among the others the first
//!   that fits decides. A rule that says what the default says is no rule.
//! - All conditions of a rule must hold; where one argument has several, each stands for itself.
//!   Arguments of 32-bit ABIs are compared by their lower half.
//! - A call of an architecture that the profile does not name kills the thread.
//! - Calls newer than all that a denying profile names fail with ENOSYS, so that programs fall back
//!   to older ones instead of giving up.
//!
//! The program tells the architecture, then finds the range of numbers with one verdict by binary search:
//! the kernel runs the program for each call that it cannot prove to be allowed always, and once for
//! each number when it is loaded.

mod assembler;
mod compile;
mod default;
mod profile;
mod syscalls;
#[cfg(test)]
mod verdicts;

pub use compile::{Error, Program, compile};
pub use default::default_profile;
pub use profile::{KernelVersion, Profile, ProfileError};
