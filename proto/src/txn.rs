//! Transactions: the records of the log, of the peers' proposals and of `apply`, byte for byte Apache's
//! (quorum protocol, section 5.3).
//!
//! A *record* is header, body and digest as one piece. It is encoded once, in prepare, into a
//! [`RecordBatch`]; the same bytes then serve the log, the peers, the applier and the exporters.
//!
//! ```text
//!  0           8        12         20          28      32
//!  +-----------+--------+----------+-----------+-------+----//----+---------+------------+
//!  | session   | cxid   | zxid     | time (ms) | type  | body     | version | digest     |
//!  +-----------+--------+----------+-----------+-------+----//----+---------+------------+
//!  |<---------------- header, 32 ---------------------->|         |<- 4, 8: absent on errors
//! ```

use crate::acl::AclBytes;
use crate::jute::{DecodeError, Put, Reader};
use crate::{SessionId, WallMs, Xid, Zxid};
use alloc::borrow::Cow;
use alloc::vec::Vec;

/// The head of every record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TxnHeader {
    /// The session that asked.
    pub session: SessionId,
    /// Its number of the request.
    pub cxid: Xid,
    /// The zxid.
    pub zxid: Zxid,
    /// The leader's wall clock.
    pub time: WallMs,
    /// What the body is: see [`kind`].
    pub kind: i32,
}

/// The numbers of [`TxnHeader::kind`].
#[allow(missing_docs, reason = "each is the transaction of that name")]
pub mod kind {
    pub const ERROR: i32 = -1;
    pub const CREATE: i32 = 1;
    pub const DELETE: i32 = 2;
    pub const SET_DATA: i32 = 5;
    pub const SET_ACL: i32 = 7;
    pub const CHECK: i32 = 13;
    pub const MULTI: i32 = 14;
    pub const CREATE2: i32 = 15;
    pub const RECONFIG: i32 = 16;
    pub const CREATE_CONTAINER: i32 = 19;
    pub const DELETE_CONTAINER: i32 = 20;
    pub const CREATE_TTL: i32 = 21;
    pub const CREATE_SESSION: i32 = -10;
    pub const CLOSE_SESSION: i32 = -11;
}

impl TxnHeader {
    /// Bytes of the encoded form.
    pub const LEN: usize = 32;

    /// Appends the encoded form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_i64(self.session.0);
        out.put_i32(self.cxid.0);
        out.put_i64(self.zxid.to_wire());
        out.put_i64(self.time.0);
        out.put_i32(self.kind);
    }

    /// Reads the encoded form.
    pub fn decode(r: &mut Reader<'_>) -> Result<TxnHeader, DecodeError> {
        Ok(TxnHeader {
            session: SessionId(r.i64()?),
            cxid: Xid(r.i32()?),
            zxid: Zxid::from_wire(r.i64()?),
            time: WallMs(r.i64()?),
            kind: r.i32()?,
        })
    }

    /// The zxid of a record without decoding the rest; `None` if the record is shorter than a header.
    pub fn peek_zxid(record: &[u8]) -> Option<Zxid> {
        let bytes: [u8; 8] = record.get(12..20)?.try_into().ok()?;
        (record.len() >= TxnHeader::LEN).then_some(Zxid::from_wire(i64::from_be_bytes(bytes)))
    }
}

impl TxnHeader {
    /// The kind of a record without decoding the rest; `None` if the record is shorter than a header.
    pub fn peek_kind(record: &[u8]) -> Option<i32> {
        Some(i32::from_be_bytes(record.get(28..TxnHeader::LEN)?.try_into().ok()?))
    }
}

/// What kind of znode a create txn makes; its header type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CreateTxnKind {
    /// Type 1.
    Create,
    /// Type 15.
    Create2,
    /// Type 19.
    Container,
    /// Type 21, with its time to live in ms.
    Ttl(i64),
}

/// The body of a record, borrowed from it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Txn<'a> {
    /// A znode is created.
    Create {
        /// Which create, with the time to live.
        kind: CreateTxnKind,
        /// The final path.
        path: Cow<'a, str>,
        /// The value.
        data: Option<&'a [u8]>,
        /// The list after fix-up.
        acl: AclBytes<'a>,
        /// Owned by the session of the header. Always false for containers and TTL znodes.
        ephemeral: bool,
        /// The parent's raw cversion afterwards; −1 in old logs: one more than before.
        parent_cversion: i32,
    },
    /// A znode is deleted.
    Delete {
        /// The znode.
        path: Cow<'a, str>,
        /// Type 20 rather than 2.
        container: bool,
    },
    /// A value is set.
    SetData {
        /// The znode.
        path: Cow<'a, str>,
        /// The value.
        data: Option<&'a [u8]>,
        /// The version afterwards.
        version: i32,
        /// Type 16 (the configuration znode) rather than 5.
        reconfig: bool,
    },
    /// An ACL is set.
    SetAcl {
        /// The znode.
        path: Cow<'a, str>,
        /// The list after fix-up.
        acl: AclBytes<'a>,
        /// The ACL version afterwards.
        aversion: i32,
    },
    /// A check that held; inside a multi only.
    Check {
        /// The znode.
        path: Cow<'a, str>,
        /// Apache stores the checked version plus one.
        version: i32,
    },
    /// A session is opened.
    CreateSession {
        /// Its time-out in ms.
        timeout_ms: i32,
    },
    /// A session is closed.
    CloseSession {
        /// Its ephemerals; `None` in logs written without the list.
        paths: Option<Vec<Cow<'a, str>>>,
    },
    /// A request failed; it still took the zxid.
    Error {
        /// The error code.
        code: i32,
    },
    /// All of these, or none if one is an error.
    Multi(Vec<Txn<'a>>),
}

/// The digest behind a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TxnDigest {
    /// The version of the formula; 2 since 3.6.
    pub version: i32,
    /// The digest of the whole tree after this txn.
    pub tree: i64,
}

/// The version of the digest formula that Falconer computes. Falconers compare digests among each other: another formula needs
/// another bit in [`Features`](crate::peer::Features), or a rolling upgrade would stop servers.
pub const DIGEST_VERSION: i32 = 2;

impl TxnDigest {
    /// Bytes of the encoded form.
    pub const LEN: usize = 12;

    /// Appends the encoded form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_i32(self.version);
        out.put_i64(self.tree);
    }
}

/// A record, decoded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record<'a> {
    /// Its head.
    pub header: TxnHeader,
    /// Its body.
    pub txn: Txn<'a>,
    /// The digest, where there is one.
    pub digest: Option<TxnDigest>,
}

impl<'a> Record<'a> {
    /// Decodes one record. Bytes behind the digest are ignored, as in Apache.
    ///
    /// # Errors
    /// When a field is cut short or the type is unknown: such a record can't have been written by this
    /// protocol, and whoever reads it must not go on.
    pub fn decode(bytes: &'a [u8]) -> Result<Record<'a>, DecodeError> {
        let mut r = Reader::new(bytes);
        let header = TxnHeader::decode(&mut r)?;
        let body = r.clone();
        let txn = match Txn::decode(header.kind, &mut r) {
            // Logs of 3.3 lack the parent's cversion at the end of a create (CreateTxnV0).
            Err(DecodeError::Truncated { .. }) if header.kind == kind::CREATE => {
                r = body;
                Txn::decode_create_v0(&mut r)?
            }
            // With closeSessionTxn.enabled=false the body is absent, and the digest, if any, stands in its
            // place: exactly twelve bytes that start with its version.
            _ if header.kind == kind::CLOSE_SESSION && close_session_lacks_body(body.rest()) => {
                r = body;
                Txn::CloseSession { paths: None }
            }
            other => other?,
        };
        let digest = if r.remaining() >= TxnDigest::LEN {
            Some(TxnDigest { version: r.i32()?, tree: r.i64()? })
        } else {
            None
        };
        Ok(Record { header, txn, digest })
    }

    /// Appends the encoded record.
    pub fn encode(&self, out: &mut Vec<u8>) {
        debug_assert_eq!(self.header.kind, self.txn.kind());
        self.header.encode(out);
        self.txn.encode(out);
        if let Some(d) = self.digest {
            d.encode(out);
        }
    }
}

fn close_session_lacks_body(rest: &[u8]) -> bool {
    rest.is_empty() || (rest.len() == TxnDigest::LEN && rest.starts_with(&DIGEST_VERSION.to_be_bytes()))
}

impl<'a> Txn<'a> {
    /// The header type of this txn.
    pub fn kind(&self) -> i32 {
        match self {
            Txn::Create { kind: CreateTxnKind::Create, .. } => kind::CREATE,
            Txn::Create { kind: CreateTxnKind::Create2, .. } => kind::CREATE2,
            Txn::Create { kind: CreateTxnKind::Container, .. } => kind::CREATE_CONTAINER,
            Txn::Create { kind: CreateTxnKind::Ttl(_), .. } => kind::CREATE_TTL,
            Txn::Delete { container: false, .. } => kind::DELETE,
            Txn::Delete { container: true, .. } => kind::DELETE_CONTAINER,
            Txn::SetData { reconfig: false, .. } => kind::SET_DATA,
            Txn::SetData { reconfig: true, .. } => kind::RECONFIG,
            Txn::SetAcl { .. } => kind::SET_ACL,
            Txn::Check { .. } => kind::CHECK,
            Txn::CreateSession { .. } => kind::CREATE_SESSION,
            Txn::CloseSession { .. } => kind::CLOSE_SESSION,
            Txn::Error { .. } => kind::ERROR,
            Txn::Multi(_) => kind::MULTI,
        }
    }

    /// Appends the body without its header.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Txn::Create { kind, path, data, acl, ephemeral, parent_cversion } => {
                out.put_str(path);
                out.put_buffer(*data);
                out.extend_from_slice(acl.as_bytes());
                if let CreateTxnKind::Create | CreateTxnKind::Create2 = kind {
                    out.put_bool(*ephemeral);
                }
                out.put_i32(*parent_cversion);
                if let CreateTxnKind::Ttl(ms) = kind {
                    out.put_i64(*ms);
                }
            }
            Txn::Delete { path, .. } => out.put_str(path),
            Txn::SetData { path, data, version, .. } => {
                out.put_str(path);
                out.put_buffer(*data);
                out.put_i32(*version);
            }
            Txn::SetAcl { path, acl, aversion } => {
                out.put_str(path);
                out.extend_from_slice(acl.as_bytes());
                out.put_i32(*aversion);
            }
            Txn::Check { path, version } => {
                out.put_str(path);
                out.put_i32(*version);
            }
            Txn::CreateSession { timeout_ms } => out.put_i32(*timeout_ms),
            // A null list, not an absent body: whatever follows could be taken for the list.
            Txn::CloseSession { paths: None } => out.put_i32(-1),
            Txn::CloseSession { paths: Some(paths) } => {
                out.put_count(paths.len());
                paths.iter().for_each(|p| out.put_str(p));
            }
            Txn::Error { code } => out.put_i32(*code),
            Txn::Multi(txns) => {
                out.put_count(txns.len());
                for txn in txns {
                    out.put_i32(txn.kind());
                    let at = crate::jute::begin_frame(out);
                    txn.encode(out);
                    crate::jute::end_frame(out, at);
                }
            }
        }
    }

    /// Decodes the body of a txn of type `kind`.
    ///
    /// A top-level check, which some old servers logged (ZOOKEEPER-2623), decodes too: it changes nothing.
    pub fn decode(kind: i32, r: &mut Reader<'a>) -> Result<Txn<'a>, DecodeError> {
        Self::decode_nested(kind, r, true)
    }

    fn decode_nested(kind: i32, r: &mut Reader<'a>, multi_allowed: bool) -> Result<Txn<'a>, DecodeError> {
        let offset = r.offset();
        Ok(match kind {
            kind::CREATE | kind::CREATE2 => Txn::Create {
                kind: if kind == kind::CREATE { CreateTxnKind::Create } else { CreateTxnKind::Create2 },
                path: text(r)?,
                data: r.buffer()?,
                acl: AclBytes::decode(r)?,
                ephemeral: r.bool()?,
                parent_cversion: r.i32()?,
            },
            kind::CREATE_CONTAINER | kind::CREATE_TTL => {
                let (path, data, acl, parent_cversion) =
                    (text(r)?, r.buffer()?, AclBytes::decode(r)?, r.i32()?);
                let kind = if kind == kind::CREATE_TTL {
                    CreateTxnKind::Ttl(r.i64()?)
                } else {
                    CreateTxnKind::Container
                };
                Txn::Create { kind, path, data, acl, ephemeral: false, parent_cversion }
            }
            kind::DELETE | kind::DELETE_CONTAINER => {
                Txn::Delete { path: text(r)?, container: kind == kind::DELETE_CONTAINER }
            }
            kind::SET_DATA | kind::RECONFIG => Txn::SetData {
                path: text(r)?,
                data: r.buffer()?,
                version: r.i32()?,
                reconfig: kind == kind::RECONFIG,
            },
            kind::SET_ACL => Txn::SetAcl { path: text(r)?, acl: AclBytes::decode(r)?, aversion: r.i32()? },
            kind::CHECK => Txn::Check { path: text(r)?, version: r.i32()? },
            kind::CREATE_SESSION => Txn::CreateSession { timeout_ms: r.i32()? },
            kind::CLOSE_SESSION => Txn::CloseSession { paths: r.strings()? },
            kind::ERROR => Txn::Error { code: r.i32()? },
            kind::MULTI if multi_allowed => {
                let n = r.count()?.unwrap_or(0);
                // Each takes at least its type and its length: the bytes that are there bound the allocation.
                let mut txns = Vec::with_capacity(n.min(r.remaining() / 8));
                for _ in 0..n {
                    let kind = r.i32()?;
                    let body = r.buffer()?.unwrap_or_default();
                    txns.push(Txn::decode_nested(kind, &mut Reader::new(body), false)?);
                }
                Txn::Multi(txns)
            }
            found => return Err(DecodeError::Value { offset, found: found.into() }),
        })
    }

    fn decode_create_v0(r: &mut Reader<'a>) -> Result<Txn<'a>, DecodeError> {
        Ok(Txn::Create {
            kind: CreateTxnKind::Create,
            path: text(r)?,
            data: r.buffer()?,
            acl: AclBytes::decode(r)?,
            ephemeral: r.bool()?,
            parent_cversion: -1,
        })
    }
}

fn text<'a>(r: &mut Reader<'a>) -> Result<Cow<'a, str>, DecodeError> {
    Ok(r.string()?.unwrap_or(Cow::Borrowed("")))
}

/// Where one record lies in a [`RecordBatch`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// Its zxid.
    pub zxid: Zxid,
    /// Its first byte.
    pub start: u32,
    /// The byte behind its last.
    pub end: u32,
}

/// Records prepared together, in zxid order, shared by the log, the peers and the applier.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordBatch {
    bytes: Vec<u8>,
    spans: Vec<Span>,
}

impl RecordBatch {
    /// An empty batch.
    pub fn new() -> RecordBatch {
        RecordBatch::default()
    }

    /// An empty batch with room for `records` records of `bytes` bytes in all.
    pub fn with_capacity(records: usize, bytes: usize) -> RecordBatch {
        RecordBatch { bytes: Vec::with_capacity(bytes), spans: Vec::with_capacity(records) }
    }

    /// A batch of one record, as it came from a peer or a log.
    ///
    /// # Errors
    /// When the bytes are shorter than a header.
    pub fn single(record: &[u8]) -> Result<RecordBatch, DecodeError> {
        let mut b = RecordBatch::new();
        let zxid = TxnHeader::peek_zxid(record).ok_or(DecodeError::Truncated {
            offset: 0,
            wanted: TxnHeader::LEN,
            found: record.len(),
        })?;
        b.push_with(zxid, |out| out.extend_from_slice(record));
        Ok(b)
    }

    /// Appends the record that `encode` writes.
    ///
    /// # Panics
    /// When `zxid` does not lie behind the last one: order is the whole meaning of a batch.
    pub fn push_with(&mut self, zxid: Zxid, encode: impl FnOnce(&mut Vec<u8>)) {
        assert!(self.last().is_none_or(|last| last < zxid), "{zxid} must follow {:?}", self.last());
        let start = offset(self.bytes.len());
        encode(&mut self.bytes);
        self.spans.push(Span { zxid, start, end: offset(self.bytes.len()) });
    }

    /// Forgets the records and keeps the room.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.spans.clear();
    }

    /// The records in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (Zxid, &[u8])> {
        self.spans.iter().map(|s| (s.zxid, &self.bytes[s.start as usize..s.end as usize]))
    }

    /// The `i`th record.
    pub fn get(&self, i: usize) -> Option<(Zxid, &[u8])> {
        self.spans.get(i).map(|s| (s.zxid, &self.bytes[s.start as usize..s.end as usize]))
    }

    /// Records in the batch.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether the batch is empty.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Bytes of all records.
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// The last zxid.
    pub fn last(&self) -> Option<Zxid> {
        self.spans.last().map(|s| s.zxid)
    }
}

fn offset(n: usize) -> u32 {
    u32::try_from(n).expect("batches are cut far below 4 GiB")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acl;
    use alloc::vec;

    fn round(txn: Txn<'_>, digest: Option<TxnDigest>) {
        let header = TxnHeader {
            session: SessionId(7),
            cxid: Xid(3),
            zxid: Zxid::from_u64(0x1_0000_0002),
            time: WallMs(5),
            kind: txn.kind(),
        };
        let record = Record { header, txn, digest };
        let mut out = Vec::new();
        record.encode(&mut out);
        assert_eq!(Record::decode(&out).unwrap(), record);
        assert_eq!(TxnHeader::peek_zxid(&out), Some(header.zxid));
        // Every cut inside the body is noticed or reads as the same txn without digest.
        let body_end = out.len() - if digest.is_some() { TxnDigest::LEN } else { 0 };
        for cut in TxnHeader::LEN..out.len() {
            match Record::decode(&out[..cut]) {
                Ok(r) if cut >= body_end => assert_eq!(r.txn, record.txn),
                Ok(r) => assert!(
                    matches!(
                        r.txn,
                        Txn::Create { parent_cversion: -1, .. } | Txn::CloseSession { paths: None }
                    ),
                    "{r:?}"
                ),
                Err(_) => assert!(cut < body_end, "cut at {cut}"),
            }
        }
    }

    #[test]
    fn every_txn_survives_its_bytes() {
        let digest = Some(TxnDigest { version: DIGEST_VERSION, tree: 0x51c6_d660 });
        let create = |kind, ephemeral| Txn::Create {
            kind,
            path: "/a".into(),
            data: Some(b"x"),
            acl: acl::OPEN,
            ephemeral,
            parent_cversion: 1,
        };
        round(create(CreateTxnKind::Create, true), digest);
        round(create(CreateTxnKind::Create2, false), digest);
        round(create(CreateTxnKind::Container, false), digest);
        round(create(CreateTxnKind::Ttl(9), false), digest);
        round(Txn::Delete { path: "/a".into(), container: false }, digest);
        round(Txn::Delete { path: "/a".into(), container: true }, digest);
        round(Txn::SetData { path: "/a".into(), data: None, version: 3, reconfig: false }, digest);
        round(Txn::SetAcl { path: "/a".into(), acl: acl::WORLD_READ, aversion: 1 }, digest);
        round(Txn::CreateSession { timeout_ms: 6000 }, digest);
        round(Txn::CloseSession { paths: Some(vec!["/x/e".into()]) }, digest);
        round(Txn::CloseSession { paths: Some(vec![]) }, digest);
        round(Txn::Error { code: -101 }, None);
        round(
            Txn::Multi(vec![
                create(CreateTxnKind::Create, false),
                Txn::Check { path: "/a".into(), version: 1 },
                Txn::Error { code: -2 },
            ]),
            digest,
        );
    }

    #[test]
    fn a_session_txn_of_an_apache_log() {
        // From a log written by 3.8.0 (storage format, section 3.2).
        let hex = "01000010357c0000000000000000000100000001000001a1f85057fdfffffff6000017700000000200000000\
                   51c6d660";
        let bytes: Vec<u8> =
            (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect();
        let r = Record::decode(&bytes).unwrap();
        assert_eq!(r.txn, Txn::CreateSession { timeout_ms: 6000 });
        assert_eq!(r.header.zxid, Zxid::from_u64(0x1_0000_0001));
        assert_eq!(r.digest, Some(TxnDigest { version: 2, tree: 0x51c6_d660 }));
        let mut out = Vec::new();
        r.encode(&mut out);
        assert_eq!(out, bytes);
    }

    #[test]
    fn close_session_without_a_list() {
        let header = TxnHeader {
            session: SessionId(1),
            cxid: Xid(0),
            zxid: Zxid::from_u64(1),
            time: WallMs(0),
            kind: kind::CLOSE_SESSION,
        };
        let mut out = Vec::new();
        header.encode(&mut out);
        assert_eq!(Record::decode(&out).unwrap().txn, Txn::CloseSession { paths: None });
        TxnDigest { version: 2, tree: 5 }.encode(&mut out);
        let r = Record::decode(&out).unwrap();
        assert_eq!((r.txn, r.digest.map(|d| d.tree)), (Txn::CloseSession { paths: None }, Some(5)));

        // A null list before a digest of another version comes back as what it was, and not as a list.
        let digest = Some(TxnDigest { version: 1, tree: 5 });
        let record = Record { header, txn: Txn::CloseSession { paths: None }, digest };
        let mut out = Vec::new();
        record.encode(&mut out);
        assert_eq!(Record::decode(&out).unwrap(), record);
    }

    #[test]
    fn unknown_types_and_nested_multis_are_refused() {
        assert!(Txn::decode(99, &mut Reader::new(&[0; 8])).is_err());
        let mut inner = Vec::new();
        Txn::Multi(vec![]).encode(&mut inner);
        let mut outer = Vec::new();
        outer.put_count(1);
        outer.put_i32(kind::MULTI);
        outer.put_buffer(Some(&inner));
        assert!(Txn::decode(kind::MULTI, &mut Reader::new(&outer)).is_err());
    }

    #[test]
    #[should_panic(expected = "must follow")]
    fn batches_refuse_disorder() {
        let mut b = RecordBatch::new();
        b.push_with(Zxid::from_u64(2), |o| o.push(1));
        b.push_with(Zxid::from_u64(2), |o| o.push(1));
    }
}
