"""Programs that are started for each measurement, and plain processes as peers."""

from __future__ import annotations

import functools
import os
import subprocess
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

from sandbox_runtime.bench.rounds import Candidate
from sandbox_runtime.errors import SandboxError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from sandbox_runtime.bench.rounds import Once, Stopwatch

TRUE = "/bin/true"
CLEAN_ENV = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


class PeerFailedError(SandboxError):
    """A peer did not do what was asked for; nothing was measured."""

    code = "peer_failed"


def start(argv: Sequence[str], stdout: int | None = None) -> int:
    """posix_spawn(3), which is vfork and exec; its pid. What it prints goes to a descriptor."""
    actions: list[Any] = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0),
    ]
    if stdout is None:
        actions.append((os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0))
    else:
        actions.append((os.POSIX_SPAWN_DUP2, stdout, 1))
    return os.posix_spawn(argv[0], list(argv), CLEAN_ENV, file_actions=actions)


def finish(argv: Sequence[str], pid: int) -> None:
    """waitpid(2), and that it went well."""
    _, status = os.waitpid(pid, 0)
    if status != 0:
        code = os.waitstatus_to_exitcode(status)
        raise PeerFailedError(f"{' '.join(argv[:6])} … ended with status {code}")


def spawn(argv: Sequence[str]) -> None:
    """Starts a program and waits for its end."""
    finish(argv, start(argv))


def spawn_seen(argv: Sequence[str], stopwatch: Stopwatch, expected: bytes) -> None:
    """Starts a program and times it until what it prints has come."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        with stopwatch:
            pid = start(argv, writer)
            os.close(writer)
            writer = -1
            seen = b""
            while expected not in seen and (piece := os.read(reader, 65536)):
                seen += piece
        finish(argv, pid)
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)
    if expected not in seen:
        raise PeerFailedError(f"{argv[0]} printed {seen!r}")


def opened(once: Once) -> Callable[[], AbstractAsyncContextManager[Once]]:
    """A candidate's `open` that has nothing to prepare."""

    @asynccontextmanager
    async def open_it() -> AsyncIterator[Once]:
        yield once

    return open_it


def spawning(argv: Sequence[str]) -> Callable[[], AbstractAsyncContextManager[Once]]:
    """A candidate's `open` for a program that is spawned, without any Python around the wait."""

    async def once(stopwatch: Stopwatch) -> None:
        await trio.lowlevel.checkpoint()
        with stopwatch:
            spawn(argv)

    return opened(once)


def asking(
    argv: Sequence[str], line: bytes, answer: bytes, env: Mapping[str, str]
) -> Callable[[], AbstractAsyncContextManager[Once]]:
    """A candidate's `open` for a program that stays and answers each line with one.

    Args:
        argv: What starts it; it prints a line when it is ready.
        line: What it is asked.
        answer: What it has to answer.
        env: Its environment.
    """

    @asynccontextmanager
    async def open_it() -> AsyncIterator[Once]:
        with subprocess.Popen(  # noqa: ASYNC220 - one measurement at a time, nothing else shall run
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env
        ) as process:
            stdin, stdout = process.stdin, process.stdout
            assert stdin is not None
            assert stdout is not None

            async def once(stopwatch: Stopwatch) -> None:
                await trio.lowlevel.checkpoint()
                with stopwatch:
                    stdin.write(line)
                    stdin.flush()
                    answered = stdout.readline()
                if answered != answer:
                    raise PeerFailedError(f"answered {answered!r}")

            try:
                stdout.readline()
                yield once
            finally:
                process.kill()

    return open_it


@functools.cache
def version_of(program: str, option: str = "--version") -> str:
    """The first line in which a program names its version."""
    done = subprocess.run(
        [program, option], capture_output=True, text=True, check=False, timeout=20, env=CLEAN_ENV
    )
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return next((line for line in lines if any(mark.isdigit() for mark in line)), "")[:60]


def raw() -> Candidate:
    """`vfork` and `exec` of /bin/true: the floor."""
    return Candidate(name="posix_spawn", open=spawning([TRUE]))


def by_subprocess() -> Candidate:
    """Python's usual way to run /bin/true and read what it prints."""

    async def once(stopwatch: Stopwatch) -> None:
        await trio.lowlevel.checkpoint()
        with stopwatch:
            subprocess.run([TRUE], check=True, capture_output=True, env=CLEAN_ENV)

    return Candidate(name="subprocess.run, captured", open=opened(once))


def bash(command: str) -> Candidate:
    """A shell started for each command."""
    return Candidate(name=f"bash -c {command}", open=spawning(["/bin/bash", "-c", command]))
