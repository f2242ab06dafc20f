//! The connections of the election port: at most one to each other server, and which of two survives (quorum
//! protocol, section 2).
//!
//! | who | rule |
//! |---|---|
//! | dialled, the other id is larger | say who we are and close: the other one calls back |
//! | dialled, the other id is smaller | say who we are and keep it |
//! | called by a smaller id | close it, and any other one to that server, and call back |
//! | called by a larger id | keep it, and close any other one to that server |
//!
//! A queue holds one message, the newest: older votes mean nothing. The last message that was sent is sent again when a
//! connection comes about and nothing newer waits, since nobody knows whether it arrived.

use crate::outlet::Outlet;
use proto::peer::{Address, InitialMessage};
use proto::{ServerId, jute};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long after a call that a larger id has to return the next one is made: its own dial takes as long.
const CALLED: Duration = Duration::from_millis(250);

/// What is to be done besides.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Action {
    /// Nothing.
    Nothing,
    /// Connect to the election port of `to`.
    Dial {
        /// The server.
        to: ServerId,
        /// Other addresses that it gave itself.
        also: Vec<Address>,
    },
}

/// What a call led to.
#[derive(Debug, PartialEq, Eq)]
pub enum Called {
    /// The connection is kept; the socket of the one that it replaces, if any, is to be forgotten.
    Keep(Option<usize>),
    /// It is to be closed, as is that socket; then the action.
    Close(Option<usize>, Action),
}

struct Peer {
    /// The newest notification, framed, that has not left.
    newest: Option<Vec<u8>>,
    /// The last that left.
    last: Option<Vec<u8>>,
    conn: Option<(usize, Arc<Outlet>)>,
    dialling: bool,
    /// When a larger id was last told that we look for it.
    called: Option<Instant>,
}

/// All of them.
pub struct Election {
    me: ServerId,
    own: Address,
    peers: BTreeMap<ServerId, Peer>,
}

impl Election {
    /// No connection yet. `own`: where this server can be called back.
    pub fn new(me: ServerId, own: Address, others: impl Iterator<Item = ServerId>) -> Election {
        let none = || Peer { newest: None, last: None, conn: None, dialling: false, called: None };
        Election { me, own, peers: others.map(|id| (id, none())).collect() }
    }

    /// The initial message of this server.
    pub fn hello(&self) -> Vec<u8> {
        let mut out = Vec::new();
        InitialMessage { server: self.me, addresses: vec![self.own.clone()] }.encode(&mut out);
        out
    }

    /// A notification for `to`.
    pub fn notify(&mut self, to: ServerId, payload: &[u8]) -> Action {
        let me = self.me;
        let Some(peer) = self.peers.get_mut(&to) else { return Action::Nothing };
        let mut frame = Vec::with_capacity(4 + payload.len());
        let at = jute::begin_frame(&mut frame);
        frame.extend_from_slice(payload);
        jute::end_frame(&mut frame, at);
        peer.newest = Some(frame);
        if peer.conn.is_some() {
            peer.send();
            return Action::Nothing;
        }
        peer.dial(me, to, Vec::new())
    }

    /// What was dialled is connected and knows who calls. Returns the socket that it replaces, if it is to be kept at all.
    pub fn dialled(&mut self, to: ServerId, token: usize, outlet: &Arc<Outlet>) -> Option<Option<usize>> {
        let me = self.me;
        let peer = self.peers.get_mut(&to)?;
        peer.dialling = false;
        if to > me {
            peer.called = Some(Instant::now());
            return None;
        }
        Some(peer.connect(token, outlet))
    }

    /// A dial has failed.
    pub fn dial_failed(&mut self, to: ServerId) {
        if let Some(peer) = self.peers.get_mut(&to) {
            peer.dialling = false;
        }
    }

    /// `from` has called. `None`: it is nobody that is configured, or claims to be this server.
    pub fn called(
        &mut self,
        from: ServerId,
        addresses: Vec<Address>,
        token: usize,
        outlet: &Arc<Outlet>,
    ) -> Option<Called> {
        let me = self.me;
        let peer = self.peers.get_mut(&from)?;
        if from > me {
            return Some(Called::Keep(peer.connect(token, outlet)));
        }
        // Its side of an older connection is gone, or it would not call.
        let old = peer.conn.take().map(|(token, outlet)| {
            outlet.cut();
            token
        });
        let also = addresses.into_iter().filter(|a| !a.is_wildcard()).collect();
        Some(Called::Close(old, peer.dial(me, from, also)))
    }

    /// The connection is gone. Returns whether it was the one to that server.
    pub fn closed(&mut self, to: ServerId, token: usize) -> bool {
        let Some(peer) = self.peers.get_mut(&to) else { return false };
        let was = peer.conn.as_ref().is_some_and(|(t, _)| *t == token);
        if was {
            peer.conn = None;
        }
        was
    }

    /// The socket takes bytes again.
    pub fn writable(&mut self, to: ServerId) {
        if let Some(peer) = self.peers.get_mut(&to) {
            if let Some((_, outlet)) = &peer.conn {
                outlet.on_writable();
            }
            peer.send();
        }
    }

    /// The servers that there is a connection to.
    pub fn connected(&self) -> Vec<ServerId> {
        self.peers.iter().filter(|(_, p)| p.conn.is_some()).map(|(id, _)| *id).collect()
    }

    /// The connection to a server, by its socket.
    pub fn is_current(&self, to: ServerId, token: usize) -> bool {
        self.peers.get(&to).and_then(|p| p.conn.as_ref()).is_some_and(|(t, _)| *t == token)
    }
}

impl Peer {
    fn dial(&mut self, me: ServerId, to: ServerId, also: Vec<Address>) -> Action {
        let waits = to > me && self.called.is_some_and(|at| at.elapsed() < CALLED);
        if self.dialling || waits {
            return Action::Nothing;
        }
        self.dialling = true;
        Action::Dial { to, also }
    }

    fn connect(&mut self, token: usize, outlet: &Arc<Outlet>) -> Option<usize> {
        let old = self.conn.replace((token, outlet.clone())).map(|(token, outlet)| {
            outlet.cut();
            token
        });
        self.called = None;
        if self.newest.is_none() {
            self.newest = self.last.clone();
        }
        self.send();
        old
    }

    /// Writes the newest message if the one before it has left.
    fn send(&mut self) {
        let Some((_, outlet)) = &self.conn else { return };
        if outlet.unsent() == 0
            && let Some(frame) = self.newest.take()
        {
            outlet.append_with(&mut |out| out.extend_from_slice(&frame));
            outlet.flush();
            self.last = Some(frame);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    fn pair() -> (Arc<Outlet>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (theirs, peer) = listener.accept().unwrap();
        theirs.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        ours.set_nonblocking(true).unwrap();
        (Arc::new(Outlet::new(mio::net::TcpStream::from_std(ours), peer, 1 << 20)), theirs)
    }

    fn frame(theirs: &mut TcpStream) -> Vec<u8> {
        let mut head = [0; 4];
        theirs.read_exact(&mut head).unwrap();
        let mut payload = vec![0; u32::from_be_bytes(head) as usize];
        theirs.read_exact(&mut payload).unwrap();
        payload
    }

    fn election() -> Election {
        let own = Address { host: "127.0.0.1".into(), port: 3888 };
        Election::new(ServerId(2), own, [ServerId(1), ServerId(3)].into_iter())
    }

    const SMALL: ServerId = ServerId(1);
    const LARGE: ServerId = ServerId(3);

    fn dial(to: ServerId) -> Action {
        Action::Dial { to, also: vec![] }
    }

    #[test]
    fn a_message_dials_once_and_only_the_newest_is_sent() {
        let mut e = election();
        assert_eq!(e.notify(SMALL, b"one"), dial(SMALL));
        assert_eq!(e.notify(SMALL, b"two"), Action::Nothing);
        let (outlet, mut theirs) = pair();
        assert_eq!(e.dialled(SMALL, 7, &outlet), Some(None));
        assert_eq!(frame(&mut theirs), b"two");
        assert_eq!(e.notify(SMALL, b"three"), Action::Nothing);
        assert_eq!(frame(&mut theirs), b"three");
        assert_eq!(e.notify(ServerId(9), b"x"), Action::Nothing, "nobody is configured as 9");
    }

    #[test]
    fn the_last_message_is_sent_again_on_a_new_connection() {
        let mut e = election();
        assert_eq!(e.notify(SMALL, b"vote"), dial(SMALL));
        let (outlet, mut theirs) = pair();
        assert_eq!(e.dialled(SMALL, 7, &outlet), Some(None));
        assert_eq!(frame(&mut theirs), b"vote");
        assert!(e.closed(SMALL, 7) && !e.closed(SMALL, 7));
        let (outlet, mut theirs) = pair();
        assert_eq!(e.dialled(SMALL, 8, &outlet), Some(None));
        assert_eq!(frame(&mut theirs), b"vote");
    }

    #[test]
    fn the_larger_id_calls_back_and_is_not_called_twice_meanwhile() {
        let mut e = election();
        assert_eq!(e.notify(LARGE, b"vote"), dial(LARGE));
        let (outlet, _theirs) = pair();
        assert_eq!(e.dialled(LARGE, 7, &outlet), None, "not ours to keep");
        assert_eq!(e.notify(LARGE, b"newer"), Action::Nothing);
        let (outlet, mut theirs) = pair();
        assert_eq!(e.called(LARGE, vec![], 8, &outlet), Some(Called::Keep(None)));
        assert_eq!(frame(&mut theirs), b"newer");
        // It calls again: its side of the first one is gone.
        let (again, mut theirs) = pair();
        assert_eq!(e.called(LARGE, vec![], 9, &again), Some(Called::Keep(Some(8))));
        assert!(outlet.is_cut() && e.is_current(LARGE, 9) && !e.is_current(LARGE, 8));
        assert_eq!(frame(&mut theirs), b"newer");
    }

    #[test]
    fn a_smaller_id_is_called_back_at_the_addresses_it_gave() {
        let mut e = election();
        let (outlet, _theirs) = pair();
        let given: Vec<_> = ["0.0.0.0:1", "h:2"].iter().map(|a| Address::parse(a).unwrap()).collect();
        let also = vec![given[1].clone()];
        let back = Action::Dial { to: SMALL, also };
        assert_eq!(e.called(SMALL, given.clone(), 7, &outlet), Some(Called::Close(None, back)));
        // While that is under way, another call changes nothing.
        assert_eq!(e.called(SMALL, given, 8, &outlet), Some(Called::Close(None, Action::Nothing)));
        let (outlet, _theirs) = pair();
        assert_eq!(e.dialled(SMALL, 9, &outlet), Some(None));
        // It calls although there is a connection: that one is gone on its side.
        let (other, _theirs) = pair();
        assert_eq!(e.called(SMALL, vec![], 10, &other), Some(Called::Close(Some(9), dial(SMALL))));
        assert!(outlet.is_cut());
    }

    #[test]
    fn strangers_and_twins_are_not_talked_to() {
        let mut e = election();
        let (outlet, _theirs) = pair();
        for stranger in [2, 9, i64::MAX, i64::MIN] {
            assert_eq!(e.called(ServerId(stranger), vec![], 7, &outlet), None, "{stranger}");
        }
    }

    #[test]
    fn a_failed_dial_is_tried_again_with_the_next_message() {
        let mut e = election();
        assert_eq!(e.notify(SMALL, b"vote"), dial(SMALL));
        e.dial_failed(SMALL);
        assert_eq!(e.notify(SMALL, b"vote"), dial(SMALL));
    }

    #[test]
    fn the_hello_is_what_apache_expects() {
        let hello = election().hello();
        let (message, used) = InitialMessage::decode(&hello).unwrap().unwrap();
        assert_eq!((message.server, used), (ServerId(2), hello.len()));
        assert_eq!(message.addresses[0].to_string(), "127.0.0.1:3888");
    }
}
