//! Sessions: opened, resumed, moved, closed, expired.

use crate::world::*;
use node::{CloseReason, Input};
use proto::client::OpCode;
use proto::session::password;
use proto::{Code, Instant, SessionId};

#[test]
fn a_session_is_open_when_its_txn_is_durable_and_time_outs_are_clamped() {
    let mut w = World::new();
    for (asked, given) in [(1, 2_000), (7_000, 7_000), (10_000_000, 20_000), (-5, 2_000)] {
        let conn = w.dial(SessionId::NONE, &[], asked, 0);
        assert_eq!(w.seen(conn), [], "not before it is durable");
        w.persist();
        let session = w.session(conn).unwrap();
        assert_eq!(w.seen(conn), [Seen::Connected { session, timeout_ms: given }]);
        assert_eq!(session.0 >> 56, 1, "the server's id");
    }
}

#[test]
fn who_resumes_takes_the_session_over_and_who_does_not_know_the_password_takes_nothing() {
    let mut w = World::new();
    let (first, s) = w.connect(10_000);
    for word in [&[7; 16][..], &[], &[0; 17]] {
        let stranger = w.dial(s, word, 10_000, 0);
        assert_eq!(w.seen(stranger), [Seen::Refused]);
    }
    assert!(!w.is_closed(first), "who has only the id cuts nobody off");
    let second = w.resume(s, 4_000);
    assert_eq!(w.seen(second), [Seen::Connected { session: s, timeout_ms: 4_000 }]);
    assert_eq!(w.seen(first).last(), Some(&Seen::Closed(CloseReason::Replaced)));
    // The end of the old connection, seen late, does not detach the new one.
    w.hang_up(first);
    w.write(second, 1, OpCode::CloseSession, &[]);
    w.persist();
    assert_eq!(w.seen(second).last(), Some(&Seen::Closed(CloseReason::SessionClosed)));
    let unknown = w.dial(SessionId(77), &password(SessionId(77)), 10_000, 0);
    assert_eq!(w.seen(unknown), [Seen::Refused]);
}

#[test]
fn the_time_out_is_the_one_of_the_last_handshake_and_counts_from_it() {
    for (first, second, open_at, gone_at) in [(20_000, 2_000, 8_999, 9_000), (3_000, 10_000, 16_999, 17_000)]
    {
        let mut w = World::new();
        let (c, s) = w.connect(first);
        w.hang_up(c);
        w.live_until(6_500);
        let c = w.resume(s, second);
        w.hang_up(c);
        w.live_until(open_at);
        assert!(w.tree.session_timeout(s).is_some(), "{first} then {second}");
        w.live_until(gone_at);
        assert!(w.tree.session_timeout(s).is_none(), "{first} then {second}");
    }
}

#[test]
fn a_client_that_is_ahead_is_sent_elsewhere_whoever_it_is() {
    let mut w = World::new();
    let (_, s) = w.connect(10_000);
    let applied = w.tree.applied().to_wire();
    for session in [SessionId::NONE, s, SessionId(5)] {
        let conn = w.dial(session, &password(s), 10_000, applied + 1);
        assert_eq!(w.seen(conn), [Seen::Closed(CloseReason::ClientAhead)]);
    }
    let conn = w.dial(s, &password(s), 10_000, applied);
    assert!(matches!(w.seen(conn)[..], [Seen::Connected { .. }]));
}

#[test]
fn the_reply_to_close_session_comes_before_the_end_and_the_ephemerals_are_gone_by_then() {
    let mut w = World::new();
    let (c, s) = w.connect(10_000);
    let (other, _) = w.connect(10_000);
    w.done(c, OpCode::Create, &create("/e", b"", EPHEMERAL)).unwrap();
    w.read(other, 1, OpCode::Exists, &look("/e", true));
    w.seen(c);
    w.seen(other);
    w.write(c, 5, OpCode::CloseSession, &[]);
    let late = w.resume(s, 10_000);
    assert_eq!(w.seen(late), [Seen::Closed(CloseReason::Undecided)], "it may still live on");
    w.persist();
    let late = w.resume(s, 10_000);
    assert_eq!(w.seen(late), [Seen::Refused]);
    let zxid = w.tree.applied();
    assert_eq!(
        w.seen(c),
        [Seen::Written { xid: 5, zxid, result: Ok(String::new()) }, Seen::Closed(CloseReason::SessionClosed)]
    );
    assert_eq!(w.seen(other), [Seen::Event { kind: 2, path: "/e".into() }]);
    assert!(!w.exists("/e"));
}

#[test]
fn an_unheard_session_expires_within_a_tick_with_its_ephemerals() {
    let mut w = World::new();
    let (c, s) = w.connect(4_000);
    let (other, _) = w.connect(20_000);
    w.done(c, OpCode::Create, &create("/e", b"", EPHEMERAL)).unwrap();
    w.read(other, 1, OpCode::Exists, &look("/e", true));
    w.seen(c);
    w.live_until(6_500);
    w.hear(c);
    w.live_until(10_999);
    assert!(w.exists("/e"), "heard of at 6.5 s, so not before 10.5 s, which lies in the bucket up to 11 s");
    w.set_clock(Instant::from_ms(11_000));
    w.step(Input::Tick);
    w.write(c, 9, OpCode::Create, &create("/late", b"", 0));
    let late = w.resume(s, 4_000);
    assert_eq!(w.seen(late), [Seen::Closed(CloseReason::Undecided)]);
    w.persist();
    let late = w.resume(s, 4_000);
    assert_eq!(w.seen(late), [Seen::Refused]);
    assert!(!w.exists("/e") && !w.exists("/late"));
    assert_eq!(w.seen(c)[0], Seen::Closed(CloseReason::SessionClosed), "no packet");
    assert!(w.seen(other).contains(&Seen::Event { kind: 2, path: "/e".into() }));
    assert_eq!(w.tree.session_count(), 1);
}

#[test]
fn a_write_behind_the_expiry_of_its_session_is_refused() {
    let mut w = World::new();
    let (c, s) = w.connect(2_000);
    w.until(9_000);
    let again = w.resume(s, 2_000);
    assert_eq!(w.seen(again), [Seen::Closed(CloseReason::Undecided)]);
    w.seen(c);
    w.write(c, 1, OpCode::Create, &create("/x", b"", 0));
    // Its close is applied together with it; the reply to a gone connection is nobody's business.
    w.persist();
    assert!(!w.exists("/x"));
    let record = proto::txn::Record::decode(w.durable.last().unwrap()).unwrap();
    assert_eq!(record.txn, proto::txn::Txn::Error { code: Code::SessionExpired.wire() });
}

#[test]
fn while_the_log_stands_still_and_for_a_tick_after_it_nobody_expires() {
    let mut w = World::new();
    let (_, quiet) = w.connect(2_000);
    let (busy, _) = w.connect(20_000);
    w.until(5_100);
    w.write(busy, 1, OpCode::Create, &create("/a", b"", 0));
    w.flush();
    w.until(9_900);
    w.persist_next(1);
    assert!(w.exists("/a"));
    w.live_until(10_899);
    assert!(w.tree.session_timeout(quiet).is_some(), "the log moved at 9.9 s: not before 10.9 s");
    w.live_until(11_000);
    assert!(w.tree.session_timeout(quiet).is_none(), "the first end of a bucket after it");
}

#[test]
fn a_stall_between_two_ticks_counts_too() {
    let mut w = World::new();
    let (_, quiet) = w.connect(5_000);
    let (busy, _) = w.connect(20_000);
    w.write(busy, 1, OpCode::Create, &create("/a", b"", 0));
    w.flush();
    w.set_clock(Instant::from_ms(10_999));
    w.persist_next(1);
    w.live_until(11_998);
    assert!(w.tree.session_timeout(quiet).is_some());
    w.live_until(12_000);
    assert!(w.tree.session_timeout(quiet).is_none());
}

#[test]
fn a_steady_slow_log_does_not_keep_anybody_alive() {
    let mut w = World::new();
    let (_, quiet) = w.connect(2_000);
    let (busy, _) = w.connect(20_000);
    for i in 0..20 {
        w.write(busy, i, OpCode::Create, &create(&format!("/a{i}"), b"", 0));
        w.flush();
        w.until(5_000 + 500 * (i as u64 + 1));
        w.persist_next(usize::MAX);
    }
    w.persist();
    assert!(w.tree.session_timeout(quiet).is_none());
}

#[test]
fn a_server_that_was_stopped_listens_before_it_expires_anybody() {
    let mut w = World::new();
    let (c, s) = w.connect(2_000);
    w.set_clock(Instant::from_ms(65_000));
    w.step(Input::Tick);
    w.persist();
    assert!(w.tree.session_timeout(s).is_some(), "what it sent may lie unread");
    w.hear(c);
    w.live_until(67_900);
    assert!(w.tree.session_timeout(s).is_some());
    w.live_until(68_000);
    assert!(w.tree.session_timeout(s).is_none());
}

#[test]
fn a_log_without_space_opens_and_ends_no_sessions() {
    let mut w = World::new();
    let (c, s) = w.connect(2_000);
    w.step(Input::LogFull(true));
    let new = w.dial(SessionId::NONE, &[], 2_000, 0);
    assert_eq!(w.seen(new), [Seen::Closed(CloseReason::ClientAhead)]);
    w.hang_up(c);
    let proposed = w.node.proposed();
    w.live_until(30_500);
    assert_eq!(w.node.proposed(), proposed);
    let c = w.resume(s, 2_000);
    assert!(matches!(w.seen(c)[..], [Seen::Connected { .. }]), "resuming needs no log");
    w.hang_up(c);
    w.live_until(39_900);
    w.step(Input::LogFull(false));
    w.live_until(40_899);
    assert!(w.tree.session_timeout(s).is_some());
    w.live_until(41_000);
    assert!(w.tree.session_timeout(s).is_none());
    let new = w.dial(SessionId::NONE, &[], 2_000, 0);
    w.persist();
    assert!(w.session(new).is_some());
}

#[test]
fn after_a_restart_every_session_has_its_whole_time_and_no_id_is_given_twice() {
    let mut w = World::new();
    let (c, s) = w.connect(4_000);
    w.done(c, OpCode::Create, &create("/e", b"", EPHEMERAL)).unwrap();
    w.live_until(8_900);
    let mut w = w.crash();
    w.live_until(12_999);
    assert!(w.exists("/e"));
    let again = w.resume(s, 4_000);
    assert_eq!(w.seen(again), [Seen::Connected { session: s, timeout_ms: 4_000 }]);
    w.hang_up(again);
    w.live_until(17_000);
    assert!(!w.exists("/e"));
    assert_eq!(w.tree.session_count(), 0);

    // A clock that begins where it began before.
    let mut w = World::new();
    let (_, s) = w.connect(4_000);
    let mut w = World::over(w.durable, Instant::from_ms(5_000), config());
    let (_, new) = w.connect(4_000);
    assert_ne!(new, s);
}

#[test]
fn a_connection_that_ends_during_its_handshake_leaves_a_session_that_expires() {
    let mut w = World::new();
    let conn = w.dial(SessionId::NONE, &[], 2_000, 0);
    w.step(Input::Disconnected { conn, session: None });
    w.persist();
    assert_eq!(w.tree.session_count(), 1);
    w.live_until(8_000);
    assert_eq!(w.tree.session_count(), 0);
}
