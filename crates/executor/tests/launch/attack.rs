//! Hostile images and hostile neighbours.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use executor::Step;
use executor::launch::Progress;
use executor::plan::{Create, Handle, Namespace, Placement};
use rustix::fs::{CWD, OFlags, RenameFlags, fcntl_setfl, renameat_with};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, WaitId, WaitIdOptions, getpid, getppid, pidfd_send_signal, waitid};
use sys::clone::{Birth, clone};

use crate::Case;
use crate::container::{
    CAP_SYS_PTRACE, Container, DEFAULT_CAPABILITIES, Init, capable, exec, exec_with, process,
};
use crate::enter::idle;
use crate::stage::{MARKER, Stage};

pub(crate) const CASES: &[Case] = &[
    ("attack::programs_that_are_descriptors_or_the_keeper", programs),
    ("attack::working_directories_that_are_descriptors", directories),
    ("attack::links_swapped_under_mount_targets", swapped),
];

pub(crate) const SEEN: &[Case] = &[
    ("attack::a_neighbour_with_ptrace_finds_nothing_of_an_exec", spy_on_exec),
    ("attack::a_neighbour_with_ptrace_finds_nothing_of_a_second_container", spy_on_second),
];

pub(crate) const UNSEEN: &[Case] =
    &[("attack::a_neighbour_without_ptrace_finds_nothing_of_an_exec", spy_blindly)];

fn script(stage: &Stage, name: &str, interpreter: &str) -> String {
    let path = stage.image(&format!("bin/{name}"));
    fs::write(&path, format!("#!{interpreter}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    format!("/bin/{name}")
}

fn programs(stage: &mut Stage) {
    let mut programs = vec!["/proc/self/exe".to_owned(), script(stage, "exe", "/proc/self/exe")];
    for number in 0..40 {
        programs.push(format!("/proc/self/fd/{number}"));
        let name = format!("fd{number}");
        programs.push(script(stage, &name, &format!("/proc/self/fd/{number}")));
    }
    let containers = programs.iter().map(|program| {
        let mut container = Container::new(stage, "");
        container.plan.process.args = vec![program.clone()];
        (program.clone(), container)
    });
    let containers: Vec<_> = containers.collect();
    let target = Container::new(stage, "pause");
    let own = fs::metadata("/proc/self/exe").unwrap().modified().unwrap();
    stage.keep();
    // Nothing that the kernel finds there is a program that can run: the keeper's is dynamic here,
    // and its loader is not in the image.
    for (program, container) in containers {
        let failure = container.fail();
        assert_eq!(failure.step, Step::Execute, "{program}");
        assert!([Errno::NOENT, Errno::ACCESS, Errno::NXIO].contains(&failure.errno), "{failure:?}");
    }
    let init = idle(target);
    for program in programs {
        let mut wanted = process("");
        wanted.args = vec![program.clone()];
        let mut running = exec(&init, None, wanted);
        let Progress::Waiting(waiting) = running.next() else { panic!("{program}") };
        let Progress::Failed(failure) = running.next() else { panic!("{program}") };
        assert_eq!(failure.step, Step::Execute, "{program}");
        assert!(matches!(running.next(), Progress::Done));
        running.finish(&waiting);
    }
    init.kill();
    assert_eq!(fs::metadata("/proc/self/exe").unwrap().modified().unwrap(), own);
}

fn directories(stage: &mut Stage) {
    let mut paths: Vec<String> = (0..40).map(|number| format!("/proc/self/fd/{number}")).collect();
    paths.push("/proc/self/cwd".to_owned());
    paths.push("/proc/1/root".to_owned());
    symlink("/proc/self/fd/3/../..", stage.image("link")).unwrap();
    paths.push("/link".to_owned());
    let containers: Vec<_> = paths
        .iter()
        .map(|path| {
            let mut container = Container::new(stage, "pwd");
            container.plan.process.cwd = path.clone();
            container
        })
        .collect();
    let target = Container::new(stage, "pause");
    stage.keep();
    for container in containers {
        let failure = container.fail();
        let expected = [Errno::LOOP, Errno::NOENT, Errno::NOTDIR];
        assert!(expected.contains(&failure.errno), "{failure:?}");
    }
    let init = idle(target);
    for path in paths {
        let mut wanted = process("pwd");
        wanted.cwd = path.clone();
        let mut running = exec(&init, None, wanted);
        let Progress::Failed(failure) = running.next() else { panic!("{path}") };
        assert!(matches!(running.next(), Progress::Done));
        // Who enters has no entry of its own in the container's procfs yet.
        let expected = [Errno::LOOP, Errno::NOENT];
        assert_eq!(failure.step, Step::WorkingDirectory, "{path}");
        assert!(expected.contains(&failure.errno), "{path}: {failure:?}");
    }
    init.kill();
}

/// A container that waits, then looks at every process in its PID namespace for the keeper's root
/// and the keeper's secret.
fn spy(stage: &Stage) -> Container {
    let (half, other, _) = &stage.secret;
    let commands = format!("await , spy {MARKER} {half} {other} , pause");
    let mut spy = Container::new(stage, &commands);
    spy.plan.process.capabilities = capable(DEFAULT_CAPABILITIES | CAP_SYS_PTRACE);
    spy
}

/// What the spy says of all but the first process and itself.
fn report(spy: &mut Init) -> String {
    spy.say("x");
    spy.running.read_until("spied")
}

fn spy_on_exec(stage: &mut Stage) {
    let spy = spy(stage);
    stage.keep();
    let mut spy = idle(spy);
    // A process that does have it, so that a spy that sees nothing is noticed.
    let control = exec(&spy, None, process(&format!("args {} , pause", stage.secret.2)));
    let control = control.executed();
    let mut wanted = process("exit 0");
    wanted.env.push("OWN=of the container itself".to_owned());
    let running = exec(&spy, None, wanted);
    // As long as nobody listens to it, it stays where it is.
    until_children(spy.waiting.pid, 3);
    let text = report(&mut spy);
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("spy ")).collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines.contains(&"spy exe=probe marker=0 secret=1 readable=1 fds=0,1,2,"), "{text}");
    let own = std::env::current_exe().unwrap();
    let own = format!("exe={} ", own.file_name().unwrap().display());
    let seen = lines.iter().find(|line| line.contains(&own)).unwrap();
    assert!(seen.contains("marker=0 secret=0 readable=1 fds=0,1,2,3,"), "{text}");
    assert_eq!(running.executed().end().1, 0);
    control.kill();
    spy.kill();
}

/// The process is looked at where it has most to hide: before its first step.
fn spy_blindly(stage: &mut Stage) {
    let mut spy = spy(stage);
    spy.plan.process.capabilities = capable(DEFAULT_CAPABILITIES);
    stage.keep();
    let mut spy = idle(spy);
    // A cgroup to enter that takes no byte more.
    let (read, write) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).unwrap();
    while rustix::io::write(&write, &[0; 4096]).is_ok() {}
    fcntl_setfl(&write, OFlags::empty()).unwrap();
    let placement = Placement::V1(vec![Handle(0)]);
    let running = exec_with(&spy, None, process("exit 0"), placement, vec![write], None);
    until_children(spy.waiting.pid, 2);
    let first = running.spawning.first().as_raw_nonzero();
    // Root outside sees all that there is to see.
    let readable = fs::read_dir(format!("/proc/{first}/fd")).unwrap().count();
    assert!(readable > 3, "{readable}");
    // All but SIGKILL and SIGSTOP wait, as soon as it has begun.
    let deaf = || {
        let status = fs::read_to_string(format!("/proc/{first}/status")).unwrap();
        status.contains("SigBlk:\tfffffffffffbfeff\n")
    };
    let moment = std::time::Duration::from_millis(5);
    assert!((0..1000).any(|_| deaf() || {
        std::thread::sleep(moment);
        false
    }));
    let text = report(&mut spy);
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("spy ")).collect();
    assert_eq!(lines, ["spy exe=? marker=0 secret=0 readable=0 fds="], "{text}");
    fcntl_setfl(&read, OFlags::empty()).unwrap();
    let mut bytes = vec![0; 1 << 20];
    rustix::io::read(&read, &mut bytes).unwrap();
    assert_eq!(running.executed().end().1, 0);
    spy.kill();
}

fn spy_on_second(stage: &mut Stage) {
    let spy = spy(stage);
    let mut second = Container::new(stage, "pids");
    let mut third = Container::new(stage, "pids");
    stage.keep();
    let mut spy = idle(spy);
    for container in [&mut second, &mut third] {
        let pidfd = spy.waiting.pidfd.try_clone().unwrap();
        container.namespaces.pid = Namespace::Join(container.add(pidfd));
    }
    third.plan.process.no_new_privileges = false;
    let second = second.spawn().wait();
    let third = third.spawn().wait();
    let text = report(&mut spy);
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("spy ")).collect();
    assert_eq!(lines.len(), 2, "{text}");
    for line in lines {
        assert!(line.contains("marker=0 secret=0 readable=1 fds=0,1,2,3,"), "{text}");
    }
    assert_eq!(second.release().end().1, 0);
    assert_eq!(third.release().end().1, 0);
    spy.kill();
}

/// Waits until as many processes are in the PID namespace of `pid`.
fn until_children(pid: rustix::process::Pid, count: usize) {
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let own = namespace(&pid.as_raw_nonzero().to_string());
    for _ in 0..1000 {
        let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            namespace(&name)
        });
        if processes.filter(|namespace| Some(namespace) == own.as_ref()).count() >= count {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    panic!("it does not come");
}

fn swapped(stage: &mut Stage) {
    let volume = stage.volume("v");
    fs::create_dir(volume.join("place")).unwrap();
    symlink("../../../../../../../../..", volume.join("swap")).unwrap();
    let inner = stage.volume("inner");
    let containers: Vec<_> = (0..60)
        .map(|number| {
            let mut container = Container::new(stage, "cat /v/place/target/file");
            container.mount(stage.tree(&volume), "/v");
            let (target, create) = match number % 3 {
                0 => ("/v/place/target", Create::Directory),
                1 => ("/v/place/dev/../file", Create::File),
                _ => ("/v/swap/deep/target", Create::Directory),
            };
            let tree = if create == Create::File { inner.join("file") } else { inner.clone() };
            container.mount(stage.tree(&tree), target).create = create;
            container
        })
        .collect();
    let outside = Path::new("/mnt").read_dir().unwrap().count();
    let held = fs::File::open("/mnt").unwrap();
    let case = getpid();
    let racer = || {
        let (one, two) = (volume.join("place"), volume.join("swap"));
        // Until the case is over, however it ends.
        while getppid() == Some(case) {
            for _ in 0..1000 {
                let _gone = renameat_with(CWD, &one, CWD, &two, RenameFlags::EXCHANGE);
            }
        }
        0
    };
    // SAFETY: this program has one thread.
    #[expect(unsafe_code, reason = "the child goes on with a copy of the heap")]
    let racer = unsafe { clone(Birth::default(), racer) }.unwrap();
    stage.keep();
    let mine = || fs::read_dir("/").unwrap().count();
    let before = mine();
    let mut started = 0;
    for container in containers {
        let mut running = container.spawn();
        match running.next() {
            Progress::Waiting(waiting) => {
                started += 1;
                running.spawning.release().unwrap();
                while !matches!(running.next(), Progress::Done) {}
                running.finish(&waiting);
            }
            // A link where a directory was a moment ago: an error, and no more.
            Progress::Failed(failure) => {
                let steps = [Step::Target, Step::Attach];
                assert!(steps.contains(&failure.step), "{failure:?}");
            }
            other => panic!("unexpected: {other:?}"),
        }
    }
    pidfd_send_signal(&racer.pidfd, Signal::KILL).unwrap();
    waitid(WaitId::Pid(racer.pid), WaitIdOptions::EXITED).unwrap();
    println!("  {started} of 60 started");
    assert!(started > 0);
    assert_eq!(mine(), before);
    let names = rustix::fs::Dir::read_from(&held).unwrap().count() - 2;
    assert_eq!(names, outside);
}
