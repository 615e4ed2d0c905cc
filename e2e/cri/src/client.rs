//! The CRI as a test speaks it: a [`Cri`] makes a [`Pod`], that a [`Container`].
//!
//! What has `try_` in its name gives the status that the daemon answered with; the others panic with
//! it. The generated clients are there for everything else.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::*;
use tokio::net::UnixStream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint, Uri};

/// An image with a shell and everything that comes with busybox.
pub const BUSYBOX: &str = "docker.io/library/busybox:latest";

/// How long something may take that happens by itself.
pub const SOON: Duration = Duration::from_secs(20);

/// The largest message that the kubelet takes.
const MESSAGE_BYTES: usize = 16 << 20;

/// A connection to a daemon; cheap to clone.
#[derive(Debug, Clone)]
pub struct Cri {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    /// Where pods have their logs.
    logs: PathBuf,
}

/// Tries until `look` finds something.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + SOON;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} does not come true");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

impl Cri {
    pub async fn connect(socket: &Path, logs: &Path) -> Self {
        let socket = socket.to_owned();
        let connect = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        // The address is not used.
        let endpoint = Endpoint::from_static("http://localhost");
        let channel = endpoint.connect_with_connector(connect).await.unwrap();
        Self {
            runtime: RuntimeServiceClient::new(channel.clone())
                .max_decoding_message_size(MESSAGE_BYTES),
            images: ImageServiceClient::new(channel),
            logs: logs.to_owned(),
        }
    }

    /// The generated client.
    pub fn runtime(&self) -> RuntimeServiceClient<Channel> {
        self.runtime.clone()
    }

    /// The generated client.
    pub fn images(&self) -> ImageServiceClient<Channel> {
        self.images.clone()
    }

    /// Pulls an image; gives what the daemon calls it.
    pub async fn pull(&self, image: &str) -> Result<String, Status> {
        let request = PullImageRequest { image: Some(image_spec(image)), ..Default::default() };
        Ok(self.images().pull_image(request).await?.into_inner().image_ref)
    }

    pub async fn image(&self, image: &str) -> Option<Image> {
        let request = ImageStatusRequest { image: Some(image_spec(image)), verbose: false };
        self.images().image_status(request).await.unwrap().into_inner().image
    }

    pub async fn remove_image(&self, image: &str) -> Result<(), Status> {
        let request = RemoveImageRequest { image: Some(image_spec(image)) };
        self.images().remove_image(request).await.map(drop)
    }

    /// A pod of the usual kind.
    pub fn pod_config(&self, name: &str) -> PodSandboxConfig {
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.into(),
                uid: format!("uid-{name}"),
                namespace: "e2e".into(),
                attempt: 0,
            }),
            log_directory: self.logs.join(name).display().to_string(),
            linux: Some(LinuxPodSandboxConfig::default()),
            ..Default::default()
        }
    }

    pub async fn try_pod(&self, config: PodSandboxConfig) -> Result<Pod, Status> {
        let request = RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
        let answer = self.runtime().run_pod_sandbox(request).await?.into_inner();
        Ok(Pod { cri: self.clone(), id: answer.pod_sandbox_id, config })
    }

    /// Runs a pod of the usual kind.
    pub async fn pod(&self, name: &str) -> Pod {
        self.pod_with(name, |_| ()).await
    }

    /// Runs a pod that differs in something from the usual kind.
    pub async fn pod_with(&self, name: &str, change: impl FnOnce(&mut PodSandboxConfig)) -> Pod {
        let mut config = self.pod_config(name);
        change(&mut config);
        self.try_pod(config).await.unwrap()
    }

    /// The pods that the daemon lists, by id.
    pub async fn pod_ids(&self) -> Vec<String> {
        let request = ListPodSandboxRequest::default();
        let pods = self.runtime().list_pod_sandbox(request).await.unwrap().into_inner().items;
        pods.into_iter().map(|pod| pod.id).collect()
    }

    /// A container that an earlier client made.
    pub fn container(&self, id: &str, log: &Path) -> Container {
        Container { cri: self.clone(), id: id.to_owned(), log: log.to_owned() }
    }
}

pub fn image_spec(image: &str) -> ImageSpec {
    ImageSpec { image: image.into(), ..Default::default() }
}

/// Namespaces for a pod or a container, made from the modes that are asked for.
pub fn namespaces(network: NamespaceMode, pid: NamespaceMode) -> NamespaceOption {
    NamespaceOption { network: network.into(), pid: pid.into(), ..Default::default() }
}

/// A pod that runs, or ran.
#[derive(Debug, Clone)]
pub struct Pod {
    pub cri: Cri,
    pub id: String,
    pub config: PodSandboxConfig,
}

impl Pod {
    /// A container of the usual kind: busybox with a log and the default capabilities.
    pub fn container_config(&self, name: &str, command: &[&str]) -> ContainerConfig {
        ContainerConfig {
            metadata: Some(ContainerMetadata { name: name.into(), attempt: 0 }),
            image: Some(image_spec(BUSYBOX)),
            command: command.iter().map(ToString::to_string).collect(),
            log_path: format!("{name}.log"),
            linux: Some(LinuxContainerConfig {
                security_context: Some(LinuxContainerSecurityContext {
                    // As the kubelet does where a pod does not share them.
                    namespace_options: Some(namespaces(
                        NamespaceMode::Pod,
                        NamespaceMode::Container,
                    )),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    pub async fn try_create(&self, config: ContainerConfig) -> Result<Container, Status> {
        let log = Path::new(&self.config.log_directory).join(&config.log_path);
        let request = CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(config),
            sandbox_config: Some(self.config.clone()),
        };
        let answer = self.cri.runtime().create_container(request).await?.into_inner();
        Ok(Container { cri: self.cri.clone(), id: answer.container_id, log })
    }

    /// Creates and starts a container of the usual kind.
    pub async fn run(&self, name: &str, command: &[&str]) -> Container {
        self.run_with(name, command, |_| ()).await
    }

    /// Runs a shell script in a container of the usual kind.
    pub async fn sh(&self, name: &str, script: &str) -> Container {
        self.run(name, &["sh", "-c", script]).await
    }

    /// Creates and starts a container that differs in something from the usual kind.
    pub async fn run_with(
        &self,
        name: &str,
        command: &[&str],
        change: impl FnOnce(&mut ContainerConfig),
    ) -> Container {
        let mut config = self.container_config(name, command);
        change(&mut config);
        let container = self.try_create(config).await.unwrap();
        container.try_start().await.unwrap();
        container
    }

    pub async fn try_status(&self) -> Result<PodSandboxStatus, Status> {
        let request =
            PodSandboxStatusRequest { pod_sandbox_id: self.id.clone(), ..Default::default() };
        let answer = self.cri.runtime().pod_sandbox_status(request).await?.into_inner();
        Ok(answer.status.expect("a status is in the answer"))
    }

    pub async fn status(&self) -> PodSandboxStatus {
        self.try_status().await.unwrap()
    }

    pub async fn ip(&self) -> String {
        self.status().await.network.unwrap_or_default().ip
    }

    pub async fn stop(&self) {
        let request = StopPodSandboxRequest { pod_sandbox_id: self.id.clone() };
        self.cri.runtime().stop_pod_sandbox(request).await.unwrap();
    }

    /// Stops and removes it.
    pub async fn remove(&self) {
        self.stop().await;
        let request = RemovePodSandboxRequest { pod_sandbox_id: self.id.clone() };
        self.cri.runtime().remove_pod_sandbox(request).await.unwrap();
    }
}

/// What a command has said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    pub out: String,
    pub err: String,
    pub code: i32,
}

/// A container in any state.
#[derive(Debug, Clone)]
pub struct Container {
    pub cri: Cri,
    pub id: String,
    pub log: PathBuf,
}

impl Container {
    pub async fn try_start(&self) -> Result<(), Status> {
        let request = StartContainerRequest { container_id: self.id.clone() };
        self.cri.runtime().start_container(request).await.map(drop)
    }

    /// ExecSync; a timeout of 0 is none.
    pub async fn try_exec(&self, command: &[&str], timeout: i64) -> Result<Said, Status> {
        let request = ExecSyncRequest {
            container_id: self.id.clone(),
            cmd: command.iter().map(ToString::to_string).collect(),
            timeout,
        };
        let answer = self.cri.runtime().exec_sync(request).await?.into_inner();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Said { out: text(answer.stdout), err: text(answer.stderr), code: answer.exit_code })
    }

    pub async fn exec(&self, command: &[&str]) -> Said {
        self.try_exec(command, 0).await.unwrap()
    }

    /// What a shell script prints; it has to succeed.
    pub async fn sh(&self, script: &str) -> String {
        let said = self.exec(&["sh", "-c", script]).await;
        assert_eq!(said.code, 0, "{script}: {said:?}");
        said.out.trim_end().to_owned()
    }

    pub async fn try_status(&self) -> Result<ContainerStatus, Status> {
        let request =
            ContainerStatusRequest { container_id: self.id.clone(), ..Default::default() };
        let answer = self.cri.runtime().container_status(request).await?.into_inner();
        Ok(answer.status.expect("a status is in the answer"))
    }

    pub async fn status(&self) -> ContainerStatus {
        self.try_status().await.unwrap()
    }

    pub async fn is_running(&self) -> bool {
        self.status().await.state() == ContainerState::ContainerRunning
    }

    /// The host's number of its init.
    pub async fn pid(&self) -> u32 {
        let request = ContainerStatusRequest { container_id: self.id.clone(), verbose: true };
        let answer = self.cri.runtime().container_status(request).await.unwrap().into_inner();
        let info: serde_json::Value = serde_json::from_str(&answer.info["info"]).unwrap();
        info["pid"].as_u64().expect("a pid is in the verbose status").try_into().unwrap()
    }

    /// Waits for its end.
    pub async fn ended(&self) -> ContainerStatus {
        eventually("the end of the container", async || {
            let status = self.status().await;
            (status.state() == ContainerState::ContainerExited).then_some(status)
        })
        .await
    }

    pub async fn stop(&self, timeout: i64) {
        let request = StopContainerRequest { container_id: self.id.clone(), timeout };
        self.cri.runtime().stop_container(request).await.unwrap();
    }

    pub async fn remove(&self) {
        let request = RemoveContainerRequest { container_id: self.id.clone() };
        self.cri.runtime().remove_container(request).await.unwrap();
    }

    /// The lines of its log without their times: `stdout F text`.
    pub fn logged(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let line = |line: &str| line.split_once(' ').map_or(line, |(_, rest)| rest).to_owned();
        text.lines().map(line).collect()
    }

    /// Waits for a line in its log.
    pub async fn says(&self, wanted: &str) {
        let line = format!("stdout F {wanted}");
        eventually(&format!("{wanted:?} in the log"), async || {
            self.logged().contains(&line).then_some(())
        })
        .await;
    }
}
