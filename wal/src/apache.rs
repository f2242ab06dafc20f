//! Transaction logs of Apache ZooKeeper, format "version-2": read for import, written for export.
//!
//! ```text
//! file      i32 magic "ZKLG" | i32 version 2 | i64 dbid 0 | record* | zeros (preallocated)
//! record    i64 Adler32 of the body only | i32 length | body | 0x42 'B'
//! body      txn header 32 | txn | [digest 12]: the same bytes as everywhere else
//! ```
//! All numbers big-endian. What ends a file and what is damage is Apache's own rule: a length of 0, a file that ends inside a
//! record, and a missing 'B' end the file silently and reading goes on with the next one; a wrong checksum or an impossible
//! length is an error. Apache does not notice what such a silent end left out; this reader checks that zxids follow each
//! other. Records at or below the last zxid are skipped: Apache can log one twice.

use crate::error::{Damage, Error, Fault};
use crate::format::{follows, record_zxid};
use crate::limits::{APACHE_RECORD_MAX, RECORD_MIN};
use proto::Zxid;
use std::path::PathBuf;
use std::sync::Arc;
use vfs::{Access, Dir, File};

const MAGIC: [u8; 4] = *b"ZKLG";
const VERSION: i32 = 2;
const HEADER: u64 = 16;
const PREFIX: usize = 12;
const TRAILER: u8 = b'B';
/// Bytes read or written at once.
const CHUNK: usize = 1 << 20;

/// A log file by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFile {
    /// The name.
    pub name: String,
    /// The zxid in it: that of its first record.
    pub first: Zxid,
}

/// The log files of a directory (`version-2` itself), oldest first. Names that do not parse are not of Apache's making.
pub fn list(dir: &dyn Dir) -> Result<Vec<LogFile>, Error> {
    let entries = dir.list().map_err(|e| Error::io("list", dir.path(), None, e))?;
    let mut files: Vec<LogFile> = entries
        .into_iter()
        .filter(|e| !e.is_dir)
        .filter_map(|e| {
            let hex = e.name.strip_prefix("log.")?;
            let first = i64::from_str_radix(hex, 16).ok()?;
            Some(LogFile { name: e.name, first: Zxid::from_wire(first) })
        })
        .collect();
    files.sort_by_key(|f| f.first);
    Ok(files)
}

/// Reads the records after a zxid, through all files.
#[derive(Debug)]
pub struct Reader {
    dir_path: PathBuf,
    files: std::collections::VecDeque<(LogFile, Arc<dyn File>)>,
    current: Option<Stream>,
    after: Zxid,
    last: Option<Zxid>,
    skipped: u64,
    silent_ends: Vec<Damage>,
}

impl Reader {
    /// The records with a zxid above `after` (that of the snapshot they are to be applied to), or all of them from
    /// [`Zxid::ZERO`] on.
    pub fn open(dir: &dyn Dir, after: Zxid) -> Result<Reader, Error> {
        let mut files = list(dir)?;
        // The file with the largest name at or below the first wanted zxid, and all later ones.
        let wanted = Zxid::from_u64(after.as_u64().saturating_add(1));
        let first = files.iter().rposition(|f| f.first <= wanted).unwrap_or(0);
        files.drain(..first);
        let mut open = std::collections::VecDeque::new();
        for file in files {
            let path = dir.path().join(&file.name);
            let handle = dir.open(&file.name, Access::READ).map_err(|e| Error::io("open", &path, None, e))?;
            open.push_back((file, handle));
        }
        Ok(Reader {
            dir_path: dir.path().into(),
            files: open,
            current: None,
            after,
            last: None,
            skipped: 0,
            silent_ends: Vec::new(),
        })
    }

    /// The next record; `None` at the end of the last file.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for what stops Apache as well, and for a hole between records (which it may not notice).
    pub fn next_record(&mut self) -> Result<Option<(Zxid, &[u8])>, Error> {
        loop {
            let Some(stream) = &mut self.current else {
                let Some((name, file)) = self.files.pop_front() else { return Ok(None) };
                self.current = Stream::begin(name, file, self.files.is_empty())?;
                continue;
            };
            let Some(found) = stream.next()? else {
                let ended = self.current.take().and_then(|s| s.partial);
                self.silent_ends.extend(ended);
                continue;
            };
            let zxid = found.zxid;
            if zxid <= self.last.unwrap_or(self.after) {
                self.skipped += 1;
                continue;
            }
            // Between the snapshot and the first record there may be a new epoch only, or nothing.
            let previous = self.last.unwrap_or(self.after);
            let anywhere = self.last.is_none() && self.after == Zxid::ZERO;
            if !anywhere && !follows(previous, zxid) {
                return Err(stream.damage(
                    found.at,
                    previous,
                    Fault::Continuity,
                    previous.as_u64() + 1,
                    zxid.as_u64(),
                ));
            }
            self.last = Some(zxid);
            let stream = self.current.as_ref().expect("it gave a record");
            return Ok(Some((zxid, stream.body(&found))));
        }
    }

    /// Records at or below the last zxid that were passed over.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Where files ended inside a record: torn at the time, or cut since. Harmless if no hole follows.
    pub fn partial_ends(&self) -> &[Damage] {
        &self.silent_ends
    }

    /// The directory.
    pub fn path(&self) -> &std::path::Path {
        &self.dir_path
    }
}

/// One file being read.
#[derive(Debug)]
struct Stream {
    file: Arc<dyn File>,
    len: u64,
    at: u64,
    buf: Vec<u8>,
    buf_at: u64,
    last: Zxid,
    partial: Option<Damage>,
}

/// A record in a stream's buffer.
struct Found {
    zxid: Zxid,
    at: u64,
    len: usize,
}

impl Stream {
    fn begin(name: LogFile, file: Arc<dyn File>, is_last: bool) -> Result<Option<Stream>, Error> {
        let len = file.len().map_err(|e| Error::io("measure", file.path(), None, e))?;
        // A crash between creating the file and writing to it: Apache removes it and goes on.
        if len == 0 && is_last {
            return Ok(None);
        }
        let mut stream =
            Stream { file, len, at: HEADER, buf: Vec::new(), buf_at: 0, last: Zxid::ZERO, partial: None };
        let head = stream.bytes(0, HEADER as usize)?;
        if head.len() < HEADER as usize || head[..4] != MAGIC {
            let found = head.get(..4).map_or(0, |b| u32::from_be_bytes(b.try_into().expect("four")));
            let wanted = u64::from(u32::from_be_bytes(MAGIC));
            return Err(stream.damage(0, name.first, Fault::ApacheMagic, wanted, found.into()));
        }
        Ok(Some(stream))
    }

    fn next(&mut self) -> Result<Option<Found>, Error> {
        let at = self.at;
        let prefix = self.bytes(at, PREFIX)?;
        if prefix.len() < PREFIX {
            return Ok(None);
        }
        let crc = i64::from_be_bytes(prefix[..8].try_into().expect("eight bytes"));
        let len = i32::from_be_bytes(prefix[8..].try_into().expect("four bytes"));
        if len == 0 {
            return Ok(None);
        }
        let last = self.last;
        let len = match usize::try_from(len) {
            Ok(len) if len <= APACHE_RECORD_MAX => len,
            _ => {
                return Err(self.damage(
                    at,
                    last,
                    Fault::Length,
                    APACHE_RECORD_MAX as u64,
                    len as u32 as u64,
                ));
            }
        };
        let whole = self.bytes(at, PREFIX + len + 1)?;
        if whole.len() < PREFIX + len + 1 || whole[PREFIX + len] != TRAILER {
            let found = whole.get(PREFIX + len).copied().map_or(0, u64::from);
            self.partial = Some(self.describe(at, last, Fault::Length, TRAILER.into(), found));
            return Ok(None);
        }
        let body = &whole[PREFIX..PREFIX + len];
        let sum = simd_adler32::adler32(&body);
        let zxid = record_zxid(body).filter(|_| len >= RECORD_MIN);
        if i64::from(sum) != crc {
            return Err(self.damage(at, last, Fault::Checksum, crc as u64, sum.into()));
        }
        let Some(zxid) = zxid else {
            return Err(self.damage(at, last, Fault::Records, RECORD_MIN as u64, len as u64));
        };
        self.at = at + (PREFIX + len + 1) as u64;
        self.last = zxid;
        Ok(Some(Found { zxid, at, len }))
    }

    fn body(&self, found: &Found) -> &[u8] {
        let start = (found.at - self.buf_at) as usize + PREFIX;
        &self.buf[start..start + found.len]
    }

    /// Up to `len` bytes at `offset`, fewer at the end of the file.
    fn bytes(&mut self, offset: u64, len: usize) -> Result<&[u8], Error> {
        let len = (len as u64).min(self.len.saturating_sub(offset)) as usize;
        if offset < self.buf_at || offset + len as u64 > self.buf_at + self.buf.len() as u64 {
            let want = len.max(CHUNK.min((self.len - offset) as usize));
            self.buf.resize(want, 0);
            let read = self.file.read_at(&mut self.buf, offset);
            let n = read.map_err(|e| Error::io("read", self.file.path(), Some(offset), e))?;
            self.buf.truncate(n);
            self.buf_at = offset;
        }
        let start = ((offset - self.buf_at) as usize).min(self.buf.len());
        Ok(&self.buf[start..(start + len).min(self.buf.len())])
    }

    fn describe(&self, offset: u64, after: Zxid, what: Fault, wanted: u64, found: u64) -> Damage {
        Damage { path: self.file.path().into(), segment: 0, offset, after, what, wanted, found }
    }

    fn damage(&self, offset: u64, after: Zxid, what: Fault, wanted: u64, found: u64) -> Error {
        Error::Corrupt(Box::new(self.describe(offset, after, what, wanted, found)))
    }
}

/// Writes log files that an Apache server of any version since 3.4 reads. Nothing is durable before [`Writer::finish`].
#[derive(Debug)]
pub struct Writer {
    dir: Arc<dyn Dir>,
    /// A file is closed at this many bytes.
    file_len: u64,
    current: Option<Out>,
    last: Zxid,
    written: Vec<LogFile>,
}

#[derive(Debug)]
struct Out {
    file: Arc<dyn File>,
    buf: Vec<u8>,
    at: u64,
}

impl Writer {
    /// A writer of records that follow `after` (the snapshot's zxid; [`Zxid::ZERO`]: any first record), in files of about
    /// `file_len` bytes, into an existing `version-2` directory. Existing names are never overwritten.
    pub fn new(dir: Arc<dyn Dir>, after: Zxid, file_len: u64) -> Writer {
        Writer { dir, file_len, current: None, last: after, written: Vec::new() }
    }

    /// Adds a record. A hole would stop an Apache server, or worse, not be noticed: it is refused.
    pub fn append(&mut self, zxid: Zxid, record: &[u8]) -> Result<(), Error> {
        if record.len() < RECORD_MIN || record.len() > APACHE_RECORD_MAX || record_zxid(record) != Some(zxid)
        {
            return Err(Error::BadRecord { zxid, len: record.len(), max: APACHE_RECORD_MAX });
        }
        if self.last != Zxid::ZERO && !follows(self.last, zxid) {
            return Err(Error::Gap { after: self.last, found: zxid });
        }
        if self.current.as_ref().is_some_and(|out| out.at + out.buf.len() as u64 > self.file_len) {
            self.close()?;
        }
        let out = match &mut self.current {
            Some(out) => out,
            None => {
                let name = format!("log.{:x}", zxid.as_u64());
                let path = self.dir.path().join(&name);
                let file =
                    self.dir.create(&name, Access::WRITE).map_err(|e| Error::io("create", &path, None, e))?;
                let mut buf = Vec::with_capacity(CHUNK);
                buf.extend_from_slice(&MAGIC);
                buf.extend_from_slice(&VERSION.to_be_bytes());
                buf.extend_from_slice(&0i64.to_be_bytes());
                self.written.push(LogFile { name, first: zxid });
                self.current.insert(Out { file, buf, at: 0 })
            }
        };
        out.buf.extend_from_slice(&i64::from(simd_adler32::adler32(&record)).to_be_bytes());
        out.buf.extend_from_slice(&i32::try_from(record.len()).expect("bounded above").to_be_bytes());
        out.buf.extend_from_slice(record);
        out.buf.push(TRAILER);
        self.last = zxid;
        if out.buf.len() >= CHUNK {
            out.flush()?;
        }
        Ok(())
    }

    /// Makes everything durable, names included, and tells which files there are.
    pub fn finish(mut self) -> Result<Vec<LogFile>, Error> {
        self.close()?;
        self.dir.sync().map_err(|e| Error::io("sync", self.dir.path(), None, e))?;
        Ok(self.written)
    }

    fn close(&mut self) -> Result<(), Error> {
        if let Some(mut out) = self.current.take() {
            out.flush()?;
            out.file.sync().map_err(|e| Error::io("sync", out.file.path(), None, e))?;
        }
        Ok(())
    }
}

impl Out {
    fn flush(&mut self) -> Result<(), Error> {
        let written = self.file.write_at(&self.buf, self.at);
        written.map_err(|e| Error::io("write", self.file.path(), Some(self.at), e))?;
        self.at += self.buf.len() as u64;
        self.buf.clear();
        Ok(())
    }
}
