"""What a client of the wire waits for when it asks for much: many requests at once, many things.

Requests at once go out on connections of their own before the first answer is read, by one thread,
so that the client is the same small part of every server's time.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from contextlib import closing
from typing import TYPE_CHECKING, Any

from sandbox_runtime.bench.spawned import PeerFailedError
from sandbox_runtime.bench.wire_http import Connection

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sandbox_runtime.bench.rounds import Candidate, Stopwatch
    from sandbox_runtime.bench.wire import WireClient

_TIMEOUT_S = 50.0


class Crowd:
    """Connections to one server that ask at the same time.

    Args:
        url: Of the server.
        count: How many.
    """

    def __init__(self, url: str, count: int) -> None:
        self._connections = [Connection(url, _TIMEOUT_S) for _ in range(count)]

    def ask(self, method: str, path: str, bodies: Sequence[object]) -> list[bytes]:
        """One request on each connection, all before the first answer is read; all the answers."""
        asking = self._connections[: len(bodies)]
        for connection, body in zip(asking, bodies, strict=True):
            connection.ask(method, path, json.dumps(body).encode())
        answers = []
        for connection in asking:
            head, raw = connection.answer()
            if head.status != 200:
                raise PeerFailedError(f"{method} {path}: {head.status} {raw[:200]!r}")
            answers.append(raw)
        return answers

    def close(self) -> None:
        """Ends the connections."""
        for connection in self._connections:
            connection.close()


class Crowds(ABC):
    """Candidates of one server; `Served` has those where one thing is asked at a time."""

    url: str

    @abstractmethod
    def _candidate(self, once: Callable[[WireClient, str, Stopwatch], None]) -> Candidate:
        """A candidate of this server: told its client, a session, and what times it."""

    def _crowd(self, count: int, once: Callable[[Crowd, WireClient, Stopwatch], None]) -> Candidate:
        def with_crowd(client: WireClient, session: str, stopwatch: Stopwatch) -> None:
            del session
            with closing(Crowd(self.url, count)) as crowd:
                once(crowd, client, stopwatch)

        return self._candidate(with_crowd)

    def sessions_at_once(self, sessions: int, commands: int) -> Candidate:
        """`true` so many times in each of so many sessions."""
        names: list[str] = []

        def once(crowd: Crowd, client: WireClient, stopwatch: Stopwatch) -> None:
            while len(names) < sessions:
                names.append(client.session())
            bodies = [{"id": name, "command": "true"} for name in names]
            crowd.ask("POST", "/api/execute", bodies)  # connects
            with stopwatch:
                for _ in range(commands):
                    crowd.ask("POST", "/api/execute", bodies)

        return self._crowd(sessions, once)

    def kill_all(self, count: int) -> Candidate:
        """So many background processes killed by one request."""

        def once(client: WireClient, session: str, stopwatch: Stopwatch) -> None:
            body = {"command": "sleep 100", "sessionId": session}
            for _ in range(count):
                client.call("POST", "/api/process/start", body)
            with stopwatch:
                killed = client.call("DELETE", "/api/process/kill-all")["killedCount"]
            if killed < count:
                raise PeerFailedError(f"{killed} of {count} processes were killed")

        return self._candidate(once)

    def entries(self, count: int) -> Candidate:
        """A directory of so many files listed."""
        place = f"/workspace/bench-{count}"
        made: list[Any] = []

        def once(client: WireClient, session: str, stopwatch: Stopwatch) -> None:
            if not made:
                command = f"mkdir -p {place} && cd {place} && seq {count} | xargs touch; cd /"
                made.append(
                    client.call("POST", "/api/execute", {"id": session, "command": command})
                )
            body = {"path": place, "sessionId": session}
            with stopwatch:
                files = client.call("POST", "/api/list-files", body)["files"]
            if len(files) != count:
                raise PeerFailedError(f"{len(files)} of {count} files were listed")

        return self._candidate(once)

    def process_followed(self) -> Candidate:
        """A background process started, its log's stream opened, and the first line read there."""

        def once(client: WireClient, session: str, stopwatch: Stopwatch) -> None:
            body = {"command": "bash -c 'echo first; sleep 100'", "sessionId": session}
            with stopwatch:
                process = client.call("POST", "/api/process/start", body)["process"]["id"]
                client.first_event(f"/api/process/{process}/stream", None, rb'"first\\n"')
            client.finish()
            client.call("DELETE", f"/api/process/{process}")

        return self._candidate(once)

    def contexts_in_turn(self, count: int) -> Candidate:
        """So many Python contexts created, run and deleted, one after another."""

        def once(client: WireClient, session: str, stopwatch: Stopwatch) -> None:
            del session
            with stopwatch:
                for _ in range(count):
                    context = client.call("POST", "/api/contexts", {"language": "python"})["id"]
                    client.run_code(context, "1 + 1")
                    client.call("DELETE", f"/api/contexts/{context}")

        return self._candidate(once)

    def contexts_at_once(self, count: int) -> Candidate:
        """So many Python contexts created at once, to the last one's first result."""

        def once(crowd: Crowd, client: WireClient, stopwatch: Stopwatch) -> None:
            with stopwatch:
                made = crowd.ask("POST", "/api/contexts", [{"language": "python"}] * count)
                ids = [json.loads(answer)["id"] for answer in made]
                runs = [{"context_id": context, "code": "1 + 1"} for context in ids]
                for answer in crowd.ask("POST", "/api/execute/code", runs):
                    if b'"text":"2"' not in answer.replace(b" ", b""):
                        raise PeerFailedError(f"no result in {answer[-300:]!r}")
            for context in ids:
                client.call("DELETE", f"/api/contexts/{context}")

        return self._crowd(count, once)
