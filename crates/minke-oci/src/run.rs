//! create, start and run: one way, which ends early or goes on.

use std::os::fd::AsFd;

use sys::signal::Signals;

use crate::attend::attend;
use crate::cli;
use crate::container::{Container, Status};
use crate::create::{Desk, Made, Wish, drain, make, next, number_inside, undo};
use crate::delete::destroy;
use crate::exec::run_inside;
use crate::failure::Failure;
use crate::gate;
use crate::hooks::Hooks;
use crate::streams::Preserved;
use executor::launch::Progress;

/// The command create.
pub(crate) fn create(
    desk: Desk<'_>,
    flags: &cli::Create,
    preserved: Preserved,
) -> Result<(), Failure> {
    let made = make(desk, Wish { flags, preserved, gated: true, stays: false })?;
    match made.spawning.release() {
        Ok(()) => Ok(()),
        Err(source) => {
            let failure = launch(&made.container, source);
            Err(undo(desk, failure, &made.container, made.place))
        }
    }
}

/// The command start.
pub(crate) fn start(desk: Desk<'_>, flags: &cli::OfContainer) -> Result<(), Failure> {
    let (container, place) = Container::lock(desk.store, &flags.id)?;
    let cure = "only a created container can be started";
    container.expect(container.status(desk.store)?, &[Status::Created], cure)?;
    run_start_hooks(&container)?;
    let started = gate::open_for(place.path())?.map_err(|source| launch(&container, source));
    started.and_then(|()| run_poststart_hooks(&container))
}

/// The command run. Gives the exit code.
pub(crate) fn run(desk: Desk<'_>, flags: &cli::Run, preserved: Preserved) -> Result<u8, Failure> {
    let stays = !flags.detach;
    // Before there is a process that they could be meant for.
    let signals = if stays { Some(take_signals()?) } else { None };
    let made = make(desk, Wish { flags: &flags.create, preserved, gated: false, stays })?;
    let Made { container, place, mut spawning, process, terminal } = made;
    let started = run_start_hooks(&container).and_then(|()| {
        spawning.release().map_err(|source| launch(&container, source))?;
        loop {
            match next(&mut spawning)? {
                Progress::Executed => break,
                Progress::Failed(source) => return Err(launch(&container, source)),
                _ => {}
            }
        }
        desk.log.debug("its program runs");
        run_poststart_hooks(&container)
    });
    if let Err(failure) = started {
        return Err(undo(desk, failure, &container, place));
    }
    drain(&mut spawning)?;
    let Some(signals) = signals else { return Ok(0) };
    // While it runs others may do with it what they like.
    drop(place);
    let code = attend(&process, &signals, terminal)?;
    if !flags.keep {
        match desk.store.lock(&container.record.id) {
            Ok(place) => destroy(desk, &container, place)?,
            // Somebody was faster.
            Err(Failure::Unknown { .. }) => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(code)
}

pub(crate) fn take_signals() -> Result<Signals, Failure> {
    Signals::take().map_err(Failure::kernel("take signals"))
}

fn launch(container: &Container, source: executor::Failure) -> Failure {
    let id = container.record.id.clone();
    Failure::Launch { id, what: "its program", source }
}

/// They belong to the image: each is run as one more process of the container.
fn run_start_hooks(container: &Container) -> Result<(), Failure> {
    let record = &container.record;
    let pid = record.init.map_or(0, |init| number_inside(init.pid));
    for hook in Hooks::of(&record.spec).start_container() {
        let state = container.state(Status::Created, pid).to_string();
        let code = run_inside(container, hook, state.as_bytes())?;
        if code != 0 {
            let (path, id) = (hook.path().clone(), record.id.clone());
            let what = format!("ended with {code}");
            return Err(Failure::Hook { kind: "startContainer", path, id, what });
        }
    }
    Ok(())
}

fn run_poststart_hooks(container: &Container) -> Result<(), Failure> {
    let record = &container.record;
    let pid = record.init.map_or(0, |init| init.pid);
    let state = container.state(Status::Running, pid);
    let ran = Hooks::of(&record.spec).poststart(record, &state);
    if ran.is_err()
        && let Some(process) =
            record.init.and_then(|init| crate::delete::open_process(&record.id, init).ok()?)
    {
        // ESRCH is what is wanted.
        let _ = sys::pidfd::send_signal(process.as_fd(), 9);
    }
    ran
}
