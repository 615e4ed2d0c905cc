//! The binary: settings, composition, serve and demo.
//!
//! ```text
//!   settings   defaults, files, flags ─▶ Settings
//!   components Settings ─▶ what each crate below wants to know
//!   serve      makes the crates, serves, ends in order; reset takes everything down
//! ```

mod archive;
mod cli;
mod components;
mod demo;
mod failure;
mod notify;
mod reset;
mod serve;
mod settings;
mod socket;

use std::io::Write;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use cli::{Cli, Command, ConfigCommand};
use failure::Failure;

/// How long the daemon's end waits for what cannot be broken off.
const ENDING: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    // All before there is any thread: the seed forks without end.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == keeper::SEED_ARGUMENT) {
        return seed();
    }
    sys::heap::give_back_large();
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(failure) => {
            let text = telemetry::chain(&failure);
            // Nobody is left to tell if this fails, too.
            let _ = writeln!(std::io::stderr(), "minke: {text}");
            ExitCode::FAILURE
        }
    }
}

/// The process that makes keepers; the daemon starts it, with a socket as its standard input.
fn seed() -> ExitCode {
    match std::io::stdin().as_fd().try_clone_to_owned() {
        Ok(socket) => keeper::seed_main(socket),
        Err(_) => ExitCode::FAILURE,
    }
}

fn run(cli: Cli) -> Result<ExitCode, Failure> {
    let sources = cli.sources();
    let settings = || settings::load(&sources).map_err(Failure::Settings);
    match cli.command {
        Command::Serve { keeper_protocol } => {
            sys::heap::share_free();
            let settings = settings()?;
            telemetry::init(settings.log.level, settings.log.format);
            let runtime = runtime()?;
            let served = runtime.block_on(serve::serve(&settings, keeper_protocol));
            // A call that hangs for a dead mount never ends.
            runtime.shutdown_timeout(ENDING);
            served?;
        }
        Command::Demo => {
            let good = runtime()?.block_on(demo::run()).map_err(Failure::Demo)?;
            return Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Config { command } => print(&match command {
            ConfigCommand::Default => settings::default_file(),
            ConfigCommand::Dump => settings::effective_file(&settings()?),
        })?,
        Command::Image { command } => {
            print(&runtime()?.block_on(archive::run(&settings()?, command))?)?;
        }
        Command::Reset { yes: _ } => {
            let settings = settings()?;
            telemetry::init(settings.log.level, settings.log.format);
            runtime()?.block_on(reset::reset(&settings))?;
        }
        Command::DemoGuest { guest } => demo::run_guest(&guest).map_err(Failure::Guest)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Runtime::new().map_err(Failure::Runtime)
}

fn print(text: &str) -> Result<(), Failure> {
    std::io::stdout().write_all(text.as_bytes()).map_err(Failure::Print)
}
