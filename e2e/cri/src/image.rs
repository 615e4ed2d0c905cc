//! Layers and images made by hand, for archives and for a [`crate::registry::Registry`].

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

pub fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// A tar archive in the making; it takes what no honest program would write.
#[derive(Debug, Clone, Default)]
pub struct Tar(Vec<u8>);

impl Tar {
    /// An entry of any kind: `kind` is the type flag of tar(5).
    pub fn entry(self, kind: u8, name: &str, mode: u32, link: &str, content: &[u8]) -> Self {
        self.numbered(kind, name, mode, link, content, (0, 0))
    }

    /// A device node: `kind` is `b` or `c`.
    pub fn device(self, kind: char, name: &str, numbers: (u32, u32)) -> Self {
        let flag = if kind == 'b' { b'4' } else { b'3' };
        self.numbered(flag, name, 0o666, "", b"", numbers)
    }

    fn numbered(
        mut self,
        kind: u8,
        name: &str,
        mode: u32,
        link: &str,
        content: &[u8],
        (major, minor): (u32, u32),
    ) -> Self {
        let mut header = [0_u8; 512];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, name.as_bytes());
        put(100, format!("{mode:07o}").as_bytes());
        put(108, b"0000000\x000000000");
        put(124, format!("{:011o}\x0000000000000", content.len()).as_bytes());
        put(148, b"        ");
        put(156, &[kind]);
        put(157, link.as_bytes());
        put(257, b"ustar\x0000");
        put(329, format!("{major:07o}").as_bytes());
        put(337, format!("{minor:07o}").as_bytes());
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&header);
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        self.entry(b'0', name, 0o644, "", content.as_ref())
    }

    pub fn program(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        self.entry(b'0', name, 0o755, "", content.as_ref())
    }

    pub fn dir(self, name: &str) -> Self {
        self.entry(b'5', name, 0o755, "", b"")
    }

    pub fn symlink(self, name: &str, to: &str) -> Self {
        self.entry(b'2', name, 0o777, to, b"")
    }

    pub fn hard_link(self, name: &str, to: &str) -> Self {
        self.entry(b'1', name, 0o644, to, b"")
    }

    /// The archive with its end.
    pub fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

/// An image: its documents and layers.
#[derive(Debug, Clone)]
pub struct Built {
    pub layers: Vec<Vec<u8>>,
    pub config: Vec<u8>,
    pub manifest: Vec<u8>,
}

impl Built {
    /// `run` is what the configuration calls `config`: command, user, environment.
    pub fn new(layers: impl IntoIterator<Item = Tar>, run: &Value) -> Self {
        Self::with_layers(layers.into_iter().map(Tar::end).collect(), run)
    }

    /// As [`Built::new`], of layers that need not be archives.
    pub fn with_layers(layers: Vec<Vec<u8>>, run: &Value) -> Self {
        let ids: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let config = json!({
            "architecture": architecture, "os": "linux", "config": run,
            "rootfs": { "type": "layers", "diff_ids": ids },
        });
        let config = config.to_string().into_bytes();
        let manifest = Self::describe(&config, &layers).to_string().into_bytes();
        Self { layers, config, manifest }
    }

    /// An image of one layer that starts nothing by itself.
    pub fn of(layer: Tar) -> Self {
        Self::new([layer], &json!({}))
    }

    fn describe(config: &[u8], layers: &[Vec<u8>]) -> Value {
        let descriptor = |kind: &str, bytes: &[u8]| json!({ "mediaType": kind, "digest": digest(bytes), "size": bytes.len() });
        let layers: Vec<Value> = layers.iter().map(|layer| descriptor(LAYER, layer)).collect();
        json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": descriptor(CONFIG, config), "layers": layers,
        })
    }

    /// What the CRI calls the image.
    pub fn id(&self) -> String {
        digest(&self.config)
    }

    /// An OCI layout as an archive; `name` is the image's.
    pub fn oci_archive(&self, name: &str) -> Vec<u8> {
        let index = json!({
            "schemaVersion": 2,
            "manifests": [{
                "mediaType": MANIFEST, "digest": digest(&self.manifest), "size": self.manifest.len(),
                "annotations": { "io.containerd.image.name": name },
            }],
        });
        let blobs = [&self.config, &self.manifest].into_iter().chain(&self.layers);
        let tar = Tar::default()
            .file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#)
            .file("index.json", index.to_string());
        let blob = |tar: Tar, bytes: &Vec<u8>| {
            tar.file(&format!("blobs/sha256/{}", &digest(bytes)["sha256:".len()..]), bytes)
        };
        blobs.fold(tar, blob).end()
    }

    /// What `docker save` writes.
    pub fn docker_archive(&self, name: &str) -> Vec<u8> {
        let names: Vec<String> = (0..self.layers.len()).map(|i| format!("{i}/layer.tar")).collect();
        let list = json!([{ "Config": "config.json", "RepoTags": [name], "Layers": names }]);
        let tar = Tar::default()
            .file("manifest.json", list.to_string())
            .file("config.json", &self.config);
        let layers = names.iter().zip(&self.layers);
        layers.fold(tar, |tar, (name, layer)| tar.file(name, layer)).end()
    }
}
