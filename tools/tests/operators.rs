//! `falconer doctor` and `falconer status`, run on configurations and directories with one thing wrong each, and on
//! ensembles of listeners that answer four-letter words as servers do.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory that goes away with its owner.
struct TempDir(PathBuf);

impl TempDir {
    fn new() -> TempDir {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let path =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("operators-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        TempDir(path)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs `falconer` with these arguments and `--json`; its exit status and the object.
fn falconer(args: &[&str]) -> (i32, Value) {
    let done = Command::new(env!("CARGO_BIN_EXE_falconer"))
        .args(args)
        .arg("--json")
        .env_remove("SERVER_JVMFLAGS")
        .env_remove("JVMFLAGS")
        .output()
        .unwrap();
    let text = String::from_utf8(done.stdout).unwrap();
    let json = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text:?} {:?}", done.stderr));
    (done.status.code().unwrap(), json)
}

/// The checks that found something, with the worst level of each.
fn found(json: &Value) -> BTreeMap<String, String> {
    let rank = |level: &str| ["fine", "note", "warning", "problem"].iter().position(|l| *l == level);
    let mut out: BTreeMap<String, String> = BTreeMap::new();
    for f in json["findings"].as_array().unwrap() {
        let (check, level) = (f["check"].as_str().unwrap(), f["level"].as_str().unwrap());
        let worst = out.entry(check.to_owned()).or_insert_with(|| level.to_owned());
        if rank(level) > rank(worst) {
            *worst = level.to_owned();
        }
        assert!(!f["about"].as_str().unwrap().is_empty() && !f["what"].as_str().unwrap().is_empty(), "{f}");
    }
    out
}

#[test]
fn a_configuration_with_one_thing_wrong_is_told_so() {
    let three = "server.1=127.0.0.1:1:2;3\nserver.2=127.0.0.1:4:5;6\nserver.3=127.0.0.1:7:8;9\ninitLimit=20\nsyncLimit=5\n";
    let four = format!("{three}server.4=127.0.0.1:10:11;12\n");
    let alone = "clientPort=0\n";
    for (lines, my_id, flags, check, level) in [
        (alone, "", &[][..], "config-accepted", "fine"),
        (alone, "", &[], "purge", "fine"),
        ("clientPort=many\n", "", &[], "config-accepted", "problem"),
        ("clientPort=0\nnonsenseKey=1\n", "", &[], "config-keys", "warning"),
        ("clientPort=0\nautopurge.purgeInterval=0\n", "", &[], "purge", "warning"),
        ("clientPort=0\nskipACL=yes\n", "", &[], "skip-acl", "warning"),
        ("clientPort=0\nmaxClientCnxns=0\n", "", &[], "max-connections", "note"),
        ("clientPort=2181\n4lw.commands.whitelist=*\n", "", &[], "four-letter-words", "note"),
        (alone, "", &["-Djute.maxbuffer=1048575"], "jute-maxbuffer", "fine"),
        (alone, "", &["-Djute.maxbuffer=8388608"], "jute-maxbuffer", "warning"),
        (alone, "", &["-Djute.maxbuffer=1073741824"], "jute-maxbuffer", "problem"),
        (alone, "", &[], "same-disk", "warning"),
        (three, "1\n", &[], "even-voters", "fine"),
        (four.as_str(), "1\n", &[], "even-voters", "warning"),
        (three, "", &[], "myid", "problem"),
        (three, "7\n", &[], "myid", "problem"),
        (three, "1 \n", &[], "myid", "problem"),
        (three, "1\n", &[], "myid", "fine"),
        (three, "1\n", &[], "peer-reachable", "warning"),
        ("server.1=127.0.0.1:1:2;3\nserver.1=127.0.0.1:4:5;6\n", "1\n", &[], "duplicate-id", "problem"),
        ("server.1=127.0.0.1:1:2;3\nserver.2=127.0.0.1:1:5;6\n", "1\n", &[], "duplicate-address", "problem"),
        (
            "server.1=no-such-host.invalid:1:2;3\nserver.2=127.0.0.1:1:5;6\n",
            "2\n",
            &[],
            "peer-reachable",
            "problem",
        ),
        (
            "server.1=a:1:2;3\nserver.2=b:1:5;6\ninitLimit=1\nsyncLimit=5\n",
            "1\n",
            &[],
            "init-limit",
            "warning",
        ),
        ("server.1=127.0.0.1:1:2;3\n", "1\n", &[], "single-member", "note"),
    ] {
        let dir = TempDir::new();
        let data = dir.0.join("data");
        std::fs::create_dir(&data).unwrap();
        if !my_id.is_empty() {
            std::fs::write(data.join("myid"), my_id).unwrap();
        }
        let cfg = dir.0.join("zoo.cfg");
        std::fs::write(&cfg, format!("dataDir={}\n{lines}", data.display())).unwrap();
        let mut args = vec!["doctor", cfg.to_str().unwrap()];
        args.extend(flags);
        let (status, json) = falconer(&args);
        let all = found(&json);
        assert_eq!(all.get(check).map(String::as_str), Some(level), "{lines:?} {my_id:?} {flags:?}: {json}");
        let bad = all.values().any(|l| l == "warning" || l == "problem");
        assert_eq!(status, i32::from(bad), "{json}");
    }
}

#[test]
fn a_data_directory_with_one_thing_wrong_is_told_so() {
    let look = |prepare: &dyn Fn(&Path)| {
        let dir = TempDir::new();
        prepare(&dir.0);
        let (_, json) = falconer(&["doctor", "--data", dir.0.to_str().unwrap()]);
        found(&json)
    };
    assert_eq!(look(&|_| ())["identity"], "note");
    assert_eq!(look(&|_| ())["writable"], "fine");
    let orphan = look(&|d| {
        std::fs::create_dir(d.join("log")).unwrap();
        std::fs::write(d.join("log/log.1"), b"x").unwrap();
    });
    assert_eq!(orphan["identity"], "problem");
    assert_eq!(look(&|d| std::fs::write(d.join("log"), b"output").unwrap())["contents"], "problem");
    let garbage = look(&|d| std::fs::write(d.join("superblock"), vec![7; 8192]).unwrap());
    assert_eq!(garbage["identity"], "problem");
    assert_eq!(look(&|d| std::fs::create_dir(d.join("version-2")).unwrap())["takeover"], "note");
    let future = look(&|d| {
        std::fs::create_dir(d.join("snapshot")).unwrap();
        let file = std::fs::File::create(d.join("snapshot/snapshot.1")).unwrap();
        file.set_modified(std::time::SystemTime::now() + std::time::Duration::from_secs(3600)).unwrap();
    });
    assert_eq!(future["clock"], "warning");
    let (_, json) = falconer(&["doctor", "--data", "/dev/null"]);
    assert_eq!(found(&json)["directory"], "problem");
    let (_, json) = falconer(&["doctor", "--data", "/dev/shm/falconer-none"]);
    assert_eq!(found(&json)["disk"], "problem");
}

/// A listener that answers `srvr`, `mntr` and `conf`.
fn server(mode: &'static str, zxid: u64, id: u64, monitor: &'static str, members: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut word = [0; 4];
            if stream.read_exact(&mut word).is_err() {
                continue;
            }
            let text = match &word {
                b"srvr" if mode.is_empty() => {
                    "This ZooKeeper instance is not currently serving requests\n".to_owned()
                }
                b"srvr" => format!(
                    "Zookeeper version: 3.9.5-x, built on now\nLatency min/avg/max: 0/0.5/7\nReceived: 10\nSent: 9\n\
                     Connections: 3\nOutstanding: 0\nZxid: {zxid:#x}\nMode: {mode}\nNode count: 5\n"
                ),
                b"mntr" if monitor.is_empty() => {
                    "mntr is not executed because it is not in the whitelist.\n".to_owned()
                }
                b"mntr" => monitor.to_owned(),
                _ if monitor.is_empty() => {
                    "conf is not executed because it is not in the whitelist.\n".to_owned()
                }
                _ => format!("clientPort=1\nserverId={id}\n{members}"),
            };
            let _ = stream.write_all(text.as_bytes());
        }
    });
    address
}

/// An admin interface that answers these paths with 200, and others with 404; its port.
fn admin(answers: Vec<(&'static str, Value)>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
                head.push(byte[0]);
            }
            let head = String::from_utf8(head).unwrap();
            let path = head.split(' ').nth(1).unwrap_or_default();
            let found = answers.iter().find(|(p, _)| *p == path);
            let (status, body) =
                found.map_or((404, "nothing".to_owned()), |(_, json)| (200, json.to_string()));
            let _ = write!(stream, "HTTP/1.1 {status} X\r\nContent-Type: text/plain\r\n\r\n{body}");
        }
    });
    port
}

#[test]
fn an_admin_port_tells_what_the_words_do_not() {
    let port_of = |address: &str| address.rsplit_once(':').unwrap().1.parse::<u16>().unwrap();
    let words = |mode, id| server(mode, 0x1_0000_0009, id, "", String::new());
    let (leader, follower) = (words("leader", 1), words("follower", 2));
    let member = |ports: [u16; 2], client: &str| {
        json!({
            "server_addresses": [format!("127.0.0.1:{}", ports[0])], "learner_type": "participant",
            "election_addresses": [format!("127.0.0.1:{}", ports[1])], "client_address": client,
        })
    };
    // As Apache's answers, and one of a server that nobody asked for.
    let apache = admin(vec![
        (
            "/commands/configuration",
            json!({ "client_port": port_of(&leader), "server_id": 1, "error": null }),
        ),
        (
            "/commands/monitor",
            json!({ "version": "x", "znode_count": 77, "avg_fsynctime": 80.5, "command": "monitor" }),
        ),
        (
            "/commands/voting_view",
            json!({ "current_config": { "1": member([1, 2], &leader), "2": member([3, 4], &follower) } }),
        ),
    ]);
    let stranger = admin(vec![
        ("/commands/configuration", json!({ "client_port": 1 })),
        ("/readyz", json!({ "ready": true })),
    ]);
    let times = json!({ "persist": [9, 200.5, 100, 900, 1000] });
    let falconer_s = admin(vec![
        ("/readyz", json!({ "ready": true, "client_port": port_of(&follower) })),
        ("/commands/configuration", json!({ "client_port": port_of(&follower), "server_id": 2 })),
        ("/commands/monitor", json!({ "znode_count": 78 })),
        (
            "/api/live",
            json!({
                "stages": ["persist"], "stage_times": times, "backend": "buffered", "disk": "good for a log", "log_full": true,
                "warnings": ["look here"], "samples": [1, 2, 3], "namespaces": [{ "name": "/app", "outstanding": 3 }],
            }),
        ),
    ]);
    let ports = format!("{stranger},{apache},{falconer_s}");
    let (status, json) = falconer(&["status", "-s", &leader, "--admin", &ports]);
    assert_eq!(status, 1);
    let servers = json["servers"].as_array().unwrap();
    let ids: Vec<_> =
        servers.iter().map(|s| (s["id"].as_u64(), s["monitor"]["znode_count"].as_u64())).collect();
    assert_eq!(ids, [(Some(1), Some(77)), (Some(2), Some(78))], "{json}");
    assert_eq!(servers[0]["live"], Value::Null);
    assert_eq!(
        (servers[1]["live"]["backend"].as_str(), &servers[1]["live"]["samples"]),
        (Some("buffered"), &Value::Null)
    );
    let all = found(&json);
    for (check, level) in
        [("log-backend", "warning"), ("log-full", "problem"), ("warnings", "note"), ("slow-disk", "warning")]
    {
        assert_eq!(all.get(check).map(String::as_str), Some(level), "{json}");
    }
    assert!(!all.contains_key("monitoring"));
    let text = Command::new(env!("CARGO_BIN_EXE_falconer"))
        .args(["status", "-l", "-t", "-s", &leader, "--admin", &ports])
        .output()
        .unwrap();
    let text = String::from_utf8(text.stdout).unwrap();
    for wanted in ["2 of 2 servers serve", "good for a log", "buffered", "persist", "/app", "look here"] {
        assert!(text.contains(wanted), "no {wanted:?} in\n{text}");
    }
    // Without its port the words are all there is.
    let (_, json) = falconer(&["status", "-s", &leader, "--admin", &stranger.to_string()]);
    assert_eq!(json["servers"].as_array().unwrap().len(), 1);
    assert_eq!(found(&json)["monitoring"], "note");
    // One that does not serve yet says there what it does.
    let starting = nobody();
    let doing = json!({ "ready": false, "reason": "replaying the log", "eta_seconds": 4.5, "client_port": port_of(&starting) });
    let port = admin(vec![("/readyz", doing)]).to_string();
    let (status, json) = falconer(&["status", "-s", &starting, "--admin", &port]);
    assert_eq!((status, json["servers"][0]["state"].as_str()), (1, Some("not serving")));
    assert_eq!(json["servers"][0]["why"], "replaying the log, at most 4.5 s more");
}

/// An address where nobody listens.
fn nobody() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

const WELL: &str = "zk_version\t3.9.5\nzk_open_file_descriptor_count\t50\nzk_max_file_descriptor_count\t1000\n\
                    zk_avg_fsynctime\t0.3\nzk_max_fsynctime\t4\nzk_cnt_updatelatency\t9\nzk_p50_updatelatency\t1\n\
                    zk_p99_updatelatency\t3\nzk_uptime\t90000\n";

#[test]
fn servers_are_judged_each_and_together() {
    let one = |mode, monitor| vec![server(mode, 9, 1, monitor, String::new())];
    let trio = |a: u64, b: u64, ids: [u64; 3]| {
        let new = |mode, zxid, id| server(mode, zxid, id, WELL, String::new());
        vec![new("leader", a, ids[0]), new("follower", a, ids[1]), new("follower", b, ids[2])]
    };
    for (servers, check, level) in [
        (one("standalone", WELL), "server-up", "fine"),
        (one("standalone", ""), "monitoring", "note"),
        (one("read-only", WELL), "read-only", "problem"),
        (one("", WELL), "server-up", "problem"),
        (vec![nobody()], "server-up", "problem"),
        (
            one("standalone", "zk_open_file_descriptor_count\t950\nzk_max_file_descriptor_count\t1000\n"),
            "descriptors-used",
            "warning",
        ),
        (one("standalone", "zk_avg_fsynctime\t80.5\n"), "slow-disk", "warning"),
        (one("standalone", "zk_digest_mismatches_count\t1\n"), "digest", "problem"),
        (trio(0x1_0000_0009, 0x1_0000_0009, [1, 2, 3]), "one-leader", "fine"),
        (trio(0x1_0000_0009, 0x1_0000_0009, [1, 2, 2]), "duplicate-myid", "problem"),
        (trio(0x1_0000_0009, 9, [1, 2, 3]), "lag", "warning"),
        (trio(0x1_0010_0009, 0x1_0000_0009, [1, 2, 3]), "lag", "warning"),
        ([one("leader", WELL), one("leader", WELL)].concat(), "one-leader", "problem"),
        ([one("follower", WELL), one("follower", WELL)].concat(), "one-leader", "problem"),
        ([one("standalone", WELL), one("standalone", WELL)].concat(), "standalone", "problem"),
    ] {
        let (status, json) = falconer(&["doctor", "-s", &servers.join(",")]);
        let all = found(&json);
        assert_eq!(all.get(check).map(String::as_str), Some(level), "{json}");
        if level != "fine" && level != "note" {
            assert_eq!(status, 1);
        }
    }
}

#[test]
fn status_finds_the_ensemble_through_one_server_and_shows_who_is_behind() {
    let follower = server("follower", 0x1_0000_0004, 2, WELL, String::new());
    let gone = nobody();
    let line = |id: u64, client: &str| format!("server.{id}=127.0.0.1:1:2:participant;{client}\n");
    let members = format!("membership: \n{}{}", line(2, &follower), line(3, &gone));
    let leader = server("leader", 0x1_0000_0009, 1, WELL, members);
    let (status, json) = falconer(&["status", "-s", &leader]);
    assert_eq!((status, json["well"].as_bool()), (1, Some(false)));
    let servers = json["servers"].as_array().unwrap();
    let by =
        |address: &str| servers.iter().find(|s| s["server"] == address).unwrap_or_else(|| panic!("{json}"));
    assert_eq!(servers.len(), 3, "{json}");
    assert_eq!((by(&leader)["mode"].as_str(), by(&leader)["lag"].as_u64()), (Some("leader"), Some(0)));
    assert_eq!((by(&follower)["lag"].as_u64(), by(&follower)["epoch"].as_u64()), (Some(5), Some(1)));
    assert_eq!(by(&follower)["monitor"]["p99_updatelatency"].as_u64(), Some(3));
    assert_eq!(by(&gone)["state"], "down");

    let text =
        Command::new(env!("CARGO_BIN_EXE_falconer")).args(["status", "-l", "-s", &leader]).output().unwrap();
    let text = String::from_utf8(text.stdout).unwrap();
    for wanted in [
        &format!("2 of 3 servers serve, {leader} leads"),
        "0x100000009",
        "1m 30s",
        "0.50/7",
        "0.30/4",
        " write ",
    ] {
        assert!(text.contains(wanted), "no {wanted:?} in\n{text}");
    }
    assert!(text.contains("problem: ") && text.contains("  → "), "{text}");

    let alone = server("standalone", 9, 0, WELL, String::new());
    let (status, json) = falconer(&["status", "-s", &alone]);
    assert_eq!((status, json["well"].as_bool()), (0, Some(true)), "{json}");
}
