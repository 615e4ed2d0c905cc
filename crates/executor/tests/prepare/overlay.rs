//! Overlays by every way that this kernel knows.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use executor::prepare::{Error, Overlay, OverlayWay, probe};
use rustix::fs::{AtFlags, CWD, FileType, Mode, XattrFlags};
use rustix::io::Errno;

use crate::isolated::{UserNamespace, isolated, read, write};

/// Those that work here: all that are older than the best one.
fn ways(scratch: &Path) -> Vec<OverlayWay> {
    let all = [OverlayWay::Descriptors, OverlayWay::Paths, OverlayWay::Attached];
    let best = probe(scratch).unwrap();
    let first = all.iter().position(|way| *way == best).unwrap();
    all[first..].to_vec()
}

/// `count` layers; each holds its number in `number`, and a file of its own.
fn layers(scratch: &Path, count: usize) -> Vec<PathBuf> {
    let layer = |index: usize| {
        // Names as long as those of real layers: a few of them do not fit into 255 bytes.
        let path = scratch.join("layers").join(format!("sha256-{index:064}"));
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("number"), index.to_string()).unwrap();
        fs::write(path.join(format!("own-{index}")), "").unwrap();
        path
    };
    (0..count).map(layer).collect()
}

fn writable(scratch: &Path, way: OverlayWay) -> PathBuf {
    let path = scratch.join(format!("container-{way:?}"));
    fs::create_dir_all(&path).unwrap();
    path
}

#[test]
fn probing_leaves_nothing_behind() {
    isolated("overlay::probing_leaves_nothing_behind", |scratch| {
        probe(scratch).unwrap();
        assert_eq!(fs::read_dir(scratch).unwrap().count(), 0);
        let error = probe(&scratch.join("missing")).unwrap_err();
        assert!(error.to_string().contains("/mnt/missing"), "{error}");
    });
}

#[test]
fn layers_lie_upon_one_another() {
    isolated("overlay::layers_lie_upon_one_another", |scratch| {
        let layers = layers(scratch, 3);
        rustix::fs::mknodat(
            CWD,
            layers[1].join("own-0"),
            FileType::CharacterDevice,
            Mode::empty(),
            0,
        )
        .unwrap();
        for layer in &layers[..2] {
            fs::create_dir(layer.join("dir")).unwrap();
            fs::write(layer.join("dir").join(layer.file_name().unwrap()), "").unwrap();
        }
        let opaque = layers[1].join("dir");
        rustix::fs::setxattr(&opaque, "trusted.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
        fs::set_permissions(&layers[2], fs::Permissions::from_mode(0o1751)).unwrap();
        chown(&layers[2], Some(7), Some(8)).unwrap();

        for way in ways(scratch) {
            let writable = writable(scratch, way);
            let overlay =
                Overlay { layers: &layers, writable: Some(&writable), id_map: None, subdir: None };
            let root = overlay.mount(way).unwrap();
            assert_eq!(read(&root, "number").unwrap(), "2", "{way:?}");
            assert_eq!(read(&root, "own-1").unwrap(), "");
            assert_eq!(read(&root, "own-0"), Err(Errno::NOENT), "{way:?}: a whiteout hides");
            let dir = rustix::fs::Dir::read_from(
                rustix::fs::openat(&root, "dir", rustix::fs::OFlags::RDONLY, Mode::empty())
                    .unwrap(),
            );
            let names = dir
                .unwrap()
                .filter(|entry| !entry.as_ref().unwrap().file_name().to_bytes().starts_with(b"."));
            assert_eq!(names.count(), 1, "{way:?}: an opaque directory hides what is below");
            let stat = rustix::fs::statat(&root, "", AtFlags::EMPTY_PATH).unwrap();
            assert_eq!((stat.st_uid, stat.st_gid, stat.st_mode & 0o7777), (7, 8, 0o1751));
            write(&root, "new").unwrap();
            assert!(writable.join("upper/new").exists(), "{way:?}");
            assert!(!layers[2].join("new").exists());
        }
    });
}

#[test]
fn five_hundred_layers_are_no_limit() {
    isolated("overlay::five_hundred_layers_are_no_limit", |scratch| {
        let layers = layers(scratch, 500);
        for (way, count) in ways(scratch).into_iter().flat_map(|way| [(way, 64), (way, 500)]) {
            let writable = scratch.join(format!("container-{way:?}-{count}"));
            fs::create_dir(&writable).unwrap();
            let overlay = Overlay {
                layers: &layers[..count],
                writable: Some(&writable),
                id_map: None,
                subdir: None,
            };
            let root = overlay.mount(way).unwrap();
            assert_eq!(read(&root, "number").unwrap(), (count - 1).to_string(), "{way:?}");
            assert_eq!(read(&root, "own-0").unwrap(), "", "{way:?}: the lowest layer is there");
        }
    });
}

#[test]
fn ids_are_mapped_in_every_layer() {
    isolated("overlay::ids_are_mapped_in_every_layer", |scratch| {
        let layers = layers(scratch, 3);
        chown(layers[0].join("own-0"), Some(33), Some(44)).unwrap();
        let users = UserNamespace::new();
        for way in ways(scratch) {
            let writable = writable(scratch, way);
            let id_map = Some(users.fd.as_fd());
            let overlay =
                Overlay { layers: &layers, writable: Some(&writable), id_map, subdir: None };
            let root = overlay.mount(way).unwrap();
            let first = UserNamespace::FIRST;
            for (name, uid, gid) in [("", 0, 0), ("number", 0, 0), ("own-0", 33, 44)] {
                let stat = rustix::fs::statat(&root, name, AtFlags::EMPTY_PATH).unwrap();
                assert_eq!(
                    (stat.st_uid, stat.st_gid),
                    (first + uid, first + gid),
                    "{way:?} {name}"
                );
            }
            // The upper directory is not mapped: it holds the host's numbers.
            rustix::fs::chownat(
                &root,
                "own-0",
                Some(rustix::fs::Uid::from_raw(first + 5)),
                None,
                AtFlags::empty(),
            )
            .unwrap();
            let copied = fs::metadata(writable.join("upper/own-0")).unwrap();
            assert_eq!((copied.uid(), copied.gid()), (first + 5, first + 44), "{way:?}");
            assert_eq!(fs::metadata(layers[0].join("own-0")).unwrap().uid(), 33);
        }
    });
}

#[test]
fn an_image_is_mounted_read_only_whole_or_in_part() {
    isolated("overlay::an_image_is_mounted_read_only_whole_or_in_part", |scratch| {
        let layers = layers(scratch, 2);
        fs::create_dir(layers[0].join("lib")).unwrap();
        fs::write(layers[0].join("lib/model"), "weights").unwrap();
        symlink("/lib/../lib", layers[1].join("link")).unwrap();
        symlink("/../../etc", layers[1].join("out")).unwrap();
        let users = UserNamespace::new();
        for way in ways(scratch) {
            let mount = |subdir, id_map| {
                Overlay { layers: &layers, writable: None, id_map, subdir }.mount(way)
            };
            let whole = mount(None, None).unwrap();
            assert_eq!(read(&whole, "lib/model").unwrap(), "weights", "{way:?}");
            assert_eq!(write(&whole, "new"), Err(Errno::ROFS), "{way:?}");
            for subdir in ["lib", "link", "/link/."] {
                let part = mount(Some(subdir), Some(users.fd.as_fd())).unwrap();
                assert_eq!(read(&part, "model").unwrap(), "weights", "{way:?} {subdir}");
                assert_eq!(write(&part, "new"), Err(Errno::ROFS), "{way:?} {subdir}");
            }
            let error = mount(Some("out"), None).unwrap_err();
            let Error::Path { source: Errno::NOENT, path, .. } = error else {
                panic!("{way:?}: {error:?}")
            };
            assert_eq!(path, Path::new("out"));
        }
    });
}

#[test]
fn refusals_name_the_layer() {
    isolated("overlay::refusals_name_the_layer", |scratch| {
        let mut layers = layers(scratch, 2);
        layers[0] = scratch.join("gone");
        for way in ways(scratch) {
            let writable = writable(scratch, way);
            let mount = |layers: &[PathBuf], writable| {
                Overlay { layers, writable, id_map: None, subdir: None }.mount(way).unwrap_err()
            };
            let error = mount(&layers, Some(&*writable));
            assert!(matches!(error, Error::Path { .. } | Error::Overlay { .. }), "{way:?} {error}");
            let error = mount(&[], Some(&*writable)).to_string();
            assert!(error.contains("0 layers"), "{error}");
            assert!(mount(&layers[1..], None).to_string().contains("1 layers"));
            let relative = mount(&[PathBuf::from("layers/a")], Some(&*writable)).to_string();
            assert!(relative.contains("layers/a"), "{relative}");

            let writable = writable.join("other");
            fs::create_dir(&writable).unwrap();
            let pair = [layers[1].clone(), layers[1].join("..").join("other")];
            fs::create_dir_all(&pair[1]).unwrap();
            Overlay { layers: &pair, writable: Some(&writable), id_map: None, subdir: None }
                .mount(way)
                .unwrap();
            let again = mount(&pair, Some(&*writable)).to_string();
            assert!(again.ends_with("(its writable layer was mounted before)"), "{way:?}: {again}");
        }
    });
}
