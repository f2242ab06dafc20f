//! What `falconerd --check zoo.cfg` prints: each key given and what became of it, then what the server would run with.

use std::fmt::Write;

use crate::invocation::Invocation;
use crate::keys::printable;
use crate::report::{Effect, Finding, Level, Origin, Refusal};
use crate::settings::{Membership, Settings};

/// The report on a configuration that starts.
pub fn explain(settings: &Settings, findings: &[Finding]) -> String {
    let mut out = given(findings);
    out.push_str("\nIn effect\n");
    let lines = settings.lines();
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in lines {
        let _ = writeln!(out, "  {name:width$}  {}", printable(&value));
    }
    let warnings = findings.iter().filter(|f| f.level == Level::Warning).count();
    let _ = match warnings {
        0 => writeln!(out, "\nThis configuration starts."),
        1 => writeln!(out, "\nThis configuration starts, with 1 warning (!)."),
        n => writeln!(out, "\nThis configuration starts, with {n} warnings (!)."),
    };
    out
}

/// The report on one that does not.
pub fn explain_refusal(refusal: &Refusal) -> String {
    let mut out = given(&refusal.findings);
    let _ = writeln!(out, "\nThis configuration does not start (exit code {}):", refusal.exit_code());
    for fault in &refusal.faults {
        let _ = writeln!(out, "  {fault}");
    }
    out
}

fn given(findings: &[Finding]) -> String {
    let mut out = String::from("Keys given\n");
    let (notes, keys): (Vec<_>, Vec<_>) = findings.iter().partition(|f| f.effect == Effect::Note);
    let origin = |f: &Finding| match &f.origin {
        Origin::Line(_, line) => format!("line {line}"),
        other => other.to_string(),
    };
    let text =
        |f: &Finding| if f.value.is_empty() { f.key.clone() } else { format!("{}={}", f.key, f.value) };
    let origin_width = keys.iter().map(|f| origin(f).chars().count()).max().unwrap_or(0);
    // A long value pushes only its own line to the right.
    let text_width = keys.iter().map(|f| text(f).chars().count()).max().unwrap_or(0).min(44);
    let mut file = None;
    for f in keys {
        if let Origin::Line(path, _) = &f.origin
            && file != Some(path)
        {
            let _ = writeln!(out, "  {}", printable(&path.to_string_lossy()));
            file = Some(path);
        }
        let mark = if f.level == Level::Warning { '!' } else { ' ' };
        let _ = write!(
            out,
            "{mark} {:origin_width$}  {:text_width$}  {:10}  {}",
            origin(f),
            text(f),
            f.effect,
            f.note
        );
        let _ = match &f.effective {
            Some(effective) => writeln!(out, " -> {effective}"),
            None => writeln!(out),
        };
    }
    if out.lines().count() == 1 {
        out.push_str("  none\n");
    }
    for f in notes {
        let mark = if f.level == Level::Warning { '!' } else { ' ' };
        let _ = match f.key.as_str() {
            "" => writeln!(out, "{mark} {}", f.note),
            key => writeln!(out, "{mark} {key}: {}", f.note),
        };
    }
    out
}

impl Settings {
    /// Name and value of everything in effect, for the report, a start-up log, or the admin interface. No secrets.
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        let (storage, client, sessions, tree) = (&self.storage, &self.client, &self.sessions, &self.tree);
        let limit = |n: Option<u32>| n.map_or("unlimited".to_owned(), |n| n.to_string());
        let on = |b: bool| if b { "on" } else { "off" }.to_owned();
        let mut lines = vec![
            (
                "configuration",
                match &self.invocation {
                    Invocation::Embedded => "none".to_owned(),
                    Invocation::File(path) => path.display().to_string(),
                    Invocation::Positional { .. } => "command line".to_owned(),
                },
            ),
            ("data directory", storage.data_dir.display().to_string()),
            ("log directory", storage.data_log_dir.display().to_string()),
            ("log backend", storage.wal_backend.to_string()),
            ("slow sync warning", format!("{} ms", storage.slow_sync_warning_ms)),
            (
                "snapshot due after",
                match storage.snap_log_kib {
                    Some(kib) => format!("{} transactions or {kib} KiB of log", storage.snap_count),
                    None => format!("{} transactions", storage.snap_count),
                },
            ),
            ("retention", storage.retention.to_string()),
            ("create directories", on(storage.datadir_autocreate)),
            ("trust empty snapshot", on(storage.trust_empty_snapshot)),
            ("client address", client.listen.as_ref().map_or("none".to_owned(), ToString::to_string)),
            ("listen backlog", client.backlog.map_or("1024".to_owned(), |n| n.to_string())),
            ("client keep-alive", on(client.keep_alive)),
            ("connections per address", limit(client.per_address_max)),
            ("connections in all", limit(client.total_max)),
            ("sessionless connection", format!("{} ms", client.sessionless_timeout_ms)),
            ("largest request", format!("{} bytes", client.request_bytes_max)),
            ("event loops", client.event_loops.map_or("by cores".to_owned(), |n| n.to_string())),
            ("tick", format!("{} ms", sessions.tick_ms)),
            ("session timeout", format!("{} to {} ms", sessions.timeout_min_ms, sessions.timeout_max_ms)),
            ("TTL znodes", on(tree.extended_types)),
            ("hard quotas", on(tree.enforce_quota)),
            ("ACL checks", on(!tree.skip_acl)),
            (
                "container search",
                format!(
                    "every {} ms, {} a minute",
                    tree.container_check_interval_ms, tree.containers_per_minute_max
                ),
            ),
            (
                "unused container",
                tree.container_never_used_ms.map_or("stays".to_owned(), |ms| format!("goes after {ms} ms")),
            ),
            ("digest scheme", on(self.auth.digest)),
            ("super user", on(self.auth.super_digest.is_some())),
            ("four-letter words", self.four_letter_words.to_string()),
            ("reconfiguration", on(self.reconfig)),
        ];
        let operations = &self.operations;
        lines.push((
            "admin interface",
            operations
                .admin
                .as_ref()
                .map_or("off".to_owned(), |a| format!("http://{}{}", a.listen, a.command_url)),
        ));
        lines.push((
            "Prometheus port",
            operations.prometheus.as_ref().map_or("none".to_owned(), ToString::to_string),
        ));
        lines.push((
            "slow requests",
            operations.slow_request_ms.map_or("not logged".to_owned(), |ms| format!("logged above {ms} ms")),
        ));
        lines.push(("audit", on(operations.audit)));
        if let Some(id) = self.my_id {
            lines.push(("myid", id.to_string()));
        }
        let membership = match &self.membership {
            Membership::Standalone => "standalone".to_owned(),
            Membership::Ensemble(e) => {
                let (voters, observers) = (e.voters().count(), e.members.len() - e.voters().count());
                match observers {
                    0 => format!("{} of an ensemble of {voters}", e.role),
                    n => format!("{} of an ensemble of {voters} and {n} observers", e.role),
                }
            }
        };
        lines.push(("membership", membership));
        if let Membership::Ensemble(e) = &self.membership {
            let address = &e.me().addresses[0];
            let host = if e.listen_on_all_addresses { crate::Host::any() } else { address.host.clone() };
            lines.push(("quorum port", format!("{host}:{}", address.quorum_port)));
            lines.push(("election port", format!("{host}:{}", address.election_port)));
            let ms = |ticks: u32| u64::from(ticks) * u64::from(sessions.tick_ms);
            lines.push(("time to join", format!("{} ms", ms(e.init_limit_ticks))));
            lines.push(("silence allowed", format!("{} ms", ms(e.sync_limit_ticks))));
        }
        lines
    }
}
