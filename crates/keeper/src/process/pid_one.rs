//! PID 1 of a PID namespace that containers share.
//!
//! The containers see it, so there must be nothing to see: a program of a few instructions that
//! sleeps for ever, with no memory of the keeper's, no descriptor, an empty read-only root, a uid
//! that no pod can have, no privilege, and a filter that lets it do nothing but sleep. Its file is
//! sealed and unreadable, which makes it not dumpable from its first instruction on. SIGCHLD is
//! ignored, so that the kernel itself reaps the orphans of the namespace.
//!
//! ```text
//!   keeper -- clone3(NEWNS) --> intermediate            enters an empty root, and the pod's user
//!     |                             |                   namespace where there is one
//!     |                             | -- clone3(NEWPID, PARENT) --> PID 1 drops everything, execs
//!     | <-- pid ------------------- |                   |
//!     | <-- end of file, or an error number ----------- |
//! ```

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, fchmod};
use rustix::io::{self, Errno};
use rustix::mount::MountAttrFlags;
use rustix::process::{
    Gid, Pid, PidfdFlags, Signal, Uid, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal,
    set_parent_process_death_signal, setsid, waitid,
};
use rustix::thread::{
    LinkNameSpaceType, ThreadNameSpaceType, move_into_link_name_space, set_no_new_privs,
    set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};
use sys::fork::{
    Child, close_all_but, default_signal, execute_alone, fork, fork_sibling, ignore_signal,
};
use sys::mount::{MountChange, mount_setattr};
use sys::seccomp::{self, Instruction};

use crate::memfd;
use crate::process::sandbox::namespace;
use crate::process::template;
use crate::protocol::Refusal;

/// The uid of PID 1 in a pod without a user namespace. Kubernetes takes none above 2^31 - 1, so no
/// container shares it.
const UID: u32 = 4_000_000_001;

/// The pod's user namespace, and the last id that it maps, which PID 1 gets.
#[derive(Debug)]
pub(crate) struct PodUser {
    pub(crate) namespace: OwnedFd,
    pub(crate) last_id: u32,
}

/// A PID namespace with its first process.
#[derive(Debug)]
pub(crate) struct PidOne {
    pub(crate) pid: u32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) namespace: OwnedFd,
}

impl PidOne {
    /// Makes a PID namespace.
    pub(crate) fn start(user: Option<&PodUser>) -> Result<Self, Refusal> {
        let program = program().map_err(Refusal::kernel("make the program of a shared PID 1"))?;
        let (report, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(Refusal::kernel("make a pipe"))?;
        let hands = Hands { program, write };
        let intermediate = fork(ThreadNameSpaceType::MOUNT, move || hands.prepare(user))
            .map_err(Refusal::kernel("make a shared PID namespace"))?;
        let told = hear(&report);
        let _ = waitid(WaitId::PidFd(intermediate.pidfd.as_fd()), WaitIdOptions::EXITED);
        let pid = told.map_err(Refusal::kernel("start the PID 1 of a shared PID namespace"))?;
        let open = || {
            // It is a child that was not waited for: the number still means it.
            let pidfd = pidfd_open(pid, PidfdFlags::empty())
                .map_err(Refusal::kernel("open the PID 1 of a shared PID namespace"))?;
            let namespace = namespace(&pid.as_raw_nonzero().to_string(), "pid")?;
            Ok(Self { pid: pid.as_raw_nonzero().get().unsigned_abs(), pidfd, namespace })
        };
        open()
    }

    /// Ends it, and with it every process of the namespace.
    pub(crate) fn end(&self) {
        // Both fail only where it is gone.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        let options = WaitIdOptions::EXITED;
        let _ = waitid(WaitId::PidFd(self.pidfd.as_fd()), options);
    }
}

/// Reads what the two processes say: the number of PID 1, or what went wrong.
fn hear(report: &OwnedFd) -> io::Result<Pid> {
    let mut pid = Err(Errno::CHILD);
    loop {
        let mut word = [0; 4];
        match io::read(report, &mut word) {
            Ok(4) => match i32::from_ne_bytes(word) {
                number if number < 0 => return Err(Errno::from_raw_os_error(-number)),
                number => pid = Pid::from_raw(number).ok_or(Errno::CHILD),
            },
            Err(Errno::INTR) => {}
            _ => return pid,
        }
    }
}

/// What the intermediate process is born with.
struct Hands {
    program: OwnedFd,
    /// Where both say what went wrong; closed by execve(2).
    write: OwnedFd,
}

impl Hands {
    /// The life of the intermediate process.
    fn prepare(&self, user: Option<&PodUser>) -> u8 {
        let mut kept = vec![self.program.as_fd(), self.write.as_fd()];
        kept.extend(user.map(|user| user.namespace.as_fd()));
        close_all_but(&kept);
        let made = empty_root().and_then(|()| {
            if let Some(user) = user {
                let kind = Some(LinkNameSpaceType::User);
                move_into_link_name_space(user.namespace.as_fd(), kind)?;
            }
            fork_sibling(ThreadNameSpaceType::PROCESS_ID, || self.become_pid_one(user))
        });
        match made {
            Ok(Child { pid, .. }) => self.say(pid.as_raw_nonzero().get()),
            Err(errno) => self.say(-errno.raw_os_error()),
        }
        0
    }

    /// The life of PID 1 before it is nothing but that.
    fn become_pid_one(&self, user: Option<&PodUser>) -> u8 {
        let errno = match drop_everything(user.map_or(UID, |user| user.last_id)) {
            Ok(()) => execute_alone(self.program.as_fd(), c"minke-pid1"),
            Err(errno) => errno,
        };
        self.say(-errno.raw_os_error());
        1
    }

    fn say(&self, number: i32) {
        // Where nobody listens any more, nobody waits for it either.
        let _ = io::write(&self.write, &number.to_ne_bytes());
    }
}

/// An empty read-only root: not even a procfs.
fn empty_root() -> io::Result<()> {
    let refused = |_| Errno::PERM;
    let options = [("mode", "0555"), ("size", "4k"), ("nr_inodes", "2")];
    let root = template::filesystem("tmpfs", &options).map_err(refused)?;
    template::become_root(&root)?;
    let read_only =
        MountChange { set: Some(MountAttrFlags::MOUNT_ATTR_RDONLY), ..MountChange::default() };
    mount_setattr(&root, false, &read_only)
}

fn drop_everything(id: u32) -> io::Result<()> {
    setsid()?;
    default_signal(Signal::PIPE);
    ignore_signal(Signal::CHILD);
    let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
    set_thread_groups(&[])?;
    set_thread_res_gid(gid, gid, gid)?;
    // From root to another uid: all capabilities go.
    set_thread_res_uid(uid, uid, uid)?;
    // After the change of uid, which would undo it.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    set_no_new_privs(true)?;
    seccomp::load(&filter(), 0)
}

/// Allows what happens between here and the program's sleep, and that; anything else kills.
fn filter() -> Vec<Instruction> {
    const LOAD: u16 = 0x20;
    const JUMP_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const KILL_PROCESS: u32 = 0x8000_0000;
    const ALLOW: u32 = 0x7fff_0000;
    let instruction =
        |code, jump_true, jump_false, operand| Instruction { code, jump_true, jump_false, operand };
    let allowed = [machine::SLEEP, machine::EXECVEAT, machine::WRITE, machine::EXIT_GROUP];
    // The offsets are those of struct seccomp_data: the call's number, then the architecture.
    let mut program = vec![
        instruction(LOAD, 0, 0, 4),
        instruction(JUMP_EQUAL, 1, 0, machine::AUDIT_ARCH),
        instruction(RETURN, 0, 0, KILL_PROCESS),
        instruction(LOAD, 0, 0, 0),
    ];
    for call in allowed {
        program.push(instruction(JUMP_EQUAL, 0, 1, call));
        program.push(instruction(RETURN, 0, 0, ALLOW));
    }
    program.push(instruction(RETURN, 0, 0, KILL_PROCESS));
    program
}

/// The program as a sealed file that can be executed and not read.
fn program() -> io::Result<OwnedFd> {
    let program = memfd::executable("minke-pid1")?;
    let image = image();
    if io::write(&program, &image)? != image.len() {
        return Err(Errno::NOSPC);
    }
    fchmod(&program, Mode::from_raw_mode(0o111))?;
    memfd::seal(&program)?;
    Ok(program)
}

/// An ELF file (elf(5)): a header, one segment with everything in it, a stack that is not
/// executable, and the code.
fn image() -> Vec<u8> {
    const ADDRESS: u64 = 0x40_0000;
    const PAGE: u64 = 0x1_0000;
    const HEADER: u16 = 64;
    const PROGRAM_HEADER: u16 = 56;
    const READ_EXECUTE: u32 = 5;
    const READ_WRITE: u32 = 6;
    const LOAD: u32 = 1;
    const STACK: u32 = 0x6474_e551;
    let code_at = u64::from(HEADER) + 2 * u64::from(PROGRAM_HEADER);
    let size = code_at + machine::CODE.len() as u64;
    let mut image = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let mut put = |bytes: &[u8]| image.extend_from_slice(bytes);
    // An executable with fixed addresses, of this machine, in the format's only version.
    [2, machine::ELF].iter().for_each(|half: &u16| put(&half.to_le_bytes()));
    put(&1_u32.to_le_bytes());
    // Entry; program headers behind this header; no sections; no flags.
    [ADDRESS + code_at, u64::from(HEADER), 0].iter().for_each(|word| put(&word.to_le_bytes()));
    put(&0_u32.to_le_bytes());
    [HEADER, PROGRAM_HEADER, 2, 0, 0, 0].iter().for_each(|half| put(&half.to_le_bytes()));
    for (kind, flags, address, size, align) in
        [(LOAD, READ_EXECUTE, ADDRESS, size, PAGE), (STACK, READ_WRITE, 0, 0, 16)]
    {
        put(&kind.to_le_bytes());
        put(&flags.to_le_bytes());
        // Offset, virtual and physical address, size in file and memory, alignment.
        [0, address, address, size, size, align].iter().for_each(|word| put(&word.to_le_bytes()));
    }
    put(machine::CODE);
    image
}

#[cfg(target_arch = "x86_64")]
mod machine {
    pub(super) const ELF: u16 = 62;
    pub(super) const AUDIT_ARCH: u32 = 0xc000_003e;
    pub(super) const WRITE: u32 = 1;
    /// pause(2)
    pub(super) const SLEEP: u32 = 34;
    pub(super) const EXIT_GROUP: u32 = 231;
    pub(super) const EXECVEAT: u32 = 322;
    /// mov eax, 34; syscall; jmp to the beginning
    pub(super) const CODE: &[u8] = &[0xb8, 34, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7];
}

#[cfg(target_arch = "aarch64")]
mod machine {
    pub(super) const ELF: u16 = 183;
    pub(super) const AUDIT_ARCH: u32 = 0xc000_00b7;
    pub(super) const WRITE: u32 = 64;
    /// ppoll(2) of nothing, for ever
    pub(super) const SLEEP: u32 = 73;
    pub(super) const EXIT_GROUP: u32 = 94;
    pub(super) const EXECVEAT: u32 = 281;
    /// mov x8, 73; mov x0 to x3, 0; svc 0; b to the beginning
    pub(super) const CODE: &[u8] = &[
        0x28, 0x09, 0x80, 0xd2, 0x00, 0x00, 0x80, 0xd2, 0x01, 0x00, 0x80, 0xd2, 0x02, 0x00, 0x80,
        0xd2, 0x03, 0x00, 0x80, 0xd2, 0x01, 0x00, 0x00, 0xd4, 0xfa, 0xff, 0xff, 0x17,
    ];
}
