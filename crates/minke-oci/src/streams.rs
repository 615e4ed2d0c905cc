//! What a process reads from and writes to: the caller's own streams, descriptors that it passes on,
//! or a terminal whose other end goes to a socket or is relayed.

use std::fs;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use executor::plan::Window;
use executor::prepare::StdioSource;
use oci_spec::runtime::Process;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, connect, sendmsg, socket_with,
};
use rustix::termios::tcgetwinsize;
use sys::fork::inherited;

use crate::failure::Failure;
use crate::record::replace;

/// Where the other end of a terminal goes.
#[derive(Debug)]
pub(crate) enum Console {
    /// There is none.
    None,
    /// To whoever listens.
    Socket(OwnedFd),
    /// To the caller's own standard streams.
    Relay,
}

/// Finds out what the flags ask for, before anything is made. `stays` says that somebody is there to
/// relay.
pub(crate) fn console(
    terminal: bool,
    stays: bool,
    socket: Option<&Path>,
) -> Result<Console, Failure> {
    match (terminal, socket) {
        (true, Some(path)) => connect_to(path).map(Console::Socket),
        (true, None) if stays => Ok(Console::Relay),
        (true, None) => Err(Failure::Flag {
            flag: "a terminal without --console-socket",
            reason: "nobody would hold its other end; give a socket, or set process.terminal to \
                     false",
        }),
        (false, None) => Ok(Console::None),
        (false, Some(_)) => Err(Failure::Flag {
            flag: "--console-socket without a terminal",
            reason: "nothing would be sent there; leave it out, or set process.terminal to true",
        }),
    }
}

fn connect_to(path: &Path) -> Result<OwnedFd, Failure> {
    let address = SocketAddrUnix::new(path).map_err(Failure::file("connect to", path))?;
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(Failure::kernel("make a socket"))?;
    connect(&socket, &address).map_err(Failure::file("connect to", path))?;
    Ok(socket)
}

/// Sends a terminal's other end, with its name as runc's callers expect it.
pub(crate) fn send(socket: &OwnedFd, terminal: BorrowedFd<'_>) -> Result<(), Failure> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let files = [terminal];
    let pushed = control.push(SendAncillaryMessage::ScmRights(&files));
    debug_assert!(pushed, "the space is made for it");
    let text = [IoSlice::new(b"/dev/ptmx")];
    sendmsg(socket, &text, &mut control, SendFlags::NOSIGNAL)
        .map(drop)
        .map_err(Failure::kernel("send the terminal to --console-socket"))
}

/// The standard streams of a process.
pub(crate) fn stdio(process: &Process, console: &Console) -> Result<StdioSource, Failure> {
    if let Console::None = console {
        let copy = |file: BorrowedFd<'_>| {
            rustix::io::fcntl_dupfd_cloexec(file, 3)
                .map_err(Failure::kernel("pass on the standard streams"))
        };
        let files = [
            copy(std::io::stdin().as_fd())?,
            copy(std::io::stdout().as_fd())?,
            copy(std::io::stderr().as_fd())?,
        ];
        return Ok(StdioSource::Files(files));
    }
    let asked = process.console_size().map(|size| Window {
        rows: u16::try_from(size.height()).unwrap_or(u16::MAX),
        columns: u16::try_from(size.width()).unwrap_or(u16::MAX),
    });
    let own = || {
        let size = tcgetwinsize(std::io::stdin()).ok()?;
        Some(Window { rows: size.ws_row, columns: size.ws_col })
    };
    Ok(StdioSource::Terminal(asked.or_else(own).unwrap_or_default()))
}

/// The descriptors that the caller passes on, from 3 on: those of --preserve-fds, and before them
/// those of socket activation (LISTEN_FDS). Called before anything else is opened.
pub(crate) fn preserved(count: u32) -> Result<Preserved, Failure> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    let ours = number("LISTEN_PID").is_none_or(|pid| pid == std::process::id());
    let activated = number("LISTEN_FDS").filter(|_| ours).unwrap_or(0);
    let last = 3_u32.saturating_add(activated).saturating_add(count);
    let take = |number: u32| {
        let number = number.cast_signed();
        inherited(number).map_err(|_| Failure::NotOpen { number })
    };
    let files = (3..last).map(take).collect::<Result<_, _>>()?;
    Ok(Preserved { files, activated })
}

/// Descriptors that are passed on.
#[derive(Debug, Default)]
pub(crate) struct Preserved {
    /// In the order of their numbers.
    pub(crate) files: Vec<OwnedFd>,
    activated: u32,
}

impl Preserved {
    /// Tells the process of those that are its sockets.
    pub(crate) fn announce(&self, process: &mut Process) {
        if self.activated > 0 {
            let mut env = process.env().clone().unwrap_or_default();
            env.push(format!("LISTEN_FDS={}", self.activated));
            env.push("LISTEN_PID=1".to_owned());
            process.set_env(Some(env));
        }
    }
}

/// Writes a process's number to a file, which never holds half of it.
pub(crate) fn write_pid(path: Option<&PathBuf>, pid: i32) -> Result<(), Failure> {
    let Some(path) = path else { return Ok(()) };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = path.with_file_name(format!(".{name}.{}", std::process::id()));
    replace(path, &new, pid.to_string().as_bytes()).inspect_err(|_| {
        let _not_there = fs::remove_file(&new);
    })
}
