#![allow(dead_code, reason = "each test file uses a part of it")]

//! A server process and a client of raw frames, for the tests of this crate.

use proto::client::{ConnectRequest, ConnectResponse, OpCode, ReplyHeader};
use proto::jute::{Put, Reader, begin_frame, end_frame};
use proto::{SessionId, Stat, Xid};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A directory that goes away with its owner.
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new() -> TempDir {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("server-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        TempDir(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Writes a `zoo.cfg` whose port the system chooses, with `extra` lines.
pub fn write_config(dir: &Path, extra: &str) -> PathBuf {
    let cfg = dir.join("zoo.cfg");
    // Tests that want the admin interface say where.
    let admin = if extra.contains("admin.") { "" } else { "admin.enableServer=false\n" };
    let text = format!(
        "dataDir={}/data\nclientPort=0\nclientPortAddress=127.0.0.1\ntickTime=500\n{admin}\
         4lw.commands.whitelist=*\n{extra}\n",
        dir.display()
    );
    std::fs::write(&cfg, text).unwrap();
    cfg
}

/// A running `falconerd`.
pub struct Server {
    child: Child,
    pub port: u16,
    log: std::sync::Arc<std::sync::Mutex<String>>,
    reader: Option<std::thread::JoinHandle<()>>,
    /// The port of the admin interface; 0: there is none.
    pub admin: u16,
    /// The port of Prometheus's provider; 0: there is none.
    pub metrics: u16,
}

impl Server {
    /// Starts one and waits until it serves.
    pub fn start(cfg: &Path) -> Server {
        Server::start_with(&[], cfg)
    }

    pub fn start_with(flags: &[&str], cfg: &Path) -> Server {
        Server::start_in(&[], flags, cfg)
    }

    /// With variables in its environment.
    pub fn start_in(variables: &[(&str, &str)], flags: &[&str], cfg: &Path) -> Server {
        let mut child = Command::new(env!("CARGO_BIN_EXE_falconerd"))
            .envs(variables.iter().copied())
            .args(flags)
            .arg(cfg)
            .env_remove("FALCONER_LOG")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut seen = String::new();
        let (mut admin, mut metrics) = (0, 0);
        let port = loop {
            let mut line = String::new();
            assert!(log.read_line(&mut line).unwrap() > 0, "the server ended before it served:\n{seen}");
            seen.push_str(&line);
            let port_of = |what: &str| {
                line.split_once(what)
                    .map(|(_, a)| a.trim().rsplit_once(':').unwrap().1.trim().parse().unwrap())
            };
            admin = port_of("the admin interface is on http://").unwrap_or(admin);
            metrics = port_of("the Prometheus port is on http://").unwrap_or(metrics);
            if let Some((_, address)) = line.split_once("serving clients on ") {
                let address = address.split_whitespace().next().unwrap();
                break address.rsplit_once(':').unwrap().1.trim().parse().unwrap();
            }
        };
        // The pipe must not fill up, and a failing test should show what the server said.
        let kept = std::sync::Arc::new(std::sync::Mutex::new(seen));
        let reader = std::thread::spawn({
            let kept = kept.clone();
            move || {
                let mut line = String::new();
                while log.read_line(&mut line).is_ok_and(|n| n > 0) {
                    eprint!("{line}");
                    kept.lock().unwrap().push_str(&line);
                    line.clear();
                }
            }
        });
        Server { child, port, log: kept, reader: Some(reader), admin, metrics }
    }

    /// What the server has said so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Stops the server as an operator does, and returns all that it said.
    pub fn stop_and_log(mut self) -> String {
        let status = Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        assert!(status.success());
        self.child.wait().unwrap();
        self.reader.take().unwrap().join().unwrap();
        self.log()
    }

    /// The process stands still for a while.
    pub fn pause(&self, time: Duration) {
        let signal = |name: &str| {
            let id = self.child.id().to_string();
            assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
        };
        signal("-STOP");
        std::thread::sleep(time);
        signal("-CONT");
    }

    /// kill -9.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; returns the exit code.
    pub fn terminate(mut self) -> Option<i32> {
        let status = Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        assert!(status.success());
        self.child.wait().unwrap().code()
    }

    pub fn four_letter_word(&self, word: &str) -> String {
        let mut s = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        s.write_all(word.as_bytes()).unwrap();
        let mut out = String::new();
        s.read_to_string(&mut out).unwrap();
        out
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An answer over HTTP.
#[derive(Debug)]
pub struct Http {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Http {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }
}

/// One request over HTTP; `headers` are lines.
pub fn http(port: u16, method: &str, path: &str, headers: &[&str]) -> Http {
    let mut lines = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|h| h.to_ascii_lowercase().starts_with("host:")) {
        lines.push_str("Host: localhost\r\n");
    }
    headers.iter().for_each(|h| lines.push_str(&format!("{h}\r\n")));
    lines.push_str("\r\n");
    http_raw(port, lines.as_bytes()).expect("an answer")
}

/// Sends bytes and reads until the server closes; `None` without any answer.
pub fn http_raw(port: u16, bytes: &[u8]) -> Option<Http> {
    let mut s = TcpStream::connect(("127.0.0.1", port)).unwrap();
    s.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    // The server may have refused already, and closed.
    let _ = s.write_all(bytes);
    let mut out = Vec::new();
    let _ = s.read_to_end(&mut out);
    let end = out.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&out[..end]).into_owned();
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let header = |l: &str| l.split_once(':').map(|(n, v)| (n.to_owned(), v.trim().to_owned()));
    Some(Http { status, headers: lines.filter_map(header).collect(), body: out[end + 4..].to_vec() })
}

/// A reply: its head and its body.
#[derive(Debug)]
pub struct Reply {
    pub header: ReplyHeader,
    pub body: Vec<u8>,
}

/// A client that sends and receives frames, one after the other.
pub struct Client {
    stream: TcpStream,
    pub session: ConnectResponse,
    next_xid: i32,
    /// Events that came before replies.
    pub events: Vec<(i32, String)>,
}

impl Client {
    pub fn connect(port: u16, timeout_ms: i32) -> Client {
        Client::resume(port, timeout_ms, SessionId::NONE, [0; 16])
    }

    pub fn resume(port: u16, timeout_ms: i32, session: SessionId, password: [u8; 16]) -> Client {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_nodelay(true).unwrap();
        let request = ConnectRequest {
            last_zxid_seen: 0,
            timeout_ms,
            session,
            password: &password,
            read_only: Some(false),
        };
        let mut out = Vec::new();
        request.encode_frame(&mut out);
        stream.write_all(&out).unwrap();
        let session = ConnectResponse::decode(&read_frame(&mut stream)).unwrap();
        Client { stream, session, next_xid: 1, events: Vec::new() }
    }

    /// Sends a request without waiting; returns its number.
    pub fn send(&mut self, op: OpCode, body: &[u8]) -> i32 {
        let xid = self.next_xid;
        self.next_xid += 1;
        self.send_as(Xid(xid), op.wire(), body);
        xid
    }

    pub fn send_as(&mut self, xid: Xid, op: i32, body: &[u8]) {
        let mut out = Vec::new();
        let at = begin_frame(&mut out);
        out.put_i32(xid.0);
        out.put_i32(op);
        out.extend_from_slice(body);
        end_frame(&mut out, at);
        self.stream.write_all(&out).unwrap();
    }

    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The next reply; events that come before it are kept.
    pub fn receive(&mut self) -> Reply {
        loop {
            let frame = read_frame(&mut self.stream);
            let mut r = Reader::new(&frame);
            let header = ReplyHeader::decode(&mut r).unwrap();
            if header.xid == Xid::NOTIFICATION {
                let (kind, _state) = (r.i32().unwrap(), r.i32().unwrap());
                self.events.push((kind, r.string().unwrap().unwrap().into_owned()));
                continue;
            }
            return Reply { header, body: r.rest().to_vec() };
        }
    }

    pub fn call(&mut self, op: OpCode, body: &[u8]) -> Reply {
        let xid = self.send(op, body);
        let reply = self.receive();
        assert_eq!(reply.header.xid, Xid(xid), "replies come in the order of the requests");
        reply
    }

    pub fn create(&mut self, path: &str, data: &[u8], flags: i32) -> Result<String, i32> {
        let reply = self.call(OpCode::Create, &create_body(path, data, flags));
        match reply.header.err {
            0 => Ok(Reader::new(&reply.body).string().unwrap().unwrap().into_owned()),
            e => Err(e),
        }
    }

    pub fn get(&mut self, path: &str, watch: bool) -> Result<(Vec<u8>, Stat), i32> {
        let reply = self.call(OpCode::GetData, &path_watch(path, watch));
        match reply.header.err {
            0 => {
                let mut r = Reader::new(&reply.body);
                let data = r.buffer().unwrap().unwrap_or_default().to_vec();
                Ok((data, Stat::decode(&mut r).unwrap()))
            }
            e => Err(e),
        }
    }

    pub fn set(&mut self, path: &str, data: &[u8]) -> Result<Stat, i32> {
        let reply = self.call(OpCode::SetData, &set_body(path, data, -1));
        match reply.header.err {
            0 => Ok(Stat::decode(&mut Reader::new(&reply.body)).unwrap()),
            e => Err(e),
        }
    }

    pub fn ping(&mut self) -> Reply {
        self.send_as(Xid::PING, OpCode::Ping.wire(), &[]);
        self.receive()
    }

    /// Whether the server has closed the connection; waits for it.
    pub fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(e) => e.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

pub fn create_body(path: &str, data: &[u8], flags: i32) -> Vec<u8> {
    let mut b = Vec::new();
    b.put_str(path);
    b.put_buffer(Some(data));
    b.extend_from_slice(proto::acl::OPEN.as_bytes());
    b.put_i32(flags);
    b
}

pub fn set_body(path: &str, data: &[u8], version: i32) -> Vec<u8> {
    let mut b = Vec::new();
    b.put_str(path);
    b.put_buffer(Some(data));
    b.put_i32(version);
    b
}

pub fn path_watch(path: &str, watch: bool) -> Vec<u8> {
    let mut b = Vec::new();
    b.put_str(path);
    b.put_bool(watch);
    b
}

fn read_frame(stream: &mut TcpStream) -> Vec<u8> {
    let mut len = [0; 4];
    stream.read_exact(&mut len).unwrap();
    let mut frame = vec![0; i32::from_be_bytes(len) as usize];
    stream.read_exact(&mut frame).unwrap();
    frame
}
