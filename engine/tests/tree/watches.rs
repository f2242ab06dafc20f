//! Who hears of what, how often, and in which order (client protocol, section 7).

use crate::world::*;
use engine::Identity;
use proto::acl::Id;
use proto::client::{AddWatchMode, ReadOp, SetWatches, WatcherType};
use proto::txn::{CreateTxnKind, Txn};
use proto::{ConnId, acl};
use std::sync::Arc;

/// How a connection watches.
#[derive(Clone, Copy, Debug)]
enum By {
    Data(&'static str),
    Exist(&'static str),
    Child(&'static str),
    Child2(&'static str),
    Persistent(&'static str),
    Recursive(&'static str),
}

fn op(by: By) -> ReadOp<'static> {
    match by {
        By::Data(p) => ReadOp::GetData { path: p.into(), watch: true },
        By::Exist(p) => ReadOp::Exists { path: p.into(), watch: true },
        By::Child(p) => ReadOp::GetChildren { path: p.into(), watch: true },
        By::Child2(p) => ReadOp::GetChildren2 { path: p.into(), watch: true },
        By::Persistent(p) => ReadOp::AddWatch { path: p.into(), mode: AddWatchMode::Persistent },
        By::Recursive(p) => ReadOp::AddWatch { path: p.into(), mode: AddWatchMode::PersistentRecursive },
    }
}

fn watch(w: &World, conn: u64, by: By) -> i32 {
    w.reply(conn, &op(by)).0
}

/// `/p` with a child `/p/c`.
fn world() -> World {
    let mut w = World::new();
    w.create("/p");
    w.create("/p/c");
    w
}

type Event = (i32, &'static str);

#[test]
fn who_hears_of_what() {
    let create_d = || create("/p/d", 2);
    let set_c = || set("/p/c", b"new", 1);
    let delete_c = || delete("/p/c");
    let set_acl = || Txn::SetAcl { path: "/p/c".into(), acl: acl::OPEN, aversion: 1 };
    let gone = || close(&["/p/c"]);
    let none: &[Event] = &[];
    // (watch, change, first time, second time after the znode was put back)
    type Case<'a> = (By, fn() -> Txn<'static>, &'a [Event]);
    let cases: &[Case<'_>] = &[
        (By::Data("/p/c"), set_c, &[(CHANGED, "/p/c")]),
        (By::Data("/p/c"), delete_c, &[(DELETED, "/p/c")]),
        (By::Data("/p/c"), gone, &[(DELETED, "/p/c")]),
        (By::Data("/p/c"), set_acl, none),
        (By::Data("/p"), create_d, none),
        (By::Data("/p"), set_c, none),
        (By::Exist("/p/d"), create_d, &[(CREATED, "/p/d")]),
        (By::Exist("/p/c"), set_c, &[(CHANGED, "/p/c")]),
        (By::Child("/p"), create_d, &[(CHILDREN, "/p")]),
        (By::Child2("/p"), delete_c, &[(CHILDREN, "/p")]),
        (By::Child("/p"), gone, &[(CHILDREN, "/p")]),
        (By::Child("/p"), set_c, none),
        (By::Child("/p/c"), delete_c, &[(DELETED, "/p/c")]),
        (By::Child("/"), create_d, none),
        (By::Persistent("/p"), create_d, &[(CHILDREN, "/p")]),
        (By::Persistent("/p"), delete_c, &[(CHILDREN, "/p")]),
        (By::Persistent("/p/d"), create_d, &[(CREATED, "/p/d")]),
        (By::Persistent("/p/c"), set_c, &[(CHANGED, "/p/c")]),
        (By::Persistent("/p/c"), delete_c, &[(DELETED, "/p/c")]),
        (By::Persistent("/p/c"), set_acl, none),
        (By::Persistent("/"), create_d, none),
        (By::Recursive("/"), create_d, &[(CREATED, "/p/d")]),
        (By::Recursive("/p"), create_d, &[(CREATED, "/p/d")]),
        (By::Recursive("/p/d"), create_d, &[(CREATED, "/p/d")]),
        (By::Recursive("/p"), delete_c, &[(DELETED, "/p/c")]),
        (By::Recursive("/p"), set_c, &[(CHANGED, "/p/c")]),
        (By::Recursive("/p/c"), set_c, &[(CHANGED, "/p/c")]),
        (By::Recursive("/pp"), set_c, none),
        (By::Recursive("/p/c/x"), delete_c, none),
    ];
    for (by, change, want) in cases {
        let mut w = world();
        watch(&w, 1, *by);
        watch(&w, 1, *by);
        let count = w.tree.stats().watches;
        assert_eq!(count, if matches!(by, By::Persistent(_)) { 2 } else { 1 }, "{by:?}: one watch, not two");
        w.txn(change());
        let zxid = w.zxid as i64;
        let want: Vec<Frame> =
            want.iter().map(|&(kind, path)| Frame::Event { zxid, kind, path: path.into() }).collect();
        assert_eq!(w.ears.got(1), want, "{by:?} {:?}", change());
        let stays = matches!(by, By::Persistent(_) | By::Recursive(_)) || want.is_empty();
        assert_eq!(w.tree.stats().watches, if stays { count } else { 0 }, "{by:?}");
        if let Txn::SetData { .. } = change() {
            w.txn(set("/p/c", b"newer", 2));
            let again = if stays { want.len() } else { 0 };
            assert_eq!(w.ears.got(1).len(), again, "{by:?}: once or for ever");
        }
        w.tree.drop_connection(ConnId(1));
        assert_eq!(w.tree.stats().watches, 0);
    }
}

#[test]
fn reads_that_fail_watch_nothing_but_exists_does() {
    let mut w = world();
    let own = list(31, "digest", "u:h");
    w.txn(create_as(CreateTxnKind::Create, "/own", None, as_acl(&own), false, 2));
    for (by, err, watches) in [
        (By::Data("/none"), -101, 0),
        (By::Child("/none"), -101, 0),
        (By::Child2("/none"), -101, 0),
        (By::Data("/own"), -102, 0),
        (By::Child("/own"), -102, 0),
        (By::Exist("/own"), -102, 0),
        (By::Data(""), 0, 0),
        (By::Exist("/none"), -101, 1),
        (By::Persistent("/own"), 0, 3),
        (By::Recursive("/own"), 0, 4),
    ] {
        assert_eq!(watch(&w, 1, by), err, "{by:?}");
        assert_eq!(w.tree.stats().watches, watches, "{by:?}");
    }
}

#[test]
fn one_event_for_one_change_and_connection() {
    let ways = [
        By::Data("/p/c"),
        By::Child("/p/c"),
        By::Persistent("/p/c"),
        By::Recursive("/p"),
        By::Recursive("/"),
    ];
    let mut w = world();
    for by in ways {
        watch(&w, 1, by);
    }
    watch(&w, 2, By::Child("/p"));
    watch(&w, 2, By::Data("/p/c"));
    w.txn(set("/p/c", b"1", 1));
    assert_eq!(w.ears.events(1), [(CHANGED, "/p/c".into())]);
    assert_eq!(w.ears.events(2), [(CHANGED, "/p/c".into())]);
    w.txn(delete("/p/c"));
    assert_eq!(w.ears.events(1), [(DELETED, "/p/c".into())]);
    assert_eq!(w.ears.events(2), [(CHILDREN, "/p".into())]);
}

#[test]
fn the_znode_first_then_its_parent() {
    let mut w = world();
    for by in [By::Child("/p"), By::Exist("/p/d")] {
        watch(&w, 1, by);
    }
    w.txn(create("/p/d", 2));
    assert_eq!(w.ears.events(1), [(CREATED, "/p/d".into()), (CHILDREN, "/p".into())]);
    for by in [By::Child("/p"), By::Data("/p/d"), By::Child("/p/d")] {
        watch(&w, 1, by);
    }
    w.txn(delete("/p/d"));
    assert_eq!(w.ears.events(1), [(DELETED, "/p/d".into()), (CHILDREN, "/p".into())]);
    watch(&w, 1, By::Child("/"));
    w.txn(create("/top", 2));
    assert_eq!(w.ears.events(1), [(CHILDREN, "/".into())]);
}

#[test]
fn a_multi_tells_in_its_order_and_a_one_shot_watch_once() {
    let mut w = world();
    watch(&w, 1, By::Data("/p/c"));
    watch(&w, 1, By::Child("/p"));
    watch(&w, 2, By::Persistent("/p/c"));
    w.txn(Txn::Multi(vec![set("/p/c", b"1", 1), create("/p/d", 2), set("/p/c", b"2", 2), delete("/p/d")]));
    let zxid = w.zxid as i64;
    let event = |kind, path: &str| Frame::Event { zxid, kind, path: path.into() };
    assert_eq!(w.ears.got(1), [event(CHANGED, "/p/c"), event(CHILDREN, "/p")]);
    assert_eq!(w.ears.got(2), [event(CHANGED, "/p/c"), event(CHANGED, "/p/c")]);
    watch(&w, 1, By::Data("/p/c"));
    w.txn(Txn::Multi(vec![set("/p/c", b"3", 3), Txn::Error { code: -103 }]));
    assert_eq!(w.ears.got(1), [], "a failed multi changes nothing");
}

#[test]
fn events_reach_only_those_who_may_read() {
    let own = list(31, "digest", "u:h");
    let mut w = World::new();
    let user = Arc::new(Identity::new(vec![Id::new("digest", "u:h")]));
    w.ears.identities.lock().unwrap().insert(ConnId(1), user.clone());
    w.ears.identities.lock().unwrap().insert(ConnId(2), Arc::default());
    // Connection 3 is gone: nobody knows its identity.
    w.create("/open");
    for conn in 1..=3 {
        watch(&w, conn, By::Exist("/open/own"));
        watch(&w, conn, By::Child("/open"));
    }
    w.txn(create_as(CreateTxnKind::Create, "/open/own", None, as_acl(&own), false, 1));
    assert_eq!(w.ears.events(1), [(CREATED, "/open/own".into()), (CHILDREN, "/open".into())]);
    assert_eq!(w.ears.events(2), [(CHILDREN, "/open".into())], "the parent's list decides on its children");
    assert_eq!(w.ears.events(3), [(CHILDREN, "/open".into())]);
    assert_eq!(w.tree.stats().watches, 0, "used up although nothing was sent");
    for conn in 1..=2 {
        watch(&w, conn, By::Recursive("/"));
    }
    w.txn(create("/open/own/x", 1));
    assert_eq!(w.ears.events(2), [(CREATED, "/open/own/x".into())], "its own list is open");
    w.ears.got(1);
    watch(&w, 2, By::Persistent("/open/own"));
    w.txn(delete("/open/own/x"));
    assert_eq!(w.ears.events(2), [(DELETED, "/open/own/x".into())], "no news of the parent's children");
    w.ears.got(1);
    w.txn(set("/open/own", b"", 1));
    w.txn(delete("/open/own"));
    assert_eq!(w.ears.events(1), [(CHANGED, "/open/own".into()), (DELETED, "/open/own".into())]);
    assert_eq!(w.ears.events(2), []);
}

#[test]
fn checking_and_removing_by_kind() {
    use WatcherType::{Any, Children, Data, Persistent, PersistentRecursive};
    let kinds = [Children, Data, Persistent, PersistentRecursive, Any];
    let ways: [(By, WatcherType); 4] = [
        (By::Child("/p"), Children),
        (By::Data("/p"), Data),
        (By::Persistent("/p"), Persistent),
        (By::Recursive("/p"), PersistentRecursive),
    ];
    for (by, its) in ways {
        for kind in kinds {
            let w = world();
            watch(&w, 1, by);
            watch(&w, 2, by);
            let found = if kind == its || kind == Any { 0 } else { -121 };
            let check = |conn| w.reply(conn, &ReadOp::CheckWatches { path: "/p".into(), kind });
            assert_eq!(check(1), (found, vec![]), "{by:?} {kind:?}");
            assert_eq!(check(3), (-121, vec![]));
            let before = w.tree.stats().watches;
            let removed = w.read(1, &ReadOp::RemoveWatches { path: "/p".into(), kind });
            assert_eq!(removed, [Frame::Reply { xid: 5, zxid: 2, err: found, body: vec![] }], "no event");
            let after = w.tree.stats().watches;
            assert_eq!(after, if found == 0 { before / 2 } else { before }, "{by:?} {kind:?}");
            assert_eq!(check(1), (-121, vec![]));
            assert_eq!(check(2), (found, vec![]), "somebody else's stays");
        }
    }
    let w = world();
    ways.iter().for_each(|(by, _)| assert_eq!(watch(&w, 1, *by), 0));
    // Data and persistent share their place in the table of data watches.
    for (kind, left) in [(Data, 3), (Persistent, 2), (Any, 0)] {
        w.read(1, &ReadOp::RemoveWatches { path: "/p".into(), kind });
        assert_eq!(w.tree.stats().watches, left, "{kind:?}");
    }
}

#[test]
fn what_a_client_missed() {
    let mut w = world(); // /p at 1, /p/c at 2
    w.txn(set("/p/c", b"", 1)); // 3
    let paths = |p: &'static [&'static str]| p.iter().map(|&p| p.into()).collect::<Vec<_>>();
    let all = &["/p", "/p/c", "/none"];
    let lists = |since| SetWatches {
        relative_zxid: since,
        data: paths(all),
        exist: paths(all),
        child: paths(all),
        persistent: paths(&["/q", "/r"]),
        persistent_recursive: paths(&["/p"]),
    };
    let e = |kind, path: &str| Frame::Event { zxid: -1, kind, path: path.into() };
    let reply = Frame::Reply { xid: 5, zxid: 3, err: 0, body: vec![] };
    for (since, data, child) in [
        (0, vec![e(CHANGED, "/p"), e(CHANGED, "/p/c")], vec![e(CHILDREN, "/p"), e(CHILDREN, "/p/c")]),
        (1, vec![e(CHANGED, "/p/c")], vec![e(CHILDREN, "/p"), e(CHILDREN, "/p/c")]),
        (2, vec![e(CHANGED, "/p/c")], vec![]),
        (3, vec![], vec![]),
    ] {
        let w = &w;
        let got = w.read(9, &ReadOp::SetWatches(lists(since)));
        let want: Vec<Frame> = [
            data.clone(),
            vec![e(DELETED, "/none"), e(CREATED, "/p"), e(CREATED, "/p/c")],
            child.clone(),
            vec![e(DELETED, "/none"), reply.clone()],
        ]
        .concat();
        assert_eq!(got, want, "since {since}");
        // Two persistent ones count twice; exist on /none; what was not told is watched on.
        let rest = (2 - data.len()) + (2 - child.len());
        assert_eq!(w.tree.stats().watches, 4 + 1 + 1 + rest as u64, "since {since}");
        w.tree.drop_connection(ConnId(9));
        assert_eq!(w.tree.stats().watches, 0);
    }
    w.read(9, &ReadOp::SetWatches(lists(3)));
    w.txn(create("/p/d", 2));
    assert_eq!(w.ears.events(9), [(CREATED, "/p/d".into()), (CHILDREN, "/p".into())]);
}

#[test]
fn a_connection_that_ends_takes_its_watches_along() {
    let mut w = world();
    for conn in 1..=3 {
        for by in
            [By::Data("/p"), By::Child("/p"), By::Persistent("/p/c"), By::Recursive("/p"), By::Exist("/x")]
        {
            watch(&w, conn, by);
        }
    }
    assert_eq!(w.tree.stats().watches, 18);
    let summary = w.tree.watch_summary();
    assert_eq!((summary.connections, summary.paths, summary.watches), (3, 3, 9));
    w.tree.drop_connection(ConnId(2));
    w.tree.drop_connection(ConnId(4));
    assert_eq!(w.tree.stats().watches, 12);
    w.txn(set("/p", b"", 1));
    w.txn(set("/p/c", b"", 1));
    for (conn, events) in [(1, 2), (2, 0), (3, 2)] {
        assert_eq!(w.ears.events(conn).len(), events, "{conn}");
    }
    let mut by_path = w.tree.watches_by_path();
    by_path.sort_unstable();
    let both = vec![ConnId(1), ConnId(3)];
    assert_eq!(by_path, [("/p".into(), both.clone()), ("/p/c".into(), both.clone()), ("/x".into(), both)]);
    let by_connection = w.tree.watches_by_connection();
    assert_eq!(by_connection.iter().map(|(c, p)| (c.0, p.len())).collect::<Vec<_>>(), [(1, 3), (3, 3)]);
}
