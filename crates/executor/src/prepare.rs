//! The daemon's half of the executor: an OCI spec becomes a plan and a table of open descriptors.
//!
//! Everything that names a path of the host is opened here, in the host's mount namespace, and every
//! mistake that a spec can hold is found here, before anything of the container exists. What is made
//! anew (proc, tmpfs, devices) is only described; the keeper's child makes it in the container's own
//! namespaces.
//!
//! ```text
//!  Spec ──┬─ namespaces, user namespace ──> open, New, or the keeper's own
//!         ├─ root        ──> overlay.rs, attached.rs     a detached overlay
//!         ├─ mounts      ──> source.rs                   detached clones of the host's trees
//!         │                  cgroups.rs, mounts.rs       descriptions of new file systems
//!         ├─ devices     ──> devices.rs
//!         └─ process     ──> process.rs                  names become numbers
//!                                 │
//!                Plan, sealed in memory; Launch; descriptors
//! ```
//!
//! It blocks: a file system that does not answer holds up the calling thread, so call it where a
//! thread may be lost. It forks nothing and changes nothing of the process; the one way that needs
//! a mount namespace of its own ([`OverlayWay::Attached`]) makes it for a thread of its own.

mod attached;
mod cgroups;
mod devices;
mod error;
mod mounts;
mod namespaces;
mod options;
mod overlay;
mod process;
mod source;
mod table;

pub use cgroups::CgroupView;
pub use error::Error;
pub use overlay::{Overlay, OverlayWay, probe};
pub use process::CAPABILITIES;
pub use source::Source;
pub use table::sealed;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use cgroup::Attachment;
use oci_spec::runtime::{Linux, Process, Spec};
use rustix::mount::MountPropagationFlags;

use self::mounts::Mounts;
use self::options::MountOptions;
use self::table::Table;
use crate::plan::{
    Alone, ExecLaunch, ExecPlan, Handle, Launch, Namespace, Placement, Plan, Propagation,
    PropagationKind, Root, Seccomp, Stdio, UserNamespace, Window,
};

/// What a container needs beside its spec.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// Where the root file system comes from; the spec's `root.path` is not looked at.
    pub root: RootSource<'a>,
    /// The image's volumes: directories of the root that are made where they are missing, and stay
    /// writable where it is not. What is mounted there or below lies over them.
    pub volumes: &'a [String],
    /// What [`probe`] found.
    pub overlay: OverlayWay,
    /// What [`CgroupView::detect`] found.
    pub cgroup_view: &'a CgroupView,
    /// The paths by which the spec names namespaces that the keeper lives in: they are inherited,
    /// not joined.
    pub keeper_namespaces: &'a [&'a Path],
    /// The user namespace, already open; else the path that the spec gives is opened.
    pub user_namespace: Option<BorrowedFd<'a>>,
    /// The bind source that stands for the pod's /dev/shm, which only the keeper can reach.
    pub pod_shm: Option<&'a Path>,
    /// The cgroup that the process is born in; none leaves it in the keeper's.
    pub cgroup: Option<Attachment>,
    /// What becomes descriptors 0, 1 and 2.
    pub stdio: StdioSource,
    /// The spec's system call filter, compiled.
    pub seccomp: Option<Filter<'a>>,
}

/// A container's root file system.
#[derive(Debug, Clone, Copy)]
pub enum RootSource<'a> {
    /// An image and a writable layer.
    Overlay {
        /// The layer directories, lowest first.
        layers: &'a [PathBuf],
        /// The directory that is to hold `upper` and `work`; it cannot be used twice, because the
        /// overlay is volatile.
        writable: &'a Path,
    },
    /// A directory of the host with all that is mounted below, as it is. What the container mounts
    /// there does not reach the host.
    Directory(&'a Path),
}

/// What becomes descriptors 0, 1 and 2.
#[derive(Debug)]
pub enum StdioSource {
    /// These.
    Files([OwnedFd; 3]),
    /// Pipes that the keeper makes, and whose other ends it reads and logs: it puts handles of its
    /// own in the place of these, which are in no table.
    Keeper,
    /// A new terminal.
    Terminal(Window),
}

/// A compiled system call filter.
#[derive(Debug, Clone, Copy)]
pub struct Filter<'a> {
    /// A sealed file holding the instructions (see [`sealed`]); one serves any number of processes.
    pub program: BorrowedFd<'a>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub flags: u32,
}

/// What goes to the keeper.
#[derive(Debug)]
pub struct Prepared<L> {
    /// The message.
    pub launch: L,
    /// What its handles stand for.
    pub descriptors: Vec<OwnedFd>,
}

/// Prepares a container.
///
/// # Errors
/// [`Error`] names the path or the field of the spec.
pub fn prepare(spec: &Spec, inputs: Inputs<'_>) -> Result<Prepared<Launch>, Error> {
    let Some(linux) = spec.linux() else {
        return Err(Error::spec("linux", "is missing"));
    };
    let mut table = Table::default();
    let namespaces = namespaces::namespaces(linux, &inputs, &mut table)?;
    let user = namespaces::user_namespace(linux, inputs.user_namespace, &mut table)?;
    let mapper = user.as_ref().map(|user| table.copy(user.namespace)).transpose()?;
    let mapping = user.as_ref().zip(mapper.as_ref().map(AsFd::as_fd));

    let seccomp = filter(inputs.seccomp, &mut table)?;
    let spec_process = process_of(spec)?;
    let process = process::process(spec_process, seccomp)?;
    let limits = process::limits(spec_process)?;
    let sysctls = sysctls(linux)?;
    let (devices, mut links) = devices::devices(spec, user.as_ref())?;
    let specs = spec.mounts().as_deref().unwrap_or_default();
    let mut reader = Mounts { inputs: &inputs, linux, user: mapping, table: &mut table };
    let (mounts, cgroup_links) = reader.read(specs)?;
    links.extend(cgroup_links);
    // Last, because a writable layer can be mounted only once: a mistake found after it costs more.
    let root = root(spec, linux, &inputs, mapping, &mut table)?;

    let own_uts = namespaces.uts != Namespace::Inherit;
    let onlooker = process.capabilities.may_look();
    let plan = Plan {
        root,
        mounts,
        devices,
        links,
        masked_paths: linux.masked_paths().clone().unwrap_or_default(),
        read_only_paths: linux.readonly_paths().clone().unwrap_or_default(),
        sysctls,
        hostname: spec.hostname().clone().filter(|_| own_uts),
        domainname: spec.domainname().clone().filter(|_| own_uts),
        process,
    };
    let launch = Launch {
        plan: seal(&plan, &mut table)?,
        namespaces,
        user,
        cgroup: placement(inputs.cgroup, &mut table),
        stdio: stdio(inputs.stdio, &mut table),
        limits,
        alone: Alone::default(),
        onlooker,
    };
    Ok(Prepared { launch, descriptors: table.into_descriptors() })
}

/// What a process in a running container needs beside the container's spec.
#[derive(Debug)]
pub struct ExecInputs<'a> {
    /// The process; [`exec_process`] is what it usually is.
    pub process: &'a Process,
    /// The container's init.
    pub init: OwnedFd,
    /// The container's user namespace, where its spec names one without a path.
    pub user_namespace: Option<BorrowedFd<'a>>,
    /// The cgroup that the process is born in.
    pub cgroup: Option<Attachment>,
    /// What becomes descriptors 0, 1 and 2.
    pub stdio: StdioSource,
    /// The spec's system call filter, compiled.
    pub seccomp: Option<Filter<'a>>,
}

/// The process that runs `args` in a running container: user, privileges, limits and environment are
/// those of the container's own process; on a terminal `TERM` is set.
///
/// # Errors
/// A spec without a process.
pub fn exec_process(spec: &Spec, args: &[String], terminal: bool) -> Result<Process, Error> {
    let mut wanted = process_of(spec)?.clone();
    wanted.set_args(Some(args.to_vec()));
    if terminal {
        let mut env = wanted.env().clone().unwrap_or_default();
        env.retain(|entry| !entry.starts_with("TERM="));
        env.push("TERM=xterm".to_owned());
        wanted.set_env(Some(env));
    }
    Ok(wanted)
}

/// Prepares a process in a running container.
///
/// # Errors
/// [`Error`] names the path or the field of the spec.
pub fn prepare_exec(spec: &Spec, exec: ExecInputs<'_>) -> Result<Prepared<ExecLaunch>, Error> {
    let mut table = Table::default();
    let user = match spec.linux() {
        Some(linux) => namespaces::user_namespace(linux, exec.user_namespace, &mut table)?,
        None => None,
    };
    let seccomp = filter(exec.seccomp, &mut table)?;
    let mut process = process::process(exec.process, seccomp)?;
    process.affinity = process::exec_affinity(exec.process)?;
    let launch = ExecLaunch {
        plan: seal(&ExecPlan { process }, &mut table)?,
        init: table.add(exec.init),
        user,
        cgroup: placement(exec.cgroup, &mut table),
        stdio: stdio(exec.stdio, &mut table),
        limits: process::limits(exec.process)?,
        alone: Alone::default(),
    };
    Ok(Prepared { launch, descriptors: table.into_descriptors() })
}

impl<L> Prepared<L> {
    /// Adds a descriptor for a part of the message that is set by hand.
    pub fn add(&mut self, descriptor: OwnedFd) -> Handle {
        let mut table = Table::from(std::mem::take(&mut self.descriptors));
        let handle = table.add(descriptor);
        self.descriptors = table.into_descriptors();
        handle
    }
}

fn process_of(spec: &Spec) -> Result<&Process, Error> {
    spec.process().as_ref().ok_or_else(|| Error::spec("process", "is missing"))
}

fn root(
    spec: &Spec,
    linux: &Linux,
    inputs: &Inputs<'_>,
    user: Option<(&UserNamespace, BorrowedFd<'_>)>,
    table: &mut Table,
) -> Result<Root, Error> {
    let id_map = user.map(|(_, namespace)| namespace);
    let mount = match inputs.root {
        RootSource::Overlay { layers, writable } => {
            let overlay = Overlay { layers, writable: Some(writable), id_map, subdir: None };
            overlay.mount(inputs.overlay)?
        }
        RootSource::Directory(path) => source::clone_root(path)?,
    };
    Ok(Root {
        mount: table.add(mount),
        read_only: spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or_default(),
        volumes: inputs.volumes.to_vec(),
        propagation: root_propagation(linux)?,
    })
}

/// The root's own propagation. It does not reach the volumes: each has what it asked for already.
fn root_propagation(linux: &Linux) -> Result<Option<Propagation>, Error> {
    let Some(text) = linux.rootfs_propagation().clone().filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let parsed = MountOptions::parse(std::slice::from_ref(&text));
    let kind = match parsed.propagation {
        Some((MountPropagationFlags::PRIVATE, _)) => PropagationKind::Private,
        Some((MountPropagationFlags::DOWNSTREAM, _)) => PropagationKind::Slave,
        Some((MountPropagationFlags::SHARED, _)) => PropagationKind::Shared,
        Some((MountPropagationFlags::UNBINDABLE, _)) => PropagationKind::Unbindable,
        _ => {
            let reason = format!("{text:?} is no propagation");
            return Err(Error::spec("linux.rootfsPropagation", reason));
        }
    };
    Ok(Some(Propagation { kind, recursive: false }))
}

/// Names become paths below /proc/sys: dots separate, and a slash is a dot of a name.
fn sysctls(linux: &Linux) -> Result<Vec<(String, String)>, Error> {
    let swap = |letter| match letter {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    let mut sysctls = Vec::new();
    for (name, value) in linux.sysctl().iter().flatten() {
        let path: String = name.chars().map(swap).collect();
        if path.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
            return Err(Error::spec("linux.sysctl", format!("{name:?} is no name of a sysctl")));
        }
        sysctls.push((path, value.clone()));
    }
    sysctls.sort();
    Ok(sysctls)
}

fn filter(filter: Option<Filter<'_>>, table: &mut Table) -> Result<Option<Seccomp>, Error> {
    let copy = |filter: Filter<'_>| {
        Ok(Seccomp { program: table.add_copy(filter.program)?, flags: filter.flags })
    };
    filter.map(copy).transpose()
}

fn placement(cgroup: Option<Attachment>, table: &mut Table) -> Placement {
    match cgroup {
        None => Placement::Inherit,
        Some(Attachment::Directory(directory)) => Placement::V2(table.add(directory)),
        Some(Attachment::Tasks(files)) => {
            Placement::V1(files.into_iter().map(|file| table.add(file)).collect())
        }
    }
}

fn stdio(stdio: StdioSource, table: &mut Table) -> Stdio {
    match stdio {
        StdioSource::Files(files) => Stdio::Files(files.map(|file| table.add(file))),
        StdioSource::Keeper => Stdio::Files([Handle(u32::MAX); 3]),
        StdioSource::Terminal(window) => Stdio::Terminal(window),
    }
}

fn seal(plan: &impl serde::Serialize, table: &mut Table) -> Result<Handle, Error> {
    let text = serde_json::to_vec(plan).map_err(Error::Encode)?;
    Ok(table.add(sealed("plan", &text)?))
}
