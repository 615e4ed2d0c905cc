//! The CRI log format: `<RFC 3339 time with nanoseconds> stdout|stderr P|F <text>`.
//!
//! A line longer than 16 KiB is cut into parts, all but the last tagged `P`; so is what a process
//! leaves unfinished when it ends. The rest is `F`.

use std::io::BufRead;
use std::time::{SystemTime, UNIX_EPOCH};

/// The longest text of one log line.
pub(crate) const TEXT_MAX: usize = 16 * 1024;
/// The longest log line: time, stream, tag, text, newline.
pub(crate) const LINE_MAX: usize = TIME_LENGTH + " stdout F ".len() + TEXT_MAX + 1;

const TIME_LENGTH: usize = "2026-01-02T03:04:05.123456789Z".len();

/// Which output of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Channel {
    /// Standard output, or a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Channel {
    pub(crate) const BOTH: [Self; 2] = [Self::Stdout, Self::Stderr];

    /// Its place in an array of two.
    pub(crate) fn index(self) -> usize {
        self as usize
    }

    /// The channel of that place.
    pub(crate) fn of(index: u32) -> Self {
        if index & 1 == 0 { Self::Stdout } else { Self::Stderr }
    }

    fn name(self) -> &'static [u8] {
        match self {
            Self::Stdout => b" stdout ",
            Self::Stderr => b" stderr ",
        }
    }
}

/// A time as text. The date is worked out once a second.
#[derive(Debug)]
pub(crate) struct Clock {
    second: i64,
    text: [u8; TIME_LENGTH],
}

impl Clock {
    pub(crate) fn new() -> Self {
        let mut clock = Self { second: i64::MIN, text: *b"0000-00-00T00:00:00.000000000Z" };
        clock.set(0, 0);
        clock
    }

    /// Sets it to the wall clock.
    pub(crate) fn tick(&mut self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.set(i64::try_from(now.as_secs()).unwrap_or(0), now.subsec_nanos());
    }

    fn set(&mut self, second: i64, nanosecond: u32) {
        if second != self.second {
            self.second = second;
            let (year, month, day) = date(second.div_euclid(86_400));
            let of_day = second.rem_euclid(86_400) as u32;
            digits(&mut self.text[0..4], year);
            digits(&mut self.text[5..7], month);
            digits(&mut self.text[8..10], day);
            digits(&mut self.text[11..13], of_day / 3600);
            digits(&mut self.text[14..16], of_day / 60 % 60);
            digits(&mut self.text[17..19], of_day % 60);
        }
        digits(&mut self.text[20..29], nanosecond);
    }
}

fn digits(place: &mut [u8], mut number: u32) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar. Years are
/// counted from March, so that the leap day is a year's last.
fn date(day: i64) -> (u32, u32, u32) {
    const DAYS_IN_400_YEARS: i64 = 146_097;
    // 719468 days lie between 0000-03-01 and 1970-01-01.
    let day = day + 719_468;
    let era = day.div_euclid(DAYS_IN_400_YEARS);
    let of_era = day.rem_euclid(DAYS_IN_400_YEARS);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // The months from March on have 31, 30, 31, 30, 31 days, twice and a bit: 153 for each five.
    let month = (5 * of_year + 2) / 153;
    let day_of_month = of_year - (153 * month + 2) / 5 + 1;
    let (year, month) = match month {
        0..10 => (era * 400 + year_of_era, month + 3),
        _ => (era * 400 + year_of_era + 1, month - 9),
    };
    (year.clamp(0, 9999) as u32, month as u32, day_of_month as u32)
}

/// Cuts one channel's bytes into log lines.
#[derive(Debug)]
pub(crate) struct Lines {
    channel: Channel,
    /// The beginning of a line whose end has not come.
    begun: Vec<u8>,
}

impl Lines {
    pub(crate) fn new(channel: Channel) -> Self {
        Self { channel, begun: Vec::new() }
    }

    /// Takes bytes from the front of `text`, and adds lines to `out` as long as that is not longer
    /// than `limit`. Gives the number of lines.
    pub(crate) fn take(
        &mut self,
        text: &mut &[u8],
        clock: &Clock,
        out: &mut Vec<u8>,
        limit: usize,
    ) -> u64 {
        let mut count = 0;
        while !text.is_empty() && out.len() < limit {
            let room = TEXT_MAX - self.begun.len();
            let window = &text[..text.len().min(room + 1)];
            let mut rest = window;
            // Reading from a slice cannot fail.
            let length = rest.skip_until(b'\n').unwrap_or(window.len());
            let ends = window[..length].last() == Some(&b'\n');
            let (tag, taken) = match (ends, length > room) {
                (true, _) => (b'F', length - 1),
                (false, true) => (b'P', room),
                (false, false) => {
                    self.begun.extend_from_slice(window);
                    *text = &text[length..];
                    continue;
                }
            };
            self.write(tag, &window[..taken], clock, out);
            count += 1;
            *text = &text[taken + usize::from(ends)..];
        }
        count
    }

    /// Writes what was begun and will not be finished. Gives the number of lines.
    pub(crate) fn end(&mut self, clock: &Clock, out: &mut Vec<u8>) -> u64 {
        if self.begun.is_empty() {
            return 0;
        }
        self.write(b'P', b"", clock, out);
        1
    }

    fn write(&mut self, tag: u8, text: &[u8], clock: &Clock, out: &mut Vec<u8>) {
        out.extend_from_slice(&clock.text);
        out.extend_from_slice(self.channel.name());
        out.extend_from_slice(&[tag, b' ']);
        out.extend_from_slice(&self.begun);
        out.extend_from_slice(text);
        out.push(b'\n');
        if !self.begun.is_empty() {
            // Its memory is given back: most lines come whole.
            self.begun = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(chunks: &[&[u8]]) -> Vec<(char, usize, u8)> {
        let (mut lines, clock) = (Lines::new(Channel::Stderr), Clock::new());
        let mut out = Vec::new();
        let mut count = 0;
        for chunk in chunks {
            let mut text = *chunk;
            count += lines.take(&mut text, &clock, &mut out, usize::MAX);
            assert!(text.is_empty());
        }
        count += lines.end(&clock, &mut out);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.lines().count() as u64, count);
        text.lines()
            .map(|line| {
                let rest = line.strip_prefix("1970-01-01T00:00:00.000000000Z stderr ").unwrap();
                let (tag, text) = rest.split_once(' ').unwrap();
                (tag.parse().unwrap(), text.len(), text.bytes().next().unwrap_or(b'-'))
            })
            .collect()
    }

    #[test]
    fn lines_are_put_together_and_cut_at_sixteen_kilobytes() {
        assert_eq!(log(&[b"ab\n\ncd"]), [('F', 2, b'a'), ('F', 0, b'-'), ('P', 2, b'c')]);
        assert_eq!(log(&[b"a", b"b", b"\n"]), [('F', 2, b'a')]);
        let full = vec![b'x'; TEXT_MAX];
        // A line of exactly the limit is whole, one byte more makes two parts.
        assert_eq!(log(&[&full, b"\n"]), [('F', TEXT_MAX, b'x')]);
        assert_eq!(log(&[&full, b"y\n"]), [('P', TEXT_MAX, b'x'), ('F', 1, b'y')]);
        let long = vec![b'x'; 2 * TEXT_MAX + 5];
        let parts = [('P', TEXT_MAX, b'x'), ('P', TEXT_MAX, b'x'), ('P', 5, b'x')];
        assert_eq!(log(&[&long]), parts);
        assert_eq!(log(&[&long[..7], &long[7..TEXT_MAX + 9], &long[TEXT_MAX + 9..]]), parts);
    }

    #[test]
    fn a_limit_leaves_the_rest_of_the_text() {
        let (mut lines, clock) = (Lines::new(Channel::Stdout), Clock::new());
        let (mut out, mut text) = (Vec::new(), &b"\n\n\n\n"[..]);
        assert_eq!(lines.take(&mut text, &clock, &mut out, 50), 2);
        assert_eq!(text, b"\n\n");
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        for (second, text) in [
            (0, "1970-01-01T00:00:00"),
            (951_782_399, "2000-02-28T23:59:59"),
            (951_782_400, "2000-02-29T00:00:00"),
            (951_868_800, "2000-03-01T00:00:00"),
            (1_709_251_199, "2024-02-29T23:59:59"),
            (1_735_689_599, "2024-12-31T23:59:59"),
            (4_107_542_400, "2100-03-01T00:00:00"),
            (1_795_500_123, "2026-11-24T06:02:03"),
        ] {
            let mut clock = Clock::new();
            clock.set(second, 120_000_003);
            assert_eq!(clock.text, format!("{text}.120000003Z").as_bytes());
        }
    }
}
