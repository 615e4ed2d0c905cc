use oci_spec::runtime::{
    Arch, Capabilities, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArgBuilder,
    LinuxSeccompOperator, LinuxSyscall,
};

use crate::KernelVersion;

/// What RuntimeDefault means: the calls that programs in containers need, and no others. The same
/// verdicts as containerd 2.4 gives. Namespaces, mounts, modules, tracing of others, clocks and the like
/// come with the capability that the kernel wants for them.
///
/// `bounding` is the process's bounding set; the profile is for the processor that this runs on.
#[must_use]
pub fn default_profile(bounding: &Capabilities, kernel: KernelVersion) -> LinuxSeccomp {
    let admin = bounding.contains(&Capability::SysAdmin);
    let mut syscalls = vec![allow(ALWAYS)];
    syscalls.extend(sockets());
    syscalls
        .extend(PERSONALITIES.map(|persona| {
            allow_where("personality", LinuxSeccompOperator::ScmpCmpEq, persona, 0)
        }));
    if kernel >= PTRACE_IS_SAFE {
        syscalls.push(allow("process_vm_readv process_vm_writev ptrace"));
    }
    syscalls.push(allow(match std::env::consts::ARCH {
        "x86_64" => "arch_prctl modify_ldt",
        "aarch64" => {
            "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls"
        }
        _ => "",
    }));
    let granted = WITH_CAPABILITY.iter().filter(|(needed, _)| bounding.contains(needed));
    syscalls.extend(granted.map(|(_, names)| allow(names)));
    if !admin {
        let masked = LinuxSeccompOperator::ScmpCmpMaskedEq;
        syscalls.push(allow_where("clone", masked, CLONE_NAMESPACES, 0));
        // Its flags are in memory, where no filter sees them: programs fall back to clone.
        let mut clone3 = of("clone3", LinuxSeccompAction::ScmpActErrno);
        clone3.set_errno_ret(Some(ENOSYS));
        syscalls.push(clone3);
    }
    let mut profile = LinuxSeccomp::default();
    profile
        .set_default_action(LinuxSeccompAction::ScmpActErrno)
        .set_architectures(Some(architectures()))
        .set_syscalls(Some(syscalls));
    profile
}

fn architectures() -> Vec<Arch> {
    match std::env::consts::ARCH {
        "x86_64" => vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32],
        "aarch64" => vec![Arch::ScmpArchArm, Arch::ScmpArchAarch64],
        _ => Vec::new(),
    }
}

fn allow(names: &str) -> LinuxSyscall {
    of(names, LinuxSeccompAction::ScmpActAllow)
}

fn of(names: &str, action: LinuxSeccompAction) -> LinuxSyscall {
    let mut syscall = LinuxSyscall::default();
    syscall.set_names(names.split_whitespace().map(str::to_owned).collect()).set_action(action);
    syscall
}

/// Allows calls whose first argument fits.
fn allow_where(names: &str, op: LinuxSeccompOperator, value: u64, value_two: u64) -> LinuxSyscall {
    let first = LinuxSeccompArgBuilder::default()
        .index(0_usize)
        .value(value)
        .value_two(value_two)
        .op(op)
        .build()
        .expect("every field has a default");
    let mut syscall = allow(names);
    syscall.set_args(Some(vec![first]));
    syscall
}

/// All address families but AF_ALG (38), the kernel's cryptography, and AF_VSOCK (40), which reaches
/// the hypervisor past every network namespace. 0 makes no socket. `socketcall` has its arguments
/// in memory and cannot be held to this.
fn sockets() -> impl Iterator<Item = LinuxSyscall> {
    let below = allow_where("socket", LinuxSeccompOperator::ScmpCmpLt, 38, 0);
    let single = [39, 41, 42, 43, 44, 45]
        .map(|family| allow_where("socket", LinuxSeccompOperator::ScmpCmpEq, family, 0));
    std::iter::once(below).chain(single)
}

const ENOSYS: u32 = 38;

/// Before, a tracer could change a call after the filter had seen it.
const PTRACE_IS_SAFE: KernelVersion = KernelVersion { major: 4, minor: 8 };

/// PER_LINUX, PER_LINUX32, both with UNAME26, and the question which it is (linux/personality.h).
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;

/// Calls that come with a capability.
const WITH_CAPABILITY: [(Capability, &str); 14] = [
    (Capability::DacReadSearch, "open_by_handle_at"),
    (
        Capability::SysAdmin,
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount \
         mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname \
         sethostname setns syslog umount umount2 unshare",
    ),
    (Capability::SysBoot, "reboot"),
    (Capability::SysChroot, "chroot"),
    (Capability::SysModule, "delete_module init_module finit_module"),
    (Capability::SysPacct, "acct"),
    (
        Capability::SysPtrace,
        "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace",
    ),
    (Capability::SysRawio, "iopl ioperm"),
    (Capability::SysTime, "settimeofday stime clock_settime clock_settime64"),
    (Capability::SysTtyConfig, "vhangup"),
    (Capability::SysNice, "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    (Capability::Syslog, "syslog"),
    (Capability::Bpf, "bpf"),
    (Capability::Perfmon, "perf_event_open"),
];

/// Calls that every container may make, whatever their arguments. Names that an ABI or an older table
/// does not have do no harm.
const ALWAYS: &str = "
    _llseek _newselect accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir
    chmod chown chown32 clock_adjtime clock_adjtime64 clock_getres clock_getres_time64
    clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64 close close_range connect
    copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old
    epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit
    exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod
    fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock
    fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate
    ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat
    get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid getegid32 geteuid
    geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid
    getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit getrusage
    getsid getsockname getsockopt gettid gettimeofday getuid getuid32 getxattr getxattrat
    inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy
    io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit ioctl ioprio_get ioprio_set
    ipc kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32
    lgetxattr link linkat listen listmount listxattr listxattrat llistxattr lremovexattr lseek
    lsetxattr lsm_get_self_attr lsm_list_modules lsm_set_self_attr lstat lstat64 madvise
    map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat
    mlock mlock2 mlockall mmap mmap2 mprotect mq_getsetattr mq_notify mq_open mq_timedreceive
    mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget
    msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat open
    openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free
    pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease
    pselect6 pselect6_time64 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv
    recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr removexattrat
    rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask
    rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64
    rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity
    sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval
    sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler
    sched_yield seccomp select semctl semget semop semtimedop semtimedop_time64 send sendfile
    sendfile64 sendmmsg sendmsg sendto set_robust_list set_thread_area set_tid_address setfsgid
    setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid
    setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid
    setreuid32 setrlimit setsid setsockopt setuid setuid32 setxattr setxattrat shmat shmctl shmdt
    shmget shutdown sigaltstack signalfd signalfd4 sigprocmask sigreturn socketcall socketpair
    splice stat stat64 statfs statfs64 statmount statx symlink symlinkat sync sync_file_range
    syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime
    timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64
    timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname
    unlink unlinkat uretprobe utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid
    waitpid write writev
";
