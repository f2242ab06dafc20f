//! The log's commit path: slots in, durable bytes out; and the choice among its implementations.

use crate::{Access, AlignedBuf, BLOCK, Dir, File, limits};
use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::Arc;

/// One owner, a few durable writes in flight. A slot is filled through [`LogDevice::buffer`], sent by
/// [`LogDevice::submit`], and comes back from [`LogDevice::complete`].
///
/// Between submit and completion a slot's bytes are out of reach (the call panics): what is in flight never changes.
pub trait LogDevice: Send + fmt::Debug {
    /// How it writes.
    fn kind(&self) -> DeviceKind;

    /// One line for the operator: how it writes and how it makes that durable.
    fn describe(&self) -> String;

    /// Slots: one more than may be in flight, so that the next batch fills meanwhile.
    fn slots(&self) -> usize;

    /// Writes submitted and not yet returned by [`LogDevice::complete`].
    fn in_flight(&self) -> usize;

    /// The bytes of a slot that is not in flight.
    fn buffer(&mut self, slot: usize) -> &mut [u8];

    /// Makes the slot's buffer hold at least `len` bytes (at most [`limits::SLOT_MAX`]), content kept.
    fn grow(&mut self, slot: usize, len: usize);

    /// Begins the durable write of the first `len` bytes of the slot at `offset`; both whole blocks. An error means that
    /// nothing began, and is as final as one of [`LogDevice::complete`].
    fn submit(&mut self, slot: usize, len: usize, offset: u64) -> io::Result<()>;

    /// Waits for a write and returns it, durable or failed; `None` when nothing is in flight. Writes may come back in
    /// another order than they went. A write that moved fewer bytes than asked is a failure.
    fn complete(&mut self) -> Option<Completion>;

    /// Further writes go to `file`, opened with [`DeviceKind::access`]. Nothing may be in flight.
    fn switch_to(&mut self, file: Arc<dyn File>) -> io::Result<()>;
}

/// A write that is over.
#[derive(Debug)]
pub struct Completion {
    /// The slot, free again.
    pub slot: usize,
    /// `Ok`: all of its bytes are durable. After an error nothing later may be trusted (rule 3 of the crate).
    pub result: io::Result<()>,
}

/// The ways to write durably.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum DeviceKind {
    /// io_uring with registered file and buffers.
    Uring,
    /// `pwritev2(RWF_DSYNC)` on a direct file.
    Pwritev2,
    /// `pwrite` through the page cache, then `fdatasync`.
    Buffered,
}

impl DeviceKind {
    /// How a segment must be opened for this kind.
    pub const fn access(self) -> Access {
        match self {
            DeviceKind::Uring | DeviceKind::Pwritev2 => Access::WRITE_DIRECT,
            DeviceKind::Buffered => Access::WRITE,
        }
    }

    /// The word for settings and metrics.
    pub const fn word(self) -> &'static str {
        match self {
            DeviceKind::Uring => "uring",
            DeviceKind::Pwritev2 => "pwritev2",
            DeviceKind::Buffered => "buffered",
        }
    }
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What the operator asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Choice {
    /// The first that works of uring, pwritev2, buffered.
    #[default]
    Auto,
    /// This one or none.
    Only(DeviceKind),
}

impl FromStr for Choice {
    type Err = String;
    fn from_str(word: &str) -> Result<Choice, String> {
        Ok(match word {
            "auto" => Choice::Auto,
            "uring" => Choice::Only(DeviceKind::Uring),
            "pwritev2" => Choice::Only(DeviceKind::Pwritev2),
            "buffered" => Choice::Only(DeviceKind::Buffered),
            other => {
                return Err(format!(
                    "unknown log device {other:?}: wanted auto, uring, pwritev2 or buffered"
                ));
            }
        })
    }
}

/// The size of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Most writes in flight, 1..=[`limits::DEPTH_MAX`].
    pub depth: usize,
    /// Bytes of each slot at first.
    pub slot_len: usize,
}

impl Shape {
    pub(crate) fn slots(self) -> Vec<AlignedBuf> {
        assert!((1..=limits::DEPTH_MAX).contains(&self.depth), "depth {} is out of 1..=4", self.depth);
        (0..=self.depth).map(|_| AlignedBuf::zeroed(self.slot_len)).collect()
    }
}

/// A device that passed its trial.
#[derive(Debug)]
pub struct Chosen {
    /// Ready to write to the file it was tried on.
    pub device: Box<dyn LogDevice>,
    /// That file.
    pub file: Arc<dyn File>,
    /// One line for the operator: what was taken and why the better ones were not.
    pub said: String,
}

/// Takes the first kind that really works on `spare`, a prepared file of at least two blocks whose content does not matter:
/// makes the device, writes a block in its real form, reads it back, zeroes it again.
pub fn choose_device(dir: &dyn Dir, spare: &str, choice: Choice, shape: Shape) -> io::Result<Chosen> {
    let candidates: &[DeviceKind] = match &choice {
        Choice::Auto => &[DeviceKind::Uring, DeviceKind::Pwritev2, DeviceKind::Buffered],
        Choice::Only(kind) => std::slice::from_ref(kind),
    };
    let mut refused = Vec::new();
    let mut last = io::Error::from(io::ErrorKind::Unsupported);
    for &kind in candidates {
        match try_device(dir, spare, kind, shape) {
            Ok((device, file)) => {
                let mut said = format!("log device {}", device.describe());
                for (kind, why) in &refused {
                    said.push_str(&format!("; {kind} refused: {why}"));
                }
                return Ok(Chosen { device, file, said });
            }
            // A full or dying disk is not a matter of kinds.
            Err(e) if matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::NotFound) => {
                return Err(e);
            }
            Err(e) => {
                refused.push((kind, e.to_string()));
                last = e;
            }
        }
    }
    let all: Vec<String> = refused.iter().map(|(kind, why)| format!("{kind}: {why}")).collect();
    Err(io::Error::new(
        last.kind(),
        format!("no log device works in {}: {}", dir.path().display(), all.join("; ")),
    ))
}

fn try_device(
    dir: &dyn Dir,
    spare: &str,
    kind: DeviceKind,
    shape: Shape,
) -> io::Result<(Box<dyn LogDevice>, Arc<dyn File>)> {
    let file = dir.open(spare, kind.access())?;
    let mut device = dir.log_device(kind, shape, file.clone())?;
    // Zeros last: a spare's blocks mean nothing, yet zeros are what a reader of a hex dump expects there.
    for fill in [0xa5u8, 0] {
        device.buffer(0)[..BLOCK].fill(fill);
        device.submit(0, BLOCK, BLOCK as u64)?;
        match device.complete() {
            Some(Completion { result, .. }) => result?,
            None => return Err(io::Error::other("the trial write was never completed")),
        }
        let mut back = AlignedBuf::zeroed(BLOCK);
        file.read_exact_at(&mut back, BLOCK as u64)?;
        if back.iter().any(|&b| b != fill) {
            return Err(io::Error::other("the trial write reads back differently"));
        }
    }
    Ok((device, file))
}

/// A device whose write is one blocking call of the file, made when its completion is asked for. Serves `pwritev2` and
/// `buffered`: the difference lies in how the file was opened.
#[derive(Debug)]
pub(crate) struct Blocking {
    kind: DeviceKind,
    file: Arc<dyn File>,
    slots: Vec<AlignedBuf>,
    /// Slot, length, offset; oldest first.
    waiting: std::collections::VecDeque<(usize, usize, u64)>,
}

impl Blocking {
    pub(crate) fn new(kind: DeviceKind, shape: Shape, file: Arc<dyn File>) -> Blocking {
        Blocking { kind, file, slots: shape.slots(), waiting: Default::default() }
    }

    fn assert_free(&self, slot: usize) {
        assert!(!self.waiting.iter().any(|w| w.0 == slot), "slot {slot} is in flight");
    }
}

impl LogDevice for Blocking {
    fn kind(&self) -> DeviceKind {
        self.kind
    }
    fn describe(&self) -> String {
        match self.kind {
            DeviceKind::Buffered => "buffered (pwrite, then fdatasync)".into(),
            _ => "pwritev2 (O_DIRECT, RWF_DSYNC)".into(),
        }
    }
    fn slots(&self) -> usize {
        self.slots.len()
    }
    fn in_flight(&self) -> usize {
        self.waiting.len()
    }
    fn buffer(&mut self, slot: usize) -> &mut [u8] {
        self.assert_free(slot);
        &mut self.slots[slot]
    }
    fn grow(&mut self, slot: usize, len: usize) {
        self.assert_free(slot);
        assert!(len <= limits::SLOT_MAX, "a slot of {len} bytes exceeds the bound");
        self.slots[slot].grow(len);
    }
    fn submit(&mut self, slot: usize, len: usize, offset: u64) -> io::Result<()> {
        self.assert_free(slot);
        assert!(len <= self.slots[slot].len() && self.waiting.len() + 1 < self.slots.len());
        self.waiting.push_back((slot, len, offset));
        Ok(())
    }
    fn complete(&mut self) -> Option<Completion> {
        let (slot, len, offset) = self.waiting.pop_front()?;
        Some(Completion { slot, result: self.file.write_durable(&self.slots[slot][..len], offset) })
    }
    fn switch_to(&mut self, file: Arc<dyn File>) -> io::Result<()> {
        assert!(self.waiting.is_empty(), "writes are in flight");
        self.file = file;
        Ok(())
    }
}
