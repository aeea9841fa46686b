"""The zygote's other end: it asks for forks and learns of their end."""

from __future__ import annotations

import array
import base64
import contextlib
import json
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from sandbox_runtime import jail as jails
from sandbox_runtime.errors import InterpreterUnavailableError, SandboxLostError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PRELOAD = ("numpy", "pandas", "matplotlib")
"""What a Python zygote imports and warms, if it is installed."""

_EXECUTORS = Path(__file__).parent / "executors"
_START_S = 120.0
_DATAGRAM_BYTES = 1 << 20
_REMEDY = "Install what is named where the interpreter finds it, e.g. pip install ipython numpy"


def read_only_paths(python: str = sys.executable) -> list[str]:
    """The directories beside `/usr` that an interpreter and our programs in it need."""
    paths = {sys.prefix, sys.base_prefix, sys.exec_prefix, str(_EXECUTORS.parent.parent)}
    paths.add(str(Path(jails.core_path).parent))
    for prefix in (Path(python).parent.parent, Path(python).resolve().parent.parent):
        # What is no installation of Python may be somebody's home.
        if (prefix / "pyvenv.cfg").exists() or any(prefix.glob("lib/python3*")):
            paths.add(str(prefix))
    paths.update(
        entry for entry in sys.path if "site-packages" in entry or "dist-packages" in entry
    )
    return sorted(
        path
        for path in paths
        if Path(path).is_dir() and not Path(path).is_relative_to("/usr") and path != "/"
    )


class Zygote:
    """A warmed interpreter that is forked for each context. The runtime's nursery runs `run`."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._next_id = 0
        self._waiting: dict[object, trio.Event] = {}
        self._answers: dict[int, dict[str, Any]] = {}
        self._lost = False
        self.missing: tuple[str, ...] = ()

    @classmethod
    async def open(
        cls,
        supervisor: jails.Supervisor,
        python: str = sys.executable,
        preload: Sequence[str] = PRELOAD,
    ) -> Zygote:
        """Starts one and waits until it is warm.

        Raises:
            InterpreterUnavailableError: It cannot start; the message says what is missing.
        """
        argv = [python, "-I", "-B", str(_EXECUTORS / "python_zygote.py"), jails.core_path]
        env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/tmp"}
        zygote = cls(await supervisor.start_zygote(argv, env))
        try:
            with trio.fail_after(_START_S):
                await zygote._send({"op": "preload", "modules": list(preload)})
                answer = await zygote._receive()
        except (SandboxLostError, trio.TooSlowError) as error:
            zygote.close()
            what = f"{python} did not start, or has no IPython"
            raise InterpreterUnavailableError(what, remedy=_REMEDY) from error
        except BaseException:
            zygote.close()
            raise
        if answer["op"] != "ready":
            zygote.close()
            raise InterpreterUnavailableError(str(answer.get("reason")), remedy=_REMEDY)
        zygote.missing = tuple(answer.get("missing", ()))
        return zygote

    async def _send(self, message: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        await jails.send_packet(self._socket, json.dumps(message).encode(), fds)

    async def _receive(self) -> dict[str, Any]:
        while True:
            try:
                packet = self._socket.recv(_DATAGRAM_BYTES)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._socket)
                continue
            except OSError:
                packet = b""
            if not packet:
                raise SandboxLostError("the zygote has died")
            answer: dict[str, Any] = json.loads(packet)
            return answer

    async def run(self) -> None:
        """Receives its answers until it ends."""
        try:
            while True:
                answer = await self._receive()
                event = self._waiting.pop(answer.get("id"), None)
                if answer["op"] in {"forked", "failed"} and event is not None:
                    self._answers[answer["id"]] = answer
                    event.set()
        except (SandboxLostError, trio.ClosedResourceError):
            pass
        finally:
            self._lost = True
            for event in self._waiting.values():
                event.set()
            self._waiting.clear()
            self.close()

    @property
    def lost(self) -> bool:
        """Whether it has died; a new one is needed then."""
        return self._lost

    async def fork(
        self,
        keeper: jails.Keeper,
        jail: jails.Jail,
        executor: socket.socket,
    ) -> None:
        """Forks a context into a jail that was made with its namespaces.

        What is to be its own alone is told to it over its socket, never to the zygote.

        Raises:
            InterpreterUnavailableError: The fork failed.
            SandboxLostError: The jail or the zygote has died.
        """
        self._next_id += 1
        number = self._next_id
        event = self._waiting[number] = trio.Event()
        pid_namespace, mount_namespace = jail.namespace_fds
        request = {
            "op": "fork",
            "id": number,
            "plan": base64.b64encode(keeper.enter_plan).decode(),
        }
        fds = [executor.fileno(), pid_namespace, mount_namespace, *keeper.enter_fds]
        try:
            await self._send(request, fds)
            await event.wait()
        finally:
            self._waiting.pop(number, None)
        answer = self._answers.pop(number, None)
        if answer is None:
            raise SandboxLostError("the zygote has died")
        if answer["op"] == "failed":
            if answer.get("errno") == 12:
                raise SandboxLostError("the jail has died, so nothing can be forked into it")
            raise InterpreterUnavailableError(str(answer.get("reason")))

    def close(self) -> None:
        """Ends it; its contexts go on."""
        with contextlib.suppress(OSError):
            trio.lowlevel.notify_closing(self._socket)
        self._socket.close()


def send_with_descriptors(sock: socket.socket, data: bytes, fds: Sequence[int]) -> int:
    """Sends what fits of `data`, with descriptors on its first byte."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    return sock.sendmsg([data], rights, socket.MSG_NOSIGNAL)
