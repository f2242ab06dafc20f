//! Where an event loop runs, so that the loops of a fan-out run side by side.
//!
//! A thread is woken on the CPU on which it ran last, unless the kernel finds an idle one. The guest of a hypervisor may
//! find none: to it a halted virtual CPU looks like one that was taken away. A loop that ran last where its waker runs is
//! then queued behind the waker, for as long as that writes to its own sockets, while another CPU sleeps: a fan-out to
//! 1,000 connections took 6 ms on two CPUs instead of 3.5. So a waker that has much to write itself sends the loop away
//! from its own CPU first ([`Place::clear_of_here`]), and the loop, once it runs elsewhere, may run everywhere again
//! ([`Place::free`]). Refusals of the kernel are ignored: it is a matter of speed only.

use parking_lot::Mutex;
use rustix::thread::{CpuSet, Pid, gettid, sched_getaffinity, sched_getcpu, sched_setaffinity};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Where one thread runs.
#[derive(Default)]
pub struct Place {
    thread: OnceLock<Pid>,
    /// The CPU on which it was last seen.
    cpu: AtomicUsize,
    /// What it was allowed before it was sent away.
    allowed: Mutex<Option<CpuSet>>,
}

impl Place {
    /// The calling thread is the one whose place this is, and is about to sleep.
    pub fn note(&self) {
        self.thread.get_or_init(gettid);
        self.cpu.store(sched_getcpu(), Ordering::Relaxed);
    }

    /// Sends the thread, which sleeps, away from the CPU of the caller, if it would wake there and may run elsewhere.
    pub fn clear_of_here(&self) {
        let here = sched_getcpu();
        let Some(&thread) = self.thread.get() else { return };
        if self.cpu.load(Ordering::Relaxed) != here {
            return;
        }
        let mut before = self.allowed.lock();
        if before.is_some() {
            return;
        }
        let Ok(allowed) = sched_getaffinity(Some(thread)) else { return };
        let mut others = allowed;
        others.unset(here);
        if others.count() > 0 && sched_setaffinity(Some(thread), &others).is_ok() {
            *before = Some(allowed);
        }
    }

    /// The thread, which calls this, may run again wherever it might before.
    pub fn free(&self) {
        if let Some(allowed) = self.allowed.lock().take() {
            let _ = sched_setaffinity(None, &allowed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::mpsc;

    #[test]
    fn a_thread_is_sent_away_and_freed() {
        let allowed = sched_getaffinity(None).unwrap();
        let here = (0..CpuSet::MAX_CPU).find(|&c| allowed.is_set(c)).unwrap();
        let mut only_here = CpuSet::new();
        only_here.set(here);
        let place = Arc::new(Place::default());
        let (tell, told) = mpsc::channel::<()>();
        let (say, said) = mpsc::channel();
        let theirs = Arc::clone(&place);
        let thread = std::thread::spawn(move || {
            theirs.note();
            theirs.cpu.store(here, Ordering::Relaxed);
            say.send(()).unwrap();
            told.recv().unwrap();
            say.send(()).unwrap();
            let sent_to = sched_getaffinity(None).unwrap();
            theirs.free();
            (sent_to, sched_getaffinity(None).unwrap())
        });
        said.recv().unwrap();
        sched_setaffinity(None, &only_here).unwrap();
        place.clear_of_here();
        tell.send(()).unwrap();
        said.recv().unwrap();
        let (sent_to, freed) = thread.join().unwrap();
        sched_setaffinity(None, &allowed).unwrap();
        let mut others = allowed;
        others.unset(here);
        // With one CPU there is nowhere to go.
        assert!(sent_to == if others.count() > 0 { others } else { allowed });
        assert!(freed == allowed);
    }
}
