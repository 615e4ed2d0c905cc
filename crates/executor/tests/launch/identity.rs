//! What a process is: user, capabilities, filter, signals, scheduling, limits, cgroup.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use executor::Step;
use executor::plan::{Capabilities, Limits, Placement, Rlimit, Scheduler, Seccomp};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::process::{Signal, setpriority_process};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::Case;
use crate::container::{Container, DEFAULT_CAPABILITIES, capable, in_memory};
use crate::stage::Stage;

pub(crate) const CASES: &[Case] = &[
    ("identity::root_has_the_capabilities_given", root),
    ("identity::a_user_has_none_in_force_but_ambient_ones", user),
    ("identity::nothing_of_the_keepers_settings_is_left", settings),
    ("identity::settings_asked_for_are_made", asked),
    ("identity::a_filter_is_loaded_with_and_without_new_privileges", filter),
    ("identity::a_bad_filter_is_an_error", bad_filter),
    ("identity::working_directories_are_checked", directories),
    ("identity::limits_come_from_outside", limits),
    ("identity::limits_are_those_of_another_user", limits_of_another_user),
    ("identity::it_starts_in_its_cgroup_on_v2", cgroup_v2),
    ("identity::it_starts_in_its_cgroups_on_v1", cgroup_v1),
];

fn status(text: &str, name: &str) -> String {
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).trim().to_owned()
}

fn capability_sets(text: &str) -> [u64; 5] {
    ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]
        .map(|name| u64::from_str_radix(&status(text, name), 16).unwrap())
}

fn root(stage: &mut Stage) {
    let container = Container::new(stage, "cat /proc/self/status");
    let mut bare = Container::new(stage, "cat /proc/self/status");
    bare.plan.process.capabilities = Capabilities::default();
    let mut all = Container::new(stage, "cat /proc/self/status");
    all.plan.process.capabilities = capable(u64::MAX);
    stage.keep();
    let own = capability_sets(&fs::read_to_string("/proc/self/status").unwrap());
    let text = container.run().0;
    let set = DEFAULT_CAPABILITIES;
    assert_eq!(capability_sets(&text), [0, set, set, set, 0]);
    assert_eq!(capability_sets(&bare.run().0), [0; 5]);
    let [_, permitted, _, bounding, _] = own;
    assert_eq!(capability_sets(&all.run().0), [0, permitted, permitted, bounding, 0]);
    assert_eq!(status(&text, "NoNewPrivs"), "1");
    assert_eq!(status(&text, "Uid"), "0\t0\t0\t0");
}

fn user(stage: &mut Stage) {
    let mut container =
        Container::new(stage, "cat /proc/self/status , write /v/x y , stat /dev/fd/1");
    let process = &mut container.plan.process;
    (process.uid, process.gid, process.groups) = (1000, 1001, vec![5, 2000]);
    process.no_new_privileges = false;
    let mut ambient = Container::new(stage, "cat /proc/self/status");
    ambient.plan.process.uid = 1000;
    let service = 1 << 10;
    ambient.plan.process.capabilities.ambient = service;
    ambient.plan.process.capabilities.inheritable = service;
    stage.keep();
    let text = container.run().0;
    assert_eq!(status(&text, "Uid"), "1000\t1000\t1000\t1000");
    assert_eq!(status(&text, "Gid"), "1001\t1001\t1001\t1001");
    assert_eq!(status(&text, "Groups"), "5 2000");
    assert_eq!(status(&text, "NoNewPrivs"), "0");
    assert_eq!(capability_sets(&text), [0, 0, 0, DEFAULT_CAPABILITIES, 0]);
    let text = ambient.run().0;
    assert_eq!(capability_sets(&text), [service, service, service, DEFAULT_CAPABILITIES, service]);
}

fn settings(stage: &mut Stage) {
    let commands = "cat /proc/self/status , sched , keyring , cat /proc/self/sessionid";
    let container = Container::new(stage, commands);
    stage.keep();
    sys::fork::ignore_signal(Signal::PIPE);
    sys::fork::ignore_signal(Signal::HUP);
    let (everything, none) = (!0_u64, std::ptr::null::<u64>());
    // SAFETY: the set has the 8 bytes that are named.
    #[expect(unsafe_code, reason = "rustix leaves signals to the C library")]
    unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_BLOCK, &raw const everything, none, 8);
    }
    rustix::process::umask(Mode::from_raw_mode(0o077));
    setpriority_process(None, 7).unwrap();
    sys::scheduling::set_io_priority(2 << 13 | 7).unwrap();
    let mut one = CpuSet::new();
    one.set(0);
    sched_setaffinity(None, &one).unwrap();
    // SAFETY: two integers; no memory is touched.
    #[expect(unsafe_code, reason = "rustix has no keyctl")]
    let own_keyring = unsafe { libc::syscall(libc::SYS_keyctl, 0, -3, 0) };
    let text = container.run().0;
    for name in ["SigBlk", "SigIgn", "SigCgt"] {
        assert_eq!(status(&text, name), "0000000000000000", "{name}");
    }
    assert_eq!(status(&text, "Umask"), "0022");
    let processors = std::thread::available_parallelism().unwrap().get();
    assert_eq!(processors, 1, "the keeper is bound");
    let all = fs::read_to_string("/sys/devices/system/cpu/online").unwrap();
    let all = if all.trim() == "0" { "1" } else { "more" };
    let line = text.lines().find(|line| line.starts_with("policy")).unwrap();
    assert!(line.starts_with("policy 0 nice 0 cpus "), "{line}");
    assert!(all == "1" || !line.contains("cpus 1 "), "{line}");
    assert!(line.ends_with("ioprio 0"), "{line}");
    assert!(own_keyring > 0);
    assert!(text.contains("keyring ") && !text.contains(&format!("keyring {own_keyring}\n")));
}

fn asked(stage: &mut Stage) {
    let mut container = Container::new(stage, "cat /proc/self/status , sched");
    let process = &mut container.plan.process;
    process.umask = Some(0o027);
    process.io_priority = Some(2 << 13 | 3);
    process.scheduler = Some(Scheduler { policy: 3, nice: 5, ..Scheduler::default() });
    process.affinity = vec![0];
    stage.keep();
    let text = container.run().0;
    assert_eq!(status(&text, "Umask"), "0027");
    assert!(text.ends_with("policy 3 nice 5 cpus 1 ioprio 16387\n"), "{text}");
}

/// Answers the calls of these numbers with ENOTTY and lets all others through.
pub(crate) fn refuse(numbers: &[libc::c_long]) -> OwnedFd {
    let instruction = |code: u16, jump_true: u8, operand: u32| {
        let mut bytes = code.to_ne_bytes().to_vec();
        bytes.extend([jump_true, 0]);
        bytes.extend(operand.to_ne_bytes());
        bytes
    };
    let mut program = instruction(0x20, 0, 0);
    for (index, number) in numbers.iter().enumerate() {
        let ahead = u8::try_from(numbers.len() - index).unwrap();
        program.extend(instruction(0x15, ahead, u32::try_from(*number).unwrap()));
    }
    program.extend(instruction(0x06, 0, 0x7fff_0000));
    program.extend(instruction(0x06, 0, 0x0005_0000 | 25));
    in_memory(&program)
}

fn filter(stage: &mut Stage) {
    let container = |no_new_privileges, uid| {
        let commands = "cat /proc/self/status , mkdir /tmp/x , sethostname x";
        let mut container = Container::new(stage, commands);
        let program = container.add(refuse(&[libc::SYS_mkdir, libc::SYS_sethostname]));
        let process = &mut container.plan.process;
        process.seccomp = Some(Seccomp { program, flags: 0 });
        process.no_new_privileges = no_new_privileges;
        process.uid = uid;
        container
    };
    let cases = [(true, 0), (false, 0), (true, 1000), (false, 1000)];
    let containers = cases.map(|(privileges, uid)| container(privileges, uid));
    stage.keep();
    for (container, (no_new_privileges, _)) in containers.into_iter().zip(cases) {
        let text = container.run().0;
        assert_eq!(status(&text, "Seccomp"), "2");
        assert_eq!(status(&text, "NoNewPrivs"), if no_new_privileges { "1" } else { "0" });
        assert!(text.ends_with("mkdir /tmp/x: ENOTTY\nsethostname x: ENOTTY\n"), "{text}");
    }
}

fn bad_filter(stage: &mut Stage) {
    let mut short = Container::new(stage, "");
    let program = short.add(in_memory(b"abc"));
    short.plan.process.seccomp = Some(Seccomp { program, flags: 0 });
    let mut wrong = Container::new(stage, "");
    let program = wrong.add(in_memory(&[0xff; 16]));
    wrong.plan.process.seccomp = Some(Seccomp { program, flags: 0 });
    stage.keep();
    for container in [short, wrong] {
        let failure = container.fail();
        assert_eq!((failure.step, failure.errno), (Step::Seccomp, Errno::INVAL));
    }
}

fn directories(stage: &mut Stage) {
    let at = |cwd: &str, uid| {
        let mut container = Container::new(stage, "pwd");
        container.plan.process.cwd = cwd.to_owned();
        container.plan.process.uid = uid;
        container
    };
    let good = [
        (at("/data/../data/inner", 0), "/data/inner"),
        (at("", 0), "/"),
        (at("/../..", 0), "/"),
        (at("/private", 1000), "/private"),
    ];
    let bad = [
        (at("/etc/hostname", 0), Step::WorkingDirectory, Errno::NOTDIR),
        (at("/etc/hostname/x", 0), Step::MakeWorkingDirectory, Errno::NOTDIR),
        (at("/proc/self/root/tmp", 0), Step::MakeWorkingDirectory, Errno::LOOP),
    ];
    stage.keep();
    for (container, path) in good {
        assert_eq!(container.run().0, format!("cwd {path}\n"));
    }
    for (container, step, errno) in bad {
        let failure = container.fail();
        assert_eq!((failure.step, failure.errno), (step, errno));
    }
}

/// Without CAP_SYS_RESOURCE only a process of the same user may lower a process's limits.
fn limits_of_another_user(stage: &mut Stage) {
    let mut container = Container::new(stage, "cat /proc/self/limits");
    (container.plan.process.uid, container.plan.process.gid) = (1000, 1001);
    let files = Rlimit { resource: 7, soft: 100, hard: 200 };
    let cores = Rlimit { resource: 4, soft: 0, hard: 0 };
    container.limits = Limits { oom_score_adj: None, rlimits: vec![files, cores] };
    stage.keep();
    let mut sets = rustix::thread::capabilities(None).unwrap();
    let resource = rustix::thread::CapabilitySet::SYS_RESOURCE;
    (sets.effective, sets.permitted) = (sets.effective - resource, sets.permitted - resource);
    rustix::thread::set_capabilities(None, sets).unwrap();
    let init = container.spawn().wait();
    assert!(init.waiting.refused.is_empty(), "{:?}", init.waiting.refused);
    let text = init.release().end().0;
    for (name, values) in [("Max open files", ["100", "200"]), ("Max core file size", ["0", "0"])] {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        assert_eq!(line.split_whitespace().collect::<Vec<_>>()[..2], values);
    }
}

fn limits(stage: &mut Stage) {
    let commands = "cat /proc/self/limits , cat /proc/self/oom_score_adj , oom 100 , oom 400";
    let mut container = Container::new(stage, commands);
    let files = Rlimit { resource: 7, soft: 100, hard: 200 };
    container.limits = Limits { oom_score_adj: Some(300), rlimits: vec![files] };
    let mut greedy = Container::new(stage, "cat /proc/self/limits");
    let too_many = Rlimit { resource: 7, soft: u64::MAX, hard: u64::MAX };
    greedy.limits = Limits { oom_score_adj: None, rlimits: vec![too_many] };
    stage.keep();
    let init = container.spawn().wait();
    assert!(init.waiting.refused.is_empty(), "{:?}", init.waiting.refused);
    let text = init.release().end().0;
    let line = text.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(line.split_whitespace().collect::<Vec<_>>()[3..5], ["100", "200"]);
    assert!(text.contains("\n300\n") && text.ends_with("oom 400: ok\n"), "{text}");
    // Where the keeper has CAP_SYS_RESOURCE, what it sets is also the least.
    let own = capability_sets(&fs::read_to_string("/proc/self/status").unwrap())[1];
    if own & (1 << 24) != 0 {
        assert!(text.contains("oom 100: EACCES\n"), "{text}");
    }

    // More than fs.nr_open is refused to everybody.
    let init = greedy.spawn().wait();
    assert_eq!(init.waiting.refused.len(), 1);
    assert_eq!(init.waiting.refused[0].step, Step::Rlimit);
    let own = sys::limit::get(rustix::process::getpid(), 7).unwrap();
    let text = init.release().end().0;
    let line = text.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let hard = own.hard.to_string();
    assert_eq!(line.split_whitespace().collect::<Vec<_>>()[3..5], [hard.as_str(), hard.as_str()]);
}

/// A cgroup of the test's own; gone with the value.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(hierarchy: &str) -> Option<Self> {
        let hierarchy = Path::new(hierarchy);
        fs::metadata(hierarchy.join("cgroup.procs")).ok()?;
        let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap();
        let path = hierarchy.join(format!("minke-test-{}", &uuid[..8]));
        fs::create_dir(&path).unwrap();
        Some(Self(path))
    }

    fn open(&self, file: &str, flags: OFlags) -> OwnedFd {
        openat(CWD, self.0.join(file), flags | OFlags::CLOEXEC, Mode::empty()).unwrap()
    }

    fn name(&self) -> String {
        self.0.file_name().unwrap().to_string_lossy().into_owned()
    }
}

/// The keeper sees no cgroup tree: what is needed of it is held open.
struct Held {
    parent: File,
    name: String,
}

impl Held {
    fn of(cgroup: &Cgroup) -> Self {
        let parent = File::open(cgroup.0.parent().unwrap()).unwrap();
        Self { parent, name: cgroup.name() }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let name = self.name.as_str();
        rustix::fs::unlinkat(&self.parent, name, rustix::fs::AtFlags::REMOVEDIR).unwrap();
    }
}

fn cgroup_v2(stage: &mut Stage) {
    let tree = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
    let v2 = |path: &&&str| fs::metadata(Path::new(path).join("cgroup.controllers")).is_ok();
    let root = tree.iter().find(v2).expect("a cgroup2 hierarchy");
    let cgroup = Cgroup::new(root).unwrap();
    let held = Held::of(&cgroup);
    let mut container = Container::new(stage, "cat /proc/self/cgroup");
    let directory = container.add(cgroup.open("", OFlags::PATH | OFlags::DIRECTORY));
    container.cgroup = Placement::V2(directory);
    let mut outside = Container::new(stage, "cat /proc/self/cgroup");
    let directory = outside.add(cgroup.open("", OFlags::PATH | OFlags::DIRECTORY));
    outside.cgroup = Placement::V2(directory);
    outside.namespaces.cgroup = executor::plan::Namespace::Inherit;
    stage.keep();
    // Its own is the root of what it sees.
    let text = container.run().0;
    assert!(text.lines().any(|line| line == "0::/"), "{text}");
    let text = outside.run().0;
    assert!(text.lines().any(|line| line.ends_with(&held.name)), "{text}");
}

fn cgroup_v1(stage: &mut Stage) {
    let hierarchies = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup/memory"];
    let cgroups: Vec<Cgroup> = hierarchies.iter().filter_map(|path| Cgroup::new(path)).collect();
    if cgroups.is_empty() {
        println!("  not run: no cgroup v1 hierarchy");
        return;
    }
    let held: Vec<Held> = cgroups.iter().map(Held::of).collect();
    let mut container = Container::new(stage, "cat /proc/self/cgroup");
    let files = cgroups.iter().map(|cgroup| cgroup.open("tasks", OFlags::WRONLY));
    container.cgroup = Placement::V1(files.map(|file| container.add(file)).collect());
    let mut outside = Container::new(stage, "cat /proc/self/cgroup");
    let files = cgroups.iter().map(|cgroup| cgroup.open("cgroup.procs", OFlags::WRONLY));
    outside.cgroup = Placement::V1(files.map(|file| outside.add(file)).collect());
    outside.namespaces.cgroup = executor::plan::Namespace::Inherit;
    stage.keep();
    let text = container.run().0;
    for name in ["pids", "memory"] {
        assert!(text.lines().any(|line| line.ends_with(&format!(":{name}:/"))), "{text}");
    }
    let text = outside.run().0;
    for held in &held {
        assert!(text.lines().any(|line| line.ends_with(&held.name)), "{text}");
    }
}
