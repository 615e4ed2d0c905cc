//! Device nodes and links below /dev.

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Spec};

use super::Error;
use super::process::absolute;
use crate::plan::{Device, IdRange, Link, Node, NodeKind, UserNamespace};

/// What every container has: name, major, minor.
const DEFAULT: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

const LINKS: [(&str, &str); 6] = [
    ("/dev/ptmx", "pts/ptmx"),
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/core", "/proc/kcore"),
];

/// The nodes and links that a container gets: none where its /dev is one of the host's directories,
/// which would receive them.
pub(super) fn devices(
    spec: &Spec,
    user: Option<&UserNamespace>,
) -> Result<(Vec<Device>, Vec<Link>), Error> {
    if dev_is_bound(spec) {
        return Ok((Vec::new(), Vec::new()));
    }
    let owners = Owners(user);
    let mut devices = Vec::new();
    let wanted = spec.linux().as_ref().and_then(|linux| linux.devices().as_ref());
    for device in wanted.into_iter().flatten() {
        devices.push(owners.device(device)?);
    }
    let (uid, gid) = (owners.uid(0)?, owners.gid(0)?);
    for (name, major, minor) in DEFAULT {
        let path = format!("/dev/{name}");
        if !devices.iter().any(|device: &Device| device.path == path) {
            let kind = NodeKind::Character;
            let node = Node::Make { kind, major, minor, mode: 0o666, uid, gid };
            devices.push(Device { path, node });
        }
    }
    let link = |(path, target): (&str, &str)| Link { path: path.into(), target: target.into() };
    Ok((devices, LINKS.map(link).into()))
}

fn dev_is_bound(spec: &Spec) -> bool {
    spec.mounts().iter().flatten().any(|mount| {
        let bind = |option: &String| option == "bind" || option == "rbind";
        let bound =
            mount.typ().as_deref() == Some("bind") || mount.options().iter().flatten().any(bind);
        bound && mount.destination().components().eq(std::path::Path::new("/dev").components())
    })
}

/// Translates the container's numbers into the host's.
struct Owners<'a>(Option<&'a UserNamespace>);

impl Owners<'_> {
    fn uid(&self, id: u32) -> Result<u32, Error> {
        self.0.map_or(Some(id), |user| IdRange::outside_of(&user.uids, id)).ok_or_else(|| {
            let reason = format!("user {id} is not mapped in the user namespace");
            Error::spec("linux.devices", reason)
        })
    }

    fn gid(&self, id: u32) -> Result<u32, Error> {
        self.0.map_or(Some(id), |user| IdRange::outside_of(&user.gids, id)).ok_or_else(|| {
            let reason = format!("group {id} is not mapped in the user namespace");
            Error::spec("linux.devices", reason)
        })
    }

    fn device(&self, device: &LinuxDevice) -> Result<Device, Error> {
        let path = absolute("linux.devices", device.path())?;
        let kind = match device.typ() {
            LinuxDeviceType::B => NodeKind::Block,
            LinuxDeviceType::C | LinuxDeviceType::U => NodeKind::Character,
            LinuxDeviceType::P => NodeKind::Pipe,
            LinuxDeviceType::A => {
                return Err(Error::spec("linux.devices", format!("{path} is of no type")));
            }
        };
        let number = |number: i64| {
            let wrong = |_| Error::spec("linux.devices", format!("{path} has the number {number}"));
            u32::try_from(number).map_err(wrong)
        };
        let node = Node::Make {
            kind,
            major: number(device.major())?,
            minor: number(device.minor())?,
            mode: device.file_mode().unwrap_or(0o666) & 0o7777,
            uid: self.uid(device.uid().unwrap_or(0))?,
            gid: self.gid(device.gid().unwrap_or(0))?,
        };
        Ok(Device { path, node })
    }
}
