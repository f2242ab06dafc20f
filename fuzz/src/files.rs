//! Files that a start reads: the log, the superblock, snapshots, and what Apache left.

use crate::records::{record, state_seeds};
use proto::{ServerId, Zxid};
use snapshot::apache::Compression;
use snapshot::{Header, Kind, Snapshot, Writer};
use std::io::Write;
use std::ops::ControlFlow;
use std::sync::Arc;
use vfs::mem::Disk;
use vfs::{Access, BLOCK, Dir};
use wal::format::{BATCH_HEADER, BatchHeader};
use wal::{Config, Identity, Recovery, Superblock};

const SEGMENT: usize = wal::limits::SEGMENT_LEN_MIN as usize;

/// One segment of the log, read as recovery and the tools read it. An odd first byte: its checksums are made right.
pub fn wal_segment(bytes: &[u8]) {
    let Some((&kind, bytes)) = bytes.split_first() else { return };
    let mut segment = bytes.to_vec();
    segment.resize(SEGMENT, 0);
    if kind & 1 == 1 {
        reseal(&mut segment);
    }
    let dir = Disk::new().dir("log");
    put(&*dir, "log.1", &segment);
    let _ = wal::inventory(&*dir, None);
    let Ok(mut reader) = wal::Reader::open(&*dir, None) else { return };
    let mut last = reader.base();
    let _ = reader.replay::<wal::Error>(last, |zxid, record| {
        assert!(zxid > last, "{zxid} after {last}");
        assert!(record.len() <= SEGMENT);
        last = zxid;
        Ok(())
    });
}

/// Makes the checksums and their chain what they would be had these bytes been written.
fn reseal(segment: &mut [u8]) {
    segment[12..16].fill(0);
    let mut chain = crc32c::crc32c(&segment[..BLOCK]);
    segment[12..16].copy_from_slice(&chain.to_le_bytes());
    for at in (BLOCK..segment.len()).step_by(BLOCK) {
        if !segment[at..].starts_with(b"FBAT") {
            continue;
        }
        let len = segment[at + 40..at + 44].try_into().map(u32::from_le_bytes).expect("four bytes") as usize;
        let Some(end) = at.checked_add(BATCH_HEADER + len).filter(|&end| end <= segment.len()) else {
            continue;
        };
        let batch = &mut segment[at..end];
        batch[72..76].copy_from_slice(&chain.to_le_bytes());
        chain = BatchHeader::checksum(batch);
        batch[4..8].copy_from_slice(&chain.to_le_bytes());
    }
}

/// The superblock, both copies.
pub fn superblock(bytes: &[u8]) {
    let disk = Disk::new();
    let dir = disk.dir("data");
    put(&*dir, "superblock", bytes);
    let peeked = Superblock::peek(&*dir);
    let opened = Superblock::open(&*dir);
    match (peeked, opened) {
        (Ok(Some(peeked)), Ok(Some(opened))) => {
            assert_eq!(&peeked, opened.contents());
            // Whatever was repaired, it says the same from now on.
            let again = Superblock::open(&*dir).expect("it was just written").expect("it is there");
            assert_eq!(again.contents(), &peeked);
            assert!(!again.damaged_copy());
        }
        (Err(_), Err(_)) => {}
        (peeked, opened) => panic!("{peeked:?} for one, {opened:?} for the other"),
    }
}

/// One log file of Apache's. An odd first byte: its checksums are made right.
pub fn apache_log(bytes: &[u8]) {
    let Some((&kind, bytes)) = bytes.split_first() else { return };
    let mut file = bytes.to_vec();
    if kind & 1 == 1 {
        let mut at = 16;
        while let Some(head) = file.get(at..at + 12) {
            let len = head[8..].try_into().map(i32::from_be_bytes).expect("four bytes");
            let Ok(len) = usize::try_from(len) else { break };
            let Some(body) = file.get(at + 12..).and_then(|rest| rest.get(..len)) else { break };
            let sum = u64::from(simd_adler32::adler32(&body));
            file[at..at + 8].copy_from_slice(&sum.to_be_bytes());
            at += 12 + len + 1;
        }
    }
    let dir = Disk::new().dir("version-2");
    put(&*dir, "log.1", &file);
    let Ok(mut reader) = wal::apache::Reader::open(&*dir, Zxid::ZERO) else { return };
    let mut last = Zxid::ZERO;
    while let Ok(Some((zxid, record))) = reader.next_record() {
        assert!(zxid > last, "{zxid} after {last}");
        assert!(record.len() <= file.len());
        last = zxid;
    }
}

/// A snapshot file, checked as retention checks it and loaded as a start loads it.
pub fn snapshot_file(bytes: &[u8]) {
    let dir = Disk::new().dir("snapshot");
    put(&*dir, "snapshot.9", bytes);
    let Ok(snapshot) = Snapshot::open(&*dir, "snapshot.9", None) else { return };
    let verified = snapshot.verify(1).is_ok();
    let loaded = snapshot.load(1, &|_, _, _| Ok::<(), std::convert::Infallible>(())).is_ok();
    assert!(loaded || !verified, "what verifies also loads");
}

/// A part of a snapshot whose records are these bytes: whole as a file, whatever the records are. The first two bytes are
/// the kind and the count.
pub fn snapshot_part(bytes: &[u8]) {
    let Some((&[kind, count], records)) = bytes.split_first_chunk::<2>() else { return };
    // A walk never yields records without bytes, or bytes without records.
    if count == 0 || records.is_empty() {
        return;
    }
    let kind = [Kind::Sessions, Kind::Acls, Kind::Nodes][usize::from(kind % 3)];
    let dir = Disk::new().dir("snapshot");
    let Some(name) = write_snapshot(&dir, &[(kind, u32::from(count), records)]) else { return };
    let snapshot = Snapshot::open(&*dir, &name, None).expect("it was written whole");
    let _ = snapshot.verify(2);
    let loaded = snapshot.load(2, &|k, n, part| {
        assert_eq!((k, n, part), (kind, u32::from(count), records));
        Ok::<(), std::convert::Infallible>(())
    });
    loaded.expect("it was written whole");
}

fn write_snapshot(dir: &Arc<dyn Dir>, parts: &[(Kind, u32, &[u8])]) -> Option<String> {
    let header =
        Header { cluster: [1; 16], server: ServerId(1), start: Zxid::from_u64(9), written: proto::WallMs(0) };
    let pace = Box::new(|_| ControlFlow::Continue(()));
    let mut writer = Writer::create(dir.clone(), header, pace).expect("an empty disk in memory");
    for (kind, count, bytes) in parts {
        writer.part(*kind, *count, bytes).ok()?;
    }
    let entry = writer.finish(Zxid::from_u64(12), None, proto::WallMs(0)).ok()?;
    Some(entry.name().to_owned())
}

/// A snapshot of Apache's. The first byte: plain, gzip or snappy.
pub fn apache_snapshot(bytes: &[u8]) {
    let Some((&kind, bytes)) = bytes.split_first() else { return };
    let compression = [Compression::Plain, Compression::Gzip, Compression::Snappy][usize::from(kind % 3)];
    let name = snapshot::apache::name_of(Zxid::from_u64(9), compression);
    let dir = Disk::new().dir("version-2");
    put(&*dir, &name, bytes);
    let _ = snapshot::apache::precheck(&*dir, &name);
    let mut taken = 0;
    let read = snapshot::apache::read(&*dir, &name, &mut |_, _, part| {
        taken += part.len();
        Ok::<(), std::convert::Infallible>(())
    });
    if compression == Compression::Plain {
        assert!(taken <= bytes.len(), "{taken} bytes out of {}", bytes.len());
    }
    assert!(read.is_ok() || snapshot::apache::verify(&*dir, &name).is_err(), "what verifies also reads");
}

fn put(dir: &dyn Dir, name: &str, bytes: &[u8]) {
    let file = dir.create(name, Access::WRITE).expect("an empty disk in memory");
    file.write_at(bytes, 0).expect("a disk in memory without a bound");
}

fn get(dir: &dyn Dir, name: &str) -> Vec<u8> {
    let file = dir.open(name, Access::READ).expect("it was written just now");
    let mut bytes = vec![0; file.len().expect("a file in memory") as usize];
    file.read_exact_at(&mut bytes, 0).expect("a file in memory");
    bytes
}

/// A log of a few batches, cut to the blocks in use, and its superblock.
fn small_log() -> (Vec<u8>, Vec<u8>) {
    let disk = Disk::new();
    let identity = Identity { server: ServerId(1), cluster: 7 };
    let mut superblock =
        Superblock::create(&*disk.dir("data"), identity, 99).expect("an empty disk in memory");
    let config = Config { segment_len: SEGMENT as u64, ..Config::default() };
    let log = Recovery::open(disk.dir("data/log"), &superblock, config)
        .and_then(|r| r.finish(&mut superblock, Zxid::ZERO))
        .expect("an empty disk in memory");
    let mut appender = log.appender;
    for first in [1, 3, 5] {
        let records: Vec<_> = (first..first + 2).map(|z| (Zxid::from_u64(z), record(z))).collect();
        appender.append(records.iter().map(|(z, r)| (*z, &r[..]))).expect("the records are in order");
        appender.commit().expect("a disk in memory");
    }
    let dir = disk.dir("data/log");
    let mut files = dir.list().expect("a disk in memory").into_iter().map(|e| get(&*dir, &e.name));
    let mut segment = files.find(|f| f.starts_with(b"FLCNSEG1")).expect("the segment in use");
    segment.truncate(5 * BLOCK);
    (segment, get(&*disk.dir("data"), "superblock"))
}

pub(crate) fn wal_segment_seeds() -> Vec<Vec<u8>> {
    let segment = small_log().0;
    [0_u8, 1, 1, 1].map(|kind| [&[kind], &segment[..]].concat()).into()
}

pub(crate) fn superblock_seeds() -> Vec<Vec<u8>> {
    vec![small_log().1]
}

pub(crate) fn apache_log_seeds() -> Vec<Vec<u8>> {
    let mut file = b"ZKLG\0\0\0\x02\0\0\0\0\0\0\0\0".to_vec();
    for zxid in 1..5 {
        let body = record(zxid);
        file.extend(u64::from(simd_adler32::adler32(&&body[..])).to_be_bytes());
        file.extend((body.len() as u32).to_be_bytes());
        file.extend(body);
        file.push(b'B');
    }
    file.extend([0; 64]);
    [0_u8, 1, 1].map(|kind| [&[kind], &file[..]].concat()).into()
}

pub(crate) fn snapshot_file_seeds() -> Vec<Vec<u8>> {
    let dir = Disk::new().dir("snapshot");
    let records = state_seeds();
    let kinds = [Kind::Sessions, Kind::Acls, Kind::Nodes];
    let parts: Vec<_> = kinds.into_iter().zip(&records).map(|(k, r)| (k, 1, &r[..])).collect();
    let name = write_snapshot(&dir, &parts).expect("these records are whole");
    vec![get(&*dir, &name)]
}

pub(crate) fn snapshot_part_seeds() -> Vec<Vec<u8>> {
    let records = state_seeds();
    (0_u8..3).zip(&records).map(|(kind, r)| [&[kind, 1], &r[..]].concat()).collect()
}

pub(crate) fn apache_snapshot_seeds() -> Vec<Vec<u8>> {
    let plain = include_bytes!("../../snapshot/tests/data/zk-3.8.0/version-2/snapshot.0");
    let gz = include_bytes!("../../snapshot/tests/data/zk-3.9.5/version-2/snapshot.0.gz");
    let mut own_gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    own_gz.write_all(plain).expect("into memory");
    let own_gz = own_gz.finish().expect("into memory");
    let block = snap::raw::Encoder::new().compress_vec(plain).expect("far below the bound");
    let length = (block.len() as u32).to_be_bytes();
    let snappy = [&snapshot::apache::snappy::MAGIC[..], &[0, 0, 0, 1, 0, 0, 0, 1], &length, &block].concat();
    let files: [(u8, &[u8]); 5] = [(0, plain), (0, plain), (1, gz), (1, &own_gz), (2, &snappy)];
    files.map(|(kind, bytes)| [&[kind], bytes].concat()).into()
}
