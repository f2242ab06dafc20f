//! Races between readers and the applier, under schedules that a checker chooses.
//!
//! `cargo test -p engine --features shuttle --test interleavings`
#![cfg(feature = "shuttle")]

use engine::{Applier, Asker, Audience, Identity, Outbox, Tree, TreeConfig};
use proto::client::{AddWatchMode, EventType, MultiReadOp, ReadOp, WatcherType, put_event_frame};
use proto::jute::Reader;
use proto::txn::{CreateTxnKind, Record, Txn, TxnHeader};
use proto::{ConnId, SessionId, WallMs, Xid, Zxid, acl};
use shuttle::sync::Mutex;
use shuttle::thread;
use std::sync::Arc;

const SCHEDULES: usize = 3000;

/// One connection's buffer: what the client gets, in order.
#[derive(Default)]
struct Line(Mutex<Vec<u8>>);

impl Audience for Line {
    fn deliver(&self, _: ConnId, frame: &[u8]) {
        self.0.lock().unwrap().extend_from_slice(frame);
    }

    fn identity(&self, _: ConnId) -> Option<Arc<Identity>> {
        None
    }
}

impl Outbox for Line {
    fn append(&self, fill: &mut dyn FnMut(&mut Vec<u8>)) {
        fill(&mut self.0.lock().unwrap());
    }
}

impl Line {
    fn frames(&self) -> Vec<Vec<u8>> {
        let bytes = std::mem::take(&mut *self.0.lock().unwrap());
        let mut r = Reader::new(&bytes);
        std::iter::from_fn(|| r.buffer().ok().flatten().map(<[u8]>::to_vec)).collect()
    }
}

fn apply(applier: &mut Applier, zxid: u64, txn: Txn<'_>, audience: &dyn Audience) {
    let header = TxnHeader {
        session: SessionId(7),
        cxid: Xid(1),
        zxid: Zxid::from_u64(zxid),
        time: WallMs(0),
        kind: txn.kind(),
    };
    let mut out = Vec::new();
    Record { header, txn, digest: None }.encode(&mut out);
    applier.apply(&out, audience, &mut |_, _| {}).unwrap();
}

fn create(path: &str, cversion: i32, ephemeral: bool) -> Txn<'_> {
    let (kind, data) = (CreateTxnKind::Create, Some(&b"0"[..]));
    Txn::Create { kind, path: path.into(), data, acl: acl::OPEN, ephemeral, parent_cversion: cversion }
}

fn set<'a>(path: &'a str, data: &'a [u8], version: i32) -> Txn<'a> {
    Txn::SetData { path: path.into(), data: Some(data), version, reconfig: false }
}

fn world(shards: usize) -> (Arc<Tree>, Applier, Arc<Line>) {
    let (tree, mut applier) = engine::new(TreeConfig { shards, ..TreeConfig::default() });
    let line = Arc::new(Line::default());
    for (i, path) in ["/a", "/b"].into_iter().enumerate() {
        apply(&mut applier, i as u64 + 1, create(path, i as i32 + 1, false), &*line);
    }
    (tree, applier, line)
}

fn read(tree: &Tree, line: &Line, op: &ReadOp<'_>) {
    let identity = Identity::default();
    tree.read(op, Xid(9), &Asker { conn: ConnId(1), session: SessionId(7), identity: &identity }, line);
}

fn data(path: &str, watch: bool) -> ReadOp<'_> {
    ReadOp::GetData { path: path.into(), watch }
}

/// The zxid, the error and the body of a reply.
fn reply(frame: &[u8]) -> (i64, i32, &[u8]) {
    let mut r = Reader::new(frame);
    assert_eq!(r.i32().unwrap(), 9, "a reply");
    (r.i64().unwrap(), r.i32().unwrap(), r.rest())
}

/// The first value of a getData body.
fn value(body: &[u8]) -> Vec<u8> {
    Reader::new(body).buffer().unwrap().unwrap().to_vec()
}

fn event(zxid: i64, kind: EventType, path: &str) -> Vec<u8> {
    let mut out = Vec::new();
    put_event_frame(&mut out, zxid, kind, path);
    out.split_off(4)
}

fn both(k: u64) -> Txn<'static> {
    let data: &'static [u8] = [b"1", b"2", b"3"][k as usize - 1];
    Txn::Multi(vec![set("/a", data, k as i32), set("/b", data, k as i32)])
}

#[test]
fn a_multi_read_sees_a_multi_whole_or_not_at_all() {
    shuttle::check_random(
        || {
            let (tree, mut applier, line) = world(4);
            let reader = thread::spawn(move || {
                let op = ReadOp::MultiRead(["/b", "/a"].map(|p| MultiReadOp::GetData(p.into())).into());
                let mut last = 0;
                for _ in 0..2 {
                    read(&tree, &line, &op);
                    let frame = line.frames().pop().unwrap();
                    let (zxid, _, body) = reply(&frame);
                    let one = 9 + 4 + 1 + 68;
                    let (b, a) = (value(&body[9..]), value(&body[one + 9..]));
                    assert_eq!(a, b, "half a multi");
                    let k: i64 = String::from_utf8(a).unwrap().parse().unwrap();
                    assert!(zxid >= k + 2, "the reply's zxid lies before what it shows");
                    assert!(zxid >= last, "time runs backwards");
                    last = zxid;
                }
            });
            let nobody = Line::default();
            for k in 1..=3 {
                apply(&mut applier, k + 2, both(k), &nobody);
            }
            reader.join().unwrap();
        },
        SCHEDULES,
    );
}

#[test]
fn two_reads_that_tell_the_same_zxid_show_the_same_multi() {
    shuttle::check_random(
        || {
            let (tree, mut applier, line) = world(4);
            let reader = thread::spawn(move || {
                read(&tree, &line, &data("/a", false));
                read(&tree, &line, &data("/b", false));
                let frames = line.frames();
                let ((za, _, a), (zb, _, b)) = (reply(&frames[0]), reply(&frames[1]));
                let number = |body| String::from_utf8(value(body)).unwrap().parse::<i64>().unwrap();
                let (a, b) = (number(a), number(b));
                assert!(za >= a + 2 && zb >= b + 2 && zb >= za);
                assert!(b >= a, "/a of multi {a} was seen, and then /b of multi {b}");
                assert!(za != zb || a == b, "the same zxid, two states");
            });
            let nobody = Line::default();
            for k in 1..=3 {
                apply(&mut applier, k + 2, both(k), &nobody);
            }
            reader.join().unwrap();
        },
        SCHEDULES,
    );
}

/// The ways to watch the value of `/a`.
fn watches() -> [ReadOp<'static>; 4] {
    [
        data("/a", true),
        ReadOp::Exists { path: "/a".into(), watch: true },
        ReadOp::AddWatch { path: "/a".into(), mode: AddWatchMode::Persistent },
        ReadOp::AddWatch { path: "/a".into(), mode: AddWatchMode::PersistentRecursive },
    ]
}

#[test]
fn an_event_comes_before_the_reply_that_shows_its_cause_and_none_is_lost() {
    for op in watches() {
        shuttle::check_random(
            move || {
                let (tree, mut applier, line) = world(4);
                let client = {
                    let (line, op) = (Arc::clone(&line), op.clone());
                    thread::spawn(move || {
                        read(&tree, &line, &op);
                        // Another znode of the same txn, so that another lock leads there.
                        read(&tree, &line, &data("/b", false));
                    })
                };
                apply(&mut applier, 3, both(1), &*line);
                client.join().unwrap();
                let frames = line.frames();
                let event = event(3, EventType::NodeDataChanged, "/a");
                let told = frames.iter().position(|f| *f == event);
                let replies: Vec<_> = frames.iter().filter(|f| **f != event).map(|f| reply(f)).collect();
                assert_eq!(replies.len(), 2);
                let (registered, shown) = (replies[0].0, value(replies[1].2));
                // Registered before the change was published: the event must come. After: it must not.
                assert_eq!(told.is_some(), registered < 3, "registered at {registered}");
                if let Some(at) = told {
                    assert!(at > 0, "no event before the watch");
                    assert!(shown == b"0" || at == 1, "the change was shown before it was told");
                }
            },
            SCHEDULES,
        );
    }
}

#[test]
fn ephemerals_are_listed_with_their_events() {
    shuttle::check_random(
        || {
            let (tree, mut applier, line) = world(4);
            read(&tree, &line, &ReadOp::GetChildren { path: "/a".into(), watch: true });
            line.frames();
            let client = {
                let (line, tree) = (Arc::clone(&line), Arc::clone(&tree));
                thread::spawn(move || read(&tree, &line, &ReadOp::GetEphemerals { prefix: "".into() }))
            };
            let txn = Txn::Multi(vec![create("/a/e", 1, true), create("/b/e", 1, true)]);
            apply(&mut applier, 3, txn, &*line);
            client.join().unwrap();
            let frames = line.frames();
            let event = event(3, EventType::NodeChildrenChanged, "/a");
            let told = frames.iter().position(|f| *f == event).expect("the watch fires");
            let asked = 1 - told;
            let (zxid, _, body) = reply(&frames[asked]);
            let listed = Reader::new(body).strings().unwrap().unwrap().len();
            assert_eq!((zxid, listed), if asked < told { (2, 0) } else { (3, 2) });
        },
        SCHEDULES,
    );
}

#[test]
fn after_a_removal_no_event_follows() {
    for (i, op) in watches().into_iter().enumerate() {
        shuttle::check_random(
            move || {
                let (tree, mut applier, line) = world(2);
                read(&tree, &line, &op);
                line.frames();
                let client = {
                    let line = Arc::clone(&line);
                    let remove = ReadOp::RemoveWatches { path: "/a".into(), kind: WatcherType::Any };
                    thread::spawn(move || read(&tree, &line, &remove))
                };
                apply(&mut applier, 3, both(1), &*line);
                client.join().unwrap();
                let frames = line.frames();
                let last = reply(frames.last().expect("the reply comes last"));
                // An event before it means that the change came first, and a one-shot watch was gone then.
                assert_eq!(frames.len() > 1, last.0 == 3);
                assert_eq!(last.1 != 0, frames.len() > 1 && i < 2);
            },
            SCHEDULES,
        );
    }
}

#[test]
fn the_end_of_a_connection_leaves_no_watch() {
    shuttle::check_random(
        || {
            let (tree, mut applier, line) = world(2);
            watches().iter().for_each(|op| read(&tree, &line, op));
            let end = {
                let tree = Arc::clone(&tree);
                thread::spawn(move || tree.drop_connection(ConnId(1)))
            };
            apply(&mut applier, 3, both(1), &*line);
            end.join().unwrap();
            assert_eq!(tree.stats().watches, 0);
            line.frames();
            apply(&mut applier, 4, both(2), &*line);
            assert!(line.frames().is_empty());
        },
        SCHEDULES,
    );
}

#[test]
fn what_a_walk_shows_lies_between_its_start_and_its_end() {
    shuttle::check_random(
        || {
            let (tree, mut applier, line) = world(2);
            let walker = {
                let tree = Arc::clone(&tree);
                thread::spawn(move || {
                    let mut walk = tree.walk();
                    let mut out = Vec::new();
                    let mut latest = 0;
                    while walk.end().is_none() {
                        out.clear();
                        let part = walk.next(&tree, 1, &mut out);
                        if part.kind == engine::WalkKind::Nodes {
                            let mut r = Reader::new(&out);
                            for _ in 0..part.count {
                                let node = proto::state::NodeRecord::decode(&mut r).unwrap();
                                latest = latest.max(node.stat.mzxid);
                            }
                        }
                    }
                    let end = walk.end().unwrap().0;
                    assert!(end >= walk.start() && end.to_wire() >= latest, "{latest} after {end}");
                })
            };
            for k in 1..=3 {
                apply(&mut applier, k + 2, both(k), &*line);
            }
            walker.join().unwrap();
        },
        SCHEDULES,
    );
}
