//! Pages that a fork has for itself: which they are, and having them before they are written to.
//!
//! What is written to after a fork is copied page by page, each with a fault of 2 µs. Much of that
//! is the same for every fork, as its first steps are. One fork that has done them can say which
//! pages these were, and another that waits can take them before it has anything to do.

use std::io::{self, Read, Seek};

use super::is_in_arenas;

const WORD_BYTES: usize = size_of::<u64>();
/// Of an entry of `/proc/PID/pagemap`: the page is there, and nobody else has it.
const PRESENT: u64 = 1 << 63;
const EXCLUSIVE: u64 = 1 << 56;

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
    let mut pagemap = Pagemap::open()?;
    let page_bytes = pagemap.page_bytes;
    let mut found: Vec<Stretch> = Vec::new();
    for (start, end) in lasting(&maps) {
        for (index, entry) in pagemap.entries(start, end)?.into_iter().enumerate() {
            if entry & PRESENT == 0 || entry & EXCLUSIVE == 0 {
                continue;
            }
            let page = start + index * page_bytes;
            match found.last_mut() {
                Some((first, bytes)) if *first + *bytes == page => *bytes += page_bytes,
                _ => found.push((page, page_bytes)),
            }
        }
    }
    Ok(found)
}

/// What the kernel says of each page of this process, which may be larger than 4 KiB.
struct Pagemap {
    file: std::fs::File,
    page_bytes: usize,
}

impl Pagemap {
    fn open() -> io::Result<Self> {
        let file = std::fs::File::open("/proc/self/pagemap")?;
        // SAFETY: no preconditions.
        let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        let page_bytes = usize::try_from(page_bytes).map_err(|_| io::Error::last_os_error())?;
        Ok(Self { file, page_bytes })
    }

    /// An entry for each page between two addresses.
    fn entries(&mut self, start: usize, end: usize) -> io::Result<Vec<u64>> {
        let mut bytes = vec![0; (end - start) / self.page_bytes * WORD_BYTES];
        let offset = start / self.page_bytes * WORD_BYTES;
        self.file.seek(io::SeekFrom::Start(offset as u64))?;
        self.file.read_exact(&mut bytes)?;
        let words = bytes.chunks_exact(WORD_BYTES);
        Ok(words.map(|word| word.try_into().map_or(0, u64::from_ne_bytes)).collect())
    }
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

/// Takes pages for this process alone, as if it had written to them. What they hold stays the same;
/// what is not there any more is passed over.
pub fn own_pages(pages: &[Stretch]) {
    for (start, bytes) in pages {
        // SAFETY: this changes no content, and maps nothing: it fails where nothing is mapped, or
        // what is may not be written to.
        unsafe { libc::madvise(*start as *mut libc::c_void, *bytes, libc::MADV_POPULATE_WRITE) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn what_this_process_has_is_found() {
        assert!(!written_pages().expect("a process may look at itself").is_empty());
    }

    #[test]
    fn pages_are_taken_before_anything_is_written_to_them() {
        let mut pagemap = Pagemap::open().expect("a process may look at itself");
        let bytes = 3 * pagemap.page_bytes;
        let (rights, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE);
        let flags = flags | libc::MAP_ANONYMOUS;
        // SAFETY: new memory, wherever there is room.
        let place = unsafe { libc::mmap(std::ptr::null_mut(), bytes, rights, flags, -1, 0) };
        assert_ne!(place, libc::MAP_FAILED);
        let start = place.addr();
        let mut present = || {
            let entries = pagemap.entries(start, start + bytes).expect("it can be read");
            entries.into_iter().map(|entry| entry & PRESENT != 0).collect::<Vec<_>>()
        };
        assert_eq!(present(), [false; 3]);
        own_pages(&[(0x1000, 0x1000), (start, bytes)]); // nothing is mapped at the first
        assert_eq!(present(), [true; 3]);
        // SAFETY: it was mapped above, and nothing refers to it.
        unsafe { libc::munmap(place, bytes) };
    }
}
