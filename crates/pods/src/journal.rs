//! Writes records: at once where the daemon's restart needs them, a second later where a reboot does.
//!
//! ```text
//!   save(pod) --> <state>/pods/<id>/record.json (rename, no sync) --> marked dirty
//!                                                                        |  the copier sleeps until then
//!                                                                        v
//!                 one second later: <root>/pods/<id>.json (synced) for all that are dirty
//! ```

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::slice;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use model::PodId;
use tokio::sync::Notify;

use crate::error::Error;
use crate::pod::Pod;
use crate::record::{self, Durability, PodRecord, Unreadable};

/// How far the copy that survives a reboot may lag.
const LAG: Duration = Duration::from_secs(1);
/// How soon a copy that failed is tried again.
const AGAIN: Duration = Duration::from_secs(10);

/// The two places where records are kept.
#[derive(Debug)]
pub(crate) struct Journal {
    state: PathBuf,
    root: PathBuf,
    dirty: Mutex<HashSet<PodId>>,
    wake: Notify,
}

impl Journal {
    /// Makes the directories below `state` (as /run/minke) and `root` (as /var/lib/minke).
    pub(crate) fn open(state: &Path, root: &Path) -> Result<Self, Error> {
        let (state_pods, root_pods) = (state.join("pods"), root.join("pods"));
        for dir in [state, root, &state_pods, &root_pods] {
            record::make_private_dir(dir)?;
        }
        Ok(Self {
            state: state_pods,
            root: root_pods,
            dirty: Mutex::default(),
            wake: Notify::new(),
        })
    }

    /// The pod's own directory below the state directory.
    pub(crate) fn pod_dir(&self, id: &PodId) -> PathBuf {
        self.state.join(id.as_str())
    }

    /// Writes the pod's record and has the copy follow.
    pub(crate) async fn save(self: &Arc<Self>, pod: &Arc<Pod>) -> Result<(), Error> {
        let (journal, pod) = (Arc::clone(self), Arc::clone(pod));
        let saved = tokio::task::spawn_blocking(move || journal.write(&pod));
        saved.await.unwrap_or(Err(Error::Internal("a record's writer was stopped")))
    }

    /// [`Journal::save`] for those who may block.
    pub(crate) fn write(&self, pod: &Pod) -> Result<(), Error> {
        let path = self.pod_dir(&pod.id).join("record.json");
        match pod.recorded(|record| write(&path, record, Durability::Process)) {
            Some(written) => written.map(|()| self.mark(&pod.id)),
            None => Ok(()),
        }
    }

    /// Writes down what has happened already, whether that can be written down or not: a full disk
    /// must not keep a pod from ending. The next change of the pod tells this one, too.
    pub(crate) async fn note(self: &Arc<Self>, pod: &Arc<Pod>) {
        if let Err(error) = self.save(pod).await {
            let pod = pod.id.as_str();
            tracing::error!(pod, error = &error as &dyn std::error::Error, "the record is behind");
        }
    }

    /// Removes the pod's record and files at once; its copy follows within the lag, and then the
    /// empty directory.
    pub(crate) async fn erase(self: &Arc<Self>, pod: &Arc<Pod>) -> Result<(), Error> {
        let (journal, pod) = (Arc::clone(self), Arc::clone(pod));
        let erased = tokio::task::spawn_blocking(move || {
            let dir = journal.pod_dir(&pod.id);
            // The record first: without it, the rest is known to be of nobody.
            let record = dir.join("record.json");
            pod.erased(|| remove(&record, |path| fs::remove_file(path)))?;
            for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                remove(&entry.path(), |path| match path.is_dir() && !path.is_symlink() {
                    true => fs::remove_dir_all(path),
                    false => fs::remove_file(path),
                })?;
            }
            journal.mark(&pod.id);
            Ok(())
        });
        erased.await.unwrap_or(Err(Error::Internal("a record's eraser was stopped")))
    }

    fn mark(&self, id: &PodId) {
        self.dirty.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone());
        self.wake.notify_one();
    }

    /// Copies what has changed, a second after it did, again and again where that fails; runs until
    /// it is dropped.
    pub(crate) async fn copy_changes(self: Arc<Self>) {
        let mut behind = false;
        loop {
            self.wake.notified().await;
            tokio::time::sleep(if behind { AGAIN } else { LAG }).await;
            let journal = Arc::clone(&self);
            let copied = tokio::task::spawn_blocking(move || journal.flush()).await;
            if let Ok(Err(error)) = &copied
                && !behind
            {
                // The pods themselves are well.
                tracing::warn!(error = error as &dyn std::error::Error, "records are not copied");
            }
            behind = !matches!(copied, Ok(Ok(())));
            if behind {
                self.wake.notify_one();
            }
        }
    }

    /// Copies all that has changed, now.
    pub(crate) fn flush(&self) -> Result<(), Error> {
        let dirty = std::mem::take(&mut *self.dirty.lock().unwrap_or_else(PoisonError::into_inner));
        let mut result = Ok(());
        for id in dirty {
            if let Err(error) = self.copy(&id) {
                self.dirty.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
                result = Err(error);
            }
        }
        result
    }

    fn copy(&self, id: &PodId) -> Result<(), Error> {
        let from = self.pod_dir(id).join("record.json");
        let to = self.root.join(id.as_str()).with_extension("json");
        match fs::read(&from) {
            Ok(bytes) => record::replace(&to, &bytes, Durability::Power),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                remove(&to, |path| fs::remove_file(path))?;
                remove(&self.pod_dir(id), |path| fs::remove_dir_all(path))
            }
            Err(error) => Err(record::file(&from, "read")(error)),
        }
    }

    /// Every record of this boot's daemon or of an earlier boot's. What remains of pods that are
    /// gone is removed.
    pub(crate) fn load(&self) -> Loaded {
        let mut found = record::read_all(&self.state, Some("record.json"));
        let copies = record::read_all(&self.root, None);
        let known: HashSet<PodId> = found.records.iter().map(|record| record.id.clone()).collect();
        let named = |paths: &[PathBuf], id: &PodId| {
            paths.iter().any(|path| path.file_name().is_some_and(|name| name == id.as_str()))
        };
        let mut restored = Vec::new();
        for copy in copies.records {
            let bad =
                found.unreadable.iter().position(|bad| named(slice::from_ref(&bad.path), &copy.id));
            match bad {
                _ if known.contains(&copy.id) || named(&found.gone, &copy.id) => continue,
                Some(bad) => restored.push(found.unreadable.remove(bad)),
                None => {}
            }
            found.records.push(copy);
        }
        for path in &found.gone {
            let Some(name) = path.file_name() else { continue };
            let copy = self.root.join(name).with_extension("json");
            let removed = remove(&copy, |path| fs::remove_file(path))
                .and_then(|()| remove(path, |path| fs::remove_dir_all(path)));
            if let Err(error) = removed {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(path = %path.display(), error, "remains of a pod stay");
            }
        }
        let lost = found.unreadable.into_iter().chain(copies.unreadable).collect();
        Loaded { records: found.records, restored, lost }
    }

    /// Moves a bad record, or a pod's directory with one, out of the next daemon's way.
    pub(crate) fn set_aside(&self, path: &Path) {
        let (Some(name), Some(parent)) = (path.file_name(), path.parent().and_then(Path::parent))
        else {
            return;
        };
        let aside = parent.join("unreadable");
        let moved = record::make_private_dir(&aside).and_then(|()| {
            fs::rename(path, aside.join(name)).map_err(record::file(path, "set aside"))
        });
        if let Err(error) = moved {
            tracing::warn!(error = &error as &dyn std::error::Error, "a bad record stays in place");
        }
    }
}

/// What an earlier daemon has left.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) records: Vec<PodRecord>,
    /// Bad records whose copies are among the good ones.
    pub(crate) restored: Vec<Unreadable>,
    /// Bad records of which there is no good copy.
    pub(crate) lost: Vec<Unreadable>,
}

/// Removes what may be gone already.
fn remove(path: &Path, how: impl FnOnce(&Path) -> std::io::Result<()>) -> Result<(), Error> {
    match how(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(record::file(path, "removed")(error))
        }
        _ => Ok(()),
    }
}

fn write(path: &Path, record: &PodRecord, durability: Durability) -> Result<(), Error> {
    let bytes = serde_json::to_vec(record)
        .map_err(|error| record::file(path, "rendered")(std::io::Error::other(error)))?;
    record::replace(path, &bytes, durability)
}
