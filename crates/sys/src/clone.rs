//! Making processes the way a container needs it (clone3(2), clone(2)), and executing programs.

use std::ffi::{c_char, c_int, c_long, c_void};
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::OnceLock;

use rustix::io::{self, Errno};
use rustix::process::{Pid, PidfdFlags, getpid, pidfd_open};
use rustix::thread::ThreadNameSpaceType;

use crate::fork::Child;
use crate::namespace::enter;

/// libc's constant of this name overflows its type.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// What a process is born with.
#[derive(Debug, Clone, Copy)]
pub struct Birth<'fd> {
    /// The kinds of namespaces that are made for it.
    pub namespaces: ThreadNameSpaceType,
    /// The cgroup v2 directory that it is born in; none is its maker's.
    pub cgroup: Option<BorrowedFd<'fd>>,
    /// Whether it becomes its maker's sibling: the child of its maker's parent (CLONE_PARENT).
    pub sibling: bool,
}

impl Default for Birth<'_> {
    fn default() -> Self {
        Self { namespaces: ThreadNameSpaceType::empty(), cgroup: None, sibling: false }
    }
}

/// Makes a process that runs `body` on a copy of the caller's memory and exits with the code that
/// it returns (101 where it panics). A sibling is reaped by the caller's parent, which learns of its end as of the
/// caller's own; a child's end is announced by SIGCHLD.
///
/// # Safety
/// The calling process has one thread, or `body` does nothing but system calls: whatever another
/// thread has locked, the heap included, stays locked in the copy for ever.
///
/// # Errors
/// What clone3(2) says.
#[expect(unsafe_code, reason = "clone3(2) has no wrapper")]
pub unsafe fn clone(birth: Birth<'_>, body: impl FnOnce() -> u8) -> io::Result<Child> {
    let mut pidfd: RawFd = -1;
    // SAFETY: the struct has integers only, for which zero is a value.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = u64::from(birth.namespaces.bits()) | libc::CLONE_PIDFD as u64;
    args.pidfd = (&raw mut pidfd) as u64;
    if birth.sibling {
        args.flags |= libc::CLONE_PARENT as u64;
    } else {
        args.exit_signal = libc::SIGCHLD as u64;
    }
    if let Some(cgroup) = birth.cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(cgroup.as_raw_fd().unsigned_abs());
    }
    // SAFETY: `args` is a live block of the size passed, `pidfd` a live int that the kernel fills
    // in for the parent. No stack and no CLONE_VM: the new process goes on with a copy of all
    // memory, which the caller has promised to be consistent.
    let result =
        unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
    if result == 0 {
        exit(catch_unwind(AssertUnwindSafe(body)).unwrap_or(101));
    }
    let pid = pid_of(result)?;
    // SAFETY: the kernel has stored a new descriptor there; nothing else knows it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Child { pid, pidfd })
}

/// While it lives, the children of the thread that made it are born in another PID namespace than its
/// own.
#[derive(Debug)]
pub struct BornElsewhere {
    /// The calling process.
    own: OwnedFd,
}

impl BornElsewhere {
    /// In that of a process, known by its pidfd: the caller's, or one below.
    ///
    /// # Errors
    /// What setns(2) says: `ESRCH` where the process has ended.
    pub fn beside(process: BorrowedFd<'_>) -> io::Result<Self> {
        let own = pidfd_open(getpid(), PidfdFlags::empty())?;
        enter(process, ThreadNameSpaceType::PROCESS_ID)?;
        Ok(Self { own })
    }
}

impl Drop for BornElsewhere {
    fn drop(&mut self) {
        // A thread may always return to its own namespace. The kernel can only be short of memory, and
        // what would go on with its children among strangers had better end.
        const TRIALS: usize = 1000;
        let home = || enter(self.own.as_fd(), ThreadNameSpaceType::PROCESS_ID).is_ok();
        if !(0..TRIALS).any(|_| home()) {
            std::process::abort();
        }
    }
}

/// Whether the calling process has one thread.
#[must_use]
#[expect(unsafe_code, reason = "rustix does not know the flag")]
pub fn has_one_thread() -> bool {
    // SAFETY: in a process of one thread unsharing the thread group changes nothing, and in any
    // other the kernel refuses it, which is what is asked here.
    unsafe { libc::unshare(libc::CLONE_THREAD) == 0 }
}

/// The flags of a [`Kin::Sibling`], as a system call filter sees them in the first argument.
pub const SIBLING_FLAGS: u32 = (libc::CLONE_PARENT | libc::SIGCHLD) as u32;

/// What a process made by [`clone_onto`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kin {
    /// Its maker's sibling: the child of its maker's parent.
    Sibling,
    /// Its maker's child, in a user namespace and a mount namespace of its own, where it is capable
    /// of everything, as it is capable of nothing outside.
    Exile,
}

/// Makes a process that runs `entry(argument)` on a stack of its own and exits with what that
/// returns. `mark` is passed where the kernel looks at nothing (the fourth argument, among others),
/// so that a system call filter can tell this call from all others.
///
/// # Safety
/// `stack_top` is the upper end of a writable mapping that only the new process uses as a stack and
/// that is long enough for `entry`; `argument` is what `entry` expects, in memory that the new
/// process has a copy of.
///
/// # Errors
/// What clone(2) says.
#[expect(unsafe_code, reason = "clone(2) has no safe wrapper")]
pub unsafe fn clone_onto(
    kin: Kin,
    stack_top: NonNull<c_void>,
    entry: extern "C" fn(*mut c_void) -> c_int,
    argument: *mut c_void,
    mark: usize,
) -> io::Result<Pid> {
    let flags = match kin {
        Kin::Sibling => SIBLING_FLAGS as c_int,
        Kin::Exile => libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::SIGCHLD,
    };
    let mark = mark as *mut c_void;
    // SAFETY: stack, entry and argument are as the caller has promised; without CLONE_VM the new
    // process has a copy of memory, and the three marks are ignored without flags that use them.
    let result =
        unsafe { libc::clone(entry, stack_top.as_ptr(), flags, argument, mark, mark, mark) };
    pid_of(c_long::from(result))
}

/// Ends the process at once: no destructor, no handler, nothing written.
#[expect(unsafe_code, reason = "exit handlers are those of the process it was copied from")]
pub fn exit(code: u8) -> ! {
    // SAFETY: ends this process without running anything of it.
    unsafe { libc::_exit(c_int::from(code)) }
}

/// Replaces the process by the program at `path`. Returns only on failure.
///
/// # Safety
/// `path` points to a string that ends with a zero byte, `arguments` and `environment` to arrays of
/// such that end with a null pointer.
#[expect(unsafe_code, reason = "rustix keeps execve(2) to itself")]
pub unsafe fn execute(
    path: *const c_char,
    arguments: *const *const c_char,
    environment: *const *const c_char,
) -> Errno {
    // SAFETY: the pointers are as execve(2) wants them, as the caller has promised.
    unsafe { libc::execve(path, arguments, environment) };
    last_errno()
}

/// Replaces the process by an open file. Returns only on failure.
///
/// # Safety
/// As for [`execute`].
#[expect(unsafe_code, reason = "rustix keeps execveat(2) to itself")]
pub unsafe fn execute_file(
    file: BorrowedFd<'_>,
    arguments: *const *const c_char,
    environment: *const *const c_char,
) -> Errno {
    // SAFETY: the path is an empty string; the arrays are as the caller has promised.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_raw_fd(),
            c"".as_ptr(),
            arguments,
            environment,
            libc::AT_EMPTY_PATH,
        )
    };
    last_errno()
}

/// Starts a session, and makes standard input its terminal if `terminal`. `mark` is passed where
/// the kernel looks at nothing (the fourth argument), as in [`clone_onto`].
///
/// # Errors
/// What setsid(2) and ioctl_tty(2) say.
#[expect(unsafe_code, reason = "rustix passes no more arguments than a call has")]
pub fn start_session(terminal: bool, mark: usize) -> io::Result<()> {
    // SAFETY: setsid takes no arguments; registers beyond those are not looked at.
    let result = unsafe { libc::syscall(libc::SYS_setsid, mark, mark, mark, mark) };
    check(result)?;
    if terminal {
        // SAFETY: TIOCSCTTY takes an integer; the fourth register is not looked at.
        let result = unsafe { libc::syscall(libc::SYS_ioctl, 0, libc::TIOCSCTTY, 0, mark) };
        check(result)?;
    }
    Ok(())
}

/// Signals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signals(u64);

impl Signals {
    /// Those that do not have their default effect in this process, as it was when it, or one that it
    /// is a copy of, was first asked: each signal takes a system call.
    pub fn changed() -> Self {
        static CHANGED: OnceLock<Signals> = OnceLock::new();
        *CHANGED.get_or_init(Self::changed_now)
    }

    /// Those that do not have their default effect in this process.
    #[must_use]
    #[expect(unsafe_code, reason = "rustix leaves dispositions to the C library")]
    pub fn changed_now() -> Self {
        let is_changed = |number: &u64| {
            let mut now = [0_u64; 4];
            // SAFETY: `now` is at least as long as the kernel's struct sigaction with the 8 bytes of
            // mask that the size argument names; the kernel fills it in and changes nothing.
            unsafe {
                libc::syscall(
                    libc::SYS_rt_sigaction,
                    *number,
                    std::ptr::null::<u64>(),
                    now.as_mut_ptr(),
                    8_usize,
                )
            };
            // The handler comes first.
            now[0] != libc::SIG_DFL as u64
        };
        Self((1..=64).filter(is_changed).fold(0, |set, number| set | 1 << (number - 1)))
    }
}

/// Gives signals their default effect, whatever the process was started with.
#[expect(unsafe_code, reason = "rustix leaves dispositions to the C library")]
pub fn reset_signals(changed: Signals) {
    for number in (1..=64).filter(|number| changed.0 & 1 << (number - 1) != 0) {
        // The kernel's own call: the C library hides the two signals that it uses itself. Nothing
        // but zeroes is SIG_DFL, no flags, no mask.
        let default = [0_u64; 4];
        // SAFETY: `default` is at least as long as the kernel's struct sigaction without its mask
        // plus the 8 bytes of mask that the size argument names, and lives over the call.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                number,
                default.as_ptr(),
                std::ptr::null::<u64>(),
                8_usize,
            )
        };
    }
}

/// Lets every signal wait that can be let wait.
pub fn block_signals() {
    set_blocked(u64::MAX);
}

/// Takes every signal that comes or waits.
pub fn unblock_signals() {
    set_blocked(0);
}

#[expect(unsafe_code, reason = "rustix leaves signal masks to the C library")]
fn set_blocked(signals: u64) {
    // SAFETY: `signals` is a signal set of the 8 bytes that the size argument names.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const signals,
            std::ptr::null::<u64>(),
            8_usize,
        )
    };
}

/// Closes every descriptor from `first` on, whoever believes to own it: for a process that is about
/// to execute a program.
///
/// # Safety
/// No owner of such a descriptor is used or dropped any more.
///
/// # Errors
/// What close_range(2) says.
#[expect(unsafe_code, reason = "it closes descriptors that have owners")]
pub unsafe fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: closes descriptors only, and the caller has promised that nobody misses them.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) })
}

/// Closes the descriptors from `first` to `last`, whoever believes to own them.
///
/// # Safety
/// As for [`close_from`].
///
/// # Errors
/// What close_range(2) says.
#[expect(unsafe_code, reason = "it closes descriptors that have owners")]
pub unsafe fn close_span(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: closes descriptors only, and the caller has promised that nobody misses them.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) })
}

/// Closes the copy that a process made by [`clone`] has of a descriptor of its maker's.
///
/// # Safety
/// The calling process is such a copy, and never returns to the code that owns `file`.
#[expect(unsafe_code, reason = "it closes a descriptor that has an owner")]
pub unsafe fn close_copy(file: &OwnedFd) {
    // SAFETY: the owner is part of a copy of the maker that never runs, as the caller promises.
    unsafe { io::close(file.as_raw_fd()) }
}

/// Gives a file the descriptor `number` in place of whatever had it. The next program gets it if
/// `inherited`.
///
/// # Safety
/// No owner of descriptor `number` is used or dropped any more.
///
/// # Errors
/// What dup3(2) says: `EINVAL` where the file has that number already.
#[expect(unsafe_code, reason = "it closes a descriptor that may have an owner")]
pub unsafe fn renumber(file: BorrowedFd<'_>, number: u32, inherited: bool) -> io::Result<()> {
    let flags = if inherited { 0 } else { libc::O_CLOEXEC };
    // SAFETY: replaces one descriptor, and the caller has promised that nobody misses it.
    check(unsafe { libc::syscall(libc::SYS_dup3, file.as_raw_fd(), number, flags) })
}

fn pid_of(result: c_long) -> io::Result<Pid> {
    check(result)?;
    i32::try_from(result).ok().and_then(Pid::from_raw).ok_or(Errno::CHILD)
}

pub(crate) fn check(result: c_long) -> io::Result<()> {
    if result >= 0 { Ok(()) } else { Err(last_errno()) }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
