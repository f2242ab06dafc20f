//! What the page asks for: the last seconds, who is there, and the tree, as far as the asker may read it.

use super::commands::{Query, authenticate};
use super::json::Json;
use super::{Answer, Shared};
use crate::accounting;
use crate::core::Core;
use crate::history::{Sample, Spread};
use crate::json;
use crate::limits;
use crate::metrics::Process;
use crate::stats::{Counter, Measure, OPS};
use crate::version;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use engine::Identity;
use node::stage::Stage;
use proto::acl::AclBytes;
use proto::jute::Reader;
use proto::{Code, Stat};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Answers one request of the page.
pub fn answer(
    shared: &Shared,
    path: &str,
    query: &Query,
    authorization: Option<&str>,
    from: IpAddr,
) -> Answer {
    let Some(core) = shared.core() else {
        return Answer::compact(503, &json!({ "recovering": shared.progress.report() }));
    };
    let argument = |name: &str| query.iter().find(|(k, _)| k == name).map_or("", |(_, v)| v.as_str());
    if path == "/api/live" {
        return Answer::compact(200, &live(&core, argument("since").parse().unwrap_or(0)));
    }
    // What a client of this address could read, or one with this credential.
    let who = match authorization {
        None => Some(Arc::new(Identity::of_address(from))),
        Some(credential) => authenticate(&core, credential, from),
    };
    let Some(who) = who else {
        return Answer::compact(401, &json!({ "error": "not authenticated" }));
    };
    let shown = argument("path");
    let found = match path {
        "/api/children" => {
            let limit = argument("limit").parse().unwrap_or(100_usize).clamp(1, limits::CHILD_PAGE);
            children(&core, &who, shown, argument("after"), argument("prefix"), limit)
        }
        _ => node(&core, &who, shown),
    };
    match found {
        Ok(found) => Answer::compact(200, &found),
        Err(Code::NoNode) => Answer::compact(404, &json!({ "error": "there is no such znode" })),
        Err(Code::NoAuth) => Answer::compact(403, &json!({ "error": "its ACL does not let you read it" })),
        Err(e) => Answer::compact(400, &json!({ "error": format!("{e:?}") })),
    }
}

fn children(
    core: &Core,
    who: &Identity,
    path: &str,
    after: &str,
    prefix: &str,
    limit: usize,
) -> Result<Json, Code> {
    let page = core.tree.child_page(path, who, after, prefix, limit)?;
    let base = if path == "/" { "" } else { path };
    let rows = page.names.iter().map(|name| {
        // `exists` shows this to everybody.
        let (children, bytes, ephemeral) = core.tree.peek(&format!("{base}/{name}"), |n| {
            n.map_or((0, 0, false), |n| {
                (n.children, n.data.map_or(0, <[u8]>::len), n.stat.ephemeral_owner != 0)
            })
        });
        json!({ "name": &**name, "children": children, "bytes": bytes, "owned": ephemeral })
    });
    let rows: Vec<Json> = rows.collect();
    Ok(json!({ "path": path, "total": page.total, "more": page.more, "children": rows }))
}

fn node(core: &Core, who: &Identity, path: &str) -> Result<Json, Code> {
    let page = core.tree.node_page(path, who, limits::SHOWN_VALUE_BYTES)?;
    let mut out = json!({ "path": path, "stat": stat(&page.stat) });
    if let Some(acl) = &page.acl
        && let Ok(list) = AclBytes::decode(&mut Reader::new(acl))
    {
        let entries = list.entries().map(|e| {
            let scheme = e.scheme.unwrap_or_default().into_owned();
            json!({ "scheme": scheme, "id": e.id.unwrap_or_default().into_owned(), "perms": e.perms })
        });
        out.put("acl", entries.collect::<Vec<Json>>());
    }
    match &page.data {
        None => out.put("unreadable", true),
        Some(data) => {
            out.put("base64", BASE64_STANDARD.encode(data));
            out.put("cut", (page.stat.data_length as usize) > data.len());
        }
    }
    Ok(out)
}

fn stat(s: &Stat) -> Json {
    json!({
        "czxid": format!("{:#x}", s.czxid),
        "mzxid": format!("{:#x}", s.mzxid),
        "pzxid": format!("{:#x}", s.pzxid),
        "ctime": s.ctime,
        "mtime": s.mtime,
        "version": s.version,
        "cversion": s.cversion,
        "aversion": s.aversion,
        "ephemeralOwner": format!("{:#x}", s.ephemeral_owner),
        "dataLength": s.data_length,
        "numChildren": s.num_children,
    })
}

fn spread(s: &Spread) -> Json {
    // µs are fine enough to be drawn.
    let us = |ns: u64| Json::from(ns / 1000);
    Json::List(vec![
        s.count.into(),
        Json::Real((s.mean / 10.0).round() / 100.0),
        us(s.p50),
        us(s.p99),
        us(s.max),
    ])
}

fn sample(s: &Sample) -> Json {
    json!({
        "n": s.number,
        "at": s.at.0,
        "s": s.seconds,
        "req": s.requests.iter().map(spread).collect::<Vec<_>>(),
        "stages": s.stages.iter().map(spread).collect::<Vec<_>>(),
        "sync": spread(&s.sync),
        "batch": s.batch,
        "conns": s.connections,
        "out": s.outstanding,
        "events": s.events,
        "errors": s.errors,
        "in": s.received_bytes,
        "cores": s.cores,
    })
}

fn live(core: &Core, since: u64) -> Json {
    let tree = core.tree.stats();
    let process = Process::read();
    let latency = core.stats.latency();
    let mut out = json!({
        "version": version::FULL_NUMBER,
        "state": crate::fourletter::mode(core),
        "serving": core.is_serving(),
        "zxid": format!("{:#x}", core.tree.applied().as_u64()),
        "uptime_ms": core.uptime_ms(),
        "client_port": core.client_port().map(u32::from),
        "stages": Stage::ALL.iter().map(|s| s.name()).collect::<Vec<_>>(),
        "backend": core.log.backend(),
        "znodes": tree.znodes,
        "ephemerals": tree.ephemerals,
        "data_bytes": tree.data_bytes,
        "sessions": tree.sessions,
        "watches": tree.watches,
        "resident": process.resident,
        "descriptors": process.descriptors,
        "max_latency_ms": latency.max_ms,
        "log_bytes": core.stats.get(Counter::LogBytes),
        "snapshots": core.stats.measured(Measure::Snapshot).count(),
        "disk": core.history.disk(),
        "warnings": warnings(core, &process),
    });
    out.put("members", super::ensemble::members(core));
    if let Some((zxid, at)) = core.log.last_snapshot() {
        out.put("last_snapshot", json!({ "zxid": format!("{:#x}", zxid.as_u64()), "at": at.0 }));
    }
    let operations =
        OPS.iter().map(|&op| (format!("{op:?}"), core.stats.operations(op))).filter(|(_, n)| *n > 0);
    out.put("operations", Json::Map(operations.map(|(op, n)| (op, n.into())).collect()));
    usage(core, tree.watches, &mut out);
    let slow = core.requests.recent();
    let slow = slow.iter().rev().take(limits::TOP * 2).map(|r| {
        let stages = r.stages.iter().map(|(s, ns)| (s.name().to_owned(), Json::Real(*ns as f64 / 1e6)));
        json!({
            "at": r.at.0,
            "op": r.op.map_or("reads".to_owned(), |op| format!("{op:?}")),
            "path": r.path.clone(),
            "peer": r.peer.as_str(),
            "session": format!("{:#x}", r.session),
            "ms": r.total_ns as f64 / 1e6,
            "stages": Json::Map(stages.collect()),
        })
    });
    out.put("slow", slow.collect::<Vec<_>>());
    // Since the start: the samples have the last minutes.
    let stages =
        Stage::ALL.iter().map(|s| (s.name().to_owned(), spread(&Spread::of(&core.stats.staged(*s)))));
    out.put("stage_times", Json::Map(stages.collect()));
    out.put("log_full", core.is_log_full());
    out.put("slow_total", core.stats.get(Counter::Slow));
    out.put("samples", core.history.since(since).iter().map(sample).collect::<Vec<_>>());
    out
}

/// More watches than this are not sorted by path for a page.
const WATCHES_SORTED: u64 = 200_000;

fn usage(core: &Core, watches: u64, out: &mut Json) {
    let by_top = if watches <= WATCHES_SORTED { core.tree.watches_by_top() } else { BTreeMap::new() };
    let waiting = accounting::outstanding(core);
    let namespaces = core.namespaces.top(limits::TOP).into_iter().map(|(name, u)| {
        let outstanding = waiting.get(&name).copied().unwrap_or(0);
        let watches = by_top.get(name.as_str()).copied();
        json!({
            "name": name,
            "requests": u.requests,
            "error": u.error,
            "reads": u.reads.count(),
            "writes": u.writes.count(),
            "bytes": u.reads.sum + u.writes.sum,
            "outstanding": outstanding,
            "watches": watches,
        })
    });
    out.put("namespaces", namespaces.collect::<Vec<_>>());
    let (sessions, addresses) = accounting::clients(core, limits::TOP);
    let used = |u: &accounting::ClientUse| {
        json!({
            "connections": u.connections,
            "requests": u.requests,
            "in": u.received_bytes,
            "out": u.sent_bytes,
            "outstanding": u.outstanding,
            "watches": u.watches,
        })
    };
    let addresses = addresses.iter().map(|(ip, u)| {
        let mut row = used(u);
        row.put("address", ip.to_canonical().to_string());
        row
    });
    out.put("clients", addresses.collect::<Vec<_>>());
    let sessions = sessions.iter().map(|s| {
        let mut row = used(&s.used);
        row.put("address", s.conn.peer.to_string());
        row.put("session", s.conn.session().map_or("-".to_owned(), |s| s.id.to_string()));
        row.put("timeout_ms", s.conn.session().map_or(0, |s| s.timeout_ms));
        row.put("latency_ms", s.conn.stats.last_latency_ms.load(Ordering::Relaxed));
        row
    });
    out.put("top_sessions", sessions.collect::<Vec<_>>());
    let summary = (watches <= WATCHES_SORTED).then(|| core.tree.watch_summary());
    if let Some(w) = summary {
        out.put("watching", json!({ "connections": w.connections, "paths": w.paths, "watches": w.watches }));
    }
}

/// What an operator should look after, in a line each.
fn warnings(core: &Core, process: &Process) -> Vec<String> {
    let mut out = Vec::new();
    if core.is_log_full() {
        out.push("writes are refused: the log's disk is full".to_owned());
    }
    if let Some(why) = core.stuck() {
        out.push(why);
    }
    if core.tree.digest_mismatches() > 0 {
        out.push(format!(
            "{} digests did not fit: compare this server's state with a backup",
            core.tree.digest_mismatches()
        ));
    }
    out.extend(core.unready().map(str::to_owned));
    let slow = core.stats.get(Counter::SlowSyncs);
    if slow > 0 {
        out.push(format!("durable writes over fsync.warningthresholdms: {slow}; is the disk shared?"));
    }
    let errors = core.stats.get(Counter::SnapshotErrors);
    if errors > 0 {
        out.push(format!("{errors} snapshots could not be written: see the log"));
    }
    let rejected = core.stats.get(Counter::Rejected);
    if rejected > 0 {
        out.push(format!("connections were refused: {rejected}; maxClientCnxns, maxCnxns or open files"));
    }
    if process.descriptors * 10 > process.descriptors_max * 8 && process.descriptors_max > 0 {
        out.push(format!("{} of {} file descriptors are open", process.descriptors, process.descriptors_max));
    }
    let hour_ago = crate::core::wall_now().0 - 3_600_000;
    out.extend(core.history.stalls().into_iter().filter(|s| s.at.0 > hour_ago).map(|s| s.text));
    out
}
