//! From request to txn: the leader's checks against the tree as it will be (Apache: PrepRequestProcessor).
//!
//! [`Prep`] holds the *projected state*: the tree plus everything that is prepared and not yet applied. Each
//! request is checked against it in Apache's order of errors (semantics, section 5) and becomes exactly one
//! record, which carries all its results; a request that fails becomes an error txn and takes its zxid too.
//!
//! ```text
//!   WriteOp ─ session ─ form ─ ACL list ─ znode ─ permission ─ version, children, quota   (the first failure wins)
//!              │ encode the body, check that the record fits
//!              ▼ change the projected state: stats, children, digest, sessions, quotas
//!   record = header, body, digest of the tree after it
//! ```
//!
//! A multi runs its operations one behind the other on the projected state; the first failure undoes them all.
//!
//! Memory grows with what is in flight and shrinks by [`Prep::applied`]: whoever admits requests bounds it.

mod outstanding;
mod quota;
mod sessions;

use crate::acl::{self, Identity, Schemes};
use crate::digest::{is_outside, node_digest, stat_block};
use crate::limits::RECORD_BYTES_MAX;
use crate::{NodeView, Tree};
use outstanding::{Acl, Node, Outstanding};
use proto::acl::{AclBytes, perms};
use proto::client::{Create, CreateMode, CreateOp, MultiOp, WriteOp};
use proto::jute::{Put, begin_frame, end_frame};
use proto::stat::Owner;
use proto::txn::{CreateTxnKind, DIGEST_VERSION, RecordBatch, Txn, TxnDigest, TxnHeader, kind};
use proto::{Code, SessionId, StatPersisted, WallMs, Xid, Zxid, path as paths};
use quota::{InFlightUse, Use};
use sessions::{ReplicatedSession, Sessions, listed_len};
use std::borrow::Cow;
use std::fmt::Write as _;

/// What an operator decides about requests, beyond [`crate::TreeConfig`].
#[derive(Clone, Debug)]
pub struct PrepConfig {
    /// The schemes of ACLs.
    pub schemes: Schemes,
    /// `reconfigEnabled`. A server alone answers a reconfig with Unimplemented when it is on, and with
    /// ReconfigDisabled when it is off.
    pub reconfig_enabled: bool,
    /// The longest encoded record in bytes, header and digest included. A request beyond it fails with a
    /// marshalling error, and so does an ephemeral whose session could then not be closed in one record.
    pub record_bytes_max: usize,
}

impl Default for PrepConfig {
    fn default() -> PrepConfig {
        PrepConfig {
            schemes: Schemes::standard(),
            reconfig_enabled: false,
            record_bytes_max: RECORD_BYTES_MAX,
        }
    }
}

/// What is known of the session that asks, beside the replicated state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Nothing: it is open if it is open in the replicated state.
    Replicated,
    /// If the replicated state does not know it, it is local to a server that says it is open. Such a session may do
    /// whatever leaves it owning nothing.
    Vouched {
        /// What an ephemeral of it fails with.
        ephemeral: Code,
    },
}

/// A request to be prepared.
#[derive(Clone, Copy, Debug)]
pub struct PrepRequest<'a> {
    /// The session that asks; the one to be made, for [`WriteOp::CreateSession`].
    pub session: SessionId,
    /// What is known of that session beside the replicated state.
    pub standing: Standing,
    /// The client's number of the request.
    pub cxid: Xid,
    /// The leader's wall clock.
    pub time: WallMs,
    /// The ids of the connection.
    pub identity: &'a Identity,
    /// What is asked.
    pub op: &'a WriteOp<'a>,
}

/// The leader's projected state. One exists while a server leads, and all writes pass through it.
#[derive(Debug)]
pub struct Prep {
    config: PrepConfig,
    rules: Rules,
    changes: Outstanding,
    sessions: Sessions,
    in_flight_use: InFlightUse,
    /// The digest of the projected tree.
    digest: i64,
    /// Everything up to there is applied.
    applied: Zxid,
    /// Where the names of sequential znodes are written.
    name: String,
}

/// The part of the tree's configuration that the checks need.
#[derive(Clone, Copy, Debug)]
struct Rules {
    extended_types: bool,
    enforce_quota: bool,
    skip_acl: bool,
    digest_enabled: bool,
}

/// What one request, or one operation of a multi, is prepared with.
#[derive(Clone, Copy)]
struct Ask<'a> {
    tree: &'a Tree,
    session: SessionId,
    standing: Standing,
    identity: &'a Identity,
    zxid: Zxid,
    time: WallMs,
    /// The body may not grow beyond this length of the batch.
    end_max: usize,
}

/// The header type of the txn that an operation became.
type Kind = i32;

impl Prep {
    /// The projected state of a server that begins to lead: every txn of its log is applied to `tree`.
    pub fn new(tree: &Tree, config: PrepConfig) -> Prep {
        let t = tree.config();
        Prep {
            config,
            rules: Rules {
                extended_types: t.extended_types,
                enforce_quota: t.enforce_quota,
                skip_acl: t.skip_acl,
                digest_enabled: t.digest_enabled,
            },
            changes: Outstanding::new(t.hash_seed),
            sessions: Sessions::default(),
            in_flight_use: InFlightUse::default(),
            digest: tree.digest(),
            applied: tree.applied(),
            name: String::new(),
        }
    }

    /// Appends to `out` the one record that `request` becomes under `zxid`: a txn with the digest of the tree
    /// after it, or an error txn without.
    ///
    /// # Panics
    /// When `zxid` does not follow the last one of `out`.
    pub fn prepare(&mut self, tree: &Tree, request: &PrepRequest<'_>, zxid: Zxid, out: &mut RecordBatch) {
        out.push_with(zxid, |bytes| {
            let start = bytes.len();
            let ask = Ask {
                tree,
                session: request.session,
                standing: request.standing,
                identity: request.identity,
                zxid,
                time: request.time,
                end_max: start + self.config.record_bytes_max.saturating_sub(TxnDigest::LEN),
            };
            let header = TxnHeader {
                session: request.session,
                cxid: request.cxid,
                zxid,
                time: request.time,
                kind: kind::ERROR,
            };
            header.encode(bytes);
            let body = bytes.len();
            match self.request(&ask, request.op, bytes) {
                Ok(kind) => {
                    bytes[body - 4..body].copy_from_slice(&kind.to_be_bytes());
                    if self.rules.digest_enabled {
                        TxnDigest { version: DIGEST_VERSION, tree: self.digest }.encode(bytes);
                    }
                }
                Err(code) => {
                    bytes.truncate(body);
                    bytes.put_i32(code.wire());
                }
            }
            self.sessions.keep();
        });
    }

    /// The tree has applied every txn up to `upto`: what they changed is read from there again.
    pub fn applied(&mut self, upto: Zxid) {
        self.applied = self.applied.max(upto);
        self.changes.applied(upto);
        self.sessions.applied(upto);
        self.in_flight_use.applied(upto);
    }

    /// Paths that are in flight.
    pub fn outstanding(&self) -> usize {
        self.changes.len()
    }

    /// The digest of the projected tree.
    pub fn digest(&self) -> i64 {
        self.digest
    }

    fn request(&mut self, ask: &Ask<'_>, op: &WriteOp<'_>, out: &mut Vec<u8>) -> Result<Kind, Code> {
        match op {
            WriteOp::Create(create) => self.create(ask, create, out),
            WriteOp::Delete { path, version } => self.delete(ask, path, *version, out),
            WriteOp::SetData { path, data, version } => self.set_data(ask, path, *data, *version, out),
            WriteOp::SetAcl { path, acl, version } => self.set_acl(ask, path, *acl, *version, out),
            WriteOp::Multi(ops) => self.multi(ask, ops, out),
            WriteOp::BadMulti => Err(Code::MarshallingError),
            WriteOp::Reconfig { .. } => Err(self.refuse_reconfig(ask)),
            WriteOp::CreateSession { timeout_ms } => {
                self.sessions.open(ask.session)?;
                encode(ask, &Txn::CreateSession { timeout_ms: *timeout_ms }, out)
            }
            WriteOp::CloseSession => self.close_session(ask, out),
            WriteOp::DeleteContainer { path } => self.delete_container(ask, path, out),
        }
    }

    fn create(&mut self, ask: &Ask<'_>, c: &Create<'_>, out: &mut Vec<u8>) -> Result<Kind, Code> {
        let mode = self.check_mode(c)?;
        let session = self.sessions.check(ask.tree, ask.session, ask.standing)?;
        // By the flags, whatever the operation makes of them.
        let owner = if mode.is_ephemeral() { Some(session.as_owner()?) } else { None };
        let parent_path = parent_in(&c.path)?;
        let acl =
            acl::fix_up(c.acl, ask.identity, &self.config.schemes).map_err(|_invalid| Code::InvalidAcl)?;
        let acl = acl::fixed(&acl);
        let parent = self.node(ask, parent_path).ok_or(Code::NoNode)?;
        self.permit(ask, &parent, perms::CREATE)?;
        if !mode.is_sequential() {
            return self.create_at(ask, c, owner, &c.path, (parent_path, parent), acl, out);
        }
        let mut name = std::mem::take(&mut self.name);
        name.clear();
        name.push_str(&c.path);
        // The number has at least ten characters with its sign, as Java's %010d.
        write!(name, "{:010}", parent.stat.cversion).expect("writing to a String can't fail");
        let made = self.create_at(ask, c, owner, &name, (parent_path, parent), acl, out);
        self.name = name;
        made
    }

    /// The second half of a create, from where its final path is known.
    #[allow(clippy::too_many_arguments, reason = "one operation in two halves")]
    fn create_at(
        &mut self,
        ask: &Ask<'_>,
        c: &Create<'_>,
        ephemeral_of: Option<ReplicatedSession>,
        path: &str,
        (parent_path, parent): (&str, Node),
        acl: AclBytes<'_>,
        out: &mut Vec<u8>,
    ) -> Result<Kind, Code> {
        paths::validate(path).map_err(|_malformed| Code::BadArguments)?;
        if self.exists(ask, path) {
            return Err(Code::NodeExists);
        }
        if let Owner::Session(_) = self.owner(&parent) {
            return Err(Code::NoChildrenForEphemerals);
        }
        let data_len = c.data.map_or(0, <[u8]>::len);
        let change = Use { znodes: 1, bytes: data_len as i64 };
        let quota = self.check_quota(ask, path, change)?;
        // The operation decides the kind of znode, whatever the flags say beyond it.
        let (txn_kind, owner, session) = match c.op {
            CreateOp::Create | CreateOp::Create2 => (
                if c.op == CreateOp::Create { CreateTxnKind::Create } else { CreateTxnKind::Create2 },
                ephemeral_of.map_or(Owner::Persistent, |s| Owner::Session(s.id().0)),
                ephemeral_of,
            ),
            CreateOp::Container => (CreateTxnKind::Container, Owner::Container, None),
            CreateOp::Ttl => (CreateTxnKind::Ttl(c.ttl_ms), Owner::Ttl(c.ttl_ms), None),
        };
        if session.is_some() {
            self.check_closable(ask, path)?;
        }
        let parent_cversion = parent.stat.cversion.wrapping_add(1);
        let txn = Txn::Create {
            kind: txn_kind,
            path: Cow::Borrowed(path),
            data: c.data,
            acl,
            ephemeral: session.is_some(),
            parent_cversion,
        };
        let kind = encode(ask, &txn, out)?;

        if let Some(session) = session {
            self.sessions.gained(session, path, ask.zxid);
        }
        self.note_use(ask, quota, change);
        let zxid = ask.zxid.to_wire();
        let mut after = parent.stat;
        // As apply has it: the counter only rises, so it stays at its maximum for good.
        if parent_cversion > after.cversion {
            (after.cversion, after.pzxid) = (parent_cversion, zxid);
        }
        let children = parent.children.saturating_add(1);
        self.restat(ask, parent_path, Node { children, ..parent }, after);
        let stat = StatPersisted {
            czxid: zxid,
            mzxid: zxid,
            pzxid: zxid,
            ctime: ask.time.0,
            mtime: ask.time.0,
            ephemeral_owner: owner.stored(),
            ..StatPersisted::default()
        };
        let digest = self.digest_of(path, c.data, &stat);
        self.digest = self.digest.wrapping_add(digest.into());
        let acl = if acl == proto::acl::OPEN { Acl::Open } else { Acl::Listed(acl.as_bytes().into()) };
        let node = Node { stat, children: 0, data_len: data_len as u32, acl, digest };
        self.changes.set(path, ask.zxid, Some(node));
        Ok(kind)
    }

    fn check_mode(&self, c: &Create<'_>) -> Result<CreateMode, Code> {
        let mode = CreateMode::from_flags(c.flags).ok_or(Code::BadArguments)?;
        if mode.is_ttl() && !self.rules.extended_types {
            return Err(Code::Unimplemented);
        }
        let ttl_fits = (1..=Owner::TTL_MAX_MS).contains(&c.ttl_ms);
        // createTTL without a TTL flag is refused whatever its time: with a negative one it would become a TTL
        // znode of no valid time. So is a TTL flag on another operation, which carries no time.
        if (c.op == CreateOp::Ttl) != mode.is_ttl() || (mode.is_ttl() && !ttl_fits) {
            return Err(Code::BadArguments);
        }
        Ok(mode)
    }

    /// With `path` the session can still be closed in one record.
    fn check_closable(&mut self, ask: &Ask<'_>, path: &str) -> Result<(), Code> {
        let listed = self.sessions.ephemeral_bytes(ask.tree, &self.changes, ask.session);
        if listed + listed_len(path) > self.closing_list_max() {
            return Err(Code::MarshallingError);
        }
        Ok(())
    }

    /// The bytes that the paths of a closing txn may take.
    fn closing_list_max(&self) -> usize {
        self.config.record_bytes_max.saturating_sub(TxnHeader::LEN + 4 + TxnDigest::LEN)
    }

    fn delete(&mut self, ask: &Ask<'_>, path: &str, version: i32, out: &mut Vec<u8>) -> Result<Kind, Code> {
        self.sessions.check(ask.tree, ask.session, ask.standing)?;
        let parent_path = deletable(path)?;
        let parent = self.node(ask, parent_path).ok_or(Code::NoNode)?;
        self.permit(ask, &parent, perms::DELETE)?;
        let node = self.node(ask, path).ok_or(Code::NoNode)?;
        next_version(node.stat.version, version)?;
        if node.children > 0 {
            return Err(Code::NotEmpty);
        }
        let kind = encode(ask, &Txn::Delete { path: Cow::Borrowed(path), container: false }, out)?;
        self.remove(ask, path, &node, (parent_path, parent));
        Ok(kind)
    }

    /// The reaper's deletion. It was decided on an older tree, so all of its conditions are looked at again.
    fn delete_container(&mut self, ask: &Ask<'_>, path: &str, out: &mut Vec<u8>) -> Result<Kind, Code> {
        let parent_path = deletable(path)?;
        let node = self.node(ask, path).ok_or(Code::NoNode)?;
        if node.children > 0 {
            return Err(Code::NotEmpty);
        }
        match self.owner(&node) {
            Owner::Container => {}
            Owner::Ttl(ms) if ask.time.0.saturating_sub(node.stat.mtime) > ms => {}
            // Something else took its place, or somebody set its data in time.
            Owner::Ttl(_) | Owner::Persistent | Owner::Session(_) => return Err(Code::BadVersion),
        }
        let parent = self.node(ask, parent_path).ok_or(Code::NoNode)?;
        let kind = encode(ask, &Txn::Delete { path: Cow::Borrowed(path), container: true }, out)?;
        self.remove(ask, path, &node, (parent_path, parent));
        Ok(kind)
    }

    fn set_data(
        &mut self,
        ask: &Ask<'_>,
        path: &str,
        data: Option<&[u8]>,
        version: i32,
        out: &mut Vec<u8>,
    ) -> Result<Kind, Code> {
        self.sessions.check(ask.tree, ask.session, ask.standing)?;
        paths::validate(path).map_err(|_malformed| Code::BadArguments)?;
        let mut node = self.node(ask, path).ok_or(Code::NoNode)?;
        self.permit(ask, &node, perms::WRITE)?;
        let data_len = data.map_or(0, <[u8]>::len);
        let change = Use { znodes: 0, bytes: data_len as i64 - i64::from(node.data_len) };
        let quota = self.check_quota(ask, path, change)?;
        let version = next_version(node.stat.version, version)?;
        let txn = Txn::SetData { path: Cow::Borrowed(path), data, version, reconfig: false };
        let kind = encode(ask, &txn, out)?;

        self.note_use(ask, quota, change);
        node.stat.version = version;
        node.stat.mzxid = ask.zxid.to_wire();
        node.stat.mtime = ask.time.0;
        node.data_len = data_len as u32;
        let digest = self.digest_of(path, data, &node.stat);
        self.digest = self.digest.wrapping_sub(node.digest.into()).wrapping_add(digest.into());
        node.digest = digest;
        self.changes.set(path, ask.zxid, Some(node));
        Ok(kind)
    }

    fn set_acl(
        &mut self,
        ask: &Ask<'_>,
        path: &str,
        acl: AclBytes<'_>,
        version: i32,
        out: &mut Vec<u8>,
    ) -> Result<Kind, Code> {
        self.sessions.check(ask.tree, ask.session, ask.standing)?;
        paths::validate(path).map_err(|_malformed| Code::BadArguments)?;
        let acl =
            acl::fix_up(acl, ask.identity, &self.config.schemes).map_err(|_invalid| Code::InvalidAcl)?;
        let acl = acl::fixed(&acl);
        let mut node = self.node(ask, path).ok_or(Code::NoNode)?;
        self.permit(ask, &node, perms::ADMIN)?;
        let aversion = next_version(node.stat.aversion, version)?;
        let kind = encode(ask, &Txn::SetAcl { path: Cow::Borrowed(path), acl, aversion }, out)?;

        node.acl = if acl == proto::acl::OPEN { Acl::Open } else { Acl::Listed(acl.as_bytes().into()) };
        let after = StatPersisted { aversion, ..node.stat };
        self.restat(ask, path, node, after);
        Ok(kind)
    }

    fn check(&mut self, ask: &Ask<'_>, path: &str, version: i32, out: &mut Vec<u8>) -> Result<Kind, Code> {
        self.sessions.check(ask.tree, ask.session, ask.standing)?;
        paths::validate(path).map_err(|_malformed| Code::BadArguments)?;
        let node = self.node(ask, path).ok_or(Code::NoNode)?;
        self.permit(ask, &node, perms::READ)?;
        let version = next_version(node.stat.version, version)?;
        encode(ask, &Txn::Check { path: Cow::Borrowed(path), version }, out)
    }

    fn multi(&mut self, ask: &Ask<'_>, ops: &[MultiOp<'_>], out: &mut Vec<u8>) -> Result<Kind, Code> {
        let digest_before = self.digest;
        self.changes.begin();
        out.put_count(ops.len());
        let mut failed = false;
        for op in ops {
            if failed {
                put_failed_op(out, Code::RuntimeInconsistency);
                continue;
            }
            let start = out.len();
            out.put_i32(kind::ERROR);
            let body = begin_frame(out);
            match self.multi_op(ask, op, out) {
                Ok(kind) => {
                    out[start..start + 4].copy_from_slice(&kind.to_be_bytes());
                    end_frame(out, body);
                }
                Err(code) => {
                    out.truncate(start);
                    self.roll_back(ask.zxid, digest_before);
                    put_failed_op(out, code);
                    failed = true;
                }
            }
        }
        // The codes behind a failure may take more than the operations that fitted left.
        if out.len() > ask.end_max {
            if !failed {
                self.roll_back(ask.zxid, digest_before);
            }
            return Err(Code::MarshallingError);
        }
        if !failed {
            self.changes.keep();
        }
        Ok(kind::MULTI)
    }

    fn multi_op(&mut self, ask: &Ask<'_>, op: &MultiOp<'_>, out: &mut Vec<u8>) -> Result<Kind, Code> {
        match op {
            MultiOp::Create(create) => self.create(ask, create, out),
            MultiOp::Delete { path, version } => self.delete(ask, path, *version, out),
            MultiOp::SetData { path, data, version } => self.set_data(ask, path, *data, *version, out),
            MultiOp::Check { path, version } => self.check(ask, path, *version, out),
        }
    }

    fn roll_back(&mut self, zxid: Zxid, digest: i64) {
        self.changes.roll_back(zxid);
        self.sessions.roll_back();
        self.in_flight_use.roll_back(zxid);
        self.digest = digest;
    }

    fn close_session(&mut self, ask: &Ask<'_>, out: &mut Vec<u8>) -> Result<Kind, Code> {
        let ephemerals = self.sessions.ephemerals(ask.tree, &self.changes, ask.session, self.applied);
        // Creates are refused before the list outgrows a record. What an imported tree holds beyond that is
        // not listed, and removed all the same: apply removes every ephemeral of the session.
        let mut room = self.closing_list_max();
        let listed = ephemerals.iter().map_while(|p| {
            room = room.checked_sub(listed_len(p))?;
            Some(Cow::Borrowed(&**p))
        });
        let kind = encode(ask, &Txn::CloseSession { paths: Some(listed.collect()) }, out)?;
        for path in &ephemerals {
            let Some(node) = self.node(ask, path) else { continue };
            let Some(parent_path) = path.rfind('/').map(|at| &path[..at]) else { continue };
            let Some(parent) = self.node(ask, parent_path) else { continue };
            self.remove(ask, path, &node, (parent_path, parent));
        }
        self.sessions.close(ask.session, ask.zxid);
        Ok(kind)
    }

    /// The answer of a server alone.
    fn refuse_reconfig(&mut self, ask: &Ask<'_>) -> Code {
        if !self.config.reconfig_enabled {
            return Code::ReconfigDisabled;
        }
        match self.sessions.check(ask.tree, ask.session, ask.standing) {
            Err(code) => code,
            Ok(_) => Code::Unimplemented,
        }
    }

    /// The znode at `path` as this request sees it.
    fn node(&self, ask: &Ask<'_>, path: &str) -> Option<Node> {
        let path = spelled(path);
        match self.changes.get(path) {
            Some(in_flight) => in_flight.cloned(),
            None => ask.tree.peek(path, |view| view.map(|v| Node::from_view(&v))),
        }
    }

    fn exists(&self, ask: &Ask<'_>, path: &str) -> bool {
        match self.changes.get(path) {
            Some(in_flight) => in_flight.is_some(),
            None => ask.tree.peek(path, |view| view.is_some()),
        }
    }

    fn permit(&self, ask: &Ask<'_>, node: &Node, perm: i32) -> Result<(), Code> {
        let permitted = self.rules.skip_acl
            || match &node.acl {
                Acl::Open => true,
                Acl::Listed(list) => acl::allows(acl::fixed(list), perm, ask.identity),
            };
        if permitted { Ok(()) } else { Err(Code::NoAuth) }
    }

    fn owner(&self, node: &Node) -> Owner {
        Owner::of(node.stat.ephemeral_owner, self.rules.extended_types)
    }

    fn check_quota(&mut self, ask: &Ask<'_>, path: &str, change: Use) -> Result<Option<Box<str>>, Code> {
        if !self.rules.enforce_quota {
            return Ok(None);
        }
        let checked = self.in_flight_use.check(ask.tree, path, change);
        if checked.is_err() {
            ask.tree.refused_for_quota(path);
        }
        checked
    }

    fn note_use(&mut self, ask: &Ask<'_>, quota: Option<Box<str>>, change: Use) {
        if let Some(prefix) = quota {
            self.in_flight_use.note(ask.zxid, prefix, change);
        }
    }

    /// Removes a childless znode from the projected state.
    fn remove(&mut self, ask: &Ask<'_>, path: &str, node: &Node, (parent_path, parent): (&str, Node)) {
        if self.rules.enforce_quota {
            let quota = ask.tree.quota_for(path).map(|q| q.prefix);
            self.note_use(ask, quota, Use { znodes: -1, bytes: -i64::from(node.data_len) });
        }
        if let Owner::Session(owner) = self.owner(node) {
            self.sessions.lost(SessionId(owner), path);
        }
        let after = StatPersisted { pzxid: ask.zxid.to_wire().max(parent.stat.pzxid), ..parent.stat };
        let children = parent.children.saturating_sub(1);
        self.restat(ask, parent_path, Node { children, ..parent }, after);
        self.digest = self.digest.wrapping_sub(node.digest.into());
        self.changes.set(spelled(path), ask.zxid, None);
    }

    /// Gives the znode at `path` a new stat; its data stays.
    fn restat(&mut self, ask: &Ask<'_>, path: &str, node: Node, after: StatPersisted) {
        let digest = if self.rules.digest_enabled && !is_outside(path.as_bytes()) {
            restat_digest(node.digest, &node.stat, &after)
        } else {
            0
        };
        self.digest = self.digest.wrapping_sub(node.digest.into()).wrapping_add(digest.into());
        self.changes.set(spelled(path), ask.zxid, Some(Node { stat: after, digest, ..node }));
    }

    fn digest_of(&self, path: &str, data: Option<&[u8]>, stat: &StatPersisted) -> u32 {
        if self.rules.digest_enabled { node_digest(path, data, stat) } else { 0 }
    }
}

impl Node {
    fn from_view(v: &NodeView<'_>) -> Node {
        Node {
            stat: *v.stat,
            children: u32::try_from(v.children).expect("a parent's child count is an i32 on the wire"),
            data_len: u32::try_from(v.data.map_or(0, <[u8]>::len)).expect("a value came in one frame"),
            acl: if v.acl_is_open { Acl::Open } else { Acl::Listed(v.acl.as_bytes().into()) },
            digest: v.digest,
        }
    }
}

/// Appends the body if the record then still fits.
fn encode(ask: &Ask<'_>, txn: &Txn<'_>, out: &mut Vec<u8>) -> Result<Kind, Code> {
    txn.encode(out);
    if out.len() > ask.end_max { Err(Code::MarshallingError) } else { Ok(txn.kind()) }
}

fn put_failed_op(out: &mut Vec<u8>, code: Code) {
    out.put_i32(kind::ERROR);
    out.put_buffer(Some(&code.wire().to_be_bytes()));
}

/// The version behind `current`, if `expected` allows a change. It wraps.
fn next_version(current: i32, expected: i32) -> Result<i32, Code> {
    if expected != -1 && expected != current { Err(Code::BadVersion) } else { Ok(current.wrapping_add(1)) }
}

/// The root has two spellings; the tables know one.
fn spelled(path: &str) -> &str {
    if path.is_empty() { "/" } else { path }
}

/// The text before the last slash. Nothing else of a path's form is looked at this early.
fn parent_in(path: &str) -> Result<&str, Code> {
    match path.rfind('/') {
        Some(at) if !path.contains('\0') => Ok(&path[..at]),
        Some(_) | None => Err(Code::BadArguments),
    }
}

/// The parent of a path that may be deleted.
fn deletable(path: &str) -> Result<&str, Code> {
    match path {
        "/" | "/zookeeper" | "/zookeeper/quota" | "/zookeeper/config" => Err(Code::BadArguments),
        _ => parent_in(path),
    }
}

/// The contribution of a znode whose stat changes from `before` to `after`, out of its contribution so far.
///
/// The checksum is linear: two texts of one length differ in their checksums by the checksum, without its initial
/// and final inversions, of their difference. Path and data are the same in both texts, so they are not read.
fn restat_digest(digest: u32, before: &StatPersisted, after: &StatPersisted) -> u32 {
    let mut difference = stat_block(before);
    for (byte, new) in difference.iter_mut().zip(stat_block(after)) {
        *byte ^= new;
    }
    // Zeros in front do not change a checksum that starts at zero.
    let start = difference.iter().position(|&b| b != 0).unwrap_or(difference.len());
    let mut plain = crc32fast::Hasher::new_with_initial(u32::MAX);
    plain.update(&difference[start..]);
    digest ^ !plain.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_stat_is_checksummed_without_the_data() {
        let crc = |text: &[u8], stat: &StatPersisted| {
            let mut h = crc32fast::Hasher::new();
            h.update(text);
            h.update(&stat_block(stat));
            h.finalize()
        };
        let before = StatPersisted { czxid: 5, mzxid: 9, ctime: 77, pzxid: 5, ..Default::default() };
        let changes = [
            before,
            StatPersisted { cversion: 1, pzxid: 10, ..before },
            StatPersisted { aversion: -1, ..before },
            StatPersisted { ephemeral_owner: 1, ..before },
            StatPersisted { czxid: i64::MIN, version: 3, mtime: 4, ..before },
        ];
        for text in [&b""[..], b"/a", &[0x5a; 1000]] {
            for after in changes {
                assert_eq!(restat_digest(crc(text, &before), &before, &after), crc(text, &after));
            }
        }
    }

    #[test]
    fn parents_are_the_text_before_the_last_slash() {
        for (path, parent) in
            [("/a", ""), ("/a/b", "/a"), ("/a/", "/a"), ("/", ""), ("//", "/"), ("a/b", "a")]
        {
            assert_eq!(parent_in(path), Ok(parent), "{path}");
        }
        for path in ["", "a", "/a\0", "/\0/b"] {
            assert_eq!(parent_in(path), Err(Code::BadArguments), "{path:?}");
        }
        for path in ["/", "/zookeeper", "/zookeeper/quota", "/zookeeper/config", "", "x"] {
            assert_eq!(deletable(path), Err(Code::BadArguments), "{path:?}");
        }
        assert_eq!(deletable("/zookeeper/quota/a"), Ok("/zookeeper/quota"));
    }

    #[test]
    fn versions_wrap_and_minus_one_is_any() {
        assert_eq!(next_version(3, -1), Ok(4));
        assert_eq!(next_version(3, 3), Ok(4));
        assert_eq!(next_version(3, -2), Err(Code::BadVersion));
        assert_eq!(next_version(i32::MAX, -1), Ok(i32::MIN));
        assert_eq!(next_version(-1, 0), Err(Code::BadVersion));
    }
}
