//! A pod to test with: a keeper, containers made of a tmpfs and one program.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use executor::plan::{
    Capabilities, ExecLaunch, ExecPlan, Filesystem, Handle, IdRange, Launch, Limits, Mount,
    Namespace, Namespaces, Placement, Plan, Process, Root, Source, Stdio as LaunchStdio,
    UserNamespace, Window,
};
use keeper::{Created, Event, Events, ExitStatus, Keeper, Made, Sandbox, Seed, Stdio};
use model::ContainerId;
use rustix::fs::{Mode, OFlags, openat};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use rustix::process::{Signal, pidfd_send_signal};
use tempfile::TempDir;

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A keeper in a directory of its own; killed with everything in it at the end.
pub(crate) struct Pod {
    pub(crate) directory: TempDir,
    pub(crate) keeper: Keeper,
    pub(crate) events: Events,
    pub(crate) user: Option<OwnedFd>,
    pub(crate) net: OwnedFd,
    pub(crate) inits: Vec<OwnedFd>,
    /// How long the keeper has taken to create and start containers.
    pub(crate) spent: Duration,
}

impl Drop for Pod {
    fn drop(&mut self) {
        for init in &self.inits {
            let _ = pidfd_send_signal(init, Signal::KILL);
        }
        self.keeper.kill();
    }
}

/// What a container is to be.
#[derive(Default)]
pub(crate) struct Wish<'a> {
    pub(crate) args: &'a [&'a str],
    pub(crate) log: Option<OwnedFd>,
    pub(crate) stdio: Stdio,
    pub(crate) terminal: bool,
    /// The shared PID namespace.
    pub(crate) pid: Option<OwnedFd>,
    /// Whether its processes count as able to look into others.
    pub(crate) onlooker: bool,
}

impl Pod {
    pub(crate) async fn new(seed: &Seed) -> Self {
        Self::with(seed, Sandbox { network: true, ipc: true, uts: true, ..Sandbox::default() })
            .await
    }

    pub(crate) async fn with(seed: &Seed, sandbox: Sandbox) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let made = seed.make(&sandbox, &directory.path().join("keeper.sock")).await.unwrap();
        let Made { keeper, events, net, user, .. } = made;
        Self { directory, keeper, events, user, net, inits: Vec::new(), spent: Duration::ZERO }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("keeper.sock")
    }

    pub(crate) fn log_path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Drops the connection and takes the pod up again, as a new daemon does.
    pub(crate) async fn reconnect(&mut self) {
        let (keeper, events) = Keeper::connect(&self.socket()).await.unwrap();
        self.keeper = keeper;
        self.events = events;
    }

    pub(crate) async fn try_create(
        &mut self,
        wish: Wish<'_>,
    ) -> Result<(ContainerId, u32), keeper::Error> {
        let id = ContainerId::from_random(random());
        let (launch, table) = launch(&wish, self.user.as_ref());
        let Wish { stdio, log, .. } = wish;
        let start = Instant::now();
        let Created { pid, pidfd } = self.keeper.create(&id, launch, table, stdio, log).await?;
        self.spent += start.elapsed();
        self.inits.push(pidfd);
        Ok((id, pid))
    }

    pub(crate) async fn create(&mut self, wish: Wish<'_>) -> ContainerId {
        self.try_create(wish).await.unwrap().0
    }

    /// Creates and starts a container that logs to the file of that name.
    pub(crate) async fn run(&mut self, log: &str, args: &[&str]) -> ContainerId {
        let log = Some(append_to(&self.log_path(log)));
        let id = self.create(Wish { args, log, ..Wish::default() }).await;
        let start = Instant::now();
        self.keeper.start(&id).await.unwrap();
        self.spent += start.elapsed();
        id
    }

    /// Kills a container's init.
    pub(crate) fn kill(&self, place: usize) {
        pidfd_send_signal(&self.inits[place], Signal::KILL).unwrap();
    }

    pub(crate) async fn event(&mut self) -> Event {
        let next = tokio::time::timeout(PATIENCE, self.events.next());
        next.await.expect("no event came").expect("the connection has ended")
    }

    /// Waits for the end of a container; other events are dropped.
    pub(crate) async fn end_of(&mut self, id: &ContainerId) -> ExitStatus {
        loop {
            match self.event().await {
                Event::ContainerExited { container, exit } if container == *id => return exit,
                _ => {}
            }
        }
    }
}

pub(crate) fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).unwrap();
    bytes
}

pub(crate) fn append_to(path: &Path) -> OwnedFd {
    OpenOptions::new().append(true).create(true).open(path).unwrap().into()
}

/// A new tmpfs that is attached nowhere.
pub(crate) fn tmpfs(options: &[(&str, &str)]) -> OwnedFd {
    let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    for (key, value) in options {
        rustix::mount::fsconfig_set_string(context.as_fd(), *key, *value).unwrap();
    }
    rustix::mount::fsconfig_create(context.as_fd()).unwrap();
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    rustix::mount::fsmount(context.as_fd(), flags, MountAttrFlags::empty()).unwrap()
}

/// The test program, compiled once.
fn program() -> &'static [u8] {
    static PROGRAM: OnceLock<Vec<u8>> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("program");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keeper/program.c");
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
        let mut compiler = Command::new(compiler);
        compiler.args(["-O1", "-static", "-Wall", "-o"]).arg(&path).arg(source);
        assert!(compiler.status().unwrap().success(), "the test program does not compile");
        fs::read(path).unwrap()
    })
}

fn root() -> OwnedFd {
    let root = tmpfs(&[("size", "4m"), ("mode", "0755")]);
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = openat(&root, "program", flags, Mode::from_raw_mode(0o755)).unwrap();
    File::from(file).write_all(program()).unwrap();
    root
}

fn json(value: &impl serde::Serialize) -> OwnedFd {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&serde_json::to_vec(value).unwrap()).unwrap();
    file.into()
}

fn process(args: &[&str]) -> Process {
    let program = ["/program"].iter().filter(|_| !args.first().is_some_and(|a| a.starts_with('/')));
    let all = (1 << 41) - 1;
    Process {
        args: program.chain(args).map(|arg| (*arg).to_owned()).collect(),
        cwd: "/".to_owned(),
        capabilities: Capabilities {
            bounding: all,
            effective: all,
            permitted: all,
            ..Capabilities::default()
        },
        ..Process::default()
    }
}

fn stdio(terminal: bool) -> LaunchStdio {
    match terminal {
        true => LaunchStdio::Terminal(Window { rows: 24, columns: 80 }),
        false => LaunchStdio::Files([Handle(0); 3]),
    }
}

fn user_namespace(place: u32) -> UserNamespace {
    let ids = vec![IdRange { inside: 0, outside: 100_000, count: 65_536 }];
    UserNamespace { namespace: Handle(place), uids: ids.clone(), gids: ids }
}

pub(crate) fn launch(wish: &Wish<'_>, user: Option<&OwnedFd>) -> (Launch, Vec<OwnedFd>) {
    let mount = |kind: &str, target: &str, parameters: &[&str]| Mount {
        target: target.to_owned(),
        source: Source::New(Filesystem {
            kind: kind.to_owned(),
            source: None,
            parameters: parameters.iter().map(|key| ((*key).to_owned(), None)).collect(),
        }),
        create: Default::default(),
        attributes: Default::default(),
        recursive_attributes: Default::default(),
        propagation: Vec::new(),
    };
    let plan = Plan {
        root: Root { mount: Handle(1), read_only: false, volumes: Vec::new(), propagation: None },
        mounts: vec![mount("proc", "/proc", &[]), mount("devpts", "/dev/pts", &["newinstance"])],
        devices: Vec::new(),
        links: Vec::new(),
        masked_paths: Vec::new(),
        read_only_paths: Vec::new(),
        sysctls: Vec::new(),
        hostname: None,
        domainname: None,
        process: process(wish.args),
    };
    let mut table = vec![json(&plan), root()];
    let mut add = |fd: &OwnedFd| {
        table.push(fd.try_clone().unwrap());
        table.len() as u32 - 1
    };
    let pid = wish.pid.as_ref().map_or(Namespace::New, |fd| Namespace::Join(Handle(add(fd))));
    let user = user.map(|fd| user_namespace(add(fd)));
    let launch = Launch {
        plan: Handle(0),
        namespaces: Namespaces { pid, ..Namespaces::default() },
        user,
        cgroup: Placement::Inherit,
        stdio: stdio(wish.terminal),
        limits: Limits::default(),
        alone: executor::plan::Alone::default(),
        onlooker: wish.onlooker,
    };
    (launch, table)
}

/// An exec with these files as its standard streams, or with a terminal.
pub(crate) fn exec_launch(
    args: &[&str],
    init: &OwnedFd,
    files: Option<[OwnedFd; 3]>,
) -> (ExecLaunch, Vec<OwnedFd>) {
    let mut table = vec![json(&ExecPlan { process: process(args) }), init.try_clone().unwrap()];
    let stdio = match files {
        Some(files) => {
            table.extend(files);
            LaunchStdio::Files([Handle(2), Handle(3), Handle(4)])
        }
        None => stdio(true),
    };
    let launch = ExecLaunch {
        plan: Handle(0),
        init: Handle(1),
        user: None,
        cgroup: Placement::Inherit,
        stdio,
        limits: Limits::default(),
        alone: executor::plan::Alone::default(),
    };
    (launch, table)
}

/// What is heard of a process first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    Start,
    /// If that comes soon.
    End,
}

impl Pod {
    /// Starts a process in a container.
    pub(crate) async fn begin(
        &self,
        id: &ContainerId,
        heard: Heard,
        (launch, table): (ExecLaunch, Vec<OwnedFd>),
    ) -> Result<keeper::Execution, keeper::Error> {
        match heard {
            Heard::Start => self.keeper.exec(id, launch, table).await,
            Heard::End => self.keeper.exec_briefly(id, launch, table).await,
        }
    }

    /// Runs a command in the first container; gives its output and how it ended.
    pub(crate) async fn exec(
        &self,
        id: &ContainerId,
        heard: Heard,
        args: &[&str],
    ) -> Result<(String, ExitStatus), keeper::Error> {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let null = || -> OwnedFd { File::open("/dev/null").unwrap().into() };
        let files = [null(), write, null()];
        let launch = exec_launch(args, &self.inits[0], Some(files));
        let mut execution = self.begin(id, heard, launch).await?;
        let exit = tokio::time::timeout(PATIENCE, execution.exited()).await.unwrap()?;
        let output = std::io::read_to_string(File::from(read)).unwrap();
        Ok((output, exit))
    }

    pub(crate) fn init(&self, place: usize) -> &OwnedFd {
        &self.inits[place]
    }
}

/// The texts of a log's lines, each with its stream and tag, the times checked and left out.
pub(crate) fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "{} ends in half a line", path.display());
    text.lines()
        .map(|line| {
            let (time, rest) = line.split_once(' ').expect("a log line has a time");
            assert_eq!(time.len(), 30, "{line}");
            assert!(time.starts_with("20") && time.ends_with('Z'), "{line}");
            rest.to_owned()
        })
        .collect()
}
