//! Tracing set-up, metrics registry and the error chain; no domain.
//!
//! Everything is written to standard error: systemd and container managers collect it there, and a
//! command's standard output stays its own.

mod chain;

use std::fmt;
use std::io::IsTerminal;
use std::str::FromStr;

use tracing_subscriber::EnvFilter;

pub use chain::chain;

/// How much is told: each level tells what the ones before it tell too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Level {
    /// What failed, and somebody has to act.
    Error,
    /// What is not as it should be, and goes on.
    Warn,
    /// What changed: pods, containers, images.
    #[default]
    Info,
    /// Every request, lists and statuses too.
    Debug,
    /// Every step.
    Trace,
}

/// How a line looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// For people; in colour on a terminal.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// A word that is none of the known ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownWord {
    word: String,
    known: &'static str,
}

impl fmt::Display for UnknownWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is none of {}", self.word, self.known)
    }
}

impl std::error::Error for UnknownWord {}

impl FromStr for Level {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        match word {
            "error" => Ok(Self::Error),
            "warn" => Ok(Self::Warn),
            "info" => Ok(Self::Info),
            "debug" => Ok(Self::Debug),
            "trace" => Ok(Self::Trace),
            word => Err(UnknownWord {
                word: word.chars().take(40).collect(),
                known: "error, warn, info, debug, trace",
            }),
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        })
    }
}

impl FromStr for Format {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        match word {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            word => Err(UnknownWord { word: word.chars().take(40).collect(), known: "text, json" }),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// The libraries below are heard only when something is wrong: at `debug` they tell of every frame
/// and every socket, and the few lines about a pod would drown.
const LIBRARIES: &str = "h2=warn,hyper=warn,hyper_util=warn,reqwest=warn,rustls=warn,tonic=warn,\
                         tower=warn,tungstenite=warn,tokio_tungstenite=warn,netlink_proto=warn";

/// Sends tracing's events to standard error for the rest of the process's life. A second call
/// changes nothing: the first one holds.
pub fn init(level: Level, format: Format) {
    let filter = EnvFilter::new(format!("{level},{LIBRARIES}"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let result = match format {
        Format::Text => lines.with_ansi(std::io::stderr().is_terminal()).try_init(),
        Format::Json => lines.json().flatten_event(true).try_init(),
    };
    // The only error is that a subscriber is there already.
    drop(result);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_formats_are_read_as_they_are_printed() {
        for level in [Level::Error, Level::Warn, Level::Info, Level::Debug, Level::Trace] {
            assert_eq!(level.to_string().parse::<Level>().unwrap(), level);
        }
        for format in [Format::Text, Format::Json] {
            assert_eq!(format.to_string().parse::<Format>().unwrap(), format);
        }
        let error = "loud".parse::<Level>().unwrap_err();
        assert_eq!(error.to_string(), r#""loud" is none of error, warn, info, debug, trace"#);
        assert!("xml".parse::<Format>().is_err());
    }

    #[test]
    fn the_filter_has_no_directive_that_is_dropped() {
        let text = format!("debug,{LIBRARIES}");
        assert!(EnvFilter::builder().parse(&text).is_ok(), "{text}");
    }
}
