//! Work divided among threads, which are the caller's.

/// Who works.
pub trait Crew: Sync {
    /// How many there are, at least one.
    fn size(&self) -> usize;

    /// Calls `work` once with each number below [`Crew::size`], at the same time where that is possible, and returns
    /// when all calls have.
    fn run(&self, work: &(dyn Fn(usize) + Sync));
}

/// The thread that asks.
#[derive(Clone, Copy, Debug)]
pub struct Alone;

impl Crew for Alone {
    fn size(&self) -> usize {
        1
    }

    fn run(&self, work: &(dyn Fn(usize) + Sync)) {
        work(0);
    }
}

/// Lets each of the crew work on one of the places, of which there are as many.
pub(super) fn each<T: Send>(crew: &dyn Crew, places: &mut [T], work: impl Fn(usize, &mut T) + Sync) {
    // Not the tree's kind of lock: nobody waits for one of these.
    let places: Vec<_> = places.iter_mut().map(std::sync::Mutex::new).collect();
    crew.run(&|n| work(n, &mut places[n].lock().expect("each has its own")));
}
