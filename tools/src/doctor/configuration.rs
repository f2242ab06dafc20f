//! A configuration: what each key becomes, and what the keys mean together.

use super::directory::{self, Role};
use super::{Examination, servers};
use crate::ask::client_address;
use config::{
    ConfigFile, Env, Invocation, Level, Member, MyId, RawConfig, Retention, Role as Vote, Settings,
};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Requests beyond this stall everybody for as long as they take to log and send.
const JUTE_LARGE: u64 = 4 << 20;
/// Beyond this it is no limit any more.
const JUTE_UNLIMITED: u64 = 64 << 20;

/// Looks at a configuration and at what it names. Returns where its server, and its members, take clients.
pub fn check(e: &mut Examination, file: &Path, env: &Env) -> Vec<String> {
    let about = file.display().to_string();
    let raw = match RawConfig::read(Invocation::File(file.to_owned())) {
        Ok(raw) => raw,
        Err(refusal) => {
            for fault in &refusal.faults {
                e.problem(
                    "config-accepted",
                    &about,
                    format!("{}: {}", fault.key, fault.found),
                    &fault.remedy,
                );
            }
            return Vec::new();
        }
    };
    let settings = match Settings::resolve(raw.clone(), env) {
        Ok((settings, findings)) => {
            e.fine("config-accepted", &about, "falconerd starts with it".into());
            for f in findings.iter().filter(|f| f.level == Level::Warning) {
                e.warn("config-keys", &about, f.to_string(), "falconerd --check explains every key");
            }
            Some(settings)
        }
        Err(refusal) => {
            for fault in &refusal.faults {
                e.problem("config-accepted", &about, fault.to_string(), "");
            }
            None
        }
    };
    let keys = Keys::of(&raw);
    let members = members(e, &about, &keys, &raw);
    limits(e, &about, &keys, settings.as_ref(), env);
    directories(e, &about, &keys, settings.as_ref(), &raw);
    servers::peers(e, &members, my_id(&raw));
    // The server itself, and the others as far as their lines say where clients reach them.
    let own = settings.as_ref().and_then(|s| s.client.listen.clone()).filter(|l| l.port != 0);
    let own = own.map(|l| if l.host.is_any() { format!("localhost:{}", l.port) } else { l.to_string() });
    let others = members
        .iter()
        .filter(|m| members.len() > 1 && Some(m.id.0) != my_id(&raw))
        .filter_map(client_address);
    own.into_iter().chain(others).collect()
}

/// The keys of the configuration with the value in effect, and all lines that name members.
struct Keys<'a> {
    values: BTreeMap<&'a str, &'a str>,
    lines: Vec<(&'a str, &'a str)>,
}

impl<'a> Keys<'a> {
    fn of(raw: &'a RawConfig) -> Keys<'a> {
        let files: Vec<&ConfigFile> = raw.main.iter().chain(&raw.dynamic).collect();
        let all = || files.iter().flat_map(|f| &f.entries).map(|e| (e.key.as_str(), e.value.as_str()));
        Keys { values: all().collect(), lines: all().filter(|(k, _)| k.starts_with("server.")).collect() }
    }

    fn get(&self, key: &str) -> Option<&'a str> {
        self.values.get(key).copied().filter(|v| !v.is_empty())
    }

    fn number(&self, key: &str) -> Option<i64> {
        self.get(key)?.parse().ok()
    }
}

fn my_id(raw: &RawConfig) -> Option<i64> {
    match &raw.my_id {
        MyId::FirstLine(line) => line.trim().parse().ok(),
        MyId::Missing | MyId::Unreadable(_) => None,
    }
}

fn members(e: &mut Examination, about: &str, keys: &Keys<'_>, raw: &RawConfig) -> Vec<Member> {
    let mut members: BTreeMap<i64, Member> = BTreeMap::new();
    let mut ids = BTreeSet::new();
    for (key, value) in &keys.lines {
        let id = &key["server.".len()..];
        if !ids.insert(id) {
            let what = format!("there are several lines {key}: only the last counts");
            e.problem("duplicate-id", about, what, "every server has an id of its own, the one in its myid");
        }
        if let Ok(member) = Member::parse(id, value) {
            members.insert(member.id.0, member);
        }
    }
    if members.is_empty() {
        return Vec::new();
    }
    let mut seen: BTreeMap<String, i64> = BTreeMap::new();
    for member in members.values() {
        let ports = member.addresses.iter().flat_map(|a| {
            [format!("{}:{}", a.host, a.quorum_port), format!("{}:{}", a.host, a.election_port)]
        });
        for address in ports.chain(client_address(member)).collect::<BTreeSet<_>>() {
            if let Some(other) = seen.insert(address.clone(), member.id.0) {
                let what = format!("server.{other} and server.{} both want {address}", member.id);
                e.problem("duplicate-address", about, what, "each server needs addresses of its own");
            }
        }
    }
    let voters = members.values().filter(|m| m.role == Vote::Participant).count();
    if voters > 1 && voters % 2 == 0 {
        let (needed, survive) = (voters / 2 + 1, voters - (voters / 2 + 1));
        let what = format!(
            "{voters} servers vote: {needed} of them must live, so {survive} may fail, as with {} servers",
            voters - 1
        );
        e.warn(
            "even-voters",
            about,
            what,
            "take one voter away, make one an observer (:observer), or add one",
        );
    } else {
        e.fine("even-voters", about, format!("{voters} voters"));
    }
    if voters == 1 && members.len() == 1 {
        e.note(
            "single-member",
            about,
            "there is one server line: the server runs alone, and when it fails nobody takes over".into(),
            "three servers survive the failure of one",
        );
    }
    let path = keys.get("dataDir").map_or_else(|| "dataDir".into(), |d| format!("{d}/myid"));
    let list = || members.keys().map(i64::to_string).collect::<Vec<_>>().join(", ");
    match &raw.my_id {
        MyId::Missing if members.len() > 1 => {
            let fix = format!("write the id of this server, one of {}, into it", list());
            e.problem(
                "myid",
                &path,
                "there is no such file, and the configuration names several servers".into(),
                &fix,
            );
        }
        MyId::Unreadable(why) => {
            e.problem(
                "myid",
                &path,
                format!("it can't be read: {why}"),
                "the user that runs falconerd must read it",
            );
        }
        MyId::FirstLine(line) => match line.parse::<i64>() {
            Ok(id) if members.contains_key(&id) => e.fine("myid", &path, format!("this is server.{id}")),
            Ok(id) => {
                let fix = format!("one of {} belongs there, another on each server", list());
                e.problem(
                    "myid",
                    &path,
                    format!("it says {id}, and no line server.{id} is in {about}"),
                    &fix,
                );
            }
            Err(_) => {
                let what = format!(
                    "its first line is {line:?}: a number and nothing else belongs there, no space either"
                );
                e.problem("myid", &path, what, "printf '1\\n' > myid, with the id of this server");
            }
        },
        MyId::Missing => {}
    }
    let ticks = |key: &str| Some(keys.number(key)? * keys.number("tickTime").unwrap_or(3000));
    if let Some(ms) = ticks("initLimit").filter(|ms| *ms < 10_000 && members.len() > 1) {
        let what = format!("a follower has {ms} ms to fetch the state (initLimit × tickTime)");
        e.warn("init-limit", about, what, "with a large tree it will never finish: give it 30 s or more");
    }
    if let Some(ms) = ticks("syncLimit").filter(|ms| *ms < 2_000 && members.len() > 1) {
        let what = format!("{ms} ms of silence end a follower's connection (syncLimit × tickTime)");
        e.warn(
            "sync-limit",
            about,
            what,
            "a pause of a disk or of a network takes longer: give it 5 s or more",
        );
    }
    members.into_values().collect()
}

fn limits(e: &mut Examination, about: &str, keys: &Keys<'_>, settings: Option<&Settings>, env: &Env) {
    // What was asked for counts: falconerd cuts it down, Apache's server does not.
    let property = || env.properties.iter().rev().find(|p| p.name == "jute.maxbuffer")?.value.parse().ok();
    let jute = property().max(settings.map(|s| u64::from(s.client.request_bytes_max)));
    match jute {
        Some(n) if n > JUTE_UNLIMITED => e.problem(
            "jute-maxbuffer",
            about,
            format!("jute.maxbuffer is {n}: one request may hold up every client, and fill the memory"),
            "keep it at a few MiB, and large values elsewhere, with their address in ZooKeeper",
        ),
        Some(n) if n > JUTE_LARGE => e.warn(
            "jute-maxbuffer",
            about,
            format!("jute.maxbuffer is {n}: a request of that size makes all others wait while it is logged and sent"),
            "keep values below 1 MiB; clients need the same setting to read what is larger",
        ),
        Some(n) => e.fine("jute-maxbuffer", about, format!("jute.maxbuffer is {n}")),
        None => {}
    }
    if keys.get("jute.maxbuffer").is_some() {
        e.note(
            "jute-maxbuffer-in-file",
            about,
            "jute.maxbuffer in the file has no effect in Apache's server, where it is a system property"
                .into(),
            "-Djute.maxbuffer=N in SERVER_JVMFLAGS means the same to both",
        );
    }
    let never = match settings {
        Some(s) => s.storage.retention == Retention::Never,
        None => keys.number("autopurge.purgeInterval").is_some_and(|n| n <= 0),
    };
    if never {
        e.warn(
            "purge",
            about,
            "autopurge.purgeInterval=0: no snapshot and no log is ever removed, until the disk is full".into(),
            "take the line out: falconerd then removes what is old after each snapshot (ZooKeeper needs an interval of 1)",
        );
    } else {
        e.fine("purge", about, "old snapshots and logs are removed".into());
    }
    if keys.get("skipACL").is_some_and(|v| v == "yes") {
        let what = "skipACL=yes: everybody who reaches the port may change everything".into();
        e.warn("skip-acl", about, what, "take the line out");
    }
    if keys.get("forceSync").is_some_and(|v| v == "no") {
        let what = "forceSync=no: with ZooKeeper, a power cut loses what was acknowledged".into();
        e.warn(
            "force-sync",
            about,
            what,
            "take the line out; falconerd ignores it and always writes durably",
        );
    }
    let everybody = settings.is_some_and(|s| s.client.listen.as_ref().is_some_and(|l| l.host.is_any()));
    if everybody && keys.get("4lw.commands.whitelist").is_some_and(|v| v.split(',').any(|w| w.trim() == "*"))
    {
        e.note(
            "four-letter-words",
            about,
            "every four-letter word is answered on all addresses: dump, wchc and wchp tell about clients and cost time".into(),
            "4lw.commands.whitelist=srvr, mntr, ruok, conf is enough for monitoring",
        );
    }
    if keys.number("maxClientCnxns") == Some(0) {
        let what = "maxClientCnxns=0: one client that leaks connections takes them all".into();
        e.note("max-connections", about, what, "a limit per address, 60 or some hundred");
    }
    if let Some(ms) = keys.number("maxSessionTimeout").filter(|ms| *ms > 600_000) {
        let what =
            format!("maxSessionTimeout={ms}: locks and ephemerals of a dead client may stay for that long");
        e.note("session-timeout", about, what, "40 s or a few minutes");
    }
    if let Some(n) = keys.number("snapCount").filter(|n| (2..1000).contains(n)) {
        let what = format!("snapCount={n}: a snapshot after every few hundred transactions");
        e.note(
            "snap-count",
            about,
            what,
            "100000 is the default; falconerd also waits until the log outgrows the last snapshot",
        );
    }
}

fn directories(
    e: &mut Examination,
    about: &str,
    keys: &Keys<'_>,
    settings: Option<&Settings>,
    raw: &RawConfig,
) {
    let configured = |key| keys.get(key).map(PathBuf::from);
    let data = settings.map(|s| s.storage.data_dir.clone()).or_else(|| configured("dataDir"));
    let log = settings.map(|s| s.storage.data_log_dir.clone()).or_else(|| configured("dataLogDir"));
    let Some(data) = data else { return };
    let log = log.unwrap_or_else(|| data.clone());
    if data == log {
        directory::check(e, Role::Both, &data, my_id(raw));
    } else {
        directory::check(e, Role::Data, &data, my_id(raw));
        directory::check(e, Role::Log, &log, my_id(raw));
    }
    let (a, b) = (device(&data), device(&log));
    if a.is_some() && a == b {
        e.warn(
            "same-disk",
            about,
            format!(
                "log and snapshots share the disk of {}: what else is written there makes commits wait",
                log.display()
            ),
            "a disk of its own for dataLogDir, nothing else on it; falconer disk DIR shows what it is worth",
        );
    } else if a.is_some() {
        e.fine("same-disk", about, "the log has a disk of its own".into());
    }
}

/// The device of a directory, or of what will hold it once it is made.
fn device(dir: &Path) -> Option<u64> {
    dir.ancestors()
        .filter(|p| !p.as_os_str().is_empty())
        .find_map(|p| std::fs::metadata(p).ok())
        .map(|m| m.dev())
}
