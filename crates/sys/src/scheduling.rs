//! Scheduling policy and I/O priority of the calling thread (sched_setattr(2), ioprio_set(2)).

use std::sync::OnceLock;

use rustix::io;
use rustix::thread::{CpuSet, sched_getaffinity};

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

/// Whether nobody has given this process, as it was when it or one that it is a copy of was first asked,
/// another policy, I/O priority or fewer processors than a process has by itself: each takes a system call
/// to set, and to ask.
pub fn is_as_begun() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| has_default_policy() && has_default_io_priority() && has_all_processors())
}

#[expect(unsafe_code, reason = "rustix has no sched_getattr(2)")]
fn has_default_policy() -> bool {
    // SAFETY: the struct has integers only, for which zero is a value.
    let mut attr: SchedAttr = unsafe { std::mem::zeroed() };
    let size = size_of::<SchedAttr>() as u32;
    // SAFETY: `attr` has the size that is said, and the kernel writes no more than that.
    let asked = check(unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attr, size, 0) });
    asked.is_ok() && (attr.policy, attr.flags, attr.nice) == (0, 0, 0)
}

#[expect(unsafe_code, reason = "rustix has no ioprio_get(2)")]
fn has_default_io_priority() -> bool {
    const WHO_PROCESS: libc::c_int = 1;
    /// What some kernels say where nothing is set: best effort, the middle level.
    const MIDDLE: i64 = 2 << 13 | 4;
    // SAFETY: the call takes two integers; 0 is the calling thread.
    let priority = unsafe { libc::syscall(libc::SYS_ioprio_get, WHO_PROCESS, 0) };
    priority == 0 || priority == MIDDLE
}

#[expect(unsafe_code, reason = "rustix has no sysconf(3)")]
fn has_all_processors() -> bool {
    // SAFETY: the call takes an integer.
    let online = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    sched_getaffinity(None).is_ok_and(|own: CpuSet| i64::from(own.count()) >= online)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each sets its own thread's, whatever all of them were started with.
    #[test]
    fn what_a_thread_was_given_is_noticed() {
        let on_a_thread = |change: fn()| {
            let asked = move || {
                change();
                (has_default_policy(), has_default_io_priority(), has_all_processors())
            };
            std::thread::spawn(asked).join().unwrap()
        };
        let (policy, priority, processors) = on_a_thread(|| {
            set_policy(Policy::default()).unwrap();
            set_io_priority(0).unwrap();
        });
        assert!(policy && priority);
        let nice = on_a_thread(|| set_policy(Policy { nice: 7, ..Policy::default() }).unwrap());
        assert!(!nice.0 && nice.2 == processors);
        // The idle class.
        let idle = on_a_thread(|| set_io_priority(3 << 13).unwrap());
        assert!(!idle.1 && idle.2 == processors);
        let bound = on_a_thread(|| {
            let all = sched_getaffinity(None).unwrap();
            let mut first = CpuSet::new();
            first.set((0..CpuSet::MAX_CPU).find(|processor| all.is_set(*processor)).unwrap());
            rustix::thread::sched_setaffinity(None, &first).unwrap();
        });
        // A machine of one processor has no fewer.
        let one = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap().trim() == "0";
        assert_eq!(bound.2, one);
    }
}
