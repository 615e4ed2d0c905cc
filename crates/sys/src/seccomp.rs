//! Loading system call filters (seccomp(2)).

use rustix::io::{self, Errno};

use crate::clone::check;

/// One instruction of a filter (`struct sock_filter`).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Jump distance where true.
    pub jump_true: u8,
    /// Jump distance where false.
    pub jump_false: u8,
    /// Operand.
    pub operand: u32,
}

impl Instruction {
    /// The instructions in `bytes`, as the kernel lays them out.
    ///
    /// # Errors
    /// `EINVAL` where the length is not that of whole instructions.
    pub fn read_all(bytes: &[u8]) -> io::Result<impl Iterator<Item = Self>> {
        if !bytes.len().is_multiple_of(size_of::<Self>()) {
            return Err(Errno::INVAL);
        }
        Ok(bytes.chunks_exact(size_of::<Self>()).map(|chunk| Self {
            code: u16::from_ne_bytes([chunk[0], chunk[1]]),
            jump_true: chunk[2],
            jump_false: chunk[3],
            operand: u32::from_ne_bytes([chunk[4], chunk[5], chunk[6], chunk[7]]),
        }))
    }
}

#[repr(C)]
struct Program {
    length: u16,
    instructions: *const Instruction,
}

/// Holds the calling thread, and all that it makes, to a filter. `flags` are
/// `SECCOMP_FILTER_FLAG_*`.
///
/// # Errors
/// `EACCES` without `no_new_privs` or CAP_SYS_ADMIN, `EINVAL` for a program that is not one.
#[expect(unsafe_code, reason = "rustix has no seccomp(2)")]
pub fn load(program: &[Instruction], flags: u32) -> io::Result<()> {
    let length = u16::try_from(program.len()).map_err(|_| Errno::INVAL)?;
    let program = Program { length, instructions: program.as_ptr() };
    // SAFETY: `program` and the instructions that it points to live over the call, with the true
    // length; the kernel checks and copies them.
    check(unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    })
}
