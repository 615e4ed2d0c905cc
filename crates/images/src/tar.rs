//! Reads tar archives as image layers have them: ustar, PAX (global headers too), GNU long names and
//! all four sparse formats.
//!
//! Written for input by strangers: what is kept in memory for one entry is bounded (1 MiB for each
//! extended header, 64 Ki sparse segments), nothing panics, and what is not understood is an error
//! rather than a guess. Names are bytes, as they are on disk; whoever unpacks checks them.

mod header;
mod pax;
mod sparse;

use std::io::{self, BufRead, Read};

use header::{BLOCK, Header};
use pax::Pax;
pub(crate) use sparse::Segment;

/// An extended header may be this long.
const LONGEST_EXTENSION: u64 = 1 << 20;

/// Why an archive cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The stream below failed, or ended in the middle.
    #[error("the archive cannot be read")]
    Io(#[source] io::Error),
    /// A header that no tar program writes.
    #[error("the archive is malformed: {0}")]
    Malformed(&'static str),
    /// A bound of this reader.
    #[error("the archive is refused: {0}")]
    TooLarge(&'static str),
}

impl From<io::Error> for TarError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// What an entry makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Symlink,
    HardLink,
    CharDevice,
    BlockDevice,
    Fifo,
}

/// One entry, its extended headers applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    /// Permission bits, set-id and sticky bits.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds and nanoseconds since 1970.
    pub(crate) mtime: (i64, u32),
    /// The file's length, holes included.
    pub(crate) size: u64,
    /// Where the bytes of the archive go in the file; ascending, without overlap.
    pub(crate) segments: Vec<Segment>,
    /// The target of a link.
    pub(crate) link: Vec<u8>,
    /// Major and minor number.
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A tar stream. Call [`Archive::entry`] until it gives none; each entry's content is read, or
/// skipped, before the next.
#[derive(Debug)]
pub(crate) struct Archive<R> {
    reader: R,
    globals: Pax,
    /// Content of the current entry that was not read, and the padding behind it.
    content: u64,
    padding: u64,
}

impl<R: BufRead> Archive<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self { reader, globals: Pax::default(), content: 0, padding: 0 }
    }

    /// The stream below, behind the last header that was read.
    pub(crate) fn into_inner(self) -> R {
        self.reader
    }

    /// The next entry; none at the end of the archive.
    pub(crate) fn entry(&mut self) -> Result<Option<Entry>, TarError> {
        let mut pax = self.globals.clone();
        let (mut long_path, mut long_link) = (None, None);
        loop {
            self.skip_content()?;
            let Some(header) = self.header()? else { return Ok(None) };
            match header.type_flag() {
                b'x' | b'X' => pax.apply(&self.extension(&header)?)?,
                b'g' => {
                    let text = self.extension(&header)?;
                    self.globals.apply(&text)?;
                    self.globals.forget_per_file();
                    pax = self.globals.clone();
                }
                b'L' => long_path = Some(until_nul(self.extension(&header)?)),
                b'K' => long_link = Some(until_nul(self.extension(&header)?)),
                // A volume label names no file.
                b'V' => self.begin(header.size()?),
                _ => return self.finish(&header, pax, long_path, long_link).map(Some),
            }
        }
    }

    /// Content of the current entry, for the entry's segments one after the other; empty when all
    /// was read.
    pub(crate) fn fill(&mut self) -> Result<&[u8], TarError> {
        if self.content == 0 {
            return Ok(&[]);
        }
        let buffer = fill(&mut self.reader)?;
        if buffer.is_empty() {
            return Err(end_of_file());
        }
        let length = usize::try_from(self.content).unwrap_or(usize::MAX).min(buffer.len());
        Ok(&buffer[..length])
    }

    /// Marks `length` bytes of the last [`Archive::fill`] as read.
    pub(crate) fn consume(&mut self, length: usize) {
        self.reader.consume(length);
        self.content -= length as u64;
    }

    fn begin(&mut self, size: u64) {
        self.content = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
    }

    fn skip_content(&mut self) -> Result<(), TarError> {
        loop {
            let length = self.fill()?.len();
            if length == 0 {
                break;
            }
            self.consume(length);
        }
        // Some writers leave out the padding behind the last entry.
        while self.padding > 0 {
            let length = fill(&mut self.reader)?.len().min(self.padding as usize);
            if length == 0 {
                break;
            }
            self.reader.consume(length);
            self.padding -= length as u64;
        }
        self.padding = 0;
        Ok(())
    }

    /// The next header block; none at a block of zeros and at a clean end of the stream.
    fn header(&mut self) -> Result<Option<Header>, TarError> {
        let mut block = [0; BLOCK];
        if fill(&mut self.reader)?.is_empty() {
            return Ok(None);
        }
        self.reader.read_exact(&mut block)?;
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        Header::parse(block).map(Some)
    }

    fn extension(&mut self, header: &Header) -> Result<Vec<u8>, TarError> {
        let size = header.size()?;
        if size > LONGEST_EXTENSION {
            return Err(TarError::TooLarge("an extended header is longer than 1 MiB"));
        }
        self.begin(size);
        let mut content = Vec::new();
        (&mut self.reader).take(size).read_to_end(&mut content)?;
        if content.len() as u64 != size {
            return Err(end_of_file());
        }
        self.content = 0;
        Ok(content)
    }

    fn finish(
        &mut self,
        header: &Header,
        pax: Pax,
        long_path: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry, TarError> {
        let path = pax.sparse.name.clone().or(pax.path).or(long_path);
        let path = path.unwrap_or_else(|| header.path());
        let kind = header.kind(&path)?;
        let stored = match kind {
            Kind::File => pax.size.map_or_else(|| header.size(), Ok)?,
            // Nothing follows, whatever the size field says.
            _ => 0,
        };
        if stored > i64::MAX as u64 {
            return Err(TarError::Malformed("a size is out of range"));
        }
        let is_old_sparse = header.type_flag() == b'S';
        let (size, segments) = if kind != Kind::File {
            (0, Vec::new())
        } else if is_old_sparse {
            let map = sparse::old_gnu(header, &mut self.reader)?;
            self.begin(stored);
            map
        } else {
            self.begin(stored);
            match pax.sparse.map(stored)? {
                sparse::Map::None => (stored, sparse::whole(stored)),
                sparse::Map::Known(size, segments) => (size, segments),
                sparse::Map::InContent(size) => {
                    let (length, segments) = sparse::in_content(&mut self.reader, self.content)?;
                    self.content -= length;
                    (size, segments)
                }
            }
        };
        sparse::check(&segments, size, self.content)?;
        Ok(Entry {
            path,
            kind,
            mode: header.mode()? & 0o7777,
            uid: pax.uid.map_or_else(|| header.uid(), Ok)?,
            gid: pax.gid.map_or_else(|| header.gid(), Ok)?,
            mtime: pax.mtime.map_or_else(|| header.mtime().map(|seconds| (seconds, 0)), Ok)?,
            size,
            segments,
            link: pax.link.or(long_link).unwrap_or_else(|| header.link()),
            device: match kind {
                Kind::CharDevice | Kind::BlockDevice => header.device()?,
                _ => (0, 0),
            },
            xattrs: pax.xattrs,
        })
    }
}

/// As `fill_buf`, but goes on after a signal.
fn fill<R: BufRead>(reader: &mut R) -> io::Result<&[u8]> {
    loop {
        match reader.fill_buf() {
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    reader.fill_buf()
}

fn end_of_file() -> TarError {
    TarError::Io(io::ErrorKind::UnexpectedEof.into())
}

fn until_nul(mut text: Vec<u8>) -> Vec<u8> {
    if let Some(end) = text.iter().position(|byte| *byte == 0) {
        text.truncate(end);
    }
    text
}

#[cfg(test)]
mod tests;
