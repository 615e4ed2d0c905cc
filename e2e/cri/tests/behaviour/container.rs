//! Containers: how they are made, begin, end, and what is said of it.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use e2e_cri::client::{Container, Cri, Pod, eventually, namespaces};
use e2e_cri::group::Group;
use e2e_cri::shared;
use k8s_cri::v1::*;
use rustix::process::{Pid, Signal, kill_process};
use tonic::Code;

pub fn group() -> Group {
    let tests = shared![
        a_containers_retry_is_given_what_there_is,
        retries_at_once_make_one_container,
        a_program_that_is_missing_leaves_a_container_that_says_so,
        ends_have_reasons_and_times,
        a_container_starts_once,
        the_stop_signal_comes_first_and_the_kill_in_time,
        an_end_can_only_be_brought_forward,
        a_container_among_the_hosts_processes_ends_whole,
        a_container_among_the_pods_processes_ends_whole,
        a_container_among_anothers_processes_sees_these_alone,
        a_running_container_is_removed,
        sources_that_are_missing_are_made,
        limits_change_where_they_are_named,
        ids_may_be_shortened,
        the_image_is_called_alike_everywhere,
    ];
    Group::new("container", tests)
}

async fn a_containers_retry_is_given_what_there_is(cri: Cri) {
    let pod = cri.pod("retry-c").await;
    let config = pod.container_config("c", &["sleep", "1000"]);
    let container = pod.try_create(config.clone()).await.unwrap();
    assert_eq!(pod.try_create(config.clone()).await.unwrap().id, container.id);
    let mut other = config.clone();
    other.command = vec!["true".into()];
    let status = pod.try_create(other).await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists, "{status}");
    assert!(status.message().contains(&container.id), "{status}");
    container.try_start().await.unwrap();
    // What runs is not what was asked for: to be created.
    assert_eq!(pod.try_create(config.clone()).await.unwrap_err().code(), Code::AlreadyExists);
    container.remove().await;
    assert_ne!(pod.try_create(config).await.unwrap().id, container.id);
}

async fn retries_at_once_make_one_container(cri: Cri) {
    let pod = cri.pod("at-once-c").await;
    let config = pod.container_config("c", &["sleep", "1000"]);
    let making: Vec<_> = (0..8)
        .map(|_| {
            let (pod, config) = (pod.clone(), config.clone());
            tokio::spawn(async move { pod.try_create(config).await.unwrap().id })
        })
        .collect();
    let mut ids = Vec::new();
    for one in making {
        ids.push(one.await.unwrap());
    }
    ids.dedup();
    assert_eq!(ids.len(), 1);
}

async fn a_program_that_is_missing_leaves_a_container_that_says_so(cri: Cri) {
    let pod = cri.pod("missing").await;
    let container = pod.try_create(pod.container_config("c", &["/no/such/program"])).await.unwrap();
    let error = container.try_start().await.unwrap_err();
    assert!(error.message().contains("/no/such/program"), "{error}");
    let status = container.status().await;
    assert_eq!(status.state(), ContainerState::ContainerExited);
    assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
    assert!(status.message.contains("/no/such/program"), "{}", status.message);
    assert!(status.finished_at >= status.created_at);
}

async fn ends_have_reasons_and_times(cri: Cri) {
    let pod = cri.pod("ends").await;
    for (name, script, code, reason) in
        [("well", "exit 0", 0, "Completed"), ("badly", "exit 7", 7, "Error")]
    {
        let status = pod.sh(name, script).await.ended().await;
        assert_eq!((status.exit_code, status.reason.as_str()), (code, reason), "{name}");
        assert!(status.created_at > 0 && status.created_at <= status.started_at, "{name}");
        assert!(status.started_at <= status.finished_at, "{name}");
    }
    let killed = pod.sh("killed", "sleep 1000").await;
    let pid = i32::try_from(killed.pid().await).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    let status = killed.ended().await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"));
}

async fn a_container_starts_once(cri: Cri) {
    let pod = cri.pod("once").await;
    let container = pod.sh("c", "sleep 1000").await;
    let started = container.status().await.started_at;
    assert_eq!(container.try_start().await.unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(container.status().await.started_at, started);
    container.stop(0).await;
    assert_eq!(container.try_start().await.unwrap_err().code(), Code::FailedPrecondition);
}

/// A container that notes SIGTERM and does this then.
async fn listener(cri: &Cri, name: &str, then: &str) -> Container {
    let script = format!("trap 'echo term; {then}' TERM; echo ready; while :; do sleep 0.1; done");
    let container = cri.pod(name).await.sh("c", &script).await;
    container.says("ready").await;
    container
}

async fn the_stop_signal_comes_first_and_the_kill_in_time(cri: Cri) {
    let polite = listener(&cri, "polite", "exit 5").await;
    polite.stop(20).await;
    assert_eq!(polite.status().await.exit_code, 5);
    let deaf = listener(&cri, "deaf", ":").await;
    let began = Instant::now();
    deaf.stop(1).await;
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(10), "{took:?}");
    assert_eq!(deaf.status().await.exit_code, 137);
    assert!(deaf.logged().contains(&"stdout F term".to_owned()));
    // A stop that comes late, and one of nothing.
    deaf.stop(1).await;
}

async fn an_end_can_only_be_brought_forward(cri: Cri) {
    let container = listener(&cri, "forward", ":").await;
    let slow = tokio::spawn({
        let container = container.clone();
        async move { container.stop(600).await }
    });
    container.says("term").await;
    let began = Instant::now();
    let fast = tokio::spawn({
        let container = container.clone();
        async move { container.stop(1).await }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    container.stop(600).await;
    fast.await.unwrap();
    slow.await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    // The signal was sent once.
    let terms = container.logged().iter().filter(|line| *line == "stdout F term").count();
    assert_eq!(terms, 1);
}

/// Ends a container with children that outlive their parent, in a PID namespace that is not its own.
async fn ends_whole(cri: &Cri, name: &str, mode: NamespaceMode) {
    let share = |c: &mut PodSandboxConfig| {
        let context = LinuxSandboxSecurityContext {
            namespace_options: Some(namespaces(NamespaceMode::Pod, mode)),
            ..Default::default()
        };
        c.linux.as_mut().unwrap().security_context = Some(context);
    };
    let pod = cri.pod_with(name, share).await;
    let marker = format!("{}{}", mode as i32 + 1, std::process::id());
    let script =
        format!("setsid sleep {marker} & (sleep {marker} &); echo ready; exec sleep {marker}");
    let set = |c: &mut ContainerConfig| {
        let linux = c.linux.as_mut().unwrap();
        linux.security_context.as_mut().unwrap().namespace_options =
            Some(namespaces(NamespaceMode::Pod, mode));
    };
    let container = pod.run_with("c", &["sh", "-c", &script], set).await;
    container.says("ready").await;
    let left = || sleepers(&marker);
    eventually("three that sleep", async || (left() == 3).then_some(())).await;
    container.stop(0).await;
    assert_eq!(left(), 0, "children outlive their container");
}

/// How many processes of this machine sleep for this long.
fn sleepers(seconds: &str) -> usize {
    let wanted = format!("sleep\0{seconds}\0");
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter(|process| {
            let command = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            command == wanted.as_bytes()
        })
        .count()
}

async fn a_container_among_the_hosts_processes_ends_whole(cri: Cri) {
    ends_whole(&cri, "host-pid", NamespaceMode::Node).await;
}

async fn a_container_among_the_pods_processes_ends_whole(cri: Cri) {
    ends_whole(&cri, "pod-pid", NamespaceMode::Pod).await;
}

async fn a_container_among_anothers_processes_sees_these_alone(cri: Cri) {
    let pod = cri.pod("target-pid").await;
    let target = pod.sh("target", "sleep 5001 & exec sleep 5002").await;
    let neighbour = pod.sh("neighbour", "exec sleep 5003").await;
    let at = |id: &str| NamespaceOption {
        target_id: id.into(),
        ..namespaces(NamespaceMode::Pod, NamespaceMode::Target)
    };
    let aimed = |pod: &Pod, name: &str, script: &str, id: &str| {
        let mut config = pod.container_config(name, &["sh", "-c", script]);
        let linux = config.linux.as_mut().unwrap();
        linux.security_context.as_mut().unwrap().namespace_options = Some(at(id));
        config
    };
    let marker = format!("4{}", std::process::id());
    let script = format!("setsid sleep {marker} & exec sleep {marker}");
    let guest = pod.try_create(aimed(&pod, "guest", &script, &target.id)).await.unwrap();
    guest.try_start().await.unwrap();
    let seen = async |container: &Container| {
        // Whole lines: a shell that is about to start them names them, too.
        let list =
            "for file in /proc/[0-9]*/cmdline; do tr '\\0' ' ' <$file; echo; done 2>/dev/null";
        let seen = container.sh(list).await;
        ["sleep 5001", "sleep 5002", "sleep 5003", &format!("sleep {marker}")]
            .map(|command| seen.lines().filter(|line| line.trim_end() == command).count())
    };
    eventually("the guest among the target's processes", async || {
        (seen(&guest).await == [1, 1, 0, 2]).then_some(())
    })
    .await;
    assert_eq!(seen(&target).await, [1, 1, 0, 2]);
    assert_eq!(seen(&neighbour).await, [0, 0, 1, 0]);
    let first = "tr '\\0' ' ' </proc/1/cmdline; readlink /proc/self/ns/pid";
    assert_eq!(guest.sh(first).await, target.sh(first).await);
    // It ends whole, and alone.
    guest.stop(0).await;
    assert_eq!(sleepers(&marker), 0);
    assert_eq!(seen(&target).await, [1, 1, 0, 0]);
    // Who is to be joined runs, and in the same pod.
    let other = cri.pod("target-pid-other").await;
    target.stop(0).await;
    for (pod, id) in [(&other, &neighbour.id), (&pod, &target.id)] {
        let status = pod.try_create(aimed(pod, "stray", "true", id)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains("target_id"), "{status}");
    }
}

async fn a_running_container_is_removed(cri: Cri) {
    let pod = cri.pod("removed").await;
    let container = pod.sh("c", "trap '' TERM; while :; do sleep 1; done").await;
    let log = container.log.clone();
    container.remove().await;
    assert_eq!(container.try_status().await.unwrap_err().code(), Code::NotFound);
    assert!(log.exists(), "logs are the kubelet's");
    container.remove().await;
}

async fn sources_that_are_missing_are_made(cri: Cri) {
    let pod = cri.pod("sources").await;
    let root = std::path::PathBuf::from(&pod.config.log_directory).join("volumes");
    std::fs::create_dir_all(root.join("real")).unwrap();
    std::fs::write(root.join("real/file"), "kept").unwrap();
    std::os::unix::fs::symlink("real", root.join("link")).unwrap();
    let at = |name: &str| root.join(name).display().to_string();
    let mount = |name: &str| Mount {
        container_path: format!("/{name}"),
        host_path: at(name),
        ..Default::default()
    };
    let set = |c: &mut ContainerConfig| c.mounts = vec![mount("a/b/made"), mount("link")];
    let container = pod.run_with("c", &["sleep", "1000"], set).await;
    assert_eq!(container.sh("cat /link/file").await, "kept");
    let made = std::fs::metadata(root.join("a/b/made")).unwrap();
    assert!(made.is_dir());
    assert_eq!(made.permissions().mode() & 0o777, 0o755);
}

async fn limits_change_where_they_are_named(cri: Cri) {
    let pod = cri.pod("limits").await;
    let set = |c: &mut ContainerConfig| {
        c.linux.as_mut().unwrap().resources = Some(LinuxContainerResources {
            cpu_shares: 512,
            memory_limit_in_bytes: 64 << 20,
            ..Default::default()
        });
    };
    let container = pod.run_with("c", &["sleep", "1000"], set).await;
    let update = async |limits: LinuxContainerResources| {
        let request = UpdateContainerResourcesRequest {
            container_id: container.id.clone(),
            linux: Some(limits),
            ..Default::default()
        };
        cri.runtime().update_container_resources(request).await
    };
    let told = async || container.status().await.resources.unwrap().linux.unwrap();
    update(LinuxContainerResources { cpu_shares: 1024, ..Default::default() }).await.unwrap();
    let limits = told().await;
    assert_eq!((limits.cpu_shares, limits.memory_limit_in_bytes), (1024, 64 << 20));
    // What the container uses is more than a megabyte; the old limit stays.
    container.sh("dd if=/dev/zero of=/dev/shm/x bs=1M count=8 2>/dev/null").await;
    let low = LinuxContainerResources { memory_limit_in_bytes: 1 << 20, ..Default::default() };
    let status = update(low).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert_eq!(told().await.memory_limit_in_bytes, 64 << 20);
    assert!(container.is_running().await);
    container.stop(0).await;
    let status = update(LinuxContainerResources::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
}

async fn ids_may_be_shortened(cri: Cri) {
    let pod = cri.pod("short").await;
    let container = pod.sh("c", "sleep 1000").await;
    let short = cri.container(&container.id[..13], &container.log);
    assert_eq!(short.status().await.id, container.id);
    assert_eq!(short.sh("echo hi").await, "hi");
    short.stop(0).await;
    assert!(!container.is_running().await);
    short.remove().await;
    assert_eq!(container.try_status().await.unwrap_err().code(), Code::NotFound);
}

async fn the_image_is_called_alike_everywhere(cri: Cri) {
    let pod = cri.pod("image-name").await;
    let container = pod.sh("c", "sleep 1000").await;
    let image = cri.image(e2e_cri::client::BUSYBOX).await.unwrap();
    let filter = ContainerFilter { id: container.id.clone(), ..Default::default() };
    let request = ListContainersRequest { filter: Some(filter) };
    let listed = cri.runtime().list_containers(request).await.unwrap().into_inner().containers;
    let status = container.status().await;
    assert_eq!(listed[0].image_id, image.id);
    assert_eq!(status.image_id, image.id);
    assert_eq!(status.image_ref, listed[0].image_ref);
    assert!(image.repo_digests.contains(&status.image_ref), "{}", status.image_ref);
    assert_eq!(status.image.unwrap().image, e2e_cri::client::BUSYBOX);
}
