//! A container of its own: its tree, its mounts, its terminal.

use std::fs;
use std::os::unix::fs::symlink;

use executor::Step;
use executor::plan::{Attributes, Create, Namespace, Window};
use rustix::io::Errno;

use crate::Case;
use crate::container::{
    CAP_SYS_ADMIN, Container, DEFAULT_CAPABILITIES, NODEV, NOSUID, RDONLY, capable,
};
use crate::stage::Stage;

pub(crate) const CASES: &[Case] = &[
    ("plain::runs_and_says_how_it_ended", runs),
    ("plain::has_what_a_container_has_mounted", mounts),
    ("plain::leaves_no_descriptor_open", descriptors),
    ("plain::root_can_be_read_only", read_only_root),
    ("plain::image_volumes_stay_writable", image_volumes),
    ("plain::nothing_lies_beneath_the_root", beneath),
    ("plain::paths_are_masked_and_read_only", hidden_paths),
    ("plain::volumes_keep_their_attributes", volumes),
    ("plain::mount_targets_are_resolved_inside", targets),
    ("plain::host_pid_namespace_is_kept", host_pid),
    ("plain::new_namespaces_are_named", names),
    ("plain::kernel_parameters_are_set", sysctls),
    ("plain::a_missing_program_is_named", missing),
    ("plain::a_terminal_is_the_containers_own", terminal),
    ("plain::a_process_that_is_killed_meanwhile_is_reported", killed),
    ("plain::a_keeper_that_gives_up_leaves_nothing", abandoned),
];

fn runs(stage: &mut Stage) {
    let mut container = Container::new(stage, "pids , args one , env , pwd , exit 7");
    container.plan.process.env.push("ANSWER=forty two".to_owned());
    container.plan.process.cwd = "/not/there/yet".to_owned();
    stage.keep();
    let (text, code) = container.run();
    assert_eq!(
        text,
        "pid 1 parent 0 session 1\n[one]\nPATH=/usr/bin:/bin\nANSWER=forty two\n\
         cwd /not/there/yet\n"
    );
    assert_eq!(code, 7);
}

fn mounts(stage: &mut Stage) {
    let container = Container::new(
        stage,
        "cat /proc/self/mountinfo , ls /proc/self/root , stat /dev/null , link /dev/ptmx , \
         statfs /dev/pts , ls /dev/shm , ls /sys/class/net , write /sys/x y",
    );
    stage.keep();
    fs::write("/dev/shm/of-the-pod", "").unwrap();
    let (text, _) = container.run();
    let seen: Vec<&str> = text
        .lines()
        .filter(|line| line.contains(" - "))
        .map(|line| line.split(' ').nth(4).unwrap())
        .collect();
    assert_eq!(seen, ["/", "/proc", "/dev", "/dev/pts", "/dev/mqueue", "/sys", "/dev/shm"]);
    assert!(text.contains("stat /dev/null: 20666 0 0 1:3\n"), "{text}");
    assert!(text.contains("link /dev/ptmx: pts/ptmx\n"), "{text}");
    assert!(text.contains("statfs /dev/pts: 1cd1\n"), "{text}");
    assert!(text.contains("ls /dev/shm: of-the-pod\n"), "{text}");
    assert!(
        text.lines().any(|line| line.starts_with("ls /sys/class/net:") && line.contains(" lo")),
        "{text}"
    );
    assert!(text.contains("write /sys/x: EROFS\n"), "{text}");
    assert!(!text.contains("keeper"), "{text}");
}

fn descriptors(stage: &mut Stage) {
    let container = Container::new(stage, "fds");
    stage.keep();
    assert_eq!(container.run().0, "fds: 0 1 2\n");
}

fn read_only_root(stage: &mut Stage) {
    let mut container =
        Container::new(stage, "write /x y , mkdir /proc2 , write /dev/x y , write /new/x y");
    container.plan.root.read_only = true;
    let volume = stage.volume("v");
    container.mount(stage.tree(&volume), "/new");
    for mount in &mut container.plan.mounts {
        if mount.target == "/dev" {
            mount.attributes.set |= RDONLY;
        }
    }
    stage.keep();
    let text = container.run().0;
    assert_eq!(
        text,
        "write /x: EROFS\nmkdir /proc2: EROFS\nwrite /dev/x: EROFS\nwrite /new/x: ok\n"
    );
}

fn image_volumes(stage: &mut Stage) {
    let commands = "write /new/deep/x y , write /data/x y , write /x y , write /new/x y , \
                    write /covered/x y , cat /proc/self/mountinfo";
    let mut container = Container::new(stage, commands);
    container.plan.root.read_only = true;
    let wanted = ["/new/deep", "/data", "/covered", "/etc/..", "/to-root"];
    container.plan.root.volumes = wanted.map(str::to_owned).to_vec();
    symlink("/", stage.image("to-root")).unwrap();
    let volume = stage.volume("v");
    container.mount(stage.tree(&volume), "/covered");
    container.plan.mounts.last_mut().unwrap().attributes.set |= RDONLY;
    stage.keep();
    let text = container.run().0;
    let (written, mounts) = text.split_at(text.find("write /covered").unwrap());
    assert_eq!(
        written,
        "write /new/deep/x: ok\nwrite /data/x: ok\nwrite /x: EROFS\nwrite /new/x: EROFS\n"
    );
    assert!(mounts.starts_with("write /covered/x: EROFS\n"), "{mounts}");
    let roots = mounts.lines().filter(|line| line.split(' ').nth(4) == Some("/"));
    assert_eq!(roots.count(), 1, "{mounts}");
}

fn beneath(stage: &mut Stage) {
    let commands = "ls / , nsroot , ls / , cat /proc/self/mountinfo";
    let mut container = Container::new(stage, commands);
    container.plan.masked_paths = vec!["/data".to_owned(), "/etc/hostname".to_owned()];
    container.plan.process.capabilities = capable(DEFAULT_CAPABILITIES | CAP_SYS_ADMIN);
    stage.keep();
    let text = container.run().0;
    let lines: Vec<&str> = text.lines().collect();
    // Entering its own namespace again, it stands where the namespace begins.
    assert_eq!(lines[1], "nsroot : ok");
    assert_eq!(lines[0], lines[2]);
    let mounts = lines[3..].iter().map(|line| line.split(' ').nth(4).unwrap());
    let expected = [
        "/",
        "/proc",
        "/dev",
        "/dev/pts",
        "/dev/mqueue",
        "/sys",
        "/dev/shm",
        "/data",
        "/etc/hostname",
    ];
    assert_eq!(mounts.collect::<Vec<_>>(), expected);
}

fn hidden_paths(stage: &mut Stage) {
    let mut container = Container::new(
        stage,
        "stat /proc/timer_list , cat /proc/timer_list , ls /proc/irq , mkdir /proc/irq/x , \
         ls /data , write /proc/sys/kernel/domainname x , ls /etc",
    );
    let strings = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect();
    container.plan.masked_paths =
        strings(&["/proc/timer_list", "/proc/irq", "/data", "/not/there", "/etc/hostname/x"]);
    container.plan.read_only_paths = strings(&["/proc/sys", "/not/there"]);
    stage.keep();
    let text = container.run().0;
    assert_eq!(
        text,
        "stat /proc/timer_list: 20666 0 0 1:3\nls /proc/irq:\nmkdir /proc/irq/x: EROFS\nls /data:\n\
         write /proc/sys/kernel/domainname: EROFS\nls /etc: hostname\n"
    );
}

fn volumes(stage: &mut Stage) {
    let mut container = Container::new(
        stage,
        "cat /v/rw/file , write /v/rw/new x , write /v/ro/new x , cat /etc/hostname , \
         write /v/rro/inner/x y , cat /proc/self/mountinfo",
    );
    let (one, two, three) = (stage.volume("rw"), stage.volume("ro"), stage.volume("rro"));
    let inner = three.join("inner");
    fs::create_dir(&inner).unwrap();
    let none = rustix::mount::MountFlags::empty();
    rustix::mount::mount("inner", &inner, "tmpfs", none, None::<&std::ffi::CStr>).unwrap();
    container.mount(stage.tree(&one), "/v/rw").attributes =
        Attributes { set: NODEV | NOSUID, clear: 0 };
    container.mount(stage.tree(&two), "/v/ro").attributes = Attributes { set: RDONLY, clear: 0 };
    container.mount(stage.tree(&three), "/v/rro").recursive_attributes =
        Attributes { set: RDONLY, clear: 0 };
    let file = container.mount(stage.tree(&one.join("file")), "/etc/hostname");
    file.create = Create::File;
    stage.keep();
    let text = container.run().0;
    let expected = "of rw\nwrite /v/rw/new: ok\nwrite /v/ro/new: EROFS\nof rw\n\
                    write /v/rro/inner/x: EROFS\n";
    assert!(text.starts_with(expected), "{text}");
    let line = text.lines().find(|line| line.contains(" /v/rw ")).unwrap();
    assert!(line.contains("nosuid") && line.contains("nodev"), "{line}");
}

fn targets(stage: &mut Stage) {
    symlink("/run", stage.image("link")).unwrap();
    symlink("../../../../../tmp", stage.image("run/up")).unwrap();
    symlink("/nowhere/yet", stage.image("dangling")).unwrap();
    let mut container =
        Container::new(stage, "cat /run/secrets/file , cat /tmp/deep/file , cat /nowhere/yet/file");
    for (name, target) in [("a", "/link/secrets"), ("b", "/run/up/deep"), ("c", "/dangling")] {
        let volume = stage.volume(name);
        container.mount(stage.tree(&volume), target);
    }
    stage.keep();
    assert_eq!(container.run().0, "of a\nof b\nof c\n");
    assert!(fs::metadata("/tmp").is_err());
}

fn host_pid(stage: &mut Stage) {
    let mut container = Container::new(stage, "pids , link /proc/1/exe");
    container.namespaces.pid = Namespace::Inherit;
    container.plan.process.capabilities.effective |= 1 << 19;
    stage.keep();
    let running = container.spawn().wait();
    let pid = running.waiting.pid.as_raw_nonzero();
    let text = running.release().end().0;
    let keeper = rustix::process::getpid().as_raw_nonzero();
    assert!(text.starts_with(&format!("pid {pid} parent {keeper} session {pid}\n")), "{text}");
}

fn names(stage: &mut Stage) {
    let mut container =
        Container::new(stage, "host , sethostname x , cat /proc/sys/kernel/domainname");
    container.namespaces.uts = Namespace::New;
    container.namespaces.ipc = Namespace::New;
    container.namespaces.net = Namespace::New;
    container.plan.hostname = Some("whale".to_owned());
    container.plan.domainname = Some("sea".to_owned());
    stage.keep();
    rustix::system::sethostname(b"keeper").unwrap();
    assert_eq!(container.run().0, "host whale\nsethostname x: EPERM\nsea\n");
    assert_eq!(rustix::system::uname().nodename().to_bytes(), b"keeper");
}

fn sysctls(stage: &mut Stage) {
    let set = [("net/ipv4/ip_forward", "1"), ("kernel/shm_rmid_forced", "1")];
    let set = set.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let mut container = Container::new(
        stage,
        "cat /proc/sys/net/ipv4/ip_forward , cat /proc/sys/kernel/shm_rmid_forced",
    );
    container.plan.sysctls = set.to_vec();
    let mut wrong = Container::new(stage, "");
    wrong.plan.sysctls = vec![("net/../../1/x".to_owned(), "1".to_owned())];
    stage.keep();
    assert_eq!(container.run().0, "1\n1\n");
    let failure = wrong.fail();
    assert_eq!((failure.step, failure.target.as_deref()), (Step::Sysctl, Some("net/../../1/x")));
}

fn missing(stage: &mut Stage) {
    fs::write(stage.image("etc/data"), "no program").unwrap();
    fs::write(stage.image("bin/text"), "no program").unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(stage.image("bin/text"), executable).unwrap();
    fs::write(stage.image("etc/probe"), "").unwrap();
    let of = |args: &[&str]| {
        let mut container = Container::new(stage, "");
        container.plan.process.args = args.iter().map(|arg| (*arg).to_owned()).collect();
        container
    };
    let mut found = of(&["probe", "say", "found"]);
    found.plan.process.env = vec!["PATH=/etc::/nowhere:/bin/".to_owned()];
    let failing = [
        (of(&["nothing-such"]), Step::FindProgram, "nothing-such", Errno::NOENT),
        (of(&["/bin/nothing-such"]), Step::Execute, "/bin/nothing-such", Errno::NOENT),
        (of(&["/etc/data"]), Step::Execute, "/etc/data", Errno::ACCESS),
        (of(&["text"]), Step::Execute, "text", Errno::NOEXEC),
        (of(&["/bin"]), Step::Execute, "/bin", Errno::ACCESS),
    ];
    let empty = of(&[]);
    let zero = of(&["/bin/probe", "a\0b"]);
    stage.keep();
    assert_eq!(found.run().0, "found\n");
    for (container, step, target, errno) in failing {
        let failure = container.fail();
        assert_eq!((failure.step, failure.target.as_deref()), (step, Some(target)));
        assert_eq!(failure.errno, errno, "{target}");
    }
    assert_eq!(empty.fail().errno, Errno::INVAL);
    assert_eq!(zero.fail().errno, Errno::INVAL);
}

fn terminal(stage: &mut Stage) {
    let mut container =
        Container::new(stage, "tty , cat /proc/self/mountinfo , fds , stat /dev/pts/0");
    container.terminal = Some(Window { rows: 40, columns: 120 });
    container.plan.process.uid = 1000;
    container.plan.process.gid = 1000;
    stage.keep();
    let text = container.run().0.replace('\r', "");
    let expected = "tty: 111 /dev/pts/0 40x120 session 1 foreground 1\nopen /dev/tty: ok\n\
                    stat /dev/console: 20620 1000 5 136:0\n";
    assert!(text.starts_with(expected), "{text}");
    assert!(text.contains(" /dev/console "), "{text}");
    assert!(text.ends_with("fds: 0 1 2\nstat /dev/pts/0: 20620 1000 5 136:0\n"), "{text}");
}

fn killed(stage: &mut Stage) {
    let containers: Vec<_> = (0..50).map(|_| Container::new(stage, "")).collect();
    let other = Container::new(stage, "");
    stage.keep();
    // Where the child runs first it may be waiting already: then it was not killed on its way.
    let killed = containers.into_iter().find_map(|container| {
        let mut running = container.spawn();
        running.spawning.kill();
        match running.next() {
            executor::launch::Progress::Failed(failure) => Some((running, failure)),
            executor::launch::Progress::Waiting(_) => None,
            other => panic!("{other:?}"),
        }
    });
    let (mut running, failure) = killed.expect("every child was faster than its killer");
    assert_eq!(failure.step, Step::Report);
    assert!(matches!(running.next(), executor::launch::Progress::Done));

    let init = other.spawn().wait();
    init.running.spawning.kill();
    assert_eq!(init.code(), 137);
}

fn abandoned(stage: &mut Stage) {
    let container = Container::new(stage, "");
    stage.keep();
    let init = container.spawn().wait();
    let waiting = init.waiting;
    drop(init.running);
    // With the keeper's end gone it ends by itself.
    let pidfd = rustix::process::WaitId::PidFd(std::os::fd::AsFd::as_fd(&waiting.pidfd));
    let status = rustix::process::waitid(pidfd, rustix::process::WaitIdOptions::EXITED);
    assert_eq!(status.unwrap().unwrap().exit_status(), Some(1));
}
