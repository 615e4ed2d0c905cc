use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, socketpair};
use rustix::process::{Signal, pidfd_send_signal};
use tokio::sync::{Mutex, mpsc};

use crate::client::error::Error;
use crate::client::keeper::{Events, Keeper, address};
use crate::client::link::{Link, Replies};
use crate::memfd;
use crate::process::sandbox::Sandbox;
use crate::process::seed::{SeedReply, SeedRequest};

/// The argument with which the binary is executed as the seed: it calls [`crate::seed_main`] with
/// its standard input then, before it makes any thread.
pub const SEED_ARGUMENT: &str = "keeper-seed";

const PEER: &str = "the seed";
/// How many daemons may wait to be accepted; there is one.
const BACKLOG: i32 = 8;

impl Replies for SeedReply {
    const PEER: &'static str = PEER;
}

/// Makes keepers. Its process is started again when it is gone.
#[derive(Debug)]
pub struct Seed {
    running: Mutex<Running>,
}

#[derive(Debug)]
struct Running {
    link: Link<SeedReply>,
    child: Child,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It ends by itself when its connection closes; a moment later it has.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A pod's keeper that has just been made, and its namespaces.
#[derive(Debug)]
pub struct Made {
    /// The keeper.
    pub keeper: Keeper,
    /// What it tells.
    pub events: Events,
    /// Its network namespace: the pod's, or the host's.
    pub net: OwnedFd,
    /// Its IPC namespace, likewise.
    pub ipc: OwnedFd,
    /// Its UTS namespace, likewise.
    pub uts: OwnedFd,
    /// The pod's user namespace. The keeper itself lives in the host's.
    pub user: Option<OwnedFd>,
}

impl Seed {
    /// Executes a sealed copy of this process's own program as the seed.
    ///
    /// # Errors
    /// [`Error::Seed`], or [`Error::Refused`] where it cannot make the keepers' mount namespace.
    pub async fn start() -> Result<Self, Error> {
        Ok(Self { running: Mutex::new(start().await?) })
    }

    /// Makes a pod's keeper, which listens at `socket`; the directory of that is the pod's own,
    /// 0700. A keeper whose maker has gone away meanwhile is killed.
    ///
    /// # Errors
    /// [`Error::Refused`] with what could not be made or set, [`Error::Socket`].
    pub async fn make(&self, sandbox: &Sandbox, socket: &Path) -> Result<Made, Error> {
        match self.attempt(sandbox, socket).await {
            // It ended a moment ago, and nobody had noticed.
            Err(Error::Lost { peer: PEER }) => self.attempt(sandbox, socket).await,
            other => other,
        }
    }

    async fn attempt(&self, sandbox: &Sandbox, socket: &Path) -> Result<Made, Error> {
        let link = {
            let mut running = self.running.lock().await;
            if running.link.is_lost() {
                tracing::warn!("the seed is gone and is started again");
                *running = start().await?;
            }
            running.link.clone()
        };
        let listener = listen_at(socket).map_err(|source| Error::Socket {
            action: "listen at",
            path: socket.to_owned(),
            source,
        })?;
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(|errno| Error::Send(errno.into()))?;
        let request = SeedRequest::Make(sandbox.clone());
        // A task of its own: a maker that goes away must not leave a keeper that nobody knows.
        let making = tokio::spawn(async move {
            let (reply, fds) = link.call(request, vec![listener, theirs]).await?;
            let SeedReply::Made { .. } = reply else {
                return Err(Error::Unexpected { peer: PEER });
            };
            let mut fds = fds.into_iter();
            Ok((Unclaimed(fds.next()), fds))
        });
        // The greeting lies in the socket when the keeper first looks. Where there will be no keeper
        // the socket closes, and why is the seed's to tell.
        let (made, greeted) = tokio::join!(making, Keeper::over(ours));
        let made = made.unwrap_or(Err(Error::Lost { peer: PEER }));
        if let (Err(_), Ok((keeper, _))) = (&made, &greeted) {
            // Its maker got as far as that.
            keeper.kill();
        }
        let (unclaimed, mut fds) = made?;
        let mut next = || fds.next().ok_or(Error::Unexpected { peer: PEER });
        let (net, ipc, uts) = (next()?, next()?, next()?);
        let user = fds.next();
        let (keeper, events) = greeted?;
        unclaimed.claim();
        Ok(Made { keeper, events, net, ipc, uts, user })
    }
}

/// A keeper's process that nobody has claimed yet: dropped, it is killed.
struct Unclaimed(Option<OwnedFd>);

impl Unclaimed {
    fn claim(mut self) {
        self.0 = None;
    }
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if let Some(pidfd) = &self.0 {
            // ESRCH is what was wanted.
            let _ = pidfd_send_signal(pidfd, Signal::KILL);
        }
    }
}

/// Listens at a path, in the place of whatever is there: it can only be left from a keeper that is
/// gone.
fn listen_at(path: &Path) -> io::Result<OwnedFd> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let (address, _directory) = address(path)?;
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

async fn start() -> Result<Running, Error> {
    let failed = |action| move |source| Error::Seed { action, source };
    let copy = sealed_copy().map_err(failed("copy the program"))?;
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|errno| failed("make a socket pair")(errno.into()))?;
    let child = Command::new(format!("/proc/self/fd/{}", copy.as_raw_fd()))
        .arg0("minke")
        .arg(SEED_ARGUMENT)
        .env_clear()
        .current_dir("/")
        .stdin(theirs)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed("execute the program"))?;
    let (events, _) = mpsc::unbounded_channel();
    let link = Link::new(ours, events).map_err(failed("watch the socket"))?;
    let running = Running { link, child };
    match running.link.call(SeedRequest::Ready {}, Vec::new()).await? {
        (SeedReply::Ready { oom_score_adj }, _) => {
            if oom_score_adj >= 0 {
                tracing::info!(oom_score_adj, "keepers cannot be spared by the OOM killer here");
            }
            Ok(running)
        }
        _ => Err(Error::Unexpected { peer: PEER }),
    }
}

/// This process's program in a memfd that nobody can write to.
fn sealed_copy() -> io::Result<OwnedFd> {
    let program = File::open("/proc/self/exe")?;
    let copy = memfd::executable("minke-keeper")?;
    let length = program.metadata()?.len();
    let mut copied = 0;
    while copied < length {
        let left = usize::try_from(length - copied).unwrap_or(usize::MAX);
        match rustix::fs::sendfile(copy.as_fd(), &program, None, left)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => copied += count as u64,
        }
    }
    memfd::seal(&copy)?;
    Ok(copy)
}
