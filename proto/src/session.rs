//! Ids and passwords of sessions, computed as every server of an ensemble computes them (semantics, 9.3, 9.4).

use crate::{Instant, ServerId, SessionId};

/// The first session id of a server that starts at `start` on its monotonic clock: the server's id in the top
/// byte, the low forty bits of the clock in ms, sixteen bits to count in.
pub fn first_session_id(server: ServerId, start: Instant) -> SessionId {
    let clock = ((start.as_ms() << 24) >> 8) as i64;
    let id = clock | (server.0 << 56);
    // i64::MIN is the mark of containers and may not name a session.
    SessionId(if id == i64::MIN { id + 1 } else { id })
}

/// The session id after `id`.
pub fn next_session_id(id: SessionId) -> SessionId {
    let next = id.0.wrapping_add(1);
    SessionId(if next == i64::MIN { next + 1 } else { next })
}

/// The password of a session: `java.util.Random` seeded with the id and a constant, so that any server can
/// check it. It proves nothing to somebody who knows the id.
pub fn password(id: SessionId) -> [u8; 16] {
    const MULTIPLIER: u64 = 0x5_DEEC_E66D;
    const MASK: u64 = (1 << 48) - 1;
    const SUPER_SECRET: i64 = 0xB341_5C00;
    let mut state = ((id.0 ^ SUPER_SECRET) as u64 ^ MULTIPLIER) & MASK;
    let mut out = [0; 16];
    for word in out.chunks_exact_mut(4) {
        state = state.wrapping_mul(MULTIPLIER).wrapping_add(0xB) & MASK;
        word.copy_from_slice(&((state >> 16) as u32).to_le_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_those_of_apache() {
        // Observed on live sessions.
        let p = password(SessionId(0x0100_000f_5a14_0000));
        assert_eq!(u128::from_be_bytes(p), 0x0efa_6d45_833d_f9d3_9cae_2725_04c9_374e);
        let p = password(SessionId(0x0100_001f_e746_0000));
        assert_eq!(u128::from_be_bytes(p), 0x5852_3805_0551_abd8_f6c8_58da_56dd_c4e8);
    }

    #[test]
    fn ids_carry_server_and_clock() {
        let id = first_session_id(ServerId(1), Instant::from_ms(0xf5a14));
        assert_eq!(id, SessionId(0x0100_000f_5a14_0000));
        assert_eq!(first_session_id(ServerId(255), Instant::from_ms(0)).0, -1_i64 << 56);
        assert_eq!(first_session_id(ServerId(128), Instant::from_ms(0)).0, i64::MIN + 1);
        assert_eq!(next_session_id(SessionId(i64::MAX)), SessionId(i64::MIN + 1));
    }
}
