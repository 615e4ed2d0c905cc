//! Images in and out of tar archives.
//!
//! An export is an OCI layout that `docker load` takes too: `index.json` for the one, `manifest.json`
//! for the other, over the same blobs. An import takes either, compressed or not.

mod intake;
mod writer;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::sync::Arc;

use model::{Digest, ImageRef};
use serde::{Deserialize, Serialize};

use crate::document::{Descriptor, Document, Index};
use crate::error::Error;
use crate::image::Record;
use crate::pull::Busy;
use crate::store::{Inner, Store, blocking, not_found};
use crate::stream;
use crate::unpack;
use intake::Intake;
use writer::Writer;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const NAME: &str = "io.containerd.image.name";
const REF_NAME: &str = "org.opencontainers.image.ref.name";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// An image on its way in: documents in memory, layers already among the blobs.
struct Incoming {
    record: Record,
    layers: Vec<(Descriptor, Digest)>,
}

impl Store {
    /// Writes the images that `names` mean, with those of their tags that were asked for (all of
    /// them where an id was), as an archive that both OCI tools and `docker load` take.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::NotKept`] when a layer was discarded after it was unpacked.
    pub async fn export(
        &self,
        names: &[String],
        out: impl Write + Send + 'static,
    ) -> Result<(), Error> {
        let mut records = Vec::with_capacity(names.len());
        let mut busy = Busy::new(&self.inner);
        for name in names {
            let state = self.inner.state();
            let id = state.resolve(name)?;
            let entry = state.images.get(&id).ok_or_else(|| not_found(name))?;
            let mut record = entry.record.clone();
            drop(state);
            record.blobs.iter().for_each(|blob| busy.add(blob));
            if let Ok(reference) = name.parse::<ImageRef>()
                && record.names.contains(&reference)
            {
                record.names = vec![reference];
            }
            record.names.retain(|name| name.tag().is_some());
            records.push(record);
        }
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            let _busy = busy;
            inner.write_archive(&records, out)
        })
        .await
    }

    /// Takes the images out of an archive: an OCI layout or what `docker save` writes. An image that
    /// the archive gives no full name is called `name`. Gives what they are called now.
    ///
    /// # Errors
    /// [`Error::Archive`] when it holds no image, or one without a name and none is given; the same
    /// errors as a pull otherwise.
    pub async fn import(
        &self,
        archive: impl Read + Send + 'static,
        name: Option<ImageRef>,
    ) -> Result<Vec<ImageRef>, Error> {
        let inner = Arc::clone(&self.inner);
        let mut busy = Busy::new(&inner);
        let (incoming, busy) = blocking(move || {
            let incoming = inner.take_archive(archive, name.as_ref(), &mut busy)?;
            Ok((incoming, busy))
        })
        .await?;
        let mut names = Vec::with_capacity(incoming.len());
        for Incoming { record, layers } in incoming {
            for (blob, diff_id) in &layers {
                self.inner.unpack_layer(blob, diff_id).await?;
            }
            let of_archive = record.names.clone();
            self.inner.commit(record).await?;
            names.extend(of_archive);
        }
        drop(busy);
        self.inner.settle_later();
        Ok(names)
    }
}

impl Inner {
    fn write_archive(&self, records: &[Record], out: impl Write) -> Result<(), Error> {
        let fail = Error::disk("write", "the archive");
        let mut manifests = Vec::new();
        let mut docker = Vec::new();
        let mut blobs: BTreeMap<Digest, u64> = BTreeMap::new();
        for record in records {
            let text = self.disk.read_blob(&record.manifest)?;
            let text = text.ok_or_else(|| Error::NotKept { digest: record.manifest.clone() })?;
            let Ok(Document::Manifest(manifest)) = Document::parse(&text) else {
                return Err(Error::NotKept { digest: record.manifest.clone() });
            };
            let size = text.len() as u64;
            blobs.insert(record.manifest.clone(), size);
            let parts = manifest.layers.iter().chain([&manifest.config]);
            blobs.extend(parts.map(|part| (part.digest.clone(), part.size)));
            let media_type = match manifest.media_type.as_str() {
                "" => MANIFEST.to_owned(),
                known => known.to_owned(),
            };
            let entry = |annotations| Descriptor {
                media_type: media_type.clone(),
                digest: record.manifest.clone(),
                size,
                platform: None,
                annotations,
            };
            manifests.extend(record.names.iter().map(|name| {
                let tag = name.tag().unwrap_or_default().to_owned();
                entry([(NAME.to_owned(), name.to_string()), (REF_NAME.to_owned(), tag)].into())
            }));
            if record.names.is_empty() {
                manifests.push(entry(BTreeMap::new()));
            }
            docker.push(DockerImage {
                config: blob_name(&manifest.config.digest),
                repo_tags: Some(record.names.iter().map(ToString::to_string).collect()),
                layers: manifest.layers.iter().map(|layer| blob_name(&layer.digest)).collect(),
            });
        }
        let index = Index { schema_version: 2, media_type: INDEX.to_owned(), manifests };
        let mut tar = Writer { out };
        let mut write = || -> io::Result<()> {
            tar.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
            tar.file("index.json", &serde_json::to_vec(&index)?)?;
            tar.file("manifest.json", &serde_json::to_vec(&docker)?)
        };
        write().map_err(fail)?;
        for (digest, size) in blobs {
            let path = self.disk.blob(&digest);
            let Ok(blob) = File::open(&path) else { return Err(Error::NotKept { digest }) };
            let content = BufReader::with_capacity(256 << 10, blob);
            let got = tar
                .content(&blob_name(&digest), size, content)
                .map_err(Error::disk("write", "the archive"))?;
            if got != digest {
                return Err(Error::Digest { expected: digest, got });
            }
        }
        tar.end().map_err(Error::disk("write", "the archive"))
    }

    fn take_archive(
        &self,
        archive: impl Read,
        name: Option<&ImageRef>,
        busy: &mut Busy,
    ) -> Result<Vec<Incoming>, Error> {
        let staged = self.disk.stage()?;
        let stream = stream::decompress(BufReader::with_capacity(256 << 10, archive))
            .map_err(Error::disk("read", "the archive"))?;
        let stream = BufReader::with_capacity(256 << 10, stream);
        let (_, mut rest) = unpack::unpack(stream, staged.path(), unpack::Content::Images)
            .map_err(Error::BadArchive)?;
        // Whoever writes the archive into a pipe should not be cut off in the padding.
        io::copy(&mut rest, &mut io::sink()).map_err(Error::disk("read", "the archive"))?;
        let intake = Intake { inner: self, staged, name };
        let incoming = match (intake.document("index.json")?, intake.document("manifest.json")?) {
            (Some(index), _) => intake.oci(&index, busy)?,
            (None, Some(manifest)) => intake.docker(&manifest, busy)?,
            (None, None) => return Err(unusable("it has no index.json and no manifest.json")),
        };
        if incoming.is_empty() {
            return Err(unusable("it holds no image for this platform"));
        }
        Ok(incoming)
    }
}

fn unusable(reason: impl Into<String>) -> Error {
    Error::Archive { reason: reason.into() }
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}
