//! Who uses the server, and where: requests and bytes by top-level path, by client address, by session.
//!
//! Connections count for themselves, so addresses and sessions cost nothing on the way of a request: they are summed
//! when somebody asks, and the counts of connections that have ended are kept by address. Top-level paths are counted
//! by each event loop in a table of its own that keeps the busiest (Metwally et al., "Efficient computation of frequent
//! and top-k elements in data streams", 2005): a path that is new to a full table takes the place of the one with the
//! fewest requests and inherits their number, so a count is never too low, and too high by at most what it inherited.

use crate::conn::Conn;
use crate::core::Core;
use crate::limits;
use crate::stats::{Counted, Histogram, Run, Writer};
use parking_lot::Mutex;
use proto::client::OpCode;
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Requests by top-level path: one table for each event loop.
pub struct Namespaces {
    /// The last one is that of all threads that have none of their own.
    tables: Box<[Arc<Table>]>,
    /// They answer what waited behind writes.
    others: Mutex<Writing>,
}

/// What one event loop has counted. It alone writes; into that of the other threads, whoever holds its lock.
struct Table {
    slots: [Slot; limits::NAMESPACES],
    names: Mutex<Vec<Box<[u8]>>>,
}

#[derive(Default)]
#[repr(align(64))]
struct Slot {
    /// Requests, with those inherited.
    requests: AtomicU64,
    inherited: AtomicU64,
    reads: Histogram,
    writes: Histogram,
}

/// What is counted here is never reset.
const GENERATION: u64 = 0;

/// The writer's side of a table.
struct Writing {
    table: Arc<Table>,
    places: HashMap<Box<[u8]>, usize>,
    /// The name counted last, and its place: clients come back to where they were.
    last: (Box<[u8]>, usize),
}

thread_local! {
    static WRITING: RefCell<Option<Writing>> = const { RefCell::new(None) };
}

/// What was counted of a top-level path.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Use {
    /// Requests; may be too high by [`Use::error`].
    pub requests: u64,
    /// Requests of others that were inherited.
    pub error: u64,
    /// Reads: the bytes of their replies.
    pub reads: Counted,
    /// Writes and syncs: the bytes of their requests.
    pub writes: Counted,
}

impl Use {
    fn add(&mut self, slot: &Slot) {
        self.requests += slot.requests.load(Relaxed);
        self.error += slot.inherited.load(Relaxed);
        slot.reads.collect(&mut self.reads, GENERATION);
        slot.writes.collect(&mut self.writes, GENERATION);
    }
}

/// The top-level path of a request: `/a` of `/a/b/c`, `/` of the root. `None` for requests without a path.
pub fn namespace(op: OpCode, body: &[u8]) -> Option<&[u8]> {
    let path = match op {
        OpCode::Create
        | OpCode::Create2
        | OpCode::CreateContainer
        | OpCode::CreateTtl
        | OpCode::Delete
        | OpCode::SetData
        | OpCode::SetAcl
        | OpCode::Sync
        | OpCode::GetData
        | OpCode::Exists
        | OpCode::GetChildren
        | OpCode::GetChildren2
        | OpCode::GetAcl
        | OpCode::GetEphemerals
        | OpCode::GetAllChildrenNumber
        | OpCode::AddWatch
        | OpCode::CheckWatches
        | OpCode::RemoveWatches => text(body)?,
        // The path of the first operation, behind its head of type, done and error.
        OpCode::Multi | OpCode::MultiRead => text(body.get(9..)?)?,
        _ => return None,
    };
    if path.first() != Some(&b'/') {
        return None;
    }
    let end = path[1..].iter().position(|&b| b == b'/').map_or(path.len(), |i| i + 1);
    Some(&path[..end.min(limits::NAMESPACE_BYTES)])
}

fn text(bytes: &[u8]) -> Option<&[u8]> {
    let len = i32::from_be_bytes(*bytes.first_chunk()?);
    bytes.get(4..4 + usize::try_from(len).ok()?)
}

fn add(cell: &AtomicU64, n: u64) {
    cell.store(cell.load(Relaxed).wrapping_add(n), Relaxed);
}

impl Namespaces {
    /// Tables for so many event loops.
    pub fn new(loops: usize) -> Namespaces {
        let table =
            || Arc::new(Table { slots: std::array::from_fn(|_| Slot::default()), names: Mutex::default() });
        let tables: Box<[_]> = (0..=loops).map(|_| table()).collect();
        let others = Mutex::new(Writing::new(tables[loops].clone()));
        Namespaces { tables, others }
    }

    /// Gives the calling thread the table of event loop `index`.
    pub fn claim(&self, index: usize) {
        let writing = Writing::new(self.tables[index].clone());
        WRITING.with_borrow_mut(|w| *w = Some(writing));
    }

    /// Counts requests, in the table of the calling thread if it has one.
    fn count(&self, name: &[u8], reads: &Run, writes: &Run) {
        WRITING.with_borrow_mut(|w| match w {
            Some(w) => w.count(name, reads, writes),
            None => self.others.lock().count(name, reads, writes),
        });
    }

    /// The busiest paths over all loops, at most `n`.
    pub fn top(&self, n: usize) -> Vec<(String, Use)> {
        let mut all: HashMap<String, Use> = HashMap::new();
        for table in &self.tables {
            for (name, slot) in table.names.lock().iter().zip(&table.slots) {
                all.entry(String::from_utf8_lossy(name).into_owned()).or_default().add(slot);
            }
        }
        let mut all: Vec<_> = all.into_iter().collect();
        all.sort_unstable_by(|a, b| (b.1.requests, &a.0).cmp(&(a.1.requests, &b.0)));
        all.truncate(n);
        all
    }
}

impl Writing {
    fn new(table: Arc<Table>) -> Writing {
        Writing { table, places: HashMap::new(), last: (Box::default(), usize::MAX) }
    }

    fn count(&mut self, name: &[u8], reads: &Run, writes: &Run) {
        if self.last.1 == usize::MAX || *self.last.0 != *name {
            let place = self.places.get(name).copied().unwrap_or_else(|| self.place(name));
            self.last = (name.into(), place);
        }
        let slot = &self.table.slots[self.last.1];
        add(&slot.requests, reads.n + writes.n);
        slot.reads.record_run(reads, GENERATION, Writer::One);
        slot.writes.record_run(writes, GENERATION, Writer::One);
    }

    /// A place for a name that has none.
    fn place(&mut self, name: &[u8]) -> usize {
        let mut names = self.table.names.lock();
        if names.len() < limits::NAMESPACES {
            names.push(name.into());
            self.places.insert(name.into(), names.len() - 1);
            return names.len() - 1;
        }
        let requests = |s: &Slot| s.requests.load(Relaxed);
        let least = self.table.slots.iter().enumerate().min_by_key(|(_, s)| requests(s));
        let (place, slot) = least.expect("there are slots");
        slot.inherited.store(requests(slot), Relaxed);
        slot.reads.clear();
        slot.writes.clear();
        self.places.remove(&std::mem::replace(&mut names[place], name.into()));
        self.places.insert(name.into(), place);
        place
    }
}

/// The requests of a run of one connection below one top-level path: counted once for the run.
#[derive(Default)]
pub struct Tally {
    name: Vec<u8>,
    /// The operation of the last of them.
    op: Option<OpCode>,
    reads: Run,
    writes: Run,
}

impl Tally {
    /// Goes over to the top-level path of a request; false: it has none, and is not to be counted.
    pub fn enter(&mut self, op: OpCode, body: &[u8], namespaces: &Namespaces) -> bool {
        if self.op == Some(op) && self.stays(body) {
            return true;
        }
        let Some(name) = namespace(op, body) else { return false };
        if *self.name != *name {
            self.flush(namespaces);
            self.name.clear();
            self.name.extend_from_slice(name);
        }
        // The path of a multi stands elsewhere.
        self.op = (!matches!(op, OpCode::Multi | OpCode::MultiRead)).then_some(op);
        true
    }

    /// Whether the path that a body begins with lies below the same top-level path.
    fn stays(&self, body: &[u8]) -> bool {
        let Some(path) = text(body) else { return false };
        let name = self.name.len();
        path.starts_with(&self.name)
            && (path.len() == name || path[name] == b'/')
            && name < limits::NAMESPACE_BYTES
    }

    /// The path that was entered last.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// One read more, whose reply has so many bytes.
    pub fn read(&mut self, bytes: u64) {
        self.reads.add(bytes);
    }

    /// One write more, of so many bytes.
    pub fn write(&mut self, bytes: u64) {
        self.writes.add(bytes);
    }

    /// The end of the run.
    pub fn flush(&mut self, namespaces: &Namespaces) {
        if self.reads.n + self.writes.n > 0 {
            let (reads, writes) = (std::mem::take(&mut self.reads), std::mem::take(&mut self.writes));
            namespaces.count(&self.name, &reads, &writes);
        }
    }
}

/// The top-level paths of the requests of one connection that have no reply yet, in the order of the requests: runs of one
/// path, since clients stay where they are.
#[derive(Default)]
pub struct Places(VecDeque<(Box<[u8]>, u64)>);

impl Places {
    /// One more request; `None`: it has no path.
    pub fn admit(&mut self, name: Option<&[u8]>) {
        let name = name.unwrap_or_default();
        match self.0.back_mut() {
            Some((last, n)) if **last == *name => *n += 1,
            _ => self.0.push_back((name.into(), 1)),
        }
    }

    /// The oldest is answered.
    pub fn answered(&mut self) {
        let (_, n) = self.0.front_mut().expect("what is answered was admitted");
        *n -= 1;
        if *n == 0 {
            self.0.pop_front();
        }
    }
}

/// Requests without a reply by top-level path.
pub fn outstanding(core: &Core) -> HashMap<String, u64> {
    let mut all = HashMap::new();
    for conn in core.conns.all() {
        let state = conn.gate.lock();
        for (name, n) in state.places.0.iter().filter(|(name, _)| !name.is_empty()) {
            *all.entry(String::from_utf8_lossy(name).into_owned()).or_default() += n;
        }
    }
    all
}

/// What clients of one address have done.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct ClientUse {
    /// Connections now.
    pub connections: u64,
    /// Requests.
    pub requests: u64,
    /// Bytes from them.
    pub received_bytes: u64,
    /// Bytes to them.
    pub sent_bytes: u64,
    /// Requests without a reply.
    pub outstanding: u64,
    /// Paths that they watch.
    pub watches: u64,
}

impl ClientUse {
    fn add(&mut self, other: &ClientUse) {
        self.connections += other.connections;
        self.requests += other.requests;
        self.received_bytes += other.received_bytes;
        self.sent_bytes += other.sent_bytes;
        self.outstanding += other.outstanding;
        self.watches += other.watches;
    }
}

/// What connections that have ended had done, by address.
#[derive(Default)]
pub struct Gone(Mutex<HashMap<IpAddr, ClientUse>>);

impl Gone {
    /// A connection has ended.
    pub fn add(&self, conn: &Conn) {
        let mut map = self.0.lock();
        if map.len() >= limits::ADDRESSES && !map.contains_key(&conn.peer.ip()) {
            // The one that did least is forgotten.
            if let Some(least) = map.iter().min_by_key(|(_, u)| u.requests).map(|(ip, _)| *ip) {
                map.remove(&least);
            }
        }
        let used = ClientUse { connections: 0, outstanding: 0, ..of_connection(conn) };
        map.entry(conn.peer.ip()).or_default().add(&used);
    }
}

fn of_connection(conn: &Conn) -> ClientUse {
    ClientUse {
        connections: 1,
        // Of all its life: `crst` resets what `cons` shows.
        requests: conn.stats.requests.load(Relaxed),
        received_bytes: conn.stats.received_bytes.load(Relaxed),
        sent_bytes: conn.outlet.sent.bytes.load(Relaxed),
        outstanding: 0,
        watches: 0,
    }
}

/// A connection with what it has done.
pub struct SessionUse {
    /// The connection.
    pub conn: Arc<Conn>,
    /// What it has done.
    pub used: ClientUse,
}

/// The busiest sessions and addresses, at most `n` of each.
pub fn clients(core: &Core, n: usize) -> (Vec<SessionUse>, Vec<(IpAddr, ClientUse)>) {
    let mut addresses = core.gone.0.lock().clone();
    let mut sessions: Vec<SessionUse> = Vec::new();
    for conn in core.conns.all() {
        let mut used = of_connection(&conn);
        used.outstanding = conn.gate.lock().gate.len() as u64;
        used.watches = core.tree.watches_of(conn.id) as u64;
        addresses.entry(conn.peer.ip()).or_default().add(&used);
        sessions.push(SessionUse { conn, used });
    }
    sessions.sort_unstable_by(|a, b| (b.used.requests, a.conn.id.0).cmp(&(a.used.requests, b.conn.id.0)));
    sessions.truncate(n);
    let mut addresses: Vec<_> = addresses.into_iter().collect();
    addresses.sort_unstable_by(|a, b| (b.1.requests, a.0).cmp(&(a.1.requests, b.0)));
    addresses.truncate(n);
    (sessions, addresses)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::jute::Put;

    fn body(path: &str) -> Vec<u8> {
        let mut b = Vec::new();
        b.put_str(path);
        b
    }

    #[test]
    fn a_median_is_right_to_a_quarter_and_exact_of_equals() {
        for sizes in
            [&[0u64, 0, 0][..], &[7; 5], &[1, 2, 3], &[100, 200, 5000], &[96; 3], &[1, 40_000_000], &[]]
        {
            let (slot, mut all) = (Slot::default(), Use::default());
            for &bytes in sizes {
                let mut run = Run::default();
                run.add(bytes);
                slot.reads.record_run(&run, GENERATION, Writer::One);
            }
            all.add(&slot);
            let (found, wanted) = (
                all.reads.quantile(0.5),
                sizes.get(sizes.len().div_ceil(2).max(1) - 1).copied().unwrap_or(0),
            );
            assert!(found.abs_diff(wanted) * 4 <= wanted, "{sizes:?}: {found}");
            if sizes.windows(2).all(|w| w[0] == w[1]) {
                assert_eq!(found, wanted, "{sizes:?}");
            }
        }
    }

    #[test]
    fn what_is_counted_in_part_is_no_fault() {
        let (slot, mut all) = (Slot::default(), Use::default());
        // As another thread may see it: the buckets and not yet the extremes.
        slot.reads.record_run(&Run { n: 1, sum: 5, ..Run::default() }, GENERATION, Writer::One);
        all.add(&slot);
        assert_eq!((all.reads.min(), all.reads.quantile(0.5)), (0, 5));
    }

    #[test]
    fn the_first_part_of_a_path_is_its_namespace() {
        for (path, wanted) in
            [("/a/b/c", Some("/a")), ("/a", Some("/a")), ("/", Some("/")), ("a/b", None), ("", None)]
        {
            let body = body(path);
            let found = namespace(OpCode::GetData, &body).map(|n| std::str::from_utf8(n).unwrap());
            assert_eq!(found, wanted, "{path:?}");
        }
        assert_eq!(namespace(OpCode::Ping, &body("/a")), None);
        assert_eq!(namespace(OpCode::GetData, &[0, 0, 0, 9, b'/']), None, "cut short");
        assert_eq!(namespace(OpCode::GetData, &[0xff; 4]), None);
        let mut multi = vec![0; 9];
        multi.put_str("/m/x");
        assert_eq!(namespace(OpCode::Multi, &multi), Some(&b"/m"[..]));
        let long = format!("/{}", "x".repeat(1000));
        assert_eq!(namespace(OpCode::Exists, &body(&long)).unwrap().len(), limits::NAMESPACE_BYTES);
    }

    #[test]
    fn a_run_ends_where_the_top_level_path_does() {
        let n = Namespaces::new(1);
        n.claim(0);
        let mut tally = Tally::default();
        for (path, op) in [
            ("/a/x", OpCode::GetData),
            ("/a", OpCode::GetData),
            ("/ab", OpCode::GetData),
            ("/a/y", OpCode::SetData),
            ("/", OpCode::GetData),
            ("/a", OpCode::GetData),
        ] {
            assert!(tally.enter(op, &body(path), &n), "{path}");
            tally.read(path.len() as u64);
        }
        assert!(!tally.enter(OpCode::GetData, &body("x"), &n) && !tally.enter(OpCode::Ping, &[], &n));
        // A thread that has no table.
        std::thread::scope(|scope| scope.spawn(|| tally.flush(&n)).join().unwrap());
        let top = n.top(9);
        let found: Vec<_> = top.iter().map(|(name, u)| (&**name, u.requests)).collect();
        assert_eq!(found, [("/a", 4), ("/", 1), ("/ab", 1)]);
        let all = |c: &Counted| (c.count(), c.sum, c.min(), c.max());
        assert_eq!(all(&top[0].1.reads), (4, 12, 2, 4));
        assert_eq!(all(&top[0].1.writes), (0, 0, 0, 0));
    }

    #[test]
    fn what_waits_is_known_by_its_path() {
        let mut places = Places::default();
        let waiting = |p: &Places| p.0.iter().map(|(name, n)| (name.to_vec(), *n)).collect::<Vec<_>>();
        for name in [Some(&b"/a"[..]), Some(b"/a"), None, Some(b"/b"), Some(b"/a")] {
            places.admit(name);
        }
        let (a, b) = (b"/a".to_vec(), b"/b".to_vec());
        assert_eq!(waiting(&places), [(a.clone(), 2), (vec![], 1), (b, 1), (a.clone(), 1)]);
        (0..4).for_each(|_| places.answered());
        assert_eq!(waiting(&places), [(a, 1)]);
        places.answered();
        assert!(places.0.is_empty());
    }

    #[test]
    fn the_busiest_are_kept_in_bounded_space_and_never_counted_too_low() {
        let n = Namespaces::new(1);
        n.claim(0);
        let mut truth: HashMap<String, u64> = HashMap::new();
        let mut x = 88_172_645_463_325_252_u64;
        for i in 0..50_000_u64 {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            // Five busy ones, and a crowd that is seen once or twice.
            let name = if i % 2 == 0 { format!("/busy{}", x % 5) } else { format!("/rare{}", x % 100_000) };
            let (mut request, mut tally) = (body(&format!("{name}/x")), Tally::default());
            request.push(0);
            assert!(tally.enter(OpCode::GetData, &request, &n) && tally.enter(OpCode::GetData, &request, &n));
            if i % 4 == 0 {
                tally.write(10)
            } else {
                tally.read(10)
            }
            tally.flush(&n);
            *truth.entry(name).or_default() += 1;
        }
        let top = n.top(5);
        for (name, used) in &top {
            assert!(name.starts_with("/busy"), "{top:?}");
            let (low, high) = (used.requests - used.error, used.requests);
            assert!(low <= truth[name] && truth[name] <= high, "{name}: {low}..={high}, {}", truth[name]);
        }
        assert!(n.top(1000).len() <= limits::NAMESPACES);
        assert_eq!((n.top(1)[0].1.reads.sum % 10, n.top(1)[0].1.reads.max()), (0, 10));
    }
}
