//! The latency of writes at a fixed rate, over trees of several sizes, while a snapshot is being written and while none is.
//!
//! ```text
//!   for each size:  fresh server ── that many znodes ── for each round: quiet run, run with snapshots (the order changes)
//!                   then Apache ZooKeeper likewise, if wanted, with the snapshots that it takes by itself
//!   medians over the rounds ── table, two pictures
//! ```
//!
//! The load is open: latency counts from the intended time of sending, so that a stall is charged to every request that it held
//! up. The quiet server never takes a snapshot by itself; in the other runs one is demanded as soon as the last is written, or
//! streamed out to this process (`--streaming`).

#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "the comments of arguments are their help, and brackets mean optional parts"
)]

use benches::median;
use benches::server::{self, Kind, Paths, Running};
use clap::Parser;
use serde_json::Value;
use std::error::Error;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tools::render::{self, Table};
use tools::svg::{Chart, Series};

/// Latency of setData at a fixed rate over trees of several sizes, with and without snapshots.
#[derive(Parser)]
struct Args {
    /// Writes a second
    #[arg(long, default_value_t = 40_000.0)]
    rate: f64,
    /// Znodes of 100 B in the tree: one run for each size (k, M)
    #[arg(long, value_delimiter = ',', default_value = "0,1M,3M,10M", value_parser = count)]
    sizes: Vec<u64>,
    /// How many times each is measured
    #[arg(short, long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// How long to measure each time
    #[arg(short, long, default_value = "8s", value_parser = render::parse_duration)]
    duration: Duration,
    /// How long to load the server before that
    #[arg(short, long, default_value = "2s", value_parser = render::parse_duration)]
    warmup: Duration,
    /// Connections
    #[arg(long, default_value_t = 64)]
    connections: u32,
    /// Have the snapshots streamed out, in Apache's format, instead of written
    #[arg(long)]
    streaming: bool,
    /// Measure Apache ZooKeeper as well, up to this size of the tree
    #[arg(long, value_name = "ZNODES", value_parser = count)]
    apache_upto: Option<u64>,
    /// Options of the Java virtual machine
    #[arg(long, default_value = "-Xms4g -Xmx4g", allow_hyphen_values = true)]
    java_options: String,
    /// A directory on the disk where the data goes; what is made there is removed
    #[arg(long, default_value = "target/tails")]
    dir: PathBuf,
    /// The falconerd to measure
    #[arg(long, default_value = "target/release/falconerd")]
    falconerd: PathBuf,
    /// The falconer that makes the load
    #[arg(long, default_value = "target/release/falconer")]
    falconer: PathBuf,
    /// Write the picture of the percentiles here
    #[arg(long, value_name = "FILE", default_value = "target/tails.svg")]
    svg: PathBuf,
    /// Write the picture of the largest tree's seconds here
    #[arg(long, value_name = "FILE", default_value = "target/tails-seconds.svg")]
    seconds_svg: PathBuf,
}

/// A count of znodes.
fn count(text: &str) -> Result<u64, String> {
    benches::count(text).ok_or_else(|| format!("'{text}' is no count: write 0, 500k, 10M"))
}

/// A count as short as [`count`] takes it.
fn short(n: u64) -> String {
    match n {
        0 => "0".into(),
        n if n.is_multiple_of(1_000_000) => format!("{} M", n / 1_000_000),
        n if n.is_multiple_of(1_000) => format!("{} k", n / 1_000),
        n => render::grouped(n),
    }
}

/// One run.
#[derive(Clone, Default, Debug)]
struct Sample {
    /// p50, p99, p99.9 in ns.
    latency: [f64; 3],
    /// p99.9 of each second, ns.
    seconds: Vec<f64>,
    /// Snapshots written meanwhile.
    snapshots: u32,
    /// Requests that failed, were not answered, or never sent for want of connections.
    errors: f64,
}

/// The runs over one tree.
struct Measured {
    znodes: u64,
    quiet: Vec<Sample>,
    disturbed: Vec<Sample>,
    apache: Vec<Sample>,
}

const PERCENTILES: [&str; 3] = ["p50", "p99", "p99.9"];

/// The median over the runs.
fn latency(samples: &[Sample], percentile: usize) -> f64 {
    median(samples.iter().map(|s| s.latency[percentile]).collect())
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("tails: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let mut results = Vec::new();
    for &znodes in &args.sizes {
        let mut result = Measured { znodes, quiet: Vec::new(), disturbed: Vec::new(), apache: Vec::new() };
        falconer(args, &mut result)?;
        if args.apache_upto.is_some_and(|most| znodes <= most) {
            apache(args, &mut result)?;
        }
        results.push(result);
    }
    // Only if it is empty: it may have been there before.
    let _ = std::fs::remove_dir(&args.dir);
    print!("{}", table(args, &results));
    for (path, chart) in
        [(&args.svg, sizes_chart(args, &results)), (&args.seconds_svg, seconds_chart(args, &results))]
    {
        std::fs::write(path, chart.svg()).map_err(|e| format!("can't write {}: {e}", path.display()))?;
        println!("picture: {}", path.display());
    }
    Ok(())
}

fn falconer(args: &Args, result: &mut Measured) -> Result<(), Box<dyn Error>> {
    let admin = server::free_address()?;
    let port = admin.rsplit(':').next().unwrap_or_default();
    let paths = Paths {
        classpath: String::new(),
        java_options: Vec::new(),
        falconerd: args.falconerd.clone(),
        scratch: args.dir.clone(),
        config: format!(
            "snapCount={}\nsnapSizeLimitInKb=0\nadmin.enableServer=true\nadmin.serverAddress=127.0.0.1\n\
             admin.serverPort={port}\nadmin.rateLimiterIntervalInMS=0\n",
            i32::MAX
        ),
    };
    std::fs::create_dir_all(&args.dir)?;
    let server = Running::start(Kind::Falconer, &paths, 1)?;
    preload(args, &server.addresses(), result.znodes)?;
    for round in 0..args.rounds {
        let mut order = [false, true];
        if round % 2 == 1 {
            order.reverse();
        }
        for disturb in order {
            let over = AtomicBool::new(false);
            let sample = std::thread::scope(|scope| -> Result<Sample, Box<dyn Error>> {
                let snapshots =
                    disturb.then(|| scope.spawn(|| snapshot_until(&admin, args.streaming, &over)));
                let report = bench(args, &server.addresses());
                over.store(true, Ordering::Relaxed);
                let written = snapshots.map(|t| t.join().expect("it does not panic")).transpose()?;
                Ok(Sample { snapshots: written.unwrap_or_default(), ..read(&report?) })
            })?;
            let how = if disturb { "with snapshots" } else { "quiet" };
            tell(args, round, result.znodes, how, &sample);
            if disturb { &mut result.disturbed } else { &mut result.quiet }.push(sample);
        }
    }
    Ok(())
}

fn apache(args: &Args, result: &mut Measured) -> Result<(), Box<dyn Error>> {
    let paths = Paths {
        classpath: server::classpath(None)?,
        java_options: args.java_options.split_whitespace().map(Into::into).collect(),
        falconerd: args.falconerd.clone(),
        scratch: args.dir.clone(),
        config: "admin.enableServer=false\n".into(),
    };
    let server = Running::start(Kind::Apache, &paths, 1)?;
    preload(args, &server.addresses(), result.znodes)?;
    for round in 0..args.rounds {
        let sample = read(&bench(args, &server.addresses())?);
        tell(args, round, result.znodes, "Apache", &sample);
        result.apache.push(sample);
    }
    Ok(())
}

fn tell(args: &Args, round: u32, znodes: u64, how: &str, sample: &Sample) {
    eprintln!(
        "round {} of {}: {} znodes, {how}: p99.9 {}, {} snapshots",
        round + 1,
        args.rounds,
        render::grouped(znodes),
        render::nanos(sample.latency[2] as u64),
        sample.snapshots
    );
}

fn preload(args: &Args, address: &str, znodes: u64) -> Result<(), Box<dyn Error>> {
    if znodes == 0 {
        return Ok(());
    }
    let status = Command::new(&args.falconer)
        .args(["bench", "--json", "--keep", "--size", "100", "--server", address])
        .args(["--preload", &znodes.to_string()])
        .stdout(Stdio::null())
        .status()?;
    if !status.success() {
        return Err(format!("the tree of {znodes} znodes can't be made").into());
    }
    Ok(())
}

fn bench(args: &Args, address: &str) -> Result<Value, Box<dyn Error>> {
    let ms = |d: Duration| format!("{}ms", d.as_millis());
    let output = Command::new(&args.falconer)
        .args(["bench", "set", "--json", "--keep", "--quiet", "--size", "100", "--server", address])
        .args(["--connections", &args.connections.to_string(), "--rate", &args.rate.to_string()])
        .args(["--duration", &ms(args.duration), "--warmup", &ms(args.warmup)])
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err("falconer bench failed".into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn read(report: &Value) -> Sample {
    let number = |v: &Value| v.as_f64().unwrap_or_default();
    let timeline = report["timeline"].as_array().map(Vec::as_slice).unwrap_or_default();
    let errors: f64 = report["errors"].as_object().map_or(0.0, |e| e.values().map(number).sum());
    Sample {
        latency: PERCENTILES.map(|p| number(&report["latency_ns"][p])),
        seconds: timeline.iter().map(|second| number(&second["p99.9"])).collect(),
        snapshots: 0,
        errors: errors + number(&report["unanswered"]) + number(&report["connections_lost"]),
    }
}

/// Demands snapshots, one after the other, until it is over; how many were written.
fn snapshot_until(admin: &str, streaming: bool, over: &AtomicBool) -> io::Result<u32> {
    let (mut written, mut piece) = (0, vec![0; 1 << 20]);
    while !over.load(Ordering::Relaxed) {
        let mut stream = TcpStream::connect(admin)?;
        // Whoever may do everything to the root may demand one, and everybody may on a fresh server.
        write!(
            stream,
            "GET /commands/snapshot?streaming={streaming} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Authorization: digest tails:tails\r\n\r\n",
        )?;
        let n = stream.read(&mut piece)?;
        if !piece[..n].starts_with(b"HTTP/1.1 200") {
            let answer = String::from_utf8_lossy(&piece[..n]);
            return Err(io::Error::other(format!("no snapshot: {answer}")));
        }
        written += 1;
        while stream.read(&mut piece)? > 0 {}
    }
    Ok(written)
}

fn table(args: &Args, results: &[Measured]) -> String {
    let mut table =
        Table::new(["znodes", "", "p50", "p99", "p99.9", "best and worst p99.9", "snapshots", "errors"]);
    for r in results {
        for (name, samples) in [
            ("Falconer, no snapshot", &r.quiet),
            ("Falconer, snapshots", &r.disturbed),
            ("Apache", &r.apache),
        ] {
            if samples.is_empty() {
                continue;
            }
            let all = samples.iter().map(|s| s.latency[2]);
            let nanos = |ns: f64| render::nanos(ns as u64);
            table.row([
                render::grouped(r.znodes),
                name.into(),
                nanos(latency(samples, 0)),
                nanos(latency(samples, 1)),
                nanos(latency(samples, 2)),
                format!(
                    "{} to {}",
                    nanos(all.clone().fold(f64::MAX, f64::min)),
                    nanos(all.fold(0.0, f64::max))
                ),
                samples.iter().map(|s| s.snapshots).sum::<u32>().to_string(),
                render::grouped(samples.iter().map(|s| s.errors).sum::<f64>() as u64),
            ]);
        }
    }
    format!(
        "setData of 100 B, {} a second, {} connections, open loop; {} rounds of {}, medians\n\n{}",
        render::grouped(args.rate as u64),
        args.connections,
        args.rounds,
        render::nanos(args.duration.as_nanos() as u64),
        table.text()
    )
}

/// Percentiles over the size of the tree.
fn sizes_chart(args: &Args, results: &[Measured]) -> Chart {
    type Runs = fn(&Measured) -> &Vec<Sample>;
    let kinds: [(&str, Runs); 3] = [
        ("no snapshot", |r| &r.quiet),
        ("snapshots all the time", |r| &r.disturbed),
        ("Apache ZooKeeper", |r| &r.apache),
    ];
    let line = |(name, runs): (&str, Runs), percentile: usize| Series {
        name: format!("{}, {name}", PERCENTILES[percentile]),
        points: results
            .iter()
            .enumerate()
            .filter(|(_, r)| !runs(r).is_empty())
            .map(|(i, r)| (i as f64, latency(runs(r), percentile)))
            .collect(),
        dots: false,
    };
    let mut series: Vec<Series> = [2, 0].iter().flat_map(|&p| kinds.map(|kind| line(kind, p))).collect();
    series.retain(|s| !s.points.is_empty());
    Chart {
        title: format!("setData at {} a second", render::grouped(args.rate as u64)),
        x_marks: results.iter().enumerate().map(|(i, r)| (i as f64, short(r.znodes))).collect(),
        x_title: "znodes in the tree".into(),
        y_title: "latency".into(),
        y_label: |y| render::nanos(y as u64),
        log: true,
        series,
    }
}

/// Each second of all runs over the largest tree, one run behind the other.
fn seconds_chart(args: &Args, results: &[Measured]) -> Chart {
    let line = |name: &str, samples: &[Sample]| Series {
        name: format!("p99.9 of each second, {name}"),
        points: samples.iter().flat_map(|s| &s.seconds).enumerate().map(|(i, ns)| (i as f64, *ns)).collect(),
        dots: false,
    };
    let Some(largest) = results.last() else { unreachable!("there is one size at least") };
    let end = largest.quiet.iter().map(|s| s.seconds.len()).sum::<usize>();
    Chart {
        title: format!(
            "setData at {} a second, {} znodes",
            render::grouped(args.rate as u64),
            render::grouped(largest.znodes)
        ),
        x_marks: (0..=end).step_by((end / 8).max(1)).map(|s| (s as f64, s.to_string())).collect(),
        x_title: "seconds of all rounds".into(),
        y_title: "latency".into(),
        y_label: |y| render::nanos(y as u64),
        log: true,
        series: vec![line("no snapshot", &largest.quiet), line("snapshots all the time", &largest.disturbed)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn counts_medians_and_reports() {
        assert_eq!([count("0"), count("500k"), count("10M")], [Ok(0), Ok(500_000), Ok(10_000_000)]);
        assert!(count("M").is_err() && count("-1").is_err() && count("99999999999999M").is_err());
        assert_eq!([0, 1, 500_000, 10_000_000].map(short), ["0", "1", "500 k", "10 M"]);
        let report = json!({"latency_ns": {"p50": 1, "p99": 2, "p99.9": 3}, "errors": {"a": 4}, "unanswered": 1,
                            "connections_lost": 0, "timeline": [{"p99.9": 7}, {"p99.9": 8}]});
        let sample = read(&report);
        assert_eq!(
            (sample.latency, sample.seconds.clone(), sample.errors),
            ([1.0, 2.0, 3.0], vec![7.0, 8.0], 5.0)
        );
        let slower = Sample { latency: [4.0; 3], ..Sample::default() };
        assert_eq!(latency(&[slower.clone(), sample, slower], 2), 4.0);
    }
}
