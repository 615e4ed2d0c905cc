//! pause, resume and update: what a container's cgroup does to it.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};

use crate::cli;
use crate::container::{Container, Status};
use crate::create::Desk;
use crate::failure::Failure;

/// How long processes may take to stand still, or to go on.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// The command pause.
pub(crate) fn pause(desk: Desk<'_>, flags: &cli::OfContainer) -> Result<(), Failure> {
    let (container, _place) = Container::lock(desk.store, &flags.id)?;
    let cure = "only a created or running container can be paused";
    let wanted = [Status::Created, Status::Running];
    container.expect(container.status(desk.store)?, &wanted, cure)?;
    container.cgroup.freeze(PATIENCE).map_err(Failure::cgroup(&flags.id, "paused"))
}

/// The command resume.
pub(crate) fn resume(desk: Desk<'_>, flags: &cli::OfContainer) -> Result<(), Failure> {
    let (container, _place) = Container::lock(desk.store, &flags.id)?;
    let cure = "only a paused container can be resumed";
    let frozen = container.cgroup.is_frozen().map_err(Failure::cgroup(&flags.id, "read"))?;
    if !frozen || container.record.living()?.is_none() {
        container.expect(container.status(desk.store)?, &[Status::Paused], cure)?;
    }
    container.cgroup.thaw(PATIENCE).map_err(Failure::cgroup(&flags.id, "resumed"))
}

/// The command update. What is set is kept in the record.
pub(crate) fn update(desk: Desk<'_>, flags: &cli::Update) -> Result<(), Failure> {
    let (mut container, place) = Container::lock(desk.store, &flags.id)?;
    let cure = "a container that has ended has no limits";
    let wanted = [Status::Created, Status::Running, Status::Paused];
    container.expect(container.status(desk.store)?, &wanted, cure)?;
    let mut resources = match &flags.resources {
        Some(path) => read(path)?,
        None => of_flags(flags),
    };
    // Which devices are open is not changed here, as with runc.
    resources.set_devices(None);
    container.cgroup.update(&resources).map_err(Failure::cgroup(&flags.id, "limited"))?;
    if let Some(linux) = container.record.spec.linux_mut() {
        let before = linux.resources().clone().unwrap_or_default();
        linux.set_resources(Some(merged(&before, &resources)?));
    }
    place.write(&container.record)
}

fn read(path: &Path) -> Result<LinuxResources, Failure> {
    let mut text = Vec::new();
    match path.to_str() {
        Some("-") => std::io::stdin().read_to_end(&mut text).map(drop),
        _ => fs::read(path).map(|read| text = read),
    }
    .map_err(Failure::file("read", path))?;
    serde_json::from_slice(&text).map_err(|source| Failure::Json { path: path.to_owned(), source })
}

fn of_flags(flags: &cli::Update) -> LinuxResources {
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(flags.cpu_share)
        .set_period(flags.cpu_period)
        .set_quota(flags.cpu_quota)
        .set_burst(flags.cpu_burst)
        .set_realtime_period(flags.cpu_rt_period)
        .set_realtime_runtime(flags.cpu_rt_runtime)
        .set_idle(flags.cpu_idle)
        .set_cpus(flags.cpuset_cpus.clone())
        .set_mems(flags.cpuset_mems.clone());
    let mut memory = LinuxMemory::default();
    memory
        .set_limit(flags.memory)
        .set_reservation(flags.memory_reservation)
        .set_swap(flags.memory_swap);
    let mut resources = LinuxResources::default();
    resources.set_cpu(Some(cpu)).set_memory(Some(memory)).set_devices(None);
    if let Some(limit) = flags.pids_limit {
        let mut pids = LinuxPids::default();
        pids.set_limit(limit);
        resources.set_pids(Some(pids));
    }
    if let Some(weight) = flags.blkio_weight {
        let mut io = LinuxBlockIo::default();
        io.set_weight(Some(weight));
        resources.set_block_io(Some(io));
    }
    resources
}

/// What was in force, with what is new over it, field by field.
fn merged(before: &LinuxResources, new: &LinuxResources) -> Result<LinuxResources, Failure> {
    let path = || "linux.resources".into();
    let json = |resources: &LinuxResources| {
        serde_json::to_value(resources).map_err(|source| Failure::Json { path: path(), source })
    };
    let mut all = json(before)?;
    overlay(&mut all, json(new)?);
    serde_json::from_value(all).map_err(|source| Failure::Json { path: path(), source })
}

fn overlay(below: &mut serde_json::Value, above: serde_json::Value) {
    match (below, above) {
        (serde_json::Value::Object(below), serde_json::Value::Object(above)) => {
            for (key, value) in above {
                overlay(below.entry(key).or_insert(serde_json::Value::Null), value);
            }
        }
        (_, serde_json::Value::Null) => {}
        (below, above) => *below = above,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_limits_lie_over_old_ones() {
        let parse = |text: &str| serde_json::from_str::<LinuxResources>(text).unwrap();
        let before = parse(r#"{"memory":{"limit":100,"swap":200},"pids":{"limit":5}}"#);
        let new = parse(r#"{"memory":{"limit":150},"cpu":{"shares":7}}"#);
        let all = merged(&before, &new).unwrap();
        let memory = all.memory().as_ref().unwrap();
        assert_eq!((memory.limit(), memory.swap()), (Some(150), Some(200)));
        assert_eq!(all.pids().as_ref().unwrap().limit(), 5);
        assert_eq!(all.cpu().as_ref().unwrap().shares(), Some(7));
    }
}
