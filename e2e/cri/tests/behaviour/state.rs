//! Daemons and keepers that die: what ran goes on, what ended is known, nothing is left.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use e2e_cri::alone;
use e2e_cri::client::{BUSYBOX, Container, Cri, Pod, SOON, eventually};
use e2e_cri::daemon::Daemon;
use e2e_cri::group::Group;
use e2e_cri::image::{Built, Tar};
use e2e_cri::registry::{Lie, Registry};
use e2e_cri::traces::{Traces, traces};
use k8s_cri::v1::*;
use rustix::process::{Pid, Signal, kill_process};
use tonic::Code;

pub fn group() -> Group {
    let tests = alone![
        a_killed_daemons_pods_are_adopted,
        a_killed_keeper_takes_its_pod_along,
        a_keeper_killed_while_nobody_looks,
        pods_end_without_their_keepers,
        a_daemon_killed_anywhere_leaves_nothing,
        a_daemon_killed_while_it_pulls,
        keepers_killed_anywhere_leave_nothing,
        failures_half_way_cost_no_address,
        a_full_disk_stops_no_end,
        full_records_stop_no_end,
        yesterdays_keeper_is_driven,
        a_host_port_is_given_once,
    ];
    Group::new("state", tests)
}

/// A parent of cgroups that no other test uses.
pub fn parent(name: &str) -> String {
    format!("/e2e-{}-{name}", std::process::id())
}

pub async fn pod_below(cri: &Cri, name: &str, parent: &str) -> Pod {
    let set = |c: &mut PodSandboxConfig| c.linux.as_mut().unwrap().cgroup_parent = parent.into();
    cri.pod_with(name, set).await
}

/// The same pod or container over a newer connection.
pub async fn again(daemon: &Daemon, pod: &mut Pod, containers: &mut [&mut Container]) {
    let cri = daemon.cri().await;
    containers.iter_mut().for_each(|container| container.cri = cri.clone());
    pod.cri = cri;
}

/// Lines that count up from 1 with nothing missing; how many.
fn counted(container: &Container) -> usize {
    let lines = container.logged();
    for (at, line) in lines.iter().enumerate() {
        assert_eq!(*line, format!("stdout F {}", at + 1));
    }
    lines.len()
}

pub async fn keeper_of(pod: &Pod) -> Pid {
    let request = PodSandboxStatusRequest { pod_sandbox_id: pod.id.clone(), verbose: true };
    let answer = pod.cri.runtime().pod_sandbox_status(request).await.unwrap().into_inner();
    let info: serde_json::Value = serde_json::from_str(&answer.info["info"]).unwrap();
    Pid::from_raw(info["pid"].as_i64().unwrap().try_into().unwrap()).unwrap()
}

const COUNT: &str = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done";

async fn a_killed_daemons_pods_are_adopted() {
    let daemon = Daemon::start("adopted", "").await;
    let parent = parent("adopted");
    let mut pod = pod_below(&daemon.cri().await, "adopted", &parent).await;
    let mut counts = pod.sh("counts", COUNT).await;
    let mut ends = pod.sh("ends", "sleep 0.5; echo last; exit 7").await;
    let mut killed = pod.run("killed", &["sleep", "1000"]).await;
    let mut waits = pod.try_create(pod.container_config("waits", &["echo", "1"])).await.unwrap();
    let (ip, init, victim) = (pod.ip().await, counts.pid().await, killed.pid().await);
    daemon.kill();
    kill_process(Pid::from_raw(victim as i32).unwrap(), Signal::TERM).unwrap();
    kill_process(Pid::from_raw(victim as i32).unwrap(), Signal::KILL).unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = counted(&counts);
    assert!(before > 10);
    daemon.run();
    again(&daemon, &mut pod, &mut [&mut counts, &mut ends, &mut killed, &mut waits]).await;
    let status = ends.status().await;
    assert_eq!((status.exit_code, status.reason.as_str()), (7, "Error"));
    assert!(status.finished_at > status.started_at);
    assert_eq!(ends.logged(), ["stdout F last"]);
    let cgroups = traces(&daemon, &parent).remove("cgroups").unwrap();
    assert!(!cgroups.iter().any(|path| path.ends_with(&ends.id)), "{cgroups:?}");
    assert_eq!(killed.status().await.exit_code, 137);
    assert_eq!(pod.status().await.state(), PodSandboxState::SandboxReady);
    assert_eq!((pod.ip().await, counts.pid().await), (ip, init));
    assert_eq!(counts.exec(&["echo", "alive"]).await.out, "alive\n");
    waits.try_start().await.unwrap();
    assert_eq!(waits.ended().await.exit_code, 0);
    eventually("more lines", async || (counted(&counts) > before + 10).then_some(())).await;
    counts.stop(0).await;
    assert_eq!(counts.ended().await.exit_code, 137);
}

async fn a_killed_keeper_takes_its_pod_along() {
    let daemon = Daemon::start("keeper", "").await;
    let cri = daemon.cri().await;
    let (lost_parent, kept_parent) = (parent("lost"), parent("kept"));
    let kept = pod_below(&cri, "kept", &kept_parent).await;
    let neighbour = kept.run("neighbour", &["sleep", "1000"]).await;
    let without = traces(&daemon, &lost_parent);
    let lost = pod_below(&cri, "lost", &lost_parent).await;
    let one = lost.run("one", &["sleep", "1000"]).await;
    let two = lost.sh("two", "sleep 1000 & sleep 1000").await;
    let ended = lost.sh("ended", "exit 3").await;
    ended.ended().await;
    kill_process(keeper_of(&lost).await, Signal::KILL).unwrap();
    for container in [&one, &two] {
        let status = container.ended().await;
        assert_eq!((status.exit_code, status.reason.as_str()), (137, "KeeperLost"));
    }
    assert_eq!(ended.status().await.exit_code, 3);
    eventually("the pod is not ready", async || {
        (lost.status().await.state() == PodSandboxState::SandboxNotready).then_some(())
    })
    .await;
    eventually("network, cgroups and processes are gone", async || {
        (kernel(traces(&daemon, &lost_parent)) == kernel(without.clone())).then_some(())
    })
    .await;
    assert_eq!(neighbour.exec(&["echo", "well"]).await.out, "well\n");
    assert_eq!(kept.status().await.state(), PodSandboxState::SandboxReady);
    lost.remove().await;
    let ids = [&lost.id, &one.id, &two.id, &ended.id];
    eventually("nothing names it", async || {
        let left = traces(&daemon, &lost_parent).into_values().flatten().collect::<String>();
        (!ids.iter().any(|id| left.contains(*id))).then_some(())
    })
    .await;
}

/// What is in the kernel; files stay until a pod is removed.
fn kernel(mut traces: Traces) -> Traces {
    traces.retain(|kind, _| !kind.contains("files") && !kind.contains("copies"));
    traces
}

async fn a_keeper_killed_while_nobody_looks() {
    let daemon = Daemon::start("nobody", "").await;
    let parent = parent("nobody");
    let mut pod = pod_below(&daemon.cri().await, "nobody", &parent).await;
    let mut container = pod.sh("c", "sleep 1000 & sleep 1000").await;
    let keeper = keeper_of(&pod).await;
    daemon.kill();
    kill_process(keeper, Signal::KILL).unwrap();
    daemon.run();
    again(&daemon, &mut pod, &mut [&mut container]).await;
    let status = container.status().await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "KeeperLost"));
    assert_eq!(pod.status().await.state(), PodSandboxState::SandboxNotready);
    pod.remove().await;
    eventually_nothing(&daemon, &parent).await;
}

async fn pods_end_without_their_keepers() {
    let daemon = Daemon::start("without", "").await;
    let parent = parent("without");
    let cri = daemon.cri().await;
    // One that hangs tells of no end; the others are gone in the same moment.
    for (number, signal) in
        [Signal::STOP, Signal::KILL, Signal::KILL, Signal::KILL].into_iter().enumerate()
    {
        let pod = pod_below(&cri, &format!("without-{number}"), &parent).await;
        let container = pod.sh("c", "sleep 1000 & sleep 1000").await;
        let keeper = keeper_of(&pod).await;
        kill_process(keeper, signal).unwrap();
        pod.stop().await;
        let status = container.status().await;
        assert_eq!((status.exit_code, status.reason.as_str()), (137, "KeeperLost"), "{signal:?}");
        assert_eq!(pod.status().await.state(), PodSandboxState::SandboxNotready);
    }
    eventually_nothing(&daemon, &parent).await;
}

/// Removes what is listed until nothing is there any more.
pub async fn eventually_nothing(daemon: &Daemon, parent: &str) {
    let cri = daemon.cri().await;
    let deadline = Instant::now() + SOON;
    loop {
        let ids = cri.pod_ids().await;
        for id in &ids {
            let (cri, id) = (cri.clone(), id.clone());
            Pod { cri, id, config: PodSandboxConfig::default() }.remove().await;
        }
        let left = traces(daemon, parent);
        if ids.is_empty() && left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "left: {left:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// One pod after the other with a container each, until the daemon is gone.
async fn busy(cri: Cri, parent: String, round: usize) {
    for number in 0.. {
        let mut config = cri.pod_config(&format!("busy-{round}-{number}"));
        config.linux.as_mut().unwrap().cgroup_parent = parent.clone();
        let Ok(pod) = cri.try_pod(config).await else { return };
        let config = pod.container_config("c", &["sleep", "1000"]);
        let Ok(container) = pod.try_create(config).await else { return };
        let Ok(()) = container.try_start().await else { return };
        if number % 2 == 1 {
            let request = RemovePodSandboxRequest { pod_sandbox_id: pod.id.clone() };
            let Ok(_) = cri.runtime().remove_pod_sandbox(request).await else { return };
        }
    }
}

async fn a_daemon_killed_anywhere_leaves_nothing() {
    let subnet = format!("10.213.{}.0/28", std::process::id() % 256);
    let settings = format!("network.subnets = [{subnet:?}]");
    let daemon = Daemon::start("anywhere", &settings).await;
    let parent = parent("anywhere");
    let mut seen = HashSet::new();
    for round in 0..20 {
        let mut tasks = tokio::task::JoinSet::new();
        for half in 0..2 {
            tasks.spawn(busy(daemon.cri().await, parent.clone(), 2 * round + half));
        }
        tokio::time::sleep(Duration::from_millis(7 * round as u64)).await;
        daemon.kill();
        tasks.join_all().await;
        daemon.run();
        let cri = daemon.cri().await;
        // Every address is one pod's.
        let mut addresses = HashSet::new();
        for id in cri.pod_ids().await {
            let pod = Pod { cri: cri.clone(), id: id.clone(), config: PodSandboxConfig::default() };
            let status = pod.status().await;
            let ip = status.network.clone().unwrap_or_default().ip;
            if status.state() == PodSandboxState::SandboxReady {
                assert!(addresses.insert(ip.clone()), "{ip} twice");
            }
            pod.remove().await;
            seen.insert(id);
        }
        eventually_nothing(&daemon, &parent).await;
    }
    assert!(seen.len() > 10, "only {} pods came so far", seen.len());
    // As many addresses as ever.
    let cri = daemon.cri().await;
    let mut addresses = HashSet::new();
    for number in 0..13 {
        let pod = pod_below(&cri, &format!("after-{number}"), &parent).await;
        assert!(addresses.insert(pod.ip().await));
    }
}

async fn a_daemon_killed_while_it_pulls() {
    let daemon = Daemon::start("pulls", "").await;
    let registry = Registry::start();
    let layers =
        ["one", "two", "three"].map(|word| Tar::default().file(word, word.repeat(300_000)));
    let image = Built::new(layers, &serde_json::json!({}));
    let name = registry.push("pulled:1", &image);
    for layer in &image.layers {
        registry.lie(layer, Lie::Slow(1500));
    }
    for round in 0..8 {
        let cri = daemon.cri().await;
        let pull = tokio::spawn({
            let name = name.clone();
            async move { cri.pull(&name).await }
        });
        tokio::time::sleep(Duration::from_millis(80 * round + 10)).await;
        daemon.kill();
        let pulled = pull.await.unwrap();
        daemon.run();
        // It is there whole, or not at all.
        assert_eq!(daemon.cri().await.image(&name).await.is_some(), pulled.is_ok());
        if pulled.is_ok() {
            break;
        }
    }
    let cri = daemon.cri().await;
    assert_eq!(cri.pull(&name).await.unwrap(), image.id());
    cri.remove_image(&name).await.unwrap();
    cri.remove_image(BUSYBOX).await.unwrap();
    for part in ["layers", "staging", "images", "blobs/sha256"] {
        let dir = daemon.dir.join("root/images").join(part);
        let left: Vec<_> = fs::read_dir(&dir).into_iter().flatten().flatten().collect();
        assert!(left.is_empty(), "{part}: {left:?}");
    }
}

async fn a_full_disk_stops_no_end() {
    let daemon = Daemon::prepare("full", "").with_small("root", "64m");
    daemon.run();
    let cri = daemon.cri().await;
    cri.pull(BUSYBOX).await.unwrap();
    let spare =
        Registry::start().push("spare:1", &Built::of(Tar::default().file("f", [7; 99_999])));
    cri.pull(&spare).await.unwrap();
    let parent = parent("full");
    let pod = pod_below(&cri, "full", &parent).await;
    let container = pod.run("c", &["sleep", "1000"]).await;
    fill(&daemon.inside("root/fill"));
    // What needs room says that there is none.
    let status = pod.try_create(pod.container_config("d", &["true"])).await;
    if let Err(status) = status {
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    }
    let large = Built::of(Tar::default().file("large", vec![7; 4 << 20]));
    let registry = Registry::start();
    let status = cri.pull(&registry.push("large:1", &large)).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    // What gives room works.
    assert_eq!(container.exec(&["echo", "alive"]).await.out, "alive\n");
    container.stop(0).await;
    pod.stop().await;
    pod.remove().await;
    cri.remove_image(&spare).await.unwrap();
    cri.remove_image(BUSYBOX).await.unwrap();
    assert!(cri.image(BUSYBOX).await.is_none());
    assert_eq!(kernel(traces(&daemon, &parent)), Traces::new());
    assert!(!daemon.inside("root/containers").join(&container.id).exists());
}

async fn full_records_stop_no_end() {
    let daemon = Daemon::prepare("records", "").with_small("state", "1m");
    daemon.run();
    let cri = daemon.cri().await;
    cri.pull(BUSYBOX).await.unwrap();
    let parent = parent("records");
    let pod = pod_below(&cri, "records", &parent).await;
    let container = pod.run("c", &["sleep", "1000"]).await;
    fill(&daemon.inside("state/fill"));
    // With a little more room each time: a pod or a container is there whole, or not at all.
    let room = fs::File::options().write(true).open(daemon.inside("state/fill")).unwrap();
    let length = room.metadata().unwrap().len();
    let (mut made, mut refused) = (0, 0);
    for pages in 0..16 {
        room.set_len(length - 4096 * pages).unwrap();
        let config = pod.container_config(&format!("c{pages}"), &["true"]);
        let created = pod.try_create(config).await;
        let other = cri.try_pod(cri.pod_config(&format!("p{pages}"))).await;
        let listed = containers_of(&pod).await;
        match &created {
            Ok(container) => assert!(listed.contains(&container.id)),
            Err(status) => {
                assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
                assert_eq!(listed.join(","), container.id);
                refused += 1;
            }
        }
        if let Ok(container) = created {
            container.remove().await;
        }
        if let Ok(pod) = other {
            made += 1;
            pod.remove().await;
        }
        for id in cri.pod_ids().await.into_iter().filter(|id| *id != pod.id) {
            let failed = Pod { cri: cri.clone(), id, config: PodSandboxConfig::default() };
            assert_eq!(failed.status().await.state(), PodSandboxState::SandboxNotready);
            failed.remove().await;
        }
    }
    assert!(made > 0 && refused > 0, "{made} pods were made, {refused} containers refused");
    drop(room);
    fill(&daemon.inside("state/fill"));
    container.stop(0).await;
    container.ended().await;
    pod.stop().await;
    pod.remove().await;
    assert_eq!(kernel(traces(&daemon, &parent)), Traces::new());
    fs::remove_file(daemon.inside("state/fill")).unwrap();
    assert_eq!(cri.pod("after").await.run("c", &["true"]).await.ended().await.exit_code, 0);
}

async fn containers_of(pod: &Pod) -> Vec<String> {
    let filter = ContainerFilter { pod_sandbox_id: pod.id.clone(), ..Default::default() };
    let request = ListContainersRequest { filter: Some(filter) };
    let list = pod.cri.runtime().list_containers(request).await.unwrap().into_inner().containers;
    list.into_iter().map(|container| container.id).collect()
}

/// Writes until there is no room.
fn fill(path: &Path) {
    let mut file = fs::File::create(path).unwrap();
    while std::io::Write::write_all(&mut file, &[7; 4096]).is_ok() {}
}

async fn keepers_killed_anywhere_leave_nothing() {
    let daemon = Daemon::start("keepers", "").await;
    let parent = parent("keepers");
    let cri = daemon.cri().await;
    for round in 0..12 {
        let tasks =
            [0, 1].map(|half| tokio::spawn(busy(cri.clone(), parent.clone(), 2 * round + half)));
        tokio::time::sleep(Duration::from_millis(13 * round as u64)).await;
        // Whatever is a child of the seed, just born or not.
        for keeper in children(children(daemon.pid())[0]) {
            let _ = kill_process(Pid::from_raw(keeper as i32).unwrap(), Signal::KILL);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        tasks.iter().for_each(tokio::task::JoinHandle::abort);
        // What was begun runs to its end, and is listed.
        eventually_nothing(&daemon, &parent).await;
    }
}

fn children(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let lists = threads.map(|thread| fs::read_to_string(thread.path().join("children")).unwrap());
    lists.collect::<String>().split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

async fn failures_half_way_cost_no_address() {
    let subnet = format!("10.214.{}.0/28", std::process::id() % 256);
    let daemon = Daemon::start("half-way", &format!("network.subnets = [{subnet:?}]")).await;
    let cri = daemon.cri().await;
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = |name: &str| {
        let mut config = cri.pod_config(name);
        let (host_port, container_port) = (port.into(), 80);
        config.port_mappings =
            vec![PortMapping { host_port, container_port, ..Default::default() }];
        config
    };
    let first = cri.try_pod(config("first")).await.unwrap();
    for number in 0..20 {
        cri.try_pod(config(&format!("fails-{number}"))).await.unwrap_err();
    }
    // They are listed, and hold nothing; all but the first can be removed.
    let ids = cri.pod_ids().await;
    assert_eq!(ids.len(), 21);
    let mut addresses = HashSet::from([first.ip().await]);
    for number in 1..13 {
        let pod = cri.pod(&format!("fits-{number}")).await;
        assert!(addresses.insert(pod.ip().await));
    }
    let status = cri.try_pod(cri.pod_config("one-too-many")).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    for id in ids {
        Pod { cri: cri.clone(), id, config: PodSandboxConfig::default() }.remove().await;
    }
    let last = cri.pod("fits-again").await;
    assert!(!addresses.insert(last.ip().await));
}

async fn yesterdays_keeper_is_driven() {
    let daemon = Daemon::prepare("yesterday", "");
    daemon.run_with(&["--keeper-protocol", "1"]);
    daemon.cri().await.pull(BUSYBOX).await.unwrap();
    let mut pod = daemon.cri().await.pod("yesterday").await;
    let mut counts = pod.sh("counts", COUNT).await;
    // Today's daemon.
    daemon.replace();
    again(&daemon, &mut pod, &mut [&mut counts]).await;
    assert!(daemon.log().contains("protocol=1"), "{}", daemon.log());
    assert_eq!(pod.status().await.state(), PodSandboxState::SandboxReady);
    assert!(counts.is_running().await);
    assert_eq!(counts.exec(&["sh", "-c", "echo out; exit 4"]).await.code, 4);
    let before = counted(&counts);
    eventually("more lines", async || (counted(&counts) > before + 5).then_some(())).await;
    fs::rename(&counts.log, counts.log.with_extension("old")).unwrap();
    let request = ReopenContainerLogRequest { container_id: counts.id.clone() };
    pod.cri.runtime().reopen_container_log(request).await.unwrap();
    eventually("lines in the new log", async || (counts.logged().len() > 5).then_some(())).await;
    let more = pod.sh("more", "echo more; exit 5").await;
    assert_eq!(more.ended().await.exit_code, 5);
    assert_eq!(more.logged(), ["stdout F more"]);
    counts.stop(0).await;
    assert_eq!(counts.ended().await.exit_code, 137);
    pod.remove().await;
    assert!(daemon.cri().await.pod_ids().await.is_empty());
}

async fn a_host_port_is_given_once() {
    let daemon = Daemon::start("ports", "").await;
    let cri = daemon.cri().await;
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = |name: &str| {
        let mut config = cri.pod_config(name);
        config.hostname = "server".into();
        let (host_port, container_port) = (port.into(), 80);
        config.port_mappings =
            vec![PortMapping { host_port, container_port, ..Default::default() }];
        config
    };
    let first = cri.try_pod(config("first")).await.unwrap();
    let status = cri.try_pod(config("second")).await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists, "{status}");
    assert!(status.message().contains("e2e/first"), "{status}");
    assert!(status.message().contains(&port.to_string()), "{status}");
    // Stopping the first is enough, after a restart of the daemon, too.
    daemon.replace();
    let cri = daemon.cri().await;
    let status = cri.try_pod(config("third")).await.unwrap_err();
    assert!(status.message().contains("e2e/first"), "{status}");
    Pod { cri: cri.clone(), ..first }.stop().await;
    let second = cri.try_pod(config("second")).await.unwrap();
    let server = second.run("server", &["nc", "-ll", "-p", "80", "-e", "hostname"]).await;
    eventually("an answer at the host port", async || {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
        let mut text = String::new();
        std::io::Read::read_to_string(&mut stream, &mut text).ok()?;
        (text == "server\n").then_some(())
    })
    .await;
    assert!(server.is_running().await);
    assert!(Path::new(&second.config.log_directory).exists());
}
