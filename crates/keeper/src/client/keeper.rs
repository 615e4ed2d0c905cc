use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use executor::plan::{ExecLaunch, Launch};
use model::{ContainerId, Timestamp};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use rustix::process::{Signal, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

use crate::client::error::Error;
use crate::client::link::{Link, watch};
use crate::protocol::{
    Event, ExitStatus, NEWEST, OLDEST, Reply, Request, Status, Stdio, TerminalSize,
};

const PEER: &str = "the keeper";

/// A pod's keeper, driven over one connection by any number of tasks. Dropping it leaves the pod
/// as it is.
#[derive(Debug)]
pub struct Keeper {
    link: Link<Reply>,
    version: u32,
    pid: u32,
    pidfd: AsyncFd<OwnedFd>,
}

/// What a keeper tells unasked. The stream ends with the connection.
#[derive(Debug)]
pub struct Events(mpsc::UnboundedReceiver<Event>);

impl Events {
    /// The next event; none once the connection has ended. Safe to cancel.
    pub async fn next(&mut self) -> Option<Event> {
        self.0.recv().await
    }
}

/// A container that was made, and waits to be started.
#[derive(Debug)]
pub struct Created {
    /// Its init's id on the host.
    pub pid: u32,
    /// Its init.
    pub pidfd: OwnedFd,
}

/// A process that was started in a container.
#[derive(Debug)]
pub struct Execution {
    /// Its terminal, where it was given one.
    pub terminal: Option<OwnedFd>,
    end: End,
}

#[derive(Debug)]
enum End {
    Awaited { pidfd: OwnedFd, end: oneshot::Receiver<ExitStatus> },
    Known(ExitStatus),
}

impl Execution {
    /// How the process ended, once it has. Safe to cancel and to call again.
    ///
    /// # Errors
    /// [`Error::Lost`] where the keeper is gone before.
    pub async fn exited(&mut self) -> Result<ExitStatus, Error> {
        match &mut self.end {
            End::Known(exit) => Ok(*exit),
            End::Awaited { end, .. } => {
                let exit = end.await.map_err(|_| Error::Lost { peer: PEER })?;
                self.end = End::Known(exit);
                Ok(exit)
            }
        }
    }

    /// Kills the process, if it has not ended.
    pub fn kill(&self) {
        if let End::Awaited { pidfd, .. } = &self.end {
            // ESRCH is what was wanted.
            let _ = pidfd_send_signal(pidfd, Signal::KILL);
        }
    }
}

/// The PID namespace that the containers of a pod share.
#[derive(Debug)]
pub struct SharedPid {
    /// Its PID 1, on the host.
    pub pid: u32,
    /// Its PID 1.
    pub pidfd: OwnedFd,
    /// The namespace.
    pub namespace: OwnedFd,
}

impl Keeper {
    /// Connects to the keeper that listens at `path`, taking over from any other daemon.
    ///
    /// # Errors
    /// [`Error::Socket`] where nobody listens, [`Error::Refused`] where no version is common to
    /// both.
    pub async fn connect(path: &Path) -> Result<(Self, Events), Error> {
        let failed = |source: io::Error| Error::Socket {
            action: "connect to",
            path: path.to_owned(),
            source,
        };
        let socket = connect(path).map_err(failed)?;
        Self::over(socket).await
    }

    /// Says hello on a connected socket.
    pub(super) async fn over(socket: OwnedFd) -> Result<(Self, Events), Error> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let link = Link::new(socket, sender).map_err(Error::Send)?;
        let hello = Request::Hello { min: OLDEST, max: NEWEST };
        let (reply, mut fds) = link.call(hello, Vec::new()).await?;
        let (Reply::Hello { version, pid }, Some(pidfd)) = (reply, fds.pop()) else {
            return Err(Error::Unexpected { peer: PEER });
        };
        let pidfd = watch(pidfd, Interest::READABLE).map_err(Error::Send)?;
        Ok((Self { link, version, pid, pidfd }, Events(receiver)))
    }

    /// The version of the protocol that both speak.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Its process id on the host.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Returns when its process has ended, by whatever cause. Safe to cancel.
    pub async fn lost(&self) {
        // A pidfd is readable from the end of the process on; an error would be the runtime's end.
        let _ = self.pidfd.readable().await;
    }

    /// Kills its process at once. Containers without a PID namespace of their own go on without it.
    pub fn kill(&self) {
        // ESRCH is what was wanted.
        let _ = pidfd_send_signal(self.pidfd.get_ref(), Signal::KILL);
    }

    /// Everything that it knows.
    ///
    /// # Errors
    /// Those of [`Error`].
    pub async fn status(&self) -> Result<Status, Error> {
        match self.link.call(Request::Status {}, Vec::new()).await? {
            (Reply::Status(status), _) => Ok(status),
            _ => Err(Error::Unexpected { peer: PEER }),
        }
    }

    /// Assembles a container up to the point before execve(2). `descriptors` is the table that
    /// `launch` refers to. Where `launch` has no terminal, the keeper puts pipes of its own in the
    /// place of the files that it names as standard streams. `log` is open for appending.
    ///
    /// # Errors
    /// [`Error::Refused`] with the step that failed. The keeper keeps nothing then.
    pub async fn create(
        &self,
        container: &ContainerId,
        launch: Launch,
        mut descriptors: Vec<OwnedFd>,
        stdio: Stdio,
        log: Option<OwnedFd>,
    ) -> Result<Created, Error> {
        let stdio = Stdio { log: log.is_some(), ..stdio };
        descriptors.extend(log);
        let (container, launch) = (container.clone(), Box::new(launch));
        let request = Request::Create { container, launch, stdio };
        let (reply, mut fds) = self.link.call(request, descriptors).await?;
        match (reply, fds.pop()) {
            (Reply::Created { pid }, Some(pidfd)) => Ok(Created { pid, pidfd }),
            _ => Err(Error::Unexpected { peer: PEER }),
        }
    }

    /// Lets a container execute its program. Returns when that has succeeded, with the time.
    ///
    /// # Errors
    /// [`Error::Refused`] where it failed: the container then ends with exit code 128.
    pub async fn start(&self, container: &ContainerId) -> Result<Timestamp, Error> {
        let request = Request::Start { container: container.clone() };
        match self.link.call(request, Vec::new()).await? {
            (Reply::Started { at }, _) => Ok(at),
            _ => Err(Error::Unexpected { peer: PEER }),
        }
    }

    /// Starts one more process in a container that runs. Returns when execve(2) has succeeded.
    ///
    /// # Errors
    /// [`Error::Refused`] with the step that failed.
    pub async fn exec(
        &self,
        container: &ContainerId,
        launch: ExecLaunch,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Execution, Error> {
        self.execute(container, launch, descriptors, false).await
    }

    /// As [`Keeper::exec`], for a process that may be over in a moment: then it returns when it has
    /// ended, and not before. That saves both sides half of what they do for it.
    ///
    /// # Errors
    /// As there.
    pub async fn exec_briefly(
        &self,
        container: &ContainerId,
        launch: ExecLaunch,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Execution, Error> {
        self.execute(container, launch, descriptors, true).await
    }

    async fn execute(
        &self,
        container: &ContainerId,
        launch: ExecLaunch,
        descriptors: Vec<OwnedFd>,
        brief: bool,
    ) -> Result<Execution, Error> {
        let (container, launch) = (container.clone(), Box::new(launch));
        let request = Request::Exec { container, launch, brief };
        let (reply, fds) = self.link.call(request, descriptors).await?;
        let mut fds = fds.into_iter();
        let end = match (reply, fds.next()) {
            (Reply::Executed { exit }, None) => End::Known(exit),
            (Reply::Executing { exec, .. }, Some(pidfd)) => {
                let end = self.link.exec_end(exec).ok_or(Error::Unexpected { peer: PEER })?;
                End::Awaited { pidfd, end }
            }
            _ => return Err(Error::Unexpected { peer: PEER }),
        };
        Ok(Execution { terminal: fds.next(), end })
    }

    /// Connects pipes to a container's streams: the reading end of what goes to its standard input,
    /// the writing ends of what comes from its standard output and error. The keeper closes them
    /// when the stream ends, and a client that takes nothing for ten seconds is cut off.
    ///
    /// # Errors
    /// Those of [`Error`].
    pub async fn attach(
        &self,
        container: &ContainerId,
        stdin: Option<OwnedFd>,
        stdout: Option<OwnedFd>,
        stderr: Option<OwnedFd>,
    ) -> Result<(), Error> {
        let request = Request::Attach {
            container: container.clone(),
            stdin: stdin.is_some(),
            stdout: stdout.is_some(),
            stderr: stderr.is_some(),
        };
        let fds = [stdin, stdout, stderr].into_iter().flatten().collect();
        self.ask(request, fds).await
    }

    /// Changes the size of a container's terminal.
    ///
    /// # Errors
    /// [`Error::Refused`] where it has none.
    pub async fn resize_terminal(
        &self,
        container: &ContainerId,
        size: TerminalSize,
    ) -> Result<(), Error> {
        self.ask(Request::ResizeTerminal { container: container.clone(), size }, Vec::new()).await
    }

    /// Ends a container's standard input.
    ///
    /// # Errors
    /// Those of [`Error`].
    pub async fn close_stdin(&self, container: &ContainerId) -> Result<(), Error> {
        self.ask(Request::CloseStdin { container: container.clone() }, Vec::new()).await
    }

    /// From now on a container's log goes to `file`, open for appending. Returns when the old file
    /// has everything that came before.
    ///
    /// # Errors
    /// [`Error::Refused`] where it has no log.
    pub async fn reopen_log(&self, container: &ContainerId, file: OwnedFd) -> Result<(), Error> {
        self.ask(Request::ReopenLog { container: container.clone() }, vec![file]).await
    }

    /// Connects to a TCP port inside the pod: on 127.0.0.1, and if that fails on ::1. The socket
    /// does not block.
    ///
    /// # Errors
    /// [`Error::Refused`] where nobody listens there.
    pub async fn dial(&self, port: u16) -> Result<OwnedFd, Error> {
        let (reply, mut fds) = self.link.call(Request::Dial { port }, Vec::new()).await?;
        match (reply, fds.pop()) {
            (Reply::Dialed {}, Some(socket)) => Ok(socket),
            _ => Err(Error::Unexpected { peer: PEER }),
        }
    }

    /// The PID namespace that the pod's containers share, made at the first call.
    ///
    /// # Errors
    /// Those of [`Error`].
    pub async fn shared_pid(&self) -> Result<SharedPid, Error> {
        let (reply, fds) = self.link.call(Request::SharedPid {}, Vec::new()).await?;
        let mut fds = fds.into_iter();
        match (reply, fds.next(), fds.next()) {
            (Reply::SharedPid { pid }, Some(pidfd), Some(namespace)) => {
                Ok(SharedPid { pid, pidfd, namespace })
            }
            _ => Err(Error::Unexpected { peer: PEER }),
        }
    }

    /// Drops all that the keeper knows of a container. One that was never started ends by it; the
    /// last of its log is written all the same.
    ///
    /// # Errors
    /// [`Error::Refused`] where it runs.
    pub async fn forget(&self, container: &ContainerId) -> Result<(), Error> {
        self.ask(Request::Forget { container: container.clone() }, Vec::new()).await
    }

    /// Lets the keeper go, and its namespaces with it where nothing else holds them. Returns when
    /// it has agreed; [`Keeper::lost`] tells when it has gone.
    ///
    /// # Errors
    /// [`Error::Refused`] while a container or an exec lives.
    pub async fn shutdown(&self) -> Result<(), Error> {
        self.ask(Request::Shutdown {}, Vec::new()).await
    }

    async fn ask(&self, request: Request, fds: Vec<OwnedFd>) -> Result<(), Error> {
        match self.link.call(request, fds).await? {
            (Reply::Done {}, _) => Ok(()),
            _ => Err(Error::Unexpected { peer: PEER }),
        }
    }
}

/// The address of a socket whose path may be longer than an address can hold: by its open
/// directory, which is given with it and must stay open.
pub(super) fn address(path: &Path) -> io::Result<(SocketAddrUnix, OwnedFd)> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
    let (parent, name) = path.parent().zip(path.file_name()).ok_or_else(invalid)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = openat(CWD, parent, flags, Mode::empty())?;
    let short = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
    Ok((SocketAddrUnix::new(short)?, directory))
}

/// A connected socket. Connecting to a listening socket of the local host waits for nobody, unless
/// its queue is full.
fn connect(path: &Path) -> io::Result<OwnedFd> {
    let (address, _directory) = address(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    rustix::net::connect(&socket, &address)?;
    Ok(socket)
}
