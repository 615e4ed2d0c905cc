use super::*;

/// A header block with a right checksum.
fn block(name: &str, flag: u8, size: u64, change: impl FnOnce(&mut [u8; BLOCK])) -> Vec<u8> {
    let mut block = [0; BLOCK];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..107].copy_from_slice(b"0000644");
    block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    block[156] = flag;
    block[257..265].copy_from_slice(b"ustar\x0000");
    change(&mut block);
    block[148..156].copy_from_slice(b"        ");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block.to_vec()
}

fn with_content(mut header: Vec<u8>, content: &[u8]) -> Vec<u8> {
    header.extend_from_slice(content);
    header.resize(header.len().next_multiple_of(BLOCK), 0);
    header
}

fn file(name: &str, content: &[u8]) -> Vec<u8> {
    with_content(block(name, b'0', content.len() as u64, |_| {}), content)
}

fn record(key: &str, value: &str) -> String {
    let bare = key.len() + value.len() + 3;
    let mut length = bare;
    while length != bare + length.to_string().len() {
        length = bare + length.to_string().len();
    }
    format!("{length} {key}={value}\n")
}

fn pax(flag: u8, records: &[(&str, &str)]) -> Vec<u8> {
    let text: String = records.iter().map(|(key, value)| record(key, value)).collect();
    with_content(block("pax", flag, text.len() as u64, |_| {}), text.as_bytes())
}

/// All entries with their content, holes filled.
fn read(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
    let mut archive = Archive::new(bytes);
    let mut found = Vec::new();
    while let Some(entry) = archive.entry()? {
        let mut content = vec![0; entry.size as usize];
        for segment in &entry.segments {
            let mut at = segment.offset as usize;
            let end = at + segment.length as usize;
            while at < end {
                let piece = archive.fill()?;
                let length = piece.len().min(end - at);
                content[at..at + length].copy_from_slice(&piece[..length]);
                archive.consume(length);
                at += length;
            }
        }
        found.push((entry, content));
    }
    Ok(found)
}

fn one(parts: &[Vec<u8>]) -> (Entry, Vec<u8>) {
    let mut found = read(&parts.concat()).unwrap();
    assert_eq!(found.len(), 1);
    found.remove(0)
}

#[test]
fn plain_entries_follow_each_other_and_unread_content_is_skipped() {
    let bytes = [file("a", b"one"), file("b", b""), file("c/", b""), vec![0; 1024]].concat();
    let found = read(&bytes).unwrap();
    let kinds: Vec<_> = found.iter().map(|(entry, _)| entry.kind).collect();
    assert_eq!(kinds, [Kind::File, Kind::File, Kind::Directory]);
    assert_eq!(found[0].1, b"one");
    let mut archive = Archive::new(&bytes[..]);
    archive.entry().unwrap();
    assert_eq!(archive.entry().unwrap().unwrap().path, b"b");
}

#[test]
fn a_prefix_belongs_to_ustar_names_alone() {
    let prefixed = |magic: &'static [u8]| {
        block("name", b'5', 0, move |block| {
            block[345..351].copy_from_slice(b"prefix");
            block[257..265].copy_from_slice(magic);
        })
    };
    assert_eq!(one(&[prefixed(b"ustar\x0000")]).0.path, b"prefix/name");
    assert_eq!(one(&[prefixed(b"ustar  \0")]).0.path, b"name");
}

#[test]
fn long_names_come_from_gnu_and_pax_headers() {
    let long = "d/".repeat(200) + "f";
    let gnu = |flag| {
        with_content(block("././@LongLink", flag, 402, |_| {}), format!("{long}\0").as_bytes())
    };
    let link = || block("short", b'2', 0, |block| block[157..160].copy_from_slice(b"x/y"));
    let (entry, _) = one(&[gnu(b'L'), gnu(b'K'), link()]);
    assert_eq!((entry.path, entry.link), (long.clone().into_bytes(), long.clone().into_bytes()));
    let (entry, _) = one(&[pax(b'x', &[("path", &long), ("linkpath", "t")]), link()]);
    assert_eq!((entry.path, entry.link), (long.into_bytes(), b"t".to_vec()));
}

#[test]
fn pax_records_override_the_header_and_global_ones_last() {
    let global =
        pax(b'g', &[("uid", "7"), ("gid", "3000000"), ("path", "not/this"), ("comment", "x")]);
    let local = pax(b'x', &[("uid", "8"), ("mtime", "3.5"), ("SCHILY.xattr.user.a", "b")]);
    let found = read(&[global, local, file("a", b""), file("b", b"")].concat()).unwrap();
    let (first, second) = (&found[0].0, &found[1].0);
    assert_eq!((first.uid, first.gid, first.mtime), (8, 3_000_000, (3, 500_000_000)));
    assert_eq!(first.xattrs, [(b"user.a".to_vec(), b"b".to_vec())]);
    assert_eq!((second.uid, second.gid, second.path.as_slice()), (7, 3_000_000, &b"b"[..]));
    assert!(second.xattrs.is_empty());
}

#[test]
fn a_size_from_pax_counts() {
    let header = block("big", b'0', 0, |_| {});
    let (entry, content) = one(&[pax(b'x', &[("size", "3")]), with_content(header, b"abc")]);
    assert_eq!((entry.size, content), (3, b"abc".to_vec()));
}

fn sparse_content() -> Vec<u8> {
    let mut content = vec![0; 100];
    content[10..13].copy_from_slice(b"abc");
    content[50..52].copy_from_slice(b"de");
    content
}

#[test]
fn all_sparse_formats_give_the_same_file() {
    let old = block("s", b'S', 5, |block| {
        for (at, number) in [(386, 10), (398, 3), (410, 50), (422, 2), (483, 100)] {
            block[at..at + 11].copy_from_slice(format!("{number:011o}").as_bytes());
        }
    });
    let data = |name: &str, content: &[u8]| file(name, content);
    let v00 = pax(
        b'x',
        &[
            ("GNU.sparse.size", "100"),
            ("GNU.sparse.numblocks", "2"),
            ("GNU.sparse.offset", "10"),
            ("GNU.sparse.numbytes", "3"),
            ("GNU.sparse.offset", "50"),
            ("GNU.sparse.numbytes", "2"),
        ],
    );
    let v01 = pax(
        b'x',
        &[("GNU.sparse.name", "s"), ("GNU.sparse.size", "100"), ("GNU.sparse.map", "10,3,50,2")],
    );
    let v10 = pax(
        b'x',
        &[
            ("GNU.sparse.major", "1"),
            ("GNU.sparse.minor", "0"),
            ("GNU.sparse.name", "s"),
            ("GNU.sparse.realsize", "100"),
        ],
    );
    let mut in_content = b"2\n10\n3\n50\n2\n".to_vec();
    in_content.resize(BLOCK, 0);
    in_content.extend_from_slice(b"abcde");
    for parts in [
        vec![with_content(old, b"abcde")],
        vec![v00, data("s", b"abcde")],
        vec![v01, data("GNUSparseFile.1/s", b"abcde")],
        vec![v10, data("GNUSparseFile.1/s", &in_content)],
    ] {
        let (entry, content) = one(&parts);
        assert_eq!(entry.path, b"s");
        assert_eq!(content, sparse_content());
    }
}

#[test]
fn sparse_maps_that_lie_are_refused() {
    for map in ["10,3,11,2", "10,3,5,2", "99,5", "10,5000000000000000000,20,5", "10,4", "0,5,", "1"]
    {
        let header = pax(b'x', &[("GNU.sparse.size", "100"), ("GNU.sparse.map", map)]);
        let map_is_bad = read(&[header, file("s", b"abcde")].concat()).is_err();
        assert_eq!(map_is_bad, map != "0,5,", "{map}");
    }
    let huge = pax(b'x', &[("GNU.sparse.major", "1"), ("GNU.sparse.realsize", "9")]);
    let count = file("s", b"99999999999999999\n1\n");
    assert!(read(&[huge, count].concat()).is_err());
}

#[test]
fn huge_headers_are_refused_before_they_are_read() {
    for flag in [b'x', b'g', b'L', b'K'] {
        let header = block("h", flag, (1 << 33) - 1, |_| {});
        assert!(matches!(read(&header), Err(TarError::TooLarge(_))), "{}", flag as char);
    }
}

#[test]
fn damage_is_an_error_and_a_missing_end_is_not() {
    let whole = file("a", b"one");
    assert!(read(&whole).is_ok());
    // Even the padding of the last entry may be missing.
    assert!(read(&whole[..BLOCK + 3]).is_ok());
    assert!(read(&whole[..BLOCK + 2]).is_err());
    assert!(read(&whole[..BLOCK - 1]).is_err());
    let mut changed = whole;
    changed[0] = b'b';
    assert!(matches!(read(&changed), Err(TarError::Malformed(_))));
    assert!(read(&block("a", b'Q', 0, |_| {})).is_err());
}

#[test]
fn devices_have_numbers_and_links_no_content() {
    let device = block("d", b'4', 0, |block| {
        block[329..336].copy_from_slice(b"0000010");
        block[337..344].copy_from_slice(b"0000003");
    });
    let (entry, _) = one(&[device]);
    assert_eq!((entry.kind, entry.device), (Kind::BlockDevice, (8, 3)));
    // Some writers give a hard link the size of its target, and no content.
    let link = block("l", b'1', 99, |block| block[157] = b't');
    assert_eq!(read(&[link, file("a", b"x")].concat()).unwrap().len(), 2);
}

#[test]
fn no_bytes_make_the_reader_panic() {
    bolero::check!().for_each(|bytes: &[u8]| {
        let _ = drain(bytes);
    });
}

/// Random bytes rarely get past a checksum; these do.
#[test]
fn no_content_behind_right_headers_makes_the_reader_panic() {
    type Part = (u8, u16, [u8; 24], Vec<u8>);
    bolero::check!().with_type::<Vec<Part>>().for_each(|parts| {
        let mut bytes = Vec::new();
        for (flag, at, change, content) in parts {
            let flag = b"0S5xgLK123"[usize::from(*flag) % 10];
            let at = usize::from(*at) % (BLOCK - change.len());
            let header = block("n", flag, content.len() as u64, |block| {
                block[at..at + change.len()].copy_from_slice(change);
            });
            bytes.extend(with_content(header, content));
            let text = String::from_utf8_lossy(content);
            let keys = ["GNU.sparse.map", "GNU.sparse.major", "size", "mtime", "GNU.sparse.size"];
            bytes.extend(pax(b'x', &[(keys[usize::from(flag) % keys.len()], &text)]));
        }
        let _ = drain(&bytes);
    });
}

/// Reads everything without keeping it: a sparse file may claim any size.
fn drain(bytes: &[u8]) -> Result<(), TarError> {
    let mut archive = Archive::new(bytes);
    while let Some(entry) = archive.entry()? {
        assert!(entry.segments.iter().all(|segment| segment.offset + segment.length <= entry.size));
        while !archive.fill()?.is_empty() {
            archive.consume(1);
        }
    }
    Ok(())
}
