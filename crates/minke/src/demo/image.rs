//! The demo's image: minke's own binary and the libraries it runs with, served by a registry of our
//! own on loopback, so that the daemon pulls it as it pulls any other.

use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use model::Digest;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;

/// Where the image's one program lies in it.
pub(crate) const PROGRAM: &str = "/minke";

/// An image in memory, by the digests of its parts.
#[derive(Debug)]
pub(crate) struct Image {
    blobs: HashMap<String, Bytes>,
    manifest: Bytes,
    /// How many bytes its layer has, unpacked.
    pub(crate) unpacked: usize,
}

impl Image {
    /// Assembles the image from the running program.
    ///
    /// # Errors
    /// A file of it cannot be read.
    pub(crate) fn assemble() -> io::Result<Self> {
        let layer = layer()?;
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&layer)?;
        let compressed = gzip.finish()?;
        let config = serde_json::json!({
            "architecture": architecture(), "os": "linux",
            "config": { "Entrypoint": [PROGRAM], "Env": ["PATH=/"] },
            "rootfs": { "type": "layers", "diff_ids": [digest(&layer).as_str()] },
        });
        let config = config.to_string().into_bytes();
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": digest(&config).as_str(), "size": config.len(),
            },
            "layers": [{
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                "digest": digest(&compressed).as_str(), "size": compressed.len(),
            }],
        });
        let manifest = Bytes::from(manifest.to_string());
        let mut blobs = HashMap::new();
        for blob in [config, compressed] {
            blobs.insert(digest(&blob).to_string(), Bytes::from(blob));
        }
        Ok(Self { blobs, manifest, unpacked: layer.len() })
    }

    /// Serves the image until the returned task is aborted; gives its reference.
    ///
    /// # Errors
    /// No port of loopback is free.
    pub(crate) async fn serve(self) -> io::Result<(String, tokio::task::JoinHandle<()>)> {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let reference = format!("{}/demo:latest", listener.local_addr()?);
        let image = Arc::new(self);
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let image = Arc::clone(&image);
                let service = service_fn(move |request| {
                    let answer = image.answer(&request);
                    async move { Ok::<_, Infallible>(answer) }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                // A client that leaves early is the client's affair.
                tokio::spawn(async move { drop(connection.await) });
            }
        });
        Ok((reference, serving))
    }

    /// The distribution API, as far as a pull goes.
    fn answer(&self, request: &Request<hyper::body::Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        let found = match path.strip_prefix("/v2/demo/") {
            _ if path == "/v2/" => Some(("application/json", Bytes::from_static(b"{}"))),
            Some(rest) if rest.starts_with("manifests/") => {
                Some(("application/vnd.oci.image.manifest.v1+json", self.manifest.clone()))
            }
            Some(rest) => rest
                .strip_prefix("blobs/")
                .and_then(|digest| self.blobs.get(digest))
                .map(|blob| ("application/octet-stream", blob.clone())),
            None => None,
        };
        let response = Response::builder();
        let answer = match found {
            Some((kind, body)) => {
                let digest = digest(&body);
                let response = response
                    .header("Content-Type", kind)
                    .header("Content-Length", body.len())
                    .header("Docker-Content-Digest", digest.as_str());
                let body = if request.method() == Method::HEAD { Bytes::new() } else { body };
                response.body(Full::new(body))
            }
            None => response.status(StatusCode::NOT_FOUND).body(Full::default()),
        };
        // The parts above are constants and digests, which make valid headers.
        answer.unwrap_or_default()
    }
}

fn digest(bytes: &[u8]) -> Digest {
    Digest::from_sha256(Sha256::digest(bytes).into())
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// A tar of the running program as `/minke`, the libraries that the loader gave it where it looks
/// for them, and the directories that a container's mounts need.
fn layer() -> io::Result<Vec<u8>> {
    let mut tar = Vec::new();
    for dir in ["dev", "etc", "proc", "sys", "tmp"] {
        header(&mut tar, dir, b'5', 0, 0o755);
    }
    let mut dirs = BTreeSet::new();
    for library in libraries()? {
        let path = library.to_string_lossy().trim_start_matches('/').to_owned();
        for parent in Path::new(&path).ancestors().skip(1).collect::<Vec<_>>().into_iter().rev() {
            if !parent.as_os_str().is_empty() && dirs.insert(parent.to_owned()) {
                header(&mut tar, &parent.to_string_lossy(), b'5', 0, 0o755);
            }
        }
        file(&mut tar, &path, &fs::read(&library)?);
    }
    file(&mut tar, PROGRAM.trim_start_matches('/'), &fs::read("/proc/self/exe")?);
    tar.resize(tar.len() + 1024, 0);
    Ok(tar)
}

/// The shared objects that this process has mapped, under the names by which they are looked for.
fn libraries() -> io::Result<BTreeSet<PathBuf>> {
    let program = fs::read_link("/proc/self/exe")?;
    let maps = fs::read_to_string("/proc/self/maps")?;
    let mapped =
        maps.lines().filter_map(|line| line.find('/').map(|at| PathBuf::from(&line[at..])));
    let mut libraries: BTreeSet<PathBuf> =
        mapped.filter(|path| *path != program && path.to_string_lossy().contains(".so")).collect();
    // The kernel looks for the loader by the name that the program was linked with.
    for loader in ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"] {
        if Path::new(loader).exists() {
            libraries.insert(PathBuf::from(loader));
        }
    }
    Ok(libraries)
}

fn file(tar: &mut Vec<u8>, path: &str, bytes: &[u8]) {
    header(tar, path, b'0', bytes.len(), 0o755);
    tar.extend_from_slice(bytes);
    tar.resize(tar.len().next_multiple_of(512), 0);
}

/// A ustar header (pax(1)): names of up to 100 bytes, as all of ours are.
fn header(tar: &mut Vec<u8>, path: &str, kind: u8, size: usize, mode: u32) {
    let mut block = [0_u8; 512];
    let mut put = |at: usize, text: &str| {
        let end = (at + text.len()).min(512);
        block[at..end].copy_from_slice(&text.as_bytes()[..end - at]);
    };
    put(0, &path[..path.len().min(99)]);
    put(100, &format!("{mode:07o}"));
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{size:011o}"));
    put(136, "00000000000");
    put(148, "        ");
    put(257, "ustar");
    put(263, "00");
    block[156] = kind;
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    tar.extend_from_slice(&block);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layer_holds_the_program_and_the_loader() {
        let libraries = libraries().unwrap();
        assert!(libraries.iter().any(|path| path.to_string_lossy().contains("libc.so")));
        let layer = layer().unwrap();
        assert_eq!(layer.len() % 512, 0);
        assert!(layer.windows(6).any(|window| window == b"minke\0"));
    }
}
