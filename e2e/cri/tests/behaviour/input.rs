//! Input that cannot be honoured: a clear error that names what is wrong, and nothing is lost.

use e2e_cri::client::{Cri, image_spec};
use e2e_cri::group::Group;
use e2e_cri::shared;
use k8s_cri::v1::*;
use tonic::Code;

pub fn group() -> Group {
    let tests = shared![a_pod_is_refused_by_field, missing_images_are_named, unknown_ids];
    Group::new("input", tests)
}

/// A change that makes a config impossible, and the field that has to be named.
type Mistake<C> = (&'static str, fn(&mut C));

async fn a_pod_is_refused_by_field(cri: Cri) {
    let mistakes: [Mistake<PodSandboxConfig>; 5] = [
        ("metadata", |c| c.metadata = None),
        ("metadata.name", |c| c.metadata.as_mut().unwrap().name.clear()),
        ("hostname", |c| c.hostname = "no/host".into()),
        ("log_directory", |c| c.log_directory = "relative".into()),
        ("port_mappings[0].host_port", |c| {
            c.port_mappings =
                vec![PortMapping { host_port: 70_000, container_port: 80, ..Default::default() }];
        }),
    ];
    for (field, change) in mistakes {
        let mut config = cri.pod_config("refused");
        change(&mut config);
        let status = cri.try_pod(config).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{field}: {status}");
        assert!(status.message().contains(field), "{field}: {status}");
    }
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
    let container = cri.container(&id, "/none".as_ref());
    for status in [
        container.try_status().await.unwrap_err(),
        container.try_start().await.unwrap_err(),
        container.try_exec(&["true"], 0).await.unwrap_err(),
    ] {
        assert_eq!(status.code(), Code::NotFound, "{status}");
        assert!(status.message().contains(&id[..12]), "{status}");
    }
}
