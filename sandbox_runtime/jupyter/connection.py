"""Where the kernel is to listen, as the front end has written it down, and the sockets there."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import zmq

from sandbox_runtime.errors import InvalidArgumentError
from sandbox_runtime.jupyter.channels import Channel, Publication

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LINGER_MS = 1000

PortNumber = Annotated[int, msgspec.Meta(ge=1, le=65535)]


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """A connection file.

    Attributes:
        transport: `tcp`, or `ipc` for Unix sockets.
        ip: The address, or what the names of the sockets begin with.
        key: What messages are signed with; nothing if they are not.
        signature_scheme: How.
        shell_port: Where requests come in.
        control_port: Likewise, those that cannot wait: interrupt and shutdown.
        iopub_port: Where output goes out.
        stdin_port: Where input would be asked for.
        hb_port: Where a front end hears that the kernel lives.
    """

    transport: Literal["tcp", "ipc"] = "tcp"
    ip: str = "127.0.0.1"
    key: str = ""
    signature_scheme: str = "hmac-sha256"
    shell_port: PortNumber
    control_port: PortNumber
    iopub_port: PortNumber
    stdin_port: PortNumber
    hb_port: PortNumber

    def address(self, port: int) -> str:
        """As ZeroMQ writes it."""
        return f"{self.transport}://{self.ip}{':' if self.transport == 'tcp' else '-'}{port}"


class Channels(msgspec.Struct, frozen=True, kw_only=True):
    """The sockets of a kernel."""

    shell: Channel
    control: Channel
    publication: Publication
    stdin: Channel
    heartbeat: Channel


def read_connection(path: Path) -> Connection:
    """Reads a connection file.

    Raises:
        InvalidArgumentError: It cannot be read, or says something else.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Connection)
    except OSError as error:
        raise InvalidArgumentError("connection file", f"{path}: {error.strerror}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidArgumentError("connection file", f"{path}: {error}") from error


@contextmanager
def open_channels(connection: Connection) -> Iterator[Channels]:
    """Listens; what was sent by the end of the block still goes out, for a second at most.

    Raises:
        InvalidArgumentError: Somebody else listens there, or nobody can.
    """
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        try:
            channels = Channels(
                shell=Channel(context, zmq.ROUTER, connection.address(connection.shell_port)),
                control=Channel(context, zmq.ROUTER, connection.address(connection.control_port)),
                publication=Publication(context, connection.address(connection.iopub_port)),
                stdin=Channel(context, zmq.ROUTER, connection.address(connection.stdin_port)),
                heartbeat=Channel(context, zmq.REP, connection.address(connection.hb_port)),
            )
        except zmq.ZMQError as error:
            where = f"{connection.transport}://{connection.ip}"
            message = f"cannot listen at its ports of {where}: {error.strerror}"
            raise InvalidArgumentError("connection file", message) from error
        yield channels
    finally:
        context.destroy(linger=_LINGER_MS)
