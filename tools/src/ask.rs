//! What a server says of itself, asked from outside: by four-letter words, and by its admin interface where that can be
//! reached. Falconer and Apache answer alike; only a Falconer has `/api/live`.

use crate::admin::{self, Admin};
use config::Member;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// Why nobody could be asked, or nothing be told: for `doctor` and `status`.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The server string makes no sense.
    Server(String),
    /// The results can't be written.
    Output(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Server(why) => f.write_str(why),
            Error::Output(e) => write!(f, "can't write the results: {e}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Output(e) => Some(e),
            Error::Server(_) => None,
        }
    }
}

impl From<io::Error> for Error {
    fn from(e: io::Error) -> Error {
        Error::Output(e)
    }
}

/// How long one word may take. A server that needs longer has a problem that is worth showing.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// The longest answer that is read: `mntr` has some 400 lines.
const ANSWER_MAX: u64 = 4 << 20;

/// What a server says to a word.
///
/// # Errors
/// When there is no connection, or no end of the answer in time.
pub fn ask(address: &str, word: &str) -> io::Result<String> {
    let mut stream = connect(address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(word.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_MAX).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// A connection to the first address of a name that takes one.
///
/// # Errors
/// As the last of them refuses.
pub fn connect(address: &str, patience: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for a in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&a, patience) {
            Ok(stream) => return Ok(stream),
            Err(e) => last = e,
        }
    }
    Err(last)
}

/// One server, as seen from here.
#[derive(Clone, Debug)]
pub struct View {
    /// Where it was asked.
    pub address: String,
    /// What it said.
    pub state: State,
}

/// What a server said.
#[derive(Clone, Debug)]
pub enum State {
    /// Nothing: why.
    Down(String),
    /// That it serves nobody now: it has no quorum, or what it is doing instead.
    NotServing(Option<String>),
    /// Something that is no answer to `srvr`.
    Strange(String),
    /// How it does.
    Serving(Box<Serving>),
}

/// A server that serves.
#[derive(Clone, Debug, Default)]
pub struct Serving {
    /// `leader`, `follower`, `observer`, `standalone`, `read-only`.
    pub mode: String,
    /// The last zxid applied.
    pub zxid: u64,
    /// The whole version.
    pub version: String,
    /// Request latency in ms: smallest, mean, largest.
    pub latency_ms: (f64, f64, f64),
    /// Connections of clients.
    pub connections: u64,
    /// Requests that wait for their reply.
    pub outstanding: u64,
    /// Znodes.
    pub znodes: u64,
    /// Packets received since the start.
    pub received: u64,
    /// `mntr`, without `zk_`; empty where it is not answered.
    pub monitor: BTreeMap<String, String>,
    /// `conf`; empty where it is not answered.
    pub conf: BTreeMap<String, String>,
    /// The members that `conf` names.
    pub members: Vec<Member>,
    /// Where its admin interface was found.
    pub admin: Option<String>,
    /// What a Falconer's page shows: `/api/live`.
    pub live: Option<Value>,
}

impl Serving {
    /// A number out of `mntr`.
    pub fn number(&self, key: &str) -> Option<f64> {
        self.monitor.get(key)?.parse().ok()
    }

    /// Where clients reach the members. A line that does not say so belongs to a server with the same `clientPort` as this
    /// one, if each has a host of its own.
    fn addresses(&self) -> Vec<String> {
        let hosts: BTreeSet<_> =
            self.members.iter().filter_map(|m| Some(m.addresses.first()?.host.to_string())).collect();
        let same_port = self.conf.get("clientPort").filter(|_| hosts.len() == self.members.len());
        let of = |m: &Member| {
            client_address(m).or_else(|| Some(format!("{}:{}", m.addresses.first()?.host, same_port?)))
        };
        self.members.iter().filter_map(of).collect()
    }

    /// Adds what the four-letter words did not say.
    fn complete(&mut self, admin: &Admin) {
        let answer =
            |path: &str| admin.json(path).ok().filter(|(status, _)| *status == 200).map(|(_, json)| json);
        if self.monitor.is_empty()
            && let Some(monitor) = answer("/commands/monitor")
        {
            self.monitor = admin::pairs(&monitor).collect();
        }
        if self.conf.is_empty()
            && let Some(found) = answer("/commands/configuration")
        {
            // As the four-letter word spells them.
            let of = |name: &str| Some(found.get(name)?.to_string());
            let named = [("serverId", "server_id"), ("clientPort", "client_port")];
            self.conf =
                named.into_iter().filter_map(|(word, name)| Some((word.to_owned(), of(name)?))).collect();
            // The file names observers too, but the members may stand in another one.
            let file = answer("/commands/initial_configuration").unwrap_or_default();
            let lines = pairs(file["initial_configuration"].as_str().unwrap_or_default(), '=', "");
            self.members = members(&lines);
            if self.members.is_empty()
                && let Some(view) = answer("/commands/voting_view")
            {
                self.members = voters(&view["current_config"]);
            }
        }
        self.live = answer("/api/live").filter(|live| live["stages"].is_array());
        self.admin = Some(admin.address.clone());
    }

    /// The server's id; `None` where `conf` is not answered.
    pub fn id(&self) -> Option<u64> {
        self.conf.get("serverId")?.parse().ok()
    }
}

impl View {
    /// Asks a server, whose admin port is one of these if it has one that can be reached.
    pub fn of(address: &str, admin_ports: &[u16]) -> View {
        let doing = || Admin::find(address, admin_ports)?.1.filter(|r| !r.ready).map(|r| r.reason);
        let state = match ask(address, "srvr") {
            Err(e) => match doing() {
                // Its client port opens when it serves.
                Some(reason) => State::NotServing(Some(reason)),
                None => State::Down(words(&e)),
            },
            Ok(text) if text.contains("not currently serving requests") => State::NotServing(doing()),
            Ok(text) if text.is_empty() => State::Down("it closed the connection without an answer".into()),
            Ok(text) => match srvr(&text) {
                None => State::Strange(text.lines().next().unwrap_or_default().chars().take(80).collect()),
                Some(mut serving) => {
                    // Refusals are single lines without a tab or an equals sign.
                    serving.monitor =
                        ask(address, "mntr").map(|t| pairs(&t, '\t', "zk_")).unwrap_or_default();
                    let conf = ask(address, "conf").unwrap_or_default();
                    serving.conf = pairs(&conf, '=', "");
                    serving.members = members(&serving.conf);
                    if let Some((admin, _)) = Admin::find(address, admin_ports) {
                        serving.complete(&admin);
                    }
                    State::Serving(Box::new(serving))
                }
            },
        };
        View { address: address.to_owned(), state }
    }

    /// Asks all servers at once, and those of the same ensemble that they name.
    pub fn of_all(addresses: &[String], admin_ports: &[u16]) -> Vec<View> {
        let mut views = at_once(addresses, admin_ports);
        let mut more: Vec<String> = Vec::new();
        for serving in views.iter().filter_map(View::serving) {
            for address in serving.addresses() {
                let known = |a: &String| *a == address;
                if !addresses.iter().any(known) && !more.iter().any(known) {
                    more.push(address);
                }
            }
        }
        // A name and an address may be one server: what has an id that was seen is left out.
        let seen: Vec<u64> = views.iter().filter_map(|v| v.serving()?.id()).collect();
        let fresh = |v: &View| v.serving().and_then(Serving::id).is_none_or(|id| !seen.contains(&id));
        views.extend(at_once(&more, admin_ports).into_iter().filter(fresh));
        views
    }

    /// The server, if it serves.
    pub fn serving(&self) -> Option<&Serving> {
        match &self.state {
            State::Serving(s) => Some(s),
            State::Down(_) | State::NotServing(_) | State::Strange(_) => None,
        }
    }
}

fn at_once(addresses: &[String], admin_ports: &[u16]) -> Vec<View> {
    std::thread::scope(|scope| {
        let asked: Vec<_> =
            addresses.iter().map(|a| (a, scope.spawn(move || View::of(a, admin_ports)))).collect();
        let lost =
            |a: &String| View { address: a.clone(), state: State::Down("it could not be asked".into()) };
        asked.into_iter().map(|(a, thread)| thread.join().unwrap_or_else(|_| lost(a))).collect()
    })
}

/// Where clients reach a member, if its line says so.
pub fn client_address(member: &Member) -> Option<String> {
    let client = member.client.as_ref()?;
    let host = if client.host.is_any() { &member.addresses.first()?.host } else { &client.host };
    Some(format!("{host}:{}", client.port))
}

/// An I/O error of a connection, in words for a table.
pub fn words(e: &io::Error) -> String {
    match e.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".into(),
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => {
            format!("no answer within {} s", PATIENCE.as_secs())
        }
        io::ErrorKind::ConnectionReset => "it cut the connection".into(),
        _ => e.to_string(),
    }
}

fn srvr(text: &str) -> Option<Serving> {
    let mut s = Serving::default();
    for line in text.lines() {
        let Some((key, value)) = line.split_once(": ") else { continue };
        let value = value.trim();
        let number = || value.parse().unwrap_or(0);
        match key {
            "Zookeeper version" => s.version = value.split(", built on").next().unwrap_or(value).to_owned(),
            "Latency min/avg/max" => {
                let mut parts = value.split('/').map(|p| p.parse().unwrap_or(0.0));
                let mut next = || parts.next().unwrap_or(0.0);
                s.latency_ms = (next(), next(), next());
            }
            "Received" => s.received = number(),
            "Connections" => s.connections = number(),
            "Outstanding" => s.outstanding = number(),
            "Zxid" => s.zxid = u64::from_str_radix(value.trim_start_matches("0x"), 16).unwrap_or(0),
            "Mode" => s.mode = value.to_owned(),
            "Node count" => s.znodes = number(),
            _ => {}
        }
    }
    (!s.mode.is_empty()).then_some(s)
}

fn pairs(text: &str, separator: char, prefix: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|l| l.split_once(separator))
        .filter_map(|(k, v)| Some((k.trim().strip_prefix(prefix)?.to_owned(), v.trim().to_owned())))
        .collect()
}

fn members(conf: &BTreeMap<String, String>) -> Vec<Member> {
    conf.iter().filter_map(|(k, v)| Member::parse(k.strip_prefix("server.")?, v).ok()).collect()
}

/// The members as `voting_view` shows them.
fn voters(view: &Value) -> Vec<Member> {
    let member = |(id, m): (&String, &Value)| {
        let first = |list: &str| m[list][0].as_str().map(str::to_owned);
        let (quorum, election) = (first("server_addresses")?, first("election_addresses")?);
        let election_port = election.rsplit_once(':')?.1;
        let role = m["learner_type"].as_str().unwrap_or("participant");
        let client = m["client_address"].as_str().filter(|c| !c.is_empty());
        let client = client.map_or(String::new(), |c| format!(";{c}"));
        Member::parse(id, &format!("{quorum}:{election_port}:{role}{client}")).ok()
    };
    view.as_object().into_iter().flatten().filter_map(member).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answers_of_servers_are_read() {
        let s = srvr(
            "Zookeeper version: 3.9.5-abc, built on 2026-01-01\nLatency min/avg/max: 0/1.25/17\nReceived: 10\n\
             Sent: 9\nConnections: 2\nOutstanding: 3\nZxid: 0x100000002\nMode: follower\nNode count: 7\n",
        )
        .unwrap();
        assert_eq!(
            (s.mode.as_str(), s.zxid, s.connections, s.outstanding, s.znodes),
            ("follower", 0x1_0000_0002, 2, 3, 7)
        );
        assert_eq!((s.version.as_str(), s.latency_ms), ("3.9.5-abc", (0.0, 1.25, 17.0)));
        assert!(srvr("mntr is not executed because it is not in the whitelist.\n").is_none());
        let conf = pairs(
            "clientPort=2181\nserverId=2\nmembership: \nserver.1=a:1:2:participant;0.0.0.0:2181\n",
            '=',
            "",
        );
        assert_eq!(conf["serverId"], "2");
        assert_eq!(client_address(&members(&conf)[0]).unwrap(), "a:2181");
        assert_eq!(pairs("zk_a\t1\nnoise\n", '\t', "zk_")["a"], "1");
        let view = serde_json::json!({
            "1": { "server_addresses": ["a:1"], "election_addresses": ["a:2"], "client_address": "0.0.0.0:2181",
                   "learner_type": "participant" },
            "2": { "server_addresses": ["b:1"], "election_addresses": ["b:2"], "client_address": "", "learner_type": "participant" },
        });
        let mut s = Serving { members: voters(&view), ..Serving::default() };
        assert_eq!(s.addresses(), ["a:2181"], "of the other nothing is known");
        s.conf.insert("clientPort".into(), "2182".into());
        assert_eq!(s.addresses(), ["a:2181", "b:2182"]);
    }
}
