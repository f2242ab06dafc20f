//! The same log on every device, on a real directory: what was committed is read back, by a recovery and by an offline reader
//! beside the writer, and a preparer in its own thread keeps up.

use proto::{Epoch, ServerId, Zxid};
use std::path::PathBuf;
use std::sync::Arc;
use vfs::os::OsDir;
use vfs::{Choice, DeviceKind, Dir};
use wal::{Config, Error, Identity, Reader, Recovery, Superblock};

struct Temp(PathBuf);

impl Temp {
    fn new(name: &str) -> Temp {
        let path =
            PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("wal-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Temp(path)
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn record(zxid: Zxid, len: usize) -> Vec<u8> {
    let mut r = vec![zxid.counter() as u8; len];
    r[12..20].copy_from_slice(&zxid.as_u64().to_be_bytes());
    r
}

fn len(counter: u32) -> usize {
    40 + (counter as usize * 7919) % 3000 + if counter.is_multiple_of(97) { 300_000 } else { 0 }
}

fn z(counter: u32) -> Zxid {
    Zxid::new(Epoch(1), counter)
}

fn check(next: &mut u32, zxid: Zxid, bytes: &[u8]) -> Result<(), Error> {
    *next += 1;
    assert_eq!(zxid, z(*next));
    assert!(bytes == record(zxid, len(*next)));
    Ok(())
}

fn run(kind: DeviceKind, depth: usize) {
    let temp = Temp::new(&format!("{kind}-{depth}"));
    let data = OsDir::open(&temp.0).unwrap();
    let dir: Arc<dyn Dir> = data.subdir("log").unwrap();
    let mut superblock =
        Superblock::create(&data, Identity { server: ServerId(1), cluster: 5 }, 0x1234_5678).unwrap();
    let config = Config { segment_len: 1 << 20, depth, device: Choice::Only(kind) };
    let mut counter = 0;
    for start in 0..3 {
        let mut recovery = Recovery::open(dir.clone(), &superblock, config).unwrap();
        let mut read = 0;
        recovery.replay(Zxid::ZERO, |zxid, bytes| check(&mut read, zxid, bytes)).unwrap();
        assert_eq!(read, counter, "start {start}");
        let log = match recovery.finish(&mut superblock, Zxid::ZERO) {
            Ok(log) => log,
            // Containers forbid io_uring, some file systems direct I/O: then there is nothing to test.
            Err(error) => return eprintln!("{kind} is refused here: {error}"),
        };
        assert_eq!(log.appender.device_kind(), kind);
        let mut appender = log.appender;
        let preparer = std::thread::spawn(move || log.preparer.run());
        for round in 0..60 {
            while appender.in_flight() < depth {
                for _ in 0..5 {
                    counter += 1;
                    appender.append([(z(counter), &record(z(counter), len(counter))[..])]).unwrap();
                }
                appender.submit().unwrap();
            }
            let durable = appender.complete().unwrap().expect("some are in flight");
            assert!(durable.upto() <= z(counter));
            if round % 20 == 0 {
                assert_eq!(appender.commit().unwrap().upto(), z(counter));
            }
        }
        appender.commit().unwrap();
        let mut offline = 0;
        let mut reader = Reader::open(&*dir, Some(&superblock.contents().root())).unwrap();
        reader.replay(Zxid::ZERO, |zxid, bytes| check(&mut offline, zxid, bytes)).unwrap();
        assert_eq!(offline, counter);
        appender.mark_idle().unwrap();
        drop(appender);
        preparer.join().unwrap().unwrap();
    }
}

#[test]
fn the_ring_writes_what_is_read_back() {
    (1..=4).for_each(|depth| run(DeviceKind::Uring, depth));
}

#[test]
fn pwritev2_writes_what_is_read_back() {
    (1..=2).for_each(|depth| run(DeviceKind::Pwritev2, depth));
}

#[test]
fn the_page_cache_writes_what_is_read_back() {
    (1..=2).for_each(|depth| run(DeviceKind::Buffered, depth));
}
