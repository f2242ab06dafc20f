//! Reading one snapshot, by many threads at once.
//!
//! The heads of the chunks are read in order, one thread at a time; whoever took one reads, checks,
//! decompresses and delivers its payload beside the others. So the disk sees as many reads as there are
//! workers, in ascending order, and no more chunks are in memory than workers.

use crate::error::{Damage, Error, LoadError};
use crate::format::{
    CHUNK_HEAD_LEN, Chain, ChunkHead, Codec, Counts, FOOTER_LEN, Footer, HEADER_LEN, Header, NO_CLUSTER,
};
use crate::limits::WORKERS_MAX;
use crate::{Kind, records, start_of};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vfs::{Access, Dir, File};

/// A snapshot whose header, footer and length have been found good; the chunks are checked as they are
/// loaded.
#[derive(Debug)]
pub struct Snapshot {
    file: Arc<dyn File>,
    path: String,
    header: Header,
    chain: Chain,
    footer: Footer,
    footer_bytes: [u8; FOOTER_LEN],
}

/// What takes the parts: kind, records, bytes.
pub type Sink<'a, E> = dyn Fn(Kind, u32, &[u8]) -> Result<(), E> + Sync + 'a;

impl Snapshot {
    /// Opens `name` and makes the quick check. `cluster`: refuse the file of another ensemble; an id of zeros,
    /// there or here, means that the ensemble had none yet, and fits any.
    pub fn open(dir: &dyn Dir, name: &str, cluster: Option<[u8; 16]>) -> Result<Snapshot, Error> {
        let path = dir.path().join(name).display().to_string();
        let file = dir.open(name, Access::READ).map_err(|e| Error::io(&path, "open", e))?;
        let len = file.len().map_err(|e| Error::io(&path, "measure", e))?;
        let smallest = (HEADER_LEN + FOOTER_LEN) as u64;
        if len < smallest {
            let damage = Damage::Truncated { wanted: smallest, found: len };
            return Err(Error::damaged(&path, 0, damage));
        }
        let mut head = [0; HEADER_LEN];
        read(&*file, &path, &mut head, 0)?;
        let (header, chain) = Header::decode(&head, &path)?;
        if let Some(wanted) = cluster
            && wanted != header.cluster
            && ![wanted, header.cluster].contains(&NO_CLUSTER)
        {
            return Err(Error::Foreign { path, wanted, found: header.cluster });
        }
        let at = len - FOOTER_LEN as u64;
        let mut footer_bytes = [0; FOOTER_LEN];
        read(&*file, &path, &mut footer_bytes, at)?;
        let footer = Footer::decode(&footer_bytes, &path, at)?;
        if footer.start != header.start {
            let damage = Damage::Field {
                name: "start zxid in the footer",
                wanted: header.start.as_u64(),
                found: footer.start.as_u64(),
            };
            return Err(Error::damaged(&path, at + 56, damage));
        }
        if let Some(named) = start_of(name).filter(|&named| named != header.start) {
            let damage = Damage::Field {
                name: "start zxid, by the file's name",
                wanted: named.as_u64(),
                found: header.start.as_u64(),
            };
            return Err(Error::damaged(&path, 40, damage));
        }
        Ok(Snapshot { file, path, header, chain, footer, footer_bytes })
    }

    /// Delivers everything to `sink`: sessions and ACLs one part after the other, then the znodes from up to
    /// `workers` threads at once (this one among them). `Ok` says that every checksum, count and the chain to
    /// the footer were right and the sink took every part. After an error the sink has seen some parts: its
    /// state is to be thrown away.
    pub fn load<E: Send>(&self, workers: usize, sink: &Sink<'_, E>) -> Result<(), LoadError<E>> {
        self.run(workers, &|chunk, bytes| {
            sink(chunk.head.kind, chunk.head.count, bytes).map_err(LoadError::Sink)
        })
    }

    /// Reads everything and decodes every record, keeping nothing.
    pub fn verify(&self, workers: usize) -> Result<(), Error> {
        let verified =
            self.run::<std::convert::Infallible>(workers, &|chunk, bytes| Ok(self.check(chunk, bytes)?));
        verified.map_err(|e| match e {
            LoadError::Snapshot(e) => e,
            LoadError::Sink(never) => match never {},
        })
    }

    /// [`Snapshot::verify`] on this thread alone, which calls `pace` after each chunk with its uncompressed bytes: there it
    /// may wait.
    pub fn verify_paced(&self, pace: &mut dyn FnMut(u64)) -> Result<(), Error> {
        let mut cursor = Cursor::new(self);
        let mut decoder = Decoder::new(self)?;
        while let Some(chunk) = cursor.next()? {
            self.check(&chunk, decoder.decode(&chunk)?)?;
            pace(u64::from(chunk.head.raw));
        }
        Ok(())
    }

    fn check(&self, chunk: &Chunk, bytes: &[u8]) -> Result<(), Error> {
        records::check(chunk.head.kind, chunk.head.count, bytes)
            .map_err(|damage| Error::damaged(&self.path, chunk.payload_at, damage))
    }

    /// Its header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Its footer.
    pub fn footer(&self) -> &Footer {
        &self.footer
    }

    /// The checksum in its footer, which names this very content.
    pub fn footer_crc(&self) -> u32 {
        Footer::crc_of(&self.footer_bytes)
    }

    /// The heads of all chunks with the offsets of their payloads, the chain checked; the payloads are not
    /// looked at. For dumps.
    pub fn chunks(&self) -> Result<Vec<(ChunkHead, u64)>, Error> {
        let mut cursor = Cursor::new(self);
        // Each takes its head's bytes in the file, so the length of the file bounds the vector.
        let mut chunks = Vec::new();
        while let Some(chunk) = cursor.next()? {
            chunks.push((chunk.head, chunk.payload_at));
        }
        Ok(chunks)
    }

    fn run<E: Send>(&self, workers: usize, deliver: &Deliver<'_, E>) -> Result<(), LoadError<E>> {
        let mut cursor = Cursor::new(self);
        let mut decoder = Decoder::new(self)?;
        // What znodes point to comes first and by itself.
        let first = loop {
            match cursor.next()? {
                None => return Ok(()),
                Some(chunk) if chunk.head.kind == Kind::Nodes => break chunk,
                Some(chunk) => deliver(&chunk, decoder.decode(&chunk)?)?,
            }
        };
        let workers = workers.clamp(1, WORKERS_MAX).min(self.footer.chunks as usize);
        let crew =
            Crew { cursor: Mutex::new(cursor), stop: AtomicBool::new(false), failed: Mutex::new(None) };
        std::thread::scope(|scope| {
            for _ in 1..workers {
                scope.spawn(|| match Decoder::new(self) {
                    Ok(decoder) => crew.work(None, decoder, deliver),
                    Err(e) => crew.fail(0, e.into()),
                });
            }
            crew.work(Some(first), decoder, deliver);
        });
        match crew.failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            None => Ok(()),
            Some((_, e)) => Err(e),
        }
    }
}

type Deliver<'a, E> = dyn Fn(&Chunk, &[u8]) -> Result<(), LoadError<E>> + Sync + 'a;

/// A chunk found by its head, its payload not yet read.
struct Chunk {
    head: ChunkHead,
    payload_at: u64,
}

/// Goes from head to head and, behind the last, holds the sums against the footer.
struct Cursor<'a> {
    snapshot: &'a Snapshot,
    at: u64,
    chain: Chain,
    index: u32,
    kind: Kind,
    counts: Counts,
    raw: u64,
}

impl<'a> Cursor<'a> {
    fn new(snapshot: &'a Snapshot) -> Cursor<'a> {
        Cursor {
            snapshot,
            at: HEADER_LEN as u64,
            chain: snapshot.chain,
            index: 0,
            kind: Kind::Sessions,
            counts: Counts::default(),
            raw: 0,
        }
    }

    fn next(&mut self) -> Result<Option<Chunk>, Error> {
        let s = self.snapshot;
        let footer_at = s.footer.file_len() - FOOTER_LEN as u64;
        if self.index == s.footer.chunks {
            return self.check_totals(footer_at).map(|()| None);
        }
        let fits = |wanted: u64, at: u64| match footer_at.saturating_sub(at) {
            found if found < wanted => Err(Error::damaged(&s.path, at, Damage::Truncated { wanted, found })),
            _ => Ok(()),
        };
        fits(CHUNK_HEAD_LEN as u64, self.at)?;
        let mut bytes = [0; CHUNK_HEAD_LEN];
        read(&*s.file, &s.path, &mut bytes, self.at)?;
        let (head, chain) = ChunkHead::decode(&bytes, self.chain, self.index, &s.path, self.at)?;
        if head.kind < self.kind {
            let (wanted, found) = (u64::from(self.kind.code()), u64::from(head.kind.code()));
            let damage = Damage::Field { name: "kind, at least that of the chunk before", wanted, found };
            return Err(Error::damaged(&s.path, self.at + 8, damage));
        }
        let payload_at = self.at + CHUNK_HEAD_LEN as u64;
        fits(u64::from(head.stored), payload_at)?;
        self.at = payload_at + u64::from(head.stored);
        self.chain = chain;
        self.index += 1;
        self.kind = head.kind;
        self.counts.add(head.kind, u64::from(head.count));
        self.raw += u64::from(head.raw);
        Ok(Some(Chunk { head, payload_at }))
    }

    fn check_totals(&self, footer_at: u64) -> Result<(), Error> {
        let s = self.snapshot;
        let differs = |at, name, wanted, found| {
            Err(Error::damaged(&s.path, footer_at + at, Damage::Field { name, wanted, found }))
        };
        if self.at != footer_at {
            return differs(48, "bytes before the footer", self.at, footer_at);
        }
        Footer::closes(&s.footer_bytes, self.chain, &s.path, footer_at)?;
        if let Some((name, wanted, found)) = self.counts.first_difference(&s.footer.counts) {
            return differs(16, name, wanted, found);
        }
        if self.raw != s.footer.raw {
            return differs(40, "uncompressed bytes in the footer", self.raw, s.footer.raw);
        }
        Ok(())
    }
}

/// The workers' common ground.
struct Crew<'a, E> {
    cursor: Mutex<Cursor<'a>>,
    stop: AtomicBool,
    /// The failure nearest to the start of the file, with its place.
    failed: Mutex<Option<(u64, LoadError<E>)>>,
}

impl<E> Crew<'_, E> {
    fn work(&self, first: Option<Chunk>, mut decoder: Decoder<'_>, deliver: &Deliver<'_, E>) {
        let mut next = first;
        while !self.stop.load(Ordering::Relaxed) {
            let chunk = match next.take() {
                Some(chunk) => chunk,
                None => {
                    let mut cursor = lock(&self.cursor);
                    match cursor.next() {
                        Ok(Some(chunk)) => chunk,
                        Ok(None) => return,
                        Err(e) => return self.fail(cursor.at, e.into()),
                    }
                }
            };
            let done =
                decoder.decode(&chunk).map_err(LoadError::from).and_then(|bytes| deliver(&chunk, bytes));
            if let Err(e) = done {
                return self.fail(chunk.payload_at, e);
            }
        }
    }

    fn fail(&self, at: u64, e: LoadError<E>) {
        self.stop.store(true, Ordering::Relaxed);
        let mut failed = lock(&self.failed);
        if failed.as_ref().is_none_or(|(before, _)| at < *before) {
            *failed = Some((at, e));
        }
    }
}

/// One worker's buffers.
struct Decoder<'a> {
    snapshot: &'a Snapshot,
    zstd: zstd::bulk::Decompressor<'static>,
    stored: Vec<u8>,
    raw: Vec<u8>,
}

impl<'a> Decoder<'a> {
    fn new(snapshot: &'a Snapshot) -> Result<Decoder<'a>, Error> {
        let zstd = zstd::bulk::Decompressor::new().map_err(|e| Error::io(&snapshot.path, "decompress", e))?;
        Ok(Decoder { snapshot, zstd, stored: Vec::new(), raw: Vec::new() })
    }

    /// The payload of `chunk`, uncompressed and checked.
    fn decode(&mut self, chunk: &Chunk) -> Result<&[u8], Error> {
        let Chunk { head, payload_at } = chunk;
        let s = self.snapshot;
        // Bounded by the file's length: the cursor has checked that the payload lies before the footer.
        self.stored.resize(head.stored as usize, 0);
        read(&*s.file, &s.path, &mut self.stored, *payload_at)?;
        let found = crc32c::crc32c(&self.stored);
        if found != head.crc {
            let damage = Damage::Checksum { of: "the chunk", wanted: head.crc, found };
            return Err(Error::damaged(&s.path, *payload_at, damage));
        }
        if head.codec == Codec::Stored {
            return Ok(&self.stored);
        }
        // Bounded by CHUNK_RAW_MAX, which the head was checked against.
        self.raw.clear();
        self.raw.reserve_exact(head.raw as usize);
        let damaged = |damage| Error::damaged(&s.path, *payload_at, damage);
        let len = self
            .zstd
            .decompress_to_buffer(&self.stored, &mut self.raw)
            .map_err(|e| damaged(Damage::Compression(e)))?;
        if len != head.raw as usize {
            let (wanted, found) = (u64::from(head.raw), len as u64);
            return Err(damaged(Damage::Field { name: "uncompressed bytes", wanted, found }));
        }
        Ok(&self.raw)
    }
}

fn read(file: &dyn File, path: &str, buf: &mut [u8], offset: u64) -> Result<(), Error> {
    let found = file.read_at(buf, offset).map_err(|e| Error::io(path, "read", e))?;
    if found == buf.len() {
        return Ok(());
    }
    let damage = Damage::Truncated { wanted: buf.len() as u64, found: found as u64 };
    Err(Error::damaged(path, offset, damage))
}

/// A worker that panics takes the whole load down with it (the scope passes the panic on), so what it left is
/// never used.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
