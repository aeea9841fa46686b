//! Pages that a fork has for itself: which they are, and having them before they are written to.
//!
//! What is written to after a fork is copied page by page, each with a fault of 2 µs. Much of that
//! is the same for every fork, as its first steps are. One fork that has done them can say which
//! pages these were, and another that waits can take them before it has anything to do.

use std::io::{self, Read, Seek};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::{is_in_arenas, wait_readable};

const PAGE_BYTES: usize = 4096;
const WORD_BYTES: usize = size_of::<u64>();
/// Of an entry of `/proc/PID/pagemap`: the page is there, and nobody else has it.
const PRESENT: u64 = 1 << 63;
const EXCLUSIVE: u64 = 1 << 56;
/// How many stretches are taken between two looks.
const TAKEN_AT_ONCE: usize = 16;

/// Where a stretch of pages begins, and its length in bytes.
pub type Stretch = (usize, usize);

/// The pages of this process's data that no other process shares: what was written to since the fork,
/// where all was shared then. Only what stays where it is counts: data and heap of the program and
/// of libraries, and arenas; elsewhere something else may be mapped by the time of [`own_pages`].
///
/// # Errors
/// Those of reading `/proc/self/maps` and `/proc/self/pagemap`.
pub fn written_pages() -> io::Result<Vec<Stretch>> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let mut pagemap = std::fs::File::open("/proc/self/pagemap")?;
    let mut found: Vec<Stretch> = Vec::new();
    for (start, end) in lasting(&maps) {
        let mut entries = vec![0; (end - start) / PAGE_BYTES * WORD_BYTES];
        pagemap.seek(io::SeekFrom::Start((start / PAGE_BYTES * WORD_BYTES) as u64))?;
        pagemap.read_exact(&mut entries)?;
        for (index, entry) in entries.chunks_exact(WORD_BYTES).enumerate() {
            let entry = entry.try_into().map_or(0, u64::from_ne_bytes);
            if entry & PRESENT == 0 || entry & EXCLUSIVE == 0 {
                continue;
            }
            let page = start + index * PAGE_BYTES;
            match found.last_mut() {
                Some((first, bytes)) if *first + *bytes == page => *bytes += PAGE_BYTES,
                _ => found.push((page, PAGE_BYTES)),
            }
        }
    }
    Ok(found)
}

/// The writable mappings that are there as long as the process: first and last address.
fn lasting(maps: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut file_end = 0;
    for line in maps.lines() {
        let mut fields = line.split_ascii_whitespace();
        let (Some(range), Some(rights)) = (fields.next(), fields.next()) else { continue };
        let name = fields.nth(3).unwrap_or_default();
        let Some((start, end)) = range.split_once('-') else { continue };
        let (Ok(start), Ok(end)) =
            (usize::from_str_radix(start, 16), usize::from_str_radix(end, 16))
        else {
            continue;
        };
        // What a library's file has no bytes for follows behind it, without a name.
        let of_file = name.starts_with('/') || (name.is_empty() && start == file_end);
        if of_file {
            file_end = end;
        }
        if rights == "rw-p" && (of_file || name == "[heap]" || is_in_arenas(start)) {
            found.push((start, end));
        }
    }
    found
}

/// Takes pages for this process alone, as if it had written to them, until there is something to
/// read. What they hold stays the same; what is not there any more is passed over.
///
/// # Errors
/// Those of `poll(2)`.
pub fn own_pages(pages: &[Stretch], until_readable: BorrowedFd<'_>) -> io::Result<()> {
    for some in pages.chunks(TAKEN_AT_ONCE) {
        if wait_readable([until_readable], Some(Duration::ZERO))?[0] {
            break;
        }
        for (start, bytes) in some {
            // SAFETY: this changes no content, and maps nothing: it fails where nothing is mapped,
            // or what is may not be written to.
            unsafe {
                libc::madvise(*start as *mut libc::c_void, *bytes, libc::MADV_POPULATE_WRITE)
            };
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn data_heap_and_what_follows_a_file_lasts() {
        let maps = "\
            00400000-00401000 r-xp 00000000 fe:00 7   /usr/bin/python\n\
            00401000-00402000 rw-p 00001000 fe:00 7   /usr/bin/python\n\
            00402000-00404000 rw-p 00000000 00:00 0 \n\
            00500000-00501000 rw-p 00000000 00:00 0   [heap]\n\
            00600000-00601000 rw-p 00000000 00:00 0 \n\
            00700000-00701000 rw-s 00000000 00:01 9   /dev/shm/x\n\
            7f000000-7f001000 rw-p 00000000 00:00 0   [stack]\n";
        let found = [(0x40_1000, 0x40_2000), (0x40_2000, 0x40_4000), (0x50_0000, 0x50_1000)];
        assert_eq!(lasting(maps), found);
    }

    #[test]
    fn what_this_process_has_is_found_and_can_be_taken() {
        let found = written_pages().expect("a process may look at itself");
        assert!(!found.is_empty());
        let (reader, writer) = std::io::pipe().expect("a pipe");
        own_pages(&found, reader.as_fd()).expect("poll");
        own_pages(&[(0x1000, PAGE_BYTES)], reader.as_fd()).expect("nothing is mapped there");
        drop(writer);
    }
}
