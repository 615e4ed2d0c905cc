//! Tests that share a daemon, or that have one each.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use libtest_mimic::Trial;
use tokio::runtime::Handle;
use tokio::sync::OnceCell;

use crate::client::Cri;
use crate::daemon::Daemon;

/// No test takes as long as this.
const PATIENCE: Duration = Duration::from_secs(90);

type Running = Pin<Box<dyn Future<Output = ()>>>;

/// A test and what it needs.
#[derive(Debug, Clone, Copy)]
pub enum Test {
    /// Works at the group's daemon.
    Shared(fn(Cri) -> Running),
    /// Does something to the group's daemon that a client cannot do.
    Daemon(fn(Arc<Daemon>) -> Running),
    /// Starts what it needs itself.
    Alone(fn() -> Running),
}

/// `shared![a, b]`: tests with a name each that take a [`Cri`].
#[macro_export]
macro_rules! shared {
    ($($test:ident),* $(,)?) => {
        vec![$((stringify!($test), $crate::group::Test::Shared(|cri| Box::pin($test(cri))))),*]
    };
}

/// `at_daemon![a, b]`: tests with a name each that take the group's [`Daemon`].
#[macro_export]
macro_rules! at_daemon {
    ($($test:ident),* $(,)?) => {
        vec![$((stringify!($test), $crate::group::Test::Daemon(|daemon| Box::pin($test(daemon))))),*]
    };
}

/// `alone![a, b]`: tests with a name each that take nothing.
#[macro_export]
macro_rules! alone {
    ($($test:ident),* $(,)?) => {
        vec![$((stringify!($test), $crate::group::Test::Alone(|| Box::pin($test())))),*]
    };
}

/// The tests of a theme.
#[derive(Debug)]
pub struct Group {
    name: &'static str,
    /// Of the daemon that is shared, in TOML.
    settings: &'static str,
    tests: Vec<(&'static str, Test)>,
}

impl Group {
    pub fn new(name: &'static str, tests: Vec<(&'static str, Test)>) -> Self {
        Self { name, settings: "", tests }
    }

    /// With more tests, of another kind.
    pub fn and(mut self, tests: Vec<(&'static str, Test)>) -> Self {
        self.tests.extend(tests);
        self
    }

    /// Settings for the shared daemon, before the first section.
    pub fn with_settings(self, settings: &'static str) -> Self {
        Self { settings, ..self }
    }

    /// The daemon comes with the first test that shares it and goes with the last.
    pub fn trials(self, tokio: &Handle) -> Vec<Trial> {
        let daemon = Arc::new(OnceCell::new());
        let (group, settings) = (self.name, self.settings);
        let trial = |(name, test): (&'static str, Test)| {
            let (tokio, daemon) = (tokio.clone(), Arc::clone(&daemon));
            Trial::test(format!("{group}::{name}"), move || {
                let shared = async || -> Arc<Daemon> {
                    let start = async || Arc::new(Daemon::start(group, settings).await);
                    Arc::clone(daemon.get_or_init(start).await)
                };
                let run = async {
                    match test {
                        Test::Alone(test) => test().await,
                        Test::Daemon(test) => test(shared().await).await,
                        Test::Shared(test) => {
                            let cri = shared().await.cri().await;
                            test(cri).await;
                        }
                    }
                };
                match tokio.block_on(async { tokio::time::timeout(PATIENCE, run).await }) {
                    Ok(()) => Ok(()),
                    Err(_) => Err(format!("it has not ended after {PATIENCE:?}").into()),
                }
            })
        };
        self.tests.into_iter().map(trial).collect()
    }
}
