//! The thread that owns the sockets of the election port and of the quorum port: it reads them, and hands on what they say.

use super::dial::Purpose;
use super::election::Called;
use super::link::Link;
use super::{Message, Peers, PeersConfig, jobs};
use crate::core::Core;
use crate::limits;
use crate::outlet::Outlet;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use proto::jute::Reader;
use proto::peer::{FromLeader, FromLearner, InitialMessage, Notification, Packet, frame_len, packet_len};
use proto::{LinkId, ServerId};
use std::collections::{HashMap, HashSet};
use std::io::{ErrorKind, Read};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const WAKER: Token = Token(0);
const ELECTION: Token = Token(1);
const QUORUM: Token = Token(2);
const FIRST: usize = 3;

/// How often strangers are told of.
const STRANGER_SAID: Duration = Duration::from_secs(1);

/// How often callers that say nothing are looked for.
const SWEEP: Duration = Duration::from_millis(500);

/// The thread before it runs.
pub struct Net {
    poll: Poll,
    peers: Arc<Peers>,
    election: TcpListener,
    quorum: TcpListener,
    sockets: HashMap<usize, Socket>,
    links: HashMap<LinkId, usize>,
    next_token: usize,
    /// Sockets that may hold more than was read.
    hungry: Vec<usize>,
    /// Sockets whose other side has ended, or that are broken: they are read to their end.
    ended: HashSet<usize>,
    scratch: Vec<u8>,
    next_sweep: Instant,
    /// When a stranger was told of last.
    stranger_said: Instant,
}

enum Socket {
    /// Somebody on the election port who has not said who it is.
    Caller { outlet: Arc<Outlet>, input: Vec<u8>, since: Instant },
    /// The connection to another server's election port.
    Election { from: ServerId, outlet: Arc<Outlet>, input: Vec<u8> },
    /// A connection of the quorum port. `lent`: its bytes belong to a snapshot, which another thread reads, or will.
    Link { link: Arc<Link>, input: Vec<u8>, lent: bool },
}

/// What became of a socket after its bytes were looked at.
#[derive(PartialEq, Eq)]
enum After {
    Keep,
    Drop,
}

impl Net {
    /// The thread and what the others see of it. The listeners are bound.
    pub fn new(
        config: PeersConfig,
        election: std::net::TcpListener,
        quorum: std::net::TcpListener,
    ) -> std::io::Result<(Net, Arc<Peers>)> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        let [mut election, mut quorum] = [election, quorum].map(TcpListener::from_std);
        poll.registry().register(&mut election, ELECTION, Interest::READABLE)?;
        poll.registry().register(&mut quorum, QUORUM, Interest::READABLE)?;
        let peers = Arc::new(Peers::new(config, waker));
        let net = Net {
            poll,
            peers: peers.clone(),
            election,
            quorum,
            sockets: HashMap::new(),
            links: HashMap::new(),
            next_token: FIRST,
            hungry: Vec::new(),
            ended: HashSet::new(),
            scratch: vec![0; limits::READ_CHUNK],
            next_sweep: Instant::now() + SWEEP,
            stranger_said: Instant::now(),
        };
        Ok((net, peers))
    }

    /// Runs until it is told to stop.
    pub fn run(mut self, core: &Arc<Core>) {
        core.stats.claim();
        let mut events = Events::with_capacity(256);
        loop {
            let wait = if self.hungry.is_empty() {
                self.next_sweep.saturating_duration_since(Instant::now())
            } else {
                Duration::ZERO
            };
            match self.poll.poll(&mut events, Some(wait)) {
                Ok(()) => {}
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => panic!("the sockets of the peers can't be watched: {e}"),
            }
            let mut mail = false;
            for event in &events {
                match event.token() {
                    WAKER => mail = true,
                    ELECTION => self.accept(core, false),
                    QUORUM => self.accept(core, true),
                    Token(token) => {
                        if event.is_writable() {
                            self.writable(token);
                        }
                        if event.is_read_closed() || event.is_error() {
                            self.ended.insert(token);
                        }
                        if event.is_readable() || event.is_read_closed() || event.is_error() {
                            self.hungry.push(token);
                        }
                    }
                }
            }
            if mail && !self.read_mail(core) {
                return;
            }
            self.feed(core);
            let done = core.pump();
            core.log.write_inline(core, done && self.hungry.is_empty());
            if Instant::now() >= self.next_sweep {
                self.sweep();
            }
        }
    }

    fn writable(&mut self, token: usize) {
        match self.sockets.get(&token) {
            Some(Socket::Election { from, .. }) => self.peers.election.lock().writable(*from),
            Some(Socket::Link { link, .. }) => {
                link.on_writable();
            }
            Some(Socket::Caller { .. }) | None => {}
        }
    }

    /// Returns whether the thread goes on.
    fn read_mail(&mut self, core: &Arc<Core>) -> bool {
        self.peers.notified.store(false, Ordering::SeqCst);
        let mail = std::mem::take(&mut *self.peers.mailbox.lock());
        for message in mail {
            match message {
                Message::Stop => return false,
                Message::Dialled(dialled) => match (dialled.purpose, dialled.result) {
                    (Purpose::Election(to), Ok((stream, peer))) => {
                        self.called_election(core, to, stream, peer)
                    }
                    (Purpose::Election(to), Err(_)) => {
                        self.peers.election.lock().dial_failed(to);
                        tell_election(core, to, false);
                    }
                    (Purpose::Quorum(to), Ok((stream, peer))) => {
                        if !self.adopt_link(core, stream, peer, Some(to)) {
                            core.submit_dial_failed(to);
                        }
                    }
                    (Purpose::Quorum(to), Err(e)) => {
                        tracing::info!(server = %to, "the quorum port can't be reached: {e}");
                        core.submit_dial_failed(to);
                    }
                },
                Message::ReceiveSnapshot { link, zxid, falconer, applier } => {
                    let socket = self.links.get(&link).and_then(|token| self.sockets.get_mut(token));
                    match socket {
                        Some(Socket::Link { link, input, lent }) => {
                            *lent = true;
                            let ahead = std::mem::take(input);
                            jobs::receive_snapshot(
                                core.clone(),
                                link.clone(),
                                (zxid, falconer),
                                applier,
                                ahead,
                            );
                        }
                        _ => core.submit_snapshot_received(link, *applier, false),
                    }
                }
                Message::Received(id, behind) => {
                    let Some(&token) = self.links.get(&id) else { continue };
                    match (self.sockets.get_mut(&token), behind) {
                        (Some(Socket::Link { input, lent, .. }), Some(behind)) => {
                            *input = behind;
                            *lent = false;
                            self.hungry.push(token);
                        }
                        _ => self.drop_socket(core, token),
                    }
                }
            }
        }
        true
    }

    /// Registers a connection; `None` when it can't be watched, which ends it.
    fn register(
        &mut self,
        stream: std::net::TcpStream,
        make: impl FnOnce(usize, TcpStream) -> Socket,
    ) -> Option<usize> {
        // Packets are written whole; the kernel should not hold them back.
        let _ = stream.set_nodelay(true);
        if self.peers.config.keep_alive {
            // A connection without it still serves: pings find dead peers too.
            let _ = socket2::SockRef::from(&stream).set_keepalive(true);
        }
        if let Err(e) = stream.set_nonblocking(true) {
            tracing::warn!("a connection of a peer can't be used: {e}");
            return None;
        }
        let mut stream = TcpStream::from_std(stream);
        let token = self.next_token;
        self.next_token += 1;
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(e) = self.poll.registry().register(&mut stream, Token(token), interest) {
            tracing::warn!("a connection of a peer can't be watched: {e}");
            return None;
        }
        self.sockets.insert(token, make(token, stream));
        self.hungry.push(token);
        Some(token)
    }

    fn accept(&mut self, core: &Arc<Core>, quorum: bool) {
        loop {
            let listener = if quorum { &self.quorum } else { &self.election };
            match listener.accept() {
                Ok((stream, peer)) => {
                    // Ours are few: what goes beyond is somebody who does not belong here.
                    if self.sockets.len() >= limits::PEER_SOCKETS_MAX {
                        tracing::warn!(%peer, "a connection to a peer port is refused: there are too many");
                        continue;
                    }
                    let stream = std::net::TcpStream::from(stream);
                    if quorum {
                        self.adopt_link(core, stream, peer, None);
                    } else {
                        let since = Instant::now();
                        self.register(stream, |_, stream| Socket::Caller {
                            outlet: Arc::new(Outlet::new(stream, peer, limits::ELECTION_UNSENT_MAX)),
                            input: Vec::new(),
                            since,
                        });
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) if matches!(e.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
                Err(e) => {
                    // Out of descriptors, most likely; the sweep arms the listener again.
                    tracing::warn!("a connection to a peer port could not be accepted: {e}");
                    return;
                }
            }
        }
    }

    fn adopt_link(
        &mut self,
        core: &Core,
        stream: std::net::TcpStream,
        peer: SocketAddr,
        dialled: Option<ServerId>,
    ) -> bool {
        let id = LinkId(self.peers.next_link.fetch_add(1, Ordering::Relaxed));
        let mut made = None;
        let token = self.register(stream, |_, stream| {
            let link = Arc::new(Link::new(id, peer, dialled, stream));
            made = Some(link.clone());
            Socket::Link { link, input: Vec::new(), lent: false }
        });
        let (Some(token), Some(link)) = (token, made) else { return false };
        self.links.insert(id, token);
        self.peers.links.lock().insert(id, link);
        core.submit_link_up(id, dialled);
        true
    }

    /// A dial of the election port of `to` is connected.
    fn called_election(&mut self, core: &Core, to: ServerId, stream: std::net::TcpStream, peer: SocketAddr) {
        let mut made = None;
        let token = self.register(stream, |_, stream| {
            let outlet = Arc::new(Outlet::new(stream, peer, limits::ELECTION_UNSENT_MAX));
            made = Some(outlet.clone());
            Socket::Election { from: to, outlet, input: Vec::new() }
        });
        let peers = self.peers.clone();
        let mut election = peers.election.lock();
        let (Some(token), Some(outlet)) = (token, made) else { return election.dial_failed(to) };
        // In one write: Apache's servers read the addresses with one read.
        let hello = election.hello();
        outlet.append_with(&mut |out| out.extend_from_slice(&hello));
        outlet.flush();
        match election.dialled(to, token, &outlet) {
            Some(old) => {
                drop(election);
                self.forget(old);
                tell_election(core, to, true);
            }
            None => {
                // The other side calls back: this one ends when it has heard who we are.
                drop(election);
                outlet.close_when_flushed();
                outlet.flush();
                self.sockets.remove(&token);
            }
        }
    }

    /// A socket that was replaced or cut: nobody hears of its end.
    fn forget(&mut self, token: Option<usize>) {
        if let Some(token) = token {
            self.sockets.remove(&token);
        }
    }

    /// Reads every socket that may have something.
    fn feed(&mut self, core: &Arc<Core>) {
        for token in std::mem::take(&mut self.hungry) {
            let Some(socket) = self.sockets.get_mut(&token) else { continue };
            if let Socket::Link { link, lent: true, .. } = socket {
                link.on_readable();
                // Whoever reads finds the end by itself; a link that nobody reads yet keeps its bytes.
                continue;
            }
            let read = match socket {
                Socket::Caller { outlet, .. } | Socket::Election { outlet, .. } => {
                    outlet.stream().read(&mut self.scratch)
                }
                Socket::Link { link, .. } => link.stream().read(&mut self.scratch),
            };
            let n = match read {
                Ok(0) => {
                    self.drop_socket(core, token);
                    continue;
                }
                Ok(n) => n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => 0,
                Err(e) if e.kind() == ErrorKind::Interrupted => {
                    self.hungry.push(token);
                    continue;
                }
                Err(_) => {
                    self.drop_socket(core, token);
                    continue;
                }
            };
            // The buffer was not filled: the socket is empty, and says so when more comes. Only a thread that has nothing left
            // to read writes the log itself.
            if n == self.scratch.len() || n > 0 && self.ended.contains(&token) {
                self.hungry.push(token);
            }
            if self.run_input(core, token, n) == After::Drop {
                self.drop_socket(core, token);
            }
        }
        self.hungry.sort_unstable();
        self.hungry.dedup();
    }

    /// Takes the first `n` bytes of the scratch as what has come from a socket.
    fn run_input(&mut self, core: &Core, token: usize, n: usize) -> After {
        let Some(socket) = self.sockets.get_mut(&token) else { return After::Keep };
        match socket {
            Socket::Caller { outlet, input, .. } => {
                input.extend_from_slice(&self.scratch[..n]);
                match InitialMessage::decode(input) {
                    Ok(None) => After::Keep,
                    Ok(Some((message, used))) => {
                        let outlet = outlet.clone();
                        let rest = input.split_off(used);
                        self.introduce(core, token, outlet, message, rest)
                    }
                    Err(e) => {
                        tracing::debug!("a caller of the election port is no server: {e}");
                        After::Drop
                    }
                }
            }
            Socket::Election { from, input, .. } => {
                input.extend_from_slice(&self.scratch[..n]);
                let from = *from;
                run_frames(core, from, input)
            }
            Socket::Link { link, input, lent } => {
                input.extend_from_slice(&self.scratch[..n]);
                run_packets(core, link, input, lent, self.peers.config.packet_max)
            }
        }
    }

    /// A caller has said who it is.
    fn introduce(
        &mut self,
        core: &Core,
        token: usize,
        outlet: Arc<Outlet>,
        message: InitialMessage,
        rest: Vec<u8>,
    ) -> After {
        let from = message.server;
        let called = self.peers.election.lock().called(from, message.addresses, token, &outlet);
        match called {
            None => {
                // One word a second is enough: a scanner calls often.
                if self.stranger_said.elapsed() > STRANGER_SAID {
                    self.stranger_said = Instant::now();
                    tracing::warn!(server = %from, "a caller of the election port is not configured, or claims to be this server");
                }
                After::Drop
            }
            Some(Called::Keep(old)) => {
                self.forget(old);
                self.sockets.insert(token, Socket::Election { from, outlet, input: rest });
                tell_election(core, from, true);
                self.run_input(core, token, 0)
            }
            Some(Called::Close(old, action)) => {
                if old.is_some() {
                    tell_election(core, from, false);
                }
                self.forget(old);
                self.peers.act(action);
                After::Drop
            }
        }
    }

    fn drop_socket(&mut self, core: &Core, token: usize) {
        match self.sockets.remove(&token) {
            None => {}
            Some(Socket::Caller { outlet, .. }) => outlet.cut(),
            Some(Socket::Election { from, outlet, .. }) => {
                outlet.cut();
                if self.peers.election.lock().closed(from, token) {
                    tell_election(core, from, false);
                }
            }
            Some(Socket::Link { link, .. }) => {
                link.cut();
                self.links.remove(&link.id);
                if self.peers.links.lock().remove(&link.id).is_some() {
                    core.submit_link_down(link.id);
                }
            }
        }
    }

    /// Ends callers that never say who they are, and arms the listeners again after they ran out of descriptors.
    fn sweep(&mut self) {
        let now = Instant::now();
        self.next_sweep = now + SWEEP;
        self.ended.retain(|token| self.sockets.contains_key(token));
        let patience = self.peers.config.hello_timeout;
        self.sockets.retain(|_, socket| match socket {
            Socket::Caller { outlet, since, .. } if now.duration_since(*since) > patience => {
                outlet.cut();
                false
            }
            _ => true,
        });
        for (listener, token) in [(&mut self.election, ELECTION), (&mut self.quorum, QUORUM)] {
            if let Err(e) = self.poll.registry().reregister(listener, token, Interest::READABLE) {
                panic!("a peer port can't be watched any more: {e}");
            }
        }
    }
}

fn tell_election(core: &Core, peer: ServerId, up: bool) {
    tracing::debug!(server = %peer, up, "election connection");
    core.submit_election_link(peer, up);
}

/// Hands on the whole notifications in `input`.
fn run_frames(core: &Core, from: ServerId, input: &mut Vec<u8>) -> After {
    let mut at = 0;
    while let Some(head) = input[at..].first_chunk() {
        let len = match frame_len(*head) {
            Ok(len) => len,
            Err(e) => {
                tracing::warn!(server = %from, "the stream of notifications is broken: {e}");
                return After::Drop;
            }
        };
        let Some(payload) = input.get(at + 4..at + 4 + len) else { break };
        match Notification::decode(payload) {
            Ok(Some(_)) => core.submit_notification(from, payload),
            Ok(None) => tracing::debug!(server = %from, "a notification of an unknown state is ignored"),
            Err(e) => tracing::warn!(server = %from, "a notification is skipped: {e}"),
        }
        at += 4 + len;
    }
    input.drain(..at);
    After::Keep
}

/// Notes who the other end says to be.
fn introduce(core: &Core, link: &Link, packet: &FromLearner<'_>) {
    if let FromLearner::Info { info, .. } = packet
        && let Some(server) = info.server
        && link.learner.set(server).is_ok()
        && let Some(peers) = core.peers()
    {
        peers.acks.begins(server);
        if let Some(waited) = peers.learners.of(server) {
            // Set once, as the id is.
            let _ = link.waited.set(waited);
        }
    }
}

/// Hands on the whole packets in `input`, up to a SNAP: what follows it is no packet.
fn run_packets(core: &Core, link: &Arc<Link>, input: &mut Vec<u8>, lent: &mut bool, max: usize) -> After {
    let mut at = 0;
    let after = loop {
        let rest = &input[at..];
        let whole = packet_len(rest, max).map(|len| len.map(|len| &rest[..len]));
        let bytes = match whole {
            Ok(None) => break After::Keep,
            Ok(Some(bytes)) => bytes,
            Err(e) => {
                tracing::warn!(peer = %link.peer, "the stream of packets is broken: {e}");
                break After::Drop;
            }
        };
        let packet =
            Packet::read(&mut Reader::with_max_len(bytes, max)).expect("its length was found just now");
        let from_leader = link.dialled.is_some();
        let understood = if from_leader {
            FromLeader::parse(&packet).map(drop)
        } else {
            FromLearner::parse(&packet).map(|packet| introduce(core, link, &packet))
        };
        if let Err(e) = understood {
            tracing::warn!(peer = %link.peer, "closing: {e}");
            break After::Drop;
        }
        link.counts.received.fetch_add(1, Ordering::Relaxed);
        if !from_leader && packet.kind == proto::peer::kind::REQUEST {
            link.counts.requests.fetch_add(1, Ordering::Relaxed);
        }
        core.submit_packet(link.id, from_leader, bytes);
        at += bytes.len();
        if from_leader && packet.kind == proto::peer::kind::SNAP {
            *lent = true;
            break After::Keep;
        }
    };
    input.drain(..at);
    if input.is_empty() && input.capacity() > limits::OUTBOX_KEEP {
        *input = Vec::new();
    }
    after
}
