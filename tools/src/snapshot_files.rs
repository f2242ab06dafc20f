//! `falconer snapshot`: looks into snapshots, Falconer's and Apache's alike. Never writes to what it reads.
//!
//! ```text
//!   place::snapshots ── each record, whatever the format ── list | dump | verify | tree | diff
//!                              └─ diff --log: imported into a tree, the log replayed over it, walked
//! ```

use crate::log_files;
use crate::place::{self, SnapshotPlace};
use crate::render::{self, Progress, Table};
use crate::txn::{self, acl_json, acl_text, encoded, is_below};
use crate::{Out, Outcome};
use ::snapshot::{Counts, Error as SnapshotError, Kind, LoadError, Snapshot, apache};
use engine::{Applier, Audience, Identity, ImportError, Settled, TreeConfig, WalkKind};
use proto::acl::AclBytes;
use proto::jute::{DecodeError, Reader};
use proto::state::{AclRecord, NodeRecord, OPEN_ACL, SessionRecord};
use proto::{ConnId, Owner, Zxid};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// Look into snapshots, Falconer's and Apache's alike.
///
/// PATH is a data directory (its newest snapshot is taken), its snapshot or version-2 folder, or one file.
/// Nothing is ever written there; a server may be running on it.
#[derive(clap::Args, Debug, Clone)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand, Debug, Clone)]
enum Verb {
    /// All snapshots with what their heads say
    List {
        /// A data directory, a folder of snapshots, or a file
        path: PathBuf,
        /// Print one JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Every session, ACL and znode
    Dump {
        /// A data directory (its newest snapshot), or a file
        path: PathBuf,
        /// Only this znode and those below it
        #[arg(long = "path", value_name = "ZNODE")]
        below: Option<String>,
        /// Bytes of each value to show; text only
        #[arg(long, default_value_t = 64)]
        data: usize,
        /// Print one JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Read everything and check every sum; the exit status is 1 if one is damaged
    Verify {
        /// A data directory (all of its snapshots), or a file
        path: PathBuf,
        /// Print one JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Counts and sizes by subtree, largest first
    Tree {
        /// A data directory (its newest snapshot), or a file
        path: PathBuf,
        /// Only this znode and those below it
        #[arg(long = "path", value_name = "ZNODE", default_value = "/")]
        below: String,
        /// Levels to show below it
        #[arg(long, default_value_t = 2)]
        depth: usize,
        /// Subtrees to show on each level
        #[arg(long, default_value_t = 20)]
        top: usize,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// What changed from one snapshot to another, or to the end of a log; the exit status is 1 if anything did
    Diff {
        /// A data directory (its newest snapshot), or a file
        left: PathBuf,
        /// Another snapshot
        #[arg(required_unless_present = "log")]
        right: Option<PathBuf>,
        /// Instead of another snapshot: the state that this log leads to from the first one
        #[arg(long, value_name = "DIR", conflicts_with = "right")]
        log: Option<PathBuf>,
        /// Only this znode and those below it
        #[arg(long = "path", value_name = "ZNODE")]
        below: Option<String>,
        /// Print one JSON object a line
        #[arg(long)]
        json: bool,
    },
}

/// Why a snapshot can't be shown.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// There is none, or it can't be looked at.
    Place(place::Error),
    /// It is damaged or unreadable.
    Snapshot(SnapshotError),
    /// A record inside does not decode.
    Record(DecodeError),
    /// The records don't make a tree.
    Import(ImportError),
    /// The log over it can't be read.
    Log(log_files::Error),
    /// The output can't be written.
    Output(std::io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Place(e) => write!(f, "{e}"),
            Error::Snapshot(e) => write!(f, "{e}"),
            Error::Record(e) => write!(f, "a record of the snapshot does not decode: {e}"),
            Error::Import(e) => write!(f, "the snapshot does not make a tree: {e}"),
            Error::Log(e) => write!(f, "{e}"),
            Error::Output(e) => write!(f, "can't write: {e}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Place(e) => e.source(),
            Error::Snapshot(e) => e.source(),
            Error::Record(e) => Some(e),
            Error::Import(e) => Some(e),
            Error::Log(e) => e.source(),
            Error::Output(e) => Some(e),
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

impl From<DecodeError> for Error {
    fn from(e: DecodeError) -> Error {
        Error::Record(e)
    }
}

impl From<LoadError<Error>> for Error {
    fn from(e: LoadError<Error>) -> Error {
        match e {
            LoadError::Snapshot(e) => Error::Snapshot(e),
            LoadError::Sink(e) => e,
        }
    }
}

/// Runs one verb.
///
/// # Errors
/// When there is nothing to read, or it can't be read.
pub fn run(args: &Args, out: &mut Out<'_>) -> Result<Outcome, Error> {
    match &args.verb {
        Verb::List { path, json } => list(&place::snapshots(path)?, *json, out),
        Verb::Dump { path, below, data, json } => dump(&newest(path)?, below.as_deref(), *data, *json, out),
        Verb::Verify { path, json } => verify(&place::snapshots(path)?, *json, out),
        Verb::Tree { path, below, depth, top, json } => tree(&newest(path)?, below, *depth, *top, *json, out),
        Verb::Diff { left, right, log, below, json } => {
            let left = newest(left)?;
            let mut diff = Diff::of(&left, below.as_deref())?;
            match (right, log) {
                (Some(right), _) => diff.with_snapshot(&newest(right)?, *json, out)?,
                (None, Some(log)) => diff.with_log(&left, log, *json, out)?,
                (None, None) => {}
            }
            diff.finish(*json, out)
        }
    }
}

fn newest(path: &std::path::Path) -> Result<SnapshotPlace, Error> {
    Ok(place::snapshots(path)?.remove(0))
}

/// One record of a snapshot.
enum Piece<'a> {
    Session(SessionRecord),
    Acl(AclRecord<'a>),
    Node(NodeRecord<'a>),
}

/// What the head and the foot of a snapshot say.
struct About {
    start: Zxid,
    end: Option<Zxid>,
    digest: Option<i64>,
}

/// Gives every record to `take`, in the order of the file.
fn each(
    place: &SnapshotPlace,
    mut take: impl FnMut(Piece<'_>) -> Result<(), Error> + Send,
) -> Result<About, Error> {
    let mut parts = |kind, count: u32, bytes: &[u8]| -> Result<(), Error> {
        let mut r = Reader::new(bytes);
        for _ in 0..count {
            take(match kind {
                Kind::Sessions => Piece::Session(SessionRecord::decode(&mut r)?),
                Kind::Acls => Piece::Acl(AclRecord::decode(&mut r)?),
                Kind::Nodes => Piece::Node(NodeRecord::decode(&mut r)?),
            })?;
        }
        Ok(())
    };
    each_part(place, &mut parts)
}

type Parts<'a> = dyn FnMut(Kind, u32, &[u8]) -> Result<(), Error> + Send + 'a;

fn each_part(place: &SnapshotPlace, parts: &mut Parts<'_>) -> Result<About, Error> {
    if place.apache {
        let summary = apache::read(&*place.dir, &place.name, parts)?;
        let start = apache::parse_name(&place.name).map_or(Zxid::ZERO, |(zxid, _)| zxid);
        let digest = summary.digest.and_then(|d| d.digest.map(|d| d.value));
        return Ok(About { start, end: None, digest });
    }
    let snapshot = Snapshot::open(&*place.dir, &place.name, None).map_err(Error::Snapshot)?;
    // One worker: a dump keeps the order of the file.
    let parts = Mutex::new(parts);
    snapshot.load(1, &|kind, count, bytes| {
        (parts.lock().unwrap_or_else(std::sync::PoisonError::into_inner))(kind, count, bytes)
    })?;
    let footer = snapshot.footer();
    Ok(About { start: footer.start, end: Some(footer.end), digest: footer.digest.map(|d| d.value) })
}

fn list(places: &[SnapshotPlace], as_json: bool, out: &mut Out<'_>) -> Result<Outcome, Error> {
    let mut table =
        Table::new(["snapshot", "format", "bytes", "start", "end", "znodes", "sessions", "written", "state"]);
    let mut outcome = Outcome::Fine;
    let mut progress = Progress::new();
    for p in places {
        let bytes = std::fs::metadata(p.path()).map_or(0, |m| m.len());
        let row = about(p, &mut progress);
        if row.is_err() {
            outcome = Outcome::Found;
        }
        let format = if p.apache { "Apache" } else { "Falconer" };
        if as_json {
            let mut v = json!({"path": p.path().display().to_string(), "format": format, "bytes": bytes});
            match &row {
                Ok(row) => {
                    v["start"] = json!(row.start.to_string());
                    v["end"] = json!(row.end.map(|e| e.to_string()));
                    v["znodes"] = json!(row.counts.nodes);
                    v["sessions"] = json!(row.counts.sessions);
                    v["written_ms"] = json!(row.written);
                }
                Err(why) => v["unusable"] = json!(why),
            }
            out.line(&v.to_string())?;
            continue;
        }
        let unknown = || "-".to_string();
        table.row(match row {
            Ok(row) => [
                p.name.clone(),
                format.into(),
                render::grouped(bytes),
                row.start.to_string(),
                row.end.map_or_else(unknown, |e| e.to_string()),
                render::grouped(row.counts.nodes),
                render::grouped(row.counts.sessions),
                row.written.map_or_else(unknown, render::time),
                "usable".into(),
            ],
            Err(why) => [
                p.name.clone(),
                format.into(),
                render::grouped(bytes),
                unknown(),
                unknown(),
                unknown(),
                unknown(),
                unknown(),
                why,
            ],
        });
    }
    if !as_json {
        out.text(&table.text())?;
    }
    Ok(outcome)
}

struct Row {
    start: Zxid,
    end: Option<Zxid>,
    counts: Counts,
    written: Option<i64>,
}

/// What is in it; the error says why it is unusable. Ours say it at their ends, of Apache's all has to be read.
fn about(p: &SnapshotPlace, progress: &mut Progress) -> Result<Row, String> {
    if p.apache {
        let mut znodes = 0;
        let read = apache::read(&*p.dir, &p.name, &mut |kind, count, _| {
            if kind == Kind::Nodes {
                znodes += u64::from(count);
                progress.note(|| format!("{}: {} znodes", p.name, render::grouped(znodes)));
            }
            Ok::<(), SnapshotError>(())
        });
        progress.clear();
        let summary = read.map_err(|(LoadError::Snapshot(e) | LoadError::Sink(e))| with_cause(&e))?;
        let start = apache::parse_name(&p.name).map_or(Zxid::ZERO, |(zxid, _)| zxid);
        return Ok(Row { start, end: None, counts: summary.counts, written: None });
    }
    let s = Snapshot::open(&*p.dir, &p.name, None).map_err(|e| with_cause(&e))?;
    let f = s.footer();
    Ok(Row { start: f.start, end: Some(f.end), counts: f.counts, written: Some(f.ended.0) })
}

fn dump(
    p: &SnapshotPlace,
    below: Option<&str>,
    data_max: usize,
    as_json: bool,
    out: &mut Out<'_>,
) -> Result<Outcome, Error> {
    let mut acls: HashMap<i64, Vec<u8>> = HashMap::new();
    let result = each(p, |piece| {
        match piece {
            Piece::Session(_) | Piece::Acl(_) if below.is_some() && !matches!(piece, Piece::Acl(_)) => {}
            Piece::Session(s) if as_json => out.line(
                &json!({"kind": "session", "session": txn::session(s.session.0), "timeout_ms": s.timeout_ms})
                    .to_string(),
            )?,
            Piece::Session(s) => {
                out.line(&format!("session {} timeout {} ms", txn::session(s.session.0), s.timeout_ms))?;
            }
            // Shown with each znode.
            Piece::Acl(a) => {
                acls.insert(a.id, a.acl.as_bytes().to_vec());
            }
            Piece::Node(n) => {
                let path = path_of(&n);
                if below.is_some_and(|root| !is_below(path, root)) {
                    return Ok(());
                }
                let acl = match n.acl {
                    OPEN_ACL => Some(proto::acl::OPEN),
                    id => acls.get(&id).and_then(|b| AclBytes::decode(&mut Reader::new(b)).ok()),
                };
                let text = match as_json {
                    true => node_json(&n, acl.as_ref()).to_string(),
                    false => node_text(&n, acl.as_ref(), data_max),
                };
                out.line(&text)?;
            }
        }
        Ok(())
    });
    damage_is_found(result, out)
}

/// Damage is what these tools look for: everything up to it has been shown, then it is named.
fn damage_is_found(result: Result<About, Error>, out: &mut Out<'_>) -> Result<Outcome, Error> {
    match result {
        Ok(_) => Ok(Outcome::Fine),
        Err(Error::Snapshot(e)) if e.is_damage() => {
            out.flush()?;
            out.complain(&with_cause(&e));
            Ok(Outcome::Found)
        }
        Err(e) => Err(e),
    }
}

/// The error and what it came from: these errors don't say their cause themselves.
fn with_cause(e: &SnapshotError) -> String {
    std::error::Error::source(e).map_or_else(|| e.to_string(), |cause| format!("{e}: {cause}"))
}

/// The root's path is empty in the file.
fn path_of<'a>(n: &'a NodeRecord<'_>) -> &'a str {
    if n.path.is_empty() { "/" } else { &n.path }
}

fn owner(n: &NodeRecord<'_>) -> (&'static str, Option<i64>) {
    match Owner::of(n.stat.ephemeral_owner, true) {
        Owner::Persistent => ("persistent", None),
        Owner::Session(id) => ("ephemeral", Some(id)),
        Owner::Container => ("container", None),
        Owner::Ttl(ms) => ("ttl", Some(ms)),
    }
}

fn node_text(n: &NodeRecord<'_>, acl: Option<&AclBytes<'_>>, data_max: usize) -> String {
    let s = &n.stat;
    let owner = match owner(n) {
        ("ephemeral", Some(id)) => format!(" ephemeral of {}", txn::session(id)),
        ("ttl", Some(ms)) => format!(" ttl {ms} ms"),
        ("container", _) => " container".into(),
        _ => String::new(),
    };
    let acl = match (n.acl, acl) {
        (OPEN_ACL, _) => String::new(),
        (_, Some(acl)) => format!(" acl {}", acl_text(acl)),
        (id, None) => format!(" acl number {id}, which is in no table"),
    };
    format!(
        "{} {} czxid {:#x} mzxid {:#x} pzxid {:#x} version {} cversion {} aversion {} ctime {} mtime {}{owner}{acl}",
        path_of(n),
        txn::value(n.data, data_max),
        s.czxid,
        s.mzxid,
        s.pzxid,
        s.version,
        s.cversion,
        s.aversion,
        render::time(s.ctime),
        render::time(s.mtime),
    )
}

fn node_json(n: &NodeRecord<'_>, acl: Option<&AclBytes<'_>>) -> Value {
    let s = &n.stat;
    let (kind, of) = owner(n);
    json!({
        "kind": "znode", "path": path_of(n), "data": encoded(n.data), "acl": acl.map(acl_json), "type": kind,
        "owner": if kind == "ephemeral" { json!(of.map(txn::session)) } else { Value::Null },
        "ttl_ms": if kind == "ttl" { json!(of) } else { Value::Null },
        "czxid": format!("{:#x}", s.czxid), "mzxid": format!("{:#x}", s.mzxid), "pzxid": format!("{:#x}", s.pzxid),
        "ctime_ms": s.ctime, "mtime_ms": s.mtime,
        "version": s.version, "cversion": s.cversion, "aversion": s.aversion,
    })
}

fn verify(places: &[SnapshotPlace], as_json: bool, out: &mut Out<'_>) -> Result<Outcome, Error> {
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut progress = Progress::new();
    let mut outcome = Outcome::Fine;
    for (i, p) in places.iter().enumerate() {
        progress.of("verify", i as u64, places.len() as u64);
        let result = match p.apache {
            true => apache::verify(&*p.dir, &p.name).map(|s| s.counts),
            false => Snapshot::open(&*p.dir, &p.name, None)
                .and_then(|s| s.verify(workers).map(|()| s.footer().counts)),
        };
        progress.clear();
        let path = p.path().display().to_string();
        if let Err(SnapshotError::Io { source, .. }) = &result
            && source.kind() == std::io::ErrorKind::NotFound
        {
            // Listed a moment ago: a running server has no more use for it.
            out.complain(&format!("{path} was removed meanwhile"));
            continue;
        }
        let counts = |c: &Counts| {
            format!(
                "{} znodes, {} sessions, {} ACLs",
                render::grouped(c.nodes),
                render::grouped(c.sessions),
                c.acls
            )
        };
        let (ok, words) = match &result {
            Ok(c) => (true, format!("{path}: whole, {}", counts(c))),
            Err(e) => (false, with_cause(e)),
        };
        if !ok {
            outcome = Outcome::Found;
        }
        if as_json {
            let c = result.as_ref().ok();
            out.line(
                &json!({"path": path, "whole": ok, "error": (!ok).then_some(&words), "znodes": c.map(|c| c.nodes),
                        "sessions": c.map(|c| c.sessions), "acls": c.map(|c| c.acls)})
                .to_string(),
            )?;
        } else {
            out.line(&words)?;
        }
    }
    Ok(outcome)
}

/// A subtree: everything below a znode, itself included.
#[derive(Clone, Copy, Default, Debug)]
struct Subtree {
    znodes: u64,
    bytes: u64,
    ephemerals: u64,
}

fn tree(
    p: &SnapshotPlace,
    below: &str,
    depth: usize,
    top: usize,
    as_json: bool,
    out: &mut Out<'_>,
) -> Result<Outcome, Error> {
    let root = if below == "/" { "" } else { below.trim_end_matches('/') };
    let mut sums: BTreeMap<String, Subtree> = BTreeMap::new();
    let mut progress = Progress::new();
    let mut seen = 0_u64;
    let result = each(p, |piece| {
        let Piece::Node(n) = piece else { return Ok(()) };
        seen += 1;
        progress.note(|| format!("{} znodes read", render::grouped(seen)));
        let path = n.path.as_ref();
        let Some(rest) = path.strip_prefix(root) else { return Ok(()) };
        if !rest.is_empty() && !rest.starts_with('/') {
            return Ok(());
        }
        let ends = rest.match_indices('/').map(|(i, _)| i).chain([rest.len()]).take(depth + 1);
        let mut last = usize::MAX;
        for end in ends {
            let end = root.len() + end;
            if end == last {
                continue;
            }
            last = end;
            let sum = match sums.get_mut(&path[..end]) {
                Some(sum) => sum,
                None => sums.entry(path[..end].to_string()).or_default(),
            };
            sum.znodes += 1;
            sum.bytes += n.data.map_or(0, <[u8]>::len) as u64;
            sum.ephemerals += u64::from(owner(&n).0 == "ephemeral");
        }
        Ok(())
    });
    progress.clear();
    if as_json {
        out.line(&subtree_json(&sums, root, top).to_string())?;
    } else {
        let mut table = Table::new(["subtree", "znodes", "bytes", "ephemerals"]);
        subtree_rows(&sums, root, 0, top, &mut table);
        out.text(&table.text())?;
    }
    damage_is_found(result, out)
}

/// The direct children among the sums, largest first, and how many are not shown.
fn largest<'a>(
    sums: &'a BTreeMap<String, Subtree>,
    parent: &str,
    top: usize,
) -> (Vec<(&'a str, Subtree)>, usize) {
    let prefix = format!("{parent}/");
    let mut children: Vec<(&str, Subtree)> = sums
        .range(prefix.clone()..)
        .take_while(|(path, _)| path.starts_with(&prefix))
        .filter(|(path, _)| !path[prefix.len()..].contains('/') && path.len() > prefix.len())
        .map(|(path, sum)| (path.as_str(), *sum))
        .collect();
    children.sort_by(|a, b| (b.1.bytes, b.1.znodes, a.0).cmp(&(a.1.bytes, a.1.znodes, b.0)));
    let hidden = children.len().saturating_sub(top);
    children.truncate(top);
    (children, hidden)
}

fn subtree_rows(sums: &BTreeMap<String, Subtree>, path: &str, level: usize, top: usize, table: &mut Table) {
    let Some(sum) = sums.get(path) else { return };
    let shown = if path.is_empty() { "/" } else { path };
    table.row([
        format!("{}{shown}", "  ".repeat(level)),
        render::grouped(sum.znodes),
        render::grouped(sum.bytes),
        render::grouped(sum.ephemerals),
    ]);
    let (children, hidden) = largest(sums, path, top);
    for (child, _) in children {
        subtree_rows(sums, child, level + 1, top, table);
    }
    if hidden > 0 {
        table.row([format!("{}… {hidden} more", "  ".repeat(level + 1))]);
    }
}

fn subtree_json(sums: &BTreeMap<String, Subtree>, path: &str, top: usize) -> Value {
    let sum = sums.get(path).copied().unwrap_or_default();
    let (children, hidden) = largest(sums, path, top);
    json!({
        "path": if path.is_empty() { "/" } else { path },
        "znodes": sum.znodes, "bytes": sum.bytes, "ephemerals": sum.ephemerals,
        "children": children.iter().map(|(c, _)| subtree_json(sums, c, top)).collect::<Vec<_>>(),
        "children_not_shown": hidden,
    })
}

/// A znode of the left side, as much of it as a comparison needs.
struct Remembered {
    data: u64,
    data_len: usize,
    acl: u64,
    version: i32,
    czxid: i64,
    mzxid: i64,
    owner: i64,
}

impl Remembered {
    fn of(n: &NodeRecord<'_>, acl: u64) -> Remembered {
        Remembered {
            data: hash(&n.data),
            data_len: n.data.map_or(0, <[u8]>::len),
            acl,
            version: n.stat.version,
            czxid: n.stat.czxid,
            mzxid: n.stat.mzxid,
            owner: n.stat.ephemeral_owner,
        }
    }
}

fn hash(v: &impl Hash) -> u64 {
    let mut h = DefaultHasher::new();
    v.hash(&mut h);
    h.finish()
}

/// The ACL table of one side: two sides number differently, so lists are compared by content.
#[derive(Default)]
struct AclTable(HashMap<i64, u64>);

impl AclTable {
    fn take(&mut self, a: &AclRecord<'_>) {
        self.0.insert(a.id, hash(&a.acl.as_bytes()));
    }

    fn of(&self, n: &NodeRecord<'_>) -> u64 {
        match n.acl {
            OPEN_ACL => hash(&proto::acl::OPEN.as_bytes()),
            id => self.0.get(&id).copied().unwrap_or_else(|| hash(&id)),
        }
    }
}

struct Diff {
    below: Option<String>,
    left: HashMap<Box<str>, Remembered>,
    right_acls: AclTable,
    progress: Progress,
    created: u64,
    changed: u64,
    same: u64,
}

impl Diff {
    fn of(left: &SnapshotPlace, below: Option<&str>) -> Result<Diff, Error> {
        let mut acls = AclTable::default();
        let mut nodes = HashMap::new();
        let mut progress = Progress::new();
        each(left, |piece| {
            match piece {
                Piece::Session(_) => {}
                Piece::Acl(a) => acls.take(&a),
                Piece::Node(n) => {
                    if below.is_none_or(|root| is_below(path_of(&n), root)) {
                        nodes.insert(path_of(&n).into(), Remembered::of(&n, acls.of(&n)));
                        progress.note(|| format!("{} znodes read", render::grouped(nodes.len() as u64)));
                    }
                }
            }
            Ok(())
        })?;
        Ok(Diff {
            below: below.map(Into::into),
            left: nodes,
            right_acls: AclTable::default(),
            progress,
            created: 0,
            changed: 0,
            same: 0,
        })
    }

    fn with_snapshot(
        &mut self,
        right: &SnapshotPlace,
        as_json: bool,
        out: &mut Out<'_>,
    ) -> Result<(), Error> {
        each(right, |piece| self.piece(piece, as_json, out)).map(drop)
    }

    /// The state at the end of the log: the snapshot in a tree, the log over it, then walked.
    fn with_log(
        &mut self,
        left: &SnapshotPlace,
        log: &std::path::Path,
        as_json: bool,
        out: &mut Out<'_>,
    ) -> Result<(), Error> {
        let mut applier = load(left)?;
        let from = applier.tree().applied();
        let progress = &mut self.progress;
        log_files::replay(&place::log(log)?, from, &mut |zxid, record| {
            progress.note(|| format!("replayed up to {zxid}"));
            applier.apply(record, &Nobody, &mut |_, _| ()).map_err(|e| e.to_string())
        })
        .map_err(Error::Log)?;
        let tree = Arc::clone(applier.tree());
        let mut walk = tree.walk();
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            let part = walk.next(&tree, WALK_BYTES, &mut bytes);
            let mut r = Reader::new(&bytes);
            for _ in 0..part.count {
                let piece = match part.kind {
                    WalkKind::Sessions => Piece::Session(SessionRecord::decode(&mut r)?),
                    WalkKind::Acls => Piece::Acl(AclRecord::decode(&mut r)?),
                    WalkKind::Nodes | WalkKind::Done => Piece::Node(NodeRecord::decode(&mut r)?),
                };
                self.piece(piece, as_json, out)?;
            }
            if part.kind == WalkKind::Done {
                return Ok(());
            }
        }
    }

    fn piece(&mut self, piece: Piece<'_>, as_json: bool, out: &mut Out<'_>) -> Result<(), Error> {
        let n = match piece {
            Piece::Session(_) => return Ok(()),
            Piece::Acl(a) => {
                self.right_acls.take(&a);
                return Ok(());
            }
            Piece::Node(n) => n,
        };
        let path = path_of(&n);
        if self.below.as_ref().is_some_and(|root| !is_below(path, root)) {
            return Ok(());
        }
        let now = Remembered::of(&n, self.right_acls.of(&n));
        let Some(before) = self.left.remove(path) else {
            self.created += 1;
            return say(out, as_json, "created", path, &[format!("{} B", now.data_len)]);
        };
        let mut what = Vec::new();
        if before.czxid != now.czxid {
            what.push(format!("made anew (czxid {:#x} → {:#x})", before.czxid, now.czxid));
        }
        if before.data != now.data {
            what.push(match before.data_len == now.data_len {
                true => format!("data ({} B)", now.data_len),
                false => format!("data {} → {} B", before.data_len, now.data_len),
            });
        } else if before.mzxid != now.mzxid {
            what.push("data set to the same".into());
        }
        if before.version != now.version {
            what.push(format!("version {} → {}", before.version, now.version));
        }
        if before.acl != now.acl {
            what.push("ACL".into());
        }
        if before.owner != now.owner {
            what.push(format!("owner {} → {}", txn::session(before.owner), txn::session(now.owner)));
        }
        if what.is_empty() {
            self.same += 1;
            return Ok(());
        }
        self.changed += 1;
        say(out, as_json, "changed", path, &what)
    }

    fn finish(mut self, as_json: bool, out: &mut Out<'_>) -> Result<Outcome, Error> {
        self.progress.clear();
        let mut deleted: Vec<Box<str>> = self.left.into_keys().collect();
        deleted.sort_unstable();
        for path in &deleted {
            say(out, as_json, "deleted", path, &[])?;
        }
        if !as_json {
            out.line(&format!(
                "{} created, {} deleted, {} changed, {} the same",
                render::grouped(self.created),
                render::grouped(deleted.len() as u64),
                render::grouped(self.changed),
                render::grouped(self.same)
            ))?;
        }
        let equal = self.created == 0 && self.changed == 0 && deleted.is_empty();
        Ok(if equal { Outcome::Fine } else { Outcome::Found })
    }
}

/// Bytes of one part of a walk.
const WALK_BYTES: usize = 256 << 10;

fn say(out: &mut Out<'_>, as_json: bool, what: &str, path: &str, details: &[String]) -> Result<(), Error> {
    if as_json {
        out.line(&json!({"change": what, "path": path, "details": details}).to_string())?;
        return Ok(());
    }
    let sign = match what {
        "created" => '+',
        "deleted" => '-',
        _ => '~',
    };
    out.line(format!("{sign} {path} {}", details.join(", ")).trim_end())?;
    Ok(())
}

/// The snapshot as a tree.
fn load(p: &SnapshotPlace) -> Result<Applier, Error> {
    let (_, mut applier) = engine::new(TreeConfig { extended_types: true, ..TreeConfig::default() });
    let importer = applier.import();
    let about = each_part(p, &mut |kind, count, bytes| {
        match kind {
            Kind::Sessions => importer.sessions(bytes, count.into()),
            Kind::Acls => importer.acls(bytes, count.into()),
            Kind::Nodes => importer.nodes(bytes, count.into()),
        }
        .map_err(Error::Import)
    })?;
    let settled = Settled { zxid: about.end.unwrap_or(Zxid::MAX), digest: about.digest };
    importer.finish(about.start, Some(settled)).map_err(Error::Import)?;
    Ok(applier)
}

/// Nobody watches.
struct Nobody;

impl Audience for Nobody {
    fn deliver(&self, _to: ConnId, _frame: &[u8]) {}

    fn identity(&self, _of: ConnId) -> Option<Arc<Identity>> {
        None
    }
}
