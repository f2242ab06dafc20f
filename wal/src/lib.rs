//! The write-ahead log.
//!
//! It makes records (txns in the protocol's own bytes, each with its zxid) durable in order, many at a time, and reads them back
//! after a crash: everything that anybody was told of, nothing that was never proposed, or an error that says where the damage is.
//!
//! Nouns: a *segment* is a prepared file of fixed size; a *batch* is what one durable write carries, the unit of checksum and of
//! durability; the *superblock* says who owns the directory, which epochs were promised and where the log begins.
//!
//! ```text
//!   Superblock::open ─► Recovery::open ─► replay(after, f) ─► finish ─► Log { appender, preparer }
//!
//!   records ─► Appender::append ─► batch buffer ─► submit ─► device ─► complete ─► Durable token
//!                  │                    (commit = submit, then complete all)
//!                  │ segment full, role change, truncation: header of the next segment names what it continues
//!                  ▼
//!             Shelf of spares ◄── Preparer::step: zeroes, recycles, renames; never on the commit path
//! ```
//!
//! The rules, each for its crash:
//!
//! * A batch starts on a 4 KiB boundary and no block is written twice: a torn write can hurt only what nobody was told.
//! * The end is never continued in place. Start, recovery, truncation and role change open a new segment, whose header names
//!   the last live batch and zxid; what lies behind that is dead without a byte being rewritten.
//! * A bad batch is a torn tail unless a later one was issued knowing it durable; then it is corruption, and an error.
//! * What recovery read is synced before [`Recovery::finish`] returns: readable is not durable.
//! * A failed or short write poisons the appender for the life of the process. A write that does not return at all is for the
//!   owner's watchdog; there is no clock in here.
//!
//! What it does not do: it knows no txn but its zxid, starts no thread, draws no random number, reads no clock.
//! [`apache`] reads and writes the logs of Apache ZooKeeper, for import and export.
//!
//! ```
//! use proto::{ServerId, Zxid};
//! use wal::{Config, Identity, Recovery, Superblock};
//! # fn record(z: u64) -> Vec<u8> { let mut r = vec![0; 40]; r[12..20].copy_from_slice(&z.to_be_bytes()); r }
//! let disk = vfs::mem::Disk::new();
//! let identity = Identity { server: ServerId(1), cluster: 7 };
//! let mut superblock = Superblock::create(&*disk.dir("data"), identity, 0x5eed)?;
//! let config = Config { segment_len: 64 << 10, ..Config::default() };
//! let mut log = Recovery::open(disk.dir("data/log"), &superblock, config)?.finish(&mut superblock, Zxid::ZERO)?;
//! let (one, two) = (record(1), record(2));
//! log.appender.append([(Zxid::from_u64(1), &one[..]), (Zxid::from_u64(2), &two[..])])?;
//! assert_eq!(log.appender.commit()?.upto(), Zxid::from_u64(2));
//! # Ok::<(), wal::Error>(())
//! ```

pub mod apache;
mod chain;
mod cut;
pub mod error;
pub mod format;
pub mod limits;
mod log;
mod reader;
mod spares;
mod superblock;

pub use chain::{FileState, inventory};
pub use cut::cut;
pub use error::{Damage, Error, Fault};
pub use log::{Appender, Config, Counts, Log, Purge, Purged, Recovery};
pub use reader::{Batch, BatchInfo, End, Reader, SegmentInfo};
pub use spares::{Preparer, Space, Step};
pub use superblock::{Contents, Identity, Root, Superblock};
