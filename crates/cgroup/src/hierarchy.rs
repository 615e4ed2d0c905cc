use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::Mode;
use rustix::io::Errno;

use crate::devices::LastProgram;
use crate::{Cgroup, CgroupPath, Error, file};

const ROOT: &str = "/sys/fs/cgroup";
const MOUNTINFO: &str = "/proc/self/mountinfo";
const HUGEPAGES: &str = "/sys/kernel/mm/hugepages";
/// `f_type` of a cgroup2 mount (statfs(2)).
const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;

/// Which of the two interfaces a node uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// One tree for each group of controllers. A cgroup2 mount beside them (the hybrid layout) carries
    /// no controllers and is left alone.
    V1,
    /// The unified tree.
    V2,
}

/// What limits or counts a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Controller {
    /// Share and ceiling of processor time.
    Cpu,
    /// Processor time used (v1; part of every v2 cgroup).
    Cpuacct,
    /// Which processors and memory nodes.
    Cpuset,
    /// Memory and swap.
    Memory,
    /// Block devices; `blkio` on v1.
    Io,
    /// Number of tasks.
    Pids,
    /// Huge pages.
    Hugetlb,
    /// Access to device nodes (v1; a BPF program on v2).
    Devices,
    /// Stopping all tasks at once (v1; part of every v2 cgroup).
    Freezer,
}

impl Controller {
    const ALL: [Self; 9] = [
        Self::Cpu,
        Self::Cpuacct,
        Self::Cpuset,
        Self::Memory,
        Self::Io,
        Self::Pids,
        Self::Hugetlb,
        Self::Devices,
        Self::Freezer,
    ];

    /// The kernel's name for it; v1's `blkio` is `io`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cpuacct => "cpuacct",
            Self::Cpuset => "cpuset",
            Self::Memory => "memory",
            Self::Io => "io",
            Self::Pids => "pids",
            Self::Hugetlb => "hugetlb",
            Self::Devices => "devices",
            Self::Freezer => "freezer",
        }
    }

    /// What a kernel that has it is built with.
    pub(crate) fn option(self) -> &'static str {
        match self {
            Self::Cpu => "CONFIG_CGROUP_SCHED and CONFIG_CFS_BANDWIDTH",
            Self::Cpuacct => "CONFIG_CGROUP_CPUACCT",
            Self::Cpuset => "CONFIG_CPUSETS",
            Self::Memory => "CONFIG_MEMCG",
            Self::Io => "CONFIG_BLK_CGROUP",
            Self::Pids => "CONFIG_CGROUP_PIDS",
            Self::Hugetlb => "CONFIG_CGROUP_HUGETLB",
            Self::Devices => "CONFIG_CGROUP_DEVICE",
            Self::Freezer => "CONFIG_CGROUP_FREEZER",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        let name = if name == "blkio" { "io" } else { name };
        Self::ALL.into_iter().find(|controller| controller.as_str() == name)
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the node's cgroups can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Features {
    /// Which interface.
    pub version: Version,
    /// The controllers that can be used. On v2 neither `Cpuacct`, `Devices` nor `Freezer` is among
    /// them: what they do is there without one.
    pub controllers: Vec<Controller>,
    /// Whether swap is counted and can be limited.
    pub swap: bool,
    /// Sizes of huge pages, as in the names of the files: `2MB`, `1GB`. Empty without the controller.
    pub hugepage_sizes: Vec<String>,
}

impl Features {
    /// Whether a controller can be used.
    #[must_use]
    pub fn has(&self, controller: Controller) -> bool {
        self.controllers.contains(&controller)
    }
}

/// One mounted v1 tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tree {
    pub(crate) root: PathBuf,
    /// Those that matter here; empty for a named tree such as systemd's.
    pub(crate) controllers: Vec<Controller>,
}

#[derive(Debug)]
pub(crate) enum Layout {
    Unified(PathBuf),
    Legacy(Vec<Tree>),
}

#[derive(Debug)]
struct Inner {
    layout: Layout,
    features: Features,
    device_program: LastProgram,
}

/// The cgroup trees of this node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Hierarchy(Arc<Inner>);

/// A new cgroup and what was made for it.
#[derive(Debug)]
pub struct Created {
    /// The cgroup.
    pub cgroup: Cgroup,
    /// Directories that were not there before, deepest first, its own included. Hand them to
    /// [`Hierarchy::prune`] in the end: others' directories are not among them.
    pub made: Vec<PathBuf>,
}

impl Hierarchy {
    /// Looks at the mounts of this mount namespace.
    ///
    /// # Errors
    /// [`Error::NotMounted`] where there is none; [`Error::Read`].
    pub fn detect() -> Result<Self, Error> {
        let root = Path::new(ROOT);
        let unified =
            rustix::fs::statfs(root).is_ok_and(|fs| fs.f_type as u64 == CGROUP2_SUPER_MAGIC);
        if unified {
            return Self::unified(root);
        }
        let trees = legacy_trees(&file::read(Path::new(MOUNTINFO))?);
        if trees.iter().all(|tree| tree.controllers.is_empty()) {
            return Err(Error::NotMounted(root.to_owned()));
        }
        let controllers: Vec<_> =
            trees.iter().flat_map(|tree| tree.controllers.iter().copied()).collect();
        let swap = trees
            .iter()
            .find(|tree| tree.controllers.contains(&Controller::Memory))
            .is_some_and(|tree| tree.root.join("memory.memsw.limit_in_bytes").exists());
        let features = Features {
            version: Version::V1,
            swap,
            hugepage_sizes: hugepage_sizes(&controllers),
            controllers,
        };
        Ok(Self::with(Layout::Legacy(trees), features))
    }

    /// The cgroup2 tree mounted on `root`, or a part of it.
    ///
    /// # Errors
    /// [`Error::Read`] where `root` is no cgroup2 directory.
    pub fn unified(root: &Path) -> Result<Self, Error> {
        let controllers: Vec<_> = file::read(&root.join("cgroup.controllers"))?
            .split_whitespace()
            .filter_map(Controller::parse)
            .collect();
        let features = Features {
            version: Version::V2,
            swap: controllers.contains(&Controller::Memory) && unified_swap(root),
            hugepage_sizes: hugepage_sizes(&controllers),
            controllers,
        };
        Ok(Self::with(Layout::Unified(root.to_owned()), features))
    }

    fn with(layout: Layout, features: Features) -> Self {
        Self(Arc::new(Inner { layout, features, device_program: LastProgram::default() }))
    }

    /// What this node can do.
    #[must_use]
    pub fn features(&self) -> &Features {
        &self.0.features
    }

    /// Makes a cgroup and whatever is missing above it. On v2 every controller is handed down to it;
    /// on v1 it is made in every mounted tree, and an empty cpuset takes its parent's. One that is
    /// there already is used as it is.
    ///
    /// # Errors
    /// [`Error::Create`]; [`Error::Write`] where an ancestor will not hand down controllers: `EBUSY`
    /// says that it holds processes itself. What was made is removed again.
    pub fn create(&self, path: &CgroupPath) -> Result<Created, Error> {
        let mut made = Vec::new();
        match self.make(path, &mut made) {
            Ok(()) => {
                made.reverse();
                Ok(Created { cgroup: self.open(path), made })
            }
            Err(error) => {
                made.reverse();
                // The first error is the one to tell.
                let _ = self.prune(&made);
                Err(error)
            }
        }
    }

    /// The directories of a cgroup and of those above it, in the order of [`Created::made`], whether
    /// they are there or not.
    #[must_use]
    pub fn ancestry(&self, path: &CgroupPath) -> Vec<PathBuf> {
        let roots: Vec<&Path> = match self.layout() {
            Layout::Unified(root) => vec![root],
            Layout::Legacy(trees) => trees.iter().map(|tree| &*tree.root).collect(),
        };
        let below = |root: &Path| -> Vec<PathBuf> {
            let directory = root.join(path.relative());
            let ancestors = directory.ancestors().take_while(|ancestor| *ancestor != root);
            ancestors.map(Path::to_owned).collect()
        };
        roots.into_iter().rev().flat_map(below).collect()
    }

    /// A handle on a cgroup that may or may not be there ([`Cgroup::exists`]).
    #[must_use]
    pub fn open(&self, path: &CgroupPath) -> Cgroup {
        Cgroup::new(self.clone(), path.clone())
    }

    /// Removes directories that [`Hierarchy::create`] made, in the order given. One that is gone is
    /// no error, and one that is in use stays: somebody else has come to need it.
    ///
    /// # Errors
    /// [`Error::Remove`] for the first that could not be removed otherwise, after all were tried.
    pub fn prune(&self, made: &[PathBuf]) -> Result<(), Error> {
        let mut first = None;
        for path in made {
            match file::retry(|| rustix::fs::rmdir(path)) {
                Ok(()) | Err(Errno::NOENT | Errno::BUSY | Errno::NOTEMPTY) => {}
                Err(source) => {
                    first.get_or_insert(Error::Remove { path: path.clone(), source });
                }
            }
        }
        first.map_or(Ok(()), Err)
    }

    pub(crate) fn device_program(&self) -> &LastProgram {
        &self.0.device_program
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.0.layout
    }

    fn make(&self, path: &CgroupPath, made: &mut Vec<PathBuf>) -> Result<(), Error> {
        match self.layout() {
            Layout::Unified(root) => {
                let directory = root.join(path.relative());
                make_directory(root, &directory, made)?;
                self.hand_down(root, &directory)
            }
            Layout::Legacy(trees) => {
                for tree in trees {
                    let before = made.len();
                    let directory = tree.root.join(path.relative());
                    let cpusets = tree.controllers.contains(&Controller::Cpuset);
                    if cpusets && !directory.exists() {
                        have_children_inherit(&tree.root, &directory);
                    }
                    make_directory(&tree.root, &directory, made)?;
                    if cpusets {
                        made[before..].iter().try_for_each(|new| inherit_cpuset(new))?;
                    }
                }
                Ok(())
            }
        }
    }

    /// Enables the controllers in `cgroup.subtree_control` of every ancestor of `directory`.
    fn hand_down(&self, root: &Path, directory: &Path) -> Result<(), Error> {
        let ancestors: Vec<_> =
            directory.ancestors().skip(1).take_while(|path| path.starts_with(root)).collect();
        // A controller is on in the parent only if it is on all the way down to it.
        if let Some(parent) = ancestors.first()
            && self.missing_in(parent)?.is_empty()
        {
            return Ok(());
        }
        for ancestor in ancestors.iter().rev() {
            let control = ancestor.join("cgroup.subtree_control");
            for controller in self.missing_in(ancestor)? {
                match file::write(&control, &format!("+{controller}")) {
                    Err(error) if error.errno() == Some(Errno::BUSY) => return Err(error),
                    // A single controller may be held back (cpu by a real-time task, say). A limit
                    // that needs it says so.
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn missing_in(&self, directory: &Path) -> Result<Vec<Controller>, Error> {
        let on = file::read(&directory.join("cgroup.subtree_control"))?;
        Ok(self
            .features()
            .controllers
            .iter()
            .copied()
            .filter(|controller| !on.split_whitespace().any(|name| name == controller.as_str()))
            .collect())
    }
}

/// mkdir -p from below `root`, noting what was made, shallowest first.
fn make_directory(root: &Path, path: &Path, made: &mut Vec<PathBuf>) -> Result<(), Error> {
    let mkdir = || file::retry(|| rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)));
    let mut result = mkdir();
    if result == Err(Errno::NOENT)
        && let Some(parent) = path.parent().filter(|parent| *parent != root)
    {
        make_directory(root, parent, made)?;
        result = mkdir();
    }
    match result {
        Ok(()) => {
            made.push(path.to_owned());
            Ok(())
        }
        Err(Errno::EXIST) => Ok(()),
        Err(source) => Err(Error::Create { path: path.to_owned(), source }),
    }
}

/// Has the kernel give a v1 cpuset its parent's processors and memory nodes when it is made. Writing them
/// does the same, but then the kernel sets up scheduling anew, and looks at each cpuset for it. That
/// is needed only below a parent whose processors it does not balance load over.
fn have_children_inherit(root: &Path, directory: &Path) {
    if let Some(parent) = directory.parent().filter(|parent| *parent != root)
        && file::read(&parent.join("cpuset.sched_load_balance")).is_ok_and(|on| on.trim() == "1")
    {
        // Where the parent is not there yet, or does not let itself be told, they are written.
        let _ = file::write(&parent.join("cgroup.clone_children"), "1");
    }
}

/// A v1 cpuset is born empty and takes no task until it names processors and memory nodes.
fn inherit_cpuset(directory: &Path) -> Result<(), Error> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let own = directory.join(name);
        if file::read(&own)?.trim().is_empty()
            && let Some(parent) = directory.parent()
        {
            file::write(&own, file::read(&parent.join(name))?.trim())?;
        }
    }
    Ok(())
}

/// The v1 trees among the lines of a mountinfo file (proc(5)). A tree mounted twice has one device
/// number, and its first mount counts.
fn legacy_trees(mountinfo: &str) -> Vec<Tree> {
    let mut devices = Vec::new();
    let mut trees = Vec::new();
    for line in mountinfo.lines() {
        let Some((mount, filesystem)) = line.split_once(" - ") else { continue };
        let mut filesystem = filesystem.split(' ');
        let (Some("cgroup"), Some(options)) = (filesystem.next(), filesystem.nth(1)) else {
            continue;
        };
        let mut mount = mount.split(' ').skip(2);
        let (Some(device), Some(point)) = (mount.next(), mount.nth(1)) else { continue };
        if !devices.contains(&device) {
            devices.push(device);
            let controllers = options.split(',').filter_map(Controller::parse).collect();
            trees.push(Tree { root: unescape(point), controllers });
        }
    }
    trees
}

/// Undoes the octal escapes of mountinfo.
fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = (first == b'\\')
            .then(|| tail.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        if let Some(byte) = escaped {
            bytes.push(byte);
            rest = &tail[3..];
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// Whether v2 counts swap. The root has no file that tells, its children have.
fn unified_swap(root: &Path) -> bool {
    let mut children = std::fs::read_dir(root).into_iter().flatten().flatten().peekable();
    let tells = |path: PathBuf| path.join("memory.current").exists().then_some(path);
    match children.find_map(|child| tells(child.path())) {
        Some(child) => child.join("memory.swap.max").exists(),
        None => Path::new("/proc/swaps").exists(),
    }
}

fn hugepage_sizes(controllers: &[Controller]) -> Vec<String> {
    if !controllers.contains(&Controller::Hugetlb) {
        return Vec::new();
    }
    let mut sizes: Vec<u64> = std::fs::read_dir(HUGEPAGES)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            name.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()
        })
        .collect();
    sizes.sort_unstable();
    sizes.into_iter().map(hugepage_name).collect()
}

/// A size in kB as the hugetlb files name it.
fn hugepage_name(kilobytes: u64) -> String {
    match kilobytes {
        size if size >= 1 << 20 => format!("{}GB", size >> 20),
        size if size >= 1 << 10 => format!("{}MB", size >> 10),
        size => format!("{size}KB"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_are_found_by_their_options() {
        let mountinfo = "\
25 1 0:22 / /sys/fs/cgroup rw shared:4 - tmpfs tmpfs rw,mode=755
26 25 0:23 / /sys/fs/cgroup/unified rw shared:5 - cgroup2 cgroup2 rw,nsdelegate
27 25 0:24 / /sys/fs/cgroup/systemd rw shared:6 - cgroup cgroup rw,xattr,name=systemd
28 25 0:25 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
29 25 0:26 / /sys/fs/cgroup/net_cls rw - cgroup cgroup rw,net_cls
30 25 0:27 / /sys/fs/cgroup/blkio rw - cgroup cgroup rw,blkio
31 25 0:25 / /mnt/again rw - cgroup cgroup rw,cpu,cpuacct
32 25 0:28 / /mnt/my\\040memory rw master:3 - cgroup none rw,memory
";
        let tree = |root: &str, controllers: &[Controller]| Tree {
            root: root.into(),
            controllers: controllers.to_vec(),
        };
        assert_eq!(
            legacy_trees(mountinfo),
            [
                tree("/sys/fs/cgroup/systemd", &[]),
                tree("/sys/fs/cgroup/cpu,cpuacct", &[Controller::Cpu, Controller::Cpuacct]),
                tree("/sys/fs/cgroup/net_cls", &[]),
                tree("/sys/fs/cgroup/blkio", &[Controller::Io]),
                tree("/mnt/my memory", &[Controller::Memory]),
            ]
        );
    }

    #[test]
    fn hugepage_sizes_are_named_as_the_kernel_does() {
        assert_eq!([64, 2048, 1 << 20].map(hugepage_name), ["64KB", "2MB", "1GB"]);
    }
}
