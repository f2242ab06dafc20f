//! The one table of everything an operator may write, from which the resolver, the `--check` report and
//! `docs/configuration.md` are all made.

use crate::limits;

/// One row: a key, or a family of keys (`name` ends in `.*`).
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The heading it stands under in the documentation.
    pub section: Section,
    /// As written in `zoo.cfg`; for [`Place::Property`] the whole property name. A trailing `*` stands for any rest.
    pub name: &'static str,
    /// Other spellings accepted: the option titles of ZooKeeper's manual, which ZooKeeper itself reads nowhere.
    pub also: &'static [&'static str],
    /// Where it may stand.
    pub place: Place,
    /// How its value is read.
    pub kind: Kind,
    /// The value used when it is absent, as text; empty when there is none or it is computed (`note` says how).
    pub default: &'static str,
    /// What Falconer does with it.
    pub verdict: Verdict,
    /// What it means, or why it is ignored or refused: a clause that can follow the key in a report.
    pub note: &'static str,
}

/// Headings of the documentation, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    /// Data directories, client port, tick.
    Basics,
    /// Keys that only Falconer knows.
    Own,
    /// What JVM flags set.
    Properties,
    /// Membership and quorum timing.
    Ensemble,
    /// Files, log, snapshots.
    Storage,
    /// Limits and throttles.
    Load,
    /// What clients can do to the tree, and who may.
    Behaviour,
    /// Four-letter words, AdminServer, metrics, audit.
    Operations,
    /// TLS.
    Tls,
    /// SASL and other authentication.
    Sasl,
    /// Knobs of the Java implementation.
    Java,
}

impl Section {
    /// In the documentation's order.
    pub const ALL: [Section; 11] = [
        Section::Basics,
        Section::Own,
        Section::Properties,
        Section::Ensemble,
        Section::Storage,
        Section::Load,
        Section::Behaviour,
        Section::Operations,
        Section::Tls,
        Section::Sasl,
        Section::Java,
    ];

    /// The heading.
    pub const fn title(self) -> &'static str {
        match self {
            Section::Basics => "Basics",
            Section::Own => "Falconer's own keys",
            Section::Properties => "Java system properties without the `zookeeper.` prefix",
            Section::Ensemble => "Ensemble",
            Section::Storage => "Storage",
            Section::Load => "Limits and throttles",
            Section::Behaviour => "Clients, ACLs and quotas",
            Section::Operations => "Administration and metrics",
            Section::Tls => "TLS",
            Section::Sasl => "SASL and authentication providers",
            Section::Java => "Knobs of the Java implementation",
        }
    }
}

/// Where a key may stand. A key in the wrong place has no effect in ZooKeeper either; Falconer says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Only in `zoo.cfg` (a system property of that name is read by nobody).
    File,
    /// In `zoo.cfg`, or as the system property `zookeeper.<name>`; the file wins.
    Both,
    /// Only as the system property `<name>`.
    Property,
    /// Falconer's own: in `zoo.cfg` or as the system property of the same name; the file wins.
    Own,
}

/// How a value is read. `File*` kinds refuse what they can't read, as ZooKeeper does; the others stand for
/// `Integer.getInteger` and friends, which fall back to the default without a word. Falconer falls back, and warns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// A path.
    Path,
    /// Decimal integer in a range, else refuse.
    FileInt(i64, i64),
    /// `true`/`false` in any case, else refuse.
    FileBool,
    /// Java's `decode`: decimal, `0x` hex or leading-zero octal; outside of the range: clamped.
    Int(i64, i64),
    /// Only `true` (any case) is true.
    Bool,
    /// Only `true` in exactly this spelling is true.
    ExactTrue,
    /// Only `false` in exactly this spelling is false.
    ExactFalse,
    /// Only the word `yes` switches it on.
    WordYes,
    /// Only the word `no` switches it off.
    WordNo,
    /// One of these words, else refuse.
    Choice(&'static [&'static str]),
    /// Read by nobody.
    Unread,
}

/// What Falconer does with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Does what ZooKeeper's manual says.
    Honoured,
    /// Accepted without effect; the operator is told.
    Ignored,
    /// Accepted without effect; it means nothing outside of the Java implementation.
    Silent,
    /// Honoured in an ensemble; read and checked, without effect, on a server alone.
    EnsembleOnly,
    /// Refuses to start, unless the value asks for nothing: empty, `false`, or ZooKeeper's default.
    Refused,
}

impl Verdict {
    /// As documentation and reports name it.
    pub const fn word(self) -> &'static str {
        match self {
            Verdict::Honoured => "honoured",
            Verdict::Ignored => "ignored",
            Verdict::Silent => "not needed",
            Verdict::EnsembleOnly => "ensembles only",
            Verdict::Refused => "refused",
        }
    }
}

impl Key {
    /// Whether `value` of a refused key asks for nothing that Falconer lacks.
    pub fn asks_for_nothing(&self, value: &str) -> bool {
        value.is_empty()
            || value.eq_ignore_ascii_case("false")
            || (!self.default.is_empty() && value == self.default)
    }

    const fn also(mut self, titles: &'static [&'static str]) -> Key {
        self.also = titles;
        self
    }
}

/// The row of a key of `zoo.cfg`. Exact names and titles before families; a row that may not stand in a file is found
/// only when there is no other, so that the operator can be told where it belongs.
pub fn find_in_file(name: &str) -> Option<&'static Key> {
    best(name, |k| k.place != Place::Property).or_else(|| best(name, |k| k.place == Place::Property))
}

/// The row of a system property by its full name, prefix included where it has one.
pub fn find_property(name: &str) -> Option<&'static Key> {
    best(name, |k| matches!(k.place, Place::Property | Place::Own)).or_else(|| {
        let rest = name.strip_prefix("zookeeper.")?;
        best(rest, |k| matches!(k.place, Place::Both | Place::File))
    })
}

fn best(name: &str, may: impl Fn(&Key) -> bool) -> Option<&'static Key> {
    let rows = || KEYS.iter().filter(|k| may(k));
    rows().find(|k| k.name == name || k.also.contains(&name)).or_else(|| {
        let family = |k: &&Key| k.name.strip_suffix('*').is_some_and(|stem| name.starts_with(stem));
        rows().filter(family).max_by_key(|k| k.name.len())
    })
}

/// The known key that `name` was probably meant to be: same letters in another case or with other separators, or at
/// most two typing errors away.
pub fn suggest(name: &str) -> Option<&'static str> {
    let fold = |s: &str| -> Vec<char> {
        s.chars().filter(|c| !matches!(c, '.' | '_' | '-')).flat_map(char::to_lowercase).collect()
    };
    if name.chars().count() > limits::SUGGEST_KEY_LEN_MAX {
        return None;
    }
    let wanted = fold(name.strip_prefix("zookeeper.").unwrap_or(name));
    let tolerance = match wanted.len() {
        0..=3 => return None,
        4..=6 => 1,
        _ => 2,
    };
    KEYS.iter()
        .filter(|k| !k.name.ends_with('*') && k.place != Place::Property)
        .flat_map(|k| {
            std::iter::once(k.name).chain(k.also.iter().copied()).map(move |spelling| (k.name, spelling))
        })
        .map(|(name, spelling)| (distance(&wanted, &fold(spelling)), name))
        .filter(|(d, _)| *d <= tolerance)
        .min_by_key(|(d, _)| *d)
        .map(|(_, name)| name)
}

/// `value` as a report may show it: secrets hidden, control characters escaped, long values cut.
pub fn shown(name: &str, value: &str) -> String {
    if is_secret(name) && !value.is_empty() {
        return "***".to_owned();
    }
    match value.char_indices().nth(limits::SHOWN_VALUE_LEN_MAX) {
        Some((at, _)) => printable(&value[..at]) + "…",
        None => printable(value),
    }
}

/// Control characters escaped: what an operator pastes into a terminal must not steer it, nor break a line in two.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// Passwords and the super user's digest. By name rather than by row, so that a misspelt password key stays hidden too.
fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    (name.contains("password") && !name.contains("passwordpath"))
        || name.contains("superdigest")
        || name.contains("secret")
}

/// Typing errors between two words: insertions, deletions, replacements, and swaps of neighbours.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let same = usize::from(a[i - 1] != b[j - 1]);
            row[j] = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + same);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before_last[j - 2] + 1);
            }
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

const fn key(
    section: Section,
    name: &'static str,
    place: Place,
    kind: Kind,
    default: &'static str,
    verdict: Verdict,
    note: &'static str,
) -> Key {
    Key { section, name, also: &[], place, kind, default, verdict, note }
}

/// A key that nothing reads: shorter rows for what is ignored or refused.
const fn unread(
    section: Section,
    name: &'static str,
    default: &'static str,
    verdict: Verdict,
    note: &'static str,
) -> Key {
    key(section, name, Place::Both, Kind::Unread, default, verdict, note)
}

const I32: i64 = i32::MAX as i64;
const KB_MAX: i64 = i64::MAX / 1024;
const NO_TLS: &str = "TLS is not available yet; Falconer does not start half-protected";
const NO_SASL: &str = "SASL is not available yet; Falconer does not start half-protected";
const NO_METRICS: &str = "a setting of a metrics provider that is not available here";
const OWN_THROTTLE: &str = "Falconer throttles by itself: requests in flight per connection, and bytes in flight in all, are bounded";
const JVM: &str = "tunes the Java implementation";

use Kind::{
    Bool, Choice, ExactFalse, ExactTrue, FileBool, FileInt, Int, Path, Text, Unread, WordNo, WordYes,
};
use Place::{Both, File, Own, Property};
use Section::{Basics, Behaviour, Ensemble, Java, Load, Operations, Properties, Sasl, Storage, Tls};
use Verdict::{EnsembleOnly, Honoured, Ignored, Refused, Silent};

/// The table. Order within a section is the documentation's order.
#[rustfmt::skip]
pub static KEYS: &[Key] = &[
    // --- Basics
    key(Basics, "dataDir", File, Path, "", Honoured, "snapshots, log, superblock and `myid`; required"),
    key(Basics, "dataLogDir", File, Path, "", Honoured, "the log, if it shall live on another device; default dataDir"),
    key(Basics, "clientPort", File, FileInt(0, 65535), "", Honoured, "the port clients connect to; 0 lets the system choose"),
    key(Basics, "clientPortAddress", File, Text, "", Honoured, "the address that port is bound to; default all"),
    key(Basics, "clientPortListenBacklog", File, FileInt(-1, I32), "-1", Honoured, "listen backlog; 0 and less is 1024"),
    key(Basics, "tickTime", File, FileInt(1, limits::TICK_MS_MAX), "3000", Honoured, "the unit of all session and quorum times, in ms"),
    key(Basics, "minSessionTimeout", File, FileInt(-1, I32), "-1", Honoured, "ms; -1 is 2 ticks"),
    key(Basics, "maxSessionTimeout", File, FileInt(-1, I32), "-1", Honoured, "ms; -1 is 20 ticks"),
    key(Basics, "maxClientCnxns", File, FileInt(-I32, I32), "60", Honoured, "connections per client address; 0 and less is unlimited"),
    key(Basics, "maxCnxns", Both, Int(-I32, I32), "0", Honoured, "connections of all clients; 0 and less is unlimited"),
    key(Basics, "clientTcpKeepAlive", Both, Bool, "false", Honoured, "SO_KEEPALIVE on client connections"),
    key(Basics, "nio.sessionlessCnxnTimeout", Both, Int(1, I32), "10000", Honoured, "ms a connection may live without a session"),

    // --- Own
    key(Section::Own, "falconer.jute.maxbuffer", Own, FileInt(1024, limits::REQUEST_BYTES_MAX), "", Honoured, "bytes of the largest request; at most 32 MiB, as what becomes of it has to fit one log segment; wins over the property jute.maxbuffer"),
    key(Section::Own, "falconer.readonlymode.enabled", Own, FileBool, "", Honoured, "wins over the property readonlymode.enabled"),
    key(Section::Own, "falconer.znode.container.checkIntervalMs", Own, FileInt(1, I32), "", Honoured, "wins over the property without prefix"),
    key(Section::Own, "falconer.znode.container.maxPerMinute", Own, FileInt(1, I32), "", Honoured, "wins over the property without prefix"),
    key(Section::Own, "falconer.znode.container.maxNeverUsedIntervalMs", Own, FileInt(0, i64::MAX), "", Honoured, "wins over the property without prefix"),
    key(Section::Own, "falconer.walBackend", Own, Choice(&["auto", "uring", "pwritev2", "buffered"]), "auto", Honoured, "how the log is written; auto takes the first of uring, pwritev2, buffered that works on this directory"),
    key(Section::Own, "falconer.metrics", Own, FileBool, "true", Honoured, "whether times of stages, operations and namespaces are counted; false leaves what srvr shows"),
    key(Section::Own, "falconer.slowRequestMs", Own, FileInt(0, I32), "1000", Honoured, "a request that took longer is logged with the time of each stage, at most one a second; 0 is off"),
    key(Section::Own, "falconer.diskCheck", Own, FileBool, "true", Honoured, "whether the start writes a few blocks beside the log to see what the disk is worth; some ten ms"),
    key(Section::Own, "falconer.handOverWhenSlow", Own, FileBool, "true", EnsembleOnly, "whether a leader whose log is for ten seconds far slower than those of its followers lets one of them lead; only where all that vote are Falconers"),
    key(Section::Own, "falconer.eventLoops", Own, FileInt(0, limits::EVENT_LOOPS_MAX), "0", Honoured, "threads that own client connections; 0 is one per core, at most 16"),

    // --- Properties without prefix
    key(Properties, "jute.maxbuffer", Property, Int(1024, limits::REQUEST_BYTES_MAX), "1048575", Honoured, "bytes of the largest request; at most 32 MiB, as what becomes of it has to fit one log segment; in zoo.cfg write falconer.jute.maxbuffer"),
    key(Properties, "readonlymode.enabled", Property, ExactTrue, "false", Honoured, "without a quorum, clients that allow it may read; answers isro whatever the whitelist says; in zoo.cfg write falconer.readonlymode.enabled"),
    key(Properties, "znode.container.checkIntervalMs", Property, Int(1, I32), "60000", Honoured, "ms between searches for empty containers and expired znodes; in zoo.cfg write falconer.znode.container.checkIntervalMs"),
    key(Properties, "znode.container.maxPerMinute", Property, Int(1, I32), "10000", Honoured, "containers and expired znodes deleted per minute; in zoo.cfg write falconer.znode.container.maxPerMinute"),
    key(Properties, "znode.container.maxNeverUsedIntervalMs", Property, Int(0, i64::MAX), "0", Honoured, "ms until a container that never had a child is deleted, 0 is never; in zoo.cfg write falconer.znode.container.maxNeverUsedIntervalMs"),
    key(Properties, "fsync.warningthresholdms", Property, Int(0, i64::MAX), "1000", Honoured, "see Storage; the property is read with and without prefix"),
    key(Properties, "java.security.auth.login.config", Property, Unread, "", Refused, "a JAAS file switches SASL on in ZooKeeper; SASL is not available yet"),
    key(Properties, "follower.nodelay", Property, Unread, "true", Silent, "TCP_NODELAY is always on"),
    key(Properties, "leader.nodelay", Property, Unread, "true", Silent, "TCP_NODELAY is always on"),
    key(Properties, "zookeeper.jmx.*", Property, Unread, "", Silent, "there is no JMX; mntr has the numbers, if 4lw.commands.whitelist names it"),
    key(Properties, "zookeeper.log.*", Property, Unread, "", Silent, "belongs to the Java logging set-up"),
    key(Properties, "zookeeper.root.logger", Property, Unread, "", Silent, "belongs to the Java logging set-up"),
    key(Properties, "zookeeper.console.threshold", Property, Unread, "", Silent, "belongs to the Java logging set-up"),

    // --- Ensemble
    key(Ensemble, "server.*", File, Text, "", Honoured, "a member: host:quorumPort:electionPort[:role][;[clientHost:]clientPort]; a single one runs alone, more are an ensemble"),
    key(Ensemble, "group*", File, Unread, "", Refused, "hierarchical quorums are not available in this version; a majority of the participants decides"),
    key(Ensemble, "weight*", File, Unread, "", Refused, "hierarchical quorums are not available in this version; a majority of the participants decides"),
    key(Ensemble, "dynamicConfigFile", File, Path, "", Honoured, "the file with the server, group and weight lines"),
    key(Ensemble, "initLimit", File, FileInt(0, I32), "0", EnsembleOnly, "ticks a follower may take to connect and synchronise; required in an ensemble"),
    key(Ensemble, "syncLimit", File, FileInt(0, I32), "0", EnsembleOnly, "ticks of silence between leader and follower; required in an ensemble"),
    key(Ensemble, "electionAlg", File, FileInt(3, 3), "3", EnsembleOnly, "only 3, fast leader election, exists"),
    key(Ensemble, "peerType", File, Text, "participant", EnsembleOnly, "participant or observer; where server lines say otherwise they win"),
    key(Ensemble, "standaloneEnabled", File, FileBool, "true", Honoured, "false: a single member is an ensemble of one, which others can follow"),
    key(Ensemble, "reconfigEnabled", File, FileBool, "false", Honoured, "whether reconfig exists; a server alone answers it with an error in either case, as ZooKeeper does: ReconfigDisabled when false, Unimplemented when true"),
    key(Ensemble, "quorumListenOnAllIPs", File, FileBool, "false", EnsembleOnly, "bind the quorum and election ports on all addresses"),
    key(Ensemble, "localSessionsEnabled", File, FileBool, "false", EnsembleOnly, "new sessions are known to their server alone, cost no transaction and get no ephemerals; the same on every member"),
    key(Ensemble, "localSessionsUpgradingEnabled", File, FileBool, "false", EnsembleOnly, "with localSessionsEnabled: the first ephemeral makes a session known to every server"),
    key(Ensemble, "tcpKeepAlive", Both, Bool, "false", EnsembleOnly, "SO_KEEPALIVE between members"),
    key(Ensemble, "leaderServes", Both, WordNo, "yes", Ignored, "a leader always takes clients"),
    key(Ensemble, "connectToLearnerMasterLimit", File, FileInt(0, I32), "0", EnsembleOnly, "ticks a connection to the leader may take to come about, within initLimit; 0 is 2 (ZooKeeper: initLimit)"),
    key(Ensemble, "observerMasterPort", File, Unread, "0", Ignored, "observers follow the leader itself: no follower serves them in this version"),
    key(Ensemble, "syncEnabled", File, Unread, "true", Ignored, "an observer always keeps its log"),
    key(Ensemble, "multiAddress.enabled", File, Unread, "false", Refused, "several addresses per member change the protocol between members; not available yet"),
    key(Ensemble, "multiAddress.reachabilityCheckEnabled", File, Unread, "true", Silent, "needs multiAddress.enabled"),
    key(Ensemble, "multiAddress.reachabilityCheckTimeoutMs", File, Unread, "1000", Silent, "needs multiAddress.enabled"),
    key(Ensemble, "oraclePath", File, Unread, "", Refused, "quorums of two servers and an oracle are not available"),
    key(Ensemble, "cnxTimeout", Both, Int(1, I32), "5000", EnsembleOnly, "ms a connection to another server may take to come about"),
    key(Ensemble, "quorumCnxnTimeoutMs", Both, Int(-1, I32), "-1", EnsembleOnly, "ms a caller of the election port may take to say who it is; 0 and less is syncLimit ticks"),
    key(Ensemble, "electionPortBindRetry", Both, Int(0, I32), "3", EnsembleOnly, "how often, a second apart, a taken quorum or election port is tried again; 0 is for ever"),
    key(Ensemble, "fastleader.minNotificationInterval", Both, Int(1, I32), "200", EnsembleOnly, "ms until a vote that nobody answers is sent again, the first time"),
    key(Ensemble, "fastleader.maxNotificationInterval", Both, Int(1, I32), "60000", EnsembleOnly, "the same at most: the time doubles"),
    unread(Ensemble, "observer.reconnectDelayMs", "0", Ignored, "an observer comes back at once"),
    unread(Ensemble, "observer.election.DelayMs", "200", Ignored, "an observer comes back at once"),
    unread(Ensemble, "leader.maxTimeToWaitForEpoch", "-1", Ignored, "initLimit bounds the wait"),

    // --- Storage
    key(Storage, "autopurge.snapRetainCount", File, FileInt(-I32, I32), "3", Honoured, "snapshots kept, at least 3, and the log they need"),
    key(Storage, "autopurge.purgeInterval", File, FileInt(-I32, I32), "", Honoured, "0 and less: nothing is ever removed; absent or a number of hours: what retention allows to go is removed after each snapshot, whatever the number"),
    key(Storage, "snapCount", Both, Int(2, I32), "100000", Honoured, "a snapshot is due after between half of this and this many transactions, once the log since the last snapshot is larger than what that holds, uncompressed"),
    key(Storage, "snapSizeLimitInKb", Both, Int(-1, KB_MAX), "131072", Honoured, "the same rule by bytes of log; 0 and less is off. ZooKeeper's default is 4194304: a smaller one keeps restarts short"),
    key(Storage, "datadir.autocreate", Both, Bool, "true", Honoured, "false: a missing data directory is an error"),
    unread(Storage, "db.autocreate", "true", Ignored, "not available in this version: a blank directory is a blank server"),
    key(Storage, "snapshot.trust.empty", Both, Bool, "false", Honoured, "import a version-2 directory that has logs but no snapshot"),
    key(Storage, "fsync.warningthresholdms", Both, Int(0, i64::MAX), "1000", Honoured, "log a durable write that took longer, in ms"),
    key(Storage, "forceSync", Both, WordNo, "yes", Ignored, "Falconer never acknowledges a write that a power cut could lose"),
    unread(Storage, "serializeLastProcessedZxid.enabled", "true", Silent, "a snapshot of Falconer always names its zxid"),
    unread(Storage, "preAllocSize", "65536", Ignored, "log segments are 64 MiB, prepared ahead of need"),
    unread(Storage, "txnLogSizeLimitInKb", "-1", Ignored, "log segments are 64 MiB, prepared ahead of need"),
    key(Storage, "commitLogCount", Both, Int(500, 1_000_000), "500", EnsembleOnly, "committed transactions kept in memory for followers that come back; older ones are read from the log"),
    unread(Storage, "snapshotSizeFactor", "0.33", Ignored, "a follower gets the log while that is shorter than the tree, else a snapshot"),
    unread(Storage, "flushDelay", "0", Ignored, "batches form by themselves under load and no timer delays a lonely write"),
    unread(Storage, "maxWriteQueuePollTime", "", Ignored, "batches form by themselves under load and no timer delays a lonely write"),
    unread(Storage, "maxBatchSize", "1000", Ignored, "a batch takes all that waits, up to 1 MiB"),
    unread(Storage, "snapshot.compression.method", "", Silent, "snapshots are always compressed with zstd; ZooKeeper's gz and snappy snapshots are read whatever this says"),
    unread(Storage, "closeSessionTxn.enabled", "true", Silent, "a closing session always names the znodes it deletes"),
    unread(Storage, "digest.enabled", "true", Ignored, "the state digest is always kept"),

    // --- Load
    unread(Load, "globalOutstandingLimit", "1000", Ignored, OWN_THROTTLE),
    unread(Load, "request_throttle_max_requests", "0", Ignored, OWN_THROTTLE).also(&["requestThrottleLimit"]),
    unread(Load, "request_throttle_stall_time", "100", Ignored, OWN_THROTTLE).also(&["requestThrottleStallTime"]),
    unread(Load, "request_throttle_drop_stale", "true", Ignored, OWN_THROTTLE).also(&["requestThrottleDropStale"]),
    unread(Load, "request_stale_latency_check", "false", Ignored, OWN_THROTTLE).also(&["requestStaleLatencyCheck"]),
    unread(Load, "request_stale_connection_check", "true", Ignored, OWN_THROTTLE).also(&["requestStaleConnectionCheck"]),
    unread(Load, "request_throttler.shutdownTimeout", "10000", Silent, OWN_THROTTLE),
    unread(Load, "throttled_op_wait_time", "0", Ignored, OWN_THROTTLE).also(&["throttledOpWaitTime"]),
    unread(Load, "largeRequestMaxBytes", "104857600", Ignored, OWN_THROTTLE),
    unread(Load, "largeRequestThreshold", "-1", Ignored, OWN_THROTTLE),
    unread(Load, "connection_throttle_tokens", "0", Ignored, OWN_THROTTLE).also(&["connectionMaxTokens"]),
    unread(Load, "connection_throttle_fill_time", "1", Ignored, OWN_THROTTLE).also(&["connectionTokenFillTime"]),
    unread(Load, "connection_throttle_fill_count", "1", Ignored, OWN_THROTTLE).also(&["connectionTokenFillCount"]),
    unread(Load, "connection_throttle_freeze_time", "-1", Ignored, OWN_THROTTLE).also(&["connectionFreezeTime"]),
    unread(Load, "connection_throttle_drop_increase", "0.02", Ignored, OWN_THROTTLE).also(&["connectionDropIncrease"]),
    unread(Load, "connection_throttle_drop_decrease", "0.002", Ignored, OWN_THROTTLE).also(&["connectionDropDecrease"]),
    unread(Load, "connection_throttle_decrease_ratio", "0", Ignored, OWN_THROTTLE).also(&["connectionDecreaseRatio"]),
    unread(Load, "connection_throttle_weight_enabled", "false", Ignored, OWN_THROTTLE),
    unread(Load, "connection_throttle_global_session_weight", "3", Ignored, OWN_THROTTLE),
    unread(Load, "connection_throttle_local_session_weight", "1", Ignored, OWN_THROTTLE),
    unread(Load, "connection_throttle_renew_session_weight", "2", Ignored, OWN_THROTTLE),
    unread(Load, "jute.maxbuffer.extrasize", "", Ignored, "records of Falconer's log and snapshots need no extra room"),

    // --- Behaviour
    key(Behaviour, "extendedTypesEnabled", Both, Bool, "false", Honoured, "znodes with a time to live"),
    key(Behaviour, "enforceQuota", Both, Bool, "false", Honoured, "refuse writes beyond a hard quota"),
    key(Behaviour, "skipACL", Both, WordYes, "no", Honoured, "the word yes lets everybody do everything"),
    key(Behaviour, "DigestAuthenticationProvider.superDigest", Both, Text, "", Honoured, "super:<base64 of sha1(super:password)>, the super user"),
    key(Behaviour, "DigestAuthenticationProvider.enabled", Both, Bool, "true", Honoured, "whether the digest scheme exists"),
    unread(Behaviour, "DigestAuthenticationProvider.digestAlg", "SHA1", Refused, "only SHA1 is available; with another algorithm every digest ACL would mean other people"),
    unread(Behaviour, "emulate353TTLNodes", "false", Refused, "the ephemeral-owner encoding of ZooKeeper 3.5.3 is not available; it would change the meaning of stored znodes"),
    unread(Behaviour, "enableEagerACLCheck", "false", Ignored, "ACLs are checked once, at the moment of effect"),
    unread(Behaviour, "IPAuthenticationProvider.usexforwardedfor", "false", Refused, "the address of a client is the one that it connects from"),

    // --- Operations
    key(Operations, "4lw.commands.whitelist", Both, Text, "", Honoured, "four-letter words that are answered: a comma list, or * for all; srvr always is"),
    key(Operations, "admin.enableServer", Both, ExactFalse, "true", Honoured, "the admin interface: commands, metrics, health, the page; a port that can't be had is a warning, the server starts without it"),
    key(Operations, "admin.serverAddress", Both, Text, "127.0.0.1", Honoured, "where the admin interface listens; ZooKeeper's default is all addresses, here only this machine reaches it unless an address is given: 0.0.0.0 opens it to all"),
    key(Operations, "admin.serverPort", Both, Int(0, 65535), "8080", Honoured, "port of the admin interface"),
    key(Operations, "admin.idleTimeout", Both, Int(1, 600_000), "30000", Honoured, "ms until a connection to the admin interface that says nothing is closed"),
    key(Operations, "admin.commandURL", Both, Text, "/commands", Honoured, "path in front of the commands"),
    key(Operations, "admin.snapshot.enabled", Both, ExactFalse, "true", Honoured, "whether the command snapshot answers"),
    key(Operations, "admin.restore.enabled", Both, ExactFalse, "true", Honoured, "whether the command restore answers"),
    key(Operations, "admin.rateLimiterIntervalInMS", Both, Int(0, I32), "300000", Honoured, "time between two restores in ms, and between two snapshots in µs, as in ZooKeeper"),
    unread(Operations, "admin.httpVersion", "11", Silent, "the interface speaks HTTP/1.1 and 1.0"),
    unread(Operations, "admin.portUnification", "false", Refused, NO_TLS),
    unread(Operations, "admin.forceHttps", "false", Refused, NO_TLS),
    unread(Operations, "admin.needClientAuth", "false", Refused, NO_TLS),
    key(Operations, "metricsProvider.className", File, Text, "org.apache.zookeeper.metrics.impl.DefaultMetricsProvider", Honoured, "with ...metrics.prometheus.PrometheusMetricsProvider a port of its own answers /metrics, and mntr has its form; the admin interface answers /metrics always"),
    key(Operations, "metricsProvider.httpHost", File, Text, "0.0.0.0", Honoured, "where the Prometheus provider listens"),
    key(Operations, "metricsProvider.httpPort", File, FileInt(0, 65535), "7000", Honoured, "port of the Prometheus provider"),
    key(Operations, "metricsProvider.exportJvmInfo", File, FileBool, "true", Honoured, "adds process_* and, for dashboards that ask for them, jvm_* of this process"),
    key(Operations, "metricsProvider.numWorkerThreads", File, Unread, "1", Silent, JVM),
    key(Operations, "metricsProvider.maxQueueSize", File, Unread, "1000000", Silent, JVM),
    key(Operations, "metricsProvider.workerShutdownTimeoutMs", File, Unread, "1000", Silent, JVM),
    key(Operations, "metricsProvider.*", File, Unread, "", Ignored, NO_METRICS),
    key(Operations, "audit.enable", Both, Bool, "false", Honoured, "a line for each change, in ZooKeeper's form, in the server's log under the name audit"),
    unread(Operations, "audit.impl.class", "", Ignored, "classes can't be loaded; audit lines go to the server's log"),

    // --- TLS
    key(Tls, "secureClientPort", File, Unread, "", Refused, NO_TLS),
    key(Tls, "secureClientPortAddress", File, Unread, "", Refused, NO_TLS),
    key(Tls, "sslQuorum", File, Unread, "false", Refused, NO_TLS),
    key(Tls, "portUnification", File, Unread, "false", Refused, NO_TLS),
    key(Tls, "sslQuorumReloadCertFiles", File, Unread, "false", Refused, NO_TLS),
    unread(Tls, "client.portUnification", "false", Refused, NO_TLS),
    unread(Tls, "client.certReload", "false", Refused, NO_TLS),
    unread(Tls, "ssl.clientAuth", "need", Refused, NO_TLS),
    unread(Tls, "ssl.quorum.clientAuth", "need", Refused, NO_TLS),
    unread(Tls, "ssl.hostnameVerification", "true", Refused, NO_TLS),
    unread(Tls, "ssl.quorum.hostnameVerification", "true", Refused, NO_TLS),
    unread(Tls, "ssl.authProvider", "x509", Refused, NO_TLS),
    unread(Tls, "ssl.*", "", Refused, NO_TLS),
    unread(Tls, "X509AuthenticationProvider.superUser", "", Refused, NO_TLS),
    unread(Tls, "fips-mode", "true", Silent, "concerns TLS only"),

    // --- SASL
    key(Sasl, "quorum.auth.enableSasl", File, Unread, "false", Refused, NO_SASL),
    key(Sasl, "quorum.auth.learnerRequireSasl", File, Unread, "false", Refused, NO_SASL),
    key(Sasl, "quorum.auth.serverRequireSasl", File, Unread, "false", Refused, NO_SASL),
    key(Sasl, "quorum.auth.kerberos.servicePrincipal", File, Unread, "zkquorum/localhost", Refused, NO_SASL),
    key(Sasl, "quorum.auth.learner.saslLoginContext", File, Unread, "QuorumLearner", Refused, NO_SASL),
    key(Sasl, "quorum.auth.server.saslLoginContext", File, Unread, "QuorumServer", Refused, NO_SASL),
    key(Sasl, "authProvider.*", Both, Text, "", Honoured, "a class name; ZooKeeper's digest and ip providers are built in, the others are refused"),
    unread(Sasl, "sessionRequireClientSASLAuth", "false", Refused, NO_SASL),
    unread(Sasl, "enforce.auth.enabled", "false", Refused, "required authentication is not available yet"),
    unread(Sasl, "enforce.auth.schemes", "", Refused, "required authentication is not available yet"),
    unread(Sasl, "allowSaslFailedClients", "false", Refused, NO_SASL),
    unread(Sasl, "sasl.serverconfig", "Server", Refused, NO_SASL),
    unread(Sasl, "letAnySaslUserDoX", "", Refused, NO_SASL),
    unread(Sasl, "superUser", "", Refused, NO_SASL),
    unread(Sasl, "superUser.*", "", Refused, NO_SASL),
    unread(Sasl, "SASLAuthenticationProvider.superPassword", "", Refused, NO_SASL),
    unread(Sasl, "kerberos.removeHostFromPrincipal", "false", Refused, NO_SASL),
    unread(Sasl, "kerberos.removeRealmFromPrincipal", "false", Refused, NO_SASL),
    unread(Sasl, "kerberos.canonicalizeHostNames", "false", Refused, NO_SASL),
    unread(Sasl, "security.auth_to_local", "DEFAULT", Refused, NO_SASL),
    unread(Sasl, "requireClientAuthScheme", "", Ignored, "a property nobody reads, in ZooKeeper either: it protects nothing"),
    unread(Sasl, "jaasLoginRenew", "", Silent, "a property nobody reads, in ZooKeeper either"),
    unread(Sasl, "ensembleAuthName", "", Refused, "the scheme `ensemble` is not available; clients would reach a server they are meant to be kept from"),

    // --- Java
    key(Java, "quorum.cnxn.threads.size", File, Unread, "20", Silent, JVM),
    key(Java, "jvm.pause.monitor", File, Unread, "false", Silent, JVM),
    key(Java, "jvm.pause.info-threshold.ms", File, Unread, "1000", Silent, JVM),
    key(Java, "jvm.pause.warn-threshold.ms", File, Unread, "10000", Silent, JVM),
    key(Java, "jvm.pause.sleep.time.ms", File, Unread, "500", Silent, JVM),
    unread(Java, "serverCnxnFactory", "org.apache.zookeeper.server.NIOServerCnxnFactory", Silent, "both of ZooKeeper's network layers speak the same protocol; so does Falconer's"),
    unread(Java, "nio.numSelectorThreads", "", Silent, "see falconer.eventLoops"),
    unread(Java, "nio.numWorkerThreads", "", Silent, "see falconer.eventLoops"),
    unread(Java, "nio.directBufferBytes", "65536", Silent, JVM),
    unread(Java, "nio.shutdownTimeout", "5000", Silent, JVM),
    unread(Java, "netty.advancedFlowControl.enabled", "false", Silent, JVM).also(&["advancedFlowControlEnabled"]),
    unread(Java, "netty.server.outstandingHandshake.limit", "-1", Silent, JVM).also(&["outstandingHandshake.limit"]),
    unread(Java, "netty.server.earlyDropSecureConnectionHandshakes", "false", Silent, JVM),
    unread(Java, "commitProcessor.numWorkerThreads", "", Silent, JVM),
    unread(Java, "commitProcessor.maxReadBatchSize", "-1", Silent, JVM),
    unread(Java, "commitProcessor.maxCommitBatchSize", "1", Silent, JVM),
    unread(Java, "commitProcessor.shutdownTimeout", "5000", Silent, JVM),
    unread(Java, "watchManagerName", "WatchManager", Silent, JVM),
    unread(Java, "watcherCleanThreadsNum", "2", Silent, JVM),
    unread(Java, "watcherCleanThreshold", "1000", Silent, JVM),
    unread(Java, "watcherCleanIntervalInSeconds", "600", Silent, JVM),
    unread(Java, "maxInProcessingDeadWatchers", "-1", Silent, JVM),
    unread(Java, "bitHashCacheSize", "10", Silent, JVM),
    unread(Java, "maxResponseCacheSize", "400", Silent, JVM),
    unread(Java, "maxGetChildrenResponseCacheSize", "400", Silent, JVM),
    unread(Java, "intBufferStartingSizeBytes", "1024", Silent, JVM),
    unread(Java, "messageTracker.BufferSize", "10", Silent, JVM),
    unread(Java, "messageTracker.Enabled", "false", Silent, JVM),
    unread(Java, "pathStats.*", "", Silent, JVM),
    unread(Java, "leader.maxConcurrentSnapSyncs", "10", Silent, JVM).also(&["maxConcurrentSnapSyncs"]),
    unread(Java, "leader.maxConcurrentDiffSyncs", "100", Silent, JVM).also(&["maxConcurrentDiffSyncs"]),
    unread(Java, "leader.closeSocketAsync", "false", Silent, JVM),
    unread(Java, "leader.ackLoggingFrequency", "1000", Silent, JVM),
    unread(Java, "learner.asyncSending", "false", Silent, JVM),
    unread(Java, "learner.closeSocketAsync", "false", Silent, JVM),
    unread(Java, "forceSnapshotSync", "false", Silent, JVM),
    unread(Java, "leaderConnectDelayDuringRetryMs", "100", Silent, JVM),
    unread(Java, "forward_learner_requests_to_commit_processor_disabled", "false", Silent, JVM),
    unread(Java, "follower.skipLearnerRequestToNextProcessor", "false", Silent, JVM),
    unread(Java, "observerMaster.sizeLimit", "33554432", Silent, JVM),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_spelling_is_in_the_table_once() {
        let mut seen = BTreeSet::new();
        for k in KEYS {
            for name in std::iter::once(&k.name).chain(k.also) {
                // The one property that ZooKeeper reads with and without its prefix has two rows, two places.
                assert!(seen.insert((*name, k.place == Place::Property)), "{name} twice");
            }
        }
    }

    #[test]
    fn defaults_are_readable_values_of_their_kind() {
        for k in KEYS.iter().filter(|k| !k.default.is_empty()) {
            let ok = match k.kind {
                Kind::FileInt(min, max) | Kind::Int(min, max) => {
                    k.default.parse().is_ok_and(|v: i64| (min..=max).contains(&v))
                }
                Kind::FileBool | Kind::Bool | Kind::ExactTrue | Kind::ExactFalse => {
                    matches!(k.default, "true" | "false")
                }
                Kind::WordYes | Kind::WordNo => matches!(k.default, "yes" | "no"),
                Kind::Choice(words) => words.contains(&k.default),
                Kind::Text | Kind::Path | Kind::Unread => true,
            };
            assert!(ok, "{} has the default {:?}", k.name, k.default);
        }
    }

    #[test]
    fn only_keys_that_are_checked_and_words_have_a_kind() {
        for k in KEYS {
            let checked = matches!(k.verdict, Verdict::Honoured | Verdict::EnsembleOnly);
            let word = matches!(k.kind, Kind::WordNo | Kind::ExactFalse);
            assert_eq!(checked || word, k.kind != Kind::Unread, "{}", k.name);
        }
    }

    #[test]
    fn families_yield_to_exact_names() {
        for (name, row) in [
            ("ssl.clientAuth", "ssl.clientAuth"),
            ("ssl.keyStore.location", "ssl.*"),
            ("server.12", "server.*"),
            ("metricsProvider.httpPort", "metricsProvider.httpPort"),
            ("metricsProvider.nonsense", "metricsProvider.*"),
            ("requestThrottleLimit", "request_throttle_max_requests"),
            ("serverCnxnFactory", "serverCnxnFactory"),
        ] {
            assert_eq!(find_in_file(name).map(|k| k.name), Some(row), "for {name}");
        }
        assert!(find_in_file("serve").is_none());
    }

    #[test]
    fn properties_are_found_by_their_full_name() {
        for (name, row) in [
            ("zookeeper.snapCount", Some(("snapCount", Place::Both))),
            ("snapCount", None),
            ("jute.maxbuffer", Some(("jute.maxbuffer", Place::Property))),
            ("zookeeper.jute.maxbuffer", None),
            ("zookeeper.tickTime", Some(("tickTime", Place::File))),
            ("fsync.warningthresholdms", Some(("fsync.warningthresholdms", Place::Property))),
            ("zookeeper.fsync.warningthresholdms", Some(("fsync.warningthresholdms", Place::Both))),
            ("falconer.walBackend", Some(("falconer.walBackend", Place::Own))),
            ("zookeeper.jmx.log4j.disable", Some(("zookeeper.jmx.*", Place::Property))),
            ("user.home", None),
        ] {
            assert_eq!(find_property(name).map(|k| (k.name, k.place)), row, "for {name}");
        }
        let in_file = find_in_file("fsync.warningthresholdms").map(|k| k.place);
        assert_eq!(in_file, Some(Place::Both));
    }

    #[test]
    fn near_misses_find_their_key() {
        for (typed, meant) in [
            ("autopurge.purgeInteval", Some("autopurge.purgeInterval")),
            ("clientport", Some("clientPort")),
            ("ClientPort", Some("clientPort")),
            ("dataLogdir", Some("dataLogDir")),
            ("tikcTime", Some("tickTime")),
            ("max_client_cnxns", Some("maxClientCnxns")),
            ("maxClientConnections", None),
            ("4lw.command.whitelist", Some("4lw.commands.whitelist")),
            ("zookeeper.snapCuont", Some("snapCount")),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(suggest(typed), meant, "for {typed:?}");
        }
        assert_eq!(suggest(&"ä".repeat(100_000)), None);
    }

    #[test]
    fn secrets_are_hidden_and_long_values_cut() {
        assert_eq!(shown("ssl.keyStore.password", "x"), "***");
        assert_eq!(shown("ssl.keystore.pasword", "x"), "x");
        assert_eq!(shown("DigestAuthenticationProvider.superDigest", "super:x"), "***");
        assert_eq!(shown("ssl.keyStore.passwordPath", "/etc/pw"), "/etc/pw");
        assert_eq!(shown("k", "a\u{1b}[31m"), "a\\u{1b}[31m");
        assert_eq!(shown("k", &"y".repeat(5000)).chars().count(), limits::SHOWN_VALUE_LEN_MAX + 1);
    }
}
