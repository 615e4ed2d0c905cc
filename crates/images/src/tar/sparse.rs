use std::io::BufRead;

use super::header::{BLOCK, Header, number};
use super::pax::decimal;
use super::{TarError, end_of_file};

const MOST_SEGMENTS: usize = 64 << 10;

/// Bytes that stand together in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// What PAX headers say about a sparse file (GNU tar, "Storing Sparse Files": formats 0.0, 0.1
/// and 1.0).
#[derive(Debug, Clone, Default)]
pub(super) struct PaxSparse {
    pub(super) name: Option<Vec<u8>>,
    major: Option<u64>,
    size: Option<u64>,
    offset: Option<u64>,
    segments: Vec<Segment>,
    is_sparse: bool,
}

pub(super) enum Map {
    None,
    /// The real size and the segments.
    Known(u64, Vec<Segment>),
    /// The real size; the segments stand at the beginning of the content.
    InContent(u64),
}

impl PaxSparse {
    pub(super) fn set(&mut self, name: &[u8], value: &[u8]) -> Result<(), TarError> {
        self.is_sparse = true;
        match name {
            b"name" => self.name = Some(value.to_vec()),
            b"major" => self.major = Some(decimal(value)?),
            b"size" | b"realsize" => self.size = Some(decimal(value)?),
            b"offset" => self.offset = Some(decimal(value)?),
            b"numbytes" => {
                let offset = self.offset.take();
                let offset = offset.ok_or(TarError::Malformed("a sparse segment has no offset"))?;
                push(&mut self.segments, Segment { offset, length: decimal(value)? })?;
            }
            b"map" => {
                let mut numbers = value.split(|byte| *byte == b',');
                while let Some(offset) = numbers.next().filter(|text| !text.is_empty()) {
                    let length = numbers
                        .next()
                        .ok_or(TarError::Malformed("a sparse segment has no length"))?;
                    let (offset, length) = (decimal(offset)?, decimal(length)?);
                    push(&mut self.segments, Segment { offset, length })?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn map(self, stored: u64) -> Result<Map, TarError> {
        if !self.is_sparse {
            return Ok(Map::None);
        }
        let size = self.size.unwrap_or(stored);
        match self.major {
            Some(1) => Ok(Map::InContent(size)),
            None | Some(0) => Ok(Map::Known(size, self.segments)),
            Some(_) => Err(TarError::Malformed("a sparse file has an unknown format")),
        }
    }
}

fn push(segments: &mut Vec<Segment>, segment: Segment) -> Result<(), TarError> {
    if segments.len() >= MOST_SEGMENTS {
        return Err(TarError::TooLarge("a sparse file has more than 65536 segments"));
    }
    segments.push(segment);
    Ok(())
}

/// A file without holes.
pub(super) fn whole(length: u64) -> Vec<Segment> {
    if length == 0 { Vec::new() } else { vec![Segment { offset: 0, length }] }
}

/// GNU's old format: entries in the header and in blocks that follow it.
pub(super) fn old_gnu<R: BufRead>(
    header: &Header,
    reader: &mut R,
) -> Result<(u64, Vec<Segment>), TarError> {
    let mut segments = Vec::new();
    let (entries, mut more, size) = header.old_sparse()?;
    old_entries(entries, &mut segments)?;
    while more {
        let mut block = [0; BLOCK];
        reader.read_exact(&mut block)?;
        old_entries(&block[..504], &mut segments)?;
        more = block[504] != 0;
    }
    Ok((size, segments))
}

fn old_entries(entries: &[u8], segments: &mut Vec<Segment>) -> Result<(), TarError> {
    for entry in entries.chunks_exact(24) {
        if entry[0] == 0 && entry[12] == 0 {
            break;
        }
        let part = |field| {
            u64::try_from(number(field)?)
                .map_err(|_| TarError::Malformed("a sparse segment is out of range"))
        };
        push(segments, Segment { offset: part(&entry[..12])?, length: part(&entry[12..])? })?;
    }
    Ok(())
}

/// Format 1.0: decimal lines at the beginning of the content, filled up to a block. Gives how much
/// of the content they took.
pub(super) fn in_content<R: BufRead>(
    reader: &mut R,
    content: u64,
) -> Result<(u64, Vec<Segment>), TarError> {
    let mut limited = Counted { reader, left: content, taken: 0 };
    let count: usize = limited.line()?;
    let mut segments = Vec::new();
    for _ in 0..count {
        let (offset, length) = (limited.line()?, limited.line()?);
        push(&mut segments, Segment { offset, length })?;
    }
    let filler = limited.taken.next_multiple_of(BLOCK as u64) - limited.taken;
    for _ in 0..filler {
        limited.byte()?;
    }
    Ok((limited.taken, segments))
}

struct Counted<'a, R> {
    reader: &'a mut R,
    left: u64,
    taken: u64,
}

impl<R: BufRead> Counted<'_, R> {
    fn byte(&mut self) -> Result<u8, TarError> {
        let mut byte = [0];
        if self.left == 0 {
            return Err(end_of_file());
        }
        self.reader.read_exact(&mut byte)?;
        self.left -= 1;
        self.taken += 1;
        Ok(byte[0])
    }

    fn line<T: std::str::FromStr>(&mut self) -> Result<T, TarError> {
        let mut line = Vec::with_capacity(20);
        loop {
            match self.byte()? {
                b'\n' => return decimal(&line),
                _ if line.len() >= 20 => {
                    return Err(TarError::Malformed("a sparse map cannot be read"));
                }
                byte => line.push(byte),
            }
        }
    }
}

/// Segments must ascend without overlap, lie within the file and take exactly the content.
pub(super) fn check(segments: &[Segment], size: u64, content: u64) -> Result<(), TarError> {
    let bad = TarError::Malformed("a sparse map contradicts itself");
    let (mut end, mut total) = (0_u64, 0_u64);
    for segment in segments {
        let Some(next) = segment.offset.checked_add(segment.length) else { return Err(bad) };
        if segment.offset < end || next > size {
            return Err(bad);
        }
        end = next;
        // Cannot overflow: the segments lie apart from each other within `size`.
        total += segment.length;
    }
    if total != content || size > i64::MAX as u64 {
        return Err(bad);
    }
    Ok(())
}
