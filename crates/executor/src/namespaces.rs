//! Namespaces that outlive the process that they are made with.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::{self, Errno};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use rustix::thread::ThreadNameSpaceType;
use sys::clone::{Birth, clone, close_copy};
use sys::fork::Child;
use sys::namespace::{enter, unshare};

use crate::failure::{During, Failure, Step};
use crate::plan::IdRange;

/// Makes a user namespace with these maps. It lives as long as the descriptor, a process in it, or
/// a namespace that it owns. The caller may have several threads.
///
/// # Errors
/// `EPERM` or `EINVAL` for maps that the kernel refuses; otherwise what clone3(2) says.
pub fn new_user_namespace(uids: &[IdRange], gids: &[IdRange]) -> Result<OwnedFd, Failure> {
    let holder = Holder::new(ThreadNameSpaceType::USER, || Ok(()))?;
    let directory = format!("/proc/{}", holder.child.pid.as_raw_nonzero());
    for (file, ranges) in [("uid_map", uids), ("gid_map", gids)] {
        // One write is all that the kernel takes.
        fs::write(format!("{directory}/{file}"), lines(ranges))
            .map_err(|error| errno(&error))
            .during_of(Step::MapIds, file)?;
    }
    let namespace = File::open(format!("{directory}/ns/user")).map_err(|error| errno(&error));
    namespace.map(OwnedFd::from).during_of(Step::NewNamespace, "user")
}

/// Moves the calling process into new namespaces of the kinds given. With a user namespace as their
/// `owner` they are made in that, while the caller stays in its own: a keeper keeps its privileges,
/// and root in the user namespace has power over the pod's links, message queues and host name. The
/// caller has one thread.
///
/// # Errors
/// What clone3(2), setns(2) and unshare(2) say.
pub fn enter_new_namespaces(
    kinds: ThreadNameSpaceType,
    owner: Option<impl AsFd>,
) -> Result<(), Failure> {
    let Some(owner) = owner else {
        return unshare(kinds).during(Step::NewNamespace);
    };
    let owner = owner.as_fd();
    let holder = Holder::new(ThreadNameSpaceType::empty(), || {
        enter(owner, ThreadNameSpaceType::USER)?;
        unshare(kinds)
    })?;
    enter(holder.child.pidfd.as_fd(), kinds).during(Step::JoinNamespace)
}

/// A process that holds namespaces open until they have been taken over.
struct Holder {
    child: Child,
    /// Never written to: the process ends when it is closed, by whatever ends its maker.
    _life: OwnedFd,
}

impl Holder {
    /// Returns when `prepare`, which makes system calls only, has run in the new process.
    fn new(
        kinds: ThreadNameSpaceType,
        prepare: impl FnOnce() -> io::Result<()>,
    ) -> Result<Self, Failure> {
        let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC).during(Step::Clone)?;
        let (their_life, our_life) = pipe_with(PipeFlags::CLOEXEC).during(Step::Clone)?;
        let body = || {
            for end in [&ours, &our_life] {
                // SAFETY: this is the copy, and it ends where this closure does.
                #[expect(unsafe_code, reason = "the ends have owners in the maker's frame")]
                unsafe {
                    close_copy(end);
                }
            }
            let number = prepare().err().map_or(0, Errno::raw_os_error);
            let _maker_gone = io::write(&theirs, &number.to_ne_bytes());
            let _end = io::retry_on_intr(|| io::read(&their_life, &mut [0]));
            0
        };
        let birth = Birth { namespaces: kinds, ..Birth::default() };
        // SAFETY: `body` makes system calls only.
        #[expect(unsafe_code, reason = "the child shares no lock with other threads")]
        let child = unsafe { clone(birth, body) }.during(Step::NewNamespace)?;
        let holder = Self { child, _life: our_life };
        drop(theirs);
        let mut number = [0; 4];
        let length = io::retry_on_intr(|| io::read(&ours, &mut number));
        match (length, i32::from_ne_bytes(number)) {
            (Ok(4), 0) => Ok(holder),
            (Ok(4), number) => {
                Err(Failure::new(Step::NewNamespace, crate::failure::errno_of(number)))
            }
            _ => Err(Failure::new(Step::NewNamespace, Errno::CHILD)),
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ended = pidfd_send_signal(&self.child.pidfd, Signal::KILL);
        let pidfd = WaitId::PidFd(self.child.pidfd.as_fd());
        let _reaped = io::retry_on_intr(|| waitid(pidfd.clone(), WaitIdOptions::EXITED));
    }
}

fn lines(ranges: &[IdRange]) -> String {
    ranges.iter().fold(String::new(), |mut text, range| {
        let IdRange { inside, outside, count } = range;
        let _infallible = writeln!(text, "{inside} {outside} {count}");
        text
    })
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
