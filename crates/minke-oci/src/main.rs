//! The executor's runc-compatible command line: OCI bundles in, containers out.
//!
//! ```text
//!   bundle       config.json ──> a spec that can be followed, or a refusal by name
//!   create       record, cgroup, executor::prepare, executor::launch::spawn, hooks
//!   gate         where the first process of a created container waits when its maker has gone
//!   run          create, start, run        exec, attend, signal, control, show, events, delete
//!   record       what is known between two commands; status is asked of the kernel
//! ```
//!
//! It makes containers by the executor's one way, without keeper and daemon. It is a crate of its own
//! because Cargo knows no dependencies of one binary: in `executor` the keeper would carry clap.

mod attend;
mod bundle;
mod cli;
mod container;
mod control;
mod create;
mod delete;
mod events;
mod exec;
mod failure;
mod features;
mod gate;
mod hooks;
mod log;
mod namespaces;
mod own_copy;
mod record;
mod run;
mod show;
mod signal;
mod streams;
mod template;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command, Global};
use crate::create::Desk;
use crate::failure::Failure;
use crate::log::Log;
use crate::own_copy::run_from_own_copy;
use crate::record::Store;
use crate::streams::preserved;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let log = Log::new(&cli.global);
    match run(cli, &log) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            log.error(&failure.line());
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli, log: &Log) -> Result<u8, Failure> {
    check(&cli.global)?;
    let root =
        std::path::absolute(&cli.global.root).map_err(Failure::file("find", &cli.global.root))?;
    let store = Store::new(root);
    if let Command::Create(_) | Command::Run(_) | Command::Exec(_) | Command::Start(_) = cli.command
    {
        if !rustix::process::geteuid().is_root() {
            return Err(Failure::NotRoot);
        }
        store.make_root()?;
        run_from_own_copy(store.root())?;
    }
    let desk = Desk { store: &store, log };
    match &cli.command {
        Command::Create(flags) => {
            let preserved = preserved(flags.preserve_fds)?;
            run::create(desk, flags, preserved)?;
        }
        Command::Run(flags) => return run::run(desk, flags, preserved(flags.create.preserve_fds)?),
        Command::Exec(flags) => return exec::exec(desk, flags, preserved(flags.preserve_fds)?),
        Command::Start(flags) => run::start(desk, flags)?,
        Command::Kill(flags) => signal::kill(desk, flags)?,
        Command::Delete(flags) => delete::delete(desk, flags)?,
        Command::State(flags) => show::state(desk, flags)?,
        Command::List(flags) => show::list(desk, flags)?,
        Command::Ps(flags) => show::ps(desk, flags)?,
        Command::Pause(flags) => control::pause(desk, flags)?,
        Command::Resume(flags) => control::resume(desk, flags)?,
        Command::Update(flags) => control::update(desk, flags)?,
        Command::Events(flags) => events::events(desk, flags)?,
        Command::Spec(flags) => template::write(flags)?,
        Command::Features => show::print(&format!("{:#}", features::features()))?,
    }
    Ok(0)
}

/// Refuses what cannot be done whatever the command.
fn check(flags: &Global) -> Result<(), Failure> {
    if flags.systemd_cgroup {
        return Err(Failure::Flag {
            flag: "--systemd-cgroup",
            reason: "cgroups are made through /sys/fs/cgroup; use the cgroupfs driver",
        });
    }
    if !matches!(flags.rootless.as_str(), "auto" | "false") {
        let reason = "containers are made by root; leave it out";
        return Err(Failure::Flag { flag: "--rootless", reason });
    }
    Ok(())
}
