//! What is on disk becomes a tree: at the start, and when a role changed so much that the tree is built again. And the
//! other way: log and snapshots are cut where another server's history says so.

use crate::admin::{Phase, Progress};
use crate::boot::{Failure, Nobody, unfit, with_causes};
use crate::core::wall_now;
use crate::snapshots::cluster_bytes;
use config::{Ensemble, Settings};
use engine::{Applier, Tree};
use proto::{Durable, WallMs, Zxid};
use snapshot::{Catalogue, Kind};
use std::sync::Arc;
use vfs::Dir;
use wal::{Appender, Recovery, Superblock};

/// Loads the newest snapshot that can be loaded and that the log reaches back to; a fresh tree when there is none and the log
/// begins at the beginning. Returns the zxid up to which the log is needed over it.
pub fn load_newest(
    settings: &Settings,
    progress: &Progress,
    catalogue: &mut Catalogue,
    log_base: Zxid,
    applier: &mut Applier,
) -> Result<Zxid, Failure> {
    let workers = std::thread::available_parallelism().map_or(1, |n| n.get());
    while let Some(entry) = catalogue.entries().first().cloned() {
        if entry.start() < log_base {
            break;
        }
        let importer = applier.import();
        let loaded = catalogue.snapshot(&entry).map_err(snapshot::LoadError::Snapshot).and_then(|s| {
            progress.enter(Phase::Loading, entry.footer().raw);
            s.load(workers, &|kind, count, bytes| {
                progress.advance(bytes.len() as u64);
                match kind {
                    Kind::Sessions => importer.sessions(bytes, u64::from(count)),
                    Kind::Acls => importer.acls(bytes, u64::from(count)),
                    Kind::Nodes => importer.nodes(bytes, u64::from(count)),
                }
            })
        });
        let digest = entry.footer().digest.map(|d| d.value);
        let settled = Some(engine::Settled { zxid: entry.end(), digest });
        let done = match loaded {
            Ok(()) => importer.finish(entry.start(), settled).map_err(|e| unfit(entry.name(), e)),
            Err(snapshot::LoadError::Snapshot(e)) => Err(e),
            Err(snapshot::LoadError::Sink(e)) => Err(unfit(entry.name(), e)),
        };
        match done {
            Ok(()) => {
                // Read through just now: retention need not read it again.
                if let Err(e) = catalogue.mark_verified(entry.start(), wall_now()) {
                    tracing::warn!("the manifest of the snapshots can't be written: {}", with_causes(&e));
                }
                return Ok(entry.end());
            }
            // The disk's fault, or a newer format, says nothing against the file: an older one would hide it.
            Err(why) if !why.is_damage() => {
                return Err(Failure::DataDir(format!(
                    "{} can't be read: {}",
                    entry.name(),
                    with_causes(&why)
                )));
            }
            Err(why) => {
                tracing::error!(snapshot = entry.name(), "unusable, the one before it is tried: {why}");
                catalogue.reject(entry.start(), why);
            }
        }
    }
    if log_base > Zxid::ZERO {
        return Err(Failure::Corrupt(format!(
            "the log begins after {log_base} and no usable snapshot in {} reaches that far: restore a backup",
            settings.storage.data_dir.display()
        )));
    }
    applier.reset();
    Ok(Zxid::ZERO)
}

/// Applies one record of the log.
pub fn replay_one(applier: &mut Applier, zxid: Zxid, record: &[u8]) -> Result<(), Failure> {
    applier.apply(record, &Nobody, &mut |_, _| {}).map_err(|e| {
        Failure::Corrupt(format!("the record {zxid} of the log is intact but can't be applied: {e:?}"))
    })
}

/// After the replay over the snapshot that begins at `start` and needs the log up to `end`: whether that is the state.
pub fn check_tree(settings: &Settings, tree: &Tree, start: Zxid, end: Zxid) -> Result<(), Failure> {
    if tree.applied() < end {
        return Err(Failure::Corrupt(format!(
            "the snapshot {start} needs the log up to {end}, which ends at {}: segments are missing in {}; \
             bring them back, or restore a backup",
            tree.applied(),
            settings.storage.data_log_dir.display()
        )));
    }
    tree.check_links().map_err(|e| {
        Failure::Corrupt(format!("snapshot {start} and log do not fit together: {e:?}; restore a backup"))
    })?;
    if tree.digest_mismatches() > 0 {
        tracing::error!(
            mismatches = tree.digest_mismatches(),
            "the state that was replayed differs from the one that was logged: compare with a backup"
        );
    }
    Ok(())
}

/// Sets `/zookeeper/config`: no txn, each server sets its own.
pub fn plant_config(applier: &mut Applier, ensemble: &Ensemble, now: WallMs) {
    applier.set_config(ensemble.config_text().as_bytes(), ensemble.version as i64, now, &Nobody);
}

/// Cuts log and snapshots behind `after`. If there is a snapshot of just that state, the log begins anew behind it;
/// if what is left does not reach back to a snapshot, everything goes, since only a whole copy of another server's state can
/// help then. Returns where the log ends.
///
/// | crash | what the next start finds |
/// |---|---|
/// | before the first write of the superblock | nothing has happened |
/// | before the second | the cut is asked for: [`finish_cut`] does all of it again, whatever was done |
pub fn cut(
    appender: &mut Appender,
    superblock: &mut Superblock,
    catalogue: &mut Catalogue,
    after: Zxid,
) -> Result<Durable, Failure> {
    let stuck = |e: snapshot::Error| {
        Failure::DataDir(format!("snapshots that were cut off can't be removed: {}", with_causes(&e)))
    };
    superblock.begin_cut(after)?;
    let gone = catalogue.truncated(after).map_err(stuck)?;
    if !gone.is_empty() {
        tracing::info!(%after, snapshots = gone.join(" "), "removed: they reach further than the history that holds");
    }
    let newest = catalogue.entries().first().map(|e| (e.start(), e.end()));
    let durable = match newest {
        Some((start, end)) if start == after && end == after => appender.begin_anew(after, superblock)?,
        Some((start, _)) if start >= appender.base() => appender.truncate_after(after, superblock)?,
        _ if appender.base() == Zxid::ZERO => appender.truncate_after(after, superblock)?,
        _ => {
            catalogue.truncated(Zxid::ZERO).map_err(stuck)?;
            appender.begin_anew(Zxid::ZERO, superblock)?
        }
    };
    superblock.end_cut()?;
    Ok(durable)
}

/// Finishes a cut that a crash has interrupted, before anything is read.
pub fn finish_cut(
    superblock: &mut Superblock,
    log_dir: &Arc<dyn Dir>,
    snapshot_dir: &Arc<dyn Dir>,
    config: wal::Config,
) -> Result<(), Failure> {
    let Some(after) = superblock.contents().cut else { return Ok(()) };
    tracing::info!(%after, "the last run was about to cut log and snapshots: that is done now");
    let cluster = cluster_bytes(superblock.contents().identity.cluster);
    let mut catalogue = Catalogue::open(snapshot_dir.clone(), Some(cluster))
        .map_err(|e| Failure::DataDir(format!("the snapshots can't be listed: {}", with_causes(&e))))?;
    let recovery = Recovery::open(log_dir.clone(), superblock, config)?;
    let mut log = recovery.finish(superblock, Zxid::ZERO)?;
    cut(&mut log.appender, superblock, &mut catalogue, after)?;
    Ok(())
}
