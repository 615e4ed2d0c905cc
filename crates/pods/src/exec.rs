//! Commands in running containers, with their output collected or streamed.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use executor::plan::Window;
use executor::prepare::{ExecInputs, StdioSource, exec_process, prepare_exec};
use rustix::buffer::spare_capacity;
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

use crate::container::Container;
use crate::error::Error;
use crate::runtime::{Runtime, Shared};
use crate::scope::{DYING, Scope};
use crate::stats::blocking;
use crate::view::ExecOutput;

/// Both streams of an ExecSync together: a gRPC message holds 16 MiB, field headers included.
const OUTPUT_MAX: usize = (16 << 20) - (64 << 10);

impl Runtime {
    /// Runs a command in a container and collects its output, as much of it as an answer holds; what
    /// was cut is said at the end of stderr. After `timeout` everything that the command has started
    /// is killed, and nothing else.
    ///
    /// # Errors
    /// [`Error::ContainerNotFound`], [`Error::Ambiguous`], [`Error::WrongState`];
    /// [`Error::DeadlineExceeded`]; why the command could not be executed.
    pub async fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        timeout: Option<Duration>,
    ) -> Result<ExecOutput, Error> {
        if command.first().is_none_or(String::is_empty) {
            let reason = "names no program".to_owned();
            return Err(Error::Invalid { field: "cmd".into(), reason });
        }
        let container = self.0.index.container(id)?;
        // Killing belongs to the run: who is told that time is up finds nothing that still runs. Where
        // that takes too long, too, dropping the run has it killed behind the answer.
        let patience = timeout.map_or(Duration::MAX, |limit| limit.saturating_add(DYING));
        let run = self.0.collect(&container, &command, timeout);
        let output = tokio::time::timeout(patience, run).await.unwrap_or(Ok(None))?;
        output.ok_or_else(|| Error::DeadlineExceeded {
            what: format!("command {:?} in container {}", command, container.id),
            seconds: timeout.unwrap_or_default().as_secs(),
        })
    }
}

/// A command that runs: dropping it before its end kills all that it has started.
#[derive(Debug)]
pub(crate) struct Execution {
    pub(crate) process: keeper::Execution,
    scope: Option<Scope>,
    ended: bool,
}

impl Execution {
    /// Waits for the end of the command's own process; gives its exit code.
    pub(crate) async fn exit_code(&mut self) -> Result<i32, keeper::Error> {
        let exit = self.process.exited().await?;
        self.ended = true;
        Ok(exit.code)
    }

    /// Kills all that the command has started; returns when it is gone.
    async fn kill(mut self) {
        self.process.kill();
        if let Some(scope) = self.scope.take() {
            let ended = blocking(move || {
                scope.end();
                Ok(())
            });
            let _ = ended.await;
        }
        // Until its keeper has reaped it, the container still sees it. An error is the keeper's end.
        let _ = self.exit_code().await;
    }
}

impl Drop for Execution {
    fn drop(&mut self) {
        let scope = self.scope.take();
        if !self.ended {
            self.process.kill();
        }
        match scope {
            Some(scope) if self.ended => scope.leave(),
            // Removing what was killed waits for the kernel.
            Some(scope) => drop(tokio::task::spawn_blocking(move || scope.end())),
            None => {}
        }
    }
}

/// What is wanted of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Its streams, from its start on.
    Streamed,
    /// Its end, with all output.
    Collected {
        /// Time is limited: its processes can be killed apart from the container's.
        limited: bool,
    },
}

impl Shared {
    /// Starts a command with the given descriptors, or on a terminal, which is then among what the
    /// execution has.
    pub(crate) async fn execute(
        &self,
        container: &Arc<Container>,
        command: &[String],
        stdio: StdioSource,
        kind: Kind,
    ) -> Result<Execution, Error> {
        let live = container.running()?;
        let pod = self.index.pod(container.pod.as_str())?;
        let keeper = pod.keeper()?;
        let user_namespace = pod.cell().user_namespace.clone();
        let failed = |action| {
            let path = container.facts.cgroup.clone();
            move |source| Error::Cgroup { path, action, source }
        };
        let scope = match kind {
            Kind::Collected { limited: true } => {
                Some(Scope::take(&live).map_err(failed("divided"))?)
            }
            _ => None,
        };
        let attachment = match &scope {
            Some(scope) => scope.attachment(),
            None => live.cgroup.attachment(),
        };
        let attachment = attachment.map_err(failed("opened"))?;
        let init = live.pidfd.try_clone().map_err(|_| Error::Internal("no descriptor is free"))?;
        let failed = |source| Error::Prepare { container: container.id.clone(), source };
        let terminal = matches!(stdio, StdioSource::Terminal(_));
        let process = exec_process(&live.spec, command, terminal).map_err(failed)?;
        let inputs = ExecInputs {
            process: &process,
            init,
            user_namespace: user_namespace.as_deref().map(std::os::fd::AsFd::as_fd),
            cgroup: Some(attachment),
            stdio,
            seccomp: live.filter.as_ref().map(|filter| filter.borrow()),
        };
        let prepared = prepare_exec(&live.spec, inputs).map_err(failed)?;
        // A task of its own: a command of which nobody waits to hear is killed on its way, too.
        let (mut waiter, executed) = oneshot::channel();
        let id = container.id.clone();
        tokio::spawn(async move {
            let executed = {
                let (launch, files) = (prepared.launch, prepared.descriptors);
                let execute = async {
                    match kind {
                        Kind::Streamed => keeper.exec(&id, launch, files).await,
                        Kind::Collected { .. } => keeper.exec_briefly(&id, launch, files).await,
                    }
                };
                let mut execute = std::pin::pin!(execute);
                tokio::select! {
                    executed = &mut execute => executed,
                    () = waiter.closed() => {
                        // It waits for the kernel.
                        tokio::task::block_in_place(|| scope.iter().for_each(Scope::kill));
                        execute.await
                    }
                }
            };
            let executed = match executed {
                Ok(process) => Ok(Execution { process, scope, ended: false }),
                Err(source) => {
                    match (scope, &source) {
                        // Of a lost keeper's nobody knows whether it runs.
                        (Some(scope), keeper::Error::Lost { .. }) => {
                            drop(tokio::task::spawn_blocking(move || scope.end()));
                        }
                        (scope, _) => scope.into_iter().for_each(Scope::leave),
                    }
                    let action = "execute the command";
                    Err(Error::Keeper { pod: pod.id.clone(), action, source })
                }
            };
            // Not taken it is dropped, which kills it.
            let _ = waiter.send(executed);
        });
        executed.await.unwrap_or(Err(Error::Internal("a command's task was stopped")))
    }

    /// None: the time was up and everything has been killed.
    async fn collect(
        &self,
        container: &Arc<Container>,
        command: &[String],
        limit: Option<Duration>,
    ) -> Result<Option<ExecOutput>, Error> {
        let (stdout, child_out) = unwatched_pipe()?;
        let (stderr, child_err) = unwatched_pipe()?;
        let files = StdioSource::Files([null()?, child_out, child_err]);
        let mut time_is_up = std::pin::pin!(tokio::time::sleep(limit.unwrap_or(Duration::MAX)));
        let kind = Kind::Collected { limited: limit.is_some() };
        let mut execution = self.execute(container, command, files, kind).await?;
        let room = AtomicUsize::new(OUTPUT_MAX);
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let exit_code = {
            let mut reading = std::pin::pin!(async {
                tokio::try_join!(fill(stdout, &mut out, &room), fill(stderr, &mut err, &room))
            });
            let mut read = false;
            let code = loop {
                tokio::select! {
                    // First, because nothing need be watched of a command that has ended already.
                    biased;
                    code = execution.exit_code() => break Some(code),
                    // Before what an endless writer keeps busy.
                    () = &mut time_is_up => break None,
                    done = &mut reading, if !read => {
                        done?;
                        read = true;
                    }
                }
            };
            let Some(code) = code else {
                execution.kill().await;
                return Ok(None);
            };
            if !read {
                // A child that it left behind may hold the pipes for ever.
                let read = tokio::time::timeout(self.config.drain, reading).await;
                read.unwrap_or(Ok(Default::default()))?;
            }
            code.map_err(|source| Error::Keeper {
                pod: container.pod.clone(),
                action: "follow the command",
                source,
            })?
        };
        if room.load(Ordering::Relaxed) == 0 {
            err.extend_from_slice(b"\n[minke: the output was cut: an answer holds 16 MiB]\n");
        }
        Ok(Some(ExecOutput { stdout: out, stderr: err, exit_code }))
    }
}

/// Reads to the end; keeps what there is room for. A pipe whose end is there already is never watched.
async fn fill(from: OwnedFd, into: &mut Vec<u8>, room: &AtomicUsize) -> Result<(), Error> {
    /// As much as a pipe holds.
    const AT_ONCE: usize = 4;
    let mut chunk = Vec::with_capacity(16 << 10);
    let mut keep = |chunk: &mut Vec<u8>| {
        let take = |left: usize| Some(left - left.min(chunk.len()));
        let before = room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        into.extend_from_slice(&chunk[..chunk.len().min(before.unwrap_or_default())]);
        chunk.clear();
    };
    for _ in 0..AT_ONCE {
        match rustix::io::read(&from, spare_capacity(&mut chunk)) {
            Ok(0) => return Ok(()),
            Ok(_) => keep(&mut chunk),
            Err(_) => break,
        }
    }
    let mut from = watched(from)?;
    while let Ok(1..) = from.read_buf(&mut chunk).await {
        keep(&mut chunk);
    }
    Ok(())
}

/// A pipe from a process: the end that we read, which does not wait, and the process's.
fn unwatched_pipe() -> Result<(OwnedFd, OwnedFd), Error> {
    let made = pipe_with(PipeFlags::CLOEXEC);
    let made = made.and_then(|(read, write)| {
        rustix::io::ioctl_fionbio(&read, true)?;
        Ok((read, write))
    });
    made.map_err(|_| Error::Internal("no pipe can be made"))
}

/// A pipe from a process: the end that we read, and the process's.
pub(crate) fn output_pipe() -> Result<(pipe::Receiver, OwnedFd), Error> {
    let (read, write) = unwatched_pipe()?;
    Ok((watched(read)?, write))
}

fn watched(read: OwnedFd) -> Result<pipe::Receiver, Error> {
    let read = pipe::Receiver::from_owned_fd_unchecked(read);
    read.map_err(|_| Error::Internal("no pipe can be watched"))
}

/// A pipe to a process: the end that we write, and the process's.
pub(crate) fn input_pipe() -> Result<(pipe::Sender, OwnedFd), Error> {
    let made = pipe_with(PipeFlags::CLOEXEC).map_err(io::Error::from);
    let made = made.and_then(|(read, write)| {
        rustix::io::ioctl_fionbio(&write, true)?;
        Ok((pipe::Sender::from_owned_fd_unchecked(write)?, read))
    });
    made.map_err(|_| Error::Internal("no pipe can be made"))
}

/// Nothing to read.
pub(crate) fn null() -> Result<OwnedFd, Error> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    rustix::fs::open("/dev/null", flags, Mode::empty())
        .map_err(|_| Error::Internal("/dev/null cannot be opened"))
}

/// The size of a terminal before the client has told its own.
pub(crate) fn no_window() -> Window {
    Window::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_there_is_no_room_for_is_read_and_dropped() {
        let said = |text: &[u8]| {
            let (read, write) = unwatched_pipe().unwrap();
            rustix::io::write(&write, text).unwrap();
            read
        };
        let room = AtomicUsize::new(5);
        let (mut one, mut two) = (Vec::new(), Vec::new());
        fill(said(b"abc"), &mut one, &room).await.unwrap();
        fill(said(b"defgh"), &mut two, &room).await.unwrap();
        assert_eq!((one.as_slice(), two.as_slice()), (&b"abc"[..], &b"de"[..]));
        assert_eq!(room.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn what_comes_later_and_in_many_pieces_is_read_too() {
        let (read, write) = unwatched_pipe().unwrap();
        let mut collected = Vec::new();
        let room = AtomicUsize::new(usize::MAX / 2);
        let writing = tokio::task::spawn_blocking(move || {
            for _ in 0..100 {
                rustix::io::write(&write, &[7; 4000]).unwrap();
            }
        });
        fill(read, &mut collected, &room).await.unwrap();
        writing.await.unwrap();
        assert_eq!(collected, [7; 400_000]);
    }
}
