//! An overlay for kernels before 6.15, which refuse detached mounts as layers, and before 6.7, which
//! want all layers in one string.
//!
//! A thread leaves the daemon's mount namespace for a private copy. There it covers /proc with a
//! tmpfs and fills that with one short name for each layer: a link to its directory, or to a mapped
//! clone of it that is attached beside. mount(2) takes them in the one page that it has for options
//! (500 layers, the most that overlay stacks, need 1.5 KB), and the overlay leaves the thread as a
//! detached clone. It has references of its own to its layers, so nothing else of the namespace
//! outlives the thread, and the host's namespace never saw any of it.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags};

use super::Error;
use super::overlay::{Overlay, clone_beneath, clone_mapped};

/// What is covered: every machine has it, and no layer lies below.
const SCRATCH: &str = "/proc";
/// Options, their NUL and one byte that the kernel keeps share a page.
const OPTIONS_MAX: usize = 4094;

pub(super) fn mount(overlay: &Overlay<'_>) -> Result<OwnedFd, Error> {
    if let Some(path) = overlay.paths().find(|path| path.starts_with(SCRATCH)) {
        return Err(Error::spec("root", format!("the layer {path:?} lies in {SCRATCH}")));
    }
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("overlay".to_owned());
        let thread = thread
            .spawn_scoped(scope, || in_private_namespace(overlay))
            .map_err(|_| Error::Thread)?;
        thread.join().map_err(|_| Error::Thread)?
    })
}

/// Runs on a thread of its own, the only one that may change its namespace and directory.
fn in_private_namespace(overlay: &Overlay<'_>) -> Result<OwnedFd, Error> {
    sys::mount::unshare_mounts().map_err(Error::kernel("leave the mount namespace"))?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private)
        .map_err(Error::kernel("cut the copy of the mount namespace off"))?;
    rustix::mount::mount("overlay", SCRATCH, "tmpfs", MountFlags::empty(), None)
        .map_err(Error::path("mount a tmpfs on", SCRATCH))?;
    rustix::process::chdir(SCRATCH).map_err(Error::path("go to", SCRATCH))?;

    let mut names = Names { overlay, parents: Vec::new() };
    let mut lower = Vec::new();
    for (index, layer) in overlay.layers.iter().enumerate().rev() {
        let name = short(index);
        names.link(layer, &name)?;
        lower.push(name);
    }
    let mut options = format!("lowerdir={}", lower.join(":"));
    if let Some(directory) = overlay.writable {
        rustix::fs::symlink(directory, "w").map_err(Error::path("name", directory))?;
        options.push_str(",upperdir=w/upper,workdir=w/work");
    }
    for option in overlay.options() {
        options.push(',');
        options.push_str(option);
    }
    attach(overlay, options)
}

fn attach(overlay: &Overlay<'_>, options: String) -> Result<OwnedFd, Error> {
    let refused = |message: &str, source| overlay.error(message.to_owned(), source);
    if options.len() > OPTIONS_MAX {
        return Err(refused("more than the options of mount(2) hold", Errno::TOOBIG));
    }
    let options = CString::new(options).map_err(|_| Error::spec("root", "a NUL in a path"))?;
    let flags = match overlay.writable {
        Some(_) => MountFlags::empty(),
        None => MountFlags::RDONLY,
    };
    rustix::fs::mkdir("m", Mode::RWXU).map_err(Error::path("make the directory", "m"))?;
    rustix::mount::mount("overlay", "m", "overlay", flags, options.as_c_str())
        .map_err(|errno| refused("", errno))?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    match overlay.subdir {
        None => rustix::mount::open_tree(CWD, "m", flags)
            .map_err(Error::kernel("take the overlay out of its namespace")),
        Some(subdir) => {
            let root = rustix::mount::open_tree(CWD, "m", OpenTreeFlags::OPEN_TREE_CLOEXEC)
                .map_err(Error::kernel("open the overlay"))?;
            clone_beneath(root.as_fd(), subdir)
        }
    }
}

struct Names<'a> {
    overlay: &'a Overlay<'a>,
    /// The directories whose mapped clones are attached as `p0`, `p1` …
    parents: Vec<&'a Path>,
}

impl<'a> Names<'a> {
    fn link(&mut self, path: &'a Path, name: &str) -> Result<(), Error> {
        let fail = Error::path("name the layer", path);
        let Some(user_namespace) = self.overlay.id_map else {
            return rustix::fs::symlink(path, name).map_err(fail);
        };
        let (Some(parent), Some(last)) = (path.parent(), path.file_name()) else {
            return Err(Error::spec("root", "the root of the file system cannot be a layer"));
        };
        let known = self.parents.iter().position(|known| *known == parent);
        let place = format!("p{}", known.unwrap_or(self.parents.len()));
        if known.is_none() {
            let tree = clone_mapped(parent, user_namespace)?;
            rustix::fs::mkdir(&place, Mode::RWXU)
                .map_err(Error::path("make the directory", &place))?;
            let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
            rustix::mount::move_mount(&tree, "", CWD, &place, flags)
                .map_err(Error::path("attach the mapped clone of", parent))?;
            self.parents.push(parent);
        }
        rustix::fs::symlink(Path::new(&place).join(last), name).map_err(fail)
    }
}

/// A name for each layer that has neither colon nor comma, and never begins as `m`, `p0` or `w` do.
fn short(index: usize) -> String {
    const LETTERS: &[u8; 32] = b"0123456789ABCDEFGHIJKLMNOPQRSTUV";
    let mut rest = index;
    let mut name = String::new();
    loop {
        name.push(char::from(LETTERS[rest % LETTERS.len()]));
        rest /= LETTERS.len();
        if rest == 0 {
            return name;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_short_and_distinct() {
        let names: HashSet<String> = (0..500).map(short).collect();
        assert_eq!(names.len(), 500);
        assert!(names.iter().all(|name| name.len() <= 2));
    }
}
