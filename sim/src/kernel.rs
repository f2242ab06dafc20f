//! What everything in a run shares: the time, the queue of events, the network, and who watches.

use crate::book::{Fact, Judge};
use crate::coverage::{Coverage, Point};
use crate::net::{Net, Place, Wake};
use crate::rng::Rng;
use crate::time::Time;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Something that is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// Something arrives.
    Net(Wake),
    /// For a server, if it still lives its `life`th life.
    Server {
        /// Which.
        server: usize,
        /// Its life.
        life: u32,
        /// What.
        what: Due,
    },
    /// A server is started again.
    Boot {
        /// Which.
        server: usize,
    },
    /// A client wakes.
    Client {
        /// Which.
        client: usize,
        /// The number of the timer: older ones are void.
        turn: u32,
    },
    /// A fault of the plan begins.
    Fault(usize),
    /// A fault of the plan ends.
    FaultEnd(usize),
    /// No more faults from here on.
    Heal,
}

/// What is due within a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Due {
    /// The node's tick; only the newest counts.
    Tick(u32),
    /// A write of the log comes back.
    Written,
    /// The log tries again: the disk was full.
    Retry,
    /// The log has been idle.
    Idle(u32),
    /// The preparer of segments.
    Prepare,
    /// A snapshot goes on.
    Snapshot,
    /// The job on the disk is done.
    Job,
    /// A snapshot to a learner goes on.
    Stream(u64),
    /// A connection that was dialled has not come about.
    DialLate(u64),
    /// Whether a tree that comes in makes progress is looked at.
    Stalled(u64),
}

struct Entry {
    at: Time,
    seq: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        (self.at, self.seq) == (other.at, other.seq)
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> std::cmp::Ordering {
        (self.at, self.seq).cmp(&(other.at, other.seq))
    }
}

/// See the module.
pub struct Kernel {
    /// Now.
    pub now: Time,
    queue: BinaryHeap<Reverse<Entry>>,
    seq: u64,
    /// The network.
    pub net: Net,
    /// Chance of delays.
    pub rng: Rng,
    /// What has happened at all.
    pub coverage: Coverage,
    /// Who watches.
    pub judge: Judge,
    /// Events handled so far.
    pub events: u64,
    /// A sum over all that happened: equal for equal runs.
    pub trace: u64,
    /// The last lines of what happened, for whoever looks into a failure; empty unless asked for.
    pub story: Option<Vec<String>>,
}

impl Kernel {
    /// A world at time zero.
    pub fn new(net: Net, rng: Rng, judge: Judge, tell: bool) -> Kernel {
        Kernel {
            now: 0,
            queue: BinaryHeap::new(),
            seq: 0,
            net,
            rng,
            coverage: Coverage::default(),
            judge,
            events: 0,
            trace: 0xcbf2_9ce4_8422_2325,
            story: tell.then(Vec::new),
        }
    }

    /// `event` is due at `at`.
    pub fn schedule(&mut self, at: Time, event: Event) {
        self.seq += 1;
        self.queue.push(Reverse(Entry { at: at.max(self.now), seq: self.seq, event }));
    }

    /// `event` is due after `ns`.
    pub fn after(&mut self, ns: u64, event: Event) {
        self.schedule(self.now.saturating_add(ns), event);
    }

    /// The next event; time moves on to it.
    pub fn next_event(&mut self) -> Option<Event> {
        self.schedule_wakes();
        let Reverse(entry) = self.queue.pop()?;
        self.now = entry.at;
        self.events += 1;
        self.mix(entry.at);
        Some(entry.event)
    }

    /// Puts what the network wants into the queue.
    pub fn schedule_wakes(&mut self) {
        let wakes: Vec<Wake> = self.net.take_wakes().collect();
        for wake in wakes {
            self.schedule(wake.at, Event::Net(wake));
        }
    }

    /// Adds to the trace.
    pub fn mix(&mut self, n: u64) {
        self.trace = (self.trace ^ n).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    }

    /// Something that a run must have seen has happened.
    pub fn hit(&mut self, point: Point) {
        self.coverage.hit(point);
    }

    /// Tells those who watch.
    pub fn fact(&mut self, fact: &Fact<'_>) {
        let now = self.now;
        if self.story.is_some() && !matches!(fact, Fact::Replied { .. }) {
            self.tell(|| format!("{fact}"));
        }
        self.judge.observe(now, fact);
    }

    /// A line of the story, made only if somebody listens.
    pub fn tell(&mut self, line: impl FnOnce() -> String) {
        if let Some(story) = &mut self.story {
            story.push(format!("{:>12.3} ms  {}", self.now as f64 / 1e6, line()));
        }
    }

    /// A place is told nothing more: its machine is dead.
    pub fn cut_off(&mut self, place: Place, silent: bool) {
        self.net.die(self.now, place, silent);
    }
}
