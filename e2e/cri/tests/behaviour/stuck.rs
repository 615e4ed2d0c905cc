//! Calls that hang: a volume on a file system that nobody serves any more. Whoever stops a pod gets
//! through, and what came too late is taken back.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use e2e_cri::alone;
use e2e_cri::client::{Container, Pod, SOON, eventually};
use e2e_cri::daemon::Daemon;
use e2e_cri::group::Group;
use e2e_cri::traces::{below, traces};
use k8s_cri::v1::*;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{Signal, kill_process};
use tonic::{Code, Status};

use crate::state::{eventually_nothing, keeper_of, parent, pod_below};

pub fn group() -> Group {
    let tests = alone![
        a_dead_volume_keeps_no_pod,
        a_dead_program_can_be_stopped,
        a_command_from_a_dead_volume_ends_in_time,
        a_daemon_ends_while_a_call_hangs,
        a_hung_keeper_keeps_no_creation,
    ];
    Group::new("stuck", tests)
}

/// A file system whose server does not answer: what looks into it waits.
struct Dead {
    path: PathBuf,
    /// Without it the kernel knows that there is no server, and everybody is told.
    server: Option<File>,
}

impl Dead {
    fn mount(path: &Path) -> Self {
        fs::create_dir_all(path).unwrap();
        let server = File::options().read(true).write(true).open("/dev/fuse").unwrap();
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd());
        let options = std::ffi::CString::new(options).unwrap();
        mount("dead", path, "fuse", MountFlags::empty(), options.as_c_str()).unwrap();
        Self { path: path.to_owned(), server: Some(server) }
    }

    /// Those who wait go on, with an error.
    fn bury(mut self) {
        drop(self.server.take());
    }
}

impl Drop for Dead {
    fn drop(&mut self) {
        drop(self.server.take());
        let _gone = unmount(&self.path, UnmountFlags::DETACH);
    }
}

fn volume(config: &mut ContainerConfig, path: &Path) {
    config.mounts.push(Mount {
        host_path: path.display().to_string(),
        container_path: "/volume".into(),
        ..Default::default()
    });
}

/// Begins to create a container with this volume.
fn creating(
    pod: &Pod,
    name: &str,
    path: &Path,
) -> tokio::task::JoinHandle<Result<Container, Status>> {
    let mut config = pod.container_config(name, &["sleep", "1000"]);
    volume(&mut config, path);
    let pod = pod.clone();
    tokio::spawn(async move { pod.try_create(config).await })
}

async fn a_dead_volume_keeps_no_pod() {
    let daemon = Daemon::start("dead-volume", "").await;
    let parent = parent("dead-volume");
    let pod = pod_below(&daemon.cri().await, "dead", &parent).await;
    let runs = pod.run("runs", &["sleep", "1000"]).await;
    let dead = Dead::mount(&daemon.dir.join("volume"));
    let hangs = creating(&pod, "hangs", &dead.path);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!hangs.is_finished(), "the volume must hang for the test to mean anything");
    assert_eq!(runs.exec(&["echo", "well"]).await.out, "well\n");
    tokio::time::timeout(SOON, pod.stop()).await.expect("the stop gets through");
    let refused = hangs.await.unwrap().unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    // The volume is as dead as before: nothing of the pod waits for it.
    pod.remove().await;
    eventually("nothing is left but the volume", async || {
        traces(&daemon, &parent).keys().all(|kind| *kind == "mounts").then_some(())
    })
    .await;
    dead.bury();
    eventually_nothing(&daemon, &parent).await;
}

async fn a_dead_program_can_be_stopped() {
    let daemon = Daemon::start("dead-program", "").await;
    let parent = parent("dead-program");
    let pod = pod_below(&daemon.cri().await, "dead", &parent).await;
    let volumes = daemon.dir.join("volumes");
    let dead = Dead::mount(&volumes.join("dead"));
    let mut config = pod.container_config("hangs", &["/volume/dead/program"]);
    volume(&mut config, &volumes);
    let container = pod.try_create(config).await.unwrap();
    let starting = tokio::spawn({
        let container = container.clone();
        async move { container.try_start().await }
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!starting.is_finished(), "the program must hang for the test to mean anything");
    tokio::time::timeout(SOON, pod.stop()).await.expect("the stop gets through");
    // Killed on its way into its program it was as good as started.
    let _whatever = starting.await.unwrap();
    assert_eq!(container.ended().await.exit_code, 137);
    pod.remove().await;
    dead.bury();
    eventually_nothing(&daemon, &parent).await;
}

async fn a_command_from_a_dead_volume_ends_in_time() {
    let daemon = Daemon::start("dead-command", "").await;
    let parent = parent("dead-command");
    let pod = pod_below(&daemon.cri().await, "dead", &parent).await;
    let volumes = daemon.dir.join("volumes");
    let dead = Dead::mount(&volumes.join("dead"));
    let container =
        pod.run_with("runs", &["sleep", "1000"], |config| volume(config, &volumes)).await;
    let began = Instant::now();
    let late = container.try_exec(&["/volume/dead/program"], 1).await.unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded, "{late}");
    assert!(began.elapsed() < SOON);
    // No answer of the file system has let it go: it was killed while it waited.
    eventually("the command is gone", async || {
        below(&parent).iter().all(|path| !path.contains("exec-")).then_some(())
    })
    .await;
    assert_eq!(container.exec(&["echo", "well"]).await.out, "well\n");
    pod.remove().await;
    dead.bury();
    eventually_nothing(&daemon, &parent).await;
}

async fn a_daemon_ends_while_a_call_hangs() {
    let daemon = Daemon::start("hanging", "").await;
    let parent = parent("hanging");
    let pod = pod_below(&daemon.cri().await, "dead", &parent).await;
    let dead = Dead::mount(&daemon.dir.join("volume"));
    let hangs = creating(&pod, "hangs", &dead.path);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let began = Instant::now();
    daemon.terminate();
    assert!(began.elapsed() < SOON, "the daemon waits for the call");
    hangs.await.unwrap().unwrap_err();
    dead.bury();
    daemon.run();
    eventually_nothing(&daemon, &parent).await;
}

async fn a_hung_keeper_keeps_no_creation() {
    let daemon = Daemon::start("hung-creation", "").await;
    let parent = parent("hung-creation");
    let pod = pod_below(&daemon.cri().await, "hung", &parent).await;
    kill_process(keeper_of(&pod).await, Signal::STOP).unwrap();
    let directory = daemon.dir.join("volume");
    fs::create_dir(&directory).unwrap();
    let hangs = creating(&pod, "hangs", &directory);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!hangs.is_finished(), "the keeper must hang for the test to mean anything");
    tokio::time::timeout(SOON, pod.stop()).await.expect("the stop gets through");
    let refused = hangs.await.unwrap().unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    pod.remove().await;
    eventually_nothing(&daemon, &parent).await;
}
