//! What the machine asks of the shell.

use crate::digests::Differs;
use crate::pace::Slow;
use alloc::sync::Arc;
use alloc::vec::Vec;
use proto::txn::RecordBatch;
use proto::{Durable, Epoch, LinkId, ServerId, Zxid};

/// A run of records out of one batch, shared with the log and with every peer.
#[derive(Clone, Debug)]
pub struct Records {
    batch: Arc<RecordBatch>,
    from: usize,
    to: usize,
}

impl Records {
    /// The records `from..to` of `batch`.
    ///
    /// # Panics
    /// When there are none, or the batch is shorter.
    pub fn new(batch: Arc<RecordBatch>, from: usize, to: usize) -> Records {
        assert!(from < to && to <= batch.len(), "records {from}..{to} of {}", batch.len());
        Records { batch, from, to }
    }

    /// The records in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (Zxid, &[u8])> {
        (self.from..self.to).map(|i| self.batch.get(i).expect("checked when it was made"))
    }

    /// The first zxid.
    pub fn first(&self) -> Zxid {
        self.batch.get(self.from).expect("checked when it was made").0
    }

    /// The last zxid.
    pub fn last(&self) -> Zxid {
        self.batch.get(self.to - 1).expect("checked when it was made").0
    }
}

/// What the shell is asked to do, in this order. What concerns one link leaves in the order in which it was asked
/// for: packets, records, a snapshot and a stretch of the log stand in one queue for each link, and while one of the
/// latter two is on its way, everything behind it waits. Where the shell has to answer, the answer is named: an input
/// of the node.
///
/// No disk job is asked for while another one, or an append, is under way; the log writes the batches that
/// `Node::take_batch` gives, in order, and they are all durable before a job that cuts or replaces the log.
#[derive(Clone, Debug)]
pub enum Output {
    /// A notification, without its frame's length, to the election port of `to`. Only the newest one for a server
    /// counts: it replaces one that has not left, is sent again when a connection comes about, and makes the shell
    /// connect where there is no connection.
    Notify {
        /// For whom.
        to: ServerId,
        /// The payload.
        payload: Arc<[u8]>,
    },
    /// Connect to the quorum port of `to`, once. Answer: `LinkUp` with `to`, or `DialFailed`.
    Dial {
        /// The server that is thought to lead.
        to: ServerId,
    },
    /// Close a link once what was asked before has left, or at once if it stands still. No answer; a `LinkDown` of it
    /// is ignored.
    Close {
        /// The link.
        link: LinkId,
    },
    /// Encoded packets.
    Send {
        /// Through this link.
        link: LinkId,
        /// One or more whole packets.
        packets: Vec<u8>,
    },
    /// The same encoded packets to each of the links.
    SendAll {
        /// Through these links.
        links: Arc<[LinkId]>,
        /// One or more whole packets.
        packets: Arc<[u8]>,
    },
    /// One PROPOSAL for each record, to each of the links.
    Propose {
        /// Through these links.
        links: Arc<[LinkId]>,
        /// The records.
        records: Records,
    },
    /// One INFORM for each record, to each of the links.
    Inform {
        /// Through these links.
        links: Arc<[LinkId]>,
        /// The records.
        records: Records,
    },
    /// A PROPOSAL and its COMMIT for each record of the own log behind `after`, up to and including `upto`. If the log
    /// can't give all of them without a hole, close the link and report `LinkDown`.
    SendLog {
        /// Through this link.
        link: LinkId,
        /// Behind this one.
        after: Zxid,
        /// The last one; it is durable here.
        upto: Zxid,
    },
    /// SNAP, the tree in Apache's stream format, and its end mark; what is sent meanwhile on this link stands behind it. The
    /// tree is the state at the zxid of SNAP, or what a walk sees that begins at it: then nothing that it has seen may be
    /// applied later than the answer. Answer: `SnapshotSent`; if the link takes nothing any more, close it and report
    /// `LinkDown`.
    SendSnapshot {
        /// Through this link.
        link: LinkId,
        /// To a Falconer: the tree may change under the walk, if behind the end mark stands where and with which digest it is
        /// of one moment.
        falconer: bool,
    },
    /// Which is the last record of the own log at or before `zxid`? Answer: `FoundInLog`.
    FindInLog {
        /// For this link.
        link: LinkId,
        /// A learner's last zxid.
        zxid: Zxid,
    },
    /// Make epochs durable: the accepted one, and with it, or not, the current one with the proof that its history is; and
    /// before, if so, that this server may vote with what it has.
    /// Answer: `EpochsPersisted`.
    PersistEpochs {
        /// The promise.
        accepted: Epoch,
        /// The history.
        current: Option<(Epoch, Durable)>,
        /// It counts as a voter with a history from now on, if it did not before.
        joined: bool,
    },
    /// Cut the log behind `after`, durably, snapshots beyond it included. With `reload` the tree holds more than that:
    /// take the applier (`Node::lend_applier`), and build the tree from snapshot and log again. Answer: `Truncated`.
    Truncate {
        /// The last zxid that stays.
        after: Zxid,
        /// The tree is to be rebuilt.
        reload: bool,
    },
    /// The tree is not what the disk has: take the applier and build it from snapshot and log. Answer: `Reloaded`.
    Reload,
    /// The raw snapshot that follows SNAP on this link is to be read into the tree: take the applier. Nothing is written
    /// to disk. Answer: `SnapshotReceived`, also when the link ends early.
    ReceiveSnapshot {
        /// The dialled link.
        link: LinkId,
        /// The zxid that the tree then has.
        zxid: Zxid,
        /// From a Falconer: see [`Output::SendSnapshot`].
        falconer: bool,
    },
    /// Write the tree as it stands, at `zxid`, as a snapshot, durably, then begin the log anew behind it: one write of the
    /// superblock makes both current. Answer: `SnapshotSaved`.
    SaveSnapshot {
        /// The last zxid of the tree.
        zxid: Zxid,
    },
    /// Clients may be served from now on, or may not: then all their connections are to be closed at once. At the start
    /// of an ensemble's server they may not.
    Serve(Service),
    /// This server's state is not what others have. It serves nobody from here on, and takes part in nothing: it is to end. If
    /// a majority says so, its history is no longer one to vote with, durably, before it ends: the next start takes the
    /// state of the leader.
    Differs(Differs),
    /// The digest of a record, or of the leader, is not that of the own tree. What follows is decided elsewhere.
    Doubt(Differs),
    /// Leadership is handed over because the own log is slow: for the log of the server, and to be counted.
    SlowLog(Slow),
    /// Something that the log of the server should tell its operator.
    Note(&'static str),
}

/// What a server does for clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Service {
    /// Nothing: it looks for a leader, or is being brought up to date.
    None,
    /// Reads of the tree as it stands, without a leader (`readonlymode.enabled`).
    ReadOnly,
    /// Everything, as leader.
    Leading,
    /// Everything, as follower.
    Following,
    /// Everything, as observer.
    Observing,
}
