//! What each read answers (client protocol, sections 4 to 9).

use crate::world::*;
use engine::Identity;
use proto::acl::Id;
use proto::client::{
    AddWatchMode, MultiReadOp, ReadOp, WatcherType, put_multi_end, put_multi_error, put_multi_header,
};
use proto::jute::{Put, Reader};
use proto::txn::{CreateTxnKind, Txn};
use proto::{Stat, acl};

const NO_NODE: i32 = -101;
const NO_AUTH: i32 = -102;

fn data(path: &str, watch: bool) -> ReadOp<'_> {
    ReadOp::GetData { path: path.into(), watch }
}

fn exists(path: &str, watch: bool) -> ReadOp<'_> {
    ReadOp::Exists { path: path.into(), watch }
}

fn children(path: &str, watch: bool) -> ReadOp<'_> {
    ReadOp::GetChildren { path: path.into(), watch }
}

fn names(body: &[u8]) -> Vec<String> {
    let mut names: Vec<String> =
        Reader::new(body).strings().unwrap().unwrap().into_iter().map(Into::into).collect();
    names.sort_unstable();
    names
}

/// A znode of everybody, one of `u`, one that `u` may administer and everybody may read.
fn world() -> World {
    let mut w = World::new();
    w.create("/a");
    w.create("/a/b");
    w.create("/a/c");
    let own = list(31, "digest", "u:hash");
    w.txn(create_as(CreateTxnKind::Create, "/own", Some(b"secret"), as_acl(&own), false, 2));
    let mut mixed = Vec::new();
    let (u, all) = (Id::new("digest", "u:hash"), Id::new("world", "anyone"));
    acl::encode([(16, &u), (1, &all)].into_iter(), &mut mixed);
    w.txn(create_as(CreateTxnKind::Create, "/mixed", None, as_acl(&mixed), false, 3));
    w
}

#[test]
fn replies() {
    let w = world();
    let stat = |path: &str, len: usize, kids: usize| {
        let mut out = Vec::new();
        w.stat(path).unwrap().client_view(len, kids, true).encode(&mut out);
        out
    };
    let value = |v: Option<&[u8]>, stat: Vec<u8>| {
        let mut out = Vec::new();
        out.put_buffer(v);
        [out, stat].concat()
    };
    let number = |n: i32| n.to_be_bytes().to_vec();
    let path = |p: &'static str| p.into();
    let none = Vec::new;
    for (op, err, body) in [
        (data("/a", false), 0, value(Some(b"v"), stat("/a", 1, 2))),
        (data("/mixed", false), 0, value(None, stat("/mixed", 0, 0))),
        (data("", false), 0, value(Some(b""), stat("/", 0, 4))),
        (data("/", false), 0, value(Some(b""), stat("/", 0, 4))),
        (data("/a/", false), NO_NODE, none()),
        (data("zz", false), NO_NODE, none()),
        (data("/own", false), NO_AUTH, none()),
        (exists("/a", false), 0, stat("/a", 1, 2)),
        (exists("/b", false), NO_NODE, none()),
        (exists("/b/", false), NO_NODE, none()),
        (exists("/own", false), NO_AUTH, none()),
        (exists("/a\0", false), -8, none()),
        (children("/a/b", false), 0, number(0)),
        (children("/own", false), NO_AUTH, none()),
        (children("/none", false), NO_NODE, none()),
        (
            ReadOp::GetChildren2 { path: path("/a/b"), watch: false },
            0,
            [number(0), stat("/a/b", 1, 0)].concat(),
        ),
        (ReadOp::GetAcl { path: path("/own") }, NO_AUTH, none()),
        (ReadOp::GetAcl { path: path("/none") }, NO_NODE, none()),
        (ReadOp::GetAcl { path: path("/a") }, 0, [acl::OPEN.as_bytes().to_vec(), stat("/a", 1, 2)].concat()),
        (ReadOp::GetAllChildrenNumber { path: path("/a") }, 0, number(2)),
        (ReadOp::GetAllChildrenNumber { path: path("/a/b") }, 0, number(0)),
        (ReadOp::GetAllChildrenNumber { path: path("/") }, 0, number(8)),
        (ReadOp::GetAllChildrenNumber { path: path("") }, 0, number(9)),
        (ReadOp::GetAllChildrenNumber { path: path("/own") }, NO_AUTH, none()),
        (ReadOp::GetAllChildrenNumber { path: path("/x") }, NO_NODE, none()),
        (ReadOp::AddWatch { path: path("/nowhere"), mode: AddWatchMode::Persistent }, 0, number(0)),
        (ReadOp::AddWatch { path: path("/x"), mode: AddWatchMode::PersistentRecursive }, 0, number(0)),
        (ReadOp::CheckWatches { path: path("/a"), kind: WatcherType::Any }, -121, none()),
        (ReadOp::RemoveWatches { path: path("/a"), kind: WatcherType::Any }, -121, none()),
        (ReadOp::WhoAmI, 0, number(0)),
    ] {
        let got = w.read(1, &op);
        assert_eq!(got, [Frame::Reply { xid: 5, zxid: 5, err, body }], "{op:?}");
    }
    assert_eq!(w.read(1, &ReadOp::Ping), [Frame::Reply { xid: -2, zxid: 5, err: 0, body: vec![] }]);
    let (_, body) = w.reply(1, &children("/", false));
    assert_eq!(names(&body), ["a", "mixed", "own", "zookeeper"]);
    let (_, body) = w.reply(1, &ReadOp::GetChildren2 { path: "/a".into(), watch: false });
    assert_eq!(names(&body), ["b", "c"]);
    let s = Stat::decode(&mut Reader::new(&body[body.len() - Stat::LEN..])).unwrap();
    assert_eq!((s.num_children, s.cversion), (2, 2));
}

#[test]
fn lists_are_masked_for_those_who_may_not_set_them() {
    let w = world();
    let op = ReadOp::GetAcl { path: "/mixed".into() };
    let whole = w.acl("/mixed");
    let (err, body) = w.reply(1, &op);
    assert_eq!(err, 0);
    let shown = &body[..body.len() - Stat::LEN];
    assert_eq!(as_acl(shown).entries().next().unwrap().id.as_deref(), Some("u:x"));
    for ids in [Id::new("digest", "u:hash"), Id::new("super", "")] {
        w.ask(1, &Identity::new(vec![ids]), &op);
        let Some(Frame::Reply { body, .. }) = w.ears.got(1).pop() else { panic!() };
        assert_eq!(body[..body.len() - Stat::LEN], whole);
    }
}

#[test]
fn whoever_holds_the_id_may_read() {
    let w = world();
    for (id, want) in
        [(Id::new("digest", "u:hash"), 0), (Id::new("digest", "v:hash"), NO_AUTH), (Id::new("super", ""), 0)]
    {
        w.ask(1, &Identity::new(vec![id.clone()]), &data("/own", false));
        let Some(Frame::Reply { err, .. }) = w.ears.got(1).pop() else { panic!() };
        assert_eq!(err, want, "{id:?}");
    }
    let mut open = World::with(engine::TreeConfig { shards: 1, skip_acl: true, ..Default::default() });
    let own = list(31, "digest", "u:hash");
    open.txn(create_as(CreateTxnKind::Create, "/own", None, as_acl(&own), false, 1));
    assert_eq!(open.reply(1, &data("/own", false)).0, 0);
}

#[test]
fn who_am_i() {
    let w = World::new();
    let ids = vec![Id::new("ip", "127.0.0.1"), Id::new("digest", "u:hash"), Id::new("super", "")];
    w.ask(1, &Identity::new(ids), &ReadOp::WhoAmI);
    let Some(Frame::Reply { body, .. }) = w.ears.got(1).pop() else { panic!() };
    let mut want = Vec::new();
    want.put_count(3);
    for text in ["ip", "127.0.0.1", "digest", "u", "super", ""] {
        want.put_str(text);
    }
    assert_eq!(body, want);
}

#[test]
fn ephemerals_of_the_own_session_by_plain_prefix() {
    let mut w = World::new();
    w.txn(ephemeral("/ab", 1));
    w.txn(ephemeral("/a", 2));
    w.txn(ephemeral("/x", 3));
    w.session = 8;
    w.txn(ephemeral("/other", 4));
    w.session = 7;
    for (prefix, want) in [
        ("", &["/a", "/ab", "/x"][..]),
        (" ", &["/a", "/ab", "/x"]),
        ("/", &["/a", "/ab", "/x"]),
        ("/a", &["/a", "/ab"]),
        ("/ab", &["/ab"]),
        ("/other", &[]),
    ] {
        let (err, body) = w.reply(1, &ReadOp::GetEphemerals { prefix: prefix.into() });
        assert_eq!((err, names(&body)), (0, want.iter().map(ToString::to_string).collect()), "{prefix:?}");
    }
}

#[test]
fn each_read_of_a_multi_stands_for_itself() {
    let w = world();
    let op = ReadOp::MultiRead(vec![
        MultiReadOp::GetData("/a/b".into()),
        MultiReadOp::GetData("/none".into()),
        MultiReadOp::GetChildren("/own".into()),
        MultiReadOp::GetChildren("/a/b".into()),
        MultiReadOp::GetData("".into()),
        MultiReadOp::GetData("/a/b".into()),
    ]);
    let mut want = Vec::new();
    let put = |out: &mut Vec<u8>, path: &str, v: &[u8], kids| {
        put_multi_header(out, 4, 0);
        out.put_buffer(Some(v));
        w.stat(path).unwrap().client_view(v.len(), kids, true).encode(out);
    };
    put(&mut want, "/a/b", b"v", 0);
    put_multi_error(&mut want, NO_NODE);
    put_multi_error(&mut want, NO_AUTH);
    put_multi_header(&mut want, 8, 0);
    want.put_count(0);
    put(&mut want, "/", b"", 4);
    put(&mut want, "/a/b", b"v", 0);
    put_multi_end(&mut want);
    assert_eq!(w.reply(1, &op), (0, want));
    let mut end = Vec::new();
    put_multi_end(&mut end);
    assert_eq!(w.reply(1, &ReadOp::MultiRead(vec![])), (0, end.clone()));
    assert_eq!(w.reply(1, &ReadOp::BadMultiRead), (-5, end));
    assert_eq!(w.tree.stats().watches, 0);
}

#[test]
fn many_children() {
    let mut w = World::with(engine::TreeConfig { shards: 4, ..Default::default() });
    let name = |i: usize| format!("/{i:06}");
    for i in 0..5000 {
        let path = name(i);
        let record = w.encode(1 + i as u64, create(&path, i as i32 + 1), None);
        w.apply(&record);
    }
    let (_, body) = w.reply(1, &children("/", false));
    let got = names(&body);
    assert_eq!(got.len(), 5001);
    assert!((0..5000).all(|i| got[i] == name(i)[1..]));
    w.check();
    for i in 0..5000 {
        let path = name(i);
        let record = w.encode(6000 + i as u64, delete(&path), None);
        w.apply(&record);
    }
    w.check();
    let (_, body) = w.reply(1, &children("/", false));
    assert_eq!(names(&body), ["zookeeper"]);
    assert_eq!(w.apply(&w.encode(20_000, Txn::Check { path: "/".into(), version: 0 }, None)), Said::Empty);
}

#[test]
fn pages_show_what_reads_would_show() {
    let mut w = world();
    w.create("/many");
    for i in 0..1000 {
        w.create(&format!("/many/n{i:04}"));
    }
    let anyone = Identity::of_address("127.0.0.1".parse().unwrap());
    let user = Identity::new(vec![Id::new("digest", "u:hash")]);
    let page = |after: &str, prefix: &str| w.tree.child_page("/many", &anyone, after, prefix, 10).unwrap();
    let first = page("", "");
    assert_eq!((first.names.len(), first.more, first.total), (10, true, 1000));
    assert_eq!((&*first.names[0], &*first.names[9]), ("n0000", "n0009"));
    assert_eq!(&*page("n0009", "").names[0], "n0010", "the next page goes on behind");
    let last = page("n0989", "");
    assert_eq!((last.names.len(), last.more), (10, false));
    assert_eq!(page("n0999", "").names.len(), 0);
    assert_eq!(page("", "n05").names[0], "n0500".into());
    assert_eq!(w.tree.child_page("/own", &anyone, "", "", 10), Err(proto::Code::NoAuth));
    assert!(w.tree.child_page("/own", &user, "", "", 10).is_ok());
    assert_eq!(w.tree.child_page("/none", &user, "", "", 10), Err(proto::Code::NoNode));
    let hidden = w.tree.node_page("/own", &anyone, 100).unwrap();
    assert_eq!((hidden.data, hidden.acl), (None, None));
    let shown = w.tree.node_page("/own", &user, 3).unwrap();
    assert_eq!((shown.data.as_deref(), shown.stat.data_length), (Some(&b"sec"[..]), 6));
    let text = |acl: Option<Vec<u8>>| String::from_utf8_lossy(&acl.unwrap()).into_owned();
    assert!(
        !text(w.tree.node_page("/mixed", &anyone, 0).unwrap().acl).contains("u:hash"),
        "hashes are hidden"
    );
    assert!(text(w.tree.node_page("/mixed", &user, 0).unwrap().acl).contains("u:hash"));
}
