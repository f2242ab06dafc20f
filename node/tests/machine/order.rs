//! The order of one connection, and syncs.

use crate::world::*;
use proto::client::OpCode;

fn xids(seen: &[Seen]) -> Vec<i32> {
    let xid = |s: &Seen| match s {
        Seen::Written { xid, .. } | Seen::Read { xid, .. } => Some(*xid),
        _ => None,
    };
    seen.iter().filter_map(xid).collect()
}

#[test]
fn pipelined_reads_see_the_writes_before_them_and_none_behind() {
    let mut w = World::new();
    let (c, _) = w.connect(10_000);
    w.done(c, OpCode::Create, &create("/p", b"0", 0)).unwrap();
    w.seen(c);
    for i in 0..50 {
        w.write(c, 2 * i, OpCode::SetData, &set("/p", &i.to_be_bytes()));
        w.read(c, 2 * i + 1, OpCode::GetData, &look("/p", false));
        if i % 7 == 0 {
            w.flush();
        }
    }
    assert_eq!(w.seen(c), [], "the first read waits for the first write");
    w.persist();
    let seen = w.seen(c);
    assert_eq!(xids(&seen), (0..100).collect::<Vec<_>>());
    let mut last = 0;
    for s in seen {
        let zxid = match s {
            Seen::Read { xid, zxid, body, .. } => {
                assert_eq!(value(&body), (xid / 2).to_be_bytes());
                zxid
            }
            Seen::Written { zxid, .. } => zxid.to_wire(),
            other => panic!("{other:?}"),
        };
        assert!(zxid >= last);
        last = zxid;
    }
}

#[test]
fn pipelined_writes_see_each_other_before_they_are_durable() {
    let mut w = World::new();
    let (c, _) = w.connect(10_000);
    w.seen(c);
    w.write(c, 1, OpCode::Create, &create("/a", b"", 0));
    w.write(c, 2, OpCode::Create, &create("/a", b"", 0));
    w.write(c, 3, OpCode::Create, &create("/a/b", b"", 0));
    w.write(c, 4, OpCode::Delete, &delete("/a"));
    w.persist();
    let results: Vec<_> = w
        .seen(c)
        .into_iter()
        .map(|s| match s {
            Seen::Written { zxid, result, .. } => (zxid.counter(), result.map_err(|c| c.wire())),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        results,
        [(2, Ok("/a".into())), (3, Err(-110)), (4, Ok("/a/b".into())), (5, Err(-111))],
        "failures take a zxid too"
    );
}

#[test]
fn a_batch_that_is_durable_in_part_is_answered_in_part() {
    let mut w = World::new();
    let (c, _) = w.connect(10_000);
    w.seen(c);
    for i in 0..10 {
        w.write(c, i, OpCode::Create, &create(&format!("/{i}"), b"", 0));
    }
    w.flush();
    for i in 10..12 {
        w.write(c, i, OpCode::Create, &create(&format!("/{i}"), b"", 0));
    }
    w.flush();
    assert_eq!(w.node.in_flight(), 12);
    let mut answered = Vec::new();
    for n in [3, 1, 7, 1] {
        w.persist_next(n);
        let new = xids(&w.seen(c));
        assert_eq!(new.len(), n);
        answered.extend(new);
        assert_eq!(w.node.in_flight(), 12 - answered.len());
    }
    assert_eq!(answered, (0..12).collect::<Vec<_>>());
}

#[test]
fn a_sync_waits_for_what_was_proposed_before_it_by_anybody_and_for_nothing_behind() {
    let mut w = World::new();
    let (a, _) = w.connect(10_000);
    let (b, _) = w.connect(10_000);
    w.seen(b);
    w.sync(b, 1, "/nowhere");
    assert_eq!(xids(&w.seen(b)), [1], "nothing is in flight");
    w.write(a, 1, OpCode::Create, &create("/1", b"", 0));
    w.write(a, 2, OpCode::Create, &create("/2", b"", 0));
    w.sync(b, 2, "/2");
    w.read(b, 3, OpCode::Exists, &look("/2", false));
    w.write(a, 3, OpCode::Create, &create("/3", b"", 0));
    w.sync(b, 4, "/");
    w.flush();
    w.persist_next(1);
    assert_eq!(w.seen(b), []);
    w.persist_next(1);
    let seen = w.seen(b);
    assert_eq!(xids(&seen), [2, 3], "the third write is not waited for");
    assert!(matches!(&seen[0], Seen::Written { result: Ok(path), .. } if path == "/2"));
    assert!(matches!(&seen[1], Seen::Read { err: 0, .. }));
    assert!(!w.exists("/3"));
    w.persist_next(1);
    assert_eq!(xids(&w.seen(b)), [4]);
}

#[test]
fn events_come_before_what_shows_their_cause() {
    let mut w = World::new();
    let (a, _) = w.connect(10_000);
    let (b, _) = w.connect(10_000);
    w.read(a, 1, OpCode::Exists, &look("/x", true));
    w.read(b, 1, OpCode::Exists, &look("/x", true));
    w.seen(a);
    w.seen(b);
    w.write(a, 2, OpCode::Create, &create("/x", b"", 0));
    w.sync(b, 2, "/");
    w.persist();
    let event = Seen::Event { kind: 1, path: "/x".into() };
    for conn in [a, b] {
        let seen = w.seen(conn);
        assert_eq!(seen[0], event);
        assert_eq!(xids(&seen), [2]);
    }
}

#[test]
fn what_is_in_flight_is_counted_and_saturates() {
    let mut w = World::new();
    let (c, _) = w.connect(10_000);
    let mut n = 0;
    while !w.node.is_saturated() {
        w.write(c, n, OpCode::Create, &create(&format!("/{n}"), &vec![0; 1_000_000], 0));
        n += 1;
    }
    assert_eq!(n as usize, node::limits::IN_FLIGHT_BYTES.div_ceil(1_000_000));
    w.flush();
    w.persist_next(2);
    assert!(!w.node.is_saturated());
    w.persist();
    assert_eq!(w.node.in_flight(), 0);
}
