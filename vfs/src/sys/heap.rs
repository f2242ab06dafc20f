//! The main heap of glibc: the one that grows at the end of the program's data, by `brk`.
//!
//! glibc gives threads heaps of their own ("arenas"), which grow by a page and a system call at a time. The main heap grows by
//! as much as it is told, so its fresh pages can be made resident before anybody writes to them. With another C library
//! everything here answers [`io::ErrorKind::Unsupported`], or "no".

use std::io;
use std::ops::Range;

/// Bounds the heaps of this process to `heaps`: once there are as many, new threads share them in turn. To be said before
/// threads are started. Blocks of `large` bytes and more get pages of their own, which go back to the system when freed.
pub fn bound_heaps(heaps: usize, large: usize) -> io::Result<()> {
    tune::set(tune::ARENA_MAX, heaps)?;
    tune::set(tune::MMAP_THRESHOLD, large)
}

/// From now on the main heap grows by at least `bytes` at a time, and gives its end back to the system when twice as much and
/// `keep` more of it is free.
pub fn grow_main_by(bytes: usize, keep: usize) -> io::Result<()> {
    tune::set(tune::TRIM_THRESHOLD, 2 * bytes + keep)?;
    tune::set(tune::TOP_PAD, bytes)
}

/// Where the main heap ends now: an address, rounded down to whole pages.
pub fn main_end() -> usize {
    // SAFETY: an increment of 0 changes nothing and asks for the current end; no memory is passed.
    let end = unsafe { libc::sbrk(0) } as usize;
    // −1 says that there is no such heap.
    if end == usize::MAX { 0 } else { end & !(PAGE - 1) }
}

/// Whether the calling thread takes its memory from the main heap: it takes a block and looks.
pub fn is_on_main() -> bool {
    // Larger than what a thread keeps of freed blocks, which may come from another thread's heap.
    let block = std::hint::black_box(Vec::<u8>::with_capacity(3 * PAGE / 4));
    tune::KNOWN && (block.as_ptr() as usize) < main_end()
}

/// Makes the pages between two addresses resident and writable, so that a first write to them needs no fault. What they hold
/// does not change. Stops with an error at the first address that is not mapped, or where the kernel does not know the
/// request (before Linux 5.14).
pub fn populate(addresses: Range<usize>) -> io::Result<()> {
    let from = addresses.start & !(PAGE - 1);
    let len = addresses.end.saturating_sub(from);
    // SAFETY: MADV_POPULATE_WRITE faults pages in as a write would, but writes nothing: no byte that anybody can read changes,
    // whoever owns the addresses. Addresses that nobody has are answered with ENOMEM, those that can't be written with EFAULT.
    match unsafe { libc::madvise(from as *mut libc::c_void, len, MADV_POPULATE_WRITE) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The granularity of addresses here; where pages are larger, asking for part of one asks for all of it.
const PAGE: usize = 4096;

/// `linux/mman.h`.
const MADV_POPULATE_WRITE: libc::c_int = 23;

#[cfg(target_env = "gnu")]
mod tune {
    use std::io;

    pub(super) const KNOWN: bool = true;
    pub(super) const ARENA_MAX: libc::c_int = libc::M_ARENA_MAX;
    pub(super) const MMAP_THRESHOLD: libc::c_int = libc::M_MMAP_THRESHOLD;
    pub(super) const TRIM_THRESHOLD: libc::c_int = libc::M_TRIM_THRESHOLD;
    pub(super) const TOP_PAD: libc::c_int = libc::M_TOP_PAD;

    pub(super) fn set(what: libc::c_int, to: usize) -> io::Result<()> {
        let to = libc::c_int::try_from(to).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        // SAFETY: takes no memory. glibc changes the setting under the lock of the main heap, under which that heap reads it;
        // other heaps read it as one word, for a bound that may as well be the old one.
        match unsafe { libc::mallopt(what, to) } {
            0 => Err(io::ErrorKind::InvalidInput.into()),
            _ => Ok(()),
        }
    }
}

#[cfg(not(target_env = "gnu"))]
mod tune {
    use std::io;

    pub(super) const KNOWN: bool = false;
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
        populate(from..from + block.len()).unwrap();
        assert!(block[0] == 9 && block[1..].iter().all(|&b| b == 7));
        // Page 0 belongs to nobody.
        assert_eq!(populate(0..PAGE).unwrap_err().raw_os_error(), Some(libc::ENOMEM));
    }
}
