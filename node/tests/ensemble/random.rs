//! Crashes, cuts and slow disks at any moment, while clients write; then everything heals, and everything that was
//! acknowledged is there, on every server.

use crate::world::*;
use node::{LocalSessions, Service};
use proto::client::OpCode;
use proto::{Code, ConnId, SessionId, Zxid};
use std::collections::{BTreeMap, BTreeSet};

struct Client {
    conn: Option<ConnId>,
    session: Option<SessionId>,
    seen: Zxid,
    waiting: BTreeMap<i32, String>,
    next: i32,
}

struct Run {
    w: World,
    clients: Vec<Client>,
    /// Paths whose creation was acknowledged.
    there: BTreeSet<String>,
    serial: u64,
    servers: usize,
    /// Writes that a read-only server has refused.
    refused: usize,
}

impl Run {
    fn new(seed: u64) -> Run {
        let mut dice = Dice(seed | 1);
        (0..5).for_each(|_| {
            dice.roll(2);
        });
        let observers = dice.roll(2) as usize;
        let servers = [3, 3, 5][dice.roll(3) as usize] + observers;
        let mut w = World::new(servers, observers, seed);
        for s in &mut w.servers {
            s.disk_us = [100, 300, 3_000][w.dice.roll(3) as usize];
        }
        w.epoch_end = (w.dice.roll(4) == 0).then_some(40);
        w.read_only_mode = w.dice.roll(2) == 0;
        use LocalSessions::{Off, On, Upgradable};
        w.local_sessions = vec![[Off, Off, On, Upgradable][w.dice.roll(4) as usize]; servers];
        w.start_all();
        let client =
            || Client { conn: None, session: None, seen: Zxid::ZERO, waiting: BTreeMap::new(), next: 1 };
        Run {
            w,
            clients: (0..4).map(|_| client()).collect(),
            there: BTreeSet::new(),
            serial: 0,
            servers,
            refused: 0,
        }
    }

    fn act(&mut self, n: usize) {
        let s = self.w.dice.roll(self.servers as u64) as usize;
        let what = self.w.dice.roll(10);
        let c = &mut self.clients[n];
        let Some(conn) = c.conn else {
            let session = c.session.unwrap_or(SessionId::NONE);
            if self.w.is_serving(s) {
                c.conn = Some(self.w.dial(s, session, 5_000, c.seen));
            } else if self.w.is_read_only(s) {
                c.conn = Some(self.w.dial_as(s, session, 5_000, c.seen, Some(what > 2)));
            }
            return;
        };
        for seen in self.w.seen(conn) {
            match seen {
                Seen::Connected(session) | Seen::ConnectedReadOnly(session) => c.session = Some(session),
                Seen::Refused => (c.session, c.conn) = (None, None),
                // A server that was started without a quorum shows what may still be dropped.
                Seen::Reply { xid, result: Err(Code::NotReadOnly), .. } => {
                    c.waiting.remove(&xid).expect("it was asked");
                    self.refused += 1;
                }
                Seen::Reply { xid, zxid, result } => {
                    let path = c.waiting.remove(&xid).expect("it was asked");
                    assert!(zxid >= c.seen, "a session never goes back");
                    c.seen = zxid;
                    if result.is_ok() && !path.is_empty() {
                        self.there.insert(path);
                    }
                }
                Seen::Closed(_) | Seen::Broken => c.conn = None,
            }
        }
        if c.conn.is_none() {
            c.waiting.clear();
            return;
        }
        if c.session.is_none() || self.w.session(conn).is_none() || c.waiting.len() > 10 {
            return;
        }
        let xid = c.next;
        c.next += 1;
        if what == 0 {
            if self.w.write(conn, xid, OpCode::Sync, &[]) {
                c.waiting.insert(xid, String::new());
            }
        } else if what == 1 && self.w.dice.roll(20) == 0 {
            c.conn = None;
            c.waiting.clear();
            self.w.hang_up(conn);
        } else {
            self.serial += 1;
            let path = format!("/{}", self.serial);
            let ephemeral = self.w.dice.roll(8) == 0;
            if self.w.write(conn, xid, OpCode::Create, &create(&path, ephemeral.into())) {
                c.waiting.insert(xid, if ephemeral { String::new() } else { path });
            }
        }
    }

    fn fault(&mut self) {
        let s = self.w.dice.roll(self.servers as u64) as usize;
        let other = self.w.dice.roll(self.servers as u64) as usize;
        match self.w.dice.roll(16) {
            0..=2 => self.w.crash(s),
            3 => {
                if let Some(leader) = self.w.leader() {
                    self.w.crash(leader);
                }
            }
            4..=7 => {
                if self.w.servers[s].up.is_none() {
                    self.w.start(s);
                }
            }
            8 => (0..self.servers).for_each(|s| self.w.crash(s)),
            9 if other != s => self.w.cut(s, other),
            10 => self.w.heal(),
            11 => {
                // The leader is alone, and goes on to propose.
                if let Some(leader) = self.w.leader() {
                    (0..self.servers).filter(|&o| o != leader).for_each(|o| self.w.cut(leader, o));
                }
            }
            12 | 13 => self.w.compact(s),
            // Who has no quorum becomes read-only, where that is allowed.
            14 => self.w.run(2_500),
            _ => {
                for s in 0..self.servers {
                    if self.w.servers[s].up.is_none() {
                        self.w.start(s);
                    }
                }
            }
        }
    }

    fn all(&mut self) {
        for _ in 0..600 {
            let n = self.w.dice.roll(4) as usize;
            self.act(n);
            if self.w.dice.roll(25) == 0 {
                self.fault();
                self.w.acked_is_durable();
            }
            if self.w.dice.roll(3) == 0 {
                let ms = self.w.dice.roll(30);
                self.w.run(ms);
            }
        }
        self.w.heal();
        for s in 0..self.servers {
            if self.w.servers[s].up.is_none() {
                self.w.start(s);
            }
        }
        self.w.until(20_000, "service after everything is well again", |w| w.all_serve());
        self.w.run(300);
        self.w.until(5_000, "equal replicas", |w| w.all_equal());
        self.w.acked_is_durable();
        for s in 0..self.servers {
            for path in &self.there {
                assert!(self.w.exists(s, path), "{path} was acknowledged, server {} lacks it", s + 1);
            }
        }
        assert!((0..self.servers).filter(|&s| self.w.up(s).serving == Service::Leading).count() == 1);
    }
}

#[test]
fn whatever_happens_nothing_that_was_acknowledged_is_lost() {
    let seeds = std::env::var("SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(60);
    let first = std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    let mut packets = BTreeMap::new();
    let mut notes = BTreeMap::new();
    let (mut there, mut refused) = (0, 0);
    for seed in first..first + seeds {
        let mut run = Run::new(seed);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run.all()));
        if let Err(e) = outcome {
            eprintln!("seed {seed}: SEED={seed} SEEDS=1 cargo test -p node --test ensemble whatever");
            std::panic::resume_unwind(e);
        }
        for (kind, n) in run.w.packets {
            *packets.entry(kind).or_insert(0) += n;
        }
        for (what, n) in run.w.notes {
            *notes.entry(what).or_insert(0) += n;
        }
        there += run.there.len();
        refused += run.refused;
    }
    eprintln!("{there} writes, packets {packets:?}, notes {notes:#?}");
    if seeds >= 60 {
        assert!(refused > 0, "no write came to a read-only server");
        use proto::peer::kind::*;
        for kind in [
            REQUEST,
            PROPOSAL,
            ACK,
            COMMIT,
            PING,
            REVALIDATE,
            SYNC,
            INFORM,
            NEWLEADER,
            FOLLOWERINFO,
            UPTODATE,
            DIFF,
            TRUNC,
            SNAP,
            OBSERVERINFO,
            LEADERINFO,
            ACKEPOCH,
        ] {
            assert!(packets.contains_key(&kind), "a packet of type {kind} was never sent");
        }
    }
}
