"""What clients asked of the sessions of a sandbox; which there are, the sandbox knows."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import trio

from sandbox_runtime.core import quote_word
from sandbox_runtime.errors import InvalidArgumentError
from sandbox_runtime.programs import check_env, check_id
from sandbox_runtime.server.faults import (
    CommandTimeoutError,
    SessionNotFoundError,
    TooManyError,
)
from sandbox_runtime.server.room import check_descriptors
from sandbox_runtime.settings import WORKSPACE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox_runtime.sandbox import Sandbox
    from sandbox_runtime.sessions import Session

DEFAULT_SESSION = "default"
"""The session of requests that name none."""

_REUSE_S = 30.0


class SessionRecord:
    """A session and what it was asked to be.

    Attributes:
        id: As the client gave it.
        session: The shell.
        name: For people.
        cwd: Where it started.
        env: Its own variables.
        isolation: Whether it was asked to be apart from the others.
        timeout_s: The time limit of its commands that state none, if it has one of its own.
        created_s: When it was made, in seconds since 1970.
        used_s: When a command was last sent to it.
    """

    def __init__(
        self,
        session_id: str,
        session: Session,
        *,
        name: str | None,
        cwd: str,
        env: Mapping[str, str],
        isolation: bool,
        timeout_s: float | None,
    ) -> None:
        self.id = session_id
        self.session = session
        self.name = name
        self.cwd = cwd
        self.env = dict(env)
        self.isolation = isolation
        self.timeout_s = timeout_s
        self.created_s = self.used_s = time.time()


class SessionTable:
    """Finds, makes and ends sessions; two requests for one id make one session."""

    def __init__(self, sandbox: Sandbox, *, most: int) -> None:
        self._sandbox = sandbox
        self._most = most
        self._records: dict[str, SessionRecord] = {}
        self._turns: dict[str, trio.Lock] = {}

    @property
    def records(self) -> list[SessionRecord]:
        """All of them, in the order they were made."""
        found = map(self._find, self._sandbox.sessions)
        return [record for record in found if record is not None]

    @property
    def ids(self) -> list[str]:
        """Their ids."""
        return [record.id for record in self.records]

    def _find(self, session_id: str) -> SessionRecord | None:
        record = self._records.get(session_id)
        if record is None or record.session is not self._sandbox.find_session(session_id):
            return None
        return record

    def get(self, session_id: str) -> SessionRecord:
        """The session with that id.

        Raises:
            SessionNotFoundError: There is none.
        """
        record = self._find(session_id)
        if record is None:
            raise SessionNotFoundError(session_id, self.ids)
        record.used_s = time.time()
        return record

    async def get_or_make(self, session_id: str) -> SessionRecord:
        """The session with that id; made with nothing special if it is not there."""
        record = self._find(session_id)
        if record is None:
            record, _ = await self.create(session_id)
        record.used_s = time.time()
        return record

    async def create(
        self,
        session_id: str,
        *,
        name: str | None = None,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        isolation: bool = True,
        timeout_s: float | None = None,
    ) -> tuple[SessionRecord, bool]:
        """Makes a session, or takes the one that has the id.

        One that is there keeps its state, and takes over the directory and the variables in which
        this request differs from the last.

        Returns:
            The session, and whether it was there.

        Raises:
            InvalidArgumentError: The directory is not absolute.
            NotStartedError: There is no such directory.
            TooManyError: There are as many as there may be.
        """
        if cwd is not None and not cwd.startswith("/"):
            raise InvalidArgumentError(
                "cwd", f"must be an absolute path starting with '/', got: {cwd}"
            )
        check_id("session_id", session_id)
        turn = self._turns.setdefault(session_id, trio.Lock())
        try:
            async with turn:
                return await self._create_in_turn(
                    session_id,
                    cwd=cwd,
                    env=env,
                    name=name,
                    isolation=isolation,
                    timeout_s=timeout_s,
                )
        finally:
            self._end_turn(session_id, turn)

    def _end_turn(self, session_id: str, turn: trio.Lock) -> None:
        """Forgets a turn that nobody waits for."""
        if not turn.locked():
            self._turns.pop(session_id, None)

    async def _create_in_turn(
        self,
        session_id: str,
        *,
        cwd: str | None,
        env: Mapping[str, str] | None,
        name: str | None,
        isolation: bool,
        timeout_s: float | None,
    ) -> tuple[SessionRecord, bool]:
        if (record := self._find(session_id)) is not None:
            await self._take_over(record, cwd, env or {})
            record.timeout_s = timeout_s or record.timeout_s
            return record, True
        if len(self._sandbox.sessions) >= self._most:  # with those that are being made
            raise TooManyError(
                f"The sandbox has {self._most} sessions already",
                remedy="Delete one",
                most=self._most,
            )
        check_descriptors()
        session = await self._sandbox.create_session(session_id=session_id, cwd=cwd, env=env)
        record = self._records[session_id] = SessionRecord(
            session_id,
            session,
            name=name,
            cwd=cwd or WORKSPACE,
            env=env or {},
            isolation=isolation,
            timeout_s=timeout_s,
        )
        return record, False

    @staticmethod
    async def _take_over(record: SessionRecord, cwd: str | None, env: Mapping[str, str]) -> None:
        changed = {name: value for name, value in env.items() if record.env.get(name) != value}
        words: list[bytes] = []
        if cwd is not None and cwd != record.cwd:
            words.append(b"cd -- " + quote_word(os.fsencode(cwd)))
        for name, value in check_env(changed).items():
            if not name.isidentifier() or not name.isascii():
                raise InvalidArgumentError("env", f"{name!r} is no name that a shell can hold")
            words.append(b"export " + name.encode() + b"=" + quote_word(os.fsencode(value)))
        if not words:
            return
        result = None
        with trio.move_on_after(_REUSE_S):
            result = await record.session.exec(b" && ".join(words))
        if result is None:
            raise CommandTimeoutError(f"Session '{record.id}' is busy; it was left as it is")
        if not result.ok:
            detail = result.stderr.decode(errors="replace").strip()
            raise InvalidArgumentError("cwd", f"cannot be taken over: {detail}")
        record.cwd = cwd or record.cwd
        record.env |= changed

    async def delete(self, session_id: str) -> None:
        """Ends a session; returns when everything in it is gone.

        Raises:
            SessionNotFoundError: There is none with that id.
        """
        turn = self._turns.setdefault(session_id, trio.Lock())
        try:
            async with turn:
                record = self._find(session_id)
                if record is not None:
                    await record.session.aclose()
                    del self._records[session_id]
        finally:
            self._end_turn(session_id, turn)
        if record is None:
            raise SessionNotFoundError(session_id, self.ids)
