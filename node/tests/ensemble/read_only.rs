//! A server that is cut off from its quorum serves whoever has said that reading will do.

use crate::world::*;
use node::{CloseReason, LocalSessions, Service};
use proto::client::OpCode;
use proto::{Code, SessionId, Zxid};

/// Server 0 of three alone, for so long that it has become read-only; with a session that all of them knew.
fn cut_off(local: LocalSessions) -> (World, SessionId) {
    let mut w = World::new(3, 0, 1);
    w.read_only_mode = true;
    w.local_sessions = vec![local; 3];
    w.start_all();
    w.until(1_000, "an ensemble", |w| w.all_serve());
    let (c, session) = w.connect(0, 5_000);
    let flags = if local == LocalSessions::On { 0 } else { 1 };
    w.done(c, OpCode::Create, &create("/a", flags)).unwrap();
    w.run(100);
    w.crash(1);
    w.crash(2);
    w.until(1_000, "the loss of the quorum", |w| w.up(0).serving == Service::None);
    (w, session)
}

fn become_read_only(w: &mut World) {
    let ms = w.until(5_000, "read-only service", |w| w.up(0).serving == Service::ReadOnly);
    assert!((1_990..2_200).contains(&ms), "after the grace of 2 s: {ms} ms");
}

fn read_only(w: &mut World, session: SessionId, seen: Zxid) -> proto::ConnId {
    w.dial_as(0, session, 5_000, seen, Some(true))
}

#[test]
fn a_server_without_a_quorum_serves_those_who_only_want_to_read() {
    let (mut w, global) = cut_off(LocalSessions::Upgradable);
    let early = read_only(&mut w, SessionId::NONE, Zxid::ZERO);
    assert_eq!(w.seen(early), [Seen::Closed(CloseReason::NotServing)], "not at once");
    become_read_only(&mut w);
    for flag in [None, Some(false)] {
        let c = w.dial_as(0, SessionId::NONE, 5_000, Zxid::ZERO, flag);
        assert_eq!(w.seen(c), [Seen::Closed(CloseReason::ReadOnly)]);
    }
    let logged = w.servers[0].disk.end();
    let ahead = read_only(&mut w, SessionId::NONE, Zxid::from_u64(logged.as_u64() + 1));
    assert_eq!(w.seen(ahead), [Seen::Closed(CloseReason::ClientAhead)]);
    let c = read_only(&mut w, SessionId::NONE, Zxid::ZERO);
    let session = w.session(c).unwrap();
    assert_eq!(w.seen(c), [Seen::ConnectedReadOnly(session)]);
    assert_eq!(session.0 >> 56, 1);
    let elsewhere = read_only(&mut w, global, Zxid::ZERO);
    assert_eq!(
        w.seen(elsewhere),
        [Seen::Closed(CloseReason::NotServing)],
        "a global session is with the quorum"
    );
    for (op, body) in [
        (OpCode::Create, create("/b", 0)),
        (OpCode::Create2, create("/b", 1)),
        (OpCode::Multi, multi(&[(OpCode::Create, create("/b", 0))])),
        (OpCode::Sync, Vec::new()),
    ] {
        assert_eq!(w.done(c, op, &body), Err(Code::NotReadOnly), "{op:?}");
    }
    w.hang_up(c);
    let c = read_only(&mut w, session, Zxid::ZERO);
    assert_eq!(w.seen(c), [Seen::ConnectedReadOnly(session)], "it comes back");
    let stranger = read_only(&mut w, SessionId(1 << 56 | 3), Zxid::ZERO);
    assert_eq!(w.seen(stranger), [Seen::Refused], "with local sessions, a session that is neither is over");
    assert_eq!(w.done(c, OpCode::CloseSession, &[]), Ok(String::new()));
    assert!(w.is_closed(c) && w.up(0).node.local_sessions() == 0);
    let gone = read_only(&mut w, session, Zxid::ZERO);
    assert_eq!(w.seen(gone), [Seen::Refused]);
    assert_eq!(w.servers[0].disk.end(), logged, "nothing was logged");
}

#[test]
fn when_the_quorum_is_back_all_connections_end_and_the_sessions_too() {
    let (mut w, global) = cut_off(LocalSessions::Upgradable);
    become_read_only(&mut w);
    let c = read_only(&mut w, SessionId::NONE, Zxid::ZERO);
    let session = w.session(c).unwrap();
    w.seen(c);
    w.start(1);
    w.until(2_000, "a quorum", |w| w.is_serving(0) && w.is_serving(1));
    assert_eq!(w.seen(c), [Seen::Broken]);
    assert_eq!(w.up(0).node.local_sessions(), 0);
    for s in [0, 1] {
        let again = w.dial_as(s, session, 5_000, Zxid::ZERO, Some(true));
        w.until(1_000, "an answer", |w| w.seen(again) == [Seen::Refused]);
    }
    let kept = w.dial(0, global, 5_000, Zxid::ZERO);
    w.until(1_000, "the session of before", |w| w.session(kept) == Some(global));
    assert_eq!(w.done(kept, OpCode::Create, &create("/b", 0)), Ok("/b".into()));
    // And once more: the grace is counted anew.
    w.crash(1);
    w.until(1_000, "the loss of the quorum", |w| w.up(0).serving == Service::None);
    become_read_only(&mut w);
}

#[test]
fn the_sessions_of_a_read_only_server_end_with_their_time_out() {
    let (mut w, _) = cut_off(LocalSessions::On);
    become_read_only(&mut w);
    let c = read_only(&mut w, SessionId::NONE, Zxid::ZERO);
    let session = w.session(c).unwrap();
    w.run(4_900);
    assert!(!w.is_closed(c));
    w.run(1_200);
    assert_eq!(w.seen(c).last(), Some(&Seen::Closed(CloseReason::SessionClosed)));
    let late = read_only(&mut w, session, Zxid::ZERO);
    assert_eq!(w.seen(late), [Seen::Refused]);
}

#[test]
fn without_local_sessions_a_session_that_the_server_does_not_know_is_a_guest() {
    let (mut w, _) = cut_off(LocalSessions::Off);
    become_read_only(&mut w);
    let own = read_only(&mut w, SessionId::NONE, Zxid::ZERO);
    assert!(w.session(own).is_some(), "a new client needs a session to read with");
    let elsewhere = SessionId(2 << 56 | 5);
    let guest = read_only(&mut w, elsewhere, Zxid::ZERO);
    assert_eq!(
        w.seen(guest),
        [Seen::ConnectedReadOnly(elsewhere)],
        "it may live where this server can't ask"
    );
    assert_eq!(w.done(guest, OpCode::CloseSession, &[]), Err(Code::NotReadOnly), "nor end it");
    w.run(100);
    assert_eq!(w.up(0).node.local_sessions(), 2);
    w.run(6_000);
    assert_eq!(w.up(0).node.local_sessions(), 0, "its connection does not stay without a sign of life");
}

#[test]
fn what_comes_late_from_a_connection_that_was_left_ends_no_session() {
    let (mut w, _) = cut_off(LocalSessions::Upgradable);
    become_read_only(&mut w);
    let left = read_only(&mut w, SessionId::NONE, Zxid::ZERO);
    let session = w.session(left).unwrap();
    let c = read_only(&mut w, session, Zxid::ZERO);
    w.step_write(left, session, 7, OpCode::CloseSession, &[]);
    assert_eq!(w.up(0).node.local_sessions(), 1, "its client has come back through another connection");
    assert_eq!(w.done(c, OpCode::CloseSession, &[]), Ok(String::new()));
}

#[test]
fn a_server_that_has_lost_its_disk_shows_nobody_an_empty_tree() {
    let mut w = World::new(3, 0, 1);
    w.read_only_mode = true;
    w.servers[0].disk.joined = false;
    w.start(0);
    w.run(10_000);
    assert_eq!(w.up(0).serving, Service::None);
}

#[test]
fn without_read_only_mode_a_server_without_a_quorum_serves_nobody() {
    let (mut w, _) = cut_off(LocalSessions::On);
    let mut off = World::new(3, 0, 1);
    off.start_all();
    off.until(1_000, "an ensemble", |w| w.all_serve());
    off.crash(1);
    off.crash(2);
    off.run(10_000);
    assert_eq!(off.up(0).serving, Service::None);
    w.run(10_000);
    assert_eq!(w.up(0).serving, Service::ReadOnly, "the same with it");
}
