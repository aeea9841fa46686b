"""The order in which a control server begins and ends.

Begins: refuse what is unsafe, listen (so that a taken port is told at once), start the sandboxes,
serve, say so. Ends at the first signal, or with its owner: accept no more, let requests finish for
`grace_s`, end the sandboxes and the program beside us. A second signal ends the grace.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import resource
import signal
import socket
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import trio

from sandbox_runtime.control.addresses import (
    cannot_listen,
    close_all,
    is_for_this_machine,
    open_port,
)
from sandbox_runtime.control.companion import run_companion
from sandbox_runtime.control.journal import record_event
from sandbox_runtime.control.orphans import reap_orphans
from sandbox_runtime.control.owner import wait_owner_end
from sandbox_runtime.core import VERSION
from sandbox_runtime.errors import InvalidArgumentError
from sandbox_runtime.nursery import open_serving_nursery
from sandbox_runtime.server.app import AppSettings, open_app
from sandbox_runtime.server.http import (
    HttpLimits,
    open_unix_listener,
    serve,
)
from sandbox_runtime.server.peers import PeerPolicy, needs_token, refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Sequence

    from sandbox_runtime.launching import Launch
    from sandbox_runtime.server.app import App

_LOG = logging.getLogger("sandbox_runtime.control")
_INIT_PID = 1
_ENDINGS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class ServeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator chose about the server itself.

    Attributes:
        host: The address of the TCP port.
        port: The port, 0 for any, or None for none.
        unix: The path of a Unix socket, or None for none.
        unix_mode: Who may connect to that, as permissions of a file.
        allowed_hosts: Names by which this server is known besides those of this machine and, where
            others can connect, addresses and names without a dot; `*` is any.
        allow_unauthenticated: Whether other machines may connect though there is no token.
        grace_s: How long requests may go on after the server was told to end.
        app: What is served.
        companion: A program to run beside the server, or nothing.
    """

    host: str = "127.0.0.1"
    port: int | None = 3000
    unix: str | None = None
    unix_mode: int = 0o600
    allowed_hosts: Sequence[str] = ()
    allow_unauthenticated: bool = False
    grace_s: float = 5.0
    app: AppSettings = msgspec.field(default_factory=AppSettings)
    companion: Sequence[str] = ()


async def run_server(
    settings: ServeSettings,
    launched: Launch | None = None,
    *,
    descriptors: int,
    owner: int | None = None,
) -> None:
    """Runs a server until a signal ends it, or the end of its owner.

    Args:
        settings: What the operator chose.
        launched: What its first runtime is to be made of.
        descriptors: The soft limit of descriptors that programs beside the server get.
        owner: What `take_owner` returned: the server ends when that does, and the directory of its
            Unix socket goes with the server; None if it is nobody's.

    Raises:
        InvalidArgumentError: What was chosen is unsafe.
        CannotListenError: An address is taken, or is not ours.
        IsolationError: No sandbox can be made here; it says why and what to do.
    """
    await _check_reach(settings)
    own: set[int] = set()
    # Who was started with a signal ignored, as by nohup, goes on ignoring it.
    endings = [number for number in _ENDINGS if signal.getsignal(number) is not signal.SIG_IGN]
    with trio.open_signal_receiver(*endings) as signals:
        async with open_serving_nursery() as nursery:
            if os.getpid() == _INIT_PID:
                nursery.start_soon(reap_orphans, own)
            until_signal = trio.CancelScope()
            nursery.start_soon(_obey, signals, until_signal)
            if owner is not None:
                nursery.start_soon(_end_with, owner, until_signal)
            await _serve(settings, launched, own, until_signal, descriptors)
    if owner is not None and settings.unix is not None:
        with contextlib.suppress(OSError):  # there is more in it, or it is the owner's to remove
            Path(settings.unix).parent.rmdir()
    record_event(_LOG, "ended")


async def _obey(signals: AsyncIterator[int], until_signal: trio.CancelScope) -> None:
    """The first signal asks, the second does not."""
    async for number in signals:
        name = signal.Signals(number).name
        if until_signal.cancel_called:
            _LOG.warning("a second %s: ending at once", name)
            os._exit(128 + number)  # which closes the socket that everything else lives by
        record_event(_LOG, "ending", signal=name)
        until_signal.cancel()


async def _end_with(owner: int, until_signal: trio.CancelScope) -> None:
    await wait_owner_end(owner)
    record_event(_LOG, "ending", reason="the standard input has ended")
    until_signal.cancel()


async def _serve(
    settings: ServeSettings,
    launched: Launch | None,
    own: set[int],
    until_signal: trio.CancelScope,
    descriptors: int,
) -> None:
    """Serves until the scope is cancelled; the sandboxes are there until the last answer."""
    started_s = time.monotonic()
    listeners, held = await _listen(settings)
    try:
        previews = settings.app.previews
        browsers = msgspec.structs.replace(
            settings.app.browsers,
            hosts={
                name.lower().removesuffix(".") for name in (settings.host, *settings.allowed_hosts)
            },
            below=() if previews is None else (previews.domain,),
            is_reached=not await _is_local(settings),
        )
        async with open_app(
            msgspec.structs.replace(_with_network(settings), browsers=browsers), launched
        ) as app:
            for listener in listeners:
                if listener.socket.family != socket.AF_UNIX:
                    app.host.reserve(listener.socket.getsockname()[1])
            held_families = {one.socket.family for one in held}
            held_families -= {one.socket.family for one in listeners}
            refuse = _guard(app, settings, held_families)
            with until_signal:
                async with open_serving_nursery() as nursery:
                    await nursery.start(
                        partial(
                            serve,
                            app.handle,
                            (*listeners, *held),
                            limits=_http_limits(settings.app),
                            grace_s=settings.grace_s,
                            refuse=refuse,
                        )
                    )
                    await _announce(app, settings, listeners, time.monotonic() - started_s)
                    if settings.companion:
                        nursery.start_soon(
                            run_companion, settings.companion, own, settings.grace_s, descriptors
                        )
                    await trio.sleep_forever()
    finally:
        close_all((*listeners, *held))
        if settings.unix is not None:
            _remove(settings.unix)


def _http_limits(settings: AppSettings) -> HttpLimits:
    """So many connections that their sockets take no more than a quarter of our descriptors."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    usual = HttpLimits()
    return msgspec.structs.replace(
        usual,
        body_bytes=settings.body_limit_bytes,
        memory_bytes=settings.memory_bytes,
        connections=max(min(usual.connections, descriptors // 4), 16),
    )


def _with_network(settings: ServeSettings) -> AppSettings:
    """`auto` is `host` where the code inside is no client: it knows no token, and no Unix socket.

    Elsewhere it is for the host to see whether connections of the code inside can be told apart.
    """
    host = settings.app.host
    if host.network != "auto" or (settings.app.token is None and settings.port is not None):
        return settings.app
    return msgspec.structs.replace(settings.app, host=msgspec.structs.replace(host, network="host"))


def _guard(
    app: App, settings: ServeSettings, held_families: Collection[int]
) -> Callable[[socket.socket], str | None]:
    """What keeps the code inside from this server where it shares this process's network.

    Args:
        app: What is served.
        settings: What the operator chose.
        held_families: Of addresses where the port is held, and served to this machine alone.

    Returns:
        Says of a connection why it is refused, or None.

    Raises:
        InvalidArgumentError: Nothing would keep it away.
    """
    host = app.host
    exposed = needs_token(
        separate_ids=host.separate_ids,
        shares_network=True,
        listens_on_tcp=settings.port is not None,
    )
    if exposed and settings.app.token is None:
        if host.shares_network:
            raise InvalidArgumentError("--network", f"'host' lets the code inside in. {_NEEDS}")
        host.refuse_host_network(_NEEDS)

    def refuse(client: socket.socket) -> str | None:
        if client.family in held_families and not is_for_this_machine(client):
            return "it came to an address that the server does not serve"
        return refusal(client, PeerPolicy(shares_network=host.shares_network))

    return refuse


_NEEDS = (
    "An ordinary user's sandboxes have that user's id, so nothing but a token tells their "
    "connections apart: give --token-file FILE, or --unix PATH alone"
)


def _remove(path: str) -> None:
    Path(path).unlink(missing_ok=True)


async def _check_reach(settings: ServeSettings) -> None:
    if settings.port is None:
        if settings.unix is None:
            raise InvalidArgumentError("--port", "there is nothing to listen on")
        return
    try:
        is_local = await _is_local(settings)
    except OSError as error:
        raise InvalidArgumentError("--host", f"{settings.host!r}: {error.strerror}") from None
    if settings.app.token is not None or settings.allow_unauthenticated:
        return
    if not is_local:
        raise InvalidArgumentError(
            "--host",
            f"{settings.host!r} can be reached from other machines, and no token protects the "
            "server. Give --token-file FILE, or --allow-unauthenticated if something in front of "
            "the server decides who may connect",
        )


async def _is_local(settings: ServeSettings) -> bool:
    """Whether only this machine can connect."""
    if settings.port is None:
        return True
    found = await trio.socket.getaddrinfo(
        settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    addresses = [str(address[0]).partition("%")[0] for *_, address in found]
    return all(ipaddress.ip_address(address).is_loopback for address in addresses)


async def _listen(
    settings: ServeSettings,
) -> tuple[list[trio.SocketListener], list[trio.SocketListener]]:
    """What was asked for, and what keeps others from the port on this machine's other addresses."""
    listeners: list[trio.SocketListener] = []
    held: list[trio.SocketListener] = []
    if settings.port is not None:
        listeners, held = await open_port(settings.host, settings.port)
    if settings.unix is not None:
        try:
            listeners.append(await open_unix_listener(settings.unix, mode=settings.unix_mode))
        except OSError as error:
            close_all((*listeners, *held))
            raise cannot_listen(settings.unix, error) from error
    return listeners, held


async def _announce(
    app: App,
    settings: ServeSettings,
    listeners: Sequence[trio.SocketListener],
    took_s: float,
) -> None:
    report = (await app.host.default()).sandbox.report
    addresses = [_name(listener.socket.getsockname()) for listener in listeners]
    # For the program that started this one: where it may connect from now on.
    with contextlib.suppress(OSError):  # it does not want to know
        sys.stdout.write("".join(f"{address}\n" for address in addresses))
        sys.stdout.flush()
    record_event(
        _LOG,
        "ready",
        version=VERSION,
        addresses=",".join(addresses),
        pid=os.getpid(),
        authentication="token" if settings.app.token is not None else "none",
        network=app.host.network,
        isolation_level=report.level,
        missing=",".join(row.name for row in report.missing) or "none",
        took_ms=round(took_s * 1000),
    )
    if settings.app.host.network == "auto" and app.host.network == "loopback":
        record_event(_LOG, "sandboxes reach themselves alone", remedy=_NEEDS)
    if app.host.network == "host" and settings.app.token is None and not await _is_local(settings):
        _LOG.warning(
            "the code inside is not heard on this machine's addresses, but it can come by way of "
            "others that reach the port: let none of them, or set a token"
        )
    for row in report.missing:
        record_event(
            _LOG,
            "protection missing",
            name=row.name,
            achieved=row.achieved,
            detail=row.detail,
            remedy=row.remedy,
        )


def _name(address: object) -> str:
    if not isinstance(address, tuple):
        return f"unix:{address}"
    host, port = address[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
