//! The records of the protocol: what clients send, what the log and the snapshots hold.

use proto::acl::{self, AclBytes, Id};
use proto::client::{
    AuthPacket, ConnectRequest, ConnectResponse, OpCode, ReadOp, ReplyHeader, RequestHeader, WriteOp,
};
use proto::jute::{Put, Reader};
use proto::state::{AclRecord, NodeRecord, SessionRecord};
use proto::txn::{CreateTxnKind, Record, RecordBatch, Txn, TxnDigest, TxnHeader};
use proto::{SessionId, StatPersisted, WallMs, Xid, Zxid};

/// Everything that a client may send: the handshake, and a request (header and body) of any operation.
pub fn client(bytes: &[u8]) {
    if let Ok(request) = ConnectRequest::decode(bytes) {
        let mut frame = Vec::new();
        request.encode_frame(&mut frame);
        assert_eq!(ConnectRequest::decode(&frame[4..]).as_ref(), Ok(&request));
    }
    if let Ok(response) = ConnectResponse::decode(bytes) {
        let mut frame = Vec::new();
        response.encode_frame(&mut frame);
        assert_eq!(ConnectResponse::decode(&frame[4..]).as_ref(), Ok(&response));
    }
    let _ = ReplyHeader::decode(&mut Reader::new(bytes));
    let mut r = Reader::new(bytes);
    let Ok(header) = RequestHeader::decode(&mut r) else { return };
    let Some(op) = OpCode::from_wire(header.op) else { return };
    assert_eq!(op.wire(), header.op);
    let room = r.remaining();
    for max_len in [usize::MAX, 100] {
        let body = || Reader::with_max_len(&bytes[RequestHeader::LEN..], max_len);
        match ReadOp::decode(op, &mut body()) {
            Some(Ok(ReadOp::SetWatches(w))) => {
                for list in [&w.data, &w.exist, &w.child, &w.persistent, &w.persistent_recursive] {
                    assert!(
                        list.capacity() <= room / 4,
                        "{} strings allotted for {room} bytes",
                        list.capacity()
                    );
                }
            }
            Some(Ok(ReadOp::MultiRead(ops))) => assert!(ops.len() <= room / 9),
            _ => {}
        }
        match WriteOp::decode(op, &mut body()) {
            Some(Ok(WriteOp::Multi(ops))) => assert!(ops.len() <= room / 9),
            Some(Ok(WriteOp::Create(create))) => check_acl(create.acl),
            Some(Ok(WriteOp::SetAcl { acl, .. })) => check_acl(acl),
            _ => {}
        }
        let _ = AuthPacket::decode(&mut body());
    }
}

/// A list reads as the entries that it was read from, if no name is null.
fn check_acl(list: AclBytes<'_>) {
    let entries: Vec<_> = list.entries().collect();
    assert!(entries.len() <= list.as_bytes().len() / 12);
    let named: Option<Vec<(i32, Id)>> =
        entries.iter().map(|e| Some((e.perms, Id::new(e.scheme.as_deref()?, e.id.as_deref()?)))).collect();
    if let Some(named) = named {
        let mut out = Vec::new();
        acl::encode(named.iter().map(|(perms, id)| (*perms, id)), &mut out);
        let again = AclBytes::decode(&mut Reader::new(&out)).expect("it was encoded just now");
        assert!(again.entries().eq(entries.into_iter()));
    }
}

/// A record of the log.
pub fn txn(bytes: &[u8]) {
    let batch = RecordBatch::single(bytes);
    assert_eq!(batch.is_ok(), bytes.len() >= TxnHeader::LEN);
    let Ok(record) = Record::decode(bytes) else { return };
    assert_eq!(TxnHeader::peek_zxid(bytes), Some(record.header.zxid));
    match &record.txn {
        Txn::Multi(txns) => assert!(txns.capacity() <= bytes.len() / 8),
        Txn::CloseSession { paths: Some(paths) } => {
            assert!(paths.capacity() <= bytes.len() / 4);
            // Two empty paths and no digest are the same twelve bytes as a digest alone; no znode has such a path.
            if paths.iter().all(|p| p.is_empty()) {
                return;
            }
        }
        Txn::Create { acl, .. } | Txn::SetAcl { acl, .. } => check_acl(*acl),
        _ => {}
    }
    let mut out = Vec::new();
    record.encode(&mut out);
    assert_eq!(Record::decode(&out).as_ref(), Ok(&record));
}

/// The records of a snapshot.
pub fn state(bytes: &[u8]) {
    let mut out = Vec::new();
    if let Ok(session) = SessionRecord::decode(&mut Reader::new(bytes)) {
        session.encode(&mut out);
        assert_eq!(SessionRecord::decode(&mut Reader::new(&out)), Ok(session));
    }
    out.clear();
    if let Ok(entry) = AclRecord::decode(&mut Reader::new(bytes)) {
        entry.encode(&mut out);
        assert_eq!(AclRecord::decode(&mut Reader::new(&out)), Ok(entry));
        check_acl(entry.acl);
    }
    out.clear();
    if let Ok(node) = NodeRecord::decode(&mut Reader::new(bytes)) {
        node.encode(&mut out);
        assert_eq!(NodeRecord::decode(&mut Reader::new(&out)).as_ref(), Ok(&node));
    }
}

/// One request of each operation, and a handshake with and without the flag.
pub(crate) fn client_seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = [None, Some(true)]
        .map(|read_only| {
            let mut frame = Vec::new();
            ConnectRequest {
                last_zxid_seen: 7,
                timeout_ms: 30_000,
                session: SessionId(0x1234),
                password: &[5; 16],
                read_only,
            }
            .encode_frame(&mut frame);
            frame.split_off(4)
        })
        .into();
    for op in (-20..200).filter_map(OpCode::from_wire) {
        let mut b = Vec::new();
        b.put_i32(9);
        b.put_i32(op.wire());
        put_body(op, &mut b);
        seeds.push(b);
    }
    seeds
}

fn put_body(op: OpCode, b: &mut Vec<u8>) {
    let strings = |b: &mut Vec<u8>| {
        b.put_count(2);
        b.put_str("/a");
        b.put_str("/a/b");
    };
    match op {
        OpCode::Create | OpCode::Create2 | OpCode::CreateContainer | OpCode::CreateTtl => {
            b.put_str("/a/b");
            b.put_buffer(Some(b"value"));
            acl::encode([(31, &Id::new("world", "anyone")), (1, &Id::new("digest", "u:h"))].into_iter(), b);
            b.put_i32(if op == OpCode::CreateTtl { 5 } else { 0 });
            if op == OpCode::CreateTtl {
                b.put_i64(1000);
            }
        }
        OpCode::SetAcl => {
            b.put_str("/a");
            b.extend_from_slice(acl::WORLD_READ.as_bytes());
            b.put_i32(-1);
        }
        OpCode::SetData => {
            b.put_str("/a");
            b.put_buffer(Some(b"value"));
            b.put_i32(2);
        }
        OpCode::Multi | OpCode::MultiRead => {
            let inner: &[OpCode] = if op == OpCode::Multi {
                &[OpCode::Create, OpCode::CreateTtl, OpCode::SetData, OpCode::Delete, OpCode::Check]
            } else {
                &[OpCode::GetData, OpCode::GetChildren]
            };
            for &each in inner {
                b.put_i32(each.wire());
                b.put_bool(false);
                b.put_i32(-1);
                put_body(each, b);
            }
            b.put_i32(-1);
            b.put_bool(true);
            b.put_i32(-1);
        }
        OpCode::SetWatches | OpCode::SetWatches2 => {
            b.put_i64(3);
            (0..if op == OpCode::SetWatches { 3 } else { 5 }).for_each(|_| strings(b));
        }
        OpCode::Reconfig => {
            (0..3).for_each(|_| b.put_str("server.1=h:1:2:participant;3"));
            b.put_i64(-1);
        }
        OpCode::Auth => {
            b.put_i32(0);
            b.put_str("digest");
            b.put_buffer(Some(b"user:password"));
        }
        OpCode::Exists | OpCode::GetData | OpCode::GetChildren | OpCode::GetChildren2 => {
            b.put_str("/a");
            b.put_bool(true);
        }
        _ => {
            b.put_str("/a");
            b.put_i32(1);
        }
    }
}

fn txns() -> Vec<Txn<'static>> {
    let create = |kind, ephemeral| Txn::Create {
        kind,
        path: "/a/b".into(),
        data: Some(b"value"),
        acl: acl::WORLD_READ,
        ephemeral,
        parent_cversion: 3,
    };
    vec![
        create(CreateTxnKind::Create, false),
        create(CreateTxnKind::Create2, true),
        create(CreateTxnKind::Container, false),
        create(CreateTxnKind::Ttl(1000), false),
        Txn::Delete { path: "/a".into(), container: false },
        Txn::Delete { path: "/a".into(), container: true },
        Txn::SetData { path: "/a".into(), data: None, version: 4, reconfig: false },
        Txn::SetData { path: "/zookeeper/config".into(), data: Some(b"x"), version: 4, reconfig: true },
        Txn::SetAcl { path: "/a".into(), acl: acl::OPEN, aversion: 1 },
        Txn::Check { path: "/a".into(), version: 5 },
        Txn::CreateSession { timeout_ms: 30_000 },
        Txn::CloseSession { paths: Some(vec!["/a".into(), "/b".into()]) },
        Txn::CloseSession { paths: None },
        Txn::Error { code: -101 },
    ]
}

pub(crate) fn txn_seeds() -> Vec<Vec<u8>> {
    let multi = Txn::Multi(txns().into_iter().filter(|t| !matches!(t, Txn::CloseSession { .. })).collect());
    let mut seeds = Vec::new();
    for txn in txns().into_iter().chain([multi]) {
        let header = TxnHeader {
            session: SessionId(1),
            cxid: Xid(2),
            zxid: Zxid::from_u64(3),
            time: WallMs(4),
            kind: txn.kind(),
        };
        for digest in [None, Some(TxnDigest { version: 2, tree: 77 })] {
            let mut out = Vec::new();
            Record { header, txn: txn.clone(), digest }.encode(&mut out);
            seeds.push(out);
        }
    }
    // A session closed with a null list.
    let mut null = seeds[22][..TxnHeader::LEN].to_vec();
    null.put_i32(-1);
    TxnDigest { version: 1, tree: 5 }.encode(&mut null);
    seeds.push(null);
    seeds
}

pub(crate) fn state_seeds() -> Vec<Vec<u8>> {
    let mut session = Vec::new();
    SessionRecord { session: SessionId(5), timeout_ms: 6000 }.encode(&mut session);
    let mut entry = Vec::new();
    AclRecord { id: 1, acl: acl::WORLD_READ }.encode(&mut entry);
    let mut node = Vec::new();
    let stat = StatPersisted { czxid: 1, mzxid: 2, ..Default::default() };
    NodeRecord { path: "/a".into(), data: Some(b"v"), acl: 1, stat }.encode(&mut node);
    vec![session, entry, node]
}

/// A record as the log stores it, for the files' seeds.
pub(crate) fn record(zxid: u64) -> Vec<u8> {
    let txn = Txn::SetData { path: "/a".into(), data: Some(b"value"), version: 1, reconfig: false };
    let header = TxnHeader {
        session: SessionId(1),
        cxid: Xid(2),
        zxid: Zxid::from_u64(zxid),
        time: WallMs(4),
        kind: txn.kind(),
    };
    let mut out = Vec::new();
    Record { header, txn, digest: Some(TxnDigest { version: 2, tree: 1 }) }.encode(&mut out);
    out
}
