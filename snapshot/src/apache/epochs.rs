//! `acceptedEpoch`, `currentEpoch` and `myid`: decimal text.

use crate::error::Error;
use crate::limits::SMALL_FILE_MAX;
use proto::{Epoch, ServerId, Zxid};
use std::fmt;
use std::io;
use vfs::{Access, Dir};

const ACCEPTED: &str = "acceptedEpoch";
const CURRENT: &str = "currentEpoch";
const CURRENT_TMP: &str = "currentEpoch.tmp";
const MYID: &str = "myid";

/// The epoch files as found beside the snapshots; what each means depends on the last zxid
/// ([`EpochFiles::resolve`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EpochFiles {
    /// The last epoch that this server promised a leader to follow.
    pub accepted: Option<Epoch>,
    /// The last epoch whose history this server took over.
    pub current: Option<Epoch>,
    /// The temporary file of `current`: a crash came before its rename.
    pub current_tmp: Option<Epoch>,
}

/// The epochs that an import starts with; `accepted >= current`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Epochs {
    /// Promised.
    pub accepted: Epoch,
    /// Taken over.
    pub current: Epoch,
}

/// Why the small files do not fit the data.
#[derive(Debug)]
#[non_exhaustive]
pub enum EpochError {
    /// The disk refused.
    Disk(Error),
    /// A file's first line is not a number that its field can hold.
    NotANumber {
        /// The file.
        path: String,
        /// What stands there, shortened.
        found: String,
    },
    /// The log is ahead of `currentEpoch`, and no temporary file explains it.
    CurrentBehindLog {
        /// In the file.
        current: Epoch,
        /// Of the last record.
        last: Zxid,
    },
    /// `acceptedEpoch` is older than `currentEpoch`.
    AcceptedBehindCurrent {
        /// In its file.
        accepted: Epoch,
        /// In its file.
        current: Epoch,
    },
}

impl fmt::Display for EpochError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EpochError::Disk(e) => e.fmt(f),
            EpochError::NotANumber { path, found } => {
                write!(f, "the first line of {path} is not a number in range: {found:?}")
            }
            EpochError::CurrentBehindLog { current, last } => {
                write!(f, "currentEpoch {current} is older than the last zxid {last}")
            }
            EpochError::AcceptedBehindCurrent { accepted, current } => {
                write!(f, "acceptedEpoch {accepted} is older than currentEpoch {current}")
            }
        }
    }
}

impl std::error::Error for EpochError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            EpochError::Disk(e) => e.source(),
            _ => None,
        }
    }
}

impl EpochFiles {
    /// Apache's checks at load (storage format, section 6.2), `last` being the last zxid of snapshot and log.
    pub fn resolve(&self, last: Zxid) -> Result<Epochs, EpochError> {
        let current = match (self.current, self.current_tmp) {
            (None, _) => last.epoch(),
            (Some(current), _) if last.epoch() <= current => current,
            // A crash between the first record of the epoch and the rename. The file must explain the record,
            // which Apache does not check.
            (Some(_), Some(tmp)) if last.epoch() <= tmp => tmp,
            (Some(current), _) => return Err(EpochError::CurrentBehindLog { current, last }),
        };
        let accepted = self.accepted.unwrap_or(last.epoch());
        if accepted < current {
            return Err(EpochError::AcceptedBehindCurrent { accepted, current });
        }
        Ok(Epochs { accepted, current })
    }
}

/// Reads the epoch files in `dir`, the `version-2` beside the snapshots.
pub fn read_epoch_files(dir: &dyn Dir) -> Result<EpochFiles, EpochError> {
    let epoch = |name| -> Result<Option<Epoch>, EpochError> {
        let Some((path, line)) = first_line(dir, name).map_err(EpochError::Disk)? else { return Ok(None) };
        match line.parse::<u32>() {
            Ok(epoch) => Ok(Some(Epoch(epoch))),
            Err(_) => Err(EpochError::NotANumber { path, found: line }),
        }
    };
    Ok(EpochFiles {
        accepted: epoch(ACCEPTED)?,
        current: epoch(CURRENT)?,
        current_tmp: tolerant(epoch(CURRENT_TMP))?,
    })
}

/// A temporary file may be torn: then it explains nothing.
fn tolerant(read: Result<Option<Epoch>, EpochError>) -> Result<Option<Epoch>, EpochError> {
    match read {
        Err(EpochError::NotANumber { .. }) => Ok(None),
        other => other,
    }
}

/// Reads `myid` in `data_dir` (the parent of `version-2`); `None` where there is none, as for a standalone
/// server.
pub fn read_myid(data_dir: &dyn Dir) -> Result<Option<ServerId>, EpochError> {
    let Some((path, line)) = first_line(data_dir, MYID).map_err(EpochError::Disk)? else { return Ok(None) };
    match line.parse() {
        Ok(id) => Ok(Some(ServerId(id))),
        Err(_) => Err(EpochError::NotANumber { path, found: line }),
    }
}

/// Writes the epoch files of an export, durably, `currentEpoch` last: until it is there no server takes the
/// directory for whole.
pub fn write_epochs(dir: &dyn Dir, epochs: Epochs) -> Result<(), Error> {
    assert!(epochs.current <= epochs.accepted, "what was taken over was promised before");
    write_small(dir, ACCEPTED, &epochs.accepted.to_string())?;
    write_small(dir, CURRENT, &epochs.current.to_string())
}

fn write_small(dir: &dyn Dir, name: &str, text: &str) -> Result<(), Error> {
    // Not `<name>.tmp`: Apache gives a leftover of that name a meaning.
    const TEMP: &str = "epoch-export.tmp";
    let path = dir.path().join(name).display().to_string();
    let io = |action| {
        let path = &path;
        move |e| Error::io(path, action, e)
    };
    match dir.unlink(TEMP) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io("remove the leftover of")(e)),
        _ => {}
    }
    let file = dir.create(TEMP, Access::WRITE).map_err(io("create"))?;
    file.write_at(text.as_bytes(), 0).map_err(io("write"))?;
    file.sync().map_err(io("sync"))?;
    dir.rename(TEMP, name).map_err(io("rename to"))?;
    dir.sync().map_err(io("sync the directory of"))
}

/// Path and first line, trimmed, of a small file.
fn first_line(dir: &dyn Dir, name: &str) -> Result<Option<(String, String)>, Error> {
    let path = dir.path().join(name).display().to_string();
    let file = match dir.open(name, Access::READ) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(&path, "open", e)),
    };
    let mut bytes = vec![0; SMALL_FILE_MAX as usize];
    let n = file.read_at(&mut bytes, 0).map_err(|e| Error::io(&path, "read", e))?;
    let text = String::from_utf8_lossy(&bytes[..n]);
    // Enough of a wrong line to recognise it.
    let line = text.lines().next().unwrap_or("").trim().chars().take(40).collect();
    Ok(Some((path, line)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use vfs::mem::Disk;

    fn files(accepted: Option<u32>, current: Option<u32>, tmp: Option<u32>) -> EpochFiles {
        EpochFiles { accepted: accepted.map(Epoch), current: current.map(Epoch), current_tmp: tmp.map(Epoch) }
    }

    #[test]
    fn the_table_of_checks_at_load() {
        let last = Zxid::new(Epoch(5), 9);
        let resolved = |a, c, t| files(a, c, t).resolve(last).map(|e| (e.accepted.0, e.current.0)).ok();
        assert_eq!(resolved(None, None, None), Some((5, 5)));
        assert_eq!(resolved(Some(6), None, None), Some((6, 5)));
        assert_eq!(resolved(Some(7), Some(6), None), Some((7, 6)));
        assert_eq!(resolved(Some(5), Some(4), None), None, "current behind the log");
        assert_eq!(resolved(Some(5), Some(4), Some(5)), Some((5, 5)));
        assert_eq!(resolved(Some(5), Some(4), Some(4)), None, "a temporary file that explains nothing");
        assert_eq!(resolved(Some(4), Some(4), Some(5)), None, "accepted behind the adopted current");
        assert_eq!(resolved(Some(5), Some(6), None), None, "accepted behind current");
        assert_eq!(resolved(None, Some(6), None), None, "accepted taken from the log, behind current");
    }

    #[test]
    fn files_are_read_by_their_first_line() {
        let dir = Disk::new().dir("version-2");
        let put = |name: &str, text: &str| {
            dir.create(name, Access::WRITE).unwrap().write_at(text.as_bytes(), 0).unwrap()
        };
        assert_eq!(read_epoch_files(&*dir).unwrap(), EpochFiles::default());
        put("acceptedEpoch", "7");
        put("currentEpoch", " 6 \nrest\n");
        put("currentEpoch.tmp", "");
        assert_eq!(read_epoch_files(&*dir).unwrap(), files(Some(7), Some(6), None));
        put("myid", "3\n");
        assert_eq!(read_myid(&*dir).unwrap(), Some(ServerId(3)));
        for wrong in ["x", "-1", "4294967296", "1 2"] {
            dir.unlink("currentEpoch").unwrap();
            put("currentEpoch", wrong);
            let e = read_epoch_files(&*dir).unwrap_err();
            assert!(matches!(&e, EpochError::NotANumber { found, .. } if found == wrong), "{e}");
        }
    }

    #[test]
    fn what_is_written_is_read_back_and_overwrites() {
        let disk = Disk::new();
        let dir = disk.dir("version-2");
        for n in [3, 4] {
            write_epochs(&*dir, Epochs { accepted: Epoch(n + 1), current: Epoch(n) }).unwrap();
            let after = disk.crash(&mut |_| false);
            let found = read_epoch_files(&*after.dir("version-2")).unwrap();
            assert_eq!(found, files(Some(n + 1), Some(n), None));
        }
    }
}
