//! The one home of raw syscalls: typed, owned-fd wrappers and feature probes.

pub mod bpf;
pub mod clone;
pub mod feature;
pub mod fork;
pub mod heap;
pub mod keyring;
pub mod limit;
pub mod loopback;
pub mod memory;
pub mod message_queue;
pub mod mount;
pub mod namespace;
pub mod netlink;
pub mod pidfd;
pub mod scheduling;
pub mod seccomp;
pub mod signal;
pub mod sysctl;
