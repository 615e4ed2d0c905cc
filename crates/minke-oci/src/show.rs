//! state, list and ps.

use std::io::{self, Write};
use std::process::Command;

use serde_json::Value;

use crate::cli::{self, Format};
use crate::container::Container;
use crate::create::Desk;
use crate::failure::Failure;

/// Prints a line to standard output.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    match writeln!(io::stdout(), "{text}") {
        // Whoever read it has seen enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::file("write to", "standard output")(error))
        }
        _ => Ok(()),
    }
}

/// The command state.
pub(crate) fn state(desk: Desk<'_>, flags: &cli::OfContainer) -> Result<(), Failure> {
    let summary = Container::load(desk.store, &flags.id)?.summary(desk.store)?;
    print(&format!("{summary:#}"))
}

/// The command list.
pub(crate) fn list(desk: Desk<'_>, flags: &cli::List) -> Result<(), Failure> {
    let mut all = Vec::new();
    for id in desk.store.ids()? {
        match Container::load(desk.store, &id).and_then(|container| container.summary(desk.store)) {
            Ok(summary) => all.push(summary),
            // Removed meanwhile, or not yet written down.
            Err(Failure::Unknown { .. }) => {}
            Err(failure) => desk.log.warn(&failure.line()),
        }
    }
    let text = |container: &Value, name: &str| match &container[name] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    if flags.quiet {
        return all.iter().try_for_each(|container| print(&text(container, "id")));
    }
    if flags.format == Format::Json {
        return print(&Value::Array(all).to_string());
    }
    let columns = ["id", "pid", "status", "bundle", "created", "owner"];
    let mut rows = vec![columns.map(str::to_ascii_uppercase)];
    rows.extend(all.iter().map(|container| columns.map(|name| text(container, name))));
    print(&table(&rows))
}

/// Columns as wide as what is in them.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let widest = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let lines = rows.iter().map(|row| {
        let cells = row.iter().enumerate();
        let cells = cells.map(|(column, cell)| format!("{cell:<0$}", widest(column)));
        cells.collect::<Vec<_>>().join("   ").trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The command ps.
pub(crate) fn ps(desk: Desk<'_>, flags: &cli::Ps) -> Result<(), Failure> {
    let container = Container::load(desk.store, &flags.id)?;
    let pids = match container.cgroup.processes() {
        Ok(pids) => pids.iter().map(|pid| pid.as_raw_nonzero().get()).collect::<Vec<_>>(),
        Err(error) if error.is_gone() => Vec::new(),
        Err(error) => return Err(Failure::cgroup(&flags.id, "read")(error)),
    };
    if flags.format == Format::Json {
        return print(&serde_json::json!(pids).to_string());
    }
    let default = ["-ef".to_owned()];
    let args: &[String] = if flags.args.is_empty() { &default } else { &flags.args };
    let ran = Command::new("ps").args(args).output();
    let output = ran.map_err(|source| Failure::Program { program: "ps", source })?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    let head = lines.next().unwrap_or_default();
    let Some(column) = head.split_whitespace().position(|title| title == "PID") else {
        return Err(Failure::Value {
            flag: "ps",
            value: args.join(" "),
            reason: "ps shows no column PID; ask for one".to_owned(),
        });
    };
    let ours = |line: &&str| {
        let number = line.split_whitespace().nth(column).and_then(|text| text.parse().ok());
        number.is_some_and(|number: i32| pids.contains(&number))
    };
    print(head)?;
    lines.filter(ours).try_for_each(print)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let row = |a: &str, b: &str| [a.to_owned(), b.to_owned()];
        let rows = [row("ID", "PID"), row("a-long-name", "1")];
        assert_eq!(table(&rows), "ID            PID\na-long-name   1");
    }
}
