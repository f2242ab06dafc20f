//! The leader's side: discovery, synchronisation, broadcast (quorum protocol, sections 4.2 to 4.6).
//!
//! ```text
//!   Discovering ── a quorum has come ── epoch accepted ──► Choosing ── a quorum accepts it ── epoch entered
//!        ──► Synchronising ── a quorum has the history ──► Established: proposals, commits
//! ```
//! Learners that come later run through the same states of [`Stage`] on their own.

use crate::broadcast::{Broadcast, Committed};
use crate::digests::{Answer, Differs, Digests, Judges, Verdict};
use crate::history::History;
use crate::machine::Common;
use crate::output::Output;
use crate::pace::{Follower, Pace, Slow};
use crate::quorum::Verifier;
use crate::sync::{Plan, plan};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use proto::mutant::{self, Mutant};
use proto::peer::{Features, FromLeader, LearnerInfo, PROTOCOL_VERSION};
use proto::{Durable, Epoch, Instant, LinkId, ServerId, Zxid};

/// How far a learner has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Nothing was said yet.
    New,
    /// It waits for the epoch.
    Info,
    /// The epoch was proposed to it.
    Proposed,
    /// It has accepted the epoch, and waits until its history can be compared.
    Accepted { last: Zxid },
    /// The log on disk is asked about it.
    Searching { last: Zxid },
    /// The tree is on its way to it, and behind that what is proposed and committed meanwhile. NEWLEADER is said when the
    /// tree has left: so whatever the tree shows is committed before it, and the learner's state is that of one zxid.
    Receiving,
    /// It is being brought up to date; NEWLEADER is behind what was sent.
    Synchronising,
    /// It has everything up to NEWLEADER.
    HasHistory,
    /// It was told so, and serves.
    UpToDate,
}

impl Stage {
    /// Whether its history is followed from here on: each proposal goes to it.
    fn gets_proposals(self) -> bool {
        matches!(self, Stage::Receiving | Stage::Synchronising | Stage::HasHistory | Stage::UpToDate)
    }
}

/// A learner, by its link.
#[derive(Debug)]
struct Learner {
    server: Option<ServerId>,
    observer: bool,
    falconer: bool,
    /// It takes a tree as a stream of parts.
    streams: bool,
    /// It answers questions about digests.
    compares: bool,
    /// Its digest there was asked for last.
    compared: Option<Zxid>,
    stage: Stage,
    /// Last sign of life, or the beginning.
    heard: Instant,
    /// The epoch that it said it had accepted.
    accepted: Epoch,
    /// What it has when it acknowledges NEWLEADER.
    synchronised: Zxid,
    /// COMMITs up to there have been sent to it.
    told: Zxid,
    /// What it has acknowledged before NEWLEADER, as Apache's do up to 3.9.1. It counts only once the epoch is on its
    /// disk too: before, the log alone would lose an election against one without it.
    early: Zxid,
    /// The oldest proposal that it has not acknowledged, with the time when it was sent.
    unacknowledged: Option<(Zxid, Instant)>,
    pings: u64,
    pongs: u64,
}

/// How far the leader has come.
#[derive(Debug)]
enum Phase {
    /// Who comes says which epoch it has accepted; the new one will be above all.
    Discovering { epoch: Epoch, come: BTreeSet<ServerId> },
    /// The epoch is chosen and becomes durable here.
    Accepting,
    /// It is proposed to everybody.
    Choosing { accepted_by: BTreeSet<ServerId> },
    /// It becomes durable as the epoch of this history.
    Entering,
    /// A quorum has to get the history.
    Synchronising { have: BTreeSet<ServerId> },
    /// A quorum has it.
    Established(Broadcast),
}

/// A question whether a quorum still follows: asked by pings, answered by pongs.
#[derive(Debug)]
struct Round {
    number: u64,
    /// The pong that counts, of each link.
    targets: BTreeMap<LinkId, u64>,
}

/// A server that was elected.
#[derive(Debug)]
pub(crate) struct Leading {
    epoch: Epoch,
    phase: Phase,
    learners: BTreeMap<LinkId, Learner>,
    /// Beginning of the phase.
    since: Instant,
    next_ping: Instant,
    /// Every second ping is a tick.
    odd: bool,
    /// Links that get each proposal.
    followers: Arc<[LinkId]>,
    /// Links that get COMMITs.
    committing: Arc<[LinkId]>,
    /// Links that get INFORMs.
    observers: Arc<[LinkId]>,
    /// Proposals up to there have gone to the followers.
    sent: Zxid,
    round: Option<Round>,
    rounds_asked: u64,
    /// The last round that a quorum has answered.
    rounds_done: u64,
    rounds_begun: u64,
    /// No more zxids are given out: leadership ends when everything is committed.
    pub resigning: bool,
    /// `None`: the own disk may be as slow as it likes.
    pace: Option<Box<Pace>>,
    /// It was found to be slow.
    slow: Option<Slow>,
    digests: Digests,
    /// The learners are to be asked for their digests.
    pub wants_digests: bool,
}

/// Why leadership ends.
pub(crate) type Resigned = &'static str;

type Outcome = Result<(), Resigned>;

/// The last epoch: an acknowledgement of an epoch carries it as a signed number.
const EPOCH_MAX: u32 = i32::MAX as u32 - 1;

impl Leading {
    pub fn begin(common: &mut Common, history: &History) -> Leading {
        let me = common.config.me;
        let epoch = Epoch(common.epochs.accepted().0 + 1);
        Leading {
            epoch,
            phase: Phase::Discovering { epoch, come: BTreeSet::from([me]) },
            learners: BTreeMap::new(),
            since: common.now,
            next_ping: common.now.plus_ms(common.config.tick_ms / 2),
            odd: false,
            followers: Arc::new([]),
            committing: Arc::new([]),
            observers: Arc::new([]),
            sent: history.last(),
            round: None,
            rounds_asked: 0,
            rounds_done: 0,
            rounds_begun: 0,
            resigning: false,
            pace: common.config.slow_log.map(|rule| Box::new(Pace::new(rule, common.now))),
            slow: None,
            digests: Digests::default(),
            wants_digests: false,
        }
    }

    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub fn is_established(&self) -> bool {
        matches!(self.phase, Phase::Established(_))
    }

    pub fn broadcast(&self) -> Option<&Broadcast> {
        if let Phase::Established(b) = &self.phase { Some(b) } else { None }
    }

    pub fn broadcast_mut(&mut self) -> Option<&mut Broadcast> {
        if let Phase::Established(b) = &mut self.phase { Some(b) } else { None }
    }

    /// Whether the learner on `link` may send requests.
    pub fn serves(&self, link: LinkId) -> bool {
        self.learners.get(&link).is_some_and(|l| l.stage == Stage::UpToDate)
    }

    pub fn links(&self) -> impl Iterator<Item = LinkId> {
        self.learners.keys().copied()
    }

    /// The server on a link, whether it observes, and whether it is up to date: for reports.
    pub fn learners(&self) -> impl Iterator<Item = (Option<ServerId>, bool, bool)> {
        self.learners.values().map(|l| (l.server, l.observer, l.stage == Stage::UpToDate))
    }

    pub fn link_up(&mut self, link: LinkId, now: Instant) {
        let learner = Learner {
            server: None,
            observer: false,
            falconer: false,
            streams: false,
            compares: false,
            compared: None,
            stage: Stage::New,
            heard: now,
            accepted: Epoch(0),
            synchronised: Zxid::ZERO,
            told: Zxid::ZERO,
            early: Zxid::ZERO,
            unacknowledged: None,
            pings: 0,
            pongs: 0,
        };
        self.learners.insert(link, learner);
    }

    pub fn link_down(&mut self, common: &mut Common, link: LinkId) {
        if let Some(gone) = self.learners.remove(&link) {
            if let (Some(server), Phase::Established(b)) = (gone.server, &mut self.phase) {
                b.left(server);
            }
            if let Some(pace) = &mut self.pace {
                pace.left(link);
            }
            self.digests.left(link);
            self.group();
            self.answer_round(common);
        }
    }

    fn close(&mut self, common: &mut Common, link: LinkId, why: &'static str) {
        common.note(why);
        common.push(Output::Close { link });
        self.link_down(common, link);
    }

    pub fn info(
        &mut self,
        common: &mut Common,
        link: LinkId,
        observer: bool,
        accepted: Epoch,
        info: LearnerInfo,
    ) -> Outcome {
        let Some(server) = info.server.filter(|&s| s != common.config.me) else {
            self.close(common, link, "a learner without an id, or with this server's");
            return Ok(());
        };
        if self.learners.get(&link).is_none_or(|l| l.stage != Stage::New)
            || info.protocol < PROTOCOL_VERSION
            || info.config_version > common.config.config_version
            || accepted.0 > EPOCH_MAX
        {
            self.close(common, link, "a learner that speaks another protocol or has a newer configuration");
            return Ok(());
        }
        let voter = common.config.verifier.is_voter(server) && !observer;
        if !matches!(self.phase, Phase::Discovering { .. }) && voter && accepted > self.epoch {
            // It has promised more than this reign can ask of it, and could never follow it.
            return Err("a voter has accepted a later epoch");
        }
        let older = self.learners.iter().find(|(l, x)| x.server == Some(server) && **l != link);
        if let Some(older) = older.map(|(l, _)| *l) {
            self.close(common, older, "the learner has come back on another link");
        }
        let learner = self.learners.get_mut(&link).expect("it was just looked at");
        learner.server = Some(server);
        learner.observer = observer;
        learner.falconer = info.features.is_some();
        learner.streams = info.features.is_some_and(|f| f.has(Features::STREAM));
        learner.compares = info.features.is_some_and(|f| f.has(Features::DIGESTS));
        learner.accepted = accepted;
        learner.heard = common.now;
        learner.stage = Stage::Info;
        if let Phase::Discovering { epoch, come } = &mut self.phase {
            *epoch = (*epoch).max(Epoch(accepted.0 + 1));
            if voter {
                come.insert(server);
            }
            if common.config.verifier.is_quorum(|s| come.contains(&s)) {
                self.epoch = *epoch;
                self.phase = Phase::Accepting;
                self.since = common.now;
                if mutant::is(Mutant::LeaderEpochNotStored) {
                    for link in self.links_in(|s| *s == Stage::Info) {
                        self.propose_epoch(common, link);
                    }
                }
                common.persist_epochs(self.epoch, None);
            }
        } else if !matches!(self.phase, Phase::Accepting) {
            self.propose_epoch(common, link);
        }
        Ok(())
    }

    /// A quorum of one needs nobody to come.
    pub fn alone(&mut self, common: &mut Common) {
        if let Phase::Discovering { epoch, come } = &self.phase
            && common.config.verifier.is_quorum(|s| come.contains(&s))
        {
            self.epoch = *epoch;
            self.phase = Phase::Accepting;
            common.persist_epochs(self.epoch, None);
        }
    }

    fn propose_epoch(&mut self, common: &mut Common, link: LinkId) {
        let learner = self.learners.get_mut(&link).expect("links that wait are there");
        learner.stage = Stage::Proposed;
        let features = learner.falconer.then_some(common.features);
        common
            .send(link, &FromLeader::LeaderInfo { epoch: self.epoch, protocol: PROTOCOL_VERSION, features });
    }

    fn links_in(&self, is: impl Fn(&Stage) -> bool) -> Vec<LinkId> {
        self.learners.iter().filter(|(_, l)| is(&l.stage)).map(|(&link, _)| link).collect()
    }

    /// Epochs are durable.
    pub fn epochs_persisted(&mut self, common: &mut Common, history: &History) -> Outcome {
        match &mut self.phase {
            Phase::Accepting => {
                assert!(common.epochs.accepted() >= self.epoch, "the epoch that was asked for is durable");
                self.phase = Phase::Choosing { accepted_by: BTreeSet::from([common.config.me]) };
                self.since = common.now;
                for link in self.links_in(|s| *s == Stage::Info) {
                    self.propose_epoch(common, link);
                }
                self.choose(common, history);
            }
            Phase::Entering => {
                assert!(common.epochs.current() == self.epoch, "the epoch that was asked for is durable");
                self.phase = Phase::Synchronising { have: BTreeSet::from([common.config.me]) };
                self.since = common.now;
                for link in self.links_in(|s| matches!(s, Stage::Accepted { .. })) {
                    self.synchronise(common, history, link);
                }
                self.establish(common, history);
            }
            _ => {}
        }
        Ok(())
    }

    pub fn ack_epoch(
        &mut self,
        common: &mut Common,
        history: &History,
        link: LinkId,
        last: Zxid,
        current: Option<Epoch>,
    ) {
        let Some(learner) = self.learners.get_mut(&link).filter(|l| l.stage == Stage::Proposed) else {
            return self.close(common, link, "an epoch is accepted that was not proposed");
        };
        learner.heard = common.now;
        learner.stage = Stage::Accepted { last };
        let blank = last.to_wire() == crate::election::BLANK;
        let (server, observer) = (learner.server.expect("it has told its id"), learner.observer);
        match &mut self.phase {
            Phase::Choosing { accepted_by } => {
                let ahead = current.is_some_and(|c| (c, last) > (common.epochs.current(), history.last()));
                if ahead && !blank && !observer && !mutant::is(Mutant::FollowersAheadIgnored) {
                    return self.close(common, link, "a follower has more history than this leader");
                }
                if current.is_some() && !blank && !observer && common.config.verifier.is_voter(server) {
                    accepted_by.insert(server);
                }
                self.choose(common, history);
            }
            Phase::Synchronising { .. } | Phase::Established(_) => self.synchronise(common, history, link),
            Phase::Entering | Phase::Accepting | Phase::Discovering { .. } => {}
        }
    }

    fn choose(&mut self, common: &mut Common, history: &History) {
        if let Phase::Choosing { accepted_by } = &self.phase
            && common.config.verifier.is_quorum(|s| accepted_by.contains(&s))
        {
            self.phase = Phase::Entering;
            self.since = common.now;
            assert!(history.is_drained(), "a leader begins with a history that is durable");
            common.persist_epochs(self.epoch, Some(history.durable()));
        }
    }

    fn synchronise(&mut self, common: &mut Common, history: &History, link: LinkId) {
        let Some(Stage::Accepted { last }) = self.learners.get(&link).map(|l| l.stage) else { return };
        let falconer = self.learners.get(&link).is_some_and(|l| l.falconer);
        match plan(history, self.committed(history), last, falconer) {
            Plan::AskLog => {
                self.learners.get_mut(&link).expect("it was just looked at").stage =
                    Stage::Searching { last };
                common.push(Output::FindInLog { link, zxid: last });
            }
            decided => self.carry_out(common, history, link, last, decided),
        }
    }

    pub fn found_in_log(
        &mut self,
        common: &mut Common,
        history: &History,
        link: LinkId,
        found: Option<Zxid>,
    ) {
        let Some(Stage::Searching { last }) = self.learners.get(&link).map(|l| l.stage) else { return };
        let falconer = self.learners.get(&link).is_some_and(|l| l.falconer);
        let decided = crate::sync::with_log(self.committed(history), last, found, falconer);
        self.carry_out(common, history, link, last, decided);
    }

    /// Everything that is committed, or will be when this history is.
    fn committed(&self, history: &History) -> Zxid {
        self.broadcast().map_or(history.last(), Broadcast::committed)
    }

    /// Queues what the learner lacks, then NEWLEADER; from here on it gets each proposal. One step, so that no
    /// proposal falls between.
    fn carry_out(&mut self, common: &mut Common, history: &History, link: LinkId, last: Zxid, plan: Plan) {
        let committed = self.committed(history);
        let from = match plan {
            Plan::Diff { from } => {
                common
                    .send(link, &FromLeader::Diff { zxid: if from == committed { last } else { committed } });
                from
            }
            Plan::Trunc { to } => {
                common.send(link, &FromLeader::Trunc { zxid: to });
                to
            }
            Plan::Snap => {
                let falconer = self.learners.get(&link).is_some_and(|l| l.streams);
                common.push(Output::SendSnapshot { link, falconer });
                // What the walk of the tree may see of later records, the learner applies again.
                history.applied()
            }
            Plan::AskLog => unreachable!("the log was asked"),
        };
        let observer = self.learners.get(&link).is_some_and(|l| l.observer);
        let in_memory = from.max(history.base());
        if from < history.base() {
            let upto = history.base().min(committed);
            common.push(Output::SendLog { link, after: from, upto });
        }
        // Committed records each with its COMMIT, as Apache's learners want them; the others follow without.
        let links: Arc<[LinkId]> = Arc::new([link]);
        for records in history.records(in_memory, committed) {
            let mut packets = Vec::new();
            for (zxid, record) in records.iter().skip(usize::from(mutant::is(Mutant::SyncWithHole))) {
                FromLeader::Proposal { zxid, record }.encode(&mut packets);
                FromLeader::Commit { zxid }.encode(&mut packets);
            }
            common.push(Output::Send { link, packets });
        }
        let mut unacknowledged = None;
        if !observer {
            for records in history.records(in_memory.max(committed), history.last_sealed()) {
                unacknowledged.get_or_insert((records.first(), common.now));
                common.push(Output::Propose { links: links.clone(), records });
            }
        }
        let learner = self.learners.get_mut(&link).expect("the caller has looked at it");
        learner.stage = Stage::Receiving;
        learner.synchronised = committed.max(from);
        learner.told = committed;
        learner.early = Zxid::ZERO;
        learner.unacknowledged = unacknowledged;
        if let (Some(server), Phase::Established(b)) = (learner.server, &mut self.phase) {
            b.left(server);
        }
        if plan != Plan::Snap || mutant::is(Mutant::NewLeaderTooEarly) {
            self.say_new_leader(common, link);
        }
        self.group();
    }

    fn say_new_leader(&mut self, common: &mut Common, link: LinkId) {
        let text = common.config.config_text.clone();
        common.send(link, &FromLeader::NewLeader { epoch: self.epoch, config: Some((&*text).into()) });
        let learner = self.learners.get_mut(&link).expect("the caller has looked at it");
        learner.stage = Stage::Synchronising;
    }

    /// The tree has left, and so has what was committed while it did.
    pub fn snapshot_sent(&mut self, common: &mut Common, link: LinkId) {
        let Some(learner) = self.learners.get_mut(&link).filter(|l| l.stage == Stage::Receiving) else {
            return;
        };
        learner.heard = common.now;
        // All that is becomes durable before it acknowledges NEWLEADER; only the rest is acknowledged by itself.
        learner.synchronised = learner.synchronised.max(learner.told);
        let owes = !learner.observer && learner.synchronised < self.sent;
        learner.unacknowledged = owes.then_some((self.sent, common.now));
        self.say_new_leader(common, link);
        self.group();
    }

    /// Sorts the links by what they get.
    fn group(&mut self) {
        let pick = |is: &dyn Fn(&Learner) -> bool| -> Arc<[LinkId]> {
            self.learners.iter().filter(|(_, l)| is(l)).map(|(&link, _)| link).collect()
        };
        let synchronised = |l: &Learner| l.stage.gets_proposals();
        self.followers = pick(&|l| synchronised(l) && !l.observer);
        self.observers = pick(&|l| synchronised(l) && l.observer);
        // Apache's followers up to 3.9.2 stumble over a COMMIT between NEWLEADER and UPTODATE.
        let takes_commits = |l: &Learner| l.falconer || matches!(l.stage, Stage::Receiving | Stage::UpToDate);
        self.committing = pick(&|l| synchronised(l) && !l.observer && takes_commits(l));
    }

    pub fn ack(
        &mut self,
        common: &mut Common,
        history: &History,
        link: LinkId,
        zxid: Zxid,
    ) -> Option<Committed> {
        let learner = self.learners.get_mut(&link)?;
        learner.heard = common.now;
        let server = learner.server?;
        let voter = !learner.observer && common.config.verifier.is_voter(server);
        if zxid.counter() == 0 {
            if learner.stage == Stage::Synchronising && zxid.epoch() == self.epoch {
                learner.stage = Stage::HasHistory;
                let has = learner.synchronised.max(learner.early);
                match &mut self.phase {
                    Phase::Synchronising { have } => {
                        if voter {
                            have.insert(server);
                        }
                        self.establish(common, history);
                    }
                    Phase::Established(b) => {
                        // What it is itself the last to acknowledge is told to it with all the others, and only once: a COMMIT of
                        // something else than the oldest proposal ends Apache's process.
                        let before = b.committed();
                        let committed = if voter { b.joined(server, has) } else { None };
                        self.tell_up_to_date(common, link, before);
                        return committed;
                    }
                    _ => {}
                }
            }
            // The second one, behind UPTODATE, says nothing new.
            return None;
        }
        if !matches!(learner.stage, Stage::Synchronising | Stage::HasHistory | Stage::UpToDate) {
            self.close(common, link, "an acknowledgement of something that was never sent");
            return None;
        }
        if learner.unacknowledged.is_some_and(|(oldest, _)| zxid >= oldest) {
            learner.unacknowledged =
                if zxid < self.sent && !learner.observer { Some((self.sent, common.now)) } else { None };
        }
        if let Some(pace) = &mut self.pace {
            pace.other(common.now, link, zxid);
        }
        if learner.stage == Stage::Synchronising {
            learner.early = learner.early.max(zxid);
            return None;
        }
        match &mut self.phase {
            Phase::Established(b) if voter => b.peer_ack(server, zxid),
            _ => None,
        }
    }

    fn establish(&mut self, common: &mut Common, history: &History) {
        let Phase::Synchronising { have } = &self.phase else { return };
        if !common.config.verifier.is_quorum(|s| have.contains(&s)) && !mutant::is(Mutant::LeadsWithoutQuorum)
        {
            return;
        }
        let me = common.config.me;
        let mut b = Broadcast::new(me, common.config.verifier.clone(), history.last());
        b.epoch_durable(self.epoch);
        for &server in have.iter().filter(|&&s| s != me) {
            b.joined(server, history.last());
        }
        self.phase = Phase::Established(b);
        self.since = common.now;
        self.sent = history.last();
        common.note("a quorum has the history: this server leads");
        for link in self.links_in(|s| *s == Stage::HasHistory) {
            self.tell_up_to_date(common, link, history.last());
        }
    }

    /// Whether followers that have all that was proposed are a quorum without this server: they have room for it, and could
    /// go on.
    pub fn is_spare(&self, common: &Common) -> bool {
        let has_all = |l: &Learner| l.stage == Stage::UpToDate && !l.observer && l.unacknowledged.is_none();
        common
            .config
            .verifier
            .is_quorum(|s| self.learners.values().any(|l| l.server == Some(s) && has_all(l)))
    }

    /// A learner with the history serves from now on, and hears of what was committed, up to `committed`, since it was sent to it.
    fn tell_up_to_date(&mut self, common: &mut Common, link: LinkId, committed: Zxid) {
        let learner = self.learners.get_mut(&link).expect("links that wait are there");
        learner.stage = Stage::UpToDate;
        self.wants_digests |= learner.compares;
        // What was pinged before UPTODATE is not answered.
        (learner.pings, learner.pongs) = (0, 0);
        let mut packets = Vec::new();
        FromLeader::UpToDate.encode(&mut packets);
        if !learner.observer && !learner.falconer {
            put_commits(learner.told, committed, &mut packets);
        }
        learner.told = committed;
        common.push(Output::Send { link, packets });
        self.group();
        if self.round.is_some() {
            // Those that were asked may have gone: without this one they could be too few for ever.
            self.ask_followers(common);
        }
    }

    /// A sealed batch goes to the followers.
    pub fn propose(&mut self, common: &mut Common, records: crate::Records) {
        let last = records.last();
        self.sent = last;
        if let Some(pace) = &mut self.pace {
            pace.sent(common.now, last, &self.followers);
        }
        if self.followers.is_empty() {
            return;
        }
        for learner in self.learners.values_mut().filter(|l| !l.observer && l.unacknowledged.is_none()) {
            learner.unacknowledged = Some((last, common.now));
        }
        common.push(Output::Propose { links: self.followers.clone(), records });
    }

    /// Everything up to there is committed: those who wait for it are told.
    pub fn commit(&mut self, common: &mut Common, history: &History, after: Zxid, upto: Zxid) {
        if !self.committing.is_empty() {
            let mut packets = Vec::new();
            put_commits(after, upto, &mut packets);
            common.push(Output::SendAll { links: self.committing.clone(), packets: packets.into() });
            for link in self.committing.iter() {
                if let Some(l) = self.learners.get_mut(link) {
                    l.told = upto;
                }
            }
        }
        if !self.observers.is_empty() {
            for records in history.records(after, upto) {
                common.push(Output::Inform { links: self.observers.clone(), records });
            }
        }
    }

    /// The own log has everything up to there.
    pub fn own_ack(&mut self, now: Instant, durable: Durable) -> Option<Committed> {
        if let Some(pace) = &mut self.pace {
            pace.own(now, durable.upto());
        }
        self.broadcast_mut()?.own_ack(durable)
    }

    /// The own log was found to be slow, once each time.
    pub fn take_slow(&mut self) -> Option<Slow> {
        self.slow.take()
    }

    fn judge_pace(&mut self, common: &Common) {
        let Some(pace) = &mut self.pace else { return };
        let followers: Vec<Follower> = self
            .learners
            .iter()
            .filter(|(_, l)| l.stage == Stage::UpToDate)
            .filter_map(|(&link, l)| Some((link, l.voter(&common.config.verifier)?, l.falconer)))
            .collect();
        self.slow = pace.judge(common.now, &common.config.verifier, &followers);
    }

    pub fn pong(&mut self, common: &mut Common, link: LinkId) {
        if let Some(l) = self.learners.get_mut(&link) {
            l.heard = common.now;
            l.pongs += 1;
        }
        self.answer_round(common);
    }

    /// Asks the learners that can answer for their digests with everything applied up to `zxid`, the last that they were told
    /// to be committed: so nobody can have gone past it. Whether this server's own is wanted too.
    pub fn ask_digests(&mut self, common: &mut Common, zxid: Zxid) -> bool {
        if !self.is_established() || !core::mem::take(&mut self.wants_digests) {
            return false;
        }
        let mut asked = false;
        for (&link, l) in &mut self.learners {
            if l.compares && l.stage == Stage::UpToDate && l.compared != Some(zxid) {
                l.compared = Some(zxid);
                asked = true;
                common.send(link, &FromLeader::Digest { zxid });
            }
        }
        asked && self.digests.ask(zxid)
    }

    /// The digest of this server's own tree. `Some`: it is the one that differs.
    pub fn own_digest(&mut self, common: &mut Common, zxid: Zxid, digest: i64) -> Option<Differs> {
        let judges = judges(&self.learners, &common.config.verifier);
        let (verdicts, differs) = self.digests.own(judges, common.config.me, zxid, digest);
        self.say_verdicts(common, verdicts);
        differs
    }

    /// A learner says what its tree has. `Some`: this leader is the one that differs.
    pub fn digest(
        &mut self,
        common: &mut Common,
        link: LinkId,
        zxid: Zxid,
        digest: i64,
        doubts: bool,
    ) -> Option<Differs> {
        let learner = self.learners.get_mut(&link).filter(|l| l.stage == Stage::UpToDate)?;
        learner.heard = common.now;
        let voter = learner.voter(&common.config.verifier);
        if doubts && !self.digests.knows(zxid) {
            // Not an answer, or one to a question that is forgotten: it is asked whatever it was asked before, to hear something.
            learner.compared = None;
        }
        self.wants_digests |= doubts;
        let answer = Answer::new(digest, doubts);
        let judges = judges(&self.learners, &common.config.verifier);
        let (verdicts, differs) = self.digests.answer(judges, (link, voter), zxid, answer);
        self.say_verdicts(common, verdicts);
        differs
    }

    fn say_verdicts(&mut self, common: &mut Common, verdicts: Vec<Verdict>) {
        for Verdict { link, differs: Differs { zxid, wanted, found, by_majority } } in verdicts {
            if wanted != found && by_majority {
                common.note("a learner's state differs from that of a majority: it is told to stop");
            }
            common.send(link, &FromLeader::Verdict { zxid, wanted, found, by_majority });
        }
    }

    pub fn heard(&mut self, link: LinkId, now: Instant) {
        if let Some(l) = self.learners.get_mut(&link) {
            l.heard = now;
        }
    }

    /// The number of the round whose answer proves that this server led when it was asked for.
    pub fn ask_round(&mut self, common: &mut Common) -> u64 {
        self.rounds_asked = self.rounds_begun + 1;
        if self.round.is_none() {
            self.begin_round(common);
        }
        self.rounds_asked
    }

    /// The last round that was answered by a quorum.
    pub fn rounds_done(&self) -> u64 {
        self.rounds_done
    }

    fn begin_round(&mut self, common: &mut Common) {
        self.rounds_begun += 1;
        self.ask_followers(common);
    }

    /// Pings those who may answer the round that was begun last; a later answer is as good.
    fn ask_followers(&mut self, common: &mut Common) {
        let voters: Vec<LinkId> = self
            .learners
            .iter()
            .filter(|(_, l)| l.stage == Stage::UpToDate && !l.observer)
            .map(|(&link, _)| link)
            .collect();
        let mut targets = BTreeMap::new();
        for link in voters {
            self.ping(common, link);
            targets.insert(link, self.learners[&link].pings);
        }
        self.round = Some(Round { number: self.rounds_begun, targets });
        self.answer_round(common);
    }

    fn answer_round(&mut self, common: &mut Common) {
        let Some(round) = &self.round else { return };
        let me = common.config.me;
        let has = |server: ServerId| {
            server == me
                || round.targets.iter().any(|(link, &target)| {
                    self.learners.get(link).is_some_and(|l| l.server == Some(server) && l.pongs >= target)
                })
        };
        if common.config.verifier.is_quorum(has) {
            self.rounds_done = round.number;
            self.round = None;
            if self.rounds_asked > self.rounds_begun {
                self.begin_round(common);
            }
        }
    }

    fn ping(&mut self, common: &mut Common, link: LinkId) {
        let zxid = self.sent;
        if let Some(l) = self.learners.get_mut(&link) {
            l.pings += 1;
            common.send(link, &FromLeader::Ping { zxid });
        }
    }

    pub fn next_timeout(&self) -> Instant {
        self.next_ping
    }

    pub fn tick(&mut self, common: &mut Common) -> Outcome {
        let now = common.now;
        if now < self.next_ping {
            return Ok(());
        }
        let tick_ms = common.config.tick_ms;
        self.next_ping = now.plus_ms(tick_ms / 2);
        self.odd = !self.odd;
        let init_ms = tick_ms * u64::from(common.config.init_limit);
        let sync_ms = tick_ms * u64::from(common.config.sync_limit);
        if !self.is_established() && now > self.since.plus_ms(init_ms) {
            return Err("no quorum came in time (initLimit)");
        }
        let mut lost = Vec::new();
        for (&link, l) in &self.learners {
            let patience_ms = if l.stage == Stage::UpToDate { sync_ms } else { init_ms + sync_ms };
            let behind = l.stage == Stage::UpToDate
                && l.unacknowledged.is_some_and(|(_, since)| now > since.plus_ms(sync_ms));
            // While the tree is on its way, the shell watches whether the other side takes it.
            if (now > l.heard.plus_ms(patience_ms) || behind) && l.stage != Stage::Receiving {
                lost.push(link);
            }
        }
        for link in lost {
            self.close(common, link, "a learner is silent or far behind (syncLimit)");
        }
        self.wants_digests = true;
        for link in self.links_in(|s| matches!(s, Stage::Synchronising | Stage::HasHistory | Stage::UpToDate))
        {
            self.ping(common, link);
        }
        if self.is_established()
            && !self.odd
            && !self.has_quorum(common)
            && !mutant::is(Mutant::LeaderNeverGivesUp)
        {
            return Err("too few followers are left for a quorum");
        }
        if self.is_established() {
            self.judge_pace(common);
        }
        Ok(())
    }

    /// Whether those that are here are a quorum.
    fn has_quorum(&self, common: &Common) -> bool {
        let me = common.config.me;
        common.config.verifier.is_quorum(|s| {
            s == me
                || self
                    .learners
                    .values()
                    .any(|l| l.server == Some(s) && !l.observer && l.stage.gets_proposals())
        })
    }
}

impl Learner {
    /// As whom it votes, if it does.
    fn voter(&self, verifier: &Verifier) -> Option<ServerId> {
        self.server.filter(|&s| !self.observer && verifier.is_voter(s))
    }
}

/// Who decides whose tree is right.
fn judges<'a>(learners: &BTreeMap<LinkId, Learner>, verifier: &'a Verifier) -> Judges<'a> {
    let can_say = |l: &Learner| l.voter(verifier).is_none() || l.compares || l.stage != Stage::UpToDate;
    Judges { verifier, all_can_say: learners.values().all(can_say) }
}

/// One COMMIT for each zxid behind `after`, up to and including `upto`. Within an epoch zxids have no holes.
fn put_commits(after: Zxid, upto: Zxid, out: &mut Vec<u8>) {
    let first = if after.epoch() == upto.epoch() { after.counter() + 1 } else { 1 };
    for counter in first..=upto.counter() {
        FromLeader::Commit { zxid: Zxid::new(upto.epoch(), counter) }.encode(out);
    }
}
