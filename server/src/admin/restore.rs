//! The command `restore`: the state of a snapshot takes the place of this server's.
//!
//! The body is read into a tree of its own, and looked through to its last byte, before anything is touched: one that is cut
//! short, damaged, or taken while writes went on so that its parts do not fit, changes nothing. Then requests wait while the
//! state is put in place ([`Core::replace_state`]). In an ensemble the leader is asked, once, and its followers get the state
//! from it; the answer comes when a majority has it.

use super::commands::{self, Query};
use super::{Answer, Shared};
use crate::boot::tree_config;
use crate::core::{Core, NotReplaced};
use crate::json;
use crate::limits;
use crate::stats::{Counter, Measure};
use engine::{Applier, Importer, Tree};
use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use node::Service;
use proto::jute::Reader;
use proto::state::NodeRecord;
use proto::{Epoch, Zxid};
use snapshot::apache;
use snapshot::{Kind, Snapshot};
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

const NAME: &str = "restore";

/// Whether a request asks for this command.
pub fn is_asked(shared: &Shared, head: &hyper::http::request::Parts) -> bool {
    let name = head.uri.path().strip_prefix(shared.command_url()).and_then(|rest| rest.strip_prefix('/'));
    head.method == hyper::Method::POST && matches!(name, Some("restore" | "rest"))
}

fn fail(status: u16, error: &str) -> Answer {
    Answer::json(status, &json!({ "command": NAME, "error": error }))
}

/// Who asks for it, and how.
pub struct Asked {
    /// The arguments; none are known.
    pub query: Query,
    /// The header `Authorization`.
    pub authorization: Option<String>,
    /// The other end.
    pub from: IpAddr,
}

/// Answers the command; the body is not looked at before the asker has shown to be allowed to.
pub async fn answer(shared: Arc<Shared>, asked: Asked, body: Incoming) -> Answer {
    let from = asked.from;
    let admitting = shared.clone();
    let admitted = tokio::task::spawn_blocking(move || admit(&admitting, &asked)).await;
    let core = match admitted {
        Ok(Ok(core)) => core,
        Ok(Err(refusal)) => return refusal,
        Err(_) => return fail(500, "the command failed"),
    };
    let Ok(_one) = shared.restore_running.try_acquire() else {
        core.stats.add(Counter::RestoreLimited, 1);
        return fail(429, "another restore is under way");
    };
    let (sender, receiver) = mpsc::channel(limits::ADMIN_PIECES);
    let worker = core.clone();
    let restoring = tokio::task::spawn_blocking(move || restore(&worker, Upload::new(receiver), from));
    feed(body, sender).await;
    restoring.await.unwrap_or_else(|_| fail(500, "the command failed"))
}

fn admit(shared: &Arc<Shared>, asked: &Asked) -> Result<Arc<Core>, Answer> {
    let request = commands::Request {
        name: NAME,
        post: true,
        query: &asked.query,
        authorization: asked.authorization.as_deref(),
        from: asked.from,
    };
    let core = commands::admit(shared, &request)?;
    let admin = core.settings.operations.admin.as_ref();
    let Some(admin) = admin.filter(|a| a.restore_enabled) else {
        return Err(fail(503, "the command is disabled: admin.restore.enabled"));
    };
    // Before the body, which may be long.
    core.zxid_for_replacement().map_err(|why| refused(&core, &why))?;
    if !shared.restores.allow(Duration::from_millis(u64::from(admin.rate_limit))) {
        core.stats.add(Counter::RestoreLimited, 1);
        return Err(fail(429, "too many restores: admin.rateLimiterIntervalInMS"));
    }
    Ok(core)
}

/// What goes from the socket to the thread that reads it.
enum Piece {
    Bytes(Bytes),
    /// All of it has come.
    End,
}

/// Hands the body on until it ends, breaks off, stands still, or nobody wants more of it.
async fn feed(mut body: Incoming, sender: mpsc::Sender<Piece>) {
    loop {
        match tokio::time::timeout(limits::ADMIN_BODY_TIME, body.frame()).await {
            Ok(Some(Ok(frame))) => {
                let Ok(data) = frame.into_data() else { continue };
                if sender.send(Piece::Bytes(data)).await.is_err() {
                    return;
                }
            }
            Ok(None) => {
                let _ = sender.send(Piece::End).await;
                return;
            }
            // Too slow, or broken off: without an end it is not taken.
            Ok(Some(Err(_))) | Err(_) => return,
        }
    }
}

/// The body as a stream of bytes.
struct Upload {
    pieces: mpsc::Receiver<Piece>,
    piece: Bytes,
    ended: bool,
}

impl Upload {
    fn new(pieces: mpsc::Receiver<Piece>) -> Upload {
        Upload { pieces, piece: Bytes::new(), ended: false }
    }

    /// Its first bytes, as many as there are up to `wanted`; they are still to be read.
    fn beginning(&mut self, wanted: usize) -> io::Result<Vec<u8>> {
        let mut head = vec![0; wanted];
        let mut at = 0;
        while at < wanted {
            match self.read(&mut head[at..])? {
                0 => break,
                n => at += n,
            }
        }
        head.truncate(at);
        Ok(head)
    }
}

impl Read for Upload {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(Piece::Bytes(bytes)) => self.piece = bytes,
                Some(Piece::End) => self.ended = true,
                None => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the body broke off, or stood still",
                    ));
                }
            }
        }
        let n = self.piece.len().min(out.len());
        out[..n].copy_from_slice(&self.piece.split_to(n));
        Ok(n)
    }
}

/// A state that is whole, beside the server's.
struct State {
    tree: Arc<Tree>,
    /// The last zxid that it knows of.
    newest: Zxid,
    _applier: Applier,
}

fn restore(core: &Arc<Core>, upload: Upload, from: IpAddr) -> Answer {
    let started = Instant::now();
    let was = core.tree.applied();
    let state = match read(core, upload) {
        Ok(state) => state,
        Err(why) => {
            core.stats.add(Counter::RestoreErrors, 1);
            tracing::warn!(%from, "nothing was restored: {why}");
            return fail(500, &format!("nothing was changed: {why}"));
        }
    };
    let led = core.times_led();
    let znodes = state.tree.stats().znodes;
    let zxid = match core.replace_state(&state.tree, state.newest) {
        Ok(zxid) => zxid,
        Err(why) => {
            core.stats.add(Counter::RestoreErrors, 1);
            return refused(core, &why);
        }
    };
    let ms = started.elapsed().as_millis() as u64;
    tracing::warn!(%from, %was, %zxid, newest = %state.newest, znodes, ms, "the state was replaced by a restored one");
    drop(state);
    if core.peers().is_some()
        && let Err(why) = led_again(core, led)
    {
        core.stats.add(Counter::RestoreErrors, 1);
        tracing::error!("the restored state is not the ensemble's: {why}");
        return fail(500, &why);
    }
    core.stats.measure(Measure::Restore, started.elapsed().as_nanos() as u64, 1);
    Answer::json(
        200,
        &json!({ "last_zxid": zxid.to_wire(), "command": NAME, "error": super::json::Json::Null }),
    )
}

fn refused(core: &Core, why: &NotReplaced) -> Answer {
    match why {
        NotReplaced::NotLeading(leader) => {
            let place = leader.and_then(|id| Some((id, core.settings.ensemble()?.members.get(&id)?)));
            let text = place.map_or_else(
                || "no leader is known now: ask again".to_owned(),
                |(id, m)| format!("send it to server {id} ({}), which leads", m.addresses[0].host),
            );
            let why = "in an ensemble the leader restores, once, and its followers get the state from it";
            fail(409, &format!("{why}: {text}"))
        }
        NotReplaced::Busy => fail(503, "leadership is about to change: ask again"),
        NotReplaced::Write(e) => fail(500, &format!("nothing was changed: the state can't be written: {e}")),
    }
}

/// Waits until this server leads once more: then a majority has its state.
fn led_again(core: &Core, before: u64) -> Result<(), String> {
    let ensemble = core.settings.ensemble().expect("it has peers");
    let tick = Duration::from_millis(u64::from(core.settings.sessions.tick_ms));
    let patience = limits::RESTORE_ELECTION + tick * ensemble.init_limit_ticks;
    let until = Instant::now() + patience;
    while core.times_led() == before {
        if matches!(core.service(), Some(Service::Following | Service::Observing)) {
            let leader =
                core.with_node(|n| n.zab().leader()).map_or_else(String::new, |id| format!(" ({id})"));
            return Err(format!(
                "another server{leader} took the lead before a majority had the restored state: the ensemble has the state \
                 that it had; ask again"
            ));
        }
        if Instant::now() >= until {
            return Err(format!(
                "no majority has taken the restored state within {} s: this server has it, and the ensemble takes it if \
                 this server leads next; look at its members",
                patience.as_secs()
            ));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// The last zxid that a state may know of: far enough from the end of all zxids that the server can go on behind it.
const NEWEST_MAX: Zxid = Zxid::new(Epoch(1 << 30), u32::MAX - (1 << 24));

/// Reads a snapshot of any form into a tree of its own.
fn read(core: &Core, mut upload: Upload) -> Result<State, String> {
    let (tree, mut applier) = engine::new(tree_config(&core.settings));
    // A member of an ensemble can't go on behind zxids of another one's future: there they become its own next one.
    let ceiling = match core.peers() {
        None => None,
        Some(_) => Some(core.zxid_for_replacement().map_err(|e| format!("{e:?}"))?),
    };
    let taken =
        Taken { ceiling, newest: AtomicU64::new(0), bytes: AtomicU64::new(0), bytes_max: memory_left() };
    let head = upload.beginning(8).map_err(|e| e.to_string())?;
    if head.is_empty() {
        return Err("the body is empty: it has to be a snapshot, as the command snapshot gives it".into());
    }
    let importer = applier.import();
    let mut last = Zxid::ZERO;
    let mut digest = None;
    let mut sink = |kind, count: u32, bytes: &[u8]| taken.take(&importer, kind, count, bytes);
    let apaches = if head.starts_with(b"ZKSN") {
        Some(apache::read_stream(io::Cursor::new(head).chain(upload), "the body", &mut sink))
    } else if head.starts_with(&apache::snappy::MAGIC) {
        let body = io::Cursor::new(head).chain(upload);
        Some(apache::read_stream(apache::snappy::Reader::new(body), "the body", &mut sink))
    } else if head.starts_with(&[0x1f, 0x8b]) {
        // What reads gzip reads files, by their names.
        let name = "snapshot.0.gz";
        let (home, path) = spill(core, head, upload, name)?;
        let read = apache::read(&home, name, &mut sink);
        let _ = std::fs::remove_file(path);
        Some(read)
    } else {
        last = read_own(core, head, upload, &taken, &importer)?;
        None
    };
    if let Some(summary) = apaches {
        let summary = summary.map_err(|e| match e {
            snapshot::LoadError::Snapshot(e) => crate::boot::with_causes(&e),
            snapshot::LoadError::Sink(e) => e,
        })?;
        last = last.max(summary.last_processed.unwrap_or(Zxid::ZERO));
        if let Some(d) = summary.digest {
            last = last.max(d.zxid);
            // One of zxid 0 is blank: its server had not applied anything yet.
            let of_the_end = summary.last_processed == Some(d.zxid) && d.zxid > Zxid::ZERO;
            digest = d.digest.filter(|_| of_the_end).map(|d| d.value);
        }
    }
    let newest = last.max(Zxid::from_u64(taken.newest.into_inner()));
    if newest > NEWEST_MAX {
        return Err(format!("it knows of the zxid {newest}, behind which no server can go on"));
    }
    let clamped = ceiling.is_some_and(|ceiling| newest > ceiling);
    let digest = digest.filter(|_| !clamped);
    importer
        .finish(newest, Some(engine::Settled { zxid: newest, digest }))
        .map_err(|e| crate::boot::with_causes(&e))?;
    tree.check_links().map_err(|e| {
        format!("{e}: it was taken while writes went on, and without its log that can't be made good")
    })?;
    if tree.digest_mismatches() > 0 {
        tracing::warn!(
            "the digest in the snapshot is not that of its znodes: it was taken while writes went on"
        );
    }
    Ok(State { tree, newest, _applier: applier })
}

/// Writes the body to a file beside the snapshots. What a failure leaves of it goes at the next restore, or the next start.
fn spill(
    core: &Core,
    head: Vec<u8>,
    upload: Upload,
    name: &str,
) -> Result<(vfs::os::OsDir, PathBuf), String> {
    let dir = core.log.snapshot_dir().join(NAME);
    let of = |e: io::Error| format!("{}: {e}", dir.display());
    let home = vfs::os::OsDir::open(&dir).map_err(of)?;
    let path = dir.join(name);
    std::fs::File::create(&path)
        .and_then(|mut file| io::copy(&mut io::Cursor::new(head).chain(upload), &mut file))
        .map_err(of)?;
    Ok((home, path))
}

/// A snapshot of Falconer's own has to be a file to be read, and of one moment: there is no log beside it.
fn read_own(
    core: &Core,
    head: Vec<u8>,
    upload: Upload,
    taken: &Taken,
    importer: &Importer<'_>,
) -> Result<Zxid, String> {
    let name = "upload";
    let (home, path) = spill(core, head, upload, name)?;
    let opened = Snapshot::open(&home, name, None).map_err(|e| crate::boot::with_causes(&e));
    // It is open: its space is free as soon as it is read.
    let _ = std::fs::remove_file(&path);
    let snapshot = opened?;
    let (start, end) = (snapshot.header().start, snapshot.footer().end);
    if start != end {
        return Err(format!(
            "it holds parts of the states from {start} to {end}, and without its log that can't be made good: take one with \
             the command snapshot"
        ));
    }
    snapshot.load(1, &|kind, count, bytes| taken.take(importer, kind, count, bytes)).map_err(
        |e| match e {
            snapshot::LoadError::Snapshot(e) => crate::boot::with_causes(&e),
            snapshot::LoadError::Sink(e) => e,
        },
    )?;
    Ok(end)
}

/// What is on its way into the tree.
struct Taken {
    /// Larger zxids become this one.
    ceiling: Option<Zxid>,
    /// The largest zxid of a znode.
    newest: AtomicU64,
    bytes: AtomicU64,
    bytes_max: u64,
}

impl Taken {
    fn take(&self, importer: &Importer<'_>, kind: Kind, count: u32, bytes: &[u8]) -> Result<(), String> {
        let so_far = self.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed) + bytes.len() as u64;
        if so_far > self.bytes_max {
            return Err(format!("it has over {} MiB, more than there is memory for", self.bytes_max >> 20));
        }
        let count = u64::from(count);
        match kind {
            Kind::Sessions => importer.sessions(bytes, count),
            Kind::Acls => importer.acls(bytes, count),
            Kind::Nodes => match self.look(bytes, count) {
                Some(changed) => importer.nodes(&changed, count),
                None => importer.nodes(bytes, count),
            },
        }
        .map_err(|e| crate::boot::with_causes(&e))
    }

    /// Notes the largest zxid; returns the znodes anew if one is above the ceiling. What can't be decoded is left to the
    /// importer, which says so.
    fn look(&self, bytes: &[u8], count: u64) -> Option<Vec<u8>> {
        let mut reader = Reader::new(bytes);
        let mut above = false;
        for _ in 0..count {
            let stat = NodeRecord::decode(&mut reader).ok()?.stat;
            let newest = stat.czxid.max(stat.mzxid).max(stat.pzxid).max(0) as u64;
            self.newest.fetch_max(newest, Ordering::Relaxed);
            above |= self.ceiling.is_some_and(|ceiling| newest > ceiling.as_u64());
        }
        let ceiling = self.ceiling.filter(|_| above)?.to_wire();
        let mut changed = Vec::with_capacity(bytes.len());
        let mut reader = Reader::new(bytes);
        for _ in 0..count {
            let mut node = NodeRecord::decode(&mut reader).ok()?;
            for zxid in [&mut node.stat.czxid, &mut node.stat.mzxid, &mut node.stat.pzxid] {
                *zxid = (*zxid).min(ceiling);
            }
            node.encode(&mut changed);
        }
        Some(changed)
    }
}

/// Bytes of memory that can be had: a second tree must not be what the kernel kills this server for.
fn memory_left() -> u64 {
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let machine = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let machine = machine
        .lines()
        .find_map(|l| l.strip_prefix("MemAvailable:")?.split_whitespace().next()?.parse().ok());
    let machine = machine.map_or(u64::MAX, |kib: u64| kib << 10);
    let group = number("/sys/fs/cgroup/memory.max")
        .map(|max| max.saturating_sub(number("/sys/fs/cgroup/memory.current").unwrap_or(0)));
    machine.min(group.unwrap_or(u64::MAX))
}

/// Removes what an upload that a crash has cut short left behind.
pub fn sweep(snapshot_dir: &std::path::Path) {
    let _ = std::fs::remove_dir_all(snapshot_dir.join(NAME));
}
