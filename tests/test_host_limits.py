"""What the kernel counts for the whole user, as sandboxes of an ordinary user share it.

To use such a count up would stop the machine's other programs of this user, so the kernel's refusal
is put in its place.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from sandbox_runtime import HostLimitError
from sandbox_runtime.channel import Channel, packet_pair, send_some
from sandbox_runtime.core import send_command
from sandbox_runtime.messages import Failure
from sandbox_runtime.pidfds import wait_process_end
from sandbox_runtime.server.replies import reason_of, row_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox_runtime import Sandbox

wait_readable = trio.lowlevel.wait_readable


async def refuse_pidfds(waited_for: object) -> None:
    """As `wait_readable` once the user has as many epoll watches as it may, for pidfds."""
    if isinstance(waited_for, int) and "pidfd" in str(
        Path(f"/proc/self/fd/{waited_for}").readlink()
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    await wait_readable(waited_for)  # type: ignore[arg-type]


@pytest.fixture
def _no_epoll_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trio.lowlevel, "wait_readable", refuse_pidfds)


@pytest.fixture
def sleeper() -> Iterator[tuple[int, int]]:
    """A child that sleeps, and its pidfd."""
    with subprocess.Popen(["sleep", "1000"]) as child:
        fd = os.pidfd_open(child.pid)
        try:
            yield child.pid, fd
        finally:
            os.close(fd)
            child.kill()


@pytest.mark.usefixtures("_no_epoll_watches")
async def test_a_context_is_deleted_where_its_end_cannot_be_watched(sandbox: Sandbox) -> None:
    """Which frees what it may have used up."""
    context = await sandbox.contexts.create("python")
    init = os.dup(context._interpreter._jail._fds[0])
    try:
        await sandbox.contexts.delete(context.id)
        assert select.select([init], [], [], 0)[0], "a process that has ended is readable"
    finally:
        os.close(init)


@pytest.mark.usefixtures("_no_epoll_watches")
async def test_the_end_of_a_process_is_waited_for_without_epoll(sleeper: tuple[int, int]) -> None:
    pid, pidfd = sleeper
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_process_end, pidfd)
        await trio.testing.wait_all_tasks_blocked()
        os.kill(pid, signal.SIGKILL)


@pytest.mark.usefixtures("_no_epoll_watches")
async def test_a_wait_without_epoll_can_be_cancelled(sleeper: tuple[int, int]) -> None:
    """And the process goes on."""
    _, pidfd = sleeper
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_process_end, pidfd)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert not select.select([pidfd], [], [], 0)[0], "a process that has ended is readable"


class FullSocket:
    """As a socket of a user who has as many descriptors on their way as may be."""

    def sendmsg(self, *_: object) -> int:
        """Refuses."""
        raise OSError(errno.ETOOMANYREFS, os.strerror(errno.ETOOMANYREFS))


def test_descriptors_that_cannot_be_sent_are_told_of_with_the_remedy() -> None:
    """In words, as something to try again."""
    with pytest.raises(HostLimitError, match=r"no descriptors to send .* End the") as told:
        send_some(FullSocket(), b"x", (0,))  # type: ignore[arg-type]
    assert told.value.errno == errno.ETOOMANYREFS
    assert told.value.retryable


async def test_an_answer_that_cannot_be_watched_for_is_told_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def refuse(_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(trio.lowlevel, "wait_readable", refuse)
    ours, theirs = packet_pair()
    channel: Channel[object] = Channel(ours, object)
    with theirs, pytest.raises(HostLimitError, match="no epoll watches"):
        await channel.receive()
    channel.close()


def test_a_command_that_cannot_be_watched_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("sandbox_runtime.core.Command", refuse)
    ours, theirs = packet_pair()
    with ours, theirs, select.epoll() as epoll, pytest.raises(HostLimitError):
        send_command(ours, epoll, b"x", 0, None)


async def test_a_context_survives_a_run_that_could_not_be_sent(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of it has gone out."""
    context = await sandbox.contexts.create("python")
    await context.run("kept = 1")

    def refuse(*_: object) -> None:
        raise OSError(errno.ETOOMANYREFS, os.strerror(errno.ETOOMANYREFS))

    with monkeypatch.context() as patch:
        patch.setattr("sandbox_runtime.core.Command", refuse)
        patch.setattr("sandbox_runtime.interpreters.interpreter.send_some", _send_to_full)
        for code in ("print(2)", "# " + "long" * 100_000):
            with pytest.raises(HostLimitError):
                await context.run(code)
    assert (await context.run("print(kept)")).stdout == b"1\n"


def _send_to_full(_: object, data: bytes, fds: tuple[int, ...] = ()) -> int:
    return send_some(FullSocket(), data, fds)  # type: ignore[arg-type]


def test_a_sandbox_that_could_not_tell_that_it_is_there_may_be_asked_for_again() -> None:
    """The machine lacks nothing that `doctor` would see."""
    failure = Failure(step="send_message", errno=errno.ETOOMANYREFS, subject="")
    error = failure.as_error()
    assert row_of(error).status == 503
    assert row_of(error).code == "BUSY"
    assert "doctor" not in reason_of(error)


async def test_a_command_whose_output_cannot_be_watched_says_why(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(waited_for: object) -> None:
        if isinstance(waited_for, select.epoll):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        await wait_readable(waited_for)  # type: ignore[arg-type]

    session = await sandbox.create_session()
    with monkeypatch.context() as patch:
        patch.setattr(trio.lowlevel, "wait_readable", refuse)
        with pytest.raises(HostLimitError, match="no epoll watches"):
            await session.exec("read -t 1000 < <(sleep 1000)")
