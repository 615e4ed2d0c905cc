//! Tells at once when a log gets its first byte: the kernel says so, nobody looks again and again.

use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::inotify;
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

/// A directory's files under watch.
#[derive(Debug)]
pub(crate) struct Watch {
    fd: AsyncFd<OwnedFd>,
}

impl Watch {
    /// Watches a directory, before anything writes to its files.
    pub(crate) fn new(directory: &Path) -> Result<Self> {
        let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        inotify::add_watch(&fd, directory, inotify::WatchFlags::MODIFY)
            .with_context(|| format!("watch {directory:?}"))?;
        #[expect(
            deprecated,
            reason = "the new way is unsafe; what it asks for is that fd is owned"
        )]
        let fd = AsyncFd::new(fd)?;
        Ok(Self { fd })
    }

    /// Returns when a file of the directory has been written to.
    pub(crate) async fn written(&self) -> Result<()> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        loop {
            let mut ready = self.fd.readable().await?;
            let mut reader = inotify::Reader::new(self.fd.get_ref(), &mut buffer);
            match reader.next() {
                Ok(_) => return Ok(()),
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// The size of a file; 0 of one that is not there.
pub(crate) fn size(path: &Path) -> u64 {
    File::open(path).and_then(|file| file.metadata()).map_or(0, |metadata| metadata.len())
}
