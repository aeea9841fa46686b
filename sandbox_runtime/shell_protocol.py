"""What a session's shell is asked and answers: values, and their bytes.

What a packet looks like stands in `rust_core/shell_builtin/src/frame.rs`.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

import msgspec

from sandbox_runtime.errors import InvalidArgumentError, NotStartedError, SandboxError

if TYPE_CHECKING:
    from collections.abc import Mapping

INLINE_BYTES = 60 * 1024
"""A longer body travels in a memory file behind the other descriptors."""

_REQUEST = struct.Struct("<BBHIQII")
_REPLY = struct.Struct("<BBHiQQQQIiII")
ANSWER_BYTES = _REPLY.size
_TEXT, _ARGV = 1, 2
_BODY_IN_MEMFD, _HAS_CWD, _SESSION_BEGINS = 1, 2, 4
_READY, _END = 129, 130
_INTERRUPTED, _OWN_PEAK = 1, 2
_MAX_BODY_BYTES = 64 * 1024 * 1024
_MAX_ENV = 65_535
_MAX_AGE_S = 2**32 - 1
_FRESH = "Run it again: the next command gets a fresh shell, without what was set in this one"
NOT_RUN_DESCRIPTORS = 1
"""The shell could not take the command's descriptors, and will take no others."""

_NOT_RUN_DIRECTORY, _NOT_RUN_ENV_READONLY, _NOT_RUN_ENV_NAME = 2, 3, 4


class Ready(msgspec.Struct, frozen=True):
    """The shell takes commands."""


class End(msgspec.Struct, frozen=True, kw_only=True):
    """What the shell said when a command was over."""

    seq: int
    status: int
    interrupted: bool
    error: int
    errno: int
    detail: int
    user_us: int
    system_us: int
    max_rss_bytes: int
    peak_is_own: bool


def decode_answer(packet: bytes) -> Ready | End | None:
    """What a packet of `ANSWER_BYTES` says; None for what no shell of ours says."""
    kind, flags, error, status, seq, user, system, peak, _, errno, detail, _ = _REPLY.unpack(packet)
    if kind == _READY:
        return Ready()
    if kind != _END:
        return None
    return End(
        seq=seq,
        status=status,
        interrupted=bool(flags & _INTERRUPTED),
        error=error,
        errno=errno,
        detail=detail,
        user_us=user,
        system_us=system,
        max_rss_bytes=peak,
        peak_is_own=bool(flags & _OWN_PEAK),
    )


def encode_request(
    seq: int,
    command: bytes | tuple[bytes, ...],
    cwd: str | None,
    env: Mapping[str, str],
    *,
    session_age_s: int | None = None,
) -> tuple[bytes, bytes]:
    """Header and body of a request.

    Args:
        seq: Comes back in the answer.
        command: Shell text, or a program with arguments.
        cwd: Where it runs, if not in the shell's directory.
        env: Variables for it only.
        session_age_s: How old the session is, if the shell is older: `SECONDS` counts from there.

    Raises:
        InvalidArgumentError: It is beyond what a request can hold.
    """
    cwd_bytes = b"" if cwd is None else os.fsencode(cwd)
    age = b"" if session_age_s is None else struct.pack("<I", min(session_age_s, _MAX_AGE_S))
    parts = [age, cwd_bytes]
    for name, value in env.items():
        name_bytes, value_bytes = os.fsencode(name), os.fsencode(value)
        parts += [struct.pack("<II", len(name_bytes), len(value_bytes)), name_bytes, value_bytes]
    if isinstance(command, bytes):
        kind, count = _TEXT, 0
        parts.append(command)
    else:
        kind, count = _ARGV, len(command)
        for argument in command:
            parts += [struct.pack("<I", len(argument)), argument]
    body = b"".join(parts)
    if len(body) > _MAX_BODY_BYTES:
        limit = f"{_MAX_BODY_BYTES} bytes with its variables"
        raise InvalidArgumentError("command", f"is longer than {limit}; use standard input")
    if len(env) > _MAX_ENV:
        raise InvalidArgumentError("env", f"has more than {_MAX_ENV} variables")
    flags = (
        (_HAS_CWD if cwd_bytes else 0)
        | (_BODY_IN_MEMFD if len(body) > INLINE_BYTES else 0)
        | (_SESSION_BEGINS if age else 0)
    )
    header = _REQUEST.pack(kind, flags, len(env), count, seq, len(cwd_bytes), len(body))
    return header, body


def why_not_run(end: End, cwd: str | None, env: Mapping[str, str]) -> SandboxError:
    """Why the shell did not run a command."""
    if end.error == _NOT_RUN_DIRECTORY:
        return NotStartedError("change_directory", end.errno, cwd or ".")
    if end.error in {_NOT_RUN_ENV_READONLY, _NOT_RUN_ENV_NAME}:
        names = list(env)
        name = names[end.detail] if end.detail < len(names) else "?"  # the shell may be user code's
        if end.error == _NOT_RUN_ENV_READONLY:
            return InvalidArgumentError("env", f"{name!r} is readonly in the session's shell")
        hint = "give the command as a list of arguments"
        return InvalidArgumentError("env", f"{name!r} is no name that a shell can hold; {hint}")
    if end.error == NOT_RUN_DESCRIPTORS:
        why = "the session's shell can open no more descriptors (`ulimit -n`)"
        return NotStartedError(
            "place_descriptors", end.errno, "the command", why=why, remedy=_FRESH
        )
    return NotStartedError("execute", end.errno, "the command")
