//! The kernel's network settings that a router of pods' packets needs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

const ROOT: &str = "/proc/sys/net";

/// Makes the host forward packets of an IP version; true if it did not do so before.
///
/// A host that forwards IPv6 stops believing router advertisements, its own default route often
/// among them. Interfaces that believed them are told to go on before forwarding is turned on.
pub(crate) fn forward(ipv6: bool) -> Result<bool> {
    let setting = if ipv6 { "ipv6/conf/all/forwarding" } else { "ipv4/ip_forward" };
    if get(setting)? != "0" {
        return Ok(false);
    }
    if ipv6 {
        for interface in interfaces() {
            let accept_ra = format!("ipv6/conf/{interface}/accept_ra");
            if get(&accept_ra).is_ok_and(|value| value == "1") {
                set(&accept_ra, "2")?;
            }
        }
    }
    set(setting, "1")?;
    Ok(true)
}

/// Whether this kernel has IPv6 at all.
pub(crate) fn has_ipv6() -> bool {
    Path::new(ROOT).join("ipv6").exists()
}

/// The bridge believes no router advertisement: a pod could send one.
pub(crate) fn distrust_routers(bridge: &str) -> Result<()> {
    if has_ipv6() { set(&format!("ipv6/conf/{bridge}/accept_ra"), "0") } else { Ok(()) }
}

/// Packets of 127.0.0.1 may cross the bridge, so that host ports answer there.
pub(crate) fn route_localnet(bridge: &str) -> Result<()> {
    set(&format!("ipv4/conf/{bridge}/route_localnet"), "1")
}

fn get(setting: &str) -> Result<String> {
    let path = path(setting);
    match fs::read_to_string(&path) {
        Ok(value) => Ok(value.trim().to_owned()),
        Err(source) => Err(Error::File { action: "read", path, source }),
    }
}

fn set(setting: &str, value: &str) -> Result<()> {
    let path = path(setting);
    fs::write(&path, value).map_err(|source: io::Error| Error::File {
        action: "write",
        path,
        source,
    })
}

fn path(setting: &str) -> PathBuf {
    Path::new(ROOT).join(setting)
}

fn interfaces() -> Vec<String> {
    let Ok(entries) = fs::read_dir(path("ipv6/conf")) else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| name != "all" && name != "default" && name != "lo").collect()
}
