//! Our own behaviour tests over gRPC, against real daemons: a theme in each file.
//!
//! A test panics to fail. It names its pods itself, so that tests may run side by side at one
//! daemon, and leaves them there: the end of the daemon takes everything down. To add one, write an
//! `async fn` of 5 to 15 lines and name it in its theme's list. `e2e/run cri` runs all,
//! `e2e/parts/cri WORD` those with the word in their names.

mod cgroups;
mod container;
mod demo;
mod events;
mod exec;
mod features;
mod hostile;
mod images;
mod input;
mod keepers;
mod layers;
mod logs;
mod sandbox;
mod start;
mod state;
mod stuck;

use std::process::ExitCode;

use libtest_mimic::Arguments;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let tokio = tokio::runtime::Runtime::new().expect("threads can be started");
    let groups = [
        input::group(),
        features::group(),
        layers::group(),
        images::group(),
        hostile::group(),
        sandbox::group(),
        container::group(),
        cgroups::group(),
        exec::group(),
        logs::group(),
        events::group(),
        start::group(),
        state::group(),
        keepers::group(),
        stuck::group(),
        demo::group(),
    ];
    let trials = groups.into_iter().flat_map(|group| group.trials(tokio.handle())).collect();
    // A group's daemon ends here, with the last trial that holds it.
    libtest_mimic::run(&arguments, trials).exit_code()
}
