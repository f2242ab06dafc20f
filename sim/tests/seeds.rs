//! The simulator itself: it repeats, it passes, and what it checks can fail.

use node::LocalSessions;
use proto::peer::{AuthIds, Packet};
use sim::book::{Fact, Judge};
use sim::check::{Entry, Expiry, Judged};
use sim::history::{Asker, History, Reply, Seen, Still};
use sim::op::Op;
use sim::run::{Job, run};
use std::sync::Arc;
use zab::Service;

/// A packet from a leader to a learner.
fn sent(from: usize, to: usize, link: u64, kind: i32, zxid: proto::Zxid) -> Fact<'static> {
    let packet = Packet { kind, zxid: zxid.to_wire(), data: None, auth: AuthIds::NULL };
    Fact::Sent { from, to, link, to_leader: false, packet }
}

const EXPIRY: Expiry = Expiry { fast: 1000, unheard_ms: 0 };

fn check(h: &History, truth: &[Entry], expiry: Expiry) -> Result<Judged, String> {
    sim::check::check(h, truth, expiry, LocalSessions::Off)
}

#[test]
fn some_seeds_pass_and_repeat() {
    for seed in 1..=12 {
        let job = Job { seed, ..Job::default() };
        let (a, b) = (run(&job), run(&job));
        assert!(a.violation.is_none(), "seed {seed}: {}", a.violation.unwrap());
        assert!(a.calls > 50, "seed {seed} asked for {} things only", a.calls);
        assert_eq!((a.trace, a.events), (b.trace, b.events), "seed {seed} does not repeat");
    }
}

/// A right history of one client: a session, a znode, a watch on it, a change that is told, a read, an end.
fn right() -> (History, Vec<Entry>) {
    use proto::txn::{CreateTxnKind, Record, Txn, TxnHeader};
    use proto::{SessionId, WallMs, Xid, Zxid, acl};
    let entry = |zxid: u64, xid: i32, txn: Txn<'_>| {
        let header = TxnHeader {
            session: SessionId(5),
            cxid: Xid(xid),
            zxid: Zxid::from_u64(zxid),
            time: WallMs(0),
            kind: txn.kind(),
        };
        let mut record = Vec::new();
        Record { header, txn, digest: None }.encode(&mut record);
        Entry { zxid: zxid as i64, record: Arc::from(record), at: zxid * 1_000_000 }
    };
    let create = Txn::Create {
        kind: CreateTxnKind::Create,
        path: "/a".into(),
        data: Some(b""),
        acl: acl::OPEN,
        ephemeral: false,
        parent_cversion: 1,
    };
    let set = Txn::SetData { path: "/a".into(), data: Some(b"x"), version: 1, reconfig: false };
    let truth = vec![
        entry(1, 0, Txn::CreateSession { timeout_ms: 1000 }),
        entry(2, 1, create),
        entry(3, 3, set),
        entry(4, 5, Txn::CloseSession { paths: Some(Vec::new()) }),
    ];
    let mut h = History::new(1);
    h.seen[0].push(Seen::Connected {
        session: 5,
        timeout_ms: 1000,
        at: 1_000_000,
        resumed: false,
        read_only: false,
    });
    let mut model = sim::model::Model::default();
    let ask = |h: &mut History, zxid: i64, xid: i32, op: Op, body: Vec<u8>| {
        let asker = Asker { client: 0, server: 0, session: 5, read_only: false };
        let index = h.send(asker, xid, op, xid as u64);
        h.reply(index, Reply { at: xid as u64, zxid, err: 0, body });
    };
    use proto::jute::Put;
    let at = |zxid| sim::model::Ask { session: 5, zxid, time: 0 };
    model.create_session(at(1), 1000);
    let mut body = Vec::new();
    body.put_str("/a");
    let persistent = proto::client::CreateMode::Persistent;
    let op = Op::Create { path: "/a".into(), data: Vec::new(), mode: persistent, stat: false };
    model.execute(at(2), &op);
    ask(&mut h, 2, 1, op, body);
    let get = Op::Get { path: "/a".into(), watch: true };
    let mut body = Vec::new();
    body.put_buffer(Some(b""));
    model.stat("/a").unwrap().encode(&mut body);
    ask(&mut h, 2, 2, get.clone(), body);
    h.seen[0].push(Seen::Event { zxid: 3, kind: 3, path: "/a".into() });
    let op = Op::Set { path: "/a".into(), data: b"x".to_vec(), version: -1 };
    model.execute(at(3), &op);
    let mut body = Vec::new();
    model.stat("/a").unwrap().encode(&mut body);
    ask(&mut h, 3, 3, op, body.clone());
    let mut read = Vec::new();
    read.put_buffer(Some(b"x"));
    read.extend_from_slice(&body);
    ask(&mut h, 3, 4, get, read);
    ask(&mut h, 4, 5, Op::Close, Vec::new());
    (h, truth)
}

/// What is broken, how, and the word in the verdict.
type Break = (&'static str, fn(&mut History, &mut Vec<Entry>));

#[test]
fn each_break_of_a_right_history_is_found() {
    let (h, truth) = right();
    check(&h, &truth, EXPIRY).expect("nothing is wrong with it");
    let breaks: &[Break] = &[
        ("is lost", |h, t| {
            t.truncate(2);
            h.calls.truncate(3);
            h.seen[0].truncate(3);
            h.seen[0].push(Seen::Reply(2));
        }),
        ("never committed", |_, t| {
            t.remove(2);
        }),
        ("nobody asked", |h, _| {
            h.calls[0].op = Op::Ping;
        }),
        ("took two zxids", |_, t| {
            let mut again = t[2].clone();
            again.zxid = 9;
            t.push(again);
        }),
        ("linearizable writes", |h, _| h.calls[2].known = 3),
        ("had to be", |h, _| h.calls[2].reply.as_mut().unwrap().body[3] ^= 1),
        ("had to give", |h, _| h.calls[3].reply.as_mut().unwrap().body[4] ^= 1),
        ("was not told before", |h, _| {
            h.seen[0].remove(3);
        }),
        ("that no watch waited for", |h, _| {
            let event = h.seen[0][3].clone();
            h.seen[0].insert(4, event);
        }),
        ("that no watch waited for", |h, _| {
            h.seen[0][3] = Seen::Event { zxid: 3, kind: 2, path: "/a".into() };
        }),
        ("session order", |h, _| h.seen[0].swap(2, 5)),
        ("sync then read", |h, _| {
            h.calls[1] =
                sim::history::Call { op: Op::Sync { path: "/".into() }, known: 9, ..h.calls[1].clone() };
            h.calls[1].reply.as_mut().unwrap().body = Vec::new();
            h.seen[0].remove(3);
        }),
        ("never closed", |h, _| h.seen[0].push(Seen::Refused { session: 7, at: 0, read_only: false })),
    ];
    for (word, change) in breaks {
        let (mut h, mut truth) = right();
        change(&mut h, &mut truth);
        let verdict = check(&h, &truth, EXPIRY).map(drop);
        let how = verdict.expect_err(word);
        assert!(how.contains(word), "{word}: {how}");
    }
}

/// The same of a local session: no txn opens it, and none ends it.
fn right_local() -> (History, Vec<Entry>) {
    let (h, mut truth) = right();
    truth.retain(|e| e.zxid == 2 || e.zxid == 3);
    (h, truth)
}

#[test]
fn each_break_of_a_right_local_session_is_found() {
    use LocalSessions::{Off, On, Upgradable};
    for local in [On, Upgradable] {
        let (h, truth) = right_local();
        sim::check::check(&h, &truth, EXPIRY, local).expect("nothing is wrong with it");
    }
    let opened = right().1.remove(0);
    type Change<'a> = &'a dyn Fn(&mut History, &mut Vec<Entry>);
    let late = |t: &mut Vec<Entry>| t.insert(0, Entry { at: 2_000_000, ..opened.clone() });
    let breaks: &[(LocalSessions, &str, Change<'_>)] = &[
        (Off, "was opened Local", &|_, _| ()),
        (On, "was opened Global", &|_, t| t.insert(0, opened.clone())),
        (On, "became global", &|_, t| late(t)),
        (Upgradable, "nobody asked for it", &|_, t| late(t)),
        (On, "was asked of a server without a quorum", &|h, _| {
            let Seen::Connected { read_only, .. } = &mut h.seen[0][0] else { unreachable!() };
            *read_only = true;
        }),
        (On, "was asked of a server without a quorum", &|h, _| h.calls[0].read_only = true),
        (On, "needs no log", &|h, _| {
            h.calls[4].reply.as_mut().unwrap().err = proto::Code::NotReadOnly.wire()
        }),
        (On, "is lost", &|h, t| {
            t.pop();
            h.calls[3].reply = None;
            h.seen[0].truncate(4);
        }),
        (On, "was never closed", &|h, _| {
            h.seen[0].push(Seen::Refused { session: 7, at: 0, read_only: false })
        }),
    ];
    for (local, word, change) in breaks {
        let (mut h, mut truth) = right_local();
        change(&mut h, &mut truth);
        let verdict = sim::check::check(&h, &truth, EXPIRY, *local).map(drop);
        let how = verdict.expect_err(word);
        assert!(how.contains(word), "{word}: {how}");
    }
}

#[test]
fn a_session_that_ends_early_is_found() {
    let (mut h, mut truth) = right();
    // Not the client has closed it.
    h.calls.pop();
    h.seen[0].pop();
    let mut record = truth[3].record.to_vec();
    record[8..12].fill(0);
    truth[3].record = Arc::from(record);
    let how = check(&h, &truth, EXPIRY).map(drop).expect_err("4 ms are less than its time-out");
    assert!(how.contains("expired"), "{how}");
    truth[3].at = 1_500_000_000;
    check(&h, &truth, EXPIRY).expect("1.5 s are more than its time-out");
}

/// What a server hears may be unheard by the leader for so long as the server needs to notice that they are apart, and while it
/// stands still it notices nothing.
#[test]
fn what_a_server_hears_that_stood_still_may_be_unheard() {
    let still = |server, from, to| Still { server, from, to };
    let mut h = History::new(1);
    assert_eq!(h.awake_before(0, 100, 30), 70);
    h.stand_still(still(0, 50, 90));
    h.stand_still(still(1, 0, 100));
    for (at, ns, then) in
        [(100, 0, 100), (100, 10, 90), (100, 30, 30), (70, 0, 70), (70, 10, 40), (40, 10, 30)]
    {
        assert_eq!(h.awake_before(0, at, ns), then, "{ns} before {at}");
    }
    // It is stopped again, while it stands still, and wakes earlier; then for a third time.
    h.stand_still(still(0, 60, 65));
    h.stand_still(still(0, 80, 90));
    assert_eq!(h.awake_before(0, 100, 30), 45);

    let (mut h, mut truth) = right();
    h.calls.pop();
    h.seen[0].pop();
    let mut record = truth[3].record.to_vec();
    record[8..12].fill(0);
    // Last used at 4 ns, with a time-out of 1 s: the leader has known of it at 0 at the earliest.
    truth[3] = Entry { record: Arc::from(record), at: 600_000_000, ..truth[3].clone() };
    let apart = Expiry { fast: 1000, unheard_ms: 500 };
    for call in &mut h.calls {
        call.sent += 550_000_000;
        call.reply.as_mut().unwrap().at += 550_000_000;
    }
    check(&h, &truth, apart).map(drop).expect_err("at 50 ms it was heard of, and 600 ms are too early");
    h.stand_still(still(1, 0, 550_000_000));
    check(&h, &truth, apart).map(drop).expect_err("another server stood still");
    truth[3].at = 1_020_000_000;
    check(&h, &truth, apart).map(drop).expect_err("1020 ms are too early too");
    h.stand_still(still(0, 0, 550_000_000));
    check(&h, &truth, apart).expect("its server stood still all the time");
}

#[test]
fn each_invariant_is_asked() {
    use proto::peer::kind;
    use proto::{Epoch, Zxid};
    let z = |n: u64| Zxid::from_u64(n);
    let logged = |server: usize, zxid: Zxid| {
        [Fact::Appended { server, zxid, record: b"a" }, Fact::Durable { server, upto: zxid }]
    };
    // Txn 1 is committed by the servers 0 and 1, then this happens.
    let committed = |then: &[Fact<'static>]| -> Vec<Fact<'static>> {
        let applied = Fact::Applied { server: 0, zxid: z(1), record: b"a" };
        [&logged(0, z(1))[..], &logged(1, z(1)), &[applied], then].concat()
    };
    let epochs = |server, n| Fact::Epochs { server, accepted: Epoch(n), current: Epoch(n) };
    // The others have committed a txn in `epoch`; `server`, which has stood still, begins its reign in another one.
    let reign = |epoch: u32, own: u32, then: Fact<'static>| -> Vec<Fact<'static>> {
        let zxid = Zxid::new(Epoch(epoch), 1);
        let applied = Fact::Applied { server: 0, zxid, record: b"a" };
        let in_own = [epochs(0, own), epochs(2, own), epochs(0, own.max(epoch)), epochs(1, epoch)];
        [&in_own[..], &logged(0, zxid), &logged(1, zxid), &[applied, then]].concat()
    };
    // These servers enter epoch 1, one of them loses its disk, then another one is told UPTODATE; server 3 does not vote.
    let entered = |servers: &[usize], wiped: Option<usize>| -> Vec<Fact<'static>> {
        let begun = Zxid::new(Epoch(1), 0);
        let lost = wiped.map(|server| Fact::Died { server, wiped: true });
        let told = [sent(0, 2, 9, kind::NEWLEADER, begun), sent(0, 2, 9, kind::UPTODATE, begun)];
        servers.iter().map(|&s| epochs(s, 1)).chain(lost).chain(told).collect()
    };
    let cases: Vec<(&str, Vec<Fact<'_>>)> = vec![
        ("PrefixConsistency", committed(&[Fact::Applied { server: 1, zxid: z(1), record: b"b" }])),
        (
            "Integrity",
            vec![
                Fact::Appended { server: 0, zxid: z(1), record: b"a" },
                Fact::Appended { server: 1, zxid: z(1), record: b"b" },
            ],
        ),
        (
            "CommittedByAQuorum",
            vec![
                Fact::Appended { server: 0, zxid: z(1), record: b"a" },
                Fact::Durable { server: 0, upto: z(1) },
                Fact::Applied { server: 0, zxid: z(1), record: b"a" },
            ],
        ),
        (
            "EpochsOnlyGrow",
            vec![
                Fact::Epochs { server: 0, accepted: Epoch(2), current: Epoch(1) },
                Fact::Epochs { server: 0, accepted: Epoch(1), current: Epoch(1) },
            ],
        ),
        ("EpochsCoverTheLog", vec![Fact::Appended { server: 0, zxid: Zxid::new(Epoch(1), 1), record: b"a" }]),
        ("OnlyCommittedIsSeen", vec![Fact::Replied { server: 0, session: 1, zxid: z(1) }]),
        ("NothingCommittedIsCut", committed(&[Fact::Recovered { server: 0, base: z(0), end: z(0) }])),
        (
            "NothingCommittedIsCut",
            // A tree that lacks the first txn takes the place of one that has it, whatever its zxid says.
            committed(&[
                sent(2, 0, 9, kind::SNAP, z(0)),
                sent(2, 0, 9, kind::PROPOSAL, z(2)),
                Fact::Installs { server: 0, link: 9, base: z(2) },
            ]),
        ),
        (
            "LeaderIsComplete",
            reign(2, 3, Fact::Serves { server: 2, service: Service::Leading, applied: z(0) }),
        ),
        ("", reign(2, 1, Fact::Serves { server: 2, service: Service::Leading, applied: z(0) })),
        (
            "PrimaryIntegrity",
            reign(2, 3, Fact::Appended { server: 2, zxid: Zxid::new(Epoch(3), 1), record: b"c" }),
        ),
        ("", reign(2, 1, Fact::Appended { server: 2, zxid: Zxid::new(Epoch(1), 1), record: b"c" })),
        ("UpToDateAfterAQuorum", entered(&[0], Some(0))),
        ("UpToDateAfterAQuorum", entered(&[0, 3], None)),
        // Who has lost its disk since has entered nevertheless.
        ("", entered(&[0, 1], Some(1))),
    ];
    for (name, facts) in cases {
        let mut judge = Judge::new(4, 3);
        facts.iter().for_each(|f| judge.observe(0, f));
        let found = judge.violation.map(|v| v.what).unwrap_or_default();
        assert_eq!(found, name);
    }
}

/// A server recovers a log that ends beyond what anybody has applied; another takes the same records as the tail of a SNAP
/// and comes to lead: they are committed by that, and the first one may go on behind them.
#[test]
fn what_came_as_the_tail_of_a_tree_is_committed_when_its_server_leads() {
    use proto::peer::kind;
    use proto::{Epoch, Zxid};
    let z = |n: u32| Zxid::new(Epoch(1), n);
    let epochs = |server, n| Fact::Epochs { server, accepted: Epoch(n), current: Epoch(n) };
    let log = |server: usize, n: u32| {
        [Fact::Appended { server, zxid: z(n), record: b"a" }, Fact::Durable { server, upto: z(n) }]
    };
    let mut judge = Judge::new(3, 3);
    let mut see = |facts: &[Fact<'_>]| {
        facts.iter().for_each(|f| judge.observe(0, f));
        let found = judge.violation.clone();
        assert!(found.is_none(), "{}", found.unwrap());
        judge.book.committed()
    };
    see(&[epochs(0, 1), epochs(1, 1), epochs(2, 1)]);
    for (server, n) in [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2)] {
        see(&log(server, n));
    }
    assert_eq!(see(&[Fact::Applied { server: 0, zxid: z(1), record: b"a" }]), z(1));
    see(&[
        Fact::Died { server: 1, wiped: false },
        Fact::Recovered { server: 1, base: Zxid::ZERO, end: z(2) },
        Fact::Stands { server: 1, zxid: z(2), digest: 5, mismatches: 0 },
        epochs(0, 2),
        sent(0, 2, 9, kind::SNAP, z(1)),
        sent(0, 2, 9, kind::PROPOSAL, z(2)),
        sent(0, 2, 9, kind::COMMIT, z(2)),
        sent(0, 2, 9, kind::PROPOSAL, z(3)),
        sent(0, 2, 9, kind::COMMIT, z(3)),
        sent(0, 2, 9, kind::NEWLEADER, Zxid::new(Epoch(2), 0)),
        Fact::Died { server: 0, wiped: false },
        Fact::Installs { server: 2, link: 9, base: z(3) },
        Fact::Anew { server: 2, base: z(3) },
        epochs(2, 2),
        epochs(0, 3),
        epochs(2, 3),
    ]);
    assert_eq!(see(&[Fact::Serves { server: 2, service: Service::Leading, applied: z(3) }]), z(3));
    see(&log(1, 3));
    see(&[Fact::Applied { server: 1, zxid: z(3), record: b"a" }]);
}

/// A server reads a log that ends beyond what anybody has applied into its tree, comes to lead, and applies what follows. The
/// record that nobody was seen to apply is committed with it, if a quorum has it: else there is a hole.
#[test]
fn what_a_server_has_read_from_its_log_is_committed_by_what_it_applies_behind_it() {
    use proto::{Epoch, Zxid};
    let z = |n: u32| Zxid::new(Epoch(1), n);
    let verdict = |holders_of_2: &[usize]| {
        let mut judge = Judge::new(3, 3);
        let mut see = |fact: Fact<'_>| judge.observe(0, &fact);
        for server in 0..3 {
            see(Fact::Epochs { server, accepted: Epoch(1), current: Epoch(1) });
        }
        for (server, n) in [(0, 1), (2, 1)] {
            see(Fact::Appended { server, zxid: z(n), record: b"a" });
            see(Fact::Durable { server, upto: z(n) });
        }
        see(Fact::Applied { server: 0, zxid: z(1), record: b"a" });
        for &server in holders_of_2 {
            see(Fact::Appended { server, zxid: z(2), record: b"b" });
            see(Fact::Durable { server, upto: z(2) });
        }
        see(Fact::Died { server: 2, wiped: false });
        see(Fact::Recovered { server: 2, base: Zxid::ZERO, end: z(2) });
        see(Fact::Stands { server: 2, zxid: z(2), digest: 5, mismatches: 0 });
        for server in [2, 0] {
            see(Fact::Appended { server, zxid: z(3), record: b"c" });
            see(Fact::Durable { server, upto: z(3) });
        }
        see(Fact::Applied { server: 2, zxid: z(3), record: b"c" });
        (judge.violation.map(|v| v.what), judge.book.place(z(2)).is_some())
    };
    assert_eq!(verdict(&[2, 0]), (None, true));
    assert_eq!(verdict(&[2]).0.as_deref(), Some("PrefixConsistency"));
}
