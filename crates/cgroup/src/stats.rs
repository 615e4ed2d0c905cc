/// What a cgroup and its children use and have used, at one moment. A part whose controller is not
/// available is absent. Bytes where nothing else is said.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stats {
    /// Processor time.
    pub cpu: Option<CpuStats>,
    /// Memory and swap.
    pub memory: Option<MemoryStats>,
    /// Tasks.
    pub pids: Option<PidsStats>,
    /// Block devices.
    pub io: Option<IoStats>,
    /// Huge pages, by size.
    pub hugetlb: Vec<HugetlbStats>,
}

/// Processor time.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CpuStats {
    /// Nanoseconds in all.
    pub usage_ns: u64,
    /// Of these in user mode.
    pub user_ns: u64,
    /// Of these in the kernel.
    pub system_ns: u64,
    /// Periods of the quota in which it ran.
    pub periods: u64,
    /// Periods in which it used its quota up.
    pub throttled_periods: u64,
    /// Nanoseconds that it was then held back.
    pub throttled_ns: u64,
    /// v2 with PSI.
    pub pressure: Option<Pressure>,
}

/// Memory and swap.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct MemoryStats {
    /// All that is charged, page cache included.
    pub usage: u64,
    /// The most there ever was; none before v2 kernels of 2022.
    pub peak: Option<u64>,
    /// The ceiling; none without.
    pub limit: Option<u64>,
    /// Usage without inactive file pages: what cannot be had back without harm.
    pub working_set: u64,
    /// Anonymous memory.
    pub rss: u64,
    /// Page cache.
    pub cache: u64,
    /// File pages in use.
    pub active_file: u64,
    /// File pages that would go first.
    pub inactive_file: u64,
    /// File pages that are mapped.
    pub mapped_file: u64,
    /// The kernel's own, on its behalf.
    pub kernel: u64,
    /// Page faults.
    pub page_faults: u64,
    /// Page faults that had to read.
    pub major_page_faults: u64,
    /// How often the ceiling was hit. v1 does not count where that on memory with swap is as low.
    pub limit_hits: u64,
    /// Where swap is counted.
    pub swap: Option<SwapStats>,
    /// v2 with PSI.
    pub pressure: Option<Pressure>,
}

impl MemoryStats {
    /// What is left below the ceiling, by working set; none without ceiling.
    #[must_use]
    pub fn available(&self) -> Option<u64> {
        self.limit.map(|limit| limit.saturating_sub(self.working_set))
    }
}

/// Swap.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SwapStats {
    /// In use.
    pub usage: u64,
    /// The ceiling of swap alone; none without.
    pub limit: Option<u64>,
}

/// Tasks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PidsStats {
    /// Threads, not processes.
    pub current: u64,
    /// The ceiling; none without.
    pub limit: Option<u64>,
}

/// Block devices.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct IoStats {
    /// Each device that was used.
    pub devices: Vec<IoDevice>,
    /// v2 with PSI.
    pub pressure: Option<Pressure>,
}

/// What passed to and from one block device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IoDevice {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Read requests.
    pub reads: u64,
    /// Write requests.
    pub writes: u64,
}

/// Huge pages of one size.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HugetlbStats {
    /// As the kernel names it: `2MB`, `1GB`.
    pub page_size: String,
    /// In use.
    pub usage: u64,
    /// The most there ever was; v1 alone tells.
    pub peak: Option<u64>,
}

/// How much time was lost waiting for a resource (PSI).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    /// At least one task waited.
    pub some: Stall,
    /// All tasks that could have run waited.
    pub full: Stall,
}

/// One line of a PSI file.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stall {
    /// Percent of the last 10 seconds.
    pub avg10: f64,
    /// Percent of the last minute.
    pub avg60: f64,
    /// Percent of the last 5 minutes.
    pub avg300: f64,
    /// Nanoseconds in all.
    pub total_ns: u64,
}
