//! The built-in bridge against the kernel. Each test has a network and a mount namespace of its own,
//! which plays the host.

#![expect(clippy::unwrap_used, reason = "what a test cannot go on without fails it")]

mod addresses;
mod connectivity;
mod cost;
mod hostports;
mod nft;
mod recovery;
mod subnets;
mod world;
