//! Containers that want out: none reaches a byte outside, and everybody else goes on.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use e2e_cri::client::{Container, Pod, eventually, image_spec, namespaces};
use e2e_cri::daemon::{DIR, Daemon};
use e2e_cri::group::Group;
use e2e_cri::image::{Built, Tar};
use e2e_cri::probe::{PRELOADED, PROBE};
use e2e_cri::traces::controller;
use e2e_cri::{alone, at_daemon};
use k8s_cri::v1::*;
use tonic::Code;

pub fn group() -> Group {
    let tests = at_daemon![
        programs_that_are_the_keeper_or_its_files,
        a_loader_of_the_image_in_programs_that_are_the_keeper,
        working_directories_that_are_descriptors,
        device_nodes_of_an_image,
        links_swapped_under_mount_targets,
        a_spy_with_ptrace_in_a_shared_pid_namespace,
        a_spy_with_ptrace_on_execs_in_flight,
        an_oom_score_stays_up,
        a_fork_bomb_under_a_limit,
    ];
    Group::new("hostile", tests)
        .and(alone![a_flood_on_a_full_disk, what_a_user_namespace_was_given_is_locked])
}

/// Brings an image of this layer in, under this name.
fn imported(daemon: &Daemon, name: &str, layer: Tar) -> String {
    let layer = layer.file("name", name);
    let name = format!("docker.io/hostile/{name}:1");
    assert_eq!(daemon.import(&Built::of(layer).oci_archive(&name)).unwrap(), name);
    name
}

fn with_probe(layer: Tar) -> Tar {
    layer.program("probe", fs::read(&*PROBE).unwrap())
}

fn probe(daemon: &Daemon, name: &str) -> String {
    imported(daemon, name, with_probe(Tar::default()).dir("v").dir("w").dir("tmp"))
}

fn context(config: &mut ContainerConfig) -> &mut LinuxContainerSecurityContext {
    config.linux.as_mut().unwrap().security_context.as_mut().unwrap()
}

fn capable(config: &mut ContainerConfig, capability: &str) {
    let add_capabilities = vec![capability.to_owned()];
    context(config).capabilities = Some(Capability { add_capabilities, ..Default::default() });
}

fn volume(path: &Path, at: &str) -> Mount {
    Mount { host_path: path.display().to_string(), container_path: at.into(), ..Default::default() }
}

/// A directory on the host for a test.
fn directory(name: &str) -> PathBuf {
    let dir = DIR.join("volumes").join(name);
    fs::create_dir_all(&dir).unwrap();
    dir
}

/// A neighbour that has to be well at the end.
async fn neighbour(daemon: &Daemon, name: &str) -> Container {
    daemon.cri().await.pod(name).await.run("neighbour", &["sleep", "1000"]).await
}

/// Programs of a layer that lead back to whoever starts them, and their paths.
fn programs_that_lead_back(mut layer: Tar) -> (Tar, Vec<String>) {
    layer = layer.program("exe", "#!/proc/self/exe\n");
    let mut programs = vec!["/exe".to_owned(), "/proc/self/exe".to_owned()];
    for number in 0..16 {
        layer = layer.program(&format!("fd{number}"), format!("#!/proc/self/fd/{number}\n"));
        programs.extend([format!("/fd{number}"), format!("/proc/self/fd/{number}")]);
    }
    (layer, programs)
}

async fn programs_that_are_the_keeper_or_its_files(daemon: Arc<Daemon>) {
    let (layer, programs) = programs_that_lead_back(with_probe(Tar::default()));
    let image = imported(&daemon, "programs", layer);
    let minke = fs::metadata(std::env::var("MINKE").unwrap()).unwrap().modified().unwrap();
    let pod = daemon.cri().await.pod("programs").await;
    let target =
        pod.run_with("target", &["/probe", "hold"], |c| c.image = Some(image_spec(&image))).await;
    for (number, program) in programs.iter().enumerate() {
        let mut config = pod.container_config(&format!("c{number}"), &[program]);
        config.image = Some(image_spec(&image));
        let container = pod.try_create(config).await.unwrap();
        let status = container.try_start().await.unwrap_err();
        assert!(status.message().contains(&format!("cannot execute {program:?}")), "{status}");
        assert_eq!(container.status().await.reason, "StartError");
        let status = target.try_exec(&[program], 5).await.unwrap_err();
        assert!(status.message().contains(&format!("cannot execute {program:?}")), "{status}");
    }
    assert!(target.is_running().await);
    let after = fs::metadata(std::env::var("MINKE").unwrap()).unwrap().modified().unwrap();
    assert_eq!(minke, after);
}

/// A program of the host and what it is linked with, where its loader looks for it.
fn linked(mut layer: Tar, program: &str) -> Tar {
    let listed = Command::new("ldd").arg(program).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let paths = listed.split_whitespace().filter(|word| word.starts_with('/'));
    for path in paths {
        layer = layer.program(&path[1..], fs::read(path).unwrap());
    }
    layer
}

async fn a_loader_of_the_image_in_programs_that_are_the_keeper(daemon: Arc<Daemon>) {
    let minke = std::env::var("MINKE").unwrap();
    let before = fs::read(&minke).unwrap();
    let layer = linked(with_probe(Tar::default()), &minke);
    let layer = layer.program("true", fs::read("/bin/true").unwrap());
    let layer = layer.program("preloaded.so", fs::read(&*PRELOADED).unwrap());
    let layer = layer.file("etc/ld.so.preload", "/preloaded.so\n");
    let (layer, programs) = programs_that_lead_back(layer);
    let image = imported(&daemon, "loader", layer);
    let well = neighbour(&daemon, "loader-neighbour").await;
    let pod = daemon.cri().await.pod("loader").await;
    let of_image = |config: &mut ContainerConfig| config.image = Some(image_spec(&image));
    // The library works: a program of the image itself is written to.
    let own = pod.run_with("own", &["/true"], of_image).await;
    own.ended().await;
    own.says("inside /true, open to write: ETXTBSY").await;
    own.says("overwrite: ok").await;
    let target = pod.run_with("target", &["/probe", "hold"], of_image).await;
    let mut said = Vec::new();
    for (number, program) in programs.iter().enumerate() {
        let mut config = pod.container_config(&format!("c{number}"), &[program]);
        of_image(&mut config);
        let container = pod.try_create(config).await.unwrap();
        match container.try_start().await {
            Ok(()) => drop(container.ended().await),
            Err(status) => assert!(status.message().contains("cannot execute"), "{status}"),
        }
        said.extend(container.logged());
        match target.try_exec(&[program], 5).await {
            Ok(answer) => said.extend(answer.out.lines().map(str::to_owned)),
            Err(status) => assert!(status.message().contains("cannot execute"), "{status}"),
        }
    }
    let wrote = |line: &&String| line.ends_with(": ok") && !line.contains("inside /true");
    assert_eq!(said.iter().find(wrote), None, "{said:#?}");
    assert!(fs::read(&minke).unwrap() == before, "the host's program was written to");
    // The program of the keepers, too, is what it was.
    assert_eq!(well.exec(&["echo", "well"]).await.out, "well\n");
    let next = neighbour(&daemon, "loader-next").await;
    assert_eq!(next.exec(&["echo", "well"]).await.out, "well\n");
}

async fn working_directories_that_are_descriptors(daemon: Arc<Daemon>) {
    let pod = daemon.cri().await.pod("directories").await;
    let mut paths: Vec<String> = (0..24).map(|number| format!("/proc/self/fd/{number}")).collect();
    paths.extend(["/proc/self/cwd".into(), "/proc/1/root".into(), "/proc/self/root/proc".into()]);
    for (number, path) in paths.iter().enumerate() {
        let mut config = pod.container_config(&format!("c{number}"), &["pwd"]);
        config.working_dir = path.clone();
        // Refused when it is created or when it is started; it never runs there.
        let status = match pod.try_create(config).await {
            Ok(container) => container.try_start().await.unwrap_err(),
            Err(status) => status,
        };
        assert!(status.message().contains(path.as_str()), "{status}");
    }
    assert_eq!(pod.sh("after", "pwd; sleep 1").await.ended().await.exit_code, 0);
}

async fn device_nodes_of_an_image(daemon: Arc<Daemon>) {
    // The disk below this test's own files, and the machine's memory.
    let disk = fs::metadata(&*DIR).unwrap().dev();
    let disk = (rustix::fs::major(disk), rustix::fs::minor(disk));
    let layer = with_probe(Tar::default());
    let layer =
        layer.device('b', "disk", disk).device('c', "mem", (1, 1)).device('c', "null", (1, 3));
    let image = imported(&daemon, "devices", layer);
    let pod = daemon.cri().await.pod("devices").await;
    let hold = ["/probe", "hold"];
    let container = pod.run_with("c", &hold, |c| c.image = Some(image_spec(&image))).await;
    for (path, verdict) in [("/disk", "EPERM"), ("/mem", "EPERM"), ("/null", "ok")] {
        let said = container.exec(&["/probe", "write", path]).await;
        assert_eq!(said.out.trim(), verdict, "{path}");
    }
    let said = container.exec(&["/probe", "mknod", "/disk2"]).await;
    assert!(["EPERM", "ok"].contains(&said.out.trim()), "{said:?}");
    assert_eq!(container.exec(&["/probe", "write", "/disk2"]).await.out.trim(), "EPERM");
}

async fn links_swapped_under_mount_targets(daemon: Arc<Daemon>) {
    let (outer, inner) = (directory("outer"), directory("inner"));
    let name = format!("swapped-{}", std::process::id());
    fs::create_dir(outer.join("place")).unwrap();
    symlink("../../../../../../../../../..", outer.join("link")).unwrap();
    let image = probe(&daemon, "swap");
    let pod = daemon.cri().await.pod("swap").await;
    let swap = ["/probe", "swap", "/v", "place", "link"];
    let racer = pod
        .run_with("racer", &swap, |c| {
            c.image = Some(image_spec(&image));
            c.mounts = vec![volume(&outer, "/v")];
        })
        .await;
    let (mut started, mut refused) = (0, 0);
    for number in 0..40 {
        let target = format!("/v/{}/{name}", ["place", "link"][number % 2]);
        let mut config = pod.container_config(&format!("c{number}"), &["true"]);
        config.mounts = vec![volume(&outer, "/v"), volume(&inner, &target)];
        match pod.try_create(config).await {
            Ok(container) => {
                container.try_start().await.unwrap();
                assert_eq!(container.ended().await.exit_code, 0);
                container.remove().await;
                started += 1;
            }
            // A link where a directory was a moment ago.
            Err(status) => {
                assert!(status.message().contains(&target), "{status}");
                refused += 1;
            }
        }
    }
    assert!(started > 0, "{started} started, {refused} were refused");
    assert!(racer.is_running().await);
    // It would have been made at the root of the host, or of the keeper.
    assert!(!Path::new("/").join(&name).exists());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&name) && !mounts.contains("volumes/inner"), "{mounts}");
}

/// What only the containers of [`secretive`] may hold.
fn secret() -> String {
    format!("secret-of-{}-not-for-spies", std::process::id())
}

/// A container in a PID namespace of its own, with a secret in its environment.
async fn secretive(pod: &Pod) -> Container {
    let script = "test ${#SECRET} -gt 9 && exec sleep 1000";
    let key = "SECRET".to_owned();
    pod.run_with("secretive", &["sh", "-c", script], |config| {
        config.envs = vec![KeyValue { key, value: secret() }];
    })
    .await
}

/// Execs with the secret in their environment, one in the spy's pod, one in another.
async fn whisper(containers: &[Container; 2]) {
    for container in containers {
        assert_eq!(container.sh("echo $SECRET").await, secret());
    }
}

/// A container that spies for some seconds; for more where it has to share the only processor with
/// what it spies on.
async fn spy(pod: &Pod, image: &str, pid: NamespaceMode) -> Container {
    let alone = std::thread::available_parallelism().is_ok_and(|processors| processors.get() == 1);
    let milliseconds = if alone { 15_000 } else { 3_000 };
    let (token, secret) = (DIR.display().to_string(), secret());
    let (half, other) = token.split_at(token.len() / 2);
    let (third, fourth) = secret.split_at(secret.len() / 2);
    let marker = DIR.join("marker");
    fs::write(&marker, "of the host").unwrap();
    let (time, marker) = (i32::to_string(&milliseconds), marker.display().to_string());
    let command = ["/probe", "spy", &time, &marker, half, other, third, fourth];
    pod.run_with("spy", &command, |config| {
        config.image = Some(image_spec(image));
        context(config).namespace_options = Some(namespaces(NamespaceMode::Pod, pid));
        capable(config, "SYS_PTRACE");
    })
    .await
}

/// What the spy found, but for what its own child holds, which it must have found.
async fn findings(spy: &Container) -> Vec<String> {
    assert_eq!(spy.ended().await.exit_code, 0);
    let mut lines = spy.logged();
    let last = lines.pop().unwrap();
    let looks = last.split(' ').nth(6).and_then(|count| count.parse::<u32>().ok());
    assert!(looks.is_some_and(|looks| looks > 10), "{last}");
    let (own, others): (Vec<_>, Vec<_>) = lines.into_iter().partition(|l| l.ends_with(" probe"));
    for place in ["the memory", "the environment", "an open file"] {
        let found = format!("found a word in {place} of");
        assert!(own.iter().any(|line| line.contains(&found)), "the spy is blind: {last} {own:?}");
    }
    others
}

async fn a_spy_with_ptrace_in_a_shared_pid_namespace(daemon: Arc<Daemon>) {
    let image = probe(&daemon, "spy-shared");
    let pod = daemon
        .cri()
        .await
        .pod_with("spy-shared", |config| {
            let shared = namespaces(NamespaceMode::Pod, NamespaceMode::Pod);
            config.linux.as_mut().unwrap().security_context = Some(LinuxSandboxSecurityContext {
                namespace_options: Some(shared),
                ..Default::default()
            });
        })
        .await;
    let other = daemon.cri().await.pod("spy-shared-other").await;
    let secretive = [secretive(&pod).await, secretive(&other).await];
    let spy = spy(&pod, &image, NamespaceMode::Pod).await;
    let mut number = 0;
    while spy.is_running().await {
        // Inits on their way in, as many as there is time for; PID 1 is there all the time.
        let shared = Some(namespaces(NamespaceMode::Pod, NamespaceMode::Pod));
        let name = format!("second{number}");
        let share = |config: &mut ContainerConfig| context(config).namespace_options = shared;
        let second = pod.run_with(&name, &["true"], share).await;
        second.remove().await;
        whisper(&secretive).await;
        number += 1;
    }
    assert!(number > 3, "{number} containers came and went");
    assert_eq!(findings(&spy).await, Vec::<String>::new());
}

async fn a_spy_with_ptrace_on_execs_in_flight(daemon: Arc<Daemon>) {
    let image = probe(&daemon, "spy-exec");
    let pod = daemon.cri().await.pod("spy-exec").await;
    let other = daemon.cri().await.pod("spy-exec-other").await;
    let secretive = [secretive(&pod).await, secretive(&other).await];
    let spy = spy(&pod, &image, NamespaceMode::Container).await;
    let mut number = 0;
    while spy.is_running().await {
        // It may end between the question and this.
        let _ = spy.try_exec(&["/probe", "write", "/tmp/x"], 5).await;
        whisper(&secretive).await;
        number += 1;
    }
    assert!(number > 10, "{number} execs");
    assert_eq!(findings(&spy).await, Vec::<String>::new());
}

async fn an_oom_score_stays_up(daemon: Arc<Daemon>) {
    let pod = daemon.cri().await.pod("oom-score").await;
    let wanted = LinuxContainerResources { oom_score_adj: 500, ..Default::default() };
    let container = pod
        .run_with("c", &["sleep", "1000"], |c| {
            c.linux.as_mut().unwrap().resources = Some(wanted);
        })
        .await;
    assert_eq!(container.sh("cat /proc/1/oom_score_adj").await, "500");
    let adj = |pid: u32| fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
    // Who may not move the minimum (CAP_SYS_RESOURCE) cannot keep it above its own.
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap();
    let may = u64::from_str_radix(effective, 16).unwrap() & 1 << 24 != 0;
    let floor = if may { 500 } else { adj(daemon.pid()).trim().parse().unwrap() };
    let try_all = "for i in -1000 -999 -1 0 499; do echo $i > /proc/self/oom_score_adj; \
                   cat /proc/self/oom_score_adj; done 2>/dev/null";
    for reached in container.sh(try_all).await.lines() {
        assert!(reached.parse::<i32>().unwrap() >= floor, "{reached} is below {floor}");
    }
}

async fn what_a_user_namespace_was_given_is_locked() {
    let daemon = Daemon::prepare("user", "").with_small("shared", "1m");
    daemon.run();
    let image = probe(&daemon, "user");
    fs::create_dir(daemon.inside("shared/given")).unwrap();
    let mapping = || vec![IdMapping { host_id: 300_000, container_id: 0, length: 65_536 }];
    let user = UserNamespace { mode: NamespaceMode::Pod.into(), uids: mapping(), gids: mapping() };
    let mut options = namespaces(NamespaceMode::Pod, NamespaceMode::Container);
    options.userns_options = Some(user);
    let of_pod = LinuxSandboxSecurityContext {
        namespace_options: Some(options.clone()),
        ..Default::default()
    };
    let set = |c: &mut PodSandboxConfig| c.linux.as_mut().unwrap().security_context = Some(of_pod);
    let pod = daemon.cri().await.pod_with("user", set).await;
    let config = |name: &str, propagation: MountPropagation| {
        let mut config = pod.container_config(name, &["/probe", "hold"]);
        config.image = Some(image_spec(&image));
        config.mounts = vec![Mount {
            readonly: true,
            propagation: propagation.into(),
            uid_mappings: mapping(),
            gid_mappings: mapping(),
            ..volume(&daemon.dir.join("shared/given"), "/v")
        }];
        let security = context(&mut config);
        security.namespace_options = Some(options.clone());
        security.masked_paths = vec!["/proc/irq".into()];
        security.readonly_paths = vec!["/proc/sys".into()];
        capable(&mut config, "ALL");
        config
    };
    let slave = config("slave", MountPropagation::PropagationHostToContainer);
    let container = pod.try_create(slave).await.unwrap();
    container.try_start().await.unwrap();
    // Daemons of other tests mount and unmount what is theirs meanwhile.
    let root = format!("/proc/{}/root", daemon.pid());
    let inside = daemon.inside("").display().to_string();
    let (all, own) = (DIR.display().to_string(), inside.replace(&root, ""));
    let mounts = || {
        let text = fs::read_to_string(format!("/proc/{}/mountinfo", daemon.pid())).unwrap();
        let lines = text.lines().filter(|line| !line.contains(&all) || line.contains(&own));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(mounts().iter().any(|line| line.contains(&own)));
    let before = mounts();
    for (attempt, path, verdict) in [
        ("write", "/v/x", "EROFS"),
        ("remount", "/v", "EPERM"),
        ("umount", "/v", "EINVAL"),
        ("umount", "/proc/irq", "EINVAL"),
        ("remount", "/proc/sys", "EPERM"),
        ("umount", "/proc/sys", "EINVAL"),
        ("umount", "/dev", "EINVAL"),
        ("write", "/v/x", "EROFS"),
        // Its own mounts are its own.
        ("cover", "/v", "ok"),
        ("write", "/v/x", "ok"),
        ("cover", "/dev", "ok"),
    ] {
        let said = container.exec(&["/probe", attempt, path]).await;
        assert_eq!(said.out.trim(), verdict, "{attempt} {path}: {said:?}");
    }
    assert_eq!(fs::read_dir(daemon.inside("shared/given")).unwrap().count(), 0);
    assert_eq!(mounts(), before);
    let shared = config("shared", MountPropagation::PropagationBidirectional);
    let status = pod.try_create(shared).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert!(status.message().contains("mounts[0].propagation"), "{status}");
}

async fn a_fork_bomb_under_a_limit(daemon: Arc<Daemon>) {
    let parent = format!("/e2e-{}-bomb", std::process::id());
    let neighbour = neighbour(&daemon, "neighbour-of-bomb").await;
    let pod = daemon
        .cri()
        .await
        .pod_with("bomb", |config| config.linux.as_mut().unwrap().cgroup_parent = parent.clone())
        .await;
    // As the kubelet limits a pod: in the cgroup that it makes for it.
    fs::write(controller("pids", &parent).join("pids.max"), "40").unwrap();
    let image = probe(&daemon, "bomb");
    let bomb =
        pod.run_with("bomb", &["/probe", "bomb"], |c| c.image = Some(image_spec(&image))).await;
    eventually("the limit", async || {
        let current = fs::read_to_string(controller("pids", &parent).join("pids.current")).unwrap();
        (current.trim().parse::<u32>().unwrap() >= 38).then_some(())
    })
    .await;
    assert_eq!(neighbour.exec(&["echo", "well"]).await.out, "well\n");
    // Who comes in now may find no room; it is told so, and nothing breaks.
    let _ = bomb.try_exec(&["true"], 5).await;
    bomb.stop(0).await;
    assert_eq!(bomb.ended().await.exit_code, 137);
    pod.remove().await;
    assert!(!controller("pids", &parent).exists());
    assert_eq!(neighbour.exec(&["echo", "well"]).await.out, "well\n");
}

async fn a_flood_on_a_full_disk() {
    let daemon = Daemon::prepare("flood", "").with_small("logs", "1m");
    daemon.run();
    let cri = daemon.cri().await;
    cri.pull(e2e_cri::client::BUSYBOX).await.unwrap();
    let pod = cri.pod("flood").await;
    let flood =
        pod.sh("flood", "while :; do echo 0123456789012345678901234567890123456789; done").await;
    let full = daemon.inside("logs/flood/flood.log");
    eventually("a full disk", async || {
        fs::metadata(&full).is_ok_and(|file| file.len() >= 900 << 10).then_some(())
    })
    .await;
    // Neighbours run, and so does the one that floods: lines are dropped, not waited for.
    let ticks = pod
        .sh("ticks", "i=0; while :; do i=$((i+1)); echo $i; echo $i > /count; sleep 0.05; done")
        .await;
    eventually("the neighbour's count", async || {
        // There is no file yet when the container has only just started.
        (ticks.exec(&["cat", "/count"]).await.out.trim().parse::<u32>().ok()? > 20).then_some(())
    })
    .await;
    assert_eq!(flood.exec(&["echo", "well"]).await.out, "well\n");
    eventually("a word of it", async || daemon.log().contains("lines were dropped").then_some(()))
        .await;
    // Room again, and the log goes on.
    fs::File::options().write(true).open(&full).unwrap().set_len(0).unwrap();
    flood.stop(0).await;
    let log = daemon.inside("logs/flood/ticks.log");
    eventually("the neighbour's lines", async || {
        let text = fs::read_to_string(&log).unwrap_or_default();
        let count = ticks.sh("cat /count").await;
        text.lines().rev().take(5).any(|line| line.ends_with(&format!(" {count}"))).then_some(())
    })
    .await;
    pod.remove().await;
}
