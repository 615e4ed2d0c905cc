//! Cgroups: what becomes of those who take too much memory, where cgroups are and when they go.

use std::fs;
use std::path::PathBuf;

use e2e_cri::client::{Cri, Pod, eventually};
use e2e_cri::group::Group;
use e2e_cri::shared;
use e2e_cri::traces::{below, controller, hierarchies, hierarchies_of};
use k8s_cri::v1::*;

pub fn group() -> Group {
    let tests = shared![
        one_that_takes_too_much_memory_is_oom_killed,
        a_child_that_takes_too_much_memory_goes_alone,
        a_group_that_is_killed_as_one_goes_whole,
        without_a_parent_pods_are_below_minke,
        a_parent_goes_if_minke_made_it,
        a_parent_that_was_there_stays,
    ];
    Group::new("cgroups", tests)
}

const LIMIT: i64 = 32 << 20;

fn resources(config: &mut ContainerConfig) -> &mut LinuxContainerResources {
    config.linux.as_mut().unwrap().resources.get_or_insert_default()
}

fn limited(config: &mut ContainerConfig) {
    resources(config).memory_limit_in_bytes = LIMIT;
}

/// More than [`LIMIT`] can hold.
const HUNGRY: [&str; 2] = ["tail", "/dev/zero"];

async fn one_that_takes_too_much_memory_is_oom_killed(cri: Cri) {
    let pod = cri.pod("oom").await;
    let status = pod.run_with("c", &HUNGRY, limited).await.ended().await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
    // Who is killed by somebody else is not.
    let other = pod.run_with("killed", &["sleep", "1000"], limited).await;
    other.stop(0).await;
    let status = other.status().await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"));
}

async fn a_child_that_takes_too_much_memory_goes_alone(cri: Cri) {
    let pod = cri.pod("oom-child").await;
    for (name, code, reason) in [("well", 0, "Completed"), ("badly", 3, "Error")] {
        // Waiting takes no memory: before the kernel has all of the child's back it would go on to the
        // next that asks for some.
        let script =
            format!("mkfifo /go; tail /dev/zero; echo child $?; read go </go; exit {code}");
        let container = pod.run_with(name, &["sh", "-c", &script], limited).await;
        container.says("child 137").await;
        assert_eq!(container.exec(&HUNGRY).await.code, 137, "so does what is executed in it");
        assert!(container.is_running().await);
        let memory = cgroup(&pod, &container.id);
        let memory = memory.join(if is_v2() { "memory.current" } else { "memory.usage_in_bytes" });
        eventually("the end of its memory", async || {
            let used: i64 = fs::read_to_string(&memory).ok()?.trim().parse().ok()?;
            (used < LIMIT / 2).then_some(())
        })
        .await;
        // The end of the container may overtake that of the command.
        container.exec(&["sh", "-c", "echo >/go"]).await;
        let status = container.ended().await;
        assert_eq!((status.exit_code, status.reason.as_str()), (code, reason));
    }
}

/// The kubelet asks for this of every container, where there is cgroup v2.
async fn a_group_that_is_killed_as_one_goes_whole(cri: Cri) {
    let pod = cri.pod("oom-group").await;
    let as_one = |config: &mut ContainerConfig| {
        limited(config);
        resources(config).unified.insert("memory.oom.group".into(), "1".into());
    };
    let waits = ["sleep", "1000"];
    if !is_v2() {
        let mut config = pod.container_config("c", &waits);
        as_one(&mut config);
        let status = pod.try_create(config).await.unwrap_err();
        assert!(status.message().contains("unified"), "{status}");
        return;
    }
    let asked = |cgroup: PathBuf| fs::read_to_string(cgroup.join("memory.oom.group")).unwrap();
    let alone = pod.run_with("alone", &waits, limited).await;
    assert_eq!(asked(cgroup(&pod, &alone.id)), "0\n", "minke asks for nothing by itself");
    let script = "until [ -e /go ]; do sleep 0.1; done; tail /dev/zero; echo child $?; sleep 1000";
    let child = pod.run_with("child", &["sh", "-c", script], as_one).await;
    assert_eq!(asked(cgroup(&pod, &child.id)), "1\n");
    child.sh("touch /go").await;
    let status = child.ended().await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
    assert!(child.logged().is_empty(), "{:?}", child.logged());
    // What is executed in a container is a part of it.
    let visited = pod.run_with("visited", &waits, as_one).await;
    assert_eq!(visited.exec(&HUNGRY).await.code, 137);
    let status = visited.ended().await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
    assert!(alone.is_running().await);
}

fn is_v2() -> bool {
    hierarchies().len() == 1
}

/// The memory cgroup of a container whose pod has no parent.
fn cgroup(pod: &Pod, id: &str) -> PathBuf {
    controller("memory", &format!("/minke/{}/{id}", pod.id))
}

async fn without_a_parent_pods_are_below_minke(cri: Cri) {
    let pod = cri.pod("no-parent").await;
    let container = pod.sh("c", "sleep 1000").await;
    let pid = container.pid().await.to_string();
    let path = format!("/minke/{}/{}", pod.id, container.id);
    for name in ["memory", "pids", "cpu", "freezer"] {
        let processes = controller(name, &path).join("cgroup.procs");
        let processes = fs::read_to_string(&processes).unwrap();
        assert!(processes.lines().any(|line| line == pid), "{name}: {processes:?}");
    }
    container.remove().await;
    assert_eq!(hierarchies_of(&path), 0);
    pod.remove().await;
    assert_eq!(below(&format!("/minke/{}", pod.id)), Vec::<String>::new());
}

/// A pod below this cgroup, and a container that runs in it.
async fn pod_below(cri: &Cri, name: &str, parent: &str) -> Pod {
    let set = |c: &mut PodSandboxConfig| c.linux.as_mut().unwrap().cgroup_parent = parent.into();
    let pod = cri.pod_with(name, set).await;
    let container = pod.sh("c", "sleep 1000").await;
    assert!(controller("memory", &format!("{parent}/{}", container.id)).is_dir());
    pod
}

async fn a_parent_goes_if_minke_made_it(cri: Cri) {
    let top = format!("/e2e-{}-made", std::process::id());
    let parent = format!("{top}/inner");
    let (first, second) =
        (pod_below(&cri, "made-1", &parent).await, pod_below(&cri, "made-2", &top).await);
    first.remove().await;
    assert_eq!(below(&parent), Vec::<String>::new());
    // It is of use to another.
    assert!(hierarchies_of(&top) > 0);
    second.remove().await;
    eventually("the end of what nobody needs", async || below(&top).is_empty().then_some(())).await;
}

/// A cgroup in every hierarchy; dropped, it goes.
struct Made(String);

impl Made {
    fn new(path: String) -> Self {
        let made = Self(path);
        for dir in made.directories() {
            fs::create_dir_all(&dir).unwrap();
            // A new cpuset of v1 takes no process until it has something to run on.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let above = dir.parent().unwrap().join(file);
                if !is_v2() && above.exists() {
                    fs::write(dir.join(file), fs::read(above).unwrap()).unwrap();
                }
            }
        }
        made
    }

    fn directories(&self) -> Vec<PathBuf> {
        hierarchies().iter().map(|top| top.join(&self.0[1..])).collect()
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        self.directories().iter().for_each(|dir| drop(fs::remove_dir(dir)));
    }
}

async fn a_parent_that_was_there_stays(cri: Cri) {
    let there = Made::new(format!("/e2e-{}-there", std::process::id()));
    let own = pod_below(&cri, "there", &there.0).await;
    let parent = format!("{}/inner", there.0);
    let inner = pod_below(&cri, "there-inner", &parent).await;
    own.remove().await;
    inner.remove().await;
    assert_eq!(below(&parent), Vec::<String>::new());
    let left = below(&there.0);
    assert_eq!(left.len(), hierarchies().len(), "{left:?}");
}
