//! What a container has written: a walk over its writable layer, off the call path.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use model::Timestamp;

use crate::view::DiskUsage;

/// How old an answer may be before the next question starts a new walk.
const FRESH: Duration = Duration::from_secs(10);

/// The last walk over one directory, and whether one is under way.
#[derive(Debug, Default)]
pub(crate) struct Usage(Mutex<Cell>);

#[derive(Debug, Default)]
struct Cell {
    last: Option<(Instant, DiskUsage)>,
    walking: bool,
}

impl Usage {
    /// The last answer, none before the first; starts a walk over `dir` if that is too old. Must be
    /// called from within the runtime.
    pub(crate) fn ask(self: &Arc<Self>, dir: PathBuf) -> Option<DiskUsage> {
        let mut cell = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = cell.last.as_ref().is_some_and(|(at, _)| at.elapsed() < FRESH);
        if !fresh && !cell.walking {
            cell.walking = true;
            let usage = Arc::clone(self);
            tokio::task::spawn_blocking(move || {
                let (bytes, inodes) = walk(&dir);
                let mountpoint = dir.display().to_string();
                let walked = DiskUsage { at: Timestamp::now(), mountpoint, bytes, inodes };
                let mut cell = usage.0.lock().unwrap_or_else(PoisonError::into_inner);
                cell.last = Some((Instant::now(), walked));
                cell.walking = false;
            });
        }
        cell.last.as_ref().map(|(_, usage)| usage.clone())
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

    #[tokio::test]
    async fn the_first_answer_may_be_none_and_a_later_one_is_there() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), b"x").unwrap();
        let usage = Arc::new(Usage::default());
        assert_eq!(usage.ask(dir.path().to_owned()), None);
        for _ in 0..500 {
            if let Some(answer) = usage.ask(dir.path().to_owned()) {
                assert_eq!(answer.inodes, 1);
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no walk ended");
    }
}
