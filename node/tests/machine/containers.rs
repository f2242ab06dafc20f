//! Containers and TTL znodes: who goes, when, and how many at a time.

use crate::world::*;
use node::Input;
use proto::Instant;
use proto::client::OpCode;
use proto::txn::{Record, Txn};

const CONTAINER: i32 = 4;

fn containers(w: &mut World, n: usize) {
    let (c, _) = w.connect(20_000);
    for i in 0..n {
        w.write(c, 0, OpCode::CreateContainer, &create(&format!("/c{i}"), b"", CONTAINER));
        w.write(c, 0, OpCode::Create, &create(&format!("/c{i}/x"), b"", 0));
        w.write(c, 0, OpCode::Delete, &delete(&format!("/c{i}/x")));
    }
    w.write(c, 0, OpCode::CreateContainer, &create("/unused", b"", CONTAINER));
    w.write(c, 0, OpCode::CreateContainer, &create("/full", b"", CONTAINER));
    w.write(c, 0, OpCode::Create, &create("/full/x", b"", 0));
    w.persist();
}

fn left(w: &World, n: usize) -> usize {
    (0..n).filter(|i| w.exists(&format!("/c{i}"))).count()
}

#[test]
fn emptied_containers_go_evenly_spaced_and_nothing_else_goes() {
    let mut w = World::over(
        Vec::new(),
        Instant::from_ms(5_000),
        node::Config { containers_per_minute: 60, ..config() },
    );
    containers(&mut w, 5);
    w.live_until(64_999);
    assert_eq!(left(&w, 5), 5, "the first look is one interval after the start");
    for gone in 1..=5 {
        w.live_until(65_000 + 1_000 * (gone - 1));
        assert_eq!(left(&w, 5), 5 - gone as usize);
        w.live_until(65_000 + 1_000 * gone - 1);
        assert_eq!(left(&w, 5), 5 - gone as usize);
    }
    w.live_until(300_000);
    assert!(w.exists("/unused") && w.exists("/full/x"));
}

#[test]
fn a_container_that_was_never_used_goes_when_that_is_wanted() {
    let mut w = World::over(
        Vec::new(),
        Instant::from_ms(5_000),
        node::Config { container_never_used_ms: 100_000, ..config() },
    );
    containers(&mut w, 0);
    w.live_until(124_999);
    assert!(w.exists("/unused"));
    w.live_until(125_500);
    assert!(!w.exists("/unused") && w.exists("/full"));
}

#[test]
fn ttls_are_of_the_wall_clock_and_are_looked_at_again_when_it_is_done() {
    let mut w = World::new();
    let (c, _) = w.connect(20_000);
    w.done(c, OpCode::CreateTtl, &create_ttl("/kept", 30_000)).unwrap();
    w.done(c, OpCode::CreateTtl, &create_ttl("/short", 30_000)).unwrap();
    w.done(c, OpCode::CreateTtl, &create_ttl("/long", 1_000_000)).unwrap();
    w.live_until(64_900);
    w.wall.0 += 1;
    let at = w.node.next_timeout();
    w.set_clock(at);
    // Set in the same moment as it is found due: what is in flight counts.
    let (d, _) = w.connect(20_000);
    w.write(d, 1, OpCode::SetData, &set("/kept", b"again"));
    w.step(Input::Tick);
    w.live_until(66_000);
    assert!(w.exists("/kept") && !w.exists("/short") && w.exists("/long"));
}

#[test]
fn after_a_pause_removals_are_not_made_up_for_at_once() {
    let mut w = World::over(
        Vec::new(),
        Instant::from_ms(5_000),
        node::Config { containers_per_minute: 600, ..config() },
    );
    containers(&mut w, 100);
    // All sessions are gone by then, so the tick is late for the reaper only.
    w.live_until(65_000);
    assert_eq!(left(&w, 100), 99);
    w.set_clock(Instant::from_ms(69_000));
    w.step(Input::Tick);
    w.persist();
    assert_eq!(left(&w, 100), 97, "one that is due now, one that was due a spacing ago");
}

#[test]
fn without_a_log_nothing_is_removed_and_nothing_is_proposed_twice() {
    let mut w = World::new();
    containers(&mut w, 3);
    w.live_until(60_000);
    w.step(Input::LogFull(true));
    let proposed = w.node.proposed();
    w.live_until(200_000);
    assert_eq!(w.node.proposed(), proposed);
    w.step(Input::LogFull(false));
    w.live_until(300_000);
    assert_eq!(left(&w, 3), 0);

    let mut w = World::new();
    containers(&mut w, 3);
    w.live_until(64_000);
    // The log stands still from here on.
    w.until(400_000);
    w.flush();
    assert_eq!(w.queue.len(), 3, "each once");
    w.persist();
    w.live_until(500_000);
    assert_eq!(left(&w, 3), 0);
    let failed = |r: &&Vec<u8>| matches!(Record::decode(r).unwrap().txn, Txn::Error { .. });
    assert_eq!(w.durable.iter().filter(failed).count(), 0, "nor later");

    let slow = node::Config { containers_per_minute: 60, ..config() };
    let mut w = World::over(Vec::new(), Instant::from_ms(5_000), slow);
    containers(&mut w, 5);
    w.live_until(65_000);
    w.step(Input::LogFull(true));
    w.live_until(80_000);
    assert_eq!(left(&w, 5), 4, "those that were found before wait too");
    w.step(Input::LogFull(false));
    w.live_until(90_000);
    assert_eq!(left(&w, 5), 0);
}
