//! What clients ask for, owned, with its bytes on the wire.

use proto::client::{CreateMode, OpCode, put_multi_end, put_multi_header};
use proto::jute::{Put, begin_frame, end_frame};
use proto::{Xid, acl};

/// A request of a client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// create or create2 (`stat`), or createContainer if the mode says so.
    Create {
        /// The path; a sequential one gets its number appended.
        path: String,
        /// The value.
        data: Vec<u8>,
        /// The kind of znode.
        mode: CreateMode,
        /// create2: the reply bears the stat.
        stat: bool,
    },
    /// delete.
    Delete {
        /// The znode.
        path: String,
        /// Expected version, −1 for any.
        version: i32,
    },
    /// setData.
    Set {
        /// The znode.
        path: String,
        /// The value.
        data: Vec<u8>,
        /// Expected version, −1 for any.
        version: i32,
    },
    /// check; inside a multi only.
    Check {
        /// The znode.
        path: String,
        /// Expected version, −1 for any.
        version: i32,
    },
    /// multi of creates, deletes, sets and checks.
    Multi(Vec<Op>),
    /// exists.
    Exists {
        /// The znode.
        path: String,
        /// A watch is left.
        watch: bool,
    },
    /// getData.
    Get {
        /// The znode.
        path: String,
        /// A watch is left.
        watch: bool,
    },
    /// getChildren2.
    Children {
        /// The znode.
        path: String,
        /// A watch is left.
        watch: bool,
    },
    /// sync.
    Sync {
        /// Echoed.
        path: String,
    },
    /// A ping.
    Ping,
    /// setWatches, as a client sends it after it has reconnected.
    SetWatches {
        /// The last zxid that the client has seen.
        since: i64,
        /// Data watches, watches on what did not exist, child watches.
        lists: [Vec<String>; 3],
    },
    /// closeSession.
    Close,
}

impl Op {
    /// Its code on the wire.
    pub fn code(&self) -> OpCode {
        match self {
            Op::Create { mode: CreateMode::Container, .. } => OpCode::CreateContainer,
            Op::Create { stat: true, .. } => OpCode::Create2,
            Op::Create { .. } => OpCode::Create,
            Op::Delete { .. } => OpCode::Delete,
            Op::Set { .. } => OpCode::SetData,
            Op::Check { .. } => OpCode::Check,
            Op::Multi(_) => OpCode::Multi,
            Op::Exists { .. } => OpCode::Exists,
            Op::Get { .. } => OpCode::GetData,
            Op::Children { .. } => OpCode::GetChildren2,
            Op::Sync { .. } => OpCode::Sync,
            Op::Ping => OpCode::Ping,
            Op::SetWatches { .. } => OpCode::SetWatches,
            Op::Close => OpCode::CloseSession,
        }
    }

    /// Whether it takes a zxid.
    pub fn is_write(&self) -> bool {
        matches!(self, Op::Create { .. } | Op::Delete { .. } | Op::Set { .. } | Op::Multi(_) | Op::Close)
    }

    /// Whether it is answered from the tree of one server.
    pub fn is_read(&self) -> bool {
        matches!(self, Op::Exists { .. } | Op::Get { .. } | Op::Children { .. })
    }

    /// Whether it makes an ephemeral, or would: what makes a local session global where that may be.
    pub fn wants_ephemeral(&self) -> bool {
        match self {
            Op::Multi(ops) => ops.iter().any(Op::wants_ephemeral),
            Op::Create { mode, .. } => mode.is_ephemeral(),
            _ => false,
        }
    }

    /// The whole frame.
    pub fn frame(&self, xid: Xid) -> Vec<u8> {
        let mut out = Vec::with_capacity(96);
        let at = begin_frame(&mut out);
        out.put_i32(xid.0);
        out.put_i32(self.code().wire());
        self.body(&mut out);
        end_frame(&mut out, at);
        out
    }

    fn body(&self, out: &mut Vec<u8>) {
        match self {
            Op::Create { path, data, mode, .. } => {
                out.put_str(path);
                out.put_buffer(Some(data));
                out.extend_from_slice(acl::OPEN.as_bytes());
                out.put_i32(mode.flags());
            }
            Op::Delete { path, version } | Op::Check { path, version } => {
                out.put_str(path);
                out.put_i32(*version);
            }
            Op::Set { path, data, version } => {
                out.put_str(path);
                out.put_buffer(Some(data));
                out.put_i32(*version);
            }
            Op::Multi(ops) => {
                for op in ops {
                    put_multi_header(out, op.code().wire(), -1);
                    op.body(out);
                }
                put_multi_end(out);
            }
            Op::Exists { path, watch } | Op::Get { path, watch } | Op::Children { path, watch } => {
                out.put_str(path);
                out.put_bool(*watch);
            }
            Op::Sync { path } => out.put_str(path),
            Op::SetWatches { since, lists } => {
                out.put_i64(*since);
                for list in lists {
                    out.put_count(list.len());
                    list.iter().for_each(|p| out.put_str(p));
                }
            }
            Op::Ping | Op::Close => {}
        }
    }
}
