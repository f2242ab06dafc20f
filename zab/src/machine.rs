//! One server of an ensemble: the roles, and what goes from one to the next.
//!
//! ```text
//!   Settling ── log durable, tree in order ──► Looking ── elected ──► Leading
//!      ▲                                          └── another was ──► Learning
//!      └────────────── leadership or leader lost ─────────────────────────┘
//! ```
//! A role ends by dropping everything that belongs to it. What stays is the log, the applied tree, and the fact that
//! something is committed. Right after a start the tree holds the whole log, committed or not: a learner serves once its
//! leader's commits have reached it.

use crate::broadcast::{Broadcast, Committed, EPOCH_MARGIN};
use crate::config::{Ensemble, Recovered};
use crate::digests::Differs;
use crate::election::{Around, BLANK, Election, Heard, NO_VOTE, Next, Reach};
use crate::history::History;
use crate::leading::Leading;
use crate::learning::Learning;
use crate::limits;
use crate::output::{Output, Records, Service};
use crate::pace::BackOff;
use crate::quorum::Verifier;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use proto::mutant::{self, Mutant};
use proto::peer::{Features, FromLeader, FromLearner, LearnerInfo, Notification, PeerState, Vote};
use proto::txn::RecordBatch;
use proto::{Durable, DurableEpochs, Epoch, Instant, LinkId, ServerId, Zxid};

/// What all roles share.
#[derive(Debug)]
pub(crate) struct Common {
    pub config: Ensemble,
    pub features: Features,
    pub epochs: DurableEpochs,
    /// Epochs that become durable.
    asked: Option<(Epoch, Option<Epoch>)>,
    /// This server has no history that it may vote with.
    pub blank: bool,
    job: Option<Job>,
    pub now: Instant,
    outputs: VecDeque<Output>,
}

impl Common {
    pub fn push(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    pub fn note(&mut self, what: &'static str) {
        self.push(Output::Note(what));
    }

    pub fn send(&mut self, link: LinkId, packet: &FromLeader<'_>) {
        let mut packets = Vec::new();
        packet.encode(&mut packets);
        self.push(Output::Send { link, packets });
    }

    pub fn send_to_leader(&mut self, link: LinkId, packet: &FromLearner<'_>) {
        let mut packets = Vec::new();
        packet.encode(&mut packets);
        self.push(Output::Send { link, packets });
    }

    /// A job for the disk; one at a time.
    pub fn start(&mut self, job: Job, output: Output) {
        assert!(self.job.is_none(), "{job:?} while {:?} is under way", self.job);
        self.job = Some(job);
        self.push(output);
    }

    /// The accepted epoch is to become durable; with `history`, as the epoch of that history.
    pub fn persist_epochs(&mut self, epoch: Epoch, history: Option<Durable>) {
        assert!(self.asked.is_none(), "epochs are made durable one after the other");
        assert!(epoch >= self.epochs.accepted(), "a promise is never taken back");
        self.asked = Some((epoch, history.map(|_| epoch)));
        // A promise that counts is kept by a server that counts, also after a crash: a new ensemble whose first leader has
        // entered its epoch alone would wait for ever for the others, none of whom knew that it had begun.
        let joined = history.is_some() || !self.blank;
        self.push(Output::PersistEpochs { accepted: epoch, current: history.map(|h| (epoch, h)), joined });
    }
}

/// A job of the disk that a role has asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Job {
    Truncate { after: Zxid },
    Reload,
    Receive,
    Save,
}

/// What a server is doing.
#[derive(Debug)]
enum Role {
    /// It runs alone: a quorum of one from the start.
    Alone(Broadcast),
    /// A role has ended, and the disk is not done with what it asked for.
    Settling,
    Looking(Election),
    Learning(Learning),
    Leading(Leading),
}

/// Who has connected while nobody leads here: the election may end in a moment.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    since: Instant,
    info: Option<(bool, Epoch, LearnerInfo)>,
}

/// The consensus of one server. Everything that happens comes in through a method, together with the time; what is to
/// be done leaves through [`Zab::next_output`]; what is decided is asked for.
#[derive(Debug)]
pub struct Zab {
    common: Common,
    history: History,
    role: Role,
    committed: Zxid,
    /// Rounds of elections, this one included.
    round: i64,
    /// The vote of the last election, with the round that it was won in.
    vote: (Vote, i64),
    reach: BTreeMap<ServerId, Reach>,
    /// Notifications that came while the disk was settling.
    early: BTreeMap<ServerId, Heard>,
    waiting: BTreeMap<LinkId, Waiting>,
    /// It does not want to be elected before.
    abstains_until: Instant,
    /// The tree is not what the disk has.
    tree_is_loose: bool,
    /// Roles that have ended.
    generation: u64,
    service: Service,
    looking_since: Instant,
    /// The counter at which a leader of an ensemble makes room for the next epoch.
    epoch_end: u32,
    /// `None`: nothing is handed over because a disk is slow.
    back_off: Option<BackOff>,
    /// When the next hand-over of a full log may be.
    full_back_off: BackOff,
    /// It doubts its own state: it serves nobody, and if the role ends so, the tree is built again.
    suspended: bool,
    /// Its state is not that of the others: it takes part in nothing any more.
    halted: bool,
}

impl Zab {
    /// A server that runs alone, whose log ends at `durable`, all of it applied.
    pub fn alone(me: ServerId, durable: Durable) -> Zab {
        let verifier = Verifier::majority(alloc::vec![me]);
        let config = Ensemble {
            me,
            verifier: verifier.clone(),
            observers: Vec::new(),
            tick_ms: 1,
            init_limit: 1,
            connect_limit: 1,
            sync_limit: 1,
            config_text: Arc::new([]),
            config_version: 0,
            election: Default::default(),
            kept_records: 0,
            read_only_after_ms: None,
            slow_log: None,
        };
        let epochs = DurableEpochs::of_log(durable);
        let mut zab = Zab::with(config, epochs, false, History::new(durable, Vec::new(), 0), Instant(0));
        zab.role = Role::Alone(Broadcast::new(me, verifier, durable.upto()));
        zab.service = Service::Leading;
        zab
    }

    /// A server of an ensemble, whose log ends at `durable`, all of it applied to its tree. It looks for a leader at once.
    pub fn join(config: Ensemble, recovered: Recovered, durable: Durable, now: Instant) -> Zab {
        let history = History::new(durable, recovered.recent, config.kept_records);
        let mut zab = Zab::with(config, recovered.epochs, !recovered.joined, history, now);
        zab.settle();
        zab
    }

    fn with(config: Ensemble, epochs: DurableEpochs, blank: bool, history: History, now: Instant) -> Zab {
        Zab {
            back_off: config.slow_log.map(|rule| BackOff::new(rule.back_off_ms.0, now)),
            full_back_off: BackOff::new(limits::FULL_BACK_OFF_MS.0, now),
            common: Common {
                config,
                features: Features::OWN,
                epochs,
                asked: None,
                blank,
                job: None,
                now,
                outputs: VecDeque::new(),
            },
            committed: history.applied(),
            history,
            role: Role::Settling,
            round: 0,
            vote: (NO_VOTE, 0),
            reach: BTreeMap::new(),
            early: BTreeMap::new(),
            waiting: BTreeMap::new(),
            abstains_until: now,
            tree_is_loose: false,
            generation: 0,
            service: Service::None,
            looking_since: now,
            epoch_end: u32::MAX - EPOCH_MARGIN,
            suspended: false,
            halted: false,
        }
    }

    // What is decided.

    /// What this server does for clients.
    pub fn service(&self) -> Service {
        self.service
    }

    /// How often a role has ended. When it changes, everything volatile is to be dropped.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The server that leads, as far as this one knows.
    pub fn leader(&self) -> Option<ServerId> {
        match &self.role {
            Role::Leading(l) if l.is_established() => Some(self.common.config.me),
            Role::Learning(l) if l.is_serving() => Some(l.leader),
            Role::Alone(_) => Some(self.common.config.me),
            _ => None,
        }
    }

    /// Whom the last election was won by, also while that server does not lead yet.
    pub fn elected(&self) -> Option<ServerId> {
        match &self.role {
            Role::Leading(_) | Role::Learning(_) => Some(self.vote.0.leader),
            _ => None,
        }
    }

    /// What it tells its peers that it is doing.
    pub fn state(&self) -> PeerState {
        match &self.role {
            Role::Settling | Role::Looking(_) => PeerState::Looking,
            Role::Alone(_) | Role::Leading(_) => PeerState::Leading,
            Role::Learning(l) if l.is_observer() => PeerState::Observing,
            Role::Learning(_) => PeerState::Following,
        }
    }

    /// The epochs as they are on disk.
    pub fn epochs(&self) -> DurableEpochs {
        self.common.epochs
    }

    /// The epoch that this server leads or follows in, once it serves.
    pub fn epoch(&self) -> Option<Epoch> {
        match &self.role {
            Role::Leading(l) if l.is_established() => Some(l.epoch()),
            Role::Learning(l) if l.is_serving() => Some(l.epoch()),
            _ => None,
        }
    }

    /// The log as memory has it.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Everything up to there is known to be committed.
    pub fn committed(&self) -> Zxid {
        self.committed
    }

    /// The ensemble as it was configured.
    pub fn ensemble(&self) -> &Ensemble {
        &self.common.config
    }

    /// Bytes of packets that wait for the disk; above [`limits::WAITING_BYTES`] no more should be read from the leader.
    pub fn waiting_bytes(&self) -> usize {
        if let Role::Learning(l) = &self.role { l.waiting_bytes() } else { 0 }
    }

    /// The learners of this leader: server, whether it observes, whether it is up to date.
    pub fn learners(&self) -> Vec<(Option<ServerId>, bool, bool)> {
        if let Role::Leading(l) = &self.role { l.learners().collect() } else { Vec::new() }
    }

    /// What the shell is to do next.
    pub fn next_output(&mut self) -> Option<Output> {
        self.common.outputs.pop_front()
    }

    /// When [`Zab::tick`] is due; [`Instant`] 2^64-1: never.
    pub fn next_timeout(&self) -> Instant {
        let own = match &self.role {
            Role::Alone(_) | Role::Settling => Instant(u64::MAX),
            Role::Looking(e) => [self.read_only_at(), self.abstention_ends()]
                .into_iter()
                .flatten()
                .fold(e.next_timeout(), Instant::min),
            Role::Learning(l) => l.next_timeout(&self.common),
            Role::Leading(l) => l.next_timeout(),
        };
        let patience_ms = self.init_ms();
        self.waiting.values().map(|w| w.since.plus_ms(patience_ms)).fold(own, Instant::min)
    }

    // The leader's proposals.

    /// The zxid of the next proposal; `None` while there can be none: this server does not lead, hands over, or the record of
    /// the next epoch is not durable yet.
    pub fn next_zxid(&self) -> Option<Zxid> {
        match &self.role {
            Role::Alone(b) => b.next_zxid(),
            Role::Leading(l) if !l.resigning => l.broadcast()?.next_zxid(),
            _ => None,
        }
    }

    /// The batch in which the record of `zxid`, which [`Zab::next_zxid`] gave, is written by the caller, at once.
    pub fn propose(&mut self, zxid: Zxid) -> &mut RecordBatch {
        match &mut self.role {
            Role::Alone(b) => b.propose(zxid),
            Role::Leading(l) => l.broadcast_mut().expect("only a leader gives zxids").propose(zxid),
            _ => unreachable!("only a leader gives zxids"),
        }
        self.history.open()
    }

    /// The last zxid that is proposed, or that came as a proposal.
    pub fn proposed(&self) -> Zxid {
        self.history.last()
    }

    /// The records since the last call, for the log; `None` when there are none. They go to the followers too.
    pub fn take_batch(&mut self) -> Option<Arc<RecordBatch>> {
        let batch = self.history.seal()?;
        if let Role::Leading(l) = &mut self.role
            && l.is_established()
        {
            l.propose(&mut self.common, Records::new(batch.clone(), 0, batch.len()));
        }
        Some(batch)
    }

    /// The next records to apply, all of them committed and durable here.
    pub fn next_to_apply(&mut self) -> Option<Records> {
        let upto = self.committed.min(self.history.durable().upto());
        if upto <= self.history.applied() { None } else { self.history.next_to_apply(upto) }
    }

    /// Committed records to be applied to a tree that was just received; the log will begin behind them.
    pub fn take_loose(&mut self) -> Option<RecordBatch> {
        if let Role::Learning(l) = &mut self.role { l.take_loose() } else { None }
    }

    /// Asks whether this server still leads. The answer is there when [`Zab::confirmed`] reaches the number returned.
    pub fn confirm(&mut self, now: Instant) -> u64 {
        self.common.now = now;
        match &mut self.role {
            Role::Leading(l) => l.ask_round(&mut self.common),
            _ => 0,
        }
    }

    /// The last question of [`Zab::confirm`] that a quorum has answered.
    pub fn confirmed(&self) -> u64 {
        if let Role::Leading(l) = &self.role { l.rounds_done() } else { 0 }
    }

    /// Whether the learner on `link` may send requests.
    pub fn serves(&self, link: LinkId) -> bool {
        matches!(&self.role, Role::Leading(l) if l.serves(link))
    }

    /// The link to the leader that this server follows or observes, once it serves.
    pub fn leader_link(&self) -> Option<LinkId> {
        match &self.role {
            Role::Learning(l) if l.is_serving() => l.link,
            _ => None,
        }
    }

    /// Encoded packets for a link, behind everything before.
    pub fn send(&mut self, link: LinkId, packets: Vec<u8>) {
        self.common.push(Output::Send { link, packets });
    }

    /// A link is to be closed.
    pub fn close(&mut self, now: Instant, link: LinkId, why: &'static str) {
        self.common.note(why);
        self.common.push(Output::Close { link });
        self.link_down(now, link);
    }

    // What happens.

    /// The record of the next epoch is wanted, of a server alone whose counter nears its end.
    pub fn epoch_wanted(&mut self) {
        if let Role::Alone(b) = &self.role
            && let Some(epoch) = b.epoch_wanted()
            && self.common.asked.is_none()
            && epoch > self.common.epochs.current()
        {
            self.common.persist_epochs(epoch, Some(self.history.durable()));
        }
    }

    /// The log has everything up to there.
    pub fn persisted(&mut self, now: Instant, durable: Durable) {
        self.common.now = now;
        self.history.persisted(durable);
        match &mut self.role {
            Role::Alone(b) => {
                if let Some(committed) = b.own_ack(durable) {
                    self.committed = committed.upto();
                }
            }
            Role::Leading(l) => {
                let committed = l.own_ack(now, durable);
                self.commit(committed);
            }
            Role::Learning(l) => l.persisted(&mut self.common, &self.history),
            Role::Settling => self.settle(),
            Role::Looking(_) => {}
        }
    }

    /// Epochs are durable.
    pub fn epochs_persisted(&mut self, now: Instant, epochs: DurableEpochs) {
        self.common.now = now;
        let before = self.common.epochs;
        assert!(
            epochs.accepted() >= before.accepted() && epochs.current() >= before.current(),
            "epochs only grow: {epochs:?} after {before:?}"
        );
        self.common.epochs = epochs;
        if let Some((_, Some(_))) = self.common.asked.take() {
            // It has the history of its epoch, be it the one that it was in before.
            self.common.blank = false;
        }
        let outcome = match &mut self.role {
            Role::Alone(b) => {
                b.epoch_durable(epochs.current());
                Ok(())
            }
            Role::Leading(l) => l.epochs_persisted(&mut self.common, &self.history),
            Role::Learning(l) => l.epochs_persisted(&mut self.common, &mut self.history),
            Role::Settling => {
                self.settle();
                Ok(())
            }
            Role::Looking(_) => Ok(()),
        };
        self.end(outcome);
    }

    /// A notification has come from `from`, a configured server.
    pub fn notification(&mut self, now: Instant, from: ServerId, n: &Notification<'_>) {
        self.common.now = now;
        let heard = Heard::of(n);
        let is_voter = self.common.config.verifier.is_voter(from);
        match &mut self.role {
            Role::Alone(_) => {}
            Role::Settling => {
                self.early.insert(from, heard);
            }
            Role::Looking(e) if is_voter => {
                let around = around(&self.common, &self.reach);
                let next = e.heard(from, heard, &around);
                self.go_on_looking(next);
            }
            Role::Looking(e) => {
                let (vote, round) = (e.proposal, e.round);
                self.notify(from, vote, round);
            }
            Role::Learning(_) | Role::Leading(_) => {
                if !is_voter {
                    self.notify(from, self.vote.0, self.round);
                } else if n.state == PeerState::Looking {
                    self.notify(from, self.vote.0, self.vote.1);
                }
            }
        }
    }

    /// There is a connection to the election port of `peer`, or there is none.
    pub fn election_link(&mut self, now: Instant, peer: ServerId, up: bool) {
        self.common.now = now;
        self.reach.insert(peer, if up { Reach::Up } else { Reach::Down });
        self.go_on_looking(Next::Wait);
    }

    /// A link of the quorum port is there.
    pub fn link_up(&mut self, now: Instant, link: LinkId, dialled: Option<ServerId>) {
        self.common.now = now;
        match (&mut self.role, dialled) {
            (Role::Learning(l), Some(to)) if l.leader == to => l.link_up(&mut self.common, link),
            (_, Some(_)) | (Role::Alone(_), _) => self.common.push(Output::Close { link }),
            (Role::Leading(l), None) if l.links().count() < limits::LEARNERS => l.link_up(link, now),
            (Role::Looking(_) | Role::Settling, None) if self.waiting.len() < limits::WAITING_LINKS => {
                self.waiting.insert(link, Waiting { since: now, info: None });
            }
            (_, None) => self.common.push(Output::Close { link }),
        }
    }

    /// A link is gone.
    pub fn link_down(&mut self, now: Instant, link: LinkId) {
        self.common.now = now;
        self.waiting.remove(&link);
        match &mut self.role {
            Role::Leading(l) => l.link_down(&mut self.common, link),
            Role::Learning(l) if l.link == Some(link) => {
                l.link = None;
                self.end(Err("the connection to the leader is lost"));
            }
            _ => {}
        }
    }

    /// No connection to the server that was elected.
    pub fn dial_failed(&mut self, now: Instant, to: ServerId) {
        self.common.now = now;
        if let Role::Learning(l) = &mut self.role
            && l.leader == to
        {
            l.dial_failed(&self.common);
        }
    }

    /// A packet of a learner, if it is one of agreement; its pings count as signs of life.
    pub fn from_learner(&mut self, now: Instant, link: LinkId, packet: &FromLearner<'_>) {
        self.common.now = now;
        let leading = match &mut self.role {
            Role::Leading(l) => l,
            Role::Looking(_) | Role::Settling => {
                match (self.waiting.get_mut(&link), packet) {
                    (Some(w), &FromLearner::Info { observer, accepted, info }) if w.info.is_none() => {
                        w.info = Some((observer, accepted, info));
                    }
                    (Some(_), _) => self.close(now, link, "a learner spoke before it was asked"),
                    (None, _) => {}
                }
                return;
            }
            Role::Learning(_) | Role::Alone(_) => return,
        };
        let (common, history) = (&mut self.common, &self.history);
        match *packet {
            FromLearner::Info { observer, accepted, info } => {
                let outcome = leading.info(common, link, observer, accepted, info);
                self.end(outcome);
            }
            FromLearner::AckEpoch { last, current } => {
                leading.ack_epoch(common, history, link, last, current);
                self.led();
            }
            FromLearner::Ack { zxid } => {
                let committed = leading.ack(common, history, link, zxid);
                self.led();
                self.commit(committed);
            }
            FromLearner::Ping { .. } => leading.pong(common, link),
            FromLearner::Digest { zxid, digest, doubts } => {
                if let Some(differs) = leading.digest(common, link, zxid, digest, doubts) {
                    self.halt(now, differs);
                }
            }
            FromLearner::Revalidate { .. } | FromLearner::Request { .. } => leading.heard(link, now),
        }
    }

    /// A packet of the leader, if it is one of agreement; others count as signs of life.
    pub fn from_leader(&mut self, now: Instant, link: LinkId, packet: FromLeader<'_>) {
        self.common.now = now;
        let Role::Learning(l) = &mut self.role else { return };
        if l.link != Some(link) {
            return;
        }
        let outcome = l.packet(&mut self.common, &mut self.history, packet);
        self.learnt(outcome);
    }

    /// Whether `link` is the one to the leader, in any phase.
    pub fn is_link_to_leader(&self, link: LinkId) -> bool {
        matches!(&self.role, Role::Learning(l) if l.link == Some(link))
    }

    /// The log on disk was asked.
    pub fn found_in_log(&mut self, now: Instant, link: LinkId, found: Option<Zxid>) {
        self.common.now = now;
        if let Role::Leading(l) = &mut self.role {
            l.found_in_log(&mut self.common, &self.history, link, found);
        }
    }

    /// A tree has left for a learner; what was pushed for it meanwhile stands behind it.
    pub fn snapshot_sent(&mut self, now: Instant, link: LinkId) {
        self.common.now = now;
        if let Role::Leading(l) = &mut self.role {
            l.snapshot_sent(&mut self.common, link);
        }
    }

    /// The log was cut; [`Zxid::ZERO`] when everything had to go.
    pub fn truncated(&mut self, now: Instant, durable: Durable) {
        self.common.now = now;
        let Some(Job::Truncate { after }) = self.common.job.take() else {
            unreachable!("the log is cut when that was asked for")
        };
        self.history.truncated(durable);
        let is_there = durable.upto() == after;
        if durable.upto() == Zxid::ZERO && !is_there {
            self.common.blank = true;
        }
        self.committed = self.committed.min(durable.upto());
        match &mut self.role {
            Role::Learning(l) => {
                let outcome = l.truncated(&mut self.common, &mut self.history, is_there);
                self.learnt(outcome);
            }
            _ => self.settle(),
        }
    }

    /// The tree is what the disk has.
    pub fn reloaded(&mut self, now: Instant) {
        self.common.now = now;
        assert_eq!(self.common.job.take(), Some(Job::Reload), "a tree is rebuilt when that was asked for");
        self.tree_is_loose = false;
        self.history.rebuilt();
        self.committed = self.history.applied();
        self.settle();
    }

    /// A tree was received, which is of one moment from this zxid on; `None`: not all of it.
    pub fn snapshot_received(&mut self, now: Instant, link: LinkId, settles: Option<Zxid>) {
        self.common.now = now;
        assert_eq!(self.common.job.take(), Some(Job::Receive), "a tree is received when that was asked for");
        match &mut self.role {
            Role::Learning(l) if l.link == Some(link) => {
                let outcome = l.snapshot_received(&mut self.common, &mut self.history, settles);
                self.learnt(outcome);
            }
            _ => self.settle(),
        }
    }

    /// The tree is saved, and the log begins behind it.
    pub fn snapshot_saved(&mut self, now: Instant, durable: Durable) {
        self.common.now = now;
        assert_eq!(self.common.job.take(), Some(Job::Save), "a tree is saved when that was asked for");
        self.history.reset(durable);
        self.committed = durable.upto();
        self.tree_is_loose = false;
        match &mut self.role {
            Role::Learning(l) => {
                l.snapshot_saved(&mut self.common, &mut self.history, durable);
                self.learnt(Ok(()));
            }
            _ => self.settle(),
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Instant) {
        self.common.now = now;
        let patience_ms = self.init_ms();
        let late: Vec<LinkId> = self
            .waiting
            .iter()
            .filter(|(_, w)| now >= w.since.plus_ms(patience_ms))
            .map(|(&l, _)| l)
            .collect();
        for link in late {
            self.waiting.remove(&link);
            self.common.push(Output::Close { link });
        }
        if self.abstention_ends().is_some_and(|at| now >= at) {
            // Nobody has come to lead meanwhile: from now on this server counts.
            return self.settle();
        }
        match &mut self.role {
            Role::Alone(_) | Role::Settling => {}
            Role::Looking(e) => {
                let next = e.tick(&around(&self.common, &self.reach));
                if self.read_only_at().is_some_and(|at| now >= at) {
                    self.set_service(Service::ReadOnly);
                }
                self.go_on_looking(next);
            }
            Role::Learning(l) => {
                let outcome = l.tick(&mut self.common);
                self.end(outcome);
            }
            Role::Leading(l) => {
                let outcome = l.tick(&mut self.common);
                self.end(outcome);
            }
        }
    }

    /// No more proposals from here: what is in flight is committed, then [`Zab::resign`] is to be called.
    pub fn hand_over(&mut self) {
        if let Role::Leading(l) = &mut self.role {
            l.resigning = true;
        }
    }

    /// Whether this leader's log is so slow beside those of its followers that one of them should lead: true once each
    /// time, and not again for a while.
    pub fn is_held_up(&mut self, now: Instant) -> bool {
        let Role::Leading(l) = &mut self.role else { return false };
        let (Some(slow), Some(rule), Some(back_off)) =
            (l.take_slow(), &self.common.config.slow_log, &mut self.back_off)
        else {
            return false;
        };
        let may = back_off.take(rule.back_off_ms, now);
        if may {
            self.common.push(Output::SlowLog(slow));
        }
        may
    }

    /// Whether this leader, whose log is full, should let one of its followers lead: enough of them have all that was proposed, so
    /// they had room for it. True once each time, and not again for a while: that they have room for more is found out
    /// by asking them to write.
    pub fn may_leave_full(&mut self, now: Instant) -> bool {
        let Role::Leading(l) = &self.role else { return false };
        l.is_spare(&self.common) && self.full_back_off.take(limits::FULL_BACK_OFF_MS, now)
    }

    /// Whether this server leads and gives out no more zxids.
    pub fn is_handing_over(&self) -> bool {
        matches!(&self.role, Role::Leading(l) if l.resigning)
    }

    /// Whether other voters follow this leader.
    pub fn has_followers(&self) -> bool {
        matches!(&self.role, Role::Leading(l) if l.learners().any(|(_, observes, serves)| serves && !observes))
    }

    /// Whether this leader's counter nears its end: the next epoch is to be begun by an election.
    pub fn needs_epoch(&self) -> bool {
        let Role::Leading(l) = &self.role else { return false };
        // What it has inherited is of an older epoch, whose counter may stand anywhere.
        let is_near =
            |b: &Broadcast| b.proposed().epoch() == l.epoch() && b.proposed().counter() >= self.epoch_end;
        !l.resigning && l.broadcast().is_some_and(is_near)
    }

    /// Reigns end at this counter of zxids, if not before: for whoever wants to see it without four billion writes.
    pub fn end_epochs_at(&mut self, counter: u32) {
        self.epoch_end = counter.min(self.epoch_end);
    }

    /// Leadership ends, and this server does not want it back for `abstain_ms`.
    pub fn resign(&mut self, now: Instant, why: &'static str, abstain_ms: u64) {
        self.common.now = now;
        if let Role::Leading(_) = &self.role {
            self.abstains_until = now.plus_ms(abstain_ms);
            self.end(Err(why));
        }
    }

    // Digests.

    /// Asks the learners for their digests, if it is time. `Some`: what this server's own is with exactly that applied, is to
    /// be told too ([`Zab::own_digest`]).
    pub fn ask_digests(&mut self) -> Option<Zxid> {
        let Role::Leading(l) = &mut self.role else { return None };
        l.ask_digests(&mut self.common, self.committed).then_some(self.committed)
    }

    /// The digest of the tree of this leader, with everything up to `zxid` applied.
    pub fn own_digest(&mut self, now: Instant, zxid: Zxid, digest: i64) {
        self.common.now = now;
        if let Role::Leading(l) = &mut self.role
            && let Some(differs) = l.own_digest(&mut self.common, zxid, digest)
        {
            self.halt(now, differs);
        }
    }

    /// The learners of this leader are to be asked soon.
    pub fn want_digests(&mut self) {
        if let Role::Leading(l) = &mut self.role {
            l.wants_digests = true;
        }
    }

    /// Whether the leader of this learner compares digests.
    pub fn leader_compares(&self) -> bool {
        matches!(&self.role, Role::Learning(l) if l.compares())
    }

    /// This learner doubts its own state, and serves nobody; or it need not any longer.
    pub fn suspend(&mut self, suspended: bool) {
        self.suspended = suspended;
        if suspended {
            self.set_service(Service::None);
        } else {
            self.learnt(Ok(()));
        }
    }

    /// The shell is told of a doubt.
    pub fn doubt(&mut self, differs: Differs) {
        self.common.push(Output::Doubt(differs));
    }

    /// This server's state differs: it takes part in nothing any more.
    pub fn halt(&mut self, now: Instant, differs: Differs) {
        if mutant::is(Mutant::DifferenceIgnored) {
            return;
        }
        self.common.now = now;
        self.halted = true;
        self.end(Err("this server's state is not that of the others"));
        self.common.push(Output::Differs(differs));
    }

    // From role to role.

    fn init_ms(&self) -> u64 {
        self.common.config.tick_ms * u64::from(self.common.config.init_limit)
    }

    /// When reads are served without a leader: never from a blank server, which would show an empty tree.
    fn read_only_at(&self) -> Option<Instant> {
        let after_ms = self.common.config.read_only_after_ms?;
        (!self.common.blank && self.service == Service::None).then(|| self.looking_since.plus_ms(after_ms))
    }

    /// When this server, which takes no part in the election, is to take part.
    fn abstention_ends(&self) -> Option<Instant> {
        let Role::Looking(e) = &self.role else { return None };
        (e.abstains() && !self.common.blank).then_some(self.abstains_until)
    }

    fn set_service(&mut self, service: Service) {
        if self.service != service {
            self.service = service;
            self.common.push(Output::Serve(service));
        }
    }

    fn commit(&mut self, committed: Option<Committed>) {
        let Some(committed) = committed else { return };
        let upto = committed.upto();
        if let Role::Leading(l) = &mut self.role {
            l.commit(&mut self.common, &self.history, self.committed, upto);
        }
        self.committed = upto;
    }

    /// After something happened to a leader: is it established by now?
    fn led(&mut self) {
        if let Role::Leading(l) = &self.role
            && l.is_established()
            && self.service != Service::Leading
        {
            // The history that a quorum has is committed.
            self.committed = self.history.last();
            self.vote.0.peer_epoch = i64::from(l.epoch().0);
            self.set_service(Service::Leading);
        }
    }

    /// After something happened to a learner.
    fn learnt(&mut self, outcome: Result<(), &'static str>) {
        if outcome.is_ok()
            && let Role::Learning(l) = &self.role
        {
            self.tree_is_loose |= self.common.job == Some(Job::Receive);
            if l.is_serving() {
                self.committed = self.committed.max(l.committed);
                self.vote.0.peer_epoch = i64::from(l.epoch().0);
                // A start replays the whole log, and its end may be in flight still, or be cut by the next leader: such a
                // tree is shown to nobody before the leader has committed what is in it.
                if l.committed >= self.history.applied() && !self.suspended {
                    self.set_service(if l.is_observer() { Service::Observing } else { Service::Following });
                }
            }
        }
        self.end(outcome);
    }

    /// A role ends when something says so.
    fn end(&mut self, outcome: Result<(), &'static str>) {
        let Err(why) = outcome else { return self.led() };
        self.common.note(why);
        let links: Vec<LinkId> = match &self.role {
            Role::Leading(l) => l.links().collect(),
            Role::Learning(l) => l.link.into_iter().collect(),
            Role::Alone(_) | Role::Settling | Role::Looking(_) => Vec::new(),
        };
        for link in links {
            self.common.push(Output::Close { link });
        }
        self.role = Role::Settling;
        self.generation += 1;
        // Nobody has said who is right; what is on disk can at least be read again.
        self.tree_is_loose |= core::mem::take(&mut self.suspended);
        self.set_service(Service::None);
        self.settle();
    }

    /// Looks for a leader once the disk is done and the tree is in order.
    fn settle(&mut self) {
        let busy = !self.history.is_drained() || self.common.job.is_some() || self.common.asked.is_some();
        if busy || self.halted {
            return;
        }
        if self.tree_is_loose {
            return self.common.start(Job::Reload, Output::Reload);
        }
        let config = &self.common.config;
        let init = if !config.verifier.is_voter(config.me) {
            NO_VOTE
        } else {
            let counts = !self.common.blank && self.common.now >= self.abstains_until;
            let zxid = if counts { self.history.last().to_wire() } else { BLANK };
            Vote { leader: config.me, zxid, peer_epoch: i64::from(self.common.epochs.current().0) }
        };
        self.round += 1;
        self.looking_since = self.common.now;
        let election =
            Election::begin(self.round, init, self.common.blank, &around(&self.common, &self.reach));
        self.role = Role::Looking(election);
        self.go_on_looking(Next::TellAll);
        for (from, heard) in core::mem::take(&mut self.early) {
            if let Role::Looking(e) = &mut self.role {
                let next = e.heard(from, heard, &around(&self.common, &self.reach));
                self.go_on_looking(next);
            }
        }
    }

    fn go_on_looking(&mut self, next: Next) {
        let Role::Looking(e) = &mut self.role else { return };
        let (proposal, round) = (e.proposal, e.round);
        self.round = round;
        self.common.blank &= !e.begins;
        match next {
            Next::Wait => {}
            Next::TellAll => {
                let me = self.common.config.me;
                let voters = self.common.config.verifier.voters().to_vec();
                voters.into_iter().filter(|&v| v != me).for_each(|v| self.notify(v, proposal, round));
            }
            Next::Tell(to) => self.notify(to, proposal, round),
            Next::Elected { vote, round } => return self.conclude(vote, round),
        }
        if let Role::Looking(e) = &mut self.role
            && let Some(Next::Elected { vote, round }) = e.is_decided(&around(&self.common, &self.reach))
        {
            self.conclude(vote, round);
        }
    }

    fn conclude(&mut self, vote: Vote, round: i64) {
        self.vote = (vote, round);
        self.round = round;
        self.set_service(Service::None);
        let waiting = core::mem::take(&mut self.waiting);
        if vote.leader != self.common.config.me {
            self.role = Role::Learning(Learning::begin(&mut self.common, vote.leader, &self.history));
            for link in waiting.into_keys() {
                self.common.push(Output::Close { link });
            }
            return;
        }
        let mut leading = Leading::begin(&mut self.common, &self.history);
        leading.alone(&mut self.common);
        let mut outcome = Ok(());
        for (link, w) in waiting {
            leading.link_up(link, self.common.now);
            if let Some((observer, accepted, info)) = w.info
                && outcome.is_ok()
            {
                outcome = leading.info(&mut self.common, link, observer, accepted, info);
            }
        }
        self.role = Role::Leading(leading);
        self.end(outcome);
    }

    fn notify(&mut self, to: ServerId, vote: Vote, round: i64) {
        let n = Notification {
            state: self.state(),
            vote,
            round,
            version: Notification::VERSION,
            config: Some(&self.common.config.config_text),
            features: Some(self.common.features),
        };
        let mut payload = Vec::new();
        n.encode(&mut payload);
        self.common.push(Output::Notify { to, payload: payload.into() });
    }
}

fn around<'a>(common: &'a Common, reach: &'a BTreeMap<ServerId, Reach>) -> Around<'a> {
    Around {
        me: common.config.me,
        verifier: &common.config.verifier,
        times: &common.config.election,
        reach,
        now: common.now,
    }
}
