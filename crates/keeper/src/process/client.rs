//! A client that is attached to a container's streams.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::{self, Errno};

use crate::process::line::Channel;
use crate::process::poller::{Kind, Poller, Token};

/// How long a client may take nothing before it is cut off.
const STALL: Duration = Duration::from_secs(10);
/// The most that is read from a client at once.
const INPUT_CHUNK: usize = 4096;

/// The pipes that the daemon made for a client: the keeper's ends.
#[derive(Debug)]
pub(crate) struct ClientEnds {
    pub(crate) input: Option<OwnedFd>,
    pub(crate) outputs: [Option<OwnedFd>; 2],
}

/// An attached client.
#[derive(Debug)]
pub(crate) struct Client {
    owner: u32,
    pub(crate) number: u32,
    input: Option<OwnedFd>,
    outputs: [Option<ClientOutput>; 2],
}

#[derive(Debug)]
struct ClientOutput {
    fd: OwnedFd,
    /// What the pipe has not taken: a chunk at most, as nothing is read meanwhile.
    pending: Vec<u8>,
    /// Since when it has taken nothing.
    stalled: Option<Instant>,
    /// The container's stream has ended: closed when nothing is pending.
    ended: bool,
}

/// What a client sent.
pub(crate) enum Taken<'a> {
    Bytes(&'a [u8]),
    Nothing,
    End,
}

impl Client {
    /// `readable`: whether its input is wanted now.
    pub(crate) fn new(
        owner: u32,
        number: u32,
        ends: ClientEnds,
        readable: bool,
        poller: &Poller,
    ) -> io::Result<Self> {
        let mut client = Self { owner, number, input: ends.input, outputs: [None, None] };
        for (channel, fd) in Channel::BOTH.into_iter().zip(ends.outputs) {
            let Some(fd) = fd else { continue };
            io::ioctl_fionbio(&fd, true)?;
            poller.closing(&fd, client.output_token(channel))?;
            let output = ClientOutput { fd, pending: Vec::new(), stalled: None, ended: false };
            client.outputs[channel.index()] = Some(output);
        }
        if let Some(input) = &client.input {
            io::ioctl_fionbio(input, true)?;
            if readable {
                poller.readable(input, client.input_token())?;
            }
        }
        Ok(client)
    }

    fn output_token(&self, channel: Channel) -> Token {
        Token::part(Kind::ClientOutput, self.owner, self.number << 1 | channel.index() as u32)
    }

    fn input_token(&self) -> Token {
        Token::part(Kind::ClientInput, self.owner, self.number)
    }

    /// The number and the channel of an output's event.
    pub(crate) fn parts(sub: u32) -> (u32, Channel) {
        (sub >> 1, Channel::of(sub))
    }

    /// Whether all its pipes are closed.
    pub(crate) fn has_gone(&self) -> bool {
        self.input.is_none() && self.outputs.iter().all(Option::is_none)
    }

    /// Whether it has not yet taken what it was given.
    pub(crate) fn is_behind(&self, channel: Channel) -> bool {
        self.outputs[channel.index()].as_ref().is_some_and(|output| !output.pending.is_empty())
    }

    /// When it is cut off if it takes nothing.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let stalled = self.outputs.iter().flatten().filter_map(|output| output.stalled);
        stalled.min().map(|since| since + STALL)
    }

    /// Gives it output.
    pub(crate) fn give(&mut self, channel: Channel, bytes: &[u8], poller: &Poller) {
        let token = self.output_token(channel);
        let Some(output) = &mut self.outputs[channel.index()] else { return };
        let written = match io::write(&output.fd, bytes) {
            Ok(written) => written,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(_) => return self.close_output(channel, poller),
        };
        if written < bytes.len() {
            output.pending.extend_from_slice(&bytes[written..]);
            output.stalled = Some(Instant::now());
            if poller.writable(&output.fd, token).is_err() {
                self.close_output(channel, poller);
            }
        }
    }

    /// Its pipe can take more, or has closed.
    pub(crate) fn on_writable(&mut self, channel: Channel, poller: &Poller) {
        let token = self.output_token(channel);
        let Some(output) = &mut self.outputs[channel.index()] else { return };
        if output.pending.is_empty() {
            // Only its closing was watched.
            return self.close_output(channel, poller);
        }
        match io::write(&output.fd, &output.pending) {
            Ok(written) => drop(output.pending.drain(..written)),
            Err(Errno::AGAIN | Errno::INTR) => return,
            Err(_) => return self.close_output(channel, poller),
        }
        if !output.pending.is_empty() {
            output.stalled = Some(Instant::now());
            return;
        }
        output.pending = Vec::new();
        output.stalled = None;
        if output.ended || poller.closing(&output.fd, token).is_err() {
            self.close_output(channel, poller);
        }
    }

    /// The container's stream has ended. A client that can see no more output is not asked for
    /// input either.
    pub(crate) fn end(&mut self, channel: Channel, poller: &Poller) {
        if let Some(output) = &mut self.outputs[channel.index()] {
            output.ended = true;
            if output.pending.is_empty() {
                self.close_output(channel, poller);
            }
        }
    }

    fn close_output(&mut self, channel: Channel, poller: &Poller) {
        if let Some(output) = self.outputs[channel.index()].take() {
            poller.ignore(&output.fd);
        }
    }

    /// Closes all its pipes.
    pub(crate) fn cut_off(&mut self, poller: &Poller) {
        self.close_input(poller);
        Channel::BOTH.into_iter().for_each(|channel| self.close_output(channel, poller));
    }

    /// Ends its input: nobody will read it.
    pub(crate) fn close_input(&mut self, poller: &Poller) {
        if let Some(input) = self.input.take() {
            poller.ignore(&input);
        }
    }

    /// Reads what it has sent.
    pub(crate) fn take<'a>(&mut self, scratch: &'a mut [u8], poller: &Poller) -> Taken<'a> {
        let Some(input) = &self.input else { return Taken::Nothing };
        let length = scratch.len().min(INPUT_CHUNK);
        match io::read(input, &mut scratch[..length]) {
            Ok(0) => {}
            Ok(length) => return Taken::Bytes(&scratch[..length]),
            Err(Errno::AGAIN | Errno::INTR) => return Taken::Nothing,
            Err(_) => {}
        }
        self.close_input(poller);
        Taken::End
    }

    /// Leaves its input where it is.
    pub(crate) fn pause_input(&self, poller: &Poller) {
        if let Some(input) = &self.input {
            poller.ignore(input);
        }
    }

    /// Wants its input again.
    pub(crate) fn resume_input(&mut self, poller: &Poller) {
        let token = self.input_token();
        if self.input.as_ref().is_some_and(|input| poller.readable(input, token).is_err()) {
            self.close_input(poller);
        }
    }
}
