use std::collections::BTreeMap;

use model::{IpcMode, NetworkMode, PodSpec};

use crate::Error;

const PORT_START: &str = "net.ipv4.ip_unprivileged_port_start";
const PING_RANGE: &str = "net.ipv4.ping_group_range";

/// The kernel parameters of the pod's namespaces, by dotted name: those asked for, and the two that
/// let a process without privileges listen on any port and ping. On the host's network neither is
/// set; in a user namespace the second is not, as it takes groups that are not mapped.
///
/// # Errors
/// A parameter of a namespace that the pod shares with the host, or of no namespace at all, would
/// change the node: it is refused as `linux.sysctls[name]`.
pub fn pod_sysctls(pod: &PodSpec) -> Result<BTreeMap<String, String>, Error> {
    let modes = &pod.security.namespaces;
    let own_network = modes.network == NetworkMode::Pod;
    let mut sysctls = BTreeMap::new();
    for (name, value) in &pod.sysctls {
        let refuse = |reason| Err(Error::invalid(format!("linux.sysctls[{name}]"), reason));
        let Some(dotted) = dotted(name) else { return refuse("is not the name of a sysctl") };
        match scope(&dotted) {
            Scope::Network if !own_network => {
                return refuse("cannot be set for a pod on the host's network");
            }
            Scope::Uts if !own_network => {
                return refuse("cannot be set for a pod that has the host's name");
            }
            Scope::Ipc if modes.ipc == IpcMode::Node => {
                return refuse("cannot be set for a pod that shares the host's IPC");
            }
            Scope::Hostname => return refuse("is set through the pod's hostname"),
            Scope::Host => return refuse("belongs to no namespace, so it would change the node"),
            Scope::Network | Scope::Ipc | Scope::Uts => {}
        }
        if value.contains('\0') {
            return refuse("has a NUL byte in its value");
        }
        sysctls.insert(dotted, value.clone());
    }
    if own_network {
        let mut default = |name: &str, value: &str| {
            sysctls.entry(name.to_owned()).or_insert_with(|| value.to_owned());
        };
        default(PORT_START, "0");
        if modes.user.is_none() {
            default(PING_RANGE, "0 2147483647");
        }
    }
    Ok(sysctls)
}

enum Scope {
    Network,
    Ipc,
    Uts,
    Hostname,
    Host,
}

fn scope(name: &str) -> Scope {
    const IPC: [&str; 4] = ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."];
    match name {
        "kernel.hostname" => Scope::Hostname,
        "kernel.domainname" => Scope::Uts,
        _ if name.starts_with("net.") => Scope::Network,
        _ if IPC.iter().any(|prefix| name.starts_with(prefix)) => Scope::Ipc,
        _ => Scope::Host,
    }
}

/// sysctl(8) takes both separators; the first one found is the separator, and the other is then part
/// of a name, an interface `eth0.5` for instance. In the dotted form such a dot is a slash.
fn dotted(name: &str) -> Option<String> {
    let slashed = name.find(['.', '/']).is_some_and(|at| name[at..].starts_with('/'));
    let swap = |letter| match letter {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    let dotted: String = if slashed { name.chars().map(swap).collect() } else { name.to_owned() };
    let sound = |part: &str| {
        let letter = |c: char| c.is_ascii_alphanumeric() || "-_/@:".contains(c);
        !part.is_empty() && part.chars().all(letter) && !part.split('/').any(str::is_empty)
    };
    (dotted.contains('.') && dotted.split('.').all(sound)).then_some(dotted)
}

#[cfg(test)]
mod tests {
    use model::UserNamespace;

    use super::*;

    fn pod(name: &str) -> PodSpec {
        let sysctls = BTreeMap::from([(name.to_owned(), "1".to_owned())]);
        PodSpec { sysctls, ..PodSpec::default() }
    }

    #[test]
    fn defaults_follow_the_namespaces() {
        let mut pod = PodSpec::default();
        assert_eq!(pod_sysctls(&pod).unwrap().len(), 2);
        pod.security.namespaces.user = Some(UserNamespace { uids: vec![], gids: vec![] });
        assert!(!pod_sysctls(&pod).unwrap().contains_key(PING_RANGE));
        pod.security.namespaces.network = NetworkMode::Node;
        assert_eq!(pod_sysctls(&pod).unwrap().len(), 0);
    }

    #[test]
    fn both_separators_mean_the_same() {
        let own = pod_sysctls(&pod("net/ipv4/conf/eth0.5/forwarding")).unwrap();
        assert_eq!(own["net.ipv4.conf.eth0/5.forwarding"], "1");
        assert_eq!(pod_sysctls(&pod(PORT_START)).unwrap()[PORT_START], "1");
    }

    #[test]
    fn what_would_change_the_node_is_refused() {
        let names =
            ["kernel.panic", "vm.swappiness", "kernel.hostname", "net", "net..x", "", "net.a b"];
        for name in names {
            let error = pod_sysctls(&pod(name)).unwrap_err();
            assert_eq!(error.field(), format!("linux.sysctls[{name}]"));
        }
        for bad in ["net.ipv4/../../kernel.panic", "net/../kernel/panic", "../net.x"] {
            assert!(pod_sysctls(&pod(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn shared_namespaces_are_left_alone() {
        let mut network = pod("net.core.somaxconn");
        let mut ipc = pod("kernel.shm_rmid_forced");
        assert!(pod_sysctls(&network).is_ok() && pod_sysctls(&ipc).is_ok());
        network.security.namespaces.network = NetworkMode::Node;
        ipc.security.namespaces.ipc = IpcMode::Node;
        assert!(pod_sysctls(&network).is_err() && pod_sysctls(&ipc).is_err());
    }
}
