//! Numbers and lists for metrics, four-letter words and the reaper of containers.

use super::{Tree, text};
use crate::limits;
use crate::sync::Ordering;
use crate::tree::names::NameSet;
use crate::tree::owned::Owned;
use crate::watch::Modes;
use proto::{ConnId, Owner, SessionId, WallMs, Zxid};
use std::collections::{BTreeMap, BTreeSet};

/// Numbers of the tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TreeStats {
    /// Znodes as Apache counts them: the root twice.
    pub znodes: u64,
    /// Ephemerals.
    pub ephemerals: u64,
    /// Bytes of paths and values.
    pub data_bytes: u64,
    /// Watches in both of Apache's tables (`zk_watch_count`); a persistent one stands in both.
    pub watches: u64,
    /// Sessions.
    pub sessions: u64,
}

/// What `wchs` shows; plain child watches are not counted there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WatchSummary {
    /// Connections that watch a path.
    pub connections: u64,
    /// Paths that are watched.
    pub paths: u64,
    /// Pairs of both.
    pub watches: u64,
}

impl Tree {
    /// The numbers of the tree.
    pub fn stats(&self) -> TreeStats {
        TreeStats {
            znodes: self.znode_count() + 1,
            ephemerals: self.owned.lock().ephemeral_count() as u64,
            data_bytes: self.data_bytes.load(Ordering::Relaxed),
            watches: self.watched.counted(),
            sessions: self.session_count() as u64,
        }
    }

    pub(crate) fn znode_count(&self) -> u64 {
        self.znodes.load(Ordering::Relaxed)
    }

    /// The zxids divisible by [`limits::DIGEST_LOG_INTERVAL`] with the digests of the tree there, oldest first,
    /// at most [`limits::DIGEST_LOG`].
    pub fn digest_log(&self) -> Vec<(Zxid, i64)> {
        self.mark.lock().log.iter().copied().collect()
    }

    /// The ephemerals of each session that has some.
    pub fn ephemerals_by_session(&self) -> Vec<(SessionId, Vec<Box<str>>)> {
        self.owned.lock().by_session().map(|(s, paths)| (s, paths.iter().map(text).collect())).collect()
    }

    /// What `wchs` shows. Looks at every watch.
    pub fn watch_summary(&self) -> WatchSummary {
        let mut connections: BTreeSet<ConnId> = BTreeSet::new();
        let (mut paths, mut watches) = (0, 0);
        self.each_watched_path(&mut |_, conns| {
            paths += 1;
            watches += conns.len() as u64;
            connections.extend(conns);
        });
        WatchSummary { connections: connections.len() as u64, paths, watches }
    }

    /// The connections that watch each path, without plain child watches.
    pub fn watches_by_path(&self) -> Vec<(Box<str>, Vec<ConnId>)> {
        let mut out = Vec::new();
        self.each_watched_path(&mut |path, conns| out.push((path.into(), conns.iter().copied().collect())));
        out
    }

    /// How many paths a connection watches, each recursive watch one of its own.
    pub fn watches_of(&self, conn: ConnId) -> usize {
        self.recursive.read().of(conn) + self.watched.of(conn)
    }

    /// Watchers below each top-level path, without plain child watches. Looks at every watch.
    pub fn watches_by_top(&self) -> BTreeMap<Box<str>, u64> {
        let mut out: BTreeMap<Box<str>, u64> = BTreeMap::new();
        self.each_watched_path(&mut |path, conns| {
            let end = path.get(1..).and_then(|rest| rest.find('/')).map_or(path.len(), |i| i + 1);
            *out.entry(path[..end].into()).or_default() += conns.len() as u64;
        });
        out
    }

    /// The paths that each connection watches, without plain child watches.
    pub fn watches_by_connection(&self) -> Vec<(ConnId, Vec<Box<str>>)> {
        let mut out: BTreeMap<ConnId, Vec<Box<str>>> = BTreeMap::new();
        self.each_watched_path(&mut |path, conns| {
            for &conn in conns {
                out.entry(conn).or_default().push(path.into());
            }
        });
        out.into_iter().collect()
    }

    /// Calls `see` once for each path in Apache's table of data watches.
    fn each_watched_path(&self, see: &mut dyn FnMut(&str, &BTreeSet<ConnId>)) {
        let counts = Modes::DATA.or(Modes::PERSISTENT);
        let mut recursive: BTreeMap<Box<str>, BTreeSet<ConnId>> = BTreeMap::new();
        for (path, conn) in self.recursive.read().iter() {
            recursive.entry(path.into()).or_default().insert(conn);
        }
        for shard in &self.shards {
            let shard = shard.read();
            for (path, watchers) in shard.watches.lock().iter() {
                let mut conns = recursive.remove(path).unwrap_or_default();
                conns.extend(watchers.filter(|(_, m)| m.meets(counts)).map(|(c, _)| c));
                if !conns.is_empty() {
                    see(path, &conns);
                }
            }
        }
        recursive.iter().for_each(|(path, conns)| see(path, conns));
    }

    /// Containers and TTL znodes to be removed now, at most `max`: a container without children that has had
    /// one, or was never used for `never_used_ms` (0: such a one stays); a TTL znode without children whose time
    /// since the last change has passed (semantics, section 5.4). Who removes them must check again.
    pub fn due_containers(&self, now: WallMs, never_used_ms: i64, max: usize) -> Vec<String> {
        let mut due = Vec::new();
        self.collect_due(|o| &o.containers, now, never_used_ms, max, &mut due);
        self.collect_due(|o| &o.ttls, now, never_used_ms, max, &mut due);
        due
    }

    fn collect_due(
        &self,
        which: impl Fn(&Owned) -> &NameSet,
        now: WallMs,
        never_used_ms: i64,
        max: usize,
        due: &mut Vec<String>,
    ) {
        let mut place = 0;
        loop {
            let mut paths: Vec<Box<str>> = Vec::new();
            {
                let owned = self.owned.lock();
                let set = which(&owned);
                while place < set.places() && paths.len() < limits::REAP_SLICE {
                    paths.extend(set.names_at(place).map(text));
                    place += 1;
                }
            }
            if paths.is_empty() || due.len() >= max {
                return;
            }
            for path in paths {
                if due.len() < max && self.is_due(&path, now, never_used_ms) {
                    due.push(path.into());
                }
            }
        }
    }

    fn is_due(&self, path: &str, now: WallMs, never_used_ms: i64) -> bool {
        self.peek(path, |node| {
            let Some(node) = node else { return false };
            let unchanged_ms = now.0.saturating_sub(node.stat.mtime);
            let over = match Owner::of(node.stat.ephemeral_owner, self.config.extended_types) {
                Owner::Container if node.stat.cversion > 0 => true,
                Owner::Container => never_used_ms != 0 && unchanged_ms > never_used_ms,
                Owner::Ttl(ttl_ms) => ttl_ms != 0 && unchanged_ms > ttl_ms,
                Owner::Persistent | Owner::Session(_) => false,
            };
            over && node.children == 0
        })
    }
}
