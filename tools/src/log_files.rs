//! `falconer log`: looks into logs, Falconer's and Apache's alike. Never writes to what it reads.
//!
//! ```text
//!   place::log ── each batch, each record, whatever the format ── list | dump | verify | stat
//! ```
//!
//! A damaged log is shown up to its damage; then the damage is named with file, offset and last good zxid. Beside
//! a running server the last batch may be half written: that is a torn tail, not damage.

use crate::place::{self, LogPlace};
use crate::render::{self, Progress, Table};
use crate::txn::{self, Filter};
use crate::{Out, Outcome};
use hdrhistogram::Histogram;
use proto::Zxid;
use proto::jute::DecodeError;
use proto::txn::Record;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::ControlFlow;
use std::path::PathBuf;
use wal::{BatchInfo, Reader, apache};

/// Look into transaction logs, Falconer's and Apache's alike.
///
/// DIR is a data directory, its log or version-2 folder, or one log file of Apache's. Nothing is ever written
/// there; a server may be running on it.
#[derive(clap::Args, Debug, Clone)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand, Debug, Clone)]
enum Verb {
    /// The files that make up the log
    List {
        /// A data directory, a folder of logs, or a log file of Apache's
        dir: PathBuf,
        /// Print one JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Every txn
    Dump {
        /// A data directory, a folder of logs, or a log file of Apache's
        dir: PathBuf,
        #[command(flatten)]
        filter: Filter,
        /// Bytes of each value to show; text only
        #[arg(long, default_value_t = 64)]
        data: usize,
        /// Print one JSON object a txn
        #[arg(long)]
        json: bool,
    },
    /// Read everything, check every sum and the order; the exit status is 1 if the log is damaged
    Verify {
        /// A data directory, a folder of logs, or a log file of Apache's
        dir: PathBuf,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Txns by type, path and session, sizes of batches, gaps
    Stat {
        /// A data directory, a folder of logs, or a log file of Apache's
        dir: PathBuf,
        #[command(flatten)]
        filter: Filter,
        /// Components of the path to count by
        #[arg(long, default_value_t = 2)]
        depth: usize,
        /// Paths and sessions to show
        #[arg(long, default_value_t = 10)]
        top: usize,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

/// Why a log can't be shown.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// There is none, or it can't be looked at.
    Place(place::Error),
    /// It can't be read (damage is no error here, it is a finding).
    Log(wal::Error),
    /// The log does not reach back to where it is needed from.
    Hole {
        /// Records after this are needed.
        after: Zxid,
        /// This is the first there is.
        found: Zxid,
    },
    /// A replay met damage, or a record that can't be applied.
    Replay(String),
    /// The output can't be written.
    Output(std::io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Place(e) => write!(f, "{e}"),
            Error::Log(e) => write!(f, "{e}"),
            Error::Hole { after, found } => write!(
                f,
                "the log begins at {found}, but records from behind {after} on are needed: name an older log or a newer snapshot"
            ),
            Error::Replay(why) => write!(f, "the log can't be replayed: {why}"),
            Error::Output(e) => write!(f, "can't write: {e}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Place(e) => e.source(),
            Error::Log(e) => std::error::Error::source(e),
            Error::Output(e) => Some(e),
            Error::Hole { .. } | Error::Replay(_) => None,
        }
    }
}

impl From<place::Error> for Error {
    fn from(e: place::Error) -> Error {
        Error::Place(e)
    }
}

impl From<std::io::Error> for Error {
    fn from(e: std::io::Error) -> Error {
        Error::Output(e)
    }
}

/// Runs one verb.
///
/// # Errors
/// When there is nothing to read, or it can't be read.
pub fn run(args: &Args, out: &mut Out<'_>) -> Result<Outcome, Error> {
    match &args.verb {
        Verb::List { dir, json } => list(&place::log(dir)?, *json, out),
        Verb::Dump { dir, filter, data, json } => dump(&place::log(dir)?, filter, *data, *json, out),
        Verb::Verify { dir, json } => verify(&place::log(dir)?, *json, out),
        Verb::Stat { dir, filter, depth, top, json } => {
            stat(&place::log(dir)?, filter, *depth, *top, *json, out)
        }
    }
}

/// What comes out of a log.
enum Entry<'a> {
    /// A batch begins; Falconer's logs only.
    Batch(&'a BatchInfo),
    /// A record.
    Record(Zxid, &'a [u8]),
}

/// How the reading ended.
#[derive(Debug, Default)]
struct End {
    /// The last zxid read.
    last: Option<Zxid>,
    /// A tail that was never acknowledged.
    torn: Option<String>,
    /// What is wrong.
    damage: Vec<String>,
    /// Records that stand in the log again, as Apache logs them after a resynchronisation; passed over.
    repeated: u64,
}

type Take<'a> = dyn FnMut(Entry<'_>) -> Result<ControlFlow<()>, Error> + 'a;

/// Gives all there is to `take`, up to the end, the damage, or its break.
fn each(place: &LogPlace, take: &mut Take<'_>) -> Result<End, Error> {
    match place {
        LogPlace::Falconer { dir, root } => {
            let mut end = End::default();
            let reader = match open(dir, root.as_ref()) {
                // What is missing is the finding; what is there can still be shown.
                Err(e) if root.is_some() && is_damage(&e) => {
                    end.damage.push(e.to_string());
                    Reader::open(dir, None)
                }
                other => other,
            };
            let again = || open(dir, root.as_ref());
            segments(reader.map_err(Error::Log)?, &again, end, take)
        }
        LogPlace::Apache { dir, .. } => apache_records(dir, take),
    }
}

/// A running server begins segments and moves the beginning of its log while they are being looked for: so often what
/// seems to be missing is looked for again, with the superblock as it is then.
const LOOKS: usize = 5;

fn open(dir: &place::ReadOnly, root: Option<&wal::Root>) -> Result<Reader, wal::Error> {
    let mut opened = Reader::open(dir, root);
    for _ in 1..LOOKS {
        if root.is_none() || !opened.as_ref().is_err_and(is_damage) {
            break;
        }
        match place::root_of(vfs::Dir::path(dir)) {
            Ok(Some(now)) => opened = Reader::open(dir, Some(&now)),
            Ok(None) | Err(_) => break,
        }
    }
    opened
}

fn segments(
    mut reader: Reader,
    again: &dyn Fn() -> Result<Reader, wal::Error>,
    mut end: End,
    take: &mut Take<'_>,
) -> Result<End, Error> {
    let mut last_seq = 0;
    loop {
        let batch = match reader.next_batch() {
            Ok(Some(batch)) => batch,
            Ok(None) => break,
            Err(e) if is_damage(&e) => {
                // What a running server wrote while it was being looked at can seem damaged: the block was read
                // before it was written, its successors after. A second look tells.
                if !reads_beyond(again, last_seq) {
                    end.damage.push(e.to_string());
                }
                return Ok(end);
            }
            Err(e) => return Err(Error::Log(e)),
        };
        last_seq = batch.info.seq;
        if take(Entry::Batch(&batch.info))?.is_break() {
            return Ok(end);
        }
        for (zxid, record) in batch.records() {
            end.last = Some(zxid);
            if take(Entry::Record(zxid, record))?.is_break() {
                return Ok(end);
            }
        }
    }
    end.torn = reader.end().and_then(|e| e.torn.as_ref()).map(ToString::to_string);
    Ok(end)
}

/// Whether a new reader gets further than this batch.
fn reads_beyond(again: &dyn Fn() -> Result<Reader, wal::Error>, seq: u64) -> bool {
    let Ok(mut reader) = again() else { return false };
    while let Ok(Some(batch)) = reader.next_batch() {
        if batch.info.seq > seq {
            return true;
        }
    }
    false
}

fn apache_records(dir: &dyn vfs::Dir, take: &mut Take<'_>) -> Result<End, Error> {
    let mut reader = apache::Reader::open(dir, Zxid::ZERO).map_err(Error::Log)?;
    let mut end = End::default();
    loop {
        match reader.next_record() {
            Ok(Some((zxid, record))) => {
                end.last = Some(zxid);
                if take(Entry::Record(zxid, record))?.is_break() {
                    break;
                }
            }
            Ok(None) => break,
            Err(e) if is_damage(&e) => {
                end.damage.push(e.to_string());
                break;
            }
            Err(e) => return Err(Error::Log(e)),
        }
    }
    // A file that ends inside a record does no harm unless a hole follows, which is damage of its own.
    let torn: Vec<String> = reader.partial_ends().iter().map(ToString::to_string).collect();
    end.torn = (!torn.is_empty()).then(|| torn.join("; "));
    end.repeated = reader.skipped();
    Ok(end)
}

fn is_damage(e: &wal::Error) -> bool {
    matches!(e, wal::Error::Corrupt(_) | wal::Error::SegmentMissing { .. } | wal::Error::LogMissing { .. })
}

/// What takes the records of a replay; its error is said to the operator.
pub type Apply<'a> = dyn FnMut(Zxid, &[u8]) -> Result<(), String> + 'a;

/// Gives every record behind `after` to `apply`, in order.
///
/// # Errors
/// When the log is damaged, does not reach back to `after`, or `apply` refuses.
pub fn replay(place: &LogPlace, after: Zxid, apply: &mut Apply<'_>) -> Result<(), Error> {
    let mut last = after;
    let end = each(place, &mut |entry| {
        if let Entry::Record(zxid, record) = entry
            && zxid > last
        {
            let follows = last.next() == Some(zxid) || (zxid.epoch() > last.epoch() && zxid.counter() <= 1);
            if !follows {
                return Err(Error::Hole { after: last, found: zxid });
            }
            apply(zxid, record).map_err(Error::Replay)?;
            last = zxid;
        }
        Ok(ControlFlow::Continue(()))
    })?;
    match end.damage.first() {
        Some(damage) => Err(Error::Replay(damage.clone())),
        None => Ok(()),
    }
}

/// Says how the log ended, if it did not end well.
fn conclude(end: &End, out: &mut Out<'_>) -> Result<Outcome, Error> {
    out.flush()?;
    if let Some(torn) = &end.torn {
        out.complain(&format!("torn tail, never acknowledged (or being written just now): {torn}"));
    }
    for damage in &end.damage {
        out.complain(damage);
    }
    Ok(if end.damage.is_empty() { Outcome::Fine } else { Outcome::Found })
}

fn undecodable(zxid: Zxid, e: DecodeError) -> String {
    format!("record {zxid} does not decode: {e}")
}

fn list(place: &LogPlace, as_json: bool, out: &mut Out<'_>) -> Result<Outcome, Error> {
    let (table, outcome) = match place {
        LogPlace::Falconer { dir, root } => {
            let mut outcome = Outcome::Fine;
            let reader = match open(dir, root.as_ref()) {
                Err(e) if root.is_some() && is_damage(&e) => {
                    out.complain(&e.to_string());
                    outcome = Outcome::Found;
                    Reader::open(dir, None)
                }
                other => other,
            }
            .map_err(Error::Log)?;
            let mut table = Table::new([
                "segment",
                "file",
                "bytes",
                "begun",
                "after zxid",
                "lives up to",
                "first batch",
                "continues",
            ]);
            for s in reader.segments() {
                let name = s.path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
                let h = s.header;
                let (begun, upto) =
                    (format!("{:?}", h.reason).to_lowercase(), s.live_upto.map(|z| z.to_string()));
                if as_json {
                    out.line(
                        &json!({"segment": h.number, "path": s.path.display().to_string(), "bytes": h.len,
                                "begun": begun, "after": h.last_live.to_string(), "live_upto": upto,
                                "first_batch": h.first_seq, "continues_segment": h.pred.segment,
                                "continues_batch": h.pred.seq})
                        .to_string(),
                    )?;
                }
                table.row([
                    h.number.to_string(),
                    name,
                    render::grouped(h.len),
                    begun,
                    h.last_live.to_string(),
                    upto.unwrap_or_else(|| "end".into()),
                    h.first_seq.to_string(),
                    if h.pred.segment == 0 { "-".into() } else { format!("segment {}", h.pred.segment) },
                ]);
            }
            (table, outcome)
        }
        LogPlace::Apache { dir, files } => {
            let mut table = Table::new(["file", "bytes", "first zxid by name"]);
            for f in files {
                let path = vfs::Dir::path(dir).join(&f.name);
                let bytes = std::fs::metadata(&path).map_or(0, |m| m.len());
                if as_json {
                    out.line(
                        &json!({"path": path.display().to_string(), "bytes": bytes, "first": f.first.to_string()})
                            .to_string(),
                    )?;
                }
                table.row([f.name.clone(), render::grouped(bytes), f.first.to_string()]);
            }
            (table, Outcome::Fine)
        }
    };
    if !as_json {
        out.text(&table.text())?;
    }
    Ok(outcome)
}

fn dump(
    place: &LogPlace,
    filter: &Filter,
    data_max: usize,
    as_json: bool,
    out: &mut Out<'_>,
) -> Result<Outcome, Error> {
    let mut bad = None;
    let mut end = each(place, &mut |entry| {
        let Entry::Record(zxid, bytes) = entry else { return Ok(ControlFlow::Continue(())) };
        if filter.ends_before(zxid) {
            return Ok(ControlFlow::Break(()));
        }
        let record = match Record::decode(bytes) {
            Ok(record) => record,
            Err(e) => {
                bad = Some(undecodable(zxid, e));
                return Ok(ControlFlow::Break(()));
            }
        };
        if filter.takes(&record) {
            match as_json {
                true => out.line(&txn::json(&record).to_string())?,
                false => out.line(&txn::line(&record, data_max))?,
            }
        }
        Ok(ControlFlow::Continue(()))
    })?;
    end.damage.extend(bad);
    conclude(&end, out)
}

fn verify(place: &LogPlace, as_json: bool, out: &mut Out<'_>) -> Result<Outcome, Error> {
    let mut progress = Progress::new();
    let (mut records, mut batches, mut bytes) = (0_u64, 0_u64, 0_u64);
    let mut first = None;
    let mut bad = None;
    let mut end = each(place, &mut |entry| {
        match entry {
            Entry::Batch(_) => batches += 1,
            Entry::Record(zxid, record) => {
                if let Err(e) = Record::decode(record) {
                    bad = Some(undecodable(zxid, e));
                    return Ok(ControlFlow::Break(()));
                }
                records += 1;
                bytes += record.len() as u64;
                first = first.or(Some(zxid));
                progress.note(|| format!("{} txns, at {zxid}", render::grouped(records)));
            }
        }
        Ok(ControlFlow::Continue(()))
    })?;
    progress.clear();
    end.damage.extend(bad);
    let range = first.zip(end.last).map(|(a, b)| (a.to_string(), b.to_string()));
    if as_json {
        let v = json!({"txns": records, "batches": batches, "bytes": bytes,
                       "first": range.as_ref().map(|r| &r.0), "last": range.as_ref().map(|r| &r.1),
                       "torn": end.torn, "damage": end.damage, "whole": end.damage.is_empty()});
        out.line(&v.to_string())?;
        return Ok(if end.damage.is_empty() { Outcome::Fine } else { Outcome::Found });
    }
    let range = range.map_or_else(|| "empty".to_string(), |(a, b)| format!("{a} to {b}"));
    let in_batches =
        if batches > 0 { format!(" in {} batches", render::grouped(batches)) } else { String::new() };
    let state = if end.damage.is_empty() { "whole" } else { "damaged; before the damage" };
    out.line(&format!(
        "{state}: {} txns{in_batches}, {range}, {}",
        render::grouped(records),
        render::bytes(bytes)
    ))?;
    conclude(&end, out)
}

/// What [`stat`] counts.
struct Stat {
    types: BTreeMap<&'static str, (u64, u64)>,
    paths: HashMap<String, (u64, u64)>,
    sessions: HashMap<i64, u64>,
    batch_txns: Histogram<u64>,
    batch_bytes: Histogram<u64>,
    record_bytes: Histogram<u64>,
    first: Option<(Zxid, i64)>,
    last: Option<(Zxid, i64)>,
}

fn sizes() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 1 << 32, 3).expect("the bounds are valid")
}

fn stat(
    place: &LogPlace,
    filter: &Filter,
    depth: usize,
    top: usize,
    as_json: bool,
    out: &mut Out<'_>,
) -> Result<Outcome, Error> {
    let mut s = Stat {
        types: BTreeMap::new(),
        paths: HashMap::new(),
        sessions: HashMap::new(),
        batch_txns: sizes(),
        batch_bytes: sizes(),
        record_bytes: sizes(),
        first: None,
        last: None,
    };
    let mut progress = Progress::new();
    let mut bad = None;
    let mut n = 0_u64;
    let mut end = each(place, &mut |entry| {
        match entry {
            Entry::Batch(b) => {
                s.batch_txns.saturating_record(b.count.into());
                s.batch_bytes.saturating_record(b.len);
            }
            Entry::Record(zxid, bytes) => {
                if filter.ends_before(zxid) {
                    return Ok(ControlFlow::Break(()));
                }
                let record = match Record::decode(bytes) {
                    Ok(record) => record,
                    Err(e) => {
                        bad = Some(undecodable(zxid, e));
                        return Ok(ControlFlow::Break(()));
                    }
                };
                n += 1;
                progress.note(|| format!("{} txns, at {zxid}", render::grouped(n)));
                if filter.takes(&record) {
                    s.count(&record, bytes.len() as u64, depth);
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    })?;
    progress.clear();
    end.damage.extend(bad);
    match as_json {
        true => out.line(&s.json(top, &end).to_string())?,
        false => out.text(&s.text(top, &end))?,
    }
    conclude(&end, out)
}

impl Stat {
    fn count(&mut self, record: &Record<'_>, bytes: u64, depth: usize) {
        let entry = self.types.entry(txn::type_name(&record.txn)).or_default();
        entry.0 += 1;
        entry.1 += bytes;
        *self.sessions.entry(record.header.session.0).or_default() += 1;
        self.record_bytes.saturating_record(bytes);
        let at = (record.header.zxid, record.header.time.0);
        self.first = self.first.or(Some(at));
        self.last = Some(at);
        txn::paths(&record.txn, &mut |path| {
            let end = path.match_indices('/').nth(depth.max(1)).map_or(path.len(), |(i, _)| i);
            match self.paths.get_mut(&path[..end]) {
                Some(n) => *n = (n.0 + 1, n.1 + bytes),
                None => {
                    self.paths.insert(path[..end].into(), (1, bytes));
                }
            }
        });
    }

    fn total(&self) -> u64 {
        self.types.values().map(|t| t.0).sum()
    }

    fn top_paths(&self, top: usize) -> Vec<(&String, (u64, u64))> {
        let mut all: Vec<_> = self.paths.iter().map(|(p, n)| (p, *n)).collect();
        all.sort_by(|a, b| (b.1, a.0).cmp(&(a.1, b.0)));
        all.truncate(top);
        all
    }

    fn top_sessions(&self, top: usize) -> Vec<(i64, u64)> {
        let mut all: Vec<_> = self.sessions.iter().map(|(s, n)| (*s, *n)).collect();
        all.sort_by(|a, b| (b.1, a.0).cmp(&(a.1, b.0)));
        all.truncate(top);
        all
    }

    fn text(&self, top: usize, end: &End) -> String {
        let (Some(first), Some(last)) = (self.first, self.last) else { return "no txns\n".into() };
        let seconds = (last.1 - first.1).max(0) as f64 / 1000.0;
        let mut out = format!(
            "{} txns, {} to {}\n{} to {}{}\n\n",
            render::grouped(self.total()),
            first.0,
            last.0,
            render::time(first.1),
            render::time(last.1),
            if seconds > 0.0 {
                format!(", {:.1} per second", self.total() as f64 / seconds)
            } else {
                String::new()
            }
        );
        let mut table = Table::new(["type", "txns", "bytes", "mean"]);
        for (name, (n, bytes)) in &self.types {
            table.row([
                (*name).into(),
                render::grouped(*n),
                render::grouped(*bytes),
                format!("{} B", bytes / n),
            ]);
        }
        out += &table.text();
        if !self.paths.is_empty() {
            let mut table = Table::new(["path", "txns", "bytes"]);
            for (path, (n, bytes)) in self.top_paths(top) {
                table.row([path.clone(), render::grouped(n), render::grouped(bytes)]);
            }
            out += &format!("\n{}", table.text());
        }
        let mut table = Table::new(["session", "txns"]);
        for (session, n) in self.top_sessions(top) {
            table.row([txn::session(session), render::grouped(n)]);
        }
        out += &format!("\n{}", table.text());
        let mut table = Table::new(["", "count", "mean", "p50", "p90", "p99", "max"]);
        for (name, h) in [
            ("bytes per txn", &self.record_bytes),
            ("txns per batch", &self.batch_txns),
            ("bytes per batch", &self.batch_bytes),
        ] {
            if !h.is_empty() {
                table.row([
                    name.to_string(),
                    render::grouped(h.len()),
                    render::three_digits(h.mean()),
                    render::grouped(h.value_at_quantile(0.5)),
                    render::grouped(h.value_at_quantile(0.9)),
                    render::grouped(h.value_at_quantile(0.99)),
                    render::grouped(h.max()),
                ]);
            }
        }
        out += &format!("\n{}", table.text());
        if end.repeated > 0 {
            out += &format!(
                "\n{} txns stand in the log again and were passed over\n",
                render::grouped(end.repeated)
            );
        }
        out
    }

    fn json(&self, top: usize, end: &End) -> Value {
        let spread = |h: &Histogram<u64>| {
            json!({"count": h.len(), "mean": h.mean(), "p50": h.value_at_quantile(0.5),
                   "p90": h.value_at_quantile(0.9), "p99": h.value_at_quantile(0.99), "max": h.max()})
        };
        json!({
            "txns": self.total(),
            "first": self.first.map(|f| f.0.to_string()), "last": self.last.map(|l| l.0.to_string()),
            "first_time_ms": self.first.map(|f| f.1), "last_time_ms": self.last.map(|l| l.1),
            "types": self.types.iter().map(|(t, (n, b))| (t.to_string(), json!({"txns": n, "bytes": b})))
                .collect::<serde_json::Map<_, _>>(),
            "paths": self.top_paths(top).iter().map(|(p, (n, b))| json!({"path": p, "txns": n, "bytes": b}))
                .collect::<Vec<_>>(),
            "sessions": self.top_sessions(top).iter().map(|(s, n)| json!({"session": txn::session(*s), "txns": n}))
                .collect::<Vec<_>>(),
            "bytes_per_txn": spread(&self.record_bytes),
            "txns_per_batch": spread(&self.batch_txns),
            "bytes_per_batch": spread(&self.batch_bytes),
            "repeated": end.repeated,
            "torn": end.torn, "damage": end.damage,
        })
    }
}
