//! What a container uses, as runc's callers read it.

use std::time::Instant;

use cgroup::{Meter, Stats};
use serde_json::{Value, json};

use crate::cli;
use crate::container::{Container, Status};
use crate::create::Desk;
use crate::delete::open_process;
use crate::failure::Failure;
use crate::hooks::ends_by;
use crate::show::print;

/// The command. Ends with the container's first process.
pub(crate) fn events(desk: Desk<'_>, flags: &cli::Events) -> Result<(), Failure> {
    let container = Container::load(desk.store, &flags.id)?;
    let cure = "what has ended uses nothing";
    let wanted = [Status::Created, Status::Running, Status::Paused];
    container.expect(container.status(desk.store)?, &wanted, cure)?;
    let meter = container.cgroup.meter().map_err(Failure::cgroup(&flags.id, "read"))?;
    if flags.stats {
        return show(&flags.id, &meter);
    }
    let init = container.init()?;
    let Some(process) = open_process(&flags.id, init)? else { return Ok(()) };
    let kills = || container.cgroup.oom_kills().unwrap_or(0);
    let mut known = kills();
    loop {
        let ended = ends_by(&process, Instant::now() + flags.interval)?;
        let now = kills();
        if now > known {
            print(&json!({ "type": "oom", "id": flags.id }).to_string())?;
            known = now;
        }
        if ended {
            return Ok(());
        }
        show(&flags.id, &meter)?;
    }
}

fn show(id: &str, meter: &Meter) -> Result<(), Failure> {
    let stats = meter.read().map_err(Failure::cgroup(id, "read"))?;
    print(&json!({ "type": "stats", "id": id, "data": data(&stats) }).to_string())
}

fn data(stats: &Stats) -> Value {
    let mut data = json!({ "cpu": {}, "memory": {}, "pids": {}, "blkio": {}, "hugetlb": {} });
    if let Some(cpu) = &stats.cpu {
        data["cpu"] = json!({
            "usage": { "total": cpu.usage_ns, "user": cpu.user_ns, "kernel": cpu.system_ns },
            "throttling": {
                "periods": cpu.periods,
                "throttledPeriods": cpu.throttled_periods,
                "throttledTime": cpu.throttled_ns,
            },
        });
    }
    if let Some(memory) = &stats.memory {
        let limit = memory.limit.unwrap_or(u64::MAX);
        data["memory"] = json!({
            "cache": memory.cache,
            "usage": {
                "limit": limit,
                "usage": memory.usage,
                "max": memory.peak.unwrap_or(0),
                "failcnt": memory.limit_hits,
            },
            "raw": {
                "rss": memory.rss,
                "mapped_file": memory.mapped_file,
                "active_file": memory.active_file,
                "inactive_file": memory.inactive_file,
                "pgfault": memory.page_faults,
                "pgmajfault": memory.major_page_faults,
            },
        });
        if let Some(swap) = &memory.swap {
            let limit = swap.limit.unwrap_or(u64::MAX);
            data["memory"]["swap"] = json!({ "limit": limit, "usage": swap.usage });
        }
    }
    if let Some(pids) = &stats.pids {
        data["pids"] = json!({ "current": pids.current, "limit": pids.limit.unwrap_or(0) });
    }
    if let Some(io) = &stats.io {
        let entry = |major, minor, op: &str, value| json!({ "major": major, "minor": minor, "op": op, "value": value });
        let (mut bytes, mut requests) = (Vec::new(), Vec::new());
        for device in &io.devices {
            let (major, minor) = (device.major, device.minor);
            bytes.push(entry(major, minor, "Read", device.read_bytes));
            bytes.push(entry(major, minor, "Write", device.write_bytes));
            requests.push(entry(major, minor, "Read", device.reads));
            requests.push(entry(major, minor, "Write", device.writes));
        }
        data["blkio"] =
            json!({ "ioServiceBytesRecursive": bytes, "ioServicedRecursive": requests });
    }
    for page in &stats.hugetlb {
        data["hugetlb"][&page.page_size] =
            json!({ "usage": page.usage, "max": page.peak.unwrap_or(0), "failcnt": 0 });
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_limits_are_none() {
        let memory = cgroup::MemoryStats { usage: 5, ..cgroup::MemoryStats::default() };
        let pids = cgroup::PidsStats { current: 2, limit: None };
        let stats = Stats { memory: Some(memory), pids: Some(pids), ..Stats::default() };
        let data = data(&stats);
        assert_eq!(data["memory"]["usage"]["limit"], u64::MAX);
        assert_eq!(data["pids"], json!({ "current": 2, "limit": 0 }));
        assert_eq!(data["cpu"], json!({}));
    }
}
