//! The audit log: who changed what, in ZooKeeper's form, a line for each change, by the server the client is attached to.
//!
//! ```text
//! session=0x100000000000001  user=127.0.0.1  ip=127.0.0.1  operation=create  znode=/a  znode_type=persistent  result=success
//! ```
//! with tabs between. The lines go to the server's log under the name `audit`, level info. Off by default
//! (`audit.enable`); while it is off a request pays nothing.

use crate::conn::Conn;
use proto::acl::{AclBytes, perms};
use proto::client::{Create, CreateMode, MultiOp, WriteOp, WriteReply};
use proto::txn::{Record, Txn};
use std::fmt::Write;

/// What is remembered of a write until its result is known.
#[derive(Debug)]
pub struct Note {
    operation: &'static str,
    path: Option<Box<str>>,
    znode_type: Option<&'static str>,
    acl: Option<Box<str>>,
    /// The operations of a multi, of which each has a line when all succeed.
    parts: Vec<Note>,
}

impl Note {
    fn new(operation: &'static str, path: Option<&str>) -> Note {
        Note { operation, path: path.map(Into::into), znode_type: None, acl: None, parts: Vec::new() }
    }

    fn create(create: &Create<'_>) -> Note {
        let znode_type = CreateMode::from_flags(create.flags).map_or("unknown", type_of);
        Note { znode_type: Some(znode_type), ..Note::new("create", Some(&create.path)) }
    }

    /// What the audit log will say of a write; `None`: nothing.
    pub fn of(op: &WriteOp<'_>) -> Option<Note> {
        Some(match op {
            WriteOp::Create(create) => Note::create(create),
            WriteOp::Delete { path, .. } => Note::new("delete", Some(path)),
            WriteOp::SetData { path, .. } => Note::new("setData", Some(path)),
            WriteOp::SetAcl { path, acl, .. } => {
                Note { acl: Some(acl_text(*acl).into()), ..Note::new("setAcl", Some(path)) }
            }
            WriteOp::Reconfig { .. } => Note::new("reconfig", None),
            WriteOp::Multi(ops) => {
                let part = |op: &MultiOp<'_>| match op {
                    MultiOp::Create(create) => Some(Note::create(create)),
                    MultiOp::Delete { path, .. } => Some(Note::new("delete", Some(path))),
                    MultiOp::SetData { path, .. } => Some(Note::new("setData", Some(path))),
                    _ => None,
                };
                Note { parts: ops.iter().filter_map(part).collect(), ..Note::new("multiOperation", None) }
            }
            _ => return None,
        })
    }
}

fn type_of(mode: CreateMode) -> &'static str {
    match mode {
        CreateMode::Persistent => "persistent",
        CreateMode::Ephemeral => "ephemeral",
        CreateMode::PersistentSequential => "persistent_sequential",
        CreateMode::EphemeralSequential => "ephemeral_sequential",
        CreateMode::Container => "container",
        CreateMode::Ttl => "persistent_with_ttl",
        CreateMode::TtlSequential => "persistent_sequential_with_ttl",
    }
}

fn acl_text(acl: AclBytes<'_>) -> String {
    let mut out = String::new();
    for entry in acl.entries() {
        let comma = if out.is_empty() { "" } else { "," };
        let (scheme, id) = (entry.scheme.unwrap_or_default(), entry.id.unwrap_or_default());
        let _ = write!(out, "{comma}{scheme}:{id}:");
        let letters = [
            ('c', perms::CREATE),
            ('d', perms::DELETE),
            ('r', perms::READ),
            ('w', perms::WRITE),
            ('a', perms::ADMIN),
        ];
        out.extend(letters.into_iter().filter(|(_, p)| entry.perms & p != 0).map(|(c, _)| c));
    }
    out
}

/// The fields of a line, in ZooKeeper's order; those without a value are left out.
struct Line<'a> {
    session: Option<String>,
    user: &'a str,
    ip: Option<String>,
    operation: &'a str,
    znode: Option<&'a str>,
    znode_type: Option<&'a str>,
    acl: Option<&'a str>,
    result: &'a str,
}

impl Line<'_> {
    fn text(&self) -> String {
        let mut out = String::new();
        for (key, value) in [
            ("session", self.session.as_deref()),
            ("user", Some(self.user)),
            ("ip", self.ip.as_deref()),
            ("operation", Some(self.operation)),
            ("znode", self.znode),
            ("znode_type", self.znode_type),
            ("acl", self.acl),
            ("result", Some(self.result)),
        ] {
            if let Some(value) = value {
                let tab = if out.is_empty() { "" } else { "\t" };
                // A client chooses paths and names: no line of its own making comes out of them.
                let _ = write!(out, "{tab}{key}=");
                out.extend(value.chars().map(|c| if c.is_control() { '?' } else { c }));
            }
        }
        out
    }

    fn log(&self) {
        tracing::info!(target: "audit", "{}", self.text());
    }
}

/// A write of a client is answered.
pub fn answered(conn: &Conn, note: &Note, reply: &WriteReply<'_>) {
    let identity = conn.identity();
    let users: Vec<&str> = identity.ids().iter().map(engine::acl::user_name).collect();
    let users = users.join(",");
    let failed = matches!(reply, WriteReply::Error(_));
    let multi_failed = match reply {
        WriteReply::Multi(results) => {
            results.iter().any(|r| matches!(r, proto::client::MultiResult::Error(_)))
        }
        _ => false,
    };
    // What a create was really called: its sequence is part of it.
    let named = match reply {
        WriteReply::Path(path) | WriteReply::PathStat(path, _) => Some(*path),
        _ => None,
    };
    let line = |note: &Note, named: Option<&str>, result: &str| {
        Line {
            session: conn.session().map(|s| s.id.to_string()),
            user: &users,
            ip: Some(conn.peer.ip().to_canonical().to_string()),
            operation: note.operation,
            znode: named.or(note.path.as_deref()),
            znode_type: note.znode_type,
            acl: note.acl.as_deref(),
            result,
        }
        .log();
    };
    if note.parts.is_empty() || failed || multi_failed {
        line(note, named, if failed || multi_failed { "failure" } else { "success" });
    } else {
        note.parts.iter().for_each(|part| line(part, None, "success"));
    }
}

/// A record is applied: ephemerals that went with their session.
pub fn applied(record: &[u8]) {
    let Ok(Record { header, txn: Txn::CloseSession { paths: Some(paths) }, .. }) = Record::decode(record)
    else {
        return;
    };
    for path in paths {
        Line {
            session: Some(header.session.to_string()),
            user: &server_user(),
            ip: None,
            operation: "ephemeralZNodeDeletionOnSessionCloseOrExpire",
            znode: Some(&path),
            znode_type: None,
            acl: None,
            result: "success",
        }
        .log();
    }
}

/// The server has started, or stops.
pub fn server(operation: &str, result: &str) {
    let user = server_user();
    let (session, ip, znode, znode_type, acl) = (None, None, None, None, None);
    Line { session, user: &user, ip, operation, znode, znode_type, acl, result }.log();
}

fn server_user() -> String {
    std::env::var("USER").unwrap_or_else(|_| "falconer".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_zookeepers_fields_in_its_order_and_nothing_breaks_it() {
        let line = Line {
            session: Some("0x1".into()),
            user: "bob",
            ip: Some("127.0.0.1".into()),
            operation: "create",
            znode: Some("/a\tresult=success\nx"),
            znode_type: Some("ephemeral"),
            acl: None,
            result: "failure",
        };
        assert_eq!(
            line.text(),
            "session=0x1\tuser=bob\tip=127.0.0.1\toperation=create\tznode=/a?result=success?x\tznode_type=ephemeral\t\
             result=failure"
        );
    }
}
