//! A tree with its applier, connections that note what they get, and a slow second opinion.

use engine::digest::node_digest;
use engine::{
    Applier, Asker, Audience, Crew, Identity, Importer, Outbox, Settled, Tree, TreeConfig, WalkKind,
};
use proto::acl::{AclBytes, Id};
use proto::client::{MultiResult, ReadOp, ReplyHeader, WriteReply};
use proto::jute::Reader;
use proto::state::NodeRecord;
use proto::txn::{CreateTxnKind, DIGEST_VERSION, Record, Txn, TxnDigest, TxnHeader};
use proto::{Code, ConnId, SessionId, Stat, StatPersisted, WallMs, Xid, Zxid, acl};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// What the client of a write is told.
#[derive(Clone, PartialEq, Debug)]
pub enum Said {
    Error(Code),
    Path(String),
    PathStat(String, Stat),
    Stat(Stat),
    Multi(Vec<MultiResult>),
    Config(Vec<u8>, Stat),
    Empty,
}

/// What stands in an outbox.
#[derive(Clone, PartialEq, Debug)]
pub enum Frame {
    Event { zxid: i64, kind: i32, path: String },
    Reply { xid: i32, zxid: i64, err: i32, body: Vec<u8> },
}

pub const CREATED: i32 = 1;
pub const DELETED: i32 = 2;
pub const CHANGED: i32 = 3;
pub const CHILDREN: i32 = 4;

/// The connections.
#[derive(Default)]
pub struct Ears {
    boxes: Mutex<BTreeMap<ConnId, Vec<u8>>>,
    pub identities: Mutex<BTreeMap<ConnId, Arc<Identity>>>,
}

impl Audience for Ears {
    fn deliver(&self, to: ConnId, frame: &[u8]) {
        self.boxes.lock().unwrap().entry(to).or_default().extend_from_slice(frame);
    }

    fn identity(&self, of: ConnId) -> Option<Arc<Identity>> {
        self.identities.lock().unwrap().get(&of).cloned()
    }
}

struct Box<'a>(&'a Ears, ConnId);

impl Outbox for Box<'_> {
    fn append(&self, fill: &mut dyn FnMut(&mut Vec<u8>)) {
        fill(self.0.boxes.lock().unwrap().entry(self.1).or_default());
    }
}

impl Ears {
    /// What a connection got since it was asked last.
    pub fn got(&self, conn: u64) -> Vec<Frame> {
        let bytes = self.boxes.lock().unwrap().remove(&ConnId(conn)).unwrap_or_default();
        let mut r = Reader::new(&bytes);
        let mut frames = Vec::new();
        while let Ok(Some(frame)) = r.buffer() {
            let mut f = Reader::new(frame);
            let h = ReplyHeader::decode(&mut f).unwrap();
            frames.push(if h.xid == Xid::NOTIFICATION {
                let kind = f.i32().unwrap();
                assert_eq!(f.i32().unwrap(), 3, "SyncConnected");
                Frame::Event { zxid: h.zxid, kind, path: f.string().unwrap().unwrap().into() }
            } else {
                Frame::Reply { xid: h.xid.0, zxid: h.zxid, err: h.err, body: f.rest().into() }
            });
        }
        assert_eq!(r.remaining(), 0, "whole frames only");
        frames
    }

    /// The events among them, as `(kind, path)`.
    pub fn events(&self, conn: u64) -> Vec<(i32, String)> {
        let event = |f| if let Frame::Event { kind, path, .. } = f { Some((kind, path)) } else { None };
        self.got(conn).into_iter().filter_map(event).collect()
    }
}

pub struct World {
    pub tree: Arc<Tree>,
    pub applier: Applier,
    pub ears: Ears,
    pub session: i64,
    pub time: i64,
    pub zxid: u64,
}

impl World {
    pub fn new() -> World {
        World::with(TreeConfig { shards: 8, extended_types: true, ..TreeConfig::default() })
    }

    pub fn with(config: TreeConfig) -> World {
        let (tree, applier) = engine::new(config);
        World { tree, applier, ears: Ears::default(), session: 7, time: 1000, zxid: 0 }
    }

    pub fn encode(&self, zxid: u64, txn: Txn<'_>, digest: Option<i64>) -> Vec<u8> {
        let header = TxnHeader {
            session: SessionId(self.session),
            cxid: Xid(1),
            zxid: Zxid::from_u64(zxid),
            time: WallMs(self.time),
            kind: txn.kind(),
        };
        let digest = digest.map(|tree| TxnDigest { version: DIGEST_VERSION, tree });
        let mut out = Vec::new();
        Record { header, txn, digest }.encode(&mut out);
        out
    }

    /// Applies the next txn.
    pub fn txn(&mut self, txn: Txn<'_>) -> Said {
        self.zxid += 1;
        let record = self.encode(self.zxid, txn, None);
        let said = self.apply(&record);
        assert_eq!(self.tree.applied(), Zxid::from_u64(self.zxid));
        self.check();
        said
    }

    /// Applies a txn once more, or out of order.
    pub fn again(&mut self, zxid: u64, txn: Txn<'_>) -> Said {
        let record = self.encode(zxid, txn, None);
        let said = self.apply(&record);
        self.check();
        said
    }

    pub fn apply(&mut self, record: &[u8]) -> Said {
        let mut said = Vec::new();
        self.applier
            .apply(record, &self.ears, &mut |_, reply| {
                said.push(match reply {
                    WriteReply::Path(p) => Said::Path((*p).into()),
                    WriteReply::PathStat(p, s) => Said::PathStat((*p).into(), *s),
                    WriteReply::Stat(s) => Said::Stat(*s),
                    WriteReply::Multi(r) => Said::Multi(r.to_vec()),
                    WriteReply::Config(t, s) => Said::Config(t.to_vec(), *s),
                    WriteReply::Empty => Said::Empty,
                    WriteReply::Error(c) => Said::Error(*c),
                });
            })
            .unwrap();
        assert_eq!(said.len(), 1, "one reply per txn");
        said.pop().unwrap()
    }

    pub fn create(&mut self, path: &str) -> Said {
        let cversion = self.next_cversion(path);
        self.txn(create(path, cversion))
    }

    /// What prepare would write: the parent's cversion and one more.
    pub fn next_cversion(&self, path: &str) -> i32 {
        let parent = proto::path::parent(path).unwrap();
        self.tree.peek(parent, |n| n.map_or(1, |n| n.stat.cversion + 1))
    }

    pub fn stat(&self, path: &str) -> Option<StatPersisted> {
        self.tree.peek(path, |n| n.map(|n| *n.stat))
    }

    pub fn data(&self, path: &str) -> Option<Vec<u8>> {
        self.tree.peek(path, |n| n.and_then(|n| n.data.map(<[u8]>::to_vec)))
    }

    pub fn acl(&self, path: &str) -> Vec<u8> {
        self.tree.peek(path, |n| n.unwrap().acl.as_bytes().to_vec())
    }

    /// Reads and returns all that the connection got by it.
    pub fn read(&self, conn: u64, op: &ReadOp<'_>) -> Vec<Frame> {
        self.ask(conn, &Identity::default(), op);
        self.ears.got(conn)
    }

    pub fn ask(&self, conn: u64, identity: &Identity, op: &ReadOp<'_>) {
        let conn = ConnId(conn);
        let who = Asker { conn, session: SessionId(self.session), identity };
        self.tree.read(op, Xid(5), &who, &Box(&self.ears, conn));
    }

    /// The error and the body of a read.
    pub fn reply(&self, conn: u64, op: &ReadOp<'_>) -> (i32, Vec<u8>) {
        match self.read(conn, op).pop() {
            Some(Frame::Reply { err, body, .. }) => (err, body),
            other => panic!("{other:?}"),
        }
    }

    /// The digest, the counts and the links, computed from a walk.
    pub fn check(&self) {
        let all = dump(&self.tree);
        let mut digest = 0_i64;
        let mut bytes = 0;
        for (path, (data, _, stat)) in &all.nodes {
            digest += i64::from(node_digest(path, data.as_deref(), stat));
            bytes += path.len().max(1) + data.as_ref().map_or(0, Vec::len);
        }
        assert_eq!(self.tree.digest(), digest);
        let stats = self.tree.stats();
        assert_eq!(stats.znodes, all.nodes.len() as u64 + 1);
        assert_eq!(stats.data_bytes, bytes as u64);
        self.tree.check_links().unwrap();
    }
}

type Node = (Option<Vec<u8>>, Vec<u8>, StatPersisted);

/// The whole state, with ACLs by their bytes.
#[derive(PartialEq, Debug, Default)]
pub struct Dump {
    pub sessions: Vec<(i64, i32)>,
    pub nodes: BTreeMap<String, Node>,
    pub ephemerals: BTreeMap<i64, Vec<std::boxed::Box<str>>>,
}

pub fn dump(tree: &Tree) -> Dump {
    let mut d = Dump {
        sessions: tree.sessions().iter().map(|s| (s.session.0, s.timeout_ms)).collect(),
        ..Dump::default()
    };
    for (kind, count, bytes) in walk(tree, 1 << 16).0 {
        let mut r = Reader::new(&bytes);
        for _ in 0..count {
            if kind == WalkKind::Nodes {
                let n = NodeRecord::decode(&mut r).unwrap();
                let acl = tree.peek(&n.path, |v| v.map_or(vec![], |v| v.acl.as_bytes().to_vec()));
                d.nodes.insert(n.path.to_string(), (n.data.map(<[u8]>::to_vec), acl, n.stat));
            }
        }
    }
    for (session, mut paths) in tree.ephemerals_by_session() {
        paths.sort_unstable();
        d.ephemerals.insert(session.0, paths);
    }
    d
}

/// Works as threads would, one after the other, the last first.
pub struct InTurn(pub usize);

impl Crew for InTurn {
    fn size(&self) -> usize {
        self.0
    }
    fn run(&self, work: &(dyn Fn(usize) + Sync)) {
        (0..self.0).rev().for_each(work);
    }
}

pub type Parts = Vec<(WalkKind, u64, Vec<u8>)>;

/// A walk in one go: the parts, and where it ended.
pub fn walk(tree: &Tree, max_bytes: usize) -> (Parts, (Zxid, i64)) {
    let mut walk = tree.walk();
    let mut parts = Parts::new();
    loop {
        let mut out = Vec::new();
        let part = walk.next(tree, max_bytes, &mut out);
        if part.kind == WalkKind::Done {
            return (parts, walk.end().unwrap());
        }
        parts.push((part.kind, part.count, out));
    }
}

pub fn import(applier: &mut Applier, parts: &Parts, start: Zxid, settled: Option<Settled>) {
    let importer = Importer::new(applier);
    for (kind, count, bytes) in parts {
        match kind {
            WalkKind::Sessions => importer.sessions(bytes, *count).unwrap(),
            WalkKind::Acls => importer.acls(bytes, *count).unwrap(),
            WalkKind::Nodes => importer.nodes(bytes, *count).unwrap(),
            WalkKind::Done => {}
        }
    }
    importer.finish_with(&InTurn(3), start, settled).unwrap();
}

pub fn create(path: &str, parent_cversion: i32) -> Txn<'_> {
    create_as(CreateTxnKind::Create, path, Some(b"v"), acl::OPEN, false, parent_cversion)
}

pub fn ephemeral(path: &str, parent_cversion: i32) -> Txn<'_> {
    create_as(CreateTxnKind::Create2, path, Some(b"e"), acl::OPEN, true, parent_cversion)
}

pub fn create_as<'a>(
    kind: CreateTxnKind,
    path: &'a str,
    data: Option<&'a [u8]>,
    acl: AclBytes<'a>,
    ephemeral: bool,
    parent_cversion: i32,
) -> Txn<'a> {
    Txn::Create { kind, path: path.into(), data, acl, ephemeral, parent_cversion }
}

pub fn delete(path: &str) -> Txn<'_> {
    Txn::Delete { path: path.into(), container: false }
}

pub fn set<'a>(path: &'a str, data: &'a [u8], version: i32) -> Txn<'a> {
    Txn::SetData { path: path.into(), data: Some(data), version, reconfig: false }
}

pub fn close(paths: &[&'static str]) -> Txn<'static> {
    Txn::CloseSession { paths: Some(paths.iter().map(|&p| p.into()).collect()) }
}

/// A list of one entry.
pub fn list(perms: i32, scheme: &str, id: &str) -> Vec<u8> {
    let mut out = Vec::new();
    acl::encode([(perms, &Id::new(scheme, id))].into_iter(), &mut out);
    out
}

pub fn as_acl(bytes: &[u8]) -> AclBytes<'_> {
    AclBytes::decode(&mut Reader::new(bytes)).unwrap()
}
