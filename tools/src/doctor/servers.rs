//! Running servers, each and together, by their four-letter words and their admin ports; and whether members can be reached.

use super::{Examination, Level};
use crate::ask::{PATIENCE, Serving, State, View, connect, words};
use config::Member;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::ToSocketAddrs;

/// Requests that wait, beyond which something is slow.
const OUTSTANDING_MANY: u64 = 100;
/// A mean latency, in ms, that no healthy disk causes.
const LATENCY_SLOW_MS: f64 = 50.0;
/// A mean time of a durable write, in ms, beyond which the disk is slow or shared.
const SYNC_SLOW_MS: f64 = 20.0;
/// Transactions that a server may lag behind another: they are asked one after the other, under load.
const LAG_FEW: u64 = 10_000;

/// Whether each member has an address and takes a connection for elections.
pub fn peers(e: &mut Examination, members: &[Member], my_id: Option<i64>) {
    if members.len() < 2 {
        return;
    }
    let reached: Vec<_> = std::thread::scope(|scope| {
        let tried: Vec<_> = members
            .iter()
            .filter(|m| Some(m.id.0) != my_id)
            .flat_map(|m| m.addresses.iter().map(move |a| (m.id, format!("{}:{}", a.host, a.election_port))))
            .map(|(id, address)| {
                let to = address.clone();
                (
                    id,
                    address,
                    scope.spawn(move || (to.to_socket_addrs().is_ok(), connect(&to, PATIENCE).map(drop))),
                )
            })
            .collect();
        tried.into_iter().filter_map(|(id, address, t)| Some((id, address, t.join().ok()?))).collect()
    });
    for (id, address, (resolves, connected)) in reached {
        let about = format!("server.{id}");
        match connected {
            Ok(()) => e.fine("peer-reachable", &about, format!("{address} takes connections")),
            Err(err) if !resolves => {
                let what = format!("{address} has no address: {err}");
                e.problem(
                    "peer-reachable",
                    &about,
                    what,
                    "fix the name in the configuration or in DNS; in Kubernetes, publishNotReadyAddresses",
                );
            }
            Err(err) => {
                let what = format!("{address} takes no connection: {}", words(&err));
                e.warn(
                    "peer-reachable",
                    &about,
                    what,
                    "start that server, or open its election and quorum ports in the firewall",
                );
            }
        }
    }
}

/// Looks at servers. `expected`: somebody said that they run, so that one that does not is a problem.
pub fn check(e: &mut Examination, views: &[View], expected: bool) {
    for view in views {
        one(e, view, expected);
    }
    together(e, views);
}

fn one(e: &mut Examination, view: &View, expected: bool) {
    let about = view.address.as_str();
    let s = match &view.state {
        State::Serving(s) => s,
        State::Down(why) => {
            let level = if expected { Level::Problem } else { Level::Note };
            let fix = "start it; its log says why it ended (journalctl -u falconer, or zkServer.sh status)";
            e.add(level, "server-up", about, format!("no server answers: {why}"), fix);
            return;
        }
        State::NotServing(doing) => {
            let doing = doing.as_deref().unwrap_or("it has no leader, or is recovering");
            let what = format!("it serves nobody: {doing}");
            e.problem(
                "server-up",
                about,
                what,
                "more than half of the voters must run and reach each other on the election and quorum ports",
            );
            return;
        }
        State::Strange(text) => {
            let what = format!("it does not answer srvr as ZooKeeper does: {text:?}");
            e.problem("server-up", about, what, "is this the client port? srvr is always answered there");
            return;
        }
    };
    e.fine("server-up", about, format!("it serves as {}", s.mode));
    if s.monitor.is_empty() {
        let fix = "4lw.commands.whitelist=srvr, mntr, conf lets status and doctor see more, and so does its admin port (--admin)";
        e.note("monitoring", about, "it does not answer mntr, and its admin port is not reached".into(), fix);
    }
    if let Some(live) = &s.live {
        page(e, about, live);
    }
    if s.mode == "read-only" {
        let what = "it is read-only: it can't reach its quorum".into();
        e.problem("read-only", about, what, "bring back more than half of the voters");
    }
    if s.outstanding > OUTSTANDING_MANY {
        let what = format!("{} requests wait for their answer", s.outstanding);
        e.warn(
            "outstanding",
            about,
            what,
            "the disk, a peer or the processor is slow: falconer status --watch shows which",
        );
    }
    if s.latency_ms.1 > LATENCY_SLOW_MS {
        let what = format!("a request takes {} ms in the mean, {} at most", s.latency_ms.1, s.latency_ms.2);
        e.warn(
            "latency",
            about,
            what,
            "falconer disk DIR measures the log's disk; srst begins the figures anew",
        );
    }
    numbers(e, about, s);
}

/// What a Falconer tells on its admin port.
fn page(e: &mut Examination, about: &str, live: &Value) {
    match live["backend"].as_str() {
        Some("uring") => e.fine("log-backend", about, "the log is written through io_uring".into()),
        Some("pwritev2") => e.note(
            "log-backend",
            about,
            "the log is written by pwritev2: io_uring is refused, or was not asked for".into(),
            "the same guarantees, somewhat slower under load; in a container a seccomp profile that allows io_uring, on the host \
             kernel.io_uring_disabled=0",
        ),
        Some(other) => e.warn(
            "log-backend",
            about,
            format!("the log is written {other}: direct writes are refused where it lies"),
            "dataLogDir on a file system of a local disk (ext4, xfs); falconer disk DIR tells what it would get there",
        ),
        None => {}
    }
    if live["log_full"] == true {
        let what = "writes are refused: the log's disk is full".into();
        e.problem(
            "log-full",
            about,
            what,
            "make room on it: old snapshots and logs, or what else lies there",
        );
    }
    for warning in live["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if HAVE_CHECKS.iter().any(|own| warning.contains(own)) {
            continue;
        }
        e.note("warnings", about, warning.to_owned(), "its log, and the page on its admin port, tell more");
    }
}

/// Words of warnings on a server's page which checks here say with a remedy of their own.
const HAVE_CHECKS: [&str; 4] =
    ["writes are refused", "connections were refused", "digests did not fit", "file descriptors are open"];

fn numbers(e: &mut Examination, about: &str, s: &Serving) {
    let get = |key| s.number(key);
    if let (Some(open), Some(max)) = (get("open_file_descriptor_count"), get("max_file_descriptor_count")) {
        let text = format!("{open} of {max} descriptors are in use");
        if max > 0.0 && open > 0.8 * max {
            e.warn(
                "descriptors-used",
                about,
                text,
                "raise LimitNOFILE, or find the client that leaks connections (cons)",
            );
        } else {
            e.fine("descriptors-used", about, text);
        }
    }
    if let Some(ms) = get("avg_fsynctime").filter(|ms| *ms > SYNC_SLOW_MS) {
        let what = format!("a durable write takes {ms} ms in the mean");
        e.warn("slow-disk", about, what, "a disk of its own for dataLogDir; falconer disk DIR measures it");
    }
    if let Some(n) = get("digest_mismatches_count").filter(|n| *n > 0.0) {
        let what = format!("its state differed from what was logged, {n} times");
        e.problem(
            "digest",
            about,
            what,
            "compare snapshots of the servers (falconer snapshot diff), and keep them",
        );
    }
    for (key, check, what, fix) in [
        (
            "large_requests_rejected",
            "large-requests",
            "requests were refused as too large",
            "find who sends them; jute.maxbuffer is the limit",
        ),
        (
            "connection_rejected",
            "connections-refused",
            "connections were refused",
            "a client leaks them, or maxClientCnxns is too low for what lives behind one address",
        ),
        ("unrecoverable_error_count", "errors", "unrecoverable errors were met", "read its log"),
    ] {
        if let Some(n) = get(key).filter(|n| *n > 0.0) {
            e.note(check, about, format!("{what}: {n}"), fix);
        }
    }
}

fn together(e: &mut Examination, views: &[View]) {
    let serving: Vec<(&str, &Serving)> =
        views.iter().filter_map(|v| Some((v.address.as_str(), v.serving()?))).collect();
    if serving.len() < 2 {
        return;
    }
    let about = "the ensemble";
    let alone = serving.iter().filter(|(_, s)| s.mode == "standalone").count();
    let leaders: Vec<_> = serving.iter().filter(|(_, s)| s.mode == "leader").map(|(a, _)| *a).collect();
    if alone > 0 {
        let what =
            format!("{alone} of these {} servers run alone: they know nothing of the others", serving.len());
        e.problem("standalone", about, what, "the same server lines belong into the configuration of each");
    } else if leaders.len() == 1 {
        e.fine("one-leader", about, format!("{} leads", leaders[0]));
    } else if leaders.is_empty() {
        e.problem(
            "one-leader",
            about,
            "nobody of them leads".into(),
            "the leader is not among them, or an election goes on",
        );
    } else {
        let what = format!("{} say that they lead", leaders.join(" and "));
        e.problem(
            "one-leader",
            about,
            what,
            "are these one ensemble? else one of them will step down within syncLimit",
        );
    }
    let mut ids: BTreeMap<u64, &str> = BTreeMap::new();
    for (address, id) in serving.iter().filter_map(|(a, s)| Some((*a, s.id()?))) {
        if let Some(other) = ids.insert(id, address).filter(|_| alone == 0) {
            let what = format!("{other} and {address} both have the id {id}");
            e.problem(
                "duplicate-myid",
                about,
                what,
                "each server needs a myid of its own; session ids depend on it",
            );
        }
    }
    let newest = serving.iter().map(|(_, s)| s.zxid).max().unwrap_or(0);
    for (address, s) in serving.iter().filter(|_| alone == 0) {
        let same_epoch = s.zxid >> 32 == newest >> 32;
        let lag = newest - s.zxid;
        if !same_epoch || lag > LAG_FEW {
            let what = match same_epoch {
                true => format!("it is {lag} transactions behind"),
                false => format!("it is at {:#x}, an epoch behind {newest:#x}", s.zxid),
            };
            e.warn("lag", address, what, "its disk or its network is slower than the others'");
        }
    }
    let versions: std::collections::BTreeSet<&str> =
        serving.iter().map(|(_, s)| s.version.as_str()).collect();
    if versions.len() > 1 {
        let what = format!("several versions run: {}", versions.into_iter().collect::<Vec<_>>().join(", "));
        e.note("versions", about, what, "fine during an upgrade, not for good");
    }
}
