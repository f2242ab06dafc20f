//! The log becomes a tree: one thread reads and checks it, all cores apply what was read.
//!
//! ```text
//!   log ── read, checksums, order ── rounds of a MiB, two ahead ── Applier::replay, each core its shards
//! ```

use crate::boot::Failure;
use engine::{Applier, Crew};
use proto::Zxid;
use proto::txn::RecordBatch;
use std::sync::mpsc::sync_channel;

/// Records that are applied together, bytes: some thousand txns, so that starting the threads costs nothing beside them
/// and what they need still fits into the caches.
const ROUND_BYTES: usize = 1 << 20;

/// Rounds that are read ahead.
const AHEAD: usize = 2;

/// Threads beyond this have nothing to do: reading the log takes a fifth of what applying it takes.
const CORES_MAX: usize = 8;

/// As many threads as there are cores, for as long as they have work.
pub struct Cores(usize);

impl Cores {
    /// Those of this machine.
    pub fn all() -> Cores {
        Cores(std::thread::available_parallelism().map_or(1, |n| n.get()).min(CORES_MAX))
    }
}

impl Crew for Cores {
    fn size(&self) -> usize {
        self.0
    }

    fn run(&self, work: &(dyn Fn(usize) + Sync)) {
        std::thread::scope(|scope| {
            for n in 1..self.0 {
                scope.spawn(move || work(n));
            }
            work(0);
        });
    }
}

/// Why no more is read.
pub enum Stop {
    /// The log can't be.
    Log(wal::Error),
    /// Whoever applies has given up, and says why himself.
    Nobody,
}

impl From<wal::Error> for Stop {
    fn from(e: wal::Error) -> Stop {
        Stop::Log(e)
    }
}

/// What takes the records that are read.
pub type Take<'a> = dyn FnMut(Zxid, &[u8]) -> Result<(), Stop> + 'a;

/// Applies all records that `read` reads, in order, and tells `passed` of each round.
pub fn replay(
    read: impl FnOnce(&mut Take<'_>) -> Result<(), Stop> + Send,
    applier: &mut Applier,
    mut passed: impl FnMut(&RecordBatch),
) -> Result<(), Failure> {
    let crew = Cores::all();
    let mut replay = applier.replay(&crew);
    std::thread::scope(|scope| {
        let (send, rounds) = sync_channel::<RecordBatch>(AHEAD);
        // Those that were applied go back to be filled again.
        let (give_back, empty) = sync_channel::<RecordBatch>(AHEAD + 2);
        let reader = scope.spawn(move || {
            let fresh = || {
                let new = || RecordBatch::with_capacity(0, ROUND_BYTES + ROUND_BYTES / 4);
                empty.try_recv().unwrap_or_else(|_| new())
            };
            let mut round = fresh();
            read(&mut |zxid, record| {
                if round.byte_len() >= ROUND_BYTES {
                    send.send(std::mem::replace(&mut round, fresh())).map_err(|_| Stop::Nobody)?;
                }
                round.push_with(zxid, |out| out.extend_from_slice(record));
                Ok(())
            })?;
            send.send(round).map_err(|_| Stop::Nobody)
        });
        let apply = || {
            for mut round in rounds {
                replay.apply(&round).map_err(unfit)?;
                passed(&round);
                round.clear();
                // There is room for all that there are; the reader may be through.
                let _ = give_back.try_send(round);
            }
            Ok(())
        };
        // Giving up lets go of the channel, which ends the reader.
        let applied: Result<(), Failure> = apply();
        let read = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        applied?;
        match read {
            Ok(()) | Err(Stop::Nobody) => Ok(()),
            Err(Stop::Log(e)) => Err(e.into()),
        }
    })
}

/// A record that no server can have written.
pub fn unfit(e: engine::ApplyError) -> Failure {
    Failure::Corrupt(format!("a record of the log is intact but can't be applied: {e} ({e:?})"))
}
