//! `minke demo`: one pod, end to end, with a private daemon, told as it happens.
//!
//! ```text
//!   Stage   directory, configuration, daemon process     cleaned up whatever happens
//!   story   the steps, through the CRI socket alone      as crictl or kubelet would take them
//!   Census  what the kernel and the disk still have      counted before the stage is left
//! ```

mod census;
mod daemon;
mod error;
mod guest;
mod image;
mod narrator;
mod stage;
mod story;

use tokio::signal::unix::{SignalKind, signal};

pub(crate) use error::Error;
pub(crate) use guest::{Guest, run as run_guest};
use narrator::Narrator;
use stage::Stage;

/// Runs the demo; true if every step went well and nothing was left behind.
///
/// # Errors
/// The stage could not be set up or the signals not be watched; failures of steps are told.
pub(crate) async fn run() -> Result<bool, Error> {
    let narrator = Narrator::new();
    narrator.title(
        "minke: one pod, from image to nothing",
        "a private daemon, a real pod; nothing of this touches other pods on this machine",
    );
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::io("watch for Ctrl-C"))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::io("watch for SIGTERM"))?;
    let mut hangup = signal(SignalKind::hangup()).map_err(Error::io("watch for SIGHUP"))?;

    let mut stage = Stage::set()?;
    let told = tokio::select! {
        told = story::tell(&narrator, &mut stage) => told,
        _ = interrupt.recv() => Err(Error::Interrupted),
        _ = terminate.recv() => Err(Error::Interrupted),
        _ = hangup.recv() => Err(Error::Interrupted),
    };
    let (left, cleaned) = stage.strike().await;
    if let Err(error) = &told {
        narrator.end(false, &telemetry::chain(error));
    }
    if let Err(error) = &cleaned {
        narrator.end(false, &telemetry::chain(error));
    }
    let good = told.is_ok() && cleaned.is_ok() && left.is_nothing();
    let verdict = if left.is_nothing() { "left behind: nothing" } else { "LEFT BEHIND" };
    narrator.end(left.is_nothing(), &format!("{verdict} ({left})"));
    Ok(good)
}
