"""Where the server listens, and what it holds beside that so that nobody else listens there.

Code inside that shares this machine's network may listen on any port that is free, and a port is
free on one address though it is taken on another. A client that says `localhost` gets to whichever
family answers, with the operator's token in its request. So the port is held on the loopback
address of the other family too, or on all addresses of the other family where all of one are
listened on, and is served there, but for this machine alone. (An address of the same family that
means all is refused by the kernel while one of them is listened on.)
"""

from __future__ import annotations

import errno
import ipaddress
import os
from typing import TYPE_CHECKING

from sandbox_runtime.errors import SandboxError
from sandbox_runtime.server.http import open_tcp_listeners

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    import trio

_TRIES = 16
_OTHERS = {"127.0.0.1": "::1", "::1": "127.0.0.1", "0.0.0.0": "::", "::": "0.0.0.0"}  # noqa: S104
_NO_SUCH_FAMILY = frozenset((errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT))


class CannotListenError(SandboxError):
    """An address cannot be listened on."""

    code = "cannot_listen"


async def open_port(
    host: str, port: int
) -> tuple[list[trio.SocketListener], list[trio.SocketListener]]:
    """Listens on a port, and holds it on the other addresses that clients may take for it.

    Args:
        host: An address, or a name.
        port: The port, 0 for any that is free on all of these addresses.

    Returns:
        The listeners that were asked for, and those that hold the port.

    Raises:
        CannotListenError: One of them cannot be had.
    """
    for _ in range(_TRIES if port == 0 else 1):
        try:
            asked = await open_tcp_listeners(host, port)
        except OSError as error:
            raise cannot_listen(f"{host} port {port}", error) from error
        other = ""
        held: list[trio.SocketListener] = []
        try:
            for other, number in _held_addresses(asked):
                try:
                    held += await open_tcp_listeners(other, number)
                except OSError as error:
                    if _number_of(error) not in _NO_SUCH_FAMILY:
                        raise
        except OSError as error:
            close_all((*asked, *held))
            taken = error
        except BaseException:
            close_all((*asked, *held))
            raise
        else:
            return asked, held
    raise cannot_listen(f"{other} port {port}", taken, _HELD_REMEDY) from taken


def _held_addresses(asked: Sequence[trio.SocketListener]) -> list[tuple[str, int]]:
    """Which addresses, and ports, are to be held beside those that are listened on."""
    names = [listener.socket.getsockname()[:2] for listener in asked]
    wanted = [(_OTHERS[address], port) for address, port in names if address in _OTHERS]
    return [name for name in wanted if name not in names]


def is_for_this_machine(client: socket.socket) -> bool:
    """Whether a connection was made to an address that only this machine reaches."""
    address = ipaddress.ip_address(str(client.getsockname()[0]).partition("%")[0])
    return address.is_loopback


def close_all(listeners: Sequence[trio.SocketListener]) -> None:
    """Listens no more."""
    for listener in listeners:
        listener.socket.close()


def _number_of(error: OSError) -> int | None:
    cause = error if error.errno else error.__cause__  # trio says more, in words
    return cause.errno if isinstance(cause, OSError) else None


def cannot_listen(address: str, error: OSError, remedy: str | None = None) -> CannotListenError:
    """What tells the operator why, and what to do."""
    number = _number_of(error)
    why = os.strerror(number) if number else str(error)
    if remedy is None:
        remedy = _LISTEN_REMEDIES.get(number or 0, "")
    return CannotListenError(f"cannot listen on {address}: {why}", remedy=remedy)


_LISTEN_REMEDIES = {
    errno.EADDRINUSE: "Something else listens there, or is there: choose another with --port, "
    "--host or --unix",
    errno.EADDRNOTAVAIL: "That is no address of this machine: choose another with --host",
    errno.EACCES: "Choose a port above 1023 with --port, or a directory you may write to",
    errno.ENOENT: "Make the directory first",
}
_HELD_REMEDY = (
    "The server holds its port there too, since clients that say `localhost` may get there with "
    "what is meant for the server. Something else has it: end that, or choose another with --port"
)
