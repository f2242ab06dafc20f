//! Sessions that only their server knows, and how they become everybody's.

use crate::world::*;
use node::{CloseReason, LocalSessions, Service};
use proto::client::OpCode;
use proto::{Code, SessionId, Zxid};

const EPHEMERAL: i32 = 1;

/// Three voters and an observer: the leader is 2, the observer 3.
fn started(local: LocalSessions) -> World {
    let mut w = World::new(4, 1, 1);
    w.local_sessions = vec![local; 4];
    w.start_all();
    w.until(1_000, "an ensemble", |w| w.all_serve());
    assert_eq!((w.leader(), w.up(3).serving), (Some(2), Service::Observing));
    w
}

fn is_global(w: &World, s: usize, session: SessionId) -> bool {
    w.up(s).tree.session_timeout(session).is_some()
}

#[test]
fn a_local_session_costs_no_txn_and_only_its_server_knows_it() {
    let mut w = started(LocalSessions::On);
    let before = w.up(2).node.proposed();
    for s in 0..4 {
        let (c, session) = w.connect(s, 5_000);
        assert_eq!(session.0 >> 56, s as i64 + 1);
        w.hang_up(c);
        let again = w.dial(s, session, 7_000, Zxid::ZERO);
        assert_eq!(w.seen(again), [Seen::Connected(session)], "its own server knows it");
        for other in (0..4).filter(|&o| o != s) {
            let stranger = w.dial(other, session, 5_000, Zxid::ZERO);
            w.until(1_000, "an answer", |w| w.seen(stranger) == [Seen::Refused]);
        }
        assert_eq!(w.up(s).node.local_sessions(), 1);
        assert_eq!(w.done(again, OpCode::CloseSession, &[]), Ok(String::new()));
        assert!(w.is_closed(again));
        assert_eq!(w.up(s).node.local_sessions(), 0);
        let gone = w.dial(s, session, 5_000, Zxid::ZERO);
        w.until(1_000, "an answer", |w| w.seen(gone) == [Seen::Refused]);
    }
    w.run(1_000);
    assert_eq!(w.up(2).node.proposed(), before, "nothing was logged");
}

#[test]
fn a_local_session_writes_and_gets_no_ephemeral_where_it_may_not_become_global() {
    let mut w = started(LocalSessions::On);
    for s in 0..4 {
        let (c, session) = w.connect(s, 5_000);
        let path = format!("/p{s}");
        assert_eq!(w.done(c, OpCode::Create, &create(&path, 0)), Ok(path.clone()));
        assert!(w.exists(s, &path));
        let before = w.up(2).node.proposed();
        for (op, flags) in [(OpCode::Create, 1), (OpCode::Create2, 3)] {
            let refused = w.done(c, op, &create("/e", flags));
            assert_eq!(refused, Err(Code::EphemeralOnLocalSession), "through {s}");
        }
        assert_eq!(
            w.up(2).node.proposed(),
            Zxid::from_u64(before.as_u64() + 2),
            "each failure takes its zxid"
        );
        // Not an operation that is looked into for a session to upgrade: it is simply unknown to the leader.
        assert_eq!(w.done(c, OpCode::CreateContainer, &create("/c", 1)), Err(Code::SessionExpired));
        // The leader knows why; it tells a learner what it would tell of any session that it does not know.
        let why = if s == 2 { "-120" } else { "-112" };
        let ops =
            [create(&format!("/m{s}"), 0), create("/e", 1), create("/n", 0)].map(|b| (OpCode::Create, b));
        assert_eq!(w.done(c, OpCode::Multi, &multi(&ops)), Ok(format!("0 {why} -2")), "through {s}");
        assert!(!w.exists(s, &format!("/m{s}")) && !w.exists(s, "/e"));
        assert!(!is_global(&w, s, session));
    }
    w.run(100);
    assert!(w.all_equal());
}

#[test]
fn the_first_ephemeral_makes_a_session_global_ahead_of_it() {
    for s in 0..4 {
        for in_multi in [false, true] {
            let mut w = started(LocalSessions::Upgradable);
            let (c, session) = w.connect(s, 5_000);
            w.hang_up(c);
            let c = w.dial(s, session, 7_000, Zxid::ZERO);
            w.done(c, OpCode::Create, &create("/p", 0)).unwrap();
            assert!(!is_global(&w, s, session));
            let before = w.up(2).node.proposed();
            if in_multi {
                let ops = [create("/m", 0), create("/e", EPHEMERAL)].map(|b| (OpCode::Create, b));
                assert_eq!(w.done(c, OpCode::Multi, &multi(&ops)), Ok("ok ok".into()));
            } else {
                assert_eq!(w.done(c, OpCode::Create, &create("/e", EPHEMERAL)), Ok("/e".into()));
            }
            let txns = w.up(2).node.proposed().as_u64() - before.as_u64();
            assert_eq!(txns, 2, "a createSession and what needed it");
            assert_eq!(w.up(s).tree.session_timeout(session), Some(5_000), "as it was opened");
            assert_eq!(w.up(s).node.local_sessions(), 0);
            w.done(c, OpCode::Create, &create("/f", EPHEMERAL)).unwrap();
            assert_eq!(w.up(2).node.proposed().as_u64() - before.as_u64(), 3, "once");
            w.run(100);
            assert!(w.all_equal());
            // From now on every server knows it.
            let other = (s + 1) % 4;
            let moved = w.dial(other, session, 7_000, Zxid::ZERO);
            w.until(1_000, "the session", |w| w.session(moved) == Some(session));
            for _ in 0..100 {
                w.hear(moved);
                w.run(100);
            }
            assert!((0..4).all(|s| w.exists(s, "/e") && w.exists(s, "/f")), "its ephemerals live as it does");
            w.done(moved, OpCode::CloseSession, &[]).unwrap();
            w.run(100);
            assert!((0..4).all(|s| !w.exists(s, "/e") && !w.exists(s, "/f") && w.exists(s, "/p")));
        }
    }
}

#[test]
fn an_upgraded_session_that_nobody_keeps_ends_once() {
    for s in 0..4 {
        let mut w = started(LocalSessions::Upgradable);
        let (c, session) = w.connect(s, 1_000);
        w.done(c, OpCode::Create, &create("/e", EPHEMERAL)).unwrap();
        w.hang_up(c);
        let before = w.up(2).node.proposed();
        w.until(3_000, "its end", |w| (0..4).all(|s| !w.exists(s, "/e")));
        w.run(2_000);
        assert!(!is_global(&w, 2, session));
        assert_eq!(w.up(2).node.proposed().as_u64() - before.as_u64(), 1, "one closeSession");
    }
}

#[test]
fn an_upgraded_session_comes_back_before_its_txn_is_committed() {
    for s in [0, 2, 3] {
        let mut w = started(LocalSessions::Upgradable);
        // Two slow disks: nothing is committed for a while.
        for v in 0..3 {
            w.servers[v].disk_us = 100_000;
        }
        let (c, session) = w.connect(s, 5_000);
        assert!(w.write(c, 1, OpCode::Create, &create("/e", EPHEMERAL)));
        w.hang_up(c);
        let again = w.dial(s, session, 5_000, Zxid::ZERO);
        w.until(50, "the session", |w| w.session(again) == Some(session));
        assert!(!w.exists(s, "/e"), "not committed yet");
        w.until(2_000, "the ephemeral", |w| w.exists(s, "/e"));
        assert_eq!(w.done(again, OpCode::CloseSession, &[]), Ok(String::new()));
        w.until(2_000, "its end", |w| !w.exists(s, "/e"));
    }
}

#[test]
fn a_local_session_ends_with_its_time_out_without_a_txn() {
    for s in 0..4 {
        let mut w = started(LocalSessions::Upgradable);
        let (kept, _) = w.connect(s, 1_000);
        let (silent, session) = w.connect(s, 1_000);
        let (gone, other) = w.connect(s, 1_000);
        w.hang_up(gone);
        let before = w.up(2).node.proposed();
        for _ in 0..9 {
            w.hear(kept);
            w.run(100);
        }
        assert!(!w.is_closed(silent), "never early");
        for _ in 0..10 {
            w.hear(kept);
            w.run(100);
        }
        assert_eq!(w.seen(silent).last(), Some(&Seen::Closed(CloseReason::SessionClosed)));
        assert!(!w.is_closed(kept));
        assert_eq!((w.up(s).node.local_sessions(), w.up(2).node.proposed()), (1, before));
        for id in [session, other] {
            let late = w.dial(s, id, 1_000, Zxid::ZERO);
            w.until(1_000, "an answer", |w| w.seen(late) == [Seen::Refused]);
        }
    }
}

#[test]
fn a_client_that_closes_a_local_session_hears_first_what_it_asked_before() {
    for s in 0..4 {
        let mut w = started(LocalSessions::On);
        let (c, _) = w.connect(s, 5_000);
        w.seen(c);
        for (xid, path) in [(1, "/a"), (2, "/b")] {
            assert!(w.write(c, xid, OpCode::Create, &create(path, 0)));
        }
        assert!(w.write(c, 3, OpCode::Sync, &[]));
        assert!(w.write(c, 4, OpCode::Create, &create("/c", 0)));
        assert!(w.write(c, 5, OpCode::CloseSession, &[]));
        w.until(1_000, "the end", |w| w.is_closed(c));
        let seen = w.seen(c);
        let xids =
            seen.iter().filter_map(|s| if let Seen::Reply { xid, .. } = s { Some(*xid) } else { None });
        assert_eq!(xids.collect::<Vec<_>>(), [1, 2, 3, 4, 5], "through {s}: {seen:?}");
        assert!(["/a", "/b", "/c"].iter().all(|p| w.exists(s, p)));
    }
}

#[test]
fn local_sessions_end_with_the_role_of_their_server_and_upgraded_ones_do_not() {
    let mut w = started(LocalSessions::Upgradable);
    let (a, local) = w.connect(0, 5_000);
    let (b, upgraded) = w.connect(0, 5_000);
    w.done(b, OpCode::Create, &create("/e", EPHEMERAL)).unwrap();
    w.crash(2);
    w.until(1_000, "another leader", |w| w.leader().is_some() && w.is_serving(0) && w.is_serving(1));
    assert!(w.is_closed(a) && w.is_closed(b));
    let a = w.dial(0, local, 5_000, Zxid::ZERO);
    w.until(1_000, "an answer", |w| w.seen(a) == [Seen::Refused]);
    let b = w.dial(1, upgraded, 5_000, Zxid::ZERO);
    w.until(1_000, "the session", |w| w.session(b) == Some(upgraded));
    assert!(w.exists(1, "/e"));
    assert_eq!(w.up(0).node.local_sessions(), 0);
}

#[test]
fn a_leader_without_local_sessions_refuses_those_of_its_learners() {
    let mut w = World::new(3, 0, 1);
    w.local_sessions[0] = LocalSessions::Upgradable;
    w.start_all();
    w.until(1_000, "an ensemble", |w| w.all_serve());
    let (c, _) = w.connect(0, 5_000);
    assert_eq!(w.done(c, OpCode::Create, &create("/p", 0)), Err(Code::SessionExpired));
    // A createSession is none of its business but as any other.
    assert_eq!(w.done(c, OpCode::Create, &create("/e", EPHEMERAL)), Ok("/e".into()));
    assert_eq!(w.done(c, OpCode::Create, &create("/p", 0)), Ok("/p".into()));
}

#[test]
fn what_a_session_asked_before_it_ended_does_not_come_true_behind_its_end() {
    let mut w = started(LocalSessions::Upgradable);
    let (c, session) = w.connect(0, 5_000);
    w.done(c, OpCode::Create, &create("/e", EPHEMERAL)).unwrap();
    w.done(c, OpCode::CloseSession, &[]).unwrap();
    w.run(100);
    let ask = |w: &mut World, session, path: &str| {
        w.request(1, session, 9, OpCode::Create.wire(), &create(path, 0));
        w.run(100);
        w.exists(2, path)
    };
    assert!(!ask(&mut w, session, "/late"), "a write of a session that has ended");
    let (local_to_1, made_by_the_leader) = (SessionId(2 << 56 | 77), SessionId(3 << 56 | 77));
    assert!(ask(&mut w, local_to_1, "/local"), "a local session of the learner");
    assert!(!ask(&mut w, made_by_the_leader, "/own"), "the leader would know its own");
}
