//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::demo::Guest;
use crate::settings::Sources;

/// A Kubernetes container runtime: pods, containers and images for kubelet and crictl.
///
/// `minke demo` shows it on this machine, without touching anything else. `minke serve` is the
/// daemon that a node runs; it speaks the Container Runtime Interface on a unix socket.
#[derive(Debug, Parser)]
#[command(name = "minke", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    settings: SettingsFlags,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags that change settings, for this run alone.
#[derive(Debug, Args)]
#[command(next_help_heading = "Settings")]
struct SettingsFlags {
    /// The configuration file [default: /etc/minke/config.toml, where it is].
    ///
    /// Files in config.d/*.toml beside it are read after it, in the order of their names.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Sets one key over all files: --set log.level=debug; repeat it for more.
    ///
    /// `minke config default` lists all keys.
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Directory of all that survives a reboot; the same as --set root=DIR.
    #[arg(long, global = true, value_name = "DIR")]
    root: Option<String>,
    /// Directory of all that does not; the same as --set state=DIR.
    #[arg(long, global = true, value_name = "DIR")]
    state: Option<String>,
    /// The socket of the daemon; the same as --set socket=PATH.
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<String>,
    /// error, warn, info, debug or trace; the same as --set log.level=LEVEL.
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<String>,
}

/// What minke can do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the daemon.
    ///
    /// SIGTERM ends it in order and leaves the pods running: the next daemon takes them over. Under
    /// systemd, Type=notify is told when it is ready.
    Serve {
        /// Have new pods' keepers speak no newer version of their protocol than this.
        ///
        /// A daemon adopts keepers that an older one has made. This makes such keepers without that
        /// older daemon at hand: serve with it, kill the daemon, and serve without it.
        #[arg(long, value_name = "VERSION", hide = true)]
        keeper_protocol: Option<u32>,
    },
    /// Show a real pod from its image to nothing, in a minute.
    ///
    /// Starts a private daemon under a temporary directory, runs a pod, kills the daemon in the
    /// middle, and removes everything again. Needs root, and no network.
    Demo,
    /// Print the configuration.
    Config {
        /// Which one.
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Bring images in and out as archives, without a registry.
    Image {
        /// In or out.
        #[command(subcommand)]
        command: ImageCommand,
    },
    /// Remove every pod of this node and its network. Images stay.
    ///
    /// No daemon may be running. Pods are stopped without grace.
    Reset {
        /// Says that you mean it.
        #[arg(long, required = true)]
        yes: bool,
    },
    /// What runs in the containers of the demo.
    #[command(hide = true)]
    DemoGuest {
        /// What it does.
        #[command(subcommand)]
        guest: Guest,
    },
}

/// Which configuration to print.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Every key there is, with its documentation and its default: a file to start from.
    Default,
    /// The effective settings, after all files and flags.
    Dump,
}

/// Archives are OCI layouts as tar files; what `docker save` writes is taken, too.
#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Take the images out of an archive.
    Import {
        /// The archive; it may be compressed.
        archive: PathBuf,
        /// What to call an image that the archive gives no full name.
        #[arg(long)]
        name: Option<String>,
    },
    /// Write images into an archive that `docker load` and OCI tools take.
    Export {
        /// The archive, which must not exist yet.
        archive: PathBuf,
        /// Tags, digests or ids.
        #[arg(required = true)]
        images: Vec<String>,
    },
}

impl Cli {
    /// Where the settings come from.
    pub(crate) fn sources(&self) -> Sources {
        let SettingsFlags { config, set, root, state, socket, log_level } = &self.settings;
        let named =
            [("root", root), ("state", state), ("socket", socket), ("log.level", log_level)];
        let named = named.into_iter().filter_map(|(key, value)| Some((key, value.as_ref()?)));
        let named = named.map(|(key, value)| format!("{key}={value}"));
        Sources { file: config.clone(), overrides: set.iter().cloned().chain(named).collect() }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_become_overrides_the_named_ones_last() {
        let words = ["minke", "serve", "--state=/s", "--set", "state=/t", "--log-level", "debug"];
        let sources = Cli::parse_from(words).sources();
        assert_eq!(sources.overrides, ["state=/t", "state=/s", "log.level=debug"]);
        assert!(Cli::try_parse_from(["minke", "reset"]).is_err(), "reset needs --yes");
    }
}
