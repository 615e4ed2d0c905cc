//! The daemon's side, on tokio.

pub(crate) mod error;
pub(crate) mod keeper;
mod link;
pub(crate) mod seed;
