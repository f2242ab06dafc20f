//! How fast the tree is and how much memory it takes: creates, sets, reads, watches, a walk, an import.
//!
//! `cargo run --release -p engine --example tree_speed [ZNODES]`

#![allow(clippy::disallowed_methods, reason = "a measurement reads the clock")]

use engine::{Applier, Asker, Audience, Identity, Importer, Outbox, Tree, TreeConfig, WalkKind};
use proto::client::{ReadOp, WatcherType};
use proto::txn::{CreateTxnKind, Record, Txn, TxnHeader};
use proto::{ConnId, SessionId, WallMs, Xid, Zxid, acl};
use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

struct Nobody;

impl Audience for Nobody {
    fn deliver(&self, _: ConnId, frame: &[u8]) {
        std::hint::black_box(frame);
    }

    fn identity(&self, _: ConnId) -> Option<Arc<Identity>> {
        None
    }
}

#[derive(Default)]
struct Buffer(RefCell<Vec<u8>>);

impl Outbox for Buffer {
    fn append(&self, fill: &mut dyn FnMut(&mut Vec<u8>)) {
        let mut buffer = self.0.borrow_mut();
        if buffer.len() > 1 << 16 {
            buffer.clear();
        }
        fill(&mut buffer);
    }
}

/// Resident memory in MiB.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap_or_default();
    let kib: f64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0.0);
    kib / 1024.0
}

fn path(i: usize) -> String {
    format!("/services/group/item-{i:09}")
}

fn record(zxid: u64, txn: Txn<'_>) -> Vec<u8> {
    let header = TxnHeader {
        session: SessionId(1),
        cxid: Xid(0),
        zxid: Zxid::from_u64(zxid),
        time: WallMs(1_700_000_000_000),
        kind: txn.kind(),
    };
    let mut out = Vec::new();
    Record { header, txn, digest: None }.encode(&mut out);
    out
}

fn create(zxid: u64, path: &str, data: &[u8], parent_cversion: i32) -> Vec<u8> {
    record(
        zxid,
        Txn::Create {
            kind: CreateTxnKind::Create,
            path: path.into(),
            data: Some(data),
            acl: acl::OPEN,
            ephemeral: false,
            parent_cversion,
        },
    )
}

fn apply(applier: &mut Applier, record: &[u8]) {
    applier.apply(record, &Nobody, &mut |_, r| _ = std::hint::black_box(r)).expect("a record");
}

fn report(what: &str, n: usize, took: Duration, worst: Option<Duration>) {
    let each = took.as_nanos() as f64 / n as f64;
    let worst = worst.map_or(String::new(), |w| format!(", worst {:.0} µs", w.as_nanos() as f64 / 1000.0));
    println!("{what:32} {each:8.0} ns each{worst}; {:.0} MiB resident", resident());
}

fn timed(what: &str, n: usize, mut one: impl FnMut(usize)) {
    let mut worst = Duration::ZERO;
    let start = Instant::now();
    let mut last = start;
    for i in 0..n {
        one(i);
        let now = Instant::now();
        worst = worst.max(now - last);
        last = now;
    }
    report(what, n, last - start, Some(worst));
}

fn read(tree: &Tree, out: &Buffer, conn: u64, op: &ReadOp<'_>) {
    let identity = Identity::default();
    let who = Asker { conn: ConnId(conn), session: SessionId(1), identity: &identity };
    tree.read(op, Xid(1), &who, out);
}

fn main() {
    let n: usize = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(1_000_000);
    let (tree, mut applier) = engine::new(TreeConfig::default());
    println!("{n} znodes of one parent; empty: {:.0} MiB resident", resident());
    apply(&mut applier, &create(1, "/services", b"", 2));
    apply(&mut applier, &create(2, "/services/group", b"", 1));
    let data = [7_u8; 100];
    let shuffled = |i: usize| (i * 7_368_787) % n;

    let (mut took, mut worst) = (Duration::ZERO, Duration::ZERO);
    for from in (0..n).step_by(1000) {
        let make = |i: usize| create(3 + i as u64, &path(i), &data, i as i32 + 1);
        let records: Vec<Vec<u8>> = (from..n.min(from + 1000)).map(make).collect();
        for record in &records {
            let start = Instant::now();
            apply(&mut applier, record);
            let one = start.elapsed();
            worst = worst.max(one);
            took += one;
        }
    }
    report("create", n, took, Some(worst));
    let base = 3 + n as u64;
    for (what, spread) in [("setData, all over", n), ("setData, 1000 hot", 1000)] {
        let sets: Vec<Vec<u8>> = (0..100_000)
            .map(|i| {
                let path = path(shuffled(i) % spread);
                let txn = Txn::SetData { path: path.into(), data: Some(&data), version: 1, reconfig: false };
                record(base + i as u64, txn)
            })
            .collect();
        timed(what, sets.len(), |i| apply(&mut applier, &sets[i]));
    }
    let out = Buffer::default();
    for (what, spread) in [("getData, all over", n), ("getData, 1000 hot", 1000)] {
        let paths: Vec<String> = (0..100_000).map(|i| path(shuffled(i) % spread)).collect();
        let ops: Vec<ReadOp<'_>> =
            paths.iter().map(|p| ReadOp::GetData { path: p.as_str().into(), watch: false }).collect();
        timed(what, ops.len(), |i| read(&tree, &out, 1, &ops[i]));
    }
    let group = ReadOp::GetChildren { path: "/services/group".into(), watch: false };
    timed("getChildren of all", 3, |_| read(&tree, &out, 1, &group));
    *out.0.borrow_mut() = Vec::new();

    let mut walked = Vec::new();
    let mut parts = Vec::new();
    let mut walk = tree.walk();
    let start = Instant::now();
    loop {
        let at = walked.len();
        let part = walk.next(&tree, 1 << 20, &mut walked);
        if part.kind == WalkKind::Done {
            break;
        }
        parts.push((part, at..walked.len()));
    }
    report("walk", n, start.elapsed(), None);
    for threads in [1, 2] {
        let (other, mut importing) = engine::new(TreeConfig::default());
        let before = resident();
        let start = Instant::now();
        let importer = Importer::new(&mut importing);
        let nodes: Vec<_> = parts.iter().filter(|(p, _)| p.kind == WalkKind::Nodes).collect();
        for (part, range) in &parts {
            if part.kind == WalkKind::Acls {
                importer.acls(&walked[range.clone()], part.count).expect("a walk of ours");
            }
        }
        std::thread::scope(|s| {
            for t in 0..threads {
                let (nodes, importer, walked) = (&nodes, &importer, &walked);
                s.spawn(move || {
                    for (part, range) in nodes.iter().skip(t).step_by(threads) {
                        importer.nodes(&walked[range.clone()], part.count).expect("a walk of ours");
                    }
                });
            }
        });
        let loaded = start.elapsed();
        importer.finish(tree.applied(), None).expect("a root");
        println!(
            "import on {threads} threads: {loaded:.0?} for the znodes, {:.0?} in all; {:.0} MiB more",
            start.elapsed(),
            resident() - before
        );
        assert_eq!(other.digest(), tree.digest());
    }
    drop(walked);

    let before = resident();
    let ops: Vec<String> = (0..n).map(path).collect();
    let text = resident();
    timed("one-shot watch, each its path", n, |i| {
        read(&tree, &out, i as u64 % 1000, &ReadOp::GetData { path: ops[i].as_str().into(), watch: true });
    });
    println!("  {:.0} bytes each", (resident() - text) * 1048576.0 / n as f64);
    let kind = WatcherType::Any;
    timed("  dropping 1000 connections", 1000, |i| tree.drop_connection(ConnId(i as u64)));
    read(&tree, &out, 0, &ReadOp::CheckWatches { path: ops[0].as_str().into(), kind });
    println!("  {:.0} MiB left of it", resident() - text);
    let text = resident();
    timed("one-shot watch, 10 paths", n, |i| {
        read(&tree, &out, i as u64, &ReadOp::GetData { path: ops[i % 10].as_str().into(), watch: true });
    });
    println!(
        "  {:.0} bytes each (of {:.0} MiB)",
        (resident() - text) * 1048576.0 / n as f64,
        resident() - before
    );
    let set = Txn::SetData { path: path(0).into(), data: Some(&data), version: 2, reconfig: false };
    let set = record(base + 1_000_000, set);
    timed("  firing those of one path", 1, |_| apply(&mut applier, &set));

    let last = base + 2_000_000;
    timed("delete (with its record)", n, |i| {
        let txn = Txn::Delete { path: path(i).into(), container: false };
        apply(&mut applier, &record(last + i as u64, txn));
    });
}
