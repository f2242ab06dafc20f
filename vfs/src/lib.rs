//! Directories, files and the log's device, with what each of them promises about power cuts.
//!
//! Everything that Falconer keeps goes through this crate, so that the same log and snapshot code runs on a
//! real disk and on a simulated one that forgets, tears and fails.
//!
//! Nouns: a [`Dir`] holds names, a [`File`] holds bytes, a [`LogDevice`] is the commit path of the log: it owns a few
//! aligned buffers ("slots"), writes one to a file durably, and says when it is there.
//!
//! ```text
//!   wal, snapshot ──► Dir ──► File          os::OsDir   a directory of the operating system
//!            │                              mem::Disk   the simulated disk: forgets what was not synced, tears, fails
//!            └──────► LogDevice             uring | pwritev2 | buffered | (simulated), chosen by choose_device()
//! ```
//!
//! Three rules hold for every implementation, and callers may rely on nothing else:
//!
//! 1. What was written is *visible* to later reads at once, and *durable* (survives a power cut) only after
//!    [`File::sync`], [`File::write_durable`] or [`LogDevice::complete`] said so. Until then any subset of its 512-byte
//!    sectors may survive.
//! 2. A name that was created, renamed or unlinked is durable only after [`Dir::sync`]. Until then any subset of such
//!    changes may survive; each by itself is atomic.
//! 3. After an error from a write or a sync nothing is known about what was not yet durable, and asking again proves
//!    nothing ("fsyncgate": Linux marks pages clean after a failed writeback). The caller gives up for good.
//!
//! Not here: any knowledge of formats, any policy, any thread.

mod buf;
mod device;
pub mod limits;
pub mod mem;
pub mod os;
#[expect(unsafe_code, reason = "the one fenced module: system calls that std lacks, and the ring")]
mod sys;
mod uring;

pub use buf::AlignedBuf;
pub use device::{Choice, Chosen, Completion, DeviceKind, LogDevice, Shape, choose_device};

use std::any::Any;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// The unit of direct I/O: buffers, offsets and lengths of direct files are multiples of it.
pub const BLOCK: usize = 4096;

/// What survives or is lost as a whole in a power cut (rule 1).
pub const SECTOR: usize = 512;

/// `n` rounded up to whole blocks.
pub const fn block_up(n: usize) -> usize {
    n.div_ceil(BLOCK) * BLOCK
}

/// How a file is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    /// Writing is allowed too.
    pub write: bool,
    /// Past the page cache (`O_DIRECT`): addresses, offsets and lengths must be multiples of [`BLOCK`].
    pub direct: bool,
}

impl Access {
    /// Read only, through the page cache.
    pub const READ: Access = Access { write: false, direct: false };
    /// Read and write, through the page cache.
    pub const WRITE: Access = Access { write: true, direct: false };
    /// Read only, past the page cache.
    pub const READ_DIRECT: Access = Access { write: false, direct: true };
    /// Read and write, past the page cache.
    pub const WRITE_DIRECT: Access = Access { write: true, direct: true };
}

/// A name in a directory.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Entry {
    /// The name, without the directory. Names that are not UTF-8 are left out of listings: none of them is ours.
    pub name: String,
    /// Bytes of the file at the time of listing; 0 for a directory.
    pub len: u64,
    /// It is a directory.
    pub is_dir: bool,
}

/// Held as long as the directory belongs to this process; freed on drop and on death.
pub struct Lock(#[expect(dead_code, reason = "held for its drop")] Box<dyn Any + Send + Sync>);

impl Lock {
    fn new(held: impl Any + Send + Sync) -> Lock {
        Lock(Box::new(held))
    }
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lock")
    }
}

/// One directory: names of files, and directories below it.
pub trait Dir: Send + Sync + fmt::Debug {
    /// Where it is, for messages.
    fn path(&self) -> &Path;

    /// All names, sorted.
    fn list(&self) -> io::Result<Vec<Entry>>;

    /// Opens a file that exists; `NotFound` otherwise. `InvalidInput` where `access.direct` is refused by the file system.
    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn File>>;

    /// Makes an empty file; `AlreadyExists` if the name is taken. The name is durable after [`Dir::sync`].
    fn create(&self, name: &str, access: Access) -> io::Result<Arc<dyn File>>;

    /// Gives a file another name in this directory, atomically replacing a file that has it. Durable after [`Dir::sync`];
    /// the file's *content* is as durable as it was.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a name; `NotFound` if there is none. Durable after [`Dir::sync`]. Open files stay readable.
    fn unlink(&self, name: &str) -> io::Result<()>;

    /// Returns when every create, rename and unlink before this call is durable.
    fn sync(&self) -> io::Result<()>;

    /// Takes the lock file `name` (made if missing) for this process; `WouldBlock` if another one holds it.
    fn lock(&self, name: &str) -> io::Result<Lock>;

    /// The directory `name` below this one, made if missing; it exists durably when this returns.
    fn subdir(&self, name: &str) -> io::Result<Arc<dyn Dir>>;

    /// Makes a device of `kind` that writes to `file`. An error says that this kind does not work here.
    fn log_device(
        &self,
        kind: DeviceKind,
        shape: Shape,
        file: Arc<dyn File>,
    ) -> io::Result<Box<dyn LogDevice>>;
}

/// One open file. Methods may be called from several threads; writes to overlapping ranges at the same time are the
/// caller's mistake.
pub trait File: Send + Sync + fmt::Debug {
    /// The name under which it was opened, for messages; a rename does not change it.
    fn path(&self) -> &Path;

    /// Reads up to `buf.len()` bytes; fewer only at the end of the file, 0 behind it. Sees every write that returned.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `buf`. Visible when this returns, durable only after [`File::sync`]. Extends the file if needed.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;

    /// Writes all of `buf` and returns when it is durable, the length of the file included. Other writes may or may not be
    /// durable as well. A write that moved fewer bytes is an error (`WriteZero`), never continued.
    fn write_durable(&self, buf: &[u8], offset: u64) -> io::Result<()>;

    /// Returns when all that was written to this file before the call, by anyone, and its length are durable. Its name is
    /// not: see [`Dir::sync`].
    fn sync(&self) -> io::Result<()>;

    /// Bytes in the file now.
    fn len(&self) -> io::Result<u64>;

    /// Whether it has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Cuts or extends (with zeros) the file. Durable after [`File::sync`].
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Reserves space for the first `len` bytes and extends the file to it, where the file system can; `StorageFull` when
    /// there is none. The blocks read as zeros but are not *written*: a first write to them still costs metadata.
    fn allocate(&self, len: u64) -> io::Result<()>;

    /// What a device needs to write to this file.
    fn handle(&self) -> Handle;

    /// Fills `buf` or fails with `UnexpectedEof`.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < buf.len() {
            match self.read_at(&mut buf[done..], offset + done as u64)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => done += n,
            }
        }
        Ok(())
    }
}

/// What stands behind a [`File`]: only devices look at it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Handle {
    /// A file descriptor of the operating system, open as long as the [`File`] lives.
    Os(std::os::fd::RawFd),
    /// A file of the simulated disk.
    Mem(u64),
}
