"""Our standard input, which becomes the program's."""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING

import click

from sandbox_runtime.cli.failures import say

if TYPE_CHECKING:
    from sandbox_runtime.cli.options import Options

_PATIENCE_S = 2.0
_READ_BYTES = 1 << 20


def read_to_end() -> bytes:
    """All of it."""
    content = bytearray()
    while chunk := os.read(0, _READ_BYTES):
        content += chunk
    return bytes(content)


def piped_input(options: Options) -> bytes:
    """What is piped to us. A terminal is nobody's pipe."""
    if options.no_stdin or os.isatty(0):
        return b""
    try:
        if not select.select([0], [], [], _PATIENCE_S)[0]:
            say("waiting for the end of standard input; --no-stdin runs without it")
        return read_to_end()
    except OSError as error:
        raise click.UsageError(
            f"standard input: {error.strerror}; --no-stdin runs without it"
        ) from None
