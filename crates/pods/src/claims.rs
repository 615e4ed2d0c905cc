//! The cgroup directories above containers' own that minke has made: each goes with the last of the
//! pods that need it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many pods claim which directory.
#[derive(Debug, Default, Clone)]
pub(crate) struct Claims(Arc<Mutex<HashMap<Arc<Path>, usize>>>);

/// What one pod claims, deepest first: one directory at least. Given up when it is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    directories: Vec<Arc<Path>>,
    among: Claims,
}

impl Claims {
    /// Notes that these are to go with a pod; nothing where there are none.
    pub(crate) fn claim(&self, directories: Vec<PathBuf>) -> Option<Claim> {
        if directories.is_empty() {
            return None;
        }
        let directories: Vec<Arc<Path>> = directories.into_iter().map(Arc::from).collect();
        let mut counts = self.counts();
        for directory in &directories {
            *counts.entry(Arc::clone(directory)).or_default() += 1;
        }
        drop(counts);
        Some(Claim { directories, among: self.clone() })
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
        let own = vec![shared.join("first"), shared.to_owned()];
        let first = claims.claim(own.clone()).unwrap();
        let second = claims.claim(vec![shared.to_owned()]);
        assert_eq!(first.to_vec(), own);
        drop(first);
        assert!(claims.include(shared) && !claims.include(&shared.join("first")));
        drop(second);
        assert!(!claims.include(shared) && claims.claim(Vec::new()).is_none());
    }
}
