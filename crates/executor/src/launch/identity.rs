//! What a process is: its scheduling, its labels, its user, its capabilities, where it stands.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::{self, Errno};
use rustix::process::{DumpableBehavior, chdir, fchdir, getcwd, set_dumpable_behavior, umask};
use rustix::thread::{
    CapabilitySet, CapabilitySets, CpuSet, Gid, Uid, capabilities, clear_ambient_capability_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, sched_setaffinity,
    set_capabilities, set_keep_capabilities, set_no_new_privs, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};
use sys::scheduling::{Policy, is_as_begun, set_io_priority, set_policy};
use sys::seccomp::Instruction;

use super::contents::read_all;
use crate::failure::{During, Failure, Step};
use crate::plan::{Capabilities, Process};

/// Makes the calling process what `process` says, [`Lock`] excepted. It keeps the capabilities that
/// it had, so that loading a filter and giving them up can come last. `procfs` is the keeper's: in
/// the container's own, labels could be written to something else (CVE-2019-16884).
pub(super) fn assume(
    process: &Process,
    groups: &[Gid],
    keep_keyring: bool,
    procfs: BorrowedFd<'_>,
) -> Result<(), Failure> {
    match if keep_keyring { Ok(()) } else { sys::keyring::join_new_session() } {
        // A user with too many keys, a kernel without any: the process has its parent's, empty.
        Ok(()) | Err(Errno::NOSYS | Errno::DQUOT) => {}
        Err(errno) => return Err(Failure::new(Step::Keyring, errno)),
    }
    schedule(process).during(Step::Scheduling)?;
    label(process, procfs)?;
    bound(process.capabilities.bounding).during(Step::Capabilities)?;
    let inside = stand_in(&process.cwd);
    change_user(process, groups)?;
    match inside {
        // Where only the user may go, and not root (a network file system).
        Err(Errno::ACCESS) => stand_in(&process.cwd),
        other => other,
    }
    .during_of(Step::WorkingDirectory, &process.cwd)?;
    umask(Mode::from_raw_mode(process.umask.unwrap_or(0o022) & 0o777));
    if process.no_new_privileges {
        set_no_new_privs(true).during(Step::NoNewPrivileges)?;
    }
    Ok(())
}

/// Becomes root in the user namespace that was just entered, where it has a root.
pub(super) fn assume_root() {
    // Without a root there it stays what it is outside: capable all the same, and owner of nothing.
    let _unmapped = become_group(Gid::ROOT);
    let _unmapped = become_user(Uid::ROOT);
}

fn become_user(uid: Uid) -> io::Result<()> {
    let done = set_thread_res_uid(uid, uid, uid);
    stay_closed();
    done
}

fn become_group(gid: Gid) -> io::Result<()> {
    let done = set_thread_res_gid(gid, gid, gid);
    stay_closed();
    done
}

/// A change of users has made the process what fs.suid_dumpable says (proc_sys_fs(5)): its core could be
/// written, and whoever is the same user could look into it. Nothing comes between that could fail and
/// end it: others may have lowered its limits.
fn stay_closed() {
    let _cannot_fail = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

/// Sets what is asked for. What is not goes back to where a process begins, whatever the keeper was
/// started with; that is a courtesy, and fails no process.
fn schedule(process: &Process) -> io::Result<()> {
    let wanted = process.scheduler.unwrap_or_default();
    let policy = Policy {
        policy: wanted.policy,
        flags: wanted.flags,
        nice: wanted.nice,
        priority: wanted.priority,
        runtime: wanted.runtime,
        deadline: wanted.deadline,
        period: wanted.period,
    };
    if process.scheduler.is_none()
        && process.io_priority.is_none()
        && process.affinity.is_empty()
        && is_as_begun()
    {
        return Ok(());
    }
    let asked = |is_asked: bool, set: io::Result<()>| if is_asked { set } else { Ok(()) };
    asked(process.scheduler.is_some(), set_policy(policy))?;
    let priority = set_io_priority(process.io_priority.unwrap_or(0));
    asked(process.io_priority.is_some(), priority)?;
    let mut processors = CpuSet::new();
    if process.affinity.is_empty() {
        (0..CpuSet::MAX_CPU).for_each(|processor| processors.set(processor));
    }
    for processor in process.affinity.iter().map(|processor| *processor as usize) {
        if processor >= CpuSet::MAX_CPU {
            return Err(Errno::INVAL);
        }
        processors.set(processor);
    }
    asked(!process.affinity.is_empty(), sched_setaffinity(None, &processors))
}

fn label(process: &Process, procfs: BorrowedFd<'_>) -> Result<(), Failure> {
    if let Some(profile) = &process.apparmor {
        let text = format!("exec {profile}");
        write(procfs, "self/attr/apparmor/exec", text.as_bytes())
            .or_else(|errno| match errno {
                // Before modules could be stacked.
                Errno::NOENT => write(procfs, "self/attr/exec", text.as_bytes()),
                other => Err(other),
            })
            .during_of(Step::Label, profile)?;
    }
    if let Some(label) = &process.selinux {
        write(procfs, "self/attr/exec", label.as_bytes()).during_of(Step::Label, label)?;
    }
    Ok(())
}

/// Writes a file below `directory`, in one write.
pub(super) fn write(directory: BorrowedFd<'_>, path: &str, value: &[u8]) -> io::Result<()> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = openat2(directory, path, flags, Mode::empty(), resolve)?;
    match io::write(&file, value)? {
        length if length == value.len() => Ok(()),
        _ => Err(Errno::IO),
    }
}

fn bound(bounding: u64) -> io::Result<()> {
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if bounding & capability.bits() != 0 {
            continue;
        }
        match remove_capability_from_bounding_set(capability) {
            // Past the last one that the kernel knows.
            Err(Errno::INVAL) => break,
            other => other?,
        }
    }
    Ok(())
}

fn change_user(process: &Process, groups: &[Gid]) -> Result<(), Failure> {
    let (uid, gid) = (Uid::from_raw(process.uid), Gid::from_raw(process.gid));
    let leaves_root = !uid.is_root();
    if leaves_root {
        set_keep_capabilities(true).during(Step::Capabilities)?;
    }
    set_thread_groups(groups).during(Step::Groups)?;
    become_group(gid).during_of(Step::User, process.gid)?;
    become_user(uid).during_of(Step::User, process.uid)?;
    if !leaves_root {
        return Ok(());
    }
    // Leaving root has taken them out of force.
    let mut sets = capabilities(None).during(Step::Capabilities)?;
    sets.effective = sets.permitted;
    set_capabilities(None, sets).during(Step::Capabilities)
}

/// Makes `path` the working directory. No link of procfs is followed, and the kernel has to agree
/// that the place lies below the root (CVE-2024-21626), as the root itself does.
fn stand_in(path: &str) -> io::Result<()> {
    if path.is_empty() || path == "/" {
        return chdir(c"/");
    }
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = super::path::own_root()?;
    fchdir(openat2(&root, path, flags, Mode::empty(), resolve)?)?;
    match getcwd(Vec::new())?.to_bytes().first() {
        Some(b'/') => Ok(()),
        // "(unreachable)..."
        _ => Err(Errno::NOENT),
    }
}

/// The last restrictions of a process: its capabilities and its system call filter.
#[derive(Debug)]
pub(super) struct Lock {
    capabilities: Capabilities,
    no_new_privileges: bool,
    filter: Option<(Vec<Instruction>, u32)>,
}

impl Lock {
    /// Reads what is needed, so that no descriptor is any more. `prologue` goes before the filter.
    pub(super) fn of(
        process: &Process,
        table: &[OwnedFd],
        prologue: &[Instruction],
    ) -> Result<Self, Failure> {
        let filter = match process.seccomp {
            None => None,
            Some(seccomp) => {
                let file = seccomp.program.of(table).during(Step::Seccomp)?;
                let bytes = read_all(file).during(Step::Seccomp)?;
                let own = Instruction::read_all(&bytes).during(Step::Seccomp)?;
                let program = prologue.iter().copied().chain(own).collect();
                Some((program, seccomp.flags))
            }
        };
        Ok(Self {
            capabilities: process.capabilities,
            no_new_privileges: process.no_new_privileges,
            filter,
        })
    }

    /// Gives up all capabilities but the process's own, and loads the filter: before that where
    /// loading it takes CAP_SYS_ADMIN, after it where it does not.
    pub(super) fn close(&self) -> Result<(), (Step, Errno)> {
        let filter = || match &self.filter {
            Some((program, flags)) => {
                sys::seccomp::load(program, *flags).map_err(|errno| (Step::Seccomp, errno))
            }
            None => Ok(()),
        };
        let reduce = || reduce(self.capabilities).map_err(|errno| (Step::Capabilities, errno));
        if self.no_new_privileges {
            reduce()?;
            filter()
        } else {
            filter()?;
            reduce()
        }
    }
}

fn reduce(wanted: Capabilities) -> io::Result<()> {
    let had = capabilities(None)?.permitted.bits();
    let set = |bits: u64| CapabilitySet::from_bits_retain(bits & had);
    let inheritable = set(wanted.inheritable & wanted.bounding);
    let permitted = set(wanted.permitted);
    let effective = set(wanted.effective) & permitted;
    clear_ambient_capability_set()?;
    set_capabilities(None, CapabilitySets { effective, permitted, inheritable })?;
    let ambient = set(wanted.ambient) & permitted & inheritable;
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if ambient.contains(capability) {
            configure_capability_in_ambient_set(capability, true)?;
        }
    }
    Ok(())
}
