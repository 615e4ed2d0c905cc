//! What each crate below wants to know, out of the settings; settings themselves stop here.

use std::sync::Arc;

use rustix::system::uname;

use crate::failure::Failure;
use crate::settings::{SeccompDefault, Settings};

/// The oldest kernel that minke is tested on.
const OLDEST_KERNEL: (&str, (u32, u32)) = ("6.1", (6, 1));

/// The first kernel whose tmpfs can be id-mapped: before it, pods with a user namespace could not
/// have Secrets.
const USER_NAMESPACES: (u32, u32) = (6, 3);

impl Settings {
    fn registry(&self) -> registry::Config {
        registry::Config {
            certs_dirs: self.images.certs_dirs.clone(),
            docker_config: self.images.docker_config.clone(),
            connect_timeout: self.images.connect_timeout,
            stall_timeout: self.images.stall_timeout,
            ..registry::Config::default()
        }
    }

    fn images(&self) -> images::Config {
        images::Config {
            root: self.root.join("images"),
            max_concurrent_downloads: self.images.max_concurrent_downloads.into(),
            discard_layers: self.images.discard_layers,
            pinned: self.images.pinned_images.clone(),
        }
    }

    /// What the network is made from.
    pub(crate) fn network(&self) -> network::Config {
        network::Config {
            bridge_prefix: self.network.bridge_prefix.clone(),
            subnets: self.network.subnets.clone(),
            mtu: self.network.mtu,
            wait_for_pod_cidr: self.network.wait_for_pod_cidr,
            state_dir: self.root.join("network"),
            netns_dir: self.network.netns_dir.clone(),
        }
    }

    fn pods(&self) -> pods::Config {
        pods::Config {
            state: self.state.clone(),
            root: self.root.clone(),
            seccomp_by_default: self.runtime.unset_seccomp_profile
                == SeccompDefault::RuntimeDefault,
            handlers: self.runtime.handlers.clone(),
            drain: self.runtime.drain_exec_io,
            unprivileged_ports: self.runtime.unprivileged_ports,
            unprivileged_icmp: self.runtime.unprivileged_icmp,
            keeper_protocol: None,
        }
    }

    /// Limits of the streaming server.
    pub(crate) fn streaming(&self) -> streaming::Config {
        streaming::Config {
            idle_timeout: self.streaming.idle_timeout,
            ..streaming::Config::default()
        }
    }

    /// What Status tells of this node.
    pub(crate) fn node(&self, cgroups: &cgroup::Hierarchy) -> cri::Node {
        let file = crate::settings::effective_file(self);
        cri::Node {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            handlers: self.runtime.handlers.clone(),
            user_namespaces: user_namespaces(),
            apparmor: std::fs::read("/sys/module/apparmor/parameters/enabled")
                .is_ok_and(|text| text.starts_with(b"Y")),
            selinux: std::path::Path::new("/sys/fs/selinux/enforce").exists(),
            hugetlb: cgroups.features().has(cgroup::Controller::Hugetlb),
            unified: cgroups.features().version == cgroup::Version::V2,
            settings: toml::from_str(&file).unwrap_or(serde_json::Value::Null),
        }
    }
}

/// Refuses a kernel that lacks what minke is built on.
pub(crate) fn check_kernel() -> Result<(), Failure> {
    let (needed, oldest) = OLDEST_KERNEL;
    let (found, version) = kernel();
    if version < oldest {
        return Err(Failure::Kernel { needed, found });
    }
    sys::feature::probe().map_err(Failure::Feature)
}

/// Whether pods can have user namespaces, or why not.
fn user_namespaces() -> Result<(), String> {
    let (found, version) = kernel();
    if version < USER_NAMESPACES {
        let needed = "this kernel cannot map the ids of all volumes: Linux 6.3 is needed";
        return Err(format!("{needed}, this is {found}"));
    }
    sys::feature::user_namespaces().map_err(|missing| missing.to_string())
}

/// The running kernel's release and the first two numbers of it.
fn kernel() -> (String, (u32, u32)) {
    let release = uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    (release, version)
}

/// The cgroups of this machine.
pub(crate) fn cgroups() -> Result<cgroup::Hierarchy, Failure> {
    cgroup::Hierarchy::detect().map_err(Failure::Cgroups)
}

/// Images and their layers.
pub(crate) fn image_store(settings: &Settings) -> Result<images::Store, images::Error> {
    images::Store::open(settings.images(), registry::Registry::new(settings.registry()))
}

/// Takes over what an earlier daemon left: images, network, pods.
pub(crate) async fn open(
    settings: &Settings,
    cgroups: cgroup::Hierarchy,
    keeper_protocol: Option<u32>,
) -> Result<(pods::Runtime, Arc<images::Store>), Failure> {
    let images = Arc::new(image_store(settings).map_err(Failure::Images)?);
    let network = network::Network::open(settings.network()).await.map_err(Failure::Network)?;
    let config = pods::Config { keeper_protocol, ..settings.pods() };
    let parts = pods::Parts {
        images: Arc::clone(&images),
        network: Arc::new(network),
        cgroups,
        seed: keeper::Seed::start().await.map_err(Failure::Seed)?,
    };
    let pods = pods::Runtime::open(config, parts).await.map_err(Failure::Pods)?;
    Ok((pods, images))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_has_a_version() {
        let (release, version) = kernel();
        assert!(version.0 >= 5, "{release}");
        assert!(release.starts_with(&format!("{}.{}", version.0, version.1)));
    }

    #[test]
    fn a_verbose_status_shows_the_settings() {
        let node = Settings::default().node(&cgroup::Hierarchy::detect().unwrap());
        assert_eq!(node.settings["log"]["level"], "info");
        assert_eq!(node.settings["root"], "/var/lib/minke");
    }
}
