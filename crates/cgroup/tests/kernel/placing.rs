//! Making cgroups, putting processes in, telling them.

use std::path::PathBuf;

use cgroup::{CgroupPath, Error};

use crate::{Fixture, PATIENCE, await_line, hierarchies, resources, spawn_in};

#[test]
fn only_what_was_made_is_reported_and_pruned() {
    for hierarchy in hierarchies() {
        let outer = Fixture::new(&hierarchy, "made");
        let trees = outer.made.len() / 2;
        assert_eq!(outer.made.len(), trees * 2, "the parent and the cgroup in every tree");
        let path = outer.cgroup.path().join("deep").unwrap().join("deeper").unwrap();
        let inner = hierarchy.create(&path).unwrap();
        assert_eq!(inner.made.len(), trees * 2);
        assert!(inner.made[0].ends_with("deep/deeper"));
        assert_eq!(hierarchy.ancestry(&path).len(), trees * 4);
        assert!(hierarchy.ancestry(&path).starts_with(&inner.made[..2]));
        assert!(hierarchy.create(&path).unwrap().made.is_empty(), "there already");
        hierarchy.prune(&inner.made).unwrap();
        assert!(!inner.cgroup.exists());
        assert!(outer.cgroup.exists());
        assert_eq!(outer.finish(), [] as [&PathBuf; 0]);
    }
}

#[test]
fn the_kernel_itself_hands_down_cpusets_on_v1() {
    for hierarchy in hierarchies() {
        let outer = Fixture::new(&hierarchy, "cpusets");
        let below = hierarchy.create(&outer.cgroup.path().join("below").unwrap()).unwrap();
        let read = |path: PathBuf| std::fs::read_to_string(path).unwrap();
        let mut inherited = 0;
        for (made, parent) in below.made.iter().filter_map(|made| Some((made, made.parent()?))) {
            let told = parent.join("cgroup.clone_children");
            if told.exists() && made.join("cpuset.cpus").exists() {
                assert_eq!(read(told).trim(), "1");
                assert_eq!(read(made.join("cpuset.cpus")), read(parent.join("cpuset.cpus")));
                assert_ne!(read(made.join("cpuset.mems")).trim(), "");
                inherited += 1;
            }
        }
        // Trees of their own have v1's controllers alone.
        assert_eq!(inherited, usize::from(below.made.len() > 1));
        hierarchy.prune(&below.made).unwrap();
        assert_eq!(outer.finish(), [] as [&PathBuf; 0]);
    }
}

#[test]
fn pruning_spares_what_is_in_use() {
    for hierarchy in hierarchies() {
        let fixture = Fixture::new(&hierarchy, "spare");
        let mut child = spawn_in(&fixture.cgroup, "echo in; read");
        await_line(&mut child, "in");
        hierarchy.prune(&fixture.made).unwrap();
        assert!(fixture.cgroup.exists());
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}

#[test]
fn processes_and_threads_are_told() {
    for hierarchy in hierarchies() {
        let fixture = Fixture::new(&hierarchy, "processes");
        assert!(fixture.cgroup.is_empty().unwrap());
        let mut child = spawn_in(&fixture.cgroup, "(echo in; read) <&0 & wait");
        await_line(&mut child, "in");
        let mut processes: Vec<_> = fixture
            .cgroup
            .processes()
            .unwrap()
            .iter()
            .map(|pid| pid.as_raw_nonzero().get() as u32)
            .collect();
        processes.sort_unstable();
        assert_eq!(processes.len(), 2);
        assert!(processes.contains(&child.id()));
        assert_eq!(fixture.cgroup.threads().unwrap(), 2);
        assert!(!fixture.cgroup.is_empty().unwrap());
        fixture.cgroup.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn a_scope_ends_without_its_whole() {
    for hierarchy in hierarchies() {
        let fixture = Fixture::new(&hierarchy, "scope");
        assert!(fixture.cgroup.scopes().is_empty());
        let scope = fixture.cgroup.scope("exec-1").unwrap();
        assert_eq!(fixture.cgroup.scopes(), ["exec-1"]);
        let mut init = spawn_in(&fixture.cgroup, "echo in; read; echo alive");
        await_line(&mut init, "in");
        let mut exec = spawn_in(&scope, "(trap '' TERM; setsid sleep 60 & echo in; wait)");
        await_line(&mut exec, "in");
        assert_eq!(scope.processes().unwrap().len(), 3);
        assert_eq!(fixture.cgroup.processes().unwrap().len(), 4);
        let meter = scope.meter().unwrap();
        assert!(meter.read().unwrap().cpu.is_some());
        scope.kill().unwrap();
        exec.wait().unwrap();
        scope.remove(PATIENCE).unwrap();
        assert!(!scope.exists());
        drop(init.stdin.take());
        await_line(&mut init, "alive");
        init.wait().unwrap();
        assert!(fixture.finish().is_empty());
    }
}

#[test]
fn counters_move_and_end_with_the_cgroup() {
    for hierarchy in hierarchies() {
        let fixture = Fixture::new(&hierarchy, "meter");
        let meter = fixture.cgroup.meter().unwrap();
        let before = meter.read().unwrap();
        let script = "x=$(head -c 8000000 /dev/zero | tr '\\0' a); echo in; read";
        let mut child = spawn_in(&fixture.cgroup, script);
        await_line(&mut child, "in");
        let after = meter.read().unwrap();
        assert!(after.cpu.unwrap().usage_ns > before.cpu.unwrap().usage_ns);
        let features = fixture.features();
        assert_eq!(after.memory.is_some(), features.has(cgroup::Controller::Memory));
        if let Some(memory) = after.memory {
            assert!(memory.rss >= 8_000_000, "{memory:?}");
            assert!(memory.usage >= memory.working_set && memory.working_set >= memory.rss);
            assert!(memory.page_faults > 1000);
            assert_eq!(memory.limit, None);
            assert_eq!(memory.swap.is_some(), features.swap);
        }
        assert_eq!(after.pids.is_some(), features.has(cgroup::Controller::Pids));
        if let Some(pids) = after.pids {
            assert_eq!((pids.current, pids.limit), (1, None));
        }
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(fixture.finish().is_empty());
        assert!(meter.read().is_err_and(|error| error.is_gone()));
        assert!(fixture.cgroup.meter().is_err_and(|error| error.is_gone()));
        assert!(fixture.cgroup.processes().is_err_and(|error| error.is_gone()));
        assert!(fixture.cgroup.attachment().is_err_and(|error| error.is_gone()));
        fixture.cgroup.kill().unwrap();
    }
}

#[test]
fn devices_are_closed_but_for_those_allowed() {
    let rules = |zero: bool| {
        format!(
            r#"{{"devices":[{{"allow":false,"access":"rwm"}},
                {{"allow":true,"type":"c","access":"m"}},
                {{"allow":true,"type":"c","major":1,"minor":3,"access":"rwm"}},
                {{"allow":{zero},"type":"c","major":1,"minor":5,"access":"rw"}}]}}"#
        )
    };
    let script = "echo in; while read; do : 2>/dev/null </dev/null && echo null; \
                  (: </dev/zero) 2>/dev/null && echo zero; echo end; done";
    for hierarchy in hierarchies() {
        let fixture = Fixture::new(&hierarchy, "devices");
        fixture.cgroup.apply(&resources(&rules(false))).unwrap();
        let mut child = spawn_in(&fixture.cgroup, script);
        await_line(&mut child, "in");
        let mut ask = |expected: &[&str]| {
            std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"\n").unwrap();
            expected.iter().for_each(|line| await_line(&mut child, line));
        };
        ask(&["null", "end"]);
        fixture.cgroup.update(&resources(&rules(true))).unwrap();
        ask(&["null", "zero", "end"]);
        for _ in 0..70 {
            // More often than programs fit on one cgroup: each takes the place of the last.
            fixture.cgroup.update(&resources(&rules(false))).unwrap();
        }
        ask(&["null", "end"]);
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}

#[test]
fn a_name_that_is_taken_by_a_file_is_refused() {
    for hierarchy in hierarchies() {
        let path = CgroupPath::new("/cgroup.procs/minke-test").unwrap();
        let error = hierarchy.create(&path).unwrap_err();
        assert!(matches!(error, Error::Create { .. }), "{error}");
    }
}
