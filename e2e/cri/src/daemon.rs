//! A minke daemon of a test's own: private directories, bridge and socket.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::client::{BUSYBOX, Cri};

/// How long a daemon may take to serve, or to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where all files of this run are.
pub static DIR: LazyLock<PathBuf> = LazyLock::new(|| variable("E2E_DIR").into());

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set; run e2e/parts/cri"))
}

/// The real registry's address.
pub fn registry() -> String {
    variable("REGISTRY")
}

/// A daemon; dropped, it ends and takes down everything that it made.
#[derive(Debug)]
pub struct Daemon {
    /// Of everything it has.
    pub dir: PathBuf,
    process: Mutex<Option<Child>>,
}

impl Daemon {
    /// Serves, with the busybox image there. `settings` is TOML that comes before the first section.
    pub async fn start(name: &str, settings: &str) -> Self {
        let daemon = Self::prepare(name, settings);
        daemon.run();
        daemon.cri().await.pull(BUSYBOX).await.expect("busybox is pulled");
        daemon
    }

    /// Directories and configuration of a daemon that does not run yet.
    pub fn prepare(name: &str, settings: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        // At most six letters go into the names of links; other runs have numbers of their own.
        let prefix = format!("t{:x}", std::process::id() % 0x1000);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = DIR.join(format!("{number}-{name}"));
        fs::create_dir_all(dir.join("certs.d")).unwrap();
        for host in ["docker.io", "registry.k8s.io"] {
            let capabilities = r#"capabilities = ["pull", "resolve"]"#;
            let server = format!("http://{}", registry());
            let text = format!("server = {server:?}\n[host.{server:?}]\n{capabilities}\n");
            put(&dir.join("certs.d").join(host).join("hosts.toml"), text.as_bytes());
        }
        let at = |name: &str| dir.join(name).display().to_string();
        let text = format!(
            "root = {:?}\nstate = {:?}\nsocket = {:?}\n\
             network.bridge_prefix = {prefix:?}\nnetwork.netns_dir = {:?}\n\
             images.certs_dirs = [{:?}]\n{settings}\n",
            at("root"),
            at("state"),
            at("minke.sock"),
            at("netns"),
            at("certs.d"),
        );
        put(&dir.join("config.toml"), text.as_bytes());
        Self { dir, process: Mutex::new(None) }
    }

    /// Starts the daemon and waits until it serves; again after it has ended, too.
    pub fn run(&self) {
        let log = File::options().create(true).append(true).open(self.dir.join("log")).unwrap();
        let child = self.command(&["serve"]).stderr(log).spawn().unwrap();
        *self.process() = Some(child);
        let deadline = Instant::now() + PATIENCE;
        while UnixStream::connect(self.socket()).is_err() {
            let ended = self.process().as_mut().and_then(|child| child.try_wait().unwrap());
            assert!(ended.is_none(), "the daemon ended ({ended:?}):\n{}", self.log());
            assert!(Instant::now() < deadline, "the daemon does not serve:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// SIGKILL: nothing is put in order.
    pub fn kill(&self) {
        self.end(Signal::KILL);
    }

    /// SIGKILL, and a new one at once.
    pub fn replace(&self) {
        self.kill();
        self.run();
    }

    /// SIGTERM: it ends in order, pods stay.
    pub fn terminate(&self) {
        self.end(Signal::TERM);
    }

    fn end(&self, signal: Signal) {
        let Some(mut child) = self.process().take() else { return };
        kill_process(Pid::from_child(&child), signal).unwrap();
        let deadline = Instant::now() + PATIENCE;
        while child.try_wait().unwrap().is_none() {
            if Instant::now() > deadline {
                child.kill().unwrap();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The daemon's process.
    pub fn pid(&self) -> u32 {
        self.process().as_ref().expect("the daemon runs").id()
    }

    /// A client of its own connection.
    pub async fn cri(&self) -> Cri {
        Cri::connect(&self.socket(), &self.dir.join("logs")).await
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.join("minke.sock")
    }

    /// What the daemon has told.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// Runs another command of minke with this daemon's configuration.
    pub fn minke(&self, arguments: &[&str]) -> Output {
        self.command(arguments).stderr(Stdio::piped()).output().unwrap()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(variable("MINKE"));
        command.arg("--config").arg(self.dir.join("config.toml")).args(arguments);
        command.stdin(Stdio::null());
        command
    }

    fn process(&self) -> MutexGuard<'_, Option<Child>> {
        self.process.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        self.terminate();
        let reset = self.minke(&["reset", "--yes"]);
        if failed || !reset.status.success() {
            let told = String::from_utf8_lossy(&reset.stderr).into_owned();
            let log = self.log();
            let last: Vec<_> = log.lines().rev().take(30).collect();
            eprintln!("reset: {told}the daemon's last words:");
            last.iter().rev().for_each(|line| eprintln!("  {line}"));
        } else {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// Writes a file and the directories to it.
pub fn put(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}
