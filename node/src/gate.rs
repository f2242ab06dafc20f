//! The order of one connection: replies leave in the order of the requests, and a read waits for the writes of
//! its own connection that stand before it, never for those behind it (semantics, section 11).
//!
//! ```text
//!   R0        W1          R2        W3        R4
//!   runs at   to the      waits     to the    waits
//!   once      node        for W1    node      for W3
//! ```
//! When W1 is complete, whoever completed it runs R2 before anything later is applied: R2 sees W1 and cannot
//! see W3. So writes are never held back by reads, and reads of other connections by nothing.
//!
//! A gate ends when its connection is to be closed: a request that stays without a reply would have those behind it
//! answered in its place.

use crate::limits;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use proto::{Instant, Xid};

/// A request in the gate.
#[derive(Debug, PartialEq, Eq)]
enum Waiting {
    /// Gone to the node; its reply comes through [`Gate::complete`].
    Ordered { xid: Xid, op: i32, received: Instant },
    /// To be answered here, once everything before it is: the frame's payload.
    Local { request: Box<[u8]>, received: Instant },
}

/// A local request whose turn has come.
#[derive(Debug, PartialEq, Eq)]
pub struct Turn {
    /// The frame's payload.
    pub request: Box<[u8]>,
    /// When it was read.
    pub received: Instant,
}

/// The requests of one connection that have no reply yet.
#[derive(Debug, Default)]
pub struct Gate {
    waiting: VecDeque<Waiting>,
    /// Nothing more is answered.
    ended: bool,
    /// Bytes of the local requests in `waiting`.
    bytes: usize,
}

impl Gate {
    /// An empty gate.
    pub fn new() -> Gate {
        Gate::default()
    }

    /// Whether nothing waits: a read may run at once.
    pub fn is_open(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether the connection should not be read from until something completes.
    pub fn is_full(&self) -> bool {
        self.waiting.len() >= limits::GATE_REQUESTS || self.bytes >= limits::GATE_BYTES
    }

    /// Requests without a reply.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether no request waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes a place for a request that goes to the node: a write or a sync, with its operation code.
    pub fn admit_ordered(&mut self, xid: Xid, op: i32, received: Instant) {
        self.waiting.push_back(Waiting::Ordered { xid, op, received });
    }

    /// Takes a place for a request that is answered here, behind what waits.
    pub fn admit_local(&mut self, request: &[u8], received: Instant) {
        self.bytes += request.len();
        self.waiting.push_back(Waiting::Local { request: request.into(), received });
    }

    /// The connection is being closed: what waits is not answered any more, whatever the node says of it.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// The oldest request is answered by the node. Returns its operation code and when it was read; `None` when the
    /// gate has ended, and nothing is to be told.
    ///
    /// # Panics
    /// When the oldest request is not `xid`: replies would leave in the wrong order, and every client would
    /// take them for answers to other questions.
    pub fn complete(&mut self, xid: Xid) -> Option<(i32, Instant)> {
        if self.ended {
            return None;
        }
        match self.waiting.pop_front() {
            Some(Waiting::Ordered { xid: oldest, op, received }) if oldest == xid => Some((op, received)),
            other => panic!("the reply to {xid:?} met {other:?} at the head of the gate"),
        }
    }

    /// The next local request whose turn has come; call until `None` after each [`Gate::complete`].
    pub fn next_local(&mut self) -> Option<Turn> {
        match self.waiting.front() {
            Some(Waiting::Local { .. }) => match self.waiting.pop_front() {
                Some(Waiting::Local { request, received }) => {
                    self.bytes -= request.len();
                    Some(Turn { request, received })
                }
                _ => unreachable!("the head was just looked at"),
            },
            Some(Waiting::Ordered { .. }) | None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn at(ns: u64) -> Instant {
        Instant(ns)
    }

    #[test]
    fn reads_wait_for_the_writes_before_them_only() {
        let mut g = Gate::new();
        assert!(g.is_open());
        g.admit_ordered(Xid(1), 5, at(10));
        g.admit_local(b"r2", at(11));
        g.admit_local(b"r3", at(12));
        g.admit_ordered(Xid(4), 5, at(13));
        g.admit_local(b"r5", at(14));
        assert!(!g.is_open());
        assert_eq!(g.next_local(), None, "the write before them is not complete");
        assert_eq!(g.complete(Xid(1)), Some((5, at(10))));
        assert_eq!(g.next_local().map(|t| t.request.into_vec()), Some(b"r2".to_vec()));
        assert_eq!(g.next_local().map(|t| t.received), Some(at(12)));
        assert_eq!(g.next_local(), None, "the second write is not complete");
        g.complete(Xid(4));
        assert!(g.next_local().is_some());
        assert!(g.is_open());
    }

    #[test]
    fn a_gate_is_bounded_by_requests_and_by_bytes() {
        let mut g = Gate::new();
        for i in 0..limits::GATE_REQUESTS {
            assert!(!g.is_full());
            g.admit_ordered(Xid(i as i32), 1, at(0));
        }
        assert!(g.is_full());
        let mut g = Gate::new();
        g.admit_ordered(Xid(0), 1, at(0));
        g.admit_local(&vec![0; limits::GATE_BYTES], at(0));
        assert!(g.is_full());
    }

    #[test]
    fn nothing_is_answered_behind_a_request_that_ended_its_connection() {
        // A write that came through a server from which its session has moved is not answered, but its connection is
        // closed. The sync behind it was answered in the same step, and its reply met the write.
        let mut g = Gate::new();
        g.admit_ordered(Xid(69), 14, at(1));
        g.admit_ordered(Xid(70), 9, at(2));
        g.admit_local(b"r71", at(3));
        g.end();
        assert_eq!(g.complete(Xid(70)), None);
        assert_eq!(g.next_local(), None, "it stands behind requests that were not answered");
        assert_eq!(g.len(), 3, "they count until the connection is gone");
    }

    #[test]
    #[should_panic(expected = "head of the gate")]
    fn replies_in_the_wrong_order_are_a_bug() {
        let mut g = Gate::new();
        g.admit_ordered(Xid(1), 1, at(0));
        g.admit_ordered(Xid(2), 1, at(0));
        g.complete(Xid(2));
    }
}
