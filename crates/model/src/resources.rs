use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A limit on one huge page size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HugepageLimit {
    /// As the kernel names it: `2MB`, `1GB`.
    pub page_size: String,
    /// Bytes.
    pub limit: u64,
}

/// Limits of a container or pod (CRI `LinuxContainerResources`). Zero or absent leaves a value alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// CFS period in microseconds.
    pub cpu_period: i64,
    /// CFS quota in microseconds per period; negative lifts the limit.
    pub cpu_quota: i64,
    /// Relative weight, 2 to 262144.
    pub cpu_shares: i64,
    /// Bytes; negative lifts the limit.
    pub memory_limit: i64,
    /// Bytes of memory and swap together; negative lifts the limit.
    pub memory_swap_limit: i64,
    /// How readily the kernel kills it, -1000 to 1000.
    pub oom_score_adj: i64,
    /// CPUs in list format: `0-2,7`.
    pub cpuset_cpus: String,
    /// Memory nodes in list format.
    pub cpuset_mems: String,
    /// By page size.
    pub hugepage_limits: Vec<HugepageLimit>,
    /// cgroup v2 files by name.
    pub unified: BTreeMap<String, String>,
}
