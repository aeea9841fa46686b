"""The door to Rust: the only importer of `_core`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandbox_runtime import _core
from sandbox_runtime.errors import SandboxLostError, named

if TYPE_CHECKING:
    import select
    import socket

quote_word = _core.quote_word
plain_words = _core.plain_words
shell_builtin = _core.shell_builtin
node_addon = _core.node_addon
read_children = _core.read_children
start_supervisor = _core.start_supervisor
Command = _core.Command
Neighbour = _core.Neighbour
UnderWay = _core.UnderWay
core_path: str = _core.__file__
VERSION = _core.version


def send_command(
    sock: socket.socket,
    epoll: select.epoll,
    packet: bytes,
    stdin: int,
    body: int | None,
    shell: Neighbour | None = None,
) -> Command:
    """Sends a session's shell a request with its descriptors, which stay the caller's.

    Args:
        sock: To the shell.
        epoll: Waits for the socket, and from here on for the command's pipes.
        packet: The request.
        stdin: What the command reads.
        body: A memory file with the request's body, if that is not in the packet.
        shell: The shell itself, if it may be called to this processor.

    Raises:
        BlockingIOError: There is no room for it.
        HostLimitError: Something of this user's is used up; nothing was sent.
        SandboxLostError: The shell has died.
    """
    try:
        return Command(sock.fileno(), epoll.fileno(), packet, stdin, body, shell)
    except (BrokenPipeError, ConnectionResetError) as error:
        raise SandboxLostError("the sandbox has died") from error
    except OSError as error:
        raise named(error) from None
