//! cgroup v1: one directory for each controller.

use std::path::PathBuf;

use super::{Source, number_in, pairs};
use crate::{
    Cgroup, Controller, CpuStats, Error, HugetlbStats, IoDevice, IoStats, MemoryStats, PidsStats,
    Stats, SwapStats, file,
};

/// `cpuacct.stat` counts in these, whatever the kernel's own tick is (USER_HZ).
const NANOSECONDS_PER_TICK: u64 = 10_000_000;

/// Limits at or above this mean none: the kernel rounds the largest number to its page size.
const UNLIMITED: u64 = 1 << 62;

#[derive(Debug)]
pub(super) struct Files {
    cpu: Option<PathBuf>,
    memory: Option<PathBuf>,
    pids: Option<PathBuf>,
    io: Option<PathBuf>,
    hugetlb: Option<PathBuf>,
    cpuacct_usage: Option<Source>,
    cpuacct_stat: Option<Source>,
    memory_usage: Option<Source>,
    memory_stat: Option<Source>,
    pids_current: Option<Source>,
}

impl Files {
    pub(super) fn open(cgroup: &Cgroup) -> Result<Self, Error> {
        let procs = cgroup.census()?.join("cgroup.procs");
        rustix::fs::access(&procs, rustix::fs::Access::EXISTS)
            .map_err(|errno| Error::read(&procs, errno))?;
        let open = |controller, name| match cgroup.directory(controller) {
            Some(directory) => Source::open(&directory, name),
            None => Ok(None),
        };
        Ok(Self {
            cpu: cgroup.directory(Controller::Cpu),
            memory: cgroup.directory(Controller::Memory),
            pids: cgroup.directory(Controller::Pids),
            io: cgroup.directory(Controller::Io),
            hugetlb: cgroup.directory(Controller::Hugetlb),
            cpuacct_usage: open(Controller::Cpuacct, "cpuacct.usage")?,
            cpuacct_stat: open(Controller::Cpuacct, "cpuacct.stat")?,
            memory_usage: open(Controller::Memory, "memory.usage_in_bytes")?,
            memory_stat: open(Controller::Memory, "memory.stat")?,
            pids_current: open(Controller::Pids, "pids.current")?,
        })
    }

    pub(super) fn read(&self, hugepage_sizes: &[String]) -> Result<Stats, Error> {
        let mut stats = Stats { cpu: self.cpu()?, io: self.io()?, ..Stats::default() };
        if let (Some(usage), Some(stat)) = (&self.memory_usage, &self.memory_stat) {
            stats.memory = Some(self.memory(usage.number()?, &stat.text()?)?);
        }
        if let (Some(current), Some(directory)) = (&self.pids_current, &self.pids) {
            let limit = number_in(directory, "pids.max")?;
            stats.pids = Some(PidsStats { current: current.number()?, limit });
        }
        for (size, directory) in hugepage_sizes.iter().zip(self.hugetlb.iter().cycle()) {
            let number = |file: &str| number_in(directory, &format!("hugetlb.{size}.{file}"));
            if let Some(usage) = number("usage_in_bytes")? {
                let peak = number("max_usage_in_bytes")?;
                stats.hugetlb.push(HugetlbStats { page_size: size.clone(), usage, peak });
            }
        }
        Ok(stats)
    }

    fn cpu(&self) -> Result<Option<CpuStats>, Error> {
        let Some(usage) = &self.cpuacct_usage else { return Ok(None) };
        let mut cpu = CpuStats { usage_ns: usage.number()?, ..CpuStats::default() };
        if let Some(stat) = &self.cpuacct_stat {
            for (key, ticks) in pairs(&stat.text()?) {
                match key {
                    "user" => cpu.user_ns = ticks.saturating_mul(NANOSECONDS_PER_TICK),
                    "system" => cpu.system_ns = ticks.saturating_mul(NANOSECONDS_PER_TICK),
                    _ => {}
                }
            }
        }
        if let Some(directory) = &self.cpu {
            let text = file::read_if_there(&directory.join("cpu.stat"))?.unwrap_or_default();
            for (key, value) in pairs(&text) {
                match key {
                    "nr_periods" => cpu.periods = value,
                    "nr_throttled" => cpu.throttled_periods = value,
                    "throttled_time" => cpu.throttled_ns = value,
                    _ => {}
                }
            }
        }
        Ok(Some(cpu))
    }

    fn memory(&self, usage: u64, stat: &str) -> Result<MemoryStats, Error> {
        let number = |name| match &self.memory {
            Some(directory) => number_in(directory, name),
            None => Ok(None),
        };
        let limit = number("memory.limit_in_bytes")?.filter(|limit| *limit < UNLIMITED);
        let mut memory = MemoryStats {
            usage,
            peak: number("memory.max_usage_in_bytes")?,
            limit,
            kernel: number("memory.kmem.usage_in_bytes")?.unwrap_or(0),
            limit_hits: number("memory.failcnt")?.unwrap_or(0),
            ..MemoryStats::default()
        };
        if let Some(together) = number("memory.memsw.limit_in_bytes")? {
            // Without a ceiling on memory one on both leaves all of it to swap.
            let limit = (together < UNLIMITED).then(|| together.saturating_sub(limit.unwrap_or(0)));
            memory.swap = Some(SwapStats { usage: 0, limit });
        }
        memory_counts(&mut memory, stat);
        Ok(memory)
    }

    fn io(&self) -> Result<Option<IoStats>, Error> {
        let Some(directory) = &self.io else { return Ok(None) };
        let read =
            |name: &str| file::read_if_there(&directory.join(name)).map(Option::unwrap_or_default);
        let bytes = read("blkio.throttle.io_service_bytes_recursive")?;
        let requests = read("blkio.throttle.io_serviced_recursive")?;
        Ok(Some(IoStats { devices: io(&bytes, &requests), pressure: None }))
    }
}

fn memory_counts(memory: &mut MemoryStats, text: &str) {
    for (key, value) in pairs(text) {
        match key {
            "total_rss" => memory.rss = value,
            "total_cache" => memory.cache = value,
            "total_mapped_file" => memory.mapped_file = value,
            "total_active_file" => memory.active_file = value,
            "total_inactive_file" => memory.inactive_file = value,
            "total_pgfault" => memory.page_faults = value,
            "total_pgmajfault" => memory.major_page_faults = value,
            "total_swap" => {
                if let Some(swap) = &mut memory.swap {
                    swap.usage = value;
                }
            }
            _ => {}
        }
    }
    memory.working_set = memory.usage.saturating_sub(memory.inactive_file);
}

/// Both files have lines of device, operation and number, and a total at the end.
fn io(bytes: &str, requests: &str) -> Vec<IoDevice> {
    let mut devices: Vec<IoDevice> = Vec::new();
    let lines = |text| str::lines(text).filter_map(line);
    for (major, minor, operation, value) in lines(bytes) {
        let device = device(&mut devices, major, minor);
        match operation {
            "Read" => device.read_bytes = value,
            "Write" => device.write_bytes = value,
            _ => {}
        }
    }
    for (major, minor, operation, value) in lines(requests) {
        let device = device(&mut devices, major, minor);
        match operation {
            "Read" => device.reads = value,
            "Write" => device.writes = value,
            _ => {}
        }
    }
    devices
}

fn line(line: &str) -> Option<(u32, u32, &str, u64)> {
    let mut words = line.split(' ');
    let (major, minor) = words.next()?.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?, words.next()?, words.next()?.parse().ok()?))
}

fn device(devices: &mut Vec<IoDevice>, major: u32, minor: u32) -> &mut IoDevice {
    let at = devices.iter().position(|device| (device.major, device.minor) == (major, minor));
    let at = at.unwrap_or_else(|| {
        devices.push(IoDevice { major, minor, ..IoDevice::default() });
        devices.len() - 1
    });
    &mut devices[at]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_joined_from_two_files() {
        let bytes = "8:0 Read 10\n8:0 Write 20\n8:0 Sync 5\n8:0 Total 30\n7:1 Read 1\nTotal 31\n";
        let requests = "8:0 Read 2\n8:0 Write 3\n8:0 Total 5\nTotal 5\n";
        assert_eq!(
            io(bytes, requests),
            [
                IoDevice {
                    major: 8,
                    minor: 0,
                    read_bytes: 10,
                    write_bytes: 20,
                    reads: 2,
                    writes: 3
                },
                IoDevice { major: 7, minor: 1, read_bytes: 1, ..IoDevice::default() },
            ]
        );
    }

    #[test]
    fn children_are_counted_in() {
        let mut memory = MemoryStats { usage: 100, ..MemoryStats::default() };
        memory.swap = Some(SwapStats::default());
        memory_counts(
            &mut memory,
            "rss 1\ninactive_file 2\ntotal_rss 10\ntotal_inactive_file 30\ntotal_swap 4\n",
        );
        assert_eq!((memory.rss, memory.working_set), (10, 70));
        assert_eq!(memory.swap.map(|swap| swap.usage), Some(4));
    }
}
