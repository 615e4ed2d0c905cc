//! Are the pods the same? What every container really has, read in it; runtimes that give different
//! things are not compared.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};

use crate::kernel::line_of;
use crate::peer::{IDLER, MASKED, MEMORY, Peer, Place, Pod};

/// The facts that have to be equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts(BTreeMap<&'static str, String>);

/// Of /proc/PID/status.
const STATUS: [&str; 8] =
    ["Seccomp:", "NoNewPrivs:", "CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:", "Uid:"];

/// What a container has to be asked, each answer below its heading.
const QUESTIONS: [(&str, &str); 4] = [
    ("status", "cat /proc/1/status"),
    ("mounts", "cat /proc/1/mountinfo"),
    (
        "limit",
        "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max",
    ),
    // The kernel would grant it to anyone: a filter alone refuses it.
    ("user namespace", "unshare -U true 2>/dev/null && echo granted || echo refused"),
];

impl Facts {
    /// For a shell in the container.
    pub(crate) fn script() -> String {
        let asked = QUESTIONS.map(|(heading, ask)| format!("echo '== {heading}'; {ask}"));
        asked.join("; ")
    }

    /// From what that has said.
    pub(crate) fn of(text: &str) -> Result<Self> {
        let answer = |question: usize| {
            let (heading, _) = QUESTIONS[question];
            let rest = text.split_once(&format!("== {heading}\n"));
            let rest = rest.with_context(|| format!("{heading} is missing in {text:?}"))?.1;
            anyhow::Ok(rest.split("== ").next().unwrap_or_default())
        };
        let mut facts = BTreeMap::new();
        let status = answer(0)?;
        for key in STATUS {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            facts.insert(key, line.context("a line of status is missing")?.trim().to_owned());
        }
        let mounts = answer(1)?;
        let masked = MASKED
            .iter()
            .filter(|path| mounts.lines().any(|line| line.split(' ').nth(4) == Some(**path)));
        facts.insert("masked paths", masked.copied().collect::<Vec<_>>().join(" "));
        facts.insert("memory limit", answer(2)?.trim().to_owned());
        facts.insert("user namespace", answer(3)?.trim().to_owned());
        Ok(Self(facts))
    }

    /// Asks inside a container.
    pub(crate) async fn inside(peer: &mut Peer, pod: &Pod) -> Result<Self> {
        let said = peer.exec(&pod.container, &["sh", "-c", &Self::script()]).await?;
        Self::of(&String::from_utf8_lossy(&said)).with_context(|| peer.name.clone())
    }

    /// Stops the comparison where two runtimes differ, and where the request was not honoured.
    pub(crate) fn check(peers: &[(String, Self)]) -> Result<()> {
        let Some((first, facts)) = peers.first() else { bail!("no runtime was asked") };
        ensure!(facts.0["Seccomp:"] == "2", "{first} has no seccomp filter");
        ensure!(facts.0["user namespace"] == "refused", "{first}'s filter refuses nothing");
        ensure!(facts.0["memory limit"] == MEMORY.to_string(), "{first} set no memory limit");
        for (name, others) in &peers[1..] {
            for (key, value) in &facts.0 {
                let other = &others.0[key];
                ensure!(value == other, "{key} {value:?} with {first}, but {other:?} with {name}");
            }
        }
        Ok(())
    }

    /// Reads from the host what can be read there, which costs nothing: for each and every pod.
    pub(crate) async fn hold(&self, place: &Place, pod: &Pod) -> Result<()> {
        let pid = idler(place, pod).await.context("the pod's program does not run")?;
        let status = format!("/proc/{pid}/status");
        for key in STATUS {
            let value = line_of(&status, key);
            ensure!(value.as_ref() == self.0.get(key), "{key} {value:?} in {}", pod.order.cgroup);
        }
        let limit = place.cgroups.memory_limit(pid).unwrap_or_default();
        ensure!(limit.trim() == self.0["memory limit"], "memory limit {limit:?}");
        Ok(())
    }
}

/// The pod's program. The shell that has said that it is ready becomes it a moment later.
async fn idler(place: &Place, pod: &Pod) -> Option<u32> {
    for _ in 0..1000 {
        let pids = place.cgroups.processes(&pod.order.cgroup);
        if let Some(pid) = pids.into_iter().find(|pid| crate::kernel::comm(*pid) == IDLER) {
            return Some(pid);
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    None
}
