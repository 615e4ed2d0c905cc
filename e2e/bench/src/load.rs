//! Many at once: pods per second, execs per second, and what both cost in CPU time.

use std::time::{Duration, Instant};

use anyhow::Result;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::task::JoinSet;

use crate::Bench;
use crate::holdings::Holdings;
use crate::kernel::Census;
use crate::lifecycle::IDLE;
use crate::peer::{Peer, Pod};
use crate::results::Gathered;
use crate::results::Unit::{Count, CpuMillisecondsPerSecond, Milliseconds, PerSecond};
use crate::sample::{Spread, ms};

impl Bench {
    /// CPU time of a runtime: of its daemon and descendants, and of all pods.
    pub(crate) fn cpu(&self, peer: &Peer) -> Result<Duration> {
        let cgroups = &self.place.cgroups;
        Ok(cgroups.cpu(&peer.account())? + cgroups.cpu("pods")?)
    }

    /// Makes pods, so many of them in flight.
    pub(crate) async fn start_many(
        &self,
        peer: &Peer,
        numbers: std::ops::Range<usize>,
        in_flight: usize,
    ) -> Result<Vec<(Pod, crate::peer::Steps)>> {
        let orders: Result<Vec<_>> = numbers.map(|number| self.place.order(number, IDLE)).collect();
        stream::iter(orders?)
            .map(|order| {
                let mut peer = peer.clone();
                async move { peer.start(order).await }
            })
            .buffer_unordered(in_flight)
            .try_collect()
            .await
    }

    /// Ends pods, and waits until the kernel has let go of them.
    pub(crate) async fn end_many(&self, peer: &Peer, pods: &[Pod], before: &Census) -> Result<()> {
        let mut ends = stream::iter(pods)
            .map(|pod| {
                let mut peer = peer.clone();
                async move { peer.end(pod).await }
            })
            .buffer_unordered(8);
        while ends.try_next().await?.is_some() {}
        let cgroups: Vec<_> = pods.iter().map(|pod| pod.order.cgroup.clone()).collect();
        before.wait_until_gone(&self.place.cgroups, &cgroups).await
    }

    /// Pods per second at a number in flight.
    pub(crate) async fn pods_per_second(
        &mut self,
        in_flight: usize,
        count: usize,
        rounds: usize,
    ) -> Result<()> {
        let mut gathered = Gathered::default();
        for _ in 0..rounds {
            for peer in &self.peers {
                let before = Census::now()?;
                let cpu = self.cpu(peer)?;
                let begin = Instant::now();
                let started = self.start_many(peer, 0..count, in_flight).await?;
                let took = begin.elapsed();
                let cpu = self.cpu(peer)? - cpu;
                let pods: Vec<Pod> = started.into_iter().map(|(pod, _)| pod).collect();
                for pod in &pods {
                    self.hold(pod).await?;
                }
                let rate = count as f64 / took.as_secs_f64();
                let row = format!("pods started, {in_flight} in flight");
                gathered.add(&row, PerSecond, &peer.name, rate);
                let row = format!("CPU time per pod started, {in_flight} in flight");
                gathered.add(&row, Milliseconds, &peer.name, ms(cpu) / count as f64);
                self.end_many(peer, &pods, &before).await?;
            }
        }
        gathered.settle(&mut self.results.pods);
        Ok(())
    }

    /// Execs in one pod: so many in flight, then at a steady rate.
    pub(crate) async fn execs(&mut self) -> Result<()> {
        let (count, steady) = (self.plan.exec_count, self.plan.exec_steady);
        for mut peer in self.peers.clone() {
            let before = Census::now()?;
            let (pod, _) = peer.start(self.place.order(0, IDLE)?).await?;
            let held = Holdings::of(&peer, &self.place.cgroups, &[])?;
            let cpu = self.cpu(&peer)?;
            let begin = Instant::now();
            let mut execs = stream::iter(0..count)
                .map(|_| {
                    let (mut peer, pod) = (peer.clone(), &pod);
                    async move { peer.exec(&pod.container, &["/bin/true"]).await }
                })
                .buffer_unordered(8);
            while execs.try_next().await?.is_some() {}
            drop(execs);
            let rate = count as f64 / begin.elapsed().as_secs_f64();
            let cpu = ms(self.cpu(&peer)? - cpu) / count as f64;
            let name = peer.name.clone();
            self.results.pods.set("execs, 8 in flight", PerSecond, &name, Spread::once(rate));
            self.results.pods.set("CPU time per exec", Milliseconds, &name, Spread::once(cpu));
            self.steady_execs(&peer, &pod, steady).await?;
            let now = Holdings::settled(&peer, &self.place.cgroups, &[], &held).await?;
            let left = now.more_than(&held);
            let count: u64 = left.iter().map(|(_, more)| more).sum();
            if count > 0 {
                eprintln!("bench: left by the execs of {name}: {left:?}");
            }
            let row = "processes, descriptors, ... left by all execs";
            self.results.pods.set(row, Count, &name, Spread::once(count as f64));
            self.end_many(&peer, &[pod], &before).await?;
        }
        Ok(())
    }

    /// 100 execs a second, as probes do, and another call beside each; left out for a runtime that
    /// cannot.
    async fn steady_execs(&mut self, peer: &Peer, pod: &Pod, duration: Duration) -> Result<()> {
        const EVERY: Duration = Duration::from_millis(10);
        const BEHIND: usize = 50;
        let cgroups = self.place.cgroups.clone();
        let (cpu, own) = (self.cpu(peer)?, cgroups.cpu(&peer.account())?);
        let (mut execs, mut calls) = (JoinSet::new(), JoinSet::new());
        let (mut took, mut called) = (Vec::new(), Vec::new());
        let mut ticks = tokio::time::interval(EVERY);
        let begin = Instant::now();
        while begin.elapsed() < duration && execs.len() < BEHIND {
            tokio::select! {
                _ = ticks.tick() => {
                    let (mut caller, container) = (peer.clone(), pod.container.clone());
                    execs.spawn(async move {
                        let begin = Instant::now();
                        caller.exec(&container, &["/bin/true"]).await.map(|_| ms(begin.elapsed()))
                    });
                    // It must not wait for the execs.
                    let (mut caller, container) = (peer.clone(), pod.container.clone());
                    calls.spawn(async move {
                        let begin = Instant::now();
                        caller.state(&container).await.map(|_| ms(begin.elapsed()))
                    });
                }
                Some(done) = execs.join_next() => took.push(done??),
                Some(done) = calls.join_next() => called.push(done??),
            }
        }
        let kept_up = execs.len() < BEHIND;
        let elapsed = begin.elapsed().as_secs_f64();
        let cpu = ms(self.cpu(peer)? - cpu) / elapsed;
        let own = ms(cgroups.cpu(&peer.account())? - own) / elapsed;
        while let Some(done) = execs.join_next().await {
            took.push(done??);
        }
        if !kept_up {
            return Ok(());
        }
        let once = |value| Some(Spread::once(value));
        let rows = [
            ("CPU time at 100 execs per second", CpuMillisecondsPerSecond, once(cpu)),
            (
                "CPU time at 100 execs per second, daemon and its own",
                CpuMillisecondsPerSecond,
                once(own),
            ),
            ("ExecSync at 100 per second", Milliseconds, Spread::of(&took)),
            ("ContainerStatus beside 100 execs per second", Milliseconds, Spread::of(&called)),
        ];
        for (row, unit, value) in rows {
            if let Some(value) = value {
                self.results.pods.set(row, unit, &peer.name, value);
            }
        }
        Ok(())
    }
}
