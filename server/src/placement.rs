//! Where an event loop runs, so that the loops of a fan-out run side by side.
//!
//! A thread is woken on the CPU on which it ran last, unless the kernel finds an idle one. The guest of a hypervisor may
//! find none: to it a halted virtual CPU looks like one that was taken away. Loops that are woken together then queue on one
//! CPU, or behind their waker, while another CPU sleeps: a fan-out to 1,000 connections took 6.4 ms on two CPUs instead of
//! 3.3. So whoever wakes the loops of a fan-out gives each a CPU of its own first ([`Place::clear_of`]); the loop, once it
//! runs there, may run everywhere again ([`Place::free`]). Refusals of the kernel are ignored: it is a matter of speed only.

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

    /// Has the thread, which sleeps and is one of `together`, wake on none of the CPUs that are `taken`, if there is another;
    /// that one is taken from then on.
    pub fn clear_of(&self, taken: &mut CpuSet, together: usize) {
        let Some(&thread) = self.thread.get() else { return };
        let mut before = self.allowed.lock();
        if before.is_some() {
            return;
        }
        let Ok(allowed) = sched_getaffinity(Some(thread)) else { return };
        let free = |&cpu: &usize| cpu < CpuSet::MAX_CPU && allowed.is_set(cpu) && !taken.is_set(cpu);
        let last = Some(self.cpu.load(Ordering::Relaxed)).filter(free);
        let Some(cpu) = last.or_else(|| (0..CpuSet::MAX_CPU).find(free)) else { return };
        let mut others = CpuSet::new();
        if allowed.count() as usize > together {
            // There are CPUs to spare: who else runs on them the kernel knows better.
            (0..CpuSet::MAX_CPU).filter(free).for_each(|c| others.set(c));
        } else {
            others.set(cpu);
        }
        taken.set(cpu);
        if sched_setaffinity(Some(thread), &others).is_ok() {
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

/// The CPU on which the caller runs.
pub fn here() -> CpuSet {
    let mut here = CpuSet::new();
    let cpu = sched_getcpu();
    if cpu < CpuSet::MAX_CPU {
        here.set(cpu);
    }
    here
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::mpsc;

    /// Where a thread may run after it was sent away from the CPUs `taken`, and after it was freed.
    fn sent_away(taken: &mut CpuSet, together: usize) -> (CpuSet, CpuSet) {
        let place = Arc::new(Place::default());
        let (tell, told) = mpsc::channel::<()>();
        let (say, said) = mpsc::channel();
        let theirs = Arc::clone(&place);
        let thread = std::thread::spawn(move || {
            theirs.note();
            say.send(()).unwrap();
            told.recv().unwrap();
            let sent_to = sched_getaffinity(None).unwrap();
            theirs.free();
            (sent_to, sched_getaffinity(None).unwrap())
        });
        said.recv().unwrap();
        place.clear_of(taken, together);
        tell.send(()).unwrap();
        thread.join().unwrap()
    }

    #[test]
    fn threads_are_sent_to_cpus_that_are_not_taken_and_freed() {
        let allowed = sched_getaffinity(None).unwrap();
        let cpus = allowed.count() as usize;
        let mut taken = CpuSet::new();
        if sched_setaffinity(None, &allowed).is_err() {
            return; // Where the system refuses it, nobody is sent anywhere.
        }
        for n in 1..=cpus + 1 {
            let was = taken;
            let (sent_to, freed) = sent_away(&mut taken, cpus);
            assert!(freed == allowed);
            // When each has a thread there is nowhere to go.
            assert!(if n <= cpus { sent_to.count() == 1 } else { sent_to == allowed });
            assert!((0..CpuSet::MAX_CPU).all(|c| n > cpus || !(sent_to.is_set(c) && was.is_set(c))));
            assert_eq!(taken.count() as usize, n.min(cpus));
        }
    }

    #[test]
    fn with_cpus_to_spare_the_kernel_chooses_among_them() {
        let allowed = sched_getaffinity(None).unwrap();
        let (sent_to, freed) = sent_away(&mut CpuSet::new(), 0);
        assert!(sent_to == allowed && freed == allowed);
    }
}
