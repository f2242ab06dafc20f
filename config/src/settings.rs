//! What the server runs with: every value checked, every default filled in, units in the names.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU16;
use std::path::PathBuf;

use proto::ids::ServerId;

use crate::invocation::Invocation;
use crate::members::{HostPort, Member, Quorum, Role};

/// Where a server without any configuration keeps its data.
pub const EMBEDDED_DATA_DIR: &str = "./falconer-data";

/// Everything a configuration decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What was asked for.
    pub invocation: Invocation,
    /// Directories and what may be created.
    pub storage: Storage,
    /// From `myid`, where there is one; an ensemble always has one, in [`Ensemble::my_id`] too.
    pub my_id: Option<ServerId>,
    /// Alone or with others.
    pub membership: Membership,
    /// `reconfigEnabled`: which error a server alone gives to a reconfig.
    pub reconfig: bool,
    /// `readonlymode.enabled`: reads are served while there is no leader.
    pub read_only_mode: bool,
    /// The client port and its limits.
    pub client: Client,
    /// Session times.
    pub sessions: Sessions,
    /// What requests can do.
    pub tree: Tree,
    /// Who clients are.
    pub auth: Auth,
    /// Four-letter words that are answered.
    pub four_letter_words: Whitelist,
    /// What operators see.
    pub operations: Operations,
}

/// Admin interface, metrics, audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operations {
    /// The admin interface; `None`: there is none.
    pub admin: Option<Admin>,
    /// Where Prometheus scrapes, if a port of its own is asked for.
    pub prometheus: Option<HostPort>,
    /// Whether `process_*` and `jvm_*` stand among the metrics.
    pub process_metrics: bool,
    /// Whether stages, operations and namespaces are counted.
    pub detailed_metrics: bool,
    /// A request that took longer is logged; ms, `None` is off.
    pub slow_request_ms: Option<u32>,
    /// Whether the start measures the disk.
    pub disk_check: bool,
    /// Whether changes are audited.
    pub audit: bool,
}

/// The admin interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Where it listens.
    pub listen: HostPort,
    /// What stands in front of the commands: begins with `/`, does not end with it.
    pub command_url: String,
    /// A silent connection is closed after this many ms.
    pub idle_timeout_ms: u32,
    /// Whether `snapshot` answers.
    pub snapshot_enabled: bool,
    /// Whether `restore` answers.
    pub restore_enabled: bool,
    /// Between two restores in ms, and between two snapshots in µs (so it is in ZooKeeper).
    pub rate_limit: u32,
}

/// Directories, log, snapshots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage {
    /// Superblock, snapshots, `myid`.
    pub data_dir: PathBuf,
    /// The log; the data directory unless `dataLogDir` is given.
    pub data_log_dir: PathBuf,
    /// Whether missing directories are created.
    pub datadir_autocreate: bool,
    /// Whether a version-2 directory with logs and no snapshot is imported.
    pub trust_empty_snapshot: bool,
    /// How the log is written.
    pub wal_backend: WalBackend,
    /// A durable write that took longer is logged; ms.
    pub slow_sync_warning_ms: u64,
    /// A snapshot is due after between half of this and this many transactions; at least 2.
    pub snap_count: u32,
    /// The same by KiB of log; `None` is off.
    pub snap_log_kib: Option<u64>,
    /// What is removed, and when.
    pub retention: Retention,
}

/// `falconer.walBackend`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalBackend {
    /// The first of the others that works.
    Auto,
    /// io_uring on an `O_DIRECT` file.
    Uring,
    /// `pwritev2` with `RWF_DSYNC` on an `O_DIRECT` file.
    Pwritev2,
    /// Page cache and `fdatasync`.
    Buffered,
}

/// Old snapshots, and the log that only they need. `keep` is at least 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// Nothing is ever removed (`autopurge.purgeInterval=0`).
    Never,
    /// Falconer's default: whenever a new snapshot was written.
    AfterEachSnapshot {
        /// Snapshots kept.
        keep: u32,
    },
}

/// Alone or with others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Membership {
    /// One server, no quorum: no `server` lines, or one of them with `standaloneEnabled`.
    Standalone,
    /// A member of a quorum, possibly of one.
    Ensemble(Box<Ensemble>),
}

/// A configuration with a quorum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ensemble {
    /// This server; one of `members`.
    pub my_id: ServerId,
    /// Its role, by its server line.
    pub role: Role,
    /// All members.
    pub members: BTreeMap<ServerId, Member>,
    /// How votes count.
    pub quorum: Quorum,
    /// Version of the membership: the hex suffix of the dynamic file's name, else 0.
    pub version: u64,
    /// The dynamic file, if one is configured.
    pub dynamic_file: Option<PathBuf>,
    /// Ticks a follower may take to connect and synchronise; at least 1.
    pub init_limit_ticks: u32,
    /// Ticks that a connection to the leader may take to come about; `None`: the server's own bound.
    pub connect_limit_ticks: Option<u32>,
    /// Ticks of silence between leader and follower; at least 1.
    pub sync_limit_ticks: u32,
    /// Bind quorum and election ports on all addresses.
    pub listen_on_all_addresses: bool,
    /// SO_KEEPALIVE between members.
    pub keep_alive: bool,
    /// Whether a membership may shrink to one server that then runs alone.
    pub standalone_enabled: bool,
    /// How long a connection to another server may take to come about; ms.
    pub dial_timeout_ms: u32,
    /// How long a caller of the election port may take to say who it is, ms; `None`: syncLimit ticks.
    pub hello_timeout_ms: Option<u32>,
    /// How often, a second apart, a taken port is tried again; `None`: for ever.
    pub bind_retries: Option<u32>,
    /// Until a vote is sent again, ms: the first time, and at most.
    pub resend_ms: (u32, u32),
    /// Committed transactions kept in memory for followers that come back.
    pub kept_records: u32,
    /// Who knows new sessions.
    pub local_sessions: LocalSessions,
    /// Whether a leader hands over when its disk is slow.
    pub hand_over_when_slow: bool,
}

/// `localSessionsEnabled` and `localSessionsUpgradingEnabled`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalSessions {
    /// Every server knows every session.
    Off,
    /// New sessions are known to their server alone, for good.
    On,
    /// New sessions are known to their server alone until their first ephemeral.
    Upgradable,
}

/// The client port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Where; `None` without `clientPort`, and then no client gets in. Port 0 lets the system choose.
    pub listen: Option<HostPort>,
    /// Listen backlog, at least 1; `None` leaves it to the server.
    pub backlog: Option<u32>,
    /// SO_KEEPALIVE.
    pub keep_alive: bool,
    /// Connections per client address; `None` is unlimited.
    pub per_address_max: Option<u32>,
    /// Connections of all clients; `None` is unlimited.
    pub total_max: Option<u32>,
    /// How long a connection may live without a session; ms.
    pub sessionless_timeout_ms: u32,
    /// `jute.maxbuffer`: bytes of the largest request and of a znode's data.
    pub request_bytes_max: u32,
    /// Threads that own connections; `None` chooses by the number of cores.
    pub event_loops: Option<NonZeroU16>,
}

/// Session times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sessions {
    /// `tickTime`, ms, at least 1.
    pub tick_ms: u32,
    /// Shortest timeout granted, ms; not above `timeout_max_ms`.
    pub timeout_min_ms: u32,
    /// Longest timeout granted, ms.
    pub timeout_max_ms: u32,
}

/// What requests can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tree {
    /// TTL znodes.
    pub extended_types: bool,
    /// Hard quotas refuse.
    pub enforce_quota: bool,
    /// `skipACL=yes`: nobody's rights are checked.
    pub skip_acl: bool,
    /// Time between searches for empty containers and expired znodes; ms.
    pub container_check_interval_ms: u32,
    /// Deletions by that search per minute.
    pub containers_per_minute_max: u32,
    /// When a container that never had a child goes, ms; `None` is never.
    pub container_never_used_ms: Option<u64>,
}

/// Who clients are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// Whether the scheme `digest` exists.
    pub digest: bool,
    /// `super:<base64 of sha1>`.
    pub super_digest: Option<Secret>,
}

/// A value that no `Debug` or report shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// The four-letter words of ZooKeeper, in alphabetical order.
pub const FOUR_LETTER_WORDS: [&str; 18] = [
    "conf", "cons", "crst", "dirs", "dump", "envi", "gtmk", "hash", "isro", "mntr", "ruok", "srst", "srvr",
    "stat", "stmk", "wchc", "wchp", "wchs",
];

/// Which of [`FOUR_LETTER_WORDS`] are answered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Whitelist(u32);

impl Secret {
    /// Hides a value.
    pub fn new(value: String) -> Secret {
        Secret(value)
    }

    /// The value, for the one place that compares it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Whitelist {
    /// No word at all: where a server starts, before `srvr` is added.
    pub const NONE: Whitelist = Whitelist(0);
    /// `*`.
    pub const ALL: Whitelist = Whitelist((1 << FOUR_LETTER_WORDS.len()) - 1);

    /// With this word; `None` when there is no such word.
    pub fn with(self, word: &str) -> Option<Whitelist> {
        let at = FOUR_LETTER_WORDS.iter().position(|w| *w == word)?;
        Some(Whitelist(self.0 | 1 << at))
    }

    /// Whether this word is answered; false for words that don't exist.
    pub fn allows(self, word: &str) -> bool {
        self.with(word) == Some(self)
    }
}

impl fmt::Display for Whitelist {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Whitelist::ALL {
            return f.write_str("all");
        }
        let words: Vec<_> = FOUR_LETTER_WORDS.into_iter().filter(|w| self.allows(w)).collect();
        f.write_str(&words.join(", "))
    }
}

impl fmt::Debug for Whitelist {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Whitelist({self})")
    }
}

impl fmt::Display for WalBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WalBackend::Auto => "auto",
            WalBackend::Uring => "uring",
            WalBackend::Pwritev2 => "pwritev2",
            WalBackend::Buffered => "buffered",
        })
    }
}

impl fmt::Display for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Retention::Never => f.write_str("keep everything for ever"),
            Retention::AfterEachSnapshot { keep } => {
                write!(f, "keep {keep} snapshots, purge after each snapshot")
            }
        }
    }
}

impl Settings {
    /// The ensemble that this server belongs to; `None` alone.
    pub fn ensemble(&self) -> Option<&Ensemble> {
        match &self.membership {
            Membership::Standalone => None,
            Membership::Ensemble(ensemble) => Some(ensemble),
        }
    }
}

impl Ensemble {
    /// The line of this server.
    pub fn me(&self) -> &Member {
        // The resolver builds an ensemble only when myid is among the server lines.
        &self.members[&self.my_id]
    }

    /// Members with a vote.
    pub fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members.values().filter(|m| m.role == Role::Participant)
    }

    /// The text of `/zookeeper/config`: a line per member, groups and weights, the version in hex without a line end.
    pub fn config_text(&self) -> String {
        let mut text: String = self.members.values().map(|m| format!("{m}\n")).collect();
        if let Quorum::Hierarchical { groups, weights } = &self.quorum {
            for (group, ids) in groups {
                let ids: Vec<_> = ids.iter().map(ServerId::to_string).collect();
                text.push_str(&format!("group.{group}={}\n", ids.join(":")));
            }
            for (id, weight) in weights {
                text.push_str(&format!("weight.{id}={weight}\n"));
            }
        }
        text.push_str(&format!("version={:x}", self.version));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whitelist_knows_only_words_that_exist() {
        let list = Whitelist::NONE.with("srvr").unwrap().with("mntr").unwrap();
        assert!(list.allows("srvr") && list.allows("mntr") && !list.allows("ruok") && !list.allows("lsnr"));
        assert_eq!(list.to_string(), "mntr, srvr");
        assert!(FOUR_LETTER_WORDS.iter().all(|w| Whitelist::ALL.allows(w)) && !Whitelist::ALL.allows("rqld"));
        assert_eq!(list.with("lsnr"), None);
        assert!(FOUR_LETTER_WORDS.is_sorted());
    }

    #[test]
    fn secrets_are_not_printed() {
        assert_eq!(format!("{:?}", Secret::new("super:x".to_owned())), "***");
    }
}
