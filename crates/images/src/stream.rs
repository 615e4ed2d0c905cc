//! A layer on its way from the network to the disk, in one pass.
//!
//! ```text
//! registry ─▶ [Bytes] ─▶ thread 1: keep, hash, inflate ─▶ [buffers] ─▶ thread 2: hash, unpack
//!  (async)    bounded                                      bounded
//! ```
//!
//! Both queues are short: whoever is slow slows down the others, and a layer never sits in memory.

use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::sync::mpsc as threads;

use bytes::Bytes;
use model::Digest;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

const BUFFER: usize = 256 << 10;
/// Buffers between the two threads.
const DEPTH: usize = 6;
/// Pieces between the network and thread 1; a piece is what one read of a socket gave.
pub(crate) const PIECES: usize = 64;

/// The compressed bytes of a layer: first those that are on disk, then those that come.
#[derive(Debug)]
pub(crate) struct Source {
    disk: Option<io::Take<File>>,
    network: Option<mpsc::Receiver<Bytes>>,
    /// What is being handed out, from `at` on.
    buffer: Vec<u8>,
    at: usize,
    /// Where what comes from the network is kept.
    keep: Option<File>,
    hash: Sha256,
    taken: u64,
    size: u64,
}

impl Source {
    /// All of a file.
    pub(crate) fn of_file(file: File, size: u64) -> Self {
        Self {
            disk: Some(file.take(size)),
            network: None,
            buffer: Vec::new(),
            at: 0,
            keep: None,
            hash: Sha256::new(),
            taken: 0,
            size,
        }
    }

    /// The first `length` bytes of `begun`, and then what the network brings, which is kept too.
    pub(crate) fn of_network(
        begun: File,
        length: u64,
        keep: File,
        network: mpsc::Receiver<Bytes>,
        size: u64,
    ) -> Self {
        let begun = Self::of_file(begun, length);
        Self { network: Some(network), keep: Some(keep), size, ..begun }
    }

    /// Reads what is left and gives the digest of everything.
    pub(crate) fn finish(mut self) -> io::Result<(Digest, u64)> {
        loop {
            let length = self.fill_buf()?.len();
            if length == 0 {
                return Ok((Digest::from_sha256(self.hash.finalize().into()), self.taken));
            }
            self.consume(length);
        }
    }

    /// Fills the buffer with what comes next; leaves it empty at the end.
    fn refill(&mut self) -> io::Result<()> {
        self.at = 0;
        self.buffer.clear();
        if let Some(disk) = &mut self.disk {
            Read::take(&mut *disk, BUFFER as u64).read_to_end(&mut self.buffer)?;
            if self.buffer.is_empty() {
                self.disk = None;
            }
        }
        if self.buffer.is_empty()
            && let Some(network) = &mut self.network
        {
            // Large pieces: inflating copies its window, and writing locks the file, once for each.
            while self.buffer.len() < BUFFER
                && let Some(piece) = network.blocking_recv()
            {
                self.buffer.extend_from_slice(&piece);
            }
            if let Some(keep) = &mut self.keep {
                keep.write_all(&self.buffer)?;
            }
        }
        self.hash.update(&self.buffer);
        self.taken += self.buffer.len() as u64;
        if self.buffer.is_empty() && self.taken < self.size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}

impl Read for Source {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let length = self.fill_buf()?.read(out)?;
        self.consume(length);
        Ok(length)
    }
}

impl BufRead for Source {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at >= self.buffer.len() {
            self.refill()?;
        }
        Ok(&self.buffer[self.at..])
    }

    fn consume(&mut self, length: usize) {
        self.at += length;
    }
}

/// Undoes whatever compression the first bytes show: gzip, zstd or none.
pub(crate) fn decompress<'a, R: BufRead + 'a>(mut source: R) -> io::Result<Box<dyn Read + 'a>> {
    let mut start = Vec::with_capacity(4);
    (&mut source).take(4).read_to_end(&mut start)?;
    let is_gzip = start.starts_with(&[0x1f, 0x8b]);
    // A frame, or one that is to be skipped.
    let is_zstd = start == [0x28, 0xb5, 0x2f, 0xfd]
        || (start.len() == 4 && start[0] & 0xf0 == 0x50 && start[1..] == [0x2a, 0x4d, 0x18]);
    let source = Read::chain(io::Cursor::new(start), source);
    if is_gzip {
        Ok(Box::new(flate2::bufread::MultiGzDecoder::new(source)))
    } else if is_zstd {
        Ok(Box::new(zstd::stream::read::Decoder::with_buffer(source)?))
    } else {
        Ok(Box::new(source))
    }
}

/// The writing end of the queue between the threads.
#[derive(Debug)]
pub(crate) struct Inflater {
    full: threads::SyncSender<Vec<u8>>,
    empty: threads::Receiver<Vec<u8>>,
}

/// The reading end; hashes all that it hands out.
#[derive(Debug)]
pub(crate) struct Inflated {
    full: threads::Receiver<Vec<u8>>,
    empty: threads::Sender<Vec<u8>>,
    buffer: Vec<u8>,
    at: usize,
    ended: bool,
    hash: Sha256,
}

/// Makes the queue between the threads.
pub(crate) fn queue() -> (Inflater, Inflated) {
    let (full, receive_full) = threads::sync_channel(DEPTH);
    let (empty, receive_empty) = threads::channel();
    let inflated = Inflated {
        full: receive_full,
        empty,
        buffer: Vec::new(),
        at: 0,
        ended: false,
        hash: Sha256::new(),
    };
    (Inflater { full, empty: receive_empty }, inflated)
}

impl Inflater {
    /// Passes on all that `reader` gives. An empty buffer marks the end, so that the other side can
    /// tell it from a failure. Stops early, without an error, when the other side is gone.
    pub(crate) fn run(self, reader: &mut dyn Read) -> io::Result<()> {
        loop {
            let mut buffer = self.empty.try_recv().unwrap_or_default();
            buffer.resize(BUFFER, 0);
            let mut length = 0;
            let mut ended = false;
            while length < buffer.len() && !ended {
                match reader.read(&mut buffer[length..]) {
                    Ok(0) => ended = true,
                    Ok(read) => length += read,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            buffer.truncate(length);
            if length > 0 && self.full.send(buffer).is_err() {
                return Ok(());
            }
            if ended {
                let _ = self.full.send(Vec::new());
                return Ok(());
            }
        }
    }
}

impl Inflated {
    /// Reads what is left and gives the digest of everything, which is the diff id.
    pub(crate) fn finish(mut self) -> io::Result<Digest> {
        loop {
            let length = self.fill_buf()?.len();
            if length == 0 {
                return Ok(Digest::from_sha256(self.hash.finalize().into()));
            }
            self.consume(length);
        }
    }
}

impl Read for Inflated {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let length = self.fill_buf()?.read(out)?;
        self.consume(length);
        Ok(length)
    }
}

impl BufRead for Inflated {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at >= self.buffer.len() && !self.ended {
            let next = self.full.recv().map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
            self.ended = next.is_empty();
            self.hash.update(&next);
            let _ = self.empty.send(std::mem::replace(&mut self.buffer, next));
            self.at = 0;
        }
        Ok(&self.buffer[self.at..])
    }

    fn consume(&mut self, length: usize) {
        self.at += length;
    }
}
