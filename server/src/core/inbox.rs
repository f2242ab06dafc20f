//! What waits for the node, in the order in which it came; only what the log has made durable overtakes.

use engine::Identity;
use node::Input;
use proto::client::{ConnectRequest, OpCode};
use proto::jute::Reader;
use proto::peer::{FromLeader, FromLearner, Notification, Packet};
use proto::{ConnId, Durable, DurableEpochs, Instant, LinkId, ServerId, SessionId, Xid};
use std::collections::VecDeque;
use std::sync::Arc;

/// What waits for the node.
#[derive(Default)]
pub(super) struct Inbox {
    /// What the log has made durable since the node was told last. It overtakes everything else: replies wait for it.
    pub(super) durable: Option<Durable>,
    pub(super) items: VecDeque<Item>,
    /// Bodies of the writes, one after the other.
    pub(super) bytes: Vec<u8>,
    /// Who asks for the writes: each once as long as the same one goes on asking, so that references are hardly ever
    /// counted.
    pub(super) identities: Vec<Arc<Identity>>,
}

impl Inbox {
    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty() && self.durable.is_none()
    }

    /// The place of `identity` in [`Inbox::identities`]; it stays as long as an item is left here.
    pub(super) fn place_of(&mut self, identity: &Arc<Identity>) -> usize {
        if self.identities.last().is_none_or(|last| !Arc::ptr_eq(last, identity)) {
            self.identities.push(identity.clone());
        }
        self.identities.len() - 1
    }

    /// Whether the wish to hand leadership over waits here.
    pub(super) fn has_hand_over(&self) -> bool {
        self.items.iter().any(|item| matches!(item, Item::Peer(Some(Input::HandOver))))
    }

    /// Drops what belonged to items that are all gone; before [`Inbox::refill`], which is done under a lock.
    pub(super) fn tidy(&mut self) {
        if self.items.is_empty() {
            self.bytes.clear();
            self.identities.clear();
        }
    }

    /// Takes what is durable out of `inbox`, and everything else once this one is empty. Returns how many items came.
    pub(super) fn refill(&mut self, inbox: &mut Inbox) -> usize {
        if self.items.is_empty() {
            self.tidy();
            std::mem::swap(inbox, self);
            return self.items.len();
        }
        if let Some(durable) = inbox.durable.take() {
            self.durable = Some(durable);
        }
        0
    }

    /// Another node takes the place of the one that this was for; `rest` was taken out before and stands in front. Who came and
    /// who went stays.
    pub(super) fn start_over(&mut self, rest: &mut Inbox) {
        let mut items = std::mem::take(rest).items;
        items.append(&mut self.items);
        items.retain(|item| matches!(item, Item::Connect { .. } | Item::Disconnected { .. }));
        *self = Inbox { items, ..Inbox::default() };
    }
}

/// What the node is stepped with, without what it borrows.
pub(super) enum Item {
    Connect {
        conn: ConnId,
        request: OwnedConnect,
    },
    Write {
        conn: ConnId,
        session: SessionId,
        xid: Xid,
        /// A place in [`Inbox::identities`].
        identity: usize,
        op: OpCode,
        start: usize,
        end: usize,
        /// When it came here.
        submitted: Instant,
    },
    Sync {
        conn: ConnId,
        session: SessionId,
        xid: Xid,
        start: usize,
        end: usize,
    },
    Disconnected {
        conn: ConnId,
        session: Option<SessionId>,
    },
    Persisted(Durable),
    EpochsPersisted(DurableEpochs),
    LogFull(bool),
    Tick,
    /// With the place of the payload, which was found to decode.
    Notification {
        from: ServerId,
        start: usize,
        end: usize,
    },
    /// With the place of the packet, which was found to decode.
    Packet {
        link: LinkId,
        from_leader: bool,
        start: usize,
        end: usize,
    },
    /// Whatever borrows nothing; taken when it is stepped.
    Peer(Option<Input<'static>>),
}

/// A handshake whose frame may be gone.
pub(super) struct OwnedConnect {
    last_zxid_seen: i64,
    timeout_ms: i32,
    session: SessionId,
    password: Vec<u8>,
    read_only: Option<bool>,
}

impl From<&ConnectRequest<'_>> for OwnedConnect {
    fn from(r: &ConnectRequest<'_>) -> OwnedConnect {
        OwnedConnect {
            last_zxid_seen: r.last_zxid_seen,
            timeout_ms: r.timeout_ms,
            session: r.session,
            password: r.password.to_vec(),
            read_only: r.read_only,
        }
    }
}

impl Item {
    /// The input that it stands for; its bytes are in `bytes` and who asks is in `identities`.
    pub(super) fn as_input<'a>(&'a mut self, bytes: &'a [u8], identities: &'a [Arc<Identity>]) -> Input<'a> {
        match self {
            Item::Connect { conn, request } => Input::Connect {
                conn: *conn,
                request: ConnectRequest {
                    last_zxid_seen: request.last_zxid_seen,
                    timeout_ms: request.timeout_ms,
                    session: request.session,
                    password: &request.password,
                    read_only: request.read_only,
                },
            },
            Item::Write { conn, session, xid, identity, op, start, end, .. } => Input::Write {
                conn: *conn,
                session: *session,
                xid: *xid,
                identity: &identities[*identity],
                op: *op,
                body: &bytes[*start..*end],
            },
            Item::Sync { conn, session, xid, start, end } => Input::Sync {
                conn: *conn,
                session: *session,
                xid: *xid,
                path: std::str::from_utf8(&bytes[*start..*end]).expect("it was copied from a str"),
            },
            Item::Disconnected { conn, session } => Input::Disconnected { conn: *conn, session: *session },
            Item::Persisted(durable) => Input::Persisted(*durable),
            Item::EpochsPersisted(epochs) => Input::EpochsPersisted(*epochs),
            Item::LogFull(full) => Input::LogFull(*full),
            Item::Tick => Input::Tick,
            Item::Notification { from, start, end } => Input::Notification {
                from: *from,
                notification: Notification::decode(&bytes[*start..*end])
                    .ok()
                    .flatten()
                    .expect("it was found to decode before it was put here"),
            },
            Item::Packet { link, from_leader, start, end } => {
                const FOUND: &str = "it was found to decode before it was put here";
                let link = *link;
                let packet = Packet::read(&mut Reader::new(&bytes[*start..*end])).expect(FOUND);
                if *from_leader {
                    Input::FromLeader { link, packet: FromLeader::parse(&packet).expect(FOUND) }
                } else {
                    Input::FromLearner { link, packet: FromLearner::parse(&packet).expect(FOUND) }
                }
            }
            Item::Peer(input) => input.take().expect("an item is stepped once"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::{Epoch, Zxid};

    fn ticks(inbox: &Inbox) -> usize {
        inbox.items.iter().filter(|i| matches!(i, Item::Tick)).count()
    }

    fn gone(conn: u64) -> Item {
        Item::Disconnected { conn: ConnId(conn), session: None }
    }

    fn conns(inbox: &Inbox) -> Vec<u64> {
        let conn = |item: &Item| match item {
            Item::Disconnected { conn, .. } => Some(conn.0),
            _ => None,
        };
        inbox.items.iter().filter_map(conn).collect()
    }

    fn durable(counter: u32) -> Durable {
        Durable::from_completed_write(Zxid::new(Epoch(1), counter))
    }

    #[test]
    fn only_what_is_durable_overtakes_what_was_taken_before() {
        let (mut inbox, mut work) = (Inbox::default(), Inbox::default());
        inbox.items.extend([gone(1), gone(2)]);
        inbox.bytes.push(7);
        assert_eq!(work.refill(&mut inbox), 2);
        assert_eq!((conns(&work), work.bytes.len()), (vec![1, 2], 1));
        assert!(inbox.is_empty() && inbox.bytes.is_empty());
        work.items.pop_front();
        inbox.items.push_back(gone(3));
        inbox.durable = Some(durable(9));
        assert_eq!(work.refill(&mut inbox), 0);
        assert_eq!((conns(&work), work.durable.take().map(|d| d.upto())), (vec![2], Some(durable(9).upto())));
        assert!(!inbox.is_empty() && inbox.durable.is_none());
        work.items.pop_front();
        assert_eq!(work.refill(&mut inbox), 1);
        assert_eq!((conns(&work), work.bytes.len()), (vec![3], 0));
        assert!(inbox.is_empty());
    }

    #[test]
    fn each_write_is_asked_for_by_who_put_it_here() {
        let who =
            [1, 2, 3].map(|n| Arc::new(Identity::new(vec![proto::acl::Id::new("digest", &n.to_string())])));
        let write = |inbox: &mut Inbox, n: usize| {
            let identity = inbox.place_of(&who[n]);
            inbox.items.push_back(Item::Write {
                conn: ConnId(n as u64),
                session: SessionId(1),
                xid: Xid(1),
                identity,
                op: OpCode::SetData,
                start: 0,
                end: 0,
                submitted: Instant(0),
            });
        };
        let next = |work: &mut Inbox| {
            let mut item = work.items.pop_front().unwrap();
            match item.as_input(&work.bytes, &work.identities) {
                Input::Write { conn, identity, .. } => assert!(Arc::ptr_eq(identity, &who[conn.0 as usize])),
                other => panic!("{other:?}"),
            }
        };
        let (mut inbox, mut work) = (Inbox::default(), Inbox::default());
        [0, 0, 1, 0].into_iter().for_each(|n| write(&mut inbox, n));
        assert_eq!(inbox.identities.len(), 3, "once for a run");
        work.refill(&mut inbox);
        // Others come while the first are stepped, a round at a time.
        (0..2).for_each(|_| next(&mut work));
        [2, 1].into_iter().for_each(|n| write(&mut inbox, n));
        work.tidy();
        work.refill(&mut inbox);
        (0..2).for_each(|_| next(&mut work));
        work.tidy();
        assert!(work.identities.is_empty(), "they are held no longer than their writes");
        work.refill(&mut inbox);
        assert!(inbox.identities.is_empty());
        (0..2).for_each(|_| next(&mut work));
    }

    #[test]
    fn a_wish_to_hand_over_is_found_wherever_it_waits() {
        let (mut inbox, mut work) = (Inbox::default(), Inbox::default());
        inbox.items.extend([gone(1), Item::Peer(Some(Input::HandOver))]);
        assert!(inbox.has_hand_over() && !work.has_hand_over());
        work.refill(&mut inbox);
        work.items.pop_front();
        assert!(!inbox.has_hand_over() && work.has_hand_over());
        work.items.pop_front();
        assert!(!work.has_hand_over());
    }

    #[test]
    fn another_node_hears_who_came_and_went_and_nothing_else() {
        let (mut inbox, mut work) = (Inbox::default(), Inbox::default());
        work.items.extend([gone(1), Item::Tick]);
        work.bytes.push(1);
        inbox.items.extend([Item::Tick, gone(2)]);
        inbox.bytes.push(2);
        inbox.durable = Some(durable(9));
        inbox.start_over(&mut work);
        assert_eq!((conns(&inbox), ticks(&inbox)), (vec![1, 2], 0));
        assert!(work.is_empty() && inbox.durable.is_none() && inbox.bytes.is_empty());
    }
}
