//! A bundle becomes a spec that the executor can follow: read, checked, defaults filled in.
//!
//! What runc adds by itself is added here, where the record keeps it: the rules that open the common
//! devices, a HOME for each process, an absolute root and cgroup path. What cannot be followed is refused by its name
//! in config.json.

use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use cgroup::CgroupPath;
use oci_spec::runtime::{
    Linux, LinuxDeviceCgroup, LinuxDeviceType, LinuxNamespaceType as Kind, LinuxResources, Process,
    Spec,
};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2};

use crate::failure::Failure;

/// Where cgroups are made whose spec says nothing, or a relative path.
const CGROUPS: &str = "/minke-oci";
/// Larger than any /etc/passwd that is one.
const PASSWD_MAX: u64 = 1 << 20;

/// What every container may open, beside what its spec allows: null, zero, full, random, urandom,
/// tty, ptmx, its terminals, and tun, as with runc.
const DEVICES: [(i64, Option<i64>); 9] = [
    (1, Some(3)),
    (1, Some(5)),
    (1, Some(7)),
    (1, Some(8)),
    (1, Some(9)),
    (5, Some(0)),
    (5, Some(2)),
    (136, None),
    (10, Some(200)),
];

/// A bundle, checked.
#[derive(Debug)]
pub(crate) struct Bundle {
    /// Its directory, absolute.
    pub(crate) path: PathBuf,
    /// Its root file system, absolute.
    pub(crate) rootfs: PathBuf,
    /// What is to be run.
    pub(crate) spec: Spec,
}

impl Bundle {
    /// Reads and checks a bundle.
    pub(crate) fn load(path: &Path) -> Result<Self, Failure> {
        let path = fs::canonicalize(path).map_err(Failure::file("find the bundle", path))?;
        let file = path.join("config.json");
        let text = fs::read(&file).map_err(Failure::file("read", &file))?;
        let spec = serde_json::from_slice(&text)
            .map_err(|source| Failure::Json { path: file.clone(), source })?;
        let refuse = |field: &str, reason: &str| Failure::Config {
            file: file.clone(),
            field: field.to_owned(),
            reason: reason.to_owned(),
        };
        let spec = check(spec, &refuse)?;
        let root = spec.root().as_ref().ok_or_else(|| refuse("root", "is missing"))?;
        let rootfs = path.join(root.path());
        let rootfs = fs::canonicalize(&rootfs)
            .map_err(Failure::file("find the root file system", rootfs))?;
        Ok(Self { path, rootfs, spec })
    }

    /// Fills in what a container named `id` gets without asking, and says where its cgroup is.
    pub(crate) fn complete(&mut self, id: &str) -> Result<CgroupPath, Failure> {
        let Some(linux) = self.spec.linux_mut() else {
            let (file, field) = (self.path.join("config.json"), "linux".to_owned());
            return Err(Failure::Config { file, field, reason: "is missing".to_owned() });
        };
        let cgroup = cgroup_path(id, linux.cgroups_path().as_deref())?;
        linux.set_cgroups_path(Some(PathBuf::from(cgroup.as_str())));
        let mut resources = linux.resources().clone().unwrap_or_default();
        open_common_devices(&mut resources);
        linux.set_resources(Some(resources));
        Ok(cgroup)
    }
}

fn cgroup_path(id: &str, asked: Option<&Path>) -> Result<CgroupPath, Failure> {
    let path = match asked {
        Some(path) if path.is_absolute() => path.to_owned(),
        Some(path) if !path.as_os_str().is_empty() => Path::new(CGROUPS).join(path),
        _ => Path::new(CGROUPS).join(id),
    };
    CgroupPath::new(&path.to_string_lossy()).map_err(Failure::cgroup(id, "named"))
}

/// The spec, unless something in it would have to be ignored.
fn check(spec: Spec, refuse: &dyn Fn(&str, &str) -> Failure) -> Result<Spec, Failure> {
    if !spec.version().starts_with("1.") {
        return Err(refuse("ociVersion", "is not one of 1.x"));
    }
    let foreign = [
        ("windows", spec.windows().is_some()),
        ("solaris", spec.solaris().is_some()),
        ("vm", spec.vm().is_some()),
        ("zos", spec.zos().is_some()),
    ];
    if let Some((field, _)) = foreign.iter().find(|(_, is_there)| *is_there) {
        return Err(refuse(field, "is for another platform"));
    }
    let Some(process) = spec.process() else { return Err(refuse("process", "is missing")) };
    if process.exec_cpu_affinity().as_ref().is_some_and(|it| it.initial().is_some()) {
        let reason =
            "is not supported: a process is in its cgroup from its first moment; use final";
        return Err(refuse("process.execCPUAffinity.initial", reason));
    }
    let Some(linux) = spec.linux() else { return Err(refuse("linux", "is missing")) };
    check_linux(linux, refuse)?;
    check_namespaced(&spec, linux, refuse)?;
    for hook in hooks(&spec) {
        if !hook.path().is_absolute() {
            return Err(refuse("hooks", &format!("{:?} is not an absolute path", hook.path())));
        }
        if hook.timeout().is_some_and(|timeout| timeout <= 0) {
            return Err(refuse("hooks", &format!("{:?} has no positive timeout", hook.path())));
        }
    }
    Ok(spec)
}

fn check_linux(linux: &Linux, refuse: &dyn Fn(&str, &str) -> Failure) -> Result<(), Failure> {
    let seccomp = linux.seccomp().as_ref();
    let memory = linux.resources().as_ref().and_then(|resources| resources.memory().as_ref());
    let unsupported = [
        // Linux counts the kernel's memory with all other since 6.1.
        ("linux.resources.memory.kernel", memory.is_some_and(|it| it.kernel().is_some())),
        ("linux.resources.memory.kernelTCP", memory.is_some_and(|it| it.kernel_tcp().is_some())),
        ("linux.personality", linux.personality().is_some()),
        ("linux.intelRdt", linux.intel_rdt().is_some()),
        ("linux.memoryPolicy", linux.memory_policy().is_some()),
        ("linux.netDevices", linux.net_devices().as_ref().is_some_and(|list| !list.is_empty())),
        ("linux.mountLabel", linux.mount_label().as_ref().is_some_and(|label| !label.is_empty())),
        (
            "linux.seccomp.listenerPath",
            seccomp.is_some_and(|seccomp| seccomp.listener_path().is_some()),
        ),
    ];
    match unsupported.iter().find(|(_, is_there)| *is_there) {
        Some((field, _)) => Err(refuse(field, "is not supported; leave it out")),
        None => Ok(()),
    }
}

/// What is set in a namespace must not be set in the host's.
fn check_namespaced(
    spec: &Spec,
    linux: &Linux,
    refuse: &dyn Fn(&str, &str) -> Failure,
) -> Result<(), Failure> {
    let has = |kind| linux.namespaces().iter().flatten().any(|entry| entry.typ() == kind);
    for (field, name) in [("hostname", spec.hostname()), ("domainname", spec.domainname())] {
        if name.as_ref().is_some_and(|name| !name.is_empty()) && !has(Kind::Uts) {
            return Err(refuse(field, "would be the host's: add a uts namespace"));
        }
    }
    for name in linux.sysctl().iter().flatten().map(|(name, _)| name.replace('/', ".")) {
        let field = format!("linux.sysctl {name}");
        let (kind, wanted) = match name.as_str() {
            "kernel.msgmax"
            | "kernel.msgmnb"
            | "kernel.msgmni"
            | "kernel.sem"
            | "kernel.shmall"
            | "kernel.shmmax"
            | "kernel.shmmni"
            | "kernel.shm_rmid_forced" => (Kind::Ipc, "would be the host's: add an ipc namespace"),
            name if name.starts_with("fs.mqueue.") => {
                (Kind::Ipc, "would be the host's: add an ipc namespace")
            }
            name if name.starts_with("net.") => {
                (Kind::Network, "would be the host's: add a network namespace")
            }
            "kernel.domainname" => (Kind::Uts, "would be the host's: add a uts namespace"),
            "kernel.hostname" => return Err(refuse(&field, "is what the field hostname is for")),
            _ => return Err(refuse(&field, "is the host's, whatever the namespaces")),
        };
        if !has(kind) {
            return Err(refuse(&field, wanted));
        }
    }
    Ok(())
}

/// All hooks of all kinds.
fn hooks(spec: &Spec) -> impl Iterator<Item = &oci_spec::runtime::Hook> {
    spec.hooks().iter().flat_map(|hooks| {
        [
            hooks.prestart(),
            hooks.create_runtime(),
            hooks.create_container(),
            hooks.start_container(),
            hooks.poststart(),
            hooks.poststop(),
        ]
        .into_iter()
        .flatten()
        .flatten()
    })
}

/// Everything is closed but what the spec opens and what every container needs. To make a node is
/// harmless where it cannot be opened, and `tar` does it.
fn open_common_devices(resources: &mut LinuxResources) {
    let rule = |kind, major, minor, access: &str| {
        let mut rule = LinuxDeviceCgroup::default();
        rule.set_allow(true)
            .set_typ(Some(kind))
            .set_major(major)
            .set_minor(minor)
            .set_access(Some(access.to_owned()));
        rule
    };
    let mut rules = resources.devices().clone().unwrap_or_default();
    for kind in [LinuxDeviceType::C, LinuxDeviceType::B] {
        rules.push(rule(kind, None, None, "m"));
    }
    let common = DEVICES.map(|(major, minor)| rule(LinuxDeviceType::C, Some(major), minor, "rwm"));
    rules.extend(common);
    resources.set_devices(Some(rules));
}

/// Sets HOME where the environment has none: to what /etc/passwd below the directory `root` says,
/// else `/`.
pub(crate) fn add_home(process: &mut Process, root: &Path) -> Result<(), Failure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, root, flags, Mode::empty()).map_err(Failure::file("open", root))?;
    let mut env = process.env().clone().unwrap_or_default();
    if env.iter().any(|entry| entry.starts_with("HOME=")) {
        return Ok(());
    }
    let home = home(root, process.user().uid());
    env.push(format!("HOME={}", home.as_deref().unwrap_or("/")));
    process.set_env(Some(env));
    Ok(())
}

/// A container may be hostile: its file is not followed out of its root, nor waited for.
fn home(root: impl AsFd, uid: u32) -> Option<String> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = openat2(root, "etc/passwd", flags, Mode::empty(), resolve).ok()?;
    if FileType::from_raw_mode(fstat(&file).ok()?.st_mode) != FileType::RegularFile {
        return None;
    }
    let mut text = Vec::new();
    fs::File::from(file).take(PASSWD_MAX).read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text).into_owned();
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let number = fields.nth(2)?.parse::<u32>().ok()?;
        let home = fields.nth(2).filter(|home| !home.is_empty())?;
        (number == uid).then(|| home.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(config: &serde_json::Value) -> Result<Bundle, Failure> {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("rootfs")).unwrap();
        fs::create_dir(directory.path().join("rootfs/etc")).unwrap();
        let passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33::/srv/web:/bin/sh\nbroken\n";
        fs::write(directory.path().join("rootfs/etc/passwd"), passwd).unwrap();
        fs::write(directory.path().join("config.json"), config.to_string()).unwrap();
        let mut bundle = Bundle::load(directory.path())?;
        bundle.complete("c1")?;
        let mut process = bundle.spec.process().clone().unwrap();
        add_home(&mut process, &bundle.rootfs)?;
        assert_eq!(process.env().as_ref().unwrap(), &["HOME=/srv/web"]);
        Ok(bundle)
    }

    fn plain() -> serde_json::Value {
        serde_json::json!({
            "ociVersion": "1.2.0", "root": { "path": "rootfs" },
            "process": { "cwd": "/", "args": ["true"], "user": { "uid": 33, "gid": 33 } },
            "linux": { "namespaces": [{ "type": "mount" }] }
        })
    }

    #[test]
    fn defaults_are_filled_in() {
        let spec = load(&plain()).unwrap().spec;
        let linux = spec.linux().as_ref().unwrap();
        assert_eq!(linux.cgroups_path().as_deref(), Some(Path::new("/minke-oci/c1")));
        let resources = linux.resources().as_ref().unwrap();
        assert_eq!(resources.devices().as_ref().unwrap().len(), 2 + DEVICES.len());
    }

    #[test]
    fn a_cgroup_path_is_absolute_or_below_ours() {
        let path = |asked: &str| cgroup_path("c1", Some(Path::new(asked))).map(|it| it.to_string());
        assert_eq!(path("/a/b").unwrap(), "/a/b");
        assert_eq!(path("a/b").unwrap(), "/minke-oci/a/b");
        assert_eq!(path("").unwrap(), "/minke-oci/c1");
        assert!(path("/a/../b").is_err());
        assert!(path("/").is_err());
    }

    #[test]
    fn what_would_be_ignored_is_refused_by_name() {
        for (field, pointer, value) in [
            ("ociVersion", "/ociVersion", serde_json::json!("2.0.0")),
            ("process", "/process", serde_json::Value::Null),
            ("linux", "/linux", serde_json::Value::Null),
            ("root", "/root", serde_json::Value::Null),
            ("vm", "/vm", serde_json::json!({ "kernel": { "path": "/k" } })),
            ("linux.personality", "/linux/personality", serde_json::json!({ "domain": "LINUX32" })),
            ("hostname", "/hostname", serde_json::json!("box")),
            (
                "linux.sysctl net.ipv4.ip_forward",
                "/linux/sysctl",
                serde_json::json!({ "net.ipv4.ip_forward": "1" }),
            ),
            (
                "linux.sysctl kernel.panic",
                "/linux/sysctl",
                serde_json::json!({ "kernel/panic": "1" }),
            ),
            ("linux.mountLabel", "/linux/mountLabel", serde_json::json!("a_label")),
            (
                "linux.resources.memory.kernel",
                "/linux/resources",
                serde_json::json!({ "memory": { "kernel": 4096 } }),
            ),
            ("linux.intelRdt", "/linux/intelRdt", serde_json::json!({ "closID": "x" })),
            (
                "linux.seccomp.listenerPath",
                "/linux/seccomp",
                serde_json::json!({ "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/s" }),
            ),
            ("hooks", "/hooks", serde_json::json!({ "poststop": [{ "path": "true" }] })),
            (
                "hooks",
                "/hooks",
                serde_json::json!({ "poststop": [{ "path": "/bin/true", "timeout": 0 }] }),
            ),
        ] {
            let mut config = plain();
            let (parent, name) = pointer.rsplit_once('/').unwrap();
            config.pointer_mut(parent).unwrap()[name] = value;
            let failure = load(&config).unwrap_err();
            let Failure::Config { field: named, .. } = &failure else { panic!("{failure}") };
            assert_eq!(named, field);
        }
    }
}
