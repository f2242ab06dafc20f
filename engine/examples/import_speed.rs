//! How fast a state comes back: the records of a walk go into fresh trees.
//!
//! `cargo run --release -p engine --example import_speed [ZNODES [THREADS [ROUNDS [foreign]]]]`
//!
//! As a server reads its own snapshot, with the key of the tree that was walked; `foreign`: with another key each time,
//! as another server reads it, and with what Apache's order comes to.
//!
//! Half of the znodes have one parent, the others have a parent for every hundred; each has 100 bytes.

#![allow(clippy::disallowed_methods, reason = "a measurement reads the clock")]

use engine::{Crew, Importer, Tree, TreeConfig, WalkKind, WalkPart};
use proto::state::{NodeRecord, OPEN_ACL};
use proto::{StatPersisted, Zxid};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Bytes of records in a chunk of a snapshot.
const CHUNK: usize = 512 * 1024;

struct Threads(usize);

impl Crew for Threads {
    fn size(&self) -> usize {
        self.0
    }
    fn run(&self, work: &(dyn Fn(usize) + Sync)) {
        std::thread::scope(|s| {
            (1..self.0).for_each(|n| _ = s.spawn(move || work(n)));
            work(0);
        });
    }
}

type Parts = Vec<(u64, Vec<u8>)>;

/// The records of a tree in no order at all.
fn stirred(znodes: usize) -> Parts {
    let mut paths: Vec<String> = ["", "/flat", "/deep"].map(str::to_owned).into();
    for n in 0..znodes / 2 {
        paths.push(format!("/flat/item-{n:010}"));
        if n % 100 == 0 {
            paths.push(format!("/deep/group-{:06}", n / 100));
        }
        paths.push(format!("/deep/group-{:06}/item-{:04}", n / 100, n % 100));
    }
    // Stirred, always in the same way.
    let mut chance = 1_u64;
    for n in (1..paths.len()).rev() {
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        paths.swap(n, (chance >> 33) as usize % (n + 1));
    }
    let data: Vec<u8> = (0..100).collect();
    let mut parts = Parts::new();
    let (mut count, mut part) = (0, Vec::new());
    for (n, path) in paths.iter().enumerate() {
        let zxid = n as i64 + 1;
        let stat = StatPersisted { czxid: zxid, mzxid: zxid, pzxid: zxid, ..StatPersisted::default() };
        NodeRecord { path: path.as_str().into(), data: Some(&data), acl: OPEN_ACL, stat }.encode(&mut part);
        count += 1;
        if part.len() >= CHUNK {
            parts.push((std::mem::take(&mut count), std::mem::take(&mut part)));
        }
    }
    parts.push((count, part));
    parts
}

/// A fresh tree with these records.
fn import(parts: &Parts, threads: usize, key: u64) -> (Arc<Tree>, Duration, Duration) {
    let (tree, mut applier) = engine::new(TreeConfig { hash_seed: key, ..TreeConfig::default() });
    let start = Instant::now();
    let importer = Importer::new(&mut applier);
    let next = AtomicUsize::new(0);
    Threads(threads).run(&|_| {
        while let Some((count, part)) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
            importer.nodes(part, *count).expect("records");
        }
    });
    let loaded = start.elapsed();
    importer.finish_with(&Threads(threads), Zxid::from_u64(1 << 40), None).expect("a root");
    (tree, loaded, start.elapsed())
}

fn walked(tree: &Tree) -> Parts {
    let (mut parts, mut walk) = (Vec::new(), tree.walk());
    loop {
        let mut part = Vec::new();
        match walk.next(tree, CHUNK, &mut part) {
            WalkPart { kind: WalkKind::Done, .. } => return parts,
            WalkPart { kind: WalkKind::Nodes, count } => parts.push((count, part)),
            _ => {}
        }
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let arg = |n: usize, or: usize| args.get(n).map_or(or, |a| a.parse().expect("a number"));
    let (znodes, threads, rounds) = (arg(0, 1_000_000), arg(1, 1), arg(2, 5));
    let foreign = args.get(3).is_some_and(|a| a == "foreign");
    let parts = {
        let parts = stirred(znodes);
        if foreign { parts } else { walked(&import(&parts, 1, 0).0) }
    };
    let bytes: usize = parts.iter().map(|(_, part)| part.len()).sum();
    let mut digest = None;
    for round in 0..rounds {
        let key = if foreign { 1 + round as u64 } else { 0 };
        let (tree, loaded, took) = import(&parts, threads, key);
        assert_eq!(*digest.get_or_insert(tree.digest()), tree.digest());
        println!(
            "{} MB on {threads} threads: {loaded:.0?} for the znodes, {took:.0?} in all; {:.0} MB/s for each thread",
            bytes / 1_000_000,
            bytes as f64 / 1e6 / took.as_secs_f64() / threads as f64,
        );
    }
}
