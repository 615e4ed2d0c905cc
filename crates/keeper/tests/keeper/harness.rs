//! Runs the tests one after another. The usual harness has threads, and this program is also what
//! the seed executes.

use std::future::Future;
use std::io::Write;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};

use keeper::Seed;

use crate::{logs, processes, protocol, sandbox};

/// Set in the program that runs in namespaces of its own.
const MARK: &str = "MINKE_TEST_ISOLATED";
/// How long one test may take.
const LIMIT: Duration = Duration::from_secs(60);

type Body = fn(Arc<Seed>) -> Pin<Box<dyn Future<Output = ()> + Send>>;

macro_rules! tests {
    ($($module:ident: $($name:ident)*;)*) => {
        &[$($((
            concat!(stringify!($module), "::", stringify!($name)),
            |seed| Box::pin($module::$name(seed)),
        )),*),*]
    };
}

const TESTS: &[(&str, Body)] = tests! {
    processes: exits_are_reported exec_runs_and_reports a_start_that_took_long_is_heard_of the_end_is_all_that_is_heard_of_a_brief_process a_traced_process_is_no_ended_one an_onlooker_meets_no_process_on_its_way attach_carries_all_streams terminals_have_sizes
        a_missing_program_fails_the_start a_container_that_waits_can_be_killed_or_forgotten
        a_client_that_takes_nothing_is_cut_off;
    logs: lines_are_tagged reopening_loses_nothing a_full_disk_stops_nobody
        a_hanging_disk_stops_its_own_container_alone late_words_do_not_delay_the_end
        an_idle_writer_goes_and_another_comes;
    sandbox: namespaces_are_made_and_set a_user_namespace_owns_the_pod pid_one_gives_nothing_away
        ports_are_dialed keepers_are_small a_keeper_sees_nothing_of_the_host;
    protocol: a_new_daemon_finds_everything yesterdays_keeper_is_driven nonsense_is_answered
        a_keeper_goes_when_it_may a_killed_keeper_is_noticed a_killed_seed_is_replaced;
};

pub(crate) fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.get(1).is_some_and(|argument| argument == keeper::SEED_ARGUMENT) {
        let socket = std::io::stdin().as_fd().try_clone_to_owned();
        return socket.map_or(ExitCode::FAILURE, keeper::seed_main);
    }
    if std::env::var_os(MARK).is_none() {
        let status = Command::new("unshare")
            .args(["-m", "-n", "--propagation", "private"])
            .arg(std::env::current_exe().unwrap())
            .args(&arguments[1..])
            .env(MARK, "1")
            .status()
            .unwrap();
        return if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let wanted: Vec<&String> = arguments[1..].iter().filter(|a| !a.starts_with('-')).collect();
    let mut out = std::io::stdout();
    if arguments.iter().any(|argument| argument == "--list") {
        for (name, _) in TESTS {
            writeln!(out, "{name}: test").unwrap();
        }
        return ExitCode::SUCCESS;
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.unwrap();
    let seed = Arc::new(runtime.block_on(Seed::start()).unwrap());
    let (mut passed, mut failed) = (0, Vec::new());
    for (name, body) in TESTS {
        if !wanted.is_empty() && !wanted.iter().any(|part| name.contains(part.as_str())) {
            continue;
        }
        let start = Instant::now();
        let run = runtime.spawn(body(Arc::clone(&seed)));
        let result = runtime.block_on(async { tokio::time::timeout(LIMIT, run).await });
        let verdict = if matches!(result, Ok(Ok(()))) { "ok" } else { "FAILED" };
        writeln!(out, "test {name} ... {verdict} ({} ms)", start.elapsed().as_millis()).unwrap();
        if verdict == "ok" { passed += 1 } else { failed.push(*name) }
    }
    let verdict = if failed.is_empty() { "ok" } else { "FAILED" };
    writeln!(out, "test result: {verdict}. {passed} passed; {} failed", failed.len()).unwrap();
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
