use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The first failure sends a host to the end of the queue for this long; each further one doubles it.
const FIRST: Duration = Duration::from_secs(15);
const LONGEST: Duration = Duration::from_secs(300);

/// Remembers hosts that could not be reached, so that not every pull waits for a dead mirror.
///
/// A remembered host is not left out but tried last: if all others fail, it may be back.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    dead: Mutex<HashMap<String, Dead>>,
}

#[derive(Debug)]
struct Dead {
    until: Instant,
    pause: Duration,
}

impl Breaker {
    pub(crate) fn is_open(&self, host: &str, now: Instant) -> bool {
        let dead = self.dead.lock().unwrap_or_else(PoisonError::into_inner);
        dead.get(host).is_some_and(|dead| now < dead.until)
    }

    pub(crate) fn failed(&self, host: &str, now: Instant) {
        let mut dead = self.dead.lock().unwrap_or_else(PoisonError::into_inner);
        dead.entry(host.to_owned())
            .and_modify(|dead| {
                // Several requests of one pull fail together; they count once.
                if now >= dead.until {
                    dead.pause = (dead.pause * 2).min(LONGEST);
                    dead.until = now + dead.pause;
                }
            })
            .or_insert(Dead { until: now + FIRST, pause: FIRST });
    }

    pub(crate) fn answered(&self, host: &str) {
        self.dead.lock().unwrap_or_else(PoisonError::into_inner).remove(host);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_host_is_remembered_longer_each_time_and_forgiven_when_it_answers() {
        let breaker = Breaker::default();
        let start = Instant::now();
        breaker.failed("m", start);
        breaker.failed("m", start + Duration::from_secs(1));
        assert!(breaker.is_open("m", start + Duration::from_secs(14)));
        assert!(!breaker.is_open("m", start + Duration::from_secs(15)));
        let again = start + Duration::from_secs(20);
        breaker.failed("m", again);
        assert!(breaker.is_open("m", again + Duration::from_secs(29)));
        breaker.answered("m");
        assert!(!breaker.is_open("m", again));
        assert!(!breaker.is_open("other", start));
    }
}
