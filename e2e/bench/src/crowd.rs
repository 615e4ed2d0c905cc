//! A node full of idle pods: memory, lists and statistics, what idling costs, and whether one pod
//! more takes longer than the first.

use std::time::Instant;

use anyhow::Result;
use cri_proto::runtime::v1::*;

use crate::Bench;
use crate::kernel::{Census, comm, pss, pss_by_name};
use crate::lifecycle::IDLE;
use crate::peer::{IDLER, Peer, Pod};
use crate::results::Unit::{CpuMillisecondsPerSecond, Megabytes, Milliseconds};
use crate::sample::{Spread, ms};

const MEGABYTE: f64 = 1e6;
/// How often each call is made.
const CALLS: usize = 20;

impl Bench {
    /// Fills the node step by step with each runtime in turn, and looks at each step.
    pub(crate) async fn crowds(&mut self) -> Result<()> {
        for peer in self.peers.clone() {
            let before = Census::now()?;
            let kernel = self.kernel_memory(&peer);
            let mut pods: Vec<Pod> = Vec::new();
            // What the later ones are held against, measured in the same way.
            self.one_more(&peer, 0).await?;
            for size in self.plan.crowds.clone() {
                let more = self.start_many(&peer, pods.len()..size, 4).await?;
                pods.extend(more.into_iter().map(|(pod, _)| pod));
                for pod in &pods {
                    self.hold(pod).await?;
                }
                self.memory(&peer, size, kernel);
                self.calls(&peer, &pods[0], size).await?;
                self.idle(&peer, size).await?;
                self.one_more(&peer, size).await?;
            }
            self.end_many(&peer, &pods, &before).await?;
        }
        Ok(())
    }

    fn kernel_memory(&self, peer: &Peer) -> u64 {
        let cgroups = &self.place.cgroups;
        cgroups.kernel_memory(&peer.account()) + cgroups.kernel_memory("pods")
    }

    /// Memory of the daemon, and of everything else that is there for the pods.
    fn memory(&mut self, peer: &Peer, pods: usize, kernel_before: u64) {
        let cgroups = &self.place.cgroups;
        let mut pids = cgroups.processes(&peer.account());
        pids.extend(cgroups.processes("pods").into_iter().filter(|pid| comm(*pid) != IDLER));
        pids.retain(|pid| Some(*pid) != peer.pid);
        let kernel = self.kernel_memory(peer).saturating_sub(kernel_before);
        let each = |bytes: u64| Spread::once(bytes as f64 / MEGABYTE / pods as f64);
        let names = pss_by_name(&pids);
        let total = names.values().map(|(_, bytes)| bytes).sum();
        let mut set =
            |row: String, value| self.results.pods.set(&row, Megabytes, &peer.name, value);
        set(format!("PSS per idle pod, {pods} pods"), each(total));
        for (name, (_, bytes)) in names {
            set(format!("PSS per idle pod, {pods} pods: {name}"), each(bytes));
        }
        set(format!("kernel memory per idle pod, {pods} pods"), each(kernel));
        if let Some(pid) = peer.pid {
            let value = Spread::once(pss(pid) as f64 / MEGABYTE);
            set(format!("daemon PSS, {pods} pods"), value);
        }
    }

    async fn calls(&mut self, peer: &Peer, pod: &Pod, pods: usize) -> Result<()> {
        let mut runtime = peer.runtime.clone();
        let mut took: [Vec<f64>; 5] = Default::default();
        for _ in 0..CALLS {
            let mut begin = Instant::now();
            let mut lap = |row: usize| {
                took[row].push(ms(begin.elapsed()));
                begin = Instant::now();
            };
            runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await?;
            lap(0);
            runtime.list_containers(ListContainersRequest::default()).await?;
            lap(1);
            runtime.list_container_stats(ListContainerStatsRequest::default()).await?;
            lap(2);
            runtime.list_pod_sandbox_stats(ListPodSandboxStatsRequest::default()).await?;
            lap(3);
            let pod_sandbox_id = pod.id.clone();
            let request = PodSandboxStatusRequest { pod_sandbox_id, verbose: false };
            runtime.pod_sandbox_status(request).await?;
            lap(4);
        }
        let rows = [
            "ListPodSandbox",
            "ListContainers",
            "ListContainerStats",
            "ListPodSandboxStats",
            "PodSandboxStatus",
        ];
        for (row, values) in rows.iter().zip(took) {
            if let Some(value) = Spread::of(&values) {
                let row = format!("{row}, {pods} pods");
                self.results.pods.set(&row, Milliseconds, &peer.name, value);
            }
        }
        Ok(())
    }

    /// CPU time of the runtime's own processes while nobody asks for anything.
    async fn idle(&mut self, peer: &Peer, pods: usize) -> Result<()> {
        // What the calls have set going ends first.
        tokio::time::sleep(self.plan.settle).await;
        let account = peer.account();
        let before = self.place.cgroups.cpu(&account)?;
        let begin = Instant::now();
        tokio::time::sleep(self.plan.idle).await;
        let used = ms(self.place.cgroups.cpu(&account)? - before) / begin.elapsed().as_secs_f64();
        let row = format!("CPU time, {pods} idle pods");
        self.results.pods.set(&row, CpuMillisecondsPerSecond, &peer.name, Spread::once(used));
        Ok(())
    }

    /// The time of one pod more, again and again.
    pub(crate) async fn one_more(&mut self, peer: &Peer, pods: usize) -> Result<()> {
        let mut peer = peer.clone();
        let mut ready = Vec::new();
        for _ in 0..self.plan.one_more {
            let (pod, steps) = peer.start(self.place.order(pods, IDLE)?).await?;
            ready.push(ms(steps.ready));
            peer.end(&pod).await?;
        }
        if let Some(value) = Spread::of(&ready) {
            let row = format!("pod ready, {pods} pods there");
            self.results.pods.set(&row, Milliseconds, &peer.name, value);
        }
        Ok(())
    }

    /// The time of a pod on a node that has a thousand mounts of others.
    pub(crate) async fn foreign_mounts(&mut self) -> Result<()> {
        let count = self.plan.foreign_mounts;
        let dir = self.place.dir.join("foreign");
        let mut mounted = Vec::new();
        for number in 0..count {
            let target = dir.join(number.to_string());
            std::fs::create_dir_all(&target)?;
            let flags = rustix::mount::MountFlags::empty();
            rustix::mount::mount("bench", &target, "tmpfs", flags, None)?;
            mounted.push(target);
        }
        for mut peer in self.peers.clone() {
            let mut ready = Vec::new();
            for _ in 0..self.plan.one_more {
                let (pod, steps) = peer.start(self.place.order(0, IDLE)?).await?;
                ready.push(ms(steps.ready));
                peer.end(&pod).await?;
            }
            if let Some(value) = Spread::of(&ready) {
                let row = format!("pod ready, {count} foreign mounts");
                self.results.pods.set(&row, Milliseconds, &peer.name, value);
            }
        }
        for target in mounted {
            rustix::mount::unmount(&target, rustix::mount::UnmountFlags::DETACH)?;
        }
        Ok(())
    }
}
