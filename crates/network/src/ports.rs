//! Which pod has which host port.

use std::collections::HashMap;
use std::net::IpAddr;

use model::{PodId, PortMapping, Protocol};

use crate::attachment::Assigned;
use crate::error::{Error, Result};

/// A host port that leads to a pod's address and port, for one IP version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) protocol: Protocol,
    /// The host's address; none is every address of the pod's IP version.
    pub(crate) host_ip: Option<IpAddr>,
    pub(crate) host_port: u16,
    pub(crate) pod_ip: IpAddr,
    pub(crate) pod_port: u16,
}

/// The host ports of all pods. A port that one pod has on every address is taken on each.
#[derive(Debug, Default)]
pub(crate) struct Ports(HashMap<(Protocol, u16), Vec<Taken>>);

#[derive(Debug)]
struct Taken {
    pod: PodId,
    label: String,
    host_ip: Option<IpAddr>,
}

impl Ports {
    /// Takes ports for a pod, all or none.
    pub(crate) fn take(&mut self, pod: &PodId, label: &str, ports: &[PortMapping]) -> Result<()> {
        for (i, port) in ports.iter().enumerate() {
            let key = (port.protocol, port.host_port);
            let taken = self.0.entry(key).or_default();
            let conflict = taken.iter().find(|taken| overlap(taken.host_ip, port.host_ip));
            // A pod may not map one port twice either, unless it repeats itself.
            if let Some(conflict) = conflict
                && !(conflict.pod == *pod && ports[..i].contains(port))
            {
                let error = Error::PortTaken {
                    port: port.host_port,
                    protocol: port.protocol,
                    owner: conflict.label.clone(),
                    pod: conflict.pod.clone(),
                };
                self.give_back(pod, ports);
                return Err(error);
            }
            let label = label.to_owned();
            taken.push(Taken { pod: pod.clone(), label, host_ip: port.host_ip });
        }
        Ok(())
    }

    /// Makes a pod's ports free again.
    pub(crate) fn give_back(&mut self, pod: &PodId, ports: &[PortMapping]) {
        for port in ports {
            let key = (port.protocol, port.host_port);
            if let Some(taken) = self.0.get_mut(&key) {
                taken.retain(|taken| taken.pod != *pod);
                if taken.is_empty() {
                    self.0.remove(&key);
                }
            }
        }
    }
}

/// What a pod's ports mean for its addresses. An unspecified host address, `0.0.0.0` or `::`, is
/// every address of its IP version; a specific one of a version the pod does not have is an error.
pub(crate) fn mappings(addresses: &[Assigned], ports: &[PortMapping]) -> Result<Vec<Mapping>> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for port in ports {
        let before = mappings.len();
        for pod_ip in addresses.iter().map(|address| address.ip) {
            if port.host_ip.is_none_or(|host_ip| host_ip.is_ipv6() == pod_ip.is_ipv6()) {
                mappings.push(Mapping {
                    protocol: port.protocol,
                    host_ip: port.host_ip.filter(|ip| !ip.is_unspecified()),
                    host_port: port.host_port,
                    pod_ip,
                    pod_port: port.container_port,
                });
            }
        }
        if let Some(host_ip) = port.host_ip
            && mappings.len() == before
        {
            return Err(Error::HostAddress {
                port: port.host_port,
                protocol: port.protocol,
                host_ip,
            });
        }
    }
    mappings.dedup();
    Ok(mappings)
}

fn overlap(a: Option<IpAddr>, b: Option<IpAddr>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => {
            a == b || a.is_ipv6() == b.is_ipv6() && (a.is_unspecified() || b.is_unspecified())
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subnet::Subnet;

    fn pod(n: u8) -> PodId {
        PodId::from_random([n; 32])
    }

    fn port(host_port: u16, host_ip: &str) -> PortMapping {
        PortMapping {
            protocol: Protocol::Tcp,
            container_port: 80,
            host_port,
            host_ip: host_ip.parse().ok(),
        }
    }

    #[test]
    fn a_taken_port_names_its_owner_and_takes_nothing() {
        let mut ports = Ports::default();
        ports.take(&pod(1), "default/first", &[port(80, "")]).unwrap();
        let both = [port(81, ""), port(80, "127.0.0.1")];
        let error = ports.take(&pod(2), "default/second", &both).unwrap_err().to_string();
        assert!(error.contains("80/tcp") && error.contains("default/first"), "{error}");
        ports.take(&pod(3), "default/third", &[port(81, "")]).unwrap();
        ports.give_back(&pod(1), &[port(80, "")]);
        ports.take(&pod(2), "default/second", &[port(80, "")]).unwrap();
    }

    #[test]
    fn ports_on_different_addresses_live_together() {
        let mut ports = Ports::default();
        ports.take(&pod(1), "a/a", &[port(80, "10.0.0.1")]).unwrap();
        ports.take(&pod(2), "b/b", &[port(80, "10.0.0.2")]).unwrap();
        ports.take(&pod(3), "c/c", &[port(80, "::")]).unwrap();
        assert!(ports.take(&pod(4), "d/d", &[port(80, "0.0.0.0")]).is_err());
        assert!(ports.take(&pod(4), "d/d", &[port(80, "fd00::1")]).is_err());
    }

    #[test]
    fn a_pod_may_repeat_a_mapping_but_not_contradict_itself() {
        let mut ports = Ports::default();
        ports.take(&pod(1), "a/a", &[port(80, ""), port(80, "")]).unwrap();
        let mut other = port(90, "");
        other.container_port = 81;
        assert!(ports.take(&pod(2), "b/b", &[port(90, ""), other]).is_err());
    }

    #[test]
    fn mappings_follow_the_ip_versions() {
        let addresses = ["10.0.0.0/24", "fd00::/64"].map(|text| {
            let subnet: Subnet = text.parse().unwrap();
            Assigned { ip: subnet.nth(2), subnet, gateway: subnet.gateway() }
        });
        let count = |ip| mappings(&addresses, &[port(80, ip)]).unwrap().len();
        assert_eq!((count(""), count("0.0.0.0"), count("::1")), (2, 1, 1));
        let only4 = mappings(&addresses[..1], &[port(80, "fd00::9")]);
        assert!(matches!(only4, Err(Error::HostAddress { .. })));
    }
}
