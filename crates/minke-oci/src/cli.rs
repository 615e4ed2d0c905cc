//! The command line, as users of runc know it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use model::Signal;

/// Runs containers from OCI bundles: minke's executor, with the command line of runc.
///
/// A bundle is a directory with a config.json and, usually, a rootfs. Make one, run it:
///
///   mkdir -p demo/rootfs && cp /bin/busybox demo/rootfs/   # any file system will do
///   minke-oci spec --bundle demo                           # a config.json to edit
///   minke-oci run --bundle demo my-container
///
/// or step by step: create, start, exec, kill, delete. Nothing stays behind between the commands but
/// the container itself and its record below --root; there is no daemon.
#[derive(Debug, Parser)]
#[command(name = "minke-oci", version, max_term_width = 100, verbatim_doc_comment)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of every command.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Directory of the containers' records: one below it for each.
    #[arg(long, value_name = "DIR", default_value = "/run/minke-oci")]
    pub(crate) root: PathBuf,
    /// File that errors and warnings are appended to, beside standard error.
    #[arg(long, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,
    /// Form of the lines in that file.
    #[arg(long, value_name = "FORM", default_value = "text")]
    pub(crate) log_format: LogFormat,
    /// Say more: how far a command has come.
    #[arg(long)]
    pub(crate) debug: bool,
    /// Refused: cgroups are made through the file system, not through systemd.
    #[arg(long)]
    pub(crate) systemd_cgroup: bool,
    /// Refused unless `false` or `auto`: containers are made by root.
    #[arg(long, value_name = "MODE", default_value = "auto")]
    pub(crate) rootless: String,
}

/// Forms of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// key=value.
    Text,
    /// One JSON object a line.
    Json,
}

/// What minke-oci can do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a container: everything but its program's start.
    ///
    /// Its first process waits until `start`. With `"terminal": true` in config.json the other end of
    /// its terminal is sent to --console-socket.
    Create(Create),
    /// Let a created container go on into its program.
    Start(OfContainer),
    /// Create, start and wait; the exit code is the container's.
    ///
    /// Signals are passed on. The container is deleted at its end, unless --detach or --keep is given.
    Run(Run),
    /// Run one more process in a container; the exit code is the process's.
    Exec(Exec),
    /// Send a signal to a container's first process.
    Kill(Kill),
    /// Remove what is left of a stopped or created container.
    Delete(Delete),
    /// Print a container's state as JSON.
    State(OfContainer),
    /// List the containers below --root.
    List(List),
    /// List a container's processes.
    Ps(Ps),
    /// Stop all processes of a container where they stand.
    Pause(OfContainer),
    /// Let the processes of a paused container go on.
    Resume(OfContainer),
    /// Change a running container's limits.
    Update(Update),
    /// Print what a container uses, again and again, and whether it ran out of memory.
    Events(Events),
    /// Write a config.json to begin with.
    Spec(Template),
    /// Print what this runtime can do, as JSON.
    Features,
}

/// A container by its id.
#[derive(Debug, Args)]
pub(crate) struct OfContainer {
    /// The container.
    pub(crate) id: String,
}

/// How a container is made.
#[derive(Debug, Args)]
pub(crate) struct Create {
    /// The container's name from now on: letters, digits, `_`, `+`, `-` and `.`
    pub(crate) id: String,
    /// Directory with config.json.
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub(crate) bundle: PathBuf,
    /// Unix socket that the terminal's other end is sent to.
    #[arg(long, value_name = "PATH")]
    pub(crate) console_socket: Option<PathBuf>,
    /// File that the first process's number is written to.
    #[arg(long, value_name = "FILE")]
    pub(crate) pid_file: Option<PathBuf>,
    /// Pass on this many descriptors, from 3 on.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) preserve_fds: u32,
    /// Refused: the old root could be reached again without pivot_root.
    #[arg(long)]
    pub(crate) no_pivot: bool,
    /// Stay in the caller's session keyring.
    #[arg(long)]
    pub(crate) no_new_keyring: bool,
}

/// How a container is run.
#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) create: Create,
    /// Do not wait.
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Do not delete it when it has ended.
    #[arg(long)]
    pub(crate) keep: bool,
    /// Of no effect: nothing is made the reaper of orphans.
    #[arg(long, hide = true)]
    pub(crate) no_subreaper: bool,
}

/// One more process.
#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// The container.
    pub(crate) id: String,
    /// The program and its arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) args: Vec<String>,
    /// Unix socket that the terminal's other end is sent to.
    #[arg(long, value_name = "PATH")]
    pub(crate) console_socket: Option<PathBuf>,
    /// Working directory.
    #[arg(long, value_name = "DIR")]
    pub(crate) cwd: Option<PathBuf>,
    /// NAME=value, beside the container's own environment; repeat it for more.
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,
    /// On a terminal.
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// UID[:GID].
    #[arg(short, long, value_name = "UID")]
    pub(crate) user: Option<String>,
    /// Supplementary groups; repeat it for more.
    #[arg(short = 'g', long, value_name = "GID")]
    pub(crate) additional_gids: Vec<u32>,
    /// File that holds the process as config.json would, in place of arguments and flags.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) process: Option<PathBuf>,
    /// Do not wait.
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// File that the process's number is written to.
    #[arg(long, value_name = "FILE")]
    pub(crate) pid_file: Option<PathBuf>,
    /// SELinux label.
    #[arg(long, value_name = "LABEL")]
    pub(crate) process_label: Option<String>,
    /// AppArmor profile.
    #[arg(long, value_name = "PROFILE")]
    pub(crate) apparmor: Option<String>,
    /// Programs gain no privileges.
    #[arg(long)]
    pub(crate) no_new_privs: bool,
    /// A capability beside the container's own; repeat it for more.
    #[arg(short, long, value_name = "CAP")]
    pub(crate) cap: Vec<String>,
    /// Pass on this many descriptors, from 3 on.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) preserve_fds: u32,
    /// A cgroup below the container's, which exists.
    #[arg(long, value_name = "PATH")]
    pub(crate) cgroup: Option<String>,
    /// Also in a paused container, where the process stands still until `resume`.
    #[arg(long)]
    pub(crate) ignore_paused: bool,
}

/// A signal.
#[derive(Debug, Args)]
pub(crate) struct Kill {
    /// The container.
    pub(crate) id: String,
    /// By name or number.
    #[arg(default_value = "TERM")]
    pub(crate) signal: Signal,
    /// To every process of the container.
    #[arg(short, long)]
    pub(crate) all: bool,
}

/// Removal.
#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// The container.
    pub(crate) id: String,
    /// Kill it first; an unknown one is no error.
    #[arg(short, long)]
    pub(crate) force: bool,
}

/// A listing of containers.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Form of the listing.
    #[arg(short, long, value_name = "FORM", default_value = "table")]
    pub(crate) format: Format,
    /// Ids alone.
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// A listing of processes.
#[derive(Debug, Args)]
pub(crate) struct Ps {
    /// Form of the listing.
    #[arg(short, long, value_name = "FORM", default_value = "table")]
    pub(crate) format: Format,
    /// The container.
    pub(crate) id: String,
    /// Arguments for the ps program, whose table is shown.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) args: Vec<String>,
}

/// Forms of a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// New limits.
#[derive(Debug, Args)]
pub(crate) struct Update {
    /// The container.
    pub(crate) id: String,
    /// File with `linux.resources` as JSON, or `-` for standard input, in place of all other flags.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) resources: Option<PathBuf>,
    /// Weight for block devices, 10 to 1000.
    #[arg(long, value_name = "N")]
    pub(crate) blkio_weight: Option<u16>,
    /// Length of a period, microseconds.
    #[arg(long, value_name = "US")]
    pub(crate) cpu_period: Option<u64>,
    /// Processor time in a period, microseconds.
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    pub(crate) cpu_quota: Option<i64>,
    /// Time that may be saved up, microseconds.
    #[arg(long, value_name = "US")]
    pub(crate) cpu_burst: Option<u64>,
    /// Relative share of the processors.
    #[arg(long, alias = "cpu-shares", value_name = "N")]
    pub(crate) cpu_share: Option<u64>,
    /// Real-time period, microseconds.
    #[arg(long, value_name = "US")]
    pub(crate) cpu_rt_period: Option<u64>,
    /// Real-time runtime, microseconds.
    #[arg(long, value_name = "US")]
    pub(crate) cpu_rt_runtime: Option<i64>,
    /// 1: run only where nobody else wants to.
    #[arg(long, value_name = "0|1")]
    pub(crate) cpu_idle: Option<i64>,
    /// Processors.
    #[arg(long, value_name = "LIST")]
    pub(crate) cpuset_cpus: Option<String>,
    /// Memory nodes.
    #[arg(long, value_name = "LIST")]
    pub(crate) cpuset_mems: Option<String>,
    /// Memory limit: bytes, or with k, m, g; -1 is none.
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true, value_parser = bytes)]
    pub(crate) memory: Option<i64>,
    /// Memory that is reclaimed last.
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true, value_parser = bytes)]
    pub(crate) memory_reservation: Option<i64>,
    /// Memory and swap together.
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true, value_parser = bytes)]
    pub(crate) memory_swap: Option<i64>,
    /// Processes and threads; -1 is no limit.
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub(crate) pids_limit: Option<i64>,
}

/// Watching.
#[derive(Debug, Args)]
pub(crate) struct Events {
    /// The container.
    pub(crate) id: String,
    /// Once.
    #[arg(long)]
    pub(crate) stats: bool,
    /// Between two looks: seconds, or with ms, s, m.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = interval)]
    pub(crate) interval: std::time::Duration,
}

/// Where the new config.json goes.
#[derive(Debug, Args)]
pub(crate) struct Template {
    /// Directory for it.
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub(crate) bundle: PathBuf,
}

/// A size: `512m` is 512 times 1024 times 1024.
fn bytes(text: &str) -> Result<i64, String> {
    let lower = text.trim().to_ascii_lowercase();
    let lower = lower.strip_suffix('b').unwrap_or(&lower);
    let (number, shift) = match lower.char_indices().last() {
        Some((at, 'k')) => (&lower[..at], 10),
        Some((at, 'm')) => (&lower[..at], 20),
        Some((at, 'g')) => (&lower[..at], 30),
        Some((at, 't')) => (&lower[..at], 40),
        _ => (lower, 0),
    };
    let wrong = || format!("{text:?} is no size: a number of bytes, or one with k, m, g or t");
    let number: i64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).ok_or_else(wrong)
}

/// A time: `500ms`, `5s`, `1m`, `5`.
fn interval(text: &str) -> Result<std::time::Duration, String> {
    let (number, milliseconds) = if let Some(number) = text.strip_suffix("ms") {
        (number, 1)
    } else if let Some(number) = text.strip_suffix('s') {
        (number, 1000)
    } else if let Some(number) = text.strip_suffix('m') {
        (number, 60_000)
    } else {
        (text, 1000)
    };
    match number.parse::<u64>().ok().and_then(|number| number.checked_mul(milliseconds)) {
        Some(0) | None => Err(format!("{text:?} is no time: 500ms, 5s, 1m")),
        Some(time) => Ok(std::time::Duration::from_millis(time)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_and_times_are_read() {
        assert_eq!(bytes("512m"), Ok(512 << 20));
        assert_eq!(bytes("1GB"), Ok(1 << 30));
        assert_eq!(bytes("-1"), Ok(-1));
        assert!(bytes("9999999999g").is_err());
        assert!(bytes("").is_err());
        assert_eq!(interval("250ms"), Ok(std::time::Duration::from_millis(250)));
        assert_eq!(interval("2"), Ok(std::time::Duration::from_secs(2)));
        assert!(interval("0s").is_err());
    }

    #[test]
    fn what_follows_the_id_belongs_to_the_program() {
        let line = ["minke-oci", "exec", "-t", "c1", "ls", "-l", "--color"];
        let Command::Exec(exec) = Cli::parse_from(line).command else { panic!() };
        assert!(exec.tty);
        assert_eq!(exec.args, ["ls", "-l", "--color"]);
    }
}
