//! Apache's commands: names, aliases, fields.

use super::ensemble;
use super::json::Json;
use super::{Answer, Shared};
use crate::conn::Conn;
use crate::core::Core;
use crate::fourletter;
use crate::json;
use crate::metrics;
use crate::stats::Counter;
use crate::version;
use engine::Identity;
use proto::acl::perms;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// One command.
struct Command {
    /// The primary name, then the aliases.
    names: &'static [&'static str],
    needs: Needs,
    run: Run,
}

/// What has to be there before a command runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    Nothing,
    /// A server that serves.
    Server,
    /// That, and a credential that may do everything to `/`.
    Root,
    /// A server, and the credential of the super user.
    Super,
}

enum Run {
    /// GET, without a server.
    Always(fn(&Shared, &Query, &mut Json)),
    /// GET, of a running server.
    Get(fn(&Core, &mut Json)),
    /// GET, and changes what the server shows. ZooKeeper's does that for whoever asks; here it takes a credential.
    Change(fn(&Core, &Query, &mut Json)),
    /// GET, gives a snapshot.
    Snapshot,
    /// POST, of the directives of the log.
    LogLevel,
    /// POST, takes a snapshot as its body: [`super::restore`] answers it.
    Restore,
}

/// The arguments of a command.
pub type Query = Vec<(String, String)>;

const COMMANDS: [Command; 29] = [
    get(&["configuration", "conf", "config"], configuration),
    change(&["connection_stat_reset", "crst"], |core, _, _| {
        core.conns.all().iter().for_each(|c| c.stats.reset());
    }),
    get(&["connections", "cons"], |core, out| {
        out.put("connections", connections(core, false));
        out.put("secure_connections", Json::List(Vec::new()));
    }),
    get(&["dirs"], |core, out| {
        let (data, log) = core.log.directory_sizes();
        out.put("datadir_size", data);
        out.put("logdir_size", log);
    }),
    get(&["dump"], dump),
    always(&["environment", "env", "envi"], |_, _, out| {
        let mut text = String::new();
        fourletter::envi(&mut text).expect("a String takes everything");
        for (key, value) in text.lines().filter_map(|l| l.split_once('=')) {
            out.put(key, value);
        }
    }),
    always(&["get_trace_mask", "gtmk"], |_, _, out| {
        out.put("tracemask", fourletter::TRACE_MASK.load(Ordering::Relaxed));
    }),
    get(&["hash"], |core, out| {
        let digests = core.tree.digest_log().into_iter().map(|(zxid, digest)| {
            json!({ "zxid": zxid.to_wire(), "digest": digest, "digest_version": proto::txn::DIGEST_VERSION as i64 })
        });
        out.put("digests", digests.collect::<Vec<_>>());
    }),
    Command {
        names: &["initial_configuration", "icfg"],
        needs: Needs::Server,
        run: Run::Always(|shared, _, out| out.put("initial_configuration", shared.configuration.as_str())),
    },
    get(&["is_read_only", "isro"], |core, out| {
        out.put("read_only", core.is_read_only());
    }),
    get(&["last_snapshot", "lsnp"], |core, out| {
        let last = core.log.last_snapshot();
        out.put(
            "zxid",
            last.map_or("ffffffffffffffff".to_owned(), |(zxid, _)| format!("{:x}", zxid.as_u64())),
        );
        out.put("timestamp", last.map_or(-1, |(_, at)| at.0 / 1000));
    }),
    get(&["leader", "lead"], ensemble::leader),
    always(&["monitor", "mntr"], |shared, _, out| {
        out.put("version", format!("{}, built on {}", version::FULL_NUMBER, version::BUILT));
        let Some(core) = shared.core() else { return };
        out.put("server_state", fourletter::mode(&core));
        if let Some(doing) = metrics::peer_state(&core) {
            out.put("peer_state", doing);
        }
        for (key, value) in metrics::monitor(&core) {
            out.put(&key, number(value));
        }
    }),
    change(&["observer_connection_stat_reset", "orst"], |core, _, _| ensemble::reset_observers(core)),
    get(&["observers", "obsr"], ensemble::observers),
    Command { names: &["restore", "rest"], needs: Needs::Root, run: Run::Restore },
    get(&["ruok"], |_, _| {}),
    get(&["server_stats", "srvr"], server_stats),
    change(&["set_trace_mask", "stmk"], |_, query, out| {
        match query.iter().find(|(key, _)| key == "traceMask").map(|(_, v)| (v, v.parse::<i64>())) {
            None => out.put("error", "setTraceMask requires long traceMask argument"),
            Some((_, Ok(mask))) => {
                fourletter::TRACE_MASK.store(mask, Ordering::Relaxed);
                out.put("tracemask", mask);
            }
            Some((text, Err(_))) => {
                out.put("error", format!("setTraceMask requires long traceMask argument, got {text}"));
            }
        }
    }),
    Command { names: &["snapshot", "snap"], needs: Needs::Root, run: Run::Snapshot },
    get(&["stats", "stat"], |core, out| {
        server_stats(core, out);
        out.put("connections", connections(core, true));
        out.put("secure_connections", Json::List(Vec::new()));
    }),
    change(&["stat_reset", "srst"], |core, _, _| core.stats.reset()),
    always(&["system_properties", "sysp"], |shared, _, out| {
        shared.properties.iter().for_each(|(key, value)| out.put(key, value.as_str()));
    }),
    get(&["voting_view"], ensemble::voting_view),
    get(&["watches", "wchc"], |core, out| {
        let sessions = core.tree.watches_by_connection().into_iter().filter_map(|(conn, paths)| {
            let paths: Vec<&str> = paths.iter().map(|p| &**p).collect();
            Some((session_of(core, conn)?.to_string(), Json::from(paths)))
        });
        out.put("session_id_to_watched_paths", Json::Map(sessions.collect()));
    }),
    get(&["watches_by_path", "wchp"], |core, out| {
        let paths = core.tree.watches_by_path().into_iter().map(|(path, conns)| {
            let sessions: Vec<i64> = conns.into_iter().filter_map(|c| session_of(core, c)).collect();
            (path.into_string(), Json::from(sessions))
        });
        out.put("path_to_session_ids", Json::Map(paths.collect()));
    }),
    get(&["watch_summary", "wchs"], |core, out| {
        let w = core.tree.watch_summary();
        out.put("num_connections", w.connections);
        out.put("num_paths", w.paths);
        out.put("num_total_watches", w.watches);
    }),
    always(&["zabstate"], |shared, _, out| ensemble::zab_state(shared.core().as_deref(), out)),
    // Falconer's own.
    Command { names: &["log_level"], needs: Needs::Super, run: Run::LogLevel },
];

const fn get(names: &'static [&'static str], run: fn(&Core, &mut Json)) -> Command {
    Command { names, needs: Needs::Server, run: Run::Get(run) }
}

const fn change(names: &'static [&'static str], run: fn(&Core, &Query, &mut Json)) -> Command {
    Command { names, needs: Needs::Root, run: Run::Change(run) }
}

const fn always(names: &'static [&'static str], run: fn(&Shared, &Query, &mut Json)) -> Command {
    Command { names, needs: Needs::Nothing, run: Run::Always(run) }
}

/// The page of links that stands at the commands' own URL.
pub fn index(url: &str) -> String {
    let mut names: Vec<&str> = COMMANDS.iter().map(|c| c.names[0]).collect();
    names.sort_unstable();
    names.iter().map(|n| format!("<a href=\"{url}/{n}\">{n}</a>\n<br/>\n")).collect()
}

/// Names of all commands, for tests and documents.
pub fn names() -> impl Iterator<Item = &'static [&'static str]> {
    COMMANDS.iter().map(|c| c.names)
}

/// What came with a request for a command.
pub struct Request<'a> {
    /// The last part of the path.
    pub name: &'a str,
    /// Whether it is a POST.
    pub post: bool,
    /// Arguments.
    pub query: &'a Query,
    /// The header `Authorization`.
    pub authorization: Option<&'a str>,
    /// Who asks.
    pub from: IpAddr,
}

/// Runs a command; its answer ends with `command` and `error`, as all of Apache's do.
pub fn run(shared: &Arc<Shared>, request: &Request<'_>) -> Answer {
    let fail = |command: &str, status: u16, error: &str| {
        Answer::json(status, &json!({ "command": command, "error": error }))
    };
    let Some(command) = COMMANDS.iter().find(|c| c.names.contains(&request.name)) else {
        return fail(request.name, 200, &format!("Unknown command: {}", request.name));
    };
    let name = command.names[0];
    if let (Needs::Nothing, Run::Always(run), false) = (command.needs, &command.run, request.post) {
        let mut out = Json::map();
        run(shared, request.query, &mut out);
        return finish(out, name);
    }
    let core = match admit(shared, request) {
        Ok(core) => core,
        Err(refusal) => return refusal,
    };
    let wants_post = matches!(command.run, Run::Restore | Run::LogLevel);
    if wants_post != request.post {
        return fail(name, 405, if wants_post { "the command takes POST" } else { "the command takes GET" });
    }
    let mut out = Json::map();
    match command.run {
        Run::Always(run) => run(shared, request.query, &mut out),
        Run::Get(run) => run(&core, &mut out),
        Run::Change(run) => run(&core, request.query, &mut out),
        Run::Snapshot => return super::snapshot::answer(shared, &core, request.query),
        Run::Restore => return fail(name, 400, "the command takes a snapshot as its body"),
        Run::LogLevel => {
            let wanted = request.query.iter().find(|(key, _)| key == "level").map(|(_, v)| v.as_str());
            match wanted
                .ok_or_else(|| "level= is missing".to_owned())
                .and_then(crate::command::set_log_filter)
            {
                Ok(filter) => out.put("level", filter),
                Err(why) => return fail(name, 400, &why),
            }
        }
    }
    finish(out, name)
}

/// The server, if it is there and the asker may have the command run.
///
/// # Errors
/// The answer that says why not.
pub fn admit(shared: &Arc<Shared>, request: &Request<'_>) -> Result<Arc<Core>, Answer> {
    let Some(command) = COMMANDS.iter().find(|c| c.names.contains(&request.name)) else {
        unreachable!("the caller has found the command")
    };
    let fail = |status: u16, error: &str| {
        Answer::json(status, &json!({ "command": command.names[0], "error": error }))
    };
    let Some(core) = shared.core().filter(|c| c.is_serving()) else {
        return Err(fail(200, "This ZooKeeper instance is not currently serving requests"));
    };
    if matches!(command.needs, Needs::Root | Needs::Super) {
        let Some(credential) = request.authorization else {
            return Err(fail(401, "Auth info is missing for the command"));
        };
        let Some(who) = authenticate(&core, credential, request.from) else {
            core.stats.add(Counter::AuthFailed, 1);
            return Err(fail(401, "Not authenticated"));
        };
        let may = match command.needs {
            Needs::Super => who.is_super(),
            _ => may_do_everything(&core, &who),
        };
        if !may {
            return Err(fail(403, "Not authorized"));
        }
    }
    Ok(core)
}

fn finish(mut out: Json, name: &str) -> Answer {
    // A command's own error stands where it was put.
    let error = out.get("error").cloned();
    out.put("command", name);
    if error.is_none() {
        out.put("error", Json::Null);
    }
    Answer::json(200, &out)
}

/// `<scheme> <credential>`, as Apache's providers read it.
pub fn authenticate(core: &Core, header: &str, from: IpAddr) -> Option<Arc<Identity>> {
    let mut words = header.split(' ');
    let (scheme, credential) = (words.next()?, words.next().unwrap_or_default());
    if words.next().is_some() {
        return None;
    }
    let ids = engine::acl::authenticate(scheme, credential.as_bytes(), from, &core.schemes).ok()?;
    Arc::new(Identity::of_address(from)).gain(ids).ok()
}

fn may_do_everything(core: &Core, who: &Identity) -> bool {
    let all = [perms::READ, perms::WRITE, perms::CREATE, perms::DELETE, perms::ADMIN];
    core.settings.tree.skip_acl
        || core.tree.peek("/", |root| {
            root.is_some_and(|root| all.into_iter().all(|perm| engine::acl::allows(root.acl, perm, who)))
        })
}

fn session_of(core: &Core, conn: proto::ConnId) -> Option<i64> {
    core.conns.get(conn).and_then(|c| c.session().map(|s| s.id.0))
}

fn number(n: metrics::Number) -> Json {
    match n {
        metrics::Number::Int(n) => Json::Int(n),
        metrics::Number::Real(x) => Json::Real(x),
    }
}

fn configuration(core: &Core, out: &mut Json) {
    let s = &core.settings;
    let port = s.client.listen.as_ref().map_or(-1, |l| i64::from(l.port));
    out.put("client_port", core.client_port().map_or(port, i64::from));
    out.put("data_dir", format!("{}/version-2", s.storage.data_dir.display()));
    out.put("data_log_dir", format!("{}/version-2", s.storage.data_log_dir.display()));
    out.put("tick_time", s.sessions.tick_ms);
    out.put("max_client_cnxns", s.client.per_address_max.unwrap_or(0));
    out.put("min_session_timeout", s.sessions.timeout_min_ms);
    out.put("max_session_timeout", s.sessions.timeout_max_ms);
    out.put("server_id", s.my_id.map_or(0, |id| id.0));
    out.put("client_port_listen_backlog", s.client.backlog.map_or(-1, i64::from));
}

fn connections(core: &Core, brief: bool) -> Json {
    let mut all = core.conns.all();
    all.sort_unstable_by_key(|c| c.id.0);
    all.iter().map(|c| connection(c, brief)).collect::<Vec<_>>().into()
}

fn connection(c: &Conn, brief: bool) -> Json {
    let s = &c.stats;
    let load = |a: &std::sync::atomic::AtomicU64| a.load(Ordering::Relaxed);
    let mut out = json!({
        "remote_socket_address": c.peer.to_string(),
        "interest_ops": 1_i64,
        "outstanding_requests": c.gate.lock().gate.len(),
        "packets_received": load(&s.received),
        "packets_sent": load(&s.sent),
    });
    if brief {
        return out;
    }
    let counted = load(&s.counted);
    let session = c.session();
    out.put("session_id", session.map_or(0, |s| s.id.0));
    out.put("last_operation", fourletter::last_op(s.last_op.load(Ordering::Relaxed)));
    out.put("established", s.established_ms.load(Ordering::Relaxed));
    out.put("session_timeout", session.map_or(0, |s| s.timeout_ms));
    out.put("last_cxid", s.last_cxid.load(Ordering::Relaxed));
    out.put("last_zxid", s.last_zxid.load(Ordering::Relaxed));
    out.put("last_response_time", load(&s.last_response_ms));
    out.put("last_latency", load(&s.last_latency_ms));
    out.put("min_latency", if counted == 0 { 0 } else { load(&s.min_latency_ms) });
    out.put("avg_latency", load(&s.total_latency_ms).checked_div(counted).unwrap_or(0));
    out.put("max_latency", load(&s.max_latency_ms));
    out
}

fn dump(core: &Core, out: &mut Json) {
    let mut by_time: Vec<(String, Json)> = Vec::new();
    // Those that this server would end, if it leads or runs alone; ZooKeeper's learners list none.
    let ends = matches!(core.service(), None | Some(node::Service::Leading));
    let mut expiry = if ends { core.with_node(|n| n.session_expiry(true)) } else { Vec::new() };
    if ends {
        expiry.extend(core.with_node(|n| n.session_expiry(false)));
        expiry.sort_unstable_by_key(|&(id, at)| (at, id.0));
    }
    for set in expiry.chunk_by(|a, b| a.1 == b.1) {
        let ids: Vec<i64> = set.iter().map(|(id, _)| id.0).collect();
        by_time.push((core.clock().wall_of(set[0].1).to_string(), ids.into()));
    }
    out.put("expiry_time_to_session_ids", Json::Map(by_time));
    let owned =
        core.tree.ephemerals_by_session().into_iter().map(|(id, paths)| {
            (id.0.to_string(), Json::from(paths.iter().map(|p| &**p).collect::<Vec<&str>>()))
        });
    out.put("session_id_to_ephemeral_paths", Json::Map(owned.collect()));
}

fn server_stats(core: &Core, out: &mut Json) {
    let l = core.stats.latency();
    let (data, log) = core.log.directory_sizes();
    let sizes = core.client_response_sizes();
    let response = json!({
        "last_buffer_size": sizes.last,
        "min_buffer_size": sizes.min,
        "max_buffer_size": sizes.max,
    });
    out.put("version", format!("{}, built on {}", version::FULL_NUMBER, version::BUILT));
    out.put("read_only", core.is_read_only());
    out.put(
        "server_stats",
        json!({
            "packets_sent": core.stats.packets_sent(),
            "packets_received": core.stats.get(Counter::Received),
            "fsync_threshold_exceed_count": core.stats.get(Counter::SlowSyncs),
            "client_response_stats": response.clone(),
            "data_dir_size": data,
            "log_dir_size": log,
            "last_processed_zxid": core.tree.applied().to_wire(),
            "provider_null": false,
            "server_state": fourletter::mode(core),
            "outstanding_requests": core.outstanding(),
            "avg_latency": l.average_ms,
            "max_latency": l.max_ms,
            "min_latency": l.min_ms,
            "num_alive_client_connections": core.conns.count(),
            "uptime": core.uptime_ms(),
            "auth_failed_count": core.stats.get(Counter::AuthFailed),
            "non_mtlsremote_conn_count": 0_i64,
            "non_mtlslocal_conn_count": 0_i64,
        }),
    );
    out.put("client_response", response);
    if core.service() == Some(node::Service::Leading) {
        let size = |n: &std::sync::atomic::AtomicI64| n.load(Ordering::Relaxed);
        let sizes = &core.proposals;
        out.put(
            "proposal_stats",
            json!({
                "last_buffer_size": size(&sizes.last),
                "min_buffer_size": size(&sizes.min),
                "max_buffer_size": size(&sizes.max),
            }),
        );
    }
    out.put("node_count", core.tree.stats().znodes);
}
