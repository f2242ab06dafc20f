//! The import: a state from the records of a walk, or of a snapshot of Apache's.
//!
//! Znodes may come in any order and from several threads. Each caller gathers a batch and puts it in shard by shard:
//! one after the other, each would wait for memory that nobody has touched for a while, several times. When all are
//! there [`Importer::finish`] hangs children below their parents, in batches too, and builds every index from the
//! znodes. In a fuzzy state a znode may lack its parent, or name an ACL that is in no table. Both are kept and come
//! right in replay; [`Tree::check_links`] says whether they did.

use super::acls::AclId;
use super::by_shard::ByShard;
use super::crew::{Alone, Crew, each};
use super::names::NameSet;
use super::node::Node;
use super::walk::WalkKind;
use super::{Applier, CONFIG, Settled, Tree, canonical, quota, text};
use crate::limits;
use crate::sync::{Mutex, Ordering, RwLock};
use proto::jute::{DecodeError, Reader};
use proto::state::{AclRecord, NodeRecord, OPEN_ACL, SessionRecord};
use proto::{Owner, Zxid, path};
use std::collections::BTreeMap;
use std::fmt;

/// Takes in a state. The tree was emptied when this was made, and must not be served before
/// [`Importer::finish`].
#[derive(Debug)]
pub struct Importer<'a> {
    applier: &'a mut Applier,
    /// The numbers that the records use, and ours.
    acls: RwLock<BTreeMap<i64, AclId>>,
    /// Those that nobody fills just now; as many as ever called [`Importer::nodes`] at once.
    batches: Mutex<Vec<Batch>>,
}

/// Znodes with the hashes of their paths, not yet in their shards.
#[derive(Debug, Default)]
struct Batch {
    nodes: Vec<(u64, Option<Node>)>,
    sorted: ByShard,
}

impl Batch {
    fn add(&mut self, tree: &Tree, h: u64, node: Node) {
        self.nodes.push((h, Some(node)));
        if self.nodes.len() == limits::IMPORT_BATCH {
            self.put(tree);
        }
    }

    /// Puts the znodes into their shards.
    fn put(&mut self, tree: &Tree) {
        self.sorted.sort(tree.shards.len(), self.nodes.iter().map(|(h, _)| tree.shard_number(*h)));
        for (shard, numbers) in self.sorted.groups() {
            let mut shard = tree.shards[shard].write();
            for &n in &*numbers {
                let (h, node) = &mut self.nodes[n as usize];
                let node = node.take().expect("each has one place in the order");
                match shard.find_mut(*h, node.path()) {
                    None => shard.add(*h, node),
                    // Met twice by the walk: removed and made again meanwhile. Replay makes it right from either.
                    Some(there) if there.stat().czxid <= node.stat().czxid => *there = node,
                    Some(_) => {}
                }
            }
        }
        self.nodes.clear();
    }
}

/// Why a state can't be imported. The tree is then in no usable state.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ImportError {
    /// A record is cut short or malformed.
    Undecodable {
        /// What it should have been.
        kind: WalkKind,
        /// Its number within the part, from 0.
        record: u64,
        /// What is wrong; offsets count from the start of the part.
        source: DecodeError,
    },
    /// Bytes are left behind the last record of a part.
    Surplus {
        /// What the records are.
        kind: WalkKind,
        /// How many bytes.
        bytes: usize,
    },
    /// The state has no root.
    NoRoot,
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImportError::Undecodable { kind, record, .. } => {
                write!(f, "record {record} of a part of {kind:?} can't be decoded")
            }
            ImportError::Surplus { kind, bytes } => {
                write!(f, "{bytes} bytes are left behind the last record of a part of {kind:?}")
            }
            ImportError::NoRoot => f.write_str("the state has no root"),
        }
    }
}

impl std::error::Error for ImportError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ImportError::Undecodable { source, .. } => Some(source),
            ImportError::Surplus { .. } | ImportError::NoRoot => None,
        }
    }
}

/// What a tree still lacks after replay.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum LinkError {
    /// Znodes without their parents.
    Orphan {
        /// How many.
        count: u64,
        /// One of them.
        path: Box<str>,
    },
    /// Znodes whose list is in no table. Nobody but the super user may use them.
    UnknownAcl {
        /// How many.
        count: u64,
        /// One of them.
        path: Box<str>,
    },
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LinkError::Orphan { count, path } => write!(f, "{count} znodes have no parent, {path} is one"),
            LinkError::UnknownAcl { count, path } => {
                write!(f, "{count} znodes have an unknown ACL, {path} is one")
            }
        }
    }
}

impl std::error::Error for LinkError {}

impl Applier {
    /// Empties the tree and starts to import a state.
    pub fn import(&mut self) -> Importer<'_> {
        Importer::new(self)
    }

    /// Makes the tree the fresh one again, as a new server has it. Watches stay, they belong to connections.
    pub fn reset(&mut self) {
        drop(Importer::new(self));
        self.plant();
    }
}

impl<'a> Importer<'a> {
    /// Empties the tree of `applier`: znodes, ACLs, sessions and every index. Watches stay, they belong to
    /// connections.
    pub fn new(applier: &'a mut Applier) -> Importer<'a> {
        let tree = applier.tree();
        for shard in &tree.shards {
            shard.write().clear();
        }
        tree.acls.clear();
        *tree.owned.lock() = Default::default();
        tree.sessions.write().clear();
        tree.quotas.write().clear();
        tree.has_quotas.store(0, Ordering::Relaxed);
        tree.znodes.store(0, Ordering::Relaxed);
        tree.data_bytes.store(0, Ordering::Relaxed);
        *tree.mark.lock() = Default::default();
        tree.applied.store(0, Ordering::Release);
        applier.digest = 0;
        applier.fuzzy = None;
        Importer { applier, acls: RwLock::default(), batches: Mutex::default() }
    }

    /// Takes in session records.
    ///
    /// # Errors
    /// When the bytes are not exactly `count` of them; so in the methods below.
    pub fn sessions(&self, bytes: &[u8], count: u64) -> Result<(), ImportError> {
        let mut sessions = self.applier.tree().sessions.write();
        each_record(WalkKind::Sessions, bytes, count, SessionRecord::decode, |r| {
            sessions.insert(r.session, r.timeout_ms);
        })
    }

    /// Takes in ACL records; all of them before the first znode.
    pub fn acls(&self, bytes: &[u8], count: u64) -> Result<(), ImportError> {
        let tree = self.applier.tree();
        let mut acls = self.acls.write();
        each_record(WalkKind::Acls, bytes, count, AclRecord::decode, |r| {
            acls.insert(r.id, tree.acls.announce(r.acl));
        })
    }

    /// Takes in znodes in any order, from any number of threads.
    pub fn nodes(&self, bytes: &[u8], count: u64) -> Result<(), ImportError> {
        let tree = self.applier.tree();
        let acls = self.acls.read();
        let mut batch = self.batches.lock().pop().unwrap_or_default();
        let done = each_record(WalkKind::Nodes, bytes, count, NodeRecord::decode, |r| {
            let acl = match r.acl {
                OPEN_ACL => AclId::OPEN,
                id => acls.get(&id).copied().unwrap_or(AclId::UNKNOWN),
            };
            let path = canonical(&r.path).as_bytes();
            let node = Node::new(path, r.data, acl, r.stat, tree.config.digest_enabled);
            batch.add(tree, tree.hash.of(path), node);
        });
        self.batches.lock().push(batch);
        done
    }

    /// Completes the tree: links, indexes, counts, digest. Every txn up to `start` is contained; `settled` says
    /// where the fuzziness ends, `None` that there is none.
    ///
    /// # Errors
    /// [`ImportError::NoRoot`].
    pub fn finish(self, start: Zxid, settled: Option<Settled>) -> Result<(), ImportError> {
        self.finish_with(&Alone, start, settled)
    }

    /// [`Importer::finish`], with the work divided among `crew`.
    ///
    /// # Errors
    /// As there.
    pub fn finish_with(
        self,
        crew: &dyn Crew,
        start: Zxid,
        settled: Option<Settled>,
    ) -> Result<(), ImportError> {
        let Importer { applier, batches, .. } = self;
        let tree = std::sync::Arc::clone(applier.tree());
        let workers = crew.size();
        // Of each batch what is left.
        let mut left: Vec<Vec<Batch>> = (0..workers).map(|_| Vec::new()).collect();
        for (n, batch) in std::mem::take(&mut *batches.lock()).into_iter().enumerate() {
            left[n % workers].push(batch);
        }
        each(crew, &mut left, |_, batches| batches.iter_mut().for_each(|batch| batch.put(&tree)));
        drop(left);
        if tree.peek("/", |n| n.is_none()) {
            return Err(ImportError::NoRoot);
        }
        let mut found: Vec<Found> = (0..workers).map(|_| Found::default()).collect();
        each(crew, &mut found, |worker, found| {
            (worker..tree.shards.len()).step_by(workers).for_each(|n| tree.complete_shard(n, found));
            found.links.hang(&tree);
        });
        tree.acls.purge();
        tree.znodes.store(found.iter().map(|f| f.znodes).sum(), Ordering::Relaxed);
        tree.data_bytes.store(found.iter().map(|f| f.data_bytes).sum(), Ordering::Relaxed);
        applier.digest = found.iter().fold(0, |sum, f| sum.wrapping_add(f.digest));
        if tree.peek(CONFIG, |n| n.is_none()) {
            // Snapshots from before 3.5 lack it.
            applier.plant();
        }
        for prefix in found.iter().flat_map(|f| &f.quotas) {
            tree.quotas.write().add(prefix);
            tree.has_quotas.store(1, Ordering::Relaxed);
            tree.recount(prefix);
        }
        let digest = applier.digest;
        applier.fuzzy = settled.filter(|s| s.zxid > start);
        if let Some(Settled { zxid, digest: Some(wanted) }) = settled
            && zxid == start
            && tree.config.digest_enabled
            && wanted != digest
        {
            tree.digest_mismatches.fetch_add(1, Ordering::Relaxed);
        }
        let mut mark = tree.mark.lock();
        (mark.zxid, mark.digest) = (start, digest);
        tree.applied.store(start.as_u64(), Ordering::Release);
        Ok(())
    }
}

/// Decodes exactly `count` records.
fn each_record<'b, R>(
    kind: WalkKind,
    bytes: &'b [u8],
    count: u64,
    decode: impl Fn(&mut Reader<'b>) -> Result<R, DecodeError>,
    mut take: impl FnMut(R),
) -> Result<(), ImportError> {
    let mut reader = Reader::new(bytes);
    for record in 0..count {
        let r = decode(&mut reader).map_err(|source| ImportError::Undecodable { kind, record, source })?;
        take(r);
    }
    match reader.remaining() {
        0 => Ok(()),
        bytes => Err(ImportError::Surplus { kind, bytes }),
    }
}

/// What the znodes come to.
#[derive(Default)]
struct Found {
    znodes: u64,
    data_bytes: u64,
    digest: i64,
    quotas: Vec<String>,
    links: Links,
}

/// Names to be hung below their parents.
#[derive(Default)]
struct Links {
    all: Vec<Link>,
    /// Their paths, one after the other.
    paths: Vec<u8>,
    /// The shards whose znodes these are.
    shards: usize,
    sorted: ByShard,
}

/// From so many names on those of some shards tell how many there are in all.
const SAMPLE_MIN: usize = 4;

/// A znode that is a child.
struct Link {
    /// The hash of the parent's path.
    h: u64,
    /// Where the path stands, its last slash, its end.
    at: usize,
    slash: usize,
    end: usize,
}

impl Links {
    fn add(&mut self, h: u64, path: &[u8], slash: usize) {
        let at = self.paths.len();
        self.paths.extend_from_slice(path);
        self.all.push(Link { h, at, slash: at + slash, end: self.paths.len() });
    }

    /// Hangs the names below those parents that are there.
    fn hang(&mut self, tree: &Tree) {
        self.sorted.sort(tree.shards.len(), self.all.iter().map(|link| tree.shard_number(link.h)));
        for (shard, numbers) in self.sorted.groups() {
            // Siblings one after the other.
            numbers.sort_unstable_by_key(|&n| self.all[n as usize].h);
            let mut shard = tree.shards[shard].write();
            let parent_of = |link: &Link| match &self.paths[link.at..link.slash] {
                b"" => &b"/"[..],
                parent => parent,
            };
            for siblings in numbers.chunk_by(|&a, &b| {
                let (a, b) = (&self.all[a as usize], &self.all[b as usize]);
                a.h == b.h && parent_of(a) == parent_of(b)
            }) {
                let first = &self.all[siblings[0] as usize];
                let Some(above) = shard.find_mut(first.h, parent_of(first)) else { continue };
                let children = above.children.get_or_insert_with(|| {
                    let mut names = Box::<NameSet>::default();
                    // Its children lie in all shards alike.
                    if siblings.len() >= SAMPLE_MIN {
                        names.reserve(siblings.len() * tree.shards.len() / self.shards);
                    }
                    names
                });
                for &n in siblings {
                    // Each znode comes here once, and nothing but its name hangs there.
                    let Link { slash, end, .. } = self.all[n as usize];
                    children.add(&tree.hash, &self.paths[slash + 1..end]);
                }
            }
        }
        self.all.clear();
        self.paths.clear();
        self.shards = 0;
    }
}

impl Tree {
    /// Counts and indexes the znodes of one shard and hangs them below their parents, some of them later.
    fn complete_shard(&self, n: usize, found: &mut Found) {
        // Parents are in any shard, so first all is noted under this lock and then done under theirs.
        {
            let shard = self.shards[n].read();
            // The list that the last znodes share.
            let (mut list, mut references) = (AclId::OPEN, 0);
            for node in shard.slots.iter() {
                found.znodes += 1;
                found.data_bytes += node.size() as u64;
                found.digest += i64::from(node.digest());
                if node.acl != list {
                    self.acls.refer(std::mem::replace(&mut list, node.acl), std::mem::take(&mut references));
                }
                references += 1;
                let owner = self.owner_of(node);
                if owner != Owner::Persistent {
                    self.owned.lock().add(&self.hash, owner, node.path());
                }
                let Some(slash) = node.path().iter().rposition(|&b| b == b'/') else { continue };
                if node.path().len() == 1 {
                    continue;
                }
                let parent = if slash == 0 { b"/" } else { &node.path()[..slash] };
                found.links.add(self.hash.of(parent), node.path(), slash);
                if &node.path()[slash + 1..] == quota::LIMITS.as_bytes() {
                    let parent = text(parent);
                    found.quotas.extend(quota::subject(&parent).map(str::to_owned));
                }
            }
            self.acls.refer(list, references);
        }
        found.links.shards += 1;
        if found.links.all.len() >= limits::IMPORT_LINKS
            || found.links.paths.len() >= limits::IMPORT_LINK_BYTES
        {
            found.links.hang(self);
        }
    }

    /// After the replay over a fuzzy state: whether every znode hangs below its parent and every list is known.
    ///
    /// # Errors
    /// [`LinkError`], of the first kind found.
    pub fn check_links(&self) -> Result<(), LinkError> {
        let (mut znodes, mut children) = (0_u64, 0_u64);
        let mut unknown: Option<(u64, Box<str>)> = None;
        for shard in &self.shards {
            for node in shard.read().slots.iter() {
                znodes += 1;
                children += node.child_count() as u64;
                if node.acl == AclId::UNKNOWN {
                    let (count, _) = unknown.get_or_insert_with(|| (0, text(node.path())));
                    *count += 1;
                }
            }
        }
        // A name hangs below one parent only, and the applier adds names and znodes together: so if there are as
        // many names as znodes below the root, each znode has its name.
        if children + 1 != znodes
            && let Some(error) = self.find_orphans()
        {
            return Err(error);
        }
        match unknown {
            Some((count, path)) => Err(LinkError::UnknownAcl { count, path }),
            None => Ok(()),
        }
    }

    fn find_orphans(&self) -> Option<LinkError> {
        let mut orphans: Option<(u64, Box<str>)> = None;
        for n in 0..self.shards.len() {
            let paths: Vec<Box<str>> = self.shards[n].read().slots.iter().map(|n| text(n.path())).collect();
            for path in paths {
                let Some(parent) = path::parent(&path) else { continue };
                let h = self.hash.of(parent.as_bytes());
                let shard = self.shard(h).read();
                let name = path::name(&path).as_bytes();
                let linked = shard
                    .find(h, parent.as_bytes())
                    .and_then(|above| above.children.as_ref())
                    .is_some_and(|names| names.contains(&self.hash, name));
                if !linked {
                    orphans.get_or_insert((0, path)).0 += 1;
                }
            }
        }
        orphans.map(|(count, path)| LinkError::Orphan { count, path })
    }
}
