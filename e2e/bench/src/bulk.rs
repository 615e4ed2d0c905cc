//! Bytes: pulling and unpacking images, and writing logs.

use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::Bench;
use crate::appended::size;
use crate::kernel::Census;
use crate::peer::Pod;
use crate::results::Gathered;
use crate::results::Unit::{CpuMillisecondsPerSecond, MegabytesPerSecond, Seconds};
use crate::sample::{Spread, ms};

/// Ten lines ten times a second.
const CHATTER: &str = "echo ready; while sleep 0.1; do for i in 0 1 2 3 4 5 6 7 8 9; do \
    echo 'a line of a log as servers write them, about a hundred bytes long, with nothing to say: '$i; \
    done; done";

impl Bench {
    /// Pull and unpack, each time anew.
    pub(crate) async fn pulls(&mut self) -> Result<()> {
        let mut gathered = Gathered::default();
        for _ in 0..self.plan.pulls {
            for image in &self.plan.images {
                for peer in &mut self.peers {
                    write_out(&self.disks)?;
                    let begin = Instant::now();
                    peer.pull(&format!("docker.io/bench/{image}:latest")).await?;
                    let took = begin.elapsed().as_secs_f64();
                    gathered.add(&format!("pull {image}"), Seconds, &peer.name, took);
                    peer.remove_image(&format!("docker.io/bench/{image}:latest")).await?;
                }
            }
        }
        gathered.settle(&mut self.results.pods);
        Ok(())
    }

    /// One container that writes as fast as it can.
    pub(crate) async fn log_flood(&mut self) -> Result<()> {
        let lines = self.plan.log_lines;
        let script = format!(
            "yes 'a line of a log as servers write them, about a hundred bytes long, with nothing \
             at all to say in it' | head -n {lines}"
        );
        for mut peer in self.peers.clone() {
            let before = Census::now()?;
            let order = self.place.order(0, &script)?;
            let log = order.logs.join("main.log");
            let begin = Instant::now();
            let (pod, _) = peer.start(order).await?;
            peer.ended(&pod.container).await?;
            let rate = size(&log) as f64 / 1e6 / begin.elapsed().as_secs_f64();
            let written = bytecount(&log)?;
            anyhow::ensure!(written == lines, "{}: {written} of {lines} lines", peer.name);
            let row = "log, one container as fast as it can";
            self.results.pods.set(row, MegabytesPerSecond, &peer.name, Spread::once(rate));
            self.end_many(&peer, &[pod], &before).await?;
        }
        Ok(())
    }

    /// Many containers that write a little all the time: what it costs the runtime.
    pub(crate) async fn log_chatter(&mut self) -> Result<()> {
        let count = self.plan.log_writers;
        for mut peer in self.peers.clone() {
            let before = Census::now()?;
            let mut pods: Vec<Pod> = Vec::new();
            for number in 0..count {
                pods.push(peer.start(self.place.order(number, CHATTER)?).await?.0);
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
            let account = peer.account();
            let cpu = self.place.cgroups.cpu(&account)?;
            let begin = Instant::now();
            tokio::time::sleep(self.plan.idle).await;
            let used = ms(self.place.cgroups.cpu(&account)? - cpu) / begin.elapsed().as_secs_f64();
            let row = format!("CPU time, {count} containers log 100 lines/s");
            self.results.pods.set(&row, CpuMillisecondsPerSecond, &peer.name, Spread::once(used));
            self.end_many(&peer, &pods, &before).await?;
        }
        Ok(())
    }
}

/// Waits until everything is written that the file systems of these directories still hold back.
fn write_out(disks: &[PathBuf]) -> Result<()> {
    for disk in disks {
        rustix::fs::syncfs(File::open(disk).with_context(|| format!("open {disk:?}"))?)?;
    }
    Ok(())
}

/// The lines of a file.
fn bytecount(path: &std::path::Path) -> Result<usize> {
    use std::io::{BufRead, BufReader};
    let mut reader = BufReader::with_capacity(1 << 20, std::fs::File::open(path)?);
    let mut lines = 0;
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            return Ok(lines);
        }
        lines += buffer.iter().filter(|byte| **byte == b'\n').count();
        let length = buffer.len();
        reader.consume(length);
    }
}
