//! A cgroup as a handle: create, limit, freeze, kill, read, delete; v2 and v1.
//!
//! ```text
//! Hierarchy::detect() ── create(path) ──> Created { cgroup, made }        made: what prune() removes
//!                     └─ open(path) ────> Cgroup ─┬─ apply / update(limits)
//!                                                 ├─ attachment() ──> Attachment, for the new process
//!                                                 ├─ scope(name) ───> Cgroup of one exec
//!                                                 ├─ freeze, thaw, kill, processes, oom_kills
//!                                                 ├─ meter() ───────> Meter, read() ──> Stats
//!                                                 └─ remove(within)
//! ```
//!
//! A [`Cgroup`] is a name: it holds no descriptor, costs nothing to keep for an idle pod, and can be
//! rebuilt from a record after a restart. Descriptors are handed out where they are worth their
//! price: to place a process ([`Attachment`]) and to read counters again and again ([`Meter`]).
//!
//! **Placing a process.** On v2 clone3(2) takes the directory (CLONE_INTO_CGROUP). On v1 the new
//! process itself writes `0` to `tasks` in one tree after another. Measured on nine trees, once a
//! second on an idle node: 1 ms for all; 12.5 ms where its parent writes its pid to `cgroup.procs`.
//! A write that moves a whole thread group, or anyone but the writer, takes a lock whose writers
//! wait for an RCU grace period; a single-threaded process that moves itself skips it.
//!
//! Everything here blocks, for microseconds where nothing else is said.

mod devices;
mod error;
mod file;
mod freeze;
mod group;
mod hierarchy;
mod limits;
mod meter;
mod path;
mod removal;
mod stats;

pub use error::Error;
pub use group::{Attachment, Cgroup};
pub use hierarchy::{Controller, Created, Features, Hierarchy, Version};
pub use meter::Meter;
pub use path::CgroupPath;
pub use stats::{
    CpuStats, HugetlbStats, IoDevice, IoStats, MemoryStats, PidsStats, Pressure, Stall, Stats,
    SwapStats,
};
