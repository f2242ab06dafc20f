//! The end of the log as memory has it: what is prepared, what is on its way to the disk, what waits to be applied,
//! and the last applied records, for learners that come back.
//!
//! ```text
//!   base        applied      durable      sealed       last
//!    |  kept      |  waits      |  written   |  open     |
//!    +------------+-------------+------------+-----------+
//! ```
//! It mirrors the log record by record: nothing is in here that was not handed to the log in this order, and a cut
//! of the log cuts it too.

use crate::output::Records;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use proto::txn::RecordBatch;
use proto::{Durable, Zxid};

/// A batch, of which the records `0..end` are alive.
#[derive(Debug)]
struct Held {
    batch: Arc<RecordBatch>,
    end: usize,
}

impl Held {
    fn last(&self) -> Zxid {
        self.batch.get(self.end - 1).expect("a held batch has records").0
    }
}

/// See the module's page.
#[derive(Debug)]
pub struct History {
    /// Everything behind it is in memory.
    base: Zxid,
    batches: VecDeque<Held>,
    /// The next record to apply: a batch and a place in it.
    next: (usize, usize),
    applied: Zxid,
    durable: Durable,
    /// Not yet taken by the log.
    open: RecordBatch,
    /// Records in `batches`.
    records: usize,
    bytes: usize,
    keep: usize,
}

/// Bytes of applied records that are kept at most: with the default of 500 records, each can be 64 KiB long.
const KEPT_BYTES: usize = 32 << 20;

/// Bytes that a new batch of records has room for at most from the start: a batch of the log.
const BATCH_ROOM: usize = 1 << 20;

impl History {
    /// A log that ends at `durable`, all of it applied. `recent` are its last records, of which `keep` stay in memory once
    /// they are applied.
    ///
    /// # Panics
    /// When `recent` has a hole or does not end where the log does.
    pub fn new(durable: Durable, recent: Vec<Arc<RecordBatch>>, keep: usize) -> History {
        let mut h = History {
            base: durable.upto(),
            batches: VecDeque::new(),
            next: (0, 0),
            applied: durable.upto(),
            durable,
            open: RecordBatch::new(),
            records: 0,
            bytes: 0,
            keep,
        };
        let mut last: Option<Zxid> = None;
        for batch in recent.into_iter().filter(|b| !b.is_empty()) {
            let first = batch.get(0).expect("it is not empty").0;
            assert!(last.is_none_or(|l| follows(l, first)), "{first} does not follow {last:?}");
            last = batch.last();
            h.hold(batch);
        }
        if let Some(last) = last {
            assert_eq!(last, durable.upto(), "the recent records end where the log ends");
            // The record before the first one is known only where the counter says it.
            let (first, _) = h.batches[0].batch.get(0).expect("it is not empty");
            if first.counter() > 1 {
                h.base = Zxid::from_u64(first.as_u64() - 1);
            } else {
                h.base = first;
                h.drop_through_base();
            }
        }
        h.next = (h.batches.len(), 0);
        h.trim();
        h
    }

    /// The last record, in the log or on its way there.
    pub fn last(&self) -> Zxid {
        self.open.last().unwrap_or_else(|| self.last_sealed())
    }

    /// The last record that [`History::seal`] has given out.
    pub fn last_sealed(&self) -> Zxid {
        self.batches.back().map_or(self.base, Held::last)
    }

    /// The proof of what is on disk.
    pub fn durable(&self) -> Durable {
        self.durable
    }

    /// The last applied record.
    pub fn applied(&self) -> Zxid {
        self.applied
    }

    /// Everything behind it is in memory.
    pub fn base(&self) -> Zxid {
        self.base
    }

    /// Whether everything is durable.
    pub fn is_drained(&self) -> bool {
        self.durable.upto() == self.last()
    }

    /// Where the next records are written; each must follow the last one.
    pub fn open(&mut self) -> &mut RecordBatch {
        &mut self.open
    }

    /// Appends a record that came from a leader.
    ///
    /// # Panics
    /// When it does not lie behind the last one.
    pub fn append(&mut self, zxid: Zxid, record: &[u8]) {
        assert!(zxid > self.last(), "{zxid} after {}", self.last());
        self.open.push_with(zxid, |out| out.extend_from_slice(record));
    }

    /// Closes the open batch: it goes to the log, and stays here until it is applied.
    pub fn seal(&mut self) -> Option<Arc<RecordBatch>> {
        if self.open.is_empty() {
            return None;
        }
        // The next batch is likely as large: growing there step by step would copy it several times over.
        let room = self.open.byte_len().min(BATCH_ROOM);
        let next = RecordBatch::with_capacity(self.open.len().min(BATCH_ROOM / 64), room);
        let batch = Arc::new(core::mem::replace(&mut self.open, next));
        self.hold(batch.clone());
        Some(batch)
    }

    /// The log has made everything up to there durable.
    ///
    /// # Panics
    /// When that lies behind what it said before, or is more than it was given.
    pub fn persisted(&mut self, durable: Durable) {
        assert!(durable >= self.durable, "the log went back: {durable:?} after {:?}", self.durable);
        assert!(durable.upto() <= self.last_sealed(), "{} was never handed to the log", durable.upto());
        self.durable = durable;
    }

    /// The next records to apply, out of one batch, up to `upto`; they count as applied.
    ///
    /// # Panics
    /// When `upto` is not durable: a server shows only what it could not lose.
    pub fn next_to_apply(&mut self, upto: Zxid) -> Option<Records> {
        assert!(upto <= self.durable.upto(), "a server shows only what it could not lose");
        let (at, from) = self.next;
        let held = self.batches.get(at)?;
        let to = if held.last() <= upto {
            held.end
        } else {
            let mut to = from;
            while held.batch.get(to).is_some_and(|(zxid, _)| zxid <= upto) {
                to += 1;
            }
            to
        };
        if to == from {
            return None;
        }
        let records = Records::new(held.batch.clone(), from, to);
        self.applied = records.last();
        self.next = if to == held.end { (at + 1, 0) } else { (at, to) };
        self.trim();
        Some(records)
    }

    /// The tree was rebuilt from snapshot and log: everything is applied.
    pub fn rebuilt(&mut self) {
        assert!(self.is_drained() && self.open.is_empty(), "a tree is rebuilt from a log that stands still");
        self.applied = self.last();
        self.next = (self.batches.len(), 0);
        self.trim();
    }

    /// The log was cut: it ends at `durable` now.
    pub fn truncated(&mut self, durable: Durable) {
        assert!(self.open.is_empty(), "the log is cut when it stands still");
        let after = durable.upto();
        self.durable = durable;
        if after < self.base {
            return self.reset(durable);
        }
        while let Some(back) = self.batches.back_mut() {
            let was = back.end;
            while back.end > 0 && back.batch.get(back.end - 1).is_some_and(|(zxid, _)| zxid > after) {
                back.end -= 1;
                self.bytes -= back.batch.get(back.end).map_or(0, |(_, r)| r.len());
            }
            self.records -= was - back.end;
            if back.end > 0 {
                break;
            }
            self.batches.pop_back();
        }
        self.applied = self.applied.min(after);
        let at = self.batches.iter().position(|h| h.last() > self.applied).unwrap_or(self.batches.len());
        let from = self.batches.get(at).map_or(0, |h| {
            (0..h.end).find(|&i| h.batch.get(i).is_some_and(|(z, _)| z > self.applied)).unwrap_or(0)
        });
        self.next = (at, from);
    }

    /// The log was begun anew at `durable`, the tree is there.
    pub fn reset(&mut self, durable: Durable) {
        self.batches.clear();
        (self.records, self.bytes, self.next) = (0, 0, (0, 0));
        (self.base, self.applied, self.durable) = (durable.upto(), durable.upto(), durable);
    }

    /// The last record at or before `zxid`; `None` when that lies before what is in memory.
    pub fn find(&self, zxid: Zxid) -> Option<Zxid> {
        if zxid < self.base {
            return None;
        }
        let held = self.batches.iter().rev().find(|h| h.batch.get(0).is_some_and(|(first, _)| first <= zxid));
        let Some(held) = held else { return Some(self.base) };
        let mut at = held.end;
        while at > 0 {
            at -= 1;
            if let Some((z, _)) = held.batch.get(at).filter(|(z, _)| *z <= zxid) {
                return Some(z);
            }
        }
        Some(self.base)
    }

    /// The sealed records behind `after`, up to and including `upto`, batch by batch.
    ///
    /// # Panics
    /// When they begin before what is in memory.
    pub fn records(&self, after: Zxid, upto: Zxid) -> Vec<Records> {
        assert!(after >= self.base, "{after} is not in memory, {} is", self.base);
        let mut out = Vec::new();
        for h in self.batches.iter().skip_while(|h| h.last() <= after) {
            let inside = |i: &usize| h.batch.get(*i).is_some_and(|(z, _)| z > after && z <= upto);
            let Some(from) = (0..h.end).find(inside) else { break };
            let to = (from..h.end).take_while(inside).count() + from;
            out.push(Records::new(h.batch.clone(), from, to));
        }
        out
    }

    fn hold(&mut self, batch: Arc<RecordBatch>) {
        self.records += batch.len();
        self.bytes += batch.byte_len();
        self.batches.push_back(Held { end: batch.len(), batch });
    }

    /// Drops applied batches beyond what is kept.
    fn trim(&mut self) {
        while self.next.0 > 0
            && let Some(front) = self.batches.front()
            && (self.records - front.end >= self.keep || self.bytes > KEPT_BYTES)
        {
            self.base = front.last();
            self.records -= front.end;
            self.bytes = self.bytes.saturating_sub(front.batch.byte_len());
            self.batches.pop_front();
            self.next.0 -= 1;
        }
    }

    /// Forgets the first record, which is `base` itself.
    fn drop_through_base(&mut self) {
        while self.batches.front().is_some_and(|h| h.last() <= self.base) {
            let gone = self.batches.pop_front().expect("it is there");
            self.records -= gone.end;
            self.bytes -= gone.batch.byte_len();
        }
    }
}

/// Whether `next` may stand right behind `last`: the next counter, or a later epoch.
pub fn follows(last: Zxid, next: Zxid) -> bool {
    last.next() == Some(next) || next.epoch() > last.epoch()
}
