//! What a run found, as text and as JSON.

use super::engine::{Kind, Measured};
use super::session::code_name;
use super::{Args, Op};
use crate::render::{self, PERCENTILES, Table};
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use std::time::Duration;

/// CPU time spent while measuring.
#[derive(Clone, Copy, Debug)]
pub struct Cpu {
    /// By the threads that generate the load.
    pub generator: Duration,
    /// By the server's processes, where they were named.
    pub server: Option<Duration>,
    /// Resident memory of the server's processes at the end, in bytes.
    pub server_rss: Option<u64>,
}

/// The result of a run.
#[derive(Debug)]
pub struct Report {
    /// What was sent.
    pub op: Op,
    /// How it was asked for.
    pub args: Args,
    /// Requests in flight per connection, at most.
    pub outstanding: usize,
    /// What the threads measured together.
    pub measured: Measured,
    /// What it cost.
    pub cpu: Cpu,
}

impl Report {
    /// Whether not a single request succeeded.
    pub fn is_empty(&self) -> bool {
        self.kinds().next().is_none()
    }

    /// What to say when nothing succeeded.
    pub fn why_empty(&self) -> String {
        match (&self.measured.lost_why, self.measured.errors.iter().next()) {
            (Some(why), _) => format!("no request succeeded: connection lost ({why})"),
            (None, Some((code, _))) => format!("no request succeeded: {}", code_name(*code)),
            (None, None) => "no request was answered while measuring: is --duration too short?".into(),
        }
    }

    /// The report for a terminal.
    pub fn text(&self, histogram: bool) -> String {
        let a = &self.args;
        let name = op_name(self.op);
        let mut out = match self.op {
            Op::Watch => {
                let kind = if a.persistent { "persistent" } else { "one-shot" };
                format!("{name}: 1 writer, {} {kind} watchers", a.connections)
            }
            _ => format!("{name}: {} connections × {} in flight", a.connections, self.outstanding),
        };
        out += &format!(", {} B", a.size);
        match self.op {
            Op::Set | Op::Get => out += &format!(", {} znodes", render::grouped(a.keys)),
            Op::Mix => out += &format!(", {} % reads, {} znodes", a.reads, render::grouped(a.keys)),
            Op::Multi => {
                out += &format!(", {} operations each, {} znodes", a.multi_ops, render::grouped(a.keys))
            }
            Op::Create | Op::Churn | Op::Watch | Op::Clean | Op::Mirror => {}
        }
        if let Some(rate) = a.rate {
            out += &format!(", open load of {}/s", render::grouped(rate as u64));
        }
        out += &format!(
            ", {}\n{} measured after {} of warm-up\n\n",
            a.server,
            render::nanos(a.duration.as_nanos() as u64),
            render::nanos(a.warmup.as_nanos() as u64)
        );
        out += &self.table().text();
        out.push('\n');
        out += &self.troubles();
        out += &self.costs();
        if histogram {
            for (kind, h) in self.kinds() {
                out += &format!("\n{} latency\n{}", kind.name(), render::histogram(h, 40));
            }
        }
        out
    }

    /// The report for a program.
    pub fn json(&self) -> Value {
        let a = &self.args;
        let seconds = a.duration.as_secs_f64();
        let ops: serde_json::Map<String, Value> =
            self.kinds().map(|(kind, h)| (kind.name().into(), numbers(h, seconds))).collect();
        let timeline: Vec<Value> = self
            .measured
            .timeline
            .iter()
            .enumerate()
            .map(|(i, h)| {
                let mut point = numbers(h, a.interval.as_secs_f64());
                point["at_s"] = json!(i as f64 * a.interval.as_secs_f64());
                point
            })
            .collect();
        let answered = self.answered().max(1) as f64;
        json!({
            "op": op_name(self.op),
            "server": a.server.to_string(),
            "connections": a.connections,
            "outstanding": self.outstanding,
            "size": a.size,
            "keys": a.keys,
            "rate": a.rate,
            "reads_percent": (self.op == Op::Mix).then_some(a.reads),
            "multi_ops": (self.op == Op::Multi).then_some(a.multi_ops),
            "duration_s": seconds,
            "warmup_s": a.warmup.as_secs_f64(),
            "ops_per_s": self.answered() as f64 / seconds,
            "latency_ns": numbers(&self.all(), seconds),
            "kinds": ops,
            "send_lag_ns": a.rate.map(|_| numbers(&self.measured.lag, seconds)),
            "errors": self.measured.errors.iter().map(|(c, n)| (code_name(*c), json!(n))).collect::<serde_json::Map<_, _>>(),
            "unanswered": self.measured.unanswered,
            "connections_lost": self.measured.lost,
            "cpu_ns_per_op": {
                "generator": self.cpu.generator.as_nanos() as f64 / answered,
                "server": self.cpu.server.map(|c| c.as_nanos() as f64 / answered),
            },
            "server_rss_bytes": self.cpu.server_rss,
            "timeline": timeline,
        })
    }

    fn table(&self) -> Table {
        let seconds = self.args.duration.as_secs_f64();
        let titles = ["", "per second", "mean"].into_iter().chain(PERCENTILES.map(|p| p.0)).chain(["max"]);
        let mut table = Table::new(titles);
        let mut row = |name: &str, h: &Histogram<u64>| {
            let rate = render::grouped((h.len() as f64 / seconds).round() as u64);
            let times = PERCENTILES.map(|p| render::nanos(h.value_at_quantile(p.1 / 100.0)));
            table.row(
                [name.into(), rate, render::nanos(h.mean() as u64)]
                    .into_iter()
                    .chain(times)
                    .chain([render::nanos(h.max())]),
            );
        };
        self.kinds().for_each(|(kind, h)| row(kind.name(), h));
        if self.answers().count() > 1 {
            row("all", &self.all());
        }
        if self.args.rate.is_some() && !self.measured.lag.is_empty() {
            row("send lag", &self.measured.lag);
        }
        table
    }

    fn troubles(&self) -> String {
        let m = &self.measured;
        let mut out = String::new();
        if m.errors.is_empty() {
            out += "no errors\n";
        }
        for (code, n) in &m.errors {
            out += &format!("errors: {} × {}\n", render::grouped(*n), code_name(*code));
        }
        if m.unanswered > 0 {
            out += &match self.args.rate {
                Some(_) => format!(
                    "{} requests were not answered within {} of the end: the server can't keep up with this rate\n",
                    render::grouped(m.unanswered),
                    render::nanos(super::DRAIN.as_nanos() as u64)
                ),
                None => format!("{} requests were never answered\n", render::grouped(m.unanswered)),
            };
        }
        if m.lost > 0 {
            let why = m.lost_why.as_deref().unwrap_or("unknown");
            out += &format!("{} connections lost ({why})\n", m.lost);
        }
        out
    }

    fn costs(&self) -> String {
        let answered = self.answered().max(1) as f64;
        let share = |cpu: Duration| 100.0 * cpu.as_secs_f64() / self.args.duration.as_secs_f64();
        let line = |who: &str, cpu: Duration| {
            let per_op = render::nanos((cpu.as_nanos() as f64 / answered) as u64);
            format!("{who} {per_op} of CPU per operation ({:.0} % of one core)", share(cpu))
        };
        let mut out = line("generator:", self.cpu.generator);
        if let Some(server) = self.cpu.server {
            out += &format!("\n{}", line("server:   ", server));
        }
        if let Some(rss) = self.cpu.server_rss {
            out += &format!(", {} resident", render::bytes(rss));
        }
        out.push('\n');
        out
    }

    fn kinds(&self) -> impl Iterator<Item = (Kind, &Histogram<u64>)> {
        Kind::REPORTED
            .into_iter()
            .map(|k| (k, &self.measured.latency[k as usize]))
            .filter(|(_, h)| !h.is_empty())
    }

    /// What a frame of the server's counts as: the last event of a change is counted as an event already.
    fn answers(&self) -> impl Iterator<Item = (Kind, &Histogram<u64>)> {
        self.kinds().filter(|(kind, _)| *kind != Kind::Everybody)
    }

    fn answered(&self) -> u64 {
        self.answers().map(|(_, h)| h.len()).sum()
    }

    fn all(&self) -> Histogram<u64> {
        let mut all = Histogram::new_from(&self.measured.latency[0]);
        for (_, h) in self.answers() {
            all.add(h).expect("all histograms are made with the same bounds");
        }
        all
    }
}

fn op_name(op: Op) -> &'static str {
    match op {
        Op::Create => "create",
        Op::Set => "set",
        Op::Get => "get",
        Op::Mix => "mix",
        Op::Multi => "multi",
        Op::Churn => "churn",
        Op::Watch => "watch",
        Op::Clean => "clean",
        Op::Mirror => "mirror",
    }
}

fn numbers(h: &Histogram<u64>, seconds: f64) -> Value {
    let mut out = json!({
        "count": h.len(),
        "per_s": h.len() as f64 / seconds,
        "mean": h.mean(),
        "min": if h.is_empty() { 0 } else { h.min() },
        "max": h.max(),
    });
    for (name, p) in PERCENTILES {
        out[name] = json!(h.value_at_quantile(p / 100.0));
    }
    out
}
