//! The election port: who is calling, and votes (quorum protocol, sections 2 and 3).

use super::Features;
use crate::ServerId;
use crate::jute::{DecodeError, Put, Reader};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

/// The longest text of addresses in an initial message, bytes. Apache's bound: a longer one is refused.
pub const INITIAL_TEXT_MAX: usize = 2048;

/// The longest notification, bytes. Apache's bound: a longer frame ends the connection.
pub const NOTIFICATION_MAX: usize = 512 << 10;

/// What a caller of Apache's earliest versions sends in place of its id when it is an observer.
pub const ANCIENT_OBSERVER: ServerId = ServerId(i64::MAX);

/// One address: since 3.5 the port, in any release the host as a name or a number.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Address {
    /// Name or number; an IPv6 number without its brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl Address {
    /// Reads `host:port` or `[v6]:port`; `None` when it is neither.
    pub fn parse(text: &str) -> Option<Address> {
        let (host, port) = text.rsplit_once(':')?;
        let host = match host.strip_prefix('[') {
            Some(inner) => inner.strip_suffix(']')?,
            None => host,
        };
        let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        if host.is_empty() || host.contains(['[', ']', '|']) || !digits {
            return None;
        }
        Some(Address { host: host.to_string(), port: port.parse().ok()? })
    }

    /// Whether this is the address of every interface, which nobody can call.
    pub fn is_wildcard(&self) -> bool {
        use core::net::IpAddr;
        self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// What opens a connection of the election port, sent once by the side that dialled.
///
/// ```text
///   0               8               16       20
///   +---------------+---------------+--------+---//---+
///   | version       | server id     | n      | text   |   text: "host:port" (V1), "a:1|b:2" (V2)
///   +---------------+---------------+--------+---//---+
///   | server id >=0 |                                     servers before 3.5: nothing follows
///   +---------------+
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InitialMessage {
    /// Who calls.
    pub server: ServerId,
    /// Where it can be called back; empty from servers before 3.5. Addresses that can't be read are left out, as
    /// Apache's servers do.
    pub addresses: Vec<Address>,
}

impl InitialMessage {
    const V1: i64 = -65536;
    const V2: i64 = -65535;

    /// Appends the message: version 1 for one address, which every release since 3.5 reads, version 2 for several.
    /// The whole goes out in one write: Apache's servers read the text with one read.
    ///
    /// # Panics
    /// When the addresses are longer than [`INITIAL_TEXT_MAX`], or there are none: the configuration bounds them.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let texts: Vec<String> = self.addresses.iter().map(Address::to_string).collect();
        let text = texts.join("|");
        assert!((1..=INITIAL_TEXT_MAX).contains(&text.len()), "{} bytes of addresses", text.len());
        out.put_i64(if texts.len() == 1 { Self::V1 } else { Self::V2 });
        out.put_i64(self.server.0);
        out.put_str(&text);
    }

    /// Reads the message at the start of `bytes` and how many bytes it takes; `None` when more are needed.
    ///
    /// # Errors
    /// An unknown version, or a text of a forbidden length: the caller is no server of an ensemble.
    pub fn decode(bytes: &[u8]) -> Result<Option<(InitialMessage, usize)>, DecodeError> {
        let mut r = Reader::new(bytes);
        let Ok(version) = r.i64() else { return Ok(None) };
        if version >= 0 {
            let ancient = InitialMessage { server: ServerId(version), addresses: Vec::new() };
            return Ok(Some((ancient, r.offset())));
        }
        if version != Self::V1 && version != Self::V2 {
            return Err(DecodeError::Value { offset: 0, found: version });
        }
        let Ok(server) = r.i64() else { return Ok(None) };
        let offset = r.offset();
        let Ok(len) = r.i32() else { return Ok(None) };
        if len <= 0 || len as usize > INITIAL_TEXT_MAX {
            return Err(DecodeError::Length { offset, found: len, max: INITIAL_TEXT_MAX });
        }
        let Ok(text) = r.take(len as usize) else { return Ok(None) };
        let text = String::from_utf8_lossy(text);
        let addresses = text.split('|').filter_map(Address::parse).collect();
        Ok(Some((InitialMessage { server: ServerId(server), addresses }, r.offset())))
    }
}

/// The length of the frame whose first four bytes are given.
///
/// # Errors
/// When no notification is that long: the connection is to be closed.
pub fn frame_len(head: [u8; 4]) -> Result<usize, DecodeError> {
    let found = i32::from_be_bytes(head);
    match usize::try_from(found) {
        Ok(len) if (1..=NOTIFICATION_MAX).contains(&len) => Ok(len),
        _ => Err(DecodeError::Length { offset: 0, found, max: NOTIFICATION_MAX }),
    }
}

/// What a server is doing, as it says.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(i32)]
pub enum PeerState {
    /// It looks for a leader.
    Looking = 0,
    /// It follows one.
    Following = 1,
    /// It leads.
    Leading = 2,
    /// It observes one.
    Observing = 3,
}

impl PeerState {
    /// From its number on the wire.
    pub const fn from_wire(n: i32) -> Option<PeerState> {
        Some(match n {
            0 => PeerState::Looking,
            1 => PeerState::Following,
            2 => PeerState::Leading,
            3 => PeerState::Observing,
            _ => return None,
        })
    }
}

/// Who should lead, and with which history. The numbers are signed and compared signed: an observer, who can't be
/// elected, votes `i64::MIN` in all three, and the zxid -1 says "do not count me".
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Vote {
    /// The server that should lead.
    pub leader: ServerId,
    /// The last zxid that it has logged.
    pub zxid: i64,
    /// The epoch of the last leader whose history it took over.
    pub peer_epoch: i64,
}

/// A vote with its sender's state: the only message of the election.
///
/// ```text
///   0        4        12       20        28         36       40       44
///   +--------+--------+--------+---------+----------+--------+--------+---//---+----------+
///   | state  | leader | zxid   | round   | epoch    | version| n      | config | Features |
///   +--------+--------+--------+---------+----------+--------+--------+---//---+----------+
///   exactly 28 bytes: no epoch, it is the zxid's;  exactly 40: no version;  version 0, 1: no config
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Notification<'a> {
    /// What the sender is doing.
    pub state: PeerState,
    /// Whom it votes for, or follows.
    pub vote: Vote,
    /// The round of the election (Apache's logicalclock).
    pub round: i64,
    /// The layout: 2 since 3.5.
    pub version: i32,
    /// The sender's last committed configuration, as text; `None` before version 2. Not checked: Apache's servers take the
    /// vote whatever the text holds.
    pub config: Option<&'a [u8]>,
    /// What a Falconer can do more; `None` from others.
    pub features: Option<Features>,
}

impl<'a> Notification<'a> {
    /// The version that is sent.
    pub const VERSION: i32 = 2;

    /// Appends the message in the layout of [`Notification::VERSION`], without its frame's length.
    ///
    /// # Panics
    /// When the whole is longer than [`NOTIFICATION_MAX`]: the configuration's text is bounded.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.put_i32(self.state as i32);
        out.put_i64(self.vote.leader.0);
        out.put_i64(self.vote.zxid);
        out.put_i64(self.round);
        out.put_i64(self.vote.peer_epoch);
        out.put_i32(Self::VERSION);
        out.put_buffer(Some(self.config.unwrap_or_default()));
        if let Some(features) = self.features {
            features.encode(out);
        }
        let len = out.len() - start;
        assert!(len <= NOTIFICATION_MAX, "a notification of {len} bytes");
    }

    /// Reads any of the layouts; `Ok(None)` when the sender is in a state that nobody knows, which is ignored.
    ///
    /// # Errors
    /// When fields are missing: the message is skipped, the connection stays.
    pub fn decode(bytes: &'a [u8]) -> Result<Option<Notification<'a>>, DecodeError> {
        let mut r = Reader::new(bytes);
        let (state, leader, zxid, round) = (r.i32()?, r.i64()?, r.i64()?, r.i64()?);
        let peer_epoch = if bytes.len() == 28 { zxid >> 32 } else { r.i64()? };
        let version = if matches!(bytes.len(), 28 | 40) { 0 } else { r.i32()? };
        let (mut config, mut features) = (None, None);
        if version > 1 {
            let offset = r.offset();
            let len = r.i32()?;
            if len < 0 || len as usize > bytes.len() {
                return Err(DecodeError::Length { offset, found: len, max: bytes.len() });
            }
            config = Some(r.take(len as usize)?);
            features = Features::find(r.rest());
        }
        let Some(state) = PeerState::from_wire(state) else { return Ok(None) };
        let vote = Vote { leader: ServerId(leader), zxid, peer_epoch };
        Ok(Some(Notification { state, vote, round, version, config, features }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Zxid;
    use alloc::vec;

    fn unhex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|d| u8::from_str_radix(core::str::from_utf8(d).unwrap(), 16).unwrap()).collect()
    }

    #[test]
    fn an_initial_message_is_what_apache_sends() {
        // Captured from 3.8.0.
        let bytes = unhex("ffffffffffff0000 0000000000000003 0000000f 3132372e302e302e313a3430333032");
        let (message, used) = InitialMessage::decode(&bytes).unwrap().unwrap();
        assert_eq!(used, bytes.len());
        assert_eq!(message.server, ServerId(3));
        assert_eq!(message.addresses, [Address { host: "127.0.0.1".into(), port: 40302 }]);
        let mut out = vec![];
        message.encode(&mut out);
        assert_eq!(out, bytes);
        for cut in 0..bytes.len() {
            assert_eq!(InitialMessage::decode(&bytes[..cut]), Ok(None), "cut at {cut}");
        }
    }

    #[test]
    fn several_addresses_take_the_second_version() {
        let addresses: Vec<_> =
            ["zk1:3888", "[::1]:3889"].iter().map(|a| Address::parse(a).unwrap()).collect();
        let message = InitialMessage { server: ServerId(9), addresses };
        let mut out = vec![];
        message.encode(&mut out);
        assert_eq!(out[..8], unhex("ffffffffffff0001"));
        assert!(out.ends_with(b"zk1:3888|[::1]:3889"));
        assert_eq!(InitialMessage::decode(&out), Ok(Some((message, out.len()))));
    }

    #[test]
    fn callers_of_old_and_callers_that_are_none() {
        let old = InitialMessage { server: ServerId(5), addresses: vec![] };
        assert_eq!(InitialMessage::decode(&unhex("0000000000000005 ff")), Ok(Some((old, 8))));
        assert!(InitialMessage::decode(&unhex("fffffffffffe0000")).is_err());
        for len in ["00000000", "ffffffff", "80000000", "00000801", "7fffffff"] {
            let bytes = unhex(&["ffffffffffff0000 0000000000000003", len].concat());
            assert!(InitialMessage::decode(&bytes).is_err(), "{len}");
        }
        // A request of HTTP reads as an id: the server of that id is not configured.
        let (http, _) = InitialMessage::decode(b"GET / HTTP/1.1\r\n").unwrap().unwrap();
        assert_eq!(http.server, ServerId(0x4745_5420_2f20_4854));
    }

    #[test]
    fn addresses_that_are_none_are_left_out() {
        for bad in ["", "host", ":1", "host:", "host:x", "host:+1", "host:65536", "[::1:1", "::1]:1", "[]:1"]
        {
            assert_eq!(Address::parse(bad), None, "{bad}");
        }
        let mut bytes = unhex("ffffffffffff0001 0000000000000003");
        bytes.put_str("nonsense|a:1|b:0|c");
        let (message, _) = InitialMessage::decode(&bytes).unwrap().unwrap();
        assert_eq!(message.addresses.iter().map(Address::to_string).collect::<Vec<_>>(), ["a:1", "b:0"]);
        let wild = |a: &str| Address::parse(a).unwrap().is_wildcard();
        assert!(wild("0.0.0.0:1") && wild("[::]:1") && !wild("127.0.0.1:1") && !wild("zk:1"));
    }

    fn vote() -> Vote {
        Vote { leader: ServerId(3), zxid: Zxid::from_u64(0x1_0000_0007).to_wire(), peer_epoch: 1 }
    }

    #[test]
    fn a_notification_has_its_fields_in_their_places() {
        let sent = Notification {
            state: PeerState::Leading,
            vote: vote(),
            round: 0x22,
            version: 2,
            config: Some(b"version=0"),
            features: None,
        };
        let golden = "00000002 0000000000000003 0000000100000007 0000000000000022 0000000000000001 \
                      00000002 00000009 76657273696f6e3d30";
        let mut out = vec![];
        sent.encode(&mut out);
        assert_eq!(out, unhex(golden));
        assert_eq!(Notification::decode(&out), Ok(Some(sent)));

        let marked = Notification { features: Some(Features(1)), ..sent };
        let mut more = vec![];
        marked.encode(&mut more);
        assert!(more.starts_with(&out), "what Apache reads is the same");
        assert_eq!(Notification::decode(&more), Ok(Some(marked)));
        for cut in 0..more.len() {
            match Notification::decode(&more[..cut]) {
                Ok(Some(n)) if cut >= out.len() => assert_eq!(n, sent),
                Ok(Some(n)) => {
                    assert!(matches!(cut, 28 | 40) && n.version == 0 && n.config.is_none(), "{cut}")
                }
                other => assert!(other.is_err() && cut < out.len(), "cut at {cut}: {other:?}"),
            }
        }
    }

    #[test]
    fn an_observers_vote_is_the_smallest_of_all() {
        let golden =
            "00000000 8000000000000000 8000000000000000 0000000000000001 8000000000000000 00000002 00000000";
        let n = Notification::decode(&unhex(golden))
            .map(|n| n.map(|n| (n.state, n.vote, n.round, n.config.is_some())));
        let none = Vote { leader: ServerId(i64::MIN), zxid: i64::MIN, peer_epoch: i64::MIN };
        assert_eq!(n, Ok(Some((PeerState::Looking, none, 1, true))));
    }

    #[test]
    fn the_layouts_of_old() {
        let v0 = "00000001 0000000000000003 0000000100000007 0000000000000022";
        let bytes = unhex(v0);
        let n = Notification::decode(&bytes).unwrap().unwrap();
        assert_eq!((n.vote, n.version, n.config), (vote(), 0, None));
        // Forty bytes: an epoch, and four that nobody wrote.
        let bytes = unhex(&[v0, "0000000000000009 ffffffff"].concat());
        let n = Notification::decode(&bytes).unwrap().unwrap();
        assert_eq!((n.vote.peer_epoch, n.version, n.config), (9, 0, None));
        // Version 1 has no configuration, whatever follows.
        let bytes = unhex(&[v0, "0000000000000009 00000001 ffff"].concat());
        let n = Notification::decode(&bytes).unwrap().unwrap();
        assert_eq!((n.vote.peer_epoch, n.version, n.config), (9, 1, None));
    }

    #[test]
    fn lengths_and_states_that_nobody_knows() {
        let head = "0000000000000003 0000000100000007 0000000000000022 0000000000000001 00000002";
        for len in ["ffffffff", "7fffffff", "00000001", "80000000"] {
            let bytes = unhex(&["00000000", head, len].concat());
            assert!(Notification::decode(&bytes).is_err(), "{len}");
        }
        for state in ["00000004", "ffffffff"] {
            assert_eq!(Notification::decode(&unhex(&[state, head, "00000000"].concat())), Ok(None));
        }
        assert_eq!(frame_len([0, 0, 0, 1]), Ok(1));
        assert_eq!(frame_len([0, 8, 0, 0]), Ok(NOTIFICATION_MAX));
        for head in [[0; 4], [0, 8, 0, 1], [0xff; 4], [0x80, 0, 0, 0]] {
            assert!(frame_len(head).is_err(), "{head:?}");
        }
    }
}
