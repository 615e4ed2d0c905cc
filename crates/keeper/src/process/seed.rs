//! The seed: the daemon's executable, executed once more from a sealed copy, which makes keepers.
//!
//! ```text
//!   minke serve                       seed                                   keeper
//!     | -- execs a sealed memfd -------> |   enters the template
//!     | <------------------ Ready ------ |
//!     | -- Make{sandbox} --------------> | -- clone3(NEWNS|NEWNET|NEWIPC|NEWUTS) --> |
//!     |    + listener, connection        | <------- namespaces, or why not -- furnishes
//!     | <----------------- Made{pid} --- |                                     serves
//!     |    + pidfd, namespaces
//! ```
//!
//! A keeper is a fork of the seed: it costs a fraction of a millisecond, and all of them share the
//! pages that loading and relocating the executable had cost once. /proc/self/exe of all of them is
//! the sealed copy, which nobody can open for writing and which is not the daemon's file.
//!
//! The seed holds nothing and can die at any time; keepers do not notice. It ends when the daemon
//! closes the connection.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;

use rustix::fs::OFlags;
use rustix::io;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{DumpableBehavior, Signal, set_dumpable_behavior, setsid};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use rustix::thread::ThreadNameSpaceType;
use serde::{Deserialize, Serialize};
use sys::clone::{Signals, reset_signals, unblock_signals};
use sys::fork::{Child, close_all_but, default_signal, fork, ignore_signal};
use sys::sysctl::Parameters;

use crate::process::pod::{self, Birthright};
use crate::process::sandbox::{Sandbox, open};
use crate::process::template;
use crate::protocol::{Answer, Call, CallId, Refusal};
use crate::wire::{self, Assembler, Message, PACKET_MAX, Received};

/// What the daemon asks of the seed.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SeedRequest {
    /// Answered once the template stands.
    Ready {},
    /// Descriptors: the pod's listening socket, then the keeper's end of the first connection.
    Make(Sandbox),
}

/// What the seed answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SeedReply {
    Ready {
        /// What protects the keepers from the OOM killer.
        oom_score_adj: i32,
    },
    /// Descriptors: a pidfd of the keeper; its NET, IPC and UTS namespaces; its USER namespace
    /// where the pod has one.
    Made { pid: u32 },
}

/// How well the OOM killer spares keepers, where the kernel lets us say so.
const OOM_SCORE_ADJ: i32 = -999;

/// The life of the seed, on the socket that [`crate::Seed`] gave it as standard input. The binary
/// calls it before it has made any thread.
pub fn seed_main(socket: OwnedFd) -> ExitCode {
    let mut prepared = prepare();
    let mut assembler = Assembler::default();
    let mut buffer = vec![0; PACKET_MAX];
    loop {
        match assembler.receive(socket.as_fd(), &mut buffer) {
            Ok(Received::Message(message)) => {
                let (answer, fds) = answer(message, &prepared);
                if send(socket.as_fd(), &answer, fds).is_err() {
                    return ExitCode::FAILURE;
                }
                if let Ok(parameters) = &mut prepared.parameters {
                    parameters.renew();
                }
            }
            Ok(Received::Part | Received::Malformed(_)) => {}
            Ok(Received::End) => return ExitCode::SUCCESS,
            Err(_) => return ExitCode::FAILURE,
        }
    }
}

/// What was found when the seed started.
struct Prepared {
    /// The template stands, or why not.
    template: Result<(), Refusal>,
    /// Open for reading and writing: the template has no device nodes.
    null: Result<OwnedFd, Refusal>,
    /// Where the keepers write theirs.
    parameters: Result<Parameters, Refusal>,
    oom_score_adj: i32,
}

fn prepare() -> Prepared {
    let _ = rustix::thread::set_name(c"minke-seed");
    // Nobody but a tracer with CAP_SYS_PTRACE in the host's user namespace can look inside.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let _ = setsid();
    // Whatever the daemon was started with: a container's process undoes what is left of it.
    reset_signals(Signals::changed_now());
    unblock_signals();
    // The kernel reaps keepers: the seed has nothing to ask of one that has ended.
    ignore_signal(Signal::CHILD);
    ignore_signal(Signal::PIPE);
    // Found out once, for all keepers.
    let _known = (Signals::changed(), sys::scheduling::is_as_begun());
    sys::heap::keep_small();
    let oom_score_adj = protect_from_oom();
    let null = open("/dev/null", OFlags::RDWR).map_err(Refusal::kernel("open /dev/null"));
    let parameters = Parameters::open().map_err(Refusal::kernel("make a procfs"));
    Prepared { template: template::enter(), null, parameters, oom_score_adj }
}

/// Lowers the score as far as is allowed: only CAP_SYS_RESOURCE may.
fn protect_from_oom() -> i32 {
    let path = "/proc/self/oom_score_adj";
    match std::fs::write(path, OOM_SCORE_ADJ.to_string()) {
        Ok(()) => OOM_SCORE_ADJ,
        Err(_) => std::fs::read_to_string(path)
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or_default(),
    }
}

fn answer(message: Message, prepared: &Prepared) -> (Answer<SeedReply>, Vec<OwnedFd>) {
    let (id, result) = match serde_json::from_slice::<Call<SeedRequest>>(&message.body) {
        Ok(call) => (call.id, serve(call.request, message.fds, prepared)),
        Err(error) => {
            let id = serde_json::from_slice(&message.body).map_or(0, |CallId { id }| id);
            (id, Err(Refusal::Malformed { reason: error.to_string() }))
        }
    };
    match result {
        Ok((reply, fds)) => (Answer::Reply { id, result: Ok(reply) }, fds),
        Err(refusal) => (Answer::Reply { id, result: Err(refusal) }, Vec::new()),
    }
}

fn serve(
    request: SeedRequest,
    mut fds: Vec<OwnedFd>,
    prepared: &Prepared,
) -> Result<(SeedReply, Vec<OwnedFd>), Refusal> {
    prepared.template.clone()?;
    let null = prepared.null.as_ref().map_err(Refusal::clone)?;
    match request {
        SeedRequest::Ready {} => {
            Ok((SeedReply::Ready { oom_score_adj: prepared.oom_score_adj }, Vec::new()))
        }
        SeedRequest::Make(sandbox) => {
            let (Some(connection), Some(listener), None) = (fds.pop(), fds.pop(), fds.pop()) else {
                let reason = "a listening socket and a connection are expected".to_owned();
                return Err(Refusal::Malformed { reason });
            };
            let null = null.try_clone().map_err(|_| io::Errno::MFILE);
            let null = null.map_err(Refusal::kernel("duplicate /dev/null"))?;
            let parameters = prepared.parameters.as_ref().map_err(Refusal::clone)?;
            let parameters =
                parameters.duplicate().map_err(Refusal::kernel("duplicate a procfs"))?;
            let (child, namespaces) = make(&sandbox, listener, connection, null, parameters)?;
            let pid = child.pid.as_raw_nonzero().get().unsigned_abs();
            let fds = std::iter::once(child.pidfd).chain(namespaces).collect();
            Ok((SeedReply::Made { pid }, fds))
        }
    }
}

/// Makes a keeper, and waits until it has furnished its sandbox.
fn make(
    sandbox: &Sandbox,
    listener: OwnedFd,
    connection: OwnedFd,
    null: OwnedFd,
    parameters: Parameters,
) -> Result<(Child, Vec<OwnedFd>), Refusal> {
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(Refusal::kernel("make a socket pair"))?;
    let mut namespaces = ThreadNameSpaceType::MOUNT;
    if sandbox.user.is_none() {
        namespaces |= sandbox.namespaces();
    }
    let hands = Hands { listener, connection, null, parameters, report: theirs };
    // The closure owns the descriptors: the child takes them, the seed lets go of them.
    let child = fork(namespaces, move || {
        close_all_but(&hands.all());
        hands.keep(sandbox)
    })
    .map_err(Refusal::kernel("make the keeper's process"))?;
    let report = receive_report(&ours)?;
    Ok((child, report))
}

/// What the keeper says once it has furnished its sandbox: the namespaces, or why not.
fn receive_report(socket: &OwnedFd) -> Result<Vec<OwnedFd>, Refusal> {
    let ended = || Refusal::Malformed { reason: "the keeper ended while it was made".to_owned() };
    let mut buffer = vec![0; PACKET_MAX];
    let received = Assembler::default()
        .receive(socket.as_fd(), &mut buffer)
        .map_err(Refusal::kernel("hear from the keeper"))?;
    let Received::Message(message) = received else { return Err(ended()) };
    let result: Result<(), Refusal> = serde_json::from_slice(&message.body).map_err(|_| ended())?;
    result.map(|()| message.fds)
}

/// What a keeper is born with.
struct Hands {
    listener: OwnedFd,
    connection: OwnedFd,
    null: OwnedFd,
    parameters: Parameters,
    report: OwnedFd,
}

impl Hands {
    fn all(&self) -> [BorrowedFd<'_>; 5] {
        [
            self.listener.as_fd(),
            self.connection.as_fd(),
            self.null.as_fd(),
            self.parameters.as_fd(),
            self.report.as_fd(),
        ]
    }

    /// The life of a keeper.
    fn keep(self, sandbox: &Sandbox) -> u8 {
        let _ = rustix::thread::set_name(c"minke-keeper");
        let _ = setsid();
        default_signal(Signal::CHILD);
        let Self { listener, connection, null, parameters, report } = self;
        // Nothing of ours may get one of these numbers: a panic would write into it.
        let standard = [dup2_stdin(&null), dup2_stdout(&null), dup2_stderr(&null)];
        let furnished = standard
            .into_iter()
            .collect::<io::Result<()>>()
            .map_err(Refusal::kernel("install /dev/null"))
            .and_then(|()| sandbox.furnish(&parameters));
        drop(parameters);
        let (result, namespaces, user) = match furnished {
            Ok((namespaces, user)) => (Ok(()), namespaces, user),
            Err(refusal) => (Err(refusal), Vec::new(), None),
        };
        let told = send(report.as_fd(), &result, namespaces);
        if result.is_err() || told.is_err() {
            return 1;
        }
        drop(report);
        let max_version = sandbox.max_version;
        pod::run(Birthright { listener, connection, null, user, max_version })
    }
}

fn send(socket: BorrowedFd<'_>, body: &impl Serialize, fds: Vec<OwnedFd>) -> io::Result<()> {
    let body = serde_json::to_vec(body).map_err(|_| io::Errno::INVAL)?;
    for packet in wire::packets(&body, fds)? {
        wire::send(socket, &packet)?;
    }
    Ok(())
}
