//! Volume sources as detached clones.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{chown, symlink};
use std::path::Path;

use executor::prepare::{Error, Source};
use rustix::fs::AtFlags;
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags};

use crate::isolated::{UserNamespace, attach, isolated, read, write};

fn take(path: &Path, options: &[&str]) -> Result<Source, Error> {
    let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
    Source::take(path, &options, None)
}

/// A mount at `path` with `propagation`.
fn mount(path: &Path, propagation: MountPropagationFlags) {
    fs::create_dir_all(path).unwrap();
    rustix::mount::mount("volume", path, "tmpfs", MountFlags::empty(), None).unwrap();
    rustix::mount::mount_change(path, propagation).unwrap();
}

#[test]
fn links_are_resolved_and_files_told_from_directories() {
    isolated("source::links_are_resolved_and_files_told_from_directories", |scratch| {
        fs::create_dir(scratch.join("real")).unwrap();
        fs::write(scratch.join("real/file"), "text").unwrap();
        symlink("real", scratch.join("link")).unwrap();
        let source = take(&scratch.join("link"), &["rbind"]).unwrap();
        assert!(source.directory);
        assert_eq!(read(&source.tree, "file").unwrap(), "text");
        assert!(!take(&scratch.join("link/file"), &["bind"]).unwrap().directory);
        let error = take(&scratch.join("gone"), &["rbind"]).unwrap_err();
        assert!(error.to_string().contains("/mnt/gone"), "{error}");
    });
}

#[test]
fn read_only_reaches_as_far_as_it_is_asked_to() {
    isolated("source::read_only_reaches_as_far_as_it_is_asked_to", |scratch| {
        let volume = scratch.join("volume");
        mount(&volume, MountPropagationFlags::PRIVATE);
        mount(&volume.join("below"), MountPropagationFlags::PRIVATE);
        let top = take(&volume, &["rbind", "rprivate", "ro"]).unwrap().tree;
        assert_eq!(write(&top, "new"), Err(Errno::ROFS));
        assert_eq!(write(&top, "below/new"), Ok(()));
        let all = take(&volume, &["rbind", "rprivate", "rro"]).unwrap().tree;
        assert_eq!(write(&all, "new"), Err(Errno::ROFS));
        assert_eq!(write(&all, "below/other"), Err(Errno::ROFS));
        // The host's own mounts are as they were.
        fs::write(volume.join("below/host"), "").unwrap();
        fs::write(volume.join("host"), "").unwrap();
        let alone = take(&volume, &["bind", "rw"]).unwrap().tree;
        assert_eq!(read(&alone, "below/host"), Err(Errno::NOENT));
    });
}

#[test]
fn a_slave_sees_what_the_host_mounts_later() {
    isolated("source::a_slave_sees_what_the_host_mounts_later", |scratch| {
        let volume = scratch.join("volume");
        mount(&volume, MountPropagationFlags::SHARED);
        fs::create_dir(volume.join("later")).unwrap();
        let attached = |options: &[&str], name: &str| {
            let source = take(&volume, options).unwrap();
            let path = scratch.join(name);
            attach(&source.tree, &path);
            path
        };
        let slave = attached(&["rbind", "rslave"], "slave");
        let shared = attached(&["rbind", "rshared"], "shared");
        let private = attached(&["rbind", "rprivate"], "private");
        let unasked = attached(&["rbind"], "unasked");

        mount(&volume.join("later"), MountPropagationFlags::SHARED);
        fs::write(volume.join("later/file"), "").unwrap();
        for (path, seen) in [(&slave, true), (&shared, true), (&private, false), (&unasked, false)]
        {
            assert_eq!(path.join("later/file").exists(), seen, "{path:?}");
        }

        for (path, reaches_the_host) in [(&shared, true), (&slave, false), (&private, false)] {
            let name = path.file_name().unwrap();
            fs::create_dir_all(volume.join(name)).unwrap();
            mount(&path.join(name), MountPropagationFlags::PRIVATE);
            fs::write(path.join(name).join("file"), "").unwrap();
            assert_eq!(volume.join(name).join("file").exists(), reaches_the_host, "{path:?}");
        }
    });
}

#[test]
fn propagation_that_the_host_does_not_have_is_refused() {
    isolated("source::propagation_that_the_host_does_not_have_is_refused", |scratch| {
        let private = scratch.join("a b");
        mount(&private, MountPropagationFlags::PRIVATE);
        fs::create_dir(private.join("inner")).unwrap();
        for (option, wanted) in [("rshared", "not shared"), ("rslave", "not shared or a slave")] {
            let error = take(&private.join("inner"), &["rbind", option]).unwrap_err().to_string();
            assert!(error.contains("/mnt/a b/inner"), "{error}");
            assert!(error.contains("the mount /mnt/a b,"), "{error}");
            assert!(error.ends_with(wanted), "{error}");
        }
        let shared = scratch.join("shared");
        mount(&shared, MountPropagationFlags::SHARED);
        let slave = scratch.join("slave");
        attach(&take(&shared, &["rbind", "rslave"]).unwrap().tree, &slave);
        take(&slave, &["rbind", "rslave"]).unwrap();
        assert!(take(&slave, &["rbind", "rshared"]).is_err());
    });
}

#[test]
fn ids_of_a_volume_are_mapped() {
    isolated("source::ids_of_a_volume_are_mapped", |scratch| {
        let volume = scratch.join("volume");
        fs::create_dir(&volume).unwrap();
        fs::write(volume.join("file"), "").unwrap();
        chown(volume.join("file"), Some(5), Some(6)).unwrap();
        let users = UserNamespace::new();
        let options = ["rbind".to_owned(), "ro".to_owned(), "noexec".to_owned()];
        let mapped = Source::take(&volume, &options, Some(users.fd.as_fd())).unwrap().tree;
        let stat = rustix::fs::statat(&mapped, "file", AtFlags::empty()).unwrap();
        let first = UserNamespace::FIRST;
        assert_eq!((stat.st_uid, stat.st_gid), (first + 5, first + 6));
        assert_eq!(write(&mapped, "new"), Err(Errno::ROFS));

        let unable = Source::take(Path::new("/proc"), &options, Some(users.fd.as_fd()));
        let error = unable.unwrap_err();
        assert!(
            matches!(&error, Error::IdMap { path, .. } if path == Path::new("/proc")),
            "{error}"
        );
    });
}
