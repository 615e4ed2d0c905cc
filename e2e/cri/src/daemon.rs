//! A minke daemon of a test's own: private directories, bridge and socket.

use std::fs::{self, File};
use std::io::{Write as _, stderr};
use std::os::fd::AsRawFd;
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
    /// Its bridge is named by this and a number.
    prefix: String,
    /// Words that come before its command line: a program that runs it in other surroundings.
    within: Vec<String>,
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
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let prefix =
            format!("{}{:03x}", (b'g' + number as u8 % 20) as char, std::process::id() % 0x1000);
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
        Self { dir, prefix, within: Vec::new(), process: Mutex::new(None) }
    }

    /// The daemon sees a small file system of its own at `name` below its directory, a shared mount.
    /// It goes with the daemon, so such a daemon runs once.
    pub fn with_small(self, name: &str, size: &str) -> Self {
        let place = self.dir.join(name);
        fs::create_dir_all(&place).unwrap();
        let script = r#"mount -t tmpfs -o "size=$1" small "$2" && mount --make-shared "$2" &&
            shift 2 && exec "$@""#;
        let place = place.display().to_string();
        let own = ["unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh"];
        self.within(&[&own[..], &[size, &place]].concat())
    }

    /// The daemon is run by this program, with its command line as the last arguments.
    pub fn within(mut self, words: &[&str]) -> Self {
        self.within = words.iter().map(ToString::to_string).collect();
        self
    }

    /// A path below its directory, as the daemon sees it.
    pub fn inside(&self, name: &str) -> PathBuf {
        let root = format!("/proc/{}/root{}", self.pid(), self.dir.display());
        Path::new(&root).join(name)
    }

    /// Starts the daemon and waits until it serves; again after it has ended, too.
    pub fn run(&self) {
        self.run_with(&[]);
    }

    /// Starts it with more arguments than the usual ones.
    pub fn run_with(&self, arguments: &[&str]) {
        let log = File::options().create(true).append(true).open(self.dir.join("log")).unwrap();
        let mut command = self.serving();
        command.args(arguments);
        // Not the test's streams: whoever reads these waits until nobody has them.
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
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

    /// Its bridge's name, once there is one.
    pub fn bridge(&self) -> Option<String> {
        let links = fs::read_dir("/sys/class/net").unwrap().flatten();
        let names = links.map(|link| link.file_name().to_string_lossy().into_owned());
        let is_bridge =
            |name: &String| Path::new("/sys/class/net").join(name).join("brif").exists();
        names.filter(|name| name.starts_with(&self.prefix)).find(is_bridge)
    }

    /// Brings an archive in; gives what the command printed.
    pub fn import(&self, archive: &[u8]) -> Result<String, String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(format!("archives/{number}.tar"));
        put(&path, archive);
        let done = self.minke(&["image", "import", path.to_str().unwrap()]);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if done.status.success() { Ok(text(&done.stdout)) } else { Err(text(&done.stderr)) }
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

    /// `minke serve`, in the surroundings that it is to have.
    fn serving(&self) -> Command {
        let plain = self.command(&["serve"]);
        let Some((program, words)) = self.within.split_first() else { return plain };
        let mut command = Command::new(program);
        command.args(words).arg(plain.get_program()).args(plain.get_args()).stdin(Stdio::null());
        command
    }

    /// Serves where that is bound to fail; gives what it said.
    pub fn fail(&self) -> String {
        let done = self.serving().stderr(Stdio::piped()).output().unwrap();
        assert!(!done.status.success(), "{done:?}");
        String::from_utf8_lossy(&done.stderr).into_owned()
    }

    fn process(&self) -> MutexGuard<'_, Option<Child>> {
        self.process.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        // What a daemon with a file system of its own knows of its network goes with that.
        let own = self.process().as_ref().map(|process| format!("/proc/{}/ns/mnt", process.id()));
        let own = own.filter(|_| !self.within.is_empty()).map(|path| File::open(path).unwrap());
        self.terminate();
        let mut reset = self.command(&["reset", "--yes"]);
        if let Some(own) = &own {
            let namespace = format!("--mount=/proc/{}/fd/{}", std::process::id(), own.as_raw_fd());
            let mut within = Command::new("nsenter");
            within.arg(namespace).arg(reset.get_program()).args(reset.get_args());
            reset = within;
        }
        let reset = reset.output().unwrap();
        if failed || !reset.status.success() {
            let told = String::from_utf8_lossy(&reset.stderr);
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(30)..].join("\n  ");
            // A panic here would end all tests.
            let _ = writeln!(stderr(), "reset: {told}the daemon's last words:\n  {last}");
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
