use cgroup::{CpuStats, MemoryStats, Pressure, Stall, SwapStats};
use cri_proto::runtime::v1;
use network::InterfaceStats;
use pods::{ContainerStats, DiskUsage, PodStats};

use super::{container, count, pod};

/// The interface that the kubelet takes for the pod's own.
const DEFAULT_INTERFACE: &str = "eth0";

/// What a container uses.
pub(crate) fn container_stats(stats: &ContainerStats) -> v1::ContainerStats {
    let (view, at) = (&stats.container, stats.at.0);
    let used = stats.cgroup.as_ref();
    let memory = used.and_then(|used| used.memory.as_ref());
    v1::ContainerStats {
        attributes: Some(v1::ContainerAttributes {
            id: view.id.to_string(),
            metadata: Some(container::metadata(&view.spec.metadata)),
            labels: view.spec.labels.clone(),
            annotations: view.spec.annotations.clone(),
        }),
        cpu: used
            .and_then(|used| used.cpu.as_ref())
            .map(|cpu| cpu_usage(at, cpu, stats.nano_cores)),
        memory: memory.map(|memory| memory_usage(at, memory)),
        writable_layer: stats.writable_layer.as_ref().map(disk_usage),
        swap: memory.and_then(|memory| memory.swap.as_ref()).map(|swap| swap_usage(at, swap)),
        io: used.and_then(|used| used.io.as_ref()).and_then(|io| io_usage(at, io.pressure)),
    }
}

/// What a pod uses.
pub(crate) fn pod_stats(stats: &PodStats) -> v1::PodSandboxStats {
    let (view, at) = (&stats.pod, stats.at.0);
    let used = stats.cgroup.as_ref();
    let linux = v1::LinuxPodSandboxStats {
        cpu: used
            .and_then(|used| used.cpu.as_ref())
            .map(|cpu| cpu_usage(at, cpu, stats.nano_cores)),
        memory: used.and_then(|used| used.memory.as_ref()).map(|memory| memory_usage(at, memory)),
        network: network_usage(at, &stats.interfaces),
        process: Some(v1::ProcessUsage { timestamp: at, process_count: count(stats.processes) }),
        containers: stats.containers.iter().map(container_stats).collect(),
        io: used.and_then(|used| used.io.as_ref()).and_then(|io| io_usage(at, io.pressure)),
    };
    v1::PodSandboxStats {
        attributes: Some(v1::PodSandboxAttributes {
            id: view.id.to_string(),
            metadata: Some(pod::metadata(&view.spec.metadata)),
            labels: view.spec.labels.clone(),
            annotations: view.spec.annotations.clone(),
        }),
        linux: Some(linux),
        windows: None,
    }
}

fn cpu_usage(at: i64, cpu: &CpuStats, nano_cores: Option<u64>) -> v1::CpuUsage {
    v1::CpuUsage {
        timestamp: at,
        usage_core_nano_seconds: count(cpu.usage_ns),
        usage_nano_cores: nano_cores.and_then(count),
        psi: cpu.pressure.map(pressure),
    }
}

fn memory_usage(at: i64, memory: &MemoryStats) -> v1::MemoryUsage {
    v1::MemoryUsage {
        timestamp: at,
        working_set_bytes: count(memory.working_set),
        available_bytes: memory.available().and_then(count),
        usage_bytes: count(memory.usage),
        rss_bytes: count(memory.rss),
        page_faults: count(memory.page_faults),
        major_page_faults: count(memory.major_page_faults),
        psi: memory.pressure.map(pressure),
    }
}

fn swap_usage(at: i64, swap: &SwapStats) -> v1::SwapUsage {
    let available = swap.limit.map(|limit| limit.saturating_sub(swap.usage));
    v1::SwapUsage {
        timestamp: at,
        swap_available_bytes: available.and_then(count),
        swap_usage_bytes: count(swap.usage),
    }
}

fn io_usage(at: i64, waited: Option<Pressure>) -> Option<v1::IoUsage> {
    waited.map(|waited| v1::IoUsage { timestamp: at, psi: Some(pressure(waited)) })
}

fn pressure(pressure: Pressure) -> v1::PsiStats {
    let stall = |stall: Stall| v1::PsiData {
        total: stall.total_ns,
        avg10: stall.avg10,
        avg60: stall.avg60,
        avg300: stall.avg300,
    };
    v1::PsiStats { full: Some(stall(pressure.full)), some: Some(stall(pressure.some)) }
}

fn disk_usage(usage: &DiskUsage) -> v1::FilesystemUsage {
    v1::FilesystemUsage {
        timestamp: usage.at.0,
        fs_id: Some(v1::FilesystemIdentifier { mountpoint: usage.mountpoint.clone() }),
        used_bytes: count(usage.bytes),
        inodes_used: count(usage.inodes),
    }
}

/// The default interface apart from the others; none for a pod on the host's network.
fn network_usage(at: i64, interfaces: &[InterfaceStats]) -> Option<v1::NetworkUsage> {
    let first = interfaces.iter().position(|i| i.name == DEFAULT_INTERFACE).unwrap_or(0);
    let default = interfaces.get(first)?;
    let others = interfaces.iter().enumerate().filter(|(i, _)| *i != first);
    Some(v1::NetworkUsage {
        timestamp: at,
        default_interface: Some(interface_usage(default)),
        interfaces: others.map(|(_, interface)| interface_usage(interface)).collect(),
    })
}

fn interface_usage(interface: &InterfaceStats) -> v1::NetworkInterfaceUsage {
    v1::NetworkInterfaceUsage {
        name: interface.name.clone(),
        rx_bytes: count(interface.rx_bytes),
        rx_errors: count(interface.rx_errors),
        tx_bytes: count(interface.tx_bytes),
        tx_errors: count(interface.tx_errors),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_does_not_tell_is_left_out() {
        let cpu = cpu_usage(5, &CpuStats { usage_ns: 7, ..CpuStats::default() }, None);
        assert_eq!((cpu.timestamp, cpu.usage_nano_cores), (5, None));
        assert_eq!(cpu.usage_core_nano_seconds.unwrap().value, 7);
        let memory = MemoryStats { working_set: 3, ..MemoryStats::default() };
        assert_eq!(memory_usage(5, &memory).available_bytes, None);
        let memory = MemoryStats { limit: Some(10), ..memory };
        assert_eq!(memory_usage(5, &memory).available_bytes.unwrap().value, 7);
        assert_eq!(swap_usage(5, &SwapStats { usage: 1, limit: None }).swap_available_bytes, None);
        assert!(io_usage(5, None).is_none());
        assert!(network_usage(5, &[]).is_none());
    }
}
