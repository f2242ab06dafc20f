//! The metrics: Apache's names and kinds, then Falconer's own; as `mntr` prints them and as Prometheus scrapes them.
//!
//! Apache's lists are kept whole. What has no counterpart here (caches, throttles, queues between its processors)
//! stands at 0, which is true: nothing of the kind ever happened. `docs/metrics.md` says which those are.

use crate::accounting::{self, Use};
use crate::core::Core;
use crate::limits;
use crate::peers::queue::WaitedCounts;
use crate::stats::{Counted, Counter, Measure, OPS};
use crate::version;
use engine::Identity;
use node::Service;
use node::stage::Stage;
use proto::ServerId;
use proto::acl::Id;
use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::sync::atomic::Ordering;

/// How values become what is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Unit {
    /// ns, shown in ms.
    Ms,
    /// As counted.
    Plain,
}

impl Unit {
    fn scale(self, value: f64) -> f64 {
        match self {
            Unit::Ms => value / 1e6,
            Unit::Plain => value,
        }
    }
}

/// Where a summary of Apache's comes from.
type Source = Option<(Unit, fn(&Core) -> Counted)>;

macro_rules! measured {
    ($unit:ident, $measure:ident) => {
        Some((Unit::$unit, (|core| core.stats.measured(Measure::$measure)) as fn(&Core) -> Counted))
    };
}

macro_rules! staged {
    ($($stage:ident),*) => {
        Some((Unit::Ms, (|core| {
            let mut all = Counted::default();
            $(all.merge(&core.stats.staged(Stage::$stage));)*
            all
        }) as fn(&Core) -> Counted))
    };
}

const NONE: Source = None;

/// Apache's counters (reference: `ServerMetrics`), and ours that fill them.
const COUNTERS: [(&str, Option<Counter>); 49] = [
    ("bytes_received_count", Some(Counter::ReceivedBytes)),
    ("watch_bytes", Some(Counter::EventBytes)),
    ("commit_count", Some(Counter::Applied)),
    ("proposal_count", Some(Counter::Prepared)),
    ("diff_count", Some(Counter::Diffs)),
    ("snap_count", Some(Counter::Snaps)),
    ("looking_count", Some(Counter::Looking)),
    ("revalidate_count", Some(Counter::Revalidations)),
    ("connection_request_count", Some(Counter::Handshakes)),
    ("connection_rejected", Some(Counter::Rejected)),
    ("connection_drop_count", Some(Counter::Dropped)),
    ("connection_revalidate_count", Some(Counter::Resumptions)),
    ("sessionless_connections_expired", Some(Counter::SessionlessExpired)),
    ("stale_sessions_expired", Some(Counter::Expired)),
    ("stale_requests", None),
    ("stale_requests_dropped", None),
    ("stale_replies", None),
    ("request_throttle_wait_count", None),
    ("throttled_ops", None),
    ("large_requests_rejected", Some(Counter::TooLarge)),
    ("unrecoverable_error_count", None),
    ("outstanding_changes_queued", Some(Counter::Prepared)),
    ("outstanding_changes_removed", Some(Counter::Applied)),
    ("prep_processor_request_queued", Some(Counter::Admitted)),
    ("sync_processor_request_queued", Some(Counter::Queued)),
    ("request_commit_queued", Some(Counter::Applied)),
    ("requests_not_forwarded_to_commit_processor", None),
    ("skip_learner_request_to_next_processor_count", None),
    ("learner_proposal_received_count", Some(Counter::LearnerProposals)),
    ("learner_commit_received_count", Some(Counter::LearnerCommits)),
    ("quit_leading_due_to_disloyal_voter", None),
    ("response_packet_cache_hits", None),
    ("response_packet_cache_misses", None),
    ("response_packet_get_children_cache_hits", None),
    ("response_packet_get_children_cache_misses", None),
    ("ensemble_auth_success", None),
    ("ensemble_auth_fail", None),
    ("ensemble_auth_skip", None),
    ("dead_watchers_queued", None),
    ("dead_watchers_cleared", None),
    ("add_dead_watcher_stall_time", None),
    ("unsuccessful_handshake", None),
    ("tls_handshake_exceeded", None),
    ("insecure_admin_count", Some(Counter::Admin)),
    ("cnxn_closed_without_zk_server_running", Some(Counter::NotServed)),
    ("snapshot_error_count", Some(Counter::SnapshotErrors)),
    ("snapshot_rate_limited_count", Some(Counter::SnapshotLimited)),
    ("restore_error_count", Some(Counter::RestoreErrors)),
    ("restore_rate_limited_count", Some(Counter::RestoreLimited)),
];

/// Apache's basic summaries.
const BASIC: [(&str, Source); 42] = [
    ("fsynctime", measured!(Ms, Sync)),
    ("snapshottime", measured!(Ms, Snapshot)),
    ("dbinittime", measured!(Ms, Recovery)),
    ("restore_time", measured!(Ms, Restore)),
    ("follower_sync_time", measured!(Ms, FollowerSync)),
    ("observer_sync_time", measured!(Ms, ObserverSync)),
    ("election_time", measured!(Ms, Election)),
    ("unavailable_time", measured!(Ms, Unavailable)),
    ("leader_unavailable_time", measured!(Ms, LeaderUnavailable)),
    ("connection_token_deficit", NONE),
    ("inflight_snap_count", measured!(Plain, InflightSnaps)),
    ("inflight_diff_count", measured!(Plain, InflightDiffs)),
    ("node_created_watch_count", measured!(Plain, CreatedEvents)),
    ("node_deleted_watch_count", measured!(Plain, DeletedEvents)),
    ("node_changed_watch_count", measured!(Plain, ChangedEvents)),
    ("node_children_watch_count", measured!(Plain, ChildEvents)),
    ("prep_processor_queue_size", measured!(Plain, NodeQueue)),
    ("prep_process_time", measured!(Ms, PrepareRun)),
    ("proposal_process_time", staged!(Propose)),
    ("sync_processor_queue_size", measured!(Plain, LogQueue)),
    ("sync_process_time", measured!(Ms, Sync)),
    ("sync_processor_batch_size", measured!(Plain, BatchRecords)),
    ("requests_in_session_queue", measured!(Plain, BehindWrites)),
    ("pending_session_queue_size", NONE),
    ("reads_after_write_in_session_queue", measured!(Plain, BehindWrites)),
    ("reads_issued_from_session_queue", NONE),
    ("session_queues_drained", NONE),
    ("time_waiting_empty_pool_in_commit_processor_read_ms", NONE),
    ("write_batch_time_in_commit_processor", measured!(Ms, ApplyRun)),
    ("concurrent_request_processing_in_commit_processor", NONE),
    ("read_commit_proc_req_queued", NONE),
    ("write_commit_proc_req_queued", NONE),
    ("commit_commit_proc_req_queued", NONE),
    ("read_commit_proc_issued", NONE),
    ("write_commit_proc_issued", NONE),
    ("commit_process_time", staged!(Commit)),
    ("startup_txns_loaded", measured!(Plain, RecoveryRecords)),
    ("startup_txns_load_time", measured!(Ms, RecoveryReplay)),
    ("startup_snap_load_time", measured!(Ms, RecoveryLoad)),
    ("netty_queued_buffer_capacity", NONE),
    ("learner_request_processor_queue_size", NONE),
    ("socket_closing_time", NONE),
];

/// Apache's advanced summaries.
const ADVANCED: [(&str, Source); 23] = [
    ("readlatency", measured!(Ms, Read)),
    ("updatelatency", measured!(Ms, Update)),
    ("propagation_latency", measured!(Ms, Update)),
    ("proposal_latency", staged!(Propose)),
    ("proposal_ack_creation_latency", staged!(Persist)),
    ("commit_propagation_latency", measured!(Ms, CommitPropagation)),
    ("quorum_ack_latency", measured!(Ms, QuorumAck)),
    ("prep_processor_queue_time_ms", staged!(Admit)),
    ("sync_processor_queue_time_ms", staged!(Append)),
    ("sync_processor_queue_flush_time_ms", staged!(Persist)),
    ("sync_processor_queue_and_flush_time_ms", staged!(Append, Persist)),
    ("close_session_prep_time", NONE),
    ("read_commitproc_time_ms", NONE),
    ("write_commitproc_time_ms", staged!(Commit)),
    ("local_write_committed_time_ms", measured!(Ms, Update)),
    ("server_write_committed_time_ms", measured!(Ms, Update)),
    ("read_final_proc_time_ms", staged!(Decode)),
    ("write_final_proc_time_ms", staged!(Apply)),
    ("om_proposal_process_time_ms", NONE),
    ("om_commit_process_time_ms", NONE),
    ("request_throttle_queue_time_ms", NONE),
    ("jvm_pause_time_ms", measured!(Ms, Pause)),
    ("dead_watchers_cleaner_latency", NONE),
];

/// A number as it is shown.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Number {
    /// Whole.
    Int(i64),
    /// With Java's spelling of fractions.
    Real(f64),
}

impl Number {
    /// Every number is finite: there is no NaN among the metrics.
    pub fn as_f64(self) -> f64 {
        match self {
            Number::Int(n) => n as f64,
            Number::Real(x) if x.is_finite() => x,
            Number::Real(_) => 0.0,
        }
    }
}

impl Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Number::Int(n) => write!(f, "{n}"),
            Number::Real(_) => write!(f, "{:?}", self.as_f64()),
        }
    }
}

fn int(n: impl TryInto<i64>) -> Number {
    Number::Int(n.try_into().unwrap_or(i64::MAX))
}

/// What the process uses of the machine, from `/proc`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    /// Descriptors open.
    pub descriptors: u64,
    /// Descriptors allowed.
    pub descriptors_max: u64,
    /// Resident bytes.
    pub resident: u64,
    /// Virtual bytes.
    pub virtual_bytes: u64,
    /// Processor time, s.
    pub cpu_seconds: f64,
    /// Start, s since 1970.
    pub started: f64,
    /// Threads.
    pub threads: u64,
}

impl Process {
    /// Processor time of the process so far, s.
    pub fn read_cpu() -> f64 {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
        fields.skip(11).take(2).filter_map(|f| f.parse::<f64>().ok()).sum::<f64>() / 100.0
    }

    /// Reads `/proc/self`; what can't be read is 0.
    pub fn read() -> Process {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let stat = text("/proc/self/stat");
        // Behind the name, which may hold anything but ends with the last parenthesis.
        let fields: Vec<u64> = stat.rsplit_once(')').map_or(Vec::new(), |(_, rest)| {
            rest.split_whitespace().map(|f| f.parse().unwrap_or(0)).collect()
        });
        let field = |n: usize| fields.get(n - 3).copied().unwrap_or(0);
        // Linux counts them in hundredths for every program.
        const TICKS: f64 = 100.0;
        let boot: f64 = text("/proc/stat")
            .lines()
            .find_map(|l| l.strip_prefix("btime ")?.trim().parse().ok())
            .unwrap_or(0.0);
        let limits = text("/proc/self/limits");
        Process {
            descriptors: std::fs::read_dir("/proc/self/fd").map_or(0, |d| d.count() as u64),
            descriptors_max: limits
                .lines()
                .find_map(|l| l.strip_prefix("Max open files")?.split_whitespace().next()?.parse().ok())
                .unwrap_or(0),
            resident: field(24) * 4096,
            virtual_bytes: field(23),
            cpu_seconds: (field(14) + field(15)) as f64 / TICKS,
            started: boot + field(22) as f64 / TICKS,
            threads: field(20),
        }
    }
}

/// Apache's gauges, by name without prefix.
pub fn gauges(core: &Core, process: &Process) -> Vec<(&'static str, Number)> {
    let l = core.stats.latency();
    let t = core.tree.stats();
    let sizes = core.client_response_sizes();
    let mut all = vec![
        ("avg_latency", Number::Real(l.average_ms)),
        ("min_latency", int(l.min_ms)),
        ("max_latency", int(l.max_ms)),
        ("packets_received", int(core.stats.get(Counter::Received))),
        ("packets_sent", int(core.stats.packets_sent())),
        ("num_alive_connections", int(core.conns.count() as u64)),
        ("outstanding_requests", int(core.outstanding())),
        ("uptime", int(core.uptime_ms())),
        ("znode_count", int(t.znodes)),
        ("watch_count", int(t.watches)),
        ("ephemerals_count", int(t.ephemerals)),
        ("approximate_data_size", int(t.data_bytes)),
        ("global_sessions", int(t.sessions)),
        ("local_sessions", int(core.with_node(|n| n.local_sessions() as u64))),
        ("open_file_descriptor_count", int(process.descriptors)),
        ("max_file_descriptor_count", int(process.descriptors_max)),
        ("connection_drop_probability", Number::Real(0.0)),
        ("last_client_response_size", int(sizes.last)),
        ("max_client_response_size", int(sizes.max)),
        ("min_client_response_size", int(sizes.min)),
        ("outstanding_tls_handshake", int(0)),
        ("auth_failed_count", int(core.stats.get(Counter::AuthFailed))),
        ("non_mtls_remote_conn_count", int(0)),
        ("non_mtls_local_conn_count", int(0)),
    ];
    all.extend(quorum_gauges(core));
    all
}

/// Apache's counters, by name without prefix.
pub fn counters(core: &Core) -> Vec<(&'static str, u64)> {
    let value = |c: &Option<Counter>| c.map_or(0, |c| core.stats.get(c));
    let mut all: Vec<_> = COUNTERS.iter().map(|(name, c)| (*name, value(c))).collect();
    all.push(("response_bytes", core.sent_bytes().saturating_sub(core.stats.get(Counter::EventBytes))));
    all.push(("digest_mismatches_count", core.tree.digest_mismatches()));
    all
}

/// One of Apache's summaries.
pub struct Summary {
    /// Without prefix.
    pub name: &'static str,
    /// Percentiles too.
    pub advanced: bool,
    unit: Unit,
    counted: Counted,
}

impl Summary {
    fn of(core: &Core, name: &'static str, advanced: bool, source: &Source) -> Summary {
        let (unit, counted) = match source {
            Some((unit, read)) => (*unit, read(core)),
            None => (Unit::Plain, Counted::default()),
        };
        Summary { name, advanced, unit, counted }
    }

    fn whole(&self, value: u64) -> Number {
        Number::Int(self.unit.scale(value as f64).round() as i64)
    }

    /// The keys of `mntr` with their values, without `zk_`.
    pub fn lines(&self) -> Vec<(String, Number)> {
        let (name, c) = (self.name, &self.counted);
        let mean = (self.unit.scale(c.mean()) * 10_000.0).round() / 10_000.0;
        let mut out = vec![
            (format!("avg_{name}"), Number::Real(mean)),
            (format!("min_{name}"), self.whole(c.min())),
            (format!("max_{name}"), self.whole(c.max())),
            (format!("cnt_{name}"), int(c.count())),
            (format!("sum_{name}"), self.whole(c.sum)),
        ];
        if self.advanced {
            for (q, key) in [(0.5, "p50"), (0.95, "p95"), (0.99, "p99"), (0.999, "p999")] {
                out.push((format!("{key}_{name}"), self.whole(c.quantile(q))));
            }
        }
        out
    }

    /// What Prometheus gets: quantiles, count and sum.
    fn samples(&self, out: &mut Text, label: &str) {
        let quantiles: &[f64] = if self.advanced { &[0.5, 0.9, 0.99] } else { &[0.5] };
        let (comma, braces) = match label {
            "" => ("", String::new()),
            label => (",", format!("{{{label}}}")),
        };
        for &q in quantiles {
            let value = self.unit.scale(self.counted.quantile(q) as f64);
            out.sample(self.name, &format!("{{{label}{comma}quantile=\"{q}\"}}"), Number::Real(value));
        }
        out.sample(&format!("{}_count", self.name), &braces, Number::Real(self.counted.count() as f64));
        let sum = self.unit.scale(self.counted.sum as f64);
        out.sample(&format!("{}_sum", self.name), &braces, Number::Real(sum));
    }
}

/// All of Apache's summaries.
pub fn summaries(core: &Core) -> Vec<Summary> {
    let basic = BASIC.iter().map(|(name, s)| Summary::of(core, name, false, s));
    let advanced = ADVANCED.iter().map(|(name, s)| Summary::of(core, name, true, s));
    basic.chain(advanced).collect()
}

/// What the server is, and in an ensemble what it does there.
fn server_state(core: &Core) -> String {
    let mut text = format!("zk_server_state\t{}\n", crate::fourletter::mode(core));
    if let Some(doing) = peer_state(core) {
        text.push_str(&format!("zk_peer_state\t{doing}\n"));
    }
    text
}

/// What a member of an ensemble does, in Apache's words.
pub fn peer_state(core: &Core) -> Option<&'static str> {
    Some(match core.service()? {
        Service::None | Service::ReadOnly => return None,
        Service::Leading => "leading - broadcast",
        Service::Following => "following - broadcast",
        Service::Observing => "observing - broadcast",
    })
}

/// The gauges that only members of an ensemble have; those of a leader tell it from the others.
fn quorum_gauges(core: &Core) -> Vec<(&'static str, Number)> {
    let config::Membership::Ensemble(e) = &core.settings.membership else { return Vec::new() };
    if core.is_read_only() {
        return Vec::new();
    }
    let mut out = vec![("quorum_size", int(e.voters().count() as u64))];
    match core.service() {
        Some(Service::Leading) => {
            let learners = core.with_node(|n| n.zab().learners());
            let synced = |observes: bool| {
                int(learners.iter().filter(|(_, o, up)| *up && *o == observes).count() as u64)
            };
            out.extend([
                ("learners", int(learners.len() as u64)),
                ("synced_followers", synced(false)),
                ("synced_non_voting_followers", int(0)),
                ("synced_observers", synced(true)),
                ("pending_syncs", int(learners.iter().filter(|(_, _, up)| !up).count() as u64)),
                ("leader_uptime", int(core.uptime_ms())),
                ("last_proposal_size", int(core.proposals.last.load(Ordering::Relaxed))),
                ("max_proposal_size", int(core.proposals.max.load(Ordering::Relaxed))),
                ("min_proposal_size", int(core.proposals.min.load(Ordering::Relaxed))),
            ]);
        }
        Some(Service::Following) => out.push(("synced_observers", int(0))),
        _ => {}
    }
    out
}

/// Apache's gauges of quotas, which it has for each top-level path below which there are some.
const QUOTAS: [&str; 4] = [
    "quota_count_limit_per_namespace",
    "quota_bytes_limit_per_namespace",
    "quota_count_usage_per_namespace",
    "quota_bytes_usage_per_namespace",
];

/// Where quotas stand: each below this at the path that it is of.
const QUOTA_ROOT: &str = "/zookeeper/quota";

/// The paths with a quota. Of a tree of quotas that is larger than [`limits::QUOTAS`] znodes, those in the part looked at.
fn quota_paths(core: &Core) -> Vec<String> {
    let who = Identity::new(vec![Id::new("super", "")]);
    let (mut found, mut left) = (Vec::new(), limits::QUOTAS);
    let mut below = vec![QUOTA_ROOT.to_owned()];
    while let Some(at) = below.pop()
        && left > 0
    {
        let Ok(page) = core.tree.child_page(&at, &who, "", "", limits::QUOTAS) else { continue };
        left = left.saturating_sub(page.names.len());
        for name in page.names.iter() {
            match &**name {
                "zookeeper_limits" if at == QUOTA_ROOT => found.push("/".to_owned()),
                "zookeeper_limits" => found.push(at[QUOTA_ROOT.len()..].to_owned()),
                "zookeeper_stats" => {}
                name => below.push(format!("{at}/{name}")),
            }
        }
    }
    found
}

/// The values of [`QUOTAS`] by top-level path, the most used first: a hard limit counts before a soft one, and of a limit that
/// is not set nothing is added.
fn quotas(core: &Core) -> Vec<(String, i64, [i64; 4])> {
    let mut by_top: BTreeMap<String, [i64; 4]> = BTreeMap::new();
    for path in quota_paths(core) {
        let Some(quota) = core.tree.quota_for(&path).filter(|q| *q.prefix == *path) else { continue };
        let top = path[1..].split('/').next().map_or("/".to_owned(), |name| format!("/{name}"));
        let (count, bytes) = quota.used.unwrap_or_default();
        let limit = |hard: i64, soft: i64| if hard >= 0 { hard } else { soft.max(0) };
        let sums = by_top.entry(top).or_default();
        for (sum, value) in sums.iter_mut().zip([
            limit(quota.count_hard_limit, quota.count_limit),
            limit(quota.bytes_hard_limit, quota.bytes_limit),
            count.max(0),
            bytes.max(0),
        ]) {
            *sum = sum.saturating_add(value);
        }
    }
    let mut all: Vec<_> = by_top.into_iter().map(|(top, values)| (top, values[2], values)).collect();
    all.sort_by_key(|(_, used, _)| std::cmp::Reverse(*used));
    all.truncate(limits::TOP);
    all
}

/// How long each follower of this leader takes to acknowledge.
fn acknowledgements(core: &Core) -> Vec<(ServerId, Counted)> {
    let leads = core.service() == Some(Service::Leading);
    core.peers().filter(|_| leads).map_or_else(Vec::new, |peers| peers.acks.times())
}

fn of_acknowledgements(counted: Counted) -> Summary {
    Summary { name: "ack_latency", advanced: true, unit: Unit::Ms, counted }
}

/// What waits for each learner of this leader.
fn waiting(core: &Core) -> Vec<WaitedCounts> {
    let leads = core.service() == Some(Service::Leading);
    core.peers().filter(|_| leads).map_or_else(Vec::new, |peers| peers.learners.counts())
}

/// Apache's summaries that a leader has for each other server: `ack_latency` of those that have acknowledged, the others of
/// those that got packets.
fn by_server(core: &Core) -> Vec<(ServerId, Summary)> {
    let acknowledged = acknowledgements(core).into_iter().map(|(id, times)| (id, of_acknowledgements(times)));
    let waiting = waiting(core);
    let sizes = waiting.iter().map(|w| {
        let (name, counted) = ("learner_handler_qp_size", w.packets.clone());
        (w.server, Summary { name, advanced: false, unit: Unit::Plain, counted })
    });
    let times = waiting.iter().map(|w| {
        let (name, counted) = ("learner_handler_qp_time_ms", w.times.clone());
        (w.server, Summary { name, advanced: true, unit: Unit::Ms, counted })
    });
    acknowledged.chain(sizes).chain(times).collect()
}

/// Apache's summaries of the bytes read and written by top-level path.
const PER_NAMESPACE: [&str; 2] = ["read_per_namespace", "write_per_namespace"];

/// Those of one path, in that order.
fn by_namespace(used: &Use) -> [Summary; 2] {
    let summary =
        |name, c: &Counted| Summary { name, advanced: false, unit: Unit::Plain, counted: c.clone() };
    let [read, write] = PER_NAMESPACE;
    [summary(read, &used.reads), summary(write, &used.writes)]
}

/// Apache's counter of what hard quotas refused, by top-level path.
const REFUSED: &str = "quota_exceeded_error_per_namespace";

/// All of Apache's metrics: gauges, counters, summaries, by key without prefix.
pub fn monitor(core: &Core) -> Vec<(String, Number)> {
    let mut all: Vec<(String, Number)> = Vec::new();
    all.extend(gauges(core, &Process::read()).into_iter().map(|(name, value)| (name.to_owned(), value)));
    all.extend(counters(core).into_iter().map(|(name, value)| (name.to_owned(), int(value))));
    all.extend(summaries(core).iter().flat_map(Summary::lines));
    for (key, used) in core.namespaces.top(limits::TOP) {
        let key = key.trim_start_matches('/');
        let keyed = |(line, value): (String, Number)| {
            let (kind, name) = line.split_once('_').expect("a line has a kind");
            (format!("{kind}_{key}_{name}"), value)
        };
        all.extend(by_namespace(&used).iter().flat_map(Summary::lines).map(keyed));
    }
    for (key, _, values) in quotas(core) {
        let key = key.trim_start_matches('/');
        all.extend(QUOTAS.iter().zip(values).map(|(name, value)| (format!("{key}_{name}"), int(value))));
    }
    all.extend(core.tree.quota_refusals().into_iter().map(|(top, n)| (format!("{top}_{REFUSED}"), int(n))));
    for (id, summary) in by_server(core) {
        all.extend(summary.lines().into_iter().map(|(name, value)| {
            let (kind, name) = name.split_once('_').expect("each line is of a kind");
            (format!("{kind}_{}_{name}", id.0), value)
        }));
    }
    // A name that a client has chosen must not end a line of mntr.
    all.retain(|(key, _)| !key.chars().any(|c| c.is_whitespace() || c.is_control()));
    all
}

/// `mntr`: a head, then [`monitor`].
pub fn mntr(core: &Core, out: &mut String) -> std::fmt::Result {
    writeln!(out, "zk_version\t{}, built on {}", version::FULL_NUMBER, version::BUILT)?;
    out.push_str(&server_state(core));
    for (key, value) in monitor(core) {
        writeln!(out, "zk_{key}\t{value}")?;
    }
    Ok(())
}

/// Text in Prometheus's form 0.0.4.
struct Text {
    out: String,
    /// `false`: samples alone, as `mntr` shows them.
    heads: bool,
    prefix: &'static str,
    separator: char,
}

impl Text {
    fn head(&mut self, name: &str, kind: &str) {
        if self.heads {
            // The help text of Apache's provider is the name.
            let _ = write!(self.out, "# HELP {name} {name}\n# TYPE {name} {kind}\n");
        }
    }

    fn help(&mut self, name: &str, kind: &str, help: &str) {
        if self.heads {
            let _ = write!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        }
    }

    fn sample(&mut self, name: &str, labels: &str, value: Number) {
        let (prefix, separator) = (self.prefix, self.separator);
        let _ = writeln!(self.out, "{prefix}{name}{labels}{separator}{:?}", value.as_f64());
    }
}

/// A label's value, quoted.
pub fn quoted(value: &str) -> String {
    let mut out = String::with_capacity(value.len() + 2);
    out.push('"');
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn apache(core: &Core, process: &Process, text: &mut Text) {
    for (name, value) in gauges(core, process) {
        text.head(name, "gauge");
        text.sample(name, "", value);
    }
    for (name, value) in counters(core) {
        text.head(name, "counter");
        text.sample(name, "", Number::Real(value as f64));
    }
    for summary in summaries(core) {
        text.head(summary.name, "summary");
        summary.samples(text, "");
    }
    let mut last = "";
    for (id, summary) in by_server(core) {
        if summary.name != last {
            text.head(summary.name, "summary");
            last = summary.name;
        }
        summary.samples(text, &format!("key=\"{id}\""));
    }
    let namespaces = core.namespaces.top(limits::TOP);
    let namespaces =
        namespaces.iter().map(|(key, used)| (quoted(key.trim_start_matches('/')), by_namespace(used)));
    let namespaces: Vec<_> = namespaces.collect();
    for (n, name) in PER_NAMESPACE.into_iter().enumerate() {
        text.head(name, "summary");
        for (key, summaries) in &namespaces {
            summaries[n].samples(text, &format!("key={key}"));
        }
    }
    let refused = core.tree.quota_refusals();
    if !refused.is_empty() {
        text.head(REFUSED, "counter");
    }
    for (top, n) in refused {
        text.sample(REFUSED, &format!("{{key={}}}", quoted(&top)), int(n));
    }
    let quotas = quotas(core);
    for (i, name) in QUOTAS.iter().enumerate().filter(|_| !quotas.is_empty()) {
        text.head(name, "gauge");
        for (top, _, values) in &quotas {
            text.sample(name, &format!("{{key={}}}", quoted(top.trim_start_matches('/'))), int(values[i]));
        }
    }
}

/// `mntr` of a server with Prometheus's provider: the same samples, as floating point.
pub fn mntr_as_samples(core: &Core) -> String {
    let mut text = Text { out: String::new(), heads: false, prefix: "zk_", separator: '\t' };
    let _ = writeln!(text.out, "zk_version\t{}, built on {}", version::FULL_NUMBER, version::BUILT);
    text.out.push_str(&server_state(core));
    apache(core, &Process::read(), &mut text);
    text.out
}

/// The bounds of Prometheus's buckets, as powers of two of ns: 1 µs to 17 s.
const BUCKET_BITS: std::ops::RangeInclusive<u32> = 10..=34;

/// The whole page that Prometheus scrapes.
pub fn prometheus(core: &Core) -> String {
    let process = Process::read();
    let mut text = Text { out: String::with_capacity(64 << 10), heads: true, prefix: "", separator: ' ' };
    apache(core, &process, &mut text);
    own(core, &mut text);
    if core.settings.operations.process_metrics {
        machine(&process, &mut text);
    }
    text.out
}

/// `process_*` as every exporter names them, and the few `jvm_*` that dashboards for ZooKeeper ask for.
fn machine(p: &Process, text: &mut Text) {
    for (name, kind, value) in [
        ("process_cpu_seconds_total", "counter", p.cpu_seconds),
        ("process_start_time_seconds", "gauge", p.started),
        ("process_open_fds", "gauge", p.descriptors as f64),
        ("process_max_fds", "gauge", p.descriptors_max as f64),
        ("process_resident_memory_bytes", "gauge", p.resident as f64),
        ("process_virtual_memory_bytes", "gauge", p.virtual_bytes as f64),
        ("jvm_threads_current", "gauge", p.threads as f64),
    ] {
        text.head(name, kind);
        text.sample(name, "", Number::Real(value));
    }
    text.help("jvm_memory_bytes_used", "gauge", "resident bytes of this process; there is no JVM");
    text.sample("jvm_memory_bytes_used", "{area=\"heap\"}", Number::Real(p.resident as f64));
    text.sample("jvm_memory_bytes_used", "{area=\"nonheap\"}", Number::Real(0.0));
    text.help("jvm_gc_collection_seconds", "summary", "there is no garbage collector");
    text.sample("jvm_gc_collection_seconds_count", "{gc=\"none\"}", Number::Real(0.0));
    text.sample("jvm_gc_collection_seconds_sum", "{gc=\"none\"}", Number::Real(0.0));
}

/// Falconer's own, in seconds and with `_total`, as Prometheus recommends.
fn own(core: &Core, text: &mut Text) {
    let name = "falconer_stage_seconds";
    text.help(name, "histogram", "Time that a request spent in each stage");
    for stage in Stage::ALL {
        let counted = core.stats.staged(stage);
        histogram(text, name, &format!("stage=\"{}\"", stage.name()), &counted);
    }
    let name = "falconer_request_seconds";
    text.help(name, "histogram", "From the socket's readiness to the reply");
    for (kind, m) in [("read", Measure::Read), ("update", Measure::Update), ("other", Measure::Other)] {
        histogram(text, name, &format!("kind=\"{kind}\""), &core.stats.measured(m));
    }
    let name = "falconer_fsync_seconds";
    text.help(name, "histogram", "Durable writes of the log");
    histogram(text, name, "", &core.stats.measured(Measure::Sync));
    text.help("falconer_operations_total", "counter", "Requests by operation");
    for op in OPS {
        let labels = format!("{{operation=\"{op:?}\"}}");
        text.sample("falconer_operations_total", &labels, int(core.stats.operations(op)));
    }
    let name = "falconer_log_batch_records";
    text.help(name, "summary", "Records in one durable write");
    let batch = core.stats.measured(Measure::BatchRecords);
    for q in [0.5, 0.9, 0.99] {
        text.sample(name, &format!("{{quantile=\"{q}\"}}"), int(batch.quantile(q)));
    }
    text.sample(&format!("{name}_count"), "", int(batch.count()));
    text.sample(&format!("{name}_sum"), "", int(batch.sum));
    text.help("falconer_log_backend_info", "gauge", "How the log is written");
    text.sample(
        "falconer_log_backend_info",
        &format!("{{backend={},version={}}}", quoted(core.log.backend()), quoted(env!("CARGO_PKG_VERSION"))),
        int(1),
    );
    for (name, help, counter) in [
        ("falconer_log_bytes_total", "Bytes of the log written, padding included", Counter::LogBytes),
        ("falconer_slow_requests_total", "Requests over falconer.slowRequestMs", Counter::Slow),
        ("falconer_errors_total", "Requests answered with an error", Counter::Errors),
        ("falconer_events_total", "Watch events sent", Counter::Events),
        ("falconer_slow_syncs_total", "Durable writes over fsync.warningthresholdms", Counter::SlowSyncs),
        ("falconer_slow_hand_overs_total", "Leadership given up for a slow disk", Counter::SlowHandOvers),
        (
            "falconer_state_doubts_total",
            "Digests of others that were not this server's",
            Counter::StateDoubts,
        ),
    ] {
        text.help(name, "counter", help);
        text.sample(name, "", int(core.stats.get(counter)));
    }
    let seconds = |m: Measure| Number::Real(core.stats.measured(m).sum as f64 / 1e9);
    text.help("falconer_recovery_seconds", "gauge", "The start, by part");
    for (part, m) in
        [("snapshot", Measure::RecoveryLoad), ("log", Measure::RecoveryReplay), ("all", Measure::Recovery)]
    {
        text.sample("falconer_recovery_seconds", &format!("{{part=\"{part}\"}}"), seconds(m));
    }
    text.help("falconer_snapshot_seconds", "summary", "Snapshots written");
    let snapshots = core.stats.measured(Measure::Snapshot);
    text.sample("falconer_snapshot_seconds_count", "", int(snapshots.count()));
    text.sample("falconer_snapshot_seconds_sum", "", Number::Real(snapshots.sum as f64 / 1e9));
    usage(core, text);
    text.help("falconer_log_full", "gauge", "1 while writes are refused since the log has no space");
    text.sample("falconer_log_full", "", int(i64::from(core.is_log_full())));
    text.help("falconer_applied_zxid", "gauge", "The last transaction applied");
    text.sample("falconer_applied_zxid", "", int(core.tree.applied().as_u64()));
}

/// The busiest top-level paths and client addresses: never more than [`limits::TOP`] of each.
fn usage(core: &Core, text: &mut Text) {
    let namespaces = core.namespaces.top(limits::TOP);
    let labelled = |name: &str| format!("{{namespace={}}}", quoted(name));
    text.help("falconer_namespace_requests_total", "counter", "Requests by top-level path, the busiest");
    for (name, used) in &namespaces {
        text.sample("falconer_namespace_requests_total", &labelled(name), int(used.requests));
    }
    text.help("falconer_namespace_bytes_total", "counter", "Bytes of writes asked for and of reads answered");
    for (name, used) in &namespaces {
        text.sample("falconer_namespace_bytes_total", &labelled(name), int(used.reads.sum + used.writes.sum));
    }
    text.help(
        "falconer_namespace_outstanding",
        "gauge",
        "Requests without a reply by top-level path, of the same",
    );
    let waiting = accounting::outstanding(core);
    for (name, _) in &namespaces {
        let n = waiting.get(name).copied().unwrap_or(0);
        text.sample("falconer_namespace_outstanding", &labelled(name), int(n));
    }
    let (_, addresses) = accounting::clients(core, limits::TOP);
    let of = |ip: &std::net::IpAddr| format!("{{address=\"{ip}\"}}");
    text.help("falconer_client_requests_total", "counter", "Requests by client address, the busiest");
    for (ip, used) in &addresses {
        text.sample("falconer_client_requests_total", &of(ip), int(used.requests));
    }
    text.help("falconer_client_connections", "gauge", "Connections by client address, of the same");
    for (ip, used) in &addresses {
        text.sample("falconer_client_connections", &of(ip), int(used.connections));
    }
}

fn histogram(text: &mut Text, name: &str, labels: &str, counted: &Counted) {
    let comma = if labels.is_empty() { "" } else { "," };
    let bucket = format!("{name}_bucket");
    for bits in BUCKET_BITS {
        let le = (1_u64 << bits) as f64 / 1e9;
        text.sample(&bucket, &format!("{{{labels}{comma}le=\"{le}\"}}"), int(counted.below_power(bits)));
    }
    let count = counted.count();
    text.sample(&bucket, &format!("{{{labels}{comma}le=\"+Inf\"}}"), int(count));
    let braces = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
    text.sample(&format!("{name}_count"), &braces, int(count));
    text.sample(&format!("{name}_sum"), &braces, Number::Real(counted.sum as f64 / 1e9));
}
