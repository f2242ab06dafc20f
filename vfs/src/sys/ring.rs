//! io_uring, wrapped so that the memory in flight can be touched by nobody.

use crate::{AlignedBuf, File, Handle};
use io_uring::{IoUring, opcode, squeue, types};
use std::io;
use std::sync::Arc;

/// One ring, one registered file, a few registered buffers.
///
/// Invariant: a buffer with `in_flight[i]` is neither read, written, moved nor freed by this process until the kernel
/// returned its completion; the file behind the ring lives as long as any write to it is in flight.
pub(crate) struct Ring {
    ring: IoUring,
    file: Arc<dyn File>,
    slots: Vec<AlignedBuf>,
    in_flight: Vec<bool>,
    /// The slot still has the memory that was registered.
    registered: Vec<bool>,
}

/// A completion: the slot and the bytes that the kernel moved.
pub(crate) struct Moved {
    pub(crate) slot: usize,
    pub(crate) bytes: io::Result<usize>,
}

impl Ring {
    /// Sets up the ring and registers everything; fails where the kernel or a container forbids it.
    pub(crate) fn new(slots: Vec<AlignedBuf>, file: Arc<dyn File>) -> io::Result<Ring> {
        // No SINGLE_ISSUER and no COOP_TASKRUN: the log changes hands between threads, and a completion must not wait for
        // the thread that submitted. No kernel polling thread: 4 ms a commit on two CPUs.
        let ring = IoUring::new(8)?;
        ring.submitter().register_files(&[raw(&file)?])?;
        let vectors: Vec<libc::iovec> = slots
            .iter()
            .map(|s| libc::iovec { iov_base: s.as_ptr().cast_mut().cast(), iov_len: s.len() })
            .collect();
        // SAFETY: each vector describes the heap memory of an `AlignedBuf` owned by the returned value; it keeps its
        // address until `grow` or drop. The kernel pins the pages, so even a later free could not let it touch foreign
        // memory; `grow` marks the slot unregistered, so the stale pages are never named again.
        unsafe { ring.submitter().register_buffers(&vectors)? };
        let n = slots.len();
        Ok(Ring { ring, file, slots, in_flight: vec![false; n], registered: vec![true; n] })
    }

    pub(crate) fn slots(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.iter().filter(|&&f| f).count()
    }

    pub(crate) fn buffer(&mut self, slot: usize) -> &mut [u8] {
        assert!(!self.in_flight[slot], "slot {slot} is in flight");
        &mut self.slots[slot]
    }

    pub(crate) fn grow(&mut self, slot: usize, len: usize) {
        assert!(!self.in_flight[slot], "slot {slot} is in flight");
        if len > self.slots[slot].len() {
            self.slots[slot].grow(len);
            self.registered[slot] = false;
        }
    }

    /// Hands the write to the kernel. `dsync`: its completion means durable.
    pub(crate) fn submit(&mut self, slot: usize, len: usize, offset: u64, dsync: bool) -> io::Result<()> {
        assert!(!self.in_flight[slot], "slot {slot} is in flight");
        let bytes = &self.slots[slot][..len];
        let len = u32::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let flags = if dsync { libc::RWF_DSYNC } else { 0 };
        let entry: squeue::Entry = if self.registered[slot] {
            let index = u16::try_from(slot).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
            opcode::WriteFixed::new(types::Fixed(0), bytes.as_ptr(), len, index)
                .offset(offset)
                .rw_flags(flags)
                .build()
        } else {
            opcode::Write::new(types::Fixed(0), bytes.as_ptr(), len).offset(offset).rw_flags(flags).build()
        };
        let entry = entry.user_data(slot as u64);
        // SAFETY: `bytes` lies in the slot's own memory, which this type keeps unmoved and unread-from-outside until the
        // completion (`in_flight`), on drop as well (see `Drop`).
        if unsafe { self.ring.submission().push(&entry) }.is_err() {
            return Err(io::Error::other("the submission queue is full"));
        }
        self.in_flight[slot] = true;
        loop {
            match self.ring.submit() {
                Ok(_) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // The entry stays queued; `in_flight` stays set, so its memory stays ours until drop has waited for it.
                Err(e) => return Err(e),
            }
        }
    }

    /// Waits for any completion. An error of the ring itself is final: what is in flight is unknown.
    pub(crate) fn wait(&mut self) -> io::Result<Option<Moved>> {
        loop {
            if let Some(done) = self.ring.completion().next() {
                let slot =
                    usize::try_from(done.user_data()).expect("user data is a slot number set in submit");
                assert!(self.in_flight[slot], "a completion for a slot that is not in flight");
                self.in_flight[slot] = false;
                let bytes =
                    usize::try_from(done.result()).map_err(|_| io::Error::from_raw_os_error(-done.result()));
                return Ok(Some(Moved { slot, bytes }));
            }
            if self.in_flight() == 0 {
                return Ok(None);
            }
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Flushes the device's cache for the file, in this thread.
    pub(crate) fn fdatasync(&self) -> io::Result<()> {
        super::fdatasync(raw(&self.file)?)
    }

    /// Puts another file in the place of the registered one; nothing may be in flight.
    pub(crate) fn switch_to(&mut self, file: Arc<dyn File>) -> io::Result<()> {
        assert_eq!(self.in_flight(), 0, "writes are in flight");
        self.ring.submitter().register_files_update(0, &[raw(&file)?])?;
        self.file = file;
        Ok(())
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // The kernel may still read the slots: wait for it. If it can't be waited for, their memory is given up, never freed.
        while self.in_flight() > 0 {
            if !matches!(self.wait(), Ok(Some(_))) {
                std::mem::forget(std::mem::take(&mut self.slots));
                return;
            }
        }
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ring({} slots, {} in flight, {:?})", self.slots(), self.in_flight(), self.file)
    }
}

fn raw(file: &Arc<dyn File>) -> io::Result<i32> {
    match file.handle() {
        Handle::Os(fd) => Ok(fd),
        Handle::Mem(_) => Err(io::ErrorKind::Unsupported.into()),
    }
}
