//! Whole specs: what the keeper would be sent.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use executor::plan::{
    Create, ExecPlan, Handle, Launch, Namespace, Node, Placement, Plan, Source, Stdio, Window,
};
use executor::prepare::{
    CgroupView, Error, ExecInputs, Filter, Inputs, OverlayWay, Prepared, RootSource, StdioSource,
    exec_process, prepare, prepare_exec, probe, sealed,
};
use oci_spec::runtime::Spec;
use rustix::fs::SealFlags;
use serde_json::{Value, json};

use crate::isolated::{UserNamespace, isolated, read, write};

fn plain(scratch: &Path) -> Value {
    json!({
        "ociVersion": "1.3.0",
        "root": { "path": "rootfs", "readonly": true },
        "process": {
            "args": ["/bin/server", "--port=80"],
            "env": ["PATH=/bin", "TERM=dumb"],
            "cwd": "/srv",
            "user": { "uid": 33, "gid": 34, "additionalGids": [34, 35] },
            "capabilities": { "bounding": ["CAP_CHOWN", "CAP_SYS_ADMIN"] },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "soft": 10, "hard": 20 }],
            "oomScoreAdj": 500,
            "noNewPrivileges": true
        },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc",
              "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
              "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
              "options": ["newinstance", "gid=5"] },
            { "destination": "/data", "type": "bind", "source": scratch.join("data"),
              "options": ["rbind", "rprivate", "ro"] },
            { "destination": "/etc/hosts", "type": "bind", "source": scratch.join("hosts"),
              "options": ["rbind", "rprivate", "rw"] },
            { "destination": "/dev/shm", "type": "bind", "source": "/pods/p/shm",
              "options": ["rbind", "rprivate", "rw"] },
            { "destination": "/image", "type": "overlay", "source": "overlay", "options": [
                "ro",
                format!("lowerdir={0}/layers/b:{0}/layers/a", scratch.display()),
                "X-mount.subdir=sub"
            ] }
        ],
        "linux": {
            "namespaces": [
                { "type": "pid" },
                { "type": "network", "path": "/proc/self/ns/net" },
                { "type": "ipc", "path": "/proc/self/ns/ipc" },
                { "type": "uts" },
                { "type": "mount" }
            ],
            "sysctl": { "net.ipv4.conf.eth0/5.forwarding": "1" },
            "cgroupsPath": "/",
            "rootfsPropagation": "rslave",
            "maskedPaths": ["/proc/kcore"],
            "readonlyPaths": ["/proc/sys"],
            "devices": [
                { "path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 384,
                  "uid": 7, "gid": 8 }
            ]
        },
        "hostname": "own"
    })
}

/// The files that the spec names.
fn lay_out(scratch: &Path) -> Vec<PathBuf> {
    let layers: Vec<PathBuf> = ["a", "b"].map(|name| scratch.join("layers").join(name)).into();
    for layer in &layers {
        fs::create_dir_all(layer.join("sub")).unwrap();
        fs::write(layer.join("sub").join(layer.file_name().unwrap()), "").unwrap();
    }
    fs::create_dir(scratch.join("data")).unwrap();
    fs::create_dir(scratch.join("container")).unwrap();
    fs::write(scratch.join("hosts"), "127.0.0.1 localhost").unwrap();
    layers
}

fn null() -> OwnedFd {
    File::open("/dev/null").unwrap().into()
}

struct Case {
    layers: Vec<PathBuf>,
    writable: PathBuf,
    overlay: OverlayWay,
    view: CgroupView,
}

impl Case {
    fn new(scratch: &Path) -> Self {
        Self {
            layers: lay_out(scratch),
            writable: scratch.join("container"),
            overlay: probe(scratch).unwrap(),
            view: CgroupView::detect().unwrap(),
        }
    }

    fn inputs(&self) -> Inputs<'_> {
        Inputs {
            root: RootSource::Overlay { layers: &self.layers, writable: &self.writable },
            volumes: &[],
            overlay: self.overlay,
            cgroup_view: &self.view,
            keeper_namespaces: const { &[] },
            user_namespace: None,
            pod_shm: Some(Path::new("/pods/p/shm")),
            cgroup: None,
            stdio: StdioSource::Files([null(), null(), null()]),
            seccomp: None,
        }
    }

    fn prepare(&self, spec: Value) -> Result<Prepared<Launch>, Error> {
        let spec: Spec = serde_json::from_value(spec).unwrap();
        prepare(&spec, self.inputs())
    }
}

fn text(table: &[OwnedFd], handle: Handle) -> String {
    let mut file = File::from(handle.of(table).unwrap().try_clone_to_owned().unwrap());
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    text
}

fn plan(prepared: &Prepared<Launch>) -> Plan {
    serde_json::from_str(&text(&prepared.descriptors, prepared.launch.plan)).unwrap()
}

fn tree<'a>(plan: &Plan, table: &'a [OwnedFd], target: &str) -> &'a OwnedFd {
    let mount = plan.mounts.iter().find(|mount| mount.target == target).unwrap();
    let Source::Tree(Handle(place)) = mount.source else { panic!("{target}: {:?}", mount.source) };
    &table[place as usize]
}

#[test]
fn a_spec_becomes_a_sealed_plan_and_open_descriptors() {
    isolated("plan::a_spec_becomes_a_sealed_plan_and_open_descriptors", |scratch| {
        let case = Case::new(scratch);
        let spec: Spec = serde_json::from_value(plain(scratch)).unwrap();
        let filter = sealed("filter", b"instructions").unwrap();
        let inputs = Inputs {
            keeper_namespaces: &[Path::new("/proc/self/ns/net")],
            seccomp: Some(Filter { program: filter.as_fd(), flags: 2 }),
            ..case.inputs()
        };
        let prepared = prepare(&spec, inputs).unwrap();
        let table = &prepared.descriptors;
        let launch = &prepared.launch;

        let seals = rustix::fs::fcntl_get_seals(launch.plan.of(table).unwrap()).unwrap();
        assert!(seals.contains(SealFlags::WRITE | SealFlags::GROW | SealFlags::SEAL));
        assert_eq!(launch.namespaces.pid, Namespace::New);
        assert_eq!(launch.namespaces.net, Namespace::Inherit);
        assert!(matches!(launch.namespaces.ipc, Namespace::Join(_)));
        assert_eq!(launch.cgroup, Placement::Inherit);
        assert_eq!(launch.limits.oom_score_adj, Some(500));
        assert_eq!(launch.limits.rlimits[0].resource, 7);

        let plan = plan(&prepared);
        assert!(plan.root.read_only);
        assert_eq!(plan.hostname.as_deref(), Some("own"));
        assert_eq!(plan.sysctls, [("net/ipv4/conf/eth0.5/forwarding".into(), "1".into())]);
        assert_eq!(plan.process.groups, [34, 35]);
        assert_eq!(plan.process.capabilities.bounding, 1 | 1 << 21);
        assert!(launch.onlooker, "CAP_SYS_ADMIN may");
        let seccomp = plan.process.seccomp.unwrap();
        assert_eq!((text(table, seccomp.program).as_str(), seccomp.flags), ("instructions", 2));

        let root = &table[plan.root.mount.0 as usize];
        assert_eq!(read(root, "sub/a").unwrap(), "");
        assert!(write(tree(&plan, table, "/data"), "new").is_err());
        assert_eq!(read(tree(&plan, table, "/image"), "b").unwrap(), "");
        let targets: Vec<&str> = plan.mounts.iter().map(|mount| mount.target.as_str()).collect();
        let expected = ["/proc", "/dev", "/dev/pts", "/data", "/etc/hosts", "/dev/shm", "/image"];
        assert_eq!(targets, expected);
        assert_eq!(plan.mounts[4].create, Create::File);
        assert_eq!(plan.mounts[5].source, Source::PodShm);

        let nulls: Vec<_> =
            plan.devices.iter().filter(|device| device.path == "/dev/null").collect();
        assert!(matches!(nulls[..], [device] if matches!(device.node, Node::Make { uid: 7, .. })));
        assert_eq!(plan.devices.len(), 6);
        assert!(plan.links.iter().any(|link| link.path == "/dev/ptmx"));
    });
}

#[test]
fn a_user_namespace_translates_what_the_kernel_will_be_told() {
    isolated("plan::a_user_namespace_translates_what_the_kernel_will_be_told", |scratch| {
        let case = Case::new(scratch);
        let users = UserNamespace::new();
        let first = UserNamespace::FIRST;
        let mappings = json!([{ "containerID": 0, "hostID": first, "size": 65536 }]);
        let mut spec = plain(scratch);
        spec["linux"]["uidMappings"] = mappings.clone();
        spec["linux"]["gidMappings"] = mappings.clone();
        let list = spec["linux"]["namespaces"].as_array_mut().unwrap();
        list.push(json!({ "type": "user" }));
        for place in [3, 6] {
            spec["mounts"][place]["uidMappings"] = mappings.clone();
            spec["mounts"][place]["gidMappings"] = mappings.clone();
        }
        let parse = |spec: &Value| serde_json::from_value::<Spec>(spec.clone()).unwrap();
        let inputs = || Inputs { user_namespace: Some(users.fd.as_fd()), ..case.inputs() };

        let prepared = prepare(&parse(&spec), inputs()).unwrap();
        let table = &prepared.descriptors;
        let plan = plan(&prepared);
        let uid = |descriptor: &OwnedFd| rustix::fs::fstat(descriptor).unwrap().st_uid;
        assert_eq!(uid(&table[plan.root.mount.0 as usize]), first);
        assert_eq!(uid(tree(&plan, table, "/data")), first);
        assert_eq!(uid(tree(&plan, table, "/image")), first);
        assert_eq!(uid(tree(&plan, table, "/etc/hosts")), 0);
        let parameters = |target: &str| {
            let mount = plan.mounts.iter().find(|mount| mount.target == target).unwrap();
            let Source::New(filesystem) = &mount.source else { panic!("{target}") };
            filesystem.parameters.clone()
        };
        let root = Some(first.to_string());
        assert!(parameters("/dev").contains(&("uid".into(), root.clone())));
        assert!(parameters("/dev").contains(&("gid".into(), root)));
        assert!(parameters("/dev/pts").contains(&("gid".into(), Some((first + 5).to_string()))));
        assert!(plan.devices.iter().any(|device| {
            matches!(device.node, Node::Make { uid, gid, .. } if uid == first + 7 && gid == first + 8)
        }));

        spec["mounts"][3]["uidMappings"][0]["hostID"] = json!(1);
        let error = prepare(&parse(&spec), inputs()).unwrap_err().to_string();
        assert!(error.starts_with("mounts[/data]"), "{error}");
    });
}

#[test]
fn a_bound_dev_is_left_alone() {
    isolated("plan::a_bound_dev_is_left_alone", |scratch| {
        let case = Case::new(scratch);
        let mut spec = plain(scratch);
        spec["mounts"][1] = json!({
            "destination": "/dev/", "type": "bind", "source": "/dev", "options": ["rbind"]
        });
        let plan = plan(&case.prepare(spec).unwrap());
        assert!(plan.devices.is_empty() && plan.links.is_empty());
    });
}

#[test]
fn the_cgroup_mount_follows_the_host() {
    isolated("plan::the_cgroup_mount_follows_the_host", |scratch| {
        let case = Case::new(scratch);
        let mut spec = plain(scratch);
        spec["mounts"] = json!([{
            "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]
        }]);
        let prepared = case.prepare(spec).unwrap();
        let plan = plan(&prepared);
        let Source::New(first) = &plan.mounts[0].source else { panic!("{:?}", plan.mounts[0]) };
        match first.kind.as_str() {
            "cgroup2" => assert_eq!(plan.mounts.len(), 1),
            "tmpfs" => {
                assert!(plan.mounts.len() > 2);
                let memory = tree(&plan, &prepared.descriptors, "/sys/fs/cgroup/memory");
                assert!(read(memory, "memory.usage_in_bytes").is_ok());
                let flags = rustix::fs::fstatvfs(memory).unwrap().f_flag;
                assert!(flags.contains(rustix::fs::StatVfsMountFlags::RDONLY));
            }
            other => panic!("{other}"),
        }
    });
}

#[test]
fn an_exec_is_the_containers_process_with_other_arguments() {
    isolated("plan::an_exec_is_the_containers_process_with_other_arguments", |scratch| {
        let spec: Spec = serde_json::from_value(plain(scratch)).unwrap();
        let args = ["ls".to_owned(), "-l".to_owned()];
        let window = Window { rows: 24, columns: 80 };
        let process = exec_process(&spec, &args, true).unwrap();
        let prepared = prepare_exec(
            &spec,
            ExecInputs {
                process: &process,
                init: null(),
                user_namespace: None,
                cgroup: None,
                stdio: StdioSource::Terminal(window),
                seccomp: None,
            },
        )
        .unwrap();
        let plan = text(&prepared.descriptors, prepared.launch.plan);
        let process = serde_json::from_str::<ExecPlan>(&plan).unwrap().process;
        assert_eq!(process.args, args);
        assert_eq!(process.env, ["PATH=/bin", "TERM=xterm"]);
        assert_eq!((process.uid, process.cwd.as_str()), (33, "/srv"));
        assert_eq!(prepared.launch.stdio, Stdio::Terminal(window));
        assert_eq!(prepared.launch.limits.oom_score_adj, Some(500));
    });
}

#[test]
fn mistakes_are_named() {
    isolated("plan::mistakes_are_named", |scratch| {
        let case = Case::new(scratch);
        let breaks = [
            ("process.args", "/process/args", json!([])),
            ("process.args", "/process/args", json!(["a\u{0}b"])),
            ("process.cwd", "/process/cwd", json!("srv")),
            ("process.rlimits", "/process/rlimits/0/soft", json!(21)),
            ("/mnt/gone", "/mounts/3/source", json!("/mnt/gone")),
            ("mounts.destination", "/mounts/3/destination", json!("data")),
            ("mounts[/image]", "/mounts/6/options", json!(["lowerdir=/a", "upperdir=/b"])),
            ("mounts[/dev]", "/mounts/1/options", json!(["tmpcopyup"])),
            ("/no/such/ns", "/linux/namespaces/1/path", json!("/no/such/ns")),
            ("linux.namespaces", "/linux/namespaces/4/type", json!("time")),
            ("linux.namespaces", "/linux/namespaces", json!([{ "type": "pid" }])),
            ("linux.sysctl", "/linux/sysctl", json!({ "net../kernel.panic": "1" })),
            ("linux.rootfsPropagation", "/linux/rootfsPropagation", json!("sideways")),
            ("linux.devices", "/linux/devices/0/major", json!(-1)),
        ];
        for (name, pointer, value) in breaks {
            let mut spec = plain(scratch);
            *spec.pointer_mut(pointer).unwrap() = value;
            let error = case.prepare(spec).unwrap_err();
            assert!(error.to_string().contains(name), "{name}: {error}");
        }
    });
}
