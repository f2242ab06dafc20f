//! The way of prepared records to the disk, and of durability back to the node.
//!
//! There is one writer, behind a lock. An event loop with nothing left to read takes it for one write when it is
//! free: a lonely write then wakes no other thread. What waits after that one write is the log thread's, which
//! writes batch after batch until the queue is empty. While a commit is slow, event loops leave the log alone.

use crate::boot::with_causes;
use crate::core::Core;
use crate::event_loop::Message;
use crate::replay::{Take, replay};
use crate::requests::Trace;
use crate::snapshots::{BYTES_PER_SECOND, Beside, Snapshots};
use crate::stats::{Counter, Measure};
use engine::Applier;
use node::Differs;
use node::stage::Stage;
use parking_lot::{Condvar, Mutex, MutexGuard};
use proto::txn::RecordBatch;
use proto::{Durable, DurableEpochs, Epoch, Zxid};
use snapshot::Policy;
use snapshot::policy::Chance;
use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use wal::{Appender, Space, Superblock};

/// Above this, a commit is not something that an event loop should wait for, µs.
const INLINE_MAX_US: u64 = 1_000;

/// The nice value of the log thread, where it may be set (CAP_SYS_NICE or RLIMIT_NICE).
const PRIORITY: i32 = -10;

/// The nice value of the snapshot thread, and of who exports one.
pub const SNAPSHOT_PRIORITY: i32 = 10;

/// A durable write that has not come back after this long never will: the process ends, so that a leader does not
/// stay one that can't write. Far above what a busy disk takes, far below what an operator waits.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the log thread waits before it tries again on a full disk.
const FULL_PAUSE: Duration = Duration::from_millis(100);

/// How long the log is idle before the durability of its last batch is recorded.
const IDLE: Duration = Duration::from_secs(1);

/// The queue, the writer, and who is woken when.
pub struct LogQueue {
    queue: Mutex<VecDeque<Queued>>,
    queued: AtomicUsize,
    writer: Mutex<Writer>,
    /// Not the writer's: its own durable writes must not hold up commits.
    superblock: Mutex<Superblock>,
    /// Work for the log thread.
    wake: Mutex<Wake>,
    woken: Condvar,
    /// The log thread writes: event loops leave it alone.
    busy: AtomicBool,
    /// A moving average of the time of a commit, µs.
    commit_us: AtomicU64,
    /// When the write that is in flight began, in ns of the monotonic clock; 0: none is.
    writing_since: AtomicU64,
    slow_us: u64,
    /// Work for the snapshot thread.
    snapshot_due: Mutex<Due>,
    /// One is due.
    snapshot_wake: Condvar,
    /// One has ended.
    snapshot_ended: Condvar,
    snapshots: Snapshots,
    /// Held while a snapshot is written and old ones are retired.
    snapshot_running: Mutex<()>,
    /// The one that is being written is of no use any more.
    snapshot_abort: AtomicBool,
    retention_keep: Option<usize>,
    directories: [std::path::PathBuf; 2],
    backend: String,
}

struct Writer {
    appender: Appender,
    policy: Policy,
    snapshot_running: bool,
    counted: wal::Counts,
    /// When the last batch became durable.
    written_at: Instant,
    /// Taken from the queue and not yet appended: only after the disk was full.
    waiting: VecDeque<Queued>,
}

/// What the snapshot thread is asked for, and what came of it.
#[derive(Default)]
struct Due {
    /// Snapshots that were asked for since the start.
    asked: u64,
    /// Of these, how many have ended, whatever came of them.
    ended: u64,
    /// Why the last one failed, if it did.
    failed: Option<String>,
}

/// Records on their way to the log.
struct Queued {
    batch: Arc<RecordBatch>,
    /// When the node took what they were made from.
    admitted: proto::Instant,
    /// When they came here.
    at: proto::Instant,
}

impl Writer {
    /// Records wait to become durable. After a full disk they may be with the appender already, and then the node must hear
    /// of them as of all others: the mark of an idle log must not be what makes them durable.
    fn has_work(&self) -> bool {
        !self.waiting.is_empty() || self.appender.waiting() > 0
    }

    /// One durable write of what waits, as far as there is room for it; `appended` gets each batch that is with the appender
    /// now. Whether there was room for all of it, and `None` if there was for nothing.
    fn write(
        &mut self,
        mut appended: impl FnMut(Queued),
    ) -> Result<(Option<Durable>, /* room: */ bool), wal::Error> {
        let mut room = true;
        while let Some(Queued { batch, .. }) = self.waiting.front() {
            let last = self.appender.last();
            match self.appender.append(batch.iter().filter(|(zxid, _)| *zxid > last)) {
                Ok(()) => appended(self.waiting.pop_front().expect("looked at above")),
                // The rest stays; the preparer frees space or makes some, and the next round goes on here.
                Err(wal::Error::NoSpace { .. }) => {
                    room = false;
                    break;
                }
                Err(e) => return Err(e),
            }
        }
        match self.appender.commit() {
            Ok(durable) => Ok((Some(durable), room)),
            Err(wal::Error::NoSpace { .. }) => Ok((None, false)),
            Err(e) => Err(e),
        }
    }

    /// Records, once the log has been idle, that its last batch is durable. False when the mark wants a segment that there is
    /// no room for: it can wait as well as the writes can.
    fn mark(&mut self) -> Result<bool, wal::Error> {
        assert!(!self.has_work(), "the mark would make records durable that nobody hears of");
        if !self.appender.wants_mark() || self.written_at.elapsed() < IDLE {
            return Ok(true);
        }
        match self.appender.mark_idle() {
            Ok(()) => Ok(true),
            Err(wal::Error::NoSpace { .. }) => Ok(false),
            Err(e) => Err(e),
        }
    }
}

#[derive(Default)]
struct Wake {
    work: bool,
    /// What is to be done between two batches, oldest first.
    jobs: VecDeque<DiskJob>,
}

/// What the node wants of the disk besides its records. None is asked for while a batch is on its way.
pub enum DiskJob {
    /// The superblock's epochs.
    Epochs {
        /// The promise.
        accepted: Epoch,
        /// The history, and the proof that it is here.
        current: Option<(Epoch, Durable)>,
        /// The server may vote with what it has.
        joined: bool,
    },
    /// Cut the log, and build the tree again if the applier is there for it.
    Truncate {
        /// The last zxid that stays.
        after: Zxid,
        /// The writer of the tree.
        applier: Option<Box<Applier>>,
    },
    /// Build the tree again.
    Reload(Box<Applier>),
    /// Write the tree, and begin the log behind it.
    Save {
        /// The zxid of the tree.
        zxid: Zxid,
    },
    /// End the process, whose state is not that of the others. If a majority says so, what is on disk counts no more.
    End(Differs),
}

/// A state that is durable and about to take the place of the server's.
pub struct Replacing<'a> {
    zxid: Zxid,
    bytes: u64,
    _still: MutexGuard<'a, ()>,
}

/// Two numbers from the system's randomness, for the snapshot rule.
pub fn chance() -> Chance {
    Chance { count: random(), bytes: random() }
}

/// One number from the system's randomness.
pub fn random() -> u64 {
    RandomState::new().hash_one(0_u8)
}

/// What a log queue is made of.
pub struct Parts {
    /// Writes the log.
    pub appender: Appender,
    /// Identity, epochs, start of the log.
    pub superblock: Superblock,
    /// When snapshots are due.
    pub policy: Policy,
    /// The snapshots.
    pub snapshots: Snapshots,
    /// Snapshots to keep; `None`: nothing is ever removed.
    pub retention_keep: Option<usize>,
    /// A commit that takes longer is told of, ms.
    pub slow_ms: u64,
    /// Where snapshots and log lie.
    pub directories: [std::path::PathBuf; 2],
    /// How the log is written, a word.
    pub backend: String,
}

impl LogQueue {
    /// How the log is written: `uring`, `pwritev2` or `buffered`.
    pub fn backend(&self) -> &str {
        &self.backend
    }

    /// The way to the log.
    pub fn new(parts: Parts) -> LogQueue {
        let counted = parts.appender.counts();
        LogQueue {
            queue: Mutex::default(),
            queued: AtomicUsize::new(0),
            superblock: Mutex::new(parts.superblock),
            writer: Mutex::new(Writer {
                appender: parts.appender,
                policy: parts.policy,
                snapshot_running: false,
                counted,
                written_at: Instant::now(),
                waiting: VecDeque::new(),
            }),
            wake: Mutex::default(),
            woken: Condvar::new(),
            busy: AtomicBool::new(false),
            commit_us: AtomicU64::new(0),
            writing_since: AtomicU64::new(0),
            slow_us: parts.slow_ms * 1000,
            snapshot_due: Mutex::default(),
            snapshot_ended: Condvar::new(),
            snapshot_wake: Condvar::new(),
            snapshots: parts.snapshots,
            snapshot_running: Mutex::default(),
            snapshot_abort: AtomicBool::new(false),
            retention_keep: parts.retention_keep,
            directories: parts.directories,
            backend: parts.backend,
        }
    }

    /// Records for the log, behind those that wait.
    pub fn push(&self, batch: Arc<RecordBatch>, admitted: proto::Instant, at: proto::Instant) {
        self.queue.lock().push_back(Queued { batch, admitted, at });
        self.queued.fetch_add(1, Ordering::SeqCst);
    }

    /// Something is to be done by the log thread, behind the batches that wait.
    pub fn want(&self, job: DiskJob) {
        let mut wake = self.wake.lock();
        wake.jobs.push_back(job);
        wake.work = true;
        self.woken.notify_one();
    }

    /// Writes what waits, if the log is free and `alone`, the calling loop, has nothing else to do; else leaves it
    /// to the log thread.
    pub fn write_inline(&self, core: &Core, alone: bool) {
        if self.queued.load(Ordering::SeqCst) == 0 || self.busy.load(Ordering::SeqCst) {
            return;
        }
        let fast = self.commit_us.load(Ordering::Relaxed) < INLINE_MAX_US;
        if alone
            && fast
            && let Some(mut writer) = self.writer.try_lock()
        {
            let written = self.write(core, &mut writer);
            drop(writer);
            if written {
                core.pump();
            }
        }
        if self.queued.load(Ordering::SeqCst) > 0 {
            self.wake_thread();
        }
    }

    /// How long the durable write that is in flight has taken so far, ns.
    pub fn writing_for(&self, now: proto::Instant) -> Option<u64> {
        match self.writing_since.load(Ordering::Relaxed) {
            0 => None,
            since => Some(now.0.saturating_sub(since)),
        }
    }

    /// Ends the process if a durable write never comes back; called now and then by an event loop.
    pub fn watch(&self, now: proto::Instant) {
        let since = self.writing_since.load(Ordering::Relaxed);
        if since != 0 && now.0.saturating_sub(since) > WRITE_TIMEOUT.as_nanos() as u64 {
            tracing::error!(
                seconds = WRITE_TIMEOUT.as_secs(),
                "a durable write of the log does not come back, the server stops and acknowledges nothing more: \
                 look after the disk"
            );
            std::process::exit(i32::from(crate::boot::Failure::LOG_WRITE));
        }
    }

    /// Has the log thread write what waits.
    pub fn wake_thread(&self) {
        let mut wake = self.wake.lock();
        if !wake.work {
            wake.work = true;
            self.woken.notify_one();
        }
    }

    /// The life of the log thread.
    pub fn run(&self, core: &Core) {
        core.stats.claim();
        // With both cores busy a commit may wait a whole tick of the scheduler for its thread (4 ms were measured).
        if let Err(e) = vfs::os::raise_priority(PRIORITY) {
            tracing::info!("the log thread runs at normal priority, since a higher one is refused: {e}");
        }
        loop {
            let job = {
                let mut wake = self.wake.lock();
                if !wake.work {
                    self.busy.store(false, Ordering::SeqCst);
                    // A batch that came before the flag fell would have seen it up: look once more. Both sides
                    // store one and load the other, so nothing weaker than SeqCst rules out that both miss.
                    if self.queued.load(Ordering::SeqCst) == 0 {
                        self.woken.wait_for(&mut wake, IDLE);
                    }
                }
                // Behind the batches: the node has asked for it after them.
                let job = if self.queued.load(Ordering::SeqCst) == 0 { wake.jobs.pop_front() } else { None };
                wake.work = !wake.jobs.is_empty();
                job
            };
            if let Some(job) = job {
                self.run_job(core, job);
            }
            if self.queued.load(Ordering::SeqCst) == 0 {
                let mut writer = self.writer.lock();
                if !writer.has_work() {
                    self.rest(core, writer);
                    if core.stopping.load(Ordering::Acquire) && self.queued.load(Ordering::SeqCst) == 0 {
                        return;
                    }
                    continue;
                }
                let written = self.write(core, &mut writer);
                drop(writer);
                if !written {
                    // The disk is full; the preparer tries for room on its own.
                    std::thread::sleep(FULL_PAUSE);
                }
                self.hand_over(core, written);
                continue;
            }
            self.busy.store(true, Ordering::SeqCst);
            let written = self.write(core, &mut self.writer.lock());
            self.hand_over(core, written);
        }
    }

    /// Under load an event loop applies what is durable while the next batch is written; else this thread does.
    fn hand_over(&self, core: &Core, written: bool) {
        if !written {
            return;
        }
        if self.queued.load(Ordering::SeqCst) == 0 {
            // One round: what it prepares is to be written while a loop goes on.
            core.pump_rounds(1);
        } else if !core.is_stepping() {
            core.loops[core.free_loop()].send(Message::Pump);
        }
        if self.queued.load(Ordering::SeqCst) > 0 {
            self.wake_thread();
        }
    }

    /// The log is idle: the durability of its last batch is recorded, and space is looked after.
    fn rest(&self, core: &Core, mut writer: MutexGuard<'_, Writer>) {
        let room = writer.mark().unwrap_or_else(|e| die(&e));
        let full = !room || writer.appender.space() == Space::Full;
        drop(writer);
        core.set_log_full(full);
    }

    fn run_job(&self, core: &Core, job: DiskJob) {
        match job {
            DiskJob::Epochs { accepted, current, joined } => {
                let epochs = self.persist_epochs(accepted, current, joined).unwrap_or_else(|e| die(&e));
                core.submit_epochs(epochs);
            }
            DiskJob::Truncate { after, applier } => {
                let _still = self.still();
                let durable = self.cut(after);
                tracing::info!(%after, end = %durable.upto(), "the log was cut");
                let applier = applier.map(|applier| self.rebuild(core, applier));
                core.submit_truncated(durable, applier.map(|a| *a));
            }
            DiskJob::Reload(applier) => {
                let _still = self.still();
                let applier = self.rebuild(core, applier);
                core.submit_reloaded(*applier);
            }
            DiskJob::Save { zxid } => {
                let _still = self.still();
                let durable = self.save(core, zxid);
                core.submit_snapshot_saved(durable);
            }
            DiskJob::End(differs) => self.end(differs),
        }
        core.pump();
    }

    fn end(&self, differs: Differs) -> ! {
        let Differs { zxid, wanted, found, by_majority } = differs;
        let (wanted, found) = (format!("{wanted:#x}"), format!("{found:#x}"));
        if by_majority {
            self.superblock.lock().set_blank().unwrap_or_else(|e| die(&e));
            tracing::error!(
                %zxid,
                wanted,
                found,
                "the state of this server differs from the one that a majority has, the server stops: its history has no vote any \
                 more, and the next start takes the whole state of the leader; keep a copy of the data directory before, and look \
                 after memory and disk"
            );
        } else {
            tracing::error!(
                %zxid,
                wanted,
                found,
                "the state of this server differs from what its leader, or a record, says, and no majority could be asked who is \
                 right: the server stops; start more servers, then this one again"
            );
        }
        std::process::exit(i32::from(crate::boot::Failure::DIFFERS));
    }

    fn persist_epochs(
        &self,
        accepted: Epoch,
        current: Option<(Epoch, Durable)>,
        joined: bool,
    ) -> Result<DurableEpochs, wal::Error> {
        let mut superblock = self.superblock.lock();
        if joined {
            superblock.set_joined()?;
        }
        if superblock.contents().accepted_epoch < accepted {
            superblock.accept_epoch(accepted)?;
        }
        if let Some((epoch, history)) = current {
            superblock.enter_epoch(epoch, history)?;
        }
        let epochs = superblock.epochs();
        tracing::info!(accepted = %epochs.accepted(), current = %epochs.current(), "epochs recorded");
        Ok(epochs)
    }

    /// Ends the snapshot that is being written, if any, and keeps others from being begun until the guard goes: what is
    /// walked over is about to change other than by transactions.
    fn still(&self) -> MutexGuard<'_, ()> {
        self.snapshot_abort.store(true, Ordering::SeqCst);
        let guard = self.snapshot_running.lock();
        self.snapshot_abort.store(false, Ordering::SeqCst);
        guard
    }

    fn cut(&self, after: Zxid) -> Durable {
        let mut superblock = self.superblock.lock();
        let mut writer = self.writer.lock();
        let cut = self.snapshots.with_catalogue(|catalogue| {
            crate::disk::cut(&mut writer.appender, &mut superblock, catalogue, after)
        });
        writer.counted = writer.appender.counts();
        match cut {
            Ok(durable) => durable,
            Err(e) => die_of(&e.to_string()),
        }
    }

    fn rebuild(&self, core: &Core, mut applier: Box<Applier>) -> Box<Applier> {
        let started = Instant::now();
        let base = self.writer.lock().appender.base();
        let loaded = self.snapshots.with_catalogue(|catalogue| {
            crate::disk::load_newest(
                &core.settings,
                &crate::admin::Progress::default(),
                catalogue,
                base,
                &mut applier,
            )
        });
        let start = applier.tree().applied();
        let built = loaded.and_then(|end| {
            let read = |take: &mut Take<'_>| self.read_log(start, Zxid::MAX, take);
            replay(read, &mut applier, |_| {})?;
            crate::disk::check_tree(&core.settings, applier.tree(), start, end)
        });
        if let Err(e) = built {
            die_of(&e.to_string());
        }
        core.plant_config(&mut applier);
        let ms = started.elapsed().as_millis() as u64;
        tracing::info!(zxid = %applier.tree().applied(), ms, "the tree was built again from disk");
        applier
    }

    /// Writes the tree, which nobody changes meanwhile, and begins the log behind it.
    fn save(&self, core: &Core, zxid: Zxid) -> Durable {
        assert_eq!(core.tree.applied(), zxid, "the tree is saved as it stands");
        let written = self.snapshots.write(&core.tree, &|| core.clock().now().wall, &|| false, None);
        let bytes = written.unwrap_or_else(|e| die_of(&e.to_string()));
        let durable = self.cut(zxid);
        assert_eq!(durable.upto(), zxid, "the log begins behind the snapshot");
        if let Err(e) = self.snapshots.with_catalogue(|catalogue| catalogue.retire_before(zxid)) {
            tracing::warn!("older snapshots stay: {}", with_causes(&e));
        }
        self.writer.lock().policy.completed(bytes);
        durable
    }

    /// Writes `state` as the snapshot at `zxid`, for [`LogQueue::end_replace`]. Nobody steps the node meanwhile, and no other
    /// snapshot is begun until what this returns is dropped. From here on a start finds the new state: the log ends before
    /// `zxid`, and is begun anew behind it.
    ///
    /// # Errors
    /// The snapshot could not be written, and nothing has changed.
    pub fn begin_replace(
        &self,
        core: &Core,
        state: &engine::Tree,
        zxid: Zxid,
    ) -> Result<Replacing<'_>, crate::snapshots::Failure> {
        let still = self.still();
        let written = self.snapshots.write_as(zxid, state, &|| core.clock().now().wall);
        if let Err(e @ crate::snapshots::Failure::Undecided(_)) = &written {
            // Going on would give its zxid to another transaction, and the next start would take the snapshot for that.
            die_of(&e.to_string());
        }
        let bytes = written?;
        Ok(Replacing { zxid, bytes, _still: still })
    }

    /// Begins the log behind that snapshot. What waited to be written is dropped: nobody has heard of it. A server that
    /// runs alone goes on in the epoch of `zxid`, and records it.
    pub fn end_replace(&self, replacing: Replacing<'_>, alone: bool) -> Durable {
        let Replacing { zxid, bytes, _still } = replacing;
        {
            let mut writer = self.writer.lock();
            let mut queue = self.queue.lock();
            self.queued.fetch_sub(queue.len(), Ordering::SeqCst);
            queue.clear();
            writer.waiting.clear();
        }
        let durable = self.cut(zxid);
        assert_eq!(durable.upto(), zxid, "the log begins behind the snapshot");
        if alone && self.superblock.lock().contents().current_epoch < zxid.epoch() {
            self.persist_epochs(zxid.epoch(), Some((zxid.epoch(), durable)), true)
                .unwrap_or_else(|e| die(&e));
        }
        if let Err(e) = self.snapshots.with_catalogue(|catalogue| catalogue.retire_before(zxid)) {
            tracing::warn!("older snapshots stay: {}", with_causes(&e));
        }
        self.writer.lock().policy.completed(bytes);
        durable
    }

    /// The epochs that are recorded.
    pub fn epochs(&self) -> DurableEpochs {
        self.superblock.lock().epochs()
    }

    /// Gives the records of the log behind `after`, up to `upto`, to `take`. Writing goes on meanwhile.
    ///
    /// # Errors
    /// When the log begins later or is damaged; what `take` returns.
    pub fn read_log<E: From<wal::Error>>(
        &self,
        after: Zxid,
        upto: Zxid,
        mut take: impl FnMut(Zxid, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut reader = self.reader_around(after)?;
        while let Some(batch) = reader.next_batch()? {
            if batch.info.last <= after {
                continue;
            }
            for (zxid, record) in batch.records() {
                if zxid > upto {
                    return Ok(());
                }
                if zxid > after {
                    take(zxid, record)?;
                }
            }
        }
        Ok(())
    }

    /// A reader that begins at or before `zxid`.
    ///
    /// # Errors
    /// When the log begins later.
    pub fn reader_around(&self, zxid: Zxid) -> Result<wal::Reader, wal::Error> {
        self.writer.lock().appender.reader(zxid)
    }

    /// One durable write of everything that waits; false when nothing was written. The node's inbox learns of it
    /// while the writer is still held, so that two writers can't report in the wrong order.
    fn write(&self, core: &Core, writer: &mut Writer) -> bool {
        {
            let mut queue = self.queue.lock();
            self.queued.fetch_sub(queue.len(), Ordering::SeqCst);
            writer.waiting.append(&mut queue);
        }
        if !writer.has_work() {
            return false;
        }
        let started = core.clock().mono();
        self.writing_since.store(started.0, Ordering::Relaxed);
        let mut records = 0;
        let mut taken = Vec::new();
        let waiting: u64 = writer.waiting.iter().map(|q| q.batch.len() as u64).sum();
        core.stats.measure(Measure::LogQueue, waiting, 1);
        let written = writer.write(|queued| {
            core.stats.stage(Stage::Append, queued.at, started, queued.batch.len() as u64);
            records += queued.batch.len() as u64;
            taken.push(queued);
        });
        self.writing_since.store(0, Ordering::Relaxed);
        let (durable, room) = written.unwrap_or_else(|e| die(&e));
        if !room {
            core.set_log_full(true);
        }
        let Some(durable) = durable else { return false };
        writer.written_at = Instant::now();
        let ended = core.clock().mono();
        core.stats.stage(Stage::Persist, started, ended, records);
        core.stats.measure(Measure::BatchRecords, records, 1);
        self.account(core, writer, Duration::from_nanos(ended.0.saturating_sub(started.0)));
        core.requests.durable(taken.into_iter().map(|q| Trace {
            batch: q.batch,
            admitted: q.admitted,
            prepared: q.at,
            written: started,
            durable: ended,
            timed: true,
        }));
        core.submit_persisted(durable);
        true
    }

    fn account(&self, core: &Core, writer: &mut Writer, took: Duration) {
        let us = took.as_micros() as u64;
        let before = self.commit_us.load(Ordering::Relaxed);
        self.commit_us.store(before - before / 8 + us / 8, Ordering::Relaxed);
        core.stats.measure(Measure::Sync, took.as_nanos() as u64, 1);
        if us > self.slow_us {
            core.stats.add(Counter::SlowSyncs, 1);
            tracing::warn!(ms = us / 1000, "a durable write of the log was slow: the disk is, or is shared");
        }
        let counts = writer.appender.counts();
        core.stats.add(Counter::LogBytes, counts.bytes - writer.counted.bytes);
        writer.policy.logged(counts.records - writer.counted.records, counts.bytes - writer.counted.bytes);
        writer.counted = counts;
        if writer.appender.space() != Space::Ok {
            core.set_log_full(writer.appender.space() == Space::Full);
        } else {
            self.begin_snapshot_if_due(writer);
        }
    }

    fn begin_snapshot_if_due(&self, writer: &mut Writer) {
        if !writer.snapshot_running && writer.policy.due().is_some() {
            writer.snapshot_running = true;
            writer.policy.begun(chance());
            self.snapshot_due.lock().asked += 1;
            self.snapshot_wake.notify_one();
        }
    }

    /// Has a snapshot written that begins now, or once the one that is being written has ended, and waits for it: beside requests
    /// it may take minutes. Returns the zxid that it began at, and the bytes of its file.
    ///
    /// # Errors
    /// Why there is none, in words.
    pub fn demand_snapshot(&self, core: &Core) -> Result<(Zxid, u64), String> {
        let number = {
            let mut writer = self.writer.lock();
            writer.policy.demand();
            self.begin_snapshot_if_due(&mut writer);
            // Still demanded: it begins behind the one that runs.
            self.snapshot_due.lock().asked + u64::from(writer.policy.due().is_some())
        };
        let mut due = self.snapshot_due.lock();
        while due.ended < number {
            if core.stopping.load(Ordering::Acquire) {
                return Err("the server stops".into());
            }
            self.snapshot_ended.wait_for(&mut due, IDLE);
        }
        if let Some(why) = &due.failed {
            return Err(why.clone());
        }
        drop(due);
        self.snapshots.newest().ok_or_else(|| "it was removed at once".into())
    }

    /// The life of the snapshot thread.
    pub fn run_snapshots(&self, core: &Core) {
        // Requests first: with all cores busy a snapshot takes longer, and nobody waits for it.
        if let Err(e) = vfs::os::raise_priority(SNAPSHOT_PRIORITY) {
            tracing::debug!("the snapshot thread runs at normal priority: {e}");
        }
        let when_idle = vfs::os::can_step_back(SNAPSHOT_PRIORITY);
        loop {
            {
                let mut due = self.snapshot_due.lock();
                while due.asked == due.ended && !core.stopping.load(Ordering::Acquire) {
                    self.snapshot_wake.wait(&mut due);
                }
            }
            if core.stopping.load(Ordering::Acquire) {
                return;
            }
            let started = Instant::now();
            let _running = self.snapshot_running.lock();
            let give_up =
                || core.stopping.load(Ordering::Relaxed) || self.snapshot_abort.load(Ordering::Relaxed);
            let beside = Beside { bytes_per_second: BYTES_PER_SECOND, when_idle };
            let now = || core.clock().now().wall;
            let written = self.snapshots.write(&core.tree, &now, &give_up, Some(beside));
            {
                let mut writer = self.writer.lock();
                writer.snapshot_running = false;
                if let Ok(bytes) = written {
                    core.stats.measure(Measure::Snapshot, started.elapsed().as_nanos() as u64, 1);
                    writer.policy.completed(bytes);
                }
                let mut due = self.snapshot_due.lock();
                due.ended += 1;
                due.failed = written.as_ref().err().map(ToString::to_string);
                self.snapshot_ended.notify_all();
                drop(due);
                // One may have been demanded meanwhile, and a server at rest writes nothing that would ask.
                self.begin_snapshot_if_due(&mut writer);
            }
            match written {
                Ok(_) => self.retire(core, beside, &give_up),
                // The server stops, or the tree is about to be another one. Only a restore's can be undecided.
                Err(crate::snapshots::Failure::Stopped | crate::snapshots::Failure::Undecided(_)) => {}
                Err(crate::snapshots::Failure::Write(e)) => {
                    core.stats.add(Counter::SnapshotErrors, 1);
                    tracing::error!("no snapshot was written, the log keeps everything: {}", with_causes(&e));
                }
            }
        }
    }

    /// Forgets what a verified snapshot and the log behind it make redundant.
    fn retire(&self, core: &Core, beside: Beside, hurry: &dyn Fn() -> bool) {
        let Some(keep) = self.retention_keep else { return };
        let needed_after: Zxid = match self.snapshots.retire(core, keep, beside, hurry) {
            Ok(Some(zxid)) => zxid,
            Ok(None) => return,
            Err(e) => {
                let e = with_causes(&e);
                return tracing::error!("old snapshots stay, a newer one could not be verified: {e}");
            }
        };
        let Some(purge) = self.writer.lock().appender.purgeable(needed_after) else { return };
        let purged = self.superblock.lock().purge(&purge);
        match purged {
            Ok(purged) => self.writer.lock().appender.forget(purged),
            Err(e) => die(&e),
        }
    }

    /// Wakes everybody who waits for work, so that they see that the server stops.
    pub fn wake_all(&self) {
        self.wake_thread();
        let _due = self.snapshot_due.lock();
        self.snapshot_wake.notify_all();
    }

    /// The zxid that the newest snapshot began at, and when it was written.
    pub fn last_snapshot(&self) -> Option<(Zxid, proto::WallMs)> {
        self.snapshots.last()
    }

    /// Where the snapshots lie.
    pub fn snapshot_dir(&self) -> &std::path::Path {
        &self.directories[0]
    }

    /// Where the log lies.
    pub fn log_dir(&self) -> &std::path::Path {
        &self.directories[1]
    }

    /// Reads the durable records after `after`, while writing goes on.
    pub fn reader(&self, after: Zxid) -> Result<wal::Reader, wal::Error> {
        self.writer.lock().appender.reader(after)
    }

    /// Bytes of the snapshots and of the log.
    pub fn directory_sizes(&self) -> (u64, u64) {
        let size = |dir: &std::path::Path| -> u64 {
            let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
            entries.flatten().filter_map(|e| e.metadata().ok()).filter(|m| m.is_file()).map(|m| m.len()).sum()
        };
        (size(&self.directories[0]), size(&self.directories[1]))
    }
}

/// A failed write of the log is final (fsync is never asked twice): nothing more is acknowledged.
fn die(e: &wal::Error) -> ! {
    die_of(&with_causes(e))
}

fn die_of(why: &str) -> ! {
    tracing::error!("the log can't be written, the server stops and acknowledges nothing more: {why}");
    std::process::exit(i32::from(crate::boot::Failure::LOG_WRITE));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::txn::{Record, Txn, TxnHeader};
    use proto::{ServerId, SessionId, WallMs, Xid};
    use vfs::mem::Disk;
    use wal::{Config, Identity, Recovery};

    /// Blocks of a segment, the first of which is its header.
    const BLOCKS: u32 = 16;

    fn batch(n: u32) -> Arc<RecordBatch> {
        let zxid = Zxid::new(Epoch(1), n);
        let txn =
            Txn::SetData { path: "/a".into(), data: Some(&[7; 3000]), version: n as i32, reconfig: false };
        let (session, cxid, time) = (SessionId(1), Xid(0), WallMs(0));
        let header = TxnHeader { session, cxid, zxid, time, kind: txn.kind() };
        let mut batch = RecordBatch::new();
        batch.push_with(zxid, |out| Record { header, txn, digest: None }.encode(out));
        Arc::new(batch)
    }

    fn writer(disk: &Disk) -> Writer {
        let identity = Identity { server: ServerId(1), cluster: 7 };
        let mut superblock = Superblock::create(&*disk.dir("data"), identity, 5).unwrap();
        let config = Config { segment_len: u64::from(BLOCKS) << 12, ..Config::default() };
        let recovery = Recovery::open(disk.dir("log"), &superblock, config).unwrap();
        let log = recovery.finish(&mut superblock, Zxid::ZERO).unwrap();
        let settings = snapshot::policy::Settings { snap_count: 100_000, snap_size_bytes: 0 };
        Writer {
            counted: log.appender.counts(),
            appender: log.appender,
            policy: Policy::new(settings, 0, chance()),
            snapshot_running: false,
            written_at: Instant::now(),
            waiting: VecDeque::new(),
        }
    }

    fn write(writer: &mut Writer, n: u32) -> (Option<Durable>, bool) {
        let at = proto::Instant(0);
        writer.waiting.push_back(Queued { batch: batch(n), admitted: at, at });
        writer.write(|_| {}).unwrap()
    }

    /// Writes one batch, of a block each, after the other until the segment is full; how many there were.
    fn fill(writer: &mut Writer) -> u32 {
        for n in 1..BLOCKS {
            let (durable, room) = write(writer, n);
            assert_eq!((durable.map(|d| d.upto()), room), (Some(Zxid::new(Epoch(1), n)), true));
        }
        BLOCKS - 1
    }

    #[test]
    fn what_a_full_disk_kept_back_is_written_and_told_of_when_there_is_room() {
        let disk = Disk::new();
        let mut writer = writer(&disk);
        disk.set_capacity(Some(disk.used()));
        let n = fill(&mut writer) + 1;
        let kept_back = Zxid::new(Epoch(1), n);
        assert_eq!(write(&mut writer, n), (None, false));
        assert!(writer.waiting.is_empty() && writer.appender.last() == kept_back, "the appender has it");
        // The log is idle, and yet there is work: the mark must not make the record durable, for nobody would hear of it.
        assert!(writer.has_work());
        assert_eq!(writer.write(|_| {}).unwrap(), (None, false), "still no room");
        disk.set_capacity(None);
        assert!(writer.has_work());
        let (durable, room) = writer.write(|_| {}).unwrap();
        assert_eq!((durable.map(|d| d.upto()), room), (Some(kept_back), true));
        assert!(!writer.has_work());
    }

    #[test]
    fn the_mark_of_an_idle_log_waits_for_room() {
        let disk = Disk::new();
        let mut writer = writer(&disk);
        disk.set_capacity(Some(disk.used()));
        fill(&mut writer);
        writer.written_at -= 2 * IDLE;
        assert!(!writer.mark().unwrap(), "it wants another segment, and waits for room");
        disk.set_capacity(None);
        assert!(writer.mark().unwrap());
        assert!(!writer.appender.wants_mark());
    }
}
