use std::io::{self, BufRead, Write};

use model::Digest;
use sha2::Digest as _;

/// Where bytes go whose digest alone matters.
#[derive(Default)]
pub(super) struct Hasher {
    hash: sha2::Sha256,
}

impl Hasher {
    pub(super) fn finish(self) -> Digest {
        Digest::from_sha256(self.hash.finalize().into())
    }
}

impl Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hash.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes ustar archives of plain files with short names.
pub(super) struct Writer<W> {
    pub(super) out: W,
}

impl<W: Write> Writer<W> {
    pub(super) fn file(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        self.content(name, content.len() as u64, content).map(drop)
    }

    /// Gives the digest of what was written.
    pub(super) fn content(
        &mut self,
        name: &str,
        size: u64,
        content: impl BufRead,
    ) -> io::Result<Digest> {
        self.out.write_all(&header(name, size))?;
        let mut hasher = Hasher::default();
        let mut content = content.take(size);
        let mut written = 0;
        loop {
            let piece = content.fill_buf()?;
            if piece.is_empty() {
                break;
            }
            hasher.write_all(piece)?;
            self.out.write_all(piece)?;
            let length = piece.len();
            content.consume(length);
            written += length as u64;
        }
        if written != size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let padding = (size.next_multiple_of(512) - size) as usize;
        self.out.write_all(&[0; 512][..padding])?;
        Ok(hasher.finish())
    }

    pub(super) fn end(&mut self) -> io::Result<()> {
        self.out.write_all(&[0; 1024])?;
        self.out.flush()
    }
}

fn header(name: &str, size: u64) -> [u8; 512] {
    let mut block = [0; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..108].copy_from_slice(b"0000644\0");
    block[108..116].copy_from_slice(b"0000000\0");
    block[116..124].copy_from_slice(b"0000000\0");
    if size < 1 << 33 {
        block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    } else {
        block[124] = 0x80;
        block[128..136].copy_from_slice(&size.to_be_bytes());
    }
    block[136..148].copy_from_slice(b"00000000000\0");
    block[148..156].copy_from_slice(b"        ");
    block[156] = b'0';
    block[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}
