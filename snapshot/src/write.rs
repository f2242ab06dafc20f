//! Writing one snapshot.

use crate::catalogue::Entry;
use crate::error::Error;
use crate::format::{CHUNK_HEAD_LEN, ChunkHead, Codec, Counts, Footer, Header};
use crate::limits::{CHUNK_RAW_MAX, CHUNK_RAW_TARGET, SYNC_EVERY};
use crate::{Digest, Kind, TEMP_SUFFIX, format, name_of};
use proto::{WallMs, Zxid};
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use vfs::{Access, Dir, File};

/// Called after each chunk with the bytes just written to the disk. It may sleep, to keep below a rate;
/// [`ControlFlow::Break`] gives the snapshot up.
pub type Pace = Box<dyn FnMut(u64) -> ControlFlow<()> + Send>;

/// A snapshot being written, under a temporary name until [`Writer::finish`]. Dropped before that it takes
/// its file away again (best effort: a start sweeps what is left, see [`crate::Catalogue::sweep`]).
///
/// | state a crash can leave | what follows |
/// |---|---|
/// | temporary file, any subset of its bytes | swept; the snapshots before it are as they were |
/// | final name, whole file | usable: all bytes were synced before the rename |
/// | the older file of the same name instead | it is whole too, and its log is still there |
pub struct Writer {
    dir: Arc<dyn Dir>,
    file: Arc<dyn File>,
    pace: Pace,
    /// The final name with the directory, for messages.
    path: String,
    name: String,
    temp: String,
    header: Header,
    chain: format::Chain,
    /// Where the next chunk goes; all before it is written.
    offset: u64,
    /// Written and not yet synced, < `SYNC_EVERY` between calls.
    unsynced: u64,
    chunks: u32,
    counts: Counts,
    raw_total: u64,
    stored_total: u64,
    /// The chunk being gathered: its kind, records and bytes.
    kind: Kind,
    count: u32,
    raw: Vec<u8>,
    /// Head and compressed payload, reused.
    out: Vec<u8>,
    compressor: zstd::bulk::Compressor<'static>,
    /// The temporary file is ours to remove.
    unfinished: bool,
}

impl Writer {
    /// Begins a snapshot whose walk started with `header.start` applied. Any leftover of an earlier attempt
    /// is removed.
    pub fn create(dir: Arc<dyn Dir>, header: Header, pace: Pace) -> Result<Writer, Error> {
        let name = name_of(header.start);
        let temp = format!("{name}{TEMP_SUFFIX}");
        let path = dir.path().join(&name).display().to_string();
        let io = |action| {
            let path = path.clone();
            move |e| Error::io(&path, action, e)
        };
        match dir.unlink(&temp) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io("remove the leftover of")(e)),
            _ => {}
        }
        let compressor = zstd::bulk::Compressor::new(1).map_err(io("compress"))?;
        let file = dir.create(&temp, Access::WRITE).map_err(io("create"))?;
        let (bytes, chain) = header.encode();
        let mut writer = Writer {
            dir,
            file,
            pace,
            path,
            name,
            temp,
            header,
            chain,
            offset: 0,
            unsynced: 0,
            chunks: 0,
            counts: Counts::default(),
            raw_total: 0,
            stored_total: 0,
            kind: Kind::Sessions,
            count: 0,
            raw: Vec::new(),
            out: Vec::new(),
            compressor,
            unfinished: true,
        };
        writer.write(&bytes)?;
        Ok(writer)
    }

    /// Adds one part of a walk: `count` records of `kind`, encoded one after the other in `bytes`. Kinds come
    /// in their order. After an error the snapshot cannot be continued.
    pub fn part(&mut self, kind: Kind, count: u32, bytes: &[u8]) -> Result<(), Error> {
        if count == 0 {
            assert!(bytes.is_empty(), "bytes without a record are a mistake of the walk");
            return Ok(());
        }
        if bytes.len() > CHUNK_RAW_MAX {
            let path = self.path.clone();
            return Err(Error::PartTooLarge { path, found: bytes.len(), max: CHUNK_RAW_MAX });
        }
        if kind < self.kind {
            return Err(Error::Order { path: self.path.clone(), found: kind, after: self.kind });
        }
        // A part joins the chunk only if the chunk keeps near its size, so that one large znode doesn't drag
        // small ones into a huge chunk.
        let joined = self.raw.len() + bytes.len();
        if kind != self.kind || joined > 2 * CHUNK_RAW_TARGET || self.count.checked_add(count).is_none() {
            self.flush_chunk()?;
        }
        self.kind = kind;
        self.count += count;
        self.raw.extend_from_slice(bytes);
        if self.raw.len() >= CHUNK_RAW_TARGET {
            self.flush_chunk()?;
        }
        Ok(())
    }

    /// Ends the snapshot: `end` is what is applied now, `digest` that of the tree at `end`, `ended` the wall
    /// clock. When this returns the snapshot is durable under its name.
    pub fn finish(mut self, end: Zxid, digest: Option<Digest>, ended: WallMs) -> Result<Entry, Error> {
        assert!(self.header.start <= end, "a walk ends at or after the zxid where it began");
        self.flush_chunk()?;
        let footer = Footer {
            chunks: self.chunks,
            counts: self.counts,
            raw: self.raw_total,
            stored: self.stored_total,
            start: self.header.start,
            end,
            digest,
            ended,
        };
        let bytes = footer.encode(self.chain);
        self.write(&bytes)?;
        assert_eq!(self.offset, footer.file_len(), "every byte written is accounted for in the footer");
        if !proto::mutant::is(proto::mutant::Mutant::SnapshotNotSynced) {
            self.file.sync().map_err(|e| Error::io(&self.path, "sync", e))?;
        }
        self.dir.rename(&self.temp, &self.name).map_err(|e| Error::io(&self.path, "rename to", e))?;
        // From here the name is taken: a failed sync leaves a file that is whole, durable or not.
        self.unfinished = false;
        if !proto::mutant::is(proto::mutant::Mutant::SnapshotNameNotSynced) {
            self.dir.sync().map_err(|e| Error::io(&self.path, "sync the directory of", e))?;
        }
        Ok(Entry::new(std::mem::take(&mut self.name), self.header, footer, format::Footer::crc_of(&bytes)))
    }

    /// Bytes of the file so far.
    pub fn written(&self) -> u64 {
        self.offset
    }

    fn flush_chunk(&mut self) -> Result<(), Error> {
        if self.count == 0 {
            return Ok(());
        }
        self.out.clear();
        self.out.resize(CHUNK_HEAD_LEN + zstd::zstd_safe::compress_bound(self.raw.len()), 0);
        let compressed = self
            .compressor
            .compress_to_buffer(&self.raw, &mut self.out[CHUNK_HEAD_LEN..])
            .map_err(|e| Error::io(&self.path, "compress", e))?;
        let (codec, stored) = if compressed < self.raw.len() {
            self.out.truncate(CHUNK_HEAD_LEN + compressed);
            (Codec::Zstd, compressed)
        } else {
            self.out.truncate(CHUNK_HEAD_LEN);
            self.out.extend_from_slice(&self.raw);
            (Codec::Stored, self.raw.len())
        };
        let in_bounds =
            |n: usize| u32::try_from(n).expect("a chunk is bounded by CHUNK_RAW_MAX, far below 4 GiB");
        let head = ChunkHead {
            index: self.chunks,
            kind: self.kind,
            codec,
            count: self.count,
            raw: in_bounds(self.raw.len()),
            stored: in_bounds(stored),
            crc: crc32c::crc32c(&self.out[CHUNK_HEAD_LEN..]),
        };
        let (bytes, chain) = head.encode(self.chain);
        self.out[..CHUNK_HEAD_LEN].copy_from_slice(&bytes);
        let out = std::mem::take(&mut self.out);
        let written = self.write(&out);
        self.out = out;
        written?;
        self.chain = chain;
        self.chunks = self.chunks.checked_add(1).expect("4 G chunks of half a MiB are 2 PiB");
        self.counts.add(self.kind, u64::from(self.count));
        self.raw_total += self.raw.len() as u64;
        self.stored_total += stored as u64;
        self.count = 0;
        self.raw.clear();
        match (self.pace)((CHUNK_HEAD_LEN + stored) as u64) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Stopped { path: self.path.clone() }),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_at(bytes, self.offset).map_err(|e| Error::io(&self.path, "write", e))?;
        self.offset += bytes.len() as u64;
        self.unsynced += bytes.len() as u64;
        if self.unsynced >= SYNC_EVERY {
            self.file.sync().map_err(|e| Error::io(&self.path, "sync", e))?;
            self.unsynced = 0;
        }
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.unfinished {
            // Best effort: what stays is swept at the next start, and no reader takes the temporary name.
            let _ = self.dir.unlink(&self.temp);
        }
    }
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Writer({}, {} bytes, {} chunks)", self.temp, self.offset, self.chunks)
    }
}
