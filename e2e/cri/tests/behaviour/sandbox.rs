//! Pods: retries, failures that stay visible, stops that nothing slips past, filters.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use e2e_cri::client::{Cri, Pod, eventually, namespaces};
use e2e_cri::group::Group;
use e2e_cri::shared;
use k8s_cri::v1::*;
use tonic::{Code, Request};

pub fn group() -> Group {
    let tests = shared![
        a_pods_retry_is_given_what_there_is,
        retries_at_once_make_one_pod,
        a_caller_that_left_finds_its_pod,
        a_failed_pod_is_seen_until_it_is_removed,
        stopping_and_removing_twice_is_once,
        nothing_slips_into_a_stopped_pod,
        a_pod_takes_all_its_containers_along,
        pods_are_filtered_by_all_that_is_asked,
        containers_are_filtered_by_all_that_is_asked,
        a_pod_has_its_own_files_and_kernel_parameters,
    ];
    Group::new("sandbox", tests)
}

async fn listed(cri: &Cri, filter: PodSandboxFilter) -> Vec<PodSandbox> {
    let request = ListPodSandboxRequest { filter: Some(filter) };
    cri.runtime().list_pod_sandbox(request).await.unwrap().into_inner().items
}

/// The pods with a name, whatever their state.
async fn named(cri: &Cri, name: &str) -> Vec<PodSandbox> {
    let mut pods = listed(cri, PodSandboxFilter::default()).await;
    pods.retain(|pod| pod.metadata.as_ref().unwrap().name == name);
    pods
}

async fn a_pods_retry_is_given_what_there_is(cri: Cri) {
    let pod = cri.pod("retry").await;
    assert_eq!(cri.try_pod(pod.config.clone()).await.unwrap().id, pod.id);
    let mut next = pod.config.clone();
    next.metadata.as_mut().unwrap().attempt = 1;
    assert_ne!(cri.try_pod(next).await.unwrap().id, pod.id);
    pod.stop().await;
    let status = cri.try_pod(pod.config.clone()).await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists, "{status}");
    assert!(status.message().contains(&pod.id), "{status}");
    pod.remove().await;
    assert_ne!(cri.try_pod(pod.config.clone()).await.unwrap().id, pod.id);
}

async fn retries_at_once_make_one_pod(cri: Cri) {
    let config = cri.pod_config("at-once");
    let running: Vec<_> = (0..8)
        .map(|_| {
            let (cri, config) = (cri.clone(), config.clone());
            tokio::spawn(async move { cri.try_pod(config).await.unwrap().id })
        })
        .collect();
    let mut ids = HashSet::new();
    for one in running {
        ids.insert(one.await.unwrap());
    }
    assert_eq!(ids.len(), 1);
    assert_eq!(named(&cri, "at-once").await.len(), 1);
}

async fn a_caller_that_left_finds_its_pod(cri: Cri) {
    for round in 0..10 {
        let config = cri.pod_config(&format!("left-{round}"));
        let mut request = Request::new(RunPodSandboxRequest {
            config: Some(config.clone()),
            ..Default::default()
        });
        request.set_timeout(Duration::from_millis(round));
        // It may be done in that time: then the retry is one like any other.
        let first = cri.runtime().run_pod_sandbox(request).await;
        let pod = cri.try_pod(config).await.unwrap();
        if let Ok(first) = first {
            assert_eq!(first.into_inner().pod_sandbox_id, pod.id);
        }
        assert_eq!(named(&cri, &format!("left-{round}")).await.len(), 1);
        assert!(!pod.ip().await.is_empty());
    }
}

async fn a_failed_pod_is_seen_until_it_is_removed(cri: Cri) {
    let mapping = PortMapping { host_port: 31_747, container_port: 80, ..Default::default() };
    let first = cri.pod_with("has-port", |c| c.port_mappings = vec![mapping.clone()]).await;
    let mut config = cri.pod_config("fails");
    config.port_mappings = vec![mapping];
    let status = cri.try_pod(config.clone()).await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists, "{status}");
    let failed = named(&cri, "fails").await;
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert_eq!(failed[0].state(), PodSandboxState::SandboxNotready);
    let pod = Pod { cri: cri.clone(), id: failed[0].id.clone(), config: config.clone() };
    assert_eq!(pod.ip().await, "");
    // It does not hold its name.
    first.remove().await;
    let retried = cri.try_pod(config).await.unwrap();
    assert_ne!(retried.id, pod.id);
    pod.remove().await;
    assert_eq!(named(&cri, "fails").await.len(), 1);
}

async fn stopping_and_removing_twice_is_once(cri: Cri) {
    let pod = cri.pod("twice").await;
    pod.sh("c", "sleep 1000").await;
    let ip = pod.ip().await;
    assert!(!ip.is_empty());
    let (first, second) = (pod.stop(), pod.stop());
    tokio::join!(first, second);
    pod.stop().await;
    let status = pod.status().await;
    assert_eq!(status.state(), PodSandboxState::SandboxNotready);
    assert_eq!(pod.ip().await, "", "a stopped pod has no address");
    pod.remove().await;
    pod.remove().await;
    assert_eq!(pod.try_status().await.unwrap_err().code(), Code::NotFound);
}

async fn nothing_slips_into_a_stopped_pod(cri: Cri) {
    for round in 0..5 {
        let pod = cri.pod(&format!("slip-{round}")).await;
        let making: Vec<_> = (0..6)
            .map(|number| {
                let pod = pod.clone();
                tokio::spawn(async move {
                    let config = pod.container_config(&format!("c{number}"), &["sleep", "1000"]);
                    let made = pod.try_create(config).await?;
                    made.try_start().await
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(round * 5)).await;
        pod.stop().await;
        for one in making {
            if let Err(status) = one.await.unwrap() {
                assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
            }
        }
        let config = pod.container_config("late", &["true"]);
        let status = pod.try_create(config).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
        for container in containers(&cri, of_pod(&pod)).await {
            assert_eq!(container.state(), ContainerState::ContainerExited, "{container:?}");
        }
    }
}

async fn a_pod_takes_all_its_containers_along(cri: Cri) {
    let pod = cri.pod("along").await;
    for number in 0..8 {
        // It does not listen to anything.
        pod.sh(&format!("c{number}"), "trap '' TERM INT HUP; while :; do sleep 1; done").await;
    }
    let began = Instant::now();
    pod.stop().await;
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    let ended = containers(&cri, of_pod(&pod)).await;
    assert_eq!(ended.len(), 8);
    for container in &ended {
        assert_eq!(container.state(), ContainerState::ContainerExited, "{container:?}");
    }
    pod.remove().await;
    assert!(containers(&cri, of_pod(&pod)).await.is_empty());
}

fn labels(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

async fn pods_are_filtered_by_all_that_is_asked(cri: Cri) {
    let own = |name: &'static str, kind: &'static str| {
        let cri = cri.clone();
        async move {
            let set = |c: &mut PodSandboxConfig| {
                c.labels = labels(&[("test", "filter"), ("kind", kind)]).into_iter().collect();
            };
            cri.pod_with(name, set).await
        }
    };
    let (one, two) = (own("filter-1", "a").await, own("filter-2", "b").await);
    two.stop().await;
    let ids = |filter| {
        let cri = cri.clone();
        async move {
            let pods = listed(&cri, filter).await;
            pods.into_iter().map(|pod| pod.id).collect::<HashSet<_>>()
        }
    };
    let selector = |pairs: &[(&str, &str)]| labels(pairs).into_iter().collect::<HashMap<_, _>>();
    let filter = |pairs: &[(&str, &str)]| PodSandboxFilter {
        label_selector: selector(pairs),
        ..Default::default()
    };
    let ready = Some(PodSandboxStateValue { state: PodSandboxState::SandboxReady.into() });
    let only = |pod: &Pod| HashSet::from([pod.id.clone()]);
    assert_eq!(ids(filter(&[("test", "filter")])).await.len(), 2);
    assert_eq!(ids(filter(&[("test", "filter"), ("kind", "b")])).await, only(&two));
    assert_eq!(
        ids(PodSandboxFilter { state: ready, ..filter(&[("test", "filter")]) }).await,
        only(&one)
    );
    let shortened = PodSandboxFilter { id: two.id[..13].into(), ..Default::default() };
    assert_eq!(ids(shortened.clone()).await, only(&two));
    assert!(ids(PodSandboxFilter { state: ready, ..shortened }).await.is_empty());
    let unknown = PodSandboxFilter { id: "none".into(), ..Default::default() };
    assert!(ids(unknown).await.is_empty());
}

async fn containers(cri: &Cri, filter: ContainerFilter) -> Vec<Container> {
    let request = ListContainersRequest { filter: Some(filter) };
    cri.runtime().list_containers(request).await.unwrap().into_inner().containers
}

fn of_pod(pod: &Pod) -> ContainerFilter {
    ContainerFilter { pod_sandbox_id: pod.id.clone(), ..Default::default() }
}

async fn containers_are_filtered_by_all_that_is_asked(cri: Cri) {
    let pod = cri.pod("filter-c").await;
    let mut config = pod.container_config("waits", &["sleep", "1000"]);
    config.labels = labels(&[("kind", "a"), ("more", "b")]).into_iter().collect();
    let waits = pod.try_create(config).await.unwrap();
    let runs = pod.sh("runs", "sleep 1000").await;
    let ended = pod.sh("ended", "exit 3").await;
    ended.ended().await;
    let ids = async |filter| {
        let found = containers(&cri, filter).await;
        found.into_iter().map(|container| container.id).collect::<Vec<_>>()
    };
    for (state, container) in [
        (ContainerState::ContainerCreated, &waits),
        (ContainerState::ContainerRunning, &runs),
        (ContainerState::ContainerExited, &ended),
    ] {
        let state = Some(ContainerStateValue { state: state.into() });
        assert_eq!(
            ids(ContainerFilter { state, ..of_pod(&pod) }).await,
            std::slice::from_ref(&container.id)
        );
    }
    let state = Some(ContainerStateValue { state: ContainerState::ContainerUnknown.into() });
    assert!(ids(ContainerFilter { state, ..of_pod(&pod) }).await.is_empty());
    let shortened = ContainerFilter {
        pod_sandbox_id: pod.id[..12].into(),
        id: runs.id[..12].into(),
        ..Default::default()
    };
    assert_eq!(ids(shortened).await, std::slice::from_ref(&runs.id));
    let label_selector = labels(&[("kind", "a"), ("more", "b")]).into_iter().collect();
    assert_eq!(
        ids(ContainerFilter { label_selector, ..of_pod(&pod) }).await,
        std::slice::from_ref(&waits.id)
    );
    let label_selector = labels(&[("kind", "a"), ("more", "c")]).into_iter().collect();
    assert!(ids(ContainerFilter { label_selector, ..of_pod(&pod) }).await.is_empty());
    let elsewhere = ContainerFilter { pod_sandbox_id: "none".into(), ..Default::default() };
    assert!(ids(elsewhere).await.is_empty());
}

async fn a_pod_has_its_own_files_and_kernel_parameters(cri: Cri) {
    let pod = cri.pod_with("files", |c| c.hostname = "web".into()).await;
    let container = pod.sh("c", "sleep 1000").await;
    assert_eq!(container.sh("cat /etc/hostname; hostname").await, "web\nweb");
    let host = std::fs::read_to_string("/etc/resolv.conf").unwrap();
    assert_eq!(container.sh("cat /etc/resolv.conf").await, host.trim_end());
    let of = |name: &str| format!("cat /proc/sys/net/ipv4/{name}");
    assert_eq!(container.sh(&of("ip_unprivileged_port_start")).await, "0");
    assert_eq!(container.sh(&of("ping_group_range")).await.split_whitespace().next(), Some("0"));
    assert!(container.sh("df -k /dev/shm | tail -n 1").await.contains("65536"));
    // On the host's network it is the host's.
    let host_network = |c: &mut PodSandboxConfig| {
        let context = LinuxSandboxSecurityContext {
            namespace_options: Some(namespaces(NamespaceMode::Node, NamespaceMode::Container)),
            ..Default::default()
        };
        c.linux.as_mut().unwrap().security_context = Some(context);
    };
    let pod = cri.pod_with("files-host", host_network).await;
    let container = pod.sh("c", "sleep 1000").await;
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(container.sh("hostname").await, host.trim_end());
    eventually("a pod on the host's network without an address of its own", async || {
        pod.ip().await.is_empty().then_some(())
    })
    .await;
}
