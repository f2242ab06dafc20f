//! The superblock: who this directory belongs to, what was promised, where the log begins.
//!
//! A file of two blocks, each a copy. An update writes the new state over one copy durably, then over the other. So:
//!
//! | crash or damage | what is left |
//! |---|---|
//! | before or in the first write | the other copy: the state before, which nobody was told had changed |
//! | between or in the writes | the first copy: the new state |
//! | one copy damaged later | the other one, equal |
//!
//! ```text
//!   0  8  magic "FLCNSUP1"               56  8  first segment of the log, 0 = no log yet
//!   8  4  format version, 1              64  8  a segment that must exist, as must all it names
//!  12  4  crc32c over the block,         72  8  secret of salts and hash
//!         this field zero                80  8  flags: bit 0 joined, bit 1 cut
//!  16  8  sequence, the higher wins      88  8  with bit 1: what lies behind this zxid, in log
//!  24  8  server id                             and snapshots, is being cut off
//!  32  8  cluster id                     96     zeros to 4096
//!  40  8  accepted epoch
//!  48  8  current epoch
//! ```

use crate::error::Error;
use crate::format::{get32, get64, put32, put64, salt};
use proto::{Durable, DurableEpochs, Epoch, ServerId, Zxid};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use vfs::{Access, AlignedBuf, BLOCK, Dir, File};

const NAME: &str = "superblock";
const TEMP: &str = "superblock.tmp";
const MAGIC: [u8; 8] = *b"FLCNSUP1";
const VERSION: u32 = 1;
const JOINED: u64 = 1;
const CUT: u64 = 2;

/// Who owns the directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The server, `myid`; 0 standalone.
    pub server: ServerId,
    /// The ensemble: any number made once and equal on all of its servers, or 0 where none is known.
    pub cluster: u64,
}

/// What the superblock holds.
#[derive(Clone, PartialEq, Eq)]
pub struct Contents {
    /// Who owns the directory.
    pub identity: Identity,
    /// The highest epoch this server promised to follow.
    pub accepted_epoch: Epoch,
    /// The epoch whose history is durable here. `current <= accepted`.
    pub current_epoch: Epoch,
    /// The first segment of the log; 0: there is no log yet.
    pub log_start: u64,
    /// A segment that must exist.
    pub log_newest: u64,
    /// This server holds a history that it may vote with: it created the ensemble or has synchronised once.
    pub joined: bool,
    /// Log and snapshots are being cut behind this zxid, or replaced by the snapshot there: whoever finds this finishes it
    /// before anything is read.
    pub cut: Option<Zxid>,
    secret: u64,
}

impl fmt::Debug for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contents")
            .field("identity", &self.identity)
            .field("accepted_epoch", &self.accepted_epoch)
            .field("current_epoch", &self.current_epoch)
            .field("log_start", &self.log_start)
            .field("log_newest", &self.log_newest)
            .field("joined", &self.joined)
            .field("cut", &self.cut)
            .finish_non_exhaustive()
    }
}

impl Contents {
    /// What the log needs to know of it.
    pub fn root(&self) -> Root {
        Root { identity: self.identity, start: self.log_start, newest: self.log_newest, secret: self.secret }
    }

    fn encode(&self, sequence: u64, block: &mut [u8]) {
        block.fill(0);
        block[..8].copy_from_slice(&MAGIC);
        put32(block, 8, VERSION);
        put64(block, 16, sequence);
        put64(block, 24, self.identity.server.0 as u64);
        put64(block, 32, self.identity.cluster);
        put64(block, 40, self.accepted_epoch.0.into());
        put64(block, 48, self.current_epoch.0.into());
        put64(block, 56, self.log_start);
        put64(block, 64, self.log_newest);
        put64(block, 72, self.secret);
        let flag = |set, bit| if set { bit } else { 0 };
        put64(block, 80, flag(self.joined, JOINED) | flag(self.cut.is_some(), CUT));
        put64(block, 88, self.cut.map_or(0, Zxid::as_u64));
        let crc = crc32c::crc32c(block);
        put32(block, 12, crc);
    }

    fn decode(block: &[u8]) -> Copy {
        if block[..8] != MAGIC {
            return Copy::Damaged;
        }
        let mut zeroed = block.to_vec();
        put32(&mut zeroed, 12, 0);
        if crc32c::crc32c(&zeroed) != get32(block, 12) {
            return Copy::Damaged;
        }
        let version = get32(block, 8);
        let (accepted, current) = (u32::try_from(get64(block, 40)), u32::try_from(get64(block, 48)));
        let (VERSION, Ok(accepted), Ok(current)) = (version, accepted, current) else {
            return Copy::Newer(version);
        };
        let contents = Contents {
            identity: Identity { server: ServerId(get64(block, 24) as i64), cluster: get64(block, 32) },
            accepted_epoch: Epoch(accepted),
            current_epoch: Epoch(current),
            log_start: get64(block, 56),
            log_newest: get64(block, 64),
            secret: get64(block, 72),
            joined: get64(block, 80) & JOINED != 0,
            cut: (get64(block, 80) & CUT != 0).then(|| Zxid::from_u64(get64(block, 88))),
        };
        Copy::Good(get64(block, 16), contents)
    }
}

/// Where the log is rooted: the part of the superblock that a reader of the log needs.
#[derive(Clone, Copy)]
pub struct Root {
    /// Who owns it.
    pub identity: Identity,
    /// The first segment; 0: none.
    pub start: u64,
    /// A segment that must exist.
    pub newest: u64,
    pub(crate) secret: u64,
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Root({:?}, segments {}..{})", self.identity, self.start, self.newest)
    }
}

enum Copy {
    Good(u64, Contents),
    Newer(u32),
    Damaged,
}

/// The superblock of a data directory, open for updates.
#[derive(Debug)]
pub struct Superblock {
    file: Arc<dyn File>,
    sequence: u64,
    contents: Contents,
    /// A copy was unreadable when it was opened; it has been rewritten since.
    damaged_copy: bool,
    /// The copies differ: to be made equal before anything is built on the newer one.
    uneven: bool,
    poisoned: Option<Arc<str>>,
}

impl Superblock {
    /// Reads the superblock without any right to change it; `None` if there is none.
    pub fn peek(dir: &dyn Dir) -> Result<Option<Contents>, Error> {
        let file = match dir.open(NAME, Access::READ) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|e| Error::io("open", &path(dir), None, e))?,
        };
        Ok(Some(Superblock::read(file)?.contents))
    }

    /// Opens the superblock of a directory; `None` if it has none (a directory that Falconer never used).
    pub fn open(dir: &dyn Dir) -> Result<Option<Superblock>, Error> {
        let file = match dir.open(NAME, Access::WRITE) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|e| Error::io("open", &path(dir), None, e))?,
        };
        // What is read here is trusted and acted upon: it must not vanish.
        file.sync().map_err(|e| Error::io("sync", file.path(), None, e))?;
        dir.sync().map_err(|e| Error::io("sync", dir.path(), None, e))?;
        let mut superblock = Superblock::read(file)?;
        if superblock.uneven {
            superblock.update(|_| {})?;
        }
        Ok(Some(superblock))
    }

    /// Makes the superblock of a new directory. `secret` is any random number, never shown to anyone.
    pub fn create(dir: &dyn Dir, identity: Identity, secret: u64) -> Result<Superblock, Error> {
        let contents = Contents {
            identity,
            accepted_epoch: Epoch(0),
            current_epoch: Epoch(0),
            log_start: 0,
            log_newest: 0,
            joined: false,
            cut: None,
            secret,
        };
        let failed = |doing| move |e| Error::io(doing, &path(dir), None, e);
        match dir.unlink(TEMP) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed("remove the rest of")(e));
            }
            _ => {}
        }
        let file = dir.create(TEMP, Access::WRITE).map_err(failed("create"))?;
        let mut blocks = AlignedBuf::zeroed(2 * BLOCK);
        contents.encode(1, &mut blocks[..BLOCK]);
        contents.encode(2, &mut blocks[BLOCK..]);
        file.write_at(&blocks, 0).map_err(failed("write"))?;
        file.sync().map_err(failed("sync"))?;
        dir.rename(TEMP, NAME).map_err(failed("rename"))?;
        dir.sync().map_err(failed("sync the name of"))?;
        let file = dir.open(NAME, Access::WRITE).map_err(failed("open"))?;
        Ok(Superblock { file, sequence: 2, contents, damaged_copy: false, uneven: false, poisoned: None })
    }

    fn read(file: Arc<dyn File>) -> Result<Superblock, Error> {
        let mut blocks = AlignedBuf::zeroed(2 * BLOCK);
        // A short or unreadable copy counts as damaged; the other one serves.
        let mut newer = None;
        let mut best: Option<(u64, Contents)> = None;
        let (mut damaged_copy, mut uneven) = (false, false);
        for at in 0..2 {
            let block = &mut blocks[at * BLOCK..(at + 1) * BLOCK];
            let copy = match file.read_exact_at(block, (at * BLOCK) as u64) {
                Ok(()) => Contents::decode(block),
                Err(_) => Copy::Damaged,
            };
            match copy {
                Copy::Good(sequence, contents) => {
                    uneven |= best.as_ref().is_some_and(|(_, other)| *other != contents);
                    if best.as_ref().is_none_or(|(s, _)| *s < sequence) {
                        best = Some((sequence, contents));
                    }
                }
                Copy::Newer(version) => newer = Some(version),
                Copy::Damaged => damaged_copy = true,
            }
        }
        let path = file.path().to_path_buf();
        if let Some(found) = newer {
            return Err(Error::Version { path, found, known: VERSION });
        }
        let (sequence, contents) = best.ok_or(Error::SuperblockDamaged { path })?;
        Ok(Superblock {
            file,
            sequence,
            contents,
            damaged_copy,
            uneven: uneven || damaged_copy,
            poisoned: None,
        })
    }

    /// What it holds.
    pub fn contents(&self) -> &Contents {
        &self.contents
    }

    /// A secret number for the hash of paths, the same as long as this directory lives: so a snapshot holds the znodes in
    /// the order in which the tree of the next start wants them. Nothing follows from it for the salts, nor from them for it.
    pub fn hash_key(&self) -> u64 {
        salt(!self.contents.secret.rotate_left(32), u64::MAX)
    }

    /// One of the copies was damaged when it was opened: worth a warning, the disk forgets.
    pub fn damaged_copy(&self) -> bool {
        self.damaged_copy
    }

    /// Notices a directory of somebody else.
    pub fn check_identity(&self, expected: Identity) -> Result<(), Error> {
        let found = self.contents.identity;
        let foreign = |what, wanted: String, found: String| {
            Err(Error::Foreign { path: self.file.path().into(), what, wanted, found })
        };
        if found.server != expected.server {
            return foreign("server id", expected.server.to_string(), found.server.to_string());
        }
        if found.cluster != expected.cluster && found.cluster != 0 && expected.cluster != 0 {
            return foreign(
                "cluster id",
                format!("{:#x}", expected.cluster),
                format!("{:#x}", found.cluster),
            );
        }
        Ok(())
    }

    /// The epochs as they are on stable storage.
    pub fn epochs(&self) -> DurableEpochs {
        DurableEpochs::from_completed_write(self.contents.accepted_epoch, self.contents.current_epoch)
    }

    /// Promises durably to follow no epoch below `epoch`. Only after this returns may an ACKEPOCH (or a leader's own
    /// acceptance) exist.
    pub fn accept_epoch(&mut self, epoch: Epoch) -> Result<(), Error> {
        let now = self.contents.accepted_epoch;
        if epoch < now {
            return Err(Error::EpochWentBack { what: "accepted", now: now.0, given: epoch.0 });
        }
        self.update(|c| c.accepted_epoch = epoch)
    }

    /// Records that the history of `epoch` is here. Takes the proof that this history is durable: epoch files written before
    /// the history were a way to lose acknowledged writes (ZOOKEEPER-4643).
    pub fn enter_epoch(&mut self, epoch: Epoch, history: Durable) -> Result<(), Error> {
        let now = self.contents.current_epoch;
        if epoch < now || epoch < history.upto().epoch() {
            let now = now.0.max(history.upto().epoch().0);
            return Err(Error::EpochWentBack { what: "current", now, given: epoch.0 });
        }
        self.update(|c| {
            c.current_epoch = epoch;
            c.accepted_epoch = c.accepted_epoch.max(epoch);
            c.joined = true;
        })
    }

    /// Records that this server may vote with what it has.
    pub fn set_joined(&mut self) -> Result<(), Error> {
        self.update(|c| c.joined = true)
    }

    /// Records that this server has nothing any more that it may vote with.
    pub fn set_blank(&mut self) -> Result<(), Error> {
        self.update(|c| c.joined = false)
    }

    /// Begins to cut log and snapshots behind `after`: from now on what lies there is gone, whatever happens. It is several
    /// files, and a crash among them must not bring back half of it.
    pub fn begin_cut(&mut self, after: Zxid) -> Result<(), Error> {
        self.update(|c| c.cut = Some(after))
    }

    /// The cut is done.
    pub fn end_cut(&mut self) -> Result<(), Error> {
        self.update(|c| c.cut = None)
    }

    /// Gives the directory of a server that ran alone without an id the id that it has now.
    pub fn adopt_server(&mut self, server: ServerId) -> Result<(), Error> {
        if self.contents.identity.server == ServerId(0) {
            self.update(|c| c.identity.server = server)?;
        }
        self.check_identity(Identity { server, ..self.contents.identity })
    }

    /// Takes over the epochs of an imported directory.
    pub fn import_epochs(&mut self, accepted: Epoch, current: Epoch) -> Result<(), Error> {
        let now = &self.contents;
        if accepted < now.accepted_epoch || current < now.current_epoch || accepted < current {
            let now = now.accepted_epoch.max(current);
            return Err(Error::EpochWentBack { what: "imported", now: now.0, given: accepted.0 });
        }
        self.update(|c| (c.accepted_epoch, c.current_epoch, c.joined) = (accepted, current, true))
    }

    /// Gives the directory the ensemble's id, if it has none yet.
    pub fn adopt_cluster(&mut self, cluster: u64) -> Result<(), Error> {
        self.check_identity(Identity { cluster, ..self.contents.identity })?;
        self.update(|c| c.identity.cluster = cluster)
    }

    pub(crate) fn set_log(&mut self, start: u64, newest: u64) -> Result<(), Error> {
        self.update(|c| (c.log_start, c.log_newest) = (start, newest))
    }

    fn update(&mut self, change: impl FnOnce(&mut Contents)) -> Result<(), Error> {
        if let Some(first) = &self.poisoned {
            return Err(Error::Poisoned { first: first.clone() });
        }
        let mut next = self.contents.clone();
        change(&mut next);
        if next == self.contents && !self.uneven {
            return Ok(());
        }
        let mut block = AlignedBuf::zeroed(BLOCK);
        // Over the older copy first: the sequence says which (even: the second block holds the newer one).
        for _ in 0..2 {
            self.sequence += 1;
            next.encode(self.sequence, &mut block);
            let offset = (1 - self.sequence % 2) * BLOCK as u64;
            if let Err(e) = self.file.write_durable(&block, offset) {
                let error = Error::io("write", self.file.path(), Some(offset), e);
                self.poisoned = Some(error.to_string().into());
                return Err(error);
            }
        }
        self.contents = next;
        self.uneven = false;
        Ok(())
    }
}

fn path(dir: &dyn Dir) -> PathBuf {
    dir.path().join(NAME)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::Zxid;
    use vfs::mem::{Disk, Failure};

    const IDENTITY: Identity = Identity { server: ServerId(3), cluster: 0x77 };

    fn reopen(disk: &Disk) -> Superblock {
        Superblock::open(&*disk.dir("d")).unwrap().unwrap()
    }

    #[test]
    fn its_bytes_are_as_drawn() {
        let disk = Disk::new();
        let mut s = Superblock::create(&*disk.dir("d"), IDENTITY, 0x1122_3344_5566_7788).unwrap();
        s.accept_epoch(Epoch(9)).unwrap();
        s.enter_epoch(Epoch(8), Durable::from_completed_write(Zxid::new(Epoch(8), 1))).unwrap();
        s.set_log(5, 6).unwrap();
        let mut block = vec![0; BLOCK];
        disk.dir("d").open(NAME, Access::READ).unwrap().read_exact_at(&mut block, BLOCK as u64).unwrap();
        let hex: String = block[..88].iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(
            hex,
            "464c434e5355503101000000f05dec9f\
             08000000000000000300000000000000\
             77000000000000000900000000000000\
             08000000000000000500000000000000\
             06000000000000008877665544332211\
             0100000000000000"
        );
        assert!(block[88..].iter().all(|&b| b == 0));
        assert_eq!(reopen(&disk).contents(), s.contents());
    }

    #[test]
    fn any_flipped_bit_of_one_copy_is_survived_and_healed() {
        for at in 0..2 * BLOCK as u64 {
            let disk = Disk::new();
            let mut s = Superblock::create(&*disk.dir("d"), IDENTITY, 5).unwrap();
            s.accept_epoch(Epoch(4)).unwrap();
            disk.flip("d", NAME, at, (at % 8) as u8);
            let again = reopen(&disk);
            assert_eq!(again.contents(), s.contents(), "a flip at {at}");
            assert!(again.damaged_copy());
            // Healed: the other copy may go now.
            disk.flip("d", NAME, (at + BLOCK as u64) % (2 * BLOCK as u64), 0);
            assert_eq!(reopen(&disk).contents(), s.contents(), "a flip at {at}");
        }
    }

    #[test]
    fn both_copies_damaged_is_an_error() {
        let disk = Disk::new();
        Superblock::create(&*disk.dir("d"), IDENTITY, 5).unwrap();
        disk.flip("d", NAME, 30, 0);
        disk.flip("d", NAME, 4200, 0);
        assert!(matches!(Superblock::open(&*disk.dir("d")), Err(Error::SuperblockDamaged { .. })));
        assert!(Superblock::open(&*disk.dir("other")).unwrap().is_none());
    }

    #[test]
    fn an_update_cut_between_its_copies_does_not_go_back_later() {
        let disk = Disk::new();
        let mut s = Superblock::create(&*disk.dir("d"), IDENTITY, 5).unwrap();
        // The second copy of the update fails: the caller is told so, yet the first copy stands.
        disk.fail(2, Failure::Eio);
        assert!(s.accept_epoch(Epoch(4)).is_err());
        assert!(matches!(s.accept_epoch(Epoch(5)), Err(Error::Poisoned { .. })));
        let after = disk.crash(&mut |_| false);
        assert_eq!(reopen(&after).contents().accepted_epoch, Epoch(4));
        // Acted upon now: damage to the first copy must not bring the old state back.
        after.flip("d", NAME, 41, 0);
        assert_eq!(reopen(&after).contents().accepted_epoch, Epoch(4));
    }

    #[test]
    fn a_cut_is_remembered_until_it_is_done() {
        let disk = Disk::new();
        let mut s = Superblock::create(&*disk.dir("d"), IDENTITY, 5).unwrap();
        assert_eq!(s.contents().cut, None);
        // A cut behind zero is one too.
        for after in [Zxid::ZERO, Zxid::new(Epoch(3), 7)] {
            s.begin_cut(after).unwrap();
            assert_eq!(reopen(&disk).contents().cut, Some(after));
            s.end_cut().unwrap();
            assert_eq!(reopen(&disk).contents().cut, None);
        }
    }

    #[test]
    fn a_server_without_an_id_gets_one_and_keeps_it() {
        let disk = Disk::new();
        let nobody = Identity { server: ServerId(0), ..IDENTITY };
        let mut s = Superblock::create(&*disk.dir("d"), nobody, 5).unwrap();
        s.adopt_server(ServerId(7)).unwrap();
        assert_eq!(reopen(&disk).contents().identity.server, ServerId(7));
        assert!(matches!(s.adopt_server(ServerId(8)), Err(Error::Foreign { .. })));
        assert!(matches!(s.adopt_server(ServerId(0)), Err(Error::Foreign { .. })));
    }

    #[test]
    fn epochs_do_not_go_back_and_directories_of_others_are_noticed() {
        let disk = Disk::new();
        let mut s = Superblock::create(&*disk.dir("d"), IDENTITY, 5).unwrap();
        let history = |e| Durable::from_completed_write(Zxid::new(Epoch(e), 7));
        s.accept_epoch(Epoch(4)).unwrap();
        assert!(matches!(s.accept_epoch(Epoch(3)), Err(Error::EpochWentBack { .. })));
        assert!(matches!(s.enter_epoch(Epoch(3), history(4)), Err(Error::EpochWentBack { .. })));
        s.enter_epoch(Epoch(4), history(3)).unwrap();
        assert!(s.contents().joined);
        assert!(matches!(s.enter_epoch(Epoch(3), history(1)), Err(Error::EpochWentBack { .. })));
        s.check_identity(IDENTITY).unwrap();
        for other in [Identity { server: ServerId(4), ..IDENTITY }, Identity { cluster: 0x78, ..IDENTITY }] {
            assert!(matches!(s.check_identity(other), Err(Error::Foreign { .. })));
        }
        assert!(!format!("{:?}", s.contents()).contains("secret"));
        let key = s.hash_key();
        drop(s);
        assert_eq!(Superblock::open(&*disk.dir("d")).unwrap().unwrap().hash_key(), key);
        assert_ne!(Superblock::create(&*disk.dir("e"), IDENTITY, 6).unwrap().hash_key(), key);
    }
}
