//! What the threads share: the node behind a try-lock with its inbox, the queue to the log, the connections.
//!
//! Whoever has work for the node puts it into the inbox and tries the lock. Who gets it steps the node through
//! everything that waits; who does not can go on, for the holder looks into the inbox once more after it let go.

mod inbox;
mod replace;
mod role;

pub use replace::NotReplaced;

use inbox::{Inbox, Item};

use crate::accounting::{Gone, Namespaces, Tally};
use crate::audit;
use crate::conn::{AttachedSession, Conn, ConnTable};
use crate::event_loop::{self, LoopHandle, Message};
use crate::history::History;
use crate::limits;
use crate::log::{DiskJob, LogQueue};
use crate::outlet::Flush;
use crate::peers::link::{Job, Link};
use crate::peers::{Peers, jobs};
use crate::placement;
use crate::requests::{Requests, Trace};
use crate::stats::{Counter, Measure, ServerStats};
use engine::acl::Schemes;
use engine::{Applier, Asker, Audience, Identity, Outbox, Tree};
use node::gate::Turn;
use node::stage::Stage;
use node::{Clients, CloseReason, Differs, Handshake, Input, Node, Now, Output, Records, Service, Slow};
use parking_lot::Mutex;
use proto::client::{ConnectRequest, ConnectResponse, OpCode, ReadOp, RequestHeader, WriteReply};
use proto::jute::{Reader, begin_frame, end_frame};
use proto::peer::kind as packet_kind;
use proto::session::password;
use proto::txn::{Record, RecordBatch, TxnHeader};
use proto::{Code, ConnId, Durable, DurableEpochs, Instant, LinkId, ServerId, SessionId, WallMs, Xid, Zxid};
use rustix::thread::CpuSet;
use std::cell::{Cell, Ref, RefCell};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

/// Connections counted between a look at the table and the insertion: one batch of accepts for each loop.
const ACCEPTED_MAX: usize = ConnTable::MAX - 64 * limits::ACCEPT_BATCH;

/// Everything the threads share.
pub struct Core {
    /// How the server was configured.
    pub settings: Arc<config::Settings>,
    /// The applied state.
    pub tree: Arc<Tree>,
    /// The largest frame that is read: jute.maxbuffer.
    pub frame_max: usize,
    /// Who can prove to be who.
    pub schemes: Schemes,
    /// Connections that the descriptors of this process leave room for.
    pub connections_max: usize,
    node: Mutex<Stepper>,
    inbox: Mutex<Inbox>,
    /// The connections.
    pub conns: ConnTable,
    /// The way to the log.
    pub log: LogQueue,
    /// The event loops.
    pub loops: Vec<LoopHandle>,
    next_loop: AtomicUsize,
    /// Counters.
    pub stats: ServerStats,
    /// Too much is in flight: loops read no more writes.
    saturated: AtomicBool,
    /// The log is short of space: writes are refused.
    log_full: AtomicBool,
    /// When the node wants its next tick, in ns of the monotonic clock.
    next_tick: AtomicU64,
    /// Requests by top-level path.
    pub namespaces: Namespaces,
    /// What connections that have ended had done.
    pub gone: Gone,
    /// Batches in flight, and requests that took too long.
    pub requests: Requests,
    /// The last minutes.
    pub history: History,
    /// Requests that wait for their reply; see [`Core::outstanding`].
    outstanding: AtomicI64,
    /// The server stops.
    pub stopping: AtomicBool,
    started: Instant,
    clock: Clock,
    client_port: Option<u16>,
    /// The other servers; `None` when this one runs alone.
    peers: Option<Arc<Peers>>,
    /// What the node has asked for, in its order.
    tasks: Mutex<VecDeque<Task>>,
    /// Who does it; taken after the node's lock was given back.
    runner: Mutex<Runner>,
    /// A [`Service`]; without meaning when this server runs alone.
    service: AtomicU8,
    /// Bytes of the records that this leader proposed.
    pub proposals: ProposalSizes,
    /// How often this server has begun to serve as leader.
    led: AtomicU64,
    /// For the threads that tasks start.
    me: Weak<Core>,
}

/// What the node has asked for, with the applier that it lends for it.
struct Task {
    output: Output,
    applier: Option<Box<Applier>>,
}

fn wants_applier(output: &Output) -> bool {
    matches!(output, Output::Truncate { reload: true, .. } | Output::Reload | Output::ReceiveSnapshot { .. })
}

/// The buffers of the thread that does what the node has asked for.
#[derive(Default)]
struct Runner {
    /// Links to be flushed.
    touched: Vec<Arc<Link>>,
    packets: Vec<u8>,
}

impl Runner {
    fn broadcast(&mut self, peers: &Peers, links: &[LinkId], records: &Records, inform: bool) {
        self.packets.clear();
        crate::peers::encode_records(records, inform, &mut self.packets);
        let last = records.last().as_u64();
        for &link in links {
            let link = peers.send(link, &self.packets, records.iter().len() as u64);
            self.touched.extend(link.inspect(|l| l.counts.last.store(last, Ordering::Relaxed)));
        }
        if self.packets.capacity() > limits::READ_CHUNK {
            self.packets = Vec::new();
        }
    }
}

/// The mode of a server as the four-letter words name it.
pub fn mode_name(service: Service) -> &'static str {
    match service {
        Service::None => "none",
        Service::ReadOnly => "read-only",
        Service::Leading => "leader",
        Service::Following => "follower",
        Service::Observing => "observer",
    }
}

/// Bytes written to clients in one go.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ResponseSizes {
    /// By the connection looked at last.
    pub last: u64,
    /// The largest.
    pub max: u64,
    /// The smallest of the last ones of each connection.
    pub min: u64,
}

/// The node, with the buffers that its stepping thread reuses.
struct Stepper {
    node: Node,
    work: Inbox,
    watch: role::Watch,
}

/// Bytes of the records that a leader proposes, as Apache shows them; −1 while there were none.
pub struct ProposalSizes {
    /// Of the last one.
    pub last: AtomicI64,
    /// The largest.
    pub max: AtomicI64,
    /// The smallest.
    pub min: AtomicI64,
}

impl Default for ProposalSizes {
    fn default() -> ProposalSizes {
        ProposalSizes { last: AtomicI64::new(-1), max: AtomicI64::new(-1), min: AtomicI64::new(-1) }
    }
}

impl ProposalSizes {
    /// Notes the records of a batch; one thread at a time does.
    fn note(&self, batch: &RecordBatch) {
        for (_, record) in batch.iter() {
            let n = record.len() as i64;
            let min = self.min.load(Ordering::Relaxed);
            self.last.store(n, Ordering::Relaxed);
            self.max.fetch_max(n, Ordering::Relaxed);
            self.min.store(if min < 0 { n } else { n.min(min) }, Ordering::Relaxed);
        }
    }
}

/// The two clocks.
pub struct Clock {
    start: std::time::Instant,
    /// Added to the monotonic clock so that it does not start at zero: session ids carry forty bits of it, and
    /// a restart must not give the ids of the run before.
    base_ms: u64,
}

/// The wall clock; 0 if it stands before 1970.
pub fn wall_now() -> WallMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallMs(since.as_millis() as i64)
}

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Clock {
        Clock { start: std::time::Instant::now(), base_ms: wall_now().0 as u64 }
    }

    /// The monotonic clock.
    pub fn mono(&self) -> Instant {
        Instant(self.start.elapsed().as_nanos() as u64 + self.base_ms * 1_000_000)
    }

    /// The wall-clock time, in ms, of a point on the monotonic clock in ms.
    pub fn wall_of(&self, mono_ms: u64) -> i64 {
        let now = self.now();
        now.wall.0 + mono_ms as i64 - now.mono.as_ms() as i64
    }

    /// Both clocks.
    pub fn now(&self) -> Now {
        Now { mono: self.mono(), wall: wall_now() }
    }
}

impl Core {
    /// The parts of a server, ready to run.
    #[expect(clippy::too_many_arguments, reason = "boot puts the parts together, once")]
    pub fn new(
        settings: Arc<config::Settings>,
        tree: Arc<Tree>,
        schemes: Schemes,
        node: Node,
        log: LogQueue,
        loops: Vec<LoopHandle>,
        clock: Clock,
        client_port: Option<u16>,
        descriptors: u64,
        peers: Option<Arc<Peers>>,
        me: Weak<Core>,
    ) -> Core {
        let next_tick = AtomicU64::new(node.next_timeout().0);
        // Every loop counts for itself, and so do the log thread and the one of the peers, which writes a follower's log.
        let counting = loops.len() + 1 + usize::from(peers.is_some());
        let requests = Requests::new(settings.operations.slow_request_ms);
        let stats = ServerStats::new(counting, settings.operations.detailed_metrics);
        Core {
            frame_max: settings.client.request_bytes_max as usize,
            schemes,
            connections_max: (descriptors.saturating_sub(limits::DESCRIPTORS_KEPT) as usize)
                .min(ACCEPTED_MAX),
            settings,
            tree,
            node: Mutex::new(Stepper { node, work: Inbox::default(), watch: role::Watch::default() }),
            inbox: Mutex::default(),
            conns: ConnTable::default(),
            log,
            stats,
            namespaces: Namespaces::new(loops.len()),
            gone: Gone::default(),
            requests,
            history: History::default(),
            loops,
            next_loop: AtomicUsize::new(0),
            saturated: AtomicBool::new(false),
            log_full: AtomicBool::new(false),
            next_tick,
            outstanding: AtomicI64::new(0),
            stopping: AtomicBool::new(false),
            started: clock.mono(),
            clock,
            client_port,
            peers,
            tasks: Mutex::default(),
            runner: Mutex::default(),
            service: AtomicU8::new(Service::None as u8),
            proposals: ProposalSizes::default(),
            led: AtomicU64::new(0),
            me,
        }
    }

    /// The port that clients reach, as it was bound.
    pub fn client_port(&self) -> Option<u16> {
        self.client_port
    }

    /// Time since the server began to serve, in ms.
    pub fn uptime_ms(&self) -> u64 {
        self.clock.mono().as_ms() - self.started.as_ms()
    }

    /// When an idle connection would be closed, in ms of the monotonic clock: for `dump`.
    pub fn connection_expiry_ms(&self, conn: &Conn) -> u64 {
        let heard = conn.stats.last_response_ms.load(Ordering::Relaxed);
        let (from, patience) = match conn.session() {
            Some(s) => (heard, s.timeout_ms as u64),
            None => (self.started.as_ms(), u64::from(self.settings.client.sessionless_timeout_ms)),
        };
        let bucket = u64::from(self.settings.client.sessionless_timeout_ms).max(1);
        ((from + patience) / bucket + 1) * bucket
    }

    /// Bytes that sockets of clients took, of all connections that ever were.
    pub fn sent_bytes(&self) -> u64 {
        let live = |c: Arc<Conn>| c.sent.bytes.load(Ordering::Relaxed);
        self.stats.get(Counter::SentBytes) + self.conns.all().into_iter().map(live).sum::<u64>()
    }

    /// Sizes of what flushes wrote, over the live connections.
    pub fn client_response_sizes(&self) -> ResponseSizes {
        let mut sizes = ResponseSizes::default();
        for c in self.conns.all() {
            let (last, max) = (&c.sent.last, &c.sent.max);
            sizes.last = last.load(Ordering::Relaxed);
            sizes.max = sizes.max.max(max.load(Ordering::Relaxed));
            sizes.min = if sizes.min == 0 { sizes.last } else { sizes.min.min(sizes.last) };
        }
        sizes
    }

    /// The clocks.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// When the node wants its next tick.
    pub fn next_tick(&self) -> Instant {
        Instant(self.next_tick.load(Ordering::Relaxed))
    }

    /// Whether so much is in flight that loops should not read writes.
    pub fn is_saturated(&self) -> bool {
        self.saturated.load(Ordering::Relaxed)
    }

    /// Whether writes are refused because the log is short of space.
    pub fn is_log_full(&self) -> bool {
        self.log_full.load(Ordering::Relaxed)
    }

    /// The log has or has no space.
    pub fn set_log_full(&self, full: bool) {
        if self.log_full.swap(full, Ordering::Relaxed) != full {
            if full {
                tracing::warn!(
                    "the log's disk is full: writes are refused until there is room, reads and pings go on"
                );
            } else {
                tracing::info!("the log has room again: writes are taken");
            }
            self.inbox.lock().items.push_back(Item::LogFull(full));
            self.pump();
        }
    }

    /// A connection shakes hands.
    pub fn submit_connect(&self, conn: ConnId, r: &ConnectRequest<'_>) {
        self.inbox.lock().items.push_back(Item::Connect { conn, request: r.into() });
    }

    /// A write has taken its place in the gate, at about `submitted`.
    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of one request, which nobody else puts together"
    )]
    pub fn submit_write(
        &self,
        submitted: Instant,
        conn: ConnId,
        session: SessionId,
        xid: Xid,
        identity: &Arc<Identity>,
        op: OpCode,
        body: &[u8],
    ) {
        let mut inbox = self.inbox.lock();
        let identity = inbox.place_of(identity);
        let start = inbox.bytes.len();
        inbox.bytes.extend_from_slice(body);
        let end = inbox.bytes.len();
        inbox.items.push_back(Item::Write { conn, session, xid, identity, op, start, end, submitted });
        if end >= limits::INBOX_BYTES {
            self.saturated.store(true, Ordering::Relaxed);
        }
    }

    /// A sync has taken its place in the gate.
    pub fn submit_sync(&self, conn: ConnId, session: SessionId, xid: Xid, path: &str) {
        let mut inbox = self.inbox.lock();
        let start = inbox.bytes.len();
        inbox.bytes.extend_from_slice(path.as_bytes());
        let end = inbox.bytes.len();
        inbox.items.push_back(Item::Sync { conn, session, xid, start, end });
    }

    /// A connection is gone.
    pub fn submit_disconnected(&self, conn: ConnId, session: Option<SessionId>) {
        self.inbox.lock().items.push_back(Item::Disconnected { conn, session });
    }

    /// The log has made a batch durable.
    pub fn submit_persisted(&self, durable: Durable) {
        self.inbox.lock().durable = Some(durable);
    }

    /// Epochs are durable.
    pub fn submit_epochs(&self, epochs: DurableEpochs) {
        self.inbox.lock().items.push_back(Item::EpochsPersisted(epochs));
    }

    fn submit_peer(&self, input: Input<'static>) {
        self.inbox.lock().items.push_back(Item::Peer(Some(input)));
    }

    fn submit_bytes(&self, bytes: &[u8], item: impl FnOnce(usize, usize) -> Item) {
        let mut inbox = self.inbox.lock();
        let start = inbox.bytes.len();
        inbox.bytes.extend_from_slice(bytes);
        let end = inbox.bytes.len();
        inbox.items.push_back(item(start, end));
    }

    /// A notification, which was found to decode.
    pub fn submit_notification(&self, from: ServerId, payload: &[u8]) {
        self.submit_bytes(payload, |start, end| Item::Notification { from, start, end });
    }

    /// A packet, which was found to decode.
    pub fn submit_packet(&self, link: LinkId, from_leader: bool, packet: &[u8]) {
        self.submit_bytes(packet, |start, end| Item::Packet { link, from_leader, start, end });
    }

    /// There is a connection to the election port of `peer`, or there is none any more.
    pub fn submit_election_link(&self, peer: ServerId, up: bool) {
        self.submit_peer(Input::ElectionLink { peer, up });
    }

    /// A connection of the quorum port.
    pub fn submit_link_up(&self, link: LinkId, dialled: Option<ServerId>) {
        self.submit_peer(Input::LinkUp { link, dialled });
    }

    /// It is gone.
    pub fn submit_link_down(&self, link: LinkId) {
        self.submit_peer(Input::LinkDown { link });
    }

    /// None could be made.
    pub fn submit_dial_failed(&self, to: ServerId) {
        self.submit_peer(Input::DialFailed { to });
    }

    /// The log was looked into for a learner.
    pub fn submit_found_in_log(&self, link: LinkId, found: Option<Zxid>) {
        self.submit_peer(Input::FoundInLog { link, found });
    }

    /// The tree has left for a learner.
    pub fn submit_snapshot_sent(&self, link: LinkId) {
        self.submit_peer(Input::SnapshotSent { link });
    }

    /// The leader's snapshot has been read, or not.
    pub fn submit_snapshot_received(&self, link: LinkId, applier: Applier, complete: bool) {
        self.submit_peer(Input::SnapshotReceived { link, applier, complete });
    }

    /// The log was cut.
    pub fn submit_truncated(&self, durable: Durable, applier: Option<Applier>) {
        self.submit_peer(Input::Truncated { durable, applier });
    }

    /// The tree was built again.
    pub fn submit_reloaded(&self, applier: Applier) {
        self.submit_peer(Input::Reloaded { applier });
    }

    /// The tree is on disk and the log begins behind it.
    pub fn submit_snapshot_saved(&self, durable: Durable) {
        self.submit_peer(Input::SnapshotSaved { durable });
    }

    /// The server is to stop soon.
    pub fn submit_hand_over(&self) {
        self.submit_peer(Input::HandOver);
    }

    /// Requests that wait for their reply.
    pub fn outstanding(&self) -> u64 {
        // Whoever reads requests counts them a turn at a time: some may be answered before they are counted.
        self.outstanding.load(Ordering::Relaxed).max(0) as u64
    }

    /// More requests wait for their reply; below zero: some were answered, or never will be.
    pub fn count_outstanding(&self, change: i64) {
        if change != 0 {
            self.outstanding.fetch_add(change, Ordering::Relaxed);
        }
    }

    /// Bytes that wait for the node.
    pub fn inbox_bytes(&self) -> usize {
        self.inbox.lock().bytes.len()
    }

    /// Time has passed.
    pub fn submit_tick(&self) {
        // Asked for once: whoever steps the node sets the next one.
        self.next_tick.store(u64::MAX, Ordering::Relaxed);
        self.inbox.lock().items.push_back(Item::Tick);
    }

    /// Steps the node through everything that waits, in rounds, unless another thread is at it: then that one does. After each
    /// round what was prepared is on its way to the disk and what was answered on its way to clients; any thread may do
    /// the next one. For threads that look after the log next ([`LogQueue::write_inline`]). False if more was left than
    /// one thread does at a time: a loop has been told.
    pub fn pump(&self) -> bool {
        self.pump_rounds(limits::ROUNDS)
    }

    /// The same for a thread that does not write the log: what it has prepared is left to the log thread.
    pub fn pump_aside(&self) {
        self.pump();
        self.log.write_inline(self, false);
    }

    /// [`Core::pump`] with another number of rounds.
    pub fn pump_rounds(&self, most: usize) -> bool {
        let mut rounds = 0;
        loop {
            // When the server stops there are no loops any more, and what is left has an end.
            if rounds == most && !self.stopping.load(Ordering::Relaxed) {
                // While others bring more work than is done here, whoever is here would never get back to its own.
                let next =
                    self.sleeping_loop().or_else(event_loop::current).unwrap_or_else(|| self.next_loop());
                self.loops[next].send(Message::Pump);
                return false;
            }
            rounds += 1;
            let Some(mut stepper) = self.node.try_lock() else { return true };
            let stepper_ref = &mut *stepper;
            let work = &mut stepper_ref.work;
            work.tidy();
            let waited = work.refill(&mut self.inbox.lock());
            let now = self.clock.now();
            let step = Step::new(self, now.mono);
            let Inbox { durable, items, bytes, identities } = work;
            let node = &mut stepper_ref.node;
            let mut laps = Laps::new(self, node, now.mono, waited);
            let round = limits::ROUND_ITEMS.min(items.len());
            for mut item in durable.take().map(Item::Persisted).into_iter().chain(items.drain(..round)) {
                laps.next(&item, bytes, node, &step);
                node.step(now, item.as_input(bytes, identities), &step);
                laps.done(node);
            }
            let more = !items.is_empty();
            let applied = laps.applied;
            let stepped = laps.end();
            step.end_events();
            let replies = step.replies.get();
            self.count_outstanding(-(replies as i64));
            if let Some(began) = applied {
                self.applied(began);
            }
            if self.peers.is_some() {
                stepper_ref.watch.look(node, now.mono, &self.stats);
            }
            if !more && bytes.capacity() > limits::INBOX_BYTES {
                *bytes = Vec::new();
            }
            if let Some(batch) = node.take_batch() {
                let records = batch.len() as u64;
                self.stats.add(Counter::Queued, records);
                if let Some(peers) = &self.peers
                    && node.service() == Service::Leading
                    && let Some(last) = batch.last()
                {
                    peers.acks.proposed(last, stepped);
                    self.proposals.note(&batch);
                }
                self.log.push(batch, now.mono, stepped);
                if more {
                    self.log.wake_thread();
                }
                self.stats.stage(Stage::Propose, stepped, self.lap_clock(stepped), records);
            }
            let mut asked = false;
            while let Some(output) = node.next_output() {
                let applier = wants_applier(&output).then(|| Box::new(node.lend_applier()));
                self.tasks.lock().push_back(Task { output, applier });
                asked = true;
            }
            self.next_tick.store(node.next_timeout().0, Ordering::Relaxed);
            let saturated = node.is_saturated() || more && self.inbox_bytes() >= limits::INBOX_BYTES;
            let was = self.saturated.swap(saturated, Ordering::Relaxed);
            drop(stepper);
            // The peers first: what they have to do takes longer than what clients hear.
            if asked {
                self.run_tasks();
            }
            let mut touched = step.touched.into_inner();
            if more
                && !touched.is_empty()
                && let Some(other) = self.sleeping_loop()
            {
                // It steps the next round while this thread writes the replies of the last one.
                self.loops[other].send(Message::Pump);
            }
            if touched.len() >= limits::FLUSH_ALONE && self.loops.len() > 1 {
                // A fan-out: each loop writes to its own sockets, all cores at once. The others are woken first.
                let here = event_loop::current();
                touched.sort_unstable_by_key(|c| (Some(c.owner) == here, c.owner));
                let others = touched.partition_point(|c| Some(c.owner) != here);
                let mut taken = if others < touched.len() { placement::here() } else { CpuSet::new() };
                for group in touched[..others].chunk_by(|a, b| a.owner == b.owner) {
                    let other = &self.loops[group[0].owner];
                    other.place.clear_of(&mut taken, self.loops.len());
                    other.send(Message::Flush(group.to_vec()));
                }
                touched.drain(..others);
            }
            touched.iter().for_each(|c| self.flush_touched(c));
            if replies > 0 {
                self.stats.stage(Stage::Reply, stepped, self.lap_clock(stepped), replies);
            }
            if was && !saturated {
                self.loops.iter().for_each(|l| l.send(Message::ResumeAll));
            }
            if !more && self.inbox.lock().is_empty() {
                return true;
            }
        }
    }

    /// A loop that has nothing to do.
    fn sleeping_loop(&self) -> Option<usize> {
        self.loops.iter().position(LoopHandle::sleeps)
    }

    /// A loop for work that any of them could do: one that has nothing to do, else each in turn.
    pub fn free_loop(&self) -> usize {
        self.sleeping_loop().unwrap_or_else(|| self.next_loop())
    }

    /// Whether a thread steps the node: it sees whatever was put into the inbox before this was asked.
    pub fn is_stepping(&self) -> bool {
        self.node.is_locked()
    }

    /// A loop for work that any of them could do, each in turn.
    fn next_loop(&self) -> usize {
        self.next_loop.fetch_add(1, Ordering::Relaxed) % self.loops.len()
    }

    /// Counts and forgets the times of what is applied since `began`, and audits what nobody asked for.
    fn applied(&self, began: Instant) {
        let audits = self.settings.operations.audit;
        let learns = matches!(self.service(), Some(Service::Following | Service::Observing));
        self.requests.applied(self.tree.applied(), |trace| {
            // Not of what was kept over an election.
            if trace.timed {
                self.committed(trace, began, learns);
            }
            if audits {
                trace.batch.iter().for_each(|(_, record)| audit::applied(record));
            }
        });
    }

    /// Counts the times of a batch that is applied since `began`.
    fn committed(&self, trace: &Trace, began: Instant, learns: bool) {
        let records = trace.batch.len() as u64;
        self.stats.stage(Stage::Commit, trace.durable, began, records);
        if !learns {
            let expired = trace.batch.iter().filter(|(_, record)| ends_for_silence(record)).count();
            if expired > 0 {
                self.stats.add(Counter::Expired, expired as u64);
            }
            let took = began.0.saturating_sub(trace.prepared.0);
            self.stats.measure(Measure::QuorumAck, took, records);
        } else if let Some((_, record)) = trace.batch.iter().last()
            && let Ok(record) = Record::decode(record)
        {
            let ms = wall_now().0.saturating_sub(record.header.time.0).max(0);
            self.stats.measure(Measure::CommitPropagation, ms as u64 * 1_000_000, records);
        }
    }

    /// Does what the node has asked for, in its order, unless another thread is at it: then that one does.
    fn run_tasks(&self) {
        loop {
            let Some(mut runner) = self.runner.try_lock() else { return };
            loop {
                let Some(task) = self.tasks.lock().pop_front() else { break };
                self.run_task(task, &mut runner);
            }
            for link in runner.touched.drain(..) {
                link.flush();
            }
            drop(runner);
            if self.tasks.lock().is_empty() {
                return;
            }
        }
    }

    fn run_task(&self, task: Task, runner: &mut Runner) {
        let Task { output, applier } = task;
        match output {
            Output::PersistEpochs { accepted, current, joined } => {
                return self.log.want(DiskJob::Epochs { accepted, current, joined });
            }
            Output::Truncate { after, .. } => {
                self.requests.cut(after);
                return self.log.want(DiskJob::Truncate { after, applier });
            }
            Output::Reload => {
                return self.log.want(DiskJob::Reload(applier.expect("the node lends its applier for this")));
            }
            Output::SaveSnapshot { zxid } => return self.log.want(DiskJob::Save { zxid }),
            Output::Serve(service) => return self.serve(service),
            Output::Differs(differs) => return self.log.want(DiskJob::End(differs)),
            Output::Doubt(differs) => return self.note_doubt(differs),
            Output::SlowLog(slow) => return self.note_slow(slow),
            Output::Note(note) => return tracing::info!("{note}"),
            _ => {}
        }
        let Some(peers) = &self.peers else {
            // A server alone has no links; nobody can have connected.
            return tracing::error!(?output, "a server that runs alone was asked to talk to others");
        };
        let me = || self.me.upgrade().expect("somebody steps the node of this core");
        match output {
            Output::Notify { to, payload } => peers.notify(to, &payload),
            Output::Dial { to } => peers.dial(to),
            Output::Close { link } => peers.close(link),
            Output::Send { link, packets } => {
                if matches!(kind_of(&packets), Some(packet_kind::DIFF | packet_kind::TRUNC)) {
                    self.stats.add(Counter::Diffs, 1);
                    let others = peers.logs.load(Ordering::Relaxed);
                    self.stats.measure(Measure::InflightDiffs, others as u64 + 1, 1);
                }
                runner.touched.extend(peers.send(link, &packets, crate::peers::count_packets(&packets)));
            }
            Output::SendAll { links, packets } => {
                let count = crate::peers::count_packets(&packets);
                for &link in links.iter() {
                    runner.touched.extend(peers.send(link, &packets, count));
                }
            }
            Output::Propose { links, records } => runner.broadcast(peers, &links, &records, false),
            Output::Inform { links, records } => runner.broadcast(peers, &links, &records, true),
            Output::SendLog { link, after, upto } => {
                if let Some((link, job)) = peers.push_job(link, Job::Log { after, upto }) {
                    jobs::begin(me(), link, job);
                }
            }
            Output::SendSnapshot { link, falconer } => {
                if let Some((link, job)) = peers.push_job(link, Job::Snapshot { falconer }) {
                    jobs::begin(me(), link, job);
                }
            }
            Output::FindInLog { link, zxid } => jobs::find_in_log(me(), link, zxid),
            Output::ReceiveSnapshot { link, zxid, falconer } => {
                let applier = applier.expect("the node lends its applier for this");
                peers.tell(crate::peers::Message::ReceiveSnapshot { link, zxid, falconer, applier });
            }
            Output::PersistEpochs { .. }
            | Output::Truncate { .. }
            | Output::Reload
            | Output::SaveSnapshot { .. }
            | Output::Serve(_)
            | Output::Differs(_)
            | Output::Doubt(_)
            | Output::SlowLog(_)
            | Output::Note(_) => unreachable!("done above"),
        }
    }

    fn note_slow(&self, slow: Slow) {
        self.stats.add(Counter::SlowHandOvers, 1);
        tracing::warn!(
            own_ms = slow.own_us as f64 / 1e3,
            others_ms = slow.others_us as f64 / 1e3,
            "this server's log has been slow for a while, and those of enough others have not: leadership is handed \
             over; look after the disk (falconer.handOverWhenSlow)"
        );
    }

    fn note_doubt(&self, Differs { zxid, wanted, found, .. }: Differs) {
        self.stats.add(Counter::StateDoubts, 1);
        tracing::error!(
            %zxid,
            wanted = format!("{wanted:#x}"),
            found = format!("{found:#x}"),
            "the digest of this server's state is not the one that its leader, or a record, says: the others are asked who is right, \
             where they can be"
        );
    }

    /// What this server does for clients from now on.
    fn serve(&self, service: Service) {
        let was = self.service.swap(service as u8, Ordering::SeqCst);
        if service == Service::Leading {
            self.led.fetch_add(1, Ordering::SeqCst);
        }
        if was != service as u8 {
            match service {
                Service::None => {
                    tracing::info!("clients are not served: there is no leader, or none is known yet")
                }
                other => tracing::info!("clients are served: {}", mode_name(other)),
            }
        }
        if service == Service::None {
            self.requests.role_ended();
            self.cut_clients();
        }
    }

    fn cut_clients(&self) {
        for conn in self.conns.all() {
            conn.cut();
        }
    }

    /// What this server does for clients; `None` when it runs alone.
    pub fn service(&self) -> Option<Service> {
        self.peers.as_ref()?;
        let now = self.service.load(Ordering::SeqCst);
        [Service::ReadOnly, Service::Leading, Service::Following, Service::Observing]
            .into_iter()
            .find(|s| *s as u8 == now)
            .or(Some(Service::None))
    }

    /// Why requests are not all answered; `None`: they are.
    pub fn unready(&self) -> Option<&'static str> {
        if self.is_read_only() {
            return Some(
                "there is no quorum with a leader: clients that allow it may read, and nobody may write",
            );
        }
        let why =
            "no client is served: there is no quorum with a leader, or this server is not synchronised yet";
        (!self.is_serving()).then_some(why)
    }

    /// Whether clients that have said so may read, and nobody may write.
    pub fn is_read_only(&self) -> bool {
        self.service() == Some(Service::ReadOnly)
    }

    /// Whether there can be sessions that only this server knows.
    pub fn has_local_sessions(&self) -> bool {
        let enabled = |e: &config::Ensemble| e.local_sessions != config::LocalSessions::Off;
        self.is_read_only() || self.settings.ensemble().is_some_and(enabled)
    }

    /// Whether clients are served at all.
    pub fn is_serving(&self) -> bool {
        self.peers.is_none() || self.service.load(Ordering::SeqCst) != Service::None as u8
    }

    /// The connections to the other servers; `None` when this one runs alone.
    pub fn peers(&self) -> Option<&Arc<Peers>> {
        self.peers.as_ref()
    }

    /// Puts the configuration of the ensemble into its znode: no txn, each server sets its own.
    pub fn plant_config(&self, applier: &mut Applier) {
        if let config::Membership::Ensemble(e) = &self.settings.membership {
            crate::disk::plant_config(applier, e, self.clock.now().wall);
        }
    }

    /// The time, where times are taken; else the one given.
    pub fn lap_clock(&self, otherwise: Instant) -> Instant {
        if self.stats.is_detailed() { self.clock.mono() } else { otherwise }
    }

    /// Writes out what the node has left in the outbox of a connection.
    pub fn flush_touched(&self, conn: &Conn) {
        // A swap, to see the wish to close the connection of whoever found the mark still there.
        conn.marked.swap(false, Ordering::AcqRel);
        // The owner may have paused it for what has just left, while another thread was writing.
        if conn.flush() == Flush::Done {
            self.wake_if_paused(conn);
        }
    }

    /// Which thread has not come round for too long, if one has.
    pub fn stuck(&self) -> Option<String> {
        let now = self.clock.mono().as_ms();
        let late = |seen: u64| now.saturating_sub(seen);
        let slowest = self.loops.iter().enumerate().map(|(i, l)| (late(l.seen_ms()), i)).max()?;
        let (ms, index) = slowest;
        (ms > limits::STUCK_MS).then(|| format!("event loop {index} has not come round for {} s", ms / 1000))
    }

    /// Tells the owner of a paused connection to look again, once.
    fn wake_if_paused(&self, conn: &Conn) {
        // Nearly always it is not. The owner looks again after it has paused, under the lock of the gate or of the outbox, and
        // the caller has just held that lock: one of the two sees what the other did.
        if conn.paused.load(Ordering::Acquire) && conn.paused.swap(false, Ordering::AcqRel) {
            self.loops[conn.owner].send(Message::Resume(conn.id));
        }
    }

    /// Looks at the node, waiting for the lock: for the four-letter words only.
    pub fn with_node<R>(&self, look: impl FnOnce(&Node) -> R) -> R {
        let r = look(&self.node.lock().node);
        // Whoever came meanwhile has left its work to us.
        self.pump_aside();
        r
    }

    /// Whether leadership, after [`Core::submit_hand_over`], is with another server, or nobody was there to take it.
    pub fn has_handed_over(&self) -> bool {
        let done = {
            let stepper = self.node.lock();
            let waits = stepper.work.has_hand_over() || self.inbox.lock().has_hand_over();
            !waits && stepper.node.has_handed_over()
        };
        self.pump_aside();
        done
    }

    /// Answers a request from the tree, in its turn; the caller holds the gate and counts the reply. `request` is
    /// the frame's payload.
    pub fn answer_locally(&self, conn: &Conn, request: &[u8], received: Instant, now: Instant) -> Measure {
        let mut r = Reader::new(request);
        let Ok(header) = RequestHeader::decode(&mut r) else {
            conn.cut();
            return Measure::Other;
        };
        let op = OpCode::from_wire(header.op);
        match op.map(|op| (op, ReadOp::decode(op, &mut r))) {
            Some((_, Some(Ok(read)))) => {
                let session = conn.session().map_or(SessionId::NONE, |s| s.id);
                let identity = conn.identity();
                let asker = Asker { conn: conn.id, session, identity: &identity };
                let xid = if matches!(read, ReadOp::Ping) { Xid::PING } else { header.xid };
                self.tree.read(&read, xid, &asker, conn);
            }
            Some((_, Some(Err(_)))) => self.refuse(conn, header.xid, Code::MarshallingError),
            // A write that found its place here was refused before it was ordered.
            Some((op, None)) => {
                let mut r = Reader::new(&request[RequestHeader::LEN..]);
                let decodes = match op {
                    OpCode::Sync => r.string().is_ok(),
                    _ => matches!(proto::client::WriteOp::decode(op, &mut r), Some(Ok(_))),
                };
                // A read-only server looks no further than at what is asked.
                let code = match decodes || self.is_read_only() {
                    true => node::LOG_FULL_CODE,
                    false => Code::MarshallingError,
                };
                self.refuse(conn, header.xid, code);
            }
            None => self.refuse(conn, header.xid, Code::Unimplemented),
        }
        self.note_reply(conn, header.op, header.xid, self.tree.applied(), received, now);
        if op == Some(OpCode::Ping) { Measure::Other } else { Measure::Read }
    }

    fn refuse(&self, conn: &Conn, xid: Xid, code: Code) {
        self.stats.add(Counter::Errors, 1);
        conn.append(&mut |out| WriteReply::Error(code).encode_frame(out, xid, self.tree.applied()));
    }

    /// What the connection remembers of its last reply. Returns how long it took, in ns.
    fn note_reply(&self, conn: &Conn, op: i32, xid: Xid, zxid: Zxid, received: Instant, now: Instant) -> u64 {
        let ns = now.0.saturating_sub(received.0);
        conn.stats.replied(op, xid.0, zxid.to_wire(), now, ns / 1_000_000);
        ns
    }
}

/// Whether a record ends a session that was not heard of any more: it answers no request, and so has no cxid.
fn ends_for_silence(record: &[u8]) -> bool {
    let field = |at: usize| record.get(at..at + 4).and_then(|b| b.try_into().ok()).map(i32::from_be_bytes);
    field(TxnHeader::LEN - 4) == Some(proto::txn::kind::CLOSE_SESSION) && field(8) == Some(0)
}

/// The kind of a packet, whose first field it is.
fn kind_of(packet: &[u8]) -> Option<i32> {
    packet.first_chunk().map(|b| i32::from_be_bytes(*b))
}

/// Takes the time of runs of items of one kind while the node steps through them.
struct Laps<'a> {
    core: &'a Core,
    run: Run,
    began: Instant,
    /// Records prepared, or come from the leader, and records applied, in the run.
    records: [u64; 2],
    /// Up to where they are.
    at: [Zxid; 2],
    /// When the writes of the run came, and how many of them at that time.
    submitted: (Instant, u64),
    step_began: Instant,
    /// Something was applied: when the first run of that began.
    applied: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Run {
    Prepare,
    Apply,
}

/// How many zxids lie between two.
fn distance(from: Zxid, to: Zxid) -> u64 {
    if from.epoch() == to.epoch() {
        u64::from(to.counter().saturating_sub(from.counter()))
    } else {
        // What the old epoch still had is not known here: at most one round of steps is counted too low.
        u64::from(to.counter())
    }
}

impl Item {
    /// What it leads to, if that is known: of a follower's ACK and a leader's COMMIT, that records are applied; of a
    /// forwarded request and a proposal, that there are more of them.
    fn run(&self, bytes: &[u8]) -> Option<Run> {
        match self {
            Item::Persisted(..) => Some(Run::Apply),
            Item::Write { .. } => Some(Run::Prepare),
            Item::Packet { from_leader, start, .. } => match (from_leader, kind_of(&bytes[*start..])?) {
                (true, packet_kind::COMMIT | packet_kind::INFORM | packet_kind::UPTODATE)
                | (false, packet_kind::ACK) => Some(Run::Apply),
                (true, packet_kind::PROPOSAL) | (false, packet_kind::REQUEST) => Some(Run::Prepare),
                _ => None,
            },
            _ => None,
        }
    }
}

impl<'a> Laps<'a> {
    fn new(core: &'a Core, node: &Node, now: Instant, items: usize) -> Laps<'a> {
        core.stats.measure(Measure::NodeQueue, items as u64, u64::from(items > 0));
        Laps {
            core,
            run: Run::Prepare,
            began: now,
            records: [0; 2],
            at: [node.proposed(), core.tree.applied()],
            submitted: (now, 0),
            step_began: now,
            applied: None,
        }
    }

    /// Before an item is stepped.
    fn next(&mut self, item: &Item, bytes: &[u8], node: &Node, step: &Step<'_>) {
        if let Some(run) = item.run(bytes)
            && run != self.run
        {
            // Only where something was done: most changes of kind are at the very beginning.
            if self.core.stats.is_detailed() && (self.records != [0; 2] || node.in_flight() > 0) {
                self.turn(run);
                step.now.set(self.began);
            }
            self.run = run;
        }
        match item {
            Item::Write { submitted, .. } => {
                if self.submitted.0 != *submitted {
                    self.admitted();
                    self.submitted.0 = *submitted;
                }
                self.submitted.1 += 1;
            }
            Item::Packet { link, from_leader, start, end } => {
                self.heard(*link, *from_leader, &bytes[*start..*end]);
            }
            _ => {}
        }
    }

    /// Counts a packet of another server.
    fn heard(&self, link: LinkId, from_leader: bool, packet: &[u8]) {
        let counter = match (from_leader, kind_of(packet)) {
            (true, Some(packet_kind::PROPOSAL)) => Counter::LearnerProposals,
            (true, Some(packet_kind::COMMIT | packet_kind::INFORM)) => Counter::LearnerCommits,
            (false, Some(packet_kind::REVALIDATE)) => Counter::Revalidations,
            (false, Some(packet_kind::ACK)) => {
                let zxid = packet.get(4..12).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes);
                if let (Some(peers), Some(zxid)) = (&self.core.peers, zxid)
                    && let Some(link) = peers.link(link)
                    && let Some(server) = link.learner.get()
                {
                    peers.acks.acknowledged(*server, Zxid::from_u64(zxid), self.began);
                }
                return;
            }
            _ => return,
        };
        self.core.stats.add(counter, 1);
    }

    /// After it.
    fn done(&mut self, node: &Node) {
        let at = [node.proposed(), self.core.tree.applied()];
        for ((records, before), at) in self.records.iter_mut().zip(self.at).zip(at) {
            // A log that was cut goes back.
            *records += if at > before { distance(before, at) } else { 0 };
        }
        if at[1] > self.at[1] && self.applied.is_none() {
            self.applied = Some(self.began);
        }
        self.at = at;
    }

    fn admitted(&mut self) {
        let (at, n) = std::mem::replace(&mut self.submitted, (self.began, 0));
        self.core.stats.stage(Stage::Admit, at, self.step_began, n);
        self.core.stats.add(Counter::Admitted, n);
    }

    fn turn(&mut self, run: Run) {
        let now = self.core.lap_clock(self.began);
        let [prepared, applied] = std::mem::take(&mut self.records);
        let (stage, whole, records) = match self.run {
            Run::Prepare => (Stage::Prepare, Measure::PrepareRun, prepared),
            Run::Apply => (Stage::Apply, Measure::ApplyRun, applied),
        };
        if records > 0 {
            self.core.stats.stage(stage, self.began, now, records);
            self.core.stats.measure(whole, now.0.saturating_sub(self.began.0), 1);
        }
        for (counter, n) in [(Counter::Prepared, prepared), (Counter::Applied, applied)] {
            if n > 0 {
                self.core.stats.add(counter, n);
            }
        }
        (self.run, self.began) = (run, now);
    }

    /// The end of the last run.
    fn end(mut self) -> Instant {
        self.admitted();
        if self.records != [0; 2] {
            self.turn(self.run);
        }
        self.began
    }
}

/// The connections during one round of steps.
struct Step<'a> {
    core: &'a Core,
    /// When the run of items began.
    now: Cell<Instant>,
    /// Replies given.
    replies: Cell<u64>,
    /// The event that is being delivered, and to how many so far.
    event: Cell<(EventKey, u64)>,
    /// Connections with something to flush, each once.
    touched: RefCell<Vec<Arc<Conn>>>,
    /// The connection that was told last: replies come in runs.
    last: RefCell<Option<Arc<Conn>>>,
}

/// What the frames of one event share: length, zxid and kind.
type EventKey = ([u8; 4], [u8; 8], u8);

impl<'a> Step<'a> {
    fn new(core: &'a Core, now: Instant) -> Step<'a> {
        Step {
            core,
            now: Cell::new(now),
            replies: Cell::new(0),
            event: Cell::default(),
            touched: RefCell::default(),
            last: RefCell::default(),
        }
    }

    /// The connection `id`; one that was told last may have ended since.
    fn conn(&self, id: ConnId) -> Option<Ref<'_, Arc<Conn>>> {
        if self.last.borrow().as_ref().is_none_or(|c| c.id != id) {
            *self.last.borrow_mut() = Some(self.core.conns.get(id)?);
        }
        Ref::filter_map(self.last.borrow(), Option::as_ref).ok()
    }

    /// Counts a frame of an event; watchers of the same event get theirs one after the other.
    fn count_event(&self, frame: &[u8]) {
        self.core.stats.add(Counter::Events, 1);
        self.core.stats.add(Counter::EventBytes, frame.len() as u64);
        let (Some(len), Some(zxid), Some(&kind)) = (frame.first_chunk(), frame.get(8..16), frame.get(23))
        else {
            return;
        };
        let key = (*len, zxid.try_into().expect("eight bytes"), kind);
        let (last, watchers) = self.event.get();
        if last == key {
            self.event.set((key, watchers + 1));
        } else {
            self.end_event((last, watchers));
            self.event.set((key, 1));
        }
    }

    fn end_event(&self, ((_, _, kind), watchers): (EventKey, u64)) {
        let measure = match kind {
            1 => Measure::CreatedEvents,
            2 => Measure::DeletedEvents,
            3 => Measure::ChangedEvents,
            4 => Measure::ChildEvents,
            _ => return,
        };
        self.core.stats.measure(measure, watchers, u64::from(watchers > 0));
    }

    /// The last event of the round is delivered.
    fn end_events(&self) {
        self.end_event(self.event.take());
    }
}

impl Step<'_> {
    /// Something was appended to the outbox of `conn`. Whoever takes the mark away looks into the outbox afterwards, under
    /// its lock: if the mark is still seen here, what was appended will be seen there.
    fn touch(&self, conn: &Arc<Conn>) {
        if !conn.marked.load(Ordering::Acquire) {
            self.mark(conn);
        }
    }

    /// `conn` is to be flushed, or closed when its outbox is empty. That wish is under no lock, so it takes the swap to
    /// order it before the look of whoever takes the mark away.
    fn mark(&self, conn: &Arc<Conn>) {
        if !conn.marked.swap(true, Ordering::AcqRel) {
            self.touched.borrow_mut().push(conn.clone());
        }
    }
}

impl Audience for Step<'_> {
    fn deliver(&self, to: ConnId, frame: &[u8]) {
        if let Some(conn) = self.conn(to) {
            conn.append(&mut |out| out.extend_from_slice(frame));
            self.count_event(frame);
            self.touch(&conn);
        }
    }

    fn identity(&self, of: ConnId) -> Option<Arc<Identity>> {
        self.core.conns.get(of).map(|c| c.identity())
    }
}

impl Clients for Step<'_> {
    fn reply(&self, to: ConnId, xid: Xid, zxid: Zxid, reply: &WriteReply<'_>) {
        let Some(conn) = self.conn(to) else { return };
        let mut state = conn.gate.lock();
        let Some((op, received)) = state.gate.complete(xid) else { return };
        state.places.answered();
        conn.append(&mut |out| reply.encode_frame(out, xid, zxid));
        let now = self.now.get();
        let ns = self.core.note_reply(&conn, op, xid, zxid, received, now);
        self.core.stats.replied(Measure::Update, ns, 1);
        if self.core.requests.is_slow(ns) {
            self.core.requests.slow_write(self.core, &conn, op, zxid, received, now);
        }
        if state.audit.front().is_some_and(|(of, _)| *of == xid)
            && let Some((_, note)) = state.audit.pop_front()
        {
            audit::answered(&conn, &note, reply);
        }
        if matches!(reply, WriteReply::Error(_)) {
            self.core.stats.add(Counter::Errors, 1);
        }
        let mut done = 1;
        let mut tally = Tally::default();
        while let Some(Turn { request, received }) = state.gate.next_local() {
            done += 1;
            state.places.answered();
            if conn.is_cut() {
                continue;
            }
            let kind = self.core.answer_locally(&conn, &request, received, now);
            let ns = now.0.saturating_sub(received.0);
            self.core.stats.replied(kind, ns, 1);
            if self.core.stats.is_detailed()
                && let Ok(header) = RequestHeader::decode(&mut Reader::new(&request))
                && let Some(op) = OpCode::from_wire(header.op)
                && tally.enter(op, &request[RequestHeader::LEN..], &self.core.namespaces)
            {
                tally.read(conn.outlet.sent.appended.load(Ordering::Relaxed));
            }
            if self.core.requests.is_slow(ns) {
                self.core.requests.slow_read(self.core, &conn, &request, ns, vec![(Stage::Admit, ns)]);
            }
            if conn.unsent() >= limits::OUTBOX_PAUSE {
                conn.flush();
            }
        }
        tally.flush(&self.core.namespaces);
        self.replies.set(self.replies.get() + done);
        let resume = !state.gate.is_full();
        drop(state);
        if resume {
            self.core.wake_if_paused(&conn);
        }
        self.touch(&conn);
    }

    fn connected(&self, to: ConnId, outcome: Handshake) {
        let Some(conn) = self.conn(to) else { return };
        let asked = conn.gate.lock().read_only;
        // The answer first: the owner runs pipelined requests as soon as it sees the session, and a flush cuts a
        // closing connection as soon as it is empty.
        match outcome {
            Handshake::Accepted { session, timeout_ms, touch, read_only } => {
                let password = password(session);
                let read_only = asked.map(|_| read_only);
                let response = ConnectResponse { timeout_ms, session, password, read_only };
                conn.append(&mut |out| response.encode_frame(out));
                conn.attach(AttachedSession { id: session, timeout_ms, touch });
            }
            Handshake::Refused { read_only } => {
                let (session, password) = (SessionId::NONE, [0; 16]);
                let read_only = asked.map(|_| read_only);
                let response = ConnectResponse { timeout_ms: 0, session, password, read_only };
                conn.append(&mut |out| response.encode_frame(out));
                conn.close_when_flushed();
            }
        }
        self.core.stats.replied(Measure::Other, 0, 1);
        self.core.loops[conn.owner].send(Message::Resume(conn.id));
        self.mark(&conn);
    }

    fn close(&self, to: ConnId, why: CloseReason) {
        let Some(conn) = self.conn(to) else { return };
        tracing::debug!(peer = %conn.peer, ?why, "closing a connection");
        if why == CloseReason::NotServing {
            self.core.stats.add(Counter::NotServed, 1);
        }
        conn.gate.lock().gate.end();
        conn.close_when_flushed();
        self.mark(&conn);
    }
}

/// Appends a reply that has only a head.
pub fn put_header_reply(out: &mut Vec<u8>, xid: Xid, zxid: i64, err: i32) {
    let at = begin_frame(out);
    proto::client::put_reply_header(out, xid, Zxid::from_wire(zxid), err);
    end_frame(out, at);
}
