//! The admin interface as its clients see it: commands, metrics, health, and what it refuses.

mod support;

use proto::Zxid;
use proto::acl::perms;
use proto::client::OpCode;
use proto::jute::Put;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use support::*;

const ADMIN: &str = "admin.serverPort=0";

/// A credential that may do everything to `/` as long as its ACL is the open one of the start.
const ANYBODY: &str = "Authorization: digest a:b";

/// The lists of Apache's metrics that a server alone shows.
const GAUGES: &str = "avg_latency min_latency max_latency packets_received packets_sent num_alive_connections \
    outstanding_requests uptime znode_count watch_count ephemerals_count approximate_data_size global_sessions \
    local_sessions open_file_descriptor_count max_file_descriptor_count connection_drop_probability \
    last_client_response_size max_client_response_size min_client_response_size outstanding_tls_handshake \
    auth_failed_count non_mtls_remote_conn_count non_mtls_local_conn_count";
const COUNTERS: &str = "bytes_received_count response_bytes watch_bytes commit_count proposal_count diff_count \
    snap_count looking_count revalidate_count connection_request_count connection_rejected connection_drop_count \
    connection_revalidate_count sessionless_connections_expired stale_sessions_expired stale_requests \
    stale_requests_dropped stale_replies request_throttle_wait_count throttled_ops large_requests_rejected \
    digest_mismatches_count unrecoverable_error_count outstanding_changes_queued outstanding_changes_removed \
    prep_processor_request_queued sync_processor_request_queued request_commit_queued \
    requests_not_forwarded_to_commit_processor skip_learner_request_to_next_processor_count \
    learner_proposal_received_count learner_commit_received_count quit_leading_due_to_disloyal_voter \
    response_packet_cache_hits response_packet_cache_misses response_packet_get_children_cache_hits \
    response_packet_get_children_cache_misses ensemble_auth_success ensemble_auth_fail ensemble_auth_skip \
    dead_watchers_queued dead_watchers_cleared add_dead_watcher_stall_time unsuccessful_handshake \
    tls_handshake_exceeded insecure_admin_count cnxn_closed_without_zk_server_running snapshot_error_count \
    snapshot_rate_limited_count restore_error_count restore_rate_limited_count";
const BASIC: &str = "fsynctime snapshottime dbinittime restore_time follower_sync_time observer_sync_time \
    election_time unavailable_time leader_unavailable_time connection_token_deficit inflight_snap_count \
    inflight_diff_count node_created_watch_count node_deleted_watch_count node_changed_watch_count \
    node_children_watch_count prep_processor_queue_size prep_process_time proposal_process_time \
    sync_processor_queue_size sync_process_time sync_processor_batch_size requests_in_session_queue \
    pending_session_queue_size reads_after_write_in_session_queue reads_issued_from_session_queue \
    session_queues_drained time_waiting_empty_pool_in_commit_processor_read_ms write_batch_time_in_commit_processor \
    concurrent_request_processing_in_commit_processor read_commit_proc_req_queued write_commit_proc_req_queued \
    commit_commit_proc_req_queued read_commit_proc_issued write_commit_proc_issued commit_process_time \
    startup_txns_loaded startup_txns_load_time startup_snap_load_time netty_queued_buffer_capacity \
    learner_request_processor_queue_size socket_closing_time";
const ADVANCED: &str = "readlatency updatelatency propagation_latency proposal_latency \
    proposal_ack_creation_latency commit_propagation_latency quorum_ack_latency prep_processor_queue_time_ms \
    sync_processor_queue_time_ms sync_processor_queue_flush_time_ms sync_processor_queue_and_flush_time_ms \
    close_session_prep_time read_commitproc_time_ms write_commitproc_time_ms local_write_committed_time_ms \
    server_write_committed_time_ms read_final_proc_time_ms write_final_proc_time_ms om_proposal_process_time_ms \
    om_commit_process_time_ms request_throttle_queue_time_ms jvm_pause_time_ms dead_watchers_cleaner_latency";

fn names(list: &str) -> Vec<&str> {
    list.split_whitespace().collect()
}

/// Every key that `mntr` has for these.
fn monitor_keys() -> Vec<String> {
    let mut keys: Vec<String> = names(GAUGES).into_iter().chain(names(COUNTERS)).map(str::to_owned).collect();
    for name in names(BASIC).into_iter().chain(names(ADVANCED)) {
        keys.extend(["avg", "min", "max", "cnt", "sum"].map(|k| format!("{k}_{name}")));
    }
    for name in names(ADVANCED) {
        keys.extend(["p50", "p95", "p99", "p999"].map(|k| format!("{k}_{name}")));
    }
    keys
}

/// Every sample that Prometheus scrapes for these.
fn samples() -> Vec<String> {
    let mut keys: Vec<String> = names(GAUGES).into_iter().chain(names(COUNTERS)).map(str::to_owned).collect();
    for name in names(BASIC).into_iter().chain(names(ADVANCED)) {
        keys.extend([format!("{name}{{quantile=\"0.5\"}}"), format!("{name}_count"), format!("{name}_sum")]);
    }
    for name in names(ADVANCED) {
        keys.extend(["0.9", "0.99"].map(|q| format!("{name}{{quantile=\"{q}\"}}")));
    }
    keys.extend(
        ["process_cpu_seconds_total", "process_start_time_seconds", "jvm_threads_current"].map(str::to_owned),
    );
    keys.push("jvm_memory_bytes_used{area=\"heap\"}".to_owned());
    keys.push("jvm_gc_collection_seconds_sum{gc=\"none\"}".to_owned());
    keys
}

fn some_load(port: u16) {
    let mut c = Client::connect(port, 10_000);
    c.create("/load", b"x", 0).unwrap();
    for i in 0..50 {
        c.set("/load", format!("{i}").as_bytes()).unwrap();
        c.get("/load", true).unwrap();
    }
    c.create("/load/child", b"", 0).unwrap();
}

#[test]
fn everything_that_dashboards_ask_for_has_a_value() {
    let dir = TempDir::new();
    let server = Server::start(&write_config(dir.path(), ADMIN));
    some_load(server.port);
    let mntr = server.four_letter_word("mntr");
    let found: std::collections::HashMap<&str, &str> =
        mntr.lines().filter_map(|l| l.split_once('\t')).collect();
    assert!(found["zk_version"].starts_with("3.9.5-"), "{mntr}");
    assert_eq!(found["zk_server_state"], "standalone");
    let per_namespace = ["read", "write"].iter().flat_map(|what| {
        ["avg", "min", "max", "cnt", "sum"].map(|kind| format!("{kind}_load_{what}_per_namespace"))
    });
    for key in monitor_keys().into_iter().chain(per_namespace) {
        let value = found.get(format!("zk_{key}").as_str()).unwrap_or_else(|| panic!("mntr lacks zk_{key}"));
        assert!(value.parse::<f64>().is_ok_and(f64::is_finite), "zk_{key} is {value}");
    }
    let monitor = http(server.admin, "GET", "/commands/monitor", &[]).json();
    for key in monitor_keys() {
        assert!(monitor[&key].is_number(), "monitor lacks {key}");
    }
    let page = http(server.admin, "GET", "/metrics", &[]);
    assert_eq!(page.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    check_exposition(&page.text());
    // What was done shows.
    for (key, at_least) in [("cnt_updatelatency", 51.0), ("cnt_readlatency", 50.0), ("cnt_fsynctime", 50.0)] {
        assert!(monitor[key].as_f64().unwrap() >= at_least, "{key}: {}", monitor[key]);
    }
    assert!(monitor["cnt_node_changed_watch_count"].as_f64().unwrap() >= 49.0);
}

/// Sessions that end by themselves, and quotas, have their figures too.
#[test]
fn expired_sessions_and_quotas_are_shown() {
    let dir = TempDir::new();
    let server = Server::start(&write_config(dir.path(), &format!("{ADMIN}\nenforceQuota=true")));
    let mut client = Client::connect(server.port, 10_000);
    client.create("/app", b"12345", 0).unwrap();
    client.create("/app/child", b"1", 0).unwrap();
    client.create("/zookeeper/quota/app", b"", 0).unwrap();
    client
        .create("/zookeeper/quota/app/zookeeper_limits", b"count=7,bytes=-1=;byteHardLimit=900", 0)
        .unwrap();
    client.create("/zookeeper/quota/app/zookeeper_stats", b"count=0,bytes=0", 0).unwrap();
    for _ in 0..3 {
        assert_eq!(client.set("/app/child", &[0; 901]).map(drop), Err(-125));
    }
    // It goes away without a word.
    drop(Client::connect(server.port, 1_000));
    let monitor = loop {
        let monitor = http(server.admin, "GET", "/commands/monitor", &[]).json();
        assert_eq!(client.ping().header.err, 0);
        if monitor["stale_sessions_expired"].as_i64().unwrap() > 0 {
            break monitor;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(monitor["connection_drop_count"].as_i64().unwrap() >= 1);
    let page = http(server.admin, "GET", "/metrics", &[]).text();
    check_exposition(&page);
    for (name, value) in [("count_limit", 7), ("bytes_limit", 900)] {
        assert_eq!(monitor[format!("app_quota_{name}_per_namespace")], value, "{monitor}");
        assert!(page.contains(&format!("\nquota_{name}_per_namespace{{key=\"app\"}} {value}.0\n")), "{page}");
    }
    assert!(monitor["app_quota_count_usage_per_namespace"].is_number(), "{monitor}");
    assert_eq!(monitor["app_quota_exceeded_error_per_namespace"], 3, "{monitor}");
    assert!(page.contains("\nquota_exceeded_error_per_namespace{key=\"app\"} 3.0\n"), "{page}");
    assert!(page.contains("\nfalconer_namespace_outstanding{namespace=\"/app\"} 0.0\n"), "{page}");
}

/// Names, kinds, form; no NaN.
fn check_exposition(text: &str) {
    let mut kinds = std::collections::HashMap::new();
    let mut found = std::collections::HashMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} is declared twice");
        } else if !line.starts_with('#') {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok_and(f64::is_finite), "{line}");
            assert!(found.insert(name.to_owned(), value.to_owned()).is_none(), "{name} stands twice");
            let bare = name.split('{').next().unwrap();
            let family = ["_bucket", "_count", "_sum"].iter().find_map(|s| {
                bare.strip_suffix(s)
                    .filter(|f| kinds.get(*f).is_some_and(|k| k == "summary" || k == "histogram"))
            });
            assert!(kinds.contains_key(bare) || family.is_some(), "{bare} has no TYPE before it");
        }
    }
    for sample in samples() {
        assert!(found.contains_key(&sample), "the metrics lack {sample}");
    }
    for (list, kind) in [(GAUGES, "gauge"), (COUNTERS, "counter"), (BASIC, "summary"), (ADVANCED, "summary")]
    {
        names(list).iter().for_each(|name| assert_eq!(kinds[*name], kind, "{name}"));
    }
    for stage in node::stage::Stage::ALL {
        let of = |suffix: &str| format!("falconer_stage_seconds_{suffix}{{stage=\"{}\"}}", stage.name());
        let count: f64 = found[&of("count")].parse().unwrap();
        assert!(count > 0.0, "nothing passed through {}", stage.name());
        let inf = format!("falconer_stage_seconds_bucket{{stage=\"{}\",le=\"+Inf\"}}", stage.name());
        assert_eq!(found[&inf].parse::<f64>().unwrap(), count);
    }
}

#[test]
fn prometheus_has_a_port_of_its_own_where_it_is_asked_for() {
    let dir = TempDir::new();
    let class = "org.apache.zookeeper.metrics.prometheus.PrometheusMetricsProvider";
    let lines = format!(
        "{ADMIN}\nmetricsProvider.className={class}\nmetricsProvider.httpHost=127.0.0.1\nmetricsProvider.httpPort=0"
    );
    let server = Server::start(&write_config(dir.path(), &lines));
    some_load(server.port);
    check_exposition(&http(server.metrics, "GET", "/metrics", &["Host: zk-0.zk.svc:7000"]).text());
    assert_eq!(http(server.metrics, "GET", "/commands/ruok", &[]).status, 404);
    let mntr = server.four_letter_word("mntr");
    for wanted in [
        "fsynctime{quantile=\"0.5\"}",
        "read_per_namespace_count{key=\"load\"}",
        "read_per_namespace{key=\"load\",quantile=\"0.5\"}",
        "write_per_namespace{key=\"load\",quantile=\"0.5\"}",
    ] {
        assert!(mntr.contains(&format!("zk_{wanted}\t")), "{mntr}");
    }
    assert!(mntr.lines().any(|l| l.starts_with("zk_znode_count\t") && l.ends_with(".0")), "{mntr}");
}

/// Each command with its fields, in Apache's order.
const FIELDS: [(&str, &str); 26] = [
    (
        "configuration conf config",
        "client_port data_dir data_log_dir tick_time max_client_cnxns min_session_timeout max_session_timeout \
         server_id client_port_listen_backlog",
    ),
    ("connection_stat_reset crst", ""),
    ("connections cons", "connections secure_connections"),
    ("dirs", "datadir_size logdir_size"),
    ("dump", "expiry_time_to_session_ids session_id_to_ephemeral_paths"),
    ("environment env envi", "zookeeper.version"),
    ("get_trace_mask gtmk", "tracemask"),
    ("hash", "digests"),
    ("initial_configuration icfg", "initial_configuration"),
    ("is_read_only isro", "read_only"),
    ("last_snapshot lsnp", "zxid timestamp"),
    ("monitor mntr", "version server_state"),
    ("observer_connection_stat_reset orst", ""),
    ("observers obsr", "synced_observers observers"),
    ("ruok", ""),
    ("server_stats srvr", "version read_only server_stats client_response node_count"),
    ("set_trace_mask stmk", ""),
    (
        "stats stat",
        "version read_only server_stats client_response node_count connections secure_connections",
    ),
    ("stat_reset srst", ""),
    ("system_properties sysp", ""),
    ("voting_view", "current_config"),
    ("watches wchc", "session_id_to_watched_paths"),
    ("watches_by_path wchp", "path_to_session_ids"),
    ("watch_summary wchs", "num_connections num_paths num_total_watches"),
    ("zabstate", "voting zabstate"),
    ("leader lead", ""),
];

#[test]
fn commands_answer_with_apaches_fields_under_all_their_names() {
    let dir = TempDir::new();
    let server = Server::start(&write_config(dir.path(), ADMIN));
    let mut client = Client::connect(server.port, 10_000);
    client.create("/watched", b"", 0).unwrap();
    client.create("/mine", b"", 1).unwrap();
    client.get("/watched", true).unwrap();
    let index = http(server.admin, "GET", "/commands", &[]).text();
    for (aliases, fields) in FIELDS {
        let primary = aliases.split(' ').next().unwrap();
        assert!(index.contains(&format!("<a href=\"/commands/{primary}\">{primary}</a>")), "{index}");
        for name in aliases.split(' ') {
            let answer = http(server.admin, "GET", &format!("/commands/{name}"), &[ANYBODY]);
            assert_eq!(
                (answer.status, answer.header("content-type")),
                (200, Some("application/json")),
                "{name}"
            );
            let (text, json) = (answer.text(), answer.json());
            assert_eq!(json["command"], primary, "{name}");
            let mut last = 0;
            for field in fields.split_whitespace() {
                let at = text
                    .find(&format!("\"{field}\" : "))
                    .unwrap_or_else(|| panic!("{name} lacks {field}: {text}"));
                assert!(at > last, "{name}: {field} stands too early");
                last = at;
            }
            match primary {
                "leader" => assert_eq!(json["error"], "server is not initialized"),
                "set_trace_mask" => {
                    assert_eq!(json["error"], "setTraceMask requires long traceMask argument")
                }
                _ => assert!(text.trim_end().ends_with("\"error\" : null\n}"), "{text}"),
            }
        }
    }
    let get = |name: &str| http(server.admin, "GET", &format!("/commands/{name}"), &[]).json();
    let may = |name: &str| http(server.admin, "GET", &format!("/commands/{name}"), &[ANYBODY]).json();
    let session = client.session.session.0;
    assert_eq!(get("conf")["client_port"], server.port);
    assert_eq!(get("cons")["connections"][0]["session_id"], session, "decimal here");
    assert_eq!(get("wchc")["session_id_to_watched_paths"][session.to_string()][0], "/watched");
    assert_eq!(get("wchp")["path_to_session_ids"]["/watched"][0], session);
    assert_eq!(get("dump")["session_id_to_ephemeral_paths"][session.to_string()][0], "/mine");
    assert_eq!(may("stmk?traceMask=7")["tracemask"], 7);
    assert_eq!(get("gtmk")["tracemask"], 7);
    assert_eq!(get("lsnp")["zxid"], "ffffffffffffffff");
    (0..5).for_each(|_| drop(client.get("/watched", false).unwrap()));
    assert!(get("srvr")["server_stats"]["packets_received"].as_i64().unwrap() > 2);
    may("srst");
    assert!(get("srvr")["server_stats"]["packets_received"].as_i64().unwrap() <= 2);
    let unknown = http(server.admin, "GET", "/commands/nonsense", &[]);
    assert_eq!((unknown.status, unknown.json()["error"].as_str()), (200, Some("Unknown command: nonsense")));
    assert!(get("icfg")["initial_configuration"].as_str().unwrap().contains("tickTime=500"));
}

/// Whatever changes anything wants a credential that may do everything to `/`, under each of its names.
#[test]
fn nothing_is_changed_for_whoever_comes_by() {
    let dir = TempDir::new();
    let server = Server::start(&write_config(dir.path(), ADMIN));
    let mut client = Client::connect(server.port, 10_000);
    (0..5).for_each(|i| drop(client.create(&format!("/n{i}"), b"", 0).unwrap()));
    let get = |name: &str, headers: &[&str]| http(server.admin, "GET", &format!("/commands/{name}"), headers);
    let figures = || {
        let received = get("srvr", &[]).json()["server_stats"]["packets_received"].as_i64().unwrap();
        let of_connection = get("cons", &[]).json()["connections"][0]["packets_received"].as_i64().unwrap();
        (received, of_connection, get("gtmk", &[]).json()["tracemask"].as_i64().unwrap())
    };
    let before = figures();
    let changing = "connection_stat_reset crst observer_connection_stat_reset orst stat_reset srst \
                    set_trace_mask?traceMask=7 stmk?traceMask=7";
    for name in names(changing) {
        assert_eq!(get(name, &[]).status, 401, "{name}");
        assert_eq!(get(name, &["Authorization: nonsense a:b"]).status, 401, "{name}");
        assert_eq!(get(name, &[ANYBODY, "Sec-Fetch-Site: cross-site"]).status, 403, "{name}");
    }
    assert_eq!(figures(), before);
    set_acl(&mut client, "/", perms::READ, "world", "anyone");
    names(changing).into_iter().for_each(|name| assert_eq!(get(name, &[ANYBODY]).status, 403, "{name}"));
    let (received, of_connection, mask) = figures();
    assert!(received > before.0 && of_connection > before.1 && mask == before.2, "it goes on counting");
}

#[test]
fn another_url_stands_in_front_of_the_commands_when_asked_for() {
    let dir = TempDir::new();
    let server = Server::start(&write_config(dir.path(), &format!("{ADMIN}\nadmin.commandURL=/zk/do")));
    assert_eq!(http(server.admin, "GET", "/zk/do/ruok", &[]).json()["command"], "ruok");
    assert_eq!(http(server.admin, "GET", "/commands/ruok", &[]).status, 404);
}

#[test]
fn health_is_told_and_a_port_that_is_taken_stops_nothing() {
    let dir = TempDir::new();
    let server = Server::start(&write_config(dir.path(), ADMIN));
    let ready = loop {
        // The port answers before the server serves.
        let ready = http(server.admin, "GET", "/readyz", &[]);
        if ready.status == 200 {
            break ready;
        }
        assert_eq!(ready.status, 503);
        assert!(ready.json()["reason"].is_string());
    };
    assert_eq!(ready.json()["ready"], true);
    assert_eq!(http(server.admin, "GET", "/livez", &[]).json()["live"], true);
    let other = TempDir::new();
    let taken = format!("admin.serverPort={}", server.admin);
    let second = Server::start(&write_config(other.path(), &taken));
    assert_eq!(second.admin, 0);
    Client::connect(second.port, 10_000).create("/works", b"", 0).unwrap();
}

fn set_acl(client: &mut Client, path: &str, perms: i32, scheme: &str, id: &str) {
    let mut body = Vec::new();
    body.put_str(path);
    body.put_count(1);
    body.put_i32(perms);
    body.put_str(scheme);
    body.put_str(id);
    body.put_i32(-1);
    assert_eq!(client.call(OpCode::SetAcl, &body).header.err, 0);
}

#[test]
fn a_snapshot_needs_a_credential_is_limited_and_starts_another_server() {
    let dir = TempDir::new();
    let config = write_config(dir.path(), &format!("{ADMIN}\nadmin.rateLimiterIntervalInMS=1000000"));
    let server = Server::start(&config);
    let mut client = Client::connect(server.port, 10_000);
    for i in 0..300 {
        client.create(&format!("/n{i}"), format!("value {i}").as_bytes(), 0).unwrap();
    }
    let snapshot = |headers: &[&str]| http(server.admin, "GET", "/commands/snapshot", headers);
    assert_eq!(snapshot(&[]).status, 401);
    assert_eq!(snapshot(&["Authorization: nonsense a:b"]).status, 401);
    assert_eq!(snapshot(&["Authorization: digest a b c"]).status, 401);
    let taken = snapshot(&["Authorization: digest a:b"]);
    assert_eq!(taken.status, 200, "{}", String::from_utf8_lossy(&taken.body));
    assert_eq!(taken.header("content-type"), Some("application/octet-stream"));
    assert_eq!(taken.header("snapshot_size").unwrap().parse::<usize>().unwrap(), taken.body.len());
    let zxid = taken.header("last_zxid").unwrap().strip_prefix("0x").unwrap().to_owned();
    let name = format!("attachment; filename=\"snapshot.{zxid}\"");
    assert_eq!(taken.header("content-disposition"), Some(&*name), "curl -O -J takes it");
    assert!(taken.body.starts_with(b"ZKSN"));
    assert_eq!(snapshot(&["Authorization: digest a:b"]).status, 429, "one a second");
    assert_eq!(http(server.admin, "POST", "/commands/snapshot", &["Authorization: ip"]).status, 405);
    let restore = http(server.admin, "POST", "/commands/restore", &[]);
    assert_eq!(restore.status, 401);
    assert_eq!(http(server.admin, "POST", "/commands/restore", &["Authorization: ip"]).status, 500);
    assert_eq!(
        http(server.admin, "POST", "/commands/log_level?level=debug", &["Authorization: ip"]).status,
        403
    );
    // Whoever may not do everything to the root gets nothing.
    set_acl(&mut client, "/", perms::READ | perms::CREATE, "world", "anyone");
    assert_eq!(snapshot(&["Authorization: digest a:b"]).status, 403);
    drop(server);
    let other = TempDir::new();
    let version2 = other.path().join("data/version-2");
    std::fs::create_dir_all(&version2).unwrap();
    std::fs::write(version2.join(format!("snapshot.{zxid}")), &taken.body).unwrap();
    let second = Server::start(&write_config(other.path(), ADMIN));
    let mut client = Client::connect(second.port, 10_000);
    for i in 0..300 {
        assert_eq!(client.get(&format!("/n{i}"), false).unwrap().0, format!("value {i}").as_bytes());
    }
}

#[test]
fn a_snapshot_that_nobody_wants_sent_is_the_servers_own() {
    let dir = TempDir::new();
    let config = write_config(dir.path(), &format!("{ADMIN}\nadmin.rateLimiterIntervalInMS=0"));
    let server = Server::start(&config);
    let mut client = Client::connect(server.port, 10_000);
    let demand = || http(server.admin, "GET", "/commands/snapshot?streaming=false", &[ANYBODY]);
    let mut last = 0;
    // The second comes to a server that has nothing to write.
    for path in ["/a", "/b"] {
        client.create(path, b"value", 0).unwrap();
        let taken = demand();
        assert_eq!(taken.status, 200, "{}", String::from_utf8_lossy(&taken.body));
        let zxid = taken.header("last_zxid").unwrap().strip_prefix("0x").unwrap();
        let zxid = u64::from_str_radix(zxid, 16).unwrap();
        assert!(zxid > last, "{zxid:#x} after {last:#x}");
        last = zxid;
        let size: u64 = taken.header("snapshot_size").unwrap().parse().unwrap();
        let file = dir.path().join("data/snapshot").join(snapshot::name_of(Zxid::from_u64(zxid)));
        assert_eq!(file.metadata().unwrap().len(), size);
    }
    // Several at once: each gets one that began after it asked.
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..3).map(|_| scope.spawn(demand)).collect();
        let statuses: Vec<u16> = all.into_iter().map(|t| t.join().unwrap().status).collect();
        assert!(statuses.contains(&200) && statuses.iter().all(|s| [200, 429].contains(s)), "{statuses:?}");
    });
}

#[test]
fn a_snapshot_taken_while_writes_go_on_is_of_one_moment() {
    let dir = TempDir::new();
    let server =
        Server::start(&write_config(dir.path(), &format!("{ADMIN}\nadmin.rateLimiterIntervalInMS=0")));
    let mut client = Client::connect(server.port, 10_000);
    client.create("/a", b"0", 0).unwrap();
    client.create("/b", b"0", 0).unwrap();
    for i in 0..2000 {
        client.create(&format!("/fill{i}"), &[7; 100], 0).unwrap();
    }
    let port = server.port;
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writer = std::thread::spawn({
        let stop = stop.clone();
        move || {
            let mut client = Client::connect(port, 10_000);
            let mut n = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                n += 1;
                client.set("/a", n.to_string().as_bytes()).unwrap();
                client.set("/b", n.to_string().as_bytes()).unwrap();
            }
        }
    });
    while client.get("/b", false).unwrap().0 == b"0" {}
    for _ in 0..5 {
        let taken = http(server.admin, "GET", "/commands/snapshot", &["Authorization: ip"]);
        assert_eq!(taken.status, 200, "{}", String::from_utf8_lossy(&taken.body));
        let mut found = [0_i64; 2];
        let mut see = |kind: snapshot::Kind, count: u32, bytes: &[u8]| -> Result<(), ()> {
            if kind == snapshot::Kind::Nodes {
                let mut r = proto::jute::Reader::new(bytes);
                for _ in 0..count {
                    let node = proto::state::NodeRecord::decode(&mut r).unwrap();
                    let at = match &*node.path {
                        "/a" => 0,
                        "/b" => 1,
                        _ => continue,
                    };
                    found[at] = std::str::from_utf8(node.data.unwrap()).unwrap().parse().unwrap();
                }
            }
            Ok(())
        };
        let summary = snapshot::apache::read_stream(&taken.body[..], "taken", &mut see).unwrap();
        let zxid =
            i64::from_str_radix(taken.header("last_zxid").unwrap().strip_prefix("0x").unwrap(), 16).unwrap();
        assert_eq!(summary.last_processed.unwrap().to_wire(), zxid);
        assert!(found[0] > 0 && (found[0] == found[1] || found[0] == found[1] + 1), "{found:?}");
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    writer.join().unwrap();
}

#[test]
fn what_does_not_belong_is_refused_and_harms_nothing() {
    let dir = TempDir::new();
    let server = Server::start(&write_config(dir.path(), &format!("{ADMIN}\nadmin.idleTimeout=400")));
    some_load(server.port);
    let status =
        |method: &str, path: &str, headers: &[&str]| http(server.admin, method, path, headers).status;
    // Other sites, and names of this host that it has not given itself.
    for headers in [
        &["Sec-Fetch-Site: cross-site"][..],
        &["Sec-Fetch-Site: same-site"],
        &["Origin: http://evil.example"],
        &["Origin: null"],
        &["Host: evil.example"],
        &["Host: evil.example:8080"],
        &["Host: 10.0.0.1"],
    ] {
        for path in ["/commands/srst", "/commands/snapshot", "/metrics", "/commands", "/livez"] {
            assert_eq!(status("GET", path, headers), 403, "{headers:?} {path}");
            assert_eq!(status("POST", path, headers), 403, "{headers:?} {path}");
        }
    }
    let own = format!("Host: 127.0.0.1:{}", server.admin);
    let origin = format!("Origin: http://127.0.0.1:{}", server.admin);
    assert_eq!(status("GET", "/commands/ruok", &[&own, &origin, "Sec-Fetch-Site: same-origin"]), 200);
    // Said twice, or in two ways: who forwards a request and who answers it may not read it differently.
    for lines in [
        "GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example",
        "GET / HTTP/1.1\r\nHost: evil.example\r\nHost: localhost",
        "GET http://evil.example/ HTTP/1.1\r\nHost: localhost",
        "GET http://localhost/ HTTP/1.1\r\nHost: evil.example",
        "GET http://localhost/ HTTP/1.1",
        "GET / HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: none\r\nSec-Fetch-Site: cross-site",
        "GET / HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\nOrigin: http://evil.example",
    ] {
        let answer = http_raw(server.admin, format!("{lines}\r\nConnection: close\r\n\r\n").as_bytes());
        assert_eq!(answer.map(|a| a.status), Some(400), "{lines}");
    }
    let whole = b"GET http://localhost/livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert_eq!(http_raw(server.admin, whole).map(|a| a.status), Some(200));
    // Who half-closes after the question hears the answer.
    let mut half = TcpStream::connect(("127.0.0.1", server.admin)).unwrap();
    half.write_all(b"GET /livez HTTP/1.0\r\n\r\n").unwrap();
    half.shutdown(std::net::Shutdown::Write).unwrap();
    let mut heard = String::new();
    half.read_to_string(&mut heard).unwrap();
    assert!(heard.starts_with("HTTP/1.0 200"), "{heard}");
    // Methods.
    for method in ["TRACE", "PUT", "DELETE", "OPTIONS", "CONNECT", "NONSENSE"] {
        let refused =
            http_raw(server.admin, format!("{method} / HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
        assert!(refused.is_none_or(|r| r.status == 405 || r.status == 400), "{method}");
    }
    assert_eq!(status("POST", "/commands/srst", &["Authorization: ip"]), 405);
    assert_eq!(status("GET", "/commands/restore", &["Authorization: ip"]), 405);
    // Paths.
    for path in [
        "/../../etc/passwd",
        "/commands/../../etc/passwd",
        "/commands/..%2f..%2fetc%2fpasswd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/commands/a/b",
        "/commandsx",
        "/zoo.cfg",
    ] {
        let answer = http(server.admin, "GET", path, &[]);
        let unknown = answer.status == 200 && answer.text().contains("Unknown command");
        assert!(answer.status == 404 || answer.status == 400 || unknown, "{path}: {}", answer.text());
    }
    // Too large.
    let long = format!("GET /commands/{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "a".repeat(200_000));
    assert!(http_raw(server.admin, long.as_bytes()).is_none_or(|r| r.status >= 400));
    let many: String = (0..200).map(|i| format!("X-{i}: y\r\n")).collect();
    let many = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{many}\r\n");
    assert!(http_raw(server.admin, many.as_bytes()).is_none_or(|r| r.status >= 400));
    let body = format!(
        "POST /commands/restore HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 100000000\r\n\r\n{}",
        "b".repeat(300_000)
    );
    assert!(http_raw(server.admin, body.as_bytes()).is_none_or(|r| r.status >= 400));
    // Too slow: a head that never ends is cut off after admin.idleTimeout.
    let started = Instant::now();
    let mut slow = TcpStream::connect(("127.0.0.1", server.admin)).unwrap();
    slow.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\nHost: local").unwrap();
    let mut rest = Vec::new();
    let _ = slow.read_to_end(&mut rest);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    // More than there are places for: dropped, and the places come back.
    let crowd: Vec<_> = (0..200).map(|_| TcpStream::connect(("127.0.0.1", server.admin)).unwrap()).collect();
    std::thread::sleep(Duration::from_millis(900));
    drop(crowd);
    // Noise, from a seed.
    let mut x = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x
    };
    let base = b"GET /commands/stats?a=b&c=%41 HTTP/1.1\r\nHost: localhost\r\nAuthorization: digest a:b\r\nConnection: close\r\n\r\n";
    for _ in 0..300 {
        let mut bytes = base.to_vec();
        for _ in 0..1 + next() % 6 {
            let at = next() as usize % bytes.len();
            match next() % 3 {
                0 => bytes[at] = next() as u8,
                1 => bytes.truncate(at.max(1)),
                _ => bytes.insert(at, next() as u8),
            }
        }
        let mut s = TcpStream::connect(("127.0.0.1", server.admin)).unwrap();
        s.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let _ = s.write_all(&bytes);
        let _ = s.shutdown(std::net::Shutdown::Write);
        let _ = s.read_to_end(&mut Vec::new());
    }
    assert_eq!(status("GET", "/commands/ruok", &[]), 200);
    let mut client = Client::connect(server.port, 10_000);
    assert_eq!(client.get("/load", false).unwrap().0, b"49", "nothing has changed");
}

/// Whether the server lives is answered whoever crowds its door, and what it is at work on goes on.
#[test]
fn a_crowd_that_says_nothing_keeps_nobody_out() {
    let dir = TempDir::new();
    let server = Server::start(&write_config(dir.path(), ADMIN));
    let mut client = Client::connect(server.port, 10_000);
    // More than sockets hold, so that the snapshot is still on its way while the crowd comes.
    for i in 0..24 {
        client.create(&format!("/n{i}"), &[i; 1_000_000], 0).unwrap();
    }
    let mut snapshot = TcpStream::connect(("127.0.0.1", server.admin)).unwrap();
    let ask = format!(
        "GET /commands/snapshot HTTP/1.1\r\nHost: localhost\r\n{ANYBODY}\r\nConnection: close\r\n\r\n"
    );
    snapshot.write_all(ask.as_bytes()).unwrap();
    let mut got = vec![0; 1024];
    snapshot.read_exact(&mut got).unwrap();
    for words in [
        "",
        "GET / HTTP/1.1\r\nHost: loc",
        "POST /commands/srst HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nhalf",
    ] {
        let crowd: Vec<_> = (0..300)
            .map(|_| {
                let mut one = TcpStream::connect(("127.0.0.1", server.admin)).unwrap();
                // Those that came first have ended by now.
                let _ = one.write_all(words.as_bytes());
                one
            })
            .collect();
        let began = Instant::now();
        for _ in 0..20 {
            assert_eq!(http(server.admin, "GET", "/livez", &[]).status, 200, "{words:?}");
        }
        assert!(began.elapsed() < Duration::from_secs(9), "nobody had to go for the time-out's sake");
        drop(crowd);
    }
    snapshot.read_to_end(&mut got).unwrap();
    let end = got.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    let head = String::from_utf8_lossy(&got[..end]).to_ascii_lowercase();
    let size: usize = head.lines().find_map(|l| l.strip_prefix("content-length: ")).unwrap().parse().unwrap();
    assert!(size > 24_000_000 && got.len() - end - 4 == size, "{size}, {}", got.len());
}

#[test]
fn the_page_is_one_file_that_lets_nothing_else_run_and_shows_what_may_be_read() {
    let dir = TempDir::new();
    let server = Server::start(&write_config(dir.path(), ADMIN));
    some_load(server.port);
    let mut client = Client::connect(server.port, 10_000);
    client.create("/json", b"{\"a\":1}", 0).unwrap();
    client.create("/closed", b"secret", 0).unwrap();
    client.create("/closed/child", b"", 0).unwrap();
    let hash = engine::acl::DigestScheme::default().id_of("u:pw");
    set_acl(&mut client, "/closed", 31, "digest", &hash);
    let page = http(server.admin, "GET", "/", &[]);
    assert_eq!((page.status, page.header("x-frame-options")), (200, Some("DENY")));
    let policy = page.header("content-security-policy").unwrap();
    assert!(
        policy.starts_with("default-src 'none'; script-src 'sha256-") && !policy.contains("unsafe"),
        "{policy}"
    );
    let text = page.text();
    let outside = ["http://", "https://", "src=", "@import", "url(", " style=", "onclick=\""];
    assert!(
        outside.iter().all(|what| !text.contains(what)),
        "something comes from elsewhere, or the policy stops it"
    );
    let get = |path: &str, headers: &[&str]| http(server.admin, "GET", path, headers);
    let live = loop {
        let live = get("/api/live", &[]).json();
        if live["samples"].as_array().is_some_and(|s| s.len() > 1) {
            break live;
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    assert_eq!(live["members"][0]["role"], "standalone");
    assert!(live["namespaces"].as_array().unwrap().iter().any(|n| n["name"] == "/load"), "{live}");
    assert_eq!(live["clients"][0]["address"], "127.0.0.1");
    let n = live["samples"][0]["n"].as_u64().unwrap();
    let later = get(&format!("/api/live?since={n}"), &[]).json();
    assert!(later["samples"].as_array().unwrap().iter().all(|s| s["n"].as_u64().unwrap() > n));
    let names = |j: &serde_json::Value| -> Vec<String> {
        j["children"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap().to_owned()).collect()
    };
    let root = get("/api/children?path=/&limit=2", &[]).json();
    assert_eq!(
        (names(&root), root["more"].as_bool(), root["total"].as_u64()),
        (vec!["closed".into(), "json".into()], Some(true), Some(4))
    );
    assert_eq!(names(&get("/api/children?path=/&after=json", &[]).json()), ["load", "zookeeper"]);
    let node = get("/api/node?path=%2Fjson", &[]).json();
    assert_eq!(
        (node["base64"].as_str(), node["stat"]["dataLength"].as_i64()),
        (Some("eyJhIjoxfQ=="), Some(7))
    );
    // What its ACL hides stays hidden, and shows with the credential.
    assert_eq!(get("/api/children?path=/closed", &[]).status, 403);
    assert_eq!(get("/api/node?path=/closed", &[]).json()["unreadable"], true);
    let credential = ["Authorization: digest u:pw"];
    assert_eq!(names(&get("/api/children?path=/closed", &credential).json()), ["child"]);
    assert_eq!(get("/api/node?path=/closed", &credential).json()["base64"], "c2VjcmV0");
    assert_eq!(get("/api/node?path=/closed", &["Authorization: nonsense"]).status, 401);
    assert_eq!(get("/api/node?path=/none", &[]).status, 404);
    for bad in ["", "//", "/../..", "/a/", "x", "%00", "/%ff"] {
        assert!(matches!(get(&format!("/api/node?path={bad}"), &[]).status, 200 | 404), "{bad}");
    }
    assert_eq!(http(server.admin, "POST", "/api/live", &[]).status, 404);
}

#[test]
fn the_dashboard_asks_for_metrics_that_exist() {
    let dashboard = include_str!("../../docs/grafana.json");
    let json: serde_json::Value = serde_json::from_str(dashboard).unwrap();
    let dir = TempDir::new();
    let server = Server::start(&write_config(dir.path(), ADMIN));
    some_load(server.port);
    let page = http(server.admin, "GET", "/metrics", &[]).text();
    let leader_only = ["quorum_size", "synced_followers", "learners"];
    let mut asked = 0;
    for panel in json["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            let expr = target["expr"].as_str().unwrap();
            // A metric's name is what stands before its selector.
            for (at, _) in expr.match_indices("{instance=~") {
                let before = &expr[..at];
                let start =
                    before.rfind(|c: char| !c.is_ascii_alphanumeric() && c != '_').map_or(0, |i| i + 1);
                let name = &before[start..];
                asked += 1;
                let there = page
                    .lines()
                    .any(|l| l.starts_with(&format!("{name} ")) || l.starts_with(&format!("{name}{{")));
                assert!(there || leader_only.contains(&name), "no metric {name}, of {expr}");
            }
        }
    }
    assert!(asked > 30, "{asked}");
}
