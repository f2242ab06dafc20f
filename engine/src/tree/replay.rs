//! Many records at once, on all cores: the replay of a log.
//!
//! [`Replay::apply`] ends in exactly what [`Applier::apply`] makes of the same records one after the other, with the
//! same checks. It changes the tree through the same functions; only who calls them, and when, is another matter:
//!
//! ```text
//! records ── decode, hash, is it there? ── what will be there ── each shard's changes in order ── digests, zxid
//!            each worker a share           one after the other   each worker its shards            one after the other
//! ```
//!
//! A change of a znode, and of its parent, depends on nothing but that znode and what happened to it before, and all
//! that happens to one znode happens in one shard, in order. There are two exceptions. A create needs to know whether
//! its parent is there, and whether its path was: that is worked out beforehand from the tree as it was and the creates
//! and deletes before it. And the digest of the tree behind each txn is the sum of all changes up to it, whoever made
//! them, so it is summed up afterwards.
//!
//! What doesn't fit this (ends of sessions, quotas) is applied as it always is, between two such rounds. Watches don't
//! fit either: as long as there are any, everything is.

use super::apply::{
    Applier, ApplyError, Nobody, change_acl, change_data, differs, give_acl, hang, new_node, owner_in, unhang,
};
use super::crew::{Crew, each};
use super::{Tree, canonical, quota};
use crate::sync::Ordering;
use hashbrown::HashTable;
use proto::acl::AclBytes;
use proto::txn::{Record, RecordBatch, Txn, TxnDigest, TxnHeader, kind};
use proto::{Owner, path};
use std::borrow::Cow;

/// A round with fewer records is not worth the crew's while.
const ROUND_MIN: usize = 32;

/// A change of one znode, and of its parent if it comes or goes.
struct Change<'b> {
    what: What<'b>,
    /// The number of the record in the round.
    record: u32,
    path: &'b str,
    h: u64,
    /// Of the parent; unused where the parent is left alone.
    parent_h: u64,
    /// What was there when the round began: the path, its parent.
    there: bool,
    parent_there: bool,
}

enum What<'b> {
    Create { data: Option<&'b [u8]>, acl: AclBytes<'b>, owner: i64, parent_cversion: i32 },
    Delete,
    SetData { data: Option<&'b [u8]>, version: i32 },
    SetAcl { acl: AclBytes<'b>, aversion: i32 },
}

/// What a record is besides its changes.
struct Head {
    header: TxnHeader,
    digest: Option<TxnDigest>,
    /// The time-out of the session that it opens.
    opens: Option<i32>,
}

/// A worker's share of the records of a round, decoded.
#[derive(Default)]
struct Share<'b> {
    /// The number of its first record in the round.
    first: usize,
    heads: Vec<Head>,
    changes: Vec<Change<'b>>,
    /// The records behind these are not for a round.
    cut: bool,
}

/// One half of a change, for the worker who has the shard.
#[derive(Clone, Copy)]
struct Task {
    share: u32,
    change: u32,
    half: Half,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Half {
    Znode,
    /// Of a delete, or of a create whose path was there.
    Parent,
    /// Of a create whose path was not there.
    ParentOfNew,
}

/// What a worker has done.
#[derive(Default)]
struct Done {
    /// Changes of the digest, by record.
    digests: Vec<(u32, i64)>,
    znodes: i64,
    data_bytes: i64,
}

/// A path that came or went in a round.
struct Known {
    h: u64,
    /// A change of that path.
    share: u32,
    change: u32,
    there: bool,
}

/// The replay of a log. Its vectors live on from round to round: memory that is new each time would cost as much as
/// what is done in it.
pub struct Replay<'a> {
    applier: &'a mut Applier,
    crew: &'a dyn Crew,
    shares: Vec<Share<'static>>,
    tasks: Vec<Vec<Task>>,
    done: Vec<Done>,
    known: HashTable<Known>,
    digests: Vec<i64>,
}

impl Applier {
    /// Begins to replay a log with `crew`. The tree must not be served meanwhile: a reader could see half of a txn.
    pub fn replay<'a>(&'a mut self, crew: &'a dyn Crew) -> Replay<'a> {
        let many = || 0..crew.size();
        Replay {
            applier: self,
            crew,
            shares: many().map(|_| Share::default()).collect(),
            tasks: many().map(|_| Vec::new()).collect(),
            done: many().map(|_| Done::default()).collect(),
            known: HashTable::new(),
            digests: Vec::new(),
        }
    }
}

impl Replay<'_> {
    /// Applies records as [`Applier::apply`] would one after the other, with nobody to be told.
    ///
    /// # Errors
    /// As there: everything before the record is applied then.
    pub fn apply(&mut self, batch: &RecordBatch) -> Result<(), ApplyError> {
        let records: Vec<&[u8]> = batch.iter().map(|(_, record)| record).collect();
        let mut rest = &records[..];
        while !rest.is_empty() {
            let is_alone = |record: &&[u8]| TxnHeader::peek_kind(record) == Some(kind::CLOSE_SESSION);
            let len = rest.iter().position(is_alone).unwrap_or(rest.len());
            let quiet = self.applier.tree().is_quiet();
            let mut done = 0;
            if self.crew.size() > 1 && len >= ROUND_MIN && quiet {
                done = self.round(&rest[..len]);
            }
            // The rest of this stretch, and whatever ended it.
            let end = (len + 1).min(rest.len());
            for record in &rest[done..end] {
                self.applier.apply(record, &Nobody, &mut |_, _| {})?;
            }
            rest = &rest[end..];
        }
        Ok(())
    }

    /// Applies as many of the records as can be applied in a round, and says how many.
    fn round(&mut self, records: &[&[u8]]) -> usize {
        let tree = std::sync::Arc::clone(self.applier.tree());
        let workers = self.crew.size();
        let mut shares: Vec<Share<'_>> = std::mem::take(&mut self.shares);
        each(self.crew, &mut shares, |n, share| {
            let (from, to) = (records.len() * n / workers, records.len() * (n + 1) / workers);
            share.read(&tree, &records[from..to], from);
        });
        // A share that was cut ends the round: what lies behind it must wait.
        let whole = shares.iter().position(|s| s.cut).map_or(shares.len(), |n| n + 1);
        let round = &shares[..whole];
        divide(&tree, round, &mut self.tasks, &mut self.known);
        let tasks = &self.tasks;
        each(self.crew, &mut self.done, |n, done| {
            for task in &tasks[n] {
                let share = &round[task.share as usize];
                share.changes[task.change as usize].run(&tree, task.half, share, done);
            }
        });
        let count = self.publish(&tree, round);
        self.shares = shares.into_iter().map(Share::emptied).collect();
        count
    }

    fn publish(&mut self, tree: &Tree, shares: &[Share<'_>]) -> usize {
        let count = shares.iter().map(|s| s.heads.len()).sum();
        self.digests.clear();
        self.digests.resize(count, 0);
        for done in &mut self.done {
            for (record, change) in done.digests.drain(..) {
                let sum = &mut self.digests[record as usize];
                *sum = sum.wrapping_add(change);
            }
            tree.znodes.fetch_add(std::mem::take(&mut done.znodes) as u64, Ordering::Relaxed);
            tree.data_bytes.fetch_add(std::mem::take(&mut done.data_bytes) as u64, Ordering::Relaxed);
        }
        let enabled = tree.config.digest_enabled;
        let Applier { digest, fuzzy, .. } = &mut *self.applier;
        let mut mark = tree.mark.lock();
        let mut mismatches = 0;
        for (head, change) in shares.iter().flat_map(|s| &s.heads).zip(&self.digests) {
            *digest = digest.wrapping_add(*change);
            let zxid = head.header.zxid;
            mismatches += u64::from(differs(fuzzy, zxid, mark.zxid, *digest, head.digest).is_some());
            mark.pass(zxid, *digest, enabled && fuzzy.is_none());
            if let Some(timeout_ms) = head.opens {
                tree.sessions.write().insert(head.header.session, timeout_ms);
            }
        }
        if enabled {
            tree.digest_mismatches.fetch_add(mismatches, Ordering::Relaxed);
        }
        tree.applied.store(mark.zxid.as_u64(), Ordering::Release);
        count
    }
}

impl Tree {
    /// Nobody watches and nothing is counted: a change concerns its znode and its parent alone.
    fn is_quiet(&self) -> bool {
        self.has_quotas.load(Ordering::Relaxed) == 0
            && self.watched.counted() == 0
            && self.recursive.read().is_empty()
    }
}

impl<'b> Share<'b> {
    /// Decodes records, the first of which has the number `first`, and looks at what they will change.
    fn read(&mut self, tree: &Tree, records: &[&'b [u8]], first: usize) {
        self.first = first;
        self.cut = false;
        // Of siblings only the first asks for their parent.
        let mut parent: Option<(&str, u64, bool)> = None;
        for (n, record) in records.iter().enumerate() {
            let before = self.changes.len();
            let number = (first + n) as u32;
            let record = Record::decode(record).ok();
            if !record.is_some_and(|record| self.take(tree, record, number, &mut parent)) {
                self.changes.truncate(before);
                self.cut = true;
                break;
            }
        }
    }

    /// Without content, with its room.
    fn emptied(mut self) -> Share<'static> {
        self.heads.clear();
        self.changes.clear();
        let changes = self.changes.into_iter().map(|_| unreachable!("there is none")).collect();
        Share { first: 0, heads: self.heads, changes, cut: false }
    }

    /// Takes in one record; false if it does not fit into a round.
    fn take(
        &mut self,
        tree: &Tree,
        record: Record<'b>,
        number: u32,
        parent: &mut Option<(&'b str, u64, bool)>,
    ) -> bool {
        let Record { header, txn, digest } = record;
        let mut opens = None;
        let fits = match txn {
            Txn::CreateSession { timeout_ms } => {
                opens = Some(timeout_ms);
                true
            }
            Txn::Multi(txns) if super::apply::failed(&txns) => true,
            Txn::Multi(txns) => {
                txns.into_iter().all(|txn| self.add(tree, &header, txn, number, true, parent))
            }
            txn => self.add(tree, &header, txn, number, false, parent),
        };
        self.heads.extend(fits.then_some(Head { header, digest, opens }));
        fits
    }

    fn add(
        &mut self,
        tree: &Tree,
        header: &TxnHeader,
        txn: Txn<'b>,
        record: u32,
        in_multi: bool,
        parent: &mut Option<(&'b str, u64, bool)>,
    ) -> bool {
        let (path, what) = match txn {
            Txn::Create { kind, path, data, acl, ephemeral, parent_cversion } => {
                let owner = owner_in(kind, ephemeral, header);
                (path, What::Create { data, acl, owner, parent_cversion })
            }
            Txn::Delete { path, .. } => (path, What::Delete),
            Txn::SetData { path, data, version, .. } => (path, What::SetData { data, version }),
            // Not inside of a multi: see `Scope::run_all`.
            Txn::SetAcl { .. } if in_multi => return true,
            Txn::SetAcl { path, acl, aversion } => (path, What::SetAcl { acl, aversion }),
            Txn::Check { .. } | Txn::Error { .. } => return true,
            Txn::CreateSession { .. } | Txn::CloseSession { .. } | Txn::Multi(_) => return in_multi,
        };
        // Text that had to be mended has its own place in memory.
        let Cow::Borrowed(path) = path else { return false };
        let find = |path: &str, h: u64| tree.shard(h).read().slot_of(h, path.as_bytes()).is_some();
        let (path, parent_h, parent_there) = match what {
            What::SetData { .. } | What::SetAcl { .. } => (canonical(path), 0, false),
            What::Create { .. } | What::Delete => {
                if path.starts_with(quota::QUOTA) {
                    return false;
                }
                // The root neither comes nor goes.
                let Some(above) = path::parent(path) else { return true };
                match *parent {
                    Some((last, h, there)) if last == above => (path, h, there),
                    _ => {
                        let h = tree.hash.of(above.as_bytes());
                        let there = find(above, h);
                        *parent = Some((above, h, there));
                        (path, h, there)
                    }
                }
            }
        };
        let h = tree.hash.of(path.as_bytes());
        let there = matches!(what, What::Create { .. }) && find(path, h);
        self.changes.push(Change { what, record, path, h, parent_h, there, parent_there });
        true
    }
}

/// Works out what each create will find, and gives each half of a change to who has its shard.
fn divide(tree: &Tree, shares: &[Share<'_>], tasks: &mut [Vec<Task>], known: &mut HashTable<Known>) {
    let workers = tasks.len();
    tasks.iter_mut().for_each(Vec::clear);
    known.clear();
    let path = |k: &Known| shares[k.share as usize].changes[k.change as usize].path;
    // Of siblings only the first asks for their parent. What it is said to be holds until something is deleted: a
    // create of that very znode would itself ask for another one.
    let mut parent: Option<(&str, bool)> = None;
    for (share, s) in shares.iter().enumerate() {
        for (n, c) in s.changes.iter().enumerate() {
            let mut give = |h: u64, half| {
                let worker = tree.shard_number(h) % workers;
                tasks[worker].push(Task { share: share as u32, change: n as u32, half });
            };
            let there = match c.what {
                What::SetData { .. } | What::SetAcl { .. } => {
                    give(c.h, Half::Znode);
                    continue;
                }
                What::Delete => {
                    give(c.parent_h, Half::Parent);
                    parent = None;
                    false
                }
                What::Create { .. } => {
                    let above = path::parent(c.path).expect("the root does not come here");
                    let parent_there = match parent {
                        Some((last, there)) if last == above => there,
                        _ => known
                            .find(c.parent_h, |k| k.h == c.parent_h && path(k) == above)
                            .map_or(c.parent_there, |k| k.there),
                    };
                    parent = Some((above, parent_there));
                    if !parent_there {
                        continue;
                    }
                    let found = known.find(c.h, |k| k.h == c.h && path(k) == c.path);
                    let there = found.map_or(c.there, |k| k.there);
                    give(c.parent_h, if there { Half::Parent } else { Half::ParentOfNew });
                    true
                }
            };
            give(c.h, Half::Znode);
            match known.find_mut(c.h, |k| k.h == c.h && path(k) == c.path) {
                Some(k) => k.there = there,
                None => {
                    let k = Known { h: c.h, share: share as u32, change: n as u32, there };
                    known.insert_unique(c.h, k, |k| k.h);
                }
            }
        }
    }
}

impl Change<'_> {
    /// Does one half of the change. Its order among the changes of that shard is that of the log.
    fn run(&self, tree: &Tree, half: Half, share: &Share<'_>, done: &mut Done) {
        let header = &share.heads[self.record as usize - share.first].header;
        let zxid = header.zxid.to_wire();
        let (h, path) = (self.h, self.path.as_bytes());
        let digest = match (&self.what, half) {
            (What::Create { parent_cversion, .. }, Half::Parent | Half::ParentOfNew) => {
                let mut shard = tree.shard(self.parent_h).write();
                let above = shard.find_mut(self.parent_h, self.parent());
                let above = above.expect("divide() lets nobody in whose parent is missing");
                hang(tree, above, self.name(), half == Half::ParentOfNew, *parent_cversion, zxid)
            }
            (What::Delete, Half::Parent) => {
                let mut shard = tree.shard(self.parent_h).write();
                let above = shard.find_mut(self.parent_h, self.parent());
                above.map_or(0, |above| unhang(tree, above, self.name(), zxid))
            }
            (What::Create { data, acl, owner, .. }, _) => {
                let acl = tree.acls.intern(*acl);
                let mut shard = tree.shard(h).write();
                if let Some(there) = shard.find_mut(h, path) {
                    return give_acl(tree, there, acl);
                }
                let node = new_node(tree, header, self.path, *data, acl, *owner);
                let owner = tree.owner_of(&node);
                if owner != Owner::Persistent {
                    tree.owned.lock().add(&tree.hash, owner, path);
                }
                done.znodes += 1;
                done.data_bytes += node.size() as i64;
                let digest = i64::from(node.digest());
                shard.add(h, node);
                digest
            }
            (What::Delete, _) => {
                let Some(node) = tree.shard(h).write().remove(h, path) else { return };
                let owner = tree.owner_of(&node);
                if owner != Owner::Persistent {
                    tree.owned.lock().remove(&tree.hash, owner, path);
                }
                tree.acls.release(node.acl);
                done.znodes -= 1;
                done.data_bytes -= node.size() as i64;
                -i64::from(node.digest())
            }
            (What::SetData { data, version }, _) => {
                let mut shard = tree.shard(h).write();
                let Some(node) = shard.find_mut(h, path) else { return };
                let (grown, digest) = change_data(tree, node, header, *data, *version);
                done.data_bytes += grown;
                digest
            }
            (What::SetAcl { acl, aversion }, _) => {
                let mut shard = tree.shard(h).write();
                let Some(node) = shard.find_mut(h, path) else { return };
                change_acl(tree, node, *acl, *aversion)
            }
        };
        done.digests.push((self.record, digest));
    }

    fn parent(&self) -> &[u8] {
        path::parent(self.path).expect("the root does not come here").as_bytes()
    }

    fn name(&self) -> &[u8] {
        path::name(self.path).as_bytes()
    }
}
