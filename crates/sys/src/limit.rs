//! Resource limits of another process, by number (prlimit(2)).

use rustix::io;
use rustix::process::Pid;

use crate::clone::check;

/// A soft and a hard limit; `u64::MAX` is none.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limit {
    /// What is enforced.
    pub soft: u64,
    /// What the soft limit can be raised to.
    pub hard: u64,
}

/// Sets limit `resource` of a process.
///
/// # Errors
/// What prlimit(2) says: `EPERM` for raising the hard limit without CAP_SYS_RESOURCE.
pub fn set(pid: Pid, resource: u32, limit: Limit) -> io::Result<()> {
    prlimit(pid, resource, &raw const limit, std::ptr::null_mut())
}

/// Reads limit `resource` of a process.
///
/// # Errors
/// What prlimit(2) says.
pub fn get(pid: Pid, resource: u32) -> io::Result<Limit> {
    let mut limit = Limit::default();
    prlimit(pid, resource, std::ptr::null(), &raw mut limit)?;
    Ok(limit)
}

#[expect(unsafe_code, reason = "rustix takes no limits by number")]
fn prlimit(pid: Pid, resource: u32, new: *const Limit, old: *mut Limit) -> io::Result<()> {
    // SAFETY: `new` and `old` are null or live blocks of two 64-bit numbers, which is the kernel's
    // struct rlimit64.
    check(unsafe {
        libc::syscall(libc::SYS_prlimit64, pid.as_raw_nonzero().get(), resource, new, old)
    })
}
