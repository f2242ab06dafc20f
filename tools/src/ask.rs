//! Four-letter words: what a server says of itself, asked from outside. Falconer and Apache answer alike.

use config::Member;
use std::collections::BTreeMap;
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
    /// That it serves nobody now: it has no quorum.
    NotServing,
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
}

impl Serving {
    /// A number out of `mntr`.
    pub fn number(&self, key: &str) -> Option<f64> {
        self.monitor.get(key)?.parse().ok()
    }

    /// The server's id; `None` where `conf` is not answered.
    pub fn id(&self) -> Option<u64> {
        self.conf.get("serverId")?.parse().ok()
    }
}

impl View {
    /// Asks a server.
    pub fn of(address: &str) -> View {
        let state = match ask(address, "srvr") {
            Err(e) => State::Down(words(&e)),
            Ok(text) if text.contains("not currently serving requests") => State::NotServing,
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
                    State::Serving(Box::new(serving))
                }
            },
        };
        View { address: address.to_owned(), state }
    }

    /// Asks all servers at once, and those of the same ensemble that they name.
    pub fn of_all(addresses: &[String]) -> Vec<View> {
        let mut views = at_once(addresses);
        let mut more: Vec<String> = Vec::new();
        for serving in views.iter().filter_map(View::serving) {
            for address in serving.members.iter().filter_map(client_address) {
                let known = |a: &String| *a == address;
                if !addresses.iter().any(known) && !more.iter().any(known) {
                    more.push(address);
                }
            }
        }
        // A name and an address may be one server: what has an id that was seen is left out.
        let seen: Vec<u64> = views.iter().filter_map(|v| v.serving()?.id()).collect();
        let fresh = |v: &View| v.serving().and_then(Serving::id).is_none_or(|id| !seen.contains(&id));
        views.extend(at_once(&more).into_iter().filter(fresh));
        views
    }

    /// The server, if it serves.
    pub fn serving(&self) -> Option<&Serving> {
        match &self.state {
            State::Serving(s) => Some(s),
            State::Down(_) | State::NotServing | State::Strange(_) => None,
        }
    }
}

fn at_once(addresses: &[String]) -> Vec<View> {
    std::thread::scope(|scope| {
        let asked: Vec<_> = addresses.iter().map(|a| (a, scope.spawn(move || View::of(a)))).collect();
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
    }
}
