//! The store against a registry in this process.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod pull;
mod rig;
mod store;
mod unpacked;
