//! What was measured: rows, a value for each runtime in them; kept as JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::sample::Spread;

/// A whole run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) machine: Machine,
    pub(crate) versions: BTreeMap<String, String>,
    /// What else is to be known about it, in sentences.
    pub(crate) notes: Vec<String>,
    /// Runtimes behind a CRI socket.
    #[serde(flatten)]
    pub(crate) pods: Table,
    /// Runtimes of OCI bundles.
    pub(crate) bundles: Table,
}

/// Rows and those who were measured.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Table {
    /// The runtimes, ours first, and the floor last.
    pub(crate) runtimes: Vec<String>,
    pub(crate) rows: Vec<Row>,
}

/// Where it was measured.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) date: String,
    pub(crate) kernel: String,
    pub(crate) processor: String,
    pub(crate) processors: usize,
    pub(crate) memory_gib: u64,
    pub(crate) cgroups: String,
    /// The load average when the run began and when it ended: what else the machine did.
    pub(crate) load: Vec<String>,
}

/// What a number counts, and whether more of it is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    Count,
    Milliseconds,
    Seconds,
    PerSecond,
    Megabytes,
    MegabytesPerSecond,
    /// Milliseconds of CPU time in each second.
    CpuMillisecondsPerSecond,
}

impl Unit {
    pub(crate) fn symbol(self) -> &'static str {
        match self {
            Self::Count => "",
            Self::Milliseconds => "ms",
            Self::Seconds => "s",
            Self::PerSecond => "/s",
            Self::Megabytes => "MB",
            Self::MegabytesPerSecond => "MB/s",
            Self::CpuMillisecondsPerSecond => "ms/s",
        }
    }

    pub(crate) fn more_is_better(self) -> bool {
        matches!(self, Self::PerSecond | Self::MegabytesPerSecond)
    }
}

/// One thing that was measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) unit: Unit,
    pub(crate) values: BTreeMap<String, Spread>,
}

impl Table {
    /// Sets the value of a runtime in a row; a row appears with its first value.
    pub(crate) fn set(&mut self, row: &str, unit: Unit, runtime: &str, value: Spread) {
        let found = self.rows.iter_mut().find(|known| known.name == row);
        let row = match found {
            Some(found) => found,
            None => {
                let values = BTreeMap::new();
                self.rows.push(Row { name: row.to_owned(), unit, values });
                let last = self.rows.len() - 1;
                &mut self.rows[last]
            }
        };
        row.values.insert(runtime.to_owned(), value);
    }
}

/// Values of many rows and runtimes while they are gathered.
#[derive(Debug, Default)]
pub(crate) struct Gathered(Vec<(String, Unit, String, Vec<f64>)>);

impl Gathered {
    pub(crate) fn add(&mut self, row: &str, unit: Unit, runtime: &str, value: f64) {
        let known = self.0.iter_mut().find(|(r, _, who, _)| r == row && who == runtime);
        match known {
            Some((.., values)) => values.push(value),
            None => self.0.push((row.to_owned(), unit, runtime.to_owned(), vec![value])),
        }
    }

    /// Says the percentiles of everything.
    pub(crate) fn settle(self, table: &mut Table) {
        for (row, unit, runtime, values) in self.0 {
            if let Some(spread) = Spread::of(&values) {
                table.set(&row, unit, &runtime, spread);
            }
        }
    }
}
