//! One thing at a time.

use crate::world::*;
use node::{CloseReason, Service};
use proto::client::OpCode;
use proto::{SessionId, Zxid};

const EPHEMERAL: i32 = 1;

pub fn started(servers: usize, observers: usize) -> World {
    let mut w = World::new(servers, observers, 1);
    w.start_all();
    w.until(1_000, "an ensemble", |w| w.all_serve());
    w
}

#[test]
fn three_servers_elect_the_one_with_the_highest_id_and_serve() {
    let mut w = started(3, 0);
    assert_eq!(w.leader(), Some(2));
    for s in 0..3 {
        let (c, _) = w.connect(s, 5_000);
        assert_eq!(w.done(c, OpCode::Create, &create(&format!("/from{s}"), 0)), Ok(format!("/from{s}")));
        assert!(w.exists(s, &format!("/from{s}")), "a session reads its own writes");
    }
    w.run(50);
    assert!(w.all_equal());
    assert!((0..3).all(|s| w.exists(s, "/from0") && w.exists(s, "/from1") && w.exists(s, "/from2")));
    w.acked_is_durable();
}

#[test]
fn after_the_leader_is_killed_another_one_serves_at_once() {
    let mut w = started(3, 0);
    let (c, session) = w.connect(0, 5_000);
    w.done(c, OpCode::Create, &create("/a", 0)).unwrap();
    let old = w.leader().unwrap();
    w.crash(old);
    let ms = w.until(500, "another leader", |w| w.leader().is_some() && w.is_serving(0) && w.is_serving(1));
    assert!(ms < 50, "nobody waits for a server that is known to be dead: {ms} ms");
    let again = w.dial(0, session, 5_000, Zxid::ZERO);
    w.until(100, "the session", |w| w.session(again) == Some(session));
    assert!(w.exists(0, "/a"));
    w.done(again, OpCode::Create, &create("/b", 0)).unwrap();
    w.start(old);
    w.until(1_000, "the old leader follows", |w| w.all_serve());
    w.run(50);
    assert!(w.all_equal() && w.exists(old, "/b"));
}

#[test]
fn a_minority_serves_nobody() {
    let mut w = started(3, 0);
    let leader = w.leader().unwrap();
    let (c, _) = w.connect(leader, 5_000);
    for s in (0..3).filter(|&s| s != leader) {
        w.crash(s);
    }
    w.write(c, 1, OpCode::Create, &create("/lost", 0));
    w.run(3_000);
    assert_eq!(w.leader(), None);
    assert!(w.seen(c).iter().all(|s| !matches!(s, Seen::Reply { .. })));
    assert!(w.is_closed(c));
    assert!(!w.exists(leader, "/lost"), "what no quorum has is not shown");
}

#[test]
fn an_observer_follows_and_forwards_and_does_not_count() {
    let mut w = started(4, 1);
    assert_eq!(w.up(3).serving, Service::Observing);
    let (c, _) = w.connect(3, 5_000);
    w.done(c, OpCode::Create, &create("/o", EPHEMERAL)).unwrap();
    assert!(w.exists(3, "/o"));
    w.crash(0);
    w.run(20);
    w.done(c, OpCode::Create, &create("/p", 0)).unwrap();
    w.crash(1);
    w.write(c, 9, OpCode::Create, &create("/q", 0));
    w.run(2_000);
    assert!(!w.exists(3, "/q"));
    assert_eq!(w.up(3).serving, Service::None);
}

#[test]
fn sessions_live_on_any_server_and_expire_by_the_leader() {
    let mut w = started(3, 0);
    let (a, sa) = w.connect(0, 1_000);
    let (b, sb) = w.connect(1, 400);
    w.done(a, OpCode::Create, &create("/a", EPHEMERAL)).unwrap();
    w.done(b, OpCode::Create, &create("/b", EPHEMERAL)).unwrap();
    // One pings, the other one is silent.
    for _ in 0..20 {
        w.hear(a);
        w.run(100);
    }
    assert!(w.exists(2, "/a") && !w.exists(2, "/b"));
    assert!(w.is_closed(b) && !w.is_closed(a));
    let late = w.dial(2, sb, 400, Zxid::ZERO);
    w.run(20);
    assert_eq!(w.seen(late), [Seen::Refused]);
    // It moves: the old connection is worth nothing any more.
    let moved = w.dial(1, sa, 1_000, Zxid::ZERO);
    w.until(100, "the session moves", |w| w.session(moved) == Some(sa));
    w.write(a, 3, OpCode::Create, &create("/x", 0));
    w.done(moved, OpCode::Create, &create("/y", 0)).unwrap();
    w.run(50);
    assert!(w.is_closed(a) && !w.exists(0, "/x"));
    let answered = |s: &Seen| matches!(s, Seen::Reply { xid: 3, .. });
    assert!(!w.seen(a).iter().any(answered), "SessionMoved is the end of a connection and no answer");
    w.hang_up(moved);
    let home = w.dial(w.leader().unwrap(), sa, 1_000, Zxid::ZERO);
    w.until(100, "the session moves to the leader", |w| w.session(home) == Some(sa));
    w.done(home, OpCode::CloseSession, &[]).unwrap();
    w.run(50);
    assert!((0..3).all(|s| !w.exists(s, "/a")));
    let _ = SessionId::NONE;
}

#[test]
fn syncs_are_answered_in_order_on_every_server() {
    let mut w = started(3, 0);
    for s in 0..3 {
        let (c, _) = w.connect(s, 5_000);
        w.write(c, 1, OpCode::Create, &create(&format!("/{s}"), 0));
        w.write(c, 2, OpCode::Sync, &[]);
        w.write(c, 3, OpCode::Create, &create(&format!("/{s}/x"), 0));
        w.write(c, 4, OpCode::Sync, &[]);
        w.write(c, 5, OpCode::Sync, &[]);
        w.write(c, 6, OpCode::Delete, &delete(&format!("/{s}/x")));
        w.run(30);
        let xids: Vec<i32> = w
            .seen(c)
            .iter()
            .filter_map(|s| if let Seen::Reply { xid, result: Ok(_), .. } = s { Some(*xid) } else { None })
            .collect();
        assert_eq!(xids, [1, 2, 3, 4, 5, 6], "server {s}");
    }
}

fn delete(path: &str) -> Vec<u8> {
    use proto::jute::Put;
    let mut out = Vec::new();
    out.put_str(path);
    out.put_i32(-1);
    out
}

#[test]
fn a_request_that_nobody_can_decode_becomes_an_error_under_a_zxid_of_its_own() {
    let mut w = started(3, 0);
    let (c, session) = w.connect(0, 5_000);
    w.run(50);
    let before = w.servers[0].disk.end();
    // A check by itself decodes for nobody who reads the log; 99 is no operation.
    let bad = [
        (OpCode::Create.wire(), &b"\0\0\0\x40/x"[..]),
        (OpCode::SetData.wire(), b""),
        (OpCode::Delete.wire(), b"\0"),
        (OpCode::Check.wire(), &delete("/")),
        (99, b""),
    ];
    for (i, (op, body)) in bad.iter().enumerate() {
        w.request(0, session, 7 + i as i32, *op, body);
    }
    w.run(50);
    assert_eq!(w.servers[0].disk.end().as_u64(), before.as_u64() + bad.len() as u64);
    w.done(c, OpCode::Create, &create("/after", 0)).unwrap();
    w.run(50);
    assert!(w.all_equal() && w.exists(2, "/after"));
}

#[test]
fn a_leader_that_hears_nobody_and_is_still_heard_is_left_behind() {
    let mut w = started(3, 0);
    assert_eq!(w.leader(), Some(2), "its votes are the best: the highest id");
    w.deaf = Some(2);
    let ms = w.until(5_000, "another leader", |w| (0..2).any(|s| w.up(s).serving == Service::Leading));
    // syncLimit until it gives up, two ticks until those who voted for it do, and two elections; not initLimit.
    assert!(ms < 12 * TICK_MS, "{ms} ms");
    let (c, _) = w.connect(0, 5_000);
    w.done(c, OpCode::Create, &create("/a", 0)).unwrap();
    w.deaf = None;
    w.until(5_000, "all serve", |w| w.all_serve());
    w.run(50);
    assert!(w.all_equal() && w.exists(2, "/a"));
}

#[test]
fn a_leader_that_is_cut_off_refuses_no_session() {
    let mut w = started(3, 0);
    let leader = w.leader().unwrap();
    // It may have begun under another leader, of which this one has not heard yet.
    let unknown = SessionId(0x77 << 48);
    w.deaf = Some(leader);
    let early = w.dial(leader, unknown, 5_000, Zxid::ZERO);
    w.run(TICK_MS);
    assert!(w.leader() == Some(leader) && w.seen(early).is_empty());
    w.deaf = None;
    w.until(2 * TICK_MS, "an answer", |w| w.seen(early) == [Seen::Refused]);
    for s in 0..3 {
        let late = w.dial(s, unknown, 5_000, Zxid::ZERO);
        // Pings to which the answers were lost count as on their way.
        w.until(10 * TICK_MS, "an answer", |w| w.seen(late) == [Seen::Refused]);
    }
}

#[test]
fn a_leader_that_is_cut_off_confirms_no_sync() {
    let mut w = started(3, 0);
    let leader = w.leader().unwrap();
    let (c, _) = w.connect(leader, 5_000);
    w.run(20);
    for s in (0..3).filter(|&s| s != leader) {
        w.cut(leader, s);
    }
    w.write(c, 1, OpCode::Sync, &[]);
    w.run(30);
    assert!(w.leader().is_some());
    assert_eq!(w.seen(c).iter().filter(|s| matches!(s, Seen::Reply { .. })).count(), 0);
    w.run(2_000);
    assert!(w.is_closed(c));
    w.heal();
    w.until(2_000, "everybody is back", |w| w.all_serve());
}

/// A leader without a quorum proposes the end of a session that it does not hear of. It may never be committed: nobody is
/// told so, neither by the leader nor by who asks it.
#[test]
fn the_end_of_a_session_is_told_when_it_is_committed() {
    let mut w = started(5, 0);
    let leader = w.leader().unwrap();
    let (c, session) = w.connect(leader, 200);
    w.run(20);
    w.hang_up(c);
    let (near, far) = ((leader + 1) % 5, (2..5).map(|n| (leader + n) % 5).collect::<Vec<_>>());
    let ends = |w: &World| w.up(leader).node.session_expiry(true)[0].1;
    w.until(1_000, "nearly its end", |w| w.now.as_ms() + 3 >= ends(w));
    far.iter().for_each(|&s| w.cut(leader, s));
    let proposed = |w: &World| w.up(leader).node.proposed();
    let before = proposed(&w);
    w.until(50, "the proposal of its end", |w| proposed(w) > before);
    for s in [leader, near] {
        assert!(w.is_serving(s));
        let again = w.dial(s, session, 5_000, Zxid::ZERO);
        w.until(100, "an answer", |w| w.is_closed(again));
        assert_eq!(w.seen(again), [Seen::Closed(CloseReason::Undecided)]);
    }
    // Those who never heard of it elect a leader, and the session lives on.
    w.crash(leader);
    w.crash(near);
    w.until(1_000, "another leader", |w| far.iter().any(|&s| w.leader() == Some(s)));
    let new = w.leader().unwrap();
    let again = w.dial(new, session, 5_000, Zxid::ZERO);
    w.until(100, "the session", |w| w.session(again) == Some(session));
}

#[test]
fn a_leader_that_stops_hands_over_in_milliseconds() {
    for voters in [3, 5] {
        let mut w = started(voters, 0);
        let leader = w.leader().unwrap();
        let (c, session) = w.connect(leader, 5_000);
        let (other, _) = w.connect(0, 5_000);
        for xid in 1..=20 {
            w.write(c, xid, OpCode::Create, &create(&format!("/c{xid}"), 0));
        }
        w.hand_over(leader);
        // What it had taken is committed and answered first.
        let ms = w.until(500, "another leader", |w| w.leader().is_some_and(|l| l != leader));
        assert!(ms < 20, "{ms} ms");
        assert!(w.up(leader).node.has_handed_over());
        let replies = w.seen(c).iter().filter(|s| matches!(s, Seen::Reply { result: Ok(_), .. })).count();
        assert_eq!(replies, 20);
        assert!(w.is_closed(c) && w.is_closed(other), "connections start again with the new leader");
        w.until(500, "everybody serves", |w| w.all_serve());
        assert_eq!(w.up(leader).serving, Service::Following, "it does not want it back");
        let again = w.dial(0, session, 5_000, Zxid::ZERO);
        w.until(100, "the session", |w| w.session(again) == Some(session));
        assert!((1..=20).all(|n| w.exists(0, &format!("/c{n}"))));
    }
}

#[test]
fn a_lone_leader_has_nobody_to_hand_over_to() {
    let mut w = started(1, 0);
    w.hand_over(0);
    assert!(w.up(0).node.has_handed_over() && w.is_serving(0));
}

#[test]
fn before_the_counter_ends_a_new_reign_begins_and_sessions_live_on() {
    let mut w = World::new(3, 0, 3);
    w.epoch_end = Some(50);
    w.start_all();
    w.until(1_000, "an ensemble", |w| w.all_serve());
    let epoch = w.up(0).node.zab().epochs().current();
    let (c, session) = w.connect(1, 5_000);
    w.done(c, OpCode::Create, &create("/e", EPHEMERAL)).unwrap();
    for n in 0..60 {
        w.write(c, n, OpCode::Create, &create(&format!("/{n}"), 0));
    }
    let ms =
        w.until(500, "the next reign", |w| w.all_serve() && w.up(0).node.zab().epochs().current() > epoch);
    assert!(ms < 50, "{ms} ms");
    let again = w.dial(0, session, 5_000, Zxid::ZERO);
    w.until(100, "the session", |w| w.session(again) == Some(session));
    assert!(w.exists(0, "/e"));
    w.done(again, OpCode::Create, &create("/f", EPHEMERAL)).unwrap();
}

#[test]
fn a_wiped_voter_does_not_vote_until_it_has_a_history_again() {
    let mut w = started(3, 0);
    let (c, _) = w.connect(2, 5_000);
    w.crash(0);
    w.run(50);
    w.done(c, OpCode::Create, &create("/a", 0)).unwrap();
    // Only 1 and 2 have it. 1 is wiped, 2 goes: 0 and 1 are a majority without it.
    w.crash(1);
    w.crash(2);
    w.servers[1].disk = Disk::default();
    w.start(0);
    w.start(1);
    w.run(5_000);
    assert_eq!(w.leader(), None, "nobody leads without what was acknowledged");
    w.start(2);
    w.until(2_000, "service", |w| w.all_serve());
    w.run(50);
    assert!((0..3).all(|s| w.exists(s, "/a")) && w.all_equal());
}

/// A tree takes its time, and the leader goes on meanwhile: NEWLEADER stood in front of commits that the tree showed
/// already. What the learner saved then was of no moment, and a tree of one moment was followed by proposals that it had.
#[test]
fn a_tree_that_leaves_while_writes_go_on_is_taken_at_once() {
    for observers in [0, 1] {
        let mut w = started(3 + observers, observers);
        let (c, _) = w.connect(w.leader().unwrap(), 5_000);
        // The last one does not lead, or observes.
        let learner = if observers == 0 { 0 } else { 3 };
        w.done(c, OpCode::Create, &create("/first", 0)).unwrap();
        w.crash(learner);
        w.servers[learner].disk = Disk::default();
        w.start(learner);
        w.notes.clear();
        let mut n = 0;
        w.until(1_000, "the learner serves", |w| {
            for _ in 0..4 {
                n += 1;
                w.write(c, n, OpCode::Create, &create(&format!("/{n}"), 0));
                w.run_us(200);
            }
            w.is_serving(learner)
        });
        assert!(!w.notes.keys().any(|note| note.contains("does not follow")), "{:?}", w.notes);
        w.run(50);
        assert!(w.all_equal());
        assert_eq!(w.packets.get(&proto::peer::kind::SNAP), Some(&1), "once is enough");
        // Nothing more is written, and nobody is taken to be behind.
        w.run(3_000);
        assert!(w.all_serve() && w.notes.is_empty(), "{:?}", w.notes);
    }
}

#[test]
fn blank_servers_begin_together() {
    let mut w = World::new(3, 0, 5);
    for s in &mut w.servers {
        s.disk = Disk::default();
    }
    w.start(0);
    w.start(1);
    w.run(3_000);
    assert_eq!(w.leader(), None);
    w.start(2);
    w.until(2_000, "service", |w| w.all_serve());
}

#[test]
fn a_follower_that_has_replayed_what_is_in_flight_serves_once_it_is_committed() {
    let mut w = started(3, 0);
    assert_eq!(w.leader(), Some(2));
    let (c, _) = w.connect(2, 5_000);
    w.done(c, OpCode::Create, &create("/a", 0)).unwrap();
    // Only the disk of 1 is fast: it alone has /b when it dies.
    let before = w.servers[1].disk.end();
    (w.servers[0].disk_us, w.servers[2].disk_us) = (400_000, 400_000);
    w.write(c, 1, OpCode::Create, &create("/b", 0));
    w.until(100, "/b on the disk of 1", |w| w.servers[1].disk.end() > before);
    w.crash(1);
    w.start(1);
    w.until(100, "1 follows", |w| w.up(1).node.zab().leader().is_some());
    assert!(w.exists(1, "/b") && !w.is_serving(1), "/b could still be cut off");
    assert!(!w.exists(2, "/b"));
    w.until(1_000, "service", |w| w.is_serving(1));
    w.until(1_000, "the reply", |w| w.seen(c).iter().any(|s| matches!(s, Seen::Reply { result: Ok(_), .. })));
    assert!(w.exists(2, "/b") && w.up(2).tree.applied() >= w.up(1).tree.applied());
}

#[test]
fn a_connection_that_its_client_has_left_says_nothing_more() {
    let mut w = started(3, 0);
    let leader = w.leader().unwrap();
    let move_to = |w: &mut World, s: usize, session| {
        let conn = w.dial(s, session, 5_000, Zxid::ZERO);
        w.until(100, "the session moves", |w| w.session(conn) == Some(session));
        conn
    };
    // Away from a server and back to it, while it still holds what its client had sent at first: to the leader, whose
    // session it was, and to a follower, before the leader has confirmed that the session is there again.
    for home in [leader, 0] {
        let (left, session) = w.connect(home, 5_000);
        let away = move_to(&mut w, 1, session);
        w.done(away, OpCode::Create, &create(&format!("/away{home}"), 0)).unwrap();
        w.hang_up(away);
        let back = w.dial(home, session, 5_000, Zxid::ZERO);
        w.write(left, 9, OpCode::Create, &create(&format!("/left{home}"), 0));
        w.until(100, "the session is back", |w| w.session(back) == Some(session));
        w.done(back, OpCode::Create, &create(&format!("/back{home}"), 0)).unwrap();
        w.run(50);
        assert!(w.is_closed(left) && !w.is_closed(back));
        let exist = ["away", "left", "back"].map(|n| w.exists(leader, &format!("/{n}{home}")));
        assert_eq!(exist, [true, false, true], "server {home}");
    }
}

#[test]
fn what_comes_from_a_connection_that_its_session_has_left_is_not_taken() {
    let mut w = started(3, 0);
    let leader = w.leader().unwrap();
    for s in [leader, 0] {
        let (left, session) = w.connect(s, 5_000);
        let conn = w.dial(s, session, 5_000, Zxid::ZERO);
        w.until(100, "the session moves", |w| w.session(conn) == Some(session));
        // It was read before the connection was closed, and reaches the node behind that.
        w.step_write(left, session, 9, OpCode::Create, &create(&format!("/late{s}"), 0));
        w.step_sync(left, session, 10, "/");
        w.run(50);
        assert!(!w.exists(leader, &format!("/late{s}")));
        assert_eq!(w.unheard(left), 0, "neither is answered");
    }
}

/// The first leader enters its epoch before the others do. When all stop at that moment, it has a history and the others are
/// blank; with it they are enough to begin again, for they have promised as servers that nobody has to wait for.
#[test]
fn an_ensemble_that_stops_as_it_begins_begins_again() {
    let mut stopped_between = 0;
    for us in (0..4_000).step_by(50) {
        let mut w = World::new(5, 0, 5);
        for s in &mut w.servers {
            s.disk = Disk { joined: false, ..Disk::default() };
        }
        w.start_all();
        w.until(1_000, "a promise", |w| w.servers.iter().any(|s| s.disk.accepted.0 > 0));
        w.run_us(us);
        let entered = w.servers.iter().filter(|s| s.disk.current.0 > 0).count();
        stopped_between += usize::from((1..3).contains(&entered));
        (0..5).for_each(|s| w.crash(s));
        w.start_all();
        w.until(3_000, "service", |w| w.all_serve());
    }
    assert!(stopped_between > 0, "one moment at least was the one that matters");
}

/// Writes one after the other for `ms`; gives the longest time that one took, ms.
fn write_for(w: &mut World, ms: u64, path: &str) -> u64 {
    let (end, mut n, mut longest) = (w.now.plus_ms(ms), 0, 0);
    while w.now < end {
        let Some(leader) = w.leader() else {
            w.run(1);
            continue;
        };
        let (conn, _) = w.connect(leader, 20_000);
        while w.now < end && !w.is_closed(conn) {
            n += 1;
            let begin = w.now;
            w.write(conn, n, OpCode::Create, &create(&format!("{path}{n}"), 0));
            while !w.is_closed(conn) && !w.seen(conn).iter().any(|s| matches!(s, Seen::Reply { .. })) {
                w.run(1);
            }
            longest = longest.max(w.now.as_ms() - begin.as_ms());
        }
        w.hang_up(conn);
    }
    longest
}

/// Three servers, the first leader of which has handed over because its disk is slow, and who leads now.
fn handed_over_slow() -> (World, usize) {
    let mut w = started(3, 0);
    let first = w.leader().unwrap();
    w.servers[first].disk_us = 60_000;
    write_for(&mut w, 15_000, "/a");
    let second = w.leader().unwrap();
    assert_ne!(second, first);
    (w, second)
}

#[test]
fn a_leader_whose_disk_is_slow_hands_over_and_not_to_and_fro() {
    let (mut w, second) = handed_over_slow();
    assert_eq!(w.notes["a slow log"], 1);
    w.until(1_000, "the slow one follows", |w| w.all_serve());
    let longest = write_for(&mut w, 5_000, "/b");
    assert!(longest < 20, "{longest} ms: nobody waits for the slow disk any more");
    // Now all are slow, in turns: the others are no better, or have handed over just now.
    for s in 0..3 {
        w.servers[s].disk_us = 60_000;
    }
    write_for(&mut w, 30_000, "/c");
    assert_eq!(w.leader(), Some(second));
    assert_eq!(w.notes["a slow log"], 1);
    // The first is well again: the second, which has not handed over yet, may.
    for s in (0..3).filter(|&s| s != second) {
        w.servers[s].disk_us = 100;
    }
    write_for(&mut w, 15_000, "/d");
    assert_ne!(w.leader(), Some(second));
    assert_eq!(w.notes["a slow log"], 2);
    assert!(w.until(3_000, "all serve", |w| w.all_serve()) < 3_000);
}

#[test]
fn a_leader_whose_disk_stands_still_hands_over() {
    let mut w = started(3, 0);
    let first = w.leader().unwrap();
    let (conn, _) = w.connect(first, 20_000);
    w.servers[first].disk_us = 60_000_000;
    w.write(conn, 1, OpCode::Create, &create("/a", 0));
    w.until(15_000, "another leader", |w| w.leader().is_some_and(|l| l != first));
    let second = w.leader().unwrap();
    assert_ne!(second, first);
    let longest = write_for(&mut w, 2_000, "/b");
    assert!(longest < 20, "{longest} ms");
}

#[test]
fn who_has_handed_over_votes_again_when_it_is_needed() {
    let (mut w, second) = handed_over_slow();
    w.crash(second);
    // Two are left, one of which did not want to be counted.
    w.until(8_000, "a leader of two", |w| w.leader().is_some_and(|l| l != second && w.is_serving(l)));
}

#[test]
fn a_leader_whose_log_is_full_lets_another_one_lead() {
    let mut w = started(3, 0);
    let first = w.leader().unwrap();
    let (conn, _) = w.connect(first, 20_000);
    w.set_full(first, true);
    w.write(conn, 1, OpCode::Create, &create("/a", 0));
    w.until(5_000, "another leader", |w| w.leader().is_some_and(|l| l != first && w.is_serving(l)));
    let second = w.leader().unwrap();
    let longest = write_for(&mut w, 1_000, "/b");
    assert!(longest < 20, "{longest} ms");
    assert!(!w.is_serving(first), "what it can't log it can't show");
    w.set_full(first, false);
    w.until(10_000, "all serve", |w| w.all_serve());
    assert_eq!(w.leader(), Some(second));
    assert!(w.exists(second, "/a"), "a quorum without the first had it");
    w.run(100);
    assert!(w.all_equal());
}

#[test]
fn a_leader_whose_log_is_full_stays_where_nobody_could_go_on_without_it() {
    let mut w = started(3, 0);
    let first = w.leader().unwrap();
    w.crash((first + 1) % 3);
    w.set_full(first, true);
    w.run(20_000);
    assert_eq!(w.leader(), Some(first));
    assert!(w.is_serving(first), "it is read");
    // And where they are there, but have no room either, leadership does not go round for ever.
    w.set_full(first, false);
    w.start((first + 1) % 3);
    w.until(5_000, "all serve", |w| w.all_serve());
    let mut changes = 0;
    let mut last = w.leader();
    for s in 0..3 {
        w.set_full(s, true);
    }
    for _ in 0..600 {
        w.run(100);
        if w.leader() != last && w.leader().is_some() {
            (last, changes) = (w.leader(), changes + 1);
        }
    }
    assert!(changes <= 3, "{changes} in a minute");
}

#[test]
fn a_leader_whose_log_is_full_does_not_hand_over_to_logs_that_are_full() {
    let mut w = started(3, 0);
    let first = w.leader().unwrap();
    let (conn, _) = w.connect(first, 20_000);
    for s in 0..3 {
        w.set_full(s, true);
    }
    // Nobody acknowledges it.
    w.write(conn, 1, OpCode::Create, &create("/a", 0));
    w.run(3 * TICK_MS);
    assert_eq!(w.leader(), Some(first));
    assert!((0..3).all(|s| w.is_serving(s)), "all are read");
    // Two have room again: they have what the first lacks.
    for s in (0..3).filter(|&s| s != first) {
        w.set_full(s, false);
    }
    w.until(3 * TICK_MS, "another leader", |w| w.leader().is_some_and(|l| l != first && w.is_serving(l)));
    let second = w.leader().unwrap();
    assert!(w.exists(second, "/a"));
}
