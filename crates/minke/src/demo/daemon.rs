//! The demo's daemon: a child process that serves on a socket of its own.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use cri_proto::runtime::v1::image_service_client::ImageServiceClient;
use cri_proto::runtime::v1::runtime_service_client::RuntimeServiceClient;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::process::Child;
use tonic::transport::{Channel, Endpoint};

use super::error::Error;

/// How long the daemon may take to serve.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running daemon and the clients of its socket.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    pub(crate) runtime: RuntimeServiceClient<Channel>,
    pub(crate) images: ImageServiceClient<Channel>,
}

/// How a program of minke's own is started with the demo's configuration.
pub(crate) fn command(dir: &Path, token: &str) -> Result<Command, Error> {
    let log = dir.join("minke.log");
    let open = || File::options().create(true).append(true).open(&log);
    let stderr = open().map_err(Error::io(format!("open {}", log.display())))?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0("minke").arg("--config").arg(dir.join("config.toml"));
    command.env("MINKE_DEMO", token).stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
    // A group of its own: Ctrl-C is for the demo, which then ends the daemon in order.
    command.process_group(0);
    Ok(command)
}

impl Daemon {
    /// Starts the daemon below `dir`; it does not answer yet. Whoever waits for it may be
    /// interrupted, so it is the caller's before that.
    pub(crate) fn spawn(dir: &Path, token: &str) -> Result<Self, Error> {
        let mut command = tokio::process::Command::from(command(dir, token)?);
        let child = command.arg("serve").spawn().map_err(Error::io("start minke serve"))?;
        let channel = connect(socket(dir));
        let runtime = RuntimeServiceClient::new(channel.clone());
        Ok(Self { child, runtime, images: ImageServiceClient::new(channel) })
    }

    /// Waits until it answers.
    pub(crate) async fn ready(&mut self, dir: &Path) -> Result<(), Error> {
        let socket = socket(dir);
        let ready = async {
            while UnixStream::connect(&socket).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let why = tokio::select! {
            () = ready => None,
            () = tokio::time::sleep(PATIENCE) => Some("it did not answer in 10 s".to_owned()),
            status = self.child.wait() => Some(status.map_or_else(|e| e.to_string(), |s| s.to_string())),
        };
        if let Some(why) = why {
            let log = std::fs::read_to_string(dir.join("minke.log")).unwrap_or_default();
            let last = log.lines().last().unwrap_or_default();
            let instead = format!("{why}: {last}");
            return Err(Error::Unexpected { what: "the daemon should serve", instead });
        }
        Ok(())
    }

    /// The daemon's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// Kills it on the spot, as a crash would.
    pub(crate) async fn kill(&mut self) -> Result<(), Error> {
        self.child.kill().await.map_err(Error::io("kill the daemon"))
    }

    /// Asks it to end and waits until it has.
    pub(crate) async fn stop(&mut self) -> Result<(), Error> {
        let pid = i32::try_from(self.pid()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)
                .map_err(|errno| Error::io("stop the daemon")(errno.into()))?;
        }
        if tokio::time::timeout(PATIENCE, self.child.wait()).await.is_err() {
            return self.kill().await;
        }
        Ok(())
    }
}

fn socket(dir: &Path) -> PathBuf {
    dir.join("minke.sock")
}

fn connect(socket: PathBuf) -> Channel {
    // The address is not used: the connector knows the socket.
    Endpoint::from_static("http://minke").connect_with_connector_lazy(tower::service_fn(
        move |_: http::Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        },
    ))
}
