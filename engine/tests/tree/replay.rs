//! The replay of many records at once is the application of one after the other.

use crate::world::*;
use engine::{Applier, Audience, Crew, Identity, Settled, Tree, TreeConfig};
use proto::client::ReadOp;
use proto::txn::{CreateTxnKind, RecordBatch, Txn};
use proto::{ConnId, Zxid, acl};
use std::sync::Arc;

struct Threads(usize);

impl Crew for Threads {
    fn size(&self) -> usize {
        self.0
    }
    fn run(&self, work: &(dyn Fn(usize) + Sync)) {
        std::thread::scope(|s| (0..self.0).for_each(|n| _ = s.spawn(move || work(n))));
    }
}

struct Nobody;

impl Audience for Nobody {
    fn deliver(&self, _: ConnId, _: &[u8]) {}
    fn identity(&self, _: ConnId) -> Option<Arc<Identity>> {
        None
    }
}

struct Chance(u64);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

fn config(shards: usize) -> TreeConfig {
    TreeConfig { shards, extended_types: true, ..TreeConfig::default() }
}

/// Any txn about few paths: what fits, what is there already, what lacks its parent.
fn any_txn<'a>(chance: &mut Chance, paths: &'a [String], lists: &'a [Vec<u8>], in_multi: bool) -> Txn<'a> {
    let path: &'a str = &paths[chance.below(paths.len() as u64) as usize];
    let acl = match chance.below(3) {
        0 => as_acl(&lists[chance.below(lists.len() as u64) as usize]),
        _ => acl::OPEN,
    };
    let data: Option<&'static [u8]> =
        [None, Some(&b""[..]), Some(b"x"), Some(&[9; 40])][chance.below(4) as usize];
    let version = chance.below(5) as i32;
    match chance.below(if in_multi { 20 } else { 30 }) {
        0..8 => {
            let kind = match chance.below(8) {
                0 => CreateTxnKind::Container,
                1 => CreateTxnKind::Ttl(50),
                2..4 => CreateTxnKind::Create2,
                _ => CreateTxnKind::Create,
            };
            let plain = matches!(kind, CreateTxnKind::Create | CreateTxnKind::Create2);
            let ephemeral = plain && chance.one_in(4);
            create_as(kind, path, data, acl, ephemeral, chance.below(60) as i32 - 1)
        }
        8..13 => Txn::Delete { path: path.into(), container: chance.one_in(5) },
        13..17 => Txn::SetData { path: path.into(), data, version, reconfig: false },
        17 => Txn::SetAcl { path: path.into(), acl, aversion: version },
        18 => Txn::Check { path: path.into(), version },
        19 if in_multi => Txn::SetData { path: "".into(), data, version, reconfig: false },
        19 => Txn::Error { code: -101 },
        20..22 => Txn::CreateSession { timeout_ms: version * 1000 },
        22 if chance.one_in(4) => Txn::CloseSession { paths: None },
        _ => {
            let mut txns: Vec<Txn<'a>> =
                (0..chance.below(6)).map(|_| any_txn(chance, paths, lists, true)).collect();
            if chance.one_in(6) {
                txns.push(Txn::Error { code: -110 });
            }
            Txn::Multi(txns)
        }
    }
}

/// Everything that can be seen of a tree.
fn everything(tree: &Tree) -> impl PartialEq + std::fmt::Debug + use<> {
    let mut containers = tree.due_containers(proto::WallMs(i64::MAX), 1, 1000);
    containers.sort_unstable();
    let links = tree.check_links().map_err(|e| match e {
        engine::LinkError::Orphan { count, .. } => count,
        _ => 0,
    });
    let counts = (tree.stats().znodes, tree.stats().data_bytes, tree.digest_mismatches());
    (dump(tree), tree.applied_digest(), counts, tree.digest_log(), containers, links)
}

fn replay(applier: &mut Applier, records: &[Vec<u8>], from: u64, each: usize, crew: &dyn Crew) {
    let mut replay = applier.replay(crew);
    for (n, records) in records.chunks(each).enumerate() {
        let mut batch = RecordBatch::new();
        for (i, record) in records.iter().enumerate() {
            let zxid = Zxid::from_u64(from + (n * each + i) as u64);
            batch.push_with(zxid, |out| out.extend_from_slice(record));
        }
        replay.apply(&batch).unwrap();
    }
}

#[test]
fn rounds_end_where_one_after_the_other_does() {
    let seeds = std::env::var("MODEL_SEEDS").map_or(60, |n| n.parse::<u64>().expect("a number"));
    for seed in 0..seeds {
        let mut chance = Chance(seed);
        let mut paths: Vec<String> = Vec::new();
        for top in ["", "/a", "/b", "/b/c", "/zookeeper"] {
            paths.extend((0..6).map(|n| format!("{top}/{n}")));
        }
        paths.extend(["/a", "/b", "/b/c", "/a/0/1", "/a/0/1/2", "/", "", "x"].map(str::to_owned));
        if seed % 4 == 0 {
            paths.extend(["/zookeeper/quota/a", "/zookeeper/quota/a/zookeeper_limits"].map(str::to_owned));
            paths.push("/zookeeper/quota/a/zookeeper_stats".to_owned());
        }
        let lists = [list(31, "digest", "u:h"), list(1, "ip", "10.0.0.1")];
        let mut one = World::with(config(8));
        let mut records = Vec::new();
        let bad = chance.below(600);
        for zxid in 1..600 {
            one.session = 1 + chance.below(3) as i64;
            one.time += 1;
            let txn = any_txn(&mut chance, &paths, &lists, false);
            let plain = one.encode(zxid, txn.clone(), None);
            one.apply(&plain);
            // What the applier before came to must be what each later one comes to.
            let digest = one.tree.digest() + i64::from(zxid == bad);
            records.push(one.encode(zxid, txn, Some(digest)));
        }
        for (shards, workers, each) in [(8, 1, 600), (8, 2, 600), (1, 3, 200), (64, 4, 100), (8, 2, 20)] {
            let run = |crew: Option<&dyn Crew>| {
                let (tree, mut applier) = engine::new(config(shards));
                match crew {
                    Some(crew) => replay(&mut applier, &records, 1, each, crew),
                    None => {
                        for r in &records {
                            applier.apply(r, &Nobody, &mut |_, _| {}).unwrap();
                        }
                    }
                }
                everything(&tree)
            };
            let wanted = run(None);
            assert!(run(Some(&InTurn(workers))) == wanted, "seed {seed}, {workers} in turn, {each} at once");
            assert!(run(Some(&Threads(workers))) == wanted, "seed {seed}, {workers} threads, {each} at once");
        }

        // Over a fuzzy walk: the state of some moment with all that happened since the one before it coming again.
        let (half, quarter) = (records.len() / 2, records.len() / 4);
        let (tree, mut applier) = engine::new(config(8));
        records[..half].iter().for_each(|r| applier.apply(r, &Nobody, &mut |_, _| {}).unwrap());
        let (parts, (end, digest)) = walk(&tree, 1 << 16);
        let from = quarter as u64 + 1;
        let over = |crew: &dyn Crew| {
            let (tree, mut applier) = engine::new(config(8));
            let settled = Settled { zxid: end, digest: Some(digest) };
            import(&mut applier, &parts, Zxid::from_u64(from - 1), Some(settled));
            replay(&mut applier, &records[quarter..], from, 150, crew);
            everything(&tree)
        };
        let wanted = over(&InTurn(1));
        assert!(over(&InTurn(3)) == wanted, "seed {seed}, over a fuzzy walk");
    }
}

#[test]
fn a_round_stops_at_bytes_that_are_no_record() {
    let mut w = World::new();
    let mut records: Vec<Vec<u8>> =
        (1..200).map(|n| w.encode(n, create(&format!("/n{n}"), n as i32), None)).collect();
    records[149].truncate(50);
    let mut batch = RecordBatch::new();
    for (n, record) in records.iter().enumerate() {
        batch.push_with(Zxid::from_u64(n as u64 + 1), |out| out.extend_from_slice(record));
    }
    let refused = w.applier.replay(&InTurn(2)).apply(&batch);
    assert!(refused.is_err());
    assert_eq!(
        w.tree.applied(),
        Zxid::from_u64(149),
        "what stood before it is applied, as one after the other"
    );
    w.check();
}

#[test]
fn watches_fire_as_ever() {
    let mut w = World::new();
    w.create("/a");
    let watch = ReadOp::Exists { path: "/a/n60".into(), watch: true };
    w.read(1, &watch);
    assert_eq!(w.tree.watch_summary().watches, 1);
    let mut batch = RecordBatch::new();
    for n in 2..100 {
        let record = w.encode(n, create(&format!("/a/n{n}"), n as i32), None);
        batch.push_with(Zxid::from_u64(n), |out| out.extend_from_slice(&record));
    }
    w.applier.replay(&InTurn(2)).apply(&batch).unwrap();
    assert_eq!(w.tree.watch_summary().watches, 0);
    w.check();
}
