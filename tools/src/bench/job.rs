//! The loads themselves: what is sent, and what a reply leads to.

use super::engine::{Cause, Job, Kind};
use super::wire::{self, Key, Paths, Template};
use proto::acl;
use proto::client::{CreateMode, OpCode};
use proto::jute::{Put, Reader};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Picks the znode of a request: uniform over the key space, cheap, the same for the same seed.
#[derive(Clone, Debug)]
pub struct Picker {
    state: u64,
    keys: u64,
}

impl Picker {
    /// Over `keys` znodes.
    pub fn new(seed: u64, keys: u64) -> Picker {
        Picker { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, keys }
    }

    fn next(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    fn key(&mut self) -> Key {
        // The high half times the bound: uniform without a division.
        Key::nth((self.next() >> 32).wrapping_mul(self.keys) >> 32)
    }
}

/// What [`Steady`] sends.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Mix {
    /// setData only.
    Set,
    /// getData only.
    Get,
    /// getData with this probability, else setData.
    ReadWrite(f64),
    /// Multis of setData.
    Multi,
    /// create only, each connection in its own directory.
    Create,
}

/// The loads that don't depend on what comes back.
#[derive(Debug)]
pub struct Steady {
    mix: Mix,
    set: Template,
    get: Template,
    multi: Template,
    create: Template,
    picker: Picker,
    /// Below this, of 2^32, a random number means a read.
    reads_below: u64,
    /// Znodes made per connection.
    created: HashMap<usize, u64>,
}

impl Steady {
    /// The load `mix` over the znodes of `keys`; creates go below `fresh`.
    pub fn new(
        mix: Mix,
        keys: &Paths,
        fresh: &Paths,
        size: usize,
        multi_ops: usize,
        picker: Picker,
    ) -> Steady {
        Steady {
            mix,
            set: Template::set(keys, size),
            get: Template::get(keys, false),
            multi: Template::multi_set(keys, size, multi_ops),
            create: Template::create(fresh, size),
            picker,
            reads_below: if let Mix::ReadWrite(reads) = mix {
                (reads * (1_u64 << 32) as f64) as u64
            } else {
                0
            },
            created: HashMap::new(),
        }
    }

    /// Znodes made, per connection.
    pub fn created(self) -> HashMap<usize, u64> {
        self.created
    }
}

impl Job for Steady {
    fn issue(&mut self, conn: usize, xid: i32, _now: u64, out: &mut Vec<u8>) -> Option<Kind> {
        let picker = &mut self.picker;
        let kind = match self.mix {
            Mix::Set => Kind::Set,
            Mix::Get => Kind::Get,
            Mix::ReadWrite(_) if picker.next() >> 32 < self.reads_below => Kind::Get,
            Mix::ReadWrite(_) => Kind::Set,
            Mix::Multi => Kind::Multi,
            Mix::Create => Kind::Create,
        };
        match kind {
            Kind::Set => self.set.fill(out, xid, || picker.key()),
            Kind::Get => self.get.fill(out, xid, || picker.key()),
            Kind::Multi => self.multi.fill(out, xid, || picker.key()),
            Kind::Create | Kind::Delete | Kind::Event | Kind::Everybody | Kind::Silent => {
                let n = self.created.entry(conn).or_default();
                self.create.fill(out, xid, || Key { dir: conn as u32, key: *n });
                *n += 1;
            }
        }
        Some(kind)
    }

    fn reply(&mut self, _conn: usize, _kind: Kind, _err: i32, _body: &[u8]) {}
}

/// Locks taken and released: each request in flight creates an ephemeral sequential znode, then deletes it.
#[derive(Debug)]
pub struct Churn {
    prefix: String,
    size: usize,
    /// Paths made and not yet deleted, per connection.
    made: HashMap<usize, VecDeque<String>>,
    stopped: bool,
}

impl Churn {
    /// Below the directory `parent`.
    pub fn new(parent: &str, size: usize) -> Churn {
        Churn { prefix: format!("{parent}/lock-"), size, made: HashMap::new(), stopped: false }
    }
}

impl Job for Churn {
    fn issue(&mut self, conn: usize, xid: i32, _now: u64, out: &mut Vec<u8>) -> Option<Kind> {
        if let Some(path) = self.made.entry(conn).or_default().pop_front() {
            wire::request(out, xid, OpCode::Delete, |b| {
                b.put_str(&path);
                b.put_i32(-1);
            });
            return Some(Kind::Delete);
        }
        if self.stopped {
            return None;
        }
        wire::request(out, xid, OpCode::Create, |b| {
            b.put_str(&self.prefix);
            b.put_buffer(Some(&wire::payload(self.size)));
            b.extend_from_slice(acl::OPEN.as_bytes());
            b.put_i32(CreateMode::EphemeralSequential.flags());
        });
        Some(Kind::Create)
    }

    fn reply(&mut self, conn: usize, kind: Kind, err: i32, body: &[u8]) {
        if kind == Kind::Create
            && err == 0
            && let Ok(Some(path)) = Reader::new(body).string()
        {
            self.made.entry(conn).or_default().push_back(path.into_owned());
        }
    }

    fn stop(&mut self) {
        // What is left is ephemeral: it goes with the sessions.
        self.stopped = true;
    }
}

/// One change, many watchers. Connection 0 sets a znode that all others watch.
///
/// With one-shot watches the next change waits until every watcher has heard of the last one and watches
/// again, so that each change makes exactly one event per watcher. Persistent watches need no such round.
#[derive(Debug)]
pub struct Watch {
    set: Template,
    get: Template,
    path: String,
    persistent: bool,
    watchers: usize,
    /// Watches to be set, per connection.
    to_arm: Vec<bool>,
    armed: usize,
    heard: Vec<u64>,
    /// When each change was sent, how many have heard of it and when the last of them; the first one's number is `first`.
    sent: VecDeque<(u64, usize, u64)>,
    first: u64,
    wake: bool,
    stopped: bool,
}

impl Watch {
    /// `watchers` connections, numbered from 1, watch the znode that connection 0 sets.
    pub fn new(keys: &Paths, size: usize, watchers: usize, persistent: bool) -> Watch {
        Watch {
            set: Template::set(keys, size),
            get: Template::get(keys, true),
            path: keys.key(Key::nth(0)),
            persistent,
            watchers,
            to_arm: vec![true; watchers + 1],
            armed: 0,
            heard: vec![0; watchers + 1],
            sent: VecDeque::new(),
            first: 0,
            wake: false,
            stopped: false,
        }
    }

    fn round_is_over(&self) -> bool {
        self.armed == self.watchers
    }
}

impl Job for Watch {
    fn issue(&mut self, conn: usize, xid: i32, now: u64, out: &mut Vec<u8>) -> Option<Kind> {
        if conn == 0 {
            // Persistent watches all stand before the first change; after that they never fall.
            if self.stopped || !self.round_is_over() {
                return None;
            }
            if !self.persistent {
                self.armed = 0;
            }
            self.sent.push_back((now, 0, now));
            self.set.fill(out, xid, || Key::nth(0));
            return Some(Kind::Set);
        }
        if !std::mem::take(&mut self.to_arm[conn]) {
            return None;
        }
        if self.persistent {
            wire::request(out, xid, OpCode::AddWatch, |b| {
                b.put_str(&self.path);
                b.put_i32(0);
            });
            return Some(Kind::Silent);
        }
        self.get.fill(out, xid, || Key::nth(0));
        Some(Kind::Get)
    }

    fn reply(&mut self, conn: usize, _kind: Kind, err: i32, _body: &[u8]) {
        if conn != 0 && err == 0 {
            self.armed += 1;
            self.wake |= self.round_is_over();
        }
    }

    fn event(&mut self, conn: usize, at: u64) -> Option<Cause> {
        let n = self.heard[conn];
        self.heard[conn] += 1;
        self.to_arm[conn] = !self.persistent;
        let (sent, heard, latest) = self.sent.get_mut((n - self.first) as usize)?;
        *heard += 1;
        *latest = at.max(*latest);
        let cause = Cause { sent: *sent, last: (*heard == self.watchers).then_some(*latest) };
        // A change that all have heard of is forgotten.
        while self.sent.front().is_some_and(|(_, heard, _)| *heard == self.watchers) {
            self.sent.pop_front();
            self.first += 1;
        }
        Some(cause)
    }

    fn awakened(&mut self) -> Option<usize> {
        std::mem::take(&mut self.wake).then_some(0)
    }

    fn is_paced(&self, conn: usize) -> bool {
        conn == 0
    }

    fn stop(&mut self) {
        self.stopped = true;
    }
}

/// What [`Bulk`] does to each of its znodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// Create it, or set its value if it is there.
    Create,
    /// Delete it, if it is there.
    Delete,
}

/// Operations per multi of a bulk: large enough that the frame costs nothing, small enough for the default
/// frame limit of 1 MiB with values of 4 KiB.
const BULK_WIDTH: usize = 100;
/// The bytes that one multi of a bulk may have.
const BULK_BYTES: usize = 512 << 10;

/// Creates or deletes many znodes, in multis; those of a multi that fails are done one by one.
#[derive(Debug)]
pub struct Bulk<K> {
    change: Change,
    /// The znode of each position.
    key: K,
    next: u64,
    end: u64,
    wide: Template,
    single: Template,
    fallback: Template,
    /// Where the multis in flight start, and the positions of single requests, per connection in their order.
    in_flight: HashMap<usize, VecDeque<Work>>,
    again: VecDeque<Work>,
    done: u64,
    failed: Option<i32>,
    /// Znodes done, for whoever watches.
    progress: Arc<AtomicU64>,
}

#[derive(Clone, Copy, Debug)]
enum Work {
    Wide(u64),
    Single(u64),
    Fallback(u64),
}

const NO_NODE: i32 = proto::Code::NoNode.wire();
const NODE_EXISTS: i32 = proto::Code::NodeExists.wire();

impl<K: Fn(u64) -> Key> Bulk<K> {
    /// Does `change` to the znodes at `positions` of the family `paths`; `key` says which znode a position is.
    pub fn new(
        change: Change,
        paths: &Paths,
        size: usize,
        positions: std::ops::Range<u64>,
        key: K,
    ) -> Bulk<K> {
        let each = Template::create(paths, size).encoded_len();
        let width = BULK_WIDTH.min(BULK_BYTES / each).max(1);
        let (wide, single) = match change {
            Change::Create => (Template::multi_create(paths, size, width), Template::create(paths, size)),
            Change::Delete => (Template::multi_delete(paths, width), Template::delete(paths)),
        };
        Bulk {
            change,
            key,
            next: positions.start,
            end: positions.end,
            wide,
            single,
            fallback: Template::set(paths, size),
            in_flight: HashMap::new(),
            again: VecDeque::new(),
            done: positions.start,
            failed: None,
            progress: Arc::default(),
        }
    }

    /// Counts the positions that are done, also while the work goes on.
    pub fn progress(&self) -> Arc<AtomicU64> {
        self.progress.clone()
    }

    /// The error code that ended the work early.
    pub fn failure(&self) -> Option<i32> {
        self.failed
    }
}

impl<K: Fn(u64) -> Key> Job for Bulk<K> {
    fn issue(&mut self, conn: usize, xid: i32, _now: u64, out: &mut Vec<u8>) -> Option<Kind> {
        let width = self.wide.width() as u64;
        let work = match self.again.pop_front() {
            Some(work) => work,
            None if self.next >= self.end || self.failed.is_some() => return None,
            None if self.end - self.next >= width => {
                self.next += width;
                Work::Wide(self.next - width)
            }
            None => {
                self.next += 1;
                Work::Single(self.next - 1)
            }
        };
        let (template, mut at) = match work {
            Work::Wide(at) => (&self.wide, at),
            Work::Single(at) => (&self.single, at),
            Work::Fallback(at) => (&self.fallback, at),
        };
        template.fill(out, xid, || {
            at += 1;
            (self.key)(at - 1)
        });
        self.in_flight.entry(conn).or_default().push_back(work);
        Some(Kind::Silent)
    }

    fn reply(&mut self, conn: usize, _kind: Kind, err: i32, body: &[u8]) {
        let Some(work) = self.in_flight.get_mut(&conn).and_then(VecDeque::pop_front) else { return };
        let width = self.wide.width() as u64;
        let err = if matches!(work, Work::Wide(_)) && err == 0 { wire::multi_error(body) } else { err };
        match (work, err, self.change) {
            (Work::Wide(_), 0, _) => self.done += width,
            // A create that is there already, or a delete that is not: one by one.
            (Work::Wide(at), NO_NODE, Change::Delete) | (Work::Wide(at), NODE_EXISTS, Change::Create) => {
                self.again.extend((at..at + width).map(Work::Single));
            }
            (Work::Single(at), NODE_EXISTS, Change::Create) => self.again.push_back(Work::Fallback(at)),
            (Work::Single(_) | Work::Fallback(_), 0, _) | (Work::Single(_), NO_NODE, Change::Delete) => {
                self.done += 1;
            }
            (_, err, _) => self.failed = Some(err),
        }
        self.progress.store(self.done, Ordering::Relaxed);
    }

    fn done(&self) -> bool {
        self.failed.is_some() || (self.next >= self.end && self.again.is_empty() && self.done >= self.end)
    }
}
