//! What the disk under the log is worth, in one line, beside the start: a few durable writes of 4 KiB to a file of its own.
//!
//! It runs while the server recovers and holds nothing up: a disk that takes long only makes the line come late. For more
//! than a line there is `falconer disk`.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vfs::{Access, Dir};

/// Writes that are timed, after one that takes the space.
const WRITES: usize = 16;

/// No further write begins after this long: the check may cost this much, and one write of a slow disk.
const BUDGET: Duration = Duration::from_millis(30);

/// The file, which is gone afterwards.
const NAME: &str = "disk-check.tmp";

/// What the writes say of a disk. The bounds of the grades are those of `falconer disk`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Grade {
    /// Below a millisecond.
    Excellent,
    /// Below ten milliseconds.
    Good,
    /// Commits will be slow; elections and sessions suffer now and then.
    Poor,
    /// Not for a log.
    Unfit,
}

/// The disk that a directory lies on.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Disk {
    /// The kind of its file system.
    pub kind: String,
    /// What is mounted.
    pub source: String,
    /// Whether it turns.
    pub spinning: bool,
    /// Its number, `major:minor`.
    pub number: String,
}

impl Disk {
    /// The disk under `dir`, by the longest mount point above it.
    pub fn under(dir: &Path) -> Disk {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let dir = std::fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
        let mut disk = Disk::find(&mounts, &dir);
        let queue = |path: String| std::fs::read_to_string(path).ok().map(|t| t.trim() == "1");
        let device = format!("/sys/dev/block/{}", disk.number);
        disk.spinning = queue(format!("{device}/queue/rotational"))
            // A partition: its disk is the directory above.
            .or_else(|| queue(format!("{device}/../queue/rotational")))
            .unwrap_or(false)
            // Virtual disks are said to turn, whatever is behind them.
            && !["/dev/vd", "/dev/xvd"].iter().any(|d| disk.source.starts_with(d));
        disk
    }

    fn find(mounts: &str, dir: &Path) -> Disk {
        let mount = |line: &str| {
            let (left, right) = line.split_once(" - ")?;
            let left: Vec<&str> = left.split(' ').collect();
            let mut right = right.split(' ');
            let point = left.get(4)?.replace("\\040", " ");
            let found = dir.starts_with(&point);
            let kind = right.next()?.to_owned();
            let source = right.next().unwrap_or_default().to_owned();
            let number = (*left.get(2)?).to_owned();
            found.then_some((point.len(), Disk { kind, source, spinning: false, number }))
        };
        // Of two mounts on one point the later one is seen.
        mounts.lines().filter_map(mount).max_by_key(|(len, _)| *len).map(|(_, disk)| disk).unwrap_or_default()
    }

    /// Why this is no place for what must survive; `None`: nothing speaks against it.
    fn objection(&self) -> Option<&'static str> {
        Some(match self.kind.as_str() {
            "tmpfs" | "ramfs" => "it lies in memory: nothing survives a restart of the machine",
            "overlay" | "aufs" => "it is the writable layer of a container: it goes with it, use a volume",
            "nfs" | "nfs4" | "cifs" | "smb3" | "9p" => {
                "it lies across a network: every commit waits for that, and a server that can't reach it ends"
            }
            kind if kind.starts_with("fuse") => {
                "it is served by a program: whether a flush reaches a disk is up to that"
            }
            _ => return None,
        })
    }
}

/// Below this a flush never reached a medium that turns, or no medium at all.
const SUSPICIOUS_SPINNING: Duration = Duration::from_millis(2);
const SUSPICIOUS: Duration = Duration::from_micros(15);

/// The verdict in one line, and whether it is a warning.
pub fn verdict(disk: &Disk, times: &[Duration], same_as_data: bool) -> (bool, String) {
    let mut times = times.to_vec();
    times.sort_unstable();
    let (Some(&median), Some(&slowest)) = (times.get(times.len() / 2), times.last()) else {
        return (
            true,
            format!("disk of the log: {} on {}: it could not be written to", disk.kind, disk.source),
        );
    };
    let ms = |d: Duration| d.as_secs_f64() * 1e3;
    // One that is slow among sixteen is as likely the scheduler's doing, unless it took longer than that explains.
    let high = times[times.len() * 9 / 10];
    let grade = match (high.as_millis(), slowest.as_millis()) {
        (_, 1000..) => Grade::Unfit,
        (0, _) => Grade::Excellent,
        (1..10, _) => Grade::Good,
        _ => Grade::Poor,
    };
    let word = match grade {
        Grade::Excellent => "excellent for a log",
        Grade::Good => "good for a log",
        Grade::Poor => "slow for a log: commits take that long",
        Grade::Unfit => "not fit for a log: it stalls longer than a heartbeat",
    };
    let mut text = format!(
        "disk of the log: {} on {}, a durable 4 KiB write takes {:.2} ms (slowest of {} {:.2} ms): {word}",
        disk.kind,
        disk.source,
        ms(median),
        times.len(),
        ms(slowest)
    );
    let suspicious = median < if disk.spinning { SUSPICIOUS_SPINNING } else { SUSPICIOUS };
    let mut warning = grade >= Grade::Poor;
    if let Some(objection) = disk.objection() {
        text.push_str(&format!("; {objection}"));
        warning = true;
    } else if suspicious {
        text.push_str("; too fast to be true: make sure that a flush survives a power cut");
        warning = true;
    }
    if disk.spinning && same_as_data {
        text.push_str(
            "; snapshots share this disk, and it turns: a dataLogDir of its own keeps commits even",
        );
    }
    (warning, text)
}

/// Times a few durable writes.
fn measure(dir: &dyn Dir) -> std::io::Result<Vec<Duration>> {
    // Of a check that was cut off.
    let _ = dir.unlink(NAME);
    let file = dir.create(NAME, Access::WRITE)?;
    let block = [0x5a_u8; vfs::BLOCK];
    let timed = (|| {
        // Space and name first: a log writes to prepared space.
        for i in 0..WRITES as u64 {
            file.write_at(&block, i * vfs::BLOCK as u64)?;
        }
        file.sync()?;
        let (began, mut times) = (Instant::now(), Vec::new());
        while times.len() < WRITES && began.elapsed() < BUDGET {
            let started = Instant::now();
            file.write_durable(&block, (times.len() * vfs::BLOCK) as u64)?;
            times.push(started.elapsed());
        }
        Ok(times)
    })();
    let _ = dir.unlink(NAME);
    timed
}

/// Looks at the disk under `log`, says so in the log, and returns the line.
pub fn run(log: &Arc<dyn Dir>, data: &Path) -> String {
    let disk = Disk::under(log.path());
    let same_as_data = Disk::under(data).number == disk.number;
    let (warning, text) = match measure(&**log) {
        Ok(times) => verdict(&disk, &times, same_as_data),
        Err(e) => (
            true,
            format!("disk of the log: {} on {}: it could not be looked at: {e}", disk.kind, disk.source),
        ),
    };
    if warning {
        tracing::warn!("{text}");
    } else {
        tracing::info!("{text}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 254:1 / / rw,relatime - ext4 /dev/vda1 rw
30 22 0:25 / /tmp rw - tmpfs tmpfs rw
31 22 8:16 / /data/zoo\\040keeper rw shared:1 - xfs /dev/sdb rw
32 22 0:40 / /data/nfs rw - nfs4 host:/x rw";

    #[test]
    fn the_disk_is_that_of_the_longest_mount_point() {
        for (dir, kind, source) in [
            ("/var/lib", "ext4", "/dev/vda1"),
            ("/tmp/x", "tmpfs", "tmpfs"),
            ("/data/zoo keeper/log", "xfs", "/dev/sdb"),
            ("/data/zoo", "ext4", "/dev/vda1"),
        ] {
            let disk = Disk::find(MOUNTS, Path::new(dir));
            assert_eq!((disk.kind.as_str(), disk.source.as_str()), (kind, source), "{dir}");
        }
        assert_eq!(Disk::find("nonsense\n\n- -", Path::new("/")), Disk::default());
    }

    #[test]
    fn the_verdict_is_one_line_and_warns_of_what_matters() {
        let disk = |kind: &str, spinning| Disk {
            kind: kind.into(),
            source: "d".into(),
            spinning,
            number: "1:1".into(),
        };
        let us = |n: u64| vec![Duration::from_micros(n); 8];
        let and = |slow: &[u64]| {
            [
                us(160),
                us(160)[slow.len()..].to_vec(),
                slow.iter().flat_map(|n| us(*n)[..1].to_vec()).collect(),
            ]
            .concat()
        };
        for (disk, times, warns, says) in [
            (disk("ext4", false), us(90), false, "excellent"),
            (disk("ext4", false), us(4_000), false, "good for a log"),
            (disk("ext4", false), us(40_000), true, "slow for a log"),
            (disk("ext4", false), us(2_000_000), true, "not fit"),
            (disk("ext4", false), and(&[12_880]), false, "0.16 ms (slowest of 16 12.88 ms): excellent"),
            (disk("ext4", false), and(&[12_880, 30_000]), true, "slow for a log"),
            (disk("ext4", false), and(&[2_000_000]), true, "not fit"),
            (disk("ext4", false), us(5), true, "too fast to be true"),
            (disk("ext4", true), us(300), true, "too fast to be true"),
            (disk("ext4", true), us(8_000), false, "a dataLogDir of its own"),
            (disk("tmpfs", false), us(5), true, "in memory"),
            (disk("overlay", false), us(90), true, "use a volume"),
            (disk("fuse.sshfs", false), us(90), true, "served by a program"),
            (disk("ext4", false), vec![], true, "could not be written"),
        ] {
            let (warning, text) = verdict(&disk, &times, true);
            assert!(warning == warns && text.contains(says) && !text.contains('\n'), "{text}");
        }
    }

    #[test]
    fn a_check_leaves_nothing_behind() {
        let path = std::env::temp_dir().join(format!("falconer-disk-check-{}", std::process::id()));
        let dir: Arc<dyn Dir> = Arc::new(vfs::os::OsDir::open(&path).unwrap());
        assert!(run(&dir, &path).starts_with("disk of the log: "));
        assert_eq!(dir.list().unwrap().len(), 0);
        std::fs::remove_dir(&path).unwrap();
    }
}
