//! What makes a process a pod's keeper: its namespaces and what is set in them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::fd::{AsFd, OwnedFd};

use model::{IdMapping, UserNamespace};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::{self, Errno};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use rustix::system::sethostname;
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};
use serde::{Deserialize, Serialize};
use sys::fork::fork;
use sys::sysctl::Parameters;

use crate::process::pid_one::PodUser;
use crate::process::streams::duplicate;
use crate::process::template;
use crate::protocol::Refusal;

/// A pod sandbox to make: which namespaces are the pod's own, and what is set in them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sandbox {
    /// A network namespace of its own. Its links, the loopback too, are down.
    pub network: bool,
    /// An IPC namespace of its own.
    pub ipc: bool,
    /// A UTS namespace of its own.
    pub uts: bool,
    /// A user namespace, which owns the pod's other namespaces.
    pub user: Option<UserNamespace>,
    /// The host name; only with a UTS namespace.
    pub hostname: Option<String>,
    /// The size of the pod's /dev/shm in bytes; none mounts none.
    pub shm_size: Option<u64>,
    /// Kernel parameters by dotted name; only those of namespaces that are the pod's own.
    pub sysctls: BTreeMap<String, String>,
    /// The newest protocol version that the keeper admits to speak; none is all that it knows. It
    /// lets a test have a keeper of yesterday.
    pub max_version: Option<u32>,
}

impl Sandbox {
    /// The namespaces, the mount namespace aside, that the pod has of its own.
    pub(crate) fn namespaces(&self) -> ThreadNameSpaceType {
        [
            (self.network, ThreadNameSpaceType::NETWORK),
            (self.ipc, ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION),
            (self.uts, ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME),
        ]
        .into_iter()
        .filter_map(|(wanted, kind)| wanted.then_some(kind))
        .collect()
    }

    /// Finishes the sandbox in the keeper's process, which was born in its own mount namespace and,
    /// where the host's user namespace owns them, in the pod's other ones. Gives the namespaces:
    /// NET, IPC, UTS, then USER where there is one, and that once more for the keeper itself.
    pub(crate) fn furnish(
        &self,
        parameters: &Parameters,
    ) -> Result<(Vec<OwnedFd>, Option<PodUser>), Refusal> {
        let user = match &self.user {
            Some(user) => Some(join_through(user, self.namespaces())?),
            None => None,
        };
        if let Some(size) = self.shm_size {
            self.mount_shm(size)?;
        }
        if let Some(hostname) = self.hostname.as_ref().filter(|_| self.uts) {
            sethostname(hostname.as_bytes())
                .map_err(Refusal::kernel(format!("set the host name to {hostname:?}")))?;
        }
        for (name, value) in &self.sysctls {
            self.set_sysctl(parameters, name, value)?;
        }
        let mut namespaces = Vec::with_capacity(4);
        for kind in ["net", "ipc", "uts"] {
            namespaces.push(namespace("self", kind)?);
        }
        let Some((user, namespace)) = self.user.as_ref().zip(user) else {
            return Ok((namespaces, None));
        };
        let copy = duplicate(&namespace).map_err(Refusal::kernel("keep the user namespace"))?;
        namespaces.push(namespace);
        let last = user
            .uids
            .iter()
            .map(|it| it.container_id.saturating_add(it.length.saturating_sub(1)))
            .max();
        Ok((namespaces, Some(PodUser { namespace: copy, last_id: last.unwrap_or(0) })))
    }

    fn mount_shm(&self, size: u64) -> Result<(), Refusal> {
        let owner = |mappings: &[IdMapping]| {
            mappings.iter().find(|mapping| mapping.container_id == 0).map_or(0, |m| m.host_id)
        };
        let size = size.to_string();
        let uid = self.user.as_ref().map_or(0, |user| owner(&user.uids)).to_string();
        let gid = self.user.as_ref().map_or(0, |user| owner(&user.gids)).to_string();
        let options = [("size", &*size), ("mode", "1777"), ("uid", &*uid), ("gid", &*gid)];
        template::attach(&template::filesystem("tmpfs", &options)?, "/dev/shm")
            .map_err(Refusal::kernel("mount the pod's /dev/shm"))
    }

    /// Writes a sysctl of one of the pod's own namespaces; any other would change the node.
    fn set_sysctl(&self, parameters: &Parameters, name: &str, value: &str) -> Result<(), Refusal> {
        if !self.owns_sysctl(name) {
            let reason = format!("the sysctl {name:?} belongs to no namespace of the pod's own");
            return Err(Refusal::Malformed { reason });
        }
        parameters
            .write(&sysctl_path(name), value)
            .map_err(Refusal::kernel(format!("set the sysctl {name} to {value:?}")))
    }

    fn owns_sysctl(&self, name: &str) -> bool {
        let ipc = ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."];
        let name = name.replace('/', ".");
        self.network && name.starts_with("net.")
            || self.ipc && ipc.iter().any(|prefix| name.starts_with(prefix))
            || self.uts && name == "kernel.domainname"
    }
}

/// The path of a sysctl below /proc/sys. A dot separates, unless a slash comes first: then it is
/// the other way round (sysctl.d(5)), so that `net/ipv4/conf/eth0.100/forwarding` can be said.
fn sysctl_path(name: &str) -> String {
    match name.find(['.', '/']).map(|at| name.as_bytes()[at]) {
        Some(b'/') => name.to_owned(),
        _ => name
            .chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect(),
    }
}

pub(crate) fn open(path: &str, flags: OFlags) -> io::Result<OwnedFd> {
    rustix::fs::openat(CWD, path, flags | OFlags::CLOEXEC, Mode::empty())
}

/// A namespace of a process, by the name that /proc gives it.
pub(crate) fn namespace(process: &str, kind: &str) -> Result<OwnedFd, Refusal> {
    let path = format!("/proc/{process}/ns/{kind}");
    open(&path, OFlags::RDONLY).map_err(Refusal::kernel(format!("open {path}")))
}

/// Makes a user namespace with these mappings and, owned by it, the other namespaces, and joins
/// those, not the user namespace itself. A child is born in all of them and lives until that is
/// done. Gives the user namespace.
fn join_through(user: &UserNamespace, kinds: ThreadNameSpaceType) -> Result<OwnedFd, Refusal> {
    let child = fork(ThreadNameSpaceType::USER | kinds, || {
        loop {
            rustix::event::pause();
        }
    })
    .map_err(Refusal::kernel("make the pod's user namespace"))?;
    let pid = child.pid.as_raw_nonzero();
    let join = || {
        for (file, mappings) in [("uid_map", &user.uids), ("gid_map", &user.gids)] {
            map_ids(&format!("/proc/{pid}/{file}"), mappings)
                .map_err(Refusal::kernel(format!("write the pod's {file}")))?;
        }
        if !kinds.is_empty() {
            move_into_thread_name_spaces(child.pidfd.as_fd(), kinds)
                .map_err(Refusal::kernel("join the pod's namespaces"))?;
        }
        namespace(&pid.to_string(), "user")
    };
    let joined = join();
    // Both fail only where the child is gone.
    let _ = pidfd_send_signal(&child.pidfd, Signal::KILL);
    let _ = waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED);
    joined
}

/// Writes all mappings in one write, as the kernel demands.
fn map_ids(path: &str, mappings: &[IdMapping]) -> io::Result<()> {
    let mut text = String::new();
    for IdMapping { container_id, host_id, length } in mappings {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{container_id} {host_id} {length}");
    }
    let written = io::write(open(path, OFlags::WRONLY)?, text.as_bytes())?;
    if written == text.len() { Ok(()) } else { Err(Errno::INVAL) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysctls_are_named_with_dots_or_slashes() {
        assert_eq!(sysctl_path("net.ipv4.ip_forward"), "net/ipv4/ip_forward");
        assert_eq!(sysctl_path("net.ipv4.conf.eth0/1.arp"), "net/ipv4/conf/eth0.1/arp");
        assert_eq!(sysctl_path("net/ipv4/conf/eth0.1/arp"), "net/ipv4/conf/eth0.1/arp");
    }

    #[test]
    fn a_pod_sets_only_what_is_its_own() {
        let pod = Sandbox { network: true, ..Sandbox::default() };
        for (name, owned) in [
            ("net.ipv4.ip_forward", true),
            ("net/ipv4/ip_forward", true),
            ("kernel.shmmax", false),
            ("vm.swappiness", false),
            ("kernel.core_pattern", false),
            ("../net.x", false),
        ] {
            assert_eq!(pod.owns_sysctl(name), owned, "{name}");
        }
        let pod = Sandbox { ipc: true, ..Sandbox::default() };
        assert!(pod.owns_sysctl("fs.mqueue.msg_max") && pod.owns_sysctl("kernel.shmmax"));
        assert!(!pod.owns_sysctl("net.ipv4.ip_forward"));
    }
}
