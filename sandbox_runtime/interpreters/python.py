"""Python interpreters: forked from a zygote into their jails."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Any

from sandbox_runtime.choices import PYTHON_MEMORY_BYTES, PYTHON_MEMORY_REMEDY
from sandbox_runtime.errors import InterpreterUnavailableError
from sandbox_runtime.interpreters.interpreter import Interpreter
from sandbox_runtime.interpreters.preloads import known_preload
from sandbox_runtime.programs import check_cwd, check_env
from sandbox_runtime.settings import DEFAULT_ENV, MIB, WORKSPACE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from sandbox_runtime.interpreters.languages import Wanted
    from sandbox_runtime.interpreters.preloads import Preload
    from sandbox_runtime.interpreters.zygote import Zygote
    from sandbox_runtime.keeper import Keeper


class Python:
    """Makes Python interpreters; see `languages.Language`.

    Args:
        zygote: Gives the warmed Python to fork from, with these modules imported and with the
            host's network or none.
        preloads: The sets of modules, by name.
    """

    can_branch = True

    def __init__(
        self,
        zygote: Callable[[tuple[str, ...], bool], Awaitable[Zygote]],
        preloads: Mapping[str, Preload],
    ) -> None:
        self._zygote = zygote
        self._preloads = preloads

    def check(self, wanted: Wanted) -> None:
        """Whether there is such a preload set."""
        known_preload(wanted.preload, self._preloads)

    def serves(self, wanted: Wanted) -> bool:
        """Wherever it is to be: it is told directory, variables and names when it is taken."""
        preload = known_preload(wanted.preload, self._preloads)
        usual = known_preload(None, self._preloads)
        return (
            preload.modules == usual.modules
            and (preload.names == usual.names or not usual.names)
            and wanted.limits is None
            and wanted.network == "loopback"
        )

    async def adopt(self, interpreter: Interpreter, wanted: Wanted) -> None:
        """Sends it to its place, if that is no usual one."""
        preload = known_preload(wanted.preload, self._preloads)
        usual = known_preload(None, self._preloads)
        if wanted.cwd is not None or wanted.env or preload.names != usual.names:
            await interpreter.start({"type": "start", **_beginning(wanted, preload)})

    async def open(self, keeper: Keeper, wanted: Wanted, *, prime: bool) -> Interpreter:
        """Forks one into a fresh jail."""
        try:
            return await self._open(keeper, wanted, prime=prime)
        except InterpreterUnavailableError as error:
            allowed = (keeper.limits, wanted.limits or keeper.limits)
            limit_bytes = min(limits.memory_bytes for limits in allowed)
            if limit_bytes >= PYTHON_MEMORY_BYTES or error.remedy:
                raise
            few = f"{error} while it started, probably for want of memory: it may use"
            raise InterpreterUnavailableError(
                f"{few} {limit_bytes / MIB:.3g} MiB",
                remedy=PYTHON_MEMORY_REMEDY,
            ) from error

    async def _open(self, keeper: Keeper, wanted: Wanted, *, prime: bool) -> Interpreter:
        preload = known_preload(wanted.preload, self._preloads)
        inner_network = wanted.network == "loopback"
        host_network = keeper.has_host_network and not inner_network
        zygote = await self._zygote(preload.modules, host_network)
        start = {
            **_beginning(wanted, preload),
            "imports": list(zygote.refused),
            "prime": prime,
        }
        async with contextlib.AsyncExitStack() as undo:
            ours, theirs = socket.socketpair()
            undo.callback(ours.close)
            with theirs:
                jail = await keeper.create_jail(namespaces=True, inner_network=inner_network)
                undo.push_async_callback(jail.aclose)
                interpreter = Interpreter(jail, ours, branches=True)
                undo.push_async_callback(interpreter.aclose)
                interpreter.imported_late = dict(zygote.refused)
                told = interpreter.tell_ahead(start)  # so that it need not wait once it is there
                await jail.wait_ready()
                interpreter.exited = await zygote.fork(
                    keeper, jail, theirs, wanted.limits, inner_network=inner_network
                )
            if not told:
                await interpreter.tell(start)
            await interpreter.wait_started(start)
            undo.pop_all()
        return interpreter


def _beginning(wanted: Wanted, preload: Preload) -> dict[str, Any]:
    """What a context is told when it starts."""
    return {
        "cwd": check_cwd(wanted.cwd, WORKSPACE),
        "env": DEFAULT_ENV | check_env(wanted.env),
        "names": preload.names,
    }
