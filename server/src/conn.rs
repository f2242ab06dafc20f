//! A client connection as every thread sees it: its gate, its outbox, its identity.
//!
//! Lock order: gate, then shards of the tree, then outbox. Whoever applies holds shards and takes outboxes (for
//! events); whoever completes a write holds the gate and takes shards (for the reads behind it). Nobody holds an
//! outbox while it waits for anything.

use crate::accounting::Places;
use crate::audit::Note;
use crate::limits;
use crate::outlet::Outlet;
use engine::{Identity, Outbox};
use mio::net::TcpStream;
use node::gate::Gate;
use node::sessions::Touch;
use parking_lot::{Mutex, RwLock};
use proto::{ConnId, Instant, SessionId, Xid};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// One connection.
pub struct Conn {
    /// Its id, unique for the life of the process.
    pub id: ConnId,
    /// The client's address.
    pub peer: SocketAddr,
    /// The event loop that reads it.
    pub owner: usize,
    /// The way out.
    pub outlet: Outlet,
    /// Requests without a reply.
    pub gate: Mutex<GateState>,
    identity: RwLock<Arc<Identity>>,
    /// What the handshake gave.
    session: OnceLock<AttachedSession>,
    /// The owner has stopped reading and waits to be told to go on.
    pub paused: AtomicBool,
    /// Already on the list of outboxes to flush of the thread that steps the node.
    pub marked: AtomicBool,
    /// Counters for the four-letter words.
    pub stats: ConnStats,
}

/// The gate, and whether the connection is gone: replies to a gone connection are dropped.
#[derive(Default)]
pub struct GateState {
    /// The requests in their order.
    pub gate: Gate,
    /// Their top-level paths.
    pub places: Places,
    /// What the audit log says of the writes in the gate that it tells of, when they are answered.
    pub audit: VecDeque<(Xid, Note)>,
    /// Whether the handshake carried the read-only byte, and what it said: the answer carries it only then.
    pub read_only: Option<bool>,
}

/// The session of a connection.
pub struct AttachedSession {
    /// The session.
    pub id: SessionId,
    /// Its negotiated time-out in ms.
    pub timeout_ms: i32,
    /// To be touched whenever a frame is read.
    pub touch: Arc<Touch>,
}

/// What `cons` tells about a connection.
#[derive(Default)]
pub struct ConnStats {
    /// Wall clock at accept, ms.
    pub established_ms: AtomicI64,
    /// Frames read.
    pub received: AtomicU64,
    /// Bytes of the frames read, since the connection began.
    pub received_bytes: AtomicU64,
    /// Requests, since the connection began.
    pub requests: AtomicU64,
    /// Frames written.
    pub sent: AtomicU64,
    /// Operation code of the last reply; 0: none yet.
    pub last_op: AtomicI32,
    /// The last xid that is not negative; −1: none yet.
    pub last_cxid: AtomicI64,
    /// The zxid of the last reply.
    pub last_zxid: AtomicI64,
    /// When the last reply left, in ms of the monotonic clock.
    pub last_response_ms: AtomicU64,
    /// Latency of the last reply, ms.
    pub last_latency_ms: AtomicU64,
    /// Smallest latency, ms; `u64::MAX`: none yet.
    pub min_latency_ms: AtomicU64,
    /// Largest latency, ms.
    pub max_latency_ms: AtomicU64,
    /// Sum of latencies, ms.
    pub total_latency_ms: AtomicU64,
    /// Replies counted in the sum.
    pub counted: AtomicU64,
    /// 0 before the handshake, 1 after.
    pub phase: AtomicU8,
}

impl ConnStats {
    /// Forgets everything but when the connection began.
    pub fn reset(&self) {
        self.received.store(0, Ordering::Relaxed);
        self.sent.store(0, Ordering::Relaxed);
        self.last_op.store(0, Ordering::Relaxed);
        self.last_cxid.store(-1, Ordering::Relaxed);
        self.last_zxid.store(-1, Ordering::Relaxed);
        self.last_response_ms.store(0, Ordering::Relaxed);
        self.last_latency_ms.store(0, Ordering::Relaxed);
        self.min_latency_ms.store(u64::MAX, Ordering::Relaxed);
        self.max_latency_ms.store(0, Ordering::Relaxed);
        self.total_latency_ms.store(0, Ordering::Relaxed);
        self.counted.store(0, Ordering::Relaxed);
    }

    /// A frame of `bytes` was read.
    pub fn received(&self, bytes: usize) {
        add(&self.received, 1);
        add(&self.requests, 1);
        add(&self.received_bytes, bytes as u64);
    }

    /// Counts one reply to operation `op`, number `xid`, that took `latency_ms`.
    pub fn replied(&self, op: i32, xid: i32, zxid: i64, now: Instant, latency_ms: u64) {
        add(&self.sent, 1);
        self.last_op.store(op, Ordering::Relaxed);
        if xid >= 0 {
            self.last_cxid.store(i64::from(xid), Ordering::Relaxed);
        }
        self.last_zxid.store(zxid, Ordering::Relaxed);
        self.last_response_ms.store(now.as_ms(), Ordering::Relaxed);
        self.last_latency_ms.store(latency_ms, Ordering::Relaxed);
        if latency_ms < self.min_latency_ms.load(Ordering::Relaxed) {
            self.min_latency_ms.store(latency_ms, Ordering::Relaxed);
        }
        if latency_ms > self.max_latency_ms.load(Ordering::Relaxed) {
            self.max_latency_ms.store(latency_ms, Ordering::Relaxed);
        }
        add(&self.total_latency_ms, latency_ms);
        add(&self.counted, 1);
    }
}

/// One thread at a time reads a connection and one replies on it: plain loads and stores count right.
fn add(cell: &AtomicU64, n: u64) {
    cell.store(cell.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

impl Conn {
    /// A connection just accepted.
    pub fn new(
        id: ConnId,
        peer: SocketAddr,
        owner: usize,
        stream: TcpStream,
        identity: Arc<Identity>,
    ) -> Conn {
        let stats = ConnStats::default();
        stats.reset();
        Conn {
            id,
            peer,
            owner,
            outlet: Outlet::new(stream, peer, limits::OUTBOX_MAX),
            gate: Mutex::default(),
            identity: RwLock::new(identity),
            session: OnceLock::new(),
            paused: AtomicBool::new(false),
            marked: AtomicBool::new(false),
            stats,
        }
    }

    /// The session, once the handshake is done.
    pub fn session(&self) -> Option<&AttachedSession> {
        self.session.get()
    }

    /// The handshake is done.
    pub fn attach(&self, session: AttachedSession) {
        self.stats.phase.store(1, Ordering::Relaxed);
        assert!(self.session.set(session).is_ok(), "a connection shakes hands once");
    }

    /// Who the client is.
    pub fn identity(&self) -> Arc<Identity> {
        self.identity.read().clone()
    }

    /// Who the client is, for a call that does not keep it.
    pub fn with_identity<R>(&self, f: impl FnOnce(&Arc<Identity>) -> R) -> R {
        f(&self.identity.read())
    }

    /// The client has proved to be more than it was.
    pub fn set_identity(&self, identity: Arc<Identity>) {
        *self.identity.write() = identity;
    }
}

impl std::ops::Deref for Conn {
    type Target = Outlet;

    fn deref(&self) -> &Outlet {
        &self.outlet
    }
}

impl Outbox for Conn {
    fn append(&self, fill: &mut dyn FnMut(&mut Vec<u8>)) {
        self.outlet.append_with(fill);
    }
}

/// Low bits of a connection's id: its slot. A million connections; beyond them they are refused.
const SLOT_BITS: u32 = 20;

/// All connections, by id. Ids are a slot and a count of its uses, so that a late reply never reaches the next
/// client of a slot. They stay below 2^56, as the engine's watches want them.
#[derive(Default)]
pub struct ConnTable {
    slots: RwLock<Slots>,
    len: AtomicUsize,
}

#[derive(Default)]
struct Slots {
    slots: Vec<(u64, Option<Arc<Conn>>)>,
    free: Vec<u32>,
}

impl Slots {
    fn split(id: ConnId) -> (u64, usize) {
        (id.0 >> SLOT_BITS, (id.0 & ((1 << SLOT_BITS) - 1)) as usize)
    }
}

impl ConnTable {
    /// The most connections that there is room for.
    pub const MAX: usize = 1 << SLOT_BITS;

    /// Takes a slot for the connection that `make` builds.
    ///
    /// # Panics
    /// When there are [`ConnTable::MAX`] already: the one who accepts has looked.
    pub fn insert(&self, make: impl FnOnce(ConnId) -> Conn) -> Arc<Conn> {
        let mut s = self.slots.write();
        let slot = s.free.pop().unwrap_or_else(|| {
            assert!(s.slots.len() < Self::MAX, "connections are refused before their table is full");
            s.slots.push((0, None));
            s.slots.len() as u32 - 1
        });
        let entry = &mut s.slots[slot as usize];
        entry.0 += 1;
        let conn = Arc::new(make(ConnId((entry.0 << SLOT_BITS) | u64::from(slot))));
        entry.1 = Some(conn.clone());
        self.len.fetch_add(1, Ordering::Relaxed);
        conn
    }

    /// The connection `id`, while it lives.
    pub fn get(&self, id: ConnId) -> Option<Arc<Conn>> {
        let (uses, slot) = Slots::split(id);
        let s = self.slots.read();
        let (now, conn) = s.slots.get(slot)?;
        if *now == uses { conn.clone() } else { None }
    }

    /// The connection is gone.
    pub fn remove(&self, id: ConnId) {
        let (uses, slot) = Slots::split(id);
        let mut s = self.slots.write();
        if let Some((now, conn)) = s.slots.get_mut(slot)
            && *now == uses
            && conn.take().is_some()
        {
            // A slot whose count is used up is left alone: a name must not come back.
            if uses + 1 < 1 << (56 - SLOT_BITS) {
                s.free.push(slot as u32);
            }
            self.len.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Live connections.
    pub fn count(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// All live connections.
    pub fn all(&self) -> Vec<Arc<Conn>> {
        self.slots.read().slots.iter().filter_map(|(_, c)| c.clone()).collect()
    }
}
