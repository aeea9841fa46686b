"""What a caller gives, as the wire has it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import msgspec

from sandbox_runtime.arguments import check_kind, check_mapping
from sandbox_runtime.client.names import argument_of
from sandbox_runtime.errors import InvalidArgumentError
from sandbox_runtime.settings import Limits
from sandbox_runtime.wire.sandboxes import LimitsRequest
from sandbox_runtime.wire.shape import MOST_MS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def command_text(command: object) -> str:
    """A command, which the wire has as text for a shell.

    Raises:
        InvalidArgumentError: It is something else, as a list of words, or empty.
    """
    if command == "":
        raise InvalidArgumentError("command", "is empty; give a command, e.g. 'true'")
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
    if not is_number or not 0 < seconds * 1000 <= MOST_MS:
        what = f"must be a number of seconds, more than 0, not {seconds!r}"
        raise InvalidArgumentError(field, f"{what}; leave it out for the default")
    return seconds * 1000


def variables(env: Mapping[str, str] | None) -> dict[str, str | None] | None:
    """Variables as the wire has them; none if there are none.

    Raises:
        InvalidArgumentError: They are none; it names the first that is not text.
    """
    if env is None:
        return None
    check_mapping("env", env, '{"NAME": "value"}')
    given: Mapping[Any, Any] = env  # which callers without types give as they like
    sent: dict[str, str | None] = {}
    for name, value in given.items():
        if not isinstance(name, str):
            raise InvalidArgumentError("env", f"{name!r} is no name of a variable")
        if value is not None and not isinstance(value, str):
            raise InvalidArgumentError(f"env[{name}]", f"must be text, not {type(value).__name__}")
        sent[name] = value
    return sent or None


def path_text(field: str, path: object) -> str:
    """A path, which the wire has as text.

    Raises:
        InvalidArgumentError: It is none.
    """
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str):
        raise InvalidArgumentError(field, f"must be text or a path, not {type(path).__name__}")
    return text


def limits_of(limits: object) -> LimitsRequest | None:
    """Limits as the wire has them: those that are not as usual, the others are the server's to say.

    Raises:
        InvalidArgumentError: They are none.
    """
    if limits is None or isinstance(limits, LimitsRequest):
        return limits
    if not isinstance(limits, Limits):
        what = f"must be sandbox_runtime.Limits(...), not {type(limits).__name__}"
        raise InvalidArgumentError("limits", what)
    usual = Limits()
    chosen = {name: getattr(limits, name) for name in limits.__struct_fields__}
    return LimitsRequest(
        **{name: value for name, value in chosen.items() if value != getattr(usual, name)}
    )


def content_bytes(content: str | bytes | bytearray | memoryview) -> bytes:
    """What a file is to hold; text as UTF-8.

    Raises:
        InvalidArgumentError: It is something else, or text that UTF-8 has no bytes for.
    """
    if isinstance(content, str):
        try:
            return content.encode()
        except UnicodeEncodeError as error:
            what = f"has {content[error.start]!r} at {error.start}, which UTF-8 has no bytes for"
            raise InvalidArgumentError("content", f"{what}; give bytes") from None
    check_kind("content", content, bytes | bytearray | memoryview, "text or bytes")
    return bytes(content)


def texts(field: str, values: Sequence[str]) -> tuple[str, ...]:
    """A list of texts, which one text is not.

    Raises:
        InvalidArgumentError: It is something else.
    """
    if not isinstance(values, list | tuple) or not all(isinstance(one, str) for one in values):
        raise InvalidArgumentError(field, f"must be a list of texts, not {values!r}")
    return tuple(values)


def encoded(body: msgspec.Struct) -> bytes:
    """A body as it is sent.

    Raises:
        InvalidArgumentError: It cannot be; it names the argument.
    """
    try:
        return msgspec.json.encode(body)
    except (TypeError, ValueError, OverflowError, RecursionError):
        for field in msgspec.structs.fields(body):
            if (value := getattr(body, field.name)) is not msgspec.UNSET:
                _check_sendable(argument_of(field.encode_name), value)
        raise


def _check_sendable(argument: str, value: object) -> None:
    try:
        msgspec.json.encode(value)
    except UnicodeEncodeError as error:
        found = error.object[error.start]
        what = f"has {found!r} at {error.start}, which UTF-8 has no bytes for"
        raise InvalidArgumentError(argument, what) from None
    except (TypeError, ValueError, OverflowError, RecursionError):
        what = f"cannot be sent: it is of type {type(value).__name__}"
        raise InvalidArgumentError(argument, what) from None
