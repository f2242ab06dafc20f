//! Alone or with others: the member lines, and whether they add up.

use std::path::{Path, PathBuf};

use super::*;

/// What the member lines add up to, before it is known whether it makes sense.
struct Lines {
    members: BTreeMap<ServerId, Member>,
    quorum: Quorum,
    /// Where to send the operator for what is missing.
    origin: Origin,
}

impl Resolver {
    /// The membership, and the client address of this server's line. `None` after a fault.
    pub(super) fn membership(
        &mut self,
        raw: &RawConfig,
        my_id: Option<ServerId>,
        extended_types: bool,
        origin: &Origin,
    ) -> (Option<Membership>, Option<HostPort>) {
        let faults = self.faults.len();
        let lines = self.lines(raw, origin);
        let quorum_timing = ["initLimit", "syncLimit"].map(|name| self.u32(name));
        let connect_limit_ticks = Some(self.u32("connectToLearnerMasterLimit")).filter(|&ticks| ticks > 0);
        let standalone_enabled = self.flag(row("standaloneEnabled"));
        let dynamic_file = self.path("dynamicConfigFile");
        self.int(row("electionAlg"));
        let peer_type = self.peer_type();
        let listen_on_all_addresses = self.flag(row("quorumListenOnAllIPs"));
        let keep_alive = self.flag(row("tcpKeepAlive"));
        let resend_ms = ["min", "max"].map(|m| self.u32(&format!("fastleader.{m}NotificationInterval")));
        let dial_timeout_ms = self.u32("cnxTimeout");
        let hello_timeout_ms = u32::try_from(self.int(row("quorumCnxnTimeoutMs"))).ok().filter(|&ms| ms > 0);
        let bind_retries = Some(self.u32("electionPortBindRetry")).filter(|&n| n > 0);
        let kept_records = self.u32("commitLogCount");
        let local_sessions =
            match ["localSessionsEnabled", "localSessionsUpgradingEnabled"].map(|k| self.flag(row(k))) {
                [false, _] => LocalSessions::Off,
                [true, false] => LocalSessions::On,
                [true, true] => LocalSessions::Upgradable,
            };
        let hand_over_when_slow = self.flag(row("falconer.handOverWhenSlow"));

        let my_line = my_id.and_then(|id| lines.members.get(&id)).and_then(|m| m.client.clone());
        let voters = lines.members.values().filter(|m| m.role == Role::Participant).count();
        let observers = lines.members.len() - voters;
        let role = my_id.and_then(|id| lines.members.get(&id)).map_or(Role::Participant, |m| m.role);
        if let Some((asked, given)) = peer_type
            && asked != role
            && !lines.members.is_empty()
        {
            self.adjust(&given, role.to_string(), "the server lines say otherwise and win".to_owned());
        }
        let distributed = voters > 1 || !standalone_enabled;
        if (voters == 0 || !distributed) && observers > 0 {
            let found = format!("{observers} and {voters} with a vote");
            let remedy = "add participants, or set standaloneEnabled=false for a quorum of one";
            self.fault_at("server.*", lines.origin.clone(), "observers only beside a quorum", &found, remedy);
        } else if voters == 0 && distributed {
            let (wanted, found) =
                ("at least one participant, as standaloneEnabled is false", "no server lines");
            self.fault_at(
                "server.*",
                lines.origin.clone(),
                wanted,
                found,
                "add server.1=host:2888:3888;2181",
            );
        }
        if !distributed {
            if voters == 1 {
                let note = "one server line and standaloneEnabled: this server runs alone, without a quorum; \
                            standaloneEnabled=false makes an ensemble of one";
                self.note("server.*", Level::Info, note.to_owned());
            }
            let fine = self.faults.len() == faults;
            return (fine.then_some(Membership::Standalone), my_line);
        }
        self.honour_ensemble_keys();
        match voters {
            2 => self.note(
                "server.*",
                Level::Warning,
                "two voters: the failure of either stops both".to_owned(),
            ),
            n if n > 2 && n % 2 == 0 && lines.quorum == Quorum::Majority => {
                let note = format!("{n} voters survive no more failures than {}", n - 1);
                self.note("server.*", Level::Warning, note);
            }
            _ => {}
        }
        for (name, ticks) in ["initLimit", "syncLimit"].into_iter().zip(quorum_timing) {
            if ticks == 0 {
                let at = self.given(row(name)).map_or_else(|| origin.clone(), |g| g.origin);
                let wanted = "a number of ticks, at least 1, in an ensemble";
                self.fault_at(name, at, wanted, "0 or no such key", &format!("add e.g. {name}=5"));
            }
        }
        if self.flag(row("reconfigEnabled"))
            && let Some(given) = self.given(row("reconfigEnabled"))
        {
            let wanted =
                "false in an ensemble: its membership can't be changed while it runs, in this version";
            self.fault(&given, wanted, "remove it, or keep these servers on ZooKeeper");
        }
        if my_id.is_none() && raw.my_id == MyId::Missing {
            let dir = self.text("dataDir").unwrap_or_default();
            let at = Origin::File(PathBuf::from(dir).join("myid"));
            let (wanted, found) = ("this server's id, as this is an ensemble", "no such file");
            self.fault_at("myid", at, wanted, found, "write the N of this server's server.N line into it");
        }
        if let Some(id) = my_id {
            if !lines.members.contains_key(&id) && !lines.members.is_empty() {
                let wanted = format!("a line server.{id}, as myid says {id}");
                self.fault_at(
                    "server.*",
                    lines.origin.clone(),
                    &wanted,
                    "none",
                    "correct myid or add the line",
                );
            }
            if extended_types && id.0 > 254 {
                let wanted = "an id of at most 254 with extendedTypesEnabled";
                self.fault_at("myid", lines.origin.clone(), wanted, &id.to_string(), "choose a smaller id");
            }
        }
        let (Some(my_id), true) = (my_id, self.faults.len() == faults) else {
            return (None, my_line);
        };
        let [init_limit_ticks, sync_limit_ticks] = quorum_timing;
        let ensemble = Ensemble {
            my_id,
            role,
            members: lines.members,
            quorum: lines.quorum,
            version: dynamic_file.as_deref().map_or(0, version_of_file_name),
            dynamic_file,
            init_limit_ticks,
            connect_limit_ticks,
            sync_limit_ticks,
            listen_on_all_addresses,
            keep_alive,
            standalone_enabled,
            dial_timeout_ms,
            hello_timeout_ms,
            bind_retries,
            resend_ms: (resend_ms[0], resend_ms[1].max(resend_ms[0])),
            kept_records,
            local_sessions,
            hand_over_when_slow,
        };
        (Some(Membership::Ensemble(Box::new(ensemble))), my_line)
    }

    fn peer_type(&mut self) -> Option<(Role, Given)> {
        let given = self.given(row("peerType"))?;
        match Role::parse(&given.value) {
            Some(role) => Some((role, given)),
            None => {
                self.fault(&given, "participant or observer", "write one of them");
                None
            }
        }
    }

    /// Reads the member lines of the dynamic file, or of `zoo.cfg` where there is none.
    fn lines(&mut self, raw: &RawConfig, origin: &Origin) -> Lines {
        let faults = self.faults.len();
        let mut origin = origin.clone();
        if let Some(dynamic) = &raw.dynamic {
            origin = Origin::File(dynamic.path.clone());
            for e in &dynamic.entries {
                let at = Origin::Line(dynamic.path.clone(), e.line);
                if is_member_line(&e.key) {
                    self.put_member_line(e, at);
                    continue;
                }
                let wanted = match e.key.as_str() {
                    "version" => "no version key: the version is the hex suffix of the file's name",
                    _ => "only server, group and weight lines in a dynamic file",
                };
                let found = format!("{:?}", keys::shown(&e.key, &e.value));
                self.fault_at(
                    &keys::shown("", &e.key),
                    at,
                    wanted,
                    &found,
                    "remove the line, or move it to zoo.cfg",
                );
            }
        }
        self.read.insert(("server.*", false));
        let mut members = BTreeMap::new();
        let mut groups: BTreeMap<i64, Vec<ServerId>> = BTreeMap::new();
        let mut weights = BTreeMap::new();
        let mut hierarchical = false;
        for (e, at, finding) in std::mem::take(&mut self.member_lines) {
            let id = e.key.split_once('.').map_or(e.key.as_str(), |(_, id)| id);
            let read = if e.key.starts_with("server.") {
                Member::parse(id, &e.value).and_then(|m| {
                    if m.addresses.len() > 1 {
                        let found = format!("{} of them", m.addresses.len());
                        return Err(BadLine {
                            wanted: "one address: multiAddress.enabled is not available yet",
                            found,
                        });
                    }
                    let line = m.to_string();
                    if line.split_once('=').is_some_and(|(_, canonical)| canonical != e.value) {
                        self.findings[finding].effective = Some(line);
                    }
                    match members.insert(m.id, m) {
                        None => Ok(()),
                        Some(twin) => {
                            let wanted = "one line for each id";
                            Err(BadLine { wanted, found: format!("a second one for server {}", twin.id) })
                        }
                    }
                })
            } else if e.key.starts_with("group") {
                hierarchical = true;
                members::parse_group(id, &e.value).map(|(group, ids)| {
                    groups.insert(group, ids);
                })
            } else {
                hierarchical = true;
                members::parse_weight(id, &e.value).map(|(id, weight)| {
                    weights.insert(id, weight);
                })
            };
            if let Err(BadLine { wanted, found }) = read {
                self.findings[finding].effect = Effect::Refused;
                self.findings[finding].note = format!("wanted {wanted}");
                let key = self.findings[finding].key.clone();
                self.fault_at(&key, at, wanted, &keys::shown("", &found), "correct the line");
            }
        }
        if members.len() > limits::MEMBERS_MAX {
            let (wanted, found) =
                (format!("at most {} members", limits::MEMBERS_MAX), members.len().to_string());
            self.fault_at("server.*", origin.clone(), &wanted, &found, "remove lines");
        }
        let quorum = if hierarchical {
            self.check_groups(&members, &groups, &origin);
            for m in members.values().filter(|m: &&Member| m.role == Role::Participant) {
                weights.entry(m.id).or_insert(1);
            }
            let counts = |ids: &Vec<ServerId>| ids.iter().any(|id| weights.get(id).is_some_and(|&w| w > 0));
            if !groups.is_empty() && !groups.values().any(counts) {
                let (wanted, found) = ("a group with weight", "0 everywhere: no quorum could ever form");
                self.fault_at("weight*", origin.clone(), wanted, found, "give some server a weight above 0");
            }
            if self.faults.len() == faults {
                let wanted =
                    "a majority of the participants: groups and weights are not available in this version";
                let remedy = "remove the group and weight lines, or keep these servers on ZooKeeper";
                self.fault_at("group*", origin.clone(), wanted, "group or weight lines", remedy);
            }
            Quorum::Hierarchical { groups, weights }
        } else {
            Quorum::Majority
        };
        Lines { members, quorum, origin }
    }

    /// Each participant in exactly one group, and nobody else in any.
    fn check_groups(
        &mut self,
        members: &BTreeMap<ServerId, Member>,
        groups: &BTreeMap<i64, Vec<ServerId>>,
        origin: &Origin,
    ) {
        let mut seen = BTreeSet::new();
        for (group, ids) in groups {
            for id in ids {
                let key = format!("group.{group}");
                if !seen.insert(*id) {
                    let found = format!("server {id} twice");
                    self.fault_at(&key, origin.clone(), "each server in one group", &found, "remove one");
                }
                if !members.contains_key(id) {
                    let found = format!("{id}, which has no server line");
                    self.fault_at(&key, origin.clone(), "ids of servers", &found, "add the server line");
                }
            }
        }
        for m in members.values().filter(|m| m.role == Role::Participant && !seen.contains(&m.id)) {
            let key = format!("server.{}", m.id);
            let wanted = "every participant in a group, as there are group or weight lines";
            self.fault_at(&key, origin.clone(), wanted, "none", "add its id to a group");
        }
    }
}

/// `zoo.cfg.dynamic.100000000` is version 0x100000000; without a hex suffix it is 0.
fn version_of_file_name(path: &Path) -> u64 {
    let name = path.file_name().map(|n| n.to_string_lossy()).unwrap_or_default();
    name.rsplit_once('.').and_then(|(_, hex)| u64::from_str_radix(hex, 16).ok()).unwrap_or(0)
}
