"""What a caller gives, as the wire has it."""

from __future__ import annotations

from sandbox_runtime.errors import InvalidArgumentError

_MOST_MS = 2**53


def command_text(command: object) -> str:
    """A command, which the wire has as text for a shell.

    Raises:
        InvalidArgumentError: It is something else, as a list of words.
    """
    if isinstance(command, str):
        return command
    found = type(command).__name__
    raise InvalidArgumentError("command", f"must be text, not {found}; shlex.join quotes words")


def milliseconds_of(field: str, seconds: float | None) -> float | None:
    """A number of seconds from now in milliseconds; None stays None.

    Raises:
        InvalidArgumentError: It cannot mean anything; the message names the argument.
    """
    if seconds is None:
        return None
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not is_number or not 0 < seconds * 1000 <= _MOST_MS:
        what = f"must be a number of seconds, more than 0, not {seconds!r}"
        raise InvalidArgumentError(field, f"{what}; leave it out for the default")
    return seconds * 1000
