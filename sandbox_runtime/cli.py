"""The command `sandbox-runtime`: run a script or a command, and look at what this machine offers.

What the program writes goes to our own streams byte for byte; what we have to say is a line on
stderr. The exit status is the program's, except for those that `_HELP` names. Modules are imported
where they are used, so that help and mistakes are answered at once.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

    from sandbox_runtime.interpreters.execution import Execution, Result
    from sandbox_runtime.receipts import CommandResult
    from sandbox_runtime.report import SandboxReport
    from sandbox_runtime.sandbox import Sandbox

USAGE, DEADLINE, OWN_FAILURE, NOT_EXECUTABLE, NOT_FOUND, SIGNAL = 2, 124, 125, 126, 127, 128
"""Exit statuses that are ours and not the program's."""

_PATIENCE_S = 2.0
_PIPE_BUF = select.PIPE_BUF
_READ_BYTES = 1 << 20
_LEAST_MEMORY = 1 << 20
_WORKSPACE = "/workspace"
_STDIN_FILE = "/tmp/.standard-input"
_IMAGES = {"image/png": "png", "image/jpeg": "jpg", "image/svg+xml": "svg"}
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([KMGT]?)(?:i?B)?", re.IGNORECASE)

_HELP = """Run untrusted code in a real sandbox: no network, no host files, no rights.

\b
Exit status: that of the program, or
  2     a mistake in the command line
  124   the deadline (--timeout) ended the program
  125   the sandbox failed, not the program
  126   the program cannot be executed
  127   the program was not found
  128+N signal N ended it (130: Ctrl-C)
"""


def main() -> NoReturn:
    """The entry point: answers mistakes in one line, and never with a traceback of ours."""
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(fd)
        except OSError:  # closed; a pipe of ours must not become somebody's standard output
            os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(fd, "w" if fd else "r", closefd=False))
    try:
        status = cli(prog_name="sandbox-runtime", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        status = USAGE
    except click.ClickException as error:
        _say(error.format_message())
        status = USAGE
    except (click.Abort, KeyboardInterrupt):
        status = SIGNAL + 2
    except BrokenPipeError:
        status = _reader_is_gone()
    except BaseExceptionGroup as group:  # as trio hands on a Ctrl-C
        if group.split(KeyboardInterrupt)[1] is not None:
            raise
        status = SIGNAL + 2
    sys.exit(status)


def _reader_is_gone() -> int:
    """The status of who writes to a pipe that nobody reads; nothing is to be flushed at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return SIGNAL + 13


def _say(message: str) -> None:
    """Tells the user something, in one line."""
    with contextlib.suppress(OSError):
        print(f"sandbox-runtime: {' '.join(message.split())}", file=sys.stderr, flush=True)


@click.group(help=_HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sandbox-runtime", message="%(prog)s %(version)s")
def cli() -> None:
    """See `_HELP`."""


# --- options ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _CopyIn:
    """What `--in` asks for: a file or a directory of the host, and its path inside."""

    host: Path
    sandbox: str


@dataclass(frozen=True, slots=True)
class _CopyOut:
    """What `--out` asks for."""

    sandbox: str
    host: Path


@dataclass(frozen=True, slots=True)
class _Options:
    """What `run` and `exec` have in common."""

    copy_in: tuple[_CopyIn, ...]
    copy_out: tuple[_CopyOut, ...]
    deadline_s: float | None
    env: dict[str, str]
    cwd: str | None
    require: tuple[str, ...]
    memory_bytes: int | None
    as_json: bool
    reads_stdin: bool


def _inside(path: str) -> str:
    import posixpath

    return posixpath.normpath(posixpath.join(_WORKSPACE, path))


def _parse_in(_context: object, _option: object, values: tuple[str, ...]) -> tuple[_CopyIn, ...]:
    parsed = []
    for value in values:
        host, target = value, ""
        if not os.path.lexists(value):
            host, colon, target = value.rpartition(":")
            if not colon:
                host, target = value, ""
            elif not target or not host:
                raise click.BadParameter(f"{value!r} is not HOSTPATH[:SANDBOXPATH]")
        path = Path(host)
        try:
            mode = path.stat().st_mode
        except OSError as error:
            raise click.BadParameter(f"{host!r}: {error.strerror}") from None
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise click.BadParameter(f"{host!r} is neither a file nor a directory")
        if not os.access(path, os.R_OK):
            raise click.BadParameter(f"{host!r}: {os.strerror(errno.EACCES)}")
        name = path.name if path.name not in {"", ".."} else path.resolve().name
        if not target:
            target = name
        elif target.endswith("/") and stat.S_ISREG(mode):
            target += name
        parsed.append(_CopyIn(path, _inside(target)))
    return tuple(parsed)


def _parse_out(_context: object, _option: object, values: tuple[str, ...]) -> tuple[_CopyOut, ...]:
    parsed = []
    for value in values:
        source, colon, host = value.partition(":")
        if not source or (colon and not host):
            raise click.BadParameter(f"{value!r} is not SANDBOXPATH[:HOSTPATH]")
        name = _inside(source).rpartition("/")[2] or "sandbox"
        path = Path(host or name)
        if host.endswith("/") or (host and path.is_dir()):
            path /= name
        if not path.parent.is_dir():
            raise click.BadParameter(f"the directory {str(path.parent)!r} does not exist; make it")
        parsed.append(_CopyOut(_inside(source), path))
    return tuple(parsed)


def _parse_env(_context: object, _option: object, values: tuple[str, ...]) -> dict[str, str]:
    env = {}
    for value in values:
        name, equals, content = value.partition("=")
        if not name or not equals:
            raise click.BadParameter(f"{value!r} is not NAME=VALUE")
        env[name] = content
    return env


def _parse_timeout(_context: object, _option: object, value: float | None) -> float | None:
    if value is not None and not value > 0:
        raise click.BadParameter(f"{value} is no time; give seconds, more than 0")
    return value


def _parse_memory(_context: object, _option: object, value: str | None) -> int | None:
    if value is None:
        return None
    match = _SIZE.fullmatch(value.strip())
    size = (
        0
        if match is None
        else int(float(match[1]) * 1024 ** "_KMGT".index(match[2].upper() or "_"))
    )
    if size < _LEAST_MEMORY:
        raise click.BadParameter(f"{value!r} is no size; write it as 512M or 2G, at least 1M")
    return size


def _common(command: Callable[..., int]) -> Callable[..., int]:
    """Adds what `run` and `exec` have in common, and gives it to them as one value."""
    import functools

    @click.option(
        "--in",
        "copy_in",
        metavar="HOSTPATH[:SANDBOXPATH]",
        multiple=True,
        callback=_parse_in,
        help="Copy a file or directory in before the start; to /workspace/NAME by default, "
        "relative paths start at /workspace. Repeatable.",
    )
    @click.option(
        "--out",
        "copy_out",
        metavar="SANDBOXPATH[:HOSTPATH]",
        multiple=True,
        callback=_parse_out,
        help="Copy a file or directory out at the end, also when the program failed; to ./NAME "
        "by default. Repeatable.",
    )
    @click.option(
        "--timeout",
        "deadline_s",
        metavar="SECONDS",
        type=float,
        callback=_parse_timeout,
        help="End the program and all it started after this time.",
    )
    @click.option(
        "--env",
        metavar="NAME=VALUE",
        multiple=True,
        callback=_parse_env,
        help="Set a variable. Nothing of this environment is handed on by itself. Repeatable.",
    )
    @click.option("--cwd", metavar="DIR", help="Where it runs inside; /workspace by default.")
    @click.option(
        "--memory",
        "memory_bytes",
        metavar="SIZE",
        callback=_parse_memory,
        help="How much memory it may use, e.g. 512M; 2G by default.",
    )
    @click.option(
        "--require",
        metavar="PROTECTION",
        multiple=True,
        help="Refuse to run without this one too; `doctor` lists them. Repeatable.",
    )
    @click.option(
        "--json",
        "as_json",
        is_flag=True,
        help="Print one JSON object at the end: output, results, cost, protections.",
    )
    @click.option(
        "--no-stdin",
        is_flag=True,
        help="Leave our standard input alone. Otherwise what is piped to us is read to its end "
        "and given to the program.",
    )
    @functools.wraps(command)
    def with_options(
        copy_in: tuple[_CopyIn, ...],
        copy_out: tuple[_CopyOut, ...],
        deadline_s: float | None,
        env: dict[str, str],
        cwd: str | None,
        memory_bytes: int | None,
        require: tuple[str, ...],
        *,
        as_json: bool,
        no_stdin: bool,
        **rest: Any,
    ) -> int:
        options = _Options(
            copy_in=copy_in,
            copy_out=copy_out,
            deadline_s=deadline_s,
            env=env,
            cwd=cwd,
            require=require,
            memory_bytes=memory_bytes,
            as_json=as_json,
            reads_stdin=not no_stdin,
        )
        return command(options, **rest)

    return with_options


def _read_to_end() -> bytes:
    content = bytearray()
    while chunk := os.read(0, _READ_BYTES):
        content += chunk
    return bytes(content)


def _piped_input(options: _Options) -> bytes:
    """What is piped to us. A terminal is nobody's pipe."""
    if not options.reads_stdin or os.isatty(0):
        return b""
    try:
        if not select.select([0], [], [], _PATIENCE_S)[0]:
            _say("waiting for the end of standard input; --no-stdin runs without it")
        return _read_to_end()
    except OSError as error:
        raise click.UsageError(
            f"standard input: {error.strerror}; --no-stdin runs without it"
        ) from None


# --- commands --------------------------------------------------------------------------------


@cli.command(
    context_settings={"allow_interspersed_args": False},
    short_help="Run a Python or shell script in a fresh sandbox.",
)
@click.argument("file", metavar="FILE")
@click.argument("args", metavar="[ARGS]...", nargs=-1)
@click.option(
    "--language",
    type=click.Choice(["python", "shell"]),
    help="What FILE is; by default its ending (.py, .sh) or #! line says so.",
)
@click.option("--plain", is_flag=True, help="Run Python as `python FILE` does, not in a context.")
@click.option(
    "--figures",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, writable=True, path_type=Path),
    help="Save the figures and other images that a Python script shows.",
)
@_common
def run(
    options: _Options,
    file: str,
    args: tuple[str, ...],
    language: str | None,
    figures: Path | None,
    *,
    plain: bool,
) -> int:
    """Run FILE with ARGS in a fresh sandbox; `-` reads it from standard input.

    Options go before FILE: what follows is the script's own. It is copied to /workspace and its
    exit status becomes ours.

    Python runs in a code context, the interpreter that `Sandbox.run_code` offers: the value of
    the last expression is printed, figures are seen (--figures keeps them), top-level `await`
    works, --json has every result in all its formats. Otherwise it is a script: sys.argv,
    __file__, sys.stdin, threads and atexit are as usual, an error is a traceback on stderr and
    status 1, sys.exit gives its status. Warming the interpreter takes a second or so; with --plain
    the script runs as `python FILE` instead, which starts at once and shows nothing by itself.

    A script with a #! line runs as that says, another shell script by bash.
    """
    script = _load(file, language, plain=plain)
    stdin = b"" if file == "-" else _piped_input(options)

    async def start(sandbox: Sandbox, streams: _Streams) -> _Outcome:
        await sandbox.files.write(script.path, script.content, mode=0o755)
        if script.language == "python":
            return await _run_in_context(sandbox, script, args, options, stdin, streams, figures)
        argv = [*script.interpreter, script.path, *args]
        return await _run_process(sandbox, argv, options, stdin, streams)

    return _supervise(options, start)


@cli.command(
    "exec",
    context_settings={"allow_interspersed_args": False},
    options_metavar="[OPTIONS] [--]",
    short_help="Run one command in a fresh sandbox.",
)
@click.argument("command", metavar="COMMAND [ARGS]...", nargs=-1, type=click.UNPROCESSED)
@click.option("-c", "text", metavar="TEXT", help="Shell text for bash; ARGS are $1, $2 and so on.")
@_common
def execute(options: _Options, command: tuple[str, ...], text: str | None) -> int:
    r"""Run a program with its arguments, or with -c a line of shell text, in a fresh sandbox.

    \b
    sandbox-runtime exec -- sort -n < numbers.txt
    sandbox-runtime exec --in src --out build.log -c 'make -C src > build.log'
    """
    from sandbox_runtime.errors import InvalidArgumentError
    from sandbox_runtime.programs import check_argv, check_text

    argv = list(command)
    try:
        if text is not None:
            check_text("-c", text)
            argv = ["bash", "-c", text, "bash", *command]
        check_argv("COMMAND", argv)
    except InvalidArgumentError as error:
        raise click.UsageError(str(error)) from None
    stdin = _piped_input(options)

    async def start(sandbox: Sandbox, streams: _Streams) -> _Outcome:
        return await _run_process(sandbox, argv, options, stdin, streams)

    return _supervise(options, start)


@cli.command(short_help="Say what a sandbox protects here, and how to get the rest.")
@click.option("--json", "as_json", is_flag=True, help="The same as one JSON object.")
def doctor(*, as_json: bool) -> int:
    """Make a sandbox and say what it protects from here, and how to get the rest.

    The status is 0 if all that is required is there, else 1.
    """
    import trio

    from sandbox_runtime import doctor as clinic

    diagnosis = trio.run(clinic.examine)
    try:
        print(diagnosis.json() if as_json else diagnosis.text(), flush=True)
    except BrokenPipeError:
        return _reader_is_gone()
    return 0 if diagnosis.ok else 1


@cli.command(short_help="Analyse real data as an agent would, then try to break out.")
@click.option(
    "--out",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("demo-output"),
    help="Where the chart is put; ./demo-output by default.",
)
def demo(out: Path) -> int:
    """Analyse real data as an agent would, then try to break out in three ways.

    The status is 1 if an attack succeeds.
    """
    from sandbox_runtime import demo as show
    from sandbox_runtime.errors import SandboxError

    try:
        return show.main(out)
    except BrokenPipeError:  # click would make it a 1, which means something here
        return _reader_is_gone()
    except (SandboxError, OSError) as error:
        _say(str(error))
        return OWN_FAILURE


# --- scripts ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Script:
    """A script, and who runs it: a context if its language is Python, else a process."""

    path: str
    content: bytes
    language: str
    interpreter: tuple[str, ...] = ()
    source: str = ""


def _load(file: str, language: str | None, *, plain: bool) -> _Script:
    """Reads a script and decides how it runs.

    Raises:
        click.BadParameter: It cannot be read, or is nothing that we know how to run.
    """
    shown = "standard input" if file == "-" else repr(file)
    try:
        content = _read_to_end() if file == "-" else Path(file).read_bytes()
    except IsADirectoryError:
        raise _bad_file(
            f"{shown} is a directory; name a script in it, and copy the directory with --in"
        ) from None
    except (OSError, ValueError) as error:
        raise _bad_file(f"{shown}: {getattr(error, 'strerror', None) or error}") from None
    suffix = Path(file).suffix.lower()
    first = content.split(b"\n", 1)[0]
    shebang = first[2:].split() if first.startswith(b"#!") else []
    names_python = any(word.rpartition(b"/")[2].startswith(b"python") for word in shebang)
    path = f"{_WORKSPACE}/{'script' if file == '-' else Path(file).name}"
    if language == "python" or (
        language is None and (suffix == ".py" or names_python or (file == "-" and not shebang))
    ):
        if plain:
            return _Script(path, content, "", (sys.executable,))
        return _Script(path, content, "python", (), _decode(shown, content))
    if language is None and shebang:
        return _Script(path, content, "")
    if language == "shell" or suffix in {".sh", ".bash"}:
        return _Script(path, content, "", ("bash",))
    raise _bad_file(
        f"{shown} has neither a known ending nor a #! line; say --language python or shell"
    )


def _bad_file(message: str) -> click.BadParameter:
    return click.BadParameter(message, param_hint="FILE")


def _decode(shown: str, content: bytes) -> str:
    import importlib.util

    try:
        return importlib.util.decode_source(content)
    except (UnicodeDecodeError, SyntaxError) as error:
        why = error.msg if isinstance(error, SyntaxError) else error.reason
        raise _bad_file(
            f"{shown} is not UTF-8 ({why}); save it as UTF-8, or name its encoding in its first "
            "line: # -*- coding: latin-1 -*-"
        ) from None


_PROLOGUE = """
def _begin(path, argv, stdin):
    import builtins, os, sys
    sys.argv[:] = argv
    sys.path[0] = os.path.dirname(path)
    get_ipython().user_ns["__file__"] = path
    get_ipython().compile.format_code_name = lambda name: ("File", '"' + path + '"')
    if stdin:
        fd = os.open(stdin, os.O_RDONLY)
        os.unlink(stdin)
        os.dup2(fd, 0)
        os.close(fd)
        def input(prompt="", /):
            print(prompt, end="", flush=True)
            if not (line := sys.stdin.readline()):
                raise EOFError("EOF when reading a line")
            return line.removesuffix("\\n")
        builtins.input = input
_begin(*{arguments})
del _begin
"""
"""Makes a context what a script expects."""

_EPILOGUE = """
def _finish():
    import atexit, threading
    while waited := [
        thread
        for thread in threading.enumerate()
        if thread is not threading.main_thread() and not thread.daemon
    ]:
        for thread in waited:
            thread.join()
    atexit._run_exitfuncs()
_finish()
"""
"""What an interpreter does when its script is over."""


async def _run_in_context(
    sandbox: Sandbox,
    script: _Script,
    args: Sequence[str],
    options: _Options,
    stdin: bytes,
    streams: _Streams,
    figures: Path | None,
) -> _Outcome:
    import trio

    context = await sandbox.create_code_context(cwd=options.cwd, env=options.env)
    if stdin:
        await sandbox.files.write(_STDIN_FILE, stdin)
    arguments = (script.path, [script.path, *args], _STDIN_FILE if stdin else "")
    prologue = await context.run(_PROLOGUE.replace("{arguments}", ascii(arguments)))
    if prologue.ended != "ok":
        why = prologue.error.traceback if prologue.error else prologue.ended
        return _Outcome(OWN_FAILURE, {}, f"the interpreter could not be prepared: {why}")
    shown = 0

    async def show(result: Result) -> None:
        nonlocal shown
        for mime, ending in _IMAGES.items():
            if image := _image(result, mime):
                shown += 1
                note = f"a figure was shown ({len(image)} bytes of {mime}); --figures DIR keeps it"
                if figures is not None:
                    path = trio.Path(figures) / f"figure-{shown}.{ending}"
                    await path.write_bytes(image)
                    note = f"{path} ({len(image)} bytes)"
                _say(note)
                return
        if isinstance(text := result.data.get("text/plain"), str):
            await streams.stdout.write(f"{text}\n".encode(errors="backslashreplace"))

    started_s = trio.current_time()
    execution = await context.run(
        script.source,
        deadline_s=options.deadline_s,
        on_result=show if figures is not None or not options.as_json else None,
        **streams.handlers(options),
    )
    rest: Execution | None = None
    if execution.ended in {"ok", "error"} and execution.state_survived:
        await _show_error(execution, streams, options)
        left_s = None
        if options.deadline_s is not None:
            left_s = max(0.01, options.deadline_s - (trio.current_time() - started_s))
        rest = await context.run(_EPILOGUE, deadline_s=left_s, **streams.handlers(options))
    return _outcome_of_execution(execution, rest)


def _image(result: Result, mime: str) -> bytes:
    """The image, if it is one: what a context says is as untrusted as the rest of it."""
    import base64

    data = result.data.get(mime)
    if not isinstance(data, str):
        return b""
    if mime.endswith("xml"):
        return data.encode(errors="backslashreplace")
    try:
        return base64.b64decode(data)
    except ValueError:
        return b""


async def _show_error(execution: Execution, streams: _Streams, options: _Options) -> None:
    """As the interpreter would: a traceback, or the text that sys.exit was given."""
    error = execution.error
    if error is None or options.as_json:
        return
    text = error.traceback
    if error.name == "SystemExit":
        if _exit_number(error.value) is not None:
            return
        text = error.value
    await streams.stderr.write(f"{text}\n".encode(errors="backslashreplace"))


def _exit_number(value: str) -> int | None:
    try:
        return int(value) & 0xFF
    except ValueError:
        return None


async def _run_process(
    sandbox: Sandbox,
    argv: Sequence[str],
    options: _Options,
    stdin: bytes,
    streams: _Streams,
) -> _Outcome:
    result = await sandbox.run_process(
        argv,
        cwd=options.cwd,
        env=options.env,
        stdin=stdin,
        deadline_s=options.deadline_s,
        **streams.handlers(options),
    )
    return _outcome_of_command(result)


# --- how it ended ----------------------------------------------------------------------------


@dataclass(slots=True)
class _Outcome:
    """Our exit status, what `--json` prints, and what there is to say besides."""

    status: int
    record: dict[str, Any]
    note: str = ""


def _outcome_of_command(result: CommandResult) -> _Outcome:
    import signal

    record = _record(result.stdout, result.stderr, result)
    record |= {"exit_code": result.exit_code, "signal": result.signal}
    match result.ended:
        case "exit":
            assert result.exit_code is not None
            return _Outcome(result.exit_code, record)
        case "signal":
            assert result.signal is not None
            with contextlib.suppress(ValueError):
                name = signal.Signals(result.signal).name
                return _Outcome(SIGNAL + result.signal, record, f"the program was ended by {name}")
            return _Outcome(SIGNAL + result.signal, record)
        case "deadline":
            return _Outcome(DEADLINE, record, "the deadline ended the program (--timeout)")
        case other:
            return _Outcome(OWN_FAILURE, record, f"the program did not end by itself: {other}")


def _outcome_of_execution(execution: Execution, rest: Execution | None) -> _Outcome:
    import msgspec

    stdout = execution.stdout + (rest.stdout if rest else b"")
    stderr = execution.stderr + (rest.stderr if rest else b"")
    record = _record(stdout, stderr, execution)
    if rest is not None:
        record["stdout_bytes"] += rest.stdout_bytes
        record["stderr_bytes"] += rest.stderr_bytes
        record["truncated"] = record["truncated"] or rest.truncated
    status, note, code = OWN_FAILURE, "", None
    ended = execution.ended
    if rest is not None and rest.ended not in {"ok", "error"}:
        ended = rest.ended
    match ended:
        case "ok":
            status = code = 0
        case "error":
            number = None
            if execution.error is not None and execution.error.name == "SystemExit":
                number = _exit_number(execution.error.value)
            status = code = 1 if number is None else number
        case "deadline":
            status, note = DEADLINE, "the deadline ended the script (--timeout)"
        case "context lost":
            note = (
                "the interpreter is gone before the script was over (os._exit, a crash, or too "
                "much memory); with --plain its exit status is seen"
            )
        case other:
            note = f"the script did not end by itself: {other}"
    record |= {"ended": ended, "exit_code": code, "signal": None}
    record["results"] = msgspec.to_builtins(execution.results)
    record["error"] = msgspec.to_builtins(execution.error)
    return _Outcome(status, record, note)


def _record(stdout: bytes, stderr: bytes, result: CommandResult | Execution) -> dict[str, Any]:
    import base64

    import msgspec

    record: dict[str, Any] = {"ended": result.ended, "exit_code": None, "signal": None}
    for name, content in (("stdout", stdout), ("stderr", stderr)):
        record[name] = content.decode(errors="replace")
        try:
            content.decode()
            record[f"{name}_base64"] = None
        except UnicodeDecodeError:
            record[f"{name}_base64"] = base64.b64encode(content).decode()
    return record | {
        "stdout_bytes": result.stdout_bytes,
        "stderr_bytes": result.stderr_bytes,
        "truncated": result.truncated,
        "receipt": msgspec.to_builtins(result.receipt),
    }


def _report_record(report: SandboxReport) -> dict[str, Any]:
    return {
        "level": report.level,
        "protections": [
            {
                "name": row.name,
                "requested": row.requested,
                "achieved": row.achieved,
                "detail": row.detail,
            }
            for row in report.protections
        ],
    }


# --- one run, from its sandbox to its exit status -----------------------------------------------


class _Output:
    """Our standard output or error: takes all bytes in their order, and waits for slow readers.

    Who is told to give up drops what comes later, so that nothing waits for a reader that is gone.
    """

    def __init__(self, fd: int, stop: _Stop) -> None:
        self._fd = fd
        self._stop = stop
        self._pending = bytearray()
        self._waiting: Any = None
        self._can_wait = True
        self._gave_up = False

    async def write(self, data: bytes) -> None:
        """Writes all of it; what an interrupted call has left comes first."""
        import trio

        if self._gave_up:
            return
        self._pending += data
        with trio.CancelScope() as self._waiting:
            while self._pending:
                if self._can_wait:
                    try:
                        await trio.lowlevel.wait_writable(self._fd)
                    except PermissionError:  # a file or /dev/null: never makes anybody wait
                        self._can_wait = False
                # A pipe with room has room for so much, so the call does not block.
                most = _PIPE_BUF if self._can_wait else len(self._pending)
                try:
                    written = os.write(self._fd, self._pending[:most])
                except BlockingIOError:
                    await trio.sleep(0.01)
                    continue
                except BrokenPipeError:
                    self._stop(SIGNAL + 13)
                    return
                except OSError as error:
                    _say(f"cannot write to our standard output: {error.strerror}")
                    self._stop(OWN_FAILURE)
                    return
                del self._pending[:written]

    def give_up(self) -> None:
        """Drops what is left and what comes."""
        self._gave_up = True
        self._pending.clear()
        if self._waiting is not None:
            self._waiting.cancel()


class _Stop:
    """Ends the run before its time, with an exit status."""

    def __init__(self) -> None:
        import trio

        self.status: int | None = None
        self.scope = trio.CancelScope()
        self.outputs: list[_Output] = []

    def __call__(self, status: int) -> None:
        if self.status is None:
            self.status = status
        for output in self.outputs:
            output.give_up()
        self.scope.cancel()

    async def obey(self, signals: AsyncIterator[int]) -> None:
        """Stops at the first signal."""
        async for number in signals:
            self(SIGNAL + number)
            return


class _Streams:
    """Where the program's output goes."""

    def __init__(self, stop: _Stop) -> None:
        self.stdout = _Output(1, stop)
        self.stderr = _Output(2, stop)
        stop.outputs = [self.stdout, self.stderr]

    def handlers(self, options: _Options) -> dict[str, Any]:
        """Arguments for whoever runs something: stream it, or keep it for `--json`."""
        if options.as_json:
            return {}
        return {
            "on_stdout": self.stdout.write,
            "on_stderr": self.stderr.write,
            "limit_bytes": 0,
        }


def _supervise(options: _Options, start: Callable[[Sandbox, _Streams], Awaitable[_Outcome]]) -> int:
    """Runs something in a sandbox, from a signal handler to an exit status."""
    import signal

    import trio

    # Who was started with a signal ignored, as by nohup, goes on ignoring it.
    endings = [
        number
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN
    ]

    async def supervised() -> int:
        stop = _Stop()
        status = OWN_FAILURE
        with trio.open_signal_receiver(*endings) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stop.obey, signals)
                with stop.scope:
                    status = await _run_in_sandbox(options, start, _Streams(stop))
                nursery.cancel_scope.cancel()
        return status if stop.status is None else stop.status

    return trio.run(supervised)


async def _run_in_sandbox(
    options: _Options,
    start: Callable[[Sandbox, _Streams], Awaitable[_Outcome]],
    streams: _Streams,
) -> int:
    from sandbox_runtime.errors import SandboxError
    from sandbox_runtime.sandbox import open_sandbox
    from sandbox_runtime.settings import Limits

    limits = Limits()
    if options.memory_bytes is not None:
        limits = Limits(memory_bytes=options.memory_bytes)
    try:
        async with open_sandbox(limits=limits, require=options.require, python_pool=0) as sandbox:
            for item in options.copy_in:
                await _copy_in(sandbox, item)
            outcome = await start(sandbox, streams)
            copied = [await _copy_out(sandbox, item) for item in options.copy_out]
            outcome.record["report"] = _report_record(sandbox.report)
    except (SandboxError, OSError) as error:
        return await _own_failure(error, options, streams)
    outcome.record["outputs"] = copied
    if outcome.note:
        _say(outcome.note)
    for output in copied:
        for note in (output["error"], *output["skipped"]):
            if note:
                _say(f"--out {output['path']}: {note}")
    if outcome.status == 0 and any(output["error"] for output in copied):
        outcome.status = OWN_FAILURE
    await _print_json(outcome.record, options, streams)
    return outcome.status


async def _own_failure(error: Exception, options: _Options, streams: _Streams) -> int:
    from sandbox_runtime.errors import InvalidArgumentError, NotStartedError, SandboxError

    status, code = OWN_FAILURE, "os_error"
    if isinstance(error, SandboxError):
        code = error.code
    if isinstance(error, InvalidArgumentError):
        status = USAGE
    elif isinstance(error, NotStartedError) and error.step != "change_directory":
        status = NOT_FOUND if error.errno == errno.ENOENT else NOT_EXECUTABLE
    _say(str(error))
    failure = {"code": code, "message": str(error), "remedy": getattr(error, "remedy", "")}
    await _print_json({"ended": "not run", "failure": failure}, options, streams)
    return status


async def _print_json(record: dict[str, Any], options: _Options, streams: _Streams) -> None:
    import json

    if options.as_json:
        await streams.stdout.write(json.dumps(record, indent=2).encode() + b"\n")


# --- copying ---------------------------------------------------------------------------------


async def _copy_in(sandbox: Sandbox, item: _CopyIn) -> None:
    """Copies a file or a directory with all that is in it; links in it stay links."""
    import trio

    from sandbox_runtime.errors import FileAccessError

    for path, target, mode in _walk(item):
        try:
            if stat.S_ISDIR(mode):
                await sandbox.files.make_directory(target)
            elif stat.S_ISREG(mode):
                content = await trio.Path(path).read_bytes()
                await sandbox.files.write(target, content, mode=mode & 0o777)
            elif stat.S_ISLNK(mode):
                command = ["ln", "-sfn", "--", str(path.readlink()), target]
                await sandbox.exec(command, check=True)
            else:
                _say(f"--in {path}: neither a file nor a directory; left out")
        except FileAccessError as error:
            hint = ""
            if error.errno in {errno.EROFS, errno.EACCES, errno.EPERM}:
                hint = "; /workspace and /tmp can be written"
            raise OSError(f"--in {path}: {error}{hint}") from error


def _walk(item: _CopyIn) -> Iterator[tuple[Path, str, int]]:
    """What a directory holds, itself first: path here, path inside, mode."""

    def unreadable(error: OSError) -> NoReturn:
        raise error

    mode = item.host.stat().st_mode
    yield item.host, item.sandbox, mode
    if not stat.S_ISDIR(mode):
        return
    for directory, names, files in os.walk(item.host, onerror=unreadable):
        inside = _inside(f"{item.sandbox}/{os.path.relpath(directory, item.host)}")
        for name in sorted([*names, *files]):
            path = Path(directory) / name
            yield path, f"{inside}/{name}", path.lstat().st_mode


async def _copy_out(sandbox: Sandbox, item: _CopyOut) -> dict[str, Any]:
    """Copies a file or a directory out; what went wrong is in the record."""
    from sandbox_runtime.errors import SandboxError

    record: dict[str, Any] = {
        "path": item.sandbox,
        "host_path": str(item.host),
        "files": 0,
        "bytes": 0,
        "skipped": [],
        "error": None,
    }
    try:
        await _copy_out_into(sandbox, item, record)
    except SandboxError as error:
        record["error"] = f"not copied, in the sandbox: {error}"
    except OSError as error:
        record["error"] = f"not copied to {error.filename or item.host}: {error.strerror}"
    return record


async def _copy_out_into(sandbox: Sandbox, item: _CopyOut, record: dict[str, Any]) -> None:
    from sandbox_runtime.errors import FileAccessError

    try:
        entries = await sandbox.files.list(item.sandbox, recursive=True)
    except FileAccessError as error:
        if error.errno != errno.ENOTDIR:
            raise
        await _copy_file_out(sandbox, item.sandbox, item.host, await _mode(sandbox, item), record)
        return
    item.host.mkdir(exist_ok=True)
    for entry in entries:
        # The names come from untrusted code: what is no plain name, or no file, stays there.
        if {"", ".", ".."} & set(entry.path.split("/")) or entry.kind in {"symlink", "other"}:
            record["skipped"].append(f"{entry.path} is a {entry.kind}; left out")
        elif entry.kind == "directory":
            (item.host / entry.path).mkdir(exist_ok=True, parents=True)
        else:
            path, target = f"{item.sandbox}/{entry.path}", item.host / entry.path
            target.parent.mkdir(exist_ok=True, parents=True)
            await _copy_file_out(sandbox, path, target, entry.mode, record)


async def _copy_file_out(
    sandbox: Sandbox, path: str, target: Path, mode: int, record: dict[str, Any]
) -> None:
    import trio

    content = await sandbox.files.read(path)

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags, 0o666 | (mode & 0o111))

    async with await trio.open_file(target, "wb", opener=opener) as file:
        await file.write(content)
    record["files"] += 1
    record["bytes"] += len(content)


async def _mode(sandbox: Sandbox, item: _CopyOut) -> int:
    """The permission bits of a single file, as its directory lists them."""
    from sandbox_runtime.errors import FileAccessError

    directory, _, name = item.sandbox.rpartition("/")
    with contextlib.suppress(FileAccessError):
        for entry in await sandbox.files.list(directory or "/"):
            if entry.path == name:
                return entry.mode
    return 0o644
