use cri_proto::runtime::v1;
use model::{HugepageLimit, Resources};

use super::{Invalid, invalid, named};

/// The limits under `field`. 0 and empty leave a value alone, -1 lifts a limit that can be lifted.
pub(crate) fn resources(
    field: &str,
    limits: v1::LinuxContainerResources,
) -> Result<Resources, Invalid> {
    let v1::LinuxContainerResources {
        cpu_period,
        cpu_quota,
        cpu_shares,
        memory_limit_in_bytes,
        oom_score_adj,
        cpuset_cpus,
        cpuset_mems,
        hugepage_limits,
        unified,
        memory_swap_limit_in_bytes,
    } = limits;
    let at = |name: &str| format!("{field}.{name}");
    let range = |name: &str, value: i64, least: i64, most: i64, of: &str| {
        if value == 0 || (least..=most).contains(&value) {
            return Ok(());
        }
        Err(invalid(at(name), format!("{value} is not {of}")))
    };
    range("cpu_period", cpu_period, 1_000, 1_000_000, "1000 to 1000000 microseconds")?;
    range("cpu_quota", cpu_quota, -1, i64::MAX, "a number of microseconds, or -1 for no limit")?;
    range("cpu_shares", cpu_shares, 1, i64::MAX, "a positive weight")?;
    let bytes = "a number of bytes, or -1 for no limit";
    range("memory_limit_in_bytes", memory_limit_in_bytes, -1, i64::MAX, bytes)?;
    range("memory_swap_limit_in_bytes", memory_swap_limit_in_bytes, -1, i64::MAX, bytes)?;
    range("oom_score_adj", oom_score_adj, -1000, 1000, "from -1000 to 1000")?;
    if memory_swap_limit_in_bytes > 0 && memory_limit_in_bytes > memory_swap_limit_in_bytes {
        return Err(invalid(
            at("memory_swap_limit_in_bytes"),
            "is less than memory_limit_in_bytes: it counts memory and swap together",
        ));
    }
    cpu_list(&at("cpuset_cpus"), &cpuset_cpus)?;
    cpu_list(&at("cpuset_mems"), &cpuset_mems)?;
    for name in unified.keys() {
        unified_name(&at("unified"), name)?;
    }
    let hugepage_limits = hugepage_limits
        .into_iter()
        .enumerate()
        .map(|(i, limit)| hugepage_limit(&at(&format!("hugepage_limits[{i}]")), limit))
        .collect::<Result<_, _>>()?;
    Ok(Resources {
        cpu_period,
        cpu_quota,
        cpu_shares,
        memory_limit: memory_limit_in_bytes,
        memory_swap_limit: memory_swap_limit_in_bytes,
        oom_score_adj,
        cpuset_cpus,
        cpuset_mems,
        hugepage_limits,
        unified,
    })
}

fn hugepage_limit(field: &str, limit: v1::HugepageLimit) -> Result<HugepageLimit, Invalid> {
    let v1::HugepageLimit { page_size, limit } = limit;
    let digits = page_size.trim_end_matches(|c: char| c.is_ascii_uppercase());
    let unit = &page_size[digits.len()..];
    if digits.is_empty()
        || !digits.bytes().all(|b| b.is_ascii_digit())
        || !["KB", "MB", "GB", "TB"].contains(&unit)
    {
        let reason = format!("{page_size:?} is not a page size such as 2MB or 1GB");
        return Err(invalid(format!("{field}.page_size"), reason));
    }
    Ok(HugepageLimit { page_size, limit })
}

/// The list format of cpuset(7): numbers and ranges, separated by commas.
fn cpu_list(field: &str, list: &str) -> Result<(), Invalid> {
    let number = |text: &str| text.parse::<u32>().ok().filter(|_| !text.starts_with('+'));
    let part = |part: &str| match part.split_once('-') {
        None => number(part).is_some(),
        Some((first, last)) => {
            matches!((number(first), number(last)), (Some(first), Some(last)) if first <= last)
        }
    };
    if list.is_empty() || list.split(',').all(part) {
        return Ok(());
    }
    Err(invalid(field, format!("{list:?} is not a list such as 0-2,7")))
}

/// The name of a cgroup v2 file: it must not lead out of the cgroup's directory.
fn unified_name(field: &str, name: &str) -> Result<(), Invalid> {
    named(field, name)?;
    let (controller, file) = name.split_once('.').unwrap_or(("", name));
    if controller.is_empty() || file.is_empty() || name.contains('/') {
        let reason = format!("{name:?} is not the name of a cgroup file such as memory.high");
        return Err(invalid(field, reason));
    }
    if controller == "cgroup" {
        let reason = format!("{name:?} is no limit: cgroup.* files are the runtime's own");
        return Err(invalid(field, reason));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut v1::LinuxContainerResources)) -> String {
        let mut limits = v1::LinuxContainerResources::default();
        change(&mut limits);
        resources("linux.resources", limits).unwrap_err().field
    }

    #[test]
    fn each_limit_that_the_kernel_would_refuse_is_named() {
        let at = |name: &str| format!("linux.resources.{name}");
        assert_eq!(refused(|r| r.cpu_period = 999), at("cpu_period"));
        assert_eq!(refused(|r| r.cpu_quota = -2), at("cpu_quota"));
        assert_eq!(refused(|r| r.cpu_shares = -1), at("cpu_shares"));
        assert_eq!(refused(|r| r.memory_limit_in_bytes = -2), at("memory_limit_in_bytes"));
        assert_eq!(
            refused(|r| r.memory_swap_limit_in_bytes = -2),
            at("memory_swap_limit_in_bytes")
        );
        assert_eq!(
            refused(|r| (r.memory_limit_in_bytes, r.memory_swap_limit_in_bytes) = (2, 1)),
            at("memory_swap_limit_in_bytes")
        );
        assert_eq!(refused(|r| r.oom_score_adj = 1001), at("oom_score_adj"));
        for list in ["a", "1-", "2-1", "0,,1", "+1", "0 1"] {
            assert_eq!(refused(|r| r.cpuset_cpus = list.into()), at("cpuset_cpus"), "{list}");
            assert_eq!(refused(|r| r.cpuset_mems = list.into()), at("cpuset_mems"), "{list}");
        }
        for name in ["", "memory", "../memory.max", ".max", "memory.", "cgroup.kill"] {
            let pair = (name.to_owned(), "1".to_owned());
            assert_eq!(refused(|r| r.unified.extend([pair])), at("unified"), "{name}");
        }
        for page_size in ["", "2", "MB", "2mb", "-2MB", "2 MB"] {
            let limit = v1::HugepageLimit { page_size: page_size.into(), limit: 0 };
            let field = refused(|r| r.hugepage_limits.push(limit));
            assert_eq!(field, at("hugepage_limits[0].page_size"), "{page_size}");
        }
    }

    #[test]
    fn what_the_kubelet_sends_is_taken() {
        let limits = v1::LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: 20_000,
            cpu_shares: 204,
            memory_limit_in_bytes: 1 << 28,
            memory_swap_limit_in_bytes: 1 << 28,
            oom_score_adj: -997,
            cpuset_cpus: "0-2,7".into(),
            hugepage_limits: vec![v1::HugepageLimit { page_size: "2MB".into(), limit: 0 }],
            unified: [("memory.high".to_owned(), "1".to_owned())].into(),
            ..Default::default()
        };
        let parsed = resources("linux.resources", limits).unwrap();
        assert_eq!(
            (parsed.cpu_quota, parsed.memory_limit, parsed.oom_score_adj),
            (20_000, 1 << 28, -997)
        );
        assert_eq!(parsed.hugepage_limits[0].limit, 0);
        assert_eq!(parsed.unified["memory.high"], "1");
    }
}
