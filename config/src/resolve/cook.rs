//! The settings, group by group, from keys that have been collected and judged.

use std::num::NonZeroU16;
use std::path::PathBuf;

use super::*;

impl Resolver {
    pub(super) fn settings(&mut self, raw: &RawConfig) -> Option<Settings> {
        let origin = match &raw.main {
            Some(main) => Origin::File(main.path.clone()),
            None => Origin::CommandLine,
        };
        let storage = self.storage(raw, &origin);
        let sessions = self.sessions(raw);
        let read_only_mode = self.read_only_mode();
        let tree = self.tree();
        let my_id = self.my_id(raw, storage.as_ref());
        let (membership, my_line) = self.membership(raw, my_id, tree.extended_types, &origin);
        let client = self.client(raw, my_line.as_ref());
        let auth = self.auth();
        let settings = Settings {
            invocation: raw.invocation.clone(),
            storage: storage?,
            my_id,
            membership: membership?,
            reconfig: self.flag(row("reconfigEnabled")),
            read_only_mode,
            client,
            sessions,
            tree,
            auth,
            four_letter_words: self.whitelist(read_only_mode),
            operations: self.operations(),
        };
        Some(settings)
    }

    fn storage(&mut self, raw: &RawConfig, origin: &Origin) -> Option<Storage> {
        let configured = self.path("dataDir");
        let log_dir = self.path("dataLogDir");
        let data_dir = match &raw.invocation {
            Invocation::Embedded => Some(PathBuf::from(EMBEDDED_DATA_DIR)),
            Invocation::Positional { data_dir, .. } => Some(data_dir.clone()),
            Invocation::File(_) => configured,
        };
        if data_dir.is_none() && self.given(row("dataDir")).is_none() {
            self.fault_at(
                "dataDir",
                origin.clone(),
                "the data directory",
                "no such key",
                "add dataDir=/path",
            );
        }
        if let Invocation::Embedded = raw.invocation {
            let note = format!(
                "no configuration: a server alone on 127.0.0.1:2181, data in {EMBEDDED_DATA_DIR}, tickTime 2000"
            );
            self.note("", Level::Info, note);
        }
        let datadir_autocreate = self.flag(row("datadir.autocreate"));
        let retention = self.retention();
        let snap_kib = self.int(row("snapSizeLimitInKb"));
        let data_dir = data_dir?;
        let data_log_dir = log_dir.unwrap_or_else(|| data_dir.clone());
        for (key, dir, state) in
            [("dataDir", &data_dir, &raw.data_dir), ("dataLogDir", &data_log_dir, &raw.data_log_dir)]
        {
            let found = match state {
                DirState::Directory => continue,
                DirState::Missing if datadir_autocreate => continue,
                DirState::Missing => "nothing, and datadir.autocreate is false".to_owned(),
                DirState::Unusable(what) => what.clone(),
            };
            if key == "dataDir" || data_log_dir != data_dir {
                self.faults.push(Fault::data_dir(key, dir, found));
            }
        }
        let backend = self.text("falconer.walBackend");
        Some(Storage {
            data_dir,
            data_log_dir,
            datadir_autocreate,
            trust_empty_snapshot: self.flag(row("snapshot.trust.empty")),
            wal_backend: match backend.as_deref() {
                None | Some("auto") => WalBackend::Auto,
                Some("uring") => WalBackend::Uring,
                Some("pwritev2") => WalBackend::Pwritev2,
                Some("buffered") => WalBackend::Buffered,
                Some(_) => {
                    self.not_a_choice(row("falconer.walBackend"));
                    WalBackend::Auto
                }
            },
            slow_sync_warning_ms: self.slow_sync_warning_ms(),
            snap_count: self.u32("snapCount"),
            snap_log_kib: u64::try_from(snap_kib).ok().filter(|&kib| kib > 0),
            retention,
        })
    }

    fn not_a_choice(&mut self, row: &'static Key) {
        if let (Some(given), Kind::Choice(words)) = (self.given(row), row.kind) {
            self.fault(&given, &format!("one of {}", words.join(", ")), "write one of them");
        }
    }

    /// The one property that is read with and without prefix; with prefix wins.
    fn slow_sync_warning_ms(&mut self) -> u64 {
        let bare = self.int(property_row("fsync.warningthresholdms"));
        self.overrides(row("fsync.warningthresholdms"), property_row("fsync.warningthresholdms"));
        let ms = self.opt_int(row("fsync.warningthresholdms")).unwrap_or(bare);
        u64::try_from(ms).unwrap_or(0)
    }

    fn retention(&mut self) -> Retention {
        let count = self.int(row("autopurge.snapRetainCount"));
        let keep = u32::try_from(count.max(3)).unwrap_or(3);
        if let Some(given) = self.given(row("autopurge.snapRetainCount"))
            && count < 3
        {
            self.adjust(&given, "3".to_owned(), "fewer than 3 snapshots are never kept".to_owned());
        }
        let interval = row("autopurge.purgeInterval");
        match (self.opt_int(interval), self.given(interval)) {
            (Some(hours), Some(given)) if hours <= 0 => {
                let note = "off, as asked: old snapshots and logs stay until somebody removes them, or the disk is full";
                self.adjust(&given, "never".to_owned(), note.to_owned());
                Retention::Never
            }
            (Some(_), given) => {
                // Without a clock of its own: what may go goes when a snapshot makes it so, and as much is kept.
                if let Some(given) = given {
                    self.findings[given.finding].effective = Some("after each snapshot".to_owned());
                }
                Retention::AfterEachSnapshot { keep }
            }
            (None, _) => {
                let note = format!(
                    "not given: Falconer keeps {keep} snapshots and the log they need, and removes the rest after each \
                     snapshot; ZooKeeper would remove nothing (autopurge.purgeInterval=0 says so)"
                );
                self.note("autopurge.purgeInterval", Level::Info, note);
                Retention::AfterEachSnapshot { keep }
            }
        }
    }

    fn sessions(&mut self, raw: &RawConfig) -> Sessions {
        let configured = self.u32("tickTime");
        let tick_ms = match &raw.invocation {
            Invocation::Embedded => 2000,
            Invocation::Positional { tick_ms: Some(tick), .. } => *tick,
            Invocation::Positional { .. } | Invocation::File(_) => configured,
        };
        let min_row = row("minSessionTimeout");
        let max_row = row("maxSessionTimeout");
        let ticks = |n: u32| tick_ms.saturating_mul(n);
        let timeout_min_ms = u32::try_from(self.int(min_row)).unwrap_or(ticks(2));
        let timeout_max_ms = u32::try_from(self.int(max_row)).unwrap_or(ticks(20));
        if timeout_min_ms > timeout_max_ms {
            let given = self.given(min_row).or_else(|| self.given(max_row));
            if let Some(given) = given {
                let found = format!("{timeout_min_ms} ms and {timeout_max_ms} ms");
                self.fault_at(
                    &given.name,
                    given.origin,
                    "minSessionTimeout not above maxSessionTimeout",
                    &found,
                    "give both, or neither for 2 and 20 ticks",
                );
            }
        }
        Sessions { tick_ms, timeout_min_ms, timeout_max_ms }
    }

    fn read_only_mode(&mut self) -> bool {
        let own = self.opt_flag(row("falconer.readonlymode.enabled"));
        let property = self.flag(property_row("readonlymode.enabled"));
        self.overrides(row("falconer.readonlymode.enabled"), property_row("readonlymode.enabled"));
        own.unwrap_or(property)
    }

    /// Falconer's own key before the property it stands for.
    fn own_or_property(&mut self, name: &str) -> i64 {
        let property = self.int(property_row(name));
        let own = row(&format!("falconer.{name}"));
        self.overrides(own, property_row(name));
        self.opt_int(own).unwrap_or(property)
    }

    /// Of two rows for one setting the winner is in effect, and the loser's finding says so.
    fn overrides(&mut self, winner: &'static Key, loser: &'static Key) {
        if let (Some(winner), Some(loser)) = (self.given(winner), self.given(loser)) {
            let finding = &mut self.findings[loser.finding];
            finding.effect = Effect::Ignored;
            finding.level = if winner.value == loser.value { Level::Info } else { Level::Warning };
            finding.effective = None;
            finding.note =
                format!("overridden by {}={}", winner.name, keys::shown(&winner.name, &winner.value));
        }
    }

    fn tree(&mut self) -> Tree {
        let u32_of = |v: i64| u32::try_from(v).unwrap_or(u32::MAX);
        let never_used = self.own_or_property("znode.container.maxNeverUsedIntervalMs");
        let skip_acl = self.flag(row("skipACL"));
        if skip_acl && let Some(given) = self.given(row("skipACL")) {
            self.adjust(
                &given,
                "everybody may do everything".to_owned(),
                "as asked: no ACL is checked".to_owned(),
            );
        }
        Tree {
            extended_types: self.flag(row("extendedTypesEnabled")),
            enforce_quota: self.flag(row("enforceQuota")),
            skip_acl,
            container_check_interval_ms: u32_of(self.own_or_property("znode.container.checkIntervalMs")),
            containers_per_minute_max: u32_of(self.own_or_property("znode.container.maxPerMinute")),
            container_never_used_ms: u64::try_from(never_used).ok().filter(|&ms| ms > 0),
        }
    }

    fn my_id(&mut self, raw: &RawConfig, storage: Option<&Storage>) -> Option<ServerId> {
        let path = storage?.data_dir.join("myid");
        let (wanted, remedy) = (
            "a decimal number and nothing else on the first line",
            "write the N of this server's server.N line",
        );
        match &raw.my_id {
            MyId::Missing => None,
            // Strict as ZooKeeper: what a person reads as 1 and a script as "1 " should not start twice as different ids.
            MyId::FirstLine(line) => match line.parse() {
                Ok(id) => Some(ServerId(id)),
                Err(_) => {
                    let found = format!("{:?}", keys::shown("", line));
                    self.fault_at("myid", Origin::Line(path, 1), wanted, &found, remedy);
                    None
                }
            },
            MyId::Unreadable(why) => {
                self.fault_at("myid", Origin::File(path), "a readable file", why, "check its permissions");
                None
            }
        }
    }

    fn client(&mut self, raw: &RawConfig, my_line: Option<&HostPort>) -> Client {
        let port = self.opt_int(row("clientPort")).and_then(|p| u16::try_from(p).ok());
        let address = self.host("clientPortAddress");
        if let (None, Some(given)) = (self.given(row("clientPort")), self.given(row("clientPortAddress"))) {
            self.fault(&given, "a clientPort beside it", "add clientPort=2181");
        }
        let configured = port.map(|port| HostPort { host: address.unwrap_or_else(Host::any), port });
        let listen = match &raw.invocation {
            Invocation::Embedded => Host::parse("127.0.0.1").map(|host| HostPort { host, port: 2181 }),
            Invocation::Positional { port, .. } => Some(HostPort { host: Host::any(), port: *port }),
            Invocation::File(_) => self.one_client_address(configured, my_line),
        };
        if listen.is_none() && self.given(row("clientPort")).is_none() {
            let note = "not given, and no server line of this server names one: no client can connect";
            self.note("clientPort", Level::Warning, note.to_owned());
        }
        let unlimited = |v: i64| u32::try_from(v).ok().filter(|&n| n > 0);
        let per_address_max = match &raw.invocation {
            Invocation::Positional { max_client_cnxns, .. } => max_client_cnxns.filter(|&n| n > 0),
            Invocation::Embedded | Invocation::File(_) => unlimited(self.int(row("maxClientCnxns"))),
        };
        let event_loops = self.int(row("falconer.eventLoops"));
        Client {
            listen,
            backlog: u32::try_from(self.int(row("clientPortListenBacklog"))).ok().filter(|&n| n > 0),
            keep_alive: self.flag(row("clientTcpKeepAlive")),
            per_address_max,
            total_max: unlimited(self.int(row("maxCnxns"))),
            sessionless_timeout_ms: self.u32("nio.sessionlessCnxnTimeout"),
            request_bytes_max: u32::try_from(self.own_or_property("jute.maxbuffer")).unwrap_or(u32::MAX),
            event_loops: u16::try_from(event_loops).ok().and_then(NonZeroU16::new),
        }
    }

    /// `clientPort` and this server's line must not contradict each other; the line wins. Names are not resolved here, so
    /// two that differ as text only draw a warning.
    fn one_client_address(
        &mut self,
        configured: Option<HostPort>,
        line: Option<&HostPort>,
    ) -> Option<HostPort> {
        let (Some(configured), Some(line)) = (&configured, line) else {
            return line.cloned().or(configured);
        };
        let ip = |h: &Host| h.as_str().parse::<std::net::IpAddr>().ok();
        let hosts_clash = match (ip(&configured.host), ip(&line.host)) {
            (Some(a), Some(b)) => !a.is_unspecified() && a != b,
            _ => false,
        };
        if configured.port != line.port || hosts_clash {
            if let Some(given) = self.given(row("clientPort")) {
                self.fault(
                    &given,
                    &format!("the client address of this server's line, {line}"),
                    "remove clientPort and clientPortAddress, or the part behind the ';'",
                );
            }
        } else if !configured.host.is_any()
            && configured.host != line.host
            && let Some(given) = self.given(row("clientPortAddress"))
        {
            self.adjust(
                &given,
                line.to_string(),
                "this server's line names another address and wins".to_owned(),
            );
        }
        Some(line.clone())
    }

    fn auth(&mut self) -> Auth {
        let digest = self.flag(row("DigestAuthenticationProvider.enabled"));
        let super_row = row("DigestAuthenticationProvider.superDigest");
        let super_digest = self.given(super_row).filter(|g| !g.value.is_empty());
        if let Some(given) = &super_digest
            && !is_super_digest(&given.value)
        {
            let note = "does not look like super:<28 characters of base64>, so nobody will be super; check the quoting";
            self.findings[given.finding].level = Level::Warning;
            self.findings[given.finding].note = note.to_owned();
        }
        self.read.insert(("authProvider.*", false));
        let providers: Vec<Given> =
            self.given.values().filter(|g| g.row.name == "authProvider.*").cloned().collect();
        for given in providers {
            match given.value.as_str() {
                ""
                | "org.apache.zookeeper.server.auth.DigestAuthenticationProvider"
                | "org.apache.zookeeper.server.auth.IPAuthenticationProvider" => {}
                "org.apache.zookeeper.server.auth.SASLAuthenticationProvider" => {
                    self.fault(
                        &given,
                        "no SASL: it is not available yet",
                        "remove it, or keep this server on ZooKeeper",
                    );
                }
                "org.apache.zookeeper.server.auth.X509AuthenticationProvider" => {
                    self.fault(
                        &given,
                        "no TLS: it is not available yet",
                        "remove it, or keep this server on ZooKeeper",
                    );
                }
                _ => self.fault(
                    &given,
                    "ZooKeeper's digest or ip provider; other classes can't be loaded",
                    "remove it, or keep this server on ZooKeeper",
                ),
            }
        }
        Auth { digest, super_digest: super_digest.map(|g| Secret::new(g.value)) }
    }

    fn operations(&mut self) -> Operations {
        let slow = self.u32("falconer.slowRequestMs");
        Operations {
            admin: self.admin(),
            prometheus: self.prometheus(),
            process_metrics: self.flag(row("metricsProvider.exportJvmInfo")),
            detailed_metrics: self.flag(row("falconer.metrics")),
            slow_request_ms: (slow > 0).then_some(slow),
            disk_check: self.flag(row("falconer.diskCheck")),
            audit: self.flag(row("audit.enable")),
        }
    }

    fn admin(&mut self) -> Option<Admin> {
        let address = self.host("admin.serverAddress").or_else(|| Host::parse("127.0.0.1"));
        let port = u16::try_from(self.u32("admin.serverPort")).unwrap_or(8080);
        let url = row("admin.commandURL");
        let mut command_url = url.default.to_owned();
        if let Some(given) = self.given(url) {
            let path = given.value.trim_end_matches('/');
            let plain = |c: char| c.is_ascii_alphanumeric() || "/-_.".contains(c);
            if path.len() > 1 && path.starts_with('/') && path.chars().all(plain) {
                command_url = path.to_owned();
            } else {
                self.fault(&given, "a path of letters and digits that begins with /", "write e.g. /commands");
            }
        }
        let admin = Admin {
            listen: HostPort { host: address?, port },
            command_url,
            idle_timeout_ms: self.u32("admin.idleTimeout"),
            snapshot_enabled: self.flag(row("admin.snapshot.enabled")),
            restore_enabled: self.flag(row("admin.restore.enabled")),
            rate_limit: self.u32("admin.rateLimiterIntervalInMS"),
        };
        self.flag(row("admin.enableServer")).then_some(admin)
    }

    fn prometheus(&mut self) -> Option<HostPort> {
        let host = self.host("metricsProvider.httpHost").unwrap_or_else(Host::any);
        let port = u16::try_from(self.u32("metricsProvider.httpPort")).unwrap_or(7000);
        let given = self.given(row("metricsProvider.className"))?;
        match given.value.as_str() {
            "org.apache.zookeeper.metrics.prometheus.PrometheusMetricsProvider" => {
                Some(HostPort { host, port })
            }
            ""
            | "org.apache.zookeeper.metrics.impl.DefaultMetricsProvider"
            | "org.apache.zookeeper.metrics.impl.NullMetricsProvider" => None,
            _ => {
                self.fault(
                    &given,
                    "ZooKeeper's default or Prometheus provider; other classes can't be loaded",
                    "remove it, or write ...metrics.prometheus.PrometheusMetricsProvider",
                );
                None
            }
        }
    }

    fn whitelist(&mut self, read_only_mode: bool) -> Whitelist {
        let mut list = Whitelist::NONE;
        let mut no_words = Vec::new();
        let given = self.given(row("4lw.commands.whitelist"));
        for word in given.iter().flat_map(|g| g.value.split(',')).map(str::trim).filter(|w| !w.is_empty()) {
            match word {
                "*" => list = Whitelist::ALL,
                word => match list.with(word) {
                    Some(more) => list = more,
                    None => no_words.push(word),
                },
            }
        }
        // zkServer.sh status asks srvr, so ZooKeeper always allows it; isro is how clients find a writable server.
        for word in std::iter::once("srvr").chain(read_only_mode.then_some("isro")) {
            list = list.with(word).unwrap_or(list);
        }
        if let Some(given) = &given {
            if no_words.is_empty() {
                self.findings[given.finding].effective = Some(list.to_string());
            } else {
                let words = keys::shown("", &no_words.join(", "));
                self.adjust(given, list.to_string(), format!("no four-letter words of ZooKeeper: {words}"));
            }
        }
        list
    }
}

/// `super:` and the base64 of a SHA-1.
fn is_super_digest(value: &str) -> bool {
    value.strip_prefix("super:").is_some_and(|hash| {
        let base64 = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/');
        hash.len() == 28 && hash.strip_suffix('=').is_some_and(|h| h.chars().all(base64))
    })
}
