//! Random requests, prepared ahead by a random depth, against the plain model. A failing seed prints itself;
//! `MODEL_SEED=n cargo test -p engine --test model` runs one alone, `MODEL_SEEDS=n` more of them.

use crate::plain::{Ask, Plain, Reply, Rules, may, parent_text};
use crate::server::{Ids, Server};
use engine::{PrepConfig, TreeConfig};
use proto::acl::AclBytes;
use proto::client::{Create, CreateOp, MultiOp, ReadOp, WriteOp};
use proto::jute::{Put, Reader};
use proto::stat::Owner;
use proto::state::SessionRecord;
use proto::txn::Txn;
use proto::{Code, SessionId, Stat};
use std::borrow::Cow;
use std::collections::VecDeque;

/// Seeds that once failed.
const KEPT: &[u64] = &[];

const IDS: &[Ids<'static>] = &[
    &[("ip", "10.0.0.1")],
    &[("ip", "10.0.0.2"), ("digest", "u:h")],
    &[("ip", "192.168.0.1"), ("digest", "v:k"), ("digest", "u:h")],
    &[("ip", "192.168.0.2"), ("super", "")],
    &[("ip", "192.168.0.3")],
];
const ROOT: Ids<'static> = IDS[3];

const DATA: &[Option<&[u8]>] = &[None, Some(b""), Some(b"x"), Some(b"sixteen bytes ..."), Some(&[7; 300])];

const ODD_PATHS: &[&str] = &[
    "",
    "/",
    "//",
    "a",
    "a/b",
    "/a/",
    "/a//b",
    "/a/.",
    "/a/../b",
    "/\u{1}",
    "/a\0b",
    "/a/\u{fffd}",
    "/nopar/\u{1}",
    "/zookeeper",
    "/zookeeper/quota",
    "/zookeeper/config",
    "/zookeeper/other",
];

#[test]
fn random_requests_agree_with_the_plain_model() {
    let number = |name: &str| std::env::var(name).ok().map(|v| v.parse().expect("a number"));
    if let Some(seed) = number("MODEL_SEED") {
        return run(seed);
    }
    let random = 1..=number("MODEL_SEEDS").unwrap_or(150);
    KEPT.iter().copied().chain(random).for_each(run);
}

fn run(seed: u64) {
    let _named = NameSeed(seed);
    let mut world = World::new(seed);
    for _ in 0..400 {
        world.step();
    }
    world.drain();
    world.compare();
}

struct NameSeed(u64);

impl Drop for NameSeed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("to repeat: MODEL_SEED={} cargo test -p engine --test model", self.0);
        }
    }
}

struct World {
    chance: Chance,
    server: Server,
    model: Plain,
    /// Sessions made so far with the index of their ids; some are closed.
    sessions: Vec<(i64, usize)>,
    next_session: i64,
    /// What the records in flight must be answered with.
    expected: VecDeque<(i64, Reply)>,
    depth_max: usize,
    lists: Vec<Vec<u8>>,
}

impl World {
    fn new(seed: u64) -> World {
        let mut chance = Chance::new(seed);
        let rules = Rules {
            extended_types: chance.one_in(2),
            enforce_quota: chance.one_in(2),
            skip_acl: chance.one_in(8),
            reconfig_enabled: chance.one_in(2),
        };
        let tree = TreeConfig {
            shards: 1 << chance.below(5),
            extended_types: rules.extended_types,
            enforce_quota: rules.enforce_quota,
            skip_acl: rules.skip_acl,
            hash_seed: seed,
            ..TreeConfig::default()
        };
        let prep = PrepConfig { reconfig_enabled: rules.reconfig_enabled, ..PrepConfig::default() };
        let depth_max = [1, 4, 40][chance.below(3)];
        World {
            chance,
            server: Server::new(tree, prep),
            model: Plain::new(rules),
            sessions: Vec::new(),
            next_session: 0x0100_0000_0000_0001,
            expected: VecDeque::new(),
            depth_max,
            lists: acl_lists(),
        }
    }

    fn step(&mut self) {
        match self.chance.below(40) {
            0 | 1 => self.open_session(),
            2 => self.close_session(),
            3 => self.change_quotas(),
            4 => {
                self.drain();
                self.compare();
            }
            _ => self.request(),
        }
        while self.server.in_flight.len() > self.chance.below(self.depth_max) {
            self.apply();
        }
    }

    /// One request through the model at once and through prepare; its record waits to be applied.
    fn submit(&mut self, session: i64, ids: Ids<'_>, op: &WriteOp<'_>) {
        let zxid = self.server.prepare(session, ids, op);
        let ask = Ask { session, ids, zxid, time: self.server.time };
        let reply = self.model.execute(&ask, op);

        let record = self.server.last_record();
        assert_eq!((record.header.session, record.header.time.0), (SessionId(session), self.server.time));
        match (&reply, &record.txn) {
            (Reply::Error(code), txn) => {
                assert_eq!(*txn, Txn::Error { code: code.wire() }, "{op:?}");
                assert_eq!(record.digest, None);
            }
            (_, Txn::Error { code }) => panic!("{op:?} fails with {code} instead of {reply:?}"),
            (_, _) => {
                let digest = record.digest.expect("a digest behind every success and every multi");
                assert_eq!(digest.tree, self.server.prep.digest());
            }
        }
        // Whole trees are summed up rarely: it is slow.
        if self.chance.one_in(10) {
            assert_eq!(self.server.prep.digest(), self.model.digest(), "{op:?}");
        }
        self.expected.push_back((zxid, reply));
    }

    fn apply(&mut self) {
        let (zxid, reply) = self.server.apply_untold();
        assert_eq!(self.expected.pop_front(), Some((zxid, reply)));
        // Prepare may hear late of what is applied.
        if self.chance.one_in(3) {
            self.server.tell_applied();
        }
    }

    fn drain(&mut self) {
        while !self.server.in_flight.is_empty() {
            self.apply();
        }
        self.server.tell_applied();
    }

    fn open_session(&mut self) {
        let id = self.next_session;
        self.next_session += 1;
        let who = self.chance.below(IDS.len());
        self.sessions.push((id, who));
        self.submit(id, IDS[who], &WriteOp::CreateSession { timeout_ms: 4000 });
    }

    fn close_session(&mut self) {
        let (session, ids) = self.asker();
        self.submit(session, ids, &WriteOp::CloseSession);
    }

    /// Mostly a session that is open, now and then one that is closed or never was.
    fn asker(&mut self) -> (i64, Ids<'static>) {
        if self.sessions.is_empty() {
            return (99, IDS[0]);
        }
        for _ in 0..4 {
            let (id, who) = self.sessions[self.chance.below(self.sessions.len())];
            if self.model.sessions.contains_key(&id) {
                return (id, IDS[who]);
            }
        }
        let (id, who) = self.sessions[self.chance.below(self.sessions.len())];
        (id, IDS[who])
    }

    /// Quotas are changed with nothing in flight: before and behind, prepare goes by the applied limits.
    fn change_quotas(&mut self) {
        let Some(&(session, _)) = self.sessions.iter().find(|(id, _)| self.model.sessions.contains_key(id))
        else {
            return;
        };
        self.drain();
        let subject = self.plain_path();
        let quota = format!("/zookeeper/quota{subject}");
        let list = self.lists[0].clone();
        let open = AclBytes::decode(&mut Reader::new(&list)).unwrap();
        let limits = format!(
            "count=-1,bytes=-1=;byteHardLimit={};countHardLimit={}",
            self.chance.below(900) as i64 - 1,
            self.chance.below(12) as i64 - 1
        );
        let create = |path: String, data: &'static [u8]| {
            WriteOp::Create(Create {
                op: CreateOp::Create,
                path: path.into(),
                data: Some(data),
                acl: open,
                flags: 0,
                ttl_ms: -1,
            })
        };
        let (limits_path, stats_path) =
            (format!("{quota}/zookeeper_limits"), format!("{quota}/zookeeper_stats"));
        if self.model.znodes.contains_key(&limits_path) {
            for path in [stats_path, limits_path] {
                self.submit(session, ROOT, &WriteOp::Delete { path: path.into(), version: -1 });
                self.drain();
            }
            return;
        }
        for (at, _) in subject.match_indices('/').skip(1).chain([(subject.len(), "")]) {
            let path = format!("/zookeeper/quota{}", &subject[..at]);
            self.submit(session, ROOT, &create(path, b""));
        }
        let limits: &'static [u8] = limits.into_bytes().leak();
        self.submit(session, ROOT, &create(limits_path, limits));
        self.submit(session, ROOT, &create(stats_path, b"count=0,bytes=0"));
        self.drain();
    }

    fn request(&mut self) {
        let (session, ids) = self.asker();
        let lists = std::mem::take(&mut self.lists);
        let op = match self.chance.below(24) {
            0..8 => WriteOp::Create(self.create(&lists, false)),
            8..11 => WriteOp::Delete { path: self.path(), version: self.version() },
            11..15 => WriteOp::SetData { path: self.path(), data: self.data(), version: self.version() },
            15 | 16 => WriteOp::SetAcl { path: self.path(), acl: self.list(&lists), version: self.version() },
            17..22 => {
                let n = self.chance.below(6);
                WriteOp::Multi((0..n).map(|_| self.multi_op(&lists)).collect())
            }
            22 => WriteOp::DeleteContainer { path: self.path() },
            _ => match self.chance.below(4) {
                0 => WriteOp::BadMulti,
                1 => WriteOp::Reconfig { joining: None, leaving: None, new_members: None, config_id: -1 },
                _ => WriteOp::Delete { path: self.path(), version: -1 },
            },
        };
        match op {
            WriteOp::DeleteContainer { .. } => self.submit(0, &[], &op),
            _ => self.submit(session, ids, &op),
        }
        drop(op);
        self.lists = lists;
    }

    fn multi_op<'a>(&mut self, lists: &'a [Vec<u8>]) -> MultiOp<'a> {
        match self.chance.below(8) {
            0..4 => MultiOp::Create(self.create(lists, true)),
            4 => MultiOp::Delete { path: self.path(), version: self.version() },
            5 | 6 => MultiOp::SetData { path: self.path(), data: self.data(), version: self.version() },
            _ => MultiOp::Check { path: self.path(), version: self.version() },
        }
    }

    fn create<'a>(&mut self, lists: &'a [Vec<u8>], in_multi: bool) -> Create<'a> {
        let op = [CreateOp::Create, CreateOp::Create2, CreateOp::Container, CreateOp::Ttl]
            [[0, 0, 0, 0, 1, 1, 1, 2, 3, 3][self.chance.below(10)]];
        let flags = match self.chance.below(16) {
            // A multi with such flags does not get past its decoder.
            0 if !in_multi => [7, -1][self.chance.below(2)],
            0..4 => self.chance.below(7) as i32,
            _ => match op {
                CreateOp::Container => 4,
                CreateOp::Ttl => [5, 6][self.chance.below(2)],
                CreateOp::Create | CreateOp::Create2 => [0, 0, 0, 1, 1, 2, 3][self.chance.below(7)],
            },
        };
        Create {
            op,
            path: self.path(),
            data: self.data(),
            acl: self.list(lists),
            flags,
            ttl_ms: match op {
                CreateOp::Ttl => [1, 20, 20, 5000, -1, 0, 1 << 40][self.chance.below(7)],
                _ => -1,
            },
        }
    }

    fn path(&mut self) -> Cow<'static, str> {
        if self.chance.one_in(20) {
            return ODD_PATHS[self.chance.below(ODD_PATHS.len())].into();
        }
        if self.chance.one_in(3) {
            let at = self.chance.below(self.model.znodes.len());
            let path = self.model.znodes.keys().nth(at).unwrap();
            // Quotas have requests of their own.
            if !path.starts_with("/zookeeper/quota/") {
                return path.clone().into();
            }
        }
        self.plain_path().into()
    }

    fn plain_path(&mut self) -> String {
        let names = ["a", "b", "c", "a-"];
        let depth = 1 + self.chance.below(3);
        (0..depth).map(|_| format!("/{}", names[self.chance.below(names.len())])).collect()
    }

    fn version(&mut self) -> i32 {
        [-1, -1, -1, 0, 0, 1, 2, -2][self.chance.below(8)]
    }

    fn data(&mut self) -> Option<&'static [u8]> {
        DATA[self.chance.below(DATA.len())]
    }

    fn list<'a>(&mut self, lists: &'a [Vec<u8>]) -> AclBytes<'a> {
        let at = if self.chance.one_in(2) { 0 } else { self.chance.below(lists.len()) };
        AclBytes::decode(&mut Reader::new(&lists[at])).unwrap()
    }

    /// Everything that can be read, with nothing in flight.
    fn compare(&mut self) {
        assert!(self.server.in_flight.is_empty());
        assert_eq!(self.server.prep.outstanding(), 0);
        assert_eq!(self.server.prep.digest(), self.server.tree.digest());
        assert_eq!(self.server.tree.digest(), self.model.digest());
        let missing = ["/a", "/b/c", "/zz", "/a/b/c/a-", "zz", "/a/", "//", ""];
        let paths: Vec<String> = self.model.znodes.keys().cloned().chain(missing.map(String::from)).collect();
        for path in &paths {
            self.compare_znode(path);
        }
        // The node map of Apache holds the root twice.
        assert_eq!(self.server.tree.stats().znodes, self.model.znodes.len() as u64 + 1);
        let sessions: Vec<SessionRecord> = self
            .model
            .sessions
            .iter()
            .map(|(&id, &timeout_ms)| SessionRecord { session: SessionId(id), timeout_ms })
            .collect();
        let mut found = self.server.tree.sessions();
        found.sort_unstable_by_key(|s| s.session);
        assert_eq!(found, sessions);
        for &(id, _) in &self.sessions {
            let mut found = self.server.tree.ephemerals_of(SessionId(id));
            found.sort_unstable();
            let found: Vec<String> = found.into_iter().map(String::from).collect();
            assert_eq!(found, self.model.ephemerals(id), "ephemerals of {id:#x}");
        }
        let model = &self.model;
        let orphaned = model
            .znodes
            .iter()
            .find(|(_, z)| matches!(model.owner(z), Owner::Session(id) if !model.sessions.contains_key(&id)));
        assert!(orphaned.is_none(), "{orphaned:?}");
    }

    fn compare_znode(&mut self, path: &str) {
        let spelled = if path.is_empty() { "/" } else { path };
        let znode = self.model.znodes.get(spelled).cloned();
        let who = IDS[self.chance.below(IDS.len())];
        let want = |perm: i32| match &znode {
            None => Code::NoNode.wire(),
            Some(z) if self.model.rules.skip_acl || may(who, z, perm) => 0,
            Some(_) => Code::NoAuth.wire(),
        };
        let path: Cow<'_, str> = path.into();
        let data = ReadOp::GetData { path: path.clone(), watch: false };
        assert_eq!(self.server.read(1, who, &data).0, want(1), "{path} as {who:?}");
        let exists = ReadOp::Exists { path: path.clone(), watch: false };
        assert_eq!(self.server.read(1, who, &exists).0, want(1), "{path} as {who:?}");
        let acl = ReadOp::GetAcl { path: path.clone() };
        assert_eq!(self.server.read(1, who, &acl).0, want(1 | 16), "{path} as {who:?}");
        let Some(znode) = znode else { return };

        let stat = self.model.stat(spelled).unwrap();
        let (_, body) = self.server.read(1, ROOT, &data);
        let mut r = Reader::new(&body);
        assert_eq!(r.buffer().unwrap(), znode.data.as_deref(), "the value of {path}");
        assert_eq!(Stat::decode(&mut r).unwrap(), stat, "the stat of {path}");
        let (_, body) = self.server.read(1, ROOT, &exists);
        assert_eq!(Stat::decode(&mut Reader::new(&body)).unwrap(), stat);

        let (_, body) = self.server.read(1, ROOT, &acl);
        let mut r = Reader::new(&body);
        let list = AclBytes::decode(&mut r).unwrap();
        let entries: Vec<_> = list
            .entries()
            .map(|e| (e.perms, e.scheme.unwrap().into_owned(), e.id.unwrap().into_owned()))
            .collect();
        assert_eq!(entries, znode.acl, "the ACL of {path}");
        assert_eq!(Stat::decode(&mut r).unwrap(), stat);

        let (_, body) = self.server.read(1, ROOT, &ReadOp::GetChildren2 { path: path.clone(), watch: false });
        let mut r = Reader::new(&body);
        let mut names = r.strings().unwrap().unwrap();
        names.sort_unstable();
        assert_eq!(names, self.model.child_names(spelled), "the children of {path}");
        assert_eq!(Stat::decode(&mut r).unwrap(), stat);
        if spelled != "/" {
            assert!(self.model.znodes.contains_key(&parent_text(spelled)));
        }
    }
}

/// The lists that requests carry; the first is the open one.
fn acl_lists() -> Vec<Vec<u8>> {
    let list = |entries: &[(i32, &str, &str)]| {
        let mut out = Vec::new();
        out.put_count(entries.len());
        for (perms, scheme, id) in entries {
            out.put_i32(*perms);
            out.put_str(scheme);
            out.put_str(id);
        }
        out
    };
    vec![
        list(&[(31, "world", "anyone")]),
        list(&[(1, "world", "anyone")]),
        list(&[(5, "world", "anyone")]),
        list(&[(9, "world", "anyone"), (31, "digest", "u:h")]),
        list(&[(31, "auth", "")]),
        list(&[(1, "world", "anyone"), (31, "auth", ""), (1, "world", "anyone")]),
        list(&[(31, "ip", "10.0.0.0/8")]),
        list(&[(31, "digest", "v:k")]),
        list(&[(64, "world", "anyone")]),
        list(&[(31, "world", "nobody")]),
        list(&[(31, "digest", "nocolon")]),
        list(&[(31, "nosuch", "x")]),
        list(&[]),
        (-1_i32).to_be_bytes().to_vec(),
    ]
}

/// xorshift64*.
struct Chance(u64);

impl Chance {
    fn new(seed: u64) -> Chance {
        Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize) % n
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}
