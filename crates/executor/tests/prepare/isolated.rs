//! Namespaces for one test.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::MoveMountFlags;

const MARK: &str = "MINKE_TEST_ISOLATED";

/// Runs `body` in a child under `unshare -m -n`; `name` is the test's full name in this program. The
/// scratch directory that it gets is on a disk, because tmpfs maps no ids before Linux 6.3; inside
/// it is /mnt.
pub(crate) fn isolated(name: &str, body: impl FnOnce(&Path)) {
    let scratch = Path::new("/mnt");
    if let Some(directory) = std::env::var_os(MARK) {
        rustix::mount::mount_bind(Path::new(&directory), scratch).unwrap();
        body(scratch);
        return;
    }
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let status = Command::new("unshare")
        .args(["-m", "-n", "--propagation", "private", "timeout", "60"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads", "1"])
        .env(MARK, directory.path())
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "{name} failed in its namespaces");
}

/// Attaches a detached mount at `path`, which is made, as the keeper would.
pub(crate) fn attach(mount: &OwnedFd, path: &Path) {
    fs::create_dir_all(path).unwrap();
    rustix::mount::move_mount(mount, "", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .unwrap();
}

/// Reads a file through a mount that may be attached nowhere.
pub(crate) fn read(mount: &OwnedFd, path: &str) -> Result<String, rustix::io::Errno> {
    let file = rustix::fs::openat(mount, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(std::io::read_to_string(fs::File::from(file)).unwrap())
}

/// Creates a file through a mount.
pub(crate) fn write(mount: &OwnedFd, path: &str) -> Result<(), rustix::io::Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
    rustix::fs::openat(mount, path, flags, Mode::RUSR).map(drop)
}

/// A user namespace that maps 65536 ids from 0 to 100000.
pub(crate) struct UserNamespace {
    pub(crate) fd: OwnedFd,
    holder: Child,
}

impl UserNamespace {
    pub(crate) const FIRST: u32 = 100_000;

    pub(crate) fn new() -> Self {
        let holder = Command::new("unshare").args(["-U", "sleep", "60"]).spawn().unwrap();
        let path = PathBuf::from(format!("/proc/{}", holder.id()));
        let own = fs::read_link("/proc/self/ns/user").unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while fs::read_link(path.join("ns/user")).unwrap() == own {
            assert!(Instant::now() < deadline, "unshare did not unshare");
            std::thread::yield_now();
        }
        let map = format!("0 {} 65536", Self::FIRST);
        fs::write(path.join("uid_map"), &map).unwrap();
        fs::write(path.join("gid_map"), &map).unwrap();
        let fd = fs::File::open(path.join("ns/user")).unwrap().into();
        Self { fd, holder }
    }
}

impl Drop for UserNamespace {
    fn drop(&mut self) {
        self.holder.kill().unwrap();
        self.holder.wait().unwrap();
    }
}
