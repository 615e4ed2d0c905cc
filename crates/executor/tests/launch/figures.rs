//! How long it takes; printed, not judged.

use executor::namespaces::new_user_namespace;
use executor::plan::Seccomp;

use crate::Case;
use crate::container::{Container, exec, process};
use crate::enter::idle;
use crate::identity::refuse;
use crate::stage::{Stage, USERS};

pub(crate) const CASES: &[Case] = &[("figures::microseconds_of_each_way", times)];

const ROUNDS: usize = 40;

/// As Kubernetes has it: masked and read-only paths, a filter.
fn usual(mut container: Container) -> Container {
    let strings = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect();
    container.plan.masked_paths = strings(&[
        "/proc/acpi",
        "/proc/asound",
        "/proc/interrupts",
        "/proc/kcore",
        "/proc/keys",
        "/proc/timer_list",
        "/proc/scsi",
        "/sys/firmware",
    ]);
    container.plan.read_only_paths =
        strings(&["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]);
    let program = container.add(refuse(&[libc::SYS_sethostname]));
    container.plan.process.seccomp = Some(Seccomp { program, flags: 0 });
    container
}

fn times(stage: &mut Stage) {
    let plain: Vec<_> = (0..ROUNDS).map(|_| usual(Container::new(stage, "exit 0"))).collect();
    let namespace = new_user_namespace(&[USERS], &[USERS]).unwrap();
    let user: Vec<_> = (0..ROUNDS)
        .map(|_| {
            let container = Container::new(stage, "exit 0");
            usual(container.in_user_namespace(namespace.try_clone().unwrap()))
        })
        .collect();
    let target = Container::new(stage, "pause");
    stage.keep();
    for (name, containers) in [("plain", plain), ("user-namespaced", user)] {
        let (mut waiting, mut executing) = (Vec::new(), Vec::new());
        for container in containers {
            let init = container.spawn().wait();
            waiting.push(init.running.elapsed());
            let init = init.release();
            executing.push(init.running.elapsed());
            assert_eq!(init.end().1, 0);
        }
        let (waiting, executing) = (median(waiting), median(executing));
        println!("  {name}: waits after {waiting} us, executes after {executing} us");
    }
    let init = idle(target);
    let mut entered = Vec::new();
    for _ in 0..ROUNDS {
        let done = exec(&init, None, process("exit 0")).executed();
        entered.push(done.running.elapsed());
        assert_eq!(done.end().1, 0);
    }
    println!("  exec: executes after {} us", median(entered));
    init.kill();
}

fn median(mut times: Vec<u128>) -> u128 {
    times.sort_unstable();
    times[times.len() / 2]
}
