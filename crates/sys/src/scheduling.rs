//! Scheduling policy and I/O priority of the calling thread (sched_setattr(2), ioprio_set(2)).

use rustix::io;

use crate::clone::check;

/// A scheduling policy with its parameters.
#[derive(Debug, Clone, Copy, Default)]
pub struct Policy {
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// Nice value.
    pub nice: i32,
    /// Priority of the real-time policies.
    pub priority: u32,
    /// Nanoseconds, for SCHED_DEADLINE.
    pub runtime: u64,
    /// Nanoseconds, for SCHED_DEADLINE.
    pub deadline: u64,
    /// Nanoseconds, for SCHED_DEADLINE.
    pub period: u64,
}

/// The kernel's `struct sched_attr` in its first published size.
#[repr(C)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Sets the calling thread's policy; the default one is SCHED_OTHER at nice value 0.
///
/// # Errors
/// What sched_setattr(2) says: `EPERM` without CAP_SYS_NICE.
#[expect(unsafe_code, reason = "rustix has no sched_setattr(2)")]
pub fn set_policy(policy: Policy) -> io::Result<()> {
    let Policy { policy, flags, nice, priority, runtime, deadline, period } = policy;
    let size = size_of::<SchedAttr>() as u32;
    let attr = SchedAttr { size, policy, flags, nice, priority, runtime, deadline, period };
    // SAFETY: `attr` lives over the call and says its own true size; 0 is the calling thread.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) })
}

/// Sets the calling thread's I/O priority: class in the upper three bits, level in the lower 13.
///
/// # Errors
/// What ioprio_set(2) says.
#[expect(unsafe_code, reason = "rustix has no ioprio_set(2)")]
pub fn set_io_priority(priority: u16) -> io::Result<()> {
    const WHO_PROCESS: libc::c_int = 1;
    // SAFETY: the call takes three integers; 0 is the calling thread.
    check(unsafe {
        libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, libc::c_int::from(priority))
    })
}
