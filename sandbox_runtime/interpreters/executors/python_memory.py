"""Where a zygote's memory lies, which decides what its forks cost.

A fork copies mappings and page tables, and later each page that it writes to: with what it
allocates, with counts of references, and with what the interpreter notes in the code that it runs.
So there are few mappings, memory is joined to huge pages, of which a table has one entry each, and
what every fork writes to is laid together.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import itertools
import mmap
import os
import re
import sys
import tempfile
import types
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

HUGE_BYTES = 2 << 20
MADV_COLLAPSE = 25
_READ_AND_EXECUTE = mmap.PROT_READ | mmap.PROT_EXEC

_LIBC = ctypes.CDLL(None)
_SIZE_CLASS = re.compile(rb"^ *\d+ +(\d+) +\d+ +\d+ +(\d+)$", re.MULTILINE)
"""Of what Python says of its allocator: a class's size in bytes, and how many of it are free."""
_LARGEST_PIECE_BYTES = 1 << 16
_SMALLEST_PIECE_BYTES = 24


class _ArenaAllocator(ctypes.Structure):
    """`PyObjectArenaAllocator` of the C API."""

    _fields_ = (
        ("context", ctypes.c_void_p),
        ("allocate", ctypes.c_void_p),
        ("free", ctypes.c_void_p),
    )


class _Heap(ctypes.Structure):
    """`struct mallinfo2` of glibc."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    )


def gather_arenas(native: Any) -> None:
    """Has Python take its arenas from one place, so that huge pages can be made of them."""
    with contextlib.suppress(OSError):  # there is no room: they come from anywhere, as ever
        allocate, free = native.reserve_arenas()
        allocator = _ArenaAllocator(None, allocate, free)
        ctypes.pythonapi.PyObject_SetArenaAllocator(ctypes.byref(allocator))


def forget_fonts() -> None:
    """Empties matplotlib's cache of fonts, as it does itself in each fork: 160 pages less there."""
    manager = sys.modules.get("matplotlib.font_manager")
    empty = getattr(getattr(manager, "_get_font", None), "cache_clear", None)
    if empty is not None:
        empty()


def gather_code(used: AbstractSet[int]) -> None:
    """Lays code that every fork runs together, by a copy of it: each run of it writes to it.

    What the interpreter has noted in it is lost; it has to be run some ten times again.

    Args:
        used: The code objects, as `id` gives them.
    """
    functions = [
        one
        for one in gc.get_objects()
        if type(one) is types.FunctionType and id(one.__code__) in used
    ]
    # The old ones live until all copies are made: no copy takes the place of one.
    codes = {id(function.__code__): function.__code__ for function in functions}
    copies = {number: code.replace() for number, code in codes.items()}
    for function in functions:
        function.__code__ = copies[id(function.__code__)]


def fill_holes() -> None:
    """Takes what is free between objects, for good, so that a fork's own objects lie together.

    The free places are all over the memory: an object in each would cost a fork a page each.
    """
    _fill_small()
    _fill_heap()


def _fill_small() -> None:
    """Those for Python's small objects, of which it tells how many there are of each size."""
    prototype = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_size_t)
    allocate = prototype(("PyObject_Malloc", ctypes.pythonapi))
    for size, count in _SIZE_CLASS.findall(_allocator_statistics()):
        deque(map(allocate, itertools.repeat(int(size), int(count))), maxlen=0)


def _allocator_statistics() -> bytes:
    """What Python's allocator says of itself, which it writes to the standard error alone."""
    tell = getattr(sys, "_debugmallocstats", None)
    if tell is None:
        return b""
    with tempfile.TemporaryFile() as file:
        kept = os.dup(2)
        try:
            os.dup2(file.fileno(), 2)
            tell()
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        file.seek(0)
        return file.read()


def _fill_heap() -> None:
    """Those of glibc's heap, up to its last piece, from which the next allocations come then."""
    tell = getattr(_LIBC, "mallinfo2", None)
    if tell is None:
        return
    tell.restype = _Heap
    _LIBC.sbrk.argtypes, _LIBC.sbrk.restype = (ctypes.c_ssize_t,), ctypes.c_size_t
    allocate, give_back = _LIBC.malloc, _LIBC.free
    allocate.argtypes, allocate.restype = (ctypes.c_size_t,), ctypes.c_void_p
    give_back.argtypes, give_back.restype = (ctypes.c_void_p,), None
    heap = tell()
    end = _LIBC.sbrk(0) - heap.keepcost
    missing = heap.fordblks - heap.keepcost
    size = _LARGEST_PIECE_BYTES
    while size >= _SMALLEST_PIECE_BYTES and missing > 0:
        place = allocate(size)
        while place is not None and place < end and missing > 0:
            missing -= size
            place = allocate(size)
        give_back(place)  # which was none of them
        size = size * 7 // 8 if size > _SMALLEST_PIECE_BYTES * 64 else size - 16


class _Mapping(NamedTuple):
    start: int
    end: int
    rights: str
    offset: int
    file: str


def _mappings() -> list[_Mapping]:
    """The mappings of this process, in their order."""
    found = []
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        for line in maps:
            place, rights, offset, _, _, *file = line.split(None, 5)
            start, end = (int(address, 16) for address in place.split("-"))
            name = file[0].rstrip("\n") if file else ""
            found.append(_Mapping(start, end, rights, int(offset, 16), name))
    return found


def join_text() -> None:
    """Makes one mapping of a library's text and of what can only be read beside it in its file.

    That may be executed then as well. None of it can be written to, and a third of all mappings is
    copied no more.
    """
    for first, second in itertools.pairwise(_mappings()):
        size = first.end - first.start
        beside = first.end == second.start and first.offset + size == second.offset
        if beside and first.file == second.file and first.file.startswith("/"):
            for one, other in ((first, second), (second, first)):
                if (one.rights, other.rights) == ("r--p", "r-xp"):
                    piece = ctypes.c_void_p(one.start), ctypes.c_size_t(one.end - one.start)
                    _LIBC.mprotect(*piece, _READ_AND_EXECUTE)


def join_pages() -> None:
    """Makes huge pages of this process's memory, where the kernel can (6.1).

    A fork copies page tables, a large part of its cost, and those of a huge page in one piece, also
    where a child has written to a part of it.
    """
    for start, end, rights, _, _ in _mappings():
        if rights == "rw-p":
            for address in range(-(-start // HUGE_BYTES) * HUGE_BYTES, end, HUGE_BYTES):
                if address + HUGE_BYTES <= end:
                    piece = ctypes.c_void_p(address), ctypes.c_size_t(HUGE_BYTES)
                    _LIBC.madvise(*piece, MADV_COLLAPSE)
