"""Kernels for notebooks: real front ends against the real process."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio

pytest.importorskip("jupyter_client", reason="kernels need the extra `jupyter`")

import zmq
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

from sandbox_runtime.interpreters.execution import Result
from sandbox_runtime.jupyter import channels
from sandbox_runtime.jupyter.channels import Publication
from sandbox_runtime.jupyter.kernel import Kernel
from sandbox_runtime.jupyter.messages import Request
from sandbox_runtime.jupyter.outputs import Outputs
from sandbox_runtime.nursery import open_serving_nursery

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from sandbox_runtime.jupyter.messages import Messages

COMMAND = [sys.executable, "-P", "-m", "sandbox_runtime", "kernel"]
TIMEOUT_S = 120

pytestmark = pytest.mark.timeout(180)

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")

Message = tuple[str, dict[str, Any]]


def kernel(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a command of ours."""
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        env=os.environ | variables,
    )


class Notebook:
    """A front end with a kernel of its own, found by its kernelspec."""

    def __init__(self, prefix: Path, name: str, cwd: Path) -> None:
        specs = KernelSpecManager(kernel_dirs=[str(prefix / "share/jupyter/kernels")])
        self.manager = KernelManager(kernel_name=name, kernel_spec_manager=specs)
        self.manager.start_kernel(cwd=str(cwd))
        self.client = self.manager.client()
        self.client.start_channels()
        try:
            self.client.wait_for_ready(timeout=TIMEOUT_S)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Of the kernel's process."""
        pid: int = self.manager.provisioner.pid  # type: ignore[union-attr]
        return pid

    def run(
        self, code: str, on_message: Callable[[Message], object] = id, **options: Any
    ) -> tuple[dict[str, Any], list[Message]]:
        """The reply to a cell, and what was published of it between `busy` and `idle`."""
        published: list[Message] = []

        def note(message: dict[str, Any]) -> None:
            published.append((message["msg_type"], message["content"]))
            on_message(published[-1])

        reply = self.client.execute_interactive(
            code, output_hook=note, timeout=TIMEOUT_S, allow_stdin=False, **options
        )
        assert published[0] == ("status", {"execution_state": "busy"})
        assert published[-1] == ("status", {"execution_state": "idle"})
        return reply["content"], published[1:-1]

    def value(self, code: str) -> str:
        """The text of a cell's value."""
        _, published = self.run(code)
        (result,) = [content for kind, content in published if kind == "execute_result"]
        text: str = result["data"]["text/plain"]
        return text

    def ask(self, kind: str, **content: Any) -> dict[str, Any]:
        """The reply to another request of the shell channel."""
        message_id = getattr(self.client, kind)(**content)
        while (reply := self.client.get_shell_msg(timeout=TIMEOUT_S)) is not None:
            if reply["parent_header"]["msg_id"] == message_id:
                break
        answer: dict[str, Any] = reply["content"]
        return answer

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel()
        self.manager.cleanup_resources()


OPTIONS = {
    "bare": ["--preload", "bare"],
    "bounded": [
        "--preload", "bare", "--cell-timeout", "2", "--env", "A=b c", "--notebook-directory",
        "--memory", "1G",
    ],
    "unknown-set": ["--preload", "bare"],
}  # fmt: skip


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where kernels are installed: one for each language, and some with options."""
    path: Path = tmp_path_factory.mktemp("prefix")
    languages = ("--language=python", "--language=javascript", "--language=typescript")
    for arguments in [languages, *(("--name", name, *some) for name, some in OPTIONS.items())]:
        done = kernel("install", "--prefix", str(path), *arguments)
        assert done.returncode == 0, done.stderr
    kernelspec = path / "share/jupyter/kernels/unknown-set/kernel.json"  # as a newer one has it
    kernelspec.write_text(kernelspec.read_text().replace('"bare"', '"nothing_of_the_kind"'))
    return path


@pytest.fixture(scope="module")
def notebook(prefix: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    """A notebook in Python that several tests write in."""
    opened = Notebook(prefix, "sandbox-python", tmp_path_factory.mktemp("notebook"))
    yield opened
    opened.close()


def kinds(published: list[Message]) -> list[str]:
    return [kind for kind, _ in published]


# --- cells ---------------------------------------------------------------------------------------


def test_a_cell_gives_its_input_output_and_value_in_order(notebook: Notebook) -> None:
    """The numbers of cells count up, in the input, the value and the reply."""
    before, _ = notebook.run("x = 41")
    reply, published = notebook.run(
        "import sys\nprint('out')\nprint('err', file=sys.stderr)\nx + 1"
    )
    count = before["execution_count"] + 1
    assert (reply["status"], reply["execution_count"]) == ("ok", count)
    assert kinds(published) == ["execute_input", "stream", "stream", "execute_result"]
    assert published[0][1]["execution_count"] == published[-1][1]["execution_count"] == count
    assert published[-1][1]["data"] == {"text/plain": "42"}
    streams = {content["name"]: content["text"] for kind, content in published if kind == "stream"}
    assert streams == {"stdout": "out\n", "stderr": "err\n"}


def test_the_code_runs_in_a_sandbox(notebook: Notebook) -> None:
    """With a process table, a host name and a user of its own."""
    assert notebook.value("import os, socket\n(os.getuid(), socket.gethostname())") == (
        "(1000, 'sandbox')"
    )
    assert notebook.value(f"os.path.exists('/proc/{os.getpid()}/environ')") == "False"


def test_output_comes_while_the_cell_runs(notebook: Notebook) -> None:
    """It goes on only when it is interrupted, which is when its first line was seen."""
    code = "import time\nprint('first')\ntime.sleep(600)"

    def interrupt(message: Message) -> None:
        if message[0] == "stream":
            notebook.manager.interrupt_kernel()

    reply, published = notebook.run(code, interrupt)
    assert ("stream", {"name": "stdout", "text": "first\n"}) in published
    assert reply["status"] == "error"


def test_text_of_several_bytes_is_whole_however_it_comes(notebook: Notebook) -> None:
    """Also what is no text at all."""
    code = (
        "import os, time\nfor byte in 'é€😀'.encode():\n"
        "    os.write(1, bytes([byte])); time.sleep(0.005)\nos.write(1, b'\\xff');"
    )
    _, published = notebook.run(code)
    printed = [content["text"] for kind, content in published if kind == "stream"]
    assert "".join(printed) == "é€😀\ufffd"


def test_a_program_that_prints_much_loses_nothing_in_few_messages(notebook: Notebook) -> None:
    """A line at a time, as fast as it can."""
    _, published = notebook.run("for n in range(50_000): print(n)")
    texts = [content["text"] for kind, content in published if kind == "stream"]
    assert "".join(texts) == "".join(f"{n}\n" for n in range(50_000))
    assert len(texts) < 5000


def test_displays_can_be_updated_and_cleared(notebook: Notebook) -> None:
    """By their ids, all in order."""
    code = (
        "from IPython.display import HTML, clear_output, display\n"
        "handle = display(HTML('<b>1</b>'), display_id='bar')\n"
        "handle.update(HTML('<b>2</b>'))\nclear_output(wait=True)\ndisplay('plain', metadata={})"
    )
    _, published = notebook.run(code)
    assert kinds(published)[1:] == [
        "display_data", "update_display_data", "clear_output", "display_data",
    ]  # fmt: skip
    shown, updated, cleared = (content for _, content in published[1:4])
    assert shown["transient"] == updated["transient"] == {"display_id": "bar"}
    assert (shown["data"]["text/html"], updated["data"]["text/html"]) == ("<b>1</b>", "<b>2</b>")
    assert cleared == {"wait": True}


def test_tables_and_figures_have_all_formats_that_a_notebook_shows(notebook: Notebook) -> None:
    """And not those that only programs read, which would fill its file."""
    pytest.importorskip("matplotlib")
    pytest.importorskip("pandas")
    _, published = notebook.run(
        "import matplotlib.pyplot as plt, pandas as pd\nplt.plot([1, 2])\npd.DataFrame({'a': [1]})"
    )
    (figure,) = [content for kind, content in published if kind == "display_data"]
    (table,) = [content for kind, content in published if kind == "execute_result"]
    assert set(figure["data"]) == {"text/plain", "image/png"}
    assert set(table["data"]) == {"text/plain", "text/html"}


def test_an_error_has_its_traceback_and_aborts_the_cells_that_wait(notebook: Notebook) -> None:
    """Those that were sent along with it; what comes later runs."""
    failing = notebook.client.execute("def f(): 1 / 0\nf()")
    waiting = notebook.client.execute("reached = True")
    replies: dict[str, dict[str, Any]] = {}
    while len(replies) < 2:
        message = notebook.client.get_shell_msg(timeout=TIMEOUT_S)
        replies[message["parent_header"]["msg_id"]] = message["content"]
    error = replies[failing]
    assert (error["status"], error["ename"], error["evalue"]) == (
        "error", "ZeroDivisionError", "division by zero",
    )  # fmt: skip
    lines = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(error["traceback"]))
    assert "line 1, in f()" in lines
    assert "sandbox_runtime" not in lines
    assert replies[waiting]["status"] == "aborted"
    assert notebook.value("'reached' in globals()") == "False"


def test_silent_code_shows_no_value_and_is_not_counted(notebook: Notebook) -> None:
    """Nor is code that is not to be remembered, which shows what it has."""
    reply, published = notebook.run("'unseen'", silent=True)
    first, _ = notebook.run("'kept'")
    assert (reply["execution_count"] + 1, published) == (first["execution_count"], [])
    reply, published = notebook.run("'seen'", store_history=False)
    assert reply["execution_count"] == first["execution_count"]
    assert published[-1][1]["data"]["text/plain"] == "'seen'"


def test_expressions_are_evaluated_after_the_cell(notebook: Notebook) -> None:
    """Each has a value or an error of its own."""
    reply, _ = notebook.run("n = 6", user_expressions={"good": "n * 7", "bad": "nothing_there"})
    values = reply["user_expressions"]
    assert values["good"]["data"]["text/plain"] == "42"
    assert (values["bad"]["status"], values["bad"]["ename"]) == ("error", "NameError")


def test_input_says_that_it_is_not_available(notebook: Notebook) -> None:
    """Whether the front end could ask or not."""
    reply, _ = notebook.run("input('name? ')")
    assert (reply["ename"], "not available" in reply["evalue"]) == ("EOFError", True)


# --- the end of a cell ---------------------------------------------------------------------------


def test_a_message_and_a_signal_interrupt_and_keep_the_state(notebook: Notebook) -> None:
    """As front ends of either kind send them."""
    notebook.run("kept = 'kept'")

    def by_signal(message: Message) -> None:
        if message[0] == "stream":
            os.kill(notebook.pid, signal.SIGINT)

    def by_message(message: Message) -> None:
        if message[0] == "stream":
            notebook.manager.interrupt_kernel()

    for way in (by_signal, by_message):
        reply, _ = notebook.run("import time\nprint('begun')\nwhile True: time.sleep(1)", way)
        assert reply["ename"] == "KeyboardInterrupt"
        assert "variables are kept" in reply["evalue"]
        assert notebook.value("kept") == "'kept'"


def test_an_interpreter_that_dies_is_told_and_replaced(notebook: Notebook) -> None:
    """The kernel goes on with a fresh one and counts from the beginning."""
    notebook.run("lost = 1")
    reply, _ = notebook.run("import os; os._exit(3)")
    assert (reply["ename"], "exited with status 3" in reply["evalue"]) == ("InterpreterLost", True)
    reply, _ = notebook.run("lost")
    assert (reply["ename"], reply["execution_count"]) == ("NameError", 1)


def test_an_interpreter_that_dies_between_cells_is_told_by_the_next_one(
    notebook: Notebook,
) -> None:
    """Here in the completion of a name; the numbers and the history begin anew, once."""
    notebook.run(
        "import os\nclass Deadly:\n    def __dir__(self): os._exit(3)\n"
        "    __getattr__ = __dir__\ndeadly = Deadly()"
    )
    notebook.ask("complete", code="deadly.x", cursor_pos=8)
    reply, published = notebook.run("7")
    assert (reply["status"], reply["execution_count"]) == ("ok", 1)
    (told,) = [content for kind, content in published if kind == "stream"]
    assert told["name"] == "stderr"
    assert "has died since the last cell" in told["text"]
    reply, published = notebook.run("8")
    assert reply["execution_count"] == 2
    assert kinds(published) == ["execute_input", "execute_result"]
    history = notebook.ask("history", hist_access_type="tail", n=9)["history"]
    assert [cell[1:] for cell in history] == [[1, "7"], [2, "8"]]


def test_a_value_that_cannot_be_asked_for_leaves_the_cell_good(notebook: Notebook) -> None:
    """The interpreter dies of the expression; the next cell says so."""
    reply, _ = notebook.run("import os", user_expressions={"end": "os._exit(3)"})
    assert reply["status"] == "ok"
    assert reply["execution_count"] > 0
    reply, published = notebook.run("9")
    assert reply["execution_count"] == 1
    assert "stream" in kinds(published)


# --- what editors ask ----------------------------------------------------------------------------


def test_json_that_is_nested_too_deep_is_left_out_and_ends_no_kernel(notebook: Notebook) -> None:
    """Nothing between the cell and the front end is asked to recurse so far."""
    code = "deep = []\nfor _ in range(500): deep = [deep]\n"
    reply, published = notebook.run(
        code + "display({'text/plain': 'kept', 'application/json': deep}, raw=True)"
    )
    assert reply["status"] == "ok"
    (shown,) = [content for kind, content in published if kind == "display_data"]
    assert shown["data"] == {"text/plain": "kept"}
    assert "application/json was left out" in published[-1][1]["text"]
    assert notebook.value("6 * 7") == "42"


class UnspeakableMessages:
    """Takes what can be written as JSON and says so, as the real ones do."""

    def __init__(self) -> None:
        self.replies: list[dict[str, Any]] = []

    async def publish(self, kind: str, content: dict[str, Any], _: object) -> None:
        json.dumps([kind, content])

    async def reply(self, _: object, content: dict[str, Any]) -> None:
        json.dumps(content)
        self.replies.append(content)


@pytest.mark.parametrize("kind", ["broken_request", "unspeakable_request"])
async def test_a_message_that_cannot_be_answered_is_an_error_and_not_the_end(kind: str) -> None:
    """Whatever goes wrong is told to who has asked."""

    async def fail(_: object) -> dict[str, Any]:
        raise RecursionError("too deep")

    async def answer(_: object) -> dict[str, Any]:
        return {"answer": object()}

    ours = object.__new__(Kernel)
    messages = UnspeakableMessages()
    ours._messages = messages  # type: ignore[assignment]
    ours._count = 0
    ours._answers = {"broken_request": fail, "unspeakable_request": answer}
    request = Request(kind=kind, content={}, message={}, sender=[], channel=None)
    await ours._answer(request)
    (reply,) = messages.replies
    assert reply["status"] == "error"
    assert reply["ename"] == ("RecursionError" if kind == "broken_request" else "TypeError")


def test_names_are_completed_from_the_live_objects(notebook: Notebook) -> None:
    """Columns of a table too; nothing of it is seen in the namespace."""
    notebook.run("record = {'alpha': 1, 'beta': 2}\nclass Thing: colour = 1\nthing = Thing()")
    own = "sorted(name for name in globals() if name[0] != '_')"
    names = notebook.value(own)
    found = notebook.ask("complete", code="thing.col", cursor_pos=9)
    assert (found["matches"], found["cursor_start"], found["cursor_end"]) == (["colour"], 6, 9)
    assert "alpha" in notebook.ask("complete", code="record['", cursor_pos=8)["matches"]
    assert notebook.ask("complete", code="no_such_name_", cursor_pos=13)["matches"] == []
    assert notebook.value(own) == names


def test_help_is_that_of_the_object_at_the_cursor(notebook: Notebook) -> None:
    """What is not there is said not to be."""
    notebook.run("def half(n):\n    'Divides by two.'\n    return n / 2")
    found = notebook.ask("inspect", code="half(3)", cursor_pos=6)
    assert (found["found"], "Divides by two." in found["data"]["text/plain"]) == (True, True)
    assert notebook.ask("inspect", code="nothing_there", cursor_pos=3)["found"] is False


def test_consoles_are_told_whether_a_cell_is_whole(notebook: Notebook) -> None:
    """And how the next line is indented."""
    assert notebook.ask("is_complete", code="1 + 1") == {"status": "complete"}
    more = notebook.ask("is_complete", code="if x:\n    if y:")
    assert more == {"status": "incomplete", "indent": "        "}


def test_the_history_has_the_cells(notebook: Notebook) -> None:
    """The newest last."""
    reply, _ = notebook.run("'remembered'")
    tail = notebook.ask("history", hist_access_type="tail", n=1)["history"]
    assert tail == [[0, reply["execution_count"], "'remembered'"]]


def test_the_kernel_says_what_it_is(notebook: Notebook) -> None:
    """Its language with the version that cells find."""
    told = notebook.ask("kernel_info")
    assert told["implementation"] == "sandbox_runtime"
    version = notebook.value("import platform; platform.python_version()")
    assert version == repr(told["language_info"]["version"])
    assert told["language_info"]["file_extension"] == ".py"


def test_a_message_that_is_not_signed_is_not_heard(notebook: Notebook) -> None:
    """Whoever reaches the port without the key runs nothing."""
    session = notebook.client.session.clone()
    session.key = b"another"
    session.send(notebook.client.shell_channel.socket, "execute_request", {"code": "forged = 1"})
    assert notebook.value("'forged' in globals()") == "False"


# --- the life of a kernel ------------------------------------------------------------------------


def test_a_restart_begins_anew_and_the_end_leaves_nothing(prefix: Path, tmp_path: Path) -> None:
    """The sandbox's processes are the kernel's, and gone with it."""
    opened = Notebook(prefix, "bare", tmp_path)
    try:
        assert opened.value("x = 1; x") == "1"
        opened.manager.restart_kernel()
        opened.client.wait_for_ready(timeout=TIMEOUT_S)
        reply, _ = opened.run("x")
        assert (reply["ename"], reply["execution_count"]) == ("NameError", 1)
        pid = opened.pid
        assert children(pid)
    finally:
        opened.close()
    assert not Path(f"/proc/{pid}").exists()


def children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]


def test_options_of_the_kernelspec_hold(prefix: Path) -> None:
    """The notebook's directory is where cells start, and cannot be written to."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        directory = Path(name)
        directory.chmod(0o755)  # what runs inside is somebody else
        (directory / "data.txt").write_text("from the host")
        (directory / "data.txt").chmod(0o644)
        opened = Notebook(prefix, "bounded", directory)
        try:
            assert opened.value("open('data.txt').read()") == "'from the host'"
            reply, _ = opened.run("open('data.txt', 'w')")
            assert reply["ename"] in {"OSError", "PermissionError"}
            assert opened.value("import os; os.environ['A']") == "'b c'"
            assert opened.value("'pandas' in __import__('sys').modules") == "False"
            reply, _ = opened.run("kept = 1\nwhile True: pass")
            assert (reply["ename"], "2 s" in reply["evalue"]) == ("TimeoutError", True)
            assert opened.value("kept") == "1"
        finally:
            opened.close()


def test_where_there_can_be_no_sandbox_each_cell_says_why(prefix: Path, tmp_path: Path) -> None:
    """The kernel itself comes up, because front ends do not show why one has not."""
    opened = Notebook(prefix, "unknown-set", tmp_path)
    try:
        reply, _ = opened.run("1 + 1")
        assert (reply["status"], reply["ename"]) == ("error", "InvalidArgumentError")
        assert "nothing_of_the_kind" in reply["evalue"]
    finally:
        opened.close()


def test_a_kernel_ends_with_the_process_that_started_it(prefix: Path, tmp_path: Path) -> None:
    """A server of notebooks that is killed leaves none behind."""
    script = (
        "import os, sys\nfrom jupyter_client.manager import KernelManager\n"
        "from jupyter_client.kernelspec import KernelSpecManager\n"
        f"specs = KernelSpecManager(kernel_dirs=[{str(prefix / 'share/jupyter/kernels')!r}])\n"
        "manager = KernelManager(kernel_name='bare', kernel_spec_manager=specs)\n"
        "manager.start_kernel()\nclient = manager.client()\nclient.start_channels()\n"
        "client.wait_for_ready(timeout=120)\n"
        "print(manager.provisioner.pid, flush=True)\nsys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path
    ) as server:
        assert server.stdout is not None
        pidfd = os.pidfd_open(int(server.stdout.readline()))
        try:
            server.kill()
            server.wait()
            assert select.select([pidfd], [], [], TIMEOUT_S)[0]
        finally:
            os.close(pidfd)


@needs_node
@pytest.mark.parametrize(
    ("language", "code", "value"),
    [
        ("javascript", "const twice = async (n) => n * 2; await twice(21)", "42"),
        ("typescript", "const half = (n: number): number => n / 2; half(84)", "42"),
    ],
)
def test_other_languages(
    prefix: Path, tmp_path: Path, language: str, code: str, value: str
) -> None:
    """Each has a kernel of its own."""
    opened = Notebook(prefix, f"sandbox-{language}", tmp_path)
    try:
        assert opened.value(code) == value
        reply, published = opened.run("console.log('out'); null.x")
        assert (reply["status"], reply["ename"]) == ("error", "TypeError")
        assert ("stream", {"name": "stdout", "text": "out\n"}) in published

        def interrupt(message: Message) -> None:
            if message[0] == "stream":  # the control channel does not wait for the cell
                asked = opened.client.session.msg("kernel_info_request", {})
                opened.client.control_channel.send(asked)
                answer = opened.client.get_control_msg(timeout=TIMEOUT_S)
                assert answer["content"]["language_info"]["version"].count(".") == 2
                opened.manager.interrupt_kernel()

        reply, _ = opened.run("console.log('begun'); while (true) {}", interrupt)
        assert (reply["ename"], "kept" in reply["evalue"]) == ("KeyboardInterrupt", True)
        told = opened.ask("kernel_info")["language_info"]
        assert (told["name"], told["version"].count(".")) == (language, 2)
        assert opened.ask("is_complete", code="f(")["status"] == "incomplete"
    finally:
        opened.close()


def test_a_notebook_is_executed(prefix: Path, tmp_path: Path) -> None:
    """By nbclient, as `jupyter execute` and papermill do it; its outputs are in the file."""
    pytest.importorskip("nbclient", reason="nbclient is not installed")

    cells = ["total = sum(range(10))", "print('total', total)\ntotal * 2", "import os; os.getuid()"]
    path = tmp_path / "analysis.ipynb"
    empty: dict[str, Any] = {
        "cell_type": "code",
        "execution_count": None,
        "metadata": {},
        "outputs": [],
    }
    written = [empty | {"id": f"cell-{n}", "source": cell} for n, cell in enumerate(cells)]
    notebook = {"cells": written, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(notebook))
    command = ["jupyter", "execute", "--inplace", "--kernel_name=sandbox-python", str(path)]
    done = subprocess.run(
        [sys.executable, "-m", *command],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        env=os.environ | {"JUPYTER_PATH": str(prefix / "share/jupyter")},
    )
    assert done.returncode == 0, done.stderr
    done_cells = json.loads(path.read_text())["cells"]
    printed, value = done_cells[1]["outputs"]
    assert (printed["name"], printed["text"]) == ("stdout", ["total 45\n"])
    assert value["data"]["text/plain"] == ["90"]
    assert done_cells[2]["outputs"][0]["data"]["text/plain"] == ["1000"]
    assert [cell["execution_count"] for cell in done_cells] == [1, 2, 3]


# --- kernelspecs ---------------------------------------------------------------------------------


def test_kernels_are_installed_listed_and_removed(tmp_path: Path) -> None:
    """In the place of the user, if no other is asked for."""
    data = {"JUPYTER_DATA_DIR": str(tmp_path / "data"), "JUPYTER_PATH": ""}
    done = kernel("install", "--network", "host", "--memory", "512M", **data)
    assert done.stdout.startswith("sandbox-python: Python (sandbox), in "), done.stderr
    spec = json.loads((tmp_path / "data/kernels/sandbox-python/kernel.json").read_text())
    assert spec["argv"][-4:] == ["--network", "host", "--memory", str(512 << 20)]
    listed = kernel("list", **data).stdout.splitlines()
    assert any(line.startswith("sandbox-python\tpython\t") for line in listed)
    done = kernel("remove", "sandbox-python", **data)
    assert done.stdout.startswith("removed ")
    assert not (tmp_path / "data/kernels/sandbox-python").exists()


def test_a_strangers_kernel_is_not_replaced_where_no_front_end_looks(tmp_path: Path) -> None:
    """What counts is the directory that would be replaced; ours is replaced there."""
    data = {"JUPYTER_DATA_DIR": str(tmp_path / "data"), "JUPYTER_PATH": ""}
    kernels = tmp_path / "prefix/share/jupyter/kernels"
    arguments = ("install", "--prefix", str(tmp_path / "prefix"), "--name", "nine")
    stranger = '{"argv": ["true"], "display_name": "Nine", "language": "python"}'
    for written in (stranger, "no JSON", None):
        (kernels / "nine").mkdir(parents=True)
        (kernels / "nine/theirs").write_text("kept")
        if written is not None:
            (kernels / "nine/kernel.json").write_text(written)
        done = kernel(*arguments, **data)
        assert done.returncode == 2
        assert "is not of sandbox-runtime; give another name" in done.stderr
        assert (kernels / "nine/theirs").read_text() == "kept"
        shutil.rmtree(kernels / "nine")
    for memory in ("512M", "1G"):
        done = kernel(*arguments, "--memory", memory, **data)
        assert done.returncode == 0, done.stderr
    assert str(1 << 30) in (kernels / "nine/kernel.json").read_text()


def test_kernels_of_others_are_left_alone(tmp_path: Path) -> None:
    """Neither replaced nor removed."""
    other = tmp_path / "kernels/python9"
    other.mkdir(parents=True)
    (other / "kernel.json").write_text(
        '{"argv": ["true"], "display_name": "Nine", "language": "python"}'
    )
    data = {"JUPYTER_DATA_DIR": str(tmp_path)}
    for arguments in (["install", "--name", "python9"], ["remove", "python9"]):
        done = kernel(*arguments, **data)
        assert (done.returncode, "python9" in done.stderr) == (2, True)
    assert "Nine" in (other / "kernel.json").read_text()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["install", "--name", "Bad Name"], "Bad Name"),
        (["install", "--user", "--sys-prefix"], "one of"),
        (["install", "--language", "cobol"], "cobol"),
        (["install", "--language", "javascript", "--preload", "data"], "preload"),
        (["install", "--preload", "nix"], "'nix' is no preload set; known: bare, data, notebook"),
        (["install", "--require", "frob"], "'frob' is no protection; known: user_namespace"),
        (["install", "--memory", "lots"], "lots"),
        (["install", "--read-only", "/no/such/place"], "/no/such/place"),
        (["remove", "no-such-kernel"], "no-such-kernel"),
        (["start", "-f", "/no/such/file"], "/no/such/file"),
        (["start"], "connection-file"),
    ],
)
def test_mistakes_are_answered_in_a_line(tmp_path: Path, arguments: list[str], named: str) -> None:
    """Status 2, and what is wrong is named."""
    done = kernel(*arguments, JUPYTER_DATA_DIR=str(tmp_path))
    (line,) = done.stderr.splitlines()
    assert (done.returncode, named in line) == (2, True), line


def test_without_the_extra_it_says_what_to_install(tmp_path: Path) -> None:
    """In a line, as for every mistake."""
    (tmp_path / "jupyter_client.py").write_text("raise ModuleNotFoundError(name='jupyter_client')")
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); sys.argv[1:] = ['kernel', 'list']"
    done = subprocess.run(
        [sys.executable, "-c", f"{script}\nfrom sandbox_runtime.cli import main\nmain()"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 2
    assert "pip install jupyter-client pyzmq" in done.stderr


# --- what is published ---------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def publication(address: str) -> AsyncIterator[Publication]:
    """A socket of ours that front ends listen to."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        async with open_serving_nursery() as nursery:
            opened = Publication(context, address)
            nursery.start_soon(opened.run)
            yield opened
    finally:
        context.destroy(linger=0)


@contextlib.contextmanager
def listener(address: str, queued: int) -> Iterator[zmq.Socket[bytes]]:
    """A front end that takes so many messages before it has read any."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        socket = context.socket(zmq.SUB)
        socket.setsockopt(zmq.RCVHWM, queued)
        socket.setsockopt(zmq.RCVTIMEO, 20_000)
        socket.setsockopt(zmq.SUBSCRIBE, b"")
        socket.connect(address)
        yield socket
    finally:
        context.destroy(linger=0)


class Heard:
    """Stands for all front ends, and keeps what is published."""

    def __init__(self) -> None:
        self.published: list[Message] = []

    async def publish(self, kind: str, content: dict[str, Any], _cause: object) -> None:
        await trio.lowlevel.checkpoint()
        self.published.append((kind, content))


async def test_what_an_interrupt_keeps_from_being_sent_comes_at_the_end() -> None:
    """Each once and in its order, however much it is."""
    heard = Heard()
    outputs = Outputs(cast("Messages", heard), cast("Request", None), 7)
    text = "x" * (1 << 19)
    value = Result(data={"text/plain": "42"}, is_main_result=True)
    with trio.CancelScope() as interrupt:
        interrupt.cancel()
        await outputs.stdout(text.encode())
    with trio.CancelScope() as interrupt:
        interrupt.cancel()
        await outputs.show(value)
    assert heard.published == []
    await outputs.stderr(b"end")
    await outputs.finish()
    assert kinds(heard.published) == ["stream", "execute_result", "stream"]
    assert heard.published[0][1] == {"name": "stdout", "text": text}
    assert heard.published[1][1]["data"] == {"text/plain": "42"}
    assert heard.published[2][1] == {"name": "stderr", "text": "end"}


MESSAGE = b"x" * 20_000


async def test_a_front_end_that_is_slow_loses_nothing(tmp_path: Path) -> None:
    """The program that prints waits for it."""
    address = f"ipc://{tmp_path}/socket"
    async with publication(address) as ours:
        with listener(address, 1) as slow:
            await ours.subscription()
            read: list[bytes] = []

            def read_all() -> None:
                while not read or read[-1] != b"last":
                    read.append(slow.recv())

            async with trio.open_nursery() as nursery:
                with trio.move_on_after(0.2):  # nobody reads
                    while True:
                        await ours.send([MESSAGE])
                nursery.start_soon(trio.to_thread.run_sync, read_all)
                for number in range(2000):
                    await ours.send([b"%d" % number])
                await ours.send([b"last"])
    numbers = [one for one in read if one != MESSAGE]
    assert numbers == [b"%d" % number for number in range(2000)] + [b"last"]


async def test_large_messages_that_nobody_reads_are_bounded_in_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is small goes to all others still."""
    monkeypatch.setattr(channels, "_PATIENCE_S", 0.2)
    monkeypatch.setattr(channels, "_QUEUED_LARGE_BYTES", 16 << 20)
    address = f"ipc://{tmp_path}/socket"
    large = b"x" * (2 << 20)
    async with publication(address) as ours:
        with listener(address, 1) as stuck, listener(address, 0) as other:
            await ours.subscription()
            await ours.subscription()
            with trio.fail_after(TIMEOUT_S):
                for number in range(30):
                    await ours.send([large])
                    await ours.send([b"%d" % number])
                    assert ours.queued_large_bytes <= 16 << 20
                await ours.send([b"last"])
            read: list[bytes] = []
            while not read or read[-1] != b"last":
                read.append(await trio.to_thread.run_sync(other.recv))
            small = [one for one in read if one != large]
            assert small == [*(b"%d" % number for number in range(30)), b"last"]
            assert 8 <= read.count(large) < 30
            assert stuck.recv() == large  # what it has got before


async def test_a_front_end_that_reads_nothing_holds_nobody_up_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is waited for once; the others get everything."""
    monkeypatch.setattr(channels, "_PATIENCE_S", 0.2)
    address = f"ipc://{tmp_path}/socket"
    async with publication(address) as ours:
        with listener(address, 1) as stuck, listener(address, 0) as other:
            await ours.subscription()
            await ours.subscription()
            with trio.fail_after(TIMEOUT_S):
                for _ in range(400):
                    await ours.send([MESSAGE])
                await ours.send([b"last"])
            count = 0
            while await trio.to_thread.run_sync(other.recv) != b"last":
                count += 1
            assert count == 400
            assert stuck.recv() == MESSAGE  # what it has got before
