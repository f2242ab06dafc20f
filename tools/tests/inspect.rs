//! The binary against data directories that real servers wrote, and against Falconer's own: every byte of output.
//!
//! The golden files in `golden/` are rewritten by `GOLDEN=write cargo test -p tools --test inspect`; look at the
//! difference before committing it.

use proto::acl::OPEN;
use proto::txn::{CreateTxnKind, Record, Txn, TxnHeader};
use proto::{ServerId, SessionId, StatPersisted, WallMs, Xid, Zxid};
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use vfs::Dir;
use vfs::os::OsDir;

fn falconer(line: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_falconer"))
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data"))
        .args(line.split_whitespace())
        .output()
        .expect("the binary was built for this test")
}

/// Output, complaints and exit status as one text, compared with a golden file.
fn golden(name: &str, line: &str) {
    let out = falconer(line);
    let text = |b: &[u8]| String::from_utf8(b.to_vec()).expect("UTF-8");
    let found = format!(
        "$ falconer {line}\n{}{}exit {}\n",
        text(&out.stdout),
        text(&out.stderr),
        out.status.code().expect("no signal")
    );
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var("GOLDEN").is_ok_and(|v| v == "write") {
        fs::write(&path, &found).unwrap();
    }
    let wanted = fs::read_to_string(&path).unwrap_or_default();
    assert!(found == wanted, "{name} differs from its golden file; found:\n{found}");
}

#[test]
fn apaches_logs() {
    golden("log-list-3.8", "log list zk-3.8.0");
    golden("log-verify-3.8", "log verify zk-3.8.0");
    golden("log-stat-3.9", "log stat zk-3.9.5 --top 5");
    golden("log-stat-json-3.8", "log stat zk-3.8.0 --top 3 --json");
    golden("log-dump-file-3.9", "log dump zk-3.9.5/version-2/log.c9 --data 16");
    golden("log-dump-json-3.9", "log dump zk-3.9.5 --from 0x129 --to 0x138 --json");
    golden(
        "log-dump-filters",
        "log dump zk-3.9.5/version-2 --path /a --type setData,multi --since 2026-11-20T10:49:49.8 --until 2026-11-20T10:49:55.4",
    );
}

#[test]
fn apaches_snapshots() {
    golden("snapshot-list-3.8", "snapshot list zk-3.8.0");
    golden("snapshot-list-json-3.9", "snapshot list zk-3.9.5 --json");
    golden("snapshot-verify-3.9", "snapshot verify zk-3.9.5");
    golden("snapshot-dump-3.9", "snapshot dump zk-3.9.5 --data 16 --path /zookeeper");
    golden("snapshot-dump-json-3.9", "snapshot dump zk-3.9.5/version-2/snapshot.305.gz --json --path /a");
    golden("snapshot-tree-3.9", "snapshot tree zk-3.9.5 --depth 2 --top 5");
    golden(
        "snapshot-diff-3.8",
        "snapshot diff zk-3.8.0/version-2/snapshot.106 zk-3.8.0/version-2/snapshot.27a --path /a",
    );
}

#[test]
fn a_log_over_a_snapshot_leads_to_the_state_of_a_later_snapshot() {
    let changes = |line: &str| {
        let out = falconer(line);
        assert_eq!(out.status.code(), Some(1), "{out:?}");
        let mut lines: Vec<String> =
            String::from_utf8(out.stdout).unwrap().lines().map(str::to_string).collect();
        lines.sort();
        lines
    };
    let old = "zk-3.8.0/version-2/snapshot.106";
    let by_log = changes(&format!("snapshot diff {old} --log zk-3.8.0 --json"));
    let by_snapshot = changes(&format!("snapshot diff {old} zk-3.8.0/version-2/snapshot.1a6 --json"));
    assert_eq!(by_log.len(), 43);
    // The log goes one txn further than the snapshot.
    let only = |a: &[String], b: &[String]| a.iter().filter(|l| !b.contains(l)).cloned().collect::<Vec<_>>();
    let version = |n| {
        vec![format!(r#"{{"change":"changed","details":["data 3 → 4 B","version 0 → {n}"],"path":"/a"}}"#)]
    };
    assert_eq!((only(&by_log, &by_snapshot), only(&by_snapshot, &by_log)), (version(106), version(105)));
}

#[test]
fn a_log_that_does_not_reach_back_is_refused() {
    golden("hole", "snapshot diff zk-3.8.0/version-2/snapshot.106 --log zk-3.8.0/version-2/log.108");
}

#[test]
fn what_is_not_there_is_said_with_what_to_do() {
    golden("nothing-log", "log dump ../golden");
    golden("nothing-snapshot", "snapshot verify ../golden");
    let out = falconer("log dump /nonexistent/data");
    assert_eq!(out.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&out.stderr).contains("can't look at /nonexistent/data"));
}

/// A directory that is removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("falconer-inspect-{name}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn record(n: u64) -> Vec<u8> {
    let txn = match n {
        1 => Txn::CreateSession { timeout_ms: 30_000 },
        n if n % 7 == 0 => Txn::Error { code: -101 },
        n => Txn::Create {
            kind: CreateTxnKind::Create,
            path: format!("/app/n{n}").into(),
            data: Some(b"value"),
            acl: OPEN,
            ephemeral: false,
            parent_cversion: n as i32,
        },
    };
    let header = TxnHeader {
        session: SessionId(0x77),
        cxid: Xid(n as i32),
        zxid: Zxid::from_u64(n),
        time: WallMs(1_700_000_000_000 + n as i64),
        kind: txn.kind(),
    };
    let mut out = Vec::new();
    Record { header, txn, digest: None }.encode(&mut out);
    out
}

/// A data directory of Falconer's with a log of `n` records in batches of ten, and a snapshot of its start.
fn data_dir(path: &Path, n: u64) {
    let dir = OsDir::open(path).unwrap();
    let identity = wal::Identity { server: ServerId(1), cluster: 7 };
    let mut superblock = wal::Superblock::create(&dir, identity, 0x5eed).unwrap();
    let config = wal::Config {
        segment_len: 64 << 10,
        device: vfs::Choice::Only(vfs::DeviceKind::Buffered),
        ..wal::Config::default()
    };
    let recovery = wal::Recovery::open(dir.subdir("log").unwrap(), &superblock, config).unwrap();
    let mut log = recovery.finish(&mut superblock, Zxid::ZERO).unwrap();
    for first in (1..=n).step_by(10) {
        let records: Vec<(Zxid, Vec<u8>)> =
            (first..(first + 10).min(n + 1)).map(|n| (Zxid::from_u64(n), record(n))).collect();
        log.appender.append(records.iter().map(|(z, r)| (*z, &r[..]))).unwrap();
        log.appender.commit().unwrap();
    }
    log.appender.mark_idle().unwrap();
    let header = snapshot::Header {
        cluster: [0; 16],
        server: ServerId(1),
        start: Zxid::ZERO,
        written: WallMs(1_700_000_000_000),
    };
    let to: Arc<dyn Dir> = dir.subdir("snapshot").unwrap();
    let mut writer = snapshot::Writer::create(to, header, Box::new(|_| ControlFlow::Continue(()))).unwrap();
    let mut nodes = Vec::new();
    let paths = ["", "/zookeeper", "/app"];
    for path in paths {
        let node = proto::state::NodeRecord {
            path: path.into(),
            data: Some(b""),
            acl: proto::state::OPEN_ACL,
            stat: StatPersisted::default(),
        };
        node.encode(&mut nodes);
    }
    writer.part(snapshot::Kind::Nodes, paths.len() as u32, &nodes).unwrap();
    writer.finish(Zxid::ZERO, None, WallMs(1_700_000_000_001)).unwrap();
}

/// Name, length and time of change of everything below.
fn fingerprint(path: &Path) -> Vec<String> {
    let mut all = Vec::new();
    for e in fs::read_dir(path).unwrap().flatten() {
        let meta = e.metadata().unwrap();
        all.push(format!("{} {} {:?}", e.path().display(), meta.len(), meta.modified().unwrap()));
        if meta.is_dir() {
            all.extend(fingerprint(&e.path()));
        }
    }
    all.sort();
    all
}

fn run(verb: &str, dir: &Path, more: &str) -> (String, String, Option<i32>) {
    let out = falconer(&format!("{verb} {} {more}", dir.display()));
    let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
    (text(out.stdout), text(out.stderr), out.status.code())
}

#[test]
fn falconers_own_directory_is_shown_whole_and_left_alone() {
    let dir = Scratch::new("whole");
    data_dir(&dir.0, 500);
    let before = fingerprint(&dir.0);

    let (text, complaints, status) = run("log verify", &dir.0, "");
    assert!(text.starts_with("whole: 500 txns in ") && text.contains("0x1 to 0x1f4"), "{text}{complaints}");
    assert_eq!((complaints.as_str(), status), ("", Some(0)));

    let (text, _, status) = run("log dump", &dir.0, "--json");
    let zxids: Vec<String> = text
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["zxid"].as_str().unwrap().into())
        .collect();
    assert_eq!(zxids, (1..=500).map(|n| format!("{n:#x}")).collect::<Vec<_>>());
    assert_eq!(status, Some(0));

    let (text, _, _) = run("log list", &dir.0, "--json");
    assert!(text.lines().count() > 1, "several segments: {text}");
    let (text, _, _) = run("log stat", &dir.0, "--json");
    let stat: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&stat["types"]["error"]["txns"], &stat["txns_per_batch"]["max"]), (&71.into(), &10.into()));

    let (text, _, status) = run("snapshot verify", &dir.0, "");
    assert!(text.contains("snapshot.0: whole, 3 znodes") && status == Some(0), "{text}");
    // 499 records behind the session's, of which every seventh is an error.
    let (text, _, status) = run("snapshot diff", &dir.0, &format!("--log {}", dir.0.display()));
    assert_eq!(text.lines().filter(|l| l.starts_with("+ /app/n")).count(), 428, "{text}");
    assert_eq!(status, Some(1));

    assert_eq!(fingerprint(&dir.0), before);
}

#[test]
fn damage_is_shown_up_to_then_named() {
    let dir = Scratch::new("damage");
    data_dir(&dir.0, 500);
    // The third batch of the first segment: block 0 is its header, each batch of ten takes a block.
    let (list, _, _) = run("log list", &dir.0, "--json");
    let first: serde_json::Value = serde_json::from_str(list.lines().next().unwrap()).unwrap();
    assert_eq!(first["segment"], 1);
    let log = PathBuf::from(first["path"].as_str().unwrap());
    let mut bytes = fs::read(&log).unwrap();
    let at = 3 * vfs::BLOCK + 200;
    bytes[at] ^= 1;
    fs::write(&log, bytes).unwrap();
    let (text, complaints, status) = run("log dump", &dir.0, "");
    assert_eq!((text.lines().count(), status), (20, Some(1)));
    for word in ["the log is corrupt", "checksum mismatch", "offset 12288", "after zxid 0x14"] {
        assert!(complaints.contains(word), "{word} in {complaints}");
    }
    let (text, _, status) = run("log verify", &dir.0, "--json");
    let verdict: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&verdict["whole"], &verdict["txns"], status), (&false.into(), &20.into(), Some(1)));

    let snapshot = dir.0.join("snapshot").join("snapshot.0");
    let mut bytes = fs::read(&snapshot).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&snapshot, bytes).unwrap();
    let (text, _, status) = run("snapshot verify", &dir.0, "");
    assert!(text.contains("is damaged at byte") && status == Some(1), "{text}");
}
