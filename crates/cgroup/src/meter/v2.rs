//! cgroup v2: one directory.

use std::path::{Path, PathBuf};

use super::{Source, number_in, pairs};
use crate::{
    CpuStats, Error, HugetlbStats, IoDevice, IoStats, MemoryStats, PidsStats, Pressure, Stall,
    Stats, SwapStats, file,
};

#[derive(Debug)]
pub(super) struct Files {
    directory: PathBuf,
    cpu_stat: Option<Source>,
    memory_current: Option<Source>,
    memory_stat: Option<Source>,
    pids_current: Option<Source>,
    io_stat: Option<Source>,
}

impl Files {
    pub(super) fn open(directory: &Path) -> Result<Self, Error> {
        // Every cgroup has this one: without it there is no cgroup.
        let procs = directory.join("cgroup.procs");
        rustix::fs::access(&procs, rustix::fs::Access::EXISTS)
            .map_err(|errno| Error::read(&procs, errno))?;
        let open = |name| Source::open(directory, name);
        Ok(Self {
            cpu_stat: open("cpu.stat")?,
            memory_current: open("memory.current")?,
            memory_stat: open("memory.stat")?,
            pids_current: open("pids.current")?,
            io_stat: open("io.stat")?,
            directory: directory.to_owned(),
        })
    }

    pub(super) fn read(&self, hugepage_sizes: &[String]) -> Result<Stats, Error> {
        let mut stats = Stats::default();
        if let Some(source) = &self.cpu_stat {
            let pressure = self.pressure("cpu.pressure")?;
            stats.cpu = Some(CpuStats { pressure, ..cpu(&source.text()?) });
        }
        if let (Some(current), Some(stat)) = (&self.memory_current, &self.memory_stat) {
            stats.memory = Some(self.memory(current.number()?, &stat.text()?)?);
        }
        if let Some(current) = &self.pids_current {
            let limit = number_in(&self.directory, "pids.max")?;
            stats.pids = Some(PidsStats { current: current.number()?, limit });
        }
        if let Some(source) = &self.io_stat {
            let pressure = self.pressure("io.pressure")?;
            stats.io = Some(IoStats { devices: io(&source.text()?), pressure });
        }
        for size in hugepage_sizes {
            let name = format!("hugetlb.{size}.current");
            if let Some(usage) = number_in(&self.directory, &name)? {
                stats.hugetlb.push(HugetlbStats { page_size: size.clone(), usage, peak: None });
            }
        }
        Ok(stats)
    }

    fn memory(&self, usage: u64, stat: &str) -> Result<MemoryStats, Error> {
        let number = |name| number_in(&self.directory, name);
        let events = file::read_if_there(&self.directory.join("memory.events"))?;
        let swap = match number("memory.swap.current")? {
            Some(usage) => Some(SwapStats { usage, limit: number("memory.swap.max")? }),
            None => None,
        };
        let mut memory = MemoryStats {
            usage,
            peak: number("memory.peak")?,
            limit: number("memory.max")?,
            limit_hits: events.and_then(|text| file::keyed(&text, "max")).unwrap_or(0),
            swap,
            pressure: self.pressure("memory.pressure")?,
            ..MemoryStats::default()
        };
        memory_counts(&mut memory, stat);
        Ok(memory)
    }

    fn pressure(&self, name: &str) -> Result<Option<Pressure>, Error> {
        match file::read_if_there(&self.directory.join(name)) {
            Ok(text) => Ok(text.as_deref().map(pressure)),
            // Compiled in, but switched off when the kernel was started.
            Err(error) if error.errno() == Some(rustix::io::Errno::OPNOTSUPP) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn cpu(text: &str) -> CpuStats {
    let mut cpu = CpuStats::default();
    for (key, value) in pairs(text) {
        match key {
            "usage_usec" => cpu.usage_ns = value.saturating_mul(1000),
            "user_usec" => cpu.user_ns = value.saturating_mul(1000),
            "system_usec" => cpu.system_ns = value.saturating_mul(1000),
            "nr_periods" => cpu.periods = value,
            "nr_throttled" => cpu.throttled_periods = value,
            "throttled_usec" => cpu.throttled_ns = value.saturating_mul(1000),
            _ => {}
        }
    }
    cpu
}

fn memory_counts(memory: &mut MemoryStats, text: &str) {
    let mut kernel = None;
    let mut kernel_parts = 0;
    for (key, value) in pairs(text) {
        match key {
            "anon" => memory.rss = value,
            "file" => memory.cache = value,
            "kernel" => kernel = Some(value),
            "kernel_stack" | "pagetables" | "percpu" | "slab" => kernel_parts += value,
            "file_mapped" => memory.mapped_file = value,
            "active_file" => memory.active_file = value,
            "inactive_file" => memory.inactive_file = value,
            "pgfault" => memory.page_faults = value,
            "pgmajfault" => memory.major_page_faults = value,
            _ => {}
        }
    }
    memory.kernel = kernel.unwrap_or(kernel_parts);
    memory.working_set = memory.usage.saturating_sub(memory.inactive_file);
}

fn io(text: &str) -> Vec<IoDevice> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let (major, minor) = words.next()?.split_once(':')?;
            let (major, minor) = (major.parse().ok()?, minor.parse().ok()?);
            let mut device = IoDevice { major, minor, ..IoDevice::default() };
            for (key, value) in words.filter_map(|word| word.split_once('=')) {
                let value = value.parse().unwrap_or(0);
                match key {
                    "rbytes" => device.read_bytes = value,
                    "wbytes" => device.write_bytes = value,
                    "rios" => device.reads = value,
                    "wios" => device.writes = value,
                    _ => {}
                }
            }
            Some(device)
        })
        .collect()
}

fn pressure(text: &str) -> Pressure {
    let mut pressure = Pressure::default();
    for line in text.lines() {
        let mut words = line.split(' ');
        let stall = match words.next() {
            Some("some") => &mut pressure.some,
            Some("full") => &mut pressure.full,
            _ => continue,
        };
        *stall = stalled(words);
    }
    pressure
}

fn stalled<'a>(words: impl Iterator<Item = &'a str>) -> Stall {
    let mut stall = Stall::default();
    for (key, value) in words.filter_map(|word| word.split_once('=')) {
        let percent = || value.parse().unwrap_or(0.0);
        match key {
            "avg10" => stall.avg10 = percent(),
            "avg60" => stall.avg60 = percent(),
            "avg300" => stall.avg300 = percent(),
            "total" => stall.total_ns = value.parse::<u64>().unwrap_or(0).saturating_mul(1000),
            _ => {}
        }
    }
    stall
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_times_are_nanoseconds() {
        let text = "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 4\nnr_throttled 2\n\
                    throttled_usec 7\nnr_bursts 0\nburst_usec 0\n";
        assert_eq!(
            cpu(text),
            CpuStats {
                usage_ns: 30_000,
                user_ns: 20_000,
                system_ns: 10_000,
                periods: 4,
                throttled_periods: 2,
                throttled_ns: 7000,
                pressure: None,
            }
        );
    }

    #[test]
    fn working_set_never_falls_below_zero() {
        let text = "anon 100\nfile 70\nkernel 12\nfile_mapped 5\ninactive_anon 1\nactive_file 20\n\
                    inactive_file 50\npgfault 9\npgmajfault 1\n";
        let mut memory = MemoryStats { usage: 182, limit: Some(200), ..MemoryStats::default() };
        memory_counts(&mut memory, text);
        assert_eq!((memory.working_set, memory.available()), (132, Some(68)));
        assert_eq!((memory.rss, memory.cache, memory.kernel), (100, 70, 12));
        memory.usage = 10;
        memory_counts(&mut memory, text);
        assert_eq!(memory.working_set, 0);
    }

    #[test]
    fn devices_are_told_apart() {
        let text = "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n7:0 \n254:1 rbytes=9\n";
        let devices = io(text);
        assert_eq!(devices.len(), 3);
        assert_eq!(
            devices[0],
            IoDevice { major: 8, minor: 0, read_bytes: 1, write_bytes: 2, reads: 3, writes: 4 }
        );
        assert_eq!((devices[2].major, devices[2].read_bytes), (254, 9));
    }

    #[test]
    fn pressure_has_two_lines() {
        let text = "some avg10=1.50 avg60=0.25 avg300=0.00 total=1234\n\
                    full avg10=0.00 avg60=0.00 avg300=0.00 total=5\n";
        let pressure = pressure(text);
        assert_eq!(
            pressure.some,
            Stall { avg10: 1.5, avg60: 0.25, avg300: 0.0, total_ns: 1_234_000 }
        );
        assert_eq!(pressure.full.total_ns, 5000);
    }
}
