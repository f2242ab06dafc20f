//! Power cuts, errors and full disks while snapshots are written, listed and removed: the one before stays
//! usable.

mod state;

use proto::{WallMs, Zxid};
use snapshot::{Catalogue, Error, Snapshot};
use state::{CLUSTER, Random, load, names, parts, read_file, write};
use std::sync::Arc;
use vfs::Dir;
use vfs::mem::{Disk, Failure, Op};

const DIR: &str = "snapshot";

fn open(disk: &Disk) -> Catalogue {
    Catalogue::open(disk.dir(DIR), Some(CLUSTER)).unwrap()
}

/// Every state a crash can leave after each operation of `disk`'s trace, some of the many subsets by chance:
/// `check` gets the disk and the last mark before the crash.
fn each_crash(disk: &Disk, check: &mut dyn FnMut(&Disk, u64)) {
    let trace = disk.trace();
    let mut platter = trace.start();
    let mut mark = 0;
    let mut random = Random::new(5);
    for op in [Op::Mark(0)].iter().chain(trace.ops()) {
        platter.step(op);
        if let Op::Mark(note) = op {
            mark = *note;
        }
        check(&platter.crash(&mut |_| false), mark);
        check(&platter.crash(&mut |_| true), mark);
        for _ in 0..12 {
            let odds = 1 + random.below(7);
            check(&platter.crash(&mut |_| random.below(8) < odds), mark);
        }
        // Names without bytes, bytes without names: the orders that a careless writer relies on.
        check(&platter.crash(&mut |q| !matches!(q.op, Op::Write { .. })), mark);
        check(&platter.crash(&mut |q| matches!(q.op, Op::Write { .. })), mark);
    }
}

#[test]
fn a_crash_while_writing_leaves_the_old_one_and_maybe_the_new() {
    let disk = Disk::new();
    let dir = disk.dir(DIR);
    write(&dir, 5, 6, &parts(1, 60, 10)).unwrap();
    disk.record();
    write(&dir, 9, 12, &parts(2, 400, 10)).unwrap();
    disk.mark(1);
    let old = read_file(&*dir, "snapshot.5");
    let new = read_file(&*dir, "snapshot.9");
    let mut with_new = 0;
    let mut crashes = 0;
    each_crash(&disk, &mut |after, mark| {
        crashes += 1;
        let mut catalogue = open(after);
        let starts: Vec<u64> = catalogue.entries().iter().map(|e| e.start().as_u64()).collect();
        assert!(catalogue.skipped().is_empty(), "no half-written file ever bears the name of a snapshot");
        match starts[..] {
            [9, 5] => {
                with_new += 1;
                assert_eq!(read_file(&*after.dir(DIR), "snapshot.9"), new);
            }
            [5] => assert_eq!(mark, 0, "what was reported durable is there"),
            _ => panic!("{starts:?}"),
        }
        assert_eq!(read_file(&*after.dir(DIR), "snapshot.5"), old);
        catalogue.sweep().unwrap();
        assert!(names(&*after.dir(DIR)).iter().all(|name| !name.ends_with(".tmp")));
    });
    assert!(with_new > 0 && with_new < crashes);
}

#[test]
fn a_crash_while_replacing_one_of_the_same_start_leaves_either_whole() {
    let disk = Disk::new();
    let dir = disk.dir(DIR);
    write(&dir, 5, 6, &parts(1, 60, 10)).unwrap();
    let old = read_file(&*dir, "snapshot.5");
    disk.record();
    write(&dir, 5, 9, &parts(2, 90, 10)).unwrap();
    let new = read_file(&*dir, "snapshot.5");
    each_crash(&disk, &mut |after, _| {
        let found = read_file(&*after.dir(DIR), "snapshot.5");
        assert!(found == old || found == new);
    });
}

#[test]
fn every_failing_operation_leaves_the_old_one_usable_and_the_next_attempt_succeeds() {
    for how in [Failure::Eio, Failure::Enospc, Failure::Short] {
        for nth in 0.. {
            let disk = Disk::new();
            let dir = disk.dir(DIR);
            write(&dir, 5, 6, &parts(1, 60, 10)).unwrap();
            disk.fail(nth, how);
            let before = disk.ops();
            let result = write(&dir, 9, 12, &parts(2, 4000, 10));
            let reached = disk.ops() > before + nth;
            disk.heal();
            if let Err(e) = &result {
                assert!(matches!(e, Error::Io { .. }), "{how:?} at {nth}: {e}");
            }
            // A snapshot that reports success is durable. The first operation, removing a leftover that is
            // not there, may fail unseen.
            let after = disk.crash(&mut |_| false);
            let catalogue = open(&after);
            assert_eq!(catalogue.entries().last().unwrap().start(), Zxid::from_u64(5), "{how:?} at {nth}");
            assert!(catalogue.skipped().is_empty(), "{how:?} at {nth}");
            if result.is_ok() {
                assert_eq!(catalogue.entries()[0].start(), Zxid::from_u64(9), "{how:?} at {nth}");
            }
            for entry in open(&disk).entries() {
                load(&open(&disk).snapshot(entry).unwrap(), 1).unwrap();
            }
            write(&dir, 9, 12, &parts(2, 400, 10)).unwrap();
            if !reached {
                assert!(result.is_ok());
                break;
            }
        }
    }
}

#[test]
fn a_full_disk_costs_the_new_one_only_and_gives_the_space_back() {
    let disk = Disk::new();
    let dir = disk.dir(DIR);
    write(&dir, 5, 6, &parts(1, 60, 10)).unwrap();
    let used = disk.used();
    disk.set_capacity(Some(used + 200_000));
    let e = write(&dir, 9, 12, &parts(2, 9000, 10)).unwrap_err();
    assert!(
        matches!(&e, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull),
        "{e}"
    );
    assert_eq!(names(&*dir), ["snapshot.5"]);
    let after = disk.crash(&mut |_| true);
    assert_eq!(after.used(), used, "the unfinished file holds no space");
    write(&dir, 9, 12, &parts(2, 60, 10)).unwrap();
}

#[test]
fn the_manifest_is_the_old_or_the_new_after_any_crash() {
    let disk = Disk::new();
    let dir = disk.dir(DIR);
    write(&dir, 5, 6, &parts(1, 20, 10)).unwrap();
    write(&dir, 9, 12, &parts(2, 20, 10)).unwrap();
    let mut catalogue = open(&disk);
    catalogue.mark_verified(Zxid::from_u64(5), WallMs(50)).unwrap();
    disk.record();
    catalogue.mark_verified(Zxid::from_u64(9), WallMs(90)).unwrap();
    disk.mark(1);
    each_crash(&disk, &mut |after, mark| {
        let verified: Vec<Option<WallMs>> = open(after).entries().iter().map(|e| e.verified()).collect();
        match verified[..] {
            [Some(WallMs(90)), Some(WallMs(50))] => {}
            [None, Some(WallMs(50))] => assert_eq!(mark, 0),
            _ => panic!("{verified:?}"),
        }
    });
}

#[test]
fn a_crash_while_removing_old_ones_never_takes_a_kept_one() {
    let disk = Disk::new();
    let dir = disk.dir(DIR);
    for start in [1, 2, 3, 4, 5] {
        write(&dir, start, start, &parts(start, 10, 10)).unwrap();
    }
    let mut catalogue = open(&disk);
    catalogue.verify_newest(5, 1, WallMs(1)).unwrap();
    let retention = catalogue.retention(2);
    assert_eq!(retention.remove, ["snapshot.1", "snapshot.2", "snapshot.3"]);
    disk.record();
    catalogue.remove(&retention).unwrap();
    disk.mark(1);
    each_crash(&disk, &mut |after, mark| {
        let starts: Vec<u64> = open(after).entries().iter().map(|e| e.start().as_u64()).collect();
        assert!(starts.starts_with(&[5, 4]), "{starts:?}");
        assert!(mark == 0 || starts.len() == 2, "what was reported removed stays removed: {starts:?}");
    });
}

#[test]
fn an_unreadable_sector_is_the_disks_fault_and_a_flipped_bit_the_files() {
    let disk = Disk::new();
    let dir: Arc<dyn Dir> = disk.dir(DIR);
    let entry = write(&dir, 5, 6, &parts(1, 400, 10)).unwrap();
    disk.break_sector(DIR, entry.name(), 5000);
    let snapshot = Snapshot::open(&*dir, entry.name(), None).unwrap();
    let e = snapshot.verify(2).unwrap_err();
    assert!(matches!(e, Error::Io { .. }), "{e}");
    disk.heal();
    snapshot.verify(2).unwrap();
    disk.flip(DIR, entry.name(), 5000, 3);
    assert!(snapshot.verify(2).unwrap_err().is_damage());
}
