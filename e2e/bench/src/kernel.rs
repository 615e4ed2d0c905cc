//! What the kernel has, as it tells it itself: links, mounts, cgroups, processes, CPU time, memory.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};

use crate::results::Machine;

/// How long a runtime may take to get rid of a pod that it calls removed.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often it is looked whether something is gone.
const GLANCE: Duration = Duration::from_micros(200);

/// The cgroup trees of this machine: one on v2, one per controller on v1.
#[derive(Debug, Clone)]
pub(crate) struct Cgroups {
    trees: Vec<PathBuf>,
    unified: bool,
    /// Everything that this run makes is below it.
    top: String,
}

impl Cgroups {
    /// Makes this run's cgroup in every tree.
    pub(crate) fn new(top: &str) -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let of_type = |kind: &str| -> Vec<PathBuf> {
            let lines = mounts.lines().filter(|line| line.contains(&format!(" - {kind} ")));
            lines.filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from).collect()
        };
        let legacy = of_type("cgroup");
        let unified = legacy.is_empty();
        let trees = if unified { of_type("cgroup2") } else { legacy };
        if trees.is_empty() {
            bail!("no cgroup tree is mounted");
        }
        let cgroups = Self { trees, unified, top: top.to_owned() };
        if unified {
            cgroups.trees.iter().try_for_each(|tree| delegate(tree))?;
        }
        cgroups.make("")?;
        // What else the machine does is not measured: this run goes before it, everything of it alike.
        for directory in cgroups.directories("") {
            for (file, most) in [("cpu.shares", "262144"), ("cpu.weight", "10000")] {
                if directory.join(file).exists() {
                    fs::write(directory.join(file), most)?;
                }
            }
        }
        cgroups.enter("driver", std::process::id())?;
        Ok(cgroups)
    }

    /// As a request names it.
    pub(crate) fn name(&self, below: &str) -> String {
        format!("/{}/{below}", self.top)
    }

    /// Where the trees are mounted.
    pub(crate) fn trees(&self) -> &[PathBuf] {
        &self.trees
    }

    fn directories(&self, below: &str) -> impl Iterator<Item = PathBuf> {
        self.trees.iter().map(move |tree| tree.join(&self.top).join(below))
    }

    /// Makes a cgroup in every tree, as kubelet makes a pod's.
    pub(crate) fn make(&self, below: &str) -> Result<()> {
        for directory in self.directories(below) {
            fs::create_dir_all(&directory).with_context(|| format!("make {directory:?}"))?;
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let own = directory.join(file);
                if let (false, Ok(text), Some(parent)) =
                    (self.unified, fs::read_to_string(&own), directory.parent())
                    && text.trim().is_empty()
                {
                    fs::write(&own, fs::read_to_string(parent.join(file))?)?;
                }
            }
            if self.unified && (below.is_empty() || below.starts_with("pods")) {
                delegate(&directory)?;
            }
        }
        Ok(())
    }

    /// Puts a process and its descendants where what they use is counted.
    pub(crate) fn enter(&self, below: &str, pid: u32) -> Result<()> {
        self.make(below)?;
        let mut family = vec![pid];
        for place in 0.. {
            let Some(parent) = family.get(place).copied() else { break };
            family.extend(children_of(parent)?);
        }
        family.into_iter().try_for_each(|pid| self.enter_alone(below, pid))
    }

    fn enter_alone(&self, below: &str, pid: u32) -> Result<()> {
        for directory in self.directories(below) {
            let files = ["cpuacct.usage", "cpu.shares", "memory.usage_in_bytes", "memory.current"];
            if files.iter().any(|file| directory.join(file).exists()) {
                fs::write(directory.join("cgroup.procs"), pid.to_string())
                    .with_context(|| format!("put {pid} into {directory:?}"))?;
            }
        }
        Ok(())
    }

    fn read(&self, below: &str, file: &str) -> Option<String> {
        self.directories(below).find_map(|directory| fs::read_to_string(directory.join(file)).ok())
    }

    /// CPU time that a cgroup and those below it have used.
    pub(crate) fn cpu(&self, below: &str) -> Result<Duration> {
        if let Some(text) = self.read(below, "cpuacct.usage") {
            return Ok(Duration::from_nanos(text.trim().parse()?));
        }
        let text = self.read(below, "cpu.stat").context("no CPU time is counted here")?;
        let usage = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
        Ok(Duration::from_micros(usage.context("cpu.stat has no usage_usec")?.trim().parse()?))
    }

    /// Kernel memory that is charged to a cgroup and those below it, in bytes.
    pub(crate) fn kernel_memory(&self, below: &str) -> u64 {
        let legacy = self.read(below, "memory.kmem.usage_in_bytes");
        let text = legacy.or_else(|| {
            let stat = self.read(below, "memory.stat")?;
            stat.lines().find_map(|line| line.strip_prefix("kernel ").map(str::to_owned))
        });
        text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }

    /// Has the kernel drop what it keeps on account of a cgroup for speed alone.
    pub(crate) fn drop_caches(&self, below: &str) {
        for directory in self.directories(below) {
            for (file, most) in [("memory.force_empty", "0"), ("memory.reclaim", "1G")] {
                if directory.join(file).exists() {
                    // It says that there was less to drop.
                    let _ = fs::write(directory.join(file), most);
                }
            }
        }
    }

    /// The limit of memory that holds for a process, in bytes.
    pub(crate) fn memory_limit(&self, pid: u32) -> Option<String> {
        let memberships = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let find = |controller: &str| {
            memberships.lines().find_map(|line| {
                let mut fields = line.splitn(3, ':').skip(1);
                let (controllers, path) = (fields.next()?, fields.next()?);
                controllers.split(',').any(|name| name == controller).then(|| path.to_owned())
            })
        };
        let path = find("memory").or_else(|| find(""))?;
        let limit = ["memory.limit_in_bytes", "memory.max"];
        self.trees.iter().find_map(|tree| {
            let directory = tree.join(path.trim_start_matches('/'));
            limit.iter().find_map(|file| fs::read_to_string(directory.join(file)).ok())
        })
    }

    /// The processes of a cgroup and of those below it.
    pub(crate) fn processes(&self, below: &str) -> Vec<u32> {
        let counted =
            self.directories(below).find(|d| d.join("cpuacct.usage").exists() || self.unified);
        let mut found = Vec::new();
        collect(&counted.unwrap_or_default(), &mut found);
        found
    }

    /// How many there are below this run's, in all trees.
    pub(crate) fn count(&self) -> u64 {
        self.directories("").map(|directory| below(&directory)).sum()
    }

    /// Waits until nothing is left below a cgroup, and removes it.
    pub(crate) async fn remove_empty(&self, below: &str) -> Result<()> {
        let start = Instant::now();
        while self.has_children(below) {
            if start.elapsed() > PATIENCE {
                bail!("the cgroup {below} is not empty after {PATIENCE:?}");
            }
            tokio::time::sleep(GLANCE).await;
        }
        self.remove(below);
        Ok(())
    }

    /// Whether a cgroup has others below it, in any tree.
    fn has_children(&self, below: &str) -> bool {
        self.directories(below).any(|directory| children(&directory).next().is_some())
    }

    /// Removes a cgroup and those below it, from every tree.
    pub(crate) fn remove(&self, below: &str) {
        self.directories(below).for_each(|directory| remove(&directory));
    }
}

/// Lets what is below a cgroup have every controller that it has itself.
fn delegate(directory: &Path) -> Result<()> {
    for controller in fs::read_to_string(directory.join("cgroup.controllers"))?.split_whitespace() {
        // Some are for the root alone.
        let _ = fs::write(directory.join("cgroup.subtree_control"), format!("+{controller}"));
    }
    Ok(())
}

/// The processes whose parent is `parent`.
fn children_of(parent: u32) -> Result<Vec<u32>> {
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let line = line_of(&format!("/proc/{pid}/status"), "PPid:");
        if line.is_some_and(|line| line == parent.to_string()) {
            children.push(pid);
        }
    }
    Ok(children)
}

fn children(directory: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|e| e.path())
}

fn below(directory: &Path) -> u64 {
    children(directory).map(|child| 1 + below(&child)).sum()
}

fn collect(directory: &Path, found: &mut Vec<u32>) {
    let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
    children(directory).for_each(|child| collect(&child, found));
}

fn remove(directory: &Path) {
    children(directory).for_each(|child| remove(&child));
    // One that is in use stays, and is reported by whoever looks for leftovers.
    let _ = fs::remove_dir(directory);
}

/// What of the kernel's objects a pod adds to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Census {
    pub(crate) links: Vec<String>,
    pub(crate) mounts: usize,
}

impl Census {
    /// Counts now.
    pub(crate) fn now() -> Result<Self> {
        // Of this process's network namespace, which /sys/class/net need not be.
        let table = fs::read_to_string("/proc/self/net/dev")?;
        let names =
            table.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()));
        let mut links: Vec<String> = names.collect();
        links.sort();
        let mounts = fs::read_to_string("/proc/self/mountinfo")?.lines().count();
        Ok(Self { links, mounts })
    }

    /// Waits until no more is there than was counted, and nothing lives below the pod's cgroup.
    pub(crate) async fn wait_until_gone(&self, cgroups: &Cgroups, pods: &[String]) -> Result<()> {
        let start = Instant::now();
        loop {
            let busy = pods.iter().find(|pod| cgroups.has_children(pod));
            let now = Self::now()?;
            let more = now.links.len() > self.links.len() || now.mounts > self.mounts;
            if busy.is_none() && !more {
                return Ok(());
            }
            if start.elapsed() > PATIENCE {
                bail!("left behind after {PATIENCE:?}: cgroup {busy:?}, {self:?} became {now:?}");
            }
            tokio::time::sleep(GLANCE).await;
        }
    }
}

/// Ends what a failed run has left behind: everything of it but those who are to be spared.
pub(crate) fn kill_all(cgroups: &Cgroups, spared: &[u32]) {
    for pid in cgroups.processes("").into_iter().filter(|pid| !spared.contains(pid)) {
        if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
            // One that has ended meanwhile is what was wanted.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

/// The memory that a process has to itself, its part of what is shared included, in bytes.
pub(crate) fn pss(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kilobytes: Option<u64> =
        line.and_then(|line| line.trim().trim_end_matches(" kB").trim().parse().ok());
    kilobytes.unwrap_or(0) * 1024
}

/// A process's name.
pub(crate) fn comm(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

/// PSS of processes, by their names: how many, and how much together.
pub(crate) fn pss_by_name(pids: &[u32]) -> BTreeMap<String, (usize, u64)> {
    let mut names: BTreeMap<String, (usize, u64)> = BTreeMap::new();
    for pid in pids {
        let entry = names.entry(comm(*pid)).or_default();
        *entry = (entry.0 + 1, entry.1 + pss(*pid));
    }
    names
}

/// The first line of a file that begins so, without that beginning.
pub(crate) fn line_of(path: &str, beginning: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| Some(line.strip_prefix(beginning)?.trim().to_owned()))
}

/// The load averages of now.
pub(crate) fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

impl Machine {
    /// This one, now.
    pub(crate) fn here(cgroups: &Cgroups) -> Result<Self> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
        let model = model.unwrap_or_default().trim_start_matches([' ', '\t', ':']).to_owned();
        let memory = line_of("/proc/meminfo", "MemTotal:").unwrap_or_default();
        let kilobytes: u64 = memory.trim_end_matches(" kB").parse().unwrap_or(0);
        Ok(Self {
            date: date(SystemTime::now()),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            processor: model,
            processors: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            memory_gib: (kilobytes + (1 << 19)) >> 20,
            cgroups: if cgroups.unified { "v2" } else { "v1" }.to_owned(),
            load: vec![load()],
        })
    }
}

/// The day, as year-month-day in UTC.
fn date(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    // Days from March on, in eras of 400 years: a leap day is then the last of its year.
    let days = seconds / 86_400 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    format!("{}-{month:02}-{day:02}", era * 400 + year + carry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_that_of_the_calendar() {
        let at = |seconds| date(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01");
        assert_eq!(at(951_782_400), "2000-02-29");
        assert_eq!(at(1_735_689_599), "2024-12-31");
    }
}
