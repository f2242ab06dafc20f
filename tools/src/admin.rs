//! The admin interface of a server, asked over HTTP: what four-letter words do not say, or may not.
//!
//! A server's admin port is not to be had from its client port. The ports that may be it are tried on the same host, and the
//! one that says to belong to that client port is taken: `/readyz` of a Falconer says so, `/commands/configuration` of an
//! Apache server.

use serde_json::Value;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// How long a connection may take: an admin port that is closed to this machine must not hold up the rest.
const CONNECT: Duration = Duration::from_millis(700);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(3);
/// The longest answer that is read: ten minutes of samples and the busiest clients are some 300 KiB.
const ANSWER_MAX: u64 = 8 << 20;

/// The admin interface of a server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Admin {
    /// HOST:PORT.
    pub address: String,
}

/// Whether a Falconer is ready, and why not.
#[derive(Clone, Debug)]
pub struct Readiness {
    /// It serves clients.
    pub ready: bool,
    /// What it is doing instead.
    pub reason: String,
}

impl Admin {
    /// The admin interface of the server whose clients come to `client` (HOST:PORT), among these ports.
    pub fn find(client: &str, ports: &[u16]) -> Option<(Admin, Option<Readiness>)> {
        let (host, port) = client.rsplit_once(':')?;
        let port: u64 = port.parse().ok()?;
        ports.iter().find_map(|admin| {
            let admin = Admin { address: format!("{host}:{admin}") };
            if let Ok((_, ready)) = admin.json("/readyz") {
                let reason = ready["reason"].as_str().unwrap_or_default().to_owned();
                let eta = ready["eta_seconds"].as_f64();
                let reason = eta.map_or(reason.clone(), |s| format!("{reason}, at most {s} s more"));
                let readiness = Readiness { ready: ready["ready"].as_bool()?, reason };
                return (ready["client_port"].as_u64() == Some(port)).then_some((admin, Some(readiness)));
            }
            let (_, found) = admin.json("/commands/configuration").ok()?;
            (found["client_port"].as_u64() == Some(port)).then_some((admin, None))
        })
    }

    /// What `path` answers, with its status.
    ///
    /// # Errors
    /// When there is no answer, or none in JSON.
    pub fn json(&self, path: &str) -> io::Result<(u16, Value)> {
        let (status, body) = self.get(path)?;
        let value = serde_json::from_slice(&body)?;
        Ok((status, value))
    }

    fn get(&self, path: &str) -> io::Result<(u16, Vec<u8>)> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for a in self.address.to_socket_addrs()? {
            match TcpStream::connect_timeout(&a, CONNECT) {
                Ok(stream) => return self.ask(stream, path),
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    fn ask(&self, mut stream: TcpStream, path: &str) -> io::Result<(u16, Vec<u8>)> {
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_write_timeout(Some(ANSWER))?;
        // HTTP/1.0: the body is not sent in chunks, and ends with the connection.
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {}\r\nConnection: close\r\n\r\n", self.address)?;
        let mut answer = Vec::new();
        stream.take(ANSWER_MAX).read_to_end(&mut answer)?;
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n").ok_or(io::ErrorKind::InvalidData)?;
        let body = answer.split_off(end + 4);
        let head = String::from_utf8_lossy(&answer);
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
        Ok((status, body))
    }
}

/// The JSON of a command of the admin interface as `mntr` and `conf` would say it: name and value.
pub fn pairs(json: &Value) -> impl Iterator<Item = (String, String)> {
    let fields = json.as_object().into_iter().flatten();
    fields
        .filter(|(name, v)| *name != "command" && !v.is_null() && !v.is_object())
        .map(|(name, value)| (name.clone(), value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
}
