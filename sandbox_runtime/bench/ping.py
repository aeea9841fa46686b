"""The round trip of a ping over HTTP: our control server, a C server, and servers of Python's.

All run at once and are asked in turns by one client in C: back to back, and with 2 ms between
requests, where waking up is what counts. A value is the median of a burst of requests. Ours answers
as it always does, with its routing and checks; the others answer a fixed text.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import shutil
import statistics
import subprocess
import sys
import tempfile
import urllib.parse
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from sandbox_runtime.bench.results import Missing
from sandbox_runtime.bench.rounds import Candidate
from sandbox_runtime.bench.spawned import CLEAN_ENV

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sandbox_runtime.bench.rounds import Once, Stopwatch

_SOURCE = Path(__file__).parent / "ping_peer.c"
_BODY = b'{"message":"pong"}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """How a server is asked.

    Attributes:
        count: How many requests make one value.
        gap_us: Microseconds between two.
    """

    count: int
    gap_us: int


BACK_TO_BACK = Burst(count=300, gap_us=0)
WITH_GAPS = Burst(count=40, gap_us=2000)


def candidates(burst: Burst, url: str, protections: str) -> list[Candidate | Missing]:
    """Our server at this address, and the others, started for it."""
    names = {"hypercorn": "hypercorn on trio, bare ASGI", "uvicorn": "uvicorn, bare ASGI"}
    compiler = shutil.which("cc")
    if compiler is None:
        remedy = "a C compiler, for the client: apt-get install gcc"
        every = ("ours: over HTTP", "C server", *names.values())
        return [Missing(candidate=name, remedy=remedy) for name in every]
    found: list[Candidate | Missing] = [
        _candidate("ours: over HTTP", compiler, burst, url=url, protections=protections, ours=True),
        _candidate("C server", compiler, burst, protections="answers a fixed text"),
    ]
    for package, name in names.items():
        if importlib.util.find_spec(package) is None:
            found.append(Missing(candidate=name, remedy=f"pip install {package}"))
            continue
        argv = [sys.executable, "-m", "sandbox_runtime.bench.ping", package]
        version = importlib.metadata.version(package)
        found.append(
            _candidate(
                name,
                compiler,
                burst,
                argv=argv,
                version=version,
                protections="answers a fixed text",
            )
        )
    return found


def _candidate(
    name: str,
    compiler: str,
    burst: Burst,
    *,
    url: str = "",
    argv: list[str] | None = None,
    version: str = "",
    protections: str = "",
    ours: bool = False,
) -> Candidate:
    @asynccontextmanager
    async def open_it() -> AsyncIterator[Once]:
        with ExitStack() as stack:
            directory = stack.enter_context(tempfile.TemporaryDirectory())
            peer = f"{directory}/ping_peer"
            subprocess.run([compiler, "-O2", "-o", peer, str(_SOURCE)], check=True, env=CLEAN_ENV)
            port = urllib.parse.urlsplit(url).port
            if not url:
                served = argv or [peer, "serve"]
                server = subprocess.Popen(served, stdout=subprocess.PIPE)  # noqa: ASYNC220
                stack.callback(server.wait)
                stack.callback(server.kill)
                assert server.stdout is not None
                port = int(stack.enter_context(server.stdout).readline())
            ask = [peer, "ask", str(port), str(burst.count), str(burst.gap_us)]

            async def once(stopwatch: Stopwatch) -> None:
                await trio.lowlevel.checkpoint()
                done = subprocess.run(ask, check=True, capture_output=True)
                stopwatch.record(statistics.median(int(line) for line in done.stdout.split()) / 1e9)

            yield once

    return Candidate(name=name, open=open_it, version=version, protections=protections, ours=ours)


async def _application(scope: Any, _receive: Any, send: Any) -> None:
    """The least that ASGI allows."""
    assert scope["type"] == "http"
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(_BODY))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": _BODY})


def _run_hypercorn() -> None:
    from hypercorn.config import Config
    from hypercorn.trio import serve

    config = Config()
    config.bind, config.accesslog, config.errorlog = ["127.0.0.1:0"], None, None
    config.keep_alive_max_requests = 10**9

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            bound = await nursery.start(functools.partial(serve, _application, config, mode="asgi"))
            sys.stdout.write(bound[0].rpartition(":")[2] + "\n")
            sys.stdout.flush()

    trio.run(main)


def _run_uvicorn() -> None:
    """On uvloop, if that is installed."""
    import socket

    import uvicorn

    # asyncio sends at once only on a socket that says it is TCP, which `create_server` does not.
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.bind(("127.0.0.1", 0))
    sys.stdout.write(f"{sock.getsockname()[1]}\n")
    sys.stdout.flush()
    config = uvicorn.Config(_application, log_level="critical", lifespan="off")
    uvicorn.Server(config).run([sock])


if __name__ == "__main__":
    {"hypercorn": _run_hypercorn, "uvicorn": _run_uvicorn}[sys.argv[1]]()
