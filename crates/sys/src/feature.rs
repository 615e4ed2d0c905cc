//! Parts that a kernel can be built without, or whose module may not be loaded: how their lack shows,
//! and what cures it.
//!
//! The kernel says of most of them the same as of a wrong argument: `EOPNOTSUPP`, `ENODEV`, `EINVAL`.
//! Who asks for one knows which it was, and turns the number into [`Missing`].

use std::fmt;
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{FsOpenFlags, fsopen};

/// A part of the kernel that minke builds on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feature {
    /// What it is, to a person.
    what: &'static str,
    /// The module that it can be.
    module: Option<&'static str>,
    /// What it is called where kernels are configured.
    option: &'static str,
    /// What the kernel says to who asks for it, where it is not there.
    says: &'static [Errno],
}

/// A feature that this kernel has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missing(&'static Feature);

/// rtnetlink(7) on a kind of link that it does not know.
const NO_LINK: &[Errno] = &[Errno::OPNOTSUPP];
/// fsopen(2) on a file system that it does not know.
const NO_FILESYSTEM: &[Errno] = &[Errno::NODEV];
/// clone(2) and unshare(2); `ENOSPC` where sysctl allows none of them.
const NO_NAMESPACE: &[Errno] = &[Errno::INVAL, Errno::NOSPC];

/// The bridge that joins pods.
pub static BRIDGE: Feature =
    Feature { what: "bridges", module: Some("bridge"), option: "CONFIG_BRIDGE", says: NO_LINK };
/// Pairs of links, one of which goes into the pod.
pub static VETH: Feature =
    Feature { what: "veth links", module: Some("veth"), option: "CONFIG_VETH", says: NO_LINK };
/// The packet filter: no socket of it, or nobody behind the socket.
pub static NFTABLES: Feature = Feature {
    what: "nftables",
    module: Some("nf_tables"),
    option: "CONFIG_NF_TABLES and CONFIG_NF_TABLES_INET",
    says: &[Errno::PROTONOSUPPORT, Errno::OPNOTSUPP, Errno::AFNOSUPPORT],
};
/// Chains and expressions that rewrite addresses; nftables speaks of a kind that it does not find.
pub static NAT: Feature = Feature {
    what: "address translation in nftables",
    module: Some("nft_chain_nat"),
    option: "CONFIG_NFT_NAT, CONFIG_NFT_MASQ and CONFIG_NFT_CT",
    says: &[Errno::NOENT],
};
/// The file system that containers' roots are.
pub static OVERLAY: Feature =
    filesystem("overlay file systems", Some("overlay"), "CONFIG_OVERLAY_FS");
/// User namespaces.
pub static USER_NAMESPACES: Feature = namespace("user namespaces", "CONFIG_USER_NS");

/// File systems by the kernel's name.
static FILESYSTEMS: [(&str, &Feature); 6] = [
    ("overlay", &OVERLAY),
    ("proc", &filesystem("proc file systems", None, "CONFIG_PROC_FS")),
    ("sysfs", &filesystem("sysfs file systems", None, "CONFIG_SYSFS")),
    ("tmpfs", &filesystem("tmpfs file systems", None, "CONFIG_TMPFS")),
    ("devpts", &filesystem("pseudo terminals", None, "CONFIG_UNIX98_PTYS")),
    ("mqueue", &filesystem("POSIX message queues", None, "CONFIG_POSIX_MQUEUE")),
];

/// Namespaces by their names below `/proc/self/ns`.
static NAMESPACES: [(&str, Feature); 4] = [
    ("net", namespace("network namespaces", "CONFIG_NET_NS")),
    ("ipc", namespace("IPC namespaces", "CONFIG_IPC_NS")),
    ("uts", namespace("UTS namespaces", "CONFIG_UTS_NS")),
    ("pid", namespace("PID namespaces", "CONFIG_PID_NS")),
];

const fn filesystem(
    what: &'static str,
    module: Option<&'static str>,
    option: &'static str,
) -> Feature {
    Feature { what, module, option, says: NO_FILESYSTEM }
}

const fn namespace(what: &'static str, option: &'static str) -> Feature {
    Feature { what, module: None, option, says: NO_NAMESPACE }
}

impl Feature {
    /// Whether an error of who asked for this feature says that there is none. Any other number is a
    /// failure of something that is there.
    #[must_use]
    pub fn missing(&'static self, errno: Errno) -> Option<Missing> {
        self.says.contains(&errno).then_some(Missing(self))
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Feature { what, module, option, .. } = self.0;
        write!(f, "this kernel has no {what}: ")?;
        if let Some(module) = module {
            write!(f, "load its module (modprobe {module}) or ")?;
        }
        write!(f, "boot one that is built with {option}")
    }
}

impl std::error::Error for Missing {}

/// Looks for what no pod can do without and what can be asked for without making anything: file
/// systems, whose modules the kernel loads by that, and namespaces. What links and packet filter lack
/// shows when the first is made. A dozen system calls.
///
/// # Errors
/// The first that is missing.
pub fn probe() -> Result<(), Missing> {
    for (name, feature) in FILESYSTEMS {
        let asked = fsopen(name, FsOpenFlags::FSOPEN_CLOEXEC);
        if let Some(missing) = asked.err().and_then(|errno| feature.missing(errno)) {
            return Err(missing);
        }
    }
    match NAMESPACES.iter().find(|(name, _)| !has_namespace(name)) {
        Some((_, feature)) => Err(Missing(feature)),
        None => Ok(()),
    }
}

/// Whether there are user namespaces, and sysctl allows some.
///
/// # Errors
/// That there are none.
pub fn user_namespaces() -> Result<(), Missing> {
    let most = std::fs::read_to_string("/proc/sys/user/max_user_namespaces");
    let none = most.is_ok_and(|number| number.trim() == "0");
    if has_namespace("user") && !none { Ok(()) } else { Err(Missing(&USER_NAMESPACES)) }
}

fn has_namespace(name: &str) -> bool {
    Path::new("/proc/self/ns").join(name).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_runs_these_tests_has_what_pods_need() {
        assert_eq!(probe(), Ok(()));
    }

    #[test]
    fn the_kernel_says_of_an_unknown_file_system_what_is_taken_for_its_lack() {
        let errno = fsopen("minke-none", FsOpenFlags::FSOPEN_CLOEXEC).unwrap_err();
        assert_eq!(OVERLAY.missing(errno), Some(Missing(&OVERLAY)));
        assert!(!has_namespace("minke-none"));
    }

    #[test]
    fn what_is_missing_is_named_with_its_cure() {
        let told =
            |feature: &'static Feature, errno| feature.missing(errno).map(|lack| lack.to_string());
        assert_eq!(
            told(&BRIDGE, Errno::OPNOTSUPP).unwrap(),
            "this kernel has no bridges: load its module (modprobe bridge) or boot one that is \
             built with CONFIG_BRIDGE"
        );
        for (feature, errno, words) in [
            (&VETH, Errno::OPNOTSUPP, ["veth", "CONFIG_VETH"]),
            (&NFTABLES, Errno::PROTONOSUPPORT, ["nf_tables", "CONFIG_NF_TABLES"]),
            (&NFTABLES, Errno::OPNOTSUPP, ["nf_tables", "CONFIG_NF_TABLES"]),
            (&NAT, Errno::NOENT, ["nft_chain_nat", "CONFIG_NFT_MASQ"]),
            (&OVERLAY, Errno::NODEV, ["overlay", "CONFIG_OVERLAY_FS"]),
            (&USER_NAMESPACES, Errno::INVAL, ["user namespaces", "CONFIG_USER_NS"]),
            (&USER_NAMESPACES, Errno::NOSPC, ["user namespaces", "CONFIG_USER_NS"]),
        ] {
            let told = told(feature, errno).unwrap();
            assert!(words.iter().all(|word| told.contains(word)), "{told}");
        }
        // What is refused for another reason is there.
        for (feature, errno) in
            [(&BRIDGE, Errno::EXIST), (&VETH, Errno::NOMEM), (&NFTABLES, Errno::PERM)]
        {
            assert_eq!(feature.missing(errno), None);
        }
    }
}
