//! Freezing, killing, removing.

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use cgroup::{Controller, Error};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, mount_change, mount_remount};
use rustix::thread::UnshareFlags;

use crate::{Fixture, PATIENCE, await_line, eventually, hierarchies, resources, spawn_in};

#[test]
fn a_frozen_loop_uses_no_time() {
    for hierarchy in hierarchies() {
        let fixture = Fixture::new(&hierarchy, "freeze");
        let mut child = spawn_in(&fixture.cgroup, "echo in; while :; do :; done");
        await_line(&mut child, "in");
        let meter = fixture.cgroup.meter().unwrap();
        let used = || meter.read().unwrap().cpu.unwrap().usage_ns;
        fixture.cgroup.freeze(PATIENCE).unwrap();
        let frozen = used();
        std::thread::sleep(Duration::from_millis(50));
        assert!(used() - frozen < 5_000_000, "it ran on");
        fixture.cgroup.thaw(PATIENCE).unwrap();
        eventually("it goes on", || used() - frozen > 20_000_000);
        fixture.cgroup.freeze(PATIENCE).unwrap();
        fixture.cgroup.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9), "a frozen one can be killed");
    }
}

#[test]
fn a_fork_bomb_is_killed_whole() {
    for hierarchy in hierarchies() {
        let fixture = Fixture::new(&hierarchy, "bomb");
        // Where nothing limits the number, its depth does.
        let limited = fixture.features().has(Controller::Pids);
        if limited {
            fixture.cgroup.apply(&resources(r#"{"pids":{"limit":40}}"#)).unwrap();
        }
        let depth = if limited { 1000 } else { 4 };
        let script = format!(
            "end=$((EPOCHSECONDS + 20)); bomb() {{ ((EPOCHSECONDS < end && $1 < {depth})) && \
             {{ bomb $(($1 + 1)) | bomb $(($1 + 1)) & }}; sleep 20; }}; echo in; bomb 0 2>/dev/null"
        );
        let mut child = spawn_in(&fixture.cgroup, &script);
        await_line(&mut child, "in");
        eventually("it spreads", || fixture.cgroup.processes().unwrap().len() >= 25);
        if let Some(pids) = fixture.cgroup.meter().unwrap().read().unwrap().pids {
            assert_eq!(pids.limit, Some(40));
            assert!(pids.current <= 40);
        }
        fixture.cgroup.kill().unwrap();
        child.wait().unwrap();
        fixture.cgroup.remove(PATIENCE).unwrap();
        assert!(fixture.finish().is_empty());
    }
}

#[test]
fn removal_waits_for_the_last_process_and_no_longer() {
    for hierarchy in hierarchies() {
        let fixture = Fixture::new(&hierarchy, "remove");
        let child_path = fixture.cgroup.path().join("child").unwrap();
        let below = hierarchy.create(&child_path).unwrap().cgroup;
        let mut child = spawn_in(&below, "echo in; read -t 2; exit 0");
        await_line(&mut child, "in");
        let begin = Instant::now();
        let early = fixture.cgroup.remove(Duration::from_millis(20)).unwrap_err();
        assert!(matches!(early, Error::TimedOut { awaited: "empty", .. }), "{early}");
        assert!(begin.elapsed() < Duration::from_millis(1500));
        fixture.cgroup.remove(PATIENCE).unwrap();
        assert!(begin.elapsed() < Duration::from_secs(12));
        assert!(!below.exists() && !fixture.cgroup.exists());
        child.wait().unwrap();
        fixture.cgroup.remove(PATIENCE).unwrap();
    }
}

/// Runs this where every cgroup tree is mounted read-only, as in many a container.
fn among_read_only_trees(work: impl FnOnce() + Send) {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let trees = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let trees: Vec<_> = trees.filter(|words| words[2].starts_with("cgroup")).collect();
    assert!(!trees.is_empty());
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            #[expect(deprecated, reason = "the flag it is unsound with is not used")]
            rustix::thread::unshare(UnshareFlags::NEWNS).unwrap();
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            mount_change("/", private).unwrap();
            for tree in &trees {
                mount_remount(tree[1], MountFlags::BIND | MountFlags::RDONLY, c"").unwrap();
            }
            work();
        });
        thread.join().unwrap();
    });
}

#[test]
fn what_is_not_there_is_removed_from_a_read_only_tree() {
    for hierarchy in hierarchies() {
        let fixture = Fixture::new(&hierarchy, "read-only");
        among_read_only_trees(|| {
            let error = fixture.cgroup.remove(PATIENCE).unwrap_err();
            assert_eq!(error.errno(), Some(Errno::ROFS), "{error}");
        });
        fixture.cgroup.remove(PATIENCE).unwrap();
        among_read_only_trees(|| fixture.cgroup.remove(PATIENCE).unwrap());
    }
}
