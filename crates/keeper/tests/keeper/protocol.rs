//! The connection: versions, new daemons, nonsense, ends.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use keeper::{ContainerPhase, Error, Event, Keeper, Refusal, Sandbox, Seed};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv,
    send, socket_with,
};

use crate::pod::{Heard, PATIENCE, Pod, Wish, append_to, lines};

pub(crate) async fn a_new_daemon_finds_everything(seed: Arc<Seed>) {
    let mut pod = Pod::new(&seed).await;
    let ends = pod.run("ends", &["slow", "100", "exit", "5"]).await;
    let runs = pod.run("runs", &["slow", "300", "sleep", "60000"]).await;
    let waits = pod.create(Wish { args: &["exit", "0"], ..Wish::default() }).await;
    let (launch, table) = crate::pod::exec_launch(&["sleep", "60000"], pod.init(1), None);
    let _execution = pod.keeper.exec(&runs, launch, table).await.unwrap();
    // The old daemon dies; a container ends and another writes while nobody is there.
    let socket = pod.socket();
    let (keeper, _) = (pod.keeper.pid(), pod.keeper.version());
    let (temporary, events) = Keeper::connect(&socket).await.unwrap();
    let old = std::mem::replace(&mut pod.keeper, temporary);
    let old_events = std::mem::replace(&mut pod.events, events);
    drop((old, old_events));
    let (temporary, events) = Keeper::connect(&socket).await.unwrap();
    drop((
        std::mem::replace(&mut pod.keeper, temporary),
        std::mem::replace(&mut pod.events, events),
    ));
    let logs = [("ends", 100), ("runs", 300)];
    let written = |(name, count)| lines(&pod.log_path(name)).len() >= count;
    let patience = Instant::now() + PATIENCE;
    while !logs.into_iter().all(written) && Instant::now() < patience {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // The exit of the one that ends comes after its last line.
    tokio::time::sleep(Duration::from_millis(300)).await;
    pod.reconnect().await;
    assert_eq!(pod.keeper.pid(), keeper);
    let status = pod.keeper.status().await.unwrap();
    let state =
        |id: &model::ContainerId| &status.containers.iter().find(|it| it.id == *id).unwrap().state;
    let ContainerPhase::Exited { exit, .. } = state(&ends) else { panic!("{status:?}") };
    assert_eq!(exit.code, 5);
    assert!(matches!(state(&runs), ContainerPhase::Running { .. }));
    assert_eq!(*state(&waits), ContainerPhase::Created);
    assert_eq!(status.execs.len(), 1);
    let made_by = std::fs::read_to_string(format!("/proc/{}/status", status.execs[0].pid)).unwrap();
    assert!(made_by.contains(&format!("\nPPid:\t{keeper}\n")), "{made_by}");
    for (name, count) in logs {
        let logged = lines(&pod.log_path(name));
        let wanted: Vec<_> = (0..count).map(|line| format!("stdout F line {line}")).collect();
        assert_eq!(logged, wanted, "{name}");
    }
    // And drives all of it.
    pod.keeper.start(&waits).await.unwrap();
    assert_eq!(pod.end_of(&waits).await.code, 0);
    pod.kill(1);
    assert_eq!(pod.end_of(&runs).await.code, 137);
    for id in [&ends, &runs, &waits] {
        pod.keeper.forget(id).await.unwrap();
    }
    assert!(pod.keeper.status().await.unwrap().containers.is_empty());
}

pub(crate) async fn yesterdays_keeper_is_driven(seed: Arc<Seed>) {
    let sandbox = Sandbox { network: true, max_version: Some(1), ..Sandbox::default() };
    let mut pod = Pod::with(&seed, sandbox).await;
    assert_eq!(pod.keeper.version(), 1);
    let id = pod.run("log", &["out", "hello\n", "sleep", "60000"]).await;
    let (output, exit) = pod.exec(&id, Heard::Start, &["out", "exec", "exit", "4"]).await.unwrap();
    assert_eq!((output.as_str(), exit.code), ("exec", 4));
    let status = pod.keeper.status().await.unwrap();
    assert!(matches!(status.containers[0].state, ContainerPhase::Running { .. }));
    // What came with version 2 is absent, and nothing is made up in its place.
    assert_eq!(status.containers[0].log, None);
    pod.reconnect().await;
    assert_eq!(pod.keeper.version(), 1);
    let deadline = Instant::now() + PATIENCE;
    while lines(&pod.log_path("log")).is_empty() {
        assert!(Instant::now() < deadline, "nothing is logged");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    pod.keeper.reopen_log(&id, append_to(&pod.log_path("next"))).await.unwrap();
    assert_eq!(lines(&pod.log_path("log")), ["stdout F hello"]);
    // A log that refuses everything: a keeper of version 1 drops, and says nothing of it.
    let full = std::fs::OpenOptions::new().write(true).custom_flags(0).open("/dev/full").unwrap();
    let args = &["lines", "1000"];
    let dropping = pod.create(Wish { args, log: Some(full.into()), ..Wish::default() }).await;
    pod.keeper.start(&dropping).await.unwrap();
    match pod.event().await {
        Event::ContainerExited { container, exit } => {
            assert_eq!((container, exit.code), (dropping.clone(), 0));
        }
        other => panic!("{other:?}"),
    }
    pod.kill(0);
    assert_eq!(pod.end_of(&id).await.code, 137);
    pod.keeper.shutdown().await.unwrap();
    tokio::time::timeout(PATIENCE, pod.keeper.lost()).await.unwrap();
}

fn raw(pod: &Pod) -> OwnedFd {
    let socket =
        socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .unwrap();
    connect(&socket, &SocketAddrUnix::new(pod.socket()).unwrap()).unwrap();
    socket
}

fn say(socket: &OwnedFd, body: &[u8]) -> String {
    send(socket, body, SendFlags::empty()).unwrap();
    let mut buffer = vec![0; 65_536];
    let (_, length) = recv(socket, &mut buffer[..], RecvFlags::empty()).unwrap();
    String::from_utf8(buffer[1..length].to_vec()).unwrap()
}

pub(crate) async fn nonsense_is_answered(seed: Arc<Seed>) {
    let mut pod = Pod::new(&seed).await;
    let socket = raw(&pod);
    let has = |answer: String, part: &str| assert!(answer.contains(part), "{part}: {answer}");
    has(say(&socket, b"\0{\"id\":7,\"request\":{\"status\":{}}}"), "nothing comes before hello");
    has(say(&socket, b"\0{\"id\":8,\"request\":{\"hello\":{\"min\":90,\"max\":99}}}"), "\"max\":2");
    has(say(&socket, b"\0not json"), "malformed");
    has(say(&socket, b"\x07what"), "kind is unknown");
    has(say(&socket, b"\x01"), "memory file");
    has(say(&socket, &vec![b' '; 70_000]), "64 KiB");
    let hello = b"\0{\"id\":9,\"request\":{\"hello\":{\"min\":1,\"max\":9,\"colour\":\"blue\"}},\"size\":3}";
    has(say(&socket, hello), "\"version\":2");
    has(say(&socket, b"\0{\"id\":10,\"request\":{\"levitate\":{\"height\":3}}}"), "\"id\":10");
    has(say(&socket, b"\0{\"id\":11,\"request\":{\"attach\":{\"container\":\"x\"}}}"), "malformed");
    let id = "ab".repeat(32);
    let attach = format!(
        "\0{{\"id\":12,\"request\":{{\"attach\":{{\"container\":\"{id}\",\"stdin\":true,\"stdout\":true,\"stderr\":true}}}}}}"
    );
    has(say(&socket, attach.as_bytes()), "announces other pipes");
    // Its own daemon's connection was replaced; another takes over, and all is well.
    assert!(matches!(pod.keeper.status().await, Err(Error::Lost { .. })));
    pod.reconnect().await;
    let id = pod.run("log", &["exit", "1"]).await;
    assert_eq!(pod.end_of(&id).await.code, 1);
    let _ = socket.as_fd();
}

pub(crate) async fn a_keeper_goes_when_it_may(seed: Arc<Seed>) {
    let mut pod = Pod::new(&seed).await;
    let id = pod.run("log", &["sleep", "60000"]).await;
    let busy = pod.keeper.shutdown().await.unwrap_err();
    assert!(matches!(busy, Error::Refused(Refusal::Busy { alive: 1 })), "{busy}");
    let runs = pod.keeper.forget(&id).await.unwrap_err();
    assert!(matches!(runs, Error::Refused(Refusal::State { .. })), "{runs}");
    pod.kill(0);
    pod.end_of(&id).await;
    pod.keeper.shutdown().await.unwrap();
    tokio::time::timeout(PATIENCE, pod.keeper.lost()).await.unwrap();
    assert!(pod.events.next().await.is_none());
    assert!(matches!(pod.keeper.status().await, Err(Error::Lost { .. })));
}

pub(crate) async fn a_killed_keeper_is_noticed(seed: Arc<Seed>) {
    let mut pod = Pod::new(&seed).await;
    let id = pod.run("log", &["sleep", "60000"]).await;
    let (launch, table) = crate::pod::exec_launch(&["sleep", "60000"], pod.init(0), None);
    let mut execution = pod.keeper.exec(&id, launch, table).await.unwrap();
    pod.keeper.kill();
    tokio::time::timeout(PATIENCE, pod.keeper.lost()).await.unwrap();
    assert!(matches!(execution.exited().await, Err(Error::Lost { .. })));
    let lost = tokio::time::timeout(PATIENCE, pod.keeper.start(&id)).await.unwrap();
    assert!(matches!(lost, Err(Error::Lost { .. })), "{lost:?}");
    let gone = Keeper::connect(&pod.socket()).await.unwrap_err();
    assert!(matches!(gone, Error::Socket { .. }), "{gone}");
    execution.kill();
}

pub(crate) async fn a_killed_seed_is_replaced(_: Arc<Seed>) {
    let seed = Seed::start().await.unwrap();
    let mut pod = Pod::new(&seed).await;
    let parent = std::fs::read_to_string(format!("/proc/{}/stat", pod.keeper.pid())).unwrap();
    let parent: i32 =
        parent.rsplit(')').next().unwrap().split_whitespace().nth(1).unwrap().parse().unwrap();
    let parent = rustix::process::Pid::from_raw(parent).unwrap();
    rustix::process::kill_process(parent, rustix::process::Signal::KILL).unwrap();
    // At once, before anybody can have noticed.
    let other = Pod::new(&seed).await;
    assert_ne!(other.keeper.pid(), pod.keeper.pid());
    // Its keepers do not notice.
    let id = pod.run("log", &["exit", "6"]).await;
    assert_eq!(pod.end_of(&id).await.code, 6);
}
