//! Logs of Apache ZooKeeper: bytes of a real server, and Apache's own rules about ends and damage.

use proto::{Epoch, Zxid};
use std::sync::Arc;
use vfs::mem::Disk;
use vfs::{Access, Dir};
use wal::apache::{Reader, Writer, list};
use wal::{Error, Fault};

/// The start of a log written by a 3.8.0 server: createSession 0x1000010357c0000.
const REAL: &str = "5a4b4c47000000020000000000000000\
    00000000c19f0acc00000030\
    01000010357c0000000000000000000100000001000001a1f85057fdfffffff60000177000000002\
    0000000051c6d66042";

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    digits.chunks(2).map(|d| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap()).collect()
}

fn z(epoch: u32, counter: u32) -> Zxid {
    Zxid::new(Epoch(epoch), counter)
}

fn record(zxid: Zxid, len: usize) -> Vec<u8> {
    let mut r = vec![zxid.counter() as u8; len];
    r[12..20].copy_from_slice(&zxid.as_u64().to_be_bytes());
    r
}

fn put(dir: &dyn Dir, name: &str, bytes: &[u8]) {
    dir.create(name, Access::WRITE).unwrap().write_at(bytes, 0).unwrap();
}

fn get(dir: &dyn Dir, name: &str) -> Vec<u8> {
    let file = dir.open(name, Access::READ).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn write(dir: &Arc<dyn Dir>, zxids: &[Zxid], file_len: u64) {
    let mut writer = Writer::new(dir.clone(), Zxid::ZERO, file_len);
    zxids.iter().for_each(|&z| writer.append(z, &record(z, 100)).unwrap());
    writer.finish().unwrap();
}

fn read(dir: &dyn Dir, after: Zxid) -> Result<(Vec<Zxid>, Reader), Error> {
    let mut reader = Reader::open(dir, after)?;
    let mut found = Vec::new();
    while let Some((zxid, bytes)) = reader.next_record()? {
        assert_eq!(bytes[12..20], zxid.as_u64().to_be_bytes());
        found.push(zxid);
    }
    Ok((found, reader))
}

fn fault(result: Result<(Vec<Zxid>, Reader), Error>) -> (Fault, u64, Zxid) {
    match result {
        Err(Error::Corrupt(damage)) => (damage.what, damage.offset, damage.after),
        Err(other) => panic!("wanted damage, got {other}"),
        Ok((found, _)) => panic!("wanted damage, got {found:?}"),
    }
}

#[test]
fn reads_what_a_real_server_wrote_and_writes_the_same_bytes() {
    let bytes = hex(REAL);
    let disk = Disk::new();
    let mut padded = bytes.clone();
    padded.resize(4096, 0);
    put(&*disk.dir("a"), "log.100000001", &padded);
    let mut reader = Reader::open(&*disk.dir("a"), Zxid::ZERO).unwrap();
    let (zxid, body) = reader.next_record().unwrap().unwrap();
    assert_eq!((zxid, body.len()), (z(1, 1), 48));
    let mut writer = Writer::new(disk.dir("b"), Zxid::ZERO, 1 << 20);
    writer.append(zxid, body).unwrap();
    assert!(reader.next_record().unwrap().is_none());
    let files = writer.finish().unwrap();
    assert_eq!(files.len(), 1);
    assert_eq!(get(&*disk.dir("b"), &files[0].name), bytes);
    // Nothing of it is lost by a power cut after finish.
    assert_eq!(get(&*disk.crash(&mut |_| false).dir("b"), "log.100000001"), bytes);
}

#[test]
fn many_files_and_epochs_read_as_one_from_any_zxid() {
    let disk = Disk::new();
    let dir = disk.dir("v");
    let all: Vec<Zxid> = (1..=30).map(|c| z(0, c)).chain((1..=30).map(|c| z(5, c))).collect();
    write(&dir, &all, 500);
    assert!(list(&*dir).unwrap().len() > 5);
    put(&*dir, "log.zebra", b"not a log");
    put(&*dir, "snapshot.1", b"not a log");
    for after in 0..all.len() {
        let from = if after == 0 { Zxid::ZERO } else { all[after - 1] };
        assert_eq!(read(&*dir, from).unwrap().0, all[after..]);
    }
    assert!(read(&*dir, *all.last().unwrap()).unwrap().0.is_empty());
}

#[test]
fn ends_are_silent_where_apache_is_silent() {
    let one = {
        let disk = Disk::new();
        write(&disk.dir("v"), &[z(1, 1), z(1, 2)], 1 << 20);
        get(&*disk.dir("v"), "log.100000001")
    };
    // Cut anywhere inside the second record: the first is read, the rest ends the file.
    let second = 16 + 113;
    for cut in second..one.len() {
        let disk = Disk::new();
        put(&*disk.dir("v"), "log.100000001", &one[..cut]);
        let (found, reader) = read(&*disk.dir("v"), Zxid::ZERO).unwrap();
        assert_eq!(found, [z(1, 1)], "cut at {cut}");
        assert_eq!(reader.partial_ends().len(), usize::from(cut >= second + 12), "cut at {cut}");
    }
    // A missing trailer too, and an empty last file.
    let disk = Disk::new();
    let mut torn = one.clone();
    *torn.last_mut().unwrap() = 0;
    put(&*disk.dir("v"), "log.100000001", &torn);
    put(&*disk.dir("v"), "log.100000002", b"");
    assert_eq!(read(&*disk.dir("v"), Zxid::ZERO).unwrap().0, [z(1, 1)]);
    // The server wrote the same zxid again to a new file: read on, once.
    let disk = Disk::new();
    put(&*disk.dir("v"), "log.100000001", &torn);
    write(&disk.dir("v"), &[z(1, 2), z(1, 3)], 1 << 20);
    assert_eq!(read(&*disk.dir("v"), Zxid::ZERO).unwrap().0, [z(1, 1), z(1, 2), z(1, 3)]);
}

#[test]
fn damage_is_an_error_with_its_place() {
    let disk = Disk::new();
    let dir = disk.dir("v");
    write(&dir, &[z(1, 1), z(1, 2)], 1 << 20);
    let second = 16 + 113;
    disk.flip("v", "log.100000001", second + 12 + 50, 1);
    assert_eq!(fault(read(&*dir, Zxid::ZERO)), (Fault::Checksum, second, z(1, 1)));
    disk.flip("v", "log.100000001", second + 12 + 50, 1);
    disk.flip("v", "log.100000001", second + 8, 7);
    assert_eq!(fault(read(&*dir, Zxid::ZERO)), (Fault::Length, second, z(1, 1)));
    disk.flip("v", "log.100000001", second + 8, 7);
    disk.flip("v", "log.100000001", 0, 0);
    assert_eq!(fault(read(&*dir, Zxid::ZERO)).0, Fault::ApacheMagic);
}

#[test]
fn holes_that_apache_overlooks_are_found() {
    let disk = Disk::new();
    let dir = disk.dir("v");
    write(&dir, &[z(1, 1), z(1, 2)], 1 << 20);
    write(&dir, &[z(1, 4)], 1 << 20);
    assert_eq!(fault(read(&*dir, Zxid::ZERO)), (Fault::Continuity, 16, z(1, 2)));
    // Between a snapshot and the first record as well.
    let disk = Disk::new();
    write(&disk.dir("v"), &[z(1, 4)], 1 << 20);
    assert_eq!(fault(read(&*disk.dir("v"), z(1, 2))), (Fault::Continuity, 16, z(1, 2)));
    let mut writer = Writer::new(disk.dir("w"), z(1, 2), 1 << 20);
    assert!(matches!(writer.append(z(1, 4), &record(z(1, 4), 50)), Err(Error::Gap { .. })));
    assert!(matches!(writer.append(z(1, 3), &record(z(1, 4), 50)), Err(Error::BadRecord { .. })));
}
