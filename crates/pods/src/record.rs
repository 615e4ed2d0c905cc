//! What survives the daemon: one versioned file per pod.
//!
//! ```text
//!   <state>/pods/<id>/record.json   written by rename at every change, never synced: it only has to
//!                                   outlive the daemon, and /run is empty after a boot anyway
//!   <root>/pods/<id>.json           a copy, synced, at most a second late (see `journal`): after a
//!                                   reboot kubelet must still learn what had run and how it ended
//! ```
//!
//! A record that cannot be read gives way to its copy. Where that cannot be read either, that one pod
//! is set aside under `<state>/unreadable/`, by its id, and what lives of it is ended: nobody can list
//! it any more, and the kubelet starts it a second time. The daemon starts all the same.
//!
//! A pod's directory without a record is a pod that is gone, or that never came to be. It stays until
//! the copy is gone, too, so that a copy that outlived its pod is known for what it is.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::{
    ContainerId, ContainerSpec, ContainerState, PodId, PodSpec, PodState, Resources, Signal,
    Timestamp,
};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::view::UserView;

/// The format that this daemon writes. Fields are only ever added, with a default; the number
/// changes when a reader of the old kind would draw a wrong conclusion.
pub(crate) const VERSION: u32 = 1;

/// A pod and its containers, as they are on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PodRecord {
    pub(crate) version: u32,
    /// The boot in which the pod was made (`/proc/sys/kernel/random/boot_id`).
    pub(crate) boot_id: String,
    pub(crate) id: PodId,
    pub(crate) spec: Arc<PodSpec>,
    pub(crate) created_at: Timestamp,
    pub(crate) state: PodState,
    /// Which process keeps it; absent before it started and after it was let go.
    #[serde(default)]
    pub(crate) keeper: Option<ProcessIdentity>,
    /// Its network; absent on the host's, before it was made and after it was released.
    #[serde(default)]
    pub(crate) network: Option<network::Attachment>,
    /// The cgroup directories that minke made for the pod, deepest first.
    #[serde(default)]
    pub(crate) cgroups_made: Vec<PathBuf>,
    #[serde(default)]
    pub(crate) containers: Vec<ContainerRecord>,
}

/// A container, as it is on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub(crate) id: ContainerId,
    pub(crate) spec: Arc<ContainerSpec>,
    pub(crate) created_at: Timestamp,
    pub(crate) state: ContainerState,
    pub(crate) facts: Arc<ContainerFacts>,
    pub(crate) resources: Resources,
    /// Its init while it lives.
    #[serde(default)]
    pub(crate) init: Option<ProcessIdentity>,
}

/// What creation found out about a container and nothing changes later.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ContainerFacts {
    pub(crate) image_id: String,
    pub(crate) image_ref: String,
    pub(crate) user: UserView,
    pub(crate) stop_signal: Signal,
    pub(crate) log_path: Option<PathBuf>,
    pub(crate) cgroup: String,
    /// Images mounted as volumes: path in the container to image id.
    #[serde(default)]
    pub(crate) image_volumes: std::collections::BTreeMap<String, String>,
}

/// A process that outlives the daemon: a number alone could mean another one by now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessIdentity {
    pub(crate) pid: u32,
    /// Clock ticks after boot (proc_pid_stat(5), field 22).
    pub(crate) start_time: u64,
}

impl ProcessIdentity {
    /// The process `pid` as it is now; none if it has ended.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name may hold spaces and parentheses; fields are counted from behind it.
        let fields = &stat[stat.rfind(')')? + 1..];
        let start_time = fields.split_ascii_whitespace().nth(19)?.parse().ok()?;
        Some(Self { pid, start_time })
    }

    /// Whether that very process still exists.
    pub(crate) fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }
}

/// The current boot's id.
pub(crate) fn boot_id() -> Result<String, Error> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let text = fs::read_to_string(path).map_err(file(path, "read"))?;
    Ok(text.trim().to_owned())
}

/// Names the file in an I/O error.
pub(crate) fn file(
    path: &Path,
    action: &'static str,
) -> impl FnOnce(std::io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::File { path, action, source }
}

/// Makes a directory that only root enters, with its parents.
pub(crate) fn make_private_dir(path: &Path) -> Result<(), Error> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(file(path, "created"))
}

/// Whether a replaced file must survive the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// It outlives this process.
    Process,
    /// It outlives a loss of power: written data first, then the name.
    Power,
}

/// Replaces `path` by `bytes`: a reader sees the old file or the new one, never a part.
pub(crate) fn replace(path: &Path, bytes: &[u8], durability: Durability) -> Result<(), Error> {
    let new = path.with_extension("new");
    let write = || {
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(bytes)?;
        if durability == Durability::Power {
            file.sync_all()?;
        }
        fs::rename(&new, path)?;
        if let (Durability::Power, Some(parent)) = (durability, path.parent()) {
            fs::File::open(parent)?.sync_all()?;
        }
        Ok(())
    };
    let written = write();
    if written.is_err() {
        // A part of a record takes room on a disk that may have none; often it is not even there.
        let _ = fs::remove_file(&new);
    }
    written.map_err(file(path, "written"))
}

/// What is in a directory of records.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) records: Vec<PodRecord>,
    pub(crate) unreadable: Vec<Unreadable>,
    /// Directories of pods without a record.
    pub(crate) gone: Vec<PathBuf>,
}

/// A record that could not be read, and why.
#[derive(Debug)]
pub(crate) struct Unreadable {
    pub(crate) path: PathBuf,
    pub(crate) error: Error,
}

/// Reads one record.
pub(crate) fn read(path: &Path) -> Result<PodRecord, Error> {
    let bytes = fs::read(path).map_err(file(path, "read"))?;
    let record: PodRecord = serde_json::from_slice(&bytes)
        .map_err(|error| file(path, "understood")(std::io::Error::other(error)))?;
    if record.version > VERSION {
        let why = format!("it has version {}, newer than {VERSION}", record.version);
        return Err(file(path, "understood")(std::io::Error::other(why)));
    }
    Ok(record)
}

/// Reads every record: the file `inner` of each directory in `dir`, or each `*.json`.
pub(crate) fn read_all(dir: &Path, inner: Option<&str>) -> Found {
    let mut found = Found::default();
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return found,
        Err(error) => {
            let error = file(dir, "read")(error);
            found.unreadable.push(Unreadable { path: dir.to_owned(), error });
            return found;
        }
    };
    for entry in entries.flatten() {
        let entry = entry.path();
        if inner.is_none() && entry.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let path = inner.map_or_else(|| entry.clone(), |inner| entry.join(inner));
        match read(&path) {
            Ok(record) => found.records.push(record),
            Err(_) if inner.is_some() && is_missing(&path) => found.gone.push(entry),
            Err(error) => found.unreadable.push(Unreadable { path: entry, error }),
        }
    }
    found
}

fn is_missing(path: &Path) -> bool {
    fs::symlink_metadata(path).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_itself_and_not_a_later_one_of_the_same_number() {
        let me = ProcessIdentity::of(std::process::id()).unwrap();
        assert!(me.is_alive());
        assert!(!ProcessIdentity { start_time: me.start_time + 1, ..me }.is_alive());
        assert_eq!(ProcessIdentity::of(0), None);
    }

    #[test]
    fn a_replaced_file_is_whole_and_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record.json");
        for durability in [Durability::Process, Durability::Power] {
            replace(&path, b"{}", durability).unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"{}");
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_bad_record_is_set_apart_and_the_others_are_read() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("bad.json"), b"{\"version\":1").unwrap();
        let good = serde_json::json!({
            "version": 1, "boot_id": "b", "id": "ab".repeat(32), "created_at": 1, "state": "Ready",
            "spec": {"metadata": {"name": "n", "uid": "u", "namespace": "s", "attempt": 0}},
            "a_field_of_tomorrow": true,
        });
        fs::write(dir.path().join("good.json"), good.to_string()).unwrap();
        let newer = good.to_string().replace("\"version\":1", "\"version\":99");
        fs::write(dir.path().join("newer.json"), newer).unwrap();
        let found = read_all(dir.path(), None);
        assert_eq!(found.records.len(), 1);
        let mut names: Vec<_> =
            found.unreadable.iter().map(|u| u.path.file_name().unwrap()).collect();
        names.sort();
        assert_eq!(names, ["bad.json", "newer.json"]);
    }
}
