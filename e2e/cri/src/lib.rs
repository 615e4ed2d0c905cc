//! What our behaviour tests stand on: real daemons, and a client that speaks the CRI to them.
//!
//! ```text
//!   group     tests that share a daemon, or have one each; run by libtest-mimic
//!   daemon    a `minke serve` of a test's own
//!   client    the CRI as a test speaks it: Cri -> Pod -> Container
//!   probe     what is compiled for containers that want out
//!   image     layers and images made by hand, as archives or for
//!   registry  a small registry that can be told to lie
//!   traces    what a daemon has in the kernel and on disk
//! ```
//!
//! The environment says what to work with: MINKE is the binary, REGISTRY the address of the real
//! registry with the test images, E2E_DIR a directory for all files. `e2e/parts/cri` sets it.

pub mod client;
pub mod daemon;
pub mod group;
pub mod image;
pub mod probe;
pub mod registry;
pub mod traces;
