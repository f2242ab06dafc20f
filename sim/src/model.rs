//! The semantics once more, as plainly as they can be written: a map of paths, one request after the other. The history
//! of a run is judged by it.

use crate::op::Op;
use proto::client::{CreateMode, EventType, MultiResult, WriteReply};
use proto::{Code, Stat};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// A znode.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Znode {
    /// Its value.
    pub data: Vec<u8>,
    /// Its stat without what follows from data and children; `cversion` counts creations.
    pub stat: Stat,
    /// A container: may be removed by the server when it is empty.
    pub container: bool,
}

/// Something that watches hear of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// What.
    pub event: EventType,
    /// Where.
    pub path: String,
}

/// The replicated state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Model {
    /// All znodes but those below /zookeeper.
    pub znodes: BTreeMap<String, Znode>,
    /// Sessions with their time-outs.
    pub sessions: BTreeMap<i64, i32>,
    /// Sessions that only their servers know: they may do what leaves them owning nothing.
    pub local: BTreeSet<i64>,
    /// What an ephemeral of such a session fails with.
    pub refusal: Code,
    changes: Vec<Change>,
}

/// What a request led to.
#[derive(Clone, PartialEq, Debug)]
pub enum Answer {
    /// create.
    Path(String),
    /// create2.
    PathStat(String, Stat),
    /// setData.
    Stat(Stat),
    /// multi.
    Multi(Vec<MultiResult>),
    /// delete, closeSession.
    Empty,
    /// A failure.
    Error(Code),
}

impl Answer {
    /// As a server writes it.
    pub fn with_reply<R>(&self, take: impl FnOnce(&WriteReply<'_>) -> R) -> R {
        match self {
            Answer::Path(p) => take(&WriteReply::Path(p)),
            Answer::PathStat(p, s) => take(&WriteReply::PathStat(p, *s)),
            Answer::Stat(s) => take(&WriteReply::Stat(*s)),
            Answer::Multi(m) => take(&WriteReply::Multi(m)),
            Answer::Empty => take(&WriteReply::Empty),
            Answer::Error(code) => take(&WriteReply::Error(*code)),
        }
    }
}

/// When and for whom.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// The session.
    pub session: i64,
    /// The zxid.
    pub zxid: i64,
    /// The leader's wall clock, ms.
    pub time: i64,
}

impl Default for Model {
    fn default() -> Model {
        let mut znodes = BTreeMap::new();
        znodes.insert("/".to_string(), Znode::default());
        znodes.insert("/zookeeper".to_string(), Znode::default());
        Model {
            znodes,
            sessions: BTreeMap::new(),
            local: BTreeSet::new(),
            refusal: Code::SessionExpired,
            changes: Vec::new(),
        }
    }
}

fn parent(path: &str) -> &str {
    match path.rfind('/') {
        Some(0) | None => "/",
        Some(at) => &path[..at],
    }
}

impl Model {
    /// The state of the beginning, with these local sessions.
    pub fn with_local(sessions: impl Iterator<Item = i64>) -> Model {
        let mut model = Model::default();
        model.local.extend(sessions);
        model
    }

    /// Runs one request. The changes that watches hear of are taken by [`Model::take_changes`].
    pub fn execute(&mut self, ask: Ask, op: &Op) -> Answer {
        let done = match op {
            Op::Multi(ops) => Ok(self.multi(ask, ops)),
            Op::Close => {
                self.close_session(ask);
                Ok(Answer::Empty)
            }
            one => self.one(ask, one),
        };
        done.unwrap_or_else(Answer::Error)
    }

    /// What changed since the last call, in order.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// A session is opened, or known to every server from now on.
    pub fn create_session(&mut self, ask: Ask, timeout_ms: i32) {
        self.local.remove(&ask.session);
        self.sessions.insert(ask.session, timeout_ms);
    }

    /// A session is closed, and its ephemerals go.
    pub fn close_session(&mut self, ask: Ask) {
        let own = |z: &Znode| z.stat.ephemeral_owner == ask.session;
        let paths: Vec<String> = self.znodes.iter().filter(|(_, z)| own(z)).map(|(p, _)| p.clone()).collect();
        for path in paths {
            self.remove(ask, &path);
        }
        self.sessions.remove(&ask.session);
    }

    /// The server removes an empty container; whether it may.
    pub fn delete_container(&mut self, ask: Ask, path: &str) -> Result<(), Code> {
        let z = self.znodes.get(path).ok_or(Code::NoNode)?;
        if self.children(path).next().is_some() {
            return Err(Code::NotEmpty);
        }
        if !z.container {
            return Err(Code::BadVersion);
        }
        self.remove(ask, path);
        Ok(())
    }

    fn one(&mut self, ask: Ask, op: &Op) -> Result<Answer, Code> {
        if !self.sessions.contains_key(&ask.session) {
            if !self.local.contains(&ask.session) {
                return Err(Code::SessionExpired);
            }
            if matches!(op, Op::Create { mode, .. } if mode.is_ephemeral()) {
                return Err(self.refusal);
            }
        }
        match op {
            Op::Create { path, data, mode, stat } => {
                let path = self.create(ask, path, data, *mode)?;
                Ok(if *stat || *mode == CreateMode::Container {
                    let stat = self.stat(&path).expect("just created");
                    Answer::PathStat(path, stat)
                } else {
                    Answer::Path(path)
                })
            }
            Op::Delete { path, version } => {
                let z = self.znodes.get(path).ok_or(Code::NoNode)?;
                check(z, *version)?;
                if self.children(path).next().is_some() {
                    return Err(Code::NotEmpty);
                }
                self.remove(ask, path);
                Ok(Answer::Empty)
            }
            Op::Set { path, data, version } => {
                let z = self.znodes.get_mut(path).ok_or(Code::NoNode)?;
                check(z, *version)?;
                z.data.clone_from(data);
                z.stat.version += 1;
                z.stat.mzxid = ask.zxid;
                z.stat.mtime = ask.time;
                self.note(EventType::NodeDataChanged, path);
                Ok(Answer::Stat(self.stat(path).expect("just set")))
            }
            Op::Check { path, version } => {
                check(self.znodes.get(path).ok_or(Code::NoNode)?, *version)?;
                Ok(Answer::Empty)
            }
            other => unreachable!("{other:?} takes no zxid"),
        }
    }

    fn create(&mut self, ask: Ask, path: &str, data: &[u8], mode: CreateMode) -> Result<String, Code> {
        let above = parent(path).to_string();
        let up = self.znodes.get(&above).ok_or(Code::NoNode)?;
        let path = match mode.is_sequential() {
            true => format!("{path}{:010}", up.stat.cversion),
            false => path.to_string(),
        };
        if self.znodes.contains_key(&path) {
            return Err(Code::NodeExists);
        }
        if up.stat.ephemeral_owner != 0 {
            return Err(Code::NoChildrenForEphemerals);
        }
        let stat = Stat {
            czxid: ask.zxid,
            mzxid: ask.zxid,
            pzxid: ask.zxid,
            ctime: ask.time,
            mtime: ask.time,
            ephemeral_owner: if mode.is_ephemeral() { ask.session } else { 0 },
            ..Stat::default()
        };
        let up = self.znodes.get_mut(&above).expect("looked at above");
        up.stat.cversion += 1;
        up.stat.pzxid = ask.zxid;
        let container = mode == CreateMode::Container;
        self.znodes.insert(path.clone(), Znode { data: data.to_vec(), stat, container });
        self.note(EventType::NodeCreated, &path);
        self.note(EventType::NodeChildrenChanged, &above);
        Ok(path)
    }

    fn remove(&mut self, ask: Ask, path: &str) {
        self.znodes.remove(path);
        let above = parent(path).to_string();
        self.znodes.get_mut(&above).expect("a znode has a parent").stat.pzxid = ask.zxid;
        self.note(EventType::NodeDeleted, path);
        self.note(EventType::NodeChildrenChanged, &above);
    }

    fn multi(&mut self, ask: Ask, ops: &[Op]) -> Answer {
        let before = (self.znodes.clone(), self.changes.len());
        let mut results = Vec::new();
        for (i, op) in ops.iter().enumerate() {
            match self.one(ask, op) {
                Ok(answer) => results.push(match (op, answer) {
                    (Op::Delete { .. }, _) => MultiResult::Delete,
                    (Op::Check { .. }, _) => MultiResult::Check,
                    (_, Answer::Stat(s)) => MultiResult::SetData(s),
                    (_, Answer::Path(p)) => MultiResult::Create(Cow::Owned(p)),
                    (_, Answer::PathStat(p, s)) => MultiResult::Create2(Cow::Owned(p), s),
                    (op, answer) => unreachable!("{op:?} gives {answer:?}"),
                }),
                Err(code) => {
                    self.znodes = before.0;
                    self.changes.truncate(before.1);
                    let code_of = |j: usize| match j.cmp(&i) {
                        std::cmp::Ordering::Less => 0,
                        std::cmp::Ordering::Equal => code.wire(),
                        std::cmp::Ordering::Greater => Code::RuntimeInconsistency.wire(),
                    };
                    return Answer::Multi((0..ops.len()).map(|j| MultiResult::Error(code_of(j))).collect());
                }
            }
        }
        Answer::Multi(results)
    }

    fn note(&mut self, event: EventType, path: &str) {
        self.changes.push(Change { event, path: path.to_string() });
    }

    /// The names of the children of `path`.
    pub fn children<'a>(&'a self, path: &'a str) -> impl Iterator<Item = &'a str> {
        let prefix = if path == "/" { String::from("/") } else { format!("{path}/") };
        let from = prefix.clone();
        self.znodes
            .range(from..)
            .map(|(p, _)| p.as_str())
            .take_while({
                let prefix = prefix.clone();
                move |p| p.starts_with(&prefix)
            })
            .filter_map(move |p| {
                let name = &p[prefix.len()..];
                (!name.is_empty() && !name.contains('/')).then_some(name)
            })
    }

    /// The stat of a znode as clients see it.
    pub fn stat(&self, path: &str) -> Option<Stat> {
        let z = self.znodes.get(path)?;
        let children = match path {
            // The three below /zookeeper are not kept here.
            "/zookeeper" => 2,
            _ => self.children(path).count() as i32,
        };
        Some(Stat {
            cversion: 2 * z.stat.cversion - children,
            data_length: z.data.len() as i32,
            num_children: children,
            ..z.stat
        })
    }
}

fn check(z: &Znode, version: i32) -> Result<(), Code> {
    if version != -1 && version != z.stat.version { Err(Code::BadVersion) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_multi_changes_nothing_and_tells_nobody() {
        let mut m = Model::default();
        let ask = Ask { session: 1, zxid: 1, time: 0 };
        m.create_session(ask, 100);
        let create = |path: &str| Op::Create {
            path: path.into(),
            data: vec![],
            mode: CreateMode::Persistent,
            stat: false,
        };
        let gone = Op::Delete { path: "/no".into(), version: -1 };
        let before = m.clone();
        let answer = m.execute(ask, &Op::Multi(vec![create("/a"), gone, create("/b")]));
        assert_eq!(answer, Answer::Multi([0, -101, -2].map(MultiResult::Error).to_vec()));
        assert_eq!(m, before);
        assert_eq!(m.execute(ask, &create("/a")), Answer::Path("/a".into()));
        assert_eq!(m.take_changes().len(), 2);
    }
}
