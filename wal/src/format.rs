//! The bytes of a segment: drawn here once, pinned by the tests below. All numbers are little-endian, but the records, which
//! are the protocol's own bytes.
//!
//! A segment is a file of whole 4 KiB blocks, all of them really written before its first use. Block 0 is its header; batches
//! follow, each on a block boundary and padded with zeros to the next. No block is written twice in a segment's life, so a
//! torn write can hurt only what nobody was told. Segment numbers are never reused; the file's name means nothing.
//!
//! ```text
//! segment header, block 0                            batch header, at a multiple of 4096
//!   0  8  magic "FLCNSEG1"                             0  4  magic "FBAT"
//!   8  4  format version, 1                            4  4  crc32c over bytes 8 .. 80 + payload length
//!  12  4  crc32c over the block, this field zero       8  8  segment number
//!  16  8  cluster id                                  16  8  salt, as in the segment's header
//!  24  8  server id                                   24  8  sequence: +1 a batch, through all segments
//!  32  8  segment number, from 1                      32  8  offset of this header in the segment
//!  40  8  length of the segment, bytes                40  4  payload length, bytes
//!  48  8  sequence of its first batch                 44  4  records in it, 0 in a mark
//!  56  8  predecessor's segment number, 0 = none      48  8  first zxid \ of a mark both are the
//!  64  8  predecessor's last live sequence            56  8  last zxid  / last zxid before it
//!  72  4  predecessor's last live checksum            64  8  durable_seq: last batch known durable when this
//!  76  4  why it was begun (Reason)                          one was issued; 0 = none
//!  80  8  last live zxid before this segment          72  4  checksum of the batch before; of the first batch in a
//!  88  8  salt                                               segment: the checksum in the segment's header
//!  96     zeros to 4096                               76  4  zero
//!                                                     80     payload: records, each  u32 length | bytes (txn header first:
//!                                                            the zxid is the big-endian i64 at 12..20 of a record)
//! ```
//!
//! The predecessor's last live batch may reach beyond the last live zxid: what lies behind *that* is dead. With no live batch
//! in the predecessor its last live sequence is its first one minus 1 and the checksum that of its header.
//!
//! The salt is derived from a secret in the superblock. Clients write znode data into batches; without knowing the salt nobody
//! can plant bytes there that look like a batch when recovery scans past damage.

use proto::Zxid;
use vfs::BLOCK;

/// The newest format that this code reads and the one it writes.
pub const VERSION: u32 = 1;
/// Length of a batch header, bytes.
pub const BATCH_HEADER: usize = 80;
/// Length of the field before each record, bytes.
pub const RECORD_PREFIX: usize = 4;

const SEGMENT_MAGIC: [u8; 8] = *b"FLCNSEG1";
const BATCH_MAGIC: [u8; 4] = *b"FBAT";
const CRC_AT: usize = 12;

/// Why a segment was begun.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Reason {
    /// The log begins here, after the header's last live zxid. Holds only if the superblock names this segment as the start.
    Base = 1,
    /// The one before is full.
    Full = 2,
    /// The server started.
    Start = 3,
    /// The log was cut.
    Truncate = 4,
    /// The server's role or epoch changed.
    Role = 5,
}

impl Reason {
    fn decode(v: u32) -> Option<Reason> {
        [Reason::Base, Reason::Full, Reason::Start, Reason::Truncate, Reason::Role]
            .into_iter()
            .find(|r| *r as u32 == v)
    }
}

/// The place behind which a segment continues.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Link {
    /// The segment; 0 = none.
    pub segment: u64,
    /// Its last live batch.
    pub seq: u64,
    /// That batch's checksum.
    pub checksum: u32,
}

/// Block 0 of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    /// The ensemble.
    pub cluster: u64,
    /// The server.
    pub server: i64,
    /// This segment.
    pub number: u64,
    /// Bytes of the segment.
    pub len: u64,
    /// The sequence of its first batch.
    pub first_seq: u64,
    /// What it continues.
    pub pred: Link,
    /// Why it was begun.
    pub reason: Reason,
    /// The last zxid that lives before it.
    pub last_live: Zxid,
    /// See the module.
    pub salt: u64,
}

/// What stands in block 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Block0 {
    /// A header and its checksum.
    Header(SegmentHeader, u32),
    /// A valid header of a version unknown here.
    Newer(u32),
    /// Zeros, or anything else: no segment (a spare), or a damaged one.
    Nothing,
}

impl SegmentHeader {
    /// Writes the header into a block and returns its checksum.
    pub fn encode(&self, block: &mut [u8]) -> u32 {
        assert_eq!(block.len(), BLOCK);
        block.fill(0);
        block[..8].copy_from_slice(&SEGMENT_MAGIC);
        put32(block, 8, VERSION);
        put64(block, 16, self.cluster);
        put64(block, 24, self.server as u64);
        put64(block, 32, self.number);
        put64(block, 40, self.len);
        put64(block, 48, self.first_seq);
        put64(block, 56, self.pred.segment);
        put64(block, 64, self.pred.seq);
        put32(block, 72, self.pred.checksum);
        put32(block, 76, self.reason as u32);
        put64(block, 80, self.last_live.as_u64());
        put64(block, 88, self.salt);
        let crc = crc32c::crc32c(block);
        put32(block, CRC_AT, crc);
        crc
    }

    /// Reads block 0.
    pub fn decode(block: &[u8]) -> Block0 {
        if block.len() != BLOCK || block[..8] != SEGMENT_MAGIC {
            return Block0::Nothing;
        }
        let crc = get32(block, CRC_AT);
        let sum = crc32c::crc32c(&block[..CRC_AT]);
        let sum = crc32c::crc32c_append(sum, &[0; 4]);
        if crc32c::crc32c_append(sum, &block[CRC_AT + 4..]) != crc {
            return Block0::Nothing;
        }
        let version = get32(block, 8);
        let Some(reason) = Reason::decode(get32(block, 76)) else { return Block0::Newer(version) };
        if version != VERSION {
            return Block0::Newer(version);
        }
        let header = SegmentHeader {
            cluster: get64(block, 16),
            server: get64(block, 24) as i64,
            number: get64(block, 32),
            len: get64(block, 40),
            first_seq: get64(block, 48),
            pred: Link { segment: get64(block, 56), seq: get64(block, 64), checksum: get32(block, 72) },
            reason,
            last_live: Zxid::from_u64(get64(block, 80)),
            salt: get64(block, 88),
        };
        Block0::Header(header, crc)
    }
}

/// The head of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchHeader {
    /// The segment that it was written to.
    pub segment: u64,
    /// That segment's salt.
    pub salt: u64,
    /// Its number.
    pub seq: u64,
    /// Its place.
    pub offset: u64,
    /// Bytes of its records with their lengths.
    pub payload_len: u32,
    /// Records in it.
    pub count: u32,
    /// Its first zxid.
    pub first: Zxid,
    /// Its last zxid.
    pub last: Zxid,
    /// The last batch known durable when it was issued.
    pub durable_seq: u64,
    /// The checksum of the batch before.
    pub pred_checksum: u32,
}

impl BatchHeader {
    /// Writes the header in front of the payload that already stands in `batch` (whole batch, unpadded); returns its checksum.
    pub fn encode(&self, batch: &mut [u8]) -> u32 {
        assert_eq!(batch.len(), BATCH_HEADER + self.payload_len as usize);
        batch[..4].copy_from_slice(&BATCH_MAGIC);
        put64(batch, 8, self.segment);
        put64(batch, 16, self.salt);
        put64(batch, 24, self.seq);
        put64(batch, 32, self.offset);
        put32(batch, 40, self.payload_len);
        put32(batch, 44, self.count);
        put64(batch, 48, self.first.as_u64());
        put64(batch, 56, self.last.as_u64());
        put64(batch, 64, self.durable_seq);
        put32(batch, 72, self.pred_checksum);
        put32(batch, 76, 0);
        let crc = crc32c::crc32c(&batch[8..]);
        put32(batch, 4, crc);
        crc
    }

    /// Reads a header and the checksum it claims; `None` without the magic. Nothing is verified yet.
    pub fn decode(bytes: &[u8]) -> Option<(BatchHeader, u32)> {
        if bytes.len() < BATCH_HEADER || bytes[..4] != BATCH_MAGIC {
            return None;
        }
        let header = BatchHeader {
            segment: get64(bytes, 8),
            salt: get64(bytes, 16),
            seq: get64(bytes, 24),
            offset: get64(bytes, 32),
            payload_len: get32(bytes, 40),
            count: get32(bytes, 44),
            first: Zxid::from_u64(get64(bytes, 48)),
            last: Zxid::from_u64(get64(bytes, 56)),
            durable_seq: get64(bytes, 64),
            pred_checksum: get32(bytes, 72),
        };
        Some((header, get32(bytes, 4)))
    }

    /// The checksum of a whole unpadded batch.
    pub fn checksum(batch: &[u8]) -> u32 {
        crc32c::crc32c(&batch[8..])
    }
}

/// The salt of a segment.
pub fn salt(secret: u64, segment: u64) -> u64 {
    // splitmix64: any mixing does, the secret and the salts are never shown to clients.
    let mut z = secret.wrapping_add(segment.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Whether a record with zxid `next` may follow one with zxid `last`: the next counter of the same epoch, or the first of a
/// later one (a leader's first proposal has counter 1; Zab numbers them without gaps).
pub fn follows(last: Zxid, next: Zxid) -> bool {
    if next.epoch() == last.epoch() { last.next() == Some(next) } else { next > last && next.counter() == 1 }
}

/// The zxid inside a record (bytes 12..20 of its txn header); `None` if it is too short to have one.
pub fn record_zxid(record: &[u8]) -> Option<Zxid> {
    let bytes = record.get(12..20)?;
    Some(Zxid::from_u64(u64::from_be_bytes(bytes.try_into().ok()?)))
}

pub(crate) fn put32(b: &mut [u8], at: usize, v: u32) {
    b[at..at + 4].copy_from_slice(&v.to_le_bytes());
}

pub(crate) fn put64(b: &mut [u8], at: usize, v: u64) {
    b[at..at + 8].copy_from_slice(&v.to_le_bytes());
}

pub(crate) fn get32(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(b[at..at + 4].try_into().expect("four bytes"))
}

pub(crate) fn get64(b: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(b[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::Epoch;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    fn header() -> SegmentHeader {
        SegmentHeader {
            cluster: 0x0102_0304_0506_0708,
            server: -2,
            number: 5,
            len: 64 << 20,
            first_seq: 0x22,
            pred: Link { segment: 4, seq: 0x21, checksum: 0xaabb_ccdd },
            reason: Reason::Truncate,
            last_live: Zxid::new(Epoch(3), 9),
            salt: 0x1122_3344_5566_7788,
        }
    }

    #[test]
    fn the_segment_header_is_as_drawn() {
        let mut block = vec![0xee; BLOCK];
        let crc = header().encode(&mut block);
        assert_eq!(
            hex(&block[..96]),
            "464c434e53454731010000009452ca8f\
             0807060504030201feffffffffffffff\
             05000000000000000000000400000000\
             22000000000000000400000000000000\
             2100000000000000ddccbbaa04000000\
             09000000030000008877665544332211"
        );
        assert!(block[96..].iter().all(|&b| b == 0));
        assert_eq!(SegmentHeader::decode(&block), Block0::Header(header(), crc));
        for at in 0..BLOCK {
            let mut bad = block.clone();
            bad[at] ^= 1;
            assert_eq!(SegmentHeader::decode(&bad), Block0::Nothing, "a flip at {at}");
        }
    }

    #[test]
    fn a_later_version_is_no_damage() {
        let mut block = vec![0; BLOCK];
        header().encode(&mut block);
        put32(&mut block, 8, 2);
        put32(&mut block, CRC_AT, 0);
        let crc = crc32c::crc32c(&block);
        put32(&mut block, CRC_AT, crc);
        assert_eq!(SegmentHeader::decode(&block), Block0::Newer(2));
    }

    #[test]
    fn the_batch_header_is_as_drawn() {
        let record = [0x5a; 40];
        let mut batch = vec![0xee; BATCH_HEADER + RECORD_PREFIX + record.len()];
        put32(&mut batch, BATCH_HEADER, 40);
        batch[BATCH_HEADER + RECORD_PREFIX..].copy_from_slice(&record);
        let header = BatchHeader {
            segment: 5,
            salt: 0x1122_3344_5566_7788,
            seq: 0x22,
            offset: 4096,
            payload_len: 44,
            count: 1,
            first: Zxid::new(Epoch(3), 9),
            last: Zxid::new(Epoch(3), 10),
            durable_seq: 0x20,
            pred_checksum: 0xaabb_ccdd,
        };
        let crc = header.encode(&mut batch);
        assert_eq!(
            hex(&batch[..BATCH_HEADER + 8]),
            "46424154dcb4de400500000000000000\
             88776655443322112200000000000000\
             00100000000000002c00000001000000\
             09000000030000000a00000003000000\
             2000000000000000ddccbbaa00000000\
             280000005a5a5a5a"
        );
        assert_eq!(BatchHeader::decode(&batch), Some((header, crc)));
        assert_eq!(BatchHeader::checksum(&batch), crc);
    }

    #[test]
    fn what_follows_what() {
        let z = |e, c| Zxid::new(Epoch(e), c);
        for (last, next, wanted) in [
            (z(0, 0), z(0, 1), true),
            (z(0, 0), z(1, 1), true),
            (z(1, 7), z(1, 8), true),
            (z(1, 7), z(3, 1), true),
            (z(1, 7), z(1, 7), false),
            (z(1, 7), z(1, 9), false),
            (z(1, 7), z(3, 2), false),
            (z(1, 7), z(3, 0), false),
            (z(3, 1), z(1, 1), false),
            (z(1, u32::MAX), z(2, 0), false),
        ] {
            assert_eq!(follows(last, next), wanted, "{last} then {next}");
        }
    }

    #[test]
    fn salts_differ_by_segment_and_by_secret() {
        assert_eq!(salt(1, 1), 0x910a_2dec_8902_5cc1);
        assert!(salt(1, 1) != salt(1, 2) && salt(1, 1) != salt(2, 1));
    }
}
