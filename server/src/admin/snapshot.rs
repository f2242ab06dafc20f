//! The command `snapshot`: the state of one moment, in Apache's format.
//!
//! The walk over the tree is fuzzy, and Apache has no log of ours to repair it with. So it is gathered into a tree of
//! its own, the log from its start to its end is replayed over that, and the copy is sent: writes go on meanwhile,
//! at the price of a second tree in memory until the answer has left. It touches no disk, whose queue the log needs. With
//! `streaming=false` nothing is sent: the server writes a snapshot of its own, beside requests.

use super::{Answer, Shared};
use crate::boot::{Nobody, tree_config};
use crate::core::Core;
use crate::json;
use crate::stats::{Counter, Measure};
use proto::Zxid;
use proto::txn::DIGEST_VERSION;
use snapshot::apache::{Export, Ordered, Sections, TreeDigest};
use snapshot::{Digest, Kind};
use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc;

/// Bytes of records taken from the tree in one slice.
const SLICE_BYTES: usize = 64 << 10;

/// Bytes sent in one piece.
const PIECE_BYTES: usize = 256 << 10;

/// Answers with the bytes of a snapshot in Apache's format; with `streaming=false` the server writes one of its own, and the
/// answer is its zxid and size alone.
pub fn answer(shared: &Arc<Shared>, core: &Arc<Core>, query: &super::commands::Query) -> Answer {
    let fail =
        |status: u16, error: &str| Answer::json(status, &json!({ "command": "snapshot", "error": error }));
    let Some(admin) = core.settings.operations.admin.as_ref().filter(|a| a.snapshot_enabled) else {
        return fail(503, "the command is disabled: admin.snapshot.enabled");
    };
    if !shared.snapshots.allow(std::time::Duration::from_micros(u64::from(admin.rate_limit))) {
        core.stats.add(Counter::SnapshotLimited, 1);
        return fail(429, "too many snapshots: admin.rateLimiterIntervalInMS");
    }
    let Ok(one) = shared.snapshot_running.clone().try_acquire_owned() else {
        core.stats.add(Counter::SnapshotLimited, 1);
        return fail(429, "another snapshot is being taken");
    };
    let streaming =
        query.iter().find(|(k, _)| k == "streaming").is_none_or(|(_, v)| v.eq_ignore_ascii_case("true"));
    let answer_with = |mut answer: Answer, zxid: Zxid, size: u64| {
        answer.headers.push(("last_zxid", format!("0x{:x}", zxid.as_u64())));
        answer.headers.push(("snapshot_size", size.to_string()));
        answer
    };
    if !streaming {
        // Nobody wants it elsewhere: it is the server's own that is to be new.
        return match core.log.demand_snapshot(core) {
            Ok((zxid, size)) => {
                let body = json!({ "command": "snapshot", "error": super::json::Json::Null });
                answer_with(Answer::json(200, &body), zxid, size)
            }
            Err(why) => {
                tracing::error!("no snapshot for the admin interface: {why}");
                fail(500, &why)
            }
        };
    }
    let started = Instant::now();
    let taken = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("export".into()).spawn_scoped(scope, || {
            // Requests first, as for the server's own.
            if let Err(e) = vfs::os::raise_priority(crate::log::SNAPSHOT_PRIORITY) {
                tracing::debug!("the export of a snapshot runs at normal priority: {e}");
            }
            take(core)
        });
        match thread {
            Ok(thread) => thread.join().expect("a thread that panics has ended the process"),
            Err(e) => Err(format!("the thread export can't be started: {e}")),
        }
    });
    core.stats.measure(Measure::Snapshot, started.elapsed().as_nanos() as u64, 1);
    let failed = |why: &str| {
        core.stats.add(Counter::SnapshotErrors, 1);
        tracing::error!("no snapshot for the admin interface: {why}");
        fail(500, why)
    };
    let (zxid, state, size) = match taken {
        Ok(taken) => taken,
        Err(why) => return failed(&why),
    };
    let (mut answer, pieces) = Answer::stream("application/octet-stream", size);
    let send = move || {
        let mut out = BufWriter::with_capacity(PIECE_BYTES, Pieces(pieces));
        // An error: the client is gone, or the connection's time is over.
        let sent = state.write_to(&mut out);
        // Whoever has seen the end may ask for the next one, so it leaves when the memory of this one is free.
        drop(state);
        drop(one);
        let _ = sent.and_then(|()| out.flush());
    };
    if let Err(e) = std::thread::Builder::new().name("export".into()).spawn(send) {
        return failed(&format!("the thread export can't be started: {e}"));
    }
    let name = format!("attachment; filename=\"snapshot.{:x}\"", zxid.as_u64());
    answer.headers.push(("content-disposition", name));
    answer_with(answer, zxid, size)
}

/// Each write leaves as a piece of the answer.
struct Pieces(mpsc::Sender<Vec<u8>>);

impl Write for Pieces {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        self.0.blocking_send(piece.to_vec()).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Takes the state of one moment, with its zxid and the bytes that it will have.
fn take(core: &Core) -> Result<(Zxid, Ordered, u64), String> {
    let (copy, mut applier) = engine::new(tree_config(&core.settings));
    let end = {
        let importer = applier.import();
        let mut walk = core.tree.walk();
        let start = walk.start();
        crate::disk::copy(&core.tree, &mut walk, &importer)
            .map_err(|e| format!("a part of the tree does not fit: {e}"))?;
        let (end, digest) = walk.end().expect("a walk that is done has an end");
        let digest = core.tree.config().digest_enabled.then_some(digest);
        importer
            .finish(start, Some(engine::Settled { zxid: end, digest }))
            .map_err(|e| format!("the parts of the tree do not fit together: {e:?}"))?;
        end
    };
    // What was applied is durable: it can be read back.
    let start = copy.applied();
    let mut reader = core.log.reader(start).map_err(|e| crate::boot::with_causes(&e))?;
    while copy.applied() < end {
        let batch = reader.next_batch().map_err(|e| crate::boot::with_causes(&e))?;
        let Some(batch) = batch else { return Err(format!("the log ends before {end}")) };
        for (zxid, record) in batch.records() {
            if zxid > start && zxid <= end {
                applier
                    .apply(record, &Nobody, &mut |_, _| {})
                    .map_err(|e| format!("{zxid} can't be applied: {e:?}"))?;
            }
        }
    }
    drop(applier);
    let mut export = Export::new();
    let mut walk = copy.walk();
    let mut slice = Vec::with_capacity(SLICE_BYTES + 4096);
    loop {
        slice.clear();
        let part = walk.next(&copy, SLICE_BYTES, &mut slice);
        let kind = match part.kind {
            engine::WalkKind::Sessions => Kind::Sessions,
            engine::WalkKind::Acls => Kind::Acls,
            engine::WalkKind::Nodes => Kind::Nodes,
            engine::WalkKind::Done => break,
        };
        let count = u32::try_from(part.count).expect("a slice holds far fewer records");
        export.part(kind, count, &slice).map_err(|e| crate::boot::with_causes(&e))?;
    }
    let digest = copy.config().digest_enabled.then(|| TreeDigest {
        zxid: end,
        digest: Some(Digest { version: DIGEST_VERSION as u32, value: copy.digest() }),
    });
    drop(copy);
    let sections = Sections { last_processed: digest.is_some().then_some(end), digest };
    let state = export.in_order(sections).map_err(|e| crate::boot::with_causes(&e))?;
    let size = state.size().map_err(|e| format!("the state does not fit the format: {e}"))?;
    Ok((end, state, size))
}
