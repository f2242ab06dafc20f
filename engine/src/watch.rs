//! Watches: who wants to hear of which path (semantics, section 10).
//!
//! Three tables. Each shard has one of the paths that hash into it, with the one-shot and the persistent watches
//! of each connection as a set of modes ([`ShardWatches`]). Recursive watches stand apart ([`RecursiveWatches`]),
//! since a change has to look for them at every ancestor. And for the end of a connection there is an index from
//! the connection to the hashes of its paths ([`WatchedPaths`]), so that dropping it costs as much as it watched.
//!
//! A watcher is one word: the connection and its modes. A single watcher of a path lies in the entry itself.

use crate::sync::{AtomicU64, Mutex, Ordering};
use crate::tree::hash::PathHash;
use hashbrown::HashTable;
use proto::ConnId;
use std::collections::{BTreeMap, BTreeSet};

/// The modes in which a connection watches a path, as bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Modes(u8);

impl Modes {
    pub(crate) const NONE: Modes = Modes(0);
    /// One-shot, left by getData and exists.
    pub(crate) const DATA: Modes = Modes(1);
    /// One-shot, left by getChildren.
    pub(crate) const CHILD: Modes = Modes(2);
    /// Stays; counts in both of Apache's tables.
    pub(crate) const PERSISTENT: Modes = Modes(4);
    /// Everything that can be watched at a path itself.
    pub(crate) const ALL: Modes = Modes(7);

    pub(crate) const fn or(self, other: Modes) -> Modes {
        Modes(self.0 | other.0)
    }

    pub(crate) const fn without(self, other: Modes) -> Modes {
        Modes(self.0 & !other.0)
    }

    pub(crate) const fn meets(self, other: Modes) -> bool {
        self.0 & other.0 != 0
    }

    /// In how many of Apache's two tables the watcher stands.
    const fn tables(self) -> u64 {
        self.meets(Modes::DATA.or(Modes::PERSISTENT)) as u64
            + self.meets(Modes::CHILD.or(Modes::PERSISTENT)) as u64
    }
}

/// What happened at a path, as the tables see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Trigger {
    /// Created, or its value set.
    Data,
    /// A child came or went.
    Child,
    /// Deleted: data and child watches, one event for both.
    Deleted,
}

impl Trigger {
    fn heard_by(self) -> Modes {
        match self {
            Trigger::Data => Modes::DATA.or(Modes::PERSISTENT),
            Trigger::Child => Modes::CHILD.or(Modes::PERSISTENT),
            Trigger::Deleted => Modes::ALL,
        }
    }

    fn used_up(self) -> Modes {
        self.heard_by().without(Modes::PERSISTENT)
    }
}

/// A connection and its modes in one word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Watcher(u64);

impl Watcher {
    fn new(conn: ConnId, modes: Modes) -> Watcher {
        debug_assert!(conn.0 < 1 << 56, "connections are counted from zero");
        Watcher(conn.0 << 8 | u64::from(modes.0))
    }

    fn conn(self) -> ConnId {
        ConnId(self.0 >> 8)
    }

    fn modes(self) -> Modes {
        Modes(self.0 as u8)
    }
}

/// A set of words, told apart by a key of theirs: nothing or one in place, more in a table.
#[derive(Debug)]
enum Few {
    One(u64),
    Many(Box<HashTable<u64>>),
}

/// Spreads a word over a table; words are counters or hashes.
fn spread(key: u64) -> u64 {
    (key ^ key >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Few {
    fn find(&mut self, shift: u32, key: u64) -> Option<&mut u64> {
        match self {
            Few::One(w) => (*w >> shift == key).then_some(w),
            Few::Many(t) => t.find_mut(spread(key), |&w| w >> shift == key),
        }
    }

    fn get(&self, shift: u32, key: u64) -> Option<u64> {
        match self {
            Few::One(w) => (*w >> shift == key).then_some(*w),
            Few::Many(t) => t.find(spread(key), |&w| w >> shift == key).copied(),
        }
    }

    /// Adds a word whose key is not there.
    fn add(&mut self, shift: u32, word: u64) {
        match self {
            Few::One(w) => {
                let mut table = HashTable::with_capacity(3);
                for word in [*w, word] {
                    table.insert_unique(spread(word >> shift), word, |&w| spread(w >> shift));
                }
                *self = Few::Many(Box::new(table));
            }
            Few::Many(t) => {
                t.insert_unique(spread(word >> shift), word, |&w| spread(w >> shift));
            }
        }
    }

    /// Removes the word of a key; true if nothing is left.
    fn remove(&mut self, shift: u32, key: u64) -> bool {
        match self {
            Few::One(w) => *w >> shift == key,
            Few::Many(t) => {
                if let Ok(found) = t.find_entry(spread(key), |&w| w >> shift == key) {
                    found.remove();
                }
                self.settle(shift)
            }
        }
    }

    /// Gives memory back after removals; true if nothing is left.
    fn settle(&mut self, shift: u32) -> bool {
        let Few::Many(t) = self else { return false };
        match t.len() {
            0 => true,
            1 => {
                *self = Few::One(*t.iter().next().expect("it has one"));
                false
            }
            n => {
                if t.capacity() > 64 && n < t.capacity() / 8 {
                    t.shrink_to(n * 2, |&w| spread(w >> shift));
                }
                false
            }
        }
    }

    fn len(&self) -> usize {
        match self {
            Few::One(_) => 1,
            Few::Many(t) => t.len(),
        }
    }

    fn iter(&self) -> impl Iterator<Item = u64> {
        let (one, many) = match self {
            Few::One(w) => (Some(*w), None),
            Few::Many(t) => (None, Some(t.iter().copied())),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }
}

/// Bits of a watcher below its connection.
const MODES: u32 = 8;

#[derive(Debug)]
struct Entry {
    path: Box<str>,
    watchers: Few,
}

/// The watches of the paths of one shard.
#[derive(Debug, Default)]
pub(crate) struct ShardWatches {
    entries: HashTable<Entry>,
}

/// What a change of the table means for the other tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Changed {
    /// By how much `zk_watch_count` changes.
    pub(crate) counted: i64,
    /// The connection watches the path for the first time, or no more.
    pub(crate) edge: bool,
}

impl ShardWatches {
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds modes to what a connection watches at a path.
    pub(crate) fn add(&mut self, hash: &PathHash, h: u64, path: &str, conn: ConnId, modes: Modes) -> Changed {
        let Some(entry) = self.entries.find_mut(h, |e| *e.path == *path) else {
            let entry = Entry { path: path.into(), watchers: Few::One(Watcher::new(conn, modes).0) };
            self.entries.insert_unique(h, entry, |e| hash.of(e.path.as_bytes()));
            return Changed { counted: modes.tables() as i64, edge: true };
        };
        match entry.watchers.find(MODES, conn.0) {
            Some(word) => {
                let before = Watcher(*word).modes();
                let after = before.or(modes);
                *word = Watcher::new(conn, after).0;
                Changed { counted: after.tables() as i64 - before.tables() as i64, edge: false }
            }
            None => {
                entry.watchers.add(MODES, Watcher::new(conn, modes).0);
                Changed { counted: modes.tables() as i64, edge: true }
            }
        }
    }

    /// What a connection watches at a path.
    pub(crate) fn modes(&self, h: u64, path: &str, conn: ConnId) -> Modes {
        let entry = self.entries.find(h, |e| *e.path == *path);
        entry.and_then(|e| e.watchers.get(MODES, conn.0)).map_or(Modes::NONE, |w| Watcher(w).modes())
    }

    /// Takes modes away from what a connection watches at a path; `None` if it watched none of them.
    pub(crate) fn remove(
        &mut self,
        hash: &PathHash,
        h: u64,
        path: &str,
        conn: ConnId,
        modes: Modes,
    ) -> Option<Changed> {
        let mut found = self.entries.find_entry(h, |e| *e.path == *path).ok()?;
        let watchers = &mut found.get_mut().watchers;
        let word = watchers.find(MODES, conn.0)?;
        let before = Watcher(*word).modes();
        if !before.meets(modes) {
            return None;
        }
        let after = before.without(modes);
        *word = Watcher::new(conn, after).0;
        let edge = after == Modes::NONE;
        if edge && watchers.remove(MODES, conn.0) {
            found.remove();
            self.settle(hash);
        }
        Some(Changed { counted: after.tables() as i64 - before.tables() as i64, edge })
    }

    /// Removes whatever a connection watches at the paths of a hash; returns how many `zk_watch_count` loses.
    pub(crate) fn drop_watcher(&mut self, h: u64, hash: &PathHash, conn: ConnId) -> u64 {
        let mut counted = 0;
        loop {
            let found = self.entries.find_entry(h, |e| {
                e.watchers.get(MODES, conn.0).is_some() && hash.of(e.path.as_bytes()) == h
            });
            let Ok(mut found) = found else { return counted };
            let watchers = &mut found.get_mut().watchers;
            counted += watchers.get(MODES, conn.0).map_or(0, |w| Watcher(w).modes().tables());
            if watchers.remove(MODES, conn.0) {
                found.remove();
                self.settle(hash);
            }
        }
    }

    /// Adds to `heard` who hears of a change, uses up the one-shot watches, and adds to `gone` who watches the
    /// path no more. Returns how many `zk_watch_count` loses.
    pub(crate) fn fire(
        &mut self,
        hash: &PathHash,
        h: u64,
        path: &str,
        trigger: Trigger,
        heard: &mut Vec<ConnId>,
        gone: &mut Vec<ConnId>,
    ) -> u64 {
        let Ok(mut found) = self.entries.find_entry(h, |e| *e.path == *path) else { return 0 };
        let (heard_by, used_up) = (trigger.heard_by(), trigger.used_up());
        let mut counted = 0;
        // Whether the watcher stays.
        let mut one = |word: &mut u64| {
            let watcher = Watcher(*word);
            let before = watcher.modes();
            if !before.meets(heard_by) {
                return true;
            }
            heard.push(watcher.conn());
            let twice = proto::mutant::is(proto::mutant::Mutant::WatchFiresTwice);
            let after = if twice { before } else { before.without(used_up) };
            counted += before.tables() - after.tables();
            *word = Watcher::new(watcher.conn(), after).0;
            if after == Modes::NONE {
                gone.push(watcher.conn());
            }
            after != Modes::NONE
        };
        let watchers = &mut found.get_mut().watchers;
        let empty = match watchers {
            Few::One(word) => !one(word),
            Few::Many(t) => {
                t.retain(one);
                watchers.settle(MODES)
            }
        };
        if empty {
            found.remove();
            self.settle(hash);
        }
        counted
    }

    /// Gives memory back after removals.
    fn settle(&mut self, hash: &PathHash) {
        let (len, capacity) = (self.entries.len(), self.entries.capacity());
        if capacity > 64 && len < capacity / 8 {
            self.entries.shrink_to(len * 2, |e| hash.of(e.path.as_bytes()));
        }
    }

    /// Each path with its watchers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, impl Iterator<Item = (ConnId, Modes)>)> {
        let watcher = |w| (Watcher(w).conn(), Watcher(w).modes());
        self.entries.iter().map(move |e| (&*e.path, e.watchers.iter().map(watcher)))
    }
}

/// Recursive watches, by path and by connection.
#[derive(Debug, Default)]
pub(crate) struct RecursiveWatches {
    by_path: BTreeMap<Box<str>, BTreeSet<ConnId>>,
    by_conn: BTreeMap<ConnId, BTreeSet<Box<str>>>,
}

impl RecursiveWatches {
    pub(crate) fn is_empty(&self) -> bool {
        self.by_path.is_empty()
    }

    /// True if it is new.
    pub(crate) fn add(&mut self, path: &str, conn: ConnId) -> bool {
        self.by_conn.entry(conn).or_default().insert(path.into())
            && self.by_path.entry(path.into()).or_default().insert(conn)
    }

    pub(crate) fn contains(&self, path: &str, conn: ConnId) -> bool {
        self.by_path.get(path).is_some_and(|c| c.contains(&conn))
    }

    /// True if it was there.
    pub(crate) fn remove(&mut self, path: &str, conn: ConnId) -> bool {
        let Some(paths) = self.by_conn.get_mut(&conn) else { return false };
        if !paths.remove(path) {
            return false;
        }
        if paths.is_empty() {
            self.by_conn.remove(&conn);
        }
        self.forget(path, conn);
        true
    }

    pub(crate) fn watches(&self, conn: ConnId) -> bool {
        self.by_conn.contains_key(&conn)
    }

    /// How many paths a connection watches with all below them.
    pub(crate) fn of(&self, conn: ConnId) -> usize {
        self.by_conn.get(&conn).map_or(0, BTreeSet::len)
    }

    /// Removes all of a connection; returns how many there were.
    pub(crate) fn drop_connection(&mut self, conn: ConnId) -> u64 {
        let paths = self.by_conn.remove(&conn).unwrap_or_default();
        for path in &paths {
            self.forget(path, conn);
        }
        paths.len() as u64
    }

    fn forget(&mut self, path: &str, conn: ConnId) {
        if let Some(conns) = self.by_path.get_mut(path) {
            conns.remove(&conn);
            if conns.is_empty() {
                self.by_path.remove(path);
            }
        }
    }

    /// Adds to `heard` who watches `path` or an ancestor of it.
    pub(crate) fn above(&self, path: &str, heard: &mut Vec<ConnId>) {
        let mut at = path;
        loop {
            if let Some(conns) = self.by_path.get(at) {
                heard.extend(conns);
            }
            at = match at.rfind('/') {
                Some(0) if at.len() > 1 => "/",
                Some(0) | None => return,
                Some(end) => &at[..end],
            };
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, ConnId)> {
        self.by_path.iter().flat_map(|(path, conns)| conns.iter().map(move |&c| (&**path, c)))
    }
}

/// Which hashes of paths each connection watches; a superset for moments only.
#[derive(Debug)]
pub(crate) struct WatchedPaths {
    parts: Box<[Mutex<HashTable<Watched>>]>,
    /// `zk_watch_count` of the shards' tables and of the recursive ones.
    counted: AtomicU64,
}

#[derive(Debug)]
struct Watched {
    conn: ConnId,
    hashes: Few,
}

/// Locks that connections share.
const PARTS: usize = 64;

impl WatchedPaths {
    pub(crate) fn new() -> WatchedPaths {
        WatchedPaths { parts: (0..PARTS).map(|_| Mutex::default()).collect(), counted: AtomicU64::new(0) }
    }

    fn part(&self, conn: ConnId) -> &Mutex<HashTable<Watched>> {
        &self.parts[conn.0 as usize % PARTS]
    }

    pub(crate) fn counted(&self) -> u64 {
        self.counted.load(Ordering::Relaxed)
    }

    pub(crate) fn count(&self, change: i64) {
        // Adding the two's complement subtracts.
        self.counted.fetch_add(change as u64, Ordering::Relaxed);
    }

    pub(crate) fn add(&self, conn: ConnId, h: u64) {
        let mut part = self.part(conn).lock();
        match part.find_mut(spread(conn.0), |w| w.conn == conn) {
            None => {
                let watched = Watched { conn, hashes: Few::One(h) };
                part.insert_unique(spread(conn.0), watched, |w| spread(w.conn.0));
            }
            Some(w) => {
                if w.hashes.get(0, h).is_none() {
                    w.hashes.add(0, h);
                }
            }
        }
    }

    pub(crate) fn remove(&self, conn: ConnId, h: u64) {
        let mut part = self.part(conn).lock();
        if let Ok(mut found) = part.find_entry(spread(conn.0), |w| w.conn == conn)
            && found.get_mut().hashes.remove(0, h)
        {
            found.remove();
        }
    }

    /// How many paths a connection watches, recursive watches not counted.
    pub(crate) fn of(&self, conn: ConnId) -> usize {
        let part = self.part(conn).lock();
        part.find(spread(conn.0), |w| w.conn == conn).map_or(0, |w| w.hashes.len())
    }

    /// Forgets a connection and tells what it watched.
    pub(crate) fn take(&self, conn: ConnId) -> Vec<u64> {
        let mut part = self.part(conn).lock();
        match part.find_entry(spread(conn.0), |w| w.conn == conn) {
            Ok(found) => {
                let watched = found.remove().0;
                let mut hashes = Vec::with_capacity(watched.hashes.len());
                hashes.extend(watched.hashes.iter());
                hashes
            }
            Err(_) => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ConnId = ConnId(1);
    const B: ConnId = ConnId(2);

    struct Table {
        hash: PathHash,
        watches: ShardWatches,
        counted: i64,
    }

    impl Table {
        fn new() -> Table {
            Table { hash: PathHash::new(1), watches: ShardWatches::default(), counted: 0 }
        }

        fn add(&mut self, path: &str, conn: ConnId, modes: Modes) -> bool {
            let h = self.hash.of(path.as_bytes());
            let c = self.watches.add(&self.hash, h, path, conn, modes);
            self.counted += c.counted;
            c.edge
        }

        fn fire(&mut self, path: &str, trigger: Trigger) -> (Vec<ConnId>, Vec<ConnId>) {
            let (mut heard, mut gone) = (vec![], vec![]);
            let h = self.hash.of(path.as_bytes());
            self.counted -= self.watches.fire(&self.hash, h, path, trigger, &mut heard, &mut gone) as i64;
            heard.sort_unstable();
            gone.sort_unstable();
            (heard, gone)
        }

        /// `zk_watch_count`, counted the slow way.
        fn slow_count(&self) -> i64 {
            self.watches.iter().flat_map(|(_, w)| w).map(|(_, m)| m.tables() as i64).sum()
        }
    }

    #[test]
    fn triggers_use_up_what_they_meet() {
        // (modes of A, trigger, A hears, modes left)
        let all = Modes::ALL;
        let data_child = Modes::DATA.or(Modes::CHILD);
        for (modes, trigger, hears, left) in [
            (Modes::DATA, Trigger::Data, true, Modes::NONE),
            (Modes::DATA, Trigger::Child, false, Modes::DATA),
            (Modes::DATA, Trigger::Deleted, true, Modes::NONE),
            (Modes::CHILD, Trigger::Data, false, Modes::CHILD),
            (Modes::CHILD, Trigger::Child, true, Modes::NONE),
            (Modes::CHILD, Trigger::Deleted, true, Modes::NONE),
            (data_child, Trigger::Data, true, Modes::CHILD),
            (data_child, Trigger::Deleted, true, Modes::NONE),
            (Modes::PERSISTENT, Trigger::Data, true, Modes::PERSISTENT),
            (Modes::PERSISTENT, Trigger::Child, true, Modes::PERSISTENT),
            (Modes::PERSISTENT, Trigger::Deleted, true, Modes::PERSISTENT),
            (all, Trigger::Child, true, Modes::DATA.or(Modes::PERSISTENT)),
            (all, Trigger::Deleted, true, Modes::PERSISTENT),
        ] {
            for neighbours in [0, 1, 5] {
                let mut t = Table::new();
                assert!(t.add("/p", A, modes));
                for n in 0..neighbours {
                    t.add("/p", ConnId(100 + n), Modes::CHILD);
                    t.add("/q", ConnId(100 + n), Modes::CHILD);
                }
                let (heard, gone) = t.fire("/p", trigger);
                let case = format!("{modes:?} {trigger:?} {neighbours}");
                assert_eq!(heard.contains(&A), hears, "{case}");
                assert_eq!(gone.contains(&A), left == Modes::NONE, "{case}");
                assert_eq!(t.watches.modes(t.hash.of(b"/p"), "/p", A), left, "{case}");
                assert_eq!(t.counted, t.slow_count(), "{case}");
            }
        }
    }

    #[test]
    fn modes_add_up_and_are_taken_away_one_by_one() {
        let mut t = Table::new();
        let h = t.hash.of(b"/p");
        assert!(t.add("/p", A, Modes::DATA));
        assert!(!t.add("/p", A, Modes::DATA));
        assert!(!t.add("/p", A, Modes::PERSISTENT));
        assert!(t.add("/p", B, Modes::CHILD));
        assert_eq!((t.counted, t.slow_count()), (3, 3));
        let hash = t.hash;
        assert_eq!(t.watches.remove(&hash, h, "/p", A, Modes::CHILD), None);
        assert_eq!(t.watches.remove(&hash, h, "/q", A, Modes::ALL), None);
        let c = t.watches.remove(&hash, h, "/p", A, Modes::PERSISTENT);
        assert_eq!(c, Some(Changed { counted: -1, edge: false }));
        let c = t.watches.remove(&hash, h, "/p", A, Modes::ALL);
        assert_eq!(c, Some(Changed { counted: -1, edge: true }));
        assert_eq!(t.watches.remove(&hash, h, "/p", A, Modes::ALL), None);
        assert_eq!(t.watches.drop_watcher(h, &hash, A), 0);
        assert_eq!(t.watches.drop_watcher(h, &hash, B), 1);
        assert!(t.watches.is_empty());
    }

    #[test]
    fn many_watchers_of_one_path() {
        let mut t = Table::new();
        for n in 0..5000 {
            assert!(t.add("/p", ConnId(n), if n % 2 == 0 { Modes::DATA } else { Modes::PERSISTENT }));
        }
        let (heard, gone) = t.fire("/p", Trigger::Data);
        assert_eq!((heard.len(), gone.len(), t.slow_count()), (5000, 2500, 5000));
        assert_eq!(t.counted, 5000);
        for n in (0..5000).filter(|n| n % 2 == 1) {
            assert_eq!(t.watches.drop_watcher(t.hash.of(b"/p"), &t.hash, ConnId(n)), 2);
        }
        assert!(t.watches.is_empty());
    }

    #[test]
    fn recursive_watches_hear_of_the_whole_subtree() {
        let mut r = RecursiveWatches::default();
        assert!(r.add("/a/b", A) && !r.add("/a/b", A) && r.add("/", B) && r.add("/a/b/c", A));
        for (path, want) in [
            ("/", vec![B]),
            ("/a", vec![B]),
            ("/a/b", vec![A, B]),
            ("/a/bc", vec![B]),
            ("/a/b/c", vec![A, A, B]),
            ("/a/b/x/y", vec![A, B]),
        ] {
            let mut heard = vec![];
            r.above(path, &mut heard);
            heard.sort_unstable();
            assert_eq!(heard, want, "{path}");
        }
        assert!(r.contains("/a/b", A) && !r.contains("/a", A));
        assert!(r.remove("/a/b", A) && !r.remove("/a/b", A) && r.watches(A));
        assert_eq!((r.drop_connection(A), r.drop_connection(B), r.is_empty()), (1, 1, true));
    }

    #[test]
    fn a_connection_knows_what_it_watches() {
        let w = WatchedPaths::new();
        for h in 0..100 {
            w.add(A, h);
            w.add(A, h);
            w.add(ConnId(A.0 + PARTS as u64), h);
        }
        for h in 0..50 {
            w.remove(A, h);
            w.remove(A, h);
        }
        let mut left = w.take(A);
        left.sort_unstable();
        assert_eq!(left, (50..100).collect::<Vec<_>>());
        assert!(w.take(A).is_empty());
        assert_eq!(w.take(ConnId(A.0 + PARTS as u64)).len(), 100);
    }
}
