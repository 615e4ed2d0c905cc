//! From views of the model to the wire.

mod container;
mod event;
mod image;
mod metrics;
mod pod;
mod stats;

pub(crate) use container::{container, container_status};
pub(crate) use event::event;
pub(crate) use image::{filesystem, image, image_info};
pub(crate) use metrics::{descriptors, pod_metrics};
pub(crate) use pod::{pod, pod_status};
pub(crate) use stats::{container_stats, pod_stats};

use std::collections::BTreeMap;

use cri_proto::runtime::v1;
use model::{HugepageLimit, IdMapping, Resources};

/// What a verbose answer carries: one JSON text under `info`, where tools look for it.
pub(crate) fn info(value: &serde_json::Value) -> BTreeMap<String, String> {
    BTreeMap::from([("info".to_owned(), value.to_string())])
}

fn count(value: u64) -> Option<v1::UInt64Value> {
    Some(v1::UInt64Value { value })
}

fn id_mappings(ranges: &[IdMapping]) -> Vec<v1::IdMapping> {
    let range = |range: &IdMapping| v1::IdMapping {
        host_id: range.host_id,
        container_id: range.container_id,
        length: range.length,
    };
    ranges.iter().map(range).collect()
}

fn resources(limits: &Resources) -> v1::LinuxContainerResources {
    let hugepages = |limit: &HugepageLimit| v1::HugepageLimit {
        page_size: limit.page_size.clone(),
        limit: limit.limit,
    };
    v1::LinuxContainerResources {
        cpu_period: limits.cpu_period,
        cpu_quota: limits.cpu_quota,
        cpu_shares: limits.cpu_shares,
        memory_limit_in_bytes: limits.memory_limit,
        oom_score_adj: limits.oom_score_adj,
        cpuset_cpus: limits.cpuset_cpus.clone(),
        cpuset_mems: limits.cpuset_mems.clone(),
        hugepage_limits: limits.hugepage_limits.iter().map(hugepages).collect(),
        unified: limits.unified.clone(),
        memory_swap_limit_in_bytes: limits.memory_swap_limit,
    }
}
