//! What a daemon meets at its start: configurations that are wrong, a socket that is taken, records
//! that cannot be read, a service manager that wants to know.

use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};
use std::thread;

use e2e_cri::alone;
use e2e_cri::client::{Container, SOON, eventually};
use e2e_cri::daemon::{Daemon, put};
use e2e_cri::group::Group;
use e2e_cri::traces::{below, traces};

pub fn group() -> Group {
    let tests = alone![
        unknown_keys_are_named_by_file_and_line,
        a_served_socket_is_left_alone,
        a_damaged_record_gives_way_to_its_copy,
        a_damaged_record_without_a_copy_ends_its_pod_alone,
        what_is_no_record_is_in_nobodys_way,
        the_service_manager_is_told,
    ];
    Group::new("start", tests)
}

/// What a daemon says that does not want to start.
fn refusal(daemon: &Daemon, arguments: &[&str]) -> String {
    let done = daemon.minke(arguments);
    assert!(!done.status.success(), "it has started");
    let told = String::from_utf8(done.stderr).unwrap();
    assert!(!told.contains("panicked"), "{told}");
    told
}

async fn unknown_keys_are_named_by_file_and_line() {
    let daemon = Daemon::prepare("keys", "");
    let drop_in = daemon.dir.join("config.d/10-mine.toml");
    for (text, key, line) in [
        ("# mine\nimages.pined = []\n", "images.pined", 2),
        ("[network]\nmtu = 1400\nmtv = 1\n", "network.mtv", 3),
        ("[netwrok]\nmtu = 1400\n", "netwrok", 1),
        ("\n\n[network]\nmtu = \"wide\"\n", "network.mtu", 4),
        ("[streaming]\nport = 70000\n", "streaming.port", 2),
        ("root = \"relative\"\n", "root", 1),
        ("[log]\nlevel = \"loud\"\n", "log.level", 2),
        ("[log\n", "", 1),
    ] {
        put(&drop_in, text.as_bytes());
        let told = refusal(&daemon, &["serve"]);
        let place = format!("config.d/10-mine.toml:{line}");
        assert!(told.contains(&place) && told.contains(key), "{place} {key}: {told}");
    }
    fs::remove_file(&drop_in).unwrap();
    let told = refusal(&daemon, &["serve", "--set", "runtime.handler=x"]);
    assert!(told.contains("runtime.handler"), "{told}");
    // Nothing was begun.
    assert!(!daemon.dir.join("root").exists() && !daemon.dir.join("state").exists());
}

async fn a_served_socket_is_left_alone() {
    let daemon = Daemon::start("served", "").await;
    let container = daemon.cri().await.pod("served").await.run("c", &["sleep", "1000"]).await;
    let told = refusal(&daemon, &["serve"]);
    assert!(told.contains("minke.sock is served by another process"), "{told}");
    let told = refusal(&daemon, &["reset", "--yes"]);
    assert!(told.contains("minke.sock is served by another process"), "{told}");
    // Another socket, the same directories: the store has one owner.
    let other = daemon.dir.join("other.sock").display().to_string();
    let told = refusal(&daemon, &["--socket", &other, "serve"]);
    assert!(told.contains("in use by another process"), "{told}");
    assert_eq!(container.exec(&["echo", "well"]).await.out, "well\n");
    // What is no socket is not removed for one.
    let file = daemon.dir.join("precious");
    fs::write(&file, "precious").unwrap();
    refusal(&daemon, &["--socket", file.to_str().unwrap(), "serve"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
}

/// A running container at a newer connection.
async fn after(daemon: &Daemon, container: &Container) -> Container {
    daemon.cri().await.container(&container.id, &container.log)
}

async fn a_damaged_record_gives_way_to_its_copy() {
    let daemon = Daemon::start("copied", "").await;
    let cri = daemon.cri().await;
    let pod = cri.pod("copied").await;
    let container = pod.run("c", &["sleep", "1000"]).await;
    let copy = daemon.dir.join(format!("root/pods/{}.json", pod.id));
    eventually("the copy knows the container", async || {
        fs::read_to_string(&copy).ok()?.contains("started_at").then_some(())
    })
    .await;
    daemon.kill();
    let record = daemon.dir.join(format!("state/pods/{}/record.json", pod.id));
    fs::write(&record, &fs::read(&record).unwrap()[..99]).unwrap();
    daemon.run();
    assert!(daemon.log().contains(&pod.id), "{}", daemon.log());
    let container = after(&daemon, &container).await;
    assert_eq!(container.exec(&["echo", "well"]).await.out, "well\n");
    daemon.replace();
    assert!(after(&daemon, &container).await.is_running().await);
}

async fn a_damaged_record_without_a_copy_ends_its_pod_alone() {
    let daemon = Daemon::start("aside", "").await;
    let cri = daemon.cri().await;
    let parent = format!("/e2e-{}-aside", std::process::id());
    let good = cri.pod("good").await.run("c", &["sleep", "1000"]).await;
    let set = |c: &mut k8s_cri::v1::PodSandboxConfig| {
        c.linux.as_mut().unwrap().cgroup_parent = parent.clone();
    };
    let bad = cri.pod_with("bad", set).await;
    // Its cgroup is where minke puts it.
    let own = cri.pod_with("own", |c| c.linux.as_mut().unwrap().cgroup_parent.clear()).await;
    let container = bad.sh("c", "sleep 1000 & sleep 1000").await;
    own.run("c", &["sleep", "1000"]).await;
    let pid = container.pid().await;
    daemon.terminate();
    for pod in [&bad, &own] {
        let record = daemon.dir.join(format!("state/pods/{}/record.json", pod.id));
        // As a later version of minke would have it.
        let text = fs::read_to_string(&record).unwrap();
        let newer = text.replacen("\"version\":1", "\"version\":99", 1);
        fs::write(&record, &newer).unwrap();
        fs::write(daemon.dir.join(format!("root/pods/{}.json", pod.id)), &newer).unwrap();
    }
    daemon.run();
    let log = daemon.log();
    for pod in [&bad, &own] {
        let mut told = log.lines().filter(|line| line.contains("set aside"));
        let named = told.any(|line| line.contains(&pod.id) && line.contains("version 99"));
        assert!(named, "{log}");
    }
    assert!(below(&format!("/minke/{}", own.id)).is_empty(), "its cgroup is left");
    assert!(after(&daemon, &good).await.is_running().await);
    let ids = daemon.cri().await.pod_ids().await;
    assert!(ids.len() == 1 && ids[0] != bad.id, "{ids:?}");
    // It is not listed, so it does not run.
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    assert!(command.is_empty(), "it runs");
    let left = traces(&daemon, &parent);
    assert!(!left.contains_key("processes") && !format!("{left:?}").contains(&bad.id), "{left:#?}");
    // The kubelet starts it again.
    let again = daemon.cri().await.pod("bad").await;
    assert_eq!(again.run("c", &["true"]).await.ended().await.exit_code, 0);
    assert!(daemon.dir.join("state/unreadable").join(&bad.id).join("record.json").exists());
    // Of the kubelet's it removes nothing; here nobody else does.
    below(&parent).iter().rev().for_each(|dir| fs::remove_dir(dir).unwrap());
}

async fn what_is_no_record_is_in_nobodys_way() {
    let daemon = Daemon::start("odd", "").await;
    let container = daemon.cri().await.pod("odd").await.run("c", &["sleep", "1000"]).await;
    daemon.kill();
    let at = |name: &str| daemon.dir.join(name);
    put(&at("state/pods/.hidden/record.json"), b"{}");
    put(&at("state/pods/short/record.json"), b"");
    fs::create_dir_all(at("state/pods/dir/record.json")).unwrap();
    put(&at("state/pods/file"), b"x");
    put(&at("root/pods/broken.json"), b"[[[[");
    put(&at("root/containers/stranger/x"), b"x");
    put(&at("root/images/images/stranger.json"), b"{");
    put(&at("root/network/stranger.json"), b"{");
    daemon.run();
    assert_eq!(after(&daemon, &container).await.exec(&["echo", "well"]).await.out, "well\n");
    assert_eq!(daemon.cri().await.pod_ids().await.len(), 1);
    let more = daemon.cri().await.pod("more").await.run("c", &["true"]).await;
    assert_eq!(more.ended().await.exit_code, 0);
}

async fn the_service_manager_is_told() {
    let abstract_name = format!("minke-e2e-{}", std::process::id());
    for (name, on_disk) in [("notify", true), ("notify-abstract", false)] {
        let daemon = Daemon::prepare(name, "");
        let path = daemon.dir.join("notify.sock");
        let (address, told) = if on_disk {
            (SocketAddr::from_pathname(&path).unwrap(), path.display().to_string())
        } else {
            let address = SocketAddr::from_abstract_name(&abstract_name).unwrap();
            (address, format!("@{abstract_name}"))
        };
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        manager.set_read_timeout(Some(SOON)).unwrap();
        let hears = |manager: &UnixDatagram| {
            let mut message = [0; 512];
            let length = manager.recv(&mut message).unwrap();
            String::from_utf8_lossy(&message[..length]).into_owned()
        };
        let socket = daemon.socket();
        let ready = thread::spawn(move || {
            let first = hears(&manager);
            // What waits for it may call at once.
            UnixStream::connect(&socket).unwrap();
            (first, manager)
        });
        let daemon = daemon.within(&["env", &format!("NOTIFY_SOCKET={told}")]);
        daemon.run();
        let (first, manager) = ready.join().unwrap();
        assert_eq!(first, "READY=1", "{told}");
        manager.set_nonblocking(true).unwrap();
        assert!(manager.recv(&mut [0; 512]).is_err(), "{told}: one word of a daemon that serves");
        daemon.terminate();
        assert_eq!(hears(&manager), "STOPPING=1", "{told}");
        assert!(manager.recv(&mut [0; 512]).is_err(), "{told}: the last word");
    }
}
