//! Containers, execs, attached clients.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use executor::Step;
use executor::plan::{ExecLaunch, Handle, Placement};
use keeper::{ContainerPhase, Error, Refusal, Seed, Stdio, TerminalSize};
use model::ContainerId;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::pod::{Heard, PATIENCE, Pod, Wish, append_to, exec_launch, lines};

/// Reads on a thread of its own until the end.
async fn read_all(file: OwnedFd) -> String {
    let reading = tokio::task::spawn_blocking(|| {
        let mut bytes = Vec::new();
        // A terminal ends in an error.
        let _ = File::from(file).read_to_end(&mut bytes);
        String::from_utf8(bytes).unwrap()
    });
    tokio::time::timeout(PATIENCE, reading).await.expect("the stream does not end").unwrap()
}

fn pipe() -> (OwnedFd, OwnedFd) {
    pipe_with(PipeFlags::CLOEXEC).unwrap()
}

pub(crate) async fn exits_are_reported(seed: Arc<Seed>) {
    let mut pod = Pod::new(&seed).await;
    for (args, code, signal) in [
        (["exit", "0"], 0, None),
        (["exit", "7"], 7, None),
        // PID 1 of a namespace is hit by no signal of its own that it has no handler for.
        (["raise", "9"], 0, None),
    ] {
        let id = pod.run("log", &args).await;
        let exit = pod.end_of(&id).await;
        assert_eq!((exit.code, exit.signal), (code, signal), "{args:?}");
        pod.keeper.forget(&id).await.unwrap();
    }
    let id = pod.run("log", &["sleep", "60000"]).await;
    pod.kill(3);
    let exit = pod.end_of(&id).await;
    assert_eq!((exit.code, exit.signal), (137, Some(9)));
    let status = pod.keeper.status().await.unwrap();
    assert_eq!(status.containers.len(), 1);
    let ContainerPhase::Exited { started_at, exit: seen } = &status.containers[0].state else {
        panic!("{status:?}");
    };
    assert!(started_at.0 > 0 && started_at.0 <= exit.at.0);
    assert_eq!(*seen, exit);
}

pub(crate) async fn exec_runs_and_reports(seed: Arc<Seed>) {
    let mut pod = Pod::new(&seed).await;
    let id = pod.run("log", &["sleep", "60000"]).await;
    for heard in [Heard::Start, Heard::End] {
        let run = |args| pod.exec(&id, heard, args);
        let (output, exit) = run(&["out", "inside\n", "exit", "3"]).await.unwrap();
        assert_eq!((output.as_str(), exit.code), ("inside\n", 3));
        // Longer than a moment.
        let (output, exit) = run(&["out", "slow", "sleep", "200", "exit", "4"]).await.unwrap();
        assert_eq!((output.as_str(), exit.code), ("slow", 4));
        let (_, exit) = run(&["raise", "15", "sleep", "9000"]).await.unwrap();
        assert_eq!((exit.code, exit.signal), (143, Some(15)));
        let missing = run(&["/no/such/program"]).await.unwrap_err();
        let Error::Refused(Refusal::Launch(failure)) = missing else { panic!("{missing}") };
        assert_eq!(failure.step, Step::Execute);
        // Many at once, each answered with its own.
        let (pod, id) = (&pod, &id);
        let all = (0..20).map(|number| async move {
            let text = format!("number {number}");
            let number = number.to_string();
            let args = &["out", &text, "exit", &number];
            let (output, exit) = pod.exec(id, heard, args).await.unwrap();
            assert_eq!((output, exit.code.to_string()), (text, number));
        });
        let mut all: Vec<_> = all.map(Box::pin).collect();
        std::future::poll_fn(|context| {
            all.retain_mut(|one| one.as_mut().poll(context).is_pending());
            if all.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
        // A process that could not execute its program is still on its way out when that is answered.
        none_stays_listed(pod).await;
    }
}

async fn none_stays_listed(pod: &Pod) {
    let deadline = Instant::now() + PATIENCE;
    while !pod.keeper.status().await.unwrap().execs.is_empty() {
        assert!(Instant::now() < deadline, "an exec stays listed");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub(crate) async fn a_start_that_took_long_is_heard_of(seed: Arc<Seed>) {
    let mut pod = Pod::new(&seed).await;
    let id = pod.run("log", &["sleep", "60000"]).await;
    let begin = || {
        let launch = exec_launch(&["sleep", "60000"], pod.init(0), None);
        pod.begin(&id, Heard::End, launch)
    };
    // It does not end, and can be ended.
    let mut execution = tokio::time::timeout(PATIENCE, begin()).await.unwrap().unwrap();
    assert_eq!(pod.keeper.status().await.unwrap().execs.len(), 1);
    execution.kill();
    assert_eq!(execution.exited().await.unwrap().code, 137);
    // Its container does, while nothing is heard of it.
    let mut execution = std::pin::pin!(begin());
    let soon = Duration::from_millis(3);
    let begun = tokio::time::timeout(soon, &mut execution).await;
    pod.kill(0);
    let begun = match begun {
        Ok(begun) => begun,
        Err(_) => tokio::time::timeout(PATIENCE, execution).await.unwrap(),
    };
    if let Ok(mut execution) = begun {
        assert_eq!(execution.exited().await.unwrap().code, 137);
    }
    none_stays_listed(&pod).await;
}

pub(crate) async fn the_end_is_all_that_is_heard_of_a_brief_process(seed: Arc<Seed>) {
    let mut pod = Pod::new(&seed).await;
    let id = pod.run("log", &["sleep", "60000"]).await;
    // On a busy machine one or the other may not be over soon.
    for trial in 0..100 {
        let launch = exec_launch(&["sleep", "5"], pod.init(0), None);
        let mut execution = pod.begin(&id, Heard::End, launch).await.unwrap();
        let over = pod.keeper.status().await.unwrap().execs.is_empty();
        assert_eq!(execution.exited().await.unwrap().code, 0);
        if over {
            break;
        }
        assert!(trial < 99, "it is told that it runs");
    }
}

pub(crate) async fn a_traced_process_is_no_ended_one(seed: Arc<Seed>) {
    let mut pod = Pod::new(&seed).await;
    let id = pod.run("log", &["sleep", "60000"]).await;
    for heard in [Heard::Start, Heard::End] {
        // It makes its keeper the tracer, and stops.
        let args = ["traceme", "raise", "19", "exit", "5"];
        let launch = exec_launch(&args, pod.init(0), None);
        let mut execution = pod.begin(&id, heard, launch).await.unwrap();
        let moment = Duration::from_millis(300);
        assert!(
            tokio::time::timeout(moment, execution.exited()).await.is_err(),
            "it has not ended"
        );
        assert_eq!(pod.keeper.status().await.unwrap().execs.len(), 1);
        execution.kill();
        let exit = tokio::time::timeout(PATIENCE, execution.exited()).await.unwrap().unwrap();
        assert_eq!(exit.code, 137);
    }
    // A neighbour traces it, and does not take notice of its end: that of a moment's may be missed.
    let log = pod.log_path("tracer");
    let ways = [(Heard::Start, "300"), (Heard::End, "300"), (Heard::End, "10")];
    for (round, (heard, time)) in ways.into_iter().enumerate() {
        let wish = Wish { args: &["seize", "1000"], log: Some(append_to(&log)), ..Wish::default() };
        let tracer = pod.create(wish).await;
        pod.keeper.start(&tracer).await.unwrap();
        let before = processor_time(pod.keeper.pid());
        let ended = async {
            while lines(&log).len() == round {
                let init = pod.inits.last().unwrap();
                let launch = exec_launch(&["sleep", time, "exit", "3"], init, None);
                let Ok(mut execution) = pod.begin(&tracer, heard, launch).await else { break };
                assert_eq!(execution.exited().await.unwrap().code, 3);
            }
        };
        tokio::time::timeout(PATIENCE, ended).await.unwrap();
        assert_eq!(pod.end_of(&tracer).await.code, 0);
        assert_eq!(lines(&log).len(), round + 1);
        let spent = processor_time(pod.keeper.pid()) - before;
        assert!(spent < 50, "the keeper was busy for {spent} hundredths of a second");
    }
}

/// What a process has used, in hundredths of a second.
fn processor_time(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after_name = stat.rsplit_once(')').unwrap().1;
    after_name.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}

/// An exec of `exit 0` that stays where it is, before its first step, until something is read.
fn held(init: &OwnedFd) -> (ExecLaunch, Vec<OwnedFd>, OwnedFd) {
    let null = || -> OwnedFd { File::open("/dev/null").unwrap().into() };
    let (mut launch, mut table) = exec_launch(&["exit", "0"], init, Some([null(), null(), null()]));
    // A cgroup to enter that takes no byte more.
    let (read, write) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).unwrap();
    while rustix::io::write(&write, &[0; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&write, false).unwrap();
    launch.cgroup = Placement::V1(vec![Handle(table.len() as u32)]);
    table.push(write);
    (launch, table, read)
}

/// How many processes have the PID namespace of `pid`.
fn neighbours(pid: u32) -> usize {
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let own = namespace(&pid.to_string());
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    all.filter(|entry| entry.file_name().to_str().and_then(namespace) == own).count()
}

pub(crate) async fn an_onlooker_meets_no_process_on_its_way(seed: Arc<Seed>) {
    let short = Duration::from_millis(200);
    // One that takes its time, and one that would take for ever.
    let ways =
        [(true, Heard::Start), (false, Heard::Start), (true, Heard::End), (false, Heard::End)];
    for (goes_on, heard) in ways {
        let mut pod = Pod::new(&seed).await;
        let wish = Wish { args: &["sleep", "60000"], ..Wish::default() };
        let (id, pid) = pod.try_create(wish).await.unwrap();
        pod.keeper.start(&id).await.unwrap();
        let (launch, table, read) = held(&pod.inits[0]);
        let mut hanging = Box::pin(pod.begin(&id, heard, (launch, table)));
        assert!(tokio::time::timeout(short, &mut hanging).await.is_err());
        assert_eq!(neighbours(pid), 2, "with nobody to see it, it is born inside");
        let wish = Wish { args: &["sleep", "60000"], onlooker: true, ..Wish::default() };
        let (launch, table) = crate::pod::launch(&wish, None);
        let onlooker = ContainerId::from_random(crate::pod::random());
        let stdio = Stdio::default();
        let created = pod.keeper.create(&onlooker, launch, table, stdio, None).await.unwrap();
        {
            let mut start = Box::pin(pod.keeper.start(&onlooker));
            assert!(tokio::time::timeout(short, &mut start).await.is_err(), "it waits for that");
            if goes_on {
                rustix::io::read(&read, &mut vec![0; 1 << 20]).unwrap();
            }
            tokio::time::timeout(PATIENCE, start).await.unwrap().unwrap();
        }
        let ended = tokio::time::timeout(PATIENCE, hanging).await.unwrap();
        match ended {
            Ok(mut execution) if goes_on => {
                assert_eq!(execution.exited().await.unwrap().code, 0);
            }
            Err(Error::Refused(Refusal::Launch(_))) if !goes_on => {}
            other => panic!("{other:?}"),
        }
        for (id, init) in [(&id, &pod.inits[0]), (&onlooker, &created.pidfd)] {
            let (launch, table, read) = held(init);
            let mut hanging = Box::pin(pod.begin(id, heard, (launch, table)));
            assert!(tokio::time::timeout(short, &mut hanging).await.is_err());
            assert_eq!(neighbours(pid), 1, "it stays out of sight");
            rustix::io::read(&read, &mut vec![0; 1 << 20]).unwrap();
            let mut execution = tokio::time::timeout(PATIENCE, hanging).await.unwrap().unwrap();
            assert_eq!(execution.exited().await.unwrap().code, 0);
        }
    }
}

pub(crate) async fn attach_carries_all_streams(seed: Arc<Seed>) {
    let mut pod = Pod::new(&seed).await;
    let log = pod.log_path("log");
    let stdio = Stdio { stdin: true, stdin_once: true, ..Stdio::default() };
    let args = &["cat", "err", "the end\n"];
    let wish = Wish { args, log: Some(append_to(&log)), stdio, ..Wish::default() };
    let id = pod.create(wish).await;
    let (stdin, mut typed) = pipe();
    let (seen, stdout) = pipe();
    let (errors, stderr) = pipe();
    let (other, second) = pipe();
    pod.keeper.attach(&id, Some(stdin), Some(stdout), Some(stderr)).await.unwrap();
    pod.keeper.attach(&id, None, Some(second), None).await.unwrap();
    pod.keeper.start(&id).await.unwrap();
    // More than pipes and buffers hold, both ways.
    let text: String = (0..40_000).map(|line| format!("typed line {line}\n")).collect();
    let typing = {
        let text = text.clone();
        tokio::task::spawn_blocking(move || {
            let mut file = File::from(std::mem::replace(&mut typed, pipe().1));
            file.write_all(text.as_bytes()).unwrap();
        })
    };
    let (seen, other, errors) = tokio::join!(read_all(seen), read_all(other), read_all(errors));
    typing.await.unwrap();
    assert!(seen == text && other == text, "the clients saw {} and {}", seen.len(), other.len());
    assert_eq!(errors, "the end\n");
    assert_eq!(pod.end_of(&id).await.code, 0);
    // Two pipes have no common order.
    let (out, err): (Vec<_>, Vec<_>) =
        lines(&log).into_iter().partition(|line| line.starts_with("stdout F typed line "));
    assert_eq!((out.len(), err), (40_000, vec!["stderr F the end".to_owned()]));
    // Attaching to what has ended ends at once.
    let (seen, stdout) = pipe();
    pod.keeper.attach(&id, None, Some(stdout), None).await.unwrap();
    assert_eq!(read_all(seen).await, "");
}

pub(crate) async fn terminals_have_sizes(seed: Arc<Seed>) {
    let mut pod = Pod::new(&seed).await;
    let log = pod.log_path("log");
    let stdio = Stdio { stdin: true, ..Stdio::default() };
    let args = &["size", "cat", "size", "err", "to the terminal"];
    let wish = Wish { args, log: Some(append_to(&log)), stdio, terminal: true, ..Wish::default() };
    let id = pod.create(wish).await;
    pod.keeper.start(&id).await.unwrap();
    let (stdin, typed) = pipe();
    let (seen, stdout) = pipe();
    pod.keeper.attach(&id, Some(stdin), Some(stdout), None).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    while lines(&log).len() < 2 {
        assert!(Instant::now() < deadline, "the program says nothing");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    pod.keeper.resize_terminal(&id, TerminalSize { columns: 132, rows: 43 }).await.unwrap();
    // The last byte is what a terminal takes for the end of input.
    File::from(typed).write_all(b"hello\n\x04").unwrap();
    assert_eq!(pod.end_of(&id).await.code, 0);
    let seen = read_all(seen).await;
    assert!(seen.contains("hello\r\nhello\r\n") && seen.contains("132x43"), "{seen:?}");
    let logged = lines(&log);
    assert_eq!(logged[0], "stdout F size: ok");
    assert_eq!(logged[1], "stdout F 80x24");
    assert_eq!(logged.last().unwrap(), "stdout P to the terminal");

    let id = pod.run("other", &["sleep", "60000"]).await;
    let (launch, table) = exec_launch(&["size"], pod.init(1), None);
    let mut execution = pod.keeper.exec(&id, launch, table).await.unwrap();
    let output = read_all(execution.terminal.take().unwrap()).await;
    assert_eq!(execution.exited().await.unwrap().code, 0);
    assert_eq!(output, "size: ok\r\n80x24\r\n");
    let refused = pod.keeper.resize_terminal(&id, TerminalSize { columns: 1, rows: 1 }).await;
    assert!(matches!(refused, Err(Error::Refused(Refusal::State { .. }))), "{refused:?}");
}

pub(crate) async fn a_missing_program_fails_the_start(seed: Arc<Seed>) {
    let mut pod = Pod::new(&seed).await;
    let id = pod.create(Wish { args: &["/no/such/program"], ..Wish::default() }).await;
    let failed = pod.keeper.start(&id).await.unwrap_err();
    let Error::Refused(Refusal::Launch(failure)) = failed else { panic!("{failed}") };
    assert_eq!(failure.step, Step::Execute);
    assert_eq!(failure.target.as_deref(), Some("/no/such/program"));
    assert_eq!(pod.end_of(&id).await.code, 128);
    let again = pod.keeper.start(&id).await.unwrap_err();
    assert!(matches!(again, Error::Refused(Refusal::State { .. })), "{again}");
}

pub(crate) async fn a_container_that_waits_can_be_killed_or_forgotten(seed: Arc<Seed>) {
    let mut pod = Pod::new(&seed).await;
    let id = pod.create(Wish { args: &["exit", "0"], ..Wish::default() }).await;
    pod.kill(0);
    assert_eq!(pod.end_of(&id).await.code, 137);
    let late = pod.keeper.start(&id).await.unwrap_err();
    assert!(matches!(late, Error::Refused(Refusal::State { .. })), "{late}");
    pod.keeper.forget(&id).await.unwrap();

    let id = pod.create(Wish { args: &["exit", "0"], ..Wish::default() }).await;
    pod.keeper.forget(&id).await.unwrap();
    let gone = pod.keeper.start(&id).await.unwrap_err();
    assert!(matches!(gone, Error::Refused(Refusal::NoContainer { .. })), "{gone}");
    // Its process ends, so that the keeper may go.
    let deadline = Instant::now() + PATIENCE;
    while pod.keeper.shutdown().await.is_err() {
        assert!(Instant::now() < deadline, "the forgotten container lives on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    pod.keeper.lost().await;
}

pub(crate) async fn a_client_that_takes_nothing_is_cut_off(seed: Arc<Seed>) {
    let mut pod = Pod::new(&seed).await;
    let log = pod.log_path("log");
    let id = pod
        .create(Wish { args: &["lines", "100000"], log: Some(append_to(&log)), ..Wish::default() })
        .await;
    let (asleep, stdout) = pipe();
    pod.keeper.attach(&id, None, Some(stdout), None).await.unwrap();
    pod.keeper.start(&id).await.unwrap();
    let start = Instant::now();
    assert_eq!(pod.end_of(&id).await.code, 0);
    // It held the container up, and not for ever.
    assert!(start.elapsed() > Duration::from_secs(8), "{:?}", start.elapsed());
    assert_eq!(lines(&log).len(), 100_000);
    assert!(read_all(asleep).await.starts_with("line 0\n"));
}
