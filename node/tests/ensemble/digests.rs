//! Servers whose state is not that of the others.

use crate::basics::started;
use crate::world::*;
use proto::client::OpCode;
use proto::peer::kind;

/// Three servers with some znodes each, all stopped.
fn stopped_with_znodes() -> World {
    let mut w = started(3, 0);
    let (conn, _) = w.connect(0, 20_000);
    for n in 0..4 {
        w.done(conn, OpCode::Create, &create(&format!("/n{n}"), 0)).unwrap();
    }
    w.run(100);
    assert!(w.all_equal() && !w.notes.contains_key("a doubt"));
    (0..3).for_each(|s| w.crash(s));
    w.run(10);
    w
}

/// The last record of a server's log is another one than the others have.
fn spoil_disk(w: &mut World, s: usize) {
    w.spoilt.insert(s);
    let (_, record) = w.servers[s].disk.log.last_mut().unwrap();
    spoil(record);
}

#[test]
fn who_differs_from_the_majority_stops_and_comes_back_with_the_state_of_the_leader() {
    for bad in 0..3 {
        let mut w = stopped_with_znodes();
        spoil_disk(&mut w, bad);
        w.start_all();
        w.until(2_000, "the others are rid of it", |w| w.differ.contains_key(&bad));
        w.until(2_000, "they serve", |w| (0..3).all(|s| s == bad || w.is_serving(s)));
        let d = w.differ[&bad];
        assert!(d.by_majority && d.wanted != d.found, "{d:?}");
        assert_eq!(w.differ.len(), 1);
        let good = (bad + 1) % 3;
        let (conn, _) = w.connect(good, 5_000);
        assert_eq!(w.done(conn, OpCode::Create, &create("/after", 0)), Ok("/after".into()));
        // The log is there still, and counts for nothing.
        let snaps = w.packets.get(&kind::SNAP).copied().unwrap_or(0);
        w.start(bad);
        w.until(3_000, "all serve", |w| w.all_serve() && w.all_equal());
        assert_eq!(w.packets[&kind::SNAP], snaps + 1);
        assert_eq!(w.differ.len(), 1);
    }
}

#[test]
fn where_two_differ_and_no_third_can_be_asked_nobody_serves() {
    let mut w = stopped_with_znodes();
    spoil_disk(&mut w, 0);
    w.start(0);
    w.start(2);
    w.until(3_000, "one of two gives up", |w| !w.differ.is_empty());
    let d = w.differ[&0];
    assert!(!d.by_majority, "{d:?}");
    w.run(3_000);
    assert!(!w.is_serving(2));
    // The third one tells.
    w.start(1);
    w.until(3_000, "two are enough", |w| w.is_serving(1) && w.is_serving(2));
    // Nobody knew who was right, so nothing was taken from it; now it hears.
    w.start(0);
    w.until(3_000, "a majority speaks", |w| w.differ[&0].by_majority);
    w.until(1_000, "it has ended", |w| w.servers[0].up.is_none());
    w.start(0);
    w.until(3_000, "all serve", |w| w.all_serve() && w.all_equal());
}

#[test]
fn beside_a_server_that_can_not_be_asked_nobody_stops_for_the_word_of_one() {
    let mut w = stopped_with_znodes();
    spoil_disk(&mut w, 0);
    w.plain.insert(1);
    w.start_all();
    w.until(3_000, "all serve", |w| w.all_serve());
    let (conn, _) = w.connect(2, 20_000);
    for n in 0..20 {
        w.done(conn, OpCode::Create, &create(&format!("/more{n}"), 0)).unwrap();
        w.run(TICK_MS);
        // Its clients are cut off once, until it has heard that nobody knows better.
        assert!(n == 0 || w.all_serve());
    }
    assert!(w.differ.is_empty());
    assert!(w.notes.contains_key("a doubt"), "{:?}", w.notes);
    // Once all can be asked there is a majority.
    w.crash(1);
    w.plain.clear();
    w.start(1);
    w.until(3_000, "a majority speaks", |w| w.differ.contains_key(&0));
    assert!(w.differ[&0].by_majority && w.differ.len() == 1);
}

#[test]
fn a_record_that_leads_to_another_state_is_noticed_when_it_is_applied() {
    let leader = started(4, 1).leader().unwrap();
    for bad in (0..4).filter(|&s| s != leader && s != 3) {
        let mut w = started(4, 1);
        let (conn, _) = w.connect(leader, 20_000);
        w.done(conn, OpCode::Create, &create("/before", 0)).unwrap();
        w.garbled = Some(bad);
        w.spoilt.insert(bad);
        w.done(conn, OpCode::Create, &create("/n", 0)).unwrap();
        w.until(50, "it is found out", |w| w.differ.contains_key(&bad));
        assert!(w.differ[&bad].by_majority);
        assert_eq!(w.leader(), Some(leader));
        assert!(w.is_serving(3), "the observer does not mind");
        assert_eq!(w.done(conn, OpCode::Create, &create("/after", 0)), Ok("/after".into()));
        assert_eq!(w.differ.len(), 1);
    }
}

#[test]
fn questions_are_asked_at_pings_and_only_when_something_was_committed() {
    let mut w = started(4, 1);
    w.run(1_000);
    let asked = |w: &World| w.packets.get(&kind::DIGEST).copied().unwrap_or(0);
    let before = asked(&w);
    w.run(10_000);
    assert_eq!(asked(&w), before, "an idle ensemble has nothing to compare");
    let (conn, _) = w.connect(0, 20_000);
    let pings = w.packets[&kind::PING];
    for n in 0..500 {
        w.done(conn, OpCode::Create, &create(&format!("/n{n}"), 0)).unwrap();
    }
    w.run(1_000);
    let (questions, pings) = (asked(&w) - before, w.packets[&kind::PING] - pings);
    assert!(questions > 0 && questions <= pings, "{questions} of {pings}");
    assert!(w.differ.is_empty() && !w.notes.contains_key("a doubt"));
}
