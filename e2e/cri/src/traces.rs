//! Counts what a daemon has in the kernel and on disk.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::daemon::Daemon;

/// Things by kind, each by name.
pub type Traces = BTreeMap<&'static str, Vec<String>>;

/// Everything of the daemon's pods that is there now. `cgroup` is the parent of the pods' cgroups,
/// which must be the daemon's alone.
pub fn traces(daemon: &Daemon, cgroup: &str) -> Traces {
    let dir = daemon.dir.display().to_string();
    let lines = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let naming = |path: &str| -> Vec<String> {
        lines(path).lines().filter(|line| line.contains(&dir)).map(str::to_owned).collect()
    };
    let sockets = naming("/proc/net/unix");
    let links = daemon.bridge().map(|bridge| ports(&bridge)).unwrap_or_default();
    let mut traces = Traces::from([
        // A keeper listens at a socket in its pod's directory as long as it lives.
        ("keepers", sockets.into_iter().filter(|line| line.ends_with("keeper.sock")).collect()),
        ("links", links),
        ("mounts", naming("/proc/self/mountinfo")),
        ("namespaces", names(&daemon.dir.join("netns"))),
        ("cgroups", below(cgroup)),
        ("processes", processes(cgroup)),
        ("pods' files", files(&daemon.dir.join("state/pods"))),
        ("pods' copies", names(&daemon.dir.join("root/pods"))),
        ("containers' files", names(&daemon.dir.join("root/containers"))),
    ]);
    traces.retain(|_, names| !names.is_empty());
    traces
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// What is in the directories of a directory, and those that are empty.
fn files(dir: &Path) -> Vec<String> {
    let inner = |name: String| {
        let inner = names(&dir.join(&name)).into_iter().map(|file| format!("{name}/{file}"));
        let inner: Vec<_> = inner.collect();
        if inner.is_empty() { vec![name] } else { inner }
    };
    names(dir).into_iter().flat_map(inner).collect()
}

fn ports(bridge: &str) -> Vec<String> {
    names(&Path::new("/sys/class/net").join(bridge).join("brif"))
}

/// The top of every cgroup hierarchy; of v2 there is one.
pub fn hierarchies() -> Vec<PathBuf> {
    let top = Path::new("/sys/fs/cgroup");
    if top.join("cgroup.controllers").exists() {
        return vec![top.into()];
    }
    names(top).iter().map(|name| top.join(name)).filter(|path| path.is_dir()).collect()
}

/// In how many hierarchies a cgroup is.
pub fn hierarchies_of(cgroup: &str) -> usize {
    let path = cgroup.trim_start_matches('/');
    hierarchies().iter().filter(|top| top.join(path).is_dir()).count()
}

/// A cgroup's directory in the hierarchy of a controller.
pub fn controller(name: &str, cgroup: &str) -> PathBuf {
    let top = Path::new("/sys/fs/cgroup");
    let own = top.join(name);
    let top = if own.is_dir() { own } else { top.to_owned() };
    top.join(cgroup.trim_start_matches('/'))
}

/// A cgroup and those in it, in every hierarchy.
pub fn below(parent: &str) -> Vec<String> {
    let mut found = Vec::new();
    let tops = hierarchies().into_iter().map(|top| top.join(parent.trim_start_matches('/')));
    let mut dirs: Vec<PathBuf> = tops.filter(|top| top.is_dir()).collect();
    while let Some(dir) = dirs.pop() {
        dirs.extend(names(&dir).iter().map(|name| dir.join(name)).filter(|path| path.is_dir()));
        found.push(dir.display().to_string());
    }
    found
}

fn processes(cgroup: &str) -> Vec<String> {
    let numbers = names(Path::new("/proc")).into_iter().filter(|name| name.parse::<u32>().is_ok());
    numbers
        .filter(|pid| {
            fs::read_to_string(format!("/proc/{pid}/cgroup"))
                .is_ok_and(|text| text.contains(cgroup))
        })
        .collect()
}
