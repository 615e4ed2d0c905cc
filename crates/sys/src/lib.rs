//! The one home of raw syscalls: typed, owned-fd wrappers and feature probes.

pub mod bpf;
