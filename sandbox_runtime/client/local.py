"""A control process of one's own, on a Unix socket that nobody else can reach."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from sandbox_runtime.client.errors import UnreachableError

_END_S = 15.0


class LocalServer:
    """A started control process; it ends with this program too, however that ends.

    Attributes:
        path: Its socket.
    """

    def __init__(self) -> None:
        """Starts it and waits until it answers.

        Raises:
            UnreachableError: It could not start; the message has what it said.
        """
        self._directory = tempfile.mkdtemp(prefix="sandbox-runtime-")
        self.path = str(Path(self._directory) / "control.sock")
        serve = ["serve", "--until-stdin-ends", "--unix", self.path]
        argv = [sys.executable, "-P", "-m", "sandbox_runtime", *serve]
        self._process: subprocess.Popen[bytes] | None = None
        try:
            with tempfile.TemporaryFile(dir=self._directory) as log:
                self._process = subprocess.Popen(
                    argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
                )
                assert self._process.stdout is not None
                if not self._process.stdout.readline():
                    self._process.wait()
                    log.seek(0)
                    said = log.read().decode(errors="replace").strip()
                    raise UnreachableError(f"the control process did not start: {said}")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends it and everything in it."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(_END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:  # a second reason to end, sooner, would end the grace
                    pipe.close()
        with contextlib.suppress(OSError):
            shutil.rmtree(self._directory)
