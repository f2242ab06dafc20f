//! Opening the log, and appending to it.

use crate::chain::{Bound, Chain, LOCK, Segment};
use crate::error::Error;
use crate::format::{
    BATCH_HEADER, BatchHeader, Link, RECORD_PREFIX, Reason, SegmentHeader, follows, put32, record_zxid, salt,
};
use crate::limits::{BATCH_LEN, RECORD_MIN, SEGMENT_LEN, SEGMENT_LEN_MAX, SEGMENT_LEN_MIN, SPARES_MAX};
use crate::reader::{Batch, End, Reader};
use crate::spares::{Closer, Preparer, Shelf, Space, Spare};
use crate::superblock::{Root, Superblock};
use proto::{Durable, Zxid};
use std::collections::VecDeque;
use std::sync::Arc;
use vfs::{Access, AlignedBuf, BLOCK, Choice, Dir, Lock, LogDevice, Shape, choose_device};

/// How the log is kept.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Bytes of a segment, whole blocks, [`SEGMENT_LEN_MIN`]..=[`SEGMENT_LEN_MAX`].
    pub segment_len: u64,
    /// Batches in flight at most, 1..=4.
    pub depth: usize,
    /// How to write.
    pub device: Choice,
}

impl Default for Config {
    fn default() -> Config {
        Config { segment_len: SEGMENT_LEN, depth: 1, device: Choice::Auto }
    }
}

impl Config {
    /// The longest record that fits, bytes.
    pub fn record_max(&self) -> usize {
        self.segment_len as usize - BLOCK - BATCH_HEADER - RECORD_PREFIX
    }

    /// A batch is closed at this many bytes: in small segments a quarter, so that not too much of their end is wasted.
    fn batch_max(&self) -> usize {
        BATCH_LEN.min(self.segment_len as usize / 4)
    }

    fn check(&self) {
        let whole = self.segment_len.is_multiple_of(BLOCK as u64);
        assert!(
            whole && (SEGMENT_LEN_MIN..=SEGMENT_LEN_MAX).contains(&self.segment_len),
            "a segment of {} bytes: wanted whole blocks, 64 KiB to 64 MiB",
            self.segment_len
        );
    }
}

/// A log being read back. [`Recovery::replay`] (or [`Recovery::next_batch`]) gives what it holds; [`Recovery::finish`] makes it
/// writable.
#[derive(Debug)]
pub struct Recovery {
    dir: Arc<dyn Dir>,
    config: Config,
    root: Root,
    chain: Chain,
    reader: Reader,
    lock: Lock,
}

/// A log open for writing.
#[derive(Debug)]
pub struct Log {
    /// Writes. One owner at a time.
    pub appender: Appender,
    /// Prepares and recycles segments; for a thread of its own.
    pub preparer: Preparer,
    /// One line for the operator: how the log is written.
    pub said: String,
    /// How the log ended when it was opened; `torn` tells of a dropped tail that nobody had been told of.
    pub found: End,
}

impl Recovery {
    /// Finds the log in `dir` and takes its lock. Nothing is changed yet.
    pub fn open(dir: Arc<dyn Dir>, superblock: &Superblock, config: Config) -> Result<Recovery, Error> {
        config.check();
        let lock = take_lock(&*dir)?;
        let root = superblock.contents().root();
        let chain = Chain::read(&*dir, Some(&root))?;
        let reader = Reader::over(chain.segments.clone());
        Ok(Recovery { dir, config, root, chain, reader, lock })
    }

    /// The log holds the records after this zxid: the state that they are applied to must reach at least up to it.
    pub fn base(&self) -> Zxid {
        self.reader.base()
    }

    /// See [`Reader::replay`].
    pub fn replay<E: From<Error>>(
        &mut self,
        after: Zxid,
        take: impl FnMut(Zxid, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.reader.replay(after, take)
    }

    /// The next batch, for callers who decode in parallel; `None` at the end.
    pub fn next_batch(&mut self) -> Result<Option<Batch<'_>>, Error> {
        self.reader.next_batch()
    }

    /// Reads what was not read yet, makes durable what was read (a batch may be readable without being so: the last process
    /// died before its flush), and opens a new segment behind it. Only now may the content be voted with.
    ///
    /// `state`: the zxid up to which the caller's state reaches without the log (its snapshot's, or an imported one, or zero).
    /// A log that ends below it is behind and is begun anew there.
    pub fn finish(mut self, superblock: &mut Superblock, state: Zxid) -> Result<Log, Error> {
        while self.reader.next_batch()?.is_some() {}
        let end = self.reader.end().expect("the reader gave None").clone();
        for segment in &self.chain.segments {
            segment.file.sync().map_err(|e| Error::io("sync", segment.file.path(), None, e))?;
        }
        self.dir.sync().map_err(|e| Error::io("sync", self.dir.path(), None, e))?;
        let highest = self.chain.highest.max(self.root.newest);
        let how = if self.chain.segments.is_empty() || end.last < state {
            let old = std::mem::take(&mut self.chain.segments);
            self.chain.dead.extend(old.into_iter().map(|s| s.name));
            Begin::Base(state)
        } else {
            Begin::Behind
        };
        let firsts = std::mem::take(&mut self.reader.firsts);
        drop(self.reader);
        begin(self.dir, self.lock, self.config, self.root, self.chain, highest, superblock, how, end, &firsts)
    }
}

impl Log {
    /// Begins a log anew behind `base`, whatever stands in `dir`: after a corrupt log was given up for a copy of a peer's
    /// state, or after a restore. The old segments stay until the superblock names the new one; then they are recycled.
    pub fn begin_anew(
        dir: Arc<dyn Dir>,
        superblock: &mut Superblock,
        config: Config,
        base: Zxid,
    ) -> Result<Log, Error> {
        config.check();
        let lock = take_lock(&*dir)?;
        let root = superblock.contents().root();
        let chain = Chain::survey(&*dir)?;
        let highest = chain.highest.max(root.newest);
        let end = Reader::over(Vec::new()).into_end();
        begin(dir, lock, config, root, chain, highest, superblock, Begin::Base(base), end, &[])
    }
}

fn take_lock(dir: &dyn Dir) -> Result<Lock, Error> {
    dir.lock(LOCK).map_err(|e| match e.kind() {
        std::io::ErrorKind::WouldBlock => Error::Locked { dir: dir.path().into() },
        _ => Error::io("lock", &dir.path().join(LOCK), None, e),
    })
}

/// Where a new segment stands.
#[derive(Clone, Copy)]
enum Begin {
    /// Behind what was found.
    Behind,
    /// With no predecessor, at this zxid.
    Base(Zxid),
}

#[expect(clippy::too_many_arguments, reason = "the parts of a Recovery, taken apart once")]
fn begin(
    dir: Arc<dyn Dir>,
    lock: Lock,
    config: Config,
    root: Root,
    chain: Chain,
    highest: u64,
    superblock: &mut Superblock,
    how: Begin,
    found: End,
    firsts: &[(u64, Zxid)],
) -> Result<Log, Error> {
    for name in &chain.leftovers {
        dir.unlink(name).map_err(|e| Error::io("remove", &dir.path().join(name), None, e))?;
    }
    // Spares are kept; torn beginnings and dead segments are recycled. With a base the dead are those that hold the only copy
    // of a history until the superblock is written: they wait.
    let mut spares = Vec::new();
    let mut recycle = Vec::new();
    for (name, len) in chain.blank {
        let whole = len == config.segment_len && name.starts_with(crate::chain::SPARE_PREFIX);
        if whole && spares.len() < SPARES_MAX { spares.push(name) } else { recycle.push(name) }
    }
    let next_number = highest_name(&*dir)?;
    let probe = match spares.first() {
        Some(name) => name.clone(),
        None => {
            let shelf = Shelf::new(dir.clone(), config.segment_len, Access::WRITE, next_number, None);
            if let Begin::Behind = how {
                for name in &chain.dead {
                    shelf.recycle_file(name.clone());
                }
                while shelf.ready() == 0 && shelf.do_job()? {}
            }
            let (spare, _) = shelf.take()?;
            spares.push(spare.name.clone());
            spare.name
        }
    };
    let shape = Shape { depth: config.depth, slot_len: config.batch_max() };
    let chosen = choose_device(&*dir, &probe, config.device, shape)
        .map_err(|e| Error::io("choose a log device for", &dir.path().join(&probe), None, e))?;
    let access = chosen.device.kind().access();
    let shelf =
        Arc::new(Shelf::new(dir.clone(), config.segment_len, access, highest_name(&*dir)?, Some(lock)));
    for name in spares {
        let file =
            dir.open(&name, access).map_err(|e| Error::io("open", &dir.path().join(&name), None, e))?;
        shelf.put(Spare { name, file });
    }
    let mut live: VecDeque<Segment> = chain.segments.into();
    for segment in &live {
        shelf.set_name(segment.header.number, segment.name.clone());
        // A crash came before its naming, or took it back.
        let first = firsts.iter().find(|(number, _)| *number == segment.header.number);
        if let Some((number, first)) = first.filter(|_| segment.name.starts_with(crate::chain::SPARE_PREFIX))
        {
            shelf.name_later(*number, *first);
        }
    }
    // An empty segment is left out of the chain, so that starts without writes do not pile up; the first one stays.
    let skipped =
        if matches!(how, Begin::Behind) && !found.used && live.len() > 1 { live.pop_back() } else { None };
    let (pred, last_live, reason) = match (how, &skipped) {
        (Begin::Base(base), _) => (Link::default(), base, Reason::Base),
        (Begin::Behind, Some(empty)) => (empty.header.pred, empty.header.last_live, Reason::Start),
        (Begin::Behind, None) => (found.link, found.last, Reason::Start),
    };
    let slots = chosen.device.slots();
    let mut appender = Appender {
        shelf: shelf.clone(),
        config,
        root,
        device: chosen.device,
        live,
        number: highest,
        salt: 0,
        offset: config.segment_len,
        next_seq: pred.seq + 1,
        last_checksum: 0,
        durable: Place { seq: pred.seq, checksum: 0, zxid: last_live },
        written: last_live,
        accepted: last_live,
        filling: None,
        flight: VecDeque::new(),
        free: (0..slots).rev().collect(),
        mark_due: false,
        counts: Counts::default(),
        poisoned: None,
        _closer: Closer(shelf.clone()),
    };
    appender.open_segment(pred, last_live, reason)?;
    let number = appender.number;
    let start = if matches!(how, Begin::Base(_)) { number } else { root.start };
    superblock.set_log(start, number)?;
    appender.root = superblock.contents().root();
    if let Some(empty) = skipped {
        shelf.retire(empty.header.number, empty.file);
    }
    for name in chain.dead.into_iter().chain(recycle) {
        shelf.recycle_file(name);
    }
    Ok(Log { appender, preparer: Preparer::new(shelf), said: chosen.said, found })
}

/// The highest number in the names of spares, so that new names are new.
fn highest_name(dir: &dyn Dir) -> Result<u64, Error> {
    let entries = dir.list().map_err(|e| Error::io("list", dir.path(), None, e))?;
    let numbers = entries.iter().filter_map(|e| {
        [crate::chain::SPARE_PREFIX, crate::chain::TEMP_PREFIX]
            .iter()
            .find_map(|p| e.name.strip_prefix(p)?.parse().ok())
    });
    Ok(numbers.max().unwrap_or(0))
}

/// Writes the log: records gather in a batch, a batch is one durable write.
///
/// After a failed write every method returns [`Error::Poisoned`] for the life of the process.
#[derive(Debug)]
pub struct Appender {
    shelf: Arc<Shelf>,
    config: Config,
    root: Root,
    device: Box<dyn LogDevice>,
    /// Oldest first; the last one is being written.
    live: VecDeque<Segment>,
    /// Of the segment being written: number, salt, where the next batch goes.
    number: u64,
    salt: u64,
    offset: u64,
    next_seq: u64,
    /// The checksum of the last batch issued, or of the header.
    last_checksum: u32,
    /// The last durable batch. `durable.zxid <= written <= accepted`.
    durable: Place,
    /// The last zxid issued to the device.
    written: Zxid,
    /// The last zxid appended.
    accepted: Zxid,
    filling: Option<Filling>,
    /// Issued, oldest first.
    flight: VecDeque<Flight>,
    free: Vec<usize>,
    /// The last batch issued holds records, and no later one says that it is durable.
    mark_due: bool,
    counts: Counts,
    poisoned: Option<Arc<str>>,
    _closer: Closer,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    seq: u64,
    checksum: u32,
    zxid: Zxid,
}

#[derive(Debug)]
struct Filling {
    slot: usize,
    len: usize,
    count: u32,
    first: Zxid,
}

#[derive(Debug)]
struct Flight {
    slot: usize,
    place: Place,
    done: bool,
}

/// What the appender has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Batches that became durable, marks included.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes written for them, headers and padding included.
    pub bytes: u64,
    /// Segments begun.
    pub segments: u64,
    /// Segments that had to be made while a commit waited: the preparer does not keep up.
    pub segments_late: u64,
}

/// Segments that are no longer needed, to be named in the superblock as gone before they go.
#[derive(Debug)]
pub struct Purge {
    start: u64,
    keep: usize,
}

impl Appender {
    /// Adds records to the batch being filled, in zxid order; each must follow the last one appended. A batch that is full is
    /// issued, which waits for an earlier one if too many are in flight.
    ///
    /// # Errors
    /// [`Error::Gap`] and [`Error::BadRecord`] refuse the record and those behind it; the ones before it are appended.
    /// [`Error::NoSpace`] likewise. Others are final.
    pub fn append<'a>(&mut self, records: impl IntoIterator<Item = (Zxid, &'a [u8])>) -> Result<(), Error> {
        self.check()?;
        for (zxid, record) in records {
            let max = self.config.record_max();
            if !(RECORD_MIN..=max).contains(&record.len()) || record_zxid(record) != Some(zxid) {
                return Err(Error::BadRecord { zxid, len: record.len(), max });
            }
            if !follows(self.accepted, zxid) {
                return Err(Error::Gap { after: self.accepted, found: zxid });
            }
            let need = RECORD_PREFIX + record.len();
            if self.filling.as_ref().is_some_and(|f| f.len + need > self.config.batch_max()) {
                self.submit()?;
            }
            let slot = match &self.filling {
                Some(filling) => filling.slot,
                None => {
                    let slot = self.free_slot()?;
                    self.filling = Some(Filling { slot, len: BATCH_HEADER, count: 0, first: zxid });
                    slot
                }
            };
            let filling = self.filling.as_mut().expect("set above");
            let (at, end) = (filling.len, filling.len + need);
            self.device.grow(slot, vfs::block_up(end));
            let buffer = self.device.buffer(slot);
            put32(buffer, at, u32::try_from(record.len()).expect("bounded by a segment"));
            buffer[at + RECORD_PREFIX..end].copy_from_slice(record);
            filling.len = end;
            filling.count += 1;
            self.accepted = zxid;
        }
        Ok(())
    }

    /// Issues what was appended and waits until all of it is durable.
    pub fn commit(&mut self) -> Result<Durable, Error> {
        self.submit()?;
        while !self.flight.is_empty() {
            self.wait_one()?;
        }
        Ok(self.durable())
    }

    /// Issues what was appended as one batch; does nothing if there is none. Waits only if too many are in flight, or if the
    /// segment is full.
    pub fn submit(&mut self) -> Result<(), Error> {
        self.check()?;
        match self.filling.take() {
            None => Ok(()),
            Some(filling) => match self.issue(&filling) {
                // Nothing was written: the records stay waiting for room.
                Err(error @ Error::NoSpace { .. }) => {
                    self.filling = Some(filling);
                    Err(error)
                }
                other => other,
            },
        }
    }

    /// Waits for one batch in flight. The token covers all that is durable now; `None` if nothing was in flight.
    pub fn complete(&mut self) -> Result<Option<Durable>, Error> {
        self.check()?;
        if self.flight.is_empty() {
            return Ok(None);
        }
        self.wait_one()?;
        Ok(Some(self.durable()))
    }

    /// Records durably that everything acknowledged is durable, if no batch says so yet: call it when the log has been idle for
    /// a second, and at shutdown. From then on damage to the last batch is known from a torn write.
    pub fn mark_idle(&mut self) -> Result<(), Error> {
        self.commit()?;
        if !self.mark_due {
            return Ok(());
        }
        if self.offset + BLOCK as u64 > self.config.segment_len {
            // The next header says it just as well.
            return self.next_segment(Reason::Full);
        }
        let slot = self.free_slot()?;
        let mark = Filling { slot, len: BATCH_HEADER, count: 0, first: self.accepted };
        self.issue(&mark)?;
        while !self.flight.is_empty() {
            self.wait_one()?;
        }
        Ok(())
    }

    /// Begins a new segment for a new role or epoch; everything appended is durable when this returns.
    pub fn change_role(&mut self) -> Result<Durable, Error> {
        self.commit()?;
        if !self.is_fresh() {
            self.next_segment(Reason::Role)?;
        }
        Ok(self.durable())
    }

    /// Cuts the log behind `last`: records with a higher zxid are dead, durably, when this returns. Gives the last zxid that
    /// lives, which is below `last` if the log has no such record.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if `last` lies before the start of the log: then only a whole copy of the state helps.
    pub fn truncate_after(&mut self, last: Zxid, superblock: &mut Superblock) -> Result<Durable, Error> {
        self.commit()?;
        if last >= self.accepted {
            return Ok(self.durable());
        }
        let base = self.live[0].header.last_live;
        if last < base {
            return Err(Error::OutOfRange { wanted: last, start: base, end: self.accepted });
        }
        let (keep, link, last_live) = self.find_cut(last)?;
        let from = self.live.len();
        self.open_segment(link, last_live, Reason::Truncate)?;
        // The header is durable, but a damaged one must not bring the dead back: the superblock demands it.
        self.on_superblock(superblock.set_log(self.root.start, self.number))?;
        self.root = superblock.contents().root();
        let dead: Vec<Segment> = self.live.drain(keep..from).collect();
        for segment in dead {
            self.shelf.retire(segment.header.number, segment.file);
        }
        Ok(self.durable())
    }

    /// Begins the log anew behind `base`, after a whole copy of a peer's state is durable: what it held is dead at the moment
    /// when the superblock is written.
    pub fn begin_anew(&mut self, base: Zxid, superblock: &mut Superblock) -> Result<Durable, Error> {
        self.commit()?;
        let from = self.live.len();
        self.open_segment(Link { segment: 0, seq: self.next_seq - 1, checksum: 0 }, base, Reason::Base)?;
        self.on_superblock(superblock.set_log(self.number, self.number))?;
        self.root = superblock.contents().root();
        let dead: Vec<Segment> = self.live.drain(..from).collect();
        for segment in dead {
            self.shelf.retire(segment.header.number, segment.file);
        }
        Ok(self.durable())
    }

    /// Which segments hold nothing after `keep_after`, the zxid of the oldest snapshot to be kept (a verified one). `None` if
    /// there are none. Hand the answer to [`Superblock::purge`] and its answer to [`Appender::forget`].
    pub fn purgeable(&self, keep_after: Zxid) -> Option<Purge> {
        // A segment is done with if the next one begins at or below the snapshot.
        let keep = self
            .live
            .iter()
            .skip(1)
            .take_while(|next| {
                next.header.last_live <= keep_after || proto::mutant::is(proto::mutant::Mutant::PurgesTooMuch)
            })
            .count();
        (keep > 0).then(|| Purge { start: self.live[keep].header.number, keep })
    }

    /// Hands purged segments to the preparer.
    pub fn forget(&mut self, purged: Purged) {
        let at = self.live.iter().position(|s| s.header.number == purged.start).unwrap_or(0);
        self.root.start = purged.start;
        let dead: Vec<Segment> = self.live.drain(..at).collect();
        for segment in dead {
            self.shelf.retire(segment.header.number, segment.file);
        }
    }

    /// Reads the durable records after `after` from the segments, while writing goes on.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if the log begins later.
    pub fn reader(&self, after: Zxid) -> Result<Reader, Error> {
        let base = self.live[0].header.last_live;
        if after < base {
            return Err(Error::OutOfRange { wanted: after, start: base, end: self.durable.zxid });
        }
        let first = self.live.iter().rposition(|s| s.header.last_live <= after).unwrap_or(0);
        let mut segments: Vec<Segment> = self.live.iter().skip(first).cloned().collect();
        let firsts: Vec<SegmentHeader> = segments.iter().skip(1).map(|s| s.header).collect();
        for (segment, next) in segments.iter_mut().zip(firsts) {
            segment.bound = Some(Bound { link: next.pred, last_live: next.last_live });
        }
        Ok(Reader::limited(segments, self.durable.seq))
    }

    /// Everything up to here is durable.
    pub fn durable(&self) -> Durable {
        Durable::from_completed_write(self.durable.zxid)
    }

    /// The last zxid appended.
    pub fn last(&self) -> Zxid {
        self.accepted
    }

    /// The log holds the records after this zxid.
    pub fn base(&self) -> Zxid {
        self.live[0].header.last_live
    }

    /// Batches issued and not yet known durable.
    pub fn in_flight(&self) -> usize {
        self.flight.len()
    }

    /// Bytes appended and not yet issued.
    pub fn waiting(&self) -> usize {
        self.filling.as_ref().map_or(0, |f| f.len - BATCH_HEADER)
    }

    /// Whether [`Appender::mark_idle`] has something to do.
    pub fn wants_mark(&self) -> bool {
        self.mark_due || !self.flight.is_empty() || self.filling.is_some()
    }

    /// Room for further batches.
    pub fn space(&self) -> Space {
        self.shelf.space()
    }

    /// Spares ready.
    pub fn spares(&self) -> usize {
        self.shelf.ready()
    }

    /// Live segments.
    pub fn segments(&self) -> usize {
        self.live.len()
    }

    /// What was done since opening.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// How it writes, a word for the metric.
    pub fn device_kind(&self) -> vfs::DeviceKind {
        self.device.kind()
    }

    /// The longest record that can be appended, bytes: to be checked before a zxid is taken.
    pub fn record_max(&self) -> usize {
        self.config.record_max()
    }

    fn check(&self) -> Result<(), Error> {
        match &self.poisoned {
            Some(first) => Err(Error::Poisoned { first: first.clone() }),
            None => Ok(()),
        }
    }

    fn poison(&mut self, error: Error) -> Error {
        self.poisoned.get_or_insert_with(|| error.to_string().into());
        error
    }

    fn on_superblock(&mut self, result: Result<(), Error>) -> Result<(), Error> {
        result.map_err(|e| self.poison(e))
    }

    /// Nothing was written to the segment yet.
    fn is_fresh(&self) -> bool {
        self.offset == BLOCK as u64
    }

    fn segment(&self) -> &Segment {
        self.live.back().expect("a log always has a segment")
    }

    fn free_slot(&mut self) -> Result<usize, Error> {
        while self.free.is_empty() {
            self.wait_one()?;
        }
        Ok(self.free.pop().expect("not empty"))
    }

    /// Sends the batch off.
    fn issue(&mut self, batch: &Filling) -> Result<(), Error> {
        let padded = vfs::block_up(batch.len);
        if self.offset + padded as u64 > self.config.segment_len {
            self.next_segment(Reason::Full)?;
        }
        // One slot fills while the others are in flight.
        while self.flight.len() + 1 >= self.device.slots() {
            self.wait_one()?;
        }
        let header = BatchHeader {
            segment: self.number,
            salt: self.salt,
            seq: self.next_seq,
            offset: self.offset,
            payload_len: u32::try_from(batch.len - BATCH_HEADER).expect("bounded by a segment"),
            count: batch.count,
            first: batch.first,
            last: self.accepted,
            durable_seq: self.durable.seq,
            pred_checksum: self.last_checksum,
        };
        self.device.grow(batch.slot, padded);
        let buffer = &mut self.device.buffer(batch.slot)[..padded];
        let checksum = header.encode(&mut buffer[..batch.len]);
        buffer[batch.len..].fill(0);
        if let Err(e) = self.device.submit(batch.slot, padded, self.offset) {
            let error = Error::io("write", self.segment().file.path(), Some(self.offset), e);
            return Err(self.poison(error));
        }
        if self.is_fresh() && batch.count > 0 {
            self.shelf.name_later(self.number, batch.first);
        }
        let place = Place { seq: self.next_seq, checksum, zxid: self.accepted };
        self.flight.push_back(Flight { slot: batch.slot, place, done: false });
        self.offset += padded as u64;
        self.next_seq += 1;
        self.last_checksum = checksum;
        self.written = self.accepted;
        self.mark_due = batch.count > 0;
        self.shelf.note_use(padded as u64, self.offset);
        self.counts.batches += 1;
        self.counts.records += u64::from(batch.count);
        self.counts.bytes += padded as u64;
        Ok(())
    }

    /// Takes one completion; `durable` moves only over a gapless run of completed batches.
    fn wait_one(&mut self) -> Result<(), Error> {
        let Some(completion) = self.device.complete() else {
            return Err(self.poison(Error::Poisoned { first: "the device lost a write".into() }));
        };
        if let Err(e) = completion.result
            && !proto::mutant::is(proto::mutant::Mutant::FailedWriteIgnored)
        {
            let error = Error::io("write", self.segment().file.path(), Some(self.offset), e);
            return Err(self.poison(error));
        }
        // A slot can be used again while its earlier batch, done, still waits for an older one.
        let flight = self.flight.iter_mut().find(|f| !f.done && f.slot == completion.slot);
        flight.expect("only issued slots complete").done = true;
        self.free.push(completion.slot);
        while let Some(Flight { done: true, place, .. }) = self.flight.front() {
            self.durable = *place;
            self.flight.pop_front();
        }
        Ok(())
    }

    /// Goes on in a new segment behind everything issued.
    fn next_segment(&mut self, reason: Reason) -> Result<(), Error> {
        while !self.flight.is_empty() {
            self.wait_one()?;
        }
        let link = Link { segment: self.number, seq: self.durable.seq, checksum: self.durable.checksum };
        self.open_segment(link, self.durable.zxid, reason)
    }

    /// Writes the header of a new segment and turns the appender to it. Nothing may be in flight; a batch being filled stays.
    fn open_segment(&mut self, pred: Link, last_live: Zxid, reason: Reason) -> Result<(), Error> {
        assert!(self.flight.is_empty(), "a header names the last durable batch");
        let (spare, late) = self.shelf.take()?;
        let number = self.number + 1;
        let header = SegmentHeader {
            cluster: self.root.identity.cluster,
            server: self.root.identity.server.0,
            number,
            len: self.config.segment_len,
            first_seq: pred.seq + 1,
            pred: if reason == Reason::Base { Link::default() } else { pred },
            reason,
            last_live,
            salt: salt(self.root.secret, number),
        };
        let mut block = AlignedBuf::zeroed(BLOCK);
        let checksum = header.encode(&mut block);
        let written =
            spare.file.write_durable(&block, 0).and_then(|()| self.device.switch_to(spare.file.clone()));
        if let Err(e) = written {
            let error = Error::io("write the header of", spare.file.path(), Some(0), e);
            return Err(self.poison(error));
        }
        self.shelf.set_name(number, spare.name.clone());
        self.live.push_back(Segment { name: spare.name, header, checksum, file: spare.file, bound: None });
        if self.accepted == self.durable.zxid {
            self.accepted = last_live;
        }
        self.written = last_live;
        self.number = number;
        self.salt = header.salt;
        self.offset = BLOCK as u64;
        self.next_seq = header.first_seq;
        self.last_checksum = checksum;
        self.durable = Place { seq: pred.seq, checksum, zxid: last_live };
        self.mark_due = false;
        self.counts.segments += 1;
        self.counts.segments_late += u64::from(late);
        self.shelf.note_use(0, self.offset);
        Ok(())
    }

    /// The number of segments to keep, and the place in the last of them, so that everything up to `last` stays.
    fn find_cut(&self, last: Zxid) -> Result<(usize, Link, Zxid), Error> {
        // The last segment that begins at or below `last` holds it; an earlier one if that begins exactly there, since a
        // segment without live batches had better not be named.
        let at = self.live.iter().rposition(|s| s.header.last_live < last).unwrap_or(0);
        let header = self.live[at].header;
        let mut link =
            Link { segment: header.number, seq: header.first_seq - 1, checksum: self.live[at].checksum };
        let mut last_live = header.last_live;
        let mut reader = self.reader(header.last_live.min(last))?;
        while let Some(batch) = reader.next_batch()? {
            if batch.info.segment < header.number {
                continue;
            }
            if batch.info.segment > header.number || batch.info.first > last {
                break;
            }
            link = Link { segment: batch.info.segment, seq: batch.info.seq, checksum: batch.info.checksum };
            for (zxid, _) in batch.records().filter(|(zxid, _)| *zxid <= last) {
                last_live = zxid;
            }
        }
        Ok((at + 1, link, last_live))
    }
}

/// Proof that the superblock no longer counts on purged segments.
#[derive(Debug)]
pub struct Purged {
    start: u64,
}

impl Superblock {
    /// Moves the start of the log, durably.
    pub fn purge(&mut self, purge: &Purge) -> Result<Purged, Error> {
        assert!(purge.keep > 0, "a purge has something to purge");
        let newest = self.contents().log_newest.max(purge.start);
        self.set_log(purge.start, newest)?;
        Ok(Purged { start: purge.start })
    }
}
