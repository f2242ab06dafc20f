//! One file: golden bytes, round trips, damage of every sort.

mod state;

use proto::{WallMs, Zxid};
use snapshot::format::{CHUNK_HEAD_LEN, Codec, FOOTER_LEN, HEADER_LEN, NO_CLUSTER};
use snapshot::limits::{CHUNK_RAW_MAX, CHUNK_RAW_TARGET};
use snapshot::{Damage, Error, Header, Kind, LoadError, Snapshot, Writer};
use state::{
    CLUSTER, Random, header, hex, load, names, parts, put_file, read_file, records, records_of, write,
};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use vfs::Dir;
use vfs::mem::Disk;

fn dir() -> Arc<dyn Dir> {
    Disk::new().dir("snapshot")
}

/// A file as it could be found: opened and read through.
fn verify_bytes(bytes: &[u8], name: &str) -> Result<(), Error> {
    let dir = dir();
    put_file(&*dir, name, bytes);
    let snapshot = Snapshot::open(&*dir, name, Some(CLUSTER))?;
    let (at_once, paced) = (snapshot.verify(1), snapshot.verify_paced(&mut |_| {}));
    let told = |r: &Result<(), Error>| r.as_ref().err().map(ToString::to_string);
    assert_eq!(told(&at_once), told(&paced));
    at_once
}

fn bytes_of(start: u64, nodes: usize) -> Vec<u8> {
    let dir = dir();
    let entry = write(&dir, start, start + 5, &parts(start, nodes, 7)).unwrap();
    read_file(&*dir, entry.name())
}

#[test]
fn a_whole_file_is_these_bytes() {
    let dir = dir();
    // One session: too small to compress, so that the bytes do not depend on a compressor.
    let entry = write(
        &dir,
        0x1_0000_0009,
        0x1_0000_000c,
        &[(Kind::Sessions, 1, b"\0\0\0\0\0\0\0\x05\0\0\x17\x70".to_vec())],
    );
    let golden = "\
        464c434e534e4150 00000001 00000000 636c7573746572206f66207465737473 0000000000000003 0000000100000009 \
        00000000000003e8 00000000 595ef993 \
        43484e4b 00000000 01 00 0000 00000001 0000000c 0000000c c7040888 ddb5d98a \
        0000000000000005 00001770 \
        464c434e464f4f54 00000001 00000002 0000000000000001 0000000000000000 0000000000000000 \
        000000000000000c 000000000000000c 0000000100000009 000000010000000c 000000000000004d 00000000000007d0 \
        000000000000000000000000000000000000000000000000 7d936037 3883ecfc";
    assert_eq!(hex(&read_file(&*dir, entry.unwrap().name())), golden.replace(' ', ""));
}

#[test]
fn a_file_of_version_1_is_still_read() {
    let bytes = include_bytes!("data/version-1/snapshot.7");
    let dir = dir();
    put_file(&*dir, "snapshot.7", bytes);
    let snapshot = Snapshot::open(&*dir, "snapshot.7", Some(CLUSTER)).unwrap();
    assert!(snapshot.chunks().unwrap().iter().any(|(head, _)| head.codec == Codec::Zstd));
    let loaded = load(&snapshot, 2).unwrap();
    let written = parts(7, 60, 7);
    assert_eq!(records(Kind::Nodes, &loaded[&(Kind::Nodes as u8)].1), records_of(Kind::Nodes, &written));
    assert_eq!((snapshot.footer().end, snapshot.footer().ended), (Zxid::from_u64(12), WallMs(2000)));
}

#[test]
fn what_was_written_is_loaded_by_any_number_of_workers() {
    for (nodes, per_part) in [(0, 1), (1, 1), (40, 1), (3000, 100), (9000, 500)] {
        let dir = dir();
        let written = parts(nodes as u64 + 1, nodes, per_part);
        let entry = write(&dir, 5, 9, &written).unwrap();
        assert_eq!(names(&*dir), ["snapshot.5"]);
        assert_eq!(entry.bytes(), read_file(&*dir, entry.name()).len() as u64);
        let snapshot = Snapshot::open(&*dir, entry.name(), Some(CLUSTER)).unwrap();
        for workers in [0, 1, 2, 8, 1000] {
            let loaded = load(&snapshot, workers).unwrap();
            for kind in [Kind::Sessions, Kind::Acls, Kind::Nodes] {
                let wanted = records_of(kind, &written);
                let (count, pieces) = loaded.get(&(kind as u8)).cloned().unwrap_or_default();
                assert_eq!(count, wanted.len() as u64, "{kind} of {nodes} znodes");
                assert_eq!(records(kind, &pieces), wanted, "{kind} of {nodes} znodes, {workers} workers");
            }
        }
        snapshot.verify(3).unwrap();
        let mut raw = 0;
        snapshot.verify_paced(&mut |bytes| raw += bytes).unwrap();
        assert_eq!(raw, snapshot.footer().raw);
        if nodes == 9000 {
            let chunks = snapshot.chunks().unwrap();
            assert!(chunks.len() > 2, "a large state takes several chunks, so that workers have work");
            assert!(chunks.iter().all(|(head, _)| head.raw as usize <= 2 * CHUNK_RAW_TARGET));
        }
    }
}

#[test]
fn a_value_larger_than_a_chunk_makes_a_chunk_of_its_own() {
    let dir = dir();
    let mut big = Vec::new();
    let data = vec![7; 3 * CHUNK_RAW_TARGET];
    let node = |path: &'static str, data| proto::state::NodeRecord {
        path: path.into(),
        data: Some(data),
        acl: -1,
        stat: Default::default(),
    };
    node("/big", &data).encode(&mut big);
    let mut small = Vec::new();
    node("/a", b"x").encode(&mut small);
    let written = [(Kind::Nodes, 1, small.clone()), (Kind::Nodes, 1, big), (Kind::Nodes, 1, small)];
    let entry = write(&dir, 1, 1, &written).unwrap();
    let snapshot = Snapshot::open(&*dir, entry.name(), None).unwrap();
    let counts: Vec<u32> = snapshot.chunks().unwrap().iter().map(|(head, _)| head.count).collect();
    assert_eq!(counts, [1, 1, 1]);
    snapshot.verify(2).unwrap();
}

#[test]
fn every_cut_is_noticed() {
    let bytes = bytes_of(7, 30);
    verify_bytes(&bytes, "snapshot.7").unwrap();
    for cut in 0..bytes.len() {
        let e = verify_bytes(&bytes[..cut], "snapshot.7").expect_err("a cut file");
        assert!(e.is_damage(), "cut at {cut}: {e}");
    }
    for more in [1, 100, 5000] {
        let longer = [&bytes[..], &vec![0; more]].concat();
        assert!(verify_bytes(&longer, "snapshot.7").unwrap_err().is_damage());
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    let bytes = bytes_of(7, 20);
    for bit in 0..bytes.len() * 8 {
        let mut b = bytes.clone();
        b[bit / 8] ^= 1 << (bit % 8);
        let e = verify_bytes(&b, "snapshot.7").expect_err("a flipped bit");
        assert!(e.is_damage(), "bit {bit}: {e}");
    }
}

/// The file cut into header, chunks, footer.
fn pieces(bytes: &[u8]) -> Vec<Vec<u8>> {
    let dir = dir();
    put_file(&*dir, "x", bytes);
    let snapshot = Snapshot::open(&*dir, "x", None).unwrap();
    let mut pieces = vec![bytes[..HEADER_LEN].to_vec()];
    for (head, at) in snapshot.chunks().unwrap() {
        let at = at as usize;
        pieces.push(bytes[at - CHUNK_HEAD_LEN..at + head.stored as usize].to_vec());
    }
    pieces.push(bytes[bytes.len() - FOOTER_LEN..].to_vec());
    pieces
}

#[test]
fn chunks_cannot_be_moved_dropped_repeated_or_taken_from_elsewhere() {
    // Two parts of the same size in two chunks: only the order tells them apart.
    let dir = dir();
    let block = |fill: u8| {
        let mut bytes = Vec::new();
        let data = vec![fill; CHUNK_RAW_TARGET];
        let stat = Default::default();
        proto::state::NodeRecord { path: "/a".into(), data: Some(&data), acl: -1, stat }.encode(&mut bytes);
        (Kind::Nodes, 1, bytes)
    };
    let make = |start, fills: &[u8]| {
        let written: Vec<_> = fills.iter().map(|&fill| block(fill)).collect();
        let entry = write(&dir, start, start, &written).unwrap();
        pieces(&read_file(&*dir, entry.name()))
    };
    let good = make(7, &[1, 2, 3]);
    let other = make(8, &[1, 2, 3]);
    verify_bytes(&good.concat(), "snapshot.7").unwrap();
    let pick = |order: &[usize]| order.iter().flat_map(|&i| good[i].clone()).collect::<Vec<u8>>();
    for order in [
        &[0, 2, 1, 3, 4][..],
        &[0, 1, 3, 4],
        &[0, 1, 2, 2, 3, 4],
        &[0, 1, 1, 3, 4],
        &[0, 4],
        &[0, 3, 2, 1, 4],
    ] {
        let e = verify_bytes(&pick(order), "snapshot.7").unwrap_err();
        assert!(e.is_damage(), "{order:?}: {e}");
    }
    for replaced in 0..good.len() {
        let mut mixed = good.clone();
        mixed[replaced] = other[replaced].clone();
        let e = verify_bytes(&mixed.concat(), "snapshot.7").unwrap_err();
        assert!(e.is_damage(), "piece {replaced} of another file: {e}");
    }
}

#[test]
fn an_error_says_where_and_what() {
    let mut bytes = bytes_of(7, 20);
    let at = HEADER_LEN + CHUNK_HEAD_LEN + 3;
    bytes[at] ^= 0x10;
    let e = verify_bytes(&bytes, "snapshot.7").unwrap_err();
    assert!(
        matches!(e, Error::Damaged { offset, damage: Damage::Checksum { of: "the chunk", .. }, .. }
            if offset == (HEADER_LEN + CHUNK_HEAD_LEN) as u64),
        "{e}"
    );
    assert!(
        e.to_string()
            .starts_with("snapshot snapshot/snapshot.7 is damaged at byte 96: checksum of the chunk: 0x"),
        "{e}"
    );
}

#[test]
fn the_damage_nearest_to_the_start_is_told_by_any_number_of_workers() {
    let dir = dir();
    let entry = write(&dir, 5, 9, &parts(3, 9000, 500)).unwrap();
    let mut bytes = read_file(&*dir, entry.name());
    let chunks = Snapshot::open(&*dir, entry.name(), None).unwrap().chunks().unwrap();
    let last = chunks.last().unwrap().1;
    bytes[last as usize] ^= 1;
    put_file(&*dir, "snapshot.5", &bytes);
    for workers in [1, 4] {
        let e = Snapshot::open(&*dir, "snapshot.5", None).unwrap().verify(workers).unwrap_err();
        assert!(matches!(e, Error::Damaged { offset, .. } if offset == last), "{e}");
    }
}

#[test]
fn a_name_that_disagrees_with_the_file_and_a_foreign_cluster_are_refused() {
    let bytes = bytes_of(7, 5);
    assert!(verify_bytes(&bytes, "snapshot.8").unwrap_err().is_damage());
    let dir = dir();
    put_file(&*dir, "snapshot.7", &bytes);
    let e = Snapshot::open(&*dir, "snapshot.7", Some([9; 16])).unwrap_err();
    assert!(matches!(e, Error::Foreign { found: CLUSTER, .. }) && !e.is_damage(), "{e}");
    // A server learns its ensemble's id after its first snapshot may have been written, or before.
    Snapshot::open(&*dir, "snapshot.7", Some(NO_CLUSTER)).unwrap();
    let early = Header { cluster: NO_CLUSTER, ..header(8) };
    let writer = Writer::create(dir.clone(), early, state::unpaced()).unwrap();
    writer.finish(Zxid::from_u64(8), None, WallMs(0)).unwrap();
    Snapshot::open(&*dir, "snapshot.8", Some(CLUSTER)).unwrap();
}

#[test]
fn the_pace_hook_hears_of_every_byte_and_can_stop_the_writer() {
    let dir = dir();
    let spent = Arc::new(AtomicU64::new(0));
    let hook = spent.clone();
    let pace = Box::new(move |bytes| {
        hook.fetch_add(bytes, Ordering::Relaxed);
        ControlFlow::Continue(())
    });
    let mut writer = Writer::create(dir.clone(), header(1), pace).unwrap();
    for (kind, count, bytes) in parts(1, 5000, 100) {
        writer.part(kind, count, &bytes).unwrap();
    }
    let entry = writer.finish(Zxid::from_u64(1), None, WallMs(0)).unwrap();
    assert_eq!(spent.load(Ordering::Relaxed), entry.bytes() - (HEADER_LEN + FOOTER_LEN) as u64);

    let mut writer = Writer::create(dir.clone(), header(2), Box::new(|_| ControlFlow::Break(()))).unwrap();
    let stopped =
        parts(1, 9000, 100).iter().find_map(|(kind, count, bytes)| writer.part(*kind, *count, bytes).err());
    assert!(matches!(stopped, Some(Error::Stopped { .. })));
    drop(writer);
    assert_eq!(names(&*dir), ["snapshot.1"], "the temporary file is gone");
}

#[test]
fn a_writer_refuses_disorder_and_parts_beyond_the_bound() {
    let dir = dir();
    let mut writer = Writer::create(dir.clone(), header(1), state::unpaced()).unwrap();
    writer.part(Kind::Acls, 0, b"").unwrap();
    let (_, _, acls) = parts(1, 10, 1).into_iter().find(|(kind, ..)| *kind == Kind::Acls).unwrap();
    writer.part(Kind::Acls, 1, &acls).unwrap();
    let e = writer.part(Kind::Sessions, 1, &[0; 12]).unwrap_err();
    assert!(matches!(e, Error::Order { found: Kind::Sessions, after: Kind::Acls, .. }), "{e}");
    let e = writer.part(Kind::Nodes, 1, &vec![0; CHUNK_RAW_MAX + 1]).unwrap_err();
    assert!(matches!(e, Error::PartTooLarge { max: CHUNK_RAW_MAX, .. }), "{e}");
}

#[test]
fn a_sink_that_refuses_ends_the_load() {
    let dir = dir();
    let entry = write(&dir, 5, 9, &parts(3, 9000, 500)).unwrap();
    let snapshot = Snapshot::open(&*dir, entry.name(), None).unwrap();
    for workers in [1, 4] {
        let calls = AtomicU64::new(0);
        let result = snapshot.load(workers, &|_, _, _| match calls.fetch_add(1, Ordering::Relaxed) {
            2 => Err("full"),
            _ => Ok(()),
        });
        assert!(matches!(result, Err(LoadError::Sink("full"))));
        assert!(calls.load(Ordering::Relaxed) <= 3 + workers as u64, "the others stop too");
    }
}

#[test]
fn counts_that_do_not_match_the_records_are_noticed_by_verify() {
    let dir = dir();
    let (kind, count, bytes) = parts(3, 20, 100).pop().unwrap();
    for wrong in [count - 1, count + 1] {
        let entry = write(&dir, 5, 9, &[(kind, wrong, bytes.clone())]).unwrap();
        let e = Snapshot::open(&*dir, entry.name(), None).unwrap().verify(1).unwrap_err();
        assert!(e.is_damage(), "{e}");
    }
}

/// Puts checksums that are right into a file whose fields are wrong, so that the checks behind the checksums
/// are met.
fn reseal(bytes: &mut [u8]) {
    let put = |bytes: &mut [u8], at: usize, v: u32| bytes[at..at + 4].copy_from_slice(&v.to_be_bytes());
    let number = |bytes: &[u8], at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    if bytes.len() < HEADER_LEN + FOOTER_LEN {
        return;
    }
    let mut chain = crc32c::crc32c(&bytes[..60]);
    put(bytes, 60, chain);
    let footer = bytes.len() - FOOTER_LEN;
    let mut at = HEADER_LEN;
    while at + CHUNK_HEAD_LEN <= footer {
        let payload = at + CHUNK_HEAD_LEN;
        let stored = number(bytes, at + 20) as usize;
        if payload + stored <= footer {
            let crc = crc32c::crc32c(&bytes[payload..payload + stored]);
            put(bytes, at + 24, crc);
        }
        chain = crc32c::crc32c_append(chain, &bytes[at..at + 28]);
        put(bytes, at + 28, chain);
        at = payload.saturating_add(stored);
    }
    let closing = crc32c::crc32c_append(chain, &bytes[footer..footer + 112]);
    put(bytes, footer + 112, closing);
    let own = crc32c::crc32c(&bytes[footer..footer + 116]);
    put(bytes, footer + 116, own);
}

#[test]
fn a_resealed_file_is_the_same_file() {
    let bytes = bytes_of(7, 60);
    let mut resealed = bytes.clone();
    reseal(&mut resealed);
    assert_eq!(resealed, bytes);
}

#[test]
fn right_checksums_do_not_excuse_wrong_fields() {
    // Two chunks of znodes, so that there is an order and a second of everything.
    let dir = dir();
    let block = |fill: u8| {
        let mut bytes = Vec::new();
        let (data, stat) = (vec![fill; CHUNK_RAW_TARGET], Default::default());
        proto::state::NodeRecord { path: "/a".into(), data: Some(&data), acl: -1, stat }.encode(&mut bytes);
        (Kind::Nodes, 1, bytes)
    };
    let make = |a, b| {
        let entry = write(&dir, 7, 9, &[block(a), block(b)]).unwrap();
        read_file(&*dir, entry.name())
    };
    let good = make(1, 2);
    let footer = good.len() - FOOTER_LEN;
    let first = HEADER_LEN;
    let second = first + pieces(&good)[1].len();
    let wrong = |message: &str, changes: &[(usize, u8)]| {
        let mut bytes = good.clone();
        for &(at, v) in changes {
            bytes[at] = v;
        }
        reseal(&mut bytes);
        let e = verify_bytes(&bytes, "snapshot.7").expect_err(message);
        assert!(e.is_damage() && e.to_string().contains(message), "{message}: {e}");
    };
    wrong("reserved byte", &[(13, 1)]);
    wrong("reserved byte", &[(first + 11, 1)]);
    wrong("reserved byte", &[(footer + 90, 1)]);
    wrong("chunk marker", &[(second, b'X')]);
    wrong("chunk index", &[(second + 7, 0)]);
    wrong("kind: 0x3 wanted", &[(first + 8, 4)]);
    wrong("kind, at least that of the chunk before", &[(second + 8, 1), (footer + 23, 1), (footer + 39, 1)]);
    wrong("codec", &[(first + 9, 2)]);
    wrong("stored bytes", &[(first + 9, 0)]);
    wrong("records in a chunk", &[(first + 15, 0)]);
    wrong("uncompressed bytes of a chunk", &[(first + 16, 0xff)]);
    wrong("stored bytes of a chunk", &[(first + 20, 0xff)]);
    wrong("the file ends", &[(second + 22, 0xff)]);
    let (raw_low, raw_of_footer) = (good[first + 19], good[footer + 47]);
    wrong("uncompressed bytes in the footer", &[(footer + 47, raw_of_footer + 1)]);
    wrong("uncompressed bytes: 0x", &[(first + 19, raw_low + 1), (footer + 47, raw_of_footer + 1)]);
    wrong("decompress", &[(first + 19, raw_low - 1), (footer + 47, raw_of_footer - 1)]);
    wrong("znodes in the footer", &[(footer + 39, 3)]);
    wrong("bytes before the footer", &[(footer + 11, 3)]);
    wrong("start zxid in the footer", &[(footer + 63, 8)]);
    wrong("end zxid", &[(footer + 71, 6)]);
    wrong("digest of a tree without one", &[(footer + 15, 0)]);
    // The footer of another file of the same zxid and the same sizes: only the chain tells.
    let other = make(3, 4);
    assert_eq!(other.len(), good.len());
    let mixed = [&good[..footer], &other[footer..]].concat();
    let e = verify_bytes(&mixed, "snapshot.7").unwrap_err();
    assert!(e.to_string().contains("the chain of the whole file"), "{e}");
}

#[test]
fn mutated_files_with_right_checksums_are_refused_or_read_and_never_panic() {
    let good = bytes_of(7, 60);
    let mut random = Random::new(11);
    let mut refused = 0;
    for _ in 0..6000 {
        let mut bytes = good.clone();
        for _ in 0..1 + random.below(3) {
            let at = random.below(bytes.len());
            match random.below(5) {
                0 => bytes[at] = random.next() as u8,
                1 => bytes[at] ^= 1 << random.below(8),
                2 => {
                    // A number of four bytes at its edges.
                    let v = [0, 1, u32::MAX, i32::MAX as u32, CHUNK_RAW_MAX as u32][random.below(5)];
                    let at = at.min(bytes.len() - 4);
                    bytes[at..at + 4].copy_from_slice(&v.to_be_bytes());
                }
                3 => drop(bytes.splice(at..at, std::iter::repeat_n(0xff, 1 + random.below(40)))),
                _ => drop(bytes.drain(at..(at + 1 + random.below(40)).min(bytes.len()))),
            }
            if bytes.len() < 8 {
                break;
            }
        }
        reseal(&mut bytes);
        // Payloads that still decode may pass: with right checksums they are a file that somebody wrote.
        if verify_bytes(&bytes, "snapshot.7").is_err() {
            refused += 1;
        }
    }
    assert!(refused > 3000, "only {refused} of 6000 mutants were refused");
}
