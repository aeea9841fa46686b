//! Memory of processes that are forked in order to be quick: fewer pages to share and to copy.
//!
//! Each page that a process has written costs its forks a microsecond, and two more if they write
//! to it too.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

/// Gives whole free pages of the heap back: a fork shares page for page, also what nobody needs.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointer; what is in use stays where it is.
    unsafe {
        libc::malloc_trim(0);
    }
}

const BURST_BYTES: usize = 128 * 1024;

/// Memory that is handed out in order. What is known of it lies on the page that is written first.
#[repr(C, align(4096))]
struct Burst {
    active: AtomicBool,
    /// How much is handed out.
    used: AtomicUsize,
    /// How many pieces nobody has given back.
    alive: AtomicUsize,
    bytes: UnsafeCell<[u8; BURST_BYTES]>,
}

// SAFETY: handed out in pieces that do not overlap, each to one owner.
unsafe impl Sync for Burst {}

static BURST: Burst = Burst {
    active: AtomicBool::new(false),
    used: AtomicUsize::new(0),
    alive: AtomicUsize::new(0),
    bytes: UnsafeCell::new([0; BURST_BYTES]),
};

/// The heap of the program that is forked: the system's, but for bursts.
///
/// Between [`begin_burst`] and [`end_burst`] memory comes from one place, in order, as long as
/// there is some. The system's heap has a page for each size of piece, and a process that makes
/// forks would copy each of them again after each fork, as the forks would; in a burst both touch
/// two.
#[derive(Debug)]
pub struct Heap;

/// From here on until [`end_burst`], what is new lies together. Once in a process.
pub fn begin_burst() {
    BURST.active.store(true, Relaxed);
}

/// Back to the system's heap, for a process that lives long; what came from the burst stays valid.
pub fn end_burst() {
    BURST.active.store(false, Relaxed);
}

impl Burst {
    fn offset(&self, pointer: *mut u8) -> usize {
        pointer.addr().wrapping_sub(self.bytes.get().addr())
    }

    fn owns(&self, pointer: *mut u8) -> bool {
        self.offset(pointer) < BURST_BYTES
    }

    fn take(&self, layout: Layout) -> Option<*mut u8> {
        let base = self.bytes.get().addr();
        let used = self.used.load(Relaxed);
        let start = (base + used).checked_next_multiple_of(layout.align())? - base;
        let end = start.checked_add(layout.size())?;
        if end > BURST_BYTES {
            return None;
        }
        self.used.store(end, Relaxed);
        self.alive.store(self.alive.load(Relaxed) + 1, Relaxed);
        Some(self.bytes.get().cast::<u8>().wrapping_add(start))
    }

    /// Takes a piece back; the last one, and whatever lies before it once none is left, can be had
    /// again.
    fn give_back(&self, pointer: *mut u8, size: usize) {
        if !self.active.load(Relaxed) {
            return;
        }
        let alive = self.alive.load(Relaxed).saturating_sub(1);
        self.alive.store(alive, Relaxed);
        let start = self.offset(pointer);
        if alive == 0 {
            self.used.store(0, Relaxed);
        } else if start + size == self.used.load(Relaxed) {
            self.used.store(start, Relaxed);
        }
    }
}

// SAFETY: pieces of the burst do not overlap while they are alive, and are never passed to the
// system's heap; all else is the system's. A process in a burst has one thread.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let piece = if BURST.active.load(Relaxed) { BURST.take(layout) } else { None };
        // SAFETY: as the caller promises.
        piece.unwrap_or_else(|| unsafe { System.alloc(layout) })
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if BURST.owns(pointer) {
            BURST.give_back(pointer, layout.size());
        } else {
            // SAFETY: as the caller promises; it is the system's.
            unsafe { System.dealloc(pointer, layout) }
        }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !BURST.owns(pointer) {
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
            BURST.give_back(pointer, layout.size());
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).expect("a layout")
    }

    #[allow(clippy::large_stack_arrays, reason = "once in a test")]
    fn burst() -> Box<Burst> {
        Box::new(Burst {
            active: AtomicBool::new(true),
            used: AtomicUsize::new(0),
            alive: AtomicUsize::new(0),
            bytes: UnsafeCell::new([0; BURST_BYTES]),
        })
    }

    #[test]
    fn a_burst_gives_pieces_that_are_apart_and_aligned() {
        let burst = burst();
        let first = burst.take(layout(3, 1)).expect("room");
        let second = burst.take(layout(100, 64)).expect("room");
        assert!(second.addr() >= first.addr() + 3 && second.addr().is_multiple_of(64));
        assert!(burst.owns(first) && burst.owns(second));
        assert_eq!(burst.take(layout(BURST_BYTES, 1)), None);
        let outside = Box::into_raw(Box::new(0u8));
        assert!(!burst.owns(outside));
        // SAFETY: made above.
        drop(unsafe { Box::from_raw(outside) });
    }

    #[test]
    fn a_piece_in_the_middle_is_had_again_when_all_are_back() {
        let burst = burst();
        let [first, second, third] =
            [10, 20, 30].map(|size| burst.take(layout(size, 1)).expect("room"));
        burst.give_back(third, 30);
        assert_eq!(burst.take(layout(5, 1)), Some(third), "the last is had again at once");
        burst.give_back(third, 5);
        burst.give_back(first, 10);
        assert_eq!(burst.take(layout(10, 1)), Some(third), "the first is not, nor the second");
        burst.give_back(third, 10);
        burst.give_back(second, 20);
        assert_eq!(burst.take(layout(10, 1)), Some(first));
    }
}
