//! What containers and pods use: counters read from the kernel when somebody asks, never before.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cgroup::{Cgroup, Meter};
use model::{PodId, Timestamp};

use crate::container::Container;
use crate::error::Error;
use crate::pod::Pod;
use crate::runtime::{Runtime, Shared};
use crate::usage::PATIENCE;
use crate::view::{
    ContainerFilter, ContainerPhase, ContainerStats, FileSystem, PodFilter, PodStats,
};

/// Two readings closer than this say nothing about a rate.
const SHORTEST: Duration = Duration::from_millis(250);

/// How much is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// The counters that the kernel keeps.
    Counters,
    /// And what is found by looking at each process.
    Processes,
}

/// The open counters of one cgroup and the rate between readings of them.
#[derive(Debug, Default)]
pub(crate) struct Gauge(Mutex<Reading>);

#[derive(Debug, Default)]
struct Reading {
    meter: Option<Meter>,
    last: Option<(Instant, u64)>,
    rate: Option<u64>,
}

impl Gauge {
    /// Reads the counters, and the processor use in billionths of one CPU since an earlier reading.
    /// None where the cgroup is gone.
    fn read(&self, cgroup: &Cgroup) -> Result<Option<(cgroup::Stats, Option<u64>)>, cgroup::Error> {
        let mut reading = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if reading.meter.is_none() {
            match cgroup.meter() {
                Ok(meter) => reading.meter = Some(meter),
                Err(error) if error.is_gone() => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        let Some(meter) = &reading.meter else { return Ok(None) };
        let stats = match meter.read() {
            Ok(stats) => stats,
            Err(error) if error.is_gone() => return Ok(None),
            Err(error) => return Err(error),
        };
        let now = Instant::now();
        if let Some(cpu) = &stats.cpu {
            reading.update(now, cpu.usage_ns);
        }
        Ok(Some((stats, reading.rate)))
    }

    /// Closes the counters.
    pub(crate) fn close(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Reading::default();
    }
}

impl Reading {
    fn update(&mut self, now: Instant, usage: u64) {
        let Some((at, before)) = self.last else {
            self.last = Some((now, usage));
            return;
        };
        let elapsed = now.duration_since(at);
        if elapsed < SHORTEST {
            return;
        }
        let used = u128::from(usage.saturating_sub(before)) * 1_000_000_000;
        self.rate = u64::try_from(used / elapsed.as_nanos().max(1)).ok();
        self.last = Some((now, usage));
    }
}

impl Runtime {
    /// What a container uses. One that does not run has no counters.
    ///
    /// # Errors
    /// [`Error::ContainerNotFound`], [`Error::Ambiguous`]; counters that cannot be read.
    pub async fn container_stats(&self, id: &str) -> Result<ContainerStats, Error> {
        let container = self.0.index.container(id)?;
        let shared = Arc::clone(&self.0);
        blocking(move || {
            shared.refresh(std::slice::from_ref(&container));
            shared.read_container(&container, Depth::Counters, Instant::now() + PATIENCE)
        })
        .await
    }

    /// What the running containers use that the filter admits; one that vanishes meanwhile is left
    /// out.
    pub async fn list_container_stats(&self, filter: &ContainerFilter) -> Vec<ContainerStats> {
        let filter = ContainerFilter { phase: Some(ContainerPhase::Running), ..filter.clone() };
        let containers = self.0.filtered(&filter);
        let shared = Arc::clone(&self.0);
        let read = blocking(move || {
            shared.refresh(&containers);
            let until = Instant::now() + PATIENCE;
            let read = |container| shared.read_container(container, Depth::Counters, until).ok();
            Ok(containers.iter().filter_map(read).collect())
        });
        read.await.unwrap_or_default()
    }

    /// What a pod uses.
    ///
    /// # Errors
    /// [`Error::PodNotFound`], [`Error::Ambiguous`]; counters that cannot be read.
    pub async fn pod_stats(&self, id: &str) -> Result<PodStats, Error> {
        let pod = self.0.index.pod(id)?;
        let interfaces = self.0.network.interface_stats(&pod.id).await.unwrap_or_default();
        let shared = Arc::clone(&self.0);
        blocking(move || {
            shared.refresh(&running(&pod));
            shared.read_pod(&pod, interfaces, Depth::Counters, Instant::now() + PATIENCE)
        })
        .await
    }

    /// What the READY pods use that the filter admits; one that vanishes meanwhile is left out.
    pub async fn list_pod_stats(&self, filter: &PodFilter, depth: Depth) -> Vec<PodStats> {
        let filter = PodFilter { state: Some(model::PodState::Ready), ..filter.clone() };
        let mut pods = self.0.index.pods(filter.id.as_deref());
        pods.retain(|pod| pod.matches(&filter));
        let mut interfaces: HashMap<PodId, Vec<network::InterfaceStats>> =
            self.0.network.all_interface_stats().await.unwrap_or_default();
        let shared = Arc::clone(&self.0);
        let read = blocking(move || {
            pods.iter().for_each(|pod| shared.refresh(&running(pod)));
            let until = Instant::now() + PATIENCE;
            let stats = pods.iter().filter_map(|pod| {
                let interfaces = interfaces.remove(&pod.id).unwrap_or_default();
                shared.read_pod(pod, interfaces, depth, until).ok()
            });
            Ok(stats.collect())
        });
        read.await.unwrap_or_default()
    }
}

/// Runs what blocks for moments, as reading counters does, off the event loop.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or(Err(Error::Internal("work off the event loop was stopped")))
}

impl Shared {
    /// Has the writable layers walked anew where that was long ago.
    fn refresh(&self, containers: &[Arc<Container>]) {
        for container in containers {
            container.usage.refresh(self.writable_layer(&container.id));
        }
    }

    /// Reads what a container uses; waits for a walk over its writable layer until `until`.
    fn read_container(
        &self,
        container: &Arc<Container>,
        depth: Depth,
        until: Instant,
    ) -> Result<ContainerStats, Error> {
        let cgroup = container.live().map(|live| live.cgroup.clone());
        let read = match &cgroup {
            Some(cgroup) => container.gauge.read(cgroup).map_err(unreadable(cgroup))?,
            None => None,
        };
        let counted = read.as_ref().and_then(|(stats, _)| stats.pids.as_ref());
        let counted = counted.map(|pids| pids.current);
        let (processes, threads) =
            cgroup.as_ref().map_or((0, 0), |cgroup| population(cgroup, counted));
        let view = self.container_view(container);
        let holdings = match (&cgroup, depth) {
            (Some(cgroup), Depth::Processes) => Some(crate::holdings::of(cgroup, view.pid)),
            _ => None,
        };
        let (cgroup, nano_cores) = read.map_or((None, None), |(stats, rate)| (Some(stats), rate));
        Ok(ContainerStats {
            container: view,
            at: Timestamp::now(),
            cgroup,
            nano_cores,
            writable_layer: container.usage.answer(until),
            processes,
            threads,
            holdings,
            filesystem: filesystem(&self.config.root),
        })
    }

    fn read_pod(
        &self,
        pod: &Arc<Pod>,
        interfaces: Vec<network::InterfaceStats>,
        depth: Depth,
        until: Instant,
    ) -> Result<PodStats, Error> {
        let cgroup = self.cgroups.open(&self.pod_cgroup(&pod.id, &pod.spec())?);
        let read = pod.gauge.read(&cgroup).map_err(unreadable(&cgroup))?;
        let (cgroup, nano_cores) = read.map_or((None, None), |(stats, rate)| (Some(stats), rate));
        let mut containers = Vec::new();
        for container in running(pod) {
            containers.push(self.read_container(&container, depth, until)?);
        }
        Ok(PodStats {
            pod: pod.view(),
            at: Timestamp::now(),
            cgroup,
            nano_cores,
            interfaces,
            processes: containers.iter().map(|stats| stats.processes).sum(),
            containers,
        })
    }
}

fn unreadable(cgroup: &Cgroup) -> impl FnOnce(cgroup::Error) -> Error + use<> {
    let path = cgroup.path().as_str().to_owned();
    move |source| Error::Cgroup { path, action: "read", source }
}

/// The pod's running containers.
fn running(pod: &Pod) -> Vec<Arc<Container>> {
    let mut containers = pod.containers();
    containers.retain(|container| container.phase() == ContainerPhase::Running);
    containers
}

/// The size of the file system below `path`; none where it does not say.
fn filesystem(path: &Path) -> Option<FileSystem> {
    let size = rustix::fs::statvfs(path).ok()?;
    let device = rustix::fs::stat(path).ok()?.st_dev;
    Some(FileSystem {
        device: format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device)),
        bytes: size.f_blocks * size.f_frsize,
        inodes: size.f_files,
        inodes_free: size.f_ffree,
    })
}

/// Processes and threads of a cgroup; none of a gone one. Threads are listed only where they are not
/// `counted` already.
fn population(cgroup: &Cgroup, counted: Option<u64>) -> (u64, u64) {
    let processes = cgroup.processes().map_or(0, |processes| processes.len());
    let threads = || cgroup.threads().unwrap_or_default() as u64;
    (processes as u64, counted.unwrap_or_else(threads))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_needs_two_readings_some_time_apart() {
        let mut reading = Reading::default();
        let start = Instant::now();
        reading.update(start, 1_000_000_000);
        assert_eq!(reading.rate, None);
        reading.update(start + Duration::from_millis(1), 1_000_900_000);
        assert_eq!(reading.rate, None);
        // Half a second of CPU in one second is half a CPU.
        reading.update(start + Duration::from_secs(1), 1_500_000_000);
        assert_eq!(reading.rate, Some(500_000_000));
        // A counter that went back, as a recreated cgroup's does, is no negative rate.
        reading.update(start + Duration::from_secs(2), 0);
        assert_eq!(reading.rate, Some(0));
    }
}
