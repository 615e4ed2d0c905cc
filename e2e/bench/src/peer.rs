//! One runtime behind its CRI socket, and the requests that all of them get.
//!
//! A request is made from a pod's number alone, never from whom it is sent to: every runtime gets
//! the same bytes, but for the ids that it gave out itself.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cri_proto::runtime::v1::image_service_client::ImageServiceClient;
use cri_proto::runtime::v1::runtime_service_client::RuntimeServiceClient;
use cri_proto::runtime::v1::*;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

use crate::appended::Watch;
use crate::kernel::Cgroups;

/// The image of every pod.
pub(crate) const IMAGE: &str = "docker.io/library/busybox:latest";
/// The limit that every container gets.
pub(crate) const MEMORY: i64 = 256 << 20;
/// What the program of a pod is called once it idles; everything else in a pod is the runtime's.
pub(crate) const IDLER: &str = "sleep";
/// As kubelet asks for, for every container that is not privileged.
pub(crate) const MASKED: [&str; 8] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/scsi",
    "/sys/firmware",
];
pub(crate) const READONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// A runtime that is measured.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) name: String,
    /// What it says of itself.
    pub(crate) version: String,
    /// The daemon; its descendants are accounted with it.
    pub(crate) pid: Option<u32>,
    pub(crate) runtime: RuntimeServiceClient<Channel>,
    pub(crate) images: ImageServiceClient<Channel>,
}

impl Peer {
    /// Connects to `NAME=SOCKET` or `NAME=SOCKET,PID`.
    pub(crate) async fn connect(text: &str) -> Result<Self> {
        let (name, rest) = text.split_once('=').context("a runtime is NAME=SOCKET[,PID]")?;
        let (socket, pid) = match rest.split_once(',') {
            Some((socket, pid)) => (socket, Some(pid.parse().context("a PID is a number")?)),
            None => (rest, None),
        };
        let socket = PathBuf::from(socket);
        let connector = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        // The address is for the messages; the connector knows the socket.
        let endpoint = Endpoint::try_from("http://localhost")?;
        let channel = endpoint.connect_with_connector(connector).await;
        let channel = channel.with_context(|| format!("connect to {rest}"))?;
        let mut runtime = RuntimeServiceClient::new(channel.clone());
        let version = runtime.version(VersionRequest::default()).await?.into_inner();
        let (name, version) = (name.to_owned(), version.runtime_version);
        Ok(Self { name, version, pid, runtime, images: ImageServiceClient::new(channel) })
    }

    /// The cgroup in which its daemon and what that starts is accounted.
    pub(crate) fn account(&self) -> String {
        format!("runtime-{}", self.name)
    }

    pub(crate) async fn pull(&mut self, image: &str) -> Result<String> {
        let request = PullImageRequest { image: Some(spec(image)), ..Default::default() };
        let pulled = self.images.pull_image(request).await;
        Ok(pulled.with_context(|| format!("{}: pull {image}", self.name))?.into_inner().image_ref)
    }

    pub(crate) async fn remove_image(&mut self, image: &str) -> Result<()> {
        let request = RemoveImageRequest { image: Some(spec(image)) };
        self.images.remove_image(request).await?;
        Ok(())
    }

    pub(crate) async fn exec(&mut self, container: &str, command: &[&str]) -> Result<Vec<u8>> {
        let request = ExecSyncRequest {
            container_id: container.to_owned(),
            cmd: command.iter().map(|word| (*word).to_owned()).collect(),
            timeout: 30,
        };
        let done = self.runtime.exec_sync(request).await;
        let done = done.with_context(|| format!("{}: exec {command:?}", self.name))?.into_inner();
        ensure!(done.exit_code == 0, "{}: {command:?} ended with {}", self.name, done.exit_code);
        Ok(done.stdout)
    }
}

fn spec(image: &str) -> ImageSpec {
    ImageSpec { image: image.to_owned(), ..Default::default() }
}

/// Where pods are made: the logs and cgroups that the requests name.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) dir: PathBuf,
    pub(crate) cgroups: Cgroups,
}

/// A pod of a number: what is asked for it.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    pub(crate) logs: PathBuf,
    pub(crate) cgroup: String,
    sandbox: PodSandboxConfig,
    container: ContainerConfig,
}

/// A pod that runs.
#[derive(Debug, Clone)]
pub(crate) struct Pod {
    pub(crate) order: Order,
    pub(crate) id: String,
    pub(crate) container: String,
}

/// How long the steps to a pod took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Steps {
    pub(crate) run: Duration,
    pub(crate) create_start: Duration,
    /// From the first request to the first byte of the log.
    pub(crate) ready: Duration,
}

/// How long the steps from a pod took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Farewell {
    pub(crate) stop_container: Duration,
    pub(crate) stop_pod: Duration,
    pub(crate) remove: Duration,
}

impl Place {
    /// Orders pod `number`, whose container runs `script`; makes its cgroup and log directory as
    /// kubelet does before it asks.
    pub(crate) fn order(&self, number: usize, script: &str) -> Result<Order> {
        let name = format!("pod-{number}");
        let logs = self.dir.join("logs").join(&name);
        std::fs::create_dir_all(&logs)?;
        // What an earlier pod of this number wrote is not this one's first byte.
        let _ = std::fs::remove_file(logs.join("main.log"));
        let below = format!("pods/{name}");
        self.cgroups.make(&below)?;
        let sandbox = sandbox(&name, &logs, self.cgroups.name(&below));
        Ok(Order { logs, cgroup: below, sandbox, container: container(script) })
    }

    /// Removes what `order` has made, once the runtime has left it.
    pub(crate) async fn forget(&self, order: &Order) -> Result<()> {
        self.cgroups.remove_empty(&order.cgroup).await?;
        std::fs::remove_dir_all(&order.logs).with_context(|| format!("remove {:?}", order.logs))
    }
}

fn sandbox(name: &str, logs: &Path, cgroup: String) -> PodSandboxConfig {
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            namespace: "bench".to_owned(),
            attempt: 0,
        }),
        hostname: name.to_owned(),
        log_directory: logs.to_string_lossy().into_owned(),
        dns_config: Some(DnsConfig {
            servers: vec!["10.96.0.10".to_owned()],
            searches: vec!["bench.svc.cluster.local".to_owned(), "cluster.local".to_owned()],
            options: vec!["ndots:5".to_owned()],
        }),
        labels: [("app".to_owned(), name.to_owned())].into(),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: cgroup,
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces()),
                seccomp: Some(SecurityProfile::default()),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn container(script: &str) -> ContainerConfig {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: "main".to_owned(), attempt: 0 }),
        image: Some(spec(IMAGE)),
        command: words(&["sh", "-c", script]),
        log_path: "main.log".to_owned(),
        linux: Some(LinuxContainerConfig {
            resources: Some(LinuxContainerResources {
                cpu_shares: 256,
                memory_limit_in_bytes: MEMORY,
                oom_score_adj: 500,
                ..Default::default()
            }),
            security_context: Some(LinuxContainerSecurityContext {
                namespace_options: Some(namespaces()),
                seccomp: Some(SecurityProfile::default()),
                masked_paths: words(&MASKED),
                readonly_paths: words(&READONLY),
                ..Default::default()
            }),
        }),
        ..Default::default()
    }
}

/// A PID namespace for each container, as Kubernetes has it.
fn namespaces() -> NamespaceOption {
    NamespaceOption { pid: NamespaceMode::Container.into(), ..Default::default() }
}

impl Peer {
    /// Makes a pod; it is ready when its container has written the first byte.
    pub(crate) async fn start(&mut self, order: Order) -> Result<(Pod, Steps)> {
        let failed = |name: &str, call: &'static str| format!("{name}: {call}");
        let watch = Watch::new(&order.logs)?;
        let begin = Instant::now();
        let config = Some(order.sandbox.clone());
        let request = RunPodSandboxRequest { config, ..Default::default() };
        let reply = self.runtime.run_pod_sandbox(request).await;
        let id = reply.with_context(|| failed(&self.name, "RunPodSandbox"))?.into_inner();
        let id = id.pod_sandbox_id;
        let ran = begin.elapsed();
        let request = CreateContainerRequest {
            pod_sandbox_id: id.clone(),
            config: Some(order.container.clone()),
            sandbox_config: Some(order.sandbox.clone()),
        };
        let reply = self.runtime.create_container(request).await;
        let container = reply.with_context(|| failed(&self.name, "CreateContainer"))?.into_inner();
        let container = container.container_id;
        let request = StartContainerRequest { container_id: container.clone() };
        let mut runtime = self.runtime.clone();
        let starting = async {
            let started = runtime.start_container(request).await;
            started.with_context(|| failed(&self.name, "StartContainer"))?;
            anyhow::Ok(begin.elapsed())
        };
        let writing = async {
            let written = tokio::time::timeout(Duration::from_secs(60), watch.written()).await;
            written.with_context(|| failed(&self.name, "wait for the first byte"))??;
            anyhow::Ok(begin.elapsed())
        };
        let (started, ready) = futures_util::try_join!(starting, writing)?;
        let steps = Steps { run: ran, create_start: started - ran, ready };
        Ok((Pod { order, id, container }, steps))
    }

    /// Ends a pod the way kubelet does: stop, then remove.
    pub(crate) async fn end(&mut self, pod: &Pod) -> Result<Farewell> {
        let begin = Instant::now();
        let container_id = pod.container.clone();
        let request = StopContainerRequest { container_id: container_id.clone(), timeout: 0 };
        self.runtime.stop_container(request).await.context("StopContainer")?;
        let stop_container = begin.elapsed();
        let pod_sandbox_id = pod.id.clone();
        let request = StopPodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() };
        self.runtime.stop_pod_sandbox(request).await.context("StopPodSandbox")?;
        let stop_pod = begin.elapsed() - stop_container;
        let request = RemoveContainerRequest { container_id };
        self.runtime.remove_container(request).await.context("RemoveContainer")?;
        let request = RemovePodSandboxRequest { pod_sandbox_id };
        self.runtime.remove_pod_sandbox(request).await.context("RemovePodSandbox")?;
        let remove = begin.elapsed() - stop_container - stop_pod;
        Ok(Farewell { stop_container, stop_pod, remove })
    }

    /// Asks for a container's state.
    pub(crate) async fn state(&mut self, container: &str) -> Result<ContainerState> {
        let container_id = container.to_owned();
        let request = ContainerStatusRequest { container_id, verbose: false };
        let status = self.runtime.container_status(request).await?.into_inner().status;
        Ok(status.context("a status has no status")?.state())
    }

    /// Waits until a container has ended.
    pub(crate) async fn ended(&mut self, container: &str) -> Result<()> {
        while self.state(container).await? != ContainerState::ContainerExited {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }
}
