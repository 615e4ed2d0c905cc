//! Pods and containers by id, found by the beginning of an id too, as people type them.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use model::{ContainerId, PodId};

use crate::container::Container;
use crate::error::Error;
use crate::pod::Pod;

/// Everything that List shows. The lock is held for look-ups alone, never across an await.
#[derive(Debug, Default)]
pub(crate) struct Index(RwLock<Maps>);

#[derive(Debug, Default)]
struct Maps {
    pods: BTreeMap<PodId, Arc<Pod>>,
    containers: BTreeMap<ContainerId, Arc<Container>>,
}

/// What the beginning of an id leads to.
enum Found<'a, T> {
    One(&'a Arc<T>),
    None,
    Several,
}

/// The entry whose id is `text`, or the only one that begins with it.
fn find<'a, K: Ord + Borrow<str>, T>(map: &'a BTreeMap<K, Arc<T>>, text: &str) -> Found<'a, T> {
    if text.is_empty() {
        return Found::None;
    }
    let from = map.range::<str, _>((Bound::Included(text), Bound::Unbounded));
    let mut matches = from.take_while(|(id, _)| (*id).borrow().starts_with(text));
    match (matches.next(), matches.next()) {
        (Some((_, entry)), None) => Found::One(entry),
        (None, _) => Found::None,
        (Some(_), Some(_)) => Found::Several,
    }
}

impl Index {
    fn read(&self) -> RwLockReadGuard<'_, Maps> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Maps> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn insert_pod(&self, pod: Arc<Pod>) {
        self.write().pods.insert(pod.id.clone(), pod);
    }

    pub(crate) fn remove_pod(&self, id: &PodId) {
        self.write().pods.remove(id);
    }

    pub(crate) fn insert_container(&self, container: Arc<Container>) {
        self.write().containers.insert(container.id.clone(), container);
    }

    pub(crate) fn remove_container(&self, id: &ContainerId) {
        self.write().containers.remove(id);
    }

    /// The pod whose id is `id` or begins with it.
    pub(crate) fn pod(&self, id: &str) -> Result<Arc<Pod>, Error> {
        match find(&self.read().pods, id) {
            Found::One(pod) => Ok(Arc::clone(pod)),
            Found::None => Err(Error::PodNotFound { id: id.to_owned() }),
            Found::Several => Err(Error::Ambiguous { id: id.to_owned() }),
        }
    }

    /// The container whose id is `id` or begins with it.
    pub(crate) fn container(&self, id: &str) -> Result<Arc<Container>, Error> {
        match find(&self.read().containers, id) {
            Found::One(container) => Ok(Arc::clone(container)),
            Found::None => Err(Error::ContainerNotFound { id: id.to_owned() }),
            Found::Several => Err(Error::Ambiguous { id: id.to_owned() }),
        }
    }

    /// The pods that a filter's id admits: all without one, none for an unknown or ambiguous one.
    pub(crate) fn pods(&self, id: Option<&str>) -> Vec<Arc<Pod>> {
        let maps = self.read();
        match id {
            None => maps.pods.values().cloned().collect(),
            Some(id) => match find(&maps.pods, id) {
                Found::One(pod) => vec![Arc::clone(pod)],
                Found::None | Found::Several => Vec::new(),
            },
        }
    }

    /// The containers that a filter's id admits, as [`Index::pods`] does.
    pub(crate) fn containers(&self, id: Option<&str>) -> Vec<Arc<Container>> {
        let maps = self.read();
        match id {
            None => maps.containers.values().cloned().collect(),
            Some(id) => match find(&maps.containers, id) {
                Found::One(container) => vec![Arc::clone(container)],
                Found::None | Found::Several => Vec::new(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_of_an_id_finds_it_where_it_is_unique() {
        let mut map = BTreeMap::new();
        for byte in [0x11, 0x12, 0x20] {
            map.insert(PodId::from_random([byte; 32]), Arc::new(byte));
        }
        assert!(matches!(find(&map, "2"), Found::One(byte) if **byte == 0x20));
        assert!(matches!(find(&map, &"12".repeat(32)), Found::One(byte) if **byte == 0x12));
        assert!(matches!(find(&map, "1"), Found::Several));
        assert!(matches!(find(&map, "3"), Found::None));
        assert!(matches!(find(&map, ""), Found::None));
    }
}
