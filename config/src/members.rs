//! Who belongs to an ensemble: `server.N`, `group.N` and `weight.N` lines, as they stand in `zoo.cfg`, in a dynamic
//! file, in `/zookeeper/config` and in a reconfiguration request.
//!
//! ```text
//! server.<id>=<host>:<quorumPort>:<electionPort>[:<role>][|<host>:<port>:<port>[:<role>]]...[;[<clientHost>:]<clientPort>]
//! group.<g>=<id>:<id>...          weight.<id>=<w>
//! ```

use std::collections::BTreeMap;
use std::fmt;

use proto::ids::ServerId;

use crate::limits;

/// A host as it was written: a name, an IPv4 or an IPv6 address without its brackets. Never resolved here; names of
/// members change their address while a server runs, so whoever connects resolves anew each time.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Host(String);

impl Host {
    /// All addresses of this machine.
    pub fn any() -> Host {
        Host("0.0.0.0".to_owned())
    }

    /// A host from its text, brackets of an IPv6 address allowed; `None` when empty or with characters no host has.
    pub fn parse(text: &str) -> Option<Host> {
        let text = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
        let bad = |c: char| c.is_whitespace() || c.is_control() || "[];|,=/".contains(c);
        (!text.is_empty() && !text.contains(bad)).then(|| Host(text.to_owned()))
    }

    /// Name or address, without brackets.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it stands for all addresses of this machine.
    pub fn is_any(&self) -> bool {
        matches!(self.0.parse::<std::net::IpAddr>(), Ok(ip) if ip.is_unspecified())
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.contains(':') { write!(f, "[{}]", self.0) } else { f.write_str(&self.0) }
    }
}

/// A host and a port.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct HostPort {
    /// Name or address.
    pub host: Host,
    /// 0 lets the system choose, where something is bound.
    pub port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Whether a member votes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Votes.
    Participant,
    /// Follows without a vote.
    Observer,
}

impl Role {
    /// Any case, as ZooKeeper reads it.
    pub fn parse(text: &str) -> Option<Role> {
        match text.to_ascii_lowercase().as_str() {
            "participant" => Some(Role::Participant),
            "observer" => Some(Role::Observer),
            _ => None,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Participant => "participant",
            Role::Observer => "observer",
        })
    }
}

/// Where the other members reach one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerAddress {
    /// Name or address.
    pub host: Host,
    /// Where followers connect while this one leads.
    pub quorum_port: u16,
    /// Where votes are exchanged.
    pub election_port: u16,
}

/// One `server.N` line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// N.
    pub id: ServerId,
    /// At least one; the first is the one written first.
    pub addresses: Vec<PeerAddress>,
    /// Participant unless written otherwise.
    pub role: Role,
    /// Where its clients connect, if the line says so.
    pub client: Option<HostPort>,
}

/// How votes are counted. Observers never are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Quorum {
    /// More than half of the participants.
    Majority,
    /// More than half of the groups with weight, each by more than half of its weight.
    Hierarchical {
        /// Members of each group; each participant is in exactly one.
        groups: BTreeMap<i64, Vec<ServerId>>,
        /// The weight of every participant (default 1); 0 never counts.
        weights: BTreeMap<ServerId, u64>,
    },
}

/// What is wrong with a line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadLine {
    /// What would be right.
    pub wanted: &'static str,
    /// The offending part.
    pub found: String,
}

fn bad<T>(wanted: &'static str, found: &str) -> Result<T, BadLine> {
    Err(BadLine { wanted, found: format!("{found:?}") })
}

impl Member {
    /// Reads the id behind `server.` and the value of the line.
    ///
    /// # Errors
    /// The part that does not fit, and what would.
    pub fn parse(id: &str, value: &str) -> Result<Member, BadLine> {
        let id = ServerId(parse_id(id)?);
        let mut parts = value.split(';');
        let peers = parts.next().unwrap_or_default();
        let client = match parts.next() {
            None | Some("") => None,
            Some(text) => Some(parse_client(text)?),
        };
        if parts.any(|p| !p.trim().is_empty()) {
            return bad("no secure client port behind the client port: TLS is not available yet", value);
        }
        let mut addresses = Vec::new();
        let mut role = None;
        for text in peers.split('|') {
            if addresses.len() == limits::ADDRESSES_PER_MEMBER_MAX {
                return bad("at most 16 addresses", peers);
            }
            let (address, own) = parse_peer(text.trim())?;
            match (role, own) {
                (Some(a), Some(b)) if a != b => return bad("one role for all addresses of a member", value),
                (None, own) => role = own,
                _ => {}
            }
            addresses.push(address);
        }
        Ok(Member { id, addresses, role: role.unwrap_or(Role::Participant), client })
    }
}

impl fmt::Display for Member {
    /// The canonical line of `/zookeeper/config`: role always, client part only if it was written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "server.{}=", self.id)?;
        for (i, a) in self.addresses.iter().enumerate() {
            let bar = if i == 0 { "" } else { "|" };
            write!(f, "{bar}{}:{}:{}", a.host, a.quorum_port, a.election_port)?;
        }
        write!(f, ":{}", self.role)?;
        match &self.client {
            Some(client) => write!(f, ";{client}"),
            None => Ok(()),
        }
    }
}

/// Reads `group.G=id:id…`.
///
/// # Errors
/// The part that is no number.
pub fn parse_group(id: &str, value: &str) -> Result<(i64, Vec<ServerId>), BadLine> {
    let members =
        split_ports(value).into_iter().map(|id| parse_id(id).map(ServerId)).collect::<Result<_, _>>()?;
    Ok((parse_id(id)?, members))
}

/// Reads `weight.N=w`.
///
/// # Errors
/// The part that is no number.
pub fn parse_weight(id: &str, value: &str) -> Result<(ServerId, u64), BadLine> {
    match value.trim().parse::<u64>() {
        Ok(weight) => Ok((ServerId(parse_id(id)?), weight)),
        Err(_) => bad("a weight, 0 or more", value),
    }
}

fn parse_id(text: &str) -> Result<i64, BadLine> {
    match text.trim().parse() {
        Ok(id) => Ok(id),
        Err(_) => bad("an id, a decimal number", text),
    }
}

/// Splits at colons; empty parts at the end don't count, as in Java's `split`.
fn split_ports(text: &str) -> Vec<&str> {
    text.trim_end_matches(':').split(':').collect()
}

/// Host and what follows it; an IPv6 address stands in brackets.
fn split_host(text: &str) -> Result<(&str, Vec<&str>), BadLine> {
    let Some(inner) = text.strip_prefix('[') else {
        let mut parts = split_ports(text);
        let host = parts.remove(0);
        return Ok((host, parts));
    };
    match inner.split_once(']') {
        Some((host, "")) => Ok((host, Vec::new())),
        Some((host, rest)) => match rest.strip_prefix(':') {
            Some(rest) if !rest.is_empty() => Ok((host, split_ports(rest))),
            _ => bad("a port behind the brackets", text),
        },
        None => bad("a closing ']'", text),
    }
}

fn parse_host(text: &str) -> Result<Host, BadLine> {
    match Host::parse(text) {
        Some(host) => Ok(host),
        None => bad("a host name or address", text),
    }
}

fn parse_port(text: &str) -> Result<u16, BadLine> {
    match text.trim().parse() {
        Ok(port) => Ok(port),
        Err(_) => bad("a port from 0 to 65535", text),
    }
}

fn parse_client(text: &str) -> Result<HostPort, BadLine> {
    let text = text.trim();
    match split_host(text)? {
        (port, rest) if rest.is_empty() => Ok(HostPort { host: Host::any(), port: parse_port(port)? }),
        (host, rest) if rest.len() == 1 => {
            Ok(HostPort { host: parse_host(host)?, port: parse_port(rest[0])? })
        }
        _ => bad("[host:]port behind the ';'", text),
    }
}

fn parse_peer(text: &str) -> Result<(PeerAddress, Option<Role>), BadLine> {
    let (host, rest) = split_host(text)?;
    let (quorum, election, role) = match rest[..] {
        [quorum, election] => (quorum, election, None),
        [quorum, election, role] => (quorum, election, Some(role)),
        [_] => return bad("an election port: host:quorumPort:electionPort", text),
        _ => return bad("host:quorumPort:electionPort[:role]", text),
    };
    let address = PeerAddress {
        host: parse_host(host)?,
        quorum_port: parse_port(quorum)?,
        election_port: parse_port(election)?,
    };
    if address.quorum_port == address.election_port {
        return bad("two different ports for quorum and election", text);
    }
    let role = match role {
        None => None,
        Some(role) => match Role::parse(role.trim()) {
            Some(role) => Some(role),
            None => return bad("participant or observer", role),
        },
    };
    Ok((address, role))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_forms_of_a_server_line() {
        for (value, canonical) in [
            ("h:2888:3888", "server.1=h:2888:3888:participant"),
            ("h:2888:3888:observer", "server.1=h:2888:3888:observer"),
            ("h:2888:3888:OBSERVER;2181", "server.1=h:2888:3888:observer;0.0.0.0:2181"),
            ("h:2888:3888;2181", "server.1=h:2888:3888:participant;0.0.0.0:2181"),
            ("h:2888:3888:participant;10.0.0.1:2181", "server.1=h:2888:3888:participant;10.0.0.1:2181"),
            ("h:2888:3888;", "server.1=h:2888:3888:participant"),
            ("h:2888:3888:", "server.1=h:2888:3888:participant"),
            ("[::1]:2888:3888;[::]:2181", "server.1=[::1]:2888:3888:participant;[::]:2181"),
            ("a:1:2|b:3:4", "server.1=a:1:2|b:3:4:participant"),
            ("a:1:2:observer|b:3:4:observer;5", "server.1=a:1:2|b:3:4:observer;0.0.0.0:5"),
        ] {
            let member = Member::parse("1", value).unwrap_or_else(|e| panic!("{value}: {e:?}"));
            assert_eq!(member.to_string(), canonical, "for {value}");
            let again = canonical.strip_prefix("server.1=").unwrap();
            // With several addresses the role stands behind the last one only, which reads back as the role of all.
            assert_eq!(Member::parse("1", again), Ok(member), "for {canonical}");
        }
    }

    #[test]
    fn what_a_server_line_may_not_be() {
        for (id, value, wanted) in [
            ("x", "h:1:2", "an id"),
            ("", "h:1:2", "an id"),
            ("1", "", "host:quorumPort"),
            ("1", "h", "host:quorumPort"),
            ("1", "h:2888", "an election port"),
            ("1", "h:2888:2888", "two different ports"),
            ("1", "h:2888:x", "a port"),
            ("1", "h:2888:65536", "a port"),
            ("1", ":2888:3888", "a host"),
            ("1", "h:2888:3888:voter", "participant or observer"),
            ("1", "h:1:2:observer:3", "host:quorumPort"),
            ("1", "[::1:1:2", "a closing"),
            ("1", "[::1]1:2", "a port behind the brackets"),
            ("1", "a:1:2:observer|b:1:2:participant", "one role"),
            ("1", "h:1:2;a:b:3", "[host:]port"),
            ("1", "h:1:2;2181;2281", "no secure client port"),
            ("1", "h:1:2;x", "a port"),
        ] {
            let got = Member::parse(id, value).expect_err(value);
            assert!(got.wanted.starts_with(wanted), "{value}: {got:?}");
        }
    }
}
