//! An OCI spec becomes a process and back.
//!
//! ```text
//!   prepare (daemon: host's mount namespace)       launch (keeper: sees no host path)
//!   ------------------------------------------     ------------------------------------------------
//!   resolves and opens every path, parses every    clones the process, whose child path assembles
//!   string, finds every mistake                    the root, drops privileges, waits, executes
//!                 \_____ plan: Launch, Plan, ExecPlan, and a table of descriptors ____/
//! ```

mod failure;
pub mod launch;
pub mod namespaces;
pub mod plan;
pub mod prepare;

pub use failure::{Failure, Step};
