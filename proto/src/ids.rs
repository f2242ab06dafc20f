//! The numbers of the field, each its own type, shown as operators know them.

use core::fmt;

/// A transaction id: the epoch in the high 32 bits, the counter in the low 32 (Zab paper, section 3).
///
/// Orders as the protocol orders. `Zxid::ZERO` means "nothing yet".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Zxid(u64);

impl Zxid {
    /// Nothing has happened yet.
    pub const ZERO: Zxid = Zxid(0);
    /// The largest zxid.
    pub const MAX: Zxid = Zxid(u64::MAX);

    /// The zxid of `counter` in `epoch`.
    pub const fn new(epoch: Epoch, counter: u32) -> Zxid {
        Zxid(((epoch.0 as u64) << 32) | counter as u64)
    }

    /// From the wire or the disk, where a zxid is a signed 64-bit number.
    pub const fn from_wire(v: i64) -> Zxid {
        Zxid(v as u64)
    }

    /// As the wire and the disk carry it.
    pub const fn to_wire(self) -> i64 {
        self.0 as i64
    }

    /// The raw 64 bits.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// From raw 64 bits.
    pub const fn from_u64(v: u64) -> Zxid {
        Zxid(v)
    }

    /// The epoch, the high half.
    pub const fn epoch(self) -> Epoch {
        Epoch((self.0 >> 32) as u32)
    }

    /// The counter within the epoch, the low half.
    pub const fn counter(self) -> u32 {
        self.0 as u32
    }

    /// The zxid after this one in the same epoch; `None` when the counter is used up and a new epoch is due.
    pub const fn next(self) -> Option<Zxid> {
        if self.counter() == u32::MAX { None } else { Some(Zxid(self.0 + 1)) }
    }
}

impl fmt::Display for Zxid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Debug for Zxid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// The reign of one leader.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Epoch(pub u32);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A client session. Bit 63..56 is the id of the server that made it (semantics: session ids).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SessionId(pub i64);

impl SessionId {
    /// What a client sends when it wants a new session; the owner of a server's own requests.
    pub const NONE: SessionId = SessionId(0);
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// The client's number of a request, echoed in its reply.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Xid(pub i32);

impl Xid {
    /// A watch event.
    pub const NOTIFICATION: Xid = Xid(-1);
    /// A ping and its reply.
    pub const PING: Xid = Xid(-2);
    /// An auth packet and its reply.
    pub const AUTH: Xid = Xid(-4);
    /// The setWatches that a client sends by itself after it reconnects.
    pub const SET_WATCHES: Xid = Xid(-8);
}

/// A server of the ensemble, the number in `myid`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ServerId(pub i64);

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One connection of a client to this server, unique for the life of the process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ConnId(pub u64);

/// One connection of the quorum port, dialled or accepted, unique for the life of the process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct LinkId(pub u64);

/// A point on the monotonic clock of a server, in nanoseconds since that server's start of counting.
/// Made by the shell, never read from a clock inside the core.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Instant(pub u64);

impl Instant {
    /// From whole milliseconds.
    pub const fn from_ms(ms: u64) -> Instant {
        Instant(ms * 1_000_000)
    }

    /// In whole milliseconds, rounded down.
    pub const fn as_ms(self) -> u64 {
        self.0 / 1_000_000
    }

    /// This point plus `ms` milliseconds.
    pub const fn plus_ms(self, ms: u64) -> Instant {
        Instant(self.0.saturating_add(ms.saturating_mul(1_000_000)))
    }
}

/// Wall-clock time in milliseconds since 1970, used for ctime, mtime and TTLs only. May jump.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct WallMs(pub i64);

/// Proof that every record up to and including `upto` is on stable storage here.
///
/// Only the completion of a durable write may make one: `wal` does, nobody else (the arrow check of the
/// gate looks for the constructor). An own ACK is built from it, so nothing unsynced can be acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Durable {
    upto: Zxid,
}

impl Durable {
    /// To be called by the log on the completion of a durable write, or after a verified recovery.
    pub const fn from_completed_write(upto: Zxid) -> Durable {
        Durable { upto }
    }

    /// The last zxid that is durable.
    pub const fn upto(self) -> Zxid {
        self.upto
    }
}

/// Proof of the epochs that are on stable storage here. As [`Durable`], only the completion of a durable write may
/// make one: an ACKEPOCH, a LEADERINFO and an acknowledgement of NEWLEADER are built from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DurableEpochs {
    accepted: Epoch,
    current: Epoch,
}

impl DurableEpochs {
    /// To be called on the completion of a write of the superblock, or after it was read at start.
    ///
    /// # Panics
    /// When a history is claimed of an epoch that was never accepted.
    pub const fn from_completed_write(accepted: Epoch, current: Epoch) -> DurableEpochs {
        assert!(accepted.0 >= current.0, "a history is of an epoch that was accepted");
        DurableEpochs { accepted, current }
    }

    /// The epochs of a server that runs alone: the one of the end of its log, which is durable.
    pub const fn of_log(history: Durable) -> DurableEpochs {
        let epoch = history.upto.epoch();
        DurableEpochs { accepted: epoch, current: epoch }
    }

    /// The highest epoch that this server has promised to follow.
    pub const fn accepted(self) -> Epoch {
        self.accepted
    }

    /// The epoch whose history is here.
    pub const fn current(self) -> Epoch {
        self.current
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    #[test]
    fn zxid_has_epoch_and_counter_and_prints_as_hex() {
        let z = Zxid::new(Epoch(3), 7);
        assert_eq!((z.epoch(), z.counter()), (Epoch(3), 7));
        assert_eq!(z.to_string(), "0x300000007");
        assert_eq!(z.next(), Some(Zxid::new(Epoch(3), 8)));
    }

    #[test]
    fn counter_overflow_is_refused_not_carried_into_the_epoch() {
        assert_eq!(Zxid::new(Epoch(3), u32::MAX).next(), None);
    }
}
