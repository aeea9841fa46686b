"""The contexts of one sandbox, by id."""

from __future__ import annotations

import math
import uuid
from contextlib import nullcontext
from typing import TYPE_CHECKING

import msgspec

from sandbox_runtime.arguments import check_count, check_kind
from sandbox_runtime.choices import MOST_BRANCHES
from sandbox_runtime.errors import (
    ContextNotFoundError,
    InvalidArgumentError,
    PoolFullError,
    SandboxClosedError,
)
from sandbox_runtime.interpreters.contexts import Context
from sandbox_runtime.interpreters.languages import Wanted, known_language
from sandbox_runtime.interpreters.pool import Pool
from sandbox_runtime.interpreters.pool_sizes import PoolSize
from sandbox_runtime.interpreters.ready_branches import ReadyBranches
from sandbox_runtime.networks import check_context_network
from sandbox_runtime.programs import check_cwd, check_env
from sandbox_runtime.settings import WORKSPACE, ContextNetwork, Limits

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    import trio

    from sandbox_runtime.alarms import Alarms
    from sandbox_runtime.interpreters.interpreter import Interpreter
    from sandbox_runtime.interpreters.languages import Language
    from sandbox_runtime.keeper import Keeper

    Opener = Callable[[bool], Awaitable[Interpreter]]
    Branches = list[Context]

_LIMITS_OF_A_PROCESS = ("memory_bytes", "processes", "open_files", "file_size_bytes")


class Contexts:
    """The contexts of one sandbox. `Sandbox.contexts` is one.

    Args:
        keeper: Of the sandbox.
        languages: Who makes interpreters, by the language's one name.
        pool_sizes: How many of a language to keep ready; none of those that are not named.
        nursery: Fills the pools, and makes branches ahead.
        alarms: What keeps the deadlines of short runs.
        closed: Whether the sandbox has ended, so that none can be made any more.
        work: Entered for each run of a context.
    """

    def __init__(
        self,
        keeper: Keeper,
        languages: Mapping[str, Language],
        pool_sizes: Mapping[str, PoolSize],
        nursery: trio.Nursery,
        alarms: Alarms,
        *,
        closed: bool = False,
        work: AbstractContextManager[object] | None = None,
    ) -> None:
        self._alarms = alarms
        self._nursery = nursery
        self._work = work or nullcontext()
        self._keeper = keeper
        self._languages = languages
        self._contexts: dict[str, Context] = {}
        self._closed = closed
        self._asked_for = {language for language, size in pool_sizes.items() if size.min}
        self._pools: dict[str, Pool] = {}
        for maker in set(languages.values()):
            spoken = [language for language in languages if languages[language] is maker]
            sizes = {language: pool_sizes.get(language, PoolSize(min=0)) for language in spoken}
            opener = self._opener(spoken)
            pool = Pool(opener, sizes, nursery, self._wait_quiet, self._rested_s)
            self._pools |= dict.fromkeys(spoken, pool)

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages that contexts speak here."""
        return tuple(self._languages)

    @property
    def branches_ahead(self) -> int:
        """How many branches its contexts are to keep ready, whether they are there or not."""
        ahead = (context.ahead for context in self._contexts.values())
        return sum(branches.count for branches in ahead if branches is not None)

    async def create(
        self,
        language: str = "python",
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        limits: Limits | None = None,
        preload: str | None = None,
        name: str | None = None,
        network: ContextNetwork = "loopback",
        ready_branches: int = 0,
    ) -> Context:
        """A fresh interpreter in a jail of its own.

        Args:
            language: One of `languages`, or a usual other name of it (`js`, `python3`).
            cwd: Where it starts; `/workspace` by default.
            env: Variables besides the usual ones.
            limits: What each of its processes may use, if less than the sandbox.
            preload: The name of a preload set; the language's usual one by default.
            name: What people call it; need not be unique.
            network: What it may reach: a loopback device only, whatever the sandbox's sessions
                may, or the same as they. Only Python contexts of a sandbox with the host's
                network take longer for it: they are forked from an interpreter of their own.
            ready_branches: How many branches to make ahead, 0 to 64, whenever a run has ended; each
                takes a place, as a context does.

        Raises:
            InvalidArgumentError: An argument cannot mean anything; an unknown language names the
                known ones.
            InterpreterUnavailableError: The interpreter cannot start.
            NotStartedError: There is no such directory.
            PoolFullError: There are as many as there may be, and none was deleted in time.
        """
        if self._closed:
            raise SandboxClosedError("the sandbox is closed")
        directory = check_cwd(cwd, WORKSPACE)
        if name is not None and not (isinstance(name, str) and 0 < len(name) <= 256):
            raise InvalidArgumentError("name", "must be a text of 1 to 256 characters")
        if limits is not None:
            check_kind("limits", limits, Limits, "Limits, e.g. Limits(processes=64)")
            limits.check(shells=False)
        wanted = Wanted(
            language=known_language(language, self._languages),
            cwd=None if directory == WORKSPACE else directory,
            env=check_env(env),
            limits=limits,
            preload=preload,
            network=check_context_network(network),
        )
        self._languages[wanted.language].check(wanted)
        self._check_ready_branches(ready_branches, wanted.language)
        context_id = str(uuid.uuid4())
        pool = self._pools[wanted.language]
        self._asked_for.add(wanted.language)
        claims = self._is_served(wanted)
        places = [context_id, *_places_ahead(context_id, ready_branches)]
        await pool.take_places(places, wanted.language, claims=claims)
        try:
            interpreter = await self._open(wanted)
        except BaseException:
            self._leave_places(context_id, wanted.language, ready_branches)
            raise
        context = Context(context_id, wanted, interpreter, self._open, name=name)
        if ready_branches:
            context.ahead = ReadyBranches(
                ready_branches,
                context.copy_ahead,
                self._nursery,
                self._wait_quiet,
                self._rested_s,
            )
        return self._enter(context)

    def _check_ready_branches(self, count: int, language: str) -> None:
        field = "ready_branches"
        check_count(field, count, 0, MOST_BRANCHES)
        if count and not self._languages[language].can_branch:
            raise InvalidArgumentError(field, f"{language} contexts cannot be branched")
        most = self._pools[language].most(language)
        if most is not None and 1 + count > most:
            what = f"must be less than the pool's max, which is {most}: each takes a place as well"
            raise InvalidArgumentError(field, what)

    def _leave_places(self, context_id: str, language: str, ready_branches: int) -> None:
        for place in (context_id, *_places_ahead(context_id, ready_branches)):
            self._pools[language].leave(place, language)

    def _enter(self, context: Context) -> Context:
        self._contexts[context.id] = context
        context.on_closing, context.on_closed = self._let_next_come, self._forget
        context.work, context.alarms = self._work, self._alarms
        context.keeper = self._keeper
        context.on_fork = self._fork
        return context

    async def _fork(self, parent: Context, count: int) -> Branches:
        pool = self._pools[parent.language]
        ids = [str(uuid.uuid4()) for _ in range(count)]
        try:
            await pool.take_places(ids, parent.language)
        except PoolFullError as full:
            ahead = self.branches_ahead
            raise PoolFullError(full.most, full.waited_s, asked=count, ahead=ahead) from None
        try:
            copies = await parent.copy(count)
        except BaseException:
            for context_id in ids:
                pool.leave(context_id, parent.language)
            raise
        return [
            self._enter(Context(context_id, parent.wanted, copy, self._open, name=parent.name))
            for context_id, copy in zip(ids, copies, strict=True)
        ]

    def _let_next_come(self, ending: Context) -> None:
        """Fills its pool beside its end, which no cell of its can be disturbed by."""
        others = [one for one in self._contexts.values() if one is not ending]
        if not self._closed and not any(one.is_used for one in others):
            self._pools[ending.language].hurry()

    def _forget(self, context: Context) -> None:
        self._contexts.pop(context.id, None)
        ready_branches = 0 if context.ahead is None else context.ahead.count
        self._leave_places(context.id, context.language, ready_branches)

    async def _open(self, wanted: Wanted) -> Interpreter:
        pool = self._pools[wanted.language]
        maker = self._languages[wanted.language]
        if self._is_served(wanted) and (ready := await pool.take()) is not None:
            try:
                await maker.adopt(ready, wanted)
            except BaseException:
                await ready.aclose()
                raise
            return ready

        async def open_one() -> Interpreter:
            return await maker.open(self._keeper, wanted, prime=False)

        return await pool.make(open_one, counts=wanted.is_usual)

    def _is_served(self, wanted: Wanted) -> bool:
        """Whether one of the pool's can become it."""
        maker = self._languages[wanted.language]
        return maker.serves(self._without_what_holds_anyway(wanted))

    def _without_what_holds_anyway(self, wanted: Wanted) -> Wanted:
        """The same without limits that are the sandbox's and a network that it has not."""
        limits, network = wanted.limits, wanted.network
        if limits is not None and not any(
            getattr(limits, name) < getattr(self._keeper.limits, name)
            for name in _LIMITS_OF_A_PROCESS
        ):
            limits = None
        if not self._keeper.has_host_network:
            network = "loopback"
        return msgspec.structs.replace(wanted, limits=limits, network=network)

    def _rested_s(self) -> float:
        """When code last ran in any of the contexts, on trio's clock."""
        return max((one.rested_s for one in self._contexts.values()), default=-math.inf)

    async def _wait_quiet(self) -> None:
        """Waits until no code runs in any of the contexts."""
        while busy := [context for context in self._contexts.values() if context.busy]:
            await busy[0].wait_idle()

    def _opener(self, spoken: Sequence[str]) -> Opener:
        """Makes what waits in a pool: prepared for the last of the languages that was asked for."""

        async def open_one(prime: bool) -> Interpreter:  # noqa: FBT001 - as the pool calls it
            asked = [language for language in spoken if language in self._asked_for]
            wanted = Wanted(language=asked[-1] if asked else spoken[0])
            return await self._languages[wanted.language].open(self._keeper, wanted, prime=prime)

        return open_one

    async def warm_up(self) -> None:
        """Fills the pools one after another, before anybody has asked."""
        for pool in dict.fromkeys(self._pools.values()):
            await pool.wait_full()

    def list(self) -> list[Context]:
        """All of them, in the order of their making."""
        return list(self._contexts.values())

    def get(self, context_id: str) -> Context:
        """The context with this id.

        Raises:
            ContextNotFoundError: There is none.
        """
        try:
            return self._contexts[context_id]
        except (KeyError, TypeError):
            raise ContextNotFoundError(str(context_id)) from None

    async def restart(self, context_id: str) -> Context:
        """Begins a context anew; see `Context.restart`.

        Raises:
            ContextNotFoundError: There is none with this id.
        """
        context = self.get(context_id)
        await context.restart()
        return context

    async def delete(self, context_id: str) -> None:
        """Ends a context; its processes and memory are gone when this returns.

        Raises:
            ContextNotFoundError: There is none with this id.
        """
        context = self.get(context_id)
        await context.aclose()

    def pool(self, language: str) -> Pool:
        """The pool of a language."""
        return self._pools[known_language(language, self._pools)]

    async def aclose(self) -> None:
        """Ends all of them, and what waits in the pools."""
        self._closed = True
        for pool in set(self._pools.values()):
            await pool.aclose()
        for context in self.list():
            await context.aclose()


def _places_ahead(context_id: str, ready_branches: int) -> list[str]:
    """Who takes the places of the branches that a context has made ahead."""
    return [f"{context_id} {number}" for number in range(ready_branches)]
