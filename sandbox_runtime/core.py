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
core_path: str = _core.__file__
VERSION = _core.version


def send_command(
    sock: socket.socket, epoll: select.epoll, packet: bytes, stdin: int, body: int | None
) -> Command:
    """Sends a session's shell a request with its descriptors, which stay the caller's.

    Raises:
        BlockingIOError: There is no room for it.
        HostLimitError: Something of this user's is used up; nothing was sent.
        SandboxLostError: The shell has died.
    """
    try:
        return Command(sock.fileno(), epoll.fileno(), packet, stdin, body)
    except (BrokenPipeError, ConnectionResetError) as error:
        raise SandboxLostError("the sandbox has died") from error
    except OSError as error:
        raise named(error) from None
