"""The Python executor and its zygote, driven over real sockets and pipes.

The zygote is this file's own interpreter, forked, with a stand-in for the native module: it
does not confine and joins no namespace. Everything else is what runs in production.
"""

from __future__ import annotations

import array
import base64
import contextlib
import fcntl
import json
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import IPython
import pytest

from sandbox_runtime.interpreters.executors.python_cells import is_known_ipython

if TYPE_CHECKING:
    from collections.abc import Iterator

ZYGOTE = Path(__file__).parents[1] / "sandbox_runtime/interpreters/executors/python_zygote.py"
LIMIT_S = 20
PNG = b"\x89PNG\r\n\x1a\n"


FAKE_NATIVE = """
import base64, ctypes, json, os, select, signal, socket, sys

sys.path.append(os.path.dirname(__file__))


class Hider:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in {hidden!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)


sys.meta_path.insert(0, Hider)


def reserve_arenas():
    raise OSError(12, "no room")


def seal_arenas():
    pass


def written_pages():
    if {fails}:
        raise OSError(38, "no page map")
    return b""


def serve_forks(fd, own_pid_ns):
    sock = socket.socket(fileno=os.dup(fd))
    wakeup, writer = socket.socketpair()
    wakeup.setblocking(False), writer.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(writer.fileno())
    poll = select.poll()
    poll.register(sock, select.POLLIN), poll.register(wakeup, select.POLLIN)
    ids = {{}}

    def say(**message):
        sock.sendall(json.dumps(message).encode())

    while True:
        ready = {{fd for fd, _ in poll.poll()}}
        while wakeup.fileno() in ready and ids:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
            if pid == 0:
                break
            code = os.waitstatus_to_exitcode(status)
            status = {{"exit": code}} if code >= 0 else {{"signal": -code}}
            say(op="exited", id=ids.pop(pid), status=status)
        try:
            while wakeup.recv(4096):
                pass
        except BlockingIOError:
            pass
        if sock.fileno() not in ready:
            continue
        data, fds, _, _ = socket.recv_fds(sock, 1 << 20, 64)
        if not data:
            sock.close(), wakeup.close(), writer.close()
            return None
        request = json.loads(data)
        pid = ctypes.PyDLL(None).fork()  # Python was told of it already
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            sock.close(), wakeup.close(), writer.close()
            plan = base64.b64decode(request["plan"])
            if plan == b"fail early":
                raise OSError(12, "no memory")
            return plan, fds[:0] if plan == b"no socket" else fds
        for one in fds:
            os.close(one)
        ids[pid] = request["id"]
        say(op="forked", id=request["id"], pid=pid)


def enter_jail(plan, fds, keep_fd):
    assert keep_fd not in fds
    if plan == b"refuse":
        raise OSError(1, "mount /proc")
"""


class Run:
    """What one run has sent: its frames, and the bytes of its own two pipes until their EOF."""

    def __init__(self, context: Context, run_id: str) -> None:
        self.context = context
        self.id = run_id
        self.frames: list[dict[str, Any]] = []
        self.output = {1: b"", 2: b""}
        self._arrived = threading.Condition()
        self._readers: list[threading.Thread] = []

    def read(self, fd: int, pipe: int) -> None:
        def copy() -> None:
            while data := os.read(pipe, 65536):
                with self._arrived:
                    self.output[fd] += data
                    self._arrived.notify_all()
            os.close(pipe)

        reader = threading.Thread(target=copy, daemon=True)
        reader.start()
        self._readers.append(reader)

    def wait_output(self, text: bytes, fd: int = 1) -> None:
        """Waits until the run has printed `text`."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: text in self.output[fd], LIMIT_S), self.output

    def wait_done(self) -> Run:
        while not self.frames or self.frames[-1]["type"] != "done":
            frame = self.context.receive()
            assert frame is not None, f"the context ended: {self.frames}"
            assert frame["id"] == self.id
            self.frames.append(frame)
        for reader in self._readers:
            reader.join(LIMIT_S)
            assert not reader.is_alive(), "the run is done but its pipe has not ended"
        return self

    def all(self, kind: str) -> list[dict[str, Any]]:
        return [frame for frame in self.frames if frame["type"] == kind]

    def one(self, kind: str) -> dict[str, Any]:
        (frame,) = self.all(kind)
        return frame

    @property
    def stdout(self) -> str:
        return self.output[1].decode()

    @property
    def stderr(self) -> str:
        return self.output[2].decode()

    @property
    def status(self) -> str:
        return str(self.one("done")["status"])

    @property
    def text(self) -> str:
        return str(self.one("result")["data"]["text/plain"])


class Context:
    """The control process's end of one executor."""

    def __init__(self, zygote: Zygote, context_id: int, pid: int, sock: socket.socket) -> None:
        self.zygote, self.id, self.pid, self.sock = zygote, context_id, pid, sock
        self._runs = 0

    def start(self, code: str) -> Run:
        self._runs += 1
        run = Run(self, f"run-{self._runs}")
        out_r, out_w = os.pipe()
        err_r, err_w = os.pipe()
        body = json.dumps({"type": "run", "id": run.id, "code": code}).encode()
        frame = struct.pack(">I", len(body)) + body
        sent = socket.send_fds(self.sock, [frame], [out_w, err_w])
        os.close(out_w)
        os.close(err_w)
        run.read(1, out_r)
        run.read(2, err_r)
        if sent < len(frame):
            self.sock.sendall(frame[sent:])
        return run

    def run(self, code: str) -> Run:
        return self.start(code).wait_done()

    def interrupt(self) -> None:
        os.kill(self.pid, signal.SIGINT)

    def interrupt_until_done(self, run: Run) -> Run:
        """Repeats the signal: CPython may see it only after a system call that waits for long."""
        self.interrupt()
        while not select.select([self.sock], [], [], 1)[0]:
            self.interrupt()
        return run.wait_done()

    def receive(self) -> dict[str, Any] | None:
        header = self._exactly(4)
        if header is None:
            return None
        body = self._exactly(struct.unpack(">I", header)[0])
        assert body is not None

        def refuse(constant: str) -> None:
            raise AssertionError(f"{constant} is not JSON")

        frame: dict[str, Any] = json.loads(body.decode("utf-8"), parse_constant=refuse)
        return frame

    def _exactly(self, size: int) -> bytes | None:
        data = b""
        while len(data) < size:
            try:
                part = self.sock.recv(size - len(data))
            except ConnectionResetError:
                part = b""
            if not part:
                assert not data
                return None
            data += part
        return data

    def wait_exited(self) -> dict[str, Any]:
        return self.zygote.wait_exited(self.id)


class Zygote:
    """The control process's end of a zygote."""

    def __init__(self, sock: socket.socket, directory: Path) -> None:
        self.sock = sock
        self.directory = directory
        self._next_id = 0
        self.exited: dict[int, dict[str, Any]] = {}
        self.pids: dict[int, int] = {}

    def receive(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self.sock.recv(1 << 20))
        return message

    def request_fork(
        self,
        *,
        plan: bytes = b"",
        cwd: str = "/tmp",
        prime: bool = False,
    ) -> tuple[int, socket.socket, dict[str, Any]]:
        self._next_id += 1
        ours, theirs = socket.socketpair()
        ours.settimeout(LIMIT_S)
        namespace = os.open("/proc/self/ns/pid", os.O_RDONLY)
        request = {
            "op": "fork",
            "id": self._next_id,
            "plan": base64.b64encode(plan).decode(),
        }
        fds = array.array("i", [theirs.fileno(), namespace])
        self.sock.sendmsg(
            [json.dumps(request).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)]
        )
        os.close(namespace)
        theirs.close()
        while (reply := self.receive())["op"] == "exited":
            self.exited[reply["id"]] = reply
        env = {"HOME": cwd, "PATH": os.environ["PATH"], "GREETING": "grüße"}
        start = json.dumps({"cwd": cwd, "env": env, "prime": prime}).encode()
        with contextlib.suppress(BrokenPipeError):  # it may have failed already
            ours.sendall(struct.pack(">I", len(start)) + start)
        return self._next_id, ours, reply

    def fork(self, cwd: str = "/tmp", *, prime: bool = False) -> Context:
        context_id, sock, reply = self.request_fork(cwd=cwd, prime=prime)
        assert reply == {"op": "forked", "id": context_id, "pid": reply["pid"]}
        context = Context(self, context_id, reply["pid"], sock)
        self.pids[context_id] = context.pid
        # The number is the one inside the jail; the stand-in has no namespace of its own.
        assert context.receive() == {"type": "ready", "pid": reply["pid"]}
        return context

    def wait_exited(self, context_id: int) -> dict[str, Any]:
        while context_id not in self.exited:
            message = self.receive()
            assert message["op"] == "exited"
            self.exited[message["id"]] = message
        return self.exited[context_id]


@contextlib.contextmanager
def open_zygote(
    directory: Path, modules: list[str], hidden: tuple[str, ...] = (), *, fails: bool = False
) -> Iterator[Zygote]:
    """Starts the program as the supervisor does.

    `hidden` modules are not to be found in it; `fails` has its look at what a cell writes to fail.
    """
    native = directory / "native.py"
    native.write_text(FAKE_NATIVE.format(hidden=list(hidden), fails=fails))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(LIMIT_S * 2)
    pid = os.fork()
    if pid == 0:
        try:
            # The number 3 may be taken by either end of the pair.
            os.dup2(os.dup(theirs.fileno()), 3)
            os.closerange(4, 64)
            arguments = [sys.executable, "-I", "-B", str(ZYGOTE), str(native)]
            os.execve(sys.executable, arguments, {"TMPDIR": str(directory)})  # noqa: S606
        finally:
            os._exit(1)
    theirs.close()
    ours.sendall(json.dumps({"op": "preload", "modules": modules}).encode())
    zygote = Zygote(ours, directory)
    try:
        yield zygote
    finally:
        ours.close()
        for context_id in zygote.pids.keys() - zygote.exited.keys():  # a test has failed
            os.kill(zygote.pids[context_id], signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert not list(directory.glob("sandbox-python-*")), "the zygote left its home behind"


@pytest.fixture(scope="module")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    """One zygote for all tests, as production has it."""
    modules = ["numpy", "pandas", "matplotlib"]
    with open_zygote(tmp_path_factory.mktemp("zygote"), modules) as running:
        assert running.receive() == {
            "op": "ready",
            "python": ".".join(map(str, sys.version_info[:3])),
            "preloaded": modules,
            "missing": [],
            "warnings": [],
        }
        yield running


@pytest.fixture
def context(zygote: Zygote, tmp_path: Path) -> Iterator[Context]:
    """A new context, which has to end well after the test."""
    context = zygote.fork(str(tmp_path))
    yield context
    context.sock.close()
    assert context.wait_exited()["status"] == {"exit": 0}


# --- results and displays --------------------------------------------------------------------


def test_last_expression_is_a_result_frame_and_not_text(context: Context) -> None:
    """The value of the last expression arrives as a frame; nothing of it is on stdout."""
    run = context.run("x = 20\nx + 1")
    assert run.one("result") == {
        "type": "result",
        "id": run.id,
        "data": {"text/plain": "21"},
        "metadata": {},
        "execution_count": 1,
    }
    assert run.output == {1: b"", 2: b""}
    assert context.run("Out[1], _ + 1, In[1]").text == "(21, 22, 'x = 20\\nx + 1')"


WATCH = """
events = []
def watch(*_):
    events.append(len(In))
"""

PLAIN_OR_NOT = [
    "1 + 1",
    "x = 3\nx * 2",
    "'text'",
    "True",
    "[1, 'two', 3.5], {'a': 1}",
    "1.5",
    "10 ** 5000 > 1",
    "10 ** 5000",
    "None",
    "2;",
    "_ = 'mine'",
    "41 + 1",
    "del _",
    "43",
    "def f():\n    return 1\n\nf()",
    "text = '''a\n   \nb'''\ntext",
    "    1 + 2",
    "\n\n7",
    "# nothing but this",
    "for n in range(3): print(n)",
    "if x:\n    5",
    "from __future__ import annotations\ndef g(a: unknown): pass\ng.__annotations__",
    "def h(a: unknown): pass\nh.__annotations__",
    "1 / 0",
    "print('before')\nreturn 5",
    "print('not run')\nx ===",
    "undefined",
    "import warnings\nwarnings.warn('w')",
    "warnings.simplefilter('always')",
    *("'\\d'", "'\\d' is 5", "1 is 1", "1()", "1 [2]", "(1, 2) (3)", "assert (1, 'always')"),
    *("1or 0", "1or 0 )", "0x1for x in y", "return 1", "(yield)", "break", "x = 5", "x += 1", "x"),
    *("x = y = 3", "x: int = 4", "x = 1; x", "pass", "del y", "y", "raise ValueError('v')"),
    *(
        "*z, = 'ab'",
        "z",
        "1 +",
        "1 +\n",
        "1\n\n",
        "1\r2",
        "1\x0c",
        "\t1",
        "f(\n)",
        "(1,\n2)",
        "'a' 'b'  # c",
    ),
    *("print('printed')", "print('printed') or 5", "__debug__ = 1", "None = 1", "class A: 5"),
    *("lambda: 1", "f'{x} {x!r}'", "0777", "1__0", "\xe9 = 'e'", "\xe9", "1\0", "1 if x else 2"),
    *("-" * 5000 + "1", "(" * 300 + ")" * 300, "1 " + "+ 1 " * 3000, "import math", "math.pi"),
    "class Bad:\n    def __repr__(self): return 1 / 0",
    *("Bad()", "bad = Bad()", "[Bad()]", "1, 2, Bad()", "print(Bad())", "x"),
    "'\\d'\n)",
    "if x:\nprint('\\d')",
    "ls\n'\\d' y",
    "get_ipython().history_manager.exceptions, get_ipython().last_execution_result.success",
    "get_ipython().set_custom_exc((SyntaxError,), lambda *_: print('custom'))",
    "'\\d' )",
    "get_ipython().set_custom_exc((), None)",
    "%who_ls int",
    "!echo command",
    "x?",
    ">>> 5",
    "import math\nmath.pi",
    "exit",
    "pwd == 3",
    "import asyncio\nawait asyncio.sleep(0)\n8",
    "get_ipython().run_cell('9')\n10",
    "__import__('sys').displayhook('shown')\n11",
    "import linecache\nlinecache.getlines(f.__code__.co_filename)",
    "get_ipython().events.register('post_run_cell', watch)",
    "12",
    "events",
    "get_ipython().display_formatter.formatters['text/plain'].for_type("
    "int, lambda n, p, _: p.text(f'number {n}'))\n13",
    "14",
    "True",
    "upper = lambda lines: [line.upper() for line in lines]\n"
    "get_ipython().input_transformers_post.append(upper)",
    "x_y = 1",
    "GET_IPYTHON = 1",
    "_, __, ___",
    "'\udc80'",
    "class Doubled(__import__('ast').NodeTransformer):\n"
    "    def visit_Constant(self, node):\n"
    "        node.value = node.value * 2 if isinstance(node.value, int) else node.value\n"
    "        return node\n"
    "get_ipython().input_transformers_post.clear()\n"
    "def transform(*_): get_ipython().ast_transformers = [Doubled()]\n"
    "get_ipython().events.register('pre_run_cell', transform)",
    "21",
    "get_ipython().events.unregister('pre_run_cell', transform)\n"
    "get_ipython().ast_transformers.clear()",
    "21",
    "get_ipython().compile.cache = lambda *_, **__: '<ipython-input-1-0123456789ab>'",
    "f.__code__.co_filename, 15",
    "del get_ipython().compile.cache\n16",
    "get_ipython().run_cell('17', silent=True).result",
    "get_ipython().run_cell('18', store_history=False).execution_count",
]


def test_a_plain_cell_and_the_usual_way_have_the_same_effects(
    zygote: Zygote, tmp_path: Path
) -> None:
    """What is left out for plain Python is only what nobody could see."""
    said = []
    for begin in ("", "get_ipython().plain_cells = None\n"):
        context = zygote.fork(str(tmp_path))
        context.run(begin + WATCH)
        effects = []
        for code in PLAIN_OR_NOT:
            run = context.run(code)
            frames = [{**frame, "id": "", "usage": None} for frame in run.frames]
            effects.append((code, frames, run.output))
        context.sock.close()
        context.wait_exited()
        said.append(effects)
    for plain, usual in zip(*said, strict=True):
        assert plain == usual


def test_a_plain_cell_is_remembered_as_any_other(context: Context) -> None:
    """History, the names for it, the variables of results and `last_execution_result` are set."""
    context.run("5")
    context.run("'six'")
    names = "_i, _ii, In[-3:], Out, _, __, '_2' in get_ipython().user_ns_hidden"
    assert context.run(names).text == (
        "(\"'six'\",\n '5',\n ['5',\n  \"'six'\",\n"
        f"  \"{names}\"],\n {{1: 5, 2: 'six'}},\n 'six',\n 5,\n True)"
    )
    assert context.run("get_ipython().last_execution_result.result[4]").text == "'six'"


HTML = "html = get_ipython().display_formatter.formatters['text/html']; "


@pytest.mark.parametrize(
    ("teach", "shown"),
    [
        ("html.for_type(int, str)", ["5"]),
        ("html.for_type(object, str)", ["5", "True"]),
        ("html.for_type(bool, str)", ["True"]),
        ("html.for_type_by_name('builtins', 'int', str)", ["5"]),
        ("html.for_type_by_name('builtins', 'object', str)", ["5", "True"]),
        ("html.singleton_printers[id(True)] = str", ["True"]),
        ("html.type_printers = {int: str}", ["5"]),
        ("html.for_type(float, str); html.type_printers = {}", []),
        ("html.for_type(int, str); html.pop(int); html.for_type(float, str)", []),
        (
            "html.parent.formatters['text/html'] = type(html)(parent=html.parent); "
            "html.parent.formatters['text/html'].for_type(int, str)",
            ["5"],
        ),
        ("html.parent.formatters['text/html'] = lambda value: repr(value)", ["5", "True"]),
    ],
)
def test_a_number_is_shown_as_a_formatter_was_taught(
    context: Context, teach: str, shown: list[str]
) -> None:
    """Also where one learns of it after others were shown, and by whatever way."""
    context.run("5")
    run = context.run(HTML + teach)
    assert run.one("done")["status"] == "ok", run.frames
    results = [context.run(code).one("result")["data"] for code in ("5", "True")]
    # A formatter of a number is one of `True`, too, which is its subclass.
    expected = [*shown, "True"] if "int" in teach and shown == ["5"] else shown
    assert [data["text/html"] for data in results if "text/html" in data] == expected


def test_a_plain_cell_takes_the_short_way(context: Context) -> None:
    """None of IPython's own machinery is below it, if it is an IPython that we know well."""
    if not is_known_ipython():
        pytest.skip(f"IPython {IPython.__version__} takes its own way: see python_cells.py")
    walk = (
        "import sys\nnames = []\nframe = sys._getframe()\nwhile frame:\n"
        "    names.append(frame.f_code.co_name)\n    frame = frame.f_back\n"
        "'run_code' in names"
    )
    assert context.run(walk).text == "False"
    assert context.run(f"%matplotlib inline\n{walk}").text == "True"


def test_semicolon_silences_the_result(context: Context) -> None:
    """An expression that ends in `;` has no result."""
    assert context.run("1;").all("result") == []


def test_done_counts_and_measures(context: Context) -> None:
    """The last frame of a run says how it ended and what it has used."""
    context.run("1")
    done = context.run("sum(range(10 ** 7))").one("done")
    assert (done["status"], done["execution_count"]) == ("ok", 2)
    assert done["usage"]["user_us"] > 20_000
    assert done["usage"]["max_rss_bytes"] > 20 << 20


def test_usage_includes_ended_child_processes(context: Context) -> None:
    """The CPU time of a command is in the run's usage."""
    code = "!" + f'{sys.executable} -S -c "sum(range(10**7))"'
    assert context.run(code).one("done")["usage"]["user_us"] > 20_000


def test_data_frame_is_text_and_html_and_data(context: Context) -> None:
    """A DataFrame gives all representations in one result."""
    data = context.run("import pandas\npandas.DataFrame({'a': [1]})").one("result")["data"]
    assert set(data) == {"text/plain", "text/html", "application/vnd.dataresource+json"}
    assert "<table" in data["text/html"]


def test_figures_left_open_are_displayed_in_order_and_closed(context: Context) -> None:
    """Open figures become PNG displays at the end of their cell, once."""
    run = context.run(
        "import matplotlib.pyplot as plt\n"
        "for size in (1, 2): plt.figure(figsize=(size, 1)); plt.plot([1, 2])"
    )
    pictures = [base64.b64decode(f["data"]["image/png"]) for f in run.all("display")]
    assert [picture[:8] for picture in pictures] == [PNG, PNG]
    widths = [struct.unpack(">I", picture[16:20])[0] for picture in pictures]
    assert widths[0] < widths[1]
    assert context.run("plt.get_fignums()").text == "[]"


@pytest.mark.parametrize(
    "prelude", ["", "import matplotlib; matplotlib.use('Agg')", "%matplotlib inline"]
)
def test_show_displays_at_once(context: Context, prelude: str) -> None:
    """`plt.show()` displays and closes in the middle of a cell, whatever backend is set."""
    run = context.run(
        f"{prelude}\nimport matplotlib.pyplot as plt\nplt.plot([1]); plt.show()\n"
        "display(plt.get_fignums())"
    )
    assert ["image/png" in frame["data"] for frame in run.all("display")] == [True, False]
    assert run.all("display")[1]["data"]["text/plain"] == "[]"
    assert run.stderr == ""


def test_figure_format_can_be_configured(context: Context) -> None:
    """`%config InlineBackend.figure_format` works as in a notebook."""
    run = context.run(
        "%config InlineBackend.figure_format = 'svg'\n"
        "import matplotlib.pyplot as plt\nplt.plot([1]);"
    )
    assert "<svg" in run.one("display")["data"]["image/svg+xml"]


def test_rich_types_pass_through(context: Context) -> None:
    """Any MIME type is passed on; bytes as base64, JSON as JSON, NaN as null."""
    run = context.run(
        "import numpy as np\n"
        "display({'image/jpeg': b'\\xff\\xd8', 'application/json': {'a': [1, float('nan')]},\n"
        "  'application/vnd.plotly.v1+json': {'y': np.arange(2)},\n"
        "  'text/latex': '$x$'}, raw=True)"
    )
    assert run.one("display")["data"] == {
        "image/jpeg": "/9g=",
        "application/json": {"a": [1, None]},
        "application/vnd.plotly.v1+json": {"y": [0, 1]},
        "text/latex": "$x$",
    }


def test_display_can_be_updated_and_cleared(context: Context) -> None:
    """`update_display` names the display it replaces; `clear_output` says whether to wait."""
    run = context.run(
        "from IPython.display import clear_output\n"
        "h = display(1, display_id='d')\nh.update(2)\nclear_output(wait=True)"
    )
    kinds = [(f["type"], f.get("display_id"), f.get("wait")) for f in run.frames[:-1]]
    assert kinds == [
        ("display", "d", None),
        ("update_display", "d", None),
        ("clear_output", None, True),
    ]


def test_failing_representation_leaves_the_others(context: Context) -> None:
    """A `_repr_html_` that raises is a message on stderr; the text is delivered."""
    run = context.run(
        "class Half:\n"
        "    def _repr_html_(self): raise ValueError('no html')\n"
        "    def __repr__(self): return 'half'\n"
        "Half()"
    )
    assert run.one("result")["data"] == {"text/plain": "half"}
    assert "ValueError: no html" in run.stderr
    assert run.status == "ok"


def test_failing_repr_is_a_message(context: Context) -> None:
    """An object that cannot be shown at all does not fail the cell."""
    run = context.run("class Bad:\n    def __repr__(self): 1 / 0\nBad()")
    assert "ZeroDivisionError" in run.stderr
    assert run.status == "ok"


def test_help_is_a_display(context: Context) -> None:
    """`obj?` shows its text as a display and opens no pager."""
    assert "Docstring" in context.run("len?").one("display")["data"]["text/plain"]


# --- output ----------------------------------------------------------------------------------


def test_output_streams_while_the_code_runs(context: Context) -> None:
    """What is printed is in the pipe before the cell goes on, even without a newline."""
    run = context.start("print('now', end='')\nimport time; time.sleep(600)")
    run.wait_output(b"now")
    assert context.interrupt_until_done(run).status == "interrupted"


def test_every_layer_writes_to_the_run_in_order(context: Context) -> None:
    """Python, C and child processes share the run's pipe, and their order is kept."""
    run = context.run(
        "import ctypes, os, subprocess, sys\n"
        "print('1')\nctypes.CDLL(None).printf(b'2\\n')\nos.write(1, b'3\\n')\n"
        "subprocess.run(['echo', '4'])\n!echo 5\nsys.stdout.buffer.write(b'6\\n')\nprint('7')\n"
        "print('e', file=sys.stderr)"
    )
    assert run.stdout == "1\n2\n3\n4\n5\n6\n7\n"
    assert run.stderr == "e\n"


def test_each_run_has_its_own_pipes(context: Context) -> None:
    """Output goes to the run it was made in, and the pipes end with the run."""
    assert context.run("print('first')").stdout == "first\n"
    assert context.run("print('second')").stdout == "second\n"


def test_large_output_is_complete(context: Context) -> None:
    """Nothing is lost or kept of an output that is larger than any buffer."""
    run = context.run("print('x' * (8 << 20))\nimport os\nos.write(1, b'end')")
    assert len(run.output[1]) == (8 << 20) + 1 + 3
    assert context.run("len(get_ipython().history_manager.outputs)").text == "0"


def test_text_that_is_no_utf8_is_escaped(context: Context) -> None:
    """Lone surrogates are escaped in output, in results and in errors."""
    run = context.run("print('\\udc80')\nx = '\\udc80'\ndisplay({'text/plain': x}, raw=True)")
    assert run.stdout == "\\udc80\n"
    assert run.one("display")["data"]["text/plain"] == "\\udc80"
    assert context.run("raise ValueError(x)").one("error")["value"] == "\\udc80"


def test_threads_may_outlive_their_cell(context: Context) -> None:
    """A thread that prints after its cell reaches the next run or nothing; no harm is done."""
    context.run(
        "import threading\ngo, gone = threading.Event(), threading.Event()\n"
        "def late():\n    go.wait(); print('late'); display('late'); gone.set()\n"
        "threading.Thread(target=late).start()"
    )
    run = context.run("go.set(); gone.wait()")
    assert run.stdout == "late\n"
    assert len(run.all("display")) == 1


# --- IPython ---------------------------------------------------------------------------------


def test_magics_work(context: Context) -> None:
    """Line and cell magics run as in IPython."""
    context.run("%cd /usr")
    assert context.run("import os\nos.getcwd()").text == "'/usr'"
    assert "per loop" in context.run("%timeit -n 2 -r 2 1 + 1").stdout
    assert context.run("%%bash\necho from bash").stdout == "from bash\n"
    assert context.run("out = !echo captured\nout").text == "['captured']"


def test_cd_without_argument_goes_to_home(context: Context, tmp_path: Path) -> None:
    """The home directory is the context's, not the zygote's."""
    context.run("%cd /usr\n%cd")
    assert context.run("%pwd").text == repr(str(tmp_path))


def test_top_level_await_works_repeatedly(context: Context) -> None:
    """Cells with `await` share one event loop."""
    first = context.run(
        "import asyncio\nloop = asyncio.get_running_loop()\nawait asyncio.sleep(0, 7)"
    )
    assert first.text == "7"
    assert (
        context.run("asyncio.get_running_loop() is loop and await asyncio.sleep(0, 8)").text == "8"
    )
    assert context.run("asyncio.run(asyncio.sleep(0, 9))").text == "9"


def test_empty_code_is_ok(context: Context) -> None:
    """A cell of nothing ends well and counts for nothing."""
    for code in ("", "  \n", "# only a comment"):
        assert [frame["type"] for frame in context.run(code).frames] == ["done"]


def test_input_is_refused_at_once(context: Context) -> None:
    """Asking a terminal that is not there raises an error that says what to do."""
    for code in ("input('name? ')", "import getpass; getpass.getpass()"):
        error = context.run(code).one("error")
        assert error["name"] == "EOFError"
        assert "runs without a terminal" in error["value"]
    assert context.run("import sys\nsys.stdin.read()").text == "''"


# --- errors ----------------------------------------------------------------------------------


def test_traceback_has_only_the_users_frames(context: Context) -> None:
    """A traceback is plain text: the cells by number, no colours, none of our frames."""
    context.run("def f():\n    return 1 / 0")
    run = context.run("f()")
    error = run.one("error")
    assert (error["name"], error["value"]) == ("ZeroDivisionError", "division by zero")
    lines = [line for line in error["traceback"] if not set(line) <= set(" ^~")]
    assert lines == [
        "Traceback (most recent call last):",
        "  Cell In[2], line 1",
        "    f()",
        "  Cell In[1], line 2, in f",
        "    return 1 / 0",
        "ZeroDivisionError: division by zero",
    ]
    assert run.output == {1: b"", 2: b""}
    assert run.status == "error"


def test_frames_of_ipython_are_left_out_between_the_users(context: Context) -> None:
    """Code called through a magic shows no frames of the magic."""
    text = "\n".join(
        context.run("def f(): raise KeyError('k')\n%timeit f()").one("error")["traceback"]
    )
    assert "in f" in text
    assert "IPython" not in text
    assert "_sandbox_executors" not in text


def test_chained_errors_are_shown(context: Context) -> None:
    """The cause of an error is part of its traceback."""
    run = context.run("try:\n    1 / 0\nexcept Exception as e:\n    raise ValueError('v') from e")
    text = "\n".join(run.one("error")["traceback"])
    assert (
        text.index("ZeroDivisionError") < text.index("direct cause") < text.index("ValueError: v")
    )


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("x = = 1", "SyntaxError"),
        ("if True:\nx = 1", "IndentationError"),
        ("return 1", "SyntaxError"),
        ("%nosuchmagic", "UsageError"),
        ("raise int", "TypeError"),
        ("1 +\0 1", None),
        ("'\udc80'", None),
        ("class E(BaseException): pass\nraise E", "E"),
        ("raise ExceptionGroup('g', [ValueError(1)])", "ExceptionGroup"),
        ("def f(): f()\nf()", "RecursionError"),
        (
            "class E(Exception):\n    def __str__(self): 1 / 0\nraise E",
            "E",
        ),
        (
            "class E(Exception):\n    @property\n    def __notes__(self): 1 / 0\nraise E('e')",
            "E",
        ),
        ("import asyncio\nawait asyncio.wait_for(asyncio.sleep(9), 0.001)", "TimeoutError"),
    ],
)
def test_failure_is_one_error_frame(context: Context, code: str, name: str | None) -> None:
    """Whatever goes wrong in a cell, it is one error frame, and the context lives on."""
    run = context.run(code)
    error = run.one("error")
    assert name in {None, error["name"]}, error
    assert error["traceback"]
    assert run.status == "error"
    assert context.run("1 + 1").text == "2"


def test_syntax_error_points_at_the_cell(context: Context) -> None:
    """A SyntaxError shows the line of the cell."""
    error = context.run("a = 1\nb = = 2").one("error")
    assert "(Cell In[1], line 2)" in error["value"]
    assert error["traceback"][0] == "  Cell In[1], line 2"


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("import sys; sys.exit(3)", "3"),
        ("exit()", "0"),
        ("quit(4)", "4"),
        ("exit", "0"),
        ("raise SystemExit('bye')", "bye"),
    ],
)
def test_exit_ends_the_cell_only(context: Context, code: str, value: str) -> None:
    """`exit` is an error of the cell; the context keeps its state."""
    context.run("kept = 1")
    error = context.run(code + "\n").one("error")
    assert (error["name"], error["value"]) == ("SystemExit", value)
    assert context.run("kept").text == "1"


# --- interrupts ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wait",
    [
        "while True: pass",
        "import time; time.sleep(600)",
        "import asyncio; await asyncio.sleep(600)",
        "!sleep 600",
        "import threading; threading.Event().wait()",
    ],
)
def test_interrupt_ends_the_cell_and_keeps_the_state(context: Context, wait: str) -> None:
    """SIGINT ends whatever a cell waits for; the context goes on."""
    run = context.start(f"kept = 1\nprint('started')\n{wait}\nprint('not reached')")
    run.wait_output(b"started\n")
    context.interrupt_until_done(run)
    assert (run.status, run.one("error")["name"]) == ("interrupted", "KeyboardInterrupt")
    assert run.stdout == "started\n"
    assert context.run("kept").text == "1"
    assert context.run("import asyncio\nawait asyncio.sleep(0, 2)").text == "2"


def test_interrupted_await_does_not_go_on_later(context: Context) -> None:
    """What an interrupted cell was waiting for is cancelled, not resumed by the next cell."""
    run = context.start(
        "import asyncio\nasyncio.get_running_loop().call_soon(print, 'suspended')\n"
        "await asyncio.sleep(600)"
    )
    run.wait_output(b"suspended")
    assert context.interrupt_until_done(run).status == "interrupted"
    assert context.run("await asyncio.sleep(0, len(asyncio.all_tasks()))").text == "1"


def test_interrupt_can_be_handled_and_repeated(context: Context) -> None:
    """A cell that catches KeyboardInterrupt goes on, and can be interrupted again."""
    run = context.start(
        "try:\n    print('one')\n    while True: pass\n"
        "except KeyboardInterrupt:\n    print('two')\n"
        "while True: pass"
    )
    run.wait_output(b"one\n")
    context.interrupt()
    run.wait_output(b"two\n")
    assert context.interrupt_until_done(run).status == "interrupted"


def test_interrupt_outside_of_a_run_is_ignored(context: Context) -> None:
    """SIGINT while no cell runs has no effect, not even on the next cell."""
    for _ in range(20):
        context.interrupt()
    assert context.run("1 + 1").text == "2"


def test_interrupts_at_any_moment_leave_the_protocol_intact(context: Context) -> None:
    """Runs that are bombarded with SIGINT all end properly; the next one can be interrupted."""
    # A process of its own: a thread of ours would be paced by our interpreter's lock.
    program = f"while kill -INT {context.pid}; do read -t 0.000$((RANDOM % 10)); done"
    with subprocess.Popen(["bash", "-c", program], stdin=subprocess.PIPE) as bomber:
        try:
            for _ in range(150):
                run = context.run("for i in range(20): display(i)\n'y' * 5000")
                outcome = (run.status, [error["name"] for error in run.all("error")])
                assert outcome in [("ok", []), ("interrupted", ["KeyboardInterrupt"])]
        finally:
            bomber.kill()
    assert context.run("1 + 1").text == "2"
    run = context.start("print('started')\nwhile True: pass")
    run.wait_output(b"started")
    assert context.interrupt_until_done(run).status == "interrupted"


def test_interrupt_during_a_frame_comes_after_it(context: Context) -> None:
    """A frame that the reader takes slowly is sent whole before the interrupt takes effect."""
    run = context.start("display({'text/html': 'x' * (4 << 20)}, raw=True)\nwhile True: pass")
    waiting = array.array("i", [0])
    while waiting[0] < 100_000:  # the socket's buffer is filling up: the write is on its way
        fcntl.ioctl(context.sock, termios.FIONREAD, waiting)
    context.interrupt()
    run.wait_done()
    assert len(run.one("display")["data"]["text/html"]) == 4 << 20
    assert run.status == "interrupted"


def test_rendering_an_error_can_be_interrupted(context: Context) -> None:
    """An exception whose `__str__` never ends does not hang the context."""
    run = context.start(
        "class E(Exception):\n    def __str__(self):\n        print('rendering')\n"
        "        while True: pass\nraise E"
    )
    run.wait_output(b"rendering")
    assert context.interrupt_until_done(run).status == "interrupted"


# --- what user code cannot break -------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    [
        "import sys; sys.stdout = sys.stderr = None",
        "import sys; sys.stdout.close(); sys.stderr.close()",
        "import sys; sys.displayhook = None",
        "import sys; sys.settrace(lambda *a: 1 / 0)",
        "import sys; sys.setrecursionlimit(60)",
        "import os; os.close(1); os.close(2)",
        "import os; os.closerange(3, 100)",
        "import builtins\nfor n in ('len', 'isinstance', 'str', 'dict'): delattr(builtins, n)",
        "import builtins\nbuiltins.mine = builtins.also = 1\ndel builtins.len, builtins.str",
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)",
        "import os; os.write = os.getpid = os.dup2 = None",
        "import json; json.dumps = None",
        "globals().clear()",
        "%reset -f",
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))",
        "import random, numpy; random.seed = numpy.random = None",
    ],
)
def test_cell_cannot_break_the_loop(context: Context, code: str) -> None:
    """After a cell that puts the process out of order, the next runs are as ever."""
    context.run(code)
    for _ in range(2):
        run = context.run("import sys\nprint('out'); print('err', file=sys.stderr)\n1 + 1")
        assert run.text == "2"
        assert (run.stdout, run.stderr) == ("out\n", "err\n")
    run = context.start("print('waiting')\nwhile True: pass")
    run.wait_output(b"waiting")
    assert context.interrupt_until_done(run).status == "interrupted"


def test_timer_of_a_cell_fires_in_cells_only(context: Context) -> None:
    """A signal handler that raises keeps to the user's code: every frame is whole."""
    first = context.run(
        "import signal\ndef ring(*_): raise OSError('alarm')\n"
        "signal.signal(signal.SIGALRM, ring)\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)\nwhile True: pass"
    )
    assert first.one("error")["value"] == "alarm"
    for _ in range(50):
        run = context.run("while True: display('x' * 5000)")
        assert run.status == "error"
        assert run.one("error")["value"] == "alarm"


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGRTMIN, signal.SIGRTMAX])
def test_a_handler_of_signals_is_called_in_cells_only(context: Context, number: int) -> None:
    """What a context holds changes by its cells alone."""
    context.run(
        "import os, signal\nn = 0\ndef count(*_):\n    global n\n    n += 1\n"
        f"signal.signal({int(number)}, count)"
    )
    os.kill(context.pid, number)
    assert context.run("n").text == "0"
    assert context.run(f"os.kill(os.getpid(), {int(number)})\nn").text == "1"


@pytest.mark.parametrize("threads", [0, 1])
def test_a_handler_of_signals_may_show_something_at_any_moment(
    context: Context, threads: int
) -> None:
    """Also while its own thread shows something; another thread may have received the signal."""
    run = context.run(
        "import signal, threading\n"
        "over = threading.Event()\n"
        f"others = [threading.Thread(target=over.wait) for _ in range({threads})]\n"
        "for thread in others: thread.start()\n"
        "busy, rings = False, 0\n"
        "def ring(*_):\n"
        "    global busy, rings\n"
        "    if busy: return\n"
        "    busy = True\n"
        "    display('ring')\n"
        "    rings += 1\n"
        "    busy = False\n"
        "signal.signal(signal.SIGALRM, ring)\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)\n"
        "for _ in range(2000): display('mine')\n"
        "signal.setitimer(signal.ITIMER_REAL, 0)\n"
        "over.set()\n"
        "rings"
    )
    assert run.status == "ok"
    shown = [frame["data"]["text/plain"] for frame in run.all("display")]
    assert shown.count("'mine'") == 2000
    assert shown.count("'ring'") == int(run.text) > 0


def test_exhausted_descriptors_are_an_error_of_the_run(context: Context) -> None:
    """With no descriptor free a run fails and says why; freed, the next one works."""
    context.run(
        "import os, resource\nheld = []\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300))\n"
        "try:\n    while True: held.append(os.dup(0))\nexcept OSError: pass"
    )
    run = context.start("for fd in held: os.close(fd)")
    assert "too many open files" in run.wait_done().one("error")["value"]


def test_user_fork_never_serves_the_socket(context: Context) -> None:
    """A forked copy that falls out of the cell ends there, with the status of its failure."""
    run = context.run(
        "import os, sys\n"
        "pids = []\n"
        "for how in ('fall', 'raise', 'exit'):\n"
        "    pid = os.fork()\n"
        "    if pid == 0: break\n"
        "    pids.append(pid)\n"
        "else:\n"
        "    how = None\n"
        "if how == 'fall': print('child'); display('shown by the child')\n"
        "elif how == 'raise': raise ValueError('in the child')\n"
        "elif how == 'exit': sys.exit(5)\n"
        "else: codes = [os.waitstatus_to_exitcode(os.waitpid(p, 0)[1]) for p in pids]"
    )
    assert [frame["type"] for frame in run.frames] == ["done"]
    assert run.stdout == "child\n'shown by the child'\n"
    assert "ValueError: in the child" in run.stderr
    assert context.run("codes").text == "[0, 1, 5]"


def test_user_fork_holds_no_socket(context: Context) -> None:
    """A copy of the context that lives on has no part in the protocol."""
    code = "len([fd for fd in os.listdir('/proc/self/fd') if 'socket' in target(fd)])"
    context.run(
        "import os\ndef target(fd):\n    try: return os.readlink(f'/proc/self/fd/{fd}')\n"
        "    except OSError: return ''"
    )
    own = int(context.run(code).text)
    run = context.run(f"if os.fork() == 0:\n    print({code}); os._exit(0)\nos.wait();")
    assert int(run.stdout) == own - 1


def test_multiprocessing_works(context: Context) -> None:
    """Functions of a cell run in forked worker processes."""
    run = context.run(
        "import multiprocessing\ndef square(n): return n * n\n"
        "with multiprocessing.get_context('fork').Pool(2) as pool:\n"
        "    r = pool.map(square, range(4))\n"
        "r"
    )
    assert run.text == "[0, 1, 4, 9]"


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("import os; os._exit(3)", {"exit": 3}),
        ("import ctypes; ctypes.string_at(0)", {"signal": 11}),
    ],
)
def test_death_closes_the_socket(
    zygote: Zygote, code: str, status: dict[str, int], tmp_path: Path
) -> None:
    """A context that dies is an EOF to the control process and an `exited` from the zygote."""
    context = zygote.fork(str(tmp_path))
    context.start(code)
    assert context.receive() is None
    context.sock.close()
    assert context.wait_exited()["status"] == status


# --- the zygote ------------------------------------------------------------------------------


def test_contexts_are_as_new(context: Context, tmp_path: Path) -> None:
    """A context starts at count 1, in its directory, with its environment and no names."""
    assert context.run("%who").stdout == "Interactive namespace is empty.\n"
    context.run("import os, sys")
    run = context.run("os.getcwd(), dict(os.environ), sys.argv, sys.path[0], __name__, _dh")
    assert run.one("result")["execution_count"] == 3
    cwd = str(tmp_path)
    environment = {"HOME": cwd, "PATH": os.environ["PATH"], "GREETING": "grüße"}
    found = eval(run.text, {"PosixPath": Path})  # noqa: S307 - it is our own code's
    assert found == (cwd, environment, [""], "", "__main__", [tmp_path])
    assert context.run("!echo $GREETING").stdout == "grüße\n"
    (tmp_path / "mine.py").write_text("value = 5")
    assert context.run("import mine\nmine.value").text == "5"
    assert (
        context.run("hasattr(sys, 'last_value'), Out.keys() - {3, 5, 6}").text == "(False, set())"
    )


def test_primed_context_is_as_new(zygote: Zygote) -> None:
    """A cell that was run ahead leaves no trace in the context."""
    context = zygote.fork(prime=True)
    run = context.run("len(In), Out, _")
    assert run.text == "(2, {}, '')"
    assert run.one("result")["execution_count"] == 1
    context.sock.close()
    assert context.wait_exited()["status"] == {"exit": 0}


def test_contexts_do_not_share_randomness(zygote: Zygote) -> None:
    """Siblings draw different numbers from `random` and from numpy."""
    draws = []
    for _ in range(2):
        context = zygote.fork()
        draws.append(context.run("import random, numpy\nrandom.random(), numpy.random.rand()").text)
        context.sock.close()
        context.wait_exited()
    first, second = (re.findall(r"0\.\d+|\d\.\d+e-\d+", draw) for draw in draws)
    assert len(first) == 2
    assert not {*first} & {*second}


def test_contexts_do_not_see_each_other(zygote: Zygote) -> None:
    """What one context sets, another does not have."""
    one, two = zygote.fork(), zygote.fork()
    one.run("import math; math.pi = x = 3")
    assert two.run("import math; 'x' in globals(), math.pi == 3").text == "(False, False)"
    for context in (one, two):
        context.sock.close()
        assert context.wait_exited()["status"] == {"exit": 0}


def test_context_that_cannot_be_confined_runs_nothing(zygote: Zygote) -> None:
    """A jail that cannot be entered is reported on the executor's socket; no `ready`."""
    context_id, sock, reply = zygote.request_fork(plan=b"refuse")
    context = Context(zygote, context_id, reply["pid"], sock)
    why = {"reason": "[Errno 1] mount /proc", "errno": 1, "step": "enter"}
    frame = {"type": "failed", **why}
    assert context.receive() == frame
    assert context.receive() is None
    sock.close()
    assert context.wait_exited()["status"] == {"exit": 1}


@pytest.mark.parametrize("plan", [b"fail early", b"no socket"])
def test_a_child_that_fails_at_once_leaves_the_zygote_alone(zygote: Zygote, plan: bytes) -> None:
    """It ends, says nothing in the zygote's name and does not remove the zygote's home."""
    context_id, sock, reply = zygote.request_fork(plan=plan)
    with sock:
        assert reply["op"] == "forked"
        assert zygote.wait_exited(context_id)["status"] == {"exit": 1}
    (home,) = zygote.directory.glob("sandbox-python-*")
    assert home.is_dir()


def test_contexts_hold_no_descriptor_of_the_protocol_in_reach(context: Context) -> None:
    """A program that a cell starts inherits its three standard descriptors and nothing else."""
    run = context.run("!ls -l /proc/self/fd | tail -n +2 | wc -l")
    assert run.stdout == "4\n"  # 0, 1, 2 and the directory that `ls` reads


def test_missing_libraries_are_reported(tmp_path: Path) -> None:
    """A zygote works without the optional libraries and says which are not there."""
    hidden = ("numpy", "pandas", "matplotlib")
    with open_zygote(tmp_path, ["numpy", "matplotlib", "json"], hidden=hidden) as zygote:
        ready = zygote.receive()
        assert (ready["op"], ready["preloaded"]) == ("ready", ["json"])
        assert ready["missing"] == ["numpy", "matplotlib"]
        context = zygote.fork()
        assert context.run("1 + 1").text == "2"
        context.sock.close()
        context.wait_exited()


def test_a_rehearsed_cell_that_fails_costs_time_alone(tmp_path: Path) -> None:
    """The zygote serves, and says what went wrong."""
    with open_zygote(tmp_path, [], fails=True) as zygote:
        ready = zygote.receive()
        assert ready["op"] == "ready"
        (warning,) = ready["warnings"]
        assert "Traceback" in warning
        assert "no page map" in warning
        context = zygote.fork()
        assert context.run("1 + 1").text == "2"
        context.sock.close()
        context.wait_exited()


def test_missing_ipython_names_the_remedy(tmp_path: Path) -> None:
    """Without IPython the zygote fails with what to install."""
    with open_zygote(tmp_path, [], hidden=("IPython",)) as zygote:
        failed = zygote.receive()
    assert failed["op"] == "failed"
    assert "pip install ipython" in failed["reason"]


def test_thread_after_the_imports_is_refused(tmp_path: Path) -> None:
    """A preloaded library that starts a thread makes the zygote unusable, and it says so."""
    (tmp_path / "threaded.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()"
    )
    with open_zygote(tmp_path, ["threaded"]) as zygote:
        failed = zygote.receive()
    assert failed["op"] == "failed"
    assert "2 threads are running after importing threaded" in failed["reason"]
    assert failed["module"] == "threaded"
