//! What clients did and saw, in the order of virtual time.

use crate::op::Op;
use crate::time::Time;

/// A request, and its reply if one came.
#[derive(Clone, Debug)]
pub struct Call {
    /// Who asked.
    pub client: usize,
    /// The server that was asked.
    pub server: usize,
    /// Its session.
    pub session: i64,
    /// Its number of the request.
    pub xid: i32,
    /// What it asked for.
    pub op: Op,
    /// It was sent to a server that had said that it is read-only.
    pub read_only: bool,
    /// When it was sent.
    pub sent: Time,
    /// The highest zxid of a write that any client had been told of when this was sent.
    pub known: i64,
    /// The reply.
    pub reply: Option<Reply>,
}

/// A reply as it arrived.
#[derive(Clone, Debug)]
pub struct Reply {
    /// When it arrived.
    pub at: Time,
    /// Its zxid.
    pub zxid: i64,
    /// 0 or an error code.
    pub err: i32,
    /// Everything behind the head.
    pub body: Vec<u8>,
}

/// What one client saw, in order.
#[derive(Clone, Debug)]
pub enum Seen {
    /// A handshake succeeded: the client is connected with this session.
    Connected {
        /// The session.
        session: i64,
        /// Its time-out, ms.
        timeout_ms: i32,
        /// When.
        at: Time,
        /// Resumed rather than opened.
        resumed: bool,
        /// By a server that is read-only.
        read_only: bool,
    },
    /// The session was said to be gone.
    Refused {
        /// Which.
        session: i64,
        /// When.
        at: Time,
        /// By a server that is read-only.
        read_only: bool,
    },
    /// The reply to the call of this index arrived.
    Reply(usize),
    /// A watch event arrived.
    Event {
        /// The zxid of the change, −1 in the catch-up of setWatches.
        zxid: i64,
        /// The number of the event.
        kind: i32,
        /// Where.
        path: String,
    },
    /// The connection is gone.
    Gone,
}

/// Who asks whom.
#[derive(Clone, Copy, Debug)]
pub struct Asker {
    /// The client.
    pub client: usize,
    /// The server that is asked.
    pub server: usize,
    /// The client's session.
    pub session: i64,
    /// The server has said that it is read-only.
    pub read_only: bool,
}

/// Everything.
#[derive(Debug, Default)]
pub struct History {
    /// All requests, in the order in which they were sent.
    pub calls: Vec<Call>,
    /// By client.
    pub seen: Vec<Vec<Seen>>,
    /// The highest zxid of an acknowledged write.
    pub known: i64,
    /// When servers stood still.
    pub still: Vec<Still>,
}

/// A server stood still.
#[derive(Clone, Copy, Debug)]
pub struct Still {
    /// Which.
    pub server: usize,
    /// From then on.
    pub from: Time,
    /// Until then.
    pub to: Time,
}

impl History {
    /// A history of `clients`.
    pub fn new(clients: usize) -> History {
        History { calls: Vec::new(), seen: vec![Vec::new(); clients], known: 0, still: Vec::new() }
    }

    /// A request is sent to a server. Returns its index.
    pub fn send(&mut self, asker: Asker, xid: i32, op: Op, sent: Time) -> usize {
        let Asker { client, server, session, read_only } = asker;
        let known = self.known;
        self.calls.push(Call { client, server, session, read_only, xid, op, sent, known, reply: None });
        self.calls.len() - 1
    }

    /// A server stands still; what was to come of a time before is over.
    pub fn stand_still(&mut self, still: Still) {
        for before in self.still.iter_mut().filter(|s| s.server == still.server) {
            before.to = before.to.min(still.from);
        }
        self.still.push(still);
    }

    /// The time that lies `ns` before `at`, of the time in which the server did not stand still.
    pub fn awake_before(&self, server: usize, at: Time, ns: Time) -> Time {
        let (mut at, mut left) = (at, ns);
        for still in self.still.iter().rev().filter(|s| s.server == server) {
            if still.from >= at {
                continue;
            }
            let awake = at.saturating_sub(still.to);
            if awake >= left {
                break;
            }
            (at, left) = (still.from, left - awake);
        }
        at.saturating_sub(left)
    }

    /// The reply to call `index` arrives.
    pub fn reply(&mut self, index: usize, reply: Reply) {
        let call = &mut self.calls[index];
        if call.op.is_write() && reply.zxid > self.known {
            self.known = reply.zxid;
        }
        self.seen[call.client].push(Seen::Reply(index));
        call.reply = Some(reply);
    }
}
