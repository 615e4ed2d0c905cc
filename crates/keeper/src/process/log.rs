//! A container's log as its keeper sees it: lines on their way to a writer process.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::{self, Errno};

use crate::process::line::{Clock, Lines};
use crate::process::poller::{Kind, Poller, Token};
use crate::process::writer::{Dropped, PACKET, Writer};
use crate::protocol::LogStats;

/// How long a writer process is kept without work.
const IDLE: Duration = Duration::from_secs(10);

/// A container's log.
#[derive(Debug)]
pub(crate) struct Log {
    owner: u32,
    file: OwnedFd,
    clock: Clock,
    /// Whole lines that no writer has taken yet: a packet's worth, a little more at most.
    outgoing: Vec<u8>,
    writer: Option<Running>,
    /// Writers of files that were exchanged meanwhile; they end by themselves.
    retired: Vec<Running>,
    next_writer: u32,
    stats: LogStats,
    /// Lines dropped, and not told to the daemon yet.
    untold: Option<Dropped>,
    /// Nothing more comes: the writer ends when it has everything.
    closed: bool,
}

#[derive(Debug)]
struct Running {
    number: u32,
    writer: Writer,
    /// It was told to end; no more lines go to it.
    finishing: bool,
    last_used: Instant,
}

impl Log {
    pub(crate) fn new(owner: u32, file: OwnedFd) -> Self {
        Self {
            owner,
            file,
            clock: Clock::new(),
            outgoing: Vec::new(),
            writer: None,
            retired: Vec::new(),
            next_writer: 0,
            stats: LogStats::default(),
            untold: None,
            closed: false,
        }
    }

    /// Whether lines wait for the writer, so that no more should be read.
    pub(crate) fn is_behind(&self) -> bool {
        !self.outgoing.is_empty()
    }

    pub(crate) fn stats(&self) -> LogStats {
        self.stats
    }

    /// Lines dropped since this was last asked.
    pub(crate) fn take_dropped(&mut self) -> Option<Dropped> {
        self.untold.take()
    }

    /// Whether [`Log::take_dropped`] would give something.
    pub(crate) fn has_dropped(&self) -> bool {
        self.untold.is_some()
    }

    /// Takes bytes from the front of `text`, all of them unless the writer is behind.
    pub(crate) fn take(&mut self, lines: &mut Lines, text: &mut &[u8], poller: &Poller) {
        self.clock.tick();
        while !text.is_empty() && !self.is_behind() {
            let limit = PACKET - crate::process::line::LINE_MAX;
            self.stats.lines += lines.take(text, &self.clock, &mut self.outgoing, limit);
            self.flush(poller);
        }
    }

    /// Takes the unfinished line of a channel that has ended.
    pub(crate) fn end(&mut self, lines: &mut Lines, poller: &Poller) {
        self.clock.tick();
        self.stats.lines += lines.end(&self.clock, &mut self.outgoing);
        self.flush(poller);
    }

    /// Hands over what waits, if the writer takes it.
    pub(crate) fn flush(&mut self, poller: &Poller) {
        if self.outgoing.is_empty() {
            return;
        }
        if self.writer.is_none()
            && let Err(errno) = self.start_writer(poller)
        {
            self.drop_outgoing(errno);
            return;
        }
        let Some(running) = self.writer.as_mut().filter(|running| !running.finishing) else {
            // Its end is announced; the lines go to the next one then, behind what it still has.
            return;
        };
        running.last_used = Instant::now();
        match running.writer.send(&self.outgoing) {
            Ok(()) => {
                // Given back rather than cleared: most containers are silent most of the time.
                self.outgoing = Vec::new();
                if self.closed {
                    self.finish();
                }
            }
            Err(Errno::AGAIN) => {
                let token = Token::part(Kind::WriterReport, self.owner, running.number);
                if let Err(errno) = poller.both(running.writer.socket(), token) {
                    self.drop_outgoing(errno);
                }
            }
            // It is gone, and what it had with it. Its end is announced too; a new one follows.
            Err(_) => running.finishing = true,
        }
    }

    fn start_writer(&mut self, poller: &Poller) -> io::Result<()> {
        let writer = Writer::start(self.file.as_fd())?;
        let number = self.next_writer;
        self.next_writer += 1;
        let token = |kind| Token::part(kind, self.owner, number);
        poller.readable(writer.socket(), token(Kind::WriterReport))?;
        poller.readable(writer.pidfd(), token(Kind::WriterEnd))?;
        let last_used = Instant::now();
        self.writer = Some(Running { number, writer, finishing: false, last_used });
        Ok(())
    }

    fn drop_outgoing(&mut self, errno: Errno) {
        let lines = self.outgoing.iter().filter(|byte| **byte == b'\n').count() as u64;
        self.outgoing = Vec::new();
        self.count(Some(Dropped { lines, errno: errno.raw_os_error() }));
    }

    fn count(&mut self, dropped: Option<Dropped>) {
        let Some(dropped) = dropped else { return };
        self.stats.dropped += dropped.lines;
        let before = self.untold.map_or(0, |untold| untold.lines);
        self.untold = Some(Dropped { lines: before + dropped.lines, ..dropped });
    }

    fn running(&self, number: u32) -> Option<&Running> {
        self.writer.iter().chain(&self.retired).find(|running| running.number == number)
    }

    /// A writer has reported, or can take lines again.
    pub(crate) fn on_writer(&mut self, number: u32, poller: &Poller) {
        let Some(running) = self.running(number) else { return };
        let (dropped, open) = running.writer.reports();
        let token = Token::part(Kind::WriterReport, self.owner, number);
        if !open || poller.readable(running.writer.socket(), token).is_err() {
            // Its end is announced by its pidfd.
            poller.ignore(running.writer.socket());
        }
        self.count(dropped);
        self.flush(poller);
    }

    /// A writer has ended.
    pub(crate) fn on_writer_end(&mut self, number: u32, poller: &Poller) {
        let Some(running) = self.running(number) else { return };
        let (dropped, _) = running.writer.reports();
        poller.ignore(running.writer.socket());
        poller.ignore(running.writer.pidfd());
        running.writer.reap();
        self.count(dropped);
        self.retired.retain(|running| running.number != number);
        if self.writer.as_ref().is_some_and(|running| running.number == number) {
            self.writer = None;
        }
        self.flush(poller);
    }

    /// Nothing more comes.
    pub(crate) fn close(&mut self) {
        self.closed = true;
        self.finish();
    }

    /// Lets the writer end once it has written everything. While lines wait it is still needed.
    pub(crate) fn finish(&mut self) {
        if self.is_behind() {
            return;
        }
        self.retire();
    }

    fn retire(&mut self) {
        if let Some(running) = self.writer.as_mut().filter(|running| !running.finishing) {
            running.finishing = true;
            running.writer.finish();
        }
    }

    /// Whether every line has been written or dropped.
    pub(crate) fn is_complete(&self) -> bool {
        self.outgoing.is_empty() && self.writer.is_none() && self.retired.is_empty()
    }

    /// From now on lines go to `file`; what the old file's writer has, it still writes there. Gives
    /// the number of that writer: the old file is complete when it has ended.
    pub(crate) fn reopen(&mut self, file: OwnedFd, poller: &Poller) -> Option<u32> {
        self.file = file;
        self.retire();
        let old = self.writer.take();
        let number = old.as_ref().map(|running| running.number);
        self.retired.extend(old);
        self.flush(poller);
        number
    }

    /// When to look at it again though nothing happens.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.writer.as_ref().filter(|running| !running.finishing).map(|r| r.last_used + IDLE)
    }

    /// Lets a writer go that has had nothing to do.
    pub(crate) fn expire(&mut self, now: Instant) {
        if self.outgoing.is_empty() && self.deadline().is_some_and(|deadline| deadline <= now) {
            self.finish();
        }
    }
}
