//! A small registry on loopback that can be told to lie.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::image::{Built, digest};

/// What becomes of a blob on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lie {
    /// It breaks off in the middle, each time.
    Cut,
    /// One bit is another.
    Flip,
    /// The rest of it does not come, for as long as this is so.
    Stall,
    /// The rest of it does not come before the blob of this digest was asked for.
    Until(String),
    /// It comes at so many bytes a millisecond.
    Slow(usize),
}

/// A request for a blob or manifest.
#[derive(Debug, Clone)]
pub struct Asked {
    pub path: String,
    /// Where the answer was to begin.
    pub from: usize,
}

#[derive(Debug, Default)]
struct State {
    /// By path.
    content: HashMap<String, (String, Vec<u8>)>,
    lies: HashMap<String, Lie>,
    asked: Vec<Asked>,
}

/// The registry; its thread ends with the program.
#[derive(Debug, Clone)]
pub struct Registry {
    /// `127.0.0.1:PORT`
    pub address: String,
    state: Arc<Mutex<State>>,
}

impl Registry {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let registry = Self { address, state: Arc::default() };
        let shared = registry.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = shared.clone();
                // A client that goes away is no failure of the registry.
                std::thread::spawn(move || drop(shared.serve(stream)));
            }
        });
        registry
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes an image as `name:tag`; gives its full name.
    pub fn push(&self, name: &str, image: &Built) -> String {
        let (repository, tag) = name.split_once(':').unwrap();
        for blob in image.layers.iter().chain([&image.config]) {
            self.put(&format!("{repository}/blobs/{}", digest(blob)), "", blob);
        }
        let kind = "application/vnd.oci.image.manifest.v1+json";
        for reference in [tag, &digest(&image.manifest)] {
            self.put(&format!("{repository}/manifests/{reference}"), kind, &image.manifest);
        }
        format!("{}/{name}", self.address)
    }

    /// Serves these bytes at a path below `/v2/`.
    pub fn put(&self, path: &str, kind: &str, bytes: &[u8]) {
        self.state().content.insert(format!("/v2/{path}"), (kind.to_owned(), bytes.to_vec()));
    }

    /// Serves a blob, whatever its repository, in this way from now on.
    pub fn lie(&self, blob: &[u8], lie: impl Into<Option<Lie>>) {
        let lies = &mut self.state().lies;
        match lie.into() {
            Some(lie) => drop(lies.insert(digest(blob), lie)),
            None => drop(lies.remove(&digest(blob))),
        }
    }

    /// The requests for a blob so far.
    pub fn asked(&self, blob: &[u8]) -> Vec<Asked> {
        let digest = digest(blob);
        self.state().asked.iter().filter(|asked| asked.path.ends_with(&digest)).cloned().collect()
    }

    /// Asks it for a blob, as a client would, and does not wait for it.
    pub fn ask(&self, repository: &str, blob: &[u8]) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let path = format!("/v2/{repository}/blobs/{}", digest(blob));
        stream.write_all(format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes()).unwrap();
    }

    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let Some(request) = lines.next().transpose()? else { return Ok(()) };
        let mut from = 0;
        while let Some(line) = lines.next().transpose()?.filter(|line| !line.is_empty()) {
            let line = line.to_ascii_lowercase();
            if let Some(range) = line.strip_prefix("range: bytes=") {
                from = range.trim_end_matches('-').parse().unwrap_or(0);
            }
        }
        let mut words = request.split(' ');
        let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or("").to_owned());
        let name = path.rsplit('/').next().unwrap_or("").to_owned();
        let (found, lie) = {
            let mut state = self.state();
            state.asked.push(Asked { path: path.clone(), from });
            (state.content.get(&path).cloned(), state.lies.get(&name).cloned())
        };
        let Some((kind, mut bytes)) = found else {
            let head = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            return stream.write_all(head.as_bytes());
        };
        let (whole, kind) =
            (bytes.len(), if kind.is_empty() { "application/octet-stream" } else { &kind });
        let place = if from > 0 && from < whole {
            format!("206 Partial Content\r\nContent-Range: bytes {from}-{}/{whole}", whole - 1)
        } else {
            from = 0;
            "200 OK".to_owned()
        };
        if lie == Some(Lie::Flip) {
            bytes[whole / 2] ^= 1;
        }
        let rest = &bytes[from..];
        let head = format!(
            "HTTP/1.1 {place}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            rest.len()
        );
        stream.write_all(head.as_bytes())?;
        if method == "HEAD" {
            return Ok(());
        }
        match lie {
            Some(Lie::Cut) => stream.write_all(&rest[..rest.len() / 2]),
            Some(Lie::Stall) => {
                stream.write_all(&rest[..rest.len() / 2])?;
                // Until the client gives up.
                stream.set_read_timeout(Some(Duration::from_secs(60)))?;
                stream.read(&mut [0]).map(drop)
            }
            Some(Lie::Until(other)) => {
                stream.write_all(&rest[..rest.len() / 2])?;
                let deadline = Instant::now() + Duration::from_secs(20);
                let asked = || self.state().asked.iter().any(|asked| asked.path.ends_with(&other));
                while !asked() {
                    if Instant::now() > deadline {
                        return Ok(());
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
                stream.write_all(&rest[rest.len() / 2..])
            }
            Some(Lie::Slow(pace)) => rest.chunks(pace * 10).try_for_each(|piece| {
                std::thread::sleep(Duration::from_millis(10));
                stream.write_all(piece)
            }),
            _ => stream.write_all(rest),
        }
    }
}
