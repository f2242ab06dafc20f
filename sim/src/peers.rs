//! The peers' side of a server: connections for votes, links between leader and learners, snapshots on their way, and the
//! jobs that agreement asks the disk for.

use crate::book::Fact;
use crate::coverage::Point;
use crate::kernel::{Due, Event, Kernel};
use crate::net::{Conn, Item, Port, Side};
use crate::server::{INIT_LIMIT, Job, Process, Refusal, Server, cluster_bytes, kind_of, rebuild};
use crate::time::{MS, Time, US};
use node::{Differs, Input, Output};
use proto::jute::Reader;
use proto::peer::{FromLeader, FromLearner, Notification, Packet, kind};
use proto::txn::DIGEST_VERSION;
use proto::{Durable, LinkId, ServerId, Zxid};
use snapshot::{Catalogue, Digest, Header};
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use wal::{Appender, Superblock};
use zab::{Records, Service};

/// What a message on a link is: its first byte.
const PACKETS: u8 = 0;
/// Bytes of a tree, and the last of them.
const TREE: u8 = 1;
const TREE_END: u8 = 2;

/// One part of a tree in so many is the last before the connection breaks, until the heal.
const TREE_BREAKS: u64 = 100;

/// Bytes of a part of a tree that is sent.
const PART: usize = 2_000;

/// The connection for votes with one peer.
#[derive(Debug, Default)]
pub struct Election {
    /// The one that both keep.
    conn: Option<(Conn, Side)>,
    dialing: Option<Conn>,
    /// What was said last: it is said again when a connection comes about.
    last: Option<Arc<[u8]>>,
}

/// A link of the quorum port.
#[derive(Debug)]
pub struct Link {
    side: Side,
    other: usize,
    /// A tree is on its way, while it changes; what is sent meanwhile waits.
    stream: Option<Stream>,
    /// Encoded packets.
    waiting: VecDeque<Vec<u8>>,
    input: VecDeque<Vec<u8>>,
}

/// A tree that goes out.
#[derive(Debug)]
enum Stream {
    /// Its thread is about to begin.
    Wanted,
    Walking(engine::Walk),
}

/// A tree that comes in.
#[derive(Debug)]
pub struct Receiving {
    link: Conn,
    zxid: Zxid,
    /// When something came last.
    heard: Time,
    bytes: Vec<u8>,
}

fn point_of(kind: i32) -> Option<Point> {
    Some(match kind {
        kind::FOLLOWERINFO | kind::OBSERVERINFO => Point::PacketInfo,
        kind::LEADERINFO => Point::PacketLeaderInfo,
        kind::ACKEPOCH => Point::PacketAckEpoch,
        kind::NEWLEADER => Point::PacketNewLeader,
        kind::UPTODATE => Point::PacketUpToDate,
        kind::PROPOSAL => Point::PacketProposal,
        kind::ACK => Point::PacketAck,
        kind::COMMIT => Point::PacketCommit,
        kind::INFORM => Point::PacketInform,
        kind::PING => Point::PacketPing,
        kind::REVALIDATE => Point::PacketRevalidate,
        kind::SYNC => Point::PacketSync,
        kind::REQUEST => Point::PacketRequest,
        kind::DIFF => Point::SyncDiff,
        kind::TRUNC => Point::SyncTrunc,
        kind::SNAP => Point::SyncSnap,
        _ => return None,
    })
}

fn index(server: ServerId) -> usize {
    server.0 as usize - 1
}

impl Server {
    /// Does what the node asks for.
    pub(crate) fn output(&mut self, k: &mut Kernel, output: Output) {
        match output {
            Output::PersistEpochs { accepted, current, joined } => {
                self.ask_disk(k, Job::Epochs { accepted, current, joined })
            }
            Output::Truncate { after, reload } => {
                let p = self.process();
                p.drop_snapshot();
                let applier = reload.then(|| p.node.lend_applier());
                self.ask_disk(k, Job::Truncate { after, applier });
            }
            Output::Reload => {
                let p = self.process();
                p.drop_snapshot();
                let applier = p.node.lend_applier();
                self.ask_disk(k, Job::Reload { applier });
            }
            Output::SaveSnapshot { zxid } => {
                self.process().drop_snapshot();
                self.ask_disk(k, Job::Save { zxid });
            }
            Output::FindInLog { link, zxid } => self.ask_disk(k, Job::Find { link: link.0, zxid }),
            Output::Notify { to, payload } => self.notify(k, index(to), payload),
            Output::Dial { to } => {
                let to = index(to);
                let conn = k.net.dial(k.now, self.id, to, Port::Quorum);
                self.process().dialing.insert(conn, to);
                let late = self.event(Due::DialLate(conn));
                k.after(self.dial_ns(), late);
            }
            Output::Close { link } => {
                if self.process().links.remove(&link.0).is_some() {
                    k.net.close(k.now, link.0, self.side_of(k, link.0));
                    self.end_receiving(k, link.0);
                }
            }
            Output::Send { link, packets } => self.send_packets(k, link.0, &packets),
            Output::SendAll { links, packets } => {
                for link in links.iter() {
                    self.send_packets(k, link.0, &packets);
                }
            }
            Output::Propose { links, records } => {
                self.send_records(k, &links, &records, |zxid, record| FromLeader::Proposal { zxid, record });
            }
            Output::Inform { links, records } => {
                self.send_records(k, &links, &records, |zxid, record| FromLeader::Inform { zxid, record });
            }
            Output::SendLog { link, after, upto } => self.send_log(k, link.0, after, upto),
            Output::SendSnapshot { link, .. } => self.begin_stream(k, link.0),
            Output::ReceiveSnapshot { link, zxid, .. } => {
                let p = self.process();
                if p.links.contains_key(&link.0) {
                    p.receiving = Some(Receiving { link: link.0, zxid, heard: k.now, bytes: Vec::new() });
                    let event = self.event(Due::Stalled(link.0));
                    k.after(self.stall_ns(), event);
                    self.run_link(k, link.0);
                } else {
                    let applier = p.node.lend_applier();
                    self.step(k, Input::SnapshotReceived { link, applier, complete: false });
                }
            }
            Output::Serve(service) => self.serve(k, service),
            Output::Doubt(differs) => {
                k.hit(Point::Doubted);
                self.suspect(k, "doubts its state", differs);
            }
            Output::Differs(differs) => {
                k.hit(if differs.by_majority {
                    Point::DifferedFromMajority
                } else {
                    Point::DifferedUndecided
                });
                self.suspect(k, "finds that its state differs", differs);
                self.ask_disk(k, Job::End { by_majority: differs.by_majority });
            }
            Output::SlowLog(slow) => {
                k.hit(Point::HandedOverSlow);
                k.tell(|| format!("{} hands over: {slow:?}", self.id));
            }
            Output::Note(what) => {
                if what == node::HANDS_OVER_FULL {
                    k.hit(Point::HandedOverFull);
                }
                if what.starts_with("the leader can't be reached") {
                    k.hit(Point::LeaderUnreachable);
                }
                k.tell(|| format!("{} notes: {what}", self.id));
            }
        }
    }

    /// Nobody's state is suspected without reason.
    fn suspect(&mut self, k: &mut Kernel, what: &str, differs: Differs) {
        k.tell(|| format!("{} {what}: {differs:?}", self.id));
        if !k.judge.book.is_spoilt {
            k.judge.condemn(k.now, "no false alarm", format!("{} {what}: {differs:?}", self.id));
        }
    }

    fn side_of(&mut self, k: &Kernel, conn: Conn) -> Side {
        // Who dialled stands at the listener's other end.
        if k.net.peer(conn, Side::Listener) == Some(self.id) { Side::Dialer } else { Side::Listener }
    }

    /// How long a tree may make no progress at all: initLimit.
    fn stall_ns(&self) -> u64 {
        INIT_LIMIT * self.setting.tick_ms * MS
    }

    fn dial_ns(&self) -> u64 {
        5 * self.setting.tick_ms * MS
    }

    fn ask_disk(&mut self, k: &mut Kernel, job: Job) {
        self.process().jobs.push_back(job);
        let event = self.event(Due::Job);
        let ns = self.disk_ns(k);
        k.after(ns, event);
    }

    fn serve(&mut self, k: &mut Kernel, service: Service) {
        self.account_applied(k);
        let id = self.id;
        let p = self.process();
        let before = std::mem::replace(&mut p.service, service);
        let applied = p.tree.applied();
        if service != Service::None {
            // What the tree got from its own log is shown from now on.
            p.handed.retain(|(zxid, ..)| *zxid > applied);
        }
        k.fact(&Fact::Serves { server: id, service, applied });
        match service {
            Service::Leading => k.hit(Point::Elected),
            Service::Following => k.hit(Point::Following),
            Service::Observing => k.hit(Point::Observing),
            Service::None if before == Service::Leading => k.hit(Point::LeaderLost),
            Service::ReadOnly => k.hit(Point::ReadOnly),
            Service::None => {}
        }
        if service == Service::None {
            for conn in self.process().lines.all() {
                k.net.close(k.now, conn, Side::Listener);
                self.forget(k, conn);
                if self.process.is_none() {
                    return;
                }
            }
        } else if service != Service::ReadOnly {
            self.blank = false;
        }
    }

    // Votes.

    fn notify(&mut self, k: &mut Kernel, to: usize, payload: Arc<[u8]>) {
        k.hit(Point::Notification);
        let p = self.process();
        let election = p.election.entry(to).or_default();
        election.last = Some(payload.clone());
        match election.conn {
            Some((conn, side)) => k.net.send(k.now, conn, side, payload.to_vec()),
            None => self.dial_election(k, to),
        }
    }

    fn dial_election(&mut self, k: &mut Kernel, to: usize) {
        let id = self.id;
        let late_ns = self.dial_ns();
        let election = self.process().election.entry(to).or_default();
        if election.dialing.is_none() && election.conn.is_none() {
            let conn = k.net.dial(k.now, id, to, Port::Election);
            election.dialing = Some(conn);
            let late = self.event(Due::DialLate(conn));
            k.after(late_ns, late);
        }
    }

    /// A connection for votes is the one that both sides keep from now on.
    fn keep(&mut self, k: &mut Kernel, peer: usize, conn: Conn, side: Side) {
        let election = self.process().election.entry(peer).or_default();
        let old = election.conn.replace((conn, side));
        if let Some(last) = election.last.clone() {
            k.net.send(k.now, conn, side, last.to_vec());
        }
        if let Some((old, side)) = old {
            k.net.close(k.now, old, side);
        } else {
            self.step(k, Input::ElectionLink { peer: ServerId(peer as i64 + 1), up: true });
        }
    }

    fn arrive_election(&mut self, k: &mut Kernel, conn: Conn, side: Side, item: Item) {
        let Some(peer) = k.net.peer(conn, side).or_else(|| self.election_peer(conn)) else { return };
        let me = self.id;
        let election = self.process().election.entry(peer).or_default();
        let kept = election.conn.is_some_and(|c| c.0 == conn);
        match item {
            Item::Open if side == Side::Listener => {}
            Item::Open => {
                if election.dialing == Some(conn) {
                    election.dialing = None;
                }
                k.net.send(k.now, conn, side, (me as u64).to_be_bytes().to_vec());
                // The connection stays whose dialer has the larger id.
                if peer > me {
                    k.net.close(k.now, conn, side);
                } else {
                    self.keep(k, peer, conn, side);
                }
            }
            Item::Data(bytes) if kept => {
                let decoded = Notification::decode(&bytes).ok().flatten();
                if let Some(notification) = decoded {
                    let from = ServerId(peer as i64 + 1);
                    self.step(k, Input::Notification { from, notification });
                }
            }
            Item::Data(_) if side == Side::Listener => {
                if peer > me {
                    self.keep(k, peer, conn, side);
                } else {
                    // Who is smaller has lost the old connection, or would not dial: this side dials anew.
                    let old = election.conn.take();
                    k.net.close(k.now, conn, side);
                    if let Some((old, side)) = old {
                        k.net.close(k.now, old, side);
                    }
                    self.dial_election(k, peer);
                }
            }
            Item::Data(_) => {}
            Item::Closed => {
                if kept {
                    election.conn = None;
                }
                if election.dialing == Some(conn) {
                    election.dialing = None;
                    self.step(k, Input::ElectionLink { peer: ServerId(peer as i64 + 1), up: false });
                } else if kept {
                    self.step(k, Input::ElectionLink { peer: ServerId(peer as i64 + 1), up: false });
                }
            }
        }
    }

    fn election_peer(&self, conn: Conn) -> Option<usize> {
        let p = self.process.as_ref()?;
        p.election
            .iter()
            .find(|(_, e)| e.dialing == Some(conn) || e.conn.is_some_and(|c| c.0 == conn))
            .map(|(&peer, _)| peer)
    }

    /// A connection that was dialled has not come about in time.
    pub(crate) fn dial_late(&mut self, k: &mut Kernel, conn: Conn) {
        if let Some(to) = self.process().dialing.remove(&conn) {
            k.net.close(k.now, conn, Side::Dialer);
            return self.step(k, Input::DialFailed { to: ServerId(to as i64 + 1) });
        }
        if let Some(peer) = self.election_peer(conn) {
            let election = self.process().election.entry(peer).or_default();
            if election.dialing == Some(conn) {
                election.dialing = None;
                k.net.close(k.now, conn, Side::Dialer);
                self.step(k, Input::ElectionLink { peer: ServerId(peer as i64 + 1), up: false });
            }
        }
    }

    // Links.

    /// Something arrives at one of the two ports.
    pub(crate) fn arrive_peer(&mut self, k: &mut Kernel, conn: Conn, side: Side, port: Port, item: Item) {
        if port == Port::Election {
            return self.arrive_election(k, conn, side, item);
        }
        match item {
            Item::Open => {
                let other = k.net.peer(conn, side).expect("it was opened just now");
                let p = self.process();
                let dialled = p.dialing.remove(&conn);
                if side == Side::Dialer && dialled.is_none() {
                    return k.net.close(k.now, conn, side);
                }
                let link =
                    Link { side, other, stream: None, waiting: VecDeque::new(), input: VecDeque::new() };
                p.links.insert(conn, link);
                let dialled = dialled.map(|to| ServerId(to as i64 + 1));
                self.step(k, Input::LinkUp { link: LinkId(conn), dialled });
            }
            Item::Data(bytes) => {
                if let Some(link) = self.process().links.get_mut(&conn) {
                    link.input.push_back(bytes);
                    self.run_link(k, conn);
                }
            }
            Item::Closed => {
                if let Some(to) = self.process().dialing.remove(&conn) {
                    return self.step(k, Input::DialFailed { to: ServerId(to as i64 + 1) });
                }
                if self.process().links.remove(&conn).is_some() {
                    self.end_receiving(k, conn);
                    if self.process.is_some() {
                        self.step(k, Input::LinkDown { link: LinkId(conn) });
                    }
                }
            }
        }
    }

    /// The tree that came through a link that is gone does not become whole.
    fn end_receiving(&mut self, k: &mut Kernel, conn: Conn) {
        let p = self.process();
        if p.receiving.as_ref().is_some_and(|r| r.link == conn) {
            p.receiving = None;
            k.hit(Point::SnapBroken);
            let applier = p.node.lend_applier();
            self.step(k, Input::SnapshotReceived { link: LinkId(conn), applier, complete: false });
        }
    }

    /// Whether the tree that comes in makes progress is looked at.
    pub(crate) fn stalled(&mut self, k: &mut Kernel, conn: Conn) {
        let stall_ns = self.stall_ns();
        let p = self.process();
        let Some(heard) = p.receiving.as_ref().filter(|r| r.link == conn).map(|r| r.heard) else { return };
        if k.now < heard + stall_ns {
            let event = self.event(Due::Stalled(conn));
            return k.schedule(heard + stall_ns, event);
        }
        k.tell(|| format!("{} gets nothing more of a tree on {conn}", self.id));
        self.end_receiving(k, conn);
    }

    /// Runs what has come through the links that could not be run before.
    pub(crate) fn run_links(&mut self, k: &mut Kernel) {
        let waiting: Vec<Conn> = match &self.process {
            Some(p) => p.links.iter().filter(|(_, l)| !l.input.is_empty()).map(|(&c, _)| c).collect(),
            None => return,
        };
        for conn in waiting {
            self.run_link(k, conn);
        }
    }

    fn run_link(&mut self, k: &mut Kernel, conn: Conn) {
        loop {
            let Some(p) = self.process.as_deref_mut() else { return };
            let behind = p.node.is_behind();
            let Some(link) = p.links.get_mut(&conn) else { return };
            let side = link.side;
            let Some(front) = link.input.front() else { return };
            let receives = p.receiving.as_ref().is_some_and(|r| r.link == conn);
            let is_tree = front[0] != PACKETS;
            // A tree waits until it is asked for; nothing else is read before its end.
            if (is_tree && !receives) || (side == Side::Dialer && behind) {
                return;
            }
            let message = link.input.pop_front().expect("looked at above");
            if is_tree {
                self.take_tree(k, conn, &message);
                continue;
            }
            let mut r = Reader::new(&message[1..]);
            while r.remaining() > 0 {
                let packet = Packet::read(&mut r).expect("peers of the simulation send whole packets");
                let linked = self.process.as_ref().is_some_and(|p| p.links.contains_key(&conn));
                if !linked {
                    return;
                }
                let link = LinkId(conn);
                match side {
                    Side::Dialer => {
                        let packet = FromLeader::parse(&packet).expect("leaders send what leaders may");
                        self.step(k, Input::FromLeader { link, packet });
                    }
                    Side::Listener => {
                        let packet = FromLearner::parse(&packet).expect("learners send what learners may");
                        self.step(k, Input::FromLearner { link, packet });
                    }
                }
            }
        }
    }

    fn take_tree(&mut self, k: &mut Kernel, conn: Conn, message: &[u8]) {
        let p = self.process();
        let receiving = p.receiving.as_mut().expect("the caller has looked");
        receiving.heard = k.now;
        receiving.bytes.extend_from_slice(&message[1..]);
        if message[0] == TREE {
            return;
        }
        let Receiving { zxid, bytes, .. } = p.receiving.take().expect("looked at above");
        let mut applier = p.node.lend_applier();
        let importer = applier.import();
        let mut rest = &bytes[..];
        let settled = importer.read(&mut rest, zxid).expect("servers of the simulation send whole trees");
        assert!(rest.is_empty(), "nothing stands behind the end of a tree");
        if settled.zxid > zxid {
            k.hit(Point::SnapFuzzy);
        }
        importer.finish(zxid, Some(settled)).expect("a whole tree has a root");
        p.handed.clear();
        p.received = Some(conn);
        self.step(k, Input::SnapshotReceived { link: LinkId(conn), applier, complete: true });
    }

    /// One packet for each record, to each of the links.
    fn send_records(
        &mut self,
        k: &mut Kernel,
        links: &[LinkId],
        records: &Records,
        packet: impl for<'a> Fn(Zxid, &'a [u8]) -> FromLeader<'a>,
    ) {
        let mut bytes = Vec::new();
        records.iter().for_each(|(zxid, record)| packet(zxid, record).encode(&mut bytes));
        links.iter().for_each(|link| self.send_packets(k, link.0, &bytes));
    }

    fn send_packets(&mut self, k: &mut Kernel, conn: Conn, packets: &[u8]) {
        let from = self.id;
        let Some(link) = self.process().links.get_mut(&conn) else { return };
        if link.stream.is_some() {
            return link.waiting.push_back(packets.to_vec());
        }
        let (to, to_leader) = (link.other, link.side == Side::Dialer);
        let mut r = Reader::new(packets);
        let mut whole = 0;
        while r.remaining() > 0 {
            if let Some(left) = &mut self.packets_left {
                if *left == 0 {
                    // The process ends between two packets: the first part has left.
                    self.doomed = true;
                    break;
                }
                *left -= 1;
            }
            let packet = Packet::read(&mut r).expect("the node encodes whole packets");
            if let Some(point) = point_of(packet.kind) {
                k.hit(point);
            }
            k.mix(packet.zxid as u64 ^ ((packet.kind as u64) << 48));
            k.fact(&Fact::Sent { from, to, link: conn, to_leader, packet });
            whole = r.offset();
        }
        if whole > 0 {
            let mut message = Vec::with_capacity(whole + 1);
            message.push(PACKETS);
            message.extend_from_slice(&packets[..whole]);
            self.send(k, conn, message);
        }
    }

    fn send(&mut self, k: &mut Kernel, conn: Conn, message: Vec<u8>) {
        let bound = k.net.buffer_bytes;
        let Some(link) = self.process().links.get(&conn) else { return };
        let side = link.side;
        k.net.send(k.now, conn, side, message);
        if k.net.unsent(conn, side) > bound && !self.process().overfull.contains(&conn) {
            // Who does not keep up is let go, so that memory stays bounded.
            k.hit(Point::LinkOverfull);
            self.process().overfull.push(conn);
        }
    }

    /// Links that were too slow are closed.
    pub(crate) fn drop_overfull(&mut self, k: &mut Kernel) {
        while let Some(conn) = self.process.as_deref_mut().and_then(|p| p.overfull.pop()) {
            let side = self.side_of(k, conn);
            if self.process().links.remove(&conn).is_some() {
                k.net.reset(k.now, conn);
                k.net.close(k.now, conn, side);
                self.end_receiving(k, conn);
                if self.process.is_some() {
                    self.step(k, Input::LinkDown { link: LinkId(conn) });
                }
            }
        }
    }

    fn send_log(&mut self, k: &mut Kernel, conn: Conn, after: Zxid, upto: Zxid) {
        k.hit(Point::SyncFromLog);
        let p = self.process();
        let mut bytes = Vec::new();
        let mut last = after;
        let read = p.appender.reader(after).and_then(|mut reader| {
            reader.replay::<wal::Error>(after, |zxid, record| {
                if zxid <= upto {
                    FromLeader::Proposal { zxid, record }.encode(&mut bytes);
                    FromLeader::Commit { zxid }.encode(&mut bytes);
                    last = zxid;
                }
                Ok(())
            })
        });
        if read.is_err() || last < upto {
            k.tell(|| format!("{} can't send its log from {after} to {upto}: {read:?}", self.id));
            return self.process().overfull.push(conn);
        }
        self.send_packets(k, conn, &bytes);
    }

    fn begin_stream(&mut self, k: &mut Kernel, conn: Conn) {
        if let Some(link) = self.process().links.get_mut(&conn) {
            link.stream = Some(Stream::Wanted);
            let event = self.event(Due::Stream(conn));
            k.after(20 * US, event);
        }
    }

    /// A tree goes on its way to a learner by one part, as `falconerd` sends it.
    pub(crate) fn stream(&mut self, k: &mut Kernel, conn: Conn) {
        let id = self.id;
        let p = self.process();
        let tree = p.tree.clone();
        let Some(link) = p.links.get_mut(&conn) else { return };
        let side = link.side;
        match &mut link.stream {
            None => return,
            Some(Stream::Wanted) => {
                let walk = tree.walk();
                let mut head = Vec::new();
                FromLeader::Snap { zxid: walk.start() }.encode(&mut head);
                link.stream = None;
                let waiting = std::mem::take(&mut link.waiting);
                self.send_packets(k, conn, &head);
                let Some(link) = self.process().links.get_mut(&conn) else { return };
                link.waiting = waiting;
                link.stream = Some(Stream::Walking(walk));
            }
            Some(Stream::Walking(walk)) => {
                let mut message = vec![TREE];
                let goes_on = walk.next_part(&tree, PART, &mut message);
                if !goes_on {
                    message[0] = TREE_END;
                    link.stream = None;
                    let waiting = std::mem::take(&mut link.waiting);
                    k.net.send(k.now, conn, side, message);
                    k.tell(|| format!("{id} has sent its tree on {conn}"));
                    for packets in waiting {
                        self.send_packets(k, conn, &packets);
                    }
                    return self.step(k, Input::SnapshotSent { link: LinkId(conn) });
                }
                k.net.send(k.now, conn, side, message);
                if self.trees_break && self.rng.one_in(TREE_BREAKS) {
                    k.hit(Point::Reset);
                    return k.net.reset(k.now, conn);
                }
            }
        }
        let event = self.event(Due::Stream(conn));
        let ns = self.rng.around(50 * US);
        k.after(ns, event);
    }

    // Jobs of the disk.

    /// The oldest job of the disk is done.
    pub(crate) fn job(&mut self, k: &mut Kernel) {
        let id = self.id;
        let wall = self.clock.wall(k.now);
        let p = self.process();
        match p.jobs.pop_front().expect("one event for each job") {
            Job::Epochs { accepted, current, joined } => {
                let superblock = &mut p.superblock;
                let done = if joined { superblock.set_joined() } else { Ok(()) };
                let done =
                    done.and_then(|()| superblock.accept_epoch(accepted)).and_then(|()| match current {
                        Some((epoch, history)) => superblock.enter_epoch(epoch, history),
                        None => Ok(()),
                    });
                if let Err(e) = done {
                    return self.fail(k, &e);
                }
                let epochs = p.superblock.epochs();
                k.hit(Point::NewEpoch);
                let (accepted, current) = (epochs.accepted(), epochs.current());
                k.fact(&Fact::Epochs { server: id, accepted, current });
                self.step(k, Input::EpochsPersisted(epochs));
            }
            Job::Find { link, zxid } => {
                let found = p.find_in_log(zxid);
                self.step(k, Input::FoundInLog { link: LinkId(link), found });
            }
            Job::Truncate { after, applier } => match self.truncate(k, after, applier) {
                Ok(applier) => {
                    let durable = self.process().appender.durable();
                    self.step(k, Input::Truncated { durable, applier });
                }
                Err(Refusal::Disk(why) | Refusal::Damage(why)) => self.fail(k, &why),
            },
            Job::Reload { mut applier } => {
                k.hit(Point::Reloaded);
                let p = self.process();
                if let Err(Refusal::Disk(why) | Refusal::Damage(why)) =
                    rebuild(&mut p.catalogue, &p.appender, &mut applier, wall)
                {
                    return self.fail(k, &why);
                }
                let tree = p.tree.clone();
                p.forget_handed();
                self.stand(k, &tree);
                self.step(k, Input::Reloaded { applier });
            }
            Job::End { by_majority } => {
                if by_majority {
                    if let Err(e) = p.superblock.set_blank() {
                        return self.fail(k, &e);
                    }
                    self.blank = true;
                    k.fact(&Fact::Distrusts { server: id });
                }
                self.die(k, false, false);
                k.after(50 * MS, Event::Boot { server: id });
            }
            Job::Save { zxid } => match self.save(k, zxid) {
                Ok(()) => {
                    let durable = self.process().appender.durable();
                    self.step(k, Input::SnapshotSaved { durable });
                }
                Err(Refusal::Disk(why) | Refusal::Damage(why)) => self.fail(k, &why),
            },
        }
    }

    fn truncate(
        &mut self,
        k: &mut Kernel,
        after: Zxid,
        applier: Option<engine::Applier>,
    ) -> Result<Option<engine::Applier>, Refusal> {
        let id = self.id;
        let wall = self.clock.wall(k.now);
        k.hit(Point::UncommittedDropped);
        let p = self.process();
        let durable = cut(&mut p.appender, &mut p.superblock, &mut p.catalogue, after)?;
        let base = p.appender.base();
        let is_blank = !p.superblock.contents().joined;
        self.blank |= is_blank;
        if base == durable.upto() {
            k.fact(&Fact::Anew { server: id, base });
        } else {
            k.fact(&Fact::Cut { server: id, end: durable.upto() });
        }
        let p = self.process();
        let end = p.appender.last();
        p.handed.retain(|(zxid, ..)| *zxid <= end);
        let Some(mut applier) = applier else { return Ok(None) };
        k.hit(Point::Reloaded);
        rebuild(&mut p.catalogue, &p.appender, &mut applier, wall)?;
        p.forget_handed();
        let tree = p.tree.clone();
        self.stand(k, &tree);
        Ok(Some(applier))
    }

    /// Makes a received tree the state of this server: the snapshot, then the log behind it, one write of the superblock.
    fn save(&mut self, k: &mut Kernel, zxid: Zxid) -> Result<(), Refusal> {
        let id = self.id;
        let wall = self.clock.wall(k.now);
        let dir = self.disk.dir("data/snapshot");
        let link = self.process().received.expect("what is saved was received");
        k.fact(&Fact::Installs { server: id, link, base: zxid });
        if k.judge.book.servers[id].spoilt {
            k.hit(Point::StateTakenBack);
        }
        let p = self.process();
        let mut walk = p.tree.walk();
        let server = ServerId(id as i64 + 1);
        let header = Header { cluster: cluster_bytes(), server, start: walk.start(), written: wall };
        let mut writer = snapshot::Writer::create(dir, header, Box::new(|_| ControlFlow::Continue(())))?;
        let mut buffer = Vec::new();
        loop {
            buffer.clear();
            let part = walk.next(&p.tree, 4096, &mut buffer);
            let Some(kind) = kind_of(part.kind) else { break };
            writer.part(kind, part.count as u32, &buffer)?;
        }
        let (end, digest) = walk.end().expect("a walk that is done has an end");
        if end != zxid {
            return Err(Refusal::Damage(format!("the tree stands at {end} and was to be saved at {zxid}")));
        }
        let entry =
            writer.finish(end, Some(Digest { version: DIGEST_VERSION as u32, value: digest }), wall)?;
        p.catalogue.add(entry);
        cut(&mut p.appender, &mut p.superblock, &mut p.catalogue, zxid)?;
        p.catalogue.retire_before(zxid)?;
        k.fact(&Fact::Anew { server: id, base: zxid });
        let tree = self.process().tree.clone();
        self.process().forget_handed();
        self.stand(k, &tree);
        Ok(())
    }
}

/// Cuts log and snapshots behind `after`, as `falconerd` does.
pub(crate) fn cut(
    appender: &mut Appender,
    superblock: &mut Superblock,
    catalogue: &mut Catalogue,
    after: Zxid,
) -> Result<Durable, Refusal> {
    wal::cut(appender, superblock, after, |upto| {
        catalogue.truncated(upto)?;
        Ok(catalogue.entries().first().map(|e| (e.start(), e.end())))
    })
}

impl Process {
    /// A snapshot that is being written is given up: its tree is about to change.
    fn drop_snapshot(&mut self) {
        self.snapshot = None;
    }

    /// What is in the tree already is not applied any more.
    fn forget_handed(&mut self) {
        let applied = self.tree.applied();
        self.handed.retain(|(zxid, ..)| *zxid > applied);
    }

    /// The last record of the log at or before `zxid`.
    fn find_in_log(&self, zxid: Zxid) -> Option<Zxid> {
        let mut reader = self.appender.reader(zxid).ok()?;
        let mut last = reader.base();
        while let Ok(Some(batch)) = reader.next_batch() {
            for (z, _) in batch.records() {
                if z > zxid {
                    return Some(last);
                }
                last = z;
            }
        }
        Some(last)
    }
}
