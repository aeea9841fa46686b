"""Of what kind an argument is, checked in one place: the error names it and says what to give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sandbox_runtime.errors import InvalidArgumentError

if TYPE_CHECKING:
    from types import UnionType


def check_kind(field: str, value: object, kind: type | UnionType, what: str) -> None:
    """Refuses what is of another kind.

    Args:
        field: What the argument is called.
        value: What was given.
        kind: What it has to be an instance of.
        what: The same in words, with where to get one.

    Raises:
        InvalidArgumentError: It is not.
    """
    if not isinstance(value, kind):
        raise InvalidArgumentError(field, f"must be {what}, not {type(value).__name__}")


def check_owner(field: str, owner: object, own: object) -> None:
    """Refuses what is another sandbox's.

    Args:
        field: What the argument is called.
        owner: The sandbox below what was given.
        own: The one that it was given to.

    Raises:
        InvalidArgumentError: They are two.
    """
    if owner is not own:
        raise InvalidArgumentError(field, "belongs to another sandbox")


def check_count(field: str, value: object, least: int, most: int) -> int:
    """A whole number within bounds.

    Raises:
        InvalidArgumentError: It is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InvalidArgumentError(field, f"must be {least} to {most}, not {value!r}")
    return value


def check_flags(**flags: object) -> None:
    """Arguments that are True or False, by their names.

    Raises:
        InvalidArgumentError: One is something else.
    """
    for field, value in flags.items():
        if not isinstance(value, bool):
            raise InvalidArgumentError(field, f"must be True or False, not {value!r}")


def check_callbacks(**callbacks: object) -> None:
    """What is called back, by the names of the arguments; None is nobody.

    Raises:
        InvalidArgumentError: One cannot be called.
    """
    for field, value in callbacks.items():
        if value is not None and not callable(value):
            what = f"must be a function that takes what comes, not {type(value).__name__}"
            raise InvalidArgumentError(field, what)


def check_mapping(field: str, value: object, what: str) -> None:
    """Refuses what is no mapping.

    Raises:
        InvalidArgumentError: With an example of what to give, `what`.
    """
    check_kind(field, value, Mapping, f"a mapping, e.g. {what}")
