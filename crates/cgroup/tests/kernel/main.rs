//! What the kernel makes of it. As root; every cgroup is below `minke-test-PID-...` and goes in the end.
//!
//! Each claim is tested on the hierarchy that the node uses, and those that need no controller on the
//! controller-less cgroup2 mount of a hybrid node as well.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod ending;
mod limits;
mod placing;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cgroup::{Attachment, Cgroup, CgroupPath, Features, Hierarchy, Version};
use oci_spec::runtime::LinuxResources;

/// Longer than anything here takes, so that only a fault reaches it.
const PATIENCE: Duration = Duration::from_secs(20);

/// Which hierarchies a test runs on.
fn hierarchies() -> Vec<Hierarchy> {
    let own = Hierarchy::detect().unwrap();
    let beside = Path::new("/sys/fs/cgroup/unified");
    let hybrid =
        own.features().version == Version::V1 && beside.join("cgroup.controllers").exists();
    let beside = hybrid.then(|| Hierarchy::unified(beside).unwrap());
    std::iter::once(own).chain(beside).collect()
}

/// A cgroup of one test, with what lies above it; gone with all its processes when dropped.
struct Fixture {
    cgroup: Cgroup,
    made: Vec<PathBuf>,
}

impl Fixture {
    fn new(hierarchy: &Hierarchy, name: &str) -> Self {
        let path = format!("/minke-test-{}-{name}/inner", std::process::id());
        let created = hierarchy.create(&CgroupPath::new(&path).unwrap()).unwrap();
        Self { cgroup: created.cgroup, made: created.made }
    }

    fn features(&self) -> &Features {
        self.cgroup.hierarchy().features()
    }

    /// Removes it and says what is left of all that was made.
    fn finish(&self) -> Vec<&PathBuf> {
        self.cgroup.kill().unwrap();
        self.cgroup.remove(PATIENCE).unwrap();
        self.cgroup.hierarchy().prune(&self.made).unwrap();
        self.made.iter().filter(|path| path.exists()).collect()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = self.cgroup.kill();
        let _ = self.cgroup.remove(PATIENCE);
        let _ = self.cgroup.hierarchy().prune(&self.made);
    }
}

/// Runs a shell script in a cgroup. It ends with its input, which ends with this process; a busy loop
/// ends by its limit on processor time.
fn spawn_in(cgroup: &Cgroup, script: &str) -> Child {
    let attachment = cgroup.attachment().unwrap();
    let script = format!("ulimit -t 30; {script}");
    let shell = |script: &str| {
        let mut command = Command::new("bash");
        command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        command
    };
    match attachment {
        // A thread that has entered gives birth inside.
        Attachment::Tasks(_) => std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    attachment.enter().unwrap();
                    shell(&script).spawn().unwrap()
                })
                .join()
                .unwrap()
        }),
        // Born outside: cloning into a cgroup is the executor's, and tested with it.
        Attachment::Directory(_) => {
            let script = format!("echo 0 >\"$GROUP/cgroup.procs\" || exit 99; {script}");
            shell(&script).env("GROUP", directory(cgroup)).spawn().unwrap()
        }
    }
}

/// Where a cgroup is on v2.
fn directory(cgroup: &Cgroup) -> PathBuf {
    let root = match Hierarchy::detect().unwrap().features().version {
        Version::V2 => "/sys/fs/cgroup",
        Version::V1 => "/sys/fs/cgroup/unified",
    };
    PathBuf::from(format!("{root}{}", cgroup.path()))
}

/// Waits for a line that a script writes.
fn await_line(child: &mut Child, wanted: &str) {
    let output = child.stdout.as_mut().unwrap();
    let mut seen = Vec::new();
    let mut byte = [0];
    while !seen.ends_with(b"\n") {
        assert_ne!(output.read(&mut byte).unwrap(), 0, "ended before {wanted:?}: {seen:?}");
        seen.push(byte[0]);
    }
    assert_eq!(String::from_utf8(seen).unwrap().trim_end(), wanted);
}

fn resources(json: &str) -> LinuxResources {
    serde_json::from_str(json).unwrap()
}

/// Waits until `condition` holds.
fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
