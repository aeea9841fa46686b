"""The first step of a runtime, which waits for nothing: its native processes begin on their own.

So whoever has more to load, as a server has, launches first and loads meanwhile.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from sandbox_runtime.errors import InvalidArgumentError
from sandbox_runtime.interpreters.installation import (
    node_candidates,
    node_read_only_paths,
    read_only_paths,
)
from sandbox_runtime.supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import Sequence


class Launch:
    """A supervisor that begins, until a runtime takes it.

    Attributes:
        python: The interpreter of Python contexts.
        nodes: Where the Node of the others may be.
    """

    def __init__(self, supervisor: Supervisor, python: str, nodes: Sequence[str]) -> None:
        self._supervisor: Supervisor | None = supervisor
        self.python = python
        self.nodes = nodes

    def take(self) -> Supervisor:
        """The supervisor, which is the caller's to close from here on; once."""
        supervisor, self._supervisor = self._supervisor, None
        assert supervisor is not None, "another runtime has it"
        return supervisor

    @property
    def is_taken(self) -> bool:
        """Whether it has a runtime."""
        return self._supervisor is None

    def close(self) -> None:
        """Ends what nobody has taken."""
        if self._supervisor is not None:
            self.take().abandon()


def launch(
    read_only: Sequence[str] = (), python: str = sys.executable, node: str | None = None
) -> Launch:
    """Starts what a runtime is made of, and returns before it is there; see `open_runtime`.

    Args:
        read_only: Directories of the host, checked.
        python: The interpreter of Python contexts.
        node: The Node of JavaScript and TypeScript contexts.

    Raises:
        InvalidArgumentError: A path is not absolute, or nothing of Python can be looked at.
    """
    _check_program("python", python)
    if node is not None:
        _check_program("node", node)
    nodes = node_candidates(node)
    try:
        shown = [*read_only, *read_only_paths(python), *node_read_only_paths(nodes)]
    except PermissionError as error:
        what = f"this user cannot look at {str(error.filename)!r}, which is a part of {python!r}"
        raise InvalidArgumentError("python", f"{what}; give one that it can read") from None
    return Launch(Supervisor(shown), python, nodes)


def _check_program(field: str, path: object) -> None:
    if not isinstance(path, str) or "\0" in path or not path.startswith("/"):
        raise InvalidArgumentError(field, f"{path!r} is no absolute path")
