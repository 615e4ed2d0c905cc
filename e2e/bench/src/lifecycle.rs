//! One pod after the other: back to back, and one each second, when an idle kernel lets a grace
//! period of RCU take its time.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::alike::Facts;
use crate::kernel::Census;
use crate::results::Gathered;
use crate::results::Unit::Milliseconds;
use crate::sample::ms;
use crate::{Bench, floor};

/// The program of an idle pod.
pub(crate) const IDLE: &str = "echo ready; exec sleep 100000000";

impl Bench {
    /// Makes a pod with each runtime and compares what is inside; the pods of later rows are held
    /// against it.
    pub(crate) async fn compare(&mut self) -> Result<()> {
        let mut facts = Vec::new();
        for mut peer in self.peers.clone() {
            let (pod, _) = peer.start(self.place.order(0, IDLE)?).await?;
            let inside = Facts::inside(&mut peer, &pod).await;
            peer.end(&pod).await.with_context(|| format!("{}: end the first pod", peer.name))?;
            facts.push((peer.name.clone(), inside?));
        }
        Facts::check(&facts)?;
        self.facts = facts.into_iter().next().map(|(_, facts)| facts);
        Ok(())
    }

    /// The rows of single pods. With a pace, each begins that long after the one before.
    pub(crate) async fn lifecycle(&mut self, rounds: usize, pace: Option<Duration>) -> Result<()> {
        let mode = if pace.is_some() { ", one per second" } else { "" };
        let mut gathered = Gathered::default();
        for round in 0..rounds {
            let mut peers = self.peers.clone();
            let turn = round % peers.len();
            peers.rotate_left(turn);
            for peer in &mut peers {
                let begin = Instant::now();
                self.one(peer, mode, &mut gathered).await?;
                wait(pace, begin).await;
            }
            if let Some(floor) = &self.floor {
                let begin = Instant::now();
                for (row, value) in floor.one(&self.place.cgroups)? {
                    gathered.add(&format!("{row}{mode}"), Milliseconds, floor::NAME, value);
                }
                wait(pace, begin).await;
            }
        }
        gathered.settle(&mut self.results.pods);
        Ok(())
    }

    async fn one(
        &self,
        peer: &mut crate::peer::Peer,
        mode: &str,
        gathered: &mut Gathered,
    ) -> Result<()> {
        let name = peer.name.clone();
        let mut add = |row: &str, duration: Duration| {
            gathered.add(&format!("{row}{mode}"), Milliseconds, &name, ms(duration));
        };
        let order = self.place.order(0, IDLE)?;
        let cgroup = [order.cgroup.clone()];
        let before = Census::now()?;
        let (pod, steps) = peer.start(order).await?;
        self.hold(&pod).await?;
        add("pod ready", steps.ready);
        add("RunPodSandbox", steps.run);
        add("CreateContainer + StartContainer", steps.create_start);
        for _ in 0..self.plan.execs {
            let begin = Instant::now();
            peer.exec(&pod.container, &["/bin/true"]).await?;
            add("ExecSync /bin/true", begin.elapsed());
        }
        let begin = Instant::now();
        let farewell = peer.end(&pod).await?;
        before.wait_until_gone(&self.place.cgroups, &cgroup).await?;
        add("StopContainer(0)", farewell.stop_container);
        add("StopPodSandbox", farewell.stop_pod);
        add("RemoveContainer + RemovePodSandbox", farewell.remove);
        add("whole pod gone", begin.elapsed());
        Ok(())
    }

    /// Whether a pod is what all others are.
    pub(crate) async fn hold(&self, pod: &crate::peer::Pod) -> Result<()> {
        let facts = self.facts.as_ref().context("pods are compared first")?;
        facts.hold(&self.place, pod).await
    }
}

async fn wait(pace: Option<Duration>, begin: Instant) {
    if let Some(rest) = pace.and_then(|pace| pace.checked_sub(begin.elapsed())) {
        tokio::time::sleep(rest).await;
    }
}
