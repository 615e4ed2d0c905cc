//! The demo beside a daemon in use: whatever becomes of it, nothing of the daemon's changes.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use e2e_cri::at_daemon;
use e2e_cri::client::{Container, Pod, eventually};
use e2e_cri::daemon::{DIR, Daemon};
use e2e_cri::group::Group;
use e2e_cri::traces::{Traces, traces};
use rustix::process::{Pid, Signal, kill_process};

pub fn group() -> Group {
    Group::new("demo", at_daemon![a_daemon_in_use_is_not_disturbed])
}

/// All that a client, the kernel and the disk tell of a pod.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    pod: String,
    container: String,
    pid: u32,
    /// When that process was started.
    since: String,
    traces: Traces,
    /// The bridge and its ports, with their indices.
    links: BTreeMap<String, String>,
    /// What the daemon remembers of its network.
    network: Vec<u8>,
}

async fn look(daemon: &Daemon, pod: &Pod, container: &Container, cgroup: &str) -> Seen {
    let pid = container.pid().await;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let bridge = daemon.bridge().unwrap();
    let links = fs::read_dir("/sys/class/net").unwrap().flatten();
    let links = links.map(|link| link.file_name().into_string().unwrap());
    let links = links.filter(|link| link.starts_with(&bridge)).map(|link| {
        let says =
            |file| fs::read_to_string(Path::new("/sys/class/net").join(&link).join(file)).unwrap();
        let about = format!("{} {} {}", says("ifindex"), says("address"), says("operstate"));
        (link, about)
    });
    let mut traces = traces(daemon, cgroup);
    // Its server makes a process for each caller.
    traces.remove("processes");
    Seen {
        pod: format!("{:?}", pod.status().await),
        container: format!("{:?}", container.status().await),
        pid,
        since: stat.rsplit_once(") ").unwrap().1.split(' ').nth(19).unwrap().to_owned(),
        traces,
        links: links.collect(),
        network: fs::read(daemon.dir.join("root/network/node.json")).unwrap(),
    }
}

/// What a demo prints that ends by itself, or is interrupted once it has said this.
fn demo(interrupt_at: Option<&str>) -> String {
    static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let said: PathBuf = DIR.join(format!("demo-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
    let mut command = Command::new(std::env::var("MINKE").unwrap());
    let mut child = command
        .arg("demo")
        .stdin(Stdio::null())
        .stdout(fs::File::create(&said).unwrap())
        .spawn()
        .unwrap();
    let read = || fs::read_to_string(&said).unwrap_or_default();
    if let Some(words) = interrupt_at {
        while !read().contains(words) && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(5));
        }
        kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    }
    let status = child.wait().unwrap();
    assert_eq!(status.success(), interrupt_at.is_none(), "{}", read());
    read()
}

async fn a_daemon_in_use_is_not_disturbed(daemon: Arc<Daemon>) {
    let cri = daemon.cri().await;
    let cgroup = format!("/e2e-demo-{}", std::process::id());
    let pod = cri
        .pod_with("beside", |config| {
            config.linux.as_mut().unwrap().cgroup_parent = cgroup.clone();
        })
        .await;
    // It logs its counting, and answers whoever calls it.
    let script = "i=0; while :; do i=$((i+1)); echo tick $i; sleep 0.05; done & \
                  while :; do echo well | nc -l -p 8080 >/dev/null; done";
    let container = pod.sh("ticks", script).await;
    container.says("tick 1").await;
    let address = format!("{}:8080", pod.ip().await);
    let call = move || {
        let connection = TcpStream::connect(&address);
        let mut said = String::new();
        connection.and_then(|mut c| c.read_to_string(&mut said)).is_ok_and(|_| said == "well\n")
    };
    eventually("an answer of the pod", async || call().then_some(())).await;
    // It is written in the background.
    let copy = daemon.dir.join(format!("root/pods/{}.json", pod.id));
    eventually("the copy of its record", async || copy.exists().then_some(())).await;
    let before = look(&daemon, &pod, &container, &cgroup).await;

    // It is called all the time: its server is gone only between two calls, for a moment.
    let over = Arc::new(AtomicBool::new(false));
    let calls = tokio::task::spawn_blocking({
        let over = Arc::clone(&over);
        move || {
            let (mut answered, mut in_a_row, mut longest) = (0, 0, 0);
            while !over.load(Ordering::Relaxed) {
                if call() {
                    (answered, in_a_row) = (answered + 1, 0);
                } else {
                    in_a_row += 1;
                    longest = longest.max(in_a_row);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            (answered, longest)
        }
    });
    let demos = tokio::task::spawn_blocking(|| {
        [demo(None), demo(Some("sandbox up")), demo(Some("daemon serving"))]
    });
    for said in demos.await.unwrap() {
        assert!(said.contains("left behind: nothing"), "{said}");
    }
    over.store(true, Ordering::Relaxed);
    let (answered, unanswered) = calls.await.unwrap();
    assert!(answered > 20 && unanswered < 50, "{answered} answered, {unanswered} in a row not");

    assert_eq!(look(&daemon, &pod, &container, &cgroup).await, before);
    let ticks = container.logged();
    let ticks = ticks.iter().filter_map(|line| line.strip_prefix("stdout F tick "));
    let ticks: Vec<usize> = ticks.map(|number| number.parse().unwrap()).collect();
    assert!(ticks.len() > 20 && ticks.iter().copied().eq(1..=ticks.len()), "{ticks:?}");
    assert_eq!(container.exec(&["echo", "well"]).await.out, "well\n");
    assert_eq!(cri.pod_ids().await, std::slice::from_ref(&pod.id));
    pod.remove().await;
}
