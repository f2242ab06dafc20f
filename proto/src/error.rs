//! The error codes of the client protocol.

use core::fmt;

/// What a client is told when a request fails. Closed: an unknown code makes the Java client throw, so
/// nothing else may reach the wire (client protocol, section 5).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(i32)]
pub enum Code {
    /// An operation of a failed multi behind the one that failed.
    RuntimeInconsistency = -2,
    /// The body could not be decoded.
    MarshallingError = -5,
    /// Unknown operation, or one that this configuration lacks.
    Unimplemented = -6,
    /// A bad path, flag or time to live.
    BadArguments = -8,
    /// A new configuration without a connected, synced quorum.
    NewConfigNoQuorum = -13,
    /// A reconfiguration while another is pending.
    ReconfigInProgress = -14,
    /// The znode, or its parent, does not exist.
    NoNode = -101,
    /// The ACL refuses.
    NoAuth = -102,
    /// The version is not the expected one.
    BadVersion = -103,
    /// A child below an ephemeral.
    NoChildrenForEphemerals = -108,
    /// The znode exists already.
    NodeExists = -110,
    /// A znode with children can't be deleted.
    NotEmpty = -111,
    /// The session is closing or unknown.
    SessionExpired = -112,
    /// The ACL is malformed.
    InvalidAcl = -114,
    /// Authentication failed.
    AuthFailed = -115,
    /// The session has moved to another server. Closes the connection instead of reaching the wire.
    SessionMoved = -118,
    /// A write to a read-only server.
    NotReadOnly = -119,
    /// An ephemeral on a local session that may not be upgraded.
    EphemeralOnLocalSession = -120,
    /// No such watch.
    NoWatcher = -121,
    /// Reconfiguration is disabled.
    ReconfigDisabled = -123,
    /// SASL authentication is required and missing.
    SessionClosedRequireSaslAuth = -124,
    /// A hard quota is exceeded.
    QuotaExceeded = -125,
    /// The request waited too long in the throttle.
    ThrottledOp = -127,
}

impl Code {
    /// The number on the wire and in an error txn.
    pub const fn wire(self) -> i32 {
        self as i32
    }

    /// The code of a number read from a log or a wire.
    pub const fn from_wire(v: i32) -> Option<Code> {
        Some(match v {
            -2 => Code::RuntimeInconsistency,
            -5 => Code::MarshallingError,
            -6 => Code::Unimplemented,
            -8 => Code::BadArguments,
            -13 => Code::NewConfigNoQuorum,
            -14 => Code::ReconfigInProgress,
            -101 => Code::NoNode,
            -102 => Code::NoAuth,
            -103 => Code::BadVersion,
            -108 => Code::NoChildrenForEphemerals,
            -110 => Code::NodeExists,
            -111 => Code::NotEmpty,
            -112 => Code::SessionExpired,
            -114 => Code::InvalidAcl,
            -115 => Code::AuthFailed,
            -118 => Code::SessionMoved,
            -119 => Code::NotReadOnly,
            -120 => Code::EphemeralOnLocalSession,
            -121 => Code::NoWatcher,
            -123 => Code::ReconfigDisabled,
            -124 => Code::SessionClosedRequireSaslAuth,
            -125 => Code::QuotaExceeded,
            -127 => Code::ThrottledOp,
            _ => return None,
        })
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?} ({})", self.wire())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_agree() {
        for n in -200..200 {
            if let Some(c) = Code::from_wire(n) {
                assert_eq!(c.wire(), n);
            }
        }
        assert_eq!(Code::from_wire(-101), Some(Code::NoNode));
        assert_eq!(Code::from_wire(0), None);
    }
}
