"""The program's output on our own streams, as it comes, and the JSON object at the end."""

from __future__ import annotations

import json
import os
import select
from typing import TYPE_CHECKING, Any

import trio

from sandbox_runtime.cli.failures import OWN_FAILURE, READER_GONE, say

if TYPE_CHECKING:
    from collections.abc import Callable


class Output:
    """Our standard output or error: takes all bytes in their order, and waits for slow readers.

    Who is told to give up drops what comes later, so that nothing waits for a reader that is gone.
    """

    def __init__(self, fd: int, stop: Callable[[int], None]) -> None:
        self._fd = fd
        self._stop = stop
        self._pending = bytearray()
        self._waiting: trio.CancelScope | None = None
        self._can_wait = True
        self._gave_up = False

    async def write(self, data: bytes) -> None:
        """Writes all of it; what an interrupted call has left comes first."""
        if self._gave_up:
            return
        self._pending += data
        with trio.CancelScope() as self._waiting:
            while self._pending:
                if self._can_wait:
                    try:
                        await trio.lowlevel.wait_writable(self._fd)
                    except PermissionError:  # a file or /dev/null: never makes anybody wait
                        self._can_wait = False
                # A pipe with room has room for so much, so the call does not block.
                most = select.PIPE_BUF if self._can_wait else len(self._pending)
                try:
                    written = os.write(self._fd, self._pending[:most])
                except BlockingIOError:
                    await trio.sleep(0.01)
                    continue
                except BrokenPipeError:
                    self._stop(READER_GONE)
                    return
                except OSError as error:
                    say(f"cannot write to our standard output: {error.strerror}")
                    self._stop(OWN_FAILURE)
                    return
                del self._pending[:written]

    def give_up(self) -> None:
        """Drops what is left and what comes."""
        self._gave_up = True
        self._pending.clear()
        if self._waiting is not None:
            self._waiting.cancel()


class Streams:
    """Where the program's output goes, or with `--json` the object that has it.

    `stop` is called with an exit status when our standard output takes nothing any more.
    """

    def __init__(self, stop: Callable[[int], None], *, as_json: bool) -> None:
        self.stdout = Output(1, stop)
        self.stderr = Output(2, stop)
        self.as_json = as_json

    def handlers(self) -> dict[str, Any]:
        """Arguments for whoever runs something: stream it, or keep it for `--json`."""
        if self.as_json:
            return {}
        return {
            "on_stdout": self.stdout.write,
            "on_stderr": self.stderr.write,
            "limit_bytes": 0,
        }

    async def print_json(self, record: dict[str, Any]) -> None:
        """Prints the object, if `--json` asks for it."""
        if self.as_json:
            await self.stdout.write(json.dumps(record, indent=2).encode() + b"\n")

    def give_up(self) -> None:
        """Drops what is left and what comes."""
        self.stdout.give_up()
        self.stderr.give_up()
