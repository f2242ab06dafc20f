//! The four-letter words: the first four bytes of a fresh connection, answered in text (client protocol, 12).

use crate::conn::Conn;
use crate::core::{Core, mode_name};
use crate::metrics;
use crate::stats::Counter;
use crate::version;
use node::Service;
use proto::client::OpCode;
use std::fmt::Write;
use std::sync::atomic::{AtomicI64, Ordering};

/// The words that exist, and the bytes that telnet sends when it is interrupted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "each is the word of that name")]
pub enum Word {
    Conf,
    Cons,
    Crst,
    Dirs,
    Dump,
    Envi,
    Gtmk,
    Hash,
    Isro,
    Mntr,
    Ruok,
    Srst,
    Srvr,
    Stat,
    Stmk,
    Wchc,
    Wchp,
    Wchs,
    TelnetClose,
}

/// The trace mask that `gtmk` shows and `stmk` sets. Falconer traces by its log filter; the number is kept so
/// that tools which set it read it back.
pub(crate) static TRACE_MASK: AtomicI64 = AtomicI64::new(306);

impl Word {
    /// The word of the first bytes of a connection; anything else is the length of a frame.
    pub fn parse(bytes: &[u8; 4]) -> Option<Word> {
        Some(match bytes {
            b"conf" => Word::Conf,
            b"cons" => Word::Cons,
            b"crst" => Word::Crst,
            b"dirs" => Word::Dirs,
            b"dump" => Word::Dump,
            b"envi" => Word::Envi,
            b"gtmk" => Word::Gtmk,
            b"hash" => Word::Hash,
            b"isro" => Word::Isro,
            b"mntr" => Word::Mntr,
            b"ruok" => Word::Ruok,
            b"srst" => Word::Srst,
            b"srvr" => Word::Srvr,
            b"stat" => Word::Stat,
            b"stmk" => Word::Stmk,
            b"wchc" => Word::Wchc,
            b"wchp" => Word::Wchp,
            b"wchs" => Word::Wchs,
            [0xff, 0xf4, 0xff, 0xfd] => Word::TelnetClose,
            _ => return None,
        })
    }

    fn text(self) -> &'static str {
        match self {
            Word::Conf => "conf",
            Word::Cons => "cons",
            Word::Crst => "crst",
            Word::Dirs => "dirs",
            Word::Dump => "dump",
            Word::Envi => "envi",
            Word::Gtmk => "gtmk",
            Word::Hash => "hash",
            Word::Isro => "isro",
            Word::Mntr => "mntr",
            Word::Ruok => "ruok",
            Word::Srst => "srst",
            Word::Srvr => "srvr",
            Word::Stat => "stat",
            Word::Stmk => "stmk",
            Word::Wchc => "wchc",
            Word::Wchp => "wchp",
            Word::Wchs => "wchs",
            Word::TelnetClose => "",
        }
    }

    /// Whether `bytes` hold all that the word needs: `stmk` is followed by eight bytes.
    pub fn is_complete(self, bytes: &[u8]) -> bool {
        self != Word::Stmk || bytes.len() >= 12
    }
}

/// Appends the answer to the connection's outbox; the caller closes it once that has left.
pub fn answer(core: &Core, conn: &Conn, word: Word, bytes: &[u8]) {
    let text = if word == Word::TelnetClose {
        String::new()
    } else if !core.settings.four_letter_words.allows(word.text()) {
        format!("{} is not executed because it is not in the whitelist.\n", word.text())
    } else {
        let mut out = String::new();
        write_answer(core, conn, word, bytes, &mut out).expect("a String takes everything");
        out
    };
    conn.append_with(|out| out.extend_from_slice(text.as_bytes()));
}

/// What most words say while there is no leader, or none is known yet.
const NOT_SERVING: &str = "This ZooKeeper instance is not currently serving requests\n";

fn write_answer(core: &Core, conn: &Conn, word: Word, bytes: &[u8], out: &mut String) -> std::fmt::Result {
    let always =
        matches!(word, Word::Ruok | Word::Envi | Word::Gtmk | Word::Stmk | Word::Isro | Word::TelnetClose);
    if !core.is_serving() && !always {
        return out.write_str(NOT_SERVING);
    }
    match word {
        Word::Ruok => out.write_str("imok"),
        Word::Isro => out.write_str(match core.service() {
            Some(Service::None) => "null",
            Some(Service::ReadOnly) => "ro",
            _ => "rw",
        }),
        Word::Gtmk => write!(out, "{}", TRACE_MASK.load(Ordering::Relaxed)),
        Word::Stmk => {
            if let Some(mask) = bytes.get(4..12).and_then(|b| b.try_into().ok()).map(i64::from_be_bytes) {
                TRACE_MASK.store(mask, Ordering::Relaxed);
            }
            write!(out, "{}", TRACE_MASK.load(Ordering::Relaxed))
        }
        Word::Crst => {
            core.conns.all().iter().for_each(|c| c.stats.reset());
            out.write_str("Connection stats reset.\n")
        }
        Word::Srst => {
            core.stats.reset();
            out.write_str("Server stats reset.\n")
        }
        Word::Dirs => {
            let (data, log) = core.log.directory_sizes();
            write!(out, "datadir_size: {data}\nlogdir_size: {log}\n")
        }
        Word::Hash => {
            for (zxid, digest) in core.tree.digest_log() {
                writeln!(out, "{:x}: {digest}", zxid.as_u64())?;
            }
            Ok(())
        }
        Word::Conf => conf(core, out),
        Word::Envi => envi(out),
        Word::Cons => {
            for c in core.conns.all() {
                connection_line(&c, c.id == conn.id, true, out)?;
            }
            out.write_str("\n")
        }
        Word::Srvr => srvr(core, None, out),
        Word::Stat => srvr(core, Some(conn), out),
        Word::Mntr if core.settings.operations.prometheus.is_some() => {
            out.push_str(&metrics::mntr_as_samples(core));
            Ok(())
        }
        Word::Mntr => metrics::mntr(core, out),
        Word::Wchs => {
            let w = core.tree.watch_summary();
            writeln!(out, "{} connections watching {} paths", w.connections, w.paths)?;
            writeln!(out, "Total watches:{}", w.watches)
        }
        Word::Wchc => {
            for (id, paths) in core.tree.watches_by_connection() {
                let Some(session) = core.conns.get(id).and_then(|c| c.session().map(|s| s.id)) else {
                    continue;
                };
                writeln!(out, "{session}")?;
                for path in paths {
                    writeln!(out, "\t{path}")?;
                }
            }
            out.write_str("\n")
        }
        Word::Wchp => {
            for (path, watchers) in core.tree.watches_by_path() {
                writeln!(out, "{path}")?;
                for id in watchers {
                    if let Some(session) = core.conns.get(id).and_then(|c| c.session().map(|s| s.id)) {
                        writeln!(out, "\t{session}")?;
                    }
                }
            }
            out.write_str("\n")
        }
        Word::Dump => dump(core, out),
        Word::TelnetClose => Ok(()),
    }
}

fn conf(core: &Core, out: &mut String) -> std::fmt::Result {
    let s = &core.settings;
    let (data, log) = core.log.directory_sizes();
    let port = s.client.listen.as_ref().map_or(-1, |l| i32::from(l.port));
    writeln!(out, "clientPort={}", core.client_port().map_or(port, i32::from))?;
    writeln!(out, "secureClientPort=-1")?;
    writeln!(out, "dataDir={}/version-2", s.storage.data_dir.display())?;
    writeln!(out, "dataDirSize={data}")?;
    writeln!(out, "dataLogDir={}/version-2", s.storage.data_log_dir.display())?;
    writeln!(out, "dataLogSize={log}")?;
    writeln!(out, "tickTime={}", s.sessions.tick_ms)?;
    writeln!(out, "maxClientCnxns={}", s.client.per_address_max.unwrap_or(0))?;
    writeln!(out, "minSessionTimeout={}", s.sessions.timeout_min_ms)?;
    writeln!(out, "maxSessionTimeout={}", s.sessions.timeout_max_ms)?;
    writeln!(out, "clientPortListenBacklog={}", s.client.backlog.map_or(-1, |b| b as i32))?;
    writeln!(out, "serverId={}", s.my_id.map_or(0, |id| id.0))?;
    let Some(e) = s.ensemble() else { return Ok(()) };
    let own = &e.me().addresses[0];
    writeln!(out, "initLimit={}\nsyncLimit={}\nelectionAlg=3", e.init_limit_ticks, e.sync_limit_ticks)?;
    writeln!(out, "electionPort={}\nquorumPort={}", own.election_port, own.quorum_port)?;
    writeln!(out, "peerType={}", i32::from(e.role == config::Role::Observer))?;
    if core.is_read_only() {
        return Ok(());
    }
    // As Apache prints it: a blank behind the colon, and no line end behind the last line.
    write!(out, "membership: \n{}", e.config_text())
}

pub(crate) fn envi(out: &mut String) -> std::fmt::Result {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let kib = |key: &str| {
        let text = read("/proc/meminfo");
        text.lines()
            .find_map(|l| l.strip_prefix(key)?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok())
            .unwrap_or(0)
            / 1024
    };
    let var = |name: &str| std::env::var(name).unwrap_or_default();
    let cwd = std::env::current_dir().map(|d| d.display().to_string()).unwrap_or_default();
    writeln!(out, "Environment:")?;
    writeln!(out, "zookeeper.version={}", version::FULL)?;
    writeln!(out, "host.name={}", read("/proc/sys/kernel/hostname").trim())?;
    // Not a Java program: the keys are kept for those who read the list by position.
    for (key, value) in [
        ("java.version", "none"),
        ("java.vendor", "Falconer"),
        ("java.home", ""),
        ("java.class.path", ""),
        ("java.library.path", ""),
    ] {
        writeln!(out, "{key}={value}")?;
    }
    writeln!(out, "java.io.tmpdir={}", std::env::temp_dir().display())?;
    writeln!(out, "java.compiler=<NA>")?;
    writeln!(out, "os.name=Linux")?;
    writeln!(out, "os.arch={}", if cfg!(target_arch = "x86_64") { "amd64" } else { std::env::consts::ARCH })?;
    writeln!(out, "os.version={}", read("/proc/sys/kernel/osrelease").trim())?;
    writeln!(out, "user.name={}", var("USER"))?;
    writeln!(out, "user.home={}", var("HOME"))?;
    writeln!(out, "user.dir={cwd}")?;
    writeln!(out, "os.memory.free={}MB", kib("MemFree:"))?;
    writeln!(out, "os.memory.max={}MB", kib("MemAvailable:"))?;
    writeln!(out, "os.memory.total={}MB", kib("MemTotal:"))
}

/// `srvr`, and `stat` when the asking connection is given.
fn srvr(core: &Core, clients_for: Option<&Conn>, out: &mut String) -> std::fmt::Result {
    let s = &core.stats;
    let l = s.latency();
    writeln!(out, "Zookeeper version: {}, built on {}", version::FULL_NUMBER, version::BUILT)?;
    if core.is_read_only() {
        writeln!(out, "READ-ONLY mode; serving only read-only clients")?;
    }
    if let Some(own) = clients_for {
        writeln!(out, "Clients:")?;
        for c in core.conns.all() {
            connection_line(&c, c.id == own.id, false, out)?;
        }
        writeln!(out)?;
    }
    writeln!(out, "Latency min/avg/max: {}/{:?}/{}", l.min_ms, l.average_ms, l.max_ms)?;
    writeln!(out, "Received: {}", s.get(Counter::Received))?;
    writeln!(out, "Sent: {}", s.packets_sent())?;
    writeln!(out, "Connections: {}", core.conns.count())?;
    writeln!(out, "Outstanding: {}", core.outstanding())?;
    writeln!(out, "Zxid: {}", core.tree.applied())?;
    writeln!(out, "Mode: {}", mode(core))?;
    writeln!(out, "Node count: {}", core.tree.stats().znodes)
}

/// The mode of this server: `standalone`, or what it is in its ensemble.
pub fn mode(core: &Core) -> &'static str {
    core.service().map_or("standalone", mode_name)
}

fn connection_line(c: &Conn, is_asking: bool, long: bool, out: &mut String) -> std::fmt::Result {
    let s = &c.stats;
    let load = |a: &std::sync::atomic::AtomicU64| a.load(Ordering::Relaxed);
    let queued = c.gate.lock().gate.len();
    write!(
        out,
        " /{}[{}](queued={queued},recved={},sent={}",
        c.peer,
        u8::from(!is_asking),
        load(&s.received),
        load(&s.sent)
    )?;
    if long && let Some(session) = c.session() {
        let count = load(&s.counted);
        let shown_min = if count == 0 { 0 } else { load(&s.min_latency_ms) };
        write!(out, ",sid={},lop={}", session.id, last_op(s.last_op.load(Ordering::Relaxed)))?;
        write!(out, ",est={},to={}", s.established_ms.load(Ordering::Relaxed), session.timeout_ms)?;
        let lcxid = s.last_cxid.load(Ordering::Relaxed);
        if lcxid >= 0 {
            write!(out, ",lcxid={lcxid:#x}")?;
        }
        write!(
            out,
            ",lzxid={:#x},lresp={},llat={},minlat={shown_min},avglat={},maxlat={}",
            s.last_zxid.load(Ordering::Relaxed),
            load(&s.last_response_ms),
            load(&s.last_latency_ms),
            load(&s.total_latency_ms).checked_div(count).unwrap_or(0),
            load(&s.max_latency_ms)
        )?;
    }
    writeln!(out, ")")
}

pub(crate) fn last_op(op: i32) -> &'static str {
    let Some(op) = OpCode::from_wire(op) else { return "NA" };
    match op {
        OpCode::CreateSession => "SESS",
        OpCode::Ping => "PING",
        OpCode::Create | OpCode::Create2 | OpCode::CreateContainer | OpCode::CreateTtl => "CREA",
        OpCode::Delete | OpCode::DeleteContainer => "DELE",
        OpCode::SetData => "SETD",
        OpCode::SetAcl => "SETA",
        OpCode::GetData => "GETD",
        OpCode::GetChildren | OpCode::GetChildren2 => "GETC",
        OpCode::GetAcl => "GETA",
        OpCode::GetAllChildrenNumber => "GETACN",
        OpCode::Exists => "EXIS",
        OpCode::Sync => "SYNC",
        OpCode::Multi => "MULT",
        OpCode::MultiRead => "MLTR",
        OpCode::Reconfig => "RECO",
        OpCode::CloseSession => "CLOS",
        OpCode::SetWatches => "SETW",
        OpCode::SetWatches2 => "STW2",
        OpCode::AddWatch => "ADDW",
        OpCode::CheckWatches => "CHKW",
        OpCode::RemoveWatches => "REMW",
        OpCode::Check => "CHEC",
        OpCode::WhoAmI => "HOMI",
        OpCode::GetEphemerals => "GETE",
        OpCode::Auth | OpCode::Sasl => "NA",
    }
}

fn dump(core: &Core, out: &mut String) -> std::fmt::Result {
    writeln!(out, "SessionTracker dump:")?;
    let has_local = core.has_local_sessions();
    if has_local {
        out.push_str("Local ");
        session_sets(core, false, out)?;
    }
    if matches!(core.service(), None | Some(Service::Leading)) {
        out.push_str(if has_local { "Global " } else { "" });
        session_sets(core, true, out)?;
    } else {
        // They expire elsewhere.
        let mut sessions = core.tree.sessions();
        sessions.sort_unstable_by_key(|s| s.session.0);
        writeln!(out, "Global Sessions({}):", sessions.len())?;
        for s in sessions {
            writeln!(out, "{}\t{}ms", s.session, s.timeout_ms)?;
        }
    }
    writeln!(out, "ephemeral nodes dump:")?;
    let owners = core.tree.ephemerals_by_session();
    writeln!(out, "Sessions with Ephemerals ({}):", owners.len())?;
    for (id, paths) in owners {
        writeln!(out, "{id}:")?;
        for path in paths {
            writeln!(out, "\t{path}")?;
        }
    }
    writeln!(out, "Connections dump:")?;
    // Keys are read once: they change while connections are served, and a sort needs them to stand still.
    let mut conns: Vec<_> =
        core.conns.all().into_iter().map(|c| (core.connection_expiry_ms(&c), c)).collect();
    conns.sort_by_key(|&(at, ref c)| (at, c.id.0));
    let sets = conns.chunk_by(|a, b| a.0 == b.0);
    writeln!(out, "Connections Sets ({})/({}):", sets.clone().count(), conns.len())?;
    for set in sets {
        writeln!(out, "{} expire at {}:", set.len(), java_date(core.clock().wall_of(set[0].0)))?;
        for (_, c) in set {
            let id = c.session().map_or(proto::SessionId::NONE, |s| s.id);
            writeln!(out, "\tip: /{} sessionId: {id}", c.peer)?;
        }
    }
    Ok(())
}

/// Sessions by the time when they would expire: the global ones, or the others.
fn session_sets(core: &Core, global: bool, out: &mut String) -> std::fmt::Result {
    let sessions = core.with_node(|n| n.session_expiry(global));
    let sets = sessions.chunk_by(|a, b| a.1 == b.1);
    writeln!(out, "Session Sets ({})/({}):", sets.clone().count(), sessions.len())?;
    for set in sets {
        writeln!(out, "{} expire at {}:", set.len(), java_date(core.clock().wall_of(set[0].1)))?;
        for (id, _) in set {
            writeln!(out, "\t{id}")?;
        }
    }
    Ok(())
}

/// `java.util.Date.toString()` in UTC, of a wall-clock time in ms.
fn java_date(wall_ms: i64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let seconds = wall_ms.div_euclid(1000);
    let (days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days to a date of the Gregorian calendar, counted in eras of 400 years that start on 1 March.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12;
    let year = year_of_era + era * 400 + i64::from(month < 2);
    format!(
        "{} {} {day:02} {:02}:{:02}:{:02} UTC {year}",
        DAYS[days.rem_euclid(7) as usize],
        MONTHS[month as usize],
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_read_as_java_prints_them() {
        assert_eq!(java_date(0), "Thu Jan 01 00:00:00 UTC 1970");
        assert_eq!(java_date(951_782_400_000), "Tue Feb 29 00:00:00 UTC 2000");
        assert_eq!(java_date(1_795_176_997_999), "Fri Nov 20 12:16:37 UTC 2026");
    }

    #[test]
    fn words_are_exactly_those_that_exist() {
        for text in config::FOUR_LETTER_WORDS {
            let word = Word::parse(text.as_bytes().try_into().unwrap()).unwrap();
            assert_eq!(word.text(), text);
        }
        assert_eq!(Word::parse(b"lsnr"), None);
        assert_eq!(Word::parse(&[0, 0, 0, 45]), None);
        assert!(!Word::Stmk.is_complete(b"stmk1234567") && Word::Stmk.is_complete(b"stmk12345678"));
    }
}
