//! The loop that drives many connections from one thread, cheap enough that the server is the bottleneck.
//!
//! ```text
//!   epoll ── read as much as there is ── replies, in order ── Job::reply   what came back
//!                                              │
//!   one write ◄── frames copied from templates ◄── Job::issue              what goes out next
//! ```
//!
//! One read and one write serve all the requests that a connection has in flight; a clock is read per batch,
//! not per request. Connections that nothing has come back to cost nothing. Requests of one connection are answered in their order, so a ring of send times is all
//! the book-keeping there is.
//!
//! With [`Pace::arrival`] the kernel's stamp of each arrival counts instead of the clock when it is read, and nothing is
//! read before half the time to the next request has gone: what clients on machines of their own would see.

use hdrhistogram::Histogram;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};
use proto::client::OpCode;
use rustix::event::epoll;
use rustix::time::{ClockId, Timespec, clock_gettime};
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSliceMut, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The bytes read at once, and the largest reply that is expected; a larger one makes the buffer grow.
const READ_BUFFER: usize = 256 << 10;
/// Events taken from epoll at once.
const EVENTS_MAX: usize = 256;
/// Told once of what arrives: that costs the kernel no second look at a socket that has been read empty.
const READABLE: epoll::EventFlags = epoll::EventFlags::IN.union(epoll::EventFlags::ET);
/// The longest sleep: phases and pings are looked at this often.
const TICK_NS: u64 = 50_000_000;
/// The shortest sleep between two looks at what is due: requests of a high rate leave in small groups, which
/// costs them less latency than the CPU time of a wake-up for each would cost the server.
const SLEEP_MIN_NS: u64 = 50_000;
/// A frame larger than this is no reply.
const FRAME_MAX: usize = 256 << 20;
/// The shortest and longest latency that is told apart, in ns.
const LATENCY_NS: (u64, u64) = (1_000, 1_000_000_000_000);

/// What a request is, for the report.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Kind {
    /// A create.
    Create,
    /// A setData.
    Set,
    /// A getData.
    Get,
    /// A multi.
    Multi,
    /// A delete.
    Delete,
    /// Not a request: a watch event, measured from the sending of the change.
    Event,
    /// Not a request either: the event that was the last of its change, so the time until everybody had heard.
    Everybody,
    /// Part of the set-up, not reported.
    Silent,
}

impl Kind {
    /// All kinds that are reported.
    pub const REPORTED: [Kind; 7] =
        [Kind::Create, Kind::Set, Kind::Get, Kind::Multi, Kind::Delete, Kind::Event, Kind::Everybody];

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Create => "create",
            Kind::Set => "set",
            Kind::Get => "get",
            Kind::Multi => "multi",
            Kind::Delete => "delete",
            Kind::Event => "event",
            Kind::Everybody => "everybody",
            Kind::Silent => "set-up",
        }
    }
}

/// What a load does. Connections are numbered through over all threads.
pub trait Job {
    /// Appends the next request of `conn` with this xid, or `None` while it has nothing to send.
    fn issue(&mut self, conn: usize, xid: i32, now: u64, out: &mut Vec<u8>) -> Option<Kind>;

    /// The reply to the oldest request of `conn`: 0 or an error code, and the body behind the head.
    fn reply(&mut self, conn: usize, kind: Kind, err: i32, body: &[u8]);

    /// A watch event came at `_at`; returns its cause, to be measured.
    fn event(&mut self, _conn: usize, _at: u64) -> Option<Cause> {
        None
    }

    /// A connection that may have something to send although nothing came back to it.
    fn awakened(&mut self) -> Option<usize> {
        None
    }

    /// Whether a fixed rate applies to this connection's requests.
    fn is_paced(&self, _conn: usize) -> bool {
        true
    }

    /// Requests that must not go out any more: the time is over.
    fn stop(&mut self) {}

    /// All work is done, before the time is over.
    fn done(&self) -> bool {
        false
    }
}

/// What a watch event tells of.
#[derive(Clone, Copy, Debug)]
pub struct Cause {
    /// When the change was sent.
    pub sent: u64,
    /// When the last of those who watch heard of it, once everybody has.
    pub last: Option<u64>,
}

/// How a load is driven. Times are in ns from `start`.
#[derive(Clone, Debug)]
pub struct Pace {
    /// When everything began; shared by all threads.
    pub start: Instant,
    /// Requests in flight per connection, at most.
    pub outstanding: usize,
    /// Requests per second and paced connection; `None`: as fast as replies come.
    pub rate_per_conn: Option<f64>,
    /// The spread of the first requests of paced connections: how many there are in all threads.
    pub paced_conns: usize,
    /// When measuring begins.
    pub measure_from: u64,
    /// When measuring ends and no more requests are sent.
    pub end: u64,
    /// How long to wait for outstanding replies afterwards.
    pub drain: u64,
    /// The width of one point of the timeline.
    pub interval: u64,
    /// Replies of all threads so far, for whoever watches.
    pub answered: Arc<AtomicU64>,
    /// A reply counts when it reaches this machine, and is read later, to take no CPU from the server; with a rate.
    pub arrival: bool,
}

/// What one thread measured.
#[derive(Debug)]
pub struct Measured {
    /// Latency in ns per kind, of successful requests.
    pub latency: Vec<Histogram<u64>>,
    /// How late requests left compared with their intended time, in ns; empty without a rate.
    pub lag: Histogram<u64>,
    /// All kinds, per interval of the timeline.
    pub timeline: Vec<Histogram<u64>>,
    /// Failed requests per error code.
    pub errors: BTreeMap<i32, u64>,
    /// Requests whose reply never came, and requests of a fixed rate that could not even be sent.
    pub unanswered: u64,
    /// Connections that broke, and why the last one did.
    pub lost: u64,
    /// Why the last connection broke.
    pub lost_why: Option<String>,
    /// CPU time of this thread while measuring.
    pub cpu: Duration,
}

impl Measured {
    fn new() -> Measured {
        Measured {
            latency: (0..=Kind::Silent as usize).map(|_| fine()).collect(),
            lag: fine(),
            timeline: Vec::new(),
            errors: BTreeMap::new(),
            unanswered: 0,
            lost: 0,
            lost_why: None,
            cpu: Duration::ZERO,
        }
    }

    /// Adds what another thread measured.
    pub fn merge(&mut self, other: Measured) {
        let same = "all histograms are made with the same bounds";
        for (mine, theirs) in self.latency.iter_mut().zip(&other.latency) {
            mine.add(theirs).expect(same);
        }
        self.lag.add(&other.lag).expect(same);
        for (i, theirs) in other.timeline.into_iter().enumerate() {
            match self.timeline.get_mut(i) {
                Some(mine) => mine.add(&theirs).expect(same),
                None => self.timeline.push(theirs),
            }
        }
        for (code, n) in other.errors {
            *self.errors.entry(code).or_default() += n;
        }
        self.unanswered += other.unanswered;
        self.lost += other.lost;
        self.lost_why = self.lost_why.take().or(other.lost_why);
        self.cpu += other.cpu;
    }
}

fn fine() -> Histogram<u64> {
    Histogram::new_with_bounds(LATENCY_NS.0, LATENCY_NS.1, 3).expect("the bounds are valid")
}

fn coarse() -> Histogram<u64> {
    Histogram::new_with_bounds(LATENCY_NS.0, LATENCY_NS.1, 2).expect("the bounds are valid")
}

/// One connection, driven by the loop.
#[derive(Debug)]
pub struct Conn {
    /// Its number over all threads.
    id: usize,
    stream: TcpStream,
    out: Vec<u8>,
    out_at: usize,
    /// The beginning of a reply whose end has not come yet.
    partial: Vec<u8>,
    pending: VecDeque<Pending>,
    xid: i32,
    xid_expected: i32,
    /// When the next request is intended to leave, with a fixed rate.
    due: f64,
    last_sent: u64,
    ping_every: u64,
    waits_for_room: bool,
    alive: bool,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    at: u64,
    kind: Kind,
}

impl Conn {
    /// Takes over the socket of a session whose replies have all been read.
    ///
    /// # Errors
    /// When the socket can't be made non-blocking.
    pub fn new(id: usize, stream: TcpStream, session_timeout: Duration) -> io::Result<Conn> {
        stream.set_nonblocking(true)?;
        Ok(Conn {
            id,
            stream,
            out: Vec::new(),
            out_at: 0,
            partial: Vec::new(),
            pending: VecDeque::new(),
            xid: XID_BASE,
            xid_expected: XID_BASE,
            due: 0.0,
            last_sent: 0,
            ping_every: session_timeout.as_nanos() as u64 / 3,
            waits_for_room: false,
            alive: true,
        })
    }

    /// Ends the session and waits for the server's word, so that ephemerals are gone and nothing is left to
    /// time out.
    pub fn close(mut self) {
        let mut out = Vec::new();
        super::wire::request(&mut out, self.xid, OpCode::CloseSession, |_| ());
        // A server that is gone forgets the session by itself.
        let _ = self
            .stream
            .set_nonblocking(false)
            .and_then(|()| self.stream.set_read_timeout(Some(CLOSE_PATIENCE)))
            .and_then(|()| self.stream.write_all(&out))
            .and_then(|()| io::copy(&mut self.stream, &mut io::sink()));
    }
}

/// How long the server may take to close a session.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// Where the xids of a driven connection start; far from those of the set-up.
const XID_BASE: i32 = 1_000_000;
const XID_PING: i32 = -2;
const XID_EVENT: i32 = -1;

fn next_xid(xid: &mut i32) -> i32 {
    let this = *xid;
    *xid = if this == i32::MAX { XID_BASE } else { this + 1 };
    this
}

/// Drives a job over its connections until it is done or its time is over.
#[derive(Debug)]
pub struct Engine<J> {
    job: J,
    pace: Pace,
    conns: Vec<Conn>,
    measured: Measured,
    stopped: bool,
    ep: OwnedFd,
}

impl<J: Job> Engine<J> {
    /// An engine for these connections.
    ///
    /// # Errors
    /// When the local machine refuses an epoll instance.
    pub fn new(job: J, pace: Pace, conns: Vec<Conn>) -> io::Result<Engine<J>> {
        let ep = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Engine { job, pace, conns, measured: Measured::new(), stopped: false, ep })
    }

    /// Runs to the end; gives back the connections that are still alive.
    ///
    /// # Errors
    /// When the local machine refuses (epoll). Lost connections are counted, not errors.
    pub fn run(mut self) -> io::Result<(J, Measured, Vec<Conn>)> {
        for (i, c) in self.conns.iter_mut().enumerate() {
            epoll::add(&self.ep, &c.stream, epoll::EventData::new_u64(i as u64), READABLE)?;
            if self.pace.arrival {
                setsockopt(&c.stream, sockopt::ReceiveTimestampns, &true)?;
            }
            if let Some(rate) = self.pace.rate_per_conn {
                // Spread evenly: the connections of a machine don't beat in step.
                c.due = 1e9 / rate * c.id as f64 / self.pace.paced_conns as f64;
            }
        }
        if self.pace.rate_per_conn.is_some() {
            // Sleep precisely: the default slack of 50 µs would be measured as latency.
            let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1_000));
        }
        // All others send only when something has come back to them.
        let is_paced = |c: &Conn| self.pace.rate_per_conn.is_some() && self.job.is_paced(c.id);
        let paced: Vec<usize> = (0..self.conns.len()).filter(|&i| is_paced(&self.conns[i])).collect();
        let mut buffer = vec![0; READ_BUFFER];
        let mut events = Vec::with_capacity(EVENTS_MAX);
        let mut cpu_from = None;
        let mut cpu_to = None;
        let mut first = true;
        loop {
            let now = self.now();
            if cpu_from.is_none() && now >= self.pace.measure_from {
                cpu_from = Some(thread_cpu());
            }
            if now >= self.pace.end && !self.stopped {
                cpu_to = Some(thread_cpu());
                self.stopped = true;
                self.job.stop();
            }
            if self.finished(now) {
                break;
            }
            if std::mem::take(&mut first) {
                for i in 0..self.conns.len() {
                    self.pump(i, now)?;
                }
            }
            let wake = self.pump_paced(&paced)?;
            if self.pace.arrival {
                let early = self.reads_from(&paced).saturating_sub(self.now());
                std::thread::sleep(Duration::from_nanos(early.min(TICK_NS)));
                if early > TICK_NS {
                    self.ping_idle()?;
                    continue;
                }
            }
            events.clear();
            let now = self.now();
            let sleep = wake.saturating_sub(now).min(TICK_NS);
            let timeout = Timespec { tv_sec: 0, tv_nsec: i64::try_from(sleep).expect("at most a tick") };
            match epoll::wait(&self.ep, rustix::buffer::spare_capacity(&mut events), Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
            if events.is_empty() && sleep == TICK_NS {
                self.ping_idle()?;
            }
            let now = self.now();
            for e in &events {
                let i = e.data.u64() as usize;
                let flags = e.flags;
                if flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR) {
                    self.receive(i, &mut buffer);
                    while let Some(id) = self.job.awakened() {
                        if let Some(other) = self.conns.iter().position(|c| c.id == id) {
                            self.pump(other, now)?;
                        }
                    }
                }
                self.pump(i, now)?;
            }
        }
        let cpu_to = cpu_to.unwrap_or_else(thread_cpu);
        self.measured.cpu = cpu_from.map_or(Duration::ZERO, |from| cpu_to.saturating_sub(from));
        self.measured.unanswered =
            self.conns.iter().map(|c| c.pending.len() as u64).sum::<u64>() + self.unsent();
        let alive = self.conns.into_iter().filter(|c| c.alive && c.pending.is_empty()).collect();
        Ok((self.job, self.measured, alive))
    }

    fn now(&self) -> u64 {
        self.pace.start.elapsed().as_nanos() as u64
    }

    fn finished(&self, now: u64) -> bool {
        if !self.conns.iter().any(|c| c.alive) {
            return true;
        }
        let idle = || self.conns.iter().all(|c| !c.alive || c.pending.is_empty());
        if self.stopped {
            return now >= self.pace.end.saturating_add(self.pace.drain) || (idle() && self.unsent() == 0);
        }
        self.job.done() && idle()
    }

    /// Requests of a fixed rate that were due before the end and have not been sent.
    fn unsent(&self) -> u64 {
        let Some(rate) = self.pace.rate_per_conn else { return 0 };
        if self.job.done() {
            return 0;
        }
        let behind = |c: &Conn| ((self.pace.end as f64 - c.due) * rate / 1e9).ceil().max(0.0) as u64;
        self.conns.iter().filter(|c| self.job.is_paced(c.id)).map(behind).sum()
    }

    /// Sends what is due on the connections with a fixed rate; returns when the next request is due.
    fn pump_paced(&mut self, paced: &[usize]) -> io::Result<u64> {
        let mut wake = u64::MAX;
        let now = self.now();
        for &i in paced {
            if self.conns[i].due <= now as f64 {
                self.pump(i, now)?;
            }
            let c = &self.conns[i];
            let blocked = c.pending.len() >= self.pace.outstanding || !c.alive;
            if !blocked && c.due < self.pace.end as f64 {
                wake = wake.min(c.due as u64 + 1);
            }
        }
        Ok(wake.max(now + SLEEP_MIN_NS))
    }

    /// When what has arrived is read, so that reading takes no CPU from the server: half-way to the next request.
    fn reads_from(&self, paced: &[usize]) -> u64 {
        let next = paced.iter().map(|&i| self.conns[i].due).fold(f64::INFINITY, f64::min);
        self.pace.rate_per_conn.map_or(0, |rate| (next - 0.5e9 / rate).max(0.0) as u64)
    }

    /// Fills the connection up to its limit and writes.
    fn pump(&mut self, i: usize, now: u64) -> io::Result<()> {
        let c = &mut self.conns[i];
        if !c.alive {
            return Ok(());
        }
        if c.pending.len() < self.pace.outstanding && c.out.is_empty() {
            let interval_ns = match self.pace.rate_per_conn {
                Some(rate) if self.job.is_paced(c.id) => Some(1e9 / rate),
                _ => None,
            };
            while c.pending.len() < self.pace.outstanding {
                let mut at = now;
                if interval_ns.is_some() {
                    if c.due > now as f64 || c.due >= self.pace.end as f64 {
                        break;
                    }
                    at = c.due as u64;
                } else if self.stopped {
                    break;
                }
                let Some(kind) = self.job.issue(c.id, c.xid, now, &mut c.out) else { break };
                next_xid(&mut c.xid);
                if let Some(interval) = interval_ns {
                    c.due += interval;
                    if at >= self.pace.measure_from {
                        self.measured.lag.saturating_record(now - at);
                    }
                }
                c.pending.push_back(Pending { at, kind });
            }
            if !c.out.is_empty() {
                c.last_sent = now;
            }
        }
        if !c.out.is_empty()
            && let Err(e) = flush(c, &self.ep, i)
        {
            self.lose(i, &e);
        }
        Ok(())
    }

    fn ping_idle(&mut self) -> io::Result<()> {
        let now = self.now();
        for i in 0..self.conns.len() {
            let c = &mut self.conns[i];
            if c.alive && now.saturating_sub(c.last_sent) > c.ping_every && c.out.is_empty() {
                super::wire::request(&mut c.out, XID_PING, OpCode::Ping, |_| ());
                c.last_sent = now;
                if let Err(e) = flush(c, &self.ep, i) {
                    self.lose(i, &e);
                }
            }
        }
        Ok(())
    }

    /// Reads what there is and handles every whole reply.
    fn receive(&mut self, i: usize, buffer: &mut Vec<u8>) {
        loop {
            let c = &mut self.conns[i];
            if !c.alive {
                return;
            }
            let kept = c.partial.len();
            if buffer.len() < kept + READ_BUFFER / 2 {
                buffer.resize(kept + READ_BUFFER, 0);
            }
            buffer[..kept].copy_from_slice(&c.partial);
            c.partial.clear();
            let came = match self.pace.arrival {
                true => read_stamped(&c.stream, &mut buffer[kept..], self.pace.start),
                false => c.stream.read(&mut buffer[kept..]).map(|n| (n, None)),
            };
            let (end, more, arrived) = match came {
                Ok((0, _)) => return self.lose(i, &io::Error::from(io::ErrorKind::UnexpectedEof)),
                Ok((n, arrived)) => (kept + n, kept + n == buffer.len(), arrived),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => (kept, false, None),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => (kept, true, None),
                Err(e) => return self.lose(i, &e),
            };
            let now = arrived.unwrap_or_else(|| self.now());
            match self.replies(i, &buffer[..end], now) {
                Ok(consumed) => self.conns[i].partial.extend_from_slice(&buffer[consumed..end]),
                Err(what) => return self.lose(i, &io::Error::new(io::ErrorKind::InvalidData, what)),
            }
            // Epoll tells of what arrives from here on.
            if !more {
                return;
            }
        }
    }

    /// Handles the whole frames in `bytes`; returns how many bytes they are.
    fn replies(&mut self, i: usize, bytes: &[u8], now: u64) -> Result<usize, String> {
        let c = &mut self.conns[i];
        let measuring = now >= self.pace.measure_from && now < self.pace.end;
        // Equal neighbours are recorded together: the replies of one batch share their times.
        let mut run = Run { pending: Pending { at: 0, kind: Kind::Silent }, n: 0 };
        let mut at = 0;
        let mut answered = 0;
        while let Some(head) = bytes.get(at..at + 4 + 16) {
            let word = |from: usize| {
                i32::from_be_bytes([head[from], head[from + 1], head[from + 2], head[from + 3]])
            };
            let len = word(0) as u32 as usize;
            if !(16..=FRAME_MAX).contains(&len) {
                return Err(format!("a reply of {len} bytes"));
            }
            let Some(body) = bytes.get(at + 4 + 16..at + 4 + len) else { break };
            at += 4 + len;
            match word(4) {
                XID_PING => continue,
                XID_EVENT => {
                    if let Some(cause) = self.job.event(c.id, now)
                        && measuring
                    {
                        record(&mut self.measured, &self.pace, now, Kind::Event, cause.sent, 1);
                        if let Some(last) = cause.last {
                            self.measured.latency[Kind::Everybody as usize]
                                .saturating_record(last - cause.sent);
                        }
                    }
                    continue;
                }
                _ => {}
            }
            let expected = next_xid(&mut c.xid_expected);
            let Some(pending) = c.pending.pop_front() else {
                return Err(format!("a reply with xid {} that no request asked for", word(4)));
            };
            if word(4) != expected {
                return Err(format!("the reply with xid {} came where {expected} was due", word(4)));
            }
            let err = match word(16) {
                0 if pending.kind == Kind::Multi => super::wire::multi_error(body),
                err => err,
            };
            answered += 1;
            self.job.reply(c.id, pending.kind, err, body);
            // With a fixed rate an answer counts by the time its request was meant for, however late it comes.
            let counts = match self.pace.rate_per_conn {
                Some(_) => pending.at >= self.pace.measure_from && pending.at < self.pace.end,
                None => measuring,
            };
            if !counts || pending.kind == Kind::Silent {
                continue;
            }
            if err != 0 {
                *self.measured.errors.entry(err).or_default() += 1;
                continue;
            }
            if run.n > 0 && run.pending.at == pending.at && run.pending.kind == pending.kind {
                run.n += 1;
                continue;
            }
            run.record(&mut self.measured, &self.pace, now);
            run = Run { pending, n: 1 };
        }
        run.record(&mut self.measured, &self.pace, now);
        self.pace.answered.fetch_add(answered, Ordering::Relaxed);
        Ok(at)
    }

    fn lose(&mut self, i: usize, why: &io::Error) {
        let c = &mut self.conns[i];
        c.alive = false;
        // Whatever refuses here, the socket is of no more use.
        let _ = epoll::delete(&self.ep, &c.stream);
        let _ = c.stream.shutdown(std::net::Shutdown::Both);
        self.measured.lost += 1;
        self.measured.lost_why = Some(match why.kind() {
            io::ErrorKind::UnexpectedEof => "closed by the server".into(),
            _ => why.to_string(),
        });
    }
}

struct Run {
    pending: Pending,
    n: u64,
}

impl Run {
    fn record(&self, measured: &mut Measured, pace: &Pace, now: u64) {
        if self.n > 0 {
            record(measured, pace, now, self.pending.kind, self.pending.at, self.n);
        }
    }
}

fn record(measured: &mut Measured, pace: &Pace, now: u64, kind: Kind, sent: u64, n: u64) {
    let latency = now.saturating_sub(sent);
    measured.latency[kind as usize].saturating_record_n(latency, n);
    // Answers in the drain belong to the last interval.
    let this = (now.min(pace.end - 1).saturating_sub(pace.measure_from)) / pace.interval;
    while measured.timeline.len() <= this as usize {
        measured.timeline.push(coarse());
    }
    measured.timeline[this as usize].saturating_record_n(latency, n);
}

/// Writes what is buffered; asks epoll for room when the socket is full.
fn flush(c: &mut Conn, ep: &OwnedFd, i: usize) -> io::Result<()> {
    while c.out_at < c.out.len() {
        match c.stream.write(&c.out[c.out_at..]) {
            Ok(n) => c.out_at += n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    let full = c.out_at < c.out.len();
    if !full {
        c.out.clear();
        c.out_at = 0;
    }
    if full != c.waits_for_room {
        c.waits_for_room = full;
        let mut flags = READABLE;
        flags.set(epoll::EventFlags::OUT, full);
        epoll::modify(ep, &c.stream, epoll::EventData::new_u64(i as u64), flags)?;
    }
    Ok(())
}

/// Reads like `read`; with it comes when the last byte reached this machine, in ns from `start`.
fn read_stamped(stream: &TcpStream, into: &mut [u8], start: Instant) -> io::Result<(usize, Option<u64>)> {
    let mut space = nix::cmsg_space!(nix::sys::time::TimeSpec);
    let mut into = [IoSliceMut::new(into)];
    let came = recvmsg::<()>(stream.as_raw_fd(), &mut into, Some(&mut space), MsgFlags::empty())?;
    let stamp = came.cmsgs()?.find_map(|c| match c {
        ControlMessageOwned::ScmTimestampns(t) => Some(Duration::from(t)),
        _ => None,
    });
    // The stamp is of the clock that can be set, so its age counts; nothing arrives before the start.
    let now = start.elapsed();
    let age = stamp.and_then(|t| SystemTime::now().duration_since(UNIX_EPOCH + t).ok());
    Ok((came.bytes, age.map(|age| now.saturating_sub(age).as_nanos() as u64)))
}

fn thread_cpu() -> Duration {
    let t = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(t.tv_sec.max(0) as u64, t.tv_nsec.max(0) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_stamp_tells_of_the_arrival_and_not_of_the_reading() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        setsockopt(&stream, sockopt::ReceiveTimestampns, &true).unwrap();
        let start = Instant::now();
        std::thread::sleep(Duration::from_millis(5));
        let sent = start.elapsed();
        sender.write_all(b"event").unwrap();
        stream.peek(&mut [0; 5]).unwrap();
        let there = start.elapsed();
        std::thread::sleep(Duration::from_millis(200));
        let mut into = [0; 16];
        let (n, arrived) = read_stamped(&stream, &mut into, start).unwrap();
        let arrived = Duration::from_nanos(arrived.expect("the kernel stamps what it was asked to stamp"));
        assert_eq!(&into[..n], b"event");
        // The clocks of the stamp and of `start` are read one after the other, and the thread may stand still in between.
        let read = start.elapsed();
        assert!(arrived < there + (read - there) / 2, "{sent:?} {arrived:?} {there:?} {read:?}");
    }
}
