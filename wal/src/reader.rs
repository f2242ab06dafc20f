//! Reading the log: batch by batch along the chain, every claim checked, the end decided.
//!
//! At the first batch that is not as it must be, in the last segment, the rest of the segment is searched. A readable batch of
//! this segment that was issued when the bad one was known durable proves that the bad one had been acknowledged: corruption.
//! Otherwise nobody was told of it: a torn tail, which is dropped. In any earlier segment the successor's header proves
//! durability, so a bad batch there is corruption.
//!
//! Beside a running server a batch can be read while it is on its way to the disk, and its successors later, when it has
//! arrived. So a reader for tools reads a batch once more before it calls it corrupt.

use crate::chain::{Bound, Chain, Segment, Window};
use crate::error::{Damage, Error, Fault};
use crate::format::{
    BATCH_HEADER, BatchHeader, Block0, Link, RECORD_PREFIX, SegmentHeader, follows, get32, record_zxid,
};
use crate::superblock::Root;
use proto::Zxid;
use std::path::PathBuf;
use vfs::{AlignedBuf, BLOCK, Dir};

/// Reads records in zxid order; changes nothing.
#[derive(Debug)]
pub struct Reader {
    segments: Vec<Segment>,
    /// The segment being read, and its bytes.
    at: usize,
    window: Option<Window>,
    offset: u64,
    next_seq: u64,
    last: Place,
    /// The first zxid of the batch before: the successor may cut within it, not before it.
    batch_first: Zxid,
    /// Records up to here live before this log.
    base: Zxid,
    end: Option<End>,
    /// The last batch to read.
    limit: u64,
    /// A server may be writing this log.
    beside: bool,
    /// The first live zxid of each segment read so far.
    pub(crate) firsts: Vec<(u64, Zxid)>,
}

/// The last thing that was good.
#[derive(Clone, Copy, Debug)]
struct Place {
    checksum: u32,
    zxid: Zxid,
}

/// One batch, read and verified.
#[derive(Debug)]
pub struct Batch<'a> {
    /// Where it stands and what it says.
    pub info: BatchInfo,
    payload: &'a [u8],
    live_upto: Zxid,
}

/// Where a batch stands and what its header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchInfo {
    /// The segment's number.
    pub segment: u64,
    /// The batch's number.
    pub seq: u64,
    /// Its offset in the segment.
    pub offset: u64,
    /// Its length with header, without padding, bytes.
    pub len: u64,
    /// Records in it; 0 for a mark.
    pub count: u32,
    /// First zxid.
    pub first: Zxid,
    /// Last zxid.
    pub last: Zxid,
    /// The last batch known durable when it was issued.
    pub durable_seq: u64,
    /// Its checksum.
    pub checksum: u32,
}

/// A segment as its header tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// The file.
    pub path: PathBuf,
    /// Its header.
    pub header: SegmentHeader,
    /// The zxid up to which it lives, if a later segment says so.
    pub live_upto: Option<Zxid>,
}

/// How the log ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// The last zxid.
    pub last: Zxid,
    /// The batch behind which the log continues.
    pub link: Link,
    /// The offset behind the last good batch.
    pub offset: u64,
    /// The last segment held at least one live batch.
    pub used: bool,
    /// A tail that was never acknowledged and is dropped. Beside a running server: a batch in flight.
    pub torn: Option<Damage>,
}

impl<'a> Batch<'a> {
    /// Its live records in order.
    pub fn records(&self) -> impl Iterator<Item = (Zxid, &'a [u8])> + use<'a> {
        let live_upto = self.live_upto;
        Records { payload: self.payload }.take_while(move |(zxid, _)| *zxid <= live_upto)
    }
}

/// Walks a verified payload.
struct Records<'a> {
    payload: &'a [u8],
}

impl<'a> Iterator for Records<'a> {
    type Item = (Zxid, &'a [u8]);
    fn next(&mut self) -> Option<Self::Item> {
        if self.payload.len() < RECORD_PREFIX {
            return None;
        }
        let len = get32(self.payload, 0) as usize;
        let record = self.payload.get(RECORD_PREFIX..RECORD_PREFIX + len)?;
        self.payload = &self.payload[RECORD_PREFIX + len..];
        Some((record_zxid(record)?, record))
    }
}

impl Reader {
    /// A reader of the whole log in `dir`: for tools, also beside a running server. With the superblock's `root` missing
    /// segments and lost headers are noticed; without it the reader takes what it finds.
    pub fn open(dir: &dyn Dir, root: Option<&Root>) -> Result<Reader, Error> {
        Ok(Reader { beside: true, ..Reader::over(Chain::read(dir, root)?.segments) })
    }

    pub(crate) fn over(segments: Vec<Segment>) -> Reader {
        let base = segments.first().map_or(Zxid::ZERO, |s| s.header.last_live);
        Reader {
            segments,
            at: 0,
            window: None,
            offset: 0,
            next_seq: 0,
            last: Place { checksum: 0, zxid: base },
            batch_first: base,
            base,
            end: None,
            limit: u64::MAX,
            beside: false,
            firsts: Vec::new(),
        }
    }

    /// A reader that stops behind batch `limit`: what is durable in a log that is being written.
    pub(crate) fn limited(segments: Vec<Segment>, limit: u64) -> Reader {
        Reader { limit, ..Reader::over(segments) }
    }

    pub(crate) fn into_end(self) -> End {
        self.describe_end(None)
    }

    /// The log holds the records after this zxid.
    pub fn base(&self) -> Zxid {
        self.base
    }

    /// The live segments, oldest first.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        self.segments
            .iter()
            .map(|s| SegmentInfo {
                path: s.file.path().into(),
                header: s.header,
                live_upto: s.bound.map(|b| b.last_live),
            })
            .collect()
    }

    /// How the log ends: known once [`Reader::next_batch`] gave `None`.
    pub fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// The next batch; `None` at the end of the log. After an error there is nothing more to read.
    pub fn next_batch(&mut self) -> Result<Option<Batch<'_>>, Error> {
        let Some((header, checksum)) = self.advance()? else { return Ok(None) };
        let segment = &self.segments[self.at];
        let live_upto = match segment.bound {
            Some(bound) if bound.link.seq == header.seq => bound.last_live,
            _ => Zxid::MAX,
        };
        let info = BatchInfo {
            segment: header.segment,
            seq: header.seq,
            offset: header.offset,
            len: BATCH_HEADER as u64 + u64::from(header.payload_len),
            count: header.count,
            first: header.first,
            last: header.last,
            durable_seq: header.durable_seq,
            checksum,
        };
        let window = self.window.as_ref().expect("advance left the window over this batch");
        let payload = window.again(header.offset, BATCH_HEADER..BATCH_HEADER + header.payload_len as usize);
        Ok(Some(Batch { info, payload, live_upto }))
    }

    /// Gives every record after `after` to `take`, in order, to the end of the log.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if the log begins later, so that records between would be missed; damage; what `take` returns.
    pub fn replay<E: From<Error>>(
        &mut self,
        after: Zxid,
        mut take: impl FnMut(Zxid, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        if after < self.base {
            return Err(Error::OutOfRange { wanted: after, start: self.base, end: self.last.zxid }.into());
        }
        while let Some(batch) = self.next_batch()? {
            if batch.info.last <= after {
                continue;
            }
            for (zxid, record) in batch.records() {
                if zxid > after {
                    take(zxid, record)?;
                }
            }
        }
        Ok(())
    }

    /// Moves on to the next batch and verifies it; the window then covers it whole.
    fn advance(&mut self) -> Result<Option<(BatchHeader, u32)>, Error> {
        let advanced = self.try_advance();
        // Damage, or an end, may be the work of a server that used the file anew meanwhile.
        if matches!(advanced, Ok(None) | Err(Error::Corrupt(_)))
            && let Some(segment) = self.segments.get(self.at)
        {
            let mut block = AlignedBuf::zeroed(BLOCK);
            let read = segment.file.read_exact_at(&mut block, 0);
            let same =
                matches!(SegmentHeader::decode(&block), Block0::Header(_, sum) if sum == segment.checksum);
            if read.is_ok() && !same {
                return Err(Error::Recycled { path: segment.file.path().into() });
            }
        }
        advanced
    }

    fn try_advance(&mut self) -> Result<Option<(BatchHeader, u32)>, Error> {
        let mut second_look = false;
        loop {
            if self.end.is_some() {
                return Ok(None);
            }
            let Some(segment) = self.segments.get(self.at) else {
                self.end = Some(self.describe_end(None));
                return Ok(None);
            };
            if self.window.is_none() {
                let len =
                    segment.file.len().map_err(|e| Error::io("measure", segment.file.path(), None, e))?;
                self.window = Some(Window::over(segment.file.clone(), segment.header.len.min(len)));
                self.offset = BLOCK as u64;
                self.next_seq = segment.header.first_seq;
                self.last.checksum = segment.checksum;
            }
            match segment.bound {
                Some(bound) if self.next_seq > bound.link.seq => {
                    self.pass_to_next(bound)?;
                    continue;
                }
                None if self.next_seq > self.limit => {
                    self.end = Some(self.describe_end(None));
                    return Ok(None);
                }
                _ => {}
            }
            return match self.read_batch()? {
                Ok((header, crc)) => {
                    self.offset += vfs::block_up(BATCH_HEADER + header.payload_len as usize) as u64;
                    self.next_seq += 1;
                    self.last.checksum = crc;
                    self.batch_first = header.first;
                    if header.count > 0 {
                        self.last.zxid = header.last;
                        if self.firsts.last().is_none_or(|(number, _)| *number != header.segment) {
                            self.firsts.push((header.segment, header.first));
                        }
                    }
                    Ok(Some((header, crc)))
                }
                Err(damage) => match self.decide(damage) {
                    Err(Error::Corrupt(_)) if self.beside && !second_look => {
                        second_look = true;
                        self.window.as_mut().expect("set above").forget();
                        continue;
                    }
                    decided => decided.map(|()| None),
                },
            };
        }
    }

    /// All of this segment is read: does the next one continue it where it says?
    fn pass_to_next(&mut self, bound: Bound) -> Result<(), Error> {
        let next = &self.segments[self.at + 1];
        let lower = if self.next_seq == self.segments[self.at].header.first_seq {
            self.last.zxid
        } else {
            self.batch_first.min(self.last.zxid)
        };
        let (wanted, found) = if bound.link.checksum != self.last.checksum {
            (u64::from(bound.link.checksum), u64::from(self.last.checksum))
        } else if bound.last_live > self.last.zxid || bound.last_live < lower {
            (bound.last_live.as_u64(), self.last.zxid.as_u64())
        } else if next.header.first_seq != bound.link.seq + 1 {
            (bound.link.seq + 1, next.header.first_seq)
        } else {
            self.last.zxid = bound.last_live;
            self.at += 1;
            self.window = None;
            return Ok(());
        };
        Err(Error::Corrupt(Box::new(Damage {
            path: next.file.path().into(),
            segment: next.header.number,
            offset: 0,
            after: self.last.zxid,
            what: Fault::Header,
            wanted,
            found,
        })))
    }

    /// Reads and verifies what stands at the present offset. The outer error is the system's, the inner one says what is wrong
    /// with the bytes.
    fn read_batch(&mut self) -> Result<Result<(BatchHeader, u32), Damage>, Error> {
        let segment = &self.segments[self.at];
        let (offset, last, seq) = (self.offset, self.last, self.next_seq);
        let damage = |what, wanted, found| {
            Ok(Err(Damage {
                path: segment.file.path().into(),
                segment: segment.header.number,
                offset,
                after: last.zxid,
                what,
                wanted,
                found,
            }))
        };
        let window = self.window.as_mut().expect("set by advance");
        let end = window.end();
        let Ok(head) = window.bytes(offset, BATCH_HEADER) else { return damage(Fault::Unreadable, 0, 0) };
        let Some((header, crc)) = BatchHeader::decode(head) else {
            return damage(Fault::Magic, seq, head.get(..8).map_or(0, |b| crate::format::get64(b, 0)));
        };
        for (wanted, found) in [
            (segment.header.number, header.segment),
            (segment.header.salt, header.salt),
            (seq, header.seq),
            (offset, header.offset),
        ] {
            if wanted != found {
                return damage(Fault::Place, wanted, found);
            }
        }
        let len = BATCH_HEADER + header.payload_len as usize;
        if offset + len as u64 > end {
            return damage(Fault::Length, end - offset, len as u64);
        }
        let Ok(whole) = window.bytes(offset, len) else { return damage(Fault::Unreadable, 0, 0) };
        if whole.len() != len {
            return damage(Fault::Length, len as u64, whole.len() as u64);
        }
        let sum = BatchHeader::checksum(whole);
        if sum != crc {
            return damage(Fault::Checksum, crc.into(), sum.into());
        }
        // From here on the bytes are what the writer wrote: what does not fit now is no tear.
        let wrong = |what, wanted: u64, found: u64| {
            Err(Error::Corrupt(Box::new(Damage {
                path: segment.file.path().into(),
                segment: segment.header.number,
                offset,
                after: last.zxid,
                what,
                wanted,
                found,
            })))
        };
        if header.pred_checksum != last.checksum {
            return wrong(Fault::Chain, last.checksum.into(), header.pred_checksum.into());
        }
        let mut previous = last.zxid;
        let mut payload = &whole[BATCH_HEADER..];
        for _ in 0..header.count {
            let Some((zxid, record)) = (Records { payload }).next() else {
                return wrong(Fault::Records, header.count.into(), 0);
            };
            if !follows(previous, zxid) {
                return wrong(Fault::Continuity, previous.as_u64(), zxid.as_u64());
            }
            previous = zxid;
            payload = &payload[RECORD_PREFIX + record.len()..];
        }
        if !payload.is_empty() || previous != header.last {
            return wrong(Fault::Records, header.last.as_u64(), previous.as_u64());
        }
        Ok(Ok((header, crc)))
    }

    /// A bad batch: a torn tail ends the log, anything else is an error.
    fn decide(&mut self, damage: Damage) -> Result<(), Error> {
        let bad_seq = self.next_seq;
        let segment = &self.segments[self.at];
        // A tear leaves sectors of the old or of the new bytes; one that cannot be read at all may have held anything.
        if segment.bound.is_some() || damage.what == Fault::Unreadable {
            return Err(Error::Corrupt(Box::new(damage)));
        }
        let (number, salt) = (segment.header.number, segment.header.salt);
        let window = self.window.as_mut().expect("set by advance");
        // Zeros, blocks of an earlier life of a recycled segment and the very end of the file are the normal end.
        let stale = damage.what == Fault::Place && damage.wanted == number && damage.found != number;
        let mut torn = !(stale || (damage.what == Fault::Magic && damage.found == 0));
        // Batches can be valid at any block behind the bad one; its own length is not to be trusted.
        let mut offset = self.offset + BLOCK as u64;
        while offset + BLOCK as u64 <= window.end() {
            if let Some(batch) = window.batch_anywhere(offset)
                && (batch.segment, batch.salt) == (number, salt)
            {
                torn = true;
                if batch.durable_seq >= bad_seq {
                    return Err(Error::Corrupt(Box::new(damage)));
                }
            }
            offset += BLOCK as u64;
        }
        self.end = Some(self.describe_end(torn.then_some(damage)));
        Ok(())
    }

    fn describe_end(&self, torn: Option<Damage>) -> End {
        let segment = self.segments.last().map(|s| &s.header);
        End {
            last: self.last.zxid,
            link: Link {
                segment: segment.map_or(0, |h| h.number),
                seq: self.next_seq.saturating_sub(1),
                checksum: self.last.checksum,
            },
            offset: self.offset,
            used: segment.is_some_and(|h| self.next_seq > h.first_seq),
            torn,
        }
    }
}
