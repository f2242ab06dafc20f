//! Apache's version-2 snapshots: files that real servers wrote, every way to damage them, and the way back.

mod state;

use flate2::Compression as Level;
use flate2::write::GzEncoder;
use proto::jute::{Put, Reader};
use proto::state::NodeRecord;
use proto::{Epoch, Zxid};
use snapshot::apache::{
    self, Candidate, Compression, Export, ImportError, Sections, Start, Summary, TreeDigest, plan_import,
    precheck, read, read_body, read_stream, verify,
};
use snapshot::{Digest, Error, Kind, LoadError};
use state::{Part, Random, hex, names, put_file, read_file};
use std::convert::Infallible;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use vfs::mem::{Disk, Failure};
use vfs::os::OsDir;
use vfs::{Access, Dir};

fn sample(server: &str) -> OsDir {
    OsDir::existing(
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(server).join("version-2"),
    )
    .unwrap()
}

fn mem() -> Arc<dyn Dir> {
    Disk::new().dir("version-2")
}

fn parts_of(dir: &dyn Dir, name: &str) -> Result<(Vec<Part>, Summary), Error> {
    let mut parts = Vec::new();
    let summary = read(dir, name, &mut |kind, count, bytes| {
        parts.push((kind, count, bytes.to_vec()));
        Ok::<(), Infallible>(())
    });
    match summary {
        Ok(summary) => Ok((parts, summary)),
        Err(LoadError::Snapshot(e)) => Err(e),
        Err(LoadError::Sink(never)) => match never {},
    }
}

fn plain(server: &str, name: &str) -> Vec<u8> {
    let bytes = read_file(&sample(server), name);
    if !name.ends_with(".gz") {
        return bytes;
    }
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut plain).unwrap();
    plain
}

fn stream(bytes: &[u8]) -> Result<Summary, Error> {
    read_stream(bytes, "x", &mut |_, _, _| Ok::<(), Infallible>(())).map_err(|e| match e {
        LoadError::Snapshot(e) => e,
        LoadError::Sink(never) => match never {},
    })
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut out = GzEncoder::new(Vec::new(), Level::default());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

/// snappy-java's stream.
fn snappy(bytes: &[u8]) -> Vec<u8> {
    let mut out = [&apache::snappy::MAGIC[..], &[0, 0, 0, 1, 0, 0, 0, 1]].concat();
    for block in bytes.chunks(32 * 1024) {
        let block = snap::raw::Encoder::new().compress_vec(block).unwrap();
        out.extend((block.len() as u32).to_be_bytes());
        out.extend(block);
    }
    out
}

fn z(v: u64) -> Zxid {
    Zxid::from_u64(v)
}

#[test]
fn files_of_real_servers_hold_what_their_servers_held() {
    // Counted with a separate program: sessions, ACLs, znodes, digest zxid, digest, last processed.
    let table = [
        ("zk-3.8.0", "snapshot.0", [0, 1, 4], Some(0), None),
        ("zk-3.8.0", "snapshot.106", [1, 2, 98], None, None),
        ("zk-3.8.0", "snapshot.1a6", [5, 5, 89], None, None),
        ("zk-3.8.0", "snapshot.27a", [5, 5, 89], None, None),
        ("zk-3.9.5", "snapshot.0.gz", [0, 1, 4], Some(0), Some(0)),
        ("zk-3.9.5", "snapshot.c7.gz", [1, 2, 98], Some(0xca), Some(0xca)),
        ("zk-3.9.5", "snapshot.1cc.gz", [5, 5, 89], Some(0x1cc), Some(0x1cc)),
        ("zk-3.9.5", "snapshot.26c.gz", [5, 5, 89], Some(0x26f), Some(0x26f)),
        ("zk-3.9.5", "snapshot.305.gz", [5, 5, 144], Some(0x306), Some(0x306)),
    ];
    for (server, name, counts, digest_zxid, last) in table {
        let dir = sample(server);
        precheck(&dir, name).unwrap();
        let (parts, summary) = parts_of(&dir, name).unwrap();
        let c = summary.counts;
        assert_eq!([c.sessions, c.acls, c.nodes], counts, "{server} {name}");
        assert!(summary.digest.unwrap().digest.is_some_and(|d| d.version == 2), "{server} {name}");
        if let Some(zxid) = digest_zxid {
            assert_eq!(summary.digest.unwrap().zxid, z(zxid), "{server} {name}");
        }
        assert_eq!(summary.last_processed, last.map(z), "{server} {name}");
        for kind in [Kind::Sessions, Kind::Acls, Kind::Nodes] {
            let counted: u64 = parts.iter().filter(|p| p.0 == kind).map(|p| u64::from(p.1)).sum();
            assert_eq!(counted, state::records_of(kind, &parts).len() as u64);
        }
        assert!(parts.is_sorted_by_key(|p| p.0), "sessions, ACLs, znodes");
        assert_eq!(verify(&dir, name).unwrap(), summary);
    }
    let (_, summary) = parts_of(&sample("zk-3.9.5"), "snapshot.305.gz").unwrap();
    let digest = Digest { version: 2, value: 0x42_a1bf_bf2e };
    assert_eq!(summary.digest, Some(TreeDigest { zxid: z(0x306), digest: Some(digest) }));
}

#[test]
fn the_parts_are_the_files_own_bytes() {
    let bytes = plain("zk-3.8.0", "snapshot.27a");
    let (parts, summary) = parts_of(&sample("zk-3.8.0"), "snapshot.27a").unwrap();
    let of = |kind| parts.iter().filter(|p| p.0 == kind).flat_map(|p| p.2.clone()).collect::<Vec<u8>>();
    let mut again = bytes[..16].to_vec();
    again.put_i32(summary.counts.sessions as i32);
    again.extend(of(Kind::Sessions));
    again.put_i32(summary.counts.acls as i32);
    again.extend(of(Kind::Acls));
    again.extend(of(Kind::Nodes));
    assert_eq!(hex(&again), hex(&bytes[..again.len()]));
    assert_eq!(bytes.len() - again.len(), 5 + 13 + 33, "terminator, seal, digest section with its seal");
    let nodes = of(Kind::Nodes);
    let mut r = Reader::new(&nodes);
    assert_eq!(NodeRecord::decode(&mut r).unwrap().path, "");
}

#[test]
fn all_compressions_give_the_same_parts() {
    let dir = mem();
    let bytes = plain("zk-3.9.5", "snapshot.305.gz");
    put_file(&*dir, "snapshot.1", &bytes);
    put_file(&*dir, "snapshot.2.gz", &gz(&bytes));
    put_file(&*dir, "snapshot.3.snappy", &snappy(&bytes));
    // Two gzip members, as some tools make them.
    put_file(&*dir, "snapshot.4.gz", &[gz(&bytes[..1000]), gz(&bytes[1000..])].concat());
    let wanted = parts_of(&*dir, "snapshot.1").unwrap();
    for name in ["snapshot.2.gz", "snapshot.3.snappy", "snapshot.4.gz"] {
        precheck(&*dir, name).unwrap();
        assert_eq!(parts_of(&*dir, name).unwrap(), wanted, "{name}");
    }
}

#[test]
fn a_source_that_gives_byte_by_byte_changes_nothing() {
    struct Slow<'a>(&'a [u8]);
    impl Read for Slow<'_> {
        fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
            let n = self.0.len().min(buf.len()).min(1);
            buf[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }
    let bytes = plain("zk-3.8.0", "snapshot.106");
    let slow = read_stream(Slow(&bytes), "x", &mut |_, _, _| Ok::<(), Infallible>(())).unwrap();
    assert_eq!(slow, stream(&bytes).unwrap());
}

#[test]
fn every_cut_is_noticed_but_at_the_end_of_a_section() {
    for (server, name, whole_at) in
        [("zk-3.8.0", "snapshot.0", vec![33, 0]), ("zk-3.9.5", "snapshot.0.gz", vec![54, 21, 0])]
    {
        let bytes = plain(server, name);
        for cut in 0..=bytes.len() {
            let result = stream(&bytes[..cut]);
            let whole = whole_at.contains(&(bytes.len() - cut));
            assert_eq!(result.is_ok(), whole, "{server} cut at {cut}: {result:?}");
        }
    }
    let gzipped = read_file(&sample("zk-3.9.5"), "snapshot.1cc.gz");
    let dir = mem();
    for cut in 0..gzipped.len() {
        put_file(&*dir, "snapshot.1.gz", &gzipped[..cut]);
        assert!(verify(&*dir, "snapshot.1.gz").unwrap_err().is_damage(), "gzip cut at {cut}");
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    for (server, name) in [("zk-3.8.0", "snapshot.0"), ("zk-3.9.5", "snapshot.0.gz")] {
        let bytes = plain(server, name);
        for bit in 0..bytes.len() * 8 {
            let mut b = bytes.clone();
            b[bit / 8] ^= 1 << (bit % 8);
            assert!(stream(&b).is_err(), "{server} bit {bit}");
        }
    }
}

#[test]
fn optional_sections_are_told_apart_by_their_lengths() {
    let bytes = plain("zk-3.9.5", "snapshot.1cc.gz");
    let body = &bytes[..bytes.len() - 54];
    let sealed = |mut b: Vec<u8>| {
        let sum = simd_adler32::adler32(&&b[..]);
        b.put_i64(i64::from(sum));
        b.put_str("/");
        b
    };
    assert_eq!(stream(body).unwrap().digest, None);
    // Written with digest.enabled=false: only the last-processed section.
    let mut only_last = body.to_vec();
    only_last.put_i64(0x1cd);
    let found = stream(&sealed(only_last)).unwrap();
    assert_eq!((found.digest, found.last_processed), (None, Some(z(0x1cd))));
    // An old formula, whose digest is text.
    let mut old = body.to_vec();
    old.put_i64(5);
    old.put_i32(1);
    old.put_str("12ab");
    let found = stream(&sealed(old.clone())).unwrap();
    assert_eq!(found.digest, Some(TreeDigest { zxid: z(5), digest: None }));
    let mut both = sealed(old);
    both.put_i64(9);
    assert_eq!(stream(&sealed(both)).unwrap().last_processed, Some(z(9)));
    assert!(stream(&[&bytes[..], b"more"].concat()).is_err());
}

#[test]
fn the_body_alone_is_what_a_leader_sends() {
    let bytes = plain("zk-3.8.0", "snapshot.27a");
    let body = &bytes[16..bytes.len() - 13 - 33];
    let sent = [body, b"\0\0\0\x0aBenWasHere", b"next packet"].concat();
    let (counts, behind) =
        read_body(&sent[..], "(from the leader)", &mut |_, _, _| Ok::<(), Infallible>(())).unwrap();
    assert_eq!((counts.sessions, counts.acls, counts.nodes), (5, 5, 89));
    assert_eq!(behind, b"\0\0\0\x0aBenWasHerenext packet");
}

/// An uncompressed snapshot with these znode records, rightly sealed.
fn with_nodes(nodes: &[u8]) -> Vec<u8> {
    let mut b = b"ZKSN\0\0\0\x02\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0\0\0\0\0".to_vec();
    b.extend(nodes);
    b.put_str("/");
    let sum = simd_adler32::adler32(&&b[..]);
    b.put_i64(i64::from(sum));
    b.put_str("/");
    b
}

fn node(path: &[u8]) -> Vec<u8> {
    let mut b = Vec::new();
    b.put_buffer(Some(path));
    b.put_buffer(None);
    b.put_i64(-1);
    b.extend([0; 60]);
    b
}

#[test]
fn the_rules_of_the_node_list() {
    let check = |paths: &[&[u8]]| {
        let nodes: Vec<u8> = paths.iter().flat_map(|path| node(path)).collect();
        stream(&with_nodes(&nodes)).map(|s| s.counts.nodes).map_err(|e| e.to_string())
    };
    assert_eq!(check(&[b"", b"/a", b"/a/b"]), Ok(3));
    for (wrong, rule) in [
        (&[&b"/a"[..]][..], "before the root"),
        (&[], "before the root"),
        (&[b"", b"/a", b""], "twice"),
        (&[b"", b"a"], "start with /"),
        (&[b"", b"/a/"], "ends with /"),
    ] {
        let e = check(wrong).unwrap_err();
        assert!(e.contains(rule), "{wrong:?}: {e}");
    }
}

#[test]
fn surrogate_pairs_in_paths_become_characters() {
    let nodes = [node(b""), node(b"/\xed\xa0\xbd\xed\xb8\x80"), node(b"/\xc3\xa9")].concat();
    let mut found = Vec::new();
    let mut sink = |_, _, bytes: &[u8]| {
        let mut r = Reader::new(bytes);
        while r.remaining() > 0 {
            found.push(NodeRecord::decode(&mut r).unwrap().path.into_owned());
        }
        Ok::<(), Infallible>(())
    };
    read_stream(&with_nodes(&nodes)[..], "x", &mut sink).unwrap();
    assert_eq!(found, ["", "/\u{1f600}", "/é"]);
}

#[test]
fn the_quick_check_is_apaches() {
    let dir = mem();
    let refuse = |name: &str, bytes: &[u8]| {
        put_file(&*dir, name, bytes);
        assert!(precheck(&*dir, name).unwrap_err().is_damage(), "{name}");
    };
    refuse("snapshot.1", b"");
    refuse("snapshot.1", b"\0\0\0\0\0\0\0\x01/");
    refuse("snapshot.1", b"0123456789\0\0\0\x01.");
    refuse("snapshot.1.gz", b"\x1f");
    refuse("snapshot.1.gz", b"0123456789\0\0\0\x01/");
    refuse("snapshot.1.snappy", b"\x82SNAPPX\0");
    put_file(&*dir, "snapshot.2", b"01234\0\0\0\x01/");
    precheck(&*dir, "snapshot.2").unwrap();
    assert!(precheck(&*dir, "log.2").is_err());
}

#[test]
fn an_export_is_the_state_that_went_in_and_starts_an_apache() {
    let bytes = plain("zk-3.9.5", "snapshot.305.gz");
    let (parts, summary) = parts_of(&sample("zk-3.9.5"), "snapshot.305.gz").unwrap();
    // As a walk over shards yields them: znodes one by one in no order.
    let mut singles: Vec<Part> = Vec::new();
    for (kind, _, bytes) in &parts {
        for record in state::records(*kind, std::slice::from_ref(bytes)) {
            singles.push((*kind, 1, record));
        }
    }
    singles.reverse();
    let sections = Sections { digest: summary.digest, last_processed: summary.last_processed };
    for compression in [Compression::Plain, Compression::Gzip] {
        let dir = mem();
        let mut export = Export::new();
        for (kind, count, bytes) in &singles {
            export.part(*kind, *count, bytes).unwrap();
        }
        let name = export.write(&*dir, z(0x306), compression, sections).unwrap();
        assert_eq!(name, apache::name_of(z(0x306), compression));
        assert_eq!(names(&*dir), std::slice::from_ref(&name));
        precheck(&*dir, &name).unwrap();
        let (back, summary_back) = parts_of(&*dir, &name).unwrap();
        assert_eq!(summary_back, summary);
        for kind in [Kind::Sessions, Kind::Acls, Kind::Nodes] {
            assert_eq!(state::records_of(kind, &back), state::records_of(kind, &parts));
        }
        // Parents before children.
        let mut seen = std::collections::HashSet::new();
        for (.., bytes) in back.iter().filter(|p| p.0 == Kind::Nodes) {
            let mut r = Reader::new(bytes);
            while r.remaining() > 0 {
                let path = NodeRecord::decode(&mut r).unwrap().path.into_owned();
                let parent = path.rsplit_once('/').map(|(parent, _)| parent.to_owned());
                assert!(parent.is_none_or(|parent| seen.contains(&parent)), "{path} before its parent");
                seen.insert(path);
            }
        }
        if compression == Compression::Plain {
            assert_eq!(read_file(&*dir, &name).len(), bytes.len());
        }
    }
}

#[test]
fn an_export_is_these_bytes() {
    let dir = mem();
    let mut export = Export::new();
    export.part(Kind::Nodes, 2, &[node(b"/a"), node(b"")].concat()).unwrap();
    export.part(Kind::Sessions, 1, b"\0\0\0\0\0\0\0\x05\0\0\x17\x70").unwrap();
    let digest = Some(TreeDigest { zxid: z(9), digest: Some(Digest { version: 2, value: 0x1234 }) });
    let name =
        export.write(&*dir, z(9), Compression::Plain, Sections { digest, last_processed: None }).unwrap();
    let stat = "00".repeat(60);
    let golden = format!(
        "5a4b534e 00000002 ffffffffffffffff 00000001 0000000000000005 00001770 00000000 \
         00000000 ffffffff ffffffffffffffff {stat} 00000002 2f61 ffffffff ffffffffffffffff {stat} 00000001 2f \
         0000000089042278 00000001 2f 0000000000000009 00000002 0000000000001234 000000001f522420 00000001 2f"
    );
    assert_eq!(hex(&read_file(&*dir, &name)), golden.replace(' ', ""));
}

#[test]
fn an_export_that_apache_would_refuse_is_not_written() {
    for (paths, rule) in [
        (&[&b"/a"[..]][..], "no root"),
        (&[], "no root"),
        (&[b"", b"/a/b"], "parent"),
        (&[b"", b"/a", b"/a"], "twice"),
        (&[b"", b"a"], "without /"),
    ] {
        let dir = mem();
        let mut export = Export::new();
        for path in paths {
            export.part(Kind::Nodes, 1, &node(path)).unwrap();
        }
        let e = export.write(&*dir, z(1), Compression::Plain, Sections::default()).unwrap_err();
        assert!(e.to_string().contains(rule), "{paths:?}: {e}");
        assert!(names(&*dir).is_empty());
    }
    assert!(Export::new().part(Kind::Nodes, 2, &node(b"")).is_err());
    assert!(Export::new().part(Kind::Nodes, 1, &[node(b""), vec![0]].concat()).is_err());
    let e = Export::new().write(&*mem(), z(1), Compression::Snappy, Sections::default());
    assert!(e.is_err());
}

#[test]
fn an_export_that_fails_leaves_no_snapshot_behind() {
    for compression in [Compression::Plain, Compression::Gzip] {
        for nth in 0.. {
            let disk = Disk::new();
            let dir = disk.dir("version-2");
            let before = disk.ops();
            disk.fail(nth, Failure::Enospc);
            let mut export = Export::new();
            export.part(Kind::Nodes, 1, &node(b"")).unwrap();
            let result = export.write(&*dir, z(1), compression, Sections::default());
            let reached = disk.ops() > before + nth;
            let after = disk.crash(&mut |_| false).dir("version-2");
            match &result {
                Ok(name) => drop(verify(&*after, name).unwrap()),
                Err(_) => assert!(apache::list_snapshots(&*after).unwrap().is_empty()),
            }
            if !reached {
                result.unwrap();
                break;
            }
        }
    }
}

#[test]
fn a_plan_takes_the_newest_whole_snapshot_and_the_logs_after_it() {
    let dir = mem();
    let logs = Disk::new().dir("version-2");
    for name in ["snapshot.0.gz", "snapshot.c7.gz", "snapshot.1cc.gz", "snapshot.26c.gz", "snapshot.305.gz"] {
        put_file(&*dir, name, &read_file(&sample("zk-3.9.5"), name));
    }
    for log in ["log.1", "log.c9", "log.1ce", "log.26e", "log.307", "log.zz", "log.1ce.bak"] {
        put_file(&*logs, log, b"");
    }
    put_file(&*dir, "currentEpoch", b"0");
    put_file(&*dir, "snapshot.400.tmp", b"half");
    let plan = |trust| plan_import(&*dir, &*logs, trust);
    let log_names = |plan: &apache::ImportPlan| plan.logs.iter().map(|l| l.name.clone()).collect::<Vec<_>>();
    let p = plan(false).unwrap();
    assert!(
        matches!(&p.start, Start::Snapshot(Candidate { zxid, .. }, s) if *zxid == z(0x305) && s.counts.nodes == 144)
    );
    // Apache's own rule takes the log before 307 too: it does not know that 306 is not in it.
    assert_eq!(log_names(&p), ["log.26e", "log.307"]);
    assert_eq!((p.must_reach, p.skipped.len(), p.epochs.current), (z(0x305), 0, Some(Epoch(0))));

    // Damaged behind the quick check, and by it: the next is taken, and the replay must still reach 305.
    let mut torn = read_file(&*dir, "snapshot.305.gz");
    torn.truncate(500);
    put_file(&*dir, "snapshot.305.gz", &torn);
    put_file(&*dir, "snapshot.26c.gz", b"nothing");
    let p = plan(false).unwrap();
    assert!(matches!(&p.start, Start::Snapshot(c, _) if c.name == "snapshot.1cc.gz"));
    assert_eq!(log_names(&p), ["log.c9", "log.1ce", "log.26e", "log.307"]);
    assert_eq!(p.must_reach, z(0x305));
    let skipped: Vec<_> = p.skipped.iter().map(|s| s.start).collect();
    assert_eq!(skipped, [z(0x305), z(0x26c)]);
}

#[test]
fn directories_without_a_whole_snapshot() {
    let empty = mem();
    let nothing = plan_import(&*empty, &*empty, false).unwrap();
    assert_eq!((nothing.start, nothing.logs.len()), (Start::Nothing, 0));
    let logs = mem();
    put_file(&*logs, "log.1", b"");
    let e = plan_import(&*empty, &*logs, false).unwrap_err();
    assert!(matches!(e, ImportError::LogsWithoutSnapshot { logs: 1, .. }), "{e}");
    let trusted = plan_import(&*empty, &*logs, true).unwrap();
    assert_eq!((trusted.start, trusted.logs.len()), (Start::EmptyTree, 1));
    let damaged = mem();
    put_file(&*damaged, "snapshot.5", b"torn");
    assert!(matches!(plan_import(&*damaged, &*empty, true), Err(ImportError::NoneValid { .. })));
    let e = plan_import(&*damaged, &*logs, true).unwrap_err();
    assert!(matches!(&e, ImportError::LogsWithoutSnapshot { skipped, .. } if skipped.len() == 1), "{e}");
    assert!(e.to_string().contains("snapshot.5"), "{e}");
    put_file(&*logs, "acceptedEpoch", b"many");
    assert!(matches!(plan_import(&*logs, &*logs, true), Err(ImportError::Epochs(_))));
}

#[test]
fn an_unreadable_disk_is_not_a_damaged_file() {
    let disk = Disk::new();
    let dir = disk.dir("version-2");
    put_file(&*dir, "snapshot.1.gz", &read_file(&sample("zk-3.9.5"), "snapshot.305.gz"));
    disk.break_sector("version-2", "snapshot.1.gz", 600);
    let e = verify(&*dir, "snapshot.1.gz").unwrap_err();
    assert!(matches!(e, Error::Io { .. }), "{e}");
}

#[test]
fn mutated_files_neither_panic_nor_take_memory_on_their_word() {
    let originals = [
        plain("zk-3.8.0", "snapshot.1a6"),
        plain("zk-3.9.5", "snapshot.0.gz"),
        plain("zk-3.9.5", "snapshot.305.gz"),
    ];
    let dir = mem();
    let mut random = Random::new(3);
    for round in 0..6000 {
        let original = &originals[round % originals.len()];
        let mut bytes = original.clone();
        for _ in 0..1 + random.below(4) {
            // Near the start there are the counts and lengths that matter.
            let range = if random.below(2) == 0 { 200 } else { bytes.len() };
            let at = random.below(range);
            let v: i32 = [0, -1, -2, 1, i32::MAX, i32::MIN, 1 << 20, 1 << 26][random.below(8)];
            match random.below(3) {
                0 => bytes[at] = random.next() as u8,
                1 => bytes[at..at + 4.min(original.len() - at)]
                    .copy_from_slice(&v.to_be_bytes()[..4.min(original.len() - at)]),
                _ => bytes[at] ^= 1 << random.below(8),
            }
        }
        if bytes == *original {
            continue;
        }
        let mut delivered = 0;
        let result = read_stream(&bytes[..], "x", &mut |_, _, part: &[u8]| {
            delivered += part.len();
            Ok::<(), Infallible>(())
        });
        assert!(result.is_err(), "round {round}");
        assert!(delivered <= bytes.len());
        // And through the decompressors, whose own bytes are hurt.
        if round % 10 == 0 {
            for (name, mut packed) in
                [("snapshot.1.gz", gz(original)), ("snapshot.1.snappy", snappy(original))]
            {
                let at = random.below(packed.len());
                packed[at] ^= 1 << random.below(8);
                put_file(&*dir, name, &packed);
                // A flip in gzip's header (name, time, system) changes nothing that is read.
                let _ = verify(&*dir, name);
            }
        }
    }
}

#[test]
fn epoch_files_of_an_export_survive_a_power_cut() {
    let disk = Disk::new();
    let dir = disk.dir("version-2");
    let epochs = apache::Epochs { accepted: Epoch(7), current: Epoch(6) };
    apache::write_epochs(&*dir, epochs).unwrap();
    let after = disk.crash(&mut |_| false).dir("version-2");
    let files = apache::read_epoch_files(&*after).unwrap();
    assert_eq!(files.resolve(Zxid::new(Epoch(6), 1)).unwrap(), epochs);
    assert!(files.resolve(Zxid::new(Epoch(7), 1)).is_err());
    assert_eq!(after.open("currentEpoch", Access::READ).unwrap().len().unwrap(), 1, "no newline, as Apache");
}
