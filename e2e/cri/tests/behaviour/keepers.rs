//! Keepers that hang, are disturbed or die at the worst moment: whoever stops a pod gets through.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::Duration;

use e2e_cri::alone;
use e2e_cri::client::{Pod, SOON, eventually};
use e2e_cri::daemon::Daemon;
use e2e_cri::group::Group;
use e2e_cri::traces::{Traces, traces};
use k8s_cri::v1::*;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, socket};
use rustix::process::{Signal, kill_process};

use crate::state::{again, eventually_nothing, keeper_of, parent, pod_below};

pub fn group() -> Group {
    let tests = alone![
        a_hung_keeper_stops_no_stop,
        a_starved_keeper_keeps_its_pod,
        a_keeper_killed_while_its_pod_stops,
        a_hung_keeper_keeps_no_daemon_from_starting,
        a_stranger_at_the_socket_costs_nothing,
        a_container_without_its_configuration_ends_with_its_pod,
        pods_removed_while_they_are_made,
    ];
    Group::new("keepers", tests)
}

fn lost(status: &ContainerStatus) -> bool {
    (status.exit_code, status.reason.as_str()) == (137, "KeeperLost")
}

async fn a_hung_keeper_stops_no_stop() {
    let daemon = Daemon::start("hung", "").await;
    let parent = parent("hung");
    let pod = pod_below(&daemon.cri().await, "hung", &parent).await;
    let container = pod.sh("c", "sleep 1000 & sleep 1000").await;
    kill_process(keeper_of(&pod).await, Signal::STOP).unwrap();
    tokio::time::timeout(2 * SOON, container.stop(0)).await.expect("the stop gets through");
    assert!(lost(&container.status().await));
    pod.remove().await;
    eventually_nothing(&daemon, &parent).await;
}

async fn a_starved_keeper_keeps_its_pod() {
    let daemon = Daemon::start("starved", "").await;
    let parent = parent("starved");
    let pod = pod_below(&daemon.cri().await, "starved", &parent).await;
    let (one, other) =
        (pod.run("one", &["sleep", "1000"]).await, pod.run("other", &["sleep", "1000"]).await);
    let keeper = keeper_of(&pod).await;
    kill_process(keeper, Signal::STOP).unwrap();
    let resuming = async {
        // Longer than a pod that is being stopped gives it.
        tokio::time::sleep(Duration::from_secs(8)).await;
        kill_process(keeper, Signal::CONT).unwrap();
    };
    tokio::join!(one.stop(0), resuming);
    let status = one.status().await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"));
    assert_eq!(pod.status().await.state(), PodSandboxState::SandboxReady);
    assert_eq!(other.exec(&["echo", "well"]).await.out, "well\n");
    // Killed at once where the pod is to end anyway.
    kill_process(keeper, Signal::STOP).unwrap();
    tokio::time::timeout(SOON, pod.stop()).await.expect("the stop gets through");
    assert!(lost(&other.status().await));
    pod.remove().await;
    eventually_nothing(&daemon, &parent).await;
}

async fn a_keeper_killed_while_its_pod_stops() {
    let daemon = Daemon::start("while", "").await;
    let parent = parent("while");
    let pod = pod_below(&daemon.cri().await, "while", &parent).await;
    let container = pod.run("c", &["sleep", "1000"]).await;
    let keeper = keeper_of(&pod).await;
    kill_process(keeper, Signal::STOP).unwrap();
    let stopping = async {
        tokio::time::timeout(SOON / 4, pod.stop()).await.expect("the stop gets through");
    };
    let killing = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        kill_process(keeper, Signal::KILL).unwrap();
    };
    tokio::join!(stopping, killing);
    assert!(lost(&container.status().await));
    pod.remove().await;
    eventually_nothing(&daemon, &parent).await;
}

async fn a_hung_keeper_keeps_no_daemon_from_starting() {
    let daemon = Daemon::start("starting", "").await;
    let (hung_parent, well_parent) = (parent("starting-hung"), parent("starting-well"));
    let mut hung = pod_below(&daemon.cri().await, "hung", &hung_parent).await;
    let mut well = pod_below(&daemon.cri().await, "well", &well_parent).await;
    let mut gone = hung.run("gone", &["sleep", "1000"]).await;
    let mut runs = well.run("runs", &["sleep", "1000"]).await;
    let keeper = keeper_of(&hung).await;
    daemon.kill();
    kill_process(keeper, Signal::STOP).unwrap();
    daemon.run();
    again(&daemon, &mut hung, &mut [&mut gone]).await;
    again(&daemon, &mut well, &mut [&mut runs]).await;
    assert!(lost(&gone.status().await));
    assert_eq!(hung.status().await.state(), PodSandboxState::SandboxNotready);
    assert_eq!(runs.exec(&["echo", "well"]).await.out, "well\n");
    hung.remove().await;
    well.remove().await;
    eventually_nothing(&daemon, &hung_parent).await;
}

fn pod_dir(daemon: &Daemon, pod: &Pod) -> PathBuf {
    daemon.dir.join("state/pods").join(&pod.id)
}

async fn a_stranger_at_the_socket_costs_nothing() {
    let daemon = Daemon::start("stranger", "").await;
    let parent = parent("stranger");
    let pod = pod_below(&daemon.cri().await, "stranger", &parent).await;
    let ends = pod.sh("ends", "sleep 0.5; exit 5").await;
    let runs = pod.run("runs", &["sleep", "1000"]).await;
    for _ in 0..3 {
        // By its open directory: the whole path is longer than an address can hold.
        let dir = fs::File::open(pod_dir(&daemon, &pod)).unwrap();
        let path = format!("/proc/self/fd/{}/keeper.sock", dir.as_raw_fd());
        let stranger = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        connect(&stranger, &SocketAddrUnix::new(path).unwrap()).unwrap();
        drop(stranger);
        let answers = async || {
            let said = runs.try_exec(&["echo", "well"], 10).await.ok()?;
            (said.out == "well\n").then_some(())
        };
        eventually("exec works again", answers).await;
    }
    assert_eq!(ends.ended().await.exit_code, 5);
    runs.stop(0).await;
    let status = runs.ended().await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"));
    assert_eq!(pod.status().await.state(), PodSandboxState::SandboxReady);
    pod.remove().await;
    eventually_nothing(&daemon, &parent).await;
}

async fn a_container_without_its_configuration_ends_with_its_pod() {
    let daemon = Daemon::start("bad-config", "").await;
    let (bad_parent, well_parent) = (parent("bad-config"), parent("bad-config-well"));
    let mut bad = pod_below(&daemon.cri().await, "bad", &bad_parent).await;
    let mut well = pod_below(&daemon.cri().await, "well", &well_parent).await;
    let mut one = bad.run("one", &["sleep", "1000"]).await;
    let mut two = bad.run("two", &["sleep", "1000"]).await;
    let mut runs = well.run("runs", &["sleep", "1000"]).await;
    daemon.kill();
    fs::write(pod_dir(&daemon, &bad).join(format!("{}.config.json", one.id)), "{").unwrap();
    daemon.run();
    again(&daemon, &mut bad, &mut [&mut one, &mut two]).await;
    again(&daemon, &mut well, &mut [&mut runs]).await;
    assert!(lost(&one.status().await) && lost(&two.status().await));
    assert_eq!(bad.status().await.state(), PodSandboxState::SandboxNotready);
    assert!(daemon.log().contains(&bad.id), "the pod is named");
    assert_eq!(runs.exec(&["echo", "well"]).await.out, "well\n");
    bad.remove().await;
    well.remove().await;
    eventually_nothing(&daemon, &bad_parent).await;
}

async fn pods_removed_while_they_are_made() {
    let subnet = format!("10.214.{}.0/28", std::process::id() % 256);
    let daemon = Daemon::start("removed", &format!("network.subnets = [{subnet:?}]")).await;
    let parent = parent("removed");
    let cri = daemon.cri().await;
    let mut removed = 0;
    for round in 0..40 {
        let mut config = cri.pod_config(&format!("removed-{round}"));
        config.linux.as_mut().unwrap().cgroup_parent = parent.clone();
        let making = tokio::spawn({
            let cri = cri.clone();
            async move { cri.try_pod(config).await.map(|pod| pod.id) }
        });
        while !making.is_finished() {
            for id in cri.pod_ids().await {
                let config = PodSandboxConfig::default();
                Pod { cri: cri.clone(), id, config }.remove().await;
                removed += 1;
            }
        }
        // Made and removed, or removed on the way, or never made.
        let _ = making.await.unwrap();
        for id in cri.pod_ids().await {
            Pod { cri: cri.clone(), id, config: PodSandboxConfig::default() }.remove().await;
        }
        let nothing: Traces = Traces::new();
        eventually("nothing is left", async || (traces(&daemon, &parent) == nothing).then_some(()))
            .await;
    }
    assert!(removed > 0, "no pod was ever seen on its way");
}
