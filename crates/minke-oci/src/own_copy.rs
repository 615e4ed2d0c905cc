//! Runs from a copy of its own program that nobody can write to.
//!
//! Between clone and execve(2) a container's process has this program as its /proc/self/exe, and an
//! image that names that as its program, or as the interpreter of one, executes it (CVE-2019-5736):
//! whoever gets hold of the file so could write to it later, and the next container would be started
//! by what was written. So what makes processes is executed anew, from a read-only overlay over the
//! program's directory, whose files no power inside a container makes writable; where the kernel
//! makes no such overlay, from a sealed file in memory, which costs the copying.

use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use executor::prepare::{Overlay, OverlayWay, sealed};
use rustix::fs::{Mode, OFlags, openat};

use crate::failure::Failure;

/// The first argument's text when it runs from the copy.
const MARK: &str = "minke-oci:own-copy";
/// The link to the program.
const PROGRAM: &str = "/proc/self/exe";

/// Executes the copy, with the same arguments; returns if this is it.
pub(crate) fn run_from_own_copy(spare: &Path) -> Result<(), Failure> {
    let mut arguments = std::env::args_os();
    if arguments.next().is_some_and(|name| name == MARK) {
        // Else ps shows the number of a descriptor.
        let _none = rustix::thread::set_name(c"minke-oci");
        return Ok(());
    }
    let copy = match in_overlay(spare) {
        Some(copy) => copy,
        None => in_memory()?,
    };
    let path = format!("/proc/self/fd/{}", copy.as_raw_fd());
    let source = Command::new(&path).arg0(MARK).args(arguments).exec();
    Err(Failure::Program { program: "its own copy", source })
}

/// None where the kernel refuses, or the layers overlap.
fn in_overlay(spare: &Path) -> Option<OwnedFd> {
    let program = fs::read_link(PROGRAM).ok()?;
    let (directory, name) = (program.parent()?, program.file_name()?);
    // An overlay wants two layers; the other one adds nothing that anybody looks for.
    let layers: [PathBuf; 2] = [spare.to_owned(), directory.to_owned()];
    let overlay = Overlay { layers: &layers, writable: None, id_map: None, subdir: None };
    let mount =
        overlay.mount(OverlayWay::Descriptors).or_else(|_| overlay.mount(OverlayWay::Paths));
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let copy = openat(mount.ok()?, name, flags, Mode::empty()).ok()?;
    // The name may have been taken by another program since.
    let (one, other) = (fs::metadata(PROGRAM).ok()?, File::from(copy.try_clone().ok()?));
    let same = other.metadata().is_ok_and(|other| {
        use std::os::unix::fs::MetadataExt;
        other.is_file() && other.len() == one.len() && other.mtime_nsec() == one.mtime_nsec()
    });
    same.then_some(copy)
}

fn in_memory() -> Result<OwnedFd, Failure> {
    let program = fs::read(PROGRAM).map_err(Failure::file("read", PROGRAM))?;
    let fail = |source| Failure::Prepare { id: "its own copy".to_owned(), source };
    let copy = sealed("minke-oci", &program).map_err(fail)?;
    // A file in memory that is sealed is executable only if its mode says so.
    rustix::fs::fchmod(&copy, Mode::RWXU).map_err(Failure::kernel("make the copy executable"))?;
    Ok(copy)
}
