//! `falconer status`: a whole ensemble at a glance, by its four-letter words and its admin ports, once or again and again.
//!
//! ```text
//!   Args ── View::of_all ── table of servers, latencies, warnings (doctor::servers) ── text or JSON
//!              ▲                                   │
//!              └────────────── --watch ────────────┘   rates between two looks
//! ```
//!
//! It asks every server that is named and those that their configuration names. Falconer and Apache answer alike; a
//! server that answers neither `mntr` nor on its admin port shows what `srvr` tells.

pub use crate::ask::Error;
use crate::ask::{Serving, State, View};
use crate::doctor::servers;
use crate::doctor::{Examination, Level};
use crate::render::{self, Table};
use crate::{Out, Outcome};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant, SystemTime};

/// Times that `mntr` gives with percentiles, in ms: their keys, and what they are.
const LATENCIES: [(&str, &str); 6] = [
    ("readlatency", "read"),
    ("updatelatency", "write"),
    ("proposal_latency", "write until proposed"),
    ("propagation_latency", "write until applied"),
    ("quorum_ack_latency", "proposal until a quorum has it"),
    ("commit_propagation_latency", "commit until a follower has it"),
];

/// How many of the busiest are shown.
const TOP: usize = 8;

/// A whole ensemble at a glance: roles, zxids and lag, latencies, sessions, watches, warnings.
#[derive(clap::Args, Clone, Debug)]
#[command(
    after_help = "Exit status: 0 all servers serve and nothing is wrong; 1 one does not, or something is; 2 it could not look."
)]
pub struct Args {
    /// Where: HOST:PORT[,HOST:PORT...]; the rest of the ensemble is found by them
    #[arg(short, long, value_name = "HOST:PORT", default_value = "localhost:2181")]
    server: String,
    /// Look again after this time, until interrupted: 2s if nothing is said
    #[arg(short, long, value_name = "TIME", num_args = 0..=1, default_missing_value = "2s", value_parser = render::parse_duration)]
    watch: Option<Duration>,
    /// Show the percentiles of each latency, and of each stage of a write
    #[arg(short, long)]
    latencies: bool,
    /// Show who uses each server most: top-level paths, client addresses, sessions
    #[arg(short, long)]
    top: bool,
    /// Where the servers' admin ports may be, on their own hosts: the one of each is found by its client port
    #[arg(long, value_name = "PORT[,PORT...]", default_value = "8080", value_delimiter = ',')]
    admin: Vec<u16>,
    /// Print one JSON object, with --watch one a line
    #[arg(long)]
    json: bool,
}

/// Shows the ensemble.
///
/// # Errors
/// When the server string makes no sense, or nothing can be written.
pub fn run(args: &Args, out: &mut Out<'_>) -> Result<Outcome, Error> {
    let named = crate::shell::target(&args.server).map_err(|e| Error::Server(e.to_string()))?.servers;
    let clear = args.watch.is_some() && !args.json && io::stdout().is_terminal();
    let mut before: Option<Look> = None;
    loop {
        let began = Instant::now();
        let look = Look::at(&named, &args.admin);
        let rates = before.as_ref().map(|b| look.rates(b)).unwrap_or_default();
        let text = match args.json {
            true => format!("{}\n", look.json(&rates)),
            false => look.text(&rates, args),
        };
        if clear {
            // Home, then erase what is below: no flicker, nothing left of a longer picture.
            out.text("\x1b[H\x1b[J")?;
        }
        out.text(&text)?;
        out.flush()?;
        let Some(pause) = args.watch else {
            return Ok(if look.is_well() { Outcome::Fine } else { Outcome::Found });
        };
        before = Some(look);
        std::thread::sleep(pause.saturating_sub(began.elapsed()));
        if !args.json && !clear {
            out.line("")?;
        }
    }
}

/// The ensemble at one moment.
struct Look {
    at: SystemTime,
    taken: Instant,
    views: Vec<View>,
    examined: Examination,
}

impl Look {
    fn at(named: &[String], admin_ports: &[u16]) -> Look {
        let mut views = View::of_all(named, admin_ports);
        // By id where there is one: the order of the configuration.
        views.sort_by_key(|v| v.serving().and_then(Serving::id).unwrap_or(u64::MAX));
        let mut examined = Examination::default();
        servers::check(&mut examined, &views, true);
        Look { at: SystemTime::now(), taken: Instant::now(), views, examined }
    }

    fn is_well(&self) -> bool {
        self.examined.findings.iter().all(|f| f.level < Level::Warning)
    }

    /// Requests per second of each server since an earlier look.
    fn rates(&self, before: &Look) -> BTreeMap<String, f64> {
        let seconds = self.taken.duration_since(before.taken).as_secs_f64();
        let received = |look: &Look, address: &str| {
            look.views.iter().find(|v| v.address == address)?.serving().map(|s| s.received)
        };
        let rate = |v: &View| {
            let (now, then) = (received(self, &v.address)?, received(before, &v.address)?);
            // A restart begins to count anew.
            Some((v.address.clone(), now.checked_sub(then)? as f64 / seconds.max(0.001)))
        };
        self.views.iter().filter_map(rate).collect()
    }

    fn newest(&self) -> u64 {
        self.views.iter().filter_map(|v| v.serving()).map(|s| s.zxid).max().unwrap_or(0)
    }

    fn text(&self, rates: &BTreeMap<String, f64>, args: &Args) -> String {
        let serving = self.views.iter().filter(|v| v.serving().is_some()).count();
        let ms = self.at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
        let leader = self.views.iter().find(|v| v.serving().is_some_and(|s| s.mode == "leader"));
        let leads = leader.map_or(String::new(), |v| format!(", {} leads", v.address));
        let mut out =
            format!("{}: {serving} of {} servers serve{leads}\n\n", render::time(ms), self.views.len());
        let mut titles = vec![
            "server",
            "id",
            "mode",
            "zxid",
            "lag",
            "clients",
            "sessions",
            "waiting",
            "ms mean/max",
            "write p50/p99",
            "sync mean/max",
            "znodes",
            "ephemerals",
            "watches",
            "data",
            "up",
        ];
        if !rates.is_empty() {
            titles.insert(5, "packets/s");
        }
        let mut table = Table::new(titles);
        for v in &self.views {
            table.row(self.row(v, rates));
        }
        out += &table.text();
        out += &self.disks();
        if args.latencies {
            out += &self.latencies();
            out += &self.stages();
        }
        for (v, live) in self.lives().filter(|_| args.top) {
            out += &format!("\n{}\n{}", v.address, crate::top::tables(live, TOP));
        }
        let said: Vec<_> = self.examined.findings.iter().filter(|f| f.level > Level::Fine).collect();
        if !said.is_empty() {
            out.push('\n');
        }
        for f in said {
            out += &format!("{}: {}: {}\n", f.level.word(), f.about, f.what);
            if !f.fix.is_empty() {
                out += &format!("  → {}\n", f.fix);
            }
        }
        out
    }

    fn row(&self, v: &View, rates: &BTreeMap<String, f64>) -> Vec<String> {
        let s = match &v.state {
            State::Serving(s) => s,
            State::Down(_) => return vec![v.address.clone(), String::new(), "down".into()],
            State::NotServing(_) => return vec![v.address.clone(), String::new(), "not serving".into()],
            State::Strange(_) => return vec![v.address.clone(), String::new(), "?".into()],
        };
        let text = |key: &str| s.monitor.get(key).cloned().unwrap_or_else(|| "-".into());
        let whole = |key: &str| s.number(key).map_or_else(|| "-".into(), |n| render::grouped(n as u64));
        let pair = |a: &str, b: &str| match (s.number(a), s.number(b)) {
            (Some(a), Some(b)) => format!("{}/{}", render::three_digits(a), b as u64),
            _ => "-".into(),
        };
        let mut row = vec![
            v.address.clone(),
            s.id().map_or_else(|| "-".into(), |id| id.to_string()),
            s.mode.clone(),
            format!("{:#x}", s.zxid),
            render::grouped(self.newest() - s.zxid),
            s.connections.to_string(),
            whole("global_sessions"),
            s.outstanding.to_string(),
            format!("{}/{}", render::three_digits(s.latency_ms.1), s.latency_ms.2 as u64),
            format!("{}/{}", text("p50_updatelatency"), text("p99_updatelatency")),
            pair("avg_fsynctime", "max_fsynctime"),
            render::grouped(s.znodes),
            whole("ephemerals_count"),
            whole("watch_count"),
            s.number("approximate_data_size").map_or_else(|| "-".into(), |n| render::bytes(n as u64)),
            s.number("uptime").map_or_else(|| "-".into(), |ms| up(Duration::from_millis(ms as u64))),
        ];
        if !rates.is_empty() {
            row.insert(5, rates.get(&v.address).map_or_else(|| "-".into(), |r| render::grouped(*r as u64)));
        }
        row
    }

    /// The servers whose page could be had.
    fn lives(&self) -> impl Iterator<Item = (&View, &Value)> {
        self.views.iter().filter_map(|v| Some((v, v.serving()?.live.as_ref()?)))
    }

    /// How each server's log and disk do.
    fn disks(&self) -> String {
        let mut table = Table::new([
            "log and disk",
            "written by",
            "log written",
            "snapshots",
            "the last",
            "memory",
            "verdict",
        ]);
        let mut empty = true;
        for (v, live) in self.lives() {
            let number = |name: &str| live[name].as_u64().unwrap_or(0);
            let now = self.at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
            let last = live["last_snapshot"]["at"].as_u64();
            let last = last.map_or_else(
                || "-".into(),
                |at| format!("{} ago", up(Duration::from_millis(now.saturating_sub(at)))),
            );
            table.row([
                v.address.clone(),
                live["backend"].as_str().unwrap_or("-").to_owned(),
                render::bytes(number("log_bytes")),
                number("snapshots").to_string(),
                last,
                render::bytes(number("resident")),
                live["disk"].as_str().unwrap_or("-").to_owned(),
            ]);
            empty = false;
        }
        if empty { String::new() } else { format!("\n{}", table.text()) }
    }

    /// Where a request spends its time, by server and stage.
    fn stages(&self) -> String {
        let mut out = String::new();
        for (v, live) in self.lives() {
            let mut table = Table::new(["stage", "count", "mean", "p50", "p99", "max"]);
            for stage in live["stages"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                let us = |i: usize| live["stage_times"][stage][i].as_f64().unwrap_or(0.0);
                let mut row = vec![stage.to_owned(), render::grouped(us(0) as u64)];
                row.extend((1..5).map(|i| render::nanos((us(i) * 1000.0) as u64)));
                table.row(row);
            }
            out += &format!("\n{}\n{}", v.address, table.text());
        }
        out
    }

    fn latencies(&self) -> String {
        let mut empty = true;
        let mut table = Table::new(["latency (ms)", "count", "mean", "p50", "p95", "p99", "p99.9", "max"]);
        for v in &self.views {
            let Some(s) = v.serving() else { continue };
            for (key, name) in LATENCIES {
                if s.number(&format!("cnt_{key}")).is_none_or(|n| n == 0.0) {
                    continue;
                }
                let mut row = vec![format!("{} {name}", v.address)];
                row.extend(["cnt", "avg", "p50", "p95", "p99", "p999", "max"].map(|kind| {
                    s.monitor.get(&format!("{kind}_{key}")).cloned().unwrap_or_else(|| "-".into())
                }));
                table.row(row);
                empty = false;
            }
        }
        if empty { "\nno server tells its latencies\n".into() } else { format!("\n{}", table.text()) }
    }

    fn json(&self, rates: &BTreeMap<String, f64>) -> Value {
        let newest = self.newest();
        let servers: Vec<Value> = self
            .views
            .iter()
            .map(|v| match &v.state {
                State::Down(why) => json!({ "server": v.address, "state": "down", "why": why }),
                State::NotServing(doing) => json!({ "server": v.address, "state": "not serving", "why": doing }),
                State::Strange(text) => json!({ "server": v.address, "state": "strange", "why": text }),
                State::Serving(s) => json!({
                    "server": v.address, "state": "serving", "id": s.id(), "mode": s.mode, "version": s.version,
                    "zxid": format!("{:#x}", s.zxid), "lag": newest - s.zxid, "epoch": s.zxid >> 32,
                    "connections": s.connections, "outstanding": s.outstanding, "znodes": s.znodes,
                    "latency_ms": { "min": s.latency_ms.0, "avg": s.latency_ms.1, "max": s.latency_ms.2 },
                    "packets_per_second": rates.get(&v.address), "admin": s.admin, "live": s.live.as_ref().map(without_samples),
                    "monitor": s.monitor.iter().map(|(k, v)| (k.clone(), number_or_text(v))).collect::<serde_json::Map<_, _>>(),
                }),
            })
            .collect();
        let findings: Vec<Value> = self
            .examined
            .findings
            .iter()
            .filter(|f| f.level > Level::Fine)
            .map(|f| json!({ "check": f.check, "level": f.level.word(), "about": f.about, "what": f.what, "fix": f.fix }))
            .collect();
        let ms = self.at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
        json!({ "time_ms": ms, "well": self.is_well(), "servers": servers, "findings": findings })
    }
}

/// All but the last minutes, second by second.
fn without_samples(live: &Value) -> Value {
    let mut live = live.clone();
    live.as_object_mut().map(|fields| fields.remove("samples"));
    live
}

fn number_or_text(text: &str) -> Value {
    if let Ok(n) = text.parse::<i64>() {
        return n.into();
    }
    text.parse::<f64>().map_or_else(|_| text.into(), Value::from)
}

/// A time in its two largest units: `3d 4h`.
fn up(time: Duration) -> String {
    let s = time.as_secs();
    let units = [(86_400, "d"), (3600, "h"), (60, "m"), (1, "s")];
    let at = units.iter().position(|(n, _)| s >= *n).unwrap_or(units.len() - 1);
    let parts: Vec<String> = units[at..]
        .iter()
        .take(2)
        .scan(s, |rest, (n, unit)| {
            let whole = *rest / n;
            *rest %= n;
            Some(format!("{whole}{unit}"))
        })
        .collect();
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_their_two_largest_units() {
        for (s, wanted) in [(0, "0s"), (61, "1m 1s"), (3600, "1h 0m"), (90_000, "1d 1h"), (59, "59s")] {
            assert_eq!(up(Duration::from_secs(s)), wanted);
        }
    }
}
