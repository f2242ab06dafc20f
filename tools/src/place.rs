//! Finds logs and snapshots behind the path that a person typed: a data directory, one of its folders, or a
//! file; Falconer's or Apache's.
//!
//! ```text
//!   dataDir/                 superblock, log/, snapshot/         Falconer
//!   dataDir/version-2/       log.<zxid>, snapshot.<zxid>[.gz]    Apache
//! ```
//!
//! Nothing is opened for writing here, and nothing is created.

use snapshot::apache::{Candidate, list_snapshots};
use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use vfs::os::OsDir;
use vfs::{Access, DeviceKind, Dir, Entry, File, Lock, LogDevice, Shape};
use wal::apache::LogFile;
use wal::{Root, Superblock};

/// What a segment of Falconer's log begins with.
const SEGMENT_MAGIC: &[u8] = b"FLCNSEG1";

/// Why nothing could be found.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The path can't be looked at.
    Path {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is nothing of the kind.
    Nothing {
        /// The path.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// One segment of Falconer's was named: only the chain of them makes sense.
    Segment {
        /// The path.
        path: PathBuf,
    },
    /// The superblock is unreadable.
    Superblock(wal::Error),
    /// A directory of logs can't be listed.
    Log(wal::Error),
    /// A directory of snapshots can't be listed.
    Snapshots(snapshot::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Path { path, source } => write!(f, "can't look at {}: {source}", path.display()),
            Error::Nothing { path, what: what @ "snapshot" } if path.join("superblock").exists() => write!(
                f,
                "no {what} in {} yet: the server writes one when snapCount or snapSizeLimitInKb say so; its log has everything",
                path.display()
            ),
            Error::Nothing { path, what } => write!(
                f,
                "no {what} in {}: name a data directory (dataDir or dataLogDir of zoo.cfg), its version-2, or a file",
                path.display()
            ),
            Error::Segment { path } => write!(
                f,
                "{} is one segment of a log, whose bounds its neighbours hold: name its directory instead",
                path.display()
            ),
            Error::Superblock(e) | Error::Log(e) => write!(f, "{e}"),
            Error::Snapshots(e) => write!(f, "{e}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Path { source, .. } => Some(source),
            Error::Superblock(e) | Error::Log(e) => Some(e),
            Error::Snapshots(e) => Some(e),
            Error::Nothing { .. } | Error::Segment { .. } => None,
        }
    }
}

/// Where a log is.
#[derive(Debug)]
pub enum LogPlace {
    /// Falconer's, all of a directory.
    Falconer {
        /// The folder of segments.
        dir: ReadOnly,
        /// From the superblock, where one was found: then missing segments are noticed.
        root: Option<Root>,
    },
    /// Apache's, some files of a directory, oldest first.
    Apache {
        /// The folder.
        dir: ReadOnly,
        /// Its logs.
        files: Vec<LogFile>,
    },
}

/// A snapshot's file.
#[derive(Clone, Debug)]
pub struct SnapshotPlace {
    /// The folder.
    pub dir: Arc<ReadOnly>,
    /// The file's name.
    pub name: String,
    /// Apache wrote it.
    pub apache: bool,
}

impl SnapshotPlace {
    /// The whole path.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join(&self.name)
    }
}

/// The log behind `path`; where a directory holds Falconer's and Apache's, Falconer's.
///
/// # Errors
/// When there is none.
pub fn log(path: &Path) -> Result<LogPlace, Error> {
    let meta = fs::metadata(path).map_err(|source| Error::Path { path: path.into(), source })?;
    if !meta.is_dir() {
        if starts_with(path, SEGMENT_MAGIC) {
            return Err(Error::Segment { path: path.into() });
        }
        let (dir, name) = split(path)?;
        let dir = ReadOnly { only: Some(name), ..dir };
        let files = wal::apache::list(&dir).map_err(Error::Log)?;
        return match files.is_empty() {
            true => Err(Error::Nothing { path: path.into(), what: "log" }),
            false => Ok(LogPlace::Apache { dir, files }),
        };
    }
    for folder in [path.to_path_buf(), path.join("log")] {
        if holds_segments(&folder) {
            let root = root_of(&folder)?;
            return Ok(LogPlace::Falconer { dir: open(&folder)?, root });
        }
    }
    for folder in [path.to_path_buf(), path.join("version-2")] {
        let Ok(dir) = open(&folder) else { continue };
        let files = wal::apache::list(&dir).map_err(Error::Log)?;
        if !files.is_empty() {
            return Ok(LogPlace::Apache { dir, files });
        }
    }
    Err(Error::Nothing { path: path.into(), what: "log" })
}

/// The snapshots behind `path`, newest first; where a directory holds Falconer's and Apache's, Falconer's.
///
/// # Errors
/// When there is none.
pub fn snapshots(path: &Path) -> Result<Vec<SnapshotPlace>, Error> {
    let meta = fs::metadata(path).map_err(|source| Error::Path { path: path.into(), source })?;
    if !meta.is_dir() {
        let (dir, name) = split(path)?;
        let apache = is_apaches(path, &name);
        return Ok(vec![SnapshotPlace { dir: Arc::new(dir), name, apache }]);
    }
    let mut found = Vec::new();
    for folder in [path.join("snapshot"), path.to_path_buf(), path.join("version-2")] {
        let Ok(dir) = open(&folder).map(Arc::new) else { continue };
        for Candidate { name, .. } in list_snapshots(&*dir).map_err(Error::Snapshots)? {
            let apache = is_apaches(&folder.join(&name), &name);
            found.push(SnapshotPlace { dir: dir.clone(), name, apache });
        }
        if !found.is_empty() {
            return Ok(found);
        }
    }
    Err(Error::Nothing { path: path.into(), what: "snapshot" })
}

/// Apache's begin with their magic or are compressed as a whole; a file that begins with nothing known is
/// judged by where it lies.
fn is_apaches(path: &Path, name: &str) -> bool {
    name.ends_with(".gz")
        || name.ends_with(".snappy")
        || starts_with(path, snapshot::apache::MAGIC)
        || (!starts_with(path, snapshot::format::MAGIC)
            && path.parent().is_some_and(|p| p.file_name().is_some_and(|n| n == "version-2")))
}

fn holds_segments(folder: &Path) -> bool {
    let Ok(entries) = fs::read_dir(folder) else { return false };
    entries.flatten().any(|e| {
        let name = e.file_name();
        // A segment keeps the name of a spare until there is time to rename it.
        ["log.", "spare."].iter().any(|prefix| name.to_string_lossy().starts_with(prefix))
            && starts_with(&e.path(), SEGMENT_MAGIC)
    })
}

/// The superblock lies beside the folder, in the data directory. With a dataLogDir of its own it lies elsewhere:
/// then the log is taken as it is found.
pub(crate) fn root_of(folder: &Path) -> Result<Option<Root>, Error> {
    let parent = folder.join("..");
    match OsDir::existing(parent) {
        Ok(dir) => Ok(Superblock::peek(&ReadOnly { inner: dir, only: None })
            .map_err(Error::Superblock)?
            .map(|c| c.root())),
        Err(_) => Ok(None),
    }
}

fn starts_with(path: &Path, magic: &[u8]) -> bool {
    let mut found = vec![0; magic.len()];
    fs::File::open(path).and_then(|mut f| f.read_exact(&mut found)).is_ok() && found == magic
}

fn split(path: &Path) -> Result<(ReadOnly, String), Error> {
    let nothing = || Error::Nothing { path: path.into(), what: "file" };
    let name = path.file_name().and_then(|n| n.to_str()).ok_or_else(nothing)?.to_string();
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok((open(parent)?, name))
}

fn open(path: &Path) -> Result<ReadOnly, Error> {
    match OsDir::existing(path) {
        Ok(inner) => Ok(ReadOnly { inner, only: None }),
        Err(source) => Err(Error::Path { path: path.into(), source }),
    }
}

/// A directory that nothing can be written to through it: whatever a reader below does, what it inspects stays
/// as it is. Shows all names, or a single one.
#[derive(Debug)]
pub struct ReadOnly {
    inner: OsDir,
    only: Option<String>,
}

impl ReadOnly {
    fn refused<T>(&self) -> io::Result<T> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
}

impl Dir for ReadOnly {
    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn list(&self) -> io::Result<Vec<Entry>> {
        let mut entries = self.inner.list()?;
        entries.retain(|e| self.only.as_ref().is_none_or(|only| e.name == *only));
        Ok(entries)
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn File>> {
        match access.write {
            true => self.refused(),
            false => self.inner.open(name, access),
        }
    }

    fn create(&self, _name: &str, _access: Access) -> io::Result<Arc<dyn File>> {
        self.refused()
    }

    fn rename(&self, _from: &str, _to: &str) -> io::Result<()> {
        self.refused()
    }

    fn unlink(&self, _name: &str) -> io::Result<()> {
        self.refused()
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, _name: &str) -> io::Result<Lock> {
        self.refused()
    }

    fn subdir(&self, _name: &str) -> io::Result<Arc<dyn Dir>> {
        self.refused()
    }

    fn log_device(
        &self,
        _kind: DeviceKind,
        _shape: Shape,
        _file: Arc<dyn File>,
    ) -> io::Result<Box<dyn LogDevice>> {
        self.refused()
    }
}
