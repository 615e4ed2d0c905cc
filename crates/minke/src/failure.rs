use std::path::PathBuf;

use crate::settings::Mistakes;

/// Why minke ends with an error; each names what was being done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The configuration.
    #[error(transparent)]
    Settings(Mistakes),
    /// Who runs it.
    #[error("minke needs root: it makes namespaces, mounts and cgroups")]
    NotRoot,
    /// The machine.
    #[error("Linux {needed} or newer is needed, this is {found}")]
    Kernel {
        /// The oldest supported version.
        needed: &'static str,
        /// What uname(2) says.
        found: String,
    },
    /// A part of the machine's kernel.
    #[error("minke cannot run here")]
    Feature(#[source] sys::feature::Missing),
    /// Somebody else is there.
    #[error("{} is served by another process already", path.display())]
    SocketServed {
        /// The socket.
        path: PathBuf,
    },
    /// A file or directory of ours.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// The streaming server's port.
    #[error("cannot listen for exec, attach and port-forward on {address}")]
    Streaming {
        /// Where.
        address: std::net::SocketAddr,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// The image store.
    #[error("cannot open the image store")]
    Images(#[source] images::Error),
    /// An archive, where no daemon runs.
    #[error("the archive cannot be worked with")]
    Archive(#[source] images::Error),
    /// An archive, where one does.
    #[error("the daemon refused: {message}")]
    Daemon {
        /// Its words.
        message: String,
    },
    /// No connection to the daemon.
    #[error("cannot reach the daemon at {}", path.display())]
    Connect {
        /// Its socket.
        path: PathBuf,
        /// Why not.
        #[source]
        source: tonic::transport::Error,
    },
    /// The name for an imported image.
    #[error(transparent)]
    Reference(#[from] model::ReferenceError),
    /// Cgroups.
    #[error("cannot use the cgroup hierarchy")]
    Cgroups(#[source] cgroup::Error),
    /// The pods' network.
    #[error("cannot set up the pod network")]
    Network(#[source] network::Error),
    /// The process that makes keepers.
    #[error("cannot start the process that makes keepers")]
    Seed(#[source] keeper::Error),
    /// Pods.
    #[error("cannot take over the pods of this node")]
    Pods(#[source] pods::Error),
    /// The gRPC server.
    #[error("the server on the socket failed")]
    Serve(#[source] tonic::transport::Error),
    /// Pods that could not be removed.
    #[error("not every pod could be removed")]
    Reset(#[source] pods::Error),
    /// Threads and timers.
    #[error("cannot start")]
    Runtime(#[source] std::io::Error),
    /// Standard output.
    #[error("cannot print")]
    Print(#[source] std::io::Error),
    /// The demo could not be set up.
    #[error("the demo cannot be set up")]
    Demo(#[source] crate::demo::Error),
    /// In a container of the demo.
    #[error("the demo's guest failed")]
    Guest(#[source] std::io::Error),
}

impl Failure {
    /// The same for each file: what was being done to it.
    pub(crate) fn file(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }
}
