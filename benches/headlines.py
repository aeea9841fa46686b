"""Copies the table of headlines from one document to another: `headlines.py FROM TO`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from sandbox_runtime.bench.markdown import BEGIN, END

BLOCK = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)


def block_of(path: Path) -> str:
    """The table with its marks."""
    found = BLOCK.search(path.read_text())
    if found is None:
        sys.exit(f"{path} has no table between {BEGIN} and {END}")
    return found[0]


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    table = block_of(source)
    target.write_text(target.read_text().replace(block_of(target), table))
