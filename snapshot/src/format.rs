//! The file, byte for byte. All numbers are big endian, like the records inside, so that a hex dump shows a
//! zxid the way operators read it. Reserved bytes are zero and are asserted zero.
//!
//! ```text
//! file = header(64) chunk* footer(120)
//!
//! header
//!   0       8 magic      "FLCNSNAP"
//!   8       4 version    1
//!  12       4 reserved
//!  16      16 cluster    id of the ensemble, as the superblock holds it; zeros: it had none yet
//!  32       8 server     id of the server that wrote it (tells, does not bind: a backup may be restored elsewhere)
//!  40       8 start      zxid applied when the walk began: everything up to it is inside
//!  48       8 written    wall-clock ms when the walk began
//!  56       4 reserved
//!  60       4 crc        crc32c of bytes 0..60; the first link of the chain
//!
//! chunk
//!   0       4 marker     "CHNK"
//!   4       4 index      0, 1, 2, ...
//!   8       1 kind       1 sessions, 2 ACLs, 3 znodes; never falls from chunk to chunk
//!   9       1 codec      0 stored as it is, 1 zstd (one whole frame a chunk)
//!  10       2 reserved
//!  12       4 count      records in the payload, > 0
//!  16       4 raw        bytes of the payload uncompressed, 1..=CHUNK_RAW_MAX; equal to `stored` when codec is 0
//!  20       4 stored     bytes of the payload as stored
//!  24       4 crc        crc32c of the payload as stored
//!  28       4 chain      crc32c of bytes 0..28, continued from the link before
//!  32  stored payload    `count` records of proto::state, one after the other
//!
//! footer
//!   0       8 magic      "FLCNFOOT"
//!   8       4 chunks     how many there were
//!  12       4 digest_v   0: no digest; 2: Apache's, version 2
//!  16       8 sessions   records
//!  24       8 acls       records
//!  32       8 znodes     records
//!  40       8 raw        payload bytes uncompressed
//!  48       8 stored     payload bytes as stored: 64 + 32*chunks + stored + 120 is the length of the file
//!  56       8 start      as in the header
//!  64       8 end        zxid applied when the walk ended: nothing after it is inside
//!  72       8 digest     of the tree at `end`; 0 when digest_v is 0
//!  80       8 ended      wall-clock ms when the walk ended
//!  88      24 reserved
//! 112       4 chain      the last link of the chain, over bytes 0..112
//! 116       4 crc        crc32c of bytes 0..116
//! ```
//!
//! The chain ties the whole file together in order: each link is a crc32c over the head of one part,
//! continued from the link before, and each chunk's head holds the checksum of its payload. A chunk that is
//! missing, repeated, moved or taken from another snapshot breaks it, and nothing is summed twice. The
//! footer's own crc lets a catalogue judge a file by its last 120 bytes and its length alone.
//!
//! | crash while writing | what a start finds |
//! |---|---|
//! | before the rename is durable | `snapshot.<hex>.tmp`, swept away; the older snapshots are untouched |
//! | after it | the whole file: its bytes were synced before the rename |
//!
//! Assumed of the file system: a rename is atomic and durable once the directory is synced.

use crate::error::{Damage, Error};
use crate::limits::{CHUNK_RAW_MAX, CHUNK_STORED_MAX};
use crate::{Digest, Kind};
use proto::{ServerId, WallMs, Zxid};

/// First bytes of a snapshot.
pub const MAGIC: &[u8; 8] = b"FLCNSNAP";
/// First bytes of its footer.
pub const FOOTER_MAGIC: &[u8; 8] = b"FLCNFOOT";
/// First bytes of a chunk.
pub const CHUNK_MARKER: &[u8; 4] = b"CHNK";
/// The format this program writes, and the newest it reads.
pub const VERSION: u32 = 1;
/// The cluster id of an ensemble that has none yet.
pub const NO_CLUSTER: [u8; 16] = [0; 16];
/// Bytes of a header.
pub const HEADER_LEN: usize = 64;
/// Bytes of a chunk's head.
pub const CHUNK_HEAD_LEN: usize = 32;
/// Bytes of a footer.
pub const FOOTER_LEN: usize = 120;

const HEADER_CRC_AT: usize = HEADER_LEN - 4;
const CHUNK_CHAIN_AT: usize = CHUNK_HEAD_LEN - 4;
const FOOTER_CRC_AT: usize = FOOTER_LEN - 4;
const FOOTER_CHAIN_AT: usize = FOOTER_CRC_AT - 4;

/// One link of the chain of checksums.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chain(u32);

/// The head of a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// The ensemble, or [`NO_CLUSTER`].
    pub cluster: [u8; 16],
    /// The server that wrote it.
    pub server: ServerId,
    /// Applied when the walk began.
    pub start: Zxid,
    /// Wall clock when the walk began.
    pub written: WallMs,
}

/// How a payload is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Codec {
    /// As it is.
    Stored,
    /// One zstd frame.
    Zstd,
}

/// The head of a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkHead {
    /// Its place, from 0.
    pub index: u32,
    /// What its records are.
    pub kind: Kind,
    /// How its payload is stored.
    pub codec: Codec,
    /// Records inside.
    pub count: u32,
    /// Bytes of the payload, uncompressed.
    pub raw: u32,
    /// Bytes of the payload, as stored.
    pub stored: u32,
    /// crc32c of the payload as stored.
    pub crc: u32,
}

/// The end of a snapshot, and the summary of all before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Footer {
    /// Chunks.
    pub chunks: u32,
    /// Records by kind.
    pub counts: Counts,
    /// Payload bytes uncompressed.
    pub raw: u64,
    /// Payload bytes as stored.
    pub stored: u64,
    /// Applied when the walk began.
    pub start: Zxid,
    /// Applied when the walk ended; a load is whole only after replay up to here.
    pub end: Zxid,
    /// Digest of the tree at `end`, where digests are on.
    pub digest: Option<Digest>,
    /// Wall clock when the walk ended.
    pub ended: WallMs,
}

/// Records of each kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Sessions.
    pub sessions: u64,
    /// ACLs in the table.
    pub acls: u64,
    /// Znodes.
    pub nodes: u64,
}

impl Counts {
    /// Adds `count` records of `kind`.
    pub fn add(&mut self, kind: Kind, count: u64) {
        let field = match kind {
            Kind::Sessions => &mut self.sessions,
            Kind::Acls => &mut self.acls,
            Kind::Nodes => &mut self.nodes,
        };
        *field = field.saturating_add(count);
    }

    /// The two that differ first: name, this one's, the other's.
    pub(crate) fn first_difference(&self, other: &Counts) -> Option<(&'static str, u64, u64)> {
        [
            ("sessions in the footer", self.sessions, other.sessions),
            ("ACLs in the footer", self.acls, other.acls),
            ("znodes in the footer", self.nodes, other.nodes),
        ]
        .into_iter()
        .find(|(_, a, b)| a != b)
    }
}

impl Header {
    /// The bytes, and the first link of the chain.
    pub fn encode(&self) -> ([u8; HEADER_LEN], Chain) {
        let mut b = [0; HEADER_LEN];
        put(&mut b, 0, MAGIC);
        put(&mut b, 8, &VERSION.to_be_bytes());
        put(&mut b, 16, &self.cluster);
        put(&mut b, 32, &self.server.0.to_be_bytes());
        put(&mut b, 40, &self.start.as_u64().to_be_bytes());
        put(&mut b, 48, &self.written.0.to_be_bytes());
        let crc = crc32c::crc32c(&b[..HEADER_CRC_AT]);
        put(&mut b, HEADER_CRC_AT, &crc.to_be_bytes());
        (b, Chain(crc))
    }

    /// Reads and checks a header. `path` is for the error.
    pub fn decode(b: &[u8; HEADER_LEN], path: &str) -> Result<(Header, Chain), Error> {
        magic(b, MAGIC, path, 0, "magic")?;
        let crc = u32_at(b, HEADER_CRC_AT);
        checksum(path, HEADER_CRC_AT as u64, "the header", crc, crc32c::crc32c(&b[..HEADER_CRC_AT]))?;
        // After the checksum: a flipped version is damage, a true one is news.
        let version = u32_at(b, 8);
        if version > VERSION {
            return Err(Error::Newer { path: path.to_owned(), found: version, known: VERSION });
        }
        field(path, 8, "format version", u64::from(VERSION), u64::from(version))?;
        zero(b, 12..16, path, 0)?;
        zero(b, 56..60, path, 0)?;
        let mut cluster = [0; 16];
        cluster.copy_from_slice(&b[16..32]);
        let header = Header {
            cluster,
            server: ServerId(u64_at(b, 32) as i64),
            start: Zxid::from_u64(u64_at(b, 40)),
            written: WallMs(u64_at(b, 48) as i64),
        };
        Ok((header, Chain(crc)))
    }
}

impl ChunkHead {
    /// The bytes, and the next link after `before`.
    pub fn encode(&self, before: Chain) -> ([u8; CHUNK_HEAD_LEN], Chain) {
        let mut b = [0; CHUNK_HEAD_LEN];
        put(&mut b, 0, CHUNK_MARKER);
        put(&mut b, 4, &self.index.to_be_bytes());
        b[8] = self.kind.code();
        b[9] = match self.codec {
            Codec::Stored => 0,
            Codec::Zstd => 1,
        };
        put(&mut b, 12, &self.count.to_be_bytes());
        put(&mut b, 16, &self.raw.to_be_bytes());
        put(&mut b, 20, &self.stored.to_be_bytes());
        put(&mut b, 24, &self.crc.to_be_bytes());
        let chain = crc32c::crc32c_append(before.0, &b[..CHUNK_CHAIN_AT]);
        put(&mut b, CHUNK_CHAIN_AT, &chain.to_be_bytes());
        (b, Chain(chain))
    }

    /// Reads and checks the head at `offset` of the file, which must continue the chain after `before` and be
    /// number `index`.
    pub fn decode(
        b: &[u8; CHUNK_HEAD_LEN],
        before: Chain,
        index: u32,
        path: &str,
        offset: u64,
    ) -> Result<(ChunkHead, Chain), Error> {
        magic(b, CHUNK_MARKER, path, offset, "chunk marker")?;
        let chain = u32_at(b, CHUNK_CHAIN_AT);
        let computed = crc32c::crc32c_append(before.0, &b[..CHUNK_CHAIN_AT]);
        checksum(path, offset + CHUNK_CHAIN_AT as u64, "the chain up to this chunk", chain, computed)?;
        field(path, offset + 4, "chunk index", u64::from(index), u64::from(u32_at(b, 4)))?;
        let kind = Kind::from_code(b[8]).ok_or_else(|| {
            let damage = Damage::Field { name: "kind", wanted: 3, found: u64::from(b[8]) };
            Error::damaged(path, offset + 8, damage)
        })?;
        let codec = match b[9] {
            0 => Codec::Stored,
            1 => Codec::Zstd,
            found => {
                let damage = Damage::Field { name: "codec", wanted: 1, found: u64::from(found) };
                return Err(Error::damaged(path, offset + 9, damage));
            }
        };
        zero(b, 10..12, path, offset)?;
        let head = ChunkHead {
            index,
            kind,
            codec,
            count: u32_at(b, 12),
            raw: u32_at(b, 16),
            stored: u32_at(b, 20),
            crc: u32_at(b, 24),
        };
        within(path, offset + 12, "records in a chunk", head.count, u32::MAX as usize)?;
        within(path, offset + 16, "uncompressed bytes of a chunk", head.raw, CHUNK_RAW_MAX)?;
        within(path, offset + 20, "stored bytes of a chunk", head.stored, CHUNK_STORED_MAX)?;
        if codec == Codec::Stored {
            field(path, offset + 20, "stored bytes", u64::from(head.raw), u64::from(head.stored))?;
        }
        Ok((head, Chain(chain)))
    }
}

impl Footer {
    /// The bytes, closing the chain after `before`.
    pub fn encode(&self, before: Chain) -> [u8; FOOTER_LEN] {
        let mut b = [0; FOOTER_LEN];
        put(&mut b, 0, FOOTER_MAGIC);
        put(&mut b, 8, &self.chunks.to_be_bytes());
        put(&mut b, 16, &self.counts.sessions.to_be_bytes());
        put(&mut b, 24, &self.counts.acls.to_be_bytes());
        put(&mut b, 32, &self.counts.nodes.to_be_bytes());
        put(&mut b, 40, &self.raw.to_be_bytes());
        put(&mut b, 48, &self.stored.to_be_bytes());
        put(&mut b, 56, &self.start.as_u64().to_be_bytes());
        put(&mut b, 64, &self.end.as_u64().to_be_bytes());
        if let Some(digest) = self.digest {
            put(&mut b, 12, &digest.version.to_be_bytes());
            put(&mut b, 72, &digest.value.to_be_bytes());
        }
        put(&mut b, 80, &self.ended.0.to_be_bytes());
        let chain = crc32c::crc32c_append(before.0, &b[..FOOTER_CHAIN_AT]);
        put(&mut b, FOOTER_CHAIN_AT, &chain.to_be_bytes());
        let crc = crc32c::crc32c(&b[..FOOTER_CRC_AT]);
        put(&mut b, FOOTER_CRC_AT, &crc.to_be_bytes());
        b
    }

    /// Reads a footer that stands at `offset` and checks what it says of itself and of the file's length
    /// (`offset + FOOTER_LEN`); [`Footer::closes`] checks the chain.
    pub fn decode(b: &[u8; FOOTER_LEN], path: &str, offset: u64) -> Result<Footer, Error> {
        magic(b, FOOTER_MAGIC, path, offset, "footer magic")?;
        let crc = u32_at(b, FOOTER_CRC_AT);
        let at = offset + FOOTER_CRC_AT as u64;
        checksum(path, at, "the footer", crc, crc32c::crc32c(&b[..FOOTER_CRC_AT]))?;
        zero(b, 88..FOOTER_CHAIN_AT, path, offset)?;
        let digest = match u32_at(b, 12) {
            0 => {
                field(path, offset + 72, "digest of a tree without one", 0, u64_at(b, 72))?;
                None
            }
            version => Some(Digest { version, value: u64_at(b, 72) as i64 }),
        };
        let footer = Footer {
            chunks: u32_at(b, 8),
            counts: Counts { sessions: u64_at(b, 16), acls: u64_at(b, 24), nodes: u64_at(b, 32) },
            raw: u64_at(b, 40),
            stored: u64_at(b, 48),
            start: Zxid::from_u64(u64_at(b, 56)),
            end: Zxid::from_u64(u64_at(b, 64)),
            digest,
            ended: WallMs(u64_at(b, 80) as i64),
        };
        let before = (HEADER_LEN as u64 + u64::from(footer.chunks) * CHUNK_HEAD_LEN as u64)
            .saturating_add(footer.stored);
        field(path, offset + 48, "bytes before the footer", before, offset)?;
        if footer.end < footer.start {
            let damage =
                Damage::Field { name: "end zxid", wanted: footer.start.as_u64(), found: footer.end.as_u64() };
            return Err(Error::damaged(path, offset + 64, damage));
        }
        Ok(footer)
    }

    /// Checks that the footer `b` at `offset` is the link after `before`.
    pub fn closes(b: &[u8; FOOTER_LEN], before: Chain, path: &str, offset: u64) -> Result<(), Error> {
        let computed = crc32c::crc32c_append(before.0, &b[..FOOTER_CHAIN_AT]);
        let at = offset + FOOTER_CHAIN_AT as u64;
        checksum(path, at, "the chain of the whole file", u32_at(b, FOOTER_CHAIN_AT), computed)
    }

    /// The checksum in an encoded footer: it names this very content, as the manifest does.
    pub fn crc_of(b: &[u8; FOOTER_LEN]) -> u32 {
        u32_at(b, FOOTER_CRC_AT)
    }

    /// The length of the whole file in bytes.
    pub fn file_len(&self) -> u64 {
        (HEADER_LEN + FOOTER_LEN) as u64 + u64::from(self.chunks) * CHUNK_HEAD_LEN as u64 + self.stored
    }
}

fn put(b: &mut [u8], at: usize, bytes: &[u8]) {
    b[at..at + bytes.len()].copy_from_slice(bytes);
}

fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from(u32_at(b, at)) << 32 | u64::from(u32_at(b, at + 4))
}

fn magic(b: &[u8], wanted: &[u8], path: &str, offset: u64, name: &'static str) -> Result<(), Error> {
    let as_number = |b: &[u8]| b.iter().fold(0, |n, &byte| n << 8 | u64::from(byte));
    field(path, offset, name, as_number(wanted), as_number(&b[..wanted.len()]))
}

fn field(path: &str, offset: u64, name: &'static str, wanted: u64, found: u64) -> Result<(), Error> {
    if wanted == found {
        return Ok(());
    }
    Err(Error::damaged(path, offset, Damage::Field { name, wanted, found }))
}

/// `found` is in 1..=`max`.
fn within(path: &str, offset: u64, name: &'static str, found: u32, max: usize) -> Result<(), Error> {
    if found > 0 && found as usize <= max {
        return Ok(());
    }
    Err(Error::damaged(path, offset, Damage::Field { name, wanted: max as u64, found: u64::from(found) }))
}

fn checksum(path: &str, offset: u64, of: &'static str, wanted: u32, found: u32) -> Result<(), Error> {
    if wanted == found {
        return Ok(());
    }
    Err(Error::damaged(path, offset, Damage::Checksum { of, wanted, found }))
}

fn zero(b: &[u8], range: std::ops::Range<usize>, path: &str, offset: u64) -> Result<(), Error> {
    match b[range.clone()].iter().position(|&byte| byte != 0) {
        None => Ok(()),
        Some(i) => {
            let at = range.start + i;
            field(path, offset + at as u64, "reserved byte", 0, u64::from(b[at]))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header = Header {
        cluster: *b"0123456789abcdef",
        server: ServerId(3),
        start: Zxid::from_u64(0x1_0000_0002),
        written: WallMs(0x0102_0304),
    };

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn the_drawing_and_the_header_agree() {
        let (b, _) = HEADER.encode();
        assert_eq!(
            hex(&b),
            "464c434e534e4150 00000001 00000000 30313233343536373839616263646566 0000000000000003 \
             0000000100000002 0000000001020304 00000000 8aa5ece3"
                .replace(' ', "")
        );
        assert_eq!(Header::decode(&b, "x").unwrap().0, HEADER);
    }

    #[test]
    fn the_drawing_and_the_chunk_head_agree() {
        let (_, chain) = HEADER.encode();
        let head = ChunkHead {
            index: 7,
            kind: Kind::Nodes,
            codec: Codec::Zstd,
            count: 2,
            raw: 300,
            stored: 100,
            crc: 0xdead_beef,
        };
        let (b, next) = head.encode(chain);
        assert_eq!(
            hex(&b),
            "43484e4b 00000007 03 01 0000 00000002 0000012c 00000064 deadbeef f5bf638f".replace(' ', "")
        );
        assert_eq!(ChunkHead::decode(&b, chain, 7, "x", 64).unwrap(), (head, next));
    }

    #[test]
    fn the_drawing_and_the_footer_agree() {
        let (_, chain) = HEADER.encode();
        let footer = Footer {
            chunks: 2,
            counts: Counts { sessions: 1, acls: 2, nodes: 3 },
            raw: 0x500,
            stored: 0x400,
            start: HEADER.start,
            end: Zxid::from_u64(0x1_0000_0009),
            digest: Some(Digest { version: 2, value: -2 }),
            ended: WallMs(0x0506),
        };
        let b = footer.encode(chain);
        assert_eq!(
            hex(&b),
            "464c434e464f4f54 00000002 00000002 0000000000000001 0000000000000002 0000000000000003 \
             0000000000000500 0000000000000400 0000000100000002 0000000100000009 fffffffffffffffe \
             0000000000000506 000000000000000000000000000000000000000000000000 15a857a6 de1a69e8"
                .replace(' ', "")
        );
        let at = footer.file_len() - FOOTER_LEN as u64;
        assert_eq!(Footer::decode(&b, "x", at).unwrap(), footer);
        Footer::closes(&b, chain, "x", at).unwrap();
        // A file that is one byte longer or shorter than the footer says is not this file.
        assert!(Footer::decode(&b, "x", at + 1).is_err());
        assert!(Footer::decode(&b, "x", at - 1).is_err());
    }

    #[test]
    fn every_flipped_bit_of_a_head_is_noticed() {
        let (header, chain) = HEADER.encode();
        for bit in 0..HEADER_LEN * 8 {
            let mut b = header;
            b[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&b, "x").is_err(), "header bit {bit}");
        }
        let head = ChunkHead {
            index: 0,
            kind: Kind::Acls,
            codec: Codec::Stored,
            count: 1,
            raw: 5,
            stored: 5,
            crc: 1,
        };
        let (chunk, chain) = head.encode(chain);
        for bit in 0..CHUNK_HEAD_LEN * 8 {
            let mut b = chunk;
            b[bit / 8] ^= 1 << (bit % 8);
            let (_, start) = HEADER.encode();
            assert!(ChunkHead::decode(&b, start, 0, "x", 64).is_err(), "chunk bit {bit}");
        }
        let footer = Footer {
            chunks: 1,
            counts: Counts { acls: 1, ..Counts::default() },
            raw: 5,
            stored: 5,
            start: HEADER.start,
            end: HEADER.start,
            digest: None,
            ended: WallMs(0),
        };
        let bytes = footer.encode(chain);
        for bit in 0..FOOTER_LEN * 8 {
            let mut b = bytes;
            b[bit / 8] ^= 1 << (bit % 8);
            assert!(Footer::decode(&b, "x", 64 + 32 + 5).is_err(), "footer bit {bit}");
        }
    }

    #[test]
    fn a_newer_version_is_news_and_not_damage() {
        let (mut b, _) = HEADER.encode();
        b[11] = 2;
        let crc = crc32c::crc32c(&b[..HEADER_CRC_AT]);
        put(&mut b, HEADER_CRC_AT, &crc.to_be_bytes());
        let e = Header::decode(&b, "x").unwrap_err();
        assert!(matches!(e, Error::Newer { found: 2, known: 1, .. }), "{e}");
        assert!(!e.is_damage());
    }
}
