"""Copying a Python that holds an array by fork(2), without any sandbox."""

from __future__ import annotations

import importlib.util
import sys

from sandbox_runtime.bench.results import Missing
from sandbox_runtime.bench.rounds import Candidate
from sandbox_runtime.bench.spawned import CLEAN_ENV, asking

_PR_SET_THP_DISABLE = 41

# For each line it forks; the child answers with the last element and one more.
_FORKS = """
import ctypes, os, sys
if sys.argv[2] == "4k":
    ctypes.CDLL(None).prctl({disable}, 1, 0, 0, 0)
import numpy
x = numpy.ones(int(sys.argv[1]))
print("up", flush=True)
for line in sys.stdin:
    pid = os.fork()
    if not pid:
        os.write(1, b"%d\\n" % (int(x[-1]) + 1))
        os._exit(0)
    os.waitpid(pid, 0)
"""


def forked(array_mb: int, *, huge_pages: bool) -> Candidate | Missing:
    """`os.fork`, to the child's answer."""
    pages = "huge" if huge_pages else "4k"
    name = f"os.fork, {'huge' if huge_pages else '4 KiB'} pages"
    if importlib.util.find_spec("numpy") is None:
        return Missing(candidate=name, remedy="pip install numpy")
    script = _FORKS.format(disable=_PR_SET_THP_DISABLE)
    argv = [sys.executable, "-c", script, str(array_mb * 125_000), pages]

    return Candidate(name=name, open=asking(argv, b"\n", b"2\n", CLEAN_ENV))
