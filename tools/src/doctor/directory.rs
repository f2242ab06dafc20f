//! A data directory: the disk under it, the room on it, whose it is, and what lies there.

use super::Examination;
use crate::disk::facts::Facts;
use crate::render;
use rustix::fs::{Access, access, statvfs};
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};
use vfs::os::OsDir;
use wal::Superblock;

/// What a directory holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Superblock and snapshots.
    Data,
    /// The log.
    Log,
    /// Everything.
    Both,
}

/// A segment of the log; without room for one no write is taken.
const SEGMENT: u64 = 64 << 20;
/// Segments that are prepared ahead, and two in use.
const SEGMENTS_KEPT: u64 = 6;
/// A file that is newer than now by more than this tells of a clock that went back.
const CLOCK_SLACK: Duration = Duration::from_secs(60);

/// Looks at a directory. `my_id` is the id in the configuration, if there is one.
pub fn check(e: &mut Examination, role: Role, dir: &Path, my_id: Option<i64>) {
    let about = dir.display().to_string();
    let there = match fs::metadata(dir) {
        Ok(m) if m.is_dir() => true,
        Ok(_) => {
            e.problem("directory", &about, "it is no directory".into(), "choose another");
            return;
        }
        Err(err) if err.kind() == io::ErrorKind::NotFound => {
            e.note("directory", &about, "it does not exist: the first start makes it".into(), "");
            false
        }
        Err(err) => {
            e.problem(
                "directory",
                &about,
                format!("it can't be looked at: {err}"),
                "check the permissions of its parents",
            );
            return;
        }
    };
    // What will hold it is what counts until it is there.
    let Some(place) = dir.ancestors().find(|p| p.is_dir()) else { return };
    match access(place, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) => e.fine("writable", &about, "this user may read and write it".into()),
        Err(err) => {
            let what = format!("this user may not read and write {}: {err}", place.display());
            e.problem(
                "writable",
                &about,
                what,
                "run the doctor as the user of the server, or change the owner",
            );
        }
    }
    disk(e, &about, place);
    space(e, &about, place, role);
    if there {
        contents(e, &about, dir, role, my_id);
    }
}

fn disk(e: &mut Examination, about: &str, dir: &Path) {
    let Ok(facts) = Facts::of(dir) else { return };
    let line = facts.line();
    if facts.is_memory() {
        e.problem(
            "disk",
            about,
            format!("it is in memory only ({line}): it ends with the machine"),
            "a directory on a disk",
        );
    } else if facts.file_system.starts_with("overlay") {
        let what = format!("it lies in the layer of a container ({line}): it ends with the container");
        e.problem("disk", about, what, "mount a volume there");
    } else if facts.is_remote() {
        let what = format!(
            "it lies behind a network or another program ({line}), whose promises and pauses become the server's"
        );
        e.warn("disk", about, what, "a local disk");
    } else if facts.rotational == Some(true) {
        let what = format!("the disk spins ({line}): a durable write takes milliseconds");
        e.warn("disk", about, what, "a solid-state disk; falconer disk DIR measures it");
    } else {
        e.fine("disk", about, line);
    }
    let unsafe_options: Vec<_> =
        facts.options.split(',').filter(|o| matches!(*o, "nobarrier" | "barrier=0")).collect();
    if !unsafe_options.is_empty() {
        let what = format!(
            "it is mounted with {}: a power cut loses what was made durable",
            unsafe_options.join(",")
        );
        e.problem("barriers", about, what, "mount it without that option");
    }
}

fn space(e: &mut Examination, about: &str, dir: &Path, role: Role) {
    let Ok(fs) = statvfs(dir) else { return };
    let (free, all) = (fs.f_bavail * fs.f_frsize, fs.f_blocks * fs.f_frsize);
    let log = if role == Role::Data { 0 } else { SEGMENT * SEGMENTS_KEPT };
    // A new snapshot is written before an old one goes.
    let snapshots = if role == Role::Log { 0 } else { 2 * newest_snapshot(dir) };
    let needed = log + snapshots;
    let text = format!("{} of {} are free", render::bytes(free), render::bytes(all));
    if free < SEGMENT {
        e.problem(
            "space",
            about,
            format!("{text}: the server takes no writes"),
            "make room, not by deleting from log/ or snapshot/",
        );
    } else if free < needed || (free < all / 20 && free < 10 << 30) {
        let what = format!("{text}; log and next snapshot want {}", render::bytes(needed));
        e.warn("space", about, what, "make room, or choose a larger disk");
    } else {
        e.fine("space", about, text);
    }
    if fs.f_files > 0 && fs.f_favail < 1000 {
        e.warn(
            "inodes",
            about,
            format!("{} inodes are free", fs.f_favail),
            "remove small files from that file system",
        );
    }
}

fn newest_snapshot(dir: &Path) -> u64 {
    let entries = |sub: &str| fs::read_dir(dir.join(sub)).into_iter().flatten().flatten();
    let files = entries("snapshot").chain(entries("version-2"));
    let snapshots = files.filter(|f| f.file_name().to_string_lossy().starts_with("snapshot."));
    snapshots.filter_map(|f| f.metadata().ok()).max_by_key(|m| m.modified().ok()).map_or(0, |m| m.len())
}

fn contents(e: &mut Examination, about: &str, dir: &Path, role: Role, my_id: Option<i64>) {
    clock(e, about, dir);
    for name in ["log", "snapshot"] {
        if dir.join(name).exists() && !dir.join(name).is_dir() {
            let what = format!("{name} is there and is no directory: falconerd refuses to start there");
            e.problem("contents", about, what, "move it away: the server makes a directory of that name");
        }
    }
    if role == Role::Log {
        return;
    }
    let Ok(opened) = OsDir::existing(dir) else { return };
    let has = |name: &str| dir.join(name).exists();
    match Superblock::peek(&opened) {
        Ok(Some(contents)) => {
            let (owner, mine) = (contents.identity.server.0, my_id.unwrap_or(0));
            if my_id.is_some() && owner != mine {
                let what = format!(
                    "it belongs to server {owner}, and myid says {mine}: falconerd refuses to start there"
                );
                e.problem("identity", about, what, "put the right myid there, or name the right dataDir");
            } else if !contents.joined && contents.log_start > 0 {
                let what = "what it holds has no vote: its state was found to differ from the one that a majority has, or it never \
                            was complete; its server takes the leader's at its next start";
                let fix = "keep a copy of it if you want to know why (falconer snapshot diff), then start the server";
                e.note("history", about, what.into(), fix);
            } else {
                e.fine("identity", about, "its superblock is whole".into());
            }
            if has("version-2") {
                let what =
                    "version-2 holds ZooKeeper's files, which are not read any more since the first start"
                        .into();
                e.note(
                    "leftovers",
                    about,
                    what,
                    "keep them for as long as you may want to go back, then remove version-2",
                );
            }
        }
        Ok(None) if fs::read_dir(dir.join("log")).is_ok_and(|mut d| d.next().is_some()) => {
            let what =
                "there is a log and no superblock that owns it: falconerd refuses to start there".into();
            e.problem("identity", about, what, "bring the superblock back, or restore a backup");
        }
        Ok(None) if has("version-2") => {
            let what =
                "it holds ZooKeeper's data: the first start takes it over, and leaves the files as they are"
                    .into();
            e.note("takeover", about, what, "stop ZooKeeper before");
        }
        Ok(None) => e.note("identity", about, "nothing was ever written there".into(), ""),
        Err(err) => {
            let what = format!("its superblock can't be read: {err}");
            e.problem("identity", about, what, "restore a backup, or ask for the disk's health first");
        }
    }
    if let Ok(pid) = fs::read_to_string(dir.join("zookeeper_server.pid")) {
        let comm = fs::read_to_string(format!("/proc/{}/comm", pid.trim())).unwrap_or_default();
        if comm.trim() == "java" {
            let what = format!("ZooKeeper's server runs on it, as process {}", pid.trim());
            e.problem("two-servers", about, what, "stop it before falconerd starts");
        }
    }
}

/// Files from the future tell of a clock that went back.
fn clock(e: &mut Examination, about: &str, dir: &Path) {
    let mut newest: Option<SystemTime> = None;
    for sub in ["log", "snapshot", "version-2"] {
        for entry in fs::read_dir(dir.join(sub)).into_iter().flatten().flatten().take(10_000) {
            newest = newest.max(entry.metadata().and_then(|m| m.modified()).ok());
        }
    }
    let ahead = newest.and_then(|at| at.duration_since(SystemTime::now()).ok()).filter(|d| *d > CLOCK_SLACK);
    if let Some(ahead) = ahead {
        let what = format!(
            "a file there was written {} s from now: the clock of this machine went back",
            ahead.as_secs()
        );
        e.warn("clock", about, what, "let NTP set the clock (chrony, systemd-timesyncd)");
    }
}
