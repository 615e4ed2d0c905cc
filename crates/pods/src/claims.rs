//! The cgroup directories above containers' own that minke has made: each goes with the last of the
//! pods that need it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many pods claim which directory.
#[derive(Debug, Default, Clone)]
pub(crate) struct Claims(Arc<Mutex<HashMap<Arc<Path>, usize>>>);

/// What one pod claims, deepest first; given up when it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Claim {
    directories: Vec<Arc<Path>>,
    among: Claims,
}

impl Claims {
    /// Notes that these are to go with a pod.
    pub(crate) fn claim(&self, directories: impl IntoIterator<Item = PathBuf>) -> Claim {
        let directories: Vec<Arc<Path>> = directories.into_iter().map(Arc::from).collect();
        let mut counts = self.counts();
        for directory in &directories {
            *counts.entry(Arc::clone(directory)).or_default() += 1;
        }
        drop(counts);
        Claim { directories, among: self.clone() }
    }

    /// Whether a pod claims it.
    pub(crate) fn include(&self, directory: &Path) -> bool {
        self.counts().contains_key(directory)
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<Arc<Path>, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim {
    pub(crate) fn is_empty(&self) -> bool {
        self.directories.is_empty()
    }

    pub(crate) fn to_vec(&self) -> Vec<PathBuf> {
        self.directories.iter().map(|directory| directory.to_path_buf()).collect()
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut counts = self.among.counts();
        for directory in &self.directories {
            if let Some(count) = counts.get_mut(directory) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(directory);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_claimed_until_the_last_pod_gives_it_up() {
        let claims = Claims::default();
        let shared = Path::new("/cgroup/pods");
        let first = claims.claim([shared.join("first"), shared.to_owned()]);
        let second = claims.claim([shared.to_owned()]);
        assert_eq!(first.to_vec(), [shared.join("first"), shared.to_owned()]);
        drop(first);
        assert!(claims.include(shared) && !claims.include(&shared.join("first")));
        drop(second);
        assert!(!claims.include(shared));
    }
}
