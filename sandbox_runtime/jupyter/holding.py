"""The sandbox of a kernel, with its one context."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import trio

from sandbox_runtime.errors import SandboxError, SandboxLostError
from sandbox_runtime.jupyter.languages import node_version
from sandbox_runtime.sandbox import open_sandbox
from sandbox_runtime.settings import Limits

if TYPE_CHECKING:
    from sandbox_runtime.interpreters.contexts import Context
    from sandbox_runtime.jupyter.options import KernelOptions


class Holding:
    """Opens the sandbox when the kernel starts, and closes it with the kernel.

    Where there can be none, or where it is lost later, the kernel goes on: each cell is answered
    with the reason, which a front end shows, as it does not show why a kernel has ended.

    Attributes:
        settled: Set when the context is there, or cannot be.
        node_version: What Node calls itself, once that is settled; empty where there is none.
    """

    def __init__(self, options: KernelOptions) -> None:
        self._options = options
        self._context: Context | None = None
        self._failure: SandboxError | OSError | None = None
        self._loss_is_told = self._has_lost_unsaid = False
        self.settled = trio.Event()
        self.node_version = ""

    async def hold(self) -> None:
        """Lives as long as the kernel; it is cancelled to end it."""
        try:
            await self._hold()
        except (SandboxError, OSError) as error:
            self._context, self._failure = None, error
            self.settled.set()

    async def _hold(self) -> None:
        options = self._options
        directory = os.getcwd() if options.notebook_directory else None  # noqa: PTH109
        shown = list(options.read_only)
        if directory is not None:
            shown.append(directory)
        limits = Limits()
        if options.memory_bytes is not None:
            limits = Limits(memory_bytes=options.memory_bytes)
        async with open_sandbox(
            limits=limits,
            require=options.require,
            read_only=shown,
            network=options.network,
            python_pool=0,
            node_pool=0,
        ) as sandbox:
            context = await sandbox.contexts.create(
                options.language,
                cwd=directory,
                env=options.env,
                preload=options.preload,
                network="sandbox" if options.network == "host" else "loopback",
            )
            if options.language != "python":
                self.node_version = await node_version(context)
            self._context = context
            self.settled.set()
            await sandbox.wait_lost()
            raise SandboxLostError("the sandbox has died; restart the kernel")

    async def context(self) -> Context:
        """The context, once it is there; a fresh one in its place if it was lost.

        Raises:
            SandboxError: There is none, and why.
            OSError: Likewise.
        """
        await self.settled.wait()
        if self._failure is not None:
            raise self._failure
        assert self._context is not None
        if self._context.lost:
            await self._context.restart()
            self._has_lost_unsaid |= not self._loss_is_told
            self._loss_is_told = False
        return self._context

    def loss_is_told(self) -> None:
        """Notes that a cell's error tells that the state is lost."""
        self._loss_is_told = True

    def tell_of_loss(self) -> bool:
        """Whether the state was lost since the last cell and nobody was told, who now will be."""
        is_lost = self._context is not None and self._context.lost
        unsaid = self._has_lost_unsaid or (is_lost and not self._loss_is_told)
        self._has_lost_unsaid = False
        self._loss_is_told = is_lost
        return unsaid

    def interrupt(self) -> bool:
        """Interrupts the run of this moment; False if nothing runs."""
        with contextlib.suppress(SandboxError):
            return self._context is not None and self._context.interrupt()
        return False
