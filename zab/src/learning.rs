//! The learner's side, of followers and observers: discovery, synchronisation, broadcast (quorum protocol, sections
//! 4.2 to 4.6).
//!
//! ```text
//!   Dialling ─► Introduced ─ LEADERINFO ─► Accepting ─ epoch accepted ─► AwaitingOp
//!     ─ DIFF ───────────────────────────────┐
//!     ─ TRUNC ─► Truncating ─ log is cut ───┤
//!     ─ SNAP ──► Receiving ─ tree is there ─┴─► Synchronising ─ NEWLEADER ─► Persisting
//!     ─ history durable ─► Entering ─ epoch entered ─► ACK ─► Waiting ─ UPTODATE ─► Serving
//! ```
//! The order of what becomes durable is the one that loses nothing: history, then the epoch, then the acknowledgement
//! (ZOOKEEPER-4643, 4646, 3911). A tree that was received is nobody's until it is saved and the log begun anew.

use crate::history::{History, follows};
use crate::machine::{Common, Job};
use crate::output::Output;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use proto::mutant::{self, Mutant};
use proto::peer::{Features, FromLeader, FromLearner, LearnerInfo, PROTOCOL_VERSION};
use proto::txn::RecordBatch;
use proto::{Durable, Epoch, Instant, LinkId, ServerId, Zxid};

/// See the module's page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Dialling,
    /// FOLLOWERINFO has left.
    Introduced,
    /// The epoch is being accepted, durably.
    Accepting,
    /// The first packet of the synchronisation is awaited.
    AwaitingOp,
    Truncating,
    Receiving {
        zxid: Zxid,
    },
    Synchronising,
    /// NEWLEADER has come; the history becomes durable.
    Persisting,
    /// The tree that was received is being saved.
    Saving,
    /// The epoch becomes durable.
    Entering,
    /// NEWLEADER is acknowledged.
    Waiting,
    Serving,
}

/// A packet that came while the disk was asked for something.
#[derive(Debug)]
enum Kept {
    Proposal(Zxid, Vec<u8>),
    Inform(Zxid, Vec<u8>),
    Commit(Zxid),
    NewLeader(Epoch),
    UpToDate,
}

impl Kept {
    fn bytes(&self) -> usize {
        match self {
            Kept::Proposal(_, r) | Kept::Inform(_, r) => 64 + r.len(),
            _ => 64,
        }
    }
}

/// A server that follows or observes, or tries to.
#[derive(Debug)]
pub(crate) struct Learning {
    pub leader: ServerId,
    pub link: Option<LinkId>,
    falconer: bool,
    /// The leader sends a tree as a stream of parts.
    streams: bool,
    /// The leader asks for digests, and says who is right.
    compares: bool,
    observer: bool,
    phase: Phase,
    epoch: Epoch,
    begun: Instant,
    heard: Instant,
    /// When the next attempt to connect is made.
    dial_at: Option<Instant>,
    kept: VecDeque<Kept>,
    kept_bytes: usize,
    /// Proposals that are not in the log yet.
    pending: VecDeque<(Zxid, Vec<u8>)>,
    pending_bytes: usize,
    /// The last zxid that came, or that the history had before.
    seen: Zxid,
    /// A proposal has come.
    seen_any: bool,
    /// Committed, as the leader says; meant once UPTODATE has come.
    pub committed: Zxid,
    /// The tree was received, and the log begins behind it.
    snapshot: bool,
    /// The received tree is of one moment from there on.
    settles: Zxid,
    /// Committed records to be applied to a received tree without the log.
    loose: RecordBatch,
    /// Acknowledgements of records up to there have left.
    acknowledged: Zxid,
}

/// Why a learner leaves its leader.
pub(crate) type Left = &'static str;

type Outcome = Result<(), Left>;

/// How long a learner waits before it dials again, ms: the leader may not be listening yet.
const DIAL_AGAIN_MS: u64 = 50;

impl Learning {
    pub fn begin(common: &mut Common, leader: ServerId, history: &History) -> Learning {
        common.push(Output::Dial { to: leader });
        Learning {
            leader,
            link: None,
            falconer: false,
            streams: false,
            compares: false,
            observer: !common.config.verifier.is_voter(common.config.me),
            phase: Phase::Dialling,
            epoch: Epoch(0),
            begun: common.now,
            heard: common.now,
            dial_at: None,
            kept: VecDeque::new(),
            kept_bytes: 0,
            pending: VecDeque::new(),
            pending_bytes: 0,
            seen: history.last(),
            seen_any: false,
            committed: Zxid::ZERO,
            snapshot: false,
            settles: Zxid::ZERO,
            loose: RecordBatch::new(),
            acknowledged: history.last(),
        }
    }

    pub fn is_serving(&self) -> bool {
        self.phase == Phase::Serving
    }

    pub fn compares(&self) -> bool {
        self.compares
    }

    pub fn is_observer(&self) -> bool {
        self.observer
    }

    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Bytes that wait for the disk.
    pub fn waiting_bytes(&self) -> usize {
        self.kept_bytes + self.pending_bytes
    }

    pub fn link_up(&mut self, common: &mut Common, link: LinkId) {
        if self.link.is_some() || self.phase != Phase::Dialling {
            return common.push(Output::Close { link });
        }
        self.link = Some(link);
        self.phase = Phase::Introduced;
        self.heard = common.now;
        let info = LearnerInfo {
            server: Some(common.config.me),
            protocol: PROTOCOL_VERSION,
            config_version: common.config.config_version,
            features: Some(common.features),
        };
        let accepted = common.epochs.accepted();
        common.send_to_leader(link, &FromLearner::Info { observer: self.observer, accepted, info });
    }

    pub fn dial_failed(&mut self, common: &Common) {
        if self.phase == Phase::Dialling {
            self.dial_at = Some(common.now.plus_ms(DIAL_AGAIN_MS));
        }
    }

    pub fn packet(&mut self, common: &mut Common, history: &mut History, packet: FromLeader<'_>) -> Outcome {
        self.heard = common.now;
        let kept = match packet {
            FromLeader::LeaderInfo { epoch, features, .. } => {
                if self.phase != Phase::Introduced {
                    return Err("LEADERINFO at the wrong time");
                }
                self.streams = features.is_some_and(|f| f.has(Features::STREAM));
                self.compares = features.is_some_and(|f| f.has(Features::DIGESTS));
                return self.leader_info(common, history, epoch, features.is_some());
            }
            FromLeader::Diff { .. } | FromLeader::Trunc { .. } | FromLeader::Snap { .. } => {
                if self.phase != Phase::AwaitingOp {
                    return Err("a synchronisation begins at the wrong time");
                }
                return self.begin_sync(common, history, &packet);
            }
            FromLeader::Proposal { zxid, record } => {
                if self.takes_at_once() {
                    return self.proposal(history, zxid, record);
                }
                Kept::Proposal(zxid, record.into())
            }
            FromLeader::Inform { zxid, record } | FromLeader::InformAndActivate { zxid, record, .. } => {
                if self.takes_at_once() {
                    return self.inform(history, zxid, record);
                }
                Kept::Inform(zxid, record.into())
            }
            FromLeader::Commit { zxid } | FromLeader::CommitAndActivate { zxid, .. } => {
                if self.takes_at_once() {
                    return self.commit(history, zxid);
                }
                Kept::Commit(zxid)
            }
            FromLeader::NewLeader { epoch, .. } => Kept::NewLeader(epoch),
            FromLeader::UpToDate => Kept::UpToDate,
            FromLeader::Ping { .. } | FromLeader::Sync | FromLeader::Revalidate { .. } => return Ok(()),
            FromLeader::Digest { .. } | FromLeader::Verdict { .. } => return Ok(()),
        };
        if matches!(self.phase, Phase::Dialling | Phase::Introduced | Phase::Accepting | Phase::AwaitingOp) {
            return Err("the first packet is none of DIFF, TRUNC and SNAP");
        }
        self.kept_bytes += kept.bytes();
        self.kept.push_back(kept);
        self.go_on(common, history)
    }

    /// Whether a packet needs not wait for the disk, nor behind others that do.
    fn takes_at_once(&self) -> bool {
        self.kept.is_empty() && matches!(self.phase, Phase::Synchronising | Phase::Waiting | Phase::Serving)
    }

    /// Takes up what was kept, as far as the disk allows.
    fn go_on(&mut self, common: &mut Common, history: &mut History) -> Outcome {
        while matches!(self.phase, Phase::Synchronising | Phase::Waiting | Phase::Serving)
            && let Some(kept) = self.kept.pop_front()
        {
            self.kept_bytes -= kept.bytes();
            match kept {
                Kept::Proposal(zxid, record) => self.proposal(history, zxid, &record)?,
                Kept::Inform(zxid, record) => self.inform(history, zxid, &record)?,
                Kept::Commit(zxid) => self.commit(history, zxid)?,
                Kept::NewLeader(epoch) => self.new_leader(common, history, epoch)?,
                Kept::UpToDate => self.up_to_date(common, history)?,
            }
        }
        Ok(())
    }

    fn leader_info(
        &mut self,
        common: &mut Common,
        history: &History,
        epoch: Epoch,
        falconer: bool,
    ) -> Outcome {
        self.falconer = falconer;
        self.epoch = epoch;
        let accepted = common.epochs.accepted();
        if epoch < accepted {
            return Err("the leader's epoch is older than what this server has accepted");
        }
        self.phase = Phase::Accepting;
        if epoch > accepted && !mutant::is(Mutant::PromiseBeforeDisk) {
            common.persist_epochs(epoch, None);
        } else {
            let current = (epoch > accepted).then(|| common.epochs.current());
            self.ack_epoch(common, history, current);
        }
        Ok(())
    }

    fn ack_epoch(&mut self, common: &mut Common, history: &History, current: Option<Epoch>) {
        let promised = common.epochs.accepted() >= self.epoch || mutant::is(Mutant::PromiseBeforeDisk);
        assert!(promised, "a promise is durable before it is given");
        let Some(link) = self.link else { return };
        let last = if common.blank { Zxid::from_wire(crate::election::BLANK) } else { history.last() };
        assert!(history.is_drained(), "a history is compared when it is durable");
        common.send_to_leader(link, &FromLearner::AckEpoch { last, current });
        self.phase = Phase::AwaitingOp;
    }

    /// Epochs are durable.
    pub fn epochs_persisted(&mut self, common: &mut Common, history: &mut History) -> Outcome {
        self.heard = common.now;
        match self.phase {
            Phase::Accepting => {
                let current = common.epochs.current();
                self.ack_epoch(common, history, Some(current));
                Ok(())
            }
            Phase::Entering => {
                assert!(common.epochs.current() == self.epoch, "the epoch that was asked for is durable");
                let Some(link) = self.link else { return Ok(()) };
                common.send_to_leader(link, &FromLearner::Ack { zxid: Zxid::new(self.epoch, 0) });
                self.phase = Phase::Waiting;
                self.acknowledged = history.last();
                // What is not committed goes into the log now, and is acknowledged like any other proposal.
                for (zxid, record) in core::mem::take(&mut self.pending) {
                    history.append(zxid, &record);
                }
                self.pending_bytes = 0;
                self.go_on(common, history)
            }
            _ => Ok(()),
        }
    }

    fn begin_sync(&mut self, common: &mut Common, history: &mut History, op: &FromLeader<'_>) -> Outcome {
        match *op {
            FromLeader::Snap { zxid } => {
                self.snapshot = true;
                self.phase = Phase::Receiving { zxid };
                let link = self.link.expect("a packet came through it");
                common.start(Job::Receive, Output::ReceiveSnapshot { link, zxid, falconer: self.streams });
            }
            FromLeader::Trunc { zxid } if zxid < history.last() && !mutant::is(Mutant::TruncIgnored) => {
                self.phase = Phase::Truncating;
                let reload = history.applied() > zxid && !mutant::is(Mutant::TreeSurvivesTrunc);
                common.start(Job::Truncate { after: zxid }, Output::Truncate { after: zxid, reload });
            }
            // What this history has beyond the leader's commits is not committed by being there.
            FromLeader::Diff { zxid } => self.synchronise_from(history, zxid),
            _ => self.synchronise_from(history, history.last()),
        }
        Ok(())
    }

    fn synchronise_from(&mut self, history: &History, committed: Zxid) {
        self.phase = Phase::Synchronising;
        self.seen = history.last();
        self.committed = history.last().min(committed);
    }

    /// The log was cut, and memory with it.
    pub fn truncated(
        &mut self,
        common: &mut Common,
        history: &mut History,
        wanted_is_there: bool,
    ) -> Outcome {
        self.heard = common.now;
        if self.phase != Phase::Truncating {
            return Ok(());
        }
        if !wanted_is_there {
            return Err("the log does not reach back to where it was to be cut: a whole copy is needed");
        }
        self.synchronise_from(history, history.last());
        self.go_on(common, history)
    }

    /// The tree has come whole, or not.
    pub fn snapshot_received(
        &mut self,
        common: &mut Common,
        history: &mut History,
        settles: Option<Zxid>,
    ) -> Outcome {
        self.heard = common.now;
        let Phase::Receiving { zxid } = self.phase else { return Ok(()) };
        self.settles = settles.ok_or("the snapshot ended early")?;
        self.phase = Phase::Synchronising;
        self.seen = zxid;
        self.committed = zxid;
        self.go_on(common, history)
    }

    /// A proposal while the history is compared waits until it is committed, or until NEWLEADER is acknowledged.
    fn proposal(&mut self, history: &mut History, zxid: Zxid, record: &[u8]) -> Outcome {
        if self.snapshot && zxid <= self.committed && !self.seen_any {
            // The tree has it.
            return Ok(());
        }
        self.expect(zxid)?;
        if record_zxid(record) != Some(zxid) {
            return Err("a proposal and its record have different zxids");
        }
        if self.phase == Phase::Synchronising {
            self.pending_bytes += record.len();
            self.pending.push_back((zxid, record.into()));
        } else {
            history.append(zxid, record);
        }
        Ok(())
    }

    /// Each zxid follows the one before.
    fn expect(&mut self, zxid: Zxid) -> Outcome {
        if !follows(self.seen, zxid) {
            return Err("a proposal does not follow the one before");
        }
        self.seen = zxid;
        self.seen_any = true;
        Ok(())
    }

    fn commit(&mut self, history: &mut History, zxid: Zxid) -> Outcome {
        if self.snapshot && zxid <= self.committed && self.phase == Phase::Synchronising {
            return Ok(());
        }
        if !follows(self.committed, zxid) {
            return Err("a commit does not follow the one before");
        }
        if self.phase == Phase::Synchronising {
            match self.pending.pop_front() {
                Some((head, record)) if head == zxid => {
                    self.pending_bytes -= record.len();
                    if self.snapshot {
                        self.loose.push_with(zxid, |out| out.extend_from_slice(&record));
                    } else {
                        history.append(zxid, &record);
                    }
                }
                _ => return Err("a commit of something that was not proposed"),
            }
        } else if zxid > history.last() && self.pending.front().is_none_or(|(head, _)| *head > zxid) {
            return Err("a commit of something that was not proposed");
        }
        self.committed = zxid;
        Ok(())
    }

    fn inform(&mut self, history: &mut History, zxid: Zxid, record: &[u8]) -> Outcome {
        if self.snapshot && zxid <= self.committed && !self.seen_any {
            return Ok(());
        }
        self.expect(zxid)?;
        if record_zxid(record) != Some(zxid) {
            return Err("an inform and its record have different zxids");
        }
        if self.phase == Phase::Synchronising && self.snapshot {
            self.loose.push_with(zxid, |out| out.extend_from_slice(record));
        } else {
            history.append(zxid, record);
        }
        self.committed = zxid;
        Ok(())
    }

    fn new_leader(&mut self, common: &mut Common, history: &mut History, epoch: Epoch) -> Outcome {
        if self.phase != Phase::Synchronising || epoch != self.epoch {
            return Err("NEWLEADER at the wrong time, or of another epoch");
        }
        if self.snapshot {
            // The node applies what is loose before the shell reads this.
            let zxid = self.loose.last().unwrap_or(self.committed);
            if zxid < self.settles && !mutant::is(Mutant::NewLeaderTooEarly) {
                return Err("NEWLEADER before everything that the tree has seen is committed");
            }
            self.phase = Phase::Saving;
            common.start(Job::Save, Output::SaveSnapshot { zxid });
            return Ok(());
        }
        self.phase = Phase::Persisting;
        self.persisted(common, history);
        Ok(())
    }

    /// Committed records to be applied to the received tree, before anything else is done.
    pub fn take_loose(&mut self) -> Option<RecordBatch> {
        if self.phase != Phase::Saving || self.loose.is_empty() {
            return None;
        }
        Some(core::mem::take(&mut self.loose))
    }

    pub fn snapshot_saved(&mut self, common: &mut Common, history: &mut History, durable: Durable) {
        self.heard = common.now;
        self.snapshot = false;
        if self.phase == Phase::Saving {
            self.phase = Phase::Persisting;
            debug_assert_eq!(durable.upto(), history.last());
            self.persisted(common, history);
        }
    }

    /// The log has become durable up to somewhere.
    pub fn persisted(&mut self, common: &mut Common, history: &History) {
        match self.phase {
            Phase::Persisting if history.is_drained() || mutant::is(Mutant::NewLeaderAckedEarly) => {
                if mutant::is(Mutant::EpochAfterAck)
                    && let Some(link) = self.link
                {
                    common.send_to_leader(link, &FromLearner::Ack { zxid: Zxid::new(self.epoch, 0) });
                }
                self.phase = Phase::Entering;
                common.persist_epochs(self.epoch, Some(history.durable()));
            }
            Phase::Waiting | Phase::Serving if !self.observer => self.acknowledge(common, history.durable()),
            _ => {}
        }
    }

    fn acknowledge(&mut self, common: &mut Common, durable: Durable) {
        let upto = if mutant::is(Mutant::AckBeforeDisk) { self.seen } else { durable.upto() };
        let Some(link) = self.link.filter(|_| upto > self.acknowledged) else { return };
        let mut packets = Vec::new();
        // Apache's leader counts each record on its own.
        let same_epoch = self.acknowledged.epoch() == upto.epoch();
        let first = match (self.falconer, same_epoch) {
            (true, _) => upto.counter(),
            (false, true) => self.acknowledged.counter() + 1,
            (false, false) => 1,
        };
        for counter in first..=upto.counter() {
            FromLearner::Ack { zxid: Zxid::new(upto.epoch(), counter) }.encode(&mut packets);
        }
        self.acknowledged = upto;
        common.push(Output::Send { link, packets });
    }

    fn up_to_date(&mut self, common: &mut Common, history: &History) -> Outcome {
        if self.phase != Phase::Waiting {
            return Err("UPTODATE at the wrong time");
        }
        self.phase = Phase::Serving;
        let Some(link) = self.link else { return Ok(()) };
        common.send_to_leader(link, &FromLearner::Ack { zxid: Zxid::new(self.epoch, 0) });
        if !self.observer {
            self.acknowledge(common, history.durable());
        }
        Ok(())
    }

    pub fn next_timeout(&self, common: &Common) -> Instant {
        let patience = self.heard.plus_ms(self.patience_ms(common));
        self.dial_at.map_or(patience, |d| d.min(patience))
    }

    fn patience_ms(&self, common: &Common) -> u64 {
        let ticks = match self.phase {
            Phase::Waiting | Phase::Serving => common.config.sync_limit,
            Phase::Dialling => common.config.connect_limit.min(common.config.init_limit),
            _ => common.config.init_limit,
        };
        common.config.tick_ms * u64::from(ticks)
    }

    pub fn tick(&mut self, common: &mut Common) -> Outcome {
        let disk_is_at_it = matches!(
            self.phase,
            Phase::Accepting
                | Phase::Truncating
                // The shell watches the stream of the snapshot.
                | Phase::Receiving { .. }
                | Phase::Persisting
                | Phase::Saving
                | Phase::Entering
        );
        if disk_is_at_it {
            self.heard = common.now;
        }
        if self.phase == Phase::Dialling && common.now >= self.begun.plus_ms(self.patience_ms(common)) {
            return Err("the leader can't be reached (connectToLearnerMasterLimit)");
        }
        if common.now >= self.heard.plus_ms(self.patience_ms(common)) {
            return Err("the leader is silent");
        }
        if self.dial_at.is_some_and(|at| common.now >= at) {
            self.dial_at = None;
            common.push(Output::Dial { to: self.leader });
        }
        Ok(())
    }
}

fn record_zxid(record: &[u8]) -> Option<Zxid> {
    proto::txn::TxnHeader::peek_zxid(record)
}
