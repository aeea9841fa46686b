"""The zygote: an interpreter with everything imported, forked for each new context.

Started by the supervisor as ``python -I -B python_zygote.py <native module>`` with an almost
empty environment; descriptor 3 is a SOCK_SEQPACKET socket to the control process.

    → {"op": "preload", "modules": ["numpy", "pandas", "matplotlib"]}   once, and first
    ← {"op": "ready", "python", "preloaded", "missing", "warnings"},
      or {"op": "failed", "reason", "module"?}

From there on the native module speaks (`rust_core/src/zygote.rs`).

A child that cannot be confined says so on its executor socket, as {"type": "failed", "reason",
"errno", "step"}, and ends with status 1. Once confined it reads its first frame there, {"cwd",
"env", "imports"?, "names"?, "prime"?}: what is one context's own never passes through the zygote,
whose memory all later contexts get a copy of. With "prime" it runs a cell before it says it is
ready: a context that waits in a pool then answers three times as fast and holds 3 MB more.

Theory of operation. A child has to be born inside the jail's PID namespace, so the zygote
joins that namespace *for its children*, forks, and joins its own again; only a process with one
thread may do that, and only from one thread's memory can a fork make a sound copy. No Python runs
between one fork and the next, since that would write to memory that is shared with the children:
each page of it would be copied again for each of them. The child confines itself (native code)
before it reads a byte of user code and never returns to the loop.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

CONTROL_FD = 3
MAX_DATAGRAM_BYTES = 1 << 20
MOST_REHEARSAL_S = 5
CELLS_UNTIL_NOTED = 10

SINGLE_THREAD_VARIABLES = (
    "OPENBLAS_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)

# Once each: more rounds were measured, and they cost memory and win no time.
REHEARSAL_CELLS = {
    "": [
        "1 + 1",
        "print('text')\nx = [n ** 2 for n in range(10)]\nx",
        "import sys\nfor name in ('a', 'b'):\n    print(name, file=sys.stderr)",
        "def double(n):\n    return 2 * n\nclass Point:\n    pass\ndisplay([double(2)])",
        "# fails\ndef broken():\n    return 1 / 0\nbroken()",
        "# fails\nundefined_name",
        "# fails\nthis is no Python",
        "import asyncio\nawait asyncio.sleep(0)",
        "%time 1 + 1",
        "import json, math, random, re, collections, datetime, itertools, subprocess, pathlib",
    ],
    "numpy": [
        "import numpy as np\nnp.arange(6).reshape(2, 3) @ np.ones((3, 2))",
        "np.random.default_rng(1).normal(size=4).mean(), np.random.rand(2)",
    ],
    "pandas": [
        "import pandas as pd\ndf = pd.DataFrame({'a': [1, 2], 'b': ['x', 'y']})\ndf",
        "display(df.groupby('b').sum())\ndf.describe()",
    ],
    "matplotlib": [
        "import matplotlib.pyplot as plt\nplt.plot([1, 2, 3])\nplt.title('t')",
        "fig, ax = plt.subplots()\nax.bar([1, 2], [3, 4])\nplt.show()",
    ],
}


class Native(Protocol):
    """The functions of the Rust module that need no Python objects of ours."""

    def reserve_arenas(self) -> tuple[int, int]:
        """Addresses of functions by which Python's arenas come to lie side by side."""

    def seal_arenas(self) -> None:
        """From here on new arenas come from anywhere."""

    def written_pages(self) -> bytes:
        """The pages that this process, a fork, has for itself."""

    def own_pages(self, pages: bytes, /) -> None:
        """Takes pages for this process, a fork that waits."""

    def serve_forks(self, sock: int, own_pid_ns: int, /) -> tuple[bytes, list[int]] | None:
        """Serves until the control process is gone; returns in each child with what is its."""

    def enter_jail(self, plan: bytes, fds: tuple[int, ...], keep_fd: int, /) -> None:
        """Confines this process for good and closes every descriptor but 0-2 and `keep_fd`."""


class UnusableError(Exception):
    """This interpreter cannot serve as a zygote; the message says why and what to do.

    Attributes:
        module: Without which it could.
    """

    def __init__(self, message: str, module: str | None = None) -> None:
        super().__init__(message)
        self.module = module


def load_native(path: str) -> Native:
    """Loads the extension module from its file, without importing our package."""
    spec = importlib.util.spec_from_file_location("_core", path)
    if spec is None or spec.loader is None:
        raise UnusableError(f"not an extension module: {path}")
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    native: Native = module
    return native


def refuse_threads(what: str, module: str | None = None) -> None:
    """Only a process with one thread can be forked soundly.

    Raises:
        UnusableError: There are more.
    """
    names = []
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            names.append((thread / "comm").read_text().strip())
    if len(names) > 1:
        raise UnusableError(
            f"{len(names)} threads are running after {what} ({', '.join(names)}), and only a "
            "process with one thread can be forked safely",
            module,
        )


def load_beside(name: str) -> Any:
    """Imports a module beside this file, under a name that no module of a user's has."""
    package = types.ModuleType("_sandbox_executors")
    package.__path__ = [str(Path(__file__).parent)]
    package = sys.modules.setdefault(package.__name__, package)
    return importlib.import_module(f"{package.__name__}.{name}")


def load_executor() -> Any:
    """Imports the executor."""
    try:
        return load_beside("python_executor")
    except ModuleNotFoundError as error:
        raise UnusableError(
            f"the module {error.name} is missing for {sys.executable}: "
            "install IPython for it (pip install ipython)"
        ) from error


class Zygote:
    """A warmed interpreter and the loop that forks it.

    Args:
        sock: The control process's socket.
        native: The Rust module, or a stand-in.
        memory: The module that lays its memory out.
    """

    def __init__(self, sock: socket.socket, native: Native, memory: Any) -> None:
        self._sock = sock
        self._memory = memory
        self._native = native
        self._own_pid_ns = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._executor: Any = None
        self._shell: Any = None
        self._warnings: list[str] = []

    def warm(self) -> None:
        """Receives the list of modules, imports and exercises them, and reports.

        Raises:
            UnusableError: Something essential is missing, or a library has started a thread.
        """
        request = self._receive()
        if request is None:
            return
        modules = [str(name) for name in request["modules"]]
        self._executor = load_executor()
        self._executor.prepare_process()
        self._executor.use_native(self._native)
        preloaded, missing = [], []
        for name in modules:
            try:
                importlib.import_module("matplotlib.pyplot" if name == "matplotlib" else name)
            except ModuleNotFoundError:
                missing.append(name)
            except Exception as error:
                what = f"{type(error).__name__}: {error}"
                raise UnusableError(f"importing {name} failed with {what}", name) from error
            else:
                refuse_threads(f"importing {name}", name)
                preloaded.append(name)
        self._shell = self._executor.create_shell()
        cells = [cell for name in ("", *preloaded) for cell in REHEARSAL_CELLS.get(name, [])]
        self._executor.run_cells(self._shell, cells)
        refuse_threads(f"the rehearsal with {', '.join(preloaded)}")
        self._memory.gather_code(self._find_code())
        self._executor.rehearse(self._shell, ["1 + 1"] * CELLS_UNTIL_NOTED)
        self._memory.forget_fonts()
        self._executor.forget_answers()
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        self._memory.fill_holes()
        gc.freeze()
        self._native.seal_arenas()
        self._executor.expect_pages(self._find_pages())
        self._memory.join_text()
        self._memory.join_pages()
        version = ".".join(map(str, sys.version_info[:3]))
        self._send(
            op="ready",
            python=version,
            preloaded=preloaded,
            missing=missing,
            warnings=self._warnings,
        )

    def _find_pages(self) -> bytes:
        """Which pages a cell writes to; none if it hangs or fails."""

        def find() -> bytes:
            self._executor.run_cells(self._shell, ["1 + 1"])
            return self._native.written_pages()

        return self._in_fork(find)

    def _find_code(self) -> set[int]:
        """Which code runs from a fork to the end of its first cell; none if it hangs or fails."""
        used: set[int] = set()

        def note(frame: types.FrameType, event: str, _: object) -> None:
            if event == "call":
                used.add(id(frame.f_code))

        def find() -> bytes:
            profile, sys.setprofile = sys.setprofile, lambda _: None  # a cell's end would end it
            self._executor.start_context(self._shell, {"cwd": "/", "env": {}})
            self._executor.run_cells(self._shell, ["1 + 1"])
            profile(None)
            return json.dumps([*used]).encode()

        sys.setprofile(note)
        try:
            found = self._in_fork(find)
        finally:
            sys.setprofile(None)
        return set(json.loads(found or b"[]"))

    def _in_fork(self, find: Callable[[], bytes]) -> bytes:
        """What a function finds in a fork of this process; nothing if it takes too long or fails.

        Contexts are slower then, and `ready` warns of it.
        """
        source, sink = os.pipe()
        if (pid := os.fork()) == 0:
            signal.alarm(MOST_REHEARSAL_S)
            status = 1
            try:
                try:
                    answer, status = find(), 0
                except BaseException:  # noqa: BLE001 - it is told
                    import traceback  # here, since memory that nothing needs is every context's

                    answer = traceback.format_exc().encode(errors="replace")
                with open(sink, "wb") as stream:
                    stream.write(answer)
            finally:
                os._exit(status)
        os.close(sink)
        with open(source, "rb") as stream:
            answer = stream.read()
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status == 0:
            return answer
        how = f"signal {-status}" if status < 0 else answer.decode(errors="replace")
        self._warnings.append(f"a rehearsed cell ended with {how}")
        return b""

    def serve(self) -> None:
        """Forks and tells of ends until the control process closes its end."""
        before, after_in_parent, after_in_child = (
            getattr(ctypes.pythonapi, name)
            for name in ("PyOS_BeforeFork", "PyOS_AfterFork_Parent", "PyOS_AfterFork_Child")
        )
        for function in (before, after_in_parent, after_in_child):
            function.argtypes, function.restype = (), None
        own_fd, own_pid = self._sock.fileno(), os.getpid()
        before()  # once for all forks: nothing of Python's changes between them
        born = None
        try:
            born = self._native.serve_forks(own_fd, self._own_pid_ns)
        finally:
            # A jail may give a child the zygote's own number, but has no number for its parent.
            if os.getpid() == own_pid and os.getppid() != 0:
                after_in_parent()
            else:
                after_in_child()
                if born is None:
                    os._exit(1)  # the zygote's socket and home are not its own
        if born is not None:
            self._become_context(*born)

    def _become_context(self, plan: bytes, fds: list[int]) -> NoReturn:
        """Goes on as the executor of a context; from `enter_jail` on, as untrusted code."""
        status, step = 1, "enter"
        executor_socket = None
        try:
            executor_socket = socket.socket(fileno=fds[0])
            self._sock.close()
            self._native.enter_jail(plan, tuple(fds[2:]), fds[0])
            size = int.from_bytes(_receive_exactly(executor_socket, 4), "big")
            request = json.loads(_receive_exactly(executor_socket, size))
            step = "change_directory"
            os.chdir(request["cwd"])
            step = "start"
            self._executor.start_context(self._shell, request)
            if request.get("prime"):
                self._executor.rehearse(self._shell, ["1 + 1"])
            gc.enable()
            self._executor.serve(executor_socket, self._shell)
            status = 0
        except BaseException as error:  # noqa: BLE001 - it must not get into the loop
            with contextlib.suppress(BaseException):
                reason = {
                    "type": "failed",
                    "reason": str(error),
                    "errno": getattr(error, "errno", None),
                    "step": step,
                }
                body = json.dumps(reason).encode()
                if executor_socket is not None:
                    executor_socket.sendall(len(body).to_bytes(4, "big") + body)
        finally:
            os._exit(status)

    def _send(self, **message: object) -> None:
        try:
            self._sock.sendall(json.dumps(message).encode())
        except BrokenPipeError:
            os._exit(0)

    def _receive(self) -> dict[str, Any] | None:
        request: dict[str, Any] | None = None
        if data := self._sock.recv(MAX_DATAGRAM_BYTES):
            request = json.loads(data)
        return request


def _receive_exactly(sock: socket.socket, size: int) -> bytes:
    """Reads no byte more: descriptors ride on the first byte of the frame that follows."""
    data = b""
    while len(data) < size:
        if not (piece := sock.recv(size - len(data))):
            raise EOFError("the control process has given up this context")
        data += piece
    return data


def arrange_home() -> str:
    """Sets the environment under which the libraries are imported; returns its directory."""
    home = tempfile.mkdtemp(prefix="sandbox-python-")
    os.environ.update(dict.fromkeys(SINGLE_THREAD_VARIABLES, "1"))
    os.environ.update(
        HOME=home,
        IPYTHONDIR=f"{home}/ipython",
        MPLCONFIGDIR=f"{home}/matplotlib",
        MPLBACKEND="agg",
    )
    return home


def run(sock: socket.socket, native: Native) -> None:
    """Warms up and serves; returns when the control process is gone or told of a failure."""
    # Garbage collection would write to every object's header and so unshare its page.
    gc.disable()
    memory = load_beside("python_memory")
    memory.gather_arenas(native)
    signal.signal(signal.SIGINT, lambda *_: None)
    home = arrange_home()
    zygote = Zygote(sock, native, memory)
    try:
        try:
            zygote.warm()
        except Exception as error:  # noqa: BLE001 - a zygote that cannot go on says so and ends
            message = {"op": "failed", "reason": f"{type(error).__name__}: {error}"}
            if isinstance(error, UnusableError):
                message["reason"] = str(error)
                if error.module is not None:
                    message["module"] = error.module
            with contextlib.suppress(OSError):
                sock.sendall(json.dumps(message).encode())
        else:
            with contextlib.suppress(OSError):  # of which the native module has told
                zygote.serve()
    finally:
        shutil.rmtree(home, ignore_errors=True)


def main() -> NoReturn:
    """The program; see the start of this file."""
    sock = socket.socket(fileno=CONTROL_FD)
    os.set_inheritable(CONTROL_FD, False)
    try:
        native = load_native(sys.argv[1])
    except (IndexError, ImportError, UnusableError) as error:
        reason = f"the native module cannot be loaded: {error!r}"
        sock.sendall(json.dumps({"op": "failed", "reason": reason}).encode())
        os._exit(1)
    run(sock, native)
    os._exit(0)


if __name__ == "__main__":
    main()
