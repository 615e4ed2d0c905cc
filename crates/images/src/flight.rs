use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::error::Error;
use crate::image::Image;

/// How far a pull is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Compressed bytes that are here, those included that were here before.
    pub done: u64,
    /// Compressed bytes of all layers, 0 while that is not known.
    pub total: u64,
}

/// Where the layers of a pull add up their bytes.
#[derive(Debug, Default)]
pub(crate) struct Counter {
    done: AtomicU64,
    total: AtomicU64,
}

impl Counter {
    pub(crate) fn expect(&self, total: u64) {
        self.total.store(total, Ordering::Relaxed);
    }

    pub(crate) fn add(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Takes back what has to come again.
    pub(crate) fn take_back(&self, bytes: u64) {
        self.done.fetch_sub(bytes, Ordering::Relaxed);
    }
}

type Outcome = Option<Result<Image, Arc<Error>>>;

/// One running pull, owned by all who wait for it: when the last of them goes, it is given up.
#[derive(Debug)]
pub(crate) struct Flight {
    outcome: watch::Receiver<Outcome>,
    counter: Arc<Counter>,
    task: AbortHandle,
}

impl Flight {
    pub(crate) fn start(
        counter: Arc<Counter>,
        pull: impl Future<Output = Result<Image, Error>> + Send + 'static,
    ) -> Self {
        let (tell, outcome) = watch::channel(None);
        let task = tokio::spawn(async move {
            let result = pull.await;
            tell.send_replace(Some(result.map_err(Arc::new)));
        });
        Self { outcome, counter, task: task.abort_handle() }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.outcome.borrow().is_some() || self.outcome.has_changed().is_err()
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A pull that somebody waits for. Dropping it gives the pull up, unless others wait too; what was
/// downloaded is kept for a day, and the next pull goes on there.
#[derive(Debug)]
pub struct Pull {
    pub(crate) flight: Arc<Flight>,
}

impl Pull {
    /// How far it is; asks nobody, so it may be called as often as a screen is drawn.
    pub fn progress(&self) -> Progress {
        let counter = &self.flight.counter;
        Progress {
            done: counter.done.load(Ordering::Relaxed),
            total: counter.total.load(Ordering::Relaxed),
        }
    }

    /// Waits for the image. May be dropped and called again.
    ///
    /// # Errors
    /// Whatever ended the pull, the same for all who wait for it.
    pub async fn wait(&self) -> Result<Image, Arc<Error>> {
        let mut outcome = self.flight.outcome.clone();
        let ended = outcome.wait_for(Option::is_some).await.ok().and_then(|found| found.clone());
        ended.unwrap_or_else(|| Err(Arc::new(Error::ShutDown)))
    }
}
