//! The one home of raw syscalls: typed, owned-fd wrappers and feature probes.

pub mod bpf;
pub mod fork;
pub mod heap;
pub mod message_queue;
pub mod mount;
pub mod netlink;
pub mod pidfd;
