//! The steps, through the CRI socket alone.

use std::fs;
use std::io;
use std::time::Duration;

use cri_proto::runtime::v1 as cri;

use super::error::Error;
use super::guest;
use super::image::{Image, PROGRAM};
use super::narrator::Narrator;
use super::stage::Stage;

/// What the steps hand on to each other.
struct Scene {
    image: String,
    config: cri::PodSandboxConfig,
    pod: String,
    ip: String,
    server: String,
}

/// Tells the story from the first step to the last.
pub(crate) async fn tell(narrator: &Narrator, stage: &mut Stage) -> Result<(), Error> {
    let image = narrator.step("image assembled", async {
        // In a thread of its own: it is all processor time, and signals and spinner go on.
        let assembled = tokio::task::spawn_blocking(Image::assemble).await;
        let image = assembled.map_err(io::Error::other).flatten();
        let image = image.map_err(Error::io("assemble the image"))?;
        let size =
            format!("minke's own binary and its libraries, {} MB", image.unpacked / 1_000_000);
        Ok::<_, Error>((image, size))
    });
    let image = image.await?;
    let (reference, registry) = image.serve().await.map_err(Error::io("serve the image"))?;
    let told = perform(narrator, stage, reference).await;
    registry.abort();
    told
}

async fn perform(n: &Narrator, stage: &mut Stage, reference: String) -> Result<(), Error> {
    n.step("daemon serving", async {
        stage.start().await?;
        let pid = stage.daemon()?.pid();
        Ok::<_, Error>(((), format!("pid {pid}, {}", stage.dir.join("minke.sock").display())))
    })
    .await?;
    let image = n.step("image pulled and unpacked", pull(stage, reference)).await?;
    let mut scene = n.step("sandbox up", run_pod(stage, image)).await?;
    scene.server =
        n.step("server container running", start(stage, &scene, "server", &["serve"])).await?;
    n.step("page from the host, over the bridge", from_host(&scene)).await?;
    n.step("page over localhost, second container", from_inside(stage, &scene)).await?;
    n.step("message by shared memory and IPC", message(stage, &scene)).await?;
    n.step("command executed in the server", exec(stage, &scene)).await?;
    n.step("log lines, in CRI format", logs(stage)).await?;
    n.step("statistics", stats(stage)).await?;
    n.step("daemon killed with SIGKILL", crash(stage, &scene)).await?;
    n.step("next daemon adopts the pod", adopt(stage, &scene)).await?;
    n.step("everything removed", remove(stage, &scene)).await
}

async fn pull(stage: &mut Stage, reference: String) -> Result<(String, String), Error> {
    let spec = cri::ImageSpec { image: reference.clone(), ..Default::default() };
    let request = cri::PullImageRequest { image: Some(spec), ..Default::default() };
    let images = &mut stage.daemon()?.images;
    let pulled = images.pull_image(request).await.map_err(Error::rpc("pull the image"))?;
    let id = pulled.into_inner().image_ref;
    let short = id.rsplit(':').next().unwrap_or_default().chars().take(13).collect::<String>();
    Ok((reference, format!("image {short}, digests verified")))
}

async fn run_pod(stage: &mut Stage, image: String) -> Result<(Scene, String), Error> {
    let logs = stage.dir.join("logs");
    fs::create_dir_all(&logs).map_err(Error::io("make the log directory"))?;
    let metadata = cri::PodSandboxMetadata {
        name: "demo".into(),
        uid: stage.token.clone(),
        namespace: "demo".into(),
        attempt: 0,
    };
    let linux = cri::LinuxPodSandboxConfig {
        cgroup_parent: format!("/{}", stage.token),
        ..Default::default()
    };
    let config = cri::PodSandboxConfig {
        metadata: Some(metadata),
        hostname: "demo".into(),
        log_directory: logs.display().to_string(),
        linux: Some(linux),
        ..Default::default()
    };
    let runtime = &mut stage.daemon()?.runtime;
    let request = cri::RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
    let ran = runtime.run_pod_sandbox(request).await.map_err(Error::rpc("run the pod"))?;
    let pod = ran.into_inner().pod_sandbox_id;
    let request = cri::PodSandboxStatusRequest { pod_sandbox_id: pod.clone(), verbose: false };
    let status =
        runtime.pod_sandbox_status(request).await.map_err(Error::rpc("tell its status"))?;
    let status = status.into_inner().status;
    let ip = status.and_then(|status| status.network).map(|n| n.ip).unwrap_or_default();
    let told = format!("{ip} in a network, IPC and UTS namespace of its own");
    Ok((Scene { image, config, pod, ip, server: String::new() }, told))
}

/// Creates and starts a container that runs minke's binary as a guest.
async fn start(
    stage: &mut Stage,
    scene: &Scene,
    name: &str,
    args: &[&str],
) -> Result<(String, String), Error> {
    let mut command = vec![PROGRAM.to_owned(), "demo-guest".to_owned()];
    command.extend(args.iter().map(|arg| (*arg).to_owned()));
    let metadata = cri::ContainerMetadata { name: name.into(), attempt: 0 };
    let resources =
        cri::LinuxContainerResources { memory_limit_in_bytes: 256 << 20, ..Default::default() };
    let seccomp = cri::SecurityProfile {
        profile_type: cri::security_profile::ProfileType::RuntimeDefault.into(),
        ..Default::default()
    };
    let security =
        cri::LinuxContainerSecurityContext { seccomp: Some(seccomp), ..Default::default() };
    let linux =
        cri::LinuxContainerConfig { resources: Some(resources), security_context: Some(security) };
    let config = cri::ContainerConfig {
        metadata: Some(metadata),
        image: Some(cri::ImageSpec { image: scene.image.clone(), ..Default::default() }),
        command,
        log_path: format!("{name}.log"),
        linux: Some(linux),
        ..Default::default()
    };
    let request = cri::CreateContainerRequest {
        pod_sandbox_id: scene.pod.clone(),
        config: Some(config),
        sandbox_config: Some(scene.config.clone()),
    };
    let runtime = &mut stage.daemon()?.runtime;
    let what = format!("create the container {name}");
    let created = runtime.create_container(request).await.map_err(Error::rpc(what))?;
    let container_id = created.into_inner().container_id;
    let request = cri::StartContainerRequest { container_id: container_id.clone() };
    let what = format!("start the container {name}");
    runtime.start_container(request).await.map_err(Error::rpc(what))?;
    let told = format!("container {}, default seccomp, 256 MiB", &container_id[..13]);
    Ok((container_id, told))
}

/// Fetches the page from the host, while the server may still be starting.
async fn fetch(scene: &Scene) -> Result<String, Error> {
    let address = format!("{}:{}", scene.ip, guest::PORT);
    let fetching = tokio::task::spawn_blocking(move || {
        let mut last = Err(io::Error::other("it was never asked"));
        for _ in 0..100 {
            last = guest::fetch(&address);
            if last.is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        last
    });
    let fetched = fetching.await.unwrap_or_else(|error| Err(io::Error::other(error)));
    fetched.map(|page| page.trim().to_owned()).map_err(Error::io("fetch the page"))
}

async fn from_host(scene: &Scene) -> Result<((), String), Error> {
    let page = fetch(scene).await?;
    Error::unless(page.contains("a page from demo"), "the page should come", page.clone())?;
    Ok(((), page))
}

async fn from_inside(stage: &mut Stage, scene: &Scene) -> Result<((), String), Error> {
    let address = format!("localhost:{}", guest::PORT);
    start(stage, scene, "client", &["fetch", &address]).await?;
    let page = log_line(stage, "client", "a page from demo").await?;
    Ok(((), page))
}

async fn message(stage: &mut Stage, scene: &Scene) -> Result<((), String), Error> {
    start(stage, scene, "sender", &["send", "hello from next door"]).await?;
    let heard = log_line(stage, "server", "hello from next door").await?;
    Ok(((), format!("the server read: {heard}")))
}

/// Waits up to 5 s for a line of a container's log that holds `text`; gives the line's text.
async fn log_line(stage: &Stage, container: &str, text: &str) -> Result<String, Error> {
    let path = stage.dir.join("logs").join(format!("{container}.log"));
    for _ in 0..250 {
        let log = fs::read_to_string(&path).unwrap_or_default();
        if let Some(line) = log.lines().find(|line| line.contains(text)) {
            return Ok(line.splitn(4, ' ').nth(3).unwrap_or_default().to_owned());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let log = fs::read_to_string(&path).unwrap_or_default();
    let last = log.lines().last().unwrap_or("it is empty").to_owned();
    Err(Error::Unexpected { what: "the log should have the line", instead: last })
}

async fn exec(stage: &mut Stage, scene: &Scene) -> Result<((), String), Error> {
    let request = cri::ExecSyncRequest {
        container_id: scene.server.clone(),
        cmd: vec![PROGRAM.to_owned(), "--version".to_owned()],
        timeout: 10,
    };
    let runtime = &mut stage.daemon()?.runtime;
    let answer = runtime.exec_sync(request).await.map_err(Error::rpc("execute a command"))?;
    let answer = answer.into_inner();
    let stderr = String::from_utf8_lossy(&answer.stderr).into_owned();
    Error::unless(answer.exit_code == 0, "the command should succeed", stderr)?;
    let told = String::from_utf8_lossy(&answer.stdout).trim().to_owned();
    Ok(((), format!("minke --version: {told}")))
}

async fn logs(stage: &Stage) -> Result<((), String), Error> {
    let path = stage.dir.join("logs/server.log");
    let log = fs::read_to_string(&path).map_err(Error::io("read the log"))?;
    let some: Vec<&str> = log.lines().filter(|line| !line.contains("beat")).take(3).collect();
    Error::unless(!some.is_empty(), "the server should have logged", "its log is empty")?;
    Ok(((), format!("{} lines so far\n{}", log.lines().count(), some.join("\n"))))
}

async fn stats(stage: &mut Stage) -> Result<((), String), Error> {
    let runtime = &mut stage.daemon()?.runtime;
    let answer = runtime.list_container_stats(cri::ListContainerStatsRequest::default()).await;
    let answer = answer.map_err(Error::rpc("give statistics"))?.into_inner();
    let mut table = format!("{:<10} {:>12} {:>14}", "container", "cpu ms", "memory KiB");
    for stats in &answer.stats {
        let metadata = stats.attributes.as_ref().and_then(|a| a.metadata.as_ref());
        let name = metadata.map(|metadata| metadata.name.as_str()).unwrap_or_default();
        let cpu = stats.cpu.as_ref().and_then(|cpu| cpu.usage_core_nano_seconds.as_ref());
        let memory = stats.memory.as_ref().and_then(|memory| memory.working_set_bytes.as_ref());
        let cpu = cpu.map_or(0, |value| value.value / 1_000_000);
        let memory = memory.map_or(0, |value| value.value / 1024);
        table.push_str(&format!("\n{name:<10} {cpu:>12} {memory:>14}"));
    }
    Error::unless(!answer.stats.is_empty(), "a container should have statistics", "none has")?;
    Ok(((), table))
}

/// How many lines the server has logged.
fn beats(stage: &Stage) -> usize {
    let log = fs::read_to_string(stage.dir.join("logs/server.log")).unwrap_or_default();
    log.lines().filter(|line| line.contains(" beat ")).count()
}

async fn crash(stage: &mut Stage, scene: &Scene) -> Result<((), String), Error> {
    stage.crash().await?;
    let before = beats(stage);
    tokio::time::sleep(Duration::from_millis(350)).await;
    let more = beats(stage) - before;
    Error::unless(more > 0, "the pod should go on logging", "no line came")?;
    let page = fetch(scene).await?;
    Ok(((), format!("the pod serves on ({page}) and logged {more} more lines")))
}

async fn adopt(stage: &mut Stage, scene: &Scene) -> Result<((), String), Error> {
    stage.start().await?;
    let request =
        cri::ContainerStatusRequest { container_id: scene.server.clone(), ..Default::default() };
    let runtime = &mut stage.daemon()?.runtime;
    let status = runtime.container_status(request).await.map_err(Error::rpc("tell its status"))?;
    let state = status.into_inner().status.unwrap_or_default().state();
    let running = state == cri::ContainerState::ContainerRunning;
    Error::unless(running, "the server should still be running", state.as_str_name())?;
    let log = fs::read_to_string(stage.dir.join("logs/server.log")).unwrap_or_default();
    let counted = log.lines().filter_map(|line| line.rsplit_once(" beat ")?.1.parse::<u64>().ok());
    let whole = counted.zip(1..).all(|(beat, expected)| beat == expected);
    Error::unless(whole, "the log should have every line", "one is missing")?;
    Ok(((), "same containers, same processes, no line of the log missing".into()))
}

async fn remove(stage: &mut Stage, scene: &Scene) -> Result<((), String), Error> {
    let runtime = &mut stage.daemon()?.runtime;
    let pod_sandbox_id = scene.pod.clone();
    let stop = cri::StopPodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() };
    runtime.stop_pod_sandbox(stop).await.map_err(Error::rpc("stop the pod"))?;
    let remove = cri::RemovePodSandboxRequest { pod_sandbox_id };
    runtime.remove_pod_sandbox(remove).await.map_err(Error::rpc("remove the pod"))?;
    let image = cri::ImageSpec { image: scene.image.clone(), ..Default::default() };
    let request = cri::RemoveImageRequest { image: Some(image) };
    let images = &mut stage.daemon()?.images;
    images.remove_image(request).await.map_err(Error::rpc("remove the image"))?;
    Ok(((), "pod, containers, network and image".into()))
}
