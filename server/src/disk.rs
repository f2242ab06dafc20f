//! What is on disk becomes a tree: at the start, and when a role changed so much that the tree is built again. And the
//! other way: log and snapshots are cut where another server's history says so.

use crate::admin::{Phase, Progress};
use crate::boot::{Failure, Nobody, unfit, with_causes};
use crate::core::wall_now;
use crate::replay::Cores;
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
            Ok(()) => importer
                .finish_with(&Cores::all(), entry.start(), settled)
                .map_err(|e| unfit(entry.name(), e)),
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

/// Bytes of records taken from a tree in one slice.
const SLICE_BYTES: usize = 64 << 10;

/// Gives everything that `walk` finds in `tree` to the importer of another one.
///
/// # Errors
/// When a part does not fit: never, for what a tree gives.
pub fn copy(
    tree: &Tree,
    walk: &mut engine::Walk,
    importer: &engine::Importer<'_>,
) -> Result<(), engine::ImportError> {
    let mut slice = Vec::with_capacity(SLICE_BYTES + 4096);
    loop {
        slice.clear();
        let part = walk.next(tree, SLICE_BYTES, &mut slice);
        match part.kind {
            engine::WalkKind::Sessions => importer.sessions(&slice, part.count)?,
            engine::WalkKind::Acls => importer.acls(&slice, part.count)?,
            engine::WalkKind::Nodes => importer.nodes(&slice, part.count)?,
            engine::WalkKind::Done => return Ok(()),
        }
    }
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

/// Cuts log and snapshots behind `after`: see [`wal::cut`].
pub fn cut(
    appender: &mut Appender,
    superblock: &mut Superblock,
    catalogue: &mut Catalogue,
    after: Zxid,
) -> Result<Durable, Failure> {
    wal::cut(appender, superblock, after, |upto| {
        let gone = catalogue.truncated(upto).map_err(|e| {
            Failure::DataDir(format!("snapshots that were cut off can't be removed: {}", with_causes(&e)))
        })?;
        if !gone.is_empty() {
            tracing::info!(%upto, snapshots = gone.join(" "), "removed: they reach further than the history that holds");
        }
        Ok(catalogue.entries().first().map(|e| (e.start(), e.end())))
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use proto::txn::{Record, Txn, TxnHeader};
    use proto::{Epoch, ServerId, SessionId, Xid};
    use snapshot::{Header, Writer};
    use std::ops::ControlFlow;
    use vfs::mem::{Disk, Failure as DiskFailure};
    use wal::{Config, Identity};

    const CLUSTER: u64 = 7;

    fn z(n: u64) -> Zxid {
        Zxid::new(Epoch(1), n as u32)
    }

    fn config() -> Config {
        Config { segment_len: 64 << 10, ..Config::default() }
    }

    fn record(n: u64) -> Vec<u8> {
        let txn = Txn::Create {
            kind: proto::txn::CreateTxnKind::Create,
            path: format!("/n{n}").into(),
            data: None,
            acl: proto::acl::OPEN,
            ephemeral: false,
            parent_cversion: n as i32,
        };
        let (session, cxid, time) = (SessionId(1), Xid(0), WallMs(0));
        let header = TxnHeader { session, cxid, zxid: z(n), time, kind: txn.kind() };
        let mut out = Vec::new();
        Record { header, txn, digest: None }.encode(&mut out);
        out
    }

    fn apply(applier: &mut Applier, record: &[u8]) {
        applier.apply(record, &crate::boot::Nobody, &mut |_, _| {}).unwrap();
    }

    fn catalogue(disk: &Disk) -> Catalogue {
        Catalogue::open(disk.dir("snapshot"), Some(cluster_bytes(CLUSTER))).unwrap()
    }

    fn write_snapshot(disk: &Disk, tree: &Tree) {
        let zxid = tree.applied();
        let header =
            Header { cluster: cluster_bytes(CLUSTER), server: ServerId(1), start: zxid, written: WallMs(0) };
        let pace = Box::new(|_: u64| ControlFlow::Continue(()));
        let mut writer = Writer::create(disk.dir("snapshot"), header, pace).unwrap();
        let mut walk = tree.walk();
        loop {
            let mut part = Vec::new();
            let got = walk.next(tree, 1 << 20, &mut part);
            let kind = match got.kind {
                engine::WalkKind::Sessions => Kind::Sessions,
                engine::WalkKind::Acls => Kind::Acls,
                engine::WalkKind::Nodes => Kind::Nodes,
                engine::WalkKind::Done => break,
            };
            if got.count > 0 {
                writer.part(kind, got.count as u32, &part).unwrap();
            }
        }
        writer.finish(zxid, None, WallMs(0)).unwrap();
    }

    /// A log of ten records, with snapshots at 3 and at 8.
    fn world(base: Option<u64>) -> Disk {
        let disk = Disk::new();
        let identity = Identity { server: ServerId(1), cluster: CLUSTER };
        let mut superblock = Superblock::create(&*disk.dir("data"), identity, 5).unwrap();
        superblock.set_joined().unwrap();
        let recovery = Recovery::open(disk.dir("log"), &superblock, config()).unwrap();
        let mut log = recovery.finish(&mut superblock, Zxid::ZERO).unwrap();
        let (tree, mut applier) = engine::new(engine::TreeConfig::default());
        for n in 1..=10 {
            let bytes = record(n);
            log.appender.append([(z(n), &bytes[..])]).unwrap();
            log.appender.commit().unwrap();
            apply(&mut applier, &bytes);
            if n == 3 || n == 8 {
                write_snapshot(&disk, &tree);
            }
            if Some(n) == base {
                log.appender.begin_anew(z(n), &mut superblock).unwrap();
            }
        }
        disk
    }

    /// What a start finds: the znodes below the root, by number, and where the log ends.
    fn start(disk: &Disk) -> (Vec<u64>, Zxid) {
        let mut superblock = Superblock::open(&*disk.dir("data")).unwrap().unwrap();
        finish_cut(&mut superblock, &disk.dir("log"), &disk.dir("snapshot"), config()).unwrap();
        assert_eq!(superblock.contents().cut, None);
        let mut recovery = Recovery::open(disk.dir("log"), &superblock, config()).unwrap();
        let settings = settings();
        let (tree, mut applier) = engine::new(engine::TreeConfig::default());
        let mut catalogue = catalogue(disk);
        let end = load_newest(&settings, &Progress::default(), &mut catalogue, recovery.base(), &mut applier)
            .unwrap();
        let begin = tree.applied();
        let mut take = |_, record: &[u8]| {
            apply(&mut applier, record);
            Ok(())
        };
        recovery.replay::<Failure>(begin, &mut take).unwrap();
        check_tree(&settings, &tree, begin, end).unwrap();
        let log = recovery.finish(&mut superblock, begin).unwrap();
        let there = (1..=10).filter(|n| tree.peek(&format!("/n{n}"), |node| node.is_some())).collect();
        assert_eq!(tree.applied(), log.appender.durable().upto(), "the tree is what the log says");
        (there, tree.applied())
    }

    fn settings() -> Settings {
        let mut env = config::Env::empty();
        let invocation = config::Invocation::parse(&[], &mut env).unwrap();
        let raw = config::RawConfig {
            invocation,
            main: None,
            dynamic: None,
            my_id: config::MyId::Missing,
            data_dir: config::DirState::Missing,
            data_log_dir: config::DirState::Missing,
        };
        Settings::resolve(raw, &env).unwrap().0
    }

    fn do_cut(disk: &Disk, after: u64) -> Result<Durable, Failure> {
        let mut superblock = Superblock::open(&*disk.dir("data"))?.unwrap();
        let recovery = Recovery::open(disk.dir("log"), &superblock, config())?;
        let mut log = recovery.finish(&mut superblock, Zxid::ZERO)?;
        cut(&mut log.appender, &mut superblock, &mut catalogue(disk), z(after))
    }

    #[test]
    fn a_cut_leaves_just_the_history_up_to_it() {
        for (base, after, wanted) in [
            (None, 9, (1..=9).collect::<Vec<_>>()),
            // The snapshot at 8 is of the state that stays: the log begins behind it.
            (None, 8, (1..=8).collect()),
            (None, 5, (1..=5).collect()),
            (None, 1, vec![1]),
            (Some(3), 5, (1..=5).collect()),
            (Some(3), 3, (1..=3).collect()),
            // The log does not reach back, and the snapshot reaches too far: only another server's state can help.
            (Some(8), 5, vec![]),
        ] {
            let disk = world(base);
            let durable = do_cut(&disk, after).unwrap();
            let end = if wanted.is_empty() { Zxid::ZERO } else { z(after) };
            assert_eq!(durable.upto(), end, "base {base:?}, cut behind {after}");
            let (there, applied) = start(&disk);
            assert_eq!(may_vote(&disk), !wanted.is_empty(), "base {base:?}, cut behind {after}");
            assert_eq!((there, applied), (wanted, end), "base {base:?}, cut behind {after}");
        }
    }

    fn may_vote(disk: &Disk) -> bool {
        Superblock::open(&*disk.dir("data")).unwrap().unwrap().contents().joined
    }

    /// A failure at each operation of the disk, then a power cut: all of the history before the cut, or all that it leaves; and
    /// who has lost its history does not vote as if it had one.
    #[test]
    fn a_crash_leaves_all_of_a_cut_or_nothing_of_it() {
        for (base, after) in [(None, 9), (None, 8), (None, 5), (Some(3), 5), (Some(8), 5)] {
            let whole: Vec<u64> = (1..=10).collect();
            let wanted: Vec<u64> = if base == Some(8) { vec![] } else { (1..=after).collect() };
            let (mut before, mut behind) = (0, 0);
            for operation in 0.. {
                let disk = world(base);
                let mut superblock = Superblock::open(&*disk.dir("data")).unwrap().unwrap();
                let recovery = Recovery::open(disk.dir("log"), &superblock, config()).unwrap();
                let mut log = recovery.finish(&mut superblock, Zxid::ZERO).unwrap();
                let mut catalogue = catalogue(&disk);
                disk.fail(operation, DiskFailure::Eio);
                let done = cut(&mut log.appender, &mut superblock, &mut catalogue, z(after)).is_ok();
                drop(log);
                let disk = disk.crash(&mut |_| operation % 2 == 0);
                let (there, applied) = start(&disk);
                assert_eq!(may_vote(&disk), !there.is_empty(), "base {base:?}, failure at {operation}");
                if there == whole && applied == z(10) {
                    before += 1;
                    assert!(!done, "a cut that was reported is gone: base {base:?}, behind {after}");
                } else {
                    behind += 1;
                    assert_eq!(there, wanted, "base {base:?}, behind {after}, failure at {operation}");
                }
                if done {
                    break;
                }
            }
            assert!(before > 0 && behind > 1, "base {base:?}, behind {after}: {before} and {behind}");
        }
    }
}
