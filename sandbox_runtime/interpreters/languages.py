"""Languages: what an interpreter is asked to be, and who makes one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

from sandbox_runtime.errors import InvalidArgumentError
from sandbox_runtime.settings import ContextNetwork, Limits

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sandbox_runtime.interpreters.interpreter import Interpreter
    from sandbox_runtime.keeper import Keeper

_ALIASES = {"python3": "python", "js": "javascript", "node": "javascript", "ts": "typescript"}


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a context is to be; a restart makes it again.

    Attributes:
        language: One that is known.
        cwd: Where it starts, an absolute directory; None is `/workspace`.
        env: Variables besides the usual ones.
        limits: What each of its processes may use, if less than the sandbox.
        preload: The name of a preload set; None is the language's usual one.
        network: What it may reach.
    """

    language: str
    cwd: str | None = None
    env: dict[str, str] = {}
    limits: Limits | None = None
    preload: str | None = None
    network: ContextNetwork = "loopback"

    @property
    def is_usual(self) -> bool:
        """Whether any interpreter of the pool will do."""
        return self == Wanted(language=self.language)


class Language(Protocol):
    """Makes interpreters of one language.

    Attributes:
        can_branch: Whether its interpreters can be copied with their state.
    """

    @property
    def can_branch(self) -> bool: ...

    def check(self, wanted: Wanted) -> None:
        """Refuses what no interpreter of this language can be.

        Raises:
            InvalidArgumentError: It names the field.
        """

    def serves(self, wanted: Wanted) -> bool:
        """Whether an interpreter that waits in a pool can become this."""

    async def adopt(self, interpreter: Interpreter, wanted: Wanted) -> None:
        """Makes an interpreter that waited in a pool what is wanted.

        Raises:
            NotStartedError: There is no such directory.
            InterpreterUnavailableError: It has died.
        """

    async def open(self, keeper: Keeper, wanted: Wanted, *, prime: bool) -> Interpreter:
        """Makes one in a jail of its own; returns when it is ready for its first run.

        Args:
            keeper: Of the sandbox in which it shall be.
            wanted: What it shall be.
            prime: Whether it has time to warm up further, because it waits in a pool.

        Raises:
            InterpreterUnavailableError: It did not come up.
        """


def known_language(name: str, known: Iterable[str]) -> str:
    """The one name of a language.

    Raises:
        InvalidArgumentError: It is not known; the message lists those that are.
    """
    names = sorted(known)
    if not isinstance(name, str):
        raise InvalidArgumentError("language", f"must be text, not {type(name).__name__}")
    lower = name.lower()
    found = _ALIASES.get(lower, lower)
    if found not in names:
        raise InvalidArgumentError("language", f"{name!r} is not known; known: {', '.join(names)}")
    return found
