//! Every device and file on a real directory and on the simulated disk keeps the same contract.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use vfs::mem::{Disk, Failure};
use vfs::os::OsDir;
use vfs::{Access, AlignedBuf, BLOCK, Choice, DeviceKind, Dir, Shape, choose_device};

/// A directory under the build's own, so that it lies on a real disk; removed on drop.
struct Temp(PathBuf);

impl Temp {
    fn new(name: &str) -> Temp {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Temp(path)
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn spare(dir: &dyn Dir, name: &str, blocks: usize) {
    let file = dir.create(name, Access::WRITE).unwrap();
    file.allocate((blocks * BLOCK) as u64).unwrap();
    file.write_at(&vec![0; blocks * BLOCK], 0).unwrap();
    file.sync().unwrap();
    dir.sync().unwrap();
}

const KINDS: [DeviceKind; 3] = [DeviceKind::Uring, DeviceKind::Pwritev2, DeviceKind::Buffered];

fn write_and_read_back(dir: &dyn Dir, kind: DeviceKind, depth: usize) -> io::Result<()> {
    let name = format!("spare.{kind}.{depth}");
    spare(dir, &name, 32);
    let shape = Shape { depth, slot_len: 2 * BLOCK };
    let chosen = match choose_device(dir, &name, Choice::Only(kind), shape) {
        Ok(chosen) => chosen,
        // Containers forbid io_uring, some file systems direct I/O: then there is nothing to test.
        Err(e) => {
            eprintln!("{kind} is refused here: {e}");
            return Ok(());
        }
    };
    let mut device = chosen.device;
    assert_eq!((device.kind(), device.slots(), device.in_flight()), (kind, depth + 1, 0));
    let mut next = 0u8;
    for round in 0..4 {
        for slot in 0..depth {
            let offset = ((1 + round * depth + slot) * BLOCK) as u64;
            next += 1;
            device.buffer(slot)[..BLOCK].fill(next);
            device.submit(slot, BLOCK, offset)?;
        }
        assert_eq!(device.in_flight(), depth);
        while let Some(done) = device.complete() {
            done.result?;
        }
    }
    // A grown slot is written just as well, and a switch goes to the other file.
    device.grow(0, 8 * BLOCK);
    device.buffer(0).fill(0x77);
    device.submit(0, 8 * BLOCK, (20 * BLOCK) as u64)?;
    device.complete().unwrap().result?;
    let other = format!("other.{kind}.{depth}");
    spare(dir, &other, 4);
    device.switch_to(dir.open(&other, kind.access())?)?;
    device.submit(0, BLOCK, BLOCK as u64)?;
    device.complete().unwrap().result?;

    let read = |name: &str, block: usize| {
        let mut buf = AlignedBuf::zeroed(BLOCK);
        let file = dir.open(name, kind.access()).unwrap();
        file.read_exact_at(&mut buf, (block * BLOCK) as u64).unwrap();
        assert!(buf.iter().all(|&b| b == buf[0]), "block {block} of {name} is mixed");
        buf[0]
    };
    for block in 0..4 * depth {
        assert_eq!(read(&name, 1 + block), block as u8 + 1);
    }
    assert_eq!((read(&name, 20), read(&name, 27), read(&name, 28)), (0x77, 0x77, 0));
    assert_eq!((read(&other, 0), read(&other, 1)), (0, 0x77));
    Ok(())
}

#[test]
fn each_device_writes_what_it_was_given_at_each_depth() {
    let temp = Temp::new("devices");
    let real = OsDir::open(&temp.0).unwrap();
    let disk = Disk::new();
    for kind in KINDS {
        for depth in 1..=4 {
            write_and_read_back(&real, kind, depth).unwrap();
            write_and_read_back(&*disk.dir("d"), kind, depth).unwrap();
        }
    }
}

#[test]
fn files_and_names_behave_the_same_on_both() {
    let temp = Temp::new("files");
    let disk = Disk::new();
    let dirs: [Arc<dyn Dir>; 2] = [Arc::new(OsDir::open(temp.0.join("a/b")).unwrap()), disk.dir("a/b")];
    for dir in dirs {
        let file = dir.create("one", Access::WRITE).unwrap();
        assert_eq!(dir.create("one", Access::WRITE).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(dir.open("none", Access::READ).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(dir.unlink("none").unwrap_err().kind(), io::ErrorKind::NotFound);
        file.write_at(b"hello", 5000).unwrap();
        file.write_durable(b"J", 5000).unwrap();
        assert_eq!(file.len().unwrap(), 5005);
        let mut buf = [1; 8];
        assert_eq!(file.read_at(&mut buf, 4998).unwrap(), 7);
        assert_eq!(&buf[..7], b"\0\0Jello");
        assert_eq!(file.read_at(&mut buf, 6000).unwrap(), 0);
        assert_eq!(file.read_exact_at(&mut buf, 4998).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        file.set_len(5001).unwrap();
        file.set_len(5003).unwrap();
        assert_eq!(file.read_at(&mut buf, 4999).unwrap(), 4);
        assert_eq!(&buf[..4], b"\0J\0\0");
        file.allocate(9000).unwrap();
        assert_eq!(file.len().unwrap(), 9000);
        file.sync().unwrap();

        dir.create("two", Access::WRITE).unwrap();
        dir.rename("one", "two").unwrap();
        dir.subdir("below").unwrap();
        dir.sync().unwrap();
        let names: Vec<_> = dir.list().unwrap().into_iter().map(|e| (e.name, e.len, e.is_dir)).collect();
        assert_eq!(names, [("below".into(), 0, true), ("two".into(), 9000, false)]);
        dir.unlink("two").unwrap();
        assert_eq!(file.len().unwrap(), 9000, "an open file stays readable");

        let lock = dir.lock("lock").unwrap();
        assert_eq!(dir.lock("lock").unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(lock);
        dir.lock("lock").unwrap();
    }
}

#[test]
fn a_refused_device_gives_way_to_the_next_and_the_operator_is_told() {
    let disk = Disk::new();
    let dir = disk.dir("d");
    spare(&*dir, "spare", 4);
    let shape = Shape { depth: 1, slot_len: BLOCK };
    disk.refuse(DeviceKind::Uring);
    let chosen = choose_device(&*dir, "spare", Choice::Auto, shape).unwrap();
    assert_eq!(chosen.device.kind(), DeviceKind::Pwritev2);
    assert!(chosen.said.contains("uring refused: permission denied"), "{}", chosen.said);
    disk.refuse(DeviceKind::Pwritev2);
    assert_eq!(
        choose_device(&*dir, "spare", Choice::Auto, shape).unwrap().device.kind(),
        DeviceKind::Buffered
    );
    let none = choose_device(&*dir, "spare", Choice::Only(DeviceKind::Uring), shape).unwrap_err();
    assert!(none.to_string().contains("no log device works in d: uring: permission denied"), "{none}");
    for word in ["auto", "uring", "pwritev2", "buffered"] {
        assert!(word.parse::<Choice>().is_ok());
    }
    assert!("spdk".parse::<Choice>().is_err());
}

#[test]
fn what_was_not_synced_may_be_lost_torn_or_kept() {
    let disk = Disk::new();
    let dir = disk.dir("d");
    let file = dir.create("f", Access::WRITE).unwrap();
    file.write_at(&[1; 2048], 0).unwrap();
    file.sync().unwrap();
    dir.sync().unwrap();
    file.write_at(&[2; 2048], 0).unwrap();
    dir.rename("f", "g").unwrap();
    let read = |disk: &Disk, name: &str| -> Option<Vec<u8>> {
        let file = disk.dir("d").open(name, Access::READ).ok()?;
        let mut buf = vec![0; file.len().unwrap() as usize];
        file.read_exact_at(&mut buf, 0).unwrap();
        Some(buf)
    };
    assert_eq!(disk.platter().pending().len(), 2);
    let none = disk.crash(&mut |_| false);
    assert_eq!((read(&none, "f"), read(&none, "g")), (Some(vec![1; 2048]), None));
    let all = disk.crash(&mut |_| true);
    assert_eq!((read(&all, "f"), read(&all, "g")), (None, Some(vec![2; 2048])));
    let torn = disk.crash(&mut |q| q.index == 0 && q.sector == 1);
    let mut wanted = vec![1; 2048];
    wanted[512..1024].fill(2);
    assert_eq!(read(&torn, "f"), Some(wanted));
    assert_eq!(read(&disk, "g"), Some(vec![2; 2048]), "the crash made another disk");
}

#[test]
fn a_trace_gives_the_state_after_every_operation() {
    let disk = Disk::new();
    let dir = disk.dir("d");
    disk.record();
    let file = dir.create("f", Access::WRITE).unwrap();
    dir.sync().unwrap();
    for i in 1..=3u8 {
        file.write_durable(&[i], 0).unwrap();
        disk.mark(i.into());
    }
    let trace = disk.trace();
    let mut platter = trace.start();
    let mut seen = Vec::new();
    for op in trace.ops() {
        platter.step(op);
        if let vfs::mem::Op::Mark(_) = op {
            let mut byte = [0];
            let file = platter.crash(&mut |_| false).dir("d").open("f", Access::READ).unwrap();
            file.read_exact_at(&mut byte, 0).unwrap();
            seen.push(byte[0]);
        }
    }
    assert_eq!(seen, [1, 2, 3]);
}

#[test]
fn failures_strike_the_operation_they_were_set_for() {
    let disk = Disk::new();
    let dir = disk.dir("d");
    let file = dir.create("f", Access::WRITE).unwrap();
    dir.sync().unwrap();
    disk.fail(0, Failure::Eio);
    assert_eq!(file.write_at(&[1; 1024], 0).unwrap_err().raw_os_error(), Some(5));
    file.sync().unwrap();
    assert_eq!(disk.crash(&mut |_| false).dir("d").open("f", Access::READ).unwrap().len().unwrap(), 0);

    file.write_at(&[2; 1024], 0).unwrap();
    disk.fail(0, Failure::Eio);
    assert!(file.sync().is_err());
    file.sync().unwrap();
    let lost = disk.crash(&mut |_| false).dir("d").open("f", Access::READ).unwrap();
    assert_eq!(lost.len().unwrap(), 0, "a sync after a failed one proves nothing");

    disk.fail(1, Failure::Eio);
    assert!(file.write_durable(&[3; 512], 4096).is_err(), "the flush of a durable write can fail by itself");
    disk.fail(0, Failure::Short);
    assert_eq!(file.write_durable(&[3; 512], 4096).unwrap_err().kind(), io::ErrorKind::WriteZero);
    disk.fail(0, Failure::Enospc);
    assert_eq!(dir.create("g", Access::WRITE).unwrap_err().kind(), io::ErrorKind::StorageFull);

    disk.heal();
    disk.set_capacity(Some(disk.used() + BLOCK as u64));
    assert!(file.write_at(&[0; 3 * BLOCK], 1 << 20).is_err());
    file.write_at(&[0; BLOCK], 1 << 20).unwrap();
    file.write_at(&[1; BLOCK], 1 << 20).unwrap();

    let mut byte = [0];
    disk.flip("d", "f", 1 << 20, 3);
    file.read_exact_at(&mut byte, 1 << 20).unwrap();
    assert_eq!(byte, [1 ^ 8]);
    disk.break_sector("d", "f", 1 << 20);
    assert!(file.read_at(&mut byte, 1 << 20).is_err());
    file.read_exact_at(&mut byte, (1 << 20) + 512).unwrap();
}

/// After a failed sync the old bytes stay pending for ever; they must not come back over what was written later, durably.
#[test]
fn what_is_durable_is_not_overwritten_by_what_was_pending_before_it() {
    for durable_write in [false, true] {
        let disk = Disk::new();
        let dir = disk.dir("d");
        let file = dir.create("f", Access::WRITE).unwrap();
        dir.sync().unwrap();
        file.write_at(&[1; 3 * 512], 0).unwrap();
        disk.fail(0, Failure::Eio);
        file.sync().unwrap_err();
        if durable_write {
            file.write_durable(&[2; 512], 512).unwrap();
        } else {
            file.write_at(&[2; 512], 512).unwrap();
            file.sync().unwrap();
        }
        for keep in [false, true] {
            let after = disk.crash(&mut |_| keep);
            let mut bytes = [9; 3 * 512];
            let n = after.dir("d").open("f", Access::READ).unwrap().read_at(&mut bytes, 0).unwrap();
            let old = u8::from(keep);
            assert_eq!(bytes[..512], [old; 512]);
            assert_eq!(bytes[512..1024], [2; 512], "durable write: {durable_write}, pending kept: {keep}");
            assert!(
                bytes[1024..n].iter().all(|&b| b == 1),
                "the other piece is kept or the file ends before it"
            );
        }
    }
}
