"""Servers of the wire, ours and others, measured through one plain HTTP client.

The client is a kept connection (`wire_http.py`), the same for every server, so what it costs is on
both sides of a ratio.
"""

from __future__ import annotations

import json
import re
import time
import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

from sandbox_runtime.bench.rounds import Candidate
from sandbox_runtime.bench.spawned import PeerFailedError
from sandbox_runtime.bench.wire_crowds import Crowds
from sandbox_runtime.bench.wire_http import Connection

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sandbox_runtime.bench.rounds import Once, Stopwatch

_TIMEOUT_S = 50.0
_READY_S = 10.0
_LOOK_S = 0.02


class WireClient:
    """One kept connection to a server of the wire; blocking, as only one is measured at a time."""

    def __init__(self, url: str) -> None:
        self._connection = Connection(url, _TIMEOUT_S)

    def call(self, method: str, path: str, body: object = None) -> Any:
        """A request and its whole answer, decoded if it is JSON."""
        raw, kind = self.raw(method, path, body)
        return json.loads(raw) if kind.startswith("application/json") else raw.decode()

    def raw(self, method: str, path: str, body: object = None) -> tuple[bytes, str]:
        """A request, its whole answer, and the answer's content type."""
        self._connection.ask(method, path, None if body is None else json.dumps(body).encode())
        head, raw = self._connection.answer()
        if head.status not in {200, 201}:
            raise PeerFailedError(f"{method} {path}: {head.status} {raw[:200]!r}")
        return raw, head.kind

    def first_event(self, path: str, body: object, mark: bytes) -> re.Match[bytes]:
        """Sends a request, waits until the answer's stream has this pattern in it, and hangs up.

        Returns:
            What matched.
        """
        payload = None if body is None else json.dumps(body).encode()
        self._connection.ask("GET" if body is None else "POST", path, payload)
        seen = b""
        head = self._connection.head()
        if head.status >= 400:
            raise PeerFailedError(f"{path}: {head.status}")
        for piece in self._connection.pieces(head):
            seen += piece
            if (found := re.search(mark, seen)) is not None:
                return found
        raise PeerFailedError(f"{path}: ended without {mark!r}: {seen[-200:]!r}")

    def finish(self) -> None:
        """Reads what is left of an answer by closing; the next request connects anew."""
        self._connection.close()

    def session(self) -> str:
        """A new session's id."""
        name = f"bench-{uuid.uuid4()}"
        self.call("POST", "/api/session/create", {"id": name})
        return name

    def run_code(self, context: str, code: str) -> None:
        """Runs `code`, whose result must be 2."""
        raw, _ = self.raw("POST", "/api/execute/code", {"context_id": context, "code": code})
        for line in raw.decode().splitlines():
            event = json.loads(line.removeprefix("data: ")) if line.strip() else {}
            if event.get("type") == "result" and event.get("text") == "2":
                return
        raise PeerFailedError(f"no result in {raw[-300:]!r}")


class Served(Crowds):
    """Candidates of one server.

    Args:
        name: What it is called.
        url: Its address.
        protections: What confines what runs there, in words.
        many: Whether it has many sandboxes, as ours; others are one.

    Attributes:
        name: What it is called.
        url: Its address.
        protections: What confines what runs there, in words.
    """

    def __init__(self, name: str, url: str, *, protections: str, many: bool = False) -> None:
        self.name = name
        self.url = url
        self.protections = protections
        self._many = many

    def _candidate(self, once: Callable[[WireClient, str, Stopwatch], None]) -> Candidate:
        @asynccontextmanager
        async def opened() -> AsyncIterator[Once]:
            client = WireClient(self.url)
            session = client.session()

            async def measure(stopwatch: Stopwatch) -> None:
                await trio.lowlevel.checkpoint()
                try:
                    once(client, session, stopwatch)
                except BaseException:
                    client.finish()
                    raise

            try:
                yield measure
            finally:
                client.finish()

        return Candidate(name=self.name, open=opened, protections=self.protections)

    def execute(self, command: str) -> Candidate:
        """A command in a live session."""

        def once(client: WireClient, session: str, stopwatch: Stopwatch) -> None:
            with stopwatch:
                answer = client.call("POST", "/api/execute", {"id": session, "command": command})
            if answer["exitCode"] != 0:
                raise PeerFailedError(f"exit code {answer['exitCode']}")

        return self._candidate(once)

    def first_output(self) -> Candidate:
        """The first line of a command that goes on."""

        def once(client: WireClient, session: str, stopwatch: Stopwatch) -> None:
            del session  # hanging up ends its command, and the next would wait for that
            body = {"id": client.session(), "command": "echo first; sleep 0.2"}
            client.call("POST", "/api/execute", body | {"command": "true"})
            with stopwatch:
                client.first_event("/api/execute/stream", body, rb'first\\n",')
            client.finish()

        return self._candidate(once)

    def new_session(self) -> Candidate:
        """A session created, and its first command."""

        def once(client: WireClient, session: str, stopwatch: Stopwatch) -> None:
            del session
            with stopwatch:
                created = client.session()
                client.call("POST", "/api/execute", {"id": created, "command": "true"})

        return self._candidate(once)

    def branch(self, array_mb: int, *, ready: bool = False) -> Candidate:
        """A context that holds an array branched, to the branch's first result.

        Args:
            array_mb: How large the array is.
            ready: Whether the branch is made before it is asked for.
        """
        contexts: list[str] = []

        def once(client: WireClient, session: str, stopwatch: Stopwatch) -> None:
            del session
            if not contexts:
                wanted = {"language": "python"} | ({"readyBranches": 1} if ready else {})
                contexts.append(client.call("POST", "/api/contexts", wanted)["id"])
                held = f"import numpy\nx = numpy.ones({array_mb * 125_000})\n1 + 1"
                client.run_code(contexts[0], held)
            if ready:
                _wait_ready_branch(client, contexts[0])
            with stopwatch:
                answer = client.call("POST", f"/api/contexts/{contexts[0]}/fork", {})
                child = answer["contexts"][0]["id"]
                client.run_code(child, "int(x[-1]) + 1")
            client.call("DELETE", f"/api/contexts/{child}")

        return self._candidate(once)

    def time_to_interactive(self) -> Candidate:
        """A sandbox made, and its first command run; of a server that is one sandbox, a session."""

        def once(client: WireClient, session: str, stopwatch: Stopwatch) -> None:
            del session
            command = {"command": 'echo "benchmark"'}
            with stopwatch:
                if self._many:
                    made = client.call("POST", "/sandboxes", {})
                    path = f"/sandboxes/{made['sandbox']['id']}"
                    client.call("POST", f"{path}/api/session/create", {"id": "first"})
                    answer = client.call("POST", f"{path}/api/execute", command | {"id": "first"})
                else:
                    created = client.session()
                    answer = client.call("POST", "/api/execute", command | {"id": created})
            if self._many:
                client.call("DELETE", path)
            if answer["stdout"] != "benchmark\n":
                raise PeerFailedError(f"printed {answer['stdout']!r}")

        return self._candidate(once)

    def file_round_trip(self, size_bytes: int) -> Candidate:
        """A text file written and read back."""
        content = ("0123456789abcde\n" * (size_bytes // 16 + 1))[:size_bytes]

        def once(client: WireClient, session: str, stopwatch: Stopwatch) -> None:
            place = {"path": "/workspace/bench.txt", "sessionId": session}
            with stopwatch:
                client.call("POST", "/api/write", place | {"content": content})
                back = client.call("POST", "/api/read", place)["content"]
            if back.rstrip("\n") != content.rstrip("\n"):
                raise PeerFailedError("read something else than was written")

        return self._candidate(once)

    def process_first_line(self) -> Candidate:
        """A background process started, and its first line seen in its log."""

        def once(client: WireClient, session: str, stopwatch: Stopwatch) -> None:
            body = {"command": "bash -c 'echo first; sleep 100'", "sessionId": session}
            with stopwatch:
                process = client.call("POST", "/api/process/start", body)["process"]["id"]
                while "first" not in client.call("GET", f"/api/process/{process}/logs")["stdout"]:
                    pass
            client.call("DELETE", f"/api/process/{process}")

        return self._candidate(once)

    def kill(self) -> Candidate:
        """A background process killed."""

        def once(client: WireClient, session: str, stopwatch: Stopwatch) -> None:
            body = {"command": "sleep 100", "sessionId": session}
            process = client.call("POST", "/api/process/start", body)["process"]["id"]
            with stopwatch:
                client.call("DELETE", f"/api/process/{process}")

        return self._candidate(once)

    def fresh_context(self, language: str, code: str) -> Candidate:
        """A context created, and its first result."""

        def once(client: WireClient, session: str, stopwatch: Stopwatch) -> None:
            del session
            with stopwatch:
                context = client.call("POST", "/api/contexts", {"language": language})["id"]
                client.run_code(context, code)
            client.call("DELETE", f"/api/contexts/{context}")

        return self._candidate(once)

    def live_context(self, language: str) -> Candidate:
        """`1 + 1` in a context that lives."""
        contexts: list[str] = []

        def once(client: WireClient, session: str, stopwatch: Stopwatch) -> None:
            del session
            if not contexts:
                contexts.append(client.call("POST", "/api/contexts", {"language": language})["id"])
            with stopwatch:
                client.run_code(contexts[0], "1 + 1")

        return self._candidate(once)

    def printed_line(self) -> Candidate:
        """The first line of a cell that goes on: from when it is printed to when it is read."""
        code = "import time\nprint(time.time(), flush=True)\ntime.sleep(0.1)"

        def once(client: WireClient, session: str, stopwatch: Stopwatch) -> None:
            del session
            context = client.call("POST", "/api/contexts", {"language": "python"})["id"]
            client.run_code(context, "1 + 1")
            body = {"context_id": context, "code": code}
            found = client.first_event("/api/execute/code", body, rb'(1\d{9}\.\d+)[\\"]')
            stopwatch.record(time.time() - float(found[1]))
            client.finish()
            client.call("DELETE", f"/api/contexts/{context}")

        return self._candidate(once)


def _wait_ready_branch(client: WireClient, context_id: str) -> None:
    """Looks until one waits, and lets what else its making has begun settle."""
    end_s = time.monotonic() + _READY_S
    while time.monotonic() < end_s:
        time.sleep(_LOOK_S)
        listed = client.call("GET", "/api/contexts")["contexts"]
        if any(one["id"] == context_id and one["readyBranches"] for one in listed):
            return
    raise PeerFailedError(f"no branch was made ahead within {_READY_S:g} s")
