//! What has happened, as somebody would see it who sees everything, and those who judge it.
//!
//! A [`Fact`] is told at the moment when it is true: when bytes leave, when a write is durable, when a txn is applied.
//! The [`Book`] keeps what the facts add up to. After each fact every invariant is asked ([`crate::invariants`]).

use crate::check::Entry;
use crate::invariants::{self, Invariant};
use crate::net::Conn;
use crate::time::Time;
use proto::peer::{Packet, kind};
use proto::{Epoch, Zxid};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use zab::Service;

/// Something that is true from now on.
#[derive(Clone, Copy, Debug)]
pub enum Fact<'a> {
    /// A record is handed to a server's log.
    Appended {
        /// Whose.
        server: usize,
        /// Its zxid.
        zxid: Zxid,
        /// Its bytes.
        record: &'a [u8],
    },
    /// A server's log is durable up to here.
    Durable {
        /// Whose.
        server: usize,
        /// Up to here.
        upto: Zxid,
    },
    /// A server's log was cut: it ends here now.
    Cut {
        /// Whose.
        server: usize,
        /// The last zxid that stays.
        end: Zxid,
    },
    /// A server begins to make the tree that came through a link its own state.
    Installs {
        /// Which.
        server: usize,
        /// Through which it came.
        link: Conn,
        /// The tree's zxid.
        base: Zxid,
    },
    /// A server's log begins anew behind a whole state: the one that it installs, or its own.
    Anew {
        /// Whose.
        server: usize,
        /// The state's zxid.
        base: Zxid,
    },
    /// The superblock of a server says this, durably.
    Epochs {
        /// Whose.
        server: usize,
        /// The promise.
        accepted: Epoch,
        /// The history.
        current: Epoch,
    },
    /// A server has applied a txn.
    Applied {
        /// Which.
        server: usize,
        /// The txn's.
        zxid: Zxid,
        /// Its bytes.
        record: &'a [u8],
    },
    /// The tree of a server stands here, with this digest.
    Stands {
        /// Whose.
        server: usize,
        /// The last zxid applied.
        zxid: Zxid,
        /// The digest.
        digest: i64,
        /// Digests in records that were not the tree's.
        mismatches: u64,
    },
    /// A server does this for clients from now on.
    Serves {
        /// Which.
        server: usize,
        /// What.
        service: Service,
        /// The last zxid of its tree.
        applied: Zxid,
    },
    /// A client of a server is told something that shows the state at `zxid`.
    Replied {
        /// Which.
        server: usize,
        /// The client's session.
        session: i64,
        /// The zxid shown.
        zxid: Zxid,
    },
    /// A server begins a life; its log holds what is between these.
    Recovered {
        /// Which.
        server: usize,
        /// The log begins behind this.
        base: Zxid,
        /// The log ends here.
        end: Zxid,
    },
    /// The tree that a server has just built is silently wrong.
    Spoilt {
        /// Which.
        server: usize,
    },
    /// A server has written down that nothing on its disk counts: it differs from a majority.
    Distrusts {
        /// Which.
        server: usize,
    },
    /// A server is dead.
    Died {
        /// Which.
        server: usize,
        /// Its disk is gone too.
        wiped: bool,
    },
    /// A packet leaves for the other side of a link.
    Sent {
        /// Who sends.
        from: usize,
        /// For whom.
        to: usize,
        /// The link.
        link: Conn,
        /// The sender is the learner.
        to_leader: bool,
        /// The packet.
        packet: Packet<'a>,
    },
}

impl fmt::Display for Fact<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fact::Appended { server, zxid, record } => {
                write!(f, "{server} appends {zxid} ({} bytes)", record.len())
            }
            Fact::Sent { from, to, link, packet, .. } => {
                write!(f, "{from} -> {to} on {link}: packet {} zxid {:#x}", packet.kind, packet.zxid)
            }
            Fact::Applied { server, zxid, .. } => write!(f, "{server} applies {zxid}"),
            other => write!(f, "{other:?}"),
        }
    }
}

/// What is known of one server.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// A state up to here stands in for the log before it.
    pub base: Zxid,
    /// Its history from the very first txn on, in order: what its state up to `base` was made of, then the log.
    pub log: Vec<Zxid>,
    /// How many of `log` are durable.
    pub durable: usize,
    /// The zxid and the history of the tree that it is installing: its own when that is done.
    pub installs: Option<(Zxid, Vec<Zxid>)>,
    /// Its tree was spoilt, or it came from such a server: what it stands for is not asked until it has another one.
    pub spoilt: bool,
    /// The tree that it is installing may be spoilt.
    installs_spoilt: bool,
    /// What is on its disk counts for nothing until it has a tree of its leader's.
    pub distrusted: bool,
    /// Accepted and current epoch.
    pub epochs: (Epoch, Epoch),
    /// The last txn applied.
    pub applied: Zxid,
    /// What it does for clients.
    pub service: Option<Service>,
    /// What was durable on a disk that it has lost: what it acknowledged then counts.
    pub past: BTreeSet<Zxid>,
}

impl View {
    /// The last zxid that is durable.
    pub fn durable_end(&self) -> Zxid {
        self.durable.checked_sub(1).map_or(self.base, |last| self.log[last])
    }

    /// The last zxid in the log.
    pub fn end(&self) -> Zxid {
        self.log.last().copied().unwrap_or(self.base)
    }

    /// Whether this txn is durable here, in the log or in the state before it.
    pub fn has_durably(&self, zxid: Zxid) -> bool {
        self.log[..self.durable].binary_search(&zxid).is_ok()
    }

    /// Whether this txn is durable here, or was on a disk that was lost.
    pub fn had_durably(&self, zxid: Zxid) -> bool {
        self.past.contains(&zxid) || self.has_durably(zxid)
    }

    /// Whether this txn is here at all.
    pub fn has(&self, zxid: Zxid) -> bool {
        self.log.binary_search(&zxid).is_ok()
    }

    /// The history becomes another one, all of it durable.
    fn replace(&mut self, history: Vec<Zxid>) {
        self.log = history;
        self.durable = self.log.len();
    }
}

/// What is known of a connection of the quorum port.
#[derive(Clone, Debug, Default)]
pub struct LinkView {
    /// The leader's LEADERINFO.
    pub proposed: Option<Epoch>,
    /// The last txn that was sent with its commit before NEWLEADER.
    pub sync_end: Zxid,
    /// NEWLEADER was sent for this epoch.
    pub new_leader: Option<Epoch>,
    /// UPTODATE was sent.
    pub up_to_date: bool,
    /// The last COMMIT.
    pub committed: Zxid,
    /// The learner.
    pub learner: usize,
    /// SNAP was sent: the sender's history up to it, and what was sent behind it.
    pub history: Option<Vec<Zxid>>,
    /// SNAP was sent by a server whose tree may be spoilt.
    spoilt: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Book {
    /// The servers.
    pub servers: Vec<View>,
    /// Which of them vote.
    pub voters: Vec<usize>,
    /// Connections of the quorum port.
    pub links: BTreeMap<Conn, LinkView>,
    /// The committed txns, as the first server applied them.
    pub truth: Vec<Entry>,
    /// The bytes of each txn that was ever handed to a log.
    pub proposals: BTreeMap<Zxid, Arc<[u8]>>,
    /// The digest of the tree after a txn.
    pub digests: HashMap<Zxid, i64>,
    /// Who leads an epoch.
    pub leaders: BTreeMap<Epoch, usize>,
    /// Who has ever had this epoch's history on disk: that counts, whatever has become of the disk since.
    pub entered: BTreeMap<Epoch, BTreeSet<usize>>,
    /// What was in the log before the run.
    pub origin: Zxid,
    /// The tree of some server was spoilt: from then on digests of records may be wrong.
    pub is_spoilt: bool,
}

impl Book {
    /// Whether enough voters have this for it to be decided.
    pub fn is_quorum(&self, has: impl Fn(&View) -> bool) -> bool {
        let n = self.voters.iter().filter(|&&v| has(&self.servers[v])).count();
        n > self.voters.len() / 2
    }

    /// Whether enough voters have entered this epoch.
    pub fn has_entered(&self, epoch: Epoch) -> bool {
        let entered = |server: &&usize| self.entered.get(&epoch).is_some_and(|e| e.contains(server));
        self.voters.iter().filter(entered).count() > self.voters.len() / 2
    }

    /// The place of a txn in the truth.
    pub fn place(&self, zxid: Zxid) -> Option<usize> {
        self.truth.binary_search_by_key(&zxid.to_wire(), |e| e.zxid).ok()
    }

    /// The last committed txn.
    pub fn committed(&self) -> Zxid {
        self.truth.last().map_or(self.origin, |e| Zxid::from_wire(e.zxid))
    }

    /// The history that a tree at `base` stands for which came through `link`.
    pub fn sent(&self, link: Conn, base: Zxid) -> Option<&[Zxid]> {
        let history = self.links.get(&link)?.history.as_deref()?;
        Some(&history[..history.partition_point(|&z| z <= base)])
    }

    fn commit(&mut self, now: Time, zxid: Zxid) {
        if zxid > self.committed()
            && let Some(record) = self.proposals.get(&zxid)
        {
            self.truth.push(Entry { zxid: zxid.to_wire(), record: record.clone(), at: now });
        }
    }

    /// What stands in a tree since its server has read its own log was not applied before anybody's eyes. When the server
    /// goes on behind it, that is committed, if a quorum has it; if not, the invariants see a hole.
    fn catch_up(&mut self, now: Time, server: usize) {
        let view = &self.servers[server];
        let committed = self.committed();
        let read: Vec<Zxid> =
            view.log.iter().copied().filter(|&z| z > committed && z <= view.applied).collect();
        for zxid in read {
            if !self.is_quorum(|v| v.had_durably(zxid)) {
                return;
            }
            self.commit(now, zxid);
        }
    }

    fn update(&mut self, now: Time, fact: &Fact<'_>) {
        match *fact {
            Fact::Appended { server, zxid, record } => {
                self.proposals.entry(zxid).or_insert_with(|| record.into());
                self.servers[server].log.push(zxid);
            }
            Fact::Durable { server, upto } => {
                let view = &mut self.servers[server];
                view.durable = view.log.partition_point(|&z| z <= upto);
            }
            Fact::Cut { server, end } => {
                let view = &mut self.servers[server];
                view.log.truncate(view.log.partition_point(|&z| z <= end));
                view.durable = view.log.len();
            }
            Fact::Installs { server, link, base } => {
                let sent = self.sent(link, base).map(<[Zxid]>::to_vec);
                let view = &mut self.servers[server];
                view.installs = sent.map(|history| (base, history));
                view.installs_spoilt = self.links.get(&link).is_some_and(|l| l.spoilt);
            }
            Fact::Anew { server, base } => {
                let view = &mut self.servers[server];
                let own = std::mem::take(&mut view.log);
                if view.installs.is_some() {
                    view.spoilt = view.installs_spoilt;
                    view.distrusted = false;
                }
                let mut history = view.installs.take().map_or(own, |(_, history)| history);
                history.truncate(history.partition_point(|&z| z <= base));
                view.replace(history);
                view.base = base;
                view.applied = base;
            }
            Fact::Epochs { server, accepted, current } => {
                self.servers[server].epochs = (accepted, current);
                self.entered.entry(current).or_default().insert(server);
            }
            Fact::Applied { server, zxid, .. } => {
                self.servers[server].applied = zxid;
                self.commit(now, zxid);
            }
            Fact::Stands { server, zxid, digest, .. } => {
                self.servers[server].applied = zxid;
                if self.place(zxid).is_some() && !self.servers[server].spoilt {
                    self.digests.entry(zxid).or_insert(digest);
                }
            }
            Fact::Serves { server, service, applied } => {
                let view = &mut self.servers[server];
                view.service = Some(service);
                view.applied = applied;
                if service == Service::Leading {
                    self.leaders.entry(view.epochs.1).or_insert(server);
                }
                if !matches!(service, Service::None | Service::ReadOnly) {
                    // What was in a log when its server came to serve is committed by that.
                    let committed = self.committed();
                    let view = &self.servers[server];
                    let news: Vec<Zxid> =
                        view.log.iter().copied().filter(|&z| z > committed && z <= applied).collect();
                    news.into_iter().for_each(|z| self.commit(now, z));
                }
            }
            Fact::Replied { .. } => {}
            Fact::Spoilt { server } => {
                self.servers[server].spoilt = true;
                self.is_spoilt = true;
            }
            Fact::Distrusts { server } => self.servers[server].distrusted = true,
            Fact::Recovered { server, base, end } => {
                let view = &mut self.servers[server];
                view.service = None;
                // It may have died between the installation of a tree and word of it.
                let installed = view.installs.take().filter(|(at, _)| *at == base);
                let own = std::mem::take(&mut view.log);
                if installed.is_some() {
                    view.spoilt = view.installs_spoilt;
                    view.distrusted = false;
                }
                let mut history = installed.map_or(own, |(_, history)| history);
                history.truncate(history.partition_point(|&z| z <= end));
                view.replace(history);
                view.base = view.base.max(base);
                view.applied = view.applied.max(view.base);
                if self.servers.len() == 1 {
                    // A server that stands alone stays in its epoch: what nobody saw never was, and its zxids come again.
                    self.proposals.retain(|&z, _| z <= end);
                }
            }
            Fact::Died { server, wiped } => {
                let view = &mut self.servers[server];
                view.service = None;
                if wiped {
                    let mut past = std::mem::take(&mut view.past);
                    past.extend(&view.log[..view.durable]);
                    *view = View { past, ..View::default() };
                }
            }
            Fact::Sent { from, to, link, packet, to_leader: false } => {
                let link = self.links.entry(link).or_default();
                link.learner = to;
                let zxid = Zxid::from_wire(packet.zxid);
                if let (kind::PROPOSAL | kind::INFORM, Some(history)) = (packet.kind, &mut link.history)
                    && history.last().is_none_or(|&last| last < zxid)
                {
                    history.push(zxid);
                }
                match packet.kind {
                    kind::LEADERINFO => link.proposed = Some(zxid.epoch()),
                    // The tree of a SNAP may have what is sent behind it.
                    kind::INFORM if link.new_leader.is_none() => link.sync_end = zxid.max(link.sync_end),
                    kind::COMMIT if link.new_leader.is_none() => {
                        link.sync_end = zxid.max(link.sync_end);
                        link.committed = zxid;
                    }
                    kind::SNAP => {
                        link.sync_end = zxid;
                        link.spoilt = self.servers[from].spoilt;
                        let log = &self.servers[from].log;
                        link.history = Some(log.iter().copied().filter(|&z| z <= zxid).collect());
                    }
                    kind::NEWLEADER => link.new_leader = Some(zxid.epoch()),
                    kind::UPTODATE => link.up_to_date = true,
                    kind::COMMIT => link.committed = zxid,
                    _ => {}
                }
            }
            Fact::Sent { .. } => {}
        }
    }
}

/// The first thing that must not be.
#[derive(Clone, Debug)]
pub struct Violation {
    /// What holds no longer.
    pub what: String,
    /// How it shows.
    pub how: String,
    /// When, virtual ns.
    pub at: Time,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {:.3} ms: {}", self.what, self.at as f64 / 1e6, self.how)
    }
}

/// Keeps the book and asks the invariants.
pub struct Judge {
    /// What has happened.
    pub book: Book,
    invariants: Vec<Box<dyn Invariant>>,
    /// What was found.
    pub violation: Option<Violation>,
}

impl Judge {
    /// A judge over `servers`, of which the first `voters` vote.
    pub fn new(servers: usize, voters: usize) -> Judge {
        let book = Book {
            servers: vec![View::default(); servers],
            voters: (0..voters).collect(),
            ..Book::default()
        };
        Judge { book, invariants: invariants::all(), violation: None }
    }

    /// Judges a fact, then believes it.
    pub fn observe(&mut self, now: Time, fact: &Fact<'_>) {
        if let Fact::Applied { server, .. } = *fact {
            self.book.catch_up(now, server);
        }
        for invariant in &mut self.invariants {
            if let Err(how) = invariant.check(&self.book, fact) {
                let what = invariant.name().to_string();
                self.violation.get_or_insert(Violation { what, how, at: now });
            }
        }
        self.book.update(now, fact);
    }

    /// Something that no invariant is asked about must not be.
    pub fn condemn(&mut self, now: Time, what: &str, how: String) {
        self.violation.get_or_insert(Violation { what: what.into(), how, at: now });
    }
}
