//! A machine for one case: what a daemon would prepare, and a keeper's bare mount namespace.

use std::ffi::CStr;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use executor::plan::IdRange;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{
    MountFlags, MountPropagationFlags, OpenTreeFlags, UnmountFlags, mount, mount_change, open_tree,
    unmount,
};
use rustix::process::{DumpableBehavior, chdir, pivot_root, set_dumpable_behavior};

/// Where everything is made; a tmpfs of the case's own.
const HERE: &str = "/mnt";

/// The file that shows whoever sees it the keeper's root.
pub(crate) const MARKER: &str = "/keeper-marker";

/// The ids of user-namespaced cases.
pub(crate) const USERS: IdRange = IdRange { inside: 0, outside: 200_000, count: 65_536 };

/// A case's machine. First a case prepares files with everything in sight; [`Stage::keep`] then
/// leaves what a keeper sees.
#[derive(Debug)]
pub(crate) struct Stage {
    /// What only the keeper may know, in its heap.
    pub(crate) secret: (String, String, String),
}

impl Stage {
    pub(crate) fn set(probe: &Path) -> Self {
        mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        let program = fs::read(probe).unwrap();
        let none = MountFlags::empty();
        // The one that is there shows other processes under the numbers of ours.
        mount("proc", "/proc", "proc", none, None::<&CStr>).unwrap();
        mount("case", HERE, "tmpfs", none, None::<&CStr>).unwrap();
        for directory in
            ["bin", "etc", "proc", "sys", "dev", "tmp", "data/inner", "lower", "run", "private"]
        {
            fs::create_dir_all(root(directory)).unwrap();
        }
        fs::write(root("bin/probe"), program).unwrap();
        fs::set_permissions(root("bin/probe"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(root("private"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(root("etc/hostname"), "from the image\n").unwrap();

        let keeper = Path::new(HERE).join("keeper");
        fs::create_dir(&keeper).unwrap();
        mount("keeper", &keeper, "tmpfs", none, None::<&CStr>).unwrap();
        for (kind, directory) in [("proc", "proc"), ("sysfs", "sys"), ("tmpfs", "dev/shm")] {
            let directory = keeper.join(directory);
            fs::create_dir_all(&directory).unwrap();
            mount(kind, &directory, kind, none, None::<&CStr>).unwrap();
        }
        fs::set_permissions(keeper.join("dev/shm"), fs::Permissions::from_mode(0o1777)).unwrap();
        fs::write(keeper.join(MARKER.trim_start_matches('/')), "").unwrap();
        let random = fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap();
        let (half, other) = random.trim().split_at(18);
        let secret = (half.to_owned(), other.to_owned(), format!("{half}{other}"));
        Self { secret }
    }

    /// A path in the image that all containers of the case share.
    pub(crate) fn image(&self, path: &str) -> PathBuf {
        root(path)
    }

    /// A detached clone of the image.
    pub(crate) fn root(&self) -> OwnedFd {
        self.tree(&root(""))
    }

    /// A new directory with one file in it, which a volume is made of.
    pub(crate) fn volume(&self, name: &str) -> PathBuf {
        let path = Path::new(HERE).join("volumes").join(name);
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("file"), format!("of {name}\n")).unwrap();
        path
    }

    /// A detached clone of a directory or a file with all that is mounted below.
    pub(crate) fn tree(&self, path: &Path) -> OwnedFd {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE;
        open_tree(CWD, path, flags).unwrap()
    }

    /// Gives a path of the image to the root of the user-namespaced.
    pub(crate) fn give(&self, path: &str) {
        chown(root(path), Some(USERS.outside), Some(USERS.outside)).unwrap();
    }

    /// Leaves what a keeper sees.
    pub(crate) fn keep(&self) {
        let old = openat(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        chdir(Path::new(HERE).join("keeper").as_path()).unwrap();
        pivot_root(".", ".").unwrap();
        rustix::process::fchdir(old.as_fd()).unwrap();
        unmount(".", UnmountFlags::DETACH).unwrap();
        chdir("/").unwrap();
        set_dumpable_behavior(DumpableBehavior::NotDumpable).unwrap();
        assert!(fs::metadata("/bin").is_err());
    }
}

fn root(path: &str) -> PathBuf {
    Path::new(HERE).join("image").join(path)
}
