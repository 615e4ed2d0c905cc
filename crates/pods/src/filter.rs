//! System call filters, compiled once and shared by all containers with the same one.

use std::collections::{BTreeSet, HashMap};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use model::{ContainerId, Profile};
use oci_spec::runtime::{Capabilities, Capability, LinuxSeccomp};

use crate::error::Error;

/// Profiles are few; a node that has seen more than this begins to remember anew.
const MOST: usize = 256;

/// A compiled filter.
#[derive(Debug)]
pub(crate) struct Filter {
    /// As the specification says it.
    pub(crate) profile: LinuxSeccomp,
    program: OwnedFd,
    flags: u32,
}

impl Filter {
    /// For the executor.
    pub(crate) fn borrow(&self) -> executor::prepare::Filter<'_> {
        executor::prepare::Filter { program: self.program.as_fd(), flags: self.flags }
    }

    fn compile(profile: LinuxSeccomp, container: &ContainerId) -> Result<Arc<Self>, Error> {
        let program = seccomp::compile(&profile)
            .map_err(|source| Error::Seccomp { container: container.clone(), source })?;
        let file = executor::prepare::sealed("seccomp", program.as_bytes())
            .map_err(|source| Error::Prepare { container: container.clone(), source })?;
        Ok(Arc::new(Self { profile, program: file, flags: program.flags() }))
    }
}

/// The filters that are known.
#[derive(Debug, Default)]
pub(crate) struct Filters {
    defaults: Mutex<HashMap<BTreeSet<String>, Arc<Filter>>>,
    others: Mutex<HashMap<String, Arc<Filter>>>,
}

impl Filters {
    /// The filter that a profile asks for, given the container's bounding set; none for none.
    pub(crate) fn of(
        &self,
        profile: &Profile,
        bounding: &Capabilities,
        container: &ContainerId,
    ) -> Result<Option<Arc<Filter>>, Error> {
        match profile {
            Profile::Unset | Profile::Unconfined => Ok(None),
            Profile::RuntimeDefault => self.runtime_default(bounding, container).map(Some),
            Profile::Localhost(path) => {
                let path = Path::new(path);
                let profile = seccomp::Profile::read(path).map_err(Error::SeccompProfile)?;
                let profile = profile.resolve(bounding, seccomp::KernelVersion::running());
                self.known(profile, container).map(Some)
            }
        }
    }

    fn runtime_default(
        &self,
        bounding: &Capabilities,
        container: &ContainerId,
    ) -> Result<Arc<Filter>, Error> {
        let key: BTreeSet<String> = bounding.iter().map(Capability::to_string).collect();
        let mut defaults = self.defaults.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(filter) = defaults.get(&key) {
            return Ok(Arc::clone(filter));
        }
        let kernel = seccomp::KernelVersion::running();
        let filter = Filter::compile(seccomp::default_profile(bounding, kernel), container)?;
        if defaults.len() >= MOST {
            defaults.clear();
        }
        defaults.insert(key, Arc::clone(&filter));
        Ok(filter)
    }

    /// The filter of a profile in full, as a record of an earlier daemon gives it.
    pub(crate) fn known(
        &self,
        profile: LinuxSeccomp,
        container: &ContainerId,
    ) -> Result<Arc<Filter>, Error> {
        let key = serde_json::to_string(&profile)
            .map_err(|_| Error::Internal("a seccomp profile has no JSON form"))?;
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(filter) = others.get(&key) {
            return Ok(Arc::clone(filter));
        }
        let filter = Filter::compile(profile, container)?;
        if others.len() >= MOST {
            others.clear();
        }
        others.insert(key, Arc::clone(&filter));
        Ok(filter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_bounding_sets_share_one_filter() {
        let filters = Filters::default();
        let id = ContainerId::from_random([1; 32]);
        let few: Capabilities = [Capability::Chown].into_iter().collect();
        let many: Capabilities = [Capability::Chown, Capability::SysAdmin].into_iter().collect();
        let of = |bounding| filters.of(&Profile::RuntimeDefault, bounding, &id).unwrap().unwrap();
        assert!(Arc::ptr_eq(&of(&few), &of(&few)));
        assert!(!Arc::ptr_eq(&of(&few), &of(&many)));
        assert!(filters.of(&Profile::Unconfined, &few, &id).unwrap().is_none());
        let missing = Profile::Localhost("/no/such/profile".into());
        let error = filters.of(&missing, &few, &id).unwrap_err();
        assert!(error.to_string().contains("seccomp"), "{error}");
    }
}
