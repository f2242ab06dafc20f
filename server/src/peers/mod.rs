//! The connections between the servers of an ensemble.
//!
//! Three nouns: the *election* ([`election`]) holds at most one connection to each other server and the newest
//! notification for it; a *link* ([`link`]) is one connection of the quorum port, dialled or accepted, with the queue of
//! what it has to carry; a *job* ([`jobs`]) is what takes long on a link: a snapshot, a stretch of the log.
//!
//! ```text
//!   sockets ── net (one thread) ── bytes → packets and notifications, bounds checked ── Core's inbox ── Node::step
//!   Node::next_output ── Core::run_outputs ── Peers::{notify, dial, send, propose, ...} ── outlets ── sockets
//! ```
//!
//! Whoever steps the node writes out what it left for the peers, as with clients: no thread is woken for a proposal or an
//! acknowledgement. Host names are resolved anew at each dial, by a thread of its own, since a resolver may take long.
//!
//! Not here: who may lead, what is sent to whom, when a silent peer is given up (`zab`, `node`).

pub mod acks;
pub mod dial;
pub mod election;
pub mod jobs;
pub mod link;
pub mod net;
pub mod queue;

use crate::limits;
use acks::Acks;
use config::{Ensemble, HostPort};
use dial::{Dialled, Purpose};
use election::{Action, Election};
use engine::Applier;
use link::{Job, Link};
use mio::Waker;
use parking_lot::Mutex;
use proto::peer::{Address, FromLeader};
use proto::{LinkId, ServerId, Zxid};
use queue::Learners;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use zab::Records;

/// Where another server is reached.
#[derive(Clone, Debug)]
pub struct Remote {
    /// Its quorum port.
    pub quorum: HostPort,
    /// Its election port.
    pub election: HostPort,
}

/// What the connections need to know of the configuration.
#[derive(Clone, Debug)]
pub struct PeersConfig {
    /// This server.
    pub me: ServerId,
    /// All members, this one included.
    pub members: BTreeMap<ServerId, Remote>,
    /// How long a dial may take (`cnxTimeout`).
    pub dial_timeout: Duration,
    /// How long a caller of the election port may take to say who it is (`quorumCnxnTimeoutMs`, else syncLimit ticks).
    pub hello_timeout: Duration,
    /// How long a snapshot may make no progress at all: initLimit ticks.
    pub stall_timeout: Duration,
    /// SO_KEEPALIVE.
    pub keep_alive: bool,
    /// The longest data of a packet, bytes.
    pub packet_max: usize,
}

impl PeersConfig {
    /// From the settings.
    pub fn new(ensemble: &Ensemble, tick_ms: u32, packet_max: usize) -> PeersConfig {
        let ticks = |n: u32| Duration::from_millis(u64::from(tick_ms) * u64::from(n));
        let remote = |m: &config::Member| {
            // The resolver lets one address through.
            let a = &m.addresses[0];
            let at = |port| HostPort { host: a.host.clone(), port };
            (m.id, Remote { quorum: at(a.quorum_port), election: at(a.election_port) })
        };
        PeersConfig {
            me: ensemble.my_id,
            members: ensemble.members.values().map(remote).collect(),
            dial_timeout: Duration::from_millis(u64::from(ensemble.dial_timeout_ms)),
            hello_timeout: match ensemble.hello_timeout_ms {
                Some(ms) => Duration::from_millis(u64::from(ms)),
                None => ticks(ensemble.sync_limit_ticks),
            },
            stall_timeout: ticks(ensemble.init_limit_ticks),
            keep_alive: ensemble.keep_alive,
            packet_max,
        }
    }

    /// Where this server can be called back, for the initial message.
    fn own_address(&self) -> Address {
        let own = &self.members[&self.me].election;
        Address { host: own.host.as_str().to_owned(), port: own.port }
    }
}

/// What other threads tell the one that owns the sockets.
pub(crate) enum Message {
    /// A dial has ended.
    Dialled(Dialled),
    /// The snapshot that comes through this link is to be read.
    ReceiveSnapshot {
        /// The link.
        link: LinkId,
        /// Every txn up to here is in it.
        zxid: Zxid,
        /// It comes from a Falconer.
        falconer: bool,
        /// What takes it in.
        applier: Box<Applier>,
    },
    /// It has been read; these bytes lie behind it. `None`: the link is of no use any more.
    Received(LinkId, Option<Vec<u8>>),
    /// The server stops.
    Stop,
}

/// The connections as every thread sees them.
pub struct Peers {
    config: PeersConfig,
    election: Mutex<Election>,
    links: Mutex<HashMap<LinkId, Arc<Link>>>,
    next_link: AtomicU64,
    mailbox: Mutex<Vec<Message>>,
    waker: Waker,
    notified: AtomicBool,
    /// How long followers take.
    pub acks: Acks,
    /// How many packets wait for learners, and how long.
    pub learners: Learners,
    /// Snapshots on their way.
    pub snapshots: AtomicUsize,
    /// Stretches of the log on their way.
    pub logs: AtomicUsize,
}

impl Peers {
    fn new(config: PeersConfig, waker: Waker) -> Peers {
        let others = config.members.keys().copied().filter(|id| *id != config.me);
        Peers {
            acks: Acks::new(others.clone()),
            learners: Learners::new(others.clone()),
            snapshots: AtomicUsize::new(0),
            logs: AtomicUsize::new(0),
            election: Mutex::new(Election::new(config.me, config.own_address(), others)),
            links: Mutex::default(),
            next_link: AtomicU64::new(1),
            mailbox: Mutex::default(),
            waker,
            notified: AtomicBool::new(false),
            config,
        }
    }

    /// How it is configured.
    pub fn config(&self) -> &PeersConfig {
        &self.config
    }

    pub(crate) fn tell(&self, message: Message) {
        self.mailbox.lock().push(message);
        if !self.notified.swap(true, Ordering::SeqCst) {
            // A waker fails only when the thread is gone, and then nobody needs the message.
            let _ = self.waker.wake();
        }
    }

    /// The server stops: the thread of the sockets ends.
    pub fn stop(&self) {
        self.tell(Message::Stop);
    }

    /// Sends a notification to the election port of `to`, where it replaces one that has not left.
    pub fn notify(self: &Arc<Peers>, to: ServerId, payload: &[u8]) {
        let action = self.election.lock().notify(to, payload);
        self.act(action);
    }

    /// The servers to whose election port there is a connection.
    pub fn connected(&self) -> Vec<ServerId> {
        self.election.lock().connected()
    }

    fn act(self: &Arc<Peers>, action: Action) {
        match action {
            Action::Nothing => {}
            Action::Dial { to, also } => {
                let Some(remote) = self.config.members.get(&to) else { return };
                let mut addresses = vec![(remote.election.host.as_str().to_owned(), remote.election.port)];
                addresses.extend(also.into_iter().map(|a| (a.host, a.port)));
                dial::start(self.clone(), Purpose::Election(to), addresses, self.config.dial_timeout);
            }
        }
    }

    /// Connects to the quorum port of `to`.
    pub fn dial(self: &Arc<Peers>, to: ServerId) {
        let address = match self.config.members.get(&to) {
            Some(remote) => vec![(remote.quorum.host.as_str().to_owned(), remote.quorum.port)],
            // Nobody of that id is configured: the dial fails.
            None => Vec::new(),
        };
        dial::start(self.clone(), Purpose::Quorum(to), address, self.config.dial_timeout);
    }

    /// A link by its id, while it lives.
    pub fn link(&self, id: LinkId) -> Option<Arc<Link>> {
        self.links.lock().get(&id).cloned()
    }

    /// All links.
    pub fn links(&self) -> Vec<Arc<Link>> {
        self.links.lock().values().cloned().collect()
    }

    /// Closes a link once what stands in its queue has left, or at once if it stands still. Nobody hears of its end.
    pub fn close(&self, id: LinkId) {
        if let Some(link) = self.links.lock().remove(&id) {
            link.close();
        }
    }

    /// Puts `count` packets into the queue of a link. Returns it when it is to be flushed.
    pub fn send(&self, id: LinkId, packets: &[u8], count: u64) -> Option<Arc<Link>> {
        let link = self.link(id)?;
        link.counts.sent.fetch_add(count, Ordering::Relaxed);
        link.push(packets, count).then_some(link)
    }

    /// Puts a job into the queue of a link. Returns it when it is to be begun now.
    pub fn push_job(&self, id: LinkId, job: Job) -> Option<(Arc<Link>, Job)> {
        let link = self.link(id)?;
        link.push_job(job).map(|job| (link, job))
    }
}

/// How many packets these bytes are.
pub fn count_packets(mut packets: &[u8]) -> u64 {
    let mut count = 0;
    while let Ok(Some(len)) = proto::peer::packet_len(packets, packets.len()) {
        (packets, count) = (&packets[len..], count + 1);
    }
    count
}

/// PROPOSALs of the records, or INFORMs: their bytes as they stand in the batch, each behind its packet's head.
pub fn encode_records(records: &Records, inform: bool, out: &mut Vec<u8>) {
    for (zxid, record) in records.iter() {
        let packet =
            if inform { FromLeader::Inform { zxid, record } } else { FromLeader::Proposal { zxid, record } };
        packet.encode(out);
    }
}

/// The longest data of a packet: what Apache's servers take (`jute.maxbuffer` and as much again), and every record that
/// this server may be asked to log.
pub fn packet_max(request_bytes_max: u32) -> usize {
    limits::PACKET_FLOOR.max(2 * request_bytes_max as usize + (64 << 10))
}
