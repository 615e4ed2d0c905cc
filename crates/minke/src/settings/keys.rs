//! The table of all keys.

use toml::Value;
use toml::de::DeValue;

use super::Settings;
use super::value::Field;

/// One key of the configuration.
pub(super) struct Key {
    /// `section.key`, or the key alone at the top.
    pub(super) name: &'static str,
    /// What it is for, in lines of at most 96 characters.
    pub(super) doc: &'static str,
    /// What stands in the default file where the default is to leave the key out.
    pub(super) example: &'static str,
    /// Puts a value into the settings, or says what is expected.
    pub(super) set: fn(&mut Settings, &DeValue<'_>) -> Result<(), String>,
    /// Takes the value out of them.
    pub(super) show: fn(&Settings) -> Option<Value>,
}

impl Key {
    /// The section's name, empty at the top, and the key's within it.
    pub(super) fn parts(&self) -> (&'static str, &'static str) {
        self.name.split_once('.').unwrap_or(("", self.name))
    }
}

/// What a section is about, in its order.
pub(super) const SECTIONS: [(&str, &str); 6] = [
    ("", ""),
    ("log", "What is told on standard error."),
    ("streaming", "The server that `kubectl exec`, `attach` and `port-forward` are led to."),
    ("network", "The built-in pod network: a bridge, and an address from a subnet for each pod."),
    ("images", "Pulling and keeping images."),
    ("runtime", "Pods and containers."),
];

macro_rules! keys {
    ($($name:literal $(= $example:literal)? => $($field:ident).+ : $($doc:literal)+;)*) => {
        /// Every key there is, by section.
        pub(super) const KEYS: &[Key] = &[$(Key {
            name: $name,
            doc: concat!($($doc, "\n"),+),
            example: concat!($($example)?),
            set: |settings, value| {
                settings.$($field).+ = Field::read(value)?;
                Ok(())
            },
            show: |settings| Field::show(&settings.$($field).+),
        }),*];
    };
}

keys! {
    "root" => root:
        "Directory of all that survives a reboot: images, and what containers have written.";
    "state" => state:
        "Directory of all that does not: records of pods, their sockets. Best on a tmpfs.";
    "socket" => socket:
        "The unix socket at which the Container Runtime Interface is served.";

    "log.level" => log.level:
        "How much is told: error, warn, info, debug or trace. Each pod and container that comes or"
        "goes is told at info, every request at debug.";
    "log.format" => log.format:
        "text for people, json for machines: one object a line.";

    "streaming.address" => streaming.address:
        "The address that it listens on. The API server reaches it through the kubelet of this node,"
        "so the loopback one is enough.";
    "streaming.port" => streaming.port:
        "The port; 0 takes any that is free.";
    "streaming.idle_timeout" => streaming.idle_timeout:
        "A session on which nothing moves for this long is closed.";

    "network.subnets" => network.subnets:
        "Subnets of the pods' addresses, at most one of IPv4 and one of IPv6. An empty list takes what"
        "Kubernetes says (the node's pod CIDR), and until then one that overlaps no route of the host.";
    "network.wait_for_pod_cidr" => network.wait_for_pod_cidr:
        "Whether to be not ready, instead of choosing a subnet, until Kubernetes says one.";
    "network.mtu" = "1500" => network.mtu:
        "The MTU of the pods' interfaces. Without it, that of the default route's interface.";
    "network.bridge_prefix" => network.bridge_prefix:
        "The bridge is named by this and the first number that is free, at most 6 letters.";

    "network.netns_dir" => network.netns_dir:
        "Directory in which the pods' network namespaces can be entered, as `ip netns` does.";

    "images.max_concurrent_downloads" => images.max_concurrent_downloads:
        "How many layers of one image are fetched at a time.";
    "images.discard_layers" => images.discard_layers:
        "Whether to delete a layer's compressed form once it is unpacked. It saves a third of the space;"
        "such images cannot be exported, and a layer that the disk damages has to be pulled again.";
    "images.pinned_images" => images.pinned_images:
        "Images that the kubelet must never remove to free space: names, where * stands for any text.";
    "images.certs_dirs" => images.certs_dirs:
        "Directories with <host>/hosts.toml: mirrors, CAs and client certificates of registries, in"
        "containerd's format. The first directory that knows a host wins. They are read at every pull.";
    "images.docker_config" = "\"/root/.docker/config.json\"" => images.docker_config:
        "A Docker config.json with credentials for pulls that bring none of their own.";
    "images.connect_timeout" => images.connect_timeout:
        "How long connecting to a registry may take, unless its hosts.toml says otherwise.";
    "images.stall_timeout" => images.stall_timeout:
        "A transfer that brings not one byte for this long is broken off and taken up again.";

    "runtime.handlers" => runtime.handlers:
        "Names by which a RuntimeClass may ask for this runtime. No name is always possible.";
    "runtime.unset_seccomp_profile" => runtime.unset_seccomp_profile:
        "What holds a container that asks for no seccomp profile: Unconfined or RuntimeDefault.";
    "runtime.drain_exec_io" => runtime.drain_exec_io:
        "How long an exec waits, after its process has ended, for children that keep its output open.";
    "runtime.unprivileged_ports" => runtime.unprivileged_ports:
        "Whether a pod's processes may bind ports below 1024 without a capability.";
    "runtime.unprivileged_icmp" => runtime.unprivileged_icmp:
        "Whether a pod's processes may ping without a capability.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_belong_to_a_section() {
        for (i, key) in KEYS.iter().enumerate() {
            assert!(KEYS[..i].iter().all(|other| other.name != key.name), "{}", key.name);
            let (section, _) = key.parts();
            assert!(SECTIONS.iter().any(|(name, _)| *name == section), "{}", key.name);
            assert!(key.doc.lines().all(|line| line.len() <= 98), "{}", key.name);
        }
    }

    #[test]
    fn a_key_without_a_default_has_an_example() {
        let settings = Settings::default();
        for key in KEYS {
            assert_eq!((key.show)(&settings).is_none(), !key.example.is_empty(), "{}", key.name);
            if !key.example.is_empty() {
                let example = DeValue::parse(key.example).unwrap();
                (key.set)(&mut settings.clone(), example.get_ref()).unwrap();
            }
        }
    }
}
