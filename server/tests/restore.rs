//! The command `restore`: a state comes back, survives kill -9, and whatever is not a whole snapshot changes nothing.

mod support;

use proto::Zxid;
use proto::acl::perms;
use proto::client::OpCode;
use proto::jute::Put;
use std::collections::BTreeMap;
use std::io::Write;
use support::*;

const ADMIN: &str = "admin.serverPort=0\nadmin.rateLimiterIntervalInMS=0";
const MAY: &str = "Authorization: digest a:b";

fn post(port: u16, headers: &str, body: &[u8], length: usize) -> Http {
    let mut request = format!(
        "POST /commands/restore HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n\r\n"
    )
    .into_bytes();
    request.extend_from_slice(body);
    http_raw(port, &request).expect("an answer")
}

/// The port of the clients is there a moment before the commands are.
fn wait_until_ready(server: &Server) {
    while http(server.admin, "GET", "/readyz", &[]).status != 200 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

fn restore(server: &Server, body: &[u8]) -> Http {
    wait_until_ready(server);
    post(server.admin, MAY, body, body.len())
}

fn take(server: &Server) -> (Zxid, Vec<u8>) {
    wait_until_ready(server);
    let taken = http(server.admin, "GET", "/commands/snapshot", &[MAY]);
    assert_eq!(taken.status, 200, "{}", taken.text());
    let zxid = taken.header("last_zxid").unwrap().strip_prefix("0x").unwrap();
    (Zxid::from_u64(u64::from_str_radix(zxid, 16).unwrap()), taken.body)
}

/// Data, version and czxid of each znode of the tests.
fn state(port: u16) -> BTreeMap<String, (Vec<u8>, i32, i64)> {
    let mut client = Client::connect(port, 10_000);
    let names = ["/", "/kept", "/kept/child", "/owned", "/removed", "/new"].map(str::to_owned);
    let found = |name: String| {
        let (data, stat) = client.get(&name, false).ok()?;
        // The root's pzxid and so on are told by its children.
        Some((name, (data, stat.version, stat.czxid)))
    };
    names.into_iter().filter_map(found).collect()
}

fn delete(client: &mut Client, path: &str) {
    let mut body = Vec::new();
    body.put_str(path);
    body.put_i32(-1);
    assert_eq!(client.call(OpCode::Delete, &body).header.err, 0);
}

const EPHEMERAL: i32 = 1;

#[test]
fn an_old_state_comes_back_and_survives_a_kill() {
    let dir = TempDir::new();
    let config = write_config(dir.path(), ADMIN);
    let server = Server::start(&config);
    let mut client = Client::connect(server.port, 20_000);
    client.create("/kept", b"one", 0).unwrap();
    client.set("/kept", b"two").unwrap();
    client.create("/kept/child", b"", 0).unwrap();
    client.create("/removed", b"x", 0).unwrap();
    client.create("/owned", b"mine", EPHEMERAL).unwrap();
    let (session, password) = (client.session.session, client.session.password);
    let before = state(server.port);
    assert_eq!(before.len(), 5);
    let (taken_at, snapshot) = take(&server);

    client.set("/kept", b"three").unwrap();
    delete(&mut client, "/removed");
    client.create("/new", b"", 0).unwrap();
    let (last, _) = (client.set("/new", b"y").unwrap().mzxid, ());
    let answer = restore(&server, &snapshot);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let at = answer.json()["last_zxid"].as_i64().unwrap();
    assert!(at > last && Zxid::from_wire(at) > taken_at, "no client sees zxids go back: {at:#x}, {last:#x}");
    assert_eq!(answer.json()["error"], serde_json::Value::Null);
    assert!(client.is_closed(), "clients of the old state are cut off");
    assert_eq!(state(server.port), before);
    // Its session is part of the state, and so are its ephemerals.
    let mut client = Client::resume(server.port, 20_000, session, password);
    assert_eq!(client.session.session, session);
    // Life goes on behind it, and is as durable as before.
    client.set("/kept", b"four").unwrap();
    let (data, stat) = client.get("/kept", false).unwrap();
    assert_eq!((data.as_slice(), stat.version), (b"four".as_slice(), before["/kept"].1 + 1));
    assert!(stat.mzxid > at);
    let answer = restore(&server, &snapshot);
    assert_eq!(answer.status, 200, "{}", answer.text());
    server.kill();
    let server = Server::start(&config);
    assert_eq!(state(server.port), before, "kill -9 behind the answer leaves the restored state");
    let mut client = Client::connect(server.port, 10_000);
    client.create("/after", b"", 0).unwrap();
    assert!(server.four_letter_word("mntr").contains("zk_digest_mismatches_count\t0"));
    // What was restored can be taken, and restored elsewhere: with larger zxids than that server has.
    let (later, snapshot) = take(&server);
    let other = TempDir::new();
    let fresh = Server::start(&write_config(other.path(), ADMIN));
    let answer = restore(&fresh, &snapshot);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(Zxid::from_wire(answer.json()["last_zxid"].as_i64().unwrap()) >= later);
    assert_eq!(state(fresh.port), before);
}

#[test]
fn what_is_not_a_whole_snapshot_changes_nothing() {
    let dir = TempDir::new();
    let config = write_config(dir.path(), ADMIN);
    let server = Server::start(&config);
    let mut client = Client::connect(server.port, 20_000);
    client.create("/kept", &[7; 3000], 0).unwrap();
    let (_, snapshot) = take(&server);
    client.create("/new", b"", 0).unwrap();
    let before = state(server.port);
    let demand = |answer: Http, what: &str| {
        assert_eq!(answer.status, 500, "{what}: {}", answer.text());
        let error = answer.json()["error"].as_str().unwrap().to_owned();
        assert!(error.starts_with("nothing was changed: "), "{what}: {error}");
        assert_eq!(state(server.port), before, "{what}");
    };
    demand(restore(&server, b""), "empty");
    demand(restore(&server, b"not a snapshot at all"), "something else");
    for cut in [1, 4, 15, 16, 40, snapshot.len() / 2, snapshot.len() - 30, snapshot.len() - 1] {
        demand(restore(&server, &snapshot[..cut]), &format!("cut at {cut}"));
    }
    for at in [0, 30, snapshot.len() / 3, snapshot.len() / 2, snapshot.len() - 50, snapshot.len() - 8] {
        let mut damaged = snapshot.clone();
        damaged[at] ^= 0x20;
        demand(restore(&server, &damaged), &format!("damaged at {at}"));
    }
    let mut surplus = snapshot.clone();
    surplus.extend_from_slice(&[0; 4096]);
    demand(restore(&server, &surplus), "more behind it");
    // The connection breaks in the middle of the body.
    let mut broken = std::net::TcpStream::connect(("127.0.0.1", server.admin)).unwrap();
    let head = format!(
        "POST /commands/restore HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n{MAY}\r\n\r\n",
        snapshot.len()
    );
    broken.write_all(head.as_bytes()).unwrap();
    broken.write_all(&snapshot[..snapshot.len() / 2]).unwrap();
    drop(broken);
    while !server.log().contains("the body broke off") {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert_eq!(state(server.port), before);
    // The client that was there all the time is still there.
    assert_eq!(client.ping().header.err, 0);
    let errors = server.four_letter_word("mntr");
    assert!(errors.contains("zk_restore_error_count\t18"), "{errors}");
    server.kill();
    assert_eq!(state(Server::start(&config).port), before);
}

#[test]
fn it_is_restored_only_for_those_who_may_and_not_too_often() {
    let dir = TempDir::new();
    let server = Server::start(&write_config(dir.path(), "admin.serverPort=0\nadmin.restore.enabled=false"));
    assert_eq!(restore(&server, b"x").status, 503);
    drop(server);
    let dir = TempDir::new();
    let server = Server::start(&write_config(dir.path(), "admin.serverPort=0"));
    let (_, snapshot) = take(&server);
    let nobody = post(server.admin, "X-Nothing: here", &snapshot, snapshot.len());
    assert_eq!(nobody.status, 401);
    assert_eq!(post(server.admin, "Authorization: nonsense a:b", &snapshot, snapshot.len()).status, 401);
    let foreign = format!("{MAY}\r\nSec-Fetch-Site: cross-site");
    assert_eq!(post(server.admin, &foreign, &snapshot, snapshot.len()).status, 403);
    assert_eq!(http(server.admin, "GET", "/commands/restore", &[MAY]).status, 405);
    assert_eq!(restore(&server, &snapshot).status, 200);
    assert_eq!(restore(&server, &snapshot).status, 429, "once in admin.rateLimiterIntervalInMS");
    let mut client = Client::connect(server.port, 10_000);
    set_root_acl(&mut client);
    assert_eq!(restore(&server, &snapshot).status, 403);
}

fn set_root_acl(client: &mut Client) {
    let mut body = Vec::new();
    body.put_str("/");
    body.put_i32(1);
    body.put_i32(perms::READ);
    body.put_str("world");
    body.put_str("anyone");
    body.put_i32(-1);
    assert_eq!(client.call(OpCode::SetAcl, &body).header.err, 0);
}

/// A snapshot of Falconer's own, out of a data directory, is taken if it is of one moment.
#[test]
fn a_file_of_falconers_own_is_taken_too() {
    let dir = TempDir::new();
    let config = write_config(dir.path(), ADMIN);
    let server = Server::start(&config);
    Client::connect(server.port, 10_000).create("/kept", b"v", 0).unwrap();
    let before = state(server.port);
    let (_, snapshot) = take(&server);
    // A restore leaves one of a moment.
    assert_eq!(restore(&server, &snapshot).status, 200);
    let files = std::fs::read_dir(dir.path().join("data/snapshot")).unwrap();
    let own = files.flatten().find(|f| f.file_name().to_string_lossy().starts_with("snapshot.")).unwrap();
    let own = std::fs::read(own.path()).unwrap();
    Client::connect(server.port, 10_000).create("/new", b"", 0).unwrap();
    let mut damaged = own.clone();
    damaged[own.len() / 2] ^= 1;
    assert_eq!(restore(&server, &damaged).status, 500);
    assert_ne!(state(server.port), before);
    let answer = restore(&server, &own);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(state(server.port), before);
}
