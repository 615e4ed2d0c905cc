//! What this machine is and can do, found out once when the daemon starts.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use model::Device;
use oci_spec::runtime::{Capabilities, Capability, LinuxDeviceType};
use spec::{DeviceNode, GrantedDevice, NodeFacts};

use crate::error::Error;

/// The facts.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) facts: NodeFacts,
}

impl Node {
    /// Looks at the machine.
    pub(crate) fn discover(cgroups: &cgroup::Hierarchy) -> Self {
        let features = cgroups.features();
        let facts = NodeFacts {
            hostname: fs::read_to_string("/proc/sys/kernel/hostname")
                .map(|name| name.trim().to_owned())
                .unwrap_or_default(),
            cgroup_v2: features.version == cgroup::Version::V2,
            cgroup_mount_options: cgroup_mount_options(),
            capabilities: bounding_set(),
            hugetlb: features.has(cgroup::Controller::Hugetlb),
            swap: features.swap,
            // mount_setattr(2) with AT_RECURSIVE is older than the oldest supported kernel.
            recursive_read_only: true,
            thermal_throttle: thermal_throttle(),
            devices: device_nodes(Path::new("/dev")),
        };
        Self { facts }
    }
}

/// The options of /sys/fs/cgroup that a further mount of it would take off.
fn cgroup_mount_options() -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let line = mounts.lines().find(|line| {
        line.split(' ').nth(4) == Some("/sys/fs/cgroup") && line.contains(" - cgroup2 ")
    });
    let options = line.and_then(|line| line.rsplit(' ').next()).unwrap_or_default();
    let kept = ["nsdelegate", "memory_recursiveprot"];
    options.split(',').filter(|option| kept.contains(option)).map(str::to_owned).collect()
}

/// The capabilities of this process' bounding set that the specification has a name for.
fn bounding_set() -> Capabilities {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    let bits = line.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or_default();
    CAPABILITIES
        .iter()
        .enumerate()
        .filter(|(bit, _)| bits & (1 << bit) != 0)
        .map(|(_, capability)| *capability)
        .collect()
}

/// By the kernel's number (capability.h).
const CAPABILITIES: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

fn thermal_throttle() -> Vec<PathBuf> {
    let cpus = fs::read_dir("/sys/devices/system/cpu").into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> =
        cpus.map(|cpu| cpu.path().join("thermal_throttle")).filter(|path| path.exists()).collect();
    paths.sort();
    paths
}

/// The device nodes under `dir`, without what every container has of its own.
fn device_nodes(dir: &Path) -> Vec<DeviceNode> {
    let mut nodes = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
            let own = ["pts", "shm", "mqueue", "fd", "console", ".lxc", ".lxd-mounts", ".udev"];
            if metadata.is_dir() {
                if !own.iter().any(|name| path == Path::new("/dev").join(name)) {
                    dirs.push(path);
                }
            } else if path != Path::new("/dev/console")
                && let Some(node) = device_node(path, &metadata)
            {
                nodes.push(node);
            }
        }
    }
    nodes.sort_by(|a, b| a.path.cmp(&b.path));
    nodes
}

/// The node at `host`, as it is to appear at `path`; none for what is no device.
fn device_node(path: PathBuf, metadata: &fs::Metadata) -> Option<DeviceNode> {
    let kind = metadata.file_type();
    let kind = if kind.is_char_device() {
        LinuxDeviceType::C
    } else if kind.is_block_device() {
        LinuxDeviceType::B
    } else {
        return None;
    };
    Some(DeviceNode {
        path,
        kind,
        major: rustix::fs::major(metadata.rdev()),
        minor: rustix::fs::minor(metadata.rdev()),
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
    })
}

/// Finds the nodes behind a container's device requests: a node, or all nodes below a directory.
pub(crate) fn grant(devices: &[Device]) -> Result<Vec<GrantedDevice>, Error> {
    let mut granted = Vec::new();
    for (number, device) in devices.iter().enumerate() {
        let refuse = |reason: String| Error::Invalid {
            field: format!("devices[{number}].host_path"),
            reason,
        };
        let host = Path::new(&device.host_path);
        let metadata =
            fs::metadata(host).map_err(|error| refuse(format!("{}: {error}", host.display())))?;
        let mut grant = |node: DeviceNode| {
            granted.push(GrantedDevice { node, permissions: device.permissions.clone() });
        };
        let container = PathBuf::from(&device.container_path);
        if let Some(node) = device_node(container.clone(), &metadata) {
            grant(node);
        } else if metadata.is_dir() {
            for mut node in device_nodes(host) {
                if let Ok(below) = node.path.strip_prefix(host) {
                    node.path = container.join(below);
                    grant(node);
                }
            }
        } else {
            return Err(refuse(format!("{} is not a device", host.display())));
        }
    }
    Ok(granted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_granted_under_its_name_in_the_container() {
        let device = |host: &str| Device {
            container_path: "/dev/nothing".into(),
            host_path: host.into(),
            permissions: "rw".into(),
        };
        let granted = grant(&[device("/dev/null")]).unwrap();
        let node = &granted[0].node;
        assert_eq!((node.major, node.minor, node.kind), (1, 3, LinuxDeviceType::C));
        assert_eq!(node.path, Path::new("/dev/nothing"));
        for bad in ["/etc/passwd", "/dev/none-such"] {
            let refused = grant(&[device(bad)]).unwrap_err();
            assert!(refused.to_string().starts_with("devices[0].host_path: "), "{refused}");
        }
    }

    #[test]
    fn the_machine_has_the_common_devices_and_a_bounding_set() {
        let nodes = device_nodes(Path::new("/dev"));
        assert!(nodes.iter().any(|node| node.path == Path::new("/dev/null")));
        assert!(!nodes.iter().any(|node| node.path.starts_with("/dev/pts")));
        assert!(bounding_set().contains(&Capability::Chown));
    }
}
