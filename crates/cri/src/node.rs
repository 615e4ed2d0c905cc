//! What this node offers: told by Status, and held against requests.

use model::{ContainerSpec, PodSpec, Profile, Resources, SecurityContext};

use crate::parse::Invalid;

/// What this node offers.
#[derive(Debug, Clone)]
pub struct Node {
    /// The version of minke.
    pub version: String,
    /// Runtime handlers that pods may name, beside the empty one.
    pub handlers: Vec<String>,
    /// Whether pods may have a user namespace.
    pub user_namespaces: Result<(), String>,
    /// Whether the kernel has AppArmor switched on.
    pub apparmor: bool,
    /// Whether the kernel has SELinux switched on.
    pub selinux: bool,
    /// Whether huge pages can be limited.
    pub hugetlb: bool,
    /// Whether limits can be set by the names of cgroup v2 files.
    pub unified: bool,
    /// The effective settings, for a verbose Status.
    pub settings: serde_json::Value,
}

/// Where a security context stands in a request.
const SECURITY: &str = "linux.security_context";

impl Node {
    /// Refuses a pod that asks for what this node does not have.
    pub(crate) fn admit_pod(&self, spec: &PodSpec) -> Result<(), Invalid> {
        if let (Some(_), Err(reason)) = (&spec.security.namespaces.user, &self.user_namespaces) {
            let field = format!("{SECURITY}.namespace_options.userns_options");
            return Err(Invalid { field, reason: reason.clone() });
        }
        self.admit_security(&spec.security)
    }

    /// Refuses a container that asks for what this node does not have.
    pub(crate) fn admit_container(&self, spec: &ContainerSpec) -> Result<(), Invalid> {
        self.admit_limits("linux.resources", &spec.resources)?;
        self.admit_security(&spec.security)
    }

    /// A limit of 0 is what the kubelet sends for every page size that nobody asked for.
    pub(crate) fn admit_limits(&self, field: &str, limits: &Resources) -> Result<(), Invalid> {
        let asked = limits.hugepage_limits.iter().position(|limit| limit.limit != 0);
        match asked {
            Some(i) if !self.hugetlb => {
                let reason = "this node has no hugetlb cgroup controller".into();
                Err(Invalid { field: format!("{field}.hugepage_limits[{i}].limit"), reason })
            }
            _ if !self.unified && !limits.unified.is_empty() => {
                let reason = "this node has no cgroup v2 hierarchy".into();
                Err(Invalid { field: format!("{field}.unified"), reason })
            }
            _ => Ok(()),
        }
    }

    /// Without AppArmor its default profile has no effect, without SELinux its labels have none. With
    /// them, a container that asks to be confined must not run unconfined. A privileged one does so
    /// by its own wish.
    fn admit_security(&self, security: &SecurityContext) -> Result<(), Invalid> {
        let refuse = |name: &str, reason: &str| {
            Err(Invalid { field: format!("{SECURITY}.{name}"), reason: reason.into() })
        };
        if security.privileged {
            return Ok(());
        }
        match &security.apparmor {
            Profile::Localhost(_) if !self.apparmor => {
                refuse("apparmor.localhost_ref", "this node has no AppArmor")
            }
            Profile::Localhost(_) | Profile::RuntimeDefault if self.apparmor => {
                refuse("apparmor", "AppArmor profiles are not supported yet")
            }
            _ if security.selinux.is_some() && self.selinux => {
                refuse("selinux_options", "SELinux labels are not supported yet")
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{HugepageLimit, SeLinux, UserNamespace};

    fn bare() -> Node {
        Node {
            version: String::new(),
            handlers: Vec::new(),
            user_namespaces: Err("this kernel has none".into()),
            apparmor: false,
            selinux: false,
            hugetlb: false,
            unified: false,
            settings: serde_json::Value::Null,
        }
    }

    fn refused(node: &Node, change: impl FnOnce(&mut ContainerSpec)) -> Option<String> {
        let mut spec = ContainerSpec::default();
        change(&mut spec);
        node.admit_container(&spec).err().map(|invalid| invalid.field)
    }

    fn pages(limit: u64) -> Vec<HugepageLimit> {
        vec![HugepageLimit { page_size: "2MB".into(), limit }]
    }

    #[test]
    fn what_has_no_effect_on_a_bare_node_is_taken() {
        let node = bare();
        assert_eq!(refused(&node, |s| s.resources.hugepage_limits = pages(0)), None);
        assert_eq!(refused(&node, |s| s.security.apparmor = Profile::RuntimeDefault), None);
        assert_eq!(refused(&node, |s| s.security.apparmor = Profile::Unconfined), None);
        assert_eq!(refused(&node, |s| s.security.selinux = Some(SeLinux::default())), None);
    }

    #[test]
    fn what_a_node_lacks_is_named() {
        let node = bare();
        let local = || Profile::Localhost("p".into());
        let at = |name: &str| Some(format!("{SECURITY}.{name}"));
        assert_eq!(
            refused(&node, |s| s.resources.hugepage_limits = pages(1)).as_deref(),
            Some("linux.resources.hugepage_limits[0].limit")
        );
        let file = || [("memory.high".to_owned(), "1".to_owned())].into();
        assert_eq!(
            refused(&node, |s| s.resources.unified = file()).as_deref(),
            Some("linux.resources.unified")
        );
        assert_eq!(refused(&node, |s| s.security.apparmor = local()), at("apparmor.localhost_ref"));
        let mut pod = PodSpec::default();
        pod.security.namespaces.user = Some(UserNamespace { uids: vec![], gids: vec![] });
        let invalid = node.admit_pod(&pod).unwrap_err();
        assert_eq!(invalid.field, format!("{SECURITY}.namespace_options.userns_options"));
        assert_eq!(invalid.reason, "this kernel has none");
        assert!(Node { user_namespaces: Ok(()), ..bare() }.admit_pod(&pod).is_ok());
        let confining =
            Node { apparmor: true, selinux: true, hugetlb: true, unified: true, ..bare() };
        assert_eq!(refused(&confining, |s| s.resources.hugepage_limits = pages(1)), None);
        assert_eq!(refused(&confining, |s| s.resources.unified = file()), None);
        let default = |s: &mut ContainerSpec| s.security.apparmor = Profile::RuntimeDefault;
        assert_eq!(refused(&confining, default), at("apparmor"));
        assert_eq!(refused(&confining, |s| s.security.apparmor = local()), at("apparmor"));
        let label = |s: &mut ContainerSpec| s.security.selinux = Some(SeLinux::default());
        assert_eq!(refused(&confining, label), at("selinux_options"));
        let privileged = |s: &mut ContainerSpec| {
            (s.security.privileged, s.security.apparmor) = (true, local());
        };
        assert_eq!(refused(&confining, privileged), None);
    }
}
