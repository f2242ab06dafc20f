//! The quorum port: packets between a leader and its learners (quorum protocol, section 4).

use super::Features;
use crate::acl::Id;
use crate::jute::{DecodeError, Put, Reader};
use crate::{Epoch, ServerId, SessionId, Xid, Zxid};
use alloc::borrow::Cow;
use alloc::vec::Vec;
use core::fmt;

/// The types of packets.
pub mod kind {
    #![allow(missing_docs, reason = "the names are the protocol's")]
    pub const REQUEST: i32 = 1;
    pub const PROPOSAL: i32 = 2;
    pub const ACK: i32 = 3;
    pub const COMMIT: i32 = 4;
    pub const PING: i32 = 5;
    pub const REVALIDATE: i32 = 6;
    pub const SYNC: i32 = 7;
    pub const INFORM: i32 = 8;
    pub const COMMITANDACTIVATE: i32 = 9;
    pub const NEWLEADER: i32 = 10;
    pub const FOLLOWERINFO: i32 = 11;
    pub const UPTODATE: i32 = 12;
    pub const DIFF: i32 = 13;
    pub const TRUNC: i32 = 14;
    pub const SNAP: i32 = 15;
    pub const OBSERVERINFO: i32 = 16;
    pub const LEADERINFO: i32 = 17;
    pub const ACKEPOCH: i32 = 18;
    pub const INFORMANDACTIVATE: i32 = 19;
    /// Falconer's own, far from Apache's: only between servers that have shown [`Features::DIGESTS`](super::Features).
    pub const DIGEST: i32 = 0x4601;
    /// See [`DIGEST`].
    pub const VERDICT: i32 = 0x4602;
}

/// The bytes before a packet's data: type, zxid, length of the data.
pub const HEAD_LEN: usize = 16;

/// Why a packet was not understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum PacketError {
    /// Its bytes are not what its type has.
    Malformed {
        /// The type.
        kind: i32,
        /// What is wrong; offsets count from the start of the data.
        error: DecodeError,
    },
    /// No packet of this type goes this way.
    Kind(i32),
}

impl fmt::Display for PacketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PacketError::Malformed { kind, error } => write!(f, "packet of type {kind}: {error}"),
            PacketError::Kind(kind) => write!(f, "a packet of type {kind} has no place here"),
        }
    }
}

impl core::error::Error for PacketError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            PacketError::Malformed { error, .. } => Some(error),
            PacketError::Kind(_) => None,
        }
    }
}

/// An encoded `vector<Id>`, known to be well formed: the ids of the client whose request is forwarded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AuthIds<'a>(&'a [u8]);

impl<'a> AuthIds<'a> {
    /// No vector at all, as all packets but requests have it.
    pub const NULL: AuthIds<'static> = AuthIds(&[0xff; 4]);

    /// Reads one vector.
    ///
    /// # Errors
    /// When it ends early, or a name is longer than the reader allows.
    pub fn decode(r: &mut Reader<'a>) -> Result<AuthIds<'a>, DecodeError> {
        let start = r.offset();
        for _ in 0..r.count()?.unwrap_or(0) {
            r.buffer()?;
            r.buffer()?;
        }
        Ok(AuthIds(r.since(start)))
    }

    /// Whether there is no vector, which the server's own requests have.
    pub fn is_null(&self) -> bool {
        self.0.starts_with(&(-1_i32).to_be_bytes())
    }

    /// The encoded vector.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.0
    }

    /// The ids. A null name reads as empty: it matches nobody.
    pub fn ids(&self) -> impl Iterator<Item = Id> {
        let mut r = Reader::new(self.0);
        let n = r.count().ok().flatten().unwrap_or(0);
        (0..n).map_while(move |_| {
            let scheme = r.string().ok()?.unwrap_or_default();
            let id = r.string().ok()?.unwrap_or_default();
            Some(Id { scheme: scheme.into_owned(), id: id.into_owned() })
        })
    }

    /// Appends the vector of `ids`.
    pub fn encode<'i>(ids: impl ExactSizeIterator<Item = &'i Id>, out: &mut Vec<u8>) {
        out.put_count(ids.len());
        for id in ids {
            out.put_str(&id.scheme);
            out.put_str(&id.id);
        }
    }
}

/// A packet as it travels, its meaning not yet looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet<'a> {
    /// One of [`kind`].
    pub kind: i32,
    /// What it means depends on the type.
    pub zxid: i64,
    /// `None` is null, which is not the empty data.
    pub data: Option<&'a [u8]>,
    /// Null but for requests.
    pub auth: AuthIds<'a>,
}

/// How many bytes the packet at the start of `bytes` takes; `None` when more are needed to tell, or to have it whole.
/// Data and ids may each take at most `max_len` bytes.
///
/// # Errors
/// When a length is negative or above the bound: the stream can't be followed any more.
pub fn packet_len(bytes: &[u8], max_len: usize) -> Result<Option<usize>, DecodeError> {
    let mut r = Reader::with_max_len(bytes, max_len);
    match Packet::read(&mut r) {
        Ok(_) if r.offset() > HEAD_LEN + 2 * max_len => ids_too_long(max_len),
        Ok(_) => Ok(Some(r.offset())),
        // Ids have no length of their own: what has come without their end being in sight is bounded here.
        Err(DecodeError::Truncated { .. }) if bytes.len() > HEAD_LEN + 2 * max_len => ids_too_long(max_len),
        Err(DecodeError::Truncated { .. }) => Ok(None),
        Err(e) => Err(e),
    }
}

fn ids_too_long<T>(max: usize) -> Result<T, DecodeError> {
    Err(DecodeError::Length { offset: HEAD_LEN, found: i32::MAX, max })
}

impl<'a> Packet<'a> {
    /// A packet of a type and a zxid alone.
    pub const fn bare(kind: i32, zxid: i64) -> Packet<'static> {
        Packet { kind, zxid, data: None, auth: AuthIds::NULL }
    }

    /// Reads one packet.
    ///
    /// # Errors
    /// When it ends early, or a length is outside the reader's bound.
    pub fn read(r: &mut Reader<'a>) -> Result<Packet<'a>, DecodeError> {
        Ok(Packet { kind: r.i32()?, zxid: r.i64()?, data: r.buffer()?, auth: AuthIds::decode(r)? })
    }

    /// Appends the packet.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_i32(self.kind);
        out.put_i64(self.zxid);
        out.put_buffer(self.data);
        out.extend_from_slice(self.auth.0);
    }
}

/// Appends a packet whose data is what `fill` writes.
fn put_with(out: &mut Vec<u8>, kind: i32, zxid: i64, fill: impl FnOnce(&mut Vec<u8>)) {
    out.put_i32(kind);
    out.put_i64(zxid);
    let at = crate::jute::begin_frame(out);
    fill(out);
    crate::jute::end_frame(out, at);
    out.put_i32(-1);
}

/// Who a learner is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LearnerInfo {
    /// Its id; `None` from servers older than any that is supported, which have the leader make one up.
    pub server: Option<ServerId>,
    /// [`PROTOCOL_VERSION`](super::PROTOCOL_VERSION); 1 when it did not say.
    pub protocol: i32,
    /// The version of its committed configuration; 0 when it did not say.
    pub config_version: i64,
    /// What a Falconer can do more; `None` from others.
    pub features: Option<Features>,
}

impl LearnerInfo {
    fn decode(data: Option<&[u8]>) -> LearnerInfo {
        let mut r = Reader::new(data.unwrap_or_default());
        let mut info = LearnerInfo { server: None, protocol: 1, config_version: 0, features: None };
        // Older servers sent less; each field counts when all of its bytes are there.
        if let Ok(server) = r.i64() {
            info.server = Some(ServerId(server));
            if let Ok(protocol) = r.i32() {
                info.protocol = protocol;
                if let Ok(version) = r.i64() {
                    info.config_version = version;
                    info.features = Features::find(r.rest());
                }
            }
        }
        info
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let Some(server) = self.server else { return };
        out.put_i64(server.0);
        out.put_i32(self.protocol);
        out.put_i64(self.config_version);
        if let Some(features) = self.features {
            features.encode(out);
        }
    }
}

/// Sessions and their time-outs in ms, as a learner reports those that its clients have touched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Touches<'a>(&'a [u8]);

impl<'a> Touches<'a> {
    const EACH: usize = 12;

    /// The sessions in the packet; a cut end is left out.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (SessionId, i32)> + 'a {
        self.0.chunks_exact(Self::EACH).map(|pair| {
            let mut r = Reader::new(pair);
            (SessionId(r.i64().unwrap_or_default()), r.i32().unwrap_or_default())
        })
    }
}

/// What a learner says to its leader.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FromLearner<'a> {
    /// The first packet: who it is and which epoch it has promised.
    Info {
        /// It will not vote (OBSERVERINFO); else FOLLOWERINFO.
        observer: bool,
        /// The epoch that it has accepted.
        accepted: Epoch,
        /// Who it is.
        info: LearnerInfo,
    },
    /// It accepts the new epoch.
    AckEpoch {
        /// The last zxid of its history.
        last: Zxid,
        /// The epoch of that history; `None`: it had accepted this epoch before, the answer is no vote.
        current: Option<Epoch>,
    },
    /// Everything up to here is on its stable storage; the zxid of an epoch's start acknowledges NEWLEADER.
    Ack {
        /// Up to here.
        zxid: Zxid,
    },
    /// The answer to a ping.
    Ping {
        /// The ping's.
        zxid: Zxid,
        /// Sessions touched since the last ping.
        touches: Touches<'a>,
    },
    /// Is this session, whose client has come to the learner, still alive? It is the learner's from now on.
    Revalidate {
        /// The session.
        session: SessionId,
        /// Its negotiated time-out.
        timeout_ms: i32,
    },
    /// The digest of its tree: the answer to [`FromLeader::Digest`], or unasked. Between Falconers.
    Digest {
        /// With exactly this applied.
        zxid: Zxid,
        /// The digest.
        digest: i64,
        /// It was told that this, or what it had before, is wrong: it serves nobody until it hears who is right.
        doubts: bool,
    },
    /// A client's request to be decided by the leader.
    Request {
        /// The client's session.
        session: SessionId,
        /// The client's number of the request.
        cxid: Xid,
        /// The operation.
        op: i32,
        /// Its body.
        body: &'a [u8],
        /// The client's ids.
        auth: AuthIds<'a>,
    },
}

impl<'a> FromLearner<'a> {
    /// What a packet to the leader means.
    ///
    /// # Errors
    /// A type that no learner sends, or data that are not the type's: the connection is to be closed.
    pub fn parse(packet: &Packet<'a>) -> Result<FromLearner<'a>, PacketError> {
        let malformed = |error| PacketError::Malformed { kind: packet.kind, error };
        let data = packet.data.unwrap_or_default();
        let mut r = Reader::new(data);
        let zxid = Zxid::from_wire(packet.zxid);
        Ok(match packet.kind {
            kind::FOLLOWERINFO | kind::OBSERVERINFO => FromLearner::Info {
                observer: packet.kind == kind::OBSERVERINFO,
                accepted: zxid.epoch(),
                info: LearnerInfo::decode(packet.data),
            },
            kind::ACKEPOCH => {
                let current = r.i32().map_err(malformed)?;
                let current = match current {
                    -1 => None,
                    n => Some(Epoch(n as u32)),
                };
                FromLearner::AckEpoch { last: zxid, current }
            }
            kind::ACK => FromLearner::Ack { zxid },
            kind::PING => FromLearner::Ping { zxid, touches: Touches(data) },
            kind::REVALIDATE => FromLearner::Revalidate {
                session: SessionId(r.i64().map_err(malformed)?),
                timeout_ms: r.i32().map_err(malformed)?,
            },
            kind::DIGEST => FromLearner::Digest {
                zxid,
                digest: r.i64().map_err(malformed)?,
                doubts: r.bool().map_err(malformed)?,
            },
            kind::REQUEST => FromLearner::Request {
                session: SessionId(r.i64().map_err(malformed)?),
                cxid: Xid(r.i32().map_err(malformed)?),
                op: r.i32().map_err(malformed)?,
                body: r.rest(),
                auth: packet.auth,
            },
            other => return Err(PacketError::Kind(other)),
        })
    }

    /// Appends the packet.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            FromLearner::Info { observer, accepted, info } => {
                let kind = if observer { kind::OBSERVERINFO } else { kind::FOLLOWERINFO };
                put_with(out, kind, Zxid::new(accepted, 0).to_wire(), |out| info.encode(out));
            }
            FromLearner::AckEpoch { last, current } => put_with(out, kind::ACKEPOCH, last.to_wire(), |out| {
                out.put_i32(current.map_or(-1, |e| e.0 as i32));
            }),
            FromLearner::Ack { zxid } => Packet::bare(kind::ACK, zxid.to_wire()).encode(out),
            // Never null: Apache's leader reads a stream from it unconditionally.
            FromLearner::Ping { zxid, touches } => {
                put_with(out, kind::PING, zxid.to_wire(), |out| out.extend_from_slice(touches.0));
            }
            FromLearner::Revalidate { session, timeout_ms } => put_with(out, kind::REVALIDATE, -1, |out| {
                out.put_i64(session.0);
                out.put_i32(timeout_ms);
            }),
            FromLearner::Digest { zxid, digest, doubts } => {
                put_with(out, kind::DIGEST, zxid.to_wire(), |out| {
                    out.put_i64(digest);
                    out.put_bool(doubts);
                });
            }
            FromLearner::Request { session, cxid, op, body, auth } => {
                out.put_i32(kind::REQUEST);
                out.put_i64(-1);
                let at = crate::jute::begin_frame(out);
                out.put_i64(session.0);
                out.put_i32(cxid.0);
                out.put_i32(op);
                out.extend_from_slice(body);
                crate::jute::end_frame(out, at);
                out.extend_from_slice(auth.0);
            }
        }
    }

    /// Appends the answer to the ping of `zxid` with the sessions touched since the last one.
    pub fn encode_ping(zxid: Zxid, touched: impl Iterator<Item = (SessionId, i32)>, out: &mut Vec<u8>) {
        put_with(out, kind::PING, zxid.to_wire(), |out| {
            for (session, timeout_ms) in touched {
                out.put_i64(session.0);
                out.put_i32(timeout_ms);
            }
        });
    }
}

/// What a leader says to a learner.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FromLeader<'a> {
    /// A new epoch is proposed.
    LeaderInfo {
        /// The epoch.
        epoch: Epoch,
        /// [`PROTOCOL_VERSION`](super::PROTOCOL_VERSION).
        protocol: i32,
        /// What a Falconer can do more; `None` from others.
        features: Option<Features>,
    },
    /// Proposals follow that bring the learner up to date.
    Diff {
        /// The leader's last committed zxid.
        zxid: Zxid,
    },
    /// Everything behind this zxid is to be dropped from the log.
    Trunc {
        /// The last one that stays.
        zxid: Zxid,
    },
    /// The whole tree follows as raw bytes.
    Snap {
        /// The tree's last zxid.
        zxid: Zxid,
    },
    /// Everything has been sent that the learner lacks.
    NewLeader {
        /// The epoch.
        epoch: Epoch,
        /// The configuration that the leader has seen last, as text.
        config: Option<Cow<'a, [u8]>>,
    },
    /// A quorum has the history: clients may be served.
    UpToDate,
    /// A record to be logged and acknowledged.
    Proposal {
        /// Its zxid.
        zxid: Zxid,
        /// Header, txn, digest.
        record: &'a [u8],
    },
    /// The oldest proposal that is not committed is.
    Commit {
        /// Its zxid.
        zxid: Zxid,
    },
    /// As [`FromLeader::Commit`], of a new configuration.
    CommitAndActivate {
        /// Its zxid.
        zxid: Zxid,
        /// Who leads from now on.
        designated: ServerId,
    },
    /// A committed record, for an observer.
    Inform {
        /// Its zxid.
        zxid: Zxid,
        /// Header, txn, digest.
        record: &'a [u8],
    },
    /// As [`FromLeader::Inform`], of a new configuration.
    InformAndActivate {
        /// Its zxid.
        zxid: Zxid,
        /// Who leads from now on.
        designated: ServerId,
        /// Header, txn, digest.
        record: &'a [u8],
    },
    /// Is the learner there?
    Ping {
        /// The last zxid that was proposed.
        zxid: Zxid,
    },
    /// The oldest sync that the learner asked for is done: everything committed before has been sent.
    Sync,
    /// The answer to a revalidation.
    Revalidate {
        /// The session.
        session: SessionId,
        /// Whether it lives.
        valid: bool,
    },
    /// What is the digest of the learner's tree? Between Falconers.
    Digest {
        /// With exactly this applied: the last that was told to be committed.
        zxid: Zxid,
    },
    /// What others have answered. Between Falconers.
    Verdict {
        /// With exactly this applied.
        zxid: Zxid,
        /// The digest of the others.
        wanted: i64,
        /// What this learner has answered.
        found: i64,
        /// A majority has `wanted`; else so far only the leader.
        by_majority: bool,
    },
}

impl<'a> FromLeader<'a> {
    /// What a packet to a learner means.
    ///
    /// # Errors
    /// A type that no leader sends, or data that are not the type's: the connection is to be closed.
    pub fn parse(packet: &Packet<'a>) -> Result<FromLeader<'a>, PacketError> {
        let malformed = |error| PacketError::Malformed { kind: packet.kind, error };
        let mut r = Reader::new(packet.data.unwrap_or_default());
        let zxid = Zxid::from_wire(packet.zxid);
        Ok(match packet.kind {
            kind::LEADERINFO => FromLeader::LeaderInfo {
                epoch: zxid.epoch(),
                protocol: r.i32().map_err(malformed)?,
                features: Features::find(r.rest()),
            },
            kind::DIFF => FromLeader::Diff { zxid },
            kind::TRUNC => FromLeader::Trunc { zxid },
            kind::SNAP => FromLeader::Snap { zxid },
            kind::NEWLEADER => {
                FromLeader::NewLeader { epoch: zxid.epoch(), config: packet.data.map(Cow::Borrowed) }
            }
            kind::UPTODATE => FromLeader::UpToDate,
            kind::PROPOSAL => FromLeader::Proposal { zxid, record: r.rest() },
            kind::COMMIT => FromLeader::Commit { zxid },
            kind::COMMITANDACTIVATE => {
                FromLeader::CommitAndActivate { zxid, designated: ServerId(r.i64().map_err(malformed)?) }
            }
            kind::INFORM => FromLeader::Inform { zxid, record: r.rest() },
            kind::INFORMANDACTIVATE => FromLeader::InformAndActivate {
                zxid,
                designated: ServerId(r.i64().map_err(malformed)?),
                record: r.rest(),
            },
            kind::PING => FromLeader::Ping { zxid },
            kind::SYNC => FromLeader::Sync,
            kind::REVALIDATE => FromLeader::Revalidate {
                session: SessionId(r.i64().map_err(malformed)?),
                valid: r.bool().map_err(malformed)?,
            },
            kind::DIGEST => FromLeader::Digest { zxid },
            kind::VERDICT => FromLeader::Verdict {
                zxid,
                wanted: r.i64().map_err(malformed)?,
                found: r.i64().map_err(malformed)?,
                by_majority: r.bool().map_err(malformed)?,
            },
            other => return Err(PacketError::Kind(other)),
        })
    }

    /// Appends the packet.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let bare = |out: &mut Vec<u8>, kind, zxid: Zxid| Packet::bare(kind, zxid.to_wire()).encode(out);
        match *self {
            FromLeader::LeaderInfo { epoch, protocol, features } => {
                put_with(out, kind::LEADERINFO, Zxid::new(epoch, 0).to_wire(), |out| {
                    out.put_i32(protocol);
                    if let Some(features) = features {
                        features.encode(out);
                    }
                });
            }
            FromLeader::Diff { zxid } => bare(out, kind::DIFF, zxid),
            FromLeader::Trunc { zxid } => bare(out, kind::TRUNC, zxid),
            FromLeader::Snap { zxid } => bare(out, kind::SNAP, zxid),
            FromLeader::NewLeader { epoch, ref config } => {
                let zxid = Zxid::new(epoch, 0).to_wire();
                let packet = Packet { data: config.as_deref(), ..Packet::bare(kind::NEWLEADER, zxid) };
                packet.encode(out);
            }
            FromLeader::UpToDate => Packet::bare(kind::UPTODATE, -1).encode(out),
            FromLeader::Proposal { zxid, record } => {
                Packet { data: Some(record), ..Packet::bare(kind::PROPOSAL, zxid.to_wire()) }.encode(out);
            }
            FromLeader::Commit { zxid } => bare(out, kind::COMMIT, zxid),
            FromLeader::CommitAndActivate { zxid, designated } => {
                put_with(out, kind::COMMITANDACTIVATE, zxid.to_wire(), |out| out.put_i64(designated.0));
            }
            FromLeader::Inform { zxid, record } => {
                Packet { data: Some(record), ..Packet::bare(kind::INFORM, zxid.to_wire()) }.encode(out);
            }
            FromLeader::InformAndActivate { zxid, designated, record } => {
                put_with(out, kind::INFORMANDACTIVATE, zxid.to_wire(), |out| {
                    out.put_i64(designated.0);
                    out.extend_from_slice(record);
                });
            }
            FromLeader::Ping { zxid } => bare(out, kind::PING, zxid),
            FromLeader::Sync => bare(out, kind::SYNC, Zxid::ZERO),
            FromLeader::Revalidate { session, valid } => put_with(out, kind::REVALIDATE, -1, |out| {
                out.put_i64(session.0);
                out.put_bool(valid);
            }),
            FromLeader::Digest { zxid } => bare(out, kind::DIGEST, zxid),
            FromLeader::Verdict { zxid, wanted, found, by_majority } => {
                put_with(out, kind::VERDICT, zxid.to_wire(), |out| {
                    out.put_i64(wanted);
                    out.put_i64(found);
                    out.put_bool(by_majority);
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::PROTOCOL_VERSION;
    use super::*;
    use alloc::{format, vec};

    fn unhex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|d| u8::from_str_radix(core::str::from_utf8(d).unwrap(), 16).unwrap()).collect()
    }

    const MAX: usize = 1 << 20;

    fn packet(bytes: &[u8]) -> Packet<'_> {
        assert_eq!(packet_len(bytes, MAX), Ok(Some(bytes.len())));
        for cut in 0..bytes.len() {
            assert_eq!(packet_len(&bytes[..cut], MAX), Ok(None), "cut at {cut}");
        }
        Packet::read(&mut Reader::new(bytes)).unwrap()
    }

    fn learner(golden: &str, said: FromLearner<'_>) {
        let bytes = unhex(golden);
        assert_eq!(FromLearner::parse(&packet(&bytes)), Ok(said));
        let mut out = vec![];
        said.encode(&mut out);
        assert_eq!(out, bytes, "{said:?}");
    }

    fn leader(golden: &str, said: FromLeader<'_>) {
        let bytes = unhex(golden);
        assert_eq!(FromLeader::parse(&packet(&bytes)).as_ref(), Ok(&said));
        let mut out = vec![];
        said.encode(&mut out);
        assert_eq!(out, bytes, "{said:?}");
    }

    fn zxid(n: u64) -> Zxid {
        Zxid::from_u64(n)
    }

    const INFO: LearnerInfo = LearnerInfo {
        server: Some(ServerId(1)),
        protocol: PROTOCOL_VERSION,
        config_version: 0,
        features: None,
    };

    /// Captured between servers of 3.8.0 and 3.9.5, or laid out from the protocol's tables (activation, INFORM).
    #[test]
    fn what_a_learner_says() {
        learner(
            "0000000b 0000000000000000 00000014 0000000000000001 00010000 0000000000000000 ffffffff",
            FromLearner::Info { observer: false, accepted: Epoch(0), info: INFO },
        );
        learner(
            "00000010 0000000700000000 00000020 0000000000000001 00010000 0000000000000000 \
             46414c434f4e4552 00000003 ffffffff",
            FromLearner::Info {
                observer: true,
                accepted: Epoch(7),
                info: LearnerInfo { features: Some(Features(3)), ..INFO },
            },
        );
        learner(
            "00000012 0000000000000000 00000004 00000000 ffffffff",
            FromLearner::AckEpoch { last: Zxid::ZERO, current: Some(Epoch(0)) },
        );
        learner(
            "00000012 0000000100000000 00000004 ffffffff ffffffff",
            FromLearner::AckEpoch { last: zxid(1 << 32), current: None },
        );
        learner("00000003 0000000100000000 ffffffff ffffffff", FromLearner::Ack { zxid: zxid(1 << 32) });
        learner(
            "00000005 0000000100000000 00000000 ffffffff",
            FromLearner::Ping { zxid: zxid(1 << 32), touches: Touches(&[]) },
        );
        learner(
            "00000006 ffffffffffffffff 0000000c 01000010357c0000 00001770 ffffffff",
            FromLearner::Revalidate { session: SessionId(0x0100_0010_357c_0000), timeout_ms: 6000 },
        );
        learner(
            "00000001 ffffffffffffffff 00000014 01000010357c0000 00000000 fffffff6 00001770 ffffffff",
            FromLearner::Request {
                session: SessionId(0x0100_0010_357c_0000),
                cxid: Xid(0),
                op: -10,
                body: &unhex("00001770"),
                auth: AuthIds::NULL,
            },
        );
    }

    #[test]
    fn a_forwarded_create_names_its_client() {
        let body = unhex(
            "00000002 2f78 00000001 76 00000001 0000001f 00000005 776f726c64 00000006 616e796f6e65 00000000",
        );
        let ids = unhex("00000001 00000002 6970 00000009 3132372e302e302e31");
        let auth = AuthIds::decode(&mut Reader::new(&ids)).unwrap();
        assert_eq!(auth.ids().collect::<Vec<_>>(), [Id::new("ip", "127.0.0.1")]);
        let mut out = vec![];
        AuthIds::encode([Id::new("ip", "127.0.0.1")].iter(), &mut out);
        assert_eq!(out, ids);
        learner(
            "00000001 ffffffffffffffff 0000003a 01000010357c0000 00000001 00000001
                00000002 2f78 00000001 76 00000001 0000001f 00000005 776f726c64 00000006 616e796f6e65 00000000
                00000001 00000002 6970 00000009 3132372e302e302e31",
            FromLearner::Request {
                session: SessionId(0x0100_0010_357c_0000),
                cxid: Xid(1),
                op: 1,
                body: &body,
                auth,
            },
        );
    }

    #[test]
    fn what_a_leader_says() {
        leader(
            "00000011 0000000100000000 00000004 00010000 ffffffff",
            FromLeader::LeaderInfo { epoch: Epoch(1), protocol: PROTOCOL_VERSION, features: None },
        );
        leader(
            "00000011 0000000100000000 00000010 00010000 46414c434f4e4552 80000000 ffffffff",
            FromLeader::LeaderInfo {
                epoch: Epoch(1),
                protocol: PROTOCOL_VERSION,
                features: Some(Features(1 << 31)),
            },
        );
        leader("0000000d 0000000000000000 ffffffff ffffffff", FromLeader::Diff { zxid: Zxid::ZERO });
        leader(
            "0000000e 0000000300000001 ffffffff ffffffff",
            FromLeader::Trunc { zxid: zxid(0x3_0000_0001) },
        );
        leader("0000000f 0000000400000000 ffffffff ffffffff", FromLeader::Snap { zxid: zxid(4 << 32) });
        leader(
            "0000000a 0000000100000000 00000009 76657273696f6e3d30 ffffffff",
            FromLeader::NewLeader { epoch: Epoch(1), config: Some(b"version=0".into()) },
        );
        leader("0000000c ffffffffffffffff ffffffff ffffffff", FromLeader::UpToDate);
        let record = "01000010357c0000 00000000 0000000100000001 000001a1f85057fd fffffff6 \
                      00001770 00000002 0000000051c6d660";
        leader(
            &format!("00000002 0000000100000001 00000030 {record} ffffffff"),
            FromLeader::Proposal { zxid: zxid(0x1_0000_0001), record: &unhex(record) },
        );
        leader(
            &format!("00000008 0000000100000001 00000030 {record} ffffffff"),
            FromLeader::Inform { zxid: zxid(0x1_0000_0001), record: &unhex(record) },
        );
        leader(
            "00000004 0000000100000002 ffffffff ffffffff",
            FromLeader::Commit { zxid: zxid(0x1_0000_0002) },
        );
        leader(
            "00000009 0000000100000002 00000008 0000000000000003 ffffffff",
            FromLeader::CommitAndActivate { zxid: zxid(0x1_0000_0002), designated: ServerId(3) },
        );
        leader(
            &format!("00000013 0000000100000001 00000038 0000000000000003 {record} ffffffff"),
            FromLeader::InformAndActivate {
                zxid: zxid(0x1_0000_0001),
                designated: ServerId(3),
                record: &unhex(record),
            },
        );
        leader("00000005 0000000100000002 ffffffff ffffffff", FromLeader::Ping { zxid: zxid(0x1_0000_0002) });
        leader("00000007 0000000000000000 ffffffff ffffffff", FromLeader::Sync);
        leader(
            "00000006 ffffffffffffffff 00000009 01000010357c0000 01 ffffffff",
            FromLeader::Revalidate { session: SessionId(0x0100_0010_357c_0000), valid: true },
        );
    }

    #[test]
    fn what_falconers_say_among_themselves() {
        learner(
            "00004601 0000000100000002 00000009 0000000051c6d660 01 ffffffff",
            FromLearner::Digest { zxid: zxid(0x1_0000_0002), digest: 0x51c6_d660, doubts: true },
        );
        leader(
            "00004601 0000000100000002 ffffffff ffffffff",
            FromLeader::Digest { zxid: zxid(0x1_0000_0002) },
        );
        leader(
            "00004602 0000000100000002 00000011 0000000000000001 0000000000000002 01 ffffffff",
            FromLeader::Verdict { zxid: zxid(0x1_0000_0002), wanted: 1, found: 2, by_majority: true },
        );
        let error = FromLeader::parse(&Packet::bare(kind::VERDICT, 0));
        assert!(matches!(error, Err(PacketError::Malformed { .. })), "{error:?}");
        let error = FromLearner::parse(&Packet::bare(kind::DIGEST, 0));
        assert!(matches!(error, Err(PacketError::Malformed { .. })), "{error:?}");
    }

    #[test]
    fn learners_of_old_say_less() {
        let full = unhex("0000000000000001 00010000 0000000000000005");
        let of = |data| LearnerInfo::decode(data);
        assert_eq!(of(None), LearnerInfo { server: None, protocol: 1, config_version: 0, features: None });
        for cut in 0..=full.len() {
            let info = of(Some(&full[..cut]));
            assert_eq!(info.server.is_some(), cut >= 8);
            assert_eq!(info.protocol == PROTOCOL_VERSION, cut >= 12);
            assert_eq!(info.config_version == 5, cut >= 20);
        }
    }

    #[test]
    fn touched_sessions_are_twelve_bytes_each() {
        let mut out = vec![];
        let touched = [(SessionId(7), 6000), (SessionId(-1), 4000)];
        FromLearner::encode_ping(zxid(9), touched.into_iter(), &mut out);
        assert_eq!(
            out,
            unhex(
                "00000005 0000000000000009 00000018 0000000000000007 00001770 ffffffffffffffff 00000fa0 ffffffff"
            )
        );
        let FromLearner::Ping { touches, .. } = FromLearner::parse(&packet(&out)).unwrap() else { panic!() };
        assert_eq!(touches.iter().collect::<Vec<_>>(), touched);
        assert_eq!(Touches(&[0; 13]).iter().len(), 1, "a cut end is left out");
    }

    #[test]
    fn types_and_data_of_the_other_side_are_refused() {
        for kind in [-1, 0, 2, 4, 7, 8, 9, 10, 12, 13, 14, 15, 17, 19, 20, i32::MAX] {
            assert_eq!(FromLearner::parse(&Packet::bare(kind, 0)), Err(PacketError::Kind(kind)));
        }
        for kind in [-1, 0, 1, 3, 11, 16, 18, 20, i32::MIN] {
            assert_eq!(FromLeader::parse(&Packet::bare(kind, 0)), Err(PacketError::Kind(kind)));
        }
        for kind in [kind::ACKEPOCH, kind::REVALIDATE, kind::REQUEST] {
            let error = FromLearner::parse(&Packet::bare(kind, 0));
            assert!(matches!(error, Err(PacketError::Malformed { .. })), "{error:?}");
        }
        for kind in [kind::LEADERINFO, kind::COMMITANDACTIVATE, kind::INFORMANDACTIVATE, kind::REVALIDATE] {
            let error = FromLeader::parse(&Packet::bare(kind, 0));
            assert!(matches!(error, Err(PacketError::Malformed { .. })), "{error:?}");
        }
    }

    #[test]
    fn lengths_that_nobody_sends_end_the_stream() {
        let head = "00000002 0000000100000001";
        for len in ["fffffffe", "80000000", "7fffffff", "00100001"] {
            assert!(packet_len(&unhex(&[head, len].concat()), MAX).is_err(), "{len}");
        }
        // The count of ids alone is believed by nobody: it is the bytes that come that are bounded.
        let mut bytes = unhex(&[head, "ffffffff 7fffffff"].concat());
        assert_eq!(packet_len(&bytes, 100), Ok(None));
        bytes.resize(HEAD_LEN + 201, 0);
        assert!(packet_len(&bytes, 100).is_err());
        // Many ids that are whole and too long together.
        let mut many = unhex(&[head, "ffffffff"].concat());
        AuthIds::encode((0..20).map(|_| Id::new("digest", "someone")).collect::<Vec<_>>().iter(), &mut many);
        assert!(packet_len(&many, 100).is_err());
        assert_eq!(packet_len(&many, 1000), Ok(Some(many.len())));
    }
}
