//! The directory of snapshots: which there are, which are good, which may go.
//!
//! The manifest, a small text file beside the snapshots, remembers which have been read through and found
//! whole, so that retention does not read them again. It is derived: losing it loses nothing but that work.
//!
//! ```text
//! falconer snapshot manifest 1
//! 1f4 12345 8c3a01ff 1795171782254        start zxid (hex), bytes, footer crc (hex), verified at (wall-clock ms)
//! crc32c 0a1b2c3d                         over all bytes before this line
//! ```
//!
//! It is written under a temporary name, synced and renamed: a crash leaves the old one or the new one.

use crate::error::Error;
use crate::format::{Footer, Header};
use crate::limits::{CONSIDERED_MAX, MANIFEST_MAX};
use crate::{Snapshot, TEMP_SUFFIX, start_of};
use proto::{WallMs, Zxid};
use std::fmt::Write as _;
use std::io;
use std::sync::Arc;
use vfs::{Access, Dir};

/// The name of the manifest.
pub const MANIFEST_NAME: &str = "manifest";

const MANIFEST_HEAD: &str = "falconer snapshot manifest 1\n";
const MANIFEST_TAIL: &str = "crc32c ";

/// A snapshot that passed the quick check: header, footer, length, name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    name: String,
    header: Header,
    footer: Footer,
    footer_crc: u32,
    verified: Option<WallMs>,
}

impl Entry {
    pub(crate) fn new(name: String, header: Header, footer: Footer, footer_crc: u32) -> Entry {
        Entry { name, header, footer, footer_crc, verified: None }
    }

    /// The file's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All up to this zxid is inside.
    pub fn start(&self) -> Zxid {
        self.footer.start
    }

    /// Nothing after this zxid is inside; the log has to reach from `start` to here without a hole for the
    /// snapshot to be of use.
    pub fn end(&self) -> Zxid {
        self.footer.end
    }

    /// Bytes of the file.
    pub fn bytes(&self) -> u64 {
        self.footer.file_len()
    }

    /// Its header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Its footer.
    pub fn footer(&self) -> &Footer {
        &self.footer
    }

    /// When it was read through and found whole, if ever.
    pub fn verified(&self) -> Option<WallMs> {
        self.verified
    }
}

/// A file that bears the name of a snapshot and cannot be used.
#[derive(Debug)]
pub struct Skipped {
    /// Its name.
    pub name: String,
    /// The zxid in its name.
    pub start: Zxid,
    /// Why not.
    pub why: Error,
}

/// What retention found to be redundant.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Retention {
    /// Names of the files to remove, oldest first, so that a crash between two removals leaves the newest.
    pub remove: Vec<String>,
    /// The log has to keep everything after this zxid; `None`: too few verified snapshots, nothing may go.
    pub log_needed_after: Option<Zxid>,
}

/// The snapshots of one directory. One owner at a time changes it; readers (tools) open their own.
#[derive(Debug)]
pub struct Catalogue {
    dir: Arc<dyn Dir>,
    cluster: Option<[u8; 16]>,
    /// Newest first.
    entries: Vec<Entry>,
    skipped: Vec<Skipped>,
    /// Names not looked at: older than the newest [`CONSIDERED_MAX`], oldest last.
    beyond: Vec<String>,
}

impl Catalogue {
    /// Looks through the directory and changes nothing. `cluster`: skip what belongs to another ensemble.
    pub fn open(dir: Arc<dyn Dir>, cluster: Option<[u8; 16]>) -> Result<Catalogue, Error> {
        let listed = dir.list().map_err(|e| Error::io(&dir.path().display().to_string(), "list", e))?;
        let mut names: Vec<(Zxid, String)> = listed
            .into_iter()
            .filter(|entry| !entry.is_dir)
            .filter_map(|entry| start_of(&entry.name).map(|start| (start, entry.name)))
            .collect();
        names.sort_by(|a, b| b.cmp(a));
        let beyond =
            names.split_off(names.len().min(CONSIDERED_MAX)).into_iter().map(|(_, name)| name).collect();
        let known = read_manifest(&*dir)?;
        let mut catalogue = Catalogue { dir, cluster, entries: Vec::new(), skipped: Vec::new(), beyond };
        for (start, name) in names {
            match Snapshot::open(&*catalogue.dir, &name, cluster) {
                Err(why) => catalogue.skipped.push(Skipped { name, start, why }),
                Ok(snapshot) => {
                    let (header, footer) = (*snapshot.header(), *snapshot.footer());
                    let mut entry = Entry::new(name, header, footer, snapshot.footer_crc());
                    entry.verified = known.iter().find(|line| line.names(&entry)).map(|line| line.verified);
                    catalogue.entries.push(entry);
                }
            }
        }
        Ok(catalogue)
    }

    /// Removes the leftovers of snapshots and manifests that were never finished. Returns how many there
    /// were.
    pub fn sweep(&mut self) -> Result<usize, Error> {
        let listed = self.dir.list().map_err(|e| Error::io(&self.path_of(""), "list", e))?;
        let leftovers: Vec<String> = listed
            .into_iter()
            .map(|entry| entry.name)
            .filter(|name| {
                let finished = name.strip_suffix(TEMP_SUFFIX);
                finished.is_some_and(|name| name == MANIFEST_NAME || start_of(name).is_some())
            })
            .collect();
        self.unlink_all(&leftovers)?;
        Ok(leftovers.len())
    }

    /// The usable ones, newest first: the order in which to try them.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// What could not be used, newest first. One that is newer than the newest usable deserves a warning, and
    /// [`Error::Newer`] or [`Error::Io`] among them a refusal: falling back would be a guess, not a repair.
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// How many older files were not looked at.
    pub fn not_considered(&self) -> usize {
        self.beyond.len()
    }

    /// Opens a usable one.
    pub fn snapshot(&self, entry: &Entry) -> Result<Snapshot, Error> {
        Snapshot::open(&*self.dir, &entry.name, self.cluster)
    }

    /// A snapshot that was just written. It replaces one of the same start.
    pub fn add(&mut self, entry: Entry) {
        self.entries.retain(|e| e.name != entry.name);
        self.skipped.retain(|s| s.name != entry.name);
        let at = self.entries.partition_point(|e| e.start() > entry.start());
        self.entries.insert(at, entry);
    }

    /// Moves a usable one to the skipped: a load found it damaged. The next in order is the fallback.
    pub fn reject(&mut self, start: Zxid, why: Error) {
        if let Some(at) = self.entries.iter().position(|e| e.start() == start) {
            let name = self.entries.remove(at).name;
            let at = self.skipped.partition_point(|s| s.start > start);
            self.skipped.insert(at, Skipped { name, start, why });
        }
    }

    /// Notes that a usable one has been read through, by a load or by [`Snapshot::verify`], and writes the
    /// manifest.
    pub fn mark_verified(&mut self, start: Zxid, now: WallMs) -> Result<(), Error> {
        if let Some(entry) = self.entries.iter_mut().find(|e| e.start() == start) {
            entry.verified = Some(now);
        }
        self.write_manifest()
    }

    /// The newest of the newest `count` that has not been verified yet: for who reads it through in his own time, and then
    /// calls [`Catalogue::mark_verified`] or [`Catalogue::reject`].
    pub fn unverified(&self, count: usize) -> Option<&Entry> {
        self.entries.iter().take(count).find(|e| e.verified.is_none())
    }

    /// Reads through the newest `count` that have not been verified yet, with `workers` threads; the damaged
    /// ones are skipped from now on, and as many more are read. An error is the disk's, not a damaged file's.
    pub fn verify_newest(&mut self, count: usize, workers: usize, now: WallMs) -> Result<(), Error> {
        let mut at = 0;
        let mut changed = false;
        while at < count.min(self.entries.len()) {
            let entry = &self.entries[at];
            if entry.verified.is_some() {
                at += 1;
                continue;
            }
            let start = entry.start();
            changed = true;
            match self.snapshot(entry).and_then(|s| s.verify(workers)) {
                Ok(()) => {
                    self.entries[at].verified = Some(now);
                    at += 1;
                }
                Err(why) if why.is_damage() => self.reject(start, why),
                Err(e) => return Err(e),
            }
        }
        if changed { self.write_manifest() } else { Ok(()) }
    }

    /// What may go when the `keep` (at least 1) newest *verified* snapshots stay: all files that are older
    /// than the oldest of these, usable or not. Damaged ones among the kept stay as evidence until they are
    /// old. While fewer than `keep` are verified, nothing may go.
    pub fn retention(&self, keep: usize) -> Retention {
        let verified = self.entries.iter().filter(|e| e.verified.is_some());
        let Some(oldest) = verified.map(Entry::start).nth(keep.max(1) - 1) else {
            return Retention::default();
        };
        let usable = self.entries.iter().map(|e| (e.start(), &e.name));
        let skipped = self.skipped.iter().map(|s| (s.start, &s.name));
        let mut old: Vec<_> = usable.chain(skipped).filter(|(start, _)| *start < oldest).collect();
        old.sort();
        let beyond = self.beyond.iter().rev().cloned();
        let remove = beyond.chain(old.into_iter().map(|(_, name)| name.clone())).collect();
        Retention { remove, log_needed_after: Some(oldest) }
    }

    /// Removes what [`Catalogue::retention`] named. The log before [`Retention::log_needed_after`] may go
    /// after this, not before it: an older snapshot without its log is a trap.
    pub fn remove(&mut self, retention: &Retention) -> Result<(), Error> {
        self.forget(&retention.remove)
    }

    /// The log was cut behind `last`: removes every file that is not known to hold nothing later, newest
    /// first (ZOOKEEPER-4837: a reload from such a snapshot brings back what was cut off). What cannot be
    /// opened goes too: one that was only unreadable for a moment would be back at the next start. To be
    /// durable before the truncation is; returns the names removed.
    pub fn truncated(&mut self, last: Zxid) -> Result<Vec<String>, Error> {
        let usable = self.entries.iter().filter(|e| e.end() > last).map(|e| e.name.clone());
        let skipped = self.skipped.iter().map(|s| s.name.clone());
        let beyond = self.beyond.iter().filter(|name| {
            let opened = Snapshot::open(&*self.dir, name, self.cluster);
            opened.map_or(true, |s| s.footer().end > last)
        });
        let mut names: Vec<String> = usable.chain(skipped).chain(beyond.cloned()).collect();
        names.sort_by_key(|name| std::cmp::Reverse(start_of(name)));
        self.forget(&names)?;
        Ok(names)
    }

    /// A snapshot was received whole and its log begins at `start`: removes every older file, oldest first,
    /// since the log has a hole before it (storage format, trap S35).
    pub fn retire_before(&mut self, start: Zxid) -> Result<Vec<String>, Error> {
        let usable = self.entries.iter().filter(|e| e.start() < start).map(|e| (e.start(), e.name.clone()));
        let skipped = self.skipped.iter().filter(|s| s.start < start).map(|s| (s.start, s.name.clone()));
        let mut older: Vec<_> = usable.chain(skipped).collect();
        older.sort();
        let names: Vec<String> =
            self.beyond.iter().rev().cloned().chain(older.into_iter().map(|(_, name)| name)).collect();
        self.forget(&names)?;
        Ok(names)
    }

    fn forget(&mut self, names: &[String]) -> Result<(), Error> {
        if names.is_empty() {
            return Ok(());
        }
        self.unlink_all(names)?;
        let gone = |name: &String| names.contains(name);
        self.entries.retain(|e| !gone(&e.name));
        self.skipped.retain(|s| !gone(&s.name));
        self.beyond.retain(|name| !gone(name));
        self.write_manifest()
    }

    fn unlink_all(&self, names: &[String]) -> Result<(), Error> {
        for name in names {
            match self.dir.unlink(name) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::io(&self.path_of(name), "remove", e));
                }
                _ => {}
            }
        }
        if names.is_empty() {
            return Ok(());
        }
        self.dir.sync().map_err(|e| Error::io(&self.path_of(""), "sync the directory", e))
    }

    fn write_manifest(&self) -> Result<(), Error> {
        let verified = self.entries.iter().filter_map(|e| {
            let line =
                Line { start: e.start(), bytes: e.bytes(), footer_crc: e.footer_crc, verified: e.verified? };
            Some(line)
        });
        let text = encode_manifest(verified);
        let path = self.path_of(MANIFEST_NAME);
        let io = |action| {
            let path = &path;
            move |e| Error::io(path, action, e)
        };
        let temp = format!("{MANIFEST_NAME}{TEMP_SUFFIX}");
        self.unlink_all(std::slice::from_ref(&temp))?;
        let file = self.dir.create(&temp, Access::WRITE).map_err(io("create"))?;
        file.write_at(text.as_bytes(), 0).map_err(io("write"))?;
        file.sync().map_err(io("sync"))?;
        self.dir.rename(&temp, MANIFEST_NAME).map_err(io("rename to"))?;
        self.dir.sync().map_err(io("sync the directory of"))
    }

    fn path_of(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }
}

/// One line of the manifest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Line {
    start: Zxid,
    bytes: u64,
    footer_crc: u32,
    verified: WallMs,
}

impl Line {
    /// The footer's checksum covers, through the chain, the whole content: equal means the same file, not
    /// only the same name.
    fn names(&self, entry: &Entry) -> bool {
        (self.start, self.bytes, self.footer_crc) == (entry.start(), entry.bytes(), entry.footer_crc)
    }
}

fn encode_manifest(lines: impl Iterator<Item = Line>) -> String {
    let mut text = MANIFEST_HEAD.to_owned();
    for Line { start, bytes, footer_crc, verified } in lines {
        writeln!(text, "{:x} {bytes} {footer_crc:08x} {}", start.as_u64(), verified.0)
            .expect("writing to a string does not fail");
    }
    let crc = crc32c::crc32c(text.as_bytes());
    text + &format!("{MANIFEST_TAIL}{crc:08x}\n")
}

/// The lines of a manifest; `None` when it is not whole.
fn decode_manifest(text: &str) -> Option<Vec<Line>> {
    let tail = text.rfind(MANIFEST_TAIL)?;
    let (body, tail) = text.split_at(tail);
    let crc = format!("{MANIFEST_TAIL}{:08x}\n", crc32c::crc32c(body.as_bytes()));
    if tail != crc {
        return None;
    }
    body.strip_prefix(MANIFEST_HEAD)?.lines().map(decode_line).collect()
}

fn decode_line(line: &str) -> Option<Line> {
    let mut words = line.split(' ');
    let line = Line {
        start: Zxid::from_u64(u64::from_str_radix(words.next()?, 16).ok()?),
        bytes: words.next()?.parse().ok()?,
        footer_crc: u32::from_str_radix(words.next()?, 16).ok()?,
        verified: WallMs(words.next()?.parse().ok()?),
    };
    words.next().is_none().then_some(line)
}

/// A manifest that is missing or not whole says nothing: then nothing counts as verified.
fn read_manifest(dir: &dyn Dir) -> Result<Vec<Line>, Error> {
    let path = dir.path().join(MANIFEST_NAME).display().to_string();
    let file = match dir.open(MANIFEST_NAME, Access::READ) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io(&path, "open", e)),
    };
    let len = file.len().map_err(|e| Error::io(&path, "measure", e))?;
    if len > MANIFEST_MAX {
        return Ok(Vec::new());
    }
    let mut bytes = vec![0; len as usize];
    match file.read_exact_at(&mut bytes, 0) {
        Ok(()) => {
            Ok(String::from_utf8(bytes).ok().and_then(|text| decode_manifest(&text)).unwrap_or_default())
        }
        Err(e) => Err(Error::io(&path, "read", e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(start: u64) -> Line {
        Line {
            start: Zxid::from_u64(start),
            bytes: 12345,
            footer_crc: 0x8c3a_01ff,
            verified: WallMs(1_795_171_782_254),
        }
    }

    #[test]
    fn the_manifest_is_what_the_drawing_says() {
        let text = encode_manifest([line(0x1f4)].into_iter());
        assert_eq!(text, "falconer snapshot manifest 1\n1f4 12345 8c3a01ff 1795171782254\ncrc32c 20341186\n");
        assert_eq!(decode_manifest(&text), Some(vec![line(0x1f4)]));
        assert_eq!(decode_manifest(&encode_manifest(std::iter::empty())), Some(vec![]));
    }

    #[test]
    fn a_manifest_that_is_not_whole_says_nothing() {
        let text = encode_manifest([line(1), line(2)].into_iter());
        for cut in 0..text.len() {
            assert_eq!(decode_manifest(&text[..cut]), None, "cut at {cut}");
        }
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let flipped = String::from_utf8(bytes).unwrap();
            assert_eq!(decode_manifest(&flipped), None, "flipped at {at}");
        }
    }
}
