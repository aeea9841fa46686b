"""`sandbox-runtime code`: cells from the command line, and a dialogue on a terminal."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from sandbox_runtime.interpreters.cells import is_whole

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMMAND = [sys.executable, "-P", "-m", "sandbox_runtime", "code"]

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")


def code(
    *arguments: str, cwd: Path, stdin: bytes | None = None
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*COMMAND, *arguments],
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        cwd=cwd,
        timeout=55,
        check=False,
    )


# --- one cell --------------------------------------------------------------------------------


def test_the_value_of_the_last_expression_is_printed(tmp_path: Path) -> None:
    """As text, after what the code itself prints; status 0."""
    done = code("-c", "print('first')\nawait __import__('asyncio').sleep(0, 42)", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"first\n42\n", b"")


def test_code_comes_from_a_file_or_from_standard_input(tmp_path: Path) -> None:
    """A file's ending says the language; `-` and a pipe without arguments are Python."""
    (tmp_path / "a.py").write_bytes(b"# -*- coding: latin-1 -*-\nascii('\xe9')")
    assert code("a.py", cwd=tmp_path).stdout == b"\"'\\\\xe9'\"\n"
    assert code("-", cwd=tmp_path, stdin=b"6 * 7").stdout == b"42\n"
    assert code(cwd=tmp_path, stdin=b"6 * 8").stdout == b"48\n"


@needs_node
def test_other_languages(tmp_path: Path) -> None:
    """JavaScript by --language, TypeScript by the ending."""
    done = code("--language", "javascript", "-c", "await Promise.resolve([1, 2n])", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, b"[ 1, 2n ]\n")
    (tmp_path / "a.ts").write_text("const n: number = 6 * 7\nconsole.log('seen'); n")
    done = code("a.ts", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, b"seen\n42\n")
    done = code("--language", "javascript", "-c", "process.exit(5)", cwd=tmp_path)
    assert done.returncode == 5


@pytest.mark.parametrize(
    ("text", "options", "status", "told"),
    [
        ("1 / 0", [], 1, "ZeroDivisionError"),
        ("import sys; sys.exit(4)", [], 4, ""),
        ("import os; os._exit(7)", [], 7, ""),
        ("import os; os.abort()", [], 128 + signal.SIGABRT, "SIGABRT"),
        ("import time; time.sleep(600)", ["--timeout", "0.5"], 124, "deadline"),
    ],
)
def test_the_exit_status_is_that_of_a_script(
    tmp_path: Path, text: str, options: list[str], status: int, told: str
) -> None:
    """And stderr says why, where that is not the code's own will."""
    done = code(*options, "-c", text, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (status, b"")
    assert told in done.stderr.decode()


def test_json_has_the_results_in_all_their_formats(tmp_path: Path) -> None:
    """One object, and nothing else on standard output."""
    done = code(
        "--json", "-c", "print('x')\nimport pandas\npandas.DataFrame({'a': [1]})", cwd=tmp_path
    )
    record = json.loads(done.stdout)
    assert (record["ended"], record["exit_code"], record["stdout"]) == ("ok", 0, "x\n")
    (result,) = record["results"]
    assert "<table" in result["data"]["text/html"]


def test_figures_and_files_are_kept(tmp_path: Path) -> None:
    """--figures saves what is shown, --in and --out copy as everywhere."""
    pytest.importorskip("matplotlib")
    (tmp_path / "data.txt").write_text("1 2 3")
    text = (
        "import matplotlib.pyplot as plt\n"
        "plt.plot([int(x) for x in open('data.txt').read().split()])\n"
        "open('out.txt', 'w').write('made')"
    )
    arguments = ["--figures", "plots", "--in", "data.txt", "--out", "out.txt", "-c", text]
    done = code(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, b"4\n")
    assert (tmp_path / "plots/figure-1.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert (tmp_path / "out.txt").read_text() == "made"


def test_branches_run_on_copies_and_are_shown_in_their_order(tmp_path: Path) -> None:
    """The first ends last; each begins with what the code has made."""
    arguments = ["-c", "data = [1]; print('made')"]
    waiting = (
        "import pathlib, time\n"
        "while not pathlib.Path('/tmp/go').exists(): time.sleep(0.001)\n"
        "data.append('first'); print('waited'); data"
    )
    for text in (waiting, "open('/tmp/go', 'w').close(); data.append('second'); data", "1 / 0"):
        arguments += ["--branch", text]
    done = code(*arguments, cwd=tmp_path)
    assert done.stdout == b"made\nwaited\n[1, 'first']\n[1, 'second']\n"
    assert done.returncode == 1
    told = done.stderr.decode()
    assert "branch 2 of 3: open(" in told
    assert "ZeroDivisionError" in told


def test_branches_are_in_the_object_of_json(tmp_path: Path) -> None:
    """Each with its code and its end; none if the code has failed."""
    done = code("--json", "-c", "n = 6", "--branch", "n * 7", "--branch", "n * 8", cwd=tmp_path)
    branches = json.loads(done.stdout)["branches"]
    assert [one["code"] for one in branches] == ["n * 7", "n * 8"]
    assert [one["results"][0]["data"]["text/plain"] for one in branches] == ["42", "48"]
    done = code("-c", "import sys; sys.exit(3)", "--branch", "print('never')", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (3, b"")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["-c", "1", "a.py"], "not both"),
        (["--language", "javascript", "-c", "1", "--branch", "2"], "cannot be branched"),
        (["-c", "1", *["--branch", "2"] * 65], "65"),
        (["-c", "1", "--ready-branches", "1"], "dialogue"),
        (["--language", "typescript", "--ready-branches", "1"], "cannot be branched"),
        (["missing.py"], "missing.py"),
        (["."], "directory"),
        (["latin.js"], "UTF-8"),
        (["--language", "perl", "-c", "1"], "perl"),
        (["--cwd", "/nowhere", "-c", "1"], "/nowhere"),
    ],
)
def test_mistakes_are_answered_in_a_line(tmp_path: Path, arguments: list[str], named: str) -> None:
    """Status 2 (125 if only the sandbox can tell), and one line that names what is wrong."""
    (tmp_path / "latin.js").write_bytes(b"'\xe9'")
    done = code(*arguments, cwd=tmp_path)
    assert done.returncode in {2, 125}
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("sandbox-runtime: ")
    assert named in line


# --- a dialogue ------------------------------------------------------------------------------


class Terminal:
    """A pseudo-terminal with the command at its other end."""

    def __init__(self, *arguments: str, cwd: Path) -> None:
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.chdir(cwd)
            os.execv(COMMAND[0], [*COMMAND, *arguments])  # noqa: S606 - ours, no shell wanted
        self._seen = ""

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def expect(self, pattern: str, timeout_s: float = 50) -> str:
        """What was shown up to the end of the first match, which is taken away."""
        end_s = time.monotonic() + timeout_s
        while (match := re.search(pattern, self._seen)) is None:
            left_s = max(0.0, end_s - time.monotonic())
            if not select.select([self._fd], [], [], left_s)[0]:
                raise AssertionError(f"{pattern!r} was not shown but {self._seen!r}")
            try:
                self._seen += os.read(self._fd, 65536).decode()
            except OSError:  # nobody is at the other end any more
                raise AssertionError(f"{pattern!r} was not shown but {self._seen!r}") from None
        shown, self._seen = self._seen[: match.end()], self._seen[match.end() :]
        return shown

    def status(self) -> int:
        """The exit status, once it has ended; what it still shows is read meanwhile."""
        with contextlib.suppress(OSError):
            while data := os.read(self._fd, 65536):
                self._seen += data.decode()
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        os.close(self._fd)  # hangs up
        if self.pid:
            os.waitpid(self.pid, 0)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    """A dialogue in Python."""
    opened = Terminal("--figures", "plots", cwd=tmp_path)
    yield opened
    opened.close()


def test_a_dialogue_keeps_its_state(terminal: Terminal, tmp_path: Path) -> None:
    """Names, functions of several lines, errors, figures; Ctrl-D ends it with status 0."""
    terminal.expect(">>> ")
    terminal.type("x = 41\n")
    terminal.expect(">>> ")
    terminal.type("def more(y):\n")
    terminal.expect(r"\.\.\. ")
    terminal.type("    return y + 1\n")
    terminal.expect(r"\.\.\. ")
    terminal.type("\n")
    terminal.expect(">>> ")
    terminal.type("more(x)\n")
    terminal.expect("\r\n42\r\n>>> ")
    terminal.type("1 / 0\n")
    terminal.expect("ZeroDivisionError: division by zero\r\n>>> ")
    if importlib.util.find_spec("matplotlib") is not None:
        terminal.type("import matplotlib.pyplot as plt; _ = plt.plot([1, 2])\n")
        terminal.expect(r"plots/figure-1.png \(\d+ bytes\)\r\n>>> ")
        assert (tmp_path / "plots/figure-1.png").exists()
    terminal.type("\x04")
    assert terminal.status() == 0


def test_a_dialogue_tells_of_branches_that_are_made_ahead(tmp_path: Path) -> None:
    """By `:branches`, how many of them wait at present."""
    opened = Terminal("--ready-branches", "2", cwd=tmp_path)
    opened.expect(">>> ")
    opened.type(":branches\n")
    opened.expect(r"\*main \([012] of 2 branches ready\)\r\n>>> ")
    opened.type("\x04")
    assert opened.status() == 0
    opened.close()


def test_ctrl_c_ends_the_cell_and_keeps_the_state(terminal: Terminal) -> None:
    """While a cell runs; while one is typed it drops that; neither ends the dialogue."""
    terminal.expect(">>> ")
    terminal.type("x = 6; print('be' + 'gun'); import time; time.sleep(600)\n")
    terminal.expect("begun\r\n")
    terminal.type("\x03")
    terminal.expect("KeyboardInterrupt")
    terminal.expect("variables are kept\r\n>>> ")
    terminal.type("x * (\n")
    terminal.expect(r"\.\.\. ")
    terminal.type("\x03")
    terminal.expect(">>> ")
    terminal.type("x * 7\n")
    terminal.expect("\r\n42\r\n>>> ")
    terminal.type("exit(3)\n")
    assert terminal.status() == 3


def test_a_dialogue_branches_what_is_ready(tmp_path: Path) -> None:
    """The copy holds what was typed last, whether it was made before it was asked for or not."""
    terminal = Terminal("--ready-branches", "1", cwd=tmp_path)
    for number in range(2):
        terminal.expect(">>> ")
        terminal.type(f"x = {number}\n")
        terminal.expect(">>> ")
        terminal.type(":branch\n")
        terminal.expect(">>> ")
        terminal.type("'x', x\n")
        terminal.expect(f"'x', {number}")
        terminal.expect(">>> ")
        terminal.type(":drop\n")
    terminal.expect(">>> ")
    terminal.type("\x04")
    assert terminal.status() == 0
    terminal.close()


def test_a_dialogue_goes_between_branches(terminal: Terminal) -> None:
    """A colon in front makes one, goes to another, drops one; the prompt says where one is."""
    terminal.expect(">>> ")
    terminal.type("x = 1\n")
    terminal.expect(">>> ")
    terminal.type(":branch bold\n")
    terminal.expect("bold is a copy of main.*\r\nbold >>> ")
    terminal.type("x = 2\n")
    terminal.expect("bold >>> ")
    terminal.type(":go main\n")
    terminal.expect("\r\n>>> ")
    terminal.type("x\n")
    terminal.expect("\r\n1\r\n>>> ")
    terminal.type(":go bold\n")
    terminal.expect("bold >>> ")
    terminal.type("x\n")
    terminal.expect("\r\n2\r\nbold >>> ")
    terminal.type(":branches\n")
    terminal.expect(r"main, \*bold\r\nbold >>> ")
    terminal.type(":drop\n")
    terminal.expect("bold is gone; this is main\r\n>>> ")
    terminal.type(":drop main\n")
    terminal.expect("cannot be dropped; what can: none\r\n>>> ")
    terminal.type(":go nowhere\n")
    terminal.expect("no 'nowhere' but main\r\n>>> ")
    terminal.type(
        "import threading; t = threading.Event(); threading.Thread(target=t.wait).start()\n"
    )
    terminal.expect("\r\n>>> ")
    terminal.type(":branch\n")
    terminal.expect("Thread-.*\r\n>>> ")
    terminal.type(":help\n")
    terminal.expect(":branch .NAME.")
    terminal.type("\x04")
    assert terminal.status() == 0


def test_an_interpreter_that_crashes_is_replaced(terminal: Terminal) -> None:
    """It is told what ended it and that the variables are gone."""
    terminal.expect(">>> ")
    terminal.type("x = 6; import os; os.abort()\n")
    terminal.expect("SIGABRT; the variables are lost\r\n>>> ")
    terminal.type("x\n")
    terminal.expect("NameError.*\r\n>>> ")


def test_a_signal_ends_a_dialogue(terminal: Terminal) -> None:
    """With its status, as for every run."""
    terminal.expect(">>> ")
    os.kill(terminal.pid, signal.SIGTERM)
    assert terminal.status() == 128 + signal.SIGTERM


@needs_node
def test_a_dialogue_in_typescript(tmp_path: Path) -> None:
    """An open bracket waits for more; exit is Node's."""
    terminal = Terminal("--language", "typescript", cwd=tmp_path)
    terminal.expect("ts> ")
    terminal.type("const twice = (n: number) => {\n")
    terminal.expect(r"\.\.\. ")
    terminal.type("return n * 2 }\n")
    terminal.expect("ts> ")
    terminal.type("twice(21)\n")
    terminal.expect("\r\n42\r\nts> ")
    terminal.type("process.exit(9)\n")
    assert terminal.status() == 9
    terminal.close()


def test_a_dialogue_is_not_json(tmp_path: Path) -> None:
    """There is no one object to print."""
    terminal = Terminal("--json", cwd=tmp_path)
    terminal.expect("--json needs code to run")
    assert terminal.status() == 2
    terminal.close()


@pytest.mark.parametrize(
    ("language", "text", "whole"),
    [
        ("python", "1 + 1\n", True),
        ("python", "if x:\n", False),
        ("python", "if x:\n    y\n", False),
        ("python", "if x:\n    y\n\n", True),
        ("python", "await f()\n", True),
        ("python", "'''\n\n", False),
        ("python", "1 +\n", True),
        ("python", "%time 1\n", True),
        ("python", "%%bash\necho\n", False),
        ("python", "%%bash\necho\n\n", True),
        ("javascript", "f(1)\n", True),
        ("javascript", "f(\n", False),
        ("javascript", "f(')')\n", True),
        ("javascript", "'(' // {\n", True),
        ("javascript", "/* (\n", False),
        ("javascript", "/* ( */ 1\n", True),
        ("javascript", "`a ${[1, `${'x'}`]} (`\n", True),
        ("javascript", "`a\n\n", False),
        ("javascript", "`a ${\n", False),
        ("javascript", "x)\n", True),
        ("javascript", r"/\(/.test('x')" + "\n", True),
        ("typescript", "/[(]x/\n", True),
        ("typescript", "f(\n\n\n", True),
    ],
)
def test_a_cell_is_whole_when_nothing_is_open(language: str, text: str, *, whole: bool) -> None:
    """Lines that are not wait for more."""
    assert is_whole(language, text) is whole
