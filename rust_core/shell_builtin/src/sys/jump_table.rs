//! The table through which this process's own program calls its libraries.
//!
//! The dynamic linker has filled it: an entry for each function, found by name in what the program
//! says of itself, and read-only by now where the program asked for that.

use std::ffi::{CStr, c_char, c_int, c_void};

const PT_DYNAMIC: u32 = 2;
const PT_PHDR: u32 = 6;
const PT_GNU_RELRO: u32 = 0x6474_e552;
const DT_NULL: u64 = 0;
const DT_PLTRELSZ: u64 = 2;
const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;
const DT_RELA: u64 = 7;
const DT_RELASZ: u64 = 8;
const DT_JMPREL: u64 = 23;

/// `R_*_GLOB_DAT` and `R_*_JUMP_SLOT`: entries that hold a function's address.
#[cfg(target_arch = "x86_64")]
const HOLDS_ADDRESS: [u32; 2] = [6, 7];
#[cfg(target_arch = "aarch64")]
const HOLDS_ADDRESS: [u32; 2] = [1025, 1026];

/// `Elf64_Dyn`.
#[repr(C)]
struct Dynamic {
    tag: u64,
    value: u64,
}

/// `Elf64_Rela`.
#[repr(C)]
struct Relocation {
    offset: u64,
    kind: u32,
    symbol: u32,
    addend: i64,
}

/// The program's headers, and how far it lies from where they say.
struct Program {
    headers: &'static [libc::Elf64_Phdr],
    base: usize,
}

/// Has the program call `function` where it calls `name`; false if it cannot be made to.
pub(super) fn redirect(name: &CStr, function: *const c_void) -> bool {
    Program::own().is_some_and(|program| {
        program.entry(name).is_some_and(|place| program.write(place, function as usize))
    })
}

impl Program {
    fn own() -> Option<Self> {
        let auxiliary = |kind| {
            // SAFETY: no preconditions; 0 for what the kernel did not tell.
            usize::try_from(unsafe { libc::getauxval(kind) }).unwrap_or(0)
        };
        let place = auxiliary(libc::AT_PHDR);
        if place == 0 || auxiliary(libc::AT_PHENT) != size_of::<libc::Elf64_Phdr>() {
            return None;
        }
        let headers: &[libc::Elf64_Phdr] = table(place, auxiliary(libc::AT_PHNUM));
        let of_headers = headers.iter().find(|header| header.p_type == PT_PHDR)?;
        let base = place.wrapping_sub(address(of_headers.p_vaddr));
        Some(Self { headers, base })
    }

    /// Where the address of `name` stands.
    fn entry(&self, name: &CStr) -> Option<usize> {
        let dynamic = self.headers.iter().find(|header| header.p_type == PT_DYNAMIC)?;
        let count = address(dynamic.p_memsz) / size_of::<Dynamic>();
        let entries: &[Dynamic] = table(self.base + address(dynamic.p_vaddr), count);
        let value = |tag| {
            let mut said = entries.iter().take_while(|entry| entry.tag != DT_NULL);
            said.find(|entry| entry.tag == tag).map(|entry| address(entry.value))
        };
        // The linker has added the base to these, where it may write there.
        let place = |tag| value(tag).map(|at| if at < self.base { at + self.base } else { at });
        let (symbols, names) = (place(DT_SYMTAB)?, place(DT_STRTAB)?);
        let is_named = |relocation: &&Relocation| {
            HOLDS_ADDRESS.contains(&relocation.kind)
                && name == name_of(symbols, names, relocation.symbol as usize)
        };
        [(DT_JMPREL, DT_PLTRELSZ), (DT_RELA, DT_RELASZ)].iter().find_map(|&(at, bytes)| {
            let count = value(bytes)? / size_of::<Relocation>();
            let relocations: &[Relocation] = table(place(at)?, count);
            relocations.iter().find(is_named).map(|found| self.base + address(found.offset))
        })
    }

    /// Writes one entry. Where the program asked for entries to be read-only, it is so before, and
    /// afterwards unless the kernel refuses that; the entry is as good then.
    fn write(&self, place: usize, value: usize) -> bool {
        // SAFETY: no preconditions.
        let page_bytes = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(1);
        let page = place - place % page_bytes;
        let sealed = self.headers.iter().any(|header| {
            let start = self.base + address(header.p_vaddr);
            let end = start + address(header.p_memsz);
            header.p_type == PT_GNU_RELRO && start <= place && place < end - end % page_bytes
        });
        if !protect(page, page_bytes, libc::PROT_READ | libc::PROT_WRITE) {
            return false;
        }
        // SAFETY: an entry of the table, aligned and now writable; one thread calls through it.
        unsafe { (place as *mut usize).write_volatile(value) };
        if sealed {
            // Nothing depends on it, and there is nothing else to do if it fails.
            protect(page, page_bytes, libc::PROT_READ);
        }
        true
    }
}

fn protect(page: usize, bytes: usize, rights: c_int) -> bool {
    // SAFETY: a page of the program's own table.
    unsafe { libc::mprotect(page as *mut c_void, bytes, rights) == 0 }
}

/// A table that the kernel or the dynamic linker has made for the life of this process.
fn table<T>(place: usize, count: usize) -> &'static [T] {
    // SAFETY: private function, called with places and lengths from the program's own headers.
    unsafe { std::slice::from_raw_parts(place as *const T, count) }
}

fn name_of(symbols: usize, names: usize, index: usize) -> &'static CStr {
    let symbol: &[libc::Elf64_Sym] = table(symbols + index * size_of::<libc::Elf64_Sym>(), 1);
    let name = (names + symbol[0].st_name as usize) as *const c_char;
    // SAFETY: the program's table of names, each of which ends with NUL.
    unsafe { CStr::from_ptr(name) }
}

fn address(number: u64) -> usize {
    usize::try_from(number).unwrap_or(0)
}
