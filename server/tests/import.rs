//! The first start on a data directory of Apache ZooKeeper: exactly its tree, its sessions, its counters.

mod support;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proto::client::OpCode;
use proto::jute::{Put, Reader};
use proto::{SessionId, Stat};
use std::path::Path;
use support::{Client, Server, TempDir, write_config};

/// Beside the samples lies what a client read just before Apache was killed.
fn check(version: &str) {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sample = here.join(format!("tests/data/zk-{version}/version-2"));
    let dir = TempDir::new();
    let version_2 = dir.path().join("data/version-2");
    std::fs::create_dir_all(&version_2).unwrap();
    for entry in std::fs::read_dir(sample).unwrap().flatten() {
        std::fs::copy(entry.path(), version_2.join(entry.file_name())).unwrap();
    }
    let text = std::fs::read_to_string(here.join(format!("tests/data/zk-{version}/expected.json"))).unwrap();
    let expected: serde_json::Value = serde_json::from_str(&text).unwrap();
    let nodes = expected["nodes"].as_object().unwrap();

    let extra = "extendedTypesEnabled=true\nDigestAuthenticationProvider.superDigest=super:D/InIHSb7yEEbrWz8b9l71RjZJU=";
    let cfg = write_config(dir.path(), extra);
    // Once as imported, once from Falconer's own files.
    for _ in 0..2 {
        let server = Server::start(&cfg);
        let mut c = Client::connect(server.port, 10_000);
        authenticate(&mut c);
        for (path, node) in nodes {
            check_node(&mut c, path, node);
        }
        // The path "" and the root are one, and Apache counts it twice.
        let count = format!("\nNode count: {}\n", nodes.len() + 1);
        assert!(
            server.four_letter_word("srvr").contains(&count),
            "{count}{}",
            server.four_letter_word("srvr")
        );
        assert!(server.four_letter_word("mntr").contains("zk_digest_mismatches_count\t0\n"));
        let alive = expected["session_alive"].as_str().unwrap_or_default();
        let id = i64::from_str_radix(alive.trim_start_matches("0x"), 16).unwrap();
        let session = SessionId(id);
        let back = Client::resume(server.port, 10_000, session, proto::session::password(session));
        assert_eq!(back.session.session, session, "the live session goes on here");
        server.kill();
    }
    assert!(version_2.join("currentEpoch").exists() || version_2.read_dir().unwrap().count() > 0);
}

fn authenticate(c: &mut Client) {
    let mut body = Vec::new();
    body.put_i32(0);
    body.put_str("digest");
    body.put_buffer(Some(b"super:test"));
    c.send_as(proto::Xid::AUTH, OpCode::Auth.wire(), &body);
    assert_eq!(c.receive().header.err, 0);
}

fn check_node(c: &mut Client, path: &str, node: &serde_json::Value) {
    let reply = c.call(OpCode::GetData, &support::path_watch(path, false));
    assert_eq!(reply.header.err, 0, "{path}");
    let mut r = Reader::new(&reply.body);
    let data = r.buffer().unwrap();
    let stat = Stat::decode(&mut r).unwrap();
    let wanted = node["data"].as_str().map(|d| STANDARD.decode(d).unwrap());
    assert_eq!(data, wanted.as_deref(), "{path}: null and empty are different too");
    let s = &node["stat"];
    let n = |key: &str| s[key].as_i64().unwrap();
    let wanted = Stat {
        czxid: n("czxid"),
        mzxid: n("mzxid"),
        ctime: n("ctime"),
        mtime: n("mtime"),
        version: n("version") as i32,
        cversion: n("cversion") as i32,
        aversion: n("aversion") as i32,
        ephemeral_owner: n("ephemeralOwner"),
        data_length: n("dataLength") as i32,
        num_children: n("numChildren") as i32,
        pzxid: n("pzxid"),
    };
    assert_eq!(stat, wanted, "{path}");

    let mut body = Vec::new();
    body.put_str(path);
    let reply = c.call(OpCode::GetAcl, &body);
    assert_eq!(reply.header.err, 0, "{path}");
    let mut r = Reader::new(&reply.body);
    let acl = proto::acl::AclBytes::decode(&mut r).unwrap();
    let found: Vec<_> = acl
        .entries()
        .map(|e| serde_json::json!([e.perms, e.scheme.unwrap_or_default(), e.id.unwrap_or_default()]))
        .collect();
    assert_eq!(&serde_json::Value::Array(found), &node["acl"], "{path}");
}

#[test]
fn data_of_3_8_0_is_taken_over_exactly() {
    check("3.8.0");
}

#[test]
fn data_of_3_9_5_is_taken_over_exactly() {
    check("3.9.5");
}

/// A server writes its first snapshot before it has applied anything, with a blank where the digest stands.
#[test]
fn the_first_snapshot_of_a_server_has_no_digest_to_fit() {
    let sample =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../snapshot/tests/data/zk-3.9.5/version-2/snapshot.0.gz");
    let dir = TempDir::new();
    let version_2 = dir.path().join("data/version-2");
    std::fs::create_dir_all(&version_2).unwrap();
    std::fs::copy(sample, version_2.join("snapshot.0.gz")).unwrap();
    let server = Server::start(&write_config(dir.path(), ""));
    let mntr = server.four_letter_word("mntr");
    assert!(mntr.contains("zk_znode_count\t5\n"), "{mntr}");
    assert!(mntr.contains("zk_digest_mismatches_count\t0\n"), "{mntr}");
}
