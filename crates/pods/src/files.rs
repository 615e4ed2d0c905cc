//! The files that a pod's containers see as /etc/hostname, /etc/hosts and /etc/resolv.conf.

use std::fs;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use model::{DnsConfig, NetworkMode, PodSpec};

use crate::error::Error;
use crate::record;

/// Writes the files below `dir`, once per pod, and names them.
///
/// Containers may write to them, so they are world-readable files of their own, bind-mounted; the
/// directory above them is private.
pub(crate) fn write(dir: &Path, spec: &PodSpec) -> Result<spec::PodFiles, Error> {
    let host_network = spec.security.namespaces.network == NetworkMode::Node;
    let hostname = match spec.hostname.as_str() {
        "" if host_network => host_file("/etc/hostname")?,
        name => format!("{name}\n"),
    };
    let resolv_conf = match &spec.dns {
        Some(dns) => resolv_conf(dns),
        None => host_file("/etc/resolv.conf")?,
    };
    Ok(spec::PodFiles {
        hostname: Some(file(dir, "hostname", &hostname)?),
        hosts: Some(file(dir, "hosts", &host_file("/etc/hosts")?)?),
        resolv_conf: Some(file(dir, "resolv.conf", &resolv_conf)?),
        shm: None,
    })
}

/// Names the files that [`write`] wrote for an earlier daemon.
pub(crate) fn existing(dir: &Path) -> spec::PodFiles {
    spec::PodFiles {
        hostname: Some(dir.join("hostname")),
        hosts: Some(dir.join("hosts")),
        resolv_conf: Some(dir.join("resolv.conf")),
        shm: None,
    }
}

fn host_file(path: &str) -> Result<String, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(record::file(Path::new(path), "read")(error)),
    }
}

fn file(dir: &Path, name: &str, text: &str) -> Result<PathBuf, Error> {
    use std::io::Write;
    let path = dir.join(name);
    let write = || {
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o644).open(&path)?;
        // The daemon's umask may be tighter than what a container's user needs to read.
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
        file.write_all(text.as_bytes())
    };
    write().map_err(record::file(&path, "written"))?;
    Ok(path)
}

/// resolv.conf(5) of a pod.
fn resolv_conf(dns: &DnsConfig) -> String {
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text.push_str(&format!("search {}\n", dns.searches.join(" ")));
    }
    for server in &dns.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !dns.options.is_empty() {
        text.push_str(&format!("options {}\n", dns.options.join(" ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_has_a_line_for_each_thing_asked() {
        let dns = DnsConfig {
            servers: vec!["10.10.10.10".into(), "::1".into()],
            searches: vec!["a.example".into(), "b.example".into()],
            options: vec!["ndots:8".into()],
        };
        assert_eq!(
            resolv_conf(&dns),
            "search a.example b.example\nnameserver 10.10.10.10\nnameserver ::1\noptions ndots:8\n"
        );
        assert_eq!(resolv_conf(&DnsConfig::default()), "");
    }
}
