//! The network: connections between places, each a pair of streams that keep their order.
//!
//! It behaves as TCP does. What is sent arrives in order or not at all; a link that is cut holds back what is under way
//! until it is mended, or until one side gives the connection up; a connection that is reset loses what is under
//! way; a machine that loses power says nothing, and one that comes back answers old connections with a reset. So
//! nothing is reordered within a connection, but old connections may deliver late, beside new ones of the same
//! pair.

use crate::rng::Rng;
use crate::time::{MS, Time, US};
use std::collections::{BTreeMap, VecDeque};

/// A machine: servers first, then clients.
pub type Place = usize;

/// What a connection is for; each port can be cut by itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Port {
    /// Clients of a server.
    Client,
    /// Learners of a leader.
    Quorum,
    /// Votes.
    Election,
}

/// All ports.
pub const PORTS: [Port; 3] = [Port::Client, Port::Quorum, Port::Election];

/// A connection, never used twice in a run.
pub type Conn = u64;

/// One of the two ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// Who connected.
    Dialer,
    /// Who accepted.
    Listener,
}

impl Side {
    /// The other one.
    pub fn other(self) -> Side {
        if self == Side::Dialer { Side::Listener } else { Side::Dialer }
    }

    fn index(self) -> usize {
        self as usize
    }
}

/// What arrives.
#[derive(Debug)]
pub enum Item {
    /// The handshake of the network: at the listener a connection begins; at the dialer it is made.
    Open,
    /// Bytes.
    Data(Vec<u8>),
    /// The other side has closed, or the connection is reset.
    Closed,
}

/// Somebody is to look at one direction of a connection at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wake {
    /// When.
    pub at: Time,
    /// Which connection.
    pub conn: Conn,
    /// The receiving side.
    pub to: Side,
}

/// What [`Net::arrive`] hands over.
#[derive(Debug)]
pub struct Arrival {
    /// Where.
    pub place: Place,
    /// Which port.
    pub port: Port,
    /// What.
    pub item: Item,
}

#[derive(Debug, Default)]
struct Stream {
    /// Due time and content, in order.
    queue: VecDeque<(Time, Item)>,
    bytes: usize,
    last_due: Time,
    /// A wake for the head is under way.
    awaited: bool,
    /// The link was cut when the head was due.
    held: bool,
}

#[derive(Debug)]
struct Link {
    ends: [Place; 2],
    port: Port,
    /// Towards the dialer, towards the listener.
    streams: [Stream; 2],
    /// Whether each end still knows of the connection.
    alive: [bool; 2],
}

/// Everything under way, and the rules of each link.
#[derive(Debug)]
pub struct Net {
    places: usize,
    conns: BTreeMap<Conn, Link>,
    next: Conn,
    /// How many cuts lie over a directed link of a port.
    cuts: Vec<u8>,
    /// Delay of a directed link in ns.
    delay: Vec<u64>,
    rng: Rng,
    wakes: Vec<Wake>,
    /// Bytes under way in one direction above which the sender is held back; tiny in some runs.
    pub buffer_bytes: usize,
    /// Wakes that met a cut link: for coverage.
    pub held_back: u64,
}

impl Net {
    /// A network of `places`, nothing cut.
    pub fn new(places: usize, rng: Rng, delay_ns: u64, buffer_bytes: usize) -> Net {
        Net {
            places,
            conns: BTreeMap::new(),
            next: 1,
            cuts: vec![0; places * places * PORTS.len()],
            delay: vec![delay_ns; places * places],
            rng,
            wakes: Vec::new(),
            buffer_bytes,
            held_back: 0,
        }
    }

    /// What is to be scheduled since the last call.
    pub fn take_wakes(&mut self) -> std::vec::Drain<'_, Wake> {
        self.wakes.drain(..)
    }

    fn rule(&self, from: Place, to: Place, port: Port) -> usize {
        (port as usize * self.places + from) * self.places + to
    }

    /// Whether nothing gets from `from` to `to` on `port`.
    pub fn is_cut(&self, from: Place, to: Place, port: Port) -> bool {
        self.cuts[self.rule(from, to, port)] > 0
    }

    /// Cuts the directed link once more.
    pub fn cut(&mut self, from: Place, to: Place, port: Port) {
        let rule = self.rule(from, to, port);
        self.cuts[rule] += 1;
    }

    /// Takes one cut away; when it was the last, what was held back goes on.
    pub fn mend(&mut self, now: Time, from: Place, to: Place, port: Port) {
        let rule = self.rule(from, to, port);
        self.cuts[rule] -= 1;
        if self.cuts[rule] > 0 {
            return;
        }
        let held: Vec<(Conn, Side)> = self
            .conns
            .iter()
            .filter(|(_, l)| l.port == port)
            .flat_map(|(&c, l)| [(c, Side::Dialer, l), (c, Side::Listener, l)])
            .filter(|(_, to_side, l)| {
                l.streams[to_side.index()].held
                    && l.ends[to_side.index()] == to
                    && l.ends[to_side.other().index()] == from
            })
            .map(|(c, side, _)| (c, side))
            .collect();
        for (conn, to) in held {
            // A retransmission comes when the sender's timer says so.
            let at = now + self.rng.below(20 * MS);
            self.stream(conn, to).held = false;
            self.await_head(conn, to, at);
        }
    }

    /// Changes the delay of a directed link, ns.
    pub fn set_delay(&mut self, from: Place, to: Place, ns: u64) {
        self.delay[from * self.places + to] = ns;
    }

    /// The delay of a directed link, ns.
    pub fn delay(&self, from: Place, to: Place) -> u64 {
        self.delay[from * self.places + to]
    }

    fn stream(&mut self, conn: Conn, to: Side) -> &mut Stream {
        &mut self.conns.get_mut(&conn).expect("callers look at connections that exist").streams[to.index()]
    }

    fn push(&mut self, now: Time, conn: Conn, to: Side, item: Item) {
        let Some(link) = self.conns.get(&conn) else { return };
        let (from, place) = (link.ends[to.other().index()], link.ends[to.index()]);
        let delay = self.delay[from * self.places + place];
        let due = now + self.rng.around(delay);
        let stream = self.stream(conn, to);
        let due = due.max(stream.last_due + US / 10);
        stream.last_due = due;
        if let Item::Data(bytes) = &item {
            stream.bytes += bytes.len();
        }
        stream.queue.push_back((due, item));
        if !stream.awaited && !stream.held {
            self.await_head(conn, to, due);
        }
    }

    fn await_head(&mut self, conn: Conn, to: Side, at: Time) {
        let stream = self.stream(conn, to);
        if let Some((due, _)) = stream.queue.front()
            && !stream.awaited
        {
            let at = at.max(*due);
            stream.awaited = true;
            self.wakes.push(Wake { at, conn, to });
        }
    }

    /// Begins a connection; [`Item::Open`] reaches the listener, then the dialer.
    pub fn dial(&mut self, now: Time, from: Place, to: Place, port: Port) -> Conn {
        let conn = self.next;
        self.next += 1;
        let streams = [Stream::default(), Stream::default()];
        self.conns.insert(conn, Link { ends: [from, to], port, streams, alive: [true, true] });
        self.push(now, conn, Side::Listener, Item::Open);
        conn
    }

    /// Sends bytes from one side to the other.
    pub fn send(&mut self, now: Time, conn: Conn, from: Side, bytes: Vec<u8>) {
        if self.conns.get(&conn).is_some_and(|l| l.alive[from.index()]) {
            self.push(now, conn, from.other(), Item::Data(bytes));
        }
    }

    /// Bytes under way from `from`.
    pub fn unsent(&self, conn: Conn, from: Side) -> usize {
        self.conns.get(&conn).map_or(0, |l| l.streams[from.other().index()].bytes)
    }

    /// One side closes: the other one learns of it behind what was sent before.
    pub fn close(&mut self, now: Time, conn: Conn, by: Side) {
        let Some(link) = self.conns.get_mut(&conn) else { return };
        if !link.alive[by.index()] {
            return;
        }
        link.alive[by.index()] = false;
        link.streams[by.index()].queue.clear();
        if link.alive[by.other().index()] {
            self.push(now, conn, by.other(), Item::Closed);
        } else {
            self.conns.remove(&conn);
        }
    }

    /// The connection breaks in the middle: what is under way is lost, both sides learn of it.
    pub fn reset(&mut self, now: Time, conn: Conn) {
        let Some(link) = self.conns.get_mut(&conn) else { return };
        for stream in &mut link.streams {
            stream.queue.clear();
            stream.bytes = 0;
        }
        for to in [Side::Dialer, Side::Listener] {
            if self.conns[&conn].alive[to.index()] {
                self.push(now, conn, to, Item::Closed);
            }
        }
    }

    /// All connections between two places.
    pub fn between(&self, a: Place, b: Place) -> Vec<Conn> {
        let joins = |l: &Link| l.ends == [a, b] || l.ends == [b, a];
        self.conns.iter().filter(|(_, l)| joins(l)).map(|(&c, _)| c).collect()
    }

    /// A machine dies. `silent`: as after a power cut, nobody is told; else its system closes what it had open.
    pub fn die(&mut self, now: Time, place: Place, silent: bool) {
        let own: Vec<(Conn, Side)> = self
            .conns
            .iter()
            .flat_map(|(&c, l)| [(c, Side::Dialer, l), (c, Side::Listener, l)])
            .filter(|(_, side, l)| l.ends[side.index()] == place && l.alive[side.index()])
            .map(|(c, side, _)| (c, side))
            .collect();
        for (conn, side) in own {
            if silent {
                let link = self.conns.get_mut(&conn).expect("listed above");
                link.alive[side.index()] = false;
                link.streams[side.index()].queue.clear();
                if !link.alive[side.other().index()] {
                    self.conns.remove(&conn);
                }
            } else {
                self.close(now, conn, side);
            }
        }
    }

    /// What is due at the head of a stream. `is_up`: whether a machine runs; `None`: nothing, or it is held back, or nobody is
    /// there.
    pub fn arrive(&mut self, now: Time, wake: Wake, is_up: impl Fn(Place) -> bool) -> Option<Arrival> {
        let Wake { conn, to, .. } = wake;
        let link = self.conns.get_mut(&conn)?;
        let (place, from, port) = (link.ends[to.index()], link.ends[to.other().index()], link.port);
        let stream = &mut link.streams[to.index()];
        stream.awaited = false;
        let due = stream.queue.front()?.0;
        if self.is_cut(from, place, port) {
            self.held_back += 1;
            self.stream(conn, to).held = true;
            return None;
        }
        let stream = self.stream(conn, to);
        if due > now {
            self.await_head(conn, to, due);
            return None;
        }
        let (_, item) = stream.queue.pop_front().expect("looked at above");
        if let Item::Data(bytes) = &item {
            stream.bytes -= bytes.len();
        }
        self.await_head(conn, to, now);
        let up = is_up(place);
        let link = self.conns.get_mut(&conn).expect("looked at above");
        if !up {
            // A machine without power answers nothing; the sender waits.
            link.alive[to.index()] = false;
            return None;
        }
        if !link.alive[to.index()] {
            // The machine has come back and knows nothing of the connection.
            if link.alive[to.other().index()] {
                self.push(now, conn, to.other(), Item::Closed);
            } else {
                self.conns.remove(&conn);
            }
            return None;
        }
        match item {
            Item::Open if to == Side::Listener => self.push(now, conn, Side::Dialer, Item::Open),
            Item::Closed => {
                link.alive[to.index()] = false;
                if !link.alive[to.other().index()] {
                    self.conns.remove(&conn);
                }
            }
            Item::Open | Item::Data(_) => {}
        }
        Some(Arrival { place, port, item })
    }

    /// Where the other end of a connection stands.
    pub fn peer(&self, conn: Conn, side: Side) -> Option<Place> {
        self.conns.get(&conn).map(|l| l.ends[side.other().index()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net() -> Net {
        Net::new(2, Rng::new(1, 1), MS, 1 << 20)
    }

    /// Runs the network alone and returns what arrived, as text.
    fn drain(net: &mut Net, until: Time) -> Vec<String> {
        let mut heap: Vec<Wake> = Vec::new();
        let mut seen = Vec::new();
        loop {
            heap.extend(net.take_wakes());
            heap.sort_by_key(|w| std::cmp::Reverse(w.at));
            let Some(w) = heap.pop() else { return seen };
            if w.at > until {
                return seen;
            }
            if let Some(a) = net.arrive(w.at, w, |_| true) {
                seen.push(format!("{}:{:?}", a.place, a.item));
            }
        }
    }

    #[test]
    fn a_stream_keeps_its_order_and_a_close_comes_last() {
        let mut n = net();
        let c = n.dial(0, 0, 1, Port::Client);
        for i in 0..3 {
            n.send(0, c, Side::Dialer, vec![i]);
        }
        n.close(0, c, Side::Dialer);
        let to_listener: Vec<String> =
            drain(&mut n, u64::MAX).into_iter().filter(|s| s.starts_with('1')).collect();
        assert_eq!(to_listener, ["1:Open", "1:Data([0])", "1:Data([1])", "1:Data([2])", "1:Closed"]);
    }

    #[test]
    fn a_cut_link_holds_back_until_it_is_mended() {
        let mut n = net();
        let c = n.dial(0, 0, 1, Port::Client);
        drain(&mut n, u64::MAX);
        n.cut(0, 1, Port::Client);
        n.send(10 * MS, c, Side::Dialer, vec![7]);
        n.send(10 * MS, c, Side::Listener, vec![8]);
        assert_eq!(drain(&mut n, u64::MAX), ["0:Data([8])"], "the other direction is whole");
        n.mend(90 * MS, 0, 1, Port::Client);
        assert_eq!(drain(&mut n, u64::MAX), ["1:Data([7])"]);
    }

    #[test]
    fn a_reset_loses_what_is_under_way_and_silence_ends_in_a_reset() {
        let mut n = net();
        let c = n.dial(0, 0, 1, Port::Client);
        drain(&mut n, u64::MAX);
        n.send(0, c, Side::Dialer, vec![7]);
        n.reset(0, c);
        let mut seen = drain(&mut n, u64::MAX);
        seen.sort();
        assert_eq!(seen, ["0:Closed", "1:Closed"]);
        let c = n.dial(0, 0, 1, Port::Client);
        drain(&mut n, u64::MAX);
        n.die(0, 1, true);
        assert!(drain(&mut n, u64::MAX).is_empty(), "nobody is told of a power cut");
        n.send(0, c, Side::Dialer, vec![9]);
        assert_eq!(drain(&mut n, u64::MAX), ["0:Closed"], "the machine is back and knows nothing");
    }
}
