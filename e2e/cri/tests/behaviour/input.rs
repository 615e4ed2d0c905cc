//! Input that cannot be honoured: a clear error that names what is wrong, and nothing is lost.

use e2e_cri::client::{Cri, image_spec, namespaces};
use e2e_cri::group::Group;
use e2e_cri::shared;
use k8s_cri::v1::*;
use tonic::{Code, Status};

pub fn group() -> Group {
    let tests = shared![
        a_pod_is_refused_by_field,
        a_container_is_refused_by_field,
        what_was_refused_leaves_nothing,
        missing_images_are_named,
        malformed_references_are_refused,
        unknown_ids,
        ids_that_are_none,
        calls_are_refused_by_field,
        calls_in_the_wrong_state,
        a_name_with_another_config_is_taken,
    ];
    Group::new("input", tests)
}

/// A change that makes a config impossible, and the field that has to be named.
type Mistake<C> = (&'static str, fn(&mut C));

fn names(status: &Status, field: &str) {
    assert_eq!(status.code(), Code::InvalidArgument, "{field}: {status}");
    assert!(status.message().contains(field), "{field}: {status}");
}

fn pod_security(config: &mut PodSandboxConfig) -> &mut LinuxSandboxSecurityContext {
    config.linux.as_mut().unwrap().security_context.get_or_insert_default()
}

fn security(config: &mut ContainerConfig) -> &mut LinuxContainerSecurityContext {
    config.linux.as_mut().unwrap().security_context.get_or_insert_default()
}

fn resources(config: &mut ContainerConfig) -> &mut LinuxContainerResources {
    config.linux.as_mut().unwrap().resources.get_or_insert_default()
}

fn mount(host: &str, container: &str) -> Mount {
    Mount { host_path: host.into(), container_path: container.into(), ..Default::default() }
}

async fn a_pod_is_refused_by_field(cri: Cri) {
    let mistakes: [Mistake<PodSandboxConfig>; 12] = [
        ("metadata", |c| c.metadata = None),
        ("metadata.name", |c| c.metadata.as_mut().unwrap().name.clear()),
        ("hostname", |c| c.hostname = "no/host".into()),
        ("log_directory", |c| c.log_directory = "relative".into()),
        ("port_mappings[0].host_port", |c| {
            let port = PortMapping { host_port: 70_000, container_port: 80, ..Default::default() };
            c.port_mappings = vec![port];
        }),
        ("port_mappings[0].host_ip", |c| {
            let host_ip = "localhost".to_owned();
            let port =
                PortMapping { host_port: 80, container_port: 80, host_ip, ..Default::default() };
            c.port_mappings = vec![port];
        }),
        ("linux.cgroup_parent", |c| c.linux.as_mut().unwrap().cgroup_parent = "/../up".into()),
        ("kernel.core_pattern", |c| {
            c.linux.as_mut().unwrap().sysctls.insert("kernel.core_pattern".into(), "|/x".into());
        }),
        ("namespace_options.target_id", |c| {
            let target = namespaces(NamespaceMode::Pod, NamespaceMode::Target);
            pod_security(c).namespace_options = Some(target);
        }),
        ("namespace_options.network", |c| {
            let odd = namespaces(NamespaceMode::Container, NamespaceMode::Container);
            pod_security(c).namespace_options = Some(odd);
        }),
        ("userns_options.uids", |c| {
            let mut options = namespaces(NamespaceMode::Pod, NamespaceMode::Container);
            options.userns_options = Some(UserNamespace::default());
            pod_security(c).namespace_options = Some(options);
        }),
        ("seccomp.profile_type", |c| {
            let profile = SecurityProfile { profile_type: 9, ..Default::default() };
            pod_security(c).seccomp = Some(profile);
        }),
    ];
    for (field, change) in mistakes {
        let mut config = cri.pod_config("refused");
        change(&mut config);
        names(&cri.try_pod(config).await.expect_err(field), field);
    }
    let handler = RunPodSandboxRequest {
        config: Some(cri.pod_config("refused")),
        runtime_handler: "kata".into(),
    };
    names(&cri.runtime().run_pod_sandbox(handler).await.unwrap_err(), "runtime_handler");
}

const CONTAINER_MISTAKES: &[Mistake<ContainerConfig>] = &[
    ("metadata", |c| c.metadata = None),
    ("metadata.name", |c| c.metadata.as_mut().unwrap().name.clear()),
    ("image", |c| c.image = None),
    ("image.image", |c| c.image = Some(image_spec(""))),
    ("command[0]", |c| c.command = vec!["a\0b".into()]),
    ("working_dir", |c| c.working_dir = "relative".into()),
    ("log_path", |c| c.log_path = "../../etc/cron.d/x".into()),
    ("log_path", |c| c.log_path = "/etc/x".into()),
    ("envs[0].key", |c| {
        let key = "A=B".to_owned();
        c.envs = vec![KeyValue { key, ..Default::default() }];
    }),
    ("mounts[0].container_path", |c| c.mounts = vec![mount("/tmp", "")]),
    ("mounts[0].host_path", |c| c.mounts = vec![mount("relative", "/v")]),
    ("mounts[0].propagation", |c| {
        c.mounts = vec![Mount { propagation: 7, ..mount("/tmp", "/v") }];
    }),
    ("mounts[0].recursive_read_only", |c| {
        c.mounts = vec![Mount { recursive_read_only: true, ..mount("/tmp", "/v") }];
    }),
    ("devices[0]", |c| {
        let (host_path, container_path) = ("/dev/null".into(), "/dev/x".into());
        c.devices = vec![Device { host_path, container_path, permissions: "z".into() }];
    }),
    ("run_as_group", |c| security(c).run_as_group = Some(Int64Value { value: 1 })),
    ("run_as_user", |c| security(c).run_as_user = Some(Int64Value { value: -1 })),
    ("run_as_username", |c| {
        security(c).run_as_user = Some(Int64Value { value: 1 });
        security(c).run_as_username = "both".into();
    }),
    ("run_as_username", |c| security(c).run_as_username = "nobody-knows".into()),
    ("NO_SUCH", |c| {
        let add_capabilities = vec!["NO_SUCH".into()];
        security(c).capabilities = Some(Capability { add_capabilities, ..Default::default() });
    }),
    ("target_id", |c| {
        let target = namespaces(NamespaceMode::Pod, NamespaceMode::Target);
        security(c).namespace_options = Some(target);
    }),
    ("localhost_ref", |c| {
        let profile_type = security_profile::ProfileType::Localhost.into();
        security(c).seccomp = Some(SecurityProfile { profile_type, ..Default::default() });
    }),
    ("/no/such/profile.json", |c| {
        let profile_type = security_profile::ProfileType::Localhost.into();
        let localhost_ref = "/no/such/profile.json".into();
        security(c).seccomp = Some(SecurityProfile { profile_type, localhost_ref });
    }),
    ("masked_paths[0]", |c| security(c).masked_paths = vec!["proc".into()]),
    ("cpuset.cpus", |c| resources(c).cpuset_cpus = "4000".into()),
    ("memory_limit_in_bytes", |c| resources(c).memory_limit_in_bytes = -5),
    ("oom_score_adj", |c| resources(c).oom_score_adj = 1001),
    ("cpu_period", |c| resources(c).cpu_period = -1),
    ("CDI_devices", |c| c.cdi_devices = vec![CdiDevice { name: "vendor.com/gpu=0".into() }]),
];

async fn a_container_is_refused_by_field(cri: Cri) {
    let pod = cri.pod("refuses").await;
    for (field, change) in CONTAINER_MISTAKES {
        let mut config = pod.container_config("c", &["true"]);
        change(&mut config);
        names(&pod.try_create(config).await.expect_err(field), field);
    }
    // The name is still free.
    assert_eq!(pod.run("c", &["true"]).await.ended().await.exit_code, 0);
}

async fn what_was_refused_leaves_nothing(cri: Cri) {
    let parent = format!("/e2e-{}-refused", std::process::id());
    let set = |c: &mut PodSandboxConfig| c.linux.as_mut().unwrap().cgroup_parent = parent.clone();
    let pod = cri.pod_with("leaves-nothing", set).await;
    for (_, change) in CONTAINER_MISTAKES {
        let mut config = pod.container_config("c", &["true"]);
        change(&mut config);
        pod.try_create(config).await.unwrap_err();
    }
    let filter = ContainerFilter { pod_sandbox_id: pod.id.clone(), ..Default::default() };
    let request = ListContainersRequest { filter: Some(filter) };
    let left = cri.runtime().list_containers(request).await.unwrap().into_inner().containers;
    assert_eq!(left, []);
    assert_eq!(e2e_cri::traces::below(&parent).len(), e2e_cri::traces::hierarchies_of(&parent));
    pod.remove().await;
    assert_eq!(e2e_cri::traces::below(&parent), Vec::<String>::new());
}

async fn missing_images_are_named(cri: Cri) {
    let status = cri.pull("docker.io/library/busybox:none-such").await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "{status}");
    assert!(status.message().contains("none-such"), "{status}");
    let pod = cri.pod("no-image").await;
    let mut config = pod.container_config("c", &["true"]);
    config.image = Some(image_spec("docker.io/library/never-pulled:1"));
    let status = pod.try_create(config).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "{status}");
    assert!(status.message().contains("never-pulled:1"), "{status}");
    assert!(cri.image("docker.io/library/never-pulled:1").await.is_none());
}

async fn malformed_references_are_refused(cri: Cri) {
    let long = format!("a/{}", "b".repeat(300));
    let words =
        ["", " ", "UPPER", "a//b", "a:b:c", "a@sha256:short", "a b", "-a", "a:", &long, "é"];
    for word in words {
        let status = cri.pull(word).await.expect_err(word);
        names(&status, "image");
        let request = ImageStatusRequest { image: Some(image_spec(word)), verbose: false };
        // A question about what cannot be is answered, or refused; it is never an error of ours.
        if let Err(status) = cri.images().image_status(request).await {
            names(&status, "image");
        }
    }
    let none = cri.images().pull_image(PullImageRequest::default()).await.unwrap_err();
    names(&none, "image");
}

async fn unknown_ids(cri: Cri) {
    let id = "ab".repeat(32);
    let mut runtime = cri.runtime();
    let stop = StopPodSandboxRequest { pod_sandbox_id: id.clone() };
    runtime.stop_pod_sandbox(stop).await.unwrap();
    let remove = RemovePodSandboxRequest { pod_sandbox_id: id.clone() };
    runtime.remove_pod_sandbox(remove).await.unwrap();
    let remove = RemoveContainerRequest { container_id: id.clone() };
    runtime.remove_container(remove).await.unwrap();
    cri.remove_image("docker.io/library/never-pulled:1").await.unwrap();
    let container = cri.container(&id, "/none".as_ref());
    let update = UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(LinuxContainerResources::default()),
        ..Default::default()
    };
    let exec = ExecRequest {
        container_id: id.clone(),
        cmd: vec!["true".into()],
        stdout: true,
        ..Default::default()
    };
    let reopen = ReopenContainerLogRequest { container_id: id.clone() };
    let stats = ContainerStatsRequest { container_id: id.clone() };
    let forward = PortForwardRequest { pod_sandbox_id: id.clone(), port: vec![80] };
    let pod = PodSandboxStatusRequest { pod_sandbox_id: id.clone(), ..Default::default() };
    let create = CreateContainerRequest {
        pod_sandbox_id: id.clone(),
        config: Some(cri.pod("of-unknown").await.container_config("c", &["true"])),
        sandbox_config: Some(cri.pod_config("of-unknown")),
    };
    for status in [
        container.try_status().await.unwrap_err(),
        container.try_start().await.unwrap_err(),
        container.try_exec(&["true"], 0).await.unwrap_err(),
        runtime.update_container_resources(update).await.unwrap_err(),
        runtime.exec(exec).await.unwrap_err(),
        runtime.reopen_container_log(reopen).await.unwrap_err(),
        runtime.container_stats(stats).await.unwrap_err(),
        runtime.port_forward(forward).await.unwrap_err(),
        runtime.pod_sandbox_status(pod).await.unwrap_err(),
        runtime.create_container(create).await.unwrap_err(),
    ] {
        assert_eq!(status.code(), Code::NotFound, "{status}");
        assert!(status.message().contains(&id[..12]), "{status}");
    }
}

async fn ids_that_are_none(cri: Cri) {
    for id in ["", "/", "../../etc", "%", "\u{0}", &"f".repeat(5000), "ABCDEF"] {
        let container = cri.container(id, "/none".as_ref());
        for status in [
            container.try_status().await.unwrap_err(),
            container.try_start().await.unwrap_err(),
            container.try_exec(&["true"], 0).await.unwrap_err(),
        ] {
            let codes = [Code::NotFound, Code::InvalidArgument];
            assert!(codes.contains(&status.code()), "{id:?}: {status}");
        }
        let stop = StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        // Nothing is stopped, whatever is said about it.
        let _ = cri.runtime().stop_pod_sandbox(stop).await;
    }
    let pod = cri.pod("not-none").await;
    assert!(pod.run("c", &["sleep", "1000"]).await.is_running().await);
}

async fn calls_are_refused_by_field(cri: Cri) {
    let container = cri.pod("calls").await.run("c", &["sleep", "1000"]).await;
    names(&container.try_exec(&[], 0).await.unwrap_err(), "cmd");
    names(&container.try_exec(&["true"], -1).await.unwrap_err(), "timeout");
    let stop = StopContainerRequest { container_id: container.id.clone(), timeout: -1 };
    names(&cri.runtime().stop_container(stop).await.unwrap_err(), "timeout");
    let exec = ExecRequest {
        container_id: container.id.clone(),
        cmd: vec!["true".into()],
        tty: true,
        stderr: true,
        ..Default::default()
    };
    names(&cri.runtime().exec(exec).await.unwrap_err(), "stderr");
    let exec = ExecRequest {
        container_id: container.id.clone(),
        cmd: vec!["true".into()],
        ..Default::default()
    };
    names(&cri.runtime().exec(exec).await.unwrap_err(), "std");
    let cidr = NetworkConfig { pod_cidr: "10.0.0.0/99".into() };
    let update = UpdateRuntimeConfigRequest {
        runtime_config: Some(RuntimeConfig { network_config: Some(cidr) }),
    };
    names(&cri.runtime().update_runtime_config(update).await.unwrap_err(), "10.0.0.0/99");
    assert!(container.is_running().await);
}

async fn calls_in_the_wrong_state(cri: Cri) {
    let pod = cri.pod("wrong-state").await;
    let container = pod.try_create(pod.container_config("c", &["true"])).await.unwrap();
    let wrong = |status: Status| {
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
        assert!(status.message().contains(&container.id[..12]), "{status}");
    };
    wrong(container.try_exec(&["true"], 0).await.unwrap_err());
    container.try_start().await.unwrap();
    container.ended().await;
    wrong(container.try_start().await.unwrap_err());
    wrong(container.try_exec(&["true"], 0).await.unwrap_err());
    // Stopping what has ended is no error.
    container.stop(0).await;
    pod.stop().await;
    let status = pod.try_create(pod.container_config("d", &["true"])).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert!(status.message().contains(&pod.id[..12]), "{status}");
    pod.remove().await;
    pod.remove().await;
}

async fn a_name_with_another_config_is_taken(cri: Cri) {
    let pod = cri.pod("taken").await;
    let same = cri.pod("taken").await;
    assert_eq!(same.id, pod.id);
    let mut other = cri.pod_config("taken");
    other.labels.insert("a".into(), "b".into());
    let status = cri.try_pod(other).await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists, "{status}");
    assert!(status.message().contains(&pod.id), "{status}");
    let one = pod.try_create(pod.container_config("c", &["true"])).await.unwrap();
    let same = pod.try_create(pod.container_config("c", &["true"])).await.unwrap();
    assert_eq!(same.id, one.id);
    let status = pod.try_create(pod.container_config("c", &["false"])).await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists, "{status}");
    assert!(status.message().contains(&one.id), "{status}");
}
