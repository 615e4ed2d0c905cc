use crate::Request;

const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
    "/proc/scsi",
];

const READONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The paths that the container cannot see: the caller's list, else the default one with this
/// machine's thermal counters. A privileged container sees all.
pub(crate) fn masked(request: &Request<'_>) -> Option<Vec<String>> {
    let security = &request.container.security;
    if security.privileged {
        return None;
    }
    Some(security.masked_paths.clone().unwrap_or_else(|| {
        let thermal = request.node.thermal_throttle.iter();
        let fixed = MASKED.iter().map(|path| (*path).to_owned());
        fixed.chain(thermal.map(|path| path.to_string_lossy().into_owned())).collect()
    }))
}

/// The paths that the container can only read: the caller's list, else the default one.
pub(crate) fn readonly(request: &Request<'_>) -> Option<Vec<String>> {
    let security = &request.container.security;
    if security.privileged {
        return None;
    }
    let default = || READONLY.iter().map(|path| (*path).to_owned()).collect();
    Some(security.readonly_paths.clone().unwrap_or_else(default))
}
