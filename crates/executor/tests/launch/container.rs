//! Containers of the cases: built, started, listened to.

use std::cell::Cell;
use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use executor::Failure;
use executor::launch::{Onlookers, Progress, Spawning, Waiting, spawn, spawn_exec};
use executor::plan::{
    Alone, Attributes, Capabilities, Create, Device, ExecLaunch, ExecPlan, Filesystem, Handle,
    Launch, Limits, Link, Mount, Namespace, Namespaces, Node, NodeKind, Placement, Plan, Process,
    Root, Source, Stdio, UserNamespace,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use crate::stage::{Stage, USERS};

pub(crate) const RDONLY: u64 = 1;
pub(crate) const NOSUID: u64 = 2;
pub(crate) const NODEV: u64 = 4;
pub(crate) const NOEXEC: u64 = 8;

/// The capabilities that Kubernetes gives by default.
pub(crate) const DEFAULT_CAPABILITIES: u64 = 0xa804_25fb;
pub(crate) const CAP_SYS_PTRACE: u64 = 1 << 19;
pub(crate) const CAP_SYS_ADMIN: u64 = 1 << 21;

/// Long enough for anything that is going to happen.
const PATIENCE: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// A container to be.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) plan: Plan,
    pub(crate) namespaces: Namespaces,
    pub(crate) user: Option<UserNamespace>,
    pub(crate) cgroup: Placement,
    pub(crate) limits: Limits,
    pub(crate) terminal: Option<executor::plan::Window>,
    table: Vec<OwnedFd>,
}

/// A process on its way or running, and its streams.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) spawning: Spawning,
    pub(crate) input: PipeWriter,
    output: PipeReader,
    /// When it was spawned.
    begin: Instant,
}

/// A process that waits before execve or is past it.
#[derive(Debug)]
pub(crate) struct Init {
    pub(crate) waiting: Waiting,
    pub(crate) running: Running,
}

impl Container {
    /// With all that a Kubernetes container has mounted, and the commands given to the probe.
    pub(crate) fn new(stage: &Stage, commands: &str) -> Self {
        let mut container = Self {
            plan: Plan {
                root: Root {
                    mount: Handle(0),
                    read_only: false,
                    volumes: Vec::new(),
                    propagation: None,
                },
                mounts: mounts(),
                devices: devices(0),
                links: links(),
                masked_paths: Vec::new(),
                read_only_paths: Vec::new(),
                sysctls: Vec::new(),
                hostname: None,
                domainname: None,
                process: process(commands),
            },
            namespaces: Namespaces {
                pid: Namespace::New,
                cgroup: Namespace::New,
                ..Namespaces::default()
            },
            user: None,
            cgroup: Placement::Inherit,
            limits: Limits::default(),
            terminal: None,
            table: Vec::new(),
        };
        container.add(stage.root());
        container
    }

    /// In a user namespace.
    pub(crate) fn in_user_namespace(mut self, namespace: OwnedFd) -> Self {
        let namespace = self.add(namespace);
        self.user = Some(UserNamespace { namespace, uids: vec![USERS], gids: vec![USERS] });
        self.plan.devices = devices(USERS.outside);
        for mount in &mut self.plan.mounts {
            if let Source::New(filesystem) = &mut mount.source
                && ["tmpfs", "devpts"].contains(&filesystem.kind.as_str())
            {
                let root = Some(USERS.outside.to_string());
                filesystem.parameters.retain(|(key, _)| key != "gid");
                filesystem.parameters.push(("gid".to_owned(), root.clone()));
                filesystem.parameters.push(("uid".to_owned(), root));
            }
        }
        self
    }

    /// Puts a descriptor into the table.
    pub(crate) fn add(&mut self, fd: impl Into<OwnedFd>) -> Handle {
        self.table.push(fd.into());
        Handle(self.table.len() as u32 - 1)
    }

    /// Mounts a tree.
    pub(crate) fn mount(&mut self, tree: OwnedFd, target: &str) -> &mut Mount {
        let source = Source::Tree(self.add(tree));
        self.plan.mounts.push(Mount {
            target: target.to_owned(),
            source,
            create: Create::Directory,
            attributes: Attributes::default(),
            recursive_attributes: Attributes::default(),
            propagation: Vec::new(),
        });
        self.plan.mounts.last_mut().unwrap()
    }

    /// Spawns it.
    pub(crate) fn spawn(mut self) -> Running {
        let (stdio, input, output) = self.streams();
        let plan = self.add(sealed(&self.plan));
        let launch = Launch {
            plan,
            namespaces: self.namespaces,
            user: self.user,
            cgroup: self.cgroup,
            stdio,
            limits: self.limits,
            alone: Alone::default(),
            onlooker: false,
        };
        let begin = Instant::now();
        let spawning = spawn(&launch, self.table).unwrap();
        Running { spawning, input, output, begin }
    }

    /// Runs it to its end: what it said and its exit code.
    pub(crate) fn run(self) -> (String, i32) {
        self.spawn().wait().release().end()
    }

    /// Spawns it, and expects it to fail before or at execve.
    pub(crate) fn fail(self) -> Failure {
        let mut running = self.spawn();
        match running.next() {
            Progress::Failed(failure) => {
                assert!(matches!(running.next(), Progress::Done));
                failure
            }
            Progress::Waiting(waiting) => Init { waiting, running }.fail(),
            other => panic!("unexpected: {other:?}"),
        }
    }

    fn streams(&mut self) -> (Stdio, PipeWriter, PipeReader) {
        let (output, theirs) = pipe().unwrap();
        let (their_input, input) = pipe().unwrap();
        let stdio = match self.terminal {
            Some(window) => Stdio::Terminal(window),
            None => {
                let error = theirs.try_clone().unwrap();
                Stdio::Files([self.add(their_input), self.add(theirs), self.add(error)])
            }
        };
        (stdio, input, output)
    }
}

thread_local! {
    /// What every exec of a case is told.
    pub(crate) static ONLOOKERS: Cell<Onlookers> = const { Cell::new(Onlookers::Possible) };
}

/// A process in a running container.
pub(crate) fn exec(init: &Init, user: Option<UserNamespace>, process: Process) -> Running {
    exec_with(init, user, process, Placement::Inherit, Vec::new(), None)
}

/// With all that can be asked for. The first descriptors of the table are the caller's.
pub(crate) fn exec_with(
    init: &Init,
    user: Option<UserNamespace>,
    process: Process,
    cgroup: Placement,
    table: Vec<OwnedFd>,
    terminal: Option<executor::plan::Window>,
) -> Running {
    try_exec(init, user, process, cgroup, table, terminal).unwrap()
}

/// Where it can fail at once.
pub(crate) fn try_exec(
    init: &Init,
    mut user: Option<UserNamespace>,
    process: Process,
    cgroup: Placement,
    mut table: Vec<OwnedFd>,
    terminal: Option<executor::plan::Window>,
) -> Result<Running, Failure> {
    let mut add = |fd: OwnedFd| {
        table.push(fd);
        Handle(table.len() as u32 - 1)
    };
    let (output, theirs) = pipe().unwrap();
    let (their_input, input) = pipe().unwrap();
    let stdio = match terminal {
        Some(window) => Stdio::Terminal(window),
        None => {
            let error = theirs.try_clone().unwrap();
            Stdio::Files([add(their_input.into()), add(theirs.into()), add(error.into())])
        }
    };
    if let Some(user) = &mut user {
        // It is joined through the init.
        user.namespace = Handle(u32::MAX);
    }
    let init = add(init.waiting.pidfd.try_clone().unwrap());
    let plan = add(sealed(&ExecPlan { process }));
    let alone = Alone::default();
    let launch = ExecLaunch { plan, init, user, cgroup, stdio, limits: Limits::default(), alone };
    let begin = Instant::now();
    let spawning = spawn_exec(&launch, table, ONLOOKERS.get())?;
    Ok(Running { spawning, input, output, begin })
}

impl Running {
    /// The next that is not `Pending`.
    pub(crate) fn next(&mut self) -> Progress {
        loop {
            let mut polled = [PollFd::new(&self.spawning, PollFlags::IN)];
            assert_ne!(poll(&mut polled, Some(&PATIENCE)).unwrap(), 0, "nothing happens");
            match self.spawning.advance() {
                Progress::Pending | Progress::Assembled => {}
                other => return other,
            }
        }
    }

    /// Until it waits before execve.
    pub(crate) fn wait(mut self) -> Init {
        match self.next() {
            Progress::Waiting(waiting) => Init { waiting, running: self },
            other => panic!("unexpected: {other:?}"),
        }
    }

    /// Microseconds since it was spawned.
    pub(crate) fn elapsed(&self) -> u128 {
        self.begin.elapsed().as_micros()
    }

    /// Until it executes, for a process that is not released.
    pub(crate) fn executed(mut self) -> Init {
        match self.next() {
            Progress::Waiting(waiting) => Init { waiting, running: self }.executes(),
            other => panic!("unexpected: {other:?}"),
        }
    }

    /// Reads until a line ends with `word`.
    pub(crate) fn read_until(&mut self, word: &str) -> String {
        let mut text = Vec::new();
        let mut byte = [0];
        while !String::from_utf8_lossy(&text).trim_end().ends_with(word) {
            let mut polled = [PollFd::new(&self.output, PollFlags::IN)];
            assert_ne!(poll(&mut polled, Some(&PATIENCE)).unwrap(), 0, "it says no more");
            assert_eq!(self.output.read(&mut byte).unwrap(), 1, "it ended");
            text.push(byte[0]);
        }
        String::from_utf8(text).unwrap()
    }
}

impl Init {
    /// Lets it go into its program.
    pub(crate) fn release(self) -> Self {
        self.running.spawning.release().unwrap();
        self.executes()
    }

    fn executes(mut self) -> Self {
        match self.running.next() {
            Progress::Executed => {}
            other => panic!("unexpected: {other:?}"),
        }
        assert!(matches!(self.running.next(), Progress::Done));
        self
    }

    /// Lets it go, and expects it to fail.
    pub(crate) fn fail(mut self) -> Failure {
        self.running.spawning.release().unwrap();
        let Progress::Failed(failure) = self.running.next() else { panic!("it did not fail") };
        assert!(matches!(self.running.next(), Progress::Done));
        // It ends by itself, or is ended.
        assert!([1, 137].contains(&self.code()));
        failure
    }

    /// What it says until the end, and its exit code; 128 and more for a signal.
    pub(crate) fn end(mut self) -> (String, i32) {
        let text = match &self.waiting.terminal {
            Some(master) => until_hangup(master),
            None => {
                let mut text = String::new();
                self.running.output.read_to_string(&mut text).unwrap();
                text
            }
        };
        let code = self.code();
        (text, code)
    }

    /// Its exit code.
    pub(crate) fn code(&self) -> i32 {
        let pidfd = WaitId::PidFd(self.waiting.pidfd.as_fd());
        let status = waitid(pidfd, WaitIdOptions::EXITED).unwrap().unwrap();
        status.exit_status().unwrap_or_else(|| 128 + status.terminating_signal().unwrap())
    }

    /// Kills and reaps it.
    pub(crate) fn kill(self) {
        pidfd_send_signal(&self.waiting.pidfd, Signal::KILL).unwrap();
        assert_eq!(self.code(), 137);
    }

    /// Writes to its standard input.
    pub(crate) fn say(&mut self, text: &str) {
        self.running.input.write_all(text.as_bytes()).unwrap();
    }
}

fn until_hangup(master: &OwnedFd) -> String {
    let mut file = File::from(master.try_clone().unwrap());
    let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(length @ 1..) = file.read(&mut buffer) {
        text.extend_from_slice(&buffer[..length]);
    }
    String::from_utf8(text).unwrap()
}

/// A file with a value as JSON.
pub(crate) fn sealed(value: &impl serde::Serialize) -> OwnedFd {
    in_memory(&serde_json::to_vec(value).unwrap())
}

/// A file with these bytes.
pub(crate) fn in_memory(bytes: &[u8]) -> OwnedFd {
    let memfd = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
    let mut file = File::from(memfd);
    file.write_all(bytes).unwrap();
    file.into()
}

/// The probe with these commands.
pub(crate) fn process(commands: &str) -> Process {
    let mut args = vec!["/bin/probe".to_owned()];
    args.extend(commands.split_whitespace().map(str::to_owned));
    let capabilities = Capabilities {
        bounding: DEFAULT_CAPABILITIES,
        effective: DEFAULT_CAPABILITIES,
        permitted: DEFAULT_CAPABILITIES,
        inheritable: 0,
        ambient: 0,
    };
    Process {
        args,
        env: vec!["PATH=/usr/bin:/bin".to_owned()],
        cwd: "/".to_owned(),
        capabilities,
        no_new_privileges: true,
        ..Process::default()
    }
}

/// All of a set of capabilities, but the inheritable.
pub(crate) fn capable(set: u64) -> Capabilities {
    Capabilities { bounding: set, effective: set, permitted: set, inheritable: 0, ambient: 0 }
}

fn mounts() -> Vec<Mount> {
    let safe = NOSUID | NOEXEC;
    [
        ("/proc", "proc", "", safe | NODEV),
        ("/dev", "tmpfs", "mode=755,size=65536k", NOSUID),
        ("/dev/pts", "devpts", "newinstance,ptmxmode=0666,mode=0620,gid=5", safe),
        ("/dev/mqueue", "mqueue", "", safe | NODEV),
        ("/sys", "sysfs", "", safe | NODEV | RDONLY),
        ("/dev/shm", "", "", safe | NODEV),
    ]
    .map(|(target, kind, options, set)| {
        let parameters = options.split(',').filter(|option| !option.is_empty()).map(|option| {
            match option.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (option.to_owned(), None),
            }
        });
        let parameters = parameters.collect();
        let source = match kind {
            "" => Source::PodShm,
            kind => Source::New(Filesystem {
                kind: kind.to_owned(),
                source: Some(kind.to_owned()),
                parameters,
            }),
        };
        Mount {
            target: target.to_owned(),
            source,
            create: Create::Directory,
            attributes: Attributes { set, clear: 0 },
            recursive_attributes: Attributes::default(),
            propagation: Vec::new(),
        }
    })
    .into()
}

fn devices(owner: u32) -> Vec<Device> {
    [("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9)]
        .map(|(name, minor)| (name, 1, minor))
        .into_iter()
        .chain([("tty", 5, 0)])
        .map(|(name, major, minor)| Device {
            path: format!("/dev/{name}"),
            node: Node::Make {
                kind: NodeKind::Character,
                major,
                minor,
                mode: 0o666,
                uid: owner,
                gid: owner,
            },
        })
        .collect()
}

fn links() -> Vec<Link> {
    [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/ptmx", "pts/ptmx"),
    ]
    .map(|(path, target)| Link { path: path.to_owned(), target: target.to_owned() })
    .into()
}

impl Running {
    /// What a process that was handed out says until its end, and its exit code.
    pub(crate) fn finish(&mut self, waiting: &Waiting) -> (String, i32) {
        let mut text = String::new();
        self.output.read_to_string(&mut text).unwrap();
        let pidfd = WaitId::PidFd(waiting.pidfd.as_fd());
        let status = waitid(pidfd, WaitIdOptions::EXITED).unwrap().unwrap();
        (text, status.exit_status().unwrap_or_else(|| 128 + status.terminating_signal().unwrap()))
    }
}
