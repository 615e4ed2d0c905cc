//! The per-pod process that parents every container, and the client that talks to it.
//!
//! ```text
//!   daemon                      seed                  keeper (one per pod)          container
//!     | Seed::start -- exec ----> |
//!     | Seed::make -------------> | -- clone3 ---------> |
//!     | Keeper::create, start, exec, attach, ... ------> | -- clone3 ---------------> |
//!     | <- Event: exits, dropped log lines ------------- | <- stdout, stderr, exit -- |
//! ```
//!
//! [`Seed`] and [`Keeper`] are the daemon's side, on tokio; [`seed_main`] is the other side, which
//! has one thread and no runtime. [`protocol`] says what goes between.

mod client;
mod memfd;
mod process;
pub mod protocol;
mod wire;

pub use client::error::Error;
pub use client::keeper::{Created, Events, Execution, Keeper, SharedPid};
pub use client::seed::{Made, SEED_ARGUMENT, Seed};
pub use process::sandbox::Sandbox;
pub use process::seed::seed_main;
pub use protocol::{
    ContainerPhase, ContainerStatus, Event, ExecStatus, ExitStatus, LogStats, Refusal, Status,
    Stdio, TerminalSize,
};
