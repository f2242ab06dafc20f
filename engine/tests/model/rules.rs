//! The rules of prepare, one by one (semantics, sections 4 to 9; client protocol, its traps).

use crate::plain::Reply;
use crate::server::{Ids, Server};
use engine::{PrepConfig, TreeConfig};
use proto::Code::{self, *};
use proto::acl::{self, AclBytes};
use proto::client::{Create, CreateOp, MultiOp, MultiResult, ReadOp, WriteOp};
use proto::jute::{Put, Reader};
use proto::stat::Owner;
use proto::state::NodeRecord;
use proto::txn::{CreateTxnKind, Txn};
use proto::{SessionId, Stat, StatPersisted, Zxid};

const NOBODY: Ids<'static> = &[("ip", "10.0.0.1")];
const USER: Ids<'static> = &[("ip", "10.0.0.1"), ("digest", "u:h")];
const ROOT: Ids<'static> = &[("super", "")];
const ME: i64 = 0x0100_0000_0000_0001;
const OTHER: i64 = 0x0100_0000_0000_0002;
const UNKNOWN: i64 = 0x0100_0000_0000_0077;

fn server() -> Server {
    server_with(TreeConfig { extended_types: true, ..TreeConfig::default() }, PrepConfig::default())
}

fn server_with(tree: TreeConfig, prep: PrepConfig) -> Server {
    let mut s = Server::new(TreeConfig { shards: 8, ..tree }, prep);
    for session in [ME, OTHER] {
        s.run(session, NOBODY, &WriteOp::CreateSession { timeout_ms: 1000 });
    }
    s
}

fn make(op: CreateOp, path: &str, flags: i32) -> Create<'_> {
    Create { op, path: path.into(), data: Some(b"d"), acl: acl::OPEN, flags, ttl_ms: -1 }
}

fn create(path: &str, flags: i32) -> WriteOp<'_> {
    WriteOp::Create(make(CreateOp::Create, path, flags))
}

fn with_acl<'a>(path: &'a str, acl: AclBytes<'a>) -> WriteOp<'a> {
    WriteOp::Create(Create { acl, ..make(CreateOp::Create, path, 0) })
}

fn delete(path: &str, version: i32) -> WriteOp<'_> {
    WriteOp::Delete { path: path.into(), version }
}

fn set<'a>(path: &'a str, data: &'a [u8], version: i32) -> WriteOp<'a> {
    WriteOp::SetData { path: path.into(), data: Some(data), version }
}

fn set_acl<'a>(path: &'a str, acl: AclBytes<'a>, version: i32) -> WriteOp<'a> {
    WriteOp::SetAcl { path: path.into(), acl, version }
}

fn list(entries: &[(i32, &str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_count(entries.len());
    for (perms, scheme, id) in entries {
        out.put_i32(*perms);
        out.put_str(scheme);
        out.put_str(id);
    }
    out
}

fn as_acl(bytes: &[u8]) -> AclBytes<'_> {
    AclBytes::decode(&mut Reader::new(bytes)).unwrap()
}

fn path(text: &str) -> Reply {
    Reply::Path(text.into())
}

fn errors(codes: &[i32]) -> Reply {
    Reply::Multi(codes.iter().map(|&c| MultiResult::Error(c)).collect())
}

fn stat(s: &Server, path: &str) -> Option<Stat> {
    let (err, body) = s.read(ME, ROOT, &ReadOp::Exists { path: path.into(), watch: false });
    (err == 0).then(|| Stat::decode(&mut Reader::new(&body)).unwrap())
}

/// The codes of requests, each run to its end.
fn expect_codes(s: &mut Server, cases: &[(i64, Ids<'_>, WriteOp<'_>, Code)]) {
    for (session, ids, op, code) in cases {
        assert_eq!(s.run(*session, ids, op), Reply::Error(*code), "{op:?}");
    }
}

#[test]
fn the_first_failing_check_of_a_create_names_the_error() {
    let mut s = server();
    let (closed, read_only) = (list(&[(31, "digest", "u:h")]), list(&[(1, "world", "anyone")]));
    s.run(ME, USER, &create("/a", 0));
    s.run(ME, USER, &with_acl("/closed", as_acl(&closed)));
    s.run(ME, USER, &create("/e", 1));
    let (bad, auth) = (list(&[(31, "nosuch", "x")]), list(&[(31, "auth", "")]));
    let ttl = |flags, ttl_ms, path| WriteOp::Create(Create { ttl_ms, ..make(CreateOp::Ttl, path, flags) });
    let cases = [
        (UNKNOWN, NOBODY, create("", 7), BadArguments),
        (UNKNOWN, NOBODY, ttl(5, 0, ""), BadArguments),
        (UNKNOWN, NOBODY, ttl(5, 1 << 40, ""), BadArguments),
        (ME, NOBODY, ttl(0, 5, "/t"), BadArguments),
        // Trap 18.
        (ME, NOBODY, ttl(0, -1, "/t"), BadArguments),
        (ME, NOBODY, ttl(1, i64::MIN, "/t"), BadArguments),
        (ME, NOBODY, create("/t", 5), BadArguments),
        (ME, NOBODY, create("/t", 6), BadArguments),
        (ME, NOBODY, WriteOp::Create(make(CreateOp::Container, "/t", 5)), BadArguments),
        (UNKNOWN, NOBODY, create("noslash", 0), SessionExpired),
        (UNKNOWN, NOBODY, create("/x", 1), SessionExpired),
        (ME, NOBODY, with_acl("noslash", as_acl(&bad)), BadArguments),
        (ME, NOBODY, with_acl("", as_acl(&bad)), BadArguments),
        (ME, NOBODY, with_acl("/a\0", as_acl(&bad)), BadArguments),
        (ME, NOBODY, with_acl("/nopar/x", as_acl(&bad)), InvalidAcl),
        (ME, NOBODY, with_acl("/closed/x", as_acl(&bad)), InvalidAcl),
        (ME, NOBODY, create("/nopar/\u{1}", 0), NoNode),
        (ME, NOBODY, create("/a/./b", 0), NoNode),
        (ME, NOBODY, create("/closed/\u{1}", 0), NoAuth),
        (ME, NOBODY, create("/closed/x", 0), NoAuth),
        (ME, USER, create("/closed/\u{1}", 0), BadArguments),
        (ME, NOBODY, create("/e/\u{1}", 0), BadArguments),
        (ME, NOBODY, create("/a/", 0), BadArguments),
        (ME, NOBODY, create("/a", 0), NodeExists),
        (ME, NOBODY, create("/", 0), NodeExists),
        (ME, NOBODY, create("/zookeeper", 0), NodeExists),
        (ME, NOBODY, create("/e/x", 0), NoChildrenForEphemerals),
        (ME, NOBODY, with_acl("/x", as_acl(&auth)), InvalidAcl),
    ];
    expect_codes(&mut s, &cases);
    // Every one of them took a zxid.
    assert_eq!(s.tree.applied().as_u64(), 2 + 3 + cases.len() as u64);
    assert_eq!(s.run(ME, NOBODY, &create("/a/", 2)), path("/a/0000000000"));
    s.run(ME, NOBODY, &set_acl("/a", as_acl(&read_only), -1));
    expect_codes(&mut s, &[(ME, NOBODY, create("/a/0000000000", 0), NoAuth)]);

    let plain = TreeConfig::default();
    let mut s = server_with(plain, PrepConfig::default());
    let cases = [
        (UNKNOWN, NOBODY, ttl(5, -7, ""), Unimplemented),
        (UNKNOWN, NOBODY, create("/t", 6), Unimplemented),
        (UNKNOWN, NOBODY, create("/t", 7), BadArguments),
    ];
    expect_codes(&mut s, &cases);
}

#[test]
fn the_first_failing_check_of_other_requests_names_the_error() {
    let mut s = server();
    let closed = list(&[(31, "digest", "u:h")]);
    let bad = list(&[(31, "nosuch", "x")]);
    for p in ["/a", "/a/b"] {
        s.run(ME, USER, &create(p, 0));
    }
    s.run(ME, USER, &with_acl("/closed", as_acl(&closed)));
    s.run(ME, USER, &create("/closed/c", 0));
    let open = acl::OPEN;
    let cases = [
        (UNKNOWN, NOBODY, delete("/", 0), SessionExpired),
        (ME, ROOT, delete("/", 5), BadArguments),
        (ME, ROOT, delete("/zookeeper", -1), BadArguments),
        (ME, ROOT, delete("/zookeeper/quota", -1), BadArguments),
        (ME, ROOT, delete("/zookeeper/config", -1), BadArguments),
        (ME, ROOT, delete("noslash", -1), BadArguments),
        (ME, ROOT, delete("", -1), BadArguments),
        (ME, ROOT, delete("/a\0", -1), BadArguments),
        (ME, ROOT, delete("/a/", -1), NoNode),
        (ME, ROOT, delete("//", -1), NoNode),
        (ME, NOBODY, delete("/nopar/x", 5), NoNode),
        (ME, NOBODY, delete("/closed/missing", 5), NoAuth),
        (ME, NOBODY, delete("/closed/c", 5), NoAuth),
        (ME, USER, delete("/closed/missing", 5), NoNode),
        (ME, NOBODY, delete("/a", 5), BadVersion),
        (ME, NOBODY, delete("/a", -2), BadVersion),
        (ME, NOBODY, delete("/a", 0), NotEmpty),
        (ME, NOBODY, delete("/a", -1), NotEmpty),
        (UNKNOWN, NOBODY, set("", b"", -1), SessionExpired),
        (ME, NOBODY, set("", b"", -1), BadArguments),
        (ME, NOBODY, set("/a/", b"", -1), BadArguments),
        (ME, NOBODY, set("/missing", b"", 5), NoNode),
        (ME, NOBODY, set("/closed", b"", 5), NoAuth),
        (ME, USER, set("/closed", b"", 5), BadVersion),
        (ME, NOBODY, set("/zookeeper/config", b"", -1), NoAuth),
        (UNKNOWN, NOBODY, set_acl("", as_acl(&bad), 5), SessionExpired),
        (ME, NOBODY, set_acl("/a/", as_acl(&bad), 5), BadArguments),
        (ME, NOBODY, set_acl("/missing", as_acl(&bad), 5), InvalidAcl),
        (ME, NOBODY, set_acl("/missing", open, 5), NoNode),
        (ME, NOBODY, set_acl("/closed", open, 5), NoAuth),
        (ME, USER, set_acl("/closed", open, 5), BadVersion),
        (ME, NOBODY, WriteOp::BadMulti, MarshallingError),
    ];
    expect_codes(&mut s, &cases);

    let check =
        |path: &'static str, version| WriteOp::Multi(vec![MultiOp::Check { path: path.into(), version }]);
    for (session, ids, op, code) in [
        (UNKNOWN, NOBODY, check("/a", 0), SessionExpired),
        (ME, NOBODY, check("/a/", 0), BadArguments),
        (ME, NOBODY, check("/missing", 0), NoNode),
        (ME, NOBODY, check("/closed", 5), NoAuth),
        (ME, USER, check("/closed", 5), BadVersion),
    ] {
        assert_eq!(s.run(session, ids, &op), errors(&[code.wire()]), "{op:?}");
    }
    // A znode's own ACL does not guard its deletion.
    assert_eq!(
        s.run(ME, NOBODY, &with_acl("/a/mine", as_acl(&list(&[(0, "world", "anyone")])))),
        path("/a/mine")
    );
    assert_eq!(s.run(OTHER, NOBODY, &delete("/a/mine", -1)), Reply::Empty);
    // The root can be set but not deleted, and its two spellings are one znode.
    assert!(matches!(s.run(ME, NOBODY, &set("/", b"root", 0)), Reply::Stat(Stat { version: 1, .. })));
    assert!(matches!(s.run(ME, NOBODY, &set_acl("/", open, 0)), Reply::Stat(Stat { aversion: 1, .. })));
}

#[test]
fn the_operation_decides_the_kind_of_znode() {
    let mut s = server();
    let cases = [
        (CreateOp::Create, 4, Owner::Persistent),
        (CreateOp::Create2, 4, Owner::Persistent),
        (CreateOp::Create2, 1, Owner::Session(ME)),
        (CreateOp::Create, 3, Owner::Session(ME)),
        (CreateOp::Container, 0, Owner::Container),
        (CreateOp::Container, 1, Owner::Container),
        (CreateOp::Container, 3, Owner::Container),
        (CreateOp::Container, 4, Owner::Container),
        (CreateOp::Ttl, 5, Owner::Ttl(77)),
        (CreateOp::Ttl, 6, Owner::Ttl(77)),
    ];
    for (i, (op, flags, owner)) in cases.into_iter().enumerate() {
        let name = format!("/n{i}-");
        let ttl_ms = if op == CreateOp::Ttl { 77 } else { -1 };
        let c = Create { ttl_ms, ..make(op, &name, flags) };
        s.prepare(ME, NOBODY, &WriteOp::Create(c));
        let Txn::Create { kind, ephemeral, .. } = s.last_record().txn else { panic!("{op:?} {flags}") };
        assert_eq!(ephemeral, matches!(owner, Owner::Session(_)), "{op:?} {flags}");
        let want = match op {
            CreateOp::Create => CreateTxnKind::Create,
            CreateOp::Create2 => CreateTxnKind::Create2,
            CreateOp::Container => CreateTxnKind::Container,
            CreateOp::Ttl => CreateTxnKind::Ttl(77),
        };
        assert_eq!(kind, want);
        let made = match s.apply().1 {
            Reply::Path(p) if op == CreateOp::Create => p,
            Reply::PathStat(p, _) if op != CreateOp::Create => p,
            other => panic!("{op:?} {flags}: {other:?}"),
        };
        assert_eq!(made.len() > name.len(), matches!(flags, 2 | 3 | 6), "{made}");
        let stored = s.tree.peek(&made, |v| v.map(|v| v.stat.ephemeral_owner)).unwrap();
        assert_eq!(Owner::of(stored, true), owner, "{op:?} {flags}");
    }
}

#[test]
fn pipelined_requests_see_each_other() {
    let mut s = server();
    let ops = [
        (create("/a", 0), path("/a")),
        (create("/a", 0), Reply::Error(NodeExists)),
        (create("/a/s", 2), path("/a/s0000000000")),
        (create("/a/s", 2), path("/a/s0000000001")),
        (delete("/a", -1), Reply::Error(NotEmpty)),
        (delete("/a/s0000000000", -1), Reply::Empty),
        (delete("/a/s0000000000", -1), Reply::Error(NoNode)),
        (create("/a/s", 2), path("/a/s0000000002")),
        (set("/a", b"2", 1), Reply::Error(BadVersion)),
        (create("/a/e", 1), path("/a/e")),
        (create("/a/e/c", 0), Reply::Error(NoChildrenForEphemerals)),
        (delete("/a/e", 0), Reply::Empty),
        (create("/a/e", 0), path("/a/e")),
        (create("/a/e/c", 0), path("/a/e/c")),
    ];
    for (op, _) in &ops {
        s.prepare(ME, NOBODY, op);
    }
    assert!(s.prep.outstanding() > 0);
    for (op, reply) in &ops {
        assert_eq!(s.apply().1, *reply, "{op:?}");
    }
    assert_eq!((s.prep.outstanding(), s.in_flight.len()), (0, 0));
    // Raw counter 5, three children: 2 * 5 - 3.
    let a = stat(&s, "/a").unwrap();
    assert_eq!((a.cversion, a.num_children, a.pzxid, a.version), (7, 3, a.czxid + 12, 0));
    // The ACL of a znode in flight counts too.
    let closed = list(&[(31, "digest", "u:h")]);
    s.prepare(ME, USER, &set_acl("/a", as_acl(&closed), -1));
    s.prepare(ME, NOBODY, &create("/a/x", 0));
    s.prepare(ME, USER, &create("/a/x", 0));
    s.apply();
    assert_eq!(s.apply().1, Reply::Error(NoAuth));
    assert_eq!(s.apply().1, path("/a/x"));
}

#[test]
fn a_failed_multi_leaves_no_trace_but_its_record() {
    let mut s = server();
    s.run(ME, NOBODY, &create("/a", 0));
    let digest = s.prep.digest();
    s.prepare(ME, NOBODY, &create("/a/x", 2));
    let digest_x = s.prep.digest();
    let ops = vec![
        MultiOp::Create(make(CreateOp::Create2, "/a/x", 2)),
        MultiOp::SetData { path: "/a".into(), data: Some(b"no"), version: 0 },
        MultiOp::Create(make(CreateOp::Create, "/a/e", 1)),
        MultiOp::Delete { path: "/a/x0000000000".into(), version: 0 },
        MultiOp::Delete { path: "/missing".into(), version: -1 },
        MultiOp::Create(make(CreateOp::Create, "/never", 0)),
    ];
    s.prepare(ME, NOBODY, &WriteOp::Multi(ops));
    let record = s.last_record();
    assert_eq!(record.digest.map(|d| d.tree), Some(digest_x));
    let Txn::Multi(txns) = record.txn else { panic!("not a multi") };
    assert!(
        matches!(&txns[0], Txn::Create { kind: CreateTxnKind::Create2, path, .. } if path == "/a/x0000000001")
    );
    assert!(matches!(&txns[1], Txn::SetData { version: 1, .. }));
    assert!(matches!(&txns[2], Txn::Create { ephemeral: true, .. }));
    assert!(matches!(&txns[3], Txn::Delete { .. }));
    assert_eq!(txns[4..], [Txn::Error { code: -101 }, Txn::Error { code: -2 }]);
    // ZOOKEEPER-1624: the counter of the parent is back, too; what was in flight before is not lost.
    s.prepare(ME, NOBODY, &create("/a/x", 2));
    s.prepare(ME, NOBODY, &create("/a/e", 1));
    s.prepare(ME, NOBODY, &WriteOp::CloseSession);
    let closing = Txn::CloseSession { paths: Some(vec!["/a/e".into()]) };
    assert_eq!(s.last_record().txn, closing);
    assert_eq!(s.apply().1, path("/a/x0000000000"));
    assert_eq!(s.apply().1, errors(&[0, 0, 0, 0, -101, -2]));
    assert_eq!(s.apply().1, path("/a/x0000000001"));
    while !s.in_flight.is_empty() {
        s.apply();
    }
    assert_eq!(stat(&s, "/a").unwrap().version, 0);
    assert_ne!(s.prep.digest(), digest);
    assert_eq!(s.prep.outstanding(), 0);
}

#[test]
fn multis_see_their_own_changes() {
    let mut s = server();
    let check = |path: &'static str, version| MultiOp::Check { path: path.into(), version };
    let ops = vec![
        MultiOp::Create(make(CreateOp::Create, "/m", 0)),
        MultiOp::Create(make(CreateOp::Create, "/m/s", 2)),
        MultiOp::Create(make(CreateOp::Create, "/m/s", 2)),
        MultiOp::SetData { path: "/m".into(), data: Some(b"v"), version: 0 },
        check("/m", 1),
        MultiOp::Delete { path: "/m/s0000000000".into(), version: -1 },
    ];
    let Reply::Multi(results) = s.run(ME, NOBODY, &WriteOp::Multi(ops)) else { panic!("not a multi") };
    assert_eq!(results[2], MultiResult::Create("/m/s0000000001".into()));
    assert!(matches!(results[3], MultiResult::SetData(Stat { version: 1, num_children: 2, .. })));
    assert_eq!(results[4..], [MultiResult::Check, MultiResult::Delete]);
    let m = stat(&s, "/m").unwrap();
    assert_eq!((m.czxid, m.mzxid, m.pzxid), (m.czxid, m.czxid, m.czxid), "one zxid for all");
    // Only checks, or nothing at all: an empty txn that takes its zxid, even for a session that is gone.
    assert_eq!(s.run(ME, NOBODY, &WriteOp::Multi(vec![])), Reply::Multi(vec![]));
    assert_eq!(s.run(UNKNOWN, NOBODY, &WriteOp::Multi(vec![])), Reply::Multi(vec![]));
    let gone = s.run(UNKNOWN, NOBODY, &WriteOp::Multi(vec![check("/m", 1), check("/m", 1)]));
    assert_eq!(gone, errors(&[-112, -2]));
}

#[test]
fn closing_a_session_takes_what_is_in_flight_and_lets_nothing_in() {
    let mut s = server();
    for p in ["/p", "/old-kept", "/old-gone"] {
        s.run(ME, NOBODY, &create(p, i32::from(p != "/p")));
    }
    s.prepare(OTHER, NOBODY, &delete("/old-gone", -1));
    s.prepare(ME, NOBODY, &create("/p/new-gone", 1));
    s.prepare(ME, NOBODY, &create("/p/new", 1));
    s.prepare(OTHER, NOBODY, &create("/p/others", 1));
    s.prepare(OTHER, NOBODY, &delete("/p/new-gone", -1));
    // Somebody else takes the name of one that is gone.
    s.prepare(OTHER, NOBODY, &create("/old-gone", 1));
    s.prepare(ME, NOBODY, &WriteOp::CloseSession);
    let closing = Txn::CloseSession { paths: Some(vec!["/old-kept".into(), "/p/new".into()]) };
    assert_eq!(s.last_record().txn, closing);
    s.prepare(ME, NOBODY, &create("/p/late", 1));
    s.prepare(ME, NOBODY, &set("/p", b"", -1));
    s.prepare(ME, NOBODY, &WriteOp::CloseSession);
    assert_eq!(s.last_record().txn, Txn::CloseSession { paths: Some(vec![]) });
    s.prepare(ME, NOBODY, &WriteOp::CreateSession { timeout_ms: 5 });
    let replies: Vec<Reply> = (0..11).map(|_| s.apply().1).collect();
    let expired = Reply::Error(SessionExpired);
    assert_eq!(replies[7..], [expired.clone(), expired.clone(), Reply::Empty, expired.clone()]);
    assert_eq!(s.tree.session_timeout(SessionId(ME)), None);
    assert_eq!(s.run(ME, NOBODY, &create("/x", 0)), expired, "also once the close is applied");
    assert_eq!(stat(&s, "/p").unwrap().num_children, 1);
    assert!(stat(&s, "/old-kept").is_none() && stat(&s, "/old-gone").is_some());
    // A session opened and used in one breath.
    s.prepare(UNKNOWN, NOBODY, &WriteOp::CreateSession { timeout_ms: 9 });
    s.prepare(UNKNOWN, NOBODY, &create("/first", 1));
    s.apply();
    assert_eq!(s.apply().1, path("/first"));
}

#[test]
fn what_does_not_fit_a_record_is_refused_before_it_is_logged() {
    let bound = 1000;
    let prep = PrepConfig { record_bytes_max: bound, ..PrepConfig::default() };
    let mut s = server_with(TreeConfig::default(), prep);
    s.run(ME, NOBODY, &create("/a", 0));
    // header, path, value, version, digest
    let overhead = 32 + (4 + 2) + 4 + 4 + 12;
    let (fits, over) = (vec![1; bound - overhead], vec![1; bound - overhead + 1]);
    assert_eq!(s.run(ME, NOBODY, &set("/a", &over, -1)), Reply::Error(MarshallingError));
    s.prepare(ME, NOBODY, &set("/a", &fits, -1));
    assert_eq!(s.in_flight[0].byte_len(), bound);
    assert!(matches!(s.apply().1, Reply::Stat(Stat { version: 1, .. })));

    // In a multi the operation that passes the bound fails; a failure that can't be told in its place fails
    // the whole.
    let set_op = |data| MultiOp::SetData { path: "/a".into(), data: Some(data), version: -1 };
    let check = || MultiOp::Check { path: "/a".into(), version: -1 };
    let ops = vec![check(), set_op(&over), check()];
    assert_eq!(s.run(ME, NOBODY, &WriteOp::Multi(ops)), errors(&[0, -5, -2]));
    let ops = (0..200).map(|_| check()).collect();
    assert_eq!(s.run(ME, NOBODY, &WriteOp::Multi(ops)), Reply::Error(MarshallingError));
    let digest = s.prep.digest();
    let mut ops = vec![set_op(&fits[..400]), MultiOp::Check { path: "/b".into(), version: -1 }];
    ops.extend((0..60).map(|_| check()));
    assert_eq!(s.run(ME, NOBODY, &WriteOp::Multi(ops)), Reply::Error(MarshallingError));
    assert_eq!(s.prep.digest(), digest);
    let ok = s.run(ME, NOBODY, &WriteOp::Multi(vec![set_op(b"x")]));
    assert!(matches!(&ok, Reply::Multi(r) if matches!(r[0], MultiResult::SetData(Stat { version: 2, .. }))));
}

#[test]
fn a_session_has_no_more_ephemerals_than_its_closing_txn_can_list() {
    let bound = 1000;
    let prep = PrepConfig { record_bytes_max: bound, ..PrepConfig::default() };
    let mut s = server_with(TreeConfig::default(), prep.clone());
    // header, count, digest; each path takes four bytes more than its text
    let room = (bound - 32 - 4 - 12) / (4 + 6);
    for i in 0..room / 2 {
        assert_eq!(s.run(ME, NOBODY, &create(&format!("/e{i:04}"), 1)), path(&format!("/e{i:04}")));
    }
    // A new leader counts what is there.
    s.prep = engine::Prep::new(&s.tree, prep);
    s.prepare(OTHER, NOBODY, &delete("/e0000", -1));
    for i in room / 2..=room {
        s.prepare(ME, NOBODY, &create(&format!("/e{i:04}"), 1));
    }
    // A rolled-back multi gives back what it took.
    let ops = vec![
        MultiOp::Delete { path: "/e0001".into(), version: -1 },
        MultiOp::Check { path: "/missing".into(), version: -1 },
    ];
    s.prepare(ME, NOBODY, &WriteOp::Multi(ops));
    s.prepare(ME, NOBODY, &create("/e9999", 1));
    s.prepare(OTHER, NOBODY, &create("/e9999", 1));
    let mut replies = Vec::new();
    while !s.in_flight.is_empty() {
        replies.push(s.apply().1);
    }
    let n = replies.len();
    assert!(replies[..n - 3].iter().all(|r| !matches!(r, Reply::Error(_))), "{replies:?}");
    assert_eq!(replies[n - 2], Reply::Error(MarshallingError));
    assert_eq!(replies[n - 1], path("/e9999"), "the bound is the session's");
    s.run(ME, NOBODY, &delete("/e0002", -1));
    assert_eq!(s.run(ME, NOBODY, &create("/e9998", 1)), path("/e9998"));
    s.prepare(ME, NOBODY, &WriteOp::CloseSession);
    let record = s.in_flight[0].byte_len();
    assert!(record <= bound && record > bound - 10, "{record}");
    s.apply();
    assert!(s.tree.ephemerals_of(SessionId(ME)).is_empty());
}

#[test]
fn a_session_with_more_ephemerals_than_a_record_lists_is_closed_all_the_same() {
    let mut s = server();
    for i in 0..10 {
        s.run(ME, NOBODY, &create(&format!("/e{i}"), 1));
    }
    // As after an import from servers with a larger bound.
    let prep = PrepConfig { record_bytes_max: 100, ..PrepConfig::default() };
    s.prep = engine::Prep::new(&s.tree, prep);
    s.prepare(ME, NOBODY, &WriteOp::CloseSession);
    let Txn::CloseSession { paths: Some(listed) } = s.last_record().txn else { panic!("no list") };
    assert!((1..10).contains(&listed.len()) && s.in_flight[0].byte_len() <= 100, "{listed:?}");
    s.apply();
    assert!(s.tree.ephemerals_of(SessionId(ME)).is_empty());
    assert_eq!(stat(&s, "/").unwrap().num_children, 1);
}

#[test]
fn hard_quotas_hold_for_pipelined_requests_too() {
    let tree = TreeConfig { enforce_quota: true, ..TreeConfig::default() };
    let mut s = server_with(tree, PrepConfig::default());
    let limits = b"count=1,bytes=1=;byteHardLimit=10;countHardLimit=4";
    for p in ["/q", "/zookeeper/quota/q"] {
        s.run(ME, NOBODY, &create(p, 0));
    }
    let quota = |name, data| WriteOp::Create(Create { data: Some(data), ..make(CreateOp::Create, name, 0) });
    s.run(ME, NOBODY, &quota("/zookeeper/quota/q/zookeeper_limits", &limits[..]));
    s.run(ME, NOBODY, &quota("/zookeeper/quota/q/zookeeper_stats", b"count=0,bytes=0"));
    let drop_1 = MultiOp::Delete { path: "/q/1".into(), version: -1 };
    let missing = MultiOp::Check { path: "/missing".into(), version: -1 };
    // /q itself counts, with its one byte; soft limits refuse nothing.
    let exceeded = Reply::Error(QuotaExceeded);
    let cases = [
        (create("/q/1", 0), path("/q/1")),
        (create("/q/2", 0), path("/q/2")),
        (set("/q/2", b"1234567890", -1), exceeded.clone()),
        (set("/q/2", b"12345678", 5), Reply::Error(BadVersion)),
        (set("/q/2", b"123456789", 5), exceeded.clone()),
        (set("/q/2", b"12345678", -1), Reply::Stat(Stat::default())),
        (create("/q/3", 0), exceeded.clone()),
        (set("/q/2", b"", -1), Reply::Stat(Stat::default())),
        (create("/q/3", 0), path("/q/3")),
        (set("/q/3", b"12345678", -1), Reply::Stat(Stat::default())),
        (set("/q/3", b"d", -1), Reply::Stat(Stat::default())),
        (create("/q/4", 0), exceeded.clone()),
        (WriteOp::Multi(vec![drop_1, missing]), errors(&[0, -101])),
        (create("/q/4", 0), exceeded.clone()),
        (delete("/q/1", -1), Reply::Empty),
        (create("/q/4", 0), path("/q/4")),
        (create("/r", 0), path("/r")),
    ];
    for (op, _) in &cases {
        s.prepare(ME, NOBODY, op);
    }
    for (op, want) in &cases {
        match (s.apply().1, want) {
            (Reply::Stat(_), Reply::Stat(_)) => {}
            (got, want) => assert_eq!(got, *want, "{op:?}"),
        }
    }
    let create_op = |p| MultiOp::Create(make(CreateOp::Create, p, 0));
    let swap =
        |p| vec![MultiOp::Delete { path: "/q/4".into(), version: -1 }, create_op(p), create_op("/q/6")];
    assert_eq!(s.run(ME, NOBODY, &WriteOp::Multi(swap("/q/5"))), errors(&[0, 0, -125]));
    let mut two = swap("/q/5");
    two.pop();
    assert!(matches!(
        &s.run(ME, NOBODY, &WriteOp::Multi(two))[..],
        [MultiResult::Delete, MultiResult::Create(_)]
    ));
    let used = s.tree.quota_for("/q/5").unwrap().used;
    assert_eq!(used, Some((4, 3)));
    assert_eq!(s.tree.quota_refusals(), [("q".into(), 6)], "a multi that fails for it counts too");
}

impl std::ops::Deref for Reply {
    type Target = [MultiResult];

    fn deref(&self) -> &[MultiResult] {
        match self {
            Reply::Multi(results) => results,
            other => panic!("{other:?} is not the answer to a multi"),
        }
    }
}

#[test]
fn a_server_alone_refuses_to_reconfigure() {
    let reconfig = WriteOp::Reconfig { joining: None, leaving: None, new_members: None, config_id: -1 };
    for (enabled, session, code) in [
        (false, ME, ReconfigDisabled),
        (false, UNKNOWN, ReconfigDisabled),
        (true, ME, Unimplemented),
        (true, UNKNOWN, SessionExpired),
    ] {
        let prep = PrepConfig { reconfig_enabled: enabled, ..PrepConfig::default() };
        let mut s = server_with(TreeConfig::default(), prep);
        assert_eq!(s.run(session, ROOT, &reconfig), Reply::Error(code));
    }
}

#[test]
fn the_reaper_removes_only_what_is_still_due() {
    let mut s = server();
    let reap = |path: &'static str| WriteOp::DeleteContainer { path: path.into() };
    s.run(ME, NOBODY, &WriteOp::Create(make(CreateOp::Container, "/c", 4)));
    s.run(ME, NOBODY, &create("/c/x", 0));
    s.run(ME, NOBODY, &create("/p", 0));
    s.run(ME, NOBODY, &create("/e", 1));
    let ttl = Create { ttl_ms: 10, ..make(CreateOp::Ttl, "/t", 5) };
    s.run(ME, NOBODY, &WriteOp::Create(ttl));
    let cases = [
        (0, NOBODY, reap("/c"), NotEmpty),
        (0, NOBODY, reap("/p"), BadVersion),
        (0, NOBODY, reap("/e"), BadVersion),
        (0, NOBODY, reap("/t"), BadVersion),
        (0, NOBODY, reap("/missing"), NoNode),
        (0, NOBODY, reap("/zookeeper"), BadArguments),
    ];
    expect_codes(&mut s, &cases);
    // Emptied and reaped, or filled again, in flight.
    s.prepare(ME, NOBODY, &delete("/c/x", -1));
    s.prepare(ME, NOBODY, &create("/c/y", 0));
    s.prepare(0, NOBODY, &reap("/c"));
    s.prepare(ME, NOBODY, &delete("/c/y", -1));
    s.prepare(0, NOBODY, &reap("/c"));
    assert_eq!(s.last_record().txn, Txn::Delete { path: "/c".into(), container: true });
    s.prepare(0, NOBODY, &reap("/c"));
    let replies: Vec<Reply> = (0..6).map(|_| s.apply().1).collect();
    assert_eq!((&replies[2], &replies[5]), (&Reply::Error(NotEmpty), &Reply::Error(NoNode)));
    assert!(stat(&s, "/c").is_none());
    // A TTL starts again with every change of the value.
    s.time += 100;
    s.prepare(ME, NOBODY, &set("/t", b"again", -1));
    s.prepare(0, NOBODY, &reap("/t"));
    s.apply();
    assert_eq!(s.apply().1, Reply::Error(BadVersion));
    s.time += 10;
    assert_eq!(s.run(0, NOBODY, &reap("/t")), Reply::Empty);
}

#[test]
fn the_counter_of_a_parent_stays_at_its_end() {
    let (tree, mut applier) = engine::new(TreeConfig { shards: 8, ..TreeConfig::default() });
    let parent = StatPersisted { cversion: i32::MAX - 1, ..Default::default() };
    let importer = applier.import();
    let mut bytes = Vec::new();
    for (path, stat) in [("", StatPersisted::default()), ("/p", parent)] {
        let acl = proto::state::OPEN_ACL;
        NodeRecord { path: path.into(), data: Some(b""), acl, stat }.encode(&mut bytes);
    }
    importer.nodes(&bytes, 2).unwrap();
    importer.finish(Zxid::ZERO, None).unwrap();
    let mut s = Server::over(tree, applier, PrepConfig::default());
    s.run(ME, NOBODY, &WriteOp::CreateSession { timeout_ms: 1000 });
    s.prepare(ME, NOBODY, &create("/p/s", 2));
    s.prepare(ME, NOBODY, &create("/p/s", 2));
    s.prepare(ME, NOBODY, &create("/p/s", 2));
    s.prepare(ME, NOBODY, &create("/p/plain", 0));
    assert_eq!(s.apply().1, path("/p/s2147483646"));
    assert_eq!(s.apply().1, path("/p/s2147483647"));
    assert_eq!(s.apply().1, Reply::Error(NodeExists));
    // The digests that `apply` compares show that both sides keep the same counter.
    assert_eq!(s.apply().1, path("/p/plain"));
}

#[test]
fn without_digests_records_end_with_their_body() {
    let tree = TreeConfig { digest_enabled: false, ..TreeConfig::default() };
    let mut s = server_with(tree, PrepConfig::default());
    s.prepare(ME, NOBODY, &create("/a", 0));
    assert_eq!(s.last_record().digest, None);
    s.prepare(ME, NOBODY, &set("/a", b"xyz", -1));
    assert_eq!(s.in_flight[1].byte_len(), 32 + 4 + 2 + 4 + 3 + 4);
    s.apply();
    s.apply();
}

#[test]
fn skipped_acls_are_fixed_up_all_the_same() {
    let tree = TreeConfig { skip_acl: true, ..TreeConfig::default() };
    let mut s = server_with(tree, PrepConfig::default());
    let closed = list(&[(31, "digest", "u:h")]);
    s.run(ME, NOBODY, &with_acl("/a", as_acl(&closed)));
    assert_eq!(s.run(ME, NOBODY, &create("/a/b", 0)), path("/a/b"));
    assert_eq!(s.run(ME, NOBODY, &with_acl("/b", as_acl(&list(&[])))), Reply::Error(InvalidAcl));
}
