//! A session with a server: connect, one request at a time; the load takes over the socket afterwards.

use super::wire;
use proto::client::{ConnectRequest, ConnectResponse, OpCode, ReplyHeader};
use proto::jute::Reader;
use proto::{Code, SessionId};
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// How long the set-up of a session and each single request may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The session time-out that is asked for, in ms; the server may shorten it.
const SESSION_TIMEOUT_MS: i32 = 30_000;

/// Replies larger than this are refused: a directory of a million names fits.
const REPLY_MAX: usize = 256 << 20;

/// Where the load goes: `HOST:PORT[,HOST:PORT…][/chroot]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// Host and port of each server, as given.
    pub servers: Vec<String>,
    /// The prefix of every path, empty for none.
    pub chroot: String,
}

impl std::str::FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Target, String> {
        let (hosts, chroot) = match text.find('/') {
            Some(at) => (&text[..at], text[at..].trim_end_matches('/')),
            None => (text, ""),
        };
        let servers: Vec<String> = hosts
            .split(',')
            .map(|h| match h.trim() {
                "" => Err(format!("no host in '{text}': write HOST:PORT, several separated by commas")),
                h if h.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) => Ok(h.into()),
                h => Ok(format!("{h}:2181")),
            })
            .collect::<Result<_, String>>()?;
        Ok(Target { servers, chroot: chroot.into() })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.servers.join(","), self.chroot)
    }
}

/// Why a load could not run.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The server can't be reached.
    Connect {
        /// As given.
        server: String,
        /// Why.
        source: io::Error,
    },
    /// The connection ended or broke while a reply was awaited.
    Lost {
        /// As given.
        server: String,
        /// What was going on.
        doing: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The server answers something that is not the protocol.
    Protocol {
        /// As given.
        server: String,
        /// What was wrong.
        what: String,
    },
    /// The server refuses what the load needs.
    Refused {
        /// What was asked for.
        doing: String,
        /// The server's answer.
        code: i32,
    },
    /// The mirror can't listen.
    Listen {
        /// As given.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The local machine refuses (epoll, threads).
    Local(io::Error),
    /// The process whose CPU time is asked for can't be read.
    Process {
        /// Its id.
        pid: u32,
        /// Why.
        source: io::Error,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Connect { server, source } => {
                write!(
                    f,
                    "can't connect to {server}: {source}; is a server running there? (-s HOST:PORT names another)"
                )
            }
            // What is refused is closed with the request unread, which resets it.
            Error::Lost { server, doing, source }
                if source.kind() == io::ErrorKind::UnexpectedEof
                    || source.kind() == io::ErrorKind::ConnectionReset && *doing == "the handshake" =>
            {
                write!(
                    f,
                    "{server} closed the connection during {doing}; the server may be starting, read-only, or at its limit \
                     of connections per address (maxClientCnxns in its zoo.cfg, 60 unless set, 0 for none; -c takes fewer)"
                )
            }
            Error::Lost { server, doing, source } => {
                write!(f, "connection to {server} failed during {doing}: {source}")
            }
            Error::Protocol { server, what } => {
                write!(f, "{server} does not speak the ZooKeeper protocol: {what}")
            }
            Error::Refused { doing, code } => {
                write!(f, "the server refuses to {doing}: {}", code_name(*code))
            }
            Error::Listen { address, source } => {
                write!(f, "can't listen on {address}: {source}; -s HOST:PORT names another address")
            }
            Error::Local(source) => write!(f, "the load generator can't run here: {source}"),
            Error::Process { pid, source } => {
                write!(
                    f,
                    "can't read the CPU time of process {pid} in /proc: {source}; --server-pid wants a running local server"
                )
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Connect { source, .. }
            | Error::Lost { source, .. }
            | Error::Listen { source, .. }
            | Error::Local(source)
            | Error::Process { source, .. } => Some(source),
            Error::Protocol { .. } | Error::Refused { .. } => None,
        }
    }
}

/// An error code as people know it: `NoNode (-101)`.
pub fn code_name(code: i32) -> String {
    Code::from_wire(code).map_or_else(|| format!("error {code}"), |c| c.to_string())
}

/// The answer to one request: 0 or an error code, and the body of the reply.
#[derive(Debug)]
pub struct Answer {
    /// 0 or an error code.
    pub err: i32,
    /// What follows the reply's head.
    pub body: Vec<u8>,
}

/// An open session whose requests are answered one by one.
#[derive(Debug)]
pub struct Session {
    server: String,
    stream: TcpStream,
    xid: i32,
    timeout: Duration,
}

impl Session {
    /// Connects to the `nth` server of the target (counted round and round).
    ///
    /// # Errors
    /// When no server answers there or the session is refused.
    pub fn open(target: &Target, nth: usize) -> Result<Session, Error> {
        let server = target.servers[nth % target.servers.len()].clone();
        let connect = |server: &str| -> io::Result<TcpStream> {
            let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
            for addr in server.to_socket_addrs()? {
                match TcpStream::connect_timeout(&addr, PATIENCE) {
                    Ok(stream) => return Ok(stream),
                    Err(e) => last = e,
                }
            }
            Err(last)
        };
        let stream = connect(&server).map_err(|source| Error::Connect { server: server.clone(), source })?;
        let mut session = Session { server, stream, xid: 0, timeout: Duration::ZERO };
        session.handshake()?;
        Ok(session)
    }

    /// Sends one request and waits for its reply; events in between are dropped.
    ///
    /// # Errors
    /// When the connection breaks. An error code in the reply is in the answer, not an error.
    pub fn call(&mut self, op: OpCode, body: impl FnOnce(&mut Vec<u8>)) -> Result<Answer, Error> {
        self.xid += 1;
        let mut out = Vec::new();
        wire::request(&mut out, self.xid, op, body);
        self.send(&out, "a request")?;
        loop {
            let frame = self.frame("a request")?;
            let head = ReplyHeader::decode(&mut Reader::new(&frame))
                .map_err(|e| Error::Protocol { server: self.server.clone(), what: e.to_string() })?;
            if head.xid.0 == self.xid {
                return Ok(Answer { err: head.err, body: frame[ReplyHeader::LEN..].to_vec() });
            }
        }
    }

    /// Gives up the socket, for a load that drives it itself; replies so far have all been read.
    pub fn into_stream(self) -> (TcpStream, String, Duration) {
        (self.stream, self.server, self.timeout)
    }

    /// Ends the session, so that the server need not wait for its time-out.
    pub fn close(mut self) {
        // The server forgets the session anyway, only later.
        let _ = self.call(OpCode::CloseSession, |_| ());
    }

    fn handshake(&mut self) -> Result<(), Error> {
        let mut out = Vec::new();
        ConnectRequest {
            last_zxid_seen: 0,
            timeout_ms: SESSION_TIMEOUT_MS,
            session: SessionId::NONE,
            password: &[0; 16],
            read_only: Some(false),
        }
        .encode_frame(&mut out);
        self.stream
            .set_nodelay(true)
            .and_then(|()| self.stream.set_read_timeout(Some(PATIENCE)))
            .and_then(|()| self.stream.set_write_timeout(Some(PATIENCE)))
            .map_err(Error::Local)?;
        self.send(&out, "the handshake")?;
        let frame = self.frame("the handshake")?;
        let reply = ConnectResponse::decode(&frame)
            .map_err(|e| Error::Protocol { server: self.server.clone(), what: e.to_string() })?;
        if reply.session == SessionId::NONE {
            return Err(Error::Protocol { server: self.server.clone(), what: "no session was given".into() });
        }
        self.timeout = Duration::from_millis(reply.timeout_ms.max(1) as u64);
        Ok(())
    }

    fn send(&mut self, bytes: &[u8], doing: &'static str) -> Result<(), Error> {
        self.stream.write_all(bytes).map_err(|source| Error::Lost {
            server: self.server.clone(),
            doing,
            source,
        })
    }

    fn frame(&mut self, doing: &'static str) -> Result<Vec<u8>, Error> {
        let lost = |source| Error::Lost { server: self.server.clone(), doing, source };
        let mut len = [0; 4];
        self.stream.read_exact(&mut len).map_err(lost)?;
        let len = u32::from_be_bytes(len) as usize;
        if len > REPLY_MAX {
            let what = format!("a frame of {len} bytes");
            return Err(Error::Protocol { server: self.server.clone(), what });
        }
        let mut frame = vec![0; len];
        self.stream.read_exact(&mut frame).map_err(lost)?;
        Ok(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_take_several_hosts_and_a_chroot() {
        let t: Target = "a:1,b/x/y/".parse().unwrap();
        assert_eq!(t, Target { servers: vec!["a:1".into(), "b:2181".into()], chroot: "/x/y".into() });
        assert_eq!(t.to_string(), "a:1,b:2181/x/y");
        assert!("".parse::<Target>().is_err());
    }
}
