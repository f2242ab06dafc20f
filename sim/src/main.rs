//! `sim`: runs seeds until the time is up, a number of them is done, or one fails.

use clap::Parser;
use sim::coverage::Coverage;
use sim::run::{Job, run};
use sim::shrink;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Simulates whole ensembles from seeds. Every run ends with a heal and a demand for service, and its histories are
/// judged. A seed that fails is made smaller and told with the command that replays it.
#[derive(Parser)]
struct Args {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Run this many seeds, one after the other.
    #[arg(long)]
    seeds: Option<u64>,
    /// Run seeds until this many seconds have passed.
    #[arg(long)]
    seconds: Option<u64>,
    /// Threads, each with seeds of its own.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Servers that vote; the seed chooses by default.
    #[arg(long)]
    voters: Option<usize>,
    /// Clients; the seed chooses by default.
    #[arg(long)]
    clients: Option<usize>,
    /// Faults of the plan to keep, by number, or "none"; all by default.
    #[arg(long)]
    faults: Option<String>,
    /// When faults and work end, ms of virtual time; the seed chooses by default.
    #[arg(long)]
    until_ms: Option<u64>,
    /// Tell the last lines of what happened.
    #[arg(long)]
    tell: bool,
    /// Lines to tell.
    #[arg(long, default_value_t = 200)]
    lines: usize,
    /// Runs for making a failing seed smaller; 0: leave it as it is.
    #[arg(long, default_value_t = 200)]
    shrink: usize,
    /// Go on after a failure, and count them.
    #[arg(long)]
    count: bool,
    /// Switch each historical bug on in turn, and fail if one survives this many seconds.
    #[cfg(feature = "mutants")]
    #[arg(long)]
    mutants: Option<u64>,
    /// Only the bug of this name.
    #[cfg(feature = "mutants")]
    #[arg(long)]
    mutant: Option<String>,
    /// Fail if a planned fault or a kind of message never happened.
    #[arg(long)]
    cover: bool,
}

struct Total {
    coverage: Coverage,
    events: u64,
    calls: u64,
    seeds: u64,
    time_ns: u128,
    failed: Vec<(u64, String)>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    // A panic inside a run is a finding: its place is wanted, not its backtrace on the terminal.
    std::panic::set_hook(Box::new(|info| {
        if std::env::var_os("SIM_PANIC").is_some() {
            eprintln!("{info}");
        }
    }));
    let keep = args
        .faults
        .as_ref()
        .map(|list| list.split(',').filter_map(|n| n.trim().parse().ok()).collect::<Vec<usize>>());
    let job = Job {
        seed: args.seed,
        voters: args.voters,
        clients: args.clients,
        keep,
        until_ms: args.until_ms,
        tell: args.tell,
    };
    #[cfg(feature = "mutants")]
    if let Some(budget) = args.mutants {
        return kill_all(&args, Duration::from_secs(budget));
    }
    if args.seeds.is_none() && args.seconds.is_none() {
        return one(&job, &args);
    }
    let started = Instant::now();
    let next = AtomicU64::new(args.seed);
    let stop = AtomicBool::new(false);
    let empty = Coverage::default();
    let total =
        Mutex::new(Total { coverage: empty, events: 0, calls: 0, seeds: 0, time_ns: 0, failed: Vec::new() });
    let end = args.seeds.map_or(u64::MAX, |n| args.seed + n);
    let deadline = args.seconds.map(Duration::from_secs);
    std::thread::scope(|scope| {
        for _ in 0..args.threads.max(1) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) && deadline.is_none_or(|d| started.elapsed() < d) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let outcome = run(&Job { seed, tell: false, ..job.clone() });
                    let mut total = total.lock().expect("no thread panics here");
                    total.coverage.add(&outcome.coverage);
                    total.events += outcome.events;
                    total.calls += outcome.calls as u64;
                    total.seeds += 1;
                    total.time_ns += u128::from(outcome.time);
                    if let Some(violation) = outcome.violation {
                        total.failed.push((seed, violation.to_string()));
                        if !args.count {
                            stop.store(true, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    let seconds = started.elapsed().as_secs_f64();
    let total = total.into_inner().expect("no thread panics here");
    println!(
        "{} seeds from {} on, {:.0} an hour, {} events ({:.0} a seed, {:.0} a second), {} requests, {:.0} s of virtual time in {seconds:.1} s",
        total.seeds,
        args.seed,
        total.seeds as f64 * 3600.0 / seconds,
        total.events,
        total.events as f64 / total.seeds.max(1) as f64,
        total.events as f64 / seconds,
        total.calls,
        total.time_ns as f64 / 1e9,
    );
    let mut covered = true;
    if args.cover {
        for (point, n) in total.coverage.all() {
            println!("  {point:?} {n}");
        }
        let missing = total.coverage.missing(args.voters == Some(1));
        if !missing.is_empty() {
            println!("FAILED: never happened: {missing:?}");
            covered = false;
        }
    }
    if total.failed.is_empty() {
        if !covered {
            return ExitCode::FAILURE;
        }
        println!("PASS sim: {} seeds", total.seeds);
        return ExitCode::SUCCESS;
    }
    let mut kinds = std::collections::BTreeMap::<&str, (u64, u64, &str)>::new();
    for (seed, text) in &total.failed {
        let kind = text.split(" at ").next().unwrap_or(text);
        let entry = kinds.entry(kind).or_insert((0, *seed, text));
        entry.0 += 1;
    }
    for (n, seed, text) in kinds.values() {
        println!("FAILED {n} times, seed {seed}: {text}");
    }
    let mut failed = total.failed.clone();
    failed.sort();
    let (seed, _) = failed.first().expect("not empty");
    tell_smaller(&Job { seed: *seed, ..job }, &args);
    ExitCode::FAILURE
}

/// Runs one seed.
fn one(job: &Job, args: &Args) -> ExitCode {
    let outcome = run(job);
    for line in &outcome.story[outcome.story.len().saturating_sub(args.lines)..] {
        println!("{line}");
    }
    println!(
        "seed {}: {} events, {} requests, {:.3} s, trace {:016x}, {} faults",
        job.seed,
        outcome.events,
        outcome.calls,
        outcome.time as f64 / 1e9,
        outcome.trace,
        outcome.plan.len()
    );
    match outcome.violation {
        None => ExitCode::SUCCESS,
        Some(violation) => {
            println!("FAILED {violation}");
            if job.keep.is_none() {
                tell_smaller(job, args);
            }
            ExitCode::FAILURE
        }
    }
}

fn tell_smaller(job: &Job, args: &Args) {
    if args.shrink == 0 {
        println!("replay: {}", shrink::command(job));
        return;
    }
    let (small, found) = shrink::shrink(&Job { tell: false, ..job.clone() }, args.shrink);
    println!("smaller: {} events, {} requests", found.events, found.calls);
    for i in small.keep.clone().unwrap_or_default() {
        if let Some(planned) = found.plan.get(i) {
            println!(
                "  fault {i} at {:.1} ms for {:.1} ms: {:?}",
                planned.at as f64 / 1e6,
                planned.lasts as f64 / 1e6,
                planned.fault
            );
        }
    }
    if let Some(violation) = found.violation {
        println!("  {violation}");
    }
    println!("replay: {}", shrink::command(&small));
}

/// Switches each bug on and runs seeds until one of them shows it.
#[cfg(feature = "mutants")]
fn kill_all(args: &Args, budget: Duration) -> ExitCode {
    use proto::mutant::{Mutant, switch};
    println!("| mutant | seen as | what it does | killed by | seeds | seconds |");
    println!("|---|---|---|---|---|---|");
    let (mut killed, mut survivors) = (0, Vec::new());
    for &(mutant, seen, what) in Mutant::ALL {
        let name = format!("{mutant:?}");
        if args.mutant.as_ref().is_some_and(|wanted| *wanted != name) {
            continue;
        }
        switch(Some(mutant));
        let started = Instant::now();
        let next = AtomicU64::new(args.seed);
        let found: Mutex<Option<(u64, String)>> = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..args.threads.max(1) {
                scope.spawn(|| {
                    while found.lock().expect("no thread panics here").is_none() && started.elapsed() < budget
                    {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        let outcome = run(&Job { seed, voters: args.voters, ..Job::default() });
                        if let Some(violation) = outcome.violation {
                            found
                                .lock()
                                .expect("no thread panics here")
                                .get_or_insert((seed, violation.what));
                        }
                    }
                });
            }
        });
        let seconds = started.elapsed().as_secs_f64();
        let seeds = next.load(Ordering::Relaxed) - args.seed;
        match found.into_inner().expect("no thread panics here") {
            Some((_, by)) => {
                killed += 1;
                println!("| {name} | {seen} | {what} | {by} | {seeds} | {seconds:.1} |");
            }
            None => {
                println!("| {name} | {seen} | {what} | SURVIVED | {seeds} | {seconds:.1} |");
                survivors.push(name);
            }
        }
    }
    switch(None);
    println!("{killed} mutants killed, {} survived {survivors:?}", survivors.len());
    if survivors.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
