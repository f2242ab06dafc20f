//! Writing one snapshot that Apache can start from.

use super::{Compression, MAGIC, TreeDigest, name_of};
use crate::error::{Damage, Error};
use crate::limits::CHUNK_RAW_MAX;
use crate::{Kind, TEMP_SUFFIX};
use flate2::write::GzEncoder;
use proto::jute::Reader;
use proto::state::{NodeRecord, SessionRecord};
use proto::{Zxid, state::AclRecord};
use simd_adler32::Adler32;
use std::io::{self, Write};
use std::sync::Arc;
use vfs::{Access, Dir, File};

/// A consistent state, gathered part by part and then written in the order that Apache wants: parents before
/// children. It is held in memory as a whole, about its encoded size: what exports it holds a tree of that
/// size too.
///
/// The state must be that of one moment (a fuzzy one replayed to its end), since Apache has no log of ours to
/// repair it with.
#[derive(Debug, Default)]
pub struct Export {
    sessions: Gathered,
    acls: Gathered,
    /// Encoded znodes, part after part.
    nodes: Vec<Box<[u8]>>,
    /// Where each znode stands, in the order of arrival; of their paths once sorted.
    index: Vec<Place>,
}

#[derive(Debug, Default)]
struct Gathered {
    count: usize,
    bytes: Vec<u8>,
}

/// A record in [`Export::nodes`].
#[derive(Clone, Copy, Debug)]
struct Place {
    part: u32,
    at: u32,
    len: u32,
}

/// What is to stand behind the body.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sections {
    /// The digest of the tree, with the snapshot's zxid. Read where `digest.enabled` is on, the default.
    pub digest: Option<TreeDigest>,
    /// The last-processed section, which 3.8 does not know (and passes over) and 3.9 reads by default. Only
    /// together with a digest: the sections have no tags.
    pub last_processed: Option<Zxid>,
}

impl Export {
    /// Nothing gathered.
    pub fn new() -> Export {
        Export::default()
    }

    /// Takes a part, of any kind in any order.
    pub fn part(&mut self, kind: Kind, count: u32, bytes: &[u8]) -> Result<(), Error> {
        let damaged = |at: usize, damage| Error::damaged("(a part to export)", at as u64, damage);
        if bytes.len() > CHUNK_RAW_MAX {
            return Err(Error::PartTooLarge {
                path: "(a part to export)".into(),
                found: bytes.len(),
                max: CHUNK_RAW_MAX,
            });
        }
        let part = u32::try_from(self.nodes.len()).expect("4 G parts do not fit in memory");
        let mut r = Reader::new(bytes);
        for _ in 0..count {
            let at = r.offset();
            match kind {
                Kind::Sessions => SessionRecord::decode(&mut r).map(drop),
                Kind::Acls => AclRecord::decode(&mut r).map(drop),
                Kind::Nodes => NodeRecord::decode(&mut r).map(drop),
            }
            .map_err(|e| damaged(at, Damage::Record(e)))?;
            if kind == Kind::Nodes {
                // Both below CHUNK_RAW_MAX.
                self.index.push(Place { part, at: at as u32, len: (r.offset() - at) as u32 });
            }
        }
        if r.remaining() > 0 {
            let found = r.remaining() as u64;
            return Err(damaged(
                r.offset(),
                Damage::Field { name: "bytes behind the last record", wanted: 0, found },
            ));
        }
        match kind {
            Kind::Sessions => self.sessions.add(count, bytes),
            Kind::Acls => self.acls.add(count, bytes),
            Kind::Nodes => self.nodes.push(bytes.into()),
        }
        Ok(())
    }

    /// Puts the state into Apache's order, to be sent uncompressed to whoever wants it.
    ///
    /// # Errors
    /// The state is not whole: Apache would refuse it.
    pub fn in_order(self, sections: Sections) -> Result<Ordered, Error> {
        self.ordered("(a state to export)", sections)
    }

    fn ordered(mut self, path: &str, sections: Sections) -> Result<Ordered, Error> {
        assert!(
            sections.last_processed.is_none() || sections.digest.is_some(),
            "a last-processed section without a digest before it is read as one"
        );
        self.sort(path)?;
        Ok(Ordered { export: self, sections })
    }

    /// Writes `snapshot.<zxid>` into `dir`, durably. `zxid`: the last txn of the state. Returns the name. A
    /// temporary file of a crash is no snapshot to Apache.
    pub fn write(
        self,
        dir: &dyn Dir,
        zxid: Zxid,
        compression: Compression,
        sections: Sections,
    ) -> Result<String, Error> {
        let name = name_of(zxid, compression);
        let path = dir.path().join(&name).display().to_string();
        let ordered = self.ordered(&path, sections)?;
        // Does not begin with "snapshot.", so that Apache never looks at it.
        let temp = format!("export-of-{name}{TEMP_SUFFIX}");
        let io = |action| {
            let path = &path;
            move |e| Error::io(path, action, e)
        };
        match dir.unlink(&temp) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io("remove the leftover of")(e)),
            _ => {}
        }
        let file = dir.create(&temp, Access::WRITE).map_err(io("create"))?;
        let sink = FileSink { file: file.clone(), at: 0 };
        match compression {
            Compression::Plain => {
                let mut out = io::BufWriter::with_capacity(1 << 18, sink);
                ordered.write_to(&mut out).and_then(|()| out.flush())
            }
            Compression::Gzip => {
                let mut out = GzEncoder::new(
                    io::BufWriter::with_capacity(1 << 18, sink),
                    flate2::Compression::default(),
                );
                ordered.write_to(&mut out).and_then(|()| out.finish()).and_then(|mut out| out.flush())
            }
            Compression::Snappy => {
                let e = io::Error::new(io::ErrorKind::Unsupported, "snappy is read, not written");
                let _ = dir.unlink(&temp);
                return Err(io("write")(e));
            }
        }
        .and_then(|()| file.sync())
        .map_err(|e| {
            // Best effort: Apache does not take it for a snapshot.
            let _ = dir.unlink(&temp);
            io("write")(e)
        })?;
        dir.rename(&temp, &name).map_err(io("rename to"))?;
        dir.sync().map_err(io("sync the directory of"))?;
        Ok(name)
    }

    /// Sorts by path, which puts each parent before its children, and makes sure that it is there: Apache
    /// refuses a snapshot with an orphan.
    fn sort(&mut self, path: &str) -> Result<(), Error> {
        let nodes = &self.nodes;
        let path_of = |place: &Place| node_path(&nodes[place.part as usize], place);
        self.index.sort_unstable_by(|a, b| path_of(a).cmp(path_of(b)));
        let rule = |rule| Err(Error::damaged(path, 0, Damage::Rule(rule)));
        match self.index.first() {
            Some(first) if path_of(first).is_empty() => {}
            _ => return rule("the state to export has no root"),
        }
        for (i, place) in self.index.iter().enumerate().skip(1) {
            let node = path_of(place);
            if node == path_of(&self.index[i - 1]) {
                return rule("the state to export holds a znode twice");
            }
            let Some(slash) = node.iter().rposition(|&b| b == b'/') else {
                return rule("the state to export holds a path without /");
            };
            if self.index.binary_search_by(|other| path_of(other).cmp(&node[..slash])).is_err() {
                return rule("the state to export holds a znode without its parent");
            }
        }
        Ok(())
    }
}

/// A state in the order in which Apache wants it. Still held in memory as a whole.
#[derive(Debug)]
pub struct Ordered {
    export: Export,
    sections: Sections,
}

impl Ordered {
    /// Bytes that [`Ordered::write_to`] writes.
    ///
    /// # Errors
    /// As there.
    pub fn size(&self) -> io::Result<u64> {
        let mut counting = Counting(0);
        self.write_to(&mut counting)?;
        Ok(counting.0)
    }

    /// Writes the bytes of a snapshot, uncompressed, in pieces of a znode or less.
    ///
    /// # Errors
    /// Those of `out`; `InvalidData` when there are more sessions or ACLs than the format can count.
    pub fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        let Ordered { export, sections } = self;
        let mut out = Summing { out, adler: Adler32::new() };
        out.put(MAGIC)?;
        out.put(&2_i32.to_be_bytes())?;
        out.put(&(-1_i64).to_be_bytes())?;
        for table in [&export.sessions, &export.acls] {
            let count = i32::try_from(table.count).map_err(|_| io::ErrorKind::InvalidData)?;
            out.put(&count.to_be_bytes())?;
            out.put(&table.bytes)?;
        }
        for place in &export.index {
            let (start, end) = (place.at as usize, (place.at + place.len) as usize);
            out.put(&export.nodes[place.part as usize][start..end])?;
        }
        out.put(TERMINATOR)?;
        out.seal()?;
        if let Some(TreeDigest { zxid, digest: Some(digest) }) = sections.digest {
            out.put(&zxid.to_wire().to_be_bytes())?;
            out.put(&digest.version.to_be_bytes())?;
            out.put(&digest.value.to_be_bytes())?;
            out.seal()?;
            if let Some(last) = sections.last_processed {
                out.put(&last.to_wire().to_be_bytes())?;
                out.seal()?;
            }
        }
        Ok(())
    }
}

const TERMINATOR: &[u8; 5] = b"\x00\x00\x00\x01/";

impl Gathered {
    fn add(&mut self, count: u32, bytes: &[u8]) {
        self.count += count as usize;
        self.bytes.extend_from_slice(bytes);
    }
}

/// The path in the encoded znode at `place`: it was decoded when it came, so its length is right.
fn node_path<'a>(part: &'a [u8], place: &Place) -> &'a [u8] {
    let at = place.at as usize;
    let len = i32::from_be_bytes([part[at], part[at + 1], part[at + 2], part[at + 3]]);
    // Null reads as empty, the root.
    &part[at + 4..at + 4 + len.max(0) as usize]
}

/// Sums what passes.
struct Summing<'a> {
    out: &'a mut dyn Write,
    adler: Adler32,
}

impl Summing<'_> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.adler.write(bytes);
        self.out.write_all(bytes)
    }

    fn seal(&mut self) -> io::Result<()> {
        let sum = u64::from(self.adler.finish());
        self.put(&sum.to_be_bytes())?;
        self.put(TERMINATOR)
    }
}

struct Counting(u64);

impl Write for Counting {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0 += buf.len() as u64;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct FileSink {
    file: Arc<dyn File>,
    at: u64,
}

impl Write for FileSink {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.file.write_at(buf, self.at)?;
        self.at += buf.len() as u64;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
