//! The one place that orders changes: state is changed and the event is sent under one lock.
//!
//! A subscriber first gets the present as events of its own, then every change in order. One that
//! does not keep up is cut off when its queue is full: it lists again and subscribes anew, which
//! loses nothing, while a queue without end would grow for ever.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use crate::view::Event;

/// How many events a subscriber may be behind, beside those of the present.
const BACKLOG: usize = 4096;

/// Who hears of changes.
#[derive(Debug, Default)]
pub(crate) struct Events(Mutex<Vec<mpsc::Sender<Event>>>);

/// Held while state changes; events are sent through it in that order.
pub(crate) struct Turn<'a>(MutexGuard<'a, Vec<mpsc::Sender<Event>>>);

impl Events {
    /// Waits for the turn to change state. Never held across an await.
    pub(crate) fn turn(&self) -> Turn<'_> {
        Turn(self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Turn<'_> {
    /// Whether anybody listens: an event is costly to make, for it carries all statuses.
    pub(crate) fn heard(&mut self) -> bool {
        self.0.retain(|subscriber| !subscriber.is_closed());
        !self.0.is_empty()
    }

    /// Sends to all, and drops those that are too far behind.
    pub(crate) fn send(&mut self, event: &Event) {
        self.0.retain(|subscriber| subscriber.try_send(event.clone()).is_ok());
    }

    /// Adds a subscriber, who begins with `present`.
    pub(crate) fn subscribe(&mut self, present: Vec<Event>) -> mpsc::Receiver<Event> {
        let (sender, receiver) = mpsc::channel(present.len() + BACKLOG);
        for event in present {
            // The queue was made large enough for these.
            let _ = sender.try_send(event);
        }
        self.0.push(sender);
        receiver
    }
}
