//! What is compiled for the tests: a static program that probes from within, and a library that a
//! loader runs before the program that it was asked for.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use crate::daemon::DIR;

/// The static program of `probe.c`.
pub static PROBE: LazyLock<PathBuf> =
    LazyLock::new(|| compile("probe.c", "probe", &["-static", "-O1"]));

/// The library of `preloaded.c`.
pub static PRELOADED: LazyLock<PathBuf> =
    LazyLock::new(|| compile("preloaded.c", "preloaded.so", &["-shared", "-fPIC", "-O1"]));

fn compile(source: &str, name: &str, flags: &[&str]) -> PathBuf {
    let program = DIR.join(name);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(source);
    let mut compile = Command::new("cc");
    compile.args(flags).arg("-o").arg(&program).arg(source);
    assert!(compile.status().unwrap().success());
    program
}
