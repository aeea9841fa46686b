//! The program's own text on huge pages, for a process whose forks are to be quick.
//!
//! Text that is mapped from a file is in no fork's page tables: each fork faults again for every
//! stretch of it that it comes to, 2 µs each, a jail's init for a dozen. Anonymous memory is in
//! them, and a huge page is one entry that costs a fork nothing.

use std::io::{self, Read};

use super::check;

const HUGE_BYTES: usize = 2 * 1024 * 1024;

/// Where text lies, and what goes to huge pages of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    /// The first byte of text, and the one behind the last.
    text: (usize, usize),
    /// Whole huge pages. What of the last one would be mostly empty is left in the file.
    huge: (usize, usize),
}

impl Layout {
    /// `None` where other segments may lie in the same huge pages: the linker has to part them.
    fn new(start: usize, bytes: usize, alignment: usize) -> Option<Self> {
        if alignment < HUGE_BYTES {
            return None;
        }
        let (low, end) = (start & !(HUGE_BYTES - 1), start.checked_add(bytes)?);
        let whole = end & !(HUGE_BYTES - 1);
        let high =
            if end - whole >= HUGE_BYTES / 2 { whole.checked_add(HUGE_BYTES)? } else { whole };
        (high > low).then_some(Self { text: (start, end), huge: (low, high) })
    }
}

/// Moves this program's text to huge pages, at the address where it is. For a process of one thread:
/// another would run in the old pages while they are exchanged.
///
/// The new pages are filled, made executable and no longer writable, and then put in the place of the
/// old ones in one step, so that this very function goes on in them.
///
/// # Errors
/// `ENOTSUP` where the program was not linked for it, the machine is another, or the kernel has no
/// huge page to give; what the kernel says. All is as before then.
pub fn put_text_on_huge_pages() -> io::Result<()> {
    let unfit = || io::Error::from_raw_os_error(libc::ENOTSUP);
    // Elsewhere pages have other sizes, or what was copied has to be told to the instruction cache.
    if !cfg!(target_arch = "x86_64") {
        return Err(unfit());
    }
    let (start, bytes, alignment) = text_segment().ok_or_else(unfit)?;
    let Layout { text, huge: (low, high) } =
        Layout::new(start, bytes, alignment).ok_or_else(unfit)?;
    let length = high - low;
    let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let writable = libc::PROT_READ | libc::PROT_WRITE;
    // The move counts its memory twice for a moment. That there is room for it is seen here: it could
    // not be undone.
    let room = Mapping::new(std::ptr::null_mut(), 2 * length + HUGE_BYTES, writable, anonymous)?;
    let new = room.start.next_multiple_of(HUGE_BYTES);
    // SAFETY: `new..new + length` lies in `room`, which is this function's.
    check(unsafe { libc::madvise(pointer(new), length, libc::MADV_HUGEPAGE) })?;
    let (from, to) = (text.0 & !(PAGE_BYTES - 1), text.1.min(high));
    // SAFETY: whole pages of text, which are mapped and readable, to a place of that length and apart.
    unsafe {
        std::ptr::copy_nonoverlapping(
            pointer(from).cast::<u8>().cast_const(),
            pointer(new + (from - low)).cast::<u8>(),
            to - from,
        );
    };
    if huge_bytes_of_this_process()? < length {
        return Err(unfit());
    }
    // SAFETY: as for madvise.
    check(unsafe { libc::mprotect(pointer(new), length, libc::PROT_READ | libc::PROT_EXEC) })?;
    // What lies beside text in its huge pages must be nobody's.
    let fixed = anonymous | libc::MAP_FIXED_NOREPLACE;
    let gap = |from: usize, to: usize| {
        (from < to)
            .then(|| Mapping::new(pointer(from), to - from, libc::PROT_NONE, fixed))
            .transpose()
    };
    let before = gap(low, from)?;
    let behind = gap(text.1.next_multiple_of(PAGE_BYTES), high)?;
    room.shrink_to(new, length);
    // SAFETY: the target is this program's text and the gaps beside it; what comes in its place has
    // the same bytes where text was. Both are multiples of a huge page, so the pages move whole.
    let moved = unsafe {
        libc::mremap(
            pointer(new),
            length,
            length,
            libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
            pointer(low),
        )
    };
    if moved == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    std::mem::forget((before, behind)); // text is there now
    Ok(())
}

/// The size of the pages that the kernel maps on the only machine that this is for.
const PAGE_BYTES: usize = 4096;

fn pointer(address: usize) -> *mut libc::c_void {
    std::ptr::with_exposed_provenance_mut(address)
}

/// Memory that is unmapped when it is dropped.
#[derive(Debug)]
struct Mapping {
    start: usize,
    bytes: usize,
}

impl Mapping {
    fn new(
        at: *mut libc::c_void,
        bytes: usize,
        protection: libc::c_int,
        flags: libc::c_int,
    ) -> io::Result<Self> {
        // SAFETY: new memory; with MAP_FIXED_NOREPLACE nothing that is there is replaced.
        let start = unsafe { libc::mmap(at, bytes, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let mapping = Self { start: start.expose_provenance(), bytes };
        // Before Linux 4.17 the flag is not known, and the address is a hint.
        if at.is_null() || start == at {
            Ok(mapping)
        } else {
            Err(io::ErrorKind::AlreadyExists.into())
        }
    }

    /// Unmaps all but `bytes` from `start` on, which are nobody's to unmap from here on.
    fn shrink_to(self, start: usize, bytes: usize) {
        let end = self.start + self.bytes;
        drop(Self { start: self.start, bytes: start - self.start });
        drop(Self { start: start + bytes, bytes: end - start - bytes });
        std::mem::forget(self);
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.bytes > 0 {
            // SAFETY: it is this value's, and nothing is kept in it.
            unsafe { libc::munmap(pointer(self.start), self.bytes) };
        }
    }
}

/// Start, length and alignment of the segment that is executable (`dl_iterate_phdr(3)`).
fn text_segment() -> Option<(usize, usize, usize)> {
    extern "C" fn look(
        program: *mut libc::dl_phdr_info,
        _size: libc::size_t,
        found: *mut libc::c_void,
    ) -> libc::c_int {
        // SAFETY: the C library passes a valid one.
        let program = unsafe { &*program };
        // SAFETY: the headers of a program that is loaded, as many as it says.
        let headers =
            unsafe { std::slice::from_raw_parts(program.dlpi_phdr, program.dlpi_phnum.into()) };
        let text = headers
            .iter()
            .find(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_X != 0);
        if let Some(header) = text {
            let number = |value: u64| usize::try_from(value).unwrap_or_default();
            let start = number(program.dlpi_addr).wrapping_add(number(header.p_vaddr));
            // SAFETY: `found` is the local below, of this type.
            let found = unsafe { &mut *found.cast::<Option<(usize, usize, usize)>>() };
            *found = Some((start, number(header.p_memsz), number(header.p_align)));
        }
        1 // the first one is the program itself
    }
    let mut found = None;
    // SAFETY: `look` is done with `found` when the call returns.
    unsafe { libc::dl_iterate_phdr(Some(look), (&raw mut found).cast()) };
    found
}

/// How much of this process's memory is on huge pages (`proc_pid_smaps_rollup`, Linux 4.14).
fn huge_bytes_of_this_process() -> io::Result<usize> {
    let mut told = [0; 4096]; // all of it is given at once
    let length = std::fs::File::open("/proc/self/smaps_rollup")?.read(&mut told)?;
    let kibibytes = String::from_utf8_lossy(&told[..length])
        .lines()
        .find_map(|line| line.strip_prefix("AnonHugePages:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<usize>().ok());
    Ok(kibibytes.unwrap_or_default() * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1024 * 1024;

    #[test]
    fn whole_huge_pages_around_the_text_are_taken() {
        let layout = |start, bytes| Layout::new(start, bytes, HUGE_BYTES).map(|found| found.huge);
        assert_eq!(layout(64 * MIB + 100, MIB), Some((64 * MIB, 66 * MIB)));
        let (start, bytes) = (64 * MIB + 512 * 1024, 2 * MIB);
        assert_eq!(layout(start, bytes), Some((64 * MIB, 66 * MIB)), "the rest stays in the file");
        assert_eq!(layout(start, 3 * MIB), Some((64 * MIB, 68 * MIB)));
        assert_eq!(layout(64 * MIB, MIB / 2), None, "it would be mostly empty");
    }

    #[test]
    fn a_program_that_was_not_linked_for_it_stays_as_it_is() {
        let refused = put_text_on_huge_pages().map_err(|error| error.raw_os_error());
        assert_eq!(refused, Err(Some(libc::ENOTSUP)));
    }

    #[test]
    fn text_that_other_segments_are_beside_stays_where_it_is() {
        assert_eq!(Layout::new(64 * MIB, 4 * MIB, PAGE_BYTES), None);
        assert_eq!(Layout::new(usize::MAX - MIB, 4 * MIB, HUGE_BYTES), None);
    }
}
