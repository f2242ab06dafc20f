//! Walks and imports: the state goes out and comes in again, whole, fuzzy or broken.

use crate::world::*;
use engine::{ImportError, Importer, LinkError, Settled, TreeConfig, WalkKind};
use proto::jute::Reader;
use proto::state::{AclRecord, NodeRecord, SessionRecord};
use proto::txn::{CreateTxnKind, Txn};
use proto::{Code, SessionId, StatPersisted, WallMs, Zxid, acl};
use std::collections::{BTreeMap, BTreeSet};

fn config(shards: usize) -> TreeConfig {
    TreeConfig { shards, extended_types: true, hash_seed: shards as u64, ..TreeConfig::default() }
}

/// Sessions, lists, owners, quotas.
fn world() -> World {
    let mut w = World::with(config(8));
    for (session, timeout_ms) in [(3, 30), (-9, 90), (7, 70)] {
        w.session = session;
        w.txn(Txn::CreateSession { timeout_ms });
    }
    let (own, other) = (list(31, "digest", "u:h"), list(1, "ip", "10.0.0.1"));
    w.create("/a");
    w.txn(create_as(CreateTxnKind::Create, "/a/own", Some(b"x"), as_acl(&own), false, 1));
    w.txn(create_as(CreateTxnKind::Create2, "/a/null", None, as_acl(&other), false, 2));
    w.txn(create_as(CreateTxnKind::Container, "/c", Some(b""), acl::OPEN, false, 2));
    w.txn(create_as(CreateTxnKind::Ttl(10), "/t", Some(b""), as_acl(&own), false, 3));
    w.txn(ephemeral("/a/e", 3));
    for path in
        ["/zookeeper/quota/a", "/zookeeper/quota/a/zookeeper_limits", "/zookeeper/quota/a/zookeeper_stats"]
    {
        w.create(path);
    }
    w
}

/// More than one batch of an import, with children in few places and in many.
#[test]
fn a_large_state_comes_in_again() {
    let mut paths: Vec<String> = ["/flat", "/deep"].map(str::to_owned).into();
    for n in 0..9000 {
        paths.push(format!("/flat/{n}"));
        if n % 30 == 0 {
            paths.push(format!("/deep/{}", n / 30));
        }
        paths.push(format!("/deep/{}/{n}", n / 30));
    }
    // Checked at the ends: after each of so many txns would take minutes.
    let apply = |w: &mut World, txn| {
        w.zxid += 1;
        w.apply(&w.encode(w.zxid, txn, None));
    };
    let mut w = World::with(config(64));
    let own = list(31, "digest", "u:h");
    for (n, path) in paths.iter().enumerate() {
        let acl = if n % 3 == 0 { as_acl(&own) } else { acl::OPEN };
        let create = create_as(CreateTxnKind::Create, path, Some(path.as_bytes()), acl, false, n as i32);
        apply(&mut w, create);
    }
    w.check();
    let want = dump(&w.tree);
    for shards in [1, 64, 1024] {
        let (parts, end) = walk(&w.tree, 10_000);
        let mut other = World::with(config(shards));
        import(&mut other.applier, &parts, end.0, None);
        assert_eq!(other.tree.check_links(), Ok(()));
        assert_eq!(other.tree.applied_digest(), end);
        assert!(dump(&other.tree) == want, "{shards} shards");
        other.check();
        for path in paths.iter().rev() {
            apply(&mut other, Txn::Delete { path: path.into(), container: false });
        }
        other.check();
        assert_eq!(
            other.tree.stats().znodes,
            World::with(config(1)).tree.stats().znodes,
            "the built-in ones"
        );
    }
}

#[test]
fn what_goes_out_comes_in_again() {
    let w = world();
    let want = dump(&w.tree);
    for (shards, max_bytes) in [(1, 1), (8, 100), (64, 1 << 20)] {
        let (mut parts, end) = walk(&w.tree, max_bytes);
        assert_eq!(end, (Zxid::from_u64(w.zxid), w.tree.digest()));
        // Znodes may come in any order.
        parts.sort_by_key(|(kind, count, bytes)| (*kind == WalkKind::Nodes, *count, bytes.len()));
        let mut other = World::with(config(shards));
        other.create("/left/over");
        other.create("/left");
        import(&mut other.applier, &parts, end.0, None);
        other.check();
        assert_eq!(dump(&other.tree), want);
        assert_eq!(other.tree.applied_digest(), end);
        assert_eq!(other.tree.quota_for("/a/x"), w.tree.quota_for("/a/x"));
        let due = |w: &World| {
            let mut due = w.tree.due_containers(WallMs(i64::MAX), 1, 10);
            due.sort_unstable();
            due
        };
        assert_eq!(due(&other), due(&w));
        // And it works: the imported tree goes on as the other would.
        other.zxid = w.zxid;
        other.session = 7;
        other.txn(close(&["/a/e"]));
        assert_eq!(other.tree.stats().ephemerals, 0);
        assert_eq!(other.data("/zookeeper/quota/a/zookeeper_stats"), Some(b"count=3,bytes=2".to_vec()));
    }
}

#[test]
fn the_records_of_a_walk() {
    let w = world();
    let (mut sessions, mut lists, mut nodes) = (vec![], BTreeMap::new(), BTreeMap::new());
    for (kind, count, bytes) in walk(&w.tree, 64).0 {
        let mut r = Reader::new(&bytes);
        for _ in 0..count {
            match kind {
                WalkKind::Sessions => sessions.push(SessionRecord::decode(&mut r).unwrap()),
                WalkKind::Acls => {
                    let a = AclRecord::decode(&mut r).unwrap();
                    assert!(lists.insert(a.id, a.acl.as_bytes().to_vec()).is_none());
                }
                WalkKind::Nodes => {
                    let n = NodeRecord::decode(&mut r).unwrap();
                    let (path, acl) = (n.path.to_string(), n.acl);
                    assert!(nodes.insert(path, (acl, n.stat)).is_none());
                }
                WalkKind::Done => unreachable!(),
            }
        }
        assert_eq!(r.remaining(), 0);
    }
    assert_eq!(sessions.iter().map(|s| s.session.0).collect::<Vec<_>>(), [-9, 3, 7]);
    assert_eq!(lists.len(), 3);
    assert!(nodes.contains_key("") && !nodes.contains_key("/"), "the root's path is empty");
    let named: BTreeSet<i64> = nodes.values().map(|(acl, _)| *acl).collect();
    assert_eq!(named, lists.keys().copied().chain([-1]).collect());
    assert_eq!(nodes["/a"], (-1, w.stat("/a").unwrap()));
    assert_eq!(lists[&nodes["/a/own"].0], list(31, "digest", "u:h"));
}

fn node(path: &str, acl: i64) -> Vec<u8> {
    let mut out = Vec::new();
    NodeRecord { path: path.into(), data: None, acl, stat: StatPersisted::default() }.encode(&mut out);
    out
}

#[test]
fn states_that_are_no_states() {
    let mut w = World::new();
    let importer = Importer::new(&mut w.applier);
    let error = importer.finish(Zxid::ZERO, None);
    assert_eq!(error, Err(ImportError::NoRoot));

    let importer = Importer::new(&mut w.applier);
    let record = node("/a", -1);
    for cut in 0..record.len() {
        let error = importer.nodes(&record[..cut], 1);
        assert!(
            matches!(error, Err(ImportError::Undecodable { kind: WalkKind::Nodes, record: 0, .. })),
            "{cut}"
        );
    }
    let surplus = importer.nodes(&record, 0);
    assert_eq!(surplus, Err(ImportError::Surplus { kind: WalkKind::Nodes, bytes: record.len() }));
    assert!(importer.sessions(&[1; 11], 1).is_err() && importer.acls(&[0; 9], 1).is_err());

    let nodes = |w: &mut World, records: &[Vec<u8>]| {
        let importer = Importer::new(&mut w.applier);
        importer.nodes(&records.concat(), records.len() as u64).unwrap();
        importer.finish(Zxid::ZERO, None).unwrap();
    };
    let base = || vec![node("", -1), node("/zookeeper", -1)];
    let with = |more: &[Vec<u8>]| [base(), more.to_vec()].concat();
    nodes(&mut w, &with(&[node("/a/b", -1), node("/a/c/d", -1)]));
    let error = w.tree.check_links();
    assert!(matches!(&error, Err(LinkError::Orphan { count: 2, .. })), "{error:?}");
    nodes(&mut w, &with(&[node("/a", 5)]));
    assert_eq!(w.tree.check_links(), Err(LinkError::UnknownAcl { count: 1, path: "/a".into() }));
    let (err, _) = w.reply(1, &proto::client::ReadOp::GetData { path: "/a".into(), watch: false });
    assert_eq!(err, Code::NoAuth.wire(), "an unknown list lets nobody in");
    // A state from before the configuration was a znode.
    nodes(&mut w, &base());
    w.check();
    assert_eq!(w.acl("/zookeeper/config"), acl::WORLD_READ.as_bytes());
}

#[test]
fn replay_brings_orphans_home() {
    // A walk that met /p/c before it was removed, and /p only after that; and /q/c after it was made, /q before.
    let mut w = World::new();
    let importer = Importer::new(&mut w.applier);
    let records = [node("", -1), node("/zookeeper", -1), node("/p/c", -1), node("/q/c", 77)];
    importer.nodes(&records.concat(), 4).unwrap();
    let settled = Some(Settled { zxid: Zxid::from_u64(6), digest: None });
    importer.finish(Zxid::from_u64(1), settled).unwrap();
    w.apply(&w.encode(2, delete("/p/c"), Some(-1)));
    w.apply(&w.encode(3, delete("/p"), Some(-1)));
    w.apply(&w.encode(4, create("/q", 2), Some(-1)));
    assert!(matches!(w.tree.check_links(), Err(LinkError::Orphan { count: 1, .. })));
    w.apply(&w.encode(5, create_as(CreateTxnKind::Create2, "/q/c", None, acl::OPEN, false, 1), Some(-1)));
    w.check();
    assert!(w.stat("/p/c").is_none());
    assert_eq!(w.stat("/q").map(|s| (s.cversion, s.pzxid)), Some((1, 5)));
    assert_eq!(w.tree.digest_mismatches(), 0, "nothing is compared while the state is fuzzy");
    w.apply(&w.encode(6, Txn::Error { code: -101 }, None));
    w.apply(&w.encode(7, create("/r", 3), Some(-1)));
    assert_eq!(w.tree.digest_mismatches(), 1);
}

#[test]
fn the_digest_at_the_end_of_the_fuzziness_is_compared() {
    let w = world();
    let (parts, (end, digest)) = walk(&w.tree, 1000);
    for (wanted, at, mismatches) in [(digest, 0, 0), (digest + 1, 0, 1), (digest, 1, 0), (digest + 1, 1, 1)] {
        let mut other = World::with(config(4));
        let settled = Settled { zxid: Zxid::from_u64(end.as_u64() + at), digest: Some(wanted) };
        import(&mut other.applier, &parts, end, Some(settled));
        other.apply(&other.encode(end.as_u64() + 1, Txn::Error { code: -101 }, None));
        assert_eq!(other.tree.digest_mismatches(), mismatches, "{settled:?}");
    }
}

/// A small generator of chance (xorshift).
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// A record that prepare could have written: it succeeds, and says so correctly.
fn random_record(w: &mut World, chance: &mut Chance, lists: &[Vec<u8>]) -> Vec<u8> {
    w.zxid += 1;
    w.time += 1;
    w.session = chance.below(4) as i64 + 1;
    let mut planned: BTreeMap<String, Option<(i32, usize, i64)>> = BTreeMap::new();
    // (cversion, children, owner) as planned in this record or else as it stands.
    let look = |w: &World, planned: &BTreeMap<String, Option<(i32, usize, i64)>>, path: &str| match planned
        .get(path)
    {
        Some(p) => *p,
        None => w.tree.peek(path, |n| n.map(|n| (n.stat.cversion, n.children, n.stat.ephemeral_owner))),
    };
    let mut txns: Vec<Txn<'static>> = Vec::new();
    let ops = if chance.below(4) == 0 { 1 + chance.below(4) } else { 1 };
    for _ in 0..ops {
        let mut path = String::new();
        for _ in 0..1 + chance.below(3) {
            path.push_str(&format!("/{}", (b'a' + chance.below(4) as u8) as char));
        }
        let parent = proto::path::parent(&path).unwrap().to_owned();
        let (Some(above), here) = (look(w, &planned, &parent), look(w, &planned, &path)) else { continue };
        let acl = as_acl(&lists[chance.below(lists.len() as u64) as usize]);
        // Records outlive this function only as bytes.
        let acl: acl::AclBytes<'static> = as_acl(acl.as_bytes().to_vec().leak());
        match (here, chance.below(6)) {
            (None, _) if above.2 == 0 || above.2 == proto::Owner::CONTAINER => {
                let (kind, ephemeral) = match chance.below(5) {
                    0 => (CreateTxnKind::Create, true),
                    1 => (CreateTxnKind::Create2, false),
                    2 => (CreateTxnKind::Container, false),
                    _ => (CreateTxnKind::Create, false),
                };
                let owner = match kind {
                    CreateTxnKind::Container => proto::Owner::CONTAINER,
                    _ if ephemeral => w.session,
                    _ => 0,
                };
                planned.insert(parent, Some((above.0 + 1, above.1 + 1, above.2)));
                planned.insert(path.clone(), Some((0, 0, owner)));
                let data: &'static [u8] = b"0123456789"[..chance.below(10) as usize].as_ref();
                txns.push(Txn::Create {
                    kind,
                    path: path.into(),
                    data: Some(data),
                    acl,
                    ephemeral,
                    parent_cversion: above.0 + 1,
                });
            }
            (Some((_, 0, _)), 0..=2) => {
                planned.insert(parent, Some((above.0, above.1 - 1, above.2)));
                planned.insert(path.clone(), None);
                txns.push(Txn::Delete { path: path.into(), container: false });
            }
            (Some(_), 3) if ops == 1 => {
                let aversion = w.zxid as i32;
                txns.push(Txn::SetAcl { path: path.into(), acl, aversion });
            }
            (Some(_), _) => {
                let version = w.zxid as i32;
                txns.push(Txn::SetData {
                    path: path.into(),
                    data: Some(b"changed"),
                    version,
                    reconfig: false,
                });
            }
            (None, _) => {}
        }
    }
    let txn = match (ops, txns.len()) {
        (1, 1) => txns.pop().unwrap(),
        (1, _) => match chance.below(3) {
            0 => Txn::CreateSession { timeout_ms: w.zxid as i32 },
            1 => {
                let paths = w.tree.ephemerals_of(SessionId(w.session));
                Txn::CloseSession { paths: Some(paths.into_iter().map(|p| String::from(p).into()).collect()) }
            }
            _ => Txn::Error { code: -101 },
        },
        _ => Txn::Multi(txns),
    };
    w.encode(w.zxid, txn, None)
}

/// A tree of a few random records, and where its further ones come from.
fn random_tree(seed: u64, lists: &[Vec<u8>]) -> (World, Chance) {
    let mut chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut w = World::with(config(1 << chance.below(5)));
    for _ in 0..chance.below(200) {
        let record = random_record(&mut w, &mut chance, lists);
        w.apply(&record);
    }
    (w, chance)
}

#[test]
fn replay_over_a_walk_amid_writes_ends_in_the_tree_that_was_walked() {
    let lists = [acl::OPEN.as_bytes().to_vec(), list(31, "digest", "u:h"), list(1, "ip", "10.0.0.1")];
    let mut orphans = 0;
    for seed in 1..=300_u64 {
        let (mut w, mut chance) = random_tree(seed, &lists);
        let mut walk = w.tree.walk();
        let start = walk.start();
        let (mut parts, mut log) = (Parts::new(), Vec::new());
        loop {
            let mut out = Vec::new();
            let part = walk.next(&w.tree, 1 + chance.below(300) as usize, &mut out);
            if part.kind == WalkKind::Done {
                break;
            }
            parts.push((part.kind, part.count, out));
            for _ in 0..chance.below(6) {
                let record = random_record(&mut w, &mut chance, &lists);
                w.apply(&record);
                log.push((w.zxid, record, w.tree.digest()));
            }
        }
        let (end, digest) = walk.end().unwrap();
        let at_end = log.iter().rfind(|(z, ..)| *z <= end.as_u64()).map_or(digest, |(.., d)| *d);
        assert_eq!(digest, at_end, "seed {seed}");
        for _ in 0..20 {
            let record = random_record(&mut w, &mut chance, &lists);
            w.apply(&record);
            log.push((w.zxid, record, w.tree.digest()));
        }
        // The parts come in any order, and the records of a znode that was met twice too.
        for i in (1..parts.len()).rev() {
            let j = chance.below(i as u64 + 1) as usize;
            if parts[i].0 == WalkKind::Nodes && parts[j].0 == WalkKind::Nodes {
                parts.swap(i, j);
            }
        }
        let mut copy = World::with(config(1 << chance.below(5)));
        let settled = Settled { zxid: end, digest: Some(digest) };
        import(&mut copy.applier, &parts, start, Some(settled));
        orphans += u64::from(copy.tree.check_links().is_err());
        for (zxid, record, digest) in &log {
            copy.apply(record);
            if *zxid >= end.as_u64() {
                assert_eq!(copy.tree.digest(), *digest, "seed {seed}, txn {zxid}, the walk ended at {end}");
            }
        }
        copy.check();
        assert_eq!(dump(&copy.tree), dump(&w.tree), "seed {seed}");
        assert_eq!((copy.tree.digest_mismatches(), copy.tree.stats()), (0, w.tree.stats()), "seed {seed}");
    }
    assert!(orphans > 10, "only {orphans} of the walks had to be repaired: they met no writes");
}

#[test]
fn a_tree_that_changes_comes_through_a_stream() {
    let lists = [acl::OPEN.as_bytes().to_vec(), list(31, "digest", "u:h"), list(1, "ip", "10.0.0.1")];
    let (mut fuzzy, mut orphans) = (0, 0);
    for seed in 1..=300_u64 {
        let (mut w, mut chance) = random_tree(seed, &lists);
        let mut walk = w.tree.walk();
        let (start, mut bytes, mut log) = (walk.start(), Vec::new(), Vec::new());
        while walk.next_part(&w.tree, 1 + chance.below(300) as usize, &mut bytes) {
            for _ in 0..chance.below(6) {
                let record = random_record(&mut w, &mut chance, &lists);
                w.apply(&record);
                log.push((w.zxid, record, w.tree.digest()));
            }
        }
        for _ in 0..20 {
            let record = random_record(&mut w, &mut chance, &lists);
            w.apply(&record);
            log.push((w.zxid, record, w.tree.digest()));
        }
        bytes.extend_from_slice(b"what stands behind it");
        let mut copy = World::with(config(1 << chance.below(5)));
        let mut rest = &bytes[..];
        let importer = Importer::new(&mut copy.applier);
        let settled = importer.read(&mut rest, start).unwrap();
        assert_eq!(rest, b"what stands behind it");
        importer.finish(start, Some(settled)).unwrap();
        assert_eq!((copy.tree.applied(), copy.applier.settles_at()), (start, settled.zxid));
        fuzzy += u64::from(settled.zxid > start);
        orphans += u64::from(copy.tree.check_links().is_err());
        for (zxid, record, digest) in &log {
            assert_eq!(
                copy.applier.is_settled(),
                *zxid > settled.zxid.as_u64(),
                "seed {seed}, before {zxid}"
            );
            copy.apply(record);
            if *zxid >= settled.zxid.as_u64() {
                assert_eq!(copy.tree.digest(), *digest, "seed {seed}, txn {zxid}, settled at {settled:?}");
            }
        }
        copy.check();
        assert_eq!(dump(&copy.tree), dump(&w.tree), "seed {seed}: sessions, lists, znodes");
        assert_eq!((copy.tree.digest_mismatches(), copy.tree.stats()), (0, w.tree.stats()), "seed {seed}");
    }
    assert!(fuzzy > 200 && orphans > 10, "{fuzzy} of the walks met writes, {orphans} had to be repaired");
}

#[test]
fn a_tree_that_was_damaged_on_its_way_is_noticed() {
    let mut w = world();
    w.txn(set("/a", b"value", 1));
    let mut walk = w.tree.walk();
    let (start, mut bytes) = (walk.start(), Vec::new());
    while walk.next_part(&w.tree, 200, &mut bytes) {}
    let at = bytes.windows(5).position(|b| b == b"value").unwrap();
    for (data, mismatches) in [(b'v', 0), (b'w', 1)] {
        bytes[at] = data;
        let mut copy = World::with(config(8));
        let importer = Importer::new(&mut copy.applier);
        let settled = importer.read(&mut &bytes[..], start).unwrap();
        importer.finish(start, Some(settled)).unwrap();
        assert_eq!(copy.tree.digest_mismatches(), mismatches);
    }
}

#[test]
fn a_stream_that_is_none() {
    let w = world();
    let mut walk = w.tree.walk();
    let start = walk.start();
    let mut bytes = Vec::new();
    let mut begins = Vec::new();
    loop {
        begins.push(bytes.len());
        if !walk.next_part(&w.tree, 1 << 20, &mut bytes) {
            break;
        }
    }
    let read = |bytes: &[u8], start| {
        let mut other = World::with(config(8));
        let said = Importer::new(&mut other.applier).read(&mut &bytes[..], start).map_err(|e| e.to_string());
        said.map(|settled| (settled.zxid, settled.digest))
    };
    assert_eq!(read(&bytes, start), Ok((start, Some(w.tree.digest()))));
    for cut in 0..bytes.len() {
        assert_eq!(read(&bytes[..cut], start), Err("the tree does not come to its end".to_owned()), "{cut}");
    }
    let changed = |at: usize, to: &[u8]| {
        let mut bytes = bytes.clone();
        bytes[at..at + to.len()].copy_from_slice(to);
        read(&bytes, start).unwrap_err()
    };
    let nodes = *begins.iter().rfind(|&&b| bytes[b] == 2).unwrap();
    for (at, to, why) in [
        (0, &[7][..], "no tree: an unknown kind of part"),
        (1, &[0xff], "no tree: a number is negative"),
        (5, &[0xff], "no tree: a number is negative"),
        (5, &[0x7f], "no tree: a part is too long"),
        (4, &[99], "a part of the tree is not what it says"),
        (nodes, &[0], "no tree: the parts are in no order"),
    ] {
        assert_eq!(changed(at, to), why, "{to:?} at {at}");
    }
    assert_eq!(
        read(&bytes, Zxid::from_u64(start.as_u64() + 1)),
        Err("no tree: it ends before it begins".to_owned())
    );
}
