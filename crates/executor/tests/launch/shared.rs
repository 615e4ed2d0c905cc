//! Containers in a PID namespace that others live in: the pod's, or a target's.

use std::fs::{self, File};

use executor::plan::{Namespace, Seccomp, Window};

use sys::seccomp::Instruction;

use crate::Case;
use crate::container::{Container, Init};
use crate::enter::idle;
use crate::identity::refuse;
use crate::stage::Stage;

pub(crate) const CASES: &[Case] = &[
    ("shared::joins_the_namespace_of_a_process", of_process),
    ("shared::joins_a_namespace_file", of_file),
    ("shared::older_kernels_show_its_processes_too", older),
    ("shared::has_a_terminal_and_a_filter_that_forbids_clone", filtered),
    ("shared::the_namespaces_first_process_can_be_an_open_file", open_file),
];

fn joining(mut container: Container, init: &Init) -> Container {
    let pidfd = init.waiting.pidfd.try_clone().unwrap();
    container.namespaces.pid = Namespace::Join(container.add(pidfd));
    container
}

fn of_process(stage: &mut Stage) {
    let first = Container::new(stage, "pause");
    let second = Container::new(stage, "place , fds , ls /proc/1/task , cat /proc/1/comm");
    let mut third = Container::new(stage, "write /proc/sys/kernel/domainname x , ls /proc/irq");
    third.plan.masked_paths.push("/proc/irq".to_owned());
    third.plan.read_only_paths.push("/proc/sys".to_owned());
    stage.keep();
    let first = idle(first);
    let text = joining(second, &first).run().0;
    assert_eq!(text, "later parent 0 session own\nfds: 0 1 2\nls /proc/1/task: 1\nprobe\n");
    let text = joining(third, &first).run().0;
    assert_eq!(text, "write /proc/sys/kernel/domainname: EROFS\nls /proc/irq:\n");
    first.kill();
    let left = rustix::process::wait(rustix::process::WaitOptions::NOHANG);
    assert_eq!(left.unwrap_err(), rustix::io::Errno::CHILD);
}

fn of_file(stage: &mut Stage) {
    let first = Container::new(stage, "pause");
    let mut second = Container::new(stage, "place , ls /proc/1/task");
    stage.keep();
    let first = idle(first);
    let file = File::open(format!("/proc/{}/ns/pid", first.waiting.pid.as_raw_nonzero())).unwrap();
    second.namespaces.pid = Namespace::Join(second.add(file));
    assert_eq!(second.run().0, "later parent 0 session own\nls /proc/1/task: 1\n");
    first.kill();
}

fn older(stage: &mut Stage) {
    let first = Container::new(stage, "pause");
    let second = Container::new(stage, "place , ls /proc/1/task");
    stage.keep();
    // A kernel that takes no descriptor as a parameter of a file system.
    const SET_FD: u32 = 5;
    sys::seccomp::load(&older_kernel(libc::SYS_fsconfig, SET_FD), 0).unwrap();
    let first = idle(first);
    assert_eq!(joining(second, &first).run().0, "later parent 0 session own\nls /proc/1/task: 1\n");
    first.kill();
}

/// Answers a call whose second argument is `command` with EINVAL.
fn older_kernel(call: libc::c_long, command: u32) -> Vec<Instruction> {
    let instruction =
        |code, jump_false, operand| Instruction { code, jump_true: 0, jump_false, operand };
    vec![
        instruction(0x20, 0, 0),
        instruction(0x15, 3, u32::try_from(call).unwrap()),
        instruction(0x20, 0, 24),
        instruction(0x15, 1, command),
        instruction(0x06, 0, 0x0005_0000 | 22),
        instruction(0x06, 0, 0x7fff_0000),
    ]
}

fn filtered(stage: &mut Stage) {
    let first = Container::new(stage, "pause");
    let mut second = Container::new(stage, "tty , fork , place");
    let ours = [libc::SYS_clone, libc::SYS_clone3, libc::SYS_setsid];
    let program = second.add(refuse(&ours));
    second.plan.process.seccomp = Some(Seccomp { program, flags: 0 });
    second.plan.process.no_new_privileges = false;
    second.terminal = Some(Window { rows: 1, columns: 2 });
    stage.keep();
    let first = idle(first);
    let text = joining(second, &first).run().0.replace('\r', "");
    let expected = "tty: 111 /dev/pts/0 1x2 session 1 foreground 1\nopen /dev/tty: ok\n\
                    stat /dev/console: 20620 0 5 136:0\nfork : ENOTTY\n\
                    later parent 0 session own\n";
    assert_eq!(text, expected);
    first.kill();
}

fn open_file(stage: &mut Stage) {
    let mut first = Container::new(stage, "say hello , fds , link /proc/self/exe");
    let program = fs::read(stage.image("bin/probe")).unwrap();
    fs::remove_file(stage.image("bin/probe")).unwrap();
    let program = first.add(crate::container::in_memory(&program));
    first.plan.process.executable = Some(program);
    stage.keep();
    let text = first.run().0;
    assert_eq!(text, "hello\nfds: 0 1 2\nlink /proc/self/exe: /memfd:test (deleted)\n");
}
