//! How much is measured.

use std::time::Duration;

/// Counts and durations.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) serial: usize,
    pub(crate) paced: usize,
    /// Execs in each pod of those two.
    pub(crate) execs: usize,
    /// Pods in flight, and pods altogether.
    pub(crate) bursts: Vec<(usize, usize)>,
    pub(crate) burst_rounds: usize,
    pub(crate) exec_count: usize,
    pub(crate) exec_steady: Duration,
    pub(crate) crowds: Vec<usize>,
    pub(crate) settle: Duration,
    pub(crate) idle: Duration,
    pub(crate) one_more: usize,
    pub(crate) foreign_mounts: usize,
    pub(crate) pulls: usize,
    pub(crate) images: Vec<&'static str>,
    pub(crate) log_lines: usize,
    pub(crate) log_writers: usize,
    /// Runs of an OCI bundle with each runtime.
    pub(crate) bundles: usize,
}

impl Plan {
    /// For figures.
    pub(crate) fn long() -> Self {
        Self {
            serial: 30,
            paced: 12,
            execs: 5,
            bursts: vec![(1, 10), (10, 40), (50, 100)],
            burst_rounds: 2,
            exec_count: 400,
            exec_steady: Duration::from_secs(60),
            crowds: vec![30, 110, 250],
            settle: Duration::from_secs(3),
            idle: Duration::from_secs(10),
            one_more: 10,
            foreign_mounts: 1000,
            pulls: 3,
            images: vec!["one-gzip-layer", "ten-gzip-layers", "one-zstd-layer"],
            log_lines: 2_000_000,
            log_writers: 30,
            bundles: 200,
        }
    }

    /// To see that all of it works.
    pub(crate) fn smoke() -> Self {
        Self {
            serial: 2,
            paced: 1,
            execs: 1,
            bursts: vec![(2, 4)],
            burst_rounds: 1,
            exec_count: 10,
            exec_steady: Duration::from_secs(1),
            crowds: vec![3],
            settle: Duration::from_millis(100),
            idle: Duration::from_millis(500),
            one_more: 1,
            foreign_mounts: 10,
            pulls: 1,
            images: vec!["small"],
            log_lines: 10_000,
            log_writers: 2,
            bundles: 3,
        }
    }
}
