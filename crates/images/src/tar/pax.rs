use super::TarError;
use super::sparse::PaxSparse;

/// The records of PAX extended headers that matter to us (POSIX.1-2001, `pax` interchange format).
#[derive(Debug, Clone, Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: PaxSparse,
}

impl Pax {
    /// Takes the records of one header, over what was there. An empty value takes a record back.
    pub(super) fn apply(&mut self, mut text: &[u8]) -> Result<(), TarError> {
        while !text.is_empty() {
            let record = record(text)?;
            text = record.rest;
            self.set(record.key, record.value)?;
        }
        Ok(())
    }

    /// What must not outlive one file when it stands in a global header.
    pub(super) fn forget_per_file(&mut self) {
        *self = Self { uid: self.uid, gid: self.gid, mtime: self.mtime, ..Self::default() };
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarError> {
        let text = (!value.is_empty()).then(|| value.to_vec());
        match key {
            b"path" => self.path = text,
            b"linkpath" => self.link = text,
            b"size" => self.size = optional(value)?,
            b"uid" => self.uid = optional(value)?,
            b"gid" => self.gid = optional(value)?,
            b"mtime" => self.mtime = if value.is_empty() { None } else { Some(time(value)?) },
            key => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.retain(|(known, _)| known != name);
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                } else if let Some(name) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.set(name, value)?;
                }
            }
        }
        Ok(())
    }
}

/// `"<length> <key>=<value>\n"`, and what follows it.
struct Record<'a> {
    key: &'a [u8],
    value: &'a [u8],
    rest: &'a [u8],
}

fn record(text: &[u8]) -> Result<Record<'_>, TarError> {
    let bad = TarError::Malformed("an extended header cannot be read");
    let Some(space) = text.iter().take(20).position(|byte| *byte == b' ') else { return Err(bad) };
    let Ok(length) = decimal::<usize>(&text[..space]) else { return Err(bad) };
    if length > text.len() || length < space + 2 {
        return Err(bad);
    }
    let (record, rest) = text.split_at(length);
    let Some(body) = record[space + 1..].strip_suffix(b"\n") else { return Err(bad) };
    match body.iter().position(|byte| *byte == b'=') {
        Some(at) if at > 0 => Ok(Record { key: &body[..at], value: &body[at + 1..], rest }),
        _ => Err(bad),
    }
}

pub(super) fn decimal<T: std::str::FromStr>(text: &[u8]) -> Result<T, TarError> {
    let digits = std::str::from_utf8(text).ok();
    let digits = digits.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    digits
        .and_then(|text| text.parse().ok())
        .ok_or(TarError::Malformed("a number of an extended header cannot be read"))
}

fn optional<T: std::str::FromStr>(value: &[u8]) -> Result<Option<T>, TarError> {
    if value.is_empty() { Ok(None) } else { decimal(value).map(Some) }
}

/// `[-]seconds[.fraction]`
fn time(value: &[u8]) -> Result<(i64, u32), TarError> {
    let bad = TarError::Malformed("a time of an extended header cannot be read");
    let text = std::str::from_utf8(value).map_err(|_| TarError::Malformed("a time is not text"))?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let (Ok(seconds), true) =
        (whole.parse::<i64>(), fraction.bytes().all(|byte| byte.is_ascii_digit()))
    else {
        return Err(bad);
    };
    let mut nanos = 0;
    for at in 0..9 {
        nanos = nanos * 10 + fraction.as_bytes().get(at).map_or(0, |digit| u32::from(digit - b'0'));
    }
    // Before 1970 the fraction counts away from zero; timespecs count upwards.
    match (text.starts_with('-') && nanos > 0, seconds.checked_sub(1)) {
        (true, Some(below)) => Ok((below, 1_000_000_000 - nanos)),
        (true, None) => Err(bad),
        (false, _) => Ok((seconds, nanos)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_taken_over_and_taken_back() {
        let mut pax = Pax::default();
        pax.apply(b"9 path=a\n13 mtime=1.5\n33 SCHILY.xattr.user.x=\0b=\n01234\n").unwrap();
        assert_eq!(pax.path.as_deref(), Some(&b"a"[..]));
        assert_eq!(pax.mtime, Some((1, 500_000_000)));
        assert_eq!(pax.xattrs, [(b"user.x".to_vec(), b"\0b=\n01234"[..].to_vec())]);
        pax.apply(b"8 path=\n").unwrap();
        assert_eq!(pax.path, None);
    }

    #[test]
    fn broken_records_are_refused() {
        for bad in [
            &b"5"[..],
            b"5 a",
            b"999 path=a\n",
            b"0 path=a\n",
            b"9 path=ab",
            b"4 =\n",
            b"5 ab\n",
            b"-9 path=a\n",
            b"10 size=-1\n",
            b"12 mtime=x.5\n",
            b"99999999999999999999999 a=b\n",
        ] {
            assert!(Pax::default().apply(bad).is_err(), "{:?}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn times_before_1970_keep_their_fraction() {
        assert_eq!(time(b"-1.25").unwrap(), (-2, 750_000_000));
        assert_eq!(time(b"-1").unwrap(), (-1, 0));
        assert_eq!(time(b"1.1234567899").unwrap(), (1, 123_456_789));
        assert!(time(b"-9223372036854775808.5").is_err());
    }
}
