//! Memory for an allocator that takes large pieces of one size, side by side instead of anywhere.
//!
//! Python takes its small objects from arenas of 1 MiB, which the kernel puts wherever there is
//! room between libraries. Side by side they can become huge pages, of which a fork copies one
//! entry where it copied 512.

use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};

/// The size of the pieces; what is asked for in another size comes from anywhere.
const ARENA_BYTES: usize = 1 << 20;
/// How many there are side by side; further ones come from anywhere.
const ARENAS: usize = 512;
const HUGE_BYTES: usize = 2 << 20;
const WORD: usize = u64::BITS as usize;

/// Where they begin and end; 0 until there are some.
static BASE: AtomicUsize = AtomicUsize::new(0);
static END: AtomicUsize = AtomicUsize::new(0);
/// Whether no more are handed out: a fork's memory grows and shrinks as everybody's.
static SEALED: AtomicBool = AtomicBool::new(false);
/// A bit for each that is handed out.
static TAKEN: [AtomicU64; ARENAS / WORD] = [const { AtomicU64::new(0) }; ARENAS / WORD];

/// What a C allocator calls: a context that is not used, then a size.
///
/// # Safety
/// One thread at a time calls it or [`Free`]; Python's holds the GIL.
pub type Allocate = unsafe extern "C" fn(*mut libc::c_void, usize) -> *mut libc::c_void;
/// Likewise: a context, the piece, its size.
///
/// # Safety
/// As for [`Allocate`]. The piece is whole, of the size that was asked for, and used no more; it
/// came from [`Allocate`], or was mapped by the allocator that was there before.
pub type Free = unsafe extern "C" fn(*mut libc::c_void, *mut libc::c_void, usize);

/// Reserves the room. Two functions that take from it, for one thread at a time.
///
/// # Errors
/// `ENOMEM`.
pub fn reserve_arenas() -> std::io::Result<(Allocate, Free)> {
    if BASE.load(Relaxed) == 0 {
        let place = map(ARENAS * ARENA_BYTES + HUGE_BYTES).addr();
        if place == 0 {
            return Err(std::io::Error::last_os_error());
        }
        let base = place.next_multiple_of(HUGE_BYTES);
        let end = base + ARENAS * ARENA_BYTES;
        unmap(place, base);
        unmap(end, place + ARENAS * ARENA_BYTES + HUGE_BYTES);
        BASE.store(base, Relaxed);
        END.store(end, Relaxed);
    }
    Ok((allocate, free))
}

/// Gives back what nobody has taken, at the end of the room; from here on all comes from anywhere.
pub fn seal_arenas() {
    let base = BASE.load(Relaxed);
    if base == 0 || SEALED.swap(true, Relaxed) {
        return;
    }
    let last = (0..ARENAS).rev().find(|index| is_taken(*index));
    let end = base + last.map_or(0, |index| index + 1) * ARENA_BYTES;
    let end = end.next_multiple_of(HUGE_BYTES);
    // What the kernel puts there from now on is others'.
    unmap(end, END.swap(end, Relaxed));
}

/// Whether an address is in the room, none of which is given back once the arenas are sealed.
#[must_use]
pub fn is_in_arenas(address: usize) -> bool {
    (BASE.load(Relaxed)..END.load(Relaxed)).contains(&address)
}

/// Gives back a part of the room that nobody has taken or will take.
fn unmap(start: usize, end: usize) {
    if start < end {
        // SAFETY: the range is this module's, and none of it is handed out or will be.
        unsafe { libc::munmap(start as *mut libc::c_void, end - start) };
    }
}

fn is_taken(index: usize) -> bool {
    TAKEN[index / WORD].load(Relaxed) & (1 << (index % WORD)) != 0
}

fn map(size: usize) -> *mut libc::c_void {
    let rights = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping at no place in particular touches nothing that is there.
    let place = unsafe { libc::mmap(null_mut(), size, rights, flags, -1, 0) };
    if place == libc::MAP_FAILED { null_mut() } else { place }
}

/// See [`Allocate`].
unsafe extern "C" fn allocate(_context: *mut libc::c_void, size: usize) -> *mut libc::c_void {
    let base = BASE.load(Relaxed);
    if size == ARENA_BYTES && base != 0 && !SEALED.load(Relaxed) {
        // The lowest that is free, so that what is taken lies together.
        for (number, word) in TAKEN.iter().enumerate() {
            let taken = word.load(Relaxed);
            if taken != u64::MAX {
                let bit = taken.trailing_ones() as usize;
                word.store(taken | 1 << bit, Relaxed);
                return (base + (number * WORD + bit) * ARENA_BYTES) as *mut libc::c_void;
            }
        }
    }
    map(size)
}

/// See [`Free`].
unsafe extern "C" fn free(_context: *mut libc::c_void, place: *mut libc::c_void, size: usize) {
    let base = BASE.load(Relaxed);
    if !(base..END.load(Relaxed)).contains(&place.addr()) {
        // SAFETY: the allocator gives back a mapping of its own, whole, from here or from its time
        // before this.
        unsafe { libc::munmap(place, size) };
        return;
    }
    // SAFETY: the range was handed out and is given back; what is in it is lost, as is meant.
    unsafe { libc::madvise(place, size, libc::MADV_DONTNEED) };
    let index = (place.addr() - base) / ARENA_BYTES;
    let word = &TAKEN[index / WORD];
    word.store(word.load(Relaxed) & !(1 << (index % WORD)), Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arenas_lie_side_by_side_until_they_are_sealed() {
        let (allocate, free) = reserve_arenas().expect("room");
        // SAFETY: no other thread of this test's calls either of them.
        let take = || unsafe { allocate(null_mut(), ARENA_BYTES) };
        // SAFETY: likewise; what is given back below was taken, and is not used again.
        let give = |place, size| unsafe { free(null_mut(), place, size) };
        let (first, second, third) = (take(), take(), take());
        assert_eq!(first.addr() % HUGE_BYTES, 0);
        assert_eq!(
            (second.addr(), third.addr()),
            (first.addr() + (1 << 20), first.addr() + (2 << 20))
        );
        // SAFETY: it was handed out.
        unsafe { second.cast::<u8>().write(7) };
        give(second, ARENA_BYTES);
        assert_eq!(take(), second, "the lowest that is free");
        // SAFETY: it was handed out again.
        assert_eq!(unsafe { second.cast::<u8>().read() }, 0, "nothing of before");

        // SAFETY: as above.
        let other = unsafe { allocate(null_mut(), 16 << 10) };
        assert!(other.addr().wrapping_sub(first.addr()) >= ARENAS * ARENA_BYTES);
        give(other, 16 << 10);

        seal_arenas();
        let later = take();
        assert!(later.addr().wrapping_sub(first.addr()) >= 4 << 20, "from anywhere");
        // SAFETY: it is a mapping of its own.
        unsafe { later.cast::<u8>().write(7) };
        give(later, ARENA_BYTES);
        // SAFETY: what was taken before is still there.
        unsafe { third.cast::<u8>().write(7) };
    }
}
