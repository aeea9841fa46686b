//! Memory of processes that are forked in order to be quick: fewer page faults after the fork.
//!
//! A fault costs two microseconds and more, and a fork starts with all that it writes to shared and
//! all that it runs, of the program's file, unmapped.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::fs::{File, OpenOptions, read_to_string};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use super::check;

/// `linux/mman.h`, since Linux 5.14.
const MADV_POPULATE_READ: libc::c_int = 22;

/// Makes forks of this process, and theirs, begin with the program's own pages mapped.
///
/// A fork copies page tables only of mappings that have private pages, for the others it trusts in
/// faults. So each mapping of the program gets one: a byte is overwritten with itself.
///
/// # Errors
/// What the kernel says; then forks are a little slower, and nothing else.
pub fn map_program_for_forks() -> io::Result<()> {
    let memory = OpenOptions::new().read(true).write(true).open("/proc/self/mem")?;
    for line in read_to_string("/proc/self/maps")?.lines() {
        if let Some((start, end)) = constant_mapping(line) {
            map_for_forks(&memory, start, end)?;
        }
    }
    Ok(())
}

fn map_for_forks(memory: &File, start: u64, end: u64) -> io::Result<()> {
    let mut byte = [0];
    memory.read_exact_at(&mut byte, start)?;
    memory.write_all_at(&byte, start)?;
    let (Ok(address), Ok(length)) = (usize::try_from(start), usize::try_from(end - start)) else {
        return Ok(());
    };
    let address = std::ptr::with_exposed_provenance_mut(address);
    // SAFETY: this advice reads pages in and changes no content.
    check(unsafe { libc::madvise(address, length, MADV_POPULATE_READ) }).map(drop)
}

/// Where a line of `/proc/PID/maps` says that a file is mapped privately and not writable.
fn constant_mapping(line: &str) -> Option<(u64, u64)> {
    let mut fields = line.split_ascii_whitespace();
    let (range, mode) = (fields.next()?, fields.next()?);
    let (_offset, _device, inode) = (fields.next()?, fields.next()?, fields.next()?);
    if inode == "0" || !matches!(mode, "r--p" | "r-xp") {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?))
}

const BURST_BYTES: usize = 128 * 1024;

#[repr(C, align(4096))]
struct Region(UnsafeCell<[u8; BURST_BYTES]>);

// SAFETY: handed out in pieces that do not overlap, each to one owner.
unsafe impl Sync for Region {}

static REGION: Region = Region(UnsafeCell::new([0; BURST_BYTES]));
static USED: AtomicUsize = AtomicUsize::new(0);
static IN_BURST: AtomicBool = AtomicBool::new(false);

/// The heap of the program that is forked: the system's, but for bursts.
///
/// Between [`begin_burst`] and [`end_burst`] memory comes from one place, in order, and none is
/// given back. A fresh fork that lives on the system's heap copies a page for each of the many
/// holes that its parent left there; in a burst it touches two.
#[derive(Debug)]
pub struct Heap;

/// From here on until [`end_burst`], what is freed is not, and what is new lies together. Once in a
/// process.
pub fn begin_burst() {
    IN_BURST.store(true, Relaxed);
}

/// Back to the system's heap; what came from the burst stays valid, and freeing it does nothing.
pub fn end_burst() {
    IN_BURST.store(false, Relaxed);
}

fn is_of_burst(pointer: *mut u8) -> bool {
    pointer.addr().wrapping_sub(REGION.0.get().addr()) < BURST_BYTES
}

fn from_burst(layout: Layout) -> Option<*mut u8> {
    let base = REGION.0.get().addr();
    let used = USED.load(Relaxed);
    let start = (base + used).checked_next_multiple_of(layout.align())? - base;
    let end = start.checked_add(layout.size())?;
    if end > BURST_BYTES {
        return None;
    }
    USED.store(end, Relaxed);
    Some(REGION.0.get().cast::<u8>().wrapping_add(start))
}

// SAFETY: pieces of the region do not overlap, are never handed out twice, and are never passed to
// the system's heap; all else is the system's. The processes that use bursts have one thread.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let piece = if IN_BURST.load(Relaxed) { from_burst(layout) } else { None };
        // SAFETY: as the caller promises.
        piece.unwrap_or_else(|| unsafe { System.alloc(layout) })
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if !IN_BURST.load(Relaxed) && !is_of_burst(pointer) {
            // SAFETY: as the caller promises; it is the system's.
            unsafe { System.dealloc(pointer, layout) }
        }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !IN_BURST.load(Relaxed) && !is_of_burst(pointer) {
            // SAFETY: as the caller promises; it is the system's.
            return unsafe { System.realloc(pointer, layout, size) };
        }
        let Ok(wanted) = Layout::from_size_align(size, layout.align()) else {
            return std::ptr::null_mut();
        };
        // SAFETY: as the caller promises, the size is not 0.
        let new = unsafe { self.alloc(wanted) };
        if !new.is_null() {
            // SAFETY: both are live, of at least that length, and apart.
            unsafe { std::ptr::copy_nonoverlapping(pointer, new, layout.size().min(size)) };
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_private_files_that_are_not_written_are_mapped_for_forks() {
        let line = |mode: &str, inode: u64| {
            constant_mapping(&format!(
                "7f00-8000 {mode} 00000000 00:01 {inode}   /memfd:x (deleted)"
            ))
        };
        assert_eq!(line("r-xp", 5), Some((0x7f00, 0x8000)));
        assert_eq!(line("r--p", 5), Some((0x7f00, 0x8000)));
        for other in [line("rw-p", 5), line("r-xs", 5), line("r-xp", 0), constant_mapping("")] {
            assert_eq!(other, None);
        }
    }

    #[test]
    fn a_burst_gives_pieces_that_are_apart_aligned_and_kept() {
        let layout = |size, align| Layout::from_size_align(size, align).expect("a layout");
        let first = from_burst(layout(3, 1)).expect("room");
        let second = from_burst(layout(100, 64)).expect("room");
        assert!(second.addr() >= first.addr() + 3 && second.addr() % 64 == 0);
        assert!(is_of_burst(first) && is_of_burst(second));
        assert_eq!(from_burst(layout(BURST_BYTES, 1)), None);
        let outside = Box::into_raw(Box::new(0u8));
        assert!(!is_of_burst(outside));
        // SAFETY: made above.
        drop(unsafe { Box::from_raw(outside) });
    }
}
