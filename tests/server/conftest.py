"""A control server for the tests of one module, and a client that speaks plain HTTP to it.

The server runs trio in a thread of its own, so that tests are as sequential as they read.
"""

from __future__ import annotations

import http.client
import json
import threading
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, Self

import msgspec
import pytest
import trio

from sandbox_runtime.interpreters.pool_sizes import PoolSize
from sandbox_runtime.server.app import AppSettings, open_app
from sandbox_runtime.server.hosting import HostSettings
from sandbox_runtime.server.http import HttpLimits, open_tcp_listeners, serve
from sandbox_runtime.settings import Limits

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from sandbox_runtime.server.app import App


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """An answer, read to its end."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """Speaks to one server."""

    def __init__(self, port: int, prefix: str = "", headers: Mapping[str, str] = {}) -> None:
        self.port = port
        self.prefix = prefix
        self.headers = dict(headers)

    def below(self, prefix: str, **headers: str) -> Client:
        """The same server with another base path."""
        return Client(self.port, self.prefix + prefix, self.headers | headers)

    @contextmanager
    def request(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] = {}
    ) -> Iterator[http.client.HTTPResponse]:
        """An answer that is read by the caller; leaving the block disconnects."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=50)
        with closing(connection):
            connection.request(method, self.prefix + path, data, self.headers | dict(headers))
            with connection.getresponse() as response:
                yield response

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        """An answer as a whole."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        with self.request(method, path, body, named) as response:
            content = response.read()
            fields = {name.lower(): value for name, value in response.getheaders()}
            return Reply(status=response.status, headers=fields, body=content)

    def get(self, path: str, **headers: str) -> Reply:
        return self.send("GET", path, **headers)

    def post(self, path: str, body: Any = None, **headers: str) -> Reply:
        return self.send("POST", path, body, **headers)

    def delete(self, path: str, body: Any = None, **headers: str) -> Reply:
        return self.send("DELETE", path, body, **headers)

    @contextmanager
    def events(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> Iterator[Iterator[Any]]:
        """The events of a stream, as they come; leaving the block disconnects."""
        with self.request(method, path, body, headers) as response:
            assert response.status == 200, response.read()
            yield _events(response)

    def all_events(self, path: str, body: Any = None, **headers: str) -> list[Any]:
        """The events of a stream to its end."""
        with self.events("POST", path, body, **headers) as events:
            return list(events)

    def session(self, session_id: str, **fields: Any) -> str:
        """Makes a session."""
        reply = self.post("/api/session/create", {"id": session_id, **fields})
        assert reply.status == 200, reply
        return session_id

    def run(self, session_id: str, command: str, **fields: Any) -> Any:
        """Runs a command that succeeds in being run."""
        reply = self.post("/api/execute", {"id": session_id, "command": command, **fields})
        assert reply.status == 200, reply
        return reply.json


def _events(response: http.client.HTTPResponse) -> Iterator[Any]:
    """Both framings, as the clients of both generations read them."""
    while line := response.readline():
        text = line.decode().rstrip("\n").removeprefix("data: ")
        if text and not text.startswith(":"):
            yield json.loads(text)


class Server:
    """A control server in a thread."""

    def __init__(self, settings: AppSettings) -> None:
        self._settings = settings
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._scope: trio.CancelScope
        self._token: trio.lowlevel.TrioToken
        self.app: App
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        if self._error is not None:
            raise self._error
        return self

    def __exit__(self, *_exc: object) -> None:
        self._token.run_sync_soon(self._scope.cancel)
        self._thread.join()

    def _run(self) -> None:
        try:
            trio.run(self._serve)
        except Exception as error:  # noqa: BLE001 - raised where the server is entered
            self._error = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        with trio.CancelScope() as self._scope:
            async with open_app(self._settings) as self.app, trio.open_nursery() as nursery:
                listeners = await open_tcp_listeners("127.0.0.1", 0)
                self.port = listeners[0].socket.getsockname()[1]
                self._token = trio.lowlevel.current_trio_token()
                limits = HttpLimits(
                    body_bytes=self._settings.body_limit_bytes,
                    memory_bytes=self._settings.memory_bytes,
                )

                async def run() -> None:
                    await serve(self.app.handle, listeners, limits=limits, grace_s=0)

                nursery.start_soon(run)
                self._ready.set()

    def inside(self, function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        """Runs a function in the server's thread."""
        return trio.from_thread.run(function, *args, trio_token=self._token)

    @property
    def client(self) -> Client:
        return Client(self.port)


NO_POOLS = {language: PoolSize(min=0) for language in ("python", "javascript", "typescript")}
"""Nothing is kept ready, so that a test has the machine to itself."""

SETTINGS = AppSettings(
    host=HostSettings(limits=Limits(processes=256), command_timeout_s=20, pools=NO_POOLS)
)


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """The server of a module, as the module's `SETTINGS` say, if it has any."""
    with Server(getattr(request.module, "SETTINGS", SETTINGS)) as server:
        yield server


@pytest.fixture
def api(server: Server) -> Client:
    """A client of 0.3."""
    return server.client


@pytest.fixture
def modern(server: Server) -> Client:
    """A client of 0.12."""
    return server.client.below("/v2")
