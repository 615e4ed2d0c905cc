//! What a layer becomes on disk.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;

use crate::rig::{Blob, Head, Layer, Rig, push};

async fn unpack(layer: Layer) -> (Rig, PathBuf) {
    let rig = Rig::on_disk().await;
    let pushed = push(&rig.fake, "a:1", &[Blob::plain(layer)], "null");
    let image = rig.pull(&pushed.reference).await.unwrap();
    let path = image.layers().remove(0);
    (rig, path)
}

fn xattr(path: &PathBuf, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 100];
    let length = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    value.truncate(length);
    Some(value)
}

#[tokio::test]
async fn owners_modes_times_and_kinds_are_kept() {
    let layer = Layer::new()
        .entry("./", Head { flag: b'5', mode: 0o700, mtime: 5, ..Head::default() }, b"")
        .entry(
            "d/",
            Head { flag: b'5', mode: 0o1777, uid: 3, gid: 4, mtime: 10, ..Head::default() },
            b"",
        )
        .entry(
            "d/suid",
            Head { mode: 0o4755, uid: 5, gid: 6, mtime: 11, ..Head::default() },
            b"text",
        )
        .entry(
            "d/link",
            Head { flag: b'2', uid: 7, link: "/etc/passwd", mtime: 12, ..Head::default() },
            b"",
        )
        .entry("d/fifo", Head { flag: b'6', mode: 0o622, ..Head::default() }, b"")
        .entry(
            "d/null",
            Head { flag: b'3', mode: 0o666, device: (1, 3), uid: 9, ..Head::default() },
            b"",
        )
        .entry("d/disk", Head { flag: b'4', mode: 0o660, device: (8, 1), ..Head::default() }, b"")
        .hard_link("d/again", "./d/suid");
    let (_rig, root) = unpack(layer).await;
    let stat = |name: &str| fs::symlink_metadata(root.join(name)).unwrap();
    let mode = |name: &str| stat(name).permissions().mode() & 0o7777;
    assert_eq!((mode(""), stat("").mtime()), (0o700, 5));
    assert_eq!(
        (mode("d"), stat("d").uid(), stat("d").gid(), stat("d").mtime()),
        (0o1777, 3, 4, 10)
    );
    let suid = stat("d/suid");
    assert_eq!((mode("d/suid"), suid.uid(), suid.gid(), suid.mtime()), (0o4755, 5, 6, 11));
    assert_eq!((suid.ino(), suid.nlink()), (stat("d/again").ino(), 2));
    assert_eq!(fs::read_link(root.join("d/link")).unwrap(), PathBuf::from("/etc/passwd"));
    assert_eq!((stat("d/link").uid(), stat("d/link").mtime()), (7, 12));
    assert!(stat("d/fifo").file_type().is_fifo() && stat("d/disk").file_type().is_block_device());
    let null = stat("d/null");
    assert!(null.file_type().is_char_device());
    assert_eq!((null.rdev(), mode("d/null"), null.uid()), (rustix::fs::makedev(1, 3), 0o666, 9));
}

#[tokio::test]
async fn attributes_that_are_the_images_own_are_kept_and_those_of_overlayfs_are_not() {
    let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let layer = Layer::new()
        .pax(&[
            ("SCHILY.xattr.security.capability", capability),
            ("SCHILY.xattr.user.note", b"a\0b\n="),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/../../etc"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
        ])
        .entry("ping", Head { mode: 0o755, uid: 1, ..Head::default() }, b"x")
        .pax(&[("SCHILY.xattr.trusted.overlay.opaque", b"y"), ("SCHILY.xattr.user.note", b"d")])
        .dir("d");
    let (_rig, root) = unpack(layer).await;
    let ping = root.join("ping");
    assert_eq!(xattr(&ping, "security.capability").unwrap(), capability);
    assert_eq!(xattr(&ping, "user.note").unwrap(), b"a\0b\n=");
    assert_eq!(xattr(&root.join("d"), "user.note").unwrap(), b"d");
    for name in ["trusted.overlay.redirect", "trusted.overlay.opaque", "user.overlay.opaque"] {
        assert_eq!(xattr(&ping, name), None);
        assert_eq!(xattr(&root.join("d"), name), None);
    }
}

#[tokio::test]
async fn whiteouts_become_what_overlayfs_understands() {
    let layer = Layer::new()
        .file("d/.wh.gone", b"")
        .file("o/.wh..wh..opq", b"")
        .file(".wh..wh.plnk", b"")
        // Hidden and brought again, in either order.
        .file(".wh.new", b"")
        .file("new/x", b"")
        .file(".wh.file", b"")
        .file("file", b"text")
        .dir("kept")
        .file(".wh.kept", b"")
        .file("stays", b"text")
        .file(".wh.stays", b"")
        .file(".wh.dir", b"")
        .dir("dir");
    let (_rig, root) = unpack(layer).await;
    let gone = fs::symlink_metadata(root.join("d/gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    for opaque in ["o", "new", "kept", "dir"] {
        assert_eq!(xattr(&root.join(opaque), "trusted.overlay.opaque").unwrap(), b"y", "{opaque}");
    }
    assert_eq!(xattr(&root.join("d"), "trusted.overlay.opaque"), None);
    assert!(root.join("new/x").is_file());
    assert_eq!(fs::read(root.join("file")).unwrap(), b"text");
    assert_eq!(fs::read(root.join("stays")).unwrap(), b"text");
    let mut names: Vec<_> =
        fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["d", "dir", "file", "kept", "new", "o", "stays"]);
}

#[tokio::test]
async fn later_entries_replace_earlier_ones() {
    let layer = Layer::new()
        .dir("a")
        .file("a/deep/x", b"1")
        .file("a", b"now a file")
        .file("b", b"1")
        .entry("b", Head { mode: 0o600, ..Head::default() }, b"2")
        .symlink("c", "b")
        .file("c", b"not through the link")
        .file("d/keep", b"1")
        .entry("d", Head { flag: b'5', mode: 0o711, ..Head::default() }, b"")
        .file("e", b"itself")
        .hard_link("e", "e");
    let (rig, root) = unpack(layer).await;
    assert_eq!(fs::read(root.join("a")).unwrap(), b"now a file");
    assert_eq!(fs::read(root.join("b")).unwrap(), b"2");
    assert_eq!(fs::read(root.join("c")).unwrap(), b"not through the link");
    assert!(root.join("d/keep").exists());
    assert_eq!(fs::metadata(root.join("d")).unwrap().permissions().mode() & 0o777, 0o711);
    assert_eq!(fs::read(root.join("e")).unwrap(), b"itself");
    // What was replaced is not counted: root, a, b, c, d, d/keep and e, and three documents.
    assert_eq!(rig.store.usage().inodes, 7 + 3);
}

#[tokio::test]
async fn links_in_parents_stay_within_the_layer() {
    let layer = Layer::new()
        .symlink("abs", "/etc")
        .file("abs/one", b"1")
        .symlink("up", "../../../..")
        .file("up/two", b"2")
        .dir("usr")
        .symlink("lib", "usr/lib")
        .file("lib/three", b"3")
        .symlink("magic", "/proc/self/cwd")
        .file("magic/four", b"4")
        .file("/absolute/five", b"5");
    let (rig, root) = unpack(layer).await;
    assert_eq!(fs::read(root.join("etc/one")).unwrap(), b"1");
    assert_eq!(fs::read(root.join("two")).unwrap(), b"2");
    assert_eq!(fs::read(root.join("usr/lib/three")).unwrap(), b"3");
    assert_eq!(fs::read(root.join("absolute/five")).unwrap(), b"5");
    assert!(!PathBuf::from("/etc/one").exists() && !PathBuf::from("four").exists());
    let image = &rig.store.list()[0];
    assert_eq!(image.read_file("lib/three", 9).unwrap().unwrap(), b"3");
}

#[tokio::test]
async fn sparse_files_have_holes() {
    let megabyte = 1 << 20;
    let layer = Layer::new()
        .pax(&[
            ("GNU.sparse.name", b"s"),
            ("GNU.sparse.size", b"10485760"),
            ("GNU.sparse.map", b"1048576,4"),
        ])
        .file("GNUSparse/s", b"data");
    let (_rig, root) = unpack(layer).await;
    let content = fs::read(root.join("s")).unwrap();
    assert_eq!((content.len(), &content[megabyte..megabyte + 4]), (10 * megabyte, &b"data"[..]));
    assert!(fs::metadata(root.join("s")).unwrap().blocks() * 512 < megabyte as u64);
}

#[tokio::test]
async fn the_sum_is_close_to_what_the_disk_says() {
    let layer =
        Layer::new().dir("a").file("a/x", &vec![1; 10_000]).file("a/y", b"").symlink("l", "x");
    let (rig, root) = unpack(layer).await;
    let on_disk = |path: PathBuf| fs::symlink_metadata(path).unwrap().blocks() * 512;
    let names = ["", "a", "a/x", "a/y", "l"];
    let sum: u64 = names.iter().map(|name| on_disk(root.join(name))).sum();
    let blobs: u64 = rig
        .names("blobs/sha256")
        .iter()
        .map(|name| on_disk(rig.dir.path().join("images/blobs/sha256").join(name)))
        .sum();
    assert_eq!(rig.store.usage().bytes, sum + blobs);
    assert_eq!(rig.store.usage().inodes, (names.len() + rig.names("blobs/sha256").len()) as u64);
}
