//! A pod's namespaces, and what the keeper itself is.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use keeper::{Error, Refusal, Sandbox, Seed};
use model::{IdMapping, UserNamespace};

use crate::pod::{PATIENCE, Pod, Wish, append_to, lines};

fn link(pid: u32, kind: &str) -> String {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap().display().to_string()
}

pub(crate) async fn namespaces_are_made_and_set(seed: Arc<Seed>) {
    let sysctls = [("net.ipv4.ip_unprivileged_port_start", "7"), ("kernel.shmmni", "77")];
    let sandbox = Sandbox {
        network: true,
        ipc: true,
        uts: true,
        hostname: Some("whale".to_owned()),
        shm_size: Some(1 << 20),
        sysctls: sysctls.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        ..Sandbox::default()
    };
    let pod = Pod::with(&seed, sandbox.clone()).await;
    let (me, keeper) = (std::process::id(), pod.keeper.pid());
    for (kind, own) in [
        ("net", true),
        ("ipc", true),
        ("uts", true),
        ("mnt", true),
        ("pid", false),
        ("user", false),
    ] {
        assert_eq!(link(me, kind) != link(keeper, kind), own, "{kind}");
    }
    use std::os::linux::fs::MetadataExt;
    let given = fs::File::from(pod.net.try_clone().unwrap()).metadata().unwrap().st_ino();
    assert_eq!(link(keeper, "net"), format!("net:[{given}]"));
    let mounts = fs::read_to_string(format!("/proc/{keeper}/mountinfo")).unwrap();
    assert!(mounts.contains(" /dev/shm ") && mounts.contains("size=1024k"), "{mounts}");
    assert_eq!(mounts.lines().count(), 4, "{mounts}");
    for (name, value) in sysctls {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        let output = std::process::Command::new("nsenter")
            .args([format!("--net=/proc/{keeper}/ns/net"), format!("--ipc=/proc/{keeper}/ns/ipc")])
            .args(["cat", &path])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), value, "{name}");
    }
    let output = std::process::Command::new("nsenter")
        .args([format!("--uts=/proc/{keeper}/ns/uts"), "hostname".to_owned()])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "whale");

    // What would reach beyond the pod is refused, and nothing is left.
    let directory = tempfile::tempdir().unwrap();
    let beyond = BTreeMap::from([("vm.swappiness".to_owned(), "1".to_owned())]);
    let sandbox = Sandbox { sysctls: beyond, ..sandbox };
    let refused = seed.make(&sandbox, &directory.path().join("keeper.sock")).await.unwrap_err();
    assert!(matches!(refused, Error::Refused(Refusal::Malformed { .. })), "{refused}");
    let wrong = BTreeMap::from([("net.ipv4.no_such_thing".to_owned(), "1".to_owned())]);
    let sandbox = Sandbox { sysctls: wrong, ..sandbox };
    let refused = seed.make(&sandbox, &directory.path().join("keeper.sock")).await.unwrap_err();
    let Error::Refused(Refusal::Kernel { action, errno }) = &refused else { panic!("{refused}") };
    assert!(action.contains("net.ipv4.no_such_thing") && errno.0 == 2, "{refused:?}");
}

fn mapped() -> Sandbox {
    let ids = vec![IdMapping { container_id: 0, host_id: 100_000, length: 65_536 }];
    let user = Some(UserNamespace { uids: ids.clone(), gids: ids });
    let shm_size = Some(1 << 20);
    Sandbox { network: true, ipc: true, uts: true, user, shm_size, ..Sandbox::default() }
}

pub(crate) async fn a_user_namespace_owns_the_pod(seed: Arc<Seed>) {
    let mut pod = Pod::with(&seed, mapped()).await;
    let keeper = pod.keeper.pid();
    assert_eq!(link(std::process::id(), "user"), link(keeper, "user"));
    assert_ne!(link(std::process::id(), "net"), link(keeper, "net"));
    let mounts = fs::read_to_string(format!("/proc/{keeper}/mountinfo")).unwrap();
    assert!(mounts.contains("uid=100000,gid=100000"), "{mounts}");
    // Only a namespace's owner may configure it: the program brings its loopback up.
    let log = Some(append_to(&pod.log_path("log")));
    let args = &["ids", "serve", "8080"];
    let (id, init) = pod.try_create(Wish { args, log, ..Wish::default() }).await.unwrap();
    pod.keeper.start(&id).await.unwrap();
    let uids = fs::read_to_string(format!("/proc/{init}/status")).unwrap();
    assert!(uids.contains("Uid:\t100000\t100000"), "{uids}");
    assert_ne!(link(std::process::id(), "user"), link(init, "user"));
    assert_eq!(hear(&pod, 8080).await, "hello");
    assert_eq!(pod.end_of(&id).await.code, 0);
    assert_eq!(lines(&pod.log_path("log"))[0], "stdout F uid 0 pid 1");

    let shared = pod.keeper.shared_pid().await.unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", shared.pid)).unwrap();
    assert!(status.contains("Uid:\t165535\t165535"), "{status}");
    let log = Some(append_to(&pod.log_path("peek")));
    let args = &["ids", "peek", "1"];
    let id = pod.create(Wish { args, log, pid: Some(shared.namespace), ..Wish::default() }).await;
    pod.keeper.start(&id).await.unwrap();
    assert_eq!(pod.end_of(&id).await.code, 0);
    let seen = lines(&pod.log_path("peek"));
    is_second(&seen[0]);
    for part in ["memory", "mem", "environ", "maps", "exe", "fd", "root/proc"] {
        let line =
            seen.iter().find(|line| line.starts_with(&format!("stdout F {part}: "))).unwrap();
        assert!(line.ends_with("EACCES") || line.ends_with("EPERM"), "{line}");
    }
}

/// PID 1 was there before, and on an older kernel a process that mounted /proc, which has gone.
fn is_second(line: &str) {
    assert!(["stdout F uid 0 pid 2", "stdout F uid 0 pid 3"].contains(&line), "{line}");
}

/// Connects as soon as somebody listens, and reads what is said.
async fn hear(pod: &Pod, port: u16) -> String {
    let deadline = Instant::now() + PATIENCE;
    let socket = loop {
        match pod.keeper.dial(port).await {
            Ok(socket) => break socket,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let mut stream = TcpStream::from(socket);
    stream.set_nonblocking(false).unwrap();
    let _ = stream.flush();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

pub(crate) async fn pid_one_gives_nothing_away(seed: Arc<Seed>) {
    let mut pod = Pod::new(&seed).await;
    let shared = pod.keeper.shared_pid().await.unwrap();
    assert_eq!(pod.keeper.shared_pid().await.unwrap().pid, shared.pid, "it is made once");
    assert_eq!(pod.keeper.status().await.unwrap().shared_pid, Some(shared.pid));
    let log = Some(append_to(&pod.log_path("log")));
    let pid = Some(shared.namespace.try_clone().unwrap());
    let args = &["ids", "peek", "1", "orphan", "sleep", "200", "zombies"];
    let id = pod.create(Wish { args, log, pid, ..Wish::default() }).await;
    pod.keeper.start(&id).await.unwrap();
    assert_eq!(pod.end_of(&id).await.code, 0);
    let seen = lines(&pod.log_path("log"));
    let has = |line: &str| assert!(seen.contains(&format!("stdout F {line}")), "{line}: {seen:#?}");
    is_second(&seen[0]);
    // Even for who has every capability there is nothing but the program itself.
    has("root has 0 entries");
    has("open files 0");
    has("root/proc: ENOENT");
    has("Uid:\t4000000001\t4000000001\t4000000001\t4000000001");
    has("CapEff:\t0000000000000000");
    has("Seccomp:\t2");
    let size = seen.iter().find_map(|line| line.strip_prefix("stdout F VmSize:")).unwrap();
    let size: u32 = size.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(size < 300, "{size} kB");
    // The kernel reaps orphans for it.
    has("processes 2 zombies 0");
    // It goes with the keeper, however that goes.
    pod.keeper.kill();
    pod.keeper.lost().await;
    let ended = rustix::event::PollFd::new(&shared.pidfd, rustix::event::PollFlags::IN);
    let timeout = rustix::time::Timespec { tv_sec: 10, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut [ended], Some(&timeout)).unwrap(), 1);
}

pub(crate) async fn ports_are_dialed(seed: Arc<Seed>) {
    let mut pod = Pod::new(&seed).await;
    let id = pod.run("log", &["serve", "9090"]).await;
    assert_eq!(hear(&pod, 9090).await, "hello");
    assert_eq!(pod.end_of(&id).await.code, 0);
    let refused = pod.keeper.dial(9091).await.unwrap_err();
    let Error::Refused(Refusal::Kernel { errno, .. }) = &refused else { panic!("{refused}") };
    assert_eq!(errno.0, 111, "{refused:?}");
}

/// Kilobytes of a field of smaps_rollup.
fn kilobytes(pid: u32, field: &str) -> u32 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
}

pub(crate) async fn keepers_are_small(seed: Arc<Seed>) {
    let mut pods = Vec::new();
    let (mut making, mut running) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..30 {
        let start = Instant::now();
        let mut pod = Pod::new(&seed).await;
        making += start.elapsed();
        pod.run("log", &["sleep", "60000"]).await;
        running += pod.spent;
        pods.push(pod);
    }
    // Buffers are given back a moment after the work.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let mean = |field| {
        pods.iter().map(|pod| kilobytes(pod.keeper.pid(), field)).sum::<u32>() / pods.len() as u32
    };
    let (pss, private) = (mean("Pss"), mean("Private_Dirty"));
    let (making, running) = (making / 30, running / 30);
    writeln!(
        std::io::stdout(),
        "30 keepers: {pss} kB PSS, {private} kB private each; made in {making:?}, a container \
         created and started in {running:?}"
    )
    .unwrap();
    assert!(pss <= 256, "a keeper has {pss} kB");
}

pub(crate) async fn a_keeper_sees_nothing_of_the_host(seed: Arc<Seed>) {
    let pod = Pod::new(&seed).await;
    let keeper = pod.keeper.pid();
    let root: Vec<_> = fs::read_dir(format!("/proc/{keeper}/root"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(
        root.len() == 3 && ["proc", "sys", "dev"].iter().all(|it| root.contains(&(*it).to_owned())),
        "{root:?}"
    );
    let exe = fs::read_link(format!("/proc/{keeper}/exe")).unwrap();
    assert!(exe.display().to_string().starts_with("/memfd:minke-keeper"), "{exe:?}");
    let written = fs::OpenOptions::new().write(true).open(format!("/proc/{keeper}/exe"));
    assert!(
        written.is_err() || written.unwrap().write(b"x").is_err(),
        "the program can be changed"
    );
    let status = fs::read_to_string(format!("/proc/{keeper}/status")).unwrap();
    assert!(status.contains("Threads:\t1\n") && status.contains("Name:\tminke-keeper"), "{status}");
    for entry in fs::read_dir(format!("/proc/{keeper}/fd")).unwrap() {
        let entry = entry.unwrap();
        let target = fs::read_link(entry.path()).unwrap().display().to_string();
        let known =
            ["/dev/null", "socket:", "anon_inode:[eventpoll]", "anon_inode:[pidfd]", "pidfd:"];
        assert!(known.iter().any(|known| target.starts_with(known)), "{target}");
        let info =
            fs::read_to_string(format!("/proc/{keeper}/fdinfo/{}", entry.file_name().display()));
        let number: u32 = entry.file_name().to_str().unwrap().parse().unwrap();
        let close_on_exec = info.unwrap().lines().any(|line| {
            line.strip_prefix("flags:")
                .is_some_and(|flags| flags.trim().starts_with("02") && flags.trim().len() >= 7)
        });
        assert!(close_on_exec || number <= 2, "descriptor {number} ({target}) would be inherited");
    }
}
