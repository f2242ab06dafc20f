//! What the server tells of single requests: slow ones with where the time went, changes in the audit log, and who uses
//! which part of the tree.

mod support;

use proto::client::OpCode;
use proto::jute::Put;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::*;

fn lines(log: &str, what: &str) -> Vec<String> {
    log.lines().filter(|l| l.contains(what)).map(str::to_owned).collect()
}

#[test]
fn a_slow_request_is_told_with_the_time_of_each_stage() {
    let dir = TempDir::new();
    // A standstill of the process makes a request slow, wherever it was.
    let server = Server::start(&write_config(dir.path(), "admin.serverPort=0\nfalconer.slowRequestMs=150"));
    let mut client = Client::connect(server.port, 30_000);
    client.create("/slow", b"", 0).unwrap();
    // Writes are on their way without a pause, or a standstill could fall between them each time.
    let over = Arc::new(AtomicBool::new(false));
    let writes = std::thread::spawn({
        let over = over.clone();
        move || {
            let depth = 64;
            let send = |client: &mut Client| client.send(OpCode::SetData, &set_body("/slow", b"x", -1));
            for _ in 0..depth {
                send(&mut client);
            }
            while !over.load(Ordering::Relaxed) {
                client.receive();
                send(&mut client);
            }
            (0..depth).for_each(|_| drop(client.receive()));
        }
    });
    let caught = || {
        let page = http(server.admin, "GET", "/metrics", &[]).text();
        let count = page.lines().find_map(|l| l.strip_prefix("falconer_slow_requests_total ")).unwrap();
        count.parse::<f64>().unwrap() > 0.0
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    while !caught() {
        assert!(Instant::now() < deadline, "no request was caught by a standstill");
        server.pause(Duration::from_millis(300));
    }
    over.store(true, Ordering::Relaxed);
    writes.join().unwrap();
    let log = server.log();
    let said = lines(&log, "slow request: ");
    assert!(!said.is_empty(), "{log}");
    assert!(said.iter().all(|l| l.contains("/slow") || l.contains("turn")), "{said:?}");
    assert!(
        said.iter().any(|l| l.contains("persist") || l.contains("decode") || l.contains("admit")),
        "{said:?}"
    );
}

#[test]
fn the_audit_log_has_apaches_fields_and_is_off_unless_asked_for() {
    let dir = TempDir::new();
    let server = Server::start(&write_config(dir.path(), "audit.enable=true"));
    let mut client = Client::connect(server.port, 10_000);
    let id = client.session.session;
    client.create("/a", b"", 0).unwrap();
    client.create("/a/e", b"", 1).unwrap();
    let sequential = client.create("/a/s-", b"", 2).unwrap();
    client.create("/a", b"", 0).unwrap_err();
    client.set("/a", b"1").unwrap();
    let mut acl = Vec::new();
    acl.put_str("/a");
    acl.put_count(1);
    acl.put_i32(31);
    acl.put_str("world");
    acl.put_str("anyone");
    acl.put_i32(-1);
    assert_eq!(client.call(OpCode::SetAcl, &acl).header.err, 0);
    let mut delete = Vec::new();
    delete.put_str("/nothing");
    delete.put_i32(-1);
    assert_eq!(client.call(OpCode::Delete, &delete).header.err, -101);
    client.get("/a", false).unwrap();
    client.send(OpCode::CloseSession, &[]);
    assert!(client.is_closed());
    let log = server.stop_and_log();
    let head = format!("session={id}\tuser=127.0.0.1\tip=127.0.0.1\toperation=");
    for tail in [
        "create\tznode=/a\tznode_type=persistent\tresult=success".to_owned(),
        "create\tznode=/a/e\tznode_type=ephemeral\tresult=success".to_owned(),
        format!("create\tznode={sequential}\tznode_type=persistent_sequential\tresult=success"),
        "create\tznode=/a\tznode_type=persistent\tresult=failure".to_owned(),
        "setData\tznode=/a\tresult=success".to_owned(),
        "setAcl\tznode=/a\tacl=world:anyone:cdrwa\tresult=success".to_owned(),
        "delete\tznode=/nothing\tresult=failure".to_owned(),
    ] {
        assert_eq!(lines(&log, &format!("{head}{tail}")).len(), 1, "{tail}\n{log}");
    }
    let gone = "operation=ephemeralZNodeDeletionOnSessionCloseOrExpire\tznode=/a/e\tresult=success";
    assert_eq!(lines(&log, gone).len(), 1, "{log}");
    assert_eq!(lines(&log, "operation=serverStart\tresult=success").len(), 1, "{log}");
    assert_eq!(lines(&log, "operation=serverStop\tresult=invoked").len(), 1, "{log}");
    let quiet = TempDir::new();
    let server = Server::start(&write_config(quiet.path(), ""));
    Client::connect(server.port, 10_000).create("/a", b"", 0).unwrap();
    assert!(lines(&server.stop_and_log(), "operation=").is_empty());
}

#[test]
fn use_is_told_by_path_and_by_address_and_stays_bounded() {
    let dir = TempDir::new();
    let server = Server::start(&write_config(dir.path(), "admin.serverPort=0\nfalconer.eventLoops=2"));
    let mut client = Client::connect(server.port, 10_000);
    client.create("/busy", b"0123456789", 0).unwrap();
    for i in 0..300 {
        client.get(&format!("/once{i}"), false).unwrap_err();
    }
    for _ in 0..400 {
        client.get("/busy", false).unwrap();
    }
    let page = http(server.admin, "GET", "/metrics", &[]).text();
    let value = |name: &str| -> f64 {
        let line =
            page.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_else(|| panic!("{name}: {page}"));
        line.trim().parse().unwrap()
    };
    assert!(value("falconer_namespace_requests_total{namespace=\"/busy\"}") >= 401.0);
    assert!(value("falconer_namespace_bytes_total{namespace=\"/busy\"}") >= 400.0 * 90.0);
    assert_eq!(value("read_per_namespace_count{key=\"busy\"}"), 400.0);
    assert!(value("falconer_client_requests_total{address=\"127.0.0.1\"}") >= 701.0);
    assert!(page.lines().filter(|l| l.starts_with("falconer_namespace_requests_total{")).count() <= 16);
}

/// Reads that wait behind writes are counted with the bytes of their replies, whichever thread answers them.
#[test]
fn what_waits_behind_a_write_is_counted_in_full() {
    let dir = TempDir::new();
    let server = Server::start(&write_config(dir.path(), "admin.serverPort=0"));
    let mut client = Client::connect(server.port, 10_000);
    client.create("/mixed", &[b'x'; 1000], 0).unwrap();
    let mut bytes = 0;
    for _ in 0..20 {
        client.send(OpCode::SetData, &set_body("/mixed", &[b'y'; 1000], -1));
        for _ in 0..10 {
            let mut body = Vec::new();
            body.put_str("/mixed");
            body.put_bool(false);
            client.send(OpCode::GetData, &body);
        }
        assert_eq!(client.receive().header.err, 0);
        // Each with its length and its head.
        bytes += (0..10).map(|_| 4 + 16 + client.receive().body.len()).sum::<usize>();
    }
    let value = |name: &str| {
        let monitor = http(server.admin, "GET", "/commands/monitor", &[]).json();
        monitor[format!("{name}_mixed_read_per_namespace")].as_u64().unwrap()
    };
    // A reply may leave before it is counted.
    let since = Instant::now();
    while value("cnt") < 200 {
        assert!(since.elapsed() < Duration::from_secs(20), "{} counted", value("cnt"));
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!((value("cnt"), value("sum")), (200, bytes as u64));
    assert_eq!((value("min"), value("max")), (bytes as u64 / 200, bytes as u64 / 200));
}
