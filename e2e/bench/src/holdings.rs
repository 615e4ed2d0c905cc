//! What a runtime holds: its processes, what they have open, what the kernel keeps for it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::kernel::{Census, Cgroups, pss};
use crate::peer::Peer;

/// How long something may take to be given back: an idle thread waits some seconds for work.
const PATIENCE: Duration = Duration::from_secs(30);
const GLANCE: Duration = Duration::from_millis(200);

/// Counts, as they are at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Holdings {
    /// Things that are all given back once no pod is left: their names and how many.
    pub(crate) counts: Vec<(&'static str, u64)>,
    /// Bytes: memory of the processes, shared memory by their part.
    pub(crate) pss: u64,
    /// Bytes: what the kernel has on account of them and the pods, its caches included.
    pub(crate) kernel: u64,
}

impl Holdings {
    /// Of a runtime and of all pods; `files` are directories in which both keep theirs.
    pub(crate) fn of(peer: &Peer, cgroups: &Cgroups, files: &[PathBuf]) -> Result<Self> {
        let mut pids = cgroups.processes(&peer.account());
        pids.extend(cgroups.processes("pods"));
        let entries = |directory: &str| -> u64 {
            pids.iter().map(|pid| count(Path::new(&format!("/proc/{pid}/{directory}")))).sum()
        };
        let space = |pid: &u32| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        let spaces: BTreeSet<PathBuf> = pids.iter().filter_map(space).collect();
        // A daemon may have mounts of its own.
        let mounts = peer.pid.map_or(0, |pid| lines(&format!("/proc/{pid}/mountinfo")));
        let here = Census::now()?;
        let counts = vec![
            ("processes", pids.len() as u64),
            ("threads", entries("task")),
            ("descriptors", entries("fd")),
            ("network namespaces", spaces.len() as u64),
            ("links", here.links.len() as u64),
            ("mounts", mounts.max(here.mounts as u64)),
            ("cgroups", cgroups.count()),
            ("files", files.iter().map(|directory| tree(directory)).sum()),
        ];
        let kernel = cgroups.kernel_memory(&peer.account()) + cgroups.kernel_memory("pods");
        Ok(Self { counts, pss: pids.iter().map(|pid| pss(*pid)).sum(), kernel })
    }

    /// The first moment at which nothing is more than at an earlier one, or else the last.
    pub(crate) async fn settled(
        peer: &Peer,
        cgroups: &Cgroups,
        files: &[PathBuf],
        earlier: &Self,
    ) -> Result<Self> {
        let begin = Instant::now();
        loop {
            let now = Self::of(peer, cgroups, files)?;
            if now.more_than(earlier).is_empty() || begin.elapsed() > PATIENCE {
                return Ok(now);
            }
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// What there is more of than at an earlier moment, and how much more.
    pub(crate) fn more_than(&self, earlier: &Self) -> Vec<(&'static str, u64)> {
        let pairs = self.counts.iter().zip(&earlier.counts);
        let more = pairs.map(|((name, now), (_, then))| (*name, now.saturating_sub(*then)));
        more.filter(|(_, more)| *more > 0).collect()
    }
}

fn count(directory: &Path) -> u64 {
    fs::read_dir(directory).map_or(0, |entries| entries.count() as u64)
}

fn lines(path: &str) -> u64 {
    fs::read_to_string(path).map_or(0, |text| text.lines().count() as u64)
}

/// The entries below a directory, at any depth.
fn tree(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let below = entries.map(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => 1 + tree(&entry.path()),
        _ => 1,
    });
    below.sum()
}
