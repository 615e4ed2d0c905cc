//! Hooks: programs of others that are run at turning points, with the container's state as input.
//!
//! | hook | when | where |
//! |---|---|---|
//! | prestart, createRuntime | all is mounted, the root not yet changed | here |
//! | createContainer | after these | in the container's namespaces, the host's files still in sight |
//! | startContainer | `start`, before the program | in the container, as one more process of it |
//! | poststart | the program runs | here |
//! | poststop | the container is gone | here |
//!
//! One that fails undoes what it is part of; after poststop nothing is left to undo, and it warns.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use oci_spec::runtime::{Hook, Spec};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, Mode, OFlags, memfd_create, open};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, fchdir, pidfd_open};
use rustix::thread::ThreadNameSpaceType as Type;
use serde_json::Value;
use sys::namespace::enter;

use crate::failure::Failure;
use crate::record::Record;

/// What is shown of a failed hook's last words.
const WORDS_MAX: usize = 2000;

/// The hooks of a spec.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hooks<'a>(Option<&'a oci_spec::runtime::Hooks>);

type Kind = (&'static str, fn(&oci_spec::runtime::Hooks) -> &Option<Vec<Hook>>);

const PRESTART: Kind = ("prestart", oci_spec::runtime::Hooks::prestart);
const CREATE_RUNTIME: Kind = ("createRuntime", oci_spec::runtime::Hooks::create_runtime);
const CREATE_CONTAINER: Kind = ("createContainer", oci_spec::runtime::Hooks::create_container);
const START_CONTAINER: Kind = ("startContainer", oci_spec::runtime::Hooks::start_container);
const POSTSTART: Kind = ("poststart", oci_spec::runtime::Hooks::poststart);
const POSTSTOP: Kind = ("poststop", oci_spec::runtime::Hooks::poststop);

impl<'a> Hooks<'a> {
    pub(crate) fn of(spec: &'a Spec) -> Self {
        Self(spec.hooks().as_ref())
    }

    fn list(self, (_, get): Kind) -> &'a [Hook] {
        self.0.and_then(|hooks| get(hooks).as_deref()).unwrap_or_default()
    }

    /// Whether some are to be run while the container is made.
    pub(crate) fn want_halt(self) -> bool {
        [PRESTART, CREATE_RUNTIME, CREATE_CONTAINER].iter().any(|kind| !self.list(*kind).is_empty())
    }

    /// Those of the creation; `container` knows its namespaces.
    pub(crate) fn of_creation(
        self,
        record: &Record,
        state: &Value,
        container: Inside<'_>,
    ) -> Result<(), Failure> {
        self.run_all(PRESTART, record, state)?;
        self.run_all(CREATE_RUNTIME, record, state)?;
        if self.list(CREATE_CONTAINER).is_empty() {
            return Ok(());
        }
        let mut state = state.clone();
        state["pid"] = container.pid.into();
        container.run(|| self.run_all(CREATE_CONTAINER, record, &state))
    }

    /// Those that are run in the container.
    pub(crate) fn start_container(self) -> &'a [Hook] {
        self.list(START_CONTAINER)
    }

    /// Those that are run when the program runs.
    pub(crate) fn poststart(self, record: &Record, state: &Value) -> Result<(), Failure> {
        self.run_all(POSTSTART, record, state)
    }

    /// Those that are run when nothing is left. Every one is run; gives what failed.
    pub(crate) fn poststop(self, record: &Record, state: &Value) -> Vec<Failure> {
        let run = |hook| run(POSTSTOP.0, hook, record, state).err();
        self.list(POSTSTOP).iter().filter_map(run).collect()
    }

    fn run_all(self, kind: Kind, record: &Record, state: &Value) -> Result<(), Failure> {
        self.list(kind).iter().try_for_each(|hook| run(kind.0, hook, record, state))
    }
}

fn run(kind: &'static str, hook: &Hook, record: &Record, state: &Value) -> Result<(), Failure> {
    let failed = |what: String| {
        let (path, id) = (hook.path().clone(), record.id.clone());
        Failure::Hook { kind, path, id, what }
    };
    let mut words = File::from(
        memfd_create("hook", MemfdFlags::CLOEXEC)
            .map_err(Failure::kernel("make a file in memory"))?,
    );
    let copy = || words.try_clone().map_err(|error| failed(format!("cannot be heard: {error}")));
    let (out, err) = (copy()?, copy()?);
    let args = hook.args().as_deref().unwrap_or_default();
    let mut command = Command::new(hook.path());
    if let Some((name, rest)) = args.split_first() {
        command.arg0(name).args(rest);
    }
    let env = hook.env().iter().flatten().filter_map(|entry| entry.split_once('='));
    if record.bundle.is_dir() {
        command.current_dir(&record.bundle);
    }
    command.env_clear().envs(env).stdin(Stdio::piped()).stdout(out).stderr(err);
    let mut child = command.spawn().map_err(|error| failed(format!("cannot be run: {error}")))?;
    if let Some(mut input) = child.stdin.take() {
        // A hook need not read it.
        let _unread = input.write_all(state.to_string().as_bytes());
    }
    let limit = hook.timeout().and_then(|seconds| u64::try_from(seconds).ok());
    let in_time = match limit {
        Some(seconds) => ends_within(child.id(), Duration::from_secs(seconds))?,
        None => true,
    };
    if !in_time {
        let _has_just_ended = child.kill();
    }
    let status = child.wait().map_err(|error| failed(format!("cannot be waited for: {error}")))?;
    if !in_time {
        let seconds = limit.unwrap_or_default();
        return Err(failed(format!("did not end within its {seconds} s and was killed")));
    }
    if status.success() {
        return Ok(());
    }
    let mut said = String::new();
    let _none = words.rewind().and_then(|()| words.read_to_string(&mut said));
    let said: String = said.trim().chars().take(WORDS_MAX).collect();
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with {code}"),
        (_, signal) => format!("was killed by signal {}", signal.unwrap_or_default()),
    };
    Err(failed(if said.is_empty() { how } else { format!("{how}: {said}") }))
}

fn ends_within(pid: u32, limit: Duration) -> Result<bool, Failure> {
    let fail = Failure::kernel;
    let pid = Pid::from_raw(pid.cast_signed()).ok_or(Errno::SRCH).map_err(fail("find the hook"))?;
    let process = pidfd_open(pid, PidfdFlags::empty()).map_err(fail("watch the hook"))?;
    ends_by(&process, Instant::now() + limit)
}

/// Whether a process ends before `deadline`.
pub(crate) fn ends_by(process: &OwnedFd, deadline: Instant) -> Result<bool, Failure> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let time = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let mut polled = [PollFd::new(process, PollFlags::IN)];
        match poll(&mut polled, Some(&time)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Failure::kernel("wait for a process")(errno)),
        }
    }
}

/// The namespaces of a container that is being made. The root of its mount namespace is still the
/// host's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inside<'a> {
    /// A process in the mount namespace.
    pub(crate) maker: BorrowedFd<'a>,
    /// A process in the others.
    pub(crate) init: BorrowedFd<'a>,
    /// Its number there.
    pub(crate) pid: i32,
}

impl Inside<'_> {
    /// Runs something there: programs that it starts live in all of them, the PID namespace included.
    fn run(self, action: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
        let others = [
            (Type::NETWORK, "net"),
            (Type::INTER_PROCESS_COMMUNICATION, "ipc"),
            (Type::HOST_NAME_AND_NIS_DOMAIN_NAME, "uts"),
            (Type::CONTROL_GROUP, "cgroup"),
            (Type::PROCESS_ID, "pid"),
        ];
        let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = open(".", directory, Mode::empty()).map_err(Failure::file("open", "."))?;
        let mounts = own("mnt")?;
        let mut ways_back = Vec::new();
        let mut kinds = Type::empty();
        for (kind, name) in others {
            ways_back.push((kind, own(name)?));
            kinds |= kind;
        }
        ways_back.push((Type::MOUNT, mounts));
        let entered = enter(self.init, kinds).and_then(|()| enter(self.maker, Type::MOUNT));
        let result = match entered {
            Ok(()) => action(),
            Err(errno) => Err(Failure::kernel("enter the container's namespaces")(errno)),
        };
        for (kind, file) in ways_back {
            enter(file.as_fd(), kind).map_err(Failure::kernel("return to the own namespaces"))?;
        }
        fchdir(&directory).map_err(Failure::file("return to", "."))?;
        result
    }
}

/// One of the caller's own namespaces.
fn own(name: &str) -> Result<OwnedFd, Failure> {
    let path = format!("/proc/self/ns/{name}");
    open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(Failure::file("open", path))
}
