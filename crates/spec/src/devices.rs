use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup};

use crate::{DeviceNode, Error, Request};

/// The device nodes that the container finds, and what its device cgroup allows beside the nodes
/// that every container has: nothing, the granted ones, or, privileged, all.
pub(crate) fn devices(
    request: &Request<'_>,
) -> Result<(Vec<LinuxDevice>, Vec<LinuxDeviceCgroup>), Error> {
    let mut nodes = Vec::new();
    let mut rules = vec![rule(false, None, "rwm")];
    for (index, granted) in request.devices.iter().enumerate() {
        check(index, &granted.permissions)?;
        nodes.push(device(&granted.node));
        rules.push(rule(true, Some(&granted.node), &granted.permissions));
    }
    if request.container.security.privileged {
        // A device that was asked for by a path of its own keeps it; the host's follow.
        let taken: Vec<_> = nodes.iter().map(|node: &LinuxDevice| node.path().clone()).collect();
        let host = request.node.devices.iter().filter(|node| !taken.contains(&node.path));
        nodes.extend(host.map(device));
        rules = vec![rule(true, None, "rwm")];
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

fn rule(allow: bool, node: Option<&DeviceNode>, access: &str) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(allow)
        .set_typ(node.map(|node| node.kind))
        .set_major(node.map(|node| i64::from(node.major)))
        .set_minor(node.map(|node| i64::from(node.minor)))
        .set_access(Some(access.to_owned()));
    rule
}
