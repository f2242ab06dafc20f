//! One txn as a line of text and as a JSON object; what a filter looks at.

use crate::render;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proto::acl::AclBytes;
use proto::txn::{CreateTxnKind, Record, Txn};
use proto::{Code, Zxid};
use serde_json::{Value, json};
use std::fmt::Write;

/// Which txns to look at. `None` in a field: all.
#[derive(clap::Args, Debug, Clone, Default)]
pub struct Filter {
    /// From this zxid on
    #[arg(long, value_name = "ZXID", value_parser = render::parse_number)]
    pub from: Option<u64>,
    /// Up to this zxid
    #[arg(long, value_name = "ZXID", value_parser = render::parse_number)]
    pub to: Option<u64>,
    /// From this time on (UTC; 2026-11-20T12:03, or ms since 1970)
    #[arg(long, value_name = "TIME", value_parser = render::parse_time)]
    pub since: Option<i64>,
    /// Up to this time
    #[arg(long, value_name = "TIME", value_parser = render::parse_time)]
    pub until: Option<i64>,
    /// Only what touches this znode or one below it
    #[arg(long)]
    pub path: Option<String>,
    /// Only what this session did
    #[arg(long, value_name = "ID", value_parser = render::parse_number)]
    pub session: Option<u64>,
    /// Only these types: create, delete, setData, setACL, multi, createSession, closeSession, error, …
    #[arg(long = "type", value_name = "TYPE", value_delimiter = ',')]
    pub types: Vec<String>,
}

impl Filter {
    /// Whether the txn passes.
    pub fn takes(&self, r: &Record<'_>) -> bool {
        let h = &r.header;
        let zxid = h.zxid.as_u64();
        self.from.is_none_or(|from| zxid >= from)
            && self.to.is_none_or(|to| zxid <= to)
            && self.since.is_none_or(|since| h.time.0 >= since)
            && self.until.is_none_or(|until| h.time.0 <= until)
            && self.session.is_none_or(|s| h.session.0 as u64 == s)
            && (self.types.is_empty() || self.types.iter().any(|t| t.eq_ignore_ascii_case(type_name(&r.txn))))
            && self.path.as_ref().is_none_or(|path| {
                let mut touched = false;
                paths(&r.txn, &mut |p| touched |= is_below(p, path));
                touched
            })
    }

    /// Nothing behind this zxid can pass.
    pub fn ends_before(&self, zxid: Zxid) -> bool {
        self.to.is_some_and(|to| zxid.as_u64() > to)
    }
}

/// Whether `path` is `root` or below it.
pub fn is_below(path: &str, root: &str) -> bool {
    let root = root.trim_end_matches('/');
    path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The name of a txn's type, as in Apache's tools.
pub fn type_name(txn: &Txn<'_>) -> &'static str {
    match txn {
        Txn::Create { kind: CreateTxnKind::Create, .. } => "create",
        Txn::Create { kind: CreateTxnKind::Create2, .. } => "create2",
        Txn::Create { kind: CreateTxnKind::Container, .. } => "createContainer",
        Txn::Create { kind: CreateTxnKind::Ttl(_), .. } => "createTTL",
        Txn::Delete { container: false, .. } => "delete",
        Txn::Delete { container: true, .. } => "deleteContainer",
        Txn::SetData { reconfig: false, .. } => "setData",
        Txn::SetData { reconfig: true, .. } => "reconfig",
        Txn::SetAcl { .. } => "setACL",
        Txn::Check { .. } => "check",
        Txn::CreateSession { .. } => "createSession",
        Txn::CloseSession { .. } => "closeSession",
        Txn::Error { .. } => "error",
        Txn::Multi(_) => "multi",
    }
}

/// Gives each path that a txn touches.
pub fn paths(txn: &Txn<'_>, take: &mut dyn FnMut(&str)) {
    match txn {
        Txn::Create { path, .. }
        | Txn::Delete { path, .. }
        | Txn::SetData { path, .. }
        | Txn::SetAcl { path, .. }
        | Txn::Check { path, .. } => take(path),
        Txn::CloseSession { paths: Some(all) } => all.iter().for_each(|p| take(p)),
        Txn::CloseSession { paths: None } | Txn::CreateSession { .. } | Txn::Error { .. } => {}
        Txn::Multi(txns) => txns.iter().for_each(|t| paths(t, take)),
    }
}

/// One line, with values cut after `data_max` bytes.
pub fn line(r: &Record<'_>, data_max: usize) -> String {
    let h = &r.header;
    format!(
        "{} session {} cxid {:#x} zxid {} {}",
        render::time(h.time.0),
        session(h.session.0),
        h.cxid.0,
        h.zxid,
        details(&r.txn, data_max)
    )
}

fn details(txn: &Txn<'_>, data_max: usize) -> String {
    let mut out = type_name(txn).to_string();
    let _ = match txn {
        Txn::Create { kind, path, data, acl, ephemeral, parent_cversion } => {
            let _ = write!(
                out,
                " {path} {} acl {} parentCVersion {parent_cversion}",
                value(*data, data_max),
                acl_text(acl)
            );
            if *ephemeral {
                out += " ephemeral";
            }
            match kind {
                CreateTxnKind::Ttl(ms) => write!(out, " ttl {ms} ms"),
                CreateTxnKind::Create | CreateTxnKind::Create2 | CreateTxnKind::Container => Ok(()),
            }
        }
        Txn::Delete { path, .. } => write!(out, " {path}"),
        Txn::SetData { path, data, version, .. } => {
            write!(out, " {path} {} version {version}", value(*data, data_max))
        }
        Txn::SetAcl { path, acl, aversion } => {
            write!(out, " {path} acl {} version {aversion}", acl_text(acl))
        }
        Txn::Check { path, version } => write!(out, " {path} version {version}"),
        Txn::CreateSession { timeout_ms } => write!(out, " timeout {timeout_ms} ms"),
        Txn::CloseSession { paths: None } => Ok(()),
        Txn::CloseSession { paths: Some(paths) } => write!(out, " {} ephemerals", paths.len())
            .and_then(|()| paths.iter().try_for_each(|p| write!(out, " {p}"))),
        Txn::Error { code } => write!(out, " {}", error_name(*code)),
        Txn::Multi(txns) => {
            let parts: Vec<String> = txns.iter().map(|t| details(t, data_max)).collect();
            write!(out, " {{ {} }}", parts.join("; "))
        }
    };
    out
}

/// One JSON object. Numbers of 64 bits that programs would round are strings in hexadecimal, as operators know
/// them; values are in base64, null where null.
pub fn json(r: &Record<'_>) -> Value {
    let h = &r.header;
    let mut out = body(&r.txn);
    out["zxid"] = json!(h.zxid.to_string());
    out["session"] = json!(session(h.session.0));
    out["cxid"] = json!(h.cxid.0);
    out["time_ms"] = json!(h.time.0);
    out["time"] = json!(render::time(h.time.0));
    out["digest"] = r.digest.map_or(Value::Null, |d| json!(format!("{:#x}", d.tree)));
    out
}

fn body(txn: &Txn<'_>) -> Value {
    let mut out = match txn {
        Txn::Create { kind, path, data, acl, ephemeral, parent_cversion } => json!({
            "path": path, "data": encoded(*data), "acl": acl_json(acl), "ephemeral": ephemeral,
            "parent_cversion": parent_cversion,
            "ttl_ms": if let CreateTxnKind::Ttl(ms) = kind { json!(ms) } else { Value::Null },
        }),
        Txn::Delete { path, .. } => json!({ "path": path }),
        Txn::SetData { path, data, version, .. } => {
            json!({ "path": path, "data": encoded(*data), "version": version })
        }
        Txn::SetAcl { path, acl, aversion } => {
            json!({ "path": path, "acl": acl_json(acl), "version": aversion })
        }
        Txn::Check { path, version } => json!({ "path": path, "version": version }),
        Txn::CreateSession { timeout_ms } => json!({ "timeout_ms": timeout_ms }),
        Txn::CloseSession { paths } => json!({ "ephemerals": paths }),
        Txn::Error { code } => json!({ "code": code, "error": error_name(*code) }),
        Txn::Multi(txns) => json!({ "txns": txns.iter().map(body).collect::<Vec<_>>() }),
    };
    out["type"] = json!(type_name(txn));
    out
}

/// A value in base64, null where null.
pub fn encoded(data: Option<&[u8]>) -> Value {
    data.map_or(Value::Null, |d| json!(STANDARD.encode(d)))
}

/// An ACL as an array of objects.
pub fn acl_json(acl: &AclBytes<'_>) -> Value {
    acl.entries().map(|e| json!({ "perms": perms(e.perms), "scheme": e.scheme, "id": e.id })).collect()
}

/// An ACL as text: `world:anyone:cdrwa`, several joined by commas.
pub fn acl_text(acl: &AclBytes<'_>) -> String {
    let entry = |e: proto::acl::AclEntry<'_>| {
        format!("{}:{}:{}", e.scheme.unwrap_or_default(), e.id.unwrap_or_default(), perms(e.perms))
    };
    let text: Vec<String> = acl.entries().map(entry).collect();
    text.join(",")
}

fn perms(bits: i32) -> String {
    use proto::acl::perms::{ADMIN, CREATE, DELETE, READ, WRITE};
    let letters = [(CREATE, 'c'), (DELETE, 'd'), (READ, 'r'), (WRITE, 'w'), (ADMIN, 'a')];
    letters.into_iter().filter(|(bit, _)| bits & bit != 0).map(|(_, letter)| letter).collect()
}

/// A value for people: its length, and its beginning where it is text.
pub fn value(data: Option<&[u8]>, max: usize) -> String {
    let Some(data) = data else { return "null".into() };
    let shown = &data[..data.len().min(max)];
    if shown.is_empty() {
        return format!("[{} B]", data.len());
    }
    let more = if shown.len() < data.len() { "…" } else { "" };
    match std::str::from_utf8(shown) {
        Ok(text) if text.chars().all(|c| !c.is_control()) => format!("[{} B] '{text}'{more}", data.len()),
        _ => {
            let hex: String = shown.iter().fold(String::new(), |mut out, b| {
                let _ = write!(out, "{b:02x}");
                out
            });
            format!("[{} B] 0x{hex}{more}", data.len())
        }
    }
}

/// A session id as operators know it.
pub fn session(id: i64) -> String {
    format!("{id:#x}")
}

fn error_name(code: i32) -> String {
    Code::from_wire(code).map_or_else(|| code.to_string(), |c| c.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::acl::OPEN;
    use proto::txn::TxnHeader;
    use proto::{SessionId, WallMs, Xid};

    fn record(txn: Txn<'_>) -> Record<'_> {
        let header = TxnHeader {
            session: SessionId(0x1000),
            cxid: Xid(3),
            zxid: Zxid::from_u64(0x1_0000_0005),
            time: WallMs(1_795_171_782_254),
            kind: txn.kind(),
        };
        Record { header, txn, digest: None }
    }

    fn create(path: &'static str) -> Txn<'static> {
        Txn::Create {
            kind: CreateTxnKind::Create,
            path: path.into(),
            data: Some(b"value"),
            acl: OPEN,
            ephemeral: true,
            parent_cversion: 4,
        }
    }

    #[test]
    fn a_line_holds_what_an_operator_asks_for() {
        assert_eq!(
            line(&record(create("/a/b")), 3),
            "2026-11-20T10:49:42.254Z session 0x1000 cxid 0x3 zxid 0x100000005 create /a/b [5 B] 'val'… \
             acl world:anyone:cdrwa parentCVersion 4 ephemeral"
        );
        let multi = Txn::Multi(vec![Txn::Check { path: "/a".into(), version: 2 }, Txn::Error { code: -101 }]);
        assert!(line(&record(multi), 9).ends_with("multi { check /a version 2; error NoNode (-101) }"));
    }

    #[test]
    fn filters_look_into_multis_and_respect_path_borders() {
        let multi = record(Txn::Multi(vec![create("/app/x")]));
        let by = |path: &str| Filter { path: Some(path.into()), ..Filter::default() };
        assert!(by("/app").takes(&multi) && by("/").takes(&multi) && by("/app/x").takes(&multi));
        assert!(!by("/ap").takes(&multi) && !by("/app/x/y").takes(&multi));
        let typed = Filter { types: vec!["MULTI".into()], ..Filter::default() };
        assert!(typed.takes(&multi) && !typed.takes(&record(create("/a"))));
        let late = Filter { since: Some(1_795_171_782_255), ..Filter::default() };
        assert!(!late.takes(&multi));
        assert!(!Filter { from: Some(0x1_0000_0006), ..Filter::default() }.takes(&multi));
    }

    #[test]
    fn json_keeps_null_apart_from_empty() {
        let set = |data| record(Txn::SetData { path: "/a".into(), data, version: 1, reconfig: false });
        assert_eq!(json(&set(None))["data"], Value::Null);
        assert_eq!(json(&set(Some(b"")))["data"], "");
        assert_eq!(json(&set(Some(b"hi")))["data"], "aGk=");
        assert_eq!(json(&set(None))["zxid"], "0x100000005");
    }
}
