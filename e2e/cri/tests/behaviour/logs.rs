//! Log files: the format, long lines, and rotation under load.

use std::fs;

use e2e_cri::client::{Container, Cri, eventually};
use e2e_cri::group::Group;
use e2e_cri::shared;
use k8s_cri::v1::*;
use tonic::{Code, Status};

pub fn group() -> Group {
    let tests = shared![
        lines_have_a_time_a_stream_and_an_end,
        long_lines_are_split_and_lose_nothing,
        a_terminal_has_one_stream,
        rotation_loses_no_line,
        without_a_path_nothing_is_kept_and_nothing_waits,
    ];
    Group::new("logs", tests)
}

async fn lines_have_a_time_a_stream_and_an_end(cri: Cri) {
    let pod = cri.pod("lines").await;
    let container = pod.sh("c", "echo one; echo two >&2; sleep 0.2; printf three").await;
    container.ended().await;
    let text = fs::read_to_string(&container.log).unwrap();
    for line in text.lines() {
        let (time, _) = line.split_once(' ').unwrap();
        // RFC 3339 with nanoseconds.
        assert!(time.len() >= 30 && time.as_bytes()[10] == b'T' && time.contains('.'), "{line}");
    }
    let mut lines = container.logged();
    assert_eq!(lines.pop().unwrap(), "stdout P three", "what had no end has none");
    lines.sort();
    assert_eq!(lines, ["stderr F two", "stdout F one"]);
    assert!(text.ends_with('\n'));
}

async fn long_lines_are_split_and_lose_nothing(cri: Cri) {
    let pod = cri.pod("long").await;
    let script =
        "i=0; while [ $i -lt 5000 ]; do printf '%09d,' $i; i=$((i+1)); done; echo; echo end";
    let container = pod.sh("c", script).await;
    container.ended().await;
    let lines = container.logged();
    let (last, parts) = lines.split_last().unwrap();
    assert_eq!(last, "stdout F end");
    let mut whole = String::new();
    for (at, part) in parts.iter().enumerate() {
        let tag = if at + 1 == parts.len() { "stdout F " } else { "stdout P " };
        let text = part.strip_prefix(tag).unwrap_or_else(|| panic!("{part:.40}"));
        assert!(text.len() <= 16 << 10, "{}", text.len());
        whole += text;
    }
    let expected: String = (0..5000).map(|i| format!("{i:09},")).collect();
    assert_eq!(whole, expected);
    assert_eq!(parts.len(), 50_000_usize.div_ceil(16 << 10));
}

async fn a_terminal_has_one_stream(cri: Cri) {
    let pod = cri.pod("terminal").await;
    let set = |c: &mut ContainerConfig| c.tty = true;
    let container = pod.run_with("c", &["sh", "-c", "echo out; echo err >&2"], set).await;
    container.ended().await;
    let lines: Vec<_> =
        container.logged().iter().map(|line| line.trim_end_matches('\r').to_owned()).collect();
    assert_eq!(lines, ["stdout F out", "stdout F err"]);
}

async fn reopen(container: &Container) -> Result<(), Status> {
    let request = ReopenContainerLogRequest { container_id: container.id.clone() };
    container.cri.runtime().reopen_container_log(request).await.map(drop)
}

async fn rotation_loses_no_line(cri: Cri) {
    let pod = cri.pod("rotation").await;
    let container = pod.sh("c", "i=0; while [ $i -lt 60000 ]; do echo $i; i=$((i+1)); done").await;
    let mut files = Vec::new();
    while container.is_running().await && files.len() < 200 {
        let rotated = container.log.with_extension(format!("{}", files.len()));
        fs::rename(&container.log, &rotated).unwrap();
        match reopen(&container).await {
            Ok(()) => assert!(container.log.exists(), "it is there when the answer is"),
            Err(status) => assert_eq!(status.code(), Code::FailedPrecondition, "{status}"),
        }
        files.push(rotated);
    }
    assert!(files.len() > 3, "it was over too soon");
    container.ended().await;
    files.push(container.log.clone());
    let mut expected = 0;
    for file in files {
        for line in fs::read_to_string(file).unwrap_or_default().lines() {
            assert_eq!(line.split(' ').next_back(), Some(expected.to_string().as_str()));
            expected += 1;
        }
    }
    assert_eq!(expected, 60_000);
    let status = reopen(&container).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
}

async fn without_a_path_nothing_is_kept_and_nothing_waits(cri: Cri) {
    let pod = cri.pod("unkept").await;
    let set = |c: &mut ContainerConfig| c.log_path.clear();
    let script = "yes | head -c 5000000; touch /done; sleep 1000";
    let container = pod.run_with("c", &["sh", "-c", script], set).await;
    eventually("the end of what it says", async || {
        let there = container.exec(&["test", "-e", "/done"]).await;
        (there.code == 0).then_some(())
    })
    .await;
    assert_eq!(container.status().await.log_path, "");
}
