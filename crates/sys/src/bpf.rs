//! eBPF programs of type `CGROUP_DEVICE`: load, attach to a cgroup, list, detach (bpf(2)).

use std::ffi::c_long;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

/// One eBPF instruction, laid out as the kernel reads it (`struct bpf_insn`).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Class, operation and source bits.
    pub code: u8,
    /// Destination register in the low four bits, source register in the high four.
    pub registers: u8,
    /// Signed jump distance or memory offset.
    pub offset: i16,
    /// Signed immediate operand.
    pub immediate: i32,
}

/// Why the kernel refused a program.
#[derive(Debug)]
pub struct Refused {
    /// What bpf(2) returned.
    pub errno: Errno,
    /// The verifier's log; empty where the verifier was not reached.
    pub log: String,
}

const PROG_LOAD: u32 = 5;
const PROG_ATTACH: u32 = 8;
const PROG_DETACH: u32 = 9;
const PROG_GET_FD_BY_ID: u32 = 13;
const PROG_QUERY: u32 = 16;

const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 1 << 1;

/// The most programs that the kernel lets one cgroup hold for one attach type.
const PROGRAMS_MAX: usize = 64;

#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

#[repr(C)]
#[derive(Default)]
struct AttachAttr {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
}

#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    reserved: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

#[repr(C)]
#[derive(Default)]
struct IdAttr {
    prog_id: u32,
    next_id: u32,
    open_flags: u32,
}

/// An attribute block that bpf(2) may be given.
trait Attr {}
impl Attr for LoadAttr {}
impl Attr for AttachAttr {}
impl Attr for QueryAttr {}
impl Attr for IdAttr {}

fn bpf<A: Attr>(command: u32, attr: &mut A) -> Result<c_long, Errno> {
    // SAFETY: `attr` is a live, writable block of exactly the size passed, and every address inside
    // it was taken from a buffer that the caller of `bpf` keeps alive, with its true length.
    #[expect(unsafe_code, reason = "bpf(2) has no wrapper in rustix")]
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<A>()) };
    if result < 0 { Err(last_errno()) } else { Ok(result) }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

fn owned(fd: c_long) -> OwnedFd {
    // SAFETY: the kernel has just returned this number as a new descriptor of ours; nothing else
    // knows it, and BPF descriptors are close-on-exec from birth.
    #[expect(unsafe_code, reason = "a raw system call returns a number")]
    unsafe {
        OwnedFd::from_raw_fd(fd as RawFd)
    }
}

/// Loads a device program. It reads `struct bpf_cgroup_dev_ctx` through register 1 and leaves 1 in
/// register 0 to allow an access, 0 to deny it.
///
/// # Errors
/// What bpf(2) says, with the verifier's log (read by a second attempt, so that success pays
/// nothing for it).
pub fn load_device_program(name: &str, program: &[Instruction]) -> Result<OwnedFd, Refused> {
    let mut log = Vec::new();
    match try_load(name, program, &mut log) {
        Ok(fd) => Ok(fd),
        Err(errno) => {
            log = vec![0; 64 * 1024];
            match try_load(name, program, &mut log) {
                Ok(fd) => Ok(fd),
                Err(_) => {
                    let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
                    Err(Refused { errno, log: String::from_utf8_lossy(&log[..end]).into_owned() })
                }
            }
        }
    }
}

fn try_load(name: &str, program: &[Instruction], log: &mut [u8]) -> Result<OwnedFd, Errno> {
    let mut prog_name = [0; 16];
    let length = name.len().min(prog_name.len() - 1);
    prog_name[..length].copy_from_slice(&name.as_bytes()[..length]);
    let mut attr = LoadAttr {
        prog_type: PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(program.len()).map_err(|_| Errno::TOOBIG)?,
        insns: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: u32::from(!log.is_empty()),
        log_size: u32::try_from(log.len()).map_err(|_| Errno::TOOBIG)?,
        log_buf: if log.is_empty() { 0 } else { log.as_mut_ptr() as u64 },
        prog_name,
        ..LoadAttr::default()
    };
    bpf(PROG_LOAD, &mut attr).map(owned)
}

/// Attaches a device program to a cgroup v2 directory, beside any that are there: an access is
/// allowed only where all of them, and those of the ancestors, allow it.
///
/// # Errors
/// What bpf(2) says: `EPERM` without CAP_BPF or under an ancestor that refuses several programs,
/// `E2BIG` at 64 programs.
pub fn attach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut attr = AttachAttr {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: ATTACH_CGROUP_DEVICE,
        attach_flags: ALLOW_MULTI,
        ..AttachAttr::default()
    };
    bpf(PROG_ATTACH, &mut attr).map(drop)
}

/// Detaches a device program from a cgroup v2 directory.
///
/// # Errors
/// What bpf(2) says: `ENOENT` where it is not attached.
pub fn detach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut attr = AttachAttr {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: ATTACH_CGROUP_DEVICE,
        ..AttachAttr::default()
    };
    bpf(PROG_DETACH, &mut attr).map(drop)
}

/// The device programs attached to a cgroup v2 directory itself, ancestors' left out.
///
/// # Errors
/// What bpf(2) says. A program that vanishes meanwhile is left out.
pub fn device_programs(cgroup: BorrowedFd<'_>) -> Result<Vec<OwnedFd>, Errno> {
    let mut ids = [0_u32; PROGRAMS_MAX];
    let mut attr = QueryAttr {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_type: ATTACH_CGROUP_DEVICE,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: PROGRAMS_MAX as u32,
        ..QueryAttr::default()
    };
    bpf(PROG_QUERY, &mut attr)?;
    let count = (attr.prog_cnt as usize).min(PROGRAMS_MAX);
    let mut programs = Vec::with_capacity(count);
    for id in &ids[..count] {
        match bpf(PROG_GET_FD_BY_ID, &mut IdAttr { prog_id: *id, ..IdAttr::default() }) {
            Ok(fd) => programs.push(owned(fd)),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(programs)
}
