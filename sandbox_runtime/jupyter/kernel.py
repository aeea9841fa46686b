"""The kernel: answers what front ends ask, in the order in which they ask it.

Theory of operation. Requests that come by the shell channel are answered one after another, as
Jupyter has it; those of the control channel meanwhile, so that a cell can be interrupted and the
kernel ended: there nothing is answered that would wait for a cell. What happens on the way is
published to all front ends, each message with the request that it comes of, between `busy` and
`idle`.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import signal
from collections import deque
from typing import TYPE_CHECKING

import trio

from sandbox_runtime.choices import LANGUAGES
from sandbox_runtime.errors import SandboxError
from sandbox_runtime.interpreters.cells import indentation_after, is_whole
from sandbox_runtime.jupyter import introspection
from sandbox_runtime.jupyter.connection import open_channels
from sandbox_runtime.jupyter.failures import failure_of_execution, failure_of_sandbox
from sandbox_runtime.jupyter.history import History
from sandbox_runtime.jupyter.holding import Holding
from sandbox_runtime.jupyter.languages import language_info, python_version
from sandbox_runtime.jupyter.messages import PROTOCOL, Messages
from sandbox_runtime.jupyter.outputs import Outputs
from sandbox_runtime.nursery import open_serving_nursery

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from sandbox_runtime.jupyter.channels import Channel
    from sandbox_runtime.jupyter.connection import Channels, Connection
    from sandbox_runtime.jupyter.messages import Content, Request
    from sandbox_runtime.jupyter.options import KernelOptions

    Answer = Callable[[Request], Awaitable[Content | None]]

_LOG = logging.getLogger("sandbox_runtime.jupyter")
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PARENT_VARIABLE = "JPY_PARENT_PID"
_CONTROL = frozenset({"kernel_info_request", "interrupt_request", "shutdown_request"})
_LOST_BETWEEN = (
    "the interpreter has died since the last cell; the variables are lost, and this is cell 1"
)


async def serve(options: KernelOptions, connection: Connection) -> None:
    """Serves front ends until one of them asks for the end, a signal, or the end of our parent.

    Raises:
        InvalidArgumentError: Nobody can listen where the connection file says.
    """
    with open_channels(connection) as channels, trio.open_signal_receiver(*_SIGNALS) as signals:
        kernel = Kernel(options, connection, channels)
        async with open_serving_nursery() as nursery:
            for channel in (
                channels.shell,
                channels.control,
                channels.publication,
                channels.stdin,
                channels.heartbeat,
            ):
                nursery.start_soon(channel.run)
            nursery.start_soon(kernel.beat)
            nursery.start_soon(kernel.welcome)
            nursery.start_soon(kernel.holding.hold)
            nursery.start_soon(kernel.answer_control)
            nursery.start_soon(kernel.answer_shell)
            nursery.start_soon(kernel.obey, signals)
            nursery.start_soon(kernel.follow_parent)
            await kernel.ended.wait()


class Kernel:
    """What a front end calls a kernel.

    Attributes:
        holding: Its sandbox.
        ended: Set when it is to end.
    """

    def __init__(self, options: KernelOptions, connection: Connection, channels: Channels) -> None:
        self._options = options
        self._channels = channels
        self._messages = Messages(connection, channels)
        self.holding = Holding(options)
        self.ended = trio.Event()
        self._count = 0
        self._history = History()
        self._waiting: trio.CancelScope | None = None
        self._queue: deque[tuple[Request, bool]] = deque()
        self._answers: dict[str, Answer] = {
            "kernel_info_request": self._tell_about_itself,
            "execute_request": self._execute,
            "complete_request": self._complete,
            "inspect_request": self._inspect,
            "is_complete_request": self._tell_whether_whole,
            "history_request": self._tell_history,
            "comm_info_request": self._tell_comms,
            "comm_open": self._refuse_comm,
            "interrupt_request": self._interrupt,
            "shutdown_request": self._shut_down,
        }

    # --- what goes on ----------------------------------------------------------------------

    async def beat(self) -> None:
        """Says that it lives."""
        while True:
            await self._channels.heartbeat.send(await self._channels.heartbeat.receive())

    async def welcome(self) -> None:
        """Tells each front end when it has begun to hear what is published."""
        while True:
            await self._messages.welcome(await self._channels.publication.subscription())

    async def obey(self, signals: AsyncIterator[int]) -> None:
        """Takes SIGINT as an interrupt, the others as the end."""
        async for number in signals:
            if number != signal.SIGINT:
                break
            self.interrupt()
        self.ended.set()

    async def follow_parent(self) -> None:
        """Ends with the process that has started it, if that says which it is."""
        parent = os.getppid()
        if os.environ.get(_PARENT_VARIABLE) != str(parent):
            return
        with contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(parent)
            try:
                if os.getppid() == parent:
                    await trio.lowlevel.wait_readable(pidfd)
            finally:
                os.close(pidfd)
        self.ended.set()

    async def answer_control(self) -> None:
        """Answers what cannot wait for a cell's end, and nothing else."""
        channel = self._channels.control
        while True:
            request = self._messages.read(channel, await channel.receive())
            if request is not None and request.kind in _CONTROL:
                await self._answer(request)

    async def answer_shell(self) -> None:
        """Answers everything else, one after another."""
        while True:
            if not self._queue:
                self._enqueue(self._channels.shell, await self._channels.shell.receive())
                continue
            request, aborted = self._queue.popleft()
            await self._answer(request, aborted=aborted)

    def _enqueue(self, channel: Channel, frames: list[bytes], *, abort: bool = False) -> None:
        request = self._messages.read(channel, frames)
        if request is not None:
            self._queue.append((request, abort and request.kind == "execute_request"))

    def _abort_waiting_cells(self) -> None:
        waiting, self._queue = self._queue, deque()
        for request, _ in waiting:
            self._queue.append((request, request.kind == "execute_request"))
        while (frames := self._channels.shell.receive_nowait()) is not None:
            self._enqueue(self._channels.shell, frames, abort=True)

    async def _answer(self, request: Request, *, aborted: bool = False) -> None:
        await self._messages.publish("status", {"execution_state": "busy"}, request)
        answer = self._answers.get(request.kind)
        content: Content | None = None
        if aborted:
            content = {"status": "aborted", "execution_count": self._count}
        elif answer is not None:
            try:
                content = await answer(request)
            except (SandboxError, OSError) as error:
                content = failure_of_sandbox(error)
            except Exception as error:  # noqa: BLE001 - a message must not end the kernel
                _LOG.exception("%s failed", request.kind)
                content = failure_of_sandbox(error)
        if content is not None:
            try:
                await self._messages.reply(request, content)
            except (ValueError, TypeError, RecursionError) as error:  # it could not be written
                _LOG.exception("the answer to %s failed", request.kind)
                await self._messages.reply(request, failure_of_sandbox(error))
        await self._messages.publish("status", {"execution_state": "idle"}, request)
        if request.kind == "shutdown_request":
            self.ended.set()

    # --- cells -----------------------------------------------------------------------------

    async def _execute(self, request: Request) -> Content:
        code = request.text("code")
        silent = request.flag("silent", default=False)
        remembered = request.flag("store_history", default=True) and not silent
        begins_anew = not silent and self.holding.tell_of_loss()
        if begins_anew:
            self._begin_anew()
        if remembered:
            self._count += 1
            self._history.add(self._count, code)
        count = self._count
        if not silent:
            content = {"code": code, "execution_count": count}
            await self._messages.publish("execute_input", content, request)
        outputs = Outputs(self._messages, request, count)
        async with open_serving_nursery() as nursery:
            nursery.start_soon(outputs.run)
            if begins_anew:
                await outputs.say(_LOST_BETWEEN)
            failure = await self._run(request, outputs, silent=silent, history=remembered)
            await outputs.finish()
        if failure is not None:
            told = {name: failure[name] for name in ("ename", "evalue", "traceback")}
            await self._messages.publish("error", told, request)
            if request.flag("stop_on_error", default=True):
                self._abort_waiting_cells()
            return {"execution_count": count, "payload": [], "user_expressions": {}} | failure
        return {
            "execution_count": count,
            "payload": [],
            "user_expressions": await self._evaluate(request),
        }

    async def _run(
        self, request: Request, outputs: Outputs, *, silent: bool, history: bool
    ) -> Content | None:
        """Runs a cell; returns why it failed, if it did."""
        try:
            with trio.CancelScope() as self._waiting:
                context = await self.holding.context()
            if self._waiting.cancelled_caught:
                why = "The cell was interrupted before it began."
                return failure_of_sandbox(KeyboardInterrupt(why))
            self._waiting = None
            execution = await context.run(
                request.text("code"),
                deadline_s=self._options.cell_timeout_s,
                on_stdout=outputs.stdout,
                on_stderr=outputs.stderr,
                on_result=outputs.show,
                on_clear=outputs.clear,
                traceback="color",
                limit_bytes=0,  # it was sent already
                silent=silent,
                history=history,
            )
        except (SandboxError, OSError) as error:
            return failure_of_sandbox(error)
        except Exception as error:  # noqa: BLE001 - what it has shown could not be sent
            _LOG.exception("a cell failed")
            return failure_of_sandbox(error)
        finally:
            self._waiting = None
        if not execution.state_survived:
            self.holding.loss_is_told()
            self._begin_anew()
        return failure_of_execution(execution, self._options.cell_timeout_s)

    def _begin_anew(self) -> None:
        self._count = 0
        self._history.clear()

    async def _evaluate(self, request: Request) -> Content:
        expressions = request.content.get("user_expressions")
        if not expressions or not isinstance(expressions, dict):
            return {}
        if self._options.language != "python":
            reason = failure_of_sandbox(NotImplementedError("user_expressions need Python"))
            return dict.fromkeys(expressions, reason)
        try:
            return await introspection.evaluate(await self.holding.context(), expressions)
        except (SandboxError, OSError) as error:  # the cell itself has gone well
            return dict.fromkeys(expressions, failure_of_sandbox(error))

    def interrupt(self) -> None:
        """Ends the cell that runs, or the wait for the context."""
        if self._waiting is not None:
            self._waiting.cancel()
        else:
            self.holding.interrupt()

    # --- everything else that is asked -----------------------------------------------------

    async def _tell_about_itself(self, request: Request) -> Content:
        language = self._options.language
        version = python_version()
        if language != "python":
            if request.channel is self._channels.shell:
                await self.holding.settled.wait()
            version = self.holding.node_version
        ours = importlib.metadata.version("sandbox-runtime")
        name = LANGUAGES[language]
        return {
            "protocol_version": PROTOCOL,
            "implementation": "sandbox_runtime",
            "implementation_version": ours,
            "language_info": language_info(language, version),
            "banner": f"{name} {version} in a sandbox (sandbox-runtime {ours})",
            "help_links": [],
            "supported_features": [],
        }

    async def _complete(self, request: Request) -> Content:
        code, position = _cursor(request)
        if self._options.language != "python":
            return {
                "matches": [],
                "cursor_start": position,
                "cursor_end": position,
                "metadata": {},
            }
        return await introspection.complete(await self.holding.context(), code, position)

    async def _inspect(self, request: Request) -> Content:
        code, position = _cursor(request)
        if self._options.language != "python":
            return {"found": False, "data": {}, "metadata": {}}
        detail = min(1, max(0, request.number("detail_level", 0)))
        return await introspection.inspect(await self.holding.context(), code, position, detail)

    async def _tell_whether_whole(self, request: Request) -> Content:
        code = request.text("code")
        if is_whole(self._options.language, f"{code}\n"):
            return {"status": "complete"}
        return {"status": "incomplete", "indent": indentation_after(code)}

    async def _tell_history(self, request: Request) -> Content:
        return {"history": self._history.asked(request)}

    async def _tell_comms(self, _request: Request) -> Content:
        return {"comms": {}}

    async def _refuse_comm(self, request: Request) -> None:
        content = {"comm_id": request.text("comm_id"), "data": {}}
        await self._messages.publish("comm_close", content, request)

    async def _interrupt(self, _request: Request) -> Content:
        self.interrupt()
        return {}

    async def _shut_down(self, request: Request) -> Content:
        return {"restart": request.flag("restart", default=False)}


def _cursor(request: Request) -> tuple[str, int]:
    """The code and where the cursor is in it."""
    code = request.text("code")
    return code, min(len(code), max(0, request.number("cursor_pos", len(code))))
