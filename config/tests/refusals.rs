//! Each rule that keeps a server from starting, with the one line the operator reads.

use std::path::Path;

use config::{
    ConfigFile, DirState, Effect, Env, Invocation, Level, Membership, MyId, RawConfig, Retention, Settings,
};

const BASE: &str = "dataDir=/d\nclientPort=2181\n";
const THREE: &str =
    "dataDir=/d\nclientPort=2181\ninitLimit=5\nsyncLimit=2\nserver.1=a:1:2\nserver.2=b:1:2\nserver.3=c:1:2\n";

fn raw(text: &str) -> RawConfig {
    RawConfig {
        invocation: Invocation::File("zoo.cfg".into()),
        main: Some(ConfigFile::parse(Path::new("zoo.cfg"), text.as_bytes()).unwrap()),
        dynamic: None,
        my_id: MyId::FirstLine("1".to_owned()),
        data_dir: DirState::Directory,
        data_log_dir: DirState::Directory,
    }
}

fn faults(raw: RawConfig, env: &Env) -> (Vec<String>, u8) {
    match Settings::resolve(raw, env) {
        Ok(_) => (Vec::new(), 0),
        Err(refusal) => (refusal.faults.iter().map(ToString::to_string).collect(), refusal.exit_code()),
    }
}

/// One fault, which starts like this.
#[test]
fn what_refuses_says_where_and_why() {
    let table: &[(&str, &str, &str)] = &[
        ("", "clientPort=2181", "zoo.cfg: dataDir: wanted the data directory, found no such key; add"),
        ("", "dataDir=\nclientPort=1", "zoo.cfg:1: dataDir: wanted a path, found \"\""),
        (
            BASE,
            "tickTime=0",
            "zoo.cfg:3: tickTime: wanted a whole number from 1 to 107374182, found \"0\"; write",
        ),
        (BASE, "tickTime=2s", "zoo.cfg:3: tickTime: wanted a whole number"),
        (BASE, "tickTime=0x10", "zoo.cfg:3: tickTime: wanted a whole number"),
        (BASE, "clientPort=65536", "zoo.cfg:3: clientPort: wanted a whole number from 0 to 65535"),
        (BASE, "clientPort=", "zoo.cfg:3: clientPort: wanted a whole number"),
        (BASE, "maxSessionTimeout=5000", "zoo.cfg:3: maxSessionTimeout: wanted minSessionTimeout not above"),
        (BASE, "minSessionTimeout=9\nmaxSessionTimeout=8", "zoo.cfg:3: minSessionTimeout: wanted minSession"),
        (
            "dataDir=/d\n",
            "clientPortAddress=1.2.3.4",
            "zoo.cfg:2: clientPortAddress: wanted a clientPort beside",
        ),
        (BASE, "clientPortAddress=a b", "zoo.cfg:3: clientPortAddress: wanted a host name"),
        (BASE, "electionAlg=2", "zoo.cfg:3: electionAlg: wanted a whole number from 3 to 3"),
        (BASE, "peerType=voter", "zoo.cfg:3: peerType: wanted participant or observer"),
        (BASE, "reconfigEnabled=yes", "zoo.cfg:3: reconfigEnabled: wanted true or false, found \"yes\""),
        (THREE, "reconfigEnabled=true", "zoo.cfg:8: reconfigEnabled: wanted false in an ensemble"),
        (BASE, "secureClientPort=2281", "zoo.cfg:3: secureClientPort: wanted no such setting (TLS is not"),
        (
            BASE,
            "ssl.trustStore.location=/x",
            "zoo.cfg:3: ssl.trustStore.location: wanted no such setting (TLS",
        ),
        (
            BASE,
            "ssl.quorum.keyStore.password=s3cret",
            "zoo.cfg:3: ssl.quorum.keyStore.password: wanted no such",
        ),
        (BASE, "sslQuorum=true", "zoo.cfg:3: sslQuorum: wanted no such setting (TLS"),
        (
            BASE,
            "client.portUnification=true",
            "zoo.cfg:3: client.portUnification: wanted no such setting (TLS",
        ),
        (
            BASE,
            "quorum.auth.enableSasl=true",
            "zoo.cfg:3: quorum.auth.enableSasl: wanted no such setting (SASL",
        ),
        (
            BASE,
            "sessionRequireClientSASLAuth=true",
            "zoo.cfg:3: sessionRequireClientSASLAuth: wanted no such",
        ),
        (
            BASE,
            "enforce.auth.enabled=true",
            "zoo.cfg:3: enforce.auth.enabled: wanted no such setting (required",
        ),
        (BASE, "authProvider.7=com.acme.Auth", "zoo.cfg:3: authProvider.7: wanted ZooKeeper's digest or ip"),
        (
            BASE,
            "multiAddress.enabled=true",
            "zoo.cfg:3: multiAddress.enabled: wanted no such setting (several",
        ),
        (BASE, "oraclePath=/o", "zoo.cfg:3: oraclePath: wanted no such setting (quorums of two"),
        (
            BASE,
            "falconer.walBackend=mmap",
            "zoo.cfg:3: falconer.walBackend: wanted one of auto, uring, pwritev2",
        ),
        (
            BASE,
            "falconer.jute.maxbuffer=4M",
            "zoo.cfg:3: falconer.jute.maxbuffer: wanted a whole number from 1024 to 33554432",
        ),
        (
            BASE,
            "falconer.jute.maxbuffer=33554433",
            "zoo.cfg:3: falconer.jute.maxbuffer: wanted a whole number",
        ),
        (
            BASE,
            "standaloneEnabled=false\ninitLimit=1\nsyncLimit=1",
            "zoo.cfg: server.*: wanted at least one participant",
        ),
        (
            BASE,
            "server.1=a:1",
            "zoo.cfg:3: server.1: wanted an election port: host:quorumPort:electionPort, found",
        ),
        (
            BASE,
            "server.1=a:1:2|b:1:2",
            "zoo.cfg:3: server.1: wanted one address: multiAddress.enabled is not",
        ),
        (BASE, "server.1=a:1:2:observer", "zoo.cfg: server.*: wanted observers only beside a quorum"),
        (BASE, "server.1=a:1:2\nserver.2=b:1:2:observer", "zoo.cfg: server.*: wanted observers only beside"),
        (
            BASE,
            "server.1=a:1:2;2182",
            "zoo.cfg:2: clientPort: wanted the client address of this server's line, 0.",
        ),
        (
            BASE,
            "server.1=a:1:2\nserver.01=b:1:2",
            "zoo.cfg:4: server.01: wanted one line for each id, found a",
        ),
        (BASE, "server.x=a:1:2", "zoo.cfg:3: server.x: wanted an id, a decimal number, found \"x\""),
        (BASE, "groups=1", "zoo.cfg:3: groups: wanted an id, a decimal number"),
        (BASE, "weight.1=-1", "zoo.cfg:3: weight.1: wanted a weight, 0 or more"),
        (THREE, "initLimit=0", "zoo.cfg:8: initLimit: wanted a number of ticks, at least 1"),
        (THREE, "group.1=1:2", "zoo.cfg: server.3: wanted every participant in a group"),
        (
            THREE,
            "group.1=1:2:3\ngroup.2=1",
            "zoo.cfg: group.2: wanted each server in one group, found server 1",
        ),
        (
            THREE,
            "group.1=1:2:3:4",
            "zoo.cfg: group.1: wanted ids of servers, found 4, which has no server line",
        ),
        (
            THREE,
            "group.1=1:2:3\nweight.1=0\nweight.2=0\nweight.3=0",
            "zoo.cfg: weight*: wanted a group with weight",
        ),
    ];
    for (base, more, want) in table {
        let (faults, code) = faults(raw(&format!("{base}{more}\n")), &Env::empty());
        assert_eq!(faults.len(), 1, "for {more:?}: {faults:?}");
        assert!(faults[0].starts_with(want), "for {more:?}:\nwanted {want}\n found {}", faults[0]);
        assert!(!faults[0].contains('\n') && !faults[0].contains("s3cret"), "{}", faults[0]);
        assert_eq!(code, 2, "for {more:?}");
    }
}

/// What asks for nothing that is missing starts, and so does everything ZooKeeper would start with.
#[test]
fn what_does_not_refuse() {
    for more in [
        "sslQuorum=FALSE\nportUnification=false\nsecureClientPort=\nssl.keyStore.location=\nssl.clientAuth=need",
        "quorum.auth.enableSasl=false\nquorum.auth.serverRequireSasl=false\nenforce.auth.schemes=",
        "sasl.serverconfig=Server\nkerberos.canonicalizeHostNames=false\nmultiAddress.enabled=false",
        "authProvider.1=org.apache.zookeeper.server.auth.IPAuthenticationProvider",
        "server.1=a:1:2;2181",
        "clientPortAddress=10.0.0.1\nserver.1=a:1:2;host.example:2181",
        "anything=else\nfalconer.eventLoop=2\n=\n:\n\\u0000=x",
        "maxClientCnxns=-5\nautopurge.snapRetainCount=-1",
    ] {
        assert_eq!(faults(raw(&format!("{BASE}{more}\n")), &Env::empty()).0, [""; 0], "for {more:?}");
    }
}

#[test]
fn myid_is_read_as_strictly_as_zookeeper_reads_it() {
    let file = |bytes: &[u8]| MyId::first_line(bytes);
    for (my_id, want) in [
        (file(b"1"), ""),
        (file(b"2\n"), ""),
        (file(b"3\r\nrest"), ""),
        (file(b"1 \n"), "/d/myid:1: myid: wanted a decimal number and nothing else on the first line"),
        (file(b"\n1\n"), "/d/myid:1: myid: wanted a decimal number"),
        (file(b""), "/d/myid:1: myid: wanted a decimal number"),
        (file(b"one"), "/d/myid:1: myid: wanted a decimal number"),
        (file(b"4"), "zoo.cfg: server.*: wanted a line server.4, as myid says 4, found none"),
        (MyId::Missing, "/d/myid: myid: wanted this server's id, as this is an ensemble, found no such file"),
        (MyId::Unreadable("denied".into()), "/d/myid: myid: wanted a readable file, found denied"),
    ] {
        let shown = format!("{my_id:?}");
        let (faults, code) = faults(RawConfig { my_id, ..raw(THREE) }, &Env::empty());
        if want.is_empty() {
            assert_eq!((faults.len(), code), (0, 0), "for {shown}: {faults:?}");
            continue;
        }
        assert_eq!((faults.len(), code), (1, 2), "for {shown}: {faults:?}");
        assert!(faults[0].starts_with(want), "for {shown}: {faults:?}");
    }
    // Alone, no myid is needed.
    assert!(faults(RawConfig { my_id: MyId::Missing, ..raw(BASE) }, &Env::empty()).0.is_empty());
    // TTL znodes carry the server's id in one byte, of which 255 is taken.
    let ids = THREE.replace("server.1", "server.255") + "extendedTypesEnabled=true\n";
    let (faults, _) = faults(RawConfig { my_id: file(b"255"), ..raw(&ids) }, &Env::empty());
    assert!(faults.len() == 1 && faults[0].contains("at most 254"), "{faults:?}");
}

#[test]
fn data_directories_that_cannot_be_used_have_their_own_exit_code() {
    let unusable = || DirState::Unusable("a file".to_owned());
    let property = |value: Option<&str>| {
        Env::from_variables(|n| {
            (n == "ZOO_DATADIR_AUTOCREATE_DISABLE").then(|| value.map(str::to_owned)).flatten()
        })
    };
    let with = |data_dir, data_log_dir| RawConfig { data_dir, data_log_dir, ..raw(BASE) };
    assert_eq!(faults(with(DirState::Missing, DirState::Missing), &property(None)).1, 0);
    assert_eq!(faults(with(DirState::Missing, DirState::Missing), &property(Some("1"))).1, 3);
    let (lines, code) = faults(with(unusable(), unusable()), &Env::empty());
    assert_eq!((lines.len(), code), (1, 3), "{lines:?}");
    let two = RawConfig { data_log_dir: unusable(), ..raw("dataDir=/d\nclientPort=1\ndataLogDir=/l\n") };
    let (lines, code) = faults(two, &Env::empty());
    assert!(lines.len() == 1 && lines[0].starts_with("/l: dataLogDir: wanted a directory"), "{lines:?}");
    assert_eq!(code, 3);
    // What is wrong with the file comes first: it may name the wrong directory.
    assert_eq!(
        faults(RawConfig { data_dir: unusable(), ..raw("dataDir=/d\ntickTime=x\n") }, &Env::empty()).1,
        2
    );
}

#[test]
fn a_dynamic_file_holds_members_and_nothing_else() {
    let with = |main: &str, dynamic: &str| {
        let file = ConfigFile::parse(Path::new("/etc/zoo.cfg.dynamic.1f"), dynamic.as_bytes()).unwrap();
        RawConfig {
            dynamic: Some(file),
            ..raw(&format!("{main}dynamicConfigFile=/etc/zoo.cfg.dynamic.1f\n"))
        }
    };
    let main = "dataDir=/d\ninitLimit=5\nsyncLimit=2\n";
    let members = "server.1=a:1:2;2181\nserver.2=b:1:2;2181\nserver.3=c:1:2:observer;2181\n";
    for (main, dynamic, want) in [
        (
            main.to_owned() + "server.1=a:1:2\n",
            members.to_owned(),
            "zoo.cfg:4: server.1: wanted membership in the",
        ),
        (
            main.to_owned(),
            members.to_owned() + "version=1\n",
            "/etc/zoo.cfg.dynamic.1f:4: version: wanted no version",
        ),
        (
            main.to_owned(),
            members.to_owned() + "tickTime=1\n",
            "/etc/zoo.cfg.dynamic.1f:4: tickTime: wanted only",
        ),
    ] {
        let (faults, _) = faults(with(&main, &dynamic), &Env::empty());
        assert!(faults.len() == 1 && faults[0].starts_with(want), "{faults:?}");
    }
}

/// Nobody asked ZooKeeper to purge by leaving the key out; Falconer does, and says so.
#[test]
fn retention_is_on_unless_it_is_switched_off() {
    for (more, want, level) in [
        ("", Retention::AfterEachSnapshot { keep: 3 }, Level::Info),
        ("autopurge.snapRetainCount=9", Retention::AfterEachSnapshot { keep: 9 }, Level::Info),
        ("autopurge.snapRetainCount=1", Retention::AfterEachSnapshot { keep: 3 }, Level::Info),
        ("autopurge.purgeInterval=0", Retention::Never, Level::Warning),
        (
            "autopurge.purgeInterval=24\nautopurge.snapRetainCount=5",
            Retention::AfterEachSnapshot { keep: 5 },
            Level::Info,
        ),
    ] {
        let (settings, findings) = Settings::resolve(raw(&format!("{BASE}{more}")), &Env::empty()).unwrap();
        assert_eq!(settings.storage.retention, want, "for {more:?}");
        let finding =
            findings.iter().find(|f| f.key == "autopurge.purgeInterval").expect("a finding in each case");
        assert_eq!(finding.level, level, "for {more:?}");
    }
}

#[test]
fn the_words_that_are_no_booleans() {
    let resolve = |more: &str| Settings::resolve(raw(&format!("{BASE}{more}")), &Env::empty()).unwrap();
    for (value, skips) in [("yes", true), ("true", false), ("YES", false), ("no", false)] {
        assert_eq!(resolve(&format!("skipACL={value}")).0.tree.skip_acl, skips, "for {value}");
    }
    for (value, warns) in [("no", true), ("yes", false), ("false", false)] {
        let (_, findings) = resolve(&format!("forceSync={value}"));
        let finding = findings.iter().find(|f| f.key == "forceSync").unwrap();
        assert_eq!(finding.level == Level::Warning, warns, "for {value}");
    }
}

/// What is missing is said of what asks for it, and of nothing else.
#[test]
fn what_this_version_lacks_warns_only_those_who_ask_for_it() {
    for (line, level) in [
        ("audit.impl.class=my.Own", Level::Warning),
        ("metricsProvider.nonsense=1", Level::Warning),
        ("db.autocreate=false", Level::Warning),
        ("globalOutstandingLimit=5", Level::Warning),
        ("initLimit=10", Level::Info),
        ("localSessionsEnabled=true", Level::Info),
    ] {
        let (_, findings) = Settings::resolve(raw(&format!("{BASE}{line}")), &Env::empty()).unwrap();
        let key = line.split_once('=').unwrap().0;
        let finding = findings.iter().find(|f| f.key == key).unwrap();
        assert_eq!(finding.level, level, "for {line}");
        assert!(finding.effect != Effect::Honoured, "for {line}");
    }
    let (_, findings) = Settings::resolve(raw(BASE), &Env::empty()).unwrap();
    assert!(findings.iter().all(|f| f.level == Level::Info), "{findings:?}");
}

#[test]
fn reconfig_is_a_setting_of_a_server_alone() {
    for (more, on) in [("", false), ("reconfigEnabled=false", false), ("reconfigEnabled=true", true)] {
        let (settings, _) = Settings::resolve(raw(&format!("{BASE}{more}")), &Env::empty()).unwrap();
        assert_eq!(settings.reconfig, on, "for {more:?}");
    }
}

/// The real files, on a real disk.
#[test]
fn reads_what_the_invocation_names() {
    let dir = std::env::temp_dir().join(format!("falconer-config-{}", std::process::id()));
    let data = dir.join("data");
    std::fs::create_dir_all(&data).unwrap();
    let write = |name: &str, text: String| {
        std::fs::write(dir.join(name), text).unwrap();
        dir.join(name)
    };
    let dynamic = write("zoo.cfg.dynamic.2a", "server.7=h:1:2;0\n".to_owned());
    let text = format!(
        "dataDir={}\ninitLimit=5\nsyncLimit=2\nstandaloneEnabled=false\ndynamicConfigFile={}\n",
        data.display(),
        dynamic.display()
    );
    let cfg = write("zoo.cfg", text);
    std::fs::write(data.join("myid"), "7\n").unwrap();
    let read = |path| RawConfig::read(Invocation::File(path));
    let (settings, _) = Settings::resolve(read(cfg).unwrap(), &Env::empty()).unwrap();
    let Membership::Ensemble(ensemble) = settings.membership else { panic!("an ensemble") };
    assert_eq!((ensemble.my_id.0, ensemble.dynamic_file.as_deref()), (7, Some(dynamic.as_path())));

    let as_file = write("as-file.cfg", format!("dataDir={}\nclientPort=1\n", dynamic.display()));
    assert_eq!(Settings::resolve(read(as_file).unwrap(), &Env::empty()).unwrap_err().exit_code(), 3);
    for (path, want) in [
        (dir.join("none.cfg"), "wanted a readable file"),
        (dir.clone(), "wanted a readable file"),
        (write("big.cfg", "#".repeat(2 << 20)), "wanted at most 1 MiB, found more"),
        (write("bad.cfg", "a=1\nb=\\u12".to_owned()), "found something else on line 2"),
        (
            write("lost.cfg", "dataDir=/d\ndynamicConfigFile=/nowhere/x\n".to_owned()),
            "/nowhere/x: dynamicConfigFile:",
        ),
    ] {
        let refusal = read(path).unwrap_err();
        assert!(refusal.to_string().contains(want) && refusal.exit_code() == 2, "{want}: {refusal}");
    }
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn without_a_file() {
    let resolve = |args: &[&str]| {
        let mut env = Env::empty();
        let args: Vec<_> = args.iter().map(|a| (*a).to_owned()).collect();
        let invocation = Invocation::parse(&args, &mut env).unwrap();
        Settings::resolve(RawConfig { invocation, main: None, my_id: MyId::Missing, ..raw(BASE) }, &env)
            .unwrap()
            .0
    };
    let embedded = resolve(&[]);
    assert_eq!(embedded.client.listen.unwrap().to_string(), "127.0.0.1:2181");
    assert_eq!(embedded.storage.data_dir, Path::new("./falconer-data"));
    assert_eq!((embedded.sessions.tick_ms, embedded.sessions.timeout_max_ms), (2000, 40_000));

    let given = resolve(&["2182", "/zk", "500", "7", "-Djute.maxbuffer=0x3fffff"]);
    assert_eq!(given.client.listen.unwrap().to_string(), "0.0.0.0:2182");
    assert_eq!(given.storage.data_log_dir, Path::new("/zk"));
    assert_eq!((given.sessions.tick_ms, given.sessions.timeout_min_ms), (500, 1000));
    assert_eq!((given.client.per_address_max, given.client.request_bytes_max), (Some(7), 0x3f_ffff));
    assert_eq!(resolve(&["0", "/zk"]).client.per_address_max, None);
    // A record of the log has to fit a segment.
    assert_eq!(resolve(&["0", "/zk", "-Djute.maxbuffer=0x7fffffff"]).client.request_bytes_max, 32 << 20);
}

#[test]
fn who_wins() {
    let flags = |flags: &str| Env::from_variables(|n| (n == "JVMFLAGS").then(|| flags.to_owned()));
    let resolve = |text: &str, env| Settings::resolve(raw(&format!("{BASE}{text}")), &env).unwrap().0;
    // zoo.cfg over the property, the later line over the earlier, Falconer's own key over the bare property.
    let env = || {
        flags(
            "-Dzookeeper.snapCount=10 -Djute.maxbuffer=5000 -Dfsync.warningthresholdms=7 -Dzookeeper.tickTime=1",
        )
    };
    let alone = resolve("", env());
    assert_eq!((alone.storage.snap_count, alone.client.request_bytes_max), (10, 5000));
    assert_eq!((alone.storage.slow_sync_warning_ms, alone.sessions.tick_ms), (7, 3000));
    let file = "snapCount=30\nsnapCount=20\njute.maxbuffer=6000\nfsync.warningthresholdms=8\n";
    let both = resolve(file, env());
    assert_eq!((both.storage.snap_count, both.client.request_bytes_max), (20, 5000));
    assert_eq!(both.storage.slow_sync_warning_ms, 8);
    assert_eq!(resolve("falconer.jute.maxbuffer=7000\n", env()).client.request_bytes_max, 7000);
}

#[test]
fn the_admin_interface_is_of_this_machine_unless_an_address_opens_it() {
    let operations = |lines: &str| {
        Settings::resolve(raw(&format!("{BASE}{lines}")), &Env::empty()).map(|(s, _)| s.operations)
    };
    let admin = operations("").unwrap().admin.unwrap();
    assert_eq!(
        (admin.listen.to_string(), admin.command_url.as_str()),
        ("127.0.0.1:8080".into(), "/commands")
    );
    let admin =
        operations("admin.serverAddress=0.0.0.0\nadmin.serverPort=81\nadmin.commandURL=/zk/").unwrap().admin;
    let admin = admin.unwrap();
    assert_eq!((admin.listen.to_string(), admin.command_url.as_str()), ("0.0.0.0:81".into(), "/zk"));
    assert_eq!(operations("admin.enableServer=false").unwrap().admin, None);
    assert!(
        operations("admin.enableServer=False").unwrap().admin.is_some(),
        "only the exact word switches it off"
    );
    for bad in [
        "admin.commandURL=commands",
        "admin.commandURL=/",
        "admin.commandURL=/a b",
        "admin.serverAddress=a b",
    ] {
        assert!(operations(bad).is_err(), "{bad}");
    }
}

#[test]
fn prometheus_listens_only_when_its_provider_is_named() {
    let prometheus = |lines: &str| {
        Settings::resolve(raw(&format!("{BASE}{lines}")), &Env::empty())
            .map(|(s, _)| s.operations.prometheus.map(|p| p.to_string()))
    };
    let class = "metricsProvider.className=org.apache.zookeeper.metrics";
    assert_eq!(prometheus("metricsProvider.httpPort=7001").unwrap(), None);
    assert_eq!(prometheus(&format!("{class}.impl.DefaultMetricsProvider")).unwrap(), None);
    let own = format!("{class}.prometheus.PrometheusMetricsProvider");
    assert_eq!(prometheus(&own).unwrap().as_deref(), Some("0.0.0.0:7000"));
    let placed = format!("{own}\nmetricsProvider.httpHost=::1\nmetricsProvider.httpPort=1");
    assert_eq!(prometheus(&placed).unwrap().as_deref(), Some("[::1]:1"));
    assert!(prometheus("metricsProvider.className=my.Own").is_err());
}
