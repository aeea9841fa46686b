"""The branches of a dialogue, and the lines by which its user makes them and goes between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandbox_runtime.cli.failures import say
from sandbox_runtime.errors import SandboxError

if TYPE_CHECKING:
    from sandbox_runtime.interpreters.contexts import Context

FIRST = "main"
_HELP = (
    ":branch [NAME] goes on in a copy of this state; :go NAME goes to another; "
    ":drop [NAME] ends one; :branches lists them"
)


class Branches:
    """The contexts of a dialogue by their names. A line with a colon in front is for them.

    Nothing that a cell can be begins with a colon, in none of the languages.

    Attributes:
        current: The name of the one that cells run in.
    """

    def __init__(self, first: Context) -> None:
        self._contexts = {FIRST: first}
        self.current = FIRST

    @property
    def context(self) -> Context:
        """The one that cells run in."""
        return self._contexts[self.current]

    @property
    def prefix(self) -> bytes:
        """What the prompt begins with."""
        return b"" if self.current == FIRST else f"{self.current} ".encode()

    async def obey(self, line: str) -> None:
        """Does what a line with a colon asks for."""
        word, _, name = line.removeprefix(":").strip().partition(" ")
        name = name.strip()
        match word:
            case "branch":
                await self._branch(name or self._free_name())
            case "go" if name:
                self._go(name)
            case "drop":
                await self._drop(name or self.current)
            case "branches" if not name:
                say(", ".join(map(self._described, self._contexts)))
            case _:
                say(_HELP)

    def _described(self, name: str) -> str:
        mark = "*" if name == self.current else ""
        ahead = self._contexts[name].ahead
        ready = "" if ahead is None else f" ({ahead.ready} of {ahead.count} branches ready)"
        return f"{mark}{name}{ready}"

    async def _branch(self, name: str) -> None:
        if name in self._contexts or not name.isidentifier():
            say(f"{name!r} is taken, or is no name")
            return
        try:
            (branch,) = await self.context.fork()
        except SandboxError as error:
            say(str(error))
            return
        say(f"{name} is a copy of {self.current}; `:go {self.current}` goes back")
        self._contexts[name] = branch
        self.current = name

    def _go(self, name: str) -> None:
        if name in self._contexts:
            self.current = name
        else:
            say(f"there is no {name!r} but {', '.join(self._contexts)}")

    async def _drop(self, name: str) -> None:
        if name == FIRST or name not in self._contexts:
            others = ", ".join(one for one in self._contexts if one != FIRST) or "none"
            say(f"{name!r} cannot be dropped; what can: {others}")
            return
        await self._contexts.pop(name).aclose()
        if name == self.current:
            self.current = FIRST
            say(f"{name} is gone; this is {FIRST}")

    def _free_name(self) -> str:
        number = len(self._contexts)
        while f"b{number}" in self._contexts:
            number += 1
        return f"b{number}"
