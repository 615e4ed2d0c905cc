//! Makes real processes in real namespaces: `spawn` and `spawn_exec` against the kernel.
//!
//! The caller of both has to have one thread, so this program has no test harness. Each case runs
//! in a process of its own, with processes, mounts, links, IPC and host name of its own, so that whatever it leaves dies with it. It has to be root. Containers run `probe.c`,
//! compiled here.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test without a harness is not known to be one"
)]

mod attack;
mod container;
mod enter;
mod figures;
mod identity;
mod plain;
mod shared;
mod stage;
mod user;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use executor::launch::Onlookers;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use rustix::thread::ThreadNameSpaceType;
use sys::clone::{Birth, clone};

use self::stage::Stage;

/// One case: its name and what it does.
type Case = (&'static str, fn(&mut Stage));

/// Longer than any case takes.
const TIMEOUT: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };

fn main() -> ExitCode {
    let filters: Vec<String> =
        std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let seen = [
        plain::CASES,
        identity::CASES,
        enter::CASES,
        shared::CASES,
        user::CASES,
        attack::CASES,
        attack::SEEN,
        figures::CASES,
    ]
    .concat();
    let unseen =
        [enter::CASES, user::CASES, attack::CASES, attack::UNSEEN, figures::CASES].concat();
    let with = |onlookers, suffix: &'static str| {
        move |(name, case): Case| (format!("{name}{suffix}"), case, onlookers)
    };
    let cases: Vec<_> = seen
        .into_iter()
        .map(with(Onlookers::Possible, ""))
        .chain(unseen.into_iter().map(with(Onlookers::None, "_unseen")))
        .collect();
    if std::env::args().any(|arg| arg == "--list") {
        cases.iter().for_each(|(name, ..)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let probe = compile_probe();
    let (mut passed, mut failed, mut left_out) = (0, Vec::new(), 0);
    println!("\nrunning {} tests", cases.len());
    for (name, case, onlookers) in cases {
        if !filters.is_empty() && !filters.iter().any(|filter| name.contains(filter.as_str())) {
            left_out += 1;
            continue;
        }
        let begin = Instant::now();
        let ok = isolated(&probe, case, onlookers);
        let verdict = if ok { "ok" } else { "FAILED" };
        println!("test {name} ... {verdict} ({} ms)", begin.elapsed().as_millis());
        if ok { passed += 1 } else { failed.push(name) }
    }
    let verdict = if failed.is_empty() { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {verdict}. {passed} passed; {} failed; 0 ignored; 0 measured; {left_out} \
         filtered out {failed:?}\n",
        failed.len()
    );
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn compile_probe() -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/launch/probe.c");
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("probe");
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let status = Command::new(compiler)
        .args(["-static", "-O1", "-Wall", "-o"])
        .args([&program, &source])
        .status()
        .unwrap();
    assert!(status.success(), "the C compiler failed");
    program
}

/// Runs a case in namespaces of its own. False where it panicked or did not end in time.
fn isolated(probe: &Path, case: fn(&mut Stage), onlookers: Onlookers) -> bool {
    let namespaces = ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::PROCESS_ID
        | ThreadNameSpaceType::NETWORK
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME;
    let birth = Birth { namespaces, ..Birth::default() };
    // PID 1 inherits orphans; a keeper does not.
    let body = || {
        let case = || {
            container::ONLOOKERS.set(onlookers);
            case(&mut Stage::set(probe));
            0
        };
        // SAFETY: this program has one thread.
        #[expect(unsafe_code, reason = "the child goes on with a copy of the heap")]
        let keeper = unsafe { clone(Birth::default(), case) }.unwrap();
        let status = waitid(WaitId::Pid(keeper.pid), WaitIdOptions::EXITED).unwrap().unwrap();
        if status.exit_status() == Some(0) { 0 } else { 1 }
    };
    // SAFETY: this program has one thread.
    #[expect(unsafe_code, reason = "the child goes on with a copy of the heap")]
    let child = unsafe { clone(birth, body) }.unwrap();
    let mut polled = [PollFd::new(&child.pidfd, PollFlags::IN)];
    if poll(&mut polled, Some(&TIMEOUT)).unwrap() == 0 {
        println!("it hangs");
        pidfd_send_signal(&child.pidfd, Signal::KILL).unwrap();
    }
    let status = waitid(WaitId::Pid(child.pid), WaitIdOptions::EXITED).unwrap().unwrap();
    status.exit_status() == Some(0)
}
