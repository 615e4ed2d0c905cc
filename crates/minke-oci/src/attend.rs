//! Stays with a process until it ends: passes on signals, and what is typed and shown.

use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions, waitid};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};
use sys::signal::Signals;

use crate::failure::Failure;

/// What is kept of either direction at once.
const BUFFER: usize = 64 * 1024;

/// SIGWINCH: the caller's terminal has another size.
const WINDOW_CHANGED: i32 = 28;
/// SIGCHLD: nothing to the process.
const CHILD_ENDED: i32 = 17;
/// SIGURG: nothing to the process.
const URGENT: i32 = 23;

/// Waits for the end of a child. Gives its exit code: 128 and the number of the signal that ended it.
pub(crate) fn attend(
    process: &OwnedFd,
    signals: &Signals,
    terminal: Option<OwnedFd>,
) -> Result<u8, Failure> {
    let mut relay = terminal.map(Relay::begin).transpose()?;
    loop {
        let ended = {
            let mut polled =
                vec![PollFd::new(process, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
            if let Some(relay) = &relay {
                relay.watch(&mut polled);
            }
            match poll(&mut polled, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(Failure::kernel("wait for the process")(errno)),
            }
            !polled[0].revents().is_empty()
        };
        if let Some(relay) = &mut relay {
            relay.advance();
        }
        while let Some(number) = signals.next().map_err(Failure::kernel("read a signal"))? {
            match (number, &relay) {
                (WINDOW_CHANGED, Some(relay)) => relay.resize(),
                (CHILD_ENDED | URGENT, _) => {}
                // ESRCH: its end is about to be seen.
                _ => drop(sys::pidfd::send_signal(process, number)),
            }
        }
        if ended {
            if let Some(relay) = &mut relay {
                relay.finish();
            }
            return reap(process.as_fd());
        }
    }
}

/// The exit code of a child that has ended, or is about to. One that has asked to be traced is told
/// whenever it stops, too, whatever is asked for.
pub(crate) fn reap(process: BorrowedFd<'_>) -> Result<u8, Failure> {
    let wait = || waitid(WaitId::PidFd(process), WaitIdOptions::EXITED);
    let status = loop {
        let status = rustix::io::retry_on_intr(wait);
        let status = status.map_err(Failure::kernel("wait for the process"))?;
        let Some(status) = status else { return Ok(255) };
        if !status.trapped() {
            break status;
        }
    };
    let code = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 255,
    };
    Ok(u8::try_from(code).unwrap_or(255))
}

/// Between a terminal of a container and the caller's standard streams.
struct Relay {
    terminal: OwnedFd,
    /// How the caller's own terminal was, where it has one.
    before: Option<Termios>,
    /// What was typed and is not yet taken.
    typed: Vec<u8>,
    input_open: bool,
    output_open: bool,
}

impl Relay {
    fn begin(terminal: OwnedFd) -> Result<Self, Failure> {
        rustix::io::ioctl_fionbio(&terminal, true)
            .map_err(Failure::kernel("prepare the terminal"))?;
        let mut before = None;
        let stdin = io::stdin();
        if stdin.is_terminal() {
            let now = tcgetattr(&stdin).map_err(Failure::kernel("look at the terminal"))?;
            let mut raw = now.clone();
            raw.make_raw();
            tcsetattr(&stdin, OptionalActions::Now, &raw)
                .map_err(Failure::kernel("change the terminal"))?;
            before = Some(now);
        }
        Ok(Self { terminal, before, typed: Vec::new(), input_open: true, output_open: true })
    }

    fn watch<'a>(&'a self, polled: &mut Vec<PollFd<'a>>) {
        let mut wanted = PollFlags::empty();
        if self.output_open {
            wanted |= PollFlags::IN;
        }
        if !self.typed.is_empty() {
            wanted |= PollFlags::OUT;
        }
        if !wanted.is_empty() {
            polled.push(PollFd::new(&self.terminal, wanted));
        }
        if self.input_open && self.typed.is_empty() {
            polled.push(PollFd::from_borrowed_fd(stdin(), PollFlags::IN));
        }
    }

    /// Moves what there is, without waiting for more.
    fn advance(&mut self) {
        self.show();
        if self.input_open && self.typed.is_empty() && has_input() {
            let mut bytes = vec![0; BUFFER];
            match rustix::io::read(stdin(), &mut *bytes) {
                Ok(length) if length > 0 => self.typed.extend_from_slice(&bytes[..length]),
                _ => self.input_open = false,
            }
        }
        match rustix::io::write(&self.terminal, &self.typed) {
            Ok(length) => drop(self.typed.drain(..length)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            // Nobody will ever read it.
            Err(_) => self.typed.clear(),
        }
    }

    fn show(&mut self) {
        let mut bytes = vec![0; BUFFER];
        while self.output_open {
            match rustix::io::read(&self.terminal, &mut *bytes) {
                Ok(length) if length > 0 => {
                    let mut stdout = io::stdout();
                    let shown = stdout.write_all(&bytes[..length]).and_then(|()| stdout.flush());
                    // Whoever looked has gone; the process goes on.
                    self.output_open = shown.is_ok();
                }
                Err(Errno::AGAIN | Errno::INTR) => break,
                // EIO: all of the other ends are closed.
                _ => self.output_open = false,
            }
        }
    }

    fn finish(&mut self) {
        self.show();
    }

    fn resize(&self) {
        if let Ok(size) = tcgetwinsize(stdin()) {
            // A terminal that has gone needs no size.
            let _ = tcsetwinsize(&self.terminal, size);
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // There is nothing else to try.
            let _ = tcsetattr(stdin(), OptionalActions::Now, before);
        }
    }
}

fn stdin() -> BorrowedFd<'static> {
    rustix::stdio::stdin()
}

fn has_input() -> bool {
    let mut polled = [PollFd::from_borrowed_fd(stdin(), PollFlags::IN)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut polled, Some(&now)), Ok(count) if count > 0)
}
