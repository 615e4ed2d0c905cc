//! Tells the story: a line per step, with its time; live on a terminal, plain in a pipe.

use std::future::Future;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// Writes the story to standard output.
#[derive(Debug)]
pub(crate) struct Narrator {
    terminal: bool,
    colour: bool,
    width: usize,
    begun: Instant,
}

const SPINNER: [&str; 8] = ["⠋", "⠙", "⠸", "⢰", "⣠", "⣄", "⡆", "⠇"];
const BOLD: &str = "1";
const DIM: &str = "2";
const GREEN: &str = "32";
const RED: &str = "31";
const CYAN: &str = "36";

impl Narrator {
    /// Looks at what standard output is: the width of a terminal, and whether colour is wanted
    /// (no-color.org).
    pub(crate) fn new() -> Self {
        let out = io::stdout();
        let terminal = out.is_terminal() && std::env::var_os("TERM").is_none_or(|t| t != "dumb");
        let size = rustix::termios::tcgetwinsize(&out).ok().map(|size| usize::from(size.ws_col));
        Self {
            terminal,
            colour: terminal && std::env::var_os("NO_COLOR").is_none(),
            width: size.filter(|columns| *columns >= 40).unwrap_or(100).min(120),
            begun: Instant::now(),
        }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn put(text: &str) {
        let mut out = io::stdout().lock();
        // Nobody reads a closed pipe; the demo still has to clean up.
        let _ = out.write_all(text.as_bytes());
        let _ = out.flush();
    }

    /// The head of the story.
    pub(crate) fn title(&self, text: &str, below: &str) {
        Self::put(&format!("\n{}\n{}\n\n", self.paint(BOLD, text), self.paint(DIM, below)));
    }

    /// Runs one step: shows that it is under way, then how long it took and what came of it.
    ///
    /// # Errors
    /// Those of the step, which is shown as failed.
    pub(crate) async fn step<T, E>(
        &self,
        what: &str,
        work: impl Future<Output = Result<(T, String), E>>,
    ) -> Result<T, E> {
        let start = Instant::now();
        let mut work = std::pin::pin!(work);
        let mut frame = 0;
        let outcome = loop {
            let tick = tokio::time::sleep(Duration::from_millis(80));
            tokio::select! {
                outcome = &mut work => break outcome,
                () = tick, if self.terminal => {
                    let spinner = self.paint(CYAN, SPINNER[frame % SPINNER.len()]);
                    Self::put(&format!("\r\x1b[K  {spinner} {what}"));
                    frame += 1;
                }
            }
        };
        let time = millis(start.elapsed());
        if self.terminal {
            Self::put("\r\x1b[K");
        }
        match outcome {
            Ok((value, result)) => {
                self.line(GREEN, "✓", what, &time, &result);
                Ok(value)
            }
            Err(error) => {
                self.line(RED, "✗", what, &time, "failed");
                Err(error)
            }
        }
    }

    fn line(&self, code: &str, mark: &str, what: &str, time: &str, result: &str) {
        let mark = if self.terminal {
            mark
        } else if mark == "✓" {
            "ok    "
        } else {
            "FAILED"
        };
        let room = self.width.saturating_sub(what.chars().count().max(34) + 18);
        let mut lines = result.lines();
        let first = cut(lines.next().unwrap_or_default(), room);
        Self::put(&format!(
            "  {} {what:<34} {}  {first}\n",
            self.paint(code, mark),
            self.paint(DIM, &format!("{time:>10}")),
        ));
        for line in lines {
            let line = cut(line, self.width.saturating_sub(6));
            Self::put(&format!("      {}\n", self.paint(DIM, &line)));
        }
    }

    /// The last words: how long it all took, and what is left.
    pub(crate) fn end(&self, good: bool, text: &str) {
        let time = millis(self.begun.elapsed());
        let text = self.paint(if good { GREEN } else { RED }, text);
        Self::put(&format!("\n{text}  {}\n\n", self.paint(DIM, &format!("({time} in all)"))));
    }
}

fn millis(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1000.0;
    if ms < 10_000.0 { format!("{ms:.1} ms") } else { format!("{:.1} s", ms / 1000.0) }
}

/// The text, or its beginning and an ellipsis where it is longer than `room`.
fn cut(text: &str, room: usize) -> String {
    if text.chars().count() <= room {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(room.saturating_sub(1)).collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_results_are_cut_to_the_width() {
        assert_eq!(cut("short", 10), "short");
        assert_eq!(cut("longer than that", 7), "longer…");
        assert_eq!(millis(Duration::from_micros(1234)), "1.2 ms");
        assert_eq!(millis(Duration::from_secs(12)), "12.0 s");
    }
}
