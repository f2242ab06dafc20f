//! The session of the shell: one thread that connects, reads and pings, and calls that wait for their replies.
//!
//! ```text
//!   call ── frame to the socket, xid into `pending` ── wait
//!   thread ── connect (each server in turn) ── handshake ── auth, watches again ── read ─┬─ reply → its call
//!     ▲                                                                                  ├─ event → Screen
//!     └──────────────── connection lost: every call under way fails, watches are kept ───┘
//! ```
//!
//! It behaves as Apache's Java client does: calls wait while a first connection is being made, fail with
//! `ConnectionLoss` when no server can be reached, and the session is taken up again at the next server.

use super::show::{Event, Screen};
use super::watches::{Kind, Removal, Watches};
use crate::bench::Target;
use proto::acl::{self, AclBytes, Id};
use proto::client::{
    AddWatchMode, ConnectRequest, ConnectResponse, CreateMode, EventType, OpCode, ReplyHeader,
};
use proto::jute::{DecodeError, Put, Reader, begin_frame, end_frame};
use proto::{Code, SessionId, Stat, Xid};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

/// Replies larger than this are refused: a directory of a million names fits.
const REPLY_MAX: usize = 256 << 20;
/// The pause after all servers have been tried in vain.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How long a close waits for its reply; the server forgets the session anyway, only later.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of paths in one setWatches: Apache's client splits there too, so that no frame exceeds jute.maxbuffer.
const SET_WATCHES_BYTES: usize = 128 * 1024;
/// The xid that Apache's clients give to setWatches.
const SET_WATCHES: Xid = Xid(-8);

/// Error codes that a client gives itself.
pub mod local_code {
    /// The connection ended before the reply came.
    pub const CONNECTION_LOSS: i32 = -4;
    /// No reply in time.
    pub const OPERATION_TIMEOUT: i32 = -7;
}

/// What a session is asked to be.
#[derive(Clone, Debug)]
pub struct Wish {
    /// The servers, and the chroot.
    pub target: Target,
    /// The session time-out that is asked for, in ms.
    pub timeout_ms: i32,
    /// A read-only server will do.
    pub read_only: bool,
}

/// How a call failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// The error code.
    pub code: i32,
    /// The path in question.
    pub path: Option<String>,
    /// Why there is no connection, if that is the reason.
    pub why: Option<String>,
}

impl Refusal {
    fn new(code: i32, path: &str) -> Refusal {
        Refusal { code, path: Some(path.to_owned()), why: None }
    }
}

/// The state of the session as zkCli's prompt names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// No server yet, or none any more.
    Connecting,
    /// All is well.
    Connected,
    /// With a server that can't reach its quorum.
    ConnectedReadOnly,
    /// Closed, or expired.
    Closed,
    /// The server refused a credential.
    AuthFailed,
}

impl State {
    /// The name in the prompt.
    pub fn name(self) -> &'static str {
        match self {
            State::Connecting => "CONNECTING",
            State::Connected => "CONNECTED",
            State::ConnectedReadOnly => "CONNECTEDREADONLY",
            State::Closed => "CLOSED",
            State::AuthFailed => "AUTH_FAILED",
        }
    }

    /// Whether it is worth calling.
    pub fn is_alive(self) -> bool {
        !matches!(self, State::Closed | State::AuthFailed)
    }

    fn is_connected(self) -> bool {
        matches!(self, State::Connected | State::ConnectedReadOnly)
    }
}

/// A session with one of several servers.
pub struct Session {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("wish", &self.shared.wish).finish_non_exhaustive()
    }
}

struct Shared {
    wish: Wish,
    screen: Screen,
    inner: Mutex<Inner>,
    /// Signalled whenever `state` or `rounds_failed` changes.
    changed: Condvar,
}

struct Inner {
    state: State,
    /// The writing side of the connection, while there is one.
    stream: Option<TcpStream>,
    last_xid: i32,
    pending: VecDeque<Pending>,
    /// How often all servers have been tried in vain.
    rounds_failed: u64,
    /// Why the last of them could not be reached.
    why: Option<String>,
    session: SessionId,
    password: [u8; 16],
    last_zxid: i64,
    credentials: Vec<(String, Vec<u8>)>,
    watches: Watches,
}

/// A request whose reply is awaited.
struct Pending {
    xid: i32,
    /// The watch that is set once the reply says so.
    watch: Option<(Kind, String)>,
    reply: SyncSender<Reply>,
}

/// A reply: an error code, or 0 with a body.
#[derive(Debug)]
pub struct Reply {
    err: i32,
    body: Vec<u8>,
    why: Option<String>,
}

/// What a create asks for.
#[derive(Debug)]
pub struct Create<'a> {
    /// The path.
    pub path: &'a str,
    /// The value; null is not empty.
    pub data: Option<&'a [u8]>,
    /// Who may do what.
    pub acl: &'a [(i32, Id)],
    /// The kind of znode.
    pub mode: CreateMode,
    /// The time to live in ms, of TTL znodes.
    pub ttl_ms: i64,
}

impl Session {
    /// Begins a session; its calls wait for the first connection.
    pub fn open(wish: Wish, screen: Screen) -> Session {
        let inner = Inner {
            state: State::Connecting,
            stream: None,
            last_xid: 0,
            pending: VecDeque::new(),
            rounds_failed: 0,
            why: None,
            session: SessionId::NONE,
            password: [0; 16],
            last_zxid: 0,
            credentials: Vec::new(),
            watches: Watches::default(),
        };
        let shared = Arc::new(Shared { wish, screen, inner: Mutex::new(inner), changed: Condvar::new() });
        let thread = {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name("session".into()).spawn(move || shared.run())
        };
        // Without a thread every call fails with the reason that stands in `why`.
        let thread = thread.map_err(|e| shared.fail_round(format!("no thread for the session: {e}"))).ok();
        Session { shared, thread }
    }

    /// The state now.
    pub fn state(&self) -> State {
        self.shared.lock().state
    }

    /// Waits until there is a connection; false when there is none after `patience`.
    pub fn wait_connected(&self, patience: Duration) -> bool {
        let inner = self.shared.lock();
        let (inner, _) = self
            .shared
            .changed
            .wait_timeout_while(inner, patience, |i| i.state == State::Connecting)
            .unwrap_or_else(PoisonError::into_inner);
        inner.state.is_connected()
    }

    /// The server at the other end, HOST:PORT; `None` while there is none.
    pub fn server(&self) -> Option<String> {
        let inner = self.shared.lock();
        inner.stream.as_ref()?.peer_addr().ok().map(|a| a.to_string())
    }

    /// Why the last attempt to connect failed.
    pub fn why(&self) -> Option<String> {
        self.shared.lock().why.clone()
    }

    /// Closes the session, so that its ephemerals and watches end at once.
    pub fn close(&mut self) {
        let reply = match self.state().is_connected() {
            true => self.send(OpCode::CloseSession, |_| (), None).ok(),
            false => None,
        };
        // From here on the end of the connection is no event.
        let was = std::mem::replace(&mut self.shared.lock().state, State::Closed);
        if let Some(reply) = reply {
            // The server forgets the session anyway, only later.
            let _ = reply.recv_timeout(CLOSE_PATIENCE);
        }
        if was.is_alive() {
            self.shared.screen.event(&session_event("Closed"));
        }
        let stream = self.shared.lock().stream.take();
        self.shared.changed.notify_all();
        if let Some(stream) = stream {
            // It wakes the thread; a socket that is gone already has done so too.
            let _ = stream.shutdown(Shutdown::Both);
        }
        // A thread that is just connecting somewhere ends by itself.
        self.thread = None;
    }

    /// create, createContainer or createTTL; returns the path with its number.
    ///
    /// # Errors
    /// As the server refuses.
    pub fn create(&self, c: &Create<'_>) -> Result<String, Refusal> {
        let op = match c.mode {
            CreateMode::Container => OpCode::CreateContainer,
            CreateMode::Ttl | CreateMode::TtlSequential => OpCode::CreateTtl,
            _ => OpCode::Create,
        };
        let body = |out: &mut Vec<u8>| {
            out.put_str(&self.server_path(c.path));
            out.put_buffer(c.data);
            acl::encode(c.acl.iter().map(|(perms, id)| (*perms, id)), out);
            out.put_i32(c.mode.flags());
            if op == OpCode::CreateTtl {
                out.put_i64(c.ttl_ms);
            }
        };
        self.call(op, c.path, body, None, |r| Ok(self.client_path(&string(r)?)))
    }

    /// delete.
    ///
    /// # Errors
    /// As the server refuses.
    pub fn delete(&self, path: &str, version: i32) -> Result<(), Refusal> {
        // The root of a chroot is not the root: no server may take it for another znode.
        let at = if path == "/" { "/".to_owned() } else { self.server_path(path) };
        let body = |out: &mut Vec<u8>| {
            out.put_str(&at);
            out.put_i32(version);
        };
        self.call(OpCode::Delete, path, body, None, |_| Ok(()))
    }

    /// Deletes as one multi, without waiting; the receiver gets its error code, 0 if all went well.
    ///
    /// # Errors
    /// When there is no connection.
    pub fn delete_many(&self, paths: &[String]) -> Result<Batch, Refusal> {
        let body = |out: &mut Vec<u8>| {
            for path in paths {
                proto::client::put_multi_header(out, OpCode::Delete.wire(), -1);
                out.put_str(&self.server_path(path));
                out.put_i32(-1);
            }
            proto::client::put_multi_end(out);
        };
        self.send(OpCode::Multi, body, None).map(Batch)
    }

    /// exists.
    ///
    /// # Errors
    /// As the server refuses; that the znode does not exist is no refusal.
    pub fn exists(&self, path: &str, watch: bool) -> Result<Option<Stat>, Refusal> {
        let kind = watch.then_some(Kind::Data);
        match self.call(OpCode::Exists, path, |out| self.put_path(out, path, watch), kind, Stat::decode) {
            Ok(stat) => Ok(Some(stat)),
            Err(e) if e.code == Code::NoNode.wire() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// getData.
    ///
    /// # Errors
    /// As the server refuses.
    pub fn get_data(&self, path: &str, watch: bool) -> Result<(Option<Vec<u8>>, Stat), Refusal> {
        let kind = watch.then_some(Kind::Data);
        self.call(OpCode::GetData, path, |out| self.put_path(out, path, watch), kind, data_and_stat)
    }

    /// getData of the znode of the configuration, which stands outside any chroot.
    ///
    /// # Errors
    /// As the server refuses.
    pub fn get_config(&self, watch: bool) -> Result<(Option<Vec<u8>>, Stat), Refusal> {
        const PATH: &str = "/zookeeper/config";
        let body = |out: &mut Vec<u8>| {
            out.put_str(PATH);
            out.put_bool(watch);
        };
        self.call(OpCode::GetData, PATH, body, watch.then_some(Kind::Data), data_and_stat)
    }

    /// setData.
    ///
    /// # Errors
    /// As the server refuses.
    pub fn set_data(&self, path: &str, data: &[u8], version: i32) -> Result<Stat, Refusal> {
        let body = |out: &mut Vec<u8>| {
            out.put_str(&self.server_path(path));
            out.put_buffer(Some(data));
            out.put_i32(version);
        };
        self.call(OpCode::SetData, path, body, None, Stat::decode)
    }

    /// getChildren2: names in the server's order.
    ///
    /// # Errors
    /// As the server refuses.
    pub fn children(&self, path: &str, watch: bool) -> Result<(Vec<String>, Stat), Refusal> {
        let kind = watch.then_some(Kind::Child);
        self.call(
            OpCode::GetChildren2,
            path,
            |out| self.put_path(out, path, watch),
            kind,
            |r| Ok((strings(r)?, Stat::decode(r)?)),
        )
    }

    /// getACL.
    ///
    /// # Errors
    /// As the server refuses.
    pub fn get_acl(&self, path: &str) -> Result<(Vec<(i32, Id)>, Stat), Refusal> {
        let body = |out: &mut Vec<u8>| out.put_str(&self.server_path(path));
        self.call(OpCode::GetAcl, path, body, None, |r| {
            let entries = AclBytes::decode(r)?
                .entries()
                .map(|e| (e.perms, Id::new(&e.scheme.unwrap_or_default(), &e.id.unwrap_or_default())))
                .collect();
            Ok((entries, Stat::decode(r)?))
        })
    }

    /// setACL.
    ///
    /// # Errors
    /// As the server refuses.
    pub fn set_acl(&self, path: &str, entries: &[(i32, Id)], version: i32) -> Result<Stat, Refusal> {
        let body = |out: &mut Vec<u8>| {
            out.put_str(&self.server_path(path));
            acl::encode(entries.iter().map(|(perms, id)| (*perms, id)), out);
            out.put_i32(version);
        };
        self.call(OpCode::SetAcl, path, body, None, Stat::decode)
    }

    /// sync; returns 0 or the error code.
    ///
    /// # Errors
    /// When no reply comes within `patience`.
    pub fn sync(&self, path: &str, patience: Duration) -> Result<i32, Refusal> {
        let late = || Refusal::new(local_code::OPERATION_TIMEOUT, path);
        match self.send(OpCode::Sync, |out| out.put_str(&self.server_path(path)), None) {
            Ok(reply) => Ok(reply.recv_timeout(patience).map_err(|_| late())?.err),
            Err(e) => Ok(e.code),
        }
    }

    /// addWatch.
    ///
    /// # Errors
    /// As the server refuses.
    pub fn add_watch(&self, path: &str, mode: AddWatchMode) -> Result<(), Refusal> {
        let (number, kind) = match mode {
            AddWatchMode::Persistent => (0, Kind::Persistent),
            AddWatchMode::PersistentRecursive => (1, Kind::PersistentRecursive),
        };
        let body = |out: &mut Vec<u8>| {
            out.put_str(&self.server_path(path));
            out.put_i32(number);
        };
        self.call(OpCode::AddWatch, path, body, Some(kind), |_| Ok(()))
    }

    /// removeWatches. `local`: forget the watches also when the server does not agree.
    ///
    /// # Errors
    /// As the server refuses, or when there is no such watch here.
    pub fn remove_watches(&self, path: &str, what: Removal, local: bool) -> Result<(), Refusal> {
        let body = |out: &mut Vec<u8>| {
            out.put_str(&self.server_path(path));
            out.put_i32(what.wire());
        };
        let answer = self.call(OpCode::RemoveWatches, path, body, None, |_| Ok(()));
        let mut inner = self.shared.lock();
        if !inner.watches.has(what, path) {
            return Err(Refusal::new(Code::NoWatcher.wire(), path));
        }
        let state = match &answer {
            Err(e) if !local => return Err(e.clone()),
            Err(e) if [local_code::CONNECTION_LOSS, Code::SessionExpired.wire()].contains(&e.code) => {
                "Disconnected"
            }
            _ => "SyncConnected",
        };
        let removed = inner.watches.remove(what, path);
        drop(inner);
        for kind in removed {
            self.shared.screen.event(&Event { state, kind, path: Some(path.to_owned()), zxid: -1 });
        }
        Ok(())
    }

    /// getEphemerals of this session below a path.
    ///
    /// # Errors
    /// As the server refuses.
    pub fn ephemerals(&self, prefix: &str) -> Result<Vec<String>, Refusal> {
        let body = |out: &mut Vec<u8>| out.put_str(&self.server_path(prefix));
        let paths = self.call(OpCode::GetEphemerals, prefix, body, None, strings)?;
        Ok(paths.iter().map(|p| self.client_path(p)).collect())
    }

    /// getAllChildrenNumber.
    ///
    /// # Errors
    /// As the server refuses.
    pub fn all_children_number(&self, path: &str) -> Result<i32, Refusal> {
        let body = |out: &mut Vec<u8>| out.put_str(&self.server_path(path));
        self.call(OpCode::GetAllChildrenNumber, path, body, None, |r| r.i32())
    }

    /// whoAmI: schemes and names.
    ///
    /// # Errors
    /// As the server refuses.
    pub fn who_am_i(&self) -> Result<Vec<(String, String)>, Refusal> {
        self.call(
            OpCode::WhoAmI,
            "",
            |_| (),
            None,
            |r| {
                let n = r.count()?.unwrap_or(0);
                (0..n).map(|_| Ok((string(r)?, string(r)?))).collect()
            },
        )
        .map_err(|e| Refusal { path: None, ..e })
    }

    /// reconfig: the new configuration and the stat of its znode.
    ///
    /// # Errors
    /// As the server refuses.
    pub fn reconfig(
        &self,
        joining: Option<&str>,
        leaving: Option<&str>,
        members: Option<&str>,
        from_config: i64,
    ) -> Result<(Option<Vec<u8>>, Stat), Refusal> {
        let body = |out: &mut Vec<u8>| {
            for text in [joining, leaving, members] {
                out.put_buffer(text.map(str::as_bytes));
            }
            out.put_i64(from_config);
        };
        self.call(OpCode::Reconfig, "", body, None, data_and_stat).map_err(|e| Refusal { path: None, ..e })
    }

    /// Gives the session an identity more; what the server thinks of it shows in later calls, or as an event.
    pub fn add_auth(&self, scheme: &str, credential: &[u8]) {
        let mut inner = self.shared.lock();
        inner.credentials.push((scheme.to_owned(), credential.to_owned()));
        if inner.state.is_connected() {
            let frame = auth_frame(scheme, credential);
            inner.write(&frame);
        }
    }

    fn put_path(&self, out: &mut Vec<u8>, path: &str, watch: bool) {
        out.put_str(&self.server_path(path));
        out.put_bool(watch);
    }

    fn server_path(&self, path: &str) -> String {
        let chroot = &self.shared.wish.target.chroot;
        match path {
            "/" if !chroot.is_empty() => chroot.clone(),
            path => format!("{chroot}{path}"),
        }
    }

    fn client_path(&self, path: &str) -> String {
        self.shared.client_path(path)
    }

    /// Sends a request, waits for its reply, reads its body.
    fn call<T>(
        &self,
        op: OpCode,
        path: &str,
        body: impl FnOnce(&mut Vec<u8>),
        watch: Option<Kind>,
        read: impl FnOnce(&mut Reader<'_>) -> Result<T, DecodeError>,
    ) -> Result<T, Refusal> {
        let watch = watch.map(|kind| (kind, path.to_owned()));
        let named = |e: Refusal| Refusal { path: Some(path.to_owned()), ..e };
        let reply = self.send(op, body, watch).map_err(named)?.recv().map_err(|_| {
            // The session has been dropped with the call under way: it counts as closed.
            Refusal::new(Code::SessionExpired.wire(), path)
        })?;
        if reply.err != 0 {
            return Err(Refusal { code: reply.err, path: Some(path.to_owned()), why: reply.why });
        }
        read(&mut Reader::new(&reply.body)).map_err(|e| Refusal {
            code: Code::MarshallingError.wire(),
            path: Some(path.to_owned()),
            why: Some(format!("the reply can't be read: {e}")),
        })
    }

    /// Sends a request as soon as there is a connection.
    fn send(
        &self,
        op: OpCode,
        body: impl FnOnce(&mut Vec<u8>),
        watch: Option<(Kind, String)>,
    ) -> Result<Receiver<Reply>, Refusal> {
        let mut inner = self.shared.lock();
        let rounds = inner.rounds_failed;
        // Without a thread nobody will ever connect.
        if self.thread.is_some() {
            inner = self
                .shared
                .changed
                .wait_while(inner, |i| i.state == State::Connecting && i.rounds_failed == rounds)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let code = match inner.state {
            State::Connected | State::ConnectedReadOnly => 0,
            State::Connecting => local_code::CONNECTION_LOSS,
            State::Closed => Code::SessionExpired.wire(),
            State::AuthFailed => Code::AuthFailed.wire(),
        };
        if code != 0 {
            return Err(Refusal { code, path: None, why: inner.why.clone() });
        }
        inner.last_xid = inner.last_xid.wrapping_add(1).max(1);
        let xid = inner.last_xid;
        let (reply, receiver) = sync_channel(1);
        inner.pending.push_back(Pending { xid, watch, reply });
        let mut frame = Vec::new();
        let at = begin_frame(&mut frame);
        frame.put_i32(xid);
        frame.put_i32(op.wire());
        body(&mut frame);
        end_frame(&mut frame, at);
        inner.write(&frame);
        Ok(receiver)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.state().is_alive() {
            self.close();
        }
    }
}

/// A multi under way.
#[derive(Debug)]
pub struct Batch(Receiver<Reply>);

impl Batch {
    /// Waits for its error code, 0 if all went well.
    pub fn wait(self) -> i32 {
        match self.0.recv() {
            Ok(reply) if reply.err == 0 => crate::bench::multi_error(&reply.body),
            Ok(reply) => reply.err,
            Err(_) => local_code::CONNECTION_LOSS,
        }
    }
}

impl Inner {
    /// Writes a frame. An error is left to the reading side, which meets it as the end of the connection.
    fn write(&mut self, frame: &[u8]) {
        if let Some(stream) = &mut self.stream
            && stream.write_all(frame).is_err()
        {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn client_path(&self, path: &str) -> String {
        let chroot = &self.wish.target.chroot;
        match path.strip_prefix(chroot.as_str()) {
            Some("") => "/".to_owned(),
            Some(rest) if rest.starts_with('/') => rest.to_owned(),
            _ => path.to_owned(),
        }
    }

    /// The session's thread.
    fn run(&self) {
        let servers = &self.wish.target.servers;
        // Not always the first: clients spread over the servers.
        let mut next =
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.subsec_nanos()) as usize;
        while self.lock().state.is_alive() {
            let mut why = None;
            let connected = (0..servers.len()).any(|_| {
                next = next.wrapping_add(1);
                let server = &servers[next % servers.len()];
                match self.connect(server) {
                    Ok(Some((stream, timeout))) => {
                        why = self.serve(stream, timeout).err().map(|e| format!("{server}: {}", reason(&e)));
                        true
                    }
                    Ok(None) => true,
                    Err(e) => {
                        why = Some(format!("can't connect to {server}: {}", reason(&e)));
                        false
                    }
                }
            });
            if connected {
                self.disconnected(why);
            } else {
                self.fail_round(why.unwrap_or_else(|| "there is no server".into()));
                let inner = self.lock();
                // Only a close wakes it early.
                let _ = self.changed.wait_timeout_while(inner, RETRY_AFTER, |i| i.state.is_alive());
            }
        }
    }

    fn fail_round(&self, why: String) {
        let mut inner = self.lock();
        inner.rounds_failed += 1;
        inner.why = Some(why);
        drop(inner);
        self.changed.notify_all();
    }

    /// One attempt: connection and handshake. `None`: the session has expired, which is an answer too.
    fn connect(&self, server: &str) -> io::Result<Option<(TcpStream, Duration)>> {
        let wished = Duration::from_millis(self.wish.timeout_ms.max(1) as u64);
        let patience = (wished / self.wish.target.servers.len() as u32).max(Duration::from_secs(1));
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        let mut found = None;
        for address in server.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, patience) {
                Ok(stream) => {
                    found = Some(stream);
                    break;
                }
                Err(e) => last = e,
            }
        }
        let Some(mut stream) = found else { return Err(last) };
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        let mut request = Vec::new();
        {
            let inner = self.lock();
            ConnectRequest {
                last_zxid_seen: inner.last_zxid,
                timeout_ms: self.wish.timeout_ms,
                session: inner.session,
                password: &inner.password,
                read_only: Some(self.wish.read_only),
            }
            .encode_frame(&mut request);
        }
        stream.write_all(&request)?;
        let frame = read_frame(&mut stream)?;
        let reply = ConnectResponse::decode(&frame).map_err(not_the_protocol)?;
        let mut inner = self.lock();
        if !inner.state.is_alive() {
            return Ok(None);
        }
        if reply.session == SessionId::NONE {
            inner.state = State::Closed;
            drop(inner);
            self.screen.event(&session_event("Expired"));
            self.changed.notify_all();
            return Ok(None);
        }
        let read_only = reply.read_only == Some(true);
        inner.session = reply.session;
        inner.password = reply.password;
        inner.why = None;
        let mut first = Vec::new();
        for (scheme, credential) in &inner.credentials {
            first.extend(auth_frame(scheme, credential));
        }
        put_watches(&mut first, &inner.watches, inner.last_zxid, &self.wish.target.chroot);
        stream.write_all(&first)?;
        inner.stream = Some(stream.try_clone()?);
        inner.state = if read_only { State::ConnectedReadOnly } else { State::Connected };
        // The event comes first, whatever the calls that now go on print.
        self.screen.event(&session_event(if read_only { "ConnectedReadOnly" } else { "SyncConnected" }));
        drop(inner);
        self.changed.notify_all();
        Ok(Some((stream, Duration::from_millis(reply.timeout_ms.max(1) as u64))))
    }

    /// Reads until the connection ends.
    fn serve(&self, mut stream: TcpStream, timeout: Duration) -> io::Result<()> {
        stream.set_read_timeout(Some((timeout / 3).max(Duration::from_millis(1))))?;
        let mut heard = Instant::now();
        let mut buffer = Vec::new();
        let mut chunk = vec![0; 64 * 1024];
        loop {
            match stream.read(&mut chunk) {
                Ok(0) => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the server closed the connection",
                    ));
                }
                Ok(n) => {
                    buffer.extend_from_slice(&chunk[..n]);
                    heard = Instant::now();
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    if heard.elapsed() > timeout * 2 / 3 {
                        let text = format!("nothing was heard for {} ms", heard.elapsed().as_millis());
                        return Err(io::Error::new(io::ErrorKind::TimedOut, text));
                    }
                    let mut ping = Vec::new();
                    let at = begin_frame(&mut ping);
                    ping.put_i32(Xid::PING.0);
                    ping.put_i32(OpCode::Ping.wire());
                    end_frame(&mut ping, at);
                    self.lock().write(&ping);
                }
                Err(e) => return Err(e),
            }
            let mut used = 0;
            while let Some(frame) = whole_frame(&buffer[used..])? {
                self.take(frame)?;
                used += 4 + frame.len();
            }
            buffer.drain(..used);
        }
    }

    /// One frame: a reply or an event.
    fn take(&self, frame: &[u8]) -> io::Result<()> {
        let mut r = Reader::new(frame);
        let head = ReplyHeader::decode(&mut r).map_err(not_the_protocol)?;
        match head.xid {
            Xid::PING | SET_WATCHES => {}
            Xid::AUTH if head.err == 0 => {}
            Xid::AUTH => {
                self.lock().state = State::AuthFailed;
                self.screen.event(&session_event("AuthFailed"));
                self.changed.notify_all();
            }
            Xid::NOTIFICATION => self.event(&mut r, head.zxid).map_err(not_the_protocol)?,
            xid => {
                let mut inner = self.lock();
                inner.last_zxid = inner.last_zxid.max(head.zxid);
                let Some(waiting) = inner.pending.pop_front().filter(|p| p.xid == xid.0) else {
                    let text = format!("a reply to request {} which is not the next", xid.0);
                    return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                };
                match waiting.watch {
                    Some((kind, path)) if head.err == 0 => inner.watches.add(kind, &path),
                    // exists of a znode that does not exist yet.
                    Some((Kind::Data, path)) if head.err == Code::NoNode.wire() && !path.is_empty() => {
                        inner.watches.add(Kind::Exist, &path);
                    }
                    _ => {}
                }
                drop(inner);
                let reply = Reply { err: head.err, body: r.rest().to_vec(), why: None };
                // Nobody waits any more for the reply to an abandoned request.
                let _ = waiting.reply.try_send(reply);
            }
        }
        Ok(())
    }

    fn event(&self, r: &mut Reader<'_>, zxid: i64) -> Result<(), DecodeError> {
        let offset = r.offset();
        let (kind, name) = match r.i32()? {
            1 => (EventType::NodeCreated, "NodeCreated"),
            2 => (EventType::NodeDeleted, "NodeDeleted"),
            3 => (EventType::NodeDataChanged, "NodeDataChanged"),
            4 => (EventType::NodeChildrenChanged, "NodeChildrenChanged"),
            found => return Err(DecodeError::Value { offset, found: found.into() }),
        };
        r.i32()?; // SyncConnected, the only state that a server sends.
        let path = self.client_path(&string(r)?);
        if self.lock().watches.fire(kind, &path) {
            self.screen.event(&Event { state: "SyncConnected", kind: name, path: Some(path), zxid });
        }
        Ok(())
    }

    /// After a connection: all calls under way fail.
    fn disconnected(&self, why: Option<String>) {
        let mut inner = self.lock();
        inner.stream = None;
        let was = inner.state;
        if was.is_alive() {
            inner.state = State::Connecting;
            inner.why.clone_from(&why);
        }
        let code = match was {
            State::AuthFailed => Code::AuthFailed.wire(),
            State::Closed => Code::SessionExpired.wire(),
            _ => local_code::CONNECTION_LOSS,
        };
        for waiting in std::mem::take(&mut inner.pending) {
            // Nobody waits any more for the reply to an abandoned request.
            let _ = waiting.reply.try_send(Reply { err: code, body: Vec::new(), why: why.clone() });
        }
        drop(inner);
        if was.is_connected() {
            self.screen.event(&session_event("Disconnected"));
        }
        self.changed.notify_all();
    }
}

fn session_event(state: &'static str) -> Event {
    Event { state, kind: "None", path: None, zxid: -1 }
}

/// An I/O error in words that lead somewhere.
fn reason(e: &io::Error) -> String {
    match e.kind() {
        io::ErrorKind::ConnectionRefused => {
            "connection refused: is a server running there? (-s HOST:PORT names another)".into()
        }
        io::ErrorKind::UnexpectedEof => {
            "the server closed the connection; it may have no leader, be starting, be at its limit of connections per \
             address (maxClientCnxns in its zoo.cfg), or not have seen what this session has seen: falconer status tells"
                .into()
        }
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => format!("no answer in time ({e})"),
        _ => e.to_string(),
    }
}

fn not_the_protocol(e: DecodeError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("this is not the ZooKeeper protocol: {e}"))
}

fn auth_frame(scheme: &str, credential: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let at = begin_frame(&mut frame);
    frame.put_i32(Xid::AUTH.0);
    frame.put_i32(OpCode::Auth.wire());
    frame.put_i32(0);
    frame.put_str(scheme);
    frame.put_buffer(Some(credential));
    end_frame(&mut frame, at);
    frame
}

/// The watches of a session that comes back, in frames of bounded size.
fn put_watches(out: &mut Vec<u8>, watches: &Watches, last_zxid: i64, chroot: &str) {
    let sets = [&watches.data, &watches.exist, &watches.child, &watches.persistent, &watches.recursive];
    let all: Vec<(usize, String)> = sets
        .iter()
        .enumerate()
        .flat_map(|(i, set)| set.iter().map(move |p| (i, p)))
        .map(|(i, path)| match path.as_str() {
            "/" if !chroot.is_empty() => (i, chroot.to_owned()),
            "/zookeeper/config" => (i, path.clone()),
            path => (i, format!("{chroot}{path}")),
        })
        .collect();
    let mut rest = all.as_slice();
    while !rest.is_empty() {
        let mut bytes = 0;
        let n = rest.iter().take_while(|(_, p)| {
            let fits = bytes == 0 || bytes + p.len() <= SET_WATCHES_BYTES;
            bytes += p.len() + 4;
            fits
        });
        let (part, later) = rest.split_at(n.count());
        rest = later;
        let at = begin_frame(out);
        out.put_i32(SET_WATCHES.0);
        out.put_i32(OpCode::SetWatches2.wire());
        out.put_i64(last_zxid);
        for set in 0..sets.len() {
            let paths: Vec<_> = part.iter().filter(|(i, _)| *i == set).collect();
            out.put_count(paths.len());
            paths.iter().for_each(|(_, p)| out.put_str(p));
        }
        end_frame(out, at);
    }
}

/// The first frame in the bytes read so far, if it is there as a whole.
fn whole_frame(bytes: &[u8]) -> io::Result<Option<&[u8]>> {
    let Some((len, rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
    let len = frame_len(*len)?;
    Ok(rest.get(..len))
}

fn read_frame(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut len = [0; 4];
    stream.read_exact(&mut len)?;
    let mut frame = vec![0; frame_len(len)?];
    stream.read_exact(&mut frame)?;
    Ok(frame)
}

fn frame_len(bytes: [u8; 4]) -> io::Result<usize> {
    let len = u32::from_be_bytes(bytes) as usize;
    if len > REPLY_MAX {
        let text = format!("this is not the ZooKeeper protocol: a frame of {len} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(len)
}

fn string(r: &mut Reader<'_>) -> Result<String, DecodeError> {
    Ok(r.string()?.unwrap_or_default().into_owned())
}

fn strings(r: &mut Reader<'_>) -> Result<Vec<String>, DecodeError> {
    Ok(r.strings()?.unwrap_or_default().into_iter().map(std::borrow::Cow::into_owned).collect())
}

fn data_and_stat(r: &mut Reader<'_>) -> Result<(Option<Vec<u8>>, Stat), DecodeError> {
    Ok((r.buffer()?.map(<[u8]>::to_vec), Stat::decode(r)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::client::ReadOp;

    #[test]
    fn the_watches_of_a_session_that_comes_back_are_set_again_below_the_chroot_in_frames_of_bounded_size() {
        let mut w = Watches::default();
        w.add(Kind::Child, "/");
        w.add(Kind::Data, "/zookeeper/config");
        for i in 0..3000 {
            w.add(Kind::Persistent, &format!("/{i:0100}"));
        }
        let mut out = Vec::new();
        put_watches(&mut out, &w, 77, "/c");
        let (mut frames, mut paths) = (0, 0);
        let mut rest = out.as_slice();
        while let Some(frame) = whole_frame(rest).unwrap() {
            rest = &rest[4 + frame.len()..];
            assert!(frame.len() < SET_WATCHES_BYTES + 4096, "{}", frame.len());
            let op = ReadOp::decode(OpCode::SetWatches2, &mut Reader::new(&frame[8..])).unwrap().unwrap();
            let ReadOp::SetWatches(s) = op else { panic!("{op:?}") };
            assert_eq!(s.relative_zxid, 77);
            if frames == 0 {
                assert_eq!((s.child, s.data), (vec!["/c".into()], vec!["/zookeeper/config".into()]));
            }
            paths += s.persistent.iter().filter(|p| p.starts_with("/c/0")).count();
            frames += 1;
        }
        assert!(rest.is_empty() && frames > 1);
        assert_eq!(paths, 3000);
    }

    #[test]
    fn frames_wait_for_their_end_and_absurd_ones_are_refused() {
        assert_eq!(whole_frame(&[0, 0, 0, 2, 1]).unwrap(), None);
        assert_eq!(whole_frame(&[0, 0, 0, 2, 1, 2, 3]).unwrap(), Some(&[1, 2][..]));
        assert_eq!(whole_frame(&[0, 0]).unwrap(), None);
        assert!(whole_frame(b"HTTP/1.1 400").is_err());
    }
}
