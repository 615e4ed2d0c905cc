//! The daemon's half of the executor against the kernel. Every test runs again as a child of its own
//! in a mount and a network namespace of its own, so that nothing of it reaches the host.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod isolated;
mod overlay;
mod plan;
mod source;
