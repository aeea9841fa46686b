"""Networks: what a sandbox may reach, and how the control process reaches into it.

`loopback` is a network of the sandbox's own with a loopback device only. `host` is the one that the
control process has, for installing packages and cloning. A third kind, through a proxy that
knows which hosts are allowed, would be a loopback network with a door, and one more name here.
"""

from __future__ import annotations

import errno
import ipaddress
import re
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast, get_args

import msgspec
import trio

from sandbox_runtime.choices import Network
from sandbox_runtime.errors import InvalidArgumentError, IsolationError, PortUnreachableError
from sandbox_runtime.messages import LOOPBACK, HostNetwork, LoopbackNetwork
from sandbox_runtime.settings import ContextNetwork

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from sandbox_runtime.keeper import Keeper

_LONGEST_HOST_NAME = 64  # of utsname, see uname(2)
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?")
_NAME_SERVICE = (Path("/etc/resolv.conf"), Path("/etc/hosts"))
_NAME_SERVICE_BYTES = 16 * 1024 * 1024
_OWN_NAME = b"\n127.0.0.1 sandbox\n"
_LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


def check_network(value: object, require: Collection[str] = ()) -> Network:
    """The value, if it is one of `Network` and leaves what is required."""
    _check_known(value, get_args(Network))
    if value == "host" and "net_namespace" in require:
        message = "'net_namespace' and network='host' exclude each other"
        raise InvalidArgumentError("require", message)
    return cast("Network", value)


def check_context_network(value: object) -> ContextNetwork:
    """The value, if it is one of `ContextNetwork`."""
    _check_known(value, get_args(ContextNetwork))
    return cast("ContextNetwork", value)


def _check_known(value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InvalidArgumentError("network", f"{value!r} is not known; known: {', '.join(known)}")


def check_port(field: str, value: object) -> int:
    """The value, if it is the number of a TCP port."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 65535:
        raise InvalidArgumentError(field, f"{value!r} is no port: a whole number, 1 to 65535")
    return value


def describe(network: Network) -> LoopbackNetwork | HostNetwork:
    """What the native side needs to know to make such a network.

    Raises:
        IsolationError: A file of the name service cannot be shown inside.
    """
    if network == "loopback":
        return LOOPBACK
    resolv_conf, hosts = (_read_small(path) for path in _NAME_SERVICE)
    return HostNetwork(resolv_conf=resolv_conf, hosts=hosts + _OWN_NAME)


def _read_small(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_NAME_SERVICE_BYTES + 1)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise IsolationError(
            "copy_file",
            error.errno or 0,
            f"cannot read {path}",
            remedy="Make it readable, or use network='loopback'",
        ) from error
    if len(content) > _NAME_SERVICE_BYTES:
        raise IsolationError(
            "copy_file",
            errno.EFBIG,
            f"{path} is larger than {_NAME_SERVICE_BYTES} bytes",
            remedy="Shorten it, or use network='loopback'",
        )
    return content


async def connect(keeper: Keeper, port: int) -> trio.SocketStream:
    """A TCP connection to a port of the sandbox's loopback: 127.0.0.1, then ::1.

    The sockets are opened inside by the sandbox's keeper, as its own, and handed over. A socket
    stays in the network it was opened in, so this never touches the network of this process,
    unless the sandbox shares it.

    Raises:
        PortUnreachableError: Nothing listens there.
        SandboxLostError: The sandbox has died.
    """
    sockets = await keeper.open_sockets()
    refused: OSError | None = None
    try:
        while sockets:
            opened = trio.socket.from_stdlib_socket(sockets.pop(0))
            try:
                await opened.connect((_LOOPBACK[opened.family], port))
            except OSError as error:
                opened.close()
                refused = refused or error
            except BaseException:
                opened.close()
                raise
            else:
                return trio.SocketStream(opened)
    finally:
        _close(sockets)
    raise PortUnreachableError(port, refused.errno or 0 if refused else errno.EAFNOSUPPORT)


def _close(sockets: Iterable[socket.socket]) -> None:
    for each in sockets:
        each.close()


class Listening(msgspec.Struct, frozen=True, kw_only=True):
    """One listening TCP socket.

    Attributes:
        address: Where it listens; `0.0.0.0` and `::` are everywhere.
        port: Its port.
    """

    address: str
    port: int

    @property
    def on_loopback(self) -> bool:
        """Whether a connection to 127.0.0.1 or ::1 gets there."""
        return self.address in _REACHED


_REACHED = frozenset({"0.0.0.0", "127.0.0.1", "::", "::1", "::ffff:127.0.0.1", "::ffff:0.0.0.0"})  # noqa: S104
_LISTEN = b"0A"
_OWN_USER = b"1000"


def read_listening(keeper: Keeper) -> tuple[Listening, ...]:
    """The TCP sockets of the sandbox's network that listen; see `Ports.listening`."""
    found = {
        Listening(address=read_address(fields[1])[0], port=read_address(fields[1])[1])
        for table in keeper.read_socket_tables()
        for fields in map(bytes.split, table.splitlines()[1:])
        if fields[3] == _LISTEN and (fields[7] == _OWN_USER or not keeper.has_host_network)
    }
    return tuple(sorted(found, key=lambda each: (each.port, each.address)))


def read_address(field: bytes) -> tuple[str, int]:
    """An address as proc_net(5) writes it: each 32 bits in the machine's order, then the port."""
    digits, port = field.split(b":")
    words = [int(digits[i : i + 8], 16) for i in range(0, len(digits), 8)]
    packed = b"".join(word.to_bytes(4, sys.byteorder) for word in words)
    address = ipaddress.ip_address(packed)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return f"::ffff:{address.ipv4_mapped}", int(port, 16)
    return str(address), int(port, 16)


def check_host_name(name: str) -> None:
    """Refuses what no program would take for the name of a machine.

    Raises:
        InvalidArgumentError: It is no such name.
    """
    is_name = isinstance(name, str) and len(name) <= _LONGEST_HOST_NAME
    if not is_name or not all(map(_LABEL.fullmatch, name.split("."))):
        what = "must be 1 to 64 letters, digits and hyphens, in parts between dots, none of which"
        raise InvalidArgumentError(
            "host_name", f"{what} begins or ends with a hyphen, not {name!r}"
        )
