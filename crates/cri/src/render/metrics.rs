//! The metrics of the kubelet's `/metrics/cadvisor` endpoint, by cAdvisor's names and labels.
//!
//! One table: what is described is what is given. Values are whole numbers, so times are full
//! seconds.

use cri_proto::runtime::v1;
use cri_proto::runtime::v1::MetricType::{self, Counter, Gauge};
use model::{ContainerState, Timestamp};
use network::InterfaceStats;
use pods::{ContainerStats, ContainerView, FileSystem, Holdings, PodStats};

use super::count;

/// The labels that every metric has, in their order.
const LABELS: [&str; 5] = ["pod", "namespace", "container", "id", "image"];

/// Values, each with the labels that it has beside the common ones.
type Values = Vec<(Vec<String>, u64)>;

/// One family over what `S` tells. A value that the kernel does not tell is left out.
struct Family<S> {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    /// Labels beside the common ones.
    labels: &'static [&'static str],
    /// What there is of it.
    values: fn(&S) -> Values,
}

macro_rules! families {
    ($type:ty: $($name:literal $kind:ident [$($label:literal),*] $help:literal = $values:expr;)*) => {
        &[$(Family::<$type> {
            name: $name,
            help: $help,
            kind: $kind,
            labels: &[$($label),*],
            values: $values,
        }),*]
    };
}

const SECOND: u64 = 1_000_000_000;

fn one(value: Option<u64>) -> Values {
    value.map(|value| (Vec::new(), value)).into_iter().collect()
}

fn cpu(stats: &ContainerStats, of: fn(&cgroup::CpuStats) -> u64) -> Values {
    one(stats.cgroup.as_ref().and_then(|used| used.cpu.as_ref()).map(of))
}

fn memory(stats: &ContainerStats, of: fn(&cgroup::MemoryStats) -> Option<u64>) -> Values {
    one(stats.cgroup.as_ref().and_then(|used| used.memory.as_ref()).and_then(of))
}

fn faults(stats: &ContainerStats) -> Values {
    let Some(memory) = stats.cgroup.as_ref().and_then(|used| used.memory.as_ref()) else {
        return Vec::new();
    };
    // A container's cgroup has no others below it but those of its execs, which it counts itself.
    let kinds = [("pgfault", memory.page_faults), ("pgmajfault", memory.major_page_faults)];
    kinds
        .into_iter()
        .flat_map(|(kind, faults)| {
            let labels = |scope: &str| vec![kind.to_owned(), scope.to_owned()];
            [(labels("container"), faults), (labels("hierarchy"), faults)]
        })
        .collect()
}

fn io(stats: &ContainerStats, of: fn(&cgroup::IoDevice) -> u64) -> Values {
    let devices = stats.cgroup.as_ref().and_then(|used| used.io.as_ref());
    let devices = devices.map(|io| io.devices.as_slice()).unwrap_or_default();
    devices
        .iter()
        .map(|device| (vec![format!("{}:{}", device.major, device.minor)], of(device)))
        .collect()
}

/// Bytes and requests together, as cAdvisor names them.
fn block_devices(stats: &ContainerStats) -> Values {
    let devices = stats.cgroup.as_ref().and_then(|used| used.io.as_ref());
    let devices = devices.map(|io| io.devices.as_slice()).unwrap_or_default();
    let device = |device: &cgroup::IoDevice| {
        let (major, minor) = (device.major.to_string(), device.minor.to_string());
        [("Read", device.read_bytes), ("Write", device.write_bytes)].map(|(operation, bytes)| {
            let name = format!("{major}:{minor}");
            (vec![name, major.clone(), minor.clone(), operation.to_owned()], bytes)
        })
    };
    devices.iter().flat_map(device).collect()
}

/// Of the file system under the writable layer.
fn filesystem(stats: &ContainerStats, of: fn(&FileSystem) -> Option<u64>) -> Values {
    let Some(filesystem) = &stats.filesystem else { return Vec::new() };
    let value = of(filesystem).map(|value| (vec![filesystem.device.clone()], value));
    value.into_iter().collect()
}

fn written(stats: &ContainerStats) -> Values {
    let (Some(filesystem), Some(layer)) = (&stats.filesystem, &stats.writable_layer) else {
        return Vec::new();
    };
    vec![(vec![filesystem.device.clone()], layer.bytes)]
}

fn holdings(stats: &ContainerStats, of: fn(&Holdings) -> Option<u64>) -> Values {
    one(stats.holdings.as_ref().and_then(of))
}

fn descriptors_max(stats: &ContainerStats) -> Values {
    let limit = stats.holdings.as_ref().and_then(|held| held.descriptors_max);
    limit.map(|limit| (vec!["max_open_files".to_owned()], limit)).into_iter().collect()
}

fn huge_pages(stats: &ContainerStats, of: fn(&cgroup::HugetlbStats) -> Option<u64>) -> Values {
    let sizes = stats.cgroup.as_ref().map(|used| used.hugetlb.as_slice()).unwrap_or_default();
    let size = |pages: &cgroup::HugetlbStats| Some((vec![pages.page_size.clone()], of(pages)?));
    sizes.iter().filter_map(size).collect()
}

/// Seconds lost waiting for a resource, where the kernel keeps them for each cgroup.
fn waited(
    stats: &ContainerStats,
    pressure: fn(&cgroup::Stats) -> Option<cgroup::Pressure>,
    stall: fn(&cgroup::Pressure) -> cgroup::Stall,
) -> Values {
    let pressure = stats.cgroup.as_ref().and_then(pressure);
    one(pressure.map(|pressure| stall(&pressure).total_ns / SECOND))
}

fn cpu_pressure(used: &cgroup::Stats) -> Option<cgroup::Pressure> {
    used.cpu.as_ref()?.pressure
}

fn memory_pressure(used: &cgroup::Stats) -> Option<cgroup::Pressure> {
    used.memory.as_ref()?.pressure
}

fn io_pressure(used: &cgroup::Stats) -> Option<cgroup::Pressure> {
    used.io.as_ref()?.pressure
}

fn started(stats: &ContainerStats) -> Option<u64> {
    let at = match &stats.container.state {
        ContainerState::Created => return None,
        ContainerState::Running { started_at } | ContainerState::Exited { started_at, .. } => {
            started_at
        }
    };
    Some(seconds(*at))
}

fn seconds(at: Timestamp) -> u64 {
    u64::try_from(at.0).unwrap_or(0) / SECOND
}

/// A limit as it was set; nothing where there is none.
fn limit(stats: &ContainerStats, of: fn(&model::Resources) -> i64) -> Values {
    one(u64::try_from(of(&stats.container.resources)).ok().filter(|limit| *limit != 0))
}

const CONTAINER: &[Family<ContainerStats>] = families! { ContainerStats:
    "container_cpu_usage_seconds_total" Counter [] "Processor time used, in seconds."
        = |stats| cpu(stats, |cpu| cpu.usage_ns / SECOND);
    "container_cpu_user_seconds_total" Counter [] "Processor time used in user mode, in seconds."
        = |stats| cpu(stats, |cpu| cpu.user_ns / SECOND);
    "container_cpu_system_seconds_total" Counter [] "Processor time used in the kernel, in seconds."
        = |stats| cpu(stats, |cpu| cpu.system_ns / SECOND);
    "container_cpu_cfs_periods_total" Counter [] "Periods of the CPU quota in which it ran."
        = |stats| cpu(stats, |cpu| cpu.periods);
    "container_cpu_cfs_throttled_periods_total" Counter [] "Periods in which the quota was used up."
        = |stats| cpu(stats, |cpu| cpu.throttled_periods);
    "container_cpu_cfs_throttled_seconds_total" Counter [] "Seconds held back by the quota."
        = |stats| cpu(stats, |cpu| cpu.throttled_ns / SECOND);
    "container_memory_usage_bytes" Gauge [] "Memory charged, page cache included."
        = |stats| memory(stats, |memory| Some(memory.usage));
    "container_memory_working_set_bytes" Gauge [] "Memory without inactive file pages."
        = |stats| memory(stats, |memory| Some(memory.working_set));
    "container_memory_rss" Gauge [] "Anonymous memory."
        = |stats| memory(stats, |memory| Some(memory.rss));
    "container_memory_cache" Gauge [] "Page cache."
        = |stats| memory(stats, |memory| Some(memory.cache));
    "container_memory_swap" Gauge [] "Swap in use."
        = |stats| memory(stats, |memory| memory.swap.map(|swap| swap.usage));
    "container_memory_mapped_file" Gauge [] "File pages that are mapped."
        = |stats| memory(stats, |memory| Some(memory.mapped_file));
    "container_memory_kernel_usage" Gauge [] "Memory of the kernel on its behalf."
        = |stats| memory(stats, |memory| Some(memory.kernel));
    "container_memory_max_usage_bytes" Gauge [] "The most memory there ever was."
        = |stats| memory(stats, |memory| memory.peak);
    "container_memory_failcnt" Counter [] "How often the memory limit was hit."
        = |stats| memory(stats, |memory| Some(memory.limit_hits));
    "container_memory_total_active_file_bytes" Gauge [] "File pages in use."
        = |stats| memory(stats, |memory| Some(memory.active_file));
    "container_memory_total_inactive_file_bytes" Gauge [] "File pages not in use."
        = |stats| memory(stats, |memory| Some(memory.inactive_file));
    "container_memory_failures_total" Counter ["failure_type", "scope"] "Page faults." = faults;
    "container_fs_reads_bytes_total" Counter ["device"] "Bytes read from block devices."
        = |stats| io(stats, |device| device.read_bytes);
    "container_fs_reads_total" Counter ["device"] "Reads from block devices."
        = |stats| io(stats, |device| device.reads);
    "container_fs_writes_bytes_total" Counter ["device"] "Bytes written to block devices."
        = |stats| io(stats, |device| device.write_bytes);
    "container_fs_writes_total" Counter ["device"] "Writes to block devices."
        = |stats| io(stats, |device| device.writes);
    "container_blkio_device_usage_total" Counter ["device", "major", "minor", "operation"]
        "Bytes read from and written to block devices." = block_devices;
    "container_fs_usage_bytes" Gauge ["device"] "Bytes of the writable layer." = written;
    "container_fs_limit_bytes" Gauge ["device"] "The size of the file system under it."
        = |stats| filesystem(stats, |filesystem| Some(filesystem.bytes));
    "container_fs_inodes_total" Gauge ["device"] "Inodes of that file system."
        = |stats| filesystem(stats, |filesystem| Some(filesystem.inodes));
    "container_fs_inodes_free" Gauge ["device"] "Unused inodes of that file system."
        = |stats| filesystem(stats, |filesystem| Some(filesystem.inodes_free));
    "container_hugetlb_usage_bytes" Gauge ["pagesize"] "Huge pages in use."
        = |stats| huge_pages(stats, |pages| Some(pages.usage));
    "container_hugetlb_max_usage_bytes" Gauge ["pagesize"] "The most huge pages there ever were."
        = |stats| huge_pages(stats, |pages| pages.peak);
    "container_pressure_cpu_waiting_seconds_total" Counter [] "Seconds in which some waited for a CPU."
        = |stats| waited(stats, cpu_pressure, |pressure| pressure.some);
    "container_pressure_cpu_stalled_seconds_total" Counter [] "Seconds in which all waited for a CPU."
        = |stats| waited(stats, cpu_pressure, |pressure| pressure.full);
    "container_pressure_memory_waiting_seconds_total" Counter []
        "Seconds in which some waited for memory."
        = |stats| waited(stats, memory_pressure, |pressure| pressure.some);
    "container_pressure_memory_stalled_seconds_total" Counter []
        "Seconds in which all waited for memory."
        = |stats| waited(stats, memory_pressure, |pressure| pressure.full);
    "container_pressure_io_waiting_seconds_total" Counter [] "Seconds in which some waited for a disk."
        = |stats| waited(stats, io_pressure, |pressure| pressure.some);
    "container_pressure_io_stalled_seconds_total" Counter [] "Seconds in which all waited for a disk."
        = |stats| waited(stats, io_pressure, |pressure| pressure.full);
    "container_oom_events_total" Counter [] "Processes that were killed for want of memory."
        = |stats| holdings(stats, |held| Some(held.oom_kills));
    "container_file_descriptors" Gauge [] "Open file descriptors."
        = |stats| holdings(stats, |held| Some(held.descriptors));
    "container_sockets" Gauge [] "Open sockets." = |stats| holdings(stats, |held| Some(held.sockets));
    "container_ulimits_soft" Gauge ["ulimit"] "Soft limits of the first process."
        = descriptors_max;
    "container_processes" Gauge [] "Processes." = |stats| one(Some(stats.processes));
    "container_threads" Gauge [] "Threads." = |stats| one(Some(stats.threads));
    "container_threads_max" Gauge [] "The limit on threads; 0 is none."
        = |stats| one(
            stats.cgroup.as_ref().and_then(|used| used.pids).map(|pids| pids.limit.unwrap_or(0))
        );
    "container_start_time_seconds" Gauge [] "When it was started, in seconds since 1970."
        = |stats| one(started(stats));
    "container_last_seen" Gauge [] "When this was read, in seconds since 1970."
        = |stats| one(Some(seconds(stats.at)));
    "container_spec_cpu_period" Gauge [] "The period of the CPU quota, in microseconds."
        = |stats| limit(stats, |limits| limits.cpu_period);
    "container_spec_cpu_quota" Gauge [] "The CPU quota, in microseconds per period."
        = |stats| limit(stats, |limits| limits.cpu_quota);
    "container_spec_cpu_shares" Gauge [] "The CPU weight."
        = |stats| limit(stats, |limits| limits.cpu_shares);
    "container_spec_memory_limit_bytes" Gauge [] "The memory limit."
        = |stats| limit(stats, |limits| limits.memory_limit);
    "container_spec_memory_reservation_limit_bytes" Gauge [] "Memory that is not taken away."
        = |stats| one(
            stats.container.resources.unified.get("memory.low").and_then(|low| low.parse().ok())
        );
    "container_spec_memory_swap_limit_bytes" Gauge [] "The limit on memory and swap together."
        = |stats| limit(stats, |limits| limits.memory_swap_limit);
};

fn each(stats: &[InterfaceStats], of: fn(&InterfaceStats) -> u64) -> Values {
    stats.iter().map(|interface| (vec![interface.name.clone()], of(interface))).collect()
}

const POD: &[Family<Vec<InterfaceStats>>] = families! { Vec<InterfaceStats>:
    "container_network_receive_bytes_total" Counter ["interface"] "Bytes received."
        = |stats| each(stats, |interface| interface.rx_bytes);
    "container_network_receive_packets_total" Counter ["interface"] "Packets received."
        = |stats| each(stats, |interface| interface.rx_packets);
    "container_network_receive_errors_total" Counter ["interface"] "Receive errors."
        = |stats| each(stats, |interface| interface.rx_errors);
    "container_network_receive_packets_dropped_total" Counter ["interface"]
        "Packets that came and were dropped."
        = |stats| each(stats, |interface| interface.rx_dropped);
    "container_network_transmit_bytes_total" Counter ["interface"] "Bytes sent."
        = |stats| each(stats, |interface| interface.tx_bytes);
    "container_network_transmit_packets_total" Counter ["interface"] "Packets sent."
        = |stats| each(stats, |interface| interface.tx_packets);
    "container_network_transmit_packets_dropped_total" Counter ["interface"]
        "Packets that were to be sent and were dropped."
        = |stats| each(stats, |interface| interface.tx_dropped);
    "container_network_transmit_errors_total" Counter ["interface"] "Transmit errors."
        = |stats| each(stats, |interface| interface.tx_errors);
};

/// Every family that [`pod_metrics`] can give.
pub(crate) fn descriptors() -> Vec<v1::MetricDescriptor> {
    fn described<S>(family: &Family<S>) -> v1::MetricDescriptor {
        let labels = LABELS.iter().chain(family.labels);
        v1::MetricDescriptor {
            name: family.name.to_owned(),
            help: family.help.to_owned(),
            label_keys: labels.map(|label| (*label).to_owned()).collect(),
        }
    }
    CONTAINER.iter().map(described).chain(POD.iter().map(described)).collect()
}

/// The metrics of a pod and of its containers.
pub(crate) fn pod_metrics(stats: &PodStats) -> v1::PodSandboxMetrics {
    let metadata = &stats.pod.spec.metadata;
    let labels = |container: &str, id: &str, image: &str| {
        [&metadata.name, &metadata.namespace, container, id, image].map(str::to_owned)
    };
    let id = stats.pod.id.as_str();
    let of_container = |container: &ContainerStats| {
        let view = &container.container;
        let labels = labels(&view.spec.metadata.name, view.id.as_str(), image_of(view));
        v1::ContainerMetrics {
            container_id: view.id.to_string(),
            metrics: rendered(CONTAINER, container, &labels, container.at),
        }
    };
    v1::PodSandboxMetrics {
        pod_sandbox_id: id.to_owned(),
        metrics: rendered(POD, &stats.interfaces, &labels("", id, ""), stats.at),
        container_metrics: stats.containers.iter().map(of_container).collect(),
    }
}

fn image_of(view: &ContainerView) -> &str {
    match view.spec.image.user_specified_image.as_str() {
        "" => &view.spec.image.image,
        written => written,
    }
}

fn rendered<S>(
    families: &[Family<S>],
    stats: &S,
    labels: &[String],
    at: Timestamp,
) -> Vec<v1::Metric> {
    let family = |family: &Family<S>| {
        let (name, kind) = (family.name, family.kind);
        let metric = move |(own, value): (Vec<String>, u64)| v1::Metric {
            name: name.to_owned(),
            timestamp: at.0,
            metric_type: kind.into(),
            label_values: labels.iter().cloned().chain(own).collect(),
            value: count(value),
        };
        (family.values)(stats).into_iter().map(metric).collect::<Vec<_>>()
    };
    families.iter().flat_map(family).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn what_is_given_is_described_with_as_many_labels() {
        let keys: HashMap<_, _> =
            descriptors().into_iter().map(|d| (d.name, d.label_keys.len())).collect();
        assert_eq!(keys.len(), CONTAINER.len() + POD.len(), "a name is there twice");
        let interface = InterfaceStats {
            name: "eth0".into(),
            rx_bytes: 1,
            rx_errors: 2,
            rx_packets: 3,
            rx_dropped: 7,
            tx_bytes: 4,
            tx_errors: 5,
            tx_packets: 6,
            tx_dropped: 8,
        };
        let labels = LABELS.map(str::to_owned);
        let metrics = rendered(POD, &vec![interface], &labels, Timestamp(9));
        assert_eq!(metrics.len(), POD.len());
        for metric in &metrics {
            assert_eq!(keys[&metric.name], metric.label_values.len(), "{}", metric.name);
        }
        let sum: u64 = metrics.iter().map(|metric| metric.value.unwrap().value).sum();
        assert_eq!(sum, 36, "each counter is given once");
    }
}
