//! Layers and images made by hand, and a store that pulls them from a registry in this process.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use images::{Config, Error, Image, Store};
use model::{Digest, ImageRef};
use registry::Registry;

use fake_registry::{Fake, digest};

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A tar archive in the making.
#[derive(Debug, Clone, Default)]
pub(crate) struct Layer {
    pub(crate) bytes: Vec<u8>,
}

/// What a header says beside its name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head<'a> {
    pub(crate) flag: u8,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: u64,
    pub(crate) link: &'a str,
    pub(crate) device: (u32, u32),
}

impl Default for Head<'_> {
    fn default() -> Self {
        Head {
            flag: b'0',
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: 1_000_000_000,
            link: "",
            device: (0, 0),
        }
    }
}

impl Layer {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn entry(mut self, name: &str, head: Head<'_>, content: &[u8]) -> Self {
        let mut block = [0; 512];
        block[..name.len()].copy_from_slice(name.as_bytes());
        let mut put =
            |at: usize, text: String| block[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(100, format!("{:07o}", head.mode));
        put(108, format!("{:07o}", head.uid));
        put(116, format!("{:07o}", head.gid));
        put(124, format!("{:011o}", content.len()));
        put(136, format!("{:011o}", head.mtime));
        put(156, char::from(head.flag).to_string());
        put(157, head.link.to_owned());
        put(257, "ustar\x0000".to_owned());
        put(329, format!("{:07o}", head.device.0));
        put(337, format!("{:07o}", head.device.1));
        put(148, "        ".to_owned());
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.bytes.extend_from_slice(&block);
        self.bytes.extend_from_slice(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(self, name: &str, content: &[u8]) -> Self {
        self.entry(name, Head::default(), content)
    }

    pub(crate) fn dir(self, name: &str) -> Self {
        self.entry(name, Head { flag: b'5', mode: 0o755, ..Head::default() }, b"")
    }

    pub(crate) fn symlink(self, name: &str, link: &str) -> Self {
        self.entry(name, Head { flag: b'2', mode: 0o777, link, ..Head::default() }, b"")
    }

    pub(crate) fn hard_link(self, name: &str, link: &str) -> Self {
        self.entry(name, Head { flag: b'1', link, ..Head::default() }, b"")
    }

    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut text = Vec::new();
        for (key, value) in records {
            let bare = key.len() + value.len() + 3;
            let mut length = bare;
            while length != bare + length.to_string().len() {
                length = bare + length.to_string().len();
            }
            write!(text, "{length} {key}=").unwrap();
            text.extend_from_slice(value);
            text.push(b'\n');
        }
        self.entry("pax", Head { flag: b'x', ..Head::default() }, &text)
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        self.bytes.extend_from_slice(&[0; 1024]);
        self.bytes
    }
}

/// Bytes that no compression makes fewer.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    std::fs::File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
    bytes
}

pub(crate) fn gzip(tar: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(tar).unwrap();
    encoder.finish().unwrap()
}

/// A layer as it is served, and what it unpacks to.
#[derive(Debug, Clone)]
pub(crate) struct Blob {
    pub(crate) bytes: Vec<u8>,
    pub(crate) diff_id: Digest,
    pub(crate) media_type: &'static str,
}

impl Blob {
    pub(crate) fn gzip(layer: Layer) -> Self {
        let tar = layer.end();
        let media_type = "application/vnd.docker.image.rootfs.diff.tar.gzip";
        Self { bytes: gzip(&tar), diff_id: digest(&tar), media_type }
    }

    pub(crate) fn zstd(layer: Layer) -> Self {
        let tar = layer.end();
        let media_type = "application/vnd.oci.image.layer.v1.tar+zstd";
        Self { bytes: zstd::encode_all(&tar[..], 1).unwrap(), diff_id: digest(&tar), media_type }
    }

    pub(crate) fn plain(layer: Layer) -> Self {
        let tar = layer.end();
        let media_type = "application/vnd.oci.image.layer.v1.tar";
        Self { diff_id: digest(&tar), bytes: tar, media_type }
    }
}

pub(crate) fn config_text(layers: &[Blob], run: &str) -> String {
    let ids: Vec<_> = layers.iter().map(|layer| format!("\"{}\"", layer.diff_id)).collect();
    format!(
        r#"{{"architecture":"amd64","os":"linux","config":{run},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        ids.join(",")
    )
}

pub(crate) fn manifest_text(layers: &[Blob], config: &str) -> String {
    let layers: Vec<_> = layers
        .iter()
        .map(|layer| {
            format!(
                r#"{{"mediaType":"{}","digest":"{}","size":{}}}"#,
                layer.media_type,
                digest(&layer.bytes),
                layer.bytes.len()
            )
        })
        .collect();
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":{}}},"layers":[{}]}}"#,
        digest(config.as_bytes()),
        config.len(),
        layers.join(",")
    )
}

/// What was published.
#[derive(Debug, Clone)]
pub(crate) struct Pushed {
    pub(crate) id: Digest,
    pub(crate) manifest: Digest,
    pub(crate) reference: ImageRef,
}

/// Publishes an image with these layers.
pub(crate) fn push(fake: &Fake, name: &str, layers: &[Blob], run: &str) -> Pushed {
    let (repository, tag) = name.split_once(':').unwrap();
    let config = config_text(layers, run);
    for layer in layers {
        fake.put_blob(layer.bytes.clone());
    }
    let id = fake.put_blob(config.clone());
    let manifest = fake.put_manifest(repository, tag, MANIFEST, &manifest_text(layers, &config));
    Pushed { id, manifest, reference: fake.name(name).parse().unwrap() }
}

/// A registry and a store of its own.
#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) fake: Fake,
    pub(crate) dir: tempfile::TempDir,
    root: PathBuf,
    pub(crate) store: Store,
}

pub(crate) fn registry(certs: &std::path::Path) -> Registry {
    Registry::new(registry::Config {
        certs_dirs: vec![certs.join("certs.d")],
        connect_timeout: Duration::from_secs(2),
        stall_timeout: Duration::from_secs(1),
        ..registry::Config::default()
    })
}

impl Rig {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// In memory: there nothing has to wait until the machine's disk has swallowed what everybody
    /// else wrote.
    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        Self::at(tempfile::tempdir_in("/dev/shm").unwrap(), change).await
    }

    pub(crate) async fn on_disk() -> Self {
        Self::at(tempfile::tempdir().unwrap(), |_| {}).await
    }

    async fn at(dir: tempfile::TempDir, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config { root: dir.path().join("images"), ..Config::default() };
        change(&mut config);
        let root = config.root.clone();
        let store = Store::open(config, registry(dir.path())).unwrap();
        store.adopted().await.unwrap();
        Self { fake: Fake::start().await, dir, root, store }
    }

    /// Ends the store and opens it again, as a daemon's restart does.
    pub(crate) async fn reopen(self) -> Self {
        let Self { fake, dir, root, store } = self;
        drop(store);
        let config = Config { root: root.clone(), ..Config::default() };
        let registry = registry(dir.path());
        // What still runs in the background holds the old store, and with it the lock, for a moment.
        for _ in 0..500 {
            match Store::open(config.clone(), registry.clone()) {
                Ok(store) => return Self { fake, dir, root, store },
                Err(Error::InUse { .. }) => tokio::time::sleep(Duration::from_millis(10)).await,
                Err(error) => panic!("{error}"),
            }
        }
        panic!("the store is still in use");
    }

    pub(crate) async fn pull(&self, reference: &ImageRef) -> Result<Image, Arc<Error>> {
        self.store.pull(reference, None).wait().await
    }

    /// Names of everything in a part of the store.
    pub(crate) fn names(&self, part: &str) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(self.root.join(part))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Whether a part of the store is empty as soon as what goes on in the background is done: after
    /// a pull, layers get new records once they are on the disk, and each is under `staging` first.
    pub(crate) async fn empties(&self, part: &str) -> bool {
        for _ in 0..1000 {
            if self.names(part).is_empty() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        false
    }
}
