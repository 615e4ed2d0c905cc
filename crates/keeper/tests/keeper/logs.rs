//! What becomes of a container's output.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use keeper::{Event, LogStats, Seed};
use rustix::fs::{Mode, OFlags, openat};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::pod::{PATIENCE, Pod, Wish, append_to, lines, tmpfs};

/// Long for what waits for nobody on however busy a machine.
const SOON: Duration = Duration::from_secs(10);

pub(crate) async fn lines_are_tagged(seed: Arc<Seed>) {
    let mut pod = Pod::new(&seed).await;
    let log = pod.log_path("log");
    let long = "x".repeat(16 * 1024 + 3) + "\n";
    let args = [
        "out", "a\nb", "sleep", "50", "err", "c\n", "sleep", "50", "out", "b\n", "out", &long,
        "out", "end",
    ];
    let id = pod.run("log", &args).await;
    assert_eq!(pod.end_of(&id).await.code, 0);
    let logged = lines(&log);
    let long = format!("stdout P {}", "x".repeat(16 * 1024));
    assert_eq!(
        logged,
        ["stdout F a", "stderr F c", "stdout F bb", &*long, "stdout F xxx", "stdout P end"]
    );
    let status = pod.keeper.status().await.unwrap();
    assert_eq!(status.containers[0].log, Some(LogStats { lines: 6, dropped: 0 }));
}

pub(crate) async fn reopening_loses_nothing(seed: Arc<Seed>) {
    const COUNT: usize = 1_000_000;
    let mut pod = Pod::new(&seed).await;
    let mut paths: Vec<PathBuf> = vec![pod.log_path("log.0")];
    let id = pod.run("log.0", &["lines", &COUNT.to_string()]).await;
    for number in 1..=20 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let path = pod.log_path(&format!("log.{number}"));
        let before = std::fs::metadata(paths.last().unwrap()).unwrap().len();
        pod.keeper.reopen_log(&id, append_to(&path)).await.unwrap();
        // The old file has all that it will ever have.
        let after = std::fs::metadata(paths.last().unwrap()).unwrap().len();
        assert!(after >= before);
        assert!(lines(paths.last().unwrap()).iter().all(|line| line.starts_with("stdout F line ")));
        assert_eq!(std::fs::metadata(paths.last().unwrap()).unwrap().len(), after);
        paths.push(path);
    }
    assert_eq!(pod.end_of(&id).await.code, 0);
    let logged: Vec<String> = paths.iter().flat_map(|path| lines(path)).collect();
    assert_eq!(logged.len(), COUNT);
    for (number, line) in logged.iter().enumerate() {
        assert_eq!(*line, format!("stdout F line {number}"));
    }
    assert!(paths.iter().filter(|path| !lines(path).is_empty()).count() > 2, "nothing was rotated");
}

fn file_on(mount: &OwnedFd, name: &str) -> OwnedFd {
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC;
    openat(mount, name, flags, Mode::from_raw_mode(0o600)).unwrap()
}

pub(crate) async fn a_full_disk_stops_nobody(seed: Arc<Seed>) {
    let mut pod = Pod::new(&seed).await;
    let disk = tmpfs(&[("size", "256k")]);
    let log = Some(file_on(&disk, "log"));
    let flooding = pod.create(Wish { args: &["flood"], log, ..Wish::default() }).await;
    pod.keeper.start(&flooding).await.unwrap();
    let mut told = 0;
    while told < 100_000 {
        if let Event::LogDropped { container, lines, errno } = pod.event().await {
            assert_eq!((container, errno), (flooding.clone(), 28));
            told += lines;
        }
    }
    // A neighbour, and the keeper itself, go on.
    let start = Instant::now();
    let neighbour = pod.run("neighbour", &["lines", "1000"]).await;
    assert_eq!(pod.end_of(&neighbour).await.code, 0);
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    assert_eq!(lines(&pod.log_path("neighbour")).len(), 1000);
    // With room again, lines are written again.
    pod.keeper.reopen_log(&flooding, file_on(&disk, "next")).await.unwrap();
    let text = |name: &str| {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = openat(&disk, name, flags, Mode::empty()).unwrap();
        let mut text = String::new();
        File::from(file).read_to_string(&mut text).unwrap();
        text
    };
    let full = text("log");
    assert!(full.len() > 200_000 && full.ends_with("0123456789\n"), "{} bytes", full.len());
    rustix::fs::unlinkat(&disk, "log", rustix::fs::AtFlags::empty()).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while text("next").is_empty() {
        assert!(Instant::now() < deadline, "nothing is written though there is room");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    pod.kill(0);
    assert_eq!(pod.end_of(&flooding).await.code, 137);
    let next = text("next");
    assert!(
        next.lines().all(
            |line| line.ends_with("F 0123456789 0123456789 0123456789") || line.contains(" P ")
        )
    );
    let status = pod.keeper.status().await.unwrap();
    let stats = status.containers[0].log.unwrap();
    let written = (full.lines().count() + next.lines().count()) as u64;
    assert_eq!(stats.lines, stats.dropped + written, "{stats:?}");
}

pub(crate) async fn a_hanging_disk_stops_its_own_container_alone(seed: Arc<Seed>) {
    let mut pod = Pod::new(&seed).await;
    // A pipe that nobody reads takes 64 KiB and then, like a dead disk, hangs.
    let (unread, hanging) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let stuck = pod.create(Wish { args: &["flood"], log: Some(hanging), ..Wish::default() }).await;
    pod.keeper.start(&stuck).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let first = pod.keeper.status().await.unwrap().containers[0].log.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let second = pod.keeper.status().await.unwrap().containers[0].log.unwrap();
    assert_eq!(first, second, "the flood goes somewhere");
    assert!(first.lines > 1000 && first.dropped == 0, "{first:?}");
    let start = Instant::now();
    let neighbour = pod.run("neighbour", &["lines", "100000"]).await;
    assert_eq!(pod.end_of(&neighbour).await.code, 0);
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    // Its end is reported all the same, though its last words cannot be written.
    let start = Instant::now();
    pod.kill(0);
    assert_eq!(pod.end_of(&stuck).await.code, 137);
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    // The disk comes back: everything is written after all, and in whole lines.
    let last = pod.keeper.status().await.unwrap().containers[0].log.unwrap();
    pod.keeper.forget(&stuck).await.unwrap();
    let reading =
        tokio::task::spawn_blocking(|| std::io::read_to_string(File::from(unread)).unwrap());
    let text = tokio::time::timeout(PATIENCE, reading).await.unwrap().unwrap();
    assert_eq!(text.lines().count() as u64, last.lines);
}

pub(crate) async fn late_words_do_not_delay_the_end(seed: Arc<Seed>) {
    let mut pod = Pod::with(&seed, keeper::Sandbox { network: true, ..Default::default() }).await;
    // In a shared PID namespace a child can outlive the container's init and hold its output.
    let shared = pod.keeper.shared_pid().await.unwrap();
    let log = Some(append_to(&pod.log_path("log")));
    let pid = Some(shared.namespace);
    let id = pod
        .create(Wish { args: &["out", "early\n", "hold", "4000"], log, pid, ..Wish::default() })
        .await;
    pod.keeper.start(&id).await.unwrap();
    let start = Instant::now();
    assert_eq!(pod.end_of(&id).await.code, 0);
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    assert_eq!(lines(&pod.log_path("log")), ["stdout F early"]);
    let deadline = Instant::now() + PATIENCE;
    while lines(&pod.log_path("log")).len() < 2 {
        assert!(Instant::now() < deadline, "what came late is lost");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(lines(&pod.log_path("log"))[1], "stdout F late");
}

fn children(pid: u32) -> usize {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    text.split_whitespace().count()
}

pub(crate) async fn an_idle_writer_goes_and_another_comes(seed: Arc<Seed>) {
    let mut pod = Pod::new(&seed).await;
    let id =
        pod.run("log", &["out", "one\n", "sleep", "12000", "out", "two\n", "sleep", "60000"]).await;
    let deadline = Instant::now() + PATIENCE;
    while lines(&pod.log_path("log")).is_empty() {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(children(pod.keeper.pid()), 2, "an init and a writer");
    tokio::time::sleep(Duration::from_millis(11_000)).await;
    assert_eq!(children(pod.keeper.pid()), 1, "the writer has nothing to do");
    while lines(&pod.log_path("log")).len() < 2 {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(lines(&pod.log_path("log")), ["stdout F one", "stdout F two"]);
    pod.kill(0);
    pod.end_of(&id).await;
    assert_eq!(children(pod.keeper.pid()), 0, "everybody is reaped");
}
