//! A tree, its applier and its prepare, driven record by record.

use crate::plain::Reply;
use engine::{
    Applier, Asker, Audience, Identity, Outbox, Prep, PrepConfig, PrepRequest, Standing, Tree, TreeConfig,
};
use proto::acl::Id;
use proto::client::{ReadOp, ReplyHeader, WriteOp, WriteReply};
use proto::jute::Reader;
use proto::txn::{Record, RecordBatch};
use proto::{ConnId, SessionId, WallMs, Xid, Zxid};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;

/// Ids as (scheme, id) pairs.
pub type Ids<'a> = &'a [(&'a str, &'a str)];

pub struct Server {
    pub tree: Arc<Tree>,
    pub prep: Prep,
    applier: Applier,
    zxid: u64,
    pub time: i64,
    /// Prepared and not applied, each a batch of one record.
    pub in_flight: VecDeque<RecordBatch>,
}

struct Nobody;

impl Audience for Nobody {
    fn deliver(&self, _to: ConnId, _frame: &[u8]) {}
    fn identity(&self, _of: ConnId) -> Option<Arc<Identity>> {
        None
    }
}

struct Buffer(RefCell<Vec<u8>>);

impl Outbox for Buffer {
    fn append(&self, fill: &mut dyn FnMut(&mut Vec<u8>)) {
        fill(&mut self.0.borrow_mut());
    }
}

impl Server {
    pub fn new(tree: TreeConfig, prep: PrepConfig) -> Server {
        let (tree, applier) = engine::new(tree);
        Server::over(tree, applier, prep)
    }

    /// A server that begins to lead over a state.
    pub fn over(tree: Arc<Tree>, applier: Applier, prep: PrepConfig) -> Server {
        let prep = Prep::new(&tree, prep);
        Server { tree, prep, applier, zxid: 0, time: 1000, in_flight: VecDeque::new() }
    }

    /// Prepares one request; the zxid that it took.
    pub fn prepare(&mut self, session: i64, ids: Ids<'_>, op: &WriteOp<'_>) -> i64 {
        self.zxid += 1;
        self.time += 1;
        let zxid = Zxid::from_u64(self.zxid);
        let mut batch = RecordBatch::new();
        let request = PrepRequest {
            session: SessionId(session),
            standing: Standing::Replicated,
            cxid: Xid(7),
            time: WallMs(self.time),
            identity: &identity(ids),
            op,
        };
        self.prep.prepare(&self.tree, &request, zxid, &mut batch);
        assert_eq!((batch.len(), batch.last()), (1, Some(zxid)), "one record for each request");
        self.in_flight.push_back(batch);
        zxid.to_wire()
    }

    /// Applies the oldest record in flight and tells prepare: its zxid and what its client is told.
    pub fn apply(&mut self) -> (i64, Reply) {
        let done = self.apply_untold();
        self.tell_applied();
        done
    }

    /// Prepare may forget what is applied.
    pub fn tell_applied(&mut self) {
        self.prep.applied(self.tree.applied());
    }

    /// As [`Server::apply`], but prepare hears of it later.
    pub fn apply_untold(&mut self) -> (i64, Reply) {
        let batch = self.in_flight.pop_front().expect("something is in flight");
        let (zxid, bytes) = batch.get(0).unwrap();
        let mut replies = Vec::new();
        self.applier
            .apply(bytes, &Nobody, &mut |header, reply| {
                assert_eq!((header.zxid, header.cxid), (zxid, Xid(7)));
                replies.push(owned(reply));
            })
            .unwrap();
        assert_eq!(replies.len(), 1, "one reply for each record");
        assert_eq!(self.tree.applied(), zxid);
        // The digest that was computed ahead is the digest that came out.
        if let Some(digest) = Record::decode(bytes).unwrap().digest {
            assert_eq!(digest.tree, self.tree.digest(), "the digest behind {zxid}");
        }
        assert_eq!(self.tree.digest_mismatches(), 0);
        (zxid.to_wire(), replies.remove(0))
    }

    /// Prepares and applies one request.
    pub fn run(&mut self, session: i64, ids: Ids<'_>, op: &WriteOp<'_>) -> Reply {
        while !self.in_flight.is_empty() {
            self.apply();
        }
        self.prepare(session, ids, op);
        self.apply().1
    }

    /// The record that was prepared last.
    pub fn last_record(&self) -> Record<'_> {
        Record::decode(self.in_flight.back().unwrap().get(0).unwrap().1).unwrap()
    }

    /// The error and the body of the answer to a read.
    pub fn read(&self, session: i64, ids: Ids<'_>, op: &ReadOp<'_>) -> (i32, Vec<u8>) {
        let out = Buffer(RefCell::new(Vec::new()));
        let identity = identity(ids);
        let who = Asker { conn: ConnId(1), session: SessionId(session), identity: &identity };
        self.tree.read(op, Xid(3), &who, &out);
        let bytes = out.0.into_inner();
        let mut r = Reader::new(&bytes);
        let frame = r.buffer().unwrap().unwrap();
        assert_eq!(r.remaining(), 0, "one frame");
        let mut r = Reader::new(frame);
        let header = ReplyHeader::decode(&mut r).unwrap();
        assert_eq!((header.xid, header.zxid), (Xid(3), self.tree.applied().to_wire()));
        (header.err, r.rest().to_vec())
    }
}

pub fn identity(ids: Ids<'_>) -> Identity {
    Identity::new(ids.iter().map(|(s, i)| Id::new(s, i)).collect())
}

fn owned(reply: &WriteReply<'_>) -> Reply {
    match reply {
        WriteReply::Path(path) => Reply::Path((*path).into()),
        WriteReply::PathStat(path, stat) => Reply::PathStat((*path).into(), *stat),
        WriteReply::Stat(stat) => Reply::Stat(*stat),
        WriteReply::Multi(results) => Reply::Multi(results.to_vec()),
        WriteReply::Empty => Reply::Empty,
        WriteReply::Error(code) => Reply::Error(*code),
        WriteReply::Config(..) => panic!("a server alone has no configuration to change"),
    }
}
