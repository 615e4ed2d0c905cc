use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A moment in nanoseconds since the Unix epoch, as CRI carries time; 0 means "not yet".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The wall clock now.
    pub fn now() -> Self {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self(since.map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)))
    }
}

/// Whether a pod can take containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PodState {
    /// Namespaces and network are up.
    Ready,
    /// Stopped, failed, or lost with its keeper or with the last boot.
    NotReady,
}

/// Where a container is in its life; each variant owns what is known only then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    /// Its init waits before execve.
    Created,
    /// Its program runs.
    Running {
        /// When execve succeeded.
        started_at: Timestamp,
    },
    /// It ended, or never started.
    Exited {
        /// When execve succeeded; 0 if it never did.
        started_at: Timestamp,
        /// How it ended.
        exit: Exit,
    },
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// When the end was seen.
    pub finished_at: Timestamp,
    /// The exit code: 128 + signal for a signal's death, 128 where it could not start,
    /// 255 where nobody saw it.
    pub code: i32,
    /// One CamelCase word: `Completed`, `Error`, `OOMKilled`, `StartError`, `KeeperLost`, `Unknown`.
    pub reason: String,
    /// What a person should know, empty for an ordinary end.
    pub message: String,
}

/// A Linux signal by number, 1 to 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "i32", into = "i32")]
pub struct Signal(i32);

/// Why a text or number is not a signal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a signal name or a number from 1 to 64")]
pub struct SignalError {
    /// What was given.
    pub text: String,
}

const SIGNALS: [(&str, i32); 31] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
];

impl Signal {
    /// The end that cannot be caught.
    pub const KILL: Self = Self(9);
    /// The polite end, a container's default stop signal.
    pub const TERM: Self = Self(15);

    /// The kernel's number.
    pub fn number(self) -> i32 {
        self.0
    }
}

impl TryFrom<i32> for Signal {
    type Error = SignalError;

    fn try_from(number: i32) -> Result<Self, SignalError> {
        if (1..=64).contains(&number) {
            Ok(Self(number))
        } else {
            Err(SignalError { text: number.to_string() })
        }
    }
}

impl From<Signal> for i32 {
    fn from(signal: Signal) -> Self {
        signal.0
    }
}

impl FromStr for Signal {
    type Err = SignalError;

    /// Takes `TERM`, `SIGTERM`, `15`, `RTMIN`, `RTMIN+3`, `SIGRTMAX-1`, in any case.
    fn from_str(text: &str) -> Result<Self, SignalError> {
        let fail = || SignalError { text: text.chars().take(40).collect() };
        if let Ok(number) = text.parse::<i32>() {
            return Self::try_from(number).map_err(|_| fail());
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        if let Some((_, number)) = SIGNALS.iter().find(|(known, _)| *known == name) {
            return Ok(Self(*number));
        }
        // The C library keeps 32 and 33 for itself, so RTMIN is 34 in every program's eyes.
        let number = match name {
            "CLD" => Some(17),
            "IOT" => Some(6),
            "POLL" => Some(29),
            "RTMIN" => Some(34),
            "RTMAX" => Some(64),
            _ => {
                let plus = name.strip_prefix("RTMIN+").and_then(|n| n.parse::<u8>().ok());
                let minus = name.strip_prefix("RTMAX-").and_then(|n| n.parse::<u8>().ok());
                let plus = plus.map(|n| 34 + i32::from(n));
                plus.or(minus.map(|n| 64 - i32::from(n))).filter(|n| (34..=64).contains(n))
            }
        };
        number.map(Self).ok_or_else(fail)
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match SIGNALS.iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => write!(f, "SIG{name}"),
            None if self.0 == 64 => f.write_str("SIGRTMAX"),
            None if self.0 == 34 => f.write_str("SIGRTMIN"),
            None if self.0 > 34 => write!(f, "SIGRTMIN+{}", self.0 - 34),
            None => write!(f, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_read_in_every_spelling_and_printed_in_one() {
        for (text, number) in
            [("TERM", 15), ("sigterm", 15), ("9", 9), ("RTMIN+3", 37), ("SIGRTMAX-1", 63)]
        {
            assert_eq!(text.parse::<Signal>().unwrap().number(), number, "{text}");
        }
        for number in (1..=31).chain(34..=64) {
            let signal = Signal::try_from(number).unwrap();
            assert_eq!(signal.to_string().parse::<Signal>().unwrap(), signal);
        }
        for bad in ["", "0", "65", "-1", "SIGNOT", "RTMIN+31", "RTMAX-99", "RTMIN+"] {
            assert!(bad.parse::<Signal>().is_err(), "{bad}");
        }
    }
}
