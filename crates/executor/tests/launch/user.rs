//! Containers in user namespaces.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};

use executor::namespaces::{enter_new_namespaces, new_user_namespace};
use executor::plan::{
    Attributes, IdRange, Namespace, Placement, Propagation, PropagationKind, UserNamespace, Window,
};
use rustix::io::Errno;
use rustix::thread::ThreadNameSpaceType;

use crate::Case;
use crate::container::{Container, RDONLY, capable, exec, exec_with, process};
use crate::enter::idle;
use crate::stage::{Stage, USERS};

pub(crate) const CASES: &[Case] = &[
    ("user::root_inside_is_nobody_outside", mapped),
    ("user::what_was_given_is_locked", locked),
    ("user::the_pods_namespaces_are_its_own", owned),
    ("user::a_terminal_is_its_own", terminal),
    ("user::more_processes_enter_it", entered),
    ("user::a_pid_namespace_is_shared", shared),
    ("user::failures_of_every_process_are_named", failures),
    ("user::maps_that_the_kernel_refuses_are_an_error", refused),
];

fn namespace() -> OwnedFd {
    new_user_namespace(&[USERS], &[USERS]).unwrap()
}

fn mapped(stage: &mut Stage) {
    stage.give("data");
    let mut container = Container::new(
        stage,
        "pids , cat /proc/self/uid_map , cat /proc/self/gid_map , fds , stat /data , \
         write /data/x y , write /etc/x y , stat /dev , stat /dev/null , write /dev/null x , \
         stat /made/here , cat /proc/self/cgroup , cat /proc/self/status",
    )
    .in_user_namespace(namespace());
    container.plan.process.cwd = "/made/here".to_owned();
    container.plan.process.capabilities = capable(u64::MAX);
    let image = stage.image("data");
    let kept = fs::File::open(image).unwrap();
    stage.keep();
    let (text, code) = container.run();
    let map = "         0     200000      65536\n";
    assert!(
        text.starts_with(&format!("pid 1 parent 0 session 1\n{map}{map}fds: 0 1 2\n")),
        "{text}"
    );
    for line in [
        "stat /data: 40755 0 0 0:0\n",
        "write /data/x: ok\n",
        "write /etc/x: EACCES\n",
        "stat /dev: 40755 0 0 0:0\n",
        "stat /dev/null: 20666 0 0 1:3\n",
        "write /dev/null: ok\n",
        "stat /made/here: 40755 0 0 0:0\n",
        ":/\n",
        "CapEff:\t000001ffffffffff\n",
        "Uid:\t0\t0\t0\t0\n",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    assert_eq!(code, 0);
    let stat = rustix::fs::statat(kept.as_fd(), "x", rustix::fs::AtFlags::empty()).unwrap();
    assert_eq!((stat.st_uid, stat.st_gid), (USERS.outside, USERS.outside));
}

fn locked(stage: &mut Stage) {
    stage.give("data");
    let mut container = Container::new(
        stage,
        "write /v/new x , remount /v , write /v/new x , umount /v , umount /proc/irq , \
         ls /proc/irq , write /proc/sys/kernel/domainname x , remount /proc/sys , \
         umount /proc/sys , umount /dev , umount / , bind /v /data , remount /data , \
         tmpfs /tmp , write /tmp/own x , umount /tmp , mknod /data/null , tmpfs /v/shared",
    )
    .in_user_namespace(namespace());
    container.plan.process.capabilities = capable(u64::MAX);
    container.plan.process.no_new_privileges = false;
    container.plan.masked_paths.push("/proc/irq".to_owned());
    container.plan.read_only_paths.push("/proc/sys".to_owned());
    let volume = stage.volume("v");
    fs::create_dir(volume.join("shared")).unwrap();
    let none = rustix::mount::MountFlags::empty();
    rustix::mount::mount("v", volume.join("shared"), "tmpfs", none, None::<&std::ffi::CStr>)
        .unwrap();
    let shared = rustix::mount::MountPropagationFlags::SHARED;
    rustix::mount::mount_change(volume.join("shared"), shared).unwrap();
    let mount = container.mount(stage.tree(&volume), "/v");
    mount.attributes = Attributes { set: RDONLY, clear: 0 };
    mount.propagation = vec![Propagation { kind: PropagationKind::Slave, recursive: true }];
    stage.keep();
    let text = container.run().0;
    assert_eq!(
        text,
        "write /v/new: EROFS\nremount /v: EPERM\nwrite /v/new: EROFS\numount /v: EINVAL\n\
         umount /proc/irq: EINVAL\nls /proc/irq:\nwrite /proc/sys/kernel/domainname: EACCES\n\
         remount /proc/sys: EPERM\numount /proc/sys: EINVAL\numount /dev: EINVAL\n\
         umount /: EINVAL\nbind /v: EINVAL\nremount /data: EINVAL\ntmpfs /tmp: ok\nwrite /tmp/own: ok\numount /tmp: ok\nmknod /data/null: EPERM\n\
               tmpfs /v/shared: ok\n"
    );
}

fn owned(stage: &mut Stage) {
    let namespace = namespace();
    let mut container = Container::new(
        stage,
        "sethostname pod , host , write /proc/sys/net/ipv4/ip_forward 1 , \
         cat /proc/sys/net/ipv4/ip_forward",
    )
    .in_user_namespace(namespace.try_clone().unwrap());
    container.plan.process.capabilities = capable(u64::MAX);
    stage.keep();
    rustix::system::sethostname(b"keeper").unwrap();
    let user = || fs::read_link("/proc/self/ns/user").unwrap();
    let before = user();
    let kinds = ThreadNameSpaceType::NETWORK
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME;
    enter_new_namespaces(kinds, Some(&namespace)).unwrap();
    assert_eq!(user(), before);
    let text = container.run().0;
    assert_eq!(text, "sethostname pod: ok\nhost pod\nwrite /proc/sys/net/ipv4/ip_forward: ok\n1\n");
    assert_eq!(rustix::system::uname().nodename().to_bytes(), b"pod");
}

fn terminal(stage: &mut Stage) {
    let container = Container::new(stage, "tty , fds");
    let mut container = container.in_user_namespace(namespace());
    container.terminal = Some(Window { rows: 3, columns: 4 });
    container.plan.process.uid = 12;
    stage.keep();
    let group = USERS.outside;
    let text = container.run().0.replace('\r', "");
    assert!(group > 0);
    assert_eq!(
        text,
        "tty: 111 /dev/pts/0 3x4 session 1 foreground 1\nopen /dev/tty: ok\n\
         stat /dev/console: 20620 12 0 136:0\nfds: 0 1 2\n"
    );
}

fn user(id: &[IdRange]) -> Option<UserNamespace> {
    let namespace = executor::plan::Handle(0);
    Some(UserNamespace { namespace, uids: id.to_vec(), gids: id.to_vec() })
}

fn entered(stage: &mut Stage) {
    let container = Container::new(stage, "pause").in_user_namespace(namespace());
    stage.keep();
    let init = idle(container);
    let mut wanted = process("place , cat /proc/self/uid_map , fds , write /dev/fd/1 again ");
    wanted.uid = 1000;
    let (text, code) = exec(&init, user(&[USERS]), wanted).executed().end();
    assert_eq!(code, 0);
    let map = "         0     200000      65536\n";
    assert!(text.starts_with(&format!("later parent 0 session own\n{map}fds: 0 1 2\n")), "{text}");
    assert!(text.contains("write /dev/fd/1: ok\n"), "{text}");
    let window = Some(Window { rows: 5, columns: 6 });
    let mut wanted = process("tty , pids");
    wanted.uid = 1000;
    let inherit = Placement::Inherit;
    let running = exec_with(&init, user(&[USERS]), wanted, inherit, Vec::new(), window);
    let text = running.executed().end().0.replace('\r', "");
    assert!(text.starts_with("tty: 111 /dev/pts/0 5x6 session 1 foreground 1\n"), "{text}");
    init.kill();
}

fn shared(stage: &mut Stage) {
    let namespace = namespace();
    let first = Container::new(stage, "pause").in_user_namespace(namespace.try_clone().unwrap());
    let second = Container::new(
        stage,
        "place , ls /proc/1/task , umount /proc/irq , remount /sys , cat /proc/self/uid_map",
    );
    let mut second = second.in_user_namespace(namespace);
    second.plan.masked_paths.push("/proc/irq".to_owned());
    second.plan.process.capabilities = capable(u64::MAX);
    stage.keep();
    let first = idle(first);
    let pidfd = first.waiting.pidfd.try_clone().unwrap();
    second.namespaces.pid = Namespace::Join(second.add(pidfd));
    assert_eq!(
        second.run().0,
        "later parent 0 session own\nls /proc/1/task: 1\numount /proc/irq: EINVAL\n\
         remount /sys: EPERM\n         0     200000      65536\n"
    );
    first.kill();
}

fn failures(stage: &mut Stage) {
    let container = |change: fn(&mut Container)| {
        let mut container = Container::new(stage, "pids").in_user_namespace(namespace());
        change(&mut container);
        container
    };
    use executor::Step;
    let cases = [
        // Of the assembler.
        (
            container(|container| container.plan.mounts[0].target = "/etc/hostname/x".to_owned()),
            Step::Target,
        ),
        // Of the init, before and after it waits.
        (
            container(|container| container.plan.process.cwd = "/proc/self/fd/0".to_owned()),
            Step::MakeWorkingDirectory,
        ),
        (
            container(|container| container.plan.process.args = vec!["nothing-such".to_owned()]),
            Step::FindProgram,
        ),
        // Of whoever translates ids.
        (container(|container| container.plan.process.uid = 70_000), Step::MapIds),
        // Of the maker: no user namespace.
        (
            container(|container| {
                let other = container.add(crate::container::in_memory(b""));
                container.user.as_mut().unwrap().namespace = other;
            }),
            Step::JoinNamespace,
        ),
    ];
    stage.keep();
    for (container, step) in cases {
        assert_eq!(container.fail().step, step);
    }
    let left = rustix::process::wait(rustix::process::WaitOptions::NOHANG);
    assert_eq!(left.unwrap_err(), Errno::CHILD);
}

fn refused(_: &mut Stage) {
    let overlapping = [USERS, USERS];
    let failure = new_user_namespace(&overlapping, &[USERS]).unwrap_err();
    assert_eq!((failure.step, failure.errno), (executor::Step::MapIds, Errno::INVAL));
    let left = rustix::process::wait(rustix::process::WaitOptions::NOHANG);
    assert_eq!(left.unwrap_err(), Errno::CHILD);
}
