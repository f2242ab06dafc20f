//! One connection of the quorum port with the queue of what it has to carry.
//!
//! Packets go straight to the outlet while no job is under way; behind a job they wait, in order. What waits is bounded:
//! a learner that can't keep up is cut off, and comes back for a snapshot, rather than fill the leader's memory.

use crate::core::wall_now;
use crate::limits;
use crate::outlet::{Flush, Outlet};
use crate::peers::queue::{Queue, Run, Waited};
use parking_lot::{Condvar, Mutex};
use proto::{LinkId, ServerId, WallMs, Zxid};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// What takes long, and nothing else may be sent meanwhile.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Job {
    /// SNAP and the tree.
    Snapshot {
        /// To a Falconer.
        falconer: bool,
    },
    /// PROPOSAL and COMMIT of each record of the log in this range.
    Log {
        /// Behind this one.
        after: Zxid,
        /// The last one.
        upto: Zxid,
    },
}

/// One connection.
pub struct Link {
    /// Its name, never used again.
    pub id: LinkId,
    /// The address of the other side.
    pub peer: SocketAddr,
    /// The server that was dialled; `None`: it was accepted.
    pub dialled: Option<ServerId>,
    /// Who is at the other end of one that was accepted, as it says: for what is shown, never for what is decided.
    pub learner: OnceLock<ServerId>,
    /// Where it is counted how long packets wait here; of a configured learner.
    pub waited: OnceLock<Arc<Waited>>,
    /// When, by the wall clock.
    pub established: WallMs,
    /// Packets put into it, received, and of those requests of the learner's clients.
    pub counts: Counts,
    outlet: Outlet,
    lane: Mutex<Lane>,
    /// The socket has taken bytes, or is gone: a job goes on.
    drained: Condvar,
    /// The socket has bytes to read, or is gone: who reads a snapshot goes on.
    readable: (Mutex<bool>, Condvar),
}

#[derive(Default)]
struct Lane {
    /// A job is under way.
    busy: bool,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    waiting_packets: u64,
    /// What has gone into the outlet.
    queue: Queue,
}

enum Waiting {
    Bytes(Vec<u8>, Vec<Run>),
    Job(Job),
}

/// The other side takes nothing any more, or is gone.
#[derive(Debug)]
pub struct Stalled;

/// What a link has carried.
#[derive(Default)]
pub struct Counts {
    /// Packets for the other side.
    pub sent: AtomicU64,
    /// Packets from it.
    pub received: AtomicU64,
    /// Requests among those.
    pub requests: AtomicU64,
    /// The last zxid that was proposed to it, or that it was informed of.
    pub last: AtomicU64,
}

impl Counts {
    /// Begins anew, as `orst` does.
    pub fn reset(&self) {
        [&self.sent, &self.received, &self.requests].into_iter().for_each(|n| n.store(0, Relaxed));
    }
}

impl Link {
    /// A link over a connection just made.
    pub fn new(id: LinkId, peer: SocketAddr, dialled: Option<ServerId>, stream: mio::net::TcpStream) -> Link {
        Link {
            id,
            peer,
            dialled,
            learner: OnceLock::new(),
            waited: OnceLock::new(),
            established: wall_now(),
            counts: Counts::default(),
            outlet: Outlet::new(stream, peer, limits::LINK_UNSENT_MAX),
            lane: Mutex::default(),
            drained: Condvar::new(),
            readable: (Mutex::new(false), Condvar::new()),
        }
    }

    /// Puts `count` packets behind what is there; true when they are to be flushed.
    pub fn push(&self, packets: &[u8], count: u64) -> bool {
        let run = Run { packets: count, bytes: packets.len() as u64, since: Instant::now() };
        let mut lane = self.lane.lock();
        if !lane.busy {
            lane.queue.enter(run);
            self.outlet.append_with(&mut |out| out.extend_from_slice(packets));
            return true;
        }
        lane.waiting_packets += count;
        lane.waiting_bytes += packets.len();
        if lane.waiting_bytes > limits::LINK_UNSENT_MAX {
            drop(lane);
            tracing::warn!(peer = %self.peer, "cut off: too much was written while it was brought up to date");
            self.cut();
            return false;
        }
        match lane.waiting.back_mut() {
            Some(Waiting::Bytes(bytes, runs)) => {
                bytes.extend_from_slice(packets);
                let full = runs.len() == limits::LINK_RUNS;
                match runs.last_mut() {
                    // They count as if they had come with those before them.
                    Some(last) if full => {
                        last.packets += run.packets;
                        last.bytes += run.bytes;
                    }
                    _ => runs.push(run),
                }
            }
            _ => lane.waiting.push_back(Waiting::Bytes(packets.to_vec(), vec![run])),
        }
        false
    }

    /// Puts a job behind what is there; gives it back when it is to be begun now.
    pub fn push_job(&self, job: Job) -> Option<Job> {
        let mut lane = self.lane.lock();
        if lane.busy {
            lane.waiting.push_back(Waiting::Job(job));
            return None;
        }
        lane.busy = true;
        Some(job)
    }

    /// The job is done: what waited behind it goes on its way, up to the next job, which is given back.
    pub fn job_done(&self) -> Option<Job> {
        let mut lane = self.lane.lock();
        let next = loop {
            match lane.waiting.pop_front() {
                None => {
                    lane.busy = false;
                    break None;
                }
                Some(Waiting::Job(job)) => break Some(job),
                Some(Waiting::Bytes(bytes, runs)) => {
                    for run in runs {
                        lane.waiting_packets -= run.packets;
                        lane.queue.enter(run);
                    }
                    lane.waiting_bytes -= bytes.len();
                    self.outlet.append_with(&mut |out| out.extend_from_slice(&bytes));
                }
            }
        };
        drop(lane);
        self.flush();
        next
    }

    /// Writes bytes of the job that is under way, and waits while too many of them are unsent. `stall`: how long the other
    /// side may take nothing at all.
    pub fn write_job(&self, bytes: &[u8], stall: Duration) -> Result<(), Stalled> {
        self.lane.lock().queue.pass(bytes.len() as u64);
        self.outlet.append_with(&mut |out| out.extend_from_slice(bytes));
        self.flush();
        let mut unsent = self.outlet.unsent();
        let mut since = Instant::now();
        while unsent > limits::JOB_WINDOW {
            if self.outlet.is_cut() || since.elapsed() > stall {
                return Err(Stalled);
            }
            // The word that the socket takes bytes may come between the look and the wait: look again soon.
            let mut lane = self.lane.lock();
            self.drained.wait_for(&mut lane, Duration::from_millis(20));
            drop(lane);
            let now = self.outlet.unsent();
            if now < unsent {
                since = Instant::now();
            }
            unsent = now;
        }
        if self.outlet.is_cut() { Err(Stalled) } else { Ok(()) }
    }

    /// The socket takes bytes again.
    pub fn on_writable(&self) -> Flush {
        let flushed = self.outlet.on_writable();
        self.count_left();
        self.drained.notify_all();
        flushed
    }

    /// The socket may have something to read, for who reads a snapshot from it.
    pub fn on_readable(&self) {
        *self.readable.0.lock() = true;
        self.readable.1.notify_all();
    }

    /// Waits until there may be something to read; false when nothing has come for `patience`.
    pub fn wait_readable(&self, patience: Duration) -> bool {
        let mut readable = self.readable.0.lock();
        if !*readable {
            self.readable.1.wait_for(&mut readable, patience);
        }
        std::mem::take(&mut *readable)
    }

    /// Ends once everything that was pushed has left; at once when it stands still or a job is under way.
    pub fn close(&self) {
        if self.lane.lock().busy {
            return self.cut();
        }
        self.outlet.close_when_flushed();
        if self.outlet.flush() == Flush::Blocked {
            self.cut();
        }
    }

    /// Ends at once.
    pub fn cut(&self) {
        self.outlet.cut();
        self.drained.notify_all();
        self.on_readable();
    }

    /// Whether it has ended.
    pub fn is_cut(&self) -> bool {
        self.outlet.is_cut()
    }

    /// Writes out what the socket takes.
    pub fn flush(&self) -> Flush {
        let flushed = self.outlet.flush();
        self.count_left();
        flushed
    }

    /// Counts the packets that the socket has taken.
    fn count_left(&self) {
        let now = Instant::now();
        let mut lane = self.lane.lock();
        let left = self.outlet.sent.bytes.load(Relaxed);
        lane.queue.left(left, now, self.waited.get().map(|w| &**w));
    }

    /// Packets that wait, without those of a job.
    pub fn packets(&self) -> u64 {
        let lane = self.lane.lock();
        lane.waiting_packets + lane.queue.packets()
    }

    /// The socket, to be read.
    pub fn stream(&self) -> impl std::io::Read {
        self.outlet.stream()
    }

    /// Bytes that wait, in all.
    pub fn unsent(&self) -> usize {
        self.lane.lock().waiting_bytes + self.outlet.unsent()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    fn link() -> (Link, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (theirs, peer) = listener.accept().unwrap();
        ours.set_nonblocking(true).unwrap();
        (Link::new(LinkId(1), peer, None, mio::net::TcpStream::from_std(ours)), theirs)
    }

    fn read(theirs: &mut TcpStream, n: usize) -> Vec<u8> {
        let mut bytes = vec![0; n];
        theirs.read_exact(&mut bytes).unwrap();
        bytes
    }

    const PATIENCE: Duration = Duration::from_secs(5);

    #[test]
    fn what_comes_behind_a_job_waits_for_it() {
        let (link, mut theirs) = link();
        assert!(link.push(b"a", 1));
        link.flush();
        let job = Job::Log { after: Zxid::ZERO, upto: Zxid::from_u64(9) };
        assert_eq!(link.push_job(Job::Snapshot { falconer: true }), Some(Job::Snapshot { falconer: true }));
        assert!(!link.push(b"d", 1));
        assert_eq!(link.push_job(job), None);
        assert!(!link.push(b"f", 1) && !link.push(b"g", 1));
        assert_eq!(link.packets(), 3, "a has left");
        link.write_job(b"bc", PATIENCE).unwrap();
        assert_eq!(link.job_done(), Some(job));
        link.write_job(b"e", PATIENCE).unwrap();
        assert_eq!(link.job_done(), None);
        assert_eq!(link.packets(), 0, "those behind the jobs have left");
        assert!(link.push(b"h", 1));
        link.flush();
        assert_eq!(read(&mut theirs, 8), b"abcdefgh");
        assert_eq!(link.unsent(), 0);
    }

    #[test]
    fn who_falls_too_far_behind_a_job_is_cut() {
        let (link, _theirs) = link();
        link.push_job(Job::Snapshot { falconer: true }).unwrap();
        let chunk = vec![0; limits::LINK_UNSENT_MAX / 4];
        for _ in 0..4 {
            link.push(&chunk, 1);
            assert!(!link.is_cut());
        }
        link.push(b"one more", 1);
        assert!(link.is_cut());
        assert!(link.write_job(b"x", PATIENCE).is_err());
    }

    #[test]
    fn a_job_waits_for_the_socket_and_gives_up_on_one_that_stands_still() {
        let (link, theirs) = link();
        link.push_job(Job::Snapshot { falconer: true }).unwrap();
        let chunk = vec![7; 4 << 20];
        let stalled = (0..16).any(|_| link.write_job(&chunk, Duration::from_millis(100)).is_err());
        assert!(stalled, "nobody reads");
        drop(theirs);
    }

    #[test]
    fn a_close_lets_what_is_there_leave() {
        let (link, mut theirs) = link();
        link.push(b"bye", 1);
        link.close();
        let mut all = Vec::new();
        theirs.read_to_end(&mut all).unwrap();
        assert_eq!(all, b"bye");
    }
}
