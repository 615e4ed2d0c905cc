//! More processes in a running container.

use std::fs;

use executor::Step;
use executor::launch::Progress;
use executor::plan::{Handle, Process, Seccomp, Window};
use rustix::io::Errno;

use crate::Case;
use crate::container::{
    CAP_SYS_ADMIN, Container, DEFAULT_CAPABILITIES, Init, capable, exec, exec_with, process,
    try_exec,
};
use crate::identity::refuse;
use crate::stage::Stage;

pub(crate) const CASES: &[Case] = &[
    ("enter::is_in_all_of_the_containers_namespaces", namespaces),
    ("enter::has_its_own_identity_and_streams", identity),
    ("enter::failures_are_named", failures),
    ("enter::a_terminal_is_the_containers", terminal),
    ("enter::a_false_terminal_is_refused", false_terminal),
    ("enter::filters_that_forbid_clone_do_not_matter", filters),
    ("enter::an_ended_container_cannot_be_entered", ended),
    ("enter::many_leave_nothing", many),
];

/// A container that runs until it is killed.
pub(crate) fn idle(container: Container) -> Init {
    container.spawn().wait().release()
}

fn namespaces(stage: &mut Stage) {
    let mut container = Container::new(stage, "pause");
    container.namespaces.uts = executor::plan::Namespace::New;
    container.namespaces.net = executor::plan::Namespace::New;
    container.namespaces.ipc = executor::plan::Namespace::New;
    stage.keep();
    let init = idle(container);
    let kinds = ["mnt", "pid", "net", "ipc", "uts", "cgroup", "user"];
    let commands: Vec<String> =
        kinds.iter().map(|kind| format!("link /proc/self/ns/{kind}")).collect();
    let commands = format!("{} , place , cat /etc/hostname", commands.join(" , "));
    let mut running = exec(&init, None, process(&commands));
    let (text, code) = running_to_end(&mut running);
    assert_eq!(code, 0);
    for kind in kinds {
        let pid = init.waiting.pid.as_raw_nonzero();
        let own = fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        let line = format!("link /proc/self/ns/{kind}: {}\n", own.display());
        assert!(text.contains(&line), "{kind}: {text}");
    }
    // The parent is outside, the session its own.
    assert!(text.contains("later parent 0 session own\nfrom the image\n"), "{text}");
    init.kill();
}

fn running_to_end(running: &mut crate::container::Running) -> (String, i32) {
    let Progress::Waiting(waiting) = running.next() else { panic!("it does not wait") };
    let Progress::Executed = running.next() else { panic!("it does not execute") };
    let Progress::Done = running.next() else { panic!("something is left") };
    running.finish(&waiting)
}

fn identity(stage: &mut Stage) {
    let container = Container::new(stage, "pause");
    stage.keep();
    let init = idle(container);
    let mut wanted = process("fds , pwd , env , cat /proc/self/status , stat /dev/fd/1");
    (wanted.uid, wanted.gid, wanted.groups) = (1000, 1000, vec![7]);
    wanted.cwd = "/data".to_owned();
    wanted.env.push("A=b".to_owned());
    let (text, _) = exec(&init, None, wanted).executed().end();
    let expected = "fds: 0 1 2\ncwd /data\nPATH=/usr/bin:/bin\nA=b\n";
    assert!(text.starts_with(expected), "{text}");
    let bounding = format!("CapBnd:\t{DEFAULT_CAPABILITIES:016x}\n");
    for line in ["Uid:\t1000\t1000\t1000\t1000\n", "Groups:\t7 \n", "CapEff:\t0000000000000000\n"] {
        assert!(text.contains(line), "{line} {text}");
    }
    assert!(text.contains(&bounding) && text.contains("NoNewPrivs:\t1\n"), "{text}");
    init.kill();
}

fn failures(stage: &mut Stage) {
    let container = Container::new(stage, "pause");
    stage.keep();
    let init = idle(container);
    let named = |args: &[&str], cwd: &str| Process {
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        cwd: cwd.to_owned(),
        ..process("")
    };
    let cases = [
        (named(&["nothing-such"], "/"), Step::FindProgram, Some("nothing-such"), Errno::NOENT),
        (named(&["/etc/hostname"], "/"), Step::Execute, Some("/etc/hostname"), Errno::ACCESS),
        (named(&["probe"], "/nowhere"), Step::WorkingDirectory, Some("/nowhere"), Errno::NOENT),
    ];
    for (process, step, target, errno) in cases {
        let mut running = exec(&init, None, process);
        let mut code = None;
        let failure = loop {
            match running.next() {
                Progress::Waiting(waiting) => code = Some(waiting),
                Progress::Failed(failure) => break failure,
                other => panic!("unexpected: {other:?}"),
            }
        };
        assert_eq!((failure.step, failure.target.as_deref(), failure.errno), (step, target, errno));
        assert!(matches!(running.next(), Progress::Done));
        if let Some(waiting) = code {
            running.finish(&waiting);
        }
    }
    init.kill();
}

fn terminal(stage: &mut Stage) {
    let container = Container::new(stage, "pause");
    stage.keep();
    let init = idle(container);
    let window = Some(Window { rows: 7, columns: 9 });
    let none = executor::plan::Placement::Inherit;
    let wanted = process("tty , fds , place");
    let (text, code) = exec_with(&init, None, wanted, none, Vec::new(), window).executed().end();
    assert_eq!(code, 0);
    assert_eq!(
        text.replace('\r', ""),
        "tty: 111 /dev/pts/0 7x9 session 1 foreground 1\nopen /dev/tty: ok\n\
         stat /dev/console: ENOENT\nfds: 0 1 2\nlater parent 0 session own\n"
    );
    init.kill();
}

fn false_terminal(stage: &mut Stage) {
    fs::create_dir(stage.image("dev/pts")).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o666);
    let fifo = rustix::fs::FileType::Fifo;
    let path = stage.image("dev/pts/ptmx");
    rustix::fs::mknodat(rustix::fs::CWD, &path, fifo, mode, 0).unwrap();
    let mut container = Container::new(stage, "pause");
    container.plan.mounts.retain(|mount| !mount.target.starts_with("/dev"));
    stage.keep();
    let init = idle(container);
    let none = executor::plan::Placement::Inherit;
    let window = Some(Window::default());
    let mut running = exec_with(&init, None, process("tty"), none, Vec::new(), window);
    let Progress::Failed(failure) = running.next() else { panic!("it did not fail") };
    assert_eq!((failure.step, failure.errno), (Step::Terminal, Errno::NOTTY));
    assert!(matches!(running.next(), Progress::Done));
    init.kill();
}

fn filters(stage: &mut Stage) {
    let container = Container::new(stage, "pause");
    stage.keep();
    let init = idle(container);
    let ours = [libc::SYS_clone, libc::SYS_clone3, libc::SYS_setsid, libc::SYS_ioctl];
    for (no_new_privileges, uid, terminal) in
        [(true, 0, false), (false, 0, true), (false, 1000, false)]
    {
        let mut wanted = process("fork , cat /proc/self/status , pids");
        wanted.seccomp = Some(Seccomp { program: Handle(0), flags: 0 });
        wanted.no_new_privileges = no_new_privileges;
        wanted.uid = uid;
        let none = executor::plan::Placement::Inherit;
        let table = vec![refuse(&ours)];
        let window = terminal.then(Window::default);
        let (text, _) = exec_with(&init, None, wanted, none, table, window).executed().end();
        assert!(text.starts_with("fork : ENOTTY"), "{text}");
        assert!(text.contains("Seccomp:\t2"), "{text}");
        let line = text.lines().find(|line| line.starts_with("pid ")).unwrap();
        let numbers: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(numbers[1], numbers[5], "a session of its own: {line}");
    }
    init.kill();
}

fn ended(stage: &mut Stage) {
    let container = Container::new(stage, "exit 0");
    stage.keep();
    let init = idle(container);
    assert_eq!(init.code(), 0);
    let none = executor::plan::Placement::Inherit;
    let failure = match try_exec(&init, None, process("pids"), none, Vec::new(), None) {
        Err(failure) => failure,
        Ok(mut running) => {
            let Progress::Failed(failure) = running.next() else { panic!("it did not fail") };
            assert!(matches!(running.next(), Progress::Done));
            failure
        }
    };
    assert_eq!((failure.step, failure.errno), (Step::JoinNamespace, Errno::SRCH));
}

fn many(stage: &mut Stage) {
    let mut container = Container::new(stage, "pause");
    container.plan.process.capabilities = capable(DEFAULT_CAPABILITIES | CAP_SYS_ADMIN);
    stage.keep();
    let init = idle(container);
    let open = || fs::read_dir("/proc/self/fd").unwrap().count();
    let before = open();
    let begin = std::time::Instant::now();
    for _ in 0..50 {
        let mut running = exec(&init, None, process("exit 3"));
        assert_eq!(running_to_end(&mut running).1, 3);
    }
    println!("  exec to exit, each: {} us", begin.elapsed().as_micros() / 50);
    assert_eq!(open(), before);
    init.kill();
    // No child is left.
    let none = rustix::process::wait(rustix::process::WaitOptions::NOHANG);
    assert_eq!(none.unwrap_err(), Errno::CHILD);
}
