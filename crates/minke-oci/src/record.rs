//! What is known of a container between two commands: one directory below --root for each.
//!
//! ```text
//!   ROOT/ID/            locked by the command that changes the container; its name is the id's owner
//!           state.json  the record, replaced by rename
//!           go, word    the gate that a created container waits at
//! ```
//!
//! The record comes before the thing that it names, and goes after it, so that `delete` finds all
//! there is of a container whose maker was killed: its cgroup by path, its first process by number
//! and start time. Status is not recorded; the kernel knows it.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use cgroup::CgroupPath;
use oci_spec::runtime::Spec;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// The version that is written.
const VERSION: u32 = 1;
/// The directory that a record is in is its owner's alone.
const MODE: u32 = 0o700;

/// A container's record.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    version: u32,
    /// Its name.
    pub(crate) id: String,
    /// Its bundle.
    pub(crate) bundle: PathBuf,
    /// Its root file system.
    pub(crate) rootfs: PathBuf,
    /// When it was made.
    pub(crate) created: jiff::Timestamp,
    /// The boot that its process lives in.
    boot: String,
    /// The path of its cgroup.
    pub(crate) cgroup: String,
    /// Its first process, when there is one.
    pub(crate) init: Option<Identity>,
    /// What it was made from, defaults filled in.
    pub(crate) spec: Spec,
}

/// A process, and never a later one of the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// Its number.
    pub(crate) pid: i32,
    /// When it was started, in clock ticks since the boot.
    pub(crate) start: u64,
}

impl Identity {
    /// The process that has this number now.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let (_, start) = stat(pid)?;
        Some(Self { pid, start })
    }

    /// Whether it lives; one that has ended and was not waited for does not.
    pub(crate) fn is_alive(self) -> bool {
        stat(self.pid)
            .is_some_and(|(state, start)| start == self.start && !matches!(state, 'Z' | 'X' | 'x'))
    }
}

/// State and start time of a process.
fn stat(pid: i32) -> Option<(char, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before may hold anything.
    let mut fields = text.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

impl Record {
    pub(crate) fn new(
        id: &str,
        bundle: PathBuf,
        rootfs: PathBuf,
        cgroup: &CgroupPath,
        spec: Spec,
    ) -> Result<Self, Failure> {
        Ok(Self {
            version: VERSION,
            id: id.to_owned(),
            bundle,
            rootfs,
            created: jiff::Timestamp::now(),
            boot: boot()?,
            cgroup: cgroup.as_str().to_owned(),
            init: None,
            spec,
        })
    }

    /// Its first process, while that lives.
    pub(crate) fn living(&self) -> Result<Option<Identity>, Failure> {
        let alive = self.init.filter(|init| init.is_alive());
        Ok(if alive.is_some() && boot()? == self.boot { alive } else { None })
    }
}

fn boot() -> Result<String, Failure> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    let text = fs::read_to_string(PATH).map_err(Failure::file("read", PATH))?;
    Ok(text.trim().to_owned())
}

/// The directory of all records.
#[derive(Debug)]
pub(crate) struct Store {
    root: PathBuf,
}

/// The directory of one container, locked: nobody else changes it.
#[derive(Debug)]
pub(crate) struct Place {
    path: PathBuf,
    _lock: File,
}

impl Store {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Makes the directory of all, where it is missing.
    pub(crate) fn make_root(&self) -> Result<(), Failure> {
        let mut builder = fs::DirBuilder::new();
        let made = builder.mode(MODE).recursive(true).create(&self.root);
        made.map_err(Failure::file("make", &self.root))
    }

    /// Makes the directory of a new container.
    pub(crate) fn reserve(&self, id: &str) -> Result<Place, Failure> {
        check(id)?;
        let path = self.root.join(id);
        match fs::DirBuilder::new().mode(MODE).create(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                Err(Failure::Exists { id: id.to_owned() })
            }
            Err(error) => Err(Failure::file("make", &path)(error)),
            Ok(()) => Place::lock(path),
        }
    }

    /// Locks a container's directory, waiting for whoever changes it.
    pub(crate) fn lock(&self, id: &str) -> Result<Place, Failure> {
        let place = Place::lock(self.existing(id)?)?;
        // Whoever had it may have removed it.
        self.existing(id)?;
        Ok(place)
    }

    /// Whether a command is changing it right now.
    pub(crate) fn is_busy(&self, id: &str) -> bool {
        let file = File::open(self.root.join(id));
        let locked = file.map(|file| flock(&file, FlockOperation::NonBlockingLockShared));
        matches!(locked, Ok(Err(Errno::WOULDBLOCK)))
    }

    /// The record; none where the directory has none, because its maker was killed at once.
    pub(crate) fn find(&self, id: &str) -> Result<Option<Record>, Failure> {
        let path = self.existing(id)?.join("state.json");
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::file("read", path)(error)),
        };
        let record: Record =
            serde_json::from_slice(&text).map_err(|source| Failure::Json { path, source })?;
        Ok(Some(record))
    }

    /// The record of a container that has one.
    pub(crate) fn load(&self, id: &str) -> Result<Record, Failure> {
        let missing = || Failure::Unknown { id: id.to_owned(), root: self.root.clone() };
        self.find(id)?.ok_or_else(missing)
    }

    /// The ids of all containers, sorted.
    pub(crate) fn ids(&self) -> Result<Vec<String>, Failure> {
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Failure::file("read", &self.root)(error)),
        };
        let mut ids: Vec<String> = entries
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|id| check(id).is_ok())
            .collect();
        ids.sort_unstable();
        Ok(ids)
    }

    fn existing(&self, id: &str) -> Result<PathBuf, Failure> {
        check(id)?;
        let path = self.root.join(id);
        match path.is_dir() {
            true => Ok(path),
            false => Err(Failure::Unknown { id: id.to_owned(), root: self.root.clone() }),
        }
    }
}

impl Place {
    fn lock(path: PathBuf) -> Result<Self, Failure> {
        let file = File::open(&path).map_err(Failure::file("open", &path))?;
        rustix::io::retry_on_intr(|| flock(&file, FlockOperation::LockExclusive))
            .map_err(Failure::file("lock", &path))?;
        Ok(Self { path, _lock: file })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces the record.
    pub(crate) fn write(&self, record: &Record) -> Result<(), Failure> {
        let (path, new) = (self.path.join("state.json"), self.path.join("state.json.new"));
        let text = serde_json::to_vec(record)
            .map_err(|source| Failure::Json { path: path.clone(), source })?;
        replace(&path, &new, &text)
    }

    /// Forgets the container.
    pub(crate) fn remove(self) -> Result<(), Failure> {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Failure::file("remove", self.path)(error))
            }
            _ => Ok(()),
        }
    }
}

/// Writes a file beside its place, and puts it there when it is whole.
pub(crate) fn replace(path: &Path, new: &Path, text: &[u8]) -> Result<(), Failure> {
    let written = File::create(new).and_then(|mut file| file.write_all(text));
    written.map_err(Failure::file("write", new))?;
    fs::rename(new, path).map_err(Failure::file("put in place", path))
}

fn check(id: &str) -> Result<(), Failure> {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || "_+-.".contains(letter);
    if id.is_empty() || id.len() > 255 || id == "." || id == ".." || !id.chars().all(fits) {
        return Err(Failure::Id { id: id.to_owned() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str) -> Record {
        let cgroup = CgroupPath::new("/c").unwrap();
        Record::new(id, "/b".into(), "/b/rootfs".into(), &cgroup, Spec::default()).unwrap()
    }

    #[test]
    fn an_id_is_one_directory_name() {
        for id in ["a", "A.b_c+d-9", "..."] {
            check(id).unwrap();
        }
        for id in ["", ".", "..", "a/b", "a b", "é", "a\n", &"x".repeat(256)] {
            assert!(check(id).is_err(), "{id:?}");
        }
    }

    #[test]
    fn a_name_has_one_owner_and_a_record_survives() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path().join("below/root"));
        assert!(matches!(store.load("one"), Err(Failure::Unknown { .. })));
        assert_eq!(store.ids().unwrap(), [] as [&str; 0]);
        store.make_root().unwrap();
        let place = store.reserve("one").unwrap();
        assert!(matches!(store.reserve("one"), Err(Failure::Exists { .. })));
        assert!(store.find("one").unwrap().is_none());
        assert!(store.is_busy("one"));
        let mut wanted = record("one");
        wanted.init = Identity::of(1);
        place.write(&wanted).unwrap();
        drop(place);
        assert!(!store.is_busy("one"));
        let found = store.load("one").unwrap();
        assert_eq!((found.init, &found.boot), (wanted.init, &wanted.boot));
        assert_eq!(store.ids().unwrap(), ["one"]);
        store.lock("one").unwrap().remove().unwrap();
        assert!(matches!(store.lock("one"), Err(Failure::Unknown { .. })));
    }

    #[test]
    fn a_process_is_known_by_number_and_start() {
        let own = Identity::of(std::process::id().cast_signed()).unwrap();
        assert!(own.is_alive());
        assert!(!Identity { start: own.start + 1, ..own }.is_alive());
        let mut other = record("other");
        other.init = Some(own);
        assert_eq!(other.living().unwrap(), Some(own));
        other.boot = "another".to_owned();
        assert_eq!(other.living().unwrap(), None);
    }
}
