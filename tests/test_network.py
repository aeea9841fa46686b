"""Networks: what a sandbox can reach, and how it is reached from here."""

from __future__ import annotations

import errno
import os
import socket
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from sandbox_runtime import (
    InvalidArgumentError,
    ListenError,
    NotFoundError,
    PortUnreachableError,
    Runtime,
    Sandbox,
    open_sandbox,
)
from sandbox_runtime.bench.fingerprint import descendants
from sandbox_runtime.interpreters.zygote import Zygote
from sandbox_runtime.messages import Execute

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Sequence

    from sandbox_runtime.supervisor import Supervisor

OWN_NETWORK = os.readlink("/proc/self/ns/net")  # noqa: PTH115 - no path, a name of the kernel's


@pytest.fixture(autouse=True)
def _light_zygote(monkeypatch: pytest.MonkeyPatch) -> None:
    """Zygotes of these tests import no large library: each test has one of its own."""
    make = Zygote.open

    def open_light(
        supervisor: Supervisor,
        python: str,
        _preload: Sequence[str] = (),
        *,
        host_network: bool = False,
    ) -> Awaitable[Zygote]:
        return make(supervisor, python, (), host_network=host_network)

    monkeypatch.setattr(Zygote, "open", open_light)


@pytest.fixture
async def host_sandbox(runtime: Runtime) -> AsyncIterator[Sandbox]:
    async with open_sandbox(runtime=runtime, network="host") as sandbox:
        yield sandbox


def landlock_hides_abstract_sockets(sandbox: Sandbox) -> bool:
    return sandbox.report["landlock"].achieved == "full"


async def python(sandbox: Sandbox, code: str) -> str:
    """What a program of the sandbox prints."""
    result = await sandbox.exec(["python3", "-c", textwrap.dedent(code)])
    assert result.exit_code == 0, result.stderr.decode()
    return result.stdout.decode().strip()


def connecting(port: int) -> str:
    return f"""
        import socket
        try:
            with socket.create_connection(("127.0.0.1", {port}), 10) as connection:
                print(connection.recv(100).decode())
        except OSError as error:
            print(error)
        """


async def greet_one(listener: trio.SocketListener) -> None:
    async with await listener.accept() as stream:
        await stream.send_all(b"from the host")


async def test_a_sandbox_has_a_network_of_its_own_by_default(sandbox: Sandbox) -> None:
    network = (await sandbox.exec("readlink /proc/self/ns/net")).stdout.decode().strip()
    assert network != OWN_NETWORK
    assert sandbox.report["net_namespace"].achieved == "full"
    devices = await python(
        sandbox, "import socket; print([name for _, name in socket.if_nameindex()])"
    )
    assert devices == "['lo']"


async def test_the_hosts_loopback_cannot_be_reached_by_default(sandbox: Sandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        answer = await python(sandbox, connecting(server.getsockname()[1]))
    assert "refused" in answer


async def test_with_the_hosts_network_its_loopback_is_reached(host_sandbox: Sandbox) -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(greet_one, listeners[0])
        answer = await python(host_sandbox, connecting(listeners[0].socket.getsockname()[1]))
    await listeners[0].aclose()
    assert answer == "from the host"


async def test_the_report_says_that_the_network_was_given_up(host_sandbox: Sandbox) -> None:
    row = host_sandbox.report["net_namespace"]
    assert (row.achieved, row.requested) == ("absent", "given up")
    assert "loopback" in row.detail
    assert row not in host_sandbox.report.missing
    others = [row for row in host_sandbox.report.missing if row.requested == "required"]
    assert not others, "everything else is as isolated as ever"


@pytest.mark.parametrize("name", ["resolv.conf", "hosts"])
async def test_with_the_hosts_network_names_are_resolved_as_on_the_host(
    host_sandbox: Sandbox, name: str
) -> None:
    inside = await host_sandbox.files.read(f"/etc/{name}")
    host = Path("/etc", name)
    assert inside.startswith(host.read_bytes() if host.exists() else b"")
    written = await host_sandbox.exec(f"echo nonsense >/etc/{name}")
    assert written.exit_code != 0


async def test_two_networks_in_one_runtime_do_not_meet(
    sandbox: Sandbox, host_sandbox: Sandbox
) -> None:
    networks = [
        (await each.exec("readlink /proc/self/ns/net")).stdout.decode().strip()
        for each in (sandbox, host_sandbox)
    ]
    assert networks[0] != OWN_NETWORK
    assert networks[1] == OWN_NETWORK
    assert await sandbox.files.read("/etc/resolv.conf") == b""


ABSTRACT_NAME = f"sandbox-test-{os.getpid()}"
CONNECT_ABSTRACT = f"""
    import socket
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect("\\0{ABSTRACT_NAME}")
        print("reached")
    except OSError as error:
        print(error)
    """


async def test_abstract_sockets_of_the_host_cannot_be_reached_by_default(sandbox: Sandbox) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"\0{ABSTRACT_NAME}")
        server.listen()
        assert "refused" in await python(sandbox, CONNECT_ABSTRACT)


async def test_abstract_sockets_stay_closed_by_landlock_with_the_hosts_network(
    host_sandbox: Sandbox,
) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"\0{ABSTRACT_NAME}")
        server.listen()
        answer = await python(host_sandbox, CONNECT_ABSTRACT)
    if landlock_hides_abstract_sockets(host_sandbox):
        assert "not permitted" in answer
    else:
        assert answer == "reached", "and the report says so"
        assert "abstract" in host_sandbox.report["net_namespace"].detail


READ_NETWORK = "import os; print(os.readlink('/proc/self/ns/net'))"


async def test_contexts_have_a_loopback_only_network_beside_the_hosts(
    host_sandbox: Sandbox,
) -> None:
    context = await host_sandbox.create_code_context()
    result = await context.run(f"{READ_NETWORK}\nimport socket; socket.if_nameindex()")
    assert result.error is None
    assert result.stdout.decode().strip() != OWN_NETWORK
    assert result.results[0].data["text/plain"] == "[(1, 'lo')]"
    with socket.create_server(("127.0.0.1", 0)) as server:
        reached = await context.run(textwrap.dedent(connecting(server.getsockname()[1])))
    assert b"refused" in reached.stdout
    # Nothing in its jail leads back: not its init either.
    visible = await context.run(NETWORKS_IN_SIGHT)
    assert OWN_NETWORK not in visible.stdout.decode()
    other = await host_sandbox.create_code_context()
    assert (await other.run(READ_NETWORK)).stdout == (await context.run(READ_NETWORK)).stdout
    assert OWN_NETWORK not in networks_of_zygotes()


NETWORKS_IN_SIGHT = """
import os
print({os.readlink(f"/proc/{pid}/ns/net") for pid in os.listdir("/proc")
       if pid.isdigit() and os.access(f"/proc/{pid}/ns/net", os.R_OK)})
"""


def networks_of_zygotes() -> set[str]:
    """Of those that may be looked at: as root all of them."""
    return {
        os.readlink(f"/proc/{pid}/ns/net")  # noqa: PTH115 - as above
        for pid in descendants(os.getpid())
        if "python_zygote" in command_line(pid) and os.access(f"/proc/{pid}/ns/net", os.R_OK)
    }


async def test_a_context_joins_the_sandboxes_network_when_asked(host_sandbox: Sandbox) -> None:
    context = await host_sandbox.create_code_context(network="sandbox")
    assert (await context.run(READ_NETWORK)).stdout.decode().strip() == OWN_NETWORK


async def test_without_the_hosts_network_contexts_share_the_sandboxes(sandbox: Sandbox) -> None:
    sessions = (await sandbox.exec("readlink /proc/self/ns/net")).stdout
    own = await sandbox.create_code_context()
    shared = await sandbox.create_code_context(network="sandbox")
    assert (await own.run(READ_NETWORK)).stdout == sessions
    assert (await shared.run(READ_NETWORK)).stdout == sessions


@pytest.mark.parametrize("network", ["", "none", "Host", None, 1])
async def test_an_unknown_network_is_refused(runtime: Runtime, network: object) -> None:
    with pytest.raises(InvalidArgumentError, match=r"network: .* known: loopback, host"):
        async with open_sandbox(runtime=runtime, network=network):  # type: ignore[arg-type]
            pass


async def test_an_unknown_network_of_a_context_is_refused(sandbox: Sandbox) -> None:
    with pytest.raises(InvalidArgumentError, match="network: 'host' is not known"):
        await sandbox.create_code_context(network="host")  # type: ignore[arg-type]


async def test_the_hosts_network_and_a_network_of_ones_own_exclude_each_other(
    runtime: Runtime,
) -> None:
    with pytest.raises(InvalidArgumentError, match="require"):
        async with open_sandbox(runtime=runtime, network="host", require=["net_namespace"]):
            pass


async def test_closing_ends_the_processes_of_both_networks(runtime: Runtime) -> None:
    async with open_sandbox(runtime=runtime, network="host") as sandbox:
        await sandbox.exec("sleep infinity & true")
        forever = Execute(argv=(b"sleep", b"infinity"), env=(), cwd=b"/")
        with open(os.devnull, "rb") as null:
            jail = await sandbox._keeper.create_jail(
                forever, [null.fileno()] * 3, inner_network=True
            )
        await jail.wait_started()
        inside = set(descendants(os.getpid()))
    await jail.aclose()
    left = [
        pid for pid in descendants(os.getpid()) if pid in inside and "sleep" in command_line(pid)
    ]
    assert left == []


def command_line(pid: int) -> str:
    """Of a process; nothing if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


# --- ports --------------------------------------------------------------------------------------

SERVE = """
import socket, sys
server = socket.create_server((sys.argv[1], int(sys.argv[2])), family=int(sys.argv[3]))
while True:
    connection, _ = server.accept()
    connection.sendall(b"from inside")
    connection.close()
"""


async def serve_inside(sandbox: Sandbox, address: str = "127.0.0.1", port: int = 7070) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    argv = ["python3", "-c", SERVE, address, str(port), str(int(family))]
    await sandbox.start_process(argv)
    with trio.fail_after(20):
        assert await sandbox.ports.wait_until_open(port)


async def greeting(stream: trio.SocketStream) -> bytes:
    async with stream:
        return b"".join([piece async for piece in stream])


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::1", "::"])  # noqa: S104
async def test_a_port_inside_is_reached_wherever_it_listens(sandbox: Sandbox, address: str) -> None:
    await serve_inside(sandbox, address)
    assert await greeting(await sandbox.connect(7070)) == b"from inside"
    assert [each.port for each in sandbox.ports.listening()] == [7070]


async def test_connecting_never_reaches_the_hosts_loopback(sandbox: Sandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with pytest.raises(PortUnreachableError):
            await sandbox.connect(server.getsockname()[1])
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


async def test_two_sandboxes_listen_on_the_same_port(runtime: Runtime, sandbox: Sandbox) -> None:
    await serve_inside(sandbox)
    async with open_sandbox(runtime=runtime) as other:
        with pytest.raises(PortUnreachableError):
            await other.connect(7070)


async def test_the_control_servers_port_is_refused_in_a_shared_network(
    sandbox: Sandbox, host_sandbox: Sandbox
) -> None:
    for each in (sandbox, host_sandbox):
        each.ports.reserve(7070)
    with pytest.raises(InvalidArgumentError, match="control server"):
        await host_sandbox.connect(7070)
    with pytest.raises(InvalidArgumentError, match="control server"):
        host_sandbox.ports.expose(7070)
    await serve_inside(sandbox)
    assert await greeting(await sandbox.connect(7070)) == b"from inside", "another port there"


async def test_waiting_ends_with_the_process(sandbox: Sandbox) -> None:
    process = await sandbox.start_process(["true"])
    with trio.fail_after(20):
        assert not await sandbox.ports.wait_until_open(7070, process=process)


@pytest.mark.parametrize("port", [0, -1, 65536, 1.5, "80", None, True])
async def test_what_is_no_port_is_refused(sandbox: Sandbox, port: object) -> None:
    with pytest.raises(InvalidArgumentError, match="is no port"):
        await sandbox.connect(port)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="is no port"):
        sandbox.ports.expose(port)  # type: ignore[arg-type]


async def test_unexposing_forgets_the_port_and_its_token(sandbox: Sandbox) -> None:
    first = sandbox.ports.expose(7070, name="web")
    again = sandbox.ports.expose(7070)
    assert first.token != again.token
    assert sandbox.ports.list() == [again]
    sandbox.ports.unexpose(7070)
    assert sandbox.ports.list() == []
    with pytest.raises(NotFoundError):
        sandbox.ports.unexpose(7070)


async def test_where_this_machine_cannot_listen_the_field_and_the_remedy_are_named(
    sandbox: Sandbox,
) -> None:
    """It stays an OSError with its number, and nothing is exposed."""
    with pytest.raises(ListenError, match=r"^listen: .* give one like '127\.0\.0\.1'") as told:
        sandbox.ports.expose(8000, listen="192.0.2.1")
    assert (told.value.errno, told.value.field) == (errno.EADDRNOTAVAIL, "listen")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ListenError, match="Something else listens there: end that") as told:
            sandbox.ports.expose(port, listen="127.0.0.1")
    assert isinstance(told.value, OSError)
    assert told.value.errno == errno.EADDRINUSE
    assert sandbox.ports.list() == []


async def test_a_port_of_this_machine_leads_inside_as_long_as_it_is_exposed(
    sandbox: Sandbox,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    await serve_inside(sandbox, port=port)
    sandbox.ports.expose(port, listen="127.0.0.1")
    assert await greeting(await trio.open_tcp_stream("127.0.0.1", port)) == b"from inside"
    sandbox.ports.unexpose(port)
    await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(OSError, match="connect"):
        await trio.open_tcp_stream("127.0.0.1", port)
