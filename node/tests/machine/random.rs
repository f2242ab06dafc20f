//! Many clients, a disk of any speed, crashes at any moment; what was acknowledged is there.

use crate::world::*;
use proto::client::OpCode;
use proto::txn::{Record, Txn};
use proto::{Code, ConnId, Epoch, Instant, SessionId, Zxid};
use std::collections::{BTreeMap, VecDeque};

struct Dice(u64);

impl Dice {
    fn roll(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }
}

/// What a client waits for, in the order in which it asked.
#[derive(Debug)]
enum Asked {
    Create {
        path: String,
    },
    Set {
        path: String,
        data: Vec<u8>,
    },
    Delete {
        path: String,
    },
    Close,
    /// A sync, and what was proposed when it was sent.
    Sync {
        proposed: Zxid,
    },
    /// A read of the own znode, which nobody else writes: what it must show.
    ReadOwn {
        data: Vec<u8>,
    },
    ReadAny,
}

struct Client {
    conn: ConnId,
    session: Option<SessionId>,
    next_xid: i32,
    asked: VecDeque<(i32, Asked)>,
    own: String,
    written: Vec<u8>,
    last_zxid: i64,
    /// It has asked for the end of its session.
    leaving: bool,
}

/// An acknowledged write.
struct Acked {
    session: SessionId,
    xid: i32,
    zxid: Zxid,
    asked: Asked,
    result: Result<String, Code>,
}

struct Run {
    dice: Dice,
    world: World,
    clients: Vec<Client>,
    acked: Vec<Acked>,
    serial: u64,
    crashes: usize,
}

#[test]
fn whatever_happens_replies_are_in_order_and_what_was_acknowledged_is_there() {
    let mut crashes = 0;
    let mut acked = 0;
    for seed in 1..=80 {
        let mut run = Run::new(seed);
        for _ in 0..400 {
            run.turn();
        }
        run.crash();
        crashes += run.crashes;
        acked += run.acked.len();
    }
    assert!(crashes > 200 && acked > 5_000, "{crashes} crashes, {acked} acknowledged");
}

impl Run {
    fn new(seed: u64) -> Run {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let world = match dice.roll(3) {
            0 => World::ending_at(Zxid::new(Epoch(4), u32::MAX - dice.roll(60) as u32)),
            _ => World::new(),
        };
        Run { dice, world, clients: Vec::new(), acked: Vec::new(), serial: 0, crashes: 0 }
    }

    fn turn(&mut self) {
        match self.dice.roll(100) {
            0..=69 if !self.clients.is_empty() => self.ask(),
            0..=73 if self.clients.len() < 5 => self.dial(),
            74..=79 => self.world.flush(),
            80..=89 => {
                self.world.flush();
                let n = self.dice.roll(self.world.queue.len() as u64 + 1) as usize;
                self.world.persist_next(n);
            }
            90..=91 => {
                self.world.persist_epoch();
            }
            92..=95 => {
                let to = self.world.now.as_ms() + self.dice.roll(900);
                self.world.until(to);
            }
            96 => self.move_session(),
            97 if !self.clients.is_empty() => {
                let i = self.dice.roll(self.clients.len() as u64) as usize;
                self.listen(i);
                let gone = self.clients.swap_remove(i);
                self.world.hang_up(gone.conn);
            }
            98 => self.crash(),
            _ => {}
        }
        for i in 0..self.clients.len() {
            self.listen(i);
        }
        self.clients.retain(|c| !self.world.is_closed(c.conn));
    }

    fn dial(&mut self) {
        let timeout = 2_000 + self.dice.roll(3_000) as i32;
        let conn = self.world.dial(SessionId::NONE, &[], timeout, 0);
        self.clients.push(Client {
            conn,
            session: None,
            next_xid: 1,
            asked: VecDeque::new(),
            own: String::new(),
            written: Vec::new(),
            last_zxid: 0,
            leaving: false,
        });
    }

    fn ask(&mut self) {
        let i = self.dice.roll(self.clients.len() as u64) as usize;
        let kind = self.dice.roll(20);
        let shared = format!("/n{}", self.dice.roll(6));
        self.serial += 1;
        let (w, c, serial) = (&mut self.world, &mut self.clients[i], self.serial);
        if c.session.is_none() || c.leaving {
            return;
        }
        let xid = c.next_xid;
        c.next_xid += 1;
        let data = serial.to_be_bytes().to_vec();
        if c.own.is_empty() {
            c.own = format!("/own{serial}");
            c.written = data.clone();
            w.write(c.conn, xid, OpCode::Create, &create(&c.own, &data, 0));
            return c.asked.push_back((xid, Asked::Create { path: c.own.clone() }));
        }
        let asked = match kind {
            0..=4 => {
                c.written = data.clone();
                w.write(c.conn, xid, OpCode::SetData, &set(&c.own, &data));
                Asked::Set { path: c.own.clone(), data }
            }
            5..=8 => {
                w.read(c.conn, xid, OpCode::GetData, &look(&c.own, false));
                Asked::ReadOwn { data: c.written.clone() }
            }
            9..=10 => {
                w.write(c.conn, xid, OpCode::Create, &create(&shared, &data, (kind % 2) as i32));
                Asked::Create { path: shared }
            }
            11..=13 => {
                w.write(c.conn, xid, OpCode::SetData, &set(&shared, &data));
                Asked::Set { path: shared, data }
            }
            14 => {
                w.write(c.conn, xid, OpCode::Delete, &delete(&shared));
                Asked::Delete { path: shared }
            }
            15..=16 => {
                let proposed = w.node.proposed();
                w.sync(c.conn, xid, "/");
                Asked::Sync { proposed }
            }
            17..=18 => {
                w.read(c.conn, xid, OpCode::Exists, &look(&shared, true));
                Asked::ReadAny
            }
            _ if serial % 5 == 0 => {
                c.leaving = true;
                w.write(c.conn, xid, OpCode::CloseSession, &[]);
                Asked::Close
            }
            _ => {
                w.read(c.conn, xid, OpCode::Ping, &[]);
                Asked::ReadAny
            }
        };
        c.asked.push_back((xid, asked));
    }

    /// A session goes on over another connection.
    fn move_session(&mut self) {
        let Some(c) = self.clients.iter_mut().find(|c| c.session.is_some() && !c.leaving) else { return };
        let conn = self.world.resume(c.session.unwrap(), 5_000);
        let old = std::mem::replace(&mut c.conn, conn);
        // What the old connection had asked may still happen, and nobody is told.
        c.asked.clear();
        c.own.clear();
        assert!(self.world.is_closed(old));
    }

    /// Compares what a client has seen with what it asked.
    fn listen(&mut self, i: usize) {
        let c = &mut self.clients[i];
        for seen in self.world.seen(c.conn) {
            let (xid, zxid) = match &seen {
                Seen::Connected { session, .. } => {
                    assert!(c.session.is_none_or(|s| s == *session));
                    c.session = Some(*session);
                    continue;
                }
                Seen::Event { .. } | Seen::Closed(_) | Seen::Refused => continue,
                Seen::Written { xid, zxid, .. } => (*xid, zxid.to_wire()),
                Seen::Read { xid, zxid, .. } => (*xid, *zxid),
            };
            let (expected, asked) = c.asked.pop_front().expect("a reply to nothing");
            assert_eq!(xid, expected, "replies come in the order of the requests");
            assert!(zxid >= c.last_zxid, "a session never goes back");
            c.last_zxid = zxid;
            match (seen, asked) {
                (Seen::Read { err, body, .. }, Asked::ReadOwn { data }) => {
                    assert_eq!((err, value(&body)), (0, data), "own writes, those before it and no others");
                }
                (Seen::Read { .. }, Asked::ReadAny) => {}
                (Seen::Written { zxid, .. }, Asked::Sync { proposed }) => assert!(zxid >= proposed),
                (Seen::Written { zxid, result, .. }, asked) => {
                    self.acked.push(Acked { session: c.session.unwrap(), xid, zxid, asked, result });
                }
                (seen, asked) => panic!("{seen:?} answers {asked:?}"),
            }
        }
    }

    fn crash(&mut self) {
        self.crashes += 1;
        // The disk may have more than it said.
        self.world.flush();
        let more = self.dice.roll(self.world.queue.len() as u64 + 1) as usize;
        let more: Vec<_> = self.world.queue.drain(..more).map(|(_, record)| record).collect();
        let live: Vec<_> = self.clients.drain(..).filter(|c| !c.leaving).filter_map(|c| c.session).collect();
        let dead = World::over(Vec::new(), Instant::from_ms(5_000), config());
        let mut world = std::mem::replace(&mut self.world, dead);
        world.durable.extend(more);
        self.world = world.crash();
        self.audit();
        for session in live {
            let conn = self.world.resume(session, 4_000);
            let open = self.world.tree.session_timeout(session).is_some();
            assert_eq!(self.world.session(conn).is_some(), open, "whoever is in the log is known");
            self.world.hang_up(conn);
        }
    }

    fn audit(&self) {
        let records: BTreeMap<Zxid, Record<'_>> =
            self.world.durable.iter().map(|r| (zxid_of(r), Record::decode(r).unwrap())).collect();
        let zxids: Vec<Zxid> = records.keys().copied().collect();
        assert_eq!(zxids.len(), self.world.durable.len());
        for pair in zxids.windows(2) {
            let next = pair[0].next() == Some(pair[1]);
            let opens = pair[1] == Zxid::new(Epoch(pair[0].epoch().0 + 1), 1);
            assert!(next || opens, "{} follows {}", pair[1], pair[0]);
        }
        // What each path was last said to be.
        let mut last: BTreeMap<&str, (Zxid, Option<&[u8]>)> = BTreeMap::new();
        for a in &self.acked {
            let record = records.get(&a.zxid).expect("an acknowledged write was lost");
            assert_eq!((record.header.session, record.header.cxid.0), (a.session, a.xid));
            match (&a.result, &a.asked, &record.txn) {
                (Err(code), _, Txn::Error { code: logged }) => assert_eq!(code.wire(), *logged),
                (Ok(_), Asked::Create { path }, Txn::Create { path: logged, data, .. }) => {
                    assert_eq!(path, logged);
                    note(&mut last, path, a.zxid, *data);
                }
                (Ok(_), Asked::Set { path, data }, Txn::SetData { path: logged, data: kept, .. }) => {
                    assert_eq!((path.as_str(), Some(&data[..])), (&**logged, *kept));
                    note(&mut last, path, a.zxid, Some(data));
                }
                (Ok(_), Asked::Delete { path }, Txn::Delete { path: logged, .. }) => {
                    assert_eq!(path, logged);
                    note(&mut last, path, a.zxid, None);
                }
                (Ok(_), Asked::Close, Txn::CloseSession { .. }) => {
                    assert!(self.world.tree.session_timeout(a.session).is_none());
                }
                (result, asked, txn) => panic!("{asked:?} gave {result:?} and is {txn:?}"),
            }
        }
        for (path, (zxid, data)) in last {
            let touched = |r: &Record<'_>| match &r.txn {
                Txn::Create { path: p, .. } | Txn::SetData { path: p, .. } | Txn::Delete { path: p, .. } => {
                    p == path
                }
                Txn::CloseSession { paths } => paths.iter().flatten().any(|p| p == path),
                _ => false,
            };
            if !records.range(zxid..).skip(1).any(|(_, r)| touched(r)) {
                assert_eq!(self.world.data(path).as_deref(), data, "{path} at {zxid}");
            }
        }
        for (session, paths) in self.world.tree.ephemerals_by_session() {
            assert!(self.world.tree.session_timeout(session).is_some(), "{paths:?} outlive {session}");
        }
    }
}

fn note<'a>(
    last: &mut BTreeMap<&'a str, (Zxid, Option<&'a [u8]>)>,
    path: &'a str,
    zxid: Zxid,
    data: Option<&'a [u8]>,
) {
    let entry = last.entry(path).or_insert((zxid, data));
    if zxid >= entry.0 {
        *entry = (zxid, data);
    }
}
