use cri_proto::runtime::v1;
use model::{DnsConfig, PodMetadata, PodSpec, PortMapping, Protocol};

use super::{Invalid, absolute, invalid, known, named, no_nul, no_parent, required, security};
use crate::parse::resources;

/// The kernel's limit on a host name (uname(2)).
const HOSTNAME_BYTES: usize = 64;

/// Everything that a caller asks of a pod.
pub(crate) fn pod_spec(
    config: Option<v1::PodSandboxConfig>,
    runtime_handler: String,
) -> Result<PodSpec, Invalid> {
    let v1::PodSandboxConfig {
        metadata,
        hostname,
        log_directory,
        dns_config,
        port_mappings,
        labels,
        annotations,
        linux,
        windows: _,
    } = required("config", config)?;
    check_hostname(&hostname)?;
    let port = |(i, port)| port_mapping(&format!("port_mappings[{i}]"), port);
    let pod = PodSpec {
        metadata: pod_metadata(metadata)?,
        hostname,
        log_directory: log_directory_of(log_directory)?,
        dns: dns_config.map(dns).transpose()?,
        ports: port_mappings.into_iter().enumerate().map(port).collect::<Result<_, _>>()?,
        labels,
        annotations,
        runtime_handler,
        ..PodSpec::default()
    };
    linux_part(pod, linux.unwrap_or_default())
}

fn linux_part(pod: PodSpec, linux: v1::LinuxPodSandboxConfig) -> Result<PodSpec, Invalid> {
    let v1::LinuxPodSandboxConfig {
        cgroup_parent,
        security_context,
        sysctls,
        overhead,
        resources: sum,
    } = linux;
    let context = security_context.unwrap_or_default();
    Ok(PodSpec {
        cgroup_parent: cgroup_parent_of(cgroup_parent)?,
        security: security::sandbox("linux.security_context", context)?,
        sysctls,
        overhead: overhead.map(|limits| resources("linux.overhead", limits)).transpose()?,
        resources: sum.map(|limits| resources("linux.resources", limits)).transpose()?,
        ..pod
    })
}

fn pod_metadata(metadata: Option<v1::PodSandboxMetadata>) -> Result<PodMetadata, Invalid> {
    let v1::PodSandboxMetadata { name, uid, namespace, attempt } = required("metadata", metadata)?;
    named("metadata.name", &name)?;
    Ok(PodMetadata { name, uid, namespace, attempt })
}

fn check_hostname(name: &str) -> Result<(), Invalid> {
    no_nul("hostname", name)?;
    if name.len() > HOSTNAME_BYTES {
        let reason = format!("has {} bytes, the kernel takes {HOSTNAME_BYTES}", name.len());
        return Err(invalid("hostname", reason));
    }
    if name.contains(|c: char| c.is_whitespace() || c == '/') {
        return Err(invalid("hostname", format!("{name:?} is not a host name")));
    }
    Ok(())
}

fn log_directory_of(path: String) -> Result<Option<String>, Invalid> {
    if path.is_empty() {
        return Ok(None);
    }
    absolute("log_directory", &path)?;
    no_parent("log_directory", &path)?;
    Ok(Some(path))
}

/// A path in the cgroup hierarchy. A kubelet whose driver is systemd sends slices: as plain directories
/// they would seem to work until systemd removes what it does not know.
fn cgroup_parent_of(path: String) -> Result<Option<String>, Invalid> {
    if path.is_empty() {
        return Ok(None);
    }
    absolute("linux.cgroup_parent", &path)?;
    no_parent("linux.cgroup_parent", &path)?;
    if path.trim_end_matches('/').ends_with(".slice") {
        let reason = format!(
            "{path:?} is a systemd slice, but minke's driver is cgroupfs: set cgroupDriver: cgroupfs in \
             the kubelet's configuration"
        );
        return Err(invalid("linux.cgroup_parent", reason));
    }
    Ok(Some(path))
}

/// The words become words of resolv.conf(5), so none may begin another word or line.
fn dns(config: v1::DnsConfig) -> Result<DnsConfig, Invalid> {
    let v1::DnsConfig { servers, searches, options } = config;
    let lists = [("servers", &servers), ("searches", &searches), ("options", &options)];
    for (list, words) in lists {
        for (i, word) in words.iter().enumerate() {
            if word.is_empty() || word.contains(|c: char| c.is_whitespace() || c.is_control()) {
                let reason = format!("{word:?} is not one word");
                return Err(invalid(format!("dns_config.{list}[{i}]"), reason));
            }
        }
    }
    Ok(DnsConfig { servers, searches, options })
}

fn port_mapping(field: &str, mapping: v1::PortMapping) -> Result<PortMapping, Invalid> {
    let v1::PortMapping { protocol, container_port, host_port, host_ip } = mapping;
    let at = |name: &str| format!("{field}.{name}");
    let protocol = match known(&at("protocol"), protocol)? {
        v1::Protocol::Tcp => Protocol::Tcp,
        v1::Protocol::Udp => Protocol::Udp,
        v1::Protocol::Sctp => Protocol::Sctp,
    };
    let port = |name: &str, value: i32| {
        u16::try_from(value)
            .map_err(|_| invalid(at(name), format!("{value} is not a port from 0 to 65535")))
    };
    let (container_port, host_port) =
        (port("container_port", container_port)?, port("host_port", host_port)?);
    if host_port != 0 && container_port == 0 {
        return Err(invalid(at("container_port"), "is required with host_port"));
    }
    let host_ip = match host_ip.as_str() {
        "" => None,
        text => Some(
            text.parse()
                .map_err(|_| invalid(at("host_ip"), format!("{text:?} is not an IP address")))?,
        ),
    };
    Ok(PortMapping { protocol, container_port, host_port, host_ip })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> v1::PodSandboxConfig {
        let metadata = v1::PodSandboxMetadata {
            name: "web".into(),
            uid: "u".into(),
            namespace: "default".into(),
            attempt: 0,
        };
        v1::PodSandboxConfig { metadata: Some(metadata), ..Default::default() }
    }

    fn refused(change: impl FnOnce(&mut v1::PodSandboxConfig)) -> String {
        let mut config = config();
        change(&mut config);
        pod_spec(Some(config), String::new()).unwrap_err().field
    }

    fn linux(change: impl FnOnce(&mut v1::LinuxPodSandboxConfig)) -> String {
        refused(|config| change(config.linux.get_or_insert_default()))
    }

    fn port(container: i32, host: i32, ip: &str) -> v1::PortMapping {
        v1::PortMapping {
            protocol: 0,
            container_port: container,
            host_port: host,
            host_ip: ip.into(),
        }
    }

    #[test]
    fn a_plain_pod_is_taken() {
        let config = v1::PodSandboxConfig {
            hostname: "web".into(),
            log_directory: "/var/log/pods/web".into(),
            port_mappings: vec![port(80, 8080, "::1"), port(81, 0, "")],
            linux: Some(v1::LinuxPodSandboxConfig {
                cgroup_parent: "/kubepods/podu".into(),
                ..Default::default()
            }),
            ..config()
        };
        let pod = pod_spec(Some(config), "minke".into()).unwrap();
        assert_eq!((pod.hostname.as_str(), pod.runtime_handler.as_str()), ("web", "minke"));
        assert_eq!(pod.ports[0].host_ip, Some(std::net::Ipv6Addr::LOCALHOST.into()));
        assert_eq!(pod.cgroup_parent.as_deref(), Some("/kubepods/podu"));
        assert_eq!(pod.dns, None);
    }

    #[test]
    fn each_field_that_cannot_be_honoured_is_named() {
        assert_eq!(pod_spec(None, String::new()).unwrap_err().field, "config");
        assert_eq!(refused(|c| c.metadata = None), "metadata");
        assert_eq!(refused(|c| c.metadata = Some(Default::default())), "metadata.name");
        for name in [&"h".repeat(65), "a b", "a\0", "a/b"] {
            assert_eq!(refused(|c| c.hostname = name.into()), "hostname", "{name}");
        }
        assert_eq!(refused(|c| c.log_directory = "logs".into()), "log_directory");
        assert_eq!(refused(|c| c.log_directory = "/a/../b".into()), "log_directory");
        assert_eq!(linux(|l| l.cgroup_parent = "pods.slice".into()), "linux.cgroup_parent");
        assert_eq!(linux(|l| l.cgroup_parent = "/a/..".into()), "linux.cgroup_parent");
        assert_eq!(linux(|l| l.cgroup_parent = "/a.slice/b.slice/".into()), "linux.cgroup_parent");
        let negative =
            || Some(v1::LinuxContainerResources { cpu_shares: -1, ..Default::default() });
        assert_eq!(linux(|l| l.overhead = negative()), "linux.overhead.cpu_shares");
        assert_eq!(linux(|l| l.resources = negative()), "linux.resources.cpu_shares");
        let words = |bad: &str| vec!["8.8.8.8".to_owned(), bad.to_owned()];
        for bad in ["", "a b", "a\nnameserver b"] {
            let dns = v1::DnsConfig { servers: words(bad), ..Default::default() };
            assert_eq!(refused(|c| c.dns_config = Some(dns)), "dns_config.servers[1]");
            let dns = v1::DnsConfig { searches: words(bad), ..Default::default() };
            assert_eq!(refused(|c| c.dns_config = Some(dns)), "dns_config.searches[1]");
            let dns = v1::DnsConfig { options: words(bad), ..Default::default() };
            assert_eq!(refused(|c| c.dns_config = Some(dns)), "dns_config.options[1]");
        }
    }

    #[test]
    fn ports_are_checked() {
        let unknown = v1::PortMapping { protocol: 3, ..port(1, 1, "") };
        for (mapping, field) in [
            (port(-1, 0, ""), "container_port"),
            (port(65536, 0, ""), "container_port"),
            (port(0, 80, ""), "container_port"),
            (port(80, -1, ""), "host_port"),
            (port(80, 65536, ""), "host_port"),
            (port(80, 80, "localhost"), "host_ip"),
            (unknown, "protocol"),
        ] {
            let field = format!("port_mappings[0].{field}");
            assert_eq!(refused(|c| c.port_mappings = vec![mapping]), field);
        }
    }
}
