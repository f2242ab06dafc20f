//! The simulated disk: it forgets, tears, flips and fails, and records what was asked of it.
//!
//! It keeps three things: what readers see (*live*), what a power cut cannot take (*durable*), and the operations between
//! the two (*pending*), in order. [`Disk::crash`] settles the pending ones as a chooser says and gives the disk that the next
//! start would find. With [`Disk::record`] every operation is kept in a [`Trace`], from which a test can rebuild the state
//! after each operation and crash it there in as many ways as it likes.
//!
//! What may survive of pending operations (the contract of this crate, taken at its word): of writes any subset of their
//! 512-byte sectors, in order where they overlap; of changes of names any subset, each as a whole; a change of length or
//! nothing of it. After a failed sync the writes before it stay pending for ever: no later sync makes them durable.
//!
//! ```
//! use vfs::{Access, Dir, mem::Disk};
//! let disk = Disk::new();
//! let dir = disk.dir("data");
//! let file = dir.create("a", Access::WRITE).unwrap();
//! file.write_at(b"kept", 0).unwrap();
//! file.sync().unwrap();
//! dir.sync().unwrap();
//! file.write_at(b"lost", 0).unwrap();
//! let after = disk.crash(&mut |_| false);
//! let mut back = [0; 4];
//! after.dir("data").open("a", Access::READ).unwrap().read_exact_at(&mut back, 0).unwrap();
//! assert_eq!(&back, b"kept");
//! ```

use crate::{
    Access, AlignedBuf, BLOCK, Completion, DeviceKind, Dir, Entry, File, Handle, Lock, LogDevice, SECTOR,
    Shape, limits,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// A disk. Clones are the same disk.
#[derive(Clone)]
pub struct Disk(Arc<Mutex<State>>);

struct State {
    live: Image,
    platter: Platter,
    trace: Option<Trace>,
    /// Operations that could fail so far: the clock of [`Disk::fail`].
    ops: u64,
    faults: BTreeMap<u64, Failure>,
    bad_sectors: BTreeSet<(u64, u64)>,
    capacity: Option<u64>,
    refused: BTreeSet<DeviceKind>,
    locks: BTreeSet<PathBuf>,
    next_inode: u64,
    next_write: u64,
    open: BTreeMap<u64, usize>,
}

/// One operation, as recorded.
#[derive(Clone, Debug)]
pub enum Op {
    /// A file was made.
    Create {
        /// The directory.
        dir: PathBuf,
        /// Its name there.
        name: String,
        /// The file's number.
        inode: u64,
    },
    /// A file got another name.
    Rename {
        /// The directory.
        dir: PathBuf,
        /// The old name.
        from: String,
        /// The new name.
        to: String,
        /// The file's number.
        inode: u64,
    },
    /// A name was removed.
    Unlink {
        /// The directory.
        dir: PathBuf,
        /// The name.
        name: String,
        /// The file's number.
        inode: u64,
    },
    /// Bytes were written.
    Write {
        /// The file.
        inode: u64,
        /// The write's number, for [`Op::Durable`].
        id: u64,
        /// Where.
        offset: u64,
        /// What.
        bytes: Arc<[u8]>,
    },
    /// The length was set.
    SetLen {
        /// The file.
        inode: u64,
        /// The length, bytes.
        len: u64,
    },
    /// This one write became durable.
    Durable {
        /// The write's number.
        id: u64,
    },
    /// All writes to the file so far became durable.
    Sync {
        /// The file.
        inode: u64,
    },
    /// A sync of the file failed: its pending writes will never be durable.
    SyncFailed {
        /// The file.
        inode: u64,
    },
    /// All changes of names in the directory so far became durable.
    SyncDir {
        /// The directory.
        dir: PathBuf,
    },
    /// A directory was made, durably.
    MakeDir {
        /// The directory.
        dir: PathBuf,
    },
    /// Nothing: a note of the test ([`Disk::mark`]).
    Mark(u64),
}

/// What an operation meets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// An I/O error. A write leaves its first half, never to become durable; a sync leaves everything pending for ever.
    Eio,
    /// The disk is full; nothing happened.
    Enospc,
    /// A write moves half of its bytes and says so; other operations fail as with [`Failure::Eio`].
    Short,
}

impl Failure {
    fn error(self) -> io::Error {
        match self {
            Failure::Eio => io::Error::from_raw_os_error(libc::EIO),
            Failure::Enospc => io::Error::from_raw_os_error(libc::ENOSPC),
            Failure::Short => io::Error::new(io::ErrorKind::WriteZero, "short write"),
        }
    }
}

/// What a chooser is asked about: does this survive the crash?
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Which pending operation, counted from the oldest.
    pub index: usize,
    /// The operation.
    pub op: &'a Op,
    /// The sector within the write, from 0; 0 for other operations.
    pub sector: usize,
}

/// The state of the medium: what is durable, and what is pending over it.
#[derive(Clone, Default)]
pub struct Platter {
    durable: Image,
    /// Oldest first. `true`: a sync over it failed, no later one helps.
    pending: Vec<(Op, bool)>,
}

/// A record of operations, from a state of the medium on.
#[derive(Clone, Default)]
pub struct Trace {
    start: Platter,
    ops: Vec<Op>,
}

impl Trace {
    /// The state before the first operation.
    pub fn start(&self) -> Platter {
        self.start.clone()
    }

    /// The operations, oldest first.
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }
}

impl Platter {
    /// The state after `op`.
    pub fn step(&mut self, op: &Op) {
        match op {
            Op::Mark(_) => {}
            Op::MakeDir { dir } => {
                self.durable.dirs.entry(dir.clone()).or_default();
            }
            Op::Durable { id } => {
                let at =
                    self.pending.iter().position(|(op, _)| matches!(op, Op::Write { id: i, .. } if i == id));
                if let Some(at) = at {
                    let (op, _) = self.pending.remove(at);
                    self.durable.apply(&op);
                    self.supersede(at, &op);
                }
            }
            Op::Sync { inode } => {
                for (op, limbo) in std::mem::take(&mut self.pending) {
                    if limbo || op.changes_inode() != Some(*inode) {
                        self.pending.push((op, limbo));
                    } else {
                        self.durable.apply(&op);
                        self.supersede(self.pending.len(), &op);
                    }
                }
            }
            Op::SyncFailed { inode } => {
                for (op, limbo) in &mut self.pending {
                    *limbo |= op.changes_inode() == Some(*inode);
                }
            }
            Op::SyncDir { dir } => self.harden(|op, _| op.changes_dir() == Some(dir)),
            change => self.pending.push((change.clone(), false)),
        }
    }

    /// `op` is durable: of the writes that were pending before it, the first `before`, nothing can come back where it lies.
    fn supersede(&mut self, before: usize, op: &Op) {
        let Op::Write { inode, offset, bytes, .. } = op else { return };
        let (start, end) = (*offset, offset + bytes.len() as u64);
        for at in (0..before.min(self.pending.len())).rev() {
            let (Op::Write { inode: i, id, offset, bytes }, limbo) = &self.pending[at] else { continue };
            let (from, to) = (*offset, offset + bytes.len() as u64);
            if i != inode || to <= start || end <= from {
                continue;
            }
            let piece = |from: u64, to: u64| {
                let bytes = bytes[(from - offset) as usize..(to - offset) as usize].into();
                (Op::Write { inode: *i, id: *id, offset: from, bytes }, *limbo)
            };
            let mut left = Vec::new();
            if from < start {
                left.push(piece(from, start));
            }
            if end < to {
                left.push(piece(end, to));
            }
            self.pending.splice(at..=at, left);
        }
    }

    fn harden(&mut self, which: impl Fn(&Op, bool) -> bool) {
        let durable = &mut self.durable;
        self.pending.retain(|(op, limbo)| {
            let now = which(op, *limbo);
            if now {
                durable.apply(op);
            }
            !now
        });
    }

    /// The pending operations, oldest first.
    pub fn pending(&self) -> impl ExactSizeIterator<Item = &Op> {
        self.pending.iter().map(|(op, _)| op)
    }

    /// The disk after a power cut: durable, plus of the pending what `keep` says.
    pub fn crash(&self, keep: &mut dyn FnMut(Question<'_>) -> bool) -> Disk {
        let mut image = self.durable.clone();
        for (index, (op, _)) in self.pending.iter().enumerate() {
            match op {
                Op::Write { inode, offset, bytes, .. } => {
                    let (start, end) = (*offset, offset + bytes.len() as u64);
                    let mut at = start;
                    let mut sector = 0;
                    while at < end {
                        let next = ((at / SECTOR as u64 + 1) * SECTOR as u64).min(end);
                        if keep(Question { index, op, sector }) {
                            let piece = &bytes[(at - start) as usize..(next - start) as usize];
                            image.inodes.entry(*inode).or_default().write(piece, at);
                        }
                        at = next;
                        sector += 1;
                    }
                }
                _ if keep(Question { index, op, sector: 0 }) => image.apply(op),
                _ => {}
            }
        }
        image.drop_nameless();
        Disk::from_image(image)
    }
}

impl Op {
    fn changes_inode(&self) -> Option<u64> {
        match self {
            Op::Write { inode, .. } | Op::SetLen { inode, .. } => Some(*inode),
            _ => None,
        }
    }

    fn changes_dir(&self) -> Option<&PathBuf> {
        match self {
            Op::Create { dir, .. } | Op::Rename { dir, .. } | Op::Unlink { dir, .. } => Some(dir),
            _ => None,
        }
    }
}

/// Names and bytes. Pages are shared between images until one writes, so that a copy costs pointers.
#[derive(Clone, Default)]
struct Image {
    inodes: BTreeMap<u64, Content>,
    dirs: BTreeMap<PathBuf, BTreeMap<String, u64>>,
}

#[derive(Clone, Default)]
struct Content {
    pages: Vec<Option<Arc<[u8; BLOCK]>>>,
    len: u64,
}

impl Image {
    fn apply(&mut self, op: &Op) {
        match op {
            Op::Create { dir, name, inode } => {
                self.dirs.entry(dir.clone()).or_default().insert(name.clone(), *inode);
                self.inodes.entry(*inode).or_default();
            }
            Op::Rename { dir, from, to, inode } => {
                let names = self.dirs.entry(dir.clone()).or_default();
                if names.get(from) == Some(inode) {
                    names.remove(from);
                }
                names.insert(to.clone(), *inode);
                self.inodes.entry(*inode).or_default();
            }
            Op::Unlink { dir, name, inode } => {
                let names = self.dirs.entry(dir.clone()).or_default();
                if names.get(name) == Some(inode) {
                    names.remove(name);
                }
            }
            Op::Write { inode, offset, bytes, .. } => {
                self.inodes.entry(*inode).or_default().write(bytes, *offset)
            }
            Op::SetLen { inode, len } => self.inodes.entry(*inode).or_default().set_len(*len),
            Op::Durable { .. }
            | Op::Sync { .. }
            | Op::SyncFailed { .. }
            | Op::SyncDir { .. }
            | Op::Mark(_) => {}
            Op::MakeDir { dir } => {
                self.dirs.entry(dir.clone()).or_default();
            }
        }
    }

    fn named(&self) -> BTreeSet<u64> {
        self.dirs.values().flat_map(|names| names.values().copied()).collect()
    }

    fn drop_nameless(&mut self) {
        let named = self.named();
        self.inodes.retain(|inode, _| named.contains(inode));
    }

    fn bytes(&self) -> u64 {
        self.inodes.values().map(|c| c.pages.iter().flatten().count() as u64 * BLOCK as u64).sum()
    }
}

impl Content {
    fn write(&mut self, bytes: &[u8], offset: u64) {
        self.len = self.len.max(offset + bytes.len() as u64);
        self.pages.resize(self.len.div_ceil(BLOCK as u64) as usize, None);
        let mut done = 0;
        while done < bytes.len() {
            let at = offset as usize + done;
            let (page, within) = (at / BLOCK, at % BLOCK);
            let n = (BLOCK - within).min(bytes.len() - done);
            let page = self.pages[page].get_or_insert_with(|| Arc::new([0; BLOCK]));
            Arc::make_mut(page)[within..within + n].copy_from_slice(&bytes[done..done + n]);
            done += n;
        }
    }

    fn read(&self, buf: &mut [u8], offset: u64) -> usize {
        let n = (self.len.saturating_sub(offset)).min(buf.len() as u64) as usize;
        let mut done = 0;
        while done < n {
            let at = offset as usize + done;
            let (page, within) = (at / BLOCK, at % BLOCK);
            let k = (BLOCK - within).min(n - done);
            match &self.pages[page] {
                Some(page) => buf[done..done + k].copy_from_slice(&page[within..within + k]),
                None => buf[done..done + k].fill(0),
            }
            done += k;
        }
        n
    }

    fn set_len(&mut self, len: u64) {
        if len < self.len {
            let whole = (len / BLOCK as u64) as usize;
            self.pages.truncate(len.div_ceil(BLOCK as u64) as usize);
            if let Some(Some(page)) = self.pages.get_mut(whole) {
                Arc::make_mut(page)[(len % BLOCK as u64) as usize..].fill(0);
            }
        }
        self.len = len;
        self.pages.resize(len.div_ceil(BLOCK as u64) as usize, None);
    }

    fn flip(&mut self, offset: u64, bit: u8) {
        let mut byte = [0];
        assert_eq!(self.read(&mut byte, offset), 1, "a flip behind the end of the file");
        self.write(&[byte[0] ^ (1 << bit)], offset);
    }
}

impl Disk {
    /// An empty disk.
    #[expect(clippy::new_without_default, reason = "a default disk is no natural notion")]
    pub fn new() -> Disk {
        Disk::from_image(Image::default())
    }

    fn from_image(image: Image) -> Disk {
        let next_inode = image.inodes.keys().next_back().map_or(1, |last| last + 1);
        Disk(Arc::new(Mutex::new(State {
            live: image.clone(),
            platter: Platter { durable: image, pending: Vec::new() },
            trace: None,
            ops: 0,
            faults: BTreeMap::new(),
            bad_sectors: BTreeSet::new(),
            capacity: None,
            refused: BTreeSet::new(),
            locks: BTreeSet::new(),
            next_inode,
            next_write: 0,
            open: BTreeMap::new(),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no code panics while it holds the disk")
    }

    /// The directory at `path`, made (durably) if missing.
    pub fn dir(&self, path: impl AsRef<Path>) -> Arc<dyn Dir> {
        let path = path.as_ref().to_path_buf();
        self.state().make_dir(&path);
        Arc::new(MemDir { disk: self.clone(), path })
    }

    /// The disk after a power cut now; this one is not changed. Handles and locks of the old one mean nothing on the new.
    pub fn crash(&self, keep: &mut dyn FnMut(Question<'_>) -> bool) -> Disk {
        self.state().platter.crash(keep)
    }

    /// The state of the medium now.
    pub fn platter(&self) -> Platter {
        self.state().platter.clone()
    }

    /// Starts a new trace here.
    pub fn record(&self) {
        let mut state = self.state();
        state.trace = Some(Trace { start: state.platter.clone(), ops: Vec::new() });
    }

    /// The trace so far; empty when nothing is recorded.
    pub fn trace(&self) -> Trace {
        self.state().trace.clone().unwrap_or_default()
    }

    /// Puts a note into the trace.
    pub fn mark(&self, note: u64) {
        self.state().log(Op::Mark(note));
    }

    /// Operations that could have failed so far. Each create, rename, unlink, write, change of length and sync counts one; a
    /// durable write or one through a device counts two, its transfer and its flush.
    pub fn ops(&self) -> u64 {
        self.state().ops
    }

    /// Lets the `nth` operation from now (0 = the next one) fail.
    pub fn fail(&self, nth: u64, how: Failure) {
        let mut state = self.state();
        let at = state.ops + nth;
        state.faults.insert(at, how);
    }

    /// Forgets all failures to come.
    pub fn heal(&self) {
        let mut state = self.state();
        state.faults.clear();
        state.bad_sectors.clear();
    }

    /// The disk holds at most `bytes` in whole blocks, for all files together; `None`: no bound.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// Bytes in written blocks, all files together.
    pub fn used(&self) -> u64 {
        self.state().live.bytes()
    }

    /// Devices of this kind can't be made here.
    pub fn refuse(&self, kind: DeviceKind) {
        self.state().refused.insert(kind);
    }

    /// Turns over one bit (0..=7) of a byte of a file, in place: what readers see and what a crash leaves.
    pub fn flip(&self, dir: impl AsRef<Path>, name: &str, offset: u64, bit: u8) {
        let mut state = self.state();
        let inode = state.lookup(dir.as_ref(), name).expect("a test flips bits of files that exist");
        state.live.inodes.get_mut(&inode).expect("named files have content").flip(offset, bit);
        if let Some(content) = state.platter.durable.inodes.get_mut(&inode)
            && content.len > offset
        {
            content.flip(offset, bit);
        }
    }

    /// Reads of the sector around `offset` fail with EIO from now on.
    pub fn break_sector(&self, dir: impl AsRef<Path>, name: &str, offset: u64) {
        let mut state = self.state();
        let inode = state.lookup(dir.as_ref(), name).expect("a test breaks sectors of files that exist");
        state.bad_sectors.insert((inode, offset / SECTOR as u64));
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Disk")
    }
}

impl State {
    fn log(&mut self, op: Op) {
        self.platter.step(&op);
        if let Some(trace) = &mut self.trace {
            trace.ops.push(op);
        }
    }

    fn change(&mut self, op: Op) {
        self.live.apply(&op);
        self.log(op);
    }

    fn make_dir(&mut self, path: &Path) {
        if !self.live.dirs.contains_key(path) {
            self.live.dirs.insert(path.into(), BTreeMap::new());
            self.log(Op::MakeDir { dir: path.into() });
        }
    }

    fn lookup(&self, dir: &Path, name: &str) -> io::Result<u64> {
        let names = self.live.dirs.get(dir);
        names.and_then(|n| n.get(name)).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Counts one operation and says whether it fails.
    fn tick(&mut self) -> Option<Failure> {
        self.ops += 1;
        self.faults.remove(&(self.ops - 1))
    }

    fn begin_write(&mut self, inode: u64, bytes: &[u8], offset: u64) -> io::Result<u64> {
        let id = self.next_write;
        self.next_write += 1;
        let fault = self.tick();
        let (kept, limbo) = match fault {
            None => (bytes, false),
            Some(Failure::Enospc) => return Err(Failure::Enospc.error()),
            Some(_) => (&bytes[..bytes.len() / 2], true),
        };
        if self.over_capacity(inode, kept, offset) {
            return Err(Failure::Enospc.error());
        }
        self.change(Op::Write { inode, id, offset, bytes: kept.into() });
        match fault {
            None => Ok(id),
            Some(how) => {
                if limbo {
                    self.log(Op::SyncFailed { inode });
                }
                Err(how.error())
            }
        }
    }

    fn end_write(&mut self, inode: u64, id: u64) -> io::Result<()> {
        match self.tick() {
            None => {
                self.log(Op::Durable { id });
                Ok(())
            }
            Some(how) => {
                self.log(Op::SyncFailed { inode });
                Err(how.error())
            }
        }
    }

    fn over_capacity(&self, inode: u64, bytes: &[u8], offset: u64) -> bool {
        let Some(capacity) = self.capacity else { return false };
        let pages = self.live.inodes.get(&inode).map_or(&[][..], |c| &c.pages[..]);
        let first = offset as usize / BLOCK;
        let last = (offset as usize + bytes.len()).div_ceil(BLOCK);
        let fresh = (first..last).filter(|&p| !matches!(pages.get(p), Some(Some(_)))).count();
        fresh > 0 && self.live.bytes() + (fresh * BLOCK) as u64 > capacity
    }

    fn collect(&mut self) {
        let mut used = self.live.named();
        used.extend(self.platter.durable.named());
        used.extend(self.open.keys());
        for (op, _) in &self.platter.pending {
            match op {
                Op::Create { inode, .. } | Op::Rename { inode, .. } | Op::Unlink { inode, .. } => {
                    used.insert(*inode);
                }
                _ => {}
            }
        }
        self.live.inodes.retain(|inode, _| used.contains(inode));
        self.platter.durable.inodes.retain(|inode, _| used.contains(inode));
        let durable = &self.platter.durable;
        self.platter.pending.retain(|(op, _)| match op.changes_inode() {
            Some(inode) => used.contains(&inode) || durable.inodes.contains_key(&inode),
            None => true,
        });
    }
}

#[derive(Debug)]
struct MemDir {
    disk: Disk,
    path: PathBuf,
}

impl MemDir {
    fn file(&self, state: &mut State, name: &str, inode: u64, access: Access) -> Arc<dyn File> {
        *state.open.entry(inode).or_default() += 1;
        Arc::new(MemFile { disk: self.disk.clone(), path: self.path.join(name), inode, access })
    }
}

impl Dir for MemDir {
    fn path(&self) -> &Path {
        &self.path
    }

    fn list(&self) -> io::Result<Vec<Entry>> {
        let state = self.disk.state();
        let mut entries: Vec<Entry> = state
            .live
            .dirs
            .get(&self.path)
            .into_iter()
            .flatten()
            .map(|(name, inode)| Entry {
                name: name.clone(),
                len: state.live.inodes.get(inode).map_or(0, |c| c.len),
                is_dir: false,
            })
            .collect();
        for path in state.live.dirs.keys() {
            if path.parent() == Some(&self.path)
                && path != &self.path
                && let Some(name) = path.file_name().and_then(|n| n.to_str())
            {
                entries.push(Entry { name: name.into(), len: 0, is_dir: true });
            }
        }
        entries.sort();
        Ok(entries)
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn File>> {
        let mut state = self.disk.state();
        let inode = state.lookup(&self.path, name)?;
        Ok(self.file(&mut state, name, inode, access))
    }

    fn create(&self, name: &str, access: Access) -> io::Result<Arc<dyn File>> {
        let mut state = self.disk.state();
        if let Some(how) = state.tick() {
            return Err(how.error());
        }
        if state.lookup(&self.path, name).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = state.next_inode;
        state.next_inode += 1;
        state.change(Op::Create { dir: self.path.clone(), name: name.into(), inode });
        Ok(self.file(&mut state, name, inode, Access { write: true, ..access }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.disk.state();
        if let Some(how) = state.tick() {
            return Err(how.error());
        }
        let inode = state.lookup(&self.path, from)?;
        state.change(Op::Rename { dir: self.path.clone(), from: from.into(), to: to.into(), inode });
        Ok(())
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        let mut state = self.disk.state();
        if let Some(how) = state.tick() {
            return Err(how.error());
        }
        let inode = state.lookup(&self.path, name)?;
        state.change(Op::Unlink { dir: self.path.clone(), name: name.into(), inode });
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        if let Some(how) = state.tick() {
            return Err(how.error());
        }
        state.log(Op::SyncDir { dir: self.path.clone() });
        state.collect();
        Ok(())
    }

    fn lock(&self, name: &str) -> io::Result<Lock> {
        let path = self.path.join(name);
        if !self.disk.state().locks.insert(path.clone()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Lock::new(MemLock { disk: self.disk.clone(), path }))
    }

    fn subdir(&self, name: &str) -> io::Result<Arc<dyn Dir>> {
        Ok(self.disk.dir(self.path.join(name)))
    }

    fn log_device(
        &self,
        kind: DeviceKind,
        shape: Shape,
        file: Arc<dyn File>,
    ) -> io::Result<Box<dyn LogDevice>> {
        if self.disk.state().refused.contains(&kind) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let slots = shape.slots();
        Ok(Box::new(MemDevice {
            kind,
            disk: self.disk.clone(),
            inode: inode_of(&file)?,
            file,
            slots,
            sent: VecDeque::new(),
        }))
    }
}

struct MemLock {
    disk: Disk,
    path: PathBuf,
}

impl Drop for MemLock {
    fn drop(&mut self) {
        self.disk.state().locks.remove(&self.path);
    }
}

fn inode_of(file: &Arc<dyn File>) -> io::Result<u64> {
    match file.handle() {
        Handle::Mem(inode) => Ok(inode),
        Handle::Os(_) => Err(io::ErrorKind::Unsupported.into()),
    }
}

struct MemFile {
    disk: Disk,
    path: PathBuf,
    inode: u64,
    access: Access,
}

impl fmt::Debug for MemFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemFile({}, {})", self.path.display(), self.inode)
    }
}

impl Drop for MemFile {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if let Some(n) = state.open.get_mut(&self.inode) {
            *n -= 1;
            if *n == 0 {
                state.open.remove(&self.inode);
            }
        }
    }
}

impl MemFile {
    fn check(&self, buf: &[u8], offset: u64, write: bool) -> io::Result<()> {
        let bad = !(buf.as_ptr() as usize as u64 | buf.len() as u64 | offset).is_multiple_of(BLOCK as u64);
        if (self.access.direct && bad) || (write && !self.access.write) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(())
    }
}

impl File for MemFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.check(buf, offset, false)?;
        let state = self.disk.state();
        let last = (offset + buf.len() as u64).div_ceil(SECTOR as u64);
        let range = (self.inode, offset / SECTOR as u64)..(self.inode, last);
        if state.bad_sectors.range(range).next().is_some() {
            return Err(Failure::Eio.error());
        }
        Ok(state.live.inodes.get(&self.inode).map_or(0, |c| c.read(buf, offset)))
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.check(buf, offset, true)?;
        self.disk.state().begin_write(self.inode, buf, offset).map(drop)
    }

    fn write_durable(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.check(buf, offset, true)?;
        let mut state = self.disk.state();
        let id = state.begin_write(self.inode, buf, offset)?;
        state.end_write(self.inode, id)
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        match state.tick() {
            None => {
                state.log(Op::Sync { inode: self.inode });
                Ok(())
            }
            Some(how) => {
                state.log(Op::SyncFailed { inode: self.inode });
                Err(how.error())
            }
        }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.state().live.inodes.get(&self.inode).map_or(0, |c| c.len))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        if let Some(how) = state.tick() {
            return Err(how.error());
        }
        state.change(Op::SetLen { inode: self.inode, len });
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let now = self.len()?;
        {
            let state = self.disk.state();
            if state.capacity.is_some_and(|c| state.live.bytes() + len.saturating_sub(now) > c) {
                return Err(Failure::Enospc.error());
            }
        }
        self.set_len(len.max(now))
    }

    fn handle(&self) -> Handle {
        Handle::Mem(self.inode)
    }
}

/// The device of the simulated disk: a submitted write is visible and pending, its completion makes it durable. Completions
/// come back out of order.
#[derive(Debug)]
struct MemDevice {
    kind: DeviceKind,
    disk: Disk,
    inode: u64,
    /// Keeps the inode alive.
    file: Arc<dyn File>,
    slots: Vec<AlignedBuf>,
    /// Slot and what its transfer said: the write's number.
    sent: VecDeque<(usize, io::Result<u64>)>,
}

impl MemDevice {
    fn assert_free(&self, slot: usize) {
        assert!(!self.sent.iter().any(|s| s.0 == slot), "slot {slot} is in flight");
    }
}

impl LogDevice for MemDevice {
    fn kind(&self) -> DeviceKind {
        self.kind
    }
    fn describe(&self) -> String {
        format!("{} (simulated, on {})", self.kind, self.file.path().display())
    }
    fn slots(&self) -> usize {
        self.slots.len()
    }
    fn in_flight(&self) -> usize {
        self.sent.len()
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
        assert!(self.sent.len() + 1 < self.slots.len(), "more writes than the depth");
        assert!(
            len.is_multiple_of(BLOCK) && offset.is_multiple_of(BLOCK as u64),
            "a device writes whole blocks"
        );
        let sent = self.disk.state().begin_write(self.inode, &self.slots[slot][..len], offset);
        self.sent.push_back((slot, sent));
        Ok(())
    }
    fn complete(&mut self) -> Option<Completion> {
        if self.sent.is_empty() {
            return None;
        }
        // In any order, yet the same one in every run.
        let at = usize::try_from(self.disk.ops() % 7919).expect("small") % self.sent.len();
        let (slot, sent) = self.sent.remove(at)?;
        let result = sent.and_then(|id| self.disk.state().end_write(self.inode, id));
        Some(Completion { slot, result })
    }
    fn switch_to(&mut self, file: Arc<dyn File>) -> io::Result<()> {
        assert!(self.sent.is_empty(), "writes are in flight");
        self.inode = inode_of(&file)?;
        self.file = file;
        Ok(())
    }
}
