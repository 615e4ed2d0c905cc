//! Where things lie, and how they get there.
//!
//! ```text
//! <root>/            0700
//!   lock             held by the process that works here; names it
//!   oci-layout       says what blobs/ is
//!   blobs/sha256/    indexes, manifests, configurations, and layers as they came
//!   layers/HEX/      an unpacked layer, by diff id; HEX.json is its record
//!   images/HEX.json  an image's record, by id; HEX.removed once it is only waiting for its users
//!   ingest/HEX       a download that is not complete, by digest
//!   staging/         half-unpacked layers and what is being deleted; emptied at every start
//!   quarantine/      records that could not be read, set aside for a person to look at
//! ```
//!
//! Everything appears under its name by a rename, complete. It may still be in the page cache alone:
//! a pull does not wait for the disk. So a layer's record carries the id of the running boot until a
//! syncfs(2) in the background has gone through, and a record that carries another boot's id marks a
//! layer that may have lost bytes in a crash: it is thrown away and made anew, from its blob if that
//! is kept. Blobs are verified whenever they are read, records are set aside when they do not parse.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use model::Digest;
use rustix::fs::{CWD, FlockOperation, flock};
use rustix::io::Errno;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::error::Error;
use crate::tree;

/// A store's directory, locked for this process.
#[derive(Debug)]
pub(crate) struct Disk {
    root: PathBuf,
    /// To sync the file system.
    directory: File,
    /// Held for its lock.
    _lock: File,
    boot: String,
    serial: AtomicU64,
}

impl Disk {
    pub(crate) fn open(root: &Path) -> Result<Self, Error> {
        let make = |path: &Path| {
            let mut builder = DirBuilder::new();
            builder.mode(0o700).recursive(true);
            builder.create(path).map_err(Error::disk("make", path))
        };
        make(root)?;
        let directory = File::open(root).map_err(Error::disk("open", root))?;
        rustix::fs::fchmod(&directory, rustix::fs::Mode::RWXU)
            .map_err(|error| Error::disk("restrict", root)(error.into()))?;
        let lock = lock(root)?;
        for part in ["blobs/sha256", "layers", "images", "ingest", "staging", "quarantine"] {
            make(&root.join(part))?;
        }
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map_err(Error::disk("read", "/proc/sys/kernel/random/boot_id"))?;
        let disk = Self {
            root: root.to_owned(),
            directory,
            _lock: lock,
            boot: boot.trim().to_owned(),
            serial: AtomicU64::new(0),
        };
        let layout = root.join("oci-layout");
        if !layout.exists() {
            disk.write(&layout, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        }
        disk.empty_staging()?;
        Ok(disk)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The running boot (`/proc/sys/kernel/random/boot_id`).
    pub(crate) fn boot(&self) -> &str {
        &self.boot
    }

    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    pub(crate) fn layer(&self, diff_id: &Digest) -> PathBuf {
        self.root.join("layers").join(diff_id.hex())
    }

    pub(crate) fn layer_record(&self, diff_id: &Digest) -> PathBuf {
        self.root.join("layers").join(format!("{}.json", diff_id.hex()))
    }

    pub(crate) fn ingest(&self, digest: &Digest) -> PathBuf {
        self.root.join("ingest").join(digest.hex())
    }

    pub(crate) fn image(&self, id: &Digest) -> PathBuf {
        self.root.join("images").join(format!("{}.json", id.hex()))
    }

    pub(crate) fn removed_image(&self, id: &Digest) -> PathBuf {
        self.root.join("images").join(format!("{}.removed", id.hex()))
    }

    /// A new directory under `staging`, gone at the next start at the latest.
    pub(crate) fn stage(&self) -> Result<Staged<'_>, Error> {
        let path = self.staging_name();
        // A layer that says nothing of its root gets this one; the umask has no say.
        fs::create_dir(&path)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)))
            .map_err(Error::disk("make", &path))?;
        Ok(Staged { disk: self, path })
    }

    fn staging_name(&self) -> PathBuf {
        self.root.join("staging").join(self.serial.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// Names and paths of what is in a part of the store.
    pub(crate) fn entries(&self, part: &str) -> Result<Vec<(String, PathBuf)>, Error> {
        let path = self.root.join(part);
        let read = || -> io::Result<_> {
            let mut names = Vec::new();
            for entry in fs::read_dir(&path)? {
                let entry = entry?;
                names.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
            }
            Ok(names)
        };
        read().map_err(Error::disk("read", &path))
    }

    /// Writes a file and gives it its name when it is whole.
    pub(crate) fn write(&self, path: &Path, content: &[u8]) -> Result<(), Error> {
        let temporary = self.staging_name();
        let write = || -> io::Result<()> {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o600);
            options.open(&temporary)?.write_all(content)?;
            fs::rename(&temporary, path)
        };
        write().map_err(|error| {
            let _ = fs::remove_file(&temporary);
            Error::disk("write", path)(error)
        })
    }

    pub(crate) fn write_record(&self, path: &Path, record: &impl Serialize) -> Result<(), Error> {
        let text =
            serde_json::to_vec(record).map_err(|error| Error::disk("write", path)(error.into()))?;
        match self.write(path, &text) {
            Err(Error::Disk { source, .. }) if source.kind() == io::ErrorKind::StorageFull => {
                overwrite(path, &text).map_err(Error::disk("write", path))
            }
            written => written,
        }
    }

    /// The whole blob, if it is there and is what its name says. One that is not is deleted.
    pub(crate) fn read_blob(&self, digest: &Digest) -> Result<Option<Vec<u8>>, Error> {
        let path = self.blob(digest);
        match fs::read(&path) {
            Ok(content) if Digest::from_sha256(Sha256::digest(&content).into()) == *digest => {
                Ok(Some(content))
            }
            Ok(_) => {
                tracing::warn!(path = %path.display(), "a blob was damaged and is deleted");
                self.remove(&path).map(|()| None)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::disk("read", path)(error)),
        }
    }

    /// Deletes a file, or a tree. Works on a full disk; nothing there is fine.
    pub(crate) fn remove(&self, path: &Path) -> Result<(), Error> {
        let fail = Error::disk("remove", path);
        let remove = || -> io::Result<()> {
            use std::os::unix::ffi::OsStrExt;
            let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
            let parent = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
            let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
            let flags = flags | rustix::fs::OFlags::CLOEXEC;
            let parent = rustix::fs::openat(CWD, parent, flags, rustix::fs::Mode::empty())?;
            tree::remove_all(&parent, &std::ffi::CString::new(name.as_bytes())?)
        };
        remove().map_err(fail)
    }

    /// Takes a file or a directory away from its name at once, so that nobody sees it half deleted,
    /// and says where it is now.
    pub(crate) fn take_away(&self, path: PathBuf) -> PathBuf {
        let staged = self.staging_name();
        match fs::rename(&path, &staged) {
            Ok(()) => staged,
            // No room for another name, or nothing there.
            Err(_) => path,
        }
    }

    /// Sets a file aside that cannot be used.
    pub(crate) fn quarantine(&self, path: &Path) -> Result<(), Error> {
        let name = path.file_name().unwrap_or_default();
        let to = self.root.join("quarantine").join(name);
        fs::rename(path, &to).map_err(Error::disk("set aside", path))
    }

    /// Waits until everything that was written is on the disk.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        rustix::fs::syncfs(&self.directory)
            .map_err(|error| Error::disk("sync", &self.root)(error.into()))
    }

    fn empty_staging(&self) -> Result<(), Error> {
        self.entries("staging")?.iter().try_for_each(|(_, path)| self.remove(path))
    }
}

/// A process that was killed while it waited for the disk keeps its locks until the disk answers.
const LAST_BREATH: Duration = Duration::from_secs(60);

/// Takes the store for this process. Waits for a holder that is dying, and for no other.
fn lock(root: &Path) -> Result<File, Error> {
    let path = root.join("lock");
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let lock = options.open(&path).map_err(Error::disk("open", &path))?;
    let started = Instant::now();
    loop {
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if started.elapsed() < LAST_BREATH && is_dying(&lock) => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(Errno::WOULDBLOCK) => return Err(Error::InUse { root: root.to_owned() }),
            locked => break locked.map_err(|error| Error::disk("lock", &path)(error.into()))?,
        }
    }
    // For whoever finds the lock taken. In place, so that a full disk allows it.
    let _ = lock.write_all_at(format!("{:<12}", std::process::id()).as_bytes(), 0);
    Ok(lock)
}

/// Whether the process that the lock names is a zombie, gone, or has SIGKILL pending (proc(5)).
fn is_dying(lock: &File) -> bool {
    let mut text = [0; 12];
    let read = lock.read_at(&mut text, 0).unwrap_or(0);
    let Ok(holder) = String::from_utf8_lossy(&text[..read]).trim().parse::<u32>() else {
        return true;
    };
    let Ok(status) = fs::read_to_string(format!("/proc/{holder}/status")) else { return true };
    let field = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim()
    };
    let killed = 1 << 8;
    let pending = u64::from_str_radix(field("ShdPnd:"), 16).unwrap_or(0);
    field("State:").starts_with(['Z', 'X']) || pending & killed != 0
}

/// Replaces a record's text in place: a full disk has no room for a second copy, and what replaces
/// it when images are untagged is shorter. Blanks fill up the rest, so that the length stays.
fn overwrite(path: &Path, text: &[u8]) -> io::Result<()> {
    let length = fs::metadata(path)?.len() as usize;
    if text.len() > length {
        return Err(io::ErrorKind::StorageFull.into());
    }
    let mut padded = text.to_vec();
    padded.resize(length, b' ');
    let file = OpenOptions::new().write(true).open(path)?;
    file.write_all_at(&padded, 0)
}

/// A directory under `staging` that goes with its owner, unless it is moved away.
#[derive(Debug)]
pub(crate) struct Staged<'a> {
    disk: &'a Disk,
    path: PathBuf,
}

impl Staged<'_> {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.disk.remove(&self.path) {
            tracing::warn!(%error, "a half-made directory stays until the next start");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_belongs_to_one_process_and_to_root_alone() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("a/b");
        let disk = Disk::open(&root).unwrap();
        assert!(matches!(Disk::open(&root), Err(Error::InUse { .. })));
        for path in [root.clone(), root.join("layers"), root.join("ingest")] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o700);
        }
        drop(disk);
        fs::create_dir_all(root.join("staging/7/half")).unwrap();
        Disk::open(&root).unwrap();
        assert!(!root.join("staging/7").exists());
    }

    #[test]
    fn a_dying_holder_is_told_from_a_living_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held_by = |text: &str| {
            fs::write(&path, text).unwrap();
            is_dying(&File::open(&path).unwrap())
        };
        assert!(!held_by(&std::process::id().to_string()));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let id = child.id().to_string();
        // Nobody has waited for it: it is a zombie as soon as it ends.
        while !held_by(&id) {
            std::thread::sleep(Duration::from_millis(1));
        }
        child.wait().unwrap();
        assert!(held_by(&id) && held_by(""));
    }

    #[test]
    fn a_record_shrinks_in_place_and_stays_readable() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.json");
        fs::write(&path, r#"{"names":["a","b"]}"#).unwrap();
        overwrite(&path, br#"{"names":["a"]}"#).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(value["names"].as_array().unwrap().len(), 1);
        assert!(overwrite(&path, &[b' '; 100]).is_err());
    }
}
