use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};

use crate::{DeviceNode, Error, Request};

/// What every container may open: null, zero, full, random, urandom, tty, ptmx, and its terminals.
const COMMON: [(u32, Option<u32>); 8] = [
    (1, Some(3)),
    (1, Some(5)),
    (1, Some(7)),
    (1, Some(8)),
    (1, Some(9)),
    (5, Some(0)),
    (5, Some(2)),
    (136, None),
];

/// The device nodes that the container is given beside the common ones, and all that its device
/// cgroup allows: the granted and the common devices, or, privileged, every device. The rules for
/// the common ones stand in the spec, where containerd leaves them to the OCI runtime: so whoever
/// reads the spec sees what is in force, and whoever updates limits cannot lose them.
pub(crate) fn devices(
    request: &Request<'_>,
) -> Result<(Vec<LinuxDevice>, Vec<LinuxDeviceCgroup>), Error> {
    let mut nodes = Vec::new();
    let mut rules = vec![rule(false, None, None, "rwm")];
    for (index, granted) in request.devices.iter().enumerate() {
        check(index, &granted.permissions)?;
        let node = &granted.node;
        nodes.push(device(node));
        let number = (node.major, Some(node.minor));
        rules.push(rule(true, Some(node.kind), Some(number), &granted.permissions));
    }
    // Making a node is harmless where it cannot be opened, and `tar` does it.
    for kind in [LinuxDeviceType::C, LinuxDeviceType::B] {
        rules.push(rule(true, Some(kind), None, "m"));
    }
    rules.extend(COMMON.map(|number| rule(true, Some(LinuxDeviceType::C), Some(number), "rwm")));
    if request.container.security.privileged {
        // A device that was asked for by a path of its own keeps it; the host's follow.
        let taken: Vec<_> = nodes.iter().map(|node: &LinuxDevice| node.path().clone()).collect();
        let host = request.node.devices.iter().filter(|node| !taken.contains(&node.path));
        nodes.extend(host.map(device));
        rules = vec![rule(true, None, None, "rwm")];
    }
    Ok((nodes, rules))
}

fn check(index: usize, permissions: &str) -> Result<(), Error> {
    if !permissions.is_empty() && permissions.chars().all(|letter| "rwm".contains(letter)) {
        return Ok(());
    }
    let reason = format!("{permissions:?} is not made of r, w and m");
    Err(Error::invalid(format!("devices[{index}].permissions"), reason))
}

fn device(node: &DeviceNode) -> LinuxDevice {
    let mut device = LinuxDevice::default();
    device
        .set_path(node.path.clone())
        .set_typ(node.kind)
        .set_major(i64::from(node.major))
        .set_minor(i64::from(node.minor))
        .set_file_mode(Some(node.mode & 0o7777))
        .set_uid(Some(node.uid))
        .set_gid(Some(node.gid));
    device
}

fn rule(
    allow: bool,
    kind: Option<LinuxDeviceType>,
    number: Option<(u32, Option<u32>)>,
    access: &str,
) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(allow)
        .set_typ(kind)
        .set_major(number.map(|(major, _)| i64::from(major)))
        .set_minor(number.and_then(|(_, minor)| minor).map(i64::from))
        .set_access(Some(access.to_owned()));
    rule
}
