//! The ways to commit a batch, side by side on one disk: the three devices of the log and tokio-uring.
//!
//! All write to prepared space, past the page cache where the way allows it, and take turns in slices of a
//! fraction of a second, so that a disk that drifts drifts for all of them. `falconer disk` measures what a log
//! would get from a disk; this measures what the log would get from another library.

use clap::Parser;
use hdrhistogram::Histogram;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tools::render::{self, PERCENTILES, Table};
use vfs::os::OsDir;
use vfs::{Access, AlignedBuf, DeviceKind, Dir, File, LogDevice, Shape};

/// Compare the ways to commit, tokio-uring among them.
#[derive(Parser)]
struct Args {
    /// A directory on the disk to measure
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Bytes per commit
    #[arg(long, default_value = "4k", value_parser = render::parse_size)]
    size: u64,
    /// How long to measure in all
    #[arg(short, long, default_value = "20s", value_parser = render::parse_duration)]
    duration: Duration,
    /// How many times each way has its turn
    #[arg(short, long, default_value_t = 12)]
    rounds: u32,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Bytes of each file, written through from its start again when its end is reached.
const FILE_LEN: u64 = 64 << 20;
/// Bytes written at once while a file is prepared.
const CHUNK: usize = 1 << 20;

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("commit: {e}");
            ExitCode::FAILURE
        }
    }
}

/// One way to commit.
trait Way {
    /// Commits for `slice`, telling how long each commit took.
    fn run(&mut self, slice: Duration, each: &mut dyn FnMut(Duration)) -> io::Result<()>;
}

struct Row {
    name: String,
    way: Result<Box<dyn Way>, String>,
    latency: Histogram<u64>,
    busy: Duration,
}

fn run(args: &Args) -> io::Result<()> {
    let dir = OsDir::existing(&args.dir)?;
    let size = vfs::block_up(args.size.clamp(1, CHUNK as u64) as usize);
    let mut rows = Vec::new();
    for (kind, depth) in [
        (DeviceKind::Pwritev2, 1),
        (DeviceKind::Buffered, 1),
        (DeviceKind::Uring, 1),
        (DeviceKind::Uring, 2),
        (DeviceKind::Uring, 4),
    ] {
        let device = Device::new(&dir, kind, depth, size);
        let name = match &device {
            Ok(d) => d.device.describe(),
            Err(_) => format!("{kind}, depth {depth}"),
        };
        rows.push(row(name, device));
    }
    #[cfg(feature = "tokio-uring")]
    for (name, direct) in
        [("tokio-uring, O_DIRECT, sync_data", true), ("tokio-uring, buffered, sync_data", false)]
    {
        rows.push(row(name.into(), ring::TokioUring::new(&dir, direct, size)));
    }
    let working = rows.iter().filter(|r| r.way.is_ok()).count().max(1) as u32;
    let slice = args.duration / args.rounds.max(1) / working;
    let n = rows.len();
    for round in 0..args.rounds.max(1) as usize {
        for k in 0..n {
            let row = &mut rows[(round + k) % n];
            let Ok(way) = &mut row.way else { continue };
            let latency = &mut row.latency;
            let started = Instant::now();
            way.run(slice, &mut |took| latency.saturating_record(took.as_nanos() as u64))?;
            row.busy += started.elapsed();
        }
    }
    print(args, size, &rows);
    Ok(())
}

fn row(name: String, way: io::Result<impl Way + 'static>) -> Row {
    Row {
        name,
        way: way.map(|w| Box::new(w) as Box<dyn Way>).map_err(|e| e.to_string()),
        latency: Histogram::new_with_bounds(1_000, 1_000_000_000_000, 3).expect("the bounds are valid"),
        busy: Duration::ZERO,
    }
}

fn print(args: &Args, size: usize, rows: &[Row]) {
    let rate = |r: &Row| r.latency.len() as f64 / r.busy.as_secs_f64().max(1e-9);
    if args.json {
        let rows: Vec<serde_json::Value> = rows
            .iter()
            .map(|r| {
                let mut v = serde_json::json!({"way": r.name, "size": size, "per_s": rate(r),
                                               "refused": r.way.as_ref().err()});
                for (name, p) in PERCENTILES {
                    v[format!("{name}_ns")] = r.latency.value_at_quantile(p / 100.0).into();
                }
                v
            })
            .collect();
        println!("{}", serde_json::Value::Array(rows));
        return;
    }
    let titles = ["", "per second"].into_iter().chain(PERCENTILES.map(|p| p.0)).chain(["max"]);
    let mut table = Table::new(titles);
    for r in rows {
        match &r.way {
            Err(why) => table.row([r.name.clone(), format!("refused: {why}")]),
            Ok(_) => table.row(
                [r.name.clone(), render::grouped(rate(r) as u64)]
                    .into_iter()
                    .chain(PERCENTILES.map(|p| render::nanos(r.latency.value_at_quantile(p.1 / 100.0))))
                    .chain([render::nanos(r.latency.max())]),
            ),
        }
    }
    println!("{} per commit, prepared space, {}", render::bytes(size as u64), args.dir.display());
    print!("{}", table.text());
}

/// A prepared file without a name: nothing is left behind.
fn prepared(dir: &OsDir, access: Access) -> io::Result<Arc<dyn File>> {
    let name = format!(".falconer-commit-{}", std::process::id());
    let file = dir.create(&name, access);
    match dir.unlink(&name) {
        Err(e) if file.is_ok() => return Err(e),
        _ => {}
    }
    let file = file?;
    let zeros = AlignedBuf::zeroed(CHUNK);
    for at in (0..FILE_LEN).step_by(CHUNK) {
        file.write_at(&zeros, at)?;
    }
    file.sync()?;
    Ok(file)
}

/// The offsets of commits: through the file and round again.
struct Offsets {
    size: u64,
    next: u64,
}

impl Offsets {
    fn take(&mut self) -> u64 {
        if self.next + self.size > FILE_LEN {
            self.next = 0;
        }
        self.next += self.size;
        self.next - self.size
    }
}

/// A device of the log.
struct Device {
    device: Box<dyn LogDevice>,
    offsets: Offsets,
    size: usize,
}

impl Device {
    fn new(dir: &OsDir, kind: DeviceKind, depth: usize, size: usize) -> io::Result<Device> {
        let file = prepared(dir, kind.access())?;
        let mut device = dir.log_device(kind, Shape { depth, slot_len: size }, file)?;
        for slot in 0..device.slots() {
            device.buffer(slot).fill(0xa5);
        }
        Ok(Device { device, offsets: Offsets { size: size as u64, next: 0 }, size })
    }
}

impl Way for Device {
    fn run(&mut self, slice: Duration, each: &mut dyn FnMut(Duration)) -> io::Result<()> {
        let end = Instant::now() + slice;
        let depth = self.device.slots() - 1;
        let mut submitted: Vec<Option<Instant>> = vec![None; self.device.slots()];
        loop {
            while self.device.in_flight() < depth && Instant::now() < end {
                let slot =
                    submitted.iter().position(Option::is_none).expect("there is a slot more than the depth");
                submitted[slot] = Some(Instant::now());
                self.device.submit(slot, self.size, self.offsets.take())?;
            }
            let Some(done) = self.device.complete() else { return Ok(()) };
            done.result?;
            if let Some(started) = submitted[done.slot].take() {
                each(started.elapsed());
            }
        }
    }
}

/// tokio-uring: a write and a sync, two operations, since it can't ask for both in one.
#[cfg(feature = "tokio-uring")]
mod ring {
    use super::{Access, Arc, Duration, File, Instant, Offsets, OsDir, Way, io, prepared};
    use tokio_uring::buf::BoundedBuf;
    use vfs::Handle;

    pub struct TokioUring {
        /// Keeps the file while the runtime works on a duplicate of its descriptor.
        file: Arc<dyn File>,
        offsets: Offsets,
        size: usize,
    }

    impl TokioUring {
        pub fn new(dir: &OsDir, direct: bool, size: usize) -> io::Result<TokioUring> {
            // Its own start panics where io_uring is refused; asking for the runtime gives the error.
            drop(tokio_uring::Runtime::new(&tokio_uring::builder())?);
            let file = prepared(dir, Access { write: true, direct })?;
            Ok(TokioUring { file, offsets: Offsets { size: size as u64, next: 0 }, size })
        }

        fn duplicate(&self) -> io::Result<std::fs::File> {
            match self.file.handle() {
                // Through /proc the same open file, flags included, is opened anew: no unsafe is needed.
                Handle::Os(fd) => {
                    use std::os::unix::fs::OpenOptionsExt;
                    let flags = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}"))?;
                    let octal = flags.lines().find_map(|l| l.strip_prefix("flags:")).unwrap_or("0").trim();
                    let flags = i32::from_str_radix(octal, 8).unwrap_or(0);
                    std::fs::OpenOptions::new()
                        .read(true)
                        .write(true)
                        .custom_flags(flags)
                        .open(format!("/proc/self/fd/{fd}"))
                }
                Handle::Mem(_) => Err(io::ErrorKind::Unsupported.into()),
            }
        }
    }

    impl Way for TokioUring {
        fn run(&mut self, slice: Duration, each: &mut dyn FnMut(Duration)) -> io::Result<()> {
            let file = tokio_uring::fs::File::from_std(self.duplicate()?);
            let size = self.size;
            let offsets = &mut self.offsets;
            tokio_uring::Runtime::new(&tokio_uring::builder())?.block_on(async {
                let memory = vec![0xa5_u8; size + vfs::BLOCK];
                let start = memory.as_ptr().align_offset(vfs::BLOCK);
                let mut buffer = memory.slice(start..start + size);
                let end = Instant::now() + slice;
                while Instant::now() < end {
                    let started = Instant::now();
                    let (written, back) = file.write_at(buffer, offsets.take()).submit().await;
                    if written? != size {
                        return Err(io::ErrorKind::WriteZero.into());
                    }
                    file.sync_data().await?;
                    each(started.elapsed());
                    buffer = back;
                }
                file.close().await
            })
        }
    }
}
