//! `falconer disk`: what a coordination log would get from a disk, before it is trusted.
//!
//! ```text
//!   lanes ── interleaved slices ── latency per way and size      which way is best here
//!   flush ── writes with and without, counters of the device     does a flush do anything
//!   best lane, undisturbed ── latency over time                  does it stall
//!        └── Verdict ── text, JSON, one page of HTML
//! ```
//!
//! The ways take turns in slices of a fraction of a second, so that a disk that drifts (shared disks do, by
//! 20 % in a minute) drifts for all of them alike. All files lose their names before the first byte is
//! written: nothing can be left behind, also not by Ctrl-C.

pub(crate) mod facts;
mod lane;
mod page;
mod verdict;

use crate::render::{self, PERCENTILES, Progress, Table};
use facts::Facts;
use hdrhistogram::Histogram;
use lane::{Lane, Outcome, Runner, Space, Store, Way};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use verdict::Verdict;
use vfs::os::OsDir;
use vfs::{AlignedBuf, File};

/// Measure what a coordination log would get from the disk under a directory.
///
/// Writes to nameless files in DIR (about half a gigabyte by default), takes a bounded time and leaves
/// nothing behind. A server that runs on the same disk is disturbed while it lasts.
#[derive(clap::Args, Debug, Clone)]
#[command(after_help = "Examples:
  falconer disk /var/lib/zookeeper                    numbers, histogram and verdict in the terminal
  falconer disk /var/lib/zookeeper --html disk.html   and a page with pictures
  falconer disk /data --duration 5m                   look for rare stalls")]
pub struct Args {
    /// The directory where the log would be
    #[arg(value_name = "DIR", default_value = ".")]
    pub dir: PathBuf,
    /// How long to measure in all
    #[arg(short, long, default_value = "30s", value_parser = render::parse_duration)]
    pub duration: Duration,
    /// Bytes of each of the seven files that are written to
    #[arg(long, default_value = "64M", value_parser = render::parse_size)]
    pub file_size: u64,
    /// Write a page with pictures of the distribution and the timeline to this file
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

/// Why a disk can't be measured.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The directory can't be used.
    Dir {
        /// As given.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A write that worked before failed: the disk is full or broken.
    Write {
        /// What was going on.
        doing: String,
        /// Why.
        source: io::Error,
    },
    /// The page can't be written.
    Page {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Too little room for what was asked.
    Short(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Dir { path, source } => {
                write!(
                    f,
                    "can't measure in {}: {source}; name an existing directory that you may write to",
                    path.display()
                )
            }
            Error::Write { doing, source } if source.kind() == io::ErrorKind::StorageFull => {
                write!(f, "the disk is full ({doing}); --file-size takes less space")
            }
            Error::Write { doing, source } => {
                write!(f, "{doing} failed: {source}; a disk that fails writes must not hold a log")
            }
            Error::Page { path, source } => write!(f, "can't write {}: {source}", path.display()),
            Error::Short(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Dir { source, .. } | Error::Write { source, .. } | Error::Page { source, .. } => {
                Some(source)
            }
            Error::Short(_) => None,
        }
    }
}

/// One turn of a lane: long enough for some hundred commits on a slow disk, short against the disk's drift.
const SLICE: Duration = Duration::from_millis(120);
/// The share of the time that goes into the timeline.
const TIMELINE_SHARE: f64 = 0.3;
/// Below this a slice holds too little of anything.
const SHORTEST: Duration = Duration::from_secs(3);
/// Below this the largest sizes are left out.
const QUICK_BELOW: Duration = Duration::from_secs(12);
/// Points of the timeline.
const TIMELINE_POINTS: u64 = 200;
/// Commits longer than these are counted as stalls.
pub(crate) const STALLS: [Duration; 3] =
    [Duration::from_millis(10), Duration::from_millis(100), Duration::from_secs(1)];
/// Writes and flushes of the flush check.
const FLUSH_TRIES: usize = 200;
/// Unflushed bytes before a flush, to see whether it takes longer then.
const FLUSH_LOADS: [u64; 3] = [1 << 20, 16 << 20, 64 << 20];

/// What the flush check found, in ns.
#[derive(Debug)]
pub(crate) struct Flush {
    /// A direct 4 KiB write that is not flushed.
    pub write: u64,
    /// A flush with nothing to flush.
    pub empty: u64,
    /// A write followed by a flush.
    pub both: u64,
    /// A flush after so many bytes of unflushed direct writes.
    pub after: Vec<(u64, u64)>,
    /// How many flushes were asked for, and how many the device counted; `None` where it does not count.
    pub counted: Option<(u64, u64)>,
}

/// One point of the timeline.
#[derive(Debug)]
pub(crate) struct Point {
    /// Seconds from its start.
    pub at: f64,
    /// Commits in it.
    pub latency: Histogram<u64>,
}

/// The best lane over time.
#[derive(Debug)]
pub(crate) struct Timeline {
    pub lane: Lane,
    pub latency: Histogram<u64>,
    pub points: Vec<Point>,
    /// Commits longer than each of [`STALLS`].
    pub stalls: [u64; 3],
    pub busy: Duration,
}

/// All that was found.
#[derive(Debug)]
pub(crate) struct Findings {
    pub dir: PathBuf,
    pub facts: Facts,
    pub outcomes: Vec<Outcome>,
    pub flush: Option<Flush>,
    pub timeline: Timeline,
}

/// Measures, prints, and writes the page if asked.
///
/// # Errors
/// When the directory can't be used, or a write fails that worked before.
pub fn run(args: &Args) -> Result<(), Box<dyn std::error::Error>> {
    if args.duration < SHORTEST {
        return Err(Box::new(Error::Short(format!("--duration must be at least {} s", SHORTEST.as_secs()))));
    }
    if args.file_size < 4 << 20 {
        return Err(Box::new(Error::Short("--file-size must be at least 4M".into())));
    }
    let found = measure(args)?;
    let verdict = Verdict::of(&found);
    let text = match args.json {
        true => format!("{}\n", json(&found, &verdict)),
        false => text(&found, &verdict),
    };
    if let Some(path) = &args.html {
        std::fs::write(path, page::html(&found, &verdict))
            .map_err(|source| Error::Page { path: path.clone(), source })?;
    }
    io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

fn measure(args: &Args) -> Result<Findings, Error> {
    let at = |source| Error::Dir { path: args.dir.clone(), source };
    let dir = lane::open(&args.dir).map_err(at)?;
    let facts = Facts::of(&args.dir).map_err(at)?;
    let mut progress = Progress::new();
    let lanes = lane::lanes(args.duration < QUICK_BELOW);
    let mut stores: BTreeMap<(Space, bool), Result<Arc<Store>, String>> = BTreeMap::new();
    let mut runners = Vec::new();
    let mut outcomes = Vec::new();
    for (i, lane) in lanes.iter().enumerate() {
        progress.of("prepare files", i as u64, lanes.len() as u64);
        let (runner, refused) = match runner(&dir, *lane, args.file_size, &mut stores)? {
            Ok(runner) => (Some(runner), None),
            Err(why) => (None, Some(why)),
        };
        runners.push(runner);
        outcomes.push(Outcome { lane: *lane, latency: lane::commits(), busy: Duration::ZERO, refused });
    }
    let flush = flush_check(&dir, &facts)?;
    compare(args, &mut runners, &mut outcomes, &mut progress)?;
    let best = verdict::best(&outcomes).ok_or_else(|| Error::Short("no way to commit works here".into()))?;
    let runner = runners[best].as_mut().expect("the best lane was not refused");
    let timeline = timeline(args, runner, outcomes[best].lane, &mut progress)?;
    progress.clear();
    Ok(Findings { dir: args.dir.clone(), facts, outcomes, flush, timeline })
}

/// A lane on the store it shares with others; the inner error says why this way does not work here.
#[allow(clippy::type_complexity, reason = "a map of results, used here only")]
fn runner(
    dir: &OsDir,
    lane: Lane,
    len: u64,
    stores: &mut BTreeMap<(Space, bool), Result<Arc<Store>, String>>,
) -> Result<Result<Runner, String>, Error> {
    let direct = lane.way != Way::Buffered;
    let store = match stores.get(&(lane.space, direct)) {
        Some(store) => store.clone(),
        None => {
            let made = match Store::new(dir, lane.space, direct, len) {
                Ok(store) => Ok(Arc::new(store)),
                // Without direct I/O there are fewer ways; without space or permission there is nothing.
                Err(e) if direct && e.kind() == io::ErrorKind::InvalidInput => {
                    Err("direct I/O is refused by this file system".into())
                }
                Err(source) if source.kind() == io::ErrorKind::PermissionDenied => {
                    return Err(Error::Dir { path: vfs::Dir::path(dir).into(), source });
                }
                Err(source) => return Err(Error::Write { doing: "preparing a file".into(), source }),
            };
            stores.insert((lane.space, direct), made.clone());
            made
        }
    };
    Ok(store.and_then(|store| Runner::new(dir, lane, store).map_err(|e| e.to_string())))
}

/// All lanes in turns, until their share of the time is over.
fn compare(
    args: &Args,
    runners: &mut [Option<Runner>],
    outcomes: &mut [Outcome],
    progress: &mut Progress,
) -> Result<(), Error> {
    let whole = args.duration.mul_f64(1.0 - TIMELINE_SHARE);
    let working = runners.iter().flatten().count().max(1) as u32;
    // At least three turns each, so that no lane has all its bad luck at once.
    let slice = SLICE.min(whole / working / 3);
    let started = Instant::now();
    let mut round = 0;
    while started.elapsed() < whole {
        let n = runners.len();
        for k in 0..n {
            // Each round starts with another lane: none always follows the same neighbour.
            let i = (k + round) % n;
            let (Some(runner), outcome) = (&mut runners[i], &mut outcomes[i]) else { continue };
            progress.of("compare", started.elapsed().as_millis() as u64, args.duration.as_millis() as u64);
            let latency = &mut outcome.latency;
            let busy = runner
                .run(slice, |_, took| latency.saturating_record(took.as_nanos() as u64))
                .map_err(|source| Error::Write { doing: outcome.lane.to_string(), source })?;
            outcome.busy += busy;
        }
        round += 1;
    }
    Ok(())
}

fn timeline(
    args: &Args,
    runner: &mut Runner,
    lane: Lane,
    progress: &mut Progress,
) -> Result<Timeline, Error> {
    let whole = args.duration.mul_f64(TIMELINE_SHARE);
    let width = (whole.as_nanos() as u64 / TIMELINE_POINTS).max(1);
    let started = Instant::now();
    let mut t =
        Timeline { lane, latency: lane::commits(), points: Vec::new(), stalls: [0; 3], busy: Duration::ZERO };
    while started.elapsed() < whole {
        let done = args.duration - whole + started.elapsed();
        progress.of("timeline", done.as_millis() as u64, args.duration.as_millis() as u64);
        let slice = whole.saturating_sub(started.elapsed()).min(SLICE * 4);
        let (latency, points, stalls) = (&mut t.latency, &mut t.points, &mut t.stalls);
        t.busy += runner
            .run(slice, |now, took| {
                let ns = took.as_nanos() as u64;
                latency.saturating_record(ns);
                let point = (now - started).as_nanos() as u64 / width;
                let at = (point * width) as f64 / 1e9;
                if points.last().is_none_or(|p: &Point| p.at < at) {
                    points.push(Point { at, latency: lane::commits() });
                }
                points.last_mut().expect("just pushed").latency.saturating_record(ns);
                for (count, bound) in stalls.iter_mut().zip(STALLS) {
                    *count += u64::from(took > bound);
                }
            })
            .map_err(|source| Error::Write { doing: lane.to_string(), source })?;
    }
    Ok(t)
}

/// Whether a flush does anything: what it costs with and without data before it, and what the device counts.
fn flush_check(dir: &OsDir, facts: &Facts) -> Result<Option<Flush>, Error> {
    let failed = |source| Error::Write { doing: "the flush check".into(), source };
    // Through the page cache the cost of a flush can't be told from the cost of writing pages back.
    let Ok(file) = lane::nameless(dir, true) else { return Ok(None) };
    let mut chunk = AlignedBuf::zeroed(1 << 20);
    chunk.fill(0x3c);
    let largest = FLUSH_LOADS[FLUSH_LOADS.len() - 1];
    for at in (0..largest).step_by(chunk.len()) {
        file.write_at(&chunk, at).map_err(failed)?;
    }
    file.sync().map_err(failed)?;
    let median = |mut work: Box<dyn FnMut(u64) -> io::Result<()> + '_>| -> Result<u64, Error> {
        let mut times = Vec::with_capacity(FLUSH_TRIES);
        for i in 0..FLUSH_TRIES {
            let started = Instant::now();
            work((i * vfs::BLOCK) as u64).map_err(failed)?;
            times.push(started.elapsed().as_nanos() as u64);
        }
        times.sort_unstable();
        Ok(times[FLUSH_TRIES / 2])
    };
    let file: &dyn File = &*file;
    let block = &chunk[..vfs::BLOCK];
    let write = median(Box::new(|at| file.write_at(block, at)))?;
    file.sync().map_err(failed)?;
    let before = facts.flushes();
    let empty = median(Box::new(|_| file.sync()))?;
    let both = median(Box::new(|at| file.write_at(block, at).and_then(|()| file.sync())))?;
    let counted = facts.flushes().zip(before).map(|(after, before)| (2 * FLUSH_TRIES as u64, after - before));
    let mut after = Vec::new();
    for load in FLUSH_LOADS {
        for at in (0..load).step_by(chunk.len()) {
            file.write_at(&chunk, at).map_err(failed)?;
        }
        let started = Instant::now();
        file.sync().map_err(failed)?;
        after.push((load, started.elapsed().as_nanos() as u64));
    }
    Ok(Some(Flush { write, empty, both, after, counted }))
}

fn text(found: &Findings, verdict: &Verdict) -> String {
    let mut out = format!("{}\n{}\n", found.dir.display(), found.facts.line());
    let mut size = 0;
    let mut table = Table::default();
    let titles = || {
        ["commit", "per second"].into_iter().chain(PERCENTILES.map(|p| p.0)).chain(["max"]).map(String::from)
    };
    for o in &found.outcomes {
        if o.lane.size != size {
            if size != 0 {
                out += &format!("\n{} per commit\n{}", render::bytes(size as u64), table.text());
            }
            size = o.lane.size;
            table = Table::new(titles());
        }
        match &o.refused {
            Some(why) => table.row([o.lane.to_string(), format!("refused: {why}")]),
            None => table.row(
                [o.lane.to_string(), render::grouped(o.rate() as u64)]
                    .into_iter()
                    .chain(PERCENTILES.map(|p| render::nanos(o.at(p.1))))
                    .chain([render::nanos(o.latency.max())]),
            ),
        }
    }
    out += &format!("\n{} per commit\n{}", render::bytes(size as u64), table.text());
    if let Some(f) = &found.flush {
        out += &format!(
            "\nflush\n  4 KiB write {}, flush alone {}, write and flush {}\n  flush after unflushed writes: {}\n",
            render::nanos(f.write),
            render::nanos(f.empty),
            render::nanos(f.both),
            f.after
                .iter()
                .map(|(n, ns)| format!("{} of {}", render::nanos(*ns), render::bytes(*n)))
                .collect::<Vec<_>>()
                .join(", ")
        );
        if let Some((asked, seen)) = f.counted {
            out += &format!("  {asked} flushes asked for, {seen} counted by the device\n");
        }
    }
    let t = &found.timeline;
    out += &format!(
        "\n{}, {} in {}\n{}",
        t.lane,
        render::bytes(t.lane.size as u64),
        render::nanos(t.busy.as_nanos() as u64),
        render::histogram(&t.latency, 40)
    );
    out += &format!("\n  over time (slowest commit per column)\n  {}\n", sparkline(t));
    out += "\nverdict\n";
    for line in &verdict.words {
        out += &format!("  {line}\n");
    }
    out += "\nsuggested configuration\n";
    for line in &verdict.configuration {
        out += &format!("  {line}\n");
    }
    out
}

/// The slowest commit of each of some sixty stretches of the timeline, as blocks on a logarithmic scale.
fn sparkline(t: &Timeline) -> String {
    const COLUMNS: usize = 64;
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let each = t.points.len().div_ceil(COLUMNS).max(1);
    let worst: Vec<f64> = t
        .points
        .chunks(each)
        .map(|points| points.iter().map(|p| p.latency.max()).max().unwrap_or(0).max(1) as f64)
        .collect();
    let (low, high) = worst.iter().fold((f64::MAX, f64::MIN), |(a, b), v| (a.min(*v), b.max(*v)));
    let span = (high / low).ln().max(1e-9);
    let line: String =
        worst.iter().map(|v| BLOCKS[(((v / low).ln() / span * 7.0).round() as usize).min(7)]).collect();
    format!("{line}  {} … {}", render::nanos(low as u64), render::nanos(high as u64))
}

fn numbers(h: &Histogram<u64>, busy: Duration) -> Value {
    let mut out = json!({
        "commits": h.len(),
        "per_s": h.len() as f64 / busy.as_secs_f64().max(1e-9),
        "mean_ns": h.mean(),
        "max_ns": h.max(),
    });
    for (name, p) in PERCENTILES {
        out[format!("{name}_ns")] = json!(h.value_at_quantile(p / 100.0));
    }
    out
}

fn json(found: &Findings, verdict: &Verdict) -> Value {
    let lanes: Vec<Value> = found
        .outcomes
        .iter()
        .map(|o| {
            let mut v = numbers(&o.latency, o.busy);
            v["lane"] = json!(o.lane.to_string());
            v["size"] = json!(o.lane.size);
            v["refused"] = json!(o.refused);
            v
        })
        .collect();
    let t = &found.timeline;
    let points: Vec<Value> = t
        .points
        .iter()
        .map(|p| {
            json!({"at_s": p.at, "commits": p.latency.len(), "p50_ns": p.latency.value_at_quantile(0.5),
                   "p99_ns": p.latency.value_at_quantile(0.99), "max_ns": p.latency.max()})
        })
        .collect();
    let facts = &found.facts;
    json!({
        "dir": found.dir.display().to_string(),
        "disk": {
            "file_system": facts.file_system, "source": facts.source, "options": facts.options,
            "kernel": facts.kernel, "write_cache": facts.write_cache, "fua": facts.fua,
            "rotational": facts.rotational, "scheduler": facts.scheduler, "model": facts.model,
        },
        "lanes": lanes,
        "flush": found.flush.as_ref().map(|f| json!({
            "write_ns": f.write, "flush_ns": f.empty, "write_and_flush_ns": f.both,
            "after_bytes_ns": f.after,
            "asked": f.counted.map(|c| c.0), "counted_by_device": f.counted.map(|c| c.1),
        })),
        "timeline": {
            "lane": t.lane.to_string(), "size": t.lane.size, "all": numbers(&t.latency, t.busy), "points": points,
            "stalls": STALLS.iter().zip(t.stalls).map(|(d, n)| json!({"longer_than_s": d.as_secs_f64(), "commits": n})).collect::<Vec<_>>(),
        },
        "verdict": {"grade": verdict.grade.word(), "words": verdict.words, "configuration": verdict.configuration},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_measurement_finds_all_of_it_and_leaves_nothing() {
        let dir = std::env::temp_dir().join(format!("falconer-disk-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let args = Args {
            dir: dir.clone(),
            duration: Duration::from_millis(600),
            file_size: 1 << 20,
            html: None,
            json: false,
        };
        let found = measure(&args).unwrap();
        assert!(std::fs::read_dir(&dir).unwrap().next().is_none());
        std::fs::remove_dir(&dir).unwrap();
        let verdict = Verdict::of(&found);
        let (text, json, page) =
            (text(&found, &verdict), json(&found, &verdict), page::html(&found, &verdict));
        for o in &found.outcomes {
            assert!(text.contains(&o.lane.to_string()));
            assert!(o.refused.is_some() || !o.latency.is_empty(), "{}", o.lane);
        }
        assert_eq!(json["lanes"].as_array().unwrap().len(), found.outcomes.len());
        assert!(
            page.contains("<svg") && !page.contains("http://")
                || page.matches("http://www.w3.org/2000/svg").count() == page.matches("http://").count()
        );
        assert!(!verdict.words.is_empty() && !verdict.configuration.is_empty());
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let args = Args {
            dir: "/nonexistent/falconer".into(),
            duration: SHORTEST,
            file_size: 64 << 20,
            html: None,
            json: false,
        };
        let error = run(&args).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/falconer") && error.contains("existing directory"), "{error}");
    }
}
