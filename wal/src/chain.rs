//! Which files of a directory make up the log, in order.
//!
//! The newest segment names its predecessor, that one its own, down to the segment that the superblock calls the start. What
//! no link leads to is dead: segments cut off by a truncation, empty ones left behind by starts, staged ones whose superblock
//! write never came. File names are not looked at, but for telling prepared spares and leftovers from segments.

use crate::error::{Damage, Error, Fault};
use crate::format::{BatchHeader, Block0, Link, SegmentHeader, VERSION, salt};
use crate::superblock::Root;
use proto::Zxid;
use std::collections::BTreeMap;
use std::sync::Arc;
use vfs::{Access, AlignedBuf, BLOCK, Dir, File};

/// Names of segments in use begin with this.
pub(crate) const LOG_PREFIX: &str = "log.";
/// Names of prepared segments begin with this.
pub(crate) const SPARE_PREFIX: &str = "spare.";
/// Names of segments under preparation begin with this.
pub(crate) const TEMP_PREFIX: &str = "prep.";
/// The file whose lock says that a server owns the log.
pub(crate) const LOCK: &str = "lock";

/// How far behind an unreadable header of a spare batches are looked for, bytes: a spare that was begun is renamed within
/// moments, so that few batches can stand in one.
const SPARE_SEARCH: u64 = 1 << 20;

/// A segment of the log, and how far it lives.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) name: String,
    pub(crate) header: SegmentHeader,
    pub(crate) checksum: u32,
    pub(crate) file: Arc<dyn File>,
    /// Set by the successor: all up to here was durable, all behind it is dead.
    pub(crate) bound: Option<Bound>,
}

/// The end of a segment as its successor names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Bound {
    pub(crate) link: Link,
    pub(crate) last_live: Zxid,
}

/// What a directory holds.
#[derive(Debug)]
pub(crate) struct Chain {
    /// The live segments, oldest first.
    pub(crate) segments: Vec<Segment>,
    /// Names of segments that nothing leads to.
    pub(crate) dead: Vec<String>,
    /// Names of files of a segment's kind without a header, with their lengths: spares, or torn beginnings.
    pub(crate) blank: Vec<(String, u64)>,
    /// Names of leftovers.
    pub(crate) leftovers: Vec<String>,
    /// The highest segment number seen anywhere.
    pub(crate) highest: u64,
}

impl Chain {
    /// Finds the log. With a `root`, its start and its newest segment are demanded, and headers lost before readable batches
    /// are noticed; without one (an offline reader that was given the log's directory only) what leads backwards from the
    /// newest segment is taken.
    pub(crate) fn read(dir: &dyn Dir, root: Option<&Root>) -> Result<Chain, Error> {
        let mut found = Found::gather(dir, root)?;
        let newest = found.newest(root);
        let mut segments = Vec::new();
        let mut next = newest;
        let mut named_by = String::from("the superblock");
        let mut bound = None;
        while let Some(number) = next {
            let Some(mut segment) = found.headers.remove(&number) else {
                match root {
                    None => break,
                    Some(_) => {
                        return Err(Error::SegmentMissing { dir: dir.path().into(), number, named_by });
                    }
                }
            };
            segment.bound = bound;
            let header = segment.header;
            bound = Some(Bound { link: header.pred, last_live: header.last_live });
            named_by = format!("segment {number}");
            let at_start = root.is_some_and(|r| r.start == number) || header.pred.segment == 0;
            next = (!at_start).then_some(header.pred.segment);
            segments.push(segment);
        }
        segments.reverse();
        if let Some(root) = root {
            found.check_root(dir, root, &segments)?;
        }
        let dead = found.headers.into_values().map(|s| s.name).collect();
        Ok(Chain { segments, dead, blank: found.blank, leftovers: found.leftovers, highest: found.highest })
    }

    /// The highest segment number that any readable header or batch in the directory carries: for starting anew beside a log
    /// that is beyond repair.
    pub(crate) fn survey(dir: &dyn Dir) -> Result<Chain, Error> {
        let found = Found::gather(dir, None)?;
        let dead = found.headers.into_values().map(|s| s.name).collect();
        Ok(Chain {
            segments: Vec::new(),
            dead,
            blank: found.blank,
            leftovers: found.leftovers,
            highest: found.highest.max(found.orphan.map_or(0, |o| o.segment)),
        })
    }
}

/// What a file in the log's directory is good for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileState {
    /// A segment of the log.
    Live,
    /// A segment that nothing leads to: cut off, purged, or left empty by a start. To be recycled.
    Dead,
    /// Ready for use.
    Spare,
    /// Half prepared: removed at the next start.
    Leftover,
}

/// The files of a log's directory and what they are, by name: for tools, also beside a running server.
pub fn inventory(dir: &dyn Dir, root: Option<&Root>) -> Result<Vec<(String, FileState)>, Error> {
    let chain = Chain::read(dir, root)?;
    let live = chain.segments.into_iter().map(|s| (s.name, FileState::Live));
    let dead = chain.dead.into_iter().map(|name| (name, FileState::Dead));
    let spare = chain.blank.into_iter().map(|(name, _)| (name, FileState::Spare));
    let leftover = chain.leftovers.into_iter().map(|name| (name, FileState::Leftover));
    let mut all: Vec<_> = live.chain(dead).chain(spare).chain(leftover).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(all)
}

/// A valid batch behind an unreadable header.
struct Orphan {
    path: std::path::PathBuf,
    segment: u64,
}

#[derive(Default)]
struct Found {
    headers: BTreeMap<u64, Segment>,
    blank: Vec<(String, u64)>,
    leftovers: Vec<String>,
    highest: u64,
    orphan: Option<Orphan>,
}

/// Beside a running server names change while they are listed: so often is tried to see a directory that stands still.
const LOOKS: usize = 20;

impl Found {
    fn gather(dir: &dyn Dir, root: Option<&Root>) -> Result<Found, Error> {
        let list = || dir.list().map_err(|e| Error::io("list", dir.path(), None, e));
        let mut entries = list()?;
        let mut found = Found::look(dir, root, entries.clone())?;
        for _ in 1..LOOKS {
            let again = list()?;
            let names =
                |entries: &[vfs::Entry]| -> Vec<String> { entries.iter().map(|e| e.name.clone()).collect() };
            if names(&entries) == names(&again) {
                break;
            }
            entries = again;
            found = Found::look(dir, root, entries.clone())?;
        }
        Ok(found)
    }

    fn look(dir: &dyn Dir, root: Option<&Root>, entries: Vec<vfs::Entry>) -> Result<Found, Error> {
        let mut found = Found::default();
        let mut block = AlignedBuf::zeroed(BLOCK);
        for entry in entries {
            let name = entry.name;
            if entry.is_dir || name == LOCK {
                continue;
            }
            if name.starts_with(TEMP_PREFIX) {
                found.leftovers.push(name);
                continue;
            }
            if !name.starts_with(LOG_PREFIX) && !name.starts_with(SPARE_PREFIX) {
                continue;
            }
            let path = dir.path().join(&name);
            let file = match open_for_reading(dir, &name) {
                // Renamed by a running server since it was listed.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                other => other.map_err(|e| Error::io("open", &path, None, e))?,
            };
            block.fill(0);
            let readable = file.read_at(&mut block, 0).is_ok();
            match SegmentHeader::decode(&block) {
                Block0::Newer(version) => {
                    return Err(Error::Version { path, found: version, known: VERSION });
                }
                Block0::Header(header, checksum) => {
                    if let Some(root) = root {
                        check_owner(&path, &header, root)?;
                    }
                    found.highest = found.highest.max(header.number);
                    let segment = Segment { name, header, checksum, file, bound: None };
                    found.headers.insert(header.number, segment);
                }
                Block0::Nothing => {
                    found.note_orphan(&file, &name, root)?;
                    if readable {
                        found.blank.push((name, entry.len));
                    }
                }
            }
        }
        Ok(found)
    }

    /// A header is durable before the first batch behind it is issued, so a batch without one means that the header was lost.
    /// Batches of earlier lives of a recycled file carry lower numbers, or a wrong salt if a client planted them.
    fn note_orphan(&mut self, file: &Arc<dyn File>, name: &str, root: Option<&Root>) -> Result<(), Error> {
        let Some(root) = root else { return Ok(()) };
        let len = file.len().map_err(|e| Error::io("measure", file.path(), None, e))?;
        let end = if name.starts_with(SPARE_PREFIX) { len.min(SPARE_SEARCH) } else { len };
        let mut window = Window::over(file.clone(), end);
        let mut offset = BLOCK as u64;
        while offset + BLOCK as u64 <= end {
            if let Some(batch) = window.batch_anywhere(offset)
                && batch.salt == salt(root.secret, batch.segment)
                && self.orphan.as_ref().is_none_or(|o| o.segment < batch.segment)
            {
                self.orphan = Some(Orphan { path: file.path().into(), segment: batch.segment });
            }
            offset += BLOCK as u64;
        }
        Ok(())
    }

    /// The number of the newest live segment.
    fn newest(&self, root: Option<&Root>) -> Option<u64> {
        // A base counts only once the superblock names it: until then it is staged.
        let confirmed = |s: &&Segment| match root {
            Some(root) => root.start != 0 && (s.header.pred.segment != 0 || s.header.number == root.start),
            None => true,
        };
        self.headers.values().rfind(confirmed).map(|s| s.header.number)
    }

    fn check_root(&self, dir: &dyn Dir, root: &Root, live: &[Segment]) -> Result<(), Error> {
        let missing = |number| Error::SegmentMissing {
            dir: dir.path().into(),
            number,
            named_by: "the superblock".into(),
        };
        if root.start == 0 {
            return Ok(());
        }
        let newest = live.last().map_or(0, |s| s.header.number);
        if let Some(orphan) = self.orphan.as_ref().filter(|o| o.segment > newest) {
            return Err(Error::Corrupt(Box::new(Damage {
                path: orphan.path.clone(),
                segment: orphan.segment,
                offset: 0,
                after: live.last().map_or(Zxid::ZERO, |s| s.header.last_live),
                what: Fault::HeaderLost,
                wanted: orphan.segment,
                found: 0,
            })));
        }
        let Some(first) = live.first() else {
            return Err(Error::LogMissing { dir: dir.path().into() });
        };
        if newest < root.newest {
            return Err(missing(root.newest));
        }
        if first.header.number != root.start {
            return Err(missing(root.start));
        }
        Ok(())
    }
}

fn check_owner(path: &std::path::Path, header: &SegmentHeader, root: &Root) -> Result<(), Error> {
    let foreign =
        |what, wanted: String, found: String| Err(Error::Foreign { path: path.into(), what, wanted, found });
    let wanted = root.identity;
    if header.server != wanted.server.0 {
        return foreign("server id", wanted.server.to_string(), header.server.to_string());
    }
    if header.cluster != wanted.cluster && header.cluster != 0 && wanted.cluster != 0 {
        return foreign("cluster id", format!("{:#x}", wanted.cluster), format!("{:#x}", header.cluster));
    }
    Ok(())
}

/// Past the page cache where that works: what is read should be what the disk has.
pub(crate) fn open_for_reading(dir: &dyn Dir, name: &str) -> std::io::Result<Arc<dyn File>> {
    match dir.open(name, Access::READ_DIRECT) {
        Err(e) if matches!(e.kind(), std::io::ErrorKind::InvalidInput | std::io::ErrorKind::Unsupported) => {
            dir.open(name, Access::READ)
        }
        other => other,
    }
}

/// A sliding view of a file, aligned as direct reads want it.
#[derive(Debug)]
pub(crate) struct Window {
    file: Arc<dyn File>,
    end: u64,
    buf: AlignedBuf,
    at: u64,
    filled: usize,
}

/// Bytes read at once: large enough to stream at the disk's speed.
const WINDOW: usize = 1 << 20;

impl Window {
    /// A view of the first `end` bytes.
    pub(crate) fn over(file: Arc<dyn File>, end: u64) -> Window {
        Window { file, end, buf: AlignedBuf::zeroed(0), at: 0, filled: 0 }
    }

    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Reads again what was read.
    pub(crate) fn forget(&mut self) {
        self.filled = 0;
    }

    /// `len` bytes at the block-aligned `offset`; fewer at the end of the file.
    pub(crate) fn bytes(&mut self, offset: u64, len: usize) -> std::io::Result<&[u8]> {
        let len = (len as u64).min(self.end.saturating_sub(offset)) as usize;
        let inside = offset >= self.at && offset + len as u64 <= self.at + self.filled as u64;
        if !inside {
            let want =
                vfs::block_up(len).max(WINDOW.min(vfs::block_up(self.end.saturating_sub(offset) as usize)));
            if self.buf.len() < want {
                self.buf = AlignedBuf::zeroed(want);
            }
            // A failed read leaves no view, so that the next one reads again.
            self.filled = 0;
            self.at = offset;
            self.filled = match self.file.read_at(&mut self.buf[..want], offset) {
                Ok(n) => n,
                // One bad sector must not hide its neighbours: read no more than is asked for.
                Err(_) if want > vfs::block_up(len) => {
                    self.file.read_at(&mut self.buf[..vfs::block_up(len)], offset)?
                }
                Err(e) => return Err(e),
            };
        }
        let start = (offset - self.at) as usize;
        Ok(&self.buf[start.min(self.filled)..(start + len).min(self.filled)])
    }

    /// The bytes that the last call of [`Window::bytes`] gave, `from` bytes behind its offset.
    pub(crate) fn again(&self, offset: u64, range: std::ops::Range<usize>) -> &[u8] {
        let start = (offset - self.at) as usize;
        &self.buf[start + range.start..start + range.end]
    }

    /// A batch at `offset` with a fitting checksum and place, of whatever segment.
    pub(crate) fn batch_anywhere(&mut self, offset: u64) -> Option<BatchHeader> {
        let head = self.bytes(offset, crate::format::BATCH_HEADER).ok()?;
        let (header, crc) = BatchHeader::decode(head)?;
        let len = crate::format::BATCH_HEADER + header.payload_len as usize;
        if header.offset != offset || offset + len as u64 > self.end {
            return None;
        }
        let whole = self.bytes(offset, len).ok()?;
        (whole.len() == len && BatchHeader::checksum(whole) == crc).then_some(header)
    }
}
