//! Pure function from pod, container, image and node facts to one OCI runtime spec; the only place a spec is built.
//!
//! [`build`] does no I/O: whatever depends on the machine or on the contents of an image reaches it
//! as a fact inside [`Request`]. The answer is what containerd 2.4 gives for the same CRI request,
//! so that a person who knows one node can read the other; the few differences are named where they
//! are made.
//!
//! ```text
//!  PodSpec, ContainerSpec ─┐
//!  image configuration ────┤                    process   env, args, user, capabilities
//!  ResolvedUser ───────────┼─▶ build ─▶ Spec ◀─ mounts    defaults, volumes, the pod's files
//!  NodeFacts ──────────────┤                    linux     namespaces, devices, resources, hidden paths
//!  namespaces, files ──────┘
//! ```
//!
//! Two neighbours of it live here because they read the same fields: [`resolve_user`] finds the user
//! before a spec can be built, and [`update`] merges an UpdateContainerResources request into the
//! resources of a spec that exists. [`pod_sysctls`] gives what the pod's namespaces are set to.

mod annotations;
mod capabilities;
mod devices;
mod env;
mod error;
mod hidden;
mod mounts;
mod namespaces;
mod process;
mod request;
mod resources;
mod sysctls;
mod users;

pub use error::Error;
pub use namespaces::{Namespaces, PidNamespace};
pub use request::{DeviceNode, GrantedDevice, ImageRoot, NodeFacts, PodFiles, Request};
pub use resources::update;
pub use sysctls::pod_sysctls;
pub use users::{ResolvedUser, resolve_user};

use std::path::PathBuf;

use oci_spec::runtime::{Linux, Root, Spec};

/// The version of the OCI runtime specification that the specs follow.
pub const OCI_VERSION: &str = "1.3.0";

/// Builds the spec of one container.
///
/// # Errors
/// [`Error`] names the CRI field that is wrong or that contradicts another.
pub fn build(request: &Request<'_>) -> Result<Spec, Error> {
    let security = &request.container.security;
    if security.privileged && !request.pod.security.privileged {
        return Err(Error::invalid(
            "linux.security_context.privileged",
            "the pod is not privileged, so its containers cannot be",
        ));
    }
    let mut root = Root::default();
    root.set_path(PathBuf::from("rootfs")).set_readonly(security.readonly_rootfs.then_some(true));

    let mut spec = Spec::default();
    spec.set_version(OCI_VERSION.to_owned())
        .set_root(Some(root))
        .set_hostname(None)
        .set_process(Some(process::process(request)?))
        .set_mounts(Some(mounts::mounts(request)?))
        .set_annotations(Some(annotations::annotations(request)))
        .set_linux(Some(linux(request)?));
    Ok(spec)
}

fn linux(request: &Request<'_>) -> Result<Linux, Error> {
    let privileged = request.container.security.privileged;
    let mut linux = Linux::default();
    let (devices, rules) = devices::devices(request)?;
    resources::check(&request.container.resources)?;
    let mut resources = resources::resources(&request.container.resources, request.node);
    resources.set_devices(Some(rules));
    linux
        .set_namespaces(Some(namespaces::namespaces(request)?))
        .set_resources(Some(resources))
        .set_devices((!devices.is_empty()).then_some(devices))
        .set_cgroups_path(Some(request.cgroup.to_owned()))
        .set_rootfs_propagation(mounts::rootfs_propagation(&request.container.mounts))
        .set_masked_paths(hidden::masked(request))
        .set_readonly_paths(hidden::readonly(request))
        .set_seccomp(request.seccomp.filter(|_| !privileged).cloned())
        .set_mount_label(request.mount_label.map(str::to_owned));
    if let Some(user) = &request.pod.security.namespaces.user {
        linux
            .set_uid_mappings(Some(namespaces::id_mappings(&user.uids)))
            .set_gid_mappings(Some(namespaces::id_mappings(&user.gids)));
    }
    Ok(linux)
}
