//! The counters of a cgroup, read again and again.

mod v1;
mod v2;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::hierarchy::Layout;
use crate::{Cgroup, Error, Stats, file};

/// The open counter files of one cgroup.
///
/// A reading is a handful of pread(2) calls. The kernel keeps a page for each open file that has been
/// read, so a meter is worth its memory only where it is asked again; what seldom matters is opened at
/// each reading.
#[derive(Debug)]
pub struct Meter {
    files: Files,
    hugepage_sizes: Vec<String>,
}

#[derive(Debug)]
enum Files {
    V1(v1::Files),
    V2(v2::Files),
}

impl Cgroup {
    /// Opens the counters. Those of controllers that are not available are left out.
    ///
    /// # Errors
    /// [`Error::Read`]; [`Error::is_gone`] where the cgroup is.
    pub fn meter(&self) -> Result<Meter, Error> {
        let files = match self.hierarchy().layout() {
            Layout::Unified(root) => {
                Files::V2(v2::Files::open(&root.join(self.path().relative()))?)
            }
            Layout::Legacy(_) => Files::V1(v1::Files::open(self)?),
        };
        Ok(Meter { files, hugepage_sizes: self.hierarchy().features().hugepage_sizes.clone() })
    }
}

impl Meter {
    /// Reads all counters.
    ///
    /// # Errors
    /// [`Error::Read`]; [`Error::is_gone`] where the cgroup was removed meanwhile.
    pub fn read(&self) -> Result<Stats, Error> {
        match &self.files {
            Files::V1(files) => files.read(&self.hugepage_sizes),
            Files::V2(files) => files.read(&self.hugepage_sizes),
        }
    }
}

/// An open counter file and its name, for errors.
#[derive(Debug)]
struct Source {
    path: PathBuf,
    file: OwnedFd,
}

impl Source {
    /// None where the file does not exist: the controller, or the kernel's age, does not give it.
    fn open(directory: &Path, name: &str) -> Result<Option<Self>, Error> {
        let path = directory.join(name);
        match file::open(&path, OFlags::RDONLY) {
            Ok(file) => Ok(Some(Self { path, file })),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(Error::read(&path, errno)),
        }
    }

    fn text(&self) -> Result<String, Error> {
        file::text(&self.file).map_err(|errno| Error::read(&self.path, errno))
    }

    fn number(&self) -> Result<u64, Error> {
        let text = self.text()?;
        match text.trim().parse() {
            Ok(number) => Ok(number),
            Err(_) => Err(Error::Malformed { path: self.path.clone(), text }),
        }
    }
}

/// The number in a file of `directory`; none where there is no such file or it holds a word, as `max`.
fn number_in(directory: &Path, name: &str) -> Result<Option<u64>, Error> {
    let text = file::read_if_there(&directory.join(name))?;
    Ok(text.and_then(|text| text.trim().parse().ok()))
}

/// The `key value` lines of a file, for one pass over all of them.
fn pairs(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (key, value) = line.split_once(' ')?;
        Some((key, value.parse().ok()?))
    })
}
