//! `falconer bench`: a load generator for any server of the ZooKeeper protocol.
//!
//! ```text
//!   Args ── Target ── sessions, key space (Bulk)      set-up, not measured
//!     │
//!     └──── engine per thread, driven by a job        warm-up, measuring, drain
//!                   └── Measured ── Report            text or JSON
//! ```
//!
//! With `--rate` the load is open: requests leave when they are meant to, whether or not earlier ones were
//! answered, and latency counts from that intended time, so a stall of the server is seen by every request
//! that it delayed (no coordinated omission). Without it the load is closed: a connection sends the next
//! request when it gets a reply.

mod engine;
mod job;
pub mod mirror;
mod report;
mod session;
mod wire;

pub use session::{Error, Target};
pub(crate) use wire::multi_error;

use crate::Outcome;
use crate::render::{self, Progress};
use engine::{Conn, Engine, Job, Measured, Pace};
use job::{Bulk, Change, Churn, Mix, Picker, Steady, Watch};
use proto::acl;
use proto::client::OpCode;
use proto::jute::{Put, Reader};
use report::{Cpu, Report};
use session::Session;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use wire::{KEYS_PER_DIR, Key, Paths};

/// Load a server and report throughput and latency.
///
/// The server may be Falconer, Apache ZooKeeper, or anything else that speaks the protocol. Everything
/// happens below one znode (--path), and what a run made it deletes again (--keep leaves it).
#[derive(clap::Args, Debug, Clone)]
#[command(after_help = "Examples:
  falconer bench set                                  64 connections, 32 requests in flight each, 100 bytes
  falconer bench mix --reads 90 --keys 100000         nine reads to one write over 100,000 znodes
  falconer bench set --rate 40000 --duration 60s      open load: latency from the intended time of sending
  falconer bench --preload 1000000                    make a tree of a million znodes, and keep it
  falconer bench create --server-pid $(pidof falconerd) --json")]
pub struct Args {
    /// What to send; may be left out with --preload
    #[arg(value_enum, required_unless_present = "preload")]
    pub op: Option<Op>,
    /// The servers; connections are spread over them
    #[arg(short, long, default_value = "127.0.0.1:2181", value_name = "HOST:PORT[,…][/chroot]")]
    pub server: Target,
    /// Connections, each with a session of its own (watch: the watchers)
    #[arg(short, long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub connections: u32,
    /// Requests in flight per connection [default: 32; 1024 with --rate]
    #[arg(short, long, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub outstanding: Option<u32>,
    /// Bytes per value
    #[arg(long, default_value = "100", value_parser = render::parse_size, value_name = "BYTES")]
    pub size: u64,
    /// Znodes that set, get, mix and multi choose from
    #[arg(short, long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub keys: u64,
    /// How long to measure
    #[arg(short, long, default_value = "10s", value_parser = render::parse_duration)]
    pub duration: Duration,
    /// How long to load the server before measuring
    #[arg(short, long, default_value = "2s", value_parser = render::parse_duration)]
    pub warmup: Duration,
    /// Requests per second over all connections: an open load
    #[arg(short, long, value_parser = parse_rate)]
    pub rate: Option<f64>,
    /// mix: percentage of reads
    #[arg(long, default_value_t = 80.0, value_name = "PERCENT", value_parser = parse_percent)]
    pub reads: f64,
    /// multi: operations per request
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub multi_ops: u16,
    /// watch: use persistent watches, which need no re-arming
    #[arg(long)]
    pub persistent: bool,
    /// watch with --rate: measure until an event has reached this machine, by the kernel's stamp, and read it half-way to
    /// the next change; otherwise a thousand watchers wait for one client that reads a thousand sockets
    #[arg(long, requires = "rate")]
    pub arrival: bool,
    /// Make a tree of this many znodes of --size bytes first, below PATH/preload, and keep it
    #[arg(long, value_name = "ZNODES")]
    pub preload: Option<u64>,
    /// Threads that generate the load; one is enough for most servers
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub threads: u16,
    /// Everything happens below this znode
    #[arg(long, default_value = "/bench")]
    pub path: String,
    /// Leave the znodes that were made
    #[arg(long)]
    pub keep: bool,
    /// Report the CPU time and memory of the server with this process id, on this machine
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    pub server_pid: Vec<u32>,
    /// The width of one point of the timeline in the JSON report
    #[arg(long, default_value = "1s", value_parser = render::parse_duration)]
    pub interval: Duration,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,
    /// No histogram
    #[arg(long)]
    pub quiet: bool,
}

/// What to send.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Op {
    /// create of persistent znodes, a directory per connection
    Create,
    /// setData
    Set,
    /// getData
    Get,
    /// getData and setData
    Mix,
    /// multi of setData
    Multi,
    /// create an ephemeral sequential znode, delete it, again and again
    Churn,
    /// one writer, all connections watch the znode that it sets
    Watch,
    /// Delete everything below --path
    Clean,
    /// Serve instead: answer every request at once on the address of --server, storing nothing; a load
    /// against it shows what the client and the network alone cost
    Mirror,
}

fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.001..=1e8).contains(&rate) => Ok(rate),
        _ => Err("a rate is a number of requests per second between 0.001 and 100000000".into()),
    }
}

fn parse_percent(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(p) if (0.0..=100.0).contains(&p) => Ok(p),
        _ => Err("a percentage is a number between 0 and 100".into()),
    }
}

/// The longest wait for outstanding replies after the end; what takes longer is reported as unanswered.
const DRAIN: Duration = Duration::from_secs(10);
/// Never: a point in time that no run reaches, in ns.
const NEVER: u64 = u64::MAX / 4;
/// Requests in flight per connection while znodes are made and deleted in multis.
const BULK_OUTSTANDING: usize = 4;
/// Connections used to make and delete znodes.
const BULK_CONNS: usize = 8;
/// Names deleted per multi when a tree of unknown shape is deleted.
const CLEAN_WIDTH: usize = 500;

/// Runs the load that the arguments describe and prints its report.
///
/// # Errors
/// When the server can't be reached or refuses what the load needs. Errors of single requests are counted in
/// the report instead.
pub fn run(args: &Args) -> Result<Outcome, Box<dyn std::error::Error>> {
    if args.op == Some(Op::Mirror) {
        let server = &args.server.servers[0];
        let failed = |source| Error::Listen { address: server.clone(), source };
        let mirror = mirror::Mirror::listen(server, Arc::new(|_| 0)).map_err(failed)?;
        eprintln!("answering at once on {}; end it with Ctrl-C", mirror.address()?);
        mirror.serve()?;
        return Ok(Outcome::Fine);
    }
    if let Some(report) = Bench::new(args).run()? {
        let text = if args.json { format!("{}\n", report.json()) } else { report.text(!args.quiet) };
        io::Write::write_all(&mut io::stdout(), text.as_bytes())?;
        if report.is_empty() {
            eprintln!("falconer: {}", report.why_empty());
            return Ok(Outcome::Found);
        }
    }
    Ok(Outcome::Fine)
}

struct Bench<'a> {
    args: &'a Args,
    root: String,
    keys: Paths,
    progress: Progress,
}

impl<'a> Bench<'a> {
    fn new(args: &'a Args) -> Bench<'a> {
        let root = format!("{}/{}", args.server.chroot, args.path.trim_matches('/'));
        let keys = Paths::below(format!("{root}/keys"));
        Bench { args, root, keys, progress: Progress::new() }
    }

    fn run(&mut self) -> Result<Option<Report>, Error> {
        let mut control = Session::open(&self.args.server, 0)?;
        if self.args.op == Some(Op::Clean) {
            let removed = self.clean(&mut control)?;
            self.say(&format!("deleted {} znodes below {}", render::grouped(removed), self.root));
            control.close();
            return Ok(None);
        }
        make_path(&mut control, &self.root)?;
        if let Some(n) = self.args.preload {
            self.preload(n)?;
        }
        let report = match self.args.op {
            None => None,
            Some(op) => Some(self.load(op, &mut control)?),
        };
        control.close();
        Ok(report)
    }

    fn say(&mut self, text: &str) {
        self.progress.clear();
        if !self.args.json {
            eprintln!("{text}");
        }
    }

    fn preload(&mut self, n: u64) -> Result<(), Error> {
        let started = Instant::now();
        let paths = Paths::below(format!("{}/preload", self.root));
        self.make_tree(&paths, n, "preload")?;
        let seconds = started.elapsed().as_secs_f64();
        let rate = (n as f64 / seconds) as u64;
        self.say(&format!(
            "preloaded {} znodes of {} B below {} in {seconds:.1} s ({}/s)",
            render::grouped(n),
            self.args.size,
            paths.prefix(),
            render::grouped(rate)
        ));
        Ok(())
    }

    /// Makes `n` znodes with their directories.
    fn make_tree(&mut self, paths: &Paths, n: u64, what: &str) -> Result<(), Error> {
        let mut control = Session::open(&self.args.server, 0)?;
        make_path(&mut control, paths.prefix())?;
        for dir in 0..n.div_ceil(KEYS_PER_DIR) {
            make(&mut control, &paths.dir(dir as u32))?;
        }
        control.close();
        self.bulk(Bulk::new(Change::Create, paths, self.args.size as usize, 0..n, Key::nth), n, what)
    }

    fn bulk<K: Fn(u64) -> Key + Send + 'static>(
        &mut self,
        job: Bulk<K>,
        n: u64,
        what: &str,
    ) -> Result<(), Error> {
        if n == 0 {
            return Ok(());
        }
        let conns = self.connect(0..BULK_CONNS.min(n.div_ceil(KEYS_PER_DIR) as usize))?;
        let start = Instant::now();
        let pace = Pace {
            start,
            outstanding: BULK_OUTSTANDING,
            rate_per_conn: None,
            paced_conns: 1,
            measure_from: NEVER,
            end: NEVER,
            drain: 0,
            interval: NEVER,
            answered: Arc::default(),
            arrival: false,
        };
        let done = job.progress();
        let engine = Engine::new(job, pace, conns).map_err(Error::Local)?;
        let worker = thread::spawn(move || engine.run());
        while !worker.is_finished() {
            self.progress.of(what, done.load(Ordering::Relaxed), n);
            thread::sleep(Duration::from_millis(2));
        }
        self.progress.clear();
        let (job, measured, conns) = joined(worker)?;
        close_all(conns);
        if let Some(code) = job.failure() {
            return Err(Error::Refused { doing: format!("{what}: change the znodes of the load"), code });
        }
        if !job.done() {
            let why = measured.lost_why.unwrap_or_default();
            return Err(Error::Lost {
                server: self.args.server.to_string(),
                doing: "the set-up of the znodes",
                source: io::Error::other(why),
            });
        }
        Ok(())
    }

    fn connect(&mut self, ids: std::ops::Range<usize>) -> Result<Vec<Conn>, Error> {
        let whole = ids.len() as u64;
        ids.map(|id| {
            self.progress.of("connect", id as u64, whole);
            let (stream, _, timeout) = Session::open(&self.args.server, id)?.into_stream();
            Conn::new(id, stream, timeout).map_err(Error::Local)
        })
        .collect()
    }

    fn load(&mut self, op: Op, control: &mut Session) -> Result<Report, Error> {
        let args = self.args;
        let connections = args.connections as usize;
        let size = args.size as usize;
        // What a run creates has a place of its own, so that runs don't meet what others left.
        let stamp = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis());
        let fresh = Paths::below(format!("{}/run-{stamp:x}", self.root));
        let (makes_keys, makes_fresh) = match op {
            Op::Set | Op::Get | Op::Mix | Op::Multi => (args.keys, false),
            Op::Watch => (1, false),
            Op::Create | Op::Churn => (0, true),
            Op::Clean | Op::Mirror => (0, false),
        };
        if makes_keys > 0 {
            let keys = self.keys.clone();
            self.make_tree(&keys, makes_keys, "make znodes")?;
        }
        if makes_fresh {
            make_path(control, fresh.prefix())?;
            for c in 0..if op == Op::Create { connections } else { 0 } {
                make(control, &fresh.dir(c as u32))?;
            }
        }
        let ids = if op == Op::Watch { 0..connections + 1 } else { 0..connections };
        let conns = self.connect(ids)?;
        let mut created = HashMap::new();
        let report = match op {
            Op::Churn => self.drive(op, conns, |_| Churn::new(fresh.prefix(), size))?.0,
            Op::Watch => {
                self.drive(op, conns, |_| Watch::new(&self.keys, size, connections, args.persistent))?.0
            }
            Op::Set | Op::Get | Op::Mix | Op::Multi | Op::Create | Op::Clean | Op::Mirror => {
                let mix = match op {
                    Op::Get => Mix::Get,
                    Op::Mix => Mix::ReadWrite(args.reads / 100.0),
                    Op::Multi => Mix::Multi,
                    Op::Create => Mix::Create,
                    Op::Set | Op::Churn | Op::Watch | Op::Clean | Op::Mirror => Mix::Set,
                };
                let (report, jobs) = self.drive(op, conns, |thread| {
                    let picker = Picker::new(thread as u64 + 1, args.keys);
                    Steady::new(mix, &self.keys, &fresh, size, args.multi_ops.into(), picker)
                })?;
                created = jobs.into_iter().flat_map(Steady::created).collect();
                report
            }
        };
        // What was measured counts, also when the server died of it.
        if !args.keep
            && let Err(e) = self.delete_made(makes_keys, makes_fresh.then_some((&fresh, &created)), control)
        {
            self.say(&format!(
                "what was made below {} is left there ({e}); falconer bench clean removes it",
                self.root
            ));
        }
        Ok(report)
    }

    /// Deletes what a run made: the key space, and what it created in its own directory.
    fn delete_made(
        &mut self,
        keys: u64,
        fresh: Option<(&Paths, &HashMap<usize, u64>)>,
        control: &mut Session,
    ) -> Result<(), Error> {
        if keys > 0 {
            let job = Bulk::new(Change::Delete, &self.keys, 0, 0..keys, Key::nth);
            self.bulk(job, keys, "delete znodes")?;
            for dir in 0..keys.div_ceil(KEYS_PER_DIR) {
                delete(control, &self.keys.dir(dir as u32))?;
            }
            delete(control, self.keys.prefix())?;
        }
        if let Some((fresh, created)) = fresh {
            self.delete_created(fresh, created, control)?;
            // Ephemerals of sessions that are just closing may still be there; they go by themselves, and
            // `falconer bench clean` removes an empty directory that stays.
            delete(control, fresh.prefix())?;
        }
        // Others may be using it: then it stays.
        delete(control, &self.root)?;
        Ok(())
    }

    fn delete_created(
        &mut self,
        fresh: &Paths,
        created: &HashMap<usize, u64>,
        control: &mut Session,
    ) -> Result<(), Error> {
        let mut ends: Vec<(u64, u32)> = Vec::new(); // Position behind each directory's last znode.
        let mut total = 0;
        let mut dirs: Vec<(usize, u64)> = created.iter().map(|(c, n)| (*c, *n)).collect();
        dirs.sort_unstable();
        for (conn, n) in &dirs {
            total += n;
            ends.push((total, *conn as u32));
        }
        let sizes: HashMap<u32, u64> = dirs.iter().map(|(c, n)| (*c as u32, *n)).collect();
        let key = move |at: u64| {
            let (end, dir) = ends[ends.partition_point(|(end, _)| *end <= at)];
            Key { dir, key: at - (end - sizes[&dir]) }
        };
        self.bulk(Bulk::new(Change::Delete, fresh, 0, 0..total, key), total, "delete znodes")?;
        for c in 0..self.args.connections {
            if !created.is_empty() {
                delete(control, &fresh.dir(c))?;
            }
        }
        Ok(())
    }

    /// Warm-up, measuring, drain: one engine per thread, the CPU times of both sides read at the edges.
    fn drive<J: Job + Send + 'static>(
        &self,
        op: Op,
        conns: Vec<Conn>,
        job: impl Fn(usize) -> J,
    ) -> Result<(Report, Vec<J>), Error> {
        let args = self.args;
        // The writer and its watchers share one thread: a round ends when all of them have heard.
        let threads = if op == Op::Watch { 1 } else { usize::from(args.threads).min(conns.len()) };
        let total = conns.len();
        let paced = if op == Op::Watch { 1 } else { total };
        let outstanding = match (op, args.outstanding, args.rate) {
            (Op::Watch, n, _) if !args.persistent => n.map_or(1, |_| 1),
            (_, Some(n), _) => n as usize,
            (_, None, Some(_)) => 1024,
            (Op::Watch, None, None) => 1,
            (_, None, None) => 32,
        };
        let start = Instant::now();
        let (warm, end) = (args.warmup, args.warmup + args.duration);
        let pace = Pace {
            start,
            outstanding,
            rate_per_conn: args.rate.map(|r| r / paced as f64),
            paced_conns: paced,
            measure_from: warm.as_nanos() as u64,
            end: end.as_nanos() as u64,
            drain: DRAIN.as_nanos() as u64,
            interval: args.interval.as_nanos().max(1_000_000) as u64,
            answered: Arc::new(AtomicU64::new(0)),
            arrival: args.arrival && op == Op::Watch,
        };
        let mut shares: Vec<Vec<Conn>> = (0..threads).map(|_| Vec::new()).collect();
        for (i, c) in conns.into_iter().enumerate() {
            shares[i % threads].push(c);
        }
        let mut workers = Vec::new();
        for (t, share) in shares.into_iter().enumerate() {
            let engine = Engine::new(job(t), pace.clone(), share).map_err(Error::Local)?;
            let run = thread::Builder::new().name(format!("load-{t}")).spawn(move || engine.run());
            workers.push(run.map_err(Error::Local)?);
        }
        let mut progress = Progress::new();
        wait_until(
            start + warm,
            || workers.iter().all(thread::JoinHandle::is_finished),
            || {
                progress.note(|| format!("warm-up, {}", render::nanos(start.elapsed().as_nanos() as u64)));
            },
        );
        let server_from = server_cpu(&args.server_pid)?;
        let answered_from = pace.answered.load(Ordering::Relaxed);
        wait_until(
            start + end,
            || workers.iter().all(thread::JoinHandle::is_finished),
            || {
                let rate = (pace.answered.load(Ordering::Relaxed) - answered_from) as f64
                    / (start.elapsed() - warm).as_secs_f64().max(1e-3);
                let done = start.elapsed().saturating_sub(warm).as_millis() as u64;
                progress.of(
                    &format!("{:>9}/s", render::grouped(rate as u64)),
                    done,
                    args.duration.as_millis() as u64,
                );
            },
        );
        let server_to = server_cpu(&args.server_pid)?;
        let rss = args.server_pid.iter().map(|pid| server_rss(*pid)).sum::<Result<u64, Error>>()?;
        let mut jobs = Vec::new();
        let mut all: Option<Measured> = None;
        for worker in workers {
            let (job, measured, conns) = joined(worker)?;
            close_all(conns);
            jobs.push(job);
            match &mut all {
                Some(all) => all.merge(measured),
                None => all = Some(measured),
            }
        }
        progress.clear();
        let measured = all.expect("there is at least one thread");
        let cpu = Cpu {
            generator: measured.cpu,
            server: (!args.server_pid.is_empty()).then(|| server_to.saturating_sub(server_from)),
            server_rss: (!args.server_pid.is_empty()).then_some(rss),
        };
        Ok((Report { op, args: args.clone(), outstanding, measured, cpu }, jobs))
    }

    /// Deletes a tree of unknown shape; returns how many znodes it had.
    fn clean(&mut self, control: &mut Session) -> Result<u64, Error> {
        let root = self.root.clone();
        let mut removed = 0;
        self.clean_below(control, &root, &mut removed)?;
        removed += u64::from(delete(control, &root)?);
        Ok(removed)
    }

    fn clean_below(&mut self, control: &mut Session, path: &str, removed: &mut u64) -> Result<(), Error> {
        let children = children(control, path)?;
        let paths: Vec<String> = children.iter().map(|c| format!("{path}/{c}")).collect();
        for some in paths.chunks(CLEAN_WIDTH) {
            self.progress.note(|| format!("deleted {} znodes", render::grouped(*removed)));
            // Leaves go together; where one of them is no leaf the multi fails and each is looked into.
            let answer = control.call(OpCode::Multi, |b| {
                for p in some {
                    wire::put_multi_head(b, OpCode::Delete);
                    b.put_str(p);
                    b.put_i32(-1);
                }
                wire::put_multi_tail(b);
            })?;
            if answer.err == 0 && wire::multi_error(&answer.body) == 0 {
                *removed += some.len() as u64;
                continue;
            }
            for p in some {
                self.clean_below(control, p, removed)?;
                *removed += u64::from(delete(control, p)?);
            }
        }
        Ok(())
    }
}

fn joined<T>(worker: thread::JoinHandle<io::Result<T>>) -> Result<T, Error> {
    match worker.join() {
        Ok(result) => result.map_err(Error::Local),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

fn wait_until(at: Instant, stop: impl Fn() -> bool, mut meanwhile: impl FnMut()) {
    loop {
        let left = at.saturating_duration_since(Instant::now());
        if left.is_zero() || stop() {
            return;
        }
        meanwhile();
        thread::sleep(left.min(Duration::from_millis(100)));
    }
}

/// Closes the sessions together, so that the server need not wait for their time-outs.
fn close_all(conns: Vec<Conn>) {
    for c in conns {
        c.close();
    }
}

fn make_path(control: &mut Session, path: &str) -> Result<(), Error> {
    let ends = path.match_indices('/').map(|(i, _)| i).filter(|i| *i > 0).chain([path.len()]);
    for end in ends {
        make(control, &path[..end])?;
    }
    Ok(())
}

fn make(control: &mut Session, path: &str) -> Result<(), Error> {
    let answer = control.call(OpCode::Create, |b| {
        b.put_str(path);
        b.put_buffer(Some(b""));
        b.extend_from_slice(acl::OPEN.as_bytes());
        b.put_i32(0);
    })?;
    match answer.err {
        0 => Ok(()),
        e if e == proto::Code::NodeExists.wire() => Ok(()),
        code => Err(Error::Refused { doing: format!("create {path}"), code }),
    }
}

/// Deletes a znode; false if it was not there or is not empty.
fn delete(control: &mut Session, path: &str) -> Result<bool, Error> {
    let answer = control.call(OpCode::Delete, |b| {
        b.put_str(path);
        b.put_i32(-1);
    })?;
    let harmless = [proto::Code::NoNode.wire(), proto::Code::NotEmpty.wire()];
    match answer.err {
        0 => Ok(true),
        e if harmless.contains(&e) => Ok(false),
        code => Err(Error::Refused { doing: format!("delete {path}"), code }),
    }
}

fn children(control: &mut Session, path: &str) -> Result<Vec<String>, Error> {
    let answer = control.call(OpCode::GetChildren, |b| {
        b.put_str(path);
        b.put_bool(false);
    })?;
    match answer.err {
        0 => {
            let names = Reader::new(&answer.body).strings().ok().flatten().unwrap_or_default();
            Ok(names.into_iter().map(|n| n.into_owned()).collect())
        }
        e if e == proto::Code::NoNode.wire() => Ok(Vec::new()),
        code => Err(Error::Refused { doing: format!("list {path}"), code }),
    }
}

/// User and system time of the processes so far.
fn server_cpu(pids: &[u32]) -> Result<Duration, Error> {
    let hz = rustix::param::clock_ticks_per_second();
    let mut ticks = 0;
    for pid in pids {
        let source = |source| Error::Process { pid: *pid, source };
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).map_err(source)?;
        // The name, in parentheses, may hold anything; utime and stime are the 12th and 13th fields behind it.
        let fields: Vec<&str> =
            stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
        let field = |i: usize| fields.get(i).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
        ticks += field(11) + field(12);
    }
    Ok(Duration::from_secs_f64(ticks as f64 / hz as f64))
}

/// Resident memory in bytes.
fn server_rss(pid: u32) -> Result<u64, Error> {
    let status =
        fs::read_to_string(format!("/proc/{pid}/status")).map_err(|source| Error::Process { pid, source })?;
    let kib = status
        .lines()
        .find_map(|l| l.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(kib.unwrap_or(0) * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use proto::Code;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    /// Runs a load of 200 ms against a mirror whose every answer has the code that `verdict` gives.
    fn load(line: &str, verdict: fn(OpCode) -> i32) -> Result<Option<Report>, Error> {
        let mirror = mirror::Mirror::listen("127.0.0.1:0", Arc::new(verdict)).unwrap();
        let server = mirror.address().unwrap();
        thread::spawn(move || mirror.serve());
        let line = format!("bench {line} -s {server} -c 3 -o 4 -d 200ms -w 0s");
        Bench::new(&Cli::parse_from(line.split_whitespace()).args).run()
    }

    #[test]
    fn every_load_counts_what_was_answered() {
        for (line, kinds) in [
            ("set", &["set"][..]),
            ("get", &["get"]),
            ("create", &["create"]),
            ("multi --multi-ops 3", &["multi"]),
            ("mix --reads 50", &["get", "set"]),
            ("churn", &["create", "delete"]),
            ("set --rate 500", &["set"]),
            ("set --threads 2", &["set"]),
        ] {
            let report = load(line, |_| 0).unwrap().unwrap().json();
            let found: Vec<&str> = report["kinds"].as_object().unwrap().keys().map(String::as_str).collect();
            assert_eq!(found, kinds, "{line}");
            assert!(report["errors"].as_object().unwrap().is_empty(), "{line}: {report}");
            assert_eq!(
                (&report["unanswered"], &report["connections_lost"]),
                (&0.into(), &0.into()),
                "{line}"
            );
            let timeline: u64 =
                report["timeline"].as_array().unwrap().iter().map(|p| p["count"].as_u64().unwrap()).sum();
            assert_eq!(timeline, report["latency_ns"]["count"].as_u64().unwrap(), "{line}");
        }
    }

    #[test]
    fn an_open_load_sends_what_it_promises_and_no_more() {
        let report = load("set --rate 1000", |_| 0).unwrap().unwrap().json();
        let count = report["latency_ns"]["count"].as_u64().unwrap();
        // 200 ms at 1000/s; each of the three connections may be one off at an edge.
        assert!((197..=203).contains(&count), "{count}");
    }

    #[test]
    fn errors_are_counted_by_code_and_are_not_throughput() {
        let verdict = |op| if op == OpCode::SetData { Code::NoNode.wire() } else { 0 };
        let report = load("set", verdict).unwrap().unwrap();
        assert!(report.is_empty() && report.why_empty().contains("NoNode (-101)"));
        let json = report.json();
        assert!(json["errors"]["NoNode (-101)"].as_u64().unwrap() > 0);
        assert_eq!(json["ops_per_s"], 0.0);
    }

    #[test]
    fn a_refused_set_up_ends_the_run_with_the_reason() {
        let verdict = |op| if op == OpCode::Create { Code::NoAuth.wire() } else { 0 };
        let error = load("set", verdict).unwrap_err();
        assert_eq!(error.to_string(), "the server refuses to create /bench: NoAuth (-102)");
    }

    #[test]
    fn a_server_that_dies_leaves_a_report_of_what_was_measured() {
        // Deletes are refused: the cleaning fails, as it does when the server is gone.
        let verdict = |op| if op == OpCode::Delete || op == OpCode::Multi { Code::NoAuth.wire() } else { 0 };
        let report = load("create", verdict).unwrap().unwrap();
        assert!(!report.is_empty());
    }

    #[test]
    fn preloading_alone_is_a_run() {
        assert!(load("--preload 2500", |_| 0).unwrap().is_none());
    }
}
