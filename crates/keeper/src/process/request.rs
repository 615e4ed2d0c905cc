//! What the daemon asks, done.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use executor::launch::Onlookers;
use executor::plan::{ExecLaunch, Launch};
use model::ContainerId;

use crate::process::client::ClientEnds;
use crate::process::connection::Asker;
use crate::process::container::{Container, Due};
use crate::process::dial::Dial;
use crate::process::exec::Exec;
use crate::process::pid_one::PidOne;
use crate::process::pod::{Held, Pod, find};
use crate::process::poller::{Kind, Token};
use crate::process::streams::duplicate;
use crate::protocol::{Call, CallId, LOG_STATS, OLDEST, Refusal, Reply, Request, Status, Stdio};
use crate::wire::{Message, Received};

/// A reply with its descriptors; none where it comes later.
type Done = Result<Option<(Reply, Vec<OwnedFd>)>, Refusal>;

/// How long a container that can look into others waits for commands that are on their way.
const COMMANDS_HIDE: Duration = Duration::from_secs(1);

impl Pod {
    /// A packet has come.
    pub(super) fn on_received(&mut self, connection: u32, received: Received) {
        let message = match received {
            Received::Message(message) => message,
            Received::Malformed(malformed) => {
                // Its number cannot be known; the daemon sends no request of number 0.
                let refusal = Refusal::Malformed { reason: malformed.to_string() };
                return self.answer([(Asker { connection, request: 0 }, Err(refusal), Vec::new())]);
            }
            Received::Part | Received::End => return,
        };
        let due = self.on_message(connection, message);
        self.answer(due);
    }

    fn on_message(&mut self, connection: u32, Message { body, fds }: Message) -> Option<Due> {
        let (request, result) = match serde_json::from_slice::<Call<Request>>(&body) {
            Ok(call) => {
                let asker = Asker { connection, request: call.id };
                (call.id, self.serve(asker, call.request, fds))
            }
            Err(error) => {
                let id = serde_json::from_slice(&body).map_or(0, |CallId { id }| id);
                (id, Err(Refusal::Malformed { reason: error.to_string() }))
            }
        };
        let asker = Asker { connection, request };
        match result {
            Ok(Some((reply, fds))) => Some((asker, Ok(reply), fds)),
            Ok(None) => None,
            Err(refusal) => Some((asker, Err(refusal), Vec::new())),
        }
    }

    fn serve(&mut self, asker: Asker, request: Request, mut fds: Vec<OwnedFd>) -> Done {
        let version = self.connection.as_ref().and_then(|connection| connection.version());
        let Some(version) = version else {
            let Request::Hello { min, max } = request else {
                return Err(malformed("nothing comes before hello"));
            };
            return self.hello(min, max);
        };
        match request {
            Request::Hello { min, max } => self.hello(min, max),
            Request::Status {} => Ok(Some(self.status(version >= LOG_STATS))),
            Request::Create { container, launch, stdio } => {
                self.create(asker, container, *launch, stdio, fds)
            }
            Request::Start { container } => self.start(asker, &container),
            Request::Exec { container, launch, brief } => {
                self.exec(asker, container, &launch, fds, brief)
            }
            Request::Attach { container, stdin, stdout, stderr } => {
                let ends = client_ends([stdin, stdout, stderr], fds)?;
                let streams = &mut find(&mut self.containers, &container)?.streams;
                let attached = streams.attach(ends, &self.poller);
                attached.map_err(Refusal::kernel("watch the client's pipes"))?;
                done()
            }
            Request::ResizeTerminal { container, size } => {
                let resized = find(&mut self.containers, &container)?.streams.resize(size);
                match resized.map_err(Refusal::kernel("resize the terminal"))? {
                    true => done(),
                    false => Err(Refusal::state(&container, "has no terminal")),
                }
            }
            Request::CloseStdin { container } => {
                find(&mut self.containers, &container)?.streams.close_input(&self.poller);
                done()
            }
            Request::ReopenLog { container } => {
                let file = fds.pop().ok_or_else(|| malformed("a log file is expected"))?;
                self.reopen(asker, &container, file)
            }
            Request::Dial { port } => {
                let serial = self.next_serial();
                let progress = Dial::start(asker, serial, port, &self.poller);
                self.on_dial(serial, asker, progress);
                Ok(None)
            }
            Request::SharedPid {} => self.shared_pid().map(Some),
            Request::Forget { container } => {
                find(&mut self.containers, &container)?.forget(&self.poller)?;
                done()
            }
            Request::Shutdown {} => self.shut_down(),
        }
    }

    fn hello(&mut self, min: u32, max: u32) -> Done {
        let version = max.min(self.newest);
        if version < OLDEST.max(min) {
            return Err(Refusal::Version { min: OLDEST, max: self.newest });
        }
        if let Some(connection) = &mut self.connection {
            connection.agree(version);
        }
        let me = rustix::process::getpid();
        let pidfd = rustix::process::pidfd_open(me, rustix::process::PidfdFlags::empty())
            .map_err(Refusal::kernel("open its own process"))?;
        let pid = me.as_raw_nonzero().get().unsigned_abs();
        Ok(Some((Reply::Hello { version, pid }, vec![pidfd])))
    }

    fn status(&self, with_log: bool) -> (Reply, Vec<OwnedFd>) {
        let mut fds = Vec::new();
        let known = self.containers.values().filter(|container| container.is_known());
        let status = Status {
            containers: known.map(|container| container.status(with_log, &mut fds)).collect(),
            execs: self.execs.values().filter(|exec| exec.is_alive()).map(Exec::status).collect(),
            shared_pid: self.pid_one.as_ref().map(|pid_one| pid_one.pid),
        };
        (Reply::Status(status), fds)
    }

    fn create(
        &mut self,
        asker: Asker,
        id: ContainerId,
        launch: Launch,
        stdio: Stdio,
        fds: Vec<OwnedFd>,
    ) -> Done {
        if self.leaving {
            return Err(Refusal::state(&id, "comes too late: the keeper is leaving"));
        }
        if find(&mut self.containers, &id).is_ok() {
            return Err(Refusal::Exists { container: id });
        }
        let serial = self.next_serial();
        let hands = (asker, &self.null, &self.poller);
        if launch.onlooker {
            self.onlookers = Onlookers::Possible;
        }
        let container = Container::create(id, serial, launch, fds, stdio, hands)?;
        self.containers.insert(serial, container);
        Ok(None)
    }

    fn start(&mut self, asker: Asker, id: &ContainerId) -> Done {
        let container = find(&mut self.containers, id)?;
        container.check_waiting()?;
        // Commands that have begun before the container was created.
        if container.onlooker && self.execs.values().any(Exec::has_to_hide) {
            let until = Instant::now() + COMMANDS_HIDE;
            self.held.push(Held { asker, container: id.clone(), until });
        } else {
            container.start(asker)?;
        }
        Ok(None)
    }

    /// Starts containers that can look into others, once there is nothing for them to see. Commands that
    /// take too long are ended.
    pub(super) fn start_held(&mut self, now: Instant) {
        if self.held.is_empty() {
            return;
        }
        let hiding = || self.execs.values().filter(|exec| exec.has_to_hide());
        if hiding().next().is_some() {
            if self.held.iter().any(|held| held.until <= now) {
                hiding().for_each(Exec::break_off);
                // Their end is the next that happens.
                self.held.iter_mut().for_each(|held| held.until = now + COMMANDS_HIDE);
            }
            return;
        }
        for Held { asker, container, .. } in std::mem::take(&mut self.held) {
            let started = find(&mut self.containers, &container).and_then(|it| it.start(asker));
            self.answer(started.err().map(|refusal| (asker, Err(refusal), Vec::new())));
        }
    }

    fn exec(
        &mut self,
        asker: Asker,
        container: ContainerId,
        launch: &ExecLaunch,
        fds: Vec<OwnedFd>,
        brief: bool,
    ) -> Done {
        if !find(&mut self.containers, &container)?.is_alive() {
            return Err(Refusal::state(&container, "does not run"));
        }
        let serial = self.next_serial();
        let hands = (asker, &self.poller);
        let exec = Exec::start(serial, container, (launch, fds), self.onlookers, brief, hands)?;
        self.execs.insert(serial, exec);
        Ok(None)
    }

    fn reopen(&mut self, asker: Asker, id: &ContainerId, file: OwnedFd) -> Done {
        let container = find(&mut self.containers, id)?;
        let due = container.reopen_log(file, asker, &self.poller)?;
        self.answer(due);
        Ok(None)
    }

    fn shared_pid(&mut self) -> Result<(Reply, Vec<OwnedFd>), Refusal> {
        let pid_one = match self.pid_one.take() {
            Some(pid_one) => pid_one,
            None => {
                let pid_one = PidOne::start(self.user.as_ref())?;
                self.poller
                    .readable(&pid_one.pidfd, Token::new(Kind::PidOne, 0))
                    .map_err(Refusal::kernel("watch the PID 1 of a shared PID namespace"))?;
                pid_one
            }
        };
        let pid_one = self.pid_one.insert(pid_one);
        let copies = || Ok(vec![duplicate(&pid_one.pidfd)?, duplicate(&pid_one.namespace)?]);
        let fds = copies().map_err(Refusal::kernel("hand over a shared PID namespace"))?;
        Ok((Reply::SharedPid { pid: pid_one.pid }, fds))
    }

    fn shut_down(&mut self) -> Done {
        let containers = self.containers.values().filter(|container| container.is_alive()).count();
        let execs = self.execs.values().filter(|exec| exec.is_alive()).count();
        let alive = (containers + execs) as u32;
        if alive > 0 {
            return Err(Refusal::Busy { alive });
        }
        if let Some(pid_one) = self.pid_one.take() {
            self.poller.ignore(&pid_one.pidfd);
            pid_one.end();
        }
        self.leaving = true;
        done()
    }
}

fn done() -> Done {
    Ok(Some((Reply::Done {}, Vec::new())))
}

fn malformed(reason: &str) -> Refusal {
    Refusal::Malformed { reason: reason.to_owned() }
}

/// A client's pipes, those that the request announces, in the order stdin, stdout, stderr.
fn client_ends(announced: [bool; 3], fds: Vec<OwnedFd>) -> Result<ClientEnds, Refusal> {
    if announced.iter().filter(|is| **is).count() != fds.len() {
        return Err(malformed("the request announces other pipes than came with it"));
    }
    let mut fds = fds.into_iter();
    let [input, stdout, stderr] = announced.map(|is| if is { fds.next() } else { None });
    Ok(ClientEnds { input, outputs: [stdout, stderr] })
}
