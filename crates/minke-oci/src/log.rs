//! What a person or a caller is told: errors and warnings, on standard error and in --log's file.
//!
//! The file has the form that runc's callers parse: the last line of level error is the reason.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::PathBuf;

use crate::cli::{Global, LogFormat};

/// Where to.
#[derive(Debug)]
pub(crate) struct Log {
    path: Option<PathBuf>,
    format: LogFormat,
    debug: bool,
}

impl Log {
    pub(crate) fn new(flags: &Global) -> Self {
        Self { path: flags.log.clone(), format: flags.log_format, debug: flags.debug }
    }

    /// The command fails.
    pub(crate) fn error(&self, text: &str) {
        self.say("error", text);
        // Nobody is left to tell if this fails, too.
        let _ = writeln!(io::stderr(), "minke-oci: {text}");
    }

    /// The command goes on, differently from what was asked.
    pub(crate) fn warn(&self, text: &str) {
        if self.path.is_none() {
            let _ = writeln!(io::stderr(), "minke-oci: warning: {text}");
        }
        self.say("warning", text);
    }

    /// How far it has come.
    pub(crate) fn debug(&self, text: &str) {
        if !self.debug {
            return;
        }
        if self.path.is_none() {
            let _ = writeln!(io::stderr(), "minke-oci: {text}");
        }
        self.say("debug", text);
    }

    fn say(&self, level: &str, text: &str) {
        let Some(path) = &self.path else { return };
        let time = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let line = match self.format {
            LogFormat::Text => format!("time=\"{time}\" level={level} msg={text:?}\n"),
            LogFormat::Json => {
                format!("{}\n", serde_json::json!({ "level": level, "msg": text, "time": time }))
            }
        };
        let file = OpenOptions::new().append(true).create(true).open(path);
        let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
        if let Err(error) = written {
            let _ = writeln!(io::stderr(), "minke-oci: cannot write {}: {error}", path.display());
        }
    }
}
