"""The zygote's other end: it asks for forks and learns of their end."""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

import trio

from sandbox_runtime import core
from sandbox_runtime.channel import Channel, send_packet
from sandbox_runtime.errors import (
    HostLimitError,
    InterpreterMissingError,
    InterpreterUnavailableError,
    SandboxClosedError,
    SandboxLostError,
)
from sandbox_runtime.interpreters.execution import Death
from sandbox_runtime.interpreters.installation import EXECUTORS
from sandbox_runtime.messages import Ended, Failed, Fork, Forked, NotForked, ZygoteReply
from sandbox_runtime.settings import ZYGOTE_START_S

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    import msgspec

    from sandbox_runtime.jail import Jail
    from sandbox_runtime.keeper import Keeper
    from sandbox_runtime.settings import Limits
    from sandbox_runtime.supervisor import Supervisor

_LOG = logging.getLogger("sandbox_runtime")
_DATAGRAM_BYTES = 1 << 20
_REMEDY = "Install what is named where the interpreter finds it, e.g. pip install ipython numpy"


class _Child:
    """A context that was forked, until its end is told."""

    def __init__(self) -> None:
        self.ended = trio.Event()
        self.death: Death | None = None

    async def wait_death(self) -> Death | None:
        await self.ended.wait()
        return self.death


def _death(ended: Ended) -> Death:
    if ended.exit is not None:
        return Death(cause="exit", exit_code=ended.exit)
    return Death(cause="signal", signal=ended.signal)


class Zygote:
    """A warmed interpreter that is forked for each context. The runtime's nursery runs `run`.

    Attributes:
        missing: Modules that were to be imported and are not installed.
        refused: Modules that cannot be imported ahead, and why: they start threads, or fail.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._channel: Channel[ZygoteReply] = Channel(sock, ZygoteReply)
        self._next_id = 0
        self._waiting: dict[int, trio.Event] = {}
        self._answers: dict[int, Forked | NotForked] = {}
        self._children: dict[int, _Child] = {}
        self._lost = False
        self.missing: tuple[str, ...] = ()
        self.refused: Mapping[str, str] = {}

    @classmethod
    async def open(
        cls,
        supervisor: Supervisor,
        python: str = sys.executable,
        preload: Sequence[str] = (),
        *,
        host_network: bool = False,
    ) -> Zygote:
        """Starts one and waits until it is warm.

        A module that cannot be imported ahead costs a start, since nothing undoes an import: the
        next zygote leaves it out, and `refused` says why.

        Args:
            supervisor: Starts it.
            python: The interpreter.
            preload: What it imports.
            host_network: Whether its contexts are to keep the network of this process.

        Raises:
            InterpreterUnavailableError: It cannot start; the message says what is missing.
        """
        refused: dict[str, str] = {}
        while True:
            modules = [module for module in preload if module not in refused]
            zygote = await cls._try_open(supervisor, python, modules, host_network)
            if isinstance(zygote, Zygote):
                zygote.refused = refused
                return zygote
            refused.update(zygote)

    @classmethod
    async def _try_open(
        cls,
        supervisor: Supervisor,
        python: str,
        modules: Sequence[str],
        host_network: bool,  # noqa: FBT001
    ) -> Zygote | dict[str, str]:
        """A warm zygote, or the module that it could not import and why."""
        argv = [python, "-I", "-B", str(EXECUTORS / "python_zygote.py"), core.core_path]
        env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/tmp"}
        zygote = cls(await supervisor.start_zygote(argv, env, host_network=host_network))
        try:
            with trio.fail_after(ZYGOTE_START_S):
                answer = await zygote._preload(modules)
        except (SandboxLostError, trio.TooSlowError) as error:
            zygote.close()
            what = f"{python} did not start, or has no IPython"
            raise InterpreterUnavailableError(what, remedy=_REMEDY) from error
        except BaseException:
            zygote.close()
            raise
        if answer["op"] != "ready":
            zygote.close()
            module, reason = str(answer.get("module")), str(answer.get("reason"))
            if module in modules:
                return {module: reason}
            raise InterpreterMissingError(reason, remedy=_REMEDY)
        zygote.missing = tuple(answer.get("missing", ()))
        for warning in answer.get("warnings", ()):
            _LOG.info("Python contexts are slower than they could be: %s", warning)
        return zygote

    async def _preload(self, modules: Sequence[str]) -> dict[str, Any]:
        """Has it import modules and warm up; what it says to that, as JSON: it is Python still."""
        request = json.dumps({"op": "preload", "modules": list(modules)}).encode()
        try:
            await send_packet(self._socket, request)
            while True:
                try:
                    packet = self._socket.recv(_DATAGRAM_BYTES)
                    break
                except BlockingIOError:
                    await trio.lowlevel.wait_readable(self._socket)
        except (OSError, trio.ClosedResourceError) as error:
            raise SandboxLostError("the zygote has died") from error
        if not packet:
            raise SandboxLostError("the zygote has died")
        answer: dict[str, Any] = json.loads(packet)
        return answer

    async def _ask(self, message: msgspec.Struct, fds: Sequence[int] = ()) -> None:
        try:
            await self._channel.send(message, fds)
        except HostLimitError as error:
            raise SandboxLostError(str(error)) from error  # with the jail, which has no context
        except (SandboxLostError, SandboxClosedError, OSError) as error:
            raise SandboxLostError("the zygote has died") from error

    async def run(self) -> None:
        """Receives its answers until it ends."""
        try:
            while True:
                answer, _ = await self._channel.receive()
                if isinstance(answer, Failed):
                    failure = answer.failure
                    why = f"{failure.step} {failure.subject}: {os.strerror(failure.errno)}"
                    _LOG.error("a warmed interpreter cannot go on: %s", why)
                    continue  # its end follows
                if isinstance(answer, NotForked):
                    self._children.pop(answer.id, None)  # also where nobody waits any more
                if isinstance(answer, Ended):
                    if (child := self._children.pop(answer.id, None)) is not None:
                        child.death = _death(answer)
                        child.ended.set()
                elif (event := self._waiting.pop(answer.id, None)) is not None:
                    self._answers[answer.id] = answer
                    event.set()
        except SandboxLostError as error:
            _LOG.debug("a warmed interpreter is lost: %s", error)
        except SandboxClosedError:
            pass
        finally:
            self._lost = True
            for event in self._waiting.values():
                event.set()
            self._waiting.clear()
            for child in self._children.values():
                child.ended.set()  # nobody will ever know more
            self._children.clear()
            self.close()

    @property
    def lost(self) -> bool:
        """Whether it has died; a new one is needed then."""
        return self._lost

    async def fork(
        self,
        keeper: Keeper,
        jail: Jail,
        executor: socket.socket,
        limits: Limits | None = None,
        *,
        inner_network: bool = True,
    ) -> Callable[[], Awaitable[Death | None]]:
        """Forks a context into a jail that was made with its namespaces.

        What is to be its own alone is told to it over its socket, never to the zygote.

        Args:
            keeper: Of the sandbox.
            jail: Where in it the context shall be.
            executor: The context's end of its socket.
            limits: What each of its processes may use, if less than the sandbox.
            inner_network: See `Keeper.enter`.

        Returns:
            Waits for the end of its process and says how that came, if that can be known.

        Raises:
            InterpreterUnavailableError: The fork failed.
            SandboxLostError: The jail or the zygote has died.
        """
        self._next_id += 1
        number = self._next_id
        event = self._waiting[number] = trio.Event()
        child = self._children[number] = _Child()
        try:
            try:
                with keeper.enter(jail, limits, inner_network=inner_network) as (plan, fds):
                    await self._ask(Fork(id=number, plan=plan), [executor.fileno(), *fds])
            except BaseException:
                self._children.pop(number, None)  # it was never asked for
                raise
            await event.wait()
        finally:
            self._waiting.pop(number, None)
        answer = self._answers.pop(number, None)
        if answer is None:
            raise SandboxLostError("the zygote has died")
        if isinstance(answer, NotForked):
            failure = answer.failure
            if failure.errno == errno.ENOMEM:  # what fork says in a namespace without init
                raise SandboxLostError("the jail has died, so nothing can be forked into it")
            raise InterpreterUnavailableError(f"{failure.step}: {os.strerror(failure.errno)}")
        return child.wait_death

    def close(self) -> None:
        """Ends it; its contexts go on."""
        self._channel.close()
