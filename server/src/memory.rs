//! Memory made ready ahead of those who write to it, as the log's segments are.
//!
//! The first write to a fresh page faults: 0.3 µs on bare metal, 1.4 µs in a virtual machine, 10 µs where the hypervisor has to
//! find the page first. A tree that grows needs a page for every four znodes of 1 KiB, and the thread that applies pays for it
//! while everybody waits for that thread. So the threads that apply share the main heap, which grows by more than is needed
//! ([`Serving`]), and a thread makes what it grew by resident while CPUs are idle ([`keep_ahead`]). A heap that does not grow
//! gets nothing.
//!
//! Threads that load a snapshot or replay a log keep heaps of their own: under one they would wait for each other at every znode.
//! Refusals of the system are ignored: it is a matter of speed only.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
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

/// Bounds of that, bytes: what an idle server may waste, and what a growing one may.
const AHEAD_MIN: usize = 1 << 20;
const AHEAD_MAX: usize = 32 << 20;

/// Pages are made ready in pieces of so many bytes: whoever wants to change the address space waits for one, a few hundred µs.
const PIECE: usize = 128 << 10;

/// How often the thread looks while the heap grows, and while it does not.
const LOOK: Duration = Duration::from_millis(2);
const LOOK_IDLE: Duration = Duration::from_millis(50);

/// Threads that are tried out for one place on the main heap: a few times the heaps that there can be.
const TRIES: usize = 64;

/// To be called once, before other threads are started.
pub fn begin() {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    if let Err(e) = heap::bound_heaps(cores.min(LOADERS_MAX) + HEAPS_BESIDE, LARGE)
        .and_then(|()| heap::grow_main_by(AHEAD_MIN, LARGE))
    {
        tracing::debug!("memory is not made ready ahead: {e}");
    }
}

/// Starts threads that share the main heap. The C library deals its heaps out in turn, so threads are started until one has the
/// main one; the others hold what they got until no more are wanted.
#[derive(Default)]
pub struct Serving {
    waiting: Vec<Sender<()>>,
}

impl Serving {
    /// Starts `run` on a thread called `name`.
    pub fn spawn(
        &mut self,
        name: &str,
        run: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<JoinHandle<()>> {
        let job = Arc::new(Mutex::new(Some(run)));
        for attempt in 1..=TRIES {
            let job = Arc::clone(&job);
            let (say, said) = channel();
            let (release, released) = channel::<()>();
            let thread = Builder::new().name(name.to_owned()).spawn(move || {
                let takes_it = attempt == TRIES || heap::is_on_main();
                let job = job.lock().map(|mut job| if takes_it { job.take() } else { None });
                let _ = say.send(takes_it);
                match job {
                    Ok(Some(run)) => run(),
                    _ => drop(released.recv()),
                }
            })?;
            if said.recv() == Ok(true) {
                return Ok(thread);
            }
            self.waiting.push(release);
        }
        unreachable!("the last thread takes what it gets")
    }
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
            let _ = heap::grow_main_by(ahead, LARGE);
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
        let before = std::mem::replace(&mut self.ahead, ahead.clamp(AHEAD_MIN, AHEAD_MAX));
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
        // For a second, MiB a millisecond → by how much it grows at the end, and whether it is idle.
        let table: [(usize, usize, bool); 5] = [
            (0, 1 << 20, true),
            (40, 10 << 20, false),
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
            assert!(rate.ahead.abs_diff(ahead) <= 1 << 20, "{mib} MiB/s: {}", rate.ahead);
            assert_eq!(rate.is_idle, idle, "{mib} MiB/s");
        }
    }
}
