//! Which snapshots there are, in which order they are tried, and which may go.

mod state;

use proto::{WallMs, Zxid};
use snapshot::limits::CONSIDERED_MAX;
use snapshot::{Catalogue, Error, MANIFEST_NAME, Retention};
use state::{CLUSTER, names, parts, put_file, read_file, write};
use std::sync::Arc;
use vfs::Dir;
use vfs::mem::Disk;

fn z(v: u64) -> Zxid {
    Zxid::from_u64(v)
}

fn with(starts: &[(u64, u64)]) -> (Disk, Arc<dyn Dir>) {
    let disk = Disk::new();
    let dir = disk.dir("snapshot");
    for &(start, end) in starts {
        write(&dir, start, end, &parts(start, 12, 5)).unwrap();
    }
    (disk, dir)
}

fn open(dir: &Arc<dyn Dir>) -> Catalogue {
    Catalogue::open(dir.clone(), Some(CLUSTER)).unwrap()
}

fn starts(catalogue: &Catalogue) -> Vec<u64> {
    catalogue.entries().iter().map(|e| e.start().as_u64()).collect()
}

fn skipped(catalogue: &Catalogue) -> Vec<u64> {
    catalogue.skipped().iter().map(|s| s.start.as_u64()).collect()
}

#[test]
fn newest_first_by_zxid_and_not_by_name_or_time() {
    let (_, dir) = with(&[(0xff, 0xff), (5, 9), (0x100, 0x104), (0x2_0000_0000, 0x2_0000_0000)]);
    put_file(&*dir, "snapshot.7.tmp", b"half");
    put_file(&*dir, "notes", b"an operator's");
    let catalogue = open(&dir);
    assert_eq!(starts(&catalogue), [0x2_0000_0000, 0x100, 0xff, 5]);
    assert_eq!((catalogue.entries()[1].end(), catalogue.skipped().len()), (z(0x104), 0));
    assert_eq!(names(&*dir).len(), 6, "opening changes nothing");
}

#[test]
fn damaged_half_written_and_foreign_ones_are_skipped_with_their_reason() {
    let (disk, dir) = with(&[(1, 1), (2, 2), (3, 3), (4, 4)]);
    let whole = read_file(&*dir, "snapshot.4");
    put_file(&*dir, "snapshot.4", &whole[..whole.len() - 1]);
    put_file(&*dir, "snapshot.5", b"");
    disk.flip("snapshot", "snapshot.2", 20, 1);
    let catalogue = open(&dir);
    assert_eq!((starts(&catalogue), skipped(&catalogue)), (vec![3, 1], vec![5, 4, 2]));
    for s in catalogue.skipped() {
        let text = s.why.to_string();
        assert!(text.contains(&s.name) && text.contains("byte") && text.contains("wanted"), "{text}");
    }
    let foreign = Catalogue::open(dir.clone(), Some([1; 16])).unwrap();
    assert!(foreign.entries().is_empty());
    assert!(foreign.skipped().iter().any(|s| matches!(s.why, Error::Foreign { .. })));
    assert_eq!(starts(&Catalogue::open(dir, None).unwrap()), [3, 1], "a tool may look at any cluster's");
}

#[test]
fn a_load_that_fails_falls_back_to_the_next() {
    let (disk, dir) = with(&[(1, 1), (2, 2), (3, 3)]);
    disk.flip("snapshot", "snapshot.3", 100, 1);
    let mut catalogue = open(&dir);
    assert_eq!(starts(&catalogue), [3, 2, 1], "the quick check does not look at payloads");
    let newest = catalogue.entries()[0].clone();
    let why = catalogue.snapshot(&newest).unwrap().verify(1).unwrap_err();
    catalogue.reject(newest.start(), why);
    assert_eq!((starts(&catalogue), skipped(&catalogue)), (vec![2, 1], vec![3]));
}

#[test]
fn at_most_a_hundred_are_considered() {
    let all: Vec<(u64, u64)> = (1..=CONSIDERED_MAX as u64 + 3).map(|n| (n, n)).collect();
    let (_, dir) = with(&all);
    let mut catalogue = open(&dir);
    assert_eq!((catalogue.entries().len(), catalogue.not_considered()), (CONSIDERED_MAX, 3));
    assert_eq!(starts(&catalogue)[0], CONSIDERED_MAX as u64 + 3);
    catalogue.verify_newest(3, 1, WallMs(1)).unwrap();
    let retention = catalogue.retention(3);
    assert_eq!(retention.remove[..4], ["snapshot.1", "snapshot.2", "snapshot.3", "snapshot.4"]);
    catalogue.remove(&retention).unwrap();
    assert_eq!(names(&*dir).len(), 3 + 1, "three snapshots and the manifest");
    assert_eq!(catalogue.not_considered(), 0);
}

#[test]
fn nothing_may_go_until_enough_are_verified() {
    let (disk, dir) = with(&[(1, 1), (2, 2), (3, 3), (4, 4), (5, 5)]);
    disk.flip("snapshot", "snapshot.4", 100, 1);
    let mut catalogue = open(&dir);
    assert_eq!(catalogue.retention(3), Retention::default());
    assert_eq!(catalogue.unverified(2).map(|e| e.start()), Some(z(5)));
    catalogue.verify_newest(2, 1, WallMs(7)).unwrap();
    let unverified = |n| catalogue.unverified(n).map(|e| e.start());
    assert_eq!((unverified(2), unverified(3)), (None, Some(z(2))));
    // 4 turned out to be damaged, so that 5 and 3 are the verified ones.
    assert_eq!((starts(&catalogue), skipped(&catalogue)), (vec![5, 3, 2, 1], vec![4]));
    assert_eq!(catalogue.retention(3), Retention::default());
    let two = catalogue.retention(2);
    assert_eq!(two.remove, ["snapshot.1", "snapshot.2"]);
    assert_eq!(two.log_needed_after, Some(z(3)));
    // The verdict outlives the process.
    assert_eq!(open(&dir).retention(2).log_needed_after, Some(z(3)));
    catalogue.remove(&two).unwrap();
    assert_eq!(names(&*dir), [MANIFEST_NAME, "snapshot.3", "snapshot.4", "snapshot.5"]);
}

#[test]
fn a_verdict_belongs_to_the_content_and_not_to_the_name() {
    let (_, dir) = with(&[(1, 1), (2, 2)]);
    open(&dir).verify_newest(2, 1, WallMs(7)).unwrap();
    write(&dir, 2, 3, &parts(77, 12, 5)).unwrap();
    let verified: Vec<_> = open(&dir).entries().iter().map(|e| e.verified()).collect();
    assert_eq!(verified, [None, Some(WallMs(7))]);
    put_file(&*dir, MANIFEST_NAME, b"falconer snapshot manifest 1\n");
    assert!(open(&dir).entries().iter().all(|e| e.verified().is_none()), "a torn manifest says nothing");
}

#[test]
fn a_new_one_takes_its_place() {
    let (_, dir) = with(&[(1, 1), (5, 5)]);
    let mut catalogue = open(&dir);
    for start in [3, 9, 3] {
        catalogue.add(write(&dir, start, start, &parts(start, 12, 5)).unwrap());
    }
    assert_eq!(starts(&catalogue), [9, 5, 3, 1]);
    assert_eq!(catalogue.entries(), open(&dir).entries());
}

#[test]
fn truncation_removes_what_may_hold_a_later_txn() {
    // 5 began before the cut and ended behind it: it holds some of what is cut off.
    let (disk, dir) = with(&[(1, 2), (5, 9), (6, 7), (8, 8), (0x10, 0x10)]);
    disk.flip("snapshot", "snapshot.1", 3, 3);
    let mut catalogue = open(&dir);
    let removed = catalogue.truncated(z(7)).unwrap();
    assert_eq!(removed, ["snapshot.10", "snapshot.8", "snapshot.5", "snapshot.1"]);
    assert_eq!(starts(&catalogue), [6]);
    let after = disk.crash(&mut |_| false);
    assert_eq!(names(&*after.dir("snapshot")), [MANIFEST_NAME, "snapshot.6"], "durably");
}

#[test]
fn a_received_snapshot_retires_all_before_it() {
    let (_, dir) = with(&[(1, 2), (5, 9), (0x1_0000_0000, 0x1_0000_0000)]);
    put_file(&*dir, "snapshot.3", b"damaged");
    let mut catalogue = open(&dir);
    let removed = catalogue.retire_before(z(0x1_0000_0000)).unwrap();
    assert_eq!(removed, ["snapshot.1", "snapshot.3", "snapshot.5"]);
    assert_eq!(starts(&catalogue), [0x1_0000_0000]);
}

#[test]
fn sweeping_takes_leftovers_and_nothing_else() {
    let (disk, dir) = with(&[(1, 1)]);
    for name in ["snapshot.7.tmp", "manifest.tmp", "snapshot.x.tmp", "mine.tmp"] {
        put_file(&*dir, name, b"half");
    }
    assert_eq!(open(&dir).sweep().unwrap(), 2);
    let after = disk.crash(&mut |_| false).dir("snapshot");
    assert_eq!(names(&*after), ["mine.tmp", "snapshot.1", "snapshot.x.tmp"], "durably");
}
