"""The background processes of a sandbox, by their ids, from their start until they are forgotten.

A process that has ended is forgotten when there are 1000 newer ones, after an hour, when its room
on disk is needed for the logs of others, or at once if that was asked for. That is looked at
whenever somebody starts or asks, so no timer runs for it. What it wrote is gone with that, but for
its last 64 KiB, which whoever holds the `Process` can still read.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import trio

from sandbox_runtime.arguments import check_kind, check_owner
from sandbox_runtime.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError
from sandbox_runtime.logs import Log
from sandbox_runtime.processes import Process, check_signal
from sandbox_runtime.programs import check_env, check_id, make_id
from sandbox_runtime.sessions import Session
from sandbox_runtime.settings import (
    FINISHED_PROCESS_S,
    FINISHED_PROCESSES,
    KILL_GRACE_S,
    LOG_LIMIT_BYTES,
    LOGS_LIMIT_BYTES,
    WORKSPACE,
)
from sandbox_runtime.spill import BLOCK_BYTES, Spill

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sandbox_runtime.budget import Budget
    from sandbox_runtime.keeper import Keeper
    from sandbox_runtime.output_stream import OutputHandler


class Processes:
    """The background processes of one sandbox, `Sandbox.processes`."""

    def __init__(
        self, keeper: Keeper, nursery: trio.Nursery, log_space: Budget | None = None
    ) -> None:
        self._keeper = keeper
        self._nursery = nursery
        self._spill = Spill(LOGS_LIMIT_BYTES, log_space)
        self._by_id: dict[str, Process] = {}
        self._starting: set[str] = set()

    async def start(
        self,
        command: str | bytes | Sequence[str | bytes],
        *,
        process_id: str | None = None,
        session: Session | None = None,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        deadline_s: float | None = None,
        auto_cleanup: bool = False,
        on_stdout: OutputHandler | None = None,
        on_stderr: OutputHandler | None = None,
        limit_bytes: int = LOG_LIMIT_BYTES,
    ) -> Process:
        """Starts a program in the background, in a jail of its own.

        Args:
            command: A program with arguments, or text for a shell of its own.
            process_id: Its id; one is made if none is given.
            session: Where it starts: in the present directory of that session, with the variables
                the session was created with. It is listed as that session's.
            cwd: Where it runs, absolute or relative to where it would run otherwise.
            env: Variables besides these.
            stdin: What it reads; nothing by default.
            deadline_s: Seconds until it is ended with all it started; None is never.
            auto_cleanup: Forget it as soon as it has ended.
            on_stdout: Called, and awaited if it returns an awaitable, with each piece as it comes.
                While it has not returned, nothing more is read, and the program waits.
            on_stderr: Likewise.
            limit_bytes: How much of its output its log keeps, both streams together: the newest.

        Raises:
            InvalidArgumentError: An argument cannot mean anything.
            AlreadyExistsError: There is a process with that id.
            NotStartedError: It cannot be started; there is no such process then.
        """
        self._forget()
        chosen = make_id("proc") if process_id is None else check_id("process_id", process_id)
        if chosen in self._by_id or chosen in self._starting:
            raise AlreadyExistsError("process", chosen)
        if not isinstance(limit_bytes, int) or limit_bytes < 0:
            raise InvalidArgumentError("limit_bytes", "must be a number of bytes, 0 or more")
        start_cwd, is_real = WORKSPACE, True
        if session is not None:
            check_kind("session", session, Session, "a Session, as `create_session` gives one")
            check_owner("session", session.keeper, self._keeper)
            seen = session.seen_cwd()
            start_cwd, is_real = seen or session.cwd(), seen is not None
            env = {**session.env, **check_env(env)}
        self._make_room()
        self._starting.add(chosen)
        try:
            process = await Process.open(
                self._keeper,
                command,
                cwd=cwd,
                env=env,
                stdin=stdin,
                on_stdout=on_stdout,
                on_stderr=on_stderr,
                deadline_s=deadline_s,
                log=Log(self._spill, limit_bytes),
                process_id=chosen,
                session_id=None if session is None else session.id,
                start_cwd=start_cwd,
                start_cwd_is_real=is_real,
            )
        finally:
            self._starting.discard(chosen)
        self._by_id[chosen] = process
        self._nursery.start_soon(self._own, process, auto_cleanup)
        return process

    async def _own(self, process: Process, auto_cleanup: bool) -> None:  # noqa: FBT001
        await process.run()
        if auto_cleanup:
            self._by_id.pop(process.id, None)

    def _forget(self) -> None:
        """What has ended too long ago, or too many others ago."""
        ended = self._ended()
        oldest = datetime.now(UTC) - timedelta(seconds=FINISHED_PROCESS_S)
        for number, process in enumerate(ended):
            assert process.ended_at is not None
            if len(ended) - number > FINISHED_PROCESSES or process.ended_at < oldest:
                del self._by_id[process.id]
                process.logs.discard()

    def _make_room(self) -> None:
        """On the disk, for a first piece of another log; logs make way that nobody writes to."""
        for process in self._ended():
            if not self._spill.is_full:
                return
            if process.logs.position > BLOCK_BYTES:
                del self._by_id[process.id]
                process.logs.discard()

    def _ended(self) -> list[Process]:
        """What has ended, in that order."""
        ended = [process for process in self._by_id.values() if process.ended_at is not None]
        return sorted(ended, key=lambda process: process.ended_at or process.started_at)

    @property
    def running(self) -> int:
        """How many have not ended."""
        return sum(process.ended_at is None for process in self._by_id.values())

    def get(self, process_id: str) -> Process:
        """The process with that id.

        Raises:
            NotFoundError: There is none, or it was forgotten.
        """
        self._forget()
        try:
            return self._by_id[process_id]
        except (KeyError, TypeError):
            raise NotFoundError("process", str(process_id)) from None

    def list(self, session: Session | str | None = None) -> list[Process]:
        """All processes in the order of their starts, or those of one session (or its id)."""
        self._forget()
        if session is not None:
            check_kind("session", session, Session | str, "a Session, or the id of one")
        if isinstance(session, Session):
            check_owner("session", session.keeper, self._keeper)
        wanted = session if isinstance(session, str) or session is None else session.id
        return [
            process
            for process in self._by_id.values()
            if wanted is None or process.session_id == wanted
        ]

    async def kill_all(
        self,
        session: Session | str | None = None,
        *,
        signal: int = 9,
        grace_s: float = KILL_GRACE_S,
    ) -> int:
        """Ends all processes, or those of one session, at once; see `Process.kill`.

        Returns:
            How many were alive. None of them is any more.
        """
        check_signal(signal)
        alive = [process for process in self.list(session) if process.ended_at is None]
        async with trio.open_nursery() as nursery:
            for process in alive:
                nursery.start_soon(process.end, "killed", signal, grace_s)
        return len(alive)
