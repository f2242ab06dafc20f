//! An event loop: owns the sockets of its connections, reads their frames, answers reads, hands writes on.

use crate::accounting::{Places, Tally};
use crate::audit::Note;
use crate::conn::Conn;
use crate::core::{Core, put_header_reply};
use crate::fourletter;
use crate::limits;
use crate::outlet::Flush;
use crate::placement::Place;
use crate::stats::{Counter, Measure};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use node::stage::Stage;
use parking_lot::Mutex;
use proto::client::{AuthPacket, ConnectRequest, OpCode, RequestHeader, WriteOp};
use proto::jute::{Reader, begin_frame, end_frame};
use proto::{Code, ConnId, Instant, SessionId, Xid, Zxid};
use std::cell::Cell;
use std::collections::HashMap;
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

thread_local! {
    static CURRENT: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The loop that the calling thread runs, if it runs one.
pub fn current() -> Option<usize> {
    CURRENT.get()
}

/// What other threads tell a loop.
pub enum Message {
    /// A connection to own.
    Adopt(TcpStream, SocketAddr),
    /// A paused connection may go on.
    Resume(ConnId),
    /// Every paused connection may go on.
    ResumeAll,
    /// Something waits in the inbox of the node.
    Pump,
    /// The node has left something in the outboxes of these connections.
    Flush(Vec<Arc<Conn>>),
}

/// The mailbox of a loop.
pub struct LoopHandle {
    mailbox: Mutex<Vec<Message>>,
    waker: Waker,
    notified: AtomicBool,
    /// Where the loop runs.
    pub place: Place,
    /// When the loop began its last round, ms of the monotonic clock.
    seen: AtomicU64,
    /// It waits for something to happen, or is about to.
    sleeps: AtomicBool,
}

impl LoopHandle {
    /// When the loop began its last round, in ms of the monotonic clock. A healthy one comes round every second.
    pub fn seen_ms(&self) -> u64 {
        self.seen.load(Ordering::Relaxed)
    }

    /// Whether the loop has nothing to do, and nobody has woken it yet. It may have by the time it is asked.
    pub fn sleeps(&self) -> bool {
        self.sleeps.load(Ordering::Relaxed) && !self.notified.load(Ordering::Relaxed)
    }

    /// Leaves a message and wakes the loop, once for all messages until it looks.
    pub fn send(&self, message: Message) {
        self.mailbox.lock().push(message);
        if !self.notified.swap(true, Ordering::SeqCst) {
            // A waker fails only when the loop is gone, and then nobody needs the message.
            let _ = self.waker.wake();
        }
    }
}

const WAKER: Token = Token(usize::MAX);
const LISTENER: Token = Token(usize::MAX - 1);

/// A loop before it runs.
pub struct EventLoop {
    index: usize,
    poll: Poll,
    listener: Option<TcpListener>,
    conns: HashMap<ConnId, Owned>,
    scratch: Vec<u8>,
    /// Connections whose socket may hold more than was read.
    hungry: Vec<ConnId>,
    next_sweep: Instant,
    next_owner: usize,
    per_address: Arc<PerAddress>,
}

/// Connections per client address.
#[derive(Default)]
pub struct PerAddress(Mutex<HashMap<IpAddr, u32>>);

impl PerAddress {
    fn admit(&self, ip: IpAddr, max: Option<u32>) -> bool {
        let mut map = self.0.lock();
        let n = map.entry(ip).or_insert(0);
        if max.is_some_and(|max| *n >= max) {
            return false;
        }
        *n += 1;
        true
    }

    fn release(&self, ip: IpAddr) {
        let mut map = self.0.lock();
        if let Some(n) = map.get_mut(&ip) {
            *n -= 1;
            if *n == 0 {
                map.remove(&ip);
            }
        }
    }
}

/// A connection as its owner sees it.
struct Owned {
    conn: Arc<Conn>,
    /// Bytes read and not yet used: a part of a frame, or everything while the connection is paused.
    input: Vec<u8>,
    state: State,
    accepted: Instant,
    /// Since when it has been closing, in that state.
    closing_since: Instant,
    /// The client has closed its side.
    ended: bool,
    /// Requests of this turn that were taken, and replies given at once.
    taken: Taken,
    /// What they are counted under.
    tally: Tally,
}

/// What one turn of a connection took from its input.
#[derive(Clone, Copy, Default)]
struct Taken {
    /// About when the last requests were taken: the clock is read for every few of them.
    at: Instant,
    /// Requests since then.
    since: u64,
    /// Reads answered at once.
    reads: u64,
    /// Pings answered at once.
    pings: u64,
    /// Requests that are answered later.
    later: i64,
    /// The operation of the last requests, and how many of them.
    run: Option<(OpCode, u64)>,
}

/// Requests that share one look at the clock.
const REQUESTS_PER_CLOCK: u64 = 8;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing has been read: the first bytes are a four-letter word or a handshake.
    Fresh,
    /// The handshake is with the node.
    Connecting,
    /// Requests.
    Serving,
    /// Nothing more will be read.
    Closing,
}

/// What became of a connection after its frames were looked at.
#[derive(PartialEq, Eq)]
enum After {
    Keep,
    Drop,
}

impl EventLoop {
    /// A loop and its mailbox. The first one gets the listener.
    pub fn new(
        index: usize,
        listener: Option<TcpListener>,
        per_address: Arc<PerAddress>,
    ) -> std::io::Result<(EventLoop, LoopHandle)> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        let mut listener = listener;
        if let Some(l) = &mut listener {
            poll.registry().register(l, LISTENER, Interest::READABLE)?;
        }
        let handle = LoopHandle {
            mailbox: Mutex::default(),
            waker,
            notified: AtomicBool::new(false),
            place: Place::default(),
            sleeps: AtomicBool::new(false),
            seen: AtomicU64::new(u64::MAX),
        };
        let it = EventLoop {
            index,
            poll,
            listener,
            conns: HashMap::new(),
            scratch: vec![0; limits::READ_CHUNK],
            hungry: Vec::new(),
            next_sweep: Instant::default(),
            next_owner: 0,
            per_address,
        };
        Ok((it, handle))
    }

    /// Runs until the server stops.
    pub fn run(mut self, core: &Core) {
        CURRENT.set(Some(self.index));
        core.stats.claim();
        core.namespaces.claim(self.index);
        let mut events = Events::with_capacity(1024);
        while !core.stopping.load(Ordering::Relaxed) {
            let timeout = self.timeout(core);
            let handle = &core.loops[self.index];
            handle.place.note();
            handle.sleeps.store(!timeout.is_zero(), Ordering::Relaxed);
            match self.poll.poll(&mut events, Some(timeout)) {
                Ok(()) => {}
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => panic!("event loop {}: epoll fails: {e}", self.index),
            }
            handle.sleeps.store(false, Ordering::Relaxed);
            let now = core.clock().mono();
            handle.seen.store(now.as_ms(), Ordering::Relaxed);
            let mut wake = false;
            let mut accept = false;
            for event in &events {
                match event.token() {
                    WAKER => wake = true,
                    LISTENER => accept = true,
                    Token(slot) => {
                        let id = ConnId(slot as u64);
                        if event.is_writable()
                            && let Some(owned) = self.conns.get_mut(&id)
                            && owned.conn.on_writable() == Flush::Done
                            && owned.conn.paused.load(Ordering::Relaxed)
                        {
                            self.hungry.push(id);
                        }
                        if event.is_readable() || event.is_read_closed() || event.is_error() {
                            if event.is_read_closed()
                                && let Some(owned) = self.conns.get_mut(&id)
                            {
                                owned.ended = true;
                            }
                            self.hungry.push(id);
                        }
                    }
                }
            }
            if wake {
                self.read_mail(core, now);
            }
            self.feed(core, now);
            if self.index == 0 && now >= core.next_tick() {
                core.submit_tick();
            }
            let done = core.pump();
            core.log.write_inline(core, done && self.hungry.is_empty());
            if accept {
                self.accept(core, now);
            }
            if now >= self.next_sweep {
                self.sweep(core, now);
            }
            // A loop whose clients never let it sleep keeps its CPU until the scheduler's next tick (4 ms), and whoever
            // waits for that CPU (another loop, the client on this machine) waits as long.
            std::thread::yield_now();
        }
    }

    fn timeout(&self, core: &Core) -> Duration {
        if !self.hungry.is_empty() {
            return Duration::ZERO;
        }
        let now = core.clock().mono();
        let mut until = self.next_sweep;
        if self.index == 0 {
            until = until.min(core.next_tick());
        }
        // Rounded up by the kernel to whole ms; never in the past.
        Duration::from_nanos(until.0.saturating_sub(now.0))
    }

    fn read_mail(&mut self, core: &Core, now: Instant) {
        let handle = &core.loops[self.index];
        handle.notified.store(false, Ordering::SeqCst);
        for message in std::mem::take(&mut *handle.mailbox.lock()) {
            match message {
                Message::Adopt(stream, peer) => self.adopt(core, now, stream, peer),
                Message::Resume(id) => self.hungry.push(id),
                Message::ResumeAll => {
                    let paused = |o: &&Owned| o.conn.paused.load(Ordering::Relaxed);
                    self.hungry.extend(self.conns.values().filter(paused).map(|o| o.conn.id));
                }
                Message::Pump => {}
                Message::Flush(conns) => {
                    core.loops[self.index].place.free();
                    conns.iter().for_each(|c| core.flush_touched(c));
                }
            }
        }
    }

    fn accept(&mut self, core: &Core, now: Instant) {
        for _ in 0..limits::ACCEPT_BATCH {
            let Some(listener) = &self.listener else { return };
            match listener.accept() {
                Ok((stream, peer)) => {
                    let configured = core.settings.client.total_max.map_or(usize::MAX, |n| n as usize);
                    let max_total = configured.min(core.connections_max);
                    if core.conns.count() >= max_total {
                        core.stats.add(Counter::Rejected, 1);
                        tracing::debug!(%peer, max_total, "connection refused: maxCnxns, or the limit of open files, is reached");
                        continue;
                    }
                    if !self.per_address.admit(peer.ip(), core.settings.client.per_address_max) {
                        core.stats.add(Counter::Rejected, 1);
                        tracing::debug!(%peer, "connection refused: maxClientCnxns of its address is reached");
                        continue;
                    }
                    let owner = self.next_owner;
                    self.next_owner = (owner + 1) % core.loops.len();
                    if owner == self.index {
                        self.adopt(core, now, stream, peer);
                    } else {
                        core.loops[owner].send(Message::Adopt(stream, peer));
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == ErrorKind::ConnectionAborted || e.kind() == ErrorKind::Interrupted => {}
                Err(e) => {
                    // Out of descriptors, most likely: those who are here go on, and the next sweep tries again.
                    tracing::warn!(error = %e, "a connection could not be accepted");
                    self.next_sweep = now.plus_ms(limits::SWEEP_MS);
                    return;
                }
            }
        }
        // More may wait, and the listener's edge is spent: wake this loop again.
        core.loops[self.index].send(Message::Pump);
        self.rearm_listener();
    }

    fn rearm_listener(&mut self) {
        if let Some(l) = &mut self.listener
            && let Err(e) = self.poll.registry().reregister(l, LISTENER, Interest::READABLE)
        {
            panic!("the client port can't be watched any more: {e}");
        }
    }

    fn adopt(&mut self, core: &Core, now: Instant, mut stream: TcpStream, peer: SocketAddr) {
        // Replies are batched here; the kernel should not hold them back.
        let _ = stream.set_nodelay(true);
        if core.settings.client.keep_alive {
            // A socket without it still serves: the session's own time-out finds dead clients too.
            let _ = socket2::SockRef::from(&stream).set_keepalive(true);
        }
        let mut registered = Ok(());
        let identity = Arc::new(engine::Identity::of_address(peer.ip()));
        let conn = core.conns.insert(|id| {
            registered = self.poll.registry().register(
                &mut stream,
                Token(id.0 as usize),
                Interest::READABLE | Interest::WRITABLE,
            );
            Conn::new(id, peer, self.index, stream, identity)
        });
        if let Err(e) = registered {
            tracing::warn!(%peer, error = %e, "a connection could not be watched");
            core.conns.remove(conn.id);
            self.per_address.release(peer.ip());
            return;
        }
        conn.stats.established_ms.store(core.clock().now().wall.0, Ordering::Relaxed);
        let owned = Owned {
            conn: conn.clone(),
            input: Vec::new(),
            state: State::Fresh,
            accepted: now,
            closing_since: now,
            ended: false,
            taken: Taken::default(),
            tally: Tally::default(),
        };
        self.hungry.push(conn.id);
        self.conns.insert(conn.id, owned);
    }

    /// Reads every connection that may have something, and runs what is there.
    fn feed(&mut self, core: &Core, now: Instant) {
        let mut served = std::mem::take(&mut self.hungry);
        let mut turn = now;
        for &id in &served {
            let Some(owned) = self.conns.get_mut(&id) else { continue };
            owned.conn.paused.store(false, Ordering::Release);
            owned.taken = Taken { at: turn, ..Taken::default() };
            let (after, more) = owned.read(core, now, &mut self.scratch);
            turn = owned.finish_turn(core, now);
            if after == After::Drop {
                self.drop_conn(core, id);
            } else if more || owned.conn.paused.load(Ordering::Relaxed) && owned.may_go_on(core, true) {
                // Paused for what the flush has just taken away, it would wait for a word that nobody says.
                self.hungry.push(id);
            }
        }
        served.clear();
        if self.hungry.is_empty() {
            self.hungry = served;
        }
    }

    fn drop_conn(&mut self, core: &Core, id: ConnId) {
        let Some(mut owned) = self.conns.remove(&id) else { return };
        let conn = &owned.conn;
        {
            let mut state = conn.gate.lock();
            state.gate.end();
            core.count_outstanding(-(state.gate.len() as i64));
            state.places = Places::default();
        }
        core.tree.drop_connection(conn.id);
        core.stats.add(Counter::Dropped, 1);
        core.stats.add(Counter::SentBytes, conn.sent.bytes.load(Ordering::Relaxed));
        core.gone.add(conn);
        core.submit_disconnected(conn.id, conn.session().map(|s| s.id));
        core.conns.remove(conn.id);
        self.per_address.release(conn.peer.ip());
        conn.cut();
        owned.input = Vec::new();
        tracing::trace!(peer = %owned.conn.peer, "connection ended");
    }

    /// Closes connections that never shook hands or whose client never takes the last answer, and touches the sessions of connections that this server
    /// itself does not read.
    fn sweep(&mut self, core: &Core, now: Instant) {
        self.next_sweep = now.plus_ms(limits::SWEEP_MS);
        let patience_ms = u64::from(core.settings.client.sessionless_timeout_ms);
        let mut late = Vec::new();
        for owned in self.conns.values() {
            match owned.state {
                State::Fresh if now.as_ms() > owned.accepted.as_ms() + patience_ms => {
                    late.push(owned.conn.id)
                }
                State::Closing if now.as_ms() > owned.closing_since.as_ms() + patience_ms => {
                    late.push(owned.conn.id)
                }
                // Held back by this server, not by a client that doesn't read its replies.
                State::Serving
                    if owned.conn.paused.load(Ordering::Relaxed)
                        && owned.conn.unsent() < limits::OUTBOX_PAUSE =>
                {
                    if let Some(s) = owned.conn.session() {
                        s.touch.touch(now);
                    }
                }
                _ => {}
            }
        }
        for id in late {
            if self.conns.get(&id).is_some_and(|o| o.state == State::Fresh) {
                core.stats.add(Counter::SessionlessExpired, 1);
            }
            self.drop_conn(core, id);
        }
        if self.listener.is_some() {
            self.rearm_listener();
        }
        core.log.watch(now);
    }
}

impl Owned {
    /// Counts what the turn took, and writes out what it answered. Returns the time.
    fn finish_turn(&mut self, core: &Core, now: Instant) -> Instant {
        let Taken { at, since, reads, pings, later, run } = self.taken;
        core.count_outstanding(later);
        if let Some((op, n)) = run {
            core.stats.operations_asked(op, n);
        }
        self.tally.flush(&core.namespaces);
        core.stats.stage(Stage::Decode, now, at, since);
        if reads + pings == 0 {
            self.conn.flush();
            return at;
        }
        let answered = core.lap_clock(at);
        let ns = answered.0.saturating_sub(now.0);
        if core.requests.is_slow(ns) {
            core.requests.slow_read(core, &self.conn, &[], ns, vec![(Stage::Decode, ns)]);
        }
        core.stats.replied(Measure::Read, ns, reads);
        core.stats.replied(Measure::Other, answered.0.saturating_sub(now.0), pings);
        self.conn.flush();
        let flushed = core.lap_clock(answered);
        core.stats.stage(Stage::Reply, answered, flushed, reads + pings);
        flushed
    }

    /// One more request of this turn is taken.
    fn take(&mut self, core: &Core, now: Instant) {
        if self.taken.since == REQUESTS_PER_CLOCK {
            core.stats.stage(Stage::Decode, now, self.taken.at, REQUESTS_PER_CLOCK);
            self.taken.at = core.lap_clock(self.taken.at);
            self.taken.since = 0;
        }
        self.taken.since += 1;
    }

    /// Reads the socket once and runs the frames. Returns whether there may be more to read.
    fn read(&mut self, core: &Core, now: Instant, scratch: &mut [u8]) -> (After, bool) {
        if self.conn.is_cut() {
            return (After::Drop, false);
        }
        if self.conn.is_closing() {
            self.close(now);
        } else if self.state == State::Connecting && self.conn.session().is_some() {
            self.state = State::Serving;
        }
        // What is kept from before goes first: the connection may have been paused in the middle of it.
        if !self.input.is_empty() {
            let input = std::mem::take(&mut self.input);
            let (after, used) = self.run_frames(core, now, &input);
            self.keep_input(input, used);
            if after == After::Drop {
                return (After::Drop, false);
            }
        }
        if self.state == State::Closing {
            // Nothing more is run, but the end must be seen: read and forget.
            return match self.conn.stream().read(scratch) {
                // A client that has closed its side may still read the answer.
                Ok(0) if self.conn.unsent() > 0 => (After::Keep, false),
                Ok(0) => (After::Drop, false),
                Ok(_) => (After::Keep, true),
                Err(e) if e.kind() == ErrorKind::WouldBlock => (After::Keep, false),
                Err(_) => (After::Drop, false),
            };
        }
        if self.is_paused() {
            return (After::Keep, false);
        }
        let n = match self.conn.stream().read(scratch) {
            Ok(0) => return (After::Drop, false),
            Ok(n) => n,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return (After::Keep, false),
            Err(e) if e.kind() == ErrorKind::Interrupted => return (After::Keep, true),
            Err(_) => return (After::Drop, false),
        };
        let more = n == scratch.len() || self.ended;
        let after = if self.input.is_empty() {
            let (after, used) = self.run_frames(core, now, &scratch[..n]);
            self.input.extend_from_slice(&scratch[used..n]);
            after
        } else {
            self.input.extend_from_slice(&scratch[..n]);
            let input = std::mem::take(&mut self.input);
            let (after, used) = self.run_frames(core, now, &input);
            self.keep_input(input, used);
            after
        };
        // Pausing loses the socket's edge: whoever resumes the connection reads it again.
        (after, more && !self.is_paused())
    }

    /// Nothing more is read: what was written has a while to leave.
    fn close(&mut self, now: Instant) {
        if self.state != State::Closing {
            self.state = State::Closing;
            self.input = Vec::new();
            self.closing_since = now;
        }
    }

    /// The unused end of the input stays; a buffer that one large frame has grown does not.
    fn keep_input(&mut self, mut input: Vec<u8>, used: usize) {
        input.drain(..used);
        if input.is_empty() && input.capacity() > limits::OUTBOX_KEEP {
            input = Vec::new();
        }
        self.input = input;
    }

    fn is_paused(&self) -> bool {
        self.state == State::Connecting || self.conn.paused.load(Ordering::Relaxed)
    }

    /// Runs the whole frames in `bytes`; returns how many bytes were used.
    fn run_frames(&mut self, core: &Core, now: Instant, bytes: &[u8]) -> (After, usize) {
        let mut at = 0;
        loop {
            let rest = &bytes[at..];
            if self.state == State::Connecting {
                break;
            }
            if self.conn.is_closing() {
                self.close(now);
            }
            if self.state == State::Closing {
                at = bytes.len();
                break;
            }
            let Some(head) = rest.first_chunk::<4>() else { break };
            if self.state == State::Fresh
                && let Some(word) = fourletter::Word::parse(head)
            {
                if !word.is_complete(rest) {
                    break;
                }
                fourletter::answer(core, &self.conn, word, rest);
                self.conn.close_when_flushed();
                continue;
            }
            let len = i32::from_be_bytes(*head);
            let Some(len) = usize::try_from(len).ok().filter(|&l| l <= core.frame_max) else {
                core.stats.add(Counter::TooLarge, 1);
                tracing::debug!(peer = %self.conn.peer, len, "frame length outside the limit, closing");
                return (After::Drop, at);
            };
            let Some(payload) = rest.get(4..4 + len) else {
                break;
            };
            core.stats.received(4 + len);
            self.conn.stats.received(4 + len);
            if self.state == State::Fresh {
                match ConnectRequest::decode(payload) {
                    Ok(_) if !core.is_serving() => {
                        // There is no leader, or none is known yet: the client tries another server.
                        tracing::debug!(peer = %self.conn.peer, "not serving clients now, closing");
                        core.stats.add(Counter::NotServed, 1);
                        return (After::Drop, at);
                    }
                    Ok(request) => {
                        core.stats.add(Counter::Handshakes, 1);
                        core.stats.add(Counter::Resumptions, u64::from(request.session != SessionId::NONE));
                        core.stats.operations_asked(OpCode::CreateSession, 1);
                        self.conn.gate.lock().read_only = request.read_only;
                        self.state = State::Connecting;
                        core.submit_connect(self.conn.id, &request);
                        at += 4 + len;
                        // The rest waits until the node has answered.
                        break;
                    }
                    Err(e) => {
                        tracing::debug!(peer = %self.conn.peer, error = %e, "not a handshake, closing");
                        return (After::Drop, at);
                    }
                }
            }
            let write = is_write(payload);
            if !self.may_go_on(core, write) {
                self.conn.paused.store(true, Ordering::Release);
                // The reason to pause may have gone between the look and the mark.
                if !self.may_go_on(core, write) {
                    break;
                }
                self.conn.paused.store(false, Ordering::Release);
            }
            if self.run_request(core, now, payload) == After::Drop {
                return (After::Drop, at);
            }
            at += 4 + len;
        }
        (After::Keep, at)
    }

    /// Whether another request may be taken. A log that can't keep up holds back writes; reads and pings live on.
    fn may_go_on(&self, core: &Core, write: bool) -> bool {
        !(write && core.is_saturated())
            && self.conn.unsent() < limits::OUTBOX_PAUSE
            && !self.conn.gate.lock().gate.is_full()
    }

    fn run_request(&mut self, core: &Core, now: Instant, payload: &[u8]) -> After {
        let mut r = Reader::with_max_len(payload, 2 * core.frame_max);
        let Ok(header) = RequestHeader::decode(&mut r) else { return After::Drop };
        let body = r.rest();
        self.take(core, now);
        let Some(op) = OpCode::from_wire(header.op) else { return self.refuse_unknown(core, header.xid) };
        match &mut self.taken.run {
            Some((of, n)) if *of == op => *n += 1,
            run => {
                if let Some((of, n)) = run.replace((op, 1)) {
                    core.stats.operations_asked(of, n);
                }
            }
        }
        let conn = &*self.conn;
        let Some(session) = conn.session() else { return After::Drop };
        if !matches!(op, OpCode::Auth | OpCode::Sasl) {
            session.touch.touch(now);
        }
        match op {
            OpCode::Auth => return self.handle_auth(core, header.xid, &mut r),
            OpCode::Sasl => {
                // SASL is not configured: Apache answers with a null token and goes on.
                if !matches!(r.buffer(), Ok(Some(_))) {
                    return After::Drop;
                }
                conn.append_sasl_answer(header.xid);
                return After::Keep;
            }
            OpCode::Check | OpCode::DeleteContainer | OpCode::CreateSession => {
                return self.refuse_unknown(core, header.xid);
            }
            _ => {}
        }
        let mut state = conn.gate.lock();
        let needs_log = op != OpCode::CloseSession || !session.touch.is_local();
        let ordered = match op {
            OpCode::Sync => match r.string() {
                Ok(path) if !core.is_log_full() => {
                    state.gate.admit_ordered(header.xid, header.op, now);
                    core.submit_sync(conn.id, session.id, header.xid, path.as_deref().unwrap_or(""));
                    true
                }
                _ => false,
            },
            _ => match WriteOp::decode(op, &mut r) {
                Some(Ok(write)) if !(needs_log && core.is_log_full()) => {
                    if core.settings.operations.audit
                        && let Some(note) = Note::of(&write)
                    {
                        state.audit.push_back((header.xid, note));
                    }
                    state.gate.admit_ordered(header.xid, header.op, now);
                    let (at, xid) = (self.taken.at, header.xid);
                    conn.with_identity(|i| core.submit_write(at, conn.id, session.id, xid, i, op, body));
                    true
                }
                _ => false,
            },
        };
        let counted = core.stats.is_detailed() && self.tally.enter(op, body, &core.namespaces);
        if ordered {
            self.taken.later += 1;
            state.places.admit(counted.then(|| self.tally.name()));
            if counted {
                self.tally.write(payload.len() as u64);
            }
            if op == OpCode::CloseSession {
                self.state = State::Closing;
                // Its answer may have to wait for the log.
                self.closing_since = now;
            }
        } else if state.gate.is_open() {
            match core.answer_locally(conn, payload, now, self.taken.at) {
                Measure::Other => self.taken.pings += 1,
                _ => self.taken.reads += 1,
            }
            if counted {
                self.tally.read(conn.outlet.sent.appended.load(Ordering::Relaxed));
            }
        } else {
            self.taken.later += 1;
            core.stats.measure(Measure::BehindWrites, state.gate.len() as u64, 1);
            // Counted when it is answered, maybe by another thread.
            state.gate.admit_local(payload, now);
            state.places.admit(counted.then(|| self.tally.name()));
        }
        After::Keep
    }

    /// An operation that no client may send: an error that names no zxid, then the end.
    fn refuse_unknown(&mut self, core: &Core, xid: Xid) -> After {
        self.conn.append_with(|out| put_header_reply(out, xid, -1, Code::Unimplemented.wire()));
        core.stats.replied(Measure::Other, 0, 1);
        self.conn.close_when_flushed();
        self.close(core.clock().mono());
        After::Keep
    }

    fn handle_auth(&mut self, core: &Core, xid: Xid, r: &mut Reader<'_>) -> After {
        let Ok(packet) = AuthPacket::decode(r) else { return After::Drop };
        let proved =
            engine::acl::authenticate(&packet.scheme, packet.auth, self.conn.peer.ip(), &core.schemes)
                .and_then(|ids| self.conn.identity().gain(ids));
        match proved {
            Ok(identity) => {
                self.conn.set_identity(identity);
                self.conn.append_with(|out| put_header_reply(out, xid, 0, 0));
            }
            Err(_) => {
                core.stats.add(Counter::AuthFailed, 1);
                tracing::warn!(peer = %self.conn.peer, scheme = %packet.scheme, "authentication failed");
                self.conn.append_with(|out| put_header_reply(out, xid, 0, Code::AuthFailed.wire()));
                self.conn.close_when_flushed();
                self.close(core.clock().mono());
            }
        }
        core.stats.replied(Measure::Other, 0, 1);
        After::Keep
    }
}

/// Whether the payload of a frame asks for a write.
fn is_write(payload: &[u8]) -> bool {
    let mut r = Reader::new(payload);
    let op = RequestHeader::decode(&mut r).ok().and_then(|h| OpCode::from_wire(h.op));
    op.is_some_and(|op| WriteOp::decode(op, &mut Reader::new(&[])).is_some())
}

impl Conn {
    /// Appends what `fill` writes.
    pub fn append_with(&self, fill: impl Fn(&mut Vec<u8>)) {
        engine::Outbox::append(self, &mut |out| fill(out));
    }

    fn append_sasl_answer(&self, xid: Xid) {
        self.append_with(|out| {
            let at = begin_frame(out);
            proto::client::put_reply_header(out, xid, Zxid::ZERO, 0);
            proto::jute::Put::put_buffer(out, None);
            end_frame(out, at);
        });
    }
}
