use std::time::Duration;

use super::{Invalid, invalid, no_nul};

/// A command to run: at least one word.
pub(crate) fn command(words: Vec<String>) -> Result<Vec<String>, Invalid> {
    if words.first().is_none_or(String::is_empty) {
        return Err(invalid("cmd", "is required"));
    }
    words.iter().enumerate().try_for_each(|(i, word)| no_nul(&format!("cmd[{i}]"), word))?;
    Ok(words)
}

/// How long an exec may take; 0 on the wire is no limit.
pub(crate) fn exec_timeout(seconds: i64) -> Result<Option<Duration>, Invalid> {
    timeout(seconds).map(|limit| (!limit.is_zero()).then_some(limit))
}

/// How long a container may take to end by itself; 0 is not at all.
pub(crate) fn stop_timeout(seconds: i64) -> Result<Duration, Invalid> {
    timeout(seconds)
}

/// Timers count in milliseconds of 64 bits, so more than a few thousand years is cut to that.
fn timeout(seconds: i64) -> Result<Duration, Invalid> {
    match u64::try_from(seconds) {
        Ok(seconds) => Ok(Duration::from_secs(seconds.min(100_000_000_000))),
        Err(_) => Err(invalid("timeout", format!("{seconds} is negative"))),
    }
}

/// Ports that a client will forward; SPDY clients name them later and may leave this empty.
pub(crate) fn ports(ports: Vec<i32>) -> Result<Vec<u16>, Invalid> {
    let port = |(i, port): (usize, i32)| match u16::try_from(port) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(invalid(format!("port[{i}]"), format!("{port} is not a port from 1 to 65535"))),
    };
    ports.into_iter().enumerate().map(port).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_checked() {
        assert_eq!(command(vec![]).unwrap_err().field, "cmd");
        assert_eq!(command(vec![String::new()]).unwrap_err().field, "cmd");
        assert_eq!(command(vec!["a".into(), "\0".into()]).unwrap_err().field, "cmd[1]");
        assert_eq!(exec_timeout(0).unwrap(), None);
        assert_eq!(exec_timeout(2).unwrap(), Some(Duration::from_secs(2)));
        assert_eq!(stop_timeout(0).unwrap(), Duration::ZERO);
        assert!(stop_timeout(i64::MAX).unwrap() < Duration::from_millis(u64::MAX));
        assert_eq!(stop_timeout(-1).unwrap_err().field, "timeout");
        assert_eq!(ports(vec![80, 0]).unwrap_err().field, "port[1]");
        assert_eq!(ports(vec![65536]).unwrap_err().field, "port[0]");
        assert_eq!(ports(vec![80]).unwrap(), [80]);
    }
}
