"""What people have code interpreters for, from beginning to end: embedded and by the client.

An analysis of a table with its figures; a chain of work in three languages; a program that is
written, tested and served; sessions for the parts of one piece of work.
"""

from __future__ import annotations

import base64
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from sandbox_runtime import open_sandbox
from sandbox_runtime.client import AsyncSandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sandbox_runtime import Sandbox

    Either = Sandbox | AsyncSandbox

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
pytestmark = pytest.mark.timeout(180)  # a control process and interpreters start, on a busy machine
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(params=["embedded", "client"])
async def sandbox(request: pytest.FixtureRequest, address: str) -> AsyncIterator[Either]:
    """A sandbox, in this process or in another one."""
    if request.param == "embedded":
        async with open_sandbox(python_pool=0, node_pool=0) as embedded:
            yield embedded
    else:
        async with AsyncSandbox(address) as remote:
            yield remote


def text(output: bytes | str) -> str:
    return output.decode() if isinstance(output, bytes) else output


SALES = """region,quarter,product,units,price
north,1,lamp,12,30.0
north,2,lamp,18,30.0
north,1,desk,3,210.0
south,1,lamp,7,32.0
south,2,desk,9,199.0
south,2,lamp,11,32.0
"""


async def test_a_table_is_analysed_and_shown(sandbox: Any) -> None:
    """Loaded, grouped, drawn and given back as data, cell after cell."""
    pytest.importorskip("matplotlib")
    pytest.importorskip("pandas")
    await sandbox.files.write("/workspace/sales.csv", SALES)
    context = await sandbox.create_code_context("python")

    loaded = await context.run(
        "import pandas as pd\n"
        "sales = pd.read_csv('/workspace/sales.csv')\n"
        "sales['revenue'] = sales['units'] * sales['price']\n"
        "print(f'{len(sales)} rows, {sales.revenue.sum():.0f} in all')\n"
        "sales.head(2)"
    )
    assert text(loaded.stdout) == "6 rows, 3897 in all\n"
    (head,) = loaded.results
    assert "<table" in head.html
    assert "revenue" in head.text

    drawn = await context.run(
        "import matplotlib.pyplot as plt\n"
        "by_region = sales.groupby('region')['revenue'].sum()\n"
        "figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3))\n"
        "left.bar(by_region.index, by_region.values)\n"
        "left.set_title('Revenue by region')\n"
        "right.plot(sales.groupby('quarter')['units'].sum(), marker='o')\n"
        "right.set_xlabel('quarter')\n"
        "plt.tight_layout()\nplt.show()\nprint('drawn')"
    )
    assert (drawn.error, text(drawn.stdout)) == (None, "drawn\n")
    (figure,) = drawn.results
    assert base64.b64decode(figure.png).startswith(PNG)
    assert figure.chart is not None

    summary = await context.run("by_region.reset_index().to_dict('records')")
    assert summary.results[0].json == [
        {"region": "north", "revenue": 1530.0},
        {"region": "south", "revenue": 2367.0},
    ]

    wrong = await context.run("sales['no such column']")
    assert wrong.error.name == "KeyError"
    assert (await context.run("len(sales)")).text == "6"  # nothing was lost by it


@needs_node
async def test_one_language_goes_on_where_another_has_stopped(sandbox: Any) -> None:
    """Python makes a file, JavaScript and TypeScript work on it, Python reads what came of it."""
    python = await sandbox.create_code_context("python")
    await python.run(
        "import json, statistics\n"
        "measured = [{'id': n, 'value': n * n % 17} for n in range(20)]\n"
        "with open('/tmp/measured.json', 'w') as file: json.dump(measured, file)"
    )
    javascript = await sandbox.create_code_context("javascript")
    counted = await javascript.run(
        "const fs = require('fs');\n"
        "const rows = JSON.parse(fs.readFileSync('/tmp/measured.json', 'utf8'));\n"
        "const large = rows.filter(({ value }) => value > 8);\n"
        "console.log(`${large.length} of ${rows.length}`);\n"
        "fs.writeFileSync('/tmp/large.json', JSON.stringify(large));\n"
        "({ share: large.length / rows.length })"
    )
    assert text(counted.stdout) == "8 of 20\n"
    assert counted.results[0].json == {"share": 0.4}
    typescript = await sandbox.create_code_context("typescript")
    named = await typescript.run(
        "import { readFile } from 'node:fs/promises';\n"
        "interface Row { id: number; value: number }\n"
        "const large: Row[] = JSON.parse(await readFile('/tmp/large.json', 'utf8'));\n"
        "large.map((row: Row): number => row.id)"
    )
    back = await python.run(
        "[row['id'] for row in json.load(open('/tmp/large.json'))] == "
        "[row['id'] for row in measured if row['value'] > 8]"
    )
    assert (named.error, len(named.results[0].json), back.text) == (None, 8, "True")


async def test_a_program_is_written_tested_and_served(sandbox: Any) -> None:
    """Its tests fail, are mended and pass; then it serves, and is asked from a session."""
    await sandbox.files.write(
        "/workspace/app/prices.py", "def total(units, price): return units + price\n"
    )
    await sandbox.files.write(
        "/workspace/app/test_prices.py",
        "import unittest\nfrom prices import total\n"
        "class Tests(unittest.TestCase):\n"
        "    def test_total(self): self.assertEqual(total(3, 2.5), 7.5)\n",
    )
    failed = await sandbox.exec("cd /workspace/app && python3 -B -m unittest -q")
    assert (failed.exit_code, "AssertionError" in text(failed.stderr)) == (1, True)
    await sandbox.files.write(
        "/workspace/app/prices.py", "def total(units, price): return units * price\n"
    )
    passed = await sandbox.exec(
        "python3 -B -m unittest -q && echo passed"
    )  # still in /workspace/app
    assert text(passed.stdout) == "passed\n"
    command = "exec python3 -u -m http.server 8765 --bind 127.0.0.1 --directory /workspace/app"
    server = await sandbox.start_process(command)
    ask = (
        "import time, urllib.request\n"
        "while True:\n"
        "    try: answer = urllib.request.urlopen('http://127.0.0.1:8765/prices.py'); break\n"
        "    except OSError: time.sleep(0.01)\n"
        "print(answer.read().decode(), end='')"
    )
    await sandbox.files.write("/tmp/ask.py", ask)
    asked = await sandbox.exec("python3 /tmp/ask.py", deadline_s=30)
    assert text(asked.stdout) == "def total(units, price): return units * price\n"
    await server.kill()


async def test_parts_of_the_work_have_sessions_of_their_own(sandbox: Any) -> None:
    """A key that one of them holds is not seen by the others, nor by code."""
    await sandbox.exec("mkdir -p /tmp/build /tmp/test")
    build = await sandbox.create_session(cwd="/tmp/build", env={"KEY": "secret"})
    test = await sandbox.create_session(cwd="/tmp/test")
    await build.exec("echo made by $KEY > made; STEP=1")
    assert text((await build.exec("cat made; echo $STEP")).stdout) == "made by secret\n1\n"
    assert text((await test.exec("pwd; cat ../build/made; echo [$KEY$STEP]")).stdout) == (
        "/tmp/test\nmade by secret\n[]\n"
    )
    code = await sandbox.run_code(
        "import os\n"
        "open_ones = [pid for pid in os.listdir('/proc')"
        " if pid.isdigit() and os.access(f'/proc/{pid}/environ', os.R_OK)]\n"
        "seen = [open(f'/proc/{pid}/environ', 'rb').read() for pid in open_ones]\n"
        "'KEY' in os.environ, any(b'secret' in one for one in seen), bool(seen)"
    )
    assert code.text == "(False, False, True)"
