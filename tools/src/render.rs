//! What goes to a terminal: quantities in words, tables, bars, progress. Nothing here knows what it shows.

use hdrhistogram::Histogram;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// The percentiles that every report of this program names, with their column titles.
pub const PERCENTILES: [(&str, f64); 5] =
    [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9), ("p99.99", 99.99)];

/// Nanoseconds with three digits and a unit: `81.2 µs`.
pub fn nanos(ns: u64) -> String {
    let (value, unit) = match ns {
        0..1_000 => return format!("{ns} ns"),
        1_000..1_000_000 => (ns as f64 / 1e3, "µs"),
        1_000_000..1_000_000_000 => (ns as f64 / 1e6, "ms"),
        _ => (ns as f64 / 1e9, "s"),
    };
    format!("{} {unit}", three_digits(value))
}

/// A number with three significant digits, never in exponent form.
pub fn three_digits(value: f64) -> String {
    match value.abs() {
        v if v >= 99.95 => format!("{value:.0}"),
        v if v >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// A whole number with thousands separators: `1,234,567`.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// Bytes in binary units: `64.0 MiB`.
pub fn bytes(n: u64) -> String {
    let mut value = n as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{n} B") } else { format!("{} {unit}", three_digits(value)) };
        }
        value /= 1024.0;
    }
    format!("{} TiB", three_digits(value))
}

/// A quantity as people type it: `4096`, `4k`, `1M`, `2GiB` (binary units; `k`, `M`, `G`).
///
/// # Errors
/// When the text is no number with such a unit, with the reason in words.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let number: u64 = number.parse().map_err(|_| format!("'{text}' does not start with a number"))?;
    let shift = match unit.trim().to_ascii_lowercase().trim_end_matches("ib").trim_end_matches('b') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        _ => return Err(format!("'{unit}' is no unit of size: use k, M or G")),
    };
    number.checked_mul(1 << shift).ok_or_else(|| format!("'{text}' is too large"))
}

/// A duration as people type it: `10` and `10s` are seconds, also `250ms`, `2m`, `1h`.
///
/// # Errors
/// When the text is no number with such a unit, with the reason in words.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let number: f64 = number.parse().map_err(|_| format!("'{text}' does not start with a number"))?;
    let seconds = number
        * match unit.trim() {
            "us" => 1e-6,
            "ms" => 1e-3,
            "" | "s" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            _ => return Err(format!("'{unit}' is no unit of time: use us, ms, s, m or h")),
        };
    Duration::try_from_secs_f64(seconds).map_err(|_| format!("'{text}' is too long"))
}

/// A table: the first column is aligned left, the others right.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these column titles.
    pub fn new<S: Into<String>>(titles: impl IntoIterator<Item = S>) -> Table {
        Table { rows: vec![titles.into_iter().map(Into::into).collect()] }
    }

    /// Adds a row; it may be shorter than the titles.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// The table as text, each line indented by two spaces.
    pub fn text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |c: usize| {
            self.rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut out = String::new();
        for row in &self.rows {
            let mut line = String::from(" ");
            for (c, cell) in row.iter().enumerate() {
                let pad = " ".repeat(widths[c] - cell.chars().count());
                line += &if c == 0 { format!(" {cell}{pad}") } else { format!("  {pad}{cell}") };
            }
            out += line.trim_end();
            out.push('\n');
        }
        out
    }
}

/// A bar of `share` (0 to 1) of `width` characters, drawn in eighths.
pub fn bar(share: f64, width: usize) -> String {
    let eighths = (share.clamp(0.0, 1.0) * width as f64 * 8.0).round() as usize;
    let mut out = "█".repeat(eighths / 8);
    if !eighths.is_multiple_of(8) {
        out.push(['▏', '▎', '▍', '▌', '▋', '▊', '▉'][eighths % 8 - 1]);
    }
    out
}

/// The classes of a latency histogram that matter: log-spaced (1, 1.5, 2, 3, 5, 7 × powers of ten), from the
/// first to the last that hold anything: (from ns, to ns, count).
pub fn classes(h: &Histogram<u64>) -> Vec<(u64, u64, u64)> {
    let mut edges = vec![0_u64];
    let mut power = 1_000_u64; // One microsecond: nothing here is faster.
    while power < 1_000_000_000_000 {
        edges.extend([power, power / 2 * 3, power * 2, power * 3, power * 5, power * 7]);
        power *= 10;
    }
    let mut counts = vec![0_u64; edges.len()];
    for v in h.iter_recorded() {
        let class = edges.partition_point(|e| *e <= v.value_iterated_to()) - 1;
        counts[class] += v.count_at_value();
    }
    let first = counts.iter().position(|c| *c > 0).unwrap_or(0);
    let last = counts.iter().rposition(|c| *c > 0).map_or(first, |l| l + 1);
    (first..last).map(|i| (edges[i], edges.get(i + 1).copied().unwrap_or(u64::MAX), counts[i])).collect()
}

/// A histogram as lines of text: class, bar, share. Classes that hold less than one in ten thousand but
/// something are shown as a dot, so that the tail stays visible.
pub fn histogram(h: &Histogram<u64>, width: usize) -> String {
    let classes = classes(h);
    let largest = classes.iter().map(|c| c.2).max().unwrap_or(0).max(1);
    let mut table = String::new();
    for (from, to, count) in &classes {
        let share = *count as f64 / h.len().max(1) as f64;
        let mut drawn = bar(*count as f64 / largest as f64, width);
        if drawn.is_empty() && *count > 0 {
            drawn.push('·');
        }
        let percent = match share * 100.0 {
            0.0 => String::new(),
            p if p < 0.01 => format!("{count} of {}", grouped(h.len())),
            p => format!("{p:.2} %"),
        };
        table += &format!(
            "  {:>9} – {:>9}  {drawn}{} {percent}\n",
            nanos(*from),
            nanos(*to),
            " ".repeat(width - drawn.chars().count())
        );
    }
    table
}

/// One line on standard error that is rewritten in place. Silent when standard error is no terminal.
#[derive(Debug)]
pub struct Progress {
    shown: bool,
    active: bool,
    started: Instant,
    last: Option<Instant>,
}

/// How often the line changes: often enough to look alive, seldom enough to cost nothing.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

impl Default for Progress {
    fn default() -> Progress {
        Progress::new()
    }
}

impl Progress {
    /// A progress line, if standard error is a terminal.
    pub fn new() -> Progress {
        Progress {
            shown: false,
            active: std::io::stderr().is_terminal(),
            started: Instant::now(),
            last: None,
        }
    }

    /// Shows how much of a known whole is done, with the time that is left at this pace.
    pub fn of(&mut self, what: &str, done: u64, whole: u64) {
        if !self.due() {
            return;
        }
        let share = if whole == 0 { 1.0 } else { done as f64 / whole as f64 };
        let elapsed = self.started.elapsed().as_secs_f64();
        let left = match share {
            s if s > 0.02 => format!(", {:.0} s left", elapsed / s - elapsed),
            _ => String::new(),
        };
        self.line(&format!("{what} [{:<24}] {:>3.0} %{left}", bar(share, 24), share * 100.0));
    }

    /// Shows a text, for work whose end is not known.
    pub fn note(&mut self, text: impl FnOnce() -> String) {
        if self.due() {
            self.line(&text());
        }
    }

    /// Removes the line.
    pub fn clear(&mut self) {
        if self.shown {
            // A lost terminal is no reason to fail.
            let _ = write!(std::io::stderr(), "\r\x1b[K");
            self.shown = false;
        }
    }

    fn due(&mut self) -> bool {
        let now = Instant::now();
        let due = self.active && self.last.is_none_or(|l| now - l >= PROGRESS_EVERY);
        if due {
            self.last = Some(now);
        }
        due
    }

    fn line(&mut self, text: &str) {
        let _ = write!(std::io::stderr(), "\r\x1b[K{text}");
        let _ = std::io::stderr().flush();
        self.shown = true;
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_read_as_people_write_them() {
        assert_eq!(nanos(999), "999 ns");
        assert_eq!(nanos(81_234), "81.2 µs");
        assert_eq!(nanos(99_960_000), "100 ms");
        assert_eq!(nanos(1_500_000_000), "1.50 s");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(grouped(123), "123");
        assert_eq!(bytes(64 << 20), "64.0 MiB");
        assert_eq!(parse_size("4k"), Ok(4096));
        assert_eq!(parse_size("2GiB"), Ok(2 << 30));
        assert!(parse_size("4x").is_err() && parse_size("k").is_err());
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("10"), Ok(Duration::from_secs(10)));
        assert!(parse_duration("3 weeks").is_err());
    }

    #[test]
    fn columns_line_up() {
        let mut t = Table::new(["op", "n"]);
        t.row(["µs", "1,000"]);
        assert_eq!(t.text(), "  op      n\n  µs  1,000\n");
    }

    #[test]
    fn classes_hold_every_value_once() {
        let mut h = Histogram::<u64>::new_with_bounds(1, 1_000_000_000_000, 3).unwrap();
        for v in [900, 80_000, 81_000, 2_500_000, 700_000_000] {
            h.record(v).unwrap();
        }
        let c = classes(&h);
        assert_eq!(c.iter().map(|c| c.2).sum::<u64>(), 5);
        assert_eq!((c[0].0, c[0].1), (0, 1_000));
        assert_eq!(bar(0.5, 3), "█▌");
    }
}
