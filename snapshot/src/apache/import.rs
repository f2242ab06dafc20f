//! What an import has to do, found out without doing it: which snapshot, which logs, how far the logs must
//! reach.

use super::read::{Summary, precheck, verify};
use super::{EpochError, EpochFiles, parse_name, read_epoch_files, zxid_in_name};
use crate::catalogue::Skipped;
use crate::error::Error;
use crate::limits::CONSIDERED_MAX;
use proto::Zxid;
use std::fmt;
use vfs::Dir;

/// A snapshot by its name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Candidate {
    /// The zxid in the name: all up to it is inside.
    pub zxid: Zxid,
    /// The file's name.
    pub name: String,
}

/// A log by its name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LogFile {
    /// The zxid in the name: that of its first record.
    pub first: Zxid,
    /// The file's name.
    pub name: String,
}

/// From what an import starts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Start {
    /// From this snapshot, which has been read through and found whole.
    Snapshot(Candidate, Summary),
    /// From an empty tree, with logs: only where the operator said that no snapshot is to be trusted as
    /// empty.
    EmptyTree,
    /// There is nothing to import.
    Nothing,
}

/// The plan.
#[derive(Debug)]
pub struct ImportPlan {
    /// From what.
    pub start: Start,
    /// The logs to replay, oldest first: the one that begins at or before the first zxid needed, and all
    /// later ones. Records at or before the start's zxid in them are to be passed over.
    pub logs: Vec<LogFile>,
    /// Newer snapshots that could not be used, newest first. Reading them cost their time; say so.
    pub skipped: Vec<Skipped>,
    /// The replay must reach at least this zxid without a hole, or the import is to be refused: a snapshot of
    /// that name existed, so the state got that far, and an older log may end in records that were abandoned
    /// (storage format, trap S35).
    pub must_reach: Zxid,
    /// The epoch files; to be resolved with the last zxid replayed.
    pub epochs: EpochFiles,
}

/// Why there is no plan.
#[derive(Debug)]
#[non_exhaustive]
pub enum ImportError {
    /// The disk refused.
    Disk(Error),
    /// There are logs, and no snapshot to start from: Apache would refuse too. An empty directory that was
    /// once full looks like this.
    LogsWithoutSnapshot {
        /// How many logs.
        logs: usize,
        /// What bore the name of a snapshot, if anything.
        skipped: Vec<Skipped>,
    },
    /// There are snapshots, none whole, and no logs.
    NoneValid {
        /// Why, for each, newest first.
        skipped: Vec<Skipped>,
    },
    /// The epoch files are wrong.
    Epochs(EpochError),
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let newest = |f: &mut fmt::Formatter<'_>, skipped: &[Skipped]| match skipped.first() {
            None => Ok(()),
            Some(s) => write!(f, "; of {} damaged ones the newest: {}", skipped.len(), s.why),
        };
        match self {
            ImportError::Disk(e) => e.fmt(f),
            ImportError::LogsWithoutSnapshot { logs, skipped } => {
                write!(f, "no usable snapshot, but {logs} logs")?;
                newest(f, skipped)
            }
            ImportError::NoneValid { skipped } => {
                write!(f, "no usable snapshot")?;
                newest(f, skipped)
            }
            ImportError::Epochs(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for ImportError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ImportError::Disk(e) => e.source(),
            ImportError::Epochs(e) => e.source(),
            ImportError::LogsWithoutSnapshot { .. } | ImportError::NoneValid { .. } => None,
        }
    }
}

/// The snapshots in `dir` by name, newest first.
pub fn list_snapshots(dir: &dyn Dir) -> Result<Vec<Candidate>, Error> {
    let mut found: Vec<Candidate> =
        names(dir)?.filter_map(|name| parse_name(&name).map(|(zxid, _)| Candidate { zxid, name })).collect();
    found.sort_by(|a, b| b.cmp(a));
    Ok(found)
}

/// The logs in `dir` by name, oldest first.
pub fn list_logs(dir: &dyn Dir) -> Result<Vec<LogFile>, Error> {
    let log = |name: String| Some(LogFile { first: zxid_in_name(&name, "log")?, name });
    // Only two parts: "log.5.bak" is somebody's copy.
    let mut found: Vec<LogFile> =
        names(dir)?.filter(|name| name.matches('.').count() == 1).filter_map(log).collect();
    found.sort();
    Ok(found)
}

/// Chooses the newest snapshot in `dir` (the `version-2` of dataDir) that is whole, of up to 100, and says
/// what is to be replayed from `log_dir` (the `version-2` of dataLogDir; the same where none is set). Reads
/// each snapshot that it tries to its end. `trust_empty`: without any snapshot start from an empty tree
/// (`zookeeper.snapshot.trust.empty`). Changes nothing.
pub fn plan_import(dir: &dyn Dir, log_dir: &dyn Dir, trust_empty: bool) -> Result<ImportPlan, ImportError> {
    let candidates = list_snapshots(dir).map_err(ImportError::Disk)?;
    let all_logs = list_logs(log_dir).map_err(ImportError::Disk)?;
    let epochs = read_epoch_files(dir).map_err(ImportError::Epochs)?;
    let must_reach = candidates.first().map_or(Zxid::ZERO, |newest| newest.zxid);
    let mut skipped = Vec::new();
    let mut considered = 0;
    for candidate in candidates {
        // As upstream the hundred are those that pass the quick check.
        if considered == CONSIDERED_MAX {
            break;
        }
        let tried = precheck(dir, &candidate.name).and_then(|()| {
            considered += 1;
            verify(dir, &candidate.name)
        });
        match tried {
            Ok(summary) => {
                let logs = logs_after(all_logs, candidate.zxid);
                return Ok(ImportPlan {
                    start: Start::Snapshot(candidate, summary),
                    logs,
                    skipped,
                    must_reach,
                    epochs,
                });
            }
            Err(why) => skipped.push(Skipped { name: candidate.name, start: candidate.zxid, why }),
        }
    }
    match (all_logs.len(), skipped.len()) {
        (0, 0) => Ok(ImportPlan { start: Start::Nothing, logs: Vec::new(), skipped, must_reach, epochs }),
        (0, _) => Err(ImportError::NoneValid { skipped }),
        // Only where no snapshot was ever there: a damaged one is no reason to forget that there was one.
        (_, 0) if trust_empty => {
            Ok(ImportPlan { start: Start::EmptyTree, logs: all_logs, skipped, must_reach, epochs })
        }
        (logs, _) => Err(ImportError::LogsWithoutSnapshot { logs, skipped }),
    }
}

/// Of `logs`, oldest first, those that may hold records after `zxid`: the last that begins at or before the
/// next one, and all later.
fn logs_after(mut logs: Vec<LogFile>, zxid: Zxid) -> Vec<LogFile> {
    let next = Zxid::from_u64(zxid.as_u64().saturating_add(1));
    let begin_before = logs.partition_point(|log| log.first <= next);
    logs.split_off(begin_before.saturating_sub(1))
}

fn names(dir: &dyn Dir) -> Result<impl Iterator<Item = String>, Error> {
    let entries = dir.list().map_err(|e| Error::io(&dir.path().display().to_string(), "list", e))?;
    Ok(entries.into_iter().filter(|entry| !entry.is_dir).map(|entry| entry.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logs_needed_begin_with_the_one_that_holds_the_next_zxid() {
        let logs: Vec<LogFile> = [1, 0x108, 0x1a8]
            .map(|z| LogFile { first: Zxid::from_u64(z), name: format!("log.{z:x}") })
            .into();
        let after = |z| -> Vec<u64> {
            logs_after(logs.clone(), Zxid::from_u64(z)).iter().map(|log| log.first.as_u64()).collect()
        };
        assert_eq!(after(0), [1, 0x108, 0x1a8]);
        assert_eq!(after(0x106), [1, 0x108, 0x1a8]);
        assert_eq!(after(0x107), [0x108, 0x1a8]);
        assert_eq!(after(0x1a7), [0x1a8]);
        assert_eq!(after(0xfff), [0x1a8]);
        assert_eq!(logs_after(Vec::new(), Zxid::ZERO), []);
    }
}
