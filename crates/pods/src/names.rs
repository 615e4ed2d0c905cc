//! One name, one holder: a retry joins the running operation or is given its result.
//!
//! ```text
//!   reserve ---> free            -> New: the caller runs the operation, then settles or frees
//!           ---> running, equal  -> Join: waits for the first caller's result
//!           ---> settled, equal  -> Settled: the id, if it still serves
//!           ---> other config    -> NameTaken, naming who has it
//! ```

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::error::Error;

/// How an operation ended, for all who waited for it.
type Outcome<Id> = Option<Result<Id, Arc<Error>>>;

/// The names of one kind, with the request that each was taken by.
pub(crate) struct Names<Name, Spec, Id> {
    what: &'static str,
    /// A name as a person reads it.
    show: fn(&Name) -> String,
    slots: Mutex<HashMap<Name, Slot<Spec, Id>>>,
}

struct Slot<Spec, Id> {
    spec: Arc<Spec>,
    id: Id,
    /// Present while the operation runs.
    running: Option<watch::Receiver<Outcome<Id>>>,
}

/// What a request for a name may do.
pub(crate) enum Reservation<Id> {
    /// Run the operation, then [`Names::settle`] or [`Names::free`] and send the outcome.
    New(Running<Id>),
    /// Wait for the operation of another caller.
    Join(Joined<Id>),
    /// It was done before.
    Settled(Id),
}

/// The first caller's side of a running operation.
pub(crate) struct Running<Id>(watch::Sender<Outcome<Id>>);

/// A later caller's side of a running operation.
pub(crate) struct Joined<Id>(watch::Receiver<Outcome<Id>>);

impl<Id> Running<Id> {
    /// A way to wait for the outcome, for the caller itself.
    pub(crate) fn join(&self) -> Joined<Id> {
        Joined(self.0.subscribe())
    }

    /// Tells all who wait.
    pub(crate) fn finish(self, outcome: Result<Id, Arc<Error>>) {
        self.0.send_replace(Some(outcome));
    }
}

impl<Id: Clone> Joined<Id> {
    /// Waits for the end of the operation; giving up the wait leaves the operation running.
    pub(crate) async fn outcome(mut self) -> Result<Id, Error> {
        match self.0.wait_for(Option::is_some).await {
            Ok(outcome) => match &*outcome {
                Some(Ok(id)) => Ok(id.clone()),
                Some(Err(error)) => Err(Error::Joined(Arc::clone(error))),
                None => Err(Error::Internal("an operation ended without an outcome")),
            },
            Err(_) => Err(Error::Internal("an operation ended without an outcome")),
        }
    }
}

impl<Name, Spec, Id> Names<Name, Spec, Id>
where
    Name: Eq + Hash + Clone,
    Spec: PartialEq,
    Id: Clone + PartialEq + fmt::Display,
{
    /// An empty set of names; `what` is the kind in messages, `show` renders a name in them.
    pub(crate) fn new(what: &'static str, show: fn(&Name) -> String) -> Self {
        Self { what, show, slots: Mutex::new(HashMap::new()) }
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<Name, Slot<Spec, Id>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes `name` for `id`, or finds who has it. `serves` says whether a settled holder still
    /// answers a retry.
    pub(crate) fn reserve(
        &self,
        name: &Name,
        spec: &Arc<Spec>,
        id: &Id,
        serves: impl FnOnce(&Id) -> bool,
    ) -> Result<Reservation<Id>, Error> {
        let mut slots = self.slots();
        let Some(slot) = slots.get(name) else {
            let (sender, running) = watch::channel(None);
            let slot = Slot { spec: Arc::clone(spec), id: id.clone(), running: Some(running) };
            slots.insert(name.clone(), slot);
            return Ok(Reservation::New(Running(sender)));
        };
        let taken = || Error::NameTaken {
            what: self.what,
            name: (self.show)(name),
            id: slot.id.to_string(),
        };
        if *slot.spec != **spec {
            return Err(taken());
        }
        match &slot.running {
            Some(running) => Ok(Reservation::Join(Joined(running.clone()))),
            None if serves(&slot.id) => Ok(Reservation::Settled(slot.id.clone())),
            None => Err(taken()),
        }
    }

    /// Takes `name` for something that is there already, found at start.
    pub(crate) fn adopt(&self, name: Name, spec: Arc<Spec>, id: Id) {
        self.slots().insert(name, Slot { spec, id, running: None });
    }

    /// The operation succeeded: the name stays with `id`.
    pub(crate) fn settle(&self, name: &Name) {
        if let Some(slot) = self.slots().get_mut(name) {
            slot.running = None;
        }
    }

    /// Gives the name back, if `id` has it.
    pub(crate) fn free(&self, name: &Name, id: &Id) {
        let mut slots = self.slots();
        if slots.get(name).is_some_and(|slot| slot.id == *id) {
            slots.remove(name);
        }
    }
}

impl<Name, Spec, Id> fmt::Debug for Names<Name, Spec, Id> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Names").field("what", &self.what).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names<&'static str, u8, u32> {
        Names::new("thing", |name| (*name).to_owned())
    }

    #[tokio::test]
    async fn a_retry_with_an_equal_request_joins_and_shares_the_outcome() {
        let names = names();
        let spec = Arc::new(1);
        let Ok(Reservation::New(running)) = names.reserve(&"a", &spec, &7, |_| true) else {
            panic!("the name was free");
        };
        let Ok(Reservation::Join(joined)) = names.reserve(&"a", &spec, &8, |_| true) else {
            panic!("the operation is running");
        };
        names.settle(&"a");
        running.finish(Ok(7));
        assert_eq!(joined.outcome().await.unwrap(), 7);
        assert!(matches!(names.reserve(&"a", &spec, &9, |_| true), Ok(Reservation::Settled(7))));
        assert!(matches!(
            names.reserve(&"a", &spec, &9, |_| false),
            Err(Error::NameTaken { id, .. }) if id == "7"
        ));
    }

    #[tokio::test]
    async fn another_request_for_the_name_is_refused_and_names_the_holder() {
        let names = names();
        let _running = names.reserve(&"a", &Arc::new(1), &7, |_| true).unwrap();
        let refused = names.reserve(&"a", &Arc::new(2), &8, |_| true);
        assert!(matches!(refused, Err(Error::NameTaken { id, .. }) if id == "7"));
    }

    #[tokio::test]
    async fn a_failure_frees_the_name_for_a_fresh_start() {
        let names = names();
        let spec = Arc::new(1);
        let Ok(Reservation::New(running)) = names.reserve(&"a", &spec, &7, |_| true) else {
            panic!("the name was free");
        };
        let waiting = running.join();
        names.free(&"a", &7);
        running.finish(Err(Arc::new(Error::Internal("made to fail"))));
        assert!(matches!(waiting.outcome().await, Err(Error::Joined(_))));
        assert!(matches!(names.reserve(&"a", &spec, &8, |_| true), Ok(Reservation::New(_))));
        names.free(&"a", &7);
        assert!(matches!(names.reserve(&"a", &spec, &9, |_| true), Ok(Reservation::Join(_))));
    }
}
