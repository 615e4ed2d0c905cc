//! Durations and what is said of many of them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What one runtime needed for one row.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    /// How often it was measured.
    pub(crate) count: usize,
}

impl Spread {
    /// Of values in whatever unit; none of no values.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |percent: usize| {
            // The nearest rank: the smallest value that so many of all do not exceed.
            let rank = (sorted.len() * percent).div_ceil(100).max(1);
            sorted.get(rank - 1).copied()
        };
        Some(Self { p50: at(50)?, p90: at(90)?, p99: at(99)?, count: sorted.len() })
    }

    /// Of a value that was measured once.
    pub(crate) fn once(value: f64) -> Self {
        Self { p50: value, p90: value, p99: value, count: 1 }
    }
}

/// Milliseconds.
pub(crate) fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        let spread = Spread::of(&hundred).expect("there are values");
        assert_eq!((spread.p50, spread.p90, spread.p99), (50.0, 90.0, 99.0));
        let spread = Spread::of(&[3.0, 1.0]).expect("there are values");
        assert_eq!((spread.p50, spread.p90, spread.p99), (1.0, 3.0, 3.0));
        assert_eq!(Spread::of(&[]), None);
    }
}
