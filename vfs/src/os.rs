//! Directories and files of the operating system, priorities of threads, and the heap.

use crate::device::Blocking;
use crate::{Access, BLOCK, DeviceKind, Dir, Entry, File, Handle, Lock, LogDevice, Shape, sys, uring::Uring};
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub use sys::{can_step_back, heap, raise_priority, run_when_idle};

/// A directory.
#[derive(Debug)]
pub struct OsDir {
    path: PathBuf,
}

impl OsDir {
    /// The directory at `path`, made with its parents if missing; each name made is durable when this returns.
    pub fn open(path: impl Into<PathBuf>) -> io::Result<OsDir> {
        let path = path.into();
        make_durably(&path)?;
        Ok(OsDir { path })
    }

    /// The directory at `path`, which must exist: for readers, who change nothing.
    pub fn existing(path: impl Into<PathBuf>) -> io::Result<OsDir> {
        let path = path.into();
        match fs::metadata(&path)?.is_dir() {
            true => Ok(OsDir { path }),
            false => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    fn options(access: Access) -> fs::OpenOptions {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(access.write).mode(0o640);
        if access.direct {
            options.custom_flags(libc::O_DIRECT);
        }
        options
    }

    fn file(&self, name: &str, access: Access, file: fs::File) -> Arc<dyn File> {
        Arc::new(OsFile { path: self.path.join(name), file, access, no_dsync: AtomicBool::new(false) })
    }
}

fn make_durably(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(p) if p.as_os_str().is_empty() => Path::new("."),
        Some(p) => p,
        None => return Err(io::ErrorKind::NotFound.into()),
    };
    make_durably(parent)?;
    match fs::create_dir(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    fs::File::open(parent)?.sync_all()
}

impl Dir for OsDir {
    fn path(&self) -> &Path {
        &self.path
    }

    fn list(&self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            match fs::metadata(entry.path()) {
                Ok(meta) => {
                    let is_dir = meta.is_dir();
                    entries.push(Entry { name, len: if is_dir { 0 } else { meta.len() }, is_dir });
                }
                // Renamed or removed by a running server while a tool reads.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        entries.sort();
        Ok(entries)
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn File>> {
        let file = Self::options(access).open(self.path.join(name))?;
        Ok(self.file(name, access, file))
    }

    fn create(&self, name: &str, access: Access) -> io::Result<Arc<dyn File>> {
        let file =
            Self::options(Access { write: true, ..access }).create_new(true).open(self.path.join(name))?;
        Ok(self.file(name, Access { write: true, ..access }, file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync(&self) -> io::Result<()> {
        fs::File::open(&self.path)?.sync_all()
    }

    fn lock(&self, name: &str) -> io::Result<Lock> {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o640)
            .open(self.path.join(name))?;
        match file.try_lock() {
            Ok(()) => Ok(Lock::new(file)),
            Err(fs::TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(fs::TryLockError::Error(e)) => Err(e),
        }
    }

    fn subdir(&self, name: &str) -> io::Result<Arc<dyn Dir>> {
        Ok(Arc::new(OsDir::open(self.path.join(name))?))
    }

    fn log_device(
        &self,
        kind: DeviceKind,
        shape: Shape,
        file: Arc<dyn File>,
    ) -> io::Result<Box<dyn LogDevice>> {
        match kind {
            DeviceKind::Pwritev2 | DeviceKind::Buffered => Ok(Box::new(Blocking::new(kind, shape, file))),
            DeviceKind::Uring => Ok(Box::new(Uring::new(shape, file, has_fua(&self.path))?)),
        }
    }
}

/// Whether the device under `path` makes a single write durable by itself (Force Unit Access), so that no separate flush is
/// needed. `false` when the system does not tell.
fn has_fua(path: &Path) -> bool {
    let Ok(meta) = fs::metadata(path) else { return false };
    let (major, minor) = (libc::major(meta.dev()), libc::minor(meta.dev()));
    let device = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    // A partition has no queue of its own: its parent has.
    ["queue/fua", "../queue/fua"]
        .iter()
        .find_map(|tail| fs::read_to_string(device.join(tail)).ok())
        .is_some_and(|text| text.trim() == "1")
}

/// A file.
#[derive(Debug)]
struct OsFile {
    path: PathBuf,
    file: fs::File,
    access: Access,
    /// The kernel or file system refused `RWF_DSYNC` once: write, then `fdatasync`.
    no_dsync: AtomicBool,
}

impl OsFile {
    fn check_alignment(&self, address: *const u8, len: usize, offset: u64) -> io::Result<()> {
        let block = BLOCK as u64;
        let bad = !(address as usize as u64 | len as u64 | offset).is_multiple_of(block);
        if self.access.direct && bad {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "direct I/O of an unaligned range: a mistake of the caller",
            ));
        }
        Ok(())
    }
}

impl File for OsFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.check_alignment(buf.as_ptr(), buf.len(), offset)?;
        let mut done = 0;
        while done < buf.len() {
            match self.file.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // The unaligned end of a direct file.
                Err(_) if done > 0 && self.access.direct && offset + done as u64 >= self.len()? => break,
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.check_alignment(buf.as_ptr(), buf.len(), offset)?;
        self.file.write_all_at(buf, offset)
    }

    fn write_durable(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.check_alignment(buf.as_ptr(), buf.len(), offset)?;
        if self.access.direct && !self.no_dsync.load(Ordering::Relaxed) {
            match sys::pwrite_dsync(&self.file, buf, offset) {
                Ok(n) if n == buf.len() => return Ok(()),
                Ok(n) => return Err(short(n, buf.len())),
                Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                    self.no_dsync.store(true, Ordering::Relaxed)
                }
                Err(e) => return Err(e),
            }
        }
        let n = loop {
            match self.file.write_at(buf, offset) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        if n != buf.len() {
            return Err(short(n, buf.len()));
        }
        self.file.sync_data()
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        match sys::allocate(&self.file, len) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL)) => {
                self.file.set_len(len)
            }
            other => other,
        }
    }

    fn handle(&self) -> Handle {
        Handle::Os(self.file.as_raw_fd())
    }
}

/// The error of a write that moved fewer bytes than asked.
pub(crate) fn short(moved: usize, wanted: usize) -> io::Error {
    io::Error::new(io::ErrorKind::WriteZero, format!("short write: {moved} of {wanted} bytes"))
}
