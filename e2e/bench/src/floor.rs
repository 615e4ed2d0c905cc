//! What the kernel itself needs: runs floor.c, which makes the same objects bare.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::kernel::Cgroups;

/// Its column.
pub(crate) const NAME: &str = "floor";

/// The program and what it works on.
#[derive(Debug, Clone)]
pub(crate) struct Floor {
    pub(crate) program: PathBuf,
    /// An unpacked image.
    pub(crate) root: PathBuf,
    pub(crate) dir: PathBuf,
}

impl Floor {
    /// One pod: the rows' names and milliseconds.
    pub(crate) fn one(&self, cgroups: &Cgroups) -> Result<Vec<(String, f64)>> {
        cgroups.make("pods/floor")?;
        // A volatile upper directory is not mounted twice.
        let _ = std::fs::remove_dir_all(&self.dir);
        std::fs::create_dir_all(&self.dir)?;
        let mut command = Command::new(&self.program);
        command
            .arg(&self.root)
            .arg(&self.dir)
            .arg(cgroups.name("pods/floor/main").trim_matches('/'));
        let output = command.args(cgroups.trees()).output().context("run the floor")?;
        if !output.status.success() {
            bail!("the floor failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let lines = text.lines().filter_map(|line| {
            let (row, microseconds) = line.rsplit_once(' ')?;
            Some((row.to_owned(), microseconds.parse::<f64>().ok()? / 1000.0))
        });
        Ok(lines.collect())
    }
}
