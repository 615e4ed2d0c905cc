//! A container's standard streams: into the log, out to attached clients, and back.
//!
//! ```text
//!   stdout, stderr or terminal --> lines --> writer process --> log file
//!                               \-> a pipe for each attached client
//!   stdin or terminal <-- pipes of attached clients
//! ```
//!
//! Whatever cannot take more stops the reading, of this container alone. A client that takes
//! nothing for ten seconds is cut off: it must not stop a container for ever.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::{self, Errno};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::process::client::{Client, ClientEnds, Taken};
use crate::process::line::{Channel, Lines};
use crate::process::log::Log;
use crate::process::poller::{Kind, Poller, Token};
use crate::protocol::TerminalSize;

/// How long an ended process's output may be silent before it counts as complete, though somebody
/// still holds it open.
const QUIET: Duration = Duration::from_millis(100);
/// How long the output of an ended process is waited for at most.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the child's side of a container without a terminal is made of.
#[derive(Debug)]
pub(crate) struct Ends {
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// A container's standard streams.
#[derive(Debug)]
pub(crate) struct Streams {
    owner: u32,
    outputs: [Option<Output>; 2],
    input: Option<Input>,
    input_once: bool,
    clients: Vec<Client>,
    next_client: u32,
    /// The container's side of its terminal: as long as it is open, a program that closes and opens
    /// its own does not end the stream.
    peer: Option<OwnedFd>,
    pub(crate) log: Option<Log>,
    drain: Option<Drain>,
}

#[derive(Debug)]
struct Output {
    fd: OwnedFd,
    lines: Lines,
    /// What was read and the log has not taken.
    held: Vec<u8>,
    watched: bool,
}

#[derive(Debug)]
struct Input {
    fd: OwnedFd,
    /// What a client has sent and the container has not taken.
    pending: Vec<u8>,
}

/// The process has ended, and its last words are collected.
#[derive(Debug)]
struct Drain {
    since: Instant,
    last_word: Instant,
}

impl Streams {
    pub(crate) fn new(owner: u32, log: Option<OwnedFd>, input_once: bool) -> Self {
        Self {
            owner,
            outputs: [None, None],
            input: None,
            input_once,
            clients: Vec::new(),
            next_client: 0,
            peer: None,
            log: log.map(|file| Log::new(owner, file)),
            drain: None,
        }
    }

    /// Makes the pipes of a container without a terminal, and gives the container's ends.
    pub(crate) fn open_pipes(
        &mut self,
        with_input: bool,
        null: &OwnedFd,
        poller: &Poller,
    ) -> io::Result<Ends> {
        let stdin = if with_input {
            let (theirs, ours) = pipe()?;
            self.set_input(ours)?;
            theirs
        } else {
            duplicate(null)?
        };
        let (ours_out, stdout) = pipe()?;
        let (ours_err, stderr) = pipe()?;
        self.set_output(Channel::Stdout, ours_out, poller)?;
        self.set_output(Channel::Stderr, ours_err, poller)?;
        Ok(Ends { stdin, stdout, stderr })
    }

    /// Takes the terminal of a container that has one.
    pub(crate) fn set_terminal(
        &mut self,
        terminal: OwnedFd,
        with_input: bool,
        poller: &Poller,
    ) -> io::Result<()> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        self.peer = Some(ioctl_tiocgptpeer(&terminal, flags)?);
        if with_input {
            self.set_input(duplicate(&terminal)?)?;
        }
        self.set_output(Channel::Stdout, terminal, poller)
    }

    fn set_input(&mut self, fd: OwnedFd) -> io::Result<()> {
        io::ioctl_fionbio(&fd, true)?;
        self.input = Some(Input { fd, pending: Vec::new() });
        Ok(())
    }

    fn set_output(&mut self, channel: Channel, fd: OwnedFd, poller: &Poller) -> io::Result<()> {
        io::ioctl_fionbio(&fd, true)?;
        poller.readable(&fd, Token::part(Kind::Output, self.owner, channel.index() as u32))?;
        let output = Output { fd, lines: Lines::new(channel), held: Vec::new(), watched: true };
        self.outputs[channel.index()] = Some(output);
        Ok(())
    }

    /// Changes the terminal's size; false where there is no terminal.
    pub(crate) fn resize(&self, size: TerminalSize) -> io::Result<bool> {
        let (Some(_), Some(output)) = (&self.peer, &self.outputs[0]) else { return Ok(false) };
        let TerminalSize { columns, rows } = size;
        let size = Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&output.fd, size)?;
        Ok(true)
    }

    /// Ends the container's standard input. A terminal has no end of its own: it stays.
    pub(crate) fn close_input(&mut self, poller: &Poller) {
        if self.peer.is_some() {
            return;
        }
        if let Some(input) = self.input.take() {
            poller.ignore(&input.fd);
        }
        self.clients.iter_mut().for_each(|client| client.close_input(poller));
    }

    /// Adds a client, which gets what is written from now on.
    pub(crate) fn attach(&mut self, mut ends: ClientEnds, poller: &Poller) -> io::Result<()> {
        // What has ended already ends for the client at once.
        for (end, output) in ends.outputs.iter_mut().zip(&self.outputs) {
            if output.is_none() {
                *end = None;
            }
        }
        if self.input.is_none() {
            ends.input = None;
        }
        let number = self.next_client;
        self.next_client += 1;
        let readable = self.input.as_ref().is_some_and(|input| input.pending.is_empty());
        self.clients.push(Client::new(self.owner, number, ends, readable, poller)?);
        self.clients.retain(|client| !client.has_gone());
        Ok(())
    }

    /// Output has come, or its end.
    pub(crate) fn on_output(&mut self, channel: Channel, scratch: &mut [u8], poller: &Poller) {
        if self.is_blocked(channel) {
            return;
        }
        let Some(output) = &mut self.outputs[channel.index()] else { return };
        let length = match io::read(&output.fd, &mut *scratch) {
            Ok(0) | Err(Errno::IO) => return self.end_output(channel, poller),
            Ok(length) => length,
            Err(_) => return,
        };
        if let Some(drain) = &mut self.drain {
            drain.last_word = Instant::now();
        }
        let mut text = &scratch[..length];
        for client in &mut self.clients {
            client.give(channel, text, poller);
        }
        self.clients.retain(|client| !client.has_gone());
        if let Some(log) = &mut self.log {
            log.take(&mut output.lines, &mut text, poller);
            output.held.extend_from_slice(text);
        }
        self.watch_outputs(poller);
    }

    fn end_output(&mut self, channel: Channel, poller: &Poller) {
        let Some(mut output) = self.outputs[channel.index()].take() else { return };
        poller.ignore(&output.fd);
        if let Some(log) = &mut self.log {
            log.end(&mut output.lines, poller);
        }
        self.clients.iter_mut().for_each(|client| client.end(channel, poller));
        self.clients.retain(|client| !client.has_gone());
        self.watch_outputs(poller);
    }

    fn is_blocked(&self, channel: Channel) -> bool {
        self.log.as_ref().is_some_and(Log::is_behind)
            || self.outputs[channel.index()].as_ref().is_some_and(|output| !output.held.is_empty())
            || self.clients.iter().any(|client| client.is_behind(channel))
    }

    /// Goes on with what was held back, and watches those outputs that can be read.
    fn watch_outputs(&mut self, poller: &Poller) {
        if let Some(log) = &mut self.log {
            for output in self.outputs.iter_mut().flatten() {
                let mut text = &output.held[..];
                log.take(&mut output.lines, &mut text, poller);
                let left = text.len();
                if left == 0 {
                    output.held = Vec::new();
                } else {
                    output.held.drain(..output.held.len() - left);
                }
            }
        }
        for channel in Channel::BOTH {
            let wanted = !self.is_blocked(channel);
            let Some(output) = &mut self.outputs[channel.index()] else { continue };
            if wanted == output.watched {
                continue;
            }
            output.watched = wanted;
            if !wanted {
                poller.ignore(&output.fd);
                continue;
            }
            let token = Token::part(Kind::Output, self.owner, channel.index() as u32);
            if poller.readable(&output.fd, token).is_err() {
                // Nobody can read it any more: the container must learn that.
                self.outputs[channel.index()] = None;
            }
        }
    }

    /// A client's pipe can take more, or has closed.
    pub(crate) fn on_client_output(&mut self, sub: u32, poller: &Poller) {
        let (number, channel) = Client::parts(sub);
        if let Some(client) = self.clients.iter_mut().find(|client| client.number == number) {
            client.on_writable(channel, poller);
        }
        self.clients.retain(|client| !client.has_gone());
        self.watch_outputs(poller);
    }

    /// A client has sent something, or has ended.
    pub(crate) fn on_client_input(&mut self, number: u32, scratch: &mut [u8], poller: &Poller) {
        let Some(client) = self.clients.iter_mut().find(|client| client.number == number) else {
            return;
        };
        match client.take(scratch, poller) {
            Taken::Bytes(bytes) => self.write_input(bytes, poller),
            Taken::End if self.input_once => self.close_input(poller),
            Taken::End | Taken::Nothing => {}
        }
        self.clients.retain(|client| !client.has_gone());
    }

    fn write_input(&mut self, bytes: &[u8], poller: &Poller) {
        let Some(input) = &mut self.input else { return };
        let written = match io::write(&input.fd, bytes) {
            Ok(written) => written,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            // Nobody reads there any more.
            Err(_) => return self.lose_input(poller),
        };
        if written == bytes.len() {
            return;
        }
        input.pending.extend_from_slice(&bytes[written..]);
        if poller.writable(&input.fd, Token::new(Kind::Input, self.owner)).is_err() {
            return self.lose_input(poller);
        }
        self.clients.iter().for_each(|client| client.pause_input(poller));
    }

    fn lose_input(&mut self, poller: &Poller) {
        if let Some(input) = self.input.take() {
            poller.ignore(&input.fd);
        }
        self.clients.iter_mut().for_each(|client| client.close_input(poller));
        self.clients.retain(|client| !client.has_gone());
    }

    /// The container takes input again, or nobody reads there any more.
    pub(crate) fn on_input(&mut self, poller: &Poller) {
        let Some(input) = &mut self.input else { return };
        match io::write(&input.fd, &input.pending) {
            Ok(written) => drop(input.pending.drain(..written)),
            Err(Errno::AGAIN | Errno::INTR) => return,
            Err(_) => return self.lose_input(poller),
        }
        if input.pending.is_empty() {
            input.pending = Vec::new();
            poller.ignore(&input.fd);
            self.clients.iter_mut().for_each(|client| client.resume_input(poller));
            self.clients.retain(|client| !client.has_gone());
        }
    }

    /// A log writer has told something, or takes lines again.
    pub(crate) fn on_writer(&mut self, number: u32, poller: &Poller) {
        if let Some(log) = &mut self.log {
            log.on_writer(number, poller);
        }
        self.watch_outputs(poller);
    }

    /// A log writer has ended.
    pub(crate) fn on_writer_end(&mut self, number: u32, poller: &Poller) {
        if let Some(log) = &mut self.log {
            log.on_writer_end(number, poller);
        }
        self.watch_outputs(poller);
    }

    /// The container's process has ended: collect its last words.
    pub(crate) fn start_drain(&mut self) {
        let now = Instant::now();
        self.drain = Some(Drain { since: now, last_word: now });
        self.peer = None;
    }

    /// Whether the last words are in the log, or will not come.
    pub(crate) fn is_drained(&mut self, now: Instant) -> bool {
        let Some(deadline) = self.drain_deadline() else { return true };
        if self.outputs.iter().all(Option::is_none) {
            let Some(log) = &mut self.log else { return true };
            log.finish();
            if log.is_complete() {
                return true;
            }
        }
        deadline <= now
    }

    fn drain_deadline(&self) -> Option<Instant> {
        let drain = self.drain.as_ref()?;
        let last = drain.since + PATIENCE;
        let open = self.outputs.iter().any(Option::is_some);
        let blocked = Channel::BOTH.into_iter().any(|channel| self.is_blocked(channel));
        Some(if open && !blocked { last.min(drain.last_word + QUIET) } else { last })
    }

    /// The end was told: what comes now goes on in the background.
    pub(crate) fn end_drain(&mut self) {
        self.drain = None;
    }

    /// When to look at it again though nothing happens.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let clients = self.clients.iter().filter_map(Client::deadline).min();
        let log = self.log.as_ref().and_then(Log::deadline);
        [self.drain_deadline(), clients, log].into_iter().flatten().min()
    }

    /// Does what is due.
    pub(crate) fn expire(&mut self, now: Instant, poller: &Poller) {
        for client in &mut self.clients {
            if client.deadline().is_some_and(|deadline| deadline <= now) {
                client.cut_off(poller);
            }
        }
        self.clients.retain(|client| !client.has_gone());
        if let Some(log) = &mut self.log {
            log.expire(now);
        }
        self.watch_outputs(poller);
    }

    /// Closes everything; the log's writers still write what they have. Descriptors are taken out
    /// of the poller first: a child that is being made may hold copies, which would keep them there.
    pub(crate) fn close(&mut self, poller: &Poller) {
        self.end_drain();
        self.peer = None;
        for output in self.outputs.iter_mut().filter_map(Option::take) {
            poller.ignore(&output.fd);
        }
        if let Some(input) = self.input.take() {
            poller.ignore(&input.fd);
        }
        self.clients.drain(..).for_each(|mut client| client.cut_off(poller));
        if let Some(log) = &mut self.log {
            log.close();
        }
    }

    /// Whether nothing is left to do for its log.
    pub(crate) fn is_complete(&self) -> bool {
        self.log.as_ref().is_none_or(Log::is_complete)
    }
}

/// A pipe: its reading end, then its writing end.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
}

pub(crate) fn duplicate(fd: impl AsFd) -> io::Result<OwnedFd> {
    io::fcntl_dupfd_cloexec(fd, 3)
}
