use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use model::{Digest, ImageRef};
use registry::{Auth, Registry};
use serde::{Deserialize, Serialize};

use crate::Config;
use crate::disk::Disk;
use crate::document::parse_config;
use crate::error::Error;
use crate::flight::{Counter, Flight, Pull};
use crate::image::{Core, Image, Record};
use crate::pattern::Patterns;
use crate::tree::Usage;

/// The images of this node. Cheap to clone; lists and look-ups never touch the disk.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) registry: Registry,
    pub(crate) disk: Disk,
    pinned: Patterns,
    state: Mutex<State>,
    /// Held by whoever changes records on disk.
    pub(crate) writer: tokio::sync::Mutex<()>,
    /// Held, off the async threads, while files and directories get or lose their names, together
    /// with the state that tells of them. The state itself is never locked across I/O.
    pub(crate) files: Mutex<()>,
    /// Held by whoever waits for the disk to have everything.
    pub(crate) syncing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) images: BTreeMap<Digest, Entry>,
    pub(crate) names: HashMap<ImageRef, Digest>,
    pub(crate) layers: HashMap<Digest, Layer>,
    /// Bytes that each blob takes.
    pub(crate) blobs: HashMap<Digest, u64>,
    pub(crate) leases: HashMap<Digest, HashSet<String>>,
    /// Layers and blobs that a running pull counts on.
    pub(crate) busy: HashMap<Digest, usize>,
    pub(crate) layer_locks: HashMap<Digest, Weak<tokio::sync::Mutex<()>>>,
    flights: HashMap<FlightKey, Weak<Flight>>,
    /// All users of images from before the start have said so.
    pub(crate) adopted: bool,
}

type FlightKey = (ImageRef, Option<Auth>);

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) core: Arc<Core>,
    pub(crate) record: Record,
}

impl Entry {
    /// Without a name it is only waiting for its users to end.
    pub(crate) fn is_listed(&self) -> bool {
        !self.record.names.is_empty()
    }
}

/// An unpacked layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layer {
    pub(crate) usage: Usage,
    /// Known to be on the disk, not only in the page cache.
    pub(crate) synced: bool,
}

/// A layer's record on disk.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    pub(crate) usage: Usage,
    /// The boot in which it was written, until it is known to be on the disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unsynced_in_boot: Option<String>,
}

/// What one blob takes on the file system.
pub(crate) fn blob_bytes(length: u64) -> u64 {
    length.next_multiple_of(4096)
}

impl Store {
    /// Opens the store in `config.root`, or makes it. Nothing is deleted before
    /// [`Store::adopted`]. Blocks on the disk: reads every record, no layer.
    ///
    /// # Errors
    /// [`Error::InUse`] when another process has it (one that is dying is waited for),
    /// [`Error::Disk`] otherwise. A record that cannot
    /// be used is set aside with a warning and takes nothing else with it.
    pub fn open(config: Config, registry: Registry) -> Result<Self, Error> {
        let disk = Disk::open(&config.root)?;
        let state = load(&disk)?;
        let pinned = Patterns::new(&config.pinned);
        let inner = Inner {
            config,
            registry,
            disk,
            pinned,
            state: Mutex::new(state),
            writer: tokio::sync::Mutex::default(),
            files: Mutex::default(),
            syncing: tokio::sync::Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Starts to pull `reference`, or joins a pull of the same with the same credentials. Must be
    /// called within a tokio runtime.
    pub fn pull(&self, reference: &ImageRef, auth: Option<Auth>) -> Pull {
        let key = (reference.clone(), auth.clone());
        let mut state = self.inner.state();
        state.flights.retain(|_, flight| flight.strong_count() > 0);
        if let Some(flight) = state.flights.get(&key).and_then(Weak::upgrade)
            && !flight.is_over()
        {
            return Pull { flight };
        }
        let counter = Arc::new(Counter::default());
        let pulling = crate::pull::pull(
            Arc::clone(&self.inner),
            reference.clone(),
            auth,
            Arc::clone(&counter),
        );
        let flight = Arc::new(Flight::start(counter, pulling));
        state.flights.insert(key, Arc::downgrade(&flight));
        Pull { flight }
    }

    /// All images that have a name, by id.
    pub fn list(&self) -> Vec<Image> {
        let state = self.inner.state();
        let listed = state.images.values().filter(|entry| entry.is_listed());
        listed.map(|entry| self.inner.image(entry)).collect()
    }

    /// The image that `name` means: an id with or without `sha256:`, a tag, a repo digest, a short
    /// name such as `busybox`, or the beginning of an id.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Ambiguous`] for the beginning of several ids.
    pub fn find(&self, name: &str) -> Result<Image, Error> {
        let state = self.inner.state();
        let id = state.resolve(name)?;
        let entry = state.images.get(&id).ok_or_else(|| not_found(name))?;
        Ok(self.inner.image(entry))
    }

    /// Keeps the layers of an image for `holder`, whatever happens to the image's names, until
    /// [`Store::release`]. Repeating it changes nothing. Before [`Store::adopted`] images that are
    /// only waiting for their users are found too.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn lease(&self, id: &Digest, holder: &str) -> Result<Image, Error> {
        let mut state = self.inner.state();
        let adopted = state.adopted;
        let entry = state.images.get(id).filter(|entry| entry.is_listed() || !adopted);
        let image = self.inner.image(entry.ok_or_else(|| not_found(id.as_str()))?);
        state.leases.entry(id.clone()).or_default().insert(holder.to_owned());
        Ok(image)
    }

    /// What the store takes on its file system: a sum kept in memory.
    pub fn usage(&self) -> Usage {
        let state = self.inner.state();
        let layers = state.layers.values().map(|layer| layer.usage);
        let blobs = state.blobs.values().map(|bytes| Usage { bytes: *bytes, inodes: 1 });
        layers.chain(blobs).fold(Usage::default(), Usage::plus)
    }

    /// The directory whose file system [`Store::usage`] is about.
    pub fn root(&self) -> &std::path::Path {
        self.inner.disk.root()
    }
}

pub(crate) fn not_found(name: &str) -> Error {
    Error::NotFound { name: name.to_owned() }
}

impl State {
    /// The id of the listed image that `name` means.
    pub(crate) fn resolve(&self, name: &str) -> Result<Digest, Error> {
        let listed = |id: &Digest| self.images.get(id).is_some_and(Entry::is_listed);
        let hex = name.strip_prefix("sha256:").unwrap_or(name);
        if let Ok(id) = format!("sha256:{hex}").parse::<Digest>() {
            return if listed(&id) { Ok(id) } else { Err(not_found(name)) };
        }
        if let Ok(reference) = name.parse::<ImageRef>() {
            let key = match reference.digest() {
                Some(digest) => reference.with_digest(digest.clone()),
                None => reference,
            };
            if let Some(id) = self.names.get(&key).filter(|id| listed(id)) {
                return Ok(id.clone());
            }
        }
        if hex.len() < 3 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(not_found(name));
        }
        let ids = self.images.keys().filter(|id| id.hex().starts_with(hex) && listed(id));
        match ids.collect::<Vec<_>>().as_slice() {
            [] => Err(not_found(name)),
            [id] => Ok((*id).clone()),
            _ => Err(Error::Ambiguous { name: name.to_owned() }),
        }
    }

    /// Enters an image with the names that its record gives it, which other images lose.
    fn insert(&mut self, core: Arc<Core>, record: Record) {
        for name in &record.names {
            self.names.insert(name.clone(), record.id.clone());
        }
        self.images.insert(record.id.clone(), Entry { core, record });
    }
}

impl Inner {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn files(&self) -> MutexGuard<'_, ()> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn image(&self, entry: &Entry) -> Image {
        let names: Arc<[ImageRef]> = entry.record.names.clone().into();
        let pinned = names.iter().any(|name| self.pinned.fit(name));
        Image { core: Arc::clone(&entry.core), names, pinned }
    }

    /// Records an image whose layers and blobs are all in place, under `names`, which other images
    /// lose. Images without a name that nobody uses are deleted with that.
    pub(crate) async fn commit(self: &Arc<Self>, mut record: Record) -> Result<Image, Error> {
        let _writer = self.writer.lock().await;
        let losers = {
            let state = self.state();
            if let Some(known) = state.images.get(&record.id) {
                record.names.extend(known.record.names.iter().cloned());
                record.blobs.extend(known.record.blobs.iter().cloned());
            }
            record.names.sort_by_key(ToString::to_string);
            record.names.dedup();
            record.blobs.sort();
            record.blobs.dedup();
            record.updated = Record::now();
            let others = state.images.values().filter(|entry| entry.record.id != record.id);
            let lost = |name: &ImageRef| record.names.contains(name);
            let losing = others.filter(|entry| entry.record.names.iter().any(lost));
            losing
                .map(|entry| {
                    let mut loser = entry.record.clone();
                    loser.names.retain(|name| !lost(name));
                    loser
                })
                .collect::<Vec<_>>()
        };
        let this = Arc::clone(self);
        let id = record.id.clone();
        blocking(move || {
            let layers = this.state().layers_of(&record);
            let core = Arc::new(load_core(&this.disk, &record, &layers)?);
            this.disk.write_record(&this.disk.image(&record.id), &record)?;
            // It may have been removed while it was in use, and is wanted again.
            this.disk.remove(&this.disk.removed_image(&record.id))?;
            this.state().insert(core, record);
            Ok(())
        })
        .await?;
        for loser in losers {
            self.rename(loser).await?;
        }
        let state = self.state();
        let entry = state.images.get(&id).ok_or_else(|| not_found(id.as_str()))?;
        Ok(self.image(entry))
    }
}

impl State {
    /// The usage of a record's layers, as far as they are there.
    pub(crate) fn layers_of(&self, record: &Record) -> HashMap<Digest, Usage> {
        let known = |id: &Digest| Some((id.clone(), self.layers.get(id)?.usage));
        record.layers.iter().filter_map(known).collect()
    }
}

/// Runs what waits for the disk where waiting is allowed.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Error::ShutDown))
}

/// Reads the whole store into memory.
fn load(disk: &Disk) -> Result<State, Error> {
    let mut state = State::default();
    for (name, path) in disk.entries("blobs/sha256")? {
        let length = fs::metadata(&path).map_err(Error::disk("look at", &path))?.len();
        match format!("sha256:{name}").parse() {
            Ok(digest) => drop(state.blobs.insert(digest, blob_bytes(length))),
            Err(_) => disk.remove(&path)?,
        }
    }
    load_layers(disk, &mut state)?;
    let mut records = Vec::new();
    for (name, path) in disk.entries("images")? {
        match load_record(disk, &state, &path, name.ends_with(".removed")) {
            Ok(loaded) => records.push(loaded),
            Err(reason) => {
                tracing::warn!(path = %path.display(), reason, "an image's record is set aside");
                disk.quarantine(&path)?;
            }
        }
    }
    // A crash may leave a tag with two images, or an image with two records; the later change wins,
    // and a record with names over one without.
    records.sort_by_key(|(_, record)| (!record.names.is_empty(), record.updated));
    let mut taken = HashSet::new();
    for (_, record) in records.iter_mut().rev() {
        record.names.retain(|name| taken.insert(name.clone()));
    }
    for (core, record) in records {
        state.insert(Arc::new(core), record);
    }
    Ok(state)
}

fn load_layers(disk: &Disk, state: &mut State) -> Result<(), Error> {
    for (name, path) in disk.entries("layers")? {
        let (hex, is_record) = match name.strip_suffix(".json") {
            Some(hex) => (hex, true),
            None => (name.as_str(), false),
        };
        let Ok(diff_id) = format!("sha256:{hex}").parse::<Digest>() else {
            disk.remove(&path)?;
            continue;
        };
        if is_record {
            // A record without its layer says nothing.
            if !disk.layer(&diff_id).is_dir() {
                disk.remove(&path)?;
            }
            continue;
        }
        let record = disk.layer_record(&diff_id);
        let read = fs::read(&record).ok();
        let read = read.and_then(|text| serde_json::from_slice::<LayerRecord>(&text).ok());
        match read {
            Some(LayerRecord { usage, unsynced_in_boot: None }) => {
                state.layers.insert(diff_id, Layer { usage, synced: true });
            }
            Some(LayerRecord { usage, unsynced_in_boot: Some(boot) }) if boot == disk.boot() => {
                state.layers.insert(diff_id, Layer { usage, synced: false });
            }
            _ => {
                tracing::warn!(layer = %diff_id, "a crash may have damaged a layer; it is dropped");
                disk.remove(&record)?;
                disk.remove(&disk.take_away(path))?;
            }
        }
    }
    Ok(())
}

fn load_record(
    disk: &Disk,
    state: &State,
    path: &std::path::Path,
    removed: bool,
) -> Result<(Core, Record), String> {
    let text = fs::read(path).map_err(|error| error.to_string())?;
    let mut record: Record = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    if record.version != Record::VERSION {
        return Err(format!("its version is {}", record.version));
    }
    if removed {
        record.names.clear();
    }
    let layers = state.layers_of(&record);
    if let Some(missing) = record.layers.iter().find(|id| !layers.contains_key(id)) {
        return Err(format!("its layer {missing} is missing"));
    }
    let core = load_core(disk, &record, &layers).map_err(|error| error.to_string())?;
    Ok((core, record))
}

/// What an image's configuration says, read from the disk.
fn load_core(disk: &Disk, record: &Record, layers: &HashMap<Digest, Usage>) -> Result<Core, Error> {
    let text = disk.read_blob(&record.id)?.ok_or_else(|| not_found(record.id.as_str()))?;
    let (config, _) = parse_config(&text)
        .map_err(|source| Error::Document { digest: record.id.clone(), source })?;
    // Overlayfs refuses a layer that comes twice. The upper one brings all that the lower one did.
    let mut stacked = Vec::with_capacity(record.layers.len());
    for id in record.layers.iter().rev() {
        if !stacked.contains(&id) {
            stacked.push(id);
        }
    }
    let mut size: u64 = layers.values().map(|usage| usage.bytes).sum();
    for blob in &record.blobs {
        size += fs::metadata(disk.blob(blob)).map_or(0, |blob| blob_bytes(blob.len()));
    }
    Ok(Core {
        id: record.id.clone(),
        config,
        config_text: String::from_utf8_lossy(&text).into_owned(),
        layers: stacked.into_iter().rev().map(|id| disk.layer(id)).collect(),
        size,
    })
}
