//! Commands in containers: their end, their time, their output.

use std::path::Path;
use std::time::{Duration, Instant};

use e2e_cri::client::{Container, Cri, eventually};
use e2e_cri::daemon::Daemon;
use e2e_cri::group::Group;
use e2e_cri::traces::below;
use e2e_cri::{alone, shared};
use k8s_cri::v1::*;
use tonic::{Code, Request};

use crate::state::{again, eventually_nothing, parent, pod_below};

pub fn group() -> Group {
    let tests = shared![
        a_command_is_the_containers_own,
        time_that_is_up_ends_the_command_and_nothing_else,
        a_caller_that_leaves_takes_its_command_along,
        a_child_that_holds_the_output_is_not_waited_for,
        output_is_cut_to_what_an_answer_holds,
        commands_need_a_running_container,
    ];
    Group::new("exec", tests).and(alone![commands_leave_no_cgroups])
}

async fn commands_leave_no_cgroups() {
    let daemon = Daemon::start("scopes", "").await;
    let parent = parent("scopes");
    let mut pod = pod_below(&daemon.cri().await, "scopes", &parent).await;
    let mut container = pod.run("c", &["sleep", "1000"]).await;
    let scopes = || below(&parent).iter().filter(|path| path.contains("/exec-")).count();
    let run = async |container: &Container, script: &str, timeout| {
        container.try_exec(&["sh", "-c", script], timeout).await
    };
    for _ in 0..20 {
        run(&container, "true", 10).await.unwrap();
    }
    assert!(scopes() <= 1, "{} after one at a time", scopes());
    // What a command leaves behind lives on, whatever becomes of those after it.
    let stays =
        run(&container, "setsid sleep 4444 >/dev/null 2>&1 & echo $!", 10).await.unwrap().out;
    let alive = format!("kill -0 {}", stays.trim());
    run(&container, "sleep 1000", 1).await.unwrap_err();
    assert_eq!(run(&container, &alive, 10).await.unwrap().code, 0);
    let mut beside = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let container = container.clone();
        beside.spawn(async move { container.try_exec(&["sleep", "0.3"], 10).await.unwrap().code });
    }
    assert_eq!(beside.join_all().await, [0; 8]);
    daemon.kill();
    // As if it had been killed before it removed them.
    let kept = below(&parent).into_iter().find(|path| path.ends_with("/exec-0")).unwrap();
    for number in [5, 7, 9] {
        let left = Path::new(&kept).with_file_name(format!("exec-{number}"));
        std::fs::create_dir_all(left).unwrap();
    }
    // The next daemon, too, gives nobody the one that is in use.
    daemon.run();
    again(&daemon, &mut pod, &mut [&mut container]).await;
    run(&container, "sleep 1000", 1).await.unwrap_err();
    assert_eq!(run(&container, &alive, 10).await.unwrap().code, 0);
    assert_eq!(run(&container, &format!("kill {}", stays.trim()), 10).await.unwrap().code, 0);
    for _ in 0..20 {
        run(&container, "true", 10).await.unwrap();
    }
    eventually("no more than one is left", async || (scopes() <= 1).then_some(())).await;
    pod.remove().await;
    eventually_nothing(&daemon, &parent).await;
}

async fn a_command_is_the_containers_own(cri: Cri) {
    let pod = cri.pod("own").await;
    let set = |c: &mut ContainerConfig| {
        c.envs = vec![KeyValue { key: "WORD".into(), value: "of the container".into() }];
        c.working_dir = "/etc".into();
        let security = c.linux.as_mut().unwrap().security_context.as_mut().unwrap();
        security.run_as_user = Some(Int64Value { value: 1234 });
        security.supplemental_groups = vec![77];
    };
    let container = pod.run_with("c", &["sleep", "1000"], set).await;
    assert_eq!(
        container.sh("echo $WORD; pwd; id -u; id -G").await,
        "of the container\n/etc\n1234\n0 77"
    );
    let said = container.exec(&["sh", "-c", "echo out; echo err >&2; exit 9"]).await;
    assert_eq!((said.out.as_str(), said.err.as_str(), said.code), ("out\n", "err\n", 9));
    let killed = container.exec(&["sh", "-c", "kill -9 $$"]).await;
    assert_eq!(killed.code, 137);
    let status = container.try_exec(&["/no/such/program"], 0).await.unwrap_err();
    assert!(status.message().contains("/no/such/program"), "{status}");
}

async fn time_that_is_up_ends_the_command_and_nothing_else(cri: Cri) {
    let pod = cri.pod("time").await;
    let container = pod.sh("c", "sleep 5555 & sleep 6666").await;
    for _ in 0..10 {
        let script = "setsid sleep 1111 & (sleep 2222 &); trap '' TERM; sleep 3333";
        let began = Instant::now();
        let status = container.try_exec(&["sh", "-c", script], 1).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
        // Not a moment later, but now.
        let left = container.sh("cat /proc/[0-9]*/cmdline | tr '\\0' ' '").await;
        for gone in ["1111", "2222", "3333"] {
            assert!(!left.contains(gone), "{left}");
        }
        assert!(left.contains("5555") && left.contains("6666"), "{left}");
    }
}

async fn a_caller_that_leaves_takes_its_command_along(cri: Cri) {
    let pod = cri.pod("leaves").await;
    let container = pod.sh("c", "sleep 5555").await;
    let mut request = Request::new(ExecSyncRequest {
        container_id: container.id.clone(),
        cmd: ["sh", "-c", "touch /began; sleep 1111"].map(str::to_owned).into(),
        timeout: 60,
    });
    request.set_timeout(Duration::from_secs(2));
    cri.runtime().exec_sync(request).await.unwrap_err();
    assert_eq!(container.sh("ls /began").await, "/began");
    e2e_cri::client::eventually("the end of the command", async || {
        let left = container.sh("cat /proc/[0-9]*/cmdline | tr '\\0' ' '").await;
        (!left.contains("sleep 1111")).then_some(())
    })
    .await;
    assert!(container.is_running().await);
}

async fn a_child_that_holds_the_output_is_not_waited_for(cri: Cri) {
    let pod = cri.pod("holds").await;
    let container = pod.sh("c", "sleep 1000").await;
    let began = Instant::now();
    let said = container.exec(&["sh", "-c", "sleep 1111 & echo said"]).await;
    assert_eq!((said.out.as_str(), said.code), ("said\n", 0));
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    // It was left behind on purpose.
    let left = container.sh("cat /proc/[0-9]*/cmdline | tr '\\0' ' '").await;
    assert!(left.contains("sleep 1111"), "{left}");
}

async fn output_is_cut_to_what_an_answer_holds(cri: Cri) {
    let pod = cri.pod("much").await;
    let container = pod.sh("c", "sleep 1000").await;
    // The client takes 16 MiB, as the kubelet does.
    let script = "dd if=/dev/zero bs=1M count=12 2>/dev/null; dd if=/dev/zero bs=1M count=12 >&2 2>/dev/null";
    let said = container.exec(&["sh", "-c", script]).await;
    let length = said.out.len() + said.err.len();
    assert!(length > 15 << 20, "{length}");
    assert_eq!(said.out.len(), 12 << 20);
    assert!(said.err.contains("output was cut"), "it is not said");
    assert_eq!(said.code, 0);
    let whole = container.exec(&["sh", "-c", "dd if=/dev/zero bs=1M count=15 2>/dev/null"]).await;
    assert_eq!((whole.out.len(), whole.err.as_str()), (15 << 20, ""));
}

async fn commands_need_a_running_container(cri: Cri) {
    let pod = cri.pod("needs").await;
    let container = pod.try_create(pod.container_config("c", &["sleep", "1000"])).await.unwrap();
    let status = container.try_exec(&["true"], 0).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    container.try_start().await.unwrap();
    assert_eq!(container.exec(&["true"]).await.code, 0);
    container.stop(0).await;
    let status = container.try_exec(&["true"], 0).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
}
