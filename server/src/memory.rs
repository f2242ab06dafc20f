//! Memory made ready ahead of those who write to it, as the log's segments are.
//!
//! The first write to a fresh page faults: 0.3 µs on bare metal, 1.4 µs in a virtual machine, 10 µs where the hypervisor has to
//! find the page first. A tree that grows needs a page for every four znodes of 1 KiB, and the thread that applies pays for it
//! while everybody waits for that thread. So the threads that apply share the main heap, which grows by more than is needed
//! ([`Serving`]), and a thread beside them makes what it grew by resident ([`keep_ahead`]). A heap that does not grow gets nothing.
//!
//! Threads that load a snapshot or replay a log keep heaps of their own: under one they would wait for each other at every znode.
//! Refusals of the system are ignored: it is a matter of speed only.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};
use vfs::os::heap;

/// Threads that load beyond this share their heaps.
const LOADERS_MAX: usize = 16;

/// Heaps of the process beside one for each loader, for what happens at the same time: the admin interface, a snapshot.
const HEAPS_BESIDE: usize = 3;

/// Blocks from here on get pages of their own: larger than any buffer that comes and goes under load.
const LARGE: usize = 4 << 20;

/// The heap is told to grow by what it needs in this time.
const AHEAD: Duration = Duration::from_millis(250);

/// Bounds of that, bytes, powers of two: for a heap that hardly grows, and what may be resident and unused while it grows fast, and
/// after that until something large is freed.
const AHEAD_MIN: usize = 1 << 20;
const AHEAD_MAX: usize = 32 << 20;

/// A heap gives its end back when so much of it is free: more than it grows by, so that it does not come and go.
const KEEP: usize = AHEAD_MAX + LARGE;

/// Pages are made ready in pieces of so many bytes: whoever wants to change the address space waits for one, a few hundred µs
/// unless memory is short.
const PIECE: usize = 128 << 10;

/// How often the thread looks while the heap grows, and while it does not.
const LOOK: Duration = Duration::from_millis(2);
const LOOK_IDLE: Duration = Duration::from_millis(50);

/// Threads that are tried out for one place on the main heap: a few times the heaps that there can be.
const TRIES: usize = 64;

/// The threads that serve are on the main heap.
static IN_USE: AtomicBool = AtomicBool::new(false);

/// To be called once, by the first thread of the process, before others are started.
pub fn begin() {
    match heap::begin(heaps(), LARGE, KEEP)
        .and_then(|on_main| heap::grow_main_by(AHEAD_MIN).map(|()| on_main))
    {
        Ok(on_main) => IN_USE.store(on_main, Ordering::Relaxed),
        Err(e) => tracing::debug!("memory is not made ready ahead: {e}"),
    }
}

/// Whether there is a heap that [`keep_ahead`] can look after.
pub fn is_in_use() -> bool {
    IN_USE.load(Ordering::Relaxed)
}

/// Heaps that the process may have.
fn heaps() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get()).min(LOADERS_MAX) + HEAPS_BESIDE
}

/// Starts threads that share the main heap. The C library deals its heaps out in turn, so threads are started until one has the
/// main one. The first of the others hold what they got until no more threads are wanted: a heap that nobody has any more would be
/// dealt out again at once.
#[derive(Default)]
pub struct Serving {
    /// Who holds a heap, until he is let go. At most as many as there are heaps.
    holding: Vec<(Sender<()>, JoinHandle<()>)>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.let_go();
    }
}

impl Serving {
    /// Starts `run` on a thread called `name`.
    ///
    /// # Errors
    /// The system's, if no thread can be started at all.
    pub fn spawn(
        &mut self,
        name: &str,
        run: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<JoinHandle<()>> {
        if !is_in_use() {
            return Builder::new().name(name.to_owned()).spawn(run);
        }
        let job = Arc::new(Mutex::new(Some(run)));
        for _ in 0..TRIES {
            match try_out(name, &job, heap::is_on_main) {
                Ok((thread, None)) => return Ok(thread),
                Ok((thread, Some(held))) if self.holding.len() < heaps() => self.holding.push((held, thread)),
                Ok((thread, Some(held))) => {
                    drop(held);
                    let _ = thread.join();
                }
                Err(_) => break,
            }
        }
        // Threads are scarce, or the main heap was busy at every turn: any heap will do.
        self.let_go();
        tracing::debug!("the thread {name} is not on the main heap");
        try_out(name, &job, || true).map(|(thread, _)| thread)
    }

    /// Ends those who hold heaps.
    fn let_go(&mut self) {
        let some_do = !self.holding.is_empty();
        for (held, thread) in self.holding.drain(..) {
            drop(held);
            let _ = thread.join();
        }
        if some_do {
            // A thread that was joined counts against a bound of threads for a moment yet.
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A thread that was started, and what lets go of the one that does not take the job.
type TriedOut = (JoinHandle<()>, Option<Sender<()>>);

/// Starts a thread that takes the job if `takes_it`, and otherwise holds its heap until it is let go.
fn try_out<F>(name: &str, job: &Arc<Mutex<Option<F>>>, takes_it: fn() -> bool) -> std::io::Result<TriedOut>
where
    F: FnOnce() + Send + 'static,
{
    let job = Arc::clone(job);
    let (say, said) = channel();
    let (let_go, held) = channel::<()>();
    let thread = Builder::new().name(name.to_owned()).spawn(move || {
        let taken = if takes_it() { job.lock().unwrap_or_else(PoisonError::into_inner).take() } else { None };
        // Who asked waits for it.
        let _ = say.send(taken.is_some());
        match taken {
            Some(run) => run(),
            None => drop(held.recv()),
        }
    })?;
    let took = said.recv().unwrap_or(false);
    Ok((thread, (!took).then_some(let_go)))
}

/// The life of the thread that makes memory ready.
pub fn keep_ahead() {
    let mut ready = heap::main_end();
    let mut rate = Rate::new(ready, Instant::now());
    loop {
        let end = heap::main_end();
        ready = ready.min(end);
        while ready < end {
            let piece = ready..end.min(ready + PIECE);
            ready = piece.end;
            // ENOMEM: the heap has shrunk meanwhile.
            if let Err(e) = heap::populate(piece)
                && e.kind() != std::io::ErrorKind::OutOfMemory
            {
                tracing::debug!("memory is not made ready ahead: {e}");
                return;
            }
        }
        if let Some(ahead) = rate.look(end, Instant::now()) {
            let _ = heap::grow_main_by(ahead);
        }
        std::thread::sleep(if rate.is_idle { LOOK_IDLE } else { LOOK });
    }
}

/// How fast the heap grows, and so by how much it should.
struct Rate {
    /// Where the heap ended at the last look.
    end: usize,
    /// What it has grown by since `since`.
    grown: usize,
    since: Instant,
    ahead: usize,
    is_idle: bool,
}

impl Rate {
    fn new(end: usize, now: Instant) -> Rate {
        Rate { end, grown: 0, since: now, ahead: AHEAD_MIN, is_idle: true }
    }

    /// The heap ends at `end` now. Says by how much it should grow from now on, if that changes: at once when that is more,
    /// half a step in each [`AHEAD`] when it is less.
    fn look(&mut self, end: usize, now: Instant) -> Option<usize> {
        self.grown += end.saturating_sub(self.end);
        self.end = end;
        self.is_idle &= self.grown == 0;
        let mut ahead = self.ahead.max(self.grown);
        if now.saturating_duration_since(self.since) >= AHEAD {
            ahead = self.grown.max(self.ahead / 2);
            self.is_idle = self.grown == 0 && self.ahead == AHEAD_MIN;
            (self.grown, self.since) = (0, now);
        }
        // In powers of two: each change costs the allocator a look at all that is free.
        let ahead = ahead.clamp(AHEAD_MIN, AHEAD_MAX).next_power_of_two();
        let before = std::mem::replace(&mut self.ahead, ahead);
        (self.ahead != before).then_some(self.ahead)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heap_grows_by_what_it_needs() {
        let begin = Instant::now();
        let mut rate = Rate::new(0, begin);
        let (mut end, mut time) = (0, Duration::ZERO);
        // For a second, MiB a second → by how much it grows at the end, and whether it is idle.
        let table: [(usize, usize, bool); 5] = [
            (0, 1 << 20, true),
            (40, 16 << 20, false),
            (400, 32 << 20, false),
            (3, 2 << 20, false),
            (0, 1 << 20, true),
        ];
        for (mib, ahead, idle) in table {
            for _ in 0..500 {
                time += LOOK;
                end += (mib << 20) / 500;
                rate.look(end, begin + time);
            }
            assert_eq!(rate.ahead, ahead, "{mib} MiB/s");
            assert_eq!(rate.is_idle, idle, "{mib} MiB/s");
        }
    }
}
