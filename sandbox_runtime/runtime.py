"""Runtimes: one supervisor and its zygotes, which any number of sandboxes share."""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager
from functools import cached_property
from typing import TYPE_CHECKING

import trio

from sandbox_runtime.alarms import Alarms
from sandbox_runtime.arguments import check_count, check_kind
from sandbox_runtime.blocks import block
from sandbox_runtime.fresh import ReadySandboxes, make_sandbox
from sandbox_runtime.interpreters.preloads import PRELOADS, USUAL_PRELOAD, check_preloads
from sandbox_runtime.launching import Launch, launch
from sandbox_runtime.networks import check_network
from sandbox_runtime.nursery import open_serving_nursery
from sandbox_runtime.settings import HOST_NAME, MOST_READY_SANDBOXES, Limits
from sandbox_runtime.shown import check_read_only
from sandbox_runtime.standby import Work

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from sandbox_runtime.choices import Network
    from sandbox_runtime.fresh import Blueprint, FreshSandbox
    from sandbox_runtime.interpreters.languages import Language
    from sandbox_runtime.interpreters.preloads import Preload
    from sandbox_runtime.interpreters.zygote import Zygote
    from sandbox_runtime.supervisor import Supervisor

_USUAL_MODULES = PRELOADS[USUAL_PRELOAD].modules


class Runtime:
    """What sandboxes share. `open_runtime` makes it.

    Attributes:
        work: The commands of sessions, programs in the foreground and cells that run at present, in
            all sandboxes together.
        alarms: The deadlines of those.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        nursery: trio.Nursery,
        python: str,
        preloads: Mapping[str, Preload],
        nodes: Sequence[str],
    ) -> None:
        self._supervisor = supervisor
        self._nursery = nursery
        self._ready: ReadySandboxes | None = None
        self._python = python
        self._zygotes: dict[tuple[tuple[str, ...], bool], Zygote] = {}
        self._starting = trio.Lock()
        self.work = Work()
        self.alarms = Alarms()
        self._preloads = preloads
        self._nodes = nodes

    @cached_property
    def languages(self) -> dict[str, Language]:
        """Who makes interpreters, by the language's one name; loaded for the first of them."""
        from sandbox_runtime.interpreters.node import NODE_LANGUAGES, Node, NodeFinder
        from sandbox_runtime.interpreters.python import Python

        node = Node(NodeFinder(self._nodes).find)
        return {
            "python": Python(self.python_zygote, self._preloads),
            **dict.fromkeys(NODE_LANGUAGES, node),
        }

    @property
    def supervisor(self) -> Supervisor:
        """The native process below."""
        return self._supervisor

    @property
    def lost(self) -> bool:
        """Whether it has died with all its sandboxes; a new one is needed then."""
        return self._supervisor.gone

    async def wait_lost(self) -> None:
        """Waits until it has died."""
        await self._supervisor.wait_gone()

    @property
    def ready_sandboxes(self) -> int:
        """How many sandboxes wait to be opened."""
        return 0 if self._ready is None else self._ready.ready

    def keep_ready(
        self, count: int, *, limits: Limits | None = None, network: Network = "loopback"
    ) -> None:
        """Keeps sandboxes ready from now on, each with a shell; the first call decides.

        One is taken by `open_sandbox` if it is what was asked for, and another is made in its
        place when nobody waits for a command, a program or a cell. Each takes the memory of a
        sandbox with an idle session.

        Args:
            count: How many; 0 is none, and leaves it to a later call.
            limits: What they may use.
            network: What they may reach.
        """
        check_count("ready_sandboxes", count, 0, MOST_READY_SANDBOXES)
        if limits is not None:
            check_kind("limits", limits, Limits, "Limits")
            limits.check()
        check_network(network)
        if self.lost:
            return
        if count and self._ready is None:
            self._ready = ReadySandboxes(
                self._supervisor,
                count=count,
                host_name=HOST_NAME,
                limits=limits or Limits(),
                network=network,
                nursery=self._nursery,
                work=self.work,
            )
        if self._ready is not None:
            self._ready.refill()

    async def wait_ready(self) -> None:
        """Waits until all sandboxes are there that are to be kept ready, or one cannot be made."""
        if self._ready is not None:
            await self._ready.wait_full()

    async def take_sandbox(self, blueprint: Blueprint, *, shell: bool) -> FreshSandbox:
        """One that is ready, if it is what is wanted, and else one that is made now.

        Args:
            blueprint: What is wanted.
            shell: Whether to start a shell along with it.

        Raises:
            IsolationError: It cannot be made.
            SandboxLostError: The runtime has died.
        """
        fresh = None if self._ready is None else await self._ready.take(blueprint)
        if fresh is None:
            with self.work:
                fresh = await make_sandbox(self._supervisor, blueprint, shell=shell)
        if self._ready is not None:
            self._ready.refill()
        return fresh

    async def aclose(self) -> None:
        """Lets go of the sandboxes that nobody has opened, once the supervisor has ended."""
        if self._ready is not None:
            await self._ready.aclose()

    async def python_zygote(
        self,
        modules: tuple[str, ...] = _USUAL_MODULES,
        host_network: bool = False,  # noqa: FBT001, FBT002
    ) -> Zygote:
        """The warmed Python that contexts are forked from; the first call starts it (about 1 s).

        Args:
            modules: What it has imported.
            host_network: Whether its contexts are to keep the network of this process.

        Raises:
            InterpreterUnavailableError: It cannot start; the message says what is missing.
        """
        from sandbox_runtime.interpreters.zygote import Zygote

        async with self._starting:
            zygote = self._zygotes.get((modules, host_network))
            if zygote is None or zygote.lost:
                zygote = await Zygote.open(
                    self._supervisor, self._python, modules, host_network=host_network
                )
                self._zygotes[modules, host_network] = zygote
                self._nursery.start_soon(zygote.run)
            return zygote


@block
@asynccontextmanager
async def open_runtime(
    *,
    read_only: Sequence[str] = (),
    python: str = sys.executable,
    preloads: Mapping[str, Preload] | None = None,
    node: str | None = None,
    launched: Launch | None = None,
    ready_sandboxes: int = 0,
) -> AsyncIterator[Runtime]:
    """Starts what sandboxes share, and ends it and all of them with the block.

    Args:
        read_only: Directories of the host that every sandbox shows at the same path, read-only,
            beside `/usr` and the interpreter's own. A path through symlinks is there under its
            name too.
        python: The interpreter of Python contexts.
        preloads: Further sets of modules to import ahead, by name (`preloads.PRELOADS`).
        node: The Node of JavaScript and TypeScript contexts; by default the one on `PATH`, or that
            of the extra `javascript` if that one is too old.
        launched: What was launched for it already, with the first three of these arguments.
        ready_sandboxes: How many sandboxes of the usual kind to keep ready, each with a shell,
            see `Runtime.keep_ready`.

    Raises:
        InvalidArgumentError: A path of `read_only` is missing, or would hide what is a sandbox's
            own.
        IsolationError: No sandbox can be made here; it says why and what to do.
    """
    sets = check_preloads({} if preloads is None else preloads)
    check_count("ready_sandboxes", ready_sandboxes, 0, MOST_READY_SANDBOXES)
    if launched is not None:
        check_kind("launched", launched, Launch, "a Launch, as `launching.launch` gives one")
    launched = launched or launch(check_read_only(read_only), python, node)
    supervisor = launched.take()
    runtime: Runtime | None = None
    try:
        await supervisor.start()
        async with open_serving_nursery() as nursery:
            nursery.start_soon(supervisor.run)
            runtime = Runtime(supervisor, nursery, launched.python, sets, launched.nodes)
            nursery.start_soon(runtime.alarms.run)
            runtime.keep_ready(ready_sandboxes)
            yield runtime
    finally:
        with trio.CancelScope(shield=True):
            await supervisor.aclose()
            if runtime is not None:
                await runtime.aclose()
