//! Segments made ready before they are needed, and old ones put to use again.
//!
//! The appender takes spares from the shelf and leaves jobs there (a segment to be named, a dead one to be recycled); the
//! preparer, stepped by a thread of the server, does them. So no change of names and no first write to a block is left on the
//! commit path, as long as the preparer keeps up; if it does not, the appender makes a segment itself and waits for it.
//!
//! What a crash leaves of making a spare (`prep.N` created, filled with zeros, synced, renamed to `spare.N`, directory synced):
//! a `prep.N` is removed at start, a `spare.N` is whole. Of recycling (header zeroed durably, renamed, directory synced): a
//! file without header under either name, used as a spare again, or one with a header that nothing leads to, recycled again.

use crate::chain::{LOG_PREFIX, SPARE_PREFIX, TEMP_PREFIX};
use crate::error::Error;
use crate::limits::{FULL_PAUSE_MS, SPARES_MAX, SPARES_MIN, ZERO_CHUNK, ZERO_PAUSE_MS};
use proto::Zxid;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;
use vfs::{Access, AlignedBuf, BLOCK, Dir, File, Lock};

/// Room for further batches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Space {
    /// Spares are there or can be made.
    Ok,
    /// The disk is full and at most one spare is left: purge, and take no snapshot that needs room.
    Low,
    /// The disk is full, no spare is left and the segment in use is three quarters full: accept no more writes. It goes away
    /// by itself once the preparer succeeds.
    Full,
}

/// What the preparer's thread should do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// There is more to do at once.
    Again,
    /// Step again after this time, or when [`Preparer::park`] is woken.
    Pause(Duration),
    /// Nothing to do until woken.
    Idle,
}

/// A segment ready for use: every block written, header zero, name durable.
#[derive(Debug)]
pub(crate) struct Spare {
    pub(crate) name: String,
    pub(crate) file: Arc<dyn File>,
}

/// What the appender leaves to the preparer.
#[derive(Debug)]
enum Job {
    /// Name the segment after its first zxid.
    Name { segment: u64, first: Zxid },
    /// A live segment has died; `file` tells whether somebody still reads it.
    Retire { segment: u64, file: Arc<dyn File> },
    /// A file found at start holds nothing that is needed.
    Recycle { name: String },
}

/// Shared by the appender and the preparer.
#[derive(Debug)]
pub(crate) struct Shelf {
    dir: Arc<dyn Dir>,
    segment_len: u64,
    access: Access,
    state: Mutex<State>,
    wake: Condvar,
    /// Held as long as anybody may change files here.
    _lock: Option<Lock>,
    /// Bytes that the appender used up; the preparer zeroes at least as fast.
    consumed: AtomicU64,
    /// Bytes used of the segment in use.
    fill: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    ready: VecDeque<Spare>,
    jobs: VecDeque<Job>,
    /// Present names of live segments.
    names: BTreeMap<u64, String>,
    no_space: bool,
    next_number: u64,
    closed: bool,
    woken: bool,
}

impl Shelf {
    pub(crate) fn new(
        dir: Arc<dyn Dir>,
        segment_len: u64,
        access: Access,
        next_number: u64,
        lock: Option<Lock>,
    ) -> Shelf {
        let state = State { next_number, ..State::default() };
        Shelf {
            dir,
            segment_len,
            access,
            state: Mutex::new(state),
            wake: Condvar::new(),
            _lock: lock,
            consumed: AtomicU64::new(0),
            fill: AtomicU64::new(0),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds the shelf")
    }

    /// A spare, made here and now if none is ready. `StorageFull` inside [`Error::NoSpace`] if the disk is full.
    pub(crate) fn take(&self) -> Result<(Spare, bool), Error> {
        let ready = self.state().ready.pop_front();
        if let Some(spare) = ready {
            self.wake();
            return Ok((spare, false));
        }
        let mut making = Making::begin(self)?;
        while !making.step(self)? {}
        let spare = making.finish(self)?;
        Ok((spare, true))
    }

    pub(crate) fn put(&self, spare: Spare) {
        let mut state = self.state();
        state.ready.push_back(spare);
        state.no_space = false;
    }

    pub(crate) fn set_name(&self, segment: u64, name: String) {
        self.state().names.insert(segment, name);
    }

    pub(crate) fn name_later(&self, segment: u64, first: Zxid) {
        self.state().jobs.push_back(Job::Name { segment, first });
        self.wake();
    }

    /// Hands over a live segment that has died.
    pub(crate) fn retire(&self, segment: u64, file: Arc<dyn File>) {
        self.state().jobs.push_back(Job::Retire { segment, file });
        self.wake();
    }

    /// Hands over a file found at start that nothing needs.
    pub(crate) fn recycle_file(&self, name: String) {
        self.state().jobs.push_back(Job::Recycle { name });
    }

    pub(crate) fn note_use(&self, bytes: u64, fill: u64) {
        self.consumed.fetch_add(bytes, Ordering::Relaxed);
        self.fill.store(fill, Ordering::Relaxed);
    }

    pub(crate) fn ready(&self) -> usize {
        self.state().ready.len()
    }

    pub(crate) fn space(&self) -> Space {
        let state = self.state();
        match (state.no_space, state.ready.len()) {
            (false, _) | (true, 2..) => Space::Ok,
            (true, 0) if self.fill.load(Ordering::Relaxed) > self.segment_len / 4 * 3 => Space::Full,
            (true, _) => Space::Low,
        }
    }

    pub(crate) fn wake(&self) {
        self.state().woken = true;
        self.wake.notify_all();
    }

    fn close(&self) {
        self.state().closed = true;
        self.wake();
    }

    /// Does one job, if there is one that can be done now.
    pub(crate) fn do_job(&self) -> Result<bool, Error> {
        let job = {
            let mut state = self.state();
            // A dead segment that a reader still has open waits for it.
            let free = |job: &Job| match job {
                Job::Retire { file, .. } => Arc::strong_count(file) == 1,
                _ => true,
            };
            match state.jobs.iter().position(free) {
                Some(at) => state.jobs.remove(at),
                None => None,
            }
        };
        match job {
            None => Ok(false),
            Some(Job::Name { segment, first }) => self.name(segment, first).map(|()| true),
            Some(Job::Retire { segment, file }) => {
                drop(file);
                let name = self.state().names.remove(&segment);
                name.map_or(Ok(()), |name| self.recycle(&name)).map(|()| true)
            }
            Some(Job::Recycle { name }) => self.recycle(&name).map(|()| true),
        }
    }

    fn name(&self, segment: u64, first: Zxid) -> Result<(), Error> {
        let taken: Vec<String> = self.list()?;
        // Retired meanwhile: it has no name to keep. Only this thread changes names of segments in use.
        let present = self.state().names.get(&segment).cloned();
        let Some(present) = present else { return Ok(()) };
        let plain = format!("{LOG_PREFIX}{:x}", first.as_u64());
        // Only a dead file not yet recycled can hold that name.
        let name = if taken.contains(&plain) { format!("{plain}.{segment}") } else { plain };
        if name == present {
            return Ok(());
        }
        self.dir.rename(&present, &name).map_err(|e| self.failed("rename", &present, e))?;
        self.state().names.insert(segment, name);
        self.sync_dir()
    }

    fn recycle(&self, name: &str) -> Result<(), Error> {
        let file = match self.dir.open(name, self.access) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(|e| self.failed("open", name, e))?,
        };
        let len = file.len().map_err(|e| self.failed("measure", name, e))?;
        // The last thing before a file is given away: a live segment is never recycled, whatever its name.
        if self.state().names.values().any(|live| live == name) {
            return Ok(());
        }
        if len != self.segment_len || self.ready() >= SPARES_MAX {
            drop(file);
            self.dir.unlink(name).map_err(|e| self.failed("remove", name, e))?;
            self.sync_dir()?;
            self.state().no_space = false;
            return Ok(());
        }
        file.write_durable(&AlignedBuf::zeroed(BLOCK), 0).map_err(|e| self.failed("recycle", name, e))?;
        let spare = self.fresh_name(SPARE_PREFIX);
        self.dir.rename(name, &spare).map_err(|e| self.failed("rename", name, e))?;
        self.sync_dir()?;
        let file = self.dir.open(&spare, self.access).map_err(|e| self.failed("open", &spare, e))?;
        self.put(Spare { name: spare, file });
        Ok(())
    }

    fn fresh_name(&self, prefix: &str) -> String {
        let mut state = self.state();
        state.next_number += 1;
        format!("{prefix}{}", state.next_number)
    }

    fn list(&self) -> Result<Vec<String>, Error> {
        let entries = self.dir.list().map_err(|e| Error::io("list", self.dir.path(), None, e))?;
        Ok(entries.into_iter().map(|e| e.name).collect())
    }

    pub(crate) fn sync_dir(&self) -> Result<(), Error> {
        if proto::mutant::is(proto::mutant::Mutant::NoDirectorySync) {
            return Ok(());
        }
        self.dir.sync().map_err(|e| Error::io("sync", self.dir.path(), None, e))
    }

    fn failed(&self, doing: &'static str, name: &str, source: io::Error) -> Error {
        if source.kind() == io::ErrorKind::StorageFull {
            return Error::NoSpace { dir: self.dir.path().into(), wanted: self.segment_len, source };
        }
        Error::io(doing, &self.dir.path().join(name), None, source)
    }

    fn mark_full(&self) {
        self.state().no_space = true;
    }
}

/// A spare being made.
#[derive(Debug)]
struct Making {
    name: String,
    file: Arc<dyn File>,
    done: u64,
    zeros: AlignedBuf,
}

impl Making {
    fn begin(shelf: &Shelf) -> Result<Making, Error> {
        let name = shelf.fresh_name(TEMP_PREFIX);
        let file = shelf.dir.create(&name, shelf.access).map_err(|e| {
            note_full(shelf, &e);
            shelf.failed("create", &name, e)
        })?;
        let making = Making {
            name,
            file,
            done: 0,
            zeros: AlignedBuf::zeroed(ZERO_CHUNK.min(shelf.segment_len as usize)),
        };
        match making.file.allocate(shelf.segment_len) {
            Ok(()) => Ok(making),
            Err(e) => Err(making.give_up(shelf, "allocate", e)),
        }
    }

    /// Zeroes a chunk; `true` when all is zero.
    fn step(&mut self, shelf: &Shelf) -> Result<bool, Error> {
        let n = (shelf.segment_len - self.done).min(self.zeros.len() as u64);
        if let Err(e) = self.file.write_at(&self.zeros[..n as usize], self.done) {
            return Err(self.give_up(shelf, "zero", e));
        }
        self.done += n;
        Ok(self.done == shelf.segment_len)
    }

    fn finish(self, shelf: &Shelf) -> Result<Spare, Error> {
        if let Err(e) = self.file.sync() {
            return Err(self.give_up(shelf, "sync", e));
        }
        let name = format!("{SPARE_PREFIX}{}", &self.name[TEMP_PREFIX.len()..]);
        if let Err(e) = shelf.dir.rename(&self.name, &name) {
            return Err(self.give_up(shelf, "rename", e));
        }
        shelf.sync_dir()?;
        Ok(Spare { name, file: self.file })
    }

    fn give_up(&self, shelf: &Shelf, doing: &'static str, e: io::Error) -> Error {
        // Best effort: what stays behind is removed at the next start.
        let _ = shelf.dir.unlink(&self.name);
        note_full(shelf, &e);
        shelf.failed(doing, &self.name, e)
    }
}

fn note_full(shelf: &Shelf, e: &io::Error) {
    if e.kind() == io::ErrorKind::StorageFull {
        shelf.mark_full();
    }
}

/// Keeps spares ready and recycles. Owned by one thread, which calls [`Preparer::step`] and, as told, [`Preparer::park`].
#[derive(Debug)]
pub struct Preparer {
    shelf: Arc<Shelf>,
    making: Option<Making>,
    /// Bytes that should have been zeroed by now, beyond the steady pace.
    debt: u64,
    seen: u64,
}

impl Preparer {
    pub(crate) fn new(shelf: Arc<Shelf>) -> Preparer {
        Preparer { shelf, making: None, debt: 0, seen: 0 }
    }

    /// One small piece of work: a job, or a chunk of zeros.
    ///
    /// A full disk is no error: it shows in [`crate::Space`] and is tried again.
    ///
    /// # Errors
    /// The disk failed. What was being prepared is given up; nothing of the log is lost by it, but a server should stop.
    pub fn step(&mut self) -> Result<Step, Error> {
        match self.try_step() {
            Err(Error::NoSpace { .. }) => Ok(Step::Pause(Duration::from_millis(FULL_PAUSE_MS))),
            other => other,
        }
    }

    /// Sleeps for `pause` (as [`Step`] told; `None` without end) or until there is work. `false` when the log was closed.
    pub fn park(&self, pause: Option<Duration>) -> bool {
        let mut state = self.shelf.state();
        let asleep = |state: &mut State| !state.woken && !state.closed;
        state = match pause {
            None => {
                self.shelf.wake.wait_while(state, asleep).expect("no code panics while it holds the shelf")
            }
            Some(pause) => {
                let waited = self.shelf.wake.wait_timeout_while(state, pause, asleep);
                waited.expect("no code panics while it holds the shelf").0
            }
        };
        state.woken = false;
        !state.closed
    }

    /// The whole life of a preparer's thread: steps and parks until the log is closed or the disk fails.
    pub fn run(mut self) -> Result<(), Error> {
        loop {
            let pause = match self.step()? {
                Step::Again => continue,
                Step::Pause(pause) => Some(pause),
                Step::Idle => None,
            };
            if !self.park(pause) {
                return Ok(());
            }
        }
    }

    fn try_step(&mut self) -> Result<Step, Error> {
        let consumed = self.shelf.consumed.load(Ordering::Relaxed);
        // Twice as fast as segments are used up: it catches up, and stays ahead.
        self.debt = (self.debt + 2 * (consumed - self.seen)).min(2 * self.shelf.segment_len);
        self.seen = consumed;
        if self.shelf.do_job()? {
            return Ok(Step::Again);
        }
        if self.making.is_none() {
            if self.shelf.ready() >= SPARES_MIN {
                self.debt = 0;
                return Ok(Step::Idle);
            }
            self.making = Some(Making::begin(&self.shelf)?);
            return Ok(Step::Again);
        }
        let making = self.making.as_mut().expect("checked above");
        let before = making.done;
        match making.step(&self.shelf) {
            Err(e) => {
                self.making = None;
                return Err(e);
            }
            Ok(true) => {
                let making = self.making.take().expect("checked above");
                let spare = making.finish(&self.shelf)?;
                self.shelf.put(spare);
                return Ok(Step::Again);
            }
            Ok(false) => self.debt = self.debt.saturating_sub(making.done - before),
        }
        Ok(match self.debt {
            0 => Step::Pause(Duration::from_millis(ZERO_PAUSE_MS)),
            _ => Step::Again,
        })
    }
}

/// Closes the shelf when the appender is gone, so that the preparer's thread ends.
#[derive(Debug)]
pub(crate) struct Closer(pub(crate) Arc<Shelf>);

impl Drop for Closer {
    fn drop(&mut self) {
        self.0.close();
    }
}
