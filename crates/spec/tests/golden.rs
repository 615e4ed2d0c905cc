//! The specs of four containers, whole, against files. `MINKE_BLESS=1` writes the files anew; the
//! difference is then for the eyes of a reviewer.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use model::{
    Capabilities, ContainerMetadata, ContainerSpec, Device, IdMapping, ImageVolume, IpcMode, Mount,
    NamespaceModes, NetworkMode, PidMode, PodMetadata, PodSpec, Propagation, Resources,
    UserNamespace,
};
use oci_spec::image::Config;
use oci_spec::runtime::{Capability, LinuxDeviceType, LinuxSeccomp};
use serde_json::Value;
use spec::{
    DeviceNode, Error, GrantedDevice, ImageRoot, Namespaces, NodeFacts, PidNamespace, PodFiles,
    Request, ResolvedUser, build,
};

/// Owns what a request borrows.
struct Case {
    pod: PodSpec,
    container: ContainerSpec,
    image: Config,
    user: ResolvedUser,
    node: NodeFacts,
    files: PodFiles,
    image_volumes: Vec<ImageRoot>,
    devices: Vec<GrantedDevice>,
    namespaces: Namespaces,
    seccomp: LinuxSeccomp,
}

impl Case {
    fn plain() -> Self {
        let pod = PodSpec {
            metadata: PodMetadata {
                name: "web-0".into(),
                uid: "f00d".into(),
                namespace: "shop".into(),
                attempt: 0,
            },
            hostname: "web-0".into(),
            ..PodSpec::default()
        };
        let container = ContainerSpec {
            metadata: ContainerMetadata { name: "nginx".into(), attempt: 0 },
            args: vec!["-g".into(), "daemon off;".into()],
            envs: vec![("PORT".into(), "80".into()), ("LANG".into(), "C".into())],
            mounts: vec![
                mount("/var/lib/data/deep", "/srv/deep"),
                Mount { readonly: true, ..mount("/etc/config", "/srv/config") },
            ],
            resources: Resources {
                cpu_shares: 512,
                cpu_period: 100_000,
                cpu_quota: 50_000,
                memory_limit: 256 << 20,
                oom_score_adj: 936,
                ..Resources::default()
            },
            ..ContainerSpec::default()
        };
        let mut image = Config::default();
        image
            .set_entrypoint(Some(vec!["/usr/sbin/nginx".into()]))
            .set_cmd(Some(vec!["-h".into()]))
            .set_env(Some(vec!["PATH=/usr/sbin:/usr/bin".into(), "LANG=C.UTF-8".into()]))
            .set_working_dir(Some("/srv".into()));
        let namespace = |kind: &str| Some(PathBuf::from(format!("/proc/4242/ns/{kind}")));
        Self {
            pod,
            container,
            image,
            user: ResolvedUser { uid: 33, gid: 33, groups: vec![33, 100], home: "/srv".into() },
            node: node(),
            files: PodFiles {
                hostname: Some("/run/minke/pods/p/hostname".into()),
                hosts: Some("/run/minke/pods/p/hosts".into()),
                resolv_conf: Some("/run/minke/pods/p/resolv.conf".into()),
                shm: Some("/run/minke/pods/p/shm".into()),
            },
            image_volumes: Vec::new(),
            devices: Vec::new(),
            namespaces: Namespaces {
                network: Some("/run/netns/minke-p".into()),
                ipc: namespace("ipc"),
                uts: namespace("uts"),
                user: None,
                pid: PidNamespace::New,
            },
            seccomp: LinuxSeccomp::default(),
        }
    }

    fn request(&self) -> Request<'_> {
        Request {
            pod: &self.pod,
            pod_id: "p",
            container: &self.container,
            image_name: "docker.io/library/nginx:1",
            image: &self.image,
            user: &self.user,
            node: &self.node,
            files: &self.files,
            image_volumes: &self.image_volumes,
            devices: &self.devices,
            cgroup: Path::new("/kubepods/pod1/c"),
            namespaces: &self.namespaces,
            seccomp: Some(&self.seccomp),
            apparmor: None,
            process_label: None,
            mount_label: None,
        }
    }

    fn refused(&self) -> Error {
        build(&self.request()).unwrap_err()
    }
}

fn node() -> NodeFacts {
    let capabilities = "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP \
         NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE NET_ADMIN SYS_ADMIN";
    NodeFacts {
        hostname: "node-7".into(),
        cgroup_v2: true,
        cgroup_mount_options: vec!["nsdelegate".into(), "memory_recursiveprot".into()],
        capabilities: capabilities
            .split_whitespace()
            .map(|name| name.parse::<Capability>().unwrap())
            .collect(),
        hugetlb: true,
        swap: true,
        recursive_read_only: true,
        thermal_throttle: vec!["/sys/devices/system/cpu/cpu0/thermal_throttle".into()],
        devices: vec![device("/dev/null", 1, 3), device("/dev/fuse", 10, 229)],
    }
}

fn device(path: &str, major: u32, minor: u32) -> DeviceNode {
    let kind = LinuxDeviceType::C;
    DeviceNode { path: path.into(), kind, major, minor, mode: 0o666, uid: 0, gid: 0 }
}

fn mount(container_path: &str, host_path: &str) -> Mount {
    Mount { container_path: container_path.into(), host_path: host_path.into(), ..Mount::default() }
}

/// Capability sets are sets; a file needs an order.
fn ordered(mut spec: Value) -> Value {
    if let Some(sets) = spec.pointer_mut("/process/capabilities").and_then(Value::as_object_mut) {
        for set in sets.values_mut().filter_map(Value::as_array_mut) {
            set.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
        }
    }
    spec
}

fn check(name: &str, case: &Case) {
    let spec = build(&case.request()).unwrap();
    let value = ordered(serde_json::to_value(&spec).unwrap());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.json"));
    if std::env::var_os("MINKE_BLESS").is_some() {
        let text = serde_json::to_string_pretty(&value).unwrap();
        std::fs::write(&path, text + "\n").unwrap();
    }
    let golden: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let text = |value: &Value| serde_json::to_string_pretty(value).unwrap();
    assert_eq!(text(&value), text(&golden), "{name} differs from {}", path.display());
}

fn userns() -> Option<UserNamespace> {
    let range = IdMapping { container_id: 0, host_id: 65_536, length: 65_536 };
    Some(UserNamespace { uids: vec![range], gids: vec![range] })
}

#[test]
fn a_plain_container() {
    check("plain", &Case::plain());
}

#[test]
fn a_privileged_container() {
    let mut case = Case::plain();
    case.pod.security.privileged = true;
    let security = &mut case.container.security;
    security.privileged = true;
    security.namespaces.pid = PidMode::Node;
    security.capabilities = Capabilities { drop: vec!["CHOWN".into()], ..Capabilities::default() };
    case.namespaces.pid = PidNamespace::Host;
    case.container.tty = true;
    case.container.devices = vec![Device {
        container_path: "/dev/kvm0".into(),
        host_path: "/dev/kvm".into(),
        permissions: "rw".into(),
    }];
    case.devices =
        vec![GrantedDevice { node: device("/dev/kvm0", 10, 232), permissions: "rw".into() }];
    case.container.mounts = vec![Mount {
        propagation: Propagation::Bidirectional,
        ..mount("/var/lib/kubelet", "/var/lib/kubelet")
    }];
    check("privileged", &case);
}

#[test]
fn a_user_namespaced_container() {
    let mut case = Case::plain();
    case.pod.security.namespaces.user = userns();
    let security = &mut case.container.security;
    security.namespaces.user = userns();
    security.readonly_rootfs = true;
    security.no_new_privs = true;
    security.capabilities = Capabilities {
        drop: vec!["ALL".into()],
        add_ambient: vec!["NET_BIND_SERVICE".into()],
        ..Capabilities::default()
    };
    case.namespaces.user = Some("/proc/4242/ns/user".into());
    let ranges = userns().unwrap();
    let image =
        |sub_path: &str| Some(ImageVolume { image: "models:1".into(), sub_path: sub_path.into() });
    case.container.mounts = vec![
        Mount {
            uid_mappings: ranges.uids.clone(),
            gid_mappings: ranges.gids.clone(),
            readonly: true,
            recursive_read_only: true,
            ..mount("/data", "/srv/data")
        },
        Mount { image: image(""), readonly: true, ..mount("/one", "") },
        Mount { image: image("lib/x"), readonly: true, ..mount("/several", "") },
    ];
    case.image_volumes = vec![
        ImageRoot { layers: vec!["/var/lib/minke/layers/a".into()] },
        ImageRoot {
            layers: vec!["/var/lib/minke/layers/a".into(), "/var/lib/minke/layers/b".into()],
        },
    ];
    check("userns", &case);
}

#[test]
fn a_container_on_the_hosts_network() {
    let mut case = Case::plain();
    case.node.cgroup_v2 = false;
    case.pod.hostname = String::new();
    let modes = NamespaceModes {
        network: NetworkMode::Node,
        ipc: IpcMode::Node,
        ..NamespaceModes::default()
    };
    case.pod.security.namespaces = modes.clone();
    case.container.security.namespaces = modes;
    case.container.security.masked_paths = Some(Vec::new());
    case.namespaces = Namespaces::default();
    case.files.hostname = None;
    case.files.shm = Some("/dev/shm".into());
    case.container.mounts =
        vec![mount("/etc/hosts", "/var/lib/kubelet/hosts"), mount("/dev", "/dev")];
    check("hostnetwork", &case);
}

#[test]
fn sysfs_is_bound_where_a_user_namespace_meets_the_hosts_network() {
    let mut case = Case::plain();
    case.pod.security.namespaces.user = userns();
    case.pod.security.namespaces.network = NetworkMode::Node;
    case.container.security.namespaces = case.pod.security.namespaces.clone();
    let spec = build(&case.request()).unwrap();
    let sys = spec.mounts().as_ref().unwrap().iter();
    let sys = sys.clone().find(|mount| mount.destination() == Path::new("/sys")).unwrap();
    assert_eq!(sys.typ().as_deref(), Some("bind"));
    assert!(sys.options().as_ref().unwrap().contains(&"rro".to_owned()));
}

#[test]
fn contradictions_name_their_field() {
    type Break = fn(&mut Case);
    let cases: [(&str, Break); 20] = [
        ("linux.security_context.privileged", |case| case.container.security.privileged = true),
        ("linux.security_context.namespace_options.userns_options", |case| {
            case.pod.security.namespaces.user = userns();
        }),
        ("linux.security_context.run_as_user", |case| {
            case.pod.security.namespaces.user = userns();
            case.container.security.namespaces.user = userns();
            case.user.uid = 65_536;
        }),
        ("linux.security_context.supplemental_groups", |case| {
            case.pod.security.namespaces.user = userns();
            case.container.security.namespaces.user = userns();
            case.user.groups.push(70_000);
        }),
        ("mounts[0].propagation", |case| {
            case.pod.security.namespaces.user = userns();
            case.container.security.namespaces.user = userns();
            case.container.mounts[0].propagation = Propagation::Bidirectional;
        }),
        ("linux.security_context.namespace_options.network", |case| {
            case.container.security.namespaces.network = NetworkMode::Node;
        }),
        ("linux.security_context.namespace_options.ipc", |case| {
            case.container.security.namespaces.ipc = IpcMode::Node;
        }),
        ("mounts[1].recursive_read_only", |case| {
            case.container.mounts[1].recursive_read_only = true;
            case.container.mounts[1].propagation = Propagation::HostToContainer;
        }),
        ("mounts[0].recursive_read_only", |case| {
            case.container.mounts[0].recursive_read_only = true;
        }),
        ("mounts[1].recursive_read_only", |case| {
            case.container.mounts[1].recursive_read_only = true;
            case.node.recursive_read_only = false;
        }),
        ("mounts[0].container_path", |case| case.container.mounts[0].container_path = "x".into()),
        ("mounts[0].container_path", |case| case.container.mounts[0].container_path = "/..".into()),
        ("mounts[0].host_path", |case| case.container.mounts[0].host_path = String::new()),
        ("mounts[0].mount_options", |case| {
            case.container.mounts[0].options = vec!["noexec".into(), "uid=0".into()];
        }),
        ("mounts[0].uid_mappings", |case| {
            case.container.mounts[0].uid_mappings = userns().unwrap().uids;
        }),
        ("mounts[0].readonly", |case| {
            case.container.mounts[0] =
                Mount { image: Some(ImageVolume::default()), ..mount("/i", "") };
        }),
        ("mounts[0].image_sub_path", |case| {
            let sub_path = "a/../../b".into();
            case.container.mounts[0] = Mount {
                image: Some(ImageVolume { sub_path, ..ImageVolume::default() }),
                readonly: true,
                ..mount("/i", "")
            };
            case.image_volumes = vec![ImageRoot { layers: vec!["/a".into()] }];
        }),
        ("devices[0].permissions", |case| {
            let node = device("/dev/x", 1, 3);
            case.devices = vec![GrantedDevice { node, permissions: "x".into() }];
        }),
        ("envs[0]", |case| case.container.envs = vec![("A=B".into(), String::new())]),
        ("linux.resources.cpu_shares", |case| case.container.resources.cpu_shares = -1),
    ];
    for (field, break_it) in cases {
        let mut case = Case::plain();
        break_it(&mut case);
        let error = case.refused();
        assert_eq!(error.field(), field);
        assert!(error.to_string().contains(field), "{error}");
    }
    let mut case = Case::plain();
    case.container.mounts[1].recursive_read_only = true;
    case.node.recursive_read_only = false;
    assert!(case.refused().to_string().starts_with("RROUnsupported"));
}
