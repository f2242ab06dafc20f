//! The ways to commit, side by side: how the space was made, how it is written, how much at once.

use hdrhistogram::Histogram;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use vfs::os::OsDir;
use vfs::{Access, AlignedBuf, DeviceKind, Dir, File, LogDevice, Shape};

/// What the blocks of the file are before the commit writes them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Space {
    /// Not there: each commit makes the file longer.
    Append,
    /// A hole that was made by setting the length, as ZooKeeper pads its logs.
    Hole,
    /// Reserved by `fallocate`, never written.
    Allocated,
    /// Written with zeros once.
    Prepared,
    /// Written before with other data, as in a recycled segment.
    Recycled,
}

/// How a commit is written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Way {
    /// `pwrite` through the page cache, then `fdatasync`.
    Buffered,
    /// `pwritev2(RWF_DSYNC)` past the page cache.
    Direct,
    /// The same by several threads at once.
    DirectThreads(usize),
    /// io_uring with this many commits in flight.
    Uring(usize),
}

/// One row of the comparison.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Lane {
    /// Bytes per commit.
    pub size: usize,
    /// What is written to.
    pub space: Space,
    /// How.
    pub way: Way,
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let space = match self.space {
            Space::Append => "append",
            Space::Hole => "hole (as ZooKeeper pads)",
            Space::Allocated => "allocated",
            Space::Prepared => "prepared",
            Space::Recycled => "recycled",
        };
        match self.way {
            Way::Buffered => write!(f, "{space}, buffered + fdatasync"),
            Way::Direct => write!(f, "{space}, direct DSYNC"),
            Way::DirectThreads(n) => write!(f, "{space}, direct DSYNC, {n} threads"),
            Way::Uring(n) => write!(f, "{space}, io_uring, {n} in flight"),
        }
    }
}

/// The comparison: every way at 4 KiB, and the ways that a log would choose at larger batches.
pub fn lanes(quick: bool) -> Vec<Lane> {
    const BLOCK: usize = vfs::BLOCK;
    let small = [
        (Space::Append, Way::Buffered),
        (Space::Hole, Way::Buffered),
        (Space::Allocated, Way::Buffered),
        (Space::Allocated, Way::Direct),
        (Space::Prepared, Way::Buffered),
        (Space::Prepared, Way::Direct),
        (Space::Prepared, Way::Uring(1)),
        (Space::Prepared, Way::Uring(2)),
        (Space::Prepared, Way::Uring(4)),
        (Space::Prepared, Way::DirectThreads(4)),
        (Space::Recycled, Way::Direct),
    ];
    let large =
        [(Space::Prepared, Way::Direct), (Space::Prepared, Way::Uring(1)), (Space::Prepared, Way::Uring(4))];
    let mut lanes: Vec<Lane> = small.map(|(space, way)| Lane { size: BLOCK, space, way }).into();
    let sizes: &[usize] = if quick { &[64 << 10] } else { &[16 << 10, 64 << 10, 256 << 10] };
    for size in sizes {
        lanes.extend(large.map(|(space, way)| Lane { size: *size, space, way }));
    }
    lanes
}

/// What a lane measured.
#[derive(Debug)]
pub struct Outcome {
    /// Which.
    pub lane: Lane,
    /// Latency of each commit in ns: from its submission until it is durable.
    pub latency: Histogram<u64>,
    /// Time spent committing.
    pub busy: Duration,
    /// Why it does not work here.
    pub refused: Option<String>,
}

impl Outcome {
    /// Commits per second.
    pub fn rate(&self) -> f64 {
        self.latency.len() as f64 / self.busy.as_secs_f64().max(1e-9)
    }

    /// A percentile in ns; `p` in percent.
    pub fn at(&self, p: f64) -> u64 {
        self.latency.value_at_quantile(p / 100.0)
    }
}

/// A histogram for commits: 1 µs to 1000 s.
pub fn commits() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, 1_000_000_000_000, 3).expect("the bounds are valid")
}

/// A file of one kind of space, shared by the lanes that write to it. Its name is gone before anything is
/// written, so that nothing can be left behind, however the program ends.
#[derive(Debug)]
pub struct Store {
    space: Space,
    file: Arc<dyn File>,
    len: u64,
    next: AtomicU64,
}

/// Bytes written at once while a file is prepared.
const CHUNK: usize = 1 << 20;

impl Store {
    /// A nameless file in `dir` of `len` bytes.
    ///
    /// # Errors
    /// When the file system refuses: no space, no direct I/O, no permission.
    pub fn new(dir: &OsDir, space: Space, direct: bool, len: u64) -> io::Result<Store> {
        let file = nameless(dir, direct)?;
        let store = Store { space, file, len, next: AtomicU64::new(len) };
        store.renew()?;
        if space == Space::Recycled {
            store.fill(0x5a)?;
        }
        Ok(store)
    }

    /// Room for `size` bytes at the returned offset; `None` when the space is used up.
    fn take(&self, size: u64) -> Option<u64> {
        let at = self.next.fetch_add(size, Ordering::Relaxed);
        (at + size <= self.len).then_some(at)
    }

    /// Makes the space new again.
    fn renew(&self) -> io::Result<()> {
        match self.space {
            Space::Append => self.file.set_len(0)?,
            Space::Hole => {
                self.file.set_len(0)?;
                self.file.set_len(self.len)?;
            }
            Space::Allocated => {
                self.file.set_len(0)?;
                self.file.allocate(self.len)?;
            }
            Space::Prepared => self.fill(0)?,
            Space::Recycled => {}
        }
        self.file.sync()?;
        self.next.store(0, Ordering::Relaxed);
        Ok(())
    }

    fn fill(&self, byte: u8) -> io::Result<()> {
        let mut chunk = AlignedBuf::zeroed(CHUNK);
        chunk.fill(byte);
        let mut at = 0;
        while at < self.len {
            let n = (self.len - at).min(CHUNK as u64) as usize;
            self.file.write_at(&chunk[..n], at)?;
            at += n as u64;
        }
        self.file.sync()
    }
}

/// Makes a file and takes its name away at once.
///
/// # Errors
/// When the directory refuses.
pub fn nameless(dir: &OsDir, direct: bool) -> io::Result<Arc<dyn File>> {
    static MADE: AtomicU64 = AtomicU64::new(0);
    let name = format!(".falconer-disk-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
    let file = dir.create(&name, Access { write: true, direct });
    // Also where the open was refused: ext4 makes the name before it looks at the flags.
    match dir.unlink(&name) {
        Err(e) if file.is_ok() => Err(e),
        _ => file,
    }
}

/// A lane ready to run.
#[derive(Debug)]
pub struct Runner {
    store: Arc<Store>,
    lane: Lane,
    device: Option<Box<dyn LogDevice>>,
    buffer: AlignedBuf,
}

impl Runner {
    /// Prepares a lane on its store.
    ///
    /// # Errors
    /// When this way does not work here (io_uring refused, for example).
    pub fn new(dir: &OsDir, lane: Lane, store: Arc<Store>) -> io::Result<Runner> {
        let device = match lane.way {
            Way::Uring(depth) => {
                let shape = Shape { depth, slot_len: lane.size };
                let mut device = dir.log_device(DeviceKind::Uring, shape, store.file.clone())?;
                for slot in 0..device.slots() {
                    device.buffer(slot).fill(0xa5);
                }
                Some(device)
            }
            Way::Buffered | Way::Direct | Way::DirectThreads(_) => None,
        };
        let mut buffer = AlignedBuf::zeroed(lane.size);
        buffer.fill(0xa5);
        Ok(Runner { store, lane, device, buffer })
    }

    /// Commits for `slice`; `each` hears of every commit: when it ended, and how long it took. Returns the
    /// time spent, space being made new outside of it.
    ///
    /// # Errors
    /// When a commit fails: the disk is full or broken.
    pub fn run(&mut self, slice: Duration, mut each: impl FnMut(Instant, Duration)) -> io::Result<Duration> {
        let mut busy = Duration::ZERO;
        loop {
            let started = Instant::now();
            let left = slice.saturating_sub(busy);
            let used_up = match (&mut self.device, self.lane.way) {
                (Some(device), _) => ring(&mut **device, &self.store, self.lane.size, left, &mut each)?,
                (None, Way::DirectThreads(n)) => threads(&self.store, &self.buffer, n, left, &mut each)?,
                (None, _) => blocking(&self.store, &self.buffer, left, &mut each)?,
            };
            busy += started.elapsed();
            if !used_up {
                return Ok(busy);
            }
            self.store.renew()?;
        }
    }
}

/// Each of these commits until the time is over (false) or the space is used up (true).
fn blocking(
    store: &Store,
    buffer: &[u8],
    left: Duration,
    each: &mut impl FnMut(Instant, Duration),
) -> io::Result<bool> {
    let end = Instant::now() + left;
    loop {
        let started = Instant::now();
        if started >= end {
            return Ok(false);
        }
        let Some(at) = store.take(buffer.len() as u64) else { return Ok(true) };
        store.file.write_durable(buffer, at)?;
        let now = Instant::now();
        each(now, now - started);
    }
}

fn threads(
    store: &Store,
    buffer: &[u8],
    n: usize,
    left: Duration,
    each: &mut impl FnMut(Instant, Duration),
) -> io::Result<bool> {
    let run = || -> io::Result<(bool, Vec<(Instant, Duration)>)> {
        let mut commits = Vec::new();
        let used_up = blocking(store, buffer, left, &mut |now, took| commits.push((now, took)))?;
        Ok((used_up, commits))
    };
    let results: Vec<_> = thread::scope(|s| {
        let workers: Vec<_> = (0..n).map(|_| s.spawn(run)).collect();
        workers
            .into_iter()
            .map(|w| w.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let mut used_up = false;
    for result in results {
        let (full, commits) = result?;
        used_up |= full;
        commits.into_iter().for_each(|(now, took)| each(now, took));
    }
    Ok(used_up)
}

fn ring(
    device: &mut dyn LogDevice,
    store: &Store,
    size: usize,
    left: Duration,
    each: &mut impl FnMut(Instant, Duration),
) -> io::Result<bool> {
    let depth = device.slots() - 1;
    let end = Instant::now() + left;
    let mut submitted: Vec<Option<Instant>> = vec![None; device.slots()];
    let mut used_up = false;
    loop {
        while device.in_flight() < depth && !used_up && Instant::now() < end {
            let Some(at) = store.take(size as u64) else {
                used_up = true;
                break;
            };
            let slot =
                submitted.iter().position(Option::is_none).expect("there is a slot more than the depth");
            submitted[slot] = Some(Instant::now());
            device.submit(slot, size, at)?;
        }
        let Some(done) = device.complete() else { return Ok(used_up) };
        done.result?;
        let now = Instant::now();
        if let Some(started) = submitted[done.slot].take() {
            each(now, now - started);
        }
    }
}

/// Opens the directory that is to be measured.
///
/// # Errors
/// When it does not exist or is no directory.
pub fn open(path: &Path) -> io::Result<OsDir> {
    OsDir::existing(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_commits_or_says_why_not_and_leaves_no_name() {
        let path = std::env::temp_dir().join(format!("falconer-lanes-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        let dir = open(&path).unwrap();
        for lane in lanes(false) {
            let direct = lane.way != Way::Buffered;
            // Small enough that it is used up and renewed several times.
            let Ok(store) = Store::new(&dir, lane.space, direct, 512 << 10) else {
                assert!(direct, "buffered I/O works everywhere");
                continue;
            };
            assert!(dir.list().unwrap().is_empty());
            match Runner::new(&dir, lane, Arc::new(store)) {
                Ok(mut runner) => {
                    let mut n = 0;
                    runner.run(Duration::from_millis(30), |_, _| n += 1).unwrap();
                    assert!(n > 0, "{lane}");
                }
                Err(_) => assert!(matches!(lane.way, Way::Uring(_)), "{lane}"),
            }
        }
        std::fs::remove_dir(&path).unwrap();
    }
}
