//! The main heap of glibc: the one that grows at the end of the program's data, by `brk`.
//!
//! glibc gives threads heaps of their own ("arenas"), which grow by a page and a system call at a time. The main heap grows by
//! as much as it is told, so its fresh pages can be made resident before anybody writes to them. With another C library
//! [`begin`] answers [`io::ErrorKind::Unsupported`].

use std::io;
use std::ops::Range;
use std::sync::OnceLock;

/// Where the main heap begins, or a little before it: where the first thread of the process had a block, rounded down.
static MAIN_BEGIN: OnceLock<usize> = OnceLock::new();

/// Bounds the heaps of this process to `heaps`: once there are as many, new threads share them in turn. Blocks of `large` bytes
/// and more get pages of their own, which go back to the system when freed; a heap with `keep` bytes free at its end gives them
/// back as well. To be said by the first thread of the process, before there are others. Returns whether that thread is on the main
/// heap: not so with another C library or another `malloc`, or where the system refuses `brk`.
pub fn begin(heaps: usize, large: usize, keep: usize) -> io::Result<bool> {
    tune::set(tune::ARENA_MAX, heaps)?;
    // Either of these stops glibc from moving both bounds by itself.
    tune::set(tune::MMAP_THRESHOLD, large)?;
    tune::set(tune::TRIM_THRESHOLD, keep)?;
    MAIN_BEGIN.get_or_init(|| a_block() & !(NEARBY - 1));
    Ok(is_on_main())
}

/// From now on the main heap grows by at least `bytes` at a time. Has the main heap tidied up (`malloc_consolidate`), so not to be
/// called all the time.
pub fn grow_main_by(bytes: usize) -> io::Result<()> {
    tune::set(tune::TOP_PAD, bytes)
}

/// Where the main heap ends now: an address, rounded down to whole pages.
pub fn main_end() -> usize {
    // SAFETY: an increment of 0 changes nothing and asks for the current end; no memory is passed. glibc answers from a word that
    // another thread's `malloc` may just write: what comes of it is an end that was true a moment ago.
    let end = unsafe { libc::sbrk(0) } as usize;
    // −1 says that there is no such heap.
    if end == usize::MAX { 0 } else { end & !(PAGE - 1) }
}

/// Whether the calling thread takes its memory from the main heap. "No" before [`begin`].
pub fn is_on_main() -> bool {
    MAIN_BEGIN.get().is_some_and(|&begin| (begin..main_end()).contains(&a_block()))
}

/// The address of a block as the calling thread gets it: larger than what a thread keeps of freed blocks, which may come from
/// another thread's heap.
fn a_block() -> usize {
    let block = std::hint::black_box(Vec::<u8>::with_capacity(3 * PAGE / 4));
    block.as_ptr().addr()
}

/// Makes the pages between two addresses resident and writable, so that a first write to them needs no fault. What they hold
/// does not change. Stops with an error at the first address that is not mapped (`OutOfMemory`), or at once where the kernel does not
/// know the request (before Linux 5.14) or refuses it.
pub fn populate(addresses: Range<usize>) -> io::Result<()> {
    let from = addresses.start & !(PAGE - 1);
    let len = addresses.end.saturating_sub(from);
    // SAFETY: MADV_POPULATE_WRITE faults pages in as a write would, but writes nothing: no byte that anybody can read changes,
    // whoever owns the addresses. Addresses that nobody has, or nobody may write to, are answered with an error.
    match unsafe { libc::madvise(from as *mut libc::c_void, len, MADV_POPULATE_WRITE) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The granularity of addresses here. Where pages are larger the heap ends at a multiple of theirs all the same.
const PAGE: usize = 4096;

/// The first block of a process lies so near to the beginning of its heap.
const NEARBY: usize = 1 << 20;

/// `linux/mman.h`.
const MADV_POPULATE_WRITE: libc::c_int = 23;

#[cfg(target_env = "gnu")]
mod tune {
    use std::io;

    pub(super) const ARENA_MAX: libc::c_int = libc::M_ARENA_MAX;
    pub(super) const MMAP_THRESHOLD: libc::c_int = libc::M_MMAP_THRESHOLD;
    pub(super) const TRIM_THRESHOLD: libc::c_int = libc::M_TRIM_THRESHOLD;
    pub(super) const TOP_PAD: libc::c_int = libc::M_TOP_PAD;

    pub(super) fn set(what: libc::c_int, to: usize) -> io::Result<()> {
        let to = libc::c_int::try_from(to).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        // SAFETY: takes no memory. The manual calls it unsafe beside other threads, because it changes a setting that others read.
        // glibc (2.26 to 2.40) stores one aligned word under the lock of the main heap, under which that heap reads it; other heaps
        // read the old or the new value, each of which is a valid bound.
        match unsafe { libc::mallopt(what, to) } {
            0 => Err(io::ErrorKind::InvalidInput.into()),
            _ => Ok(()),
        }
    }
}

#[cfg(not(target_env = "gnu"))]
mod tune {
    use std::io;

    pub(super) const ARENA_MAX: libc::c_int = 0;
    pub(super) const MMAP_THRESHOLD: libc::c_int = 0;
    pub(super) const TRIM_THRESHOLD: libc::c_int = 0;
    pub(super) const TOP_PAD: libc::c_int = 0;

    pub(super) fn set(_: libc::c_int, _: usize) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use super::*;

    #[test]
    fn pages_become_resident_and_keep_what_they_hold() {
        let mut block = vec![7_u8; 64 * PAGE];
        block[0] = 9;
        let from = block.as_ptr() as usize;
        match populate(from..from + block.len()) {
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => return, // Before Linux 5.14.
            done => done.unwrap(),
        }
        assert!(block[0] == 9 && block[1..].iter().all(|&b| b == 7));
        // Page 0 belongs to nobody.
        assert_eq!(populate(0..PAGE).unwrap_err().raw_os_error(), Some(libc::ENOMEM));
    }
}
