//! States for the tests of this crate: made from a seed, written, collected, compared.
#![allow(dead_code, reason = "each test binary takes what it needs")]

use proto::state::{AclRecord, NodeRecord, OPEN_ACL, SessionRecord};
use proto::{ServerId, SessionId, StatPersisted, WallMs, Zxid, acl};
use snapshot::{Digest, Entry, Error, Header, Kind, Pace, Snapshot, Writer};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use vfs::{Access, Dir};

pub const CLUSTER: [u8; 16] = *b"cluster of tests";

/// xorshift64*, so that a seed is all a failure needs.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// One part as a walk would yield it.
pub type Part = (Kind, u32, Vec<u8>);

/// A state of `nodes` znodes below the root, in parts of up to `per_part` records. Some values are large or
/// do not compress.
pub fn parts(seed: u64, nodes: usize, per_part: usize) -> Vec<Part> {
    let mut random = Random::new(seed);
    let mut records: Vec<(Kind, Vec<u8>)> = Vec::new();
    for n in 0..nodes / 4 {
        let mut bytes = Vec::new();
        SessionRecord { session: SessionId(n as i64 - 2), timeout_ms: 4000 + n as i32 }.encode(&mut bytes);
        records.push((Kind::Sessions, bytes));
    }
    for id in 1..=(nodes as i64 / 10).min(5) {
        let mut bytes = Vec::new();
        AclRecord { id, acl: acl::WORLD_READ }.encode(&mut bytes);
        records.push((Kind::Acls, bytes));
    }
    for n in 0..nodes {
        let path = if n == 0 { String::new() } else { format!("/node-{n:06}") };
        let len = match n % 50 {
            49 => 20_000,
            _ => random.below(200),
        };
        let noise = n % 3 == 0;
        let data: Vec<u8> =
            (0..len).map(|i| if noise { random.next() as u8 } else { i as u8 & 15 }).collect();
        let stat = StatPersisted { czxid: n as i64, mzxid: n as i64 + 1, version: 3, ..Default::default() };
        let acl = if n % 7 == 0 { 1 } else { OPEN_ACL };
        let data = (n % 11 != 5).then_some(&data[..]);
        let mut bytes = Vec::new();
        NodeRecord { path: path.into(), data, acl, stat }.encode(&mut bytes);
        records.push((Kind::Nodes, bytes));
    }
    let mut parts: Vec<Part> = Vec::new();
    for (kind, bytes) in records {
        match parts.last_mut() {
            Some((k, count, all)) if *k == kind && (*count as usize) < per_part => {
                *count += 1;
                all.extend(bytes);
            }
            _ => parts.push((kind, 1, bytes)),
        }
    }
    parts
}

pub fn header(start: u64) -> Header {
    Header { cluster: CLUSTER, server: ServerId(3), start: Zxid::from_u64(start), written: WallMs(1000) }
}

pub fn unpaced() -> Pace {
    Box::new(|_| ControlFlow::Continue(()))
}

/// Writes a snapshot of `parts`.
pub fn write(dir: &Arc<dyn Dir>, start: u64, end: u64, parts: &[Part]) -> Result<Entry, Error> {
    let mut writer = Writer::create(dir.clone(), header(start), unpaced())?;
    for (kind, count, bytes) in parts {
        writer.part(*kind, *count, bytes)?;
    }
    writer.finish(Zxid::from_u64(end), Some(Digest { version: 2, value: 77 }), WallMs(2000))
}

/// By kind: the number of records, the pieces they came in.
pub type Loaded = BTreeMap<u8, (u64, Vec<Vec<u8>>)>;

/// All bytes of each kind with the number of records, the znodes' chunks in the order of their bytes (threads
/// deliver in any order).
pub fn load(snapshot: &Snapshot, workers: usize) -> Result<Loaded, Error> {
    let seen: Mutex<Loaded> = Mutex::default();
    let loaded = snapshot.load(workers, &|kind, count, bytes| {
        let mut seen = seen.lock().unwrap();
        if kind < Kind::Nodes {
            assert!(!seen.contains_key(&(Kind::Nodes as u8)), "{kind} after znodes");
        }
        let (n, all) = seen.entry(kind as u8).or_default();
        *n += u64::from(count);
        all.push(bytes.to_vec());
        Ok::<(), Infallible>(())
    });
    loaded.map_err(|e| match e {
        snapshot::LoadError::Snapshot(e) => e,
        snapshot::LoadError::Sink(never) => match never {},
    })?;
    Ok(seen.into_inner().unwrap())
}

/// The bytes of every record of `kind`, sorted, so that chunks and parts of any size compare.
pub fn records(kind: Kind, pieces: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for piece in pieces {
        let mut r = proto::jute::Reader::new(piece);
        while r.remaining() > 0 {
            let at = r.offset();
            match kind {
                Kind::Sessions => drop(SessionRecord::decode(&mut r).unwrap()),
                Kind::Acls => drop(AclRecord::decode(&mut r).unwrap()),
                Kind::Nodes => drop(NodeRecord::decode(&mut r).unwrap()),
            }
            all.push(r.since(at).to_vec());
        }
    }
    all.sort();
    all
}

/// The records of `kind` in `parts`.
pub fn records_of(kind: Kind, parts: &[Part]) -> Vec<Vec<u8>> {
    let pieces: Vec<Vec<u8>> =
        parts.iter().filter(|(k, ..)| *k == kind).map(|(.., bytes)| bytes.clone()).collect();
    records(kind, &pieces)
}

pub fn read_file(dir: &dyn Dir, name: &str) -> Vec<u8> {
    let file = dir.open(name, Access::READ).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

pub fn put_file(dir: &dyn Dir, name: &str, bytes: &[u8]) {
    let _ = dir.unlink(name);
    let file = dir.create(name, Access::WRITE).unwrap();
    file.write_at(bytes, 0).unwrap();
    file.sync().unwrap();
    dir.sync().unwrap();
}

pub fn names(dir: &dyn Dir) -> Vec<String> {
    dir.list().unwrap().into_iter().map(|entry| entry.name).collect()
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
