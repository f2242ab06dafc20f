//! What takes long on a link, each by a thread of its own: a snapshot out or in, a stretch of the log.
//!
//! A snapshot goes out part by part from a walk over the tree while that changes (`engine::Walk::next_part`): what is in memory of
//! it is one part, whatever the tree's size. The walk is of no single moment. It holds every txn up to the zxid of SNAP and some
//! behind, up to the zxid at its end; the learner applies the records between the two once more, which follow through
//! the same link, and compares the digest there.
//!
//! An Apache learner gets the state at one zxid instead: it wants parents before children, and what it makes of a tree in motion
//! goes wrong now and then (ACLs that it does not know). For it a copy of the tree is made, brought to the end of the walk by the
//! records of the own log, and written from there, with as much memory as the tree for as long as the transfer takes.

use super::Message;
use super::link::{Job, Link};
use crate::boot::{Nobody, with_causes};
use crate::core::Core;
use crate::stats::{Counter, Measure};
use engine::{Applier, Importer, Settled, Tree};
use proto::jute::Put;
use proto::peer::FromLeader;
use proto::txn::RecordBatch;
use proto::{LinkId, Zxid};
use snapshot::Kind;
use std::fmt;
use std::io::{self, ErrorKind, Read};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// What stands behind a snapshot of Apache's in the stream.
const END_MARK: &str = "BenWasHere";

/// Bytes of a snapshot or of the log that are put together before they are handed to the socket.
const CHUNK: usize = 256 << 10;

/// How often a transfer that takes long says how far it is.
const SAID_EACH: Duration = Duration::from_secs(5);

/// Why a job ended early. The link is cut: the learner comes back.
#[derive(Debug)]
enum Failure {
    /// The other side takes nothing, or is gone.
    Stalled,
    /// The own log can't give what is asked for.
    Log(wal::Error),
    /// The log has a hole, or ends too early.
    Hole { wanted: Zxid, found: Zxid },
    /// The copy of the tree did not come out right.
    Copy(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Stalled => f.write_str("the other side takes nothing"),
            Failure::Log(e) => write!(f, "the log can't be read: {}", with_causes(e)),
            Failure::Hole { wanted, found } => write!(f, "the log has {found} where {wanted} was wanted"),
            Failure::Copy(why) => write!(f, "no consistent copy of the tree: {why}"),
        }
    }
}

impl From<wal::Error> for Failure {
    fn from(e: wal::Error) -> Failure {
        Failure::Log(e)
    }
}

impl From<super::link::Stalled> for Failure {
    fn from(_: super::link::Stalled) -> Failure {
        Failure::Stalled
    }
}

/// Begins a job, and the ones that wait behind it.
pub fn begin(core: Arc<Core>, link: Arc<Link>, job: Job) {
    let failed = link.clone();
    let run = move || {
        let mut next = Some(job);
        while let Some(job) = next {
            let peers = core.peers().expect("a link belongs to an ensemble");
            let done = match job {
                Job::Snapshot { falconer } => {
                    let under_way = &peers.snapshots;
                    let others = under_way.fetch_add(1, Ordering::Relaxed);
                    core.stats.add(Counter::Snaps, 1);
                    core.stats.measure(Measure::InflightSnaps, others as u64 + 1, 1);
                    let sent = match falconer {
                        true => send_stream(&core, &link),
                        false => send_copy(&core, &link),
                    };
                    under_way.fetch_sub(1, Ordering::Relaxed);
                    sent
                }
                Job::Log { after, upto } => {
                    peers.logs.fetch_add(1, Ordering::Relaxed);
                    let sent = send_log(&core, &link, after, upto);
                    peers.logs.fetch_sub(1, Ordering::Relaxed);
                    sent
                }
            };
            if let Err(e) = done {
                tracing::warn!(peer = %link.peer, ?job, "a learner could not be brought up to date: {e}");
                link.cut();
                return;
            }
            next = link.job_done();
            if matches!(job, Job::Snapshot { .. }) {
                core.submit_snapshot_sent(link.id);
                core.pump_aside();
            }
        }
    };
    if let Err(e) = std::thread::Builder::new().name("sync".into()).spawn(run) {
        tracing::warn!("no thread for a learner: {e}");
        failed.cut();
    }
}

/// Says now and then how far a transfer is.
struct Progress {
    what: &'static str,
    started: Instant,
    said: Instant,
    bytes: u64,
    /// About how many there will be, where that is known.
    of_bytes: Option<u64>,
}

impl Progress {
    fn new(what: &'static str, of_bytes: Option<u64>) -> Progress {
        Progress { what, started: Instant::now(), said: Instant::now(), bytes: 0, of_bytes }
    }

    fn add(&mut self, link: &Link, bytes: usize) {
        self.bytes += bytes as u64;
        if self.said.elapsed() >= SAID_EACH {
            self.said = Instant::now();
            tracing::info!(
                peer = %link.peer,
                bytes = self.bytes,
                of_about = self.of_bytes,
                "{} is under way",
                self.what
            );
        }
    }

    fn done(&self, link: &Link, zxid: Zxid) {
        let ms = self.started.elapsed().as_millis() as u64;
        tracing::info!(peer = %link.peer, bytes = self.bytes, %zxid, ms, "{} is done", self.what);
    }
}

/// To a Falconer: the tree as it changes.
fn send_stream(core: &Core, link: &Link) -> Result<(), Failure> {
    let stall = core.peers().expect("a link belongs to an ensemble").config().stall_timeout;
    let mut progress = Progress::new("sending a snapshot", Some(core.tree.stats().data_bytes));
    let zxid = stream(&core.tree, &mut |bytes| {
        link.write_job(bytes, stall)?;
        progress.add(link, bytes.len());
        Ok::<(), Failure>(())
    })?;
    progress.done(link, zxid);
    Ok(())
}

/// Puts SNAP and the parts of the tree where they go, one after the other; each is made when the one before has gone.
fn stream<E>(tree: &Tree, put: &mut dyn FnMut(&[u8]) -> Result<(), E>) -> Result<Zxid, E> {
    let mut walk = tree.walk();
    let zxid = walk.start();
    let mut out = Vec::with_capacity(2 * CHUNK);
    FromLeader::Snap { zxid }.encode(&mut out);
    loop {
        let goes_on = walk.next_part(tree, CHUNK, &mut out);
        put(&out)?;
        if !goes_on {
            return Ok(zxid);
        }
        out.clear();
        // A single znode may have been larger.
        out.shrink_to(2 * CHUNK);
    }
}

/// To one of Apache's: a copy of one moment.
fn send_copy(core: &Core, link: &Link) -> Result<(), Failure> {
    let (tree, zxid) = copy(core)?;
    let stall = core.peers().expect("a link belongs to an ensemble").config().stall_timeout;
    let mut progress = Progress::new("sending a snapshot", Some(tree.stats().data_bytes));
    let mut out = Vec::with_capacity(2 * CHUNK);
    FromLeader::Snap { zxid }.encode(&mut out);
    // The two tables have their counts in front.
    let mut tables = [(0_usize, Vec::new()), (0, Vec::new())];
    let mut walk = tree.walk();
    loop {
        let mut part = Vec::new();
        let table = match walk.next(&tree, CHUNK, &mut part) {
            engine::WalkPart { kind: engine::WalkKind::Sessions, count } => (&mut tables[0], count),
            engine::WalkPart { kind: engine::WalkKind::Acls, count } => (&mut tables[1], count),
            engine::WalkPart { kind: engine::WalkKind::Nodes | engine::WalkKind::Done, .. } => break,
        };
        table.0.0 += table.1 as usize;
        table.0.1.append(&mut part);
    }
    for (count, bytes) in tables {
        out.put_count(count);
        out.extend_from_slice(&bytes);
    }
    let mut written = Ok(());
    tree.each_parent_first(&mut |record| {
        out.extend_from_slice(record);
        if out.len() >= CHUNK && written.is_ok() {
            written = link.write_job(&out, stall);
            progress.add(link, out.len());
            out.clear();
        }
    });
    written?;
    out.put_str("/");
    out.put_str(END_MARK);
    link.write_job(&out, stall)?;
    progress.add(link, out.len());
    progress.done(link, zxid);
    Ok(())
}

/// The state at one zxid, apart from the one that goes on changing.
fn copy(core: &Core) -> Result<(Arc<Tree>, Zxid), Failure> {
    let wrong = |e: &dyn fmt::Debug| Failure::Copy(format!("{e:?}"));
    let (copy, mut applier) = engine::new(core.tree.config().clone());
    let importer = applier.import();
    let mut walk = core.tree.walk();
    let start = walk.start();
    let mut part = Vec::with_capacity(2 * CHUNK);
    loop {
        part.clear();
        let engine::WalkPart { kind, count } = walk.next(&core.tree, CHUNK / 4, &mut part);
        match kind {
            engine::WalkKind::Sessions => importer.sessions(&part, count),
            engine::WalkKind::Acls => importer.acls(&part, count),
            engine::WalkKind::Nodes => importer.nodes(&part, count),
            engine::WalkKind::Done => break,
        }
        .map_err(|e| wrong(&e))?;
    }
    let (end, digest) = walk.end().expect("a walk that is done has an end");
    let digest = copy.config().digest_enabled.then_some(digest);
    importer.finish(start, Some(Settled { zxid: end, digest })).map_err(|e| wrong(&e))?;
    if start < end {
        core.log.read_log(start, end, |_, record| {
            applier.apply(record, &Nobody, &mut |_, _| {}).map_err(|e| wrong(&e))
        })?;
    }
    // A new epoch may have begun without a record.
    applier.advance(end);
    copy.check_links().map_err(|e| wrong(&e))?;
    if copy.digest_mismatches() > 0 {
        return Err(Failure::Copy("its digest is not the tree's".into()));
    }
    Ok((copy, end))
}

fn send_log(core: &Core, link: &Link, after: Zxid, upto: Zxid) -> Result<(), Failure> {
    let stall = core.peers().expect("a link belongs to an ensemble").config().stall_timeout;
    let mut progress = Progress::new("sending a stretch of the log", None);
    let mut out = Vec::with_capacity(2 * CHUNK);
    let mut last = after;
    core.log.read_log(after, upto, |zxid, record| {
        // Within an epoch nothing may be left out; how an epoch ends, only its leader knows.
        if zxid.epoch() == last.epoch() && last.next() != Some(zxid) {
            return Err(Failure::Hole { wanted: last.next().unwrap_or(last), found: zxid });
        }
        last = zxid;
        FromLeader::Proposal { zxid, record }.encode(&mut out);
        FromLeader::Commit { zxid }.encode(&mut out);
        if out.len() >= CHUNK {
            link.write_job(&out, stall)?;
            progress.add(link, out.len());
            out.clear();
        }
        Ok::<(), Failure>(())
    })?;
    if last != upto {
        return Err(Failure::Hole { wanted: upto, found: last });
    }
    link.write_job(&out, stall)?;
    progress.add(link, out.len());
    progress.done(link, upto);
    Ok(())
}

/// Looks in the log for the last record at or before `zxid`, for a learner whose history ends there.
pub fn find_in_log(core: Arc<Core>, link: LinkId, zxid: Zxid) {
    let told = core.clone();
    let run = move || {
        let found = look(&core, zxid);
        core.submit_found_in_log(link, found);
        core.pump_aside();
    };
    if let Err(e) = std::thread::Builder::new().name("sync".into()).spawn(run) {
        tracing::warn!("no thread to look into the log for a learner: {e}");
        told.submit_found_in_log(link, None);
    }
}

/// A stretch of the log longer than the tree, and than this, costs more than a snapshot, bytes.
const LOG_MIN: u64 = 16 << 20;

fn look(core: &Core, zxid: Zxid) -> Option<Zxid> {
    let worth = LOG_MIN.max(core.tree.stats().data_bytes);
    let mut found = None;
    let mut behind = 0;
    let mut reader = core.log.reader_around(zxid).ok()?;
    if reader.base() <= zxid && reader.base() > Zxid::ZERO {
        found = Some(reader.base());
    }
    loop {
        let batch = match reader.next_batch() {
            Ok(Some(batch)) => batch,
            Ok(None) => return found,
            Err(e) => {
                tracing::warn!(
                    "the log can't be read for a learner, it gets a snapshot: {}",
                    with_causes(&e)
                );
                return None;
            }
        };
        for (at, record) in batch.records() {
            if at <= zxid {
                found = Some(at);
            } else {
                behind += record.len() as u64;
            }
        }
        if behind > worth {
            return None;
        }
    }
}

/// Reads the raw snapshot that comes through `link`, from a Falconer or not, of which `ahead` has been read already, into the
/// tree. Every txn up to the zxid is in it.
pub fn receive_snapshot(
    core: Arc<Core>,
    link: Arc<Link>,
    (zxid, falconer): (Zxid, bool),
    applier: Box<Applier>,
    ahead: Vec<u8>,
) {
    let shared = Arc::new(parking_lot::Mutex::new(Some(applier)));
    let (taken, told, id) = (shared.clone(), core.clone(), link.id);
    let run = move || {
        let mut applier = taken.lock().take().expect("it is put there once, before the thread begins");
        let peers = core.peers().expect("a link belongs to an ensemble");
        let patience = peers.config().stall_timeout;
        let mut source = Source {
            link: &link,
            ahead: ahead.into(),
            patience,
            progress: Progress::new("reading a snapshot", None),
        };
        let read = read_snapshot(&core, &mut source, &mut applier, (zxid, falconer));
        let behind = match read {
            Ok(behind) => {
                source.progress.done(&link, zxid);
                Some(behind)
            }
            Err(why) => {
                tracing::warn!(peer = %link.peer, "the leader's snapshot is of no use: {why}");
                link.cut();
                None
            }
        };
        core.submit_snapshot_received(link.id, *applier, behind.is_some());
        // Only now the packets behind it.
        peers.tell(Message::Received(link.id, behind));
        core.pump_aside();
    };
    if let Err(e) = std::thread::Builder::new().name("sync".into()).spawn(run) {
        tracing::warn!("no thread to read a snapshot: {e}");
        if let Some(applier) = shared.lock().take() {
            told.submit_snapshot_received(id, *applier, false);
        }
    }
}

/// Returns the bytes behind the snapshot.
fn read_snapshot(
    core: &Core,
    source: &mut Source<'_>,
    applier: &mut Applier,
    (zxid, falconer): (Zxid, bool),
) -> Result<Vec<u8>, String> {
    let importer = applier.import();
    let (settled, behind) = match falconer {
        true => {
            let settled = importer.read(source, zxid).map_err(|e| with_causes(&e))?;
            (Some(settled), std::mem::take(&mut source.ahead).into())
        }
        false => (None, read_apache(source, &importer)?),
    };
    importer.finish(zxid, settled).map_err(|e| with_causes(&e))?;
    core.plant_config(applier);
    Ok(behind)
}

fn read_apache(source: &mut Source<'_>, importer: &Importer<'_>) -> Result<Vec<u8>, String> {
    let mut sink = |kind, count, bytes: &[u8]| match kind {
        Kind::Sessions => importer.sessions(bytes, u64::from(count)),
        Kind::Acls => importer.acls(bytes, u64::from(count)),
        Kind::Nodes => importer.nodes(bytes, u64::from(count)),
    };
    let (_, mut behind) = snapshot::apache::read_body(&mut *source, "the snapshot of the leader", &mut sink)
        .map_err(|e| match e {
            snapshot::LoadError::Snapshot(e) => with_causes(&e),
            snapshot::LoadError::Sink(e) => with_causes(&e),
        })?;
    let mut mark = Vec::new();
    mark.put_str(END_MARK);
    while behind.len() < mark.len() {
        let mut chunk = [0; 64];
        match source.read(&mut chunk) {
            Ok(0) => return Err("it ends before its end mark".into()),
            Ok(n) => behind.extend_from_slice(&chunk[..n]),
            Err(e) => return Err(e.to_string()),
        }
    }
    if !behind.starts_with(&mark) {
        return Err(format!("{END_MARK:?} is not what stands behind it"));
    }
    behind.drain(..mark.len());
    Ok(behind)
}

/// The bytes of a link, waited for.
struct Source<'a> {
    link: &'a Link,
    ahead: std::collections::VecDeque<u8>,
    patience: Duration,
    progress: Progress,
}

impl Read for Source<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if !self.ahead.is_empty() {
            let n = self.ahead.read(out)?;
            self.progress.add(self.link, n);
            return Ok(n);
        }
        let until = Instant::now() + self.patience;
        loop {
            match self.link.stream().read(out) {
                Ok(n) => {
                    self.progress.add(self.link, n);
                    return Ok(n);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    let left = until.saturating_duration_since(Instant::now());
                    if self.link.is_cut() || left.is_zero() {
                        return Err(io::Error::new(ErrorKind::TimedOut, "the leader sends nothing more"));
                    }
                    self.link.wait_readable(left);
                }
                Err(e) => return Err(e),
            }
        }
    }
}

/// Records of the own log, the newest `keep` of them, for the memory of a leader.
#[derive(Default)]
pub struct Recent {
    records: std::collections::VecDeque<(Zxid, Box<[u8]>)>,
    keep: usize,
}

impl Recent {
    /// Keeps the newest `keep`.
    pub fn new(keep: usize) -> Recent {
        Recent { records: Default::default(), keep }
    }

    /// One more, behind the others.
    pub fn push(&mut self, zxid: Zxid, record: &[u8]) {
        if self.keep == 0 {
            return;
        }
        if self.records.len() == self.keep {
            self.records.pop_front();
        }
        self.records.push_back((zxid, record.into()));
    }

    /// As one batch.
    pub fn into_batches(self) -> Vec<Arc<RecordBatch>> {
        if self.records.is_empty() {
            return Vec::new();
        }
        let mut batch = RecordBatch::new();
        for (zxid, record) in self.records {
            batch.push_with(zxid, |out| out.extend_from_slice(&record));
        }
        vec![Arc::new(batch)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits;
    use proto::txn::{CreateTxnKind, Record, Txn, TxnHeader};
    use proto::{SessionId, WallMs, Xid, acl};
    use std::convert::Infallible;
    use std::net::{TcpListener, TcpStream};

    struct World {
        tree: Arc<Tree>,
        applier: Applier,
        zxid: u64,
        log: Vec<Vec<u8>>,
    }

    impl World {
        /// A tree of so many znodes.
        fn new(znodes: u64) -> World {
            let (tree, applier) = engine::new(engine::TreeConfig::default());
            let mut w = World { tree, applier, zxid: 0, log: Vec::new() };
            for n in 0..znodes {
                w.create(&format!("/{n}"), &[b'x'; 100]);
            }
            w.log.clear();
            w
        }

        fn create(&mut self, path: &str, data: &[u8]) {
            self.apply(Txn::Create {
                kind: CreateTxnKind::Create,
                path: path.into(),
                data: Some(data),
                acl: acl::OPEN,
                ephemeral: false,
                parent_cversion: self.zxid as i32 + 1,
            });
        }

        fn apply(&mut self, txn: Txn<'_>) {
            self.zxid += 1;
            let header = TxnHeader {
                session: SessionId(1),
                cxid: Xid(1),
                zxid: Zxid::from_u64(self.zxid),
                time: WallMs(1),
                kind: txn.kind(),
            };
            let mut record = Vec::new();
            Record { header, txn, digest: None }.encode(&mut record);
            self.applier.apply(&record, &Nobody, &mut |_, _| {}).unwrap();
            self.log.push(record);
        }
    }

    #[test]
    fn a_large_tree_goes_out_part_by_part_while_it_changes() {
        let znodes = 100_000;
        let mut w = World::new(znodes);
        let (tree, mut sent, mut largest, mut puts) = (w.tree.clone(), Vec::new(), 0, 0);
        let start = stream(&tree, &mut |part| {
            // Nothing else is in memory: what went before is gone, what follows is not made yet.
            largest = largest.max(part.len());
            puts += 1;
            sent.extend_from_slice(part);
            w.create(&format!("/new-{puts}"), &[b'y'; 100]);
            w.apply(Txn::Delete { path: format!("/{}", 3 * puts).into(), container: false });
            Ok::<(), Infallible>(())
        })
        .unwrap();
        assert!(sent.len() > 10_000_000, "{} bytes in all", sent.len());
        assert!(largest < 2 * CHUNK && puts > 20, "{puts} parts, of {largest} bytes at most");

        let packet = proto::peer::packet_len(&sent, 1 << 20).unwrap().unwrap();
        let (copy, mut applier) = engine::new(engine::TreeConfig::default());
        let importer = applier.import();
        let mut rest = &sent[packet..];
        let settled = importer.read(&mut rest, start).unwrap();
        assert!(rest.is_empty() && settled.zxid > start);
        importer.finish(start, Some(settled)).unwrap();
        for record in &w.log {
            applier.apply(record, &Nobody, &mut |_, _| {}).unwrap();
        }
        assert_eq!((copy.digest_mismatches(), copy.check_links()), (0, Ok(())));
        assert_eq!(copy.applied_digest(), w.tree.applied_digest());
        assert_eq!(copy.stats().znodes, w.tree.stats().znodes);
    }

    #[test]
    fn a_learner_that_takes_nothing_costs_a_window_and_one_that_is_gone_ends_it() {
        let w = World::new(100_000);
        for dies in [false, true] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (theirs, peer) = listener.accept().unwrap();
            ours.set_nonblocking(true).unwrap();
            let link = Link::new(LinkId(1), peer, None, mio::net::TcpStream::from_std(ours));
            link.push_job(Job::Snapshot { falconer: true }).unwrap();
            let mut theirs = Some(theirs);
            let (mut most, mut sent) = (0, 0);
            let stall = Duration::from_millis(if dies { 60_000 } else { 100 });
            let ended = stream(&w.tree, &mut |part| {
                if dies && sent > 0 {
                    theirs = None;
                }
                let written = link.write_job(part, stall);
                sent += part.len();
                most = most.max(link.unsent());
                written
            });
            assert!(ended.is_err(), "it took {sent} bytes");
            assert!(most <= limits::JOB_WINDOW + 2 * CHUNK, "{most} bytes are kept for it");
        }
    }
}
