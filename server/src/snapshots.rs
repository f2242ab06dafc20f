//! The snapshot thread: walks the tree in short slices while writes go on, and forgets what is redundant then.

use crate::core::Core;
use engine::Tree;
use parking_lot::Mutex;
use proto::txn::DIGEST_VERSION;
use proto::{WallMs, Zxid};
use snapshot::{Catalogue, Digest, Header, Kind, Writer};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes of records taken from the tree in one slice: a few hundred znodes, some tens of microseconds under the
/// lock of one shard.
const SLICE_BYTES: usize = 64 << 10;

/// Uncompressed bytes a second at which a snapshot is written while writes go on. At zstd's 450 MB/s per core this
/// leaves most of a core to the requests; a million znodes of a hundred bytes take two seconds.
pub const BYTES_PER_SECOND: u64 = 100 << 20;

/// The longest pause between two slices, so that a slow disk does not add up to minutes.
const PAUSE_MAX: Duration = Duration::from_millis(20);

/// While a snapshot comes forward slower than this, in uncompressed bytes a second, it no longer waits for idle CPUs:
/// with all of them busy for good it would never end, and the log behind it would grow.
const BYTES_PER_SECOND_MIN: u64 = 25 << 20;

/// How a snapshot is written while requests are served.
#[derive(Clone, Copy, Debug)]
pub struct Beside {
    /// The pace, uncompressed.
    pub bytes_per_second: u64,
    /// Compressing and writing wait for CPUs that have nothing else to do. Taking the slices does not: a thread that
    /// holds a shard must run.
    pub when_idle: bool,
}

/// What the snapshot thread needs to know of itself.
pub struct Snapshots {
    dir: Arc<dyn vfs::Dir>,
    catalogue: Mutex<Catalogue>,
    cluster: u64,
    server: proto::ServerId,
}

/// Why a snapshot was not written. The server goes on: the log has everything.
#[derive(Debug)]
pub enum Failure {
    /// The file could not be written.
    Write(snapshot::Error),
    /// The server stops, or the tree is about to be another one.
    Stopped,
    /// It failed when it may have had its name, and could not be taken back: the next start may find it.
    Undecided(std::io::Error),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Write(e) => f.write_str(&crate::boot::with_causes(e)),
            Failure::Stopped => f.write_str("given up: the server stops, or its state becomes another one"),
            Failure::Undecided(e) => write!(f, "a snapshot that failed can't be removed: {e}"),
        }
    }
}

impl Snapshots {
    /// The snapshots of `dir`.
    pub fn new(
        dir: Arc<dyn vfs::Dir>,
        catalogue: Catalogue,
        cluster: u64,
        server: proto::ServerId,
    ) -> Snapshots {
        Snapshots { dir, catalogue: Mutex::new(catalogue), cluster, server }
    }

    /// Writes a snapshot of `tree` as it is from now on, and returns its uncompressed size in bytes: what it
    /// cost. `beside` says how to stand back behind requests; without it the snapshot is written as fast as it can be.
    /// When `give_up` says so, nothing is written.
    pub fn write(
        &self,
        tree: &Tree,
        now: &dyn Fn() -> WallMs,
        give_up: &dyn Fn() -> bool,
        beside: Option<Beside>,
    ) -> Result<u64, Failure> {
        self.write_at(None, tree, now, give_up, beside)
    }

    /// The same, of a tree that stands still and is to be the state at `zxid`, whatever it says itself. If it can't be
    /// written, no file of that name is left: the server goes on and gives the zxid to something else.
    pub fn write_as(&self, zxid: Zxid, tree: &Tree, now: &dyn Fn() -> WallMs) -> Result<u64, Failure> {
        self.write_at(Some(zxid), tree, now, &|| false, None).map_err(|why| match self.withdraw(zxid) {
            Ok(()) => why,
            Err(e) => Failure::Undecided(e),
        })
    }

    /// Removes the snapshot at `zxid`, which may have got its name before something failed.
    fn withdraw(&self, zxid: Zxid) -> std::io::Result<()> {
        match self.dir.unlink(&snapshot::name_of(zxid)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            Ok(()) | Err(_) => {}
        }
        self.dir.sync()
    }

    fn write_at(
        &self,
        at: Option<Zxid>,
        tree: &Tree,
        now: &dyn Fn() -> WallMs,
        give_up: &dyn Fn() -> bool,
        beside: Option<Beside>,
    ) -> Result<u64, Failure> {
        let started = Instant::now();
        let mut walk = tree.walk();
        let header = Header {
            cluster: cluster_bytes(self.cluster),
            server: self.server,
            start: at.unwrap_or(walk.start()),
            written: now(),
        };
        let pace = Box::new(|_written: u64| ControlFlow::Continue(()));
        let mut writer = Writer::create(self.dir.clone(), header, pace).map_err(Failure::Write)?;
        let mut buffer = Vec::with_capacity(SLICE_BYTES + 4096);
        let mut bytes = 0_u64;
        loop {
            buffer.clear();
            let part = walk.next(tree, SLICE_BYTES, &mut buffer);
            let kind = match part.kind {
                engine::WalkKind::Sessions => Kind::Sessions,
                engine::WalkKind::Acls => Kind::Acls,
                engine::WalkKind::Nodes => Kind::Nodes,
                engine::WalkKind::Done => break,
            };
            let count = u32::try_from(part.count).expect("a slice holds far fewer records");
            if count > 0 {
                let wanted = Duration::from_secs(1 + bytes / BYTES_PER_SECOND_MIN);
                let stepped_back = beside.is_some_and(|b| b.when_idle)
                    && started.elapsed() < wanted
                    && vfs::os::run_when_idle(true).is_ok();
                let written = writer.part(kind, count, &buffer);
                if stepped_back {
                    // It was possible when the server started; should it fail now, the snapshot is slow.
                    let _ = vfs::os::run_when_idle(false);
                }
                written.map_err(Failure::Write)?;
            }
            if give_up() {
                return Err(Failure::Stopped);
            }
            bytes += buffer.len() as u64;
            if let Some(Beside { bytes_per_second, .. }) = beside {
                let due = Duration::from_nanos(bytes * 1_000_000_000 / bytes_per_second);
                if let Some(ahead) = due.checked_sub(started.elapsed()) {
                    std::thread::sleep(ahead.min(PAUSE_MAX));
                }
            }
        }
        if give_up() {
            return Err(Failure::Stopped);
        }
        let (end, digest) = walk.end().expect("a walk that is done has an end");
        let end = at.unwrap_or(end);
        let digest =
            tree.config().digest_enabled.then_some(Digest { version: DIGEST_VERSION as u32, value: digest });
        let entry = writer.finish(end, digest, now()).map_err(Failure::Write)?;
        tracing::info!(
            snapshot = entry.name(),
            end = %end,
            bytes = entry.bytes(),
            uncompressed = bytes,
            ms = started.elapsed().as_millis() as u64,
            "snapshot written"
        );
        self.catalogue.lock().add(entry);
        Ok(bytes)
    }

    /// The newest: the zxid that it began at, and when it was written.
    pub fn last(&self) -> Option<(Zxid, WallMs)> {
        let catalogue = self.catalogue.lock();
        catalogue.entries().first().map(|e| (e.start(), e.header().written))
    }

    /// The newest: the zxid that it began at, and the bytes of its file.
    pub fn newest(&self) -> Option<(Zxid, u64)> {
        let catalogue = self.catalogue.lock();
        catalogue.entries().first().map(|e| (e.start(), e.bytes()))
    }

    /// Lets `look` at the directory, or change it.
    pub fn with_catalogue<R>(&self, look: impl FnOnce(&mut Catalogue) -> R) -> R {
        look(&mut self.catalogue.lock())
    }

    /// Removes the snapshots that `keep` newer verified ones make redundant. Returns the zxid from which on the log
    /// is still needed. What is not verified yet is read through, `beside` requests until `hurry` says that somebody waits.
    pub fn retire(
        &self,
        core: &Core,
        keep: usize,
        beside: Beside,
        hurry: &dyn Fn() -> bool,
    ) -> Result<Option<Zxid>, snapshot::Error> {
        // Who asks for the newest does not wait for the reading.
        loop {
            let (start, opened) = {
                let catalogue = self.catalogue.lock();
                let Some(entry) = catalogue.unverified(keep) else { break };
                (entry.start(), catalogue.snapshot(entry))
            };
            match opened.and_then(|snapshot| verify(&snapshot, beside, hurry)) {
                Ok(()) => self.catalogue.lock().mark_verified(start, core.clock().now().wall)?,
                Err(why) if why.is_damage() => {
                    tracing::error!(
                        "a snapshot is damaged and will not be used: {}",
                        crate::boot::with_causes(&why)
                    );
                    self.catalogue.lock().reject(start, why);
                }
                Err(e) => return Err(e),
            }
        }
        let mut catalogue = self.catalogue.lock();
        let retention = catalogue.retention(keep);
        catalogue.remove(&retention)?;
        Ok(retention.log_needed_after)
    }
}

/// Reads a snapshot through on this thread, at the pace and with the deference of its writing.
fn verify(
    snapshot: &snapshot::Snapshot,
    beside: Beside,
    hurry: &dyn Fn() -> bool,
) -> Result<(), snapshot::Error> {
    let started = Instant::now();
    let mut bytes = 0_u64;
    let mut stepped_back = beside.when_idle && vfs::os::run_when_idle(true).is_ok();
    let verified = snapshot.verify_paced(&mut |chunk| {
        bytes += chunk;
        let hurry = hurry();
        let slow = started.elapsed() > Duration::from_secs(1 + bytes / BYTES_PER_SECOND_MIN);
        if stepped_back && (hurry || slow) {
            stepped_back = vfs::os::run_when_idle(false).is_err();
        }
        let due = Duration::from_nanos(bytes * 1_000_000_000 / beside.bytes_per_second);
        if let Some(ahead) = due.checked_sub(started.elapsed()).filter(|_| !hurry) {
            std::thread::sleep(ahead.min(PAUSE_MAX));
        }
    });
    if stepped_back {
        // It was possible when the server started; should it fail now, the next snapshot is slow.
        let _ = vfs::os::run_when_idle(false);
    }
    verified
}

/// The id of the ensemble as snapshots carry it.
pub fn cluster_bytes(cluster: u64) -> [u8; 16] {
    let mut out = [0; 16];
    out[8..].copy_from_slice(&cluster.to_be_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::{Epoch, ServerId};
    use vfs::mem::{Disk, Failure as DiskFailure};

    /// A failure at each operation of the disk: a state that was reported as not written is found by no start, whatever
    /// of the directory a power cut keeps.
    #[test]
    fn a_state_that_could_not_be_written_never_comes_back() {
        let zxid = Zxid::new(Epoch(1), 9);
        let (tree, _applier) = engine::new(engine::TreeConfig::default());
        let (mut refused, mut undecided) = (0, 0);
        for operation in 0.. {
            let disk = Disk::new();
            let dir = disk.dir("snapshot");
            let catalogue = Catalogue::open(dir.clone(), None).unwrap();
            let snapshots = Snapshots::new(dir, catalogue, 7, ServerId(1));
            disk.fail(operation, DiskFailure::Eio);
            let written = snapshots.write_as(zxid, &tree, &|| WallMs(0));
            let found = |keep: bool| {
                let disk = disk.crash(&mut |_| keep);
                let catalogue = Catalogue::open(disk.dir("snapshot"), None).unwrap();
                catalogue.entries().len()
            };
            match written {
                Ok(_) => {
                    assert_eq!((found(false), found(true)), (1, 1), "it was reported as durable");
                    break;
                }
                Err(Failure::Undecided(_)) => undecided += 1,
                Err(_) => {
                    assert_eq!((found(false), found(true)), (0, 0), "failure at {operation}");
                    refused += 1;
                }
            }
        }
        assert!(refused > 2, "{refused} failures were reported, {undecided} ended the process");
    }
}
