//! Pod and container life cycles: state machines, ordering and undo, recovery, events, stats.
//!
//! ```text
//!              run_pod                          stop_pod / keeper lost / reboot
//!   (nothing) ---------> Reserved -> Launched -> READY ------------------> NOTREADY -> removed
//!                           |            |                                     ^
//!                           +------------+----- failure: undone, stays --------+
//!
//!              create_container      start_container          exit, stop, keeper lost
//!   (nothing) ----------------> CREATED -----------> RUNNING ------------------> EXITED -> removed
//!                                  |                                                ^
//!                                  +--- execve failed (128 StartError), stop, loss --+
//! ```
//!
//! [`Runtime`] is all that the edge sees; ids may be shortened to a unique beginning. Where things
//! are: `launch` makes pods, `create` containers; `stop` ends and removes both; `ends` alone decides
//! what an end was; `recover` takes over from an earlier daemon; `exec` and `sessions` run commands;
//! `stats` reads counters; `index`, `names`, `events` and `journal` are what they share: who is
//! there, who may have a name, in which order changes are told, and what survives.
//!
//! An operation runs in a task of its own: a caller that goes away does not stop it half-way, and
//! one that comes back joins it. State is behind short locks, so that List and Status never wait.

mod claims;
mod container;
mod create;
mod ends;
mod error;
mod events;
mod exec;
mod files;
mod filter;
mod follow;
mod holdings;
mod index;
mod info;
mod journal;
mod launch;
mod names;
mod node;
mod pod;
mod recipe;
mod record;
mod recover;
mod runtime;
mod scope;
mod sessions;
mod stats;
mod stop;
mod terminal;
mod update;
mod usage;
mod view;

pub use error::Error;
pub use runtime::{Config, Parts, Runtime};
pub use stats::Depth;
pub use view::{
    ContainerFilter, ContainerPhase, ContainerStats, ContainerView, DiskUsage, Event, EventKind,
    ExecOutput, FileSystem, Holdings, PodFilter, PodStats, PodView, UserView,
};
