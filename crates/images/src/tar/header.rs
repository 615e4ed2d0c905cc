use super::{Kind, TarError};

pub(super) const BLOCK: usize = 512;

/// A header block whose checksum is right (POSIX.1-1988 ustar, and GNU's variant of it).
#[derive(Debug)]
pub(super) struct Header {
    block: [u8; BLOCK],
}

impl Header {
    pub(super) fn parse(block: [u8; BLOCK]) -> Result<Self, TarError> {
        let header = Self { block };
        let stated = header.number(148, 8)?;
        let as_blank = |at: usize, byte: u8| if (148..156).contains(&at) { b' ' } else { byte };
        let bytes = || block.iter().enumerate().map(|(at, byte)| as_blank(at, *byte));
        let unsigned: i64 = bytes().map(i64::from).sum();
        // Old programs summed signed characters.
        let signed: i64 = bytes().map(|byte| i64::from(byte as i8)).sum();
        if stated != unsigned && stated != signed {
            return Err(TarError::Malformed("a header's checksum is wrong"));
        }
        Ok(header)
    }

    pub(super) fn type_flag(&self) -> u8 {
        self.block[156]
    }

    pub(super) fn kind(&self, path: &[u8]) -> Result<Kind, TarError> {
        Ok(match self.type_flag() {
            // Before ustar a directory was a file whose name ends in a slash.
            0 | b'0' if path.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            _ => return Err(TarError::Malformed("an entry has an unknown type")),
        })
    }

    pub(super) fn path(&self) -> Vec<u8> {
        let name = self.text(0, 100);
        // GNU uses the prefix field for other things.
        let is_posix = &self.block[257..263] == b"ustar\0";
        match self.text(345, 155) {
            prefix if is_posix && !prefix.is_empty() => [prefix, name].join(&b'/'),
            _ => name.to_vec(),
        }
    }

    pub(super) fn link(&self) -> Vec<u8> {
        self.text(157, 100).to_vec()
    }

    pub(super) fn mode(&self) -> Result<u32, TarError> {
        Ok((self.number(100, 8)? & 0o7777) as u32)
    }

    pub(super) fn uid(&self) -> Result<u32, TarError> {
        u32::try_from(self.number(108, 8)?)
            .map_err(|_| TarError::Malformed("a uid is out of range"))
    }

    pub(super) fn gid(&self) -> Result<u32, TarError> {
        u32::try_from(self.number(116, 8)?)
            .map_err(|_| TarError::Malformed("a gid is out of range"))
    }

    pub(super) fn size(&self) -> Result<u64, TarError> {
        u64::try_from(self.number(124, 12)?)
            .map_err(|_| TarError::Malformed("a size is out of range"))
    }

    pub(super) fn mtime(&self) -> Result<i64, TarError> {
        self.number(136, 12)
    }

    pub(super) fn device(&self) -> Result<(u32, u32), TarError> {
        let part = |at| {
            u32::try_from(self.number(at, 8)?)
                .map_err(|_| TarError::Malformed("a device number is out of range"))
        };
        Ok((part(329)?, part(337)?))
    }

    /// The four sparse entries of GNU's old format, whether more blocks follow, and the real size.
    pub(super) fn old_sparse(&self) -> Result<(&[u8], bool, u64), TarError> {
        let size = u64::try_from(self.number(483, 12)?)
            .map_err(|_| TarError::Malformed("a size is out of range"))?;
        Ok((&self.block[386..482], self.block[482] != 0, size))
    }

    fn text(&self, at: usize, length: usize) -> &[u8] {
        let field = &self.block[at..at + length];
        &field[..field.iter().position(|byte| *byte == 0).unwrap_or(length)]
    }

    fn number(&self, at: usize, length: usize) -> Result<i64, TarError> {
        number(&self.block[at..at + length])
    }
}

/// A numeric field: octal digits between blanks, or, with the top bit set, a big-endian two's
/// complement number (GNU's base-256).
pub(super) fn number(field: &[u8]) -> Result<i64, TarError> {
    let bad = TarError::Malformed("a numeric field cannot be read");
    let Some((first, rest)) = field.split_first() else { return Err(bad) };
    if first & 0x80 != 0 {
        // Bit 6 is the sign.
        let mut value = i128::from(first & 0x7f);
        if first & 0x40 != 0 {
            value -= 0x80;
        }
        for byte in rest {
            value = (value << 8) | i128::from(*byte);
        }
        return i64::try_from(value).map_err(|_| bad);
    }
    let blank = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field.iter().position(|byte| !blank(byte)).unwrap_or(field.len());
    let digits = &field[start..];
    let end = digits.iter().position(blank).unwrap_or(digits.len());
    let mut value: i64 = 0;
    for byte in &digits[..end] {
        if !(b'0'..=b'7').contains(byte) {
            return Err(bad);
        }
        value = (value << 3) | i64::from(byte - b'0');
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numeric_fields_are_octal_or_base_256() {
        assert_eq!(number(b"0000644\0").unwrap(), 0o644);
        assert_eq!(number(b"  644 \0\0").unwrap(), 0o644);
        assert_eq!(number(b"\0\0\0\0\0\0\0\0").unwrap(), 0);
        assert_eq!(number(b"77777777").unwrap(), 0o77777777);
        assert_eq!(number(b"\x80\0\0\0\0\0\x01\x02").unwrap(), 258);
        assert_eq!(number(&[0xff; 12]).unwrap(), -1);
        assert!(number(b"0x12\0").is_err());
        assert!(number(b"8").is_err());
        assert!(number(&[0x80, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).is_err());
        assert!(number(b"").is_err());
    }
}
