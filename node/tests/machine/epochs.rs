//! The end of the counter: a new epoch, without an election, under way.

use crate::world::*;
use node::Input;
use proto::client::OpCode;
use proto::{DurableEpochs, Epoch, SessionId, Zxid};

fn near_end(left: u32) -> World {
    World::ending_at(Zxid::new(Epoch(0), u32::MAX - left))
}

fn zxids(seen: &[Seen]) -> Vec<Zxid> {
    let zxid = |s: &Seen| if let Seen::Written { zxid, .. } = s { Some(*zxid) } else { None };
    seen.iter().filter_map(zxid).collect()
}

#[test]
fn the_epoch_is_asked_for_in_time_and_the_next_write_opens_it() {
    let mut w = near_end(1 << 21);
    assert_eq!(w.epoch_wanted(), None);
    let mut w = {
        w.connect(10_000);
        near_end(1 << 19)
    };
    let (c, s) = w.connect(20_000);
    w.done(c, OpCode::Create, &create("/e", b"", EPHEMERAL)).unwrap();
    assert_eq!(w.epoch_wanted(), Some(Epoch(1)));
    assert_eq!(w.epoch_wanted(), None, "it is asked for once");
    w.write(c, 1, OpCode::Create, &create("/before", b"", 0));
    w.step(Input::EpochsPersisted(DurableEpochs::from_completed_write(Epoch(1), Epoch(1))));
    assert_eq!(w.epoch_wanted(), None);
    w.write(c, 2, OpCode::Create, &create("/after", b"", 0));
    w.write(c, 3, OpCode::Create, &create("/after2", b"", 0));
    w.seen(c);
    w.persist();
    let z = zxids(&w.seen(c));
    assert_eq!(z[0].epoch(), Epoch(0));
    assert_eq!(z[1..], [Zxid::new(Epoch(1), 1), Zxid::new(Epoch(1), 2)]);
    assert!(w.exists("/e") && w.tree.session_timeout(s).is_some(), "sessions live on");
    let mut w = w.crash();
    assert_eq!(w.tree.applied(), Zxid::new(Epoch(1), 2));
    let again = w.resume(s, 20_000);
    assert_eq!(w.session(again), Some(s));
    assert!(w.exists("/e"));
}

#[test]
fn without_a_durable_epoch_everything_waits_in_its_order() {
    let mut w = near_end(3);
    let (a, _) = w.connect(20_000);
    let (b, sb) = w.connect(2_000);
    w.done(a, OpCode::Create, &create("/last", b"0", 0)).unwrap();
    assert_eq!(w.tree.applied(), Zxid::new(Epoch(0), u32::MAX), "every zxid of the epoch is used");
    w.seen(a);
    w.write(a, 1, OpCode::SetData, &set("/last", b"1"));
    w.read(a, 2, OpCode::GetData, &look("/last", false));
    w.sync(a, 3, "/last");
    w.write(a, 4, OpCode::SetData, &set("/last", b"2"));
    w.read(a, 5, OpCode::GetData, &look("/last", false));
    w.write(b, 1, OpCode::Create, &create("/b", b"", EPHEMERAL));
    let new = w.dial(SessionId::NONE, &[], 10_000, 0);
    w.until(8_000);
    w.persist();
    assert_eq!((w.seen(a), w.seen(new)), (vec![], vec![]));
    assert_eq!(w.data("/last").unwrap(), b"0");
    assert_eq!(w.persist_epoch(), Some(Epoch(1)));
    w.persist();
    let seen = w.seen(a);
    assert_eq!(zxids(&seen), [Zxid::new(Epoch(1), 1), Zxid::new(Epoch(1), 1), Zxid::new(Epoch(1), 2)]);
    let read = |s: &Seen| if let Seen::Read { body, .. } = s { Some(value(body)) } else { None };
    assert_eq!(seen.iter().filter_map(read).collect::<Vec<_>>(), [b"1", b"2"]);
    assert_eq!(w.data("/last").unwrap(), b"2");
    assert!(w.session(new).is_some());
    // The session of b expired meanwhile: its close stands behind its create.
    assert!(w.tree.session_timeout(sb).is_none() && !w.exists("/b"));
    assert_eq!(w.node.in_flight(), 0);
}

#[test]
fn what_waits_for_an_epoch_is_bounded() {
    let mut w = near_end(1);
    let (c, _) = w.connect(20_000);
    w.write(c, 0, OpCode::Create, &create("/0", b"", 0));
    w.persist();
    let body = create("/x", &vec![0; 1_000_000], 0);
    let mut n = 0;
    while !w.node.is_saturated() {
        n += 1;
        w.write(c, n, OpCode::Create, &body);
        assert!(n < 100);
    }
    w.persist_epoch();
    w.persist();
    assert!(!w.node.is_saturated() && w.exists("/x"));
    assert_eq!(w.node.in_flight(), 0);
}

#[test]
#[should_panic(expected = "epochs only grow")]
fn an_epoch_is_entered_once() {
    let mut w = near_end(3);
    let epoch = w.persist_epoch().unwrap();
    w.connect(10_000);
    w.step(Input::EpochsPersisted(DurableEpochs::from_completed_write(epoch, epoch)));
}
