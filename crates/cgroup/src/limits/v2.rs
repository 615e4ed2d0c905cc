//! OCI resources in the files of cgroup v2.

use std::collections::HashMap;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};

use super::Setting;
use crate::{Controller, Error};

/// Reads a file of the cgroup as it stands; none where it is not there.
type Current<'a> = dyn Fn(Controller, &str) -> Option<String> + 'a;

const SWAP: &str = "memory.swap.max";

pub(super) fn settings(
    resources: &LinuxResources,
    controllers: &[Controller],
    current: &Current<'_>,
) -> Result<Vec<Setting>, Error> {
    if resources.rdma().as_ref().is_some_and(|rdma| !rdma.is_empty()) {
        return unsupported("rdma");
    }
    if resources.network().is_some() {
        return unsupported("network");
    }
    let mut settings = Vec::new();
    if let Some(cpu) = resources.cpu() {
        cpu_settings(cpu, current, &mut settings)?;
        super::v1::cpuset_settings(cpu, &mut settings);
    }
    if let Some(memory) = resources.memory() {
        memory_settings(memory, current, &mut settings)?;
    }
    if let Some(limit) = resources.pids().map(|pids| pids.limit()).filter(|limit| *limit != 0) {
        settings.push(limit_setting(Controller::Pids, "pids.max", limit));
    }
    for page in resources.hugepage_limits().iter().flatten() {
        let (size, limit) = (page.page_size(), page.limit());
        let file = format!("hugetlb.{size}.max");
        settings.push(Setting::new(Controller::Hugetlb, file, limit).dispensable_if(limit <= 0));
        // Refuses the mmap where the other would end in a SIGBUS; older kernels lack it.
        let file = format!("hugetlb.{size}.rsvd.max");
        settings.push(Setting::new(Controller::Hugetlb, file, limit).dispensable_if(true));
    }
    if let Some(io) = resources.block_io() {
        io_settings(io, &mut settings);
    }
    unified_settings(resources.unified().as_ref(), controllers, &mut settings)?;
    Ok(settings)
}

fn unsupported<T>(field: &str) -> Result<T, Error> {
    Err(Error::Unsupported { field: field.to_owned(), on: "cgroup v2" })
}

/// A limit whose absence is called `max`.
fn limit_setting(controller: Controller, file: &'static str, limit: i64) -> Setting {
    let value = if limit < 0 { "max".to_owned() } else { limit.to_string() };
    Setting::new(controller, file, value).dispensable_if(limit < 0)
}

/// Shares (2 to 262144, 1024 by default) as a weight (1 to 10000, 100 by default): the curve through
/// these three points that runc, crun and kubelet have used since 2025. The straight line of before gave the
/// default 39.
fn weight(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            10_f64.powf(exponent).ceil() as u64
        }
    }
}

fn cpu_settings(
    cpu: &LinuxCpu,
    current: &Current<'_>,
    settings: &mut Vec<Setting>,
) -> Result<(), Error> {
    let nonzero = |value: Option<u64>| value.filter(|value| *value != 0);
    if nonzero(cpu.realtime_period()).is_some() || cpu.realtime_runtime().is_some_and(|t| t != 0) {
        return unsupported("realtime scheduling");
    }
    if let Some(idle) = cpu.idle() {
        settings.push(Setting::new(Controller::Cpu, "cpu.idle", idle));
    }
    // An idle group has no weight of its own.
    if let Some(shares) = nonzero(cpu.shares()).filter(|_| cpu.idle() != Some(1)) {
        settings.push(Setting::new(Controller::Cpu, "cpu.weight", weight(shares)));
    }
    let quota = cpu.quota().filter(|quota| *quota != 0);
    let period = nonzero(cpu.period());
    if quota.is_some() || period.is_some() {
        let ceiling = match quota {
            Some(quota) if quota > 0 => quota.to_string(),
            Some(_) => "max".to_owned(),
            // The file wants both; the quota in force stays.
            None => current(Controller::Cpu, "cpu.max")
                .and_then(|text| text.split_whitespace().next().map(str::to_owned))
                .unwrap_or_else(|| "max".to_owned()),
        };
        let lifts = ceiling == "max";
        let value = match period {
            Some(period) => format!("{ceiling} {period}"),
            None => ceiling,
        };
        settings.push(Setting::new(Controller::Cpu, "cpu.max", value).dispensable_if(lifts));
    }
    if let Some(burst) = cpu.burst() {
        settings
            .push(Setting::new(Controller::Cpu, "cpu.max.burst", burst).dispensable_if(burst == 0));
    }
    Ok(())
}

fn memory_settings(
    memory: &LinuxMemory,
    current: &Current<'_>,
    settings: &mut Vec<Setting>,
) -> Result<(), Error> {
    if memory.disable_oom_killer() == Some(true) {
        return unsupported("memory.disableOOMKiller");
    }
    let limit = memory.limit().filter(|limit| *limit != 0);
    if let Some(limit) = limit {
        settings.push(limit_setting(Controller::Memory, "memory.max", limit));
    }
    match memory.swap().filter(|swap| *swap != 0) {
        Some(swap) if swap < 0 => settings.push(limit_setting(Controller::Memory, SWAP, -1)),
        Some(together) => {
            let in_force = || current(Controller::Memory, "memory.max")?.trim().parse().ok();
            let swap = swap_alone(together, limit.or_else(in_force))?;
            // Where swap is not counted there is none to limit.
            settings.push(Setting::new(Controller::Memory, SWAP, swap).dispensable_if(swap == 0));
        }
        None if limit.is_some_and(|limit| limit < 0) => {
            settings.push(limit_setting(Controller::Memory, SWAP, -1));
        }
        None => {}
    }
    if let Some(low) = memory.reservation().filter(|low| *low != 0) {
        // What v1 calls a soft limit guards memory here: nothing is the absence of a guard.
        let value = low.max(0);
        settings
            .push(Setting::new(Controller::Memory, "memory.low", value).dispensable_if(value == 0));
    }
    Ok(())
}

/// OCI counts memory and swap together, v2 swap alone.
fn swap_alone(together: i64, limit: Option<i64>) -> Result<i64, Error> {
    let invalid =
        |reason| Error::InvalidValue { field: "memory.swap", value: together.to_string(), reason };
    let limit = limit
        .filter(|limit| *limit > 0)
        .ok_or_else(|| invalid("memory and swap together need a limit on memory"))?;
    match together - limit {
        swap if swap < 0 => Err(invalid("it is below the limit on memory alone")),
        swap => Ok(swap),
    }
}

fn io_settings(io: &LinuxBlockIo, settings: &mut Vec<Setting>) {
    if let Some(weight) = io.weight().filter(|weight| *weight != 0) {
        // 10 to 1000 as 1 to 10000.
        let weight = 1 + u64::from(weight).saturating_sub(10) * 9999 / 990;
        settings.push(Setting::new(Controller::Io, "io.weight", weight));
    }
    let throttles = [
        ("rbps", io.throttle_read_bps_device()),
        ("wbps", io.throttle_write_bps_device()),
        ("riops", io.throttle_read_iops_device()),
        ("wiops", io.throttle_write_iops_device()),
    ];
    for (key, devices) in throttles {
        for device in devices.iter().flatten() {
            let value = format!("{}:{} {key}={}", device.major(), device.minor(), device.rate());
            settings.push(Setting::new(Controller::Io, "io.max", value));
        }
    }
}

/// Files by name, in the order of their names. The part before the first dot tells the controller;
/// `cgroup` files move processes and controllers about, and are nobody's to set.
fn unified_settings(
    unified: Option<&HashMap<String, String>>,
    controllers: &[Controller],
    settings: &mut Vec<Setting>,
) -> Result<(), Error> {
    let mut entries: Vec<_> = unified.into_iter().flatten().collect();
    entries.sort_unstable();
    for (key, value) in entries {
        let invalid = |reason| Error::InvalidValue { field: "unified", value: key.clone(), reason };
        if key.contains('/') || key.contains('\0') {
            return Err(invalid("a key is the name of a file"));
        }
        let Some((name, _)) = key.split_once('.') else {
            return Err(invalid("a key is a controller, a dot and a name"));
        };
        let controller = controllers
            .iter()
            .copied()
            .find(|controller| controller.as_str() == name)
            .ok_or_else(|| invalid("no such controller is available"))?;
        // A file of several keys takes one in each write.
        for line in value.lines().filter(|line| !line.trim().is_empty()) {
            settings.push(Setting::new(controller, key.clone(), line));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Controller; 6] = [
        Controller::Cpu,
        Controller::Cpuset,
        Controller::Io,
        Controller::Memory,
        Controller::Pids,
        Controller::Hugetlb,
    ];

    fn try_of(json: &str, current: &[(&str, &str)]) -> Result<Vec<String>, Error> {
        let current: HashMap<_, _> = current.iter().copied().collect();
        let settings = settings(&serde_json::from_str(json).unwrap(), &ALL, &|_, file| {
            current.get(file).map(|text| (*text).to_owned())
        })?;
        Ok(settings.into_iter().map(|set| format!("{}={}", set.file, set.value)).collect())
    }

    fn of(json: &str) -> Vec<String> {
        try_of(json, &[]).unwrap()
    }

    #[test]
    fn shares_become_weights() {
        let weights =
            [0, 2, 3, 102, 512, 1024, 2048, 10_000, 262_143, 262_144, u64::MAX].map(weight);
        assert_eq!(weights[0], 1);
        assert_eq!(weights[1], 1);
        assert_eq!(weights[5], 100);
        assert_eq!(weights[9], 10_000);
        assert_eq!(weights[10], 10_000);
        assert!(weights.is_sorted(), "{weights:?}");
    }

    #[test]
    fn zero_leaves_every_value_alone() {
        let json = r#"{"cpu":{"shares":0,"quota":0,"period":0,"cpus":"","mems":""},
            "memory":{"limit":0,"swap":0,"reservation":0},"pids":{"limit":0}}"#;
        assert!(of(json).is_empty());
    }

    #[test]
    fn values_go_to_their_files() {
        let json = r#"{"cpu":{"shares":1024,"quota":50000,"period":100000,"burst":10,"cpus":"0-1"},
            "memory":{"limit":1000,"swap":1500,"reservation":500},
            "pids":{"limit":7},"hugepageLimits":[{"pageSize":"2MB","limit":0}],
            "blockIO":{"weight":1000,"throttleWriteIOPSDevice":[{"major":8,"minor":0,"rate":9}]},
            "unified":{"memory.high":"900","io.max":"8:0 rbps=1\n8:16 rbps=2\n"}}"#;
        assert_eq!(
            of(json),
            [
                "cpu.weight=100",
                "cpu.max=50000 100000",
                "cpu.max.burst=10",
                "cpuset.cpus=0-1",
                "memory.max=1000",
                "memory.swap.max=500",
                "memory.low=500",
                "pids.max=7",
                "hugetlb.2MB.max=0",
                "hugetlb.2MB.rsvd.max=0",
                "io.weight=10000",
                "io.max=8:0 wiops=9",
                "io.max=8:0 rbps=1",
                "io.max=8:16 rbps=2",
                "memory.high=900",
            ]
        );
    }

    #[test]
    fn a_period_alone_keeps_the_quota() {
        let current = [("cpu.max", "20000 100000\n")];
        assert_eq!(
            try_of(r#"{"cpu":{"period":50000}}"#, &current).unwrap(),
            ["cpu.max=20000 50000"]
        );
        assert_eq!(of(r#"{"cpu":{"quota":-1}}"#), ["cpu.max=max"]);
    }

    #[test]
    fn swap_is_what_exceeds_memory() {
        assert_eq!(
            of(r#"{"memory":{"limit":100,"swap":100}}"#),
            ["memory.max=100", "memory.swap.max=0"]
        );
        assert_eq!(of(r#"{"memory":{"limit":-1}}"#), ["memory.max=max", "memory.swap.max=max"]);
        assert_eq!(of(r#"{"memory":{"swap":-1}}"#), ["memory.swap.max=max"]);
        assert_eq!(
            try_of(r#"{"memory":{"swap":150}}"#, &[("memory.max", "100\n")]).unwrap(),
            ["memory.swap.max=50"]
        );
        assert!(try_of(r#"{"memory":{"limit":100,"swap":99}}"#, &[]).is_err());
        assert!(try_of(r#"{"memory":{"swap":150}}"#, &[("memory.max", "max\n")]).is_err());
    }

    #[test]
    fn a_unified_key_is_a_file_of_a_known_controller() {
        for key in ["memory/../cgroup.procs", "memory", "cgroup.procs", "rdma.max", "hugetlb/x"] {
            let json = format!(r#"{{"unified":{{"{key}":"1"}}}}"#);
            assert!(matches!(try_of(&json, &[]), Err(Error::InvalidValue { .. })), "{key}");
        }
    }

    #[test]
    fn what_v2_lacks_is_refused() {
        for json in [
            r#"{"memory":{"disableOOMKiller":true}}"#,
            r#"{"cpu":{"realtimeRuntime":1000}}"#,
            r#"{"network":{"classID":1}}"#,
        ] {
            assert!(matches!(try_of(json, &[]), Err(Error::Unsupported { .. })), "{json}");
        }
    }
}
