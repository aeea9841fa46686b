"""The round trip of a ping over HTTP, ours against a C server and, where installed, its peers.

All servers run at once and are asked in turns, by one client in C: back to back, and with 2 ms
between requests, where waking up is what counts. Figures are medians in microseconds.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from sandbox_runtime.server.http import Request, Response, open_tcp_listeners, serve

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
TARGETS = {"back_to_back_per_c": 3.0, "gaps_per_hypercorn": 1 / 3}
GAPS_US = {"back_to_back": 0, "gaps": 2000}


async def answer(request: Request) -> Response:
    """A ping as the control server has it."""
    await request.read()
    return Response(
        headers=(("content-type", "application/json"),),
        body=msgspec.json.encode({"message": "pong"}),
    )


async def run_ours() -> None:
    """Our server."""
    listeners = await open_tcp_listeners("127.0.0.1", 0)
    print(listeners[0].socket.getsockname()[1], flush=True)
    await serve(answer, listeners, grace_s=0)


async def application(scope: Any, _receive: Any, send: Any) -> None:
    """The same as the least that ASGI allows."""
    assert scope["type"] == "http"
    body = msgspec.json.encode({"message": "pong"})
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def run_hypercorn() -> None:
    """hypercorn on trio."""
    from hypercorn.config import Config
    from hypercorn.trio import serve as serve_asgi

    config = Config()
    config.bind, config.accesslog, config.errorlog = ["127.0.0.1:0"], None, None
    config.keep_alive_max_requests = 10**9

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            bound = await nursery.start(partial(serve_asgi, application, config, mode="asgi"))
            print(bound[0].rpartition(":")[2], flush=True)

    trio.run(main)


def run_uvicorn() -> None:
    """uvicorn, on uvloop if that is installed."""
    import socket

    import uvicorn

    sock = socket.create_server(("127.0.0.1", 0))
    print(sock.getsockname()[1], flush=True)
    config = uvicorn.Config(application, log_level="critical", lifespan="off")
    uvicorn.Server(config).run([sock])


SERVERS = {
    "ours": lambda: trio.run(run_ours),
    "hypercorn": run_hypercorn,
    "uvicorn": run_uvicorn,
}


@contextlib.contextmanager
def started(command: list[str]) -> Iterator[int]:
    """A server that prints its port."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield int(server.stdout.readline())
        finally:
            server.kill()


def ask(peer: str, port: int, count: int, gap_us: int) -> list[float]:
    """Round trips in microseconds."""
    command = [peer, "ask", str(port), str(count), str(gap_us)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [int(line) / 1000 for line in done.stdout.split()]


def measure(rounds: int) -> dict[str, float]:
    """All servers, asked in turns."""
    installed = [name for name in ("hypercorn", "uvicorn") if importlib.util.find_spec(name)]
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as servers:
        peer = f"{directory}/ping_peer"
        subprocess.run(["cc", "-O2", "-o", peer, str(HERE / "ping_peer.c")], check=True)
        ports = {"c": servers.enter_context(started([peer, "serve"]))}
        for name in ("ours", *installed):
            command = [sys.executable, __file__, "--serve", name]
            ports[name] = servers.enter_context(started(command))
        for _ in range(rounds):
            for case, gap_us in GAPS_US.items():
                for name, port in ports.items():
                    times = ask(peer, port, 100 if gap_us else 1000, gap_us)
                    found.setdefault(f"{case}_{name}", []).append(statistics.median(times))
    figures = {f"{name}_us": statistics.median(times) for name, times in found.items()}
    for case in GAPS_US:
        for name in ports:
            if name != "ours":
                ratio = figures[f"{case}_ours_us"] / figures[f"{case}_{name}_us"]
                figures[f"{case}_per_{name}"] = ratio
    return figures


def main() -> int:
    """Measures, and prints which targets are met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", choices=SERVERS, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", action="store_true", help="print the figures alone")
    options = parser.parse_args()
    if options.serve:
        SERVERS[options.serve]()
        return 0
    figures = measure(options.rounds)
    if options.json:
        print(json.dumps(figures))
        return 0
    for name, value in figures.items():
        target = TARGETS.get(name)
        state = "" if target is None else "met" if value <= target else "MISSED"
        bound = "" if target is None else f"   <= {target:.2f} {state}"
        print(f"{name:30} {value:8.2f}{bound}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
