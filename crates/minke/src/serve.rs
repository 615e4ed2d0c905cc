//! The daemon: made, served, ended.

use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::components;
use crate::failure::Failure;
use crate::notify::notify;
use crate::settings::Settings;
use crate::socket;

/// How long calls under way may take once the daemon is asked to end. What they started runs on, or
/// is found by the next daemon.
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves until SIGTERM or SIGINT; pods outlive it.
pub(crate) async fn serve(
    settings: &Settings,
    keeper_protocol: Option<u32>,
) -> Result<(), Failure> {
    prepare(settings)?;
    let end = end_of_life()?;
    let cgroups = components::cgroups()?;
    let node = settings.node(&cgroups);
    let (pods, images) = components::open(settings, cgroups, keeper_protocol).await?;
    let wanted = SocketAddr::new(settings.streaming.address, settings.streaming.port);
    let streams = TcpListener::bind(wanted).await;
    let bound = streams.and_then(|streams| Ok((streams.local_addr()?, streams)));
    let (address, streams) =
        bound.map_err(|source| Failure::Streaming { address: wanted, source })?;
    let streaming = streaming::Server::new(address, settings.streaming(), Arc::new(pods.clone()));
    let sessions = tokio::spawn({
        let (streaming, end) = (streaming.clone(), end.clone());
        async move { streaming.serve(streams, ended(end)).await }
    });
    let parts = cri::Parts { pods: pods.clone(), images, streaming, node };
    let calls = cri::serve(parts, socket::listen(&settings.socket)?, ended(end.clone()));
    notify("READY=1");
    tracing::info!(socket = %settings.socket.display(), streaming = %address, "minke serves");
    let served = within_patience(calls, end).await;
    notify("STOPPING=1");
    // A session that panicked has been told of, and is over.
    let _ = sessions.await;
    pods.flush().await.map_err(Failure::Pods)?;
    // The next daemon would replace it; without it, callers learn at once that nobody is there.
    let _ = std::fs::remove_file(&settings.socket);
    tracing::info!("minke has ended; its pods run on");
    served
}

/// Checks the machine and makes the directories, for root alone.
pub(crate) fn prepare(settings: &Settings) -> Result<(), Failure> {
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::NotRoot);
    }
    components::check_kernel()?;
    socket::free(&settings.socket)?;
    private_directory(&settings.root)?;
    private_directory(&settings.state)
}

fn private_directory(path: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::PermissionsExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(Failure::file("make the directory", path))?;
    let closed = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700));
    closed.map_err(Failure::file("close off the directory", path))
}

/// Becomes true when the daemon is asked to end.
fn end_of_life() -> Result<watch::Receiver<bool>, Failure> {
    let (end, ended) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::Runtime)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::Runtime)?;
    tokio::spawn(async move {
        loop {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            tracing::info!("{name}: ending, pods stay");
            end.send_replace(true);
        }
    });
    Ok(ended)
}

async fn ended(mut end: watch::Receiver<bool>) {
    // An error means that nobody can ask any more, which is the end, too.
    let _ = end.wait_for(|end| *end).await;
}

/// Gives the calls under way some time after the end has come.
async fn within_patience(
    calls: impl Future<Output = Result<(), tonic::transport::Error>>,
    end: watch::Receiver<bool>,
) -> Result<(), Failure> {
    let patience = async {
        ended(end).await;
        tokio::time::sleep(PATIENCE).await;
    };
    tokio::select! {
        served = calls => served.map_err(Failure::Serve),
        () = patience => {
            tracing::warn!("calls that are still under way are given up");
            Ok(())
        }
    }
}
