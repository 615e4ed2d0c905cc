//! Names go, images go, and then whatever nothing else uses.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use model::{Digest, ImageRef};

use crate::error::Error;
use crate::image::Record;
use crate::store::{Inner, Store, blocking};

/// Downloads and unpacked layers that belong to no image wait this long for a pull to go on.
const PATIENCE: Duration = Duration::from_secs(24 * 60 * 60);

impl Store {
    /// Removes what `name` means: an id takes the image with all its names; a tag or a repo digest
    /// only itself, and the image with the last tag. When it returns, everything that nothing else
    /// uses is deleted; if the image is in use, that happens with its last [`Store::release`].
    /// Nothing there is fine. Works on a full disk.
    ///
    /// # Errors
    /// [`Error::Ambiguous`]; [`Error::Disk`].
    pub async fn remove(&self, name: &str) -> Result<(), Error> {
        let inner = &self.inner;
        let _writer = inner.writer.lock().await;
        let record = {
            let state = inner.state();
            let id = match state.resolve(name) {
                Err(Error::NotFound { .. }) => return Ok(()),
                id => id?,
            };
            let Some(entry) = state.images.get(&id) else { return Ok(()) };
            let mut record = entry.record.clone();
            match name.parse::<ImageRef>() {
                Ok(reference) if state.names.contains_key(&plain(&reference)) => {
                    forget(&mut record.names, &plain(&reference));
                }
                _ => record.names.clear(),
            }
            record
        };
        inner.rename(record).await
    }

    /// Ends the leases of `holder`, and deletes the images that waited for it. Nothing there is fine.
    ///
    /// # Errors
    /// [`Error::Disk`]; the leases have ended all the same.
    pub async fn release(&self, holder: &str) -> Result<(), Error> {
        let inner = &self.inner;
        let waiting: Vec<Digest> = {
            let mut state = inner.state();
            state.leases.retain(|_, holders| {
                holders.remove(holder);
                !holders.is_empty()
            });
            state.abandoned()
        };
        if waiting.is_empty() {
            return Ok(());
        }
        let _writer = inner.writer.lock().await;
        for id in waiting {
            inner.delete(id).await?;
        }
        Ok(())
    }

    /// To be called once at the start, when every container from before has its lease again:
    /// removals take place from here on, those that had to wait for this moment at once. Downloads
    /// and layers that have belonged to no image for a day are deleted.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub async fn adopted(&self) -> Result<(), Error> {
        let inner = &self.inner;
        let _writer = inner.writer.lock().await;
        let waiting = {
            let mut state = inner.state();
            state.adopted = true;
            state.abandoned()
        };
        for id in waiting {
            inner.delete(id).await?;
        }
        let this = Arc::clone(inner);
        blocking(move || this.sweep(SystemTime::now())).await
    }
}

/// The form under which a reference is known: the digest counts more than the tag.
fn plain(reference: &ImageRef) -> ImageRef {
    match reference.digest() {
        Some(digest) => reference.with_digest(digest.clone()),
        None => reference.clone(),
    }
}

/// Takes a name away. With a repository's last tag go its digests, which came with it, and without
/// any tag nothing else holds an image that was pulled by one.
fn forget(names: &mut Vec<ImageRef>, gone: &ImageRef) {
    names.retain(|name| name != gone);
    let tagged = |names: &[ImageRef], of: &str| {
        names.iter().any(|name| name.tag().is_some() && name.name() == of)
    };
    if gone.tag().is_some() && !tagged(names, &gone.name()) {
        names.retain(|name| name.name() != gone.name());
    }
}

impl crate::store::State {
    /// Images without a name and without a user.
    fn abandoned(&self) -> Vec<Digest> {
        if !self.adopted {
            return Vec::new();
        }
        let unused = self.images.values().filter(|entry| !entry.is_listed());
        let ids = unused.map(|entry| entry.record.id.clone());
        ids.filter(|id| !self.leases.contains_key(id)).collect()
    }
}

impl Inner {
    /// Gives an image the names of `record`; without any it is hidden, and deleted if nobody uses
    /// it. The caller holds the writer's lock.
    pub(crate) async fn rename(self: &Arc<Self>, mut record: Record) -> Result<(), Error> {
        record.updated = Record::now();
        let id = record.id.clone();
        let this = Arc::clone(self);
        blocking(move || {
            let path = this.disk.image(&record.id);
            if record.names.is_empty() {
                // A rename within the directory takes no space.
                let hidden = this.disk.removed_image(&record.id);
                std::fs::rename(&path, &hidden).map_err(Error::disk("hide", &path))?;
            } else {
                this.disk.write_record(&path, &record)?;
            }
            let mut state = this.state();
            state.names.retain(|name, id| *id != record.id || record.names.contains(name));
            if let Some(entry) = state.images.get_mut(&record.id) {
                entry.record = record;
            }
            Ok(())
        })
        .await?;
        let abandoned = self.state().abandoned().contains(&id);
        if abandoned { self.delete(id).await } else { Ok(()) }
    }

    /// Deletes a hidden image with all that only it uses. The caller holds the writer's lock.
    async fn delete(self: &Arc<Self>, id: Digest) -> Result<(), Error> {
        let this = Arc::clone(self);
        blocking(move || {
            let Some(record) = this.take(&id) else { return Ok(()) };
            this.disk.remove(&this.disk.removed_image(&id))?;
            this.disk.remove(&this.disk.image(&id))?;
            this.delete_unused(&record.layers, &record.blobs)
        })
        .await
    }

    /// Takes an image out of memory, unless it got a name or a user in the meantime.
    fn take(&self, id: &Digest) -> Option<Record> {
        let mut state = self.state();
        let entry = state.images.get(id)?;
        if entry.is_listed() || state.leases.contains_key(id) {
            return None;
        }
        state.images.remove(id).map(|entry| entry.record)
    }

    /// Deletes those of the layers and blobs that nothing uses. They lose their names first, at
    /// once; one that cannot be deleted keeps nobody from deleting the others.
    fn delete_unused(&self, layers: &[Digest], blobs: &[Digest]) -> Result<(), Error> {
        let files = self.files();
        let (layers, blobs) = {
            let mut state = self.state();
            let layers = state.unused(layers, |record| &record.layers);
            let blobs = state.unused(blobs, |record| &record.blobs);
            state.layers.retain(|id, _| !layers.contains(id));
            state.blobs.retain(|id, _| !blobs.contains(id));
            (layers, blobs)
        };
        let mut done = Ok(());
        let mut gone = Vec::with_capacity(layers.len() + blobs.len());
        for id in &layers {
            // The record goes first: a layer without one counts for nothing.
            done = done.and(self.disk.remove(&self.disk.layer_record(id)));
            gone.push(self.disk.take_away(self.disk.layer(id)));
        }
        gone.extend(blobs.iter().map(|id| self.disk.take_away(self.disk.blob(id))));
        drop(files);
        gone.iter().fold(done, |done, path| done.and(self.disk.remove(path)))
    }

    /// Deletes what belongs to no image and has not been touched for a day.
    fn sweep(&self, now: SystemTime) -> Result<(), Error> {
        let is_old = |path: &std::path::Path| {
            let changed = std::fs::symlink_metadata(path).map(|stat| {
                use std::os::unix::fs::MetadataExt;
                SystemTime::UNIX_EPOCH + Duration::from_secs(stat.ctime().max(0).unsigned_abs())
            });
            changed.is_ok_and(|changed| now.duration_since(changed).is_ok_and(|age| age > PATIENCE))
        };
        for (_, path) in self.disk.entries("ingest")? {
            if is_old(&path) {
                self.disk.remove(&path)?;
            }
        }
        let (mut layers, mut blobs): (Vec<_>, Vec<_>) = {
            let state = self.state();
            (state.layers.keys().cloned().collect(), state.blobs.keys().cloned().collect())
        };
        layers.retain(|id| is_old(&self.disk.layer_record(id)));
        blobs.retain(|id| is_old(&self.disk.blob(id)));
        self.delete_unused(&layers, &blobs)
    }
}

impl crate::store::State {
    /// Those of `candidates` that no image's record names and no running pull counts on.
    fn unused(&self, candidates: &[Digest], part: fn(&Record) -> &Vec<Digest>) -> Vec<Digest> {
        let used: HashSet<&Digest> =
            self.images.values().flat_map(|entry| part(&entry.record)).collect();
        let free = |id: &&Digest| !used.contains(id) && !self.busy.contains_key(*id);
        let mut free: Vec<Digest> = candidates.iter().filter(free).cloned().collect();
        free.sort();
        free.dedup();
        free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_nobody_wanted_for_a_day_is_swept_and_nothing_younger() {
        let dir = tempfile::tempdir().unwrap();
        let config = crate::Config { root: dir.path().to_owned(), ..crate::Config::default() };
        let registry = registry::Registry::new(registry::Config::default());
        let store = Store::open(config, registry).unwrap();
        let inner = &store.inner;
        let orphan = crate::pull::digest_of(b"orphan");
        inner.keep(&orphan, b"orphan").unwrap();
        let begun = inner.disk.ingest(&orphan);
        std::fs::write(&begun, "begun").unwrap();
        let there = || (begun.exists(), inner.disk.blob(&orphan).exists(), store.usage().inodes);
        let now = SystemTime::now();
        inner.sweep(now + Duration::from_secs(23 * 3600)).unwrap();
        assert_eq!(there(), (true, true, 1));
        let mut busy = crate::pull::Busy::new(inner);
        busy.add(&orphan);
        inner.sweep(now + Duration::from_secs(25 * 3600)).unwrap();
        assert_eq!(there(), (false, true, 1), "a running pull counts on the blob");
        drop(busy);
        inner.sweep(now + Duration::from_secs(25 * 3600)).unwrap();
        assert_eq!(there(), (false, false, 0));
    }

    #[test]
    fn a_repositorys_last_tag_takes_its_digests_along() {
        let hex = "a".repeat(64);
        let parse = |name: &str| name.parse::<ImageRef>().unwrap();
        let digest = |of: &str| parse(&format!("{of}@sha256:{hex}"));
        let mut names = vec![parse("a:1"), parse("a:2"), digest("a"), parse("b:1"), digest("b")];
        forget(&mut names, &parse("a:1"));
        assert_eq!(names, [parse("a:2"), digest("a"), parse("b:1"), digest("b")]);
        forget(&mut names, &digest("b"));
        assert_eq!(names, [parse("a:2"), digest("a"), parse("b:1")]);
        forget(&mut names, &parse("a:2"));
        assert_eq!(names, [parse("b:1")]);
    }
}
