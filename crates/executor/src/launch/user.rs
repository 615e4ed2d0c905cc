//! The way of a container's first process into a user namespace, with a PID namespace of its own.
//!
//! ```text
//!   maker      host's user ns     forks the helper; enters the user namespace; makes the init
//!   init       pod's user ns      PID 1 of a PID namespace of that user namespace; waits
//!   helper     host's user ns     enters init's PID and cgroup namespaces for its child
//!   assembler  host's user ns     that child: assembles everything, /proc too, and pivots them all
//!   init                          copies the mount namespace: what it did not mount is locked
//! ```
//!
//! Mounts that come by descriptor are not locked in a user namespace by themselves: a container
//! with CAP_SYS_ADMIN in its own could clear read-only and uncover what is hidden. A copy of a mount
//! namespace of more privileged owners is locked throughout. pivot_root(2) refuses locked mounts,
//! so it comes before; /proc can only be mounted from within the PID namespace, and with all of the
//! host's privileges only before. All of them are in one mount namespace until the init leaves it,
//! and pivot_root(2) moves the root of them all. The init's own number is known in the maker alone.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{WaitId, WaitIdOptions, waitid};
use rustix::thread::ThreadNameSpaceType;
use sys::clone::{Birth, clone};
use sys::namespace::{enter, unshare};

use super::child::{Context, Streams, assemble, depart, files, outside_uid};
use super::identity::assume_root;
use super::report;
use super::tree::Processes;
use crate::failure::{During, Failure, Step};
use crate::plan::{Namespace, Stdio, UserNamespace};

const ASSEMBLED: u8 = b'A';
const INIT: u8 = b'I';

/// Runs the maker. Returns when the others go on by themselves, or on failure.
pub(super) fn run(context: &Context<'_>, user: &UserNamespace) -> Result<(), Failure> {
    let namespace = user.namespace.of(context.table).during_of(Step::Handle, "user")?;
    let (to_helper, from_maker) = channel()?;
    let (to_init, from_assembler) = channel()?;
    // Who waits for a word holds no copy of the end that it would come from, or it would wait for
    // ever for one that has died.
    let helper = process(context, Birth::default(), |context| {
        close_copy_of(&to_helper);
        help(context, from_maker, to_init)
    })?;
    enter(namespace, ThreadNameSpaceType::USER).during_of(Step::JoinNamespace, "user")?;
    let mut namespaces = ThreadNameSpaceType::PROCESS_ID;
    if context.launch.namespaces.cgroup == Namespace::New {
        namespaces |= ThreadNameSpaceType::CONTROL_GROUP;
    }
    let birth = Birth { namespaces, cgroup: None, sibling: true };
    let init = process(context, birth, |context| {
        close_copy_of(&to_helper);
        wait(context, from_assembler)
    })?;
    report::born(context.report.as_fd(), init.pid).during(Step::Report)?;
    report::send_file(to_helper.as_fd(), INIT, init.pidfd.as_fd()).during(Step::Clone)?;
    drop(to_helper);
    reap(helper.pidfd.as_fd())
}

fn channel() -> Result<(OwnedFd, OwnedFd), Failure> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .during(Step::Clone)
}

fn close_copy_of(end: &OwnedFd) {
    // SAFETY: called first of all in a process that `process` has made, which ends there.
    #[expect(unsafe_code, reason = "the descriptor has an owner in a frame that never runs again")]
    unsafe {
        sys::clone::close_copy(end);
    }
}

/// Makes a process of this launch, which reports its own failure.
fn process(
    context: &Context<'_>,
    birth: Birth<'_>,
    run: impl FnOnce(&Context<'_>) -> Result<(), Failure>,
) -> Result<sys::fork::Child, Failure> {
    let body = || match run(context) {
        Ok(()) => 0,
        // Another's word has not come: why, that one has said itself, and it must not be said first that
        // it did not come. If it could say nothing, the end of all of them tells so.
        Err(Failure { step: Step::Report, errno: Errno::PIPE, .. }) => 1,
        Err(failure) => {
            let target = failure.target.unwrap_or_default();
            let report = context.report.as_fd();
            report::failed(report, failure.step, target.as_bytes(), failure.errno);
            1
        }
    };
    // SAFETY: the process that was cloned from the keeper has one thread, as the keeper has.
    #[expect(unsafe_code, reason = "the child goes on with a copy of the heap")]
    unsafe { clone(birth, body) }.during(Step::Clone)
}

/// Waits for a process of this launch, however it ends: what went wrong it has said itself. If it
/// was killed, the init misses its word; and once that was given, the assembler may well be killed,
/// with the PID namespace, by an init that is done already.
fn reap(pidfd: BorrowedFd<'_>) -> Result<(), Failure> {
    let wait = || waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED);
    rustix::io::retry_on_intr(wait).map(drop).during(Step::Report)
}

/// The helper: stands outside the PID namespace, and makes the assembler inside.
fn help(context: &Context<'_>, maker: OwnedFd, to_init: OwnedFd) -> Result<(), Failure> {
    let (_, init) = report::receive_file(maker.as_fd()).during(Step::Report)?;
    let init = init.ok_or(Failure::new(Step::Report, Errno::BADF))?;
    let mut kinds = ThreadNameSpaceType::PROCESS_ID;
    if context.launch.namespaces.cgroup == Namespace::New {
        kinds |= ThreadNameSpaceType::CONTROL_GROUP;
    }
    enter(init.as_fd(), kinds).during_of(Step::JoinNamespace, "of the init")?;
    let assembler = process(context, Birth::default(), |context| {
        match assemble(context, Processes::Own)? {
            Streams::Files(_) => report::write(to_init.as_fd(), &[ASSEMBLED]),
            Streams::Terminal(slave) => {
                report::send_file(to_init.as_fd(), ASSEMBLED, slave.as_fd())
            }
        }
        .during(Step::Report)
    })?;
    reap(assembler.pidfd.as_fd())
}

/// The init: waits until all is assembled, locks it, and goes the last stretch.
fn wait(context: &Context<'_>, assembler: OwnedFd) -> Result<(), Failure> {
    assume_root();
    let (_, slave) = report::receive_file(assembler.as_fd()).during(Step::Report)?;
    unshare(ThreadNameSpaceType::MOUNT).during_of(Step::NewNamespace, "mnt")?;
    let streams = match (context.launch.stdio, slave) {
        (Stdio::Files(handles), _) => {
            let user = outside_uid(context.launch.user.as_ref(), context.plan.process.uid)?;
            Streams::Files(files(handles, context.table, user)?)
        }
        (Stdio::Terminal(_), Some(slave)) => Streams::Terminal(slave),
        (Stdio::Terminal(_), None) => return Err(Failure::new(Step::Stdio, Errno::BADF)),
    };
    depart(&context.plan.process, &streams, context)
}
