//! One run: a world out of a seed, until its end or until something is found.

use crate::book::{Judge, Violation};
use crate::check::{self, Expiry};
use crate::client::{Client, Mode};
use crate::coverage::{Coverage, Point};
use crate::fault::{self, Fault, Planned};
use crate::history::{History, Still};
use crate::kernel::{Event, Kernel};
use crate::net::{Net, Port};
use crate::op::Op;
use crate::rng::Rng;
use crate::server::{Process, Rotten, Server, Setting};
use crate::time::{MS, S, Time, US};
use node::LocalSessions;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use zab::Service;

/// What is to be run, and what is left out of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Job {
    /// The seed.
    pub seed: u64,
    /// Servers that vote; `None`: the seed chooses.
    pub voters: Option<usize>,
    /// Clients; `None`: the seed chooses.
    pub clients: Option<usize>,
    /// Faults of the plan by their index; `None`: all.
    pub keep: Option<Vec<usize>>,
    /// The time when faults and work end, ms; `None`: the seed chooses.
    pub until_ms: Option<u64>,
    /// The story is told.
    pub tell: bool,
}

/// What came of it.
pub struct Outcome {
    /// Events handled.
    pub events: u64,
    /// Requests of clients.
    pub calls: usize,
    /// Virtual time that passed, ns.
    pub time: Time,
    /// A sum over everything that happened.
    pub trace: u64,
    /// Faults in the plan.
    pub plan: Vec<Planned>,
    /// Clients.
    pub clients: usize,
    /// When faults and work ended, ms.
    pub until_ms: u64,
    /// What has happened.
    pub coverage: Coverage,
    /// What must not be.
    pub violation: Option<Violation>,
    /// What happened, if it was to be told.
    pub story: Vec<String>,
}

/// Runs longer than this are not: a machine that never comes to rest is wrong.
const EVENTS_MAX: u64 = 400_000;

/// From the heal to the proof of service.
const PATIENCE: Time = 30 * S;

struct World {
    k: Kernel,
    h: History,
    servers: Vec<Server>,
    clients: Vec<Client>,
    plan: Vec<Planned>,
    keep: Vec<bool>,
    /// Faults that last.
    lasting: Vec<bool>,
    healed: bool,
    rng: Rng,
    until: Time,
    setting: Arc<Setting>,
}

/// Runs one seed.
pub fn run(job: &Job) -> Outcome {
    let mut world = World::new(job);
    let done = catch_unwind(AssertUnwindSafe(|| world.play()));
    if let Err(panic) = done {
        let text = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string()))
            .unwrap_or_default();
        let at = world.k.now;
        world.k.judge.condemn(at, "no assertion fails", text);
    }
    if world.k.judge.violation.is_some() {
        for server in &world.servers {
            let line = format!("{}; {}", server.describe(world.k.now), server.describe_files());
            world.k.tell(|| line);
        }
    }
    Outcome {
        events: world.k.events,
        calls: world.h.calls.len(),
        time: world.k.now,
        trace: world.k.trace,
        clients: world.clients.len(),
        until_ms: world.until / MS,
        plan: std::mem::take(&mut world.plan),
        coverage: world.k.coverage.clone(),
        violation: world.k.judge.violation.take(),
        story: world.k.story.take().unwrap_or_default(),
    }
}

impl World {
    fn new(job: &Job) -> World {
        let mut rng = Rng::new(job.seed, 1);
        let chosen = *rng.pick(&[1, 3, 3, 3, 5]);
        let voters = job.voters.unwrap_or(chosen);
        let watching = rng.one_in(3);
        let observers = usize::from(voters > 1 && watching);
        let servers = voters + observers;
        let clients_chosen = rng.range(2, 6) as usize;
        let clients = job.clients.unwrap_or(clients_chosen);
        let until_chosen = rng.range(2500, 5000);
        let until = job.until_ms.unwrap_or(until_chosen) * MS;
        let near_end = rng.one_in(16) && servers == 1;
        let tick_ms = *rng.pick(&[40, 80, 120]);
        // Servers that stand alone have neither of these.
        let mut of_sessions = Rng::new(job.seed, 6);
        use LocalSessions::{Off, On, Upgradable};
        let local = *of_sessions.pick(&[Off, Off, Off, On, Upgradable, Upgradable]);
        let without_quorum = of_sessions.one_in(3);
        let ensemble = servers > 1;
        let setting = Arc::new(Setting {
            voters,
            observers,
            tick_ms,
            segment_len: 64 << 10,
            depth: *rng.pick(&[1, 1, 2, 4]),
            snap_count: *rng.pick(&[6, 20, 60, 200]),
            keep: rng.range(1, 4) as usize,
            slice: *rng.pick(&[64, 400, 4000]),
            counter: if near_end {
                u32::MAX - rng.below(2 * zab::broadcast::EPOCH_MARGIN as u64) as u32
            } else {
                0
            },
            kept_records: *rng.pick(&[2, 20, 500]),
            all_blank: rng.one_in(8),
            write_ns: *rng.pick(&[100, 300, 1000]) * US,
            starved: *rng.pick(&[1, 1, 100, 5000]),
            local_sessions: if ensemble { local } else { Off },
            read_only_after_ms: (ensemble && without_quorum).then_some(3 * tick_ms),
        });
        let buffer = if rng.one_in(8) { 128 << 10 } else { 4 << 20 };
        let delay = *rng.pick(&[50, 300, 1000]) * US;
        let think = *rng.pick(&[2, 5, 10]) * MS * clients as u64 / 3;
        let places = servers + clients;
        let net = Net::new(places, Rng::new(job.seed, 2), delay, buffer);
        let mut k = Kernel::new(net, Rng::new(job.seed, 3), Judge::new(servers, voters), job.tell);
        if near_end {
            k.hit(Point::CounterNearEnd);
        }
        if buffer < 4 << 20 {
            k.hit(Point::TinyBuffers);
        }
        let mut plan = fault::plan(&mut Rng::new(job.seed, 4), servers, clients, until);
        plan.extend(fault::spoil(&mut Rng::new(job.seed, 7), servers, until));
        let keep = (0..plan.len()).map(|i| job.keep.as_ref().is_none_or(|keep| keep.contains(&i))).collect();
        for (i, planned) in plan.iter().enumerate() {
            k.schedule(planned.at, Event::Fault(i));
        }
        k.schedule(until, Event::Heal);
        let make = |id| Server::new(id, setting.clone(), Rng::new(job.seed, 100 + id as u64));
        let seed = job.seed;
        World {
            h: History::new(clients),
            servers: (0..servers).map(make).collect(),
            clients: (0..clients)
                .map(|id| {
                    let rng = Rng::new(seed, 200 + id as u64);
                    // One of them waits for a quorum: what others have seen of a server without one may be too new for
                    // everybody until the next write.
                    let reads_alone = id > 0 && without_quorum && of_sessions.one_in(2);
                    Client::new(id, servers + id, servers, reads_alone, rng, think, setting.tick_ms)
                })
                .collect(),
            lasting: vec![false; plan.len()],
            keep,
            plan,
            k,
            healed: false,
            rng: Rng::new(seed, 5),
            until,
            setting,
        }
    }

    fn play(&mut self) {
        for server in &mut self.servers {
            server.boot(&mut self.k);
        }
        for client in &mut self.clients {
            client.set_mode(&mut self.k, Mode::Working);
        }
        // Work, with faults, until the heal.
        while !self.healed {
            if !self.turn() {
                return;
            }
        }
        // Service is demanded.
        for client in &mut self.clients {
            client.set_mode(&mut self.k, Mode::Proving);
        }
        let deadline = self.k.now + PATIENCE;
        while !self.clients.iter().all(Client::is_proven) || !self.all_equal() {
            if !self.turn() {
                return;
            }
            if self.k.now > deadline {
                let late: Vec<usize> =
                    (0..self.clients.len()).filter(|&i| !self.clients[i].is_proven()).collect();
                let how = format!(
                    "clients {late:?} were not served {} s after the last fault, or servers are not equal",
                    PATIENCE / S
                );
                return self.k.judge.condemn(self.k.now, "service comes back", how);
            }
        }
        // Half of the clients fall silent, and their sessions end; those of the others don't.
        let mut silent = Vec::new();
        for (i, client) in self.clients.iter_mut().enumerate() {
            if i % 2 == 0 {
                silent.extend(client.session());
                client.set_mode(&mut self.k, Mode::Silent);
            } else {
                client.set_mode(&mut self.k, Mode::Idle);
            }
        }
        // Four times the longest time-out of a client: while a disk or a server stood still nobody expires.
        let end = self.k.now + 60 * self.setting.tick_ms * MS;
        while self.k.now < end && !self.have_ended(&silent) {
            if !self.turn() {
                return;
            }
        }
        // Nothing is asked for any more; what is under way arrives.
        let deadline = self.k.now + S;
        while !self.all_equal() && self.k.now < deadline {
            if !self.turn() {
                return;
            }
        }
        self.judge_end(&silent);
    }

    /// Whether these sessions have ended, everywhere.
    fn have_ended(&self, sessions: &[i64]) -> bool {
        let ended = |tree: &engine::Tree| {
            sessions.iter().all(|&s| tree.session_timeout(proto::SessionId(s)).is_none())
        };
        let local = |p: &Process| p.node.session_expiry(false).iter().any(|(s, _)| sessions.contains(&s.0));
        self.servers.iter().filter_map(|s| s.process.as_ref()).all(|p| ended(&p.tree) && !local(p))
    }

    /// Whether all servers serve the same state.
    fn all_equal(&self) -> bool {
        let end = self.k.judge.book.committed();
        self.servers.iter().all(|s| {
            let serves = |s| matches!(s, Service::Leading | Service::Following | Service::Observing);
            s.process.as_ref().is_some_and(|p| serves(p.service) && p.tree.applied() >= end)
        })
    }

    /// One event. False when the run is over.
    fn turn(&mut self) -> bool {
        let Some(event) = self.k.next_event() else {
            self.k.judge.condemn(self.k.now, "there is always something to do", "the queue ran dry".into());
            return false;
        };
        self.handle(event);
        if self.k.events > EVENTS_MAX {
            self.k.judge.condemn(self.k.now, "a run comes to its end", format!("{EVENTS_MAX} events"));
        }
        self.k.judge.violation.is_none()
    }

    fn handle(&mut self, event: Event) {
        let now = self.k.now;
        if self.k.events + 40 > EVENTS_MAX {
            self.k.tell(|| format!("{event:?}"));
        }
        match event {
            Event::Net(wake) => {
                let Some(place) = self.k.net.peer(wake.conn, wake.to.other()) else { return };
                let n = self.servers.len();
                if place < n && self.servers[place].paused_until > now {
                    return self.k.schedule(self.servers[place].paused_until, event);
                }
                let servers = &self.servers;
                let up = |p: usize| p >= n || !servers[p].dark;
                let Some(arrival) = self.k.net.arrive(now, wake, up) else { return };
                if arrival.place >= n {
                    let client = &mut self.clients[arrival.place - n];
                    client.arrive(&mut self.k, &mut self.h, wake.conn, arrival.item);
                } else if self.servers[arrival.place].process.is_some() {
                    let server = &mut self.servers[arrival.place];
                    server.arrive(&mut self.k, wake.conn, wake.to, arrival.port, arrival.item);
                } else {
                    // The machine is up and nobody listens.
                    self.k.net.close(now, wake.conn, wake.to);
                }
            }
            Event::Server { server, life, what } => {
                let server = &mut self.servers[server];
                if server.paused_until > now {
                    return self.k.schedule(server.paused_until, event);
                }
                server.due(&mut self.k, life, what);
            }
            Event::Boot { server } => {
                if self.servers[server].process.is_none() {
                    self.servers[server].boot(&mut self.k);
                }
            }
            Event::Client { client, turn } => {
                self.clients[client].wake(&mut self.k, &mut self.h, turn);
            }
            Event::Fault(i) => {
                if !self.healed && self.keep[i] {
                    self.strike(i);
                }
            }
            Event::FaultEnd(i) => self.end(i),
            Event::Heal => self.heal(),
        }
    }

    fn crash(&mut self, server: usize, silent: bool, wipe: bool, down: u64) {
        if self.servers[server].process.is_none() {
            return;
        }
        self.servers[server].die(&mut self.k, silent, wipe);
        self.k.after(down, Event::Boot { server });
    }

    fn strike(&mut self, i: usize) {
        let Planned { lasts, fault, .. } = self.plan[i].clone();
        self.k.tell(|| format!("fault {i}: {fault:?} for {:.1} ms", lasts as f64 / 1e6));
        let now = self.k.now;
        let mut point = None;
        match fault {
            Fault::Crash { server, silent } => {
                point = Some(if silent { Point::CrashSilent } else { Point::Crash });
                self.crash(server, silent, false, lasts);
            }
            Fault::CrashAll => {
                point = Some(Point::CrashAll);
                for server in 0..self.servers.len() {
                    let down = self.rng.around(lasts);
                    self.crash(server, true, false, down);
                }
            }
            Fault::CrashAtWrite { server, nth } => {
                point = Some(Point::CrashAtDiskWrite);
                // The operation fails, the process ends, and the machine loses power.
                self.servers[server].power_fails = true;
                self.servers[server].disk.fail(nth, vfs::mem::Failure::Eio);
            }
            Fault::CrashAtPacket { server, nth } => {
                self.servers[server].packets_left = Some(nth);
            }
            Fault::Wipe { server } => {
                // One at a time: a majority that is gone is gone. Who has not joined yet, in an ensemble that began without
                // histories, counts as gone: nobody can tell it from one that was wiped.
                if self.servers.iter().all(|s| !s.blank) && self.servers[server].process.is_some() {
                    point = Some(Point::Wipe);
                    self.crash(server, true, true, lasts);
                }
            }
            Fault::Pause { server } => {
                point = Some(Point::Pause);
                self.servers[server].paused_until = now + lasts;
                self.h.stand_still(Still { server, from: now, to: now + lasts });
            }
            Fault::Cut { links, whole, one_port } => {
                self.k.hit(if whole { Point::CutWhole } else { Point::CutOneWay });
                if one_port {
                    self.k.hit(Point::CutOnePort);
                }
                for (a, b, port) in links {
                    self.k.net.cut(a, b, port);
                }
                self.last(i, lasts);
            }
            Fault::CutLeader => {
                let leads = |s: &Server| s.process.as_ref().is_some_and(|p| p.service == Service::Leading);
                if let Some(leader) = self.servers.iter().position(leads) {
                    point = Some(Point::CutLeader);
                    let mut links = Vec::new();
                    for other in (0..self.servers.len()).filter(|&o| o != leader) {
                        for port in [Port::Quorum, Port::Election] {
                            links.extend([(leader, other, port), (other, leader, port)]);
                        }
                    }
                    links.iter().for_each(|&(a, b, port)| self.k.net.cut(a, b, port));
                    self.plan[i].fault = Fault::Cut { links, whole: false, one_port: false };
                    self.last(i, lasts);
                }
            }
            Fault::Reset { a, b } => {
                point = Some(Point::Reset);
                for conn in self.k.net.between(a, b) {
                    self.k.net.reset(now, conn);
                }
            }
            Fault::SlowLink { a, b, factor } => {
                point = Some(Point::SlowLink);
                for (a, b) in [(a, b), (b, a)] {
                    let ns = self.k.net.delay(a, b) * factor;
                    self.k.net.set_delay(a, b, ns);
                }
                self.last(i, lasts);
            }
            Fault::SlowDisk { server, factor } => {
                point = Some(Point::SlowDisk);
                self.servers[server].slow *= factor;
                self.last(i, lasts);
            }
            Fault::Stall { server } => {
                point = Some(Point::StalledDisk);
                self.servers[server].stalled_until = now + lasts;
            }
            Fault::FailWrite { server, nth, how } => {
                point = Some(Point::FailedWrite);
                self.servers[server].disk.fail(nth, how);
            }
            Fault::Full { server, left } => {
                point = Some(Point::FullDisk);
                let disk = &self.servers[server].disk;
                disk.set_capacity(Some(disk.used() + left));
                self.last(i, lasts);
            }
            Fault::Rot { server } => {
                point = Some(Point::Rot);
                if self.servers[server].process.is_some() {
                    self.crash(server, true, false, lasts);
                    self.rot(server);
                }
            }
            Fault::Spoil { server } => {
                // The others are to be enough to tell who is wrong.
                if self.servers.iter().all(|s| !s.blank && s.process.is_some()) {
                    self.servers[server].spoil = true;
                    self.crash(server, false, false, lasts);
                }
            }
            Fault::WallJump { server, ms } => {
                point = Some(Point::WallJump);
                self.servers[server].clock.jump(ms);
            }
            Fault::Rate { server, rate } => {
                point = Some(Point::ClockRate);
                self.servers[server].clock.set_rate(now, rate);
            }
        }
        if let Some(point) = point {
            self.k.hit(point);
        }
    }

    fn last(&mut self, i: usize, ns: u64) {
        self.lasting[i] = true;
        self.k.after(ns, Event::FaultEnd(i));
    }

    /// Turns over one bit of a file that holds more than the very last batch: damage there can't be told from a torn
    /// write, which is documented.
    fn rot(&mut self, server: usize) {
        let mut files: Vec<(&'static str, vfs::Entry)> = Vec::new();
        for dir in ["data", "data/snapshot", "data/log"] {
            let list = self.servers[server].disk.dir(dir).list().expect("the simulated disk lists");
            files.extend(list.into_iter().filter(|e| !e.is_dir && e.len > 0).map(|e| (dir, e)));
        }
        let number =
            |e: &vfs::Entry| e.name.strip_prefix("log.").and_then(|hex| u64::from_str_radix(hex, 16).ok());
        let newest = files.iter().filter(|f| f.0 == "data/log").filter_map(|f| number(&f.1)).max();
        files.retain(|(dir, e)| match *dir {
            "data/log" => number(e).is_some() && number(e) != newest,
            _ => true,
        });
        if files.is_empty() || self.servers[server].rotten.is_some() {
            return;
        }
        let (dir, entry) = self.rng.pick(&files).clone();
        let (offset, bit) = (self.rng.below(entry.len), self.rng.below(8) as u8);
        self.servers[server].disk.flip(dir, &entry.name, offset, bit);
        self.k.tell(|| format!("bit {bit} of byte {offset} of {dir}/{} turns over", entry.name));
        self.servers[server].rotten = Some(Rotten { dir, name: entry.name, offset, bit });
    }

    /// A fault that lasted ends.
    fn end(&mut self, i: usize) {
        if !std::mem::take(&mut self.lasting[i]) {
            return;
        }
        let now = self.k.now;
        match self.plan[i].fault.clone() {
            Fault::Cut { links, .. } => {
                for (a, b, port) in links {
                    self.k.net.mend(now, a, b, port);
                }
                if self.k.net.held_back > 0 {
                    self.k.hit(Point::HeldBack);
                    self.k.net.held_back = 0;
                }
            }
            Fault::SlowLink { a, b, factor } => {
                for (a, b) in [(a, b), (b, a)] {
                    let ns = self.k.net.delay(a, b) / factor;
                    self.k.net.set_delay(a, b, ns);
                }
            }
            Fault::SlowDisk { server, factor } => self.servers[server].slow /= factor,
            Fault::Full { server, .. } => self.servers[server].disk.set_capacity(None),
            _ => {}
        }
    }

    /// No more faults; what was broken is mended, who was dead is started. Who stands still wakes when its time has come, with
    /// all that waits for it: no machine is awake in part.
    fn heal(&mut self) {
        self.k.tell(|| "heal".into());
        for i in 0..self.plan.len() {
            self.end(i);
        }
        for id in 0..self.servers.len() {
            let server = &mut self.servers[id];
            server.disk.heal();
            server.disk.set_capacity(None);
            server.stalled_until = 0;
            server.packets_left = None;
            server.trees_break = false;
            server.power_fails = false;
            if server.process.is_none() {
                self.k.after(MS, Event::Boot { server: id });
            }
        }
        self.healed = true;
    }

    /// Whether a session is served that its server does not know.
    fn is_detached(&self, session: i64) -> bool {
        self.servers.iter().filter_map(|s| s.process.as_ref()).any(|p| {
            let known = |global| p.node.session_expiry(global).iter().any(|(s, _)| s.0 == session);
            p.lines.serves(session) && !known(true) && !known(false)
        })
    }

    /// Everything is at rest: histories and states are judged.
    fn judge_end(&mut self, silent: &[i64]) {
        let now = self.k.now;
        let truth = std::mem::take(&mut self.k.judge.book.truth);
        // A server that the leader can't reach serves until it notices (syncLimit), and what it hears is not heard. While it
        // stands still it notices nothing.
        let unheard_ms = if self.servers.len() > 1 { 7 * self.setting.tick_ms } else { 0 };
        let expiry = Expiry { fast: 1101, unheard_ms };
        let judged = match check::check(&self.h, &truth, expiry, self.setting.local_sessions) {
            Ok(judged) => judged,
            Err(how) => return self.k.judge.condemn(now, "histories are right", how),
        };
        judged.met.iter().for_each(|&point| self.k.hit(point));
        for call in self.h.calls.iter().filter(|c| c.op == Op::Close && !judged.global.contains(&c.session)) {
            if call.reply.as_ref().is_some_and(|r| r.err == 0) {
                self.k.hit(Point::LocalClosed);
            }
        }
        let model = judged.model;
        for entry in &truth {
            let kind = i32::from_be_bytes(entry.record[28..32].try_into().expect("four bytes"));
            match kind {
                proto::txn::kind::CLOSE_SESSION if entry.record[8..12] == [0; 4] => {
                    self.k.hit(Point::SessionExpired);
                    if entry.record.len() > 32 + 4 + 12 {
                        self.k.hit(Point::EphemeralGone);
                    }
                }
                proto::txn::kind::DELETE_CONTAINER => self.k.hit(Point::ContainerReaped),
                _ => {}
            }
        }
        for session in silent {
            if model.sessions.contains_key(session) {
                let how = format!("session {session:#x} is silent and has not ended");
                return self.k.judge.condemn(now, "sessions of the dead end", how);
            }
        }
        for client in self.clients.iter().filter(|c| c.session().is_some()) {
            let id = client.session().expect("filtered");
            if !judged.global.contains(&id) && !self.is_detached(id) {
                continue;
            }
            if !silent.contains(&id) && !model.sessions.contains_key(&id) {
                let how = format!("session {id:#x} of a living client has ended");
                return self.k.judge.condemn(now, "sessions of the living go on", how);
            }
        }
        let trees: Vec<_> = self.servers.iter().filter_map(|s| s.process.as_ref()).map(|p| &p.tree).collect();
        if trees.iter().any(|t| t.applied_digest() != trees[0].applied_digest()) {
            let digests: Vec<_> = trees.iter().map(|t| t.applied_digest()).collect();
            return self.k.judge.condemn(now, "servers come to the same state", format!("{digests:x?}"));
        }
        // A tree that was spoilt may have come to so many that they are the majority: then nobody can tell.
        let spread = self.k.judge.book.is_quorum(|v| v.spoilt);
        for server in self.servers.iter().filter(|_| !spread) {
            let Some(process) = &server.process else { continue };
            let end = truth.last().map_or(0, |e| e.zxid);
            if process.tree.applied().to_wire() < end {
                let how =
                    format!("server {} stands at {}, the end is {end:#x}", server.id, process.tree.applied());
                return self.k.judge.condemn(now, "servers come up to date", how);
            }
            if let Err(how) = check::compare(&model, &process.tree) {
                let how = format!("server {}: {how}", server.id);
                return self.k.judge.condemn(now, "the state is what was committed", how);
            }
        }
    }
}
