use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::Pid;

use crate::hierarchy::{Layout, Tree};
use crate::{CgroupPath, Controller, Error, Hierarchy, Version, file};

/// A cgroup, by name. The kernel's object may be gone; calls on it then say so ([`Error::is_gone`]).
#[derive(Debug, Clone)]
pub struct Cgroup {
    hierarchy: Hierarchy,
    path: CgroupPath,
    /// A v1 scope: a child that exists in the freezer tree alone.
    scope: Option<String>,
}

/// What puts a new process into a cgroup. The descriptors are close-on-exec and may be passed to
/// another process.
#[derive(Debug)]
pub enum Attachment {
    /// v2: the directory, for the `cgroup` field of clone3(2) with CLONE_INTO_CGROUP.
    Directory(OwnedFd),
    /// v1: one open `tasks` file for each tree; the new process calls [`Attachment::enter`].
    Tasks(Vec<OwnedFd>),
}

impl Attachment {
    /// Rebuilds an attachment whose descriptors have travelled.
    ///
    /// # Errors
    /// Gives the descriptors back where their number does not fit the version.
    pub fn from_descriptors(
        version: Version,
        mut descriptors: Vec<OwnedFd>,
    ) -> Result<Self, Vec<OwnedFd>> {
        match version {
            Version::V1 => Ok(Self::Tasks(descriptors)),
            Version::V2 => match descriptors.pop() {
                Some(directory) if descriptors.is_empty() => Ok(Self::Directory(directory)),
                Some(last) => {
                    descriptors.push(last);
                    Err(descriptors)
                }
                None => Err(descriptors),
            },
        }
    }

    /// The descriptors, in the order that [`Attachment::from_descriptors`] wants them.
    #[must_use]
    pub fn descriptors(&self) -> &[OwnedFd] {
        match self {
            Self::Directory(directory) => std::slice::from_ref(directory),
            Self::Tasks(files) => files,
        }
    }

    /// Moves the calling thread into the cgroup on v1; on v2 it has been there since it was cloned.
    /// For the only thread of a new process, before it changes its cgroup namespace. Neither
    /// allocates nor locks, so it may stand between fork and exec.
    ///
    /// # Errors
    /// What write(2) says.
    pub fn enter(&self) -> Result<(), Errno> {
        let Self::Tasks(files) = self else { return Ok(()) };
        files.iter().try_for_each(|file| file::retry(|| rustix::io::write(file, b"0")).map(drop))
    }
}

impl Cgroup {
    pub(crate) fn new(hierarchy: Hierarchy, path: CgroupPath) -> Self {
        Self { hierarchy, path, scope: None }
    }

    /// Its place. A v1 scope answers with the place of the cgroup that it is a part of.
    #[must_use]
    pub fn path(&self) -> &CgroupPath {
        &self.path
    }

    /// The trees that it is in.
    #[must_use]
    pub fn hierarchy(&self) -> &Hierarchy {
        &self.hierarchy
    }

    /// Whether the kernel has it: on v1, in the tree that tells its processes.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.census().is_ok_and(|directory| directory.exists())
    }

    /// Makes a part of this cgroup for the processes of one exec, so that they can be counted and
    /// killed apart. All limits and counters stay those of the whole. On v1 it exists in the freezer
    /// tree alone. [`Cgroup::remove`] on it leaves the whole in place.
    ///
    /// # Errors
    /// [`Error::Create`]; [`Error::InvalidPath`]; [`Error::NoController`] on v1 without freezer.
    pub fn scope(&self, name: &str) -> Result<Self, Error> {
        let path = self.path.join(name)?;
        let scope = match self.hierarchy.layout() {
            Layout::Unified(_) => Self::new(self.hierarchy.clone(), path),
            Layout::Legacy(_) if self.directory(Controller::Freezer).is_none() => {
                return Err(Error::NoController {
                    controller: Controller::Freezer,
                    file: name.to_owned(),
                    path: self.path.relative().to_owned(),
                });
            }
            Layout::Legacy(_) => Self {
                hierarchy: self.hierarchy.clone(),
                path: self.path.clone(),
                scope: Some(name.to_owned()),
            },
        };
        let directory = scope.census()?;
        let mode = rustix::fs::Mode::from_raw_mode(0o755);
        match file::retry(|| rustix::fs::mkdir(&directory, mode)) {
            Ok(()) | Err(Errno::EXIST) => Ok(scope),
            Err(source) => Err(Error::Create { path: directory, source }),
        }
    }

    /// The names of its parts: those of [`Cgroup::scope`], and on v2 also what its processes have made.
    #[must_use]
    pub fn scopes(&self) -> Vec<String> {
        let Ok(place) = self.census() else { return Vec::new() };
        let name = |path: PathBuf| Some(path.file_name()?.to_str()?.to_owned());
        children(&place).filter_map(name).collect()
    }

    /// Opens what a new process needs to be born in this cgroup, or to enter it at once.
    ///
    /// # Errors
    /// [`Error::Read`] where the cgroup is gone.
    pub fn attachment(&self) -> Result<Attachment, Error> {
        let open = |path: PathBuf, flags| {
            file::open(&path, flags).map_err(|source| Error::Read { path, source })
        };
        match self.hierarchy.layout() {
            Layout::Unified(root) => {
                open(root.join(self.path.relative()), OFlags::PATH | OFlags::DIRECTORY)
                    .map(Attachment::Directory)
            }
            Layout::Legacy(trees) => trees
                .iter()
                .map(|tree| open(self.within(tree).join("tasks"), OFlags::WRONLY))
                .collect::<Result<_, _>>()
                .map(Attachment::Tasks),
        }
    }

    /// The processes in it and in its children, as this PID namespace numbers them.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub fn processes(&self) -> Result<Vec<Pid>, Error> {
        let mut processes = Vec::new();
        each_directory(&self.census()?, &mut |directory| {
            processes.extend(processes_of(directory)?);
            Ok(())
        })?;
        Ok(processes)
    }

    /// The number of threads in it and in its children.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub fn threads(&self) -> Result<usize, Error> {
        let name = match self.hierarchy.layout() {
            Layout::Unified(_) => "cgroup.threads",
            Layout::Legacy(_) => "tasks",
        };
        let mut threads = 0;
        each_directory(&self.census()?, &mut |directory| {
            threads += file::read(&directory.join(name))?.lines().count();
            Ok(())
        })?;
        Ok(threads)
    }

    /// Whether no process is in it or in its children. A zombie no longer counts.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub fn is_empty(&self) -> Result<bool, Error> {
        match self.hierarchy.layout() {
            Layout::Unified(root) => {
                let events = root.join(self.path.relative()).join("cgroup.events");
                let text = file::read(&events)?;
                match file::keyed(&text, "populated") {
                    Some(populated) => Ok(populated == 0),
                    None => Err(Error::Malformed { path: events, text }),
                }
            }
            Layout::Legacy(_) => Ok(self.processes()?.is_empty()),
        }
    }

    /// How many of its processes the kernel has killed for want of memory since it was made, under
    /// its own limit or an ancestor's. Compare a reading before with one after; the number outlives
    /// the processes. On v2 it includes children.
    ///
    /// # Errors
    /// [`Error::Read`]; [`Error::NoController`] where nothing counts.
    pub fn oom_kills(&self) -> Result<u64, Error> {
        let name = match self.hierarchy.features().version {
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        };
        let no_controller = || Error::NoController {
            controller: Controller::Memory,
            file: name.to_owned(),
            path: self.path.relative().to_owned(),
        };
        let path = self.directory(Controller::Memory).ok_or_else(no_controller)?.join(name);
        let text = file::read(&path)?;
        file::keyed(&text, "oom_kill").ok_or(Error::Malformed { path, text })
    }

    /// Where the files of a controller are; none where it is not available.
    pub(crate) fn directory(&self, controller: Controller) -> Option<PathBuf> {
        match self.hierarchy.layout() {
            Layout::Unified(root) => {
                self.hierarchy.features().has(controller).then(|| root.join(self.path.relative()))
            }
            Layout::Legacy(trees) => trees
                .iter()
                .find(|tree| tree.controllers.contains(&controller))
                .map(|tree| self.within(tree)),
        }
    }

    /// The directory that tells the processes: on v1 that of the freezer, where scopes are too.
    pub(crate) fn census(&self) -> Result<PathBuf, Error> {
        match self.hierarchy.layout() {
            Layout::Unified(root) => Ok(root.join(self.path.relative())),
            Layout::Legacy(trees) => self
                .directory(Controller::Freezer)
                .or_else(|| trees.first().map(|tree| self.within(tree)))
                .ok_or_else(|| Error::NotMounted(self.path.relative().to_owned())),
        }
    }

    /// Every directory that is this cgroup's own.
    pub(crate) fn directories(&self) -> Vec<PathBuf> {
        match (self.hierarchy.layout(), &self.scope) {
            (Layout::Unified(root), _) => vec![root.join(self.path.relative())],
            (Layout::Legacy(_), Some(_)) => {
                self.directory(Controller::Freezer).into_iter().collect()
            }
            (Layout::Legacy(trees), None) => {
                trees.iter().map(|tree| tree.root.join(self.path.relative())).collect()
            }
        }
    }

    fn within(&self, tree: &Tree) -> PathBuf {
        let directory = tree.root.join(self.path.relative());
        match &self.scope {
            Some(scope) if tree.controllers.contains(&Controller::Freezer) => directory.join(scope),
            _ => directory,
        }
    }
}

/// The processes of one directory. A process in another PID namespace than ours has no number here.
pub(crate) fn processes_of(directory: &Path) -> Result<Vec<Pid>, Error> {
    let text = file::read(&directory.join("cgroup.procs"))?;
    Ok(text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)).collect())
}

/// Calls `visit` on a directory and all below it, parents first. One that vanishes meanwhile is
/// passed over, unless it is the first.
pub(crate) fn each_directory(
    top: &Path,
    visit: &mut dyn FnMut(&Path) -> Result<(), Error>,
) -> Result<(), Error> {
    visit(top)?;
    for child in children(top) {
        match each_directory(&child, visit) {
            Err(error) if error.is_gone() => {}
            other => other?,
        }
    }
    Ok(())
}

/// The child cgroups of a directory; none where it cannot be read.
pub(crate) fn children(directory: &Path) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
}
