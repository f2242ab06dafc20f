//! The records of the client port: handshake, requests, replies, events (client protocol, sections 2 to 8).
//!
//! A frame is split by kind as soon as it is read: [`ReadOp`] is answered from the local tree, [`WriteOp`] goes
//! through agreement. Requests borrow from their frame.

use crate::acl::AclBytes;
use crate::jute::{DecodeError, Put, Reader, begin_frame, end_frame};
use crate::{Code, SessionId, Stat, Xid, Zxid};
use alloc::borrow::Cow;
use alloc::vec::Vec;

/// The operation codes that a client may send.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(i32)]
#[allow(missing_docs, reason = "each is the operation of that name")]
pub enum OpCode {
    Create = 1,
    Delete = 2,
    Exists = 3,
    GetData = 4,
    SetData = 5,
    GetAcl = 6,
    SetAcl = 7,
    GetChildren = 8,
    Sync = 9,
    Ping = 11,
    GetChildren2 = 12,
    Check = 13,
    Multi = 14,
    Create2 = 15,
    Reconfig = 16,
    CheckWatches = 17,
    RemoveWatches = 18,
    CreateContainer = 19,
    DeleteContainer = 20,
    CreateTtl = 21,
    MultiRead = 22,
    Auth = 100,
    SetWatches = 101,
    Sasl = 102,
    GetEphemerals = 103,
    GetAllChildrenNumber = 104,
    SetWatches2 = 105,
    AddWatch = 106,
    WhoAmI = 107,
    CreateSession = -10,
    CloseSession = -11,
}

impl OpCode {
    /// The operation of a number on the wire.
    pub const fn from_wire(v: i32) -> Option<OpCode> {
        use OpCode::*;
        Some(match v {
            1 => Create,
            2 => Delete,
            3 => Exists,
            4 => GetData,
            5 => SetData,
            6 => GetAcl,
            7 => SetAcl,
            8 => GetChildren,
            9 => Sync,
            11 => Ping,
            12 => GetChildren2,
            13 => Check,
            14 => Multi,
            15 => Create2,
            16 => Reconfig,
            17 => CheckWatches,
            18 => RemoveWatches,
            19 => CreateContainer,
            20 => DeleteContainer,
            21 => CreateTtl,
            22 => MultiRead,
            100 => Auth,
            101 => SetWatches,
            102 => Sasl,
            103 => GetEphemerals,
            104 => GetAllChildrenNumber,
            105 => SetWatches2,
            106 => AddWatch,
            107 => WhoAmI,
            -10 => CreateSession,
            -11 => CloseSession,
            _ => return None,
        })
    }

    /// The number on the wire.
    pub const fn wire(self) -> i32 {
        self as i32
    }
}

/// The first frame of a client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConnectRequest<'a> {
    /// The largest zxid that the client has seen.
    pub last_zxid_seen: i64,
    /// The session time-out it asks for, in ms.
    pub timeout_ms: i32,
    /// The session to resume, or none.
    pub session: SessionId,
    /// The password of that session.
    pub password: &'a [u8],
    /// The client accepts a read-only server. `None`: the field was absent, as from clients before 3.4, and
    /// the reply must lack it too.
    pub read_only: Option<bool>,
}

impl<'a> ConnectRequest<'a> {
    /// Reads the payload of the first frame.
    pub fn decode(bytes: &'a [u8]) -> Result<ConnectRequest<'a>, DecodeError> {
        let mut r = Reader::new(bytes);
        r.i32()?; // The protocol version: always 0, ignored by Apache.
        Ok(ConnectRequest {
            last_zxid_seen: r.i64()?,
            timeout_ms: r.i32()?,
            session: SessionId(r.i64()?),
            password: r.buffer()?.unwrap_or_default(),
            read_only: if r.remaining() > 0 { Some(r.bool()?) } else { None },
        })
    }

    /// Appends the whole frame, as a client sends it.
    pub fn encode_frame(&self, out: &mut Vec<u8>) {
        let at = begin_frame(out);
        out.put_i32(0);
        out.put_i64(self.last_zxid_seen);
        out.put_i32(self.timeout_ms);
        out.put_i64(self.session.0);
        out.put_buffer(Some(self.password));
        if let Some(ro) = self.read_only {
            out.put_bool(ro);
        }
        end_frame(out, at);
    }
}

/// The answer to a [`ConnectRequest`]; session 0 with time-out 0 says that the session is gone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConnectResponse {
    /// The negotiated time-out in ms; 0 means expired.
    pub timeout_ms: i32,
    /// The session, 0 when refused.
    pub session: SessionId,
    /// Its password.
    pub password: [u8; 16],
    /// Whether this is a read-only server; `None` when the request lacked the field.
    pub read_only: Option<bool>,
}

impl ConnectResponse {
    /// Appends the whole frame.
    pub fn encode_frame(&self, out: &mut Vec<u8>) {
        let at = begin_frame(out);
        out.put_i32(0);
        out.put_i32(self.timeout_ms);
        out.put_i64(self.session.0);
        out.put_buffer(Some(&self.password));
        if let Some(ro) = self.read_only {
            out.put_bool(ro);
        }
        end_frame(out, at);
    }

    /// Reads the payload of the frame, as a client does.
    pub fn decode(bytes: &[u8]) -> Result<ConnectResponse, DecodeError> {
        let mut r = Reader::new(bytes);
        r.i32()?;
        let timeout_ms = r.i32()?;
        let session = SessionId(r.i64()?);
        let mut password = [0; 16];
        let sent = r.buffer()?.unwrap_or_default();
        let n = sent.len().min(16);
        password[..n].copy_from_slice(&sent[..n]);
        let read_only = if r.remaining() > 0 { Some(r.bool()?) } else { None };
        Ok(ConnectResponse { timeout_ms, session, password, read_only })
    }
}

/// The head of every request after the handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequestHeader {
    /// The client's number of the request.
    pub xid: Xid,
    /// The operation code as sent; it may be unknown.
    pub op: i32,
}

impl RequestHeader {
    /// Bytes of the encoded form.
    pub const LEN: usize = 8;

    /// Reads the head; the rest of `r` is the body.
    pub fn decode(r: &mut Reader<'_>) -> Result<RequestHeader, DecodeError> {
        Ok(RequestHeader { xid: Xid(r.i32()?), op: r.i32()? })
    }
}

/// Which of the four create operations was sent. It decides the kind of znode, not the flags do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CreateOp {
    /// create (1): the reply is the path.
    Create,
    /// create2 (15): the reply is path and stat.
    Create2,
    /// createContainer (19).
    Container,
    /// createTTL (21).
    Ttl,
}

/// The flags of a create, parsed; [`CreateMode::from_flags`] refuses others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "each is the mode of that name")]
pub enum CreateMode {
    Persistent,
    Ephemeral,
    PersistentSequential,
    EphemeralSequential,
    Container,
    Ttl,
    TtlSequential,
}

impl CreateMode {
    /// The mode of the flags on the wire, 0 to 6.
    pub const fn from_flags(flags: i32) -> Option<CreateMode> {
        Some(match flags {
            0 => CreateMode::Persistent,
            1 => CreateMode::Ephemeral,
            2 => CreateMode::PersistentSequential,
            3 => CreateMode::EphemeralSequential,
            4 => CreateMode::Container,
            5 => CreateMode::Ttl,
            6 => CreateMode::TtlSequential,
            _ => return None,
        })
    }

    /// The flags on the wire.
    pub const fn flags(self) -> i32 {
        self as i32
    }

    /// Whether a number is appended to the name.
    pub const fn is_sequential(self) -> bool {
        matches!(
            self,
            CreateMode::PersistentSequential | CreateMode::EphemeralSequential | CreateMode::TtlSequential
        )
    }

    /// Whether the znode lives as long as its session.
    pub const fn is_ephemeral(self) -> bool {
        matches!(self, CreateMode::Ephemeral | CreateMode::EphemeralSequential)
    }

    /// Whether the znode has a time to live.
    pub const fn is_ttl(self) -> bool {
        matches!(self, CreateMode::Ttl | CreateMode::TtlSequential)
    }
}

/// The body of a create of any kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Create<'a> {
    /// Which operation.
    pub op: CreateOp,
    /// The path; the sequence number is appended to it.
    pub path: Cow<'a, str>,
    /// The value; null is kept apart from empty.
    pub data: Option<&'a [u8]>,
    /// The list as sent: null, empty and malformed lists are refused later, in Apache's order of checks.
    pub acl: AclBytes<'a>,
    /// The flags as sent.
    pub flags: i32,
    /// The time to live in ms, of [`CreateOp::Ttl`] only.
    pub ttl_ms: i64,
}

/// One operation of a multi.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MultiOp<'a> {
    /// Any create.
    Create(Create<'a>),
    /// Delete `path` at `version`.
    Delete {
        /// The znode.
        path: Cow<'a, str>,
        /// Expected version, −1 for any.
        version: i32,
    },
    /// Set the value of `path`.
    SetData {
        /// The znode.
        path: Cow<'a, str>,
        /// The new value.
        data: Option<&'a [u8]>,
        /// Expected version, −1 for any.
        version: i32,
    },
    /// Demand that `path` has `version`.
    Check {
        /// The znode.
        path: Cow<'a, str>,
        /// Expected version, −1 for any.
        version: i32,
    },
}

/// A request that goes through agreement and takes a zxid, also when it fails.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WriteOp<'a> {
    /// Any create.
    Create(Create<'a>),
    /// Delete a znode.
    Delete {
        /// The znode.
        path: Cow<'a, str>,
        /// Expected version, −1 for any.
        version: i32,
    },
    /// Set the value of a znode.
    SetData {
        /// The znode.
        path: Cow<'a, str>,
        /// The new value.
        data: Option<&'a [u8]>,
        /// Expected version, −1 for any.
        version: i32,
    },
    /// Set the ACL of a znode.
    SetAcl {
        /// The znode.
        path: Cow<'a, str>,
        /// The new list as sent.
        acl: AclBytes<'a>,
        /// Expected ACL version, −1 for any.
        version: i32,
    },
    /// All or nothing.
    Multi(Vec<MultiOp<'a>>),
    /// A multi whose body can't be decoded or holds an operation that a multi may not hold: fails as a whole
    /// with a marshalling error, and takes a zxid.
    BadMulti,
    /// Change the membership of the ensemble.
    Reconfig {
        /// Servers to add or change, as `server.N=...`, comma separated.
        joining: Option<Cow<'a, str>>,
        /// Ids to remove, comma separated.
        leaving: Option<Cow<'a, str>>,
        /// The whole new membership.
        new_members: Option<Cow<'a, str>>,
        /// The version of the configuration that this change is based on, −1 for any.
        config_id: i64,
    },
    /// Open a session; made by the server out of the handshake.
    CreateSession {
        /// The negotiated time-out in ms.
        timeout_ms: i32,
    },
    /// Close the session of the request.
    CloseSession,
    /// Remove an empty container or an expired TTL znode; made by the server only.
    DeleteContainer {
        /// The znode.
        path: Cow<'a, str>,
    },
}

impl<'a> WriteOp<'a> {
    /// Decodes the body of a write that a client sent. `None`: `op` is not a write that clients may send.
    ///
    /// An undecodable single write is an error and takes no zxid, as is a multi with a create without an ACL
    /// list; any other undecodable multi is [`WriteOp::BadMulti`] (semantics, section 2).
    pub fn decode(op: OpCode, r: &mut Reader<'a>) -> Option<Result<WriteOp<'a>, DecodeError>> {
        Some(match op {
            OpCode::Create => Self::decode_create(CreateOp::Create, r),
            OpCode::Create2 => Self::decode_create(CreateOp::Create2, r),
            OpCode::CreateContainer => Self::decode_create(CreateOp::Container, r),
            OpCode::CreateTtl => Self::decode_create(CreateOp::Ttl, r),
            OpCode::Delete => (|| Ok(WriteOp::Delete { path: path(r)?, version: r.i32()? }))(),
            OpCode::SetData => {
                (|| Ok(WriteOp::SetData { path: path(r)?, data: r.buffer()?, version: r.i32()? }))()
            }
            OpCode::SetAcl => {
                (|| Ok(WriteOp::SetAcl { path: path(r)?, acl: AclBytes::decode(r)?, version: r.i32()? }))()
            }
            OpCode::Multi => match decode_multi(r) {
                Ok(ops) => Ok(WriteOp::Multi(ops)),
                Err(BadMulti::NoAcl(why)) => Err(why),
                Err(BadMulti::Malformed) => Ok(WriteOp::BadMulti),
            },
            OpCode::Reconfig => (|| {
                Ok(WriteOp::Reconfig {
                    joining: r.string()?,
                    leaving: r.string()?,
                    new_members: r.string()?,
                    config_id: r.i64()?,
                })
            })(),
            OpCode::CloseSession => Ok(WriteOp::CloseSession),
            OpCode::Exists
            | OpCode::GetData
            | OpCode::GetAcl
            | OpCode::GetChildren
            | OpCode::Sync
            | OpCode::Ping
            | OpCode::GetChildren2
            | OpCode::Check
            | OpCode::CheckWatches
            | OpCode::RemoveWatches
            | OpCode::DeleteContainer
            | OpCode::MultiRead
            | OpCode::Auth
            | OpCode::SetWatches
            | OpCode::Sasl
            | OpCode::GetEphemerals
            | OpCode::GetAllChildrenNumber
            | OpCode::SetWatches2
            | OpCode::AddWatch
            | OpCode::WhoAmI
            | OpCode::CreateSession => return None,
        })
    }

    fn decode_create(op: CreateOp, r: &mut Reader<'a>) -> Result<WriteOp<'a>, DecodeError> {
        decode_create(op, r).map(WriteOp::Create)
    }
}

/// A path as sent; a null path reads as the empty one, which no operation accepts as a znode to write.
fn path<'a>(r: &mut Reader<'a>) -> Result<Cow<'a, str>, DecodeError> {
    Ok(r.string()?.unwrap_or(Cow::Borrowed("")))
}

fn decode_create<'a>(op: CreateOp, r: &mut Reader<'a>) -> Result<Create<'a>, DecodeError> {
    Ok(Create {
        op,
        path: path(r)?,
        data: r.buffer()?,
        acl: AclBytes::decode(r)?,
        flags: r.i32()?,
        ttl_ms: if op == CreateOp::Ttl { r.i64()? } else { -1 },
    })
}

/// The head of each operation and each result of a multi.
struct MultiHeader {
    op: i32,
    done: bool,
}

impl MultiHeader {
    fn decode(r: &mut Reader<'_>) -> Result<MultiHeader, DecodeError> {
        let h = MultiHeader { op: r.i32()?, done: r.bool()? };
        r.i32()?; // The error field means nothing in a request.
        Ok(h)
    }
}

/// Why a multi can't be decoded; of several reasons the first counts.
enum BadMulti {
    /// A create without an ACL list, which takes no zxid: Apache meets it as a null pointer, past the place where
    /// it gives one to what can't be decoded.
    NoAcl(DecodeError),
    /// Anything else.
    Malformed,
}

impl From<DecodeError> for BadMulti {
    fn from(_: DecodeError) -> BadMulti {
        BadMulti::Malformed
    }
}

fn decode_multi<'a>(r: &mut Reader<'a>) -> Result<Vec<MultiOp<'a>>, BadMulti> {
    let mut ops = Vec::new();
    loop {
        let h = MultiHeader::decode(r)?;
        if h.done {
            return Ok(ops);
        }
        ops.push(match OpCode::from_wire(h.op) {
            Some(OpCode::Create) => MultiOp::Create(multi_create(CreateOp::Create, r)?),
            Some(OpCode::Create2) => MultiOp::Create(multi_create(CreateOp::Create2, r)?),
            Some(OpCode::CreateContainer) => MultiOp::Create(multi_create(CreateOp::Container, r)?),
            Some(OpCode::CreateTtl) => MultiOp::Create(multi_create(CreateOp::Ttl, r)?),
            Some(OpCode::Delete) => MultiOp::Delete { path: path(r)?, version: r.i32()? },
            Some(OpCode::SetData) => {
                MultiOp::SetData { path: path(r)?, data: r.buffer()?, version: r.i32()? }
            }
            Some(OpCode::Check) => MultiOp::Check { path: path(r)?, version: r.i32()? },
            _ => return Err(BadMulti::Malformed),
        });
    }
}

/// Inside a multi the flags have a say in the kind of znode, unlike outside: a create with the flags of a
/// container makes one, and a createTTL without the flags of a TTL is a plain create. Flags that are unknown, or
/// ask for a TTL where none is given, and a null ACL spoil the whole request, not the one operation.
fn multi_create<'a>(op: CreateOp, r: &mut Reader<'a>) -> Result<Create<'a>, BadMulti> {
    let offset = r.offset();
    let mut c = decode_create(op, r)?;
    let mode = CreateMode::from_flags(c.flags);
    if op == CreateOp::Ttl {
        if !mode.is_some_and(CreateMode::is_ttl) {
            c.op = if mode == Some(CreateMode::Container) { CreateOp::Container } else { CreateOp::Create };
            c.ttl_ms = -1;
        }
        return Ok(c);
    }
    match mode {
        None => Err(BadMulti::Malformed),
        Some(_) if c.acl.is_null() => Err(BadMulti::NoAcl(DecodeError::Value { offset, found: -1 })),
        Some(mode) if mode.is_ttl() => Err(BadMulti::Malformed),
        Some(mode) => {
            if mode == CreateMode::Container {
                c.op = CreateOp::Container;
            }
            Ok(c)
        }
    }
}

/// What kind of watch a client asks about or removes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WatcherType {
    /// Child watches.
    Children,
    /// Data watches.
    Data,
    /// Any watch.
    Any,
    /// Persistent watches.
    Persistent,
    /// Persistent recursive watches.
    PersistentRecursive,
}

/// The two modes of addWatch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AddWatchMode {
    /// Fires for the znode, again and again.
    Persistent,
    /// Fires for the whole subtree.
    PersistentRecursive,
}

/// The lists of setWatches and setWatches2.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SetWatches<'a> {
    /// The last zxid that the client has seen.
    pub relative_zxid: i64,
    /// Data watches.
    pub data: Vec<Cow<'a, str>>,
    /// Watches on znodes that did not exist.
    pub exist: Vec<Cow<'a, str>>,
    /// Child watches.
    pub child: Vec<Cow<'a, str>>,
    /// Persistent watches.
    pub persistent: Vec<Cow<'a, str>>,
    /// Persistent recursive watches.
    pub persistent_recursive: Vec<Cow<'a, str>>,
}

/// One operation of a multiRead.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MultiReadOp<'a> {
    /// The children of a path.
    GetChildren(Cow<'a, str>),
    /// The value of a path.
    GetData(Cow<'a, str>),
}

/// A request that is answered from the tree of the server that received it.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "each is the operation of that name, with its fields")]
pub enum ReadOp<'a> {
    Exists {
        path: Cow<'a, str>,
        watch: bool,
    },
    GetData {
        path: Cow<'a, str>,
        watch: bool,
    },
    GetAcl {
        path: Cow<'a, str>,
    },
    GetChildren {
        path: Cow<'a, str>,
        watch: bool,
    },
    GetChildren2 {
        path: Cow<'a, str>,
        watch: bool,
    },
    Ping,
    CheckWatches {
        path: Cow<'a, str>,
        kind: WatcherType,
    },
    RemoveWatches {
        path: Cow<'a, str>,
        kind: WatcherType,
    },
    MultiRead(Vec<MultiReadOp<'a>>),
    /// A multiRead that breaks off: what was read before it stays in the reply, whose error is a marshalling
    /// error.
    BadMultiRead,
    SetWatches(SetWatches<'a>),
    GetEphemerals {
        prefix: Cow<'a, str>,
    },
    GetAllChildrenNumber {
        path: Cow<'a, str>,
    },
    AddWatch {
        path: Cow<'a, str>,
        mode: AddWatchMode,
    },
    WhoAmI,
}

impl<'a> ReadOp<'a> {
    /// Decodes the body of a read. `None`: `op` is not a read.
    pub fn decode(op: OpCode, r: &mut Reader<'a>) -> Option<Result<ReadOp<'a>, DecodeError>> {
        let read = |r: &mut Reader<'a>| -> Result<Option<ReadOp<'a>>, DecodeError> {
            Ok(Some(match op {
                OpCode::Exists => ReadOp::Exists { path: path(r)?, watch: r.bool()? },
                OpCode::GetData => ReadOp::GetData { path: path(r)?, watch: r.bool()? },
                OpCode::GetAcl => ReadOp::GetAcl { path: path(r)? },
                OpCode::GetChildren => ReadOp::GetChildren { path: path(r)?, watch: r.bool()? },
                OpCode::GetChildren2 => ReadOp::GetChildren2 { path: path(r)?, watch: r.bool()? },
                OpCode::Ping => ReadOp::Ping,
                OpCode::CheckWatches => ReadOp::CheckWatches { path: path(r)?, kind: watcher_type(r)? },
                OpCode::RemoveWatches => ReadOp::RemoveWatches { path: path(r)?, kind: watcher_type(r)? },
                OpCode::MultiRead => decode_multi_read(r).map_or(ReadOp::BadMultiRead, ReadOp::MultiRead),
                OpCode::SetWatches | OpCode::SetWatches2 => {
                    let mut w = SetWatches {
                        relative_zxid: r.i64()?,
                        data: present(r)?,
                        exist: present(r)?,
                        child: present(r)?,
                        ..SetWatches::default()
                    };
                    if op == OpCode::SetWatches2 {
                        w.persistent = present(r)?;
                        w.persistent_recursive = present(r)?;
                    }
                    ReadOp::SetWatches(w)
                }
                OpCode::GetEphemerals => ReadOp::GetEphemerals { prefix: path(r)? },
                OpCode::GetAllChildrenNumber => ReadOp::GetAllChildrenNumber { path: path(r)? },
                OpCode::AddWatch => {
                    let path = path(r)?;
                    let offset = r.offset();
                    let mode = match r.i32()? {
                        0 => AddWatchMode::Persistent,
                        1 => AddWatchMode::PersistentRecursive,
                        found => return Err(DecodeError::Value { offset, found: found.into() }),
                    };
                    ReadOp::AddWatch { path, mode }
                }
                OpCode::WhoAmI => ReadOp::WhoAmI,
                OpCode::Create
                | OpCode::Delete
                | OpCode::SetData
                | OpCode::SetAcl
                | OpCode::Sync
                | OpCode::Check
                | OpCode::Multi
                | OpCode::Create2
                | OpCode::Reconfig
                | OpCode::CreateContainer
                | OpCode::DeleteContainer
                | OpCode::CreateTtl
                | OpCode::Auth
                | OpCode::Sasl
                | OpCode::CreateSession
                | OpCode::CloseSession => return Ok(None),
            }))
        };
        read(r).transpose()
    }
}

/// A vector of paths that may not be null.
fn present<'a>(r: &mut Reader<'a>) -> Result<Vec<Cow<'a, str>>, DecodeError> {
    let offset = r.offset();
    r.strings()?.ok_or(DecodeError::Length { offset, found: -1, max: i32::MAX as usize })
}

fn watcher_type(r: &mut Reader<'_>) -> Result<WatcherType, DecodeError> {
    let offset = r.offset();
    Ok(match r.i32()? {
        1 => WatcherType::Children,
        2 => WatcherType::Data,
        3 => WatcherType::Any,
        4 => WatcherType::Persistent,
        5 => WatcherType::PersistentRecursive,
        found => return Err(DecodeError::Value { offset, found: found.into() }),
    })
}

fn decode_multi_read<'a>(r: &mut Reader<'a>) -> Result<Vec<MultiReadOp<'a>>, DecodeError> {
    let mut ops = Vec::new();
    loop {
        let offset = r.offset();
        let h = MultiHeader::decode(r)?;
        if h.done {
            return Ok(ops);
        }
        let op = match OpCode::from_wire(h.op) {
            Some(OpCode::GetChildren) => MultiReadOp::GetChildren(path(r)?),
            Some(OpCode::GetData) => MultiReadOp::GetData(path(r)?),
            _ => return Err(DecodeError::Value { offset, found: h.op.into() }),
        };
        r.bool()?; // The watch flag: a multiRead sets none.
        ops.push(op);
    }
}

/// The body of an auth packet (operation 100).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AuthPacket<'a> {
    /// The scheme.
    pub scheme: Cow<'a, str>,
    /// The credential.
    pub auth: &'a [u8],
}

impl<'a> AuthPacket<'a> {
    /// Reads the body.
    pub fn decode(r: &mut Reader<'a>) -> Result<AuthPacket<'a>, DecodeError> {
        r.i32()?; // The type, ignored.
        Ok(AuthPacket { scheme: path(r)?, auth: r.buffer()?.unwrap_or_default() })
    }
}

/// Appends the head of a reply; the frame must have been begun.
pub fn put_reply_header(out: &mut Vec<u8>, xid: Xid, zxid: Zxid, err: i32) {
    out.put_i32(xid.0);
    out.put_i64(zxid.to_wire());
    out.put_i32(err);
}

/// The head of a reply, as a client reads it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplyHeader {
    /// The number of the request.
    pub xid: Xid,
    /// The last zxid applied on the answering server.
    pub zxid: i64,
    /// 0 or an error code.
    pub err: i32,
}

impl ReplyHeader {
    /// Bytes of the encoded form.
    pub const LEN: usize = 16;

    /// Reads the head; the rest of `r` is the body.
    pub fn decode(r: &mut Reader<'_>) -> Result<ReplyHeader, DecodeError> {
        Ok(ReplyHeader { xid: Xid(r.i32()?), zxid: r.i64()?, err: r.i32()? })
    }
}

/// What happened to a watched znode.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(i32)]
pub enum EventType {
    /// It was created.
    NodeCreated = 1,
    /// It was deleted.
    NodeDeleted = 2,
    /// Its value was set.
    NodeDataChanged = 3,
    /// A child was created or deleted.
    NodeChildrenChanged = 4,
}

/// Appends a whole notification frame. `zxid` is the change's; −1 for the catch-up events of setWatches.
pub fn put_event_frame(out: &mut Vec<u8>, zxid: i64, event: EventType, path: &str) {
    let at = begin_frame(out);
    out.put_i32(Xid::NOTIFICATION.0);
    out.put_i64(zxid);
    out.put_i32(0);
    out.put_i32(event as i32);
    out.put_i32(3); // SyncConnected, the only state that a server sends.
    out.put_str(path);
    end_frame(out, at);
}

/// The result of one operation of a multi or multiRead.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MultiResult {
    /// A create (operation 1): the path.
    Create(Cow<'static, str>),
    /// create2, createTTL or createContainer: path and stat.
    Create2(Cow<'static, str>, Stat),
    /// A delete.
    Delete,
    /// A setData: the new stat.
    SetData(Stat),
    /// A check that held.
    Check,
    /// An error, also 0 for the operations before the one that failed.
    Error(i32),
}

impl MultiResult {
    /// Appends the result with its head.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            MultiResult::Create(path) => {
                put_multi_header(out, OpCode::Create.wire(), 0);
                out.put_str(path);
            }
            MultiResult::Create2(path, stat) => {
                put_multi_header(out, OpCode::Create2.wire(), 0);
                out.put_str(path);
                stat.encode(out);
            }
            MultiResult::Delete => put_multi_header(out, OpCode::Delete.wire(), 0),
            MultiResult::SetData(stat) => {
                put_multi_header(out, OpCode::SetData.wire(), 0);
                stat.encode(out);
            }
            MultiResult::Check => put_multi_header(out, OpCode::Check.wire(), 0),
            MultiResult::Error(err) => put_multi_error(out, *err),
        }
    }
}

/// Appends the head of one result of a multi.
pub fn put_multi_header(out: &mut Vec<u8>, op: i32, err: i32) {
    out.put_i32(op);
    out.put_bool(false);
    out.put_i32(err);
}

/// Appends an error result of a multi: the code stands in the head and again in the body.
pub fn put_multi_error(out: &mut Vec<u8>, err: i32) {
    put_multi_header(out, -1, err);
    out.put_i32(err);
}

/// Appends the end mark of a multi.
pub fn put_multi_end(out: &mut Vec<u8>) {
    out.put_i32(-1);
    out.put_bool(true);
    out.put_i32(-1);
}

/// What a committed write tells the client that sent it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WriteReply<'a> {
    /// create: the path.
    Path(&'a str),
    /// create2 and its kin: path and stat.
    PathStat(&'a str, Stat),
    /// setData, setACL: the stat.
    Stat(Stat),
    /// A multi: the results in order.
    Multi(&'a [MultiResult]),
    /// reconfig: the new configuration and the stat of its znode.
    Config(&'a [u8], Stat),
    /// delete, closeSession: nothing.
    Empty,
    /// A failure.
    Error(Code),
}

impl WriteReply<'_> {
    /// Appends the whole reply frame.
    pub fn encode_frame(&self, out: &mut Vec<u8>, xid: Xid, zxid: Zxid) {
        let at = begin_frame(out);
        let err = if let WriteReply::Error(code) = self { code.wire() } else { 0 };
        put_reply_header(out, xid, zxid, err);
        match self {
            WriteReply::Path(path) => out.put_str(path),
            WriteReply::PathStat(path, stat) => {
                out.put_str(path);
                stat.encode(out);
            }
            WriteReply::Stat(stat) => stat.encode(out),
            WriteReply::Multi(results) => {
                results.iter().for_each(|r| r.encode(out));
                put_multi_end(out);
            }
            WriteReply::Config(text, stat) => {
                out.put_buffer(Some(text));
                stat.encode(out);
            }
            WriteReply::Empty | WriteReply::Error(_) => {}
        }
        end_frame(out, at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;

    fn hex(text: &str) -> Vec<u8> {
        let digits: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        (0..digits.len()).step_by(2).map(|i| u8::from_str_radix(&digits[i..i + 2], 16).unwrap()).collect()
    }

    // The vectors of this module were captured from a 3.9.5 server (client protocol, section 14).

    #[test]
    fn handshake_bytes() {
        let frame = hex("0000002d 00000000 0000000000000000 00002710 0000000000000000 00000010
                         00000000000000000000000000000000 00");
        let c = ConnectRequest::decode(&frame[4..]).unwrap();
        assert_eq!(
            (c.timeout_ms, c.session, c.password.len(), c.read_only),
            (10000, SessionId::NONE, 16, Some(false))
        );
        let mut out = Vec::new();
        c.encode_frame(&mut out);
        assert_eq!(out, frame);
        let old = ConnectRequest::decode(&frame[4..frame.len() - 1]).unwrap();
        assert_eq!(old.read_only, None);

        let reply = hex("00000025 00000000 00002710 0100001fe7460000 00000010
                         585238050551abd8f6c858da56ddc4e8 00");
        let r = ConnectResponse::decode(&reply[4..]).unwrap();
        assert_eq!(r.session, SessionId(0x0100_001f_e746_0000));
        let mut out = Vec::new();
        r.encode_frame(&mut out);
        assert_eq!(out, reply);
        let mut out = Vec::new();
        ConnectResponse { read_only: None, ..r }.encode_frame(&mut out);
        assert_eq!(out.len(), 4 + 36);
    }

    #[test]
    fn create_bytes() {
        let frame = hex("00000033 00000001 00000001 00000002 2f61 00000002 6869 00000001 0000001f 00000005
                         776f726c64 00000006 616e796f6e65 00000000");
        let mut r = Reader::new(&frame[4..]);
        let h = RequestHeader::decode(&mut r).unwrap();
        assert_eq!((h.xid, h.op), (Xid(1), 1));
        let op = WriteOp::decode(OpCode::Create, &mut r).unwrap().unwrap();
        let WriteOp::Create(c) = op else { panic!("{op:?}") };
        assert_eq!((&*c.path, c.data, c.acl, c.flags), ("/a", Some(&b"hi"[..]), crate::acl::OPEN, 0));
        let mut out = Vec::new();
        WriteReply::Path("/a").encode_frame(&mut out, Xid(1), Zxid::from_u64(2));
        assert_eq!(out, hex("00000016 00000001 0000000000000002 00000000 00000002 2f61"));
    }

    #[test]
    fn event_and_failed_multi_bytes() {
        let mut out = Vec::new();
        put_event_frame(&mut out, 3, EventType::NodeCreated, "/b");
        assert_eq!(out, hex("0000001e ffffffff 0000000000000003 00000000 00000001 00000003 00000002 2f62"));

        let frame =
            hex("00000037 00000006 0000000e 0000000d 00 ffffffff 00000002 2f61 00000007 00000002 00 ffffffff
                         00000002 2f62 ffffffff ffffffff 01 ffffffff");
        let mut r = Reader::new(&frame[4..]);
        let h = RequestHeader::decode(&mut r).unwrap();
        assert_eq!(h.op, OpCode::Multi.wire());
        let WriteOp::Multi(ops) = WriteOp::decode(OpCode::Multi, &mut r).unwrap().unwrap() else { panic!() };
        assert_eq!(ops.len(), 2);
        let results = [
            MultiResult::Error(Code::BadVersion.wire()),
            MultiResult::Error(Code::RuntimeInconsistency.wire()),
        ];
        let mut out = Vec::new();
        WriteReply::Multi(&results).encode_frame(&mut out, Xid(6), Zxid::from_u64(4));
        assert_eq!(
            out,
            hex("00000033 00000006 0000000000000004 00000000 ffffffff 00 ffffff99 ffffff99 ffffffff 00 fffffffe
                 fffffffe ffffffff 01 ffffffff")
        );
    }

    #[test]
    fn the_flags_and_the_acl_of_a_create_decide_about_the_whole_multi() {
        #[derive(PartialEq, Debug)]
        enum Read {
            As(CreateOp),
            Bad,
            Refused,
        }
        let acl: &[u8] = &hex("00000001 0000001f 00000005 776f726c64 00000006 616e796f6e65");
        let null: &[u8] = &hex("ffffffff");
        for (op, flags, acl, wanted) in [
            (OpCode::Create, 0, acl, Read::As(CreateOp::Create)),
            (OpCode::Create, 4, acl, Read::As(CreateOp::Container)),
            (OpCode::Create2, 3, acl, Read::As(CreateOp::Create2)),
            (OpCode::CreateContainer, 0, acl, Read::As(CreateOp::Container)),
            (OpCode::CreateTtl, 5, acl, Read::As(CreateOp::Ttl)),
            (OpCode::CreateTtl, 5, null, Read::As(CreateOp::Ttl)),
            (OpCode::CreateTtl, 0, acl, Read::As(CreateOp::Create)),
            (OpCode::CreateTtl, 9, null, Read::As(CreateOp::Create)),
            (OpCode::CreateTtl, 4, acl, Read::As(CreateOp::Container)),
            (OpCode::Create, 7, acl, Read::Bad),
            (OpCode::Create, -1, null, Read::Bad),
            (OpCode::CreateContainer, 5, acl, Read::Bad),
            (OpCode::Create2, 6, acl, Read::Bad),
            (OpCode::Create2, 6, null, Read::Refused),
            (OpCode::Create, 0, null, Read::Refused),
        ] {
            let mut body = Vec::new();
            put_multi_header(&mut body, op.wire(), -1);
            body.extend(hex("00000002 2f61 ffffffff"));
            body.extend(acl);
            body.put_i32(flags);
            if op == OpCode::CreateTtl {
                body.put_i64(77);
            }
            put_multi_end(&mut body);
            let found = match WriteOp::decode(OpCode::Multi, &mut Reader::new(&body)).unwrap() {
                Ok(WriteOp::Multi(ops)) => match &ops[..] {
                    [MultiOp::Create(c)] => Read::As(c.op),
                    _ => panic!("{ops:?}"),
                },
                Ok(WriteOp::BadMulti) => Read::Bad,
                Ok(other) => panic!("{other:?}"),
                Err(_) => Read::Refused,
            };
            assert_eq!(found, wanted, "{op:?} with flags {flags} and ACL {acl:?}");
        }
    }

    #[test]
    fn every_operation_is_a_read_a_write_or_handled_on_the_connection() {
        for n in -20..200 {
            let Some(op) = OpCode::from_wire(n) else { continue };
            assert_eq!(op.wire(), n);
            let read = ReadOp::decode(op, &mut Reader::new(&[])).is_some_and(|r| r.is_ok())
                || matches!(ReadOp::decode(op, &mut Reader::new(&[])), Some(Err(_)));
            let write = WriteOp::decode(op, &mut Reader::new(&[])).is_some();
            assert!(!(read && write), "{op:?}");
        }
    }

    #[test]
    fn null_lists_of_set_watches_are_refused() {
        let mut body = Vec::new();
        body.put_i64(1);
        body.put_i32(-1);
        body.put_i32(0);
        body.put_i32(0);
        assert!(ReadOp::decode(OpCode::SetWatches, &mut Reader::new(&body)).unwrap().is_err());
    }
}
