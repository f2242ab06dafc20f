//! Falconer and Apache ZooKeeper under the same load, in turns, on this machine.
//!
//! ```text
//!   for each round, for each case, for each server (the order changes from round to round):
//!       fresh data directory ── start ── wait until it serves ── falconer bench --json ── stop ── remove
//!   medians over the rounds ── table of ratios, picture, JSON
//! ```
//!
//! With `--ensemble 3` each of them is an ensemble of three processes. Both servers get the same configuration and the
//! same disk, and both make each write durable before they answer (Apache's `forceSync` and Falconer's log at their
//! defaults); snapshots are left on. Everything runs on one machine, the load generator included, which reports what it
//! costs itself.

#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "the comments of arguments are their help, and brackets mean optional parts"
)]

use benches::count;
use benches::server::{self, Kind, Paths, Running};
use clap::Parser;
use serde_json::{Value, json};
use std::error::Error;
use std::fmt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::str::FromStr;
use std::time::Duration;
use tools::render::{self, Table};
use tools::svg::{self, Bar};

/// Compare Falconer with Apache ZooKeeper: the same load, in turns, medians of several rounds.
///
/// Apache ZooKeeper is taken from --apache, or from the Debian package, which is installed if it is missing.
#[derive(Parser)]
struct Args {
    /// How many times each server has its turn with each case
    #[arg(short, long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// How long to measure each time
    #[arg(short, long, default_value = "10s", value_parser = render::parse_duration)]
    duration: Duration,
    /// How long to load the server before that; Java needs some seconds to compile
    #[arg(short, long, default_value = "8s", value_parser = render::parse_duration)]
    warmup: Duration,
    /// What to load them with: OPERATION[@RATE]:CONNECTIONSxOUTSTANDING:BYTES[+ZNODES], or restart+ZNODES; may be given
    /// several times. With a rate the load is open (latency from the intended time of sending); +ZNODES makes a tree of
    /// so many first (k, M); restart measures kill -9, start, first read; watch@20:1000x1:100 is a change 20 times a second,
    /// from its sending until the last of 1,000 connections has heard of it
    #[arg(short, long = "case", value_name = "CASE",
          default_values = ["set:1x1:100", "set:64x32:100", "create:64x32:100", "get:64x32:100"])]
    cases: Vec<Case>,
    /// How many servers: more than one form an ensemble on this machine, and the load is spread over all of them
    #[arg(long, value_name = "SERVERS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=9))]
    ensemble: u32,
    /// A directory on the disk where the data goes; what is made there is removed
    #[arg(long, default_value = "target/compare")]
    dir: PathBuf,
    /// A binary distribution of Apache ZooKeeper (the directory that holds lib/)
    #[arg(long, value_name = "DIR")]
    apache: Option<PathBuf>,
    /// Options of the Java virtual machine
    #[arg(long, default_value = "-Xms1g -Xmx1g", allow_hyphen_values = true)]
    java_options: String,
    /// The falconerd to measure
    #[arg(long, default_value = "target/release/falconerd")]
    falconerd: PathBuf,
    /// The falconer that makes the load
    #[arg(long, default_value = "target/release/falconer")]
    falconer: PathBuf,
    /// Measure also what no server can beat: a commit of this disk plus a round trip to a server that answers at once
    #[arg(long)]
    floor: bool,
    /// Write the picture here
    #[arg(long, value_name = "FILE", default_value = "target/compare.svg")]
    svg: PathBuf,
    /// Write all numbers here
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// One load.
#[derive(Clone, PartialEq, Debug)]
struct Case {
    op: String,
    /// Requests per second of an open load.
    rate: Option<f64>,
    connections: u32,
    outstanding: u32,
    size: u32,
    /// Znodes made before.
    preload: u64,
}

/// The operation that is no load: kill, start, read.
const RESTART: &str = "restart";
/// The operation whose latency is that of the last of many who watch, with persistent watches.
const WATCH: &str = "watch";
/// The same until the last event has reached the machine of those who watch, whenever they read it.
const ARRIVAL: &str = "arrival";

impl FromStr for Case {
    type Err = String;

    fn from_str(text: &str) -> Result<Case, String> {
        let wrong = || {
            format!(
                "'{text}' is no case: write for example set:64x32:100, set@40000:64x32:100+1M, restart+1M"
            )
        };
        let number = |t: &str| t.parse::<u32>().map_err(|_| wrong());
        let (load, preload) = match text.split_once('+') {
            Some((load, znodes)) => (load, count(znodes).ok_or_else(wrong)?),
            None => (text, 0),
        };
        if load == RESTART {
            return Ok(Case {
                op: load.into(),
                rate: None,
                connections: 0,
                outstanding: 0,
                size: 100,
                preload,
            });
        }
        let mut parts = load.split(':');
        let (Some(op), Some(shape), Some(size), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(wrong());
        };
        let (op, rate) = match op.split_once('@') {
            Some((op, rate)) => (op, Some(rate.parse().map_err(|_| wrong())?)),
            None => (op, None),
        };
        let (connections, outstanding) = shape.split_once('x').ok_or_else(wrong)?;
        Ok(Case {
            op: op.into(),
            rate,
            connections: number(connections)?,
            outstanding: number(outstanding)?,
            size: number(size)?,
            preload,
        })
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.op)?;
        if let Some(rate) = self.rate {
            write!(f, " at {}/s", render::grouped(rate as u64))?;
        }
        if self.connections > 0 {
            write!(f, " {}×{} {} B", self.connections, self.outstanding, self.size)?;
        }
        if self.preload > 0 {
            write!(f, ", {} znodes", render::grouped(self.preload))?;
        }
        Ok(())
    }
}

/// One number of a sample.
type Field = fn(&Sample) -> f64;

/// What one run found; ns where not said otherwise.
#[derive(Clone, Copy, Debug)]
struct Sample {
    ops_per_s: f64,
    p50: f64,
    p99: f64,
    p999: f64,
    server_cpu: f64,
    generator_cpu: f64,
    rss_bytes: f64,
    errors: f64,
}

impl Sample {
    const FIELDS: [(&'static str, Field); 8] = [
        ("ops_per_s", |s| s.ops_per_s),
        ("p50_ns", |s| s.p50),
        ("p99_ns", |s| s.p99),
        ("p99.9_ns", |s| s.p999),
        ("server_cpu_ns_per_op", |s| s.server_cpu),
        ("generator_cpu_ns_per_op", |s| s.generator_cpu),
        ("server_rss_bytes", |s| s.rss_bytes),
        ("errors", |s| s.errors),
    ];

    fn of(case: &Case, report: &Value) -> Sample {
        let number = |path: &str| report.pointer(path).and_then(Value::as_f64).unwrap_or(0.0);
        // A fan-out takes as long as the last of those who watch has to wait.
        let latency =
            if [WATCH, ARRIVAL].contains(&case.op.as_str()) { "/kinds/everybody" } else { "/latency_ns" };
        let latency = |quantile: &str| number(&format!("{latency}/{quantile}"));
        let errors = report["errors"].as_object().map_or(0.0, |e| e.values().filter_map(Value::as_f64).sum());
        Sample {
            ops_per_s: number("/ops_per_s"),
            p50: latency("p50"),
            p99: latency("p99"),
            p999: latency("p99.9"),
            server_cpu: number("/cpu_ns_per_op/server"),
            generator_cpu: number("/cpu_ns_per_op/generator"),
            rss_bytes: number("/server_rss_bytes"),
            errors: errors + number("/unanswered") + number("/connections_lost"),
        }
    }
}

/// The median of one number of the samples.
fn median(samples: &[Sample], field: Field) -> f64 {
    benches::median(samples.iter().map(field).collect())
}

/// The samples of one case, per server.
struct Measured {
    case: Case,
    apache: Vec<Sample>,
    falconer: Vec<Sample>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("compare: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    if args.ensemble > 1 && args.cases.iter().any(|c| c.op == RESTART) {
        return Err("restart is measured of a server that runs alone: leave out --ensemble".into());
    }
    build(args)?;
    let paths = Paths {
        classpath: server::classpath(args.apache.as_deref())?,
        java_options: args.java_options.split_whitespace().map(Into::into).collect(),
        falconerd: args.falconerd.clone(),
        scratch: args.dir.clone(),
        config: "admin.enableServer=false\n".into(),
    };
    let mut results: Vec<Measured> = args
        .cases
        .iter()
        .map(|case| Measured { case: case.clone(), apache: Vec::new(), falconer: Vec::new() })
        .collect();
    let mut versions = [String::new(), String::new()];
    for round in 0..args.rounds {
        for result in &mut results {
            let mut order = [Kind::Apache, Kind::Falconer];
            if round % 2 == 1 {
                order.reverse();
            }
            for kind in order {
                eprint!("round {} of {}: {}, {kind}: ", round + 1, args.rounds, result.case);
                let (sample, version) = measure(args, &result.case, kind, &paths)?;
                eprintln!(
                    "{}/s, p99 {}",
                    render::three_digits(sample.ops_per_s),
                    render::nanos(sample.p99 as u64)
                );
                versions[kind as usize] = version;
                match kind {
                    Kind::Apache => result.apache.push(sample),
                    Kind::Falconer => result.falconer.push(sample),
                }
            }
        }
    }
    let floor = if args.floor { Some(floor(args)?) } else { None };
    // Only if it is empty: it may have been there before.
    let _ = std::fs::remove_dir(&args.dir);
    print!("{}", table(args, &versions, &results, floor));
    std::fs::write(&args.svg, picture(&results))
        .map_err(|e| format!("can't write {}: {e}", args.svg.display()))?;
    println!("\npicture: {}", args.svg.display());
    if let Some(path) = &args.json {
        std::fs::write(path, format!("{:#}\n", numbers(args, &versions, &results, floor)))
            .map_err(|e| format!("can't write {}: {e}", path.display()))?;
    }
    Ok(())
}

/// One run of one case: what it found, and the version of the server.
fn measure(args: &Args, case: &Case, kind: Kind, paths: &Paths) -> Result<(Sample, String), Box<dyn Error>> {
    let mut server = Running::start(kind, paths, args.ensemble)?;
    if case.preload > 0 {
        let status = Command::new(&args.falconer)
            .args(["bench", "--json", "--server", &server.addresses(), "--size", &case.size.to_string()])
            .args(["--preload", &case.preload.to_string()])
            .status()?;
        if !status.success() {
            return Err(format!("{kind}: the tree of {} znodes can't be made", case.preload).into());
        }
    }
    let version = server.version().to_string();
    if case.op != RESTART {
        let report = bench(args, case, &server.addresses(), &server.pids())?;
        return Ok((Sample::of(case, &report), version));
    }
    let took = server.kill_and_restart(paths)?;
    let ns = took.as_nanos() as f64;
    let sample = Sample {
        ops_per_s: 1.0 / took.as_secs_f64(),
        p50: ns,
        p99: ns,
        p999: ns,
        server_cpu: 0.0,
        generator_cpu: 0.0,
        rss_bytes: server.resident() as f64,
        errors: 0.0,
    };
    Ok((sample, version))
}

/// Builds what is to be measured, if it is not there: the defaults are what cargo makes.
fn build(args: &Args) -> Result<(), Box<dyn Error>> {
    for (path, package) in [(&args.falconerd, "server"), (&args.falconer, "tools")] {
        if !path.exists() {
            eprintln!("{} is missing: cargo build --release -p {package}", path.display());
            let status = Command::new("cargo").args(["build", "--release", "-p", package]).status()?;
            if !status.success() || !path.exists() {
                return Err(format!(
                    "{} can't be built; --falconerd and --falconer name others",
                    path.display()
                )
                .into());
            }
        }
    }
    Ok(())
}

fn bench(args: &Args, case: &Case, address: &str, pids: &[u32]) -> Result<Value, Box<dyn Error>> {
    let seconds = |d: Duration| format!("{}ms", d.as_millis());
    let mut command = Command::new(&args.falconer);
    command
        .args([
            "bench",
            if case.op == ARRIVAL { WATCH } else { &case.op },
            "--json",
            "--keep",
            "--server",
            address,
        ])
        .args([
            "--connections",
            &case.connections.to_string(),
            "--outstanding",
            &case.outstanding.to_string(),
        ])
        .args(["--size", &case.size.to_string()])
        .args(["--duration", &seconds(args.duration), "--warmup", &seconds(args.warmup)])
        .stderr(Stdio::inherit());
    if [WATCH, ARRIVAL].contains(&case.op.as_str()) {
        command.arg("--persistent");
    }
    if case.op == ARRIVAL {
        command.arg("--arrival");
    }
    if let Some(rate) = case.rate {
        command.args(["--rate", &rate.to_string()]);
    }
    if !pids.is_empty() {
        let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
        command.args(["--server-pid", &pids.join(",")]);
    }
    let output = command.output()?;
    if !output.status.success() {
        return Err(format!("falconer bench {case} failed").into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Medians in ns: a small commit of this disk, a round trip to a server that answers at once.
fn floor(args: &Args) -> Result<(f64, f64), Box<dyn Error>> {
    eprintln!("floor: commits of {}", args.dir.display());
    std::fs::create_dir_all(&args.dir)?;
    let disk = Command::new(&args.falconer)
        .args(["disk", "--json", "--duration", "8s"])
        .arg(&args.dir)
        .stderr(Stdio::inherit())
        .output()?;
    let disk: Value = serde_json::from_slice(&disk.stdout)?;
    let lanes = disk["lanes"].as_array().cloned().unwrap_or_default();
    let commit = lanes
        .iter()
        .find(|l| l["size"] == 4096 && l["lane"] == "prepared, direct DSYNC")
        .and_then(|l| l["p50_ns"].as_f64())
        .ok_or("falconer disk measured no prepared direct commit")?;
    let address = server::free_address()?;
    let mut mirror = Command::new(&args.falconer)
        .args(["bench", "mirror", "--server", &address])
        .stderr(Stdio::null())
        .spawn()?;
    server::wait_for_port(&address);
    let one: Case = "set:1x1:100".parse()?;
    let report = bench(args, &one, &address, &[]);
    mirror.kill()?;
    mirror.wait()?;
    Ok((commit, Sample::of(&one, &report?).p50))
}

fn table(args: &Args, versions: &[String; 2], results: &[Measured], floor: Option<(f64, f64)>) -> String {
    let mut out = format!(
        "Apache ZooKeeper: {}\nFalconer: {}\n{}{} rounds of {} after {} of warm-up, medians; {} cores\n\n",
        versions[Kind::Apache as usize],
        versions[Kind::Falconer as usize],
        match args.ensemble {
            1 => String::new(),
            n => format!("ensembles of {n}, CPU and memory of all together; "),
        },
        args.rounds,
        render::nanos(args.duration.as_nanos() as u64),
        render::nanos(args.warmup.as_nanos() as u64),
        std::thread::available_parallelism().map_or(0, std::num::NonZero::get)
    );
    let mut table = Table::new([
        "",
        "",
        "per second",
        "p50",
        "p99",
        "p99.9",
        "server CPU/op",
        "resident",
        "generator CPU/op",
        "errors",
    ]);
    for r in results {
        let row = |name: &str, label: String, s: &[Sample]| {
            let ns = |f: Field| render::nanos(median(s, f) as u64);
            [
                label,
                name.into(),
                rate_text(median(s, |s| s.ops_per_s)),
                ns(|s| s.p50),
                ns(|s| s.p99),
                ns(|s| s.p999),
                ns(|s| s.server_cpu),
                render::bytes(median(s, |s| s.rss_bytes) as u64),
                ns(|s| s.generator_cpu),
                render::grouped(s.iter().map(|s| s.errors).sum::<f64>() as u64),
            ]
        };
        table.row(row("Apache", r.case.to_string(), &r.apache));
        table.row(row("Falconer", String::new(), &r.falconer));
        let both =
            |f: Field| (median(&r.apache, f) > 0.0 && median(&r.falconer, f) > 0.0).then(|| ratio(r, f));
        let times = |f: Field| both(f).map_or_else(|| "-".into(), |x| format!("{x:.2} ×"));
        let less = |f: Field| both(f).map_or_else(|| "-".into(), |x| format!("1/{:.2}", 1.0 / x));
        table.row([
            String::new(),
            "ratio".into(),
            times(|s| s.ops_per_s),
            less(|s| s.p50),
            less(|s| s.p99),
            less(|s| s.p999),
            less(|s| s.server_cpu),
            less(|s| s.rss_bytes),
        ]);
    }
    out += &table.text();
    if let Some((commit, trip)) = floor {
        out += &format!(
            "\nfloor: one prepared direct 4 KiB commit {} + one round trip to a server that answers at once {} = {}\n",
            render::nanos(commit as u64),
            render::nanos(trip as u64),
            render::nanos((commit + trip) as u64)
        );
        let lonely = |r: &&Measured| r.case.op == "set" && (r.case.connections, r.case.outstanding) == (1, 1);
        if let Some(r) = results.iter().find(lonely) {
            let p50 = median(&r.falconer, |s| s.p50);
            out += &format!("Falconer's lonely set: {:.2} × the floor\n", p50 / (commit + trip));
        }
    }
    out
}

/// Whole numbers, but of a restart, whose rate is below one.
fn rate_text(rate: f64) -> String {
    if rate < 100.0 { render::three_digits(rate) } else { render::grouped(rate as u64) }
}

/// Falconer's median over Apache's.
fn ratio(r: &Measured, field: Field) -> f64 {
    median(&r.falconer, field) / median(&r.apache, field).max(1e-9)
}

fn picture(results: &[Measured]) -> String {
    let mut rows = Vec::new();
    for r in results {
        for (name, samples, colour) in [("Apache", &r.apache, 1), ("Falconer", &r.falconer, 0)] {
            let rate = median(samples, |s| s.ops_per_s);
            let best = samples.iter().map(|s| s.ops_per_s).fold(0.0, f64::max);
            let times = if name == "Falconer" {
                format!(" ({:.1} ×)", ratio(r, |s| s.ops_per_s))
            } else {
                String::new()
            };
            rows.push(Bar {
                name: format!("{} · {name}", r.case),
                value: rate,
                whisker: best,
                label: format!("{}/s{times}", rate_text(rate)),
                colour,
            });
        }
    }
    svg::bars("Operations per second: median of the rounds (bar), best of them (line)", &rows)
}

fn numbers(args: &Args, versions: &[String; 2], results: &[Measured], floor: Option<(f64, f64)>) -> Value {
    let side = |samples: &[Sample]| {
        let of = |f: Field| samples.iter().map(f).collect::<Vec<f64>>();
        let fields = Sample::FIELDS
            .map(|(name, f)| (name.into(), json!({"median": median(samples, f), "rounds": of(f)})));
        Value::Object(fields.into_iter().collect())
    };
    json!({
        "apache_version": versions[Kind::Apache as usize],
        "falconer_version": versions[Kind::Falconer as usize],
        "servers": args.ensemble,
        "rounds": args.rounds,
        "duration_s": args.duration.as_secs_f64(),
        "warmup_s": args.warmup.as_secs_f64(),
        "java_options": args.java_options,
        "cores": std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        "floor_ns": floor.map(|(commit, trip)| json!({"commit": commit, "round_trip": trip})),
        "cases": results.iter().map(|r| json!({
            "case": r.case.to_string(), "apache": side(&r.apache), "falconer": side(&r.falconer),
            "throughput_ratio": ratio(r, |s| s.ops_per_s),
        })).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_and_medians() {
        let case: Case = "get:64x32:1024".parse().unwrap();
        assert_eq!(case.to_string(), "get 64×32 1024 B");
        let case: Case = "set@40000:64x32:100+2M".parse().unwrap();
        assert_eq!((case.rate, case.preload), (Some(40_000.0), 2_000_000));
        assert_eq!(case.to_string(), "set at 40,000/s 64×32 100 B, 2,000,000 znodes");
        assert_eq!("restart+1k".parse::<Case>().unwrap().to_string(), "restart, 1,000 znodes");
        for wrong in ["get", "get:64:100", "get:axb:1", "get:1x1:1:1", "set@x:1x1:1", "set:1x1:1+z"] {
            assert!(wrong.parse::<Case>().is_err(), "{wrong}");
        }
        let report = json!({"ops_per_s": 10.0, "latency_ns": {"p50": 1, "p99": 2, "p99.9": 3},
                            "errors": {"NoNode (-101)": 4}, "unanswered": 1, "connections_lost": 0,
                            "cpu_ns_per_op": {"server": 5.0, "generator": 6.0}, "server_rss_bytes": 7});
        let one = Sample::of(&case, &report);
        assert_eq!((one.ops_per_s, one.p999, one.errors, one.server_cpu), (10.0, 3.0, 5.0, 5.0));
        let samples = [3.0, 1.0, 2.0].map(|ops_per_s| Sample { ops_per_s, ..one });
        assert_eq!(median(&samples, |s| s.ops_per_s), 2.0);
        assert_eq!(median(&samples[..2], |s| s.ops_per_s), 2.0);
    }
}
