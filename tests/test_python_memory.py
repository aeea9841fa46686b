"""How a zygote lays out its memory: each fact seen in a process of its own, which it changes."""

from __future__ import annotations

import subprocess
import sys

import pytest

PREAMBLE = """
import ctypes, os, re, sys
from sandbox_runtime.interpreters.executors import python_memory as memory
"""


def say(program: str) -> str:
    """What a program prints, in a fresh interpreter."""
    argv = [sys.executable, "-c", PREAMBLE + program]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def test_code_that_is_used_is_copied_and_does_the_same() -> None:
    """Also where two functions share it; other code stays where it is."""
    program = """
def used(x, *, y=[2]):
    return lambda: (x, y)
def unused(): pass
twin = type(used)(used.__code__, globals(), "twin", None, None)
before = used.__code__, unused.__code__
memory.gather_code({id(used.__code__)})
print(used.__code__ is before[0], unused.__code__ is before[1], twin.__code__ is used.__code__)
print(used.__code__ == before[0], used(1)(), twin(1, y=3)())
"""
    assert say(program) == "False True True\nTrue (1, [2]) (1, 3)\n"


def test_free_places_between_small_objects_are_taken() -> None:
    """Of each size; nothing that is there changes."""
    program = """
kept = [bytes(n) for n in range(1, 480) for _ in range(200)][::3]
def free():
    rows = memory._SIZE_CLASS.findall(memory._allocator_statistics())
    return sum(int(count) for _, count in rows)
before = free()
memory.fill_holes()
print(before > 50_000, free() < 5000, all(not any(one) for one in kept))
"""
    assert say(program) == "True True True\n"


@pytest.mark.skipif(
    not hasattr(__import__("ctypes").CDLL(None), "mallinfo2"),
    reason="needs mallinfo2, which came with glibc 2.33",
)
def test_free_places_of_the_heap_are_taken() -> None:
    """All but its last piece, and what is too small for anything."""
    program = """
pieces = [ctypes.create_string_buffer(n) for n in range(1500, 9000, 30)]
del pieces[::2]
def free():
    tell = memory._LIBC.mallinfo2
    tell.restype = memory._Heap
    heap = tell()
    return heap.fordblks - heap.keepcost
before = free()
memory.fill_holes()
print(before > 300_000, free() < 50_000)
"""
    assert say(program) == "True True\n"


def test_a_library_has_one_mapping_of_what_cannot_be_written_to() -> None:
    """What is read beside the text becomes part of it; nothing that is written to does."""
    program = """
import _ctypes
def beside_text(maps):
    return {
        one.start
        for first, second in zip(maps, maps[1:])
        if first.end == second.start and first.file == second.file != ""
        and first.offset + first.end - first.start == second.offset
        for one, other in ((first, second), (second, first))
        if (one.rights, other.rights) == ("r--p", "r-xp")
    }
before = memory._mappings()
beside = beside_text(before)
memory.join_text()
after = memory._mappings()
of = lambda start: next(one.rights for one in after if one.start <= start < one.end)
writable = {one.rights for one in after if "w" in one.rights and "x" in one.rights}
fewer = len(after) <= len(before) - len(beside) // 2
print(len(beside) > 0, {of(start) for start in beside}, fewer, writable)
"""
    assert say(program) == "True {'r-xp'} True set()\n"
