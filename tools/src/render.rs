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

/// A moment in wall-clock ms since 1970 as `2026-11-20T12:03:04.567Z`.
pub fn time(ms: i64) -> String {
    let (days, in_day) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000));
    let (year, month, day) = civil(days);
    let (h, m, s, ms) = (in_day / 3_600_000, in_day / 60_000 % 60, in_day / 1000 % 60, in_day % 1000);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{ms:03}Z")
}

/// A moment as people type it: `2026-11-20`, `2026-11-20T12:03`, `2026-11-20T12:03:04.567Z` (all UTC), or ms
/// since 1970. Returns ms since 1970.
///
/// # Errors
/// When the text is none of these, with the reason in words.
pub fn parse_time(text: &str) -> Result<i64, String> {
    if let Ok(ms) = text.parse::<i64>() {
        return Ok(ms);
    }
    let wrong = || format!("'{text}' is no time: write 2026-11-20T12:03:04Z (UTC) or ms since 1970");
    let (date, clock) = text.trim_end_matches('Z').split_once(['T', ' ']).unwrap_or((text, "00:00"));
    let numbers =
        |text: &str, by: char| -> Option<Vec<i64>> { text.split(by).map(|n| n.parse().ok()).collect() };
    let date = numbers(date, '-').filter(|d| d.len() == 3).ok_or_else(wrong)?;
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let clock = numbers(clock, ':').filter(|c| (2..=3).contains(&c.len())).ok_or_else(wrong)?;
    let ms: i64 = format!("{fraction:0<3}")[..3].parse().map_err(|_| wrong())?;
    let seconds = clock[0] * 3600 + clock[1] * 60 + clock.get(2).copied().unwrap_or(0);
    let days = days(date[0], date[1], date[2]);
    match civil(days) == (date[0], date[1], date[2]) && clock[0] < 24 {
        true => Ok((days * 86_400 + seconds) * 1000 + ms),
        false => Err(wrong()),
    }
}

/// Year, month and day of a day since 1970 (H. Hinnant, "chrono-compatible low-level date algorithms").
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i64::from(month <= 2), month, doy - (153 * mp + 2) / 5 + 1)
}

/// The day since 1970 of a date; the inverse of [`civil`].
fn days(year: i64, month: i64, day: i64) -> i64 {
    let y = year - i64::from(month <= 2);
    let (era, yoe) = (y.div_euclid(400), y.rem_euclid(400));
    let doy = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468
}

/// A zxid or session as people type it: hexadecimal with `0x`, else decimal.
///
/// # Errors
/// When the text is no such number, with the reason in words.
pub fn parse_number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("'{text}' is no number: write 0x1f4 or 500"))
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
    fn times_go_both_ways() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(1_795_171_782_254), "2026-11-20T10:49:42.254Z");
        assert_eq!(time(-1), "1969-12-31T23:59:59.999Z");
        for ms in [0, 951_782_400_000, 1_795_171_782_254, -62_135_596_800_000] {
            assert_eq!(parse_time(&time(ms)), Ok(ms));
        }
        assert_eq!(parse_time("2024-02-29"), Ok(1_709_164_800_000));
        assert!(parse_time("2023-02-29").is_err() && parse_time("yesterday").is_err());
        assert_eq!(parse_number("0x1f4"), Ok(500));
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
