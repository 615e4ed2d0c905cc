//! Where the demo takes place: a directory, a configuration, a daemon; struck whatever happens.

use std::fs;
use std::path::{Path, PathBuf};

use super::census::{Census, Link};
use super::daemon::{self, Daemon};
use super::error::Error;

/// The demo's own corner of the machine.
#[derive(Debug)]
pub(crate) struct Stage {
    /// A name that nothing else on this machine has.
    pub(crate) token: String,
    /// The directory of everything that the demo writes.
    pub(crate) dir: PathBuf,
    /// The daemon, from its first moment until it has ended.
    pub(crate) daemon: Option<Daemon>,
}

impl Stage {
    /// Makes the directory and the configuration.
    pub(crate) fn set() -> Result<Self, Error> {
        if !rustix::process::geteuid().is_root() {
            return Err(Error::NotRoot);
        }
        let token = format!("minke-demo-{}", std::process::id());
        let dir = std::env::temp_dir().join(&token);
        let at = dir.display();
        fs::create_dir(&dir).map_err(Error::io(format!("make the directory {at}")))?;
        let config = format!(
            "root = \"{at}/root\"\nstate = \"{at}/state\"\nsocket = \"{at}/minke.sock\"\n\
             [network]\nnetns_dir = \"{at}/netns\"\n[images]\ncerts_dirs = []\n"
        );
        let written = fs::write(dir.join("config.toml"), config);
        let stage = Self { token, dir, daemon: None };
        written.map_err(Error::io("write the configuration"))?;
        Ok(stage)
    }

    /// Starts a daemon.
    pub(crate) async fn start(&mut self) -> Result<(), Error> {
        let daemon = Daemon::spawn(&self.dir, &self.token)?;
        self.daemon.insert(daemon).ready(&self.dir).await
    }

    /// Kills the daemon on the spot, as a crash would.
    pub(crate) async fn crash(&mut self) -> Result<(), Error> {
        self.daemon()?.kill().await?;
        self.daemon = None;
        Ok(())
    }

    /// The running daemon.
    pub(crate) fn daemon(&mut self) -> Result<&mut Daemon, Error> {
        let none = Error::Unexpected { what: "a daemon should run", instead: "none does".into() };
        self.daemon.as_mut().ok_or(none)
    }

    /// Ends the daemon, removes every pod, network and file, and counts what is left.
    pub(crate) async fn strike(mut self) -> (Census, Result<(), Error>) {
        let mut result = match &mut self.daemon {
            Some(daemon) => daemon.stop().await,
            None => Ok(()),
        };
        // Nobody makes links any more, and nobody has removed any.
        let links = Link::of_daemon(&self.dir.join("root"));
        result = result.and(self.reset().await);
        for tree in cgroup_trees() {
            // Empty by now; what is not shows in the count.
            let _ = fs::remove_dir(tree.join(&self.token));
        }
        // What could not start cannot be reset, and has left nothing but files. They are kept where
        // something in the kernel may still be at work with them.
        if result.is_ok() || Census::take(&self.token, &self.dir, &links).is_files() {
            let removed = fs::remove_dir_all(&self.dir);
            result = removed.map_err(Error::io(format!("remove {}", self.dir.display())));
        }
        (Census::take(&self.token, &self.dir, &links), result)
    }

    async fn reset(&self) -> Result<(), Error> {
        let mut command = tokio::process::Command::from(daemon::command(&self.dir, &self.token)?);
        let status = command.args(["reset", "--yes"]).status().await;
        let status = status.map_err(Error::io("run minke reset"))?;
        let log = || fs::read_to_string(self.dir.join("minke.log")).unwrap_or_default();
        let last = || log().lines().last().unwrap_or_default().to_owned();
        if status.success() {
            return Ok(());
        }
        Err(Error::Unexpected { what: "everything should be removed", instead: last() })
    }
}

/// Every mounted cgroup tree.
fn cgroup_trees() -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let below = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    std::iter::once(root.to_owned()).chain(below).collect()
}
