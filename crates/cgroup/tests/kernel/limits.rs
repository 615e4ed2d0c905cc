//! Limits: written, read back, and felt. On the hierarchy that the node uses alone; what it has no
//! controller for is refused, and that is tested on the cgroup2 mount of a hybrid node.

use std::os::unix::process::ExitStatusExt;

use cgroup::{Controller, Error, Hierarchy, Version};

use crate::{Fixture, await_line, hierarchies, resources, spawn_in};

const MIB: u64 = 1 << 20;

fn fixture(name: &str) -> Fixture {
    Fixture::new(&Hierarchy::detect().unwrap(), name)
}

/// The text of a file, by its name on v1 or v2.
fn shown(fixture: &Fixture, controller: &str, v1: &str, v2: &str) -> String {
    let root = std::path::Path::new("/sys/fs/cgroup");
    let path = fixture.cgroup.path().as_str();
    let file = match fixture.features().version {
        Version::V2 => root.join(&path[1..]).join(v2),
        Version::V1 => root.join(controller).join(&path[1..]).join(v1),
    };
    std::fs::read_to_string(&file).unwrap().trim().to_owned()
}

#[test]
fn limits_are_in_force_and_change() {
    let fixture = fixture("limits");
    let cgroup = &fixture.cgroup;
    cgroup
        .apply(&resources(
            r#"{"cpu":{"shares":2048,"quota":20000,"period":50000},
            "memory":{"limit":33554432,"swap":33554432},"pids":{"limit":17}}"#,
        ))
        .unwrap();
    let v1 = fixture.features().version == Version::V1;
    let cpu = |fixture: &Fixture| {
        (
            shown(fixture, "cpu", "cpu.shares", "cpu.weight"),
            shown(fixture, "cpu", "cpu.cfs_quota_us", "cpu.max"),
        )
    };
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(cpu(&fixture), if v1 { pair("2048", "20000") } else { pair("174", "20000 50000") });
    let meter = cgroup.meter().unwrap();
    let limits = || {
        let stats = meter.read().unwrap();
        let memory = stats.memory.unwrap();
        (memory.limit, memory.swap.and_then(|swap| swap.limit), stats.pids.unwrap().limit)
    };
    let swap = fixture.features().swap;
    assert_eq!(limits(), (Some(32 * MIB), swap.then_some(0), Some(17)));
    // Up and down again: on v1 the two memory limits change places in the order of writing.
    for (limit, together) in [(64, 96), (16, 16), (48, 64), (128, 128)] {
        let json = format!(r#"{{"memory":{{"limit":{},"swap":{}}}}}"#, limit * MIB, together * MIB);
        cgroup.update(&resources(&json)).unwrap();
        let swap = swap.then_some((together - limit) * MIB);
        assert_eq!(limits(), (Some(limit * MIB), swap, Some(17)));
    }
    cgroup
        .update(&resources(r#"{"cpu":{"quota":-1},"memory":{"limit":-1},"pids":{"limit":-1}}"#))
        .unwrap();
    assert_eq!(limits(), (None, None, None));
    assert_eq!(cpu(&fixture), if v1 { pair("2048", "-1") } else { pair("174", "max 50000") });
}

#[test]
fn quota_period_and_burst_change_in_any_order() {
    let fixture = fixture("cpu");
    for (quota, period, burst) in
        [(50_000, 100_000, 50_000), (2000, 10_000, 1000), (900_000, 1_000_000, 0)]
    {
        let json = format!(r#"{{"cpu":{{"quota":{quota},"period":{period},"burst":{burst}}}}}"#);
        fixture.cgroup.update(&resources(&json)).unwrap();
        let shown = shown(&fixture, "cpu", "cpu.cfs_burst_us", "cpu.max.burst");
        assert_eq!(shown, burst.to_string());
    }
}

#[test]
fn an_update_that_fails_half_way_is_undone() {
    let fixture = fixture("undo");
    let shares = || shown(&fixture, "cpu", "cpu.shares", "cpu.weight");
    fixture.cgroup.apply(&resources(r#"{"cpu":{"shares":2048}}"#)).unwrap();
    let before = shares();
    // No kernel takes a memory node of that number; one without the controller refuses before.
    let error =
        fixture.cgroup.update(&resources(r#"{"cpu":{"shares":512,"mems":"999"}}"#)).unwrap_err();
    assert!(matches!(error, Error::Write { .. } | Error::NoController { .. }), "{error}");
    assert!(error.to_string().contains("cpuset.mems"), "{error}");
    assert_eq!(shares(), before);
}

#[test]
fn a_cpuset_binds() {
    let fixture = fixture("cpuset");
    if !fixture.features().has(Controller::Cpuset) {
        let error = fixture.cgroup.apply(&resources(r#"{"cpu":{"cpus":"0"}}"#)).unwrap_err();
        assert!(matches!(error, Error::NoController { .. }), "{error}");
        assert!(error.to_string().contains("it takes a kernel with CONFIG_"), "{error}");
        return;
    }
    fixture.cgroup.apply(&resources(r#"{"cpu":{"cpus":"0","mems":"0"}}"#)).unwrap();
    let mut child = spawn_in(&fixture.cgroup, "grep Cpus_allowed_list /proc/self/status");
    await_line(&mut child, "Cpus_allowed_list:\t0");
    child.wait().unwrap();
}

#[test]
fn a_kill_for_want_of_memory_is_counted() {
    let fixture = fixture("oom");
    let limits = r#"{"memory":{"limit":16777216,"swap":16777216}}"#;
    fixture.cgroup.apply(&resources(limits)).unwrap();
    let before = fixture.cgroup.oom_kills().unwrap();
    let mut harmless = spawn_in(&fixture.cgroup, "kill -9 $$");
    assert_eq!(harmless.wait().unwrap().signal(), Some(9));
    assert_eq!(fixture.cgroup.oom_kills().unwrap(), before, "killed, but not for want of memory");
    // A line without end, which tail keeps.
    let mut greedy = spawn_in(&fixture.cgroup, "exec tail /dev/zero");
    assert_eq!(greedy.wait().unwrap().signal(), Some(9));
    assert_eq!(fixture.cgroup.oom_kills().unwrap(), before + 1);
    // v1 counts no hits where both limits are equal.
    if fixture.features().version == Version::V2 {
        let stats = fixture.cgroup.meter().unwrap().read().unwrap();
        assert!(stats.memory.unwrap().limit_hits > 0);
    }
}

#[test]
fn a_limit_below_what_is_in_use_is_refused() {
    let fixture = fixture("usage");
    let script = "x=$(head -c 24000000 /dev/zero | tr '\\0' a); echo in; read; exit 0";
    let mut child = spawn_in(&fixture.cgroup, script);
    await_line(&mut child, "in");
    let limits = r#"{"memory":{"limit":8388608,"swap":8388608}}"#;
    let error = fixture.cgroup.update(&resources(limits)).unwrap_err();
    let Error::BelowUsage { limit, usage, .. } = error else { panic!("{error}") };
    assert_eq!(limit, 8 * MIB);
    assert!(usage >= 24_000_000);
    let roomy = r#"{"memory":{"limit":134217728,"swap":134217728}}"#;
    fixture.cgroup.update(&resources(roomy)).unwrap();
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success(), "it lives on");
}

#[test]
fn what_nothing_enforces_is_refused_by_name() {
    for hierarchy in hierarchies() {
        let fixture = Fixture::new(&hierarchy, "missing");
        let features = fixture.features();
        for (controller, json) in [
            (Controller::Memory, r#"{"memory":{"limit":16777216}}"#),
            (Controller::Pids, r#"{"pids":{"limit":16}}"#),
            (Controller::Cpu, r#"{"cpu":{"shares":100}}"#),
            (Controller::Hugetlb, r#"{"hugepageLimits":[{"pageSize":"2MB","limit":4194304}]}"#),
        ] {
            let result = fixture.cgroup.apply(&resources(json));
            if features.has(controller) {
                result.unwrap();
            } else {
                let error = result.unwrap_err();
                assert!(error.to_string().contains("it takes a kernel with CONFIG_"), "{error}");
                let Error::NoController { controller: named, .. } = error else {
                    panic!("{error}")
                };
                assert_eq!(named, controller);
            }
        }
        let none = r#"{"hugepageLimits":[{"pageSize":"2MB","limit":0}]}"#;
        fixture.cgroup.apply(&resources(none)).unwrap();
    }
}
