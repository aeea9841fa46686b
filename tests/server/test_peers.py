"""The control server hears no code inside: whose a connection is, and who is refused."""

from __future__ import annotations

import os
import socket
import textwrap
from typing import TYPE_CHECKING

import pytest
import trio

from sandbox_runtime import Runtime, open_sandbox
from sandbox_runtime.server.peers import (
    Owner,
    PeerPolicy,
    ask_sock_diag,
    is_own_address,
    judge,
    needs_token,
    read_tables,
    refusal,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

SHARED = PeerPolicy(private_ids=range(500_000, 600_000), shares_network=True)


@pytest.fixture(params=["127.0.0.1", "::1", "::"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A client's and the server's end of a connection."""
    address = request.param
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    both = address == "::"
    with socket.create_server((address, 0), family=family, dualstack_ipv6=both) as server:
        target = ("127.0.0.1" if both else address, server.getsockname()[1])
        with socket.create_connection(target) as client:
            accepted, _ = server.accept()
            with accepted:
                yield client, accepted


def test_the_kernel_and_its_tables_name_the_same_owner(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    client, accepted = pair
    ends = accepted.getpeername()[:2], accepted.getsockname()[:2]
    asked, read = ask_sock_diag(*ends), read_tables(*ends)
    assert asked == read
    assert asked is not None
    assert asked.inode == os.fstat(client.fileno()).st_ino


def test_a_client_of_this_machine_is_let_in(pair: tuple[socket.socket, socket.socket]) -> None:
    assert refusal(pair[1], SHARED) is None


def test_a_client_that_closed_at_once_is_refused(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    client, accepted = pair
    client.sendall(b"POST /api/execute HTTP/1.1\r\n\r\n")
    client.close()
    assert refusal(accepted, SHARED) is not None


@pytest.mark.parametrize(
    ("owner", "is_local", "refused"),
    [
        (Owner(uid=500_001, inode=7), True, True),
        (Owner(uid=0x4000_0001, inode=7), True, True),
        (Owner(uid=0, inode=7), True, False),
        (Owner(uid=1000, inode=7), True, False),
        (Owner(uid=0, inode=0), True, True),
        (None, True, True),
        (None, False, False),
    ],
)
def test_who_is_refused(owner: Owner | None, is_local: bool, refused: bool) -> None:
    assert (judge(owner, SHARED, is_local=is_local) is not None) == refused


def test_only_shared_ids_on_a_shared_network_need_a_token() -> None:
    def asked(separate: bool, shared: bool, tcp: bool) -> bool:
        return needs_token(separate_ids=separate, shares_network=shared, listens_on_tcp=tcp)

    assert asked(False, True, True)
    assert not asked(True, True, True)
    assert not asked(False, False, True)
    assert not asked(False, True, False)


def test_addresses_of_this_machine_are_known() -> None:
    assert is_own_address("127.0.0.1")
    assert is_own_address("127.9.9.9")
    assert is_own_address("::ffff:127.0.0.1")
    assert not is_own_address("192.0.2.7")


CONNECT = """
import socket, sys
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
connection.sendall(b"GET /api/ping HTTP/1.1\\r\\n\\r\\n")
if sys.argv[2] == "leave":
    connection.close()
    print("left", flush=True)
else:
    print("asked", flush=True)
    connection.recv(1)
"""


@pytest.mark.parametrize("manner", ["stay", "leave"])
async def test_code_inside_is_refused_by_its_user(runtime: Runtime, manner: str) -> None:
    if not runtime.supervisor.separate_ids:
        pytest.skip("an ordinary user's sandboxes have that user's id: there a token is needed")
    policy = PeerPolicy(private_ids=runtime.supervisor.private_ids, shares_network=True)
    async with open_sandbox(runtime=runtime, network="host") as sandbox:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = str(server.getsockname()[1])
            argv = ["python3", "-c", textwrap.dedent(CONNECT), port, manner]
            process = await sandbox.start_process(argv)

            await trio.lowlevel.wait_readable(server)
            accepted, _ = server.accept()
            with accepted:
                if manner == "leave":
                    await process.wait()
                why = refusal(accepted, policy)
    assert why is not None
    assert ("inside a sandbox" if manner == "stay" else "closed") in why
