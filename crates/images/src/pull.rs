//! One pull, from a reference to a recorded image.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future;
use model::{Digest, ImageRef};
use registry::{Auth, Repository, Resolved};
use tokio::sync::Semaphore;

use crate::document::{Descriptor, Document, DocumentError, Index, Manifest, parse_config};
use crate::error::Error;
use crate::flight::Counter;
use crate::image::{Image, Record};
use crate::store::{Inner, blob_bytes, blocking};

/// Configurations are read into memory; real ones have some kilobytes.
const LARGEST_CONFIG: u64 = 8 << 20;

/// A manifest with all that leads to it.
struct Found {
    digest: Digest,
    manifest: Manifest,
    /// Documents that are to be stored: index, manifest, configuration.
    documents: Vec<(Digest, Bytes)>,
}

pub(crate) async fn pull(
    inner: Arc<Inner>,
    reference: ImageRef,
    auth: Option<Auth>,
    counter: Arc<Counter>,
) -> Result<Image, Error> {
    let repository = inner.registry.repository(&reference, auth).await?;
    let (target, known) = match (reference.digest(), reference.tag()) {
        (Some(digest), _) => (digest.clone(), None),
        (None, tag) => match repository.resolve(tag.unwrap_or("latest")).await? {
            Resolved::Digest(digest) => (digest, None),
            Resolved::Manifest(manifest) => (manifest.digest, Some(manifest.bytes)),
        },
    };
    let mut busy = Busy::new(&inner);
    let mut found = inner.find_manifest(&repository, &target, known, &mut busy).await?;
    let config = inner.config(&repository, &found.manifest.config, &mut busy).await?;
    let (_, diff_ids) = parse_config(&config).map_err(|source| Error::Document {
        digest: found.manifest.config.digest.clone(),
        source,
    })?;
    let layers = pair(&found, &diff_ids)?;
    found.documents.push((found.manifest.config.digest.clone(), config));
    diff_ids.iter().for_each(|id| busy.add(id));
    found.manifest.layers.iter().for_each(|layer| busy.add(&layer.digest));
    counter.expect(layers.iter().map(|(layer, _)| layer.size).sum());

    let permits = Semaphore::new(inner.config.max_concurrent_downloads.max(1));
    let fetches = layers.iter().map(|(layer, diff_id)| async {
        // Nobody closes it.
        let _permit = permits.acquire().await;
        inner.fetch_layer(&repository, layer, diff_id, &counter).await
    });
    future::try_join_all(fetches).await?;

    let names = [reference.tagged(), Some(reference.with_digest(target))];
    inner.record(found, diff_ids, names.into_iter().flatten().collect()).await
}

/// The layers of a manifest, each once, with what they unpack to.
fn pair(found: &Found, diff_ids: &[Digest]) -> Result<Vec<(Descriptor, Digest)>, Error> {
    let layers = &found.manifest.layers;
    if layers.len() != diff_ids.len() {
        return Err(Error::LayerCount {
            digest: found.digest.clone(),
            layers: layers.len(),
            diff_ids: diff_ids.len(),
        });
    }
    let mut seen = HashSet::new();
    let pairs = layers.iter().cloned().zip(diff_ids.iter().cloned());
    Ok(pairs.filter(|(_, diff_id)| seen.insert(diff_id.clone())).collect())
}

impl Inner {
    /// Follows an index to the manifest for this machine.
    async fn find_manifest(
        self: &Arc<Self>,
        repository: &Repository,
        target: &Digest,
        known: Option<Bytes>,
        busy: &mut Busy,
    ) -> Result<Found, Error> {
        let unreadable = |digest: &Digest| {
            let digest = digest.clone();
            move |source: DocumentError| Error::Document { digest, source }
        };
        let text = self.document(repository, target, known, busy).await?;
        let documents = vec![(target.clone(), text.clone())];
        let index: Index = match Document::parse(&text).map_err(unreadable(target))? {
            Document::Manifest(manifest) => {
                return Ok(Found { digest: target.clone(), manifest, documents });
            }
            Document::Index(index) => index,
        };
        let chosen = index.choose().ok_or_else(|| Error::NoPlatform { digest: target.clone() })?;
        let digest = chosen.digest.clone();
        let text = self.document(repository, &digest, None, busy).await?;
        match Document::parse(&text).map_err(unreadable(&digest))? {
            Document::Manifest(manifest) => {
                let documents = documents.into_iter().chain([(digest.clone(), text)]).collect();
                Ok(Found { digest, manifest, documents })
            }
            Document::Index(_) => Err(Error::Nested { digest: target.clone() }),
        }
    }

    /// An index or a manifest, from the disk if it is there.
    async fn document(
        self: &Arc<Self>,
        repository: &Repository,
        digest: &Digest,
        known: Option<Bytes>,
        busy: &mut Busy,
    ) -> Result<Bytes, Error> {
        busy.add(digest);
        match (known, self.stored(digest).await?) {
            (Some(text), _) | (None, Some(text)) => Ok(text),
            (None, None) => Ok(repository.manifest(digest).await?.bytes),
        }
    }

    async fn config(
        self: &Arc<Self>,
        repository: &Repository,
        descriptor: &Descriptor,
        busy: &mut Busy,
    ) -> Result<Bytes, Error> {
        let digest = &descriptor.digest;
        if descriptor.size > LARGEST_CONFIG {
            return Err(Error::TooLarge { digest: digest.clone(), size: descriptor.size });
        }
        busy.add(digest);
        if let Some(text) = self.stored(digest).await? {
            return Ok(text);
        }
        loop {
            let mut blob = repository.blob(digest, descriptor.size, 0);
            let mut text = Vec::new();
            let mut origin = None;
            while let Some(piece) = blob.chunk().await? {
                text.extend_from_slice(&piece);
                origin = blob.origin();
            }
            let got = digest_of(&text);
            if got == *digest {
                return Ok(text.into());
            }
            if !origin.is_some_and(|origin| repository.distrust(&origin)) {
                return Err(Error::Digest { expected: digest.clone(), got });
            }
        }
    }

    async fn stored(self: &Arc<Self>, digest: &Digest) -> Result<Option<Bytes>, Error> {
        let this = Arc::clone(self);
        let digest = digest.clone();
        blocking(move || Ok(this.disk.read_blob(&digest)?.map(Bytes::from))).await
    }

    /// Stores the documents and records the image.
    async fn record(
        self: &Arc<Self>,
        found: Found,
        layers: Vec<Digest>,
        names: Vec<ImageRef>,
    ) -> Result<Image, Error> {
        let kept = found.manifest.layers.iter().map(|layer| &layer.digest);
        let blobs = found.documents.iter().map(|(digest, _)| digest).chain(kept).cloned().collect();
        let record = Record {
            version: Record::VERSION,
            id: found.manifest.config.digest.clone(),
            manifest: found.digest,
            blobs,
            layers,
            names,
            updated: 0,
        };
        let this = Arc::clone(self);
        let documents = found.documents;
        blocking(move || documents.iter().try_for_each(|(digest, text)| this.keep(digest, text)))
            .await?;
        let image = self.commit(record).await?;
        self.settle_later();
        Ok(image)
    }

    /// Stores a document under its digest.
    pub(crate) fn keep(&self, digest: &Digest, text: &[u8]) -> Result<(), Error> {
        let _files = self.files();
        self.disk.write(&self.disk.blob(digest), text)?;
        self.state().blobs.insert(digest.clone(), blob_bytes(text.len() as u64));
        Ok(())
    }
}

pub(crate) fn digest_of(text: &[u8]) -> Digest {
    use sha2::Digest as _;
    Digest::from_sha256(sha2::Sha256::digest(text).into())
}

/// What a running pull counts on, so that nobody deletes it meanwhile.
#[derive(Debug)]
pub(crate) struct Busy {
    inner: Arc<Inner>,
    digests: Vec<Digest>,
}

impl Busy {
    pub(crate) fn new(inner: &Arc<Inner>) -> Self {
        Self { inner: Arc::clone(inner), digests: Vec::new() }
    }

    pub(crate) fn add(&mut self, digest: &Digest) {
        *self.inner.state().busy.entry(digest.clone()).or_default() += 1;
        self.digests.push(digest.clone());
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut state = self.inner.state();
        for digest in &self.digests {
            if let Some(count) = state.busy.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    state.busy.remove(digest);
                }
            }
        }
    }
}
