//! The server as a process: what survives kill -9, how it ends, how it refuses to start.

mod support;

use proto::client::OpCode;
use proto::jute::Put;
use proto::{SessionId, Xid};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;
use support::{Client, Server, TempDir, create_body, path_watch, set_body, write_config};

const EPHEMERAL: i32 = 1;
const SEQUENTIAL: i32 = 2;

#[test]
fn what_was_acknowledged_survives_kill_9_with_sessions_and_ephemerals() {
    let dir = TempDir::new();
    let cfg = write_config(dir.path(), "");
    let server = Server::start(&cfg);
    let mut c = Client::connect(server.port, 10_000);
    assert_eq!(c.create("/a", b"one", 0), Ok("/a".into()));
    assert_eq!(c.create("/a/e", b"", EPHEMERAL), Ok("/a/e".into()));
    assert_eq!(c.create("/a/s-", b"", SEQUENTIAL), Ok("/a/s-0000000001".into()));
    let stat = c.set("/a", b"two").unwrap();
    server.kill();

    for _ in 0..3 {
        let server = Server::start(&cfg);
        let mut c = Client::resume(server.port, 10_000, c.session.session, c.session.password);
        assert_ne!(c.session.session, SessionId::NONE, "the session lives on");
        let (data, seen) = c.get("/a", false).unwrap();
        assert_eq!((&data[..], seen.mzxid, seen.version), (&b"two"[..], stat.mzxid, 1));
        assert_eq!(c.get("/a/e", false).unwrap().1.ephemeral_owner, c.session.session.0);
        server.kill();
    }

    let server = Server::start(&cfg);
    let mut d = Client::connect(server.port, 10_000);
    assert_eq!(
        d.create("/a/s-", b"", SEQUENTIAL),
        Ok("/a/s-0000000002".into()),
        "numbers are never used again"
    );
    assert!(d.session.session.0 > c.session.session.0, "nor are session ids");
    let reply = d.call(OpCode::CloseSession, &[]);
    assert_eq!(reply.header.err, 0);
    assert!(d.is_closed());
}

#[test]
fn a_clean_stop_and_a_second_server_on_the_same_directory() {
    let dir = TempDir::new();
    let cfg = write_config(dir.path(), "");
    let server = Server::start(&cfg);
    let second = Command::new(env!("CARGO_BIN_EXE_falconerd")).arg(&cfg).output().unwrap();
    assert_eq!(second.status.code(), Some(22));
    let text = String::from_utf8_lossy(&second.stderr);
    assert!(text.contains("in use by another falconerd"), "{text}");
    let mut c = Client::connect(server.port, 10_000);
    c.create("/kept", b"x", 0).unwrap();
    assert_eq!(server.terminate(), Some(0));
    let server = Server::start(&cfg);
    let mut c = Client::connect(server.port, 10_000);
    assert_eq!(c.get("/kept", false).unwrap().0, b"x");
}

/// Whoever has had an answer may stop the server: the signal once ended the process, without a clean stop, for some ms yet.
#[test]
fn a_server_that_has_just_begun_to_answer_stops_cleanly() {
    let dir = TempDir::new();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    // It has to be known before the server says so; the last line of a key counts.
    let cfg = write_config(dir.path(), &format!("clientPort={port}"));
    for _ in 0..10 {
        let mut server =
            Command::new(env!("CARGO_BIN_EXE_falconerd")).arg(&cfg).stderr(Stdio::null()).spawn().unwrap();
        let answered = || {
            let mut socket = TcpStream::connect(("127.0.0.1", port))?;
            socket.write_all(b"srvr")?;
            socket.read_to_end(&mut Vec::new())
        };
        while !answered().is_ok_and(|n| n > 0) {
            assert_eq!(server.try_wait().unwrap(), None, "the server ended before it served");
        }
        assert!(Command::new("kill").arg(server.id().to_string()).status().unwrap().success());
        assert_eq!(server.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn requests_are_pipelined_and_a_read_never_sees_a_later_write_of_its_session() {
    let dir = TempDir::new();
    let server = Server::start(&write_config(dir.path(), ""));
    let mut c = Client::connect(server.port, 10_000);
    c.create("/p", b"", 0).unwrap();
    const N: i32 = 200;
    for i in 0..N {
        c.send(OpCode::SetData, &set_body("/p", &i.to_be_bytes(), -1));
        c.send(OpCode::GetData, &path_watch("/p", false));
    }
    for i in 0..N {
        assert_eq!(c.receive().header.err, 0);
        let read = c.receive();
        assert_eq!(&read.body[4..8], i.to_be_bytes(), "read {i}");
    }
}

#[test]
fn an_event_comes_before_the_reply_that_shows_its_change() {
    let dir = TempDir::new();
    let server = Server::start(&write_config(dir.path(), ""));
    let mut watcher = Client::connect(server.port, 10_000);
    let mut writer = Client::connect(server.port, 10_000);
    writer.create("/w", b"", 0).unwrap();
    for i in 0..100_u32 {
        watcher.get("/w", true).unwrap();
        writer.set("/w", &i.to_be_bytes()).unwrap();
        let (data, _) = watcher.get("/w", false).unwrap();
        assert_eq!(data, i.to_be_bytes());
        assert_eq!(watcher.events.pop(), Some((3, "/w".into())));
    }
}

#[test]
fn an_expired_session_takes_its_ephemerals_along_and_cannot_be_resumed() {
    let dir = TempDir::new();
    let server = Server::start(&write_config(dir.path(), ""));
    let mut c = Client::connect(server.port, 1_000);
    assert_eq!(c.session.timeout_ms, 1_000);
    c.create("/e", b"", EPHEMERAL).unwrap();
    let mut other = Client::connect(server.port, 10_000);
    assert_eq!(other.call(OpCode::Exists, &path_watch("/e", true)).header.err, 0);
    assert!(c.is_closed(), "the connection ends with its session");
    while other.events.is_empty() {
        other.ping();
        std::thread::yield_now();
    }
    assert_eq!(other.events, [(2, "/e".into())]);
    let gone = Client::resume(server.port, 1_000, c.session.session, c.session.password);
    assert_eq!((gone.session.session, gone.session.timeout_ms), (SessionId::NONE, 0));
}

#[test]
fn a_session_moves_to_the_connection_that_resumes_it_and_a_wrong_password_moves_nothing() {
    let dir = TempDir::new();
    let server = Server::start(&write_config(dir.path(), ""));
    let mut first = Client::connect(server.port, 10_000);
    let wrong = Client::resume(server.port, 10_000, first.session.session, [7; 16]);
    assert_eq!(wrong.session.session, SessionId::NONE);
    assert_eq!(first.ping().header.err, 0, "who has only the id cuts nobody off");
    let mut second = Client::resume(server.port, 10_000, first.session.session, first.session.password);
    assert_eq!(second.session.session, first.session.session);
    assert!(first.is_closed());
    assert_eq!(second.ping().header.err, 0);
}

#[test]
fn bad_requests_get_their_code_and_take_no_zxid() {
    let dir = TempDir::new();
    let server = Server::start(&write_config(dir.path(), ""));
    let mut c = Client::connect(server.port, 10_000);
    let zxid = c.ping().header.zxid;
    let mut cut = create_body("/x", b"v", 0);
    cut.truncate(9);
    let reply = c.call(OpCode::Create, &cut);
    assert_eq!((reply.header.err, reply.header.zxid), (-5, zxid));
    assert_eq!(c.create("/x", b"", 0), Ok("/x".into()));
    assert_eq!(c.create("/x", b"", 0), Err(-110), "a failing write takes a zxid");
    assert_eq!(c.ping().header.zxid, zxid + 2);
    c.send_as(Xid(77), 13, &[]);
    let reply = c.receive();
    assert_eq!((reply.header.xid, reply.header.zxid, reply.header.err), (Xid(77), -1, -6));
    assert!(c.is_closed());

    let mut c = Client::connect(server.port, 10_000);
    c.send_raw(&(-1_i32).to_be_bytes());
    assert!(c.is_closed());
    let mut c = Client::connect(server.port, 10_000);
    c.send_raw(&0x7fff_ffff_i32.to_be_bytes());
    assert!(c.is_closed());
    let mut c = Client::connect(server.port, 10_000);
    c.send_raw(&[0, 0, 0, 3, 1, 2, 3]);
    assert!(c.is_closed());
}

#[test]
fn a_large_frame_is_taken_up_to_the_limit() {
    let dir = TempDir::new();
    let server = Server::start(&write_config(dir.path(), ""));
    let mut c = Client::connect(server.port, 10_000);
    let overhead = create_body("/big", b"", 0).len() + 8;
    let data = vec![7; 0xfffff - overhead];
    assert_eq!(c.create("/big", &data, 0), Ok("/big".into()));
    assert_eq!(c.get("/big", false).unwrap().0.len(), data.len());
    // The length alone is refused; of a whole frame the rest would meet a closed connection while it is sent.
    c.send_raw(&0x10_0000_i32.to_be_bytes());
    assert!(c.is_closed());
}

#[test]
fn snapshots_are_written_while_writes_go_on_and_the_log_behind_them_is_forgotten() {
    let dir = TempDir::new();
    let cfg = write_config(dir.path(), "snapCount=400");
    let server = Server::start(&cfg);
    let mut c = Client::connect(server.port, 10_000);
    let mut last = 0;
    for i in 0..4000_u32 {
        c.send(OpCode::Create, &create_body(&format!("/n{i}"), b"0123456789", 0));
        if i % 50 == 49 {
            for _ in 0..50 {
                last = c.receive().header.zxid;
            }
        }
    }
    let snapshots = || {
        let entries = std::fs::read_dir(dir.path().join("data/snapshot")).unwrap();
        entries.flatten().filter(|e| e.file_name().to_string_lossy().starts_with("snapshot.")).count()
    };
    let mut wait = 0;
    while snapshots() == 0 && wait < 1000 {
        wait += 1;
        c.set("/n0", b"again").unwrap();
    }
    assert!(snapshots() > 0);
    server.kill();
    let server = Server::start(&cfg);
    let mut c = Client::connect(server.port, 10_000);
    assert!(c.ping().header.zxid > last);
    for i in (0..4000).step_by(97) {
        assert!(c.get(&format!("/n{i}"), false).is_ok(), "/n{i}");
    }
    assert_eq!(c.get("/n3999", false).unwrap().0, b"0123456789");
}

#[test]
fn four_letter_words_answer() {
    let dir = TempDir::new();
    let server = Server::start(&write_config(dir.path(), ""));
    let mut c = Client::connect(server.port, 10_000);
    c.create("/w", b"", EPHEMERAL).unwrap();
    c.get("/w", true).unwrap();
    assert_eq!(server.four_letter_word("ruok"), "imok");
    assert_eq!(server.four_letter_word("isro"), "rw");
    let srvr = server.four_letter_word("srvr");
    assert!(srvr.starts_with("Zookeeper version: 3.9.5-"), "{srvr}");
    assert!(srvr.contains("\nMode: standalone\n") && srvr.contains("\nNode count: 6\n"), "{srvr}");
    let session = c.session.session.to_string();
    assert!(server.four_letter_word("dump").contains(&format!("{session}:\n\t/w\n")));
    assert_eq!(server.four_letter_word("wchc"), format!("{session}\n\t/w\n\n"));
    assert_eq!(server.four_letter_word("wchp"), format!("/w\n\t{session}\n\n"));
    assert_eq!(server.four_letter_word("wchs"), "1 connections watching 1 paths\nTotal watches:1\n");
    assert!(server.four_letter_word("cons").contains("lop=GETD"));
    assert!(server.four_letter_word("mntr").contains("zk_server_state\tstandalone\n"));
    assert_eq!(server.four_letter_word("crst"), "Connection stats reset.\n");
    for word in ["conf", "envi", "dirs", "stat", "hash", "gtmk", "srst"] {
        server.four_letter_word(word);
    }

    let dir = TempDir::new();
    let server = Server::start(&write_config(dir.path(), "4lw.commands.whitelist=srvr"));
    assert_eq!(server.four_letter_word("ruok"), "ruok is not executed because it is not in the whitelist.\n");
}

#[test]
fn faults_of_the_configuration_end_in_one_line_with_its_own_exit_code() {
    let dir = TempDir::new();
    let run = |cfg: &std::path::Path| {
        let out = Command::new(env!("CARGO_BIN_EXE_falconerd")).arg(cfg).output().unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let (code, text) = run(&dir.path().join("nothing.cfg"));
    assert_eq!(code, Some(2), "{text}");
    let (code, text) = run(&write_config(dir.path(), "tickTime=soon"));
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("tickTime"), "{text}");
    let (code, text) = run(&write_config(dir.path(), "secureClientPort=2281"));
    assert_eq!(code, Some(2), "{text}");
    let (code, text) = run(&write_config(dir.path(), "dataDir=/proc/nothing/here"));
    assert_eq!(code, Some(3), "{text}");

    let blocked = dir.path().join("blocked");
    std::fs::create_dir(&blocked).unwrap();
    std::fs::write(blocked.join("log"), "").unwrap();
    let (code, text) = run(&write_config(dir.path(), &format!("dataDir={}", blocked.display())));
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("a file is in the way"), "{text}");

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let (code, text) = run(&write_config(dir.path(), &format!("clientPort={port}")));
    assert_eq!(code, Some(21), "{text}");
    assert!(text.contains("another process has the port"), "{text}");

    let cfg = write_config(dir.path(), "");
    Server::start(&cfg).terminate();
    let superblock = dir.path().join("data/superblock");
    let whole = std::fs::read(&superblock).unwrap();
    std::fs::write(&superblock, vec![0xee; whole.len()]).unwrap();
    let (code, text) = run(&cfg);
    assert_eq!(code, Some(24), "{text}");
    assert!(text.contains("superblock"), "{text}");
    std::fs::write(&superblock, &whole).unwrap();

    std::fs::write(dir.path().join("data/myid"), "7\n").unwrap();
    let (code, text) = run(&cfg);
    assert_eq!(code, Some(23), "{text}");
}

#[test]
fn multi_is_one_zxid_and_all_or_nothing() {
    let dir = TempDir::new();
    let server = Server::start(&write_config(dir.path(), ""));
    let mut c = Client::connect(server.port, 10_000);
    let op = |out: &mut Vec<u8>, code: OpCode, body: &[u8]| {
        out.put_i32(code.wire());
        out.put_bool(false);
        out.put_i32(-1);
        out.extend_from_slice(body);
    };
    let mut body = Vec::new();
    op(&mut body, OpCode::Create, &create_body("/m1", b"", 0));
    op(&mut body, OpCode::Create, &create_body("/m2", b"", 0));
    body.put_i32(-1);
    body.put_bool(true);
    body.put_i32(-1);
    assert_eq!(c.call(OpCode::Multi, &body).header.err, 0);
    let (one, two) = (c.get("/m1", false).unwrap().1, c.get("/m2", false).unwrap().1);
    assert_eq!(one.czxid, two.czxid);

    let mut body = Vec::new();
    op(&mut body, OpCode::Create, &create_body("/m3", b"", 0));
    op(&mut body, OpCode::Create, &create_body("/m1", b"", 0));
    body.put_i32(-1);
    body.put_bool(true);
    body.put_i32(-1);
    assert_eq!(c.call(OpCode::Multi, &body).header.err, 0, "the failure stands in the results");
    assert_eq!(c.get("/m3", false), Err(-101));
}

#[test]
fn refused_handshakes_leave_neither_connections_nor_busy_threads() {
    let dir = TempDir::new();
    let server = Server::start(&write_config(dir.path(), ""));
    for _ in 0..20 {
        let mut gone = Client::resume(server.port, 1_000, SessionId(99), [0; 16]);
        assert_eq!(gone.session.session, SessionId::NONE);
        assert!(gone.is_closed());
    }
    let mut left = String::new();
    for _ in 0..100 {
        left = server.four_letter_word("srvr");
        // The one that asks.
        if left.contains("\nConnections: 1\n") {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("connections were left behind:\n{left}");
}

#[test]
fn the_reply_to_an_auth_packet_echoes_its_number() {
    let dir = TempDir::new();
    let server = Server::start(&write_config(dir.path(), ""));
    let mut c = Client::connect(server.port, 10_000);
    let body = |scheme: &str| {
        let mut b = Vec::new();
        b.put_i32(0);
        b.put_str(scheme);
        b.put_buffer(Some(b"u:p"));
        b
    };
    // Most clients send -4 always, zookeeper-client for Rust an ordinary number.
    for xid in [-4, 5] {
        c.send_as(Xid(xid), OpCode::Auth.wire(), &body("digest"));
        let h = c.receive().header;
        assert_eq!((h.xid, h.zxid, h.err), (Xid(xid), 0, 0));
    }
    c.send_as(Xid(6), OpCode::Auth.wire(), &body("nothing"));
    let h = c.receive().header;
    assert_eq!((h.xid, h.err), (Xid(6), -115));
    assert!(c.is_closed());
}

#[test]
fn a_log_without_its_superblock_is_not_taken_for_a_fresh_directory() {
    let dir = TempDir::new();
    let cfg = write_config(dir.path(), "");
    let server = Server::start(&cfg);
    Client::connect(server.port, 10_000).create("/kept", b"x", 0).unwrap();
    assert_eq!(server.terminate(), Some(0));
    let superblock = dir.path().join("data/superblock");
    let moved = dir.path().join("superblock");
    std::fs::rename(&superblock, &moved).unwrap();
    let out = Command::new(env!("CARGO_BIN_EXE_falconerd")).arg(&cfg).output().unwrap();
    assert_eq!(out.status.code(), Some(24));
    assert!(!superblock.exists(), "nothing was changed");
    std::fs::rename(&moved, &superblock).unwrap();
    let server = Server::start(&cfg);
    assert_eq!(Client::connect(server.port, 10_000).get("/kept", false).unwrap().0, b"x");
}

#[test]
fn requests_as_large_as_jute_maxbuffer_allows_are_taken() {
    let dir = TempDir::new();
    let server = Server::start_with(&["-Djute.maxbuffer=8388608"], &write_config(dir.path(), ""));
    let mut c = Client::connect(server.port, 10_000);
    for size in [2_200_000, 4_000_000, 8_000_000] {
        let path = format!("/n{size}");
        assert_eq!(c.create(&path, &vec![1; size], 0), Ok(path.clone()));
        assert_eq!(c.get(&path, false).unwrap().0.len(), size);
    }
}

#[test]
fn many_large_reads_behind_a_write_are_all_answered() {
    let dir = TempDir::new();
    let server = Server::start(&write_config(dir.path(), ""));
    let mut c = Client::connect(server.port, 10_000);
    c.create("/big", &vec![1; 1_000_000], 0).unwrap();
    c.send(OpCode::Create, &create_body("/w", b"", 0));
    for _ in 0..70 {
        c.send(OpCode::GetData, &path_watch("/big", false));
    }
    for i in 0..71 {
        let reply = c.receive();
        assert_eq!(reply.header.err, 0, "reply {i}");
    }
}

#[test]
fn a_multi_read_asks_for_no_more_than_a_reply_may_hold() {
    let dir = TempDir::new();
    let server = Server::start(&write_config(dir.path(), ""));
    let mut c = Client::connect(server.port, 10_000);
    c.create("/big", &vec![1; 1_000_000], 0).unwrap();
    let ask = |n: usize| {
        let mut body = Vec::new();
        for _ in 0..n {
            body.put_i32(OpCode::GetData.wire());
            body.put_bool(false);
            body.put_i32(-1);
            body.extend_from_slice(&path_watch("/big", false));
        }
        body.put_i32(-1);
        body.put_bool(true);
        body.put_i32(-1);
        body
    };
    assert_eq!(c.call(OpCode::MultiRead, &ask(20)).header.err, 0);
    assert_eq!(c.call(OpCode::MultiRead, &ask(2000)).header.err, -5);
    assert_eq!(c.ping().header.err, 0);
}

#[test]
fn a_client_that_reads_nothing_is_not_kept_alive_by_the_server() {
    let dir = TempDir::new();
    let server = Server::start(&write_config(dir.path(), ""));
    let mut lazy = Client::connect(server.port, 1_000);
    lazy.create("/e", b"", EPHEMERAL).unwrap();
    lazy.create("/big", &vec![1; 1_000_000], 0).unwrap();
    for _ in 0..40 {
        lazy.send(OpCode::GetData, &path_watch("/big", false));
    }
    let mut other = Client::connect(server.port, 10_000);
    other.call(OpCode::Exists, &path_watch("/e", true));
    while other.events.is_empty() {
        other.ping();
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(other.events, [(2, "/e".into())]);
}

#[test]
fn a_service_manager_is_told_that_it_serves_that_it_gets_on_and_that_it_stops() {
    let dir = TempDir::new();
    let cfg = write_config(dir.path(), "");
    let path = dir.path().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let next = |wanted: &str| {
        let mut buf = [0; 4096];
        loop {
            let n = socket.recv(&mut buf).unwrap_or_else(|e| panic!("no {wanted}: {e}"));
            let text = std::str::from_utf8(&buf[..n]).unwrap();
            if text.lines().any(|l| l == wanted) {
                return text.to_owned();
            }
        }
    };
    let notify = [("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "100000")];
    let server = Server::start_in(&notify, &[], &cfg);
    let ready = next("READY=1");
    assert!(ready.contains(&format!("STATUS=serving clients on 127.0.0.1:{}", server.port)), "{ready}");
    let mut c = Client::connect(server.port, 10_000);
    for i in 0..3 {
        c.create(&format!("/{i}"), b"", 0).unwrap();
        next("WATCHDOG=1");
    }
    assert_eq!(server.terminate(), Some(0));
    next("STOPPING=1");
}
