//! Cutting a history short: log and snapshots together.

use crate::error::Error;
use crate::log::Appender;
use crate::superblock::Superblock;
use proto::{Durable, Zxid};

/// Cuts log and snapshots behind `after`. If there is a snapshot of just that state, the log begins anew behind it; if what is
/// left does not reach back to a snapshot, everything goes, since only a whole copy of another server's state can help then.
/// Returns where the log ends.
///
/// `keep_upto` removes, durably, the snapshots that reach further than the zxid that it is given, and returns where the newest
/// of those that stay begins and ends.
///
/// | crash | what the next start finds |
/// |---|---|
/// | before the first write of the superblock | nothing has happened |
/// | before the last | the cut is asked for ([`crate::Contents::cut`]): the start does all of it again, whatever was done |
///
/// # Errors
/// Those of the disk; the cut is asked for, and the next start finishes it.
pub fn cut<E: From<Error>>(
    appender: &mut Appender,
    superblock: &mut Superblock,
    after: Zxid,
    mut keep_upto: impl FnMut(Zxid) -> Result<Option<(Zxid, Zxid)>, E>,
) -> Result<Durable, E> {
    superblock.begin_cut(after)?;
    let durable = match keep_upto(after)? {
        Some((start, end)) if start == after && end == after => appender.begin_anew(after, superblock)?,
        Some((start, _)) if start >= appender.base() => appender.truncate_after(after, superblock)?,
        _ if appender.base() == Zxid::ZERO => appender.truncate_after(after, superblock)?,
        _ => {
            // First of all: once the log is empty nobody can tell any more that it held something, and a server that counts would
            // vote with nothing.
            superblock.set_blank()?;
            keep_upto(Zxid::ZERO)?;
            appender.begin_anew(Zxid::ZERO, superblock)?
        }
    };
    superblock.end_cut()?;
    Ok(durable)
}
