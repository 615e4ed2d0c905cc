use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};

use model::{Digest, ImageRef};
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Uid, fchmod, fchown, linkat};
use rustix::io::Errno;

use super::writer::Hasher;
use super::{DockerImage, Incoming, MANIFEST, NAME, REF_NAME, blob_name, unusable};
use crate::disk::Staged;
use crate::document::{Descriptor, Document, Manifest, parse_config};
use crate::error::Error;
use crate::image::Record;
use crate::pull::{Busy, digest_of};
use crate::store::{Inner, blob_bytes};
use crate::tree::Tree;

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const LARGEST_DOCUMENT: u64 = 8 << 20;

/// An unpacked archive whose content is being taken over.
pub(super) struct Intake<'a> {
    pub(super) inner: &'a Inner,
    pub(super) staged: Staged<'a>,
    /// For images that the archive gives no name.
    pub(super) name: Option<&'a ImageRef>,
}

impl Intake<'_> {
    /// A file of the archive, reached without leaving it.
    fn open(&self, path: &str) -> Result<Option<File>, Error> {
        let read = || -> io::Result<Option<File>> {
            let tree = Tree::open(self.staged.path())?;
            match tree.open_at(path.as_bytes(), OFlags::RDONLY | OFlags::NONBLOCK) {
                Err(Errno::NOENT) => Ok(None),
                file => Ok(Some(File::from(file?))
                    .filter(|file| file.metadata().is_ok_and(|stat| stat.is_file()))),
            }
        };
        read().map_err(Error::disk("open of the archive", path))
    }

    pub(super) fn document(&self, path: &str) -> Result<Option<Vec<u8>>, Error> {
        let Some(file) = self.open(path)? else { return Ok(None) };
        let mut text = Vec::new();
        file.take(LARGEST_DOCUMENT)
            .read_to_end(&mut text)
            .map_err(Error::disk("read of the archive", path))?;
        Ok(Some(text))
    }

    fn required(&self, path: &str) -> Result<Vec<u8>, Error> {
        self.document(path)?.ok_or_else(|| unusable(format!("it has no {path}")))
    }

    fn verified(&self, digest: &Digest) -> Result<Vec<u8>, Error> {
        let text = self.required(&blob_name(digest))?;
        match digest_of(&text) {
            got if got == *digest => Ok(text),
            got => Err(Error::Digest { expected: digest.clone(), got }),
        }
    }

    pub(super) fn oci(&self, index: &[u8], busy: &mut Busy) -> Result<Vec<Incoming>, Error> {
        let Ok(Document::Index(index)) = Document::parse(index) else {
            return Err(unusable("its index.json is not an index"));
        };
        let mut found: Vec<Incoming> = Vec::new();
        for entry in &index.manifests {
            let names = self.names(entry.annotations.get(NAME).or(entry.annotations.get(REF_NAME)));
            let mut blobs = vec![entry.digest.clone()];
            let mut digest = entry.digest.clone();
            let mut text = self.verified(&digest)?;
            if let Ok(Document::Index(inner)) = Document::parse(&text) {
                let Some(chosen) = inner.choose() else { continue };
                busy.add(&digest);
                self.inner.keep(&digest, &text)?;
                digest = chosen.digest.clone();
                text = self.verified(&digest)?;
                blobs.push(digest.clone());
            }
            let manifest = match Document::parse(&text) {
                Ok(Document::Manifest(manifest)) => manifest,
                Ok(Document::Index(_)) => return Err(Error::Nested { digest }),
                Err(source) => return Err(Error::Document { digest, source }),
            };
            let names = names?;
            if let Some(known) = found.iter_mut().find(|known| known.record.manifest == digest) {
                known.record.names.extend(names);
                continue;
            }
            for layer in &manifest.layers {
                self.take_blob(&blob_name(&layer.digest), Some(layer), busy)?;
            }
            let config = self.verified(&manifest.config.digest)?;
            let taken = Taken { digest, text: &text, manifest, config: &config, blobs };
            found.push(self.incoming(taken, names, busy)?);
        }
        Ok(found)
    }

    pub(super) fn docker(&self, list: &[u8], busy: &mut Busy) -> Result<Vec<Incoming>, Error> {
        let images: Vec<DockerImage> = serde_json::from_slice(list)
            .map_err(|_| unusable("its manifest.json cannot be read"))?;
        let mut found = Vec::new();
        for image in images {
            let mut names = Vec::new();
            for tag in image.repo_tags.unwrap_or_default() {
                names.extend(self.names(Some(&tag))?);
            }
            if names.is_empty() {
                names = self.names(None)?;
            }
            let config = self.required(&image.config)?;
            let mut layers = Vec::with_capacity(image.layers.len());
            for path in &image.layers {
                layers.push(self.take_blob(path, None, busy)?);
            }
            // Docker's archive has no manifest; this one says the same.
            let manifest = Manifest {
                schema_version: 2,
                media_type: MANIFEST.to_owned(),
                config: Descriptor {
                    media_type: CONFIG.to_owned(),
                    digest: digest_of(&config),
                    size: config.len() as u64,
                    platform: None,
                    annotations: BTreeMap::new(),
                },
                layers,
            };
            let text = serde_json::to_vec(&manifest)
                .map_err(|_| unusable("its manifest.json cannot be converted"))?;
            let digest = digest_of(&text);
            let blobs = vec![digest.clone()];
            let taken = Taken { digest, text: &text, manifest, config: &config, blobs };
            found.push(self.incoming(taken, names, busy)?);
        }
        Ok(found)
    }

    /// The name in the archive if it is a full one, else the caller's.
    fn names(&self, stated: Option<&String>) -> Result<Vec<ImageRef>, Error> {
        let full = stated.filter(|name| name.contains(['/', ':']));
        let full = full.and_then(|name| name.parse::<ImageRef>().ok()?.tagged());
        match full.as_ref().or(self.name) {
            Some(name) => Ok(vec![name.clone()]),
            None => Err(unusable("it gives an image no name; say which it is to have")),
        }
    }

    /// Moves a layer among the blobs, if it is what the descriptor says.
    fn take_blob(
        &self,
        path: &str,
        expected: Option<&Descriptor>,
        busy: &mut Busy,
    ) -> Result<Descriptor, Error> {
        let fail = || Error::disk("take from the archive", path);
        let file = self.open(path)?.ok_or_else(|| unusable(format!("it has no {path}")))?;
        let mut hasher = Hasher::default();
        let mut content = BufReader::with_capacity(256 << 10, &file);
        let size = io::copy(&mut content, &mut hasher).map_err(fail())?;
        let digest = hasher.finish();
        if let Some(expected) = expected.filter(|expected| expected.digest != digest) {
            return Err(Error::Digest { expected: expected.digest.clone(), got: digest });
        }
        busy.add(&digest);
        let _files = self.inner.files();
        let to = self.inner.disk.blob(&digest);
        let link = || -> io::Result<()> {
            fchown(&file, Some(Uid::ROOT), Some(Gid::ROOT))?;
            fchmod(&file, Mode::RUSR | Mode::WUSR)?;
            // A second name instead of a copy; the first goes with the staged archive.
            match linkat(&file, c"", CWD, &to, AtFlags::EMPTY_PATH) {
                Err(Errno::EXIST) => {}
                linked => return Ok(linked?),
            }
            fs::remove_file(&to)?;
            Ok(linkat(&file, c"", CWD, &to, AtFlags::EMPTY_PATH)?)
        };
        link().map_err(fail())?;
        self.inner.state().blobs.insert(digest.clone(), blob_bytes(size));
        Ok(expected.cloned().unwrap_or_else(|| Descriptor {
            media_type: LAYER.to_owned(),
            digest,
            size,
            platform: None,
            annotations: BTreeMap::new(),
        }))
    }
}

impl Intake<'_> {
    /// Stores the documents and says what is left to be unpacked.
    fn incoming(
        &self,
        found: Taken<'_>,
        names: Vec<ImageRef>,
        busy: &mut Busy,
    ) -> Result<Incoming, Error> {
        let Taken { digest, text, manifest, config, mut blobs } = found;
        let id = manifest.config.digest.clone();
        let (_, diff_ids) = parse_config(config)
            .map_err(|source| Error::Document { digest: id.clone(), source })?;
        if manifest.layers.len() != diff_ids.len() {
            let (layers, diff_ids) = (manifest.layers.len(), diff_ids.len());
            return Err(Error::LayerCount { digest, layers, diff_ids });
        }
        for (digest, text) in [(&digest, text), (&id, config)] {
            busy.add(digest);
            self.inner.keep(digest, text)?;
        }
        diff_ids.iter().for_each(|diff_id| busy.add(diff_id));
        blobs.extend([digest.clone(), id.clone()]);
        blobs.extend(manifest.layers.iter().map(|layer| layer.digest.clone()));
        let record = Record {
            version: Record::VERSION,
            id,
            manifest: digest,
            blobs,
            layers: diff_ids.clone(),
            names,
            updated: 0,
        };
        Ok(Incoming { record, layers: manifest.layers.into_iter().zip(diff_ids).collect() })
    }
}

/// A manifest that was taken from an archive, with the texts that are to be stored.
struct Taken<'a> {
    digest: Digest,
    text: &'a [u8],
    manifest: Manifest,
    config: &'a [u8],
    /// What led to it.
    blobs: Vec<Digest>,
}
