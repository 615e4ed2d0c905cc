//! Thousands of pods that come and go: what is left of them?

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};

use crate::Bench;
use crate::holdings::Holdings;
use crate::lifecycle::IDLE;
use crate::peer::Peer;
use crate::sample::{Spread, ms};

/// So many come and go before the first look: pools are filled then, and libraries warm.
const FIRST: usize = 100;
const IN_FLIGHT: usize = 4;
/// Threads that have nothing to do wait some seconds for more before they end.
const SETTLE: Duration = Duration::from_secs(15);
/// So often it says how far it is.
const STEP: usize = 1000;
/// How much more memory is no growth: allocators keep what they were given.
const SLACK: f64 = 1.05;
/// So much more of the kernel's memory, in bytes: what it counts, it counts in batches.
const KERNEL_SLACK: u64 = 1 << 20;
const MEGABYTE: f64 = 1e6;

impl Bench {
    /// Makes and removes pods with the first runtime; an error if anything is more in the end than
    /// it was after the first hundred.
    pub(crate) async fn churn(&mut self, pods: usize, files: &[PathBuf]) -> Result<()> {
        ensure!(pods > FIRST, "the first {FIRST} pods are what later ones are held against");
        let (peer, cgroups) = (self.peers[0].clone(), self.place.cgroups.clone());
        let begin = Instant::now();
        self.come_and_go(0..FIRST).await?;
        self.rest(&peer).await;
        let first = Holdings::of(&peer, &cgroups, files)?;
        let mut done = FIRST;
        while done < pods {
            let next = pods.min(done - done % STEP + STEP);
            let ready = self.come_and_go(done..next).await?;
            done = next;
            let now = Holdings::of(&peer, &cgroups, files)?;
            println!(
                "{done:>6} pods, {:>4.0} s, ready in {:.1} ms (p99 {:.1}), PSS {:.1} MB, kernel memory {:.1} MB",
                begin.elapsed().as_secs_f64(),
                ready.p50,
                ready.p99,
                now.pss as f64 / MEGABYTE,
                now.kernel as f64 / MEGABYTE,
            );
        }
        self.rest(&peer).await;
        let last = Holdings::settled(&peer, &cgroups, files, &first).await?;
        println!(
            "\n{:<20} {:>12} {:>12}",
            peer.name,
            format!("{FIRST} pods"),
            format!("{pods} pods")
        );
        for ((name, then), (_, now)) in first.counts.iter().zip(&last.counts) {
            println!("{name:<20} {then:>12} {now:>12}");
        }
        let memory =
            [("PSS, MB", first.pss, last.pss), ("kernel memory, MB", first.kernel, last.kernel)];
        for (name, then, now) in memory {
            println!("{name:<20} {:>12.2} {:>12.2}", then as f64 / MEGABYTE, now as f64 / MEGABYTE);
        }
        let more = last.more_than(&first);
        ensure!(more.is_empty(), "left after {pods} pods: {more:?}");
        let grown = last.pss as f64 / first.pss as f64;
        ensure!(
            grown <= SLACK,
            "the memory grew to the {grown:.2}-fold of that after {FIRST} pods"
        );
        let more = last.kernel.saturating_sub(first.kernel);
        ensure!(more < KERNEL_SLACK, "the kernel keeps {more} bytes more than after {FIRST} pods");
        Ok(())
    }

    /// Lets everything end that only waits for more to do, and has the kernel drop its caches.
    async fn rest(&self, peer: &Peer) {
        for below in [&*peer.account(), "pods"] {
            self.place.cgroups.drop_caches(below);
        }
        tokio::time::sleep(SETTLE).await;
    }

    /// Makes and removes pods, a few at a time; how long they took to be ready.
    async fn come_and_go(&self, numbers: std::ops::Range<usize>) -> Result<Spread> {
        let ready: Vec<f64> = stream::iter(numbers)
            .map(|number| {
                let mut peer = self.peers[0].clone();
                async move {
                    let order = self.place.order(number, IDLE)?;
                    let (pod, steps) = peer.start(order).await?;
                    peer.end(&pod).await?;
                    self.place.forget(&pod.order).await?;
                    anyhow::Ok(ms(steps.ready))
                }
            })
            .buffer_unordered(IN_FLIGHT)
            .try_collect()
            .await?;
        Ok(Spread::of(&ready).unwrap_or(Spread::once(0.0)))
    }
}
