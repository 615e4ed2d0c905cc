//! OCI resources in the files of cgroup v1.

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};

use super::Setting;
use crate::{Controller, Error};

pub(super) fn settings(resources: &LinuxResources) -> Result<Vec<Setting>, Error> {
    let unsupported =
        |field: &str| Err(Error::Unsupported { field: field.to_owned(), on: "cgroup v1" });
    if resources.unified().as_ref().is_some_and(|unified| !unified.is_empty()) {
        return unsupported("unified");
    }
    if resources.rdma().as_ref().is_some_and(|rdma| !rdma.is_empty()) {
        return unsupported("rdma");
    }
    if resources.network().is_some() {
        return unsupported("network");
    }
    let mut settings = Vec::new();
    if let Some(cpu) = resources.cpu() {
        cpu_settings(cpu, &mut settings);
        cpuset_settings(cpu, &mut settings);
    }
    if let Some(memory) = resources.memory() {
        memory_settings(memory, &mut settings);
    }
    if let Some(limit) = resources.pids().map(|pids| pids.limit()).filter(|limit| *limit != 0) {
        let value = if limit < 0 { "max".to_owned() } else { limit.to_string() };
        settings.push(Setting::new(Controller::Pids, "pids.max", value).dispensable_if(limit < 0));
    }
    for page in resources.hugepage_limits().iter().flatten() {
        let (size, limit) = (page.page_size(), page.limit());
        let file = format!("hugetlb.{size}.limit_in_bytes");
        settings.push(Setting::new(Controller::Hugetlb, file, limit).dispensable_if(limit <= 0));
        // Refuses the mmap where the other would end in a SIGBUS; older kernels lack it.
        let file = format!("hugetlb.{size}.rsvd.limit_in_bytes");
        settings.push(Setting::new(Controller::Hugetlb, file, limit).dispensable_if(true));
    }
    if let Some(io) = resources.block_io() {
        io_settings(io, &mut settings);
    }
    Ok(settings)
}

fn cpu_settings(cpu: &LinuxCpu, settings: &mut Vec<Setting>) {
    let mut set = |file: &'static str, value: i64| {
        settings.push(Setting::new(Controller::Cpu, file, value));
    };
    if let Some(idle) = cpu.idle() {
        set("cpu.idle", idle);
    }
    // An idle group has no shares of its own.
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0 && cpu.idle() != Some(1)) {
        set("cpu.shares", shares.cast_signed());
    }
    if let Some(period) = cpu.period().filter(|period| *period != 0) {
        set("cpu.cfs_period_us", period.cast_signed());
    }
    if let Some(quota) = cpu.quota().filter(|quota| *quota != 0) {
        set("cpu.cfs_quota_us", quota.max(-1));
    }
    if let Some(burst) = cpu.burst() {
        set("cpu.cfs_burst_us", burst.cast_signed());
    }
    if let Some(period) = cpu.realtime_period().filter(|period| *period != 0) {
        set("cpu.rt_period_us", period.cast_signed());
    }
    if let Some(runtime) = cpu.realtime_runtime().filter(|runtime| *runtime != 0) {
        set("cpu.rt_runtime_us", runtime);
    }
}

pub(super) fn cpuset_settings(cpu: &LinuxCpu, settings: &mut Vec<Setting>) {
    for (file, list) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
        if let Some(list) = list.as_ref().filter(|list| !list.is_empty()) {
            settings.push(Setting::new(Controller::Cpuset, file, list));
        }
    }
}

fn memory_settings(memory: &LinuxMemory, settings: &mut Vec<Setting>) {
    let values = [
        ("memory.limit_in_bytes", memory.limit()),
        ("memory.memsw.limit_in_bytes", swap(memory)),
        ("memory.soft_limit_in_bytes", memory.reservation()),
    ];
    for (file, value) in values {
        let Some(value) = value.filter(|value| *value != 0) else { continue };
        // Where swap is not counted there is none to limit: memory and swap are memory.
        let harmless = file == "memory.memsw.limit_in_bytes" && memory.limit() == Some(value);
        settings.push(
            Setting::new(Controller::Memory, file, value.max(-1))
                .dispensable_if(value < 0 || harmless),
        );
    }
    if let Some(swappiness) = memory.swappiness() {
        settings.push(Setting::new(Controller::Memory, "memory.swappiness", swappiness));
    }
    if memory.disable_oom_killer() == Some(true) {
        settings.push(Setting::new(Controller::Memory, "memory.oom_control", 1));
    }
}

/// Memory and swap together cannot stay limited below memory alone.
fn swap(memory: &LinuxMemory) -> Option<i64> {
    let swap = memory.swap().filter(|swap| *swap != 0);
    swap.or_else(|| memory.limit().filter(|limit| *limit < 0))
}

fn io_settings(io: &LinuxBlockIo, settings: &mut Vec<Setting>) {
    if let Some(weight) = io.weight().filter(|weight| *weight != 0) {
        settings.push(Setting::new(Controller::Io, "blkio.bfq.weight", weight));
    }
    let throttles: [(&'static str, &Option<Vec<LinuxThrottleDevice>>); 4] = [
        ("blkio.throttle.read_bps_device", io.throttle_read_bps_device()),
        ("blkio.throttle.write_bps_device", io.throttle_write_bps_device()),
        ("blkio.throttle.read_iops_device", io.throttle_read_iops_device()),
        ("blkio.throttle.write_iops_device", io.throttle_write_iops_device()),
    ];
    for (file, devices) in throttles {
        for device in devices.iter().flatten() {
            let value = format!("{}:{} {}", device.major(), device.minor(), device.rate());
            settings.push(Setting::new(Controller::Io, file, value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(json: &str) -> Vec<(String, String)> {
        settings(&serde_json::from_str(json).unwrap())
            .unwrap()
            .into_iter()
            .map(|setting| (setting.file.into_owned(), setting.value))
            .collect()
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(file, value)| ((*file).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn zero_leaves_every_value_alone() {
        let json = r#"{"cpu":{"shares":0,"quota":0,"period":0,"cpus":"","mems":""},
            "memory":{"limit":0,"swap":0,"reservation":0},"pids":{"limit":0}}"#;
        assert_eq!(of(json), []);
    }

    #[test]
    fn values_go_to_their_files() {
        let json = r#"{"cpu":{"shares":512,"quota":-5,"period":50000,"burst":10,"cpus":"0-1"},
            "memory":{"limit":1000,"swap":2000,"reservation":500,"swappiness":0},
            "pids":{"limit":-1},"hugepageLimits":[{"pageSize":"2MB","limit":4194304}],
            "blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":1048576}]}}"#;
        assert_eq!(
            of(json),
            pairs(&[
                ("cpu.shares", "512"),
                ("cpu.cfs_period_us", "50000"),
                ("cpu.cfs_quota_us", "-1"),
                ("cpu.cfs_burst_us", "10"),
                ("cpuset.cpus", "0-1"),
                ("memory.limit_in_bytes", "1000"),
                ("memory.memsw.limit_in_bytes", "2000"),
                ("memory.soft_limit_in_bytes", "500"),
                ("memory.swappiness", "0"),
                ("pids.max", "max"),
                ("hugetlb.2MB.limit_in_bytes", "4194304"),
                ("hugetlb.2MB.rsvd.limit_in_bytes", "4194304"),
                ("blkio.throttle.read_bps_device", "8:0 1048576"),
            ])
        );
    }

    #[test]
    fn lifting_the_memory_limit_lifts_that_with_swap() {
        assert_eq!(
            of(r#"{"memory":{"limit":-1}}"#),
            pairs(&[("memory.limit_in_bytes", "-1"), ("memory.memsw.limit_in_bytes", "-1")])
        );
    }

    #[test]
    fn an_idle_group_gets_no_shares() {
        assert_eq!(of(r#"{"cpu":{"idle":1,"shares":100}}"#), pairs(&[("cpu.idle", "1")]));
    }

    #[test]
    fn v2_files_are_refused() {
        let resources = serde_json::from_str(r#"{"unified":{"memory.high":"1"}}"#).unwrap();
        assert!(matches!(settings(&resources), Err(Error::Unsupported { .. })));
    }
}
