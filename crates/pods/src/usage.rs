//! What a container has written: a walk over its writable layer, off the call path.
//!
//! A question starts a walk and is answered by the last one, if that is not too old. Where there is
//! none it waits a moment for the walk that it has started: who asks every ten seconds, as the kubelet
//! does, would otherwise hear of small layers no more than of large ones. A walk that takes longer
//! answers the next question.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use model::Timestamp;

use crate::view::DiskUsage;

/// How old an answer may be.
const OLDEST: Duration = Duration::from_secs(10);

/// How old an answer may be before the next question starts a new walk.
const FRESH: Duration = Duration::from_secs(5);

/// How long a question waits for walks, all of them together.
pub(crate) const PATIENCE: Duration = Duration::from_millis(50);

/// The last walk over one directory, and whether one is under way.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    cell: Mutex<Cell>,
    walked: Condvar,
}

#[derive(Debug, Default)]
struct Cell {
    last: Option<(Instant, DiskUsage)>,
    walking: bool,
}

impl Cell {
    fn younger_than(&self, age: Duration) -> Option<&DiskUsage> {
        let (at, usage) = self.last.as_ref()?;
        (at.elapsed() < age).then_some(usage)
    }
}

impl Usage {
    /// Starts a walk over `dir` if the last answer is not fresh. Must be called from within the
    /// runtime.
    pub(crate) fn refresh(self: &Arc<Self>, dir: PathBuf) {
        let mut cell = self.cell.lock().unwrap_or_else(PoisonError::into_inner);
        if cell.walking || cell.younger_than(FRESH).is_some() {
            return;
        }
        cell.walking = true;
        let usage = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            let (bytes, inodes) = walk(&dir);
            let mountpoint = dir.display().to_string();
            let walked = DiskUsage { at: Timestamp::now(), mountpoint, bytes, inodes };
            let mut cell = usage.cell.lock().unwrap_or_else(PoisonError::into_inner);
            cell.last = Some((Instant::now(), walked));
            cell.walking = false;
            usage.walked.notify_all();
        });
    }

    /// The last answer; without one, that of the walk under way, if it ends in time. Blocks until
    /// `until` at most.
    pub(crate) fn answer(&self, until: Instant) -> Option<DiskUsage> {
        let cell = self.cell.lock().unwrap_or_else(PoisonError::into_inner);
        let left = until.saturating_duration_since(Instant::now());
        let waiting = |cell: &mut Cell| cell.walking && cell.younger_than(OLDEST).is_none();
        let waited = self.walked.wait_timeout_while(cell, left, waiting);
        let (cell, _) = waited.unwrap_or_else(PoisonError::into_inner);
        cell.younger_than(OLDEST).cloned()
    }
}

/// Bytes allocated and inodes below `dir`, itself not counted; a hard-linked file counts once. What
/// vanishes under the walk is left out.
fn walk(dir: &Path) -> (u64, u64) {
    let (mut bytes, mut inodes) = (0, 0);
    let mut seen = HashSet::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(metadata) = fs::symlink_metadata(entry.path()) else { continue };
            if metadata.nlink() > 1 && !metadata.is_dir() && !seen.insert(metadata.ino()) {
                continue;
            }
            bytes += metadata.blocks() * 512;
            inodes += 1;
            if metadata.is_dir() {
                dirs.push(entry.path());
            }
        }
    }
    (bytes, inodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(inodes: u64) -> DiskUsage {
        DiskUsage { at: Timestamp(0), mountpoint: "/".into(), bytes: 0, inodes }
    }

    #[test]
    fn hard_links_count_once_and_allocated_bytes_are_told() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        fs::write(dir.path().join("d/a"), vec![1; 8192]).unwrap();
        fs::hard_link(dir.path().join("d/a"), dir.path().join("b")).unwrap();
        let (bytes, inodes) = walk(dir.path());
        assert_eq!(inodes, 2);
        assert!((8192..8192 + 64 * 1024).contains(&bytes), "{bytes}");
        assert_eq!(walk(&dir.path().join("none")), (0, 0));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_question_is_answered_by_the_walk_that_it_starts() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), b"x").unwrap();
        let usage = Arc::new(Usage::default());
        assert_eq!(usage.answer(Instant::now() + PATIENCE), None, "nobody has asked");
        usage.refresh(dir.path().to_owned());
        let answer = usage.answer(Instant::now() + Duration::from_secs(30)).unwrap();
        assert_eq!(answer.inodes, 1);
        assert_eq!(usage.answer(Instant::now()), Some(answer), "it is remembered");
    }

    #[test]
    fn an_old_answer_is_none_and_a_long_walk_is_not_waited_for() {
        let Some(long_ago) = Instant::now().checked_sub(OLDEST) else { return };
        let last = Some((long_ago, usage(1)));
        let old = Usage { cell: Mutex::new(Cell { last, walking: true }), ..Usage::default() };
        let asked = Instant::now();
        assert_eq!(old.answer(asked + PATIENCE), None);
        assert!(asked.elapsed() >= PATIENCE);
        let last = Some((Instant::now(), usage(2)));
        let young = Usage { cell: Mutex::new(Cell { last, walking: true }), ..Usage::default() };
        let asked = Instant::now();
        assert_eq!(young.answer(asked + Duration::from_secs(30)), Some(usage(2)));
        assert!(asked.elapsed() < Duration::from_secs(10), "there was an answer");
    }
}
