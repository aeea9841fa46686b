"""Who may speak to the control server: never the code inside a sandbox.

Where a sandbox shares the network of this process, its code can connect to the server's port. As
root every sandbox has user ids of its own, and the kernel says whose the other end of a connection
on this machine is. What it does not say is refused: a socket that was closed at once after it
sent a request has no owner any more. An ordinary user's sandboxes have that user's own id, so
nothing tells them apart; there only a token does, which `needs_token` says.

A connection from another machine has no socket here, and is a matter of tokens alone. So is code
inside that goes out and comes back through somebody else's proxy, router or port forwarding.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from sandbox_runtime.networks import read_address

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
_NLMSG_ERROR = 2
_NETLINK_SOCK_DIAG = 4
_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBxI2s2s16s16sI8s")
_REPLY = struct.Struct("=BBBB2s2s16s16sI8sIIIII")
_ANY_STATE = 0xFFFFFFFF
_NO_COOKIE = b"\xff" * 8
_ESTABLISHED, _CLOSE_WAIT = 1, 8
_RUNTIME_IDS = range(0x4000_0000, 0x8000_0000)


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """Whose a socket is.

    Attributes:
        uid: The user, as this process numbers users.
        inode: The socket's number; 0 once nobody holds it any more.
    """

    uid: int
    inode: int


class PeerPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Whom to refuse.

    Attributes:
        private_ids: The user ids that sandboxes of this server have.
        shares_network: Whether any sandbox shares the network of this process.
    """

    private_ids: Collection[int] = ()
    shares_network: bool = False

    def is_of_sandbox(self, uid: int) -> bool:
        """Whether this is a user id of a sandbox: one of ours, or of another runtime here."""
        return uid in self.private_ids or uid in _RUNTIME_IDS


def needs_token(*, separate_ids: bool, shares_network: bool, listens_on_tcp: bool) -> bool:
    """Whether only a token can keep the code inside from the control server.

    A Unix socket needs none: its path leads nowhere inside a sandbox.
    """
    return listens_on_tcp and shares_network and not separate_ids


def judge(owner: Owner | None, policy: PeerPolicy, *, is_local: bool) -> str | None:
    """Why a connection is refused, or None.

    Args:
        owner: Whose the other end is, if that could be found.
        policy: Whom to refuse.
        is_local: Whether the other end has an address of this machine.
    """
    if owner is not None and owner.inode and policy.is_of_sandbox(owner.uid):
        return f"it comes from inside a sandbox (user {owner.uid})"
    if not policy.shares_network or not is_local:
        return None
    if owner is None:
        return "it comes from this machine, and nobody's socket is at its other end"
    if not owner.inode:
        return "its other end was closed before it could be seen whose it was"
    return None


def refusal(sock: socket.socket, policy: PeerPolicy) -> str | None:
    """Why an accepted connection is refused, or None; asks the kernel, never waits.

    Args:
        sock: The accepted socket: TCP or Unix.
        policy: Whom to refuse.
    """
    if sock.family == socket.AF_UNIX:
        _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return judge(Owner(uid=uid, inode=1), policy, is_local=True)
    if not policy.shares_network:
        return None  # nothing inside has a way to this port
    try:
        here, there = sock.getsockname()[:2], sock.getpeername()[:2]
        owner = find_owner(there, here)
        state = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            return "it is over already"
        return f"its other end cannot be looked up: {error.strerror}"
    if state not in {_ESTABLISHED, _CLOSE_WAIT}:
        return "it is over already"
    local = owner is not None or there[0] == here[0] or is_own_address(there[0])
    return judge(owner, policy, is_local=local)


def is_own_address(address: str) -> bool:
    """Whether it is an address of this machine: one that can be listened on."""
    parsed = _plain(address)
    if parsed.is_loopback:
        return True
    family = socket.AF_INET if parsed.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(parsed), 0))
        except OSError as error:
            return error.errno != errno.EADDRNOTAVAIL
    return True


def find_owner(there: tuple[str, int], here: tuple[str, int]) -> Owner | None:
    """Whose the socket at address `there` is that is connected to `here`; None if none is known.

    Raises:
        OSError: It cannot be found out.
    """
    try:
        return ask_sock_diag(there, here)
    except OSError as error:
        if error.errno in {errno.EPROTONOSUPPORT, errno.EPERM, errno.EACCES}:
            return read_tables(there, here)
        raise


def _plain(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped:
        return parsed.ipv4_mapped
    return parsed


def ask_sock_diag(there: tuple[str, int], here: tuple[str, int]) -> Owner | None:
    """Asks the kernel for one socket (sock_diag(7))."""
    source, target = _plain(there[0]), _plain(here[0])
    family = socket.AF_INET if source.version == 4 else socket.AF_INET6
    body = _REQUEST.pack(
        family,
        socket.IPPROTO_TCP,
        0,
        _ANY_STATE,
        there[1].to_bytes(2, "big"),
        here[1].to_bytes(2, "big"),
        source.packed.ljust(16, b"\0"),
        target.packed.ljust(16, b"\0"),
        0,
        _NO_COOKIE,
    )
    head = _HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as asking:
        asking.sendto(head + body, (0, 0))
        answer = asking.recv(4096, socket.MSG_DONTWAIT)
    _, kind, *_ = _HEADER.unpack_from(answer)
    if kind == _NLMSG_ERROR:
        (number,) = struct.unpack_from("=i", answer, _HEADER.size)
        if -number == errno.ENOENT:
            return None
        raise OSError(-number, "sock_diag")
    found = _REPLY.unpack_from(answer, _HEADER.size)
    if found[5] != here[1].to_bytes(2, "big"):
        return None  # somebody who merely listens there
    return Owner(uid=found[-2], inode=found[-1])


def read_tables(
    there: tuple[str, int],
    here: tuple[str, int],
    read: Callable[[str], bytes] = lambda name: Path("/proc/self/net", name).read_bytes(),
) -> Owner | None:
    """As `ask_sock_diag`, from proc_net(5), which takes longer the more connections there are."""
    wanted = (_plain(there[0]), there[1]), (_plain(here[0]), here[1])
    for name in ("tcp", "tcp6"):
        try:
            table = read(name)
        except FileNotFoundError:
            continue
        for fields in map(bytes.split, table.splitlines()[1:]):
            ends = [read_address(field) for field in fields[1:3]]
            if tuple((_plain(address), port) for address, port in ends) == wanted:
                return Owner(uid=int(fields[7]), inode=int(fields[9]))
    return None
