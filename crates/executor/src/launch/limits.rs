//! What is set before a process is let go: from outside, or by itself while it is capable of it.

use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::{self, Errno};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use rustix::thread::{Gid, ThreadNameSpaceType, Uid, set_thread_res_gid, set_thread_res_uid};
use sys::fork::fork;
use sys::limit::{self, Limit};

use super::identity::write;
use crate::failure::{Failure, Step};
use crate::plan::{Limits, Rlimit};

/// Sets limits of a process from outside. What takes CAP_SYS_RESOURCE and is refused is left as
/// near as the kernel allows, and named.
pub(super) fn apply(limits: &Limits, pid: Pid) -> Vec<Failure> {
    let mut refused = Vec::new();
    let mut foreign = Vec::new();
    for rlimit in &limits.rlimits {
        match set(pid, rlimit) {
            Ok(None) => {}
            Ok(Some(failure)) => refused.push(failure),
            Err(_) => foreign.push(*rlimit),
        }
    }
    if !foreign.is_empty() {
        refused.extend(apply_as_owner(&foreign, pid));
    }
    if let Some(adjustment) = limits.oom_score_adj {
        let path = format!("/proc/{}/oom_score_adj", pid.as_raw_nonzero());
        let written = fs::OpenOptions::new()
            .write(true)
            .open(path)
            .and_then(|mut file| file.write_all(adjustment.to_string().as_bytes()));
        if let Err(error) = written {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            refused.push(Failure::of(Step::OomScoreAdj, adjustment.to_string(), errno));
        }
    }
    refused
}

/// Sets how readily the calling process is killed, where the kernel allows it.
pub(super) fn adjust_own_oom_score(adjustment: &str, procfs: BorrowedFd<'_>) {
    let _refused = write(procfs, "self/oom_score_adj", adjustment.as_bytes());
}

/// Sets one limit, or what is nearest to it: then with the refusal. An error where not even the
/// present limit can be asked for.
fn set(pid: Pid, rlimit: &Rlimit) -> io::Result<Option<Failure>> {
    let wanted = Limit { soft: rlimit.soft.min(rlimit.hard), hard: rlimit.hard };
    let Err(errno) = limit::set(pid, rlimit.resource, wanted) else { return Ok(None) };
    let now = limit::get(pid, rlimit.resource)?;
    let allowed = Limit { soft: wanted.soft.min(now.hard), hard: wanted.hard.min(now.hard) };
    let _still_refused = limit::set(pid, rlimit.resource, allowed);
    Ok(Some(Failure::of(Step::Rlimit, rlimit.resource.to_string(), errno)))
}

/// Without CAP_SYS_RESOURCE nobody may touch the limits of another user's process, root neither, not
/// even to lower them. So somebody does it who is that user.
fn apply_as_owner(rlimits: &[Rlimit], pid: Pid) -> Vec<Failure> {
    let all = |errno| {
        let name = |rlimit: &Rlimit| rlimit.resource.to_string();
        rlimits.iter().map(|rlimit| Failure::of(Step::Rlimit, name(rlimit), errno)).collect()
    };
    let Some((uid, gid)) = owner(pid) else { return all(Errno::SRCH) };
    let body = || {
        let become_owner =
            set_thread_res_gid(gid, gid, gid).and_then(|()| set_thread_res_uid(uid, uid, uid));
        // The places of those refused, as bits: a spec has sixteen resources.
        let mut refused = 0_u8;
        for (place, rlimit) in rlimits.iter().enumerate() {
            if become_owner.is_err() || !matches!(set(pid, rlimit), Ok(None)) {
                refused |= 1 << (place % 8);
            }
        }
        refused
    };
    let child = match fork(ThreadNameSpaceType::empty(), body) {
        Ok(child) => child,
        Err(errno) => return all(errno),
    };
    let ended = WaitId::PidFd(child.pidfd.as_fd());
    let status = io::retry_on_intr(|| waitid(ended.clone(), WaitIdOptions::EXITED));
    let refused = status.ok().flatten().and_then(|status| status.exit_status()).unwrap_or(0xff);
    let named = rlimits.iter().enumerate().filter(|(place, _)| refused & (1 << (place % 8)) != 0);
    let name = |rlimit: &Rlimit| rlimit.resource.to_string();
    named.map(|(_, rlimit)| Failure::of(Step::Rlimit, name(rlimit), Errno::PERM)).collect()
}

/// User and group of a process, in this process's numbers.
fn owner(pid: Pid) -> Option<(Uid, Gid)> {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).ok()?;
    let first = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    Some((Uid::from_raw(first("Uid:")?), Gid::from_raw(first("Gid:")?)))
}
