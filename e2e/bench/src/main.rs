//! Measures CRI runtimes side by side: the same requests to all of them, in turn, in one run.
//!
//! ```text
//!   compare     one pod with each, read from inside: do they give the same thing?
//!   lifecycle   one pod after the other, back to back and one per second; the floor beside them
//!   load        many in flight: pods and execs per second, CPU time of each
//!   crowd       30, 110, 250 idle pods: memory, lists, statistics, idle CPU time, one pod more
//!   bulk        pulls, logs
//!   churn       thousands of pods come and go, and nothing is left
//!   bundle      `run` of an OCI bundle with minke-oci and others that have that command line
//! ```
//!
//! It is a client like any other. The daemons are started by whoever calls it (e2e/parts/bench),
//! which says their sockets and process ids.

mod alike;
mod appended;
mod bulk;
mod bundle;
mod chart;
mod churn;
mod crowd;
mod floor;
mod holdings;
mod kernel;
mod lifecycle;
mod load;
mod peer;
mod plan;
mod results;
mod sample;
mod table;

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;

use crate::alike::Facts;
use crate::bundle::Runtime;
use crate::floor::Floor;
use crate::kernel::Cgroups;
use crate::peer::{IMAGE, Peer, Place};
use crate::plan::Plan;
use crate::results::{Machine, Results};

/// What to do.
#[derive(Debug, Parser)]
#[command(version, about)]
enum Command {
    /// Measures.
    Measure(Box<Arguments>),
    /// Starts programs for `measure`, which writes their command lines to it.
    Call,
    /// Runs a command so that it and everything that it starts need not wait for what else the
    /// machine does: figures on a machine that others use would be figures of those.
    Hurry {
        /// The command and its arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
}

/// What to measure, and with whom.
#[derive(Debug, clap::Args)]
struct Arguments {
    /// A runtime: NAME=SOCKET, or NAME=SOCKET,PID to account its daemon too. Ours comes first.
    #[arg(required = true)]
    runtimes: Vec<String>,
    /// A directory for logs and leftovers.
    #[arg(long)]
    dir: PathBuf,
    /// A name for this run's cgroup; it is made, and left to the caller to remove.
    #[arg(long, default_value = "bench")]
    cgroup: String,
    /// The program made from floor.c.
    #[arg(long, requires = "floor_root")]
    floor: Option<PathBuf>,
    /// An unpacked image for the floor.
    #[arg(long)]
    floor_root: Option<PathBuf>,
    /// A runtime of bundles: NAME=PROGRAM. Ours comes first.
    #[arg(long)]
    oci: Vec<String>,
    /// See whether everything works, not how fast.
    #[arg(long)]
    smoke: bool,
    /// Only these, of: lifecycle, paced, load, execs, crowd, mounts, pulls, logs, bundles.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Measures nothing: makes and removes so many pods with the first runtime, and fails if
    /// anything of them is left.
    #[arg(long)]
    churn: Option<usize>,
    /// A directory in which files could be left.
    #[arg(long)]
    files: Vec<PathBuf>,
    /// Where the results go, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Where the table goes, as Markdown for a README.
    #[arg(long)]
    markdown: Option<PathBuf>,
    /// Where the chart goes, as SVG.
    #[arg(long)]
    svg: Option<PathBuf>,
    /// Says a version: NAME=VERSION.
    #[arg(long)]
    says: Vec<String>,
    /// Where a runtime keeps its images: written out before each pull, so that none pays for what
    /// another has left unwritten.
    #[arg(long)]
    disk: Vec<PathBuf>,
    /// A sentence to stand below the table.
    #[arg(long)]
    note: Vec<String>,
}

impl Arguments {
    /// The daemons, which are the caller's, and this process.
    fn ours(&self) -> Vec<u32> {
        let pid = |text: &String| text.rsplit_once(',')?.1.parse().ok();
        self.runtimes.iter().filter_map(pid).chain([std::process::id()]).collect()
    }
}

/// A run under way.
#[derive(Debug)]
struct Bench {
    place: Place,
    peers: Vec<Peer>,
    /// Of bundles.
    runtimes: Vec<Runtime>,
    floor: Option<Floor>,
    plan: Plan,
    facts: Option<Facts>,
    disks: Vec<PathBuf>,
    results: Results,
}

fn main() -> Result<()> {
    match Command::parse() {
        Command::Call => bundle::call(),
        Command::Hurry { command } => hurry(&command),
        Command::Measure(arguments) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(measure(*arguments))
        }
    }
}

/// Becomes the command, with time slices so short that the kernel lets it go before a task that is
/// in the middle of a longer one (Linux 6.12 and newer; others ignore it).
fn hurry(command: &[String]) -> Result<()> {
    const SLICE: u64 = 100_000;
    let (policy, flags, nice, priority) = (0, 0, 0, 0);
    let (runtime, deadline, period) = (SLICE, 0, 0);
    sys::scheduling::set_policy(sys::scheduling::Policy {
        policy,
        flags,
        nice,
        priority,
        runtime,
        deadline,
        period,
    })?;
    let (program, arguments) = command.split_first().context("a command is needed")?;
    Err(std::process::Command::new(program).args(arguments).exec().into())
}

async fn measure(arguments: Arguments) -> Result<()> {
    let cgroups = Cgroups::new(&arguments.cgroup)?;
    let ran = run(&arguments, &cgroups).await;
    if ran.is_err() {
        kernel::kill_all(&cgroups, &arguments.ours());
    }
    cgroups.remove("");
    let results = ran?;
    print!("{}", table::text(&results));
    if let Some(path) = &arguments.json {
        std::fs::write(path, serde_json::to_string_pretty(&results)? + "\n")?;
    }
    if let Some(path) = &arguments.markdown {
        std::fs::write(path, table::markdown(&results))?;
    }
    if let Some(path) = &arguments.svg {
        std::fs::write(path, chart::svg(&results))?;
    }
    Ok(())
}

async fn run(arguments: &Arguments, cgroups: &Cgroups) -> Result<Results> {
    cgroups.make("pods")?;
    let (machine, notes) = (Machine::here(cgroups)?, arguments.note.clone());
    let mut results = Results { machine, notes, ..Results::default() };
    let mut peers = Vec::new();
    for text in &arguments.runtimes {
        let peer = Peer::connect(text).await?;
        if let Some(pid) = peer.pid {
            cgroups.enter(&peer.account(), pid)?;
        }
        results.pods.runtimes.push(peer.name.clone());
        results.versions.insert(peer.name.clone(), peer.version.clone());
        peers.push(peer);
    }
    let runtimes: Result<Vec<_>> = arguments.oci.iter().map(|text| Runtime::parse(text)).collect();
    let runtimes = runtimes?;
    for runtime in &runtimes {
        results.bundles.runtimes.push(runtime.name.clone());
        results.versions.insert(runtime.name.clone(), runtime.version()?);
    }
    for text in &arguments.says {
        let (name, version) = text.split_once('=').context("a version is NAME=VERSION")?;
        results.versions.insert(name.to_owned(), version.to_owned());
    }
    let floor = arguments.floor.clone().zip(arguments.floor_root.clone());
    let floor =
        floor.map(|(program, root)| Floor { program, root, dir: arguments.dir.join("floor") });
    if floor.is_some() {
        results.pods.runtimes.push(floor::NAME.to_owned());
    }
    let place = Place { dir: arguments.dir.clone(), cgroups: cgroups.clone() };
    let plan = if arguments.smoke { Plan::smoke() } else { Plan::long() };
    let disks = arguments.disk.clone();
    let mut bench = Bench { place, peers, runtimes, floor, plan, facts: None, disks, results };
    for peer in &mut bench.peers {
        peer.pull(IMAGE).await?;
    }
    match arguments.churn {
        Some(pods) => bench.churn(pods, &arguments.files).await?,
        None => bench.measure(&arguments.only).await?,
    }
    bench.results.machine.load.push(kernel::load());
    Ok(bench.results)
}

impl Bench {
    async fn measure(&mut self, only: &[String]) -> Result<()> {
        self.compare().await?;
        let wanted = |part: &str| {
            let wanted = only.is_empty() || only.iter().any(|name| name == part);
            if wanted {
                eprintln!("bench: {part}");
            }
            wanted
        };
        if wanted("lifecycle") {
            self.lifecycle(self.plan.serial, None).await?;
        }
        if wanted("paced") {
            self.lifecycle(self.plan.paced, Some(Duration::from_secs(1))).await?;
        }
        if wanted("load") {
            for (in_flight, count) in self.plan.bursts.clone() {
                self.pods_per_second(in_flight, count, self.plan.burst_rounds).await?;
            }
        }
        if wanted("execs") {
            self.execs().await?;
        }
        if wanted("crowd") {
            self.crowds().await?;
        }
        if wanted("mounts") {
            self.foreign_mounts().await?;
        }
        if wanted("pulls") {
            self.pulls().await?;
        }
        if wanted("logs") {
            self.log_flood().await?;
            self.log_chatter().await?;
        }
        if !self.runtimes.is_empty() && wanted("bundles") {
            self.bundles().await?;
        }
        Ok(())
    }
}
