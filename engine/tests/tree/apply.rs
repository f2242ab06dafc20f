//! What each txn does, and what it does when its effect is there already (storage format, section 5).

use crate::world::*;
use engine::{ApplyError, TreeConfig};
use proto::client::MultiResult;
use proto::txn::{CreateTxnKind, Txn};
use proto::{Code, Owner, SessionId, Stat, StatPersisted, WallMs, Zxid, acl};

fn fresh(zxid: i64, time: i64) -> StatPersisted {
    StatPersisted { czxid: zxid, mzxid: zxid, pzxid: zxid, ctime: time, mtime: time, ..Default::default() }
}

#[test]
fn a_fresh_tree_is_that_of_apache() {
    let w = World::new();
    w.check();
    assert_eq!(w.tree.digest(), 0x51c6_d660);
    assert_eq!(w.tree.stats().znodes, 5);
    assert_eq!(w.stat("/zookeeper/config").map(|s| (s.version, s.aversion)), Some((0, -1)));
    assert_eq!(w.acl("/zookeeper/config"), acl::WORLD_READ.as_bytes());
    assert_eq!(w.stat(""), Some(StatPersisted::default()));
}

#[test]
fn a_create_touches_the_znode_and_its_parent() {
    let mut w = World::new();
    assert_eq!(w.create("/a"), Said::Path("/a".into()));
    assert_eq!(w.stat("/a"), Some(fresh(1, 1000)));
    let root = w.stat("/").unwrap();
    assert_eq!(root, StatPersisted { cversion: 1, pzxid: 1, ..Default::default() });
    w.time = 2000;
    let said = w.txn(create_as(CreateTxnKind::Create2, "/a/b", None, acl::OPEN, false, 1));
    let stat = Stat { czxid: 2, mzxid: 2, pzxid: 2, ctime: 2000, mtime: 2000, ..Default::default() };
    assert_eq!(said, Said::PathStat("/a/b".into(), stat));
    assert_eq!(w.stat("/a"), Some(StatPersisted { cversion: 1, pzxid: 2, ..fresh(1, 1000) }));
    assert_eq!(w.data("/a/b"), None);
    assert_eq!(w.stat("/").unwrap(), root, "a grandchild is no matter");
    assert_eq!(w.create("/no/such"), Said::Error(Code::NoNode));
}

#[test]
fn owners() {
    let mut w = World::new();
    w.txn(ephemeral("/e", 1));
    w.txn(create_as(CreateTxnKind::Container, "/c", Some(b""), acl::OPEN, false, 2));
    let said = w.txn(create_as(CreateTxnKind::Ttl(500), "/t", Some(b""), acl::OPEN, false, 3));
    let Said::PathStat(_, seen) = said else { panic!("{said:?}") };
    assert_eq!(seen.ephemeral_owner, 0, "clients don't see the marks");
    assert_eq!(w.stat("/e").unwrap().ephemeral_owner, 7);
    assert_eq!(w.stat("/c").unwrap().ephemeral_owner, Owner::CONTAINER);
    assert_eq!(w.stat("/t").unwrap().ephemeral_owner, Owner::Ttl(500).stored());
    assert_eq!(w.tree.ephemerals_of(SessionId(7)), ["/e".into()]);
    assert_eq!((w.tree.stats().ephemerals, w.tree.ephemerals_of(SessionId(8)).len()), (1, 0));
    w.txn(delete("/e"));
    assert_eq!((w.tree.stats().ephemerals, w.tree.ephemerals_by_session().len()), (0, 0));
}

#[test]
fn a_create_of_what_exists_changes_only_list_and_parent() {
    let own = list(31, "digest", "u:h");
    for kind in
        [CreateTxnKind::Create, CreateTxnKind::Create2, CreateTxnKind::Container, CreateTxnKind::Ttl(9)]
    {
        let mut w = World::new();
        w.create("/a");
        w.txn(set("/a", b"new", 1));
        let before = w.stat("/a");
        let again = |c| create_as(kind, "/a", Some(b"old"), as_acl(&own), false, c);
        assert_eq!(w.txn(again(1)), Said::Error(Code::NodeExists));
        assert_eq!((w.stat("/a"), w.data("/a")), (before, Some(b"new".to_vec())));
        assert_eq!(w.acl("/a"), own);
        assert_eq!(w.stat("/").map(|s| (s.cversion, s.pzxid)), Some((1, 1)), "not raised by the same number");
        w.txn(again(5));
        assert_eq!(w.stat("/").map(|s| (s.cversion, s.pzxid)), Some((5, 4)), "raised by a larger one");
    }
}

#[test]
fn records_of_old_logs_leave_the_counter_to_the_tree() {
    let mut w = World::new();
    for (path, cversion) in [("/a", 1), ("/b", 2)] {
        w.txn(create(path, -1));
        assert_eq!(w.stat("/").unwrap().cversion, cversion);
    }
}

#[test]
fn the_parents_counter_is_only_raised() {
    let mut w = World::new();
    w.txn(create("/a", 10));
    w.txn(create("/b", 3));
    assert_eq!(w.stat("/").map(|s| (s.cversion, s.pzxid)), Some((10, 1)));
    assert!(w.stat("/b").is_some());
}

#[test]
fn a_delete_raises_pzxid_even_if_the_znode_is_missing() {
    let mut w = World::new();
    w.create("/a");
    w.create("/a/b");
    assert_eq!(w.txn(delete("/a/b")), Said::Empty);
    assert_eq!(w.stat("/a").map(|s| (s.cversion, s.pzxid)), Some((1, 3)));
    assert_eq!(w.txn(delete("/a/b")), Said::Error(Code::NoNode));
    assert_eq!(w.stat("/a").unwrap().pzxid, 4);
    w.again(2, delete("/a/b"));
    assert_eq!(w.stat("/a").unwrap().pzxid, 4, "never lowered");
    assert_eq!(w.txn(delete("/x/y")), Said::Error(Code::NoNode));
    assert_eq!(w.txn(delete("/")), Said::Error(Code::NoNode));
}

#[test]
fn set_data_and_set_acl() {
    let mut w = World::new();
    w.create("/a");
    w.time = 3000;
    let said = w.txn(set("/a", b"four", 1));
    let want = StatPersisted { mzxid: 2, mtime: 3000, version: 1, ..fresh(1, 1000) };
    assert_eq!(said, Said::Stat(want.client_view(4, 0, true)));
    assert_eq!((w.stat("/a"), w.data("/a")), (Some(want), Some(b"four".to_vec())));
    let txn = Txn::SetData { path: "/a".into(), data: None, version: 2, reconfig: false };
    let Said::Stat(stat) = w.txn(txn) else { panic!() };
    assert_eq!((stat.data_length, w.data("/a")), (0, None));
    let own = list(1, "digest", "u:h");
    let said = w.txn(Txn::SetAcl { path: "/a".into(), acl: as_acl(&own), aversion: 1 });
    let want = StatPersisted { aversion: 1, mzxid: 3, version: 2, ..want };
    assert_eq!(said, Said::Stat(want.client_view(0, 0, true)));
    assert_eq!((w.stat("/a"), w.acl("/a")), (Some(want), own));
    assert_eq!(w.txn(set("/b", b"", 1)), Said::Error(Code::NoNode));
    let missing = Txn::SetAcl { path: "/b".into(), acl: acl::OPEN, aversion: 1 };
    assert_eq!(w.txn(missing), Said::Error(Code::NoNode));
    assert!(matches!(w.txn(set("/", b"root", 1)), Said::Stat(_)));
    assert_eq!(w.data(""), Some(b"root".to_vec()));
}

#[test]
fn a_session_takes_its_ephemerals_along() {
    let mut w = World::new();
    assert_eq!(w.txn(Txn::CreateSession { timeout_ms: 4000 }), Said::Empty);
    assert_eq!(w.tree.session_timeout(SessionId(7)), Some(4000));
    w.create("/a");
    for (path, c) in [("/a/1", 1), ("/a/2", 2), ("/a/3", 3)] {
        w.txn(ephemeral(path, c));
    }
    w.create("/a/4");
    // Listed, missing, of nobody; /a/3 is not listed but owned here.
    assert_eq!(w.txn(close(&["/a/1", "/a/2", "/a/9", "/x/y"])), Said::Empty);
    for (path, there) in [("/a/1", false), ("/a/2", false), ("/a/3", false), ("/a/4", true)] {
        assert_eq!(w.stat(path).is_some(), there, "{path}");
    }
    let closed = w.zxid as i64;
    assert_eq!(w.stat("/a").map(|s| (s.cversion, s.pzxid)), Some((4, closed)));
    assert_eq!((w.tree.session_count(), w.tree.stats().ephemerals), (0, 0));
    // A session whose list says nothing, as in old logs.
    w.txn(ephemeral("/a/5", 5));
    w.txn(Txn::CloseSession { paths: None });
    assert!(w.stat("/a/5").is_none());
    // The list rules, whoever owns the znode now.
    w.session = 8;
    w.txn(ephemeral("/a/6", 6));
    w.session = 7;
    w.txn(close(&["/a/6"]));
    assert!(w.stat("/a/6").is_none());
    assert_eq!(w.tree.ephemerals_by_session().len(), 0);
}

#[test]
fn a_multi_is_all_or_nothing() {
    let mut w = World::new();
    w.create("/a");
    let before = dump(&w.tree);
    let failed = Txn::Multi(vec![
        create("/b", 2),
        Txn::Error { code: Code::BadVersion.wire() },
        Txn::Error { code: Code::RuntimeInconsistency.wire() },
    ]);
    let error = |c: i32| MultiResult::Error(c);
    assert_eq!(w.txn(failed), Said::Multi(vec![error(0), error(-103), error(-2)]));
    assert_eq!(dump(&w.tree), before);

    let Said::Multi(results) = w.txn(Txn::Multi(vec![
        Txn::Check { path: "/a".into(), version: 1 },
        create("/b", 2),
        create_as(CreateTxnKind::Create2, "/b/c", Some(b"x"), acl::OPEN, false, 1),
        set("/b", b"12", 1),
        delete("/a"),
    ])) else {
        panic!()
    };
    assert_eq!(results[0], MultiResult::Check);
    assert_eq!(results[1], MultiResult::Create("/b".into()));
    assert!(matches!(&results[2], MultiResult::Create2(p, s) if p == "/b/c" && s.czxid == 3));
    assert!(matches!(&results[3], MultiResult::SetData(s) if s.version == 1 && s.num_children == 1));
    assert_eq!(results[4], MultiResult::Delete);
    assert!(w.stat("/a").is_none());
    assert_eq!(w.txn(Txn::Multi(vec![])), Said::Multi(vec![]));
    // The connection is closed instead of answered.
    let moved = Txn::Multi(vec![Txn::Error { code: Code::SessionMoved.wire() }]);
    assert_eq!(w.txn(moved), Said::Error(Code::SessionMoved));
}

#[test]
fn txns_that_change_nothing_take_their_zxid() {
    let mut w = World::new();
    let before = dump(&w.tree);
    assert_eq!(w.txn(Txn::Error { code: -101 }), Said::Error(Code::NoNode));
    assert_eq!(w.txn(Txn::Error { code: -4711 }), Said::Error(Code::MarshallingError));
    assert_eq!(w.txn(Txn::Check { path: "/a".into(), version: 1 }), Said::Empty);
    assert_eq!(dump(&w.tree), before);
    assert_eq!(w.tree.applied(), Zxid::from_u64(3));
    w.again(2, Txn::Error { code: -101 });
    assert_eq!(w.tree.applied(), Zxid::from_u64(3), "never lowered");
    w.applier.advance(Zxid::from_u64(0x1_0000_0000));
    w.applier.advance(Zxid::from_u64(9));
    assert_eq!(w.tree.applied(), Zxid::from_u64(0x1_0000_0000));
}

#[test]
fn bytes_that_are_no_record_are_refused_and_change_nothing() {
    let mut w = World::new();
    w.create("/a");
    let before = dump(&w.tree);
    let record = w.encode(9, create("/b", 2), None);
    for cut in [0, 10, 31, 40, record.len() - 6] {
        let zxid = (cut >= 32).then_some(Zxid::from_u64(9));
        let ears = Ears::default();
        let error = w.applier.apply(&record[..cut], &ears, &mut |_, _| panic!("no reply"));
        assert!(
            matches!(error, Err(ApplyError::Undecodable { zxid: z, .. }) if z == zxid),
            "{cut}: {error:?}"
        );
    }
    assert_eq!(dump(&w.tree), before);
    assert_eq!(w.tree.applied(), Zxid::from_u64(1));
}

#[test]
fn digests_are_compared_and_kept() {
    let mut w = World::new();
    let record = w.encode(1, create("/a", 1), None);
    w.apply(&record);
    let right = w.tree.digest();
    for (digest, mismatches) in [(right, 0), (right + 1, 1), (right, 1)] {
        let record = w.encode(1, create("/a", 1), Some(digest));
        w.apply(&record);
        assert_eq!(w.tree.digest_mismatches(), mismatches);
    }
    let record = w.encode(0, Txn::Check { path: "/a".into(), version: 0 }, Some(right + 1));
    w.apply(&record);
    assert_eq!(w.tree.digest_mismatches(), 1, "an old record's digest is of an old tree");
    for zxid in 2..=300_u64 {
        let record = w.encode(zxid, set("/a", b"x", zxid as i32), None);
        w.apply(&record);
    }
    let log = w.tree.digest_log();
    assert_eq!(log.iter().map(|(z, _)| z.as_u64()).collect::<Vec<_>>(), [128, 256]);
    for i in 3..1100_u64 {
        let record = w.encode(i * 128, Txn::Error { code: -101 }, None);
        w.apply(&record);
    }
    let log = w.tree.digest_log();
    assert_eq!((log.len(), log[1023].0), (1024, Zxid::from_u64(1099 * 128)));
    assert_eq!(log[1023].1, w.tree.digest());

    let mut w = World::with(TreeConfig { shards: 1, digest_enabled: false, ..TreeConfig::default() });
    let record = w.encode(128, create("/a", 1), Some(5));
    w.apply(&record);
    assert_eq!((w.tree.digest(), w.tree.digest_mismatches(), w.tree.digest_log().len()), (0, 0, 0));
}

#[test]
fn quotas_are_counted() {
    let mut w = World::new();
    let stats = "/zookeeper/quota/a/zookeeper_stats";
    w.create("/a");
    w.create("/a/b");
    w.create("/zookeeper/quota/a");
    assert_eq!(w.tree.quota_for("/a"), None);
    let limits = b"count=-1,bytes=-1=;byteHardLimit=100;countHardLimit=5";
    let c = w.next_cversion("/zookeeper/quota/a/x");
    let path = "/zookeeper/quota/a/zookeeper_limits";
    w.txn(create_as(CreateTxnKind::Create, path, Some(limits), acl::OPEN, false, c));
    let quota = w.tree.quota_for("/a/b/c").unwrap();
    assert_eq!((&*quota.prefix, quota.count_hard_limit, quota.bytes_limit, quota.used), ("/a", 5, -1, None));
    w.create(stats);
    let counted = |w: &World| String::from_utf8(w.data(stats).unwrap()).unwrap();
    assert_eq!(counted(&w), "count=2,bytes=2");
    let stat = w.stat(stats);
    w.create("/a/c");
    w.txn(set("/a/c", b"12345", 1));
    assert_eq!(counted(&w), "count=3,bytes=7");
    assert_eq!(w.tree.quota_for("/a").unwrap().used, Some((3, 7)));
    w.txn(Txn::Multi(vec![create("/a/d", 3), delete("/a/c"), set("/a/b", b"", 1)]));
    assert_eq!(counted(&w), "count=3,bytes=2");
    w.txn(ephemeral("/a/e", 4));
    assert_eq!(counted(&w), "count=4,bytes=3");
    w.txn(close(&["/a/e"]));
    assert_eq!(counted(&w), "count=3,bytes=2");
    w.create("/ab");
    assert_eq!(counted(&w), "count=3,bytes=2", "a neighbour is not counted");
    assert_eq!(w.stat(stats), stat, "counts leave no trace in the stat");
    // Garbage that a client writes is no reason to stop.
    w.txn(set(stats, b"bytes=x,,=;count", 1));
    w.create("/a/f");
    assert_eq!(counted(&w), "count=0,bytes=0");
    w.txn(delete(path));
    w.create("/a/g");
    assert_eq!(counted(&w), "count=0,bytes=0");
    assert_eq!(w.tree.quota_for("/a"), None);
    // A quota that begins within the txn that fills it.
    w.txn(Txn::Multi(vec![
        create("/q", 4),
        create("/zookeeper/quota/q", 2),
        create("/zookeeper/quota/q/zookeeper_limits", 1),
        create("/zookeeper/quota/q/zookeeper_stats", 2),
        create("/q/1", 1),
    ]));
    assert_eq!(w.data("/zookeeper/quota/q/zookeeper_stats"), Some(b"count=2,bytes=2".to_vec()));
    // Places that are no quota of anything.
    w.create("/zookeeper/quota/zookeeper_limits");
    w.create("/zookeeper/quota/zookeeper_stats");
    w.txn(delete("/zookeeper/quota/zookeeper_limits"));
    assert_eq!(w.tree.quota_for("/q/1").map(|q| q.prefix), Some("/q".into()));
}

#[test]
fn the_server_s_own_znodes_may_lie_under_a_quota() {
    // With many shards, so that the counts hardly ever lie in one that is touched anyway.
    let mut w = World::with(TreeConfig { shards: 1024, ..TreeConfig::default() });
    for path in ["", "/zookeeper_limits", "/zookeeper_stats"] {
        w.create(&format!("/zookeeper/quota/zookeeper{path}"));
    }
    let stats = "/zookeeper/quota/zookeeper/zookeeper_stats";
    let bytes = |w: &World| w.tree.quota_for("/zookeeper/config").unwrap().used.unwrap().1;
    let before = bytes(&w);
    w.applier.set_config(b"1234567", 1, WallMs(1), &w.ears);
    assert_eq!(bytes(&w), before + 7);
    w.check();
    w.txn(delete(stats));
    w.applier.set_config(b"", 2, WallMs(2), &w.ears);
    w.check();
}

#[test]
fn the_configuration_is_a_local_matter() {
    let mut w = World::new();
    let digest = w.tree.digest();
    w.applier.set_config(b"server.1=a:1:2", 0x100, WallMs(77), &w.ears);
    let stat = w.stat("/zookeeper/config").unwrap();
    assert_eq!((stat.version, stat.aversion, stat.mzxid, stat.mtime, stat.czxid), (-1, -1, 0x100, 77, 0));
    assert_eq!(w.data("/zookeeper/config"), Some(b"server.1=a:1:2".to_vec()));
    assert_eq!((w.tree.digest(), w.tree.applied()), (digest, Zxid::ZERO));
    w.check();
    let txn =
        Txn::SetData { path: "/zookeeper/config".into(), data: Some(b"new"), version: -1, reconfig: true };
    let Said::Config(text, stat) = w.txn(txn) else { panic!() };
    assert_eq!((&*text, stat.version, stat.mzxid), (&b"new"[..], -1, 1));
    w.txn(delete("/zookeeper/config"));
    w.applier.set_config(b"again", 5, WallMs(78), &w.ears);
    assert_eq!(w.acl("/zookeeper/config"), acl::WORLD_READ.as_bytes());
    assert_eq!(w.data("/zookeeper/config"), Some(b"again".to_vec()));
    w.check();
}

#[test]
fn containers_and_ttl_znodes_become_due() {
    let mut w = World::new();
    let mut c = 0;
    let mut make = |w: &mut World, kind, path: &str| {
        c += 1;
        w.txn(create_as(kind, path, Some(b""), acl::OPEN, false, c));
    };
    make(&mut w, CreateTxnKind::Container, "/used");
    make(&mut w, CreateTxnKind::Container, "/unused");
    make(&mut w, CreateTxnKind::Container, "/busy");
    make(&mut w, CreateTxnKind::Ttl(500), "/ttl");
    make(&mut w, CreateTxnKind::Ttl(500), "/ttl-busy");
    for parent in ["/used", "/busy", "/ttl-busy"] {
        w.create(&format!("{parent}/x"));
    }
    w.txn(delete("/used/x"));
    let due = |w: &World, now, never, max| {
        let mut due = w.tree.due_containers(WallMs(now), never, max);
        due.sort_unstable();
        due
    };
    assert_eq!(due(&w, 1500, 0, 100), ["/used"]);
    assert_eq!(due(&w, 1501, 0, 100), ["/ttl", "/used"]);
    assert_eq!(due(&w, 1501, 501, 100), ["/ttl", "/used"]);
    assert_eq!(due(&w, 1502, 501, 100), ["/ttl", "/unused", "/used"]);
    assert_eq!(due(&w, 1502, 501, 1).len(), 1);
    w.time = 1400;
    w.txn(set("/ttl", b"", 1));
    assert_eq!(due(&w, 1900, 0, 100), ["/used"]);
    assert_eq!(w.txn(Txn::Delete { path: "/used".into(), container: true }), Said::Empty);
    assert_eq!(due(&w, 1900, 0, 100), [""; 0]);
    for i in 0..2000 {
        let path = format!("/many-{i}");
        let txn = create_as(CreateTxnKind::Ttl(1), &path, None, acl::OPEN, false, 10 + i);
        let record = w.encode(100 + i as u64, txn, None);
        w.apply(&record);
    }
    w.check();
    assert_eq!(due(&w, 9000, 0, 5000).len(), 2001);
    assert_eq!(due(&w, 9000, 0, 70).len(), 70);
}

#[test]
fn without_extended_types_a_mark_is_a_session() {
    let mut w = World::with(TreeConfig { shards: 2, ..TreeConfig::default() });
    let owner = Owner::Ttl(5).stored();
    w.txn(create_as(CreateTxnKind::Ttl(5), "/t", Some(b""), acl::OPEN, false, 1));
    assert_eq!(w.tree.ephemerals_of(SessionId(owner)), ["/t".into()]);
    assert!(w.tree.due_containers(WallMs(i64::MAX), 0, 9).is_empty());
}

#[test]
fn every_txn_twice_is_every_txn_once() {
    let own = list(31, "digest", "u:h");
    let (mut once, mut twice) = (World::new(), World::new());
    let txns = || {
        vec![
            Txn::CreateSession { timeout_ms: 5 },
            create("/a", 1),
            create("/a/b", 1),
            ephemeral("/a/e", 2),
            create_as(CreateTxnKind::Container, "/c", None, as_acl(&own), false, 2),
            create_as(CreateTxnKind::Ttl(5), "/t", None, acl::OPEN, false, 3),
            set("/a/b", b"longer", 1),
            Txn::SetAcl { path: "/a".into(), acl: as_acl(&own), aversion: 1 },
            create("/zookeeper/quota/a", 1),
            create("/zookeeper/quota/a/zookeeper_limits", 1),
            create("/zookeeper/quota/a/zookeeper_stats", 2),
            Txn::Multi(vec![create("/a/m", 3), set("/a/m", b"12", 1), delete("/a/b")]),
            Txn::Multi(vec![create("/a/n", 4), Txn::Error { code: -103 }]),
            delete("/t"),
            close(&["/a/e"]),
            Txn::Error { code: -101 },
        ]
    };
    for (a, b) in txns().into_iter().zip(txns()) {
        once.txn(a);
        let zxid = once.zxid;
        twice.again(zxid, b.clone());
        twice.again(zxid, b);
        assert_eq!(dump(&once.tree), dump(&twice.tree));
        assert_eq!(once.tree.digest(), twice.tree.digest());
    }
}
