//! The first start on a directory of Apache ZooKeeper: its newest snapshot and its log become a snapshot of
//! Falconer's own. Apache's files are read and never changed; until the superblock is written, which is last, the
//! directory is Apache's, and a crash in between lets the next start begin again.

use crate::boot::{Failure, Nobody, tree_config, unfit, with_causes};
use crate::log::random;
use crate::snapshots::Snapshots;
use config::Settings;
use proto::{Epoch, ServerId, Zxid};
use snapshot::apache::{self, Start};
use snapshot::{Catalogue, Kind};
use std::path::Path;
use std::sync::Arc;
use vfs::Dir;

/// What an import leaves for the superblock.
pub struct Imported {
    /// The id that the snapshot was written under.
    pub cluster: u64,
    /// Apache's accepted and current epoch.
    pub epochs: (Epoch, Epoch),
}

/// Imports `version-2` below the data directories, if it holds anything.
pub fn import_apache(
    settings: &Settings,
    snapshot_dir: &Arc<dyn Dir>,
    server: ServerId,
) -> Result<Option<Imported>, Failure> {
    let Some(snapshots) = version_2(&settings.storage.data_dir)? else { return Ok(None) };
    let logs = version_2(&settings.storage.data_log_dir)?.unwrap_or_else(|| snapshots.clone());
    let refuse = |what: &dyn std::fmt::Display| {
        Failure::Corrupt(format!(
            "the data of Apache ZooKeeper in {} can't be taken over: {what}; nothing was changed. Start Apache on it, \
             or restore a backup",
            snapshots.path().display()
        ))
    };
    let plan = apache::plan_import(&*snapshots, &*logs, settings.storage.trust_empty_snapshot)
        .map_err(|e| refuse(&e))?;
    for skipped in &plan.skipped {
        tracing::warn!(snapshot = skipped.name, "not usable, an older one is taken: {}", skipped.why);
    }
    let (tree, mut applier) = engine::new(tree_config(settings));
    let start = match &plan.start {
        Start::Nothing => return Ok(None),
        Start::EmptyTree => Zxid::ZERO,
        Start::Snapshot(candidate, summary) => {
            tracing::info!(snapshot = candidate.name, "taking over the data of Apache ZooKeeper");
            let importer = applier.import();
            apache::read(&*snapshots, &candidate.name, &mut |kind, count, bytes| match kind {
                Kind::Sessions => importer.sessions(bytes, u64::from(count)),
                Kind::Acls => importer.acls(bytes, u64::from(count)),
                Kind::Nodes => importer.nodes(bytes, u64::from(count)),
            })
            .map_err(|e| match e {
                snapshot::LoadError::Snapshot(e) => refuse(&e),
                snapshot::LoadError::Sink(e) => refuse(&unfit(&candidate.name, e)),
            })?;
            // A server that has not applied anything yet, as at its first start, writes a blank: zxid 0, digest 0.
            let digest = summary.digest.filter(|d| d.zxid > Zxid::ZERO);
            let settled = digest.map(|d| engine::Settled { zxid: d.zxid, digest: d.digest.map(|d| d.value) });
            importer.finish(candidate.zxid, settled).map_err(|e| refuse(&unfit(&candidate.name, e)))?;
            candidate.zxid
        }
    };
    let mut reader = wal::apache::Reader::open(&*logs, start).map_err(|e| refuse(&e))?;
    let mut replayed = 0_u64;
    while let Some((zxid, record)) = reader.next_record().map_err(|e| refuse(&e))? {
        applier
            .apply(record, &Nobody, &mut |_, _| {})
            .map_err(|e| refuse(&format_args!("the record {zxid} can't be applied: {e:?}")))?;
        replayed += 1;
    }
    if tree.applied() < plan.must_reach {
        let (found, wanted) = (tree.applied(), plan.must_reach);
        return Err(refuse(&format_args!(
            "the log ends at {found}, and a snapshot says that it went to {wanted}"
        )));
    }
    tree.check_links().map_err(|e| refuse(&format_args!("snapshot and log do not fit together: {e:?}")))?;
    let epochs = plan.epochs.resolve(tree.applied()).map_err(|e| refuse(&e))?;

    let cluster = random().max(1);
    let catalogue = Catalogue::open(snapshot_dir.clone(), None)
        .map_err(|e| Failure::DataDir(format!("the snapshots can't be listed: {}", with_causes(&e))))?;
    let own = Snapshots::new(snapshot_dir.clone(), catalogue, cluster, server);
    own.write(&tree, &crate::core::wall_now, &|| false, None)
        .map_err(|e| Failure::DataDir(format!("the imported state can't be written: {e}")))?;
    tracing::info!(
        zxid = %tree.applied(),
        znodes = tree.stats().znodes,
        sessions = tree.session_count(),
        replayed,
        digest_mismatches = tree.digest_mismatches(),
        "the data of Apache ZooKeeper is taken over; its files in version-2 are left as they are"
    );
    Ok(Some(Imported { cluster, epochs: (epochs.accepted, epochs.current) }))
}

fn version_2(dir: &Path) -> Result<Option<Arc<dyn Dir>>, Failure> {
    let path = dir.join("version-2");
    if !path.is_dir() {
        return Ok(None);
    }
    match vfs::os::OsDir::existing(&path) {
        Ok(dir) => Ok(Some(Arc::new(dir))),
        Err(e) => Err(Failure::DataDir(format!("{} can't be read: {e}", path.display()))),
    }
}
