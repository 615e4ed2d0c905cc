//! Brings one layer onto the disk: from its blob if that is kept, else from the registry.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, Weak};

use model::Digest;
use registry::Repository;
use tokio::sync::mpsc;

use crate::document::Descriptor;
use crate::error::Error;
use crate::flight::Counter;
use crate::pull::digest_of;
use crate::store::{Inner, Layer, LayerRecord, blob_bytes, blocking};
use crate::stream::{self, PIECES, Source};
use crate::tar::TarError;
use crate::tree::Usage;
use crate::unpack::{self, UnpackError};

/// Held by whoever works on a layer.
type Alone = Arc<tokio::sync::OwnedMutexGuard<()>>;

/// What goes wrong below a stream shows up above it too; this keeps the cause.
enum Failure {
    /// The archive or the disk under the layer.
    Unpack(UnpackError),
    /// The compressed stream.
    Inflate(std::io::Error),
}

/// What both threads found out.
struct Outcome {
    /// Digest and length of the compressed stream, if all of it came.
    blob: std::io::Result<(Digest, u64)>,
    unpacked: Result<(Usage, Digest), Failure>,
}

impl Inner {
    /// Makes sure that the layer is there, unpacked. Two that want the same layer wait for each
    /// other.
    pub(crate) async fn fetch_layer(
        self: &Arc<Self>,
        repository: &Repository,
        blob: &Descriptor,
        diff_id: &Digest,
        counter: &Counter,
    ) -> Result<(), Error> {
        let lock = self.layer_lock(diff_id);
        // A pull that is given up leaves its thread behind for a moment, which holds on to this.
        let alone: Alone = Arc::new(lock.lock_owned().await);
        if self.state().layers.contains_key(diff_id) {
            counter.add(blob.size);
            return Ok(());
        }
        match self.unpack_kept(blob, diff_id, &alone).await {
            Some(Ok(())) => {
                counter.add(blob.size);
                return Ok(());
            }
            Some(Err(error)) if !matches!(error, Error::Digest { .. }) => return Err(error),
            _ => {}
        }
        loop {
            let (result, origin, begun) =
                self.download(repository, blob, diff_id, &alone, counter).await;
            let Err(error) = result else { return Ok(()) };
            // Wrong content: its beginning may be left from an earlier pull, or another host may
            // have the right one.
            if !matches!(error, Error::Digest { .. }) {
                return Err(error);
            }
            counter.take_back(blob.size);
            let retry = begun > 0 || origin.is_some_and(|origin| repository.distrust(&origin));
            if !retry {
                return Err(error);
            }
            tracing::warn!(%error, "the layer is fetched again");
        }
    }

    fn layer_lock(&self, diff_id: &Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut state = self.state();
        state.layer_locks.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = state.layer_locks.get(diff_id).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::default();
        state.layer_locks.insert(diff_id.clone(), Arc::downgrade(&lock));
        lock
    }

    /// Unpacks a blob that was put among the blobs before.
    pub(crate) async fn unpack_layer(
        self: &Arc<Self>,
        blob: &Descriptor,
        diff_id: &Digest,
    ) -> Result<(), Error> {
        let lock = self.layer_lock(diff_id);
        let alone: Alone = Arc::new(lock.lock_owned().await);
        if self.state().layers.contains_key(diff_id) {
            return Ok(());
        }
        let unpacked = self.unpack_kept(blob, diff_id, &alone).await;
        unpacked.unwrap_or_else(|| Err(Error::NotKept { digest: blob.digest.clone() }))
    }

    /// Unpacks the blob that is kept; none if there is none. A damaged one is deleted.
    async fn unpack_kept(
        self: &Arc<Self>,
        blob: &Descriptor,
        diff_id: &Digest,
        alone: &Alone,
    ) -> Option<Result<(), Error>> {
        let path = self.disk.blob(&blob.digest);
        let file = File::open(&path).ok()?;
        let done = if file.metadata().is_ok_and(|file| file.len() == blob.size) {
            let source = Source::of_file(file, blob.size);
            self.unpack(source, blob, diff_id, Kept::Blob, alone).await
        } else {
            let got = digest_of(b"");
            Err(Error::Digest { expected: blob.digest.clone(), got })
        };
        if let Err(Error::Digest { .. }) = done {
            let this = Arc::clone(self);
            let digest = blob.digest.clone();
            let removed = blocking(move || {
                let _files = this.files();
                this.state().blobs.remove(&digest);
                this.disk.remove(&this.disk.blob(&digest))
            });
            if let Err(error) = removed.await {
                return Some(Err(error));
            }
        }
        Some(done)
    }

    /// Fetches what is missing of the layer while it is unpacked. Says too which host gave it, and
    /// how much of it was there before.
    async fn download(
        self: &Arc<Self>,
        repository: &Repository,
        blob: &Descriptor,
        diff_id: &Digest,
        alone: &Alone,
        counter: &Counter,
    ) -> (Result<(), Error>, Option<String>, u64) {
        let path = self.disk.ingest(&blob.digest);
        let open = || -> std::io::Result<_> {
            let mut options = OpenOptions::new();
            options.append(true).create(true).mode(0o600);
            let keep = options.open(&path)?;
            let mut begun = keep.metadata()?.len();
            if begun > blob.size {
                keep.set_len(0)?;
                begun = 0;
            }
            Ok((keep, File::open(&path)?, begun))
        };
        let (keep, begun_file, begun) = match open() {
            Ok(opened) => opened,
            Err(error) => return (Err(Error::disk("open", &path)(error)), None, 0),
        };
        counter.add(begun);
        let (send, receive) = mpsc::channel(PIECES);
        let source = Source::of_network(begun_file, begun, keep, receive, blob.size);
        let unpacking = self.unpack(source, blob, diff_id, Kept::Ingest, alone);
        let mut transfer = repository.blob(&blob.digest, blob.size, begun);
        let mut origin = None;
        let fetching = async {
            while let Some(piece) = transfer.chunk().await? {
                let length = piece.len() as u64;
                origin = transfer.origin();
                if send.send(piece).await.is_err() {
                    // The other side says why.
                    break;
                }
                counter.add(length);
            }
            drop(send);
            Ok::<_, Error>(())
        };
        let (fetched, unpacked) = tokio::join!(fetching, unpacking);
        // A transfer that failed makes everything behind it fail; the cause is what counts.
        (fetched.and(unpacked), origin, begun)
    }

    /// Runs the two threads of `stream` and installs what they made if it is what it should be.
    async fn unpack(
        self: &Arc<Self>,
        source: Source,
        blob: &Descriptor,
        diff_id: &Digest,
        kept: Kept,
        alone: &Alone,
    ) -> Result<(), Error> {
        let this = Arc::clone(self);
        let (blob, diff_id, alone) = (blob.clone(), diff_id.clone(), Arc::clone(alone));
        blocking(move || {
            let _alone = alone;
            let staged = this.disk.stage()?;
            let outcome = run(source, staged.path());
            let whole = match outcome.blob {
                Ok((digest, length)) if digest == blob.digest && length == blob.size => true,
                Ok((got, _)) => {
                    if kept == Kept::Ingest {
                        this.disk.remove(&this.disk.ingest(&blob.digest))?;
                    }
                    return Err(Error::Digest { expected: blob.digest, got });
                }
                Err(_) => false,
            };
            let digest = blob.digest.clone();
            let unpacked = outcome.unpacked.map_err(|failure| match failure {
                Failure::Unpack(source) => Error::Unpack { digest, source },
                Failure::Inflate(source) => Error::Inflate { digest, source },
            });
            if kept == Kept::Ingest && unpacked.as_ref().is_err_and(|error| error.is_disk_full()) {
                // What was downloaded is not worth the last of the space.
                this.disk.remove(&this.disk.ingest(&blob.digest))?;
            }
            let (usage, got) = unpacked?;
            if got != diff_id || !whole {
                return Err(Error::DiffId { blob: blob.digest, expected: diff_id, got });
            }
            this.install(&blob, &diff_id, usage, kept, staged.path())
        })
        .await
    }

    /// Gives a layer and its blob their names, and their place in memory.
    fn install(
        &self,
        blob: &Descriptor,
        diff_id: &Digest,
        usage: Usage,
        kept: Kept,
        staged: &std::path::Path,
    ) -> Result<(), Error> {
        let boot = Some(self.disk.boot().to_owned());
        let record = LayerRecord { usage, unsynced_in_boot: boot };
        let path = self.disk.layer(diff_id);
        let _files = self.files();
        self.disk.write_record(&self.disk.layer_record(diff_id), &record)?;
        fs::rename(staged, &path).map_err(Error::disk("name", &path))?;
        self.state().layers.insert(diff_id.clone(), Layer { usage, synced: false });
        if kept == Kept::Blob {
            return Ok(());
        }
        let ingest = self.disk.ingest(&blob.digest);
        if self.config.discard_layers {
            return self.disk.remove(&ingest);
        }
        let path = self.disk.blob(&blob.digest);
        fs::rename(&ingest, &path).map_err(Error::disk("name", &path))?;
        self.state().blobs.insert(blob.digest.clone(), blob_bytes(blob.size));
        Ok(())
    }

    /// Waits for the disk and then takes the mark off the layers that were written before. Runs in
    /// the background; a crash before it is done costs another pull, and nothing else.
    async fn settle(self: Arc<Self>) -> Result<(), Error> {
        let _alone = self.syncing.lock().await;
        let unsynced = |inner: &Self| -> Vec<Digest> {
            let state = inner.state();
            let waiting = state.layers.iter().filter(|(_, layer)| !layer.synced);
            waiting.map(|(id, _)| id.clone()).collect()
        };
        let waiting = unsynced(&self);
        if waiting.is_empty() {
            return Ok(());
        }
        let this = Arc::clone(&self);
        blocking(move || {
            this.disk.sync()?;
            for id in waiting {
                let _files = this.files();
                let Some(usage) = this.state().layers.get(&id).map(|layer| layer.usage) else {
                    continue;
                };
                let record = LayerRecord { usage, unsynced_in_boot: None };
                this.disk.write_record(&this.disk.layer_record(&id), &record)?;
                if let Some(layer) = this.state().layers.get_mut(&id) {
                    layer.synced = true;
                }
            }
            Ok(())
        })
        .await
    }

    /// Runs [`Inner::settle`] where nobody waits for it.
    pub(crate) fn settle_later(self: &Arc<Self>) {
        let settling = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(error) = settling.settle().await {
                tracing::warn!(%error, "layers may not be on the disk yet");
            }
        });
    }
}

/// Where the compressed layer lies while it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    /// Under its name among the blobs.
    Blob,
    /// Still arriving.
    Ingest,
}

/// Inflates on a thread of its own and unpacks on this one.
fn run(mut source: Source, into: &std::path::Path) -> Outcome {
    let (inflater, mut inflated) = stream::queue();
    std::thread::scope(|scope| {
        let inflating =
            std::thread::Builder::new().name("inflate".to_owned()).spawn_scoped(scope, move || {
                let inflated = stream::decompress(&mut source)
                    .and_then(|mut reader| inflater.run(reader.as_mut()));
                // Whatever went wrong, the digest of all that came tells broken content from wrong
                // content.
                (inflated, source.finish())
            });
        let inflating = match inflating {
            Ok(inflating) => inflating,
            Err(error) => {
                let again = std::io::Error::from(error.kind());
                return Outcome { blob: Err(error), unpacked: Err(Failure::Inflate(again)) };
            }
        };
        let unpacked = unpack::unpack(&mut inflated, into, unpack::Content::Layer)
            .map(|(usage, _)| usage)
            .and_then(|usage| {
                let digest = inflated.finish().map_err(TarError::Io)?;
                Ok((usage, digest))
            });
        let (inflated, blob) = inflating.join().unwrap_or_else(|_| {
            let broken = || std::io::Error::from(std::io::ErrorKind::Other);
            (Err(broken()), Err(broken()))
        });
        let unpacked = match (inflated, unpacked) {
            (Err(error), Err(_)) => Err(Failure::Inflate(error)),
            (_, unpacked) => unpacked.map_err(Failure::Unpack),
        };
        Outcome { blob, unpacked }
    })
}
