//! The results for people: a table with ratios.

use std::fmt::Write as _;

use crate::floor;
use crate::results::{Results, Row, Table};
use crate::sample::Spread;

/// A number as short as it still says something.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        small if small >= 0.01 || small == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

/// How many times better the first runtime is than the other, by the medians.
pub(crate) fn ratio(row: &Row, ours: &str, theirs: &str) -> Option<f64> {
    let (ours, theirs) = (row.values.get(ours)?.p50, row.values.get(theirs)?.p50);
    let (better, worse) = if row.unit.more_is_better() { (theirs, ours) } else { (ours, theirs) };
    (better > 0.0 && worse > 0.0).then(|| worse / better)
}

fn spread(value: Option<&Spread>) -> String {
    match value {
        None => "-".to_owned(),
        Some(one) if one.count == 1 => number(one.p50),
        Some(s) => format!("{} / {} / {}", number(s.p50), number(s.p90), number(s.p99)),
    }
}

/// Whom ours is held against: everyone but itself and the floor.
fn others(table: &Table) -> Vec<&String> {
    table.runtimes.iter().skip(1).filter(|name| *name != floor::NAME).collect()
}

/// A heading and lines of cells: p50 / p90 / p99, then ratios of the medians.
fn cells(table: &Table) -> Vec<Vec<String>> {
    let Some(ours) = table.runtimes.first() else { return Vec::new() };
    let others = others(table);
    let mut lines = vec![vec!["p50 / p90 / p99".to_owned(), String::new()]];
    lines[0].extend(table.runtimes.iter().cloned());
    lines[0].extend(others.iter().map(|name| format!("{name} : {ours}")));
    for row in &table.rows {
        let mut line = vec![row.name.clone(), row.unit.symbol().to_owned()];
        line.extend(table.runtimes.iter().map(|name| spread(row.values.get(name))));
        line.extend(others.iter().map(|name| {
            ratio(row, ours, name).map_or("-".to_owned(), |ratio| format!("{}x", number(ratio)))
        }));
        lines.push(line);
    }
    lines
}

/// Who was measured, and where.
pub(crate) fn circumstances(results: &Results) -> String {
    let machine = &results.machine;
    let versions: Vec<String> =
        results.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
    format!(
        "{}: {} x {}, {} GiB, Linux {}, cgroup {}; {}; load average {}",
        machine.date,
        machine.processors,
        machine.processor,
        machine.memory_gib,
        machine.kernel,
        machine.cgroups,
        versions.join(", "),
        machine.load.join(" before, ") + " after",
    )
}

fn notes(results: &Results) -> String {
    results.notes.iter().map(|note| format!("\n{note}\n")).collect()
}

/// The tables that have rows.
fn tables(results: &Results) -> impl Iterator<Item = Vec<Vec<String>>> {
    [&results.pods, &results.bundles].into_iter().filter(|table| !table.rows.is_empty()).map(cells)
}

/// For a terminal.
pub(crate) fn text(results: &Results) -> String {
    let mut text = format!("{}\n", circumstances(results));
    for lines in tables(results) {
        let columns = lines.first().map_or(0, Vec::len);
        let width = |column: usize| {
            lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        text.push('\n');
        for line in &lines {
            let padded: Vec<String> =
                line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            let _ = writeln!(text, "{}", padded.join("  ").trim_end());
        }
    }
    text + &notes(results)
}

/// For a README.
pub(crate) fn markdown(results: &Results) -> String {
    let mut text = format!("{}\n", circumstances(results));
    for lines in tables(results) {
        text.push('\n');
        for (number, line) in lines.iter().enumerate() {
            let _ = writeln!(text, "| {} |", line.join(" | "));
            if number == 0 {
                let _ = writeln!(text, "|{}", "---|".repeat(line.len()));
            }
        }
    }
    text + &notes(results)
}
