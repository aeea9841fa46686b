"""IPython without a terminal: what it would print about a cell becomes a frame.

Theory of operation. A cell's text output goes to file descriptors 1 and 2 and is none of this
module's business. What IPython itself has to say (a result, a display, an error) is handed as
a plain dictionary to ``Shell.emit``, which the executor points at its socket. An error is said
once, by the executor, when the cell has ended; tracebacks of anything else that fails on the
way (a `_repr_html_`, a script started with `%run`) are text on stderr.
"""

# mypy: disable-error-code="no-untyped-call"
# IPython ships type information, but few of its methods have any.

from __future__ import annotations

import base64
import builtins
import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import IPython
from IPython.core import page
from IPython.core.autocall import ExitAutocall
from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.error import UsageError
from IPython.core.inputtransformer2 import TransformerManager
from IPython.core.interactiveshell import InteractiveShell
from traitlets import default
from traitlets.config import Config

from .python_cells import CELL_NAME, PlainCells, is_known_ipython, trait
from .python_displays import adapt_displays
from .python_frames import cap_error, cap_formats, is_short_text

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine
    from types import CodeType, TracebackType

Frame = dict[str, Any]

INTERRUPT_GRACE_S = 0.5
"""How long a `!command` may take to end after SIGINT, before it is killed."""

_INTERNAL_DIRECTORIES = tuple(f"{Path(file).parent}/" for file in (IPython.__file__, __file__))
_CELL_LOCATION = re.compile(r'File "(<ipython-input-[^"]+>)", line (\d+)(?:, in <module>)?')
_write = os.write  # user code may replace it
_MAGIC = re.compile(r"[%!?]|^\s*[,;/]")
"""What the transformers of tokens begin with: magics, commands, help, quoted calls."""
_USUAL_TRANSFORMERS = len(TransformerManager().token_transformers)


# --- text streams --------------------------------------------------------------------------


class DescriptorWriter(io.BufferedIOBase):
    """Writes bytes to a descriptor at once and whole; closing it leaves the descriptor open."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        return self._fd

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return os.isatty(self._fd)

    def write(self, data: Any, /) -> int:
        written = _write(self._fd, data)
        # A pipe takes everything unless a signal handler ran in between.
        if written < (size := memoryview(data).nbytes):
            rest = memoryview(data).cast("B")[written:]
            while rest:
                rest = rest[_write(self._fd, rest) :]
        return size


def text_writer(fd: int) -> TextIO:
    """Opens a text stream that holds nothing back and so keeps its place among C output."""
    name = {1: "<stdout>", 2: "<stderr>"}.get(fd, f"<fd {fd}>")
    raw = DescriptorWriter(fd)
    raw.name = name  # type: ignore[attr-defined]
    return io.TextIOWrapper(
        raw,  # type: ignore[type-var]
        encoding="utf-8",
        errors="backslashreplace",
        newline="\n",
        write_through=True,
    )


# --- IPython, adapted ----------------------------------------------------------------------


class ResultHook(DisplayHook):
    """Sends the value of a cell's last expression as a frame; writes no `Out[n]:`."""

    shell: Any

    def __call__(self, result: Any = None) -> None:
        """Shows the value of an expression and remembers it as `_` and `Out[n]`."""
        self.check_for_underscore()
        if result is None or self.quiet():
            return
        self._is_active = True
        data, metadata = self.compute_format_data(result)
        self.update_user_ns(result)
        self.fill_exec_result(result)
        if data:
            self.write_format_data(data, metadata)
        self.finish_displayhook()

    @property
    def prompt_count(self) -> int:
        count: int = trait(trait(self, "shell"), "execution_count")
        return count - 1

    def compute_format_data(self, result: Any) -> tuple[Frame, Frame]:
        formats: tuple[Frame, Frame] = trait(trait(self, "shell"), "display_formatter").format(
            result
        )
        return formats

    def update_user_ns(self, result: Any) -> None:
        """As IPython's own, with fewer looks at the namespaces."""
        shell = trait(self, "shell")
        names, hidden = shell.user_ns, shell.user_ns_hidden
        shown = names["_oh"]
        if not self.cache_size or result is shown:
            return
        if len(shown) >= self.cache_size and self.do_full_cache:
            self.cull_cache()
        untouched = all(
            name not in names
            or names[name] is (hidden[name] if name in hidden else getattr(self, name))
            for name in ("_", "__", "___")
        )
        self.___, self.__, self._ = self.__, self._, result
        new: Frame = {}
        if untouched and "_" not in vars(builtins):
            new = {"_": result, "__": self.__, "___": self.___}
        if self.do_full_cache:
            number = self.prompt_count
            new[f"_{number}"] = result
            shown[number] = result
        names.update(new)
        hidden.update(new)

    def fill_exec_result(self, result: Any) -> None:
        if (noted := trait(self, "exec_result")) is not None:
            noted.result = result

    def write_format_data(self, format_dict: Frame, md_dict: Frame | None = None) -> None:
        frame = result_frame("result", format_dict, md_dict)
        self.shell.emit({**frame, "execution_count": self.prompt_count})

    def finish_displayhook(self) -> None:
        self._is_active = False

    def quiet(self) -> bool:
        try:
            history = trait(trait(self, "shell"), "history_manager")
            cell = trait(history, "input_hist_parsed")[-1]
            return ";" in cell and bool(super().quiet())
        except Exception:  # noqa: BLE001 - the tokenizer gave up: there is no `;` to find
            return False


class FramePublisher(DisplayPublisher):
    """Sends what `display()` and its relatives publish as frames."""

    def publish(
        self,
        data: Frame,
        metadata: Frame | None = None,
        source: object = None,  # noqa: ARG002 - part of IPython's signature
        *,
        transient: Frame | None = None,
        update: bool = False,
        **_: object,
    ) -> None:
        frame = result_frame("update_display" if update else "display", data, metadata)
        if display_id := (transient or {}).get("display_id"):
            frame["display_id"] = str(display_id)
        self.shell.emit(frame)

    def clear_output(self, wait: bool = False) -> None:  # noqa: FBT001, FBT002
        self.shell.emit({"type": "clear_output", "wait": bool(wait)})


class Exiter(ExitAutocall):
    """`exit` and `quit`: end the cell, not the context."""

    def __call__(self, code: object = None) -> None:
        raise SystemExit(code)


class LoopRunner:
    """Runs top-level `await` on one event loop that lives as long as the context."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def __call__(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        import asyncio

        if self._loop is None or self._loop.is_closed():
            self._loop = asyncio.new_event_loop()
        task = self._loop.create_task(coroutine)
        try:
            return self._loop.run_until_complete(task)
        except BaseException:
            # An interrupt that hits the loop itself leaves the cell suspended in it, to be
            # resumed by the next cell. It has to end with this one.
            task.cancel()
            with contextlib.suppress(BaseException):
                self._loop.run_until_complete(task)
            raise

    def unfinished(self) -> list[str]:
        """Returns what the loop has to do yet."""
        import asyncio

        if self._loop is None or self._loop.is_closed():
            return []
        return [repr(task)[:200] for task in asyncio.all_tasks(self._loop)]

    def own_descriptors(self) -> set[int]:
        """Returns the sockets by which the loop wakes itself."""
        pair = (getattr(self._loop, name, None) for name in ("_ssock", "_csock"))
        return {sock.fileno() for sock in pair if sock is not None}

    def close(self) -> None:
        """Closes the loop; the next coroutine gets a new one."""
        if self._loop is not None:
            self._loop.close()
            self._loop = None


class CellTransformer(TransformerManager):
    """Makes Python of a cell, and looks for magics only where one can be."""

    def do_token_transforms(self, lines: list[str]) -> list[str]:
        usual = len(self.token_transformers) == _USUAL_TRANSFORMERS
        if usual and not any(map(_MAGIC.search, lines)):
            return lines
        return list(super().do_token_transforms(lines))


class Shell(InteractiveShell):
    """An InteractiveShell that reports through `emit` instead of a terminal."""

    history_manager: Any

    emit: Callable[[Frame], None]
    late_import_paths: tuple[str, ...] = ()
    interrupt_deferred = False
    pyplot_adopted = False
    user_code_depth = 0
    plain_cells: PlainCells | None = None

    @property
    def is_last_expression(self) -> bool:
        """Whether what is shown now as a result is the value of the whole cell."""
        return self.user_code_depth == 1 and trait(self, "ast_node_interactivity") == "last_expr"

    def run_cell(
        self,
        raw_cell: str,
        store_history: bool = False,  # noqa: FBT001, FBT002 - IPython's signature
        silent: bool = False,  # noqa: FBT001, FBT002
        shell_futures: bool = True,  # noqa: FBT001, FBT002
        cell_id: Any = None,
        cell_meta: Any = None,
    ) -> Any:
        """Runs a cell, by the short way if it is plain Python."""
        if shell_futures and cell_id is None and cell_meta is None and self.plain_cells is not None:
            plainly = self.plain_cells.run(raw_cell, store_history=store_history, silent=silent)
            if plainly is not None:
                return plainly
        others = {} if cell_meta is None else {"cell_meta": cell_meta}  # since IPython 9.15
        return super().run_cell(raw_cell, store_history, silent, shell_futures, cell_id, **others)

    @default("input_transformer_manager")
    def _default_input_transformer_manager(self) -> CellTransformer:
        return CellTransformer()

    @default("exiter")
    def _default_exiter(self) -> Exiter:
        return Exiter(self)

    def begin_cell(self) -> None:
        """Mends what the last cell may have left: half-done work, an emptied namespace."""
        self.user_code_depth = 0
        self.interrupt_deferred = False
        if "_oh" not in self.user_ns:
            self.init_user_ns()
        # `pip install --user` makes this directory; the import system has noted that it is not.
        for path in self.late_import_paths:
            if sys.path_importer_cache.get(path, self) is None:
                del sys.path_importer_cache[path]

    def should_run_async(self, raw_cell: str, **known: Any) -> bool:
        """Whether a cell awaits something; most are not compiled once more to find that out."""
        cell = known.get("transformed_cell") or raw_cell
        if "await" not in cell and "async" not in cell:
            return False
        return bool(super().should_run_async(raw_cell, **known))

    async def run_code(
        self, code_obj: CodeType, result: Any = None, *, async_: bool = False
    ) -> bool:
        """Runs one statement of a cell. Returns whether it failed; the error is in `result`."""
        if not async_:
            return self.run_statement(code_obj, result)
        __tracebackhide__ = "__ipython_bottom__"
        self.user_code_depth += 1
        try:
            await eval(code_obj, self.user_global_ns, self.user_ns)  # noqa: S307
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is the user's
            self._note_failure(error, result)
            return True
        finally:
            self.user_code_depth -= 1
        return False

    def run_statement(self, code: CodeType, result: Any = None) -> bool:
        """Runs one statement that awaits nothing. Returns whether it failed, as `run_code`."""
        __tracebackhide__ = "__ipython_bottom__"
        self.user_code_depth += 1
        try:
            exec(code, self.user_global_ns, self.user_ns)  # noqa: S102
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is the user's
            self._note_failure(error, result)
            return True
        finally:
            self.user_code_depth -= 1
        return False

    def _note_failure(self, error: BaseException, result: Any) -> None:
        remember_error(error)
        if result is not None:
            result.error_in_exec = error
        if self.user_code_depth > 1:  # a cell started by a cell, as `%%capture` does
            self.showtraceback(exc_tuple=(type(error), error, error.__traceback__))

    def showtraceback(
        self,
        exc_tuple: tuple[type[BaseException], BaseException, TracebackType | None] | None = None,
        *_: object,
        **__: object,
    ) -> None:
        """Writes a traceback to stderr, unless it is the cell's own, which becomes a frame."""
        if self.user_code_depth == 0:
            return
        error = exc_tuple[1] if exc_tuple else sys.exc_info()[1] or getattr(sys, "last_value", None)
        if error is None:
            print("No traceback available to show.", file=sys.stderr)
            return
        print("\n".join(describe_error(self, error)[2]), file=sys.stderr)

    def showsyntaxerror(self, *_: object, **__: object) -> None:
        self.showtraceback()

    def _format_exception_for_storage(
        self, exception: BaseException, *_: object, **__: object
    ) -> Frame:
        """Spares every failing cell IPython's own rendering, which is slow and may raise."""
        return {"ename": type(exception).__name__, "evalue": "", "traceback": []}

    def _tee(self, channel: str) -> Any:  # noqa: ARG002
        """Keeps no copy of the output: IPython would hold all of it in memory."""
        return contextlib.nullcontext()

    def system(self, cmd: str) -> None:
        """Runs `!cmd` on the cell's descriptors; an interrupt ends all of it and the cell."""
        command = self.var_expand(cmd, depth=1)
        children: list[subprocess.Popen[bytes]] = []
        try:
            self.start_command(command, children)
            if self.interrupt_deferred:
                raise KeyboardInterrupt
            status = children[0].wait()
        except BaseException:
            for child in children:
                for signum in (signal.SIGINT, signal.SIGKILL):
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(child.pid, signum)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        child.wait(INTERRUPT_GRACE_S)
            raise
        self.user_ns["_exit_code"] = status
        if self.system_raise_on_error and status:
            raise subprocess.CalledProcessError(status, command)

    def start_command(self, command: str, children: list[subprocess.Popen[bytes]]) -> None:
        """Starts a shell; SIGINT in here is deferred, or a process might be left behind."""
        shell = os.environ.get("SHELL") or "/bin/sh"
        children.append(
            subprocess.Popen(command, shell=True, executable=shell, process_group=0)  # noqa: S602
        )

    def enable_matplotlib(self, gui: str | None = None) -> tuple[str | None, str]:
        """`%matplotlib inline` is how figures are shown here anyway; windows cannot be had."""
        if gui not in {None, "inline", "agg", "auto"}:
            raise UsageError(
                f"%matplotlib {gui}: there is no screen here; figures are shown inline"
            )
        return "inline", "agg"

    def enable_gui(self, gui: str | None = None) -> None:
        if gui is not None:
            raise UsageError(f"%gui {gui}: there is no screen here")

    def settle(self, home: str) -> None:
        """Takes the current directory as the place where this context starts."""
        self.home_dir = home
        self.starting_dir = os.getcwd()  # noqa: PTH109 - touches less memory, as a fork should
        self.history_manager.dir_hist[:] = [Path(self.starting_dir)]

    def restart(self) -> None:
        """Brings namespace, history and execution count back to those of a new shell."""
        self.reset(new_session=True)
        # A new shell has these; `reset` forgets them.
        unders = dict.fromkeys(("_", "__", "___"), "")
        self.user_ns.update(unders)
        self.user_ns_hidden.update(unders)
        self.last_execution_result = None
        for name in ("last_type", "last_value", "last_traceback", "last_exc"):
            if hasattr(sys, name):
                delattr(sys, name)


def create_shell() -> Shell:
    """Makes the process's one shell and replaces what would ask a terminal for input."""
    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    # The live objects say in milliseconds what reading the sources takes seconds for.
    config.IPCompleter.use_jedi = False
    shell: Shell = Shell.instance(
        config=config, displayhook_class=ResultHook, display_pub_class=FramePublisher
    )
    shell.emit = lambda _frame: None
    shell.loop_runner = LoopRunner()
    shell.set_hook("show_in_pager", page.as_hook(page.display_page), 90)
    adapt_displays(shell)
    with contextlib.suppress(ImportError):  # for `%config InlineBackend.figure_format = "svg"`
        from matplotlib_inline.config import InlineBackend

        backend = InlineBackend.instance(parent=shell)
        backend.shell = shell
        shell.configurables.append(backend)  # type: ignore[arg-type]
    # For good, as IPython does in a terminal: each cell would set and unset its three names.
    shell.builtin_trap.__enter__()
    if is_known_ipython():
        shell.plain_cells = PlainCells(shell)
    return shell


# --- values as data ------------------------------------------------------------------------


def mime_bundle(data: Frame) -> Frame:
    """Returns the bundle with bytes as base64; what is JSON stays JSON."""
    return {
        str(mime): base64.b64encode(value).decode("ascii")
        if isinstance(value, (bytes, bytearray, memoryview))
        else value
        for mime, value in data.items()
    }


def result_frame(kind: str, data: Frame, metadata: Frame | None) -> Frame:
    """Returns the frame of something shown, with the sizes of what was too large."""
    if len(data) == 1 and not metadata and is_short_text(data.get("text/plain")):
        return {"type": kind, "data": data, "metadata": {}}
    kept, metadata, capped = cap_formats(mime_bundle(data), metadata or {})
    frame = {"type": kind, "data": kept, "metadata": metadata}
    return {**frame, "capped": capped} if capped else frame


def remember_error(error: BaseException) -> None:
    """Sets what `%tb` and the `pdb` module look at."""
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, error.__traceback__
    if sys.version_info >= (3, 12):
        sys.last_exc = error


def describe_error(
    shell: Shell, error: BaseException, style: str = "plain"
) -> tuple[str, str, list[str]]:
    """Renders an error as name, value and traceback lines, whatever its class does.

    Args:
        shell: The one whose cell has failed.
        error: What it failed with.
        style: `plain`: the lines are Python's own, with `Cell In[n]` for the cells and without the
            frames of IPython and of this package. `ipython`: as IPython shows them, with the
            source around each line. `color`: likewise, coloured for a terminal.
    """
    name = str(type(error).__name__)
    try:
        value = str(error)
    except Exception:  # noqa: BLE001
        value = "<exception str() failed>"
    if isinstance(error, SystemExit):
        value = "0" if error.code is None else value
    if isinstance(error, SyntaxError):
        value = CELL_NAME.sub(lambda match: _cell_label(shell, match[0]), value)
    if isinstance(error, UsageError):
        lines = [f"{name}: {value}"]
    else:
        try:
            lines = _render(shell, error) if style == "plain" else _illustrate(shell, error, style)
        except Exception:  # noqa: BLE001 - `__notes__`, `__cause__` and others are the user's too
            lines = [f"{name}: {value}"]
    value, lines = cap_error(value, lines)
    return name, value, lines


def _render(shell: Shell, error: BaseException) -> list[str]:
    rendered = traceback.TracebackException(type(error), error, error.__traceback__)
    if not any(CELL_NAME.fullmatch(entry.filename) for entry in rendered.stack):
        rendered.stack.clear()  # only machinery was running
    _drop_internal_frames(rendered, set())
    text = "".join(rendered.format())
    text = _CELL_LOCATION.sub(
        lambda match: f"{_cell_label(shell, match[1])}, line {match[2]}", text
    )
    return text.splitlines()


def _illustrate(shell: Shell, error: BaseException, style: str) -> list[str]:
    """Renders an error as IPython does, without the frames that are not the user's."""
    if isinstance(error, SyntaxError):
        renderer: Any = shell.SyntaxTB
    else:
        renderer = shell.InteractiveTB
    renderer.set_theme_name("linux" if style == "color" else "nocolor")
    frames = _own_frames(error.__traceback__)
    text = renderer.structured_traceback(type(error), error, frames, tb_offset=0)
    return "\n".join(text).splitlines()


def _own_frames(trace: TracebackType | None) -> TracebackType | None:
    """The same traceback without the frames of IPython and of this package."""
    if trace is None:
        return None
    rest = _own_frames(trace.tb_next)
    if trace.tb_frame.f_code.co_filename.startswith(_INTERNAL_DIRECTORIES):
        return rest
    return type(trace)(rest, trace.tb_frame, trace.tb_lasti, trace.tb_lineno)


def _cell_label(shell: Shell, filename: str) -> str:
    label = shell.compile.format_code_name(filename)
    return " ".join(label) if label else filename


def _drop_internal_frames(rendered: traceback.TracebackException, seen: set[int]) -> None:
    if id(rendered) in seen:
        return
    seen.add(id(rendered))
    rendered.stack[:] = [
        entry for entry in rendered.stack if not entry.filename.startswith(_INTERNAL_DIRECTORIES)
    ]
    for other in (rendered.__cause__, rendered.__context__, *(rendered.exceptions or ())):
        if other is not None:
            _drop_internal_frames(other, seen)
