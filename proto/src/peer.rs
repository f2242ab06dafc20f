//! What servers of an ensemble say to each other, byte for byte as Apache's servers say it.
//!
//! Two ports, three shapes. On the *election port* one [`InitialMessage`] opens a connection, then frames of an `i32`
//! length and a [`Notification`] go both ways. On the *quorum port* a stream of packets without any framing goes
//! both ways: [`FromLearner`] what a follower or observer says, [`FromLeader`] what it hears. Both have the same frame:
//!
//! ```text
//!   0        4               12       16        16+n
//!   +--------+---------------+--------+---//----+--------+---//---+
//!   | type   | zxid          | n      | data    | count  | ids    |   n = -1: no data;  count = -1: no ids
//!   +--------+---------------+--------+---//----+--------+---//---+   an id: scheme and name, each i32 length and bytes
//! ```
//!
//! After a `SNAP` packet the raw snapshot follows in the stream (`snapshot::apache` writes and reads it).
//!
//! Falconers recognise each other by bytes behind the records of the handshake that Apache's servers ignore:
//! [`Features`]. Nothing is sent that Apache's servers lack before both sides have shown them.
//!
//! Everything borrows from the bytes that it was read from. Not here: who may say what when (`zab`), sockets.

mod election;
mod quorum;

pub use election::{
    ANCIENT_OBSERVER, Address, INITIAL_TEXT_MAX, InitialMessage, NOTIFICATION_MAX, Notification, PeerState,
    Vote, frame_len,
};
pub use quorum::{
    AuthIds, FromLeader, FromLearner, HEAD_LEN, LearnerInfo, Packet, PacketError, Touches, kind, packet_len,
};

use crate::jute::Reader;

/// The version of the quorum protocol that all releases since 3.5 speak.
pub const PROTOCOL_VERSION: i32 = 0x10000;

/// What a Falconer can do beyond Apache's protocol, shown behind the handshake's records.
///
/// ```text
///   | "FALCONER" 8 bytes | bits, i32 |
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Features(pub u32);

impl Features {
    /// It answers DIGEST, and heeds VERDICT.
    pub const DIGESTS: u32 = 1;
    /// A tree behind SNAP is a stream of parts (`engine`'s), not Apache's format.
    pub const STREAM: u32 = 2;
    /// What this version can do.
    pub const OWN: Features = Features(Features::DIGESTS | Features::STREAM);

    /// Bytes of the encoding.
    pub const LEN: usize = 12;
    const MAGIC: &'static [u8; 8] = b"FALCONER";

    /// Whether all of `bits` are there.
    pub fn has(self, bits: u32) -> bool {
        self.0 & bits == bits
    }

    /// Appends the mark.
    pub fn encode(self, out: &mut alloc::vec::Vec<u8>) {
        out.extend_from_slice(Features::MAGIC);
        out.extend_from_slice(&self.0.to_be_bytes());
    }

    /// Looks for the mark in what stands behind a record; whatever else stands there is ignored, as Apache does.
    pub fn find(rest: &[u8]) -> Option<Features> {
        let bits = rest.strip_prefix(Features::MAGIC)?;
        Some(Features(Reader::new(bits).i32().ok()? as u32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn the_mark_is_found_and_nothing_else_is_taken_for_it() {
        let mut out = Vec::new();
        Features(5).encode(&mut out);
        assert_eq!(out, b"FALCONER\0\0\0\x05");
        assert_eq!(out.len(), Features::LEN);
        assert_eq!(Features::find(&out), Some(Features(5)));
        out.push(9);
        assert_eq!(Features::find(&out), Some(Features(5)), "a later version may say more");
        for cut in 0..Features::LEN {
            assert_eq!(Features::find(&out[..cut]), None);
        }
        assert_eq!(Features::find(b"falconer\0\0\0\x05"), None);
    }
}
