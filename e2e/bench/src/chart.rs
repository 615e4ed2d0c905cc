//! The results as a picture: a pair of bars for each of the rows that matter most.

use std::fmt::Write as _;

use crate::results::Results;
use crate::table::{circumstances, number, ratio};

/// The rows that are drawn.
const ROWS: [&str; 9] = [
    "pod ready",
    "RunPodSandbox",
    "CreateContainer + StartContainer",
    "ExecSync /bin/true",
    "StopContainer(0)",
    "StopPodSandbox",
    "whole pod gone",
    "CPU time per pod started, 10 in flight",
    "PSS per idle pod, 30 pods",
];
const COLOURS: [&str; 4] = ["#0b7285", "#ced4da", "#adb5bd", "#868e96"];
const LEFT: f64 = 250.0;
const WIDTH: f64 = 420.0;
const BAR: f64 = 13.0;
const GAP: f64 = 14.0;

/// Bars on a logarithmic scale: the runtimes are too far apart for another.
pub(crate) fn svg(results: &Results) -> String {
    let rows: Vec<_> = ROWS
        .iter()
        .filter_map(|name| results.pods.rows.iter().find(|row| row.name == *name))
        .collect();
    let shown: Vec<&String> = results.pods.runtimes.iter().take(COLOURS.len()).collect();
    let ours = results.pods.runtimes.first().map_or("", String::as_str);
    let mut body = String::new();
    let mut top = 56.0;
    for row in rows {
        let values = shown.iter().filter_map(|name| row.values.get(*name)).map(|value| value.p50);
        let low = values.clone().fold(f64::INFINITY, f64::min) / 2.0;
        let high = values.fold(0.0, f64::max);
        let _ = writeln!(
            body,
            r#"<text x="{:.0}" y="{:.0}" text-anchor="end">{}</text>"#,
            LEFT - 10.0,
            top + BAR,
            row.name
        );
        for (name, colour) in shown.iter().zip(COLOURS) {
            let Some(value) = row.values.get(*name).map(|value| value.p50) else { continue };
            let length = (value / low).ln() / (high / low).ln() * WIDTH;
            let times = ratio(row, ours, name).filter(|_| *name != ours);
            let times = times.map_or(String::new(), |times| format!(" ({}x)", number(times)));
            let _ = writeln!(
                body,
                r#"<rect x="{LEFT:.0}" y="{top:.0}" width="{length:.1}" height="{BAR:.0}" fill="{colour}"/>"#
            );
            let _ = writeln!(
                body,
                r#"<text x="{:.0}" y="{:.0}">{} {}{times}</text>"#,
                LEFT + length + 6.0,
                top + BAR - 2.0,
                number(value),
                row.unit.symbol()
            );
            top += BAR + 2.0;
        }
        top += GAP;
    }
    let mut legend = String::new();
    for (number, (name, colour)) in shown.iter().zip(COLOURS).enumerate() {
        let x = LEFT + 130.0 * number as f64;
        let _ = writeln!(
            legend,
            r#"<rect x="{x:.0}" y="24" width="12" height="12" fill="{colour}"/><text x="{:.0}" y="35">{name}</text>"#,
            x + 18.0
        );
    }
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="860" height="{:.0}" font-family="sans-serif" font-size="12" fill="#495057">
<rect width="100%" height="100%" fill="#ffffff"/>
{legend}{body}<text x="10" y="{:.0}" font-size="9">Medians, logarithmic, shorter is better. {}</text>
</svg>
"##,
        top + 24.0,
        top + 12.0,
        circumstances(results)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::{Table, Unit};
    use crate::sample::Spread;

    #[test]
    fn a_row_gets_a_bar_for_each_runtime_that_has_a_value() {
        let runtimes = vec!["ours".into(), "theirs".into(), "floor".into()];
        let pods = Table { runtimes, ..Table::default() };
        let mut results = Results { pods, ..Results::default() };
        results.pods.set("pod ready", Unit::Milliseconds, "ours", Spread::once(5.0));
        results.pods.set("pod ready", Unit::Milliseconds, "theirs", Spread::once(100.0));
        results.pods.set("of no interest", Unit::Milliseconds, "ours", Spread::once(1.0));
        let svg = svg(&results);
        assert!(svg.contains("100 ms (20.0x)") && svg.contains(">5.00 ms<"), "{svg}");
        assert_eq!(svg.matches("<rect x=\"250\"").count(), 3, "two bars, one in the legend");
        assert!(!svg.contains("interest"));
    }
}
