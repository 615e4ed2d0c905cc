use std::collections::BTreeMap;

use model::{HugepageLimit, Resources};
use oci_spec::runtime::{LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxResources};

use crate::{Error, NodeFacts};

/// The limits of a new container, without device rules. A memory limit alone limits memory and swap
/// together to the same value, so that the container does not swap.
pub(crate) fn resources(asked: &Resources, node: &NodeFacts) -> LinuxResources {
    let mut resources = LinuxResources::default();
    merge(&mut resources, asked, node.swap);
    if asked.memory_swap_limit == 0 && asked.memory_limit != 0 && node.swap {
        let memory = resources.memory_mut().get_or_insert_default();
        memory.set_swap(Some(asked.memory_limit));
    }
    if !node.hugetlb {
        // kubelet sends a limit of 0 for every page size to every node, so that a controller that
        // is missing cannot be an error.
        resources.set_hugepage_limits(None);
    }
    resources
}

/// Refuses what no hierarchy can mean.
pub(crate) fn check(asked: &Resources) -> Result<(), Error> {
    for (field, value) in [("cpu_period", asked.cpu_period), ("cpu_shares", asked.cpu_shares)] {
        if value < 0 {
            let field = format!("linux.resources.{field}");
            return Err(Error::invalid(field, format!("{value} is negative")));
        }
    }
    match asked.unified.keys().find(|key| key.is_empty() || key.contains(['/', '\0'])) {
        Some(key) => Err(Error::invalid("linux.resources.unified", format!("{key:?} is no file"))),
        None => Ok(()),
    }
}

/// Merges an UpdateContainerResources request: zero and absent values leave what is there, `unified`
/// keys are replaced one by one.
///
/// The spec of a container that swaps on its own limit keeps that limit; where memory and swap were
/// limited to one value and only memory changes, both follow, because the kernel refuses a memory
/// limit above that of memory and swap.
pub fn update(resources: &mut LinuxResources, asked: &Resources) {
    let together = resources
        .memory()
        .as_ref()
        .is_some_and(|memory| memory.swap().is_some_and(|swap| memory.limit() == Some(swap)));
    merge(resources, asked, true);
    if together && asked.memory_limit != 0 && asked.memory_swap_limit == 0 {
        let memory = resources.memory_mut().get_or_insert_default();
        memory.set_swap(Some(asked.memory_limit));
    }
}

fn merge(resources: &mut LinuxResources, asked: &Resources, swap: bool) {
    let cpu = resources.cpu_mut().get_or_insert_with(LinuxCpu::default);
    if let Some(period) = u64::try_from(asked.cpu_period).ok().filter(|period| *period != 0) {
        cpu.set_period(Some(period));
    }
    if asked.cpu_quota != 0 {
        cpu.set_quota(Some(asked.cpu_quota));
    }
    if let Some(shares) = u64::try_from(asked.cpu_shares).ok().filter(|shares| *shares != 0) {
        cpu.set_shares(Some(shares));
    }
    if !asked.cpuset_cpus.is_empty() {
        cpu.set_cpus(Some(asked.cpuset_cpus.clone()));
    }
    if !asked.cpuset_mems.is_empty() {
        cpu.set_mems(Some(asked.cpuset_mems.clone()));
    }
    let memory = resources.memory_mut().get_or_insert_with(LinuxMemory::default);
    if asked.memory_limit != 0 {
        memory.set_limit(Some(asked.memory_limit));
    }
    if asked.memory_swap_limit != 0 && swap {
        memory.set_swap(Some(asked.memory_swap_limit));
    }
    if !asked.hugepage_limits.is_empty() {
        merge_hugepages(resources, &asked.hugepage_limits);
    }
    merge_unified(resources, &asked.unified);
}

fn merge_hugepages(resources: &mut LinuxResources, asked: &[HugepageLimit]) {
    let limits = resources.hugepage_limits_mut().get_or_insert_default();
    for page in asked {
        limits.retain(|old| *old.page_size() != page.page_size);
        let mut limit = LinuxHugepageLimit::default();
        limit
            .set_page_size(page.page_size.clone())
            .set_limit(i64::try_from(page.limit).unwrap_or(i64::MAX));
        limits.push(limit);
    }
}

fn merge_unified(resources: &mut LinuxResources, asked: &BTreeMap<String, String>) {
    if asked.is_empty() {
        return;
    }
    let unified = resources.unified_mut().get_or_insert_default();
    unified.extend(asked.iter().map(|(key, value)| (key.clone(), value.clone())));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_changes_only_what_it_names() {
        let node = NodeFacts { swap: true, hugetlb: true, ..NodeFacts::default() };
        let asked = Resources {
            cpu_quota: 20_000,
            cpu_period: 100_000,
            memory_limit: 1 << 20,
            unified: BTreeMap::from([("memory.high".into(), "1".into())]),
            hugepage_limits: vec![HugepageLimit { page_size: "2MB".into(), limit: u64::MAX }],
            ..Resources::default()
        };
        let mut resources = resources(&asked, &node);
        assert_eq!(resources.hugepage_limits().as_ref().unwrap()[0].limit(), i64::MAX);
        update(
            &mut resources,
            &Resources {
                cpu_shares: 512,
                memory_limit: 2 << 20,
                unified: BTreeMap::from([("cpu.idle".into(), "1".into())]),
                ..Resources::default()
            },
        );
        let cpu = resources.cpu().as_ref().unwrap();
        assert_eq!(
            (cpu.quota(), cpu.period(), cpu.shares()),
            (Some(20_000), Some(100_000), Some(512))
        );
        let memory = resources.memory().as_ref().unwrap();
        assert_eq!((memory.limit(), memory.swap()), (Some(2 << 20), Some(2 << 20)));
        assert_eq!(resources.unified().as_ref().unwrap().len(), 2);
    }

    #[test]
    fn swap_and_huge_pages_follow_the_node() {
        let asked = Resources {
            memory_limit: 1 << 20,
            memory_swap_limit: 2 << 20,
            hugepage_limits: vec![HugepageLimit { page_size: "2MB".into(), limit: 0 }],
            ..Resources::default()
        };
        let bare = resources(&asked, &NodeFacts::default());
        assert_eq!(bare.memory().as_ref().unwrap().swap(), None);
        assert_eq!(bare.hugepage_limits(), &None);
        let node = NodeFacts { swap: true, ..NodeFacts::default() };
        assert_eq!(resources(&asked, &node).memory().as_ref().unwrap().swap(), Some(2 << 20));
    }
}
