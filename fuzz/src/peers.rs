//! What comes in on the two ports of an ensemble's servers.

use proto::acl::Id;
use proto::jute::Reader;
use proto::peer::{
    Address, AuthIds, Features, FromLeader, FromLearner, HEAD_LEN, InitialMessage, LearnerInfo,
    NOTIFICATION_MAX, Notification, PROTOCOL_VERSION, Packet, PeerState, Vote, frame_len, packet_len,
};
use proto::{Epoch, ServerId, SessionId, Xid, Zxid};

/// The longest data that the targets allow: small, so that the bound is met.
const MAX: usize = 200;

/// A stream of packets on the quorum port, read from both sides.
pub fn peer_packets(mut stream: &[u8]) {
    loop {
        let whole = packet_len(stream, MAX);
        if let Ok(None) = whole {
            assert!(stream.len() <= HEAD_LEN + 2 * MAX, "{} bytes are held back", stream.len());
        }
        let Ok(Some(len)) = whole else { return };
        assert!(len <= HEAD_LEN + 2 * MAX && len <= stream.len());
        let (bytes, rest) = stream.split_at(len);
        let packet = Packet::read(&mut Reader::with_max_len(bytes, MAX)).expect("its length was found");
        let mut out = Vec::new();
        packet.encode(&mut out);
        assert_eq!(out, bytes);
        assert!(packet.auth.ids().count() <= len / 8);
        if let Ok(said) = FromLearner::parse(&packet) {
            out.clear();
            said.encode(&mut out);
            assert_eq!(packet_len(&out, usize::MAX >> 2), Ok(Some(out.len())));
            let again = Packet::read(&mut Reader::new(&out)).expect("it was encoded just now");
            assert_eq!(FromLearner::parse(&again), Ok(said));
        }
        if let Ok(said) = FromLeader::parse(&packet) {
            out.clear();
            said.encode(&mut out);
            let again = Packet::read(&mut Reader::new(&out)).expect("it was encoded just now");
            assert_eq!(FromLeader::parse(&again), Ok(said));
        }
        stream = rest;
    }
}

/// A tree behind SNAP, as a Falconer sends it. What is taken in comes out again as it is.
pub fn peer_tree(mut stream: &[u8]) {
    let len = stream.len();
    let (tree, mut applier) = engine::new(small_tree());
    let importer = applier.import();
    let Ok(settled) = importer.read(&mut stream, Zxid::ZERO) else { return };
    assert!(stream.len() < len);
    if importer.finish(Zxid::ZERO, Some(settled)).is_err() {
        return;
    }
    let out = tree_stream(&tree);
    let (again, mut applier) = engine::new(small_tree());
    let importer = applier.import();
    let settled = importer.read(&mut &out[..], Zxid::ZERO).expect("it was written just now");
    importer.finish(Zxid::ZERO, Some(settled)).expect("it has a root");
    assert_eq!(again.digest(), tree.digest());
}

fn small_tree() -> engine::TreeConfig {
    engine::TreeConfig { shards: 4, hash_seed: 1, ..engine::TreeConfig::default() }
}

fn tree_stream(tree: &engine::Tree) -> Vec<u8> {
    let (mut walk, mut out) = (tree.walk(), Vec::new());
    while walk.next_part(tree, 512, &mut out) {}
    out
}

pub(crate) fn tree_seeds() -> Vec<Vec<u8>> {
    let (tree, mut applier) = engine::new(small_tree());
    let empty = tree_stream(&tree);
    let records = crate::records::state_seeds();
    let importer = applier.import();
    importer.sessions(&records[0], 1).expect("a record");
    importer.acls(&records[1], 1).expect("a record");
    importer.nodes(&records[2], 1).expect("a record");
    let mut root = Vec::new();
    let stat = proto::StatPersisted::default();
    proto::state::NodeRecord { path: "/".into(), data: Some(b"root"), acl: proto::state::OPEN_ACL, stat }
        .encode(&mut root);
    importer.nodes(&root, 1).expect("a record");
    importer.finish(Zxid::ZERO, None).expect("the root is there");
    vec![empty, tree_stream(&tree)]
}

/// The beginning of a connection of the election port: who calls.
pub fn peer_initial(bytes: &[u8]) {
    match InitialMessage::decode(bytes) {
        Ok(Some((message, used))) => {
            assert!(used <= bytes.len());
            for cut in 0..used {
                assert_eq!(InitialMessage::decode(&bytes[..cut]), Ok(None));
            }
            if !message.addresses.is_empty() {
                let mut out = Vec::new();
                message.encode(&mut out);
                assert_eq!(InitialMessage::decode(&out), Ok(Some((message, out.len()))));
            }
        }
        Ok(None) => assert!(bytes.len() < 20 + proto::peer::INITIAL_TEXT_MAX),
        Err(_) => {}
    }
}

/// A frame of the election port.
pub fn peer_notification(bytes: &[u8]) {
    if let Some(Ok(len)) = bytes.first_chunk().map(|head| frame_len(*head)) {
        assert!((1..=NOTIFICATION_MAX).contains(&len));
    }
    let Ok(Some(said)) = Notification::decode(bytes) else { return };
    let mut out = Vec::new();
    said.encode(&mut out);
    let again = Notification::decode(&out).expect("it was encoded just now").expect("its state is known");
    assert_eq!((again.state, again.vote, again.round), (said.state, said.vote, said.round));
    if said.version > 1 {
        assert_eq!((again.config, again.features), (said.config, said.features));
    }
}

pub(crate) fn packet_seeds() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let mut seeds = Vec::new();
    let mut add = |bytes: Vec<u8>| {
        all.extend_from_slice(&bytes);
        seeds.push(bytes);
    };
    let zxid = Zxid::from_u64(0x1_0000_0002);
    let mut ids = Vec::new();
    AuthIds::encode([Id::new("ip", "127.0.0.1"), Id::new("digest", "u:h")].iter(), &mut ids);
    let auth = AuthIds::decode(&mut Reader::new(&ids)).expect("it was encoded just now");
    let info = |features| LearnerInfo {
        server: Some(ServerId(1)),
        protocol: PROTOCOL_VERSION,
        config_version: 5,
        features,
    };
    for said in [
        FromLearner::Info { observer: false, accepted: Epoch(1), info: info(None) },
        FromLearner::Info { observer: true, accepted: Epoch(1), info: info(Some(Features(1))) },
        FromLearner::AckEpoch { last: zxid, current: Some(Epoch(1)) },
        FromLearner::AckEpoch { last: zxid, current: None },
        FromLearner::Ack { zxid },
        FromLearner::Revalidate { session: SessionId(7), timeout_ms: 6000 },
        FromLearner::Request { session: SessionId(7), cxid: Xid(1), op: 1, body: b"body", auth },
        FromLearner::Digest { zxid, digest: -7, doubts: true },
    ] {
        let mut out = Vec::new();
        said.encode(&mut out);
        add(out);
    }
    let mut ping = Vec::new();
    FromLearner::encode_ping(zxid, [(SessionId(7), 6000)].into_iter(), &mut ping);
    add(ping);
    let record = crate::records::record(2);
    let designated = ServerId(3);
    for said in [
        FromLeader::LeaderInfo { epoch: Epoch(1), protocol: PROTOCOL_VERSION, features: Some(Features(1)) },
        FromLeader::Diff { zxid },
        FromLeader::Trunc { zxid },
        FromLeader::Snap { zxid },
        FromLeader::NewLeader { epoch: Epoch(1), config: Some(b"version=0".into()) },
        FromLeader::UpToDate,
        FromLeader::Proposal { zxid, record: &record },
        FromLeader::Commit { zxid },
        FromLeader::CommitAndActivate { zxid, designated },
        FromLeader::Inform { zxid, record: &record },
        FromLeader::InformAndActivate { zxid, designated, record: &record },
        FromLeader::Ping { zxid },
        FromLeader::Sync,
        FromLeader::Revalidate { session: SessionId(7), valid: true },
        FromLeader::Digest { zxid },
        FromLeader::Verdict { zxid, wanted: 7, found: -7, by_majority: true },
    ] {
        let mut out = Vec::new();
        said.encode(&mut out);
        add(out);
    }
    seeds.push(all);
    seeds
}

pub(crate) fn initial_seeds() -> Vec<Vec<u8>> {
    let address = |port| Address { host: "127.0.0.1".into(), port };
    let mut seeds = vec![7_i64.to_be_bytes().to_vec()];
    for addresses in [vec![address(3888)], vec![address(3888), Address { host: "::1".into(), port: 1 }]] {
        let mut out = Vec::new();
        InitialMessage { server: ServerId(2), addresses }.encode(&mut out);
        seeds.push(out);
    }
    seeds
}

pub(crate) fn notification_seeds() -> Vec<Vec<u8>> {
    let vote = Vote { leader: ServerId(3), zxid: 0x1_0000_0002, peer_epoch: 1 };
    let config = Some(&b"server.1=h:1:2:participant\nversion=0"[..]);
    let mut seeds = Vec::new();
    for state in [PeerState::Looking, PeerState::Following, PeerState::Leading, PeerState::Observing] {
        let mut out = Vec::new();
        Notification { state, vote, round: 5, version: 2, config, features: Some(Features(1)) }
            .encode(&mut out);
        seeds.push(out);
    }
    // The layouts of old.
    seeds.push(seeds[0][..28].to_vec());
    seeds.push(seeds[0][..40].to_vec());
    seeds
}
