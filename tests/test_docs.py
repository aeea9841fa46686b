"""The examples of the documentation run as they stand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = [
    pytest.param(example, id=f"{name}-{number}")
    for name in ("files.md", "processes.md")
    for number, example in enumerate(BLOCK.findall((DOCS / name).read_text()))
]


@pytest.mark.parametrize("example", EXAMPLES)
async def test_an_example_runs(example: str) -> None:
    """Each is a whole program with a `main`."""
    names: dict[str, Any] = {}
    exec(example, names)  # noqa: S102 - it is our own
    await names["main"]()
