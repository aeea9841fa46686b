"""The bash of a session, in a jail of its own.

The shell runs a builtin of ours that takes one command a packet, with the command's own pipes
as descriptors, and answers with one packet when it is over. So the end of a command is exact, no
text is looked for in its output, and no file is written.

What belongs to a command, when it has to be ended: every process of the jail but init, the shell,
and what was there when the command began, which trio reads from the kernel's `children` files
just before it sends the command.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from typing import TYPE_CHECKING

import trio

from sandbox_runtime import core
from sandbox_runtime.channel import close_all, memory_file, packet_pair
from sandbox_runtime.errors import NotStartedError
from sandbox_runtime.messages import Execute, encode_env
from sandbox_runtime.shell_protocol import (
    ANSWER_BYTES,
    INLINE_BYTES,
    End,
    decode_answer,
    encode_request,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    from sandbox_runtime.jail import Jail
    from sandbox_runtime.keeper import Keeper

_SETUP = b"enable -f /proc/self/fd/4 sandbox_session; sandbox_session 3 4\n"
_BASH = "A session needs bash 4.4 or newer that can load builtins, as distributions build it"
_SHORT_BYTES = 2048  # of a text that is looked at for what it starts


class Shell:
    """One bash in its jail, from its start to its end; never used again after that.

    Attributes:
        handed_over_s: When it was given to a session that is younger (`time.monotonic`), until its
            first command tells it.
    """

    def __init__(self, jail: Jail, sock: socket.socket, pid: int) -> None:
        sock.setblocking(False)
        self._socket = sock
        self.epoll = select.epoll()  # one for all commands, which would need three calls each
        self.epoll.register(sock, select.EPOLLIN)
        self._seq = 0
        self._end: End | None = None
        self.handed_over_s: float | None = None
        self.jail = jail
        fd = jail.program_pidfd
        self._process = None if fd is None else core.Neighbour(fd)
        self._is_short = False
        self.pid = pid
        self.lost = False
        self.hung_up = False

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def alive(self) -> bool:
        """Whether it waits for a command. It says nothing then, so what comes is its end."""
        return not self.lost and self.jail.alive and not self.epoll.poll(0)

    async def take(self) -> bool:
        """Receives one packet, if there is one. True: the command is over, or the shell is."""
        try:
            packet = self._socket.recv(4096)
        except BlockingIOError:
            return False
        except OSError:
            packet = b""
        return self.accept(packet)

    def accept(self, answer: bytes) -> bool:
        """Takes one packet; True when the command is over, or the shell is."""
        if len(answer) != ANSWER_BYTES:
            self.lost, self.hung_up = True, not answer
            return True
        said = decode_answer(answer)
        if said is None or (isinstance(said, End) and said.seq != self._seq):
            return False  # not an answer to what was asked; the deadline still holds
        if isinstance(said, End):
            self._end = said
        return True

    def mark(self) -> bytes:
        """Which processes are there now: init's and the shell's children, see `marked`."""
        return core.read_children(self.jail.children_fds)

    def marked(self, mark: bytes) -> tuple[int, ...]:
        """The pids of a mark but for the shell: the roots of earlier jobs."""
        return tuple(sorted(set(map(int, mark.split())) - {self.pid}))

    def encode(
        self, command: bytes | tuple[bytes, ...], cwd: str | None, env: Mapping[str, str]
    ) -> tuple[bytes, bytes]:
        """The next request; InvalidArgumentError if it is beyond what one can hold."""
        self._seq += 1
        # A program, or a builtin, and its words. A shell that forks for more is better off where
        # it is: its children go elsewhere, and would be waited for from here.
        self._is_short = isinstance(command, tuple) or (
            len(command) < _SHORT_BYTES and core.plain_words(command) is not None
        )
        age_s = None
        if self.handed_over_s is not None:
            age_s = int(time.monotonic() - self.handed_over_s)
        return encode_request(self._seq, command, cwd, env, session_age_s=age_s)

    def send(self, header: bytes, body: bytes, stdin: memoryview) -> core.Command:
        """Asks the shell to run what `encode` made.

        Raises:
            BlockingIOError: There is no room for it, see `wait_room`.
            SandboxLostError: The shell has died.
        """
        self._end = None
        body_fd = None
        # One of its own, with nothing to read: an open file has flags, and may be locked.
        null_flags = os.O_RDONLY | os.O_CLOEXEC
        stdin_fd = memory_file("stdin", stdin) if stdin else os.open(os.devnull, null_flags)
        files = [stdin_fd]
        try:
            if len(body) > INLINE_BYTES:
                body_fd = memory_file("command", body)
                files.append(body_fd)
            packet = header + body if body_fd is None else header
            called = self._process if self._is_short else None
            sent = core.send_command(self._socket, self.epoll, packet, stdin_fd, body_fd, called)
            self.handed_over_s = None
            return sent
        finally:
            close_all(files)

    async def wait_room(self) -> None:
        """Waits until there may be room for a request."""
        await trio.lowlevel.wait_writable(self._socket)

    @property
    def end(self) -> End | None:
        """The answer, once the command is over; None when the shell is."""
        return self._end

    async def aclose(self) -> None:
        self._process = None
        self.epoll.close()
        self._socket.close()
        await self.jail.aclose()


class StartingShell:
    """A bash that was asked for and does not take commands yet."""

    def __init__(self, jail: Jail, sock: socket.socket) -> None:
        self._socket = sock
        self._jail = jail

    async def finish(self) -> Shell:
        """Waits until it takes commands; if it never will, it is gone.

        Raises:
            NotStartedError: There is no such directory, or no bash that can serve a session.
            SandboxLostError: The sandbox has died.
        """
        async with contextlib.AsyncExitStack() as undo:
            undo.push_async_callback(self.aclose)
            shell = Shell(self._jail, self._socket, await _started(self._jail))
            undo.push_async_callback(shell.aclose)
            while not await shell.take():
                await trio.lowlevel.wait_readable(self._socket)
            if shell.lost:
                await self._jail.wait_exited()  # or it was not bash that failed, but the sandbox
                raise NotStartedError(
                    "execute",
                    0,
                    "bash",
                    why="it did not load the builtin of a session",
                    remedy=_BASH,
                )
            undo.pop_all()
        return shell

    async def aclose(self) -> None:
        """Ends it."""
        self._socket.close()
        await self._jail.aclose()


async def begin_shell(keeper: Keeper, cwd: str, env: Mapping[str, str]) -> StartingShell:
    """Asks for a bash in a jail of its own, also of a sandbox that is not there yet.

    Raises:
        SandboxLostError: The sandbox has died.
    """
    program = Execute(
        argv=(b"bash", b"--norc", b"--noprofile"),
        env=encode_env(env),
        cwd=os.fsencode(cwd),
        watch_children=True,
    )
    ours, theirs = packet_pair()
    with contextlib.ExitStack() as undo, contextlib.ExitStack() as given:
        undo.callback(ours.close)
        given.callback(theirs.close)
        script_read, script_write = os.pipe2(os.O_CLOEXEC)
        given.callback(os.close, script_read)
        with open(script_write, "wb", buffering=0) as script:
            script.write(_SETUP)
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        given.callback(os.close, null)
        fds = [script_read, null, null, theirs.fileno(), keeper.shell_builtin()]
        jail = await keeper.create_jail(program, fds)
        undo.pop_all()
    return StartingShell(jail, ours)


async def start_shell(keeper: Keeper, cwd: str, env: Mapping[str, str]) -> Shell:
    """Starts a bash in a jail of its own and waits until it takes commands.

    Raises:
        NotStartedError: There is no such directory, or no bash that can serve a session.
        SandboxLostError: The sandbox has died.
    """
    return await (await begin_shell(keeper, cwd, env)).finish()


async def _started(jail: Jail) -> int:
    try:
        return await jail.wait_started()
    except NotStartedError as error:
        if error.step == "execute":
            error.add_note("a session needs bash: install it where the sandbox sees it (/usr)")
        raise
